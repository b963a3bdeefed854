"""Newton's method on a mesh, damped by natural monotonicity: a step is shortened until the next simplified step, from
the same left-hand side, is shorter than the step.

Source: Deuflhard, Newton Methods for Nonlinear Problems, Springer 2004, section 3.3 (error-oriented damping).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ._collocation import Space
from ._discrete import Discrete, Iterate, Mesh
from ._linear import Linear, Step

__all__ = ["Newton", "newton", "robust_newton", "sizes"]

FINE = 512
"""Intervals from which on only damped steps are tried: what needs others is found on coarser meshes, at less cost."""
ROUNDING = 30.0
"""Steps of so many tolerances that nothing shortens are as short as the arithmetic can make them."""
SHORTEST = 1e-5
"""The damping factor at which a member is given up."""


@dataclass
class Newton:
    """Where Newton's method ended."""

    u: Step
    converged: np.ndarray
    """(B,)"""
    iterations: int


def sizes(space: Space, u: Step, absolute: float = 0.0) -> np.ndarray:
    """The largest value of each state over the mesh, and the constants: (B, M + p); 1 where there are zeros alone."""
    x = np.abs(u.x).max(axis=1)
    size = np.concatenate([x, np.abs(u.p)], axis=-1)
    return np.where(size > absolute, size, np.where(absolute > 0, absolute, 1.0))


class _Norm:
    """The root mean square of a step in units of sizes, (B,); algebraic variables count by their stages."""

    def __init__(self, space: Space, u: Step) -> None:
        size = sizes(space, u)
        self.x, self.p = size[:, None, : space.M], size[:, space.M :]
        self.algebraic = np.array([v for v, q in enumerate(space.orders) if q == 0], int)
        z = np.abs(u.z[:, :, self.algebraic]).max(axis=(1, 3), initial=0.0)
        self.z = np.where(z > 0, z, 1.0)[:, None, :, None]

    def __call__(self, d: Step) -> np.ndarray:
        parts = [(d.x / self.x) ** 2, (d.p / self.p)[:, None] ** 2, (d.z[:, :, self.algebraic] / self.z) ** 2]
        with np.errstate(all="ignore"):
            total = sum(p.reshape(len(p), -1).sum(axis=1) for p in parts)
            return np.sqrt(total / max(sum(p[0].size for p in parts), 1))


def newton(
    problem: Discrete,
    space: Space,
    mesh: Mesh,
    u: Step,
    held: np.ndarray,
    *,
    tolerance: float,
    most: int = 150,
) -> Newton:
    """Newton's method from u for the members that are not held (B,); the others keep their u."""
    active, converged = ~held, np.zeros(len(held), bool)
    at = problem.at(space, mesh, u)
    factor = np.ones(len(held))
    active &= at.is_finite
    iterations = 0
    while active.any() and iterations < most:
        iterations += 1
        if at.J is None:
            at = problem.at(space, mesh, at.u)
        linear = problem.linear(space, mesh, at, sizes(space, at.u))
        step = linear.solve(at.f, at.d, at.conditions.g)
        norm = _Norm(space, at.u.plus(step))
        length = norm(step)
        active &= np.isfinite(length)
        done = active & (length < tolerance)
        if done.any():
            at = _moved(at, done, at.u.plus(step))
            converged |= done
            active &= ~done
            if not active.any():
                break
        at, factor, ended, failed = _damped(
            problem, space, mesh, at, linear, step, length, norm, factor, active, tolerance
        )
        converged |= ended | failed & (length < ROUNDING * tolerance)  # the rest is rounding
        active &= ~(ended | failed)
    return Newton(at.u, converged, iterations)


def _moved(at: Iterate, mask: np.ndarray, u: Step) -> Iterate:
    """The iterate with other unknowns in the members of the mask; their residuals are not looked at again."""
    return Iterate(u.where(mask, at.u), at.f, at.J, at.P, at.d, at.conditions)


