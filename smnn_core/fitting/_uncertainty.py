"""Errors of a fit from its linearisation at the end (Laplace's approximation), and profiles by further fits.

With rows of unit variance the minimiser of a linear least-squares problem has the covariance of its responses to unit
shifts of the data: the sum over all data of (response)^2. So one left-hand side with a right-hand side for each datum
gives the covariance of trajectories and parameters together, at any times, and random shifts give samples. Unlike
sensitivities to initial values, nothing grows with time on the way.

Letters: S data sets, E experiments, M = S E members, p parameters, X shifts.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from .._arrays import Array
from .._errors import ArgumentError
from ._collocated import RowWeights
from ._gauss_newton import FINAL, GaussNewton
from ._model import Linear
from ._networks import Directions
from ._setting import Setting
from ._taylor import evaluate

if TYPE_CHECKING:
    from ._refinement import Ends

__all__ = ["Identifiability", "Linearized", "Profile", "prediction", "profile", "quantile", "sandwich"]

MOST_SHIFTS = 300
"""Data up to which each is shifted by itself; more are shifted at random, as often as that."""
WIDTH, GRID = 3.2, 12
"""Standard errors that a profile reaches on either side at first, and its points there."""
WIDER = 4
"""How often a profile is made twice as wide."""


@dataclass(frozen=True, eq=False)
class Linearized:
    """The end of one data set's fit, linearised."""

    setting: Setting
    """of that set alone"""
    ends: Ends
    iteration: GaussNewton
    weights: RowWeights
    inverse: Array
    """(p, p): covariance of φ, 0 where bounds hold"""
    directions: Directions

    @staticmethod
    def of(setting: Setting, ends: Ends, index: int) -> Linearized:
        """The linearisation of set `index`.

        Raises:
            ArgumentError: where that fit failed.
        """
        if ends.state.failed[index]:
            raise ArgumentError("the fit failed: there is nothing to say of its errors.")
        sets = np.array([index])
        setting, ends = setting.take(sets), ends.take(sets, setting.E)
        d = setting.discretization(ends.t)
        state = ends.state
        state.level = np.maximum(state.level, FINAL)
        iteration = GaussNewton(d, state, E=setting.E, estimated=setting.observed.estimated, free=setting.free)
        w = iteration.weights(np.array([0]))
        directions = iteration.directions(np.array([0]), d, iteration.e, w)
        return Linearized(setting, ends, iteration, w, state.covariance[0], directions)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Times, observables and members."""
        M, n, m = self.iteration.d.seen.shape
        return n, m * (1 if self.setting.model.noise is None else 2), M

    @property
    def prior_slopes(self) -> Array:
        """Derivatives of the rows of priors in φ, (p,)."""
        return self.setting.model.parameters.prior(self.ends.state.φ[0])[1]

    def responses(self, data: Array, initial: Array, priors: Array) -> tuple[Array, Array]:
        """Changes with data (M, n, rows, X), initial values (M, V, q, X) and priors (p, X) that move by so many
        standard deviations: of z (M, N, V, K, X) and φ (p, X)."""
        d, directions, T = self.iteration.d, self.directions, self.directions.T[0]
        e = self.iteration.e.along(np.tile(T, (len(d.t), 1, 1)))
        step = d.step(self.ends.state.z, e, self.weights, shifts=(data, initial))
        c = T.shape[1]
        gram = step.gram.sum(0)
        inverse = directions.along(self.inverse[None], gram[None, 1 : 1 + c, 1 : 1 + c], self.prior_slopes[None])[0]
        δ = -inverse @ (gram[1 : 1 + c, 1 + c :] - T.T @ (self.prior_slopes[:, None] * priors))
        Y = np.moveaxis(step.solutions, 1, -1)
        n, deviation = directions.single, directions.deviation
        unseen = priors * deviation[:, None] - T @ (T.T @ (priors / deviation[:, None]))
        unseen[:n] = 0.0
        return Y[..., 1 + c :] + np.einsum("mnvkp,px->mnvkx", Y[..., 1 : 1 + c], δ), T @ δ + unseen

    def unit_shifts(self) -> tuple[Array, Array, Array]:
        """Of everything that has a standard deviation, each by itself, or at random where that is much."""
        d, p = self.iteration.d, self.inverse.shape[0]
        rows = self.shape[1]
        soft = (d.exact.weights > 0) & np.isfinite(self.setting.known.weights.reshape(d.exact.weights.shape))
        seen = np.tile(d.seen, (1, 1, rows // d.seen.shape[-1]))
        has_prior = self.setting.model.parameters.has_prior
        count = int(seen.sum() + soft.sum() + has_prior.sum())
        if count > MOST_SHIFTS:
            return self.random_shifts(MOST_SHIFTS, np.random.default_rng(0), 1 / np.sqrt(MOST_SHIFTS))
        one = np.eye(count)
        data, initial, priors = np.zeros((*seen.shape, count)), np.zeros((*soft.shape, count)), np.zeros((p, count))
        a, b = int(seen.sum()), int(seen.sum() + soft.sum())
        data[seen], initial[soft], priors[has_prior] = one[:a], one[a:b], one[b:]
        return data, initial, priors

    def random_shifts(self, X: int, rng: np.random.Generator, size: float = 1.0) -> tuple[Array, Array, Array]:
        """Normal shifts of everything."""
        d, p = self.iteration.d, self.inverse.shape[0]
        n, rows, M = self.shape
        shapes = (M, n, rows, X), (*d.exact.weights.shape, X), (p, X)
        data, initial, priors = (size * rng.standard_normal(shape) for shape in shapes)
        return data, initial * np.isfinite(self.setting.known.weights.reshape(d.exact.weights.shape))[..., None], priors

    def at(self, times: Array, z: Array, experiment: int, orders: int) -> Array:
        """y of one experiment at times (n,) for z (M, N, V, K, X): (n, V, orders, X)."""
        t, own = self.ends.t[[experiment]], z[[experiment]]
        X = own.shape[-1]
        flat = np.moveaxis(own, -1, 2).reshape(1, own.shape[1], -1, own.shape[3])  # X variables of each kind
        y = evaluate(t, flat, times[None], orders)[0]
        y = y.reshape(len(times), X, self.setting.model.V, orders) * self.setting.size[0][:, None]
        return np.moveaxis(y, 1, -1)

    def log_evidence(self) -> float:
        """log ∫ p(data | θ) p(θ) dθ by Laplace's approximation in φ."""
        parameters, s, i = self.setting.model.parameters, self.ends.state, self.iteration
        if not parameters.has_prior.all():
            without = [name for name, x in zip(parameters.names, parameters.has_prior, strict=True) if not x]
            raise ArgumentError(f"log_evidence needs a prior for every parameter; without one: {', '.join(without)}.")
        if not np.isinf(self.setting.known.weights).all() and not self.setting.model.steady:
            raise ArgumentError("log_evidence needs all initial values: exact ones, or a function of the parameters.")
        if self.setting.loss.name != "squares":
            raise ArgumentError(f"log_evidence needs a likelihood that is normal, not loss={self.setting.loss.name!r}.")
        σ, _ = i.d.standard(i.e, self.weights)
        seen = i.d.seen
        log_σ = np.where(seen, np.log(σ), 0.0).sum()
        squares = s.costs.sum() - (2 * log_σ if self.setting.model.noise is not None else 0.0)
        likelihood = -squares / 2 - log_σ - seen.sum() / 2 * np.log(2 * np.pi)
        return float(likelihood + np.log(self.prior_slopes).sum() + np.linalg.slogdet(self.inverse)[1] / 2)


