"""Solving a least-squares problem so that torch can differentiate it.

A baseline is a `Method`: how to solve min_x |A x - d| (weights included), and the products that its derivative needs.
On torch tensors that require gradients, `solve` goes through an autograd function that reuses the factor; torch is
imported only then.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import array_api_compat as compat

from smnn_core._arrays import Array
from smnn_core._problem import Problem, from_fields, inputs_by_field

__all__ = ["Method", "Solved", "inputs", "replace_inputs", "solve"]


class Solved(NamedTuple):
    """A solution, and what its derivative takes from the factor."""

    x: Array
    normal_solve: Callable[[Array], Array]
    """g -> (A^T A)^-1 g"""


@dataclass(frozen=True)
class Method:
    """A way to solve min_x |A x - d|, where A and d depend on the inputs of a `Problem`."""

    solve: Callable[[Problem], Solved]
    product: Callable[[Problem, Array], tuple[Array, ...]]
    """problem, x -> A x, in blocks of rows"""
    right_hand_side: Callable[[Problem], tuple[Array, ...]]
    """problem -> d, in the same blocks, each broadcasting to that of A x"""


def solve(method: Method, problem: Problem) -> Array:
    """The minimiser x, differentiable where the inputs are torch tensors that require gradients."""
    tensors = inputs(problem)
    if compat.is_torch_array(tensors[0]) and any(x.requires_grad for x in tensors):
        from ._torch import implicit_solve

        return implicit_solve(method, problem, tensors)
    return method.solve(problem).x


def inputs(problem: Problem) -> tuple[Array, ...]:
    """Everything a problem can be differentiated with respect to."""
    return inputs_by_field(problem.system, problem.rhs, problem.initial_values)


def replace_inputs(problem: Problem, arrays: tuple[Array, ...]) -> Problem:
    """The problem with other arrays of the same shapes, in the order of `inputs`."""
    c, b, u, s, w = from_fields(arrays)
    system = replace(problem.system, coefficients=c, step_sizes=s, weights=w)
    return replace(problem, system=system, rhs=b, initial_values=u)
