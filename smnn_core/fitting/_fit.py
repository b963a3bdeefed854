"""Trajectories and parameters from noisy, partly observed data: `fit_ode`."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

from .._arrays import Array, Namespace, product
from .._errors import ConvergenceWarning, MisfitWarning
from .._problem import Weights
from .._progress import ProgressBar
from .._schemes import HERMITE, Scheme
from .._solve import residuals
from ._iteration import ANNEALING, GIVEN, LATE, LIGHT_HERMITE, TOLERANCE, Iteration, Stage
from ._problem import FitProblem
from ._result import Fit, as_fields
from ._variable_projection import cost, trajectory_variance

__all__ = ["fit_ode", "warn_of_misfit", "warn_of_undetermined"]

MOST = 100
"""Iterations, where nothing else is said."""


def fit_ode(
    linearize: Callable[..., tuple[Array, ...]],
    data: Array,
    step_sizes: Array,
    parameters: Array | None = None,
    *,
    order: int,
    noise: Array | float | None = None,
    observed_orders: int | None = None,
    guess: Array | None = None,
    t0: Array | float = 0.0,
    bounds: tuple[Any, Any] | None = None,
    shared: bool = False,
    weights: Weights | None = None,
    scale: Array | float | None = None,
    max_iterations: int | None = None,
    scheme: Scheme | None = None,
    engine: str = "auto",
    progress: bool = False,
    y_errors: bool = False,
) -> Fit:
    """Fits the trajectory, and the parameters, of a system f(t, y, θ) = 0 of differential equations to noisy data.

    Minimises over y and θ the sum of squares

        |(y - data) / noise|^2  +  |w_equation f(t, y, θ)|^2  +  |w_smoothness (smoothness rows of y)|^2

    by Gauss-Newton iterations with variable projection. Neither initial values nor a good start are needed: the weight
    of the equations grows from one where y follows the data to one where the parameters do not depend on it any more.
    Each iteration costs as much as 1 + p right-hand sides of `solve_ode`: time and memory are linear in T.

    Args:
        linearize: (t, y, θ) -> (f, J, P) for t (..., T), y (..., T, V, R+1), θ (..., 1, p): the Q equations
            f (..., T, Q), J = ∂f/∂y (..., T or 1, Q, V, R+1), P = ∂f/∂θ (..., T or 1, Q, p). Each time point by
            itself. Without parameters (t, y) -> (f, J).
        data: (..., T, V), on the grid of time points; NaN where a variable was not observed at that time. Batch axes
            are data sets.
        step_sizes: (..., T-1 or 1) or a number, in units of time: the grid, which may be finer than the data.
        parameters: (..., p), where the iteration starts; None fits the trajectory alone.
        order: R, the highest derivative in y.
        noise: the standard deviation of the data: a number, or an array that broadcasts against data, (V,) for one
            for each variable. None estimates one for each variable, and data set, from what the fit leaves; with
            `weights`, which say how far y may follow the data, from differences between neighbouring data.
        observed_orders: data are (..., T, V, observed_orders), with derivatives.
        guess: (..., T, V, R+1), a trajectory to start from, for example for variables that were not observed; None,
            and NaN entries, start from a smooth curve through the data, and from 0 where there are none.
        t0: time of the first point.
        bounds: (lower, upper) of the parameters: numbers, arrays (..., p), or None.
        shared: all data sets have the same parameters, (p,).
        weights: `equation` (..., T, Q) and `smoothness` (..., T-1) as in `solve_ode`, inverse standard deviations of
            f and of the smoothness rows: equations that hold approximately. None: equations and smoothness rows are
            made to hold, their weights grow until the parameters stop moving.
        scale: the size of each variable, a number or (..., V), in whose unit smoothness is measured. None: the
            standard deviation of the data, 1 for variables that are not observed; with `weights` 1 for all.
        scheme: the smoothness scheme. None: `HERMITE`; without `weights` its row of the highest order is lighter.
        max_iterations: Gauss-Newton iterations, 100 unless given. With `weights` and a `guess` a few make sense.
        progress: a progress bar, where tqdm is installed.
        y_errors: also the standard deviations of y, from the covariance of y and the parameters together (`posterior`);
            they take longer than a fit by the compiled engine.

    Returns:
        `Fit`, in the namespace, dtype and device of data; all arithmetic is float64. Data sets are independent of each
        other, unless parameters are shared.

    Raises:
        ShapeError, DTypeError, NamespaceError, DeviceError, ArgumentError: naming the argument.
        ConvergenceWarning: is issued where members did not converge (unless `max_iterations` was given) or parameters
            are not determined by the data.
        MisfitWarning: is issued where converged fits of equations that hold leave far more than the `noise` given.

    Source: Golub, Pereyra, SIAM J. Numer. Anal. 10 (1973) 413, for variable projection; Ramsay, Hooker, Campbell,
    Cao, J. R. Stat. Soc. B 69 (2007) 741, for fits of this kind ("generalized profiling").

    Example: decay, from five of eleven points.

        >>> import numpy as np, smnn_core as smnn
        >>> def decay(t, y, k):  # y' + k y
        ...     f = y[..., 0, 1:] + k * y[..., 0, :1]
        ...     one = np.ones_like(f)
        ...     return f, np.stack([k * one, one], axis=-1)[..., None, :], y[..., 0, :1][..., None]
        >>> data = np.full((11, 1), np.nan)
        >>> data[::2, 0] = [3.05, 2.41, 2.04, 1.63, 1.36, 1.12]
        >>> print(smnn.fit_ode(decay, data, 0.1, np.array([1.0]), order=1, noise=0.05))
    """
    named = {"data": data, "step_sizes": step_sizes, "parameters": parameters, "noise": noise}
    problem = FitProblem.build(
        linearize,
        named | {"guess": guess, "t0": t0, "scale": scale},
        order=order,
        observed_orders=observed_orders,
        bounds=bounds,
        shared=shared,
        weights=weights,
        max_iterations=max_iterations,
    )
    most = max_iterations or MOST
    if scheme is None:
        scheme = LIGHT_HERMITE if weights is None else HERMITE
    iteration = Iteration(problem, scheme=scheme, engine=engine, most=most)
    stages = (*ANNEALING, *LATE)
    if weights is not None:
        last = Stage(1.0, most, TOLERANCE, "settled")
        stages = (*(GIVEN if problem.needs_start else ()), last)
    with ProgressBar(progress, total=most, desc="fit", unit="iteration") as bar:

        def report(stage: Stage, active: int) -> None:
            bar.step(weight=f"{stage.level:.3g}", left=active)

        iteration.run(stages, report)
    result = _result(problem, iteration, scheme, engine if y_errors else None)
    _warn(problem, iteration, max_iterations is not None)
    if noise is not None and weights is None:
        xp, p = problem.xp, 0 if shared else problem.p
        left = xp.reshape(xp.astype(result.residuals.initial, xp.float64), problem.data.values.shape)
        warn_of_misfit(xp, left, problem.noise, iteration.constants + p, iteration.converged)
    return result


def _result(problem: FitProblem, state: Iteration, scheme: Scheme, errors_by: str | None) -> Fit:
    """The state as a result, in the units of the data; the errors of y by an engine, if one is named."""
    xp, shaped = problem.xp, problem.shaped
    size = problem.size[:, None, :, None]
    y = state.z * size
    f, J, _ = lin = problem.at(y, state.θ)
    fit = state.linear_fit(lin, None)
    R_obs = problem.data.values.shape[-1]
    observed = xp.where(problem.data.observed > 0, problem.data.values, xp.full_like(state.u, float("nan")))
    left = residuals(y, J, product(xp, J, y) - f, problem.data.values, problem.data.step_sizes, scheme=scheme)
    left = type(left)(f, y[..., :R_obs] - observed, left.smoothness)
    nan = float("nan")
    total = xp.where(state.failed, xp.full_like(state.move, nan), cost(fit, state.z, scheme=scheme))

    def of_members(x: Array) -> Array:
        x = x[0, ...] if problem.shared else shaped(x)
        return xp.astype(x, problem.dtype)

    θ = covariance = errors = None
    if problem.p:
        failed = xp.all(state.failed)[None] if problem.shared else state.failed
        matrix = xp.where(failed[:, None, None], xp.full_like(state.covariance, nan), state.covariance)
        root = xp.sqrt(xp.linalg.diagonal(matrix))
        errors = of_members(xp.where(state.held, xp.full_like(root, nan), root))
        θ, covariance = of_members(state.θ), of_members(matrix)
    y_errors = None
    if errors_by is not None:
        of_parameters = state.covariance if problem.p else None
        variance = trajectory_variance(fit, of_parameters, scheme=scheme, engine=errors_by)
        variance = xp.where(state.failed[:, None, None, None], xp.full_like(variance, nan), variance)
        y_errors = shaped(xp.sqrt(variance) * size)
    w = fit.weights
    constants = observed, state.noise, w.equation, w.smoothness, problem.size
    fields = as_fields(xp, (problem.B,), *constants, has_order_axis=problem.has_order_axis)
    return Fit(
        y=shaped(y),
        parameters=θ,
        covariance=covariance,
        standard_errors=errors,
        residuals=type(left)(*map(shaped, left)),
        cost=shaped(total),
        noise=shaped(fields["noise"]),
        weights=Weights(*map(shaped, vars(fields["weights"]).values())),
        scale=shaped(fields["scale"]),
        iterations=xp.reshape(state.iterations, problem.batch),
        converged=xp.reshape(state.converged, problem.batch),
        y_errors=y_errors,
    )


def _warn(problem: FitProblem, state: Iteration, asked: bool) -> None:
    """Says what did not work."""
    xp = problem.xp

    def count(x: Array) -> int:
        return int(xp.sum(xp.astype(x, xp.int64)))

    failed, open_ = count(state.failed), count(~(state.failed | state.converged))
    if failed:
        warnings.warn(
            f"{failed} of {problem.B} fits failed: the equations are not finite along the way, or the rows leave y "
            "undetermined; `converged` is False there and the standard errors are NaN. Other start values, bounds, or "
            "data for more variables help.",
            ConvergenceWarning,
            stacklevel=3,
        )
    if open_ and not asked:
        warnings.warn(
            f"{open_} of {problem.B} fits have not converged after {state.total} iterations; `converged` is False "
            "there. Other start values or bounds help, where the equations fit the data at all.",
            ConvergenceWarning,
            stacklevel=3,
        )
    lost = ~state.determined & (~xp.all(state.failed) if problem.shared else ~state.failed)
    if problem.p:
        warn_of_undetermined(count(lost), lost.shape[0])


def warn_of_undetermined(lost: int, fits: int) -> None:
    """Says how many fits have parameters that the data do not determine."""
    if lost:
        warnings.warn(
            f"the data do not determine all parameters of {lost} of {fits} fits: some combination of them changes "
            "nothing that was observed; its standard error is arbitrary and large. Fix a parameter, or observe more.",
            ConvergenceWarning,
            stacklevel=4,
        )


def warn_of_misfit(xp: Namespace, left: Array, noise: Array, free: Array, converged: Array) -> None:
    """Says where χ² of the data is more than twice its expectation, and five deviations above it.

    Args:
        left: y - data, (B, T, V, R_obs), NaN where missing; noise broadcasts against it.
        free: how many constants were fitted besides the data, (B,).
        converged: (B,); of others is nothing said.
    """
    seen = ~xp.isnan(left)
    χ2 = xp.sum(xp.where(seen, left / noise, xp.zeros_like(left)) ** 2, axis=(1, 2, 3))
    freedom = xp.clip(xp.sum(xp.astype(seen, left.dtype), axis=(1, 2, 3)) - free, 1, None)
    ratio = χ2 / freedom
    poor = converged & (ratio > 2) & (ratio - 1 > 5 * xp.sqrt(2 / freedom))
    count = int(xp.sum(xp.astype(poor, xp.int32)))
    if count:
        times = float(xp.max(xp.where(poor, ratio, xp.zeros_like(ratio)))) ** 0.5
        warnings.warn(
            f"{count} of {poor.shape[0]} fits leave up to {times:.3g} times the noise given: the equations do not "
            "explain the data, the grid is too coarse for them (take shorter steps, or `order` one higher), or the "
            "noise is larger. Standard errors are too small by that factor at least.",
            MisfitWarning,
            stacklevel=4,
        )
