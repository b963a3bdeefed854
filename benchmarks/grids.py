"""Errors on time grids of many kinds: schemes, estimates, gradients, and the choice of HERMITE's light row.

    python -m benchmarks.grids [--quick | --light]

Each number is the worst error of y over the seeds of a grid, against the closed form of the solution; R is the
number of derivatives carried.

- Equations of order q = 1, 2, 3 with constant coefficients on [0, 10], forced by sin 2t, y(0) = 1 and no other motion.
  About 200 points: equal steps; jittered by 30 %; uniformly random times; clusters, steps from 1e-5 to 0.25; geometric,
  steps from 1e-3 to 10, of equations that come to rest without forcing and oscillation (which no grid of such steps
  resolves).
- Layers: eps y'' = y on [0, 1], eps = 1e-6, with a layer at 0 (y = exp(-t / sqrt(eps))) or at both ends, on 51, 101 and
  401 points, half of them in the layers ("layer", "layers"), and piecewise uniform ("shishkin"). "gradient" is the
  relative error of the derivative by eps of the integral of y / sqrt(eps).

"refused" counts problems that raised SingularSystemError. Results are written to benchmarks/results/grids.json, which
the page "Irregular times" draws. `--light` prints, for exponents p and light rows of HERMITE, in how many cases the
error exceeds 30 times that of the best of them.
"""

from __future__ import annotations

import argparse
import math
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

import smnn_core as smnn
from smnn_core import _schemes

from . import store

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
LAYER = 1e-6
"""eps."""
LAYERED = [f"{kind} {points}" for kind in ("layer", "layers", "shishkin") for points in (51, 101, 401)]


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


def layer_mesh(points: int, layers: int) -> Array:
    """Half of the points where exp(-t / 4 sqrt(eps)), t the distance to a layer, has most of its change."""
    width = 4 * np.sqrt(LAYER)
    fine = np.geomspace(1e-10, 0.5, 10_000)
    t = np.unique(np.r_[0, fine, 1 - fine, 1])
    share = t + (1 - np.exp(-t / width)) + (layers == 2) * (np.exp((t - 1) / width) - np.exp(-1 / width))
    return np.interp(np.linspace(0, share[-1], points), share, t)


