"""The time of the CUDA engine on the host: `python -m benchmarks.overhead_cuda`.

Python's time for a solve and for the adjoint of four inputs, weights being numbers, at sizes of the benchmarks, as
divided on a device of 132 multiprocessors. No device is needed: CuPy is the one of the tests, whose kernels do nothing
here and whose memory is always the same. Best of many short runs. Jobs are laid out once for each shape: the first call
is timed by itself, compilation aside.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from time import perf_counter
from types import SimpleNamespace
from typing import Any

import numpy as np

from smnn_core._problem import Problem, from_fields
from smnn_core.engines import cuda
from smnn_core.engines._cuda.device import CupyDevice
from smnn_core.engines._cuda.grain import Grain

__all__ = ["measure"]

CASES = {"lorenz": (1536, 50, 1, 3), "system": (64, 1000, 3, 3), "long": (1, 10_000, 1, 3), "another": (256, 300, 2, 4)}
"""Systems, points, variables and orders."""
TARGETS = 0.06e-3, 0.15e-3
"""Seconds of a solve and of an adjoint."""
INPUTS = from_fields([True] * 4 + [False] * 3)
CALLS, ROUNDS = 5, 400


@contextmanager
def stand_in() -> Iterator[Any]:
    """A CuPy that costs next to nothing."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "cuda"))
    import _fake_cupy

    with _fake_cupy.replaced() as cupy:
        memory = np.empty(1 << 30, np.uint8)  # (of which nothing is ever touched)
        place = _fake_cupy.MemoryPointer(_fake_cupy.UnownedMemory(memory.ctypes.data, memory.size, memory), 0)
        cupy.RawModule = lambda **given: SimpleNamespace(get_function=lambda name: lambda grid, block, job: None)
        cupy.zeros = cupy.empty
        device = CupyDevice(cupy, 0, __import__("array_api_compat.cupy").cupy, Grain(lanes=132 * 256))
        cuda._device = lru_cache(lambda index: device)
        with cupy.cuda.using_allocator(lambda size: place):
            yield cupy


def problem(cupy: Any, batch: int, T: int, V: int, K: int) -> Problem:
    """Inputs of full size."""
    shapes = (batch, T, V, V, K), (batch, T, V), (batch, 1, V, K - 1), (batch, T - 1)
    return Problem.build(*(cupy.empty(shape) for shape in shapes), values=False)


def measure(batch: int, T: int, V: int, K: int) -> tuple[float, float, float, float]:
    """Seconds of a solve and of an adjoint; of the first of each."""
    engine = cuda.CudaEngine()
    with stand_in() as cupy:
        given = problem(cupy, batch, T, V, K)

        def seconds(call: Any, calls: int = CALLS) -> float:
            start = perf_counter()
            for _ in range(calls):
                call()
            return (perf_counter() - start) / calls

        def solve() -> tuple[Any, Any]:
            return engine.solve_problem(given)

        first = seconds(solve, 1)
        y, factor = solve()

        def adjoint() -> Any:
            return factor.adjoint(given, y, y, INPUTS)

        first_adjoint = seconds(adjoint, 1)
        times = [(seconds(solve), seconds(adjoint)) for _ in range(ROUNDS)]
    return min(t for t, _ in times), min(t for _, t in times), first, first_adjoint


def main() -> None:
    print("| case | solve, ms | adjoint, ms | first solve, ms | first adjoint, ms |\n| --- | --- | --- | --- | --- |")
    for name, sizes in CASES.items():
        print(f"| {name} | {' | '.join(f'{1e3 * t:.3f}' for t in measure(*sizes))} |")
    print("\nTargets: a solve in {:.2f} ms, an adjoint in {:.2f} ms.".format(*(1e3 * t for t in TARGETS)))


if __name__ == "__main__":
    main()
