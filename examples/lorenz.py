"""Discovers the Lorenz equations from a trajectory, by training through the solver.

A network denoises windows of the trajectory; a linear combination of the monomials of degree <= 2 of the denoised
window is the right-hand side of one ODE y' = rhs per variable; the loss compares the solution with the window. Small
coefficients are cut to zero in rounds. Ends with a table of the coefficients found against the true ones, a picture
in examples/output/lorenz/ and the worst relative error.

    python examples/lorenz.py [--seed 0] [--noise 0.01] [--device cuda] [--resume] [--paper | --smoke]

Source: experiment and published configuration (`--paper`) from Chen et al., Scalable Mechanistic Neural Networks, ICLR
2025. The default configuration trains a smaller residual denoiser, fits coefficients on the orthonormalised library and
uses the HERMITE scheme, whose discretisation biases the coefficients by 0.002 % instead of 1 % (python -m
benchmarks.accuracy).
"""

from __future__ import annotations

import argparse
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from _experiment import (
    BLACK,
    BLUE,
    ORANGE,
    Training,
    batch_of,
    command_line,
    print_table,
    save_metrics,
    save_picture,
)
from scipy.integrate import solve_ivp
from torch import Tensor, nn

from smnn_torch import HERMITE, TAYLOR, Scheme, solve_ode

