"""Needs of CuPy beside the array API: constants that stay on the device, streams and results of other libraries.

CuPy is imported by its users; nothing here imports it.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple

import numpy as np

from ._errors import ArgumentError

__all__ = ["constant", "itemsize_of_results", "on_stream", "results"]

Array = Any

_constants: dict[tuple[Any, ...], Array] = {}
"""By device, dtype, shape and bytes: weights that are numbers, and the matrices of schemes."""
_captured: dict[tuple[Any, ...], Array] = {}
"""Constants that CUDA graphs read, which know their addresses: they are never freed."""
MOST = 1024
"""So many are kept, for programs whose weights are other numbers at every call."""


LARGEST = 1024
"""Entries of a constant."""


def constant(xp: Any, values: Any, dtype: Any, device: Any) -> Array:
    """Numbers as an array on the device, made once: copies from the host wait, and cannot be captured in a CUDA graph.

    More than `LARGEST` numbers are data, and copied at every call.

    Raises:
        ArgumentError: while a CUDA graph is captured, for a matrix that no earlier solve has brought to the device.
    """
    host = np.asarray(values, dtype=dtype)
    if host.size > LARGEST:
        return xp.asarray(host, device=device)
    key = int(device), host.dtype.str, host.shape, host.tobytes()
    cuda = sys.modules["cupy"].cuda
    with cuda.Device(device):
        stream = cuda.get_current_stream()
        capturing = stream.is_capturing()
        known = _captured.get(key, _constants.get(key))
        if known is not None:
            if capturing:
                _captured[key] = known
            return known
        if not capturing:
            return _made(xp, key, host, device, stream)
    if host.ndim:
        raise ArgumentError(
            "a CUDA graph is being captured, and constants of this problem are not on the device yet: solve it once "
            "before the capture."
        )
    return xp.full((), host.item(), dtype=host.dtype, device=device)  # it has its value in replays alone


def _made(xp: Any, key: tuple[Any, ...], host: Any, device: Any, stream: Any) -> Array:
    if len(_constants) >= MOST:
        device.synchronize()  # what is freed may still be read
        _constants.clear()
    cupy = sys.modules["cupy"]
    with cupy.cuda.using_allocator(cupy.get_default_memory_pool().malloc):  # that of others may be for a call alone
        result = _constants[key] = xp.asarray(host, device=device)
    stream.synchronize()  # other streams may read it from now on
    return result


class _Allocating(threading.local):
    itemsize = 0


_allocating = _Allocating()


@contextmanager
def results(itemsize: int) -> Iterator[None]:
    """Arrays of that many bytes a number that are made in here are what a call returns, as a rule: an allocator may put
    them where they are to go."""
    before, _allocating.itemsize = _allocating.itemsize, itemsize
    try:
        yield
    finally:
        _allocating.itemsize = before


def itemsize_of_results() -> int:
    """Of what is allocated now, 0 where it is not of `results`."""
    return _allocating.itemsize


class _Stream(NamedTuple):
    """A stream of another library, by CUDA's stream protocol."""

    pointer: int

    def __cuda_stream__(self) -> tuple[int, int]:
        return 0, self.pointer


@contextmanager
def on_stream(device: int, pointer: int, allocate: Callable[[int], Any] | None = None) -> Iterator[None]:
    """CuPy works on a stream of another library and, where `allocate` is given, in memory that it allocates.

    Args:
        device: its index.
        pointer: the address of the stream, 0 for the default one.
        allocate: a number of bytes -> `cupy.cuda.MemoryPointer`.
    """
    cuda = sys.modules["cupy"].cuda
    if hasattr(cuda.Stream, "from_external"):
        stream = cuda.Stream.from_external(_Stream(pointer))
    else:  # before CuPy 14
        stream = cuda.ExternalStream(pointer, device)
    memory = cuda.using_allocator(allocate) if allocate else nullcontext()
    with cuda.Device(device), stream, memory:
        yield
