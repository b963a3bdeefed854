r"""One Gauss-Newton step of a fit, by variable projection: the kernel of `discover`.

The equations, linearised at (y_k, ξ_k) with J = ∂f/∂y, are linear in the trajectory y and in the coefficients ξ:

    J y - s Θ ξ = b,    Θ the terms of the library at y_k, s a scale of each equation.

With data u and smoothness rows they make up the least-squares problem min over y and ξ of

    |W (A y - d) - B ξ|^2,    A the rows of `solve_ode`, d = (b, u, 0), B = (w s Θ, 0, 0).

For given ξ the minimiser over y leaves r(ξ) = r_0 + Σ ξ_j r_j, with P the projection onto the complement of the range
of W A:

    r_0 = -P W d,    r_j = -P B_j,

so that ξ minimises a sum of squares whose matrix is the Gram matrix of r_0, .., r_p. Since P is a projection and column
j lives in the rows of one equation alone, these rows are all that is needed of r_i:

    r_j · r_i = -B_j · P r_i = -B_j · r_i = -Σ_t w s θ_j(t) r_i(t, equation of j).

Source: Golub, Pereyra, SIAM J. Numer. Anal. 10 (1973) 413.

Shapes: B trajectories, T time points, V variables, K orders, Q equations, p coefficients.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from array_api_compat import array_namespace

from .. import _constraints as rows
from .._arrays import Array, as_numpy, device_of
from .._problem import Problem, Rows, System, Weights
from .._schemes import HERMITE
from .._solve import solve_without_raising
from .._weighting import weighted_problem

__all__ = ["LinearFit", "product"]

COLUMN_BYTES = 1 << 27
"""Solutions of one call: more right-hand sides than fit are solved in several calls, each of which eliminates again."""


@dataclass(frozen=True, eq=False)
class LinearFit:
    """A linearised fit. Axes of length 1 broadcast where `solve_ode` lets them."""

    coefficients: Array
    """J, (B or 1, T, Q, V, K)"""
    rhs: Array
    """b, (B, T, Q)"""
    library: Array
    """Θ, (B, T, terms)"""
    scale: np.ndarray
    """s, (Q,)"""
    data: Array
    """u, (B, T, V, 1): any finite number where the weight is zero"""
    step_sizes: Array
    """(B or 1, T-1 or 1)"""
    weights: Weights
    """of equations, data and smoothness"""
    engine: str = "auto"

    def of_equation(self, q: int, y: Array) -> LinearFit:
        """The fit of variable and equation q alone, all others being held at y, (B, T, V, K)."""
        one = slice(q, q + 1)
        J, own = self.coefficients[:, :, one, ...], self.coefficients[:, :, one, one, :]
        others = product(J, y) - product(own, y[:, :, one, :])
        return replace(
            self,
            coefficients=own,
            rhs=self.rhs[..., one] - others,
            scale=self.scale[one],
            data=self.data[:, :, one, :],
            weights=replace(self.weights, initial=self.weights.initial[:, :, one, :]),
        )

    def left(self, ξ: np.ndarray) -> tuple[Array, Rows]:
        """y, (B, T, V, K), for coefficients ξ, (terms, Q), and what it leaves, r."""
        y, _, r = self._solved(self.rhs + self.library @ self._like(ξ * self.scale))
        return y, r

    def gram(self, places: np.ndarray) -> np.ndarray:
        """Inner products of r_0, .., r_p, (1+p, 1+p), summed over the trajectories; NaN where one is singular.

        Args:
            places: (p, 2), integers: term and equation of each coefficient.
        """
        _, system, r_0 = self._solved(self.rhs)
        xp, p = system.xp, len(places)
        B, T, Q = self.rhs.shape
        G = np.zeros((1 + p, 1 + p))
        G[0, 0] = sum(float(xp.sum(x**2)) for x in r_0)
        if not p:
            return G
        columns = xp.concat([self.library[..., int(k), None] * float(self.scale[q]) for k, q in places], axis=-1)
        of_equation = [np.flatnonzero(places[:, 1] == q) for q in range(Q)]
        w = xp.broadcast_to(system.weights.equation, (B, T, Q))

        def products(r: Array) -> np.ndarray:
            """r_j · r for all columns j and r given in the rows of equations, (B, T, Q, some): (p, some)."""
            result = np.zeros((p, r.shape[-1]))
            for q, mine in enumerate(of_equation):
                if len(mine):
                    B_j = w[..., q, None] * xp.take(columns, self._index(mine), axis=-1)
                    B_j, own = (xp.reshape(x, (B * T, -1)) for x in (B_j, r[..., q, :]))
                    result[mine] = -as_numpy(xp.matrix_transpose(B_j) @ own)
            return result

        G[1:, :1] = products(r_0.equation[..., None])
        J = xp.reshape(system.coefficients, (*system.coefficients.shape[:3], system.n))
        no_data = xp.zeros((1, 1, *self.data.shape[1:]), dtype=system.dtype, device=system.device)
        some = max(1, COLUMN_BYTES // (8 * B * T * system.n))
        for first in range(0, p, some):
            rhs = xp.zeros((min(some, p - first), B, T, Q), dtype=system.dtype, device=system.device)
            for j, column in enumerate(range(first, first + rhs.shape[0])):
                rhs[j, :, :, int(places[column, 1])] = columns[..., column]
            y = solve_without_raising(Problem.of(system, rhs, no_data), engine=self.engine)[0]
            y, rhs = (xp.permute_dims(xp.reshape(x, (*x.shape[:3], -1)), (1, 2, 3, 0)) for x in (y, rhs))
            G[1:, 1 + first : 1 + first + rhs.shape[-1]] = products(w[..., None] * (J @ y - rhs))
        G[0, 1:], G[1:, 1:] = G[1:, 0], (G[1:, 1:] + G[1:, 1:].T) / 2
        return G

    def _solved(self, b: Array) -> tuple[Array, System, Rows]:
        """y for the right-hand side b of the equations, the weighted system, and W (A y - d)."""
        arrays = self.coefficients, b, self.data, self.step_sizes
        stated = Problem.build(*arrays, n_steps=b.shape[1], scheme=HERMITE, weights=self.weights)
        problem = weighted_problem(stated)
        y = solve_without_raising(problem, engine=self.engine)[0]
        r = rows.weighted(problem.system.weights, rows.residual(problem.system, problem.rows, y))
        return y, problem.system, Rows(*(-x for x in r))

    def _like(self, x: np.ndarray) -> Array:
        return array_namespace(self.rhs).asarray(x, dtype=self.rhs.dtype, device=device_of(self.rhs))

    def _index(self, x: np.ndarray) -> Array:
        return array_namespace(self.rhs).asarray(x, device=device_of(self.rhs))


def product(J: Array, y: Array) -> Array:
    """J y at every time point, for J (..., T or 1, Q, V, K) and y (..., T, V, K): (..., T, Q)."""
    xp = array_namespace(J)
    J, y = xp.reshape(J, (*J.shape[:-2], -1)), xp.reshape(y, (*y.shape[:-2], -1, 1))
    return (J @ y)[..., 0]
