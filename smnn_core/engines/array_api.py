"""The engine in array API calls: any namespace, traceable, the oracle of the compiled engines.

The elimination is that of `_odd_even`, of rows by increments (`_increments`); here are the operators made of it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from .._arrays import Array, Namespace, Shape, broadcast_shapes, size
from .._constraints import weighted
from .._problem import Gradients, Rows, System, by_field, from_fields
from ._covariances import Covariances
from ._increments import blocks, flatten, stack_rows, unflatten, unstack_rows
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
from ._refinement import SETTLING, members, refine_solution, widened
from ._rounded import RoundedFactor


@dataclass(frozen=True, eq=False)
class ArrayFactor(Factor):
    """The levels of elimination."""

    system: System
    levels: tuple[Level, ...]
    last: Level
    """the one point that is left; its E and G are empty"""
    undetermined: Array

    def solve_augmented(
        self, f: Rows | None, g: Array | None, *, rows: bool = True, states: bool = True
    ) -> tuple[Any, Any]:
        """v and y with v + W A y = f and (W A)^T v = g."""
        system, xp, n = self.system, self.system.xp, self.system.n
        stacked, shapes = None, {"system": system.batch}
        if f is not None:
            stacked = stack_rows(system, f)
            shapes |= {"rhs": tuple(stacked[0].shape[:-2]), "smoothness": tuple(stacked[1].shape[:-2])}
        if g is not None:
            shapes["g"] = tuple(g.shape[:-3])
        columns = _Columns(xp, system.batch, broadcast_shapes(shapes))
        levels, last = columns.factor(self)

        # z = Q^T f - R^-T g, of the eliminated points and of the last
        z: list[Array] = []
        z_last = system.constant(0)
        if stacked is not None:
            z, own, coupling = reflect(xp, n, levels, *(columns.gather(x, 2) for x in stacked))
            z_last = (xp.matrix_transpose(last.Q) @ last_rows(xp, n, own, coupling))[..., :n, :]
        if g is not None:
            w, g_last, _ = substitute_transposed(xp, levels, columns.gather(flatten(xp, g), 2))
            z = [a - b for a, b in zip(z, w, strict=True)] if z else [-b for b in w]
            z_last = z_last - xp.matrix_transpose(last.R_inverse) @ g_last

        v = y = None
        bad, nan = xp.broadcast_to(xp.any(self.undetermined, axis=-1), columns.batch), system.constant(xp.nan)
        if states:
            first = last.R_inverse @ z_last
            y, _ = substitute_back(xp, levels, z, first, xp.zeros_like(first))
            y = unflatten(system, columns.scatter(y))
            y = xp.where(members(bad, y), nan, y)
        if rows:
            own, coupling = reflect_back(xp, levels, last, z, z_last, system.Q + system.V * system.n_initial_orders)
            coupling = coupling[..., : system.n_steps - 1, :, :]
            fitted = unstack_rows(system, columns.scatter(own), columns.scatter(coupling))
            left = (-x if a is None else a - x for a, x in zip(f or 3 * (None,), fitted, strict=True))
            v = Rows(*(xp.where(members(bad, x), nan, x) for x in left))
        return v, y

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
        wide = widened(system)
        factor = _factorize(wide)
        return factor if wide is system else RoundedFactor(system, factor.undetermined, factor)


def _factorize(system: System) -> ArrayFactor:
    xp = system.xp
    own, couplings = blocks(system)
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
    factor = ArrayFactor(system, tuple(levels[:-1]), levels[-1], xp.zeros_like(zero))
    if system.can_look and bool(xp.any(noise)):
        noise = noise & ~_is_solved(factor)[..., None]
    return replace(factor, undetermined=zero | noise)


def _by_time(xp: Namespace, flags: list[Array]) -> Array:
    """Flags of the points of each level, the last first, in the order of time."""
    *points, all_of_them = flags
    for eliminated in reversed(points):
        all_of_them = interleave(xp, all_of_them, eliminated, axis=all_of_them.ndim - 1)
    return all_of_them


def _is_solved(factor: Factor) -> Array:
    """True if refinement settles, for some right-hand side, by batch member: then the pivots are no mere errors."""
    system, xp = factor.system, factor.system.xp

    def wave(*shape: int) -> Array:
        return xp.reshape(xp.cos(xp.arange(size(shape), dtype=system.dtype, device=system.device)), shape)

    T = system.n_steps
    d = Rows(wave(T, system.Q), wave(system.n_initial_steps, system.V, system.n_initial_orders), None)
    sizes: Array = refine_solution(factor, weighted(system.weights, d))[1]
    return sizes <= SETTLING


def _eliminated(system: System, own: Array, couplings: Couplings) -> list[Level]:
    """All levels, that of the one point that is left behind the others."""
    levels, own, couplings = eliminate(system, own, couplings)
    return [*levels, eliminate_last(system, own, couplings)]


class _Columns:
    """How right-hand sides that share a left-hand side become columns of one matrix.

    Batch axes along which the left-hand side is repeated are moved behind the rows, so that one elimination serves all.
    """

    def __init__(self, xp: Namespace, lhs: Shape, batch: Shape) -> None:
        self.xp, self.batch = xp, batch
        lhs = (1,) * (len(batch) - len(lhs)) + lhs
        self.repeated = tuple(i for i, (a, b) in enumerate(zip(lhs, batch, strict=True)) if a == 1 and b != 1)
        self.own = tuple(i for i in range(len(batch)) if i not in self.repeated)
        self.lhs = tuple(lhs[i] for i in self.own)

    def gather(self, x: Array, rank: int) -> Array:
        """(..., *core) with `rank` core axes, as (*own, *core, columns)."""
        core = tuple(x.shape[x.ndim - rank :])
        x = self.xp.broadcast_to(x, (*self.batch, *core))
        cores = tuple(range(len(self.batch), len(self.batch) + rank))
        x = self.xp.permute_dims(x, (*self.own, *cores, *self.repeated))
        return self.xp.reshape(x, (*self.lhs, *core, size(tuple(self.batch[i] for i in self.repeated))))

    def scatter(self, x: Array) -> Array:
        """(*own, T, n, columns) as (*batch, T, n)."""
        axes = (*self.own, len(self.batch), len(self.batch) + 1, *self.repeated)
        x = self.xp.reshape(x, (*x.shape[:-1], *(self.batch[i] for i in self.repeated)))
        return self.xp.permute_dims(x, tuple(axes.index(i) for i in range(len(axes))))

    def factor(self, factor: ArrayFactor) -> tuple[list[Level], Level]:
        """The levels and the last point of a factor without the axes along which it is repeated."""

        def drop(x: Array) -> Array:
            return self.xp.reshape(x, (*self.lhs, *x.shape[len(factor.system.batch) :]))

        def level(old: Level) -> Level:
            return Level(**{k: x if isinstance(x, int) else drop(x) for k, x in vars(old).items()})

        return [level(old) for old in factor.levels], level(factor.last)
