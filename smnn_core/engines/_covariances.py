r"""Covariances, log det M and their derivatives, from the factor of elimination, level by level.

Elimination (`_odd_even`) leaves, for an eliminated point j between a and b, with p = (x[a], δ[b]), x for y and δ for
increments,

    e = J p + R^-1 ζ,    J = -[G E],   ζ standard normal given p,

and of p and e both pairs of the finer level are linear functions, T_1 and T_2 (see `_maps`):

    (x[a], δ[a to j]) = T_1 (p, e),      (x[j], δ[j to b]) = T_2 (p, e).

Covariances. If S S^T is the covariance Σ of p, that of (p, e) is

    S_3 S_3^T,    S_3 = [ S     0    ]
                        [ J S   R^-1 ]

and T_i S_3 are the factors of the finer pairs, triangularised by QR so that they do not grow. Nothing is subtracted:
variances cannot come out negative, and increments over short steps keep their own digits.

Derivative. Let H be symmetric with blocks in and beside the diagonal. d<H, Σ> = -<P, dM> with P = Σ H Σ, and
d log det M = <Σ, dM>. With B = W A, <Π, dM> = 2 <B Π, dB>: what is needed are B Σ and B P, the rows of the problem
times both, where they have entries. With h(y) = y^T H y and y of covariance Σ, Cov(y y^T, h) = 2 P. Given the coarser
pairs, the expectation of h is again such a form: with H_3 = T_1^T H_1 T_1 + T_2^T H_2 T_2 and its blocks H_pp, H_pe,
H_ep, H_ee, from fine to coarse

    F = H_ep + H_ee J,     H_coarse = H_pp + H_pe J + J^T F,                                    (`forms`)

and P of the triple has P_ep = J P_pp + N F Σ and P_ee = J P_pp J^T + N H_ee N + N F Σ J^T + J Σ F^T N, N = R^-1 R^-T.
The rows that touch j are Q [R (e - J p); C p], C the coarser level's, so that, from coarse to fine, their products with
the columns (p, e) of both are Q applied to                                                      (`rows_before`)

           Σ:  [ 0      R^-T   ]           P:  [ R^-T F Σ    R^-T (H_ee N + F Σ J^T)   ]
               [ C Σ    C Σ J^T ]               [ C P         C P J^T + C Σ F^T N       ]

orthogonal matrices and triangles alone: no row is multiplied by a covariance of unknowns, whose digits short steps
cancel.

Sources: Erisman, Tinney, Comm. ACM 18 (1975) 177, for the blocks (selected inversion); derived here for pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from operator import matmul
from typing import Any, NamedTuple

from .._arrays import Array, Namespace, power_derivatives, powers, sum_to_shape
from .._fields import FIELDS
from .._problem import Gradients, Rows, System, Weights
from ._increments import increment_rows, permuted, taylor
from ._odd_even import Level, interleave, pad
from ._statistics import core

__all__ = ["Covariances", "Form", "forms", "gradients_of_rows", "rows_before"]


Product = Callable[[Array, Array], Array]
"""Of matrices."""


class Form(NamedTuple):
    """The part of H that the derivative of an eliminated point takes: F, H_ee, and F Σ."""

    F: Array
    H_ee: Array
    F_Σ: Array


def forms(xp: Namespace, J: Array, H_pp: Array, H_ep: Array, H_ee: Array, dot: Product = matmul) -> tuple[Array, Array]:
    """F and H_coarse."""
    mT = xp.matrix_transpose
    F = H_ep + dot(H_ee, J)
    return F, H_pp + dot(mT(H_ep), J) + dot(mT(J), F)


def rows_before(
    xp: Namespace,
    J: Array,
    R_inverse: Array,
    of_coarser: Sequence[Array],
    form: Form | None,
    dot: Product = matmul,
) -> list[Array]:
    """The products of Q^T B with the columns (p, e) of Σ and, with a form, of P.

    Args:
        of_coarser: C Σ and C P, (..., rows, p): the products of the coarser level's rows with the columns p.

    Returns:
        (..., n + rows, p + n): those of the n rows R (e - J p), and those of C.
    """
    mT = xp.matrix_transpose
    C_Σ, *rest = of_coarser
    R_T, J_T = mT(R_inverse), mT(J)
    tops, columns = [(xp.zeros_like(J), R_T)], [dot(C_Σ, J_T)]
    if form is not None:
        N = dot(R_inverse, R_T)
        tops.append((dot(R_T, form.F_Σ), dot(R_T, dot(form.H_ee, N) + dot(form.F_Σ, J_T))))
        columns.append(dot(rest[0], J_T) + dot(dot(C_Σ, mT(form.F)), N))
    return [
        xp.concat([xp.concat(top, axis=-1), xp.concat([C, of_e], axis=-1)], axis=-2)
        for top, C, of_e in zip(tops, of_coarser, columns, strict=True)
    ]


class Covariances:
    """The blocks of Σ = M^-1 in and beside the diagonal, of a factor of `_odd_even`, computed when asked for."""

    def __init__(self, system: System, levels: Sequence[Level], last: Level) -> None:
        self.system, self.levels, self.last = system, levels, last

    @property
    def blocks(self) -> tuple[Array, Array]:
        """Σ_t, (*batch, T, n, n), and Σ_{t,t+1}, (*batch, T-1, n, n), unknowns ordered by variable, then derivative."""
        xp, n, T = self.system.xp, self.system.n, self.system.n_steps
        S, x_next = self._finest
        x = S[..., :n, :]
        diagonal, lag = (permuted(self.system, a @ xp.matrix_transpose(b)) for a, b in ((x, x), (x, x_next)))
        return diagonal, lag[..., : T - 1, :, :]

    def gradients(self, dΣ: Array | None, d_lag: Array | None, d_log_determinant: Array | None) -> Gradients:
        """Of the system, from those of `blocks` and of log det M (None is zero): `gradients_of_rows`."""
        system, xp, K = self.system, self.system.xp, self.system.K
        H = None if dΣ is None and d_lag is None else self._form(dΣ, d_lag)
        # the rows D S y + C S δ, S = diag(s^o); S Phi(s) = Phi(1) S
        _, C, D = (system.constant(M) for M in increment_rows(system.scheme, K))
        S, dS = (f(xp, system.step_sizes, K)[..., None, :] for f in (powers, power_derivatives))
        of_y = D * dS - (C * S) @ taylor(system, derivative=True)
        steps = xp.concat([D * S, C * S], axis=-1), xp.concat([of_y, C * dS], axis=-1)
        B_Σ, *B_P = self._rows_times(H)
        total: list[Array] = []
        for B_Π, g in (*((x, -1.0) for x in B_P), (B_Σ, d_log_determinant)):
            if g is not None:
                terms = _by_kind(system, *(x * (g if isinstance(g, float) else g[..., None, None, None]) for x in B_Π))
                total = [a + b for a, b in zip(total, terms, strict=True)] if total else terms
        return gradients_of_rows(system, Rows(*total), *steps)

    @cached_property
    def _factors(self) -> list[Array]:
        """Factors of the covariances of pairs, (..., P, 2n, k), before each level, coarse to fine."""
        xp, n = self.system.xp, self.system.n
        factors = [pad(xp, self.last.R_inverse, -2, 0, 2 * n)]  # the increment beyond the last point is zero
        for level in reversed(self.levels[1:]):
            S, _ = self._refined(level, factors[-1])
            factors.append(xp.matrix_transpose(xp.linalg.qr(xp.matrix_transpose(S), mode="reduced")[1]))
        return factors

    @cached_property
    def _finest(self) -> tuple[Array, Array]:
        """Factors of the pairs (y[t], increment), (..., T, 2n, k), and of y[t+1] with the same columns."""
        return self._refined(self.levels[0], self._factors[-1], following=True)

    def _refined(self, level: Level, S: Array, following: bool = False) -> tuple[Array, Array]:
        """Factors of the finer pairs, T_1 S_3 and T_2 S_3; and of the points that follow, if they are asked for."""
        xp, n, h = self.system.xp, self.system.n, level.R_inverse.shape[-3]
        width = S.shape[-1] + n
        pairs, rest = S[..., :h, :, :], pad(xp, S[..., h:, :, :], -1, 0, width)
        e = -level.G @ pairs[..., :n, :] - level.E @ pairs[..., n:, :]
        e = xp.concat([e, level.R_inverse], axis=-1)
        pairs = pad(xp, pairs, -1, 0, width)
        x_a, δ_b = pairs[..., :n, :], pairs[..., n:, :]
        predicted = level.Phi_a @ x_a
        x_j = predicted + e
        to_j, to_b = (level.dropped[..., i::2, :, :] for i in (0, 1))
        first = xp.concat([x_a, e + to_j @ x_a], axis=-2)
        second = xp.concat([x_j, δ_b - level.Phi_j @ e + to_b @ x_j], axis=-2)
        fine = xp.concat([interleave(xp, first, second, axis=-3), rest], axis=-3)
        if not following:
            return fine, fine
        points = interleave(xp, x_j, level.Phi_j @ predicted + δ_b, axis=-3)
        return fine, xp.concat([points, xp.zeros_like(rest[..., :n, :])], axis=-3)

    def _form(self, dΣ: Array | None, d_lag: Array | None) -> Array:
        """H of each pair (y[t], increment), (..., T, 2n, 2n), from gradients of the blocks."""
        system, xp, n, T = self.system, self.system.xp, self.system.n, self.system.n_steps
        mT = xp.matrix_transpose
        H = xp.zeros((T, 2 * n, 2 * n), dtype=system.dtype, device=system.device)
        if dΣ is not None:
            H = H + pad(xp, pad(xp, permuted(system, dΣ, back=True), -1, 0, 2 * n), -2, 0, 2 * n)
        if d_lag is not None:
            L = permuted(system, d_lag, back=True)
            L = pad(xp, xp.concat([L @ taylor(system), L], axis=-1), -2, 0, 2 * n)
            H = H + pad(xp, L, -3, 0, T)
        return (H + mT(H)) / 2

    def _rows_times(self, H: Array | None) -> list[tuple[Array, Array]]:
        """B Σ and, with a form H, B P: of own rows with their points, (..., T, mD, n), and of couplings with the pairs
        (y[t], increment), (..., T-1, mC, 2n)."""
        system, xp, n = self.system, self.system.xp, self.system.n
        mT, mD = xp.matrix_transpose, system.Q + system.V * system.n_initial_orders
        passed: list[tuple[Level, Array, Any]] = []
        for level in self.levels:
            J, h = -xp.concat([level.G, level.E], axis=-1), level.R_inverse.shape[-3]
            if H is None:
                passed.append((level, J, None))
                continue
            T_1, T_2 = _maps(system, level)
            H_3 = mT(T_1) @ H[..., 0 : 2 * h : 2, :, :] @ T_1 + mT(T_2) @ H[..., 1 : 2 * h : 2, :, :] @ T_2
            H_ee = H_3[..., 2 * n :, 2 * n :]
            F, coarse = forms(xp, J, H_3[..., : 2 * n, : 2 * n], H_3[..., 2 * n :, : 2 * n], H_ee)
            H = xp.concat([coarse, H[..., 2 * h :, :, :]], axis=-3)
            passed.append((level, J, (F, H_ee)))
        R_inverse = self.last.R_inverse
        tops = [mT(R_inverse)]
        if H is not None:
            tops.append(tops[0] @ H[..., :n, :n] @ R_inverse @ tops[0])
        rows = [self.last.Q[..., :n] @ top for top in tops]
        own = [x[..., :mD, :] for x in rows]
        coupling = [pad(xp, x[..., mD : mD + self.last.mC, :], -1, 0, 2 * n) for x in rows]
        for S, (level, J, of_H) in zip(self._factors, reversed(passed), strict=True):
            h, mC, S = level.R_inverse.shape[-3], level.mC, S[..., : level.R_inverse.shape[-3], :, :]
            form = None if of_H is None else Form(of_H[0], of_H[1], (of_H[0] @ S) @ mT(S))
            C = [x[..., :h, : level.Q.shape[-1] - n, :] for x in coupling]
            T_1, T_2 = map(mT, _maps(system, level))
            for i, x in enumerate(rows_before(xp, J, level.R_inverse, C, form)):
                x = level.Q @ x
                own[i] = interleave(xp, own[i], x[..., :mD, :] @ T_2[..., :n], axis=-3)
                fine = interleave(xp, x[..., mD : mD + mC, :] @ T_1, x[..., mD + mC : mD + 2 * mC, :] @ T_2, axis=-3)
                coupling[i] = xp.concat([fine, pad(xp, coupling[i][..., h:, :mC, :], -2, 0, mC)], axis=-3)
        return [(x, y[..., : system.n_steps - 1, :, :]) for x, y in zip(own, coupling, strict=True)]


def _maps(system: System, level: Level) -> tuple[Array, Array]:
    """T_1 and T_2, (..., P//2, 2n, 3n): the pairs (x[a], δ[a to j]) and (x[j], δ[j to b]) from (x[a], δ[b], e)."""
    xp, zero = system.xp, system.xp.zeros_like(level.Phi_a)
    one = zero + xp.eye(system.n, dtype=system.dtype, device=system.device)
    to_j, to_b = (level.dropped[..., i::2, :, :] for i in (0, 1))
    rows = [
        [one, zero, zero],
        [to_j, zero, one],
        [level.Phi_a, zero, one],
        [to_b @ level.Phi_a, one, to_b - level.Phi_j],
    ]
    rows = [xp.concat(row, axis=-1) for row in rows]
    return xp.concat(rows[:2], axis=-2), xp.concat(rows[2:], axis=-2)


def _by_kind(system: System, own: Array, coupling: Array) -> list[Array]:
    """Products of rows with unknowns, where rows have entries, see `gradients_of_rows`."""
    xp, V, K, R_init = system.xp, system.V, system.K, system.n_initial_orders

    def of_variables(x: Array, blocks: int) -> Array:
        """(..., V rows, blocks n), unknowns by derivative, as (..., rows, V, blocks K): of each row with its own."""
        lead = len(x.shape) - 2
        x = xp.reshape(x, (*x.shape[:-2], V, x.shape[-2] // V, blocks, K, V))
        x = xp.permute_dims(x, (*range(lead), *(lead + i for i in (1, 2, 3, 0, 4))))
        x = xp.linalg.diagonal(x)  # (..., rows, blocks, K, V)
        x = xp.permute_dims(x, (*range(lead), *(lead + i for i in (0, 3, 1, 2))))
        return xp.reshape(x, (*x.shape[:-2], blocks * K))

    equation = xp.reshape(own[..., : system.Q, :], (*own.shape[:-2], system.Q, K, V))
    initial = of_variables(own[..., : system.n_initial_steps, system.Q :, :], 1)  # (..., R_init, V, K)
    lead = initial.ndim - 3
    initial = xp.permute_dims(initial, (*range(lead), lead + 1, lead, lead + 2))
    initial = xp.linalg.diagonal(initial[..., :R_init])
    return [xp.matrix_transpose(equation), initial, of_variables(coupling, 2)]


def gradients_of_rows(system: System, B_Π: Rows, steps: Array, of_steps: Array) -> Gradients:
    """2 <B Π, dB> for each member: the gradients of the system, (*batch, *core), core as of the inputs.

    Args:
        B_Π: products of rows with the unknowns of their entries: of equations (..., T, Q, V, K), of initial values
            (..., T_init, V, R_init), of the rows of a step (..., T-1, rows, V, 2K).
        steps: the entries of these rows, without weights, (..., T-1 or 1, rows, 2K).
        of_steps: and their derivatives in the step.
    """
    xp, w = system.xp, system.weights
    equation, initial, coupling = (2 * x for x in B_Π)
    v = w.smoothness
    found = (
        w.equation[..., None, None] * equation,
        v * xp.sum(coupling * of_steps[..., None, :], axis=(-3, -2, -1)),
        xp.sum(equation * system.coefficients, axis=(-2, -1)),
        initial,
        xp.sum(coupling * steps[..., None, :], axis=(-3, -2, -1)),
    )
    fields = (FIELDS[name] for name in system.inputs)
    c, s, *weights = (
        sum_to_shape(xp, x, (*x.shape[: x.ndim - field.rank], *core(like, field.rank)))
        for x, like, field in zip(found, system.inputs.values(), fields, strict=True)
    )
    return Gradients(c, None, None, s, Weights(*weights))
