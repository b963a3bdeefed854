"""Newton's method for f(t, y) = 0 in loops that JAX traces: the formulas of `smnn_core.nonlinear`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.lax import dynamic_slice_in_dim, dynamic_update_slice_in_dim

from smnn_core import Weights
from smnn_core.extend import (
    OVERLAP,
    NonlinearProblem,
    Problem,
    across_steps,
    carried_weights,
    cost,
    pad_to,
    relative_change,
    rounding_level,
    solves,
    taylor,
)

from ._residual import Residual
from ._solve import solve_ode

Array = Any

__all__ = ["Iterates", "TracedProblem", "march", "newton", "newton_or_damped", "whole"]

PATIENCE = 6
"""Iterations after which what has settled of a window is kept, and the rest becomes part of the next."""
LAST_PATIENCE = 25
"""The same for the last window, behind which nothing can be kept for."""


@dataclass(frozen=True, eq=False)
class TracedProblem(NonlinearProblem):
    """A nonlinear problem whose linear problems this adapter solves."""

    @property
    def row_weights(self) -> Weights:
        """As `NonlinearProblem.row_weights`; not kept, since what one loop has traced is nothing to another."""
        w, p = self.weights, self.scheme.step_exponent(self.K)
        return Weights(w.equation, w.initial, across_steps(self.xp, self.step_sizes, w.smoothness, p))

    def solve(self, problem: Problem) -> Array:
        """The solution; the weights hold the factors of the scheme for the steps already."""
        system, scheme = problem.system, replace(self.scheme, exponent=0.0)
        arrays = system.coefficients, problem.rhs, problem.initial_values, system.step_sizes
        return solve_ode(*arrays, n_steps=system.n_steps, scheme=scheme, weights=system.weights, engine=self.engine)


class Iterates(NamedTuple):
    """Where the iteration stands, for every batch member."""

    y: Array
    """(*batch, T, V, K)"""
    previous: Array
    """y before the last iteration"""
    converged: Array
    """bool, (*batch,)"""
    failed: Array
    """bool, (*batch,): no longer finite, or held from the start"""
    iterations: Array
    """(*batch,)"""

    @property
    def active(self) -> Array:
        return ~(self.converged | self.failed)


def _everywhere(x: Array, rank: int = 3) -> Array:
    """A value of each member, to broadcast against arrays of `rank` core axes."""
    return jnp.reshape(x, (*x.shape, *(1,) * rank))


def newton(problem: TracedProblem, y: Array, held: Array, *, max_iterations: Any, tolerance: float) -> Iterates:
    """Newton's method without damping, from y, for the members that are not held."""
    level = rounding_level(problem, tolerance)
    zero = jnp.zeros(held.shape, y.dtype)
    start = Iterates(y, y, jnp.zeros_like(held), held, jnp.zeros(held.shape, jnp.int32))

    def going(state: tuple[Iterates, Array, Array]) -> Array:
        return jnp.any(state[0].active) & (state[2] < max_iterations)

    def iterate(state: tuple[Iterates, Array, Array]) -> tuple[Iterates, Array, Array]:
        now, before, count = state
        lin = problem.linearize(problem.t, now.y)
        new = problem.solve(problem.linear_problem(now.y, lin))
        finite = jnp.all(jnp.isfinite(new), axis=(-3, -2, -1))
        go = now.active & finite
        new = jnp.where(_everywhere(go), new, now.y)
        change = relative_change(jnp, level, now.y, new)
        rate = change / jnp.where(before > 0, before, 1)
        estimated = (before > 0) & (rate < 1) & (rate / (1 - jnp.minimum(rate, 0.999)) * change <= tolerance)
        converged = now.converged | (go & ((change <= tolerance) | estimated))
        iterations = now.iterations + go.astype(jnp.int32)
        return Iterates(new, now.y, converged, now.failed | (now.active & ~finite), iterations), change, count + 1

    return jax.lax.while_loop(going, iterate, (start, zero, jnp.zeros((), jnp.int32)))[0]


