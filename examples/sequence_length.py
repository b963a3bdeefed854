"""Error, run time and memory of training against the sequence length: our solver and the published ones.

The Mechanistic Identifier, in the published form, learns to reconstruct windows of 26 to 684 months of the four Niño
regions from their ten first values. Every solver trains the same networks on the same windows from the same start, each
length in a process of its own, up to the length at which it exceeds the limit of time or memory. Ends with a table,
with the slopes of time and memory on log axes, and with a picture in examples/output/sequence_length/.

    python examples/sequence_length.py [--quick] [--device cuda] [--resume]

Time is the median over training steps: networks, solver, backward pass and update. Memory is the peak of the process
(on Linux: resident memory as the kernel counts it; CUDA: what PyTorch has allocated there) less what was there before
the first step: samples and networks count as before, everything else does not.

Source: figure 6 of Chen et al., Scalable Mechanistic Neural Networks, ICLR 2025, there on weekly data that cannot be
shipped; as summarised by third parties, time and memory of S-MNN grow linearly up to 1727 weeks, and the dense solver
fails beyond 104.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from _experiment import BLUE, GREEN, ORANGE, command_line, print_table, save_metrics, save_picture
from _identifier import Configuration, Identifier, dct_matrix
from _sst_data import N_INITIAL, load_nino
from torch import Tensor
from tqdm import tqdm

from benchmarks.baselines import mnn_dense, smnn_cholesky
from smnn_torch import TAYLOR, solve_ode

SOLVERS = {"ours": partial(solve_ode, scheme=TAYLOR), "smnn_cholesky": smnn_cholesky, "mnn_dense": mnn_dense}
COLOURS = {"ours": ORANGE, "smnn_cholesky": BLUE, "mnn_dense": GREEN}
STATUS = Path("/proc/self/status")
MIB = 2**20


@dataclass(frozen=True)
class Setting:
    """Settings of a run: the training, and the time that one case, a solver at a length, may take."""

    lengths: tuple[int, ...]
    windows: int
    """a batch, of four regions each"""
    steps: int
    width: int
    depth: int
    head_depth: int
    rate: float
    seconds: float
    """limit of a case, from the start of its process"""
    mebibytes: int
    """limit of the memory that a case takes beyond what a process has before its first step"""


LENGTHS = (26, 52, 104, 208, 416, 684)
SETTINGS = {
    "quick": Setting(LENGTHS, 8, 30, 64, 3, 2, 1e-3, seconds=75, mebibytes=4096),
    "full": Setting(LENGTHS, 49, 1000, 1024, 5, 3, 1e-5, seconds=3600, mebibytes=16384),
    "smoke": Setting((26,), 2, 4, 16, 2, 2, 1e-3, seconds=60, mebibytes=1024),
}
LINEAR_FROM = 104
"""slopes are fitted from this length on: below, the time is that of calls and networks"""


def training(length: int, setting: Setting, solver: str, seed: int, device: str) -> tuple[Any, Any]:
    """A function that makes one step of training and returns its error; and the model."""
    record = load_nino()
    x = torch.tensor((record.values - record.values.mean()) / record.values.std(), device=device)
    starts = np.linspace(0, len(x) - length, setting.windows).astype(int)
    windows = torch.stack([x[t : t + length].T for t in starts])
    torch.manual_seed(seed)
    shape = Configuration(length, length, N_INITIAL, 0, setting.width, setting.depth, setting.head_depth)
    model = Identifier(shape).to(windows)
    model.form.solve = SOLVERS[solver]
    optimizer = torch.optim.Adam(model.parameters(), setting.rate)
    kept = dct_matrix(length, length // 4).to(windows).T
    inputs = windows, windows[..., :N_INITIAL], windows[..., :0], windows[..., :0]

    def step() -> float:
        y, misalignment = model(*inputs)
        loss: Tensor = ((y - windows) @ kept).square().mean() + 10.0 * misalignment
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return float((y.detach() - windows).square().mean())

    return step, model


def memory(field: str) -> int:
    """Of this process, in bytes: VmRSS resident now, VmHWM at most, VmData that may be written; 0 if unknown."""
    if not STATUS.exists():
        return 0
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(field))
    return 1024 * int(line.split()[1])


def limit_memory(mebibytes: int) -> None:
    """Lets allocations fail that exceed the limit, where the system can."""
    if STATUS.exists():
        import resource

        allowed = memory("VmData") + mebibytes * MIB
        resource.setrlimit(resource.RLIMIT_DATA, (allowed, resource.getrlimit(resource.RLIMIT_DATA)[1]))


def measure(length: int, solver: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """One case, in this process: error after every step, seconds of a step, peak memory in MiB."""
    setting = SETTINGS[arguments.size]
    cuda = arguments.device.startswith("cuda")
    for _ in range(2):  # with the smallest length: libraries, threads and their buffers are not the case's
        training(setting.lengths[0], setting, solver, 0, arguments.device)[0]()
    step, _ = training(length, setting, solver, arguments.seed, arguments.device)
    limit_memory(setting.mebibytes)
    if cuda:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    elif STATUS.exists():
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = torch.cuda.memory_allocated() if cuda else memory("VmRSS")
    errors, seconds = [], []
    for _ in range(setting.steps):
        began = time.perf_counter()
        errors.append(step())  # reading the error waits for the device
        seconds.append(time.perf_counter() - began)
    peak = (torch.cuda.max_memory_allocated() if cuda else memory("VmHWM")) - before
    return {"errors": errors, "seconds": statistics.median(seconds), "mebibytes": peak / MIB if peak > 0 else None}


def run_case(length: int, solver: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """`measure` in a new process, or {"failed": why}."""
    setting = SETTINGS[arguments.size]
    command = [sys.executable, __file__, "--case", solver, str(length), "--device", arguments.device]
    command += ["--seed", str(arguments.seed), *([f"--{arguments.size}"] if arguments.size != "full" else [])]
    # glibc would keep freed arrays for reuse, which then count as resident before: hand every array back at once
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    try:
        case = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=setting.seconds)
    except subprocess.TimeoutExpired:
        return {"failed": f"more than {setting.seconds:.0f} s for {setting.steps} steps"}
    if case.returncode == 0:
        return json.loads(case.stdout.splitlines()[-1])
    if "memory" in case.stderr.splitlines()[-1].lower() or "MemoryError" in case.stderr:
        return {"failed": f"more than {setting.mebibytes} MiB"}
    raise SystemExit(f"{solver} at length {length} failed:\n{case.stderr}")


def run_all(arguments: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """The results of all cases, by solver and length; those of an interrupted run are kept with --resume."""
    setting, path = SETTINGS[arguments.size], arguments.output / "cases.json"
    configuration = {"setting": json.loads(json.dumps(asdict(setting))), "device": arguments.device}
    configuration["seed"] = arguments.seed
    done: dict[str, dict[str, Any]] = {solver: {} for solver in SOLVERS}
    if arguments.resume and path.exists():
        left = json.loads(path.read_text(encoding="utf-8"))
        if left["configuration"] != configuration:
            raise SystemExit(f"{path} was left by a run with other arguments: give the same ones, or leave --resume.")
        done = left["cases"]
    cases = [(solver, length) for length in setting.lengths for solver in SOLVERS]
    path.parent.mkdir(parents=True, exist_ok=True)
    for solver, length in tqdm(cases, desc="cases", unit="case"):
        if str(length) in done[solver]:
            continue
        failed = [x for x in done[solver].values() if "failed" in x]
        case = {"failed": "a shorter one did"} if failed else run_case(length, solver, arguments)
        done[solver][str(length)] = case
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps({"configuration": configuration, "cases": done}), encoding="utf-8")
        partial.replace(path)
    return done


def curve(cases: dict[str, Any], what: str) -> tuple[np.ndarray, np.ndarray]:
    """Lengths and values of a solver's cases, where there are any."""
    points = [(int(T), x["errors"][-1] if what == "error" else x[what]) for T, x in cases.items() if "failed" not in x]
    points = [(T, value) for T, value in points if value is not None]
    T, values = (np.array(x, dtype=float) for x in zip(*points, strict=True)) if points else (np.empty(0),) * 2
    return T, values


