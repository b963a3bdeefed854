"""A plugin of pytest: XLA calls on the CPU what it calls on a device, with the CuPy of `_fake_cupy`."""

from __future__ import annotations

from typing import Any

import _fake_cupy
import jax

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


def pytest_sessionfinish(session: Any) -> None:
    """All work went to the stream of XLA."""
    work = {stream for what, stream in _fake_cupy.record.events if what.startswith(("launch", "allocate", "kernel"))}
    assert work == {STREAM}, work
