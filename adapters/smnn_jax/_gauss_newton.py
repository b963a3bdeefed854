"""The Gauss-Newton iterations of `fit_ode`, as loops that JAX traces: those of `smnn_core.fitting._iteration`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from smnn_core import Residuals
from smnn_core.extend import (
    LEAST_NOISE,
    NOISE_FROM,
    REFERENCE,
    SMOOTHNESS,
    STAGE_TOLERANCE,
    FitRows,
    Linearization,
    estimate,
    product,
    time_scale,
)

from ._residual import Residual

Array = Any

__all__ = ["GaussNewton", "State", "as_argument", "data_movement", "least_noise"]


def as_argument(θ: Array, shared: bool) -> Array:
    """Parameters as a residual takes them: (..., 1, p)."""
    return θ[None] if shared else θ[..., None, :]


def least_noise(scale: Array) -> Array:
    """The smallest noise that is estimated, (..., 1, V, 1): above what rounding leaves."""
    return max(LEAST_NOISE, 16 * float(jnp.finfo(scale.dtype).eps)) * scale[..., None, :, None]


def data_movement(rows: FitRows, change: Array) -> Array:
    """The root mean square of a change of y at the data, in standard deviations of the data, (...)."""
    seen = ~jnp.isnan(rows.data)
    moved = jnp.where(seen, change[..., : rows.data.shape[-1]] / rows.noise, 0)
    return jnp.sqrt(jnp.sum(moved**2, axis=(-3, -2, -1)) / jnp.maximum(jnp.sum(seen, axis=(-3, -2, -1)), 1))


class State(NamedTuple):
    """Where the iteration stands."""

    y: Array
    """(*batch, T, V, K)"""
    θ: Array | None
    """(*batch, p), or (p,)"""
    covariance: Array | None
    held: Array | None
    """bool, of θ's shape: which parameters a bound holds"""
    determined: Array
    """bool, (*batch,), or () where parameters are shared: whether the data determine them"""
    noise: Array
    """(*batch, 1, V, R_obs) where it is estimated, else as it was given"""
    move: Array
    """(*batch,): how far the last iteration has moved, in standard errors (of the data, without parameters)"""
    failed: Array
    iterations: Array
    level: Array
    """of the last stage"""

    @staticmethod
    def start(y: Array, θ: Array | None, noise: Any, shared: bool) -> State:
        batch = y.shape[:-3]
        p = 0 if θ is None else θ.shape[-1]
        C = None if θ is None else jnp.full((*(() if shared else batch), p, p), jnp.nan, y.dtype)
        held = None if θ is None else jnp.zeros(θ.shape, bool)
        move, noise = jnp.full(batch, jnp.inf, y.dtype), jnp.asarray(noise, y.dtype)
        one, yes = jnp.ones((), y.dtype), jnp.ones(() if shared else batch, bool)
        return State(y, θ, C, held, yes, noise, move, jnp.zeros(batch, bool), jnp.zeros(batch, jnp.int32), one)


class Sizes(NamedTuple):
    """What weights and degrees of freedom depend on, where equations are made to hold."""

    equations: Array
    """(..., 1, Q): the size of each, for changes of y by its size"""
    constants: Array
    """(...): of integration"""


