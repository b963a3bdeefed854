"""float32 as a type of storage: what goes in is widened, engines compute in float64, what comes out is rounded once.

In float32 arithmetic third-order equations with short steps have no correct digit, and well-posed systems are taken
for singular.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from .._arrays import Array
from .._cupy import results
from .._problem import ALL, NONE, Gradients, Problem, Rows, System, by_field, from_fields
from ._interface import Factor
from ._refinement import widened
from ._statistics import Statistics

FactorT = TypeVar("FactorT", bound=Factor)


@dataclass(frozen=True, eq=False)
class RoundedFactor(Factor):
    """The factor in float64, `wide`, of a system in float32."""

    system: System
    undetermined: Array
    wide: Any
    solved: tuple[Problem, Problem, Array] | None = None
    """the problem that was solved with it, the same in float64, and its solution: residuals are small differences"""

    @property
    def nbytes(self) -> int:
        """The memory that the factor keeps."""
        return int(self.wide.nbytes)

    def solve_augmented(
        self, f: Rows | None, g: Array | None, *, rows: bool = True, states: bool = True
    ) -> tuple[Any, Any]:
        """v and y with v + W A y = f and (W A)^T v = g."""
        f = None if f is None else _widened_rows(self.system, f)
        g = None if g is None else _wide(self.system, g)
        v, y = self.wide.solve_augmented(f, g, rows=rows, states=states)
        return Rows(*map(self._rounded, v)) if rows else None, self._rounded(y) if states else None

    def _augmented(self, f: Rows | None, g: Array | None) -> tuple[Rows, Array]:
        f = None if f is None else _widened_rows(self.system, f)
        v, y = self.wide.augmented(f, None if g is None else _wide(self.system, g))
        return Rows(*map(self._rounded, v)), self._rounded(y)

    def solve(self, d: Rows) -> Array:
        return self._rounded(self.wide.solve(_widened_rows(self.system, d)))

    def normal_solve(self, g: Array) -> Array:
        return self._rounded(self.wide.normal_solve(_wide(self.system, g)))

    def adjoint_rows(self, g: Array) -> Rows:
        return Rows(*map(self._rounded, self.wide.adjoint_rows(_wide(self.system, g))))

    def residual_rows(self, d: Rows) -> Rows:
        return Rows(*map(self._rounded, self.wide.residual_rows(_widened_rows(self.system, d))))

    def sum_of_squares(self, d: Rows) -> Array:
        return self._rounded(self.wide.sum_of_squares(_widened_rows(self.system, d)))

    def statistics(self, d: Rows, wanted: Gradients = NONE) -> Statistics:
        found = self.wide.statistics(_widened_rows(self.system, d), wanted)
        return Statistics(*map(self._rounded, found[:2]), *map(self._rounded_gradients, found[2:]))

    def log_determinant(self) -> Array:
        return self._rounded(self.wide.log_determinant())

    def covariances(self) -> tuple[Array, Array]:
        diagonal, lag = self.wide.covariances()
        return self._rounded(diagonal), self._rounded(lag)

    def variances(self) -> Array:
        return self._rounded(self.wide.variances())

    def moment_gradients(self, dΣ: Array | None, d_lag: Array | None, d_log_determinant: Array | None) -> Gradients:
        given = (None if x is None else _wide(self.system, x) for x in (dΣ, d_lag, d_log_determinant))
        return self._rounded_gradients(self.wide.moment_gradients(*given))

    def adjoint(self, problem: Problem, y: Array, g: Array, wanted: Gradients = ALL) -> Gradients:
        """All gradients, or those wanted; y, which was rounded, is solved for again, if it is not at hand."""
        if self.solved is not None and self.solved[0] is problem:
            _, wide, solution = self.solved
        else:
            wide = widened_problem(problem)
            solution = self.wide.solve(wide.rows)
        return self._rounded_gradients(self.wide.adjoint(wide, solution, _wide(self.system, g), wanted))

    def _rounded_gradients(self, gradients: Gradients) -> Gradients:
        return from_fields(None if x is None else self._rounded(x) for x in by_field(gradients))

    def _rounded(self, x: Array) -> Array:
        with results(4):
            return self.system.xp.astype(x, self.system.dtype)


def in_float64(system: System, factorize: Callable[[System], FactorT]) -> FactorT | RoundedFactor:
    """The factor that `factorize` makes of the system in float64, in the dtype of the system."""
    wide = widened(system)
    factor = factorize(wide)
    return factor if wide is system else RoundedFactor(system, factor.undetermined, factor)


def widened_problem(problem: Problem) -> Problem:
    """The problem in float64."""
    rhs, initial_values, smoothness = _widened_rows(problem.system, problem.rows)
    return Problem(widened(problem.system), rhs, initial_values, problem.batch, smoothness)


def _widened_rows(system: System, d: Rows) -> Rows:
    return Rows(*(None if x is None else _wide(system, x) for x in d))


def _wide(system: System, x: Array) -> Array:
    return system.xp.astype(x, system.xp.float64)
