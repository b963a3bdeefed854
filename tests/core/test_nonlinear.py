"""solve_nonlinear_ode: what it solves, what it refuses, and what it says where it fails."""

from __future__ import annotations

import numpy as np
import pytest
from _assert import assert_close
from _backends import load
from hypothesis import given
from hypothesis import strategies as st

import smnn_core as smnn
from smnn_core.nonlinear._march import MARCHING

MARCH = {"method": "march"}
NEWTON = {"method": "newton"}


def linear(c, b):
    """linearize of the linear system c y = b."""

    def linearize(t, y):
        return np.sum(c * y[..., None, :, :], axis=(-2, -1)) - b, c

    return linearize


def logistic(rate=1.0):
    """y' = rate y (1 - y); rate may have batch axes before the time axis."""

    def linearize(t, y):
        value, slope = y[..., 0, 0], y[..., 0, 1]
        f = slope - rate * value * (1 - value)
        d0, d1 = -rate * (1 - 2 * value), 0 * value + 1
        zeros = [0 * value] * (y.shape[-1] - 2)
        return f[..., None], np.stack([d0, d1, *zeros], axis=-1)[..., None, None, :]

    return linearize


def logistic_solution(t, start, rate=1.0):
    return 1 / (1 + (1 / start - 1) * np.exp(-rate * t))


def van_der_pol(mu):
    """y'' - mu (1 - y^2) y' + y = 0."""

    def linearize(t, y):
        x, v, a = (y[..., 0, r] for r in range(3))
        J = np.zeros((*y.shape[:-2], 1, *y.shape[-2:]))
        J[..., 0, 0, 0], J[..., 0, 0, 1], J[..., 0, 0, 2] = 2 * mu * x * v + 1, -mu * (1 - x**2), 1
        return (a - mu * (1 - x**2) * v + x)[..., None], J

    return linearize


def bratu(strength):
    """y'' + strength exp(y) = 0; strength (..., 1)."""

    def linearize(t, y):
        e = strength * np.exp(y[..., 0, 0])
        J = np.zeros((*y.shape[:-2], 1, *y.shape[-2:]))
        J[..., 0, 0, 0], J[..., 0, 0, 2] = e, 1
        return (y[..., 0, 2] + e)[..., None], J

    return linearize


def ends(batch, T, left, right):
    u = np.full((*batch, T, 1, 1), np.nan)
    u[..., 0, 0, 0], u[..., -1, 0, 0] = left, right
    return u


@pytest.mark.parametrize("options", [MARCH, NEWTON], ids=["march", "newton"])
@given(seed=st.integers(0, 2**32 - 1), batch=st.sampled_from([(), (3,), (2, 1)]))
def test_a_linear_system_takes_one_iteration_and_gives_solve_ode(options, seed, batch):
    rng, T, V, K = np.random.default_rng(seed), 20, 2, 3
    c = rng.standard_normal((*batch, 1, V, V, K))
    c[..., 2], c[..., 1] = 0, np.eye(V)
    b, u, s = rng.standard_normal((*batch, 1, V)), rng.standard_normal((*batch, 1, V, 1)), np.full(T - 1, 0.02)
    result = smnn.solve_nonlinear_ode(linear(c, b), u, s, order=2, **options)
    expected = smnn.solve_ode(c, b, u, s, scheme=MARCHING)
    assert_close(result.y, expected, load("numpy"), factor=1e5)
    assert result.converged.all()
    assert (result.iterations == 1).all()


@pytest.mark.parametrize("options", [MARCH, NEWTON], ids=["march", "newton"])
def test_an_initial_value_problem_with_a_known_solution(options):
    s = np.full(200, 0.05)
    result = smnn.solve_nonlinear_ode(logistic(), np.array([[[0.1]]]), s, order=4, **options)
    np.testing.assert_allclose(result.y[:, 0, 0], logistic_solution(result.t, 0.1), rtol=0, atol=1e-8)
    assert result.method == options["method"]


def test_the_error_falls_with_the_step_as_that_of_the_linear_scheme():
    errors = []
    for T in (51, 101):
        result = smnn.solve_nonlinear_ode(logistic(), np.array([[[0.1]]]), np.full(T - 1, 5 / (T - 1)), order=2)
        errors.append(np.max(np.abs(result.y[:, 0, 0] - logistic_solution(result.t, 0.1))))
    assert errors[0] / errors[1] > 2**2.5  # HERMITE converges with order R + 2 - 1 = 3


