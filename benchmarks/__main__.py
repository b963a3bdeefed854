"""`python -m benchmarks`: speed and memory against the published solvers, scaling, and the peak of the machine.

Writes a table to the terminal, and the table, results.json and pictures to benchmarks/output (or, with --save, to
benchmarks/results, which is under version control and feeds the documentation). OMP_NUM_THREADS sets the threads.
"""

from __future__ import annotations

import argparse
import platform
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

import smnn_core as smnn

from . import memory, report, roofline, store
from .banded import banded_solve
from .cases import CASES, DTYPES, SOLVERS, Case, forward, forward_backward
from .scaling import flatness, points, scaling
from .timing import measure

Work = Callable[[], list[dict[str, Any]]]

HERE = Path(__file__).parent
DENSE_LIMIT = 6e9
"""Bytes that `mnn_dense` may take."""
SCALING_LIMIT = 20.0
"""Seconds that one solve may take for the sake of the scaling picture."""


def time_case(case: Case, dtype: str, mnn: bool) -> list[dict[str, Any]]:
    """Forward, and forward + backward, for every solver that fits."""
    inputs, g = case.inputs(dtype), case.cotangent(dtype)
    solvers = {
        name: solve
        for name, solve in SOLVERS.items()
        if not name.startswith("mnn") or (mnn and (name != "mnn_dense" or case.dense_bytes <= DENSE_LIMIT))
    }
    rows = []
    for what in ("forward", "forward + backward"):
        functions = {
            name: forward(solve, inputs) if what == "forward" else forward_backward(solve, inputs, g)
            for name, solve in solvers.items()
        }
        others = set(functions) - {report.OURS, report.BASELINE}
        for name, timing in measure(functions, fewer_if_slow=others).items():
            rows.append({"case": case.name, "dtype": dtype, "what": what, "solver": name, **asdict(timing)})
    return rows


def measure_memory(case: Case, dtype: str) -> list[dict[str, Any]]:
    """The library, as it comes and with as little memory as it can do with, and the published solver."""
    return [
        {"case": case.name, "dtype": dtype, "solver": name, "ratio": memory.peak_ratio(name, case, dtype)}
        for name in (report.OURS, memory.RECOMPUTE, report.BASELINE)
    ]


def measure_banded(case: Case, dtype: str) -> list[dict[str, Any]]:
    """`solveh_banded`, one system at a time."""
    timing = measure({"banded": banded_solve(case, dtype)})["banded"]
    return [{"case": case.name, "dtype": dtype, **asdict(timing)}]


def measure_scaling(batch: int, T: int, results: dict[str, Any]) -> list[dict[str, Any]]:
    """Time per point, where shorter sequences promise that it takes little time."""
    shorter = [r for r in results["scaling"] if r["solver"] == report.OURS and r["batch"] == batch]
    if shorter and 1e-9 * batch * T * shorter[-1]["nanoseconds"] > SCALING_LIMIT:
        return []
    return [asdict(row) for row in scaling(batch, T)]


def measure_roofline(results: dict[str, Any]) -> list[dict[str, Any]]:
    """Nominal GFLOP/s and GB/s of what was timed."""
    rows = []
    for case in (case for case in CASES if not case.shared):
        for dtype, torch_dtype in DTYPES.items():
            for what in ("forward", "forward + backward"):
                times = report.seconds(results, case.name, dtype, what)
                if report.OURS in times:
                    backward, time = what != "forward", times[report.OURS]
                    flops = roofline.nominal_flops(case, backward)
                    traffic = roofline.nominal_bytes(case, torch_dtype.itemsize, backward)
                    rates = {"GFLOP/s": 1e-9 * flops / time, "GB/s": 1e-9 * traffic / time}
                    rows.append({"case": case.name, "dtype": dtype, "what": what, **rates})
    return rows


def plan(quick: bool, names: list[str], results: dict[str, Any]) -> list[tuple[str, str, Work]]:
    """Steps of the program: section of the results, label, and the work."""
    cases = [case for case in CASES if case.name in names]
    problems = [(case, dtype) for case in cases for dtype in (["float64"] if quick else DTYPES)]
    work: list[tuple[str, str, Work]] = []
    for case, dtype in problems:
        label = f"{case.name} {dtype}"
        work.append(("timings", label, partial(time_case, case, dtype, mnn=not quick and dtype == "float64")))
        if case.batch == 1:
            work.append(("banded", f"banded {label}", partial(measure_banded, case, dtype)))
    if memory.available():
        work += [
            ("memory", f"memory {case.name} {dtype}", partial(measure_memory, case, dtype))
            for case, dtype in problems
            if not case.shared  # whose inputs are few: what matters is the result
        ]
    for batch, T in points(quick):
        work.append(("scaling", f"batch {batch}, T = {T}", partial(measure_scaling, batch, T, results)))
    return work


def run(quick: bool, names: list[str], folder: Path) -> dict[str, Any]:
    """All measurements, with a progress bar."""
    results: dict[str, Any] = {
        "machine": {
            "cpu": _cpu(),
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
        },
        "config": smnn.show_config("dicts"),
        "timings": [],
        "memory": [],
        "banded": [],
        "scaling": [],
        "peak": roofline.machine_peak(folder, torch.get_num_threads()),
    }
    with tqdm(plan(quick, names, results), desc="benchmarks", dynamic_ncols=True) as progress:
        for section, label, work in progress:
            progress.set_postfix_str(label)
            results[section] += work()
    results["flatness"] = flatness(results["scaling"])
    results["roofline"] = measure_roofline(results)
    return results


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="float64 only, T up to 10^4, without the MNN solvers")
    parser.add_argument("--save", action="store_true", help="write to benchmarks/results")
    names = [case.name for case in CASES]
    parser.add_argument("--cases", nargs="+", choices=names, default=names, metavar="CASE", help=", ".join(names))
    options = parser.parse_args()
    folder = HERE / ("results" if options.save else "output")
    folder.mkdir(exist_ok=True)
    (HERE / "output").mkdir(exist_ok=True)
    if not options.save and (share := store.share_in_use()) > store.BUSY:
        print(f"{100 * share:.0f} % of the processors are in use by others: times will be too long and scattered.")
    with store.measuring(options.save):
        results = run(options.quick, options.cases, HERE / "output")
    tables = report.text(results)
    store.save(folder / "results.json", results)
    (folder / "results.txt").write_text(tables)
    pictures = report.draw(results, folder)
    print(tables)
    for path in (folder / "results.json", *pictures):
        print(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


if __name__ == "__main__":
    main()
