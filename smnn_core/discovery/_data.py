"""Properties of the data before `discover` fits: deviations, noise, the unit of time; and the grid it solves on.

Letters: B trajectories, T time points, V variables.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import Any

import array_api_compat as compat
import numpy as np

from .._arrays import (
    Array,
    Namespace,
    as_numpy,
    broadcast_shapes,
    common_namespace,
    device_of,
    without_derivatives,
)
from .._arrays import size as size_of
from .._errors import ArgumentError, NamespaceError, ShapeError
from ..fitting._losses import LOSSES, Loss
from ..fitting._observed import LEAST, MOST

__all__ = ["Grid", "Inputs", "Observations", "observe"]

Inputs = Callable[[np.ndarray], np.ndarray]
"""Known functions of time: times (..., n) -> (..., n, U), or (..., n) where there is one."""
Piece = tuple[slice, slice]
"""Trajectories, and of each of them points that follow one another."""
LEAST_NOISE = 1e-4
"""Noise, in deviations of a variable, below which the discretisation is what limits the fit."""
MOST_PRECISION = 100.0
"""Factor of the weights of equations and smoothness rows for data with little noise."""
GIVEN_UP = 0.5
"""Estimated noise, in the same, from which the equations say nothing of the variable."""
MOST_NOISE = 1e6
"""Noise, in the same, above which there is nothing to find."""
MOST_POINTS = 1 << 14
"""Time points of one solve: longer trajectories are cut into windows that share their coefficients only, many short
ones are taken in turns, so that memory does not depend on the length times the number of terms."""
OUTLYING = 0.1
"""Weight of a value by its loss, below which it is an outlier."""
LONG, TYPICAL = 4.0, 8.0
"""A gap is not solved across that is longer than so many units of time, and than so many times the typical time between
points."""
NEAREST = 1e-4
"""Of the median step: times that are nearer to one another are moved apart to that. Weights of smoothness rows grow
with shorter steps, and rows across much shorter ones would ask for digits that float64 does not have."""
TELLING, VISIBLE = 100, 3.0
"""Values from which a variable may be seen to be nothing but noise, and deviations by which it is not."""
LEAST_POINTS, LEAST_VALUES = 5, 2
"""Of a trajectory or of what lies between gaps; and values of each variable there."""


def values_of(inputs: Inputs, t: np.ndarray) -> np.ndarray:
    """At times t, (..., n): (..., n, U)."""
    u = np.asarray(inputs(t), dtype=float)
    return u[..., None] if u.shape == t.shape else u


@dataclass(frozen=True)
class Observations:
    """The data, (B, T, V), checked."""

    xp: Namespace
    values: Array
    """(B, T, V), 0 where missing"""
    observed: Array
    """(B, T, V), bool; false also for what is not used"""
    steps: Array
    """(B or 1, T-1)"""
    batch: tuple[int, ...]
    """the batch axes that B stands for"""
    deviation: np.ndarray
    """(V,): the unit of each variable"""
    time: float
    """the unit of time, in which derivatives have a deviation of about 1"""
    noise: np.ndarray
    """(V,) standard deviations of the noise, the median where each value has its own; at least `LEAST_NOISE`
    deviations"""
    apart: Array
    """(B, T, V): distance from the median of five neighbours in units of what is usual; 0 where missing"""
    mean_noise: np.ndarray
    """(V,): root mean square of the noise, where it is estimated"""
    certainty: Array
    """(B, T, V): that over the standard deviation of each value, 0 where missing"""
    estimated: np.ndarray
    """(V,), whether the noise was not given"""
    visible: np.ndarray
    """(V,), whether neighbouring values have something in common beyond the mean of their trajectory, or the noise
    given is small"""
    pieces: list[Piece]
    """what lies between gaps: pieces share the coefficients only"""
    longest_gap: float
    """what is longer is solved in pieces"""
    unused: int
    """values of pieces that are too short"""
    moved: int
    """times that were moved, since they were too near to the one before"""
    inputs: Inputs | None
    t0: float
    """the first time"""

    @property
    def n_inputs(self) -> int:
        """U."""
        return int(self.inputs_at(np.zeros((1, 1))).shape[-1])

    def inputs_at(self, t: np.ndarray) -> np.ndarray:
        """Of all trajectories, (B or 1, n, U), at times t, (B or 1, n), since the first."""
        if self.inputs is None:
            return np.zeros((1, t.shape[-1], 0))
        if not callable(self.inputs):
            raise TypeError(
                f"inputs must be a function of time, (n,) -> (n,) or (n, U); got {type(self.inputs).__name__}. Of "
                "values at the times of the data, give an interpolant, such as scipy.interpolate.CubicSpline(t, u) of "
                "u (n, U)."
            )
        t = self.t0 + t
        n = t.shape[-1]
        t = t.reshape(*self.batch, n) if len(t) > 1 else t[0]
        u = values_of(self.inputs, t)
        if u.ndim < 2 or u.shape[-2] != n or u.shape[:-2] not in ((), self.batch):
            expected = f"({', '.join(map(str, (*t.shape, 'U')))})"
            raise ShapeError(
                f"inputs must return one number or one row of U numbers for each time, {t.shape} or {expected}; got "
                f"{u.shape}."
            )
        return u.reshape(-1, n, u.shape[-1])

    @property
    def starts(self) -> int:
        """How many initial states are fitted."""
        return sum(members.stop - members.start for members, _ in self.pieces)

    @property
    def solved(self) -> np.ndarray:
        """Which steps lie within pieces, bool, (B or 1, T-1)."""
        inside = np.zeros((self.values.shape[0], self.steps.shape[-1]), dtype=bool)
        for members, times in self.pieces:
            inside[members, times.start : times.stop - 1] = True
        return inside if self.steps.shape[0] > 1 else np.any(inside, axis=0, keepdims=True)

    @property
    def count(self) -> np.ndarray:
        """How many values of each variable were observed, (V,)."""
        return as_numpy(self.observed).sum((0, 1))


def observe(
    data: Array,
    step_sizes: Any,
    noise: Any,
    inputs: Inputs | None = None,
    t0: float = 0.0,
    loss: Loss = LOSSES["squares"],
) -> Observations:
    """Checks the data and estimates what is not given; outliers, for a loss that knows them, have no part in that.

    Raises:
        ShapeError, DTypeError, NamespaceError, DeviceError, ArgumentError: see `discover`.
    """
    arrays = {"data": data}
    if not isinstance(step_sizes, (int, float)):
        arrays["step_sizes"] = step_sizes
    xp = common_namespace(arrays)
    without_derivatives("discover", tuple(arrays.values()))
    if compat.is_jax_array(data):
        raise NamespaceError("discover writes into arrays, and those of JAX cannot be: pass numpy.asarray of them.")
    if data.ndim < 2 or data.shape[-2] < LEAST_POINTS or not data.shape[-1]:
        raise ShapeError(
            f"data must have shape (..., T, V) with T >= {LEAST_POINTS} time points and V >= 1; got "
            f"{tuple(data.shape)}." + (" One variable is data[:, None]." if data.ndim == 1 else "")
        )
    *batch, T, V = data.shape
    values = xp.reshape(xp.astype(data, xp.float64), (-1, T, V))
    steps = _steps(xp, step_sizes, tuple(batch), T, values)
    if bool(xp.any(xp.isinf(values))):
        raise ArgumentError("data contains infinite values; missing ones are NaN.")
    observed = ~xp.isnan(values)
    size = abs(as_numpy(values)[as_numpy(observed)])
    if size.any() and not LEAST < size.max() < MOST:
        raise ArgumentError(f"data are as large as {size.max():.3g}, whose square is no number: choose other units.")
    values = xp.where(observed, values, xp.zeros_like(values))
    host, seen, s = as_numpy(values), as_numpy(observed), as_numpy(steps)
    _check_count(seen)
    apart = np.stack([_apart(host[..., v], seen[..., v]) for v in range(V)], axis=-1)
    usual = seen & (loss.weight(apart) > OUTLYING)
    deviation = np.array([host[..., v][usual[..., v]].std() for v in range(V)])
    rounding = 4 * float(np.finfo(float).eps) * np.array([abs(host[..., v]).max() for v in range(V)])
    if (constant := deviation <= rounding).any():
        raise ArgumentError(f"variable {int(np.argmax(constant))} is constant: leave it out of data.")
    t = np.concatenate([np.zeros_like(s[:, :1]), np.cumsum(s, axis=1)], axis=1)
    if moved := int((s < NEAREST * np.median(s)).sum()):
        least = NEAREST * np.median(s) * np.arange(T)
        t = np.maximum.accumulate(t - least, axis=1) + least
        steps = xp.asarray(np.diff(t, axis=1), device=device_of(values))
    t = np.broadcast_to(t, (len(host), T))
    sd = np.reshape(_standard_deviations(noise, (*batch, T, V)), host.shape)
    estimated = np.array([np.isnan(sd[..., v][seen[..., v]]).all() for v in range(V)])
    if (mixed := (np.isnan(sd) & seen).any((0, 1)) & ~estimated).any():
        v = int(np.argmax(mixed))
        raise ArgumentError(f"noise is NaN for some values of variable {v}: give that of all of them, or of none.")
    given = [np.median(sd[..., v][seen[..., v]]) for v in range(V)]
    found = [_noise(t, host[..., v], seen[..., v]) if estimated[v] else (given[v], given[v]) for v in range(V)]
    typical, mean_noise = np.array(found).T
    if (typical > MOST_NOISE * deviation).any():
        v = int(np.argmax(typical / deviation))
        raise ArgumentError(
            f"noise of {typical[v]:.3g} is {typical[v] / deviation[v]:.3g} times the deviation of variable {v} in "
            "data: nothing else could be seen. noise is a standard deviation, in units of the data."
        )
    least = np.maximum(typical, LEAST_NOISE * deviation)
    unit = min(_unit_of_time(t, host[..., v], usual[..., v], deviation[v], typical[v]) for v in range(V))
    pieces, longest = _pieces(t, seen, unit)
    used = np.zeros(seen.shape[:2], dtype=bool)
    for piece in pieces:
        used[piece] = True
    if unused := int((seen & ~used[..., None]).sum()):
        _check_count(seen & used[..., None], f", {unused} others being too few between gaps longer than {longest:.3g},")
        observed = observed & xp.asarray(used, device=device_of(values))[..., None]
    certainty = np.where(estimated | ~seen, 1.0, least / np.maximum(sd, LEAST_NOISE * deviation))
    return Observations(
        xp=xp,
        values=values,
        observed=observed,
        steps=steps,
        batch=tuple(batch),
        deviation=deviation,
        time=unit,
        noise=least,
        apart=xp.asarray(apart, device=device_of(values)),
        certainty=xp.where(observed, xp.asarray(certainty, device=device_of(values)), xp.zeros_like(values)),
        mean_noise=np.maximum(mean_noise, least),
        estimated=estimated,
        visible=~estimated & (typical < GIVEN_UP * deviation)
        | np.array([_visible(host[..., v], usual[..., v]) for v in range(V)]),
        pieces=pieces,
        longest_gap=longest,
        unused=unused,
        moved=moved,
        inputs=inputs,
        t0=t0,
    )


def _standard_deviations(noise: Any, shape: tuple[int, ...]) -> np.ndarray:
    """Of the noise of each value, in the shape of the data; NaN where it is to be estimated."""
    try:
        given = as_numpy(noise) if compat.is_array_api_obj(noise) else noise
        sd = np.asarray(np.nan if given is None else given, dtype=float)
    except (TypeError, ValueError):
        raise TypeError(f"noise must be a number, or numbers; got {type(noise).__name__}.") from None
    if (sd < 0).any() or np.isinf(sd).any():
        raise ArgumentError(f"noise must be finite standard deviations >= 0, NaN where they are unknown; got {noise}.")
    try:
        return np.broadcast_to(sd, shape)
    except ValueError:
        raise ShapeError(
            f"noise must be a number or broadcast against data {shape}: (V,) = ({shape[-1]},), one per variable, or "
            f"one per value; got {sd.shape}."
        ) from None


def _check_count(seen: np.ndarray, where: str = "") -> None:
    for v in range(seen.shape[-1]):
        if seen[..., v].sum() < LEAST_POINTS:
            raise ArgumentError(
                f"variable {v} has {seen[..., v].sum()} observed values{where} and {LEAST_POINTS} at least are needed: "
                "observe more of it, or leave it out and take order=2."
            )


def _pieces(t: np.ndarray, seen: np.ndarray, unit: float) -> tuple[list[Piece], float]:
    """Pieces between gaps in which nothing was observed, of t, (B, T), and seen, (B, T, V); and how long a gap is.

    Neighbouring trajectories with the same gaps are taken together. Pieces of too few values are left out.
    """
    points: np.ndarray = np.any(seen, axis=-1)
    between = np.concatenate([np.diff(times[mask]) for times, mask in zip(t, points, strict=True)])
    longest = max(LONG * unit, TYPICAL * float(np.median(between)) if len(between) else 0.0)
    found: list[tuple[int, list[slice]]] = []
    for b, times in enumerate(t):
        at = np.flatnonzero(points[b])
        if not len(at):
            found.append((b, []))
            continue
        cuts = np.flatnonzero(np.diff(times[at]) > longest)
        first, last = at[np.r_[0, cuts + 1]], at[np.r_[cuts, len(at) - 1]]
        if times[at[0]] - times[0] <= longest:
            first[0] = 0
        if times[-1] - times[at[-1]] <= longest:
            last[-1] = len(times) - 1
        own = [slice(i, j + 1) for i, j in zip(first, last, strict=True)]
        found.append((b, [x for x in own if _suffices(seen[b, x])]))
    result: list[Piece] = []
    for pieces, group in groupby(found, key=lambda x: x[1]):
        members = [b for b, _ in group]
        result += [(slice(members[0], members[-1] + 1), piece) for piece in pieces]
    return result, longest


def _suffices(seen: np.ndarray) -> bool:
    """True if a piece, (points, V), has enough points and values of each variable."""
    return bool(np.any(seen, axis=-1).sum() >= LEAST_POINTS and (seen.sum(0) >= LEAST_VALUES).all())


def _steps(xp: Namespace, step_sizes: Any, batch: tuple[int, ...], T: int, values: Array) -> Array:
    """(B or 1, T-1)."""
    if isinstance(step_sizes, (int, float)):
        steps = xp.full((1, T - 1), float(step_sizes), dtype=xp.float64, device=device_of(values))
    else:
        steps = xp.astype(step_sizes, xp.float64)
        if steps.ndim and steps.shape[-1] not in (1, T - 1):
            raise ShapeError(
                f"step_sizes must be a number or (..., {T - 1} or 1); got {tuple(steps.shape)}. They are "
                "differences of times: numpy.diff(t)."
            )
        own = tuple(steps.shape[:-1])
        if broadcast_shapes({"data": batch, "step_sizes": own}) != batch:
            raise ShapeError(f"step_sizes have the batch axes {own}, data have {batch}: give as many data sets.")
        if size_of(own) == 1:
            steps, batch = xp.reshape(steps, (-1,)), ()
        steps = xp.reshape(xp.broadcast_to(steps, (*batch, T - 1)), (-1, T - 1))
    none = xp.isnan(steps)
    if bool(xp.any(none)):
        observed = xp.astype(xp.any(~xp.isnan(values[:, 1:, :]), axis=-1), xp.int64)
        later = xp.flip(xp.cumulative_sum(xp.flip(observed, axis=1), axis=1), axis=1) > 0
        if bool(xp.any(later & none)) or bool(xp.all(none)):
            raise ArgumentError("step_sizes are NaN before times at which something was observed.")
        steps = xp.where(none, xp.max(xp.where(none, xp.zeros_like(steps), steps)), steps)
    if not bool(xp.all(steps > 0)) or not bool(xp.all(xp.isfinite(steps))):
        raise ArgumentError("step_sizes must be positive: sort the data by time, merge what was measured at one time.")
    return steps


def _noise(t: np.ndarray, x: np.ndarray, seen: np.ndarray) -> tuple[float, float]:
    """The deviation of the noise, from divided differences, the least of those of orders 2 to 6: typical, root mean
    square.

    The difference of order d over d+1 neighbours is 0 for polynomials of degree below d and, with coefficients of unit
    square sum, has the variance of the noise, whatever the times. The median does not see spikes; the mean sees noise
    that is larger where x is. Where no trajectory has three values: a tenth of the deviation of x.
    """
    results = []
    for d in range(2, 7):
        values = []
        for times, row, mask in zip(t, x, seen, strict=True):
            times, row = times[mask], row[mask]
            if len(row) <= d:
                continue
            window = np.lib.stride_tricks.sliding_window_view(times, d + 1)
            gaps = window[:, :, None] - window[:, None, :]
            gaps /= np.ptp(window, axis=1)[:, None, None]
            weights = 1 / np.prod(gaps + np.eye(d + 1), axis=2)
            weights /= np.sqrt(np.sum(weights**2, axis=1, keepdims=True))
            values.append(np.sum(weights * np.lib.stride_tricks.sliding_window_view(row, d + 1), axis=1))
        if values:
            differences = np.concatenate(values)
            results.append((np.median(np.abs(differences)) / 0.6745, np.sqrt(np.mean(differences**2))))
    default = 0.1 * x[seen].std()
    return min((a for a, _ in results), default=default), min((b for _, b in results), default=default)


def _visible(x: np.ndarray, seen: np.ndarray) -> bool:
    """True unless the values of all trajectories, (B, T), are independent of their neighbours as far as can be told.

    Means of 2, 4, 8, .. neighbours of independent values have the variance of one over their number; those of a
    trajectory have more. Sums of squares are compared by their cube roots, which are nearly normal (Wilson, Hilferty,
    PNAS 17 (1931) 684). Few values tell nothing and count as visible.
    """
    rows = [row[mask] - row[mask].mean() for row, mask in zip(x, seen, strict=True) if mask.any()]
    count = sum(map(len, rows))
    if count < TELLING:
        return True
    variance, size = sum((row**2).sum() for row in rows) / max(count - len(rows), 1), 2
    while count // size >= TELLING // 4:
        sums = [row[: len(row) // size * size].reshape(-1, size).sum(1) for row in rows]
        squares, n = sum((s**2).sum() for s in sums) / (size * variance), sum(map(len, sums))
        if n and ((squares / n) ** (1 / 3) - 1 + 2 / (9 * n)) / np.sqrt(2 / (9 * n)) > VISIBLE:
            return True
        size *= 2
    return False


def _apart(x: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """Distance from the median of five neighbours, (B, T), in units of which most values are no more than a few."""
    apart = np.zeros(x.shape)
    for b, mask in enumerate(seen):
        if mask.sum() >= LEAST_POINTS:
            row = x[b, mask]
            windows = np.lib.stride_tricks.sliding_window_view(np.pad(row, 2, mode="edge"), 5)
            apart[b, mask] = row - np.median(windows, axis=1)
    usual = np.quantile(np.abs(apart[seen]), 0.9) / 1.645
    return apart / (max(usual, LEAST_NOISE * x[seen].std()) or 1.0)


def _unit_of_time(t: np.ndarray, x: np.ndarray, seen: np.ndarray, deviation: float, noise: float) -> float:
    """Deviation of x over that of its derivative: from the shortest lag over which x changes by more than the noise."""
    rows = [(times[mask], values[mask]) for times, values, mask in zip(t, x, seen, strict=True)]
    unit = 0.0
    for lag in (2**k for k in range(int(np.log2(max(2, seen.sum(1).max() - 1))) + 1)):
        lengths = np.concatenate([times[lag:] - times[:-lag] for times, _ in rows])
        if not len(lengths):
            break
        near = lengths <= TYPICAL * np.median(lengths)
        change = np.mean(np.concatenate([values[lag:] - values[:-lag] for _, values in rows])[near] ** 2)
        time = np.mean(lengths[near] ** 2)
        signal = max(change - 2 * noise**2, 1e-6 * change)
        unit = float(np.sqrt(time / signal) * deviation) if signal > 0 else unit
        if signal > 4 * noise**2 or change > deviation**2:
            break
    return unit


@dataclass(frozen=True)
class Grid:
    """The times at which the equations are solved: those of the data, with long steps divided."""

    observations: Observations
    parts: int
    places: Array
    """(T,): where the times of the data are"""
    values: Array
    """(B, T', V), in units of `deviation`"""
    apart: Array
    """(B, T', V): of the observations"""
    weights: Array
    """(B, T', V): one over the noise, in the same unit; 0 where nothing was observed"""
    steps: Array
    """(B or 1, T'-1), in units of `time`"""
    inputs: Array
    """(B or 1, T', U)"""
    typical_step: float
    """the geometric mean of the steps, in units of `time`"""
    precision: float
    """A factor of the other weights: the less noise, the less may the equations be violated. 1 for noise of 0.1
    deviations and more, 10 for 0.01, 100 for 0.001 and less"""

    @staticmethod
    def of(o: Observations, parts: int, noise: np.ndarray) -> Grid:
        """The grid for a given noise, (V,), with steps of about the mean step of the data over `parts`, or shorter."""
        xp = o.xp
        B, T, V = o.values.shape

        def to_device(x: np.ndarray) -> Array:
            return xp.asarray(x, device=device_of(o.values))

        steps = as_numpy(o.steps)
        solved = o.solved
        counts = np.ceil(parts * np.where(solved, steps, 0.0) / steps[solved].mean() - 0.5)
        counts = np.maximum(1, counts.max(0)).astype(int)
        divided = np.repeat(steps / (counts * o.time), counts, axis=1)
        places = np.concatenate([[0], np.cumsum(counts)])
        source = np.full(places[-1] + 1, T)  # of what comes after the last data: zeros
        source[places] = np.arange(T)

        def on_grid(x: Array) -> Array:
            zero = xp.zeros((B, 1, V), dtype=xp.float64, device=device_of(x))
            return xp.take(xp.concat([x, zero], axis=1), to_device(source), axis=1)

        return Grid(
            observations=o,
            parts=parts,
            places=to_device(places),
            values=on_grid(o.values / to_device(o.deviation)),
            apart=on_grid(o.apart),
            weights=on_grid(o.certainty * to_device(o.deviation / noise)),
            steps=to_device(divided),
            inputs=to_device(o.inputs_at(np.pad(np.cumsum(divided * o.time, axis=1), ((0, 0), (1, 0))))),
            typical_step=float(np.exp(np.mean(np.log(divided[np.repeat(solved, counts, axis=1)])))),
            precision=float(np.clip(0.1 * (o.deviation / noise).max(), 1.0, MOST_PRECISION)),
        )

    def blocks(self) -> Iterator[Piece]:
        """Which trajectories, and which of their time points, are solved in one call."""
        places = as_numpy(self.places)
        for members, times in self.observations.pieces:
            start, end = int(places[times.start]), int(places[times.stop - 1]) + 1
            windows = -(-(end - start) // MOST_POINTS)
            edges = [start + round((end - start) * i / windows) for i in range(windows + 1)]
            most = max(1, MOST_POINTS // (end - start))
            for first in range(members.start, members.stop, most):
                for window in pairwise(edges):
                    yield slice(first, min(first + most, members.stop)), slice(*window)

    def inputs_of(self, members: slice, times: slice) -> Array:
        """(some or 1, points, U)."""
        inputs = self.inputs[members, ...] if self.inputs.shape[0] > 1 else self.inputs
        return inputs[:, times, :]

    def steps_of(self, members: slice, times: slice) -> Array:
        """(some or 1, points - 1)."""
        steps = self.steps[members, ...] if self.steps.shape[0] > 1 else self.steps
        return steps[:, times.start : times.stop - 1]
