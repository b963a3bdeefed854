"""Gauss-Newton iterations of a fit, for all members of a batch side by side.

Each is a step of `_variable_projection`, see there. From a smooth curve through the data the weight of the equations
grows from nearly nothing to where the parameters no longer move. Where equations weigh little the trajectory follows
the data and the parameters solve a problem that is nearly linear; each weight starts from the solution before.

Everything in units in which each variable has size 1 (`z` = y / size) and each equation a linearisation of size 1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from .._arrays import Array, Namespace, device_of, product
from .._problem import Problem, Weights
from .._schemes import HERMITE, Scheme
from .._solve import solve_without_raising
from .._weighting import weighted_problem
from ._problem import FitProblem
from ._start import Observations, difference_noise, smooth, time_scale
from ._variable_projection import LinearFit, estimate, project

__all__ = ["ANNEALING", "GIVEN", "LATE", "LIGHT_HERMITE", "Iteration", "Stage"]


class Stage(NamedTuple):
    """Iterations with one weight of the equations."""

    level: float
    """the weight of the equations (automatic), or what the weight given is multiplied by"""
    iterations: int
    """at most"""
    enough: float
    """movement in standard errors below which an iteration is the last one"""
    final: str = ""
    """which members are finished: "settled" where the last iteration moved less than `TOLERANCE`, "limit" where the
    whole stage moved less than `STAGE_TOLERANCE` as well"""


ANNEALING = tuple(Stage(w, 4, 0.3) for w in (0.3, 1.0, 3.0, 10.0, 30.0, 100.0))
LATE = tuple(Stage(3.0 * 10.0**k, 4, 3e-3, "limit") for k in range(2, 10))
"""What the parameters still move goes down with the square of the weight."""
GIVEN = tuple(Stage(w, 4, 0.3) for w in (0.003, 0.01, 0.03, 0.1, 0.3))
SMOOTHNESS = 1e4
"""Weight of the smoothness rows, relative to that of the data."""
REFERENCE = 10.0
"""Weight of the data, size / noise, to which the levels belong: more precise data meet heavier equations."""
LIGHTER = 0.1
"""Weight of the row of the highest order relative to that of `HERMITE`. It penalises jumps of that derivative, that are
no errors; much lighter, it would leave the derivative free to alternate from point to point."""
TOLERANCE = 3e-3
STAGE_TOLERANCE = 0.03
"""Movement from one weight to the one ten times as large, in standard errors, and their relative change."""
ROUNDING = 1e-10
"""Relative movement that is none."""
DAMPING = 0.7
"""Weight of the rows that hold unobserved variables, on variables of unit size, during annealing."""
REACH = 1.0
"""How far parameters go in one step, relative to their size."""
SHORTEST = 0.25
"""The smallest part of a Gauss-Newton step that is taken where steps go back and forth."""
HALVINGS = 10
"""How often a step that leads to where the equations are not finite is halved."""
NOISE_FROM = 3.0
"""The level from which noise is estimated from what the fit leaves; before, and with given weights, from differences of
the data."""
LEAST_NOISE = 1e-9
"""Estimated noise relative to the size of a variable, at least."""


def _lighter(K: int) -> tuple[np.ndarray, np.ndarray]:
    F, G = HERMITE.matrices(K)
    F[-1] *= LIGHTER
    G[-1] *= LIGHTER
    return F, G


LIGHT_HERMITE = replace(HERMITE, name="hermite, light", rule=_lighter)
"""`HERMITE` with a lighter row of the highest order."""


class Iteration:
    """The state of all members; those that are finished or have failed are not touched again."""

    def __init__(self, problem: FitProblem, *, scheme: Scheme, engine: str, most: int) -> None:
        self.problem, self.scheme, self.engine, self.most = problem, scheme, engine, most
        xp = self.xp = problem.xp
        B, device, p = problem.B, problem.device, problem.p
        size = problem.size[:, None, :, None]
        self.u = problem.data.values / size
        self.noise = difference_noise(problem.data)[:, None, ...] if problem.noise is None else problem.noise
        if problem.noise is None:
            self.noise = xp.clip(self.noise, LEAST_NOISE * size, None)
        data = Observations(xp, self.u, *problem.data[2:])
        guess = None if problem.guess is None else problem.guess / size
        self.z: Array = guess
        if problem.needs_start:
            smoothed = smooth(data, self.noise / size, problem.K, self._solve)
            self.z = smoothed if guess is None else xp.where(xp.isnan(guess), smoothed, guess)
        self.θ = problem.start
        self.before = self.z, self.θ
        self.total = 0
        self.active = xp.ones((B,), dtype=xp.bool, device=device)
        self.converged, self.failed = ~self.active, ~self.active
        self.halvings = xp.zeros((B,), dtype=xp.int64, device=device)
        self.iterations = xp.zeros((B,), dtype=xp.int64, device=device)
        self.level = xp.ones((B,), dtype=xp.float64, device=device)
        self.move = xp.full((B,), float("inf"), dtype=xp.float64, device=device)
        members = self.θ.shape[0]
        self.covariance = xp.full((members, p, p), float("nan"), dtype=xp.float64, device=device)
        self.held = xp.zeros((members, p), dtype=xp.bool, device=device)
        self.determined = xp.ones((members,), dtype=xp.bool, device=device)
        self.largest = xp.zeros_like(self.θ)
        self.last_step, self.ω = xp.zeros_like(self.θ), xp.ones((members,), dtype=xp.float64, device=device)
        if problem.weights is None:
            self._look_at_equations()

    def _solve(self, *arguments: Array, **options: Any) -> Array:
        problem = weighted_problem(Problem.build(*arguments, **options))
        return solve_without_raising(problem, engine=self.engine)[0]

    def _look_at_equations(self) -> None:
        """The size of each equation, (B or 1, Q), and the constants of integration, (B or 1,).

        The size is that of the linearisation for changes of y by its size and of its derivatives by their size, which
        is 1 / time scale to the power of the order: the root of the mean over time of the sum of squares.
        """
        xp, problem = self.xp, self.problem
        J = problem.at(self.z * problem.size[:, None, :, None], self.θ)[1]
        seen = xp.max(problem.data.observed[..., 0], axis=1, keepdims=True)
        τ = time_scale(self.z, seen, xp)
        orders = xp.arange(problem.K, dtype=xp.float64, device=problem.device)
        units = problem.size[:, None, None, :, None] / τ[:, None, None, None, None] ** orders
        J = xp.where(xp.isfinite(J), J, xp.zeros_like(J))
        size = xp.sqrt(xp.mean(xp.sum((J * units) ** 2, axis=(-2, -1)), axis=1))
        self.equation_size = xp.where(size > 0, size, xp.ones_like(size))
        there = xp.astype(xp.max(xp.abs(J), axis=(1, 2)) > 0, xp.float64)
        self.constants = xp.sum(xp.max(there * orders, axis=-1), axis=-1)

    def run(self, stages: tuple[Stage, ...], report: Callable[[Stage, int], None]) -> None:
        xp = self.xp
        for stage in stages:
            start = self.z, self.θ, self.noise, self.covariance
            self.last_step = xp.zeros_like(self.θ)
            self.move = xp.full_like(self.move, float("inf"))
            for _ in range(stage.iterations):
                if self.total == self.most or not bool(xp.any(self.active)):
                    return
                self._iterate(stage)
                report(stage, int(xp.sum(xp.astype(self.active, xp.int64))))
                if not bool(xp.any(self.active & (self.move > stage.enough))):
                    break
            if self.problem.noise is None and self.problem.weights is None and stage.level >= NOISE_FROM:
                self._estimate_noise()
            settled = self.move < TOLERANCE
            if stage.final == "limit":
                settled = settled & (self._movement(*start[:2]) < STAGE_TOLERANCE) & self._same_errors(start[3])
            if stage.final:
                change = xp.abs(self.noise / start[2] - 1) * self._is_observed
                self._finish(settled & (xp.max(change, axis=(1, 2, 3)) < STAGE_TOLERANCE))

    def _finish(self, done: Array) -> None:
        if self.problem.shared:
            done = done & self.xp.all(done | ~self.active)
        self.converged = self.converged | (self.active & done)
        self.active = self.active & ~done

    @property
    def _is_observed(self) -> Array:
        return self.xp.max(self.problem.data.observed, axis=1, keepdims=True)

    @property
    def w_data(self) -> Array:
        return self.problem.data.observed * (self.problem.size[:, None, :, None] / self.noise)

    @property
    def precision(self) -> Array:
        """size / noise, the largest of each member, (B,)."""
        return self.xp.max(self.w_data, axis=(1, 2, 3))

    def _iterate(self, stage: Stage) -> None:
        """One Gauss-Newton step of all members that still move."""
        xp, problem = self.xp, self.problem
        lin = problem.at(self.z * problem.size[:, None, :, None], self.θ)
        self.total += 1
        moves = xp.max(self.move) > stage.enough if problem.shared else self.move > stage.enough
        go = self._where_finite(lin, self.active & moves)
        if not bool(xp.any(go)):
            return
        members = None if bool(xp.all(go)) else xp.nonzero(go)[0]
        self.level = xp.where(go, stage.level * xp.ones_like(self.level), self.level)
        self.iterations = self.iterations + xp.astype(go, xp.int64)
        fit = self.linear_fit(lin, members)
        if not stage.final:
            fit = self._damped(fit, members)
        projection = project(fit, scheme=self.scheme, engine=self.engine)
        gram = projection.gram
        sound = xp.all(xp.isfinite(gram), axis=(1, 2))
        gram = xp.where(sound[:, None, None], gram, xp.eye(gram.shape[-1], dtype=gram.dtype, device=problem.device))
        if problem.shared:
            gram = xp.sum(gram * xp.astype(sound, gram.dtype)[:, None, None], axis=0, keepdims=True)
        own = None if problem.shared else members
        θ = _take(xp, self.θ, own)
        bounds = () if problem.bounds is None else tuple(_take(xp, x, own) - θ for x in problem.bounds)
        e = estimate(gram, *bounds, reach=self._reach(gram, own))
        z_old = _take(xp, self.z, members)
        z = xp.where(sound[:, None, None, None], projection.trajectory(e.change), z_old)
        self.covariance = _put(xp, self.covariance, own, e.covariance)
        ω = self._relaxation(e.change, own)
        z = z_old + ω[:, None, None, None] * (z - z_old)
        self.before = self.z, self.θ
        self.z, self.θ = _put(xp, self.z, members, z), _put(xp, self.θ, own, θ + ω[:, None] * e.change)
        self.held, self.determined = _put(xp, self.held, own, e.held), _put(xp, self.determined, own, e.determined)
        self._fail(_put(xp, self.failed, members, ~sound))
        self.move = xp.where(go, self._movement(*self.before), self.move)

    def _reach(self, gram: Array, own: Array | None) -> Array:
        """How far parameters may go in one step, (B or 1, p): a multiple of the largest value that they have had."""
        xp = self.xp
        self.largest = xp.maximum(self.largest, xp.abs(self.θ))
        size = _take(xp, self.largest, own)
        diagonal = xp.linalg.diagonal(gram)[:, 1:]
        unknown = 1 / xp.sqrt(xp.where(diagonal > 0, diagonal, xp.ones_like(diagonal)))
        return REACH * xp.where(size > 0, size, unknown)

    def _relaxation(self, change: Array, own: Array | None) -> Array:
        """The part of a step that is taken, (B or 1,): less than 1 where steps go back and forth.

        Gauss-Newton iterations multiply the error in a direction by some λ, below -1/2 where the equations are strongly
        curved; steps of length 1 / (1 - λ) stop that, with λ from the last two steps, in units of standard errors.
        Source: Irons, Tuck, Int. J. Numer. Meth. Engng. 1 (1969) 275 (Aitken's method for vectors).
        """
        xp = self.xp
        if not self.problem.p:
            return xp.ones(change.shape[:1], dtype=change.dtype, device=self.problem.device)
        variance = xp.linalg.diagonal(_take(xp, self.covariance, own))
        step = change / xp.sqrt(xp.where(variance > 0, variance, xp.ones_like(variance)))
        last, ω = _take(xp, self.last_step, own), _take(xp, self.ω, own)
        norm = xp.sum(last * last, axis=-1)
        ratio = xp.sum(step * last, axis=-1) / xp.where(norm > 0, norm, xp.ones_like(norm))
        back = (norm > 0) & (ratio < 0)
        ω = xp.where(back, xp.clip(ω / (1 - ratio), SHORTEST, 1.0), xp.ones_like(ω))
        self.last_step, self.ω = _put(xp, self.last_step, own, step), _put(xp, self.ω, own, ω)
        return ω

    def _where_finite(self, lin: tuple[Array, Array, Array], active: Array) -> Array:
        """The active members that can go on; the others go back half of their last step, or fail."""
        xp = self.xp
        finite = xp.ones_like(active)
        for x in lin:
            finite = finite & xp.all(xp.isfinite(x), axis=tuple(range(1, x.ndim)))
        if bool(xp.all(finite | ~active)):
            return active
        back = active & (~finite | self.problem.shared)
        self.halvings = self.halvings + xp.astype(back & ~finite, xp.int64)
        z, θ = self.before
        self.z = xp.where(back[:, None, None, None], (z + self.z) / 2, self.z)
        back_θ = xp.any(back)[None] if self.problem.shared else back
        self.θ = xp.where(back_θ[:, None], (θ + self.θ) / 2, self.θ)
        self.move = xp.where(back, xp.full_like(self.move, float("inf")), self.move)
        self._fail(active & (self.halvings > HALVINGS))
        return active & finite & ~back

    def _fail(self, members: Array) -> None:
        self.failed = self.failed | members
        self.active = self.active & ~members

    def linear_fit(self, lin: tuple[Array, Array, Array], members: Array | None) -> LinearFit:
        """The linearisation for some members, in scaled units."""
        xp, problem = self.xp, self.problem
        f, J, P = (_take(xp, x, members) for x in lin)
        size, z, level = (_take(xp, x, members) for x in (problem.size, self.z, self.level))
        J = J * size[:, None, None, :, None]
        if problem.weights is None:
            precision = _take(xp, self.precision, members)[:, None]
            unit = xp.clip(precision / REFERENCE, 1.0, None) * level[:, None]
            w_equation = (unit / _take(xp, self.equation_size, members))[:, None, :]
            w_smoothness = SMOOTHNESS * precision
        else:
            w_equation = level[:, None, None] * _take(xp, problem.weights.equation, members)
            w_smoothness = _take(xp, problem.weights.smoothness, members)
        return LinearFit(
            coefficients=J,
            rhs=product(xp, J, z) - f,
            columns=P,
            data=_take(xp, self.u, members),
            step_sizes=_take(xp, problem.data.step_sizes, members),
            weights=Weights(w_equation, _take(xp, self.w_data, members), w_smoothness),
        )

    def _damped(self, fit: LinearFit, members: Array | None) -> LinearFit:
        """With rows that hold variables that nobody observed near where they are: equations say little of them yet."""
        xp = self.xp
        free = (_take(xp, self.problem.data.observed, members) == 0) & (
            xp.arange(fit.data.shape[-1], device=self.problem.device) == 0
        )
        now = _take(xp, self.z, members)[..., : fit.data.shape[-1]]
        w = xp.where(free, xp.full_like(now, DAMPING), fit.weights.initial)
        return fit._replace(data=xp.where(free, now, fit.data), weights=replace(fit.weights, initial=w))

    def _movement(self, z: Array, θ: Array) -> Array:
        """How far parameters have moved from θ, in standard errors; without any, how far y from z in those of data."""
        xp, problem = self.xp, self.problem
        if not problem.p:
            R_obs, w = self.u.shape[-1], self.w_data
            count = xp.clip(xp.sum(problem.data.observed, axis=(1, 2, 3)), 1.0, None)
            moved = self.z[..., :R_obs] - z[..., :R_obs]
            moved = xp.where(xp.abs(moved) > ROUNDING * xp.abs(z[..., :R_obs]), moved, xp.zeros_like(moved))
            return xp.sqrt(xp.sum((w * moved) ** 2, axis=(1, 2, 3)) / count)
        moved = xp.abs(self.θ - θ)
        variance = xp.linalg.diagonal(self.covariance)
        none = moved <= ROUNDING * xp.abs(θ)
        tiny = float(xp.finfo(xp.float64).smallest_normal)
        moved = xp.where(none | self.held, xp.zeros_like(moved), moved / xp.sqrt(xp.clip(variance, tiny, None)))
        return xp.broadcast_to(xp.max(moved, axis=-1), self.move.shape)

    def _same_errors(self, covariance: Array) -> Array:
        """Whether the standard errors are those of `covariance`, too."""
        xp = self.xp
        old, new = (xp.linalg.diagonal(x) for x in (covariance, self.covariance))
        same = xp.all((xp.abs(old - new) <= 2 * STAGE_TOLERANCE * new) | self.held, axis=-1)
        return xp.broadcast_to(same, self.move.shape)

    def _estimate_noise(self) -> None:
        """From what the fit leaves and the degrees of freedom left; of all members where parameters are shared."""
        xp, problem = self.xp, self.problem
        size, seen = problem.size[:, None, :, None], problem.data.observed
        left = seen * (size * (self.z[..., : seen.shape[-1]] - self.u)) ** 2
        count = xp.sum(seen, axis=1, keepdims=True)
        left = xp.sum(left, axis=1, keepdims=True)
        fitted = self.constants + problem.p
        if problem.shared:
            keep = xp.astype(~self.failed, xp.float64)[:, None, None, None]
            fitted = xp.sum(keep[:, 0, 0, 0] * self.constants)[None] + problem.p
            count, left = (xp.sum(keep * x, axis=0, keepdims=True) for x in (count, left))
        total = xp.sum(count, axis=(1, 2, 3))
        freedom = xp.clip(1 - fitted / xp.clip(total, 1.0, None), 1 / xp.clip(total, 1.0, None), None)
        variance = left / (xp.clip(count, 1.0, None) * freedom[:, None, None, None])
        noise = xp.clip(xp.sqrt(variance), LEAST_NOISE * size, None)
        change = self.active[:, None, None, None] & (count > 0)
        self.noise = xp.where(change, noise, self.noise)


def _take(xp: Namespace, x: Array, members: Array | None) -> Array:
    """Some members of x, (B or 1, ...)."""
    return x if members is None or x.shape[0] == 1 else xp.take(x, members, axis=0)


def _put(xp: Namespace, x: Array, members: Array | None, new: Array) -> Array:
    """x with other values for some members, in ascending order."""
    if members is None:
        return new
    own = xp.arange(x.shape[0], device=device_of(x))
    place = xp.clip(xp.searchsorted(members, own), None, members.shape[0] - 1)
    there = xp.reshape(xp.take(members, place, axis=0) == own, (-1, *(1,) * (x.ndim - 1)))
    return xp.where(there, xp.take(new, place, axis=0), x)
