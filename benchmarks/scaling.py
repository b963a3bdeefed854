"""Time per time point against the number of time points."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

from threadpoolctl import threadpool_limits
from torch import Tensor

from smnn_core._problem import Problem
from smnn_core._solve import solve_problem

from . import memory
from .cases import BATCHES, ENGINE_ALONE, SCALING, SOLVERS, forward, forward_backward
from .timing import measure

__all__ = ["Scaling", "flatness", "points", "scaling"]

BASELINE_LIMIT = 10_000
"""Longer sequences are too slow for the sequential baseline."""


@dataclass(frozen=True)
class Scaling:
    solver: str
    what: str
    batch: int
    T: int
    nanoseconds: float
    """per system and time point"""
    runs: int


def points(quick: bool) -> list[tuple[int, int]]:
    """(batch, T), T from 10^2 to 10^6 (quick: 10^4)."""
    return [(batch, 10**k) for batch in BATCHES for k in range(2, 5 if quick else 7)]


def scaling(batch: int, T: int) -> Iterator[Scaling]:
    """One second-order equation per system, float64; nothing where memory does not suffice.

    Through the adapter on all threads, and for the engine alone on one: what frameworks and threads cost a call, and
    threads gain on long sequences, hides how time grows.
    """
    case = replace(SCALING, batch=batch, T=T)
    numbers = 5 * (1 + _extra_memory()) + 3  # per time point: inputs, what solving takes, dL/dy
    if 8 * batch * T * numbers > 0.9 * _free_memory():
        return
    inputs, g = case.inputs("float64"), case.cotangent("float64")
    for what in ("forward", "forward + backward"):
        functions: dict[str, Callable[[], Any]] = {}
        for name in ("smnn", "smnn_cholesky"):
            if name == "smnn" or T <= BASELINE_LIMIT:
                solve = SOLVERS[name]
                functions[name] = forward(solve, inputs) if what == "forward" else forward_backward(solve, inputs, g)
        timings = measure(functions)
        with threadpool_limits(1):
            timings |= measure({ENGINE_ALONE: _engine(inputs, None if what == "forward" else g)})
        for name, timing in timings.items():
            yield Scaling(name, what, batch, T, 1e9 * timing.seconds / (batch * T), timing.runs)


def _engine(inputs: tuple[Tensor, ...], g: Tensor | None) -> Callable[[], Any]:
    """The engine's calls for a problem that is checked: solve, and adjoint where there is a g."""
    problem = Problem.build(*(x.numpy() for x in inputs))

    def run() -> Any:
        y, factor = solve_problem(problem)
        return y if g is None else factor.adjoint(problem, y, g.numpy())

    return run


def flatness(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The largest over the smallest time per point from T = 10^3 on, for the library."""
    found = []
    for solver, batch, what in product(("smnn", ENGINE_ALONE), BATCHES, ("forward", "forward + backward")):
        times = {
            r["T"]: r["nanoseconds"]
            for r in results
            if (r["solver"], r["batch"], r["what"]) == (solver, batch, what) and r["T"] >= 1000
        }
        if len(times) > 1:
            ratio = max(times.values()) / min(times.values())
            found.append(
                {"solver": solver, "batch": batch, "what": what, "T": [min(times), max(times)], "ratio": ratio}
            )
    return found


@cache
def _extra_memory() -> float:
    """Memory of forward + backward, over the size of the inputs."""
    return memory.peak_ratio("smnn", SCALING, "float64") if memory.available() else 30.0


def _free_memory() -> float:
    """Bytes that can be had without swapping; unknown outside Linux: no limit."""
    info = Path("/proc/meminfo")
    if not info.exists():
        return float("inf")
    line = next(line for line in info.read_text().splitlines() if line.startswith("MemAvailable"))
    return 1024.0 * int(line.split()[1])
