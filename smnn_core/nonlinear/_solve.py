"""Nonlinear systems f(t, y) = 0: initial-value, boundary-value and differential-algebraic problems, and data."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from .._arrays import Array, Namespace, broadcast_shapes, concat, device_of, is_tracer, size
from .._errors import AccuracyWarning, ArgumentError, ConvergenceWarning
from .._problem import UNIT, Weights, check_weights
from .._progress import ProgressBar
from .._schemes import Scheme
from .._solve import refuse_autodiff
from .._weighting import as_arrays
from ._arguments import checked_stop, nonlinear_problem
from ._linearize import Linearization, Linearizer
from ._march import MARCHING, march
from ._newton import Iterates, NonlinearProblem, levenberg_marquardt, newton, violations
from ._solution import NonlinearSolution

__all__ = ["constants_left_open", "explicit", "highest_derivatives", "solve_nonlinear_ode", "solves"]


def solve_nonlinear_ode(
    linearize: Callable[[Array, Array], tuple[Array, Array]],
    initial_values: Array,
    step_sizes: Array,
    *,
    order: int,
    n_steps: int | None = None,
    t0: Any = 0.0,
    guess: Array | None = None,
    method: str = "auto",
    weights: Weights = UNIT,
    scheme: Scheme = MARCHING,
    max_iterations: int = 50,
    tolerance: float | None = None,
    engine: str = "auto",
    progress: bool = False,
) -> NonlinearSolution:
    """Solves f(t, y) = 0, a system of nonlinear ordinary differential or differential-algebraic equations.

    The unknowns are those of `solve_ode`: y[t, v, r], all derivatives r = 0..R of V variables at T time points. So are
    the rows, except that the equation rows are f(t, y[t]), Q residuals at each time point, multiplied by
    weights.equation. Each step of Newton's method is a linear problem of `solve_ode`.

    Args:
        linearize: linearize(t, y) -> (f, J) for t (..., T) and y (..., T, V, R+1): the residuals f, (..., T, Q), and
            their derivatives J = ∂f/∂y, (..., T or 1, Q, V, R+1). It is called with parts of the time grid, too, and
            sees each time point by itself. It may close over parameters with batch axes.
        initial_values: (..., T_init, V, R_init), the values of y[:T_init, :, :R_init]: an initial state (T_init = 1),
            or, with T_init = T, boundary values and data. NaN says that a value is not given.
        step_sizes: (..., T-1 or 1), in units of time; non-zero, may be irregular or negative.
        order: R, the highest derivative carried; at least the order of the equations, and accuracy grows with it.
        n_steps: T, needed where step_sizes, initial_values and guess leave it open.
        t0: the first time, a number or an array of the batch shape.
        guess: (..., T, V, R+1), where the iteration starts. Default: Taylor expansions from window to window
            ("march"), or for each variable the mean of its given values, constant in time ("newton").
        method: "march" solves initial-value problems in windows of adapted length, one after the other, the members of
            a batch in step. "newton" iterates on all time points at once, and, where that fails, again with
            Levenberg-Marquardt damping: boundary values, data at many times. "auto" marches where values are given at
            the first time only.
        weights: as for `solve_ode`; a value of `initial_values` with weight zero is not given.
        scheme: the smoothness scheme.
        max_iterations: of Newton's method on the whole, and as many again with damping; a march needs no limit.
        tolerance: the error that iterating may leave, relative to the size of each variable. Default: 1e-10 in
            float64, 1e-4 in float32. The error of the discretisation comes on top.
        engine: "auto", or the name of one of the engines that `show_config` lists.
        progress: show a progress bar (tqdm, where it is installed).

    Returns:
        NonlinearSolution: y, t, converged and iterations for each batch member, residuals.

    Raises:
        ShapeError, DTypeError, NamespaceError, DeviceError, ArgumentError, SchemeError, EngineError: before any work.
        ArgumentError: if f at one time depends on y at another.

    Warns:
        ConvergenceWarning: if some batch members did not converge. They do not affect the others.
        AccuracyWarning: if fewer values are given than the equations have constants.

    Source: Newton's method with the linear problems of Pervez et al., arXiv:2402.13077; damping of Levenberg and
    Marquardt.

    Example: y' = -y^2 with y(0) = 1, whose solution is 1 / (1 + t).

        >>> import numpy as np
        >>> import smnn_core as smnn
        >>> def linearize(t, y):
        ...     value, slope = y[..., 0, 0], y[..., 0, 1]
        ...     J = np.stack([2 * value, np.ones_like(value), 0 * value], axis=-1)[..., None, None, :]
        ...     return (slope + value**2)[..., None], J
        >>> start, s = np.array([[[1.0]]]), np.full(100, 0.01)
        >>> solution = smnn.solve_nonlinear_ode(linearize, start, s, order=2)
        >>> bool(abs(solution.y[:, 0, 0] - 1 / (1 + solution.t)).max() < 1e-6)
        True
    """
    step_sizes, weights = as_arrays(step_sizes, weights, initial_values)
    (initial_values, step_sizes, guess, t0), weights = _concrete((initial_values, step_sizes, guess, t0), weights)
    problem, batch = nonlinear_problem(
        Linearizer(linearize), initial_values, step_sizes, order, n_steps, t0, guess, method, weights, scheme, engine
    )
    xp, u = problem.xp, problem.initial_values
    max_iterations, tolerance = checked_stop(xp, max_iterations, tolerance, u.dtype)
    method = _method(method, problem)
    with np.errstate(all="ignore"):
        first = constant_guess(problem) if guess is None else guess
        lin = problem.linearize(problem.t, xp.broadcast_to(first, (*batch, *first.shape[-3:])))
        batch = broadcast_shapes({"the other arguments": batch, "linearize's f": tuple(lin.f.shape[:-2])})
        held = xp.zeros(batch, dtype=xp.bool, device=device_of(u))
        full = (*batch, problem.n_steps, problem.V, problem.K)
        first = xp.broadcast_to(first, full)
        marching = method == "march"
        total, unit = (problem.n_steps, "points") if marching else (2 * max_iterations, "iterations")
        with ProgressBar(progress, total=total, unit=unit, desc=method) as bar:
            if marching:
                start = None if guess is None else first
                run, windows = march(problem, start, held, tolerance=tolerance, report=bar.reach)
            else:
                windows = ((0, problem.n_steps - 1),)
                run = _newton(problem, first, held, max_iterations, tolerance, bar)
        lin = problem.linearize(problem.t, run.y)
        converged = run.converged & solves(problem, run.y, lin)
        orders = highest_derivatives(xp, lin.J)
        missing = constants_left_open(xp, _given(problem), orders, lambda: explicit(xp, run.y, lin.J, orders))
    y = run.y if method == "march" else xp.asarray(run.y, copy=True)
    stated = tuple(initial_values.shape)
    result = NonlinearSolution(y, problem.t, converged, run.iterations, method, "", problem, windows, stated)
    return _with_message(result, run.converged, missing)


def _newton(
    problem: NonlinearProblem, guess: Array, held: Array, max_iterations: int, tolerance: float, bar: ProgressBar
) -> Iterates:
    """The best of Newton's method, a damped run from the guess, and Newton's method from where that ended."""
    xp = problem.xp

    def report(state: Iterates) -> None:
        if bar.shown:
            bar.step(converged=int(xp.sum(xp.astype(state.converged, xp.int64))))

    options: dict[str, Any] = {"max_iterations": max_iterations, "tolerance": tolerance, "report": report}
    run = newton(problem, guess, held, **options)
    solved = run.converged & solves(problem, run.y, problem.linearize(problem.t, run.y))
    if bool(xp.all(solved)):
        return run
    damped = levenberg_marquardt(problem, guess, held | solved, **options)
    polished = newton(problem, damped.y, held | solved | damped.failed, **options)
    for better, picked in ((polished, polished.converged), (run, solved)):
        damped.y = xp.where(picked[..., None, None, None], better.y, damped.y)
        damped.converged = damped.converged | picked
    damped.iterations = run.iterations + damped.iterations + polished.iterations
    return damped


def _concrete(arrays: tuple[Any, ...], weights: Weights) -> tuple[tuple[Any, ...], Weights]:
    """The arguments, none of which may be traced or ask for derivatives: the iteration decides by values."""
    check_weights(weights)
    if any(map(is_tracer, (*arrays, *vars(weights).values()))):
        raise ArgumentError(
            "solve_nonlinear_ode decides by values how to go on, and these are traced (jit, vmap, compile): call it "
            "outside, or use the function of that name of smnn_jax or smnn_torch."
        )
    return refuse_autodiff("solve_nonlinear_ode", arrays, weights)


def _method(method: str, problem: NonlinearProblem) -> str:
    xp, w = problem.xp, problem.weights.initial
    at_start = w.shape[-3] > 0 and not bool(xp.any(w[..., 1:, :, :] != 0))
    if method == "march" and not at_start:
        raise ArgumentError(
            "method='march' solves initial-value problems: initial_values must be given at the first time and at no "
            "other; use method='newton' (or 'auto') for values at other times."
        )
    if method == "auto":
        return "march" if at_start else "newton"
    return method


def constant_guess(problem: NonlinearProblem) -> Array:
    """For each variable the mean of its given values, at all times, and zero for the derivatives: (..., T, V, K)."""
    xp, u, w = problem.xp, problem.initial_values, problem.weights.initial
    shape = (*u.shape[:-3], problem.n_steps, problem.V, problem.K)
    y = xp.zeros(shape, dtype=u.dtype, device=device_of(u))
    if 0 in u.shape[-3:]:
        return y
    given = xp.astype(w[..., :1] != 0, u.dtype)
    count = xp.sum(given, axis=-3, keepdims=True)
    mean = xp.sum(given * u[..., :1], axis=-3, keepdims=True) / xp.where(count > 0, count, xp.ones_like(count))
    return concat(xp, [y[..., :1] + mean, y[..., 1:]], axis=-1)


def solves(problem: NonlinearProblem, y: Array, lin: Linearization) -> Array:
    """Which members meet the rows of the problem, and are not a minimum elsewhere; bool, (*batch,); traceable.

    Data are not expected to be met, nor the equations by them: more values than the equations have constants, and not
    all at the first time.
    """
    xp, w = problem.xp, problem.weights.initial
    found = violations(problem, y, lin)
    later = xp.any(w[..., 1:, :, :] != 0, axis=(-3, -2, -1))
    data = later & (_given(problem) > xp.sum(highest_derivatives(xp, lin.J), axis=-1))
    met = (found.equation <= RESOLVED) & (found.initial <= RESOLVED)
    return (found.expansion <= RESOLVED) & (data | met)


RESOLVED = 1e-3
"""Violations of the rows up to which y counts as a solution; see `violations`."""


def _given(problem: NonlinearProblem) -> Array:
    """How many values are given, (...)."""
    xp, w = problem.xp, problem.weights.initial
    return xp.sum(xp.astype(w != 0, xp.int64), axis=(-3, -2, -1))


def highest_derivatives(xp: Namespace, J: Array) -> Array:
    """The order of each variable in the equations, (..., V), for their J, (..., T or 1, Q, V, R+1); traceable."""
    order = xp.arange(J.shape[-1], device=device_of(J))
    present = xp.any((J != 0) & xp.isfinite(J), axis=(-4, -3))
    return xp.max(xp.where(present, order, xp.zeros_like(order)), axis=-1)


def explicit(xp: Namespace, y: Array, J: Array, orders: Array) -> Array:
    """Which members can be solved for the highest derivatives at all times at which y is finite, (...); traceable."""
    if J.shape[-3] != J.shape[-2]:
        return xp.zeros((), dtype=xp.bool, device=device_of(J))
    finite = xp.isfinite(J)
    leading = finite & (xp.arange(J.shape[-1], device=device_of(J)) == orders[..., None, None, :, None])
    det = xp.abs(xp.linalg.det(xp.sum(xp.where(leading, J, xp.zeros_like(J)), axis=-1)))
    regular = xp.all(finite, axis=(-3, -2, -1)) & (det > REGULAR * xp.max(det, axis=-1, keepdims=True))
    return xp.all(regular | ~xp.all(xp.isfinite(y), axis=(-2, -1)), axis=-1)


REGULAR = 1e-8
"""The smallest determinant of the coefficients of highest derivatives at any time, over the largest, where they can."""


def constants_left_open(xp: Namespace, given: Array, orders: Array, is_explicit: Callable[[], Array]) -> str:
    """What is said where fewer values are given than the equations have constants of integration, else "".

    Known for explicit equations: others, such as differential-algebraic ones, have fewer constants.

    Args:
        given: (...), how many values of each batch member.
        orders, is_explicit: see `highest_derivatives`, `explicit`.
    """
    few = given < xp.sum(orders, axis=-1)
    few = few & is_explicit() if bool(xp.any(few)) else few
    count = int(xp.sum(xp.astype(few, xp.int64)))
    if not count:
        return ""
    where = f"in {count} of {size(few.shape)} batch members " if few.ndim else ""
    highest = [int(xp.max(orders[..., v])) for v in range(orders.shape[-1])]
    return (
        f"{where}fewer values are given ({int(xp.min(given))}) than equations of order "
        f"{', '.join(map(str, highest))} have constants ({sum(highest)}): this is one "
        "solution of many, the one that the smoothness rows happen to prefer. Give the initial values of all "
        "derivatives below the order of the equations, or as many values at other times"
    )


def _with_message(result: NonlinearSolution, reached: Array, missing: str) -> NonlinearSolution:
    """The result with its message, which is a warning, too, where members did not converge or values are missing."""
    xp, converged = result._problem.xp, result.converged
    if missing:
        warnings.warn(f"{missing}.", AccuracyWarning, stacklevel=3)
    if bool(xp.all(converged)):
        return replace(result, message=f"converged, but {missing}" if missing else "converged")
    why = []
    if bool(xp.any(~reached)):
        why.append(_STOPPED[result.method])
    if bool(xp.any(reached & ~converged)):
        why.append(_VIOLATED)
    total = int(np.prod(converged.shape, dtype=int))
    count = total - int(xp.sum(xp.astype(converged, xp.int64)))
    of = f"{count} of {total} batch members" if converged.ndim else "the problem"
    message = f"{of} did not converge (see `converged` of the result): {'; '.join(why)}."
    warnings.warn(message, ConvergenceWarning, stacklevel=3)
    return replace(result, message=message)


_STOPPED = {
    "march": "the march was given up where y becomes NaN, since Newton's method fails there on the shortest window: "
    "take shorter steps, or see whether the solution ends (blows up)",
    "newton": "the iteration stopped without reaching the tolerance: give a better guess, shorter steps or a higher "
    "order, raise max_iterations, or see whether the problem has a solution",
}
_VIOLATED = (
    "the iteration ended at a y that violates the equations, the values given, or its own expansion from one time to "
    f"the next, by more than {RESOLVED:g} of their terms: the steps are too long for this solution, the guess led to a "
    "minimum of the sum of squares that is no solution, or there is none"
)
