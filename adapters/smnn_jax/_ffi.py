"""The operators as XLA custom calls, on XLA's own buffers: an FFI handler in Python.

XLA calls a handler through a C interface of plain structs, which it keeps compatible from release to release
(`xla/ffi/api/c_api.h`, shipped with jaxlib; a test compares the layouts below with it). A handler needs nothing
else, so it is written here with ctypes: nothing to compile against JAX, about 15 microseconds a call, and the engine
that does the work releases the interpreter lock. `jax.experimental.buffer_callback` is as fast, but names a Python
function by its place in one compiled module, so that it can neither be partitioned over devices by XLA nor come out
of the compilation cache.
"""

from __future__ import annotations

import atexit
import ctypes
import time
from ctypes import POINTER, c_char_p, c_int, c_int32, c_int64, c_size_t, c_uint32, c_void_p
from functools import lru_cache
from threading import Lock
from typing import Any

import jax
import numpy as np

from ._operators import OPERATORS, Static

__all__ = ["TARGET", "available", "register"]

TARGET = "smnn_operator"

Array = Any


def _struct(name: str, *fields: tuple[str, Any]) -> type[ctypes.Structure]:
    return type(name, (ctypes.Structure,), {"_fields_": list(fields)})


HEADER = (("struct_size", c_size_t), ("extension_start", c_void_p))
SEQUENCE = (*HEADER, ("size", c_int64), ("types", POINTER(c_int)))

XLA_FFI_Extension_Base = _struct(
    "XLA_FFI_Extension_Base", ("struct_size", c_size_t), ("type", c_int), ("next", c_void_p)
)
XLA_FFI_Api_Version = _struct("XLA_FFI_Api_Version", *HEADER, ("major_version", c_int), ("minor_version", c_int))
XLA_FFI_Metadata = _struct(
    "XLA_FFI_Metadata", ("struct_size", c_size_t), ("api_version", XLA_FFI_Api_Version), ("traits", c_uint32)
)
XLA_FFI_Metadata_Extension = _struct(
    "XLA_FFI_Metadata_Extension", ("extension_base", XLA_FFI_Extension_Base), ("metadata", POINTER(XLA_FFI_Metadata))
)
XLA_FFI_Buffer = _struct(
    "XLA_FFI_Buffer", *HEADER, ("dtype", c_int), ("data", c_void_p), ("rank", c_int64), ("dims", POINTER(c_int64))
)
XLA_FFI_ByteSpan = _struct("XLA_FFI_ByteSpan", ("ptr", c_void_p), ("len", c_size_t))
XLA_FFI_Args = _struct("XLA_FFI_Args", *SEQUENCE, ("args", POINTER(POINTER(XLA_FFI_Buffer))))
XLA_FFI_Rets = _struct("XLA_FFI_Rets", *SEQUENCE, ("rets", POINTER(POINTER(XLA_FFI_Buffer))))
XLA_FFI_Attrs = _struct(
    "XLA_FFI_Attrs",
    *SEQUENCE,
    ("names", POINTER(POINTER(XLA_FFI_ByteSpan))),
    ("attrs", POINTER(POINTER(XLA_FFI_ByteSpan))),
)
XLA_FFI_Error_Create_Args = _struct("XLA_FFI_Error_Create_Args", *HEADER, ("message", c_char_p), ("errc", c_int))
XLA_FFI_Stream_Get_Args = _struct("XLA_FFI_Stream_Get_Args", *HEADER, ("ctx", c_void_p), ("stream", c_void_p))
XLA_FFI_Api = _struct(
    "XLA_FFI_Api",
    *HEADER,
    ("api_version", XLA_FFI_Api_Version),
    ("internal_api", c_void_p),
    ("XLA_FFI_Error_Create", ctypes.CFUNCTYPE(c_void_p, POINTER(XLA_FFI_Error_Create_Args))),
    ("XLA_FFI_Error_GetMessage", c_void_p),
    ("XLA_FFI_Error_Destroy", c_void_p),
    ("XLA_FFI_Handler_Register", c_void_p),
    ("XLA_FFI_Stream_Get", ctypes.CFUNCTYPE(c_void_p, POINTER(XLA_FFI_Stream_Get_Args))),
)
XLA_FFI_CallFrame = _struct(
    "XLA_FFI_CallFrame",
    *HEADER,
    ("api", POINTER(XLA_FFI_Api)),
    ("ctx", c_void_p),
    ("stage", c_int),
    ("args", XLA_FFI_Args),
    ("rets", XLA_FFI_Rets),
    ("attrs", XLA_FFI_Attrs),
)

API_VERSION = (0, 1)
"""The version of the interface that the structs above are written against: XLA keeps it working."""
DTYPES = {11: np.dtype(np.float32), 12: np.dtype(np.float64)}
EXTENSION_METADATA, ERROR_INTERNAL = 1, 13
READ, WRITE = 0x100, 0x200
_memory = ctypes.pythonapi.PyMemoryView_FromMemory
_memory.restype, _memory.argtypes = ctypes.py_object, (c_void_p, ctypes.c_ssize_t, c_int)


