"""The algebra of B meshes of N intervals.

`Window` says it for every array library and every number of equations; `CompiledWindow` does the same in compiled
loops, for NumPy and as many equations as variables. Steps of the unknowns follow from those of the first states
(`advance`), or from conditions: `Linear`, and `Coupled` in compiled loops.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from .._arrays import Array
from ..engines import collocation as compiled
from ._arithmetic import NUMPY, Arithmetic
from ._collocation import Scale, Space
from ._linear import ConditionRows, Local, Step, Structure, rows_of_conditions
from ._sparse import MANY, Pattern, SparseJacobian

__all__ = [
    "WINDOW",
    "Allowed",
    "CompiledWindow",
    "Coupled",
    "DecoupledWindow",
    "Iterates",
    "Progress",
    "Window",
    "marching_window",
    "recent",
    "window",
]

WINDOW = 16
"""Most intervals of a window of a march."""
ROUNDING = 1e-5
"""Relative changes that are smaller, and that a new left-hand side does not shorten, are as short as rounding lets them
be: equations may amplify it."""


@dataclass
class Iterates:
    """Newton's method in B windows of N intervals, from the left to the right."""

    x: Array
    """(B, N+1, M)"""
    z: Array
    """(B, N, V, k)"""
    y: Array
    """(B, N k, V, R+1): values at the points"""
    d: Array
    """(B, N, M): jumps"""
    least: np.ndarray
    """(B, M): states count as at least as large"""
    offset: np.ndarray
    """(B,): what is added to the sizes in whose units changes are measured"""
    limit: np.ndarray
    """(B,): relative changes that are small enough"""
    change: np.ndarray
    """(B, N): the last relative changes, infinite before the first and where they are not finite; of states in units of
    the largest that they had in the last `WINDOW` intervals, of variables of order zero in units of their stages"""
    rate: np.ndarray
    """(B,): the quotient of the last two in the first interval that is not solved"""
    solved: np.ndarray
    """(B,): how many of the first intervals are solved; members of which all are do not move"""


@dataclass
class Progress:
    """Of B members of a march, what the next window follows from; `keep` brings it up to date."""

    x: np.ndarray
    """(B, M): the last states"""
    top: np.ndarray
    """(B, V): the highest derivative that is not zero, of order q + k - 1, in the last interval; NaN where there is
    none"""
    width: np.ndarray
    """(B,): the length of that interval"""
    size: np.ndarray
    """(B, M): the largest of each state in the last window"""
    largest_x: np.ndarray
    """(B, M): of each state"""
    largest_y: np.ndarray
    """(B, V): of each variable"""


