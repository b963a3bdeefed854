"""Fits on tensors: their derivatives against closed forms and differences, networks inside."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import smnn_core as smnn
import smnn_torch as st
from benchmarks.fitting_problems import CYCLE, integrate, logarithmic_lotka_volterra_field
from smnn_core.fitting._iteration import LIGHT_HERMITE

EXACT = torch.float64


def reciprocal(k: Tensor) -> Any:
    """y' + k y^2 = 0: y = 1 / (1 / y(0) + k t)."""
    return lambda t, y: y[..., 1] + k * y[..., 0] ** 2


def decay(t: Tensor, y: Tensor, k: Tensor) -> Tensor:
    return y[..., 1] + k * y[..., 0]


def decays(T: int = 41) -> Tensor:
    return 3 * torch.exp(-1.3 * 0.05 * torch.arange(T, dtype=EXACT))[:, None]


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(1, 3), nn.Tanh(), nn.Linear(3, 1)).to(EXACT)


def test_a_fit_is_that_of_the_core() -> None:
    data = decays() + 0.1 * torch.randn(41, 1, generator=torch.Generator().manual_seed(0), dtype=EXACT)
    r = st.fit_ode(decay, data, 0.05, torch.ones(1, dtype=EXACT), order=2, noise=0.1)

    def linearize(t: Any, y: Any, k: Any) -> Any:
        J = torch.stack([k[..., 0] + 0 * y[..., 0, 0], 1 + 0 * y[..., 0, 0], 0 * y[..., 0, 0]], dim=-1)
        return decay(t, y, k), J[..., None, None, :], y[..., 0][..., None]

    core = smnn.fit_ode(
        linearize, data, torch.tensor([0.05], dtype=EXACT), torch.ones(1, dtype=EXACT), order=2, noise=0.1
    )
    torch.testing.assert_close(r.parameters, core.parameters, rtol=1e-9, atol=0)
    torch.testing.assert_close(r.covariance, core.covariance, rtol=1e-6, atol=0)
    assert "±" in str(r)


def test_gradcheck_of_parameters_and_trajectory_in_the_data() -> None:
    data, noise = decays(11), torch.tensor(0.01, dtype=EXACT)

    def fitted(data: Tensor, noise: Tensor) -> tuple[Tensor, ...]:
        r = st.fit_ode(
            decay, data, 0.05, torch.full((1,), 1.2, dtype=EXACT), order=2, noise=noise,
            weights=st.Weights(equation=100.0, smoothness=1e4), max_iterations=20,
        )  # fmt: skip
        return r.parameters, r.y[..., :1]

    assert torch.autograd.gradcheck(fitted, (data.requires_grad_(), noise.requires_grad_()), rtol=1e-3, eps=1e-4)


def lotka_volterra(t: Tensor, y: Tensor, θ: Tensor) -> Tensor:
    """For logarithms."""
    (u, du), (v, dv) = (y[..., i, :2].unbind(-1) for i in (0, 1))
    a, b, c, d = θ.unbind(-1)
    return torch.stack([du - a + b * v.exp(), dv + c - d * u.exp()], dim=-1)


@pytest.mark.parametrize(("noise", "error"), [(0.001, 0.01), (0.05, 0.1), (0.25, 0.4)])
def test_how_far_derivatives_of_noisy_fits_are_those_of_the_fit(noise: float, error: float) -> None:
    """Beside differences of fits with the same weights, iterated to the end."""
    rng = np.random.default_rng(0)
    data = np.full((161, 2), np.nan)
    exact = integrate(lambda _, x: logarithmic_lotka_volterra_field(x, CYCLE), np.log([33.0, 6.0]), np.arange(0, 21.0))
    data[::8] = exact + noise * rng.normal(size=(21, 2))
    points = torch.from_numpy(data).requires_grad_()
    start = torch.tensor([0.1, 0.01, 0.1, 0.01], dtype=EXACT)
    r = st.fit_ode(lotka_volterra, points, 0.125, start, order=3, noise=noise)
    (gradient,) = torch.autograd.grad(r.parameters[0], points)

    step, at = 0.05 * noise, [0, 40, 80, 120]
    moved = torch.from_numpy(data).repeat(8, 1, 1)
    for i, t in enumerate(at):
        moved[2 * i, t, 0] += step
        moved[2 * i + 1, t, 0] -= step
    fixed = {"weights": smnn.Weights(r.weights.equation, 1.0, r.weights.smoothness), "scale": r.scale}
    fixed |= {"guess": r.y.detach(), "scheme": LIGHT_HERMITE}
    again = st.fit_ode(lotka_volterra, moved, 0.125, r.parameters.detach(), order=3, noise=noise, **fixed)
    difference = (again.parameters[::2, 0] - again.parameters[1::2, 0]) / (2 * step)
    torch.testing.assert_close(gradient[at, 0], difference.detach(), rtol=error, atol=0)


