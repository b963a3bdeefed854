"""Findings of `gpu_check.py`, as Markdown and JSON."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["Results", "Row", "report", "write"]

Row = dict[str, Any]


@dataclass
class Results:
    """The findings of a report."""

    machine: dict[str, str] = field(default_factory=dict)
    tests: list[Row] = field(default_factory=list)
    """name, passed, detail"""
    benchmarks: list[Row] = field(default_factory=list)
    """case, dtype, seconds, graph_seconds, published_seconds, bytes (of all traffic), io_bytes (of inputs and results
    alone), note. None: not measured, see note."""
    posteriors: list[Row] = field(default_factory=list)
    """case, seconds of solution and variances, solve_seconds of the solution alone, first_seconds of the first call"""
    chunks: list[Row] = field(default_factory=list)
    """points of a chunk, seconds, graph_seconds"""
    copy_bandwidth: dict[str, float] = field(default_factory=dict)
    """bytes read and written per second, by dtype"""


def table(header: list[str], rows: list[list[str]]) -> list[str]:
    """A Markdown table."""
    return ["| " + " | ".join(cells) + " |" for cells in (header, ["---"] * len(header), *rows)]


def milliseconds(seconds: float | None) -> str:
    return "" if seconds is None else f"{1e3 * seconds:.3g}"


def benchmark_row(row: Row, copies: dict[str, float]) -> list[str]:
    """One case: times, how many times faster, and how much of the bandwidth of copying it reaches."""
    best = row["graph_seconds"] or row["seconds"]
    ratio = f"{row['published_seconds'] / best:.1f}" if row["published_seconds"] and best else ""
    shares = [f"{row[n] / best / copies[row['dtype']]:.0%}" if row[n] and best else "" for n in ("io_bytes", "bytes")]
    times = [milliseconds(row[name]) for name in ("seconds", "graph_seconds", "published_seconds")]
    return [row["case"], row["dtype"], *times, ratio, *shares, row["note"]]


def _of_posterior(row: Row) -> list[str]:
    times = f"{row['seconds'] / row['solve_seconds']:.1f}"
    return [row["case"], milliseconds(row["seconds"]), times, f"{row['first_seconds']:.1f}"]


def _of_chunk(row: Row) -> list[str]:
    return [str(row["points"]), milliseconds(row["seconds"]), milliseconds(row["graph_seconds"])]


def report(results: Results) -> str:
    """The report as Markdown."""
    verdicts = {True: "passed", False: "**failed**", None: "not run"}
    tests = [[row["name"], verdicts[row["passed"]], row["detail"]] for row in results.tests]
    copies = [f"{dtype}: {x / 1e9:.0f} GB/s" for dtype, x in results.copy_bandwidth.items()]
    header = ["case", "dtype", "ms", "ms, graph", "published, ms", "times faster", "of copying", "all traffic", "note"]
    lines = [
        "# GPU check",
        "",
        *table(["", ""], [[name, value] for name, value in results.machine.items()]),
        "",
        "## Tests",
        "",
        *table(["what", "result", "detail"], tests),
        "",
        "## Forward + backward",
        "",
        f"Copying moves {', '.join(copies) or '(not measured)'}, read and written. The published algorithm is block",
        "Cholesky in PyTorch as one CUDA graph. The share of the bandwidth of copying counts inputs and results alone,",
        "and then all that the algorithm moves.",
        "",
        *table(header, [benchmark_row(row, results.copy_bandwidth) for row in results.benchmarks]),
        "",
        "## Posterior, and chunks of one system of 10,000 points",
        "",
        *table(
            ["solution and variances of", "ms", "times as long as the solution", "first call, s"],
            [_of_posterior(row) for row in results.posteriors],
        ),
        "",
        *table(["points of a chunk", "ms", "ms, graph"], [_of_chunk(row) for row in results.chunks]),
    ]
    return "\n".join(lines) + "\n"


def write(results: Results, folder: Path) -> None:
    """report.md and results.json."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.md").write_text(report(results), encoding="utf-8")
    (folder / "results.json").write_text(json.dumps(vars(results), indent=1) + "\n", encoding="utf-8")
