"""Entries of very different size within a row, against arithmetic of 1200 bits: light rows keep their digits, and a
result that has not said so."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import smnn_core as smnn
from smnn_core._weighting import weighted_problem
from smnn_core.engines import cpu
from smnn_core.extend import Problem, adjoint_without_factor

exact = pytest.importorskip("benchmarks.exact", reason="needs python-flint")
needs_kernels = pytest.mark.skipif(cpu._kernels is None, reason="the kernels are not compiled here")

Arrays = tuple[np.ndarray, ...]


def reference(c: np.ndarray, s: np.ndarray, u: np.ndarray) -> Any:
    """The solver in 1200 bits, and in 4000 where entries need them."""
    return exact.Solver(exact.rows(c, s, np.ones(c.shape[:2]), np.ones(u.shape), np.ones(len(s)), smnn.HERMITE))


def error(y: np.ndarray, arrays: Arrays) -> float:
    """The largest, beside the largest value of each order."""
    c, b, u, s = arrays
    expected = reference(c, s, u).solve(b, u).reshape(len(b), *c.shape[-2:])
    return float((abs(y - expected).max(axis=(0, 1)) / abs(expected).max(axis=(0, 1))).max())


def slow_relaxation(K: int, size: float, step: float) -> Arrays:
    """size y' + y = size sin t."""
    T = 20
    c = np.zeros((T, 1, 1, K))
    c[..., 0], c[..., 1] = 1.0, size
    return c, size * np.sin(np.arange(T))[:, None], np.ones((1, 1, 1)), np.full(T - 1, step)


def random_problem(seed: int, sizes: list[float], most_variables: int = 2) -> Arrays:
    rng = np.random.default_rng([seed, 7])
    T, V, K = int(rng.integers(2, 5)), int(rng.integers(1, most_variables + 1)), int(rng.integers(2, 4))
    Q = int(rng.integers(1, V * K + 2))
    c = rng.uniform(-1, 1, (T, Q, V, K)) * rng.choice(sizes, (T, Q, V, K))
    return c, rng.uniform(-1, 1, (T, Q)), rng.uniform(-1, 1, (1, V, int(rng.integers(0, K)))), np.full(T - 1, 0.1)


@needs_kernels
@pytest.mark.parametrize("engine", ["cpu", "blocks", "array_api"])
@pytest.mark.parametrize("K", [2, 4])
@pytest.mark.parametrize("size", [1e8, 1e12])
def test_a_heavy_derivative_behind_a_light_value(size: float, K: int, engine: str) -> None:
    arrays = slow_relaxation(K, size, 0.01)
    assert error(smnn.solve_ode(*arrays, engine=engine), arrays) < 1e-13
    c, b, u, s = arrays
    f = smnn.factorize(c, s, n_initial_steps=1, n_initial_orders=1, engine=engine)
    assert error(f.solve(b, u), arrays) < 1e-13
    assert error(smnn.posterior(*arrays, scheme=smnn.HERMITE, engine=engine).mean, arrays) < 1e-13


@needs_kernels
@pytest.mark.parametrize("coefficients", [(1.0, 0.1, 1.0, 0.0), (1.0, 0.0, 0.0, 1.0, 0.0)])
def test_derivatives_to_spare_on_very_short_steps(coefficients: tuple[float, ...]) -> None:
    T, K = 20, len(coefficients)
    c = np.broadcast_to(np.array(coefficients), (T, 1, 1, K)).copy()
    arrays = c, np.zeros((T, 1)), np.ones((1, 1, K - 2)), np.full(T - 1, 1e-5)
    assert error(smnn.solve_ode(*arrays), arrays) < 1e-7


# (numbers of problems of which one elimination left no more than one to seven digits)
@needs_kernels
@pytest.mark.parametrize("seed", [*range(20), 187, 559, 784, 944, 1222, 1938, 2002])
def test_entries_of_1_and_1e8_in_any_place(seed: int) -> None:
    arrays = random_problem(seed, [0, 1, 1e8])
    try:
        y = smnn.solve_ode(*arrays)
    except smnn.SingularSystemError:
        with pytest.raises(exact.Undecided):
            reference(arrays[0], arrays[3], arrays[2])
    else:
        assert error(y, arrays) < 1e-7


# (of which two pivots in a row are so small that products of their squares underflow)


def with_tiny_entries(seed: int) -> Arrays:
    rng = np.random.default_rng([seed, 3])
    T, V, K = int(rng.integers(2, 4)), int(rng.integers(1, 4)), int(rng.integers(2, 4))
    Q = int(rng.integers(1, V * K + 2))
    c = rng.uniform(-1, 1, (T, Q, V, K)) * rng.choice([0, 1, 1e8, 1e-110], (T, Q, V, K))
    b, R_init = rng.uniform(-1, 1, (T, Q)), int(rng.integers(0, K))
    return c, b, rng.uniform(-1, 1, (1, V, R_init)), np.full(T - 1, 0.1)


@needs_kernels
@pytest.mark.parametrize("seed", [140, 903, 1709, 1895, 3582, 3712])
def test_tiny_entries_beside_large_ones(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Forward, backward, and with a factor of one's own."""
    monkeypatch.setattr(exact, "BITS", 4000)
    c, b, u, s = arrays = with_tiny_entries(seed)
    y, vjp = smnn.solve_ode_vjp(*arrays)
    assert error(y, arrays) < 1e-9
    f = smnn.factorize(c, s, n_initial_steps=1, n_initial_orders=u.shape[-1])
    assert error(f.solve(b, u), arrays) < 1e-9

    g = np.zeros_like(y)
    g[0, 0, 0], g[-1, -1, -1] = 1.0, -2.0
    solver = reference(c, s, u)
    expected = np.zeros_like(b)
    for at in np.ndindex(b.shape):
        one = np.zeros_like(b)
        one[at] = 1.0
        expected[at] = (g * solver.solve(one, 0 * u).reshape(y.shape).astype(np.float64)).sum()
    problem = weighted_problem(Problem.build(*arrays, scheme=smnn.HERMITE, weights=smnn.Weights()))
    for gradient in (vjp(g).rhs, adjoint_without_factor(problem, y, g).rhs):
        np.testing.assert_allclose(gradient, expected, rtol=1e-5, atol=1e-5 * abs(expected).max())
