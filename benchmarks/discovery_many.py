"""`python -m benchmarks.discovery --many-variables`: `discover` on systems of 8 to 20 variables, beside pysindy.

Every run has a process of its own, so that its largest memory is known. 1 % of noise, which is told to nobody.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from itertools import takewhile
from multiprocessing import get_context
from typing import Any

import numpy as np

import smnn_core as smnn

from . import sindy
from .discovery import compare
from .systems import POINTS_PER_PERIOD, System, trajectory
from .tables import Table

__all__ = ["SYSTEMS", "table"]

NOISE = 0.01
Record = dict[str, Any]


def lorenz_96(N: int, step: float = 0.02, forcing: float = 8.0) -> System:
    """x_i' = (x_{i+1} - x_{i-2}) x_{i-1} - x_i + F, from its attractor. Source: Lorenz, ECMWF seminar 1996."""
    exponents = smnn.polynomials(2).exponents(N)
    assert exponents is not None
    coefficients = np.zeros((len(exponents), N))

    def add(value: float, i: int, *factors: int) -> None:
        term = np.bincount(np.array(factors, dtype=int) % N, minlength=N)
        coefficients[int(np.argmax((exponents == term).all(1))), i] += value

    for i in range(N):
        add(forcing, i)
        add(-1.0, i, i)
        add(1.0, i, i + 1, i - 1)
        add(-1.0, i, i - 2, i - 1)
    start = forcing + np.random.default_rng(1).normal(size=N)
    before = System(f"Lorenz-96-{N}-start", 2, coefficients, start, step * POINTS_PER_PERIOD)
    return System(f"Lorenz-96-{N}", 2, coefficients, trajectory(before, 500)[-1], step * POINTS_PER_PERIOD)


def dense_linear(V: int, step: float = 0.05, damping: float = 0.02) -> System:
    """y' = A y, A = S - damping, all entries of S = -S' normal: V² terms."""
    rng = np.random.default_rng(5)
    S = rng.normal(size=(V, V))
    A = (S - S.T) / 2 - damping * np.eye(V)
    return System(f"linear-{V}", 1, np.vstack([np.zeros(V), A.T]), rng.normal(size=V), step * POINTS_PER_PERIOD)


SYSTEMS: dict[str, tuple[Callable[[], System], int]] = {
    "Lorenz-96, 8 variables": (lambda: lorenz_96(8), 2000),
    "linear, all of 15 variables": (lambda: dense_linear(15), 1000),
    "Lorenz-96, 20 variables": (lambda: lorenz_96(20), 1000),
}


def _run(name: str, method: str) -> Record:
    """Of one system; with the seconds and the largest memory of this process, in MiB."""
    make, points = SYSTEMS[name]
    system = make()
    clean = trajectory(system, points)
    data = clean + NOISE * clean.std(0) * np.random.default_rng(0).normal(size=clean.shape)
    began, cpu = time.perf_counter(), time.process_time()
    if method == "discover":
        record = compare(system, smnn.discover(data, system.step, library=smnn.polynomials(system.degree)).coefficients)
    else:
        models = takewhile(lambda m: m.method.startswith("differences"), sindy.models(system, data))
        record = min((compare(system, m.coefficients) for m in models), key=lambda r: r["missing"] + r["spurious"])
    return record | {
        "terms": int(np.sum(system.coefficients != 0)),
        "of": system.coefficients.size,
        "points": points,
        "seconds": time.perf_counter() - began,
        "cpu": time.process_time() - cpu,
        "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def table(names: list[str] | None = None) -> Table:
    """One row for each system and method."""
    rows = []
    for name in names or list(SYSTEMS):
        for method in ("discover", "pysindy"):
            with get_context("spawn").Pool(1) as pool:
                try:
                    r = pool.apply(_run, (name, method))
                except ImportError:  # pysindy is not installed
                    continue
            cells = r["terms"] - r["missing"], f"{r['terms']} of {r['of']}", r["spurious"]
            error = f"{100 * np.median(r['errors']):.2g} %"
            costs = f"{r['seconds']:.1f}", f"{r['cpu']:.1f}", f"{r['memory']:.0f}"
            rows.append((name, method, f"{r['points']:,}", *map(str, cells), error, *costs))
    header = ("system", "method", "points", "right", "true terms", "spurious", "median error", "s", "CPU s", "MiB")
    note = "pysindy: smoothed differences, of three windows and ten thresholds those that are nearest to the truth."
    return Table("Many variables, 1 % noise", header, tuple(rows), (note,))
