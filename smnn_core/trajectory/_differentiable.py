"""Solutions as arrays of a framework, which follow what went in: what the adapters' `Solution` have in common."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeVar

import numpy as np

from .._arrays import Array, Namespace, concat, device_of
from ._collocation import Space
from ._implicit import attached
from ._search import Search
from ._solution import Solution, check_inside

__all__ = ["DifferentiableSolution", "differentiable"]


@dataclass(frozen=True, eq=False, repr=False)
class DifferentiableSolution:
    """A solution of `solve`: call it with times to have y and its derivatives there, differentiable.

    Shapes: (...) the batch, N intervals, V variables, R the highest order, p constants.
    """

    t: Any
    """(..., N+1): the mesh, differentiable by `times`"""
    constants: Any
    """(..., p): the constants that were solved for, differentiable"""
    error: Any
    """(..., N, V): an estimate of the largest error of each variable on each interval, global, in units of y"""
    converged: Any
    """bool, (...): whether the estimate is below the tolerance"""
    reason: Any
    """Why it ended, in a sentence; of a batch a list of them"""
    iterations: int
    """Linear problems solved on a whole mesh, or windows of a march"""
    values: Solution
    """The same on NumPy arrays, without derivatives: a first guess of another `solve`, pictures"""
    _states: Any = field(repr=False)
    _stages: Any = field(repr=False)
    xp: ClassVar[Any]
    """The namespace of the arrays"""

    @abstractmethod
    def _like(self, times: Any) -> Array:
        """Times as an array like t."""

    @abstractmethod
    def _numbers(self, x: Array) -> np.ndarray:
        """The values of an array."""

    def _inside(self, space: Space, x: Array, z: Array, s: Array, θ: Array) -> Array:
        return space.inside(self.xp, x, z, s, θ)

    @property
    def y(self) -> Any:
        """(..., N+1, V, R+1): y and its derivatives on the mesh, differentiable."""
        return self(self.t)

    @property
    def orders(self) -> tuple[int, ...]:
        """The order of each variable in the equations; 0: algebraic."""
        return self.values.orders

    @property
    def largest_error(self) -> Any:
        """The largest of `error` over intervals: (..., V)."""
        return self.xp.max(self.error, axis=-2)

    def __call__(self, times: Any) -> Any:
        """y and its derivatives 0..R at times (n,) or (..., n): (..., n, V, R+1), differentiable in times as well.

        Raises:
            ArgumentError: for times beyond the ends.
        """
        xp, batch, τ = self.xp, tuple(self.t.shape[:-1]), self._like(times)
        scalar = τ.ndim == 0
        τ = xp.reshape(τ, (1,)) if scalar else τ
        τ = xp.broadcast_to(τ, (*np.broadcast_shapes(τ.shape[:-1], batch), τ.shape[-1]))
        B, n = int(np.prod(batch)), τ.shape[-1]
        mesh = np.asarray(self.values.t, np.float64).reshape(B, -1)
        fixed = self._numbers(τ).reshape(B, n)
        check_inside(fixed, np.asarray(self.values.t).reshape(B, -1))
        space = self.values._space
        i, member = (xp.asarray(k, device=device_of(τ)) for k in (space.interval(mesh, fixed), np.arange(B)[:, None]))
        t, x, z = (xp.reshape(a, (B, *a.shape[len(batch) :])) for a in (self.t, self._states, self._stages))
        s = t[member, i + 1] - t[member, i]
        y = self._inside(space, x[member, i], z[member, i], s, (xp.reshape(τ, (B, n)) - t[member, i]) / s)
        y = xp.reshape(y, (*τ.shape, *y.shape[-2:]))
        return y[..., 0, :, :] if scalar else y

    def __repr__(self) -> str:
        return repr(self.values)

    def plot(self, axes: Any = None) -> Any:
        """Pictures of the variables with the mesh, and of the estimated error below (matplotlib). The two axes."""
        return self.values.plot(axes)


_S = TypeVar("_S", bound=DifferentiableSolution)


def differentiable(
    kind: type[_S],
    run: Search,
    values: Solution,
    residual: Callable[..., Array],
    times: Array,
    conditions: Any,
    like: Array,
    *,
    asarray: Callable[[Any], Array],
    constant: Callable[[Array], Array],
    solve_ode: Callable[..., Array],
    follow: bool = True,
    compiled: Callable[[Callable[..., Any]], Callable[..., Any]] = lambda function: function,
) -> _S:
    """What a search found, as a solution of an adapter's kind.

    Args:
        residual: the caller's, in arrays of the framework.
        times: the caller's, likewise.
        like: an array of the dtype and on the device of the result.
        asarray: numbers as an array like `like`; arrays of the framework keep their derivatives.
        constant: cuts an array off from derivatives.
        follow: whether derivatives are wanted.
    """
    xp, problem, B = kind.xp, run.problem, len(run.found.converged)

    def members(x: Array, core: int) -> Array:
        """(..., core axes) for all members, (B, core axes)."""
        shape = tuple(x.shape[x.ndim - core :])
        return xp.reshape(xp.broadcast_to(x, (*problem.batch, *shape)), (B, *shape))

    def shaped(x: Array) -> Array:
        return xp.reshape(x, (*problem.batch, *x.shape[1:]))

    def equations(t: Array, y: Array, c: Array) -> Array:
        given = (t, y, c) if problem.p else (t, y)
        return members(residual(*map(shaped, given)), 2)

    def followed(value: Array, new: Array) -> Array:
        """The value with the derivatives of another array, in members that have them."""
        new = xp.reshape(new, value.shape)
        mask = xp.reshape(ok, (*ok.shape, *(1,) * (value.ndim - ok.ndim)))
        return value + xp.where(mask, new - constant(new), xp.zeros_like(new))

    t, x, z, p = (asarray(np.asarray(a)) for a in (values.t, values._states, values._stages, values.constants))
    converged = xp.asarray(np.asarray(values.converged), device=device_of(like))
    ok = xp.asarray(np.asarray(problem.shaped(run.found.followed)), device=device_of(like))
    if follow and run.found.followed.any():
        given = _condition_residuals(xp, run, conditions, asarray, members, shaped)
        now, mesh = attached(run, xp, solve_ode, equations, given, times, like, compiled)
        t, x, z, p = (followed(a, b) for a, b in zip((t, x, z, p), (mesh, now.x, now.z, now.p), strict=True))
    return kind(t, p, asarray(values.error), converged, values.reason, values.iterations, values, x, z)


def _condition_residuals(
    xp: Namespace,
    run: Search,
    conditions: Any,
    asarray: Callable[[Any], Array],
    members: Callable[[Array, int], Array],
    shaped: Callable[[Array], Array],
) -> Callable[[Array, Array], Array]:
    """The conditions on states (B, n, M) and constants (B, p): residuals (B, C) with derivatives by what they hold."""
    problem, space = run.problem, run.found.space
    values = problem.conditions.values

    def by_function(x: Array, p: Array) -> Array:
        y = space.spread_states(xp, x)
        arguments = (y, p) if problem.conditions.takes_constants else (y,)
        return members(conditions(*map(shaped, arguments)), 1)

    def by_values(x: Array, p: Array) -> Array:
        del p
        y = space.spread_states(xp, x)
        given = conditions if isinstance(conditions, Mapping) else {float(run.times[0]): conditions}
        pattern = problem.conditions.stated
        columns = []
        for i in np.flatnonzero(pattern.any(axis=(1, 2))):
            value = members(asarray(given[min(given, key=lambda time: abs(float(time) - run.times[i]))]), 2)
            v, o = (xp.asarray(k, device=device_of(x)) for k in np.nonzero(pattern[i]))
            columns.append(y[:, int(i), v, o] - value[:, v, o])
        return concat(xp, columns, axis=-1)

    return by_function if values is None else by_values
