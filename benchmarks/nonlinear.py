"""Nonlinear equations: errors and times of `solve_nonlinear_ode` beside SciPy and diffrax at the same error.

    python -m benchmarks.nonlinear           prints the tables
    python -m benchmarks.nonlinear --save    and writes benchmarks/results/nonlinear.json, which the documentation shows

Peers are run at tolerances from a ladder; the first is reported whose error is at most ours, or the best of all where
none is. Errors are maxima over the grid, of each variable relative to its scale.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from scipy.integrate import solve_bvp
from tqdm import tqdm

import smnn_core as smnn

from .nonlinear_boundary_problems import LinearProblem, bratu, bratu_exact, linear_problems, linearize_linear
from .nonlinear_problems import InitialValueProblem, energy, initial_value_problems, solve
from .timing import measure

Array = np.ndarray
Result = dict[str, Any]
RESULTS = Path(__file__).parent / "results" / "nonlinear.json"
LADDER = tuple(10.0**-n for n in range(3, 14))
PATIENCE = 20.0
"""Seconds of one run after which no tighter tolerance is tried."""


def ladder(run: Callable[[float], Array], error: Callable[[Array], float], aim: float) -> Result:
    """The first tolerance at which the error is at most `aim`, or the best; the median time of three runs there."""
    best: Result = {"error": np.inf, "seconds": None, "tolerance": None}
    for tolerance in LADDER:
        begin = perf_counter()
        found = error(run(tolerance))
        seconds = perf_counter() - begin
        if found < best["error"]:
            best = {"error": found, "seconds": seconds, "tolerance": tolerance}
        if found <= aim or seconds > PATIENCE:
            break
    if best["tolerance"] is not None:
        timing = measure({"run": lambda: run(best["tolerance"])}, 3, fewer_if_slow=("run",))
        best["seconds"] = timing["run"].seconds
    return best | {"reached": best["error"] <= aim}


def ours(problem: InitialValueProblem) -> smnn.NonlinearSolution:
    return smnn.solve_nonlinear_ode(
        problem.linearize(problem.p),
        problem.initial_values,
        np.diff(problem.t),
        order=problem.order,
        t0=float(problem.t[0]),
        scheme=smnn.HERMITE,
    )


def gradient(problem: InitialValueProblem) -> float:
    """The derivative of the mean of the first variable over the grid with respect to p."""
    solution = ours(problem)
    g = np.zeros_like(solution.y)
    g[:, 0, 0] = 1 / len(g)
    return float(np.sum(solution.vjp(g).f * problem.df_dp(solution.y)))


def kvaerno(problem: InitialValueProblem) -> tuple[Callable[[float], Array], Callable[[float], float]]:
    """x at the times, and the derivative of `gradient`, by diffrax, as functions of the tolerance; both compiled."""
    import diffrax
    import jax
    import jax.numpy as jnp

    jax.config.update("jax_enable_x64", True)
    start, t = jnp.array(problem.start), jnp.array(problem.t)

    def states(p: Any, tolerance: Any) -> Any:
        return diffrax.diffeqsolve(
            diffrax.ODETerm(lambda _, x, p: jnp.stack(problem.field(tuple(x), p))),
            diffrax.Kvaerno5(),
            t0=t[0],
            t1=t[-1],
            dt0=None,
            y0=start,
            args=p,
            saveat=diffrax.SaveAt(ts=t),
            stepsize_controller=diffrax.PIDController(rtol=tolerance, atol=tolerance * 1e-2),
            max_steps=2**20,
            throw=False,
        ).ys

    forward = jax.jit(states)
    backward = jax.jit(jax.grad(lambda p, tolerance: jnp.mean(states(p, tolerance)[:, 0])))
    return (
        lambda tolerance: np.asarray(forward(problem.p, tolerance)),
        lambda tolerance: float(backward(problem.p, tolerance)),
    )


def initial_value(problem: InitialValueProblem) -> Result:
    """One row of the table of initial-value problems."""
    reference, m = problem.reference(), problem.observe(ours(problem).y).shape[-1]

    def error(x: Array) -> float:
        difference = np.abs(x[:, :m] - reference) / np.array(problem.scale)
        return float(np.max(difference)) if np.all(np.isfinite(difference)) else np.inf

    solution = ours(problem)
    found = error(problem.observe(solution.y))
    timing = measure({"solve": lambda: ours(problem), "gradient": lambda: gradient(problem)}, 3)
    row: Result = {
        "name": problem.name,
        "points": problem.t.size,
        "order": problem.order,
        "error": found,
        "aim": problem.aim,
        "converged": bool(solution.converged),
        "iterations": int(solution.iterations),
        "seconds": timing["solve"].seconds,
        "gradient_seconds": timing["gradient"].seconds,
        "gradient": gradient(problem),
        "peers": {},
    }
    if "Hénon" in problem.name:
        row["energy_drift"] = float(np.ptp(energy(solution.y)))
    method = "Radau" if problem.stiff else "DOP853"
    row["peers"][method] = ladder(lambda tolerance: solve(problem, method, tolerance), error, found)
    forward, backward = kvaerno(problem)
    forward(LADDER[0])  # compiles
    peer = row["peers"]["Kvaerno5"] = ladder(forward, error, found)
    if peer["tolerance"] is not None and peer["seconds"] < PATIENCE:
        peer["gradient"] = backward(peer["tolerance"])
        peer["gradient_seconds"] = measure({"g": lambda: backward(peer["tolerance"])}, 1, ("g",))["g"].seconds
    return row


def ends(t: Array, left: float, right: float, batch: tuple[int, ...] = ()) -> Array:
    """Initial values that are given at both ends only."""
    u = np.full((*batch, t.size, 1, 1), np.nan)
    u[..., 0, 0, 0], u[..., -1, 0, 0] = left, right
    return u


def linear_boundary_value(problem: LinearProblem, k: float, points: int, order: int) -> Result:
    """One row of the table of linear boundary-value problems."""
    t = np.linspace(*problem.interval, points)
    exact = problem.exact(t)
    u, scale = ends(t, exact[0], exact[-1]), np.abs(exact).max()
    linearize = linearize_linear(problem)

    def solve_ours() -> smnn.NonlinearSolution:
        return smnn.solve_nonlinear_ode(linearize, u, np.diff(t), order=order, t0=t[0], scheme=smnn.HERMITE)

    def solve_scipy(tolerance: float) -> Array:
        def field(t: Array, x: Array) -> Array:
            second = problem.slope(t) * x[1] + problem.value(t) * x[0] + problem.forcing(t)
            return np.stack([x[1], second / problem.lead(t)])

        def conditions(a: Array, b: Array) -> Array:
            return np.array([a[0] - exact[0], b[0] - exact[-1]])

        mesh = np.linspace(t[0], t[-1], 11)
        run = solve_bvp(field, conditions, mesh, np.zeros((2, 11)), tol=max(tolerance, 1e-13), max_nodes=100_000)
        return run.sol(t)[0]

    solution = solve_ours()
    found = float(np.abs(solution.y[:, 0, 0] - exact).max() / scale)
    return {
        "name": problem.number,
        "parameter": k,
        "points": points,
        "order": order,
        "error": found,
        "converged": bool(solution.converged),
        "iterations": int(solution.iterations),
        "seconds": measure({"ours": solve_ours}, 3)["ours"].seconds,
        "peers": {
            "solve_bvp": ladder(solve_scipy, lambda x: float(np.abs(x - exact).max() / scale), max(found, 1e-9)),
        },
    }


def many_bratu(count: int = 1000, points: int = 33, order: int = 5) -> Result:
    """Bratu's problem for many strengths in one call, with the derivative of y(1/2) by each strength."""
    strengths, t = np.linspace(0.1, 3.4, count), np.linspace(0, 1, points)
    u, linearize, middle = ends(t, 0.0, 0.0, (count,)), bratu(strengths[:, None]), points // 2
    exact = np.stack([bratu_exact(strength, t) for strength in strengths])

    def both() -> tuple[smnn.NonlinearSolution, Array]:
        solution = smnn.solve_nonlinear_ode(linearize, u, np.diff(t), order=order, scheme=smnn.HERMITE)
        g = np.zeros_like(solution.y)
        g[:, middle, 0, 0] = 1
        return solution, np.sum(solution.vjp(g).f[..., 0] * np.exp(solution.y[..., 0, 0]), axis=-1)

    def one_by_one() -> Array:
        def one(strength: float) -> Array:
            def field(_: Array, x: Array) -> Array:
                return np.stack([x[1], -strength * np.exp(x[0])])

            mesh = t[::4]
            run = solve_bvp(field, lambda a, b: np.array([a[0], b[0]]), mesh, np.zeros((2, mesh.size)), tol=1e-6)
            return run.sol(t)[0]

        return np.stack([one(strength) for strength in strengths])

    (solution, slope), h = both(), 1e-4
    expected = [(bratu_exact(s + h, t)[middle] - bratu_exact(s - h, t)[middle]) / (2 * h) for s in strengths]
    begin = perf_counter()
    peer = one_by_one()
    return {
        "count": count,
        "points": points,
        "order": order,
        "error": float(np.abs(solution.y[..., 0, 0] - exact).max()),
        "gradient_error": float(np.abs(slope / expected - 1).max()),
        "converged": int(np.sum(solution.converged)),
        "iterations": int(np.max(solution.iterations)),
        "gradient_seconds": measure({"both": both}, 3)["both"].seconds,
        "peers": {"solve_bvp": {"seconds": perf_counter() - begin, "error": float(np.abs(peer - exact).max())}},
    }


