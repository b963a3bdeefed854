"""Solutions as functions of time."""

from __future__ import annotations

from dataclasses import dataclass, field
from textwrap import fill
from typing import Any

import numpy as np

from .._arrays import Array
from .._errors import ArgumentError, ShapeError
from ._collocation import Space
from ._discrete import Discrete, Mesh
from ._equations import as_floats
from ._linear import Step
from ._mesh import finer
from ._search import FoundSolution

__all__ = ["Solution", "solution_of"]


@dataclass(frozen=True, eq=False, repr=False)
class Solution:
    """A solution of `solve`: call it with times to have y and its derivatives there.

    Shapes: (...) the batch, N intervals, V variables, R the highest order, p constants.
    """

    t: Array
    """(..., N+1): the mesh"""
    y: Array
    """(..., N+1, V, R+1): y and its derivatives on the mesh"""
    constants: Array
    """(..., p): the constants that were solved for"""
    error: Array
    """(..., N, V): an estimate of the largest error of each variable on each interval, global, in units of y"""
    converged: Array
    """bool, (...): whether the estimate is below the tolerance"""
    reason: Any
    """Why it ended, in a sentence; of a batch a list of them"""
    iterations: int
    """Linear problems solved on a whole mesh, or windows of a march"""
    orders: tuple[int, ...]
    """The order of each variable in the equations; 0: algebraic"""
    _space: Space = field(repr=False)
    _states: Array = field(repr=False)
    _stages: Array = field(repr=False)

    @property
    def largest_error(self) -> Array:
        """The largest of `error` over intervals: (..., V)."""
        return self.error.max(axis=-2)

    @property
    def variables(self) -> int:
        return len(self.orders)

    @property
    def batch(self) -> tuple[int, ...]:
        return tuple(self.t.shape[:-1])

    def __call__(self, times: Any) -> Array:
        """y and its derivatives 0..R at times (n,) or (..., n): (..., n, V, R+1).

        The highest derivative jumps from interval to interval; on the mesh it is that of the interval that follows.

        Raises:
            ArgumentError: for times beyond the ends.
        """
        τ = as_floats("times", times)
        scalar = τ.ndim == 0
        τ = np.atleast_1d(τ)
        batch = self.batch
        try:
            τ = np.broadcast_to(τ, (*np.broadcast_shapes(τ.shape[:-1], batch), τ.shape[-1]))
        except ValueError:
            raise ShapeError(f"times of shape {τ.shape} do not broadcast with the batch axes {batch}.") from None
        check_inside(τ, self.t)
        t, x, z = (
            a.reshape(-1, *a.shape[len(batch) :]).astype(np.float64) for a in (self.t, self._states, self._stages)
        )
        y = self._space.at_times(x, z, t, τ.reshape(len(t), -1).astype(np.float64))
        y = y.reshape(*τ.shape, *y.shape[-2:])
        y = np.where(np.isfinite(self.error).all(axis=(-2, -1))[..., None, None, None], y, np.nan).astype(self.y.dtype)
        return y[..., 0, :, :] if scalar else y

    def __repr__(self) -> str:
        worst = f"{np.max(np.asarray(self.error)):.1e}" if np.size(self.error) else "none"
        count = f"{int(np.sum(np.asarray(self.converged)))} of {max(int(np.prod(self.batch)), 1)} converged"
        of_batch = f", batch {self.batch}, {count}" if self.batch else f", {self.reason}"
        orders = f"orders {self.orders}" if len(set(self.orders)) > 1 else f"order {self.orders[0]}"
        return (
            f"Solution(V = {self.variables}, {orders}, {self.t.shape[-1] - 1} intervals, largest estimated "
            f"error {worst}{of_batch})"
        )

    def plot(self, axes: Any = None) -> Any:
        """Pictures of the variables with the mesh, and of the estimated error below (matplotlib); of a solution that
        was not found the mesh alone, under the reason. The two axes."""
        from matplotlib import pyplot as plt

        if self.batch:
            raise ShapeError(f"plot shows one member; this solution has batch axes {self.batch}.")
        if axes is None:
            _, axes = plt.subplots(2, 1, sharex=True, height_ratios=(3, 1), layout="constrained")
        t = np.asarray(self.t, float)
        fine = np.unique(np.concatenate([t, np.linspace(t[0], t[-1], 400)]))
        y, error = np.asarray(self(fine))[..., 0], np.asarray(self.error, float)
        error = np.where(np.isfinite(error), error, np.nan)
        for v in range(self.variables):
            (line,) = axes[0].plot(fine, y[:, v])
            axes[0].annotate(f"y{v}", (fine[-1], y[-1, v]), (4, 0), textcoords="offset points", color=line.get_color())
            axes[1].stairs(error[:, v], t, baseline=None, color=line.get_color())
        axes[0].plot(t, np.full_like(t, axes[0].get_ylim()[0]), "|", color="grey")
        if not self.converged:
            axes[0].set_title(fill(self.reason, 90), fontsize="small", loc="left")
        if (error > 0).any():
            axes[1].set_yscale("log")
        axes[1].set_ylabel("estimated error")
        axes[1].set_xlabel("t")
        return axes

    def at_mesh(self, problem: Discrete, space: Space, mesh: Mesh, c: np.ndarray) -> Step:
        """This solution as a first guess for another problem of the same variables."""
        if space.orders != self.orders:
            raise ArgumentError(f"guess is a solution of orders {self.orders}; the equations have {space.orders}.")
        B = len(mesh.t)

        def flat(a: Any, rank: int) -> np.ndarray:
            a = np.asarray(a, dtype=np.float64)
            core = a.shape[a.ndim - rank :]
            return np.broadcast_to(a, (*problem.batch, *core)).reshape(B, *core)

        t = flat(self.t, 1)
        whole = mesh.t[:, :1] + (t - t[:, :1]) / (t[:, -1:] - t[:, :1]) * (mesh.t[:, -1:] - mesh.t[:, :1])
        x, z = self._space.moved(space, flat(self._states, 2), flat(self._stages, 3), whole, mesh.t)
        constants = flat(self.constants, 1) if self.constants.shape[-1] == c.shape[-1] else c
        return Step(x, z, constants.copy())

    def first_mesh(self, times: np.ndarray, B: int) -> Mesh:
        """The mesh of this solution, stretched to other ends; other times become mesh points."""
        t = np.asarray(self.t, dtype=np.float64).reshape(-1, self.t.shape[-1])
        members = []
        for b in range(B):
            own = t[min(b, len(t) - 1)]
            own = times[0] + (own - own[0]) / (own[-1] - own[0]) * (times[-1] - times[0])
            own[-1] = times[-1]
            step = np.abs(np.diff(own))
            near = 1e-3 * np.minimum(np.append(step, np.inf), np.append(np.inf, step))
            inner = own[np.abs(own[:, None] - times).min(axis=1) > near]
            merged = np.sort(np.concatenate([inner, times]))
            members.append(merged if times[-1] > times[0] else merged[::-1])
        N = max(len(m) for m in members) - 1
        meshes = []
        for m in members:
            sign = np.sign(times[-1] - times[0])
            meshes.append(finer(Mesh(m[None], np.searchsorted(sign * m, sign * times)[None]), 0, N))
        return Mesh(np.concatenate([m.t for m in meshes]), np.concatenate([m.index for m in meshes]))


