"""Nonlinear problems through `solve`: what it solves, and what it says where it fails."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import solve_ivp
from scipy.linalg import expm

import smnn_core as smnn

nan = np.nan


def scalar(f, *by_y):
    """One equation in one variable, for f (..., n) and its derivatives by y, y', .., numbers or (..., n)."""
    J = np.stack([np.broadcast_to(d, f.shape) for d in by_y], axis=-1)
    return f[..., None], J[..., None, None, :]


def logistic(rate=1.0):
    """y' = rate y (1 - y); rate may have batch axes before the time axis."""

    def residual(t, y):
        value = y[..., 0, 0]
        return scalar(y[..., 0, 1] - rate * value * (1 - value), -rate * (1 - 2 * value), 1.0)

    return residual


def logistic_solution(t, start, rate=1.0):
    return 1 / (1 + (1 / start - 1) * np.exp(-rate * t))


def van_der_pol(mu):
    """y'' - mu (1 - y^2) y' + y = 0."""

    def residual(t, y):
        x, v, a = (y[..., 0, r] for r in range(3))
        return scalar(a - mu * (1 - x**2) * v + x, 2 * mu * x * v + 1, -mu * (1 - x**2), 1.0)

    return residual


def bratu(strength):
    """y'' + strength exp(y) = 0; strength (..., 1)."""

    def residual(t, y):
        e = strength * np.exp(y[..., 0, 0])
        return scalar(y[..., 0, 2] + e, e, 0.0, 1.0)

    return residual


def ends(left, right):
    return {0: [[left, nan]], 1: [[right, nan]]}


@given(seed=st.integers(0, 2**32 - 1), batch=st.sampled_from([(), (3,), (2, 1)]))
def test_linear_systems_are_solved_by_exponentials(seed, batch):
    rng, V = np.random.default_rng(seed), 2
    A = rng.standard_normal((*batch, V, V))
    J = np.stack([-A, np.broadcast_to(np.eye(V), A.shape)], axis=-1)[..., None, :, :, :]

    def residual(t, y):
        return np.sum(J * y[..., None, :, :], axis=(-2, -1)), J

    u = rng.standard_normal((*batch, V, 1))
    s = smnn.solve(residual, [0, 1], u, tolerance=1e-9, order=1)
    assert s.converged.all()
    np.testing.assert_allclose(s(1.0)[..., 0:1], expm(A) @ u, rtol=0, atol=1e-8 * np.abs(expm(A) @ u).max())


@pytest.mark.parametrize("k", [1, 2, 3])
def test_the_error_at_mesh_points_falls_with_the_power_2k_of_the_step(k):
    def residual(t, y):
        return scalar(y[..., 0, 1] - np.cos(t) * y[..., 0, 0], -np.cos(t), 1.0)

    errors = []
    for N in (8, 16):
        mesh = np.linspace(0, 3, N + 1)
        with pytest.warns(smnn.ConvergenceWarning, match="on the mesh that was given"):
            s = smnn.solve(residual, [0, 3], {3: [[np.exp(np.sin(3))]]}, mesh=mesh, points=k, tolerance=1e-12)
        errors.append(np.abs(s.y[:, 0, 0] - np.exp(np.sin(mesh))).max())
    assert 2 ** (2 * k) * 0.7 < errors[0] / errors[1] < 2 ** (2 * k) * 1.5


def test_times_may_begin_anywhere_and_descend():
    start = logistic_solution(3.0, 0.1)
    s = smnn.solve(logistic(), [3.0, 0.0], [[start]], tolerance=1e-8)
    t = np.linspace(0, 3, 50)
    np.testing.assert_allclose(s(t)[:, 0, 0], logistic_solution(t, 0.1), rtol=0, atol=1e-8)
    assert s.t[0] == 3


def test_a_stiff_problem():
    mu, t = 1000.0, np.linspace(0, 2, 101)
    s = smnn.solve(van_der_pol(mu), [0, 2], [[2.0, 0.0]])
    reference = solve_ivp(
        lambda t, x: [x[1], mu * (1 - x[0] ** 2) * x[1] - x[0]],
        (0, 2), [2.0, 0.0], method="Radau", t_eval=t, rtol=1e-10, atol=1e-12,
    )  # fmt: skip
    np.testing.assert_allclose(s(t)[:, 0, 0], reference.y[0], rtol=0, atol=2e-6)


