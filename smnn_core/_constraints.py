"""The rows of the least-squares problem: products with A and A^T, and with the derivative of A.

    equation     sum_{v,r} c[t,q,v,r] y[t,v,r]                                   t = 0..T-1, q = 1..Q
    initial      y[t,v,r]                                                        t < T_init, r < R_init
    smoothness   F diag(s^o) y[t,v,:] + G diag(s^o) y[t+1,v,:],  s = s[t]        t = 0..T-2, m rows per variable

Weights are not part of A. All inputs keep their broadcast shapes; results have the common batch shape.
"""

from __future__ import annotations

from ._arrays import Array, concat, pad_to, power_derivatives, powers, sum_to_shape
from ._problem import Rows, System, Weights

__all__ = [
    "apply",
    "apply_transpose",
    "gradient_of_product",
    "subtract",
    "tangent_of_product",
    "tangent_of_product_transpose",
    "weighted",
    "without_weights",
]


def _equation(system: System, c: Array, y: Array) -> Array:
    """sum_{v,r} c y for y of shape (..., T, V, K): (..., T, Q)."""
    return system.xp.sum(c * y[..., None, :, :], axis=(-2, -1))


def _equation_transpose(system: System, c: Array, x: Array) -> Array:
    """sum_q c x for x of shape (..., T, Q): (..., T, V, K)."""
    return system.xp.sum(c * x[..., None, None], axis=-3)


def _smoothness(system: System, p: Array, y: Array) -> Array:
    """F diag(p) y[t] + G diag(p) y[t+1] for p of shape (..., T-1 or 1, K): (..., T-1, V, m)."""
    F, G = system.smoothness_matrices
    mT = system.xp.matrix_transpose
    p = p[..., None, :]
    both = (p * y[..., :-1, :, :], F), (p * y[..., 1:, :, :], G)
    return sum(system.xp.tensordot(x, mT(M), axes=1) for x, M in both)  # (one product each, not one for every time)


def _smoothness_transpose(system: System, p: Array, x: Array) -> Array:
    """The transpose of `_smoothness` in y, for x of shape (..., T-1, V, m): (..., T, V, K)."""
    xp = system.xp
    F, G = system.smoothness_matrices
    p = p[..., None, :]
    at_t, at_next = p * (x @ F), p * (x @ G)
    edge = xp.zeros_like(at_t[..., :1, :, :])
    return concat(xp, [at_t, edge], axis=-3) + concat(xp, [edge, at_next], axis=-3)


def apply(system: System, y: Array) -> Rows:
    """A y, for y of shape (..., T, V, K)."""
    p = powers(system.xp, system.step_sizes, system.K)
    return Rows(
        _equation(system, system.coefficients, y),
        y[..., : system.n_initial_steps, :, : system.n_initial_orders],
        _smoothness(system, p, y),
    )


def residual(system: System, d: Rows, y: Array) -> Rows:
    """d - A y, in the batch shape of y; no right-hand side of smoothness rows is zero."""
    Ay = apply(system, y)
    smoothness = -Ay.smoothness if d.smoothness is None else d.smoothness - Ay.smoothness
    return Rows(d.equation - Ay.equation, d.initial - Ay.initial, smoothness)


def apply_transpose(system: System, x: Rows) -> Array:
    """A^T x: (..., T, V, K)."""
    initial = pad_to(system.xp, x.initial, (system.n_steps, system.V, system.K))
    result = _equation_transpose(system, system.coefficients, x.equation) + initial
    if x.smoothness is not None:
        p = powers(system.xp, system.step_sizes, system.K)
        result = result + _smoothness_transpose(system, p, x.smoothness)
    return result


def tangent_of_product(system: System, dc: Array | None, ds: Array | None, y: Array) -> Rows:
    """(dA) y, where the coefficients change by dc and the step sizes by ds (None: not at all)."""
    xp = system.xp

    def zeros(*core: int) -> Array:
        return xp.zeros(core, dtype=system.dtype, device=system.device)

    T, Q = system.n_steps, system.Q
    return Rows(
        zeros(T, Q) if dc is None else _equation(system, dc, y),
        zeros(system.n_initial_steps, system.V, system.n_initial_orders),
        None if ds is None else _smoothness(system, _tangent_of_powers(system, ds), y),
    )


def tangent_of_product_transpose(system: System, dc: Array | None, ds: Array | None, x: Rows) -> Array:
    """(dA)^T x, with the conventions of `tangent_of_product`; x.smoothness is needed where ds is given."""
    xp = system.xp
    result = xp.zeros((system.n_steps, system.V, system.K), dtype=system.dtype, device=system.device)
    if dc is not None:
        result = result + _equation_transpose(system, dc, x.equation)
    if ds is not None:
        result = result + _smoothness_transpose(system, _tangent_of_powers(system, ds), x.smoothness)
    return result


def _tangent_of_powers(system: System, ds: Array) -> Array:
    return power_derivatives(system.xp, system.step_sizes, system.K) * ds[..., None]


def gradient_of_product(system: System, x: Rows, y: Array) -> tuple[Array, Array]:
    """The gradients of x . (A y) with respect to coefficients and step sizes, in their own shapes."""
    xp = system.xp
    dc = x.equation[..., None, None] * y[..., None, :, :]
    dp = power_derivatives(xp, system.step_sizes, system.K)
    ds = xp.sum(x.smoothness * _smoothness(system, dp, y), axis=(-2, -1))
    return (
        sum_to_shape(xp, dc, tuple(system.coefficients.shape)),
        sum_to_shape(xp, ds, tuple(system.step_sizes.shape)),
    )


def weighted(weights: Weights, x: Rows, power: int = 1) -> Rows:
    """W^power x."""

    def times(w: Array, values: Array) -> Array:
        for _ in range(power):
            values = w * values
        return values

    smoothness = None if x.smoothness is None else times(weights.smoothness[..., None, None], x.smoothness)
    return Rows(times(weights.equation, x.equation), times(weights.initial, x.initial), smoothness)


def subtract(a: Rows, b: Rows) -> Rows:
    """a - b; None is zero in a."""
    return Rows(*(-y if x is None else x - y for x, y in zip(a, b, strict=True)))


def without_weights(system: System, x: Rows) -> Rows:
    """W^-1 x, and 0 where the weight is: such a row has no part in y."""
    xp, w = system.xp, system.weights

    def divided(values: Array, w: Array) -> Array:
        zero = w == 0
        return xp.where(zero, xp.zeros_like(values), values / xp.where(zero, xp.ones_like(w), w))

    return Rows(
        divided(x.equation, w.equation),
        divided(x.initial, w.initial),
        None if x.smoothness is None else divided(x.smoothness, w.smoothness[..., None, None]),
    )
