"""Every kernel compiles for devices, and keeps to the registers and the memory that are allowed to it."""

from __future__ import annotations

import json

import pytest
from _nvrtc import ARCHITECTURES, LIMITS, MODULES, compile_, path, report

from smnn_core.engines._cuda.source import kernels

pytestmark = pytest.mark.skipif(path() is None, reason="NVRTC is not installed (the wheel nvidia-cuda-nvrtc-cu12)")


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("module", MODULES, ids=str)
def test_kernels_keep_to_their_limits(module, architecture) -> None:
    limits = json.loads(LIMITS.read_text())[str(module)]
    found = report(module, architecture)
    assert set(found) == set(limits)
    over = [
        f"{kernel} needs {need[name]} {name}, allowed are {limit[name]}"
        for kernel, limit in limits.items()
        for need in [found[kernel]]
        for name in limit
        if need[name] > limit[name]
    ]
    assert not over, "; ".join(over)


def test_what_does_not_compile_is_an_error() -> None:
    with pytest.raises(RuntimeError, match=r"host and device lay out points differently"):
        compile_(MODULES[0].source.replace("MAX_AXES = 6", "MAX_AXES = 5"), ARCHITECTURES[0])


def test_the_source_includes_nothing_of_this_project() -> None:
    assert '#include "' not in kernels()
    assert "#pragma once" not in kernels()
