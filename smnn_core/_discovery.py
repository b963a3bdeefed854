"""`discover`: which terms of a library stand in the equations of noisy, partly missing data, and with what errors.

The fit of `_joint_fit` with the coefficients of all terms in all equations, the equations' weight raised in stages;
then backward elimination by significance; then the last weight, at which single terms are tried again. Significance is
judged when the weight has grown: before, the equations may be violated freely, and true terms look insignificant.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ._arrays import Array
from ._discovered import Discovery, Stage
from ._discovery_data import LEAST_NOISE, Grid, Observations, observe
from ._errors import ArgumentError
from ._joint_fit import JointFit
from ._libraries import Library, polynomials
from ._term_selection import Quadratic

__all__ = ["DiscoveryWarning", "discover"]

WEIGHTS = (0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
COARSE = 0.02
"""χ² of the smoothness rows, per observed value, above which steps are divided."""
MOST_PARTS = 16
ESTIMATED_FROM = 3.0
"""The equations' weight from which on the noise is estimated from what the fit leaves."""


class DiscoveryWarning(UserWarning):
    """The equations found may be wrong: the message says why and what to try."""


def discover(
    data: Array,
    step_sizes: Any,
    *,
    noise: Any = None,
    library: Library | None = None,
    order: int = 1,
    significance: float = 4.0,
    weights: Sequence[float] = WEIGHTS,
    names: Sequence[str] | None = None,
    t0: float = 0.0,
    engine: str = "auto",
    progress: bool = False,
) -> Discovery:
    """The equations y^(order) = Θ ξ behind data, term by term, with standard errors; in time and memory linear in T.

    Fits trajectory and coefficients of all terms of the library Θ jointly (Gauss-Newton by variable projection on the
    least-squares problem of `solve_ode`), then leaves out what is not significant: the result minimises, over the
    sets of terms tried, χ² + significance² times the number of terms.

    Args:
        data: (..., T, V), the V variables at T times, NaN where missing; batch axes are trajectories of the same
            equations, each with its own initial values.
        step_sizes: a number, or (..., T-1 or 1), positive, may be irregular.
        noise: standard deviation of the noise of the data, a number or (V,); estimated if not given. Below 1e-4 of a
            variable's deviation it is taken as that.
        library: the terms, functions of y, or of y and y' where order = 2; `polynomials(2)` if not given.
        order: 1 for y' = Θ(y) ξ, 2 for y'' = Θ(y, y') ξ.
        significance: how many standard errors a coefficient must be away from 0.
        weights: of the equations, ascending: in units of one over the deviation of the derivatives; terms are
            eliminated at the last but one.
        names: of the variables, x, y, z, w if not given.
        t0: the time of the first point, for pictures.
        engine: as for `solve_ode`.
        progress: shows a progress bar, where tqdm is installed.

    Returns:
        See `Discovery`; print it to read the equations.

    Raises:
        ShapeError, DTypeError, NamespaceError, DeviceError, ArgumentError: before any work.

    Warns:
        DiscoveryWarning: if the fit did not converge, if it leaves more than the noise, if the steps are too long for
            the equations, or if a term is nearly as significant as asked for, or hardly more.

    Source: elimination by significance is classical (Draper, Smith, Applied Regression Analysis, chapter 15); sparse
    regression for equations is Brunton, Proctor, Kutz, PNAS 113 (2016) 3932, who regress on differentiated data.

    >>> t = 0.05 * np.arange(400)
    >>> data = np.stack([np.cos(t), -np.sin(t)], axis=-1) + 0.05 * np.random.default_rng(0).normal(size=(400, 2))
    >>> smnn.discover(data, 0.05, library=smnn.polynomials(1)).equations  # doctest: +SKIP
    ["x' = 1.0002(12) y", "y' = -0.9996(12) x"]
    """
    o = observe(data, step_sizes, noise)
    library = polynomials(2) if library is None else library
    weights = tuple(float(w) for w in weights)
    if order not in (1, 2):
        raise ArgumentError(f"order must be 1 or 2; got {order}.")
    if len(weights) < 2 or not all(0 < a < b for a, b in zip(weights, weights[1:], strict=False)):
        raise ArgumentError(f"weights must be at least two positive numbers in ascending order; got {weights}.")
    if not significance > 0:
        raise ArgumentError(f"significance must be positive; got {significance}.")
    variables = _variables(names, data.shape[-1])
    _check_library(library, o, order)
    with _progress(progress) as tell:
        search = _Search(o, library, order, float(significance), weights, engine, tell)
        search.run()
    result = search.result(variables, t0, data)
    for message in search.warnings(result):
        warnings.warn(message, DiscoveryWarning, stacklevel=2)
    return result


def _variables(names: Sequence[str] | None, V: int) -> list[str]:
    if names is None:
        return ["x", "y", "z", "w"][:V] if V <= 4 else [f"x{v + 1}" for v in range(V)]
    if len(names) != V or len(set(names)) != V:
        raise ArgumentError(f"names must be {V} different names, one per variable; got {list(names)}.")
    return list(names)