def test_boundary_values_and_a_guess_that_chooses_the_branch():
    """Bratu's problem: y = -2 log(cosh((t - 1/2) θ/2) / cosh(θ/4)) with θ = sqrt(2) cosh(θ/4)."""
    t = np.linspace(0, 1, 101)
    for theta, guess in ((1.5171645990507, None), (10.938702772080, lambda t: 16 * (t * (1 - t))[:, None])):
        s = smnn.solve(bratu(1.0), [0, 1], ends(0, 0), tolerance=1e-9, guess=guess)
        exact = -2 * np.log(np.cosh((t - 0.5) * theta / 2) / np.cosh(theta / 4))
        np.testing.assert_allclose(s(t)[:, 0, 0], exact, rtol=0, atol=1e-8)


def test_a_nonlinear_algebraic_equation():
    """x' = -z, z = x^3: x = 1 / sqrt(1 + 2 t)."""

    def residual(t, y):
        x, z = y[..., 0, 0], y[..., 1, 0]
        J = np.zeros((*y.shape[:-2], 2, *y.shape[-2:]))
        J[..., 0, 0, 1], J[..., 0, 1, 0], J[..., 1, 1, 0], J[..., 1, 0, 0] = 1, 1, 1, -3 * x**2
        return np.stack([y[..., 0, 1] + z, z - x**3], axis=-1), J

    s = smnn.solve(residual, [0, 4], [[1.0], [nan]], order=[1, 0], tolerance=1e-8)
    t = np.linspace(0, 4, 50)
    x = 1 / np.sqrt(1 + 2 * t)
    np.testing.assert_allclose(s(t)[..., 0], np.stack([x, x**3], axis=-1), rtol=0, atol=1e-7)


def test_a_singular_end():
    """(1 - t^2) y'' - 2 t y' + 6 y = 0 from t = 1, where y = 1 and y' = 3 of the solution that is regular there."""

    def residual(t, y):
        x, v, a = (y[..., 0, r] for r in range(3))
        return scalar((1 - t**2) * a - 2 * t * v + 6 * x, 6.0, -2 * t, 1 - t**2)

    s = smnn.solve(residual, [1, 0], [[1.0, 3.0]])
    np.testing.assert_allclose(s.y[:, 0, 0], 1.5 * s.t**2 - 0.5, rtol=0, atol=1e-10)


@pytest.mark.parametrize("boundary", [False, True], ids=["initial", "boundary"])
def test_batch_members_do_not_depend_on_each_other(boundary):
    rates, starts = np.array([[0.3], [1.0], [2.0]]), np.array([0.05, 0.5, 0.9])[:, None, None]
    conditions = (lambda u: {3: u}) if boundary else (lambda u: u)
    together = smnn.solve(logistic(rates), [0, 3], conditions(starts))
    t = np.linspace(0, 3, 40)
    for i in range(3):
        alone = smnn.solve(logistic(rates[i]), [0, 3], conditions(starts[i]))
        np.testing.assert_allclose(together(t)[i, ..., 0], alone(t)[..., 0], rtol=0, atol=2e-6 * alone.y.max())


def test_nan_of_one_member_stays_there():
    with pytest.warns(smnn.ConvergenceWarning, match="1 of 2"):
        s = smnn.solve(logistic(np.array([[1.0], [nan]])), [0, 5], [[0.1]], order=1)
    np.testing.assert_array_equal(s.converged, [True, False])
    np.testing.assert_allclose(s(5.0)[0, 0, 0], logistic_solution(5.0, 0.1), rtol=0, atol=1e-6)
    assert np.isnan(s.y[1]).all()


def test_too_few_conditions_are_counted():
    def pendulum(t, y):
        return scalar(y[..., 0, 2] + np.sin(y[..., 0, 0]), np.cos(y[..., 0, 0]), 0.0, 1.0)

    for given_alone in ([[1.0]], [[1.0, nan]]):
        with pytest.raises(smnn.ArgumentError, match="1 conditions are given, and 2 are needed"):
            smnn.solve(pendulum, [0, 1], given_alone, order=2)


def test_a_problem_without_a_solution_is_not_reported_as_solved():
    """Bratu's problem has none beyond 3.5138."""
    with pytest.warns(smnn.ConvergenceWarning, match="1 of 3 members have not converged"):
        s = smnn.solve(bratu(np.array([[1.0], [5.0], [3.0]])), [0, 1], ends(0, 0), order=2, max_intervals=16)
    np.testing.assert_array_equal(s.converged, [True, False, True])


