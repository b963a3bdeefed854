"""Gradients of those batch members that the compiled adjoint does not refine, by the array API engine."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from math import ceil, prod
from typing import Any

import numpy as np

from .._constraints import apply, apply_transpose, residual, weighted
from .._errors import AccuracyWarning
from .._gradient import NormalSolve
from .._problem import Gradients, Problem, Weights
from ._interface import RANKS, by_field, from_fields
from ._refinement import widened
from .array_api import ArrayEngine

NUMBERS = 1 << 21
"""Unknowns that are eliminated at a time: the engine takes some hundred times their memory."""
LARGEST_CHANGE = 1e-8
"""As in _cpu/adjoint.hpp."""


UNREFINED = (
    "gradients may have no correct digit: rows of the system differ so much in size that refining the adjoint does not "
    "converge. Equations in units in which they are as large as the variables, or steps that differ less, will help."
)


def replace_unrefined(
    problem: Problem,
    y: np.ndarray,
    g: np.ndarray,
    gradients: list[np.ndarray | None],
    undetermined: np.ndarray | None,
    contract: Callable[[np.ndarray], Any],
    normal_solve: NormalSolve,
) -> None:
    """Gradients once more, of members whose rows differ so much in size that refinement does not converge.

    Args:
        gradients: in the order of `by_field`; replaced.
        contract: puts the gradients of all members into `gradients`, from dL/dy = g.
    """
    members = _unrefined(problem, normal_solve, y, g)
    if undetermined is not None:
        members &= ~np.broadcast_to(undetermined.any(axis=-1), members.shape)
    found = []
    for numbers, careful, singular in _careful_gradients(problem, members, g):
        found.append((numbers[~singular], from_fields([x[~singular] for x in by_field(careful)])))
        if np.any(singular):
            members.flat[numbers[singular]] = False
            warnings.warn(UNREFINED, AccuracyWarning, stacklevel=3)
    if not members.any():
        return
    contract(np.where(members[..., None, None, None], np.zeros_like(g), g))  # (gradients are linear in g)
    for numbers, careful in found:
        _add_members(problem, gradients, numbers, careful)


def _unrefined(problem: Problem, normal_solve: NormalSolve, y: np.ndarray, g: np.ndarray) -> np.ndarray:
    """Which members change by more than `LARGEST_CHANGE` of themselves where λ and y are refined, (*batch,) bool."""
    system = widened(problem.system)

    def size(x: np.ndarray) -> np.ndarray:
        result: np.ndarray = np.abs(x).max(axis=(-3, -2, -1), initial=0)
        return result

    with np.errstate(all="ignore"):  # of members that are singular or not finite
        λ = normal_solve(g)
        δ = normal_solve(g - apply_transpose(system, weighted(system.weights, apply(system, λ), 2)))
        r = residual(system, problem.rows, y)
        δ_y = normal_solve(apply_transpose(system, weighted(system.weights, r, 2)))
        bad = (size(δ) > LARGEST_CHANGE * size(λ)) | (size(δ_y) > LARGEST_CHANGE * size(y))
    return np.array(np.broadcast_to(bad, problem.batch))


def _careful_gradients(
    problem: Problem, members: np.ndarray, g: np.ndarray
) -> Iterator[tuple[np.ndarray, Gradients, np.ndarray]]:
    """Some members at a time, as numbers in the flat batch: their gradients, (members, ...), and which of them the
    engine finds undetermined."""
    numbers = np.flatnonzero(members)
    T, V, K = g.shape[-3:]
    g = np.broadcast_to(g, (*problem.batch, T, V, K)).reshape(-1, T, V, K)
    for some in np.array_split(numbers, max(1, ceil(len(numbers) * T * V * K / NUMBERS))) if len(numbers) else ():
        part = _of_members(problem, some)
        factor = ArrayEngine().factorize(part.system)
        gradients = factor.adjoint(part, factor.solve(part.rows), g[some])
        yield some, gradients, factor.undetermined.any(axis=-1)


def _of_members(problem: Problem, numbers: np.ndarray) -> Problem:
    """The problem of some batch members."""
    system, at = problem.system, np.unravel_index(numbers, problem.batch or (1,))

    def of(x: np.ndarray, rank: int) -> np.ndarray:
        x = x.reshape((1,) * (rank - x.ndim) + x.shape)
        return np.broadcast_to(x, ((*problem.batch, *x.shape[-rank:]) if problem.batch else (1, *x.shape)))[at]

    c, w = system.coefficients, system.weights
    inputs = c, problem.rhs, w.equation, system.step_sizes, w.smoothness, problem.initial_values, w.initial
    c, b, w_equation, s, w_smoothness, u, w_initial = (of(x, rank) for x, rank in zip(inputs, RANKS, strict=True))
    weights, batch = Weights(w_equation, w_initial, w_smoothness), (len(numbers),)
    return Problem(replace(system, coefficients=c, step_sizes=s, weights=weights, batch=batch), b, u, batch)


def _add_members(problem: Problem, to: list[np.ndarray | None], numbers: np.ndarray, gradients: Gradients) -> None:
    """Adds the gradients of some members to those of all inputs, in the order of `by_field`."""
    at = np.unravel_index(numbers, problem.batch) if problem.batch else ()
    for x, gradient, rank in zip(to, by_field(gradients), RANKS, strict=True):
        if x is None:
            continue
        lead = max(x.ndim - rank, 0)
        gradient = gradient.reshape(len(numbers), *x.shape[lead:])
        if lead == 0 or prod(x.shape[:lead]) == 1:
            x += gradient.sum(axis=0)
            continue
        own = at[len(at) - lead :]
        own = tuple(i if size > 1 else np.zeros_like(i) for i, size in zip(own, x.shape[:lead], strict=True))
        np.add.at(x, own, gradient)
