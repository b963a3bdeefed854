"""A batch of boundary-value problems with gradients: `smnn_torch.solve` beside `scipy.integrate.solve_bvp`.

    python -m benchmarks.boundary_batch [--members 1000]

Bratu's problem y'' + λ exp(y) = 0, y(0) = y(1) = 0, for λ from 0.1 to 3; the gradient of the sum of y(1/2) by all λ.
`solve_bvp` takes one problem after the other and has no gradients. Errors are those of y(1/2), against a solution at
1e-11.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from scipy.integrate import solve_bvp
from torch import Tensor

import smnn_torch

from .timing import measure

ENDS = {0: [[0.0, float("nan")]], 1: [[0.0, float("nan")]]}


def bratu(strength: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda t, y: y[..., 2] + strength[:, None, None] * torch.exp(y[..., 0])


def by_solve(strength: Tensor, tolerance: float = 1e-6) -> Tensor:
    return smnn_torch.solve(bratu(strength), [0, 1], ENDS, tolerance=tolerance, order=2)([0.5])[:, 0, 0, 0]


def one_by_one(strength: Tensor) -> Tensor:
    def middle(λ: float) -> float:
        def field(_: np.ndarray, x: np.ndarray) -> np.ndarray:
            return np.stack([x[1], -λ * np.exp(x[0])])

        run = solve_bvp(field, lambda a, b: np.array([a[0], b[0]]), [0.0, 0.5, 1.0], np.zeros((2, 3)), tol=1e-6)
        return float(run.sol(0.5)[0])

    return torch.tensor([middle(λ) for λ in strength.tolist()])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--members", type=int, default=1000)
    torch.set_default_dtype(torch.float64)
    strength = torch.linspace(0.1, 3.0, parser.parse_args().members, requires_grad=True)
    exact = by_solve(strength.detach(), 1e-11)
    solvers = {"solve, 1e-6": by_solve, "solve, 1e-4": partial(by_solve, tolerance=1e-4)}

    def with_gradient(solver: Callable[[Tensor], Tensor]) -> Callable[[], Tensor]:
        return lambda: torch.autograd.grad(solver(strength).sum(), strength)[0]

    runs = {name: with_gradient(solver) for name, solver in solvers.items()}
    solvers["solve_bvp, no gradient"] = one_by_one
    timings = measure(runs | {"solve_bvp, no gradient": lambda: one_by_one(strength)})
    for name, solver in solvers.items():
        error = float((solver(strength).detach() - exact).abs().max())
        print(f"{name:24s} {1e3 * timings[name].seconds:7.0f} ms, error {error:.0e}")


if __name__ == "__main__":
    main()
