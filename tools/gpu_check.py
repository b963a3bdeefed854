"""`python tools/gpu_check.py FOLDER`: everything there is to check on a machine with an NVIDIA GPU, in one go.

In an order that gives the most for the time there is: each library and the posterior on the device against NumPy,
compute-sanitizer, captured graphs and two streams, the benchmarks against the published algorithm in PyTorch under CUDA
graphs, the time of variances beside that of solutions, and then the test suites. Writes report.md and results.json to
FOLDER after every step. Nothing is installed: Python finds the project through PYTHONPATH, pure Python packages that
the machine lacks in build/gpu (`make gpu-pack`, beforehand), and what is not there (PyTorch, JAX, compute-sanitizer) is
left out and said so.
"""

from __future__ import annotations

import argparse
import importlib
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from gpu_bench import DTYPES, FIRST_LAUNCH, POSTERIORS, Clock, benchmark, cases
from gpu_report import Results, Row, report, write

ROOT = Path(__file__).resolve().parents[1]
PACKED = ROOT / "build" / "gpu"
LIBRARIES = ("numpy", "cupy", "torch", "jax", "array_api_compat")
BENCHMARKS = 0.4
"""Their share of the time."""


class Step(NamedTuple):
    """A command that is run."""

    command: list[str]
    limit: float
    """seconds, at most"""
    environment: dict[str, str] = {}  # noqa: RUF012  (a NamedTuple's default, which nobody changes)


def environment() -> dict[str, str]:
    """For processes that must find the project, and fail where they find no device."""
    paths = [str(ROOT), str(ROOT / "adapters"), os.environ.get("PYTHONPATH", ""), str(PACKED) * PACKED.exists()]
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "SMNN_REQUIRE_CUPY": "1"}


def steps() -> tuple[dict[str, Step], dict[str, Step]]:
    """Commands before the benchmarks, and after them."""

    def check(name: str) -> list[str]:
        return [sys.executable, str(ROOT / "tools" / "gpu_device.py"), name]

    def sanitizer(tool: str) -> list[str]:
        return ["compute-sanitizer", "--tool", tool, "--error-exitcode", "1", *check("small")]

    def tests(*arguments: str) -> list[str]:
        options = "-q", "-p", "no:cacheprovider", "-o", "addopts=--import-mode=importlib"
        return [sys.executable, "-m", "pytest", *options, *arguments]

    first = {f"{library} on the device against NumPy": Step(check(library), 75) for library in ("cupy", "torch", "jax")}
    first |= {
        "the posterior on the device against NumPy": Step(check("posterior"), 120 + FIRST_LAUNCH),
        "compute-sanitizer, memcheck": Step(sanitizer("memcheck"), 60),
        "a captured solve, replayed": Step(check("capture"), 45),
        "two streams": Step(check("streams"), 45),
    }
    virtual = {"JAX_PLATFORMS": "cpu"}  # the devices that these tests divide work over are virtual ones of the CPU
    last = {
        "tests, PyTorch on the device": Step(tests("tests/torch/test_torch_device.py"), 120),
        "tests, CuPy": Step(tests("tests/core", "-k", "cupy"), 120),
        "compute-sanitizer, racecheck": Step(sanitizer("racecheck"), 60),
        "compute-sanitizer, initcheck": Step(sanitizer("initcheck"), 60),
        "tests, JAX on the device": Step(tests("tests/jax/test_solve.py", "tests/jax/test_transforms.py"), 120),
        "tests, JAX on virtual devices": Step(tests("tests/jax/test_sharding.py"), 60, virtual),
    }
    return first, last


def run_step(name: str, step: Step, left: float) -> Row:
    """One row of `Results.tests`: the last line that the command printed."""
    if shutil.which(step.command[0]) is None:
        return {"name": name, "passed": None, "detail": f"{step.command[0]} is not installed"}
    if left < 5:
        return {"name": name, "passed": None, "detail": "no time left"}
    seconds = min(step.limit, left)
    try:
        done = subprocess.run(
            step.command,
            cwd=ROOT,
            env=environment() | step.environment,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return {"name": name, "passed": False, "detail": f"not done after {seconds:.0f} s"}
    lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    detail = lines[-1] if lines else f"exit {done.returncode}"
    missing = done.returncode != 0 and detail.startswith("ModuleNotFoundError")
    return {"name": name, "passed": None if missing else done.returncode == 0, "detail": detail}


def machine() -> dict[str, str]:
    """Card, driver and versions."""
    result = {"python": platform.python_version(), "platform": platform.platform()}
    query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    if shutil.which(query[0]):
        result["card, driver, memory"] = subprocess.run(
            query, capture_output=True, text=True, check=False
        ).stdout.strip()
    for name in LIBRARIES:
        try:
            result[name] = importlib.import_module(name).__version__
        except ImportError:
            result[name] = "not installed"
    return result


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Checks this project on a GPU; see the top of this file.")
    parser.add_argument("folder", type=Path, nargs="?", help="where report.md and results.json go")
    parser.add_argument("--minutes", type=float, default=8.0, help="time for everything (default: 8)")
    parser.add_argument("--dry-run", action="store_true", help="print what would be run")
    given = parser.parse_args(arguments)
    sys.path[:0] = [str(ROOT), str(ROOT / "adapters")]
    sys.path.append(str(PACKED))
    first, last = steps()
    if given.dry_run:
        for name, step in (first | last).items():
            print(f"{name}: {' '.join(step.command)} (at most {step.limit:.0f} s)")
        print(f"benchmarks: {', '.join(case.name for case in cases())} in {' and '.join(DTYPES)}")
        print(f"            variances of {', '.join(f'{batch} x {T}, n = {V * K}' for batch, T, V, K in POSTERIORS)}")
        return 0
    if given.folder is None:
        parser.error("a folder for the report is needed")
    seconds = 60 * given.minutes
    clock, results = Clock(seconds), Results(machine=machine())

    def run(chosen: dict[str, Step]) -> None:
        for name, step in chosen.items():
            results.tests.append(run_step(name, step, clock.left))
            write(results, given.folder)

    run(first)
    try:
        time_for_them = min(max(clock.left - 30, 0), BENCHMARKS * seconds)
        benchmark(results, Clock(time_for_them), lambda: write(results, given.folder))
    except Exception as error:  # (what was found until then is worth reporting)
        results.tests.append({"name": "benchmarks", "passed": False, "detail": f"{type(error).__name__}: {error}"})
    run(last)
    write(results, given.folder)
    print(report(results))
    return int(any(row["passed"] is False for row in results.tests))


if __name__ == "__main__":
    sys.exit(main())
