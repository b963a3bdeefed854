"""Boundary-value problems: Newton's method, the estimate, the next mesh, until the estimate is below the tolerance."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from .._arrays import Array
from .._errors import ArgumentError
from ._arithmetic import namespace_of
from ._collocation import Space
from ._discrete import Discrete, Mesh
from ._linear import Step
from ._mesh import ErrorEstimate, equidistributed, estimate, finer
from ._newton import robust_newton, sizes

__all__ = ["MARGIN", "Found", "solve_boundary"]

MARGIN = 0.7
"""The part of the tolerance that the estimate may reach: it is right within some tens of per cent."""
ALIKE = 1e-2
"""Relative difference of states up to which iterations have ended at the same place on two meshes."""
ENDS_ALIKE = 3
"""Meshes in a row on which they did, each at least twice as fine: those that follow would change nothing."""
OTHER_START = "a guess= nearer the solution, such as that of an easier problem; or derivatives that you gave are wrong"
"""Advice where Newton's method does not converge."""


@dataclass
class Found:
    """A solution of each member, or where the search ended."""

    space: Space
    mesh: Mesh
    u: Step
    error: np.ndarray
    """(B, N, V)"""
    converged: np.ndarray
    """(B,)"""
    reasons: list[str]
    iterations: int
    met: np.ndarray | None = None
    """(B,): members whose rows are met on this mesh, where those are others than have converged"""

    def divided(self, N: int) -> Found:
        """The same on N intervals, of which some are parts of what they were."""
        mesh, u = self.mesh, self.u
        if mesh.N >= N:
            return self
        members = [finer(mesh, b, N) for b in range(len(mesh.t))]
        new = Mesh(np.concatenate([m.t for m in members]), np.concatenate([m.index for m in members]))
        i = self.space.interval(mesh.t, 0.5 * (new.t[:, 1:] + new.t[:, :-1]))
        x, z = self.space.moved(self.space, u.x, u.z, mesh.t, new.t)
        return replace(self, mesh=new, u=Step(x, z, u.p), error=self.error[np.arange(len(i))[:, None], i])

    def joined(self, other: Found, members: np.ndarray) -> Found:
        """Of some members the better of two solutions, of the others the first.

        Args:
            other: of the members (n,) alone.
        """
        N = max(self.mesh.N, other.mesh.N)
        first, second = self.divided(N), other.divided(N)
        largest = [np.nan_to_num(a.error, nan=np.inf).max(axis=(1, 2)) for a in (first, second)]
        better = second.converged | ~first.converged[members] & (largest[1] < largest[0][members])
        new = members[better]

        def chosen(a: np.ndarray, b: np.ndarray) -> np.ndarray:
            a = a.copy()
            a[new] = b[better]
            return a

        reasons = list(first.reasons)
        for i, b in zip(new, np.flatnonzero(better), strict=True):
            reasons[i] = second.reasons[b]
        one, two = first.u, second.u
        return Found(
            self.space,
            Mesh(chosen(first.mesh.t, second.mesh.t), chosen(first.mesh.index, second.mesh.index)),
            Step(chosen(one.x, two.x), chosen(one.z, two.z), chosen(one.p, two.p)),
            chosen(first.error, second.error),
            chosen(first.converged, second.converged),
            reasons,
            first.iterations + second.iterations,
        )

    @property
    def followed(self) -> np.ndarray:
        """Members that have derivatives, (B,)."""
        return self.converged if self.met is None else self.met


