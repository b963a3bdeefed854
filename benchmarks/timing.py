"""Timing several functions fairly: in one process, in turn, medians."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from statistics import median
from time import perf_counter
from typing import Any

__all__ = ["Timing", "measure"]

SLOW = 4.0
"""Seconds: where a single run suffices, a function slower than this gets no more."""
LEAST = 0.25
"""Seconds: quick functions are repeated until they have been timed for this long."""


@dataclass(frozen=True)
class Timing:
    seconds: float
    """median over the runs"""
    runs: int


def measure(
    functions: Mapping[str, Callable[[], Any]], repeats: int = 5, once_if_slow: Collection[str] = ()
) -> dict[str, Timing]:
    """Times the functions round by round, so that a disturbance of the machine meets all of them alike.

    Each is run once before, untimed, then at least `repeats` times; in `once_if_slow` a slow first run suffices.
    """
    first = {name: _run(f) for name, f in functions.items()}
    done = {name: [t] for name, t in first.items() if name in once_if_slow and t > SLOW}
    times: dict[str, list[float]] = {name: done.get(name, []) for name in functions}
    waiting = [name for name in functions if name not in done]
    while waiting:
        for name in waiting:
            times[name].append(_run(functions[name]))
        waiting = [name for name in waiting if len(times[name]) < repeats or sum(times[name]) < LEAST]
    return {name: Timing(median(values), len(values)) for name, values in times.items()}


def _run(f: Callable[[], Any]) -> float:
    start = perf_counter()
    f()
    return perf_counter() - start
