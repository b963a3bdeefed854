"""Both engines where one solve leaves few digits: short steps, high orders, steps that differ by 10^4."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import pytest

import smnn_core as smnn
from benchmarks import adjoint, exact, grids
from smnn_core._schemes import Hermite
from smnn_core.engines import cpu

ENGINES = ["array_api"] + (["cpu"] if cpu._kernels else [])


@pytest.mark.parametrize(("order", "R"), [(1, 3), (2, 3), (2, 4), (2, 5), (3, 5)])
@pytest.mark.parametrize("scheme", [smnn.HERMITE, smnn.WIENER], ids=lambda s: s.name)
@pytest.mark.parametrize("engine", ENGINES)
def test_a_smooth_solution_on_clusters_of_points(order: int, R: int, scheme: smnn.Scheme, engine: str) -> None:
    t = grids.clusters(np.random.default_rng(0))[:60]
    c, b, u, s = grids.problem(t, 1.0, grids.EQUATIONS[order], R)
    system = np.broadcast_to(c, (len(t), *c.shape[1:])), s, np.ones(b.shape), np.ones(u.shape), np.ones(len(s)), scheme
    y, moved = (exact.Solver(exact.rows(*system, relative=x)).solve(b, u) for x in (0.0, 1e-16))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", smnn.AccuracyWarning)  # the fifth derivative of HERMITE
        found = smnn.solve_ode(c, b, u, s, scheme=scheme, engine=engine).reshape(y.shape)
    size = np.abs(y).max(axis=0)
    error, moved = (np.abs(x - y).max(axis=0) / size for x in (found, moved))
    assert np.all(error[:4] <= 1e-10 + 100 * moved[:4])


def test_digits_that_refinement_does_not_find_are_told() -> None:
    """Steep weights, R = 5, on clusters: y has six digits, its fifth derivative none."""
    scheme = replace(smnn.HERMITE, rule=Hermite(1e-2), exponent=5.5)
    t = grids.clusters(np.random.default_rng(0))
    c, b, u, s = grids.problem(t, 1.0, grids.EQUATIONS[2], 5)
    with pytest.warns(smnn.AccuracyWarning, match="smaller R"):
        y = smnn.solve_ode(c, b, u, s, scheme=scheme, engine="array_api")
    whole = np.broadcast_to(c, (len(t), *c.shape[1:])), s, np.ones(b.shape), np.ones(u.shape), np.ones(len(s))
    expected = exact.Solver(exact.rows(*whole, scheme)).solve(b, u)
    np.testing.assert_allclose(y[:, 0, 0], expected[:, 0], atol=2e-5)


@pytest.mark.parametrize("engine", ENGINES)
def test_short_steps_and_spare_orders(engine: str) -> None:
    """A fourth-order equation with R = 5 and s = 4e-5.

    One solve errs by eps times the condition number of the rows, scaled to unit columns; a step of refinement by that
    times as much of the error before.
    """
    c, b, u, s = adjoint.problem(4, 6, np.full(59, 4e-5))
    expected = exact.Solver(exact.rows(c, s, np.ones(b.shape), np.ones(u.shape), np.ones(len(s)), smnn.HERMITE)).solve(
        b, u
    )
    A, _ = smnn.dense_system(c, b, u, s)
    for axis in (0, 1, 0):
        A = A / np.linalg.norm(A, axis=axis, keepdims=True)
    y = smnn.solve_ode(c, b, u, s, engine=engine).reshape(expected.shape)
    size = np.abs(expected).max(axis=0)
    assert np.all(np.abs(y - expected).max(axis=0) <= (np.linalg.cond(A) * np.finfo(np.float64).eps) ** 2 * size)


@pytest.mark.parametrize("name", list(adjoint.PROBLEMS))
def test_gradients_keep_nine_digits(name: str) -> None:
    """The table of the page on the derivative; W A λ, which squares the condition number, has no digit in some rows.

    The engine for GPUs has it in `tests/cuda/test_gradients.py`.
    """
    engines = adjoint.ENGINES if cpu._kernels else ("array_api",)
    found = adjoint.errors(adjoint.PROBLEMS[name](), engines)
    assert max(found[engine] for engine in engines) < adjoint.BOUND


def test_derivatives_of_a_constant_are_no_reason_to_warn() -> None:
    c = np.zeros((1, 1, 1, 4))
    c[..., 1] = 1
    y = smnn.solve_ode(c, np.zeros((50, 1)), np.ones((1, 1, 1)), np.full(49, 1e-3), engine="array_api")
    np.testing.assert_allclose(y[:, 0, 0], 1, rtol=1e-14)