def test_marching_goes_backwards_in_time_and_starts_anywhere():
    start = logistic_solution(np.array(3.0), 0.1)
    result = smnn.solve_nonlinear_ode(logistic(), start.reshape(1, 1, 1), np.full(300, -0.01), order=3, t0=3.0)
    np.testing.assert_allclose(result.y[:, 0, 0], logistic_solution(result.t, 0.1), rtol=0, atol=1e-8)
    assert result.t[-1] == pytest.approx(0)


def test_a_stiff_problem():
    scipy_integrate = pytest.importorskip("scipy.integrate")
    T, mu = 2001, 1000.0
    result = smnn.solve_nonlinear_ode(van_der_pol(mu), np.array([[[2.0, 0.0]]]), np.full(T - 1, 2 / (T - 1)), order=3)
    reference = scipy_integrate.solve_ivp(
        lambda t, x: [x[1], mu * (1 - x[0] ** 2) * x[1] - x[0]],
        (0, 2),
        [2.0, 0.0],
        method="Radau",
        t_eval=result.t.clip(0, 2),
        rtol=1e-10,
        atol=1e-12,
    )
    np.testing.assert_allclose(result.y[:, 0, 0], reference.y[0], rtol=0, atol=1e-6)


def test_newton_on_all_times_at_once_from_a_constant():
    s, start = np.full(500, 0.04), np.array([[[2.0, 0.0]]])
    whole = smnn.solve_nonlinear_ode(van_der_pol(1.0), start, s, order=4, **NEWTON)
    marched = smnn.solve_nonlinear_ode(van_der_pol(1.0), start, s, order=4, **MARCH)
    assert whole.converged
    np.testing.assert_allclose(whole.y[..., 0], marched.y[..., 0], rtol=0, atol=1e-5)


def test_boundary_values():
    T = 101
    result = smnn.solve_nonlinear_ode(bratu(1.0), ends((), T, 0.0, 0.0), np.full(T - 1, 0.01), order=4)
    theta = 1.5171645990507  # of theta = sqrt(2) cosh(theta / 4), the lower branch
    exact = -2 * np.log(np.cosh((result.t - 0.5) * theta / 2) / np.cosh(theta / 4))
    np.testing.assert_allclose(result.y[:, 0, 0], exact, rtol=0, atol=1e-9)
    assert result.method == "newton"
    assert result.iterations <= 5


def test_an_algebraic_equation_is_an_equation_without_derivatives():
    """x' = -z, z = x^3: x = x0 / sqrt(1 + 2 x0^2 t)."""

    def linearize(t, y):
        x, z = y[..., 0, 0], y[..., 1, 0]
        J = np.zeros((*y.shape[:-2], 2, *y.shape[-2:]))
        J[..., 0, 0, 1], J[..., 0, 1, 0], J[..., 1, 1, 0], J[..., 1, 0, 0] = 1, 1, 1, -3 * x**2
        return np.stack([y[..., 0, 1] + z, z - x**3], axis=-1), J

    u = np.array([[[1.0], [np.nan]]])
    result = smnn.solve_nonlinear_ode(linearize, u, np.full(800, 0.005), order=3)
    x = 1 / np.sqrt(1 + 2 * result.t)
    np.testing.assert_allclose(result.y[:, :, 0], np.stack([x, x**3], axis=-1), rtol=0, atol=1e-8)


def test_data_at_many_times_are_initial_rows_with_weights():
    rng, s = np.random.default_rng(0), np.full(200, 0.05)
    t = np.concatenate([[0], np.cumsum(s)])
    truth = logistic_solution(t, 0.1)
    data = truth + 0.05 * rng.standard_normal(t.size)
    data[rng.random(t.size) < 0.5] = np.nan
    weights = smnn.Weights(initial=0.01)
    result = smnn.solve_nonlinear_ode(logistic(), data[:, None, None], s, order=3, weights=weights)
    assert result.converged
    assert np.max(np.abs(result.y[:, 0, 0] - truth)) < 0.03