def shishkin_mesh(points: int) -> Array:
    """A quarter of the steps in each of the two layers, of the width 4 sqrt(eps) log(points)."""
    steps, width = points - 1, 4 * np.sqrt(LAYER) * np.log(points)
    layer = np.linspace(0, width, steps // 4 + 1)
    return np.r_[layer, np.linspace(width, 1 - width, steps - 2 * (steps // 4) + 1)[1:-1], (1 - layer)[::-1]]


def layered(grid: str, R: int) -> tuple[tuple[Array, ...], Array]:
    """The arguments of `solve_ode` for eps y'' = y, and the solution."""
    kind, points = grid.split()
    layers = 1 if kind == "layer" else 2
    t = shishkin_mesh(int(points)) if kind == "shishkin" else layer_mesh(int(points), layers)
    c = np.zeros((1, 1, 1, R + 1))
    c[..., 0], c[..., 2] = -1, LAYER
    y = np.exp(-t / np.sqrt(LAYER)) + (layers == 2) * np.exp((t - 1) / np.sqrt(LAYER))
    return (c, np.zeros((1, 1)), smnn.conditions(len(t), {0: y[0], -1: y[-1]}), np.diff(t)), y


def problems(grid: str, order: int, R: int) -> list[tuple[tuple[Array, ...], Array]]:
    """Arguments of `solve_ode` and solution, for each of the seeds."""
    if grid in LAYERED:
        return [layered(grid, R)] if order == 2 else []
    make, forcing, equations, n_seeds = GRIDS[grid]
    grids = [make(np.random.default_rng(seed)) for seed in range(n_seeds)]
    return [(problem(t, forcing, equations[order], R), solution(equations[order], forcing, t)) for t in grids]


def gradient_error(arrays: list[Array], scheme: smnn.Scheme, engine: str) -> float:
    """Of d/d eps of the integral of y / sqrt(eps) by the trapezoidal rule, one layer or two."""
    y, vjp = smnn.solve_ode_vjp(*arrays, scheme=scheme, engine=engine)
    s = arrays[-1].astype(np.float64)
    t, weight = np.r_[0, np.cumsum(s)], (np.r_[s, 0] + np.r_[0, s]) / 2 / np.sqrt(LAYER)
    g = np.zeros_like(y)
    g[:, 0, 0] = weight
    found = float(vjp(g).coefficients[0, 0, 0, 2])
    slope = t / (2 * LAYER**1.5) * np.exp(-t / np.sqrt(LAYER))
    layers = 1 if arrays[2][-1, 0, 0] < 0.5 else 2
    expected = np.sum(weight * (slope + (layers == 2) * slope[::-1]))
    return abs(found / float(expected) - 1)


def errors(grid: str, order: int, R: int, scheme: smnn.Scheme, engine: str, dtype: str) -> dict[str, float]:
    """The worst error and estimate over the seeds, and how many problems were refused."""
    cases = problems(grid, order, R)
    worst = {"error": 0.0, "estimate": 0.0, "refused": 0.0, "seeds": float(len(cases))}
    for arguments, exact in cases:
        arrays = [x.astype(dtype) for x in arguments]
        try:
            y = smnn.solve_ode(*arrays, scheme=scheme, engine=engine)[:, 0, 0].astype(np.float64)
        except smnn.SingularSystemError:
            worst["refused"] += 1
            continue
        worst["error"] = max(worst["error"], float(np.abs(y - exact).max()))
        if grid in LAYERED:
            worst["gradient"] = gradient_error(arrays, scheme, engine)
        if scheme is smnn.HERMITE and engine == "cpu" and dtype == "float64":
            try:
                estimate = smnn.error_estimate(*arrays, scheme=scheme, engine=engine)[:, 0, 0]
                worst["estimate"] = max(worst["estimate"], float(np.abs(estimate).max()))
            except smnn.SingularSystemError:
                worst["estimate"] = math.nan
    if worst["refused"] == len(cases):
        worst["error"] = math.nan
    return worst


def run(engines: tuple[str, ...], dtypes: tuple[str, ...], orders: tuple[int, ...]) -> list[dict[str, object]]:
    cases = [
        (grid, order, R, scheme, engine, dtype)
        for grid in (*GRIDS, *LAYERED)
        for order in (orders if grid in GRIDS else (2,))
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
    lines = [f"{engine}, {dtype}: worst error of y", f"{'grid':12} q  R" + "".join(f"{name:>13}" for name in SCHEMES)]
    lines[-1] += "     estimate" if (engine, dtype) == ("cpu", "float64") else ""
    lines[-1] += "     gradient by HERMITE, WIENER"
    for grid, order, R in dict.fromkeys(key[:3] for key in found):
        cells = []
        for name in SCHEMES:
            row = found[grid, order, R, name]
            refused = f" ({int(row['refused'])}r)" if row["refused"] else ""  # type: ignore[call-overload]
            cells.append(f"{row['error']:.0e}{refused}")
        if (engine, dtype) == ("cpu", "float64"):
            cells.append(f"{found[grid, order, R, 'HERMITE']['estimate']:.0e}")
        if grid in LAYERED:
            cells += [f"{found[grid, order, R, name]['gradient']:.0e}" for name in ("HERMITE", "WIENER")]
        lines.append(f"{grid:12} {order}  {R}" + "".join(f"{cell:>13}" for cell in cells))
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


LIGHT = (1e-2, 1e-3, 3e-4, 1e-4, 1e-5, 1e-6)
EXPONENTS = {"0": (0, 0), "R/2": (0.5, 0), "R/2 + 1": (0.5, 1), "2R/3": (2 / 3, 0), "R": (1, 0), "R + 1/2": (1, 0.5)}
"""Slope and constant."""


def light_rows() -> str:
    """Cases in which HERMITE with an exponent and a light row is 30 times worse than with the best of them."""
    cases = [
        case for grid in (*GRIDS, *LAYERED) for q in (1, 2, 3) for R in range(q, 7) for case in problems(grid, q, R)
    ]
    found = {}
    for name, linear in EXPONENTS.items():
        exponent = _schemes.Linear(*map(float, linear))
        for light in LIGHT:
            scheme = replace(smnn.HERMITE, rule=_schemes.Hermite(light), exponent=exponent)
            found[name, light] = np.array([_error(*case, scheme) for case in tqdm(cases, desc=f"{name}, {light:.0e}")])
    best = np.maximum(np.min(list(found.values()), axis=0), 1e-10)
    lines = [f"{len(cases)} cases: errors above 30 times the best, and above 1e-2 as well"]
    lines += ["p        " + "".join(f"{light:>10.0e}" for light in LIGHT)]
    for name in EXPONENTS:
        bad = [found[name, light] > 30 * best for light in LIGHT]
        large = [b & (found[name, light] > 1e-2) for b, light in zip(bad, LIGHT, strict=True)]
        lines.append(f"{name:9}" + "".join(f"{b.sum():>6} {x.sum():>3}" for b, x in zip(bad, large, strict=True)))
    return "\n".join(lines)


def _error(arguments: tuple[Array, ...], exact: Array, scheme: smnn.Scheme) -> float:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", smnn.AccuracyWarning)
            return float(np.abs(smnn.solve_ode(*arguments, scheme=scheme)[:, 0, 0] - exact).max())
    except smnn.SingularSystemError:
        return math.inf


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the compiled engine in float64 alone, nothing is written")
    parser.add_argument("--light", action="store_true", help="exponents and light rows of HERMITE")
    arguments = parser.parse_args()
    if arguments.light:
        print(light_rows())
        return
    quick = arguments.quick
    engines = ("cpu",) if quick else ("cpu", "array_api")
    dtypes = ("float64",) if quick else ("float64", "float32")
    rows = run(engines, dtypes, (1, 2, 3))
    if not quick:
        store.save(RESULTS, rows)
    for engine in engines:
        for dtype in dtypes:
            print(table(rows, engine, dtype), end="\n\n")
    print(estimates(rows))


if __name__ == "__main__":
    main()
