"""A device for `engines._cuda.host` that is a loop on the CPU: the kernels themselves, compiled by the C++ compiler.

Memory that kernels are given holds NaN where nothing was written, and a guard on either side that must stay as it is.
"""

from __future__ import annotations

import ctypes
import hashlib
import itertools
import math
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cache, partial
from pathlib import Path
from typing import Any

import array_api_compat.numpy
import numpy as np

from smnn_core.engines._cuda import host
from smnn_core.engines._cuda.device import ALIGNMENT
from smnn_core.engines._cuda.grain import Grain
from smnn_core.engines._cuda.layout import point_job
from smnn_core.engines._cuda.plan import plans_of
from smnn_core.engines._cuda.source import Specialization

HERE = Path(__file__).parent
KERNELS = Path(host.__file__).parent
BUILD = HERE.parents[1] / "build" / "emulator"
GUARD = 512
"""Bytes on either side of a piece of memory, at the least, that must stay as they are."""

COMPILER = os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++") or ""
FLAGS = ("-std=c++17", "-O1", "-ffp-contract=fast", "-shared", "-fPIC", "-w")
FMA = ("-mfma",) if " fma " in (Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else "") else ()
"""Products and sums are fused as NVRTC fuses them, where the machine can."""


@cache
def library(module: Specialization) -> ctypes.CDLL:
    """The module, compiled for the CPU; kept in `build/` from run to run."""
    defines = [f"-D{k}={v}" for k, v in module.defines.items()]
    own = "".join((HERE / name).read_text() for name in ("grid.hpp", "emulator.cpp"))
    key = hashlib.sha256("\n".join([module.source, own, COMPILER, *FLAGS, *FMA, *defines]).encode()).hexdigest()[:16]
    path = BUILD / f"{module}-{key}.so"
    if not path.exists():
        BUILD.mkdir(parents=True, exist_ok=True)
        # (several test processes may compile the same module: the last one to finish leaves its own)
        with tempfile.TemporaryDirectory(dir=BUILD) as folder:
            made = Path(folder) / "module.so"
            command = [COMPILER, *FLAGS, *FMA, *defines, f"-I{KERNELS}", str(HERE / "emulator.cpp"), "-o", str(made)]
            subprocess.run(command, check=True)
            made.replace(path)
    return ctypes.CDLL(str(path))


def check_addresses(module: Specialization, kernel: str, job: np.ndarray) -> None:
    """As a device does, whose threads read numbers at multiples of their size alone."""
    itemsize = 4 if getattr(module, "dtype", "float64") == "float32" else 8
    if not kernel.startswith("smnn_chains"):
        inputs = job.view(point_job(module.dtype, module.K))["in"]["data"]
        assert not (inputs % itemsize).any(), f"{kernel}: misaligned address"


def raise_if(wrong: int, module: Specialization, kernel: str) -> None:
    """The result of a launch on the grid."""
    reasons = "", "there is no such kernel", "threads of a warp wait for one that is done", "a barrier of other threads"
    assert not wrong, f"{module}, {kernel}: {reasons[wrong]}"


class Emulator:
    """See `CupyDevice`."""

    xp = array_api_compat.numpy

    def __init__(self, grain: Grain, *, block: int = 32, backwards: bool = False) -> None:
        self.grain, self.block, self.backwards = grain, block, backwards
        self.plans = plans_of(self)
        self.launched: list[str] = []
        self._guards: list[tuple[np.ndarray, np.ndarray]] = []

    def empty(self, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        """Memory in which all bytes are ones: NaN, where they are read as numbers."""
        size = math.prod(shape) * np.dtype(dtype).itemsize
        whole = np.full(size + 3 * GUARD, 0xFF, np.uint8)
        first = GUARD + -(whole.ctypes.data + GUARD) % ALIGNMENT
        self._guards.append((whole[:first], whole[first + size :]))
        return whole[first : first + size].view(dtype).reshape(shape)

    def current(self) -> AbstractContextManager[None]:
        return nullcontext()

    def results(self, arrays: Sequence[tuple[tuple[int, ...], Any]]) -> list[np.ndarray]:
        return [self.empty(*array) for array in arrays]

    def zeros(self, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        result = self.empty(shape, dtype)
        result[...] = 0
        return result

    def scratch(self, sizes: tuple[int, ...]) -> tuple[object, list[int]]:
        """Pieces with guards of their own."""
        memory = [self.empty((size,), np.uint8) for size in sizes]
        return memory, [self.address(x) for x in memory]

    def address(self, x: np.ndarray) -> int:
        return x.ctypes.data

    def prepare(self, module: Specialization, kernel: str, lanes: int, job_bytes: int) -> Callable[[np.ndarray], None]:
        del job_bytes
        return partial(self.launch, module, kernel, lanes)

    def launch(self, module: Specialization, kernel: str, lanes: int, job: np.ndarray) -> None:
        self.launched.append(kernel)
        block = min(self.block, module.block(kernel))
        blocks = -(-lanes * module.team(kernel) // block)
        check_addresses(module, kernel, job)
        memory = job.ctypes.data_as(ctypes.c_void_p)
        raise_if(library(module).launch(kernel.encode(), blocks, block, int(self.backwards), memory), module, kernel)
        self.check_guards()

    def check_guards(self) -> None:
        """Nothing was written beside the memory handed out."""
        for guard in itertools.chain(*self._guards):
            assert (guard == 0xFF).all(), "a kernel wrote beside its memory"
