"""Boundary-value test problems with closed forms: 18 linear ones of Cash's collection, and Bratu's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq
from scipy.special import airy, erf

Array = np.ndarray
Function = Callable[[Array], Array]

PI = np.pi


@dataclass(frozen=True)
class LinearProblem:
    """lead(t) y'' = slope(t) y' + value(t) y + forcing(t) on an interval, with y given at its ends."""

    number: int
    interval: tuple[float, float]
    lead: Function
    slope: Function
    value: Function
    forcing: Function
    exact: Function


def constant(x: float) -> Function:
    return lambda t: np.full_like(t, x)


def linear_problems(k: float) -> list[LinearProblem]:
    """The 18 problems for the small parameter k, which number 16 needs as 1 / odd number.

    Source: J. R. Cash's test problems, as documented in BVProblemLibrary.jl and in the test set of Bari
    (archimede.uniba.it/~bvpsolvers), whose numbers are kept. Number 15, t y with y(-1) = y(1) = 1, has its closed form
    in Airy functions.
    """
    r, g = np.sqrt(k), np.sqrt(2 * k)
    zero, one, lead = constant(0.0), constant(1.0), constant(k)

    def cosine(t: Array) -> Array:
        return np.cos(PI * t)

    def wave(t: Array) -> Array:
        return -(1 + k * PI**2) * np.cos(PI * t)

    def turning(t: Array) -> Array:
        return PI * t * np.sin(PI * t)

    bell = np.sqrt(2 * k / PI)
    odd = 1 / (2 * round(0.5 / k) + 1)
    unit, symmetric = (0.0, 1.0), (-1.0, 1.0)
    table = [
        (unit, lead, zero, one, zero, lambda t: (np.exp(-t / r) - np.exp((t - 2) / r)) / (1 - np.exp(-2 / r))),
        (unit, lead, one, zero, zero, lambda t: (1 - np.exp((t - 1) / k)) / (1 - np.exp(-1 / k))),
        (
            symmetric,
            lead,
            lambda t: -(2 + np.cos(PI * t)),
            one,
            lambda t: wave(t) - (2 + np.cos(PI * t)) * PI * np.sin(PI * t),
            cosine,
        ),
        (
            symmetric,
            lead,
            constant(-1.0),
            constant(1 + k),
            zero,
            lambda t: np.exp(t - 1) + np.exp(-(1 + k) * (1 + t) / k),
        ),
        (symmetric, lead, lambda t: t, one, lambda t: wave(t) + turning(t), cosine),
        (
            symmetric,
            lead,
            lambda t: -t,
            zero,
            lambda t: -k * PI**2 * np.cos(PI * t) - turning(t),
            lambda t: np.cos(PI * t) + erf(t / g) / erf(1 / g),
        ),
        (
            symmetric,
            lead,
            lambda t: -t,
            one,
            lambda t: wave(t) - turning(t),
            lambda t: (
                np.cos(PI * t)
                + t
                + (t * erf(t / g) + bell * np.exp(-((t / g) ** 2))) / (erf(1 / g) + bell * np.exp(-1 / g**2))
            ),
        ),
        (
            unit,
            lead,
            constant(-1.0),
            zero,
            zero,
            lambda t: (2 - np.exp(-1 / k) - np.exp(-t / k)) / (1 - np.exp(-1 / k)),
        ),
        (symmetric, lambda t: k + t * t, lambda t: -4 * t, constant(-2.0), zero, lambda t: 1 / (k + t * t)),
        (symmetric, lead, lambda t: -t, zero, zero, lambda t: 1 + erf(t / g) / erf(1 / g)),
        (symmetric, lead, zero, one, wave, cosine),
        (
            symmetric,
            lead,
            zero,
            one,
            wave,
            lambda t: np.cos(PI * t) + (np.exp((t - 1) / r) - np.exp(-(t + 3) / r)) / (1 - np.exp(-4 / r)),
        ),
        (
            symmetric,
            lead,
            zero,
            one,
            wave,
            lambda t: np.cos(PI * t) + np.exp(-(t + 1) / r),
        ),
        (symmetric, lead, zero, one, wave, lambda t: np.cos(PI * t) + np.exp((t - 1) / r) + np.exp(-(t + 1) / r)),
        (symmetric, lead, zero, lambda t: t, zero, lambda t: turning_point(t, k)),
        (unit, constant(odd**2), zero, constant(-(PI**2) / 4), zero, lambda t: np.sin(PI * t / (2 * odd))),
        ((-0.1, 0.1), one, zero, lambda t: -3 * k / (k + t * t) ** 2, zero, lambda t: t / np.sqrt(k + t * t)),
        (unit, lead, constant(-1.0), zero, zero, lambda t: np.exp(-t / k)),
    ]
    return [LinearProblem(i + 1, *row) for i, row in enumerate(table)]


def turning_point(t: Array, k: float) -> Array:
    """k y'' = t y, y(-1) = y(1) = 1: a combination of the Airy functions of t / k^(1/3)."""
    z = k ** (-1 / 3)
    ai, _, bi, _ = airy(z * np.array([-1.0, 1.0]))
    a, b = np.linalg.solve(np.stack([ai, bi], axis=-1), np.ones(2))
    ai, _, bi, _ = airy(z * t)
    return a * ai + b * bi


def linearize_linear(problem: LinearProblem) -> Callable[[Array, Array], tuple[Array, Array]]:
    """The equation as smnn wants it."""

    def linearize(t: Array, y: Array) -> tuple[Array, Array]:
        a, p, q = problem.lead(t), problem.slope(t), problem.value(t)
        f = a * y[..., 0, 2] - p * y[..., 0, 1] - q * y[..., 0, 0] - problem.forcing(t)
        J = np.zeros((*y.shape[:-2], 1, *y.shape[-2:]))
        J[..., 0, 0, 0], J[..., 0, 0, 1], J[..., 0, 0, 2] = -q, -p, a
        return f[..., None], J

    return linearize


def bratu(strength: Array) -> Callable[[Array, Array], tuple[Array, Array]]:
    """y'' + strength exp(y) = 0 for strength (batch, 1)."""

    def linearize(t: Array, y: Array) -> tuple[Array, Array]:
        e = strength * np.exp(y[..., 0, 0])
        J = np.zeros((*y.shape[:-2], 1, *y.shape[-2:]))
        J[..., 0, 0, 0], J[..., 0, 0, 2] = e, 1
        return (y[..., 0, 2] + e)[..., None], J

    return linearize


def bratu_exact(strength: float, t: Array) -> Array:
    """The lower branch for y(0) = y(1) = 0: -2 log(cosh((t - 1/2) θ/2) / cosh(θ/4)), θ = sqrt(2 strength) cosh(θ/4)."""
    theta = brentq(lambda x: x - np.sqrt(2 * strength) * np.cosh(x / 4), 0, 4.79871456, xtol=1e-15, rtol=1e-15)
    return -2 * np.log(np.cosh((t - 0.5) * theta / 2) / np.cosh(theta / 4))
