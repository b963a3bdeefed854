"""The joint fit of trajectory and coefficients that `discover` repeats: Gauss-Newton steps by variable projection.

The unknowns are y in units of each variable's deviation and of the unit of time (see `_data`), and the
coefficients ξ, (terms, V), in the user's units: y^(o) = Θ(z) ξ with z = (y, u), or (y, y', u) for o = 2, where u are
inputs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from .._arrays import Array, as_numpy, device_of
from .._problem import Weights
from ..fitting._losses import Loss
from ._data import Grid
from ._libraries import Library
from ._projection import LinearFit, product
from ._term_selection import Quadratic

__all__ = ["JointFit", "Left"]

SMOOTHNESS, STEP = 1000.0, 0.06
"""Weight of the smoothness rows across steps of 0.06 units of time (a hundred a period) and more, for noise of 0.1
deviations and more. It grows with shorter steps s as s^(1/2 - order): a random walk in y^(order - 1) that the rows
allow then spreads as fast over time."""
SMOOTHING = Weights(equation=0.1, smoothness=100.0)
"""Of the first trajectory, in which y'' = 0 stands for the equations."""
REWEIGHTED = 10
"""Smoothings by which the first trajectory turns away from outliers."""


class Left(NamedTuple):
    """χ² of what a fit leaves."""

    data: np.ndarray
    """of the data of each variable, (V,), as its loss counts them: a mean of 1 where the noise is right"""
    equations: float
    smoothness: float
    cost: float
    """the loss of the data: what is minimised, in place of their χ²"""
    spread: float
    """Σ ψ² mean w / (mean ψ')², ψ = w r: χ² of the data, in what it says about standard errors. Source: Huber,
    Ronchetti, Robust Statistics, Wiley 2009, section 7.6."""

    @property
    def violation(self) -> float:
        return self.equations + self.smoothness


@dataclass
class JointFit:
    """The state of a fit: `xi` and `y`, improved by `move`."""

    grid: Grid
    library: Library
    order: int
    loss: Loss
    engine: str
    xi: np.ndarray
    """(terms, V)"""
    y: Array = field(init=False)
    """(B, T', V, R+1), NaN in gaps"""

    def __post_init__(self) -> None:
        self.smooth()

    @property
    def K(self) -> int:
        return self.order + 2

    def _host(self, x: np.ndarray) -> Array:
        xp = self.grid.observations.xp
        return xp.asarray(x, dtype=xp.float64, device=device_of(self.grid.values))

    def smooth(self) -> None:
        """Starts from a smoothing of the data that knows nothing of the equations."""
        V, self.y = self.grid.values.shape[2], self._no_trajectory()
        c = np.zeros((1, V, V, self.K))
        c[0, :, :, 2] = np.eye(V)
        for _ in range(1 if self.loss.name == "squares" else REWEIGHTED):
            y = self._no_trajectory()
            for members, times in self.grid.blocks():
                data, w, steps = self._block(members, times)
                zero = self._host(np.zeros((*data.shape[:2], V)))
                weights = Weights(SMOOTHING.equation, w, SMOOTHING.smoothness)
                fit = LinearFit(self._host(c), zero, zero, np.ones(V), data, steps, weights, self.engine)
                y[members, times, ...] = fit.left(np.zeros((V, V)))[0]
            self.y = y

    def _no_trajectory(self) -> Array:
        """NaN, to be filled; `y` itself is never written into, so that states can share it."""
        xp, values = self.grid.observations.xp, self.grid.values
        return xp.full((*values.shape, self.K), xp.nan, dtype=xp.float64, device=device_of(values))

    def _block(self, members: slice, times: slice) -> tuple[Array, Array, Array]:
        """Data and weights as (B, T, V, 1), and steps."""
        grid, w = self.grid, self.grid.weights[members, times, :]
        if self.loss.name != "squares":
            r = self._residuals(self.y, members, times)
            r = np.where(np.isnan(r), as_numpy(grid.apart[members, times, :]), r)  # before the first trajectory
            w = w * self._host(np.sqrt(self.loss.weight(r)))
        return grid.values[members, times, :][..., None], w[..., None], grid.steps_of(members, times)

    def _residuals(self, y: Array, members: slice, times: slice) -> np.ndarray:
        """Of the data, in standard deviations, (B, T, V); 0 where nothing was observed."""
        grid = self.grid
        return as_numpy((y[members, times, :, 0] - grid.values[members, times, :]) * grid.weights[members, times, :])

    def _linearised(self, weight: float) -> Iterator[tuple[tuple[slice, slice], LinearFit]]:
        """The problem of each block.

        The equation y^(o) - Θ(z) ξ = 0 is linear in ξ and, at the present y and ξ, has J = 1 - (∂Θ/∂y) ξ: for absolute
        coefficients, not changes of them, the right-hand side is what (∂Θ/∂y) ξ leaves, -(∂Θ/∂y) ξ y.
        """
        xp, o, r = self.grid.observations.xp, self.grid.observations, self.order
        unit = o.time**r / o.deviation
        smoothness = SMOOTHNESS * max(1.0, STEP / self.grid.typical_step) ** (r - 0.5)
        units = xp.concat([self._host(o.deviation / o.time**k) for k in range(r)])
        for members, times in self.grid.blocks():
            y = self.y[members, times, ...]
            V = y.shape[2]
            z = xp.concat([y[..., k] for k in range(r)], axis=-1) * units
            inputs = self.grid.inputs_of(members, times)
            inputs = xp.broadcast_to(inputs, (*z.shape[:-1], inputs.shape[-1]))
            theta, slopes = self.library.evaluate(xp.concat([z, inputs], axis=-1))
            slopes = slopes[..., : r * V]
            jacobian = xp.matrix_transpose(xp.matrix_transpose(slopes) @ self._host(self.xi * unit)) * units
            c = xp.zeros((*y.shape[:2], V, V, self.K), dtype=xp.float64, device=device_of(y))
            for k in range(r):
                c[..., k] = -jacobian[..., k * V : (k + 1) * V]
            rhs = product(c, y)
            for q in range(V):
                c[..., q, q, r] = 1.0
            data, weights, steps = self._block(members, times)
            factor = self.grid.precision
            of_rows = Weights(factor * weight, weights, factor * smoothness)
            yield (members, times), LinearFit(c, rhs, theta, unit, data, steps, of_rows, self.engine)

    def quadratic(self, active: np.ndarray, weight: float) -> Quadratic:
        """χ² as a function of the coefficients `active`, (p, 2), the trajectory being the best for each.

        Raises:
            FloatingPointError: where the fit has diverged.
        """
        with np.errstate(over="ignore", invalid="ignore"):
            gram = sum(fit.gram(active) for _, fit in self._linearised(weight))
        return Quadratic(_finite(np.asarray(gram)))

    def each(self, weight: float) -> list[Quadratic]:
        """χ² of the data and the equation of each variable as a function of all terms, the other variables held.

        Coefficients of different equations couple through the trajectory only; between trajectories that are improved
        by `move`, those of each equation are those of a problem with one variable.

        Raises:
            FloatingPointError: where the fit has diverged.
        """
        terms, V = self.xi.shape
        places = np.stack([np.arange(terms), np.zeros(terms, dtype=int)], axis=1)
        grams = np.zeros((V, 1 + terms, 1 + terms))
        with np.errstate(over="ignore", invalid="ignore"):
            for block, fit in self._linearised(weight):
                for v in range(V):
                    grams[v] += fit.of_equation(v, self.y[(*block, ...)]).gram(places)
        return [Quadratic(gram) for gram in _finite(grams)]

    def move(self, xi: np.ndarray, weight: float) -> Left:
        """Puts the coefficients to xi, (terms, V), and the trajectory to the best for them there."""
        xp = self.grid.observations.xp
        data, parts, trajectory = np.zeros(xi.shape[1]), np.zeros(7), self._no_trajectory()
        for (members, times), fit in self._linearised(weight):
            y, left = fit.left(xi)
            trajectory[members, times, ...] = y
            r = self._residuals(trajectory, members, times)
            w = self.loss.weight(r)
            data += self.loss.square(r).sum((0, 1))
            seen = as_numpy(self.grid.weights[members, times, :]) > 0
            values = (self.loss.cost(r), (w * r) ** 2, w * seen, self.loss.bend(r) * seen, seen)
            squares = (float(xp.sum(x**2)) for x in (left.equation, left.smoothness))
            parts += [*squares, *(x.sum() for x in values)]
        self.y, self.xi = trajectory, xi
        equations, smoothness, cost, ψ, w, bend, n = parts
        return Left(data, equations, smoothness, cost, ψ * w * n / max(bend, 0.1 * w) ** 2)

    def trajectory(self) -> Array:
        """y in the user's units, (B, T, V, R+1), at the times of the data."""
        o = self.grid.observations
        units = self._host(o.deviation[:, None] / o.time ** np.arange(self.K))
        return o.xp.take(self.y, self.grid.places, axis=1) * units


def _finite(gram: np.ndarray) -> np.ndarray:
    if not np.isfinite(gram).all():
        raise FloatingPointError
    return gram
