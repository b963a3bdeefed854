"""Odd-even orthogonal elimination in array API calls: any namespace, traceable, the oracle of the compiled engines.

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

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from math import factorial
from typing import NamedTuple

import array_api_compat as compat
import numpy as np

from .._arrays import Array, Namespace, Shape, broadcast_shapes, is_tracer, powers, size
from .._constraints import apply, apply_transpose, weighted
from .._gradient import solve_pullback
from .._problem import Gradients, Problem, Rows, System, Weights
from .._schemes import Scheme
from ._contract import ALL, by_field, from_fields

name = "array_api"


def refusal(system: System) -> str | None:
    """This engine serves everything."""
    return None


def describe() -> str:
    """One line for `show_config`."""
    return "available: odd-even elimination in array API calls, any namespace and size"


class Couplings(NamedTuple):
    """Rows C (y[j+1] - Phi y[j]) + D y[j] for the points j = 0, 1, ...; the last may lead beyond the last point."""

    C: Array
    """(..., N, mC, n)"""
    D: Array
    """(..., N, mC, n)"""
    Phi: Array
    """(..., N, n, n)"""
    noise: Array
    """(..., N, mC, n): squares of the rounding errors of D, in units of eps and of the largest entry of W A"""


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
    undetermined: Array
    """(..., P//2) bool"""
    mC: int
    """rows of a coupling of this level"""


@dataclass(frozen=True, eq=False)
class ArrayFactor:
    """The factor of a system: see `engines._contract.Factor`."""

    system: System
    levels: tuple[Level, ...]
    last: Level
    """the one point that is left; its E and G are empty"""
    undetermined: Array = field(init=False)

    def __post_init__(self) -> None:
        xp = self.system.xp
        flags = self.last.undetermined
        for level in reversed(self.levels):
            flags = _interleave(xp, flags, level.undetermined, axis=flags.ndim - 1)
        object.__setattr__(self, "undetermined", flags)

    def solve(self, d: Rows) -> Array:
        """argmin_y |W (A y - d)|, with one step of iterative refinement.

        Elimination mixes rows, so that the rows of higher order, small by s^r, are perturbed by eps |y|. The residual
        is computed row by row, without mixing: one correction gains two digits where derivatives are high and steps
        are small.
        """
        y = self._solve(d)
        Ay = apply(self.system, y)
        smoothness = -Ay.smoothness if d.smoothness is None else d.smoothness - Ay.smoothness
        return y + self._solve(Rows(d.equation - Ay.equation, d.initial - Ay.initial, smoothness))

    def _solve(self, d: Rows) -> Array:
        system, xp, n = self.system, self.system.xp, self.system.n
        columns, own, coupling = _right_hand_side(system, d)
        levels, last = columns.factor(self)
        z, own, coupling = reflect(xp, n, levels, own, coupling)
        rows = xp.matrix_transpose(last.Q) @ last_rows(xp, n, own, coupling)
        return self._substitute_back(columns, levels, z, last.R_inverse @ rows[..., :n, :])

    def normal_solve(self, g: Array) -> Array:
        xp = self.system.xp
        batch = broadcast_shapes({"system": self.system.batch, "g": tuple(g.shape[:-3])})
        columns = _Columns(xp, self.system.batch, batch)
        levels, last = columns.factor(self)
        w, w_last = self._transposed(levels, last, columns.gather(flatten(xp, g), 2))
        z = [level.R_inverse @ x for level, x in zip(levels, w, strict=True)]
        return self._substitute_back(columns, levels, z, last.R_inverse @ w_last)

    def adjoint_rows(self, g: Array) -> Rows:
        """v = (W A)^+^T g = Q R^-T g, for g of shape (..., T, V, K), refined once by v += (W A)^+^T (g - (W A)^T v)."""
        system = self.system
        v = self._adjoint_rows(g)
        rest = g - apply_transpose(system, weighted(system.weights, v))
        return Rows(*(a + b for a, b in zip(v, self._adjoint_rows(rest), strict=True)))

    def _adjoint_rows(self, g: Array) -> Rows:
        system, xp = self.system, self.system.xp
        batch = broadcast_shapes({"system": system.batch, "g": tuple(g.shape[:-3])})
        columns = _Columns(xp, system.batch, batch)
        levels, last = columns.factor(self)
        w, w_last = self._transposed(levels, last, columns.gather(flatten(xp, g), 2))
        own, coupling = reflect_back(xp, levels, last, w, w_last, system.Q + system.V * system.n_initial_orders)
        bad = xp.any(self.undetermined, axis=-1)[..., None, None]
        own, coupling = (
            xp.where(bad, system.constant(xp.nan), columns.scatter(x))
            for x in (own, coupling[..., : system.n_steps - 1, :, :])
        )
        return unstack_rows(system, own, coupling)

    def _transposed(self, levels: list[Level], last: Level, g: Array) -> tuple[list[Array], Array]:
        """R^-T g, of the eliminated points and of the last."""
        w, g, _ = substitute_transposed(self.system.xp, levels, g)
        return w, self.system.xp.matrix_transpose(last.R_inverse) @ g

    def _substitute_back(self, columns: _Columns, levels: list[Level], z: list[Array], first: Array) -> Array:
        """R x = z level by level, from x at the first point; NaN for undetermined members, (*batch, T, V, K)."""
        system, xp = self.system, self.system.xp
        x, _ = substitute_back(xp, levels, z, first, xp.zeros_like(first))
        x = unflatten(system, columns.scatter(x))
        bad = xp.any(self.undetermined, axis=-1)[..., None, None, None]
        return xp.where(bad, system.constant(xp.nan), x)


@dataclass(frozen=True, eq=False)
class RoundedFactor:
    """A factor in float64 of a system in float32: what goes in is widened, what comes out is rounded once."""

    system: System
    wide: ArrayFactor

    @property
    def undetermined(self) -> Array:
        return self.wide.undetermined

    def solve(self, d: Rows) -> Array:
        return self._rounded(self.wide.solve(Rows(*map(self._widened, d))))

    def normal_solve(self, g: Array) -> Array:
        return self._rounded(self.wide.normal_solve(self._widened(g)))

    def adjoint_rows(self, g: Array) -> Rows:
        return Rows(*map(self._rounded, self.wide.adjoint_rows(self._widened(g))))

    def adjoint(self, problem: Problem, y: Array, g: Array, wanted: Gradients = ALL) -> Gradients:
        """All gradients; y, which was rounded, is solved for again, as residuals are differences."""
        del y, wanted
        rhs, initial_values, smoothness = map(self._widened, problem.rows)
        wide = Problem(widened(problem.system), rhs, initial_values, problem.batch, smoothness)
        gradients = solve_pullback(wide, self.wide, self.wide.solve(wide.rows), self._widened(g))
        return from_fields(map(self._rounded, by_field(gradients)))

    def _widened(self, x: Array | None) -> Array | None:
        return None if x is None else self.system.xp.astype(x, self.system.xp.float64)

    def _rounded(self, x: Array) -> Array:
        return self.system.xp.astype(x, self.system.dtype)


def widened(system: System) -> System:
    """The system in float64, if it is not, and if its namespace and device have that."""
    xp = system.xp
    if system.dtype == xp.float64 or "mps" in str(system.device):
        return system
    if compat.is_jax_namespace(xp) and not sys.modules["jax"].config.jax_enable_x64:
        return system
    c, s, *w = (
        xp.astype(x, xp.float64) for x in (system.coefficients, system.step_sizes, *vars(system.weights).values())
    )
    return replace(system, coefficients=c, step_sizes=s, weights=Weights(*w))


def factorize(system: System) -> ArrayFactor | RoundedFactor:
    """Eliminates all points: linear work, log2(T) levels."""
    wide = widened(system)
    factor = _factorize(wide)
    return factor if wide is system else RoundedFactor(system, factor)


def _factorize(system: System) -> ArrayFactor:
    own, couplings, unit = blocks(system)
    levels, own, couplings = eliminate(system, own, couplings, unit)
    return ArrayFactor(system, tuple(levels), eliminate_last(system, own, couplings, unit))


def eliminate(system: System, own: Array, couplings: Couplings, unit: Array) -> tuple[list[Level], Array, Couplings]:
    """Eliminates all points but the first: the levels, and what is left of own rows and couplings.

    Where there are as many couplings as points the last one leads to a point that is not among them, which stays.
    """
    levels = []
    while own.shape[-3] > 1:
        level, couplings = _eliminate(system, own, couplings, unit)
        levels.append(level)
        own = own[..., ::2, :, :]
    return levels, own, couplings


def eliminate_last(system: System, own: Array, couplings: Couplings, unit: Array) -> Level:
    """The factor of the one point that is left, whose E and G are empty."""
    xp, n = system.xp, system.n
    rows, noise = last_rows(xp, n, own, couplings.D), last_rows(xp, n, (own / unit) ** 2, couplings.noise)
    Q, R_inverse, _, undetermined = triangularise(system, rows, noise, unit)
    none = R_inverse[..., :0]
    return Level(Q, R_inverse, none, none, none, none, none, undetermined, couplings.D.shape[-2])


def reflect(
    xp: Namespace, n: int, levels: Sequence[Level], own: Array, coupling: Array
) -> tuple[list[Array], Array, Array]:
    """Q^T applied to right-hand sides (..., P, rows, columns) of own rows and couplings, level by level.

    Returns R^-1 z, z the right-hand sides of the eliminated points, and those of the first point and its coupling.
    """
    z = []
    for level in levels:
        P = own.shape[-3]
        h, coupling = P // 2, _with_phantom(xp, P, coupling)
        a, j = (coupling[..., i : 2 * h : 2, :, :] for i in (0, 1))
        rows = _pad(xp, xp.concat([own[..., 1::2, :, :], a, j], axis=-2), -2, 0, n)
        rows = xp.matrix_transpose(level.Q) @ rows
        z.append(level.R_inverse @ rows[..., :n, :])
        coupling = _next(xp, h, coupling, rows[..., n:, :])
        own = own[..., ::2, :, :]
    return z, own, coupling


def substitute_back(
    xp: Namespace, levels: Sequence[Level], z: Sequence[Array], x: Array, δ: Array
) -> tuple[Array, Array]:
    """x at all points, and increments, from R^-1 z, x at the first point and the increment to the one beyond the last.

    Increments are carried from level to level: as differences of x they would have lost the digits that x shares.
    """
    for level, e in zip(reversed(levels), reversed(z), strict=True):
        h = e.shape[-3]
        x_a, δ_b = x[..., :h, :, :], δ[..., :h, :, :]
        e = e - level.E @ δ_b - level.G @ x_a
        x = _interleave(xp, x, level.Phi_a @ x_a + e, axis=-3)
        both = _interleave(xp, e, δ_b - level.Phi_j @ e, axis=-3) + level.dropped @ x[..., : 2 * h, :, :]
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
        g = g + _pad(xp, mT(level.dropped) @ g_δ[..., : 2 * h, :, :], -3, 0, P)
        g_j, at_a, at_j = g[..., 1::2, :, :], g_δ[..., 0 : 2 * h : 2, :, :], g_δ[..., 1 : 2 * h : 2, :, :]
        g_e = g_j + at_a - mT(level.Phi_j) @ at_j
        to_a = mT(level.Phi_a) @ g_j - mT(level.G) @ g_e
        g = g[..., ::2, :, :] + _pad(xp, to_a, -3, 0, P - h)
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
        own = _interleave(xp, own, rows[..., :mD, :], axis=-3)
        a, j = (rows[..., i : i + mC, :] for i in (mD, mD + mC))
        coupling = xp.concat([_interleave(xp, a, j, axis=-3), coupling[..., h:, :mC, :]], axis=-3)
    return own, coupling


def _eliminate(system: System, own: Array, couplings: Couplings, unit: Array) -> tuple[Level, Couplings]:
    """One level: eliminates the odd points; the couplings between the even ones are left."""
    xp, n, P = system.xp, system.n, own.shape[-3]
    odd, h = own[..., 1::2, :, :], P // 2
    couplings = Couplings(*(_with_phantom(xp, P, x) for x in couplings))
    both, dropped = _drop(xp, Couplings(*(x[..., : 2 * h, :, :] for x in couplings)), unit)
    a, j = (Couplings(*(x[..., i::2, :, :] for x in both)) for i in (0, 1))
    zeros = xp.zeros_like
    rows = [
        xp.concat([odd, zeros(odd), odd @ a.Phi], axis=-1),
        xp.concat([a.C, zeros(a.C), a.D], axis=-1),
        xp.concat([j.D - j.C @ j.Phi, j.C, j.D @ a.Phi], axis=-1),
    ]
    noise_e = [zeros(odd), zeros(a.noise), j.noise]
    noise_a = [(odd / unit) ** 2 @ a.Phi**2, a.noise, j.noise @ a.Phi**2]
    rows, noise_e, noise_a = (_pad(xp, xp.concat(x, axis=-2), -2, 0, n) for x in (rows, noise_e, noise_a))
    noise_e = noise_e + (rows[..., :n] / unit) ** 2
    Q, R_inverse, others, undetermined = triangularise(system, rows, noise_e, unit)
    E, G, C, D = others[..., :n, :n], others[..., :n, n:], others[..., n:, :n], others[..., n:, n:]
    # errors of the columns of e are left out: they multiply increments, with those of the columns of δ
    noise = xp.matrix_transpose(Q[..., n:] ** 2) @ noise_a + (D / unit) ** 2
    new = Couplings(C, D, j.Phi @ a.Phi, noise)
    level = Level(Q, R_inverse, E, G, a.Phi, j.Phi, dropped, undetermined, couplings.C.shape[-2])
    return level, Couplings(*(_next(xp, h, old, x) for old, x in zip(couplings, new, strict=True)))


def _drop(xp: Namespace, couplings: Couplings, unit: Array) -> tuple[Couplings, Array]:
    """Drops columns of Phi where the rows get smaller in y[a] by that; also what was added to Phi."""
    C, D, Phi, noise = couplings
    without = D - C @ Phi
    drop = _largest(xp, without) < _largest(xp, D)
    dropped = xp.where(drop, -Phi, xp.zeros_like(Phi))
    noise = xp.where(drop, noise + (C / unit) ** 2 @ Phi**2, noise)
    return Couplings(C, xp.where(drop, without, D), Phi + dropped, noise), dropped


def _largest(xp: Namespace, x: Array) -> Array:
    """The largest entry of each column, (..., 1, n)."""
    return xp.max(xp.abs(x), axis=-2, keepdims=True)


NOISE = 2.0**14
"""A pivot is taken for zero where it is at most so many times the estimate of its rounding error. The estimate
adds up squares of independent errors, and leaves those out that meet increments (see `_eliminate`): of the systems of
benchmarks/singular.py, pivots are at most 1e3 times the estimate in singular ones, and 1e5 times and more in others."""


def triangularise(system: System, rows: Array, noise: Array, unit: Array) -> tuple[Array, Array, Array, Array]:
    """Q R of rows (..., M, n + others), sorted by size; noise (..., M, n): squared errors of their first n columns.

    Returns Q, R^-1, the other columns of R, those of the first n rows times R^-1, and which points are undetermined.
    """
    xp, n, info = system.xp, system.n, system.xp.finfo(rows.dtype)
    by_size = xp.argsort(xp.max(xp.abs(rows[..., :n]), axis=-1), axis=-1, descending=True, stable=True)
    Q, full = xp.linalg.qr(_take_rows(xp, rows, by_size), mode="reduced")
    Q = _take_rows(xp, Q, xp.argsort(by_size, axis=-1))
    R, others = full[..., :n, :n], full[..., n:]
    pivots = xp.linalg.diagonal(R)
    vanishing = xp.abs(pivots / unit[..., 0]) <= info.smallest_normal**0.5
    one = xp.eye(n, dtype=rows.dtype, device=system.device)
    # a one on the diagonal keeps the solve from failing; the result is set to NaN where it was needed
    R = R + one * xp.astype(vanishing, rows.dtype)[..., None, :]
    inverse = xp.linalg.solve(R, xp.concat([xp.broadcast_to(one, R.shape), others[..., :n, :]], axis=-1))
    R_inverse, others = inverse[..., :n], xp.concat([inverse[..., n:], others[..., n:, :]], axis=-2)
    # to first order, errors dA of the columns change the pivots by the diagonal of Q^T dA R^-1 diag(pivots)
    of_pivots = xp.sum(Q[..., :n] ** 2 * (noise @ (R_inverse * pivots[..., None, :]) ** 2), axis=-2)
    is_noise = (pivots / unit[..., 0]) ** 2 <= (NOISE * info.eps) ** 2 * of_pivots
    return Q, R_inverse, others, xp.any(vanishing | is_noise, axis=-1)


def _take_rows(xp: Namespace, x: Array, order: Array) -> Array:
    return xp.take_along_axis(x, xp.broadcast_to(order[..., None], (*order.shape, x.shape[-1])), axis=-2)


def _with_phantom(xp: Namespace, P: int, coupling: Array) -> Array:
    """Couplings of P points; where P is even, with one that leads beyond the last."""
    return _pad(xp, coupling, -3, 0, P) if P % 2 == 0 else coupling


def _next(xp: Namespace, h: int, old: Array, new: Array) -> Array:
    """The couplings of the next level: the new ones and, where there is one, that of the last point if it stays."""
    if old.shape[-3] == 2 * h:
        return new
    count = max(new.shape[-2], old.shape[-2])
    return xp.concat([_pad(xp, new, -2, 0, count), _pad(xp, old[..., 2 * h :, :, :], -2, 0, count)], axis=-3)


def last_rows(xp: Namespace, n: int, own: Array, coupling: Array) -> Array:
    """The rows of the one point that is left: its own and those of its coupling to the phantom, at least n."""
    rows = xp.concat([own, coupling], axis=-2) if coupling.shape[-3] else own
    return _pad(xp, rows, -2, 0, n)


def flatten(xp: Namespace, x: Array) -> Array:
    """(..., V, K) as (..., n)."""
    return xp.reshape(xp.matrix_transpose(x), (*x.shape[:-2], x.shape[-2] * x.shape[-1]))


def unflatten(system: System, x: Array) -> Array:
    """The inverse of `flatten`."""
    return system.xp.matrix_transpose(system.xp.reshape(x, (*x.shape[:-1], system.K, system.V)))


def _pad(xp: Namespace, x: Array, axis: int, before: int, total: int) -> Array:
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


def _interleave(xp: Namespace, even: Array, odd: Array, axis: int) -> Array:
    """even[0], odd[0], even[1], ... along an axis; `even` has as many entries as `odd` or one more."""
    axis = axis % even.ndim
    shape, count = list(even.shape), even.shape[axis] + odd.shape[axis]
    if odd.shape[axis] < even.shape[axis]:
        filler = even[(*(slice(None),) * axis, slice(-1, None), ...)]
        odd = xp.concat([odd, filler], axis=axis)
    shape[axis] = 2 * even.shape[axis]
    both = xp.reshape(xp.stack([even, odd], axis=axis + 1), tuple(shape))
    return both[(*(slice(None),) * axis, slice(0, count), ...)]


@lru_cache(maxsize=64)
def increment_rows(scheme: Scheme, K: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The rows of a scheme, F S y[t] + G S y[t+1] with S = diag(s^o), as U (C S (y[t+1] - Phi y[t]) + D S y[t]).

    D = F + G Phi(1), as S Phi(s) = Phi(1) S; its columns up to the degree of exactness are zero. U (m, k) has
    orthonormal columns, as few as C and D allow: K where D = 0.
    """
    F, G = scheme.matrices(K)
    D = F + G @ np.array([[1 / factorial(o - r) if o >= r else 0.0 for o in range(K)] for r in range(K)])
    D[:, : scheme.exactness(K) + 1] = 0
    kept = np.abs(D).max(axis=0) > 0
    U, triangle = np.linalg.qr(np.hstack([G, D[:, kept]]))
    D = np.zeros((len(triangle), K))
    D[:, kept] = triangle[:, K:]
    return U, triangle[:, :K], D


def blocks(system: System) -> tuple[Array, Couplings, Array]:
    """W A as own rows (*batch, T, mD, n) and T-1 couplings, and its largest entry, (*batch, 1, 1, 1)."""
    xp, T, V, K, n = system.xp, system.n_steps, system.V, system.K, system.n
    w, T_init, R_init = system.weights, system.n_initial_steps, system.n_initial_orders
    unit = xp.reshape(xp.eye(n, dtype=system.dtype, device=system.device), (K, V, n))
    select = xp.reshape(xp.permute_dims(unit[:R_init, :, :], (1, 0, 2)), (V * R_init, n))
    weight = xp.broadcast_to(w.initial, (*_lead(w.initial, 3), T_init, V, R_init))
    initial = xp.reshape(weight, (*weight.shape[:-3], T_init, V * R_init, 1)) * select
    equation = flatten(xp, w.equation[..., None, None] * system.coefficients)
    own = _concat_rows(xp, (*system.batch, T), equation, _pad(xp, initial, -3, 0, T))

    same = xp.eye(V, dtype=system.dtype, device=system.device)
    p = powers(xp, system.step_sizes, K)
    wp = p * w.smoothness[..., None]

    def per_variable(rows: Array, variables: Array) -> Array:
        """rows (..., m, K) as (..., V m, n), for each variable its own."""
        x = rows[..., None, :, :, None] * variables
        x = xp.reshape(x, (*x.shape[:-4], V * rows.shape[-2], n))
        return xp.broadcast_to(x, (*system.batch, T - 1, *x.shape[-2:]))

    _, C, D = increment_rows(system.scheme, K)
    C, D = (per_variable(system.constant(M) * wp[..., None, :], same[:, None, None, :]) for M in (C, D))
    shift = [_pad(xp, p[..., : K - r, None] * _taylor(system, r), -2, r, K) for r in range(K)]
    Phi = xp.concat(shift, axis=-1)  # (..., o, r)
    Phi = xp.matrix_transpose(Phi)[..., :, None, :, None] * same[:, None, :]
    Phi = xp.broadcast_to(xp.reshape(Phi, (*p.shape[:-1], n, n)), (*system.batch, T - 1, n, n))
    largest = xp.max(xp.abs(own), axis=(-3, -2, -1), keepdims=True)
    if T > 1:
        largest = xp.maximum(largest, xp.max(xp.abs(C), axis=(-3, -2, -1), keepdims=True))
    unit = xp.where(largest == 0, xp.ones_like(largest), largest)
    return own, Couplings(C, D, Phi, (D / unit) ** 2), unit


def _taylor(system: System, r: int) -> Array:
    """1 / k! for k = 0 .. R-r, (R-r+1, 1)."""
    return system.constant([[1 / factorial(k)] for k in range(system.K - r)])


def stack_rows(system: System, d: Rows) -> tuple[Array, Array]:
    """Right-hand sides in the order of `blocks`: of the own rows, (..., T, mD), and of couplings, (..., T-1, mC)."""
    xp, T = system.xp, system.n_steps
    initial = xp.reshape(d.initial, (*d.initial.shape[:-2], size(tuple(d.initial.shape[-2:]))))
    initial = _pad(xp, initial, -2, 0, T)
    batch = broadcast_shapes({"rhs": tuple(d.equation.shape[:-2]), "initial_values": tuple(initial.shape[:-2])})
    shapes = [(*batch, T, x.shape[-1]) for x in (d.equation, initial)]
    own = xp.concat([xp.broadcast_to(x, s) for x, s in zip((d.equation, initial), shapes, strict=True)], axis=-1)
    U = system.constant(increment_rows(system.scheme, system.K)[0])
    mC = system.V * U.shape[-1]
    if d.smoothness is None:
        return own, xp.zeros((T - 1, mC), dtype=system.dtype, device=system.device)
    return own, xp.reshape(d.smoothness @ U, (*d.smoothness.shape[:-2], mC))


def unstack_rows(system: System, own: Array, coupling: Array) -> Rows:
    """The transpose of `stack_rows`."""
    xp, V, R_init = system.xp, system.V, system.n_initial_orders
    initial = own[..., : system.n_initial_steps, system.Q :]
    U = system.constant(increment_rows(system.scheme, system.K)[0])
    coupling = xp.reshape(coupling, (*coupling.shape[:-1], V, U.shape[-1])) @ xp.matrix_transpose(U)
    return Rows(own[..., : system.Q], xp.reshape(initial, (*initial.shape[:-1], V, R_init)), coupling)


def _right_hand_side(system: System, d: Rows) -> tuple[_Columns, Array, Array]:
    """W d as own rows (..., T, mD, columns) and couplings (..., T-1, mC, columns), and how columns were gathered."""
    own, coupling = stack_rows(system, weighted(system.weights, d))
    batch = broadcast_shapes(
        {"system": system.batch, "rhs": tuple(own.shape[:-2]), "smoothness": tuple(coupling.shape[:-2])}
    )
    columns = _Columns(system.xp, system.batch, batch)
    return columns, columns.gather(own, 2), columns.gather(coupling, 2)


class _Columns:
    """How right-hand sides that share a left-hand side become columns of one matrix.

    Batch axes along which the left-hand side is repeated are moved behind the rows, so that one elimination serves all.
    """

    def __init__(self, xp: Namespace, lhs: Shape, batch: Shape) -> None:
        self.xp, self.batch = xp, batch
        lhs = (1,) * (len(batch) - len(lhs)) + lhs
        self.repeated = tuple(i for i, (a, b) in enumerate(zip(lhs, batch, strict=True)) if a == 1 and b != 1)
        self.own = tuple(i for i in range(len(batch)) if i not in self.repeated)
        self.lhs = tuple(lhs[i] for i in self.own)

    def gather(self, x: Array, rank: int) -> Array:
        """(..., *core) with `rank` core axes, as (*own, *core, columns)."""
        core = tuple(x.shape[x.ndim - rank :])
        x = self.xp.broadcast_to(x, (*self.batch, *core))
        cores = tuple(range(len(self.batch), len(self.batch) + rank))
        x = self.xp.permute_dims(x, (*self.own, *cores, *self.repeated))
        return self.xp.reshape(x, (*self.lhs, *core, size(tuple(self.batch[i] for i in self.repeated))))

    def scatter(self, x: Array) -> Array:
        """(*own, T, n, columns) as (*batch, T, n)."""
        axes = (*self.own, len(self.batch), len(self.batch) + 1, *self.repeated)
        x = self.xp.reshape(x, (*x.shape[:-1], *(self.batch[i] for i in self.repeated)))
        return self.xp.permute_dims(x, tuple(axes.index(i) for i in range(len(axes))))

    def factor(self, factor: ArrayFactor) -> tuple[list[Level], Level]:
        """The levels and the last point of a factor without the axes along which it is repeated."""

        def drop(x: Array) -> Array:
            return self.xp.reshape(x, (*self.lhs, *x.shape[len(factor.system.batch) :]))

        def level(old: Level) -> Level:
            return Level(**{k: x if isinstance(x, int) else drop(x) for k, x in vars(old).items()})

        return [level(old) for old in factor.levels], level(factor.last)


def _lead(x: Array, rank: int) -> Shape:
    """The batch axes of an array that broadcasts to one with `rank` last axes."""
    return tuple(x.shape[: max(x.ndim - rank, 0)])


def _concat_rows(xp: Namespace, lead: Shape, *blocks: Array) -> Array:
    """Blocks of rows (..., rows, n), broadcast to the leading shape and stacked."""
    return xp.concat([xp.broadcast_to(x, (*lead, *x.shape[-2:])) for x in blocks], axis=-2)