def newton_or_damped(
    problem: TracedProblem, y: Array, held: Array, *, max_iterations: int, tolerance: float
) -> Iterates:
    """Newton's method; where it fails, damped from the same start, and Newton's method from where that ends."""
    options: dict[str, Any] = {"max_iterations": max_iterations, "tolerance": tolerance}
    first = newton(problem, y, held, **options)
    solved = first.converged & solves(problem, first.y, problem.linearize(problem.t, first.y))
    damped, settled = _levenberg_marquardt(problem, y, held | solved, **options)
    last = newton(problem, damped, held | solved | ~settled, **options)
    iterations = first.iterations + last.iterations
    y = jnp.where(_everywhere(solved), first.y, last.y)
    return Iterates(y, last.previous, solved | last.converged, last.failed, iterations)


def _levenberg_marquardt(
    problem: TracedProblem, y: Array, held: Array, *, max_iterations: int, tolerance: float
) -> tuple[Array, Array]:
    """Damped iterations that lower the sum of squares; y, and where it moves no more (or has moved to the end)."""
    level, one = rounding_level(problem, tolerance), jnp.ones(held.shape, y.dtype)

    def going(state: tuple[Any, ...]) -> Array:
        return jnp.any(~state[3]) & (state[4] < max_iterations)

    def iterate(state: tuple[Any, ...]) -> tuple[Any, ...]:
        y, damping, growth, done, count = state
        lin = problem.linearize(problem.t, y)
        linear = problem.linear_problem(y, lin)
        current = cost(linear, y)
        new = problem.solve(problem.damped_problem(y, lin, damping))
        usable = ~done & jnp.all(jnp.isfinite(new), axis=(-3, -2, -1))
        new = jnp.where(_everywhere(usable), new, y)
        model = cost(linear, new)
        reached = cost(problem.linear_problem(new, problem.linearize(problem.t, new)), new)
        accepted = usable & (reached < current)
        gain = (current - reached) / jnp.where(current > model, current - model, one)
        small = (relative_change(jnp, level, y, new) <= tolerance) & (accepted | (damping < 1e-3))
        lower = damping * jnp.maximum(1 / 3, 1 - (2 * gain - 1) ** 3)
        damping = jnp.where(accepted, lower, damping * growth)
        growth = jnp.where(accepted, 2 * one, 2 * growth)
        done = done | (usable & small) | ~(damping < 1e30)
        return jnp.where(_everywhere(accepted), new, y), damping, growth, done, count + 1

    y, damping, *_ = jax.lax.while_loop(going, iterate, (y, one, 2 * one, held, jnp.zeros((), jnp.int32)))
    return y, damping < 1e30


