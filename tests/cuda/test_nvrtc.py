"""Every kernel compiles for devices, and keeps to the registers and the memory that are allowed to it."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from _nvrtc import ARCHITECTURES, LIMITS, MODULES, PACKAGES, compile_, path, report

from smnn_core.engines._cuda.source import kernels


def needs_nvrtc(major: int) -> pytest.MarkDecorator:
    reason = f"NVRTC of CUDA {major} is not installed (the wheel {PACKAGES[major][1]})"
    return pytest.mark.skipif(path(major) is None, reason=reason)


IN_EVERY_RUN = "float64-V1K3Q1"
"""A module of threads; those of teams and larger sizes take minutes."""


@needs_nvrtc(12)
@pytest.mark.parametrize(
    ("module", "architecture"),
    [
        pytest.param(module, a, marks=[] if str(module) == IN_EVERY_RUN and a == "sm_90" else pytest.mark.slow)
        for module in MODULES
        for a in (ARCHITECTURES if module is MODULES[0] else ARCHITECTURES[-1:])
    ],
    ids=str,
)
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


@pytest.mark.slow
@needs_nvrtc(13)
@pytest.mark.parametrize("module", [module for module in MODULES if "extra" in str(module)], ids=str)
def test_kernels_compile_for_cuda_13(module) -> None:
    """Its compiler refuses more: constants that float32 cannot hold, for one."""
    cubin, _ = compile_(module.source, ARCHITECTURES[-1], 13)
    assert cubin[:4] == b"\x7fELF"


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("cupy") is None, reason="CuPy is not installed")
def test_kernels_compile_by_cupy() -> None:
    """With the options that CuPy adds itself."""
    tool = Path(__file__).parents[2] / "tools" / "nvrtc_check.py"
    done = subprocess.run(
        [sys.executable, str(tool), "--here", "--modules", "one", "--architectures", ARCHITECTURES[-1]],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@needs_nvrtc(12)
def test_what_does_not_compile_is_an_error() -> None:
    with pytest.raises(RuntimeError, match=r"host and device lay out points differently"):
        compile_(MODULES[0].source.replace("MAX_AXES = 6", "MAX_AXES = 5"), ARCHITECTURES[0])


def test_the_source_includes_nothing_of_this_project() -> None:
    assert '#include "' not in kernels()
    assert kernels().isascii()
    assert "#pragma once" not in kernels()


def test_extras_bring_the_headers_of_cuda() -> None:
    """Without [ctk], which CuPy 13 does not have, it finds none at run time where no toolkit is installed."""
    with Path(__file__).parents[2].joinpath("pyproject.toml").open("rb") as file:
        extras = tomllib.load(file)["project"]["optional-dependencies"]
    for extra in ("cuda12", "cuda13"):
        assert all("[ctk]>=14" in requirement for requirement in extras[extra] if "cupy" in requirement)
