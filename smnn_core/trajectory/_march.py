"""Initial-value problems: windows of Radau intervals, one after the other.

The intervals of a window are solved at once, by Newton's method. What an interval does depends on those before it only:
they converge from the left to the right, and those that have converged are kept, whatever becomes of the others. What
an interval adds to the error follows from the jump of its highest derivative; the first that adds too much ends what is
kept, and the next steps follow from what these add. How far a window reaches follows from how fast Newton's method was
in the last. The error at the end of it all, which is not the sum of these, is estimated afterwards (`_mesh.estimate`).

Source: Hairer, Wanner, Solving Ordinary Differential Equations II, section IV.8, for Radau methods and their stopping
rule.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..engines import collocation as compiled
from ._collocation import Space
from ._discrete import Discrete, Mesh
from ._linear import Step
from ._mesh import constants_of_error, finer, parts
from ._window import WINDOW, Allowed, Iterates, Progress, Window, marching_window

__all__ = ["FAINTEST", "Marched", "follow", "march"]

LEAST = 6
"""Least number of intervals of a window: some of them may be solved where others are not."""
ITERATIONS = 8
"""Steps of Newton's method in a window, after which what has converged is kept."""
STALE = 0.03
"""The left-hand side is that of before as long as changes shrink faster than this."""
FURTHER = 10.0, 10.0, 10.0, 10.0, 10.0, 10.0, 6.0, 4.0, 2.0
"""How much further a window may reach than the last, by the steps that Newton's method took there."""
SLOW = 4, 0.3
"""Steps after which what has converged is kept, where the next interval converges slower than this."""
HOPELESS = 3, 0.9
"""The same where nothing has: the first interval was too long."""
FIRST = 1e-6
"""The first step, as a part of the whole."""
FAINTEST = 1e-3
"""Variables smaller than this part of the tolerance times what they have been count as if they were as large."""
NEAR = 2.5
"""How far polynomials are continued, in lengths of their interval from its start."""
SHORTEST = 1e-15
"""Steps as short as this part of the time are given up."""
OFFSETS = np.cumsum([np.ones(WINDOW), 1.25 ** np.arange(WINDOW)], axis=1)
"""Ends of the intervals of a window in units of its first, and where its predecessor could have had longer ones."""


@dataclass
class Marched:
    """The trajectory up to where the march came."""

    mesh: Mesh
    u: Step
    finished: np.ndarray
    """(B,)"""
    reached: np.ndarray
    """(B,): the time"""
    x: np.ndarray
    """(B, M): the states there"""
    size: np.ndarray
    """(B, V): the largest value of each variable"""
    size_x: np.ndarray
    """(B, M): of each state"""
    windows: int


@dataclass
class _Member:
    """The steps of one member of the batch."""

    t: float
    h: float
    """the next step"""
    extent: float = np.inf
    """how far the next window may reach"""
    grows: bool = False
    """whether its steps do"""
    goal: int = 1
    """which of the times is marched to"""
    done: bool = False
    failed: bool = False

    @property
    def is_active(self) -> bool:
        return not (self.done or self.failed)

    @property
    def step(self) -> float:
        return min(abs(self.h), self.extent / LEAST)

    def needs(self, goal: float) -> int:
        """Intervals with which the next window reaches as far as it may."""
        reach = (1 - 1e-9) * min(self.extent, abs(goal - self.t))
        return min(bisect_left(OFFSETS[int(self.grows)], reach / self.step) + 1, WINDOW)

    def first_step(self, goal: float, N: int) -> tuple[float, bool]:
        """The first step of a window of N intervals, and whether it ends at the goal."""
        way, offset = abs(goal - self.t), OFFSETS[int(self.grows), N - 1]
        step = min(self.step, way / offset) if self.is_active else self.step
        return float(np.copysign(step, self.h)), self.is_active and bool(step * offset >= (1 - 1e-9) * way)

    def proceed(
        self, mesh: list[float], solved: int, steps: int, count: int, ratio: list[float], exponent: float
    ) -> None:
        """Goes to the end of what is kept of a window.

        Args:
            mesh, solved, steps: of the window; which intervals, and in how many steps, were solved.
            count, ratio: as `Window.keep` returns them.
            exponent: the error of an interval is proportional to this power of its length.
        """
        N, too_long = len(mesh) - 1, count < solved
        grow = min(max(0.8 * ratio[too_long] ** (-1 / exponent), 0.2), 8.0) if count or too_long else 0.1
        i = count if too_long else max(count - 1, 0)
        self.h = (mesh[i + 1] - mesh[i]) * grow
        self.grows = count == N and grow > 1.5
        further = FURTHER[steps] if solved == N else 1.0
        self.extent = further * abs(mesh[solved] - self.t) if solved else abs(mesh[1] - mesh[0])
        self.t = mesh[count]