@pytest.mark.parametrize("options", [MARCH, NEWTON], ids=["march", "newton"])
def test_batch_members_do_not_depend_on_each_other(options):
    rates, starts, s = np.array([[0.3], [1.0], [4.0]]), np.array([0.05, 0.5, 2.0]), np.full(150, 0.04)
    u = starts[:, None, None, None]
    together = smnn.solve_nonlinear_ode(logistic(rates), u, s, order=3, **options)
    for i in range(3):
        alone = smnn.solve_nonlinear_ode(logistic(rates[i]), u[i], s, order=3, **options)
        # members march in step, so that windows differ, and with them the error of the discretisation
        np.testing.assert_allclose(together.y[i, ..., 0], alone.y[..., 0], rtol=0, atol=1e-7)


def test_a_member_that_blows_up_says_so_and_leaves_the_others_as_they_are():
    """y' = y^2 - y from 0.5 decays, from 2 it ends at t = log 2."""

    def linearize(t, y):
        f, J = logistic(-1.0)(t, y)
        return f, J

    u, s = np.array([0.5, 2.0])[:, None, None, None], np.full(200, 0.01)
    with pytest.warns(smnn.ConvergenceWarning, match="1 of 2 batch members"):
        result = smnn.solve_nonlinear_ode(linearize, u, s, order=3)
    np.testing.assert_array_equal(result.converged, [True, False])
    np.testing.assert_allclose(result.y[0, :, 0, 0], logistic_solution(result.t, 0.5, -1.0), rtol=0, atol=1e-8)
    ended = np.isnan(result.y[1]).any(axis=(-2, -1))
    assert ended[-1]
    assert not ended[:60].any()


def pendulum(t, y):
    """x'' + sin x = 0."""
    J = np.zeros((*y.shape[:-2], 1, *y.shape[-2:]))
    J[..., 0, 0, 0], J[..., 0, 0, 2] = np.cos(y[..., 0, 0]), 1
    return (y[..., 0, 2] + np.sin(y[..., 0, 0]))[..., None], J


@pytest.mark.parametrize("u", [[[1.0]], [[1.0, np.nan]]])
def test_a_missing_initial_velocity_is_a_warning(u):
    with pytest.warns(
        smnn.AccuracyWarning, match=r"fewer values are given \(1\) than equations of order 2 have constants \(2\)"
    ):
        result = smnn.solve_nonlinear_ode(pendulum, np.array([u]), np.full(100, 0.1), order=4)
    assert "one solution of many" in result.message


def test_a_singular_end_has_fewer_constants():
    """(1 - t^2) y'' - 2 t y' + 6 y = 0, y(1) = 1: Legendre's polynomial is the only solution that is regular there."""

    def linearize(t, y):
        one = np.ones(y.shape[:-2])
        J = np.stack([6 * one, -2 * t * one, (1 - t**2) * one, 0 * one, 0 * one], axis=-1)[..., None, None, :]
        return (J[..., 0, :, :] * y).sum(-1), J

    u = np.full((101, 1, 1), np.nan)
    u[-1] = 1
    result = smnn.solve_nonlinear_ode(linearize, u, np.full(100, 0.01), order=4)
    np.testing.assert_allclose(result.y[:, 0, 0], 1.5 * result.t**2 - 0.5, rtol=0, atol=1e-12)


def test_algebraic_equations_have_no_constants():
    """x' = -z, z = x: one constant for two variables, and no warning for one value."""

    def linearize(t, y):
        x, z = y[..., 0, :], y[..., 1, :]
        J = np.zeros((*y.shape[:-2], 2, *y.shape[-2:]))
        J[..., 0, 0, 1] = J[..., 0, 1, 0] = J[..., 1, 1, 0] = 1
        J[..., 1, 0, 0] = -1
        return np.stack([x[..., 1] + z[..., 0], z[..., 0] - x[..., 0]], axis=-1), J

    u = np.array([[[1.0], [np.nan]]])
    result = smnn.solve_nonlinear_ode(linearize, u, np.full(100, 0.02), order=2)
    np.testing.assert_allclose(result.y[-1, :, 0], np.exp(-2.0), rtol=1e-5)
    assert result.message == "converged"