def sandwich(setting: Setting, ends: Ends) -> Array:
    """(κ G)^-1 (Σ ψ^2 r_j r_k) (κ G)^-1, (S, p, p), the covariance of φ where residuals are not normal.

    ψ are the residuals with the roots of their weights, r_j what column j leaves of each datum, κ the mean curvature of
    the loss relative to the mean weight, which stands for it in G.

    Source: Huber, Ronchetti, Robust Statistics, Wiley 2009, section 6.3.
    """
    S, E = setting.S, setting.E
    d, state = setting.discretization(ends.t), ends.state
    iteration = GaussNewton(d, state, E=E, estimated=setting.observed.estimated, free=setting.free)
    w = iteration.weights(np.arange(S))
    directions = iteration.directions(np.arange(S), d, iteration.e, w)
    step = d.step(state.z, iteration.e.along(np.repeat(directions.T, E, axis=0)), w)
    gram = step.gram[:, 1:, 1:].reshape(S, E, *step.gram[0, 1:, 1:].shape).sum(1)
    covariance = directions.along(state.covariance, gram, d.model.parameters.prior(state.φ)[1])
    _, r = d.standard(iteration.e, w)
    ψ = d.in_rows(step.left, np.where(d.seen, np.sqrt(d.loss.weight(r)) * r, 0.0)[..., None])
    rows = (step.left[..., 1:] * ψ).reshape(S, -1, covariance.shape[1])
    seen = d.seen.reshape(S, -1)
    bend, weight = (np.where(seen, f(r).reshape(S, -1), 0.0).sum(1) for f in (d.loss.bend, d.loss.weight))
    n = np.maximum(seen.sum(1), 1)
    κ = np.maximum(bend / weight, 0.1) * np.sqrt(np.maximum(n - state.φ.shape[1] - setting.free, 1) / n)
    return directions.of_all(covariance @ (np.swapaxes(rows, 1, 2) @ rows) @ covariance / κ[:, None, None] ** 2)


