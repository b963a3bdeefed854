"""`python -m benchmarks.discovery`: `discover` and pysindy on the chaotic polynomial systems of dysts, with noise.

    python -m benchmarks.discovery                          the whole grid: hours on two idle cores
    python -m benchmarks.discovery --points 1000 --noise 0.1 --seeds 1 --budget 600
    python -m benchmarks.discovery --methods discover --points 1000 --seeds 1 --again --budget 600
    python -m benchmarks.discovery --report                 the tables of what has been run
    python -m benchmarks.discovery --many-variables         8 to 20 variables: terms, time and memory
    python -m benchmarks.discovery --list                   the systems

A run is one system, number of points, noise (in deviations of each variable) and seed. Runs that are in the results
file are not repeated, so that an interrupted benchmark goes on. The noise is not told to any method.
"""

from __future__ import annotations

import argparse
import os
import time
import warnings
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

import smnn_core as smnn

from . import sindy, store
from .systems import System, polynomial_systems, trajectory

OURS = "discover"
BY_TRUTH = "pysindy, method and threshold by the truth"
RESULTS = Path(__file__).parent / "results" / "discovery.json.gz"
POINTS, NOISE, SEEDS = (10_000, 1_000), (0.0, 0.01, 0.05, 0.1, 0.3), 3

METHODS = "discover", "pysindy"

Task = tuple[str, str, int, float, int]
Record = dict[str, Any]


def run(task: Task) -> list[Record]:
    """One package on one data set."""
    method, name, n_points, noise, seed = task
    system = polynomial_systems()[name]
    clean = trajectory(system, n_points)
    data = clean + noise * clean.std(0) * np.random.default_rng(seed).normal(size=clean.shape)
    common = {"system": name, "points": n_points, "noise": noise, "seed": seed}
    found = [ours(system, data)] if method == "discover" else list(theirs(system, data))
    return [{**common, **record} for record in found]


def ours(system: System, data: np.ndarray) -> Record:
    """With the noise estimated and nothing tuned."""
    began = time.perf_counter()
    with warnings.catch_warnings(record=True) as messages:
        warnings.simplefilter("always")
        found = smnn.discover(data, system.step, library=smnn.polynomials(system.degree))
    record = compare(system, found.coefficients)
    true = system.coefficients != 0
    ratio = np.abs(found.coefficients - system.coefficients)[true] / found.standard_errors[true]
    within = int(np.sum(ratio < 2)) if record["exact"] else None
    return {
        "method": OURS,
        **record,
        "within": within,
        "seconds": time.perf_counter() - began,
        "warned": bool(messages),
    }


def theirs(system: System, data: np.ndarray) -> Iterator[Record]:
    """pysindy: every method with a cross-validated threshold, and the one that the truth would choose."""
    began = time.perf_counter()
    found = list(sindy.models(system, data))
    seconds = time.perf_counter() - began
    for method, model in sindy.cross_validated(found).items():
        yield {"method": f"pysindy, {method}", **compare(system, model.coefficients), "seconds": seconds}
    records = [compare(system, model.coefficients) for model in found]
    best = min(records, key=lambda r: (r["missing"] + r["spurious"], np.median(r["errors"])))
    yield {"method": BY_TRUTH, **best, "seconds": seconds}


def compare(system: System, found: np.ndarray) -> Record:
    """Terms that are missing or spurious, and relative errors of the true coefficients."""
    true = system.coefficients != 0
    missing, spurious = int(np.sum(true & (found == 0))), int(np.sum(~true & (found != 0)))
    errors = np.abs(found[true] / system.coefficients[true] - 1)
    return {
        "exact": missing + spurious == 0,
        "missing": missing,
        "spurious": spurious,
        "errors": [float(f"{e:.3g}") for e in errors],
    }


def main() -> None:
    arguments = command_line()
    if arguments.many_variables is not None:
        from .discovery_many import table

        found = table(arguments.many_variables)
        print(found.text())
        if arguments.save:
            (RESULTS.parent / "discovery_many.md").write_text(found.markdown() + "\n", encoding="utf-8")
        return
    records: list[Record] = store.load(arguments.results) if arguments.results.exists() else []
    if arguments.list:
        for system in polynomial_systems().values():
            print(
                f"{system.name}: {system.V} variables, degree {system.degree}, {np.sum(system.coefficients != 0)} terms"
            )
    if not (arguments.report or arguments.list):
        measure(arguments, records)
    if not arguments.list:
        text = report(records)
        print(text)
        arguments.results.with_name("discovery.md").write_text(text, encoding="utf-8")


def command_line() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Discovery of equations, beside pysindy.")
    parser.add_argument("--systems", nargs="+", help="names; all if not given")
    parser.add_argument("--every", type=int, default=1, help="only every so many-th system")
    parser.add_argument("--points", type=int, nargs="+", default=POINTS)
    parser.add_argument("--noise", type=float, nargs="+", default=NOISE)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--budget", type=float, default=float("inf"), help="seconds after which no run is begun")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes")
    parser.add_argument("--threads", type=int, default=1, help="of each process")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--again", action="store_true", help="repeat runs that are in the results, in their place")
    parser.add_argument("--report", action="store_true", help="print the tables only")
    parser.add_argument(
        "--many-variables", nargs="*", metavar="SYSTEM", help="systems of 8 to 20 variables in their place"
    )
    parser.add_argument("--save", action="store_true", help="the table of --many-variables, for the documentation")
    parser.add_argument("--list", action="store_true", help="print the systems only")
    return parser.parse_args()


