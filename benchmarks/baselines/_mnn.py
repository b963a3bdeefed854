"""The predecessor: least squares with a slack variable and central rows (Pervez, Locatello, Gavves, arXiv:2402.13077).

One slack ε per system joins the unknowns, x = (ε, y). With s = s[t] and R = K-1 >= 1 the rows are

    equation, initial   as in `smnn_core.solve_ode`
    forward             sum_{o>=r} s^o/(o-r)! y[t,o] - s^r y[t+1,r] + ε                      r < R
    backward            sum_{o>=r} (-s)^o/(o-r)! y[t+1,o] - (-s)^r y[t,r] + ε                r < R
    central             (y[t-1,R-1] - y[t+1,R-1]) h^(R-2) + y[t,R] h^(R-1) - ε,  h = s[t-1] + s[t],  0 < t < T-1

The forward and backward rows are those of `TAYLOR` without the last of each. A central row has the smaller weight of
its two steps, so that masking a step masks it too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import array_api_compat as compat

from smnn_core import _constraints as constraints
from smnn_core._arrays import Array, Namespace, can_look, size
from smnn_core._problem import Problem, Rows
from smnn_core._schemes import TAYLOR
from smnn_core._weighting import weighted_problem
from smnn_torch._central import central_rows, central_steps, central_weight, check_orders

from ._implicit import Method, Solved, inputs, solve

__all__ = ["mnn_conjugate_gradient", "mnn_dense"]


def mnn_dense(*arguments: Array, **options: Any) -> Array:
    """The system with slack variable, by dense Cholesky on the normal equations: O(T^3) time, O(T^2) memory.

    Arguments, result and errors are those of `smnn_core.solve_ode`; R must be at least 1, and for R = 1 neighbouring
    steps may not cancel. A matrix that is not positive definite raises the LinAlgError of the namespace.
    """
    problem = _problem(*arguments, **options)
    return _trajectory(problem, solve(DENSE, problem))


def mnn_conjugate_gradient(
    *arguments: Array, max_iterations: int = 200, tolerance: float | None = None, **options: Any
) -> Array:
    """The system with slack variable, by conjugate gradients on the normal equations, without forming a matrix.

    The other arguments, result and errors are as for `mnn_dense`.

    Args:
        max_iterations: the published limit is 200, often too few: the iteration stops where it stands.
        tolerance: a system is done when its residual has this size relative to the start; None: the root of the dtype's
            epsilon.
    """
    problem = _problem(*arguments, **options)
    xp = problem.system.xp
    if tolerance is None:
        tolerance = float(xp.finfo(problem.system.dtype).eps) ** 0.5

    def solve_iteratively(problem: Problem) -> Solved:
        look = all(can_look(x) for x in inputs(problem))

        def normal_solve(g: Array) -> Array:
            def normal_product(x: Array) -> Array:
                return _transpose_product(problem, _product(problem, x))

            return _conjugate_gradient(xp, normal_product, g, max_iterations, tolerance, look)

        return Solved(normal_solve(_transpose_product(problem, _right_hand_side(problem))), normal_solve)

    return _trajectory(problem, solve(Method(solve_iteratively, _product, _right_hand_side), problem))


def _problem(coefficients: Array, *arguments: Array, **options: Any) -> Problem:
    check_orders(coefficients)
    return weighted_problem(Problem.build(coefficients, *arguments, scheme=TAYLOR, **options))


def _trajectory(problem: Problem, x: Array) -> Array:
    system = problem.system
    return system.xp.reshape(x[..., 1:], (*problem.batch, system.n_steps, system.V, system.K))


def _product(problem: Problem, x: Array) -> tuple[Array, ...]:
    """W A x for x = (ε, y), (..., 1 + T*n): equation, initial, forward, backward and central rows."""
    system = problem.system
    y = system.xp.reshape(x[..., 1:], (*x.shape[:-1], system.n_steps, system.V, system.K))
    equation, initial, forward, backward, central = central_rows(system, y)
    ε = x[..., :1, None]
    slack = system.weights.smoothness[..., None, None] * ε[..., None]
    return equation, initial, forward + slack, backward + slack, central - central_weight(system) * ε


def _right_hand_side(problem: Problem) -> tuple[Array, ...]:
    """W d, in the blocks of `_product`."""
    d = constraints.weighted(problem.system.weights, problem.rows)
    zero = problem.system.constant(0.0)
    return d.equation, d.initial, zero, zero, zero


def _transpose_product(problem: Problem, blocks: tuple[Array, ...]) -> Array:
    """A^T W applied to blocks of rows that broadcast to those of `_product`: (*batch, 1 + T*n)."""
    system, xp, batch = problem.system, problem.system.xp, problem.batch
    T, V, K, R = system.n_steps, system.V, system.K, system.K - 1
    equation, initial, forward, backward, central = blocks
    forward, backward = (xp.broadcast_to(x, (*batch, T - 1, V, R)) for x in (forward, backward))
    absent = xp.zeros_like(forward[..., :1])
    smoothness = xp.concat([forward, absent, backward, absent], axis=-1)
    rows = constraints.weighted(system.weights, Rows(equation, initial, smoothness))
    h = central_steps(system)
    central = central_weight(system) * xp.broadcast_to(central, (*batch, T - 2, V))

    def in_order(values: Array, r: int, before: int, after: int) -> Array:
        """Values (..., T-2, V) of derivative order r, moved in time, as (..., T, V, K)."""
        zero = xp.zeros_like(forward[..., :1, :, 0])
        values = xp.concat([zero] * before + [values] + [zero] * after, axis=-2)[..., None]
        blank = xp.zeros_like(values)
        return xp.concat([blank] * r + [values] + [blank] * (K - 1 - r), axis=-1)

    difference = central * h ** (R - 2)
    y = (
        constraints.apply_transpose(system, rows)
        + in_order(difference, R - 1, 0, 2)
        - in_order(difference, R - 1, 2, 0)
        + in_order(central * h ** (R - 1), R, 1, 1)
    )
    ε = xp.sum(rows.smoothness, axis=(-3, -2, -1)) - xp.sum(central, axis=(-2, -1))
    y = xp.reshape(xp.broadcast_to(y, (*batch, T, V, K)), (*batch, T * system.n))
    return xp.concat([xp.broadcast_to(ε, batch)[..., None], y], axis=-1)


def _transposed_matrix(problem: Problem) -> Array:
    """(W A)^T as a dense matrix, (*batch, 1 + T*n, rows).

    A row touches at most three consecutive time points. So the product with the sum of the unit vectors of every
    third point shows all entries of A in their columns, and 3n + 1 products show A.
    Source: Curtis, Powell, Reid, On the estimation of sparse Jacobian matrices, J. Inst. Math. Appl. 13 (1974) 117.
    """
    system, xp, batch = problem.system, problem.system.xp, problem.batch
    T, n = system.n_steps, system.n
    time = xp.arange(T, device=system.device)
    colour = xp.astype(time % 3 == xp.arange(3, device=system.device)[:, None], system.dtype)
    unit = xp.eye(n, dtype=system.dtype, device=system.device)
    combs = xp.reshape(colour[:, None, :, None] * unit[:, None, :], (3 * n, T * n))
    slack = xp.concat([xp.ones_like(combs[:1, :1]), xp.zeros_like(combs[:, :1])])
    combs = xp.concat([slack, xp.concat([xp.zeros_like(combs[:1, :]), combs])], axis=1)

    products, first_times = [], []
    for block, rank in zip(
        _product(problem, xp.reshape(combs, (3 * n + 1, *(1,) * len(batch), T * n + 1))), (2, 3, 3, 3, 2), strict=True
    ):
        core = tuple(block.shape[block.ndim - rank :])
        products.append(xp.reshape(xp.broadcast_to(block, (3 * n + 1, *batch, *core)), (3 * n + 1, *batch, size(core))))
        times = xp.reshape(time[: core[0]], (core[0], *(1,) * (rank - 1)))
        first_times.append(xp.reshape(xp.broadcast_to(times, core), (size(core),)))
    products = xp.permute_dims(xp.concat(products, axis=-1), (*range(1, len(batch) + 1), 0, len(batch) + 1))

    unknown = xp.arange(T * n, device=system.device)
    later = (unknown // n)[:, None] - xp.concat(first_times)
    touched = xp.astype((later >= 0) & (later < 3), system.dtype)
    touched = xp.concat([xp.ones_like(touched[:1, :]), touched])
    comb = xp.concat([xp.zeros_like(unknown[:1]), 1 + (unknown // n % 3) * n + unknown % n])
    return xp.take(products, comb, axis=-2) * touched


def _solve_densely(problem: Problem) -> Solved:
    xp = problem.system.xp
    At = _transposed_matrix(problem)
    L = xp.linalg.cholesky(At @ xp.matrix_transpose(At))

    def normal_solve(g: Array) -> Array:
        return _cholesky_solve(xp, L, g)

    return Solved(normal_solve(_transpose_product(problem, _right_hand_side(problem))), normal_solve)


DENSE = Method(_solve_densely, _product, _right_hand_side)


def _cholesky_solve(xp: Namespace, L: Array, b: Array) -> Array:
    """L L^T x = b for vectors b; by substitution on torch, elsewhere by what the standard has: a general solve."""
    if compat.is_torch_array(L):
        from ._torch import cholesky_solve

        return cholesky_solve(L, b)
    return xp.linalg.solve(xp.matrix_transpose(L), xp.linalg.solve(L, b[..., None]))[..., 0]


def _conjugate_gradient(
    xp: Namespace, product: Callable[[Array], Array], h: Array, max_iterations: int, tolerance: float, look: bool
) -> Array:
    """product(x) = h for vectors along the last axis, each system with its own step lengths.

    `look` says that values can be read: then it stops when all systems are done.

    Source: Hestenes, Stiefel, J. Res. Nat. Bur. Standards 49 (1952) 409.
    """

    def dot(a: Array, b: Array) -> Array:
        return xp.sum(a * b, axis=-1, keepdims=True)

    x, r, p, ρ = xp.zeros_like(h), h, h, dot(h, h)
    target = tolerance**2 * ρ
    one = xp.ones_like(ρ)
    for _ in range(max_iterations):
        active = ~(ρ <= target)  # NaN stays active, and shows in the result
        if look and not bool(xp.any(active)):
            break
        q = product(p)
        α = xp.where(active, ρ / xp.where(active, dot(p, q), one), xp.zeros_like(ρ))
        x, r = x + α * p, r - α * q
        ρ, before = dot(r, r), ρ
        p = r + ρ / xp.where(active, before, one) * p
    return x