def test_a_problem_without_a_solution_is_not_reported_as_solved():
    T = 51  # Bratu's problem has no solution beyond 3.5138
    u, s = ends((3,), T, 0.0, 0.0), np.full(T - 1, 1 / (T - 1))
    with pytest.warns(smnn.ConvergenceWarning, match="1 of 3 batch members did not converge"):
        result = smnn.solve_nonlinear_ode(bratu(np.array([[1.0], [5.0], [3.0]])), u, s, order=3)
    np.testing.assert_array_equal(result.converged, [True, False, True])


@pytest.mark.parametrize("n_steps", [20, 26])
def test_steps_too_long_for_the_solution_are_not_reported_as_converged(n_steps):
    s = np.full(n_steps, 20 / n_steps)
    with pytest.warns(smnn.ConvergenceWarning, match="steps are too long|NaN"):
        result = smnn.solve_nonlinear_ode(van_der_pol(5.0), np.array([[[2.0, 0.0]]]), s, order=3)
    assert not result.converged


def test_damping_finds_what_newtons_method_alone_does_not():
    """arctan(5 (y - sin t)) = 0 from y = 4: Newton's method diverges from there, as for the arctangent."""

    def linearize(t, y):
        z = 5 * (y[..., 0, 0] - np.sin(t))
        J = np.zeros((*y.shape[:-2], 1, *y.shape[-2:]))
        J[..., 0, 0, 0] = 5 / (1 + z * z)
        return np.arctan(z)[..., None], J

    guess = np.zeros((41, 1, 3))
    guess[..., 0] = 4
    result = smnn.solve_nonlinear_ode(linearize, np.zeros((0, 1, 1)), np.full(40, 0.1), order=2, guess=guess)
    assert result.converged
    np.testing.assert_allclose(result.y[:, 0, 0], np.sin(result.t), rtol=0, atol=1e-3)


def test_boundary_values_that_are_not_met_are_not_reported_as_converged():
    """y'' = 20 sinh(20 y), y(0) = 0, y(1) = 1: the layer at the end is far narrower than a step."""

    def linearize(t, y):
        J = np.zeros((*y.shape[:-2], 1, *y.shape[-2:]))
        J[..., 0, 0, 0], J[..., 0, 0, 2] = -400 * np.cosh(20 * y[..., 0, 0]), 1
        return (y[..., 0, 2] - 20 * np.sinh(20 * y[..., 0, 0]))[..., None], J

    with pytest.warns(smnn.ConvergenceWarning):
        result = smnn.solve_nonlinear_ode(linearize, ends((), 101, 0.0, 1.0), np.full(100, 0.01), order=4)
    assert not result.converged


def test_data_that_contradict_the_equations_are_a_compromise_not_a_failure():
    t = np.linspace(0, 5, 101)
    data = 0.5 + 0.4 * np.sin(t)
    weights = smnn.Weights(initial=1e-2, equation=1e-3)
    result = smnn.solve_nonlinear_ode(logistic(), data[:, None, None], np.diff(t), order=3, weights=weights)
    assert result.converged
    assert np.abs(result.residuals.equation).max() > 0.1


def contradiction(t, y):
    """y^2 = 1 and y^2 = 4."""
    value = y[..., 0, 0]
    J = np.zeros((*y.shape[:-2], 2, *y.shape[-2:]))
    J[..., 0, 0] = 2 * value[..., None]
    return np.stack([value**2 - 1, value**2 - 4], axis=-1), J


def test_data_of_one_member_are_no_excuse_for_another():
    u, guess = np.full((2, 21, 1, 1), np.nan), np.zeros((2, 21, 1, 3))
    u[0], guess[..., 0] = 1.58, 1.4
    with pytest.warns(smnn.ConvergenceWarning, match="1 of 2"):
        result = smnn.solve_nonlinear_ode(contradiction, u, 0.05, order=2, guess=guess, **NEWTON)
    np.testing.assert_array_equal(result.converged, [True, False])


