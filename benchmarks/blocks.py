"""Time per point against the number of unknowns n, beside what the operations of a point cost in BLAS and LAPACK.

Equations of second order with full coefficients, V = n / 3 variables: `solve_ode` and its gradient by the engine that
"auto" takes, on one thread. A point costs about 6 n^3 operations; the product of two (n, n) matrices (2 n^3) and the QR
factorisation of one (4/3 n^3) by NumPy, on one thread as well, tell what these cost at the speed of BLAS and LAPACK.
Times are processor times: what other programs take does not count.
"""

from __future__ import annotations

from time import process_time

import numpy as np
from threadpoolctl import threadpool_limits

import smnn_core as smnn
from smnn_core._problem import Problem
from smnn_core.engines import select

from .tables import Table
from .timing import measure

SIZES = (3, 6, 12, 24, 48, 63, 66, 99, 150, 201, 300)
"""n"""
POINTS = {0: 1000, 24: 300, 63: 60, 150: 20, 300: 12}
"""T from each n on"""
ORDERS = 3


def problem(n: int) -> tuple[np.ndarray, ...]:
    """Coefficients, right-hand sides, initial values and steps."""
    rng, V = np.random.default_rng(n), n // ORDERS
    T = POINTS[max(least for least in POINTS if least <= n)]
    c = rng.uniform(-0.5, 0.5, (T, V, V, ORDERS)) / V
    c[:, np.arange(V), np.arange(V), -1] += 1.0
    return c, rng.normal(size=(T, V)), rng.normal(size=(1, V, ORDERS - 1)), rng.uniform(0.04, 0.06, T - 1)


def seconds(n: int) -> tuple[str, dict[str, float]]:
    """The engine, and seconds of a point forward, with the gradient, and of 6 n^3 operations as products and as QR."""
    arguments, A = problem(n), np.random.default_rng(0).normal(size=(n, n))
    T, g = len(arguments[0]), np.ones((len(arguments[0]), n // ORDERS, ORDERS))
    functions = {
        "forward": lambda: smnn.solve_ode(*arguments),
        "backward": lambda: smnn.solve_ode_vjp(*arguments)[1](g),
        "product": lambda: A @ A,
        "qr": lambda: np.linalg.qr(A, mode="raw"),
    }
    parts = {"forward": 1 / T, "backward": 1 / T, "product": 6 / 2, "qr": 6 / (4 / 3)}
    with threadpool_limits(1):
        timings = measure(functions, clock=process_time)
    engine = select("auto", Problem.build(*arguments).system).name
    return engine, {name: timings[name].seconds * part for name, part in parts.items()}


def table() -> Table:
    rows = []
    for n in SIZES:
        engine, t = seconds(n)
        times = tuple(f"{float(f'{1e6 * t[way]:.3g}'):,g}" for way in ("forward", "backward"))
        # (of small matrices NumPy's calls take longer than their operations)
        ratios = [f"{t['forward'] / t[name]:.2g}" if n >= 48 else "" for name in ("product", "qr")]
        rows.append((str(n), engine, *times, *ratios))
    return Table(
        title="time of a point against the number of unknowns, one thread",
        header=("n", "engine", "solve, µs", "with gradient, µs", "solve / 6 n³ in BLAS", "solve / 6 n³ in LAPACK QR"),
        rows=tuple(rows),
    )
