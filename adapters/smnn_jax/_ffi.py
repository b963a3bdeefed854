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
import math
import time
from ctypes import POINTER, c_char_p, c_int, c_int64, c_size_t, c_uint32, c_void_p
from functools import cache
from threading import Event, Lock
from typing import Any

import jax
import numpy as np

from smnn_core.extend import itemsize_of_results, on_stream

from ._operators import OPERATORS, STEP_SIZES, Options

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
XLA_FFI_Args = _struct("XLA_FFI_Args", *SEQUENCE, ("args", c_void_p))
XLA_FFI_Rets = _struct("XLA_FFI_Rets", *SEQUENCE, ("rets", c_void_p))
XLA_FFI_Attrs = _struct(
    "XLA_FFI_Attrs",
    *SEQUENCE,
    ("names", POINTER(POINTER(XLA_FFI_ByteSpan))),
    ("attrs", POINTER(POINTER(XLA_FFI_ByteSpan))),
)
XLA_FFI_Error_Create_Args = _struct("XLA_FFI_Error_Create_Args", *HEADER, ("message", c_char_p), ("errc", c_int))
XLA_FFI_Stream_Get_Args = _struct("XLA_FFI_Stream_Get_Args", *HEADER, ("ctx", c_void_p), ("stream", c_void_p))
XLA_FFI_Error_Destroy_Args = _struct("XLA_FFI_Error_Destroy_Args", *HEADER, ("error", c_void_p))
XLA_FFI_DeviceMemory_Allocate_Args = _struct(
    "XLA_FFI_DeviceMemory_Allocate_Args",
    *HEADER,
    ("ctx", c_void_p),
    ("size", c_size_t),
    ("alignment", c_size_t),
    ("data", c_void_p),
)
XLA_FFI_DeviceMemory_Free_Args = _struct(
    "XLA_FFI_DeviceMemory_Free_Args", *HEADER, ("ctx", c_void_p), ("size", c_size_t), ("data", c_void_p)
)


def _function(arguments: type[ctypes.Structure]) -> Any:
    return ctypes.CFUNCTYPE(c_void_p, POINTER(arguments))


