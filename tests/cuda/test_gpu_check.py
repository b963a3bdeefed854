"""The parts of tools/gpu_check.py that need no GPU."""

from __future__ import annotations

import importlib
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from smnn_core.engines import cuda
from smnn_core.engines._cuda import host

TOOLS = Path(__file__).parents[2] / "tools"


@pytest.fixture(scope="module")
def gpu_check():
    sys.path.insert(0, str(TOOLS))
    yield importlib.import_module("gpu_check")
    sys.path.remove(str(TOOLS))


def test_dry_run_names_every_step(gpu_check, capsys) -> None:
    assert gpu_check.main(["--dry-run"]) == 0
    printed = capsys.readouterr().out
    for what in (
        "tests, CuPy",
        "tests, PyTorch",
        "tests, JAX",
        "compute-sanitizer, memcheck",
        "lorenz",
        "longest, unstaged",
    ):
        assert what in printed


@pytest.mark.parametrize("library", ["torch", "jax"])
def test_libraries_agree_with_numpy(gpu_check, library) -> None:
    """As on a device, on the CPU."""
    assert gpu_check.compare(library, "cpu") < gpu_check.AGREEMENT


def test_a_folder_is_needed(gpu_check, capsys) -> None:
    with pytest.raises(SystemExit):
        gpu_check.main([])
    assert "a folder for the report is needed" in capsys.readouterr().err


def test_commands_that_fail_hang_or_are_missing_are_reported(gpu_check) -> None:
    def run(code: str, seconds: float = 30) -> dict:
        return gpu_check.run_command("x", [sys.executable, "-c", code], seconds)

    assert run("print('3 passed')") == {"name": "x", "passed": True, "detail": "3 passed"}
    assert run("import sys; print('1 failed'); sys.exit(1)")["passed"] is False
    assert run("import time; time.sleep(60)", 1)["detail"] == "not done after 1 s"
    missing = gpu_check.run_command("x", ["no-such-command-here"], 1)
    assert (missing["passed"], missing["detail"]) == (None, "no-such-command-here is not installed")


def test_report_holds_what_was_measured(gpu_check, tmp_path) -> None:
    results = gpu_check.Results(
        machine={"python": "3.12", "cupy": "14.2"},
        tests=[
            {"name": "tests, CuPy", "passed": True, "detail": "9 passed"},
            {"name": "tests, JAX", "passed": False, "detail": "1 failed"},
            {"name": "compute-sanitizer, memcheck", "passed": None, "detail": "not installed"},
        ],
        benchmarks=[
            {"case": "lorenz", "dtype": "float64", "seconds": 2e-3, "graph_seconds": 1e-3, "published_seconds": 5e-2,
             "bytes": 10**9, "note": ""},
            {"case": "longest", "dtype": "float64", "seconds": 4e-3, "graph_seconds": None, "published_seconds": None,
             "bytes": None, "note": "no graph: reason"},
        ],
        copy_bandwidth={"float64": 2e12},
    )  # fmt: skip
    gpu_check.write(results, tmp_path / "new")
    assert json.loads((tmp_path / "new" / "results.json").read_text())["benchmarks"] == results.benchmarks
    text = (tmp_path / "new" / "report.md").read_text()
    assert "| lorenz | float64 | 2 | 1 | 50 | 50.0 | 50% |  |" in text
    assert "| longest | float64 | 4 |  |  |  |  | no graph: reason |" in text
    assert "| tests, JAX | **failed** | 1 failed |" in text
    assert "| compute-sanitizer, memcheck | not run | not installed |" in text


def test_traffic_counts_every_array_as_often_as_it_is_moved(gpu_check) -> None:
    assert gpu_check.traffic(1, 0, 0, 0) == 3  # read twice, gradients written
    assert gpu_check.traffic(0, 1, 0, 0) == 3  # y written and read, g read
    assert gpu_check.traffic(0, 0, 1, 0) == 4  # written once, read three times
    assert gpu_check.traffic(0, 0, 0, 1) == 4  # z and w, each written and read


def test_the_other_layout_holds_the_same_numbers(gpu_check) -> None:
    x = np.arange(24.0).reshape(4, 3, 2)
    y = gpu_check.batch_last(x)
    np.testing.assert_array_equal(y, x)
    assert y.strides == (8, 64, 32)


def test_unstaged_cases_are_those_of_the_same_sizes(gpu_check) -> None:
    by_name = {case.name: case for case in gpu_check.cases()}
    for name in ("wide", "longest"):
        assert replace(by_name[name + gpu_check.UNSTAGED], name=name) == by_name[name]


def test_devices_are_unstaged_for_a_while(gpu_check, monkeypatch) -> None:
    device = cuda.CupyDevice(None, 0, np, host.Grain(lanes=1))
    monkeypatch.setattr(cuda, "_device", lambda index: device)
    with gpu_check.unstaged():
        assert not cuda._device(0).stage
    assert cuda._device(0).stage
