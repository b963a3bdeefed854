"""The problems that are timed, and the ways to solve them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

import smnn_torch
from benchmarks.baselines import mnn_conjugate_gradient, mnn_dense, smnn_cholesky
from smnn_core.engines import ENGINES

__all__ = ["BATCHES", "CASES", "DTYPES", "ENGINE_ALONE", "SCALING", "SOLVERS", "Case", "forward", "forward_backward"]

DTYPES = {"float64": torch.float64, "float32": torch.float32}


@dataclass(frozen=True)
class Case:
    """A batch of random systems in which every input varies with batch and time, or all but the left-hand side do."""

    name: str
    batch: int
    T: int
    V: int
    K: int
    Q: int
    shared: bool = False
    """one left-hand side for the whole batch, constant in time: coefficients and step sizes"""

    @property
    def n(self) -> int:
        """Unknowns per time point."""
        return self.V * self.K

    def inputs(self, dtype: str) -> tuple[Tensor, ...]:
        """coefficients, rhs, initial_values, step_sizes: well-conditioned, so that no solver breaks down in float32."""
        random = torch.Generator().manual_seed(0)
        normal = partial(torch.randn, generator=random, dtype=DTYPES[dtype])
        steps = torch.rand((self.batch, self.T - 1), generator=random, dtype=DTYPES[dtype])
        lhs = (1, 1) if self.shared else (self.batch, self.T)
        return (
            normal((*lhs, self.Q, self.V, self.K)),
            normal((self.batch, self.T, self.Q)),
            normal((self.batch, 1, self.V, self.K - 1)),
            0.5 + 0.5 * (steps[:1, :1] if self.shared else steps),
        )

    def cotangent(self, dtype: str) -> Tensor:
        """dL/dy, (batch, T, V, K)."""
        return torch.randn(
            (self.batch, self.T, self.V, self.K), generator=torch.Generator().manual_seed(1), dtype=DTYPES[dtype]
        )

    @property
    def dense_bytes(self) -> float:
        """About what `mnn_dense` needs in float64: a dense matrix of all rows, another of the unknowns, temporaries."""
        unknowns = 1 + self.T * self.n
        rows = self.T * (self.Q + self.V * (2 * self.K - 1)) + self.n
        return 8.0 * self.batch * unknowns * (2 * rows + 3 * unknowns)


CASES = (
    Case("lorenz", 1536, 50, 1, 3, 1),
    Case("lorenz shared", 1536, 50, 1, 3, 1, shared=True),
    Case("kdv", 8192, 10, 1, 5, 1),
    Case("system", 64, 1000, 3, 3, 3),
    Case("long", 1, 10_000, 1, 3, 1),
    Case("long system", 1, 10_000, 3, 3, 3),
    Case("another size", 256, 300, 2, 4, 2),
)

SCALING = Case("scaling", 64, 10_000, 1, 3, 1)
"""The shape of `scaling`, whose batch and T vary."""
BATCHES = (1, 64)
ENGINE_ALONE = "smnn, engine alone"
"""The name of a solver that only `scaling` times."""

Solve = Callable[..., Tensor]

SOLVERS: dict[str, Solve] = {
    "smnn_cholesky": smnn_cholesky,
    "smnn": partial(smnn_torch.solve_ode, scheme=smnn_torch.TAYLOR),
    "mnn_dense": mnn_dense,
    "mnn_conjugate_gradient": mnn_conjugate_gradient,
}
"""With the published scheme.

`smnn` is the library as it comes (engine="auto"); where that is not the array API engine, this one is timed too."""
if len(ENGINES) > 1:
    SOLVERS["smnn, array_api"] = partial(smnn_torch.solve_ode, scheme=smnn_torch.TAYLOR, engine="array_api")


def forward(solve: Solve, inputs: tuple[Tensor, ...]) -> Callable[[], Tensor]:
    """A function that solves once."""

    def run() -> Tensor:
        with torch.no_grad():
            return solve(*inputs)

    return run


def forward_backward(solve: Solve, inputs: tuple[Tensor, ...], g: Tensor) -> Callable[[], tuple[Tensor, ...]]:
    """A function that solves once and pulls g back to all inputs."""
    leaves = [x.detach().requires_grad_() for x in inputs]

    def run() -> tuple[Tensor, ...]:
        return torch.autograd.grad(solve(*leaves), leaves, g)

    return run
