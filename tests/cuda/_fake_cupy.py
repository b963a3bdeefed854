"""A CuPy whose device is the CPU: arrays in guarded memory, kernels on the emulated grid, streams that keep a record.

It is for what CuPy leaves to its users: which stream work goes to, where memory comes from and how long it lives, what
may not happen while a CUDA graph is captured. As CuPy does, it refuses to mix with NumPy's arrays.
"""

from __future__ import annotations

import ctypes
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
from _emulator import check_addresses, library, raise_if
from _fake_memory import MemoryPointer, UnownedMemory, live, pool, reachable, using_allocator
from _fake_streams import NULL, STREAMS, Stream, current, external_stream, from_external, pending, record, thread

from smnn_core import _cupy
from smnn_core.engines import cuda as engine
from smnn_core.engines._cuda.device import compiled
from smnn_core.engines._cuda.grain import Grain
from smnn_core.engines._cuda.source import Specialization, part_of

# Arrays ---------------------------------------------------------------------------------------------------------------


class Device:
    """`cupy.cuda.Device`."""

    attributes = {"MultiProcessorCount": 4, "SingleToDoublePrecisionPerfRatio": 2}  # noqa: RUF012
    compute_capability = "90"

    def __init__(self, index: Any = None) -> None:
        self.id = 0 if index is None else int(index)

    def __int__(self) -> int:
        return self.id

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Device) and other.id == self.id

    def __hash__(self) -> int:
        return self.id

    def __enter__(self) -> Device:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def synchronize(self) -> None:
        record.host("synchronize")


def _bare(x: Any) -> Any:
    """The NumPy arrays of CuPy's, in whatever holds them."""
    if isinstance(x, ndarray):
        return x.host
    if isinstance(x, np.ndarray) and x.ndim:
        raise TypeError("Unsupported type <class 'numpy.ndarray'>")
    if isinstance(x, (list, tuple)):
        values = [_bare(y) for y in x]
        return type(x)(*values) if hasattr(x, "_fields") else type(x)(values)
    if isinstance(x, dict):
        return {k: _bare(y) for k, y in x.items()}
    return x


def _arrays_in(x: Any) -> Iterator[ndarray]:
    if isinstance(x, ndarray):
        yield x
    elif isinstance(x, (list, tuple)):
        for y in x:
            yield from _arrays_in(y)
    elif isinstance(x, dict):
        yield from _arrays_in(list(x.values()))


def _item(x: np.ndarray, key: Any) -> Any:
    return x[key]


VIEWS = _item, np.reshape, np.broadcast_to
"""Calls that look at no numbers where they give a view."""


def _call(function: Callable[..., Any], args: Any, kwargs: Any, what: str = "kernel") -> Any:
    """A function of NumPy on CuPy's arrays: views stay views, all else is a kernel that writes to new memory."""
    given = list(_arrays_in((args, kwargs)))
    outputs = kwargs.get("out")

    def run() -> Any:
        return function(*_bare(args), **_bare(kwargs))

    if function not in VIEWS or not any(np.may_share_memory(run(), x.host) for x in given):
        pending.finish()
    result = run()
    if outputs is not None:
        record.add(what, run)
        return outputs[0] if isinstance(outputs, tuple) else outputs
    results = list(result) if isinstance(result, (tuple, list)) else [result]
    wrapped: list[Any] = []
    written: list[tuple[int, np.ndarray]] = []
    for i, x in enumerate(results):
        if not isinstance(x, (np.ndarray, np.generic)) or isinstance(x, (np.dtype, np.finfo)):
            wrapped.append(x)
            continue
        source = next((y for y in given if isinstance(x, np.ndarray) and np.may_share_memory(x, y.host)), None)
        wrapped.append(_new(np.asarray(x)) if source is None else ndarray._of(x, source.memory))
        if source is None:
            written.append((i, wrapped[-1].host))
    if written:

        def again() -> None:
            now = run()
            now = list(now) if isinstance(now, (tuple, list)) else [now]
            for i, place in written:
                place[...] = now[i]

        record.add(what, again)
    if isinstance(result, tuple) and hasattr(result, "_fields"):
        return type(result)(*wrapped)
    return type(result)(wrapped) if isinstance(result, (tuple, list)) else wrapped[0]


