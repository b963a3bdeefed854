"""CuPy's memory, and that of others in its place."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from _fake_streams import thread

GUARD = 512
"""Bytes on either side of a piece of memory that must stay as they are."""


class Memory:
    """Of CuPy's own pool; all of its bytes are ones at first, NaN where they are read as numbers."""

    def __init__(self, size: int) -> None:
        self._whole = np.full(size + 2 * GUARD, 0xFF, np.uint8)
        self.size = size
        self.ptr = self._whole.ctypes.data + GUARD
        live.add(self)

    def check(self) -> None:
        sides = self._whole[:GUARD], self._whole[GUARD + self.size :]
        assert all((side == 0xFF).all() for side in sides), "a kernel wrote beside its memory"


live: weakref.WeakSet[Memory] = weakref.WeakSet()
"""The memory of CuPy's pool that is in use."""

reachable: weakref.WeakSet[Any] = weakref.WeakSet()
"""All memory that CuPy's arrays lie in, that of other libraries as well."""


class UnownedMemory:
    """`cupy.cuda.UnownedMemory`."""

    def __init__(self, ptr: int, size: int, owner: object, device_id: int = -1) -> None:
        self.ptr, self.size, self._owner, self.device_id = ptr, size, owner, device_id


class MemoryPointer:
    """`cupy.cuda.MemoryPointer`."""

    def __init__(self, mem: Any, offset: int) -> None:
        self.mem, self.ptr, self.device_id = mem, mem.ptr + offset, 0


def pool(size: int) -> MemoryPointer:
    return MemoryPointer(Memory(size), 0)


@contextmanager
def using_allocator(allocate: Callable[[int], MemoryPointer]) -> Iterator[None]:
    thread.allocators.append(allocate)
    try:
        yield
    finally:
        thread.allocators.pop()
