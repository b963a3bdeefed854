"""Iterative refinement: a result is corrected by what the same solver makes of its residual, until that is small."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import reduce

import array_api_compat as compat

from .._arrays import Array, Namespace
from .._errors import AccuracyWarning
from .._problem import Rows, System, Weights

REFINEMENTS = 4
"""At most; two where values cannot be looked at."""
SETTLED = 1e-9
"""A correction of this size beside the result is the last one."""
SETTLING = 1e-3
"""A correction above this, after all refinements, is that of a singular system: these grow by a constant each time, so
that the last correction is about a fifth. Well-conditioned pivots shrink corrections by ten or more each time."""
UNSETTLED = 1e-2
"""A last correction above this is told."""


def refined(
    system: System,
    solve: Callable[[tuple[Array, ...] | None], tuple[Array, ...]],
    change: Callable[[tuple[Array, ...], tuple[Array, ...]], Array],
    *,
    always: bool = True,
) -> tuple[Array, ...]:
    """As `refine`, without the size of the last correction: an `AccuracyWarning` where that is not small."""
    x, sizes = refine(system, solve, change, always=always)
    if sizes is not None and bool(system.xp.any(sizes > UNSETTLED)):
        warnings.warn(
            f"iterative refinement still changes the result by {float(system.xp.max(sizes)):.0e} of itself, as a rule "
            "in its highest derivatives: the system is too ill-conditioned for these to be trusted. Fewer derivatives "
            "(a smaller R) or steps that differ less will help.",
            AccuracyWarning,
            stacklevel=2,
        )
    return x


def refine(
    system: System,
    solve: Callable[[tuple[Array, ...] | None], tuple[Array, ...]],
    change: Callable[[tuple[Array, ...], tuple[Array, ...]], Array],
    *,
    always: bool = True,
) -> tuple[tuple[Array, ...], Array | None]:
    """solve(None), a tuple of arrays, corrected by what solve makes of itself until that is small.

    `change(x, dx)` is the size of a correction dx beside that of x, by batch member; each member is corrected as often
    as it takes itself, whatever the others do: once at least, or, unless `always`, only where the correction is not
    small. Returns the size of the last correction of each member, too: None where values cannot be looked at.
    """
    xp = system.xp
    x = solve(None)
    looks = system.can_look and any(0 not in part.shape for part in x)
    sizes = active = None
    for _ in range(REFINEMENTS if looks else 2):
        dx = solve(x)
        if looks:
            sizes = change(x, dx)
            if active is None and not always:
                active = sizes > SETTLED
        if active is not None:
            mask = xp.astype(active, system.dtype)
            dx = tuple(xp.reshape(mask, (*mask.shape, *(1,) * (a.ndim - mask.ndim))) * a for a in dx)
        x = tuple(a + b for a, b in zip(x, dx, strict=True))
        if sizes is not None:
            active = sizes > SETTLED
            if not bool(xp.any(active)):
                break
    return x, sizes


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
    cores = {"equation": 2, "initial": 3, "smoothness": 3}
    large, small = (
        reduce(
            xp.maximum,
            [
                _largest(xp, x, tuple(range(-core, 0)))
                for name, core in cores.items()
                if 0 not in (x := getattr(rows, name)).shape
            ],
        )
        for rows in (v, dv)
    )
    return small / xp.where(large == 0, xp.ones_like(large), large)


def _largest(xp: Namespace, x: Array, axes: tuple[int, ...]) -> Array:
    """The largest |x|, leaving out what is not finite."""
    return xp.max(xp.where(xp.isfinite(x), xp.abs(x), xp.zeros_like(x)), axis=axes)