def march(
    problem: TracedProblem,
    equations: Residual,
    guess: Array | None,
    held: Array,
    *,
    window: int,
    tolerance: float,
) -> Iterates:
    """From the first time point on, in windows of `window` steps; y is NaN from where a member failed.

    What has settled of a window after `PATIENCE` iterations is kept, a half, a quarter, ..., and the next begins there.
    """
    T, V, K = problem.n_steps, problem.V, problem.K
    w_given = pad_to(jnp, problem.weights.initial[..., :1, :, :], (1, V, K))
    u_given = pad_to(jnp, problem.initial_values[..., :1, :, :], (1, V, K))
    steps = min(window, T - 1)
    y = jnp.full((*held.shape, T, V, K), jnp.nan, u_given.dtype)
    y = y.at[..., :1, :, :].set(jnp.broadcast_to(u_given, (*held.shape, 1, V, K)))
    part = problem_part(problem, equations, y, steps)
    parts = [steps >> k for k in range(steps.bit_length())]

    def solve_from(i: Array, y: Array, failed: Array) -> tuple[Iterates, Any]:
        state = dynamic_slice_in_dim(y, i, 1, axis=-3)
        now: Any = part(i)
        carried = carried_weights(now, w_given)
        now = now.starting_at(jnp.where(i == 0, u_given, state), jnp.where(i == 0, w_given, carried))
        if guess is None:
            first = taylor(jnp, state[..., 0, :, :], now.t - now.t[..., :1])
        else:
            first = dynamic_slice_in_dim(guess, i, steps + 1, axis=-3)
        first = jnp.broadcast_to(first, (*held.shape, steps + 1, V, K))
        patience = jnp.where(i == T - 1 - steps, LAST_PATIENCE, PATIENCE)
        return newton(now, first, failed, max_iterations=patience, tolerance=tolerance), now

    def going(state: tuple[Any, ...]) -> Array:
        return ~state[1] & ~jnp.all(state[3])

    def advance(state: tuple[Any, ...]) -> tuple[Any, ...]:
        i, _, y, failed, iterations = state
        run, now = solve_from(i, y, failed)
        kept = _settled(now, run, failed, parts, tolerance)
        at_end = i == T - 1 - steps
        lost = (kept == 0) | (at_end & (kept < steps))
        failed = failed | (lost & ~run.converged)
        kept = jnp.where(lost, steps, kept)
        new = jnp.where(_everywhere(failed), jnp.nan, run.y)
        new = new.at[..., 0, :, :].set(
            jnp.where(i == 0, new[..., 0, :, :], dynamic_slice_in_dim(y, i, 1, -3)[..., 0, :, :])
        )
        y = dynamic_update_slice_in_dim(y, new, i, axis=-3)
        overlap = jnp.where((kept == steps) & (kept > 2 * OVERLAP), OVERLAP, 0)
        return jnp.minimum(i + kept - overlap, T - 1 - steps), at_end, y, failed, iterations + run.iterations

    zero = jnp.zeros((), jnp.int32)
    start = (zero, jnp.zeros((), bool), y, held, jnp.zeros(held.shape, jnp.int32))
    _, _, y, failed, iterations = jax.lax.while_loop(going, advance, start)
    return Iterates(y, y, ~failed, failed, iterations)


def _settled(now: TracedProblem, run: Iterates, failed: Array, parts: list[int], tolerance: float) -> Array:
    """The number of steps from the start of the window on that all members have solved: one of `parts`, or 0."""
    level = rounding_level(now, tolerance)
    kept = jnp.zeros((), jnp.int32)
    for steps in reversed(parts):
        done = run.converged | failed
        if steps != parts[0]:
            cut = (..., slice(0, steps + 1), slice(None), slice(None))
            change = relative_change(jnp, level[..., : steps + 1, :], run.previous[cut], run.y[cut])
            done = done | (~run.failed & (change <= tolerance**0.75))
        kept = jnp.where(jnp.all(done), steps, kept)
    return kept


def problem_part(problem: TracedProblem, equations: Residual, y: Array, steps: int) -> Callable[[Array], TracedProblem]:
    """i -> the same problem on the time points i, .., i + steps, without initial rows."""
    cut = (..., slice(0, steps + 1), slice(None), slice(None))
    frozen = equations.frozen(problem.t[..., : steps + 1], y[cut])
    weights = problem.weights

    def sliced(x: Any, axis: int, i: Array, length: int) -> Any:
        if isinstance(x, (int, float)) or x.ndim < -axis or x.shape[axis] == 1:
            return x
        return dynamic_slice_in_dim(x, i, length, axis=axis)

    def part(i: Array) -> TracedProblem:
        equation, smoothness = sliced(weights.equation, -2, i, steps + 1), sliced(weights.smoothness, -1, i, steps)
        return replace(
            problem,
            linearize=frozen.linearize,
            t=sliced(problem.t, -1, i, steps + 1),
            step_sizes=sliced(problem.step_sizes, -1, i, steps),
            initial_values=problem.initial_values[..., :0, :, :],
            weights=Weights(equation, 0.0, smoothness),
        )

    return part


def whole(problem: TracedProblem, equations: Residual, y: Array) -> TracedProblem:
    """The problem with a residual that is frozen for all time points."""
    return replace(problem, linearize=equations.frozen(problem.t, y).linearize)
