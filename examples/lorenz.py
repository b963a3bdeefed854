"""Discovers the Lorenz equations from a trajectory, by training through the solver.

A network denoises windows of the trajectory; a linear combination of the monomials of degree <= 2 of the denoised
window is the right-hand side of one ODE y' = rhs per variable; the loss compares the solution with the window. Small
coefficients are cut to zero in rounds. Ends with a table of the coefficients found against the true ones, a picture
in examples/output/ and the worst relative error.

    python examples/lorenz.py [--seed 0] [--device cuda] [--paper]

Source: experiment and published configuration (`--paper`) from Chen et al., Scalable Mechanistic Neural Networks, ICLR
2025. The default configuration trains a smaller residual denoiser, fits coefficients on the orthonormalised library and
uses the HERMITE scheme, whose discretisation biases the coefficients by 0.002 % instead of 1 % (python -m
benchmarks.accuracy).
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch
from scipy.integrate import solve_ivp
from torch import Tensor, nn
from tqdm import tqdm

from smnn_torch import HERMITE, TAYLOR, Scheme, solve_ode

SIGMA, RHO, BETA = 10.0, 28.0, 8.0 / 3.0
VARIABLES = ("x", "y", "z")
EXPONENTS = [e for degree in range(3) for e in itertools.combinations_with_replacement(range(3), degree)]
TERMS = ["".join(VARIABLES[i] for i in e) or "1" for e in EXPONENTS]
TRUE = {("x", "x"): -SIGMA, ("x", "y"): SIGMA, ("y", "x"): RHO, ("y", "y"): -1.0, ("y", "xz"): -1.0}
TRUE |= {("z", "z"): -BETA, ("z", "xy"): 1.0}
OUTPUT = Path(__file__).parent / "output"


@dataclass(frozen=True)
class Configuration:
    """What differs between our run and the published one."""

    scheme: Scheme
    width: int
    """of the two hidden layers of the denoising network"""
    published: bool
    """as published: plain networks for the window and for the coefficients; else a residual one, and coefficients on
    an orthonormalised library"""
    learning_rate: float
    """of the coefficients before the first round of thresholding"""
    learning_rate_in_rounds: float
    learning_rate_of_denoiser: float
    warm_up: int
    """optimisation steps before the first round of thresholding"""
    rounds: int
    steps_per_round: int
    window: int = 50
    batch: int = 512
    step: float = 0.01
    n_points: int = 10_000
    threshold: float = 0.1


OURS = Configuration(HERMITE, 128, False, 5e-2, 2e-3, 1e-4, warm_up=1000, rounds=10, steps_per_round=50)
PAPER = Configuration(TAYLOR, 1024, True, 5e-4, 5e-4, 5e-4, warm_up=400 * 19, rounds=10, steps_per_round=19)
SMOKE = Configuration(HERMITE, 32, False, 5e-2, 2e-3, 1e-4, warm_up=20, rounds=2, steps_per_round=10, batch=64)


def lorenz(t: float, y: np.ndarray) -> list[float]:
    """The right-hand side of the Lorenz equations."""
    return [SIGMA * (y[1] - y[0]), y[0] * (RHO - y[2]) - y[1], y[0] * y[1] - BETA * y[2]]


def trajectory(n_points: int, step: float) -> np.ndarray:
    """The solution from (1, 1, 1), (n_points, 3)."""
    t = step * np.arange(n_points)
    solution = solve_ivp(lorenz, (0, t[-1]), [1.0, 1.0, 1.0], method="DOP853", t_eval=t, rtol=1e-11, atol=1e-11)
    return solution.y.T


def library(y: Tensor) -> Tensor:
    """The monomials of degree <= 2 of (..., 3): (..., 10)."""
    one = torch.ones_like(y[..., 0])
    return torch.stack([one if not e else torch.prod(y[..., list(e)], dim=-1) for e in EXPONENTS], dim=-1)


def mlp(*sizes: int) -> nn.Sequential:
    """Linear layers with ReLU between them."""
    layers: list[nn.Module] = []
    for i, (a, b) in enumerate(itertools.pairwise(sizes)):
        layers += [nn.Linear(a, b)] + ([nn.ReLU()] if i < len(sizes) - 2 else [])
    return nn.Sequential(*layers)


class Denoiser(nn.Module):
    """A window (B, T, 3) to a denoised one of the same shape."""

    def __init__(self, configuration: Configuration, data: Tensor) -> None:
        super().__init__()
        size = 3 * configuration.window
        self.net = mlp(size, configuration.width, configuration.width, size)
        self.residual = not configuration.published
        if self.residual:
            nn.init.zeros_(self.net[-1].weight)
            nn.init.zeros_(self.net[-1].bias)
        self.register_buffer("mean", data.mean(0) if self.residual else torch.zeros_like(data[0]))
        self.register_buffer("scale", data.std(0) if self.residual else torch.ones_like(data[0]))

    def forward(self, window: Tensor) -> Tensor:
        """Works on standardised values where it is residual."""
        x = (window - self.mean) / self.scale
        y = self.net(x.flatten(1)).view_as(x)
        return self.mean + self.scale * (x + y if self.residual else y)


class PublishedCoefficients(nn.Module):
    """10 x 3 coefficients from a network on a learned vector."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.vector = nn.Parameter(torch.randn(64))
        self.net = mlp(64, width, width, len(TERMS) * 3)
        self.register_buffer("mask", torch.ones(len(TERMS), 3))

    def forward(self) -> Tensor:
        """(10, 3)."""
        return self.mask * self.net(self.vector).view(len(TERMS), 3)

    @torch.no_grad()
    def keep(self, mask: Tensor) -> None:
        """Cuts the coefficients outside the mask, (10, 3), to zero for good."""
        self.mask.copy_(mask)


