"""Gradients of those batch members whose λ one step of refinement, in the compiled adjoint, is not enough for."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from math import ceil, prod
from typing import Any

import numpy as np

from .._constraints import apply, apply_transpose, weighted
from .._errors import AccuracyWarning
from .._problem import Gradients, Problem, Rows, System, Weights
from ._interface import RANKS, Factor, by_field, from_fields, inputs_by_field
from ._refinement import refine
from ._rounded import widened_problem
from .array_api import ArrayEngine

Array = Any

NUMBERS = 1 << 21
"""Unknowns that are eliminated at a time: the engine takes some hundred times their memory."""
LARGEST_CHANGE = 1e-8
"""What refinement may still change; as in _cpu/engine.hpp."""
LARGEST_CHANGE_OF_RESIDUAL = 1e-6
"""Beside what rounding leaves of the residual: gradients are its product with λ, which is large in stiff equations."""

UNREFINED = (
    "gradients may have no correct digit: rows of the system differ so much in size that refining the adjoint does not "
    "converge. Equations in units in which they are as large as the variables, or steps that differ less, will help."
)


class RefinedFactor(Factor):
    """A factor, in float64, whose M^-1 is refined once, and adjoint rows until that changes nothing more."""

    def __init__(self, factor: Factor) -> None:
        self.factor, self.system, self.undetermined = factor, factor.system, factor.undetermined

    def solve(self, d: Rows) -> Array:
        return self.factor.solve(d)

    def normal_solve(self, g: Array) -> Array:
        λ = self.factor.normal_solve(g)
        return λ + self.factor.normal_solve(g - _normal_product(self.system, λ))

    def adjoint_rows(self, g: Array) -> Rows:
        v, self.last_change = refine(self.system, *self._refinement_of_rows(g))
        return Rows(*v)

    def is_settled(self) -> np.ndarray:
        """Whether the last corrections were small, (members,): of the rows of g, and of what rounding leaves of the
        residual (see `_gradient.solve_pullback`)."""
        of_g, of_residual = np.asarray(self.last_change)
        return np.asarray((of_g <= LARGEST_CHANGE) & (of_residual <= LARGEST_CHANGE_OF_RESIDUAL))


def _normal_product(system: System, x: Array) -> Array:
    """M x."""
    return apply_transpose(system, weighted(system.weights, apply(system, x), 2))


def replace_unrefined(
    problem: Problem,
    g: np.ndarray,
    gradients: list[np.ndarray | None],
    change: np.ndarray,
    undetermined: np.ndarray | None,
    contract: Callable[[np.ndarray], Any],
    factorize: Callable[[System], Factor],
) -> None:
    """Gradients once more, of members that one step of refinement is not enough for.

    By more steps with compiled factors; where these do not converge, by the array API engine.

    Args:
        gradients: in the order of `by_field`; replaced.
        change: what one step leaves of an error of λ, (*problem.batch,); in some members it is above `LARGEST_CHANGE`.
        contract: puts the gradients of all members into `gradients`, from dL/dy = g.
        factorize: makes a factor of some members.
    """
    members = np.array((change > LARGEST_CHANGE) & problem.system.is_finite)
    if undetermined is not None:
        members &= ~undetermined.any(axis=-1)
    found = []
    for numbers, part, g_of_part in _parts(problem, members, g):
        factor = RefinedFactor(factorize(part.system))
        with np.errstate(over="ignore", invalid="ignore"):  # (what is not finite is no result)
            careful = by_field(factor.adjoint(part, factor.solve(part.rows), g_of_part))
        settled = factor.is_settled()
        for x in careful:
            settled &= np.isfinite(x).all(axis=tuple(range(1, x.ndim)))
        found.append((numbers[settled], from_fields(x[settled] for x in careful)))
        for some, rest, g_of_rest in _parts(part, ~settled, g_of_part):
            precise = ArrayEngine().factorize(rest.system)
            careful = by_field(precise.adjoint(rest, precise.solve(rest.rows), g_of_rest))
            regular = np.ones(len(some), bool)
            if precise.undetermined is not None:
                regular = ~precise.undetermined.any(axis=-1)
            if not regular.all():
                members.flat[numbers[some[~regular]]] = False
                warnings.warn(UNREFINED, AccuracyWarning, stacklevel=3)
            found.append((numbers[some[regular]], from_fields(x[regular] for x in careful)))
    if not members.any():
        return
    contract(np.where(members[..., None, None, None], np.zeros_like(g), g))  # (gradients are linear in g)
    for numbers, careful_ in found:
        _add_members(problem, gradients, numbers, careful_)


def _parts(problem: Problem, members: np.ndarray, g: np.ndarray) -> Iterator[tuple[np.ndarray, Problem, np.ndarray]]:
    """Some members at a time: as numbers in the flat batch, their problem in float64, and g."""
    numbers = np.flatnonzero(members)
    T, V, K = g.shape[-3:]
    g = np.broadcast_to(g, (*problem.batch, T, V, K)).reshape(-1, T, V, K)
    for some in np.array_split(numbers, max(1, ceil(len(numbers) * T * V * K / NUMBERS))) if len(numbers) else ():
        yield some, widened_problem(_of_members(problem, some)), g[some]


def _of_members(problem: Problem, numbers: np.ndarray) -> Problem:
    """The problem of some batch members."""
    system, at = problem.system, np.unravel_index(numbers, problem.batch or (1,))

    def of(x: np.ndarray, rank: int) -> np.ndarray:
        x = x.reshape((1,) * (rank - x.ndim) + x.shape)
        return np.broadcast_to(x, ((*problem.batch, *x.shape[-rank:]) if problem.batch else (1, *x.shape)))[at]

    inputs = inputs_by_field(system, problem.rhs, problem.initial_values)
    c, b, u, s, *w = (of(x, rank) for x, rank in zip(inputs, RANKS, strict=True))
    weights, batch = Weights(*w), (len(numbers),)
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
