"""Equations for tests of fits, as `linearize` callbacks, and data that satisfy them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.integrate import solve_ivp

Array = np.ndarray


def decay(t: Array, y: Array, k: Array) -> tuple[Array, Array, Array]:
    """y' + k y = 0, k (..., 1, 1): y = y(0) exp(-k t)."""
    value, slope = y[..., 0, 0], y[..., 0, 1]
    k = k[..., 0] + 0 * value
    J = np.stack([k, 1 + 0 * k, *[0 * k] * (y.shape[-1] - 2)], axis=-1)
    return (slope + k * value)[..., None], J[..., None, None, :], value[..., None, None]


def lotka_volterra(t: Array, y: Array, θ: Array) -> tuple[Array, Array, Array]:
    """u' = (α - β v) u, v' = (-γ + δ u) v for the logarithms of u and v."""
    α, β, γ, δ = (θ[..., i] for i in range(4))
    u, v = np.exp(y[..., 0, 0]), np.exp(y[..., 1, 0])
    f = np.stack([y[..., 0, 1] - (α - β * v), y[..., 1, 1] - (-γ + δ * u)], axis=-1)
    J = np.zeros((*f.shape, *y.shape[-2:]))
    J[..., 0, 0, 1] = J[..., 1, 1, 1] = 1.0
    J[..., 0, 1, 0], J[..., 1, 0, 0] = β * v, -δ * u
    P = np.zeros((*f.shape, 4))
    P[..., 0, 0], P[..., 0, 1] = -1.0, v
    P[..., 1, 2], P[..., 1, 3] = 1.0, -u
    return f, J, P


def fitzhugh_nagumo(t: Array, y: Array, θ: Array) -> tuple[Array, Array, Array]:
    """v' = c (v - v^3 / 3 + r), r' = -(v - a + b r) / c; source: Ramsay et al., J. R. Stat. Soc. B 69 (2007) 741."""
    a, b, c = (θ[..., i] for i in range(3))
    v, r = y[..., 0, 0], y[..., 1, 0]
    f = np.stack([y[..., 0, 1] - c * (v - v**3 / 3 + r), y[..., 1, 1] + (v - a + b * r) / c], axis=-1)
    J = np.zeros((*f.shape, *y.shape[-2:]))
    J[..., 0, 0, 1] = J[..., 1, 1, 1] = 1.0
    J[..., 0, 0, 0], J[..., 0, 1, 0] = -c * (1 - v**2), -c
    J[..., 1, 0, 0], J[..., 1, 1, 0] = 1 / c, b / c
    P = np.zeros((*f.shape, 3))
    P[..., 0, 2] = -(v - v**3 / 3 + r)
    P[..., 1, 0], P[..., 1, 1], P[..., 1, 2] = -1 / c, r / c, -(v - a + b * r) / c**2
    return f, J, P


SPIKES = np.array([0.2, 0.2, 3.0])
"""Parameters of `fitzhugh_nagumo`."""


def spikes(t: Array) -> Array:
    """The solution of `fitzhugh_nagumo` from (-1, 1), (T, 2)."""
    a, b, c = SPIKES

    def rhs(_: float, z: Array) -> list[float]:
        return [c * (z[0] - z[0] ** 3 / 3 + z[1]), -(z[0] - a + b * z[1]) / c]

    return integrate(rhs, np.array([-1.0, 1.0]), t)


CYCLE = np.array([0.55, 0.028, 0.8, 0.024])
"""Parameters of `lotka_volterra` as those of lynx and hare."""


def cycle(t: Array, start: tuple[float, float] = (33.0, 6.0), θ: Array = CYCLE) -> Array:
    """The solution of `lotka_volterra`, (T, 2), in logarithms."""

    def rhs(_: float, z: Array) -> list[float]:
        return [θ[0] - θ[1] * np.exp(z[1]), -θ[2] + θ[3] * np.exp(z[0])]

    return integrate(rhs, np.log(start), t)


def integrate(rhs: Callable[[float, Array], list[float]], start: Array, t: Array) -> Array:
    """(T, V), to eleven digits."""
    return solve_ivp(rhs, (t[0], t[-1]), start, t_eval=t, method="DOP853", rtol=1e-11, atol=1e-11).y.T
