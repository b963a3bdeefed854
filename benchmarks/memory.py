"""Peak extra memory of forward + backward, relative to the inputs.

Measured on the process itself, by the kernel: a fresh process makes the inputs and dL/dy, solves a small problem (so
that libraries and threads are there), resets its peak of resident memory (Linux: /proc/self/clear_refs), runs once and
reads the peak (VmHWM). Extra is what came on top of the memory resident before: solution, factor, gradients and
temporaries, in whatever allocator. Inputs are coefficients, rhs, initial_values and step_sizes.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from .cases import CASES, SCALING, SOLVERS, Case, forward_backward

__all__ = ["RECOMPUTE", "available", "extra", "of_child", "peak_ratio"]

RECOMPUTE = "smnn, recompute"
"""The library, keeping nothing of the factor."""

STATUS = Path("/proc/self/status")


def available() -> bool:
    """True if this system can tell."""
    return STATUS.exists() and os.access("/proc/self/clear_refs", os.W_OK)


def peak_ratio(solver: str, case: Case, dtype: str) -> float:
    """Peak extra memory over the size of the inputs, in a process of its own."""
    return of_child("benchmarks.memory", solver, case.name, dtype)


def of_child(module: str, *arguments: str) -> float:
    """The number that `python -m module arguments` prints last, where freed memory is given back."""
    command = [sys.executable, "-m", module, *arguments]
    # glibc would keep freed arrays for reuse, which then count as resident before: hand every array back at once
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    result = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    return float(json.loads(result.stdout.splitlines()[-1]))


def _resident(field: str) -> int:
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(field))
    return 1024 * int(line.split()[1])


def _measure(solver: str, case: Case, dtype: str) -> float:
    solve = partial(SOLVERS["smnn"], recompute=True) if solver == RECOMPUTE else SOLVERS[solver]
    small = Case("small", 1, min(case.T, 500), case.V, case.K, case.Q)
    forward_backward(solve, small.inputs(dtype), small.cotangent(dtype))()
    inputs = case.inputs(dtype)
    size = sum(x.numel() * x.element_size() for x in inputs)
    run = forward_backward(solve, inputs, case.cotangent(dtype))
    return extra(run) / size


def extra(run: Callable[[], object]) -> int:
    """The peak of resident memory while `run` runs, less what was resident before, in bytes."""
    Path("/proc/self/clear_refs").write_text("5")
    before = _resident("VmRSS")
    result = run()
    peak = _resident("VmHWM")
    del result
    return peak - before


if __name__ == "__main__":
    solver_name, case_name, dtype_name = sys.argv[1:]
    print(_measure(solver_name, next(c for c in (*CASES, SCALING) if c.name == case_name), dtype_name))
