"""`fit_ode` for a residual on JAX arrays. Its derivatives are derived in `smnn_core.nonlinear._implicit`.

The Gauss-Newton iterations are loops that JAX traces, with everything cut off from derivatives; one more step has them.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.lax import stop_gradient

from smnn_core import HERMITE, ArgumentError, ConvergenceWarning, Fit, Residuals, Scheme, ShapeError, Weights
from smnn_core.extend import (
    ANNEALING,
    GIVEN,
    LATE,
    LIGHT_HERMITE,
    REFERENCE,
    SMOOTHNESS,
    TOLERANCE,
    FitRows,
    Linearization,
    Observations,
    as_arrays,
    attached,
    broadcast_shapes,
    check_order,
    check_shapes,
    estimate,
    is_tracer,
    product,
    smooth,
    spread,
    stand_in,
    time_scale,
    times,
    warn_of_misfit,
)

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
    noise: Any,
    observed_orders: int | None = None,
    guess: Array | None = None,
    t0: Any = 0.0,
    shared: bool = False,
    weights: Weights | None = None,
    scale: Any = None,
    max_iterations: int | None = None,
    scheme: Scheme | None = None,
    engine: str = "auto",
) -> Fit:
    """`smnn_core.fit_ode` for a residual on JAX arrays, under jit, vmap and grad.

    `cost` is differentiable in everything that the residual closes over (parameters of networks, other arrays), in
    noise, weights, data and step_sizes, by the envelope theorem: with the gradient that it has at fixed y and
    parameters. So a network in the residual is trained on noisy data by descending `cost`: each training step passes
    the y of the step before as `guess`, with max_iterations=1.

    `y` and `parameters` are differentiable in the same by the implicit function theorem with the curvature of
    Gauss-Newton: exactly for data without noise and for equations that are linear in y and the parameters together,
    with an error that grows with the noise otherwise. Members that failed have no derivatives.

    Differences from `smnn_core.fit_ode`, since what is traced cannot be looked at: noise must be given; parameters have
    no bounds; the number of iterations is limited beforehand, to four for each weight of the equations
    (`max_iterations` for the last, with given weights); steps are not shortened. `converged` says what came of it.

    Args:
        residual: residual(t, y[, parameters]) -> (..., T, Q) for t (..., T), y (..., T, V, R+1) and parameters
            (..., 1, p): the Q equations at all time points, each from y at that time alone.
        data: (..., T, V), NaN where missing; batch axes are data sets.
        step_sizes: (..., T-1 or 1) or a number.
        parameters: (..., p), where the iteration starts; None fits the trajectory alone.
        guess: (..., T, V, R+1): a trajectory to start from. With weights, exactly max_iterations Gauss-Newton steps are
            taken from it where there are no parameters.

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
    if noise is None:
        raise ArgumentError("noise, the standard deviation of the data, must be given: smnn_core.fit_ode estimates it.")
    for name, x in {"data": data, "step_sizes": step_sizes, "parameters": parameters, "guess": guess}.items():
        check_array(name, x, number=name == "step_sizes")
    step_sizes, weights = as_arrays(step_sizes, weights, data)
    check_order(order)
    check_shapes(data, step_sizes, parameters, guess, order=order, observed_orders=observed_orders)
    if shared and (parameters is None or parameters.ndim != 1):
        raise ShapeError("parameters that data sets share must have shape (p,).")
    noise = noise if isinstance(noise, (int, float)) else jnp.asarray(noise, data.dtype)
    if observed_orders is None:
        data = data[..., None]
        noise = noise[..., None] if isinstance(noise, jax.Array) and noise.ndim else noise
    held = noise, t0, weights, scale
    fit = partial(_fit_traced, Residual(residual), held, scheme, engine, order + 1, shared, max_iterations)
    result = jax.jit(fit)(
        data, step_sizes, parameters, guess
    )  # outside of jit: one program, not one for each operation
    if max_iterations is None:
        _warn(result, noise if weights is None else None, shared)
    return result


def _warn(fit: Fit, noise: Array | None, shared: bool) -> None:
    """What can be said where values are at hand, not under jit: what did not converge, or does not explain the data."""
    if is_tracer(fit.converged):
        return
    converged = jnp.reshape(fit.converged, (-1,))
    if open_ := int(jnp.sum(~converged)):
        warnings.warn(
            f"{open_} of {converged.size} fits have not converged (see `converged` of the result): other start values "
            "help, where the equations fit the data at all, and float64.",
            ConvergenceWarning,
            stacklevel=3,
        )
    if noise is not None:
        p = 0 if fit.parameters is None or shared else fit.parameters.shape[-1]
        left = fit.residuals.initial / noise
        warn_of_misfit(jnp, jnp.reshape(left, (-1, *left.shape[-3:])), jnp.ones(()), p, converged)