def test_equations_of_different_order_are_judged_each_by_its_own():
    """m y'' + y' + y = 0 for m = 0 and 1: one constant and two."""
    c = np.array([[1.0, 1.0, 0.0], [1.0, 1.0, 1.0]]).reshape(2, 1, 1, 1, 3)
    linearize = linear(c, np.zeros((2, 1, 1)))
    light = smnn.Weights(initial=1e-3)
    both = smnn.solve_nonlinear_ode(linearize, ends((), 41, 1.0, 1.0), 0.05, order=2, weights=light)
    assert both.converged.all()  # the first by compromise
    with pytest.warns(smnn.AccuracyWarning, match="in 1 of 2 batch members fewer values are given"):
        smnn.solve_nonlinear_ode(linearize, np.ones((1, 1, 1)), 0.05, n_steps=41, order=2, **NEWTON)


@pytest.mark.parametrize("options", [MARCH, NEWTON], ids=["march", "newton"])
def test_initial_values_that_contradict_the_equations_are_not_reported_as_solved(options):
    decay = linear(np.array([1.0, 1.0, 0.0, 0.0]).reshape(1, 1, 1, 4), np.zeros((1, 1)))
    with pytest.warns(smnn.ConvergenceWarning, match="violates the equations, the values given"):
        result = smnn.solve_nonlinear_ode(decay, np.array([[[1.0, 5.0]]]), np.full(40, 0.05), order=3, **options)
    assert not result.converged


def test_nan_of_one_member_stays_there():
    rates = np.array([[1.0], [np.nan]])
    u, s = np.full((2, 1, 1, 1), 0.1), np.full(50, 0.1)
    with pytest.warns(smnn.ConvergenceWarning):
        result = smnn.solve_nonlinear_ode(logistic(rates), u, s, order=3)
    np.testing.assert_array_equal(result.converged, [True, False])
    np.testing.assert_allclose(result.y[0, :, 0, 0], logistic_solution(result.t, 0.1), rtol=0, atol=1e-6)


def test_a_guess_chooses_the_branch():
    T = 101
    t = np.linspace(0, 1, T)
    guess = np.zeros((T, 1, 4))
    guess[:, 0, 0] = 16 * t * (1 - t)
    u, s = ends((), T, 0.0, 0.0), np.full(T - 1, 1 / (T - 1))
    lower = smnn.solve_nonlinear_ode(bratu(1.0), u, s, order=3)
    upper = smnn.solve_nonlinear_ode(bratu(1.0), u, s, order=3, guess=guess)
    assert lower.y[:, 0, 0].max() == pytest.approx(0.1405, abs=1e-3)
    assert upper.y[:, 0, 0].max() == pytest.approx(4.0915, abs=1e-3)


def test_residuals_by_kind():
    result = smnn.solve_nonlinear_ode(logistic(), np.array([[[0.1]]]), np.full(50, 0.1), order=2)
    r = result.residuals
    np.testing.assert_allclose(r.equation, logistic()(result.t, result.y)[0], rtol=0, atol=1e-14)
    np.testing.assert_allclose(r.initial, result.y[:1, :, :1] - 0.1, rtol=0, atol=1e-14)
    assert r.smoothness.shape == (50, 1, 3)


@pytest.mark.parametrize("options", [MARCH, NEWTON], ids=["march", "newton"])
def test_vjp_gives_the_derivatives_of_the_solution(options):
    rng, rates, s = np.random.default_rng(0), np.array([[0.5], [2.0]]), np.full(120, 0.05)
    u = np.array([0.1, 0.3])[:, None, None, None]
    g = np.zeros((2, 121, 1, 5))
    g[..., 0] = rng.standard_normal((2, 121, 1))

    def loss(rates, u):
        y = smnn.solve_nonlinear_ode(logistic(rates), u, s, order=4, **options).y
        return np.sum(g * y, axis=(1, 2, 3))

    result = smnn.solve_nonlinear_ode(logistic(rates), u, s, order=4, **options)
    found, value, h = result.vjp(g), result.y[..., 0, 0], 1e-5
    by_rate = (loss(rates + h, u) - loss(rates - h, u)) / (2 * h)
    by_start = (loss(rates, u + h) - loss(rates, u - h)) / (2 * h)
    np.testing.assert_allclose(np.sum(-value * (1 - value) * found.f[..., 0], axis=-1), by_rate, rtol=1e-5)
    np.testing.assert_allclose(found.initial_values[:, 0, 0, 0], by_start, rtol=1e-5)


