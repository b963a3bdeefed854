r"""Newton's method for f(t, y) = 0 on a time grid, each step a linear least-squares problem of `smnn_core.solve_ode`.

Linearised at y_k, with J = ∂f/∂y, the equation rows are `J y = J y_k - f(t, y_k)`; initial and smoothness rows are
linear already. The minimiser y_{k+1} is the next iterate (Gauss-Newton; Newton's method where all rows can be met).

Stopping. `change` is the largest |y_{k+1} - y_k| relative to the size of its variable and order over the grid. With
the rate θ = change_k / change_{k-1} the error of y_{k+1} is estimated by θ / (1 - θ) change_k (Hairer, Wanner, Solving
Ordinary Differential Equations II, section IV.8). Rounding of y by eps shows in order o as eps / s^o: that is allowed.

Damping (Levenberg 1944, Marquardt 1963; the update of the damping is Nielsen's: Madsen, Nielsen, Tingleff, Methods for
Non-Linear Least Squares Problems, 2004, section 3.2). It takes no new kind of row: λ D^2 |y - y_k|^2 joins the initial
rows, which exist at all times and orders then, with the weight w'^2 = w^2 + λ D^2 and the right-hand side
u' = (w^2 u + λ D^2 y_k) / w'^2, where D = s^o makes the orders comparable.

Batch members are independent: one that has converged or failed is held, and NaN of one member never meets another.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

from .. import _gradient
from .._arrays import Array, Namespace, device_of, pad_to, powers
from .._constraints import weighted
from .._problem import Problem, Weights
from .._schemes import Scheme
from .._solve import solve_without_raising
from .._weighting import across_steps
from ._linearize import Linearization, product

__all__ = ["Iterates", "NonlinearProblem", "levenberg_marquardt", "newton", "violations"]


@dataclass(frozen=True, eq=False)
class NonlinearProblem:
    """f(t, y) = 0 with its other rows on T time points: checked, not broadcast."""

    xp: Namespace
    linearize: Callable[..., Linearization]
    t: Array
    """(..., T)"""
    step_sizes: Array
    """(..., T-1)"""
    initial_values: Array
    """(..., T_init, V, R_init), finite"""
    weights: Weights
    """Arrays or numbers; those of the initial rows are an array of the core shape of the initial values."""
    scheme: Scheme
    engine: str
    V: int
    K: int
    determined: bool = False
    """Whether the initial rows determine the whole state at the first point, and with it all that follow."""

    @property
    def n_steps(self) -> int:
        return int(self.t.shape[-1])

    @cached_property
    def row_weights(self) -> Weights:
        """The weights with the factors of the scheme for steps of different length, relative to those of this grid."""
        w, p = self.weights, self.scheme.step_exponent(self.K)
        return Weights(w.equation, w.initial, across_steps(self.xp, self.step_sizes, w.smoothness, p))

    def window(self, i: int, j: int) -> NonlinearProblem:
        """The same equation on the time points i..j (inclusive), without initial rows."""
        w = self.weights
        return replace(
            self,
            t=self.t[..., i : j + 1],
            step_sizes=self.step_sizes[..., i:j],
            initial_values=self.initial_values[..., :0, :, :],
            weights=Weights(_slice(w.equation, -2, i, j + 1), 0.0, _slice(w.smoothness, -1, i, j)),
        )

    def starting_at(self, initial_values: Array, initial_weights: Array) -> NonlinearProblem:
        """The same with other initial rows."""
        weights = replace(self.weights, initial=initial_weights)
        return replace(self, initial_values=initial_values, weights=weights)

    def carrying_on(self, state: Array, initial_weights: Array) -> NonlinearProblem:
        """The same from a known state, (..., V, K), all of whose orders become initial rows."""
        return replace(self.starting_at(state[..., None, :, :], initial_weights), determined=True)

    def linear_problem(self, y: Array, lin: Linearization) -> Problem:
        """The linear problem whose solution is the next iterate."""
        return self._linear(y, lin, self.initial_values, self.row_weights)

    def damped_problem(self, y: Array, lin: Linearization, damping: Array) -> Problem:
        """The same with λ D^2 |y - y_k|^2, for λ of the batch shape."""
        xp, T, K = self.xp, self.n_steps, self.K
        w = pad_to(xp, self.weights.initial, (T, self.V, K))
        u = pad_to(xp, self.initial_values, (T, self.V, K))
        extra = damping[..., None, None, None] * step_powers(xp, self.step_sizes, K)[..., :, None, :] ** 2
        total = w * w + extra
        positive = total > 0
        mean = (w * w * u + extra * y) / xp.where(positive, total, xp.ones_like(total))
        weights = replace(self.row_weights, initial=xp.sqrt(total))
        return self._linear(y, lin, xp.where(positive, mean, xp.zeros_like(mean)), weights)

    def _linear(self, y: Array, lin: Linearization, u: Array, weights: Weights) -> Problem:
        return Problem.build(
            lin.J, lin.rhs(self.xp, y), u, self.step_sizes, n_steps=self.n_steps, scheme=self.scheme, weights=weights
        )

    def solve(self, problem: Problem) -> Array:
        """The solution of a linear problem; NaN in the members that have none."""
        return solve_without_raising(problem, engine=self.engine, determined=self.determined)[0]


def _slice(w: Any, axis: int, start: int, stop: int) -> Any:
    """Rows start..stop of weights along an axis, where they have it."""
    if isinstance(w, (int, float)) or w.ndim < -axis or w.shape[axis] == 1:
        return w
    return w[(..., slice(start, stop), *(slice(None),) * (-1 - axis))]


def step_powers(xp: Namespace, s: Array, K: int) -> Array:
    """s^o for o = 0..K-1, s the shorter |step| beside each time point: (..., T, K)."""
    s = xp.abs(s)
    both = xp.minimum(s[..., 1:], s[..., :-1])
    local = xp.concat([s[..., :1], both, s[..., -1:]], axis=-1)
    return xp.stack([local**o for o in range(K)], axis=-1)


@dataclass
class Iterates:
    """Where the iteration stands, for every batch member."""

    y: Array
    """(*batch, T, V, K)"""
    converged: Array
    """bool, (*batch,)"""
    failed: Array
    """bool, (*batch,): no longer finite, or not solvable"""
    iterations: Array
    """(*batch,): linear problems solved"""
    previous: Array | None = None
    """y before the last iteration, None before the first"""


def start(xp: Namespace, y: Array, held: Array) -> Iterates:
    """Iterates at y; those held take no part."""
    none = xp.zeros_like(held)
    return Iterates(y, none, held, xp.zeros(held.shape, dtype=xp.int64, device=device_of(y)))


def rounding_level(problem: NonlinearProblem, tolerance: float) -> Array:
    """Changes of order o that rounding of y makes, over the size of y and the tolerance; (..., T, K)."""
    eps = float(problem.xp.finfo(problem.t.dtype).eps)
    return 100 * eps / tolerance / step_powers(problem.xp, problem.step_sizes, problem.K)


def relative_change(xp: Namespace, level: Array, y: Array, new: Array) -> Array:
    """The largest |new - y| relative to the size of its variable and order over the time points; (*batch,).

    Args:
        level: of rounding at these time points, see `rounding_level`.
    """
    size = xp.max(xp.abs(new), axis=-3, keepdims=True)
    state = xp.max(size[..., :1], axis=-2, keepdims=True)
    floor = float(xp.finfo(y.dtype).smallest_normal)
    return xp.max(xp.abs(new - y) / (size + floor + state * level[..., None, :]), axis=(-3, -2, -1))


def newton(
    problem: NonlinearProblem,
    y: Array,
    held: Array,
    *,
    max_iterations: int,
    tolerance: float,
    report: Callable[[Iterates], None] = lambda _: None,
) -> Iterates:
    """Newton's method without damping, from y, for the members that are not held."""
    xp, eps = problem.xp, float(problem.xp.finfo(y.dtype).eps)
    state = start(xp, y, held)
    previous = xp.zeros(held.shape, dtype=y.dtype, device=device_of(y))
    level = rounding_level(problem, tolerance)
    foretold = None
    for _ in range(max_iterations):
        lin = problem.linearize(problem.t, state.y)
        if foretold is not None:
            # where f is linear its residuals are those that the first linearisation foretold: nothing is left to do
            predicted, noise = foretold
            linear = xp.all(xp.abs(lin.f - predicted) <= noise, axis=(-2, -1))
            state.converged, foretold = state.converged | (linear & ~state.failed), None
        active = ~(state.converged | state.failed)
        if not bool(xp.any(active)):
            break
        new = problem.solve(problem.linear_problem(state.y, lin))
        finite = xp.isfinite(xp.sum(new, axis=(-3, -2, -1)))
        state.failed = state.failed | (active & ~finite)
        active = active & finite
        if not bool(xp.all(active)):
            new = xp.where(active[..., None, None, None], new, state.y)
        change = relative_change(xp, level, state.y, new)
        rate = change / previous
        small = change <= tolerance
        estimated = (rate < 1) & (rate / (1 - rate) * change <= tolerance)
        if state.previous is None:
            terms = xp.abs(lin.f) + product(xp, xp.abs(lin.J), xp.abs(state.y) + xp.abs(new))
            foretold = lin.f + product(xp, lin.J, new - state.y), 100 * eps * terms
        state.previous, state.y, previous = state.y, new, change
        state.iterations = state.iterations + xp.astype(active, xp.int64)
        state.converged = state.converged | (active & (small | estimated))
        report(state)
        if bool(xp.all(state.converged | state.failed)):
            break
    return state


