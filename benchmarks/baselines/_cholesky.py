"""The published scalable solver: block Cholesky on the normal equations, one time point after the other.

M = A^T W^2 A has n x n blocks D[t] on its diagonal and B[t] = M[t+1, t] below it. Its factor has the blocks L[t] on the
diagonal and W[t] below, with

    S[0] = D[0],   L[t] L[t]^T = S[t],   W[t] = B[t] L[t]^-T,   S[t+1] = D[t+1] - W[t] W[t]^T.

Forming M squares the condition number, and each step waits for the one before: what `smnn_core.solve_ode` avoids.
Source: Chen et al., ICLR 2025, arXiv:2410.06074.
"""

from __future__ import annotations

from typing import Any

import array_api_compat as compat

from smnn_core import _constraints as constraints
from smnn_core._arrays import Array, Namespace, Shape, powers, size
from smnn_core._problem import Problem, Rows, System
from smnn_core._weighting import weighted_problem

from ._implicit import Method, Solved, solve

__all__ = ["normal_equations", "smnn_cholesky"]


def smnn_cholesky(*arguments: Array, **options: Any) -> Array:
    """The solution of `solve_ode`, as published: block Cholesky on the normal equations, O(T) sequential steps.

    Arguments, result and errors are those of `smnn_core.solve_ode`, with `scheme=TAYLOR` where none is given, except
    where M is not positive definite in the arithmetic of the dtype, which happens long before the problem is singular:
    such batch members are NaN on torch tensors, on other arrays the namespace decides (NumPy raises
    numpy.linalg.LinAlgError).
    """
    return solve(CHOLESKY, weighted_problem(Problem.build(*arguments, **options)))


def normal_equations(*arguments: Array, **options: Any) -> tuple[Array, Array, Array]:
    """The block tridiagonal system M y = h with M = A^T W^2 A and h = A^T W^2 d that `smnn_cholesky` factors.

    Arguments and errors are those of `smnn_core.solve_ode`.

    Returns:
        D, (T, members, n, n), the diagonal blocks of M; B, (T-1, members, n, n), the blocks below; h, (T, members, n):
        time first, the batch flattened.
    """
    problem = weighted_problem(Problem.build(*arguments, **options))
    system, xp = problem.system, problem.system.xp
    h = _time_first(xp, _transpose_of_right_hand_side(problem), problem.batch, 2)
    return *_normal_blocks(system, problem.batch), xp.reshape(h, (*h.shape[:-2], system.n))


def _solve(problem: Problem) -> Solved:
    system = problem.system
    xp, batch, T, n = system.xp, problem.batch, system.n_steps, system.n
    factor = _factorize(xp, *_normal_blocks(system, batch))
    to_back = (*range(1, len(batch) + 1), 0, *range(len(batch) + 1, len(batch) + 3))

    def normal_solve(g: Array) -> Array:
        h = xp.reshape(_time_first(xp, g, batch, 2), (T, size(batch), n, 1))
        x = xp.reshape(_substitute(xp, factor, h), (T, *batch, system.V, system.K))
        return xp.permute_dims(x, to_back)

    return Solved(normal_solve(_transpose_of_right_hand_side(problem)), normal_solve)


def _transpose_of_right_hand_side(problem: Problem) -> Array:
    """A^T W^2 d."""
    d = constraints.weighted(problem.system.weights, problem.rows, 2)
    return constraints.apply_transpose(problem.system, d)


def _time_first(xp: Namespace, x: Array, batch: Shape, rank: int) -> Array:
    """(..., T, *core) with `rank` core axes, as (T, members, *core): all of one time point lies together."""
    time, lead = x.ndim - rank - 1, len(batch)
    core = tuple(x.shape[time + 1 :])
    x = xp.broadcast_to(x, (*batch, *x.shape[time:]))
    x = xp.permute_dims(x, (lead, *range(lead), *range(lead + 1, lead + 1 + rank)))
    return xp.reshape(x, (x.shape[0], size(batch), *core))


