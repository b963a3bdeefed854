"""log det M and the minimum |W (d - A y)|^2, with their gradients for each batch member.

The gradients of a member have the axes of the input behind those of the batch: what it shares within a member is
summed, what members share is not. `pulled_back` sums that, once it is known what each member counts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from .. import _constraints as rows
from .._arrays import Array, Namespace, Shape, sum_to_shape
from .._fields import FIELDS
from .._problem import Gradients, Problem, Rows, System, Weights

if TYPE_CHECKING:
    from ._interface import Factor


def by_field(gradients: Gradients) -> tuple[Any, ...]:
    """Gradients, or which of them are wanted, one after another in the order of `FIELDS`, which is that of the kernels,
    too (`_cpu/job.hpp`)."""
    *fields, w = gradients
    return *fields, w.equation, w.initial, w.smoothness


def from_fields(values: Iterable[Any]) -> Gradients:
    """The inverse of `by_field`."""
    c, b, u, s, *weights = values
    return Gradients(c, b, u, s, Weights(*weights))


def inputs_by_field(system: System, rhs: Array = None, initial_values: Array = None) -> tuple[Array, ...]:
    """The inputs of a problem in the order of their gradients, `by_field`."""
    return by_field(Gradients(system.coefficients, rhs, initial_values, system.step_sizes, system.weights))


RANKS = tuple(field.rank for field in FIELDS.values())
"""Axes of inputs and their gradients behind those of the batch, in the order of `by_field`."""

ALL = from_fields([True] * len(FIELDS))
"""Every gradient is wanted."""

NONE = from_fields([None] * len(FIELDS))
"""No gradient is wanted."""

OF_LHS = from_fields(field.is_of_lhs for field in FIELDS.values())
"""Gradients of log det M."""


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


def statistics_by_pullback(
    factor: Factor, d: Rows, wanted: Gradients, factorize: Callable[[System], Factor]
) -> Statistics:
    """Statistics by the selected inverse and residuals, in array calls; `factorize` is the array API engine's."""
    system, xp = factor.system, factor.system.xp
    determinant, minimum = factor.selected_inverse().log_determinant, factor.sum_of_squares(d)
    if not any(by_field(wanted)):
        return Statistics(determinant, minimum)
    own = in_full(system, system.batch)
    is_in_full = all(
        x is None or x.shape == y.shape for x, y in zip(inputs_by_field(system), inputs_by_field(own), strict=True)
    )
    ones = xp.ones(system.batch, dtype=system.dtype, device=system.device)
    of_determinant = (factor if is_in_full else factorize(own)).selected_inverse().pullback(None, None, ones)
    batch = tuple(minimum.shape)
    b, u = (_broadcast(xp, x, batch, rank) for x, rank in ((d.equation, 2), (d.initial, 3)))
    problem = Problem(in_full(system, batch), b, u, batch)
    ones = xp.ones(batch, dtype=system.dtype, device=system.device)
    of_minimum = minimum_pullback(problem, factor.solve(d), factor.residual_rows(d), ones)

    def chosen(gradients: Gradients, given: Gradients) -> Gradients:
        pairs = zip(by_field(gradients), by_field(wanted), by_field(given), strict=True)
        return from_fields(x if take and has else None for x, take, has in pairs)

    return Statistics(determinant, minimum, chosen(of_determinant, OF_LHS), chosen(of_minimum, ALL))


def in_full(system: System, batch: Shape) -> System:
    """The system with all axes of a batch in every array."""
    xp = system.xp
    values = (_broadcast(xp, x, batch, rank) for x, rank in zip(inputs_by_field(system), RANKS, strict=True))
    c, _, _, s, w = from_fields(values)
    return replace(system, coefficients=c, step_sizes=s, weights=w, batch=batch)


def _broadcast(xp: Namespace, x: Any, batch: Shape, rank: int) -> Any:
    if x is None:
        return None
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