def test_vjp_keeps_the_shape_of_initial_values_and_is_zero_where_none_was_given():
    T = 41
    u = ends((), T, 0.0, 0.5)
    result = smnn.solve_nonlinear_ode(bratu(1.0), u, np.full(T - 1, 1 / (T - 1)), order=3)
    g = np.zeros_like(result.y)
    g[T // 2, 0, 0] = 1
    found = result.vjp(g)
    assert found.f.shape == (T, 1)
    assert found.initial_values.shape == u.shape
    assert (found.initial_values[1:-1] == 0).all()
    assert (found.initial_values[[0, -1]] != 0).all()


def test_vjp_sums_over_members_that_share_their_initial_values():
    w = np.array([1.0, 2.0])[:, None, None, None]
    options = {"n_steps": 41, "order": 3}
    both = smnn.solve_nonlinear_ode(
        logistic(), np.full((1, 1, 1), 0.1), 0.05, weights=smnn.Weights(initial=w), **options
    )
    alone = smnn.solve_nonlinear_ode(logistic(), np.full((1, 1, 1), 0.1), 0.05, **options)
    found, expected = (x.vjp(np.ones_like(x.y)).initial_values for x in (both, alone))
    assert found.shape == (1, 1, 1)
    np.testing.assert_allclose(found, 2 * expected, rtol=1e-6)


def test_vjp_names_a_wrong_shape():
    result = smnn.solve_nonlinear_ode(logistic(), np.array([[[0.1]]]), np.full(20, 0.05), order=2)
    with pytest.raises(smnn.ShapeError, match=r"g must have the shape of y, \(21, 1, 3\)"):
        result.vjp(np.zeros((21, 1, 2)))


def test_other_array_libraries_give_the_same():
    backend = load("array_api_strict")
    xp = backend.xp

    def linearize(t, y):
        value, slope = y[..., 0, 0], y[..., 0, 1]
        ones = xp.ones_like(value)
        J = xp.stack([2 * value - 1, ones, 0 * ones], axis=-1)[..., None, None, :]
        return (slope - value * (1 - value))[..., None], J

    u, s = np.full((2, 1, 1, 1), 0.1), np.full(40, 0.1)
    for method in ("march", "newton"):
        options = {"order": 2, "method": method, "tolerance": 1e-13}
        expected = smnn.solve_nonlinear_ode(logistic(), u, s, **options)
        actual = smnn.solve_nonlinear_ode(linearize, backend.asarray(u), backend.asarray(s), **options)
        assert_close(actual.y, expected.y, backend, factor=1e6)
        assert bool(xp.all(actual.converged))
        assert_close(actual.vjp(actual.y).f, expected.vjp(expected.y).f, backend, factor=1e6)


def test_a_step_that_is_a_number_and_start_times_of_each_member():
    """y' = t y from t = 0 and from t = 1."""

    def linearize(t, y):
        value, slope = y[..., 0, 0], y[..., 0, 1]
        J = np.stack([-t + 0 * value, 1 + 0 * value, 0 * value, 0 * value], axis=-1)[..., None, None, :]
        return (slope - t * value)[..., None], J

    t0, u = np.array([0.0, 1.0]), np.ones((2, 1, 1, 1))
    result = smnn.solve_nonlinear_ode(linearize, u, 0.01, n_steps=101, order=3, t0=t0)
    np.testing.assert_allclose(result.t[:, -1], t0 + 1)
    exact = np.exp((result.t**2 - t0[:, None] ** 2) / 2)
    np.testing.assert_allclose(result.y[..., 0, 0], exact, rtol=0, atol=1e-7)


def test_progress_is_shown_where_it_is_asked_for(capsys):
    pytest.importorskip("tqdm")
    for method in ("march", "newton"):
        smnn.solve_nonlinear_ode(
            logistic(), np.array([[[0.1]]]), np.full(50, 0.1), order=2, method=method, progress=True
        )
        assert method in capsys.readouterr().err


def test_float32():
    u, s = np.full((1, 1, 1), 0.1, "float32"), np.full(100, 0.05, "float32")
    result = smnn.solve_nonlinear_ode(logistic(np.float32(1)), u, s, order=2)
    assert result.y.dtype == np.float32
    assert result.converged
    np.testing.assert_allclose(result.y[:, 0, 0], logistic_solution(result.t, 0.1), rtol=0, atol=1e-4)


def test_arguments_that_ask_for_derivatives_or_are_traced_are_refused():
    torch, jax = pytest.importorskip("torch"), pytest.importorskip("jax")
    u, s = torch.full((1, 1, 1), 0.1, dtype=torch.float64, requires_grad=True), torch.full((10,), 0.1).double()
    with pytest.raises(smnn.ArgumentError, match="smnn_torch"):
        smnn.solve_nonlinear_ode(logistic(), u, s, order=2)
    of_others = {"t0": u[0, 0, 0], "weights": smnn.Weights(smoothness=u[0, 0])}
    for name, x in of_others.items():
        with pytest.raises(smnn.ArgumentError, match="smnn_torch"):
            smnn.solve_nonlinear_ode(logistic(), u.detach(), s, order=2, **{name: x})
    with pytest.raises(smnn.ArgumentError, match="traced"):
        jax.jit(lambda u: smnn.solve_nonlinear_ode(logistic(), u, u[0, 0], order=2, n_steps=9).y)(
            np.full((1, 1, 1), 0.1)
        )


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"order": 0}, smnn.ArgumentError, "order, the highest"),
        ({"order": True}, TypeError, "integer"),
        ({"max_iterations": 0}, smnn.ArgumentError, "max_iterations"),
        ({"method": "shoot"}, smnn.ArgumentError, "method must be one of 'auto', 'march', 'newton'"),
        ({"tolerance": 2.0}, smnn.ArgumentError, "tolerance must lie between"),
        ({"n_steps": 7}, smnn.ShapeError, "n_steps implies T = 7"),
        ({"n_steps": 11.5}, TypeError, "n_steps must be an integer"),
        ({"t0": np.zeros(3), "guess": np.zeros((2, 11, 1, 3))}, smnn.ShapeError, "batch axes of guess"),
        ({"weights": smnn.Weights(initial=np.ones((5, 1, 1)))}, smnn.ShapeError, r"weights\.initial must have shape"),
        ({"step_sizes": 0.1}, smnn.ArgumentError, "Pass n_steps=T"),
        ({"guess": np.zeros((11, 1, 2))}, smnn.ShapeError, r"guess must have shape .* \(\.\.\., 11, 1, 3\)"),
        ({"initial_values": np.zeros(1)}, smnn.ShapeError, "initial_values must have shape"),
        ({"initial_values": np.zeros((0, 1, 1, 1))}, smnn.ShapeError, "hold no member"),
        ({"initial_values": np.zeros((1, 1, 4))}, smnn.ShapeError, "R_init = 4"),
        ({"initial_values": np.zeros((1, 1, 1), "float32")}, smnn.DTypeError, "step_sizes has dtype float64"),
        ({"linearize": None}, TypeError, "linearize must be a function"),
        ({"weights": 1.0}, TypeError, "weights must be Weights"),
        ({"initial_values": np.zeros((2, 1, 1)), "method": "march"}, smnn.ArgumentError, "initial-value problems"),
        ({"linearize": lambda t, y: logistic()(t, np.roll(y, 1, axis=-3))}, smnn.ArgumentError, "another time"),
    ],
)
def test_wrong_arguments_are_named(changes, error, message):
    arguments = {"linearize": logistic(), "initial_values": np.full((1, 1, 1), 0.1), "step_sizes": np.full(10, 0.1)}
    arguments |= {"order": 2, **changes}
    with pytest.raises(error, match=message):
        smnn.solve_nonlinear_ode(**arguments)


@pytest.mark.parametrize("method", ["march", "newton"])
def test_a_function_that_writes_to_t_changes_nothing(method: str) -> None:
    def decay(t: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        t *= 2
        J = np.zeros((1, 1, 1, y.shape[-1]))
        J[..., :2] = 1
        return y[..., 0, 1:2] + y[..., 0, :1], J

    found = smnn.solve_nonlinear_ode(decay, np.ones((1, 1, 1)), 0.1, order=3, n_steps=11, method=method)
    np.testing.assert_allclose(found.t, np.linspace(0, 1, 11), rtol=1e-12)
    np.testing.assert_allclose(found.y[:, 0, 0], np.exp(-found.t), atol=1e-4)
