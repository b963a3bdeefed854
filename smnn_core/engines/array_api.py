"""Odd-even orthogonal elimination in array API calls: any namespace, traceable, the oracle of the compiled engines.

The rows W A of the problem, on P = T points with n unknowns each, are kept as

    own[j]                   rows that touch point j only                                 (mD, n)
    left[j], right[j]        rows that couple point j (left) to point j+1 (right)         (mC, n) each

One level eliminates every odd point j. The rows that touch it,

        j         j-1        j+1
    [ own[j]       0          0      ]
    [ right[j-1]  left[j-1]   0      ]  =  Q [ R  E  G ]      R (n, n) upper triangular
    [ left[j]      0        right[j] ]       [ 0  L' R']      at most 2n rows

give n rows that express it through its neighbours, and new coupling rows [L' R'] between the neighbours: a problem of
the same form on the even points. log2(T) levels, then one point, then back substitution level by level.
Source: Gargir, Toledo, Parallel-in-Time Kalman Smoothing Using Orthogonal Transformations, IPDPS 2025.

Where P is even the last odd point has no right neighbour; from then on the last coupling leads to a phantom point
(zero columns), so that all points are treated alike.

A diagonal entry of R, divided by the norm of its column of W A, is the sine of the angle between that column and those
eliminated before it: the test for singularity. Columns are not scaled: Householder reflections do not care, and rounded
entries would no longer satisfy the rows of the scheme, which cost a factor 100 for y' + y = 1 in float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import array_api_compat as compat

from .._arrays import Array, Namespace, Shape, broadcast_shapes, is_tracer, powers, size
from .._constraints import apply, weighted
from .._problem import Rows, System

name = "array_api"


def refusal(system: System) -> str | None:
    """This engine serves everything."""
    return None


def describe() -> str:
    """One line for `show_config`."""
    return "available: odd-even elimination in array API calls, any namespace and size"


@dataclass(frozen=True, eq=False)
class Level:
    """One level of elimination: the factor of its odd points (see the module)."""

    Q: Array
    """(..., P//2, M, k)"""
    R: Array
    """(..., P//2, n, n)"""
    E: Array
    """(..., P//2, n, n): coupling to the left neighbour"""
    G: Array
    """(..., P//2, n, n): coupling to the right neighbour"""
    undetermined: Array
    """(..., P//2) bool"""


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
        return self._substitute_back(columns, levels, last, z, rows[..., :n, :])

    def normal_solve(self, g: Array) -> Array:
        system, xp = self.system, self.system.xp
        batch = broadcast_shapes({"system": system.batch, "g": tuple(g.shape[:-3])})
        columns = _Columns(xp, system.batch, batch)
        levels, last = columns.factor(self)
        g = columns.gather(xp.reshape(g, (*g.shape[:-2], system.n)), 2)
        w, g, _ = substitute_transposed(xp, levels, g)
        return self._substitute_back(columns, levels, last, w, solve_transposed(xp, last.R, g))

    def _substitute_back(
        self, columns: _Columns, levels: list[Level], last: Level, z: list[Array], z_last: Array
    ) -> Array:
        """R x = z level by level; NaN for undetermined members, (*batch, T, V, K)."""
        system, xp = self.system, self.system.xp
        x = columns.scatter(substitute_back(xp, levels, z, xp.linalg.solve(last.R, z_last)))
        x = xp.reshape(x, (*columns.batch, system.n_steps, system.V, system.K))
        bad = xp.any(self.undetermined, axis=-1)[..., None, None, None]
        return xp.where(bad, system.constant(xp.nan), x)


def factorize(system: System) -> ArrayFactor:
    """Eliminates all points: linear work, log2(T) levels."""
    xp = system.xp
    own, left, right = blocks(system)
    levels, own, left, _, norms = eliminate(system, own, left, right, column_norms(xp, own, left, right))
    last, _ = triangularise(system, last_rows(xp, system.n, own, left), norms)
    return ArrayFactor(system, tuple(levels), last)


def eliminate(
    system: System, own: Array, left: Array, right: Array, norms: Array
) -> tuple[list[Level], Array, Array, Array, Array]:
    """Eliminates all points but the first: the levels, and what is left of own, left, right and norms.

    Where there are as many couplings as points the last one leads to a point that is not among them, which stays.
    """
    levels = []
    while own.shape[-3] > 1:
        level, left, right = _eliminate(system, own, left, right, norms[..., 1::2, :])
        levels.append(level)
        own, norms = own[..., ::2, :, :], norms[..., ::2, :]
    return levels, own, left, right, norms


def reflect(
    xp: Namespace, n: int, levels: Sequence[Level], own: Array, coupling: Array
) -> tuple[list[Array], Array, Array]:
    """Q^T applied to right-hand sides (..., P, rows, columns) of own rows and couplings, level by level.

    Returns z, the right-hand sides of the eliminated points, and those of the first point and its coupling.
    """
    z = []
    for level in levels:
        P = own.shape[-3]
        coupling, to_left, to_right = _pairs(xp, P, coupling)
        rows = _pad(xp, xp.concat([own[..., 1::2, :, :], to_left, to_right], axis=-2), -2, 0, n)
        rows = xp.matrix_transpose(level.Q) @ rows
        z.append(rows[..., :n, :])
        coupling = _with_phantom(xp, P, coupling, rows[..., n:, :])
        own = own[..., ::2, :, :]
    return z, own, coupling


def substitute_back(
    xp: Namespace, levels: Sequence[Level], z: Sequence[Array], x: Array, beyond: Array | None = None
) -> Array:
    """R x = z level by level, from x at the first point and, where the last coupling leads there, beyond the last."""
    for level, z_odd in zip(reversed(levels), reversed(z), strict=True):
        h = z_odd.shape[-3]
        right = x[..., 1:, :, :]
        right = _pad(xp, right, -3, 0, h) if beyond is None else xp.concat([right, beyond], axis=-3)[..., :h, :, :]
        x_odd = xp.linalg.solve(level.R, z_odd - level.E @ x[..., :h, :, :] - level.G @ right)
        x = _interleave(xp, x, x_odd, axis=-3)
    return x


def substitute_transposed(xp: Namespace, levels: Sequence[Level], g: Array) -> tuple[list[Array], Array, Array]:
    """R^T w = g level by level: w of the eliminated points, what is left of g at the first and beyond the last."""
    mT = xp.matrix_transpose
    w, beyond = [], xp.zeros_like(g[..., :1, :, :])
    for level in levels:
        w_odd = solve_transposed(xp, level.R, g[..., 1::2, :, :])
        g = g[..., ::2, :, :]
        P, to_right = g.shape[-3], mT(level.G) @ w_odd
        beyond = beyond - (to_right[..., -1:, :, :] if to_right.shape[-3] == P else 0)
        g = g - _pad(xp, mT(level.E) @ w_odd, -3, 0, P) - _pad(xp, to_right[..., : P - 1, :, :], -3, 1, P)
        w.append(w_odd)
    return w, g, beyond


def _eliminate(system: System, own: Array, left: Array, right: Array, norms: Array) -> tuple[Level, Array, Array]:
    """One level: eliminates the odd points; the couplings between the even ones are left."""
    xp, n, P = system.xp, system.n, own.shape[-3]
    left, left_of_left, left_of_right = _pairs(xp, P, left)
    right, right_of_left, right_of_right = _pairs(xp, P, right)
    odd = own[..., 1::2, :, :]
    no_own, no_coupling = xp.zeros_like(odd), xp.zeros_like(left_of_left)
    rows = xp.concat(
        [
            xp.concat([odd, no_own, no_own], axis=-1),
            xp.concat([right_of_left, left_of_left, no_coupling], axis=-1),
            xp.concat([left_of_right, no_coupling, right_of_right], axis=-1),
        ],
        axis=-2,
    )
    level, remaining = triangularise(system, _pad(xp, rows, -2, 0, n), norms)
    new_left = _with_phantom(xp, P, left, remaining[..., :n])
    new_right = _with_phantom(xp, P, right, remaining[..., n:])
    return level, new_left, new_right


def triangularise(system: System, rows: Array, norms: Array) -> tuple[Level, Array]:
    """QR of rows (..., M, n + others): the factor of the point, and the rows that are left for the other columns."""
    xp, n = system.xp, system.n
    Q, full = xp.linalg.qr(rows, mode="reduced")
    R = full[..., :n, :n]
    undetermined = xp.abs(xp.linalg.diagonal(R)) <= 8 * n * xp.finfo(rows.dtype).eps * norms
    # a one on the diagonal keeps the back substitution from failing; the result is set to NaN where it was needed
    R = R + xp.eye(n, dtype=rows.dtype, device=system.device) * xp.astype(undetermined, rows.dtype)[..., None, :]
    others, remaining = full[..., :n, n:], full[..., n:, n:]
    half = others.shape[-1] // 2
    return Level(Q, R, others[..., :half], others[..., half:], xp.any(undetermined, axis=-1)), remaining


def _pairs(xp: Namespace, P: int, coupling: Array) -> tuple[Array, Array, Array]:
    """The couplings to the left and to the right of every odd point, of all (with the phantom's where P is even)."""
    if P % 2 == 0:
        coupling = _pad(xp, coupling, -3, 0, P)
    return coupling, coupling[..., 0 : P - 1 : 2, :, :], coupling[..., 1::2, :, :]


def _with_phantom(xp: Namespace, P: int, coupling: Array, new: Array) -> Array:
    """The couplings of the next level: the new ones and, where P is odd and there is one, the phantom's."""
    if P % 2 == 0 or coupling.shape[-3] < P:
        return new
    count = max(new.shape[-2], coupling.shape[-2])
    return xp.concat([_pad(xp, new, -2, 0, count), _pad(xp, coupling[..., -1:, :, :], -2, 0, count)], axis=-3)


def last_rows(xp: Namespace, n: int, own: Array, coupling: Array) -> Array:
    """The rows of the one point that is left: its own and those of its coupling to the phantom, at least n."""
    rows = xp.concat([own, coupling], axis=-2) if coupling.shape[-3] else own
    return _pad(xp, rows, -2, 0, n)


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


def solve_transposed(xp: Namespace, R: Array, b: Array) -> Array:
    """R^T x = b. Flipped, the lower triangular matrix is upper triangular, so that LU pivots nothing."""
    lower = xp.flip(xp.matrix_transpose(R), axis=(-2, -1))
    return xp.flip(xp.linalg.solve(lower, xp.flip(b, axis=-2)), axis=-2)


def blocks(system: System) -> tuple[Array, Array, Array]:
    """W A as own rows (*batch, T, mD, n) and couplings, left and right, (*batch, T-1, mC, n) each."""
    xp, T, V, K, n = system.xp, system.n_steps, system.V, system.K, system.n
    c, w = system.coefficients, system.weights
    T_init, R_init = system.n_initial_steps, system.n_initial_orders
    unit = xp.eye(n, dtype=system.dtype, device=system.device)
    select = xp.reshape(xp.reshape(unit, (V, K, n))[:, :R_init, :], (V * R_init, n))
    weight = xp.broadcast_to(w.initial, (*_lead(w.initial, 3), T_init, V, R_init))
    initial = xp.reshape(weight, (*weight.shape[:-3], T_init, V * R_init, 1)) * select
    equation = w.equation[..., None, None] * c
    own = _concat_rows(
        xp,
        (*system.batch, T),
        xp.reshape(equation, (*equation.shape[:-2], n)),
        _pad(xp, initial, -3, 0, T),
    )

    p = powers(xp, system.step_sizes, K) * w.smoothness[..., None]
    same = xp.eye(V, dtype=system.dtype, device=system.device)[:, None, :, None]

    def per_variable(M: Array) -> Array:
        blocks = same * (M * p[..., None, :])[..., None, :, None, :]
        blocks = xp.reshape(blocks, (*p.shape[:-1], V * M.shape[0], n))
        return xp.broadcast_to(blocks, (*system.batch, T - 1, V * M.shape[0], n))

    F, G = system.smoothness_matrices
    return own, per_variable(F), per_variable(G)


def stack_own(system: System, d: Rows) -> Array:
    """The right-hand side of the own rows in the order of `blocks`: (..., T, mD), broadcast to one batch shape."""
    xp, T = system.xp, system.n_steps
    initial = xp.reshape(d.initial, (*d.initial.shape[:-2], size(tuple(d.initial.shape[-2:]))))
    initial = _pad(xp, initial, -2, 0, T)
    batch = broadcast_shapes({"rhs": tuple(d.equation.shape[:-2]), "initial_values": tuple(initial.shape[:-2])})
    shapes = [(*batch, T, x.shape[-1]) for x in (d.equation, initial)]
    return xp.concat([xp.broadcast_to(x, s) for x, s in zip((d.equation, initial), shapes, strict=True)], axis=-1)


def _right_hand_side(system: System, d: Rows) -> tuple[_Columns, Array, Array]:
    """W d as own rows (..., T, mD, columns) and couplings (..., T-1, mC, columns), and how columns were gathered."""
    xp, T = system.xp, system.n_steps
    d = weighted(system.weights, d)
    own = stack_own(system, d)
    mC = system.V * system.smoothness_matrices[0].shape[0]
    if d.smoothness is None:
        coupling = xp.zeros((T - 1, mC), dtype=system.dtype, device=system.device)
    else:
        coupling = xp.reshape(d.smoothness, (*d.smoothness.shape[:-2], mC))
    batch = broadcast_shapes(
        {"system": system.batch, "rhs": tuple(own.shape[:-2]), "smoothness": tuple(coupling.shape[:-2])}
    )
    columns = _Columns(xp, system.batch, batch)
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
            return Level(*(drop(x) for x in (old.Q, old.R, old.E, old.G, old.undetermined)))

        return [level(old) for old in factor.levels], level(factor.last)


def _lead(x: Array, rank: int) -> Shape:
    """The batch axes of an array that broadcasts to one with `rank` last axes."""
    return tuple(x.shape[: max(x.ndim - rank, 0)])


def _concat_rows(xp: Namespace, lead: Shape, *blocks: Array) -> Array:
    """Blocks of rows (..., rows, n), broadcast to the leading shape and stacked."""
    return xp.concat([xp.broadcast_to(x, (*lead, *x.shape[-2:])) for x in blocks], axis=-2)


def column_norms(xp: Namespace, own: Array, left: Array, right: Array) -> Array:
    """The norms of the columns of W A, (..., T, n), safe from overflow; 1 for a column of zeros."""
    blocks = [own, _pad(xp, left, -3, 0, own.shape[-3]), _pad(xp, right, -3, 1, own.shape[-3])]
    rows = xp.concat(blocks, axis=-2)
    largest = xp.max(xp.abs(rows), axis=-2)
    largest = xp.where(largest == 0, xp.ones_like(largest), largest)
    return largest * xp.sqrt(xp.sum((rows / largest[..., None, :]) ** 2, axis=-2))
