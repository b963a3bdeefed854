"""Solutions as arrays of a framework, which follow what went in: what the adapters' `Solution` have in common."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, TypeVar

import numpy as np

from .._arrays import Array, Namespace, concat, device_of
from .._errors import ArgumentError, ShapeError
from ._collocation import Space
from ._discrete import Discrete
from ._implicit import attached, two_steps
from ._on_mesh import OnMesh
from ._search import FoundSolution
from ._solution import Solution, check_inside
from ._sweep import LinearMap

__all__ = ["DifferentiableSolution", "differentiable", "differentiable_on_mesh"]


class Members(Protocol):
    """The members of a batch in arrays of a framework. A transform that maps over members (`torch.func.vmap`) hides
    leading axes from the framework's side."""

    @property
    def batch(self) -> tuple[int, ...]:
        """The batch axes that are seen."""

    def of(self, x: np.ndarray) -> Array:
        """An array of floats or integers for all members, (members, ...), as one of the framework, (B, ...)."""

    def numbers(self, x: Array) -> np.ndarray | None:
        """The values (members, n) of an array (B, n); None where it is traced."""


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
    iterations: Any
    """Linear problems solved on a whole mesh, or windows of a march"""
    _values: Solution | None = field(repr=False)
    _states: Any = field(repr=False)
    _stages: Any = field(repr=False)
    _space: Space = field(repr=False)
    _mesh: np.ndarray = field(repr=False)
    """(members, N+1): the values of t"""
    _members: Members = field(repr=False)
    xp: ClassVar[Any]
    """The namespace of the arrays"""

    @staticmethod
    def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
        """A faster function; arguments by name alone are no arrays."""
        return function

    @abstractmethod
    def _like(self, times: Any) -> Array:
        """Times as an array like t."""

    @property
    def values(self) -> Solution:
        """The same on NumPy arrays, without derivatives: a first guess of another `solve`, pictures.

        Raises:
            ArgumentError: of what is traced (`jit`, `vmap`), which has none.
        """
        if self._values is None:
            raise ArgumentError("a solution found under jit or vmap has no values of its own: look at it outside.")
        return self._values

    @property
    def y(self) -> Any:
        """(..., N+1, V, R+1): y and its derivatives on the mesh, differentiable."""
        return self(self.t)

    @property
    def orders(self) -> tuple[int, ...]:
        """The order of each variable in the equations; 0: algebraic."""
        return self._space.orders

    @property
    def largest_error(self) -> Any:
        """The largest of `error` over intervals: (..., V)."""
        return self.xp.max(self.error, axis=-2)

    def __call__(self, times: Any) -> Any:
        """y and its derivatives 0..R at times (n,) or (..., n): (..., n, V, R+1), differentiable in times as well.

        Raises:
            ArgumentError: for times beyond the ends; those that are traced give NaN.
            ShapeError: for axes that the solution does not have.
        """
        xp, batch, τ = self.xp, tuple(self.t.shape[:-1]), self._like(times)
        scalar = τ.ndim == 0
        τ = xp.reshape(τ, (1,)) if scalar else τ
        lead = tuple(τ.shape[:-1])
        if len(lead) > len(batch) or any(a not in (1, b) for a, b in zip(lead[::-1], batch[::-1], strict=False)):
            raise ShapeError(
                f"times must have shape (n,), or (..., n) with the batch axes of the solution, {batch}; got "
                f"{tuple(τ.shape)}."
            )
        τ = xp.broadcast_to(τ, (*np.broadcast_shapes(τ.shape[:-1], batch), τ.shape[-1]))
        flat = xp.reshape(τ, (int(np.prod(batch)), τ.shape[-1]))
        i, inside = self._intervals(flat)
        given = self.t, self._states, self._stages, self.error, flat, i, inside
        y = self._compiled(values_at)(*given, space=self._space, xp=xp)
        return y[..., 0, :, :] if scalar else y

    def _intervals(self, τ: Array) -> tuple[Array, Array | None]:
        """The intervals in which times (B, n) lie, (B, n), and whether they lie in any; None where that was checked."""
        xp, mesh, fixed = self.xp, self._mesh, self._members.numbers(τ)
        if fixed is not None:
            check_inside(fixed, mesh)
            return self._members.of(self._space.interval(mesh, fixed)), None
        sign = 1.0 if mesh[0, -1] > mesh[0, 0] else -1.0
        points = xp.asarray(sign * mesh[:, None], dtype=τ.dtype)
        slack = 1e-9 * (points[..., -1] - points[..., 0])
        inside = (sign * τ >= points[..., 0] - slack) & (sign * τ <= points[..., -1] + slack)
        return xp.sum(xp.astype(points[..., 1:-1] <= sign * τ[..., None], xp.int32), axis=-1), inside

    def __repr__(self) -> str:
        if self._values is not None:
            return repr(self._values)
        return f"Solution(orders {self.orders}, {self._mesh.shape[1] - 1} intervals, {self.reason})"

    def plot(self, axes: Any = None) -> Any:
        """Pictures of the variables with the mesh, and of the estimated error below (matplotlib). The two axes."""
        return self.values.plot(axes)