def check_inside(τ: np.ndarray, t: np.ndarray) -> None:
    """
    Raises:
        ArgumentError: for times (..., n) beyond the ends of meshes (..., N+1).
    """
    first, last = np.minimum(t[..., 0], t[..., -1]), np.maximum(t[..., 0], t[..., -1])
    slack = 1e-9 * (last - first) if t.dtype == np.float64 else 1e-5 * (last - first)
    outside = (τ < (first - slack)[..., None]) | (τ > (last + slack)[..., None]) | np.isnan(τ)
    if outside.any():
        raise ArgumentError(
            f"times must lie between the ends of the solution, {float(np.min(first)):g} and {float(np.max(last)):g}; "
            f"got "
            f"{float(np.asarray(τ)[outside].ravel()[0]):g}."
        )


def solution_of(run: FoundSolution, dtype: np.dtype[Any]) -> Solution:
    """The result on NumPy arrays; members that were not solved are NaN."""
    found, problem = run.found, run.problem
    space, mesh, u = found.space, found.mesh, found.u
    ends = space.values(np, space.table((0.0, 1.0)), space.features(np, u.x[:, :-1], u.z, mesh.scale), mesh.scale)
    y = np.concatenate([ends[:, :, 0], ends[:, -1:, 1]], axis=1)
    y = np.where(np.isfinite(found.error).all(axis=(1, 2))[:, None, None, None], y, np.nan)

    def shaped(x: np.ndarray) -> np.ndarray:
        return problem.shaped(x).astype(dtype)

    return Solution(
        t=shaped(mesh.t),
        y=shaped(y),
        constants=shaped(u.p),
        error=shaped(found.error),
        converged=problem.shaped(found.converged),
        reason=found.reasons if problem.batch else found.reasons[0],
        iterations=found.iterations,
        orders=space.orders,
        _space=space,
        _states=problem.shaped(u.x),
        _stages=problem.shaped(u.z),
    )
