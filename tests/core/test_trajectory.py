"""`solve`: boundary and initial values, algebraic equations, constants, batches, against closed forms."""

from __future__ import annotations

import pickle
import warnings
from copy import deepcopy
from io import BytesIO

import numpy as np
import pytest
from scipy.integrate import solve_ivp

import smnn_core as smnn
from smnn_core.engines import collocation as compiled
from smnn_core.trajectory._collocation import Space, gauss, radau
from smnn_core.trajectory._linear import ConditionRows, Linear, Local, Structure
from smnn_core.trajectory._march import _predicted
from smnn_core.trajectory._mesh import constants_of_error
from smnn_core.trajectory._window import (
    WINDOW,
    Allowed,
    CompiledWindow,
    Coupled,
    DecoupledWindow,
    Progress,
    Window,
    recent,
)

nan = np.nan


def jacobian(t, V, orders, **entries):
    """J (..., n, V, V, orders) of entries e_vw_r = values."""
    J = np.zeros((*np.broadcast_shapes(t.shape, *(np.shape(x) for x in entries.values())), V, V, orders))
    for name, value in entries.items():
        _, at, r = name.split("_")
        J[..., int(at[0]), int(at[1]), int(r)] = value
    return J


def layer(eps):
    """eps y'' = y."""

    def residual(t, y):
        return (eps * y[..., 0, 2] - y[..., 0, 0])[..., None], jacobian(t, 1, 3, e_00_2=eps, e_00_0=-1.0)

    return residual


def exact_layer(t, eps):
    a = eps**-0.5
    return np.exp(-a * t) * (1 - np.exp(-2 * a * (1 - t))) / (1 - np.exp(-2 * a))


@pytest.mark.parametrize("points", [gauss, radau])
@pytest.mark.parametrize("orders", [(1,), (2,), (1, 0, 3)])
def test_polynomials_are_represented(points, orders):
    space, rng = Space(points(4), orders), np.random.default_rng(0)
    degree = 3
    c = rng.standard_normal((len(orders), degree + 1))
    t = np.array([[0.0, 0.4, 1.5]])
    polynomials = [np.polynomial.Polynomial(row) for row in c]
    x = np.stack([polynomials[v].deriv(o)(t) for v, o in zip(*space.states, strict=True)], axis=-1)
    at = t[:, :-1, None] + np.diff(t)[..., None] * np.asarray(space.points)
    z = np.stack([polynomials[v].deriv(q)(at) for v, q in enumerate(orders)], axis=-2)
    τ = np.linspace(0, 1.5, 20)
    y = space.at_times(x, z, t, τ[None])[0]
    for v, q in enumerate(orders):
        for r in range(q + 1):
            assert np.allclose(y[:, v, r], polynomials[v].deriv(r)(τ), atol=1e-12)
    ends = space.ends(np, space.features(np, x[:, :-1], z, np.diff(t)), np.diff(t))
    assert np.allclose(ends, x[:, 1:], atol=1e-12)


@pytest.mark.parametrize("eps", [1e-2, 1e-4, 1e-6])
@pytest.mark.parametrize("tolerance", [1e-4, 1e-8])
def test_layers_are_found(eps, tolerance):
    s = smnn.solve(layer(eps), [0, 1], {0: [[1, nan]], 1: [[0, nan]]}, tolerance=tolerance)
    t = np.unique(np.concatenate([np.linspace(0, 1, 500), np.geomspace(1e-5, 1, 500)]))
    error = np.abs(s(t)[:, 0, 0] - exact_layer(t, eps)).max()
    assert s.converged
    assert error <= tolerance
    assert error <= 2 * s.largest_error[0] + 1e-14
    assert s.largest_error[0] <= 10 * error + 1e-13


def test_steps_of_the_size_of_rounding_have_converged():
    """eps y'' = t y' + y + ..., y = cos πt: rounding of the states is above what Newton's method is asked for."""
    eps = 1e-6

    def residual(t, y):
        cos, sin = np.cos(np.pi * t), np.sin(np.pi * t)
        forcing = -(1 + eps * np.pi**2) * cos + np.pi * t * sin
        f = eps * y[..., 0, 2] - t * y[..., 0, 1] - y[..., 0, 0] - forcing
        return f[..., None], jacobian(t, 1, 3, e_00_2=eps, e_00_1=-t, e_00_0=-1.0)

    s = smnn.solve(residual, [-1, 1], {-1: [[-1, nan]], 1: [[-1, nan]]}, tolerance=1e-8)
    assert s.converged
    assert s.iterations < 20
    t = np.linspace(-1, 1, 301)
    np.testing.assert_allclose(s(t)[:, 0, 0], np.cos(np.pi * t), atol=1e-8)


def test_many_waves_end_in_few_meshes():
    """eps^2 y'' = -(π/2)^2 y, 250 waves: intervals with a crest and with a zero add differently to the error."""
    eps = 1 / 1001

    def residual(t, y):
        f = eps**2 * y[..., 0, 2] + np.pi**2 / 4 * y[..., 0, 0]
        return f[..., None], jacobian(t, 1, 3, e_00_2=eps**2, e_00_0=np.pi**2 / 4)

    s = smnn.solve(residual, [0, 1], {0: [[0, nan]], 1: [[np.sin(np.pi / 2 / eps), nan]]}, tolerance=1e-6)
    assert s.converged
    assert s.iterations < 40
    t = np.linspace(0, 1, 3001)
    np.testing.assert_allclose(s(t)[:, 0, 0], np.sin(np.pi / 2 * t / eps), atol=1e-6)