def values_at(
    t: Array, x: Array, z: Array, error: Array, τ: Array, i: Array, inside: Array | None, *, space: Space, xp: Namespace
) -> Array:
    """y and its derivatives (..., n, V, R+1) at times τ (B, n) in intervals i (B, n), NaN where a member was not solved
    and where times are not `inside`, (B, n)."""
    batch, (B, n) = tuple(t.shape[:-1]), τ.shape
    member = xp.arange(B, device=device_of(τ))[:, None]
    t, x, z = (xp.reshape(a, (B, *a.shape[len(batch) :])) for a in (t, x, z))
    s = t[member, i + 1] - t[member, i]
    y = space.inside(xp, x[member, i], z[member, i], s, (τ - t[member, i]) / s)
    y = y if inside is None else xp.where(inside[..., None, None], y, xp.nan)
    y = xp.reshape(y, (*batch, n, *y.shape[-2:]))
    solved = xp.all(xp.isfinite(error), axis=(-2, -1))
    return xp.where(xp.reshape(solved, (*batch, 1, 1, 1)), y, xp.nan)


_S = TypeVar("_S", bound=DifferentiableSolution)


@dataclass(frozen=True)
class Statement:
    """A statement of the problem in arrays of a framework."""

    xp: Namespace
    problem: Discrete
    space: Space
    times: np.ndarray
    residual: Callable[..., Array]
    """the caller's"""
    conditions: Any
    """the caller's"""
    asarray: Callable[[Any], Array]
    """numbers as an array of the framework, whose arrays keep their derivatives"""
    constant: Callable[[Array], Array]
    """cuts an array off from derivatives"""
    of_members: Members

    def members(self, x: Array, core: int) -> Array:
        """(..., core axes) for all members, (B, core axes)."""
        shape, batch = tuple(x.shape[x.ndim - core :]), self.of_members.batch
        return self.xp.reshape(self.xp.broadcast_to(x, (*batch, *shape)), (int(np.prod(batch)), *shape))

    def shaped(self, x: Array) -> Array:
        return self.xp.reshape(x, (*self.of_members.batch, *x.shape[1:]))

    def equations(self, t: Array, y: Array, c: Array) -> Array:
        """The residuals (B, n, Q)."""
        given = (t, y, c) if self.problem.p else (t, y)
        return self.members(self.residual(*map(self.shaped, given)), 2)

    def followed(self, ok: Array, value: Array, new: Array) -> Array:
        """The value with the derivatives of another array, in members that have them, (...)."""
        xp, new = self.xp, self.xp.reshape(new, value.shape)
        mask = xp.reshape(ok, (*ok.shape, *(1,) * (value.ndim - ok.ndim)))
        return value + xp.where(mask, new - self.constant(new), xp.zeros_like(new))

    def condition_residuals(self, x: Array, p: Array) -> Array:
        """The conditions on states (B, n, M) and constants (B, p), (B, C), with derivatives by what they hold."""
        xp, given = self.xp, self.problem.conditions
        y = self.space.spread_states(xp, x)
        if given.values is None:
            arguments = (y, p) if given.takes_constants else (y,)
            return self.members(self.conditions(*map(self.shaped, arguments)), 1)
        by_time = self.conditions if isinstance(self.conditions, Mapping) else {float(self.times[0]): self.conditions}
        columns = []
        for i in np.flatnonzero(given.stated.any(axis=(1, 2))):
            nearest = min(by_time, key=lambda time: abs(float(time) - self.times[i]))
            value = self.members(self.asarray(by_time[nearest]), 2)
            v, o = (xp.asarray(k, device=device_of(x)) for k in np.nonzero(given.stated[i]))
            columns.append(y[:, int(i), v, o] - value[:, v, o])
        return concat(xp, columns, axis=-1)


