"""The blocks of M^-1 in and beside the diagonal, as sums of squares, and their derivative, level by level.

Elimination (`_odd_even`) leaves, for an eliminated point j between a and b, with x for y, δ for increments,

    e = J (x[a], δ[b]) + R^-1 ζ,    J = -[G E],   ζ standard normal given x[a] and δ[b],

and of e and the pair (x[a], δ[b]) both pairs of the finer level are linear functions, T_1 and T_2 (see `_maps`):

    (x[a], δ[a to j]) = T_1 (x[a], δ[b], e),      (x[j], δ[j to b]) = T_2 (x[a], δ[b], e).

Covariances. If S S^T is the covariance of the pair (x[a], δ[b]), that of the triple is

    S_3 S_3^T,    S_3 = [ S     0    ]
                        [ J S   R^-1 ]

and T_i S_3 are the factors of the finer pairs, triangularised by QR so that they do not grow. Nothing is subtracted:
variances cannot come out negative, and increments over short steps keep their own digits.

Derivative. Let H be symmetric with blocks in and beside the diagonal. d<H, Σ> = -<P, dM> with P = Σ H Σ, of which the
same blocks are needed, as M has no others. With h(y) = y^T H y and y of covariance Σ, Cov(y y^T, h) = 2 P. Given the
coarser pairs, the expectation of h is again such a form, h_coarse. So: with H_3 = T_1^T H_1 T_1 + T_2^T H_2 T_2 of the
triple, its blocks H_3 = [ H_pp H_pe ; H_ep H_ee ] and N = R^-1 R^-T, from fine to coarse

    F = H_ep + H_ee J,     H_coarse = H_pp + H_pe J + J^T F,

and then from coarse to fine, where P and Σ are those of the pair,

    P_3 = [I ; J] P [I ; J]^T + [ 0        Σ F^T N                              ]
                                [ N F Σ    N H_ee N + N F Σ J^T + J Σ F^T N     ],     P_i = T_i P_3 T_i^T.

Sources: Erisman, Tinney, Comm. ACM 18 (1975) 177, for the blocks (selected inversion); derived here for pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from math import factorial

from .._arrays import Array, power_derivatives, powers, sum_to_shape
from .._problem import Gradients, System, Weights
from ._increments import increment_rows
from ._odd_even import Level, interleave, pad

__all__ = ["RoundedSelectedInverse", "SelectedInverse"]


class SelectedInverse:
    """The blocks of Σ = M^-1 in and beside the diagonal, and log det M, of a factored system; computed when asked for.

    Members of the batch whose system is undetermined are NaN.
    """

    def __init__(self, system: System, levels: Sequence[Level], last: Level, undetermined: Array) -> None:
        self.system, self.levels, self.last = system, levels, last
        self._bad = system.xp.any(undetermined, axis=-1)

    @cached_property
    def log_determinant(self) -> Array:
        """log det M, (*batch,)."""
        xp = self.system.xp
        logs = [xp.log(xp.abs(xp.linalg.diagonal(x.R_inverse))) for x in (*self.levels, self.last)]
        return self._valid(-2 * sum(xp.sum(x, axis=(-2, -1)) for x in logs), 0)

    @cached_property
    def blocks(self) -> tuple[Array, Array]:
        """Σ_t, (*batch, T, n, n), and Σ_{t,t+1}, (*batch, T-1, n, n), unknowns ordered by variable, then derivative."""
        xp, n, T = self.system.xp, self.system.n, self.system.n_steps
        S, x_next = self._finest
        x = S[..., :n, :]
        diagonal, lag = (_public(self.system, a @ xp.matrix_transpose(b)) for a, b in ((x, x), (x, x_next)))
        return self._valid(diagonal, 3), self._valid(lag[..., : T - 1, :, :], 3)

    @property
    def variance(self) -> Array:
        """The diagonal of the first of `blocks`, (*batch, T, n)."""
        return self.system.xp.linalg.diagonal(self.blocks[0])

    def pullback(self, dΣ: Array | None, d_lag: Array | None, d_log_determinant: Array | None) -> Gradients:
        """The gradients with respect to the system, from those of `blocks` and of `log_determinant`; None is zero."""
        xp, system = self.system.xp, self.system
        mT, Π = xp.matrix_transpose, 0.0
        if d_log_determinant is not None:
            S, _ = self._finest
            Π = d_log_determinant[..., None, None, None] * (S @ mT(S))
        if dΣ is not None or d_lag is not None:
            Π = Π - self._sandwich(self._form(dΣ, d_lag))
        return gradients_of_rows(system, self._valid(Π, 3))

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
            H = H + pad(xp, pad(xp, _private(system, dΣ), -1, 0, 2 * n), -2, 0, 2 * n)
        if d_lag is not None:
            L = _private(system, d_lag)
            L = pad(xp, xp.concat([L @ taylor(system), L], axis=-1), -2, 0, 2 * n)
            H = H + pad(xp, L, -3, 0, T)
        return (H + mT(H)) / 2

    def _sandwich(self, H: Array) -> Array:
        """P = Σ H Σ of each pair (y[t], increment), (..., T, 2n, 2n)."""
        xp, n = self.system.xp, self.system.n
        mT = xp.matrix_transpose
        saved = []
        for level in self.levels:
            h = level.R_inverse.shape[-3]
            T_1, T_2 = _maps(self.system, level)
            H_3 = mT(T_1) @ H[..., 0 : 2 * h : 2, :, :] @ T_1 + mT(T_2) @ H[..., 1 : 2 * h : 2, :, :] @ T_2
            J = -xp.concat([level.G, level.E], axis=-1)
            H_ee = H_3[..., 2 * n :, 2 * n :]
            F = H_3[..., 2 * n :, : 2 * n] + H_ee @ J
            coarse = H_3[..., : 2 * n, : 2 * n] + H_3[..., : 2 * n, 2 * n :] @ J + mT(J) @ F
            H = xp.concat([coarse, H[..., 2 * h :, :, :]], axis=-3)
            saved.append((level, J, H_ee, F))
        N = self.last.R_inverse @ mT(self.last.R_inverse)
        P = pad(xp, pad(xp, N @ H[..., :n, :n] @ N, -1, 0, 2 * n), -2, 0, 2 * n)
        for S, (level, J, H_ee, F) in zip(self._factors, reversed(saved), strict=True):
            h = level.R_inverse.shape[-3]
            a, S = P[..., :h, :, :], S[..., :h, :, :]
            N = level.R_inverse @ mT(level.R_inverse)
            NFΣ = ((N @ F) @ S) @ mT(S)
            ep = J @ a + NFΣ
            K = NFΣ @ mT(J)
            T_1, T_2 = _maps(self.system, level)
            ee = J @ a @ mT(J) + N @ H_ee @ N + K + mT(K)
            P_3 = xp.concat([xp.concat([a, mT(ep)], axis=-1), xp.concat([ep, ee], axis=-1)], axis=-2)
            fine = interleave(xp, T_1 @ P_3 @ mT(T_1), T_2 @ P_3 @ mT(T_2), axis=-3)
            P = xp.concat([fine, P[..., h:, :, :]], axis=-3)
        return P

    def _valid(self, x: Array, rank: int) -> Array:
        """x with `rank` axes behind those of the batch; NaN for undetermined members."""
        xp = self.system.xp
        return xp.where(self._bad[(..., *(None,) * rank)], self.system.constant(xp.nan), x)


class RoundedSelectedInverse:
    """The selected inverse in float64 of a system in float32: what goes in is widened, what comes out rounded once."""

    def __init__(self, system: System, wide: SelectedInverse) -> None:
        self.system, self.wide = system, wide

    @property
    def log_determinant(self) -> Array:
        return self._rounded(self.wide.log_determinant)

    @property
    def blocks(self) -> tuple[Array, Array]:
        diagonal, lag = self.wide.blocks
        return self._rounded(diagonal), self._rounded(lag)

    @property
    def variance(self) -> Array:
        return self._rounded(self.wide.variance)

    def pullback(self, dΣ: Array | None, d_lag: Array | None, d_log_determinant: Array | None) -> Gradients:
        xp = self.system.xp
        given = (None if x is None else xp.astype(x, xp.float64) for x in (dΣ, d_lag, d_log_determinant))
        c, _, _, s, w = self.wide.pullback(*given)
        weights = Weights(*map(self._rounded, vars(w).values()))
        return Gradients(self._rounded(c), None, None, self._rounded(s), weights)

    def _rounded(self, x: Array) -> Array:
        return self.system.xp.astype(x, self.system.dtype)


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


def gradients_of_rows(system: System, Π: Array) -> Gradients:
    """The gradients of L with respect to the system, for dL = 2 <B Π, dB> with B = W A.

    Args:
        Π: (..., T, 2n, 2n), symmetric, of the pairs (y[t], increment to y[t+1]).
    """
    xp, n = system.xp, system.n
    w = system.weights
    of_points = _public(system, Π[..., :n, :n])
    c = xp.reshape(system.coefficients, (*system.coefficients.shape[:-2], n))
    cΠ = c @ of_points
    dc = xp.reshape((w.equation**2)[..., None] * cΠ, (*cΠ.shape[:-1], system.V, system.K))
    diagonal = xp.reshape(xp.linalg.diagonal(of_points), (*of_points.shape[:-2], system.V, system.K))
    of_initial = w.initial * diagonal[..., : system.n_initial_steps, :, : system.n_initial_orders]
    ds, of_smoothness = _gradients_of_smoothness(system, Π[..., : system.n_steps - 1, :, :])

    def gradient(x: Array, like: Array) -> Array:
        return sum_to_shape(xp, 2 * x, tuple(like.shape))

    weights = Weights(
        gradient(w.equation * xp.sum(cΠ * c, axis=-1), w.equation),
        gradient(of_initial, w.initial),
        gradient(of_smoothness, w.smoothness),
    )
    return Gradients(gradient(dc, system.coefficients), None, None, gradient(ds, system.step_sizes), weights)


def _gradients_of_smoothness(system: System, Π: Array) -> tuple[Array, Array]:
    """The halves of dL with respect to step sizes and weights of smoothness, (..., T-1), of `gradients_of_rows`.

    The rows, D S y[t] + C S (increment), have the derivative (D S' - C S Phi') y[t] + C S' (increment) in s, as
    S Phi(s) = Phi(1) S.
    """
    xp, V, K = system.xp, system.V, system.K
    lead = tuple(Π.shape[:-2])
    axes = len(lead)
    Π = xp.reshape(Π, (*lead, 2, K, V, 2, K, V))
    Π = xp.permute_dims(Π, (*range(axes), *(axes + i for i in (0, 1, 3, 4, 2, 5))))
    Π = xp.reshape(xp.linalg.diagonal(Π), (*lead, 2 * K, 2 * K, V))  # rows concern one variable each
    Π = xp.permute_dims(Π, (*range(axes), axes + 2, axes, axes + 1))
    _, C, D = (system.constant(M) for M in increment_rows(system.scheme, K))
    s, w = system.step_sizes, system.weights.smoothness
    p, dp = (f(xp, s, K)[..., None, :] for f in (powers, power_derivatives))
    dPhi = taylor(system, derivative=True)
    A = xp.concat([D * p, C * p], axis=-1)[..., None, :, :]
    dA = xp.concat([D * dp - (C * p) @ dPhi, C * dp], axis=-1)[..., None, :, :]
    AΠ = A @ Π
    axes_of_rows = (-3, -2, -1)
    return w**2 * xp.sum(AΠ * dA, axis=axes_of_rows), w * xp.sum(AΠ * A, axis=axes_of_rows)


def taylor(system: System, derivative: bool = False) -> Array:
    """Phi of each step, which predicts y[t+1] from y[t]: for all unknowns; or its derivative in s for one variable.

    (..., T-1 or 1, n, n), or (..., T-1 or 1, K, K).
    """
    xp, V, K, s = system.xp, system.V, system.K, system.step_sizes
    p = (power_derivatives if derivative else powers)(xp, s, K)
    zero = xp.zeros_like(s)
    rows = [[p[..., o - r] / factorial(o - r) if o >= r else zero for o in range(K)] for r in range(K)]
    Phi = xp.stack([xp.stack(row, axis=-1) for row in rows], axis=-2)
    if derivative:
        return Phi
    Phi = Phi[..., :, None, :, None] * xp.eye(V, dtype=system.dtype, device=system.device)[:, None, :]
    return xp.reshape(Phi, (*s.shape, K * V, K * V))


def _public(system: System, x: Array) -> Array:
    """(..., n, n) with unknowns ordered by derivative, as ordered by variable."""
    return _reordered(system, x, system.K, system.V)


def _private(system: System, x: Array) -> Array:
    """The inverse of `_public`."""
    return _reordered(system, x, system.V, system.K)


def _reordered(system: System, x: Array, outer: int, inner: int) -> Array:
    if 1 in (outer, inner):
        return x
    xp, lead = system.xp, tuple(x.shape[:-2])
    x = xp.reshape(x, (*lead, outer, inner, outer, inner))
    axes = len(lead)
    return xp.reshape(
        xp.permute_dims(x, (*range(axes), axes + 1, axes, axes + 3, axes + 2)), (*lead, system.n, system.n)
    )
