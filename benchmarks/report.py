"""Results as text and pictures. Results are the plain dictionary that `__main__` writes as JSON."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .cases import BATCHES, CASES, ENGINE_ALONE
from .tables import Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["draw", "draw_ratios", "draw_scaling", "ratios", "seconds", "tables", "text"]

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
    return "\n\n".join(["\n".join(head), *(table.text() for table in tables(results))]) + "\n"


def tables(results: Results) -> list[Table]:
    """Speed, other solvers, memory, scaling, the banded solve, and the part of the machine's peak that is reached."""
    return [section(results) for section in (_speed, _others, _memory, _scaling, _banded, _roofline)]


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
    return "-" if value is None else f"{1e3 * value:.2f}"


DIRECTIONS = ("forward", "forward + backward")


def _cases(results: Results) -> list[tuple[str, str]]:
    return list(dict.fromkeys((r["case"], r["dtype"]) for r in results["timings"]))


def _speed(results: Results) -> Table:
    rows = []
    for case, dtype in _cases(results):
        cells: list[str] = []
        for what in DIRECTIONS:
            times = seconds(results, case, dtype, what)
            ratio = times[BASELINE] / times[OURS] if times else 0.0
            cells += [*map(_milliseconds, (times.get(BASELINE), times.get(OURS))), f"{ratio:.1f}x" if times else "-"]
            target = TARGETS[case] if dtype == "float64" and what == DIRECTIONS[1] else 0
            if target and times:
                cells.append(f"{target:.0f}x{'' if ratio >= target else ' MISSED'}")
        rows.append((case, dtype, *cells, *[""] * (7 - len(cells))))
    narrow = [
        f"{case} {seconds(results, case, 'float64', DIRECTIONS[1])[OURS] / times[OURS]:.2f}x"
        for case, dtype in _cases(results)
        if dtype == "float32" and (times := seconds(results, case, dtype, DIRECTIONS[1]))
    ]
    return Table(
        "Milliseconds of one solve, forward, and forward + backward; ratio: smnn_cholesky / smnn",
        ("case", "dtype", "published", "smnn", "ratio", "published, with backward", "smnn", "ratio", "target"),
        tuple(rows),
        (f"float64 takes so many times as long as float32, forward + backward: {', '.join(narrow)}.",)
        if narrow
        else (),
    )


def _others(results: Results) -> Table:
    names = [r["solver"] for r in results["timings"] if r["solver"] not in (BASELINE, OURS)]
    names = list(dict.fromkeys(names))
    rows = []
    for case, dtype in _cases(results):
        times = seconds(results, case, dtype, DIRECTIONS[1])
        if any(name in times for name in names):
            rows.append((case, dtype, *(_milliseconds(times.get(name)) for name in (OURS, *names))))
    header = "case", "dtype", OURS, *(name.removeprefix("mnn_").replace("_", " ") for name in names)
    return Table("Milliseconds of one solve of the other solvers, forward + backward", header, tuple(rows))


def _memory(results: Results) -> Table:
    rows = []
    for r in results["memory"]:
        missed = " MISSED" if r["solver"] == OURS and r["ratio"] > MEMORY_BOUND else ""
        rows.append((r["case"], r["dtype"], r["solver"], f"{r['ratio']:.1f}x{missed}"))
    return Table(
        f"Peak extra memory of forward + backward over the inputs (target: at most {MEMORY_BOUND:.0f}x)",
        ("case", "dtype", "solver", "memory"),
        tuple(rows),
        () if rows else ("Not measured: needs Linux (/proc/self/clear_refs).",),
    )


def _scaling(results: Results) -> Table:
    lengths = sorted({r["T"] for r in results["scaling"]})
    rows = [
        (solver, what, str(batch), *(f"{times[T]:.1f}" if T in times else "-" for T in lengths))
        for (solver, what, batch), times in _series(results)
    ]
    notes = [
        f"{r['solver']}, batch {r['batch']}, {r['what']}, T = {r['T'][0]} to {r['T'][1]}: largest / smallest "
        f"{r['ratio']:.2f}x (target: at most {FLATNESS_BOUND}x){' MISSED' if r['ratio'] > FLATNESS_BOUND else ''}"
        for r in results["flatness"]
    ]
    return Table(
        "Nanoseconds per system and time point, float64, V = 1, K = 3, Q = 1; engine alone: checked, on one thread",
        ("solver", "direction", "batch", *(f"T = 10^{len(str(T)) - 1}" for T in lengths)),
        tuple(rows),
        tuple(notes),
    )


def _banded(results: Results) -> Table:
    rows = []
    for r in results["banded"]:
        ours = seconds(results, r["case"], r["dtype"], "forward")[OURS]
        rows.append((r["case"], r["dtype"], _milliseconds(r["seconds"]), _milliseconds(ours)))
    return Table(
        "Milliseconds of a raw banded solve, forward; solveh_banded of SciPy is given the assembled normal equations",
        ("case", "dtype", "solveh_banded", "smnn"),
        tuple(rows),
    )


def _roofline(results: Results) -> Table:
    peak = results["peak"]
    rows = []
    for r in results["roofline"]:
        flops = peak["GFLOP/s"] * (2 if r["dtype"] == "float32" else 1)
        rows.append(
            (
                *(r[key] for key in ("case", "dtype", "what")),
                f"{r['GFLOP/s']:.2f}",
                f"{100 * r['GFLOP/s'] / flops:.1f} %",
                f"{r['GB/s']:.2f}",
                f"{100 * r['GB/s'] / peak['GB/s']:.1f} %",
            )
        )
    return Table(
        "smnn, nominal operations and unavoidable traffic (benchmarks/roofline.py), beside the machine's peak",
        ("case", "dtype", "direction", "GFLOP/s", "of peak", "GB/s", "of peak"),
        tuple(rows),
        (f"Peak: {peak['GB/s']:.1f} GB/s, {peak['GFLOP/s']:.0f} GFLOP/s in float64 ({peak['how']}).",),
    )


def _series(results: Results) -> Iterator[tuple[tuple[str, str, int], dict[int, float]]]:
    """(solver, what, batch) and T -> nanoseconds per system and time point."""
    rows = results["scaling"]
    for key in dict.fromkeys((r["solver"], r["what"], r["batch"]) for r in rows):
        yield key, {r["T"]: r["nanoseconds"] for r in rows if (r["solver"], r["what"], r["batch"]) == key}


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
