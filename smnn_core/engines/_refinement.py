"""Iterative refinement: a result is corrected by what the same solver makes of its residual, until that is small."""

from __future__ import annotations

import warnings
from collections.abc import Callable

from .._arrays import Array, Namespace
from .._errors import AccuracyWarning
from .._problem import System

REFINEMENTS = 4
"""At most; two where values cannot be looked at. One suffices but for steps that differ by 10^4 and R = 5."""
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
    change: Callable[[tuple[Array, ...], tuple[Array, ...]], float],
) -> tuple[Array, ...]:
    """solve(None), a tuple of arrays, corrected by what solve makes of itself until that is small.

    `change(x, dx)` is the size of a correction dx beside that of x. Warns of an `AccuracyWarning` where the last
    correction is not small.
    """
    x = solve(None)
    size, looks = 0.0, system.can_look and any(0 not in part.shape for part in x)
    for _ in range(REFINEMENTS if looks else 2):
        dx = solve(x)
        x = tuple(a + b for a, b in zip(x, dx, strict=True))
        if looks:
            size = change(x, dx)
            if size <= SETTLED:
                break
    if size > UNSETTLED:
        warnings.warn(
            f"iterative refinement still changes the result by {size:.0e} of itself, as a rule in its highest "
            "derivatives: the system is too ill-conditioned for these to be trusted. Fewer derivatives (a smaller R) "
            "or steps that differ less will help.",
            AccuracyWarning,
            stacklevel=2,
        )
    return x


def change_of_solution(system: System, y: Array, dy: Array) -> Array:
    """The largest |dy| beside |y| over all orders, (*batch,).

    The size of an order is that of its largest entry, or of what lower orders would give it if they changed over the
    whole time once: derivatives of a constant are no more than their rounding errors.
    """
    xp = system.xp
    span = xp.sum(xp.abs(system.step_sizes), axis=-1) * (1 if system.step_sizes.shape[-1] > 1 else system.n_steps)
    large, small = (_largest(xp, a, (-3, -2)) for a in (y, dy))
    floor, worst = large[..., 0], small[..., 0] * 0
    for r in range(system.K):
        floor = xp.maximum(large[..., r], floor)
        worst = xp.maximum(worst, small[..., r] / xp.where(floor == 0, xp.ones_like(floor), floor))
        floor = floor / xp.where(span == 0, xp.ones_like(span), span)
    return worst


def change_of_rows(xp: Namespace, v: tuple[Array, ...], dv: tuple[Array, ...]) -> float:
    """The largest |dv| beside the largest |v|."""
    large, small = (
        max(float(_largest(xp, x, tuple(range(x.ndim)))) for x in rows if 0 not in x.shape) for rows in (v, dv)
    )
    return small / large if large else small


def _largest(xp: Namespace, x: Array, axes: tuple[int, ...]) -> Array:
    """The largest |x|, leaving out what is not finite."""
    return xp.max(xp.where(xp.isfinite(x), xp.abs(x), xp.zeros_like(x)), axis=axes)
