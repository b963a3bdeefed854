"""Iterative refinement of what a factor solves.

Elimination mixes rows of very different sizes, by their weights or by powers of short steps. What a result leaves of
its equation is computed row by row, and a correction from it has the digits that light rows have lost to heavy ones.

Least squares are the augmented system

    v + W A y = f,    (W A)^T v = 0,

whose equations have corrections of their own: y is corrected by what is left of the first, until that is small, and v
is what remains of it; then both are corrected once by what rounding leaves of the second, which is that of heavy rows
that contradict one another. Multipliers of rows, v in the range of W A with (W A)^T v = g, are corrected by what is
left of that. Source: Björck, BIT 7 (1967) 257, who corrects both at once: where steps are very short that does
not converge. There the last correction is made of the rounding of (W A)^T v itself, and it is left out: it
would come again.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import reduce
from typing import Any, Protocol

import array_api_compat as compat
import numpy as np

from .._arrays import Array, Namespace, size
from .._constraints import apply, apply_transpose, subtract, weighted
from .._errors import AccuracyWarning
from .._problem import Rows, System, Weights

REFINEMENTS = 4
"""At most; two where values cannot be looked at."""
SETTLED = 1e-9
"""A correction of this size beside the result is the last one."""
SETTLING = 1e-3
"""A correction above this, after all refinements, is that of a singular system: these grow by a constant each time, so
that the last correction is about a fifth. Well-conditioned pivots shrink corrections by ten or more each time."""
TINY = 1e-12
"""A correction of this size can be taken whatever it is made of."""
COMES_AGAIN = 0.1
"""A correction that has more than this part of its size when it is computed once more is made of rounding errors."""
UNSETTLED = 1e-2
"""A last correction above this is told."""


class Solver(Protocol):
    """A factor, whose solves are refined."""

    @property
    def system(self) -> System:
        """Its left-hand side."""

    def solve_augmented(
        self, f: Rows | None, g: Array | None, *, rows: bool = True, states: bool = True
    ) -> tuple[Any, Any]:
        """v and y with v + W A y = f and (W A)^T v = g; None is zero."""


def least_squares(factor: Solver, f: Rows) -> tuple[Rows, Array]:
    """v = f - W A y and y at the minimum of |v|, both refined."""
    system = factor.system
    xp = system.xp
    y = refined_solution(factor, f)
    v, dy = factor.solve_augmented(rows_left(system, f, y), None)
    y = y + dy
    if not system.can_look or 0 in y.shape:
        return v, y
    dv, dy = _of_heavy_rows(factor, v)
    finite = xp.all(xp.isfinite(dy), axis=(-3, -2, -1))
    size = change_of_solution(system, y, dy)
    is_kept = finite & (size <= TINY)
    if bool(xp.any(finite & ~is_kept)):
        _, again = _of_heavy_rows(factor, add_rows(v, dv))
        is_kept = is_kept | (finite & (change_of_solution(system, y, again) < COMES_AGAIN * size))
    v = Rows(*(xp.where(members(is_kept, a), a + b, a) for a, b in zip(v, dv, strict=True)))
    return v, xp.where(members(is_kept, y), y + dy, y)


def _of_heavy_rows(factor: Solver, v: Rows) -> tuple[Rows, Array]:
    """The corrections of v and y by what is left of (W A)^T v = 0. Where that overflows they are not finite, and not
    kept."""
    with np.errstate(over="ignore", invalid="ignore"):
        return factor.solve_augmented(None, -_transpose(factor.system, v))


def refined_solution(factor: Solver, f: Rows, *, always: bool = True) -> Array:
    """y at the minimum of |f - W A y|; an `AccuracyWarning` where the last correction is not small."""
    y, sizes = refined_states(factor.system, _states_of(factor, f), always=always)
    _tell(factor.system.xp, sizes)
    return y


def is_solved(factor: Solver) -> Array:
    """True if refinement settles, for some right-hand side, by batch member: then the pivots are no mere errors."""
    system, xp = factor.system, factor.system.xp

    def wave(*shape: int) -> Array:
        return xp.reshape(xp.cos(xp.arange(size(shape), dtype=system.dtype, device=system.device)), shape)

    T = system.n_steps
    d = Rows(wave(T, system.Q), wave(system.n_initial_steps, system.V, system.n_initial_orders), None)
    sizes: Array = refined_states(system, _states_of(factor, weighted(system.weights, d)))[1]
    return sizes <= SETTLING


def _states_of(factor: Solver, f: Rows) -> Callable[[Array | None], Array]:
    """States that solve v + W A y = f, or what these leave of it."""

    def solve(y: Array | None) -> Array:
        left = f if y is None else rows_left(factor.system, f, y)
        return factor.solve_augmented(left, None, rows=False)[1]

    return solve


def refined_states(
    system: System, solve: Callable[[Array | None], Array], *, always: bool = True, most: int = REFINEMENTS
) -> tuple[Array, Array | None]:
    """The states solve(None), corrected by solve(y) of what they are, and the size of the last correction, by batch
    member: None where values cannot be looked at."""
    (y,), sizes = _refine(
        system,
        lambda x: (solve(None if x is None else x[0]),),
        lambda y, dy: change_of_solution(system, y[0], dy[0]),
        always=always,
        most=most,
    )
    return y, sizes


def refined_multipliers(factor: Solver, g: Array) -> Rows:
    """v in the range of W A with (W A)^T v = g."""
    system = factor.system

    def solve(v: tuple[Array, ...] | None) -> tuple[Array, ...]:
        left = g if v is None else g - _transpose(system, Rows(*v))
        rows: Rows = factor.solve_augmented(None, left, states=False)[0]
        return rows

    v, sizes = _refine(system, solve, lambda v, dv: change_of_rows(system.xp, Rows(*v), Rows(*dv)))
    _tell(system.xp, sizes)
    return Rows(*v)


def refined_once(factor: Solver, f: Rows | None, g: Array | None) -> tuple[Rows, Array]:
    """v and y with v + W A y = f and (W A)^T v = g, corrected by what is left of the second, for factors whose y leaves
    nothing of the first."""
    v, y = factor.solve_augmented(f, g)
    left = _transpose(factor.system, v)
    dv, dy = factor.solve_augmented(None, -left if g is None else g - left)
    return add_rows(v, dv), y + dy


def _refine(
    system: System,
    solve: Callable[[tuple[Array, ...] | None], tuple[Array, ...]],
    change: Callable[[tuple[Array, ...], tuple[Array, ...]], Array],
    *,
    always: bool = True,
    most: int = REFINEMENTS,
) -> tuple[tuple[Array, ...], Array | None]:
    """solve(None), corrected by what solve makes of itself until `change`, the size of a correction, is small.

    Each batch member stops when its own correction is small, whatever the others do. The first correction is always
    added, or, unless `always`, only where it is not small. Returns the size of the last correction of each member, too.
    """
    xp = system.xp
    x = solve(None)
    looks = system.can_look and any(0 not in part.shape for part in x)
    sizes = active = None
    for _ in range(most if looks else 2):
        dx = solve(x)
        if looks:
            sizes = change(x, dx)
            if active is None and not always:
                active = sizes > SETTLED
        if active is None:
            x = tuple(a + b for a, b in zip(x, dx, strict=True))
        else:
            x = tuple(xp.where(members(active, a), a + b, a) for a, b in zip(x, dx, strict=True))
        if sizes is not None:
            active = sizes > SETTLED
            if not bool(xp.any(active)):
                break
    return x, sizes


def rows_left(system: System, f: Rows, y: Array) -> Rows:
    """f - W A y; None is zero."""
    return subtract(f, weighted(system.weights, apply(system, y)))


def _tell(xp: Namespace, sizes: Array | None) -> None:
    if sizes is not None and bool(xp.any(sizes > UNSETTLED)):
        warnings.warn(
            f"iterative refinement still changes the result by {float(xp.max(sizes)):.0e} of itself, as a rule in its "
            "highest derivatives: the system is too ill-conditioned for these to be trusted. Fewer derivatives (a "
            "smaller R) or steps that differ less will help.",
            AccuracyWarning,
            stacklevel=2,
        )


def _transpose(system: System, v: Rows) -> Array:
    """(W A)^T v."""
    return apply_transpose(system, weighted(system.weights, v))


def add_rows(v: Rows, dv: Rows) -> Rows:
    """v + dv."""
    return Rows(*(a + b for a, b in zip(v, dv, strict=True)))


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


def members(mask: Array, x: Array) -> Array:
    """A mask of batch members with axes of length one for the others of x, (*batch, ...)."""
    return mask[(..., *(None,) * (x.ndim - mask.ndim))]


def change_of_solution(system: System, y: Array, dy: Array) -> Array:
    """The largest |dy| beside |y| over all orders, (*batch,).

    The size of an order is that of its largest entry, or of what lower orders would give it if they changed over the
    whole time once, or of what higher ones change it by across the shortest step: where an order is zero but for its
    rounding errors, these are not taken for the solution.
    """
    xp, K = system.xp, system.K
    steps = xp.abs(system.step_sizes)
    span = xp.sum(steps, axis=-1) * (1 if steps.shape[-1] > 1 else system.n_steps)
    shortest = xp.min(steps, axis=-1) if steps.shape[-1] else span
    large, small = (_largest(xp, a, (-3, -2)) for a in (y, dy))
    sizes = [large[..., r] for r in range(K)]
    for r in range(1, K):
        sizes[r] = xp.maximum(sizes[r], sizes[r - 1] / xp.where(span == 0, xp.ones_like(span), span))
    for r in reversed(range(K - 1)):
        sizes[r] = xp.maximum(sizes[r], sizes[r + 1] * shortest)
    changes = [small[..., r] / xp.where(x == 0, xp.ones_like(x), x) for r, x in enumerate(sizes)]
    return xp.max(xp.stack(changes, axis=-1), axis=-1)


def change_of_rows(xp: Namespace, v: Rows, dv: Rows) -> Array:
    """The largest |dv| beside the largest |v|, (*batch,)."""
    large, small = (_largest_row(xp, rows) for rows in (v, dv))
    return small / xp.where(large == 0, xp.ones_like(large), large)


def _largest_row(xp: Namespace, rows: Rows) -> Array:
    cores = {"equation": 2, "initial": 3, "smoothness": 3}
    return reduce(
        xp.maximum,
        [
            _largest(xp, x, tuple(range(-core, 0)))
            for name, core in cores.items()
            if 0 not in (x := getattr(rows, name)).shape
        ],
    )


def _largest(xp: Namespace, x: Array, axes: tuple[int, ...]) -> Array:
    """The largest |x|, leaving out what is not finite."""
    return xp.max(xp.where(xp.isfinite(x), xp.abs(x), xp.zeros_like(x)), axis=axes)
