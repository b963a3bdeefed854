"""Odd-even orthogonal elimination by increments, as functions of arrays.

The rows W A of the problem, on P = T points with n unknowns each, are kept as

    own[j]                                          rows that touch point j only                       (mD, n)
    C[j] (y[j+1] - Phi[j] y[j]) + D[j] y[j]         rows that couple point j to point j+1              (mC, n) each

where Phi[j] y[j] predicts y[j+1]: at first by the Taylor polynomial, for which all rows of a scheme vanish that is
exact for polynomials of degree R, so that D = 0. One level eliminates every odd point j. With a and b for its
neighbours, y[j] = Phi[a] y[a] + e and y[b] = Phi[j] Phi[a] y[a] + δ the rows that touch it are

                e                δ       y[a]
    [ own[j]               0      own[j] Phi[a] ]
    [ C[a]                 0      D[a]          ]  =  Q [ R  E   G  ]      R (n, n) upper triangular
    [ D[j] - C[j] Phi[j]   C[j]   D[j] Phi[a]   ]       [ 0  C'  D' ]      at most 2n rows

n rows that express e by its neighbours, and new coupling rows between them, with the prediction Phi[j] Phi[a]: a
problem of the same form on the even points. log2(T) levels, then one point, then back substitution level by level.
Source: Gargir, Toledo, Parallel-in-Time Kalman Smoothing Using Orthogonal Transformations, IPDPS 2025; for the
increments e, δ in place of y, and for what follows, docs/theory/elimination.md.

Where P is even the last odd point has no right neighbour; from then on the last coupling leads to a phantom point
(zero columns), so that all points are treated alike. Unknowns are ordered by derivative, then by variable.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import array_api_compat as compat

from .._arrays import Array, Namespace, is_tracer
from .._problem import System


class Couplings(NamedTuple):
    """Rows C (y[j+1] - Phi y[j]) + D y[j] for the points j = 0, 1, ...; the last may lead beyond the last point."""

    C: Array
    """(..., N, mC, n)"""
    D: Array
    """(..., N, mC, n)"""
    Phi: Array
    """(..., N, n, n)"""


@dataclass(frozen=True, eq=False)
class Level:
    """One level of elimination: the factor of its odd points j, a and b their neighbours (see the module)."""

    Q: Array
    """(..., P//2, M, k)"""
    R_inverse: Array
    """(..., P//2, n, n)"""
    E: Array
    """(..., P//2, n, n): R^-1 E, the part of δ in e"""
    G: Array
    """(..., P//2, n, n): R^-1 G, the part of y[a] in e"""
    Phi_a: Array
    """(..., P//2, n, n): y[j] = Phi_a y[a] + e"""
    Phi_j: Array
    """(..., P//2, n, n): y[b] = Phi_j y[j] + (the increment from j to b)"""
    dropped: Array
    """(..., 2 (P//2), n, n): Phi_a and Phi_j, interleaved, less what they were on the level before"""
    pivots: Array
    """(..., P//2, n): the diagonal of R"""
    sizes: Array
    """(..., P//2, n): the largest entry of each unknown in the rows, of y[j], y[b] and y[a] together"""
    mC: int
    """rows of a coupling of this level"""


def eliminate(system: System, own: Array, couplings: Couplings) -> tuple[list[Level], Array, Couplings]:
    """Eliminates all points but the first: the levels, and what is left of own rows and couplings.

    Where there are as many couplings as points the last one leads to a point that is not among them, which stays.
    """
    levels = []
    while own.shape[-3] > 1:
        level, couplings = _eliminate(system, own, couplings)
        levels.append(level)
        own = own[..., ::2, :, :]
    return levels, own, couplings


def eliminate_last(system: System, own: Array, couplings: Couplings) -> Level:
    """The factor of the one point that is left, whose E and G are empty."""
    rows = last_rows(system.xp, system.n, own, couplings.D)
    Q, R_inverse, _, pivots = triangularise(system, rows)
    none = R_inverse[..., :0]
    return Level(Q, R_inverse, none, none, none, none, none, pivots, _largest(system.xp, rows), couplings.D.shape[-2])


def reflect(
    xp: Namespace, n: int, levels: Sequence[Level], own: Array, coupling: Array
) -> tuple[list[Array], Array, Array]:
    """Q^T applied to right-hand sides (..., P, rows, columns) of own rows and couplings, level by level.

    Returns those of the eliminated points, and those of the first point and its coupling.
    """
    z = []
    for level in levels:
        P = own.shape[-3]
        h, coupling = P // 2, _with_phantom(xp, P, coupling)
        a, j = (coupling[..., i : 2 * h : 2, :, :] for i in (0, 1))
        rows = pad(xp, xp.concat([own[..., 1::2, :, :], a, j], axis=-2), -2, 0, n)
        rows = xp.matrix_transpose(level.Q) @ rows
        z.append(rows[..., :n, :])
        coupling = _next(xp, h, coupling, rows[..., n:, :])
        own = own[..., ::2, :, :]
    return z, own, coupling


def substitute_back(
    xp: Namespace, levels: Sequence[Level], z: Sequence[Array], x: Array, δ: Array
) -> tuple[Array, Array]:
    """x at all points, and increments, from z, x at the first point and the increment to the one beyond the last.

    Increments are carried from level to level: as differences of x they would have lost the digits that x shares.
    """
    for level, z_j in zip(reversed(levels), reversed(z), strict=True):
        h = z_j.shape[-3]
        x_a, δ_b = x[..., :h, :, :], δ[..., :h, :, :]
        e = level.R_inverse @ z_j - level.E @ δ_b - level.G @ x_a
        x = interleave(xp, x, level.Phi_a @ x_a + e, axis=-3)
        both = interleave(xp, e, δ_b - level.Phi_j @ e, axis=-3) + level.dropped @ x[..., : 2 * h, :, :]
        δ = xp.concat([both, δ[..., h:, :, :]], axis=-3)
    return x, δ


def substitute_transposed(
    xp: Namespace, levels: Sequence[Level], g: Array, g_δ: Array | None = None
) -> tuple[list[Array], Array, Array]:
    """The transpose of `substitute_back`: R^T w = g.

    Args:
        g: (..., P, n, columns).
        g_δ: the same for the increments from each point to the next, None for zeros.

    Returns:
        w of the eliminated points, and what is left of g at the first point and at its increment.
    """
    mT = xp.matrix_transpose
    w = []
    g_δ = xp.zeros_like(g) if g_δ is None else g_δ
    for level in levels:
        P = g.shape[-3]
        h = P // 2
        g = g + pad(xp, mT(level.dropped) @ g_δ[..., : 2 * h, :, :], -3, 0, P)
        g_j, at_a, at_j = g[..., 1::2, :, :], g_δ[..., 0 : 2 * h : 2, :, :], g_δ[..., 1 : 2 * h : 2, :, :]
        g_e = g_j + at_a - mT(level.Phi_j) @ at_j
        to_a = mT(level.Phi_a) @ g_j - mT(level.G) @ g_e
        g = g[..., ::2, :, :] + pad(xp, to_a, -3, 0, P - h)
        g_δ = xp.concat([at_j - mT(level.E) @ g_e, g_δ[..., 2 * h :, :, :]], axis=-3)
        w.append(mT(level.R_inverse) @ g_e)
    return w, g, g_δ


def reflect_back(
    xp: Namespace, levels: Sequence[Level], last: Level, w: Sequence[Array], w_last: Array, mD: int
) -> tuple[Array, Array]:
    """The transpose of `reflect`: Q applied to w of the eliminated points and of the last; own rows and couplings."""
    rows = last.Q[..., : w_last.shape[-2]] @ w_last
    own, coupling = rows[..., :mD, :], rows[..., mD : mD + last.mC, :]
    for level, w_j in zip(reversed(levels), reversed(w), strict=True):
        h, n, mC = w_j.shape[-3], w_j.shape[-2], level.mC
        rows = xp.concat([w_j, coupling[..., :h, : level.Q.shape[-1] - n, :]], axis=-2)
        rows = level.Q @ rows
        own = interleave(xp, own, rows[..., :mD, :], axis=-3)
        a, j = (rows[..., i : i + mC, :] for i in (mD, mD + mC))
        beyond = pad(xp, coupling[..., h:, :mC, :], -2, 0, mC)
        coupling = xp.concat([interleave(xp, a, j, axis=-3), beyond], axis=-3)
    return own, coupling


def _eliminate(system: System, own: Array, couplings: Couplings) -> tuple[Level, Couplings]:
    """One level: eliminates the odd points; the couplings between the even ones are left."""
    xp, n, P = system.xp, system.n, own.shape[-3]
    odd, h = own[..., 1::2, :, :], P // 2
    couplings = Couplings(*(_with_phantom(xp, P, x) for x in couplings))
    both, dropped = _drop(xp, Couplings(*(x[..., : 2 * h, :, :] for x in couplings)))
    a, j = (Couplings(*(x[..., i::2, :, :] for x in both)) for i in (0, 1))
    zeros = xp.zeros_like
    rows = [
        xp.concat([odd, zeros(odd), odd @ a.Phi], axis=-1),
        xp.concat([a.C, zeros(a.C), a.D], axis=-1),
        xp.concat([j.D - j.C @ j.Phi, j.C, j.D @ a.Phi], axis=-1),
    ]
    rows = pad(xp, xp.concat(rows, axis=-2), -2, 0, n)
    Q, R_inverse, others, pivots = triangularise(system, rows)
    E, G, C, D = others[..., :n, :n], others[..., :n, n:], others[..., n:, :n], others[..., n:, n:]
    sizes = _largest(xp, rows)
    sizes = xp.max(xp.reshape(sizes, (*sizes.shape[:-1], 3, n)), axis=-2)
    level = Level(Q, R_inverse, E, G, a.Phi, j.Phi, dropped, pivots, sizes, couplings.C.shape[-2])
    new = Couplings(C, D, j.Phi @ a.Phi)
    return level, Couplings(*(_next(xp, h, old, x) for old, x in zip(couplings, new, strict=True)))


def _drop(xp: Namespace, couplings: Couplings) -> tuple[Couplings, Array]:
    """Drops columns of Phi where the rows get smaller in y[a] by that; also what was added to Phi."""
    C, D, Phi = couplings
    without = D - C @ Phi
    drop = (_largest(xp, without) < _largest(xp, D))[..., None, :]
    dropped = xp.where(drop, -Phi, xp.zeros_like(Phi))
    return Couplings(C, xp.where(drop, without, D), Phi + dropped), dropped


def _largest(xp: Namespace, x: Array) -> Array:
    """The largest entry of each column, (..., n); 0 where there are no rows."""
    return xp.max(xp.abs(pad(xp, x, -2, 0, 1)), axis=-2)


def triangularise(system: System, rows: Array) -> tuple[Array, Array, Array, Array]:
    """Q R of rows (..., M, n + others), sorted by size.

    Returns Q, R^-1, the other columns of R, those of the first n rows times R^-1, and the diagonal of R.
    """
    xp, n = system.xp, system.n
    by_size = xp.argsort(xp.max(xp.abs(rows[..., :n]), axis=-1), axis=-1, descending=True, stable=True)
    Q, full = xp.linalg.qr(_take_rows(xp, rows, by_size), mode="reduced")
    Q = _take_rows(xp, Q, xp.argsort(by_size, axis=-1))
    R, others = full[..., :n, :n], full[..., n:]
    pivots = xp.linalg.diagonal(R)
    one = xp.eye(n, dtype=rows.dtype, device=system.device)
    # a one on the diagonal keeps the solve from failing; the result is set to NaN where it was needed
    R = R + one * xp.astype(pivots == 0, rows.dtype)[..., None, :]
    inverse = xp.linalg.solve(R, xp.concat([xp.broadcast_to(one, R.shape), others[..., :n, :]], axis=-1))
    R_inverse, others = inverse[..., :n], xp.concat([inverse[..., n:], others[..., n:, :]], axis=-2)
    return Q, R_inverse, others, pivots


def _take_rows(xp: Namespace, x: Array, order: Array) -> Array:
    return xp.take_along_axis(x, xp.broadcast_to(order[..., None], (*order.shape, x.shape[-1])), axis=-2)


def _with_phantom(xp: Namespace, P: int, coupling: Array) -> Array:
    """Couplings of P points; where P is even, with one that leads beyond the last."""
    return pad(xp, coupling, -3, 0, P) if P % 2 == 0 else coupling


def _next(xp: Namespace, h: int, old: Array, new: Array) -> Array:
    """The couplings of the next level: the new ones and, where there is one, that of the last point if it stays."""
    if old.shape[-3] == 2 * h:
        return new
    count = max(new.shape[-2], old.shape[-2])
    return xp.concat([pad(xp, new, -2, 0, count), pad(xp, old[..., 2 * h :, :, :], -2, 0, count)], axis=-3)


def last_rows(xp: Namespace, n: int, own: Array, coupling: Array) -> Array:
    """The rows of the one point that is left: its own and those of its coupling to the phantom, at least n."""
    rows = xp.concat([own, coupling], axis=-2) if coupling.shape[-3] else own
    return pad(xp, rows, -2, 0, n)


def pad(xp: Namespace, x: Array, axis: int, before: int, total: int) -> Array:
    """x with zeros added along an axis: `before` of them in front, then behind until it has `total`."""
    after = total - before - x.shape[axis]
    pieces = [x]
    for count, where in ((before, 0), (after, 2)):
        if count > 0:
            shape = list(x.shape)
            shape[axis] = count
            zeros = xp.zeros(shape, dtype=x.dtype, device=None if is_tracer(x) else compat.device(x))
            pieces = [zeros, *pieces] if where == 0 else [*pieces, zeros]
    return xp.concat(pieces, axis=axis) if len(pieces) > 1 else x


def interleave(xp: Namespace, even: Array, odd: Array, axis: int) -> Array:
    """even[0], odd[0], even[1], ... along an axis; `even` has as many entries as `odd` or one more."""
    axis = axis % even.ndim
    shape, count = list(even.shape), even.shape[axis] + odd.shape[axis]
    if odd.shape[axis] < even.shape[axis]:
        filler = even[(*(slice(None),) * axis, slice(-1, None), ...)]
        odd = xp.concat([odd, filler], axis=axis)
    shape[axis] = 2 * even.shape[axis]
    both = xp.reshape(xp.stack([even, odd], axis=axis + 1), tuple(shape))
    return both[(*(slice(None),) * axis, slice(0, count), ...)]
