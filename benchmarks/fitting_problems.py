"""Parameters from data: equations as `fit` and as integrators want them, and noisy data of known parameters."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from scipy.integrate import solve_ivp

Array = np.ndarray
LinearizeWithParameters = Callable[[Array, Array, Array], tuple[Array, Array, Array]]


@dataclass(frozen=True)
class FittingProblem:
    """Data sets of one truth, each with its own noise."""

    name: str
    linearize: LinearizeWithParameters
    field: Callable[[Any, Any], list[Any]]
    """(x, θ) -> x', for NumPy and JAX"""
    truth: Array
    """(p,)"""
    initial: Array
    """x at the first time, (V,)"""
    t: Array
    """(T,), the grid"""
    order: int
    noise: Array
    """(V,)"""
    start: Array
    """(p,)"""
    observed: Array
    """(T, V), bool, or (n, T, V)"""

    @cached_property
    def exact(self) -> Array:
        """x at the times, (T, V)."""
        return integrate(lambda _, x: self.field(x, self.truth), self.initial, self.t)

    def data(self, n: int, seed: int = 0) -> Array:
        """n data sets, (n, T, V), NaN where nothing was observed."""
        rng = np.random.default_rng(seed)
        x = self.exact + self.noise * rng.normal(size=(n, *self.exact.shape))
        x[~np.broadcast_to(self.observed[..., :n, :, :] if self.observed.ndim == 3 else self.observed, x.shape)] = (
            np.nan
        )
        return x


def integrate(field: Callable[[float, Array], Any], initial: Array, t: Array) -> Array:
    """x at the times, (T, V), to eleven digits."""
    return solve_ivp(field, (t[0], t[-1]), initial, t_eval=t, method="DOP853", rtol=1e-11, atol=1e-11).y.T


def matrix(y: Array, Q: int) -> Array:
    """A Jacobian of zeros for y (..., T, V, K)."""
    return np.zeros((*y.shape[:-2], Q, *y.shape[-2:]))


def decay(t: Array, y: Array, k: Array) -> tuple[Array, Array, Array]:
    """y' + k y = 0."""
    value, slope = y[..., 0, 0], y[..., 0, 1]
    k = k[..., 0] + 0 * value
    J = matrix(y, 1)
    J[..., 0, 0, 0], J[..., 0, 0, 1] = k, 1
    return (slope + k * value)[..., None], J, value[..., None, None]


def fitzhugh_nagumo(t: Array, y: Array, θ: Array) -> tuple[Array, Array, Array]:
    """v' = c (v - v^3 / 3 + r), r' = -(v - a + b r) / c; source: Ramsay et al., J. R. Stat. Soc. B 69 (2007) 741."""
    a, b, c = (θ[..., i] for i in range(3))
    v, r = y[..., 0, 0], y[..., 1, 0]
    f = np.stack([y[..., 0, 1] - c * (v - v**3 / 3 + r), y[..., 1, 1] + (v - a + b * r) / c], axis=-1)
    J = matrix(y, 2)
    J[..., 0, 0, 1] = J[..., 1, 1, 1] = 1
    J[..., 0, 0, 0], J[..., 0, 1, 0] = -c * (1 - v**2), -c
    J[..., 1, 0, 0], J[..., 1, 1, 0] = 1 / c, b / c
    P = np.zeros((*f.shape, 3))
    P[..., 0, 2] = -(v - v**3 / 3 + r)
    P[..., 1, 0], P[..., 1, 1], P[..., 1, 2] = -1 / c, r / c, -(v - a + b * r) / c**2
    return f, J, P


def fitzhugh_nagumo_field(x: Any, θ: Any) -> list[Any]:
    (v, r), (a, b, c) = x, θ
    return [c * (v - v**3 / 3 + r), -(v - a + b * r) / c]


def lotka_volterra(t: Array, y: Array, θ: Array) -> tuple[Array, Array, Array]:
    """u' = (α - β v) u, v' = (-γ + δ u) v."""
    α, β, γ, δ = (θ[..., i] for i in range(4))
    u, v = y[..., 0, 0], y[..., 1, 0]
    f = np.stack([y[..., 0, 1] - (α - β * v) * u, y[..., 1, 1] - (-γ + δ * u) * v], axis=-1)
    J = matrix(y, 2)
    J[..., 0, 0, 1] = J[..., 1, 1, 1] = 1
    J[..., 0, 0, 0], J[..., 0, 1, 0] = -(α - β * v), β * u
    J[..., 1, 0, 0], J[..., 1, 1, 0] = -δ * v, γ - δ * u
    P = np.zeros((*f.shape, 4))
    P[..., 0, 0], P[..., 0, 1] = -u, u * v
    P[..., 1, 2], P[..., 1, 3] = v, -u * v
    return f, J, P