def test_meshes_too_coarse_for_the_solution_are_not_reported_as_converged():
    """y'' = 20 sinh(20 y), y(0) = 0, y(1) = 1: the layer at the end is far narrower than an interval."""

    def residual(t, y):
        x = y[..., 0, 0]
        return scalar(y[..., 0, 2] - 20 * np.sinh(20 * x), -400 * np.cosh(20 * x), 0.0, 1.0)

    with pytest.warns(smnn.ConvergenceWarning, match="mesh that was given"):
        s = smnn.solve(residual, [0, 1], ends(0, 1), order=2, mesh=np.linspace(0, 1, 9))
    assert not s.converged
    with pytest.warns(smnn.ConvergenceWarning, match="mesh that was given"):
        s = smnn.solve(van_der_pol(5.0), [0, 20], [[2.0, 0.0]], mesh=np.linspace(0, 20, 21))
    assert not s.converged


def test_damping_finds_what_newtons_method_alone_does_not():
    """x' = y, arctan(5 (y - sin t)) = 0 from y = 4: Newton's method diverges from there, as for the arctangent."""

    def residual(t, y):
        z = 5 * (y[..., 1, 0] - np.sin(t))
        J = np.zeros((*y.shape[:-2], 2, *y.shape[-2:]))
        J[..., 0, 0, 1], J[..., 0, 1, 0], J[..., 1, 1, 0] = 1, -1, 5 / (1 + z * z)
        return np.stack([y[..., 0, 1] - y[..., 1, 0], np.arctan(z)], axis=-1), J

    s = smnn.solve(residual, [0, 4], [[0.0], [nan]], order=[1, 0], guess=[[0.0, 4.0], [0.0, 4.0]])
    assert s.converged
    np.testing.assert_allclose(s.y[..., 0], np.stack([1 - np.cos(s.t), np.sin(s.t)], axis=-1), rtol=0, atol=3e-6)


@pytest.mark.parametrize("conditions", [[[1.0]], {1: [[1.0]]}], ids=["initial", "boundary"])
def test_equations_that_contradict_each_other_are_not_reported_as_solved(conditions):
    """y' = -y and y' = -a y, two equations for one variable: no contradiction in the first member."""
    a = np.array([[1.0], [2.0]])

    def residual(t, y):
        x, v = y[..., 0, 0], y[..., 0, 1]
        J = np.ones((2, t.shape[-1], 2, 1, 2))
        J[..., 1, 0, 0] = a
        return np.stack([v + x + 0 * a, v + a * x], axis=-1), J

    with pytest.warns(smnn.ConvergenceWarning, match="1 of 2 .* contradict each other: .* of equation [01]"):
        s = smnn.solve(residual, [0, 1], conditions, order=1)
    np.testing.assert_array_equal(s.converged, [True, False])


def test_progress_is_shown_where_it_is_asked_for(capsys):
    pytest.importorskip("tqdm")
    for conditions in ([[0.1]], {1: [[0.1]]}):
        smnn.solve(logistic(), [0, 1], conditions, progress=True)
        assert "solves" in capsys.readouterr().err


def blow_up(t, y):  # y' = y^2, y(0) = 1, which ends at t = 1
    return scalar(y[..., 0, 1] - y[..., 0, 0] ** 2, -2 * y[..., 0, 0], 1.0)


def no_root(t, y):  # y' = y^2 + 10, y(0) = y(1)
    return scalar(y[..., 0, 1] - y[..., 0, 0] ** 2 - 10, -2 * y[..., 0, 0], 1.0)


@pytest.mark.parametrize(
    ("residual", "options", "advice"),
    [
        (blow_up, {"times": [0, 2]}, "end before it, .*or allow more by max_intervals"),
        (blow_up, {"times": [0, 0.99], "max_intervals": 4}, "max_intervals"),
        (blow_up, {"times": [0, 2], "mesh": np.linspace(0, 2, 9)}, "a guess= nearer the solution"),
        (blow_up, {"times": [0, 0.9], "mesh": np.linspace(0, 0.9, 3)}, "give a finer mesh"),
        (no_root, {"times": [0, 1], "conditions": lambda y: y[..., 0, :, 0] - y[..., 1, :, 0]}, "guess="),
    ],
)
def test_who_did_not_converge_says_what_to_change(residual, options, advice):
    conditions = options.pop("conditions", [[1.0]])
    with pytest.warns(smnn.ConvergenceWarning, match=advice):
        s = smnn.solve(residual, options.pop("times"), conditions, order=[1], **options)
    assert not s.converged
