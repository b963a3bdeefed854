"""Finds the friction of a pendulum, a network inside its equation, from noisy positions.

The equation is q'' + sin(q) + friction(q') = 0. Nothing is known of the friction but that it depends on the velocity: a
network 1-32-32-1, trained through `smnn_torch.ODEFit` on five trajectories of 401 positions with noise 0.05. Velocities
are not measured, no initial-value problem is solved and no solver is unrolled. Beside it what one would try first: a
network fitted to derivatives of the smoothed data. Ends with the errors and a picture in examples/output/pendulum/.

    python examples/pendulum.py [--seed 0] [--quick | --smoke]
"""

from __future__ import annotations

import time
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from _experiment import BLACK, BLUE, ORANGE, command_line, minimise, save_metrics, save_picture
from _pendulum import NOISE, STEP, friction, friction_error, network, positions, trajectories
from torch import Tensor, nn

import smnn_torch as st

RATE = 1e-2
"""of Adam, at the start; it falls to zero along a cosine"""
LIGHT, HEAVY = 3.0, 100.0
"""Weight of the equation at the first and at the last step: inverse standard deviation of what it may leave."""
SMOOTHNESS = 1e5
"""Weight of the smoothness rows, nearly exact."""


class Pendulum(nn.Module):
    """q'' + sin(q) + network(q') = 0."""

    def __init__(self) -> None:
        super().__init__()
        self.network = network()

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        q, v, a = y.unbind(-1)
        return a + q.sin() + self.network(v)


def train(data: Tensor, steps: int) -> tuple[st.ODEFit, Tensor, float]:
    """The module, the trajectories (5, T) that it found, and the seconds that it took."""
    began = time.perf_counter()
    fit = st.ODEFit(Pendulum(), data, STEP, order=2, noise=NOISE)
    result = minimise(fit, steps, rate=RATE, light=LIGHT, heavy=HEAVY, smoothness=SMOOTHNESS)
    return fit, result.y[..., 0, 0].detach(), time.perf_counter() - began


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


def picture(fit: st.ODEFit, other: nn.Module, found: Tensor, exact: Tensor, path: Path) -> None:
    """The friction, and the trajectory that starts highest with its data."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4))
    v = torch.linspace(exact[..., 1].min(), exact[..., 1].max(), 200, dtype=exact.dtype)
    with torch.no_grad():
        left.plot(v, friction(v), color=BLACK, lw=3, alpha=0.3, label="truth")
        left.plot(v, other(v[:, None]), color=ORANGE, lw=1, label="regression on smoothed data")
        left.plot(v, fit.residual.network(v[:, None]), color=BLUE, label="network in the equation")
    left.set(xlabel="velocity", ylabel="friction", title="The friction found")
    left.legend()
    t = STEP * torch.arange(exact.shape[1])
    right.plot(t, fit.data[-1, :, 0], ".", ms=3, color="0.6", label="data")
    right.plot(t, exact[-1, :, 0], color=BLACK, lw=3, alpha=0.3, label="truth")
    right.plot(t, found[-1], color=BLUE, lw=1, label="trajectory found")
    right.set(xlabel="time", ylabel="angle", title="One of five trajectories")
    right.legend()
    save_picture(figure, path)


def main() -> None:
    parser = command_line("pendulum", __doc__, resumes=False)
    parser.add_argument("--steps", type=int, default=600)
    arguments = parser.parse_args()
    if arguments.size == "smoke":
        arguments.steps = 10
    torch.manual_seed(arguments.seed)
    exact = trajectories()
    data = positions(exact, arguments.seed)
    fit, found, seconds = train(data, arguments.steps)
    other = regression(data, arguments.steps)
    error, naive = (100 * friction_error(net, exact) for net in (fit.residual.network, other))
    distance = ((found - exact[..., 0]).square().mean().sqrt() / NOISE).item()
    print(f"friction: {error:.1f} % off (root mean square over the velocities of the trajectories), {seconds:.1f} s")
    print(f"regression on derivatives of the smoothed data: {naive:.0f} % off")
    print(f"trajectories: within {distance:.2f} of the noise")
    picture(fit, other, found, exact, arguments.output / "pendulum.png")
    summary = [
        {"metric": "error of the friction, %", "ours": error},
        {"metric": "the same by regression on smoothed data, %", "ours": naive},
        {"metric": "error of the trajectories, of the noise", "ours": distance},
    ]
    save_metrics(arguments.output, arguments, summary, seconds=seconds)


if __name__ == "__main__":
    main()
