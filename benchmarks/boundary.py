"""Boundary-value problems to a tolerance: `smnn_core.solve` beside `scipy.integrate.solve_bvp` with exact derivatives.

    python -m benchmarks.boundary            the collection at 1e-4, 1e-6, 1e-8, and problems with known figures
    python -m benchmarks.boundary --quick    of each problem the largest and the smallest eps, at 1e-6
    python -m benchmarks.boundary --only T24 T31

With --save all are written to benchmarks/results/boundary.md. Both solvers start from the straight line through the
conditions; where ours fails, continuation in eps is tried and named. True errors are those of the variables between and
on mesh points, relative to the largest value of each, against closed forms, or against our own solution at 1e-11, which
`solve_bvp` started from it confirms or not: the table says how many. Times are processor time; more than `PATIENCE`
seconds of it are a failure. A problem that `solve_bvp` does not solve at one tolerance it is not asked to solve at a
tighter one.
"""

from __future__ import annotations

import argparse
import signal
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from time import process_time, thread_time
from typing import Any

import numpy as np
from tqdm import tqdm

import smnn_core as smnn

from . import boundary_problems as problems
from . import store
from .boundary_problems import BoundaryProblem, by_scipy
from .tables import Table

Array = np.ndarray
RESULTS = Path(__file__).parent / "results" / "boundary.md"
TOLERANCES = (1e-4, 1e-6, 1e-8)
MAX_NODES = 10_000
"""of solve_bvp, ten times its default"""
ROUNDING = 1e-13
"""Relative: errors below are compared with estimates as if they were this large"""
PATIENCE = 5.0
"""Seconds of processor time after which a problem counts as not solved"""
REFERENCE = 1e-11
"""tolerance of solutions that others are compared with"""


@dataclass
class Run:
    """One problem at one tolerance."""

    name: str
    eps: float
    tolerance: float
    solved: bool
    reason: str = ""
    continued: bool = False
    """by continuation in eps"""
    intervals: int = 0
    seconds: float = np.nan
    estimate: float = np.nan
    """relative, as `error`"""
    error: float = np.nan
    peer_solved: bool = False
    peer_error: float = np.nan
    peer_seconds: float = np.nan
    peer_nodes: int = 0


@dataclass
class References:
    """Solutions to compare with, made once for each problem."""

    known: dict[tuple[str, float], Callable[[Array], Array]] = field(default_factory=dict)
    differences: dict[tuple[str, float], float] = field(default_factory=dict)
    """to solve_bvp started from the reference; NaN where it fails"""

    def of(self, problem: BoundaryProblem, start: Any) -> Callable[[Array], Array] | None:
        """t (n,) -> the variables; None where there is none."""
        if problem.exact is not None:
            return problem.exact
        key = problem.name, problem.eps
        if key not in self.known:
            solution = ours(problem, REFERENCE, guess=start)
            if not solution.converged:
                return None
            self.known[key] = lambda t: solution(t)[..., 0]
            self.differences[key] = self.confirm(problem, solution)
        return self.known[key]

    @staticmethod
    def confirm(problem: BoundaryProblem, solution: Any) -> float:
        y = solution(solution.t)
        states = np.stack([y[:, v, r] for v, r in problem.state_of])
        try:
            with patience(PATIENCE), np.errstate(all="ignore"):
                other = by_scipy(problem, 1e-9, mesh=solution.t, states=states, max_nodes=5 * MAX_NODES)
        except TooLongError:
            return np.nan
        if other.status:
            return np.nan
        t = between(solution.t)
        mine = solution(t)[..., 0].T
        places = [problem.state_of.index((v, 0)) for v in range(len(problem.order))]
        return float((np.abs(other.sol(t)[places] - mine).max(1) / np.abs(mine).max(1)).max())


class TooLongError(Exception):
    """A run has taken more than `PATIENCE` seconds."""


@dataclass(frozen=True)
class Unsolved:
    """In place of a solution."""

    reason: str
    converged: bool = False
    status: int = 3
    x: tuple[float, ...] = ()


