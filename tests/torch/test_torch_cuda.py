"""The way of CUDA tensors to CuPy, as far as it goes without a device."""

from __future__ import annotations

import importlib.util

import pytest
import torch

from smnn_torch import _cuda


def test_cpu_tensors_need_no_cupy() -> None:
    before = _cuda.cupy.cache_info()
    assert not _cuda.serves([torch.zeros(3), torch.zeros(2)])
    assert _cuda.cupy.cache_info() == before


@pytest.mark.skipif(importlib.util.find_spec("cupy") is not None, reason="CuPy is installed here")
def test_without_cupy_a_warning_says_what_to_install_once() -> None:
    _cuda.cupy.cache_clear()
    with pytest.warns(RuntimeWarning, match="solved by the array API engine.*install smnn"):
        assert _cuda.cupy() is None
    assert _cuda.cupy() is None