def _check_library(library: Library, o: Observations, order: int) -> None:
    if not isinstance(library, Library):
        raise TypeError(f"library must be a Library, such as smnn.polynomials(2); got {type(library).__name__}.")
    rows = o.xp.reshape(o.values, (-1, o.values.shape[-1]))
    rows = rows[:: max(1, rows.shape[0] // 64), :]
    library.check(o.xp.concat([rows / o.time**k for k in range(order)], axis=-1))


@contextmanager
def _progress(wanted: bool) -> Iterator[Any]:
    """A function that shows a message and counts a step."""
    bar = None
    if wanted:
        try:
            from tqdm import tqdm

            bar = tqdm(desc="discover", unit="step")
        except ImportError:
            warnings.warn("progress=True shows a bar only where tqdm is installed.", stacklevel=3)

    def tell(message: str) -> None:
        if bar is not None:
            bar.update()
            bar.set_postfix_str(message)

    try:
        yield tell
    finally:
        if bar is not None:
            bar.close()


@dataclass
class _Search:
    """The state of a discovery: the fit, the terms that are left, and how it came there."""

    o: Observations
    library: Library
    order: int
    significance: float
    weights: tuple[float, ...]
    engine: str
    tell: Any
    path: list[Stage] = field(default_factory=list)
    converged: bool = False

    def run(self) -> None:
        V = self.o.values.shape[-1]
        D = V * self.order
        self.terms = self.library.names([f"z{i}" for i in range(D)])
        self.all = np.argwhere(np.ones((len(self.terms), V), dtype=bool))
        self.noise = self.o.noise
        parts = 1
        while True:
            self.start(parts)
            if self.coarse <= COARSE or parts >= MOST_PARTS:
                break
            parts *= 2 if self.coarse < 20 * COARSE else 4
        self.parts = parts
        self.eliminate()
        self.weight = self.weights[-1]
        self.improve(2)
        self.revise()
        self.finish()

    def start(self, parts: int) -> None:
        """Fits all terms, the equations' weight growing."""
        if parts == 1:
            xi = np.zeros((len(self.terms), self.o.values.shape[-1]))
        else:
            xi = self.fit.xi
        self.fit = JointFit(Grid.of(self.o, parts, self.noise), self.library, self.order, self.engine, xi)
        self.active = self.all
        for self.weight in self.weights[:-1] if parts == 1 else self.weights[-3:-1]:
            self.improve(2)

    def improve(self, steps: int) -> None:
        """Gauss-Newton steps with the terms that are left."""
        for _ in range(steps):
            self.quadratic = self.fit.quadratic(self.active, self.weight)
            theta, self.covariance, self.cost = self.quadratic.fit(sorted(self.here))
            self.change = np.max(
                np.abs(theta - self.fit.xi[tuple(self.active.T)]) / np.sqrt(np.diagonal(self.covariance)), initial=0.0
            )
            data, equations = self.fit.move(self.active, theta, self.weight)
            self.coarse = (self.cost - equations - float(data.sum())) / self.dof
            if self.o.estimated and self.weight >= ESTIMATED_FROM:
                self.estimate_noise(data)
            self.tell(f"{len(self.active)} terms, χ²/N = {self.cost / self.dof:.3f}, weight {self.weight:g}")
        self.path.append(
            Stage(len(self.active), self.weight, self.cost, self.cost + self.significance**2 * len(self.active))
        )

    def estimate_noise(self, data: np.ndarray) -> None:
        """From what the fit leaves of the data, (V,)."""
        V = self.o.values.shape[-1]
        left = np.maximum(self.o.count - (self.o.count.sum() - self.dof) / V, 1.0)
        noise = np.maximum(self.noise * np.sqrt(data / left), LEAST_NOISE * self.o.deviation)
        self.noise = np.clip(noise, 0.5 * self.noise, 2 * self.noise)
        self.fit.grid = Grid.of(self.o, self.fit.grid.parts, self.noise)

    @property
    def dof(self) -> float:
        """Observed values less what is fitted: coefficients and initial values."""
        B, _, V = self.o.values.shape
        return max(1.0, float(self.o.count.sum()) - len(self.active) - B * V * self.order)

    @property
    def inflation(self) -> float:
        """χ² over what it should be: where the model leaves more than the noise, standard errors grow with it."""
        return max(1.0, self.cost / self.dof)

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
        """Tries terms that were left out, each with whatever it makes insignificant dropped; keeps what is better."""
        self.left_out: Quadratic | None = None
        tried = {self.chosen}
        for _ in range(most):
            q = self.fit.quadratic(self.all, self.weight)
            choices = [c for c in q.revisions(self.chosen, self.significance, self.inflation) if c.terms not in tried]
            self.left_out = q
            if not any(self.accepts(c.terms, tried) for c in choices[:3]):
                break

    @property
    def here(self) -> frozenset[int]:
        """Positions of the terms that are left in `active`, which are all."""
        return frozenset(range(len(self.active)))

    @property
    def chosen(self) -> frozenset[int]:
        """Positions of the terms that are left in `all`."""
        V = self.o.values.shape[-1]
        return frozenset(int(k * V + v) for k, v in self.active)

    def accepts(self, terms: frozenset[int], tried: set[frozenset[int]]) -> bool:
        """Fits with other terms; goes back if that is no better."""
        tried.add(terms)
        before = self.fit.xi, self.fit.y, self.active, self.quadratic, self.covariance, self.cost
        inflation = self.inflation
        self.fit.y = self.fit.y + 0.0
        self.keep(self.all[sorted(terms)])
        self.improve(3)
        self.eliminate()
        tried.add(self.chosen)
        inflation = min(inflation, self.inflation)
        if self.score(inflation) < before[-1] / inflation + self.significance**2 * len(before[2]):
            return True
        self.fit.xi, self.fit.y, self.active, self.quadratic, self.covariance, self.cost = before
        return False

    def score(self, inflation: float) -> float:
        """What the terms are chosen to minimise."""
        return self.cost / inflation + self.significance**2 * len(self.active)

    def finish(self, most: int = 10) -> None:
        for _ in range(most):
            self.improve(1)
            self.converged = bool(self.change < 0.1)
            if self.converged:
                break

    def result(self, variables: list[str], t0: float, like: Array) -> Discovery:
        return Discovery.of(self, variables, t0, like)

    def warnings(self, result: Discovery) -> Iterator[str]:
        yield from ()
