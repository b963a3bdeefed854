"""`fit_ode` for a residual on JAX arrays. Its derivatives are derived in `smnn_core.nonlinear._implicit`.

The Gauss-Newton iterations are loops that JAX traces, with everything cut off from derivatives; one more step has them.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.lax import stop_gradient

from smnn_core import HERMITE, ConvergenceWarning, Fit, Residuals, Scheme, ShapeError, Weights
from smnn_core.extend import (
    ANNEALING,
    GIVEN,
    LATE,
    LIGHT_HERMITE,
    TOLERANCE,
    FitRows,
    Observations,
    Shape,
    as_arrays,
    as_fields,
    attached_step,
    broadcast_shapes,
    check_integer,
    check_shapes,
    check_values,
    checked_bounds,
    common_batch,
    difference_noise,
    is_tracer,
    pair_of_bounds,
    smooth,
    spread,
    stand_in,
    times,
    warn_of_misfit,
    warn_of_undetermined,
)

from ._gauss_newton import GaussNewton, State, as_argument, data_movement, least_noise
from ._once import once
from ._posterior import posterior
from ._residual import Residual, check_array
from ._solve import solve_ode

Array = Any

__all__ = ["fit_ode"]

SETTLED = 20
"""Iterations with given weights, where max_iterations does not say another number."""


def fit_ode(
    residual: Callable[..., Array],
    data: Array,
    step_sizes: Array,
    parameters: Array | None = None,
    *,
    order: int,
    noise: Any = None,
    observed_orders: int | None = None,
    guess: Array | None = None,
    t0: Any = 0.0,
    bounds: tuple[Any, Any] | None = None,
    shared: bool = False,
    weights: Weights | None = None,
    scale: Any = None,
    max_iterations: int | None = None,
    scheme: Scheme | None = None,
    engine: str = "auto",
    y_errors: bool = False,
) -> Fit:
    """`smnn_core.fit_ode` for a residual on JAX arrays, under jit, vmap and grad.

    `cost` is differentiable in everything that the residual closes over (parameters of networks, other arrays), in
    noise, weights, data and step_sizes, by the envelope theorem: with the gradient that it has at fixed y and
    parameters. So a network in the residual is trained on noisy data by descending `cost`: each training step passes
    the y of the step before as `guess`, with max_iterations=1.

    `y` and `parameters` are differentiable in the same by the implicit function theorem with the curvature of
    Gauss-Newton: exactly for data without noise and for equations that are linear in y and the parameters together,
    with an error that grows with the noise otherwise. Members that failed have no derivatives, errors have none, and
    what the fit estimates itself (noise, weights and scale where they are None) is held fixed.

    Differences from `smnn_core.fit_ode`, since what is traced cannot be looked at: the number of iterations is limited
    beforehand, to four for each weight of the equations (given weights are reached by five lighter ones, and
    `max_iterations` is for the last); steps are not shortened. `converged` says what came of it.

    Args:
        residual: residual(t, y[, parameters]) -> (..., T, Q) for t (..., T), y (..., T, V, R+1) and parameters
            (..., 1, p): the Q equations at all time points, each from y at that time alone.
        data: (..., T, V), NaN where missing; batch axes are data sets.
        step_sizes: (..., T-1 or 1) or a number.
        parameters: (..., p), where the iteration starts; None fits the trajectory alone.
        guess: (..., T, V, R+1): a trajectory to start from. With weights, exactly max_iterations Gauss-Newton steps are
            taken from it where there are no parameters, noise is given and y_errors is False; there, NaN stays NaN.

    The other arguments, and what is raised, are as for `smnn_core.fit_ode`; warnings come outside of jit, where
    values can be looked at.

    Returns:
        `smnn_core.Fit` of JAX arrays, a pytree.

    Example: y' + k y = 0.

        >>> import jax, jax.numpy as jnp, smnn_jax
        >>> data = 3 * jnp.exp(-1.3 * jnp.linspace(0, 2, 41))[:, None]
        >>> decay = lambda t, y, k: y[..., 1] + k * y[..., 0]
        >>> fit = jax.jit(lambda data: smnn_jax.fit_ode(decay, data, 0.05, jnp.ones(1), order=2, noise=0.01))(data)
        >>> print(f"{fit.parameters[0]:.2f}")
        1.30
    """
    for name, x in {"data": data, "step_sizes": step_sizes, "parameters": parameters, "guess": guess}.items():
        check_array(name, x, number=name == "step_sizes")
    order = check_integer("order, the highest derivative in y,", order, least=1)
    with jax.ensure_compile_time_eval():  # under jit, too, what is known is looked at
        step_sizes, weights = as_arrays(step_sizes, weights, data)
        step_sizes = jnp.atleast_1d(step_sizes)
        noise, scale = (
            x if x is None or isinstance(x, (int, float)) else jnp.asarray(x, data.dtype) for x in (noise, scale)
        )
        check_shapes(data, step_sizes, parameters, guess, order=order, observed_orders=observed_orders)
        check_values(jnp, data, step_sizes, noise, scale, weights, max_iterations)
        limits = _bounds(bounds, parameters, shared)
    if shared and (parameters is None or parameters.ndim != 1):
        raise ShapeError("parameters that data sets share must have shape (p,).")
    given = {"data": data, "step_sizes": step_sizes, "parameters": parameters, "guess": guess, "t0": t0}
    given |= {"noise": noise, "scale": scale} | dict(zip(("lower bound", "upper bound"), limits or (), strict=False))
    given |= {} if weights is None else {f"weights.{name}": w for name, w in vars(weights).items()}
    batch = common_batch(given, has_order_axis=observed_orders is not None, shared=shared)
    if observed_orders is None:
        data = data[..., None]
        noise = noise[..., None] if isinstance(noise, jax.Array) and noise.ndim else noise
    held = noise, t0, weights, scale, limits
    options = _Options(scheme, engine, order + 1, shared, batch, max_iterations, y_errors)
    # outside of jit: one program, not one for each operation
    fit = jax.jit(partial(_fit_traced, Residual(residual), held, options))
    result, determined = fit(data, step_sizes, parameters, guess)
    _warn(result, noise if weights is None else None, shared, determined, max_iterations is not None)
    return replace(result, noise=result.noise[..., 0]) if observed_orders is None else result


def _bounds(bounds: Any, parameters: Array | None, shared: bool) -> tuple[Array, Array] | None:
    """Lower and upper bounds, (..., p) each; of nothing none."""
    if bounds is None or parameters is None:
        return None
    lower, upper = (x if x is None else jnp.asarray(x, parameters.dtype) for x in pair_of_bounds(bounds))
    return checked_bounds(jnp, lower, upper, parameters, shared)


class _Options(NamedTuple):
    """What is known when a fit is traced."""

    scheme: Scheme | None
    engine: str
    K: int
    shared: bool
    batch: Shape
    """of the arguments"""
    max_iterations: int | None
    y_errors: bool


def _warn(fit: Fit, noise: Array | None, shared: bool, determined: Array, asked: bool) -> None:
    """What can be said where values are at hand, not under jit: what did not converge, unless few iterations were asked
    for, or does not explain the data, or is not determined by them."""
    if is_tracer(fit.converged):
        return
    converged = jnp.reshape(fit.converged, (-1,))
    if not asked and (open_ := int(jnp.sum(~converged))):
        warnings.warn(
            f"{open_} of {converged.size} fits have not converged (see `converged` of the result): other start values "
            "help, where the equations fit the data at all, and float64.",
            ConvergenceWarning,
            stacklevel=3,
        )
    if fit.parameters is not None:
        lost = ~determined & (jnp.any(jnp.isfinite(fit.cost)) if shared else jnp.isfinite(fit.cost))
        warn_of_undetermined(int(jnp.sum(lost)), lost.size)
    if noise is not None:
        p = 0 if fit.parameters is None or shared else fit.parameters.shape[-1]
        left = fit.residuals.initial / noise
        warn_of_misfit(jnp, jnp.reshape(left, (-1, *left.shape[-3:])), jnp.ones(()), p, converged)


def _fit_traced(
    equations: Residual,
    held: tuple[Any, Any, Weights | None, Any, tuple[Array, Array] | None],
    options: _Options,
    data: Array,
    s: Array,
    parameters: Array | None,
    guess: Array | None,
) -> tuple[Fit, Array]:
    """The fit, and whether the data determine all parameters of each."""
    noise, t0, weights, scale, bounds = held
    scheme, engine, K, shared, batch, max_iterations, y_errors = options
    T, V = data.shape[-3:-1]
    t = times(jnp, t0, jnp.broadcast_to(s, (*s.shape[:-1], T - 1)))
    y = jax.ShapeDtypeStruct((*batch, T, V, K), data.dtype)
    start = () if parameters is None else (stop_gradient(parameters),)
    found = jax.eval_shape(equations, t, y, *(as_argument(x, shared) for x in start))
    batch = broadcast_shapes({"the arguments": batch, "residual's f": found.shape[:-2]})
    data = jnp.broadcast_to(data, (*batch, *data.shape[-3:]))

    observations = _observations(*stop_gradient((data, t, s)))
    if scale is None:
        scale = jnp.reshape(spread(observations), (*batch, V)) if weights is None else jnp.ones(V, data.dtype)
    scale = jnp.broadcast_to(jnp.asarray(scale, data.dtype), (*jnp.shape(scale)[:-1], V))
    scheme = scheme or (LIGHT_HERMITE if weights is None else HERMITE)

    def solve(*arguments: Any, **options: Any) -> Array:
        return solve_ode(*arguments, **options, engine=engine)

    given = noise is not None
    if not given:
        differences = jnp.reshape(difference_noise(observations), (*batch, 1, *data.shape[-2:]))
        noise = jnp.maximum(differences, least_noise(scale))
    stated = weights or Weights()
    rows = FitRows(jnp, solve, stop_gradient, data, s, noise, stated.equation, stated.smoothness, scale, K, scheme)
    fixed = replace(rows, **{k: stop_gradient(getattr(rows, k)) for k in CONSTANTS})
    exactly = guess is not None and weights is not None and not start and max_iterations is not None
    exactly = exactly and given and not y_errors
    unknown = jnp.full((*batch, T, V, K), jnp.nan, data.dtype)
    y = unknown if guess is None else jnp.broadcast_to(stop_gradient(guess), unknown.shape)
    needs_start = jnp.any(jnp.isnan(y))
    if not exactly:
        smoothed = partial(_smoothed, fixed, observations, batch)
        y = jax.lax.cond(needs_start, lambda: jnp.where(jnp.isnan(y), smoothed(), y), lambda: y)
    θ = start[0] if start else None
    if θ is not None and not shared:
        θ = jnp.broadcast_to(θ, (*batch, θ.shape[-1]))
    others = () if θ is None else (as_argument(θ, shared),)
    frozen, bounds = equations.frozen(t, y, *others), stop_gradient(bounds)
    fit = GaussNewton(frozen, stop_gradient(t), fixed, shared, bounds, not given and weights is None)
    if weights is None:
        fit, levels = fit.measured(y, θ), ANNEALING + (LATE[:3] if data.dtype == jnp.float64 else ())
        stages = [(stage.level, stage.iterations, stage.enough) for stage in levels]
        stages[-1] = (*stages[-1][:2], TOLERANCE)
    else:
        last = (1.0, (max_iterations or SETTLED), 0.0 if guess is not None and θ is None else TOLERANCE)
        stages = [*((x.level, x.iterations * needs_start, x.enough) for x in GIVEN), last]
    if exactly:
        stages = [(1.0, (max_iterations or 1) - 1, -1.0)]
    most = max_iterations if weights is None else None
    state = fit.run(stages, State.start(y, θ, fixed.noise, shared), most)
    last_rows = fit.rows_at(state.level, state.noise)
    rows = rows if given else replace(rows, noise=state.noise)
    if weights is None:
        rows = replace(rows, equation=last_rows.equation, smoothness=last_rows.smoothness)
    else:
        rows = replace(rows, equation=rows.equation * state.level)
    if exactly:
        return _last_step(equations, t, rows, fit, state), state.determined
    result = _with_derivatives(equations, t, rows, fit, state)
    if y_errors:
        result = replace(result, y_errors=_y_errors(last_rows, fit, state, engine))
    return result, state.determined


CONSTANTS = ("data", "step_sizes", "noise", "equation", "smoothness", "scale")


def _observations(data: Array, t: Array, s: Array) -> Observations:
    """With one batch axis."""
    batch = data.shape[:-3]
    data = jnp.reshape(data, (-1, *data.shape[-3:]))

    def flat(x: Array) -> Array:
        if x.ndim == 1:
            return x[None]
        return jnp.reshape(jnp.broadcast_to(x, (*batch, x.shape[-1])), (-1, x.shape[-1]))

    seen = ~jnp.isnan(data)
    return Observations(jnp, jnp.where(seen, data, 0), seen.astype(data.dtype), flat(t), flat(s))


def _smoothed(rows: FitRows, observations: Observations, batch: tuple[int, ...]) -> Array:
    """Smooth curves through the data, (*batch, T, V, K)."""
    size = jnp.broadcast_to(rows.scale, (*batch, rows.scale.shape[-1]))
    size = jnp.reshape(size, (-1, 1, size.shape[-1], 1))
    noise = jnp.broadcast_to(jnp.asarray(rows.noise, size.dtype), rows.data.shape)
    noise = jnp.reshape(noise, (-1, *noise.shape[-3:])) / size
    scaled = observations._replace(values=observations.values / size)
    y = smooth(scaled, noise, rows.orders, rows.solve) * size
    return jnp.reshape(y, (*batch, *y.shape[1:]))


def _y_errors(rows: FitRows, fit: GaussNewton, state: State, engine: str) -> Array:
    """Standard deviations of y, given the equations, and with the errors of the parameters; see `smnn_core.fit_ode`."""
    θ, C = state.θ, state.covariance
    lin = fit.at(state.y, θ)
    arguments, options = rows.scaled(lin, jnp.zeros_like(lin.f), rows.data)
    variance = posterior(*arguments, **options, engine=engine).variance * rows.scale[..., None, :, None] ** 2
    if C is not None:
        responses = rows.responses(lin)
        C = jnp.reshape(C, (*C.shape[:-2], *(1,) * 3, *C.shape[-2:]))
        variance = variance + jnp.einsum("i...,...ij,j...->...", responses, C, responses)
    return jnp.where(state.failed[..., None, None, None], jnp.nan, jnp.sqrt(variance))


def _with_derivatives(equations: Residual, t: Array, rows: FitRows, fit: GaussNewton, state: State) -> Fit:
    """The result, with derivatives of cost, y and parameters."""
    shared, ok = fit.shared, ~state.failed
    y, θ, C = stop_gradient((state.y, state.θ, state.covariance))
    at = stand_in(jnp, ok, y, 3)
    if θ is None:
        others, held = tuple[Array, ...](), None
    else:
        C = jnp.where(jnp.isfinite(C), C, 0)
        held = θ if shared else stand_in(jnp, ok, θ, 1)
        C = C if shared else stand_in(jnp, ok, C, 2)
        others = (as_argument(held, shared),)
    lin = stop_gradient(fit.at(at, held))
    lin = lin._replace(f=equations(t, at, *others), J=stand_in(jnp, ok, lin.J, 4))
    new = {name: once("fit_ode", x) for name, x in rows.derivatives(lin, at, C, shared).items()}
    cost = jnp.where(ok, new["cost"], jnp.nan)
    y = attached_step(jnp, stop_gradient, y, new["y"], ok)
    errors = covariance = None
    if θ is not None:
        θ = attached_step(jnp, stop_gradient, θ, new["parameters"], jnp.any(ok) if shared else ok)
        bad = (jnp.all(state.failed) if shared else state.failed)[..., None, None]
        covariance = jnp.where(bad, jnp.nan, stop_gradient(state.covariance))
        errors = jnp.where(state.held, jnp.nan, jnp.sqrt(jnp.diagonal(covariance, axis1=-2, axis2=-1)))
    converged = ok & (state.move < TOLERANCE)
    return _fit(rows, y, θ, covariance, errors, rows.residuals(lin.f, at), cost, state.iterations, converged)


def _last_step(equations: Residual, t: Array, rows: FitRows, fit: GaussNewton, state: State) -> Fit:
    """One more step, with derivatives, and its cost."""
    before = stop_gradient(state.y)
    lin = stop_gradient(fit.at(before, None))._replace(f=equations(t, before))
    y = once("fit_ode", rows.step(lin, before))
    end = stop_gradient(y)
    left = rows.residuals(equations(t, end), end)
    converged = data_movement(rows, end - before) < TOLERANCE
    cost = once("fit_ode", rows.cost(left))
    return _fit(rows, y, None, None, None, left, cost, state.iterations + 1, converged)


def _fit(
    rows: FitRows,
    y: Array,
    θ: Array | None,
    covariance: Array | None,
    errors: Array | None,
    left: Residuals,
    cost: Array,
    iterations: Array,
    converged: Array,
) -> Fit:
    fields = as_fields(jnp, cost.shape, *rows.constants, has_order_axis=True)
    results = y, θ, covariance, errors, stop_gradient(left), cost
    return Fit(*results, **fields, iterations=iterations, converged=converged)
