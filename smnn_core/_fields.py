"""The inputs of a problem, in the order in which all functions take and give them: one table.

Letters as in `_problem`: T time points, V variables, K = R+1 derivative orders, Q equations; initial values at T_init
times of R_init orders. Time is the first axis behind those of the batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from ._arrays import Array, Shape
from ._errors import ArgumentError, ShapeError
from ._validate import LARGEST_T, batch_of, check_integer, check_rank

__all__ = ["FIELDS", "LHS_RANKS", "RANKS", "Field", "Sizes", "inputs_of", "lhs_of", "number_of_steps"]


class Sizes(NamedTuple):
    """The lengths of all axes behind those of the batch."""

    T: int
    Q: int
    V: int
    K: int
    T_init: int
    R_init: int


@dataclass(frozen=True)
class Field:
    """An input of a problem."""

    name: str
    """as callers type it"""
    axes: tuple[str, ...]
    """behind those of the batch: names of `Sizes`, or T-1"""
    rows: str
    """the kind of rows that it is of: a field of `Rows`"""
    n_repeated: int | None = 1
    """how many of the axes, the first ones, may have length 1; None: all, and any may be missing"""

    @property
    def rank(self) -> int:
        """The number of axes."""
        return len(self.axes)

    @property
    def is_weight(self) -> bool:
        return self.n_repeated is None

    @property
    def is_of_lhs(self) -> bool:
        """True if it belongs to the left-hand side W A."""
        return self.name not in ("rhs", "initial_values")

    def core(self, sizes: Sizes) -> Shape:
        """The lengths of the axes."""
        return tuple(sizes.T - 1 if axis == "T-1" else getattr(sizes, axis) for axis in self.axes)

    def batch(self, x: Array, sizes: Sizes) -> Shape:
        """The batch shape of x.

        Raises:
            ShapeError: if its last axes do not fit.
        """
        return batch_of(self.name, x, self.core(sizes), self.n_repeated)

    def check_rank(self, x: Array) -> None:
        """
        Raises:
            ShapeError: if x has too few axes.
        """
        repeated = self.rank if self.n_repeated is None else self.n_repeated
        names = (axis.replace("K", "R+1") + (" or 1" if i < repeated else "") for i, axis in enumerate(self.axes))
        check_rank(self.name, x, self.rank, f"(..., {', '.join(names)})")

    def n_steps(self, x: Array) -> int:
        """T as the time axis of x has it; 1 where that says nothing."""
        if self.axes[0] not in ("T", "T-1") or x.ndim < self.rank:
            return 1
        length: int = x.shape[-self.rank]  # (a symbolic size where shapes are traced)
        return length if self.axes[0] == "T" or length == 1 else length + 1


FIELDS = {
    field.name: field
    for field in (
        Field("coefficients", ("T", "Q", "V", "K"), "equation"),
        Field("rhs", ("T", "Q"), "equation"),
        Field("initial_values", ("T_init", "V", "R_init"), "initial", n_repeated=0),
        Field("step_sizes", ("T-1",), "smoothness"),
        Field("weights.equation", ("T", "Q"), "equation", n_repeated=None),
        Field("weights.initial", ("T_init", "V", "R_init"), "initial", n_repeated=None),
        Field("weights.smoothness", ("T-1",), "smoothness", n_repeated=None),
    )
}
"""By name, in order."""

RANKS = tuple(field.rank for field in FIELDS.values())
"""Axes of inputs and their gradients behind those of the batch, in that order."""


def lhs_of(inputs: Sequence[Any]) -> tuple[Any, ...]:
    """Of one value for each input, in order, those of the left-hand side."""
    c, _, _, *others = inputs
    return c, *others


def inputs_of(lhs: Sequence[Any], rhs: Any, initial_values: Any) -> tuple[Any, ...]:
    """The inverse of `lhs_of`."""
    c, *others = lhs
    return c, rhs, initial_values, *others


LHS_RANKS = lhs_of(RANKS)
"""Of the inputs of the left-hand side."""


def number_of_steps(given: Mapping[str, Array], n_steps: int | None) -> int:
    """T, from the first input whose time axis is not 1, else from n_steps."""
    lengths = {name: field.n_steps(given[name]) for name, field in FIELDS.items() if name in given}
    known = {name: length for name, length in lengths.items() if length != 1}
    if n_steps is not None:
        check_integer("n_steps", n_steps, " or None")
        known = {"n_steps": int(n_steps), **known}
    if not known:
        raise ArgumentError(
            "the number of time points is not determined: every time axis has length 1. Pass n_steps=T."
        )
    first = next(iter(known))
    T = known[first]
    for name, length in known.items():
        if length != T:
            times = "step_sizes" in known and known["step_sizes"] == T + 1
            raise ShapeError(
                f"{name} implies T = {length} time points, {first} implies T = {T}: time axes must have length T "
                "(T-1 for step_sizes and weights.smoothness) or 1."
                + (" Are step_sizes the times? They must be their differences, such as numpy.diff(t)." if times else "")
            )
    if T > LARGEST_T:
        raise ShapeError(f"{first} implies T = {T} time points; at most {LARGEST_T} can be numbered.")
    if T < 2:
        raise ShapeError(f"{first} implies T = {T} time points; at least 2 are needed.")
    return T
