"""The engine in array API calls: any namespace, traceable, the oracle of the compiled engines.

The elimination is that of `_odd_even`, of rows by increments (`_increments`); here are the operators made of it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from .._arrays import Array, Namespace, Shape, broadcast_shapes, size
from .._constraints import residual, weighted
from .._problem import Rows, System
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
from ._refinement import REFINEMENTS, SETTLING, change_of_solution, refined, widened
from ._rounded import RoundedFactor
from ._selected_inverse import SelectedInverse


@dataclass(frozen=True, eq=False)
class ArrayFactor(Factor):
    """The levels of elimination."""

    system: System
    levels: tuple[Level, ...]
    last: Level
    """the one point that is left; its E and G are empty"""
    undetermined: Array

    def solve(self, d: Rows) -> Array:
        """argmin_y |W (A y - d)|, with iterative refinement.

        Elimination mixes rows, so that the rows of higher order, small by s^r, are perturbed by eps |y|. The residual
        is computed row by row, without mixing: a correction gains two digits where derivatives are high and steps are
        small.
        """

        def change(y: tuple[Array, ...], dy: tuple[Array, ...]) -> Array:
            return change_of_solution(self.system, y[0], dy[0])

        return refined(self.system, lambda y: (self.correct(d, None if y is None else y[0]),), change)[0]

    def correct(self, d: Rows, y: Array | None) -> Array:
        """argmin_x |W (A x - (d - A y))|: what is missing in y, None for zero."""
        return self._solve(d if y is None else residual(self.system, d, y))

    def _solve(self, d: Rows) -> Array:
        system, xp, n = self.system, self.system.xp, self.system.n
        columns, own, coupling = _right_hand_side(system, d)
        levels, last = columns.factor(self)
        z, own, coupling = reflect(xp, n, levels, own, coupling)
        rows = xp.matrix_transpose(last.Q) @ last_rows(xp, n, own, coupling)
        return self._substitute_back(columns, levels, z, last.R_inverse @ rows[..., :n, :])

    def normal_solve(self, g: Array) -> Array:
        xp = self.system.xp
        batch = broadcast_shapes({"system": self.system.batch, "g": tuple(g.shape[:-3])})
        columns = _Columns(xp, self.system.batch, batch)
        levels, last = columns.factor(self)
        w, w_last = self._transposed(levels, last, columns.gather(flatten(xp, g), 2))
        z = [level.R_inverse @ x for level, x in zip(levels, w, strict=True)]
        return self._substitute_back(columns, levels, z, last.R_inverse @ w_last)

    def _adjoint_rows(self, g: Array) -> Rows:
        """Q R^-T g, for g of shape (..., T, V, K)."""
        system, xp = self.system, self.system.xp
        batch = broadcast_shapes({"system": system.batch, "g": tuple(g.shape[:-3])})
        columns = _Columns(xp, system.batch, batch)
        levels, last = columns.factor(self)
        w, w_last = self._transposed(levels, last, columns.gather(flatten(xp, g), 2))
        own, coupling = reflect_back(xp, levels, last, w, w_last, system.Q + system.V * system.n_initial_orders)
        bad = xp.any(self.undetermined, axis=-1)[..., None, None]
        own, coupling = (
            xp.where(bad, system.constant(xp.nan), columns.scatter(x))
            for x in (own, coupling[..., : system.n_steps - 1, :, :])
        )
        return unstack_rows(system, own, coupling)

    def residual_rows(self, d: Rows) -> Rows:
        """W (d - A y) at the minimum: W d less its part in the range of W A, from Q, without the rounding of y."""
        system, xp, n = self.system, self.system.xp, self.system.n
        columns, own, coupling = _right_hand_side(system, d)
        levels, last = columns.factor(self)
        one = xp.eye(n, dtype=system.dtype, device=system.device)
        z, rest, beyond = reflect(xp, n, [replace(x, R_inverse=one) for x in levels], own, coupling)
        z_last = (xp.matrix_transpose(last.Q) @ last_rows(xp, n, rest, beyond))[..., :n, :]
        own_fitted, fitted = reflect_back(xp, levels, last, z, z_last, own.shape[-2])
        own, coupling = own - own_fitted, coupling - fitted[..., : system.n_steps - 1, :, :]
        return unstack_rows(system, columns.scatter(own), columns.scatter(coupling))

    def selected_inverse(self) -> SelectedInverse:
        """The blocks of M^-1 in and beside the diagonal, and log det M."""
        return SelectedInverse(self.system, self.levels, self.last, self.undetermined)

    def _transposed(self, levels: list[Level], last: Level, g: Array) -> tuple[list[Array], Array]:
        """R^-T g, of the eliminated points and of the last."""
        w, g, _ = substitute_transposed(self.system.xp, levels, g)
        return w, self.system.xp.matrix_transpose(last.R_inverse) @ g

    def _substitute_back(self, columns: _Columns, levels: list[Level], z: list[Array], first: Array) -> Array:
        """R x = z level by level, from x at the first point; NaN for undetermined members, (*batch, T, V, K)."""
        system, xp = self.system, self.system.xp
        x, _ = substitute_back(xp, levels, z, first, xp.zeros_like(first))
        x = unflatten(system, columns.scatter(x))
        bad = xp.any(self.undetermined, axis=-1)[..., None, None, None]
        return xp.where(bad, system.constant(xp.nan), x)


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
    """What is known of the points of each level, the last first, in the order of time."""
    *points, all_of_them = flags
    for eliminated in reversed(points):
        all_of_them = interleave(xp, all_of_them, eliminated, axis=all_of_them.ndim - 1)
    return all_of_them


def _is_solved(factor: Any) -> Array:
    """Whether refinement settles, for some right-hand side, by batch member: then the pivots are no mere errors. Of any
    factor that has `correct`."""
    system, xp = factor.system, factor.system.xp

    def wave(*shape: int) -> Array:
        return xp.reshape(xp.cos(xp.arange(size(shape), dtype=system.dtype, device=system.device)), shape)

    T = system.n_steps
    d = Rows(wave(T, system.Q), wave(system.n_initial_steps, system.V, system.n_initial_orders), None)
    y = dy = factor.correct(d, None)
    for _ in range(REFINEMENTS):
        dy = factor.correct(d, y)
        y = y + dy
    return change_of_solution(system, y, dy) <= SETTLING


def _eliminated(system: System, own: Array, couplings: Couplings) -> list[Level]:
    """All levels, that of the one point that is left behind the others."""
    levels, own, couplings = eliminate(system, own, couplings)
    return [*levels, eliminate_last(system, own, couplings)]


def _right_hand_side(system: System, d: Rows) -> tuple[_Columns, Array, Array]:
    """W d as own rows (..., T, mD, columns) and couplings (..., T-1, mC, columns), and how columns were gathered."""
    own, coupling = stack_rows(system, weighted(system.weights, d))
    batch = broadcast_shapes(
        {"system": system.batch, "rhs": tuple(own.shape[:-2]), "smoothness": tuple(coupling.shape[:-2])}
    )
    columns = _Columns(system.xp, system.batch, batch)
    return columns, columns.gather(own, 2), columns.gather(coupling, 2)


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