@pytest.mark.parametrize(("left", "right", "eps"), [(1.0, 1.5, 1e-4), (0.0, 1.5, 1e-3)])
def test_a_poor_solution_of_a_coarse_mesh_is_left_for_the_guess(left, right, eps):
    """eps y'' = y - y y': the solution on 16 intervals is no start for Newton's method on the next mesh."""

    def residual(t, y):
        f = eps * y[..., 0, 2] - y[..., 0, 0] * (1 - y[..., 0, 1])
        J = jacobian(t, 1, 3, e_00_2=eps, e_00_1=y[..., 0, 0], e_00_0=y[..., 0, 1] - 1)
        return f[..., None], J

    s = smnn.solve(residual, [0, 1], {0: [[left, nan]], 1: [[right, nan]]}, tolerance=1e-6)
    assert s.converged
    assert s.iterations < 600
    t = np.linspace(0, 1, 9)[1:]
    np.testing.assert_allclose(s(t)[:, 0, 0], t + 0.5, atol=1e-6)  # beyond the layer, where y' = 1


@pytest.mark.parametrize("end", [10.0, -3.0])
def test_initial_values_forwards_and_backwards(end):
    def residual(t, y):
        f = np.stack([y[..., 0, 1] - y[..., 1, 0], y[..., 1, 1] + y[..., 0, 0]], axis=-1)
        return f, jacobian(t, 2, 2, e_00_1=1.0, e_01_0=-1.0, e_11_1=1.0, e_10_0=1.0)

    s = smnn.solve(residual, [0, end], [[1.0], [0.0]], tolerance=1e-8)
    t = np.linspace(0, end, 200)
    assert s.converged
    assert np.abs(s(t)[:, 0, 0] - np.cos(t)).max() <= 1e-8
    assert np.abs(s(t)[:, 1, 1] + np.cos(t)).max() <= 1e-6


def test_second_order_initial_values():
    def residual(t, y):
        return y[..., 2] + y[..., 0], jacobian(t, 1, 3, e_00_2=1.0, e_00_0=1.0)

    s = smnn.solve(residual, [0, 20], [[0.0, 1.0]], tolerance=1e-7)
    t = np.linspace(0, 20, 300)
    assert np.abs(s(t)[:, 0] - np.stack([np.sin(t), np.cos(t), -np.sin(t)], -1)).max(axis=0)[0] <= 1e-7


def test_stiff_and_algebraic():
    """Robertson's reaction with the conservation law in place of its third equation."""

    def residual(t, y):
        a, b, c = (y[..., v, 0] for v in range(3))
        f = np.stack(
            [y[..., 0, 1] + 0.04 * a - 1e4 * b * c, y[..., 1, 1] - 0.04 * a + 1e4 * b * c + 3e7 * b**2, a + b + c - 1],
            -1,
        )
        J = jacobian(t, 3, 2, e_00_1=1.0, e_00_0=0.04, e_11_1=1.0, e_10_0=-0.04)
        J[..., 0, 1, 0], J[..., 0, 2, 0] = -1e4 * c, -1e4 * b
        J[..., 1, 1, 0], J[..., 1, 2, 0] = 1e4 * c + 6e7 * b, 1e4 * b
        J[..., 2, :, 0] = 1.0
        return f, J

    tolerance = 1e-8
    s = smnn.solve(residual, [0, 1e4], [[1.0], [0.0], [nan]], order=[1, 1, 0], tolerance=tolerance)

    def rate(t, x):
        a, b, c = x
        return [-0.04 * a + 1e4 * b * c, 0.04 * a - 1e4 * b * c - 3e7 * b**2, 3e7 * b**2]

    reference = solve_ivp(rate, (0, 1e4), [1.0, 0.0, 0.0], method="Radau", rtol=1e-11, atol=1e-16).y[:, -1]
    assert s.converged
    assert np.allclose(s.y[-1, :, 0], reference, rtol=1e-7)
    assert np.abs(s.y[..., 0].sum(axis=-1) - 1).max() < tolerance


def troesch(m, start, guess=None):
    """Troesch's problem, y'' = m sinh(m y), whose layer is as wide as exp(-m / 2)."""

    def residual(t, y):
        a = y[..., 0]
        return y[..., 2] - m * np.sinh(m * a), jacobian(t, 1, 3, e_00_0=-m * m * np.cosh(m * a[..., 0]), e_00_2=1.0)

    with np.errstate(over="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore", smnn.ConvergenceWarning)
        ends = {start: [[1.0, nan]], 1.0 - start: [[0.0, nan]]}
        return smnn.solve(residual, [0.0, 1.0], ends, order=2, guess=guess)


@pytest.mark.parametrize("start", [0.0, 1.0])
def test_continuation_keeps_meshes_of_layers_at_the_ends(start):
    first = troesch(30.0, start)
    s = troesch(40.0, start, first)
    assert s.converged
    slope = abs(s([1.0 - start])[0, 0, 1])
    assert np.isclose(slope, 8 * np.exp(-40.0), rtol=1e-3)  # from its asymptotic form for large m
    assert np.abs(np.diff(s.t)).min() < 1e-9


def test_layers_narrower_than_numbers_tell_are_refused_with_a_reason():
    s = troesch(100.0, 1.0)
    assert not s.converged
    assert "distance of two numbers" in s.reason


