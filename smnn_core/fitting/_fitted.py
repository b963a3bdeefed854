"""The result of `fit`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from .._arrays import Array
from .._errors import ArgumentError
from ._start import sizes_of, squares_of_differences
from ._starts import Starts
from ._taylor import evaluate
from ._travel import for_pickle
from ._uncertainty import Identifiability, Linearized, Profile, prediction, profile, quantile, sandwich

if TYPE_CHECKING:
    from ._gauss_newton import State
    from ._parameters import Parameters
    from ._refinement import Ends
    from ._setting import Setting

__all__ = ["Fitted"]

MOST = 30
"""Steps of a fit of a profile at a weight of the equations."""
SHOWN = 8
"""Members of a batch that are printed."""
DEVIATIONS = 5.0
"""By which the cost may exceed its expectation without a warning."""
SMALLEST = 1e-4
"""Residuals that are no matter where data have no noise, relative to the size of the data."""


def _as_it_is(function: Any, name: str) -> Any:
    del name
    return function


@dataclass(frozen=True, eq=False)
class Prediction:
    """Values with errors at times."""

    times: Array
    """(n,)"""
    value: Array
    """(n, m)"""
    error: Array
    """(n, m): standard errors"""
    lower: Array
    upper: Array
    level: float


@dataclass(frozen=True, eq=False)
class Samples:
    """Draws of parameters and trajectories; call it with times for the trajectories."""

    parameters: Array
    """(draws, p)"""
    _linearized: Linearized = field(repr=False)
    _z: Array = field(repr=False)

    def __call__(self, times: Any, *, experiment: int = 0) -> Array:
        """The variables at times (n,): (draws, n, V)."""
        x = np.atleast_1d(np.asarray(times, float))
        y = np.moveaxis(self._linearized.at(x, self._z, experiment, 1)[:, :, 0], -1, 0)
        φ = self._linearized.setting.model.parameters.inner(self.parameters)
        return y + self._linearized.setting.jumped(np.broadcast_to(x, (len(φ), len(x))), φ, experiment)


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
    reason: str
    """what speaks against the result, or its errors: the texts of the warnings, and where residuals are far below the
    noise given; empty where nothing does"""
    _setting: Setting = field(repr=False)
    _ends: Ends = field(repr=False)
    starts: Starts | None
    """all ends, where there were several starts"""
    networks: dict[str, Any]
    """weights of each network, (..., n); adapters have the networks themselves"""
    _variables: tuple[str, ...] | None = field(repr=False, default=None)
    _wrap: Callable[..., Any] = field(repr=False, default=_as_it_is)
    """turns an observable as a package takes it into one with derivatives"""

    @staticmethod
    def of(setting: Setting, ends: Ends, variables: tuple[str, ...] | None, starts: Starts | None = None) -> Fitted:
        """From where the iterations ended."""
        s, o, batch = ends.state, setting.observed, setting.observed.batch
        parameters = setting.model.parameters
        n = parameters.single
        slope = parameters.slope(s.φ)[:, :n]
        failed = s.failed[:, None]
        if setting.loss.name != "squares" and not s.failed.all():
            s.covariance = sandwich(setting, ends)
        covariance = s.covariance[:, :n, :n] * slope[:, :, None] * slope[:, None]
        covariance = np.where(failed[..., None], np.nan, covariance)
        priors = int(parameters.has_prior[:n].sum())
        softly = (np.isfinite(setting.known.weights) & (setting.known.weights > 0)).sum((1, 2, 3))
        constants = setting.free + softly
        degrees = (o.seen.sum((1, 2, 3)) + priors + softly - n - constants).astype(int)  # (weights have priors each)
        errors = np.sqrt(np.maximum(np.diagonal(covariance, axis1=1, axis2=2), 0.0))
        none_left = o.estimated.any() & (degrees < 1)
        errors = np.where(s.held[:, :n] | failed | none_left[:, None], np.nan, errors)
        noise = np.where(o.seen.reshape(s.noise.shape), s.noise, 0.0).reshape(setting.S, -1, s.noise.shape[-1]).max(1)
        if setting.model.noise is not None:
            noise = np.full(noise.shape, np.nan)
        total = np.where(s.failed, np.nan, s.costs.sum(-1))

        messages = (*_messages(setting, ends, degrees), *(() if starts is None else starts.messages(errors)))

        def shaped(x: Array) -> Array:
            return x.reshape((*batch, *x.shape[1:]))

        t = ends.t.reshape(setting.S, setting.E, -1)
        θ = np.where(failed, np.nan, parameters.outer(s.φ))
        return Fitted(
            names=parameters.names[:n],
            parameters=shaped(θ[:, :n]),
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
            messages=messages,
            reason="\n".join((*(text for _, text in messages), *_notes(setting, s, degrees))),
            starts=starts,
            networks={name: shaped(x) for name, x in parameters.weights(θ).items()},
            _setting=setting,
            _ends=ends,
            _variables=variables,
        )

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_wrap": for_pickle(self._wrap, "observe")}

    def __call__(self, times: Any, *, experiment: int = 0, orders: int | None = None) -> Array:
        """The fitted trajectory at times (n,): (..., n, V), or (..., n, V, orders) with derivatives."""
        s, e = self._setting, self._ends
        i = np.arange(s.S) * s.E + experiment
        times = np.asarray(times, float)
        x = np.broadcast_to(times, (s.S, times.size))
        if (x < e.t[i, :1]).any() or (x > e.t[i, -1:]).any():
            raise ArgumentError(
                f"times must lie within [{e.t[i].min():g}, {e.t[i].max():g}], where data were fitted; "
                "a fit reaches further where its data have rows of NaN at later times."
            )
        y = evaluate(e.t[i], e.state.z[i], x, orders or 1) * s.size[:, None, :, None]
        y[..., 0] += s.jumped(x, e.state.φ, experiment)
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
        each = [quantile(level, self._noise_degrees(i)) for i in range(self._setting.S)]
        half = np.array(each).reshape((*self.batch, 1)) * self.standard_errors
        log = self._setting.model.parameters.log[: len(self.names)]
        with np.errstate(all="ignore"):
            low, high = (
                np.where(log, self.parameters * np.exp(sign * half / self.parameters), self.parameters + sign * half)
                for sign in (-1, 1)
            )
        return np.stack([low, high], axis=-1)

    def _linearized(self, member: int) -> Linearized:
        return Linearized.of(self._setting, self._ends, member)

    def _noise_degrees(self, member: int) -> float:
        """Degrees of freedom of the noise: infinite where it was given."""
        return max(float(np.ravel(self.degrees)[member]), 1.0) if self._setting.observed.estimated.any() else np.inf

    def profile(self, name: str, *, member: int = 0) -> Profile:
        """The likelihood along one parameter, all others fitted again, with likelihood intervals and a picture.

        Fits on a grid of its values, in one batch; wider where the data bound it little. For members of a batch say
        which.
        """
        index = self._index(name)
        error = np.sqrt(max(self._ends.state.covariance[member, index, index], 0.0))
        return profile(self._linearized(member), index, error, self._noise_degrees(member), MOST)

    def predict(
        self, times: Any, observe: Any = None, *, level: float = 0.95, experiment: int = 0, member: int = 0
    ) -> Prediction:
        """Variables, or what is observed of them, with standard errors and bands: those of noise are not in them.

        Args:
            times: (n,), within those of the data.
            observe: as for `fit`; True: that of the fit; None: the variables.
        """
        x = np.atleast_1d(np.asarray(times, float))
        self(x, experiment=experiment)
        function = self._setting.model.observe if observe is True else observe
        if callable(observe):
            function = self._wrap(observe, "observe")
        value, error = prediction(self._linearized(member), x, function, experiment)
        half = quantile(level, self._noise_degrees(member)) * error
        return Prediction(x, value, error, value - half, value + half, level)

    def sample(self, n: int, *, seed: int = 0, member: int = 0) -> Samples:
        """n draws of parameters and trajectories together, from Laplace's approximation of the posterior."""
        linearized = self._linearized(member)
        z, φ = linearized.responses(*linearized.random_shifts(n, np.random.default_rng(seed)))
        s = linearized.ends.state
        φ = np.clip(s.φ[0] + φ.T, s.lower[0], s.upper[0])
        θ = self._setting.model.parameters.outer(φ)[:, : len(self.names)]
        return Samples(θ, linearized, s.z[..., None] + z)

    @property
    def log_evidence(self) -> Any:
        """log p(data), (...), by Laplace's approximation, to compare equations: differences are logarithms of odds.

        Every parameter needs a prior, and all initial values must be known or functions of parameters. Noise that was
        estimated counts as known.
        """
        values = [self._linearized(i).log_evidence() for i in range(self._setting.S)]
        return np.array(values).reshape(self.batch) if self.batch else values[0]

    @property
    def identifiable(self) -> Identifiability:
        """Which combinations of parameters the data determine; false, and a list `open`, where they leave some open."""
        if self.batch:
            raise ArgumentError("identifiable is for one data set; covariance has those of all.")
        n = len(self.names)
        φ = self._ends.state.φ[0, :n]
        size = np.where(self._setting.model.parameters.log[:n] | (φ == 0), 1.0, np.abs(φ))
        return Identifiability.of(self.names, self._ends.state.covariance[0, :n, :n] / size / size[:, None])

    def plot(self, *, experiment: int = 0, member: int = 0) -> Any:
        """Data and trajectories with 95 % bands; needs matplotlib.

        Returns:
            matplotlib.figure.Figure.
        """
        from matplotlib.figure import Figure

        s, e = self._setting, self._ends
        o = s.observed
        t = e.t[member * s.E + experiment]
        x = np.linspace(t[0], t[-1], 300)
        own = s.model.observe is not None
        band = self.predict(x, True if own else None, experiment=experiment, member=member)
        figure = Figure(figsize=(6, 3.6), layout="constrained")
        axes = figure.add_subplot()
        labels = o.names if own or self._variables is None else self._variables
        for j in range(band.value.shape[-1]):
            color = f"C{j}"
            axes.plot(x, band.value[:, j], color=color)
            axes.fill_between(x, band.lower[:, j], band.upper[:, j], color=color, alpha=0.2, linewidth=0)
            axes.annotate(labels[j], (x[-1], band.value[-1, j]), (4, 0), color=color, textcoords="offset points")
            if j < o.raw.shape[-1]:
                axes.plot(o.times[member, experiment], o.raw[member, experiment, :, j], ".", color=color)
        axes.set_xlabel("time")
        return figure

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
        values, errors = (x.reshape(converged.size, p) for x in (self.parameters, self.standard_errors))
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
        parameters = self._setting.model.parameters
        for name, count in _determined(self._ends.state, parameters).items():
            span = f"{count.min():.1f}" + ("" if count.size == 1 else f" to {count.max():.1f}")
            lines.append(f"  {name}: {dict(parameters.networks)[name]} weights, of which the data determine {span}")
        if self.starts is not None:
            lines.append(f"  {self.starts}")
        elif self._setting.has_hidden and p:
            lines.append("  from one start, with variables that nobody observed: starts=20 shows other minima")
        estimated = self._setting.observed.estimated
        if estimated.any() and not self.batch:
            known = zip(self._setting.observed.names, self.noise, estimated, strict=True)
            of = ", of all experiments together" if self._setting.E > 1 else ""
            lines.append(f"  noise (estimated{of}): " + ", ".join(f"{n} {x:.3g}" for n, x, own in known if own))
        warned = [text for _, text in self.messages]
        lines += [f"  {'WARNING' if x in warned else 'NOTE'}: {x}" for x in self.reason.splitlines()]
        return "\n".join(lines)


