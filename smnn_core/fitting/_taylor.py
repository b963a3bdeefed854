"""Piecewise polynomials on a mesh, each interval held by its derivatives at the left end.

On the interval from t to t + s a variable is the polynomial of degree K - 1 with the derivatives y[0..K-1] at t,
K = k + q for equations of order q at k points. A derivative anywhere in the interval is a Taylor sum of these unknowns.
The rows of `continuity` tie derivatives 0..q-1 at the end of an interval to the next one. Equations at k Radau points
make errors of order 2k - 1 at mesh points, and components that are faster than the mesh die out as they should, where
Gauss points would let them alternate from interval to interval: a fit may meet that on its way. Source: Hairer,
Wanner, Solving Ordinary Differential Equations II, Springer 1996, sections IV.5 and IV.8.

`solve` holds the same functions by states and stages (`trajectory._collocation`), which it eliminates inside intervals,
where there are as many equations. Data make rows of a fit more than its unknowns: these are eliminated together, as the
one block of a time point of the linear solver.

Letters: M members, N intervals, V variables.
"""

from __future__ import annotations

from functools import lru_cache
from math import factorial

import numpy as np

from .._arrays import Array
from .._schemes import Scheme
from ..trajectory._collocation import Space, radau

__all__ = [
    "continuity",
    "equidistributed",
    "evaluate",
    "halved",
    "moved",
    "radau_rule",
    "taylor",
    "with_intervals",
    "with_points",
]


@lru_cache(maxsize=32)
def radau_rule(k: int) -> tuple[Array, Array]:
    """The k right Radau points on [0, 1] and their quadrature weights, (k,) each."""
    space = Space(radau(k), (1,))
    return np.array(space.points), space.at_end[0, 1:, 0]  # integrals of the Lagrange polynomials


@lru_cache(maxsize=32)
def continuity(k: int, q: int) -> Scheme:
    """Derivatives 0..q-1 of one interval at its end are the next interval's unknowns: m = q rows."""
    K = k + q
    F, G = np.zeros((q, K)), np.zeros((q, K))
    for r in range(q):
        F[r, r:] = [1 / factorial(o - r) for o in range(r, K)]
        G[r, r] = -1
    return Scheme.from_matrices(F, G, name=f"collocation {k}")


@lru_cache(maxsize=64)
def _coefficients(K: int, n: int) -> tuple[Array, Array]:
    """Exponents and factors of `taylor`, (n, K) each."""
    d = np.arange(K) - np.arange(n)[:, None]
    inverse = np.array([1 / factorial(o) for o in range(K)])
    return np.maximum(d, 0), np.where(d >= 0, inverse[np.maximum(d, 0)], 0.0)


def taylor(offset: Array, K: int, n: int) -> Array:
    """Derivatives 0..n-1 at an offset from K derivatives at 0: (*offset.shape, n, K)."""
    exponents, factors = _coefficients(K, n)
    powers = np.cumprod(np.broadcast_to(offset[..., None], (*offset.shape, max(K - 1, 1))), axis=-1)
    powers = np.concatenate([np.ones((*offset.shape, 1)), powers], axis=-1)
    return powers[..., exponents] * factors


def evaluate(t: Array, y: Array, x: Array, n: int, where: Array | None = None) -> Array:
    """Derivatives 0..n-1 at times x (M, n_x) of y (M, N, V, K) on the mesh t (M, N+1): (M, n_x, V, n)."""
    i = Space.interval(t, x) if where is None else where
    member = np.arange(len(t))[:, None]
    return y[member, i] @ np.swapaxes(taylor(x - t[member, i], y.shape[-1], n), -1, -2)


def moved(t: Array, y: Array, new: Array) -> Array:
    """The same functions on another mesh (M, N'+1): exactly, where it contains the old one."""
    middle = (new[:, :-1] + new[:, 1:]) / 2
    return evaluate(t, y, new[:, :-1], y.shape[-1], Space.interval(t, middle))


def halved(t: Array) -> Array:
    """The mesh with a point in the middle of each interval."""
    new = np.empty((len(t), 2 * t.shape[1] - 1))
    new[:, ::2], new[:, 1::2] = t, (t[:, 1:] + t[:, :-1]) / 2
    return new


def equidistributed(t: Array, y: Array, N: int, fixed: Array | None = None) -> Array:
    """Meshes of N intervals along which s^K |y^(K)| is constant, y^(K) from the jumps of y^(K-1).

    Args:
        y: (M, N_old, V, K), in units in which variables have size 1.
        fixed: (M, n), NaN for none: times that stay mesh points.

    Source: Ascher, Christiansen, Russell, Math. Comp. 33 (1979) 659.
    """
    K, s, top = y.shape[-1], np.diff(t), y[..., -1]
    jump = np.abs(np.diff(top, axis=1)) / (0.5 * (s[:, 1:] + s[:, :-1]))[..., None]
    d = np.zeros_like(top)
    d[:, 1:], d[:, :-1] = jump, np.maximum(d[:, :-1], jump)
    d[:, :-1] = np.maximum(d[:, :-1], jump)
    g = (d / (np.abs(y[..., 0]).max(1, keepdims=True) + 1e-10)).max(2) ** (1 / K)
    g = np.maximum(g, 0.2 * (g * s).sum(1, keepdims=True) / s.sum(1, keepdims=True) + 1e-300)
    level = np.concatenate([np.zeros((len(t), 1)), np.cumsum(g * s, axis=1)], axis=1)
    new = np.stack([np.interp(np.linspace(0, a[-1], N + 1), a, b) for a, b in zip(level, t, strict=True)])
    new[:, 0], new[:, -1] = t[:, 0], t[:, -1]
    return with_points(new, fixed)


def with_points(t: Array, fixed: Array | None) -> Array:
    """The mesh with its nearest inner points moved to the times given, (M, n), NaN for none."""
    if fixed is None:
        return t
    t = t.copy()
    for mesh, times in zip(t, fixed, strict=True):
        taken: list[int] = []
        for x in np.unique(times[np.isfinite(times)]):
            if not mesh[0] < x < mesh[-1]:
                continue
            free = [i for i in range(1, len(mesh) - 1) if i not in taken]
            i = min(free, key=lambda i: abs(mesh[i] - x))
            mesh[i] = x
            taken.append(i)
        mesh.sort()
    return t


def with_intervals(t: Array, N: int) -> Array:
    """Meshes that contain the old ones, with N intervals: the longest are halved."""
    rows = []
    for mesh in t:
        while len(mesh) - 1 < N:
            s = np.diff(mesh)
            some = np.argsort(-s, kind="stable")[: N + 1 - len(mesh)]
            mesh = np.sort(np.concatenate([mesh, mesh[some] + s[some] / 2]))
        rows.append(mesh)
    return np.stack(rows)
