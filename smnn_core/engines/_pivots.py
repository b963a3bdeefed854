"""Which pivots are nothing but rounding: Monte Carlo arithmetic.

Rows may differ by any factor, so that no norm says how large the error of a pivot is. The rows are eliminated again
with random relative errors in every entry, small and much larger than those of rounding. A pivot that is nothing but
error becomes another one, about PERTURBATION / eps times larger; any other keeps its leading digits, if the rows
determine it at all. Zeros stay zero: what rows cannot see they do not see in any run.
Source: Parker, Monte Carlo Arithmetic, UCLA CSD-970002, 1997.
"""

from __future__ import annotations

from collections.abc import Sequence

from .._arrays import Array, Namespace, device_of, size
from ._odd_even import Couplings, Level

PERTURBATION = 48
"""The largest random error, in units of eps: 1e-14 in float64."""
LARGEST_CHANGE = 0.1
"""A pivot that changes by more than this part of itself is an error."""
SMALL = 1e-6
"""Pivots below this times the largest entry that its unknown ever has in a row are looked at."""
RUNS = 2


def has_small(xp: Namespace, levels: Sequence[Level]) -> bool:
    """True if some pivot is small enough to be looked at. Asks for values."""
    largest = xp.stack([xp.max(level.sizes, axis=-2) for level in levels])
    largest = xp.max(largest, axis=0)[..., None, :]
    return any(bool(xp.any(xp.abs(level.pivots) <= SMALL * largest)) for level in levels)


def perturbed(xp: Namespace, own: Array, couplings: Couplings, run: int) -> tuple[Array, Couplings]:
    """Own rows and couplings with errors in every entry; other ones in every run."""
    changed = [_perturbed(xp, x, 8 * run + i) for i, x in enumerate((own, *couplings))]
    return changed[0], Couplings(*changed[1:])


def _perturbed(xp: Namespace, x: Array, seed: int) -> Array:
    # sines of a geometric sequence of angles, taken modulo 1: no table of random numbers enters a traced program
    index = xp.reshape(xp.arange(1, size(x.shape[-3:]) + 1, dtype=x.dtype, device=device_of(x)), x.shape[-3:])
    noise = xp.sin((index + seed / 8) * (12.9898 + seed)) * 43758.5453
    return x * (1 + PERTURBATION * xp.finfo(x.dtype).eps * (2 * (noise - xp.floor(noise)) - 1))


def with_perturbed(xp: Namespace, own: Array, couplings: Couplings) -> tuple[Array, Couplings]:
    """The rows and the same perturbed, along a new first axis: for one program that eliminates both."""
    other, others = perturbed(xp, own, couplings, 0)
    stacked = [xp.stack([a, b]) for a, b in zip((own, *couplings), (other, *others), strict=True)]
    return stacked[0], Couplings(*stacked[1:])


def of_run(levels: Sequence[Level], run: int) -> list[Level]:
    """The levels of one run of `with_perturbed`."""
    return [Level(**{k: x if isinstance(x, int) else x[run] for k, x in vars(level).items()}) for level in levels]


def are_zero(xp: Namespace, level: Level) -> Array:
    """(..., P//2) bool: points of a level with a pivot that is zero."""
    return xp.any(level.pivots == 0, axis=-1)


def are_noise(xp: Namespace, level: Level, others: Sequence[Level]) -> Array:
    """(..., P//2) bool: points of a level with a pivot that is not the same in other runs."""
    changes = [xp.abs(xp.abs(other.pivots) - xp.abs(level.pivots)) for other in others]
    flags = [xp.any(change > LARGEST_CHANGE * xp.abs(level.pivots), axis=-1) for change in changes]
    return xp.any(xp.stack([xp.zeros_like(are_zero(xp, level)), *flags]), axis=0)
