"""Fits a second-order ODE to a noisy damped sine, by training a `MechanisticODE` through the solver.

All there is to learn: three coefficients for each of 500 time points, and 499 step sizes; the right-hand side is 1 and
there are no initial values. The published solver is trained from the same start, for the same number of iterations.
Ends with a table of the losses and a picture in examples/output/damped_sine/.

    python examples/damped_sine.py [--seed 0] [--device cuda] [--resume] [--quick | --smoke]

Source: experiment and published configuration (Adam, learning rate 1e-2, 500 iterations) from Chen et al., Scalable
Mechanistic Neural Networks, ICLR 2025. The layer is trained in the same way, for comparison, and at a rate that
falls from 5e-2 to zero along a cosine. --quick trains two seeds instead of five.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from _experiment import BLACK, BLUE, Training, command_line, print_table, save_metrics, save_picture
from torch import Tensor, nn

from benchmarks.baselines import smnn_cholesky
from smnn_torch import TAYLOR, MechanisticODE

N_STEPS, STEP = 500, 0.1
PUBLISHED_RATE, FALLING_RATE = 1e-2, 5e-2
FALLING, SAME_RATE, PUBLISHED = "MechanisticODE, falling rate", "MechanisticODE, published rate", "published solver"


def sample(seed: int, device: str) -> tuple[Tensor, Tensor]:
    """Data (T,), and the coefficients (T, 3) that the training starts with."""
    g = torch.Generator().manual_seed(seed)
    t = torch.linspace(0, N_STEPS * STEP, N_STEPS)
    data = (torch.sin(2 * t) + 0.5 * torch.randn(N_STEPS, generator=g)) * torch.exp(-0.1 * t)
    return data.to(device), torch.rand(N_STEPS, 3, generator=g).to(device)


def our_layer(start: Tensor) -> MechanisticODE:
    """The layer, with the published scheme and parameterisation: a sigmoid between 0 and 1 for the steps."""
    layer = MechanisticODE(
        n_steps=N_STEPS,
        coefficients="shared",
        rhs=torch.ones(1, 1),
        initial_values=torch.zeros(0, 1, 0),
        step_sizes="shared",
        time_invariant=(),
        step_size=STEP,
        step_bounds=(0.0, 1.0),
        scheme=TAYLOR,
    ).to(start.device)
    with torch.no_grad():
        layer.shared_coefficients.copy_(start)
    return layer


class PublishedLayer(nn.Module):
    """The same for a batch of starts (B, T, 3), solved by block Cholesky on the normal equations."""

    def __init__(self, start: Tensor) -> None:
        super().__init__()
        self.coefficients = nn.Parameter(start[..., None, None, :].clone())
        logits = torch.logit(torch.tensor(STEP)).to(start.device)
        self.logits = nn.Parameter(logits.repeat(len(start), N_STEPS - 1))

    def forward(self) -> Tensor:
        rhs = self.coefficients.new_ones(1, 1)
        return smnn_cholesky(self.coefficients, rhs, rhs.new_zeros(0, 1, 0), torch.sigmoid(self.logits))


@dataclass(frozen=True)
class Run:
    """One layer trained on one or several seeds."""

    losses: Tensor
    """(iterations, seeds)"""
    trajectories: Tensor
    """(seeds, T), after the last iteration"""
    seconds: float


def train(layer: nn.Module, data: Tensor, falling: bool, name: str, arguments: argparse.Namespace) -> Run:
    """Trains on data (T,), or on (seeds, T) with a layer that solves as many."""
    iterations = arguments.iterations
    optimizer = torch.optim.Adam(layer.parameters(), lr=FALLING_RATE if falling else PUBLISHED_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, iterations)
    path = arguments.output / (name.replace(",", "").replace(" ", "-") + ".pt")
    parts = {"layer": layer, "optimizer": optimizer, "schedule": schedule}
    training = Training(path, iterations, arguments, description=name, **parts)
    for _ in training:
        optimizer.zero_grad()
        losses = (layer()[..., 0, 0] - data).square().sum(-1)
        losses.sum().backward()
        optimizer.step()
        if falling:
            schedule.step()
        training.log(**{f"loss {i}": loss for i, loss in enumerate(losses.detach().reshape(-1).tolist())})
    with torch.no_grad():
        trajectories = layer()[..., 0, 0].reshape(-1, N_STEPS)
    history = torch.tensor([training.history[f"loss {i}"] for i in range(len(trajectories))]).T
    return Run(history, trajectories, training.seconds)


def train_each(start: Tensor, data: Tensor, falling: bool, name: str, arguments: argparse.Namespace) -> Run:
    """A `MechanisticODE` for every seed, one after the other."""
    runs = [
        train(our_layer(c), y, falling, f"{name}, seed {arguments.seed + i}", arguments)
        for i, (c, y) in enumerate(zip(start, data, strict=True))
    ]
    losses, trajectories = torch.cat([x.losses for x in runs], dim=1), torch.cat([x.trajectories for x in runs])
    return Run(losses, trajectories, sum(x.seconds for x in runs))


def picture(data: Tensor, runs: dict[str, Run], path: Path) -> None:
    """Data and fit of the first seed, and its loss under every solver."""
    t = torch.linspace(0, N_STEPS * STEP, N_STEPS)
    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4))
    left.plot(t, data.cpu(), ".", ms=3, color="0.6", label="data")
    left.plot(t, torch.sin(2 * t) * torch.exp(-0.1 * t), "--", lw=1, color=BLACK, label="without noise")
    left.plot(t, runs[FALLING].trajectories[0].cpu(), lw=1.5, color=BLUE, label="MechanisticODE")
    left.set(xlabel="t", ylabel="y", title="noisy damped sine")
    left.legend()
    for (name, run), style in zip(runs.items(), ("-", "-", "--"), strict=True):
        right.semilogy(run.losses[:, 0], lw=1.5, ls=style, label=name)
    right.set(xlabel="iteration", ylabel="summed squared error", title="training")
    right.legend()
    save_picture(figure, path)


def main() -> None:
    parser = command_line("damped_sine", __doc__)
    parser.add_argument("--seeds", type=int, default=5, help="how many, from --seed on; 2 with --quick")
    parser.add_argument("--iterations", type=int, default=500)
    arguments = parser.parse_args()
    if arguments.size != "full":
        arguments.seeds = min(arguments.seeds, 2)
    if arguments.size == "smoke":
        arguments.iterations = 5
    torch.set_default_dtype(torch.float64)

    seeds = range(arguments.seed, arguments.seed + arguments.seeds)
    data, start = (torch.stack(x) for x in zip(*(sample(seed, arguments.device) for seed in seeds), strict=True))
    runs = {
        FALLING: train_each(start, data, True, FALLING, arguments),
        SAME_RATE: train_each(start, data, False, SAME_RATE, arguments),
        PUBLISHED: train(PublishedLayer(start), data, False, PUBLISHED, arguments),
    }

    last = {name: run.losses[-1].tolist() for name, run in runs.items()}
    print()
    rows = [[name, *(f"{x:.3f}" for x in last[name]), f"{runs[name].seconds:.1f}"] for name in runs]
    print_table(["summed squared error", *(f"seed {s}" for s in seeds), "seconds"], rows)
    picture(data[0], runs, arguments.output / "damped_sine.png")
    better = sum(ours <= published for ours, published in zip(last[FALLING], last[PUBLISHED], strict=True))
    summary = [
        {
            "metric": f"summed squared error, {name.split(', ')[1]}, mean of {len(seeds)} seeds",
            "ours": sum(last[name]) / len(seeds),
            "published": sum(last[PUBLISHED]) / len(seeds),
            "note": "published: its algorithm, run here",
        }
        for name in (FALLING, SAME_RATE)
    ]
    seconds = {name: run.seconds for name, run in runs.items()}
    save_metrics(arguments.output, arguments, summary, losses=last, seconds=seconds)
    print(f"loss at least as low as with the published solver: {better} of {len(seeds)} seeds")


if __name__ == "__main__":
    main()