def solve_boundary(
    problem: Discrete,
    space: Space,
    mesh: Mesh,
    start: Callable[[Mesh], Step],
    *,
    tolerance: float,
    absolute: float,
    fixed: bool,
    most_intervals: int,
    report: Callable[..., None],
) -> Found:
    """Solves on meshes of its own, or, `fixed`, on this mesh alone.

    Args:
        start: the first guess on a mesh.
        report: called with the number of intervals and the largest estimate, for a progress bar.
    """
    B, first = len(mesh.t), mesh
    u, held = start(mesh), np.zeros(B, bool)
    error = np.full((B, mesh.N, space.V), np.inf)
    guessed = np.ones(B, bool)
    reasons = [""] * B
    inner = inner_tolerance(tolerance)
    iterations = 0
    ends, alike, hopeless = (mesh, u), np.zeros(B, int), np.zeros(B, bool)
    while True:
        again = None if guessed.all() else lambda mesh=mesh: start(mesh)
        run = robust_newton(problem, space, mesh, u, held | hopeless, tolerance=inner, guess=again)
        iterations += run.iterations
        ok = run.converged
        if mesh is first and not ok.any():
            _check_start(problem, space, mesh, u)
        found = estimate(problem, space, mesh, run.u) if ok.any() else None
        u = run.u.where(ok | held, u)
        if found is not None:
            new_error = np.where(ok[:, None, None], found.error, error)
            error = np.where(held[:, None, None], error, new_error)
        allowed = tolerance * size_of_variables(space, u, mesh) + absolute
        with np.errstate(all="ignore"):
            ratio = np.where(np.isfinite(error), error, np.inf).max(axis=1) / np.where(allowed > 0, allowed, 1e-300)
            ratio = ratio.max(axis=1)
        good = ok & (ratio <= MARGIN)
        for b in np.flatnonzero(good & ~held):
            reasons[b] = "solved: the estimate of the error is below the tolerance"
        held = held | good
        report(intervals=mesh.N, estimate=float(np.max(np.where(np.isfinite(ratio), ratio, 0.0)) * tolerance))
        if fixed:
            for b in np.flatnonzero(~held):
                reasons[b] = (
                    "solved on the mesh that was given; the estimate of the error is above the tolerance: give a finer "
                    "mesh, a larger tolerance, or no mesh"
                    if ok[b]
                    else f"Newton's method did not converge on the mesh that was given: give a finer mesh, none, or "
                    f"{OTHER_START}"
                )
            return Found(space, mesh, u, error, held, reasons, iterations, met=ok | held)
        failed = ~ok & ~held
        if mesh is first or mesh.N >= 2 * ends[0].N:
            same = (alike > 0) & _ended_alike(space, *ends, mesh, run.u)
            ends, alike = (mesh, run.u), np.where(failed, np.where(same, alike + 1, 1), 0)
            lost = np.flatnonzero(~hopeless & (alike >= ENDS_ALIKE))
            hopeless[lost] = True
            for b, reason in zip(lost, _seen(problem, space, mesh, run.u, lost), strict=True):
                reasons[b] = reason
        if (held | hopeless).all():
            return Found(space, mesh, u, error, held, reasons, iterations)
        if most_intervals < 2 * mesh.N and not (ok & ~held).any():
            reason, advice = "Newton's method did not converge", f"give {OTHER_START}"
            return _given_up(space, mesh, u, error, held, ok, reasons, iterations, reason, advice)
        if most_intervals <= mesh.N:
            reason, advice = "the mesh would be too fine", "allow more of them by max_intervals, or a larger tolerance"
            return _given_up(space, mesh, u, error, held, ok, reasons, iterations, reason, advice)
        new = _next_mesh(space, mesh, found, ok & ~held, allowed, ratio, most_intervals)
        with np.errstate(all="ignore"):
            carried = _carried(space, mesh, new, u, error, held, failed, guessed & ~ok, start)
        if (carried[2].s == 0).any(axis=1)[~held & ~hopeless].all():
            reason = "the solution changes within less than the distance of two numbers"
            advice = "let it do so at t = 0, near which they are closer"
            return _given_up(space, mesh, u, error, held, ok, reasons, iterations, reason, advice)
        u, error, mesh, guessed = carried


def _check_start(problem: Discrete, space: Space, mesh: Mesh, u: Step) -> None:
    """
    Raises:
        ArgumentError: if the residual is defined for no member where the iteration starts.
    """
    at = problem.at(space, mesh, u, derivatives=False)
    if at.is_finite.any():
        return
    bad = np.argwhere(~np.isfinite(at.f[0]))
    where = "in the conditions"
    if len(bad):
        n, j, q = (int(i) for i in bad[0])
        where = f"in equation {q} at t = {mesh.t[0, n] + mesh.s[0, n] * space.points[j]:.6g}"
    raise ArgumentError(f"the residual is not finite at the first guess, {where}: give a guess at which it is defined.")


def _ended_alike(space: Space, before: Mesh, u: Step, mesh: Mesh, v: Step) -> np.ndarray:
    """Members whose states and constants differ little on two meshes, (B,): what Newton's method does is what it would
    do on any finer mesh.

    Source: Allgower, Böhmer, Potra, Rheinboldt, SIAM J. Numer. Anal. 23 (1986) 160: mesh independence.
    """
    x, _ = space.moved(space, u.x, u.z, before.t, mesh.t)
    with np.errstate(all="ignore"):
        states = np.abs(x - v.x).max(axis=1) <= ALIKE * np.abs(v.x).max(axis=1)
        return states.all(axis=-1) & (np.abs(u.p - v.p) <= ALIKE * np.abs(v.p)).all(axis=-1)


