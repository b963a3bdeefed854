"""Data of one or several experiments, at any times, as arrays with one axis of sets and one of experiments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .._arrays import Array
from .._errors import ArgumentError, DTypeError, ShapeError

__all__ = ["Observed"]

TRANSFORMS: dict[str, tuple[Any, Any, float]] = {
    "log": (np.log, np.exp, 1.0),
    "log10": (np.log10, lambda x: 10.0**x, 1 / np.log(10.0)),
}
"""The function, its inverse, and what the derivative is multiplied by: d log10 x = dx / (x ln 10)."""
LEAST, MOST = 1e-140, 1e140
"""The largest value lies between: squares of values and of residuals have to be numbers."""
EXPERIMENT = "experiment"
"""The column of a data frame that tells experiments apart."""


@dataclass(frozen=True, eq=False)
class Observed:
    """S data sets that are fitted each for itself, of E experiments with common parameters, n times, m observables."""

    times: Array
    """(S, E, n)"""
    values: Array
    """(S, E, n, m), transformed, 0 where missing"""
    seen: Array
    """(S, E, n, m), bool"""
    noise: Array | None
    """(S, E, n, m): standard deviations, NaN where they are to be estimated; None where a function gives them"""
    names: tuple[str, ...]
    transforms: tuple[str | None, ...]
    batch: tuple[int, ...]
    """of the sets"""
    several: bool
    """whether experiments were given as a list"""
    raw: Array
    """(S, E, n, m): as given, NaN where missing"""

    @property
    def estimated(self) -> Array:
        """Which observables have noise to be estimated, (m,)."""
        m = self.values.shape[-1]
        return np.zeros(m, bool) if self.noise is None else (np.isnan(self.noise) & self.seen).any((0, 1, 2))

    @staticmethod
    def of(times: Any, data: Any, noise: Any, transform: Any, names: Sequence[str] | None) -> Observed:
        """From what `fit` takes.

        Raises:
            ShapeError, ArgumentError: naming the argument.
        """
        if hasattr(data, "columns") and hasattr(data, "to_numpy"):
            times, data, names = _of_frame(times, data)
        elif isinstance(times, str):
            raise ArgumentError(
                f"times = {times!r} names a column of a data frame, but data is a {type(data).__name__}: give one data "
                f"frame, in which a column `{EXPERIMENT}` tells experiments apart, or times as numbers."
            )
        several = isinstance(data, (list, tuple)) and len(data) > 0 and np.ndim(data[0]) > 0
        sheets = [_real("data", x) for x in data] if several else [_real("data", data)]
        if several and (not isinstance(times, (list, tuple)) or all(np.ndim(t) == 0 for t in times)):
            times = [times] * len(sheets)
        clocks = [_clock(x) for x in times] if several else [_clock(times)]
        if len(clocks) != len(sheets):
            raise ShapeError(f"times has {len(clocks)} experiments, data {len(sheets)}.")
        columns = [x.ndim == 1 for x in sheets]
        sheets = [x[:, None] if x.ndim == 1 else x for x in sheets]
        m = sheets[0].shape[-1]
        for i, (t, x) in enumerate(zip(clocks, sheets, strict=True)):
            where = f" of experiment {i}" if several else ""
            if x.ndim < 2 or x.shape[-1] != m or t.ndim < 1 or t.shape[-1] != x.shape[-2]:
                several_said = " A list is one of experiments: an array holds those of one." if several else ""
                raise ShapeError(
                    f"data{where} must have shape (..., n, m) and times (..., n); got {x.shape} and {t.shape}."
                    f"{several_said}"
                )
            if not np.isfinite(t).all():
                raise ArgumentError(f"times{where} must be finite.")
            if np.isinf(x).any():
                raise ArgumentError(f"data{where} contains infinite values; missing ones are NaN.")
            size = np.abs(x[np.isfinite(x) & (x != 0)])
            if size.size and not (LEAST < size.max() < MOST):
                raise ArgumentError(
                    f"data{where} are as large as {size.max():.3g}, whose square is no number: choose other units."
                )
            if not np.isfinite(x).any():
                raise ArgumentError(f"data{where} has no finite value: nothing was observed.")
        batch = np.broadcast_shapes(*(x.shape[:-2] for x in sheets), *(t.shape[:-1] for t in clocks))
        S, E, n = int(np.prod(batch)), len(sheets), max(t.shape[-1] for t in clocks)
        t, raw = np.zeros((S, E, n)), np.full((S, E, n, m), np.nan)
        sd = None if callable(noise) else np.full((S, E, n, m), np.nan)
        for e, (clock, sheet) in enumerate(zip(clocks, sheets, strict=True)):
            length = clock.shape[-1]
            t[:, e, :length] = np.broadcast_to(clock, (*batch, length)).reshape(S, length)
            t[:, e, length:] = t[:, e, length - 1 : length]
            raw[:, e, :length] = np.broadcast_to(sheet, (*batch, length, m)).reshape(S, length, m)
            if sd is not None:
                own = noise[e] if several and isinstance(noise, (list, tuple)) else noise
                own = np.asarray(own, float)[:, None] if columns[e] and np.shape(own) == (length,) else own
                sd[:, e, :length] = _noise(own, (*batch, length, m), names).reshape(S, length, m)
        kinds = _transforms(transform, m)
        values, seen = raw.copy(), np.isfinite(raw)
        for j, kind in enumerate(kinds):
            if kind is not None:
                if (raw[..., j][seen[..., j]] <= 0).any():
                    raise ArgumentError(f'data of column {j} must be positive for transform="{kind}".')
                values[..., j] = TRANSFORMS[kind][0](np.where(seen[..., j], raw[..., j], 1.0))
        if names is None:
            names = tuple(f"y[{j}]" for j in range(m))
        values = np.where(seen, values, 0.0)
        return Observed(t, values, seen, sd, tuple(names), kinds, tuple(batch), several, raw)

    def span(self, t0: Any) -> Array:
        """First and last time of each set and experiment, (S, E, 2)."""
        S, E, _ = self.times.shape
        any_seen = self.seen.any(-1)
        if t0 is not None and not np.isfinite(np.asarray(t0, float)).all():
            raise ArgumentError(f"t0 must be finite; got {t0}.")
        first = self.times.min(-1) if t0 is None else np.broadcast_to(np.asarray(t0, float), (S, E))
        last = self.times.max(-1)
        if (np.where(any_seen, self.times, np.inf).min(-1) < first - 1e-12 * np.abs(last)).any():
            raise ArgumentError("t0 must not lie behind the first observation.")
        if (last <= first).any():
            raise ArgumentError("times must span some time: all observations lie at the first time.")
        return np.stack([first, last], axis=-1)


def _real(name: str, x: Any) -> Array:
    """As floats.

    Raises:
        DTypeError: if they are complex.
    """
    x = np.asarray(x)
    if x.dtype.kind == "c":
        raise DTypeError(f"{name} must be real; got {x.dtype}: give real and imaginary parts as columns.")
    return x.astype(float)


def _clock(times: Any) -> Array:
    """Times as numbers (..., n)."""
    clock = np.asarray(times)
    if clock.dtype.kind == "m":
        raise ArgumentError(
            f"times must be numbers, in the unit of time of the equations; got durations ({clock.dtype}): give, for "
            "example, durations / np.timedelta64(1, 'h')."
        )
    if clock.dtype.kind == "M" or (clock.dtype.kind == "O" and any(hasattr(t, "year") for t in clock.flat)):
        raise ArgumentError(
            f"times must be numbers, in the unit of time of the equations; got dates ({clock.dtype}): give, for "
            "example, (dates - dates.min()) / np.timedelta64(1, 'h')."
        )
    try:
        return clock.astype(float)
    except (TypeError, ValueError):
        raise ArgumentError(
            f"times must be numbers, in the unit of time of the equations; got {clock.flat[0]!r}."
        ) from None


def _of_frame(times: Any, frame: Any) -> tuple[Any, Any, tuple[str, ...]]:
    """Times, data and names from a data frame, whose time column `times` names."""
    columns = [str(c) for c in frame.columns]
    if twice := {c for c in columns if columns.count(c) > 1}:
        raise ArgumentError(f"columns of the data frame must have different names; found {sorted(twice)} repeatedly.")
    if not isinstance(times, str) or times not in columns:
        found = repr(times) if isinstance(times, str) else f"a {type(times).__name__}"
        index = " Of times in its index, give frame.reset_index()." if times is frame.index else ""
        raise ArgumentError(f"times must name the time column of the data frame, one of {columns}; got {found}.{index}")
    frame = frame.set_axis(columns, axis=1)
    names = tuple(c for c in columns if c not in (times, EXPERIMENT))
    parts = [frame]
    if EXPERIMENT in columns:
        parts = [frame[frame[EXPERIMENT] == key] for key in dict.fromkeys(frame[EXPERIMENT])]
    for name in names:
        try:
            if frame[name].dtype.kind in "mM":
                raise TypeError
            frame[name].to_numpy(float)
        except (TypeError, ValueError):
            raise ArgumentError(
                f"column {name!r} of the data frame does not hold numbers ({frame[name].dtype}): every column beside "
                f"times and `{EXPERIMENT}` is an observable; leave it out, by frame.drop(columns={name!r})."
            ) from None
    sheets = [x[list(names)].to_numpy(float) for x in parts]
    clocks = [x[times].to_numpy() for x in parts]
    return (clocks, sheets, names) if EXPERIMENT in columns else (clocks[0], sheets[0], names)


def _noise(noise: Any, shape: tuple[int, ...], names: Sequence[str] | None) -> Array:
    """Standard deviations in the shape of the data, NaN where they are to be estimated."""
    if isinstance(noise, Mapping):
        unknown = set(noise) - set(names or ())
        if unknown:
            raise ArgumentError(f"noise names {sorted(unknown)}, which are no observables: {list(names or ())}.")
        noise = [np.nan if noise.get(name) is None else noise[name] for name in names or ()]
    try:
        sd = np.asarray(np.nan if noise is None else noise, float)
    except (TypeError, ValueError):
        raise ArgumentError(f"noise must be numbers, None or a function; got {noise!r}.") from None
    try:
        sd = np.broadcast_to(sd, shape)
    except ValueError:
        raise ShapeError(f"noise must broadcast against data {shape}; got {sd.shape}.") from None
    if (sd <= 0).any() or np.isinf(sd).any():
        raise ArgumentError(
            "noise must be positive and finite (NaN or None: estimated); use initial= for exact values."
        )
    return sd


def _transforms(transform: Any, m: int) -> tuple[str | None, ...]:
    kinds = (transform,) * m if transform is None or isinstance(transform, str) else tuple(transform)
    if len(kinds) != m or any(x is not None and x not in TRANSFORMS for x in kinds):
        raise ArgumentError(
            f"transform must be None or one of {sorted(TRANSFORMS)}, or {m} of these; got {transform!r}."
        )
    return kinds
