"""The nonlinear problem on a mesh: residuals of all rows at states, stages and constants, and what is linear in them.

Members of a batch are one axis here, B; the caller's functions see them in their own shape.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from math import prod
from typing import Any

import numpy as np

from .._arrays import Array
from ._arithmetic import NUMPY, Arithmetic, namespace_of
from ._collocation import Scale, Space
from ._equations import Conditions, Equations
from ._linear import ConditionRows, Linear, Local, Step, Structure, is_all
from ._sparse import SparseJacobian
from ._window import CompiledWindow, Coupled, Window, window

__all__ = ["Discrete", "Iterate", "Mesh"]


@dataclass(frozen=True)
class Mesh:
    """Meshes of the members with one number of intervals, and where on them the caller's times are."""

    t: np.ndarray
    """(B, N+1), ascending or descending"""
    index: np.ndarray
    """(B, n): the mesh point of each of the caller's times"""

    @cached_property
    def s(self) -> np.ndarray:
        return np.diff(self.t)

    @cached_property
    def scale(self) -> Scale:
        """Powers of the steps."""
        return Scale(np, self.s)

    @cached_property
    def windows(self) -> dict[tuple[Space, bool], Window]:
        """The algebra of each space, for NumPy and for others."""
        return {}

    @property
    def N(self) -> int:
        return self.t.shape[1] - 1

    def halved(self) -> Mesh:
        """Each interval divided into two."""
        t = np.empty((len(self.t), 2 * self.N + 1))
        t[:, ::2] = self.t
        t[:, 1::2] = 0.5 * (self.t[:, 1:] + self.t[:, :-1])
        return Mesh(t, 2 * self.index)


@dataclass(frozen=True)
class Iterate:
    """Residuals at an iterate, with the derivatives of the equations."""

    u: Step
    f: Array
    """(B, N, k, Q)"""
    J: Array | None
    """(B, N, k, Q, V, R+1); None where it was not asked for"""
    P: Array | None
    """(B, N, k, Q, p), likewise"""
    d: Array
    """(B, N, M): jumps of the states from interval to interval"""
    conditions: ConditionRows

    @property
    def is_finite(self) -> Array:
        """Members without an undefined residual, (B,)."""
        xp = namespace_of(self.f)
        f, g = (xp.all(xp.isfinite(x.reshape(len(x), -1)), axis=1) for x in (self.f, self.conditions.g))
        return f & g

    def where(self, mask: Array, other: Iterate) -> Iterate:
        """self in the members of the mask, other elsewhere."""
        if is_all(mask):
            return self
        xp = namespace_of(mask)

        def choose(a: Array, b: Array) -> Array:
            return xp.where(xp.reshape(mask, (-1, *(1,) * (a.ndim - 1))), a, b)

        def both(a: Array | None, b: Array | None) -> Array | None:
            return None if a is None or b is None else choose(a, b)

        mine, others = self.conditions, other.conditions
        return Iterate(
            self.u.where(mask, other.u),
            choose(self.f, other.f),
            both(self.J, other.J),
            both(self.P, other.P),
            choose(self.d, other.d),
            ConditionRows(choose(mine.g, others.g), choose(mine.G, others.G), choose(mine.G_p, others.G_p)),
        )


