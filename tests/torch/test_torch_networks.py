"""Networks in the residual of `smnn_torch.fit`: fitted in one call, from defaults."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from torch import nn

import smnn_core as smnn
import smnn_torch as st

pytestmark = pytest.mark.filterwarnings("ignore:.*jit.*:DeprecationWarning")
NOISE = 0.05


def swings(friction, n=6, times=301, seed=0):
    """Times, exact angles and velocities (n, times, 2), and noisy angles, a list of (times, 1)."""
    t = 0.05 * np.arange(times)
    starts = (2.0, -2.3, 2.6, -2.9, 3.1, -1.2)[:n]
    field = lambda _, z: [z[1], -np.sin(z[0]) - friction(z[1])]  # noqa: E731
    exact = np.stack([solve_ivp(field, (0, t[-1]), (a, 0.0), t_eval=t, rtol=1e-9, atol=1e-9).y.T for a in starts])
    data = exact[..., :1] + NOISE * np.random.default_rng(seed).standard_normal((n, times, 1))
    return t, exact, list(data)


def network(width=16, seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(1, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 1))


def pendulum(t, y, friction):
    return y[..., 2] + y[..., 0].sin() + friction(y[..., 1])


def error(net, exact, friction):
    v = exact[..., 1:]
    with torch.no_grad():
        found = net(torch.as_tensor(v, dtype=next(net.parameters()).dtype)).numpy()
    return np.sqrt(((found - friction(v)) ** 2).mean() / (friction(v) ** 2).mean())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("friction", "most"),
    [(lambda v: 0.15 * v + 0.1 * v**3, 0.05), (lambda v: 0.1 * v + 0.25 * np.abs(v) * v, 0.03)],
    ids=["cubic", "quadratic"],
)
@pytest.mark.parametrize("seed", [0, 1])
def test_friction_of_a_pendulum_from_noisy_angles(friction, most, seed):
    t, exact, data = swings(friction, seed=seed)
    net = network(seed=seed)
    r = st.fit(pendulum, t, data, net, order=2, noise=NOISE)
    assert r.converged
    assert not r.messages
    assert error(net, exact, friction) < most
    assert r.networks["network"] is net
    assert r.degrees == 1806 - 12
    band = r.predict(t[::20], lambda t, y, net: net(y[..., 1]), experiment=4)
    truth = friction(exact[4, ::20, 1])
    assert (np.abs(band.value[:, 0] - truth) < 4 * band.error[:, 0]).mean() > 0.8


def test_three_ways_to_name_a_network_are_the_same():
    friction = lambda v: 0.3 * v  # noqa: E731
    t, _, data = swings(friction, 2, 61)

    class Pendulum(nn.Module):
        def __init__(self):
            super().__init__()
            self.friction = network(4)

        def forward(self, t, y):
            return pendulum(t, y, self.friction)

    closed = network(4)
    results = [
        st.fit(pendulum, t, data, network(4), order=2, noise=NOISE),
        st.fit(Pendulum(), t, data, order=2, noise=NOISE),
        st.fit(lambda t, y, θ: pendulum(t, y, closed), t, data, {"inside": closed}, order=2, noise=NOISE),
    ]
    for r in results[1:]:
        np.testing.assert_allclose(r.cost, results[0].cost, rtol=1e-10)


def test_parameters_beside_a_network():
    friction = lambda v: 0.1 * v + 0.1 * v**3  # noqa: E731
    t, exact, data = swings(friction)

    def equation(t, y, θ):
        return y[..., 2] + θ["g"][..., None] * y[..., 0].sin() + θ["friction"](y[..., 1])

    net = network(8)
    r = st.fit(equation, t, data, {"friction": net, "g": 1.5}, order=2, noise=NOISE)
    assert r.names == ("g",)
    assert r.parameters.shape == (1,)
    assert abs(r["g"] - 1) < 4 * r.standard_errors[0] < 0.02
    assert error(net, exact, friction) < 0.06
    assert "friction: 97 weights" in str(r)


@pytest.mark.parametrize("data_type", [torch.float32, torch.float64])
@pytest.mark.parametrize("net_type", [torch.float32, torch.float64])
def test_data_and_networks_of_either_precision(data_type, net_type):
    seen = set()
    net = nn.Linear(1, 1).to(net_type)

    def decay(t, y, net):
        seen.add(y.dtype)
        return y[..., 1] - net(y[..., 0])

    t = torch.linspace(0, 3, 61)
    data = torch.exp(-t)[:, None].to(data_type)
    r = st.fit(decay, t, data, net, noise=0.01)
    assert seen == {torch.float64}
    assert r.converged
    assert net.weight.dtype == net_type
    assert abs(net.weight.item() + 1) < 0.02


def test_residuals_without_networks_get_the_precision_of_the_data():
    seen = set()

    def decay(t, y, k):
        seen.update((t.dtype, y.dtype, k.dtype))
        return y[..., 1] + k * y[..., 0]

    t = torch.linspace(0, 3, 61)
    st.fit(decay, t, torch.exp(-t)[:, None], [1.0], noise=0.01)
    assert seen == {torch.float32}


def test_weights_without_gradients_stay():
    net = network(4)
    net[0].requires_grad_(False)
    before = net[0].weight.clone()
    t, _, data = swings(lambda v: 0.3 * v, 2, 61)
    r = st.fit(pendulum, t, data, net, order=2, noise=NOISE)
    assert torch.equal(net[0].weight, before)
    assert "25 weights" in str(r)


def test_what_does_not_fit_is_named():
    t, _, data = swings(lambda v: 0.3 * v, 2, 31)
    net = network(2)
    with pytest.raises(smnn.ArgumentError, match="experiments: give a list"):
        st.fit(pendulum, t, np.stack(data), net, order=2, noise=NOISE)
    with pytest.raises(smnn.ArgumentError, match="share weights"):
        st.fit(lambda t, y, θ: y[..., 2], t, data, {"a": net, "b": nn.Sequential(net)}, order=2, noise=NOISE)
    with pytest.raises(smnn.ArgumentError, match="dict of names"):
        st.fit(nn.Linear(3, 1).double(), t, data, [1.0], order=2, noise=NOISE)
    with pytest.raises(smnn.ArgumentError, match="take another"):
        st.fit(nn.Linear(3, 1).double(), t, data, {"residual": 1.0}, order=2, noise=NOISE)
