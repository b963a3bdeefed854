"""`python -m benchmarks.adjoint`: errors of the gradient of the right-hand side, against 1200 bits.

Relative to its largest entry, in float64, for each engine, and for v = W A λ with λ = M^-1 g, which squares the
condition number. The gradient is W v in the rows of the equations, v = (W A)^+^T g, for random g.

With --cuda also for the kernels of the CUDA engine, compiled for the CPU as in tests/cuda: of whole systems, and in
chunks of three points.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

import smnn_core as smnn
from smnn_core._constraints import apply

from . import exact

Array = np.ndarray
ENGINES = ("array_api", "blocks", "cpu")
BOUND = 1e-9
"""Of every engine, for every problem here: `tests/engines/test_refinement.py`."""


def problem(order: int, K: int, s: Array, Q: int = 1, seed: int = 0) -> tuple[Array, ...]:
    """y^(order) + ... + y = cos t with random coefficients, and with a given first state."""
    rng = np.random.default_rng(seed)
    T = len(s) + 1
    c = rng.uniform(-1, 1, (T, Q, Q, K))
    c[..., order + 1 :] = 0
    for q in range(Q):
        c[:, q, q, order] = rng.uniform(1, 2, T)
    b = np.cos(np.concatenate([[0.0], np.cumsum(s)]))[:, None] * np.ones(Q)
    return c, b, rng.normal(size=(1, Q, order)), s


def scaled(factor: float, T: int = 200) -> tuple[Array, ...]:
    """Two coupled equations of second order, one in units in which it is larger."""
    c, b, u, s = problem(2, 3, np.full(T - 1, 0.05), Q=2)
    scale = np.array([1.0, factor])
    return c * scale[:, None, None], b * scale, u, s


def repeated(weight: float, T: int = 200) -> tuple[Array, ...]:
    """One equation given twice, once with little weight."""
    c, b, u, s = problem(2, 3, np.full(T - 1, 0.05))
    return np.concatenate([c, weight * c], axis=1), np.concatenate([b, weight * b], axis=1), u, s


def long_step(length: float, T: int = 100) -> tuple[Array, ...]:
    s = np.full(T - 1, 0.1)
    s[T // 2] = length
    return problem(2, 4, s)


PROBLEMS: dict[str, Callable[[], tuple[Array, ...]]] = {
    "order 2, K = 3, s = 0.01, T = 300": lambda: problem(2, 3, np.full(299, 0.01)),
    "order 3, K = 4, s = 0.003, T = 200": lambda: problem(3, 4, np.full(199, 0.003)),
    "order 4, K = 5, s = 0.01, T = 120": lambda: problem(4, 5, np.full(119, 0.01)),
    "order 4, K = 5, s = 0.002, T = 60": lambda: problem(4, 5, np.full(59, 0.002)),
    "an equation 1e6 times larger": lambda: scaled(1e6),
    "an equation 1e8 times larger": lambda: scaled(1e8),
    "an equation twice, once of weight 0.01": lambda: repeated(0.01),
    "one step of 10 among 0.1, K = 4": lambda: long_step(10.0),
    "one step of 100 among 0.1, K = 4": lambda: long_step(100.0),
}


def reference(arguments: tuple[Array, ...]) -> tuple[Array, Array]:
    """g, and the gradient of the right-hand side."""
    c, b, u, s = arguments
    T = len(c)
    rng = np.random.default_rng(1)
    g = rng.normal(size=(T, *c.shape[-2:])) / (1.0 + np.abs(smnn.solve_ode(*arguments)).max(axis=0))
    solver = exact.Solver(exact.rows(c, s, np.ones(b.shape), np.ones(u.shape), np.ones(T - 1), smnn.HERMITE))
    x = solver.normal_solve([exact.column([exact.flint.arb(float(a)) for a in row.ravel()]) for row in g])
    own = [[float(a.mid()) for a in column.entries()][: b.shape[1]] for column in solver.apply(x)[0]]
    return g, np.array(own)


def error(found: Array, expected: Array) -> float:
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def errors(arguments: tuple[Array, ...], engines: Sequence[str] = ENGINES) -> dict[str, float]:
    c, _, u, s = arguments
    g, expected = reference(arguments)
    options = {"n_initial_steps": len(u), "n_initial_orders": u.shape[-1]}
    factor = smnn.factorize(c, s, engine="array_api", **options)
    result = {"A λ": error(apply(factor.system, factor.normal_solve(g)).equation, expected)}
    for engine in engines:
        result[engine] = error(smnn.solve_ode_vjp(*arguments, engine=engine)[1](g).rhs, expected)
    return result


def errors_of_kernels(arguments: tuple[Array, ...]) -> dict[str, float]:
    """Of those of the CUDA engine."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "cuda"))
    from _emulator import Emulator

    from smnn_core._problem import Problem
    from smnn_core._weighting import weighted_problem
    from smnn_core.engines._cuda import host
    from smnn_core.engines._cuda.grain import Grain

    g, expected = reference(arguments)
    problem = weighted_problem(Problem.build(*arguments, scheme=smnn.HERMITE))
    grains = {"whole": Grain(lanes=1), "divided": Grain(lanes=1000, shortest=3, last=3, gain=np.inf)}
    result = {}
    for name, grain in grains.items():
        y, factor = host.solve_problem(Emulator(grain), problem)
        result[f"cuda, {name}"] = error(factor.adjoint(problem, y, g).rhs, expected)
    return result


def main(options: Sequence[str]) -> int:
    table = {name: errors(make()) for name, make in PROBLEMS.items()}
    if "--cuda" in options:
        table = {name: row | errors_of_kernels(PROBLEMS[name]()) for name, row in table.items()}
    columns = list(next(iter(table.values())))
    print("| HERMITE, float64 |", *(f"{name} |" for name in columns))
    print("| --- |", *("--- |" for _ in columns))
    for name, row in table.items():
        print(f"| {name} |", *(f"{x:.0e} |" for x in row.values()))
    return int(any(row[engine] > BOUND for row in table.values() for engine in ENGINES))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
