"""Checks of arguments by their shapes: each names the argument, what it is, and what was expected."""

from __future__ import annotations

from operator import index
from typing import Any

from ._arrays import Array, Shape
from ._errors import ArgumentError, ShapeError

LARGEST_T = 2**31 - 1
"""Time points are numbered by 32-bit integers."""


def show(x: Array) -> str:
    return f"of shape {tuple(x.shape)}"


def check_rank(name: str, x: Array, rank: int, expected: str) -> None:
    if x.ndim < rank:
        raise ShapeError(f"{name} must have shape {expected}, at least {rank} axes; got {show(x)}.")


def check_integer(
    name: str, value: Any, alternative: str = "", *, least: int | None = None, most: int | None = None
) -> int:
    """The value as an int.

    Raises:
        TypeError: if it is none, or a bool.
        ArgumentError: if it is below the least, or above the most.
    """
    try:
        number = index(value)
    except TypeError:
        raise TypeError(f"{name} must be an integer{alternative}, got {type(value).__name__}.") from None
    if isinstance(value, bool):
        raise TypeError(f"{name} must be an integer{alternative}, got bool.")
    if least is not None and number < least:
        raise ArgumentError(f"{name} must be an integer from {least} on{alternative}; got {number}.")
    if most is not None and number > most:
        raise ArgumentError(f"{name} must be an integer up to {most}{alternative}; got {number}.")
    return number


def check_initial(T_init: int, R_init: int, T: int, K: int, *, names: tuple[str, str]) -> None:
    """`names` are those of the arguments that T_init and R_init come from."""
    if not 0 <= T_init <= T:
        raise ShapeError(f"{names[0]} is for T_init = {T_init} time points; expected 0 to T = {T}.")
    if not 0 <= R_init <= K:
        raise ShapeError(f"{names[1]} is for R_init = {R_init} orders; expected 0 to R+1 = {K}.")


def batch_of(name: str, x: Array, core: Shape, n_broadcast: int | None = None) -> Shape:
    """The batch shape of x, whose last axes must be `core`; the first n_broadcast of them (None: all) may be 1."""
    rank = len(core)
    if n_broadcast is None and not x.ndim:
        return ()
    if x.shape[-rank:] == core:
        return tuple(x.shape[:-rank])
    optional = rank if n_broadcast is None else n_broadcast
    tail = tuple(x.shape[-rank:]) if x.ndim else ()
    expected = core[len(core) - len(tail) :] if n_broadcast is None else core
    first = rank - len(expected)
    fits = len(tail) == len(expected) and all(
        have == want or (have == 1 and first + i < optional)
        for i, (have, want) in enumerate(zip(tail, expected, strict=False))
    )
    if not fits:
        shape = ", ".join(f"{size} or 1" if i < optional else str(size) for i, size in enumerate(core))
        raise ShapeError(f"{name} must have shape (..., {shape}); got {show(x)}.")
    return tuple(x.shape[: max(x.ndim - rank, 0)])
