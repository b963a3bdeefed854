r"""The one linear solve and its one derivative.

All that is asked of a system W A are solutions (v, y), weighted rows and states, of the symmetric linear equations

    v + W A y   = f          [    I     W A ] [v]   [f]
    (W A)^T v   = g          [ (W A)^T   0  ] [y] = [g]          K z = b

With f = W d and g = 0, y minimises |W (d - A y)| and v = W (d - A y) is what remains there; with f = 0, v = (W A)^+^T g
are the multipliers of the rows and y = -M^-1 g, M = A^T W^2 A. K is its own transpose, so that the derivative of a
solution in a direction, and that of a loss L with the gradient z' = dL/dz, are one more solution each,

    dz = K^-1 (db - dK z),          dL = ζ . (db - dK z),  ζ = K^-1 z',

and products of rows: with z = (v, y) and ζ = (μ, λ)

    dK z = (d(W A) y, d(W A)^T v),          ζ . dK z = μ . d(W A) y + v . d(W A) λ.

These are two functions here, `pushforward` and `pullback`. Written in array calls, they have derivatives themselves:
derivatives of any order, in any mixture of modes, follow. Source: Björck, Numerical Methods for Least Squares Problems,
SIAM 1996, section 1.4.4, for K; Golub, Pereyra, SIAM J. Numer. Anal. 10 (1973) 413, for the derivative of a
pseudo-inverse.

Rounding. The weights move W d and W A at once: dW (d - A y) is formed of r = d - A y, not of d and A y, which cancel.
Where g alone is given, W A λ = -μ: gradients of weights are taken from μ and v, since λ has lost the digits that cancel
in A λ where steps are short; `python -m benchmarks.adjoint` prints what is left.
"""

from __future__ import annotations

from . import _constraints as rows
from ._arrays import Array, add, sum_to_shape
from ._problem import Gradients, Problem, Rows, System, Weights

__all__ = ["pullback", "pushforward", "residual", "solution_pullback", "solution_pushforward"]


def residual(problem: Problem, y: Array) -> Rows:
    """r = d - A y, in the batch shape of y."""
    return rows.residual(problem.system, problem.rows, y)


def pushforward(
    system: System, tangent: Gradients, v: Rows, y: Array, r: Rows | None = None
) -> tuple[Rows | None, Array | None]:
    """-dK z, for the tangent of the system (None is zero); None where the system does not move.

    Args:
        r: d - A y where f = W d: then dW d, the change of f by the weights, is part of the result.
    """
    dc, ds, W, dW = tangent.coefficients, tangent.step_sizes, system.weights, tangent.weights
    moving = [dw is not None for dw in (dW.equation, dW.initial, dW.smoothness)]
    if dc is None and ds is None and not any(moving):
        return None, None
    δ = rows.weighted(W, rows.tangent_of_product(system, dc, ds, y))  # W dA y
    γ = rows.tangent_of_product_transpose(system, dc, ds, rows.weighted(W, v))  # dA^T W v
    if any(moving):
        pairs = zip((W.equation, W.initial, W.smoothness), (dW.equation, dW.initial, dW.smoothness), strict=True)
        dW = Weights(*(system.xp.zeros_like(w) if dw is None else dw for w, dw in pairs))
        change = rows.weighted(dW, _minus(rows.apply(system, y)) if r is None else r)  # -dW A y, or dW (d - A y)
        δ = rows.subtract(δ, change)
        γ = γ + rows.apply_transpose(system, rows.weighted(dW, v))  # A^T dW v
    return _minus(δ), -γ


def pullback(system: System, v: Rows, y: Array, μ: Rows, λ: Array) -> Gradients:
    """-ζ . dK z as gradients with respect to coefficients, step sizes and weights, in their shapes; else None."""
    Ay, Aλ = rows.apply(system, y), rows.apply(system, λ)
    products = (-(a * b + c * d) for a, b, c, d in zip(μ, Ay, v, Aλ, strict=True))  # -(μ * A y + v * A λ) . dW
    return _pullback(system, v, y, μ, λ, Rows(*products))


def solution_pushforward(problem: Problem, y: Array, tangent: Gradients) -> tuple[Rows, Array | None]:
    """b with K (dv, dy) = b, for tangents of all inputs of the solution y; None is zero."""
    system = problem.system
    r = residual(problem, y)
    f, g = pushforward(system, tangent, rows.weighted(system.weights, r), y, r)
    none = rows.tangent_of_product(system, None, None, y)
    W = system.weights
    of_rhs = (
        None if tangent.rhs is None else W.equation * tangent.rhs,
        None if tangent.initial_values is None else W.initial * tangent.initial_values,
        None,
    )
    parts = zip(f or none, of_rhs, strict=True)
    return Rows(*(add(a, b) for a, b in parts)), g


def solution_pullback(problem: Problem, y: Array, v: Rows, μ: Rows, λ: Array) -> Gradients:
    """The gradients with respect to all inputs of the solution y, from v = W (d - A y) and (μ, λ) = K^-1 (0, dL/dy)."""
    system, xp = problem.system, problem.system.xp
    products = (2 * a * b for a, b in zip(μ, rows.without_weights(system, v), strict=True))  # (μ * r - v * A λ) . dW
    gradients = _pullback(system, v, y, μ, λ, Rows(*products))
    W = system.weights
    return gradients._replace(
        rhs=sum_to_shape(xp, W.equation * μ.equation, tuple(problem.rhs.shape)),
        initial_values=sum_to_shape(xp, W.initial * μ.initial, tuple(problem.initial_values.shape)),
    )


def _pullback(system: System, v: Rows, y: Array, μ: Rows, λ: Array, products: Rows) -> Gradients:
    """As `pullback`, with the factors of dW given."""
    xp, w = system.xp, system.weights
    of_y = rows.gradient_of_product(system, rows.weighted(w, μ), y)  # W μ . dA y
    of_λ = rows.gradient_of_product(system, rows.weighted(w, v), λ)  # W v . dA λ
    of_smoothness = xp.sum(products.smoothness, axis=(-2, -1))
    weights = Weights(
        sum_to_shape(xp, products.equation, tuple(w.equation.shape)),
        sum_to_shape(xp, products.initial, tuple(w.initial.shape)),
        sum_to_shape(xp, of_smoothness, tuple(w.smoothness.shape)),
    )
    dc, ds = (-a - b for a, b in zip(of_y, of_λ, strict=True))
    return Gradients(dc, None, None, ds, weights)


def _minus(x: Rows) -> Rows:
    return Rows(*(None if part is None else -part for part in x))
