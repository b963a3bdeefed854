"""CPU tensors that pass for CUDA tensors, as far as the PyTorch adapter looks, with the CuPy of `_fake_cupy`."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch

from smnn_torch import _bridge, _cuda


class Streams:
    """PyTorch's current stream, by its address."""

    current = 0


def pretend(patch: Any) -> None:
    """Until the patch (a `pytest.MonkeyPatch`) is undone."""
    _cuda.cupy.cache_clear()
    _cuda._allocator.cache_clear()
    cpu = torch.device("cpu")
    allocator = _cuda._allocator
    patch.setattr(_cuda, "is_cuda", lambda x: True)
    patch.setattr(_cuda, "index_of", lambda x: 0)
    patch.setattr(_cuda, "_allocator", lambda device: allocator(cpu))
    patch.setattr(torch.cuda, "current_stream", lambda device: SimpleNamespace(cuda_stream=Streams.current))
    patch.setattr(_bridge, "_on_cpu", lambda given: None)
    patch.setattr(_bridge, "solution_on_cpu", lambda *given: None)
    Streams.current = 0
