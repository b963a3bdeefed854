"""Finds the friction of a pendulum, a network inside its equation, from noisy positions.

The equation is q'' + sin(q) + friction(q') = 0. Nothing is known of the friction but that it depends on the velocity: a
network 1-32-32-1, trained by `smnn_torch.fit` on five trajectories of 401 positions with noise 0.05. Velocities are not
measured, no initial-value problem is solved, no solver is unrolled, and nothing is tuned. Beside it what one would try
first: a network fitted to derivatives of the smoothed data. Ends with the errors and a picture in
examples/output/pendulum/.

    python examples/pendulum.py [--seed 0] [--quick | --smoke]
"""

from __future__ import annotations

import time
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from _experiment import BLACK, BLUE, ORANGE, command_line, save_metrics, save_picture
from _pendulum import NOISE, STEP, friction, friction_error, network, positions, trajectories
from torch import Tensor, nn

import smnn_torch as st
from smnn_core import Fitted

RATE = 1e-2
"""of Adam, for the regression and for other solvers"""
STEPS = 600
"""of the regression"""


class Pendulum(nn.Module):
    """q'' + sin(q) + network(q') = 0."""

    def __init__(self) -> None:
        super().__init__()
        self.network = network()

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        q, v, a = y.unbind(-1)
        return a + q.sin() + self.network(v)


def train(data: Tensor, most: int = 30) -> tuple[Fitted, nn.Module, float]:
    """The fit of data (experiments, T, 1), the network in it, and the seconds that it took."""
    began, model = time.perf_counter(), Pendulum()
    t = STEP * torch.arange(data.shape[1], dtype=data.dtype)
    fit = st.fit(model, t, list(data), order=2, noise=NOISE, max_iterations=most, progress=True)
    return fit, model.network, time.perf_counter() - began


def regression(data: Tensor, steps: int) -> nn.Module:
    """The network fitted to -q'' - sin(q) of smoothed data, at their velocities."""
    curvature = torch.tensor([[[[0.0, 0.0, 1.0]]]], dtype=data.dtype)
    weights = st.Weights(equation=0.1, initial=1.0, smoothness=100.0)
    step_sizes = torch.tensor([STEP], dtype=data.dtype)
    y = st.solve_ode(
        curvature, data.new_zeros(1, 1), data[..., None], step_sizes, n_steps=data.shape[1], weights=weights
    )
    (q, v, a), net = y[..., 0, :].unbind(-1), network()
    optimizer = torch.optim.Adam(net.parameters(), RATE)
    for _ in range(steps):
        optimizer.zero_grad()
        (net(v[..., None])[..., 0] + a + q.sin()).square().mean().backward()
        optimizer.step()
    return net


def picture(fit: Fitted, net: nn.Module, other: nn.Module, data: Tensor, exact: Tensor, path: Path) -> None:
    """The friction with its band, and the trajectory that starts highest with its data."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4))
    v = torch.linspace(exact[..., 1].min(), exact[..., 1].max(), 200, dtype=exact.dtype)
    t = (STEP * torch.arange(exact.shape[1])).numpy()
    band = fit.predict(t, lambda t, y: net(y[..., 1]), experiment=len(exact) - 1)
    order = fit(t, experiment=len(exact) - 1, orders=2)[:, 0, 1].argsort()
    velocity = fit(t, experiment=len(exact) - 1, orders=2)[order, 0, 1]
    with torch.no_grad():
        left.plot(v, friction(v), color=BLACK, lw=3, alpha=0.3, label="truth")
        left.plot(v, other(v[:, None]), color=ORANGE, lw=1, label="regression on smoothed data")
        left.plot(v, net(v[:, None]), color=BLUE, label="network in the equation")
    left.fill_between(velocity, band.lower[order, 0], band.upper[order, 0], color=BLUE, alpha=0.2, lw=0)
    left.set(xlabel="velocity", ylabel="friction", title="The friction found, with a 95 % band")
    left.legend()
    right.plot(t, data[-1, :, 0], ".", ms=3, color="0.6", label="data")
    right.plot(t, exact[-1, :, 0], color=BLACK, lw=3, alpha=0.3, label="truth")
    right.plot(t, fit(t, experiment=len(exact) - 1), color=BLUE, lw=1, label="trajectory found")
    right.set(xlabel="time", ylabel="angle", title="One of five trajectories")
    right.legend()
    save_picture(figure, path)


def main() -> None:
    parser = command_line("pendulum", __doc__, resumes=False)
    arguments = parser.parse_args()
    smoke = arguments.size == "smoke"
    torch.manual_seed(arguments.seed)
    exact = trajectories()
    data = positions(exact, arguments.seed)
    if smoke:
        exact, data = exact[:2, :101], data[:2, :101]
    fit, net, seconds = train(data, 2 if smoke else 30)
    other = regression(data, 10 if smoke else STEPS)
    error, naive = (100 * friction_error(each, exact) for each in (net, other))
    t = (STEP * torch.arange(exact.shape[1])).numpy()
    found = torch.stack([torch.from_numpy(fit(t, experiment=i)[:, 0]) for i in range(len(exact))])
    distance = ((found - exact[..., 0]).square().mean().sqrt() / NOISE).item()
    print(fit)
    print(f"friction: {error:.1f} % off (root mean square over the velocities of the trajectories), {seconds:.1f} s")
    print(f"regression on derivatives of the smoothed data: {naive:.0f} % off")
    print(f"trajectories: within {distance:.2f} of the noise")
    picture(fit, net, other, data, exact, arguments.output / "pendulum.png")
    summary = [
        {"metric": "error of the friction, %", "ours": error},
        {"metric": "the same by regression on smoothed data, %", "ours": naive},
        {"metric": "error of the trajectories, of the noise", "ours": distance},
    ]
    save_metrics(arguments.output, arguments, summary, seconds=seconds)


if __name__ == "__main__":
    main()