@contextmanager
def patience(seconds: float) -> Iterator[None]:
    """Raises `TooLongError` in the body after so many seconds of processor time."""

    def give_up(*_: Any) -> None:
        raise TooLongError

    before = signal.signal(signal.SIGPROF, give_up)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def ours(problem: BoundaryProblem, tolerance: float, guess: Any = None) -> Any:
    """The solution, converged or not, without warnings."""
    try:
        with patience(PATIENCE):
            return solution_of(problem, tolerance, guess)
    except TooLongError:
        return Unsolved(f"more than {PATIENCE:.0f} s")
    except Exception as error:
        return Unsolved(f"{type(error).__name__}: {error}")


def peers(problem: BoundaryProblem, tolerance: float) -> Any:
    """The result of solve_bvp."""
    try:
        with patience(PATIENCE), np.errstate(all="ignore"):
            return by_scipy(problem, tolerance, max_nodes=MAX_NODES)
    except TooLongError:
        return Unsolved(f"more than {PATIENCE:.0f} s")


def solution_of(problem: BoundaryProblem, tolerance: float, guess: Any) -> Any:
    times = np.array(problem.ends)
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore", smnn.ConvergenceWarning)
        return smnn.solve(
            problem.residual,
            times,
            problem.conditions,
            tolerance=tolerance,
            order=problem.order,
            constants=np.array(problem.constants) if problem.constants else None,
            guess=problem.guess if guess is None else guess,
        )


def timed(run: Callable[[], Any], repeats: int = 3, enough: float = 2.0) -> tuple[Any, float]:
    """The result and the median time; slow runs are not repeated. Times of the thread, since those of the process are
    multiples of 4 ms where a timer runs (`patience`)."""
    seconds = []
    while len(seconds) < repeats and sum(seconds) < enough:
        begin = thread_time()
        result = run()
        seconds.append(thread_time() - begin)
    return result, median(seconds)


def between(t: Array, n: int = 4) -> Array:
    """Mesh points and n - 1 points in each interval."""
    return np.append((t[:-1, None] + np.diff(t)[:, None] * np.arange(n) / n).ravel(), t[-1])


def relative_error(t: Array, values: Array, exact: Callable[[Array], Array]) -> float:
    """Of values (n, V) at times t: the largest over time, relative to the largest value of each variable."""
    known = exact(t)
    difference = np.abs(values[:, : known.shape[1]] - known).max(0) / np.abs(known).max(0)
    return float(difference.max()) if np.isfinite(difference).all() else np.inf


def measure(problem: BoundaryProblem, tolerance: float, references: References, *, peer: bool) -> Run:
    solution, seconds = timed(lambda: ours(problem, tolerance))
    run = Run(problem.name, problem.eps, tolerance, bool(solution.converged), str(solution.reason), seconds=seconds)
    if not run.solved:
        solution = continuation(problem, tolerance)
        run.solved = run.continued = solution is not None
    if run.solved:
        t = between(solution.t)
        values = solution(t)[..., 0]
        run.intervals = len(solution.t) - 1
        run.estimate = float((solution.largest_error / np.abs(values).max(0)).max())
        exact = references.of(problem, solution)
        if exact is not None:
            run.error = relative_error(t, values, exact)
    else:
        exact = problem.exact
    if peer:
        other, run.peer_seconds = timed(lambda: peers(problem, tolerance))
        run.peer_solved, run.peer_nodes = other.status == 0, len(other.x)
        if run.peer_solved and exact is not None:
            t = between(other.x)
            places = [problem.state_of.index((v, 0)) for v in range(len(problem.order))]
            run.peer_error = relative_error(t, other.sol(t)[places].T, exact)
    return run


def continuation(problem: BoundaryProblem, tolerance: float) -> Any:
    """The solution by way of larger eps, one or three steps a decade; None where that fails, too."""
    number = int(problem.name[1:])
    begin = process_time()
    for steps in (1, 3):
        decades = np.log10(0.1 / problem.eps)
        solution = None
        for eps in 0.1 * 10.0 ** (-decades * np.arange(round(decades * steps) + 1) / max(round(decades * steps), 1)):
            solution = ours(problems.cash(number, float(eps)), tolerance, guess=solution)
            if not solution.converged or process_time() - begin > 2 * PATIENCE:
                break
        if solution.converged:
            return solution
    return None


