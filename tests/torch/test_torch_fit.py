"""`smnn_torch.fit`: callbacks that return values alone, differentiated by one forward pass."""

from __future__ import annotations

import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

import smnn_core as smnn
import smnn_torch as st
from benchmarks.fitting import run
from benchmarks.fitting_problems import fitzhugh_nagumo
from benchmarks.hidden_problems import HIDDEN

pytestmark = pytest.mark.filterwarnings("ignore:.*jit.*:DeprecationWarning")


def decay(t, y, k):
    return y[..., 1] + k * y[..., 0]


def test_equals_the_core_with_derivatives_by_hand():
    def spikes(t, y, θ):
        (a, b, c), (v, r) = θ.unbind(-1), y[..., 0].unbind(-1)
        return torch.stack([y[..., 0, 1] - c * (v - v**3 / 3 + r), y[..., 1, 1] + (v - a + b * r) / c], -1)

    rate = lambda _, x: [3 * (x[0] - x[0] ** 3 / 3 + x[1]), -(x[0] - 0.2 + 0.2 * x[1]) / 3]  # noqa: E731
    t = np.linspace(0, 20, 41)
    x = solve_ivp(rate, (0, 20), [-1, 1], t_eval=t, rtol=1e-10, atol=1e-10).y.T
    data = x + 0.2 * np.random.default_rng(0).standard_normal((5, 41, 2))
    r = st.fit(spikes, t, torch.as_tensor(data), torch.ones(5, 3, dtype=torch.float64), noise=0.2)
    core = smnn.fit(fitzhugh_nagumo, t, data, np.ones((5, 3)), noise=0.2)
    np.testing.assert_allclose(r.parameters, core.parameters, rtol=1e-8)
    np.testing.assert_allclose(r.standard_errors, core.standard_errors, rtol=1e-8)


def test_enzyme_of_which_the_product_is_seen():
    """From known initial values: both rates within their errors, where the errors of others explain nothing."""
    t = np.linspace(0, 20, 161)
    rate = lambda _, x: [  # noqa: E731
        -x[0] * x[1] + 1.2 * x[2],
        -x[0] * x[1] + 0.2 * x[2],
        x[0] * x[1] - 1.2 * x[2],
        x[2],
    ]
    x = solve_ivp(rate, (0, 20), [0.1, 1, 0, 0], t_eval=t, rtol=1e-10, atol=1e-12).y.T

    def equations(t, y, q):
        E, S, C = y[..., :3, 0].unbind(-1)
        b, k = q["binding"] * E * S, q["turnover"]
        d = y[..., 1]
        return d + torch.stack([b - 0.2 * C - k * C, b - 0.2 * C, -b + 0.2 * C + k * C, -k * C], -1)

    data = np.full(x.shape, np.nan)
    data[:, 3] = x[:, 3] + 0.01 * np.random.default_rng(0).standard_normal(161)
    start = {"binding": smnn.Parameter(1.0), "turnover": smnn.Parameter(1.0)}
    r = st.fit(equations, t, data, start, noise=0.01, initial=[0.1, 1.0, 0.0, 0.0])
    assert r.converged
    assert r.cost < 160 + 5 * 320**0.5
    assert (np.abs(r.parameters - 1) < 3 * r.standard_errors).all()


def test_rates_a_thousand_times_apart_of_which_the_product_is_seen():
    """The fast one is known from below alone; fits from solutions of the equations find what data allow."""
    problem = next(p for p in HIDDEN if "rates 1000" in p.name)
    data, truth = problem.data(5)[1:], np.array(problem.truth)
    r, _ = run(problem, data, np.tile(truth, (4, 1)))
    exact = ((problem.exact - data) / 0.01)[..., 3]
    assert r.converged.all()
    assert (r.cost < (exact**2).sum(1) + 0.5).all()  # the cost of the truth, where mesh and weight are finite
    assert (np.abs(r.parameters[:, 2] - 1) < 4 * r.standard_errors[:, 2]).all()


