"""The joint fit of trajectory and coefficients that `discover` repeats: Gauss-Newton steps by variable projection.

The unknowns are y in units of each variable's deviation and of the unit of time (see `_data`), and the
coefficients ξ, (terms, V), in the user's units: y^(o) = Θ(z) ξ with z = (y, u), or (y, y', u) for o = 2, where u are
inputs.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from .._arrays import Array, Namespace, as_numpy, device_of
from .._problem import Problem, Weights
from .._schemes import HERMITE
from .._solve import solve_without_raising
from .._weighting import weighted_problem
from ._data import Grid
from ._libraries import Library
from ._projection import LinearFit, project
from ._term_selection import Quadratic

__all__ = ["JointFit"]

SMOOTHNESS, STEP = 1000.0, 0.06
"""Weight of the smoothness rows across steps of 0.06 units of time (a hundred a period) and more, for noise of 0.1
deviations and more. It grows with shorter steps s as s^(1/2 - order): a random walk in y^(order - 1) that the rows
allow then spreads as fast over time."""
SMOOTHING = Weights(equation=0.1, smoothness=100.0)
"""Of the first trajectory, in which y'' = 0 stands for the equations."""


@dataclass
class JointFit:
    """The state of a fit: `xi` and `y`, improved by `step`."""

    grid: Grid
    library: Library
    order: int
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
        xp = self.grid.observations.xp
        V, y = self.grid.values.shape[2], self._no_trajectory()
        c = np.zeros((1, V, V, self.K))
        c[0, :, :, 2] = np.eye(V)
        for members, times in self.grid.blocks():
            data, weights, steps = self._block(members, times)
            w = Weights(SMOOTHING.equation, weights, SMOOTHING.smoothness)
            rhs = xp.zeros((1, V), dtype=xp.float64, device=device_of(data))
            problem = Problem.build(self._host(c), rhs, data, steps, scheme=HERMITE, weights=w)
            y[members, times, ...] = solve_without_raising(weighted_problem(problem), engine=self.engine)[0]
        self.y = y

    def _no_trajectory(self) -> Array:
        """NaN, to be filled; `y` itself is never written into, so that states can share it."""
        xp, values = self.grid.observations.xp, self.grid.values
        return xp.full((*values.shape, self.K), xp.nan, dtype=xp.float64, device=device_of(values))

    def _block(self, members: slice, times: slice) -> tuple[Array, Array, Array]:
        """Data and weights as (B, T, V, 1), and steps."""
        grid = self.grid
        return (
            grid.values[members, times, :][..., None],
            grid.weights[members, times, :][..., None],
            grid.steps_of(members, times),
        )

    def _linearised(self, members: slice, times: slice, active: np.ndarray, weight: float) -> LinearFit:
        """The problem of one block for the coefficients `active`, (p, 2): term and equation of each.

        The equation y^(o) - Θ(z) ξ = 0 is linear in ξ and, at the present y and ξ, has J = 1 - (∂Θ/∂y) ξ: for absolute
        coefficients, not changes of them, the right-hand side J y + P ξ - f is what (∂Θ/∂y) ξ leaves, -(∂Θ/∂y) ξ y.
        """
        xp, o = self.grid.observations.xp, self.grid.observations
        y = self.y[members, times, ...]
        V, r = y.shape[2], self.order
        units = xp.concat([self._host(o.deviation / o.time**k) for k in range(r)])
        z = xp.concat([y[..., k] for k in range(r)], axis=-1) * units
        inputs = self.grid.inputs_of(members, times)
        inputs = xp.broadcast_to(inputs, (*z.shape[:-1], inputs.shape[-1]))
        theta, slopes = self.library.evaluate(xp.concat([z, inputs], axis=-1))
        slopes = slopes[..., : r * V]
        unit = o.time**r / o.deviation
        jacobian = xp.matrix_transpose(xp.matrix_transpose(slopes) @ self._host(self.xi * unit)) * units
        c = xp.zeros((*y.shape[:2], V, V, self.K), dtype=xp.float64, device=device_of(y))
        for k in range(r):
            c[..., k] = -jacobian[..., k * V : (k + 1) * V]
        rhs = _product(xp, c, y)
        columns = xp.zeros((*y.shape[:2], V, len(active)), dtype=xp.float64, device=device_of(y))
        for j, (k, q) in enumerate(active):
            columns[..., int(q), j] = -float(unit[q]) * theta[..., int(k)]
        for q in range(V):
            c[..., q, q, r] = 1.0
        data, weights, steps = self._block(members, times)
        factor = self.grid.precision
        smoothness = SMOOTHNESS * max(1.0, STEP / self.grid.typical_step) ** (r - 0.5)
        return LinearFit(c, rhs, columns, data, steps, Weights(factor * weight, weights, factor * smoothness))

    def quadratic(self, active: np.ndarray, weight: float) -> Quadratic:
        """χ² as a function of the coefficients `active`, the trajectory being the best for each.

        Raises:
            FloatingPointError: where the fit has diverged.
        """
        gram: np.ndarray | float = 0.0
        columns = active if len(active) else np.zeros((1, 2), dtype=int)  # r_0 is asked for in any case
        with np.errstate(over="ignore", invalid="ignore"):
            for block in self.grid.blocks():
                fit = self._linearised(*block, columns, weight)
                gram = gram + as_numpy(project(fit, scheme=HERMITE, engine=self.engine).gram).sum(0)
        if not np.isfinite(gram).all():
            raise FloatingPointError
        return Quadratic(np.asarray(gram)[: 1 + len(active), : 1 + len(active)])

    def move(self, active: np.ndarray, theta: np.ndarray, weight: float) -> tuple[np.ndarray, float]:
        """Puts the coefficients to theta, (p,), and the trajectory to the best for them, in the linearised problem.

        Returns:
            χ² of the data of each variable, (V,), and of the equations.
        """
        xp = self.grid.observations.xp
        data, equations, trajectory = np.zeros(self.xi.shape[1]), 0.0, self._no_trajectory()
        for members, times in self.grid.blocks():
            fit = self._linearised(members, times, active, weight)
            rhs = fit.rhs - fit.columns @ self._host(theta)
            problem = Problem.build(
                fit.coefficients, rhs, fit.data, fit.step_sizes, scheme=HERMITE, weights=fit.weights
            )
            y = solve_without_raising(weighted_problem(problem), engine=self.engine)[0]
            trajectory[members, times, ...] = y
            left = (y[..., :1] - fit.data) * fit.weights.initial
            data += as_numpy(xp.sum(left**2, axis=(0, 1, 3)))
            equations += (self.grid.precision * weight) ** 2 * float(
                xp.sum((_product(xp, fit.coefficients, y) - rhs) ** 2)
            )
        self.y, self.xi = trajectory, np.zeros_like(self.xi)
        self.xi[tuple(active.T)] = theta
        return data, equations

    def trajectory(self) -> Array:
        """y in the user's units, (B, T, V, R+1), at the times of the data."""
        o = self.grid.observations
        units = self._host(o.deviation[:, None] / o.time ** np.arange(self.K))
        return o.xp.take(self.y, self.grid.places, axis=1) * units


def _product(xp: Namespace, J: Array, y: Array) -> Array:
    """J y at every time point, for J (..., T or 1, Q, V, K) and y (..., T, V, K): (..., T, Q)."""
    n = J.shape[-2] * J.shape[-1]
    rows = xp.reshape(J, (*J.shape[:-2], n))
    column = xp.reshape(y, (*y.shape[:-2], n, 1))
    return (rows @ column)[..., 0]
