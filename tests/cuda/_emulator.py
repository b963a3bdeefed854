"""A device for `engines._cuda.host` that is a loop on the CPU: the kernels themselves, compiled by the C++ compiler.

Memory that kernels are given holds NaN where nothing was written, and a guard on either side that must stay as it is.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import array_api_compat.numpy
import numpy as np

from smnn_core.engines._cuda import host
from smnn_core.engines._cuda.grain import Grain
from smnn_core.engines._cuda.source import Module

HERE = Path(__file__).parent
KERNELS = Path(host.__file__).parent
BUILD = HERE.parents[1] / "build" / "emulator"
GUARD = 64

COMPILER = os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++") or ""
FLAGS = ("-std=c++17", "-O1", "-shared", "-fPIC", "-w")


@cache
def library(module: Module) -> ctypes.CDLL:
    """The module, compiled for the CPU; kept in `build/` from run to run."""
    defines = [f"-D{k}={v}" for k, v in module.defines.items()]
    own = "".join((HERE / name).read_text() for name in ("grid.hpp", "emulator.cpp"))
    key = hashlib.sha256("\n".join([module.source, own, COMPILER, *FLAGS, *defines]).encode()).hexdigest()[:16]
    path = BUILD / f"{module}-{key}.so"
    if not path.exists():
        BUILD.mkdir(parents=True, exist_ok=True)
        # (several test processes may compile the same module: the last one to finish leaves its own)
        with tempfile.TemporaryDirectory(dir=BUILD) as folder:
            made = Path(folder) / "module.so"
            command = [COMPILER, *FLAGS, *defines, f"-I{KERNELS}", str(HERE / "emulator.cpp"), "-o", str(made)]
            subprocess.run(command, check=True)
            made.replace(path)
    return ctypes.CDLL(str(path))


class Emulator:
    """See `host.Device`."""

    xp = array_api_compat.numpy

    def __init__(self, grain: Grain, *, block: int = 32, backwards: bool = False, stage: bool = True) -> None:
        self.grain, self.block, self.backwards, self.stage = grain, block, backwards, stage
        self.launched: list[str] = []
        self._guarded: list[tuple[np.ndarray, np.ndarray]] = []

    def empty(self, shape: tuple[int, ...], dtype: str) -> np.ndarray:
        return self._allocate(shape, dtype, np.nan)

    result = empty

    def zeros(self, shape: tuple[int, ...], dtype: str) -> np.ndarray:
        return self._allocate(shape, dtype, 0)

    def _allocate(self, shape: tuple[int, ...], dtype: str, value: float) -> np.ndarray:
        size = int(np.prod(shape))
        # (all ones: NaN, where it is read as a number)
        whole = np.frombuffer(bytearray(b"\xff" * ((size + 2 * GUARD) * np.dtype(dtype).itemsize)), dtype=dtype)
        inside = whole[GUARD : GUARD + size]
        inside[...] = value
        self._guarded.append((whole, whole.copy()))
        return inside.reshape(shape)

    def address(self, x: np.ndarray) -> int:
        return x.ctypes.data

    def launch(self, module: Module, kernel: str, lanes: int, job: np.ndarray) -> None:
        self.launched.append(kernel)
        block = min(self.block, module.block(kernel))
        blocks = -(-lanes * module.team(kernel) // block)
        memory = job.ctypes.data_as(ctypes.c_void_p)
        wrong = library(module).launch(kernel.encode(), blocks, block, int(self.backwards), memory)
        assert wrong != 1, f"{module} has no kernel {kernel}"
        assert not wrong, f"{kernel}: threads of a warp wait for one that is done"
        self.check_guards()

    def check_guards(self) -> None:
        """Nothing was written beside the memory handed out."""
        for whole, before in self._guarded:
            for side in (slice(None, GUARD), slice(whole.size - GUARD, None)):
                assert whole[side].tobytes() == before[side].tobytes(), "a kernel wrote beside its memory"
