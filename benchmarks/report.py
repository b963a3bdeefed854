"""Results as text and pictures. Results are the plain dictionary that `__main__` writes as JSON."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .cases import BATCHES, ENGINE_ALONE
from .tables import Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["draw", "draw_ratios", "draw_scaling", "ratios", "seconds", "tables", "text"]

Results = dict[str, Any]
BASELINE, OURS = "smnn_cholesky", "smnn"


def text(results: Results) -> str:
    """All tables."""
    machine = results["machine"]
    head = [f"{machine['cpu']}, {machine['threads']} threads"]
    head += [f"engine {name}: {line}" for name, line in results["config"]["engines"].items()]
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
        rows.append((case, dtype, *cells))
    narrow = [
        f"{case} {seconds(results, case, 'float64', DIRECTIONS[1])[OURS] / times[OURS]:.2f}x"
        for case, dtype in _cases(results)
        if dtype == "float32" and (times := seconds(results, case, dtype, DIRECTIONS[1]))
    ]
    return Table(
        "Milliseconds of one solve, forward, and forward + backward; ratio: smnn_cholesky / smnn",
        ("case", "dtype", "published", "smnn", "ratio", "published, with backward", "smnn", "ratio"),
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
    rows = [(r["case"], r["dtype"], r["solver"], f"{r['ratio']:.1f}x") for r in results["memory"]]
    return Table(
        "Peak extra memory of forward + backward over the inputs",
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
        f"{r['ratio']:.2f}x"
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


COLOURS = {OURS: "C0", BASELINE: "C1", ENGINE_ALONE: "C2"}
"""One for each solver."""


def draw_ratios(results: Results) -> Figure:
    """How many times faster than the published solver: a bar for each case and direction, with its number beside it."""
    import matplotlib.pyplot as plt

    rows = [row for row in ratios(results) if row[1] == "float64"]
    names = list(dict.fromkeys(case for case, *_ in rows))
    figure, axes = plt.subplots(figsize=(8, 0.8 + 0.6 * len(names)), layout="constrained")
    for what, offset, shade in zip(DIRECTIONS, (-0.2, 0.2), (0.5, 1.0), strict=True):
        found = {case: ratio for case, _, direction, ratio in rows if direction == what}
        at = [names.index(case) + offset for case in found]
        axes.barh(at, list(found.values()), 0.38, color=COLOURS[OURS], alpha=shade)
        for y, ratio in zip(at, found.values(), strict=True):
            first = what if y < 0.5 else ""
            axes.annotate(f" {ratio:.0f}x  {first}", (ratio, y), va="center")
    axes.axvline(1, color="0.5", linewidth=0.8)
    axes.set(xscale="log", yticks=range(len(names)), yticklabels=names, xlabel=f"times faster than {BASELINE}, float64")
    axes.set_xlim(0.8, 5 * max((row[-1] for row in rows), default=1.0))
    axes.invert_yaxis()
    return figure


def draw_scaling(results: Results) -> Figure:
    """Time per system and time point against T, forward + backward: a line for each solver and batch, with its name."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
    lines = [(key, times) for key, times in _series(results) if key[1] == DIRECTIONS[1]]
    height = 0.0
    for (solver, _, batch), times in sorted(lines, key=lambda line: line[1][max(line[1])]):
        T = sorted(times)
        style = "-" if batch == BATCHES[0] else "--"
        axes.loglog(T, [times[t] for t in T], style, color=COLOURS[solver], marker="o", markersize=4)
        height = max(times[T[-1]], 1.4 * height)  # names do not cover each other
        axes.annotate(f" {solver}, batch {batch}", (T[-1], height), color=COLOURS[solver], va="center")
    axes.set(xlabel="time points T", ylabel="nanoseconds per system and time point")
    left, right = axes.get_xlim()
    axes.set_xlim(left, right * 60)  # room for the names
    return figure