Solver = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""(coefficients, rhs, initial_values, step_sizes) -> y, as `solve_ode`"""

SIGMA, RHO, BETA = 10.0, 28.0, 8.0 / 3.0
VARIABLES = ("x", "y", "z")
EXPONENTS = [e for degree in range(3) for e in itertools.combinations_with_replacement(range(3), degree)]
TERMS = ["".join(VARIABLES[i] for i in e) or "1" for e in EXPONENTS]
TRUE = {("x", "x"): -SIGMA, ("x", "y"): SIGMA, ("y", "x"): RHO, ("y", "y"): -1.0, ("y", "xz"): -1.0}
TRUE |= {("z", "z"): -BETA, ("z", "xy"): 1.0}
PUBLISHED_ERROR = 7.8
"""percent: the worst relative error of a coefficient where the published notebook ends (the -1 of y in y')"""


@dataclass(frozen=True)
class Configuration:
    """Settings that differ between our run and the published one."""

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

    @property
    def steps(self) -> int:
        """Optimisation steps in all."""
        return self.warm_up + self.rounds * self.steps_per_round

    def stage(self, step: int) -> tuple[int, int, float]:
        """Of the stage that a step belongs to: which step of it this is, how many it has, its learning rate."""
        if step < self.warm_up:
            return step, self.warm_up, self.learning_rate
        return (step - self.warm_up) % self.steps_per_round, self.steps_per_round, self.learning_rate_in_rounds


OURS = Configuration(HERMITE, 128, False, 5e-2, 2e-3, 1e-4, warm_up=1000, rounds=10, steps_per_round=50)
PAPER = Configuration(TAYLOR, 1024, True, 5e-4, 5e-4, 5e-4, warm_up=400 * 19, rounds=10, steps_per_round=19)
SMOKE = Configuration(
    HERMITE, 32, False, 5e-2, 2e-3, 1e-4, warm_up=20, rounds=2, steps_per_round=10, batch=64, n_points=1000
)


def lorenz(t: float, y: np.ndarray) -> list[float]:
    """The right-hand side of the Lorenz equations."""
    return [SIGMA * (y[1] - y[0]), y[0] * (RHO - y[2]) - y[1], y[0] * y[1] - BETA * y[2]]


def trajectory(n_points: int, step: float) -> np.ndarray:
    """The solution from (1, 1, 1), (n_points, 3)."""
    t = step * np.arange(n_points)
    solution = solve_ivp(lorenz, (0, t[-1]), [1.0, 1.0, 1.0], method="DOP853", t_eval=t, rtol=1e-11, atol=1e-11)
    return solution.y.T


def observations(configuration: Configuration, noise: float, seed: int) -> np.ndarray:
    """The trajectory, (n_points, 3), with normal noise of that many of its own standard deviations."""
    clean = trajectory(configuration.n_points, configuration.step)
    return clean + noise * np.random.default_rng(seed).normal(size=clean.shape) * clean.std(0)


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


def solve(rhs: Tensor, start: Tensor, step: float, solver: Solver) -> Tensor:
    """y' = rhs (B, T, 3) from y(0) = start (B, 3), one ODE with R = 2 per sample and variable: (B, T, 3)."""
    c = rhs.new_tensor([0.0, 1.0, 0.0]).view(1, 1, 1, 3)  # one left-hand side for all: eliminated once
    b = rhs.transpose(1, 2).unsqueeze(-1)
    u = start[..., None, None, None]
    return solver(c, b, u, rhs.new_full((1,), step))[..., 0, 0].transpose(1, 2)


def networks(data: Tensor, configuration: Configuration, seed: int) -> tuple[nn.Module, nn.Module]:
    """The denoiser and the coefficients."""
    torch.manual_seed(seed)
    denoise = Denoiser(configuration, data).to(data)
    if configuration.published:
        return denoise, PublishedCoefficients(configuration.width).to(data)
    return denoise, OrthonormalCoefficients(data, configuration.step)


def train(
    data: Tensor,
    configuration: Configuration,
    arguments: argparse.Namespace,
    solver: Solver | None = None,
    name: str = "training",
) -> tuple[np.ndarray, Training]:
    """Trains in stages: a warm-up and the rounds, each begun by cutting small coefficients, with a new optimiser.

    Args:
        data: (n_points, 3).
        configuration: what to train, and how.
        arguments: of the command line.
        solver: in place of `solve_ode` with the scheme of the configuration.
        name: of the checkpoint and the progress bar.

    Returns:
        The coefficients (10, 3), and the training with its history of losses and its time.
    """
    solver = solver or partial(solve_ode, scheme=configuration.scheme)
    denoise, coefficients = networks(data, configuration, arguments.seed)
    optimiser = torch.optim.Adam(
        [{"params": denoise.parameters()}, {"params": coefficients.parameters()}], lr=configuration.learning_rate
    )
    windows = data.unfold(0, configuration.window, 1).transpose(1, 2)
    parts = {"denoise": denoise, "coefficients": coefficients, "optimiser": optimiser}
    path = arguments.output / f"{name}.pt"
    training = Training(path, configuration.steps, arguments, description=name, **parts)
    for step in training:
        position, of, rate = configuration.stage(step)
        if position == 0:
            optimiser.state.clear()  # a new optimiser: no moments from the stage before
            if step > 0:
                coefficients.keep(coefficients().detach().abs() >= configuration.threshold)
        falling = 1.0 if configuration.published else 0.5 + 0.5 * math.cos(math.pi * position / of)
        for group, r in zip(optimiser.param_groups, (configuration.learning_rate_of_denoiser, rate), strict=True):
            group["lr"] = falling * r

        window = windows[batch_of(step, configuration.batch, len(windows), arguments.seed).to(data.device)]
        denoised = denoise(window)
        y = solve(library(denoised) @ coefficients(), denoised[:, 0], configuration.step, solver)
        loss = (y - window).square().mean() + (denoised - window).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        training.log(loss=loss.item())
    return coefficients().detach().cpu().numpy(), training


def true_coefficients() -> np.ndarray:
    """(10, 3)."""
    return np.array([[TRUE.get((v, term), 0.0) for v in VARIABLES] for term in TERMS])


def errors(found: np.ndarray) -> np.ndarray:
    """Relative errors (10, 3) in percent: infinite where a term is spurious or missing, 0 where rightly absent."""
    true = true_coefficients()
    with np.errstate(divide="ignore", invalid="ignore"):
        relative = 100 * np.abs(found / true - 1)
    return np.where((true != 0) & (found != 0), relative, np.where((true == 0) & (found == 0), 0.0, np.inf))


def report(found: np.ndarray) -> float:
    """Prints found against true; the worst relative error in percent, infinite where a term is spurious or missing."""
    true, error = true_coefficients(), errors(found)
    rows = []
    for j, variable in enumerate(VARIABLES):
        for i, term in enumerate(TERMS):
            if found[i, j] != 0 or true[i, j] != 0:
                note = f"{error[i, j]:.4f} %" if np.isfinite(error[i, j]) else "missing" if true[i, j] else "spurious"
                rows.append([variable + "'", term, f"{found[i, j]:.5f}", f"{true[i, j]:.5f}", note])
    print()
    print_table(["equation", "term", "found", "true", "error"], rows)
    print()
    return float(error.max())


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
    for k, (title, y, colour) in enumerate([("data", data.T, BLUE), ("equations found", again.y, ORANGE)]):
        axes = figure.add_subplot(grid[0, k], projection="3d")
        axes.plot(*y[:, : len(t)], lw=0.5, color=colour)
        axes.set(title=title, xlabel="x", ylabel="y", zlabel="z")
        axes.set_box_aspect(None, zoom=0.9)
    axes = figure.add_subplot(grid[0, 2])
    axes.semilogy(losses, lw=0.7, color=BLACK)
    axes.set(title="loss", xlabel="optimisation step", ylabel="mean squared error")
    axes = figure.add_subplot(grid[1, :])
    axes.plot(t, data[: len(t), 0], color=BLUE, lw=2.5, alpha=0.6, label="data")
    axes.plot(again.t, again.y[0], color=ORANGE, lw=1, label="equations found, from the same start")
    axes.set(xlabel="time", ylabel="x", title="the two part only where chaos amplifies the last digits")
    axes.legend(loc="upper center")
    save_picture(figure, path)


def main() -> None:
    parser = command_line("lorenz", __doc__)
    parser.add_argument("--noise", type=float, default=0.0, help="standard deviation of noise on the data, relative")
    parser.add_argument("--paper", dest="size", action="store_const", const="paper", help="the published configuration")
    arguments = parser.parse_args()
    configuration = {"paper": PAPER, "smoke": SMOKE}.get(arguments.size, OURS)  # --quick: it is quick as it is
    data = observations(configuration, arguments.noise, arguments.seed)
    print(f"Lorenz trajectory: {len(data)} points; windows of {configuration.window}, {configuration.batch} a batch")
    found, training = train(torch.tensor(data, device=arguments.device), configuration, arguments)
    worst = report(found)
    picture(data, found, training.history["loss"], configuration.step, arguments.output / "lorenz.png")
    save_metrics(
        arguments.output,
        arguments,
        [{"metric": "worst relative error of a coefficient, %", "ours": worst, "published": PUBLISHED_ERROR}],
        coefficients=found.tolist(),
        seconds=training.seconds,
        loss=training.history["loss"],
    )
    print(f"worst relative coefficient error: {worst:.4f} %")


if __name__ == "__main__":
    main()
