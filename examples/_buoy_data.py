"""Sea surface temperature at a buoy, hourly over 13 months, and gaps to withhold from it.

Data: half-hourly measurements of buoy B01 of NERACOOS (the Gulf of Maine), 2016-02-15 to 2017-03-22, one of them twice
and some missing; inside bokeh-sampledata.
"""

from __future__ import annotations

import csv
import gzip
from importlib import resources

import numpy as np

Array = np.ndarray


def load(days: int | None = None) -> tuple[Array, Array]:
    """Times (T,), datetime64[h], and mean temperatures of each hour in degrees C, NaN where there is none.

    Args:
        days: how many from the end of May on, when the daily cycle is strong; None for all.
    """
    path = resources.files("bokeh_sampledata") / "_data" / "sea_surface_temperature.csv.gz"
    with path.open("rb") as file, gzip.open(file, "rt") as text:
        rows = list(csv.reader(text))[1:]
    hours = np.array([row[0][:13] for row in rows], dtype="datetime64[h]")
    values = np.array([float(row[1]) for row in rows])
    times = np.arange(hours[0], hours[-1] + 1)
    at = (hours - hours[0]).astype(int)
    count = np.bincount(at, minlength=len(times))
    mean = np.bincount(at, values, minlength=len(times)) / np.where(count == 0, np.nan, count)
    if days is None:
        return times, mean
    first = int(np.searchsorted(times, np.datetime64("2016-05-25T00")))
    return times[first : first + 24 * days], mean[first : first + 24 * days]


def withheld(n_times: int, seed: int) -> Array:
    """Which hours are in gaps of 6 to 48 hours, about one in four days, (T,)."""
    rng = np.random.default_rng(seed)
    gaps = np.zeros(n_times, dtype=bool)
    for start in rng.integers(24, n_times - 48, n_times // 96):
        gaps[start : start + rng.integers(6, 49)] = True
    return gaps