@dataclass(frozen=True, eq=False)
class GaussNewton:
    """Gauss-Newton iterations by variable projection, see `smnn_core.fitting._variable_projection`."""

    equations: Residual
    t: Array
    rows: FitRows
    shared: bool
    bounds: tuple[Array, Array] | None
    """(..., p) each"""
    estimates_noise: bool
    sizes: Sizes | None = None
    """None where the weights of the equations were given"""

    def at(self, y: Array, θ: Array | None) -> Linearization:
        return self.equations.linearize(self.t, y, *(() if θ is None else (as_argument(θ, self.shared),)))

    def measured(self, y: Array, θ: Array | None) -> GaussNewton:
        """With the sizes of equations that are made to hold; see `smnn_core.fitting._iteration`."""
        rows, J = self.rows, self.at(y, θ).J
        seen = jnp.any(~jnp.isnan(rows.data[..., 0]), axis=-2, keepdims=True).astype(y.dtype)
        z = y / rows.scale[..., None, :, None]
        flat = jnp.reshape(z, (-1, *z.shape[-3:])), jnp.reshape(seen, (-1, *seen.shape[-2:]))
        τ = jnp.reshape(time_scale(*flat, jnp), z.shape[:-3])
        orders = jnp.arange(rows.orders, dtype=y.dtype)
        units = rows.scale[..., None, None, :, None] / τ[..., None, None, None, None] ** orders
        J = jnp.where(jnp.isfinite(J), J, 0)
        size = jnp.sqrt(jnp.mean(jnp.sum((J * units) ** 2, axis=(-2, -1)), axis=-2, keepdims=True))
        there = jnp.max(jnp.abs(J), axis=(-4, -3)) > 0
        constants = jnp.sum(jnp.max(there * orders, axis=-1), axis=-1)
        return replace(self, sizes=Sizes(jnp.where(size > 0, size, 1), constants))

    def rows_at(self, level: Array, noise: Array) -> FitRows:
        """The rows, the weights of the equations multiplied by `level`; without given ones those of `_iteration`."""
        rows = replace(self.rows, noise=noise)
        if self.sizes is None:
            return replace(rows, equation=rows.equation * level)
        precision = jnp.where(jnp.isnan(rows.data), 0, rows.scale[..., None, :, None] / noise)
        precision = jnp.max(precision, axis=(-3, -2, -1))
        unit = jnp.maximum(precision / REFERENCE, 1.0)[..., None, None] * level
        return replace(rows, equation=unit / self.sizes.equations, smoothness=SMOOTHNESS * precision[..., None])

    def run(self, stages: list[tuple[float, Any, float]], state: State, most: int | None = None) -> State:
        """Each stage is a level that weights of equations are multiplied by, iterations at most, and the movement below
        which the next one begins.

        Args:
            most: iterations of all stages together; where some stage has not begun, `move` is infinite.
        """

        def stage(carry: tuple[State, Array], parts: Array) -> tuple[tuple[State, Array], None]:
            (state, left), level, enough = carry, parts[0], parts[2]
            rows, limit = self.rows_at(level, state.noise), jnp.minimum(parts[1], left)

            def going(now: tuple[State, Array]) -> Array:
                moves = jnp.any((now[0].move > enough) & ~now[0].failed)
                return (now[1] < limit) & ((now[1] == 0) | moves)

            def iterate(now: tuple[State, Array]) -> tuple[State, Array]:
                return self._iterate(rows, now[0]), now[1] + 1

            state = state._replace(move=jnp.full_like(state.move, jnp.inf))
            begun = state._replace(level=level), jnp.zeros((), jnp.int32)
            new, taken = jax.lax.while_loop(going, iterate, begun)
            new = self._with_noise(new) if self.estimates_noise else new
            state = jax.tree.map(lambda new, old: jnp.where(left > 0, new, old), new, state)
            return (state, left - taken), None

        left = jnp.asarray(jnp.inf if most is None else most, state.y.dtype)
        return jax.lax.scan(stage, (state, left), jnp.asarray(stages, state.y.dtype))[0][0]

    def _iterate(self, rows: FitRows, now: State) -> State:
        lin = self.at(now.y, now.θ)
        y, θ, C, held, determined = rows.step(lin, now.y), now.θ, now.covariance, now.held, now.determined
        if θ is None:
            move = data_movement(rows, y - now.y)
        else:
            responses = rows.responses(lin)
            δ, C, held, determined = self._estimate(rows, lin, y, now, responses)
            each = jnp.moveaxis(δ, -1, 0)
            y = y + jnp.sum(jnp.reshape(each, (*each.shape, *(1,) * (responses.ndim - each.ndim))) * responses, axis=0)
            variance = jnp.diagonal(C, axis1=-2, axis2=-1)
            moved = jnp.where(held, 0, jnp.abs(δ) / jnp.sqrt(jnp.where(variance > 0, variance, 1)))
            move = jnp.max(moved, axis=-1)
            θ = θ + δ
        sound = ~now.failed & jnp.all(jnp.isfinite(y), axis=(-3, -2, -1))
        if θ is not None and not self.shared:
            sound = sound & jnp.all(jnp.isfinite(θ), axis=-1)
            θ = jnp.where(sound[..., None], θ, now.θ)
        y = jnp.where(sound[..., None, None, None], y, now.y)
        move = jnp.broadcast_to(move, now.move.shape)
        iterations = now.iterations + sound.astype(jnp.int32)
        return State(y, θ, C, held, determined, now.noise, move, ~sound, iterations, now.level)

    def _estimate(
        self, rows: FitRows, lin: Linearization, y_0: Array, now: State, responses: Array
    ) -> tuple[Array, Array, Array, Array]:
        """δ, the covariance of the parameters, which a bound holds, and whether all are determined.

        From the Gram matrix of the rows r_0, .., r_p.
        """
        left = rows.residuals(lin.f + product(jnp, lin.J, y_0 - now.y), y_0)
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
        gaps = () if self.bounds is None else tuple(jnp.reshape(b - now.θ, (-1, p)) for b in self.bounds)
        e = estimate(G, *gaps)
        lead = () if self.shared else batch
        nan = jnp.where(jnp.reshape(sound, (*batch, 1)) | self.shared, 0.0, jnp.nan)
        δ = jnp.reshape(e.change, (*lead, p)) + (0.0 if self.shared else nan)
        results = (e.covariance, (p, p)), (e.held, (p,)), (e.determined, ())
        C, held, determined = (jnp.reshape(x, (*lead, *core)) for x, core in results)
        return δ, C, held, determined

    def _with_noise(self, state: State) -> State:
        """Noise from what the fit leaves and the degrees of freedom left, where the equations have begun to hold.

        A stage in which it has changed by more than `STAGE_TOLERANCE` has not settled.
        """
        assert self.sizes is not None
        batch, data = state.move.shape, self.rows.data
        seen = ~jnp.isnan(data)
        left = jnp.where(seen, state.y[..., : data.shape[-1]] - data, 0) ** 2
        left, count = (jnp.sum(x, axis=-3, keepdims=True) for x in (left, seen.astype(data.dtype)))
        constants = jnp.broadcast_to(self.sizes.constants, batch)
        p = 0 if state.θ is None else state.θ.shape[-1]
        if self.shared:
            keep, axes = (~state.failed).astype(data.dtype), tuple(range(len(batch)))
            constants = jnp.sum(keep * constants)
            keep = keep[..., None, None, None]
            left, count = (jnp.sum(keep * x, axis=axes, keepdims=True) for x in (left, count))
        total = jnp.maximum(jnp.sum(count, axis=(-3, -2, -1)), 1.0)
        freedom = jnp.maximum(1 - (constants + p) / total, 1 / total)[..., None, None, None]
        noise = jnp.sqrt(left / (jnp.maximum(count, 1.0) * freedom))
        noise = jnp.maximum(noise, least_noise(self.rows.scale))
        change = (state.level >= NOISE_FROM) & (count > 0) & ~state.failed[..., None, None, None]
        noise = jnp.where(change, noise, state.noise)
        moved = jnp.max(jnp.abs(noise / state.noise - 1), axis=(-3, -2, -1)) > STAGE_TOLERANCE
        return state._replace(noise=noise, move=jnp.where(moved, jnp.inf, state.move))
