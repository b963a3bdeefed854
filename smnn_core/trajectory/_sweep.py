"""The linearised collocation equations of initial values in many variables of order one, from the left to the right.

With J_0, J_1 by y and y' at the points, and y = x + s A z there, the steps of an interval are

    (J_1 + s A J_0) δz = -(f + J_0 δx),    δx_{n+1} = δx_n + s w δz - d,

where A mixes the points. The first is one system of V k unknowns, without a mean over the points: derivatives follow
from it. The transposed map goes from the right to the left, with the same factors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from .._arrays import Array, concat
from ._collocation import Space
from ._discrete import Discrete, Mesh
from ._linear import Step
from ._mesh import parts
from ._sparse import MANY, Pattern, SparseJacobian
from ._window import marching_window

__all__ = ["LinearMap", "Sweep", "Swept"]

LinearMap = Callable[[Callable[..., np.ndarray], Callable[..., np.ndarray], Array], Array]
"""linear_map(function, transposed, x) -> function(x), for linear functions of vectors of NumPy, on vectors of a
framework, with derivatives."""


@dataclass
class _Interval:
    pattern: Pattern
    factor: Any
    rows: np.ndarray
    """(E, k): where entries of J_0 at each point stand among equations of all points"""
    columns: np.ndarray
    """(E,)"""
    entries: np.ndarray
    """(E, k)"""


class Sweep:
    """
    Args:
        u: the states and stages at which the equations are linearised.
    """

    def __init__(self, problem: Discrete, space: Space, mesh: Mesh, u: Step) -> None:
        self.space, self.s = space, mesh.s
        B, N = mesh.s.shape
        self.state = problem.states_given
        self.intervals: list[list[_Interval]] = [[] for _ in range(B)]
        for part in parts(problem, space, B, N):
            ends = slice(part.start, part.stop + 1)
            y, _ = marching_window(space, mesh.s[:, part], space.V).values(u.x[:, ends].copy(), u.z[:, part].copy())
            _, J, _ = problem.linearize(problem.times_of(space, mesh.t[:, ends]), y, u.p, sparse=True)
            self._factor(J if isinstance(J, SparseJacobian) else SparseJacobian.of(J), mesh.s[:, part])

    @staticmethod
    def serves(problem: Discrete, space: Space) -> bool:
        """True if it is for initial values in so many variables."""
        return MANY < space.V == problem.equations.Q and set(space.orders) == {1}

    def _factor(self, J: SparseJacobian, s: np.ndarray) -> None:
        """Appends intervals of steps s (B, n)."""
        space, (B, n) = self.space, s.shape
        k, A = space.k, space.at_points[0, 1:, :, 0].T
        of_y, point = J.derivatives == 0, np.arange(k)
        values = np.moveaxis(J.values.reshape(B, n, k, -1), 2, 3)  # (B, n, E, k)
        of_values, of_slopes = values[:, :, of_y], values[:, :, ~of_y]
        rows = J.equations[of_y, None] * k + point
        columns = J.variables[of_y, None, None] * k + point
        slope_rows, slope_columns = (x[~of_y, None] * k + point for x in (J.equations, J.variables))
        stages = of_values[..., None] * (s[..., None, None, None] * A)
        pattern = Pattern.of(
            space.V * k,
            np.concatenate([np.repeat(rows.ravel(), k), slope_rows.ravel()]),
            np.concatenate([np.repeat(columns, k, axis=1).ravel(), slope_columns.ravel()]),
        )
        entries = np.concatenate([x.reshape(B * n, -1) for x in (stages, of_slopes)], axis=1)
        factors = pattern.factor(entries)
        for b, intervals in enumerate(self.intervals):
            for i in range(n):
                at = pattern, factors[b * n + i], rows, J.variables[of_y], of_values[b, i].copy()
                intervals.append(_Interval(*at))

    @property
    def shapes(self) -> tuple[list[tuple[int, ...]], list[tuple[int, ...]]]:
        """Of equations f, jumps d and conditions g, and of steps δx and δz."""
        (B, N), V, k = self.s.shape, self.space.V, self.space.k
        return [(B, N, k * V), (B, N, V), (B, V)], [(B, N + 1, V), (B, N, V, k)]

    def solve(self, right: np.ndarray) -> np.ndarray:
        """δx and δz for f, d and g, each as one vector."""
        f, d, g = split(right, self.shapes[0])
        space, (B, N) = self.space, self.s.shape
        V, k, w = space.V, space.k, space.at_end[0, 1:, 0]
        x, z = np.empty((B, N + 1, V)), np.empty((B, N, V, k))
        x[:, 0, self.state] = -g
        right = f.reshape(B, N, k, V).swapaxes(2, 3)
        for b, intervals in enumerate(self.intervals):
            for n, at in enumerate(intervals):
                moved = np.bincount(at.rows.ravel(), (at.entries * x[b, n, at.columns, None]).ravel(), V * k)
                z[b, n] = -at.pattern.solve(at.factor, right[b, n].ravel() + moved).reshape(V, k)
                x[b, n + 1] = x[b, n] + self.s[b, n] * (z[b, n] @ w) - d[b, n]
        return np.concatenate([x.ravel(), z.ravel()])

    def transposed(self, steps: np.ndarray) -> np.ndarray:
        """From vectors like the result to those like the argument of `solve`."""
        x, z = split(steps, self.shapes[1])
        space, (B, N) = self.space, self.s.shape
        V, k, w = space.V, space.k, space.at_end[0, 1:, 0]
        f, d, λ = np.empty((B, N, V, k)), np.empty((B, N, V)), x[:, N].copy()
        for b, intervals in enumerate(self.intervals):
            for n in reversed(range(N)):
                at = intervals[n]
                d[b, n] = -λ[b]
                right = z[b, n] + self.s[b, n] * λ[b, :, None] * w
                μ = -at.pattern.solve(at.factor, right.ravel(), transposed=True)
                λ[b] += x[b, n] + np.bincount(at.columns, (at.entries * μ[at.rows]).sum(axis=1), V)
                f[b, n] = μ.reshape(V, k)
        return np.concatenate([f.swapaxes(2, 3).ravel(), d.ravel(), -λ[:, self.state].ravel()])


def split(x: Array, shapes: Sequence[tuple[int, ...]]) -> list[Array]:
    """The arrays of these shapes that make a vector."""
    ends = np.cumsum([prod(shape) for shape in shapes]).tolist()
    return [x[a:b].reshape(shape) for a, b, shape in zip([0, *ends], ends, shapes, strict=False)]


@dataclass(frozen=True)
class Swept:
    """A^-1 of `_implicit` by sweeps, on arrays of a framework."""

    xp: Any
    sweep: Sweep
    linear_map: LinearMap

    def step(self, f: Array, d: Array, g: Array) -> Step:
        """As that of `_implicit.Frozen`."""
        right = concat(self.xp, [self.xp.reshape(x, (-1,)) for x in (f, d, g)], axis=0)
        x, z = split(self.linear_map(self.sweep.solve, self.sweep.transposed, right), self.sweep.shapes[1])
        return Step(x, z, g[:, :0])