def _describe(frame: Any) -> bool:
    """Answers XLA's question, put at registration, for which version of the interface this handler is."""
    address = frame.extension_start
    while address:
        base = XLA_FFI_Extension_Base.from_address(address)
        if base.type == EXTENSION_METADATA:
            metadata = XLA_FFI_Metadata_Extension.from_address(address).metadata.contents
            metadata.api_version.major_version, metadata.api_version.minor_version = API_VERSION
            metadata.traits = 0
            return True
        address = base.next
    return False


def _numpy(buffer: Any, access: int) -> np.ndarray:
    """A buffer in host memory as a NumPy array: no copy."""
    dtype, shape = DTYPES[buffer.dtype], buffer.dims[: buffer.rank]
    size = dtype.itemsize
    for n in shape:
        size *= n
    if size == 0:
        return np.empty(shape, dtype)
    return np.frombuffer(_memory(buffer.data, size, access), dtype).reshape(shape)


def _static(frame: Any) -> tuple[str, Static]:
    text = frame.attrs.attrs[0].contents
    return Static.decode(ctypes.string_at(text.ptr, text.len))


def _execute_on_host(frame: Any) -> None:
    args, result = frame.args.args, frame.rets.rets[0].contents
    operator, static = _static(frame)
    operands = [_numpy(args[i].contents, READ) for i in range(frame.args.size)]
    _numpy(result, WRITE)[...] = OPERATORS[operator](static, operands)


def _execute_on_cuda(frame: Any) -> None:
    """As `_execute_on_host`, with CuPy arrays on the stream of XLA."""
    import cupy

    stream = XLA_FFI_Stream_Get_Args(ctypes.sizeof(XLA_FFI_Stream_Get_Args), None, frame.ctx, None)
    if frame.api.contents.XLA_FFI_Stream_Get(stream):
        raise RuntimeError("XLA gave no stream.")

    def as_cupy(buffer: Any) -> Array:
        dtype, shape = DTYPES[buffer.dtype], tuple(buffer.dims[: buffer.rank])
        size = dtype.itemsize * int(np.prod(shape, dtype=np.int64))
        if size == 0:
            return cupy.empty(shape, dtype)
        memory = cupy.cuda.UnownedMemory(buffer.data, size, owner=None)
        return cupy.ndarray(shape, dtype, cupy.cuda.MemoryPointer(memory, 0))

    args, result = frame.args.args, frame.rets.rets[0].contents
    operator, static = _static(frame)
    device = cupy.cuda.runtime.pointerGetAttributes(result.data).device
    with cupy.cuda.Device(device), cupy.cuda.ExternalStream(stream.stream or 0, device):
        operands = [as_cupy(args[i].contents) for i in range(frame.args.size)]
        as_cupy(result)[...] = OPERATORS[operator](static, operands)


def _handler(execute: Any) -> Any:
    """The C function that XLA calls: NULL for success, else an error that XLA owns and raises."""

    def handler(address: int) -> int | None:
        frame = XLA_FFI_CallFrame.from_address(address)
        try:
            if not _describe(frame):
                with _CALLS:
                    execute(frame)
        except BaseException as error:  # an exception cannot cross into C
            message = f"smnn: {type(error).__name__}: {error}".encode()
            args = XLA_FFI_Error_Create_Args(
                ctypes.sizeof(XLA_FFI_Error_Create_Args), None, message, ERROR_INTERNAL
            )
            return frame.api.contents.XLA_FFI_Error_Create(args)
        return None

    return ctypes.CFUNCTYPE(c_void_p, c_void_p)(handler)


# XLA keeps the address of a handler for good: so must we keep the handler
_HANDLERS = {"cpu": _handler(_execute_on_host), "CUDA": _handler(_execute_on_cuda)}


class _Calls:
    """How many calls have started and are running, on any thread: see `_drain`."""

    def __init__(self) -> None:
        self.lock = Lock()
        self.started = self.running = 0

    def __enter__(self) -> None:
        with self.lock:
            self.started += 1
            self.running += 1

    def __exit__(self, *error: object) -> None:
        with self.lock:
            self.running -= 1


_CALLS = _Calls()


def _drain() -> None:
    """Before the interpreter ends: XLA runs asynchronously, and a handler cannot start once there is no interpreter.

    What still has a result is waited for; of what has none, such as a gradient that nobody kept, only its calls show.
    """
    jax.block_until_ready(jax.live_arrays())
    seen = None
    while _CALLS.running or _CALLS.started != seen:
        seen = _CALLS.started
        time.sleep(0.02)


@lru_cache(maxsize=None)
def register() -> None:
    """Makes the handlers known to XLA, once."""
    atexit.register(_drain)
    for platform, handler in _HANDLERS.items():
        jax.ffi.register_ffi_target(TARGET, jax.ffi.pycapsule(handler), platform=platform)


@lru_cache(maxsize=None)
def available(platform: str) -> bool:
    """Whether the operators run as custom calls on a platform of JAX."""
    if platform == "cpu":
        return True
    if platform not in ("gpu", "cuda"):
        return False
    try:
        import cupy
    except ImportError:
        return False
    return bool(cupy.cuda.is_available())
