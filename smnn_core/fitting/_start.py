"""Where a fit starts: the size of each variable, how noisy its data are, and a smooth curve through them.

Shapes: B members of a batch (one axis), T time points, V variables, R_obs observed orders.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from .._arrays import Array, Namespace, device_of
from .._problem import Weights
from .._schemes import HERMITE

__all__ = ["Observations", "difference_noise", "smooth", "spread", "time_scale"]

STIFFNESSES = tuple(2.0**k for k in range(-1, 10, 2))
"""Of smoothing curves, in mean distances between observations of a variable: what is shorter is smoothed out."""
MISSING = 0.1
"""Weight, relative to that of all observations, of the mean of a variable where it was not observed: curves stay in its
range where data end, and are 0 for variables that nobody observed."""


class Observations(NamedTuple):
    """Data of a fit."""

    xp: Namespace
    values: Array
    """(B, T, V, R_obs), 0 where missing"""
    observed: Array
    """(B, T, V, R_obs): 1 where observed, 0 where missing, as numbers"""
    t: Array
    """(B or 1, T)"""
    step_sizes: Array
    """(B or 1, T-1 or 1)"""


def spread(data: Observations) -> Array:
    """The standard deviation of the values of each variable, (B, V); 1 where it is not observed, or never changes."""
    xp = data.xp
    x, seen = data.values[..., 0], data.observed[..., 0]
    count = xp.sum(seen, axis=1)
    mean = xp.sum(x, axis=1) / xp.clip(count, 1.0, None)
    variance = xp.sum(seen * (x - mean[:, None, :]) ** 2, axis=1) / xp.clip(count, 1.0, None)
    size = xp.where(variance > 0, xp.sqrt(variance), xp.abs(mean))
    return xp.where(size > 0, size, xp.ones_like(size))


def difference_noise(data: Observations) -> Array:
    """The standard deviation of the noise, (B, V, R_obs), from differences to the line between neighbours.

    The median of |differences|, which a few sharp bends do not change. Source: Gasser, Sroka, Jennen-Steinmetz,
    Biometrika 73 (1986) 625. 1 where there are fewer than three observations.
    """
    xp = data.xp
    B, T, V, R_obs = data.values.shape
    seen = xp.reshape(xp.moveaxis(data.observed, 1, -1), (B * V * R_obs, T))
    order = xp.argsort(-seen, axis=-1, stable=True)  # observations first, in the order of time
    position = order + T * xp.arange(order.shape[0], device=device_of(seen))[:, None]

    def sorted_by_time(x: Array) -> Array:
        x = xp.broadcast_to(x, (B, T, V, R_obs))
        flat = xp.reshape(xp.moveaxis(x, 1, -1), (-1,))
        return xp.reshape(xp.take(flat, xp.reshape(position, (-1,)), axis=0), seen.shape)

    x, t = sorted_by_time(data.values), sorted_by_time(data.t[:, :, None, None])
    there = sorted_by_time(data.observed) > 0
    there = there[:, 2:] & there[:, 1:-1] & there[:, :-2]
    span = xp.where(there, t[:, 2:] - t[:, :-2], xp.ones_like(t[:, 2:]))
    a = xp.where(there, (t[:, 2:] - t[:, 1:-1]) / span, xp.zeros_like(span))
    difference = xp.abs(a * x[:, :-2] + (1 - a) * x[:, 2:] - x[:, 1:-1]) / xp.sqrt(a**2 + (1 - a) ** 2 + 1)
    difference = xp.sort(xp.where(there, difference, xp.full_like(difference, float("inf"))), axis=-1)
    count = xp.sum(xp.astype(there, xp.int32), axis=-1)
    middle = (
        xp.arange(difference.shape[-1], device=device_of(seen))[None, :] == (xp.clip(count, 1, None)[:, None] - 1) // 2
    )
    median = xp.sum(xp.where(middle, difference, xp.zeros_like(difference)), axis=-1)
    return xp.reshape(xp.where(count > 0, median / 0.6745, xp.ones_like(median)), (B, V, R_obs))


def smooth(data: Observations, noise: Array, orders: int, solve: Callable[..., Array]) -> Array:
    """Smooth curves through the data, (B, T, V, orders), with y'' = 0 as the equation.

    Of curves of different `STIFFNESSES` each member gets the stiffest that leaves no more than the noise, (B or 1,
    T or 1, V, R_obs); 0 where a variable was not observed. Everything in units in which variables have size 1.

    Args:
        solve: `solve_ode` by an engine or of an adapter.
    """
    xp, u, seen = data.xp, data.values, data.observed
    T, V = u.shape[1:3]
    highest = min(2, orders - 1)
    one = xp.eye(V, dtype=u.dtype, device=device_of(u))
    c = xp.stack([one if o == highest else xp.zeros_like(one) for o in range(orders)], axis=-1)[None, None, ...]
    count = xp.sum(seen, axis=(1, 2, 3))
    variables = xp.sum(xp.max(seen, axis=(1, 3)), axis=1)
    span = xp.abs(data.t[:, -1] - data.t[:, 0])
    distance = span * xp.clip(variables, 1.0, None) / xp.clip(count, 1.0, None)
    stiffness = xp.asarray(STIFFNESSES, dtype=u.dtype, device=device_of(u))
    w_equation = ((stiffness[:, None] * distance) ** highest)[..., None, None]
    share = xp.clip(xp.sum(seen, axis=1, keepdims=True), 1.0, None)
    mean = xp.sum(u, axis=1, keepdims=True) / share
    missing = (seen == 0) & (xp.arange(u.shape[-1], device=device_of(u)) == 0)
    u = xp.where(missing, mean, u)
    w_data = xp.where(missing, MISSING * xp.sqrt(share / T), seen)
    rhs = xp.zeros((1, 1, V), dtype=u.dtype, device=device_of(u))
    weights = Weights(w_equation, w_data, 100.0)
    y = solve(c, rhs, u, data.step_sizes, n_steps=T, scheme=HERMITE, weights=weights)
    left = xp.sum((seen * (y[..., : u.shape[-1]] - u) / noise) ** 2, axis=(2, 3, 4))
    admissible = xp.astype(left <= count, xp.int32)
    choice = xp.clip(xp.sum(admissible, axis=0) - 1, 0, None)  # what is left grows with the stiffness
    index = xp.arange(len(STIFFNESSES), device=device_of(u))[:, None]
    chosen = (index == choice)[..., None, None, None]
    return xp.sum(xp.where(chosen, y, xp.zeros_like(y)), axis=0)


def time_scale(y: Array, observed: Array, xp: Namespace) -> Array:
    """How fast a trajectory (B, T, V, K) changes: its size over that of its first derivative, (B,).

    Args:
        observed: (B, 1 or T, V): 0 where a variable does not count.
    """
    deviation = y[..., 0] - xp.mean(y[..., 0], axis=1, keepdims=True)
    size, speed = (xp.sum(observed * x * x, axis=(1, 2)) for x in (deviation, y[..., 1]))
    return xp.where((speed > 0) & (size > 0), xp.sqrt(size / xp.where(speed > 0, speed, xp.ones_like(speed))), 1.0)
