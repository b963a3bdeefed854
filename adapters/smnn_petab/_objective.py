"""The objective of a PEtab problem at trajectories, with derivatives, and these trajectories by LSODA (SciPy).

For an observation m of h with standard deviation σ on the scale g (identity, log, log10) the negative log-likelihood is

    1/2 ((g(m) - g(h)) / σ)² + log σ + 1/2 log 2π - log g'(m)

(PEtab, "Noise distributions and observable transformations").
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
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


@dataclass(frozen=True)
class _Rows:
    """The observations, N of them, experiment after experiment."""

    experiment: np.ndarray
    """of each time of any experiment"""
    times: np.ndarray
    at: tuple[np.ndarray, np.ndarray]
    """of each observation: which of the times, which observable"""
    of_experiments: tuple[slice, ...]
    data: np.ndarray
    noise: np.ndarray
    given: np.ndarray
    """whether the noise is a number"""
    unit: np.ndarray
    """what logarithms are natural ones of: 1, or log 10; 0 where the scale is linear"""
    jacobian: np.ndarray
    """log g'(m)"""

    @staticmethod
    def of(tables: Tables) -> _Rows:
        each = tables.experiments
        data, noise = (np.concatenate([getattr(e, name) for e in each]) for name in ("data", "noise"))
        row, column = np.nonzero(np.isfinite(data))
        at = row, column
        experiment = np.repeat(np.arange(len(each)), [len(e.times) for e in each])
        ends = np.searchsorted(experiment[row], np.arange(len(each) + 1))
        unit = np.array([{"lin": 0.0, "log": 1.0, "log10": LN10}[c.transformation] for c in tables.columns])[column]
        log = unit > 0
        return _Rows(
            experiment,
            np.concatenate([e.times for e in each]),
            at,
            tuple(slice(a, b) for a, b in pairwise(ends.tolist())),
            data[at],
            noise[at],
            np.isfinite(noise[at]),
            unit,
            np.where(log, -np.log(np.where(log, data[at] * unit, 1.0)), 0.0),
        )


