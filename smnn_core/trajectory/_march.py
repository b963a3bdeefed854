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

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ._collocation import Space, summed
from ._discrete import Discrete, Mesh
from ._linear import Step
from ._mesh import constants_of_error, finer, parts
from ._window import WINDOW, marching_window

__all__ = ["FAINTEST", "Marched", "follow", "march"]

LEAST = 6
"""Least number of intervals of a window: some of them may be solved where others are not."""
ITERATIONS = 8
"""Steps of Newton's method in a window, after which what has converged is kept."""
ROUNDING = 1e-5
"""Relative changes that are smaller, and that a new left-hand side does not shorten, are as short as rounding lets them
be: equations may amplify it."""
FURTHER = np.array([10.0, 10.0, 10.0, 10.0, 10.0, 10.0, 6.0, 4.0, 2.0])
"""How much further a window may reach than the last, by the steps that Newton's method took there."""
SLOW = 4, 0.3
"""Steps after which what has converged is kept, where the next interval converges slower than this."""
HOPELESS = 3, 0.9
"""The same where nothing has: the first interval was too long."""
FIRST = 1e-6
"""The first step, as a part of the whole."""
NONE = np.zeros((0,))
"""No constants."""
FAINTEST = 1e-3
"""Variables smaller than this part of the tolerance times what they have been count as if they were as large."""
SHORTEST = 1e-15
"""Steps as short as this part of the time are given up."""
GROWTH = 1.25 ** np.arange(WINDOW)
"""Steps of a window whose predecessor could have had longer ones."""


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


class _Members:
    """The progress of each member of the batch."""

    def __init__(self, space: Space, times: np.ndarray, x: np.ndarray) -> None:
        B = len(x)
        self.t = np.full(B, times[0])
        self.x = x.copy()
        self.goal = np.ones(B, int)
        """which of the times is marched to"""
        self.h = np.full(B, FIRST * (times[-1] - times[0]))
        self.extent = np.full(B, np.inf)
        """how far the next window may reach"""
        self.grows = np.zeros(B, bool)
        self.done = np.zeros(B, bool)
        self.failed = np.zeros(B, bool)
        self.solved = np.zeros(B, int)
        """how many intervals of the last window, below, Newton's method solved; none where polynomials end"""
        self.mesh, self.u = np.zeros((B, 2)), Step(np.zeros((B, 2, space.M)), np.zeros((B, 1, space.V, space.k)), NONE)
        self.size = np.abs(x)
        """(B, M): of the states in the last window"""
        self.top, self.width = np.full((B, space.V), np.nan), np.ones(B)
        """the highest derivative in the last interval that was kept, NaN where there is none, and its length"""
        self.kept: list[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]] = []
        """of each window: starts (B, N), states, stages, and how many intervals were kept (B,)"""


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
    held: np.ndarray,
) -> Marched:
    """From the states x (B, M) at times[0] to times[-1].

    Args:
        held: (B,): members that are left out.
        tolerance: (B,), of what each interval adds, relative to the size of each variable in its window.
    """
    B = len(x)
    b = np.arange(B)
    m = _Members(space, times, x)
    m.failed |= held
    span = abs(times[-1] - times[0])
    size_x, size_v = np.abs(x), np.zeros((B, space.V))
    windows = total = 0
    while not (m.done | m.failed).all():
        windows += 1
        active = ~(m.done | m.failed)
        goal = times[np.minimum(m.goal, len(times) - 1)]
        mesh = _window(m, goal)
        guess = _predicted(space, m, mesh)
        faint = FAINTEST * tolerance[:, None]
        least = np.maximum(m.size, faint * size_x)
        solved, x_new, z_new, steps = _newton(problem, space, mesh, guess, least, tolerance, absolute, active)
        ratio, top, y = _ratio(space, m, mesh, x_new, z_new, faint * size_v, tolerance, absolute, solved)
        N = mesh.shape[1] - 1
        s = np.diff(mesh)
        n = np.arange(N)
        count = np.minimum(solved, np.where(ratio <= 1, N, n).min(axis=1))
        with np.errstate(all="ignore"):
            grow = np.clip(0.8 * ratio ** (-1 / (space.k + 1)), 0.2, 8.0)
        m.kept.append((mesh[:, :-1], x_new[:, :-1], z_new, count))
        total += count.max()
        none, whole = count == 0, count == N
        last, next_ = np.maximum(count - 1, 0), np.minimum(count, N - 1)
        rejected = ~whole & (count < solved)
        after = np.where(rejected, s[b, next_] * grow[b, next_], s[b, last] * grow[b, last])
        m.h = np.where(active, np.where(none & ~rejected, s[:, 0] / 10, after), m.h)
        m.grows = whole & (grow[b, last] > 1.5)
        reached = np.abs(mesh[b, solved] - m.t)
        further = np.where(solved < N, 1.0, FURTHER[steps])
        m.extent = np.where(active, np.where(solved > 0, further * reached, np.abs(s[:, 0])), m.extent)
        m.mesh, m.u, m.solved = mesh, Step(x_new, z_new, NONE), np.where(active, solved, 0)
        moved = active & ~none
        m.top = np.where(moved[:, None], top[b, last], m.top)
        m.width = np.where(moved, s[b, last], m.width)
        m.x = np.where(moved[:, None], x_new[b, count], m.x)
        m.t = np.where(moved, mesh[b, count], m.t)
        keep = n < count[:, None]
        largest = np.where(keep[..., None], np.abs(x_new[:, 1:]), 0).max(axis=1)
        m.size = np.where(moved[:, None], largest, m.size)
        size_x = np.maximum(size_x, largest)
        size_v = np.maximum(size_v, np.where(keep[..., None], y, 0.0).max(axis=1))
        arrived = moved & (m.t == goal)
        if arrived.any():
            m.goal += arrived
            m.done |= arrived & (m.goal >= len(times))
            onward = arrived & ~m.done
            m.solved[onward], m.top[onward] = 0, np.nan  # what happens there ends the polynomials
            m.h = np.where(onward, 0.1 * np.sign(m.h) * np.minimum(np.abs(m.h), 1e-2 * span), m.h)
        m.failed |= active & ~m.done & (np.abs(m.h) < SHORTEST * np.maximum(np.abs(m.t), span * 1e-3))
        if total > most_intervals:
            m.failed |= ~m.done
        report(intervals=int(total), time=float(m.t[np.argmin(np.abs(m.t - times[0]))]))
    mesh_, u = _joined(space, m, times)
    return Marched(mesh_, u, m.done, m.t, m.x, size_v, size_x, windows)


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
    allowed = np.full(B, tolerance)
    most, n, began_anew = parts(space, B, N)[0].stop, 0, np.zeros(B, bool)
    while n < N and solved.any():
        part, ends = slice(n, min(n + most, N)), slice(n, min(n + most, N) + 1)
        guess = Step(x[:, ends], z[:, part], u.p)
        count, x[:, ends], z[:, part], _ = _newton(
            problem, space, mesh.t[:, ends], guess, least, allowed, absolute, solved
        )
        stuck = solved & (count == 0)
        solved &= ~stuck | ~began_anew
        began_anew = stuck & solved
        x[began_anew, n + 1 :], z[began_anew, n:] = x[began_anew, n, None], 0.0
        n += int(count[solved].min(initial=N))
    return solved, Step(x, z, u.p)


