"""Newton's method on a mesh, damped by natural monotonicity: a step is shortened until the next simplified step, from
the same left-hand side, is shorter than the step.

Source: Deuflhard, Newton Methods for Nonlinear Problems, Springer 2004, section 3.3 (error-oriented damping).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from .._arrays import Array, concat
from ._arithmetic import NUMPY, namespace_of
from ._collocation import Space
from ._discrete import Discrete, Iterate, Mesh
from ._linear import Linear, Step
from ._window import Coupled

__all__ = ["Newton", "newton", "robust_newton", "sizes"]

FINE = 512
"""Intervals from which on only damped steps are tried, and fewer: what needs others is found on coarser meshes, at less
cost."""
MOST_ON_FINE = 40
ROUNDING = 30.0
"""Steps of so many tolerances that nothing shortens are as short as the arithmetic can make them."""
SHORTEST = 1e-5
"""The damping factor at which a member is given up."""


@dataclass
class Newton:
    """The end of Newton's method."""

    u: Step
    converged: Array
    """(B,)"""
    iterations: Any


def sizes(space: Space, u: Step, absolute: float = 0.0) -> Array:
    """The largest value of each state over the mesh, and the constants: (B, M + p); 1 where there are zeros alone."""
    xp = namespace_of(u.x)
    size = xp.max(xp.abs(u.x), axis=1)
    if u.p.shape[-1]:
        size = concat(xp, [size, xp.abs(u.p)], axis=-1)
    return xp.where(size > absolute, size, (absolute if absolute > 0 else 1.0) * xp.ones_like(size))


class _Norm:
    """The root mean square of a step in units of sizes, (B,); algebraic variables count by their stages."""

    def __init__(self, space: Space, u: Step) -> None:
        xp, size = namespace_of(u.x), sizes(space, u)
        self.xp, self.x, self.p = xp, size[:, None, : space.M], size[:, space.M :]
        self.algebraic = np.array([v for v, q in enumerate(space.orders) if q == 0], int)
        if len(self.algebraic):
            z = xp.max(xp.abs(u.z[:, :, self.algebraic]), axis=(1, 3))
            self.z = xp.where(z > 0, z, xp.ones_like(z))[:, None, :, None]

    def __call__(self, d: Step) -> Array:
        parts = [d.x / self.x]
        if d.p.shape[-1]:
            parts.append(d.p / self.p)
        if len(self.algebraic):
            parts.append(d.z[:, :, self.algebraic] / self.z)
        flat = [part.reshape(len(part), -1) for part in parts]
        total = sum(self.xp.sum(part * part, axis=1) for part in flat)
        return self.xp.sqrt(total / max(sum(part.shape[1] for part in flat), 1))


def newton(
    problem: Discrete,
    space: Space,
    mesh: Mesh,
    u: Step,
    held: Array,
    *,
    tolerance: float,
    most: int = 150,
) -> Newton:
    """Newton's method from u for the members that are not held (B,); the others keep their u. Traceable."""
    xp, most = problem.arithmetic.xp, most if mesh.N <= FINE else min(most, MOST_ON_FINE)
    at = problem.at(space, mesh, u, derivatives=False)
    start = Progress(at, xp.ones(held.shape, dtype=u.x.dtype), ~held & at.is_finite, xp.zeros_like(held), 0)

    def going(now: Progress) -> Array:
        return xp.any(now.active) & (now.iterations < most)

    def advance(now: Progress) -> Progress:
        at = now.at if now.at.J is not None else problem.at(space, mesh, now.at.u)
        linear = problem.solver(space, mesh, at, sizes(space, at.u))
        step = linear.solve(at.f, at.d, at.conditions.g)
        whole = at.u.plus(step)
        norm = _Norm(space, whole)
        length = norm(step)
        active = now.active & xp.isfinite(length)
        done = active & (length < tolerance)
        moved = _moved(now.at, done, whole)
        active = active & ~done
        tried = _damped(problem, space, mesh, moved, linear, step, length, norm, now.factor, active, tolerance)
        failed = active & tried.failed
        ended = done | tried.ended | (failed & (length < ROUNDING * tolerance))  # the rest is rounding
        return Progress(
            tried.best, tried.next_factor, active & ~(tried.ended | failed), now.converged | ended, now.iterations + 1
        )

    with np.errstate(all="ignore"):
        end = problem.arithmetic.loop(going, advance, start)
    return Newton(end.at.u, end.converged, end.iterations)


class Progress(NamedTuple):
    """The present iterate; without derivatives at `at`, unless they come along with f."""

    at: Iterate
    factor: Array
    """(B,): of the step that is tried first"""
    active: Array
    converged: Array
    iterations: Any