class Objective:
    """The objective as a function of parameters on their scales (lin, log, log10), with derivatives."""

    def __init__(self, equations: Equations, tables: Tables) -> None:
        self.equations, self.tables = equations, tables
        self.rates, self.observed, self.noise = equations.differentiated
        self.moving = np.flatnonzero(equations.moving)
        self.settings = equations.settings_function(equations.settings)
        equilibrations = [b for b in equations.before if b is not None]
        self.equilibrations = equations.settings_function(equilibrations) if equilibrations else None
        self.before = np.cumsum([b is not None for b in equations.before]) - 1
        """which of the equilibrations comes before each experiment that has one"""
        self._rows = _Rows.of(tables)
        self._scale = np.array([{"lin": 0.0, "log": 1.0, "log10": LN10}[p.scale] for p in tables.parameters])
        self._constant = sum(p.prior_constant for p in tables.parameters)
        self._values, self._slopes = equations.rates_of_numbers
        self.batch_values, self.batch_rates = equations.rates_of_arrays

    def scaled(self, parameters: Mapping[str, float]) -> np.ndarray:
        """Values on the scales of the parameters."""
        return np.array([_scale(p, parameters[p.name]) for p in self.tables.parameters])

    def unscaled(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """θ and dθ/dx of values on the scales of the parameters."""
        with np.errstate(over="ignore"):
            θ = np.where(self._scale > 0, np.exp(x * self._scale), x)
        return θ, np.where(self._scale > 0, θ * self._scale, 1.0)

    def value(self, x: np.ndarray, rtol: float = 1e-10) -> float:
        """The objective at parameters on their scales, by LSODA; infinity where the integration fails."""
        θ, _ = self.unscaled(x)
        try:
            trajectories = [self.simulate(e, θ, rtol) for e in range(len(self.equations.settings))]
            return self.terms(θ, [(x, np.zeros((*x.shape, 0))) for x in trajectories]).value
        except ArithmeticError:
            return math.inf

    def terms(self, θ: np.ndarray, trajectories: Sequence[tuple[np.ndarray, np.ndarray]]) -> Terms:
        """The observations at trajectories x (times, n) and their derivatives by the moving parameters, S (times, n, p
        or 0), of each experiment."""
        rows, p = self._rows, len(θ)
        x, S = (np.concatenate(part) for part in zip(*trajectories, strict=True))
        with np.errstate(all="ignore"):
            q, dq, *_ = self.settings(θ)
            inputs = np.ascontiguousarray(q[rows.experiment].T)
            arguments = rows.times, np.ascontiguousarray(x.T), inputs
            (h, dh), (σ, dσ) = (
                self._with_derivatives(function(*arguments), S, dq, p) for function in (self.observed, self.noise)
            )
            σ, dσ = np.where(rows.given, rows.noise, σ), np.where(rows.given[:, None], 0.0, dσ)
            log = rows.unit > 0
            factor = np.where(log, h * rows.unit, 1.0)  # d h / d g(h)
            difference = np.where(log, np.log(rows.data / h) / np.where(log, rows.unit, 1.0), rows.data - h)
            scaled = dh / (factor * σ)[:, None], dσ / σ[:, None]
            return Terms(difference / σ, σ, rows.jacobian, *scaled, *self._prior_rows(θ), self._constant)

    def _with_derivatives(
        self, value: tuple[np.ndarray, ...], S: np.ndarray, dq: np.ndarray, p: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Of each observation value (N,) and derivatives by θ (N, p), at fixed states where S has no columns."""
        at = self._rows.at
        values, by_x, by_q = (part[at] for part in value)
        slope = np.empty((len(values), p))
        for e, part in enumerate(self._rows.of_experiments):
            slope[part] = by_q[part] @ dq[e]
        if S.shape[-1]:
            slope[:, self.moving] += (by_x[:, None] @ S[at[0]])[:, 0]
        return values, slope

    def simulate(self, experiment: int, θ: np.ndarray, rtol: float, times: np.ndarray | None = None) -> np.ndarray:
        """x (times, n) of an experiment by LSODA, at the times of its data or others, ascending from 0 on.

        Raises:
            ArithmeticError: the integration failed.
        """
        times = self.tables.experiments[experiment].times if times is None else times
        q, _, x0, _ = (part[experiment] for part in self.settings(θ))
        if self.equations.before[experiment] is not None:
            assert self.equilibrations is not None
            q0, _, start, _ = (part[self.before[experiment]] for part in self.equilibrations(θ))
            x0 = np.where(np.isnan(x0), self._steady_state(start, q0, rtol), x0)
        return self._integrate(x0, q, times, self.equations.settings[experiment].switches, rtol)

    def _steady_state(self, x: np.ndarray, q: np.ndarray, rtol: float) -> np.ndarray:
        """The states after so long a time that rates change them by less than the tolerance."""
        duration = 1.0
        for _ in range(60):
            x = self._integrate(x, q, np.array([duration]), (), rtol)[0]
            f = np.array(self._values(0.0, x.tolist(), q.tolist()))
            if np.abs(f).max() * duration <= 10 * rtol * np.abs(x).max():
                return x
            duration *= 2
        raise ArithmeticError("the equilibration before an experiment reaches no steady state")

    def _integrate(
        self, x: np.ndarray, q: np.ndarray, times: np.ndarray, switches: tuple[float, ...], rtol: float
    ) -> np.ndarray:
        """x at times, from 0 on."""
        given = q.tolist()
        return integrate(
            lambda t, x: self._values(t, x.tolist(), given),
            lambda t, x: self._slopes(t, x.tolist(), given),
            x,
            times,
            switches,
            rtol,
            np.full(len(x), rtol),
        )

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


def integrate(
    right: Callable[[float, np.ndarray], Any],
    slopes: Callable[[float, np.ndarray], np.ndarray],
    x: np.ndarray,
    times: np.ndarray,
    switches: tuple[float, ...],
    rtol: float,
    tolerance: np.ndarray,
    **band: int,
) -> np.ndarray:
    """x (n,), that of time 0, at times (m,): (m, n), by LSODA in pieces between switching times.

    Args:
        right: dx/dt (n,) at t and x.
        slopes: its derivatives, (n, n), or those of a band (`ml` and `mu` of `scipy.integrate.odeint`).
        rtol: decides how many evaluations there may be.
        tolerance: (n,), relative; absolute ones are a hundredth of it.

    Raises:
        ArithmeticError: an initial value is not finite, or the integration failed.
    """
    if not np.isfinite(x).all():
        raise ArithmeticError("an initial value is not finite")
    most = int(MOST_CALLS * (1e-6 / rtol) ** 0.25)  # of a method of about fourth order

    def piece(x: np.ndarray, start: float, end: float, at: np.ndarray) -> np.ndarray:
        margin = 1e-12 * (end - start)  # rates jump at the ends: they are evaluated inside
        calls = 0

        def inside(t: float) -> float:
            return min(max(t, start + margin), end - margin)

        def counted(t: float, x: np.ndarray) -> Any:
            nonlocal calls
            calls += 1
            if calls > most:
                raise ArithmeticError("integration takes too many steps: a solution that ends in finite time?")
            return right(inside(t), x)

        with np.errstate(all="ignore"), warnings.catch_warnings(action="ignore"):  # LSODA warns, then fails
            solution, report = odeint(
                counted,
                x,
                np.concatenate([[start], at]),
                Dfun=lambda t, x: slopes(inside(t), x),
                rtol=tolerance,
                atol=1e-2 * tolerance,
                tcrit=[end],
                mxstep=most,
                tfirst=True,
                full_output=True,
                **band,
            )
        if report["message"] != "Integration successful." or not np.isfinite(solution).all():
            raise ArithmeticError(f"integration failed: {report['message']}")
        return solution[1:]

    found = np.empty((len(times), len(x)))
    ends = [0.0, *(s for s in switches if 0 < s < times[-1]), float(times[-1])]
    found[times == 0] = x
    for start, end in pairwise(ends):
        inside = (times > start) & (times <= end)
        if end > start:
            at = np.unique([*times[inside], end])
            solution = piece(x, start, end, at)
            found[inside], x = solution[np.isin(at, times[inside])], solution[-1]
    return found


def _scale(parameter: Parameter, value: float) -> float:
    return _on_scale(value, parameter.scale)


def _on_scale(value: float, scale: str) -> float:
    with np.errstate(all="ignore"):
        return float(value if scale == "lin" else np.log(value) / (LN10 if scale == "log10" else 1.0))
