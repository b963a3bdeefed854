"""The emulator finds what a device would hang on, or do wrong."""

from __future__ import annotations

import ctypes
import shutil
import subprocess

import pytest
from _emulator import COMPILER, FLAGS, HERE


@pytest.mark.skipif(not shutil.which(COMPILER), reason="no C++ compiler")
@pytest.mark.parametrize(
    ("waiting", "members", "wrong"),
    [(32, 0xFFFFFFFF, 0), (0, 0xFFFFFFFF, 0), (31, 0xFFFFFFFF, 2), (1, 0xFFFFFFFF, 2), (8, 0xFF, 0), (9, 0xFF, 3)],
)
def test_threads_that_wait_for_one_that_is_done(waiting, members, wrong, tmp_path) -> None:
    (tmp_path / "kernel.cpp").write_text(f"""
        #include <type_traits>
        #include "grid.hpp"
        __shared__ int used;
        void kernel(int) {{ if (int(threadIdx.x) < {waiting}) __syncwarp({members}u); used = 0; }}
        extern "C" int run() {{ int job = 0; return run_grid<int>(kernel, 1, 32, false, &job); }}
    """)
    made = tmp_path / "kernel.so"
    subprocess.run([COMPILER, *FLAGS, f"-I{HERE}", str(tmp_path / "kernel.cpp"), "-o", str(made)], check=True)
    assert ctypes.CDLL(str(made)).run() == wrong