def bratu(strength):
    """y'' + strength exp(y) = 0, y(0) = y(1) = 0, which has no solution where strength > 3.5138."""

    def residual(t, y):
        f = strength * np.exp(y[..., 0])
        J = np.stack([f, np.zeros_like(f), np.ones_like(f)], axis=-1)[..., None, :]
        return y[..., 2] + f, J

    return residual


@pytest.mark.parametrize("strength", [3.6, 4.0, 100.0])
def test_problems_without_a_solution_end_on_coarse_meshes_with_what_was_seen(strength):
    with pytest.warns(smnn.ConvergenceWarning):
        s = smnn.solve(bratu(strength), [0, 1], {0: [[0, np.nan]], 1: [[0, np.nan]]})
    assert not s.converged
    assert s.t.size <= 513
    assert "same place on 3 meshes" in s.reason
    assert "equation 0 is off by" in s.reason


def test_the_picture_of_what_was_not_found_says_why():
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    with pytest.warns(smnn.ConvergenceWarning):
        s = smnn.solve(bratu(4.0), [0, 1], {0: [[0, np.nan]], 1: [[0, np.nan]]})
    above, _ = s.plot()
    assert above.get_title(loc="left").startswith("Newton's method ends at the same place")
    above.figure.savefig(BytesIO())  # where there is no error to show on a scale of logarithms


def test_conditions_that_leave_a_value_free_are_said_to():
    """y'' = 1, y'(0) = y'(1) = 0."""

    def residual(t, y):
        return y[..., 2] - 1, np.broadcast_to([0.0, 0.0, 1.0], (*t.shape, 1, 1, 3))

    with pytest.warns(smnn.ConvergenceWarning, match="conditions contradict each other or leave something free"):
        smnn.solve(residual, [0, 1], {0: [[np.nan, 0]], 1: [[np.nan, 0]]})


def test_a_member_without_a_solution_touches_no_other():
    conditions = {0: [[0, np.nan]], 1: [[0, np.nan]]}
    with pytest.warns(smnn.ConvergenceWarning, match="2 of 3"):
        s = smnn.solve(bratu(np.array([4.0, 3.0, 5.0])[:, None, None]), [0, 1], conditions, tolerance=1e-9)
    alone = smnn.solve(bratu(3.0), [0, 1], conditions, tolerance=1e-9)
    assert s.converged.tolist() == [False, True, False]
    assert np.isnan(s([0.5])[[0, 2]]).all()
    assert np.allclose(s([0.5])[1], alone([0.5]), rtol=1e-8)
    assert all("there may be no solution" in s.reason[b] for b in (0, 2))


def test_an_eigenvalue():
    """Mathieu: y'' + (λ - 10 cos 2t) y = 0, λ = -5.800046020852 (Abramowitz, Stegun, table 20.1)."""

    def residual(t, y, c):
        k = c[..., 0] - 10 * np.cos(2 * t)
        P = np.broadcast_to(y[..., 0, 0][..., None, None], (*t.shape, 1, 1))
        return (y[..., 0, 2] + k * y[..., 0, 0])[..., None], jacobian(t, 1, 3, e_00_2=1.0, e_00_0=k), P

    s = smnn.solve(
        residual,
        [0, np.pi],
        {0: [[1.0, 0.0]], np.pi: [[nan, 0.0]]},
        constants=[-6.0],
        guess=lambda t: np.ones((len(t), 1)),
        tolerance=1e-10,
    )
    assert s.converged
    assert abs(s.constants[0] + 5.800046020852) < 1e-10


def van_der_pol_cycle(mu):
    """x'' = T^2 (..): one period on [0, 1], first order."""

    def residual(t, y, c):
        x, v, T = y[..., 0, 0], y[..., 1, 0], c[..., 0]
        slope = mu * (1 - x**2) * v - x
        f = np.stack([y[..., 0, 1] - T * v, y[..., 1, 1] - T * slope], -1)
        by_x, by_v = T * (2 * mu * x * v + 1), -mu * T * (1 - x**2)
        J = jacobian(t, 2, 2, e_00_1=1.0, e_01_0=-T, e_11_1=1.0, e_10_0=by_x, e_11_0=by_v)
        return f, J, np.stack([-v, -slope], -1)[..., None]

    return residual


@pytest.mark.parametrize(
    ("mu", "period"), [(1.9, 7.51730), (1.99, 7.61851), (2.0, 7.62987448), (2.01, 7.64127), (2.1, 7.74484)]
)
def test_a_limit_cycle_with_its_period(mu, period):
    """Periods of mu other than 2 are those that `scipy.integrate.solve_bvp` finds with a tolerance of 1e-6."""

    def conditions(y):
        return np.concatenate([y[..., -1, :, 0] - y[..., 0, :, 0], y[..., 0, 1, :]], axis=-1)

    s = smnn.solve(
        van_der_pol_cycle(mu),
        [0, 1],
        conditions,
        order=[1, 1],
        constants=[7.0],
        guess=lambda t: np.stack([2 * np.cos(2 * np.pi * t), -2 * np.sin(2 * np.pi * t)], -1),
        tolerance=1e-9,
        max_intervals=1000,
    )
    assert s.converged
    assert abs(s.constants[0] - period) < (1e-8 if mu == 2 else 1e-5)