def _with_error(value: float, error: float) -> str:
    """The error with two digits, the value with as many decimals."""
    if not np.isfinite(error) or error <= 0:
        return f"{value:.6g} (no standard error)"
    decimals = max(0, 1 - int(np.floor(np.log10(error))))
    if decimals > 12 or error > 1e5:
        return f"{value:.6g} ± {error:.2g}"
    return f"{value:.{decimals}f} ± {error:.{decimals}f}"


def _determined(state: State, parameters: Parameters) -> dict[str, Array]:
    """How many numbers the data determine in each network, (S,): the sum of 1 - variance / prior variance.

    Source: MacKay, Neural Computation 4 (1992) 448.
    """
    left = np.diagonal(state.covariance, axis1=1, axis2=2) / parameters.deviations**2
    return {name: (1 - x).sum(-1) for name, x in parameters.weights(left).items()}


def _messages(setting: Setting, ends: Ends, degrees: Array) -> Any:
    """Warnings about the result."""
    s, S = ends.state, setting.S
    empty = ~setting.observed.seen.any((1, 2, 3))
    if empty.any():
        yield (
            "convergence",
            f"{int(empty.sum())} of {S} data sets have no finite value: nothing was observed, and all is NaN there.",
        )
    failed = int((s.failed & ~empty).sum())
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
    at_rest = " steady= asks for a state at rest, which the equations may not have." if setting.model.steady else ""
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
                "values or bounds), or the noise is larger. Standard errors are too small by that factor at least."
                + at_rest,
            )
    prior = setting.model.parameters.prior(s.φ)[0][:, : len(setting.model.parameters.names)]
    far = np.abs(np.where(ok[:, None], prior, 0.0)).max(0) > DEVIATIONS
    if far.any():
        left = ", ".join(name for name, x in zip(setting.model.parameters.names, far, strict=True) if x)
        yield (
            "misfit",
            f"{left} lie more than {DEVIATIONS:g} deviations from their priors: these are wrong, or the fit is in a "
            "wrong minimum (give starts=, other start values or bounds).",
        )
    rough, excess = _noise_beyond_differences(setting, ends)
    rough &= ok[:, None]
    if rough.any() and setting.loss.name == "squares":
        names = [name for name, x in zip(setting.observed.names, rough.any(0), strict=True) if x]
        yield (
            "misfit",
            f"{int(rough.any(1).sum())} of {S} fits leave up to {np.sqrt(excess[rough].max()):.3g} times as much of "
            f"{', '.join(names)} as neighbouring observations differ from each other by: the equations do not explain "
            "the data, or the fit is in a wrong minimum (give starts=, other start values or bounds). Noise and "
            "standard errors that are estimated from such residuals mean nothing.",
        )
    stuck = ok & ~(s.costs[:, 1] < 1 + 0.01 * np.abs(cost))
    if stuck.any() and not (least and (stuck & poor).sum() == stuck.sum()):
        yield (
            "misfit",
            f"{int(stuck.sum())} of {S} fits do not meet their equations: these cost {s.costs[stuck, 1].max():.3g} "
            "where nearly 0 is expected. No solution of them is near the data, or the fit is in a wrong minimum (give "
            "starts=, other start values or bounds)." + at_rest,
        )