def _fit_traced(
    equations: Residual,
    held: tuple[Any, Any, Weights | None, Any],
    scheme: Scheme | None,
    engine: str,
    K: int,
    shared: bool,
    max_iterations: int | None,
    data: Array,
    s: Array,
    parameters: Array | None,
    guess: Array | None,
) -> Fit:
    noise, t0, weights, scale = held
    T, V = data.shape[-3:-1]
    t = times(jnp, t0, jnp.broadcast_to(s, (*s.shape[:-1], T - 1)))
    shapes = {"data": data.shape[:-3], "step_sizes": t.shape[:-1]}
    shapes |= {} if parameters is None or shared else {"parameters": parameters.shape[:-1]}
    shapes |= {} if guess is None else {"guess": guess.shape[:-3]}
    batch = broadcast_shapes(shapes)
    y = jax.ShapeDtypeStruct((*batch, T, V, K), data.dtype)
    start = () if parameters is None else (stop_gradient(parameters),)
    found = jax.eval_shape(equations, t, y, *(_argument(x, shared) for x in start))
    batch = broadcast_shapes({"the arguments": batch, "residual's f": found.shape[:-2]})
    data = jnp.broadcast_to(data, (*batch, *data.shape[-3:]))

    observations = _observations(*stop_gradient((data, t, s)))
    if scale is None:
        scale = jnp.reshape(spread(observations), (*batch, V)) if weights is None else jnp.ones(V, data.dtype)
    scale = jnp.broadcast_to(jnp.asarray(scale, data.dtype), (*jnp.shape(scale)[:-1], V))
    scheme = scheme or (LIGHT_HERMITE if weights is None else HERMITE)

    def solve(*arguments: Any, **options: Any) -> Array:
        return solve_ode(*arguments, **options, engine=engine)

    stated = weights or Weights()
    rows = FitRows(jnp, solve, stop_gradient, data, s, noise, stated.equation, stated.smoothness, scale, K, scheme)
    fixed = replace(rows, **{k: stop_gradient(getattr(rows, k)) for k in CONSTANTS})
    if guess is None:
        y = _smoothed(fixed, observations, batch)
    else:
        y = jnp.broadcast_to(stop_gradient(guess), (*batch, T, V, K))
    θ = start[0] if start else None
    if θ is not None and not shared:
        θ = jnp.broadcast_to(θ, (*batch, θ.shape[-1]))
    others = () if θ is None else (_argument(θ, shared),)
    fit = _GaussNewton(equations.frozen(t, y, *others), stop_gradient(t), fixed, shared)
    if weights is None:
        fixed, levels = fit.weighted(y, θ), ANNEALING + (LATE[:3] if data.dtype == jnp.float64 else ())
        fit, rows = replace(fit, rows=fixed), replace(rows, equation=fixed.equation, smoothness=fixed.smoothness)
        stages = [(stage.level, stage.iterations, stage.enough) for stage in levels]
    else:
        last = (1.0, (max_iterations or SETTLED), 0.0 if guess is not None and θ is None else TOLERANCE)
        stages = [*(() if guess is not None else ((x.level, x.iterations, x.enough) for x in GIVEN)), last]
    exactly = guess is not None and weights is not None and θ is None and max_iterations is not None
    if exactly:
        stages = [(1.0, (max_iterations or 1) - 1, -1.0)]
    state = fit.run(stages, _State.start(y, θ, batch, shared))
    rows = replace(rows, equation=rows.equation * state.level)
    return (_last_step if exactly else _with_derivatives)(equations, t, rows, fit, state)


CONSTANTS = ("data", "step_sizes", "noise", "equation", "smoothness", "scale")


def _argument(θ: Array, shared: bool) -> Array:
    """Parameters as a residual takes them: (..., 1, p)."""
    return θ[None] if shared else θ[..., None, :]


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
    y = smooth(scaled, noise, rows.orders, "", rows.solve) * size
    return jnp.reshape(y, (*batch, *y.shape[1:]))