# ---------------------------------------------------------------------------------------------------- known figures


def special_problems() -> list[BoundaryProblem]:
    """Each with its guess as it stands in `boundary_problems`."""
    return [
        problems.bratu(),
        problems.bratu(upper=True),
        problems.falkner_skan(0.0, 0.469599988361),
        problems.falkner_skan(0.5, 0.9276800398367),
        problems.falkner_skan(1.0, 1.232587656820),
        problems.mathieu(0, -6.0),
        problems.mathieu(1, 2.0),
        problems.mathieu(2, 7.0),
        problems.sturm_liouville(0, 4.0),
        problems.sturm_liouville(1, 10.0),
        problems.sturm_liouville(4, 32.0),
        problems.limit_cycle(),
        problems.lorenz_orbit(),
    ]


def digits(found: float, value: float) -> float:
    """Correct decimal digits, at most 16."""
    return float(min(16.0, -np.log10(max(abs(found / value - 1), 1e-16))))


def special_row(problem: BoundaryProblem, tolerance: float = 1e-10) -> tuple[str, ...]:
    """Name, figure found and known, digits, intervals and seconds."""
    assert problem.figure is not None
    assert problem.value is not None
    solution, seconds = timed(lambda: ours(problem, tolerance))
    if not solution.converged:
        return problem.name, "not solved", f"{problem.value:.12g}", "", "", f"{seconds:.2f}", str(solution.reason)
    ends = solution(np.array(problem.ends))[..., : problem.highest]
    found = problem.figure(ends, solution.constants)
    correct = f"{digits(found, problem.value):.1f}"
    intervals = f"{len(solution.t) - 1}"
    return problem.name, f"{found:.12g}", f"{problem.value:.12g}", correct, intervals, f"{seconds:.2f}", ""


def special_table() -> Table:
    rows = [special_row(problem) for problem in tqdm(special_problems(), desc="known figures")]
    header = ("problem", "found", "known", "digits", "intervals", "seconds", "")
    return Table("Problems with known figures, tolerance 1e-10", header, tuple(rows))


# --------------------------------------------------------------------------------------------------------------- tables


def share(flags: Iterable[bool]) -> str:
    values = list(flags)
    return f"{sum(values)} of {len(values)} ({100 * np.mean(values):.0f} %)" if values else "-"


def is_calibrated(run: Run) -> bool:
    """True if the estimate is at most 10 times the error and at least half of it, as far as rounding shows either."""
    error, estimate = max(run.error, ROUNDING), max(run.estimate, ROUNDING)
    return 0.5 * error <= estimate <= 10 * error


def is_safe(run: Run) -> bool:
    """True if the estimate is at least half the error."""
    return max(run.estimate, ROUNDING) >= 0.5 * run.error


def ratios(runs: Iterable[Run]) -> list[float]:
    """Of our times to those of the peer, of what both solve from the straight line."""
    return [r.seconds / r.peer_seconds for r in runs if r.solved and not r.continued and r.peer_solved]


def summary(runs: list[Run]) -> Table:
    """A column for each tolerance."""
    tolerances = sorted({r.tolerance for r in runs}, reverse=True)
    columns = [[r for r in runs if r.tolerance == tolerance] for tolerance in tolerances]

    def known(column: list[Run]) -> list[Run]:
        return [r for r in column if r.solved and np.isfinite(r.error)]

    def ratio(column: list[Run]) -> str:
        values = ratios(column)
        return f"{median(values):.2f} ({len(values)})" if values else "-"

    lines: list[tuple[str, Callable[[list[Run]], str]]] = [
        ("solved", lambda c: share(r.solved for r in c)),
        ("of these by continuation in eps", lambda c: str(sum(r.continued for r in c))),
        ("solved by solve_bvp", lambda c: share(r.peer_solved for r in c)),
        ("error at most the tolerance", lambda c: share(r.error <= r.tolerance for r in known(c))),
        (
            "the same of solve_bvp",
            lambda c: share(r.peer_error <= r.tolerance for r in c if r.peer_solved and np.isfinite(r.peer_error)),
        ),
        ("estimate within 10 above and 2 below", lambda c: share(is_calibrated(r) for r in known(c))),
        ("estimate at least half the error", lambda c: share(is_safe(r) for r in known(c))),
        ("median time / solve_bvp's, of what both solve", ratio),
        ("seconds of all", lambda c: f"{sum(r.seconds for r in c):.1f}"),
        ("seconds of all by solve_bvp", lambda c: f"{np.nansum([r.peer_seconds for r in c]):.1f}"),
    ]
    rows = tuple((name, *(line(column) for column in columns)) for name, line in lines)
    return Table("The collection", ("", *(f"{tolerance:.0e}" for tolerance in tolerances)), rows)


