"""`solve`: differential equations to a tolerance."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .._errors import ConvergenceWarning
from ._equations import Equations
from ._search import search
from ._solution import Solution, solution_of

__all__ = ["solve", "warn_unless_converged"]


def solve(
    residual: Callable[..., tuple[np.ndarray, ...]],
    times: Any,
    conditions: Any,
    *,
    tolerance: float = 1e-6,
    absolute: float = 0.0,
    order: int | Sequence[int] | None = None,
    constants: Any = None,
    guess: Any = None,
    mesh: Any = None,
    points: int | None = None,
    max_intervals: int = 20_000,
    engine: str = "auto",
    progress: bool = False,
) -> Solution:
    equations = Equations(residual, 0 if constants is None else np.shape(constants)[-1])
    run = search(
        equations,
        times,
        conditions,
        tolerance=tolerance,
        absolute=absolute,
        order=order,
        constants=constants,
        guess=guess,
        mesh=mesh,
        points=points,
        most_intervals=max_intervals,
        engine=engine,
        progress=progress,
    )
    single = [x.dtype for x in (times, conditions) if isinstance(x, np.ndarray)]
    dtype = np.dtype(np.float32) if single and all(d == np.float32 for d in single) else np.dtype(np.float64)
    solution = solution_of(run, dtype)
    warn_unless_converged(solution.converged, solution.reason)
    return solution


def warn_unless_converged(converged: Any, reason: Any, stacklevel: int = 3) -> None:
    """Says how many members have not converged, and why the first has not."""
    failed = np.flatnonzero(~np.atleast_1d(np.asarray(converged)).ravel())
    if len(failed):
        first = reason[failed[0]] if isinstance(reason, list) else reason
        count = f"{len(failed)} of {np.size(converged)} members have not converged, the first: " if np.ndim(converged) else ""
        warnings.warn(f"{count}{first}.", ConvergenceWarning, stacklevel=stacklevel)
