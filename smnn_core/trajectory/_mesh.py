r"""Estimates of the error, and meshes that follow from them.

The estimate is one step of Newton's method with one collocation point more, from the solution that was found, on the
same
mesh: the difference to a solution whose error is smaller by an order, global, to first order. The polynomials of one
degree more show y^(k+q) of each interval, and with it what an interval adds to the error,

    e = C s^(k+q) |y^(k+q)|,      C = max_θ |q-fold integral of prod_l (θ - c_l)| / k!,

of which the new mesh gives each interval the same share.

Source: Ascher, Christiansen, Russell, Math. Comp. 33 (1979) 659, for meshes along which e is constant.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import factorial

import numpy as np

from .._arrays import Array
from ._collocation import Space, constant, gauss, radau, space_of
from ._discrete import Discrete, Mesh
from ._linear import Step
from ._newton import sizes
from ._window import marching_window

__all__ = ["ErrorEstimate", "constants_of_error", "equidistributed", "estimate", "finer", "one_point_more", "parts"]

MOST_ENTRIES = 5_000_000
"""Entries of Jacobians that are held at a time, 40 MB."""


@dataclass(frozen=True)
class ErrorEstimate:
    error: Array
    """(B, N, V): the largest difference of each variable on each interval"""
    local: Array
    """(B, N, V): what each interval adds"""
    constants: Array
    """(B, p)"""


def one_point_more(space: Space) -> Space:
    return space_of((radau if space.points[-1] == 1.0 else gauss)(space.k + 1), space.orders)


@lru_cache(maxsize=64)
def constants_of_error(space: Space) -> np.ndarray:
    """C for each variable, (V,)."""
    higher = one_point_more(space)
    c = np.asarray(space.points)
    ω = np.prod(np.asarray(higher.points)[:, None] - c, axis=1) / factorial(space.k)  # (k+1,)
    W = higher.table(np.linspace(0, 1, 33))[:, max(space.R, 1) :, :, 0]  # (V, k+1, 33)
    return np.abs(np.einsum("vlj,l->vj", W, ω)).max(axis=1)


@lru_cache(maxsize=64)
def _interpolation(space: Space, other: Space) -> np.ndarray:
    """Stages at the points of another space from those of one: (k, k')."""
    Λ = Space(space.points, (0,)).table(other.points)[0, 1:, :, 0]
    return np.ascontiguousarray(Λ)


def parts(problem: Discrete, space: Space, B: int, N: int) -> list[slice]:
    """Intervals of B members, some at a time: Jacobians of at most `MOST_ENTRIES` numbers."""
    entries = problem.equations.entries or space.V**2 * (space.R + 1)
    count = max(1, MOST_ENTRIES // (B * space.k * entries))
    return [slice(i, min(i + count, N)) for i in range(0, N, count)]


def estimate(problem: Discrete, space: Space, mesh: Mesh, u: Step, *, forward: bool = False) -> ErrorEstimate:
    """The error of a solution; `forward` where all conditions stand at the first time."""
    xp, higher, s = problem.arithmetic.xp, one_point_more(space), mesh.scale
    z = u.z @ constant(xp, _interpolation(space, higher), u.z)
    there = Step(u.x, z, u.p)
    if forward:
        δ = _forward(problem, higher, mesh, there)
    else:
        at = problem.at(higher, mesh, there)
        δ = problem.solver(higher, mesh, at, sizes(space, u)).solve(at.f, at.d, at.conditions.g)
    features = higher.features(xp, δ.x[:, :-1], δ.z, s)
    error = xp.max(xp.abs(higher.between(xp, features, space.k + 4)), axis=-1)
    top = (z + δ.z) @ higher.leading  # s^k y^(q+k)
    q = np.array(space.orders)
    local = constants_of_error(space) * xp.abs(mesh.s[..., None] ** q * top)
    return ErrorEstimate(error, local, xp.abs(δ.p))


def _forward(problem: Discrete, space: Space, mesh: Mesh, u: Step) -> Step:
    """The step of an initial-value problem whose first states are right."""
    dx, dz = np.zeros_like(u.x), np.empty_like(u.z)
    B, N = mesh.s.shape
    for part in parts(problem, space, B, N):
        ends = slice(part.start, part.stop + 1)
        algebra = marching_window(space, mesh.s[:, part], problem.equations.Q)
        y, d = algebra.values(np.ascontiguousarray(u.x[:, ends]), np.ascontiguousarray(u.z[:, part]))
        at = problem.times_of(space, mesh.t[:, ends])
        f, J, _ = problem.linearize(at, y, u.p, sparse=algebra.takes_sparse)
        algebra.eliminate(J)
        dx[:, ends], dz[:, part] = algebra.advance(f, d, dx[:, part.start])
    return Step(dx, dz, np.zeros_like(u.p))


def equidistributed(
    space: Space, mesh: Mesh, share: np.ndarray, N: int | None, *, safety: float = 0.3, limits: tuple[int, int]
) -> tuple[Mesh, int]:
    """A mesh along which what intervals add is constant, and the number of its intervals.

    Args:
        share: (B, N, V), what each interval adds to the error, in units of what is allowed.
        N: the number of intervals; None: as many as make the shares at most `safety`, within the limits.
    """
    K = np.array([space.k + q for q in space.orders])
    with np.errstate(all="ignore"):
        density = (np.nan_to_num(share, nan=1e30, posinf=1e30) ** (1 / K)).max(axis=-1) / np.abs(mesh.s)  # (B, N)
    around = density.copy()
    around[:, 1:] = np.maximum(around[:, 1:], 0.5 * density[:, :-1])
    around[:, :-1] = np.maximum(around[:, :-1], 0.5 * density[:, 1:])
    steps = np.abs(mesh.s)
    mean = (around * steps).sum(axis=1, keepdims=True) / steps.sum(axis=1, keepdims=True)
    around = np.maximum(around, np.maximum(0.05 * mean, 1e-300))
    total = (around * steps).sum(axis=1)
    if N is None:
        # of waves an interval adds more or less as it holds a crest or a zero, and cannot be longer for that: where the
        # shares are equal but for this, their number follows from the largest
        largest = (around * steps).max(axis=1) * mesh.N
        total_or_largest = np.where(total > 0.5 * largest, largest, total)
        wanted = np.ceil(total_or_largest.max() * safety ** (-1 / K.min()))
        N = int(np.clip(wanted, *limits))
    N = max(N, mesh.index.shape[1] - 1)
    t, index = zip(
        *(_divided(mesh.t[b], mesh.index[b], around[b] * steps[b], N) for b in range(len(mesh.t))), strict=True
    )
    return Mesh(np.stack(t), np.stack(index)), N


def _divided(t: np.ndarray, index: np.ndarray, mass: np.ndarray, N: int) -> tuple[np.ndarray, np.ndarray]:
    """N intervals of equal mass for one member; the times at `index` stay mesh points."""
    level = np.concatenate([[0.0], np.cumsum(mass)])
    marks = level[index]
    if len(index) == 2:
        counts = np.array([N])
    else:
        part = np.diff(marks) / marks[-1] * (N - (len(index) - 1))
        counts = 1 + np.floor(part).astype(int)
        for i in np.argsort(np.floor(part) - part)[: N - counts.sum()]:
            counts[i] += 1
    ends = np.concatenate([[0], np.cumsum(counts)])
    new = np.empty(N + 1)
    for i, count in enumerate(counts):
        a, b = index[i], index[i + 1]
        wanted = np.linspace(level[a], level[b], count + 1)
        new[ends[i] : ends[i + 1] + 1] = np.interp(wanted, level[a : b + 1], t[a : b + 1])
        new[ends[i]], new[ends[i + 1]] = t[a], t[b]
    return new, ends


def finer(mesh: Mesh, b: int, N: int) -> Mesh:
    """The mesh of one member with its longest intervals halved until there are N."""
    t, times = list(mesh.t[b]), mesh.t[b][mesh.index[b]]
    while len(t) - 1 < N:
        s = np.abs(np.diff(t))
        count = min(N - len(s), max(len(s) // 2, 1))
        for i in sorted(np.argsort(-s)[:count], reverse=True):
            t.insert(i + 1, 0.5 * (t[i] + t[i + 1]))
    new = np.array(t)
    sign = 1.0 if new[-1] >= new[0] else -1.0
    return Mesh(new[None], np.searchsorted(sign * new, sign * times)[None])
