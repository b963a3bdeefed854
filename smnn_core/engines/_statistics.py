"""log det M and the minimum |W (d - A y)|^2, with their gradients for each batch member.

The gradients of a member have the axes of the input behind those of the batch: what it shares within a member is
summed, what members share is not. `pulled_back` sums that, once it is known what each member counts.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

from .. import _constraints as rows
from .._arrays import Array, Namespace, Shape, sum_to_shape
from .._fields import RANKS
from .._problem import NONE, Gradients, Problem, Rows, Weights, by_field, from_fields, inputs_by_field


class Statistics(NamedTuple):
    """Of a system and right-hand sides."""

    log_determinant: Array
    """log det M, (*system.batch,)"""
    minimum: Array
    """|W (d - A y)|^2 at the minimum, (...,)"""
    of_determinant: Gradients = NONE
    """of each member, (*system.batch, *core); None where it is not wanted, and of right-hand sides"""
    of_minimum: Gradients = NONE
    """(..., *core)"""


def core(x: Array, rank: int) -> Shape:
    """The axes of an input behind those of the batch; those it lacks have length 1."""
    return (*(1,) * max(rank - x.ndim, 0), *x.shape[max(x.ndim - rank, 0) :])


def pulled_back(problem: Problem, found: Statistics, g_determinant: Array, g_minimum: Array) -> Gradients:
    """The gradients of log det M times g_determinant, (*system.batch,), plus the minimum times g_minimum, (...,); None
    where they were not wanted."""
    xp = problem.system.xp
    pairs = zip(by_field(found.of_determinant), by_field(found.of_minimum), strict=True)
    given = zip(pairs, inputs_by_field(problem.system, problem.rhs, problem.initial_values), RANKS, strict=True)
    values = []
    for pair, like, rank in given:
        factors = (g[(..., *(None,) * rank)] for g in (g_determinant, g_minimum))
        terms = [
            sum_to_shape(xp, g * x, tuple(like.shape)) for g, x in zip(factors, pair, strict=True) if x is not None
        ]
        values.append(sum(terms[1:], start=terms[0]) if terms else None)
    return from_fields(values)


def in_full(problem: Problem, batch: Shape) -> Problem:
    """The problem with all axes of a batch in every array, so that each member has a gradient of its own."""
    system = problem.system
    inputs = zip(inputs_by_field(system, problem.rhs, problem.initial_values), RANKS, strict=True)
    c, b, u, s, w = from_fields(_broadcast(system.xp, x, batch, rank) for x, rank in inputs)
    return Problem(replace(system, coefficients=c, step_sizes=s, weights=w, batch=batch), b, u, batch)


def _broadcast(xp: Namespace, x: Any, batch: Shape, rank: int) -> Any:
    lead = tuple(x.shape[: max(x.ndim - rank, 0)])
    shape = core(x, rank)
    return xp.broadcast_to(xp.reshape(x, (*(1,) * (len(batch) - len(lead)), *lead, *shape)), (*batch, *shape))


def minimum_pullback(problem: Problem, y: Array, Wr: Rows, g: Array) -> Gradients:
    """The gradients of |W (d - A y)|^2 at its minimum times g, (...,): those at fixed y, since y is stationary.

    d |W r|^2 = 2 W r . (W dd - W dA y + dW r)
    """
    system, xp, w = problem.system, problem.system.xp, problem.system.weights
    outer = [2 * g[(..., *(None,) * rank)] for rank in (2, 3, 3)]
    μ = rows.weighted(w, Rows(*(a * x for a, x in zip(outer, Wr, strict=True))))
    dc, ds = rows.gradient_of_product(system, μ, y)
    dw = [a * x * r for a, x, r in zip(outer, Wr, rows.without_weights(system, Wr), strict=True)]
    dw[2] = xp.sum(dw[2], axis=(-2, -1))
    return Gradients(
        coefficients=-dc,
        rhs=sum_to_shape(xp, μ.equation, tuple(problem.rhs.shape)),
        initial_values=sum_to_shape(xp, μ.initial, tuple(problem.initial_values.shape)),
        step_sizes=-ds,
        weights=Weights(*(sum_to_shape(xp, x, tuple(v.shape)) for x, v in zip(dw, vars(w).values(), strict=True))),
    )
