"""Checks of arguments by their shapes: each names the argument, what it is, and what was expected."""

from __future__ import annotations

from collections.abc import Mapping
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


def number_of_steps(arrays: Mapping[str, Array], weights: Mapping[str, Array], n_steps: int | None) -> int:
    """T, from the first argument whose time axis is not 1, else from n_steps."""
    lengths = {
        "coefficients": arrays["coefficients"].shape[-4],
        "rhs": arrays["rhs"].shape[-2] if "rhs" in arrays else 1,
        "step_sizes": _from_steps(arrays["step_sizes"].shape[-1]),
    }
    if "weights.equation" in weights and weights["weights.equation"].ndim >= 2:
        lengths["weights.equation"] = weights["weights.equation"].shape[-2]
    if "weights.smoothness" in weights and weights["weights.smoothness"].ndim >= 1:
        lengths["weights.smoothness"] = _from_steps(weights["weights.smoothness"].shape[-1])
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


def _from_steps(length: int) -> int:
    return 1 if length == 1 else length + 1


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