def test_an_overdetermined_pendulum():
    """Index 3: the constraint and its two derivatives as rows beside the equations of motion."""

    def residual(t, y):
        (x, v), (u, w), λ = y[..., :2, 0].swapaxes(0, -1).swapaxes(1, -1), (y[..., 2, 0], y[..., 3, 0]), y[..., 4, 0]
        dx, dv, du, dw = (y[..., i, 1] for i in range(4))
        f = np.stack(
            [dx - u, dv - w, du + λ * x, dw + λ * v + 1, x**2 + v**2 - 1, x * u + v * w, u**2 + w**2 - λ - v], axis=-1
        )
        J = np.zeros((*t.shape, 7, 5, 2))
        for i in range(4):
            J[..., i, i, 1] = 1.0
        J[..., 0, 2, 0] = J[..., 1, 3, 0] = -1.0
        J[..., 2, 0, 0], J[..., 2, 4, 0], J[..., 3, 1, 0], J[..., 3, 4, 0] = λ, x, λ, v
        J[..., 4, 0, 0], J[..., 4, 1, 0] = 2 * x, 2 * v
        J[..., 5, 0, 0], J[..., 5, 1, 0], J[..., 5, 2, 0], J[..., 5, 3, 0] = u, w, x, v
        J[..., 6, 2, 0], J[..., 6, 3, 0], J[..., 6, 4, 0], J[..., 6, 1, 0] = 2 * u, 2 * w, -1.0, -1.0
        return f, J

    s = smnn.solve(residual, [0, 5], [[1.0], [0.0], [0.0], [0.0], [nan]], order=[1, 1, 1, 1, 0], tolerance=1e-7)
    x, v = s.y[..., 0, 0], s.y[..., 1, 0]
    assert s.converged
    assert np.abs(x**2 + v**2 - 1).max() < 1e-8
    energy = 0.5 * (s.y[..., 2, 0] ** 2 + s.y[..., 3, 0] ** 2) + v
    assert np.abs(energy).max() < 1e-6


def test_members_of_a_batch_have_their_own_meshes():
    eps = np.array([1e-2, 1e-4, 1e-6])
    s = smnn.solve(layer(eps[:, None]), [0, 1], {0: [[1, nan]], 1: [[0, nan]]}, order=2)
    assert s.t.shape[0] == 3
    assert s.converged.all()
    t = np.linspace(0, 1, 300)
    for b in range(3):
        assert np.abs(s(t)[b, :, 0, 0] - exact_layer(t, eps[b])).max() < 1e-6


def test_a_batch_of_initial_values_and_one_that_fails():
    """y' = k y^2, y(0) = 1: ends at t = 1/k."""
    k = np.array([[0.1], [0.5], [2.0]])

    def residual(t, y):
        v = y[..., 0, 0]
        return (y[..., 0, 1] - k * v**2)[..., None], jacobian(t, 1, 2, e_00_1=1.0, e_00_0=-2 * k * v)

    with pytest.warns(smnn.ConvergenceWarning, match="1 of 3"):
        s = smnn.solve(residual, [0, 1], [[1.0]], order=1, max_intervals=500)
    assert s.converged.tolist() == [True, True, False]
    assert np.isnan(s.y[2]).all()
    assert np.isfinite(s.y[:2]).all()
    assert "t = 0.5" in s.reason[2] or "0.49" in s.reason[2]
    t = np.linspace(0, 1, 50)
    assert np.abs(s(t)[:2, :, 0, 0] - 1 / (1 - k[:2] * t)).max() < 1e-6


def van_der_pol(μ, calls):
    """y'' = μ^2 ((1 - y^2) y' - y), the time in units of μ."""

    def residual(t, y):
        calls.append(y.shape)
        v, w, a = (y[..., 0, r] for r in range(3))
        f = a - μ**2 * ((1 - v * v) * w - v)
        J = jacobian(t, 1, 3, e_00_0=μ**2 * (2 * v * w + 1), e_00_1=-(μ**2) * (1 - v * v), e_00_2=1.0)
        return f[..., None], J

    return residual


def test_a_march_takes_few_calls_and_small_tolerances_hardly_more():
    counts = []
    for tolerance in (1e-4, 1e-8):
        calls = []
        s = smnn.solve(van_der_pol(1e3, calls), [0, 2], [[2.0, 0.0]], tolerance=tolerance, order=2)
        assert s.converged
        assert s([2.0])[0, 0, 0] == pytest.approx(1.706167732170469, rel=1e-7)
        counts.append(len(calls))
    assert max(counts) < 500
    assert counts[1] < 1.3 * counts[0]


def test_without_compiled_code_a_march_comes_to_the_same(monkeypatch):
    μ = np.array([[1.0], [30.0]])
    fast = smnn.solve(van_der_pol(μ, []), [0, 1, 2], [[2.0, 0.0]], tolerance=1e-8, order=2)
    monkeypatch.setattr(compiled, "is_compiled", False)
    plain = smnn.solve(van_der_pol(μ, []), [0, 1, 2], [[2.0, 0.0]], tolerance=1e-8, order=2)
    assert fast.converged.all()
    assert plain.converged.all()
    np.testing.assert_allclose(plain([0.5, 2.0])[..., 0], fast([0.5, 2.0])[..., 0], rtol=1e-7)


def test_members_of_a_batch_are_solved_as_they_are_alone():
    """Of the three the stiff ones jump on the way: some have to be marched again."""
    μ = np.array([[1.0], [30.0], [1000.0]])
    s = smnn.solve(van_der_pol(μ, []), [0, 2], [[2.0, 0.0]], tolerance=1e-7, order=2)
    assert s.converged.all()
    for b, value in enumerate(μ.ravel()):
        alone = smnn.solve(van_der_pol(value, []), [0, 2], [[2.0, 0.0]], tolerance=2e-8, order=2)
        assert s([2.0])[b, 0, 0, 0] == pytest.approx(alone([2.0])[0, 0, 0], rel=1e-7)


