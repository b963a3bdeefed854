"""The kernels without Python (tests/kernels), as `make sanitize` runs them, here without sanitizers."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
COMPILER = os.environ.get("CXX", "c++")

pytestmark = pytest.mark.skipif(shutil.which(COMPILER) is None, reason="no C++ compiler")


def test_the_tests_of_the_kernels_fit_their_interface() -> None:
    flags = ("-std=c++17", "-fsyntax-only", "-Wall", "-Wextra", "-Werror", "-Wno-psabi")
    compiled = subprocess.run(
        [COMPILER, *flags, "tests/kernels/test_kernels.cpp"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert compiled.returncode == 0, compiled.stderr


@pytest.mark.slow
def test_the_kernels_solve_differentiate_and_find_moments() -> None:
    subprocess.run(["tools/kernel_tests.sh", "plain", "-O1"], cwd=ROOT, check=True)
    # (threads of a divided system are those of the standard library, as many as it says)
    tested = subprocess.run(
        ["build/plain/test_kernels"],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "4"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert tested.returncode == 0, tested.stdout + tested.stderr