def _notes(setting: Setting, state: State, degrees: Array) -> Any:
    """Statements about results that are far better than the noise given allows, by five deviations.

    The sum of squares of the data alone counts, as priors and errors of initial values are often wide on purpose; each
    of them, and each weight as far as the data determine it, is taken as a free constant. The cube root of the sum over
    its expectation is nearly normal (Wilson, Hilferty, PNAS 17 (1931) 684), and never as low for 5 degrees of freedom.
    """
    model = setting.model
    if setting.loss.name != "squares" or model.noise is not None or setting.observed.estimated.any():
        return
    weights = setting.known.weights
    softly = (np.isfinite(weights) & (weights > 0)).sum((1, 2, 3))
    free = degrees - model.parameters.has_prior[: model.parameters.single].sum() - softly
    free = np.maximum(free - sum(_determined(state, model.parameters).values()), 1)
    ratio = state.costs[:, 0] / free
    below = ~state.failed & (np.cbrt(ratio) < 1 - 2 / (9 * free) - DEVIATIONS * np.sqrt(2 / (9 * free)))
    if below.any():
        least = np.sqrt(ratio[below].min())
        times = f"up to about {1 / least:.2g} times what the data show" if least > 0 else "met by no residual at all"
        yield (
            f"{int(below.sum())} of {setting.S} fits leave far less than the noise given, which is {times}: it is too "
            "large, and standard errors are by that factor, or trajectories follow the data instead of the equations "
            "(are times and data in the units of the parameters?). Give noise= as the data have it, or None to "
            "estimate it."
        )