@dataclass(frozen=True, eq=False)
class Profile:
    """How the fit worsens where one parameter is held at other values."""

    name: str
    values: Array
    """(n,), ascending"""
    cost: Array
    """(n,): -2 log likelihood above its minimum, all other parameters fitted again; NaN where that failed"""
    degrees: float
    """of freedom of the noise; infinite where it was given"""
    log: bool

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """The likelihood interval; infinite on sides where the data do not bound the parameter.

        Source: Raue et al., Bioinformatics 25 (2009) 1923.
        """
        limit = quantile(level, self.degrees) ** 2
        ok = np.isfinite(self.cost)
        x, cost = self.values[ok], self.cost[ok]
        inner = np.log(x) if self.log else x
        best = int(cost.argmin())

        def crossing(order: Array, open_side: float) -> float:
            for a, b in pairwise(order):
                if cost[a] <= limit < cost[b]:
                    root = np.sqrt(np.maximum(cost[[a, b]], 0))
                    at = np.interp(np.sqrt(limit), root, inner[[a, b]])
                    return float(np.exp(at) if self.log else at)
            return open_side

        low = crossing(np.arange(best, -1, -1), 0.0 if self.log else -np.inf)
        return low, crossing(np.arange(best, len(x)), np.inf)

    def plot(self, level: float = 0.95) -> Any:
        """The profile with its limit and interval; needs matplotlib.

        Returns:
            matplotlib.figure.Figure.
        """
        from matplotlib.figure import Figure

        figure = Figure(figsize=(4.2, 3), layout="constrained")
        axes = figure.add_subplot()
        ok = np.isfinite(self.cost)
        axes.plot(self.values[ok], self.cost[ok], "o-", color="#0072B2", markersize=4)
        limit = quantile(level, self.degrees) ** 2
        axes.axhline(limit, color="#D55E00", linewidth=1)
        axes.annotate(
            f"{100 * level:g} %", (self.values[0], limit), (0, 3), color="#D55E00", textcoords="offset points"
        )
        for x in self.interval(level):
            if np.isfinite(x) and x != 0:
                axes.axvline(x, color="#D55E00", linewidth=0.8, linestyle=":")
        axes.set_xlabel(self.name)
        axes.set_ylabel("-2 log likelihood above its minimum")
        axes.set_ylim(-0.05 * limit, 3 * limit)
        if self.log:
            axes.set_xscale("log")
        return figure


def quantile(level: float, degrees: float) -> float:
    """Standard errors of an interval: of Student's t, which is normal for infinitely many degrees of freedom."""
    from scipy.special import ndtri, stdtrit

    return float(stdtrit(degrees, (1 + level) / 2) if np.isfinite(degrees) else ndtri((1 + level) / 2))


def profile(linearized: Linearized, index: int, error: float, degrees: float, most: int) -> Profile:
    """Fits on a grid of values of one parameter, all in one batch, wider until the cost is beyond 99.7 %.

    Noise that was estimated stays at its estimate: the root of the cost is then compared with Student's t.
    """
    state, setting = linearized.ends.state, linearized.setting
    parameters = setting.model.parameters
    φ = state.φ[0, index]
    lower, upper = state.lower[0, index], state.upper[0, index]
    error = error if np.isfinite(error) and error > 0 else max(0.1 * abs(φ), 1e-3)
    best = float(state.costs[0].sum())
    found: dict[float, float] = {float(φ): 0.0}
    sides = {-1.0: WIDTH * error, 1.0: WIDTH * error}
    inner = {-1.0: 0.0, 1.0: 0.0}
    limit = quantile(0.997, degrees) ** 2
    for _ in range(1 + WIDER):
        grid = [
            φ + sign * x
            for sign, width in sides.items()
            for x in np.linspace(inner[sign], width, GRID + 1)[1:]
            if lower <= φ + sign * x <= upper
        ]
        for sign, bound in ((-1.0, lower), (1.0, upper)):
            if np.isfinite(bound) and sign in sides and inner[sign] < abs(bound - φ) <= sides[sign]:
                grid.append(float(bound))
        if not grid:
            break
        cost = _held(linearized, index, np.array(grid), most) - best
        found |= dict(zip(map(float, grid), map(float, cost), strict=True))
        open_sides = {}
        for sign, width in sides.items():
            outer = [c for x, c in found.items() if (x - φ) * sign > 0]
            reached = any(np.isfinite(c) and c > limit for c in outer)
            at_bound = not (lower < φ + sign * width < upper)
            if not reached and not at_bound:
                open_sides[sign], inner[sign] = 2 * width, width
        sides = open_sides
        if not sides:
            break
    x = np.array(sorted(found))
    name, log = parameters.names[index], bool(parameters.log[index])
    values = np.exp(x) if log else x
    return Profile(name, values, np.array([found[float(a)] for a in x]), degrees, log)


