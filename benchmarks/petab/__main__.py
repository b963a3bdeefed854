"""`python -m benchmarks.petab`: parameters of ten published models from many starts, beside least squares.

    python -m benchmarks.petab                          # ten problems, 100 starts each
    python -m benchmarks.petab --quick                  # 10 starts each, of 1 s on average at most
    python -m benchmarks.petab --starts 10 Boehm Bruno
    python -m benchmarks.petab --budget 300             # as many starts up to 100 as end in 300 s for each problem
    python -m benchmarks.petab --table                  # what was measured before, as a table

Seconds are of processor time, so that other work of the machine does not count. Results go to petab.json and petab.png
in benchmarks/output, with --save in benchmarks/results, after every 25 starts. A run goes on where the last one with
the same limit of seconds stopped: starts that are there are not made again, unless --anew says so.
"""

from __future__ import annotations

import argparse
import json
import math
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

import smnn_core as smnn
import smnn_petab

from .. import store
from .shooting import drawn, shoot

HERE = Path(__file__).parent
NAMES = sorted(path.name for path in HERE.iterdir() if path.is_dir() and "_" in path.name.strip("_"))
PUBLISHED = {"Boehm": "2.4 / 2.4", "Fiedler": "8.1 / 4.5", "Bruno": "69 / 69", "Crauste": "0.1 / 0"}
"""Per cent of 1,000 starts within 0.1 of the optimum, fmincon / lsqnonlin over shooting with sensitivities."""
SAME = 0.1
CHUNK = 25
"""Starts after which results are saved."""


def load(name: str) -> smnn_petab.Problem:
    return smnn_petab.load(next(iter(sorted((HERE / name).glob("*.yaml")))))


def begun(problem: smnn_petab.Problem, limit: float) -> dict[str, Any]:
    """Results before the first start."""
    return {
        "parameters": len(problem.nominal),
        "nominal": problem.objective(),
        "nominal_by_smnn": problem.objective(solver="smnn"),
        "best": math.inf,
        "limit": limit,
        "ends": [],
        "seconds": [],
        "shooting": [],
        "shooting_seconds": [],
    }


def more(problem: smnn_petab.Problem, r: dict[str, Any], starts: int) -> None:
    """Fits from further starts."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", smnn.ConvergenceWarning)  # `converged` stands in the table
        fit = problem.fit(starts, seed=len(r["ends"]), seconds=r["limit"], progress=True)
    r["ends"] += fit.starts.objective.tolist()
    r["seconds"] += fit.starts.seconds.tolist()
    if fit.objective < r["best"]:
        by_smnn = problem.objective(fit.parameters, solver="smnn")
        r |= {"best": fit.objective, "best_by_smnn": by_smnn, "converged": fit.converged}
        r["best_parameters"] = fit.parameters


def beside(problem: smnn_petab.Problem, r: dict[str, Any], shots: int) -> None:
    """Least squares over shooting from further starts."""
    starts = drawn(problem, shots, seed=len(r["shooting"]))
    for end in shoot(problem, starts, r["limit"]):
        r["shooting"].append(end.objective)
        r["shooting_seconds"].append(end.seconds)


def measure(name: str, r: dict[str, Any] | None, arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Results of a problem as they grow, up to the number of starts or the budget."""
    problem, until = load(name), time.process_time() + arguments.budget
    if r is None or r.get("limit") != arguments.seconds or arguments.anew:
        r = begun(problem, arguments.seconds)
    while (left := arguments.starts - len(r["ends"])) > 0 and time.process_time() < until:
        more(problem, r, min(CHUNK, left))
        yield r
    shots = arguments.starts if arguments.shots is None else arguments.shots
    until = time.process_time() + arguments.budget
    while (left := shots - len(r["shooting"])) > 0 and time.process_time() < until:
        beside(problem, r, min(CHUNK, left))
        yield r


def share(ends: list[float], best: float) -> float:
    return 100 * float(np.mean(np.array(ends) <= best + SAME)) if ends else math.nan