def _window(m: _Members, goal: np.ndarray) -> np.ndarray:
    """The mesh of the next window of each member, (B, N+1): as many intervals as any of them needs to reach as far as
    it may. What reaches further is solved, or is not."""
    steps = np.where(m.grows[:, None], GROWTH, 1.0) * np.minimum(np.abs(m.h), m.extent / LEAST)[:, None]
    offset = np.cumsum(steps, axis=1)
    way = np.abs(goal - m.t)
    way = np.where(m.done | m.failed, offset[:, -1], way)
    extent = (1 - 1e-9) * np.minimum(m.extent, way)
    needed = np.minimum((offset < extent[:, None]).sum(axis=1) + 1, WINDOW)
    N = int(needed[~(m.done | m.failed)].max())
    offset = offset[:, :N] * np.minimum(1.0, way / offset[:, N - 1])[:, None]
    mesh = np.concatenate([m.t[:, None], m.t[:, None] + np.sign(m.h)[:, None] * offset], axis=1)
    ends = offset[:, -1] >= (1 - 1e-9) * way
    mesh[:, -1] = np.where(ends & ~(m.done | m.failed), goal, mesh[:, -1])
    return mesh


def _predicted(space: Space, m: _Members, mesh: np.ndarray) -> Step:
    """The polynomials of the last window where they are near, else the last states."""
    B, N = len(mesh), mesh.shape[1] - 1
    x = np.repeat(m.x[:, None], N + 1, axis=1)
    z = np.zeros((B, N, space.V, space.k))
    if m.solved.any():
        b = np.arange(B)
        last = np.maximum(m.solved - 1, 0)
        s = np.diff(m.mesh)
        limit = m.mesh[b, last] + 2.5 * s[b, last]
        at = (mesh[:, :-1, None] + np.diff(mesh)[..., None] * np.asarray(space.points)).reshape(B, -1)
        times = np.concatenate([mesh, at], axis=1)
        near = (m.solved > 0)[:, None] & ((times - limit[:, None]) * np.sign(m.h)[:, None] <= 0)
        member, point = np.nonzero(near)
        i = np.minimum(space.interval(m.mesh, times), last[:, None])[near]
        length = s[member, i]
        y = np.zeros((*times.shape, space.V, space.R + 1))
        with np.errstate(all="ignore"):
            θ = (times[near] - m.mesh[member, i]) / length
            series = space.series(m.u.x[:, :-1].reshape(-1, space.M), m.u.z.reshape(-1, space.V, space.k), s.ravel())
            y[member, point] = summed(series, member * s.shape[1] + i, θ)
        x = np.where(near[:, : N + 1, None], space.gather_states(np, y[:, : N + 1]), x)
        values = y[:, N + 1 :, np.arange(space.V), list(space.orders)].reshape(B, N, space.k, space.V)
        stages = np.swapaxes(values, -1, -2)
        inside = near[:, N + 1 :].reshape(B, N, 1, space.k).all(axis=3, keepdims=True)
        z = np.where(inside, stages, z)
        zero = [v for v, q in enumerate(space.orders) if q == 0]
        z[:, :, zero] = np.where(inside, z[:, :, zero], m.u.z[b, last][:, None, zero, -1:])
    x[:, 0] = m.x
    return Step(x, z, np.zeros((B, 0)))


