"""A plugin of pytest: XLA calls on the CPU what it calls on a device, with the CuPy of `_fake_cupy`."""

from __future__ import annotations

from typing import Any

import _fake_cupy
import jax
import numpy as np
from _fake_streams import pending

_fake_cupy.install()
register = jax.ffi.register_ffi_target
STREAM = 55


def register_for_the_cpu(name: str, handler: Any, platform: str) -> None:
    if platform == "CUDA":
        register(name, handler, platform="cpu")


jax.ffi.register_ffi_target = register_for_the_cpu
from smnn_jax import _ffi  # noqa: E402

jax.ffi.register_ffi_target = register
_ffi._stream = lambda frame: STREAM


class Api:
    """XLA's functions for memory, which it does not have on a CPU. It refuses alignments above 16, as XLA does."""

    def __init__(self) -> None:
        self.given: dict[int, Any] = {}
        self.count = self.refused = 0

    def XLA_FFI_DeviceMemory_Allocate(self, arguments: Any) -> int | None:
        if arguments.alignment > 16:
            self.refused += 1
            return self.refused  # (the address of an error)
        memory = np.full(arguments.size, 0xFF, np.uint8)
        arguments.data = memory.ctypes.data
        self.given[arguments.data] = memory
        self.count += 1
        return None

    def XLA_FFI_Error_Destroy(self, arguments: Any) -> None:
        assert arguments.error

    def XLA_FFI_DeviceMemory_Free(self, arguments: Any) -> None:
        pending.finish()  # (XLA's memory is used again in the order of the stream)
        assert self.given.pop(arguments.data).size == arguments.size


api = Api()
_ffi._api = lambda frame: (api, 0)


deliver = _ffi._deliver
copies: list[tuple[int, int]] = []
"""Results, and how many of them were copied, by call."""


def counted(found: list[Any], outputs: list[Any]) -> int:
    copies.append((len(found), deliver(found, outputs)))
    return copies[-1][1]


_ffi._deliver = counted


def pytest_sessionfinish(session: Any) -> None:
    """All work went to the stream of XLA, in memory of XLA, which was given back."""
    assert api.count > 0
    assert api.refused == 0  # (CuPy's pool would take its place)
    assert not api.given
    work = {stream for what, stream in _fake_cupy.record.events if what.startswith(("launch", "allocate", "kernel"))}
    assert work == {STREAM}, work
    assert (1, 0) in copies  # solutions
    assert all(copied <= 1 for several, copied in copies if several == 7), copies  # gradients, but for sums
