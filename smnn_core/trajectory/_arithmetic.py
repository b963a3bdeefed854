"""The few operations in which arrays that are looked at and arrays that are traced differ.

All else in this package is written once, in functions that NumPy, JAX and the array API standard name alike, and
without writing into arrays.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from array_api_compat import array_namespace

from .._arrays import Array, Namespace
from .._problem import UNIT, Problem
from .._schemes import Scheme
from .._solve import solve_without_raising
from .._weighting import weighted_problem

__all__ = ["INCREMENTS", "NUMPY", "Arithmetic", "namespace_of"]

INCREMENTS = Scheme.from_matrices(
    [[1.0, 1.0]], [[-1.0, 0.0]], name="increments", citation="x[t] + (x[t+1] - x[t]) = x[t+1]"
)
"""The scheme that ties points together whose second unknown is the increment to the next."""


def namespace_of(x: Array) -> Namespace:
    """The functions for an array."""
    return np if isinstance(x, np.ndarray) else array_namespace(x)


_State = TypeVar("_State")


@dataclass(frozen=True)
class Arithmetic:
    """An array library for the code of this package."""

    xp: Namespace
    inverse: Callable[[Array], Array]
    """of square matrices, NaN or infinite where there is none"""
    put: Callable[[Array, tuple[Any, ...], Array], Array]
    """(x, index, values) -> x with other values at the index; x may be written into"""
    loop: Callable[[Callable[[Any], Array], Callable[[Any], Any], Any], Any]
    """(going, advance, state) -> the first state for which going(state) is false"""
    solve: Callable[[Array, Array, str], Array]
    """(coefficients (B, T, Q, m, 2), b (B, T, Q), engine) -> y (B, T, m, 2) of the problem with the scheme
    `INCREMENTS`, NaN where it is singular"""


def _inverse(A: np.ndarray) -> np.ndarray:
    try:
        return np.linalg.inv(A)
    except np.linalg.LinAlgError:
        inverse = np.full_like(A, np.nan)
        for i in np.ndindex(A.shape[:-2]):
            try:
                inverse[i] = np.linalg.inv(A[i])
            except np.linalg.LinAlgError:
                continue
        return inverse


def _put(x: np.ndarray, index: tuple[Any, ...], values: np.ndarray) -> np.ndarray:
    x[index] = values
    return x


def _loop(going: Callable[[_State], Any], advance: Callable[[_State], _State], state: _State) -> _State:
    while going(state):
        state = advance(state)
    return state


def _solve(coefficients: np.ndarray, b: np.ndarray, engine: str) -> np.ndarray:
    _, T, _, m, _ = coefficients.shape
    none = np.zeros((0, m, 1))
    problem = Problem.build(coefficients, b, none, np.ones(1), n_steps=T, scheme=INCREMENTS, weights=UNIT, values=False)
    return solve_without_raising(weighted_problem(problem), engine=engine)[0]


NUMPY = Arithmetic(np, _inverse, _put, _loop, _solve)
