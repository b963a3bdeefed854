"""The objective of a PEtab problem by numerical integration (SciPy), with forward sensitivities.

For an observation m of h with standard deviation σ on the scale g (identity, log, log10) the negative log-likelihood is

    1/2 ((g(m) - g(h)) / σ)² + log σ + 1/2 log 2π - log g'(m)

(PEtab, "Noise distributions and observable transformations"). Its minimiser as a least-squares problem has the rows
(g(m) - g(h)) / σ and, where σ is estimated, sqrt(2 log σ + c), c large enough for the root (Stapor et al., 2018).

Sensitivities S = ∂x/∂θ follow S' = J S + P. Each column has the Jacobian J of the states: LSODA is told a matrix with
J in diagonal blocks, in banded form.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from scipy.integrate import odeint

from ._equations import Equations
from ._tables import Parameter, Tables

__all__ = ["Objective"]

LN10 = math.log(10.0)
MOST_CALLS = 10_000
"""Evaluations of the rates between two switches, at a relative tolerance of 1e-6: solutions that end in finite time
take steps without end."""
OFFSET = 50.0
"""c of the rows of σ: σ may be as small as exp(-25)."""


class Terms(NamedTuple):
    """The observations, N of them, and P priors at some parameters; derivatives are by θ."""

    r: np.ndarray
    """(N,): (g(m) - g(h)) / σ"""
    σ: np.ndarray
    """(N,)"""
    jacobian: np.ndarray
    """(N,): log g'(m)"""
    dh: np.ndarray
    """(N, p): of g(h), over σ"""
    dσ: np.ndarray
    """(N, p): of log σ"""
    prior: np.ndarray
    """(P,): distance from the mean in standard deviations"""
    dprior: np.ndarray
    """(P, p)"""
    constant: float
    """of priors"""

    @property
    def value(self) -> float:
        """The objective; infinite where it is not a number."""
        with np.errstate(all="ignore"):
            likelihood = (0.5 * self.r**2 + np.log(self.σ) + 0.5 * math.log(2 * math.pi) - self.jacobian).sum()
            total = float(likelihood + 0.5 * self.prior @ self.prior + self.constant)
        return total if math.isfinite(total) else math.inf

    def newton(self) -> tuple[np.ndarray, np.ndarray]:
        """Gradient (p,) and expected second derivatives (p, p) of the objective by θ.

        The curvature of log σ is 2 for residuals of one deviation, as expected, and 1 + r² for those that are far off.
        """
        r, dh, dσ = self.r[:, None], self.dh, self.dσ
        gradient = (-r * dh + (1 - r**2) * dσ).sum(0) + self.prior @ self.dprior
        return gradient, dh.T @ dh + dσ.T @ ((1 + r**2) * dσ) + self.dprior.T @ self.dprior