@pytest.mark.parametrize("hidden", [[], [1, 3]])
def test_lorenz_96(hidden):
    """Two hidden variables of five: found, and not without a word where they are not."""
    t = np.linspace(0, 20, 401)
    rate = lambda _, x: (np.roll(x, -1) - np.roll(x, 2)) * np.roll(x, 1) - x + 8  # noqa: E731
    x = solve_ivp(rate, (0, 20), [8.1, 8, 8, 8, 8], t_eval=t, rtol=1e-10, atol=1e-12).y.T

    def equations(t, y, q):
        X = y[..., 0]
        drift = q[..., :1] * (torch.roll(X, -1, -1) - torch.roll(X, 2, -1)) * torch.roll(X, 1, -1)
        return y[..., 1] - drift + q[..., 1:2] * X - q[..., 2:3]

    noise = 0.1 * x.std(0)
    data = x + noise * np.random.default_rng(0).standard_normal(x.shape)
    data[:, hidden] = np.nan
    r = st.fit(equations, t, data, [1.0, 1.0, 8.0], noise=noise)
    freedom = np.isfinite(data).sum() - 8
    assert r.converged
    assert abs(r.cost - freedom) < 5 * (2 * freedom) ** 0.5
    assert (np.abs(r.parameters - [1, 1, 8]) < 4 * r.standard_errors).all()


def test_callbacks_get_the_dtype_of_the_data():
    net = torch.nn.Linear(1, 1)
    with torch.no_grad():
        net.weight.fill_(-1.3), net.bias.fill_(0.0)
    seen = set()

    def equations(t, y, θ):
        seen.update((t.dtype, y.dtype, θ.dtype))
        return y[..., 1] - θ * net(y[..., 0])

    t = torch.linspace(0, 3, 61)
    for dtype in (torch.float32, torch.float64):
        net.to(dtype)
        seen.clear()
        r = st.fit(equations, t, torch.exp(-1.3 * t)[:, None].to(dtype), [0.5], noise=0.1)
        assert seen == {dtype}
        assert r.converged
        assert abs(r.parameters[0] - 1) < 0.01


@pytest.mark.parametrize("gradients", [False, True])
def test_a_member_without_data_fails_alone(gradients):
    t = torch.linspace(0, 3, 61, dtype=torch.float64)
    x = 3 * torch.exp(-1.3 * t)[:, None]
    data = torch.stack([x, 1.1 * x, torch.nan * x])
    with (
        torch.set_grad_enabled(gradients),
        pytest.warns(smnn.ConvergenceWarning, match="1 of 3 data sets have no finite value"),
    ):
        r = st.fit(decay, t, data, torch.ones(3, 1), noise=0.02)
    np.testing.assert_allclose(r.parameters[:2, 0], 1.3, atol=1e-5)
    assert r.converged.tolist() == [True, True, False]


def test_equations_that_are_not_finite_along_the_way():
    """Hes1 by logarithms, one variable never observed: exponentials overflow; members that fail leave others alone."""
    truth = np.array([0.022, 0.3, 0.031, 0.028, 0.5, 20, 0.3])

    def rates(x, q, lib):
        (p, m, h), (a, b, c, d, e, f, g) = x, q
        return [
            -a * lib.exp(h) + b * lib.exp(m - p) - c,
            -d + e * lib.exp(-m) / (1 + lib.exp(2 * p)),
            -a * lib.exp(p) + f * lib.exp(-h) / (1 + lib.exp(2 * p)) - g,
        ]

    def equations(t, y, q):
        return y[..., 1] - torch.stack(rates(y[..., 0].unbind(-1), q.unbind(-1), torch), -1)

    t = np.linspace(0, 240, 33)
    first = np.log([1.439, 2.037, 17.904])
    x = solve_ivp(lambda _, y: rates(y, truth, np), (0, 240), first, "LSODA", t, rtol=1e-10, atol=1e-12).y.T
    rng = np.random.default_rng(0)
    data = x + 0.15 * rng.standard_normal((6, 33, 3))
    data[:, 1::2, 0] = data[:, ::2, 1] = data[..., 2] = np.nan
    start = truth * np.exp(rng.uniform(np.log(2), np.log(10), (6, 7)) * rng.choice([-1, 1], (6, 7)))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        r = st.fit(equations, t, data, start, noise=0.15, bounds=(0.0, None), guess=[np.nan, np.nan, 2.0])
        best = st.fit(equations, t, data, np.tile(truth, (6, 1)), noise=0.15, bounds=(0.0, None), guess=first)
    lost = ~r.converged | (r.cost > best.cost + 1)
    spoken = any(issubclass(w.category, (smnn.ConvergenceWarning, smnn.MisfitWarning)) for w in said)
    assert best.converged.sum() >= 5
    assert spoken or not lost.any()