def _damped(
    problem: Discrete,
    space: Space,
    mesh: Mesh,
    at: Iterate,
    linear: Linear,
    step: Step,
    length: np.ndarray,
    norm: _Norm,
    factor: np.ndarray,
    active: np.ndarray,
    tolerance: float,
) -> tuple[Iterate, np.ndarray, np.ndarray, np.ndarray]:
    """The next iterate, the factors to begin with there, and the members that have converged and failed."""
    open_, failed = active.copy(), np.zeros_like(active)
    best, next_factor, ended = at, factor.copy(), np.zeros_like(active)
    while open_.any():
        new = at.u.plus(step, np.where(open_, factor, 0.0))
        new = new.where(open_, best.u)
        there = problem.at(space, mesh, new, derivatives=False)
        simplified = linear.solve(there.f, there.d, there.conditions.g)
        with np.errstate(all="ignore"):
            shorter = norm(simplified)
            bend = norm(simplified.plus(step, -(1 - factor)))
            h = 2 * bend / (factor**2 * length)
            fine = there.is_finite & (shorter <= (1 - factor / 4) * length)
        accepted = open_ & fine
        best = there.where(accepted, best)
        ended_now = accepted & (factor == 1) & (shorter < tolerance)
        if ended_now.any():
            best = _moved(best, ended_now, best.u.plus(simplified))
            ended |= ended_now
        next_factor = np.where(accepted, np.minimum(1.0, 1 / np.maximum(h, 1e-300)), next_factor)
        open_ &= ~accepted
        shrunk = np.where(np.isfinite(h), np.minimum(1 / np.maximum(h, 1e-300), factor / 2), factor / 2)
        factor = np.where(open_, shrunk, factor)
        given_up = open_ & (factor < SHORTEST)
        failed |= given_up
        open_ &= ~given_up
    return best, np.where(failed, 1.0, next_factor), ended, failed


def limited(
    problem: Discrete, space: Space, mesh: Mesh, u: Step, held: np.ndarray, *, tolerance: float, most: int = 80
) -> Newton:
    """Newton's method with steps of at most a twentieth of the size of the unknowns, whatever becomes of the residuals:
    it gets past points where the left-hand side is nearly singular, at which monotone methods end."""
    active, converged = ~held, np.zeros(len(held), bool)
    iterations = 0
    while active.any() and iterations < most:
        iterations += 1
        at = problem.at(space, mesh, u)
        active &= at.is_finite
        step = problem.linear(space, mesh, at, sizes(space, u)).solve(at.f, at.d, at.conditions.g)
        length = _Norm(space, u.plus(step))(step)
        active &= np.isfinite(length)
        with np.errstate(all="ignore"):
            u = u.plus(step, np.minimum(1.0, 0.05 / np.maximum(length, 1e-300))).where(active, u)
        converged |= active & (length < tolerance)
        active &= ~converged
    return Newton(u, converged, iterations)


def levenberg_marquardt(
    problem: Discrete, space: Space, mesh: Mesh, u: Step, held: np.ndarray, *, tolerance: float, most: int = 60
) -> Newton:
    """Steps that keep states near where they are, by as much as the last step was too long; for starts from which
    Newton's method does not get away. The residuals are those of the rows that couple in time, with the left-hand side
    of the last iterate."""
    B = len(held)
    active, converged = ~held, np.zeros(B, bool)
    at = problem.at(space, mesh, u)
    active &= at.is_finite
    damping = np.full(B, 1e-1)
    iterations = 0
    while active.any() and iterations < most:
        iterations += 1
        linear = problem.linear(space, mesh, at, sizes(space, at.u))
        before = linear.merit(at.f, at.d, at.conditions.g)
        accepted, factor = ~active, np.ones(B)
        for _ in range(12):
            step = linear.solve(at.f, at.d, at.conditions.g, np.where(damping < 1e-8, 0.0, damping))
            there = problem.at(space, mesh, at.u.plus(step, np.where(accepted, 0.0, factor)))
            with np.errstate(all="ignore"):
                left = linear.merit(there.f, there.d, there.conditions.g)
                better = ~accepted & there.is_finite & (left < (1 - 1e-3 * factor) * before)
            length = _Norm(space, at.u.plus(step))(step)
            at = there.where(better, at)
            good = (left < 0.25 * before) & (factor == 1)
            eased = np.where(good, 0.1, np.where(factor == 1, 0.4, 1.0)) * damping
            damping = np.where(better, eased, np.where(accepted, damping, 4 * damping))
            factor = np.where(accepted | better, factor, 0.5 * factor)
            converged |= better & (length < tolerance) & (damping < 1e-4)
            accepted |= better
            if accepted.all():
                break
        active &= accepted & ~converged
    return Newton(at.u, converged, iterations)


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
    coarse may be a worse start, and, on meshes that are not fine yet, limited ones from u, and those of Levenberg and
    Marquardt from the end of the first.
    """
    run = newton(problem, space, mesh, u, held, tolerance=tolerance)
    if guess is not None and not (run.converged | held).all():
        run = _both(run, newton(problem, space, mesh, guess(), held | run.converged, tolerance=tolerance))
    if (run.converged | held).all() or mesh.N > FINE:
        return run
    again = limited(problem, space, mesh, u, held | run.converged, tolerance=tolerance)
    run = _both(run, again)
    if (run.converged | held).all():
        return run
    return _both(run, levenberg_marquardt(problem, space, mesh, run.u, held | run.converged, tolerance=tolerance))


def _both(first: Newton, second: Newton) -> Newton:
    return Newton(
        second.u.where(second.converged, first.u),
        first.converged | second.converged,
        first.iterations + second.iterations,
    )
