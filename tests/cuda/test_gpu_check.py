"""The parts of tools/gpu_check.py that need no GPU."""

from __future__ import annotations

import importlib
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from _emulator import COMPILER
from _fake_cupy import replaced

from smnn_core.engines import cuda
from smnn_core.engines._cuda.device import CupyDevice
from smnn_core.engines._cuda.grain import Grain

needs_compiler = pytest.mark.skipif(not shutil.which(COMPILER), reason="no C++ compiler")
TOOLS = Path(__file__).parents[2] / "tools"


@pytest.fixture(scope="module", autouse=True)
def tools():
    sys.path.insert(0, str(TOOLS))
    yield
    sys.path.remove(str(TOOLS))


@pytest.fixture(scope="module")
def gpu_check():
    return importlib.import_module("gpu_check")


@pytest.fixture(scope="module")
def gpu_bench():
    return importlib.import_module("gpu_bench")


@pytest.fixture(scope="module")
def gpu_device():
    return importlib.import_module("gpu_device")


def test_dry_run_names_every_step_in_its_order(gpu_check, capsys) -> None:
    assert gpu_check.main(["--dry-run"]) == 0
    printed = capsys.readouterr().out
    names = (
        "cupy on",
        "torch on",
        "jax on",
        "the posterior on",
        "memcheck",
        "a captured solve",
        "two streams",
        "tests, PyTorch",
        "tests, CuPy",
    )
    places = [printed.index(name) for name in names]
    assert places == sorted(places)
    for what in ("lorenz", "longest", "variances of 10000 x 1000, n = 3"):
        assert what in printed


def test_the_posterior_has_the_time_that_compilation_takes(gpu_check) -> None:
    assert gpu_check.steps()[0]["the posterior on the device against NumPy"].limit == 180


def test_steps_run_files_that_exist(gpu_check) -> None:
    first, last = gpu_check.steps()
    for step in (first | last).values():
        paths = [argument for argument in step.command if argument.startswith("tests/")]
        assert all((TOOLS.parent / path).exists() for path in paths)


@pytest.mark.parametrize("library", ["torch", "jax"])
def test_libraries_agree_with_numpy(gpu_device, library) -> None:
    """As on a device, on the CPU."""
    assert gpu_device.compare(library, "cpu") < gpu_device.AGREEMENT


@needs_compiler
@pytest.mark.parametrize("check", ["cupy", "posterior", "small", "capture", "streams"])
def test_checks_on_the_emulated_grid(gpu_device, monkeypatch, check) -> None:
    monkeypatch.setattr(gpu_device, "SIZES", (((5,), 20, 1, 3), ((2,), 31, 2, 3)))
    with replaced():
        assert gpu_device.main([check]) == 0


def test_a_folder_is_needed(gpu_check, capsys) -> None:
    with pytest.raises(SystemExit):
        gpu_check.main([])
    assert "a folder for the report is needed" in capsys.readouterr().err


def test_commands_that_fail_hang_or_are_missing_are_reported(gpu_check) -> None:
    def run(code: str, left: float = 30, limit: float = 60) -> dict:
        return gpu_check.run_step("x", gpu_check.Step([sys.executable, "-c", code], limit), left)

    assert run("print('3 passed')") == {"name": "x", "passed": True, "detail": "3 passed"}
    assert run("import sys; print('1 failed'); sys.exit(1)")["passed"] is False
    assert run("import time; time.sleep(60)", limit=1)["detail"] == "not done after 1 s"
    assert run("print('3 passed')", left=1) == {"name": "x", "passed": None, "detail": "no time left"}
    assert run("import no_such_module")["passed"] is None
    assert run("import os; print(os.environ['SMNN_REQUIRE_CUPY'])")["detail"] == "1"
    missing = gpu_check.run_step("x", gpu_check.Step(["no-such-command-here"], 1), 10)
    assert (missing["passed"], missing["detail"]) == (None, "no-such-command-here is not installed")


