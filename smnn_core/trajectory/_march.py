"""Initial-value problems: windows of Radau intervals, one after the other.

The intervals of a window are solved at once, by Newton's method with one left-hand side for several steps. What an
interval adds to the error follows from the jump of its highest derivative; those up to the first that adds too much are
kept, and the next steps follow from what these add. The error at the end of it all, which is not the sum of these, is
estimated afterwards (`_mesh.estimate`).

Source: Hairer, Wanner, Solving Ordinary Differential Equations II, section IV.8, for Radau methods and their stopping
rule.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ._collocation import Space
from ._discrete import Discrete, Mesh
from ._linear import Step
from ._mesh import constants_of_error, finer
from ._window import window

__all__ = ["Marched", "march"]

WINDOW = 16
"""Intervals of a window."""
FIRST = 1e-6
"""The first step, as a part of the whole."""
REMESHED = 2
"""How often the intervals of a window are chosen again from what they add to the error."""
FAINTEST = 1e-3
"""Variables smaller than this part of the tolerance times what they have been count as if they were as large."""
SHORTEST = 1e-15
"""Steps as short as this part of the time are given up."""


@dataclass
class Marched:
    """The trajectory up to where the march came."""

    mesh: Mesh
    u: Step
    finished: np.ndarray
    """(B,)"""
    reached: np.ndarray
    """(B,): the time"""
    size: np.ndarray
    """(B, V): the largest value of each variable"""
    windows: int


class _Members:
    """What each member of the batch has come to."""

    def __init__(self, space: Space, times: np.ndarray, x: np.ndarray) -> None:
        B = len(x)
        self.t = np.full(B, times[0])
        self.x = x.copy()
        self.goal = np.ones(B, int)
        """which of the times is marched to"""
        self.h = np.full(B, FIRST * (times[-1] - times[0]))
        self.done = np.zeros(B, bool)
        self.failed = np.zeros(B, bool)
        self.known = np.zeros(B, bool)
        """whether there is an interval before, whose polynomial goes on"""
        self.last_t, self.last_s = np.zeros(B), np.ones(B)
        self.last_x, self.last_z = np.zeros_like(x), np.zeros((B, space.V, space.k))
        self.grows = np.zeros(B, bool)
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
) -> Marched:
    """From the states x (B, M) at times[0] to times[-1].

    Args:
        tolerance: (B,), of what each interval adds, relative to the size of each variable in its window.
    """
    B = len(x)
    m = _Members(space, times, x)
    size_x = np.abs(x)
    size_v = np.zeros((B, space.V))
    p = np.zeros((B, 0))
    windows = total = 0
    while not (m.done | m.failed).all():
        active = ~(m.done | m.failed)
        goal = times[np.minimum(m.goal, len(times) - 1)]
        mesh = _window(m, goal, B)
        guess = _extrapolated(space, m, mesh)
        for again in range(REMESHED + 1):
            windows += 1
            part = FAINTEST * tolerance[:, None]
            solved, x_new, z_new = _newton(problem, space, mesh, guess, p, part * size_x, tolerance, absolute, active)
            ratio = _ratio(space, m, mesh, x_new, z_new, part * size_v, tolerance, absolute)
            N = mesh.shape[1] - 1
            fine = ratio <= 1
            count = np.where(fine.all(axis=1), N, np.argmin(fine, axis=1))
            short = solved & active & (count < N // 2)
            if again == REMESHED or not short.any():
                break
            new = _remeshed(mesh, ratio, space.k + 1)
            x, z = space.moved(space, x_new, z_new, mesh, new)
            mesh = np.where(short[:, None], new, mesh)
            guess = Step(
                np.where(short[:, None, None], x, x_new), np.where(short[:, None, None, None], z, z_new), guess.p
            )
        s = np.diff(mesh)
        grow = np.clip(0.8 * ratio ** (-1 / (space.k + 1)), 0.2, 4.0)
        count = np.where(solved & active, count, 0)
        m.kept.append((mesh[:, :-1], x_new[:, :-1], z_new, count))
        total += count.max()
        b = np.arange(B)
        none = count == 0
        shorter = np.where(solved, s[:, 0] * np.minimum(grow[:, 0], 0.7), s[:, 0] / 4)
        last, next_ = np.maximum(count - 1, 0), np.minimum(count, N - 1)
        after = np.where(count == N, s[b, last] * grow[b, last], s[b, next_] * grow[b, next_])
        m.h = np.where(active, np.where(none, shorter, after), m.h)
        m.grows = ~none & (count == N) & (grow[b, last] > 1.5)
        moved = active & ~none
        m.last_t = np.where(moved, mesh[b, last], m.last_t)
        m.last_s = np.where(moved, s[b, last], m.last_s)
        m.last_x = np.where(moved[:, None], x_new[b, last], m.last_x)
        m.last_z = np.where(moved[:, None, None], z_new[b, last], m.last_z)
        m.known |= moved
        m.x = np.where(moved[:, None], x_new[b, count], m.x)
        m.t = np.where(moved, mesh[b, count], m.t)
        if moved.any():
            keep = np.arange(N)[None, :] < count[:, None]
            largest = np.where(keep[..., None], np.abs(x_new[:, 1:]), 0).max(axis=1)
            size_x = np.where(moved[:, None], np.maximum(size_x, largest), size_x)
            size_v = np.where(moved[:, None], np.maximum(size_v, _sizes(space, mesh, x_new, z_new, keep)), size_v)
        arrived = moved & (m.t == goal)
        if arrived.any():
            m.goal += arrived
            m.done |= arrived & (m.goal >= len(times))
            onward = arrived & ~m.done
            m.known &= ~onward  # what happens there ends the polynomial
            m.h = np.where(onward, 0.1 * np.sign(m.h) * np.minimum(np.abs(m.h), 1e-2 * abs(times[-1] - times[0])), m.h)
        m.failed |= active & (np.abs(m.h) < SHORTEST * np.maximum(np.abs(m.t), abs(times[-1] - times[0]) * 1e-3))
        if total > most_intervals:
            m.failed |= ~m.done
        report(intervals=int(total), time=float(m.t[np.argmin(np.abs(m.t - times[0]))]))
    mesh_, u = _joined(space, m, times)
    return Marched(mesh_, u, m.done, m.t, size_v, windows)


def _window(m: _Members, goal: np.ndarray, B: int) -> np.ndarray:
    """The mesh of the next window of each member, (B, N+1)."""
    growth = np.where(m.grows[:, None], np.minimum(1.25 ** np.arange(WINDOW), 30.0), 1.0)
    mesh = m.t[:, None] + np.concatenate([np.zeros((B, 1)), np.cumsum(m.h[:, None] * growth, axis=1)], axis=1)
    way = np.where(m.done | m.failed, m.h * WINDOW, goal - m.t)
    if B == 1:
        part = (mesh[0] - m.t[0]) / way[0]
        beyond = np.flatnonzero(part >= 1 - 1e-12)
        if len(beyond):
            mesh = mesh[:, : beyond[0] + 1]
            mesh[0, -1] = goal[0]
            if (
                len(beyond)
                and mesh.shape[1] > 2
                and abs(mesh[0, -1] - mesh[0, -2]) < 0.1 * abs(mesh[0, -2] - mesh[0, -3])
            ):
                mesh[0, -2] = 0.5 * (mesh[0, -1] + mesh[0, -3])
        return mesh
    over = (mesh[:, -1] - m.t) / way > 1
    scaled = m.t[:, None] + (mesh - m.t[:, None]) * (way / (mesh[:, -1] - m.t))[:, None]
    scaled[:, -1] = m.t + way
    scaled[:, -1] = np.where(m.done | m.failed, scaled[:, -1], goal)
    return np.where(over[:, None], scaled, mesh)


def _remeshed(mesh: np.ndarray, ratio: np.ndarray, K: int) -> np.ndarray:
    """As many intervals from the same start, which add the same, less than what is allowed: (B, N+1)."""
    N = mesh.shape[1] - 1
    mass = np.clip(ratio, 1e-6, 1e12) ** (1 / K)
    mass = np.maximum(mass, 0.3 * np.maximum(np.roll(mass, 1, 1), np.roll(mass, -1, 1)))
    level = np.concatenate([np.zeros((len(mesh), 1)), np.cumsum(mass, axis=1)], axis=1)
    reach = np.minimum(level[:, -1], 0.7 * N)
    wanted = reach[:, None] * np.linspace(0, 1, N + 1)
    i = np.clip((level[:, None, :] <= wanted[:, :, None]).sum(axis=2) - 1, 0, N - 1)
    b = np.arange(len(mesh))[:, None]
    new = mesh[b, i] + (wanted - level[b, i]) / mass[b, i] * np.diff(mesh)[b, i]
    new[:, -1] = np.where(reach == level[:, -1], mesh[:, -1], new[:, -1])
    return new


def _extrapolated(space: Space, m: _Members, mesh: np.ndarray) -> Step:
    """The polynomial of the last interval where it is near, else the last states."""
    B, N = len(mesh), mesh.shape[1] - 1
    x = np.repeat(m.x[:, None], N + 1, axis=1)
    z = np.zeros((B, N, space.V, space.k))
    zero = np.array([v for v, q in enumerate(space.orders) if q == 0], int)
    near = m.known[:, None] & (np.abs(mesh - m.last_t[:, None]) <= 2.5 * np.abs(m.last_s)[:, None])
    z[:, :, zero] = m.last_z[:, None, zero, -1:]
    if near[:, 1].any():
        n = int(near.any(axis=0).sum())
        ends = np.stack([m.last_t, m.last_t + m.last_s], axis=1)
        with np.errstate(all="ignore"):
            px, pz = space.moved(space, m.last_x[:, None], m.last_z[:, None], ends, mesh[:, :n])
        x[:, :n] = np.where(near[:, :n, None], px, x[:, :n])
        z[:, : n - 1] = np.where(near[:, 1:n, None, None], pz, z[:, : n - 1])
    x[:, 0] = m.x
    return Step(x, z, np.zeros((B, 0)))


def _newton(
    problem: Discrete,
    space: Space,
    mesh: np.ndarray,
    u: Step,
    p: np.ndarray,
    size: np.ndarray,
    tolerance: np.ndarray,
    absolute: float,
    active: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Which windows were solved, and their states and stages."""
    algebra = window(space, np.diff(mesh), problem.equations.Q)
    at_times = problem.times_of(space, mesh)
    x, z = np.ascontiguousarray(u.x), np.ascontiguousarray(u.z)
    B = len(mesh)
    solved, lost = ~active, np.zeros(B, bool)
    before = np.full(B, np.inf)
    zero = np.array([v for v, q in enumerate(space.orders) if q == 0], int)
    stale, age, fresh = True, 0, 0
    limit = 1e-2 * tolerance
    while not (solved | lost).all() and fresh < 7:
        y, d = algebra.values(x, z)
        if stale:
            f, J, _ = problem.linearize(at_times, y, p)
            finite = np.isfinite(J).all() and np.isfinite(f).all()
            if not finite:
                bad = ~(np.isfinite(J).reshape(B, -1).all(axis=1) & np.isfinite(f).reshape(B, -1).all(axis=1))
                lost |= bad & ~solved
                J, f = np.nan_to_num(J), np.nan_to_num(f)
            algebra.eliminate(J)
            stale, age, fresh = False, 0, fresh + 1
        else:
            f = problem.value(at_times, y, p)
        with np.errstate(all="ignore"):
            dx, dz = algebra.advance(f, d)
            sizes = np.maximum(np.abs(x + dx).max(axis=1), size)
            weight = np.where(sizes > 0, sizes, 1e-300) + (absolute / tolerance)[:, None]
            change = (np.abs(dx) / weight[:, None]).max(axis=(1, 2), initial=0.0)
            if len(zero):
                scale = np.abs(z + dz)[:, :, zero].max(axis=(1, 3))
                scale = np.where(scale > 0, scale, 1e-300) + (absolute / tolerance)[:, None]
                change = np.maximum(change, (np.abs(dz[:, :, zero]) / scale[:, None, :, None]).max(axis=(1, 2, 3)))
        lost |= ~np.isfinite(change) & ~solved
        going = ~(solved | lost)
        x = np.where(going[:, None, None], x + dx, x)
        z = np.where(going[:, None, None, None], z + dz, z)
        age += 1
        with np.errstate(all="ignore"):
            rate = change / before
            left = np.where((rate < 1) & np.isfinite(before), rate / (1 - rate) * change, np.inf)
        ended = going & ((change < limit) | (left < limit))
        solved = solved | ended
        going &= ~ended
        if not going.any():
            break
        if age > 1 and (rate[going] > 2.0).any() and fresh >= 3:
            lost |= going & (rate > 2.0)
        if (age >= 2 and (rate[going] > 0.3).any()) or age >= 5:
            stale = True
            before = np.where(going, np.inf, before)
        else:
            before = change
    return solved & ~lost & active, x, z


