"""One GPU through CuPy, which is imported by whoever makes a `CupyDevice`."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import accumulate
from typing import Any

import numpy as np

from ..._arrays import Array, Namespace, Shape
from ..._cupy import results
from .grain import Grain
from .plan import Launch, Plan, plans_of
from .source import NVRTC_OPTIONS, Specialization, part_of

ALIGNMENT = 256
"""Bytes, of memory, as CUDA aligns it."""


@dataclass(frozen=True)
class CupyDevice:
    """It launches kernels, and has the memory that they work on."""

    cupy: Any
    index: int
    xp: Namespace
    grain: Grain
    widens: bool = True
    """whether systems in float32 are computed in float64, which is at least an eighth as fast"""

    @cached_property
    def plans(self) -> Callable[..., Plan]:
        """See `plans_of`."""
        return plans_of(self)

    def current(self) -> AbstractContextManager[Any]:
        """Work goes there."""
        device: AbstractContextManager[Any] = self.cupy.cuda.Device(self.index)
        return device

    def results(self, arrays: Sequence[tuple[Shape, np.dtype[Any]]]) -> list[Array]:
        """Empty arrays for the results of a call."""
        if not arrays:
            return []
        with results(arrays[0][1].itemsize):
            return [self.cupy.empty(*array) for array in arrays]

    def zeros(self, shape: Shape, dtype: np.dtype[Any]) -> Array:
        return self.cupy.zeros(shape, dtype)

    def scratch(self, sizes: tuple[int, ...]) -> tuple[object, list[int]]:
        """Memory, and the addresses of its pieces, of so many bytes each."""
        *offsets, total = ends(sizes)
        memory = self.cupy.cuda.alloc(total)
        first = int(memory.ptr)
        return memory, [first + offset for offset in offsets]

    def address(self, x: Array) -> int:
        return int(x.data.ptr)

    def prepare(self, module: Specialization, kernel: str, lanes: int, job_bytes: int) -> Launch:
        """A function that launches a job."""
        function = compiled(self.cupy, self.index, module, part_of(kernel)).get_function(kernel)
        block = (module.block(kernel),)
        grid = (math.ceil(lanes * module.team(kernel) / block[0]),)

        # An array of one element is passed by value; as plain bytes, since CuPy takes long to look at nested fields.
        by_value = np.dtype(f"V{job_bytes}")

        def launch(job: np.ndarray) -> None:
            function(grid, block, (job.view(by_value),))

        return launch


@lru_cache(512)
def ends(sizes: tuple[int, ...]) -> tuple[int, ...]:
    """The offset of each of some pieces, aligned as CUDA aligns memory, and the end of the last one."""
    return tuple(accumulate((-(-size // ALIGNMENT) * ALIGNMENT for size in sizes), initial=0))


@lru_cache(maxsize=128)
def compiled(cupy: Any, index: int, module: Specialization, part: int) -> Any:
    """The module of one device, compiled or read from CuPy's cache on disk."""
    return cupy.RawModule(code=module.source_of(part), options=NVRTC_OPTIONS, backend="nvrtc")