def run() -> Result:
    """All figures."""
    problems = initial_value_problems()
    # number 16 has 50 half waves for k = 0.01, which take an order more
    linear = [
        (p, k, points, 5 if p.number == 16 else 4)
        for k, points in ((1.0, 101), (0.01, 2001))
        for p in linear_problems(k)
    ]
    bar = tqdm(total=len(problems) + len(linear) + 1, file=sys.stderr)

    def step(row: Result) -> Result:
        bar.update(1)
        return row

    return {
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
        "initial_value": [step(initial_value(p)) for p in problems],
        "bratu": step(many_bratu()),
        "linear": [step(linear_boundary_value(*arguments)) for arguments in linear],
    }


def cell(peer: Result | None) -> str:
    """Time at the same error, or what was reached instead."""
    if not peer or peer["seconds"] is None:
        return "fails"
    time = f"{peer['seconds']:.2g} s"
    return time if peer.get("reached", True) else f"{time} for {peer['error']:.0e}"


def tables(results: Result) -> Iterator[str]:
    """The results as three Markdown tables."""
    yield f"{results['cores']} cores" + (
        f", busy with other work (load {results['load']:.1f}): times are too long and scattered."
        if results["load"] > results["cores"]
        else "."
    )
    yield ""
    columns = "points, R", "error", "time", "DOP853 or Radau", "Kvaerno5", "with gradient", "Kvaerno5 with gradient"
    yield f"| initial-value problem | {' | '.join(columns)} |"
    yield "| --- | --- | --- | --- | --- | --- | --- | --- |"
    for r in results["initial_value"]:
        peers = dict(r["peers"])
        kvaerno5 = peers.pop("Kvaerno5")
        (name, scipy_peer), *_ = peers.items()
        backward = f"{kvaerno5['gradient_seconds']:.2g} s" if "gradient_seconds" in kvaerno5 else "-"
        drift = f", energy within {r['energy_drift']:.0e}" if "energy_drift" in r else ""
        flag = "" if r["converged"] else " (not converged)"
        yield (
            f"| {r['name']} | {r['points']:,}, {r['order']} | {r['error']:.0e}{drift}{flag} | {r['seconds']:.2g} s | "
            f"{name}: {cell(scipy_peer)} | {cell(kvaerno5)} | {r['gradient_seconds']:.2g} s | {backward} |"
        )
    b = results["bratu"]
    yield ""
    columns = "points, R", "converged", "error", "error of the gradient", "time with gradient"
    yield f"| Bratu, in one call | {' | '.join(columns)} | solve_bvp, one by one, no gradient |"
    yield "| --- | --- | --- | --- | --- | --- | --- |"
    peer = b["peers"]["solve_bvp"]
    yield (
        f"| {b['count']:,} problems | {b['points']}, {b['order']} | {b['converged']:,} | {b['error']:.0e} | "
        f"{b['gradient_error']:.0e} | {b['gradient_seconds']:.2g} s | {peer['seconds']:.2g} s for {peer['error']:.0e} |"
    )
    yield ""
    yield (
        "| linear boundary-value problem | "
        + " | ".join(
            f"λ = {k:g}: error | time | solve_bvp" for k in dict.fromkeys(r["parameter"] for r in results["linear"])
        )
        + " |"
    )
    yield "| --- |" + " --- | --- | --- |" * 2
    for number in dict.fromkeys(r["name"] for r in results["linear"]):
        rows = [r for r in results["linear"] if r["name"] == number]
        cells = (f"{r['error']:.0e} | {1e3 * r['seconds']:.2g} ms | {cell(r['peers']['solve_bvp'])}" for r in rows)
        yield f"| {number} | " + " | ".join(cells) + " |"


