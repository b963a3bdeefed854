"""The array API engine: row-wise stability, the adjoint in the space of rows, singular systems."""

from __future__ import annotations

import numpy as np
import pytest

import smnn_core as smnn
from benchmarks import adjoint, exact, singular
from smnn_core._constraints import weighted
from smnn_core._problem import Problem
from smnn_core.engines.array_api import ArrayEngine

Array = np.ndarray


@pytest.mark.parametrize("scheme", [smnn.TAYLOR, smnn.HERMITE], ids=lambda s: s.name)
@pytest.mark.parametrize("T", [2, 3, 4, 5, 8, 13])
def test_multipliers_are_the_transposed_pseudo_inverse(T: int, scheme: smnn.Scheme) -> None:
    rng = np.random.default_rng(T)
    arguments = rng.normal(size=(2, T, 2, 2, 3)), rng.normal(size=(T, 2)), rng.normal(size=(1, 2, 3))
    arguments = *arguments, rng.uniform(0.2, 0.5, T - 1)
    A, _ = smnn.dense_system(*arguments, scheme=scheme)
    g = rng.normal(size=(2, T, 2, 3))
    options = {"n_initial_steps": 1, "n_initial_orders": 3, "scheme": scheme, "engine": "array_api"}
    v = smnn.factorize(arguments[0], arguments[3], **options).factor.augmented(None, g)[0]
    found = np.concatenate([x.reshape(2, -1) for x in v], axis=-1)
    expected = np.linalg.pinv(A).swapaxes(-1, -2) @ g.reshape(2, -1, 1)
    np.testing.assert_allclose(found, expected[..., 0], atol=1e-13 * np.linalg.cond(A).max() * np.abs(g).max())


@pytest.mark.parametrize("scheme", [smnn.TAYLOR, smnn.HERMITE], ids=lambda s: s.name)
@pytest.mark.parametrize("T", [2, 5, 8])
def test_residual_rows_are_what_the_solution_leaves(T: int, scheme: smnn.Scheme) -> None:
    rng = np.random.default_rng(T)
    arguments = rng.normal(size=(2, T, 2, 2, 3)), rng.normal(size=(T, 2)), rng.normal(size=(1, 2, 3))
    problem = Problem.build(*arguments, np.full(T - 1, 0.3), scheme=scheme)
    r = ArrayEngine().factorize(problem.system).augmented(weighted(problem.system.weights, problem.rows), None)[0]
    found = np.concatenate([x.reshape(2, -1) for x in r], axis=-1)
    A, d = smnn.dense_system(*arguments, np.full(T - 1, 0.3), scheme=scheme)
    expected = [b - a @ np.linalg.lstsq(a, b)[0] for a, b in zip(A, d, strict=True)]
    np.testing.assert_allclose(found, expected, atol=1e-14 * np.linalg.cond(A).max() * np.linalg.norm(d))


@pytest.mark.parametrize("name", adjoint.PROBLEMS)
def test_gradients_keep_their_digits(name: str) -> None:
    """Short steps, equations of very different size, an equation given twice, a long step."""
    assert adjoint.errors(adjoint.PROBLEMS[name]())["array_api"] < 1e-10


@pytest.mark.parametrize(("order", "K"), [(1, 3), (2, 4), (3, 4), (4, 5), (3, 5)])
@pytest.mark.parametrize("V", [1, 2])
def test_clusters_of_points(order: int, K: int, V: int) -> None:
    """Steps from 1e-5 to 0.25, weights (s_ref / s)^(R + 1/2): errors of the size that rounding the input causes."""
    rng = np.random.default_rng(order)
    T = 60
    s = np.where(rng.uniform(size=T - 1) < 0.7, 10 ** rng.uniform(-5, -3, T - 1), rng.uniform(0.05, 0.25, T - 1))
    c, b, u, _ = adjoint.problem(order, K, s, Q=V)
    weight = (np.exp(np.log(s).mean()) / s) ** (K - 0.5)
    scheme = smnn.Scheme("unweighted", "", smnn.HERMITE.rule)
    rows = (c, s, np.ones(b.shape), np.ones(u.shape), weight, scheme)
    y, moved = (exact.Solver(exact.rows(*rows, relative=x)).solve(b, u) for x in (0.0, 1e-16))
    found = smnn.solve_ode(
        c, b, u, s, scheme=scheme, weights=smnn.Weights(smoothness=weight), engine="array_api"
    ).reshape(y.shape[0], V, K)
    y, moved = (x.reshape(found.shape) for x in (y, moved))
    size = np.abs(y).max(axis=0)
    assert np.all(np.abs(found - y).max(axis=0) <= 1e-10 * size + 100 * np.abs(moved - y).max(axis=0))


def test_singular_systems_are_not_missed() -> None:
    missed = [str(x) for x in singular.draw_singular(150, 3, largest=60) if not singular.is_refused(x, "array_api")]
    assert not missed


def test_well_posed_systems_are_not_refused() -> None:
    refused = [str(x) for x in singular.draw_well_posed(60, 3, largest=60) if singular.is_refused(x, "array_api")]
    assert not refused


@pytest.mark.parametrize(("order", "step"), [(3, 3e-7), (4, 2e-5), (5, 3e-4)])
def test_very_short_steps_are_no_reason_to_refuse(order: int, step: float) -> None:
    c, b, u, s = adjoint.problem(order, order + 1, np.full(99, step))
    y = smnn.solve_ode(c, b, u, s, engine="array_api")
    np.testing.assert_allclose(y[-1, 0, 0], u[0, 0, 0], atol=2 * 100 * step * np.abs(u).max())


def test_a_zero_equation_is_found_at_any_length() -> None:
    for T in (3, 300, 1000):
        problem = Problem.build(
            np.zeros((T, 1, 1, 3)), np.ones((T, 1)), np.ones((1, 1, 2)), np.full(T - 1, 0.1), scheme=smnn.HERMITE
        )
        assert ArrayEngine().factorize(problem.system).undetermined.any()


def test_float32_is_rounded_once() -> None:
    """Third order, s = 0.003, where float32 arithmetic has no digit: the same numbers in float64, rounded."""
    c, b, u, s = (x.astype(np.float32) for x in adjoint.problem(3, 4, np.full(199, 0.003)))
    y, vjp = smnn.solve_ode_vjp(c, b, u, s, engine="array_api")
    wide, wide_vjp = smnn.solve_ode_vjp(*(x.astype(np.float64) for x in (c, b, u, s)), engine="array_api")
    gradients, expected = vjp(np.ones_like(y)), wide_vjp(np.ones_like(wide))
    for x, other in zip((y, *gradients[:4]), (wide, *expected[:4]), strict=True):
        assert x.dtype == np.float32
        np.testing.assert_allclose(x, other, rtol=0, atol=2e-7 * np.abs(other).max())
