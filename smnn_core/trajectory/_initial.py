"""Initial-value problems: a march that is roughly right, then Newton's method on meshes that meet the tolerance.

A march has to find steps and solution together, a window at a time. What is known once it has arrived makes a better
mesh, and a first guess from which Newton's method solves many intervals at once in a few steps, with all of their
points in one call of the residual; the estimate of the global error says how fine that mesh has to be. Where the march
was too rough for that, since the equations amplify its errors, it is made again, with smaller ones.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ._boundary import MARGIN, Found
from ._collocation import Space
from ._discrete import Discrete, Mesh
from ._linear import Step
from ._march import FAINTEST, Marched, follow, march
from ._mesh import ErrorEstimate, equidistributed, estimate
from ._window import recent

__all__ = ["solve_initial"]

ROUGH = 1e-6
"""The most that an interval of the first march may add to the error, relative to the size of each variable. Marches
with larger errors take as many windows, and have to be made again."""
NEAR = 0.1
"""The largest relative error at the end of a march from which Newton's method is tried on the whole."""
LEAST = 1e-13
"""No march is made with smaller ones."""
NO_SHARE = 1e-30
"""Of every interval of a mesh that is not changed: their number does not follow from it."""
MARCHES = 4
MESHES = 7
"""Marches, and meshes after each, before a member is given up."""


def solve_initial(
    problem: Discrete,
    space: Space,
    times: np.ndarray,
    *,
    tolerance: float,
    absolute: float,
    most_intervals: int,
    report: Callable[..., None],
) -> Found:
    """All conditions stand at times[0]."""
    values = problem.conditions.values
    assert values is not None
    x = space.gather_states(np, values[:, 0])
    B = len(x)
    local, members = np.full(B, ROUGH), np.arange(B)
    best: Found | None = None
    for i in range(MARCHES):
        part, start, rough = problem.of(members), x[members], local[members]
        run = march(
            part,
            space,
            times,
            start,
            tolerance=rough,
            absolute=0.1 * absolute,
            most_intervals=most_intervals,
            report=report,
        )
        last = i + 1 == MARCHES
        found, shorter = _refined(part, space, run, start, tolerance, absolute, most_intervals, report, last)
        best = found if best is None else best.joined(found, members)
        # the march may have passed over something, as a transient; where another does not help, it is rounding
        stalled = run.finished & ~found.converged & (shorter == 1) & (rough == ROUGH)
        shorter = np.where(stalled, 1e-2, shorter)
        local[members] = np.maximum(rough * shorter, LEAST)
        members = members[(shorter < 1) & (rough > 1.01 * LEAST)]
        if not members.size:
            break
    assert best is not None
    return best


def _refined(
    problem: Discrete,
    space: Space,
    run: Marched,
    x: np.ndarray,
    tolerance: float,
    absolute: float,
    most_intervals: int,
    report: Callable[..., None],
    last: bool,
) -> tuple[Found, np.ndarray]:
    """Solutions from a march by Newton's method on finer meshes, and where that failed the factor by which another
    march should be more accurate, (B,), 1 where it is not wanted. After the last march Newton's method is tried from
    any."""
    finished, mesh, u = run.finished, run.mesh, run.u
    allowed = tolerance * run.size + absolute
    allowed = np.where(allowed > 0, allowed, 1e-300)
    faint = FAINTEST * tolerance * run.size_x
    found = estimate(problem, space, mesh, u, forward=True)
    ratio, failed, shorter = np.full(len(x), np.inf), ~finished, np.ones(len(x))
    for refinement in range(MESHES):
        before = ratio
        with np.errstate(all="ignore"):
            ratio = np.nan_to_num((found.error / allowed[:, None]).max(axis=(1, 2)), nan=np.inf)
            far = ~failed & ~(ratio * tolerance < (np.inf if last else NEAR))
            shorter[far] = np.clip(0.3 * NEAR / (ratio[far] * tolerance), 1e-4, 0.3)
        failed |= far
        refine = ~failed & (ratio > MARGIN) & ((ratio < 0.8 * before) | (refinement <= 2))
        if not refine.any() or most_intervals <= mesh.N:
            break
        share = _shares(space, mesh, u, found, np.where(failed, np.inf, ratio), tolerance, absolute)
        least = mesh.N + mesh.N // 4 if refinement else max(mesh.N // 2, 4)
        limits = min(least, most_intervals), min(4 * mesh.N, most_intervals)
        new, _ = equidistributed(space, mesh, share, None, limits=limits)
        x_new, z_new = space.moved(space, u.x, u.z, mesh.t, new.t)
        x_new[:, 0] = x
        mesh, guess = new, Step(x_new, z_new, u.p)
        solved, u = follow(problem, space, mesh, guess, faint, tolerance, absolute)
        u = u.where(solved, guess)
        shorter[~failed & ~solved] = 1e-2
        failed |= ~solved
        found = estimate(problem, space, mesh, u, forward=True)
        report(intervals=mesh.N, estimate=float(ratio[~failed].max(initial=0.0) * tolerance))
    with np.errstate(all="ignore"):
        ratio = (found.error / allowed[:, None]).max(axis=(1, 2))
    good = ~failed & (ratio <= 1)
    error = np.where(finished[:, None, None], found.error, np.nan)
    ended = "more intervals are not allowed: raise max_intervals or tolerance" if most_intervals <= mesh.N else ENDED
    stops = [""] * len(x) if finished.all() else _stops(problem, space, run, absolute)
    reasons = [_reason(good[b], finished[b], ratio[b] * tolerance, stops[b], ended) for b in range(len(x))]
    return Found(space, mesh, u, error, good, reasons, run.windows), shorter


