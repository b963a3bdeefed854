"""Fits a second-order ODE to a noisy damped sine, by training a `MechanisticODE` through the solver.

All there is to learn: three coefficients for each of 500 time points, and 499 step sizes; the right-hand side is 1 and
there are no initial values. The published solver is trained from the same start, for the same number of iterations.
Ends with a table of the losses and a picture in examples/output/.

    python examples/damped_sine.py [--seed 0] [--device cuda] [--quick]

Source: experiment and published configuration (Adam, learning rate 1e-2, 500 iterations) from Chen et al., Scalable
Mechanistic Neural Networks, ICLR 2025. The layer is trained in the same way, for comparison, and at a rate that
falls from 5e-2 to zero along a cosine.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
import torch
from torch import Tensor, nn
from tqdm import tqdm

from smnn_core.baselines import smnn_cholesky
from smnn_torch import MechanisticODE

N_STEPS, STEP = 500, 0.1
PUBLISHED_RATE, FALLING_RATE = 1e-2, 5e-2
OUTPUT = Path(__file__).parent / "output"


def sample(seed: int, device: str) -> tuple[Tensor, Tensor]:
    """Data (T,), and the coefficients (T, 3) that the training starts with."""
    g = torch.Generator().manual_seed(seed)
    t = torch.linspace(0, N_STEPS * STEP, N_STEPS)
    data = (torch.sin(2 * t) + 0.5 * torch.randn(N_STEPS, generator=g)) * torch.exp(-0.1 * t)
    return data.to(device), torch.rand(N_STEPS, 3, generator=g).to(device)


def our_layer(start: Tensor) -> MechanisticODE:
    """The layer, with the published parameterisation: a sigmoid between 0 and 1 for the steps."""
    layer = MechanisticODE(
        n_steps=N_STEPS,
        coefficients="shared",
        rhs=torch.ones(1, 1),
        initial_values=torch.zeros(0, 1, 0),
        step_sizes="shared",
        time_invariant=(),
        step_size=STEP,
        step_bounds=(0.0, 1.0),
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


def train(layer: nn.Module, data: Tensor, iterations: int, falling: bool, name: str) -> tuple[Tensor, Tensor, float]:
    """The losses (iterations, ...), the last trajectory (..., T), and the seconds it took."""
    optimizer = torch.optim.Adam(layer.parameters(), lr=FALLING_RATE if falling else PUBLISHED_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, iterations)
    losses, begin = [], time.perf_counter()
    for _ in tqdm(range(iterations), desc=name):
        optimizer.zero_grad()
        trajectory = layer()[..., 0, 0]
        loss = (trajectory - data).square().sum(-1)
        loss.sum().backward()
        optimizer.step()
        if falling:
            schedule.step()
        losses.append(loss.detach())
    return torch.stack(losses), trajectory.detach(), time.perf_counter() - begin


def picture(data: Tensor, trajectory: Tensor, losses: dict[str, Tensor], path: Path) -> None:
    """Data and fit of the first seed, and its loss under every solver."""
    t = torch.linspace(0, N_STEPS * STEP, N_STEPS)
    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4), layout="constrained")
    left.plot(t, data.cpu(), ".", ms=3, color="0.6", label="data")
    left.plot(t, torch.sin(2 * t) * torch.exp(-0.1 * t), "--", lw=1, color="k", label="without noise")
    left.plot(t, trajectory.cpu(), lw=1.5, color="tab:blue", label="MechanisticODE")
    left.set(xlabel="t", ylabel="y", title="Noisy damped sine")
    left.legend(frameon=False)
    for name, values in losses.items():
        right.semilogy(values.cpu(), lw=1.5, label=name)
    right.set(xlabel="iteration", ylabel="summed squared error", title="Training")
    right.legend(frameon=False)
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0, help="the first of the seeds")
    parser.add_argument("--seeds", type=int, default=5, help="how many")
    parser.add_argument("--iterations", type=int, default=500)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--quick", action="store_true", help="leave out the published solver, which takes a minute")
    parser.add_argument("--smoke", action="store_true", help="few iterations, to see that everything runs")
    arguments = parser.parse_args()
    iterations = 5 if arguments.smoke else arguments.iterations
    torch.set_default_dtype(torch.float64)

    seeds = range(arguments.seed, arguments.seed + arguments.seeds)
    data, start = (torch.stack(x) for x in zip(*(sample(seed, arguments.device) for seed in seeds), strict=True))
    runs: dict[str, tuple[Tensor, Tensor, float]] = {}

    def ours(falling: bool, name: str) -> tuple[Tensor, Tensor, float]:
        each = [
            train(our_layer(c), y, iterations, falling, f"{name}, seed {s}")
            for s, c, y in zip(seeds, start, data, strict=True)
        ]
        losses, trajectories, seconds = zip(*each, strict=True)
        return torch.stack(losses, dim=-1), torch.stack(trajectories), sum(seconds)

    name = "MechanisticODE, falling rate"
    runs[name] = ours(True, name)
    if not arguments.quick:
        runs["MechanisticODE, published rate"] = ours(False, "published rate")
        runs["published solver"] = train(PublishedLayer(start), data, iterations, False, "published solver")

    print(f"\n{'summed squared error':32}" + "".join(f"seed {s:<5}" for s in seeds) + "seconds")
    for run, (losses, _, seconds) in runs.items():
        print(f"{run:32}" + "".join(f"{float(x):<10.3f}" for x in losses[-1]) + f"{seconds:.1f}")
    path = OUTPUT / "damped_sine.png"
    picture(data[0], runs[name][1][0], {run: losses[:, 0] for run, (losses, _, _) in runs.items()}, path)
    print(f"picture: {path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path}")
    if "published solver" in runs:
        better = int((runs[name][0][-1] <= runs["published solver"][0][-1]).sum())
        print(f"loss at least as low as with the published solver: {better} of {len(seeds)} seeds")


if __name__ == "__main__":
    main()