def cost(problem: Problem, y: Array) -> Array:
    """The sum of squares of the weighted rows of a linear problem at y; (*batch,)."""
    xp = problem.system.xp
    rows = weighted(problem.system.weights, _gradient.residual(problem, y))
    return (
        xp.sum(rows.equation**2, axis=(-2, -1))
        + xp.sum(rows.initial**2, axis=(-3, -2, -1))
        + xp.sum(rows.smoothness**2, axis=(-3, -2, -1))
    )


def levenberg_marquardt(
    problem: NonlinearProblem,
    y: Array,
    held: Array,
    *,
    max_iterations: int,
    tolerance: float,
    report: Callable[[Iterates], None] = lambda _: None,
) -> Iterates:
    """Damped iterations that lower the sum of squares of all rows, until the change is below the tolerance.

    A step that is small since the damping is large has not converged: λ must not exceed 1, where it starts.
    """
    xp = problem.xp
    state = start(xp, y, held)
    ones = xp.ones(held.shape, dtype=y.dtype, device=device_of(y))
    damping, growth, level = ones, 2 * ones, rounding_level(problem, tolerance)
    lin = problem.linearize(problem.t, y)
    linear = problem.linear_problem(y, lin)
    current = cost(linear, y)
    state.failed = state.failed | ~xp.isfinite(current)
    for _ in range(max_iterations):
        active = ~(state.converged | state.failed)
        if not bool(xp.any(active)):
            break
        new = problem.solve(problem.damped_problem(state.y, lin, damping))
        usable = active & xp.all(xp.isfinite(new), axis=(-3, -2, -1))
        new = xp.where(usable[..., None, None, None], new, state.y)
        model = cost(linear, new)
        lin_new = problem.linearize(problem.t, new)
        linear_new = problem.linear_problem(new, lin_new)
        reached = cost(linear_new, new)
        accepted = usable & (reached < current)
        gain = (current - reached) / xp.where(current > model, current - model, ones)
        change = relative_change(xp, level, state.y, new)
        state.iterations = state.iterations + xp.astype(active, xp.int64)
        state.converged = state.converged | (usable & (change <= tolerance) & (damping <= 1))
        better = accepted[..., None, None, None]
        state.y = xp.where(better, new, state.y)
        lower = damping * xp.maximum(ones / 3, 1 - (2 * gain - 1) ** 3)
        damping, growth = (
            xp.where(accepted, lower, damping * growth),
            xp.where(accepted, 2 * ones, 2 * growth),
        )
        state.failed = state.failed | (active & ~(damping < 1e30))
        current = xp.where(accepted, reached, current)
        taken = better[..., None]
        lin = Linearization(xp.where(better[..., 0], lin_new.f, lin.f), xp.where(taken, lin_new.J, lin.J))
        linear = problem.linear_problem(state.y, lin)
        report(state)
    return state


