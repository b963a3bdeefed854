"""`python -m benchmarks.accuracy`: rounding errors and discretisation errors.

1. What rounding costs: the error on the least-squares problem itself, against extended precision
   (`reference.solve`) on the same inputs. float32 means float32 throughout, hence torch tensors: numpy.linalg
   computes float32 in double. nan: the normal equations are not positive definite in that precision.
2. What the scheme costs: TAYLOR against HERMITE, see `discretization`.

Exits with status 1 if the library misses its bounds (`bound`, `discretization.MEASURED`).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch

import smnn_core as smnn
from benchmarks.baselines import smnn_cholesky

from . import discretization, reference
from .tables import Table, save

Array = np.ndarray
DTYPES = ("float64", "float32")


@dataclass(frozen=True)
class Equation:
    """sum_r coefficients[r] y^(r) = rhs with y^(r)(0) = initial[r], r = 0, ..., one less than the order."""

    name: str
    coefficients: tuple[float, ...]
    rhs: float
    initial: tuple[float, ...]

    @property
    def order(self) -> int:
        return len(self.initial)

    def arrays(self, T: int, s: float, dtype: str) -> tuple[Array, ...]:
        """coefficients, rhs, initial_values, step_sizes."""
        K = len(self.coefficients)
        return (
            np.full((T, 1, 1, K), self.coefficients, dtype),
            np.full((T, 1), self.rhs, dtype),
            np.array(self.initial, dtype).reshape(1, 1, -1),
            np.full((T - 1,), s, dtype),
        )


EQUATIONS = (
    Equation("y' + y = 1", (1, 1, 0), 1, (0,)),
    Equation("y'' + 4y = 0", (4, 0, 1), 0, (1, 0)),
    Equation("y'' + 0.2y' + 4y = 0", (4, 0.2, 1), 0, (1, 0)),
    Equation("y''' + y'' + y' + y = 0", (1, 1, 1, 1), 0, (1, 0, 0)),
)


def bound(equation: Equation, dtype: str) -> float:
    """Errors that the library must stay below at T = 1000, s = 0.01."""
    if dtype == "float64":
        return 1e-10
    return 1e-3 if equation.order == 2 else 1e-2


@cache
def solvers() -> dict[str, Callable[..., Array]]:
    """The published solver, and the library with each engine that works here."""

    def with_tensors(solve: Callable[..., torch.Tensor]) -> Callable[..., Array]:
        return lambda *arrays: solve(*map(torch.from_numpy, arrays)).numpy()

    found = {
        "smnn_cholesky": with_tensors(smnn_cholesky),
        "array_api": with_tensors(lambda *tensors: smnn.solve_ode(*tensors, scheme=smnn.TAYLOR, engine="array_api")),
    }
    try:
        smnn.solve_ode(*EQUATIONS[0].arrays(2, 0.1, "float64"), engine="cpu")
    except smnn.EngineError as reason:
        print(f"The compiled engine is left out: {reason}\n")
    else:
        found["cpu"] = lambda *arrays: smnn.solve_ode(*arrays, scheme=smnn.TAYLOR, engine="cpu")
    return found


@dataclass(frozen=True)
class Errors:
    """Errors of one equation, relative to the largest value of what is compared."""

    solution: dict[tuple[str, str], float]
    """(solver, dtype) -> error of y"""
    derivatives: dict[tuple[str, str], float]
    """(solver, dtype) -> error of y and all its derivatives"""
    reference: float
    """the reference's own, derivatives included"""


def rounding_errors(equation: Equation, T: int, s: float) -> Errors:
    """The errors of each solver in each dtype."""
    given = {dtype: equation.arrays(T, s, dtype) for dtype in DTYPES}
    c, b, u, step = (np.stack(x).astype(np.float64) for x in zip(*given.values(), strict=True))
    exact, own = reference.solve(c, b, u, step)
    errors = Errors({}, {}, own)
    for name, solve in solvers().items():
        for lane, dtype in enumerate(DTYPES):
            y = solve(*given[dtype])
            assert y.dtype == dtype
            for found, orders in ((errors.solution, slice(1)), (errors.derivatives, slice(None))):
                wanted = exact[lane, ..., orders]
                difference = np.abs(y[..., orders].astype(reference.EXTENDED) - wanted).max()
                found[name, dtype] = float(difference / np.abs(wanted).max())
    return errors


def _tables(title: str, equations: tuple[Equation, ...], T: int, s: float, hold: bool) -> tuple[list[Table], list[str]]:
    """The tables of y and of its derivatives; the bounds that are missed, where they are to be held."""
    names = list(solvers())
    results = {equation: rounding_errors(equation, T, s) for equation in equations}
    tables, missed = [], []
    for part, what in (("solution", "y"), ("derivatives", "y and its derivatives")):
        rows = []
        for equation, errors in results.items():
            found = getattr(errors, part)
            cells = [f"{found[name, dtype]:.1e}" for dtype in DTYPES for name in names]
            rows.append((equation.name, *cells, f"{errors.reference:.1e}"))
            for (name, dtype), error in found.items():
                limit = bound(equation, dtype)
                if hold and name != "smnn_cholesky" and not error <= limit:
                    missed.append(f"{equation.name}, {what}, {name} {dtype}: {error:.1e} > {limit:.0e}")
        header = "equation", *(f"{name} {dtype}" for dtype in DTYPES for name in names), "reference"
        heading = f"{title}, T = {T}, s = {s}, TAYLOR: largest error of {what}, relative to the largest"
        tables.append(Table(heading, header, tuple(rows)))
    return tables, missed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="leave out the long problem")
    parser.add_argument("--save", action="store_true", help="write the tables to benchmarks/results/accuracy.json")
    options = parser.parse_args()
    parts = [lambda: _tables("Rounding errors", EQUATIONS, 1000, 0.01, hold=True), discretization.table]
    if not options.quick:
        parts.insert(1, lambda: _tables("Rounding errors, long", EQUATIONS[1:2], 100_000, 0.01, hold=False))
    tables, missed = [], []
    for part in parts:
        new, failures = part()
        print(*(table.text() + "\n" for table in new), sep="\n", flush=True)
        tables += new
        missed += failures
    for line in missed:
        print(f"MISSED  {line}")
    if options.save:
        save(Path(__file__).with_name("results") / "accuracy.json", tables)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
