"""The initial-value problems of the benchmark are what they say, and its tables show what was measured."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("scipy", reason="closed forms and peers of the problems come from SciPy")
pytest.importorskip("tqdm", reason="the benchmarks need tqdm")

from scipy.integrate import solve_ivp
from scipy.special import ellipkinc

from benchmarks import initial
from benchmarks.initial_problems import InitialProblem, batch_field, initial_problems, pendulum, transistor_amplifier
from smnn_core import SparseJacobian

EXPLICIT = [*initial_problems(20), pendulum(1).explicit]
ALGEBRAIC = [pendulum(1), pendulum(2), pendulum(3), transistor_amplifier()]


def name(problem):
    return problem.name


def somewhere(problem, n=3):
    rng = np.random.default_rng(0)
    V, K = problem.variables, problem.order + 1
    y = rng.uniform(0.1, 0.3, (n, V, K)) * np.resize(problem.largest, V)[:, None]
    y[..., 0] += problem.conditions[:, 0] * 0.5
    return rng.uniform(0, problem.end, n), y, rng.normal(size=y.shape) * np.abs(y)


def linearized(problem, t, y):
    """f and J, (n, Q, V, R+1)."""
    f, J = problem.residual(t, y)
    return f, J.dense(f.shape[-1], *y.shape[1:]) if isinstance(J, SparseJacobian) else J


@pytest.mark.parametrize("problem", EXPLICIT, ids=name)
def test_derivatives_are_those_of_the_residual(problem):
    t, y, dy = somewhere(problem)
    ahead, back = (problem.residual(t, y + s * dy)[0] for s in (1e-5, -1e-5))
    terms = linearized(problem, t, y)[1] * dy[:, None]
    size = np.abs(terms).sum((-1, -2))
    assert np.all(np.abs((ahead - back) / 2e-5 - terms.sum((-1, -2))) <= 1e-6 * size + 1e-300)


@pytest.mark.parametrize("problem", EXPLICIT, ids=name)
def test_what_scipy_takes_is_the_same_equation(problem):
    t, y, _ = somewhere(problem, 1)
    z, V, R = problem.states(y)[0], problem.variables, problem.order
    slopes = np.array(problem.derivatives(t[0], z))
    y[..., R] = slopes[-V:]
    f, J = linearized(problem, t, y)
    assert np.all(np.abs(f) <= 1e-12 * np.abs(J * y[:, None]).sum((-1, -2)) + 1e-300)
    matrix = problem.jacobian_matrix(t[0], z)
    for r in range(R):
        np.testing.assert_allclose(matrix[-V:, r * V : (r + 1) * V], -J[0, :, :, r], rtol=1e-12)
    if R == 2:
        np.testing.assert_array_equal(slopes[:V], z[V:])
        np.testing.assert_array_equal(matrix[:V], np.eye(V, 2 * V, V))


@pytest.mark.parametrize("problem", [p for p in EXPLICIT if p.name != "Ring modulator"], ids=name)
def test_integrators_reach_the_references(problem):
    tolerance = 1e-8 if problem.stiff else 1e-12
    error = problem.error(initial.by_scipy(problem, "Radau" if problem.stiff else "DOP853", tolerance))
    assert error < (1e-5 if problem.name != "Arenstorf" else 1e-3)


@pytest.mark.parametrize("problem", ALGEBRAIC, ids=name)
def test_derivatives_of_algebraic_systems(problem):
    rng = np.random.default_rng(1)
    y = rng.uniform(0.5, 0.6, (4, len(problem.order), max(problem.order) + 1))
    t, dy = rng.uniform(0, problem.end, 4), rng.normal(size=y.shape)
    ahead, back = (problem.residual(t, y + s * dy)[0] for s in (1e-6, -1e-6))
    along = np.einsum("tqvr,tvr->tq", problem.residual(t, y)[1], dy)
    np.testing.assert_allclose((ahead - back) / 2e-6, along, rtol=1e-6, atol=1e-6 * np.abs(along).max())


def test_the_pendulum_ends_where_the_angle_says():
    """φ'' = -g sin φ integrated, and the time of a quarter swing from the elliptic integral."""
    g, problem = 9.81, pendulum(3)
    run = solve_ivp(
        lambda t, z: [z[1], -g * np.sin(z[0])], (0, 10), (np.pi / 2, 0), method="DOP853", rtol=1e-12, atol=1e-12
    )
    φ, speed = run.y[:, -1]
    np.testing.assert_allclose(problem.reference, [np.sin(φ), -np.cos(φ), speed**2 + g * np.cos(φ)], rtol=1e-8)
    quarter = ellipkinc(np.pi / 2, 0.5) / np.sqrt(g)
    np.testing.assert_allclose(pendulum(1, quarter).reference, [0, -1, 3 * g], atol=1e-12 * 3 * g)
    x, z, u, v = pendulum(1, 3.0).explicit.reference
    assert x * x + z * z == pytest.approx(1)
    assert x * u + z * v == pytest.approx(0, abs=1e-12)


def test_the_transistor_amplifier_starts_at_rest_but_for_the_drive():
    problem = transistor_amplifier()
    y = np.zeros((1, 8, 2))
    y[0, :, 0] = problem.conditions[:, 0]
    f, J = problem.residual(np.zeros(1), y)
    C = J[0, :, :, 1]
    assert np.linalg.matrix_rank(C) == 5
    left = np.linalg.svd(C)[0][:, 5:].T  # combinations of rows without derivatives
    np.testing.assert_allclose(left @ f[0], 0, atol=1e-8 * np.abs(f).max())


def test_the_batch_is_van_der_pol_in_scaled_time():
    scaled = next(p for p in EXPLICIT if p.name == "van der Pol, 1e-6")
    assert batch_field(1.3, -0.2, 1e3) == pytest.approx(scaled.field(0.0, (1.3, -0.2), np)[0])


def test_the_time_for_an_error_is_that_of_the_fastest_run_that_reaches_it():
    curve = [(1e-3, 1.0), (1e-6, 5.0), (1e-7, 2.0), (np.inf, 0.1)]
    assert initial.seconds_for(curve, 1e-2) == 1.0
    assert initial.seconds_for(curve, 1e-5) == 2.0
    assert initial.seconds_for(curve, 1e-9) == np.inf
    assert initial.cell(curve, 1e-5) == "2e+03"
    assert initial.cell(curve, 1e-9) == "-"
    assert initial.cell([(1e-3, 20.0)], 1e-9) == "> 20000"


def test_ratios_count_what_both_reach():
    results = {
        "small": {"smnn": [(1e-9, 1.0)], "Radau": [(1e-9, 6.0)], "LSODA": [(1e-7, 0.25)]},
        "large": {"smnn": [(1e-9, 1.0)], "Radau": [(1e-9, 2.0)], "LSODA": [(1e-7, 8.0)]},
        "hard": {"smnn": [(1e-3, 1.0)], "Radau": [(1e-9, 1.0)]},
    }
    assert initial.speeds(results, "Radau", (1e-8,), set(results)) == [6.0, 2.0]
    rows = {row[0]: row[1] for row in initial.figures(results, {"small"}).rows}
    assert rows["Radau / ours at 1e-8 and 1e-10"] == "4.00 (2)"
    assert rows["ours / LSODA at 1e-6, up to 10 variables"] == "4.00 (1)"


def test_work_stops_at_the_digits_of_the_reference():
    curve = initial.work(lambda tolerance: np.array(tolerance), float, digits=5)
    assert [error for error, _ in curve] == [1e-3, 1e-4, 1e-5, 1e-6]


def test_errors_are_relative_to_the_reference_or_a_thousandth_of_the_largest_value():
    problem = InitialProblem("", (1.0, 1.0), 1.0, lambda *_: (), lambda *_: {}, (2.0, 0.0), (5.0, 4.0))
    assert problem.error(np.array([[2.0, 0.004]])) == pytest.approx(1)
    assert problem.error(np.array([[2.2, 0.0]])) == pytest.approx(0.1)
    assert problem.error(np.array([[np.nan, 0.0]])) == np.inf
