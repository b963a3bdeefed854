r"""Derivatives of the solution, by hand.

Let M = A^T W^2 A. The solution satisfies A^T W^2 r = 0 with r = d - A y. Differentiating,

    dA^T W^2 r + A^T dW^2 r + A^T W^2 (dd - dA y - A dy) = 0,

so that, forward,

    dy = M^-1 A^T W^2 (dd - dA y)  +  M^-1 (dA^T W^2 r + A^T dW^2 r)
       = solve(dd - dA y)  +  normal_solve(dA^T W^2 r + A^T dW^2 r),

and for a loss L with g = dL/dy and M λ = g, backward,

    dL = g . dy = (W^2 A λ) . dd  -  (W^2 A λ) . (dA y)  +  (W^2 r) . (dA λ)  +  (A λ * r) . d(W^2).

The other operator, x = M^-1 h, has dM x = dA^T W^2 A x + A^T dW^2 A x + A^T W^2 dA x, hence, forward,

    dx = normal_solve(dh - dA^T W^2 A x - A^T dW^2 A x)  -  solve(dA x),

and with g = dL/dx, M λ = g, backward,

    dL = λ . dh  -  (W^2 A λ) . (dA x)  -  (W^2 A x) . (dA λ)  -  (A λ * A x) . d(W^2).

Each derivative uses the same two operators, `solve` and `normal_solve`, and products with A, A^T and dA: derivatives of
any order follow. d(W^2) = 2 W dW. Source: Golub, Pereyra, SIAM J. Numer. Anal. 10 (1973) 413, for the derivative of a
pseudo-inverse.

Rounding. v = W A λ is much smaller than λ where steps are short: in the rows of the equations, c . λ[t], large terms
cancel, and the digits that λ has lost are all that is left (hardly any for third-order equations with s = 0.003). But
(W A)^T v = g says how wrong v is: as v lies in the range of W A,

    v = v_0 + W A M^-1 (g - (W A)^T v_0),        v_0 = W A λ as it was rounded,

and the second term, itself computed with few digits, has those that were missing. So has W r, where (W A)^T W r = 0.
One step is enough; `python -m benchmarks.adjoint` prints what is left. Source: corrected seminormal equations, Björck,
Linear Algebra and its Applications 88/89 (1987) 31.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from . import _constraints as rows
from ._arrays import Array, sum_to_shape
from ._problem import Gradients, Problem, Rows, System, Weights

__all__ = [
    "contract",
    "least_squares_pullback",
    "normal_pullback",
    "normal_pushforward",
    "residual",
    "solve_pullback",
    "solve_pushforward",
]


NormalSolve = Callable[[Array], Array]
"""g -> M^-1 g"""


def residual(problem: Problem, y: Array) -> Rows:
    """r = d - A y, in the batch shape of y."""
    return rows.residual(problem.system, problem.rows, y)


def adjoint_rows(system: System, g: Array, normal_solve: NormalSolve, λ: Array | None = None) -> tuple[Array, Rows]:
    """λ = M^-1 g and v = W A λ, refined, from λ as `normal_solve` gives it."""
    λ = normal_solve(g) if λ is None else λ
    v = _weighted_product(system, λ)
    δ = normal_solve(g - _transpose(system, v))
    return λ + δ, Rows(*(a + b for a, b in zip(v, _weighted_product(system, δ), strict=True)))


def _weighted_product(system: System, x: Array) -> Rows:
    """W A x."""
    return rows.weighted(system.weights, rows.apply(system, x))


def _transpose(system: System, v: Rows) -> Array:
    """(W A)^T v."""
    return rows.apply_transpose(system, rows.weighted(system.weights, v))


def solve_pullback(problem: Problem, factor: Any, y: Array, g: Array) -> Gradients:
    """The gradients of L with respect to all inputs of y = solve(d), from g = dL/dy and a factor with `adjoint_rows`.

    (W A)^T W r = 0, and what rounding leaves of it is taken off by the same operator.
    """
    system, xp = problem.system, problem.system.xp
    Wr = rows.weighted(system.weights, residual(problem, y))
    both = factor.adjoint_rows(xp.stack([*xp.broadcast_arrays(g, _transpose(system, Wr))]))
    v, excess = (Rows(*(x[i, ...] for x in both)) for i in (0, 1))
    Wr = Rows(*(a - b for a, b in zip(Wr, excess, strict=True)))
    return contract(problem, y, factor.normal_solve(g), v, Wr)[0]


def least_squares_pullback(problem: Problem, y: Array, g: Array, normal_solve: NormalSolve) -> tuple[Gradients, Array]:
    """As `solve_pullback` without a factor; and the gradient with respect to the smoothness rows' right-hand side, in
    y's batch."""
    system = problem.system
    λ, v = adjoint_rows(system, g, normal_solve)
    Wr = rows.weighted(system.weights, residual(problem, y))
    excess = _weighted_product(system, normal_solve(_transpose(system, Wr)))
    return contract(problem, y, λ, v, Rows(*(a - b for a, b in zip(Wr, excess, strict=True))))