def table(results: dict[str, Any]) -> str:
    """The figures of all problems in Markdown. Shares are of the best objective that anything has found."""
    head = (
        "| problem | parameters | nominal | `smnn.solve` there | best | `smnn.solve` there | starts | within 0.1, % "
        "| s a start, median (mean) | `least_squares`: starts | within 0.1, % | s a start | published, % |"
    )
    lines = [head, "| --- |" + " ---: |" * 12]
    for name, r in results.items():
        best = min(r["nominal"], r["best"], *r["shooting"])
        cells = [
            name.replace("_", " "),
            r["parameters"],
            f"{r['nominal']:.3f}",
            f"{r['nominal_by_smnn']:.3f}",
            f"{r['best']:.3f}",
            f"{r['best_by_smnn']:.3f}",
            len(r["ends"]),
            f"{share(r['ends'], best):.0f}",
            f"{np.median(r['seconds']):.1f} ({np.mean(r['seconds']):.1f})",
            len(r["shooting"]) or "",
            f"{share(r['shooting'], best):.0f}" if r["shooting"] else "",
            f"{np.median(r['shooting_seconds']):.1f}" if r["shooting"] else "",
            PUBLISHED.get(name.split("_")[0], ""),
        ]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def picture(results: dict[str, Any], path: Path) -> None:
    """Waterfalls of all problems."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    rows = math.ceil(len(results) / 5)
    figure, axes = plt.subplots(rows, 5, figsize=(15, 3 * rows), layout="constrained", squeeze=False)
    for ax in axes.ravel()[len(results) :]:
        ax.set_visible(False)
    for ax, (name, r) in zip(axes.ravel(), results.items(), strict=False):
        best = min(r["nominal"], r["best"], *r["shooting"])
        series = (
            ("least_squares", r["shooting"], "0.5"),
            ("fit", r["ends"], "C0"),
        )
        for label, ends, colour in series:
            above = np.sort([e for e in ends if e is not None and math.isfinite(e)]) - best
            if len(above):
                where = (np.arange(len(above)) + 1) / len(ends)
                ax.plot(where, np.maximum(above, 1e-3), "o-", markersize=3, label=label, color=colour)
        ax.axhline(SAME, color="0.8", linewidth=1)
        ax.set(yscale="log", title=name.split("_")[0], xlim=(0, 1.02))
    axes[0, 0].legend(frameon=False, fontsize="small")
    figure.supxlabel("share of starts, in the order of their ends")
    figure.supylabel("objective above the best known")
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("problems", nargs="*", help="beginnings of names; none: all")
    parser.add_argument("--starts", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=2.0, help="of processor time for a start on average, at most")
    parser.add_argument(
        "--budget", type=float, default=math.inf, help="seconds for the starts of a problem, of each way"
    )
    parser.add_argument("--anew", action="store_true", help="forget earlier starts")
    parser.add_argument("--quick", action="store_true", help="10 starts, 1 s, and 3 starts of least_squares")
    parser.add_argument("--shots", type=int, default=None, help="starts of least_squares; as many as starts by default")
    parser.add_argument("--table", action="store_true", help="measure nothing")
    parser.add_argument("--save", action="store_true")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.starts, arguments.seconds, arguments.shots = 10, 1.0, 3
    folder = HERE.parent / ("results" if arguments.save else "output")
    folder.mkdir(exist_ok=True)
    path = folder / "petab.json"
    results = json.loads(path.read_text()) if path.exists() else {}
    chosen = [n for n in NAMES if not arguments.problems or n.startswith(tuple(arguments.problems))]
    for name in [] if arguments.table else chosen:
        steps = measure(name, results.get(name), arguments)
        while True:
            with store.measuring(arguments.save):
                r = next(steps, None)
            if r is None:
                break
            results[name] = r
            results = {n: results[n] for n in NAMES if n in results}
            path.write_text(json.dumps(results) + "\n")
        print(table({name: results[name]}), flush=True)
    print(table(results))
    picture(results, folder / "petab.png")


if __name__ == "__main__":
    main()