def lotka_volterra_field(x: Any, θ: Any) -> list[Any]:
    (u, v), (α, β, γ, δ) = x, θ
    return [(α - β * v) * u, (-γ + δ * u) * v]


def logarithmic_lotka_volterra_field(x: Any, θ: Any) -> list[Any]:
    """The same for the logarithms of u and v, as `examples._lynx_hare_data.lotka_volterra`."""
    u, v = np.exp(x)
    α, β, γ, δ = θ
    return [α - β * v, -γ + δ * u]


def lorenz(t: Array, y: Array, θ: Array) -> tuple[Array, Array, Array]:
    """x' = σ (y - x), y' = x (ρ - z) - y, z' = x y - β z."""
    σ, ρ, β = (θ[..., i] for i in range(3))
    (a, b, c), d = np.moveaxis(y[..., 0], -1, 0), y[..., 1]
    f = np.stack([d[..., 0] - σ * (b - a), d[..., 1] - a * (ρ - c) + b, d[..., 2] - a * b + β * c], axis=-1)
    J = matrix(y, 3)
    J[..., 0, 0, 1] = J[..., 1, 1, 1] = J[..., 2, 2, 1] = J[..., 1, 1, 0] = 1
    J[..., 0, 0, 0], J[..., 0, 1, 0] = σ, -σ
    J[..., 1, 0, 0], J[..., 1, 2, 0] = c - ρ, a
    J[..., 2, 0, 0], J[..., 2, 1, 0], J[..., 2, 2, 0] = -b, -a, β
    P = np.zeros((*f.shape, 3))
    P[..., 0, 0], P[..., 1, 1], P[..., 2, 2] = a - b, -a, c
    return f, J, P


def lorenz_field(x: Any, θ: Any) -> list[Any]:
    (a, b, c), (σ, ρ, β) = x, θ
    return [σ * (b - a), a * (ρ - c) - b, a * b - β * c]


CYCLE = np.array([0.55, 0.028, 0.8, 0.024])
"""Parameters of the Lotka-Volterra equations, about those of lynx and hare."""


def spikes(name: str, start: tuple[float, float, float], only_v: bool = False, noise: float = 0.2) -> FittingProblem:
    """FitzHugh-Nagumo: 41 observations on a grid of 321 points."""
    t = np.linspace(0, 20, 321)
    observed = np.zeros((321, 2), bool)
    observed[::8] = [True, not only_v]
    truth, initial = np.array([0.2, 0.2, 3.0]), np.array([-1.0, 1.0])
    return FittingProblem(
        name,
        fitzhugh_nagumo,
        fitzhugh_nagumo_field,
        truth,
        initial,
        t,
        3,
        np.array([noise, noise]),
        np.array(start, dtype=float),
        observed,
    )


def cycles(n: int) -> FittingProblem:
    """Lotka-Volterra at 300 random times, half of the values missing."""
    rng = np.random.default_rng(0)
    t = np.concatenate([[0.0], np.sort(rng.uniform(0, 20, 299))])
    return FittingProblem(
        "Lotka-Volterra, random times, half missing",
        lotka_volterra,
        lotka_volterra_field,
        CYCLE,
        np.array([30.0, 4.0]),
        t,
        3,
        np.array([0.5, 0.5]),
        np.full(4, 0.3),
        rng.random((n, 300, 2)) < 0.5,
    )


def butterfly(points: int = 5000) -> FittingProblem:
    """Lorenz with 10 % noise."""
    t = 0.01 * np.arange(points)
    truth, initial = np.array([10.0, 28.0, 8 / 3]), np.ones(3)
    size = integrate(lambda _, x: lorenz_field(x, truth), initial, t).std(axis=0)
    return FittingProblem(
        "Lorenz, 10 % noise",
        lorenz,
        lorenz_field,
        truth,
        initial,
        t,
        2,
        0.1 * size,
        np.array([5.0, 20.0, 1.0]),
        np.ones((points, 3), bool),
    )