def test_what_fades_is_followed():
    """y' = -y: at t = 20, where it is a thousandth of the tolerance, the error is still relative to what is left."""

    def residual(t, y):
        v = y[..., 0]
        J = jacobian(t, 2, 2, e_00_0=1.0, e_00_1=1.0, e_11_0=1.0, e_11_1=1.0)
        return np.stack([v[..., 0] + y[..., 0, 1], v[..., 1] + y[..., 1, 1] - 1], axis=-1), J

    s = smnn.solve(residual, [0, 60], [[1.0], [2.0]], tolerance=1e-6)
    assert s([20.0])[0, 0, 0] == pytest.approx(np.exp(-20), rel=1e-3, abs=0)


@pytest.mark.parametrize("n", [3, WINDOW, 5 * WINDOW + 3])
def test_recent_sizes_are_those_of_as_many_intervals_as_a_window_has(n):
    size = np.random.default_rng(0).uniform(size=(2, n, 3))
    expected = np.stack([size[:, max(0, i - WINDOW + 1) : i + 1].max(axis=1) for i in range(n)], axis=1)
    assert np.array_equal(recent(size), expected)


def test_switches_are_mesh_points():
    def residual(t, y):
        return y[..., 0, 1:2] - np.where(t < 0.3, 1.0, -2.0)[..., None], jacobian(t, 1, 2, e_00_1=1.0)

    for conditions in ([[0.0]], {1.0: [[-1.1]]}):
        s = smnn.solve(residual, [0, 0.3, 1.0], conditions)
        assert 0.3 in s.t
        assert np.allclose(s([0.15, 0.3, 0.5])[:, 0, 0], [0.15, 0.3, -0.1], atol=1e-10)


def test_continuation_and_the_mesh_that_was_given():
    s = None
    for m in (5.0, 20.0, 50.0):

        def troesch(t, y, m=m):
            v = y[..., 0, 0]
            return (y[..., 0, 2] - m * np.sinh(m * v))[..., None], jacobian(
                t, 1, 3, e_00_2=1.0, e_00_0=-(m**2) * np.cosh(m * v)
            )

        s = smnn.solve(troesch, [0, 1], {0: [[0, nan]], 1: [[1, nan]]}, guess=s, tolerance=1e-7, order=2)
        assert s.converged
    again = smnn.solve(troesch, [0, 1], {0: [[0, nan]], 1: [[1, nan]]}, mesh=s.t, guess=s, tolerance=1e-7, order=2)
    assert np.array_equal(again.t, s.t)
    assert np.allclose(again.y[..., 0], s.y[..., 0], atol=1e-9)


def decay(t, y):
    return y[..., 0, 1:2] + y[..., 0, :1], jacobian(t, 1, 2, e_00_1=1.0, e_00_0=1.0)


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"times": [0, 1, 1]}, smnn.ArgumentError, "times must ascend"),
        ({"times": [0.0]}, smnn.ShapeError, "times"),
        ({"times": [0, nan]}, smnn.ArgumentError, "times must be finite"),
        ({"conditions": {0.5: [[1.0]]}}, smnn.ArgumentError, "none of times"),
        ({"conditions": {0: [[1.0]], 1: [[2.0]]}}, smnn.ArgumentError, "2 conditions are given, and 1 are needed"),
        ({"conditions": [[nan]]}, smnn.ArgumentError, "NaN alone"),
        ({"conditions": [[1.0, 2.0]]}, smnn.ArgumentError, "derivative 1 of variable 0"),
        ({"conditions": [1.0]}, smnn.ShapeError, "conditions"),
        ({"tolerance": 1e-16}, smnn.ArgumentError, "tolerance"),
        ({"tolerance": "1"}, TypeError, "tolerance"),
        ({"absolute": -1.0}, smnn.ArgumentError, "absolute"),
        ({"guess": [[nan], [1.0]]}, smnn.ArgumentError, "guess"),
        ({"guess": [[1.0]]}, smnn.ShapeError, "guess"),
        ({"mesh": [0, 0.5]}, smnn.ArgumentError, "mesh"),
        ({"order": 0}, smnn.ArgumentError, "order"),
        ({"order": [1, 1]}, smnn.ShapeError, "order"),
        ({"residual": 3}, TypeError, "residual must be a function"),
        ({"residual": lambda t, y: y[..., 0, 1:2]}, TypeError, "tuple of 2"),
        ({"residual": lambda t, y: (y[..., 0, 1], decay(t, y)[1])}, smnn.ShapeError, "residual must return f"),
        ({"residual": lambda t, y: (y[..., 0, 1:2] + t, decay(t, y)[1])}, smnn.ShapeError, r"Q = \d+ .* Write t"),
        ({"residual": lambda t, y: (y[..., 0, 1:2].mean(-2, keepdims=True) + 0 * y[..., 0, :1], decay(t, y)[1])},
         smnn.ArgumentError, "at another time"),
        ({"constants": [nan]}, smnn.ArgumentError, "constants"),
    ],
)  # fmt: skip
def test_bad_input_is_refused_by_name(change, error, match):
    arguments = {"residual": decay, "times": [0, 1], "conditions": [[1.0]], "order": 1} | change
    with pytest.raises(error, match=match):
        smnn.solve(**arguments)


