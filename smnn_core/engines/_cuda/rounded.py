"""float32 as a type of storage: what goes in is widened, kernels compute in float64, what comes out is rounded once.

On devices whose float64 is nearly as fast as their float32, as those of data centres. In float32 arithmetic third-order
equations with short steps have no correct digit, and well-posed systems are taken for singular.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..._arrays import Array
from ..._problem import Gradients, Problem, Rows, System
from .._contract import ALL, by_field, from_fields
from .._refinement import widened

__all__ = ["RoundedFactor", "widened", "widened_problem"]


@dataclass(frozen=True, eq=False)
class RoundedFactor:
    """A factor in float64 of a system in float32: see `engines._contract.Factor`."""

    system: System
    wide: Any
    solved: tuple[Problem, Problem, Array] | None = None
    """the problem that was solved with it, the same in float64, and its solution: residuals are small differences"""

    @property
    def undetermined(self) -> Array:
        return self.wide.undetermined

    @property
    def nbytes(self) -> int:
        """The memory that the factor keeps."""
        return int(self.wide.nbytes)

    def solve(self, d: Rows) -> Array:
        return self._rounded(self.wide.solve(_widened_rows(self.system, d)))

    def normal_solve(self, g: Array) -> Array:
        return self._rounded(self.wide.normal_solve(_wide(self.system, g)))

    def adjoint(self, problem: Problem, y: Array, g: Array, wanted: Gradients = ALL) -> Gradients:
        """Normal solve, and contraction into all gradients, or those wanted."""
        if self.solved is not None and self.solved[0] is problem:
            _, wide, solution = self.solved
        else:
            wide = widened_problem(problem)
            solution = self.wide.solve(wide.rows)
        gradients = self.wide.adjoint(wide, solution, _wide(self.system, g), wanted)
        return from_fields(None if x is None else self._rounded(x) for x in by_field(gradients))

    def _rounded(self, x: Array) -> Array:
        return self.system.xp.astype(x, self.system.dtype)


def widened_problem(problem: Problem) -> Problem:
    """The problem in float64."""
    rhs, initial_values, smoothness = _widened_rows(problem.system, problem.rows)
    return Problem(widened(problem.system), rhs, initial_values, problem.batch, smoothness)


def _widened_rows(system: System, d: Rows) -> Rows:
    return Rows(*(None if x is None else _wide(system, x) for x in d))


def _wide(system: System, x: Array) -> Array:
    return system.xp.astype(x, system.xp.float64)
