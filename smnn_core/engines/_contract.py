"""What the core asks of an engine, and what an engine may leave out."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

from .._problem import Gradients, Rows, System, Weights

Array = Any


class Factor(Protocol):
    """A system after elimination: R with (W A)^T (W A) = R^T R, and what Q^T takes to be applied again.

    Laws (each one a test): `solve(d)` minimises |W (A y - d)|; `normal_solve` is symmetric and solves M x = g with
    M = A^T W^2 A; `solve(d) = normal_solve(A^T W^2 d)` up to rounding; non-finite input of one batch member leaves the
    others as they are.

    A factor offers `adjoint_rows(g) -> Rows`, or `adjoint(problem, y, g, wanted=ALL) -> Gradients` (see `Engine`).
    `adjoint_rows(g)` is v = (W A)^+^T g, weighted rows with (W A)^T v = g in the range of W A: `solve_pullback` makes
    gradients of it. Law: W A normal_solve(g) = adjoint_rows(g) up to rounding.

    A factor may offer `selected_inverse()` (see `_selected_inverse.SelectedInverse`: blocks of M^-1, log det M, their
    pullback) and `residual_rows(d) -> Rows`, W (d - A y) at the minimum without the rounding of y. Where it does not,
    posteriors take those of the array API engine. Law: residual_rows(d) = W (d - A solve(d)) up to rounding.
    """

    undetermined: Array | None
    """bool, (*system.batch, T): time points whose unknowns the rows leave undetermined (None: none are). The solutions
    of their batch members are NaN."""

    def solve(self, d: Rows) -> Array:
        """argmin_y |W (A y - d)|, for rows d that broadcast; (*batch, T, V, K)."""
        ...

    def normal_solve(self, g: Array) -> Array:
        """M^-1 g, for g of shape (..., T, V, K)."""
        ...


class Engine(Protocol):
    """A way to eliminate.

    An engine may offer `solve_problem(problem, lean=False) -> (y, Factor)`, factor and solution in one sweep,
    `normal_solve(system, g)`, the same for M^-1 g without the factor, its factors `adjoint(problem, y, g, wanted=ALL)
    -> Gradients`, normal solve and contraction, and itself `adjoint(problem, y, g, wanted=ALL, lean=False)`, the same
    where no factor is at hand; where they are missing the core composes them. `wanted` has a bool in the place of every
    gradient: those that are not wanted may be None. `lean` asks for as little memory as the engine can
    do with, at the price of time. With `checks_values = True` it says that it raises what `System.check_values` does
    itself; else the core looks before it asks.
    """

    name: str

    def refusal(self, system: System) -> str | None:
        """Why this engine cannot serve the system, None where it can."""
        ...

    def describe(self) -> str:
        """One line for `show_config`: available or why not, SIMD level, threads, devices."""
        ...

    def factorize(self, system: System) -> Factor: ...


def by_field(gradients: Gradients) -> tuple[Any, ...]:
    """Gradients, or which are wanted, in the order of the fields of the kernels (`_cpu/job.hpp`, `_cuda/layout.py`)."""
    c, b, u, s, w = gradients
    return c, b, w.equation, s, w.smoothness, u, w.initial


def from_fields(values: Iterable[Any]) -> Gradients:
    """The inverse of `by_field`."""
    c, b, w_equation, s, w_smoothness, u, w_initial = values
    return Gradients(c, b, u, s, Weights(w_equation, w_initial, w_smoothness))


ALL = from_fields([True] * 7)
"""Every gradient is wanted."""