def test_a_start_at_which_nothing_is_defined():
    def residual(t, y):
        with np.errstate(all="ignore"):
            return y[..., 2] - np.log(y[..., 0] - 5), jacobian(t, 1, 3, e_00_2=1.0, e_00_0=-1 / (y[..., 0, 0] - 5))

    with pytest.raises(smnn.ArgumentError, match="not finite at the first guess, in equation 0 at t = 0"):
        smnn.solve(residual, [0, 1], {0: [[1.0, nan]], 1: [[1.0, nan]]}, order=2)


def test_solutions_can_be_pickled():
    s = smnn.solve(decay, [0, 1], [[1.0]])
    assert np.array_equal(pickle.loads(pickle.dumps(s))([0.5]), s([0.5]))


def test_times_outside_are_refused_and_callbacks_may_write():
    def writes(t, y):
        t *= 2
        y += 1
        return decay(t, y - 1)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        s = smnn.solve(writes, [0, 1], [[1.0]])
    assert s.t[-1] == 1
    assert abs(s([1.0])[0, 0, 0] - np.exp(-1)) < 1e-6
    with pytest.raises(smnn.ArgumentError, match="between the ends"):
        s([1.5])


def test_float32_in_float32_out():
    s = smnn.solve(decay, np.array([0, 1], np.float32), np.array([[1]], np.float32))
    assert s.y.dtype == s([0.5]).dtype == np.float32


@pytest.mark.skipif(not compiled.is_compiled, reason="needs the compiled engine")
@pytest.mark.parametrize("orders", [(1,), (2,), (1, 1, 1), (2, 0, 1), (3, 1), (1,) * 23])
def test_compiled_windows_are_those_of_numpy(orders):
    space, rng = Space(radau(4), orders), np.random.default_rng(0)
    B, N, V = 2, 5, len(orders)
    s = rng.uniform(0.1, 2.0, (B, N))
    x, z = rng.standard_normal((B, N + 1, space.M)), rng.standard_normal((B, N, V, space.k))
    J = rng.standard_normal((B, N * space.k, V, V, space.R + 1))
    f = rng.standard_normal((B, N * space.k, V))
    plain, fast = Window(space, s), CompiledWindow(space, s)
    for one, other in zip(plain.values(x, z), fast.values(x, z), strict=True):
        assert np.allclose(one, other, rtol=1e-11, atol=1e-11)
    d = plain.values(x, z)[1]
    for w in (plain, fast):
        w.eliminate(J)
    for start in (None, rng.standard_normal((B, space.M))):
        steps = plain.advance(f, d, start)
        for one, other in zip(steps, fast.advance(f, d, start), strict=True):
            assert np.allclose(one, other, rtol=1e-6, atol=1e-8 * np.abs(one).max())


TOUCHED = {
    "values at both ends": ((2,), 0, [[1, 0, 0], [0, 0, 1]]),
    "constants": ((2, 1), 1, [[1, 0, 0], [0, 0, 1], [0, 1, 0], [0, 0, 1]]),
    "several times at once": ((2, 0, 1), 1, [[1, 0, 1], [0, 0, 1], [1, 1, 0], [0, 0, 1]]),
    "periodic": ((1, 1, 1), 2, [[1, 0, 1]] * 5),
}


@pytest.mark.skipif(not compiled.is_compiled, reason="needs the compiled engine")
@pytest.mark.parametrize(("orders", "p", "touches"), TOUCHED.values(), ids=TOUCHED)
def test_compiled_steps_are_those_of_numpy(orders, p, touches):
    space, structure, rng = Space(gauss(3), orders), Structure(np.array(touches)), np.random.default_rng(0)
    B, N, V, k, M = 2, 5, len(orders), 3, sum(orders)
    s, index = rng.uniform(0.1, 2.0, (B, N)), np.array([[0, 2, N], [0, 3, N]])
    shapes = (B, N, k, V, V, space.R + 1), (B, N, k, V, p), (B, N, k, V), (B, N, M), (B, M + p)
    J, P, f, d, g = (rng.standard_normal(shape) for shape in shapes)
    G = rng.standard_normal((B, M + p, 3, M)) * structure.touches[:, :, None]
    rows, size = ConditionRows(g, G, rng.standard_normal((B, M + p, p))), rng.uniform(0.5, 2.0, (B, M + p))
    expected = Linear(Local(space, J, P, s), rows, structure, index, size).solve(f, d, g)
    found = Coupled(CompiledWindow(space, s), J, P, rows, structure, index, size).solve(f, d, g)
    for name in ("x", "z", "p"):
        one, other = getattr(expected, name), getattr(found, name)
        assert np.allclose(one, other, rtol=1e-8, atol=1e-9 * np.abs(expected.x).max())


@pytest.mark.skipif(not compiled.is_compiled, reason="needs the compiled engine")
def test_compiled_steps_of_conditions_that_say_the_same_twice_are_nan():
    space, N = Space(gauss(2), (2,)), 4
    J = np.zeros((1, N, 2, 1, 1, 3))
    J[..., 2] = 1.0  # y'' = f, y'(0) and y'(1) given
    G = np.zeros((1, 2, 2, 2))
    G[0, 0, 0, 1] = G[0, 1, 1, 1] = 1.0
    rows = ConditionRows(np.zeros((1, 2)), G, np.zeros((1, 2, 0)))
    window, size = CompiledWindow(space, np.full((1, N), 0.25)), np.ones((1, 2))
    P, structure = np.zeros((1, N, 2, 1, 0)), Structure(np.eye(2, dtype=bool))
    coupled = Coupled(window, J, P, rows, structure, np.array([[0, N]]), size)
    assert np.isnan(coupled.solve(np.ones((1, N, 2, 1)), np.zeros((1, N, 2)), np.zeros((1, 2))).x).any()