def _noise_beyond_differences(setting: Setting, ends: Ends) -> tuple[Array, Array]:
    """Observables whose residuals have a variance above that of differences between neighbouring observations by more
    than five deviations, and the ratio of both, (S, m) each: of observables whose noise is not known.

    Relative variances of both estimates from n observations are 2 / n and 3.9 / n; that of their ratio is no larger
    than the sum, as they are positively correlated; its cube root is nearly normal (Wilson, Hilferty, PNAS 17 (1931)
    684). Data that bend between neighbours only enlarge the differences.
    """
    o, d = setting.observed, setting.discretization(ends.t)
    S, E, n, m = o.values.shape
    times, values, seen = (x.reshape(S * E, *x.shape[2:]) for x in (o.times, o.values, o.seen))
    φ = np.repeat(ends.state.φ, E, axis=0)
    h = d.evaluate(ends.state.z, φ).data.value
    with np.errstate(invalid="ignore"):
        left = np.where(seen, h - values, 0.0).reshape(S, E * n, m)
    total, number = (x.reshape(S, E, m).sum(1) for x in squares_of_differences(times, values, seen))
    unknown = np.ones(m, bool) if setting.model.noise is not None else o.estimated
    with np.errstate(all="ignore"):
        residuals = (left**2).sum(1) / seen.reshape(S, E * n, m).sum(1)
        size = sizes_of(values.reshape(left.shape), seen.reshape(left.shape))
        total = np.maximum(total, number * (SMALLEST * size) ** 2)
        ratio = np.where(total > 0, residuals * number / total, 1.0)
        return unknown & (ratio > (1 + DEVIATIONS / 3 * np.sqrt(5.9 / np.maximum(number, 1))) ** 3), ratio