def march(
    problem: Discrete,
    space: Space,
    times: np.ndarray,
    x: np.ndarray,
    *,
    tolerance: np.ndarray,
    absolute: float,
    most_intervals: int,
    report: Callable[..., None],
) -> Marched:
    """From the states x (B, M) at times[0] to times[-1].

    Args:
        tolerance: (B,), of what each interval adds, relative to the size of each variable in its window.
    """
    B = len(x)
    span = abs(times[-1] - times[0])
    members = [_Member(float(times[0]), FIRST * float(times[-1] - times[0])) for _ in range(B)]
    V, size = space.V, np.abs(x)
    p = Progress(x.copy(), np.full((B, V), np.nan), np.ones(B), size.copy(), size.copy(), np.zeros((B, V)))
    allowed = Allowed(constants_of_error(space), tolerance, FAINTEST, absolute)
    limit, offset, faint = 1e-2 * tolerance, absolute / tolerance, FAINTEST * tolerance[:, None]
    before: _Window | None = None
    kept: list[_Window] = []
    total = 0
    active = np.ones(B, bool)
    while active.any():
        mesh = _next_window(members, times)
        at, s = problem.times_of(space, mesh), mesh[:, 1:] - mesh[:, :-1]
        algebra = marching_window(space, s, problem.equations.Q)
        least = np.maximum(p.size, faint * p.largest_x)
        guess = _predicted(space, before, mesh, at, p.x)
        u = algebra.begin(*guess, least, offset, limit, np.where(active, 0, s.shape[1]))
        steps = _newton(problem, algebra, at, u)
        solved = np.where(active, u.solved, np.intc(0))
        count, ratio = algebra.keep(u, solved, p, allowed)
        kept.append((mesh, u.x, u.z, count))
        before = mesh, u.x, u.z, solved
        total += int(count.max())
        lists = (a.tolist() for a in (active, mesh, solved, steps, count, ratio))
        for i, (m, is_active, *of_window) in enumerate(zip(members, *lists, strict=True)):
            if not is_active:
                continue
            m.proceed(*of_window, space.k + 1)
            if m.t == times[m.goal]:
                m.goal += 1
                m.done = m.goal == len(times)
                solved[i], p.top[i] = 0, np.nan  # what happens there ends the polynomials
                m.h = 0.1 * float(np.copysign(min(abs(m.h), 1e-2 * span), m.h))
            m.failed = not m.done and (abs(m.h) < SHORTEST * max(abs(m.t), span * 1e-3) or total > most_intervals)
            active[i] = m.is_active
        report(intervals=total, time=min((m.t for m in members), key=lambda t: abs(t - times[0])))
    finished, reached = np.array([m.done for m in members]), np.array([m.t for m in members])
    joined = _joined(space, kept, finished, reached, p.x, times)
    return Marched(*joined, finished, reached, p.x, p.largest_y, p.largest_x, len(kept))


_Window = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
"""Mesh (B, N+1), states, stages, and of how many intervals the polynomials are meant (B,)."""


def follow(
    problem: Discrete, space: Space, mesh: Mesh, u: Step, least: np.ndarray, tolerance: float, absolute: float
) -> tuple[np.ndarray, Step]:
    """Solves on a mesh from a guess u whose first states are given: which members were solved, (B,), and the solution.
    Where rounding of what was solved first keeps the rest from converging, the rest goes on from there; where the guess
    leads nowhere, with the states that it has come to.

    Args:
        least: (B, M): changes of states that are smaller than this are not relative to the states.
    """
    B, N = mesh.s.shape
    x, z = u.x.copy(), u.z.copy()
    solved = np.isfinite(x).all(axis=(1, 2))
    limit, offset = np.full(B, 1e-2 * tolerance), np.full(B, absolute / tolerance)
    most, n, began_anew = parts(problem, space, B, N)[0].stop, 0, np.zeros(B, bool)
    while n < N and solved.any():
        part, ends = slice(n, min(n + most, N)), slice(n, min(n + most, N) + 1)
        algebra = marching_window(space, mesh.s[:, part], problem.equations.Q)
        held = np.where(solved, 0, algebra.scale.s.shape[1])
        here = algebra.begin(x[:, ends].copy(), z[:, part].copy(), least, offset, limit, held)
        _newton(problem, algebra, problem.times_of(space, mesh.t[:, ends]), here)
        x[:, ends], z[:, part] = here.x, here.z
        stuck = solved & (here.solved == 0)
        solved &= ~stuck | ~began_anew
        began_anew = stuck & solved
        x[began_anew, n + 1 :], z[began_anew, n:] = x[began_anew, n, None], 0.0
        n += int(here.solved[solved].min(initial=N))
    return solved, Step(x, z, u.p)


def _next_window(members: list[_Member], times: np.ndarray) -> np.ndarray:
    """The mesh of the next window of each member, (B, N+1): as many intervals as any of them needs to reach as far as
    it may. What reaches further is solved, or is not."""
    goals = [float(times[min(m.goal, len(times) - 1)]) for m in members]
    N = max(m.needs(goal) for m, goal in zip(members, goals, strict=True) if m.is_active)
    first, ends = zip(*(m.first_step(goal, N) for m, goal in zip(members, goals, strict=True)), strict=True)
    start = np.array([m.t for m in members])
    mesh = np.empty((len(members), N + 1))
    mesh[:, 0] = start
    mesh[:, 1:] = start[:, None] + np.array(first)[:, None] * OFFSETS[[int(m.grows) for m in members], :N]
    mesh[:, -1] = np.where(ends, goals, mesh[:, -1])
    return mesh


