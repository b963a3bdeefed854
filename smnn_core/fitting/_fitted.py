"""The result of `fit`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from .._arrays import Array
from .._errors import ArgumentError
from ._collocation import evaluate
from ._result import _with_error
from ._starts import Starts

if TYPE_CHECKING:
    from ._refinement import Ends
    from ._setting import Setting

__all__ = ["Fitted"]

SHOWN = 8
"""Members of a batch that are printed."""
DEVIATIONS = 5.0
"""By which the cost may exceed its expectation without a warning."""


@dataclass(frozen=True, eq=False)
class Fitted:
    """Parameters and trajectories fitted to data by `fit`; `print` shows the parameters with their errors.

    Batch axes, of data sets that were fitted each for itself, come first everywhere.
    """

    names: tuple[str, ...]
    """of the parameters"""
    parameters: Array
    """(..., p)"""
    standard_errors: Array
    """(..., p); NaN where the fit failed, a bound holds the parameter, or nothing is left to estimate the noise from"""
    covariance: Array
    """(..., p, p): of the parameters, 0 for those that a bound holds"""
    cost: Array
    """(...): the sum of squares of everything that was fitted, in standard deviations; of losses and noise that is a
    function -2 log likelihood, but for constants"""
    costs: dict[str, Array]
    """its parts: data, equations, initial, priors"""
    noise: Array
    """(..., m): the largest standard deviation of each observable, given or estimated; NaN where a function gives it"""
    degrees: Array
    """(...): observations and priors less free constants"""
    converged: Array
    """(...), bool"""
    iterations: Array
    """(...)"""
    discretization_error: Array
    """(...): how far the parameters moved, in standard errors, on a mesh with twice as many intervals; the error that
    remains is far smaller"""
    t: Array
    """(..., N+1), or (..., experiments, N+1): the mesh"""
    messages: tuple[tuple[str, str], ...]
    """what was warned of: kind and text"""
    _setting: Setting = field(repr=False)
    _ends: Ends = field(repr=False)
    starts: Starts | None
    """all ends, where there were several starts"""
    _variables: tuple[str, ...] | None = field(repr=False, default=None)

    @staticmethod
    def of(setting: Setting, ends: Ends, variables: tuple[str, ...] | None, starts: Starts | None = None) -> Fitted:
        """From where the iterations ended."""
        s, o, batch = ends.state, setting.observed, setting.observed.batch
        parameters = setting.model.parameters
        slope = parameters.slope(s.φ)
        failed = s.failed[:, None]
        covariance = s.covariance * slope[:, :, None] * slope[:, None]
        covariance = np.where(failed[..., None], np.nan, covariance)
        priors = int((parameters.prior()[1] > 0).sum())
        softly = (np.isfinite(setting.known.weights) & (setting.known.weights > 0)).sum((1, 2, 3))
        constants = setting.model.V * setting.model.q * setting.E - np.isinf(setting.known.weights).sum((1, 2, 3))
        degrees = o.seen.sum((1, 2, 3)) + priors + softly - s.φ.shape[1] - constants
        errors = np.sqrt(np.maximum(np.diagonal(covariance, axis1=1, axis2=2), 0.0))
        none_left = o.estimated.any() & (degrees < 1)
        errors = np.where(s.held | failed | none_left[:, None], np.nan, errors)
        noise = np.where(o.seen.reshape(s.noise.shape), s.noise, 0.0).reshape(setting.S, -1, s.noise.shape[-1]).max(1)
        if setting.model.noise is not None:
            noise = np.full(noise.shape, np.nan)
        total = np.where(s.failed, np.nan, s.costs.sum(-1))

        def shaped(x: Array) -> Array:
            return x.reshape((*batch, *x.shape[1:]))

        t = ends.t.reshape(setting.S, setting.E, -1)
        return Fitted(
            names=parameters.names,
            parameters=shaped(np.where(failed, np.nan, parameters.outer(s.φ))),
            standard_errors=shaped(errors),
            covariance=shaped(covariance),
            cost=shaped(total),
            costs={k: shaped(s.costs[:, i]) for i, k in enumerate(("data", "equations", "initial", "priors"))},
            noise=shaped(noise),
            degrees=shaped(degrees),
            converged=shaped(s.converged & ends.resolved),
            iterations=shaped(s.steps),
            discretization_error=shaped(ends.error),
            t=shaped(t if o.several else t[:, 0]),
            messages=(*_messages(setting, ends, degrees), *(() if starts is None else starts.messages(errors))),
            starts=starts,
            _setting=setting,
            _ends=ends,
            _variables=variables,
        )

    def __call__(self, times: Any, *, experiment: int = 0, orders: int | None = None) -> Array:
        """The fitted trajectory at times (n,): (..., n, V), or (..., n, V, orders) with derivatives."""
        s, e = self._setting, self._ends
        i = np.arange(s.S) * s.E + experiment
        x = np.broadcast_to(np.asarray(times, float), (s.S, np.size(times)))
        if (x < e.t[i, :1]).any() or (x > e.t[i, -1:]).any():
            raise ArgumentError(f"times must lie within [{e.t[i].min():g}, {e.t[i].max():g}], where data were fitted.")
        y = evaluate(e.t[i], e.state.z[i], x, orders or 1) * s.size[:, None, :, None]
        y = y.reshape((*s.observed.batch, *np.shape(times), *y.shape[2:]))
        return y if orders else y[..., 0]

    @property
    def batch(self) -> tuple[int, ...]:
        return self._setting.observed.batch

    def __getitem__(self, name: str) -> Array:
        """The values of the parameter of that name, (...)."""
        return self.parameters[..., self._index(name)]

    def _index(self, name: str) -> int:
        if name not in self.names:
            raise ArgumentError(f"no parameter is called {name!r}; there are {', '.join(self.names)}.")
        return self.names.index(name)

    def interval(self, level: float = 0.95) -> Array:
        """Intervals (..., p, 2) that hold the parameters with that probability: normal, or of Student's t where noise
        was estimated; of logarithms where `log` is set."""
        from scipy.special import ndtri, stdtrit

        quantile = ndtri((1 + level) / 2)
        if self._setting.observed.estimated.any():
            quantile = stdtrit(np.maximum(self.degrees, 1), (1 + level) / 2)
        quantile = np.asarray(quantile)[..., None]
        parameters = self._setting.model.parameters
        log = parameters.log
        with np.errstate(all="ignore"):
            relative = self.standard_errors / self.parameters
            low, high = (
                np.where(
                    log,
                    self.parameters * np.exp(sign * quantile * relative),
                    self.parameters + sign * quantile * self.standard_errors,
                )
                for sign in (-1, 1)
            )
        return np.stack([low, high], axis=-1)

    def __str__(self) -> str:
        converged = np.atleast_1d(self.converged).ravel()
        state = f"{int(converged.sum())} of {converged.size} converged"
        if not self.batch:
            state = "converged" if converged[0] else "NOT converged"
        cost = np.atleast_1d(self.cost)
        cost = cost[np.isfinite(cost)]
        span = "nan" if not cost.size else f"{cost.min():.4g}" + ("" if cost.size == 1 else f" to {cost.max():.4g}")
        lines = [
            f"Fit: {state}, {int(np.max(self.iterations, initial=0))} iterations, "
            f"{self.t.shape[-1] - 1} intervals, cost {span} with {int(np.min(self.degrees))} degrees of freedom"
        ]
        p = len(self.names)
        width = max(map(len, self.names), default=0)
        values, errors = self.parameters.reshape(-1, p), self.standard_errors.reshape(-1, p)
        if not self.batch:
            lines += [
                f"  {n:{width}}  {_with_error(v, e)}" for n, v, e in zip(self.names, values[0], errors[0], strict=True)
            ]
        elif p:
            for i in range(min(len(values), SHOWN)):
                row = zip(self.names, values[i], errors[i], strict=True)
                lines.append(f"  member {i}: " + ", ".join(f"{n} = {_with_error(v, e)}" for n, v, e in row))
            if len(values) > SHOWN:
                lines.append(f"  .. and {len(values) - SHOWN} more")
        if self.starts is not None:
            lines.append(f"  {self.starts}")
        if self._setting.observed.estimated.any() and not self.batch:
            pairs = zip(self._setting.observed.names, self.noise, strict=True)
            lines.append("  noise (estimated): " + ", ".join(f"{n} {x:.3g}" for n, x in pairs))
        lines += [f"  WARNING: {text}" for _, text in self.messages]
        return "\n".join(lines)


def _messages(setting: Setting, ends: Ends, degrees: Array) -> Any:
    """What a user has to know."""
    s, S = ends.state, setting.S
    failed = int(s.failed.sum())
    if failed:
        yield (
            "convergence",
            f"{failed} of {S} fits failed: the equations are not finite along the way, or the rows leave y "
            "undetermined; `converged` is False there. Other start values, bounds, initial values, or data for more "
            "variables help.",
        )
    open_ = ~(s.failed | (s.converged & ends.resolved))
    if open_.any():
        coarse = int((open_ & s.converged).sum())
        reason = f"; of {coarse} the parameters still move when the mesh is refined" if coarse else ""
        yield (
            "convergence",
            f"{int(open_.sum())} of {S} fits have not converged{reason}; `converged` is False there. starts=, other "
            "start values, bounds or more iterations help, where the equations fit the data at all.",
        )
    lost = ~s.determined & ~s.failed
    if lost.any():
        yield (
            "convergence",
            f"the data do not determine all parameters of {int(lost.sum())} of {S} fits: some combination of them "
            "changes nothing that was observed; its standard error is arbitrary and large. Fix a parameter, or observe "
            "more.",
        )
    if setting.observed.estimated.any() and (degrees < 1).any():
        yield (
            "convergence",
            f"{int((degrees < 1).sum())} of {S} fits have no more observations than free constants, so that the noise "
            "cannot be estimated: standard errors are NaN. Give noise=, or more data.",
        )
    cost = s.costs.sum(-1)
    least = setting.loss.name == "squares" and setting.model.noise is None
    ok = ~s.failed
    if least:
        given = ~setting.observed.estimated.any()
        free = np.maximum(degrees, 1)
        excess = (cost - free) / np.sqrt(2 * free)
        poor = ok & (excess > DEVIATIONS) & given
        if poor.any():
            ratio = np.sqrt((cost / free)[poor].max())
            parts = ("the data", "the equations", "initial values", "priors")
            worst = parts[int(s.costs[poor].sum(0).argmax())]
            yield (
                "misfit",
                f"{int(poor.sum())} of {S} fits leave up to {ratio:.3g} times the noise given, most of it in {worst}: "
                "the equations do not explain the data, the fit is in a wrong minimum (give starts=, other start "
                "values or bounds), or the noise is larger. Standard errors are too small by that factor at least.",
            )
    stuck = ok & ~(s.costs[:, 1] < 1 + 0.01 * np.abs(cost))
    if stuck.any() and not (least and (stuck & poor).sum() == stuck.sum()):
        yield (
            "misfit",
            f"{int(stuck.sum())} of {S} fits do not meet their equations: these cost {s.costs[stuck, 1].max():.3g} "
            "where nearly 0 is expected.",
        )
