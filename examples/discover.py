"""Discovers the equations of a system from noisy, partly missing data, with error bars.

Fits trajectory and coefficients of a polynomial library jointly (`smnn_core.discover`) and leaves out the terms that
the data do not support. Ends with the equations, a table of the coefficients found against the true ones, a picture
in examples/output/discover/ and the worst relative error.

    python examples/discover.py [--system Lorenz] [--noise 0.1] [--points 10000] [--missing 0.2] [--irregular]
    python examples/discover.py --list

Systems: the chaotic ones of the package dysts with polynomial right-hand sides, at its own sampling, and six linear
equations with closed forms (`_linear_odes`); of third order, y, y' and y'' are observed as three variables.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass

import numpy as np
from _experiment import command_line, print_table, save_metrics, save_picture
from _linear_odes import ODES, LinearODE
from scipy.integrate import solve_ivp

import smnn_core as smnn
from benchmarks.systems import System, polynomial_systems


@dataclass(frozen=True)
class Problem:
    """Data without noise, and the truth."""

    t: np.ndarray
    """(T,)"""
    values: np.ndarray
    """(T, V)"""
    degree: int
    order: int
    true: np.ndarray
    """(terms, V)"""


def chaotic(system: System, n_points: int, rng: np.random.Generator | None) -> Problem:
    """A system of dysts, at its own sampling or at as many random times."""
    t = times(system.step * (n_points - 1), n_points, rng)
    solution = solve_ivp(
        lambda _, y: system.right_hand_side(y), (0, t[-1]), system.start, "DOP853", t, rtol=1e-10, atol=1e-10
    )
    return Problem(t, solution.y.T, system.degree, 1, system.coefficients)


def linear(ode: LinearODE, n_points: int, rng: np.random.Generator | None) -> Problem:
    """One of the six equations on [0, 10]."""
    t = times(10.0, n_points, rng)
    third = ode.order == 3
    values = np.stack([ode.exact(t, r) for r in range(3 if third else 1)], axis=-1)
    V, order = values.shape[1], 1 if third else ode.order
    exponents = smnn.polynomials(2).exponents(V * order)
    degrees = exponents.sum(1)
    true = np.zeros((len(exponents), V))
    true[degrees == 0, -1] = ode.rhs
    for r in range(ode.order):
        true[(degrees == 1) & (exponents[:, r] == 1), -1] = -ode.coefficients[r]
        if r + 1 < V:
            true[(degrees == 1) & (exponents[:, r + 1] == 1), r] = 1.0
    return Problem(t, values, 2, order, true)


def times(end: float, n_points: int, rng: np.random.Generator | None) -> np.ndarray:
    """(T,) from 0 to end: equal steps, or uniformly random."""
    if rng is None:
        return np.linspace(0.0, end, n_points)
    return np.sort(np.concatenate([[0.0, end], rng.uniform(0.0, end, n_points - 2)]))


def observe(problem: Problem, noise: float, missing: float, rng: np.random.Generator) -> np.ndarray:
    """Values with normal noise of that many of their deviations; NaN where missing."""
    data = problem.values + noise * problem.values.std(0) * rng.normal(size=problem.values.shape)
    data[rng.random(data.shape) < missing] = np.nan
    return data


def report(found: smnn.Discovery, true: np.ndarray) -> float:
    """Prints found against true; the worst relative error in percent, infinite where a term is spurious or missing."""
    rows, worst = [], 0.0
    for v, variable in enumerate(found.variables):
        for k, term in enumerate(found.terms):
            c, error = found.coefficients[k, v], found.standard_errors[k, v]
            if c == 0 and true[k, v] == 0:
                continue
            relative = 100 * abs(c / true[k, v] - 1) if c and true[k, v] else np.inf
            note = f"{relative:.4f} %" if np.isfinite(relative) else "missing" if true[k, v] else "spurious"
            distance = f"{abs(c - true[k, v]) / error:.1f}" if c else "-"
            left = variable + "'" * found.order
            rows.append([left, term, f"{c:.6g}", f"{error:.2g}" if c else "-", f"{true[k, v]:.6g}", note, distance])
            worst = max(worst, relative)
    print()
    print_table(["equation", "term", "found", "standard error", "true", "error", "in standard errors"], rows)
    print()
    return worst


def parse() -> argparse.Namespace:
    parser = command_line("discover", __doc__, resumes=False)
    parser.add_argument("--system", default="Lorenz", help="a name that --list prints")
    parser.add_argument("--noise", type=float, default=0.1, help="standard deviation of the noise, relative")
    parser.add_argument("--points", type=int, help="time points: 10000, or 1000 of the linear equations")
    parser.add_argument("--missing", type=float, default=0.0, help="share of the values that are missing")
    parser.add_argument("--irregular", action="store_true", help="uniformly random times")
    parser.add_argument("--list", action="store_true", help="print the names of the systems")
    return parser.parse_args()


def main() -> None:
    arguments = parse()
    systems: dict[str, System | LinearODE] = {**{ode.name: ode for ode in ODES}, **polynomial_systems()}
    if arguments.list:
        print("\n".join(systems))
        return
    if arguments.system not in systems:
        raise SystemExit(f"no system {arguments.system!r}: --list prints their names.")
    system = systems[arguments.system]
    default = {"smoke": 400, "quick": 4000}.get(arguments.size, 10_000)
    n_points = arguments.points or (min(default, 1000) if isinstance(system, LinearODE) else default)
    rng = np.random.default_rng(arguments.seed)
    build = linear if isinstance(system, LinearODE) else chaotic
    problem = build(system, n_points, rng if arguments.irregular else None)
    data, steps = observe(problem, arguments.noise, arguments.missing, rng), np.diff(problem.t)
    print(
        f"{arguments.system}: {n_points} points of {data.shape[1]} variables, noise {100 * arguments.noise:g} %, ",
        end="",
    )
    print(f"{100 * np.isnan(data).mean():.0f} % missing, {'random' if arguments.irregular else 'equal'} steps")
    if arguments.device != "cpu":
        import cupy

        data, steps = cupy.asarray(data), cupy.asarray(steps)
    began = time.perf_counter()
    found = smnn.discover(data, steps, library=smnn.polynomials(problem.degree), order=problem.order, progress=True)
    seconds = time.perf_counter() - began
    print(f"\n{found}\n\nin {seconds:.1f} s")
    worst = report(found, problem.true)
    save_picture(found.plot(), arguments.output / "discover.png")
    metric = f"{arguments.system}, {100 * arguments.noise:g} % noise: worst relative error of a coefficient, %"
    save_metrics(
        arguments.output,
        arguments,
        [{"metric": metric, "ours": worst}],
        equations=found.equations,
        coefficients=found.coefficients.tolist(),
        seconds=seconds,
    )
    print(f"worst relative coefficient error: {worst:.4f} %")


if __name__ == "__main__":
    main()
