"""Lynx and hare: what the Hudson's Bay Company bought, and the Lotka-Volterra equations.

Thousands of pelts, as in B. Carpenter, "Predator-Prey Population Dynamics: the Lotka-Volterra model in Stan", 2018
(mc-stan.org, case studies), after J. M. Mahaffy and P. Howard, who took them from C. Elton and M. Nicholson, "The
Ten-Year Cycle in Numbers of the Lynx in Canada", Journal of Animal Ecology 11 (1942) 215.
"""

from __future__ import annotations

import numpy as np

YEARS = np.arange(1900, 1921)
HARE = "30.0 47.2 70.2 77.4 36.3 20.6 18.1 21.4 22.0 25.4 27.1 40.3 57.0 76.6 52.3 19.5 11.2 7.6 14.6 16.2 24.7"
LYNX = "4.0 6.1 9.8 35.2 59.4 41.7 19.0 13.0 8.3 9.1 7.4 8.0 12.3 19.5 45.7 51.1 29.7 15.8 9.7 10.1 8.6"
PELTS = np.array([[float(x) for x in numbers.split()] for numbers in (HARE, LYNX)]).T
"""(21, 2): hare, lynx"""
PUBLISHED = {"α": 0.55, "β": 0.028, "γ": 0.80, "δ": 0.024}
"""Posterior means of the case study."""

Array = np.ndarray


def lotka_volterra(t: Array, y: Array, θ: Array) -> tuple[Array, Array, Array]:
    """f, ∂f/∂y and ∂f/∂θ for y (..., T, 2, R+1), the logarithms of u and v with their derivatives."""
    α, β, γ, δ = (θ[..., i] for i in range(4))
    u, v = np.exp(y[..., 0, 0]), np.exp(y[..., 1, 0])
    f = np.stack([y[..., 0, 1] - α + β * v, y[..., 1, 1] + γ - δ * u], axis=-1)
    J = np.zeros((*f.shape, *y.shape[-2:]))
    J[..., 0, 0, 1] = J[..., 1, 1, 1] = 1
    J[..., 0, 1, 0], J[..., 1, 0, 0] = β * v, -δ * u
    P = np.zeros((*f.shape, 4))
    P[..., 0, 0], P[..., 0, 1] = -1, v
    P[..., 1, 2], P[..., 1, 3] = 1, -u
    return f, J, P
