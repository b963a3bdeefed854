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
from .._problem import ALL, NONE, Gradients, Problem, Rows, System, Weights
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

    def solve_augmented(
        self, f: Rows | None, g: Array | None, *, rows: bool = True, states: bool = True
    ) -> tuple[Any, Any]:
        """v and y with v + W A y = f and (W A)^T v = g."""
        return self._by_wide("solve_augmented", f, g, rows=rows, states=states)

    def _augmented(self, f: Rows | None, g: Array | None) -> tuple[Rows, Array]:
        return self._by_wide("augmented", f, g)

    def solve(self, d: Rows) -> Array:
        return self._by_wide("solve", d)

    def normal_solve(self, g: Array) -> Array:
        return self._by_wide("normal_solve", g)

    def statistics(self, d: Rows, wanted: Gradients = NONE) -> Statistics:
        found: Statistics = self._by_wide("statistics", d, wanted=wanted)
        return found

    def log_determinant(self) -> Array:
        return self._by_wide("log_determinant")

    def covariances(self) -> tuple[Array, Array]:
        return self._by_wide("covariances")

    def variances(self) -> Array:
        return self._by_wide("variances")

    def moment_gradients(self, dΣ: Array | None, d_lag: Array | None, d_log_determinant: Array | None) -> Gradients:
        return self._by_wide("moment_gradients", dΣ, d_lag, d_log_determinant)

    def adjoint(self, problem: Problem, y: Array, g: Array, wanted: Gradients = ALL) -> Gradients:
        """All gradients, or those wanted; y, which was rounded, is solved for again, if it is not at hand."""
        if self.solved is not None and self.solved[0] is problem:
            _, wide, y = self.solved
        else:
            wide = widened_problem(problem)
            y = self.wide.solve(wide.rows)
        return self._rounded(self.wide.adjoint(wide, y, _wide(self.system, g), wanted))

    def _by_wide(self, method: str, *arguments: Any, **options: Any) -> Any:
        """The results of a method of the factor in float64; options are passed on as they are."""
        return self._rounded(getattr(self.wide, method)(*(_wide(self.system, x) for x in arguments), **options))

    def _rounded(self, x: Any) -> Any:
        def rounded(x: Array) -> Array:
            with results(4):
                return self.system.xp.astype(x, self.system.dtype)

        return _each(rounded, x)


def in_float64(system: System, factorize: Callable[[System], FactorT]) -> FactorT | RoundedFactor:
    """The factor that `factorize` makes of the system in float64, in the dtype of the system."""
    wide = widened(system)
    factor = factorize(wide)
    return factor if wide is system else RoundedFactor(system, factor.undetermined, factor)


def widened_problem(problem: Problem) -> Problem:
    """The problem in float64."""
    rhs, initial_values, smoothness = _wide(problem.system, problem.rows)
    return Problem(widened(problem.system), rhs, initial_values, problem.batch, smoothness)


def _wide(system: System, x: Any) -> Any:
    return _each(lambda x: system.xp.astype(x, system.xp.float64), x)


def _each(f: Callable[[Array], Array], x: Any) -> Any:
    """x with f of each of its arrays: an array, or None, or a tuple of such."""
    if x is None:
        return None
    if isinstance(x, Weights):
        return Weights(*(_each(f, w) for w in vars(x).values()))
    if isinstance(x, tuple):
        parts = [_each(f, part) for part in x]
        return type(x)(*parts) if isinstance(x, (Rows, Gradients, Statistics)) else tuple(parts)
    return f(x)
