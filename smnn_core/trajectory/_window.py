"""The linear algebra of a window: B members, N intervals, first states given, as many equations as variables.

`Window` says it in NumPy, for every number of equations; `CompiledWindow` does the same in compiled loops.
"""

from __future__ import annotations

import numpy as np

from ..engines import collocation as compiled
from ._collocation import Scale, Space
from ._linear import Local

__all__ = ["WINDOW", "CompiledWindow", "Window", "recent", "window"]

WINDOW = 16
"""Most intervals of a window of a march."""


class Window:
    """
    Args:
        s: (B, N), the steps.
    """

    def __init__(self, space: Space, s: np.ndarray) -> None:
        self.space, self.scale = space, Scale(np, s)
        self.local: Local | None = None

    def values(self, x: np.ndarray, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """y at the points, (B, N k, V, R+1), and the jumps of the states, (B, N, M); x (B, N+1, M), z (B, N, V, k)."""
        space, (B, N) = self.space, self.scale.s.shape
        features = space.features(np, x[:, :-1], z, self.scale)
        y = space.values(np, space.at_points, features, self.scale)
        return y.reshape(B, N * space.k, space.V, space.R + 1), x[:, 1:] - space.ends(np, features, self.scale)

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
        self, x: np.ndarray, z: np.ndarray, dx: np.ndarray, dz: np.ndarray, least: np.ndarray, offset: np.ndarray
    ) -> np.ndarray:
        """Adds a step to x and z: the relative change of each interval, (B, N), infinite where it is not finite. States
        change in units of the largest that they had in the last `WINDOW` intervals, at least `least` (B, M), plus
        `offset` (B,); variables of order zero in units of their stages."""
        zero = [v for v, q in enumerate(self.space.orders) if q == 0]
        with np.errstate(all="ignore"):
            x += dx
            z += dz
            sizes = np.maximum(recent(np.abs(x)), least[:, None])[:, 1:]
            change = (np.abs(dx[:, 1:]) / _positive(sizes, offset)).max(axis=2, initial=0.0)
            if zero:
                size, moved = (np.abs(a[:, :, zero]).max(axis=3) for a in (z, dz))
                change = np.maximum(change, (moved / _positive(recent(size), offset)).max(axis=2))
        return np.where(np.isfinite(change), change, np.inf)


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
        q = np.array(space.orders, np.intc)
        first = np.concatenate([[0], np.cumsum(q)[:-1]]).astype(np.intc)
        self._given = (q, first, np.ascontiguousarray(s), space.rows_at_points, np.ascontiguousarray(space.at_end))
        B, N = s.shape
        n, M = space.V * space.k, space.M
        self._y = np.empty((B, N * space.k, space.V, space.R + 1))
        self._factor = (
            np.empty((B, N, n, n)),
            np.empty((B, N, n)),
            np.empty((B, N, n), np.intc),
            np.empty((B, N, n, M)),
            np.empty((B, N, M, M)),
        )

    def values(self, x: np.ndarray, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        y, d = np.empty_like(self._y), np.empty((*z.shape[:2], x.shape[-1]))
        compiled.values(*self._given, x, z, y, d)
        return y, d

    def eliminate(self, J: np.ndarray) -> None:
        compiled.eliminate(*self._given, np.ascontiguousarray(J), *self._factor)

    def advance(self, f: np.ndarray, d: np.ndarray, start: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        (B, N), space = d.shape[:2], self.space
        dx, dz = np.empty((B, N + 1, space.M)), np.empty((B, N, space.V, space.k))
        dx[:, 0] = 0.0 if start is None else start
        compiled.advance(*self._given, *self._factor, np.ascontiguousarray(f), d, dx, dz)
        return dx, dz

    def accept(
        self, x: np.ndarray, z: np.ndarray, dx: np.ndarray, dz: np.ndarray, least: np.ndarray, offset: np.ndarray
    ) -> np.ndarray:
        change = np.empty(z.shape[:2])
        compiled.accept(*self._given, WINDOW, np.ascontiguousarray(least), offset, dx, dz, x, z, change)
        return change


def window(space: Space, s: np.ndarray, Q: int | None) -> Window:
    """The faster of the two."""
    fits = compiled.is_compiled and space.V == Q
    return CompiledWindow(space, s) if fits else Window(space, s)