def contract(problem: Problem, y: Array, λ: Array, v: Rows, Wr: Rows) -> tuple[Gradients, Array]:
    """dL = v . (W dd - W dA y) + (W r) . (W dA λ) + ..., see the module, with v = W A λ."""
    system = problem.system
    W = system.weights
    μ, ρ = rows.weighted(W, v), rows.weighted(W, Wr)
    c_y, s_y = rows.gradient_of_product(system, μ, y)
    c_λ, s_λ = rows.gradient_of_product(system, ρ, λ)
    xp = system.xp
    gradients = Gradients(
        coefficients=c_λ - c_y,
        rhs=sum_to_shape(xp, μ.equation, tuple(problem.rhs.shape)),
        initial_values=sum_to_shape(xp, μ.initial, tuple(problem.initial_values.shape)),
        step_sizes=s_λ - s_y,
        weights=_weights_pullback(system, v, rows.without_weights(system, Wr)),
    )
    return gradients, μ.smoothness


def normal_pullback(system: System, x: Array, h: Array, g: Array, normal_solve: NormalSolve) -> tuple[Gradients, Array]:
    """The gradients of L with respect to the system of x = M^-1 h, from g = dL/dx; and λ = M^-1 g, that of h."""
    λ, v = adjoint_rows(system, g, normal_solve)
    c_x, s_x = rows.gradient_of_product(system, rows.weighted(system.weights, v), x)
    _, WAx = adjoint_rows(system, h, normal_solve, x)
    c_λ, s_λ = rows.gradient_of_product(system, rows.weighted(system.weights, WAx), λ)
    Ax = rows.apply(system, x)
    minus = Rows(-Ax.equation, -Ax.initial, -Ax.smoothness)
    return Gradients(-c_x - c_λ, None, None, -s_x - s_λ, _weights_pullback(system, v, minus)), λ


def solve_pushforward(
    problem: Problem, y: Array, tangent: Gradients, smoothness: Array | None = None
) -> tuple[Rows, Array]:
    """(δ, γ) with dy = solve(δ) + normal_solve(γ), for tangents of all inputs of y = solve(d); None is zero.

    `smoothness` is the tangent of the right-hand side of the smoothness rows.
    """
    system = problem.system
    r = residual(problem, y)
    dAy = rows.tangent_of_product(system, tangent.coefficients, tangent.step_sizes, y)
    δ = Rows(
        _difference(tangent.rhs, dAy.equation),
        _difference(tangent.initial_values, dAy.initial),
        smoothness if dAy.smoothness is None else _difference(smoothness, dAy.smoothness),
    )
    return δ, _system_tangent_transpose(system, tangent, r)


def _difference(a: Array | None, b: Array) -> Array:
    return -b if a is None else a - b


def normal_pushforward(system: System, x: Array, tangent: Gradients) -> tuple[Rows, Array]:
    """(δ, γ) with dx = normal_solve(dh) - solve(δ) - normal_solve(γ), for tangents of the system of x = M^-1 h."""
    δ = rows.tangent_of_product(system, tangent.coefficients, tangent.step_sizes, x)
    return δ, _system_tangent_transpose(system, tangent, rows.apply(system, x))


def _system_tangent_transpose(system: System, tangent: Gradients, x: Rows) -> Array:
    """dA^T W^2 x + A^T dW^2 x."""
    W2x = rows.weighted(system.weights, x, 2)
    result = rows.tangent_of_product_transpose(system, tangent.coefficients, tangent.step_sizes, W2x)
    dW = tangent.weights
    if dW.equation is None and dW.initial is None and dW.smoothness is None:
        return result
    W = system.weights

    def twice(w: Array, dw: Array | None, values: Array, axes: int = 0) -> Array:
        product = 0 * w if dw is None else 2 * w * dw
        return product[(..., *(None,) * axes)] * values

    dW2x = Rows(
        twice(W.equation, dW.equation, x.equation),
        twice(W.initial, dW.initial, x.initial),
        twice(W.smoothness, dW.smoothness, x.smoothness, axes=2),
    )
    return result + rows.apply_transpose(system, dW2x)


def _weights_pullback(system: System, v: Rows, r: Rows) -> Weights:
    """(A λ * r) . d(W^2) = 2 (v * r) . dW, in the shapes of the weights."""
    xp, w = system.xp, system.weights

    def gradient(weight: Array, product: Array) -> Array:
        return sum_to_shape(xp, 2 * product, tuple(weight.shape))

    return Weights(
        gradient(w.equation, v.equation * r.equation),
        gradient(w.initial, v.initial * r.initial),
        gradient(w.smoothness, xp.sum(v.smoothness * r.smoothness, axis=(-2, -1))),
    )
