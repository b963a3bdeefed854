"""The price of a smoothness scheme: errors against closed forms, and the bias of coefficients fitted to exact data."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.integrate import solve_ivp

import smnn_core as smnn

from .tables import Table

Array = np.ndarray

MEASURED = {
    "y'' + 4y = 0, s = 0.02, R = 2": (7.3e-2, 1.2e-3),
    "y'' + 4y = 0, s = 0.02, R = 3": (2.2e-3, 5.2e-8),
    "y'' + 4y = 0, s = 0.02, R = 4": (3.5e-6, 3.3e-8),
    "y' + y = 1, s = 0.02, R = 2": (2.4e-5, 1.1e-8),
    "Lorenz coefficients, worst relative bias": (1.5e-2, 4.3e-5),
}
"""Errors of (TAYLOR, HERMITE) to be reached or bettered."""


def closed_form_error(
    scheme: smnn.Scheme,
    coefficients: tuple[float, ...],
    rhs: float,
    exact: Callable[[Array], Array],
    initial: tuple[float, ...],
    s: float = 0.02,
    end: float = 10.0,
) -> float:
    """max |y - exact| on [0, end] for sum_r coefficients[r] y^(r) = rhs."""
    T = round(end / s) + 1
    y = smnn.solve_ode(
        np.array(coefficients, float).reshape(1, 1, 1, -1),
        np.array([[rhs]], float),
        np.array(initial, float).reshape(1, 1, -1),
        np.array([s]),
        n_steps=T,
        scheme=scheme,
    )
    return float(np.abs(y[:, 0, 0] - exact(s * np.arange(T))).max())


TRUE = np.zeros((10, 3))
"""Lorenz: the weights of 1, x, y, z, xx, xy, xz, yy, yz, zz in x', y', z'."""
TRUE[[1, 2], 0] = -10, 10
TRUE[[1, 2, 6], 1] = 28, -1, -1
TRUE[[3, 5], 2] = -8 / 3, 1


def library(x: Array) -> Array:
    """The ten monomials of degree <= 2 of x, (..., 3): (..., 10)."""
    one = np.ones_like(x[..., 0])
    first = [x[..., i] for i in range(3)]
    return np.stack([one, *first, *(first[i] * first[j] for i in range(3) for j in range(i, 3))], axis=-1)


def lorenz_bias(scheme: smnn.Scheme, window: int = 50, s: float = 0.01, points: int = 10_000) -> float:
    """The worst relative error of the coefficients that fit exact windows best, in least squares over the trajectory.

    The solution of y' = sum_k w_k theta_k(t), y(0) given, is linear in w: one solve per monomial gives the fit.
    """
    grid = s * np.arange(points)
    exact = solve_ivp(
        lambda _, x: library(x) @ TRUE, (0, grid[-1]), (1, 1, 1), method="DOP853", t_eval=grid, rtol=1e-12, atol=1e-12
    ).y.T
    x = exact[: points // window * window].reshape(-1, window, 3)
    factor = smnn.factorize(
        np.array([0.0, 1.0, 0.0]).reshape(1, 1, 1, 3),
        np.array([s]),
        n_initial_steps=1,
        n_initial_orders=1,
        n_steps=window,
        scheme=scheme,
    )
    theta = np.moveaxis(library(x), -1, 0)[..., None]
    responses = factor.solve(theta, np.zeros((1, 1, 1)))[..., 0, 0].reshape(10, -1).T
    errors = []
    for v in range(3):
        start = x[:, :1, v, None, None]
        offset = factor.solve(np.zeros((len(x), 1, 1)), start)[..., 0, 0]
        weights = np.linalg.lstsq(responses, (x[..., v] - offset).reshape(-1), rcond=None)[0]
        used = TRUE[:, v] != 0
        errors.append(np.abs(weights[used] / TRUE[used, v] - 1).max())
    return float(max(errors))


def errors(scheme: smnn.Scheme) -> list[float]:
    """In the order of `MEASURED`."""

    def oscillator(R: int) -> float:
        return closed_form_error(scheme, (4, 0, 1, *(0,) * (R - 2)), 0, lambda t: np.cos(2 * t), (1, 0))

    growth = closed_form_error(scheme, (1, 1, 0), 1, lambda t: 1 - np.exp(-t), (0,))
    return [*(oscillator(R) for R in (2, 3, 4)), growth, lorenz_bias(scheme)]


def table() -> tuple[list[Table], list[str]]:
    """The table; the figures that are worse than `MEASURED` (by more than its last digit)."""
    rows, missed = [], []
    for (name, targets), *measured in zip(MEASURED.items(), errors(smnn.TAYLOR), errors(smnn.HERMITE), strict=True):
        rows.append((name, *(f"{error:.1e}" for error in measured)))
        for scheme, error, target in zip(("TAYLOR", "HERMITE"), measured, targets, strict=True):
            if float(f"{error:.1e}") > target:
                missed.append(f"{name}, {scheme}: {error:.1e} > {target:.1e}")
    title = "Discretisation errors: largest of y on [0, 10]; coefficients fitted to exact windows of 50 points"
    return [Table(title, ("problem", "TAYLOR", "HERMITE"), tuple(rows))], missed