class OrthonormalCoefficients(nn.Module):
    """10 x 3 coefficients, parametrised on the library orthonormalised over the data: gradient descent sees no scales.

    For equation j with kept terms m_j and library Θ (N, 10), Θ[:, m_j] / sqrt(N) = Q R: the parameters are R times the
    coefficients, in units of the standard deviation of the derivative.
    """

    def __init__(self, data: Tensor, step: float) -> None:
        super().__init__()
        self.theta = library(data)
        self.unit = ((data[1:] - data[:-1]) / step).std(0)
        self.parameters_ = nn.Parameter(torch.zeros(len(TERMS), 3, dtype=data.dtype, device=data.device))
        self.register_buffer("inverse", torch.zeros(3, len(TERMS), len(TERMS), dtype=data.dtype, device=data.device))
        self.keep(torch.ones(len(TERMS), 3))

    def forward(self) -> Tensor:
        """(10, 3)."""
        return torch.einsum("jkl,lj->kj", self.inverse, self.parameters_ * self.unit)

    @torch.no_grad()
    def keep(self, mask: Tensor) -> None:
        """Cuts the coefficients outside the mask, (10, 3), to zero for good, and keeps the others as they are."""
        found = self() * mask.to(self.parameters_)
        self.inverse.zero_()
        self.parameters_.zero_()
        for j in range(3):
            kept = torch.nonzero(mask[:, j]).flatten().to(self.theta.device)
            if len(kept):
                R = torch.linalg.qr(self.theta[:, kept] / len(self.theta) ** 0.5, mode="r").R
                self.inverse[j, kept[:, None], kept] = torch.linalg.inv(R)
                self.parameters_[kept, j] = R @ found[kept, j] / self.unit[j]


def solve(rhs: Tensor, start: Tensor, step: float, scheme: Scheme) -> Tensor:
    """y' = rhs (B, T, 3) from y(0) = start (B, 3), one ODE with R = 2 per sample and variable: (B, T, 3)."""
    c = rhs.new_tensor([0.0, 1.0, 0.0]).view(1, 1, 1, 3)  # one left-hand side for all: eliminated once
    b = rhs.transpose(1, 2).unsqueeze(-1)
    u = start[..., None, None, None]
    return solve_ode(c, b, u, rhs.new_full((1,), step), scheme=scheme)[..., 0, 0].transpose(1, 2)


