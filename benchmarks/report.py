"""Results as text and pictures. Results are the plain dictionary that `__main__` writes as JSON."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .cases import BATCHES, CASES, ENGINE_ALONE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["draw", "draw_ratios", "draw_scaling", "ratios", "seconds", "text"]

Results = dict[str, Any]
BASELINE, OURS = "smnn_cholesky", "smnn"
MEMORY_BOUND = 6.0
FLATNESS_BOUND = 1.3
BUSY = 0.3
"""Load per thread from which other work disturbs."""
TARGETS = {case.name: case.target for case in CASES}


def text(results: Results) -> str:
    """All tables."""
    machine = results["machine"]
    head = [f"{machine['cpu']}, {machine['threads']} threads"]
    head += [f"engine {name}: {line}" for name, line in results["config"]["engines"].items()]
    if machine["load"] > BUSY * machine["threads"]:
        head.append(f"BUSY MACHINE: load {machine['load']:.1f} at the start, so that times are too long and scattered")
    sections = (_speed, _memory, _scaling, _banded, _roofline)
    return "\n".join([*head, *(line for section in sections for line in ("", *section(results)))]) + "\n"


def seconds(results: Results, case: str, dtype: str, what: str) -> dict[str, float]:
    """Solver -> median seconds."""
    key = (case, dtype, what)
    return {r["solver"]: r["seconds"] for r in results["timings"] if (r["case"], r["dtype"], r["what"]) == key}


def ratios(results: Results) -> Iterator[tuple[str, str, str, float]]:
    """(case, dtype, what, how many times faster than the published solver)."""
    for case, dtype, what in dict.fromkeys((r["case"], r["dtype"], r["what"]) for r in results["timings"]):
        times = seconds(results, case, dtype, what)
        yield case, dtype, what, times[BASELINE] / times[OURS]


def _milliseconds(value: float | None) -> str:
    return f"{'-':>12}" if value is None else f"{1e3 * value:9.2f} ms"


def _speed(results: Results) -> Iterator[str]:
    solvers = list(dict.fromkeys(r["solver"] for r in results["timings"]))
    yield "Time of one solve; ratio: smnn_cholesky / smnn (target)"
    yield f"{'':44}" + "".join(f"{name.removeprefix('mnn_')[:18]:>19}" for name in solvers) + f"{'ratio':>14}"
    for case, dtype, what, ratio in ratios(results):
        times = seconds(results, case, dtype, what)
        cells = "".join(f"{_milliseconds(times.get(name)):>19}" for name in solvers)
        to_hold = dtype == "float64" and what == "forward + backward" and TARGETS[case]
        target = f" ({TARGETS[case]:.0f}x{'' if ratio >= TARGETS[case] else ' MISSED'})" if to_hold else ""
        yield f"{case:14}{dtype:10}{what:20}{cells}{ratio:8.1f}x{target}"
    yield "float32 against float64, forward + backward: " + ", ".join(
        f"{case} {seconds(results, case, 'float64', what)[OURS] / seconds(results, case, 'float32', what)[OURS]:.2f}x"
        for case, dtype, what, _ in ratios(results)
        if dtype == "float32" and what == "forward + backward"
    )


def _memory(results: Results) -> Iterator[str]:
    yield f"Peak extra memory of forward + backward over the inputs (target: at most {MEMORY_BOUND:.0f}x)"
    if not results["memory"]:
        yield "not measured: needs Linux (/proc/self/clear_refs)"
    for r in results["memory"]:
        missed = " MISSED" if r["solver"] == OURS and r["ratio"] > MEMORY_BOUND else ""
        yield f"{r['case']:14}{r['dtype']:10}{r['solver']:20}{r['ratio']:8.1f}x{missed}"


def _scaling(results: Results) -> Iterator[str]:
    yield "Nanoseconds per system and time point, float64, V = 1, K = 3, Q = 1; engine alone: checked, on one thread"
    lengths = sorted({r["T"] for r in results["scaling"]})
    yield f"{'':50}" + "".join(f"{f'T = 10^{len(str(T)) - 1}':>12}" for T in lengths)
    for (solver, what, batch), times in _series(results):
        cells = "".join(f"{times[T]:12.1f}" if T in times else f"{'-':>12}" for T in lengths)
        yield f"{solver:20}{what:20}{f'batch {batch}':10}{cells}"
    for r in results["flatness"]:
        missed = " MISSED" if r["ratio"] > FLATNESS_BOUND else ""
        yield (
            f"{r['solver']}, batch {r['batch']}, {r['what']}, T = {r['T'][0]} to {r['T'][1]}: largest / smallest "
            f"{r['ratio']:.2f}x (target: at most {FLATNESS_BOUND}x){missed}"
        )


def _series(results: Results) -> Iterator[tuple[tuple[str, str, int], dict[int, float]]]:
    """(solver, what, batch) and T -> nanoseconds per system and time point."""
    rows = results["scaling"]
    for key in dict.fromkeys((r["solver"], r["what"], r["batch"]) for r in rows):
        yield key, {r["T"]: r["nanoseconds"] for r in rows if (r["solver"], r["what"], r["batch"]) == key}


def _banded(results: Results) -> Iterator[str]:
    yield "Raw banded solve, forward: scipy.linalg.solveh_banded is given the assembled normal equations"
    for r in results["banded"]:
        ours = seconds(results, r["case"], r["dtype"], "forward")[OURS]
        yield f"{r['case']:14}{r['dtype']:10}{_milliseconds(r['seconds'])}, smnn {_milliseconds(ours)}"


def _roofline(results: Results) -> Iterator[str]:
    peak = results["peak"]
    yield f"Machine peak: {peak['GB/s']:.1f} GB/s, {peak['GFLOP/s']:.0f} GFLOP/s in float64 ({peak['how']})"
    yield "smnn, nominal operations and unavoidable traffic (see benchmarks/roofline.py)"
    for r in results["roofline"]:
        width = 2 if r["dtype"] == "float32" else 1
        yield (
            f"{r['case']:14}{r['dtype']:10}{r['what']:20}{r['GFLOP/s']:8.2f} GFLOP/s "
            f"({100 * r['GFLOP/s'] / peak['GFLOP/s'] / width:5.1f} %){r['GB/s']:8.2f} GB/s "
            f"({100 * r['GB/s'] / peak['GB/s']:5.1f} %)"
        )


def draw(results: Results, folder: Path) -> list[Path]:
    """The pictures, as PNG files."""
    import matplotlib as mpl

    mpl.use("Agg")
    paths = []
    for name, picture in (("ratios", draw_ratios), ("scaling", draw_scaling)):
        paths.append(folder / f"{name}.png")
        picture(results).savefig(paths[-1], dpi=150)
    return paths


def draw_ratios(results: Results) -> Figure:
    """Bars: how many times faster than the published solver."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 4), layout="constrained")
    rows = list(ratios(results))
    kinds = list(dict.fromkeys((dtype, what) for _, dtype, what, _ in rows))
    names = list(dict.fromkeys(case for case, *_ in rows))
    width = 0.8 / len(kinds)
    for i, (dtype, what) in enumerate(kinds):
        heights = [next((r for *key, r in rows if key == [name, dtype, what]), 0.0) for name in names]
        offset = (i - (len(kinds) - 1) / 2) * width
        axes.bar([x + offset for x in range(len(names))], heights, width, label=f"{what}, {dtype}")
    for x, name in enumerate(names):
        if not TARGETS[name]:
            continue
        label = "" if x else "target, forward + backward, float64"
        axes.hlines(TARGETS[name], x - 0.45, x + 0.45, colors="black", linestyles="--", label=label)
    axes.set(yscale="log", xticks=range(len(names)), xticklabels=names, ylabel=f"times faster than {BASELINE}")
    axes.axhline(1, color="gray", linewidth=0.8)
    axes.legend(fontsize="small")
    return figure


def draw_scaling(results: Results) -> Figure:
    """Time per system and time point, and in all, against T."""
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    solvers = OURS, BASELINE, ENGINE_ALONE
    colours = {(solver, batch): f"C{2 * i + j}" for i, solver in enumerate(solvers) for j, batch in enumerate(BATCHES)}
    for (solver, what, batch), times in _series(results):
        T = sorted(times)
        style = {
            "label": f"{solver}, {what}, batch {batch}",
            "marker": "o",
            "color": colours[solver, batch],
            "linestyle": "--" if what == "forward" else "-",
        }
        left.loglog(T, [times[t] for t in T], **style)
        right.loglog(T, [1e-9 * batch * t * times[t] for t in T], **style)
    left.set(xlabel="time points T", ylabel="nanoseconds per system and time point")
    right.set(xlabel="time points T", ylabel="seconds")
    figure.legend(*right.get_legend_handles_labels(), loc="outside right center", fontsize="x-small")
    return figure
