"""Time per time point against the number of time points."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from .cases import SOLVERS, Case, forward, forward_backward
from .timing import measure

__all__ = ["Scaling", "flatness", "points", "scaling"]

BATCHES = (1, 64)
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
    """One second-order equation per system (V = 1, K = 3, Q = 1), float64; nothing where memory does not suffice."""
    case = Case("scaling", batch, T, 1, 3, 1, target=0)
    # inputs and copies that require gradients, solution, dL/dy, gradients, and a factor of about 30 numbers a point
    if 8 * batch * T * 50 > _free_memory():
        return
    inputs, g = case.inputs("float64"), case.cotangent("float64")
    for what in ("forward", "forward + backward"):
        functions = {}
        for name in ("smnn", "smnn_cholesky"):
            if name == "smnn" or T <= BASELINE_LIMIT:
                solve = SOLVERS[name]
                functions[name] = forward(solve, inputs) if what == "forward" else forward_backward(solve, inputs, g)
        for name, timing in measure(functions).items():
            yield Scaling(name, what, batch, T, 1e9 * timing.seconds / (batch * T), timing.runs)


def flatness(results: list[dict[str, object]]) -> list[dict[str, object]]:
    """The largest over the smallest time per point from T = 10^3 on, for the library."""
    found = []
    for batch in BATCHES:
        for what in ("forward", "forward + backward"):
            times = {
                r["T"]: float(r["nanoseconds"])  # type: ignore[arg-type]
                for r in results
                if (r["solver"], r["batch"], r["what"]) == ("smnn", batch, what) and int(r["T"]) >= 1000  # type: ignore[call-overload]
            }
            if len(times) > 1:
                found.append(
                    {
                        "batch": batch,
                        "what": what,
                        "T": [min(times), max(times)],  # type: ignore[type-var]
                        "ratio": max(times.values()) / min(times.values()),
                    }
                )
    return found


def as_dict(result: Scaling) -> dict[str, object]:
    return asdict(result)


def _free_memory() -> float:
    """Bytes that can be had without swapping; unknown outside Linux: no limit."""
    info = Path("/proc/meminfo")
    if not info.exists():
        return float("inf")
    line = next(line for line in info.read_text().splitlines() if line.startswith("MemAvailable"))
    return 1024.0 * int(line.split()[1])
