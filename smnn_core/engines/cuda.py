"""The CUDA engine for CuPy arrays: the kernels of the CPU engine, one thread a lane, compiled at run time by NVRTC.

What a thread sweeps stays in its registers up to five unknowns per point (four in chunks). Larger lanes are swept by
teams of threads, which divide the columns and work in shared memory (`kernels/team.hpp`; `_cuda/source.py` says how
large they are).

Where the batch alone does not fill the device, time is divided into chunks, and the separators between them again,
level by level (`_cuda/host.py`). Kernels are compiled for the sizes of the problem when they are first needed, those of
derivatives by themselves, which takes seconds. CuPy keeps them on disk (`~/.cupy/kernel_cache`, or `CUPY_CACHE_DIR`) by
their source, options, device architecture and the version of NVRTC, so that a new version of any compiles again.

Moments of the posterior are left to the array API engine.

Work goes to CuPy's current stream, memory comes from CuPy's current allocator, and nothing waits for the device:
systems without a unique solution come back as NaN, with their gradients. A solve keeps no factor: its adjoint, and the
first normal solve, eliminate again. Constants, such as weights that are numbers, are copied to the device when they are
first seen, so that a solve can be captured in a CUDA graph after it has run once. CuPy gives the memory that a capture
frees to others, which replays would overwrite: capture with a `cupy.cuda.MemoryPool` of the graph's own.

What kernels keep lies lane beside lane, so that threads side by side read numbers side by side. The arrays of the
caller are read where they lie: where the batch comes first, as is usual, each thread goes along a line of its own, and
the cache holds the rest of each sector until the points that follow (`docs/theory/gpu.md` counts sectors).

This module imports CuPy only when it is given CuPy arrays, or asked to describe itself.
"""

from __future__ import annotations

import importlib
import warnings
from functools import cache, lru_cache

import array_api_compat as compat

from .._arrays import Array, Shape
from .._cupy import results
from .._errors import EngineWarning
from .._problem import Problem, System
from ._cuda.device import CupyDevice
from ._cuda.grain import Grain
from ._cuda.host import CudaFactor, factorize, solve_problem
from ._cuda.layout import MAX_AXES, MAX_K, too_many_axes
from ._interface import Engine, Factor
from ._refinement import widened
from ._rounded import RoundedFactor, widened_problem
from .array_api import ArrayEngine

LARGEST = 12
"""Unknowns per time point, at most: a thread keeps some n^2 numbers for its lane."""

MOST_EQUATIONS = 16
"""Per time point: kernels of small systems have code for each, and take seconds longer to compile for every four."""

OLDEST = 70
"""Compute capability, ten times: kernels read their jobs where the driver puts them (`__grid_constant__`)."""

THREADS_PER_PROCESSOR = 256
"""As many lanes of a multiprocessor as keep its arithmetic busy, at the registers that elimination takes."""


def size_refusal(n: int, K: int, Q: int, batch: Shape) -> str | None:
    """The part of `refusal` that looks at numbers alone."""
    if n > LARGEST:
        return f"it serves up to {LARGEST} unknowns per time point (variables x orders), here are {n}."
    if K > MAX_K:
        return f"it serves up to {MAX_K} derivative orders, here are {K}."
    if Q > MOST_EQUATIONS:
        return f"it serves up to {MOST_EQUATIONS} equations per time point, here are {Q}."
    if too_many_axes(batch):
        return f"it serves up to {MAX_AXES} batch axes, and the batch is {batch}: reshape it to fewer."
    return None


@lru_cache(maxsize=16)
def _capability(index: int) -> int:
    """The compute capability of a device, ten times."""
    return int(importlib.import_module("cupy").cuda.Device(index).compute_capability)


@lru_cache(maxsize=16)
def _device(index: int) -> CupyDevice:
    cupy, xp = map(importlib.import_module, ("cupy", "array_api_compat.cupy"))
    attributes = cupy.cuda.Device(index).attributes
    grain = Grain(lanes=attributes["MultiProcessorCount"] * THREADS_PER_PROCESSOR)
    return CupyDevice(cupy, index, xp, grain, widens=int(attributes["SingleToDoublePrecisionPerfRatio"]) <= 8)


def _describe_device(index: int) -> str:
    name = importlib.import_module("cupy").cuda.runtime.getDeviceProperties(index)["name"].decode()
    capability = _capability(index)
    if capability < OLDEST:
        return f"{name} (sm_{capability}, left to array_api: kernels need sm_{OLDEST} or later)"
    arithmetic = "float64" if _device(index).widens else "float32, whose results may have few digits"
    return f"{name} (sm_{capability}, float32 is computed in {arithmetic})"


def _device_of(system: System) -> CupyDevice:
    """That of its arrays. Warns if it computes the system in float32."""
    device = _device(system.coefficients.device.id)
    if not device.widens and system.dtype != system.xp.float64:
        _warn_of_few_digits(device.index)
    return device


@cache
def _warn_of_few_digits(index: int) -> None:
    """Once for each device."""
    warnings.warn(
        f"CUDA device {index} has slow float64, so that float32 systems are computed in float32: results may have few "
        "digits, and NaN where orders are high or steps are short. Give float64 arrays where that matters.",
        EngineWarning,
        stacklevel=2,
    )


class CudaEngine(Engine):
    """Elimination by kernels that NVRTC compiles."""

    name = "cuda"

    def refusal(self, system: System) -> str | None:
        """Why another engine must serve it: other arrays than CuPy's, an old device, large blocks."""
        c = system.coefficients
        if not compat.is_cupy_array(c):
            return f"it serves CuPy arrays, and the coefficients are {type(c).__name__}."
        index = c.device.id
        if _capability(index) < OLDEST:
            found, oldest = _capability(index) / 10, OLDEST / 10
            return f"it serves devices of compute capability {oldest} or more, and device {index} has {found}."
        return size_refusal(system.n, system.K, system.Q, system.batch)

    def describe(self) -> str:
        """One line for `show_config`."""
        try:
            count = importlib.import_module("cupy").cuda.runtime.getDeviceCount()
            devices = [_describe_device(index) for index in range(count)]
        except Exception as error:  # (of the import, the driver or the device: each has its own types)
            return f"not available: {type(error).__name__}: {next(iter(str(error).splitlines()), 'no message')}"
        if not devices:
            return "not available: no CUDA device"
        return (
            f"available: {', '.join(devices)}; CuPy arrays, up to {LARGEST} unknowns and {MOST_EQUATIONS} equations "
            f"per time point, {MAX_K} derivative orders and {MAX_AXES} batch axes; others go to array_api, and so do "
            "moments of posteriors"
        )

    def factorize(self, system: System) -> CudaFactor | RoundedFactor:
        """Eliminates a left-hand side, once for all right-hand sides."""
        device = _device_of(system)
        with device.current():
            wide = widened(system) if device.widens else system
            factor = factorize(device, wide)
        return factor if wide is system else RoundedFactor(system, factor.undetermined, factor)

    def solve_problem(self, problem: Problem, *, recompute: bool = False) -> tuple[Array, Factor]:
        """The solution and the factor, in one sweep. The factor is kept as long as its object."""
        del recompute
        system = problem.system
        if too_many_axes(problem.batch):
            return ArrayEngine().solve_problem(problem)
        device = _device_of(system)
        if not device.widens or system.dtype == system.xp.float64:
            return solve_problem(device, problem)
        with device.current():
            wide = widened_problem(problem)
            y, factor = solve_problem(device, wide)
            rounded = RoundedFactor(system, factor.undetermined, factor, (problem, wide, y))
            with results(4):
                return system.xp.astype(y, system.dtype), rounded
