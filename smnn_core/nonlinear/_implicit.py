r"""Derivatives of what an iteration ends at, for adapters: one more step, whose linearisation is held fixed.

Solutions. y with f(t, y; φ) = 0 beside linear rows, φ all that they depend on. With J = ∂f/∂y at the solution y*, both
constants, the linear problem J y = J y* - f(t, y*; φ) has the solution y* and, by the implicit function theorem, its
derivatives: exactly, where the residuals vanish.

Fits. At the minimum (y*, θ*) of |W r|^2, with J, P = ∂f/∂θ and the covariance C of θ as constants, one more
Gauss-Newton step, derived in `fitting._variable_projection`, is

    y_0, from J y = J y* - f(t, y*, θ*; φ) with data and smoothness rows,
    δ = -C g,  g_j = r_j · r_0,        θ = θ* + δ,        y = y_0 + Σ_j δ_j y_j.

g is half the gradient of the projected sum of squares and 0 at the minimum, so that dδ = -C dg. The rows r_j are
orthogonal to the range of W A, to which W A dy_0 and W A dy_j belong: y_0 and y_j are constants in g. The second
derivatives of f are left out, as in every Gauss-Newton step: the derivatives are exact where f is linear in (y, θ) or
its multipliers w^2 f vanish (data without noise), and off by terms proportional to the noise else.

The cost, the minimum itself, has by the envelope theorem the gradient in φ that it has at fixed y* and θ*.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .._arrays import Array, Namespace, concat, device_of, powers, product, size
from .._problem import Weights
from .._schemes import Scheme
from .._solve import Residuals
from .._weighting import across_steps
from ._linearize import Linearization

__all__ = ["FitRows", "attached", "stand_in", "times"]


def times(xp: Namespace, t0: Any, s: Array) -> Array:
    """t0 and the sums of the steps: (..., T)."""
    first = xp.asarray(t0, dtype=s.dtype, device=device_of(s)) if isinstance(t0, (int, float)) else t0
    sums = xp.cumulative_sum(s, axis=-1)
    return first[..., None] + concat(xp, [xp.zeros_like(s[..., :1]), sums], axis=-1)


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


def attached(xp: Namespace, constant: Callable[[Array], Array], value: Array, new: Array, ok: Array) -> Array:
    """The value with the derivatives of `new`, in the members that are ok, (...), or () where all share the value."""
    derivative = new - constant(new)
    members = xp.reshape(ok, (*ok.shape, *(1,) * (value.ndim - ok.ndim)))
    return value + xp.where(members, derivative, xp.zeros_like(derivative))


@dataclass(frozen=True, eq=False)
class FitRows:
    """The linear rows of a fit, their weights, and the weight of the equations."""

    xp: Namespace
    solve: Callable[..., Array]
    """`solve_ode` of an adapter"""
    constant: Callable[[Array], Array]
    """cuts an array from what it depends on"""
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

    @property
    def constants(self) -> tuple[Any, ...]:
        """Data, noise, the weights of equations and smoothness rows, and scale, cut from what they depend on."""
        given = self.data, self.noise, self.equation, self.smoothness, self.scale
        return tuple(x if isinstance(x, (int, float)) else self.constant(x) for x in given)

    def step(self, lin: Linearization, y: Array) -> Array:
        """y_0: minimises over y the problem linearised at y."""
        return self._solved(lin, product(self.xp, lin.J, y) - lin.f, self.data)

    def responses(self, lin: Linearization) -> Array:
        """y_1, .., y_p, (p, ..., T, V, K): how y answers to each parameter."""
        xp = self.xp
        without = xp.where(xp.isnan(self.data), self.data, xp.zeros_like(self.data))
        return self._solved(lin, -self._columns(lin), without)

    def _columns(self, lin: Linearization) -> Array:
        """P with its last axis in front, (p, ..., T, Q)."""
        xp, P = self.xp, lin.P
        assert P is not None
        return xp.moveaxis(xp.broadcast_to(P, (*lin.f.shape, P.shape[-1])), -1, 0)

    def _solved(self, lin: Linearization, rhs: Array, data: Array) -> Array:
        arguments, options = self.scaled(lin, rhs, data)
        return self.solve(*arguments, **options) * self.scale[..., None, :, None]

    def scaled(self, lin: Linearization, rhs: Array, data: Array) -> tuple[tuple[Array, ...], dict[str, Any]]:
        """The linearised problem as arguments of `solve_ode`, in units in which each variable has size 1."""
        z_unit = self.scale[..., None, :, None]
        J = lin.J * self.scale[..., None, None, :, None]
        weights = Weights(self.equation, z_unit / self.noise, self.smoothness)
        options: dict[str, Any] = {"n_steps": data.shape[-3], "scheme": self.scheme, "weights": weights}
        return (J, rhs, data / z_unit, self.step_sizes), options

    def residuals(self, f: Array, y: Array) -> Residuals:
        """What the rows leave at y, without weights: f, y - data (NaN where missing), the smoothness rows."""
        return Residuals(f, y[..., : self.data.shape[-1]] - self.data, self._smoothness(y))

    def response_rows(self, lin: Linearization, responses: Array) -> Residuals:
        """A y_j + B_j, without weights, j = 1, .., p in front."""
        f = product(self.xp, lin.J, responses) + self._columns(lin)
        missing = 0 * self.data
        return Residuals(f, responses[..., : self.data.shape[-1]] + missing, self._smoothness(responses))

    def _smoothness(self, y: Array) -> Array:
        xp, K = self.xp, y.shape[-1]
        p = powers(xp, self.step_sizes, K)[..., None, :]
        F, G = (xp.asarray(M, dtype=y.dtype, device=device_of(y)) for M in self.scheme.matrices(K))
        return (p * y[..., :-1, :, :]) @ F.T + (p * y[..., 1:, :, :]) @ G.T

    def dot(self, a: Residuals, b: Residuals) -> Array:
        """W a · W b, (...)."""
        xp, s = self.xp, self.step_sizes
        w = across_steps(xp, s, self.smoothness, self.scheme.step_exponent(self.orders))
        w = w if isinstance(w, (int, float)) or w.ndim == 0 else w[..., None, None]
        missing = xp.isnan(a.initial)
        data = [xp.where(missing, xp.zeros_like(x.initial), x.initial) / self.noise for x in (a, b)]
        w = w / self.scale[..., None, :, None]
        equation = xp.sum((self.equation * a.equation) * (self.equation * b.equation), axis=(-2, -1))
        smoothness = xp.sum((w * a.smoothness) * (w * b.smoothness), axis=(-3, -2, -1))
        return equation + xp.sum(data[0] * data[1], axis=(-3, -2, -1)) + smoothness

    def cost(self, left: Residuals) -> Array:
        """The sum of squares of the weighted rows, (...)."""
        return self.dot(left, left)

    def derivatives(self, lin: Linearization, y: Array, covariance: Array | None, shared: bool) -> dict[str, Array]:
        """The cost at constants y and θ, and y and δ after one more step, with their derivatives."""
        xp, left = self.xp, self.residuals(lin.f, y)
        result = {"cost": self.cost(left), "y": self.step(lin, y)}
        if covariance is None:
            return result
        responses = self.constant(self.responses(lin))
        g = xp.moveaxis(self.dot(self.response_rows(lin, responses), left), 0, -1)
        if shared:
            g = xp.sum(xp.reshape(g, (-1, g.shape[-1])), axis=0)
        δ = -(covariance @ g[..., None])[..., 0]
        each = xp.moveaxis(δ, -1, 0)
        each = xp.reshape(each, (*each.shape, *(1,) * (responses.ndim - each.ndim)))
        return result | {"y": result["y"] + xp.sum(each * responses, axis=0), "parameters": δ}