def slope(T: np.ndarray, values: np.ndarray) -> float:
    """The exponent p of values ~ T^p for the lengths from LINEAR_FROM on; NaN where there are less than two."""
    chosen = T >= LINEAR_FROM
    return float(np.polyfit(np.log(T[chosen]), np.log(values[chosen]), 1)[0]) if chosen.sum() > 1 else float("nan")


def report(done: dict[str, dict[str, Any]], setting: Setting) -> None:
    """The table, the limits that were met, and the slopes."""
    systems = len(load_nino().values.T) * setting.windows
    print(
        f"\n{systems} sequences a batch, {setting.steps} steps; limits {setting.seconds:.0f} s, {setting.mebibytes} MiB"
    )
    rows = []
    for T in setting.lengths:
        row: list[Any] = [T]
        for what, factor in (("error", 1.0), ("seconds", 1e3), ("mebibytes", 1.0)):
            for cases in done.values():
                lengths, values = curve(cases, what)
                row.append(float(values[lengths == T][0] * factor) if T in lengths else "-")
        rows.append(row)
    units = ("error", "ms/step", "MiB")
    print_table(["months", *(f"{unit} {solver}" for unit in units for solver in done)], rows)
    for solver, cases in done.items():
        stopped = next((f"; {T} months: {x['failed']}" for T, x in cases.items() if "failed" in x), "")
        time_, memory_ = (slope(*curve(cases, what)) for what in ("seconds", "mebibytes"))
        print(f"{solver}: from {LINEAR_FROM} months on, time ~ T^{time_:.2f}, memory ~ T^{memory_:.2f}{stopped}")


