"""Solutions on a mesh that is given, without looking at values: for what a framework traces.

The number of unknowns is known beforehand, so that Newton's method, that of `_newton`, is a loop of the program. The
estimate of the error is that of `_mesh`. Checks of values are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .._arrays import Array
from .._errors import ArgumentError, ShapeError
from .._validate import check_integer
from ._arithmetic import Arithmetic
from ._boundary import MARGIN, inner_tolerance, size_of_variables
from ._collocation import Space, gauss, radau
from ._discrete import Discrete, Iterate, Mesh
from ._equations import Conditions, Equations
from ._implicit import Frozen, frozen
from ._linear import ConditionRows, Step, Structure
from ._mesh import estimate
from ._newton import robust_newton, sizes
from ._search import (
    broadcast_batch,
    checked_tolerance,
    first_guess,
    first_mesh,
    left_of_equations,
    number_of_points,
    number_of_variables,
    refuse_wrong_number,
)

__all__ = ["TREES", "OnMesh", "solve_on_mesh"]

TREES = {Step: (), ConditionRows: (), Iterate: (), Frozen: ("xp", "solve_ode", "space")}
"""Classes that hold arrays, for frameworks that have to know them, and those of their fields that hold others."""


@dataclass(frozen=True)
class OnMesh:
    """The result of Newton's method; members (B,)."""

    problem: Discrete
    space: Space
    mesh: Mesh
    u: Step
    near: Step
    """the same, or that of another member where it failed"""
    A: Frozen
    """the linearised problem at `near`"""
    error: Array
    """(B, N, V)"""
    met: Array
    """(B,): whether the rows are met"""
    converged: Array
    """(B,): and the estimate is below the tolerance"""
    iterations: Array


def solve_on_mesh(
    equations: Equations,
    times: np.ndarray,
    conditions: Conditions,
    shape_of_f: Callable[[tuple[int, ...]], tuple[int, ...]],
    arithmetic: Arithmetic,
    solve_ode: Callable[..., Array],
    *,
    mesh: np.ndarray,
    constants: Array,
    tolerance: float | None,
    absolute: float,
    order: int | Sequence[int] | None,
    guess: Any,
    points: int | None,
    engine: str,
) -> OnMesh:
    """Solves for arrays of a framework.

    Args:
        times: checked.
        conditions: values (..., n, V, R) with a pattern, or a function; residuals and derivatives in the framework's
            arrays.
        shape_of_f: the shape of f, (..., 1, Q), for y of a shape (..., 1, V, R+1).
        mesh: values, (..., N+1).
        constants: (..., p).
    """
    xp = arithmetic.xp
    tolerance, absolute = checked_tolerance(tolerance, absolute, equations.eps)
    V = number_of_variables(conditions, order, guess, times)
    orders = _orders(conditions, order, V)
    R = max(orders)
    if conditions.pattern is not None:
        conditions = _of_states(conditions, orders)
    start, guess_batch = first_guess(guess, times, V, R)
    batch = broadcast_batch(conditions, guess_batch, constants, mesh)
    f = shape_of_f((*batch, 1, V, R + 1))
    equations.Q = int(f[-1])
    batch = tuple(np.broadcast_shapes(batch, f[:-2]))
    B = int(np.prod(batch))

    def members(x: Array, core: int) -> Array:
        shape = tuple(x.shape[x.ndim - core :])
        return xp.reshape(xp.broadcast_to(x, (*batch, *shape)), (B, *shape))

    if conditions.pattern is not None:
        conditions = Conditions(members(conditions.values, 3), None, pattern=conditions.pattern)
        touches = np.argwhere(conditions.stated)[:, :1] == np.arange(len(times))
    else:
        C = conditions.evaluate(xp.zeros((*batch, len(times), V, R), dtype=constants.dtype), constants)[0].shape[-1]
        touches = np.ones((C, len(times)), bool)  # which ones a function looks at, values would tell
    structure = Structure(touches)
    p = constants.shape[-1]
    refuse_wrong_number(len(touches), orders, p, equations.Q)
    is_initial = conditions.pattern is not None and bool(touches[:, 0].all()) and p == 0
    k = number_of_points(tolerance, is_initial, V) if points is None else check_integer("points", points, least=1)
    space = Space(radau(max(k, 2)) if is_initial else gauss(k), orders)
    problem = Discrete(equations, conditions, structure, batch, orders, engine, arithmetic)
    on = first_mesh(mesh, None, times, B, batch)
    u = start(problem, space, on, members(constants, 1))
    u = Step(*(xp.asarray(x, dtype=constants.dtype) for x in (u.x, u.z, u.p)))
    run = robust_newton(problem, space, on, u, xp.zeros((B,), dtype=bool), tolerance=inner_tolerance(tolerance))
    error = estimate(problem, space, on, run.u).error
    allowed = tolerance * size_of_variables(space, run.u, on) + absolute
    small = xp.all(xp.max(error, axis=1) <= MARGIN * xp.where(allowed > 0, allowed, 1e-300), axis=-1)
    safe = run.u.where(run.converged, _donor(xp, run.u, run.converged, u))
    at = problem.at(space, on, safe)
    if equations.Q > V:
        left, most = left_of_equations(space, on, at, tolerance)
        small = small & xp.all(left <= most, axis=-1)
    A = frozen(xp, solve_ode, problem.linear(space, on, at, sizes(space, safe)), lambda x: x)
    return OnMesh(problem, space, on, run.u, safe, A, error, run.converged, run.converged & small, run.iterations)


def _donor(xp: Any, u: Step, ok: Array, start: Step) -> Step:
    """Finite unknowns for members that failed, so that these contaminate no derivative of what is shared: those of the
    first that is ok, or those of the start."""
    first, any_ = xp.argmax(xp.astype(ok, int)), xp.any(ok)
    pairs = ((u.x, start.x), (u.z, start.z), (u.p, start.p))
    return Step(*(xp.where(any_, xp.broadcast_to(x[first][None], x.shape), other) for x, other in pairs))


def _orders(conditions: Conditions, order: Any, V: int) -> tuple[int, ...]:
    if order is None:
        if conditions.pattern is None:
            raise ArgumentError("under jit and vmap order= must be given where conditions are a function.")
        order = conditions.pattern.shape[-1]
    if isinstance(order, Sequence) and not isinstance(order, str):
        orders = tuple(check_integer("order", q, " for each variable", least=0) for q in order)
        if len(orders) != V:
            raise ShapeError(f"order has {len(orders)} numbers, and there are V = {V} variables.")
        return orders
    return (check_integer("order", order, " or one for each variable", least=1),) * V


def _of_states(conditions: Conditions, orders: tuple[int, ...]) -> Conditions:
    """The values below the orders; of those whose values are traced nobody can say that they are not given."""
    assert conditions.pattern is not None
    R, width = max(orders), conditions.pattern.shape[-1]
    if width < R:
        raise ShapeError(
            f"conditions must have shape (..., V, order) with order = {R} under jit and vmap; got {width} derivatives."
        )
    is_state = np.arange(width) < np.array(orders)[:, None]
    pattern = conditions.pattern & is_state
    return Conditions(conditions.values[..., :R], None, pattern=pattern[..., :R])