def _shares(
    space: Space,
    mesh: Mesh,
    u: Step,
    found: ErrorEstimate,
    ratio: np.ndarray,
    tolerance: float,
    absolute: float,
) -> np.ndarray:
    """The share of each interval in the error, amplified as the whole amplifies it, in units of what is allowed beside
    the size that variables have thereabouts: (B, N, V). What fades is followed as closely as in a march. Meshes of
    members that have failed stay as they are."""
    y = space.largest(u.x, u.z)
    near = np.maximum(recent(y), recent(y[:, ::-1])[:, ::-1])
    largest = y.max(axis=1, keepdims=True)
    allowed = tolerance * np.maximum(near, FAINTEST * tolerance * largest) + absolute
    everywhere = tolerance * largest + absolute
    with np.errstate(all="ignore"):
        added = (found.local / np.where(everywhere > 0, everywhere, 1e-300)).max(axis=(1, 2))
        amplified = np.maximum(ratio / np.maximum(added, 1e-300), 1.0)[:, None, None]
        share = found.local / np.where(allowed > 0, allowed, 1e-300) * amplified
    return np.where(np.isfinite(ratio)[:, None, None], share, NO_SHARE)


ENDED = (
    "shorter steps do not help: f is not smooth (times of jumps belong into `times`), its derivatives are wrong, or "
    "the equations amplify what rounding leaves, and only a larger tolerance can be met"
)


def _reason(good: bool, finished: bool, error: float, stop: str, ended: str) -> str:
    if good:
        return "solved: the estimate of the global error is below the tolerance"
    if finished:
        return (
            f"the estimate of the global error is {error:.1e} of the size of the variables, above the tolerance, and "
            f"{ended}"
        )
    return stop


def _stops(problem: Discrete, space: Space, run: Marched, absolute: float) -> list[str]:
    """Why each march ended where it did, for those that have not arrived."""
    t = np.nextafter(run.reached, np.inf if run.mesh.t[0, -1] > run.mesh.t[0, 0] else -np.inf)[:, None]
    y = np.ones((len(t), 1, space.V, space.R + 1))  # highest derivatives: f of some of them may have no value at zero
    variable, order = space.states
    y[:, 0, variable, order] = run.x
    with np.errstate(all="ignore"):
        finite = np.isfinite(problem.value(t, y, np.zeros((len(t), 0)))).all(axis=(1, 2))
    size, begun = run.size.copy(), np.any(run.size > 0, axis=-1)
    size[:, variable[order == 0]] = np.maximum(size[:, variable[order == 0]], np.abs(run.x[:, order == 0]))
    size[np.ix_(~begun, ~np.isin(np.arange(space.V), variable))] = np.inf  # algebraic: not known before the first step
    reasons = []
    for b, at in enumerate(run.reached):
        zero = np.flatnonzero(size[b] == 0)
        if not finite[b]:
            reason = f"f is not finite at t = {at:.6g}, where the solution came to: end before it, or start elsewhere"
        elif zero.size and absolute == 0:
            reason = (
                f"steps became too short at t = {at:.6g}: variable {zero[0]} is zero up to there, and its error has no "
                "size to be relative to. Give the error that is allowed as `absolute`"
            )
        elif not begun[b]:
            reason = (
                f"no step from t = {at:.6g} was short enough: initial values contradict the equations there, f jumps "
                "or is undefined, or its derivatives are wrong"
            )
        else:
            reason = (
                f"steps became too short, or too many, at t = {at:.6g}: the solution may end there, f jump or be "
                "undefined; end before it, put times of jumps into `times`, or allow more by max_intervals"
            )
        reasons.append(reason)
    return reasons
