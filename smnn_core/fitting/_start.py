"""The start of a fit on a mesh: meshes that follow the data, sizes, noise and trajectories through the data.

Letters: M members, N intervals, n times, m observables, V variables.
"""

from __future__ import annotations

import numpy as np

from .._arrays import Array
from ._taylor import with_points

__all__ = [
    "first_mesh",
    "median",
    "noise_of_differences",
    "sizes_of",
    "squares_of_differences",
    "through",
    "time_scales",
]

FEWEST, FULL, MOST = 16, 64, 4000
"""Intervals: at least; as many as there are times up to here, half as many beyond; at most."""


def first_mesh(span: Array, times: Array, there: Array, fixed: Array | None, at_least: int = FEWEST) -> Array:
    """Meshes (M, N+1) over span (M, 2), as dense as the times (M, n) where something is there, and in between.

    The points lie between times of observations where there are enough, so that intervals hold equally many of them.
    """
    distinct = [np.unique(t[ok]) for t, ok in zip(times, there, strict=True)]
    most = max(len(x) for x in distinct)
    N = max(at_least, min(most, FULL) + max(most - FULL, 0) // 2)
    N = max(min(N, MOST), 0 if fixed is None else 2 * fixed.shape[1])
    meshes = []
    for (a, b), x in zip(span, distinct, strict=True):
        middles = (x[1:] + x[:-1]) / 2
        middles = middles[(middles > a) & (middles < b)]
        knots = np.concatenate([[a], middles, [b]])
        rank = np.linspace(0, 1, len(knots))
        level = (rank + (knots - a) / (b - a)) / 2
        meshes.append(np.interp(np.linspace(0, 1, N + 1), level, knots))
    t = np.stack(meshes)
    t[:, 0], t[:, -1] = span[:, 0], span[:, 1]
    return with_points(t, fixed)


def sizes_of(values: Array, seen: Array) -> Array:
    """The deviation of each column, or its mean where it never changes, (S, m); NaN where nothing was observed.

    Args:
        values, seen: (S, any, m).
    """
    count = seen.sum(1)
    mean = (values * seen).sum(1) / np.maximum(count, 1)
    deviation = np.sqrt(((values - mean[:, None]) ** 2 * seen).sum(1) / np.maximum(count, 1))
    size = np.where(deviation > 1e-12 * np.abs(mean), deviation, np.abs(mean))
    return np.where((count > 0) & (size > 0), size, np.nan)


def noise_of_differences(times: Array, values: Array, seen: Array) -> Array:
    """Of each column of each member, from differences to lines between neighbours, (M, m); NaN of fewer than three.

    The median of |differences|, which a few sharp bends do not change. Source: Gasser, Sroka, Jennen-Steinmetz,
    Biometrika 73 (1986) 625.
    """
    noise = np.full((len(times), values.shape[-1]), np.nan)
    for i, j in np.ndindex(noise.shape):
        order = np.argsort(times[i, seen[i, :, j]], kind="stable")
        t, x = times[i, seen[i, :, j]][order], values[i, seen[i, :, j], j][order]
        if len(t) > 2:
            span = t[2:] - t[:-2]
            a = np.where(span > 0, (t[2:] - t[1:-1]) / np.where(span > 0, span, 1.0), 0.5)
            differences = np.abs(a * x[:-2] + (1 - a) * x[2:] - x[1:-1]) / np.sqrt(a**2 + (1 - a) ** 2 + 1)
            noise[i, j] = np.sort(differences)[(len(differences) - 1) // 2] / 0.6745
    return noise


def squares_of_differences(times: Array, values: Array, seen: Array) -> tuple[Array, Array]:
    """Sums of squares of differences to lines between neighbours in units of the noise, and their numbers, (M, m) each.

    Their mean is the variance of the noise, or more where the data bend between neighbours. Source: Gasser, Sroka,
    Jennen-Steinmetz, Biometrika 73 (1986) 625.
    """
    M, _, m = values.shape
    total, number = np.zeros((M, m)), np.zeros((M, m))
    for i, j in np.ndindex(M, m):
        order = np.flatnonzero(seen[i, :, j])
        order = order[np.argsort(times[i, order], kind="stable")]
        t, x = times[i, order], values[i, order, j]
        span = t[2:] - t[:-2]
        a = np.where(span > 0, (t[2:] - t[1:-1]) / np.where(span > 0, span, 1.0), 0.5)
        total[i, j] = ((a * x[:-2] + (1 - a) * x[2:] - x[1:-1]) ** 2 / (a**2 + (1 - a) ** 2 + 1)).sum()
        number[i, j] = max(len(x) - 2, 0)
    return total, number


def through(t: Array, times: Array, values: Array, seen: Array, default: Array) -> Array:
    """Values (M, N+1, m) at mesh points of lines through means of the data around them; `default` (M, m) where there
    are none."""
    M, points = t.shape
    m = values.shape[-1]
    result = np.empty((M, points, m))
    edges = (t[:, 1:] + t[:, :-1]) / 2
    for i in range(M):
        bins = np.searchsorted(edges[i], times[i])
        for j in range(m):
            ok = seen[i, :, j]
            if not ok.any():
                result[i, :, j] = default[i, j]
                continue
            count = np.bincount(bins[ok], minlength=points)
            has = count > 0
            mean, at = (np.bincount(bins[ok], x[i][ok] if x.ndim == 2 else x[i, ok, j], points)[has] / count[has]
                        for x in (values, times))  # fmt: skip
            result[i, :, j] = np.interp(t[i], at, mean)
    return result


def time_scales(t: Array, x: Array, seen: Array) -> Array:
    """How fast values x (M, N+1, m) change: their deviation over their slope, (M,), from 1/50 of the span to all of it.

    Args:
        seen: (M, m), bool: which count.
    """
    span = np.ptp(t, axis=1)
    size = x.std(1)
    slope = np.diff(x, axis=1) / np.diff(t)[..., None]
    speed = np.sqrt((slope**2 * np.diff(t)[..., None]).sum(1) / span[:, None])
    some = seen & (speed > 0) & (size > 0)
    ratio = np.log(np.where(some, size, 1.0) / np.where(some, speed, 1.0)).sum(1)
    τ = np.where(some.any(1), np.exp(ratio / np.maximum(some.sum(1), 1)), span / 10)
    return np.clip(τ, span / 50, span)


def median(x: Array) -> Array:
    """Of each row of x (M, n) without NaN; NaN where there is nothing else."""
    count = np.isfinite(x).sum(1)
    middle = np.take_along_axis(np.sort(x, axis=1), np.maximum(count - 1, 0)[:, None] // 2, 1)[:, 0]
    return np.where(count > 0, middle, np.nan)
