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
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

import numpy as np
import sympy as sp
from scipy.integrate import solve_ivp

from ._equations import Equations, Setting
from ._tables import Parameter, Tables

__all__ = ["Objective"]

LN10 = math.log(10.0)
OFFSET = 50.0
"""c of the rows of σ: σ may be as small as exp(-25)."""


class Objective:
    """The objective as a function of parameters on their scales (lin, log, log10), with derivatives."""

    def __init__(self, equations: Equations, tables: Tables) -> None:
        self.equations, self.tables = equations, tables
        self.rates, self.observed = equations.values_and_derivatives
        self._settings = [
            (self._setting(s), None if b is None else self._setting(b))
            for s, b in zip(equations.settings, equations.before, strict=True)
        ]

    def _setting(self, setting: Setting) -> Callable[[Any], tuple[np.ndarray, ...]]:
        """θ -> (q, ∂q/∂θ, x0, ∂x0/∂θ); x0 is NaN where None was said."""
        names = self.equations.parameters
        expressions = [*setting.inputs, *(sp.nan if v is None else v for v in setting.initial)]
        derivatives = [sp.diff(e, s) for e in expressions for s in names]
        f, number = self.equations.of_parameters([*expressions, *derivatives]), len(setting.inputs)

        def evaluate(θ: Any) -> tuple[np.ndarray, ...]:
            values = np.array(f(θ), float)
            size = len(expressions)
            value, slope = values[:size], values[size:].reshape(size, len(names))
            return value[:number], slope[:number], value[number:], slope[number:]

        return evaluate

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
            parts = [self._terms(e, θ, rtol, False) for e in range(len(self._settings))]
        except ArithmeticError:
            return math.inf
        cost = sum(
            0.5 * r @ r + (np.log(σ) + 0.5 * math.log(2 * math.pi) - jacobian).sum() for r, σ, jacobian, *_ in parts
        )
        residuals = self._prior_rows(θ)[0]
        total = float(cost) + 0.5 * float(residuals @ residuals) + sum(p.prior_constant for p in self.tables.parameters)
        return total if math.isfinite(total) else math.inf

    def rows(self, x: np.ndarray, rtol: float = 1e-8) -> tuple[np.ndarray, np.ndarray]:
        """Rows whose sum of squares, halved, is the objective up to a constant, and their derivatives by x.

        Raises:
            ArithmeticError: the integration failed, or a row is not finite.
        """
        θ, slope = self.unscaled(x)
        rows, derivatives = [], []
        for e in range(len(self._settings)):
            r, σ, _, dr, dσ = self._terms(e, θ, rtol, True)
            with np.errstate(all="ignore"):  # of σ beyond exp(-25), refused below
                σ_row = np.sqrt(2 * np.log(σ) + OFFSET)
            rows += [r, σ_row]
            derivatives += [dr, dσ / (σ * σ_row)[:, None]]
        prior, prior_slope = self._prior_rows(θ)
        rows, derivatives = [*rows, prior], [*derivatives, prior_slope]
        result = np.concatenate(rows), np.concatenate(derivatives) * slope
        if not all(np.isfinite(a).all() for a in result):
            raise ArithmeticError("a row or a derivative is not finite")
        return result

    def _terms(self, experiment: int, θ: np.ndarray, rtol: float, derivatives: bool) -> tuple[np.ndarray, ...]:
        """(g(m) - g(h)) / σ, σ and log g'(m) of the observations of an experiment, and derivatives by θ."""
        e = self.tables.experiments[experiment]
        x, S, q, dq = self._simulate(experiment, θ, rtol, derivatives)
        number = len(self.tables.columns)
        parts = []
        with np.errstate(all="ignore"):
            for i, t in enumerate(e.times):
                at = np.flatnonzero(np.isfinite(e.data[i]))
                values, by_x, by_q = self.observed(t, x[i], q)
                slopes = by_x @ S[i] + by_q @ dq if derivatives else np.zeros((2 * number, 0))
                σ = np.where(np.isnan(e.noise[i]), values[number:], e.noise[i])
                dσ = np.where(np.isnan(e.noise[i])[:, None], slopes[number:], 0.0)
                for j in map(int, at):
                    parts.append(self._term(j, e.data[i, j], values[j], σ[j], slopes[j], dσ[j]))
        r, σ, jacobian, dr, dσ = (np.array([p[k] for p in parts]) for k in range(5))
        return r, σ, jacobian, dr, dσ

    def _term(self, column: int, m: float, h: Any, σ: Any, dh: np.ndarray, dσ: np.ndarray) -> tuple[Any, ...]:
        kind = self.tables.columns[column].transformation
        factor = LN10 if kind == "log10" else 1.0
        if kind == "lin":
            difference, jacobian = m - h, 0.0
        else:
            difference, jacobian = (np.log(m) - np.log(h)) / factor, -math.log(m * factor)
            dh = dh / (h * factor)
        r = difference / σ
        return r, σ, jacobian, -dh / σ - r / σ * dσ, dσ

    def _simulate(self, experiment: int, θ: np.ndarray, rtol: float, derivatives: bool) -> tuple[np.ndarray, ...]:
        """x (times, n), S (times, n, p), q, ∂q/∂θ of an experiment."""
        simulation, equilibration = self._settings[experiment]
        with np.errstate(all="ignore"):
            q, dq, x0, S0 = simulation(θ)
        if equilibration is not None:
            x_before, S_before = self._steady_state(equilibration(θ), rtol, derivatives)
            taken = np.isnan(x0)
            x0, S0 = np.where(taken, x_before, x0), np.where(taken[:, None], S_before, S0)
        switches = self.equations.settings[experiment].switches
        x, S = self._integrate(x0, S0, q, dq, self.tables.experiments[experiment].times, switches, rtol, derivatives)
        return x, S, q, dq

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
        """x and S at times, from 0 on, in pieces between switching times."""
        n, p = len(x0), S0.shape[1] if derivatives else 0
        state = np.concatenate([x0[:, None], S0[:, :p]], 1).T.ravel()  # block after block: x, then columns of S
        found = np.empty((len(times), state.size))
        ends = [0.0, *(s for s in switches if 0 < s < times[-1]), float(times[-1])]
        found[times == 0] = state
        for start, end in pairwise(ends):
            inside = (times > start) & (times <= end)
            if end > start:
                at = np.unique([*times[inside], end])
                solution = self._piece(state, q, dq, start, end, at, n, p, rtol)
                found[inside], state = solution[np.isin(at, times[inside])], solution[-1]
        parts = found.reshape(len(times), 1 + p, n)
        return parts[:, 0], np.moveaxis(parts[:, 1:], 1, 2)

    def _piece(
        self, state: np.ndarray, q: Any, dq: Any, start: float, end: float, at: np.ndarray, n: int, p: int, rtol: float
    ) -> np.ndarray:
        """The state and its sensitivities at times between two switches, (times, (1 + p) n)."""
        margin = 1e-12 * (end - start)  # rates jump at the ends: they are evaluated inside

        def right(t: float, z: np.ndarray) -> np.ndarray:
            Z = z.reshape(1 + p, n)
            f, J, P = self.rates(min(max(t, start + margin), end - margin), Z[0], q)
            return np.concatenate([f[None], Z[1:] @ J.T + (P @ dq).T]).ravel() if p else f

        def band(t: float, z: np.ndarray) -> np.ndarray:
            """J[i, j] of each block at [i - j + n - 1, block n + j]."""
            _, J, _ = self.rates(min(max(t, start + margin), end - margin), z[:n], q)
            packed = np.zeros((2 * n - 1, n))
            i, j = np.indices((n, n))
            packed[i - j + n - 1, j] = J
            return np.tile(packed, (1, 1 + p))

        atol = np.full(state.size, 1e-2 * rtol)
        if p:  # sensitivities have scales of their own, and do not decide about the accuracy of the states
            atol[n:] = 1e-2 * rtol + rtol * np.abs(state[n:])
        with np.errstate(all="ignore"), warnings.catch_warnings(action="ignore"):  # LSODA warns, then fails
            solution = solve_ivp(
                right,
                (start, end),
                state,
                method="LSODA",
                t_eval=at,
                rtol=rtol,
                atol=atol,
                jac=band,
                lband=n - 1,
                uband=n - 1,
            )
        if not solution.success or not np.isfinite(solution.y).all():
            raise ArithmeticError(f"integration failed: {solution.message}")
        return solution.y.T

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
