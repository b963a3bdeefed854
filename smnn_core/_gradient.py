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
cancel, and the digits that λ has lost are all that is left (none are right in float32 for y'' + 4y = 0, s = 0.01).
But (W A)^T v = g says what v must be: at point t, with e for the equation rows and everything else on the right,

    sum_q w[q] c[q,v,o] e[q] = g[v,o] - (smoothness and initial rows)[v,o],

where smoothness rows enter with s^o: the columns of high order fix e, and hardly feel the errors of the other rows. So
e is corrected by the least-squares solution of these n equations weighted with s^(R-o): see `equation_correction`. The
same holds for W r, where (W A)^T W r = 0. Between four and six digits are gained, in both precisions.
"""

from __future__ import annotations

from typing import Any

from . import _constraints as rows
from ._arrays import Array, concat, powers, sum_to_shape
from ._problem import Gradients, Problem, Rows, System, Weights

__all__ = [
    "equation_correction",
    "least_squares_pullback",
    "normal_pullback",
    "normal_pushforward",
    "residual",
    "solve_pullback",
    "solve_pushforward",
]


def residual(problem: Problem, y: Array) -> Rows:
    """r = d - A y, in the batch shape of y."""
    Ay = rows.apply(problem.system, y)
    d = problem.rows
    smoothness = -Ay.smoothness if d.smoothness is None else d.smoothness - Ay.smoothness
    return Rows(d.equation - Ay.equation, d.initial - Ay.initial, smoothness)


def equation_correction(system: System, rest: Array) -> Array:
    """What to add to the equation rows of v, (..., T, Q), where `rest` = g - (W A)^T v, (..., T, V, K), should be zero.

    The n equations of a point, see the module, multiplied by s^(R-o) and divided by their norm per row q, are solved
    with the Q x Q normal equations, damped by the root of the precision: rows may depend on each other. Of an error in
    a row that is H times larger than another one, damping reaches that one H^2 times as large: hence a second pass. A
    row that is small beside the other rows of its point says little: hence a part of these, and of w[q] y, in its norm.
    """
    xp, Q, n = system.xp, system.Q, system.n
    s = xp.abs(system.step_sizes)
    if s.shape[-1] > 1:
        s = concat(xp, [s[..., :1], s], axis=-1)
    p = xp.flip(powers(xp, s, system.K), axis=-1)[..., None, :]
    w = system.weights.equation[..., None]
    C = (w[..., None] * system.coefficients) * p[..., None, :, :]
    C = xp.reshape(C, (*C.shape[:-2], n))
    others = w * w * p[..., :1] ** 2 + _other_rows(system, p)[..., None, None]
    norm2 = xp.sum(C * C, axis=-1, keepdims=True) + OTHER_ROWS * others
    norm = xp.sqrt(xp.where(norm2 == 0, xp.ones_like(norm2), norm2))  # (the root of 0 has no derivative)
    C = C / norm
    rest = rest * p
    rest = C @ xp.reshape(rest, (*rest.shape[:-2], n, 1))
    if Q == 1:
        return (rest / norm)[..., 0]
    one = xp.eye(Q, dtype=system.dtype, device=system.device)
    products = C @ xp.matrix_transpose(C)
    damped = (1 - one) * products + (1 + float(xp.finfo(system.dtype).eps) ** 0.5) * one
    e = xp.linalg.solve(damped, rest)
    e = e + xp.linalg.solve(damped, rest - products @ e)
    return (e / norm)[..., 0]


def _other_rows(system: System, p: Array) -> Array:
    """The squared norms of initial rows and of one step at each point, multiplied by p = s^(R-o): (..., T)."""
    xp, T, w = system.xp, system.n_steps, system.weights
    ones = xp.ones(
        (system.n_initial_steps, system.V, system.n_initial_orders), dtype=system.dtype, device=system.device
    )
    initial = xp.sum(rows.initial_transpose(system, w.initial * w.initial * ones) * p * p, axis=(-2, -1))
    step = w.smoothness * xp.ones((T - 1,), dtype=system.dtype, device=system.device)
    step = concat(xp, [step[..., :1], step], axis=-1) * p[..., 0, 0]
    return initial + step * step


OTHER_ROWS = 1e-2
"""How much of the squared norm of a point's other rows, s^(2R) and more, damps: rounding errors of g and of these rows
enter a correction at most 1 / OTHER_ROWS times as large as v, and little is left where an equation outweighs them."""


def corrected(system: System, v: Rows, g: Array | None = None) -> Rows:
    """v, of which (W A)^T v = g is known (None: 0), the equation rows corrected."""
    rest = -rows.apply_transpose(system, rows.weighted(system.weights, v))
    rest = rest if g is None else rest + g
    return Rows(v.equation + equation_correction(system, rest), v.initial, v.smoothness)


def adjoint_rows(system: System, λ: Array, g: Array) -> Rows:
    """v = W A λ for M λ = g."""
    return corrected(system, rows.weighted(system.weights, rows.apply(system, λ)), g)


def solve_pullback(problem: Problem, factor: Any, y: Array, g: Array) -> Gradients:
    """The gradients of L with respect to all inputs of y = solve(d), from g = dL/dy and a factor with `adjoint_rows`.

    (W A)^T W r = 0, and what rounding leaves of it is taken off by the same operator.
    """
    system, xp = problem.system, problem.system.xp
    Wr = rows.weighted(system.weights, residual(problem, y))
    rest = rows.apply_transpose(system, rows.weighted(system.weights, Wr))
    both = factor.adjoint_rows(xp.stack([*xp.broadcast_arrays(g, rest)]))
    v, excess = (Rows(*(x[i, ...] for x in both)) for i in (0, 1))
    Wr = Rows(*(a - b for a, b in zip(Wr, excess, strict=True)))
    return _contract(problem, y, factor.normal_solve(g), v, Wr)[0]


def least_squares_pullback(problem: Problem, y: Array, λ: Array, g: Array) -> tuple[Gradients, Array]:
    """As `solve_pullback` from λ = M^-1 g, without a factor; and the gradient with respect to the right-hand side of
    the smoothness rows, in y's batch."""
    system = problem.system
    Wr = corrected(system, rows.weighted(system.weights, residual(problem, y)))
    return _contract(problem, y, λ, adjoint_rows(system, λ, g), Wr)


def _contract(problem: Problem, y: Array, λ: Array, v: Rows, Wr: Rows) -> tuple[Gradients, Array]:
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
        weights=_weights_pullback(system, v, residual(problem, y)),
    )
    return gradients, μ.smoothness


def normal_pullback(system: System, x: Array, h: Array, λ: Array, g: Array) -> Gradients:
    """The gradients of L with respect to the system of x = M^-1 h, from g = dL/dx and λ = M^-1 g (that of h)."""
    v = adjoint_rows(system, λ, g)
    c_x, s_x = rows.gradient_of_product(system, rows.weighted(system.weights, v), x)
    WAx = adjoint_rows(system, x, h)
    c_λ, s_λ = rows.gradient_of_product(system, rows.weighted(system.weights, WAx), λ)
    Ax = rows.apply(system, x)
    minus = Rows(-Ax.equation, -Ax.initial, -Ax.smoothness)
    return Gradients(-c_x - c_λ, None, None, -s_x - s_λ, _weights_pullback(system, v, minus))


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