def test_the_cost_has_the_gradient_of_the_minimum() -> None:
    """Against differences of fits that were iterated to the end, on noisy data."""
    g = torch.Generator().manual_seed(0)
    data = decays(11) + 0.1 * torch.randn(11, 1, generator=g, dtype=EXACT)

    def cost(k: Tensor, noise: Tensor, w: Tensor, data: Tensor) -> Tensor:
        weights = st.Weights(equation=w, smoothness=100.0)
        return st.fit_ode(reciprocal(k), data, 0.05, order=2, noise=noise, weights=weights).cost

    inputs = [torch.tensor(x, dtype=EXACT, requires_grad=True) for x in (0.7, 0.1, 3.0)]
    assert torch.autograd.gradcheck(cost, (*inputs, data.requires_grad_()), rtol=1e-3, atol=1e-2, eps=1e-4)


def test_a_fit_that_fails_contaminates_no_shared_gradient() -> None:
    unit = torch.tensor(1.0, dtype=EXACT, requires_grad=True)
    start = torch.tensor([[0.5], [torch.nan]], dtype=EXACT)
    with pytest.warns(smnn.ConvergenceWarning, match="1 of 2 fits failed"):
        r = st.fit_ode(
            lambda t, y, k: decay(t, y, unit * k), decays().expand(2, -1, -1), 0.05, start, order=2, noise=0.1
        )
    (gradient,) = torch.autograd.grad(r.parameters[0, 0], unit)
    torch.testing.assert_close(gradient, torch.tensor(-1.3, dtype=EXACT), rtol=1e-3, atol=0)  # of 1.3 / unit


@pytest.mark.parametrize(("members", "p"), [(3, 1), (2, 2), (3, 2)])
def test_shared_parameters_have_derivatives(members: int, p: int) -> None:
    """Of a y' + k y + c = 0, for k and c proportional to a."""
    a = torch.tensor(1.0, dtype=EXACT, requires_grad=True)
    data = torch.arange(1, members + 1, dtype=EXACT)[:, None, None] * decays() + (0.5 if p == 2 else 0.0)

    def residual(t: Tensor, y: Tensor, θ: Tensor) -> Tensor:
        return a * y[..., 1] + θ[..., :1] * y[..., 0] + θ[..., 1:].sum(-1, keepdim=True)

    start = torch.ones(p, dtype=EXACT)
    r = st.fit_ode(residual, data, 0.05, start, order=3, noise=0.01, shared=True)
    exact = torch.tensor([1.3, -0.65], dtype=EXACT)[:p]
    torch.testing.assert_close(r.parameters.detach(), exact, rtol=1e-5, atol=0)
    for j in range(p):
        (gradient,) = torch.autograd.grad(r.parameters[j], a, retain_graph=True)
        torch.testing.assert_close(gradient, exact[j], rtol=1e-5, atol=0)


class Friction(nn.Module):
    """y'' + y + network(y') = 0."""

    def __init__(self) -> None:
        super().__init__()
        self.network = network()

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return y[..., 2] + y[..., 0] + self.network(y[..., 1])


def oscillations() -> Tensor:
    """Two trajectories of y'' + y + 0.2 y' = 0, (2, 101, 1)."""
    t = torch.linspace(0, 10, 101, dtype=EXACT)
    w = (1 - 0.01) ** 0.5
    wave = torch.exp(-0.1 * t) * torch.stack([torch.cos(w * t), 2 * torch.sin(w * t)])
    return wave[..., None] + 0.02 * torch.randn(2, 101, 1, generator=torch.Generator().manual_seed(0), dtype=EXACT)


def test_a_training_loop_finds_the_network() -> None:
    fit = st.ODEFit(Friction(), oscillations(), 0.1, order=2, noise=0.02)
    optimizer = torch.optim.Adam(fit.parameters(), 3e-2)
    costs = []
    for _ in range(100):
        optimizer.zero_grad()
        cost = fit().cost.sum()
        cost.backward()
        optimizer.step()
        costs.append(cost.item())
    v = torch.linspace(-1, 1, 21, dtype=EXACT)[:, None]
    assert costs[-1] < costs[0]
    error = (fit.residual.network(v) - 0.2 * v).square().mean().sqrt()
    assert error < 0.05  # a quarter of the friction at v = 1


