"""Programs of the pages that need a process of their own: several devices, or several processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def listing(path: str) -> str:
    """A program of the repository as a block of code."""
    return f'```python title="{path}"\n{(ROOT / path).read_text(encoding="utf-8").rstrip()}\n```'


def run(*command: str, **environment: str) -> str:
    """Runs `python ...` in the root of the repository; what it prints, to be printed by a block with `result="text"`.

    Raises:
        RuntimeError: with all it said, if it fails; the build fails with it.
    """
    paths = [str(ROOT), str(ROOT / "adapters"), *filter(None, [os.environ.get("PYTHONPATH")])]
    done = subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), **environment},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"python {' '.join(command)} failed:\n{done.stdout}{done.stderr}")
    return done.stdout


def run_on_device(*command: str) -> str:
    """`run`, where CuPy and a CUDA device are found; elsewhere a line that says it did not run."""
    found = subprocess.run(
        [sys.executable, "-c", "import cupy; cupy.cuda.runtime.getDeviceCount() or exit(1)"],
        capture_output=True,
        check=False,
    )
    if found.returncode:
        return "(not run: this page was built without CuPy or without a CUDA device)"
    return run(*command)