XLA_FFI_Api = _struct(
    "XLA_FFI_Api",
    *HEADER,
    ("api_version", XLA_FFI_Api_Version),
    ("internal_api", c_void_p),
    ("XLA_FFI_Error_Create", _function(XLA_FFI_Error_Create_Args)),
    ("_error_get_message", c_void_p),
    ("XLA_FFI_Error_Destroy", _function(XLA_FFI_Error_Destroy_Args)),
    ("_handler_register", c_void_p),
    ("XLA_FFI_Stream_Get", _function(XLA_FFI_Stream_Get_Args)),
    ("_others", c_void_p * 4),
    ("XLA_FFI_DeviceMemory_Allocate", _function(XLA_FFI_DeviceMemory_Allocate_Args)),
    ("XLA_FFI_DeviceMemory_Free", _function(XLA_FFI_DeviceMemory_Free_Args)),
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
DTYPES: dict[int, np.dtype[Any]] = {11: np.dtype(np.float32), 12: np.dtype(np.float64)}
EXTENSION_METADATA, ERROR_INTERNAL = 1, 13
READ, WRITE = 0x100, 0x200
_memory = ctypes.pythonapi.PyMemoryView_FromMemory
_memory.restype, _memory.argtypes = ctypes.py_object, (c_void_p, ctypes.c_ssize_t, c_int)


def _describe(address: int) -> bool:
    """Answers XLA's question, put at registration, for which version of the interface this handler is."""
    while address:
        base = XLA_FFI_Extension_Base.from_address(address)
        if base.type == EXTENSION_METADATA:
            metadata = XLA_FFI_Metadata_Extension.from_address(address).metadata.contents
            metadata.api_version.major_version, metadata.api_version.minor_version = API_VERSION
            metadata.traits = 0
            return True
        address = base.next
    return False


_WORDS = [c_int64 * n for n in range(64)]
"""Arrays of 8-byte words: reading many at once is several times faster than field by field."""


def _words(address: int, count: int) -> list[int]:
    return _WORDS[count].from_address(address)[:] if count else []


def _word(struct: Any, *fields: str) -> int:
    """At which word of a struct a field lies."""
    offset = 0
    for name in fields:
        offset += getattr(struct, name).offset
        struct = dict(struct._fields_)[name]
    return offset // ctypes.sizeof(c_int64)


FRAME = ctypes.sizeof(XLA_FFI_CallFrame) // ctypes.sizeof(c_int64)
EXTENSION = _word(XLA_FFI_CallFrame, "extension_start")
N_ARGS, ARGS = _word(XLA_FFI_CallFrame, "args", "size"), _word(XLA_FFI_CallFrame, "args", "args")
N_RETS, RETS = _word(XLA_FFI_CallFrame, "rets", "size"), _word(XLA_FFI_CallFrame, "rets", "rets")
ATTRS = _word(XLA_FFI_CallFrame, "attrs", "attrs")
DTYPE_MASK = 0xFFFFFFFF
"""An enumeration fills half a word."""


def _buffer(address: int) -> tuple[int, np.dtype[Any], list[int], int]:
    """Address, dtype, shape and size in bytes of an XLA_FFI_Buffer."""
    _, _, dtype, data, rank, dims = _WORDS[6].from_address(address)[:]
    shape = _words(dims, rank)
    kind = DTYPES[dtype & DTYPE_MASK]
    return data, kind, shape, kind.itemsize * math.prod(shape)


def _numpy(address: int, access: int) -> np.ndarray[Any, Any]:
    """A buffer in host memory as a NumPy array: no copy."""
    data, dtype, shape, size = _buffer(address)
    return np.ndarray(shape, dtype, _memory(data, size, access) if size else None)


def _call(frame: list[int]) -> tuple[str, Options, list[int], list[int]]:
    """The operator, its static part, and the addresses of operands and results, from the words of a call frame."""
    (span,) = _words(frame[ATTRS], 1)
    text, length = _words(span, 2)
    operands, results = _words(frame[ARGS], frame[N_ARGS]), _words(frame[RETS], frame[N_RETS])
    return *Options.decode(ctypes.string_at(text, length)), operands, results


def _execute_on_host(frame: list[int]) -> None:
    operator, static, addresses, results = _call(frame)
    operands = [_numpy(x, READ) for x in addresses]
    i = STEP_SIZES[operator]
    steps = operands[i]
    if not steps.all():
        # An error of one device would leave the others waiting for it: a system with a step of zero comes back as NaN,
        # like one without a unique solution.
        operands[i] = np.where(steps == 0, np.nan, steps)
    for to, x in zip(results, OPERATORS[operator](static, operands), strict=True):
        _numpy(to, WRITE)[...] = x


def _api(frame: list[int]) -> tuple[Any, int]:
    """XLA's functions, and the context of this call that they take."""
    return XLA_FFI_Api.from_address(frame[_word(XLA_FFI_CallFrame, "api")]), frame[_word(XLA_FFI_CallFrame, "ctx")]


def _stream(frame: list[int]) -> int:
    """The address of the stream that XLA works on."""
    api, context = _api(frame)
    stream = XLA_FFI_Stream_Get_Args(ctypes.sizeof(XLA_FFI_Stream_Get_Args), None, context, None)
    if api.XLA_FFI_Stream_Get(stream):
        raise RuntimeError("XLA gave no stream.")
    return stream.stream or 0


ALIGNMENT = 16
"""Of scratch memory: the most that XLA grants (`kMaxAlignment` of its FFI), and twice what kernels need."""


@cache
def _scratch_memory(unowned: type) -> type:
    """A class of CuPy's memory that goes back to where it came from when its last array is gone."""
    return type("ScratchMemory", (unowned,), {"__del__": lambda memory: memory.free()})


class _Memory:
    """Memory of XLA for CuPy's arrays, while a call lasts: XLA has reserved most of a device's.

    Arrays that are made to be returned get the memory of results of their size.
    """

    def __init__(self, frame: list[int], cupy: Any, device: int, results: list[Array]) -> None:
        self.api, self.context = _api(frame)
        self.cuda, self.device, self.is_open = cupy.cuda, device, True
        self.results = list(results)
        self.otherwise = cupy.get_default_memory_pool().malloc
        self.kind = _scratch_memory(cupy.cuda.UnownedMemory)

    def allocate(self, size: int) -> Any:
        """`cupy.cuda.MemoryPointer`; of CuPy's pool where XLA gives none."""
        itemsize = itemsize_of_results()
        for i, x in enumerate(self.results):  # (those of one size are made in this order)
            if (x.itemsize, x.nbytes) == (itemsize, size):
                return self.results.pop(i).data
        given = XLA_FFI_DeviceMemory_Allocate_Args(
            ctypes.sizeof(XLA_FFI_DeviceMemory_Allocate_Args), None, self.context, size, ALIGNMENT, None
        )
        error = self.api.XLA_FFI_DeviceMemory_Allocate(given) if size else None
        if error:
            self.api.XLA_FFI_Error_Destroy(
                XLA_FFI_Error_Destroy_Args(ctypes.sizeof(XLA_FFI_Error_Destroy_Args), None, error)
            )
        if error or not given.data:
            return self.otherwise(size)
        memory = self.kind(given.data, size, None, self.device)
        memory.free = lambda: self.free(size, given.data)
        return self.cuda.MemoryPointer(memory, 0)

    def free(self, size: int, data: int) -> None:
        if self.is_open:  # XLA knows the context during the call alone; an error may keep memory for longer
            self.api.XLA_FFI_DeviceMemory_Free(
                XLA_FFI_DeviceMemory_Free_Args(
                    ctypes.sizeof(XLA_FFI_DeviceMemory_Free_Args), None, self.context, size, data
                )
            )


def _execute_on_cuda(frame: list[int]) -> None:
    """As `_execute_on_host`, with CuPy arrays on the stream and in memory of XLA."""
    import cupy

    def as_cupy(address: int) -> Array:
        data, dtype, shape, size = _buffer(address)
        if size == 0:
            return cupy.empty(shape, dtype)
        return cupy.ndarray(shape, dtype, cupy.cuda.MemoryPointer(cupy.cuda.UnownedMemory(data, size, frame), 0))

    operator, static, operands, results = _call(frame)
    device = cupy.cuda.runtime.pointerGetAttributes(_buffer(results[0])[0]).device
    outputs = [as_cupy(x) for x in results]
    memory = _Memory(frame, cupy, device, outputs)
    try:
        with on_stream(device, _stream(frame), memory.allocate):
            _deliver(OPERATORS[operator](static, [as_cupy(x) for x in operands]), outputs)
    finally:
        memory.is_open = False


def _deliver(found: list[Array], outputs: list[Array]) -> int:
    """Copies results to where they are to go, unless they are there; how many."""
    places = [to.data.mem for to in outputs]
    is_there = [(x.data.ptr, x.strides) == (to.data.ptr, to.strides) for x, to in zip(found, outputs, strict=True)]
    # (what lies in the place of another result is saved before that is overwritten)
    found = [x if there or x.data.mem not in places else x.copy() for x, there in zip(found, is_there, strict=True)]
    for x, to, there in zip(found, outputs, is_there, strict=True):
        if not there:
            to[...] = x
    return is_there.count(False)


def _handler(execute: Any) -> Any:
    """The C function that XLA calls: NULL for success, else an error that XLA owns and raises."""

    def handler(address: int) -> int | None:
        frame = _words(address, FRAME)
        try:
            if not (frame[EXTENSION] and _describe(frame[EXTENSION])):
                with _CALLS:
                    execute(frame)
        except BaseException as error:  # an exception cannot cross into C
            message = f"smnn: {type(error).__name__}: {error}".encode()
            args = XLA_FFI_Error_Create_Args(ctypes.sizeof(XLA_FFI_Error_Create_Args), None, message, ERROR_INTERNAL)
            return XLA_FFI_CallFrame.from_address(address).api.contents.XLA_FFI_Error_Create(args)
        return None

    return ctypes.CFUNCTYPE(c_void_p, c_void_p)(handler)


# XLA keeps the address of a handler for good: so must we keep the handler
_HANDLERS = {"cpu": _handler(_execute_on_host), "CUDA": _handler(_execute_on_cuda)}


PATIENCE = 1.0
"""Seconds that the end of the interpreter waits for calls whose results nobody has, while new ones keep starting."""


class _Calls:
    """How many calls have started and are running, on any thread, until no more may start: see `_drain`."""

    def __init__(self) -> None:
        self.lock = Lock()
        self.started = self.running = 0
        self.are_over = False

    def __enter__(self) -> None:
        with self.lock:
            if not self.are_over:
                self.started += 1
                self.running += 1
                return
        Event().wait()  # for ever: the process ends under it

    def __exit__(self, *error: object) -> None:
        with self.lock:
            self.running -= 1

    def end(self) -> None:
        """No call starts from here on."""
        with self.lock:
            self.are_over = True


_CALLS = _Calls()


def _drain() -> None:
    """Before the interpreter ends: XLA runs asynchronously, and a handler cannot start once there is no interpreter:
    its thread would hang or crash (https://github.com/python/cpython/pull/28525,
    https://github.com/python/cpython/issues/124619).

    What still has a result or an effect is waited for; of what has none, such as a gradient that nobody kept, only its
    calls show. A daemon thread may go on calling for ever: its calls stop after a while.
    """
    jax.block_until_ready(jax.live_arrays())
    jax.effects_barrier()
    seen, end = None, time.monotonic() + PATIENCE
    while (_CALLS.running or _CALLS.started != seen) and time.monotonic() < end:
        seen = _CALLS.started
        time.sleep(0.02)
    _CALLS.end()
    while _CALLS.running:
        time.sleep(0.001)


def register() -> None:
    """Makes the handlers known to XLA; once, before any program that calls them is compiled or loaded."""
    atexit.register(_drain)
    for platform, handler in _HANDLERS.items():
        jax.ffi.register_ffi_target(TARGET, jax.ffi.pycapsule(handler), platform=platform)


@cache
def available(platform: str) -> bool:
    """True if the operators run as custom calls on a platform of JAX."""
    if platform == "cpu":
        return True
    if platform not in ("gpu", "cuda"):
        return False
    try:
        import cupy
    except ImportError:
        return False
    return bool(cupy.cuda.is_available())