def missed(results: Result) -> list[str]:
    """What falls short of the aims."""
    short = [
        f"{r['name']}: {what}"
        for r in results["initial_value"]
        for what, failed in (
            (f"error {r['error']:.1e} > {r['aim']:g}", not r["error"] <= r["aim"]),
            ("not converged", not r["converged"]),
            (f"energy drifts by {r.get('energy_drift', 0):.1e}", r.get("energy_drift", 0) > 1e-6),
            (f"{r['seconds']:.2f} s > 0.5 s", "1000" in r["name"] and r["seconds"] > 0.5),
        )
        if failed
    ]
    b = results["bratu"]
    if b["converged"] < b["count"] or b["error"] > 1e-6 or b["gradient_error"] > 1e-6 or b["gradient_seconds"] > 0.5:
        short.append(f"Bratu: {b}")
    bad = [r for r in results["linear"] if not (r["converged"] and r["error"] <= 1e-6)]
    return short + [f"linear problem {r['name']}, λ = {r['parameter']:g}: {r['error']:.1e}" for r in bad]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--save", action="store_true", help=f"write {RESULTS.name}")
    save = parser.parse_args().save
    results = run()
    print("\n".join(tables(results)))
    print("\nmissed:" if (short := missed(results)) else "\nall aims reached")
    print("\n".join(short))
    if save:
        RESULTS.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