def test_decoupled_stages_are_those_of_constant_derivatives():
    space, rng = Space(radau(4), (1,) * 5), np.random.default_rng(0)
    B, N, V = 2, 3, 5
    s = rng.uniform(0.1, 2.0, (B, N))
    J = np.repeat(rng.standard_normal((B, N, V, V, 2)), space.k, axis=1)
    J[..., 1] += 5 * np.eye(V)
    f, d, start = (rng.standard_normal(shape) for shape in ((B, N * space.k, V), (B, N, V), (B, V)))
    plain, fast = Window(space, s), DecoupledWindow(space, s)
    for w in (plain, fast):
        w.eliminate(J)
    for one, other in zip(plain.advance(f, d, start), fast.advance(f, d, start), strict=True):
        assert np.allclose(one, other, rtol=1e-9, atol=1e-10 * np.abs(one).max())


@pytest.mark.skipif(not compiled.is_compiled, reason="needs the compiled engine")
@pytest.mark.parametrize("orders", [(1,), (2, 0, 1), (3, 1)])
def test_compiled_steps_of_newton_are_those_of_numpy(orders):
    """Of members that move, that are solved, whose f is not finite, that a zero makes relative to `least`."""
    space, rng = Space(radau(3), orders), np.random.default_rng(0)
    B, N, V = 4, 2 * WINDOW + 3, len(orders)
    s, J = rng.uniform(0.1, 1.0, (B, N)), 0.1 * rng.standard_normal((B, N * space.k, V, V, space.R + 1))
    J[..., np.arange(V), np.arange(V), list(orders)] += 1.0
    fs = 1e-3 * rng.standard_normal((3, B, N * space.k, V))
    fs[1, 2, 7 * space.k :] = np.nan
    x, z = 1e-3 * rng.standard_normal((B, N + 1, space.M)), 1e-3 * rng.standard_normal((B, N, V, space.k))
    x[3, :3] = 0.0
    units = np.full((B, space.M), 1e-3), np.array([0.0, 0.1, 0.0, 0.0]), np.array([0.0, 1e-3, 1e-6, 1e-6])
    found = []
    for window in (Window(space, s), CompiledWindow(space, s)):
        u = window.begin(x.copy(), z.copy(), *units, np.array([0, N, 0, 0]))
        seen = []
        for f, is_new in zip(fs, (True, False, True), strict=True):
            window.improve(u, f, J if is_new else None)
            names = ("x", "z", "change", "rate", "solved")
            seen += [getattr(u, name).copy() for name in names]
            moves = u.solved < N
            seen += [u.y[moves], u.d[moves] + 1e-3]  # (rounding of the states, which are as large)
        found.append(seen)
    for one, other in zip(*found, strict=True):
        size = np.abs(one[np.isfinite(one)]).max(initial=1e-300)
        np.testing.assert_allclose(other, one, rtol=1e-7, atol=1e-9 * size)
    assert np.array_equal(found[0][0][1], x[1])
    assert np.isinf(found[0][9][2, 7:]).all()


@pytest.mark.skipif(not compiled.is_compiled, reason="needs the compiled engine")
@pytest.mark.parametrize("orders", [(1,), (2, 0, 1), (3, 1)])
def test_compiled_windows_keep_what_those_of_numpy_keep(orders):
    space, rng = Space(radau(3), orders), np.random.default_rng(0)
    B, N, V = 6, 5, len(orders)
    s = rng.uniform(0.1, 0.3, (B, N)) * np.array([1, 1, 1, 1, 1, -1])[:, None]
    x, z = rng.standard_normal((B, N + 1, space.M)), rng.standard_normal((B, N, V, space.k))
    before = Progress(*(rng.random(shape) for shape in ((B, space.M), (B, V), B, (B, space.M), (B, space.M), (B, V))))
    before.top[1] = nan
    solved = np.array([5, 5, 0, 3, 5, 5], np.intc)
    found = []
    for window in (Window(space, s), CompiledWindow(space, s)):
        u = window.begin(x, z, np.ones((B, space.M)), np.zeros(B), np.ones(B), solved)
        for tolerance in ([1e9, 1e9, 1.0, 1e9, 1e-9, 1e9], [0.1, 1.0, 1.0, 0.3, 0.3, 0.03]):
            progress = deepcopy(before)
            allowed = Allowed(constants_of_error(space), np.array(tolerance), 1e-3, 1e-9)
            count, ratio = window.keep(u, solved, progress, allowed)
            ratio = np.where(np.stack([count > 0, count < solved], axis=1), ratio, 0.0)  # the others say nothing
            found.append((count, ratio, *vars(progress).values()))
    for one, other in zip(found[:2], found[2:], strict=True):
        for a, b in zip(one, other, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-10)
    assert found[0][0].tolist() == [5, 5, 0, 3, 0, 5]
    assert len({*found[1][0].tolist()}) > 2
    assert np.array_equal(found[0][2][2], before.x[2])