@dataclass
class Allowed:
    """The error of an interval that is allowed."""

    constants: np.ndarray
    """(V,): `_mesh.constants_of_error`"""
    tolerance: np.ndarray
    """(B,): relative to the largest value of each variable in the window"""
    faintest: float
    """variables count as at least as large as this part of the tolerance times the largest value before"""
    absolute: float


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

    takes_sparse = False
    """whether J may be a `SparseJacobian`"""

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

    def begin(
        self, x: Array, z: Array, least: np.ndarray, offset: np.ndarray, limit: np.ndarray, solved: np.ndarray
    ) -> Iterates:
        """Newton's method from states and stages, which it changes; arguments as in `Iterates`."""
        change, rate = np.full(z.shape[:2], np.inf), np.full(len(z), np.inf)
        return Iterates(x, z, *self.values(x, z), least, offset, limit, change, rate, np.array(solved, np.intc))

    def improve(self, u: Iterates, f: np.ndarray, J: np.ndarray | None) -> None:
        """One step for f and J as above, with the left-hand side of before where J is not given."""
        if J is not None:
            self.eliminate(J)
        N, moved = u.change.shape[1], u.solved < u.change.shape[1]
        dx, dz = (np.where(moved.reshape(-1, *(1,) * (a.ndim - 1)), a, 0.0) for a in self.advance(f, u.d))
        zero = [v for v, q in enumerate(self.space.orders) if q == 0]
        with np.errstate(all="ignore"):
            u.x += dx
            u.z += dz
            sizes = np.maximum(recent(np.abs(u.x)), u.least[:, None])[:, 1:]
            change = (np.abs(dx[:, 1:]) / _positive(sizes, u.offset)).max(axis=2, initial=0.0)
            if zero:
                size, step = (np.abs(a[:, :, zero]).max(axis=3) for a in (u.z, dz))
                change = np.maximum(change, (step / _positive(recent(size), u.offset)).max(axis=2))
            change = np.where(np.isfinite(change), change, np.inf)
            quotient = np.where(np.isfinite(u.change), change / u.change, np.inf)
            rate = np.nan_to_num(quotient, nan=np.inf, posinf=np.inf)
            left = np.where(rate < 1, rate / (1 - rate) * change, np.inf)
            ended = (change < u.limit[:, None]) | (left < u.limit[:, None])
        if J is not None:
            ended |= (rate > 0.5) & (change < ROUNDING)
        solved = np.where(ended, N, np.arange(N)).min(axis=1)
        u.rate[:] = np.where(moved, rate[np.arange(len(rate)), np.minimum(solved, N - 1)], u.rate)
        u.solved[:] = np.where(moved, solved, N)
        u.change[:] = np.where(moved[:, None], change, u.change)
        u.y, u.d = self.values(u.x, u.z)

    def keep(
        self, u: Iterates, solved: np.ndarray, progress: Progress, allowed: Allowed
    ) -> tuple[np.ndarray, np.ndarray]:
        """How many of the `solved` (B,) first intervals are kept, those that add at most what is allowed: (B,); and
        error / allowed of the last that is kept, and of the one that ends them, where there are such: (B, 2). Errors
        follow from jumps of the highest derivative."""
        space, s, (x, z) = self.space, self.scale.s, (u.x, u.z)
        (B, N), q = s.shape, np.array(space.orders)
        b, n = np.arange(B), np.arange(N)
        within = (n < solved[:, None])[..., None]
        with np.errstate(all="ignore"):
            top, known = z @ space.leading / s[..., None] ** (space.k - 1), np.isfinite(progress.top[:, 0])
            before = np.where(known[:, None], progress.top, top[:, 0])
            width = np.concatenate([np.where(known, progress.width, s[:, 0])[:, None], s], axis=1)
            jump = np.abs(np.diff(np.concatenate([before[:, None], top], axis=1), axis=1))
            jump /= np.abs(0.5 * (width[:, 1:] + width[:, :-1]))[..., None]
            jump[:, :-1] = np.maximum(jump[:, :-1], np.where(within[:, 1:], jump[:, 1:], 0.0))
            error = allowed.constants * np.abs(s[..., None] ** (space.k + q)) * jump
            y, tolerance = space.largest(x, z), allowed.tolerance[:, None]
            sizes = np.where(within, y, 0.0).max(axis=1)
            sizes = np.maximum(sizes, allowed.faintest * tolerance * progress.largest_y)
            most = tolerance * np.where(sizes > 0, sizes, 1e-300) + allowed.absolute
            ratio = np.maximum((error / most[:, None]).max(axis=-1), 1e-12)
        ratio = np.where(np.isfinite(ratio), ratio, np.inf)
        count = np.minimum(solved, np.where(ratio <= 1, N, n).min(axis=1))
        last, moved, kept = np.maximum(count - 1, 0), count > 0, (n < count[:, None])[..., None]
        progress.x[moved], progress.top[moved] = x[b, count][moved], top[b, last][moved]
        progress.width[moved] = s[b, last][moved]
        progress.size[moved] = np.where(kept, np.abs(x[:, 1:]), 0.0).max(axis=1)[moved]
        for largest, here in (
            (progress.largest_x, progress.size),
            (progress.largest_y, np.where(kept, y, 0.0).max(axis=1)),
        ):
            largest[moved] = np.maximum(largest, here)[moved]
        return count, np.stack([ratio[b, last], ratio[b, np.minimum(count, N - 1)]], axis=1)


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
        q, first, W, E = space.compiled
        self.given = (q, first, np.ascontiguousarray(s), W, E)
        self.factor: tuple[np.ndarray, ...] = ()
        self.steps: tuple[np.ndarray, ...] = ()

    def values(self, x: np.ndarray, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        space, (B, N) = self.space, self.scale.s.shape
        y, d = np.empty((B, N * space.k, space.V, space.R + 1)), np.empty((B, N, space.M))
        compiled.values(*self.given, x, z, y, d)
        return y, d

    def eliminate(self, J: np.ndarray, P: np.ndarray | None = None) -> None:
        """The same; P (B, N k, Q, p), the derivatives by constants that `Coupled` takes."""
        if P is None:
            P = np.empty((*J.shape[:3], 0))
        self.factor = self._factor(P.shape[-1])
        compiled.eliminate(*self.given, np.ascontiguousarray(J), np.ascontiguousarray(P), *self.factor)

    def _factor(self, p: int) -> tuple[np.ndarray, ...]:
        """Arrays for a factor with p constants."""
        space, (B, N) = self.space, self.scale.s.shape
        n, inner = space.V * space.k, space.M + p
        lu, scale, HC, G = (np.empty((B, N, *part)) for part in ((n, n), (n,), (n, inner), (space.M, inner)))
        return lu, scale, np.zeros((B, N, n), np.intc), HC, G

    def advance(self, f: np.ndarray, d: np.ndarray, start: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        (B, N), space = d.shape[:2], self.space
        dx, dz = np.empty((B, N + 1, space.M)), np.empty((B, N, space.V, space.k))
        dx[:, 0] = 0.0 if start is None else start
        compiled.advance(*self.given, *self.factor, np.ascontiguousarray(f), d, dx, dz)
        return dx, dz

    def improve(self, u: Iterates, f: np.ndarray, J: np.ndarray | None) -> None:
        """The same; intervals that are solved keep their left-hand side."""
        if not self.steps:
            self.factor, self.steps = self._factor(0), (np.zeros_like(u.x), np.empty_like(u.z))
        compiled.improve(
            *self.given,
            WINDOW,
            ROUNDING,
            u.least,
            u.offset,
            u.limit,
            *self.steps,
            u.x,
            u.z,
            u.y,
            u.d,
            u.change,
            u.rate,
            u.solved,
            *self.factor,
            np.ascontiguousarray(f),
            _NOTHING if J is None else np.ascontiguousarray(J),
        )

    def keep(
        self, u: Iterates, solved: np.ndarray, progress: Progress, allowed: Allowed
    ) -> tuple[np.ndarray, np.ndarray]:
        count, ratio = np.empty(len(solved), np.intc), np.empty((len(solved), 2))
        compiled.keep(
            *self.given,
            self.space.leading,
            allowed.constants,
            allowed.tolerance,
            allowed.faintest,
            allowed.absolute,
            u.x,
            u.z,
            solved,
            progress.x,
            progress.top,
            progress.width,
            progress.size,
            progress.largest_x,
            progress.largest_y,
            count,
            ratio,
        )
        return count, ratio


_NOTHING = np.empty(0)
"""No new left-hand side."""


class DecoupledWindow(Window):
    """Steps by derivatives that are the mean of those at the points of an interval, for many variables of order one.

    With J_0, J_1 by y and y', and y = x + s A z at the points, the stages are those of

        (1 ⊗ J_1 + s A ⊗ J_0) δz = -(f + J_0 δx),    A = T Λ T^-1,

    which is one problem of V unknowns for each eigenvalue: (J_1 + s λ J_0) (T^-1 δz) = -T^-1 (f + J_0 δx).

    Where J has few entries, these are banded problems: their cost is proportional to V.

    Source: Hairer, Wanner, Solving Ordinary Differential Equations II, section IV.8.
    """

    takes_sparse = True

    def __init__(self, space: Space, s: np.ndarray) -> None:
        super().__init__(space, s)
        λ, T = np.linalg.eig(space.at_points[0, 1:, :, 0].T)
        chosen = λ.imag >= 0  # of a pair one, which stands for both
        self._λ, self._rows = λ[chosen], np.linalg.inv(T)[chosen]
        self._back = T[:, chosen] * np.where(λ[chosen].imag > 0, 2.0, 1.0)
        self._pattern: Pattern | None = None
        self._factors: list[list[Any]] = []
        self._J: tuple[np.ndarray, ...] = ()

    def eliminate(self, J: np.ndarray | SparseJacobian) -> None:
        J = J if isinstance(J, SparseJacobian) else SparseJacobian.of(J)
        s, of_y = self.scale.s, J.derivatives == 0
        mean = J.values.reshape(*s.shape, self.space.k, -1).mean(axis=2)
        self._J = J.equations[of_y], J.variables[of_y], mean[..., of_y]
        mean = mean.reshape(s.size, -1)
        self._pattern = Pattern.of(self.space.V, J.equations, J.variables)
        self._factors = [
            self._pattern.factor(mean * np.where(of_y, (λ if λ.imag > 0 else λ.real) * s.reshape(-1, 1), 1.0))
            for λ in self._λ
        ]

    def advance(self, f: np.ndarray, d: np.ndarray, start: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        assert self._pattern is not None
        (B, N), space, (rows, columns, entries) = d.shape[:2], self.space, self._J
        V = space.V
        transformed = self._rows @ -f.reshape(B, N, space.k, V)
        ones = self._rows.sum(axis=1)
        dx, stages = np.zeros((B, N + 1, V)), np.empty((B, N, len(ones), V), complex)
        if start is not None:
            dx[:, 0] = start
        to_end = space.at_end[0, 1:, 0]
        ends = to_end @ self._back
        with np.errstate(all="ignore"):  # of singular systems
            for b in range(B):
                for n in range(N):
                    moved = np.bincount(rows, entries[b, n] * dx[b, n, columns], V)
                    right = transformed[b, n] - ones[:, None] * moved
                    for i, (λ, factors) in enumerate(zip(self._λ, self._factors, strict=True)):
                        b_i = right[i] if λ.imag > 0 else right[i].real
                        stages[b, n, i] = self._pattern.solve(factors[b * N + n], b_i)
                    dx[b, n + 1] = dx[b, n] + self.scale.s[b, n] * (ends @ stages[b, n]).real - d[b, n]
            z = np.ascontiguousarray((self._back @ stages).real.swapaxes(2, 3))
        return dx, z


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
