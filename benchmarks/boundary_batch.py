"""A batch of boundary-value problems with gradients: `smnn_torch.solve` beside `solve_nonlinear_ode` on a given grid.

    python -m benchmarks.boundary_batch [--members 1000]

Bratu's problem y'' + λ exp(y) = 0, y(0) = y(1) = 0, for λ from 0.1 to 3; the gradient of the sum of y(1/2) by all λ.
Errors are those of y(1/2), against a solution at 1e-11.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

import smnn_torch

from .timing import measure

ENDS = {0: [[0.0, float("nan")]], 1: [[0.0, float("nan")]]}
POINTS, ORDER = 51, 4


def bratu(strength: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda t, y: y[..., 2] + strength[:, None, None] * torch.exp(y[..., 0])


def by_solve(strength: Tensor, tolerance: float = 1e-6) -> Tensor:
    return smnn_torch.solve(bratu(strength), [0, 1], ENDS, tolerance=tolerance, order=2)([0.5])[:, 0, 0, 0]


def on_a_grid(strength: Tensor) -> Tensor:
    u = torch.as_tensor(smnn_torch.conditions(POINTS, {0: 0.0, -1: 0.0}))
    found = smnn_torch.solve_nonlinear_ode(bratu(strength), u, 1 / (POINTS - 1), order=ORDER, n_steps=POINTS)
    return found.y[:, POINTS // 2, 0, 0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--members", type=int, default=1000)
    torch.set_default_dtype(torch.float64)
    strength = torch.linspace(0.1, 3.0, parser.parse_args().members, requires_grad=True)
    exact = by_solve(strength.detach(), 1e-11)
    solvers = {
        "solve, 1e-6": by_solve,
        "solve, 1e-4": partial(by_solve, tolerance=1e-4),
        f"solve_nonlinear_ode, {POINTS} points": on_a_grid,
    }

    def with_gradient(solver: Callable[[Tensor], Tensor]) -> Callable[[], Tensor]:
        return lambda: torch.autograd.grad(solver(strength).sum(), strength)[0]

    timings = measure({name: with_gradient(solver) for name, solver in solvers.items()})
    for name, solver in solvers.items():
        error = float((solver(strength).detach() - exact).abs().max())
        print(f"{name:32s} {1e3 * timings[name].seconds:7.0f} ms with gradient, error {error:.0e}")


if __name__ == "__main__":
    main()
