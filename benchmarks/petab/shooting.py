"""The usual way: least squares over numerical integration with forward sensitivities, start by start.

The rows are (g(m) - g(h)) / σ and, where σ is estimated, sqrt(2 log σ + c), c large enough for the root (Stapor et al.,
2018). Sensitivities S = ∂x/∂θ follow S' = J S + P. Each column has the Jacobian J of the states: LSODA is told a matrix
with J in diagonal blocks, in banded form.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy.optimize import least_squares
from scipy.stats import qmc

import smnn_petab
from smnn_petab._objective import integrate

__all__ = ["End", "drawn", "shoot"]


OFFSET = 50.0
"""c of the rows of σ: σ may be as small as exp(-25)."""


@dataclass(frozen=True)
class End:
    """The end of one start."""

    objective: float
    seconds: float


class TookTooLong(Exception):
    """The time that a start may take is over."""


class Sensitivities:
    """Trajectories with ∂x/∂θ by LSODA; no equilibrations before experiments."""

    def __init__(self, problem: smnn_petab.Problem, rtol: float) -> None:
        self.problem, self.objective, self.rtol = problem, problem.likelihood, rtol
        self.experiments, self.settings = problem.tables.experiments, problem.equations.settings
        f = problem.equations.function
        n, names = len(problem.equations.states), (*problem.equations.states, *problem.equations.inputs)
        rates = problem.equations.rates
        self.derivatives = [
            (i, j, r.diff(s)) for i, r in enumerate(rates) for j, s in enumerate(names) if r.diff(s) != 0
        ]
        self.at = np.array([i * len(names) + j for i, j, _ in self.derivatives], int)
        self.function = f([*rates, *(d for *_, d in self.derivatives)], "math")
        self.n, self.shape = n, (n, len(names))

    def rates(self, t: float, x: np.ndarray, q: list[float]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """f (n,), J (n, n) and ∂f/∂q (n, inputs); NaN where they have no value."""
        try:
            values = np.array(self.function(t, x.tolist(), q), float)
        except (ArithmeticError, ValueError, TypeError):  # TypeError: a complex number
            values = np.full(self.n + len(self.at), np.nan)
        J = np.zeros(self.shape[0] * self.shape[1])
        J[self.at] = values[self.n :]
        J = J.reshape(self.shape)
        return values[: self.n], J[:, : self.n], J[:, self.n :]

    def __call__(self, θ: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
        """x (times, n) and S (times, n, p) of each experiment.

        Raises:
            ArithmeticError: the integration failed.
        """
        q, dq, x0, S0 = self.objective.settings(θ)
        each = zip(self.experiments, self.settings, q, dq, x0, S0, strict=True)
        return [self.integrated(e.times, s.switches, *rest) for e, s, *rest in each]

    def integrated(
        self,
        times: np.ndarray,
        switches: tuple[float, ...],
        q: np.ndarray,
        dq: np.ndarray,
        x: np.ndarray,
        S: np.ndarray,
    ) -> tuple[np.ndarray, np.ndarray]:
        """x and S at times, from 0 on."""
        moving, given = self.objective.moving, q.tolist()
        n, blocks, dq = self.n, 1 + len(self.objective.moving), dq[:, self.objective.moving]

        def right(t: float, z: np.ndarray) -> np.ndarray:
            Z, right = z.reshape(blocks, n), np.empty((blocks, n))
            right[0], J, P = self.rates(t, Z[0], given)
            np.matmul(Z[1:], J.T, out=right[1:])
            right[1:] += (P @ dq).T
            return right.ravel()

        def band(t: float, z: np.ndarray) -> np.ndarray:
            """J[i, j] of each block at [i - j + n - 1, block n + j]."""
            _, J, _ = self.rates(t, z[:n], given)
            packed = np.zeros((2 * n - 1, n))
            i, j = np.indices((n, n))
            packed[i - j + n - 1, j] = J
            return np.tile(packed, (1, blocks))

        state = np.concatenate([x[:, None], S[:, moving]], 1).T.ravel()  # block after block: x, then columns of S
        tolerance = np.full(state.size, self.rtol)
        # sensitivities have scales of their own, and do not decide about the accuracy of the states
        tolerance[n:] = min(1e-3, 1e2 * self.rtol)
        found = integrate(right, band, state, times, switches, self.rtol, tolerance, ml=n - 1, mu=n - 1)
        parts = found.reshape(len(times), blocks, n)
        return parts[:, 0], np.moveaxis(parts[:, 1:], 1, 2)

    def rows(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Rows whose sum of squares, halved, is the objective up to a constant, and their derivatives by x.

        Raises:
            ArithmeticError: the integration failed, or a row is not finite.
        """
        θ, slope = self.objective.unscaled(x)
        t = self.objective.terms(θ, self(θ))
        with np.errstate(all="ignore"):  # of σ beyond exp(-25), refused below
            σ_row = np.sqrt(2 * np.log(t.σ) + OFFSET)
            rows = np.concatenate([t.r, σ_row, t.prior])
            derivatives = np.concatenate([-t.dh - t.r[:, None] * t.dσ, t.dσ / σ_row[:, None], t.dprior]) * slope
        if not (np.isfinite(rows).all() and np.isfinite(derivatives).all()):
            raise ArithmeticError("a row or a derivative is not finite")
        return rows, derivatives


class Rows:
    """Rows and their derivatives at the last point, so that `least_squares` may ask for them one after the other."""

    def __init__(self, integration: Sensitivities, limit: float) -> None:
        self.integration, self.until = integration, time.process_time() + limit
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
                self.last = self.integration.rows(x)
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
    integration = Sensitivities(problem, 1e-6)
    for x in starts:
        began = time.process_time()
        rows = Rows(integration, limit)
        try:
            inside = np.clip(x, *bounds)
            options = {"bounds": tuple(bounds), "max_nfev": 300, "ftol": 1e-8, "xtol": 1e-8}
            least_squares(rows.values, inside, rows.derivatives, **options)
        except (ArithmeticError, TookTooLong):
            pass
        objective = problem.likelihood.value(rows.best[1]) if np.isfinite(rows.best[0]) else np.inf
        yield End(objective, time.process_time() - began)
