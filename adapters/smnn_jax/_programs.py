"""One compiled program for a function with closures, found again for every function that traces to the same operations.

`jax.jit` finds its programs by the identity of a function, and a residual is often written anew in each call. Here the
key is what the function does: its jaxpr, whose constants, the arrays and tracers that it closes over, are arguments.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal, gensym, jaxpr_as_fun

Array = Any

__all__ = ["as_program"]

MOST = 256
"""Programs that are kept."""


class _Operations:
    """A jaxpr, equal to others of the same operations on the same kinds of arrays."""

    def __init__(self, jaxpr: Jaxpr) -> None:
        self.jaxpr = jaxpr
        self.structure = _structure(jaxpr)
        self.hash = hash(self.structure)

    def __hash__(self) -> int:
        return self.hash

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Operations) and self.structure == other.structure


def _structure(jaxpr: Jaxpr) -> tuple[Any, ...]:
    """Hashable, equal for jaxprs that differ in the names of their variables alone."""
    place: dict[Any, int] = {}

    def of(x: Any) -> Any:
        if isinstance(x, Literal):
            return x.aval, _frozen(x.val)
        return place.setdefault(x, len(place)), x.aval

    heads = tuple(map(of, jaxpr.constvars)), tuple(map(of, jaxpr.invars))
    equations = tuple(
        (
            e.primitive,
            tuple(map(of, e.invars)),
            tuple(map(of, e.outvars)),
            tuple((name, _frozen(value)) for name, value in sorted(e.params.items())),
        )
        for e in jaxpr.eqns
    )
    return heads, equations, tuple(map(of, jaxpr.outvars))


class _Same:
    """An object that equals itself alone."""

    def __init__(self, x: Any) -> None:
        self.x = x

    def __hash__(self) -> int:
        return id(self.x)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self.x is other.x


def _frozen(x: Any) -> Any:
    """A parameter of an operation as a key; what cannot be compared is equal to itself alone."""
    if isinstance(x, ClosedJaxpr):
        return _structure(x.jaxpr), tuple(map(_frozen, x.consts))
    if isinstance(x, Jaxpr):
        return _structure(x)
    if isinstance(x, (tuple, list)):
        return type(x), tuple(map(_frozen, x))
    if isinstance(x, (np.ndarray, np.generic)):
        return x.shape, x.dtype, x.tobytes()
    if isinstance(x, (bool, int, float, complex)):
        return type(x), repr(x)  # repr tells -0.0 from 0.0, and NaN is like NaN
    try:
        hash(x)
    except TypeError:
        return _Same(x)
    return type(x), x


@lru_cache(maxsize=MOST)
def _program(operations: _Operations) -> Callable[..., list[Array]]:
    jaxpr = operations.jaxpr
    return jax.jit(lambda held, given: jaxpr_as_fun(ClosedJaxpr(jaxpr, held))(*given))


def _lifted(closed: ClosedJaxpr) -> ClosedJaxpr:
    """With the numbers of floating point of its operations, which may be others in the next call, as constants."""
    new, variables, values = gensym(), [], []

    def of(x: Any) -> Any:
        if not isinstance(x, Literal) or not np.issubdtype(x.aval.dtype, np.floating):
            return x
        variables.append(new(x.aval))
        values.append(np.asarray(x.val, x.aval.dtype))
        return variables[-1]

    jaxpr = closed.jaxpr
    equations = [e.replace(invars=[of(x) for x in e.invars]) for e in jaxpr.eqns]
    return ClosedJaxpr(
        jaxpr.replace(constvars=[*jaxpr.constvars, *variables], eqns=equations), [*closed.consts, *values]
    )


def as_program(
    function: Callable[..., Any],
    *examples: Any,
    held: Callable[[Any], Any] = lambda x: x,
) -> Callable[..., Any]:
    """The function for arguments of the shapes and dtypes of the examples, as one program. All derivatives and
    transforms pass through it, to what it closes over as well. Functions that differ in numbers of floating point alone
    are one program.

    Args:
        held: applied to each array that the function closes over.
    """
    closed, shape = jax.make_jaxpr(function, return_shape=True)(*examples)
    closed = _lifted(closed)
    program, tree = _program(_Operations(closed.jaxpr)), jax.tree.structure(shape)
    constants = [held(x) for x in closed.consts]
    return lambda *given: jax.tree.unflatten(tree, program(constants, jax.tree.leaves(given)))
