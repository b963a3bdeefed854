r"""Derivatives of a solution, at the mesh on which it was found.

All rows together, F(u, θ) = 0, determine the unknowns u (states, stages, constants) for everything else that goes in,
θ: what the residual closes over, conditions, times. With the derivative A = ∂F/∂u at the solution u*, frozen,

    u_1 = u* - A^-1 F(u*, θ)          has the value u*, and its first derivatives by θ, -A^-1 ∂F/∂θ;
    u_2 = u_1 - A^-1 F(u_1, θ)        has its second ones, too: of u - A^-1 F(u, θ) the derivative by u vanishes at u*,
    so that an error of second order in u_1 becomes one of third order.

F is the caller's function, differentiated by the framework; A^-1 is linear, in matrices that are constant: matrix
products on each interval and one `solve_ode`, of which the frameworks' adapters know all derivatives. Derivatives of
the third order and above are not those of the solution.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from .._arrays import Array, Namespace, concat, device_of
from ._arithmetic import INCREMENTS
from ._collocation import Space
from ._discrete import Mesh
from ._linear import Linear, Step
from ._search import FoundSolution
from ._sweep import LinearMap, Swept

__all__ = ["Frozen", "attached", "frozen"]


@dataclass(frozen=True)
class Frozen:
    """A^-1 as matrices, for B members, in arrays of a framework."""

    xp: Namespace
    solve_ode: Callable[..., Array]
    space: Space
    s: Array
    H: Array
    HC: Array
    ends: Array
    """(B, N, M, V k): what stages add to the states at the ends"""
    rest: Array | None
    coefficients: Array
    scale: Array
    size: Array
    place: Array
    """(B, N+1, rows, C): where the conditions stand"""

    def step(self, f: Array, d: Array, g: Array) -> Step:
        """A^-1 applied to residuals f (B, N, k Q), d (B, N, M), g (B, C), with the opposite sign."""
        xp = self.xp
        M, m, p = self.space.M, self.size.shape[-1], self.HC.shape[-1] - self.space.M
        B, N = d.shape[:2]
        particular = -xp.matmul(self.H, f[..., None])[..., 0]
        γ = xp.matmul(self.ends, particular[..., None])[..., 0] - d

        def zeros(*shape: int) -> Array:
            return xp.zeros(shape, dtype=d.dtype, device=device_of(d))

        parts = [γ / self.size[:, None, :M], zeros(B, N, m - M)]
        if self.rest is not None:
            parts.append(-xp.matmul(self.rest, f[..., None])[..., 0])
        rows = self.coefficients.shape[-3]
        parts.append(zeros(B, N, rows - sum(x.shape[-1] for x in parts)))
        b = concat(xp, [concat(xp, parts, axis=-1), zeros(B, 1, rows)], axis=1)
        b = (b - xp.matmul(self.place, g[:, None, :, None])[..., 0]) * self.scale
        y = self.solve_ode(
            self.coefficients,
            b,
            zeros(0, m, 1),
            xp.ones((1,), dtype=d.dtype, device=device_of(d)),
            n_steps=N + 1,
            scheme=INCREMENTS,
        )[..., 0]
        y = y * self.size[:, None]
        x = y[..., :M]
        full = y[..., : M + p]
        left = concat(xp, [x[:, :N], xp.broadcast_to(full[:, :1, M:], (B, N, p))], axis=-1)
        z = particular - xp.matmul(self.HC, left[..., None])[..., 0]
        z = xp.reshape(z, (B, N, self.space.V, self.space.k))
        q = xp.stack([self.s**e for e in self.space.orders], axis=-1)
        return Step(x, z / q[..., None], full[:, 0, M:])


def frozen(xp: Namespace, solve_ode: Callable[..., Array], linear: Linear, of: Callable[[Array], Array]) -> Frozen:
    """The linearised problem in arrays of the framework, which `of` makes."""
    local = linear.local
    space = local.space
    B, N = local.s.shape
    rows = linear.coefficients.shape[2]
    C = len(linear.structure.touches)
    place = np.zeros((B, N + 1, rows, C))
    member = np.arange(B)
    for row, (time, slot) in enumerate(zip(linear.structure.home, linear.own, strict=True)):
        place[member, linear.index[:, time], linear.beside + slot, row] = 1.0
    v, o = space.states
    ends = np.zeros((B, N, space.M, space.V, space.k))
    ends[:, :, np.arange(space.M), v] = space.at_end[v, max(space.R, 1) :, o] / local.s[..., None, None] ** o[:, None]

    return Frozen(
        xp,
        solve_ode,
        space,
        of(local.s),
        of(local.H),
        of(local.HC),
        of(ends.reshape(B, N, space.M, space.V * space.k)),
        None if local.rest is None else of(local.rest[1]),
        of(linear.coefficients),
        of(linear.scale),
        of(linear.size),
        of(place),
    )


def values_at_points(now: Step, s: Array, *, space: Space, xp: Namespace) -> tuple[Array, Array]:
    """y at the collocation points, (B, N k, V, R+1), and the jumps of the states, (B, N, M)."""
    B, N = now.z.shape[:2]
    features = space.features(xp, now.x[:, :-1], now.z, s)
    y = xp.reshape(space.values(xp, space.at_points, features, s), (B, N * space.k, space.V, space.R + 1))
    return y, now.x[:, 1:] - space.ends(xp, features, s)


def corrected(A: Frozen | Swept, now: Step, f: Array, d: Array, g: Array) -> Step:
    """u - A^-1 F(u), for residuals at u."""
    step = A.step(f, d, g)
    return Step(now.x + step.x, now.z + step.z, now.p + step.p)


def attached(
    run: FoundSolution,
    xp: Namespace,
    solve_ode: Callable[..., Array],
    residual: Callable[..., Array],
    conditions: Callable[[Array, Array], Array],
    times: Array,
    of: Callable[[np.ndarray], Array],
    compiled: Callable[[Callable[..., Any]], Callable[..., Any]] = lambda function: function,
    linear_map: LinearMap | None = None,
) -> tuple[Step, Array]:
    """u_2 and the mesh, differentiable; B members.

    Args:
        residual: residual(t (B, n), y (B, n, V, R+1), constants (B, 1, p)) -> (B, n, Q), in the framework's arrays.
        conditions: conditions(states (B, times, M), constants (B, p)) -> (B, C), likewise.
        times: the caller's times.
        of: makes arrays of the framework, of floats and of integers.
        compiled: makes of `values_at_points` and `corrected`, whose `space` and `xp` are static, faster functions.
        linear_map: where it is given, initial values in many variables are swept.
    """
    space, (mesh, u) = run.found.space, run.sound
    A: Frozen | Swept
    if linear_map is not None and (sweep := run.sweep) is not None:
        A = Swept(xp, sweep, linear_map)
    else:
        A = frozen(xp, solve_ode, run.linear, of)
    t = _moving(xp, mesh, run.times, times, of)
    start = Step(of(u.x), of(u.z), of(u.p))
    return two_steps(A, space, mesh, start, t, residual, conditions, of, compiled), t


def two_steps(
    A: Frozen | Swept,
    space: Space,
    mesh: Mesh,
    start: Step,
    t: Array,
    residual: Callable[..., Array],
    conditions: Callable[[Array, Array], Array],
    of: Callable[[np.ndarray], Array],
    compiled: Callable[[Callable[..., Any]], Callable[..., Any]],
) -> Step:
    """u_2 from u* = start; t, (B, N+1), has the values of the mesh."""
    xp = A.xp
    s = t[:, 1:] - t[:, :-1]
    B, N = s.shape
    points = t[:, :-1, None] + s[..., None] * of(np.broadcast_to(np.asarray(space.points), (*mesh.s.shape, space.k)))
    if space.points[-1] == 1.0:
        points = points + of(_nudge(mesh, space.k))
    points = xp.reshape(points, (B, N * space.k))
    member, index = xp.arange(B, device=device_of(t))[:, None], of(mesh.index)
    values = compiled(values_at_points)
    correction = corrected if isinstance(A, Swept) else compiled(corrected)

    def step(now: Step) -> Step:
        y, d = values(now, s, space=space, xp=xp)
        f = xp.reshape(residual(points, y, now.p[:, None]), (B, N, -1))
        return correction(A, now, f, d, conditions(now.x[member, index], now.p))

    return step(step(start))


def _nudge(mesh: Mesh, k: int) -> np.ndarray:
    """Shifts that move the last point of each interval just inside of it: (B, N, k)."""
    nudge = np.zeros((*mesh.s.shape, k))
    nudge[..., -1] = np.nextafter(mesh.t[:, 1:], mesh.t[:, :-1]) - mesh.t[:, 1:]
    return nudge


def _moving(xp: Namespace, mesh: Mesh, fixed: np.ndarray, times: Array, of: Callable[[np.ndarray], Array]) -> Array:
    """The mesh as a function of the times: each point stays where it is between two of them; (B, N+1)."""
    sign = np.sign(fixed[-1] - fixed[0])
    i = np.clip(np.searchsorted(sign * fixed, sign * mesh.t, side="right") - 1, 0, len(fixed) - 2)
    part = of((mesh.t - fixed[i]) / (fixed[i + 1] - fixed[i]))
    left, right = (times[of(j)] for j in (i, i + 1))
    return left + part * (right - left)