@pytest.mark.skipif(not compiled.is_compiled, reason="needs the compiled engine")
@pytest.mark.parametrize("descends", [False, True])
@pytest.mark.parametrize("orders", [(1,), (2, 0, 1)])
def test_compiled_polynomials_are_those_of_numpy(orders, descends, monkeypatch):
    space, rng = Space(radau(4), orders), np.random.default_rng(0)
    B, N, V = 3, 5, len(orders)
    t, times = np.sort(rng.random((B, N + 1))), rng.uniform(-0.1, 1.1, (B, 40))
    times[:, : N + 1] = t
    if descends:
        t, times = -t, -times
    x, z = rng.standard_normal((B, N + 1, space.M)), rng.standard_normal((B, N, V, space.k))
    for last in (None, np.array([4, 0, 2])):
        fast = space.at_times(x, z, t, times, last)
        with monkeypatch.context() as m:
            m.setattr(compiled, "is_compiled", False)
            plain = space.at_times(x, z, t, times, last)
        np.testing.assert_allclose(fast, plain, rtol=1e-9, atol=1e-11 * np.abs(plain).max())


@pytest.mark.skipif(not compiled.is_compiled, reason="needs the compiled engine")
@pytest.mark.parametrize("descends", [False, True])
@pytest.mark.parametrize("orders", [(1,), (2, 0, 1)])
def test_compiled_predictions_are_those_of_numpy(orders, descends, monkeypatch):
    """Of members whose window is near the last, partly near, far, and that had none."""
    space, rng = Space(radau(4), orders), np.random.default_rng(0)
    B, N, V = 4, 5, len(orders)
    t_old = np.tile(np.linspace(0, 1, N + 1), (B, 1))
    mesh = np.array([0.9, 0.4, 5.0, 1.0])[:, None] + np.linspace(0, 0.4, 4)
    at = (mesh[:, :-1, None] + np.diff(mesh)[..., None] * space.offsets).reshape(B, -1)
    if descends:
        t_old, mesh, at = -t_old, -mesh, -at
    x, z = rng.standard_normal((B, N + 1, space.M)), rng.standard_normal((B, N, V, space.k))
    before, start = (t_old, x, z, np.array([5, 2, 5, 0], np.intc)), rng.standard_normal((B, space.M))
    fast = _predicted(space, before, mesh, at, start)
    monkeypatch.setattr(compiled, "is_compiled", False)
    plain = _predicted(space, before, mesh, at, start)
    for one, other in zip(fast, plain, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-11 * np.abs(other).max())
    assert np.array_equal(fast[0][2], np.tile(start[2], (4, 1)))
    assert not np.array_equal(fast[0][1], np.tile(start[1], (4, 1)))


@pytest.mark.parametrize("width", [0.01, 0.003])
def test_a_pulse_that_marches_step_over_is_refined_where_the_estimate_sees_it(width):
    """y' = -y / 100 + a pulse of area sqrt(π), all of it between two of the times."""

    def residual(t, y):
        f = y[..., 0, 1] + 0.01 * y[..., 0, 0] - np.exp(-(((t - 50.1) / width) ** 2)) / width
        return f[..., None], np.broadcast_to([[[0.01, 1.0]]], (*t.shape, 1, 1, 2))

    s = smnn.solve(residual, [0, 50.1 - 5 * width, 50.1 + 5 * width, 100], [[1.0]])
    assert s.converged
    after = np.sqrt(np.pi) * np.exp(-0.499 + (0.005 * width) ** 2)
    np.testing.assert_allclose(s(100.0)[0, 0], np.exp(-1) + after, rtol=1e-6)


def test_ends_of_marches_are_explained():
    def ramp(t, y):
        return (y[..., 0, 1] - (t > 0.123456))[..., None], np.broadcast_to([[[0.0, 1.0]]], (*t.shape, 1, 1, 2))

    with pytest.warns(smnn.ConvergenceWarning, match="`absolute`"):
        assert "variable 0 is zero" in smnn.solve(ramp, [0, 1], [[0.0]]).reason
    s = smnn.solve(ramp, [0, 1], [[0.0]], absolute=1e-6)
    assert s.converged
    assert abs(s(1.0)[0, 0] - 0.876544) < 1e-5

    def constrained(t, y):  # y' = z, z' = -z + λ, y + z = 1: index 2, where y(0) + z(0) = 0.6
        J = np.zeros((*t.shape, 3, 3, 2))
        J[..., 0, 0, 1], J[..., 0, 1, 0] = 1.0, -1.0
        J[..., 1, 1, 1], J[..., 1, 1, 0], J[..., 1, 2, 0] = 1.0, 1.0, -1.0
        J[..., 2, :2, 0] = 1.0
        return np.einsum("...qvr,...vr->...q", J, y) - np.array([0.0, 0.0, 1.0]), J

    with pytest.warns(smnn.ConvergenceWarning, match="no step from t = 0 .* initial values contradict the equations"):
        smnn.solve(constrained, [0, 1], [[0.3], [0.3], [np.nan]], order=[1, 1, 0])

    def logarithm(t, y):
        J = np.stack([-1 / y[..., 0, 0], np.ones_like(t)], axis=-1)
        return (y[..., 0, 1] - np.log(y[..., 0, 0]))[..., None], J[..., None, None, :]

    with np.errstate(all="ignore"), pytest.warns(smnn.ConvergenceWarning, match="f is not finite at t = 0,"):
        smnn.solve(logarithm, [0, 1], [[-1.0]])
