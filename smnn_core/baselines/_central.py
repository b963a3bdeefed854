"""The published rows with central smoothness, by a banded QR.

`enable_central_smoothness=True` of the published `ode_forward` replaces the last forward and the last backward row of
`TAYLOR` by central rows. With s = s[t] and R = K-1 >= 1 the rows are

    equation, initial   as in `smnn_core.solve_ode`
    forward             sum_{o>=r} s^o/(o-r)! y[t,o] - s^r y[t+1,r]                           r < R
    backward            sum_{o>=r} (-s)^o/(o-r)! y[t+1,o] - (-s)^r y[t,r]                     r < R
    central             (y[t-1,R-1] - y[t+1,R-1]) h^(R-2) + y[t,R] h^(R-1),  h = s[t-1] + s[t],  0 < t < T-1

A central row has the smaller weight of its two steps, so that masking a step masks it too. Central rows tie three
time points together. So each row is a row of the window of three points that starts with its first one, and the sweep
over windows carries 2n rows on from point to point:

    [ carried from before   0 ]        [ R  E  H ]      R y[t] + E y[t+1] + H y[t+2] = z,  R upper triangular
    [ rows that start at t    ]  =  Q  [ 0  next ]      carried to t+1

Source of the rows: Chen et al., ICLR 2025, arXiv:2410.06074, and their code.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from .. import _constraints as constraints
from .._arrays import Array, Namespace, size
from .._errors import ArgumentError
from .._problem import Problem, System, Weights
from .._schemes import TAYLOR
from .._solve import raise_if_singular
from .._weighting import weighted_problem
from ._implicit import Method, Solved, solve

__all__ = ["central_problem", "central_rows", "central_steps", "central_weight", "smnn_central"]


def smnn_central(
    coefficients: Array,
    rhs: Array,
    initial_values: Array,
    step_sizes: Array,
    *,
    n_steps: int | None = None,
    weights: Weights = Weights(),  # noqa: B008  (frozen)
) -> Array:
    """The published system with central smoothness rows, by a QR that goes from one time point to the next.

    Arguments, result and errors are those of `smnn_core.solve_ode`; R must be at least 1, and for R = 1 neighbouring
    steps may not cancel. Singular systems raise, or come back as NaN, as there.
    """
    return solve(CENTRAL, central_problem(coefficients, rhs, initial_values, step_sizes, n_steps, weights))


def central_problem(
    coefficients: Array, rhs: Array, initial_values: Array, step_sizes: Array, n_steps: int | None, weights: Weights
) -> Problem:
    """The problem that central rows belong to, checked."""
    problem = weighted_problem(
        Problem.build(coefficients, rhs, initial_values, step_sizes, n_steps=n_steps, scheme=TAYLOR, weights=weights)
    )
    if problem.system.K < 2:
        raise ArgumentError(
            f"coefficients {tuple(coefficients.shape)} have K = 1 derivative order; the rows of this system need at "
            "least 2 (R >= 1): append zeros along the last axis."
        )
    return problem


def central_rows(system: System, y: Array) -> tuple[Array, ...]:
    """W A y for y of shape (..., T, V, K): equation, initial, forward, backward and central rows."""
    K, R = system.K, system.K - 1
    rows = constraints.weighted(system.weights, constraints.apply(system, y))
    smoothness: Array = rows.smoothness
    h, w = central_steps(system), central_weight(system)
    central = (y[..., :-2, :, R - 1] - y[..., 2:, :, R - 1]) * h ** (R - 2) + y[..., 1:-1, :, R] * h ** (R - 1)
    return rows.equation, rows.initial, smoothness[..., :R], smoothness[..., K : K + R], w * central


def central_weight(system: System) -> Array:
    """The weight of the central rows, (..., T-2, 1)."""
    w = _per_step(system, system.weights.smoothness)
    return system.xp.minimum(w[..., :-1], w[..., 1:])[..., None]


def central_steps(system: System) -> Array:
    """h = s[t-1] + s[t], (..., T-2, 1)."""
    s = _per_step(system, system.step_sizes)
    return (s[..., :-1] + s[..., 1:])[..., None]


def _per_step(system: System, x: Array) -> Array:
    return system.xp.broadcast_to(x, (*tuple(x.shape[:-1]), system.n_steps - 1))


def _right_hand_side(problem: Problem) -> tuple[Array, ...]:
    """W d, in the blocks of `central_rows`."""
    d = constraints.weighted(problem.system.weights, problem.rows)
    zero = problem.system.constant(0.0)
    return d.equation, d.initial, zero, zero, zero


class _Window(NamedTuple):
    """The factor of one point."""

    Q: Array
    """(*batch, 2n + M, 3n): of the rows carried from before, and of those that start here"""
    R_inverse: Array
    """(*batch, n, n)"""
    others: Array
    """(*batch, n, 2n): R^-1 [E H]"""


@dataclass(eq=False)
class _Factor:
    """W A by windows, eliminated from the first point to the last."""

    system: System
    rows: Array
    """(*batch, T, M, 3n): by the first point of each row, over the three points from there"""
    shapes: tuple[tuple[int, ...], ...]
    """of each block of `central_rows`, without the batch: time, and the rest"""
    windows: list[_Window] = field(init=False)
    undetermined: Array = field(init=False)
    """bool, (*batch, T)"""

    def __post_init__(self) -> None:
        self.windows, self.undetermined = _sweep(self.system, self.rows)

    def solve(self, d: Array) -> Array:
        """argmin |W A y - d| for d of shape (..., T, M), refined once: (..., T, n)."""
        y = self._solve(d)
        return y + self._solve(d - self._product(y))

    def adjoint_rows(self, g: Array) -> Array:
        """(W A)^+^T g for g of shape (..., T, n), refined once: (..., T, M)."""
        v = self._adjoint_rows(self._forward(g))
        return v + self._adjoint_rows(self._forward(g - self._transpose_product(v)))

    def normal_solve(self, g: Array) -> Array:
        """(A^T W^2 A)^-1 g."""
        return self._back(self._forward(g))

    def _solve(self, d: Array) -> Array:
        xp, n = self.system.xp, self.system.n
        z, carried = [], xp.zeros_like(d[..., :1, :1]) * xp.ones((2 * n,), dtype=d.dtype, device=self.system.device)
        carried = carried[..., 0, :, None]
        for t, window in enumerate(self.windows):
            rows = xp.matrix_transpose(window.Q) @ xp.concat([carried, d[..., t, :, None]], axis=-2)
            z.append(rows[..., :n, :])
            carried = rows[..., n:, :]
        return self._back(z)

    def _back(self, z: list[Array]) -> Array:
        """R y = z; NaN for batch members that are undetermined."""
        xp, n = self.system.xp, self.system.n
        later = xp.concat([xp.zeros_like(z[-1])] * 2, axis=-2)  # y[t+1] and y[t+2]
        y = []
        for window, z_t in zip(reversed(self.windows), reversed(z), strict=True):
            y_t = window.R_inverse @ z_t - window.others @ later
            later = xp.concat([y_t, later[..., :n, :]], axis=-2)
            y.append(y_t[..., 0])
        bad = xp.any(self.undetermined, axis=-1)[..., None, None]
        return xp.where(bad, self.system.constant(xp.nan), xp.stack(y[::-1], axis=-2))

    def _forward(self, g: Array) -> list[Array]:
        """R^T w = g."""
        xp, n = self.system.xp, self.system.n
        w, passed = [], xp.concat([xp.zeros_like(g[..., 0, :, None])] * 2, axis=-2)
        for t, window in enumerate(self.windows):
            here = g[..., t, :, None] - passed[..., :n, :]
            w.append(xp.matrix_transpose(window.R_inverse) @ here)
            passed = xp.concat([passed[..., n:, :], xp.zeros_like(here)], axis=-2)
            passed = passed + xp.matrix_transpose(window.others) @ here
        return w

    def _adjoint_rows(self, w: list[Array]) -> Array:
        xp, n = self.system.xp, self.system.n
        v, carried = [], xp.concat([xp.zeros_like(w[-1])] * 2, axis=-2)
        for window, w_t in zip(reversed(self.windows), reversed(w), strict=True):
            rows = window.Q @ xp.concat([w_t, carried], axis=-2)
            carried = rows[..., : 2 * n, :]
            v.append(rows[..., 2 * n :, 0])
        return xp.stack(v[::-1], axis=-2)

    def _product(self, y: Array) -> Array:
        xp = self.system.xp
        after = xp.concat([y, xp.zeros_like(y[..., :1, :]), xp.zeros_like(y[..., :1, :])], axis=-2)
        three = xp.concat([after[..., o : after.shape[-2] - 2 + o, :] for o in range(3)], axis=-1)
        return (self.rows @ three[..., None])[..., 0]

    def _transpose_product(self, v: Array) -> Array:
        xp, n = self.system.xp, self.system.n
        x = (xp.matrix_transpose(self.rows) @ v[..., None])[..., 0]
        edge = xp.zeros_like(x[..., :1, :n])
        moved = [
            xp.concat([edge] * o + [x[..., : x.shape[-2] - o, o * n : (o + 1) * n]], axis=-2)
            for o in range(min(3, x.shape[-2]))
        ]
        result: Array = sum(moved[1:], moved[0])
        return result


NOISE = 2.0**14
"""A pivot that is at most so many times the estimate of its rounding error is taken for zero."""


def _sweep(system: System, rows: Array) -> tuple[list[_Window], Array]:
    """The windows, and which points are undetermined."""
    xp, n, eps = system.xp, system.n, float(system.xp.finfo(rows.dtype).eps)
    one = xp.eye(n, dtype=rows.dtype, device=system.device)
    carried = xp.zeros((*rows.shape[:-3], 2 * n, 3 * n), dtype=rows.dtype, device=system.device)
    noise = carried  # squares of the errors of what is carried, in units of eps
    windows, flags = [], []
    for t in range(system.n_steps):
        own = rows[..., t, :, :]
        stack, noise = xp.concat([carried, own], axis=-2), xp.concat([noise, own**2], axis=-2)
        Q, full = _qr_of_sorted_rows(system, stack)
        R = full[..., :n, :n]
        pivots = xp.linalg.diagonal(R)
        vanishing = xp.astype(pivots == 0, rows.dtype)
        inverse = xp.linalg.solve(
            R + one * vanishing[..., None, :], xp.concat([xp.broadcast_to(one, R.shape), full[..., :n, n:]], axis=-1)
        )
        # to first order, errors dA change the pivots by the diagonal of Q^T dA R^-1 diag(pivots)
        errors = noise[..., :n] @ (inverse[..., :n] * pivots[..., None, :]) ** 2
        errors = xp.sum(Q[..., :n] ** 2 * errors, axis=-2)
        flags.append(xp.any(pivots**2 <= (NOISE * eps) ** 2 * errors, axis=-1))
        windows.append(_Window(Q, inverse[..., :n], inverse[..., n:]))
        zeros = xp.zeros_like(carried[..., :n])
        carried = xp.concat([full[..., n:, n:], zeros], axis=-1)
        noise = xp.concat([(xp.matrix_transpose(Q[..., n:] ** 2) @ noise)[..., n:], zeros], axis=-1) + carried**2
    return windows, xp.stack(flags, axis=-1)


def _qr_of_sorted_rows(system: System, rows: Array) -> tuple[Array, Array]:
    """QR by reflections is stable row by row if large rows come first.

    Source: Higham, Accuracy and Stability of Numerical Algorithms, section 20.5.
    """
    xp, count, lead = system.xp, rows.shape[-2], tuple(rows.shape[:-2])
    first = count * xp.reshape(xp.arange(size(lead), device=system.device), (*lead, 1))

    def take(x: Array, order: Array) -> Array:
        flat = xp.take(xp.reshape(x, (-1, x.shape[-1])), xp.reshape(first + order, (-1,)), axis=0)
        return xp.reshape(flat, x.shape)

    by_size = xp.argsort(xp.max(xp.abs(rows), axis=-1), axis=-1, descending=True, stable=True)
    Q, R = xp.linalg.qr(take(rows, by_size), mode="reduced")
    return take(Q, xp.argsort(by_size, axis=-1)), R


def _factorize(system: System) -> _Factor:
    """A row touches three consecutive points at most. So the rows of the sum of the unit vectors of every third point
    show all entries of A in their columns, and 3n products show A.

    Source: Curtis, Powell, Reid, On the estimation of sparse Jacobian matrices, J. Inst. Math. Appl. 13 (1974) 117.
    """
    xp, batch, T, n = system.xp, system.batch, system.n_steps, system.n
    colour = xp.arange(T, device=system.device)[:, None, None] % 3
    is_colour = [xp.astype(colour == k, system.dtype) for k in range(3)]
    unit = xp.eye(n, dtype=system.dtype, device=system.device)
    unit = xp.reshape(unit, (n, *(1,) * len(batch), 1, system.V, system.K))
    shapes: list[tuple[int, ...]] = []
    products = []  # by colour, (*batch, T, M, n)
    for k in range(3):
        blocks = central_rows(system, unit * is_colour[k])
        shapes = [tuple(x.shape[x.ndim - rank :]) for x, rank in zip(blocks, (2, 3, 3, 3, 2), strict=True)]
        flat = _by_first_time(system, (n, *batch), blocks, shapes)
        products.append(xp.permute_dims(flat, (*range(1, flat.ndim), 0)))
    columns = []
    for o in range(3):  # the points o after the first ones, which are of colour k where those are of colour k - o
        here = [x * is_colour[(k - o) % 3] for k, x in enumerate(products)]
        columns.append(here[0] + here[1] + here[2])
    return _Factor(system, xp.concat(columns, axis=-1), tuple(shapes))


def _by_first_time(
    system: System, batch: tuple[int, ...], blocks: tuple[Array, ...], shapes: list[tuple[int, ...]]
) -> Array:
    """Blocks of rows, which broadcast to (*batch, *shape), side by side: (*batch, T, M); zeros where one has no row."""
    xp, T = system.xp, system.n_steps
    wide = []
    for x, (time, *rest) in zip(blocks, shapes, strict=True):
        x = xp.reshape(xp.broadcast_to(x, (*batch, time, *rest)), (*batch, time, size(tuple(rest))))
        missing = xp.zeros((*batch, T - time, x.shape[-1]), dtype=system.dtype, device=system.device)
        wide.append(xp.concat([x, missing], axis=-2))
    return xp.concat(wide, axis=-1)


def _in_blocks(x: Array, shapes: tuple[tuple[int, ...], ...], xp: Namespace) -> tuple[Array, ...]:
    """The inverse of `_by_first_time`."""
    blocks, at = [], 0
    for time, *rest in shapes:
        count = size(tuple(rest))
        blocks.append(xp.reshape(x[..., :time, at : at + count], (*x.shape[:-2], time, *rest)))
        at += count
    return tuple(blocks)


def _solve(problem: Problem) -> Solved:
    system, xp, batch = problem.system, problem.system.xp, problem.batch
    factor = _factorize(system)
    raise_if_singular(system, factor.undetermined, check=False)
    d = _by_first_time(system, batch, _right_hand_side(problem), list(factor.shapes))
    core = (system.n_steps, system.V, system.K)

    def flat(g: Array) -> Array:
        return xp.reshape(g, (*g.shape[:-2], system.n))

    def normal_solve(g: Array) -> Array:
        return xp.reshape(factor.normal_solve(flat(g)), g.shape)

    def adjoint_rows(g: Array) -> tuple[Array, ...]:
        return _in_blocks(factor.adjoint_rows(flat(g)), factor.shapes, xp)

    return Solved(xp.reshape(factor.solve(d), (*batch, *core)), normal_solve, adjoint_rows)


def _product(problem: Problem, y: Array) -> tuple[Array, ...]:
    return central_rows(problem.system, y)


CENTRAL = Method(_solve, _product, _right_hand_side)
