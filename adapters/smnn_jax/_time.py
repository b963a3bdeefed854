"""Time split over devices: each eliminates its own chunk of the trajectory.

Inside a shard_map over a mesh axis of D devices, each holds P = T/D points and the P couplings to the point after each;
the last leads to the first point of the next device, its `halo`. The system of a device is therefore one of P+1 points
whose last has no rows of its own. Elimination leaves, on each device, the first point and its coupling to the halo:
these separators form a problem of the same form on D points, gathered and solved on every device, and each substitutes
back in its own chunk. What travels are O(n^2) numbers per device and batch member, once each for the elimination, and
O(n) for a right-hand side.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from smnn_core.extend import Rows, System, apply, increments, pivots, weighted, without_weights
from smnn_core.extend import odd_even as elimination

Array = Any

__all__ = ["ChunkFactor", "drop_halo", "with_halo"]


def with_halo(axis: str | None, y: Array) -> Array:
    """(..., P, V, K) with the first point of the next device behind it, zero on the last; as it is without an axis."""
    if axis is None:
        return y
    D = jax.lax.axis_size(axis)
    following = jax.lax.ppermute(y[..., :1, :, :], axis, [(d + 1, d) for d in range(D - 1)])
    return jnp.concatenate([y, following], axis=-3)


def drop_halo(axis: str | None, g: Array) -> Array:
    """The transpose of `with_halo`."""
    if axis is None:
        return g
    D = jax.lax.axis_size(axis)
    preceding = jax.lax.ppermute(g[..., -1:, :, :], axis, [(d, d + 1) for d in range(D - 1)])
    return jnp.concatenate([g[..., :1, :, :] + preceding, g[..., 1:-1, :, :]], axis=-3)


@dataclass(frozen=True, eq=False)
class ChunkFactor:
    """The factor of a system of which every device holds a chunk: see `engines._interface.Factor`."""

    system: System
    """Of P+1 points."""
    axis: str
    levels: list[elimination.Level]
    """Of this device."""
    separators: list[elimination.Level]
    last: elimination.Level
    """Of the separators, the same on every device."""
    undetermined: Array
    """(...,) bool: batch members without a unique solution, the same on every device."""

    @staticmethod
    def of(system: System, axis: str) -> ChunkFactor:
        """Eliminates the chunk of this device, then all separators."""
        own, couplings = increments.blocks(system)
        both = _eliminated(system, axis, *pivots.with_perturbed(jnp, own[..., :-1, :, :], couplings))
        levels, separators = (pivots.of_run(x, 0) for x in both)
        local, shared = (
            [
                jnp.any(pivots.are_zero(jnp, level) | pivots.are_noise(jnp, level, [other]), axis=-1)
                for level, other in zip(pivots.of_run(x, 0), pivots.of_run(x, 1), strict=True)
            ]
            for x in both
        )
        flags = shared
        if local:
            flags = [*shared, jnp.any(_gather(axis, jnp.stack(local).any(0)[..., None], -1), axis=-1)]
        return ChunkFactor(system, axis, levels, separators[:-1], separators[-1], jnp.stack(flags).any(0))

    def solve(self, d: Rows) -> Array:
        """argmin_y |W (A y - d)|, (..., P, V, K), refined twice like that of the array API engine."""
        y = self._solve(d)
        for _ in range(2):
            Ay = apply(self.system, with_halo(self.axis, y))
            y = y + self._solve(Rows(*(a - b for a, b in zip(d, Ay, strict=True))))
        return y

    def states(self, f: Rows | None, g: Array | None) -> Array:
        """y with v + W A y = f and (W A)^T v = g; None is zero, not both are."""
        if f is None:
            return -self.normal_solve(g)
        y = self.solve(without_weights(self.system, f))
        return y if g is None else y - self.normal_solve(g)

    def _solve(self, d: Rows) -> Array:
        n = self.system.n
        own, coupling = increments.stack_rows(
            self.system, weighted(self.system.weights, d), increments.basis(self.system)
        )
        own, coupling = own[..., :-1, :, None], coupling[..., None]
        batch = jnp.broadcast_shapes(own.shape[:-3], coupling.shape[:-3])
        own, coupling = (jnp.broadcast_to(x, (*batch, *x.shape[-3:])) for x in (own, coupling))
        z, own, coupling = elimination.reflect(jnp, n, self.levels, own, coupling)
        own, coupling = _gather(self.axis, own, -3), _gather(self.axis, coupling, -3)
        z_separators, own, coupling = elimination.reflect(jnp, n, self.separators, own, coupling)
        rows = jnp.matrix_transpose(self.last.Q) @ elimination.last_rows(jnp, n, own, coupling)
        return self._substitute_back(z, z_separators, self.last.R_inverse @ rows[..., :n, :])

    def normal_solve(self, g: Array) -> Array:
        """M^-1 g, (..., P, V, K)."""
        w, g, g_δ = elimination.substitute_transposed(jnp, self.levels, increments.flatten(jnp, g)[..., None])
        g, g_δ = _gather(self.axis, g, -3), _gather(self.axis, g_δ, -3)
        w_separators, g, _ = elimination.substitute_transposed(jnp, self.separators, g, g_δ)
        w_last = jnp.matrix_transpose(self.last.R_inverse) @ g
        return self._substitute_back(w, w_separators, self.last.R_inverse @ w_last)

    def _substitute_back(self, z: list[Array], z_separators: list[Array], first: Array) -> Array:
        x, δ = elimination.substitute_back(jnp, self.separators, z_separators, first, jnp.zeros_like(first))
        x, δ = (jax.lax.dynamic_slice_in_dim(a, jax.lax.axis_index(self.axis), 1, axis=a.ndim - 3) for a in (x, δ))
        x, _ = elimination.substitute_back(jnp, self.levels, z, x, δ)
        x = increments.unflatten(self.system, x[..., 0])
        return jnp.where(self.undetermined[..., None, None, None], jnp.nan, x)


def _eliminated(
    system: System, axis: str, own: Array, couplings: elimination.Couplings
) -> tuple[list[elimination.Level], list[elimination.Level]]:
    """The levels of this device, then those of all separators with that of the one point that is left."""
    levels, own, couplings = elimination.eliminate(system, own, couplings)
    own, couplings = _gather(axis, own, -3), elimination.Couplings(*(_gather(axis, x, -3) for x in couplings))
    # the last coupling leads nowhere, but its rows, left from those of the last chunk, still hold its first point
    separators, own, couplings = elimination.eliminate(system, own, couplings)
    return levels, [*separators, elimination.eliminate_last(system, own, couplings)]


def _gather(axis: str, x: Array, dimension: int) -> Array:
    """The separators of all devices, in order, along an axis where each has one."""
    return jax.lax.all_gather(x, axis, axis=x.ndim + dimension, tiled=True)