class ndarray(np.lib.mixins.NDArrayOperatorsMixin):
    """`cupy.ndarray`."""

    def __init__(
        self, shape: Any, dtype: Any = float, memptr: MemoryPointer | None = None, strides: Any = None
    ) -> None:
        dtype, shape = np.dtype(dtype), (shape,) if isinstance(shape, int) else tuple(shape)
        size = int(np.prod(shape)) * dtype.itemsize
        if memptr is None:
            memptr = alloc(size)
        self.memory, self.data = memptr.mem, memptr
        where = (ctypes.c_char * max(size, 1)).from_address(memptr.ptr) if size else bytearray(1)
        self.host = np.ndarray(shape, dtype, where, strides=strides)

    @classmethod
    def _of(cls, host: np.ndarray, memory: Any) -> ndarray:
        self = cls.__new__(cls)
        self.host, self.memory = host, memory
        self.data = MemoryPointer(memory, host.ctypes.data - memory.ptr)
        return self

    dtype = property(lambda self: self.host.dtype)
    shape = property(lambda self: self.host.shape)
    strides = property(lambda self: self.host.strides)

    @property
    def device(self) -> Device:
        return Device(0)

    @property
    def T(self) -> ndarray:
        return ndarray._of(self.host.T, self.memory)

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **kwargs: Any) -> Any:
        return _call(getattr(ufunc, method), inputs, kwargs)

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        return _call(function, args, kwargs)

    def __array__(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError("Implicit conversion to a NumPy array is not allowed. Please use `.get()`")

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name in ("host", "memory", "mT"):
            raise AttributeError(name)
        value = getattr(self.host, name)
        if name in ("item", "tolist"):
            record.host("read")
        if not callable(value):
            return value
        return lambda *args, **kwargs: _call(lambda x, *a, **k: getattr(x, name)(*a, **k), (self, *args), kwargs)

    def __getitem__(self, key: Any) -> ndarray:
        if any(x.dtype == bool for x in _arrays_in(key)):
            record.host("read")
        return _call(_item, (self, key), {})

    def __setitem__(self, key: Any, value: Any) -> None:
        def run() -> None:
            self.host[_bare(key)] = _bare(value)

        pending.finish()
        run()
        record.add("kernel", run)

    def __len__(self) -> int:
        return len(self.host)

    def __dlpack__(self, **options: Any) -> Any:
        pending.finish()
        return self.host.__dlpack__(**options)

    def __dlpack_device__(self) -> Any:
        return self.host.__dlpack_device__()

    def get(self) -> np.ndarray:
        record.host("read")
        return self.host.copy()

    def __bool__(self) -> bool:
        return bool(self.get())

    def __int__(self) -> int:
        return int(self.get())

    def __float__(self) -> float:
        return float(self.get())

    def __index__(self) -> int:
        return self.get().__index__()

    def __repr__(self) -> str:
        return f"cupy {self.host!r}"


def alloc(size: int) -> Any:
    """`cupy.cuda.alloc`."""
    memory = (thread.allocators or [pool])[-1](size)
    reachable.add(memory.mem)
    record.add("allocate")
    if current().graph is not None:
        current().graph.memory.append(memory.mem)
    return memory


def _new(x: np.ndarray) -> ndarray:
    result = ndarray(x.shape, x.dtype)
    result.host[...] = x
    return result


def asarray(x: Any, dtype: Any = None, copy: bool | None = None, **options: Any) -> ndarray:
    """`cupy.asarray`, and with `copy` `cupy.array`."""
    del options
    if isinstance(x, ndarray):
        same = dtype is None or np.dtype(dtype) == x.dtype
        return x if same and not copy else x.astype(dtype or x.dtype)
    if isinstance(x, (list, tuple)) and any(True for _ in _arrays_in(x)):
        return _call(lambda y: np.asarray(y, dtype), (x,), {})
    record.host("copy from the host")
    return _new(np.asarray(x, dtype))


def _filled(function: Callable[..., np.ndarray]) -> Callable[..., ndarray]:
    def make(*args: Any, **kwargs: Any) -> ndarray:
        result = _new(function(*_bare(args), **kwargs))
        x = result.host.copy()

        def again() -> None:
            result.host[...] = x

        record.add("fill", again)
        return result

    return make


def _from_dlpack(x: Any) -> ndarray:
    host = np.from_dlpack(x)
    memory = UnownedMemory(host.ctypes.data, host.nbytes, x, 0)
    reachable.add(memory)
    return ndarray._of(host, memory)


# Kernels --------------------------------------------------------------------------------------------------------------


grid_lock = threading.Lock()
"""The emulated grid has one block at a time."""


class RawModule:
    """`cupy.RawModule` of this project's kernels: the module is told from the macros of its source."""

    module: Specialization

    def __init__(self, *, code: str, options: tuple[str, ...], backend: str) -> None:
        assert (options, backend) == (("-std=c++17",), "nvrtc")
        head = code[: code.index("namespace")] if "namespace" in code else code
        lines = [line for line in head.splitlines() if line.startswith("#define SMNN_")]
        macros = dict(line.split(" ", 2)[1:] for line in reversed(lines))  # (the first counts)
        V, K, Q = (int(macros[f"SMNN_{name}"]) for name in ("V", "K", "Q"))
        extra, chunked = (int(macros[f"SMNN_{name}"]) for name in ("EXTRA", "CHUNKED"))
        dtype = {"double": "float64", "float": "float32"}[macros["SMNN_SCALAR"]]
        self.module = Specialization(dtype, V, K, Q, bool(extra), bool(chunked))
        self.part = int(macros["SMNN_PARTS"])
        assert self.module.source_of(self.part) == code

    def get_function(self, name: str) -> Callable[..., None]:
        assert part_of(name) == self.part

        def launch(grid: tuple[int], block: tuple[int], arguments: tuple[np.ndarray]) -> None:
            (job,) = arguments
            job = job.copy()  # by value
            check_addresses(self.module, name, job)

            def run() -> None:
                memory = job.ctypes.data_as(ctypes.c_void_p)
                with grid_lock:
                    raise_if(library(self.module).launch(name.encode(), *grid, *block, 0, memory), self.module, name)
                for piece in list(live):
                    piece.check()

            pending.memory += reachable  # (what is freed from now on may still be read)
            pending.add(run)
            record.add(f"launch {name}", run)

        return launch


# The module -----------------------------------------------------------------------------------------------------------


def make(version: int = 14) -> dict[str, ModuleType]:
    """The modules of a CuPy of that major version."""
    stream = type("Stream", (Stream,), {"null": NULL} | ({"from_external": from_external} if version >= 14 else {}))
    cuda = _module(
        "cupy.cuda",
        Device=Device,
        Stream=stream,
        ExternalStream=external_stream if version >= 14 else lambda pointer, device=-1: Stream(pointer),
        get_current_stream=current,
        using_allocator=using_allocator,
        alloc=alloc,
        MemoryPointer=MemoryPointer,
        UnownedMemory=UnownedMemory,
        MemoryPool=lambda: SimpleNamespace(malloc=pool),
        set_allocator=lambda allocate: None,
        is_available=lambda: True,
        runtime=SimpleNamespace(
            getDeviceCount=lambda: 1,
            getDeviceProperties=lambda index: {"name": b"emulated"},
            pointerGetAttributes=lambda pointer: SimpleNamespace(device=0),
            CUDARuntimeError=RuntimeError,
        ),
    )
    own: dict[str, Any] = dict(
        __version__=f"{version}.0.0",
        ndarray=ndarray,
        empty=ndarray,
        asarray=asarray,
        array=lambda x, dtype=None, copy=True, **options: asarray(x, dtype, copy),
        asnumpy=lambda x: x.get() if isinstance(x, ndarray) else np.asarray(x),
        from_dlpack=_from_dlpack,
        get_default_memory_pool=lambda: SimpleNamespace(malloc=pool),
        RawModule=RawModule,
        cuda=cuda,
        linalg=_module("cupy.linalg", **_public(np.linalg)),
        fft=_module("cupy.fft", **_public(np.fft)),
        **{name: _filled(getattr(np, name)) for name in ("zeros", "ones", "full", "eye", "arange", "linspace")},
    )
    cupy = _module("cupy", **_public(np) | own)
    device = _module("cupy.cuda.device", Device=Device)
    return {m.__name__: m for m in (cupy, cuda, device, cupy.linalg, cupy.fft)}


def _public(of: ModuleType) -> dict[str, Any]:
    return {name: getattr(of, name) for name in dir(of) if not name.startswith("_")}


def _module(name: str, **members: Any) -> ModuleType:
    module = ModuleType(name)
    module.__path__ = []  # type: ignore[attr-defined]
    vars(module).update(members)
    return module


FINE = Grain(lanes=1000, shortest=3, fewest=2, radix=2, last=2, gain=np.inf)
"""Divides whatever can be divided, into as many levels as possible."""


def install(version: int = 14) -> ModuleType:
    """Puts it in the place of CuPy, for this process, and makes the engine divide time finely."""
    sys.modules.update(make(version))
    made = engine._device.__wrapped__ if hasattr(engine._device, "__wrapped__") else engine._device
    engine._device = lru_cache(lambda index: replace(made(index), grain=FINE))
    return sys.modules["cupy"]


@contextmanager
def replaced(version: int = 14) -> Iterator[ModuleType]:
    """`install`, for a while."""
    others = {name: module for name, module in sys.modules.items() if _is_cupy(name)}
    device = engine._device
    caches = compiled, engine._capability
    for name in others:
        del sys.modules[name]
    try:
        record.events.clear()
        yield install(version)
    finally:
        engine._device = device
        pending.finish()
        for stream in STREAMS.values():
            stream.graph = None
        for cached in caches:
            cached.cache_clear()
        _cupy._constants.clear()
        _cupy._captured.clear()
        for name in [name for name in sys.modules if _is_cupy(name)]:
            del sys.modules[name]
        sys.modules.update(others)


def _is_cupy(name: str) -> bool:
    return name.split(".")[0] == "cupy" or name.startswith("array_api_compat.cupy")