def _moved(at: Iterate, mask: Array, u: Step) -> Iterate:
    """The iterate with other unknowns in the members of the mask; their residuals are not looked at again."""
    return Iterate(u.where(mask, at.u), at.f, at.J, at.P, at.d, at.conditions)


class Tried(NamedTuple):
    """Steps of lengths that were tried, of those members that are open."""

    best: Iterate
    factor: Array
    next_factor: Array
    """with which the next step begins"""
    open: Array
    ended: Array
    failed: Array


def _damped(
    problem: Discrete,
    space: Space,
    mesh: Mesh,
    at: Iterate,
    linear: Linear | Coupled,
    step: Step,
    length: Array,
    norm: _Norm,
    factor: Array,
    active: Array,
    tolerance: float,
) -> Tried:
    """Shortens the step of each active member until it is accepted, or too short."""
    xp = problem.arithmetic.xp
    one, none = xp.ones_like(factor), xp.zeros_like(active)

    def advance(now: Tried) -> Tried:
        factor = now.factor
        new = at.u.plus(step, xp.where(now.open, factor, xp.zeros_like(factor))).where(now.open, now.best.u)
        there = problem.at(space, mesh, new, derivatives=False)
        simplified = linear.solve(there.f, there.d, there.conditions.g)
        shorter = norm(simplified)
        h = 2 * norm(simplified.plus(step, -(1 - factor))) / (factor**2 * length)
        allowed = 1 / xp.where(h > 1e-300, h, 1e-300 * one)  # by the curvature
        accepted = now.open & there.is_finite & (shorter <= (1 - factor / 4) * length)
        ended = accepted & (factor == 1) & (shorter < tolerance)
        best = there.where(accepted, now.best)
        best = _moved(best, ended, best.u.plus(simplified))
        next_factor = xp.where(accepted, xp.minimum(one, allowed), now.next_factor)
        still = now.open & ~accepted
        shrunk = xp.where(xp.isfinite(h), xp.minimum(allowed, factor / 2), factor / 2)
        factor = xp.where(still, shrunk, factor)
        given_up = still & (factor < SHORTEST)
        return Tried(best, factor, next_factor, still & ~given_up, now.ended | ended, now.failed | given_up)

    end = problem.arithmetic.loop(lambda now: xp.any(now.open), advance, Tried(at, factor, factor, active, none, none))
    return end._replace(next_factor=xp.where(end.failed, one, end.next_factor))


def limited(
    problem: Discrete, space: Space, mesh: Mesh, u: Step, held: Array, *, tolerance: float, most: int = 160
) -> Newton:
    """Newton's method with steps of at most a fiftieth of the size of the unknowns, whatever becomes of the residuals:
    it gets past points where the left-hand side is nearly singular, at which monotone methods end. Traceable."""
    xp = problem.arithmetic.xp

    def going(now: tuple[Any, ...]) -> Array:
        return xp.any(now[1]) & (now[3] < most)

    def advance(now: tuple[Any, ...]) -> tuple[Any, ...]:
        u, active, converged, iterations = now
        at = problem.at(space, mesh, u)
        step = problem.solver(space, mesh, at, sizes(space, u)).solve(at.f, at.d, at.conditions.g)
        length = _Norm(space, u.plus(step))(step)
        active = active & at.is_finite & xp.isfinite(length)
        shortened = 0.02 / xp.where(length > 1e-300, length, 1e-300 * xp.ones_like(length))
        u = u.plus(step, xp.minimum(xp.ones_like(length), shortened)).where(active, u)
        done = active & (length < tolerance)
        return u, active & ~done, converged | done, iterations + 1

    with np.errstate(all="ignore"):
        u, _, converged, iterations = problem.arithmetic.loop(going, advance, (u, ~held, xp.zeros_like(held), 0))
    return Newton(u, converged, iterations)


def robust_newton(
    problem: Discrete,
    space: Space,
    mesh: Mesh,
    u: Step,
    held: np.ndarray,
    *,
    tolerance: float,
    guess: Callable[[], Step] | None = None,
) -> Newton:
    """Damped steps; where they end, others: damped ones from the first guess, since the solution of a mesh that was too
    coarse may be a worse start, and, on meshes that are not fine yet, limited ones from u. Traceable.
    """
    looks = problem.arithmetic is NUMPY
    run = newton(problem, space, mesh, u, held, tolerance=tolerance)
    if guess is not None and not (run.converged | held).all():
        run = _both(run, newton(problem, space, mesh, guess(), held | run.converged, tolerance=tolerance))
    if (looks and (run.converged | held).all()) or mesh.N > FINE:
        return run
    return _both(run, limited(problem, space, mesh, u, held | run.converged, tolerance=tolerance))


def _both(first: Newton, second: Newton) -> Newton:
    return Newton(
        second.u.where(second.converged, first.u),
        first.converged | second.converged,
        first.iterations + second.iterations,
    )
