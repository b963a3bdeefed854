"""The cost of residuals, and weights of the least-squares problem that touches that cost (iteratively reweighted)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from .._arrays import Array
from .._errors import ArgumentError

__all__ = ["LOSSES", "Loss", "loss_of"]


@dataclass(frozen=True)
class Loss:
    """Functions of residuals r in standard deviations."""

    name: str
    cost: Callable[[Array], Array]
    weight: Callable[[Array], Array]
    """c'(r) / (2 r)"""
    bend: Callable[[Array], Array]
    """c''(r) / 2"""
    square: Callable[[Array], Array]
    """mean 1 where the standard deviation is right"""

    def __reduce__(self) -> tuple[Any, ...]:
        return loss_of, (self.name,)


DEGREES = 4.0
"""Of freedom of Student's t: outliers of 10 deviations have 1/20 of the weight of a residual of none."""
HUBER = 1.345
"""Deviations from which residuals count linearly: 95 % efficiency with normal noise (Huber, Ronchetti, Robust
Statistics, Wiley 2009)."""
HUBER_SQUARE = 0.71016
"""Mean of min(r², HUBER²) for normal r."""

LOSSES = {
    "squares": Loss("squares", lambda r: r * r, np.ones_like, np.ones_like, lambda r: r * r),
    "student": Loss(
        "student",
        lambda r: (DEGREES + 1) * np.log1p(r * r / DEGREES),
        lambda r: (DEGREES + 1) / (DEGREES + r * r),
        lambda r: (DEGREES + 1) * (DEGREES - r * r) / (DEGREES + r * r) ** 2,
        lambda r: (DEGREES + 1) / (DEGREES + r * r) * r * r,  # its likelihood is largest there
    ),
    "huber": Loss(
        "huber",
        lambda r: np.where(np.abs(r) < HUBER, r * r, 2 * HUBER * np.abs(r) - HUBER**2),
        lambda r: HUBER / np.maximum(np.abs(r), HUBER),
        lambda r: np.where(np.abs(r) < HUBER, 1.0, 0.0),
        lambda r: np.minimum(r * r, HUBER**2) / HUBER_SQUARE,  # Huber's second proposal
    ),
}


def loss_of(name: str) -> Loss:
    """The loss of that name; ArgumentError for others."""
    if name not in LOSSES:
        raise ArgumentError(f"loss must be one of {sorted(LOSSES)}, got {name!r}.")
    return LOSSES[name]