def test_a_residual_that_is_no_tensor_is_refused():
    with pytest.raises(smnn.ArgumentError, match="residual must return a tensor"):
        st.fit(lambda t, y, k: None, [0.0, 1.0], [1.0, 2.0], [1.0])


def test_doses_by_a_function_of_a_parameter():
    t = np.linspace(0.5, 10, 20)
    data = 100 / 25 * (np.exp(-0.4 * t) + np.where(t > 4.2, np.exp(-0.4 * (t - 4.2)), 0.0))
    r = st.fit(
        lambda t, y, θ: y[..., 1] + θ["k"][..., None] * y[..., 0],
        t,
        data,
        {"k": 1.0, "volume": 10.0},
        noise=0.01,
        t0=0.0,
        initial=lambda θ: 100 / θ["volume"],
        jumps=([4.2], lambda θ: 100 / θ["volume"]),
        variables=1,
    )
    assert r.converged
    np.testing.assert_allclose(r.parameters, [0.4, 25.0], rtol=1e-5)


@pytest.mark.parametrize("name", ["data", "noise", "parameters"])
def test_gradients_that_would_be_lost_are_refused(name):
    t = torch.linspace(0, 2, 21, dtype=torch.float64)
    arguments = {"data": 3 * torch.exp(-1.3 * t), "noise": torch.tensor(0.01), "parameters": torch.ones(1)}
    arguments[name].requires_grad_()

    def residual(t, y, k):
        return y[..., 1] + k * y[..., 0]

    with pytest.raises(smnn.ArgumentError, match=f"^{name} requires gradients"):
        st.fit(residual, t, **arguments)
    with torch.no_grad():
        st.fit(residual, t, **arguments)


def test_threads_fit_and_solve_side_by_side() -> None:
    t = np.linspace(0, 5, 20)
    data = np.exp(-t) + 0.01 * np.random.default_rng(0).normal(size=20)
    start = torch.ones(1, 1, dtype=torch.float64)

    def both(k: float) -> tuple[float, float]:
        r = st.fit(lambda t, y, k: y[..., 1] + k * y[..., 0], t, data, [k])
        s = st.solve(lambda t, y: y[..., 1] + k * y[..., 0] ** 2, [0, 1], start)
        return float(r.parameters[0]), float(s(1.0)[0, 0]) * (1 + k)

    with ThreadPoolExecutor(6) as pool:
        found = np.array(list(pool.map(both, np.linspace(0.5, 1.5, 12))))
    np.testing.assert_allclose(found[:, 0], found[0, 0], rtol=1e-3)
    np.testing.assert_allclose(found[:, 1], 1.0, rtol=1e-5)


@pytest.mark.parametrize("initial", [{"a": [1.0]}, 1.0])
def test_initial_values_that_are_no_arrays_are_refused_where_variables_are_counted(initial: object) -> None:
    t = torch.linspace(0, 1, 20)

    def observe(t: torch.Tensor, y: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
        return y[..., 0]

    with pytest.raises(ValueError, match="initial must"):
        st.fit(lambda t, y, k: y[..., 1] + k * y[..., 0], t, t, [1.0], observe=observe, initial=initial)


def test_a_parameter_with_an_axis_too_many_is_told_its_shape() -> None:
    t = torch.linspace(0, 1, 20)
    with pytest.raises(smnn.ShapeError, match=r"is \(M, 1\)"):
        st.fit(lambda t, y, θ: y[..., 1] + θ["k"][..., None, None] * y[..., 0], t, t, {"k": 1.0})
