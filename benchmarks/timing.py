"""Timing several functions fairly: in one process, in turn, medians."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from statistics import median
from time import perf_counter
from typing import Any

__all__ = ["Timing", "measure"]

SLOW = 4.0
"""Seconds that a function may take in all where fewer runs will do."""
LEAST = 0.25
"""Seconds: quick functions are repeated until they have been timed for this long."""


@dataclass(frozen=True)
class Timing:
    seconds: float
    """median over the runs"""
    runs: int


def measure(
    functions: Mapping[str, Callable[[], Any]],
    repeats: int = 5,
    fewer_if_slow: Collection[str] = (),
    clock: Callable[[], float] = perf_counter,
) -> dict[str, Timing]:
    """Times the functions round by round, so that a disturbance of the machine meets all of them alike.

    Each is run once before, untimed, then at least `repeats` times. Those in `fewer_if_slow` are done after `SLOW`
    seconds, and if they are slow the first run counts. `clock` may be one of processor time.
    """
    first = {name: _run(f, clock) for name, f in functions.items()}

    def is_done(name: str) -> bool:
        enough = len(times[name]) >= repeats and sum(times[name]) >= LEAST
        return enough or (name in fewer_if_slow and sum(times[name]) > SLOW)

    times = {name: [t] if name in fewer_if_slow and t > SLOW else [] for name, t in first.items()}
    while waiting := [name for name in functions if not is_done(name)]:
        for name in waiting:
            times[name].append(_run(functions[name], clock))
    return {name: Timing(median(values), len(values)) for name, values in times.items()}


def _run(f: Callable[[], Any], clock: Callable[[], float]) -> float:
    start = clock()
    f()
    return clock() - start