def measure(arguments: argparse.Namespace, records: list[Record]) -> None:
    """Runs what is missing, as long as the budget lasts; saves after every run.

    The machine must be idle before, and its processes, as many as cores, may then be all that runs.
    """
    names = arguments.systems or list(polynomial_systems())[:: arguments.every]
    done = set() if arguments.again else set(map(task_of, records))
    wanted = [
        (method, name, points, noise, seed)
        for method in arguments.methods
        for seed in range(arguments.seeds)
        for points in arguments.points
        for noise in arguments.noise
        for name in names
        if noise > 0 or seed == 0  # without noise seeds do not differ
    ]
    tasks = [task for task in wanted if task not in done]
    end = time.monotonic() + arguments.budget
    os.environ.update(OMP_NUM_THREADS=str(arguments.threads), OPENBLAS_NUM_THREADS=str(arguments.threads))
    if tasks:
        store.idle()
    left, running = iter(tasks), set[Future[list[Record]]]()
    pool = ProcessPoolExecutor(arguments.workers, mp_context=get_context("spawn"))
    with pool, tqdm(total=len(tasks), unit="run") as bar:
        while True:
            if time.monotonic() < end:
                running |= {pool.submit(run, task) for task in islice(left, arguments.workers - len(running))}
            if not running:
                break
            ended, running = wait(running, return_when=FIRST_COMPLETED)
            for future in ended:
                new = future.result()
                records[:] = [r for r in records if task_of(r) != task_of(new[0])] + new
                bar.update()
            store.save(arguments.results, records)


def task_of(record: Record) -> Task:
    return record["method"].split(",")[0], record["system"], record["points"], record["noise"], record["seed"]


def report(records: list[Record]) -> str:
    """A table for every number of points; `discover` also on the runs that pysindy had, where those are fewer."""
    lines = []
    for points in sorted({r["points"] for r in records}, reverse=True):
        lines += [
            f"{points:,} points a system, at 100 a period:",
            "",
            "| method | noise | runs | all right | median error | worst error | within 2 errors | median s | worst s |",
            "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
        ]
        here = [r for r in records if r["points"] == points]
        for noise in sorted({r["noise"] for r in here}):
            at_noise = [r for r in here if r["noise"] == noise]
            by_method = {m: [r for r in at_noise if r["method"] == m] for m in {r["method"] for r in at_noise}}
            mine, truth = by_method.pop(OURS, []), by_method.pop(BY_TRUTH, [])
            runs = {(r["system"], r["seed"]) for r in truth}
            same = [r for r in mine if (r["system"], r["seed"]) in runs]
            lines += _row(OURS, noise, mine)
            if same and len(same) < len(mine):
                lines += _row(f"{OURS}, the same runs as pysindy", noise, same)
            lines += _row(BY_TRUTH, noise, truth)
            lines += [row for method in sorted(by_method) for row in _row(method, noise, by_method[method])]
        lines.append("")
    lines += _warnings([r for r in records if r["method"] == OURS])
    wrong = [r for r in records if r["method"] == OURS and not r["exact"]]
    if wrong:
        lines += [
            "Runs of discover with a term missing or too many:",
            "",
            "| system | points | noise | missing | spurious | |",
        ]
        lines.append("| --- | --- | --- | --- | --- | --- |")
    for r in sorted(wrong, key=lambda r: (-r["points"], r["noise"], r["system"])):
        said = "warned" if r["warned"] else ""
        cells = r["system"], f"{r['points']:,}", f"{100 * r['noise']:g} %", r["missing"], r["spurious"], said
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    lines += ["", "Systems: " + ", ".join(sorted({r["system"] for r in records})) + "."]
    return "\n".join(lines) + "\n"


def _warnings(records: list[Record]) -> list[str]:
    """How many wrong results had a warning, and how many right ones."""
    lines = [
        "Results of discover with a warning:",
        "",
        "| points | noise | of the wrong ones | of the right ones |",
        "| --- | --- | --- | --- |",
    ]
    groups: dict[tuple[int, str], list[Record]] = {}
    for r in sorted(records, key=lambda r: (-r["points"], r["noise"])):
        names = [f"{100 * r['noise']:g} %", "all"] + (["all, seeds from 1 on"] if r["seed"] else [])
        for name in names:
            groups.setdefault((r["points"], name), []).append(r)
    for (points, name), here in sorted(groups.items(), key=lambda group: group[0][1].startswith("all")):
        shares = []
        for exact in (False, True):
            warned = [r["warned"] for r in here if r["exact"] is exact]
            shares.append(f"{sum(warned)} of {len(warned)}")
        lines.append(f"| {points:,} | {name} | {' | '.join(shares)} |")
    return [*lines, ""]


def _row(method: str, noise: float, records: list[Record]) -> list[str]:
    """A row of a table; none without records."""
    if not records:
        return []
    exact = [r for r in records if r["exact"]]
    errors = np.array([e for r in exact for e in r["errors"]])
    covered = [r for r in exact if r.get("within") is not None]
    within = sum(r["within"] for r in covered) / sum(len(r["errors"]) for r in covered) if covered else None
    seconds = np.array([r["seconds"] for r in records])
    cells = [
        method,
        f"{100 * noise:g} %",
        str(len(records)),
        f"{100 * len(exact) / len(records):.0f} %",
        f"{100 * np.median(errors):.2g} %" if len(errors) else "",
        f"{100 * errors.max():.2g} %" if len(errors) else "",
        f"{100 * within:.0f} %" if within is not None else "",
        f"{np.median(seconds):.1f}",
        f"{seconds.max():.1f}",
    ]
    return ["| " + " | ".join(cells) + " |"]


if __name__ == "__main__":
    main()
