"""The usual way: least squares over numerical integration with forward sensitivities, start by start."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy.optimize import least_squares
from scipy.stats import qmc

import smnn_petab

__all__ = ["End", "drawn", "shoot"]


@dataclass(frozen=True)
class End:
    """The end of one start."""

    objective: float
    seconds: float


class TookTooLong(Exception):
    """The time that a start may take is over."""


class Rows:
    """Rows and their derivatives at the last point, so that `least_squares` may ask for them one after the other."""

    def __init__(self, problem: smnn_petab.Problem, limit: float) -> None:
        self.objective, self.until = problem.likelihood, time.process_time() + limit
        self.at: bytes | None = None
        self.last: tuple[np.ndarray, np.ndarray] | None = None
        self.best = (np.inf, np.empty(0))

    def evaluate(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Rows and derivatives; rows of NaN, for which `least_squares` shortens its step, where integration fails."""
        if self.at != x.tobytes():
            if time.process_time() > self.until:
                raise TookTooLong
            self.at = x.tobytes()
            try:
                self.last = self.objective.rows(x, rtol=1e-6)
            except ArithmeticError:
                if self.last is None:
                    raise
                self.last = np.full_like(self.last[0], np.nan), self.last[1]
            cost = float(self.last[0] @ self.last[0])
            if cost < self.best[0]:
                self.best = cost, x.copy()
        return self.last

    def values(self, x: np.ndarray) -> np.ndarray:
        return self.evaluate(x)[0]

    def derivatives(self, x: np.ndarray) -> np.ndarray:
        return self.evaluate(x)[1]


def drawn(problem: smnn_petab.Problem, starts: int, seed: int = 0) -> np.ndarray:
    """Starts on the scales of the parameters, a Latin hypercube within the bounds, (starts, p)."""
    low, high = np.array([p.start for p in problem.tables.parameters]).T
    sample = qmc.LatinHypercube(len(low), rng=np.random.default_rng(seed)).random(starts)
    return low + sample * (high - low)


def shoot(problem: smnn_petab.Problem, starts: np.ndarray, limit: float = 60.0) -> Iterator[End]:
    """Minimises from each start, for at most `limit` seconds each."""
    bounds = np.array(
        [
            problem.likelihood.scaled({p.name: getattr(p, side) for p in problem.tables.parameters})
            for side in ("lower", "upper")
        ]
    )
    for x in starts:
        began = time.process_time()
        rows = Rows(problem, limit)
        try:
            inside = np.clip(x, *bounds)
            options = {"bounds": tuple(bounds), "max_nfev": 300, "ftol": 1e-8, "xtol": 1e-8}
            least_squares(rows.values, inside, rows.derivatives, **options)
        except (ArithmeticError, TookTooLong):
            pass
        objective = problem.likelihood.value(rows.best[1]) if np.isfinite(rows.best[0]) else np.inf
        yield End(objective, time.process_time() - began)
