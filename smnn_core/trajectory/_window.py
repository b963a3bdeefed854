"""The algebra of B meshes of N intervals.

`Window` says it for every array library and every number of equations; `CompiledWindow` does the same in compiled
loops, for NumPy and as many equations as variables. Steps of the unknowns follow from those of the first states
(`advance`), or from conditions: `Linear`, and `Coupled` in compiled loops.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from .._arrays import Array
from ..engines import collocation as compiled
from ._arithmetic import NUMPY, Arithmetic
from ._collocation import Scale, Space
from ._linear import ConditionRows, Local, Step, Structure, rows_of_conditions

__all__ = ["WINDOW", "CompiledWindow", "Coupled", "DecoupledWindow", "Window", "marching_window", "recent", "window"]

WINDOW = 16
"""Most intervals of a window of a march."""
MANY = 12
"""Variables from which on stages are decoupled."""


class Window:
    """
    Args:
        s: (B, N), the steps.
    """

    def __init__(self, space: Space, s: np.ndarray, arithmetic: Arithmetic = NUMPY) -> None:
        self.space, self.scale, self.arithmetic = space, Scale(np, s), arithmetic
        self.local: Local | None = None
        self.times: np.ndarray | None = None
        """(B, N k): of the points, where they are kept"""
        self.skip: np.ndarray | None = None
        """(B,): members that need not move"""

    def values(self, x: Array, z: Array) -> tuple[Array, Array]:
        """y at the points, (B, N k, V, R+1), and the jumps of the states, (B, N, M); x (B, N+1, M), z (B, N, V, k)."""
        space, xp, (B, N) = self.space, self.arithmetic.xp, self.scale.s.shape
        features = space.features(xp, x[:, :-1], z, self.scale)
        y = space.values(xp, space.at_points, features, self.scale)
        return y.reshape(B, N * space.k, space.V, space.R + 1), x[:, 1:] - space.ends(xp, features, self.scale)

    def eliminate(self, J: np.ndarray) -> None:
        """Takes J, (B, N k, Q, V, R+1), as the left-hand side of steps to come."""
        B, N = self.scale.s.shape
        J = J.reshape(B, N, self.space.k, *J.shape[2:])
        self.local = Local(self.space, J, np.zeros((*J.shape[:4], 0)), self.scale)

    def advance(self, f: np.ndarray, d: np.ndarray, start: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Steps dx (B, N+1, M), which begin with `start` (B, M) or zero, and dz (B, N, V, k), for f (B, N k, Q) and
        jumps d."""
        assert self.local is not None
        B, N = self.scale.s.shape
        particular, γ = self.local.particular(f.reshape(B, N, self.space.k, -1))
        dx = self.local.forward(γ - d, start)
        return dx, self.local.stages(particular, dx[:, :-1], np.zeros((B, 0)))

    def accept(
        self,
        x: np.ndarray,
        z: np.ndarray,
        dx: np.ndarray,
        dz: np.ndarray,
        least: np.ndarray,
        offset: np.ndarray,
        before: np.ndarray,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Adds a step to x and z: the relative change of each interval, (B, N), infinite where it is not finite; its
        quotient to the change `before`, which is infinite in the first step; and what further steps would change.
        States change in units of the largest that they had in the last `WINDOW` intervals, at least `least` (B, M),
        plus `offset` (B,); variables of order zero in units of their stages."""
        zero = [v for v, q in enumerate(self.space.orders) if q == 0]
        with np.errstate(all="ignore"):
            x += dx
            z += dz
            sizes = np.maximum(recent(np.abs(x)), least[:, None])[:, 1:]
            change = (np.abs(dx[:, 1:]) / _positive(sizes, offset)).max(axis=2, initial=0.0)
            if zero:
                size, moved = (np.abs(a[:, :, zero]).max(axis=3) for a in (z, dz))
                change = np.maximum(change, (moved / _positive(recent(size), offset)).max(axis=2))
            change = np.where(np.isfinite(change), change, np.inf)
            rate = np.nan_to_num(np.where(np.isfinite(before), change / before, np.inf), nan=np.inf, posinf=np.inf)
            return change, rate, np.where(rate < 1, rate / (1 - rate) * change, np.inf)


def recent(size: np.ndarray) -> np.ndarray:
    """The largest of the last values, as many as a window has: of (B, n, ...) along n."""
    if size.shape[1] <= WINDOW:
        return np.maximum.accumulate(size, axis=1)
    largest, reach = size, 1
    while reach < WINDOW:
        largest = np.concatenate([largest[:, :reach], np.maximum(largest[:, reach:], largest[:, :-reach])], axis=1)
        reach *= 2
    return largest


def _positive(size: np.ndarray, offset: np.ndarray) -> np.ndarray:
    return np.where(size > 0, size, 1e-300) + offset[:, None, None]


class CompiledWindow(Window):
    """The same in compiled loops, for as many equations as variables."""

    def __init__(self, space: Space, s: np.ndarray) -> None:
        super().__init__(space, s)
        q, first, at_end = _tables(space)
        self.given = (q, first, np.ascontiguousarray(s), space.rows_at_points, at_end)
        self.factor: tuple[np.ndarray, ...] = ()
        self.skip = np.zeros(len(s), np.intc)

    def values(self, x: np.ndarray, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        space, (B, N) = self.space, self.scale.s.shape
        y, d = np.empty((B, N * space.k, space.V, space.R + 1)), np.empty((B, N, space.M))
        compiled.values(*self.given, x, z, y, d)
        return y, d

    def eliminate(self, J: np.ndarray, P: np.ndarray | None = None) -> None:
        """The same; P (B, N k, Q, p), the derivatives by constants that `Coupled` takes."""
        space, (B, N) = self.space, self.scale.s.shape
        n, inner = space.V * space.k, space.M + (0 if P is None else P.shape[-1])
        parts = (n, n), (n,), (n, inner), (space.M, inner)
        lu, scale, HC, G = (np.empty((B, N, *part)) for part in parts)
        self.factor = lu, scale, np.zeros((B, N, n), np.intc), HC, G
        if P is None:
            P = np.empty((B, N, 0))
        compiled.eliminate(*self.given, self.skip, np.ascontiguousarray(J), np.ascontiguousarray(P), *self.factor)

    def advance(self, f: np.ndarray, d: np.ndarray, start: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        (B, N), space = d.shape[:2], self.space
        dx, dz = np.empty((B, N + 1, space.M)), np.empty((B, N, space.V, space.k))
        dx[:, 0] = 0.0 if start is None else start
        compiled.advance(*self.given, self.skip, *self.factor, np.ascontiguousarray(f), d, dx, dz)
        return dx, dz

    def accept(
        self,
        x: np.ndarray,
        z: np.ndarray,
        dx: np.ndarray,
        dz: np.ndarray,
        least: np.ndarray,
        offset: np.ndarray,
        before: np.ndarray,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        change, rate, left = found = tuple(np.empty(z.shape[:2]) for _ in range(3))
        compiled.accept(*self.given, WINDOW, np.ascontiguousarray(least), offset, dx, dz, before, x, z, *found)
        return change, rate, left


@lru_cache(maxsize=64)
def _tables(space: Space) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Orders, the first state of each variable, and W at the end, as the compiled code takes them."""
    q = np.array(space.orders, np.intc)
    return q, np.concatenate([[0], np.cumsum(q)[:-1]]).astype(np.intc), np.ascontiguousarray(space.at_end)


class DecoupledWindow(Window):
    """Steps by derivatives that are the mean of those at the points of an interval, for many variables of order one.

    With J_0, J_1 by y and y', and y = x + s A z at the points, the stages are those of

        (1 ⊗ J_1 + s A ⊗ J_0) δz = -(f + J_0 δx),    A = T Λ T^-1,

    which is one problem of V unknowns for each eigenvalue: (J_1 + s λ J_0) (T^-1 δz) = -T^-1 (f + J_0 δx).

    Source: Hairer, Wanner, Solving Ordinary Differential Equations II, section IV.8.
    """

    def __init__(self, space: Space, s: np.ndarray) -> None:
        super().__init__(space, s)
        λ, T = np.linalg.eig(space.at_points[0, 1:, :, 0].T)
        chosen = λ.imag >= 0  # of a pair one, which stands for both
        self._λ, self._rows = λ[chosen], np.linalg.inv(T)[chosen]
        self._back = T[:, chosen] * np.where(λ[chosen].imag > 0, 2.0, 1.0)
        self._inverses: list[np.ndarray] = []
        self._J: np.ndarray = s

    def eliminate(self, J: np.ndarray) -> None:
        B, N = self.scale.s.shape
        self._J = J.reshape(B, N, self.space.k, *J.shape[2:])[..., 0]
        mean = J.reshape(B, N, self.space.k, *J.shape[2:]).mean(axis=2)
        of_y, of_slope = mean[..., 0] * self.scale.s[..., None, None], mean[..., 1]
        self._inverses = [self.arithmetic.inverse(of_slope + (λ if λ.imag > 0 else λ.real) * of_y) for λ in self._λ]

    def advance(self, f: np.ndarray, d: np.ndarray, start: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        (B, N), space = d.shape[:2], self.space
        f = f.reshape(B, N, space.k, space.V)
        dx, dz = np.zeros((B, N + 1, space.M)), np.empty((B, N, space.V, space.k))
        if start is not None:
            dx[:, 0] = start
        to_end = space.at_end[0, 1:, 0]
        for n in range(N):
            right = self._rows @ -(f[:, n] + (self._J[:, n] @ dx[:, n, None, :, None])[..., 0])
            stages = [(A[:, n] @ right[:, i, :, None])[..., 0] for i, A in enumerate(self._inverses)]
            dz[:, n] = (self._back @ np.stack(stages, axis=1)).real.swapaxes(1, 2)
            dx[:, n + 1] = dx[:, n] + self.scale.s[:, n, None] * (dz[:, n] @ to_end) - d[:, n]
        return dx, dz


class Coupled:
    """Steps of `Linear` in compiled loops, with one factor for all right-hand sides.

    Args:
        J: (B, N k, Q, V, R+1); P: (B, N k, Q, p).
        index: (B, n): the mesh points of the times at which conditions look.
        size: (B, M + p): sizes of states and constants, in whose units pivots are judged.
    """

    def __init__(
        self,
        window: CompiledWindow,
        J: np.ndarray,
        P: np.ndarray,
        conditions: ConditionRows,
        structure: Structure,
        index: np.ndarray,
        size: np.ndarray,
    ) -> None:
        window.eliminate(J, P)
        self.space, p = window.space, P.shape[-1]
        (B, N), M, carried = window.scale.s.shape, window.space.M, structure.carried
        rows, at = rows_of_conditions(np, conditions, structure), index[:, structure.home]
        if carried:  # x(time) - carried = 0
            size = np.concatenate([size, *[size[:, :M]] * len(carried)], axis=1)
            ties = np.zeros((len(carried), M, rows.shape[-1]))
            for a, tie in enumerate(ties):
                tie[:, :M], tie[:, M + p + a * M : M + p + (a + 1) * M] = np.eye(M), -np.eye(M)
            ties = np.broadcast_to(ties.reshape(-1, rows.shape[-1]), (B, len(carried) * M, rows.shape[-1]))
            rows = np.concatenate([rows, ties], axis=1)
            at = np.concatenate([at, np.repeat(index[:, carried], M, axis=1)], axis=1)
        m = rows.shape[-1]
        most = m + M
        self.given = (
            *window.given,
            p,
            np.ascontiguousarray(at, np.intc),
            np.ascontiguousarray(rows),
            np.ascontiguousarray(size),
        )
        *eliminated, G = window.factor
        R, tau = np.empty((B, N + 1, most, most)), np.empty((B, N + 1, m))
        coupled = R, tau, np.empty((B, N + 1), np.intc), np.empty((B, N * M + m))
        compiled.couple(*self.given, G, *coupled)
        self.factor = (*eliminated, *coupled)

    def solve(self, f: np.ndarray, d: np.ndarray, g: np.ndarray) -> Step:
        """The step for equations f (B, N, k, Q), continuity d (B, N, M) and conditions g (B, C); NaN where none."""
        (B, N), (m, p), space = d.shape[:2], (self.given[-1].shape[1], self.given[5]), self.space
        x, z, c = np.empty((B, N + 1, space.M)), np.empty((B, N, space.V, space.k)), np.empty((B, m - space.M))
        if m > g.shape[1]:
            g = np.concatenate([g, np.zeros((B, m - g.shape[1]))], axis=1)
        compiled.solve(*self.given, *self.factor, np.ascontiguousarray(f), d, np.ascontiguousarray(g), x, z, c)
        return Step(x, z, c[:, :p])


def marching_window(space: Space, s: np.ndarray, Q: int | None) -> Window:
    """The fastest that has `advance`."""
    if MANY < space.V == Q and set(space.orders) == {1}:
        return DecoupledWindow(space, s)
    return window(space, s, Q)


def window(space: Space, s: np.ndarray, Q: int | None, arithmetic: Arithmetic = NUMPY) -> Window:
    """The faster of those that have exact derivatives."""
    fits = compiled.is_compiled and space.V == Q and arithmetic is NUMPY
    return CompiledWindow(space, s) if fits else Window(space, s, arithmetic)
