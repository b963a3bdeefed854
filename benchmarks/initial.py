"""Initial-value problems: work against precision of `smnn_core.solve` beside SciPy and diffrax.

    python -m benchmarks.initial                 all problems
    python -m benchmarks.initial --quick         those of up to ten variables that take less than a second
    python -m benchmarks.initial --only HIRES    by the beginning of the name
    python -m benchmarks.initial --gradients     times of gradients through PyTorch; --quick and --only as above
    python -m benchmarks.initial --batch 1000    van der Pol's equation, μ = 1 to 1,000, with gradients, beside diffrax
    python -m benchmarks.initial --references    how far two methods of SciPy at 1e-13 and the references agree

With --save all problems are written to benchmarks/results/initial.md. Each solver runs at tolerances from 1e-3 to
1e-13, the absolute ones relative to the size of each variable, until it takes more than `PATIENCE` seconds; the time
for an error is that of its fastest run with at most this error at the times where the solution is known. Ours and
SciPy's run Python with exact derivatives (LSODA and Radau with banded or sparse ones where they are), diffrax compiled
code without the time of compilation. Times are those of the processor, all threads together: set OMP_NUM_THREADS=1.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import perf_counter, process_time
from typing import Any

import numpy as np
from scipy.integrate import solve_ivp
from scipy.sparse import csc_matrix
from tqdm import tqdm

import smnn_core as smnn

from . import store
from .initial_problems import (
    FLOATS,
    AlgebraicProblem,
    InitialProblem,
    batch_field,
    initial_problems,
    pendulum,
    transistor_amplifier,
)
from .tables import Table

Array = np.ndarray
RESULTS = Path(__file__).parent / "results" / "initial.md"
LADDER = tuple(10.0**-n for n in range(3, 14))
AIMS = (1e-4, 1e-6, 1e-8, 1e-10)
MEDIANS = "Medians of ratios of times (number of problems)"
BATCH = "Van der Pol equations, μ = 1 to 1,000, with gradients, tolerance 1e-6: seconds"
PATIENCE = 1.0
"""Seconds of one run after which no tighter tolerance is tried."""
LIMIT = 5
"""Runs of SciPy that take so many times longer are ended."""
MOST_INTERVALS = 200_000
MOST_COMPILED = 40
"""states of problems that diffrax runs: compilation of more takes minutes"""
Curve = list[tuple[float, float]]
"""errors and seconds"""


# ------------------------------------------------------------------------------------------------------------- solvers


def quiet(run: Callable[[], Any]) -> Any:
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        return run()


def ours(problem: InitialProblem, tolerance: float) -> Array:
    """States at the times where the solution is known, whatever its estimate of the global error says."""
    solution = smnn.solve(
        problem.residual,
        np.array([0.0, problem.end]),
        problem.conditions,
        tolerance=tolerance,
        absolute=problem.absolute,
        order=problem.order,
        max_intervals=MOST_INTERVALS,
    )
    return problem.states(solution(problem.times))


def by_scipy(problem: InitialProblem, method: str, tolerance: float) -> Array:
    S = len(problem.start)
    sizes = np.resize(np.array(problem.largest), S)
    options: dict[str, Any] = {}
    if method == "LSODA" and problem.band:
        options = {"lband": problem.band, "uband": problem.band}
    elif method == "Radau" and problem.band:
        options = {"jac": lambda t, z: sparse(problem, t, z)}
    elif method != "DOP853":
        options = {"jac": problem.jacobian_matrix}
    deadline = process_time() + LIMIT * PATIENCE

    def derivatives(t: float, z: Array) -> list[Any]:
        if process_time() > deadline:
            raise TimeoutError
        return problem.derivatives(t, z)

    run = solve_ivp(
        derivatives,
        (0.0, problem.end),
        problem.start,
        method=method,
        t_eval=problem.times,
        rtol=max(tolerance, 2.3e-14),
        atol=tolerance * sizes,
        **options,
    )
    return run.y.T if run.success else np.full((len(problem.times), S), np.nan)


def sparse(problem: InitialProblem, t: float, z: Array) -> Any:
    entries = problem.jacobian(t, z.tolist(), FLOATS)
    rows, columns = zip(*entries, strict=True)
    return csc_matrix((list(entries.values()), (rows, columns)), shape=(z.size, z.size))


def by_diffrax(problem: InitialProblem, method: str) -> Callable[[float], Array]:
    """A compiled function of the tolerance."""
    import diffrax
    import jax
    import jax.numpy as jnp

    jax.config.update("jax_enable_x64", True)
    V, sizes = len(problem.start) // problem.order, jnp.resize(jnp.array(problem.largest), len(problem.start))

    def slopes(t: Any, z: Any, _: Any) -> Any:
        top = jnp.stack(jnp.broadcast_arrays(*problem.field(t, list(z), jnp)))
        return jnp.concatenate([z[V:], top]) if problem.order == 2 else top

    @jax.jit
    def run(tolerance: Any) -> Any:
        return diffrax.diffeqsolve(
            diffrax.ODETerm(slopes),
            getattr(diffrax, method)(),
            t0=0.0,
            t1=problem.end,
            dt0=None,
            y0=jnp.array(problem.start),
            saveat=diffrax.SaveAt(ts=jnp.array(problem.times)),
            stepsize_controller=diffrax.PIDController(rtol=tolerance, atol=tolerance * sizes),
            max_steps=2**17,
            throw=False,
        ).ys

    run(LADDER[0])
    return lambda tolerance: np.asarray(run(tolerance))


def solvers(problem: InitialProblem) -> dict[str, Callable[[float], Array]]:
    found: dict[str, Callable[[float], Array]] = {"smnn": lambda tolerance: ours(problem, tolerance)}
    for method in ("Radau", "LSODA", *(() if problem.stiff else ("DOP853",))):
        found[method] = lambda tolerance, method=method: by_scipy(problem, method, tolerance)
    if len(problem.start) <= MOST_COMPILED:
        for method in ("Kvaerno5", *(() if problem.stiff else ("Tsit5",))):
            found[method] = by_diffrax(problem, method)
    return found


# --------------------------------------------------------------------------------------------------------- measurement


def work(run: Callable[[float], Array], error: Callable[[Array], float], digits: int = 12) -> Curve:
    """Errors and times along the ladder; quick runs are repeated."""
    curve: Curve = []
    for tolerance in LADDER:
        seconds = []
        while not seconds or (len(seconds) < 3 and sum(seconds) < 0.5):
            begin = process_time()
            try:
                result = quiet(lambda tolerance=tolerance: run(tolerance))
            except TimeoutError:
                result = None
            seconds.append(process_time() - begin)
        curve.append((np.inf if result is None else error(result), median(seconds)))
        if curve[-1][0] < 10.0**-digits or seconds[0] > PATIENCE:
            break
    return curve


def seconds_for(curve: Curve, aim: float) -> float:
    """The time of the fastest run with at most this error; infinite where none has."""
    return min((seconds for error, seconds in curve if error <= aim), default=np.inf)


def measure(problem: InitialProblem) -> dict[str, Curve]:
    return {name: work(run, problem.error, problem.digits) for name, run in quiet(lambda: solvers(problem)).items()}


def algebraic(problem: AlgebraicProblem) -> dict[str, Curve]:
    """Ours, and SciPy on the explicit form where there is one."""

    def run(tolerance: float) -> Array:
        solution = smnn.solve(
            problem.residual, np.array([0.0, problem.end]), problem.conditions, tolerance=tolerance, order=problem.order
        )
        return solution(problem.end)[..., 0]

    curves = {"smnn": work(run, problem.error, 11)}
    if (explicit := problem.explicit) is not None:
        for method in ("Radau", "LSODA", "DOP853"):
            curves[method] = work(lambda x, method=method: by_scipy(explicit, method, x), explicit.error, 11)
    return curves


# ------------------------------------------------------------------------------------------------- batches, gradients


def batch(members: int) -> Table:
    """Van der Pol's equation with μ from 1 to 1,000: y(2) of each, and the gradient of their sum by μ.

    Ours through PyTorch with a mesh for each member; diffrax's Kvaerno5 under vmap and jit, compiled before.
    """
    import diffrax
    import jax
    import jax.numpy as jnp
    import torch

    import smnn_torch

    jax.config.update("jax_enable_x64", True)
    stiffness, tolerance = np.geomspace(1, 1000, members), 1e-6

    def through_torch() -> tuple[Array, Array]:
        μ = torch.tensor(stiffness, requires_grad=True)
        solution = smnn_torch.solve(
            lambda t, y: (y[..., 0, 2] - batch_field(y[..., 0, 0], y[..., 0, 1], μ[:, None]))[..., None],
            torch.tensor([0.0, 2.0], dtype=torch.float64),
            torch.tensor([[2.0, 0.0]], dtype=torch.float64).expand(members, 1, 2),
            tolerance=tolerance,
            order=2,
        )
        ends = solution(torch.tensor([2.0], dtype=torch.float64))[:, 0, 0, 0]
        (gradient,) = torch.autograd.grad(ends.sum(), μ)
        return ends.detach().numpy(), gradient.numpy()

    def one(μ: Any) -> Any:
        return diffrax.diffeqsolve(
            diffrax.ODETerm(lambda t, z, μ: jnp.stack([z[1], batch_field(z[0], z[1], μ)])),
            diffrax.Kvaerno5(),
            t0=0.0,
            t1=2.0,
            dt0=1e-7,
            y0=jnp.array([2.0, 0.0]),
            args=μ,
            stepsize_controller=diffrax.PIDController(rtol=tolerance, atol=tolerance),
            max_steps=2**16,
            throw=False,
        ).ys[0, 0]

    compiled = jax.jit(jax.vmap(jax.value_and_grad(one)))

    def through_jax() -> tuple[Array, Array]:
        ends, gradient = compiled(jnp.array(stiffness))
        return np.asarray(ends), np.asarray(gradient)

    rows, found = [], {}
    for name, run in (("smnn_torch.solve", through_torch), ("Kvaerno5, vmap and jit", through_jax)):
        try:
            if run is through_jax:
                run()  # compiles
            begin = perf_counter()
            found[name] = quiet(run)
            rows.append((name, f"{perf_counter() - begin:.2f}"))
        except Exception as error:  # where a member fails, its gradient may end the whole
            rows.append((name, f"fails: {type(error).__name__}"))
    notes = tuple(f"{name}: {np.isfinite(ends).sum()} solved." for name, (ends, _) in found.items())
    if len(found) == 2:
        (mine, my_slopes), (theirs, their_slopes) = found.values()
        both = np.isfinite(mine) & np.isfinite(theirs)
        slopes = (np.abs(my_slopes - their_slopes) / np.abs(my_slopes).max())[both].max()
        notes += (f"Values differ by at most {np.abs(mine - theirs)[both].max():.0e}, gradients by {slopes:.0e}.",)
    return Table(BATCH, (f"{members} equations", "seconds"), tuple(rows), notes)


def gradient_ratio(problem: InitialProblem, tolerance: float = 1e-6) -> tuple[str, str, str]:
    """Name, seconds of a solution through PyTorch, and the time of a gradient by the initial values in solutions."""
    import torch

    import smnn_torch

    V, R = problem.variables, problem.order

    def residual(t: Any, y: Any) -> Any:
        z = [y[..., v, r] for r in range(R) for v in range(V)]
        return y[..., R] - torch.stack(torch.broadcast_tensors(*map(torch.as_tensor, problem.field(t, z, torch))), -1)

    start = torch.tensor(problem.conditions, requires_grad=True)
    begin = perf_counter()
    solution = quiet(
        lambda: smnn_torch.solve(
            residual, torch.tensor([0.0, problem.end], dtype=torch.float64), start, tolerance=tolerance, order=R
        )
    )
    middle = perf_counter()
    if not solution.converged:
        return problem.name, f"{middle - begin:.2f}", "not solved"
    ends = solution(torch.tensor([problem.end], dtype=torch.float64))[0, :, 0]
    torch.autograd.grad(ends.sum(), start)
    return problem.name, f"{middle - begin:.2f}", f"{(perf_counter() - middle) / (middle - begin):.2f}"


def gradient_table(problems: list[InitialProblem]) -> Table:
    rows = tuple(gradient_ratio(problem) for problem in tqdm(problems, desc="gradients"))
    return Table("Gradients through PyTorch, tolerance 1e-6", ("problem", "seconds", "gradient / solution"), rows)


# --------------------------------------------------------------------------------------------------------------- tables


def cell(curve: Curve | None, aim: float) -> str:
    if curve is None:
        return ""
    seconds = seconds_for(curve, aim)
    if np.isfinite(seconds):
        return f"{seconds * 1e3:.3g}"
    last = curve[-1][1]
    return f"> {last * 1e3:.0f}" if last > PATIENCE else "-"


def work_table(results: dict[str, dict[str, Curve]], aim: float) -> Table:
    names = list(dict.fromkeys(name for curves in results.values() for name in curves))
    rows = [(problem, *(cell(curves.get(name), aim) for name in names)) for problem, curves in results.items()]
    return Table(f"Milliseconds for an error of {aim:.0e}", ("problem", *names), tuple(rows))


def speeds(results: dict[str, dict[str, Curve]], peer: str, aims: tuple[float, ...], only: set[str]) -> list[float]:
    """Times of a peer divided by ours, of each problem and aim that both reach."""
    pairs = [
        (seconds_for(curves[peer], aim), seconds_for(curves["smnn"], aim))
        for name, curves in results.items()
        if name in only and peer in curves
        for aim in aims
    ]
    return [theirs / mine for theirs, mine in pairs if np.isfinite(theirs) and np.isfinite(mine)]


def figures(results: dict[str, dict[str, Curve]], small: set[str]) -> Table:
    """The ratios that are aimed at."""
    everything = set(results)

    def ratio(values: list[float]) -> str:
        return f"{median(values):.2f} ({len(values)})" if values else "-"

    van_der_pol = next((c["smnn"] for n, c in results.items() if n.startswith("van der Pol, μ")), [])
    rows = [
        ("Radau / ours at 1e-8 and 1e-10", ratio(speeds(results, "Radau", (1e-8, 1e-10), everything)), "5 or more"),
        ("ours / LSODA at 1e-6, up to 10 variables", "", "2 or less"),
        ("van der Pol, μ = 1e3, error 1e-6, seconds", f"{seconds_for(van_der_pol, 1e-6):.2f}", "0.2 or less"),
    ]
    rows[1] = (rows[1][0], ratio([1 / x for x in speeds(results, "LSODA", (1e-6,), small)]), rows[1][2])
    for peer in ("Radau", "LSODA", "DOP853", "Kvaerno5", "Tsit5"):
        for aim in AIMS[1:]:
            rows.append((f"{peer} / ours at {aim:.0e}", ratio(speeds(results, peer, (aim,), everything)), ""))
    for solver in ("smnn", "LSODA", "Radau"):
        for aim in AIMS[1:]:
            reached = [np.isfinite(seconds_for(c[solver], aim)) for c in results.values() if solver in c]
            rows.append((f"{solver}: {aim:.0e} reached", f"{sum(reached)} of {len(reached)}", ""))
    return Table(MEDIANS, ("", "measured", "aim"), tuple(rows))


def precision_table(results: dict[str, dict[str, Curve]]) -> Table:
    """Errors of ours at each tolerance."""
    rows = [
        (name, *(f"{error:.0e}" for error, _ in curves["smnn"]), *("",) * (len(LADDER) - len(curves["smnn"])))
        for name, curves in results.items()
    ]
    return Table("Errors of ours by tolerance", ("problem", *(f"{x:.0e}" for x in LADDER)), tuple(rows))


def references(problems: list[InitialProblem]) -> Table:
    """How far Radau, or DOP853 where nothing is stiff, and LSODA at 1e-13 are from the references."""
    rows = []
    for problem in tqdm(problems, desc="references"):
        methods = ("Radau" if problem.stiff else "DOP853", "LSODA")
        errors = [problem.error(quiet(lambda m=m, p=problem: by_scipy(p, m, 1e-13))) for m in methods]
        rows.append((problem.name, *(f"{m}: {e:.0e}" for m, e in zip(methods, errors, strict=True))))
    return Table("Differences from the references, at 1e-13", ("problem", "", ""), tuple(rows))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", nargs="*", help="beginnings of names")
    parser.add_argument("--references", action="store_true")
    parser.add_argument("--batch", type=int, metavar="MEMBERS", help="the batch with gradients, alone")
    parser.add_argument("--gradients", action="store_true", help="times of gradients, alone")
    parser.add_argument("--save", action="store_true", help="write the tables to benchmarks/results/initial.md")
    arguments = parser.parse_args()
    if arguments.save and (arguments.only or arguments.quick):
        parser.error("--save is for all problems: leave out --only and --quick.")
    if arguments.batch:
        print(batch(arguments.batch).text())
        return
    explicit = initial_problems()
    implicit = [pendulum(1), pendulum(2), pendulum(3), transistor_amplifier()]
    if arguments.only:
        explicit, implicit = (
            [p for p in chosen if any(p.name.startswith(x) for x in arguments.only)] for chosen in (explicit, implicit)
        )
    if arguments.quick:
        explicit = [p for p in explicit if len(p.start) <= 10]
    if arguments.references:
        print(references(explicit).text())
        return
    if arguments.gradients:
        print(gradient_table(explicit).text())
        return
    small = {p.name for p in explicit if len(p.start) <= 10} | {p.name for p in implicit}
    with store.measuring(arguments.save):
        results: dict[str, dict[str, Curve]] = {}
        for problem in tqdm([*explicit, *implicit], desc="problems"):
            curves = measure(problem) if isinstance(problem, InitialProblem) else algebraic(problem)
            results[problem.name] = curves
            cells = {name: ", ".join(cell(curve, aim) for aim in AIMS) for name, curve in curves.items()}
            times = "; ".join(f"{name} {those}" for name, those in cells.items())
            tqdm.write(f"{problem.name}, ms for errors of {AIMS}: {times}")
        tables = [figures(results, small), *(work_table(results, aim) for aim in AIMS), precision_table(results)]
        if not (arguments.only or arguments.quick):
            tables += [gradient_table([p for p in explicit if len(p.start) <= 10]), batch(1000)]
        for table in tables:
            print(table.text(), end="\n\n")
    if arguments.save:
        parts = [f"## {table.title}\n\n{table.markdown()}\n" for table in tables]
        head = "# Initial-value problems to a tolerance\n\n`python -m benchmarks.initial` prints what follows.\n"
        RESULTS.write_text("\n".join([head, *parts]), encoding="utf-8")


if __name__ == "__main__":
    main()
