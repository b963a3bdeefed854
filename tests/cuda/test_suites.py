"""Tests of the core and of the adapters with the CUDA engine in them, on the emulated grid.

Here those that take few modules; all of them: `tools/emulated_cuda.sh`, minutes, most of it the compiler's.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from _emulator import COMPILER

ROOT = Path(__file__).parents[2]
needs_compiler = pytest.mark.skipif(not shutil.which(COMPILER), reason="no C++ compiler")


def run(plugin: str, *arguments: str) -> None:
    paths = [str(path) for path in (ROOT, ROOT / "adapters", ROOT / "tests" / "cuda")]
    environment = os.environ | {"SMNN_REQUIRE_CUPY": "1", "PYTHONPATH": os.pathsep.join(paths)}
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", plugin, "-p", "no:cacheprovider", *arguments]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]


@pytest.mark.slow
@needs_compiler
def test_core() -> None:
    slow = "dense or direct_call or normal_matrix"  # problems of random sizes, each a module
    run("_plugin_cupy", "tests/core", "-k", f"cupy and not ({slow})")


@needs_compiler
def test_laws_of_engines() -> None:
    run("_plugin_cupy", "tests/engines/test_laws.py", "-k", "cuda")


@pytest.mark.slow
@needs_compiler
def test_torch() -> None:
    run("_plugin_torch", "tests/torch/test_torch_device.py", "-k", "not compiled and not options")


@needs_compiler
def test_jax() -> None:
    run("_plugin_jax", "tests/jax/test_transforms.py", "-k", "is_a_loop or checkpoint")
