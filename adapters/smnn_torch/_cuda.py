"""CUDA tensors as CuPy arrays on the same memory, CuPy's work on PyTorch's stream and its memory from PyTorch.

All of it, the views as well, happens inside `current`. Without CuPy the array API engine takes the tensors themselves,
and says so once.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager
from functools import cache
from typing import Any

import torch
from torch import Tensor

from smnn_core.extend import on_stream

__all__ = ["FLOATS", "current", "serves", "tensor", "view"]


FLOATS = (torch.float32, torch.float64)
"""The dtypes of compiled engines."""


def serves(given: Sequence[Any]) -> bool:
    """True if these are tensors of one dtype on one CUDA device, and there is CuPy."""
    first = given[0]
    same = all(x.device == first.device and x.dtype == first.dtype for x in given if isinstance(x, Tensor))
    return is_cuda(first) and first.dtype in FLOATS and same and cupy() is not None


def is_cuda(x: Tensor) -> bool:
    return x.is_cuda


def index_of(x: Tensor) -> int:
    """Of its device."""
    return int(x.device.index)


@cache
def cupy() -> Any:
    """CuPy, or None where it is not installed."""
    try:
        return importlib.import_module("cupy")
    except ImportError as error:
        warnings.warn(
            f"CUDA tensors are solved by the array API engine, since CuPy cannot be imported ({error}): "
            "install smnn[cuda12] or smnn[cuda13] for the compiled kernels.",
            RuntimeWarning,
            stacklevel=2,
        )
        return None


def current(device: int) -> AbstractContextManager[None]:
    """CuPy works on PyTorch's current stream of a device, in tensors."""
    return on_stream(device, torch.cuda.current_stream(device).cuda_stream, _allocator(torch.device("cuda", device)))


@cache
def _allocator(device: torch.device) -> Any:
    """Of CuPy's memory: each piece is a tensor. So results are what PyTorch has allocated, for its streams
    (`Tensor.record_stream`) and CUDA graphs as well."""
    cuda = cupy().cuda
    kind = type("TensorMemory", (cuda.UnownedMemory,), {})

    def allocate(size: int) -> Any:
        tensor = torch.empty(-(-size // ITEM) * ITEM, dtype=torch.uint8, device=device)
        memory = kind(tensor.data_ptr(), size, tensor, device.index or 0)
        memory.tensor = tensor
        return cuda.MemoryPointer(memory, 0)

    return allocate


ITEM = 8
"""Memory has whole numbers of the largest dtype."""


def view(x: Any) -> Any:
    """A CUDA tensor as a CuPy array on the same memory, without its graph; anything else as it is."""
    return cupy().from_dlpack(x.detach().resolve_neg()) if isinstance(x, Tensor) else x


def tensor(x: Any) -> Tensor:
    """A CuPy array as a tensor on the same memory; made inside `current`, on storage of PyTorch's own."""
    memory: Tensor | None = getattr(x.data.mem, "tensor", None)
    if memory is None:  # a view of a tensor
        return torch.from_dlpack(x)
    storage, itemsize = memory.untyped_storage(), x.itemsize
    offset = (x.data.ptr - storage.data_ptr()) // itemsize if x.size else 0
    strides = [stride // itemsize for stride in x.strides]
    # not a view of `memory`: autograd would forbid that it is changed in place
    result = torch.empty(0, dtype=getattr(torch, x.dtype.name), device=memory.device)
    return result.set_(storage, offset, tuple(x.shape), strides)
