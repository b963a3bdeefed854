"""The engine in array API calls: any namespace, traceable, the oracle of the compiled engines.

The elimination is that of `_odd_even`, of rows by increments (`_increments`); here are the operators made of it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from .._arrays import Array, Namespace
from .._problem import NO_ROWS, Gradients, Rows, System, by_field, from_fields
from ._columns import Columns, ColumnsFactor
from ._covariances import Covariances
from ._increments import basis, blocks
from ._interface import Engine, Factor
from ._odd_even import (
    Couplings,
    Level,
    eliminate,
    eliminate_last,
    interleave,
    last_rows,
    reflect,
    reflect_back,
    substitute_back,
    substitute_transposed,
)
from ._pivots import RUNS, are_noise, are_zero, has_small, of_run, perturbed, with_perturbed
from ._refinement import is_solved, members, rows_left
from ._rounded import RoundedFactor, in_float64


@dataclass(frozen=True, eq=False)
class ArrayFactor(ColumnsFactor):
    """The levels of elimination."""

    system: System
    levels: tuple[Level, ...]
    last: Level
    """the one point that is left; its E and G are empty"""
    undetermined: Array

    @property
    def basis(self) -> Array:
        return basis(self.system)

    def solve_columns(
        self, columns: Columns, f: tuple[Array, Array] | None, g: Array | None, rows: bool, states: bool
    ) -> tuple[tuple[Array, Array] | None, Array | None]:
        """Q z and R^-1 z, with z = Q^T f - R^-T g of the eliminated points and of the last."""
        system, xp, n = self.system, self.system.xp, self.system.n

        def of_lhs(level: Level) -> Level:
            arrays = {k: x if isinstance(x, int) else columns.of_lhs(x, system.batch) for k, x in vars(level).items()}
            return Level(**arrays)

        levels, last = [of_lhs(level) for level in self.levels], of_lhs(self.last)
        z: list[Array] = []
        z_last = system.constant(0)
        if f is not None:
            z, own, coupling = reflect(xp, n, levels, *f)
            z_last = (xp.matrix_transpose(last.Q) @ last_rows(xp, n, own, coupling))[..., :n, :]
        if g is not None:
            w, g_last, _ = substitute_transposed(xp, levels, g)
            z = [a - b for a, b in zip(z, w, strict=True)] if z else [-b for b in w]
            z_last = z_last - xp.matrix_transpose(last.R_inverse) @ g_last
        fitted = x = None
        if states:
            first = last.R_inverse @ z_last
            x, _ = substitute_back(xp, levels, z, first, xp.zeros_like(first))
        if rows:
            own, coupling = reflect_back(xp, levels, last, z, z_last, system.Q + system.V * system.n_initial_orders)
            fitted = own, coupling[..., : system.n_steps - 1, :, :]
        return fitted, x

    @cached_property
    def _covariances(self) -> Covariances:
        return Covariances(self.system, self.levels, self.last)

    def log_determinant(self) -> Array:
        xp = self.system.xp
        logs = [xp.log(xp.abs(xp.linalg.diagonal(x.R_inverse))) for x in (*self.levels, self.last)]
        return self._determined(-2 * sum(xp.sum(x, axis=(-2, -1)) for x in logs))

    def covariances(self) -> tuple[Array, Array]:
        diagonal, lag = self._covariances.blocks
        return self._determined(diagonal), self._determined(lag)

    def moment_gradients(self, dΣ: Array | None, d_lag: Array | None, d_log_determinant: Array | None) -> Gradients:
        found = self._covariances.gradients(dΣ, d_lag, d_log_determinant)
        return from_fields(None if x is None else self._determined(x) for x in by_field(found))

    def _determined(self, x: Array) -> Array:
        """x, NaN for undetermined members."""
        bad = self.system.xp.any(self.undetermined, axis=-1)
        return self.system.xp.where(members(bad, x), self.system.constant(self.system.xp.nan), x)


class MomentsByArrayApi(Factor):
    """A factor that leaves moments to that of the array API engine."""

    @cached_property
    def _by_array_api(self) -> Factor:
        return ArrayEngine().factorize(self.system)

    def log_determinant(self) -> Array:
        return self._by_array_api.log_determinant()

    def covariances(self) -> tuple[Array, Array]:
        return self._by_array_api.covariances()

    def moment_gradients(self, dΣ: Array | None, d_lag: Array | None, d_log_determinant: Array | None) -> Gradients:
        return self._by_array_api.moment_gradients(dΣ, d_lag, d_log_determinant)


class CompiledFactor(MomentsByArrayApi):
    """A factor without Q at hand, which solves least squares and normal equations by itself."""

    def solve_augmented(
        self, f: Rows | None, g: Array | None, *, rows: bool = True, states: bool = True
    ) -> tuple[Any, Any]:
        """v and y with v + W A y = f and (W A)^T v = g, from the two solves."""
        del rows, states
        _, y = self.augmented(f, g, rows=False)
        return rows_left(self.system, f or NO_ROWS, y), y


class ArrayEngine(Engine):
    """Odd-even elimination in array API calls: linear work, log2(T) levels, in float64 where the namespace has it."""

    name = "array_api"

    def refusal(self, system: System) -> str | None:
        """This engine serves everything."""

    def describe(self) -> str:
        """One line for `show_config`."""
        return "available: odd-even elimination in array API calls, any namespace and size"

    def factorize(self, system: System) -> ArrayFactor | RoundedFactor:
        """Eliminates all points."""
        return in_float64(system, _factorize)


def _factorize(system: System) -> ArrayFactor:
    factor, noise = factor_of_rows(system, *blocks(system))
    if system.can_look and bool(system.xp.any(noise)):
        judged = replace(factor, undetermined=system.xp.zeros_like(noise))
        noise = noise & ~is_solved(judged)[..., None]
    return replace(factor, undetermined=factor.undetermined | noise)


def factor_of_rows(system: System, own: Array, couplings: Couplings) -> tuple[ArrayFactor, Array]:
    """The factor of rows of any kind (see `_odd_even`), with points that have a pivot of zero undetermined, and those
    that have one which may be nothing but rounding."""
    xp = system.xp
    again: list[list[Level]] = []
    if system.can_look:
        levels = _eliminated(system, own, couplings)
        if has_small(xp, levels):
            again = [_eliminated(system, *perturbed(xp, own, couplings, run)) for run in range(RUNS)]
    else:
        both = _eliminated(system, *with_perturbed(xp, own, couplings))
        levels, again = of_run(both, 0), [of_run(both, 1)]
    zero = _by_time(xp, [are_zero(xp, level) for level in levels])
    noise = _by_time(xp, [are_noise(xp, level, others) for level, *others in zip(levels, *again, strict=True)])
    return ArrayFactor(system, tuple(levels[:-1]), levels[-1], zero), noise


def _by_time(xp: Namespace, flags: list[Array]) -> Array:
    """Flags of the points of each level, the last first, in the order of time."""
    *points, all_of_them = flags
    for eliminated in reversed(points):
        all_of_them = interleave(xp, all_of_them, eliminated, axis=all_of_them.ndim - 1)
    return all_of_them


def _eliminated(system: System, own: Array, couplings: Couplings) -> list[Level]:
    """All levels, that of the one point that is left behind the others."""
    levels, own, couplings = eliminate(system, own, couplings)
    return [*levels, eliminate_last(system, own, couplings)]
