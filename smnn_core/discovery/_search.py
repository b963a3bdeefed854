"""The search of `discover`: fits, elimination of terms, and second thoughts.

All terms in all equations are fitted first, the equations' weight raised in stages. Terms are eliminated by
significance when the weight has grown: before, the equations may be violated freely, and true terms look
insignificant. At the last weight single terms are tried again, since of two terms that explain nearly the same the
wrong one is dropped now and then.

Of many terms (`MOST_TOGETHER`) each equation is fitted by itself, the trajectory being improved in between, and the
sets of terms are looked for among those that are significant there, or nearly: the `pool`. Those are fitted together.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np

from .._arrays import Array
from ..fitting._losses import Loss
from ._data import GIVEN_UP, LEAST_NOISE, Grid, Observations
from ._joint_fit import JointFit
from ._libraries import Library
from ._result import Discovery, Stage, arguments
from ._term_selection import Quadratic, Terms

__all__ = ["Search"]

Approximation = TypeVar("Approximation")

COARSE = 0.02
"""χ² of the smoothness rows, per observed value, above which steps are divided."""
CONVERGENCE = 5
"""With which power of the steps the part of that goes down that the discretisation causes. Where the part is below the
square of the significance asked for, it can make no term significant."""
MOST_PARTS = 16
"""Into which steps are divided for all terms; twice as many for the terms found."""
AMBIGUOUS = 6.0
"""Sets of terms whose score is higher by less are as good: a likelihood ratio of 20."""
SHOWN = 3
"""Of such sets, those that are named."""
ESTIMATED_FROM = 3.0
"""The equations' weight from which on the noise is estimated from what the fit leaves."""
MOST_TOGETHER = 150
"""Coefficients of a library that are all fitted together."""
STILL = 0.05
"""Standard errors, or parts of the noise, by which a fit may move that needs no further steps."""
RESTORED = "noise", "active", "quadratic", "covariance", "cost", "objective", "spread", "coarse", "violation"
"""Fields that belong to the fit, not to the search."""
NEAR = 0.5
"""Part of the significance from which terms are tried."""


