"""`solve_nonlinear_ode` for a residual on JAX arrays. Its derivatives are derived in `smnn_core.nonlinear._implicit`.

The iteration is a loop that JAX traces, with everything cut off from derivatives; one more step has them.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.lax import stop_gradient

from smnn_core import (
    AccuracyWarning,
    ArgumentError,
    ConvergenceWarning,
    Residuals,
    Scheme,
    Weights,
)
from smnn_core import residuals as residuals_of
from smnn_core.extend import (
    MARCHING,
    UNIT,
    as_arrays,
    attached_step,
    broadcast_shapes,
    check_integer,
    check_steps,
    check_weights,
    checked_stop,
    constant_guess,
    constants_left_open,
    explicit,
    highest_derivatives,
    is_tracer,
    nonlinear_problem,
    product,
    solves,
    stand_in,
    times,
)

from ._newton import TracedProblem, march, newton_or_damped, whole
from ._once import once
from ._residual import Residual, check_array
from ._solve import solve_ode

Array = Any

__all__ = ["NonlinearSolution", "solve_nonlinear_ode"]


@dataclass(frozen=True, eq=False)
class NonlinearSolution:
    """What `solve_nonlinear_ode` found: a pytree, which may be the result of a jitted or mapped function."""

    y: Array
    """(..., T, V, R+1), differentiable where it has converged; NaN from where a march was given up."""
    t: Array
    """(..., T): the times."""
    converged: Array
    """bool, (...,): batch members whose y solves the problem."""
    iterations: Array
    """(...,): linear problems solved, of windows or of the whole."""
    residuals: Residuals
    """How far y is from satisfying each row, without weights, by kind: equation (..., T, Q) is f(t, y). Constants."""


jax.tree_util.register_dataclass(
    NonlinearSolution, data_fields=["y", "t", "converged", "iterations", "residuals"], meta_fields=[]
)


def solve_nonlinear_ode(
    residual: Callable[[Array, Array], Array],
    initial_values: Array,
    step_sizes: Array,
    *,
    order: int,
    n_steps: int | None = None,
    t0: Any = 0.0,
    guess: Array | None = None,
    method: str = "auto",
    window: int = 32,
    weights: Weights = UNIT,
    scheme: Scheme = MARCHING,
    max_iterations: int = 50,
    tolerance: float | None = None,
    engine: str = "auto",
) -> NonlinearSolution:
    """`smnn_core.solve_nonlinear_ode` for a residual on JAX arrays, under jit, vmap and grad: solves f(t, y) = 0.

    y is differentiable in everything that the residual closes over (traced arrays, parameters of networks), in
    initial_values, step_sizes, t0 and weights, by one adjoint solve, whatever the number of iterations: the derivatives
    of the implicit function theorem, exact where the residuals vanish. y that has not converged has none.

    Under jit the iteration is a loop in the compiled program. Jit your function: without, the loop is compiled again at
    every call.

    Args:
        residual: residual(t, y) -> (..., T, Q) for t (..., T) and y (..., T, V, R+1): the Q equations at all time
            points, each from y at that time alone. It is called with parts of the time grid, too.
        initial_values: (..., T_init, V, R_init); NaN says that a value is not given.
        step_sizes: (..., T-1 or 1), in units of time, or a number.
        method: "march" solves initial-value problems in windows of `window` steps, one after the other, and goes on
            behind what has settled of a window; "newton" iterates on all time points at once, at most max_iterations
            times, and, where that fails, as often again with Levenberg-Marquardt damping and once more without. "auto"
            marches where T_init = 1.
        window: steps of a window. `smnn_core.solve_nonlinear_ode` adapts it; here shapes are fixed. Shorter ones
            converge where longer ones do not, and take longer.

    The other arguments, and what is raised, are as for `smnn_core.solve_nonlinear_ode`; that f at one time depends on y
    at another is not detected here.

    Returns:
        NonlinearSolution.

    Warns:
        ConvergenceWarning: if some batch members did not converge, where that can be seen (not under jit): look at
            `converged`.
        AccuracyWarning: if fewer values are given than the equations have constants; not under jit either.

    Example: y' = -k y^2, y(0) = 1, solved by 1 / (1 + k t).

        def end(k):
            f = lambda t, y: y[..., 1] + k * y[..., 0] ** 2
            return solve_nonlinear_ode(f, jnp.ones((1, 1, 1)), 0.01, n_steps=101, order=3).y[-1, 0, 0]

        jax.jit(jax.grad(end))(1.0)  # -1 / 4
    """
    check_weights(weights)
    for name, x in {"initial_values": initial_values, "step_sizes": step_sizes, "guess": guess}.items():
        check_array(name, x, number=name == "step_sizes")
    check_integer("window", window, least=1)
    step_sizes, weights = as_arrays(step_sizes, weights, initial_values)
    with jax.ensure_compile_time_eval():  # under jit, too, what is known is looked at
        check_steps(jnp, step_sizes)
    options: dict[str, Any] = {
        "order": order,
        "n_steps": n_steps,
        "method": method,
        "window": window,
        "max_iterations": max_iterations,
    }
    solve = partial(_solve, Residual(residual), t0, weights, scheme, engine, tolerance, **options)
    # outside of jit: one program, not one for each operation
    result, *of_constants = jax.jit(solve)(initial_values, step_sizes, guess)
    _warn(result.converged, *of_constants)
    return result


def _solve(
    equations: Residual,
    t0: Any,
    weights: Weights,
    scheme: Scheme,
    engine: str,
    tolerance: float | None,
    u: Array,
    s: Array,
    guess: Array | None,
    *,
    order: int,
    n_steps: int | None,
    method: str,
    window: int,
    max_iterations: int,
) -> tuple[NonlinearSolution, Array, Array, Array]:
    """The solution; how many values each batch member gives, `highest_derivatives`, and whether they are `explicit`."""
    t0 = t0 if isinstance(t0, (int, float)) else jnp.asarray(t0, u.dtype)
    fixed_u, fixed_s, fixed_t0, guess = map(_constant, (u, s, t0, guess))
    fixed_weights = Weights(*map(_constant, vars(weights).values()))
    stated, batch = nonlinear_problem(
        equations.linearize, fixed_u, fixed_s, order, n_steps, fixed_t0, guess, method, fixed_weights, scheme, engine
    )
    max_iterations, tolerance = checked_stop(jnp, max_iterations, tolerance, u.dtype)
    method = _method(method, u)
    problem = TracedProblem(**vars(stated))
    T, V, K = problem.n_steps, problem.V, problem.K
    s = jnp.broadcast_to(s, problem.step_sizes.shape)
    t = times(jnp, t0, s)
    first = constant_guess(problem) if guess is None else guess
    found = jax.eval_shape(equations, t, jnp.broadcast_to(first, (*batch, T, V, K)))
    batch = broadcast_shapes({"the other arguments": batch, "residual's f": found.shape[:-2]})
    first = jnp.broadcast_to(first, (*batch, T, V, K))

    held = jnp.zeros(batch, bool)
    problem = whole(problem, equations, first)
    if method == "march":
        given = None if guess is None else first
        run = march(problem, equations, given, held, window=window, tolerance=tolerance)
    else:
        run = newton_or_damped(problem, first, held, max_iterations=max_iterations, tolerance=tolerance)

    y = stop_gradient(run.y)
    lin = stop_gradient(problem.linearize(problem.t, y))
    converged = run.converged & solves(problem, y, lin)
    left = residuals_of(y, lin.J, lin.rhs(jnp, y), fixed_u, fixed_s, n_steps=T, scheme=scheme)

    at, J = stand_in(jnp, converged, y, 3), stand_in(jnp, converged, lin.J, 4)
    rhs = product(jnp, J, at) - equations(t, at)
    new = solve_ode(J, rhs, u, s, n_steps=T, scheme=scheme, weights=weights, engine=engine)
    y = attached_step(jnp, stop_gradient, y, once("solve_nonlinear_ode", new), converged)
    given = jnp.sum(problem.weights.initial != 0, axis=(-3, -2, -1))
    orders = highest_derivatives(jnp, lin.J)
    return NonlinearSolution(y, t, converged, run.iterations, left), given, orders, explicit(jnp, run.y, lin.J, orders)


def _constant(x: Any) -> Any:
    """An argument cut off from derivatives; numbers stay numbers, whatever the dtype of the arrays."""
    return stop_gradient(x) if isinstance(x, jax.Array) else x


def _method(method: str, u: Array) -> str:
    if method == "march" and u.shape[-3] != 1:
        raise ArgumentError(
            f"method='march' solves initial-value problems, T_init = 1; initial_values of shape {tuple(u.shape)} are "
            f"given for {u.shape[-3]} times: use method='newton' (or 'auto')."
        )
    return method if method != "auto" else "march" if u.shape[-3] == 1 else "newton"


def _warn(converged: Array, given: Array, orders: Array, is_explicit: Array) -> None:
    if is_tracer(converged):
        return
    if missing := constants_left_open(jnp, given, orders, lambda: is_explicit):
        warnings.warn(f"{missing}.", AccuracyWarning, stacklevel=3)
    if bool(jnp.all(converged)):
        return
    count = int(np.sum(~np.asarray(converged)))
    warnings.warn(
        f"{count} of {converged.size} batch members did not converge (see `converged` of the result): give a guess, "
        "shorter steps, a shorter window or a higher order.",
        ConvergenceWarning,
        stacklevel=3,
    )