def _sizes(space: Space, mesh: np.ndarray, x: np.ndarray, z: np.ndarray, keep: np.ndarray) -> np.ndarray:
    """The largest |y| of each variable in the intervals kept: (B, V)."""
    s = np.diff(mesh)
    y = space.values(np, space.table((0.0, 1.0)), space.features(np, x[:, :-1], z, s), s)[..., 0]
    return np.where(keep[..., None], np.abs(y).max(axis=2), 0.0).max(axis=1)


def _ratio(
    space: Space,
    m: _Members,
    mesh: np.ndarray,
    x: np.ndarray,
    z: np.ndarray,
    size: np.ndarray,
    tolerance: np.ndarray,
    absolute: float,
) -> np.ndarray:
    """What each interval adds to the error, in units of what is allowed: (B, N)."""
    s = np.diff(mesh)
    q = np.array(space.orders)
    with np.errstate(all="ignore"):
        width = np.concatenate([np.where(m.known, m.last_s, s[:, 0])[:, None], s], axis=1)
        top = z @ space.leading / s[..., None] ** (space.k - 1)
        before = np.where(m.known[:, None], (m.last_z @ space.leading) / m.last_s[:, None] ** (space.k - 1), top[:, 0])
        jump = np.abs(np.diff(np.concatenate([before[:, None], top], axis=1), axis=1))
        jump /= np.abs(0.5 * (width[:, 1:] + width[:, :-1]))[..., None]
        jump[:, :-1] = np.maximum(jump[:, :-1], jump[:, 1:])
        error = constants_of_error(space) * np.abs(s[..., None] ** (space.k + q)) * jump
        y = space.values(np, space.table((0.0, 1.0)), space.features(np, x[:, :-1], z, s), s)[..., 0]
        sizes = np.maximum(np.abs(y).max(axis=(1, 2)), size)
        allowed = tolerance[:, None] * np.where(sizes > 0, sizes, 1e-300) + absolute
        ratio = (error / allowed[:, None]).max(axis=-1) + 1e-12
    return np.where(np.isfinite(ratio), ratio, np.inf)


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