def _seen(problem: Discrete, space: Space, mesh: Mesh, u: Step, members: np.ndarray) -> list[str]:
    """The reason for each of the members whose iterations end at the same place u on one mesh after the other."""
    if not len(members):
        return []
    with np.errstate(all="ignore"):
        at = problem.at(space, mesh, u)
        step = problem.solver(space, mesh, at, sizes(space, u)).solve(at.f, at.d, at.conditions.g)
    meshes = f"{ENDS_ALIKE} meshes, the last of {mesh.N} intervals"
    points = problem.times_of(space, mesh.t).reshape(*mesh.s.shape, space.k)

    def reason(b: int) -> str:
        if not np.isfinite(step.x[b]).all():
            return (
                f"the linearised equations and conditions have no unique solution, on {meshes}: conditions contradict "
                f"each other or leave something free; else give {OTHER_START}"
            )
        f, g = np.abs(at.f[b]), np.abs(at.conditions.g[b])
        n, j, q = np.unravel_index(f.argmax(), f.shape)
        missed = f"equation {q} is off by {f[n, j, q]:.2g} at t = {points[b, n, j]:.4g}"
        if g.max(initial=0.0) > f[n, j, q]:
            missed = f"condition {g.argmax()} is off by {g.max():.2g}"
        return (
            f"Newton's method ends at the same place on {meshes}, where variables are at most "
            f"{np.abs(u.x[b]).max():.3g} and {missed}: there may be no solution; else give {OTHER_START}"
        )

    return [reason(int(b)) for b in members]


def inner_tolerance(tolerance: float) -> float:
    """Of Newton's method: a step of that length leaves an error of its square."""
    return max(1e-2 * tolerance, 1e-13)


def size_of_variables(space: Space, u: Step, mesh: Mesh) -> Array:
    """The largest |y| of each variable, (B, V)."""
    xp = namespace_of(u.x)
    y = space.between(xp, space.features(xp, u.x[:, :-1], u.z, mesh.scale), 3)
    return xp.max(xp.abs(y), axis=(1, 3))


def _given_up(
    space: Space,
    mesh: Mesh,
    u: Step,
    error: np.ndarray,
    held: np.ndarray,
    ok: np.ndarray,
    reasons: list[str],
    iterations: int,
    reason: str,
    advice: str,
) -> Found:
    for b in np.flatnonzero(~held):
        left = "; the estimate of the error is above the tolerance" if ok[b] else ""
        reasons[b] = reasons[b] or f"{reason}, with {mesh.N} intervals{left}: {advice}"
    return Found(space, mesh, u, error, held, reasons, iterations)


def _next_mesh(
    space: Space,
    mesh: Mesh,
    found: ErrorEstimate | None,
    solved: np.ndarray,
    allowed: np.ndarray,
    ratio: np.ndarray,
    most_intervals: int,
) -> Mesh:
    """The meshes of members that were solved but not well enough; of others only the number of intervals counts."""
    N = mesh.N
    if found is None or not solved.any():
        return mesh.halved() if most_intervals < 4 * N else mesh.halved().halved()
    share = found.local / np.where(allowed > 0, allowed, 1e-300)[:, None]
    largest = share.max(axis=(1, 2))
    with np.errstate(all="ignore"):
        share *= np.where(solved, np.maximum(ratio / np.maximum(largest, 1e-300), 1.0), 0.0)[:, None, None]
    new, _ = equidistributed(space, mesh, share, None, limits=(max(N // 2, 4), min(4 * N, most_intervals)))
    return new if new.N > N or solved.all() else equidistributed(space, mesh, share, N, limits=(N, N))[0]


def _carried(
    space: Space,
    mesh: Mesh,
    new: Mesh,
    u: Step,
    error: np.ndarray,
    held: np.ndarray,
    failed: np.ndarray,
    guessed: np.ndarray,
    start: Callable[[Mesh], Step],
) -> tuple[Step, np.ndarray, Mesh, np.ndarray]:
    """The start of each member on its next mesh: its present iterate, on a mesh of its own of as many intervals."""
    t, index = new.t.copy(), new.index.copy()
    N = new.N
    for b in np.flatnonzero(held | failed):
        own = finer(mesh, int(b), N) if mesh.N <= N else None
        if own is not None:
            t[b], index[b] = own.t[0], own.index[0]
    carried = Mesh(t, index)
    x, z = space.moved(space, u.x, u.z, mesh.t, carried.t)
    moved = Step(x, z, u.p)
    if guessed.any():
        moved = start(carried).where(guessed, moved)
    i = space.interval(mesh.t, 0.5 * (carried.t[:, 1:] + carried.t[:, :-1]))
    return moved, error[np.arange(len(error))[:, None], i], carried, guessed