def _held(linearized: Linearized, index: int, values: Array, most: int) -> Array:
    """The cost where φ[index] is held at values (n,), and all else is fitted again; NaN where that fails."""
    setting, ends = linearized.setting, linearized.ends
    n = len(values)
    sets = np.zeros(n, int)
    setting, ends = setting.take(sets), ends.take(sets, setting.E)
    state = ends.state
    state.lower[:, index] = state.upper[:, index] = state.φ[:, index] = values
    state.first = state.φ.copy()
    state.level = np.full(n, 2)
    state.converged = np.zeros(n, bool)
    d = setting.discretization(ends.t)
    none = np.zeros(setting.observed.values.shape[-1], bool)
    GaussNewton(d, state, E=setting.E, estimated=none, free=setting.free).run(most)
    return np.where(state.converged, state.costs.sum(-1), np.nan)


@dataclass(frozen=True, eq=False)
class Identifiability:
    """Which combinations of parameters the data determine; true where all of them."""

    names: tuple[str, ...]
    deviations: Array
    """(p,): relative standard deviations of the combinations, the largest first"""
    combinations: Array
    """(p, p): rows are combinations of relative changes of the parameters, of length 1"""
    limit: float = 0.5

    def __bool__(self) -> bool:
        return not (self.deviations > self.limit).any()

    @property
    def open(self) -> tuple[str, ...]:
        """The combinations that the data leave open."""
        some = self.combinations[self.deviations > self.limit]
        return tuple(self._described(row) for row in some)

    def _described(self, row: Array) -> str:
        row = row / row[np.abs(row).argmax()]
        large = [(self.names[j], row[j]) for j in np.argsort(-np.abs(row), kind="stable") if abs(row[j]) > 0.1]
        return " · ".join(name if abs(x - 1) < 0.05 else f"{name}^{x:.2g}" for name, x in large)

    def __str__(self) -> str:
        lines = [f"{'open' if x > self.limit else 'determined'}, to {100 * x:.2g} %: {self._described(row)}"
                 for x, row in zip(self.deviations, self.combinations, strict=True)]  # fmt: skip
        return "\n".join(lines)

    @staticmethod
    def of(names: tuple[str, ...], relative: Array) -> Identifiability:
        """From the covariance of relative changes, (p, p)."""
        values, vectors = np.linalg.eigh(relative)
        return Identifiability(names, np.sqrt(np.maximum(values[::-1], 0.0)), vectors.T[::-1])


def observed(model: Any, function: Any, times: Array, y: Array, φ: Array, experiment: int) -> Linear:
    """An observable at times (n,), y (n, V, q+1), with its derivatives."""
    own = replace(model, observe=function) if function is not None else model
    name = "observe"
    return own._called(name, own.observe, times[None], y[None], φ[None], np.array([experiment]))


def prediction(linearized: Linearized, times: Array, function: Any, experiment: int) -> tuple[Array, Array]:
    """Variables, or an observable, at times (n,), and their standard errors: (n, m) each."""
    model, q = linearized.setting.model, linearized.setting.model.q
    z, φ = linearized.responses(*linearized.unit_shifts())
    state = linearized.ends.state
    y = linearized.at(times, state.z[..., None], experiment, q + 1)[..., 0]
    dy = linearized.at(times, z, experiment, q + 1)
    if model.jump_times is not None:
        added, slope = (x[0] for x in model.jumped(state.φ[:1], np.array([experiment])))
        behind = (times[:, None] > model.jump_times[experiment]).astype(float)
        y[..., 0] += behind @ added
        dy[:, :, 0] += np.einsum("nj,jvp,px->nvx", behind, slope, φ)
    if function is None:
        return y[..., 0], np.sqrt((dy[:, :, 0] ** 2).sum(-1))
    h = observed(model, function, times, y, state.φ[0], experiment)
    orders = h.in_y.shape[-1]
    in_y = np.broadcast_to(h.in_y[0], (len(times), *h.in_y.shape[2:]))
    change = np.einsum("nmvo,nvox->nmx", in_y, dy[:, :, :orders]) + np.einsum("nmp,px->nmx", h.in_φ[0], φ)
    return h.value[0], np.sqrt((change**2).sum(-1))
