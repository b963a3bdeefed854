"""Arithmetic and memory traffic of the solver against the peak of this machine, measured in the same run.

The solver's figures are nominal: the operations of a sequential orthogonal elimination, and the traffic that no
algorithm avoids (inputs, dL/dy, solution and gradients once each). What an engine does beyond that counts for nothing,
so the percentages are lower bounds of what the hardware is doing.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from pathlib import Path
from time import perf_counter

import numpy as np

from .cases import Case

__all__ = ["machine_peak", "nominal_bytes", "nominal_flops"]

SOURCE = Path(__file__).with_name("peak.cpp")
TRIAD = 1 << 24
"""Elements: three arrays of 128 MiB, far beyond any cache."""


def nominal_flops(case: Case, backward: bool) -> float:
    """Operations of one forward solve; with the backward pass, also those of the normal solve.

    A Householder QR of p rows eliminates n columns and is applied to the k others: 2 n^2 (p - n/3) + k (4 p n - 2 n^2)
    (Golub, Van Loan, Matrix Computations, 5.2). Here p = 2n + Q (carried, smoothness in triangular form, equations)
    and k = n + 1 (next point, right-hand side). Substitution: 2 (n^2 / 2 + n^2) a sweep.
    """
    n, p = case.n, 2 * case.n + case.Q
    k = n + 1
    step = 2 * n**2 * (p - n / 3) + k * (4 * p * n - 2 * n**2) + 3 * n**2
    if backward:
        step += 6 * n**2
    return case.batch * case.T * step


def nominal_bytes(case: Case, itemsize: int, backward: bool) -> float:
    """Inputs and solution once; with the backward pass, also dL/dy and the gradients."""
    inputs = case.Q * case.n + case.Q + 1
    numbers = inputs + case.n + (case.n + inputs if backward else 0)
    return float(case.batch * case.T * numbers * itemsize)


def machine_peak(folder: Path, threads: int) -> dict[str, float | str]:
    """GB/s of a triad and float64 GFLOP/s of a multiply-add loop on so many threads: the best of several runs.

    They are compiled into the folder; without a compiler NumPy stands in, and "how" says so.
    """
    kernels = _compile(folder)
    b, c = np.ones(TRIAD), np.ones(TRIAD)
    a = np.zeros(TRIAD)
    if kernels is None:
        bandwidth = 24e-9 * TRIAD / _best(lambda: np.add(b, c, out=a))
        M = np.ones((1536, 1536))
        return {
            "GB/s": bandwidth,
            "GFLOP/s": 2e-9 * 1536**3 / _best(lambda: M @ M),
            "how": "no C++ compiler: numpy.add (one thread) and a matrix product",
        }
    pointers = [x.ctypes.data_as(ctypes.c_void_p) for x in (a, b, c)]
    seconds = _best(lambda: kernels.triad(*pointers, ctypes.c_double(0.5), ctypes.c_ssize_t(TRIAD), threads))
    kernels.multiply_add.restype = ctypes.c_double
    result, rounds = ctypes.c_double(), 2_000_000
    flops = kernels.multiply_add(ctypes.c_ssize_t(1), threads, ctypes.byref(result)) * rounds
    fastest = _best(lambda: kernels.multiply_add(ctypes.c_ssize_t(rounds), threads, ctypes.byref(result)))
    return {
        "GB/s": 24e-9 * TRIAD / seconds,
        "GFLOP/s": 1e-9 * flops / fastest,
        "how": f"compiled triad and multiply-add loop, {threads} threads",
    }


def _compile(folder: Path) -> ctypes.CDLL | None:
    compiler = os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    if not compiler:
        return None
    target = (folder / "peak.so").resolve()
    command = [
        *compiler.split(),
        "-O3",
        "-march=native",
        "-fopenmp",
        "-shared",
        "-fPIC",
        str(SOURCE),
        "-o",
        str(target),
    ]
    if subprocess.run(command, capture_output=True, check=False).returncode != 0:
        return None
    return ctypes.CDLL(str(target))


def _best(f, runs: int = 7) -> float:  # type: ignore[no-untyped-def]
    def once() -> float:
        start = perf_counter()
        f()
        return perf_counter() - start

    return min(once() for _ in range(runs))
