"""Steps that differ: the weights of the rows across them, and what follows for solutions."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from _assert import assert_close
from _backends import load
from _oracle import solve as dense_solve
from hypothesis import given, settings
from hypothesis import strategies as st

import smnn_core as smnn
from benchmarks import grids

LIBRARIES = ["numpy", "torch", "array_api_strict"]
"""Without JAX, which compiles each call of a test that is not traced: its adapter is tested in tests/jax."""
SCHEMES = {"hermite": smnn.HERMITE, "wiener": smnn.WIENER, "taylor": smnn.TAYLOR}


def oscillator(t: np.ndarray, R: int) -> tuple[np.ndarray, ...]:
    """y'' + 0.3 y' + 4 y = 0, y(0) = 1, y'(0) = 0."""
    c = np.zeros((1, 1, 1, R + 1))
    c[..., :3] = 4.0, 0.3, 1.0
    return c, np.zeros((1, 1)), np.array([[[1.0, 0.0]]]), np.diff(t)


def damped(t: np.ndarray) -> np.ndarray:
    ω = np.sqrt(4 - 0.15**2)
    return np.exp(-0.15 * t) * (np.cos(ω * t) + 0.15 / ω * np.sin(ω * t))


def grid(kind: str, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    if kind == "jitter":
        return np.linspace(0, 10, 201) + np.r_[0, rng.uniform(-0.015, 0.015, 199), 0]
    return np.sort(np.r_[0, rng.uniform(0, 10, 199), 10])


@pytest.mark.parametrize("name", ["hermite", "wiener"])
@pytest.mark.parametrize(("kind", "tolerance"), [("jitter", 3e-4), ("random", 1e-2)])
@pytest.mark.parametrize("seed", range(3))
def test_irregular_times(name: str, kind: str, tolerance: float, seed: int) -> None:
    """A few times the errors of `python -m benchmarks.grids`; without the weights they are of order 1."""
    t = grid(kind, seed)
    y = smnn.solve_ode(*oscillator(t, 3), scheme=SCHEMES[name])
    assert np.abs(y[:, 0, 0] - damped(t)).max() < tolerance


@pytest.mark.parametrize("grid_name", grids.LAYERED)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_meshes_that_follow_a_solution(grid_name: str, dtype: str) -> None:
    """Layers of eps y'' = y: HERMITE errs by at most ten times what p = 0 gives, with a gradient as accurate."""
    worst = grids.errors(grid_name, 2, 4, smnn.HERMITE, "cpu", dtype)
    best = grids.errors(grid_name, 2, 4, replace(smnn.HERMITE, exponent=0.0), "cpu", "float64")
    assert worst["error"] < 10 * best["error"] + 10 * np.finfo(dtype).eps
    assert worst["gradient"] < 0.05
    assert grids.errors(grid_name, 2, 4, smnn.WIENER, "cpu", "float64")["error"] > worst["error"]


@pytest.mark.parametrize(("order", "R"), [(q, R) for q in (1, 2, 3) for R in range(q, 6)])
def test_equations_that_come_to_rest_on_geometric_steps(order: int, R: int) -> None:
    """Long steps of a stiff equation, where solutions that alternate from point to point must not be free."""
    for arguments, exact in grids.problems("geometric", order, R):
        assert np.abs(smnn.solve_ode(*arguments)[:, 0, 0] - exact).max() < 1e-3


@pytest.mark.parametrize("name", list(SCHEMES))
def test_the_exponent_has_no_effect_on_equal_steps(name: str) -> None:
    arguments = oscillator(np.linspace(0, 5, 64), 3)
    scheme = SCHEMES[name]
    weighted = smnn.solve_ode(*arguments, scheme=scheme)
    plain = smnn.solve_ode(*arguments, scheme=smnn.Scheme(scheme.name, scheme.citation, scheme.rule))
    tolerance = dense_solve(*arguments, scheme=scheme).tolerance(np.finfo(np.float64).eps)
    assert np.all(np.abs(weighted - plain) <= tolerance)


@pytest.mark.parametrize(("scheme", "p"), [(smnn.TAYLOR, 0), (smnn.HERMITE, 2), (smnn.WIENER, 2.5)])
def test_rows_are_those_of_the_dense_system_with_the_documented_weights(scheme: smnn.Scheme, p: float) -> None:
    t = grid("random", 0)[:8]
    A, _ = smnn.dense_system(*oscillator(t, 2), scheme=scheme)
    plain, _ = smnn.dense_system(*oscillator(t, 2), scheme=smnn.Scheme("plain", "", scheme.rule))
    s = np.diff(t)
    factor = (np.exp(np.log(s).mean()) / s) ** p
    m = len(scheme.matrices(3)[0])
    np.testing.assert_allclose(A[-m * 7 :], plain[-m * 7 :] * np.repeat(factor, m)[:, None], rtol=1e-12)


@settings(max_examples=10)
@given(st.integers(0, 2**31), st.floats(0.01, 100))
def test_rescaling_time_rescales_derivatives(seed: int, τ: float) -> None:
    """y(t/τ) has derivatives y^(r) / τ^r: coefficients times τ^r, derivatives of initial values divided by it."""
    rng = np.random.default_rng(seed)
    s, powers = rng.uniform(0.1, 1, 11), τ ** np.arange(4.0)
    c, b, u = (
        rng.uniform(-1, 1, (12, 1, 1, 4)) + np.array([3, 0, 1, 0]),
        rng.normal(size=(12, 1)),
        rng.normal(size=(1, 1, 2)),
    )
    y = smnn.solve_ode(c, b, u, s)
    weights = smnn.Weights(initial=powers[:2])
    scaled = smnn.solve_ode(c * powers, b, u / powers[:2], s * τ, weights=weights)
    tolerance = dense_solve(c, b, u, s).tolerance(np.finfo(np.float64).eps)
    assert np.all(np.abs(scaled * powers - y) <= 10 * tolerance)


@pytest.mark.parametrize("name", ["hermite", "wiener"])
def test_splitting_a_step_changes_little(name: str) -> None:
    t = grid("jitter", 1)
    i = 57
    finer = np.insert(t, i + 1, (t[i] + t[i + 1]) / 2)
    y = smnn.solve_ode(*oscillator(t, 3), scheme=SCHEMES[name])
    split = np.delete(smnn.solve_ode(*oscillator(finer, 3), scheme=SCHEMES[name]), i + 1, axis=0)
    assert np.abs(split - y)[:, 0, 0].max() <= 2 * np.abs(y[:, 0, 0] - damped(t)).max()


@pytest.mark.parametrize("library", LIBRARIES)
def test_each_system_has_a_reference_step_of_its_own(library: str) -> None:
    backend = load(library)
    rng = np.random.default_rng(3)
    s = rng.uniform(0.1, 1, (4, 1, 9)) * np.array([0.1, 1, 3, 10.0])[:, None, None]
    c, b, u, _ = oscillator(np.arange(10.0), 2)
    weights = smnn.Weights(smoothness=backend.asarray(rng.uniform(0.5, 2, (3, 9))))
    y = smnn.solve_ode(*(backend.asarray(x) for x in (c, b, u, s)), weights=weights)
    own = smnn.Weights(smoothness=np.asarray(backend.to_numpy(weights.smoothness))[2])
    one = dense_solve(c, b, u, s[1, 0], weights=own)
    assert_close(y[1, 2, ...], one.y, backend, atol=one.tolerance(np.finfo(np.float64).eps))


def test_a_number_is_one_step_for_all() -> None:
    c, b, u, _ = oscillator(np.arange(10.0), 2)
    np.testing.assert_array_equal(
        smnn.solve_ode(c, b, u, 0.1, n_steps=10), smnn.solve_ode(c, b, u, np.full(1, 0.1), n_steps=10)
    )


@pytest.mark.parametrize("library", LIBRARIES)
def test_masks_are_weights_of_zero_and_one(library: str) -> None:
    backend = load(library)
    rng = np.random.default_rng(4)
    c, b, u = rng.normal(size=(6, 1, 1, 3)), rng.normal(size=(6, 1)), rng.normal(size=(6, 1, 1))
    mask = rng.uniform(size=(6, 1, 1)) < 0.8
    arrays = [backend.asarray(x) for x in (c, b, u, np.full(5, 0.3))]
    y = smnn.solve_ode(*arrays, weights=smnn.Weights(equation=True, initial=backend.asarray(mask)))
    expected = smnn.solve_ode(*arrays, weights=smnn.Weights(initial=backend.asarray(mask.astype(float))))
    assert_close(y, expected, backend)


@pytest.mark.parametrize("library", LIBRARIES)
def test_values_that_are_nan_are_not_given(library: str) -> None:
    backend = load(library)
    rng = np.random.default_rng(5)
    c, b, u = rng.normal(size=(6, 1, 1, 3)), rng.normal(size=(6, 1)), rng.normal(size=(2, 6, 1, 1))
    given = rng.uniform(size=u.shape) < 0.8
    s = np.full(5, 0.3)
    y = smnn.solve_ode(*(backend.asarray(x) for x in (c, b, np.where(given, u, np.nan), s)))
    weights = smnn.Weights(initial=backend.asarray(given.astype(float)))
    assert_close(y, smnn.solve_ode(*(backend.asarray(x) for x in (c, b, u, s)), weights=weights), backend)


def test_gradient_of_values_that_are_not_given_is_zero() -> None:
    rng = np.random.default_rng(6)
    c, b, u = rng.normal(size=(6, 1, 1, 3)), rng.normal(size=(6, 1)), rng.normal(size=(6, 1, 1))
    u[2] = np.nan
    y, vjp = smnn.solve_ode_vjp(c, b, u, np.full(5, 0.3), weights=smnn.Weights(initial=np.full((6, 1, 1), 2.0)))
    gradients = vjp(np.ones_like(y))
    for x in (gradients.initial_values, gradients.weights.initial):
        assert x[2] == 0
        assert np.isfinite(x).all()


@pytest.mark.parametrize("library", LIBRARIES)
def test_zero_step_among_steps_that_differ(library: str) -> None:
    backend = load(library)
    c, b, u, s = oscillator(np.arange(6.0), 2)
    s[2] = 0.0
    with pytest.raises(smnn.ArgumentError, match="step_sizes contains a zero"):
        smnn.solve_ode(*(backend.asarray(x) for x in (c, b, u, s)))