class Objective:
    """The objective as a function of parameters on their scales (lin, log, log10), with derivatives."""

    def __init__(self, equations: Equations, tables: Tables) -> None:
        self.equations, self.tables = equations, tables
        self.rates, self.observed, self.noise = equations.differentiated
        self._units = np.array([{"lin": 0.0, "log": 1.0, "log10": LN10}[c.transformation] for c in tables.columns])
        self._moving = np.flatnonzero(equations.moving)
        self._constant = sum(p.prior_constant for p in tables.parameters)
        self._settings = [
            (equations.setting_function(s), None if b is None else equations.setting_function(b))
            for s, b in zip(equations.settings, equations.before, strict=True)
        ]

    def scaled(self, parameters: Mapping[str, float]) -> np.ndarray:
        """Values on the scales of the parameters."""
        return np.array([_scale(p, parameters[p.name]) for p in self.tables.parameters])

    def unscaled(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """θ and dθ/dx of values on the scales of the parameters."""
        kinds = [p.scale for p in self.tables.parameters]
        with np.errstate(over="ignore"):
            θ = np.array(
                [v if k == "lin" else math.exp(v) if k == "log" else 10.0**v for k, v in zip(kinds, x, strict=True)]
            )
        return θ, np.where([k == "lin" for k in kinds], 1.0, np.where([k == "log" for k in kinds], θ, θ * LN10))

    def value(self, x: np.ndarray, rtol: float = 1e-10) -> float:
        """The objective at parameters on their scales; infinity where the integration fails."""
        θ, _ = self.unscaled(x)
        try:
            return self.terms(θ, self.trajectories(θ, rtol, False)).value
        except ArithmeticError:
            return math.inf

    def rows(self, x: np.ndarray, rtol: float = 1e-8) -> tuple[np.ndarray, np.ndarray]:
        """Rows whose sum of squares, halved, is the objective up to a constant, and their derivatives by x.

        Raises:
            ArithmeticError: the integration failed, or a row is not finite.
        """
        θ, slope = self.unscaled(x)
        t = self.terms(θ, self.trajectories(θ, rtol, True))
        with np.errstate(all="ignore"):  # of σ beyond exp(-25), refused below
            σ_row = np.sqrt(2 * np.log(t.σ) + OFFSET)
            rows = np.concatenate([t.r, σ_row, t.prior])
            derivatives = np.concatenate([-t.dh - t.r[:, None] * t.dσ, t.dσ / σ_row[:, None], t.dprior]) * slope
        if not (np.isfinite(rows).all() and np.isfinite(derivatives).all()):
            raise ArithmeticError("a row or a derivative is not finite")
        return rows, derivatives

    def trajectories(self, θ: np.ndarray, rtol: float, derivatives: bool) -> list[tuple[np.ndarray, np.ndarray]]:
        """x (times, n) and S (times, n, p) of each experiment; S has no columns without `derivatives`.

        Raises:
            ArithmeticError: the integration failed.
        """
        return [self.simulate(e, θ, rtol, derivatives) for e in range(len(self._settings))]

    def terms(self, θ: np.ndarray, trajectories: list[tuple[np.ndarray, np.ndarray]]) -> Terms:
        """The observations at trajectories."""
        parts = zip(*(self._terms(e, θ, *xS) for e, xS in enumerate(trajectories)), strict=True)
        r, σ, jacobian, dh, dσ = (np.concatenate(x) for x in parts)
        return Terms(r, σ, jacobian, dh, dσ, *self._prior_rows(θ), self._constant)

    def _terms(self, experiment: int, θ: np.ndarray, x: np.ndarray, S: np.ndarray) -> tuple[np.ndarray, ...]:
        """r, σ, log g', dh and dσ of `Terms`, of an experiment."""
        e = self.tables.experiments[experiment]
        seen = np.isfinite(e.data)
        with np.errstate(all="ignore"):
            q, dq, *_ = self._settings[experiment][0](θ)
            inputs = np.broadcast_to(q[:, None], (len(q), len(e.times)))
            h, dh, σ, dσ = (
                part[seen]
                for function in (self.observed, self.noise)
                for part in self._with_derivatives(function(e.times, x.T, inputs), S, dq)
            )
            given = e.noise[seen]
            σ, dσ = np.where(np.isnan(given), σ, given), np.where(np.isnan(given)[:, None], dσ, 0.0)
            m, unit = e.data[seen], np.broadcast_to(self._units, seen.shape)[seen]
            log = unit > 0
            factor = np.where(log, h * unit, 1.0)  # d h / d g(h)
            difference = np.where(log, np.log(m / h) / np.where(log, unit, 1.0), m - h)
            jacobian = np.where(log, -np.log(np.where(log, m * unit, 1.0)), 0.0)
            return difference / σ, σ, jacobian, dh / (factor * σ)[:, None], dσ / σ[:, None]

    @staticmethod
    def _with_derivatives(
        value: tuple[np.ndarray, ...], S: np.ndarray, dq: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Values and derivatives by θ: at fixed states where S has no columns."""
        values, by_x, by_q = value
        through_inputs = by_q @ dq
        return values, by_x @ S + through_inputs if S.shape[-1] else through_inputs

    def simulate(
        self, experiment: int, θ: np.ndarray, rtol: float, derivatives: bool, times: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """x (times, n) and S (times, n, p) of an experiment, at the times of its data or others, ascending from 0 on.

        Raises:
            ArithmeticError: the integration failed.
        """
        times = self.tables.experiments[experiment].times if times is None else times
        simulation, equilibration = self._settings[experiment]
        with np.errstate(all="ignore"):
            q, dq, x0, S0 = simulation(θ)
        if equilibration is not None:
            x_before, S_before = self._steady_state(equilibration(θ), rtol, derivatives)
            taken = np.isnan(x0)
            x0, S0 = np.where(taken, x_before, x0), np.where(taken[:, None], S_before, S0)
        switches = self.equations.settings[experiment].switches
        return self._integrate(x0, S0, q, dq, times, switches, rtol, derivatives)

    def _steady_state(
        self, setting: tuple[np.ndarray, ...], rtol: float, derivatives: bool
    ) -> tuple[np.ndarray, np.ndarray]:
        """The states after so long a time that rates change them by less than the tolerance."""
        q, dq, x, S = setting
        duration = 1.0
        for _ in range(60):
            states, sensitivities = self._integrate(x, S, q, dq, np.array([duration]), (), rtol, derivatives)
            x, S = states[0], sensitivities[0]
            f, J, P = self.rates(0.0, x, q)
            still = np.abs(f).max() * duration <= 10 * rtol * np.abs(x).max()
            if derivatives and still:
                change = J @ S + P @ dq
                still = np.abs(change).max() * duration <= 1e3 * rtol * max(np.abs(S).max(), 1e-300)
            if still:
                return x, S
            duration *= 2
        raise ArithmeticError("the equilibration before an experiment reaches no steady state")

    def _integrate(
        self,
        x0: np.ndarray,
        S0: np.ndarray,
        q: np.ndarray,
        dq: np.ndarray,
        times: np.ndarray,
        switches: tuple[float, ...],
        rtol: float,
        derivatives: bool,
    ) -> tuple[np.ndarray, np.ndarray]:
        """x and S at times, from 0 on, in pieces between switching times; S is 0 for parameters that move nothing."""
        moving = self._moving if derivatives else self._moving[:0]
        n, p = len(x0), len(moving)
        if not np.isfinite(x0).all():
            raise ArithmeticError("an initial value is not finite")
        state = np.concatenate([x0[:, None], S0[:, moving]], 1).T.ravel()  # block after block: x, then columns of S
        found = np.empty((len(times), state.size))
        ends = [0.0, *(s for s in switches if 0 < s < times[-1]), float(times[-1])]
        found[times == 0] = state
        for start, end in pairwise(ends):
            inside = (times > start) & (times <= end)
            if end > start:
                at = np.unique([*times[inside], end])
                solution = self._piece(state, q, dq[:, moving], start, end, at, n, p, rtol)
                found[inside], state = solution[np.isin(at, times[inside])], solution[-1]
        parts = found.reshape(len(times), 1 + p, n)
        S = np.zeros((len(times), n, S0.shape[1] if derivatives else 0))
        S[..., moving] = np.moveaxis(parts[:, 1:], 1, 2)
        return parts[:, 0], S

    def _piece(
        self, state: np.ndarray, q: Any, dq: Any, start: float, end: float, at: np.ndarray, n: int, p: int, rtol: float
    ) -> np.ndarray:
        """The state and its sensitivities at times between two switches, (times, (1 + p) n)."""
        margin = 1e-12 * (end - start)  # rates jump at the ends: they are evaluated inside

        calls, most = 0, int(MOST_CALLS * (1e-6 / rtol) ** 0.25)  # of a method of about fourth order

        def right(t: float, z: np.ndarray) -> np.ndarray:
            nonlocal calls
            calls += 1
            if calls > most:
                raise ArithmeticError("integration takes too many steps: a solution that ends in finite time?")
            t = min(max(t, start + margin), end - margin)
            if not p:
                return self.rates(t, z, q)[0]
            Z, right = z.reshape(1 + p, n), np.empty((1 + p, n))
            right[0], J, P = self.rates(t, Z[0], q)
            np.matmul(Z[1:], J.T, out=right[1:])
            right[1:] += (P @ dq).T
            return right.ravel()

        def band(t: float, z: np.ndarray) -> np.ndarray:
            """J[i, j] of each block at [i - j + n - 1, block n + j]."""
            _, J, _ = self.rates(min(max(t, start + margin), end - margin), z[:n], q)
            packed = np.zeros((2 * n - 1, n))
            i, j = np.indices((n, n))
            packed[i - j + n - 1, j] = J
            return np.tile(packed, (1, 1 + p))

        tolerance, atol = np.full(state.size, rtol), np.full(state.size, 1e-2 * rtol)
        if p:  # sensitivities have scales of their own, and do not decide about the accuracy of the states
            tolerance[n:] = min(1e-3, 1e2 * rtol)
            atol[n:] = 1e-2 * tolerance[n:]
        with np.errstate(all="ignore"), warnings.catch_warnings(action="ignore"):  # LSODA warns, then fails
            solution, report = odeint(
                right,
                state,
                np.concatenate([[start], at]),
                Dfun=band,
                ml=n - 1,
                mu=n - 1,
                rtol=tolerance,
                atol=atol,
                tcrit=[end],
                mxstep=most,
                tfirst=True,
                full_output=True,
            )
        if report["message"] != "Integration successful." or not np.isfinite(solution).all():
            raise ArithmeticError(f"integration failed: {report['message']}")
        return solution[1:]

    def _prior_rows(self, θ: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(g(θ) - mean) / sd of normal priors, and their derivatives by θ."""
        rows, derivatives = [], []
        for i, p in enumerate(self.tables.parameters):
            if p.prior is not None:
                mean, sd = p.prior
                factor = {"lin": 1.0, "log": θ[i], "log10": θ[i] * LN10}[p.prior_scale]
                rows.append((_on_scale(θ[i], p.prior_scale) - mean) / sd)
                derivatives.append(np.eye(len(θ))[i] / (factor * sd))
        return np.array(rows), np.array(derivatives).reshape(-1, len(θ))


def _scale(parameter: Parameter, value: float) -> float:
    return _on_scale(value, parameter.scale)


def _on_scale(value: float, scale: str) -> float:
    with np.errstate(all="ignore"):
        return float(value if scale == "lin" else np.log(value) / (LN10 if scale == "log10" else 1.0))
