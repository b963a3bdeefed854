"""Timing several functions fairly: in one process, in turn, medians."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median
from time import perf_counter
from typing import Any

__all__ = ["Timing", "measure"]

SLOW = 4.0
"""Seconds: a function slower than this is run once."""
LEAST = 0.25
"""Seconds: quick functions are repeated until they have been timed for this long."""


@dataclass(frozen=True)
class Timing:
    seconds: float
    """median over the runs"""
    runs: int


def measure(functions: Mapping[str, Callable[[], Any]], repeats: int = 5) -> dict[str, Timing]:
    """Times the functions round by round, so that a disturbance of the machine meets all of them alike.

    Each is run once before, untimed unless it is slow, and at least `repeats` times (once if slow).
    """
    times: dict[str, list[float]] = {name: [_run(f)] for name, f in functions.items()}
    quick = {name: f for name, f in functions.items() if times[name][0] <= SLOW}
    for name in quick:
        times[name].clear()
    while quick:
        for name, f in list(quick.items()):
            times[name].append(_run(f))
            if len(times[name]) >= repeats and sum(times[name]) >= LEAST:
                del quick[name]
    return {name: Timing(median(values), len(values)) for name, values in times.items()}


def _run(f: Callable[[], Any]) -> float:
    start = perf_counter()
    f()
    return perf_counter() - start