@pytest.mark.filterwarnings("ignore:Dynamo detected a call to a `functools.lru_cache`")
def test_a_gauss_newton_step_is_compiled() -> None:
    weights = st.Weights(equation=10.0, smoothness=1e3)
    guess, k = torch.zeros(11, 1, 3, dtype=EXACT), torch.tensor(1.0, dtype=EXACT, requires_grad=True)
    given = {"order": 2, "noise": 0.1, "guess": guess, "max_iterations": 1, "weights": weights}

    def cost(k: Tensor) -> Tensor:
        return st.fit_ode(lambda t, y: decay(t, y, k), decays(11), 0.05, **given).cost

    costs = torch.compile(cost, fullgraph=True, backend="aot_eager")(k), cost(k)
    torch.testing.assert_close(*costs, rtol=1e-9, atol=0)
    torch.testing.assert_close(*(torch.autograd.grad(c, k)[0] for c in costs), rtol=1e-9, atol=0)


def test_guesses_are_kept_for_each_data_set() -> None:
    fit = st.ODEFit(Friction(), oscillations(), 0.1, order=2, noise=0.02)
    first = fit([0])
    assert torch.isnan(fit.guess[1]).all()
    torch.testing.assert_close(fit.guess[:1], first.y.detach(), rtol=0, atol=0)
    second = fit([0], iterations=2)
    assert second.iterations.item() == 2
    assert second.converged.all()
    torch.testing.assert_close(second.cost, first.cost, rtol=1e-6, atol=0)
    assert "guess" in fit.state_dict()


def test_weights_of_a_module_follow_it_and_its_members() -> None:
    equation = torch.tensor([1.0, 10.0], dtype=EXACT)[:, None, None]
    smoothness = nn.Parameter(torch.tensor([[1e2], [1e3]], dtype=EXACT))
    fit = st.ODEFit(
        Friction(), oscillations(), 0.1, order=2, noise=0.05, weights=st.Weights(equation, smoothness=smoothness)
    )
    cost = fit().cost
    torch.testing.assert_close(fit([1, 0]).cost, cost[[1, 0]], rtol=1e-6, atol=0)
    torch.testing.assert_close(fit([1]).cost, cost[1:], rtol=1e-6, atol=0)
    assert "weight_equation" in dict(fit.named_buffers())
    assert dict(fit.named_parameters())["weight_smoothness"] is smoothness
    cost.sum().backward()
    assert smoothness.grad is not None
    assert fit.float()().cost.dtype is torch.float32
    fit.weights = st.Weights(10.0, smoothness=1e3)
    assert "weight_smoothness" not in dict(fit.named_parameters())


def test_noise_of_each_variable_may_be_any_sequence() -> None:
    t = 0.1 * torch.arange(21, dtype=torch.float64)[:, None]
    data = torch.exp(-t) * torch.tensor([1.0, 2.0]) + 0.01 * torch.cos(9 * t)
    one = torch.ones(1, dtype=torch.float64)

    def fit(noise: object) -> smnn.Fit:
        return st.fit_ode(lambda t, y, k: y[..., 1] + k * y[..., 0], data, 0.1, one, order=2, noise=noise)

    assert torch.equal(fit([0.1, 0.01]).parameters, fit(torch.tensor([0.1, 0.01], dtype=torch.float64)).parameters)


STEP = {"guess": torch.zeros(11, 1, 3), "max_iterations": 1}


@pytest.mark.parametrize("more", [{}, STEP], ids=["fit", "step"])
@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"data": torch.full((11, 1), torch.inf)}, smnn.ArgumentError, "data contains infinite"),
        ({"step_sizes": torch.zeros(10)}, smnn.ArgumentError, "step_sizes contains a zero"),
        ({"noise": 0.0}, smnn.ArgumentError, "noise"),
        ({"noise": torch.tensor([-1.0])}, smnn.ArgumentError, "noise"),
        ({"scale": -1.0}, smnn.ArgumentError, "scale"),
        ({"weights": st.Weights(initial=5.0)}, smnn.ArgumentError, "weights.initial"),
        ({"weights": (1, 1)}, TypeError, "weights must be Weights"),
        ({"max_iterations": -1}, smnn.ArgumentError, "max_iterations"),
    ],
)
def test_values_that_no_fit_can_use(changes: dict, error: type, message: str, more: dict) -> None:
    arguments = {"data": torch.ones(11, 1), "step_sizes": 0.1, "order": 2, "noise": 0.1, "weights": st.Weights()}
    with pytest.raises(error, match=message):
        st.fit_ode(lambda t, y: y[..., 1] + y[..., 0], **arguments | more | changes)