@dataclass
class Search:
    """The state of a discovery: the fit, the terms that are left, and how it came there."""

    o: Observations
    library: Library
    order: int
    significance: float
    weights: tuple[float, ...]
    loss: Loss
    engine: str
    tell: Callable[[str], None]
    begin: np.ndarray
    """(V,): the noise to begin with"""
    noise_left: np.ndarray = field(init=False)
    """(V,): the noise that the last step suggests, whether it is estimated or not"""
    path: list[Stage] = field(default_factory=list)
    converged: bool = False
    coarse: float = 0.0
    """χ² of the smoothness rows, per observed value"""
    unresolved: float = 0.0
    """what that was when all terms were fitted, if it was not small then"""
    discretization: float = 0.0
    """the part of χ² that the discretisation causes, at most"""
    violation: float = 0.0
    """χ² of the equations and of the smoothness rows, per observed value"""
    parts: int = 1
    """into which the steps of the data are divided"""
    fit: JointFit = field(init=False)
    active: np.ndarray = field(init=False)
    """(p, 2): term and equation of the coefficients that are left"""
    quadratic: Quadratic = field(default_factory=lambda: Quadratic(np.zeros((1, 1))))
    """χ² as a function of them"""
    covariance: np.ndarray = field(default_factory=lambda: np.zeros((0, 0)))
    """of them"""
    suggestions: list[frozenset[int]] = field(init=False)
    """sets of terms, by their positions in `all`"""
    pool: np.ndarray = field(init=False)
    """positions in `all` of the terms that are looked at, ascending"""
    errors_of_others: np.ndarray = field(init=False)
    """of each term, if it was added to those that are left"""
    everything: Quadratic = field(init=False)
    """χ² as a function of the coefficients of the pool, near the result"""

    def run(self) -> None:
        """All terms; the sets of terms that this suggests; the best of them, revised."""
        self.terms = self.library.names([f"z{i}" for i in range(self.V * self.order + self.o.n_inputs)])
        self.all = np.argwhere(np.ones((len(self.terms), self.V), dtype=bool))
        self.pool = np.arange(len(self.all))
        self.errors_of_others = np.full(len(self.all), np.inf)
        self.noise = self.begin
        if self.o.visible.any():
            self.start(np.zeros((len(self.terms), self.V)), self.weights[:-1])
            self.refine()
            self.choose()
            self.revise()
            self.polish()
        else:
            self.give_up()
        self.finish()

    def give_up(self) -> None:
        """No terms: where nothing is seen beside noise, constants are as good as anything."""
        self.noise = np.where(self.o.estimated, self.o.deviation, self.o.noise)
        self.fit = self.fit_on(1, np.zeros((len(self.terms), self.V)))
        self.active, self.weight = self.all[:0], self.weights[-1]
        self.improve(3)
        self.look_around()

    def refine(self, patience: int = 2) -> None:
        """Divides steps as long as that helps: where it does not, the library cannot describe the data."""
        least, failures = np.inf, 0
        self.discretization = self.coarse * self.dof
        while self.coarse > COARSE and self.parts < MOST_PARTS and failures < patience:
            left = self.left
            failures = failures + 1 if left > 0.5 * least else 0
            least = min(least, left)
            factor = 2 if self.coarse < 20 * COARSE else 4
            self.parts *= factor
            self.noise = self.begin
            self.start(self.fit.xi, self.weights[-4:-1])
            self.judge_discretization(left, factor)
        self.unresolved = self.coarse if self.coarse > COARSE else 0.0

    def polish(self) -> None:
        """Divides steps further, for the terms found, until the error of the discretisation makes none significant."""
        most = self.significance**2
        while self.discretization > most and self.parts <= MOST_PARTS and not self.unresolved:
            slightly = self.discretization < 2**CONVERGENCE * most or self.parts == MOST_PARTS
            left, factor = self.left, 2 if slightly else 4
            self.parts *= factor
            self.fit = self.fit_on(self.parts, self.fit.xi)
            for weight in self.weights[-3:]:
                self.weight = weight
                self.move(self.fit.xi)
            self.improve(3)
            self.judge_discretization(left, factor)
            self.eliminate()
            self.revise()

    @property
    def noise_growth(self) -> float:
        """The square of the noise estimated over that at the start."""
        return float(np.mean((self.noise / self.o.noise) ** 2))

    @property
    def left(self) -> float:
        """χ² of the smoothness rows, per observed value, in units of the noise at the start."""
        return self.coarse * self.noise_growth

    def judge_discretization(self, before: float, factor: int) -> None:
        """How much of χ² the discretisation causes, from what was `left` when steps were longer by a factor."""
        share = (before - self.left) / self.noise_growth / (factor**CONVERGENCE - 1)
        self.discretization = min(share, self.coarse) * self.dof

    def fit_on(self, parts: int, xi: np.ndarray) -> JointFit:
        """A fit that starts from a smoothing of the data, with steps divided."""
        return JointFit(Grid.of(self.o, parts, self.noise), self.library, self.order, self.loss, self.engine, xi)

    def start(self, xi: np.ndarray, weights: tuple[float, ...]) -> None:
        """Fits all terms, the equations' weight growing, and collects the sets of terms that are best at the last."""
        self.fit = self.fit_on(self.parts, xi)
        self.active = self.all
        self.suggestions = []
        for weight in weights:
            self.weight = weight
            quadratics = self.improve_each(2) if self.many else self.improve(2)
            if weight in weights[-1 if self.many else -3 :]:
                self.suggestions.append(self.best_of(quadratics))

    def best_of(self, quadratics: list[Quadratic]) -> Terms:
        """The best set of terms, by their positions in `all`, of one approximation or of that of each equation."""
        limits = self.significance, self.inflation
        if not self.many:
            return quadratics[0].best_subsets(self.equations, *limits)
        found = (q.best_subsets([np.arange(len(self.terms))], *limits) for q in quadratics)
        return frozenset(k * self.V + v for v, terms in enumerate(found) for k in terms)

    @property
    def many(self) -> bool:
        """True if the terms are too many to be fitted together."""
        return len(self.all) > MOST_TOGETHER

    @property
    def V(self) -> int:
        return int(self.o.values.shape[-1])

    @property
    def equations(self) -> list[np.ndarray]:
        """Positions in the pool of the terms of each equation."""
        return [np.flatnonzero(self.pool % self.V == v) for v in range(self.V)]

    def in_pool(self, terms: Terms) -> Terms:
        """Positions in the pool of positions in `all`."""
        return frozenset(int(j) for j in np.searchsorted(self.pool, sorted(terms)))

    def of_pool(self, terms: Terms) -> Terms:
        """Positions in `all` of positions in the pool."""
        return frozenset(int(j) for j in self.pool[sorted(terms)])

    def look_around(self) -> None:
        """χ² as a function of the pool: of all terms, or of those that are nearly significant in their equations."""
        if self.many:
            ratios = np.zeros(len(self.all))
            for v, q in enumerate(self.attempt(lambda: self.fit.each(self.weight))):
                own = [j // self.V for j in sorted(self.chosen) if j % self.V == v]
                coefficients, errors = q.others(own)
                self.errors_of_others[v :: self.V] = errors
                ratios[v :: self.V] = np.abs(coefficients) / errors
            near = np.argsort(-ratios)[: MOST_TOGETHER // 2]
            near = near[ratios[near] > NEAR * self.significance * np.sqrt(self.inflation)]
            self.pool = np.array(sorted({*self.chosen, *near.tolist()}), dtype=int)
        self.everything = self.approximation(self.all[self.pool])

    def choose(self) -> None:
        """Fits each set that was suggested up to the last weight, and goes on with the best."""
        first, best = self.state(), None
        for terms in dict.fromkeys(self.suggestions[::-1]):
            self.restore(first)
            self.keep(self.all[sorted(terms)])
            for weight in self.weights[-2:]:
                self.weight = weight
                self.improve(3)
            self.eliminate()
            if best is None or self.better_than(best):
                best = self.state()
        if best is not None:
            self.restore(best)

    def state(self) -> Search:
        """The state that `restore` goes back to: no array is written into."""
        state = copy(self)
        state.fit = copy(self.fit)
        return state

    def restore(self, state: Search) -> None:
        self.fit = copy(state.fit)
        for name in RESTORED:
            setattr(self, name, getattr(state, name))

    def better_than(self, other: Search) -> bool:
        """True if the present fit has the better score, both with the noise of the one that leaves less.

        Where the noise is estimated, both have χ² = N, and the noise says which explains more.
        """
        k = self.significance**2 * (len(self.active) - len(other.active))
        if self.o.estimated.any():
            ratio = np.log(self.noise / other.noise)
            return bool(2 * (self.o.count * ratio).sum() + (self.objective - other.objective) + k < 0)
        inflation = min(self.inflation, max(1.0, other.spread / self.dof))
        return bool((self.objective - other.objective) / inflation + k < 0)

    def improve(self, steps: int) -> list[Quadratic]:
        """Gauss-Newton steps with the terms that are left, until nothing moves; χ² before the last."""
        for _ in range(steps):
            noise = self.noise
            self.quadratic = self.approximation(self.active)
            theta, self.covariance, _ = self.quadratic.fit(sorted(self.here))
            at, errors = tuple(self.active.T), np.sqrt(np.diagonal(self.covariance))
            self.change = np.max(np.abs(theta - self.fit.xi[at]) / errors, initial=0.0)
            xi = np.zeros_like(self.fit.xi)
            xi[at] = theta
            self.move(xi)
            if self.change < STILL and np.allclose(self.noise, noise, rtol=STILL):
                break
        self.path.append(
            Stage(len(self.active), self.weight, self.cost, self.cost + self.significance**2 * len(self.active))
        )
        return [self.quadratic]

    def improve_each(self, steps: int) -> list[Quadratic]:
        """Steps with all terms, each equation by itself; χ² of each before the last."""
        for _ in range(steps):
            quadratics = self.attempt(lambda: self.fit.each(self.weight))
            self.move(np.stack([q.fit(range(len(self.terms)))[0] for q in quadratics], axis=1))
        return quadratics

    def move(self, xi: np.ndarray) -> None:
        """Puts the coefficients to xi, the trajectory to the best for them, and looks at what is left."""
        left = self.fit.move(xi, self.weight)
        self.cost = float(left.data.sum() + left.violation)
        self.objective, self.spread = left.cost + left.violation, left.spread + left.violation
        self.violation, self.coarse = left.violation / self.dof, left.smoothness / self.dof
        count = self.o.count
        self.noise_left = self.noise * np.sqrt(left.data / np.maximum(count - (count.sum() - self.dof) / self.V, 1.0))
        if self.o.estimated.any() and self.weight >= ESTIMATED_FROM:
            noise = np.where(self.o.estimated, np.maximum(self.noise_left, LEAST_NOISE * self.o.deviation), self.noise)
            self.noise = np.clip(noise, 0.5 * self.noise, 2 * self.noise)
            self.fit.grid = Grid.of(self.o, self.fit.grid.parts, self.noise)
        self.tell(f"{len(self.active)} terms, χ²/N = {self.cost / self.dof:.3f}, weight {self.weight:g}")

    def approximation(self, active: np.ndarray) -> Quadratic:
        """χ² near the present fit."""
        return self.attempt(lambda: self.fit.quadratic(active, self.weight))

    def attempt(self, what: Callable[[], Approximation]) -> Approximation:
        """Of an approximation near the present fit; near a new smoothing of the data where that has diverged."""
        try:
            return what()
        except FloatingPointError:
            self.fit.smooth()
            self.fit.xi = np.nan_to_num(self.fit.xi, nan=0.0, posinf=0.0, neginf=0.0)
            return what()

    @property
    def astray(self) -> bool:
        """True if the estimate of the noise is none: a variable was given up that is more, or one for another."""
        of = self.o.estimated & self.o.visible
        if not of.any():
            return False
        noise, growth = self.noise[of], (self.noise / self.o.noise)[of]
        given_up = (noise > GIVEN_UP * self.o.deviation[of]).any()
        return not self.converged or bool(given_up or (growth.min() < 0.2 and growth.max() > 2))

    @property
    def dof(self) -> float:
        """Observed values less what is fitted: coefficients and initial values."""
        return max(1.0, float(self.o.count.sum()) - len(self.active) - self.o.starts * self.V * self.order)

    @property
    def inflation(self) -> float:
        """χ² over what it should be: where the model leaves more than the noise, standard errors grow with it."""
        return max(1.0, self.spread / self.dof)

    @property
    def ratios(self) -> np.ndarray:
        """|ξ| over its standard error, of the terms that are left."""
        xi = self.fit.xi[tuple(self.active.T)]
        return np.abs(xi) / np.sqrt(self.inflation * np.diagonal(self.covariance))

    def keep(self, active: np.ndarray) -> None:
        """Puts the coefficients of all other terms to 0."""
        xi = np.zeros_like(self.fit.xi)
        xi[tuple(active.T)] = self.fit.xi[tuple(active.T)]
        self.fit.xi, self.active = xi, active

    def eliminate(self) -> None:
        """Drops terms, least significant first, and fits again after every quarter, until all are significant."""
        while len(self.active):
            most = max(1, len(self.active) // 4)
            kept = self.quadratic.eliminate(self.here, self.significance, self.inflation, most).terms
            if kept == self.here:
                break
            self.keep(self.active[sorted(kept)])
            self.improve(2)

    def revise(self, most: int = 6) -> None:
        """Tries other sets near this one, and keeps what is better, until nothing is."""
        tried = {self.chosen}
        for _ in range(most):
            self.look_around()
            q, limits = self.everything, (self.significance, self.inflation)
            sets = [q.best_subsets(self.equations, *limits)]
            sets += [c.terms for c in q.revisions(self.in_pool(self.chosen), *limits)[:3]]
            sets = [self.of_pool(terms) for terms in sets]
            if not any(self.accepts(terms, tried) for terms in sets if terms not in tried):
                break

    @property
    def here(self) -> frozenset[int]:
        """Positions of the terms that are left in `active`, which are all."""
        return frozenset(range(len(self.active)))

    @property
    def chosen(self) -> frozenset[int]:
        """Positions of the terms that are left in `all`."""
        return frozenset(int(k * self.V + v) for k, v in self.active)

    def accepts(self, terms: frozenset[int], tried: set[frozenset[int]]) -> bool:
        """Fits with other terms; goes back if that is no better."""
        before = self.state()
        self.keep(self.all[sorted(terms)])
        self.improve(3)
        self.eliminate()
        tried |= {terms, self.chosen}
        if self.better_than(before):
            return True
        self.restore(before)
        return False

    def finish(self, most: int = 10) -> None:
        """Steps until nothing moves; what is not significant then goes."""
        for _ in range(most):
            self.improve(1)
            self.converged = bool(self.change < 0.1)
            if self.converged and (self.ratios >= self.significance).all():
                break
            if self.converged:
                self.eliminate()
        self.eliminate()

    def result(self, variables: list[str], inputs: list[str], like: Array) -> Discovery:
        o, xp = self.o, self.o.xp
        names = arguments(variables, inputs, self.order)
        shape = self.fit.xi.shape
        covariance = self.inflation * self.covariance
        errors = np.full(shape, np.inf)
        errors[tuple(self.active.T)] = np.sqrt(np.diagonal(covariance))
        self.errors_of_others[self.pool] = self.everything.others(sorted(self.in_pool(self.chosen)))[1]
        of_others = np.reshape(np.sqrt(self.inflation) * self.errors_of_others, shape)
        steps = xp.concat([xp.zeros_like(o.steps[:, :1]), o.steps], axis=-1)
        t = o.t0 + xp.cumulative_sum(steps, axis=-1)
        t = xp.reshape(t, (*(o.batch if t.shape[0] > 1 else ()), -1))
        return Discovery(
            coefficients=self.fit.xi,
            standard_errors=errors,
            detectable=self.significance * np.minimum(errors, of_others),
            covariance=covariance,
            terms=self.library.names(names),
            exponents=self.library.exponents(len(names)),
            y=xp.astype(xp.reshape(self.fit.trajectory(), (*o.batch, *self.fit.trajectory().shape[1:])), like.dtype),
            t=xp.astype(t, like.dtype),
            noise=self.noise,
            misfit=self.cost / self.dof,
            converged=self.converged,
            ambiguous=self.ambiguous(self.library.names(names), variables),
            path=self.path,
            variables=variables,
            order=self.order,
            library=self.library,
            inputs=o.inputs,
            data=like,
        )

    def ambiguous(self, terms: list[str], variables: list[str]) -> list[str]:
        """Terms that are hardly more or nearly as significant as asked for, and sets that are hardly worse."""
        chosen = self.in_pool(self.chosen)

        def name(j: int) -> str:
            """Of a position in the pool."""
            k, v = self.all[self.pool[j]]
            return f"{terms[k]} of {variables[v]}{chr(39) * self.order}"

        others = self.everything.significance_of_others(sorted(chosen)) / np.sqrt(self.inflation)
        ratios = np.zeros(len(self.pool))
        ratios[sorted(chosen)] = self.ratios
        found = []
        for j, (kept, added) in enumerate(zip(ratios, others, strict=True)):
            ratio, what = (kept, "in") if kept else (added, "left out")
            if 0 < kept < 1.25 * self.significance or added >= self.significance / 1.25:
                found.append(f"{name(j)} ({ratio:.1f} standard errors, {what})")
        sets = self.everything.alternatives(chosen, self.equations, self.significance, self.inflation, AMBIGUOUS)
        for c in sets[:SHOWN]:
            new, old = (", ".join(map(name, sorted(x))) for x in (c.terms - chosen, chosen - c.terms))
            found.append(f"{new} in place of {old}" if old and new else new or f"nothing in place of {old}")
        return [*found, f"{len(sets) - SHOWN} other sets of terms"] if len(sets) > SHOWN else found