def _product(problem: Problem, x: Array) -> tuple[Array, ...]:
    return tuple(constraints.weighted(problem.system.weights, constraints.apply(problem.system, x)))


def _right_hand_side(problem: Problem) -> tuple[Array, ...]:
    d = constraints.weighted(problem.system.weights, problem.rows)
    return d.equation, d.initial, problem.system.constant(0.0)


CHOLESKY = Method(_solve, _product, _right_hand_side)


def _normal_blocks(system: System, batch: Shape) -> tuple[Array, Array]:
    """D and B of M = A^T W^2 A, time first: (T, members, n, n) and (T-1, members, n, n)."""
    xp, T, V, K, n = system.xp, system.n_steps, system.V, system.K, system.n
    w_equation: Array = system.weights.equation
    w_initial: Array = system.weights.initial
    w_smoothness: Array = system.weights.smoothness

    c = w_equation[..., None, None] * system.coefficients
    c = xp.reshape(c, (*c.shape[:-2], n))
    D = xp.broadcast_to(xp.matrix_transpose(c) @ c, (*batch, T, n, n))

    no_equation = xp.zeros((T, system.Q), dtype=system.dtype, device=system.device)
    ones = xp.ones((system.n_initial_steps, V, system.n_initial_orders), dtype=system.dtype, device=system.device)
    diagonal = constraints.apply_transpose(system, Rows(no_equation, w_initial**2 * ones, None))
    D = D + xp.reshape(diagonal, (*diagonal.shape[:-2], n, 1)) * xp.eye(n, dtype=system.dtype, device=system.device)

    p = powers(xp, system.step_sizes, K) * w_smoothness[..., None]
    p = xp.broadcast_to(p, (*p.shape[:-2], T - 1, K))
    pp = p[..., :, None] * p[..., None, :]
    F, G = system.smoothness_matrices
    same = xp.eye(V, dtype=system.dtype, device=system.device)[:, None, :, None]

    def per_variable(M: Array) -> Array:
        blocks = same * (M * pp)[..., None, :, None, :]
        return xp.reshape(blocks, (*pp.shape[:-2], n, n))

    mT = xp.matrix_transpose
    own, own_next = per_variable(mT(F) @ F), per_variable(mT(G) @ G)
    edge = xp.zeros_like(own[..., :1, :, :])
    D = D + xp.concat([own, edge], axis=-3) + xp.concat([edge, own_next], axis=-3)
    B = per_variable(mT(G) @ F)

    return _time_first(xp, D, batch, 2), _time_first(xp, B, batch, 2)


def _factorize(xp: Namespace, D: Array, B: Array) -> tuple[Array, ...]:
    """L, W (see the module) from D, B; on torch also which members failed."""
    if compat.is_torch_array(D):
        from ._torch import block_cholesky

        return block_cholesky(D, B)
    L, W = [xp.linalg.cholesky(D[0, ...])], []
    for t in range(B.shape[0]):
        W.append(xp.matrix_transpose(xp.linalg.solve(L[t], xp.matrix_transpose(B[t, ...]))))
        L.append(xp.linalg.cholesky(D[t + 1, ...] - W[t] @ xp.matrix_transpose(W[t])))
    return xp.stack(L), xp.stack(W)


def _substitute(xp: Namespace, factor: tuple[Array, ...], h: Array) -> Array:
    """M x = h for h of shape (T, members, n, 1), with the factor of `_factorize`."""
    L, W, *failed = factor
    if failed:
        from ._torch import substitute

        return xp.where(failed[0][:, None, None], xp.nan, substitute(L, W, h))
    x: list[Array] = []
    for t in range(L.shape[0]):
        h_t = h[t, ...] - W[t - 1, ...] @ x[-1] if x else h[t, ...]
        x.append(xp.linalg.solve(L[t, ...], h_t))
    for t in reversed(range(L.shape[0])):
        h_t = x[t] - xp.matrix_transpose(W[t, ...]) @ x[t + 1] if t + 1 < L.shape[0] else x[t]
        x[t] = xp.linalg.solve(xp.matrix_transpose(L[t, ...]), h_t)
    return xp.stack(x)