class _State(NamedTuple):
    """Where the iteration stands."""

    y: Array
    """(*batch, T, V, K)"""
    θ: Array | None
    """(*batch, p), or (p,)"""
    covariance: Array | None
    move: Array
    """(*batch,): how far the last iteration has moved, in standard errors (of the data, without parameters)"""
    failed: Array
    iterations: Array
    level: Array
    """of the last stage"""

    @staticmethod
    def start(y: Array, θ: Array | None, batch: tuple[int, ...], shared: bool) -> _State:
        p = 0 if θ is None else θ.shape[-1]
        C = None if θ is None else jnp.full((*(() if shared else batch), p, p), jnp.nan, y.dtype)
        move = jnp.full(batch, jnp.inf, y.dtype)
        return _State(y, θ, C, move, jnp.zeros(batch, bool), jnp.zeros(batch, jnp.int32), jnp.ones((), y.dtype))


@dataclass(frozen=True, eq=False)
class _GaussNewton:
    """Gauss-Newton iterations by variable projection, see `smnn_core.fitting._variable_projection`."""

    equations: Residual
    t: Array
    rows: FitRows
    shared: bool

    def at(self, y: Array, θ: Array | None) -> Linearization:
        return self.equations.linearize(self.t, y, *(() if θ is None else (_argument(θ, self.shared),)))

    def weighted(self, y: Array, θ: Array | None) -> FitRows:
        """The rows with the weights of equations that hold, at level 1; see `smnn_core.fitting._iteration`."""
        rows, J = self.rows, self.at(y, θ).J
        precision = jnp.where(jnp.isnan(rows.data), 0, rows.scale[..., None, :, None] / rows.noise)
        precision = jnp.max(precision, axis=(-3, -2, -1))
        seen = jnp.any(~jnp.isnan(rows.data[..., 0]), axis=-2, keepdims=True).astype(y.dtype)
        z = y / rows.scale[..., None, :, None]
        flat = jnp.reshape(z, (-1, *z.shape[-3:])), jnp.reshape(seen, (-1, *seen.shape[-2:]))
        τ = jnp.reshape(time_scale(*flat, jnp), z.shape[:-3])
        orders = jnp.arange(rows.orders, dtype=y.dtype)
        units = rows.scale[..., None, None, :, None] / τ[..., None, None, None, None] ** orders
        J = jnp.where(jnp.isfinite(J), J, 0)
        size = jnp.sqrt(jnp.mean(jnp.sum((J * units) ** 2, axis=(-2, -1)), axis=-2, keepdims=True))
        unit = jnp.maximum(precision / REFERENCE, 1.0)[..., None, None]
        return replace(rows, equation=unit / jnp.where(size > 0, size, 1), smoothness=SMOOTHNESS * precision[..., None])

    def run(self, stages: list[tuple[float, int, float]], state: _State) -> _State:
        """Each stage is a level that weights of equations are multiplied by, iterations at most, and the movement below
        which the next one begins."""

        def stage(state: _State, parts: Array) -> tuple[_State, None]:
            level, most, enough = parts[0], parts[1], parts[2]
            rows = replace(self.rows, equation=self.rows.equation * level)

            def going(now: tuple[_State, Array]) -> Array:
                moves = jnp.any((now[0].move > enough) & ~now[0].failed)
                return (now[1] < most) & ((now[1] == 0) | moves)

            def iterate(now: tuple[_State, Array]) -> tuple[_State, Array]:
                return self._iterate(rows, now[0]), now[1] + 1

            state = state._replace(level=level, move=jnp.full_like(state.move, jnp.inf))
            return jax.lax.while_loop(going, iterate, (state, jnp.zeros((), jnp.int32)))[0], None

        return jax.lax.scan(stage, state, jnp.asarray(stages, state.y.dtype))[0]

    def _iterate(self, rows: FitRows, now: _State) -> _State:
        lin = self.at(now.y, now.θ)
        y, θ, C = rows.step(lin, now.y), now.θ, now.covariance
        if θ is None:
            move = data_movement(rows, y - now.y)
        else:
            responses = rows.responses(lin)
            δ, C = self._estimate(rows, lin, y, now.y, responses)
            each = jnp.moveaxis(δ, -1, 0)
            y = y + jnp.sum(jnp.reshape(each, (*each.shape, *(1,) * (responses.ndim - each.ndim))) * responses, axis=0)
            variance = jnp.diagonal(C, axis1=-2, axis2=-1)
            move = jnp.max(jnp.abs(δ) / jnp.sqrt(jnp.where(variance > 0, variance, 1)), axis=-1)
            θ = θ + δ
        sound = ~now.failed & jnp.all(jnp.isfinite(y), axis=(-3, -2, -1))
        if θ is not None and not self.shared:
            sound = sound & jnp.all(jnp.isfinite(θ), axis=-1)
            θ = jnp.where(sound[..., None], θ, now.θ)
        y = jnp.where(sound[..., None, None, None], y, now.y)
        move = jnp.broadcast_to(move, now.move.shape)
        return _State(y, θ, C, move, ~sound, now.iterations + sound.astype(jnp.int32), now.level)

    def _estimate(
        self, rows: FitRows, lin: Linearization, y_0: Array, y: Array, responses: Array
    ) -> tuple[Array, Array]:
        """δ and the covariance of the parameters, from the Gram matrix of the rows r_0, .., r_p."""
        left = rows.residuals(lin.f + product(jnp, lin.J, y_0 - y), y_0)
        answers = rows.response_rows(lin, responses)
        p = responses.shape[0]
        gram = [rows.dot(left, Residuals(*(x[None] for x in left))), rows.dot(answers, left)]
        top = jnp.concatenate([gram[0], gram[1]])
        others = [rows.dot(Residuals(*(x[j] for x in answers)), answers) for j in range(p)]
        G = jnp.stack([top, *(jnp.concatenate([gram[1][j][None], others[j]]) for j in range(p))])
        G = jnp.moveaxis(G, (0, 1), (-2, -1))
        batch = G.shape[:-2]
        G = jnp.reshape(G, (-1, 1 + p, 1 + p))
        sound = jnp.all(jnp.isfinite(G), axis=(-2, -1), keepdims=True)
        G = jnp.where(sound, G, jnp.eye(1 + p, dtype=G.dtype))
        if self.shared:
            G = jnp.sum(jnp.where(sound, G, 0), axis=0, keepdims=True)
        e = estimate(G)
        lead = () if self.shared else batch
        nan = jnp.where(jnp.reshape(sound, (*batch, 1)) | self.shared, 0.0, jnp.nan)
        δ = jnp.reshape(e.change, (*lead, p)) + (0.0 if self.shared else nan)
        return δ, jnp.reshape(e.covariance, (*lead, p, p))


