"""Errors on irregular time grids: the published weighting beside that of the schemes, and the estimate of the error.

    python -m benchmarks.grids [--quick]

Each number is the worst error of y over the seeds of a grid, against the closed form of the solution, on [0, 10], of an
equation of order q = 1, 2, 3 with constant coefficients, forced by sin 2t, with y(0) = 1 and no other motion; R is the
number of derivatives carried. Grids have about 200 points: equal steps; jittered by 30 %; uniformly random times;
clusters, steps from 1e-5 to 0.25; geometric, steps from 1e-3 to 10, of equations that come to rest without forcing and
oscillation (which no grid of such steps resolves). "refused" counts problems that raised SingularSystemError.

Results are written to benchmarks/results/grids.json, which the page "Irregular times" draws.
"""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

import smnn_core as smnn

Array = np.ndarray

RESULTS = Path(__file__).parent / "results" / "grids.json"
EQUATIONS = {1: (1.0, 1.0), 2: (4.0, 0.3, 1.0), 3: (1.0, 2.0, 1.5, 1.0)}
"""Coefficients of y, y', ..., by the order of the equation."""
RELAXING = {1: (1.0, 1.0), 2: (2.0, 3.0, 1.0), 3: (1.0, 3.5, 3.5, 1.0)}
"""The same, of equations whose solutions come to rest without oscillating."""
SCHEMES = {
    "TAYLOR": smnn.TAYLOR,
    "HERMITE p=0": replace(smnn.HERMITE, exponent=0.0),
    "HERMITE": smnn.HERMITE,
    "WIENER": smnn.WIENER,
}
TARGETS = {
    ("uniform", 1, 2): (9e-7, 1e-5),
    ("uniform", 2, 3): (2e-6, 2e-5),
    ("uniform", 3, 4): (1e-7, 2e-6),
    ("jitter", 2, 3): (3e-5, 2e-5),
    ("jitter", 3, 4): (8e-6, 3e-6),
    ("random", 1, 2): (3e-3, 4e-4),
    ("random", 2, 3): (2e-3, 1e-3),
    ("random", 2, 5): (9e-5, 3e-6),
    ("random", 3, 4): (5e-4, 8e-5),
    ("clusters", 2, 3): (9e-4, 2e-3),
    ("clusters", 2, 4): (2e-4, 1e-4),
}
"""Of HERMITE and WIENER in float64, by grid, order of the equation and R: to be reached or bettered."""


def solution(equation: tuple[float, ...], forcing: float, t: Array) -> Array:
    """A sum of exponentials, and a wave where there is forcing."""
    order = len(equation) - 1
    roots = np.roots(equation[::-1]).astype(complex)
    wave = forcing / np.polyval(equation[::-1], 2j)
    powers = roots ** np.arange(order)[:, None]
    start = np.eye(order)[0] - np.imag(wave * 2j ** np.arange(order))
    amplitudes = np.linalg.solve(powers, start.astype(complex))
    return np.real(np.exp(np.multiply.outer(t, roots)) @ amplitudes) + np.imag(wave * np.exp(2j * t))


def uniform(rng: np.random.Generator) -> Array:
    del rng
    return np.linspace(0, 10, 201)


def jitter(rng: np.random.Generator) -> Array:
    return np.linspace(0, 10, 201) + np.r_[0, 0.05 * rng.uniform(-0.3, 0.3, 199), 0]


def random(rng: np.random.Generator) -> Array:
    return np.sort(np.r_[0, rng.uniform(0, 10, 199), 10])


def clusters(rng: np.random.Generator) -> Array:
    """Clusters of four points, the distances inside from 1e-5 on, between them up to 0.25."""
    centres = np.linspace(0, 10, 51) + np.r_[0, rng.uniform(-0.02, 0.02, 49), 0]
    inside = np.cumsum(10 ** rng.uniform(-5, -2.5, (50, 3)), axis=1)
    return np.sort(np.r_[centres, (centres[:-1, None] + inside).ravel()])


def geometric(rng: np.random.Generator) -> Array:
    steps = np.geomspace(1e-3, 10, 100) * 10 ** rng.uniform(-0.05, 0.05, 100)
    return np.r_[0, np.cumsum(steps)]


GRIDS = {
    "uniform": (uniform, 1.0, EQUATIONS, 1),
    "jitter": (jitter, 1.0, EQUATIONS, 5),
    "random": (random, 1.0, EQUATIONS, 5),
    "clusters": (clusters, 1.0, EQUATIONS, 5),
    "geometric": (geometric, 0.0, RELAXING, 3),
}
"""The grid, the size of the forcing, the equations, and how many seeds."""


def problem(t: Array, forcing: float, equation: tuple[float, ...], R: int) -> tuple[Array, Array, Array, Array]:
    """The arguments of `solve_ode`."""
    order = len(equation) - 1
    c = np.zeros((1, 1, 1, R + 1))
    c[0, 0, 0, : order + 1] = equation
    u = np.eye(order)[0].reshape(1, 1, order)
    return c, forcing * np.sin(2 * t)[:, None], u, np.diff(t)