def each(runs: list[Run], tolerance: float) -> Table:
    """A row for each problem and eps at one tolerance."""
    rows = []
    for r in runs:
        if r.tolerance != tolerance:
            continue
        how = ("continuation" if r.continued else "") if r.solved else r.reason
        mine = (f"{r.intervals}", f"{r.seconds * 1e3:.0f}", f"{r.error:.0e}", f"{r.estimate:.0e}")
        peer = (f"{r.peer_nodes}", f"{r.peer_seconds * 1e3:.0f}", f"{r.peer_error:.0e}" if r.peer_solved else "fails")
        rows.append((r.name, f"{r.eps:.1e}", *(mine if r.solved else ("-",) * 4), *peer, how))
    header = ("problem", "eps", "intervals", "ms", "error", "estimate", "nodes of solve_bvp", "ms", "error", "")
    return Table(f"Each problem, tolerance {tolerance:.0e}", header, tuple(rows))


def confirmed(references: References) -> str:
    differences = np.array(list(references.differences.values()))
    if not len(differences):
        return "All have closed forms."
    ended = np.isfinite(differences)
    line = (
        f"References without closed form: {len(differences)}; solve_bvp started from them ends with {ended.sum()}, "
        f"of which it confirms {(differences[ended] < 1e-6).sum()} to 1e-6"
    )
    apart = [f"{n} {e:.0e}: {d:.0e}" for (n, e), d in references.differences.items() if d >= 1e-6]
    return line + (f"; apart: {', '.join(apart)}." if apart else ".")


def markdown(tables: Iterable[Table], notes: str, quick: bool) -> str:
    parts = [f"## {table.title}\n\n{table.markdown()}\n" for table in tables]
    command = (
        f"`python -m benchmarks.boundary{' --quick' if quick else ''}` prints what follows; times are processor time.\n"
    )
    return "\n".join(["# Boundary-value problems to a tolerance\n", command, *parts, notes, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", nargs="*", help="names of problems, T1 to T33")
    parser.add_argument("--no-peer", action="store_true", help="do not run solve_bvp")
    parser.add_argument("--save", action="store_true", help="write the tables to benchmarks/results/boundary.md")
    arguments = parser.parse_args()
    if arguments.save and (arguments.only or arguments.no_peer):
        parser.error("--save is for all problems, beside solve_bvp: leave out --only and --no-peer.")
    chosen = [p for p in problems.cash_problems() if not arguments.only or p.name in arguments.only]
    tolerances: tuple[float, ...] = TOLERANCES
    if arguments.quick:
        tolerances = (1e-6,)
        ends = {p.name: (max(q.eps for q in chosen if q.name == p.name), p.eps) for p in chosen}
        chosen = [p for p in chosen if p.eps in ends[p.name]]
    with store.measuring(arguments.save):
        references, runs = References(), []
        for problem in tqdm(chosen, desc="collection"):
            peer = not arguments.no_peer
            for tolerance in tolerances:
                run = measure(problem, tolerance, references, peer=peer)
                peer = run.peer_solved
                runs.append(run)
        runs.sort(key=lambda run: (-run.tolerance, int(run.name[1:]), -run.eps))
        tables = [summary(runs)]
        if not arguments.only:
            tables.append(special_table())
        tables += [each(runs, tolerance) for tolerance in tolerances]
        for table in tables:
            print(table.text(), end="\n\n")
        print(confirmed(references))
    if arguments.save:
        RESULTS.write_text(markdown(tables, confirmed(references), arguments.quick), encoding="utf-8")


if __name__ == "__main__":
    main()
