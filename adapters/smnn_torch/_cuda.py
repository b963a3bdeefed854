"""CUDA tensors as CuPy arrays on the same memory, CuPy's work on PyTorch's stream and its memory from PyTorch.

Without CuPy the array API engine takes the tensors themselves, and says so once.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import Tensor

__all__ = ["FLOATS", "arrays", "current", "tensor", "view"]


FLOATS = (torch.float32, torch.float64)
"""What compiled engines compute in."""


def arrays(given: Sequence[Any]) -> list[Any] | None:
    """Tensors of one dtype and CUDA device as CuPy arrays; None where there are others, or no CuPy."""
    first = given[0]
    same = all(x.device == first.device and x.dtype == first.dtype for x in given if isinstance(x, Tensor))
    if first.is_cuda and first.dtype in FLOATS and same and cupy() is not None:
        return [view(x) for x in given]
    return None


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


@contextmanager
def current(device: int) -> Iterator[None]:
    """CuPy works on PyTorch's current stream of a device, in memory of PyTorch's allocator."""
    cuda = cupy().cuda
    stream = cuda.ExternalStream(torch.cuda.current_stream(device).cuda_stream, device)
    with cuda.Device(device), stream, cuda.using_allocator(_allocator().malloc):
        yield


@cache
def _allocator() -> Any:
    return cupy().cuda.PythonFunctionAllocator(_allocate, _free)


def _allocate(size: int, device: int) -> int:
    return int(torch.cuda.caching_allocator_alloc(size, device, torch.cuda.current_stream(device))) if size else 0


def _free(pointer: int, device: int) -> None:
    if pointer:
        torch.cuda.caching_allocator_delete(pointer)


def view(x: Any) -> Any:
    """A CUDA tensor as a CuPy array on the same memory, without its graph; anything else as it is."""
    if not isinstance(x, Tensor):
        return x
    with current(x.device.index):
        return cupy().from_dlpack(x.detach().resolve_neg())


def tensor(x: Any) -> Tensor:
    """A CuPy array as a tensor on the same memory."""
    with current(x.device.id):
        return torch.from_dlpack(x)
