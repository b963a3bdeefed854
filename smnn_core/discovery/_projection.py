r"""One Gauss-Newton step of a fit, by variable projection: the kernel of `discover`.

The equations, linearised at (y_k, θ_k) with J = ∂f/∂y and P = ∂f/∂θ, are linear in the trajectory y and in δ = θ - θ_k:

    J y + P δ = J y_k - f(y_k, θ_k) = b.

With data u and smoothness rows they make up the least-squares problem min over y and δ of

    |W (A y - d + B δ)|^2,    A the rows of `solve_ode`, d = (b, u, 0), B = (P, 0, 0).

For given δ the minimiser is y(δ) = A⁺ (d - B δ) = y_0 + Σ δ_j y_j: one solve with 1 + p right-hand sides of one
left-hand side, d and the columns of -B. What it leaves,

    r(δ) = W (A y(δ) - d + B δ) = r_0 + Σ δ_j r_j,    r_0 = W (A y_0 - d),  r_j = W (A y_j + B_j),

is linear in δ as well: y has been projected out, and δ minimises a sum of squares with p unknowns. All of it follows
from the Gram matrix of r_0, .., r_p: with G = (r_i · r_j) and g = (r_i · r_0), i, j >= 1,

    δ = -G^-1 g,    covariance of θ = G^-1    (weights being inverse standard deviations).

Source: Golub, Pereyra, SIAM J. Numer. Anal. 10 (1973) 413.

Shapes: B members of a batch (one axis), T time points, V variables, K orders, Q equations, p parameters.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from .. import _arrays
from .._arrays import Array
from .._problem import Problem, System, Weights
from .._schemes import Scheme
from .._solve import solve_without_raising
from .._weighting import weighted_system

__all__ = ["LinearFit", "Projection", "project"]

COLUMN_BYTES = 1 << 30
"""Solutions of one call: more right-hand sides than fit are solved in several calls, each of which eliminates again."""
BLOCK_BYTES = 1 << 20
"""Trajectories whose rows are formed at once, on a CPU: they should stay in its caches."""


class LinearFit(NamedTuple):
    """A linearised fit. Axes of length 1 broadcast where `solve_ode` lets them."""

    coefficients: Array
    """J, (B or 1, T, Q, V, K)"""
    rhs: Array
    """b, (B, T, Q)"""
    columns: Array
    """P, (B or 1, T, Q, p)"""
    data: Array
    """u, (B, T, V, R_obs): any finite number where the weight is zero"""
    step_sizes: Array
    """(B or 1, T-1 or 1)"""
    weights: Weights
    """of equations, data and smoothness"""

    def system(self, scheme: Scheme) -> System:
        """The left-hand side, its smoothness weights with their factors for the steps."""
        arrays = self.coefficients, self.rhs, self.data, self.step_sizes
        problem = Problem.build(*arrays, n_steps=self.rhs.shape[1], scheme=scheme, weights=self.weights)
        return weighted_system(problem.system)


@dataclass(frozen=True, eq=False)
class Projection:
    """The rest of a linearised fit when the trajectory has been projected out."""

    trajectories: tuple[Array, ...]
    """y_0, .., y_p in pieces of shape (some, B, T, V, K)"""
    gram: Array
    """(B, 1+p, 1+p): inner products of r_0, .., r_p, NaN for members whose system is singular; 0 where p = 0"""

    def trajectory(self, change: Array) -> Array:
        """y(δ), (B, T, V, K), for δ of shape (B or 1, p)."""
        columns = (column for piece in self.trajectories for column in _each(piece))
        y = next(columns)
        for j, column in enumerate(columns):
            y = y + change[:, j, None, None, None] * column
        return y


def _each(piece: Array) -> Iterator[Array]:
    return (piece[i, ...] for i in range(piece.shape[0]))


def project(fit: LinearFit, *, scheme: Scheme, engine: str = "auto") -> Projection:
    """Solves for y_0, .., y_p and forms the Gram matrix of what they leave, in time and memory linear in T."""
    system = fit.system(scheme)
    pieces = tuple(_solutions(fit, system, engine))
    if fit.columns.shape[-1]:
        return Projection(pieces, _gram(fit, system, pieces))
    zero = 0.0 * system.xp.sum(pieces[0][0, ...], axis=(1, 2, 3))
    return Projection(pieces, zero[:, None, None])


def _gram(fit: LinearFit, system: System, pieces: tuple[Array, ...]) -> Array:
    """Inner products of r_0, .., r_p, (B, 1+p, 1+p), summed over parts of the rows that fit into caches."""
    xp, rows = system.xp, _Rows.of(fit, system)
    B, T = fit.rhs.shape[:2]
    members, points = _block_sizes(fit.rhs, (1 + fit.columns.shape[-1]) * system.n, (B, T))
    blocks = []
    for first in range(0, B, members):
        gram = None
        for t in range(0, T, points):
            r = rows.left_by(pieces, slice(first, first + members), (t, min(t + points, T)))
            part = r @ xp.matrix_transpose(r)
            gram = part if gram is None else gram + part
        blocks.append(gram)
    return blocks[0] if len(blocks) == 1 else xp.concat(blocks, axis=0)


def _solutions(fit: LinearFit, system: System, engine: str) -> Iterator[Array]:
    """y_0, .., y_p in pieces: y_0 together with as many columns as fit into `COLUMN_BYTES`, then the others."""
    xp = system.xp
    B, T, _ = fit.rhs.shape
    per_call = max(1, COLUMN_BYTES // (8 * B * T * system.n))
    columns = -xp.moveaxis(fit.columns, -1, 0)
    p = columns.shape[0]
    columns = xp.broadcast_to(columns, (p, *fit.rhs.shape))
    no_data = xp.zeros((1, 1, *fit.data.shape[1:]), dtype=system.dtype, device=system.device)
    for first in range(0, p + 1, per_call):
        rhs = columns[max(first - 1, 0) : min(first - 1 + per_call, p), ...]
        data = no_data
        if not first:
            data = xp.concat([fit.data[None, ...], xp.broadcast_to(no_data, (rhs.shape[0], *fit.data.shape))], axis=0)
            rhs = xp.concat([fit.rhs[None, ...], rhs], axis=0)
        yield solve_without_raising(Problem.of(system, rhs, data), engine=engine)[0]


def _block_sizes(like: Array, per_point: int, core: tuple[int, int]) -> tuple[int, int]:
    """How many members, and how many of their time points, are treated at once; all of them away from a CPU."""
    B, T = core
    if not _arrays.is_numpy(like):
        return B, T
    points = min(T, max(2, BLOCK_BYTES // (8 * per_point)))
    return min(B, max(1, BLOCK_BYTES // (8 * per_point * points))), points


@dataclass(frozen=True, eq=False)
class _Rows:
    """The rows of a linearised fit, for a part of the batch and of the time points at once."""

    fit: LinearFit
    system: System
    w_equation: Array
    """(B or 1, T or 1, Q or 1)"""
    w_data: Array
    """(B or 1, T or 1, V or 1, R_obs or 1)"""
    w_smoothness: Array
    """(B or 1, T-1 or 1)"""
    step_sizes: Array
    """(B or 1, T-1 or 1)"""

    @staticmethod
    def of(fit: LinearFit, system: System) -> _Rows:
        def full(x: Array, rank: int) -> Array:
            return system.xp.reshape(x, (*(1,) * (rank - x.ndim), *x.shape))

        w = system.weights
        return _Rows(
            fit, system, full(w.equation, 3), full(w.initial, 4), full(w.smoothness, 2), full(fit.step_sizes, 2)
        )

    def left_by(self, pieces: tuple[Array, ...], members: slice, times: tuple[int, int]) -> Array:
        """r_0, .., r_p, (B, 1+p, rows): equations and data at t in [first, last), the steps that start there."""
        xp, fit, (first, last) = self.system.xp, self.fit, times
        end = min(last + 1, fit.rhs.shape[1])
        parts = [piece[:, members, first:end, ...] for piece in pieces]
        y = xp.moveaxis(parts[0] if len(parts) == 1 else xp.concat(parts, axis=0), 0, 1)

        def part(x: Array, last: int = last) -> Array:
            x = x[members, ...] if x.shape[0] != 1 else x
            return x[:, first:last, ...] if x.shape[1] != 1 else x

        now = y[:, :, : last - first, ...]
        P = xp.moveaxis(part(fit.columns), -1, 1)
        b, u = part(fit.rhs)[:, None, ...], part(fit.data)[:, None, ...]
        known = xp.concat([-b, xp.broadcast_to(P, (b.shape[0], P.shape[1], *b.shape[2:]))], axis=1)
        equation = part(self.w_equation)[:, None, ...] * (self._equations(part(fit.coefficients), now) + known)
        observed = now[..., : u.shape[-1]]
        data = xp.concat([observed[:, :1, ...] - u, observed[:, 1:, ...]], axis=1) * part(self.w_data)[:, None, ...]
        smoothness = self._steps(y, part(self.step_sizes, end - 1), part(self.w_smoothness, end - 1))
        return xp.concat([xp.reshape(x, (*x.shape[:2], -1)) for x in (equation, data, smoothness)], axis=-1)

    def _equations(self, J: Array, y: Array) -> Array:
        """J y for J (B or 1, T or 1, Q, V, K) and y (B, 1+p, T, V, K): (B, 1+p, T, Q)."""
        xp, n = self.system.xp, self.system.n
        columns = xp.permute_dims(xp.reshape(y, (*y.shape[:3], n)), (0, 2, 3, 1))
        return xp.permute_dims(xp.reshape(J, (*J.shape[:3], n)) @ columns, (0, 3, 1, 2))

    def _steps(self, y: Array, s: Array, w: Array) -> Array:
        """w (F diag(s^o) y[t] + G diag(s^o) y[t+1]), (B, 1+p, steps, V, m)."""
        xp, (F, G) = self.system.xp, self.system.smoothness_matrices
        powers, m = _arrays.powers(xp, s, self.system.K), F.shape[0]

        def times(z: Array, M: Array) -> Array:
            """As one product of two matrices, which is several times faster than many small ones."""
            return xp.reshape(xp.reshape(z, (-1, z.shape[-1])) @ xp.matrix_transpose(M), (*z.shape[:-1], M.shape[0]))

        if s.shape == (1, 1):
            both = times(y, xp.concat([F, G], axis=0) * powers[0, 0, :])
            return w[:, None, :, None, None] * (both[:, :, :-1, :, :m] + both[:, :, 1:, :, m:])
        powers = powers[:, None, :, None, :]
        rows = times(powers * y[:, :, :-1, ...], F) + times(powers * y[:, :, 1:, ...], G)
        return w[:, None, :, None, None] * rows