def errors(grid: str, order: int, R: int, scheme: smnn.Scheme, engine: str, dtype: str) -> dict[str, float]:
    """The worst error and estimate over the seeds, and how many problems were refused."""
    make, forcing, equations, n_seeds = GRIDS[grid]
    worst = {"error": 0.0, "estimate": 0.0, "refused": 0.0, "seeds": float(n_seeds)}
    for seed in range(n_seeds):
        t = make(np.random.default_rng(seed))
        exact = solution(equations[order], forcing, t)
        arrays = [x.astype(dtype) for x in problem(t, forcing, equations[order], R)]
        try:
            y = smnn.solve_ode(*arrays, scheme=scheme, engine=engine)[:, 0, 0].astype(np.float64)
        except smnn.SingularSystemError:
            worst["refused"] += 1
            continue
        worst["error"] = max(worst["error"], float(np.abs(y - exact).max()))
        if scheme is smnn.HERMITE and engine == "cpu" and dtype == "float64":
            try:
                estimate = smnn.error_estimate(*arrays, scheme=scheme, engine=engine)[:, 0, 0]
                worst["estimate"] = max(worst["estimate"], float(np.abs(estimate).max()))
            except smnn.SingularSystemError:
                worst["estimate"] = math.nan
    if worst["refused"] == n_seeds:
        worst["error"] = math.nan
    return worst


def run(engines: tuple[str, ...], dtypes: tuple[str, ...], orders: tuple[int, ...]) -> list[dict[str, object]]:
    cases = [
        (grid, order, R, scheme, engine, dtype)
        for grid in GRIDS
        for order in orders
        for R in range(order, 6)
        for engine in engines
        for dtype in dtypes
        for scheme in SCHEMES
    ]
    names = "grid", "order", "R", "scheme", "engine", "dtype"
    return [
        dict(zip(names, case, strict=True)) | errors(*case[:3], SCHEMES[case[3]], *case[4:])
        for case in tqdm(cases, desc="grids", unit="case")
    ]


def table(rows: list[dict[str, object]], engine: str, dtype: str) -> str:
    """One line for each grid, order and R."""
    found = {
        (row["grid"], row["order"], row["R"], row["scheme"]): row
        for row in rows
        if (row["engine"], row["dtype"]) == (engine, dtype)
    }
    lines = [f"{engine}, {dtype}: worst error of y", f"{'grid':10} q  R" + "".join(f"{name:>13}" for name in SCHEMES)]
    lines[-1] += "     estimate" if (engine, dtype) == ("cpu", "float64") else ""
    for grid, order, R in dict.fromkeys(key[:3] for key in found):
        cells = []
        for name in SCHEMES:
            row = found[grid, order, R, name]
            refused = f" ({int(row['refused'])}r)" if row["refused"] else ""  # type: ignore[call-overload]
            cells.append(f"{row['error']:.0e}{refused}")
        if (engine, dtype) == ("cpu", "float64"):
            cells.append(f"{found[grid, order, R, 'HERMITE']['estimate']:.0e}")
        lines.append(f"{grid:10} {order}  {R}" + "".join(f"{cell:>13}" for cell in cells))
        if dtype == "float64" and (grid, order, R) in TARGETS:
            reached = [found[grid, order, R, name]["error"] for name in ("HERMITE", "WIENER")]
            # to one digit, as the targets are given
            missed = [
                f"{float(f'{e:.0e}'):.0e} > {t:.0e}"
                for e, t in zip(reached, TARGETS[grid, order, R], strict=True)
                if not float(f"{e:.0e}") <= t
            ]
            lines[-1] += f"   missed: {', '.join(missed)}" if missed else "   reached"
    return "\n".join(lines)


def estimates(rows: list[dict[str, object]]) -> str:
    """How near the estimates of `HERMITE` come, R up to 4."""
    kept = [
        (float(str(row["estimate"])), float(str(row["error"])))
        for row in rows
        if (row["scheme"], row["engine"], row["dtype"]) == ("HERMITE", "cpu", "float64") and int(str(row["R"])) <= 4
    ]
    ratios = [estimate / error for estimate, error in kept if not math.isnan(estimate)]
    return (
        f"estimate over error, HERMITE, R up to 4: {min(ratios):.2f} to {max(ratios):.2f}; none for "
        f"{len(kept) - len(ratios)} of {len(kept)} cases, as the system with two orders more is refused"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the compiled engine in float64 alone, nothing is written")
    quick = parser.parse_args().quick
    engines = ("cpu",) if quick else ("cpu", "array_api")
    dtypes = ("float64",) if quick else ("float64", "float32")
    rows = run(engines, dtypes, (1, 2, 3))
    if not quick:
        RESULTS.write_text(json.dumps(rows, indent=0) + "\n")
    for engine in engines:
        for dtype in dtypes:
            print(table(rows, engine, dtype), end="\n\n")
    print(estimates(rows))


if __name__ == "__main__":
    main()