def picture(done: dict[str, dict[str, Any]], setting: Setting, path: Path) -> None:
    """Error, time and memory against the length."""
    figure, axes = plt.subplots(1, 3, figsize=(12, 4.2))
    labels = {
        "error": ("mean squared error (standardised)", 1.0),
        "seconds": ("time of a training step (ms)", 1e3),
        "mebibytes": ("peak memory (MiB)", 1.0),
    }
    markers = dict(zip(done, "osD", strict=True))
    for a, (what, (label, factor)) in zip(axes, labels.items(), strict=True):
        for solver, cases in done.items():
            T, values = curve(cases, what)
            p = slope(T, values)
            note = f", slope {p:.2f}" if what != "error" and np.isfinite(p) else ""
            ours = solver == "ours"
            style = {"lw": 3, "ms": 8, "alpha": 0.7} if ours else {"lw": 1.4, "ms": 5}
            a.plot(T, values * factor, marker=markers[solver], color=COLOURS[solver], label=solver + note, **style)
        a.set(xscale="log", xlabel="sequence length (months)", ylabel=label)
        a.set_xticks(setting.lengths, [str(T) for T in setting.lengths])
        a.minorticks_off()
        if what == "error":
            a.set_ylim(0, 1.4 * a.get_ylim()[1])
        else:
            a.set_yscale("log")
            low, high = a.get_ylim()
            a.set_ylim(low, high * (high / low) ** 0.3)
        a.legend(loc="upper left", fontsize="small")
    figure.suptitle(f"training on {4 * setting.windows} sequences of the Niño regions")
    save_picture(figure, path)


def summary(done: dict[str, dict[str, Any]], setting: Setting) -> list[dict[str, Any]]:
    """The rows of the table of all experiments."""
    rows: list[dict[str, Any]] = []
    for solver in ("smnn_cholesky", "mnn_dense"):
        T, theirs = curve(done[solver], "seconds")
        if len(T):
            ours = done["ours"][str(int(T[-1]))]["seconds"]
            ratio = {
                "metric": f"speed of a training step over {solver}, {int(T[-1])} months",
                "ours": theirs[-1] / ours,
            }
            rows.append(ratio)
    for what, name in (("seconds", "time"), ("mebibytes", "memory")):
        p = slope(*curve(done["ours"], what))
        if np.isfinite(p):
            rows.append({"metric": f"exponent of {name} in the length", "ours": p, "published": 1.0})
    T, errors = curve(done["ours"], "error")
    note = f"after {setting.steps} steps; smnn_cholesky {curve(done['smnn_cholesky'], 'error')[1][-1]:.4g}"
    rows.append({"metric": f"squared error, {int(T[-1])} months", "ours": errors[-1], "note": note})
    return rows


def main() -> None:
    parser = command_line("sequence_length", __doc__)
    parser.add_argument("--case", nargs=2, metavar=("SOLVER", "LENGTH"), help="one case in this process, as JSON")
    arguments = parser.parse_args()
    if arguments.case:
        solver, length = arguments.case
        print(json.dumps(measure(int(length), solver, arguments)))
        return
    done = run_all(arguments)
    setting = SETTINGS[arguments.size]
    report(done, setting)
    if missing := [solver for solver in ("ours", "smnn_cholesky") if not len(curve(done[solver], "seconds")[0])]:
        raise SystemExit(f"no length was measured for {' and '.join(missing)}: is the machine busy? Run again later.")
    picture(done, setting, arguments.output / "sequence_length.png")
    save_metrics(arguments.output, arguments, summary(done, setting), cases=done)


if __name__ == "__main__":
    main()
