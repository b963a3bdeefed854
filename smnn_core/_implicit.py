r"""Derivatives of what an iteration ends at, for adapters: one more step, whose linearisation is held fixed.

Solutions. y with f(t, y; φ) = 0 beside linear rows, φ all that they depend on. With J = ∂f/∂y at the solution y*, both
constants, the linear problem J y = J y* - f(t, y*; φ) has the solution y* and, by the implicit function theorem, its
derivatives: exactly, where the residuals vanish.

Fits. At the minimum (y*, θ*) of |W r|^2, with J, P = ∂f/∂θ and the covariance C of θ as constants,

    y_0   solves J y = J y* - f(t, y*, θ*; φ) with data and smoothness rows,
    δ   = -C g,    g = Σ_t w^2 P^T (f + J (y_0 - y*)),
    θ   = θ* + δ,    y = y_0 + Σ_j δ_j y_j,    y_j as in `_variable_projection`,

is one more Gauss-Newton step: g is half the gradient of the projected sum of squares and 0 at the minimum, so that
dδ = -C dg. The second derivatives of f are left out, as in every Gauss-Newton step: the derivatives are exact where f
is linear in (y, θ) or its multipliers w^2 f vanish (data without noise), and off by terms proportional to the noise
else.

The cost, the minimum itself, has by the envelope theorem the gradient in φ that it has at fixed y* and θ*.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ._arrays import Array, Namespace, device_of, powers, size
from ._linearize import Linearization, product
from ._problem import Weights
from ._schemes import Scheme
from ._solve import Residuals
from ._weighting import across_steps

__all__ = ["FitRows", "stand_in"]


def stand_in(xp: Namespace, ok: Array, x: Array, rank: int) -> Array:
    """x (..., core) of `rank` core axes, with the values of the first member that is ok for the members that are not.

    So that what failed can be evaluated and solved, and contaminates no derivative of what is shared.
    """
    core = tuple(x.shape[x.ndim - rank :])
    x = xp.broadcast_to(x, (*ok.shape, *core))
    flat = xp.reshape(x, (size(tuple(ok.shape)), *core))
    first = xp.argmax(xp.astype(xp.reshape(ok, (-1,)), xp.int32))
    donor = xp.take(flat, xp.reshape(first, (1,)), axis=0)
    return xp.where(xp.reshape(ok, (*ok.shape, *(1,) * rank)), x, xp.reshape(donor, core))


@dataclass(frozen=True, eq=False)
class FitRows:
    """The linear rows of a fit, their weights, and the weight of the equations."""

    xp: Namespace
    solve: Callable[..., Array]
    """`solve_ode` of an adapter"""
    data: Array
    """(..., T, V, R_obs), NaN where missing"""
    step_sizes: Array
    """(..., T-1 or 1)"""
    noise: Any
    """a number, or an array that broadcasts against data"""
    equation: Any
    """a number, or (..., T or 1, Q or 1)"""
    smoothness: Any
    """a number, or (..., T-1 or 1)"""
    scale: Array
    """(..., V): the unit of each variable in which smoothness is measured"""
    orders: int
    """K"""
    scheme: Scheme

    def step(self, lin: Linearization, y: Array) -> Array:
        """y_0, the minimum over y of the problem linearised at y, for the parameters that it was linearised at."""
        z_unit = self.scale[..., None, :, None]
        J = lin.J * self.scale[..., None, None, :, None]
        weights = Weights(self.equation, z_unit / self.noise, self.smoothness)
        rhs = product(self.xp, J, y / z_unit) - lin.f
        options: dict[str, Any] = {"n_steps": y.shape[-3], "scheme": self.scheme, "weights": weights}
        return self.solve(J, rhs, self.data / z_unit, self.step_sizes, **options) * z_unit

    def change(self, lin: Linearization, y: Array, y_0: Array, covariance: Array, shared: bool) -> Array:
        """δ, (..., p)."""
        xp = self.xp
        assert lin.P is not None
        left = lin.f + product(xp, lin.J, y_0 - y)
        w = self.equation
        g = xp.sum(lin.P * (w * w * left)[..., None], axis=(-3, -2))
        if shared and g.ndim > 1:
            g = xp.sum(g, axis=tuple(range(g.ndim - 1)))
        return -(covariance @ g[..., None])[..., 0]

    def responses(self, lin: Linearization, y: Array) -> Array:
        """y_1, .., y_p, (p, ..., T, V, K): how y answers to each parameter."""
        xp = self.xp
        assert lin.P is not None
        b = -xp.moveaxis(xp.broadcast_to(lin.P, (*lin.f.shape, lin.P.shape[-1])), -1, 0)
        J = lin.J * self.scale[..., None, None, :, None]
        without = xp.where(xp.isnan(self.data), self.data, xp.zeros_like(self.data))
        weights = Weights(self.equation, self.scale[..., None, :, None] / self.noise, self.smoothness)
        options: dict[str, Any] = {"n_steps": y.shape[-3], "scheme": self.scheme, "weights": weights}
        return self.solve(J, b, without, self.step_sizes, **options) * self.scale[..., None, :, None]

    def residuals(self, f: Array, y: Array) -> Residuals:
        """What the rows leave at y, without weights: f, y - data (NaN where missing), the smoothness rows."""
        xp, K = self.xp, y.shape[-1]
        p = powers(xp, self.step_sizes, K)[..., None, :]
        F, G = (xp.asarray(M, dtype=y.dtype, device=device_of(y)) for M in self.scheme.matrices(K))
        smoothness = (p * y[..., :-1, :, :]) @ F.T + (p * y[..., 1:, :, :]) @ G.T
        return Residuals(f, y[..., : self.data.shape[-1]] - self.data, smoothness)

    def cost(self, left: Residuals) -> Array:
        """The sum of squares of the weighted rows, (...)."""
        xp, s = self.xp, self.step_sizes
        w = across_steps(xp, s, self.smoothness, self.scheme.step_exponent(self.orders))
        w = w if isinstance(w, (int, float)) or w.ndim == 0 else w[..., None, None]
        missing = xp.isnan(left.initial)
        data = xp.where(missing, xp.zeros_like(left.initial), left.initial) / self.noise
        smoothness = w * left.smoothness / self.scale[..., None, :, None]
        rows = self.equation * left.equation, data, smoothness
        return sum(xp.sum(x * x, axis=axes) for x, axes in zip(rows, ((-2, -1), *[(-3, -2, -1)] * 2), strict=True))