def data_movement(rows: FitRows, change: Array) -> Array:
    """The root mean square of a change of y at the data, in standard deviations of the data, (...)."""
    seen = ~jnp.isnan(rows.data)
    moved = jnp.where(seen, change[..., : rows.data.shape[-1]] / rows.noise, 0)
    return jnp.sqrt(jnp.sum(moved**2, axis=(-3, -2, -1)) / jnp.maximum(jnp.sum(seen, axis=(-3, -2, -1)), 1))


def _with_derivatives(equations: Residual, t: Array, rows: FitRows, fit: _GaussNewton, state: _State) -> Fit:
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
        others = (_argument(held, shared),)
    lin = stop_gradient(fit.at(at, held))
    lin = lin._replace(f=equations(t, at, *others), J=stand_in(jnp, ok, lin.J, 4))
    new = rows.derivatives(lin, at, C, shared)
    cost = jnp.where(ok, new["cost"], jnp.nan)
    y = attached(jnp, stop_gradient, y, new["y"], ok)
    errors = covariance = None
    if θ is not None:
        θ = attached(jnp, stop_gradient, θ, new["parameters"], jnp.any(ok) if shared else ok)
        bad = (jnp.all(state.failed) if shared else state.failed)[..., None, None]
        covariance = jnp.where(bad, jnp.nan, stop_gradient(state.covariance))
        errors = jnp.sqrt(jnp.diagonal(covariance, axis1=-2, axis2=-1))
    converged = ok & (state.move < TOLERANCE)
    return _fit(rows, y, θ, covariance, errors, rows.residuals(lin.f, at), cost, state.iterations, converged)


def _last_step(equations: Residual, t: Array, rows: FitRows, fit: _GaussNewton, state: _State) -> Fit:
    """One more step, with derivatives, and its cost."""
    before = stop_gradient(state.y)
    lin = stop_gradient(fit.at(before, None))._replace(f=equations(t, before))
    y = rows.step(lin, before)
    end = stop_gradient(y)
    left = rows.residuals(equations(t, end), end)
    converged = data_movement(rows, end - before) < TOLERANCE
    return _fit(rows, y, None, None, None, left, rows.cost(left), state.iterations + 1, converged)


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
    noise = stop_gradient(jnp.asarray(rows.noise, y.dtype))
    weights = Weights(*(stop_gradient(jnp.asarray(w, y.dtype)) for w in (rows.equation, 1 / noise, rows.smoothness)))
    left = stop_gradient(left)
    return Fit(y, θ, covariance, errors, left, cost, noise, weights, rows.scale, iterations, converged)
