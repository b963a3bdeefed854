"""`solve_augmented` of factors that have R and Q, where right-hand sides that share a left-hand side are columns."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

from .._arrays import Array, Namespace, Shape, broadcast_shapes, size
from .._constraints import subtract
from .._problem import NO_ROWS, Rows
from ._increments import flatten, stack_rows, unflatten, unstack_rows
from ._interface import Factor
from ._refinement import members


class ColumnsFactor(Factor):
    """A factor that solves for all columns at once.

    Rows are own rows (..., T, Q + V R_init, columns), zeros behind T_init, and couplings (..., T-1, V k, columns): k
    combinations of the scheme's rows, by the columns of `basis`. States are (..., T, n, columns), by derivative, then
    by variable.
    """

    undetermined: Array

    @property
    @abstractmethod
    def basis(self) -> Array:
        """(m, k), orthonormal columns"""

    @abstractmethod
    def solve_columns(
        self, columns: Columns, f: tuple[Array, Array] | None, g: Array | None, rows: bool, states: bool
    ) -> tuple[tuple[Array, Array] | None, Array | None]:
        """Q z and R^-1 z, as far as they are wanted, with z = Q^T f - R^-T g."""

    def solve_augmented(
        self, f: Rows | None, g: Array | None, *, rows: bool = True, states: bool = True
    ) -> tuple[Any, Any]:
        """v and y with v + W A y = f and (W A)^T v = g."""
        system, xp, basis = self.system, self.system.xp, self.basis
        stacked, shapes = None, {"system": system.batch}
        if f is not None:
            stacked = stack_rows(system, f, basis)
            shapes |= {"rhs": tuple(stacked[0].shape[:-2]), "smoothness": tuple(stacked[1].shape[:-2])}
        if g is not None:
            g = flatten(xp, g)
            shapes["g"] = tuple(g.shape[:-2])
        columns = Columns(xp, system.batch, broadcast_shapes(shapes))
        given = None if stacked is None else (columns.gather(stacked[0]), columns.gather(stacked[1]))
        fitted, x = self.solve_columns(columns, given, None if g is None else columns.gather(g), rows, states)
        bad, nan = xp.broadcast_to(xp.any(self.undetermined, axis=-1), columns.batch), system.constant(xp.nan)
        v = y = None
        if x is not None:
            y = unflatten(system, columns.scatter(x))
            y = xp.where(members(bad, y), nan, y)
        if fitted is not None:
            own, coupling = map(columns.scatter, fitted)
            of_rows = unstack_rows(system, own, coupling, basis)
            v = Rows(*(xp.where(members(bad, b), nan, b) for b in subtract(f or NO_ROWS, of_rows)))
        return v, y


class Columns:
    """How right-hand sides that share a left-hand side become columns of one matrix.

    Batch axes along which the left-hand side is repeated are moved behind the rows, so that one elimination serves all.
    """

    def __init__(self, xp: Namespace, lhs: Shape, batch: Shape) -> None:
        self.xp, self.batch = xp, batch
        lhs = (1,) * (len(batch) - len(lhs)) + lhs
        self.repeated = tuple(i for i, (a, b) in enumerate(zip(lhs, batch, strict=True)) if a == 1 and b != 1)
        self.own = tuple(i for i in range(len(batch)) if i not in self.repeated)
        self.lhs = tuple(lhs[i] for i in self.own)
        """the batch of the left-hand side without the axes along which it is repeated"""
        self.count = size(tuple(batch[i] for i in self.repeated))

    def gather(self, x: Array) -> Array:
        """(..., T, rows) as (*lhs, T, rows, columns)."""
        core, n = tuple(x.shape[-2:]), len(self.batch)
        x = self.xp.broadcast_to(x, (*self.batch, *core))
        x = self.xp.permute_dims(x, (*self.own, n, n + 1, *self.repeated))
        return self.xp.reshape(x, (*self.lhs, *core, self.count))

    def scatter(self, x: Array) -> Array:
        """The inverse."""
        axes = (*self.own, len(self.batch), len(self.batch) + 1, *self.repeated)
        x = self.xp.reshape(x, (*x.shape[:-1], *(self.batch[i] for i in self.repeated)))
        return self.xp.permute_dims(x, tuple(axes.index(i) for i in range(len(axes))))

    def of_lhs(self, x: Array, batch: Shape) -> Array:
        """(*batch, ...) as (*lhs, ...), for the batch of the left-hand side."""
        return self.xp.reshape(x, (*self.lhs, *x.shape[len(batch) :]))