@pytest.mark.parametrize("bounds", [1.0, (0.0, 2.0, 3.0)])
def test_bounds_are_a_pair(bounds: Any) -> None:
    with pytest.raises(TypeError, match="bounds must be a pair"):
        st.fit_ode(decay, decays(), 0.05, torch.ones(1, dtype=EXACT), order=2, bounds=bounds)


@pytest.mark.parametrize("noise", [0.1, torch.tensor([0.1], dtype=EXACT), torch.full((41, 1), 0.1, dtype=EXACT)])
def test_a_step_has_the_shapes_of_a_fit(noise: Any) -> None:
    data = decays().expand(2, -1, -1).clone()
    data[0, 3] = torch.nan
    options = {"order": 2, "noise": noise, "weights": st.Weights(10.0, smoothness=1e3), "scale": 2.0}

    def fit(**more: Any) -> smnn.Fit:
        step = torch.tensor(0.05, dtype=EXACT)  # without axes
        return st.fit_ode(lambda t, y: y[..., 1] + 1.3 * y[..., 0], data, step, **options, **more)

    whole = fit()
    step = fit(guess=whole.y, max_iterations=1)
    assert whole.noise.shape == ((2, 41, 1) if isinstance(noise, Tensor) and noise.ndim == 2 else (2, 1))
    torch.testing.assert_close(
        (step.noise, step.scale, *vars(step.weights).values()),
        (whole.noise, whole.scale, *vars(whole.weights).values()),
    )


def test_times_may_have_the_batch_axes() -> None:
    """y' = -t y, t from 0 and from 1."""
    t = 0.05 * torch.arange(41, dtype=EXACT) + torch.tensor([[0.0], [1.0]], dtype=EXACT)
    data = torch.exp(-(t[1] ** 2) / 2)[:, None].requires_grad_()
    r = st.fit_ode(
        lambda t, y, k: y[..., 1] + k * t[..., None] * y[..., 0], data, 0.05, torch.ones(1, dtype=EXACT),
        order=3, noise=0.1, t0=t[:, 0],
    )  # fmt: skip
    assert r.parameters.shape == (2, 1)
    torch.testing.assert_close(r.parameters[1].detach(), torch.ones(1, dtype=EXACT), rtol=1e-3, atol=0)
    assert torch.autograd.grad(r.parameters[1].sum(), data)[0].isfinite().all()


def test_what_arguments_must_be() -> None:
    def residual(t: Tensor, y: Tensor, *_: Tensor) -> Tensor:
        return y[..., 1] + y[..., 0]

    data = torch.ones(11, 1)
    for wrong, message in ((data[:, 0], "data must have shape"), (data.tolist(), "data must be a torch.Tensor")):
        for fit in (st.fit_ode, st.ODEFit):
            with pytest.raises((smnn.ShapeError, smnn.NamespaceError), match=message):
                fit(residual, wrong, 0.1, order=2, noise=0.1)
    for fit in (st.fit_ode, st.ODEFit):
        with pytest.raises(smnn.ShapeError, match="Are step_sizes the times"):
            fit(residual, data, torch.linspace(0, 1, 11), order=2, noise=0.1)


def test_a_module_has_data_of_its_own() -> None:
    """load_state_dict writes into the buffers, not into what they were made of."""
    mine = torch.ones(3, 61, 1, dtype=torch.float64)
    one, other = (st.ODEFit(lambda t, y: y[..., 1], x, 0.05, order=2, noise=0.1) for x in (mine, 5 * mine))
    one.load_state_dict(other.state_dict())
    assert (mine == 1).all()
    assert (one.data == 5).all()


def test_a_module_needs_the_noise() -> None:
    with pytest.raises(TypeError, match="noise must be a number or a tensor"):
        st.ODEFit(lambda t, y: y[..., 1], torch.ones(3, 61, 1), 0.05, order=2, noise=None)