@dataclass(frozen=True)
class Discrete:
    """Equations and conditions, for any space and mesh."""

    equations: Equations
    conditions: Conditions
    structure: Structure
    batch: tuple[int, ...]
    """the caller's shape of the batch, of B members"""
    orders: tuple[int, ...]
    engine: str = "auto"
    arithmetic: Arithmetic = NUMPY
    members: np.ndarray | None = None
    """of the batch, those that this is the problem of, (B,); None: all"""

    def of(self, members: np.ndarray) -> Discrete:
        """The problem of some members of the batch, (B,), alone: the caller's functions see, and answer for, all of
        them, since they may hold something of each."""
        if len(members) == self._count:
            return self
        values = self.conditions.values
        conditions = self.conditions if values is None else replace(self.conditions, values=values[members])
        return replace(self, conditions=conditions, members=members)

    @property
    def p(self) -> int:
        return self.equations.p

    @cached_property
    def _count(self) -> int:
        """Members of the batch."""
        return prod(self.batch)

    def shaped(self, x: Array) -> Array:
        """(B, ...) in the caller's batch shape; where these are some of the members, the others repeat the first."""
        if self.members is not None:
            x, some = np.repeat(x[:1], self._count, axis=0), x
            x[self.members] = some
        return x.reshape((*self.batch, *x.shape[1:]))

    def flat(self, x: Array) -> Array:
        """(B, ...) of what is in the caller's batch shape."""
        x = x.reshape(self._count, *x.shape[len(self.batch) :])
        return x if self.members is None else x[self.members]

    def linearize(self, t: np.ndarray, y: Array, p: Array, *, sparse: bool = False) -> tuple[Array, Any, Array]:
        """f, J and P at times (B, n), y (B, n, V, R+1), constants (B, p); J may be a `SparseJacobian` if `sparse`."""
        f, J, P = self.equations.linearize(self.shaped(t), self.shaped(y), self.shaped(p[:, None]))
        if isinstance(J, SparseJacobian):
            J = J.with_values(self.flat(J.values))
            return self.flat(f), J if sparse else J.dense(f.shape[-1], *y.shape[-2:]), self.flat(P)
        return self.flat(f), self.flat(J), self.flat(P)

    def value(self, t: np.ndarray, y: Array, p: Array) -> Array:
        """f alone."""
        return self.flat(self.equations.value(self.shaped(t), self.shaped(y), self.shaped(p[:, None])))

    def times_of(self, space: Space, t: np.ndarray) -> np.ndarray:
        """The collocation points of all intervals, (B, N k); those at the end of an interval just inside of it."""
        left, right = t[:, :-1], t[:, 1:]
        points = left[..., None] + (right - left)[..., None] * space.offsets
        if space.points[-1] == 1.0:
            points[..., -1] = np.nextafter(right, left)
        return points.reshape(len(t), -1)

    def at(self, space: Space, mesh: Mesh, u: Step, *, derivatives: bool = True) -> Iterate:
        """Residuals and derivatives of all rows; without `derivatives` those of the equations only where they come
        along with f."""
        algebra = self.window(space, mesh)
        if algebra.times is None:
            algebra.times = self.times_of(space, mesh.t)
        (y, d), t = algebra.values(u.x, u.z), algebra.times
        J, P, per_interval = None, None, (*mesh.s.shape, space.k)
        if derivatives or self.equations.gives_derivatives:
            f, J, P = self.linearize(t, y, u.p)
            J, P = (x.reshape(*per_interval, *x.shape[2:]) for x in (J, P))
        else:
            f = self.value(t, y, u.p)
        return Iterate(u, f.reshape(*per_interval, -1), J, P, d, self.condition_rows(space, mesh, u))

    def window(self, space: Space, mesh: Mesh) -> Window:
        """The algebra of a mesh."""
        key = space, self.arithmetic is NUMPY
        if key not in mesh.windows:
            mesh.windows[key] = window(space, mesh.s, self.equations.Q, self.arithmetic)
        return mesh.windows[key]

    def solver(self, space: Space, mesh: Mesh, at: Iterate, size: Array) -> Linear | Coupled:
        """The linear problem of a step from an iterate with derivatives, in compiled loops where they can."""
        algebra = self.window(space, mesh)
        if isinstance(algebra, CompiledWindow):
            assert at.J is not None
            assert at.P is not None
            return Coupled(algebra, at.J, at.P, at.conditions, self.structure, mesh.index, size)
        return self.linear(space, mesh, at, size)

    def linear(self, space: Space, mesh: Mesh, at: Iterate, size: Array) -> Linear:
        """The same in the operations of an array library."""
        assert at.J is not None
        assert at.P is not None
        local = Local(space, at.J, at.P, mesh.scale, self.arithmetic)
        return Linear(local, at.conditions, self.structure, mesh.index, size, self.engine, self.arithmetic)

    @cached_property
    def _stated(self) -> tuple[np.ndarray, ...]:
        """Time, variable, derivative and state of each value that is given, (C,) each."""
        time, v, o = np.nonzero(self.conditions.stated)
        first = np.cumsum([0, *self.orders])
        return time, v, o, first[v] + o

    @property
    def states_given(self) -> np.ndarray:
        """The state of each value that is given, (C,)."""
        return self._stated[3]

    @cached_property
    def _given(self) -> Array:
        """These values, (B, C)."""
        assert self.conditions.values is not None
        return self.conditions.values[(slice(None), *self._stated[:3])]

    @cached_property
    def _rows_of_values(self) -> tuple[np.ndarray, np.ndarray]:
        """Derivatives of these conditions with respect to states, (B, C, n, M), and constants, (B, C, p): zeros."""
        assert self.conditions.values is not None
        (B, n), (time, _, _, state) = self.conditions.values.shape[:2], self._stated
        G = np.zeros((B, len(time), n, sum(self.orders)))
        G[:, np.arange(len(time)), time, state] = 1.0
        return G, np.zeros((B, len(time), self.p))

    def condition_rows(self, space: Space, mesh: Mesh, u: Step) -> ConditionRows:
        """The conditions at an iterate."""
        xp, B = self.arithmetic.xp, len(mesh.index)
        x = u.x[np.arange(B)[:, None], mesh.index]  # (B, n, M)
        if self.conditions.values is not None:
            time, _, _, state = self._stated
            return ConditionRows(x[:, time, state] - self._given, *self._rows_of_values)
        y = space.spread_states(xp, x)
        g, G, G_p = self.conditions.evaluate(self.shaped(y), self.shaped(u.p))
        C = g.shape[-1]
        g = xp.broadcast_to(g, (*self.batch, C)).reshape(B, C)
        G = xp.broadcast_to(G, (*self.batch, *G.shape[-4:])).reshape(B, *G.shape[-4:])
        G_p = xp.broadcast_to(G_p, (*self.batch, *G_p.shape[-2:])).reshape(B, C, self.p)
        return ConditionRows(g, space.gather_states(xp, G), G_p)