def test_report_holds_what_was_measured(tmp_path) -> None:
    gpu_report = importlib.import_module("gpu_report")
    results = gpu_report.Results(
        machine={"python": "3.12", "cupy": "14.2"},
        tests=[
            {"name": "tests, CuPy", "passed": True, "detail": "9 passed"},
            {"name": "tests, JAX", "passed": False, "detail": "1 failed"},
            {"name": "compute-sanitizer, memcheck", "passed": None, "detail": "not installed"},
        ],
        benchmarks=[
            {"case": "lorenz", "dtype": "float64", "seconds": 2e-3, "graph_seconds": 1e-3, "published_seconds": 5e-2,
             "bytes": 10**9, "io_bytes": 10**8, "note": ""},
            {"case": "longest", "dtype": "float64", "seconds": 4e-3, "graph_seconds": None, "published_seconds": None,
             "bytes": None, "io_bytes": None, "note": "no graph: reason"},
        ],
        posteriors=[{"case": "1 x 50, n = 3", "seconds": 3e-3, "solve_seconds": 1e-3, "first_seconds": 9.0}],
        chunks=[{"points": 16, "seconds": 1e-3, "graph_seconds": None}],
        copy_bandwidth={"float64": 2e12},
    )  # fmt: skip
    gpu_report.write(results, tmp_path / "new")
    assert json.loads((tmp_path / "new" / "results.json").read_text())["benchmarks"] == results.benchmarks
    text = (tmp_path / "new" / "report.md").read_text()
    assert "| lorenz | float64 | 2 | 1 | 50 | 50.0 | 5% | 50% |  |" in text
    assert "| longest | float64 | 4 |  |  |  |  |  | no graph: reason |" in text
    assert "| 1 x 50, n = 3 | 3 | 3.0 | 9.0 |" in text
    assert "| 16 | 1 |  |" in text
    assert "| tests, JAX | **failed** | 1 failed |" in text
    assert "| compute-sanitizer, memcheck | not run | not installed |" in text


def test_traffic_counts_every_array_as_often_as_it_is_moved(gpu_bench) -> None:
    assert gpu_bench.traffic(1, 0, 0, 0, 0) == 4  # read by two sweeps and the way back, gradients written
    assert gpu_bench.traffic(0, 1, 0, 0, 0) == 15  # z and w written and read, y and λ, g read twice, what is left of it
    assert gpu_bench.traffic(0, 0, 1, 0, 0) == 7  # written twice, read by two solves forth and three back
    assert gpu_bench.traffic(0, 0, 0, 1, 0) == 3  # written, read twice
    assert gpu_bench.traffic(0, 0, 0, 0, 1) == 2  # written, read


def test_the_other_layout_holds_the_same_numbers(gpu_bench) -> None:
    x = np.arange(24.0).reshape(4, 3, 2)
    y = gpu_bench.batch_last(x)
    np.testing.assert_array_equal(y, x)
    assert y.strides == (8, 64, 32)


def test_devices_are_others_for_a_while(gpu_bench, monkeypatch) -> None:
    device = CupyDevice(None, 0, np, Grain(lanes=1))
    monkeypatch.setattr(cuda, "_device", lambda index: device)
    with gpu_bench.changed(widens=False):
        assert not cuda._device(0).widens
    assert cuda._device(0).widens


@needs_compiler
def test_times_of_posteriors_and_chunks_on_the_emulated_grid(gpu_bench) -> None:
    with replaced():
        posterior = gpu_bench.measure_posterior(3, 8, 1, 3, gpu_bench.Clock(0))
        chunk = gpu_bench.measure_chunk(4, gpu_bench.Clock(0), T=20)
    assert posterior["case"] == "3 x 8, n = 3"
    assert posterior["seconds"] > 0
    assert posterior["first_seconds"] > 0
    assert chunk["points"] == 4
    assert chunk["graph_seconds"] > 0