def batches(data: Tensor, configuration: Configuration, generator: torch.Generator) -> Iterator[Tensor]:
    """Random windows (B, T, 3), for ever, in epochs without repetition."""
    windows = data.unfold(0, configuration.window, 1).transpose(1, 2)
    while True:
        order = torch.randperm(len(windows), generator=generator)
        for chosen in order[: len(order) // configuration.batch * configuration.batch].split(configuration.batch):
            yield windows[chosen.to(data.device)]


def train(data: Tensor, configuration: Configuration, seed: int) -> tuple[np.ndarray, list[float]]:
    """The coefficients (10, 3) and the loss of every step."""
    torch.manual_seed(seed)
    denoise = Denoiser(configuration, data).to(data)
    if configuration.published:
        coefficients: nn.Module = PublishedCoefficients(configuration.width).to(data)
    else:
        coefficients = OrthonormalCoefficients(data, configuration.step)
    stream = batches(data, configuration, torch.Generator().manual_seed(seed))
    losses: list[float] = []
    total = configuration.warm_up + configuration.rounds * configuration.steps_per_round
    with tqdm(total=total, desc="training", unit="step") as progress:

        def stage(steps: int, learning_rate: float) -> None:
            optimiser = torch.optim.Adam(
                [
                    {"params": denoise.parameters(), "lr": configuration.learning_rate_of_denoiser},
                    {"params": coefficients.parameters(), "lr": learning_rate},
                ]
            )
            schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
            for window in itertools.islice(stream, steps):
                denoised = denoise(window)
                y = solve(library(denoised) @ coefficients(), denoised[:, 0], configuration.step, configuration.scheme)
                loss = (y - window).square().mean() + (denoised - window).square().mean()
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                if not configuration.published:
                    schedule.step()
                losses.append(loss.item())
                progress.update()
                progress.set_postfix(loss=f"{losses[-1]:.1e}", refresh=False)

        stage(configuration.warm_up, configuration.learning_rate)
        for _ in range(configuration.rounds):
            coefficients.keep(coefficients().detach().abs() >= configuration.threshold)
            stage(configuration.steps_per_round, configuration.learning_rate_in_rounds)
    return coefficients().detach().cpu().numpy(), losses


def true_coefficients() -> np.ndarray:
    """(10, 3)."""
    return np.array([[TRUE.get((v, term), 0.0) for v in VARIABLES] for term in TERMS])


def report(found: np.ndarray) -> float:
    """Prints found against true; the worst relative error in percent, infinite where a term is spurious or missing."""
    true = true_coefficients()
    print(f"\n{'equation':<9}{'term':<6}{'found':>12}{'true':>12}{'error':>12}")
    worst = 0.0
    for j, variable in enumerate(VARIABLES):
        for i, term in enumerate(TERMS):
            if found[i, j] == 0 and true[i, j] == 0:
                continue
            error = 100 * abs(found[i, j] / true[i, j] - 1) if true[i, j] and found[i, j] else np.inf
            note = f"{error:.4f} %" if np.isfinite(error) else ("missing" if true[i, j] else "spurious")
            print(f"{variable + chr(39):<9}{term:<6}{found[i, j]:>12.5f}{true[i, j]:>12.5f}{note:>12}")
            worst = max(worst, error)
    return worst


def picture(data: np.ndarray, found: np.ndarray, losses: list[float], step: float, path: Path) -> None:
    """The trajectory, the one of the equations found, and the loss."""

    def rhs(t: float, y: np.ndarray) -> np.ndarray:
        return np.array([1, *y, *(y[i] * y[j] for i, j in EXPONENTS[4:])]) @ found

    t = step * np.arange(min(2000, len(data)))
    limit = lambda t, y: 1e3 - np.abs(y).max()  # noqa: E731  (a failed discovery may explode)
    limit.terminal = True
    again = solve_ivp(rhs, (0, t[-1]), data[0], method="DOP853", t_eval=t, rtol=1e-10, atol=1e-10, events=limit)
    figure = plt.figure(figsize=(13, 7.2), layout="constrained")
    grid = figure.add_gridspec(2, 3, wspace=0.12)
    blue, orange = "#0072B2", "#D55E00"
    for k, (title, y, colour) in enumerate([("data", data.T, blue), ("equations found", again.y, orange)]):
        axes = figure.add_subplot(grid[0, k], projection="3d")
        axes.plot(*y[:, : len(t)], lw=0.5, color=colour)
        axes.set(title=title, xlabel="x", ylabel="y", zlabel="z")
        axes.set_box_aspect(None, zoom=0.9)
    axes = figure.add_subplot(grid[0, 2])
    axes.semilogy(losses, lw=0.7, color="black")
    axes.set(title="loss", xlabel="optimisation step", ylabel="mean squared error")
    axes = figure.add_subplot(grid[1, :])
    axes.plot(t, data[: len(t), 0], color=blue, lw=2.5, alpha=0.6, label="data")
    axes.plot(again.t, again.y[0], color=orange, lw=1, label="equations found, from the same start")
    axes.set(xlabel="time", ylabel="x", title="the two part only where chaos amplifies the last digits")
    axes.legend(loc="upper center")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu", help="where to train: cpu, cuda, ...")
    parser.add_argument("--seed", type=int, default=0, help="of the networks and batches")
    parser.add_argument("--noise", type=float, default=0.0, help="standard deviation of noise on the data, relative")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--paper", action="store_true", help="the published configuration (a GPU is advisable)")
    size.add_argument("--smoke", action="store_true", help="a few steps, to see that everything runs")
    arguments = parser.parse_args()
    configuration = PAPER if arguments.paper else SMOKE if arguments.smoke else OURS
    clean = trajectory(configuration.n_points, configuration.step)
    noise = np.random.default_rng(arguments.seed).normal(size=clean.shape) * clean.std(0)
    data = clean + arguments.noise * noise
    print(f"Lorenz trajectory: {len(data)} points; windows of {configuration.window}, {configuration.batch} a batch")
    found, losses = train(torch.tensor(data, device=arguments.device), configuration, arguments.seed)
    worst = report(found)
    path = OUTPUT / f"lorenz-seed{arguments.seed}.png"
    picture(data, found, losses, configuration.step, path)
    print(f"\npicture: {path}")
    print(f"worst relative coefficient error: {worst:.4f} %")


if __name__ == "__main__":
    main()