class Violations(NamedTuple):
    """How far y is from meeting rows, relative to the terms of the same row at any time; (*batch,) each.

    Solutions that the grid resolves leave 1e-4 and less; a minimum of the sum of squares that is no solution, and a
    grid that is too coarse, 1e-2 and more.
    """

    equation: Array
    """the largest |f|"""
    initial: Array
    """the largest difference to a value that was given"""
    expansion: Array
    """the largest residual of the first smoothness row, which ties y itself from one point to the next"""


def violations(problem: NonlinearProblem, y: Array, lin: Linearization) -> Violations:
    """The violations of the rows by y, with its linearisation."""
    xp, w, u = problem.xp, problem.weights, problem.initial_values
    terms = xp.abs(lin.f) + product(xp, xp.abs(lin.J), xp.abs(y))
    equation = _largest_part(xp, lin.f, terms, w.equation)

    F, G = (xp.asarray(M[0], dtype=y.dtype, device=device_of(y)) for M in problem.scheme.rows(problem.K))
    p = powers(xp, problem.step_sizes, problem.K)[..., None, :]
    now, then = p * F * y[..., :-1, :, :], p * G * y[..., 1:, :, :]
    row, terms = xp.sum(now + then, axis=-1), xp.sum(xp.abs(now) + xp.abs(then), axis=-1)
    w_smoothness = w.smoothness if isinstance(w.smoothness, (int, float)) else w.smoothness[..., None]
    expansion = _largest_part(xp, row, terms, w_smoothness)

    if 0 in u.shape[-3:]:
        return Violations(equation, xp.zeros_like(equation), expansion)
    given, terms = (x[..., : u.shape[-1]] for x in (y[..., : u.shape[-3], :, :], xp.abs(y)))
    rows = (*given.shape[:-2], given.shape[-2] * given.shape[-1])
    terms = xp.reshape(terms, (*terms.shape[:-2], rows[-1]))
    difference = xp.where(w.initial != 0, given - u, xp.zeros_like(given))
    return Violations(equation, _largest_part(xp, xp.reshape(difference, rows), terms, 1.0), expansion)


def _largest_part(xp: Namespace, residual: Array, terms: Array, weights: Any) -> Array:
    """The largest |residual| of rows that count, relative to the largest terms over time: both (..., times, rows)."""
    residual = xp.where(xp.asarray(weights, device=device_of(residual)) != 0, xp.abs(residual), xp.zeros_like(residual))
    size = xp.max(terms, axis=-2, keepdims=True)
    return xp.max(residual / xp.where(size > 0, size, xp.ones_like(size)), axis=(-2, -1))