def differentiable(
    kind: type[_S],
    run: FoundSolution,
    values: Solution,
    residual: Callable[..., Array],
    times: Array,
    conditions: Any,
    members: Members,
    *,
    asarray: Callable[[Any], Array],
    constant: Callable[[Array], Array],
    solve_ode: Callable[..., Array],
    follow: bool = True,
    linear_map: LinearMap | None = None,
) -> _S:
    """The result of a search as a solution of an adapter's kind.

    Args:
        times: the caller's, in arrays of the framework.
        follow: whether derivatives are wanted.
        linear_map: a faster function; see `_implicit.attached`.
        residual, conditions, asarray, constant: see `Statement`.
    """
    xp, ok, found = kind.xp, run.found.followed, run.found
    stated = Statement(xp, run.problem, found.space, run.times, residual, conditions, asarray, constant, members)
    names = "t", "_states", "_stages", "constants", "error", "converged"
    flat = (
        np.asarray(getattr(values, name)).reshape(len(ok), *shape)
        for name, shape in zip(
            names,
            ((-1,), found.u.x.shape[1:], found.u.z.shape[1:], found.u.p.shape[1:], found.error.shape[1:], ()),
            strict=True,
        )
    )
    t, x, z, p, error, converged = (stated.shaped(members.of(a)) for a in flat)
    if follow and ok.any():
        now, mesh = attached(
            run,
            xp,
            solve_ode,
            stated.equations,
            stated.condition_residuals,
            times,
            members.of,
            kind._compiled,
            linear_map,
        )
        mask = stated.shaped(members.of(ok))
        t, x, z, p = (
            stated.followed(mask, a, b) for a, b in zip((t, x, z, p), (mesh, now.x, now.z, now.p), strict=True)
        )
    mesh = np.asarray(values.t, np.float64).reshape(len(ok), -1)
    return kind(t, p, error, converged, values.reason, values.iterations, values, x, z, values._space, mesh, members)


def differentiable_on_mesh(
    kind: type[_S],
    run: OnMesh,
    times: np.ndarray,
    residual: Callable[..., Array],
    conditions: Any,
    members: Members,
    *,
    asarray: Callable[[Any], Array],
    constant: Callable[[Array], Array],
) -> _S:
    """The result of Newton's method on a mesh that was given, without looking at values; arguments as above."""
    xp, space, mesh, of = kind.xp, run.space, run.mesh, members.of
    stated = Statement(xp, run.problem, space, times, residual, conditions, asarray, constant, members)
    t = of(mesh.t)
    now = two_steps(
        run.A, space, mesh, run.near, t, stated.equations, stated.condition_residuals, of, lambda function: function
    )

    def of_members(value: Array, new: Array) -> Array:
        mask = xp.reshape(run.met, (-1, *(1,) * (value.ndim - 1)))
        value = stated.followed(run.met, xp.where(mask, value, xp.nan), new)
        return asarray(stated.shaped(value))

    x, z, p = (of_members(a, b) for a, b in zip((run.u.x, run.u.z, run.u.p), (now.x, now.z, now.p), strict=True))
    error, converged = (stated.shaped(a) for a in (run.error, run.converged))
    reason = "traced, on the mesh that was given: `converged` says which members were solved"
    t = asarray(stated.shaped(t))
    return kind(t, p, asarray(error), converged, reason, run.iterations, None, x, z, space, mesh.t, members)