def _newton(
    problem: Discrete,
    space: Space,
    mesh: np.ndarray,
    u: Step,
    least: np.ndarray,
    tolerance: np.ndarray,
    absolute: float,
    active: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """How many intervals of each window were solved, (B,), their states and stages, and the steps it took, (B,)."""
    algebra = marching_window(space, np.diff(mesh), problem.equations.Q)
    at_times = problem.times_of(space, mesh)
    x, z = np.array(u.x, order="C"), np.array(u.z, order="C")
    B, N = len(mesh), mesh.shape[1] - 1
    p = np.zeros((B, 0))
    limit = 1e-2 * tolerance[:, None]
    offset = absolute / tolerance
    solved = np.where(active, 0, N)
    before, stale, age = np.full((B, N), np.inf), True, 0
    steps, member = np.zeros(B, int), np.arange(B)
    for step in range(1, ITERATIONS + 1):
        steps += solved < N
        algebra.skip = (solved >= N).astype(np.intc)
        y, d = algebra.values(x, z)
        if stale:
            f, J, _ = problem.linearize(at_times, y, p)
            algebra.eliminate(J)
            stale, age = False, 0
        else:
            f = problem.value(at_times, y, p)
        change, rate, left = algebra.accept(x, z, *algebra.advance(f, d), least, offset, before)
        ended = (change < limit) | (left < limit)
        if age == 0:
            ended |= (rate > 0.5) & (change < ROUNDING)
        solved = np.where(active, np.where(ended, N, np.arange(N)).min(axis=1), N)
        unsolved = solved < N
        if not unsolved.any():
            break
        age += 1
        before = change
        slow = rate[member, np.minimum(solved, N - 1)]
        stale = age >= 5 or bool((slow[unsolved] > 0.1).any())
        given_up = ~unsolved
        for (least_steps, allowed), these in ((SLOW, solved > 0), (HOPELESS, solved == 0)):
            if step >= least_steps:
                given_up |= these & (slow > allowed)
        if given_up.all():
            break
    return np.where(active, solved, 0), x, z, steps


def _ratio(
    space: Space,
    m: _Members,
    mesh: np.ndarray,
    x: np.ndarray,
    z: np.ndarray,
    size: np.ndarray,
    tolerance: np.ndarray,
    absolute: float,
    solved: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The share of each interval in the error, in units of what is allowed: (B, N); the highest derivatives that are
    not zero, of order q + k - 1, and |y|, (B, N, V) both."""
    s = np.diff(mesh)
    q = np.array(space.orders)
    within = (np.arange(s.shape[1]) < solved[:, None])[..., None]
    with np.errstate(all="ignore"):
        top, known = z @ space.leading / s[..., None] ** (space.k - 1), np.isfinite(m.top[:, 0])
        before = np.where(known[:, None], m.top, top[:, 0])
        width = np.concatenate([np.where(known, m.width, s[:, 0])[:, None], s], axis=1)
        jump = np.abs(np.diff(np.concatenate([before[:, None], top], axis=1), axis=1))
        jump /= np.abs(0.5 * (width[:, 1:] + width[:, :-1]))[..., None]
        jump[:, :-1] = np.maximum(jump[:, :-1], np.where(within[:, 1:], jump[:, 1:], 0.0))
        error = constants_of_error(space) * np.abs(s[..., None] ** (space.k + q)) * jump
        y = space.largest(x, z)
        sizes = np.maximum(np.where(within, y, 0.0).max(axis=1), size)
        allowed = tolerance[:, None] * np.where(sizes > 0, sizes, 1e-300) + absolute
        ratio = (error / allowed[:, None]).max(axis=-1) + 1e-12
    return np.where(np.isfinite(ratio), ratio, np.inf), top, y


def _joined(space: Space, m: _Members, times: np.ndarray) -> tuple[Mesh, Step]:
    """The intervals kept, of all members with one number of them."""
    B = len(m.t)
    parts = []
    for b in range(B):
        t = np.concatenate([w[0][b, : w[3][b]] for w in m.kept] + [m.t[b : b + 1]])
        x = np.concatenate([w[1][b, : w[3][b]] for w in m.kept] + [m.x[b : b + 1]])
        z = np.concatenate([w[2][b, : w[3][b]] for w in m.kept])
        parts.append((t, x, z))
    N = max(max(len(t) - 1 for t, _, _ in parts), 1)
    t_all, x_all = np.empty((B, N + 1)), np.empty((B, N + 1, space.M))
    z_all, index = np.empty((B, N, space.V, space.k)), np.empty((B, len(times)), int)
    sign = np.sign(times[-1] - times[0])
    for b, (t, x, z) in enumerate(parts):
        if not m.done[b]:  # numbers that are not read
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