def _predicted(
    space: Space, before: _Window | None, mesh: np.ndarray, at: np.ndarray, start: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """States and stages: the polynomials of the window before where they are near, else the last states.

    Args:
        at: (B, N k), the points; start: (B, M).
    """
    B, N = len(mesh), mesh.shape[1] - 1
    if compiled.is_compiled and before is not None:
        q, first, W, E = space.compiled
        x, z = np.empty((B, N + 1, space.M)), np.empty((B, N, space.V, space.k))
        tables = q, first, before[0][:, 1:] - before[0][:, :-1], W, E, space.of_series
        compiled.predict(*tables, *before, NEAR, start, mesh, at, x, z)
        return x, z
    x = np.repeat(start[:, None], N + 1, axis=1)
    z = np.zeros((B, N, space.V, space.k))
    if before is None or not (known := before[3] > 0).any():
        return x, z
    t_old, x_old, z_old, solved = before
    b, last = np.arange(B), np.maximum(solved - 1, 0)
    end = t_old[b, last]
    limit = end + NEAR * (t_old[b, last + 1] - end)
    times = np.concatenate([mesh, at], axis=1)
    near = known[:, None] & ((times - limit[:, None]) * (mesh[:, 1:2] - mesh[:, :1]) <= 0)
    y = space.at_times(x_old, z_old, t_old, times, last)
    x = np.where(near[:, : N + 1, None], space.gather_states(np, y[:, : N + 1]), x)
    stages = y[:, N + 1 :, np.arange(space.V), list(space.orders)].reshape(B, N, space.k, space.V).swapaxes(-1, -2)
    inside = near[:, N + 1 :].reshape(B, N, 1, space.k).all(axis=3, keepdims=True)
    z = np.where(inside, stages, z)
    zero = [v for v, q in enumerate(space.orders) if q == 0]
    if zero:
        held = np.where(known[:, None, None, None], z_old[b, last][:, None, zero, -1:], 0.0)
        z[:, :, zero] = np.where(inside, z[:, :, zero], held)
    x[:, 0] = start
    return x, z


def _newton(problem: Discrete, algebra: Window, at: np.ndarray, u: Iterates) -> np.ndarray:
    """Newton's method in windows, whose points are at times `at` (B, N k): the steps that each of them took, (B,)."""
    N, p = u.change.shape[1], np.zeros((len(u.x), 0))
    steps, stale, age = np.zeros(len(u.x), int), True, 0
    for step in range(1, ITERATIONS + 1):
        steps += u.solved < N
        if stale:
            f, J, _ = problem.linearize(at, u.y, p, sparse=algebra.takes_sparse)
            algebra.improve(u, f, J)
            age = 0
        else:
            algebra.improve(u, problem.value(at, u.y, p), None)
        unsolved = [(n, rate) for n, rate in zip(u.solved.tolist(), u.rate.tolist(), strict=True) if n < N]
        if not unsolved:
            break
        age += 1
        stale = age >= 5 or any(rate > STALE for _, rate in unsolved)
        if all(step >= least and rate > most for n, rate in unsolved for least, most in (SLOW if n else HOPELESS,)):
            break
    return steps


def _joined(
    space: Space, kept: list[_Window], finished: np.ndarray, reached: np.ndarray, x_end: np.ndarray, times: np.ndarray
) -> tuple[Mesh, Step]:
    """The intervals kept, of all members with one number of them."""
    B = len(finished)
    parts = []
    for b in range(B):
        t, x, z = (np.concatenate([w[i][b, : w[3][b]] for w in kept]) for i in range(3))
        parts.append((np.append(t, reached[b]), np.append(x, x_end[b, None], axis=0), z))
    N = max(max(len(t) - 1 for t, _, _ in parts), 1)
    t_all, x_all = np.empty((B, N + 1)), np.empty((B, N + 1, space.M))
    z_all, index = np.empty((B, N, space.V, space.k)), np.empty((B, len(times)), int)
    sign = np.sign(times[-1] - times[0])
    for b, (t, x, z) in enumerate(parts):
        if not finished[b]:  # numbers that are not read
            t_all[b], x_all[b], z_all[b] = np.linspace(times[0], times[-1], N + 1), np.nan, np.nan
            index[b] = np.clip(np.linspace(0, N, len(times)).astype(int), 0, N)
            continue
        at = np.searchsorted(sign * t, sign * times)
        if len(t) - 1 < N:
            own = finer(Mesh(t[None], at[None]), 0, N)
            x, z = (a[0] for a in space.moved(space, x[None], z[None], t[None], own.t))
            t, at = own.t[0], own.index[0]
        t_all[b], x_all[b], z_all[b], index[b] = t, x, z, at
    return Mesh(t_all, index), Step(x_all, z_all, np.zeros((B, 0)))
