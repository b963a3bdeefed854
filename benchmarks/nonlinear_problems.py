"""Nonlinear initial-value problems, as smnn and as the integrators beside it want them, and reference solutions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import numpy as np
from scipy.integrate import solve_ivp

Array = np.ndarray
Linearize = Callable[[Array, Array], tuple[Array, Array]]


@dataclass(frozen=True)
class InitialValueProblem:
    """x' = field(x, p), and f(t, y) = 0 with the same solution."""

    name: str
    field: Callable[[Any, Any], Any]
    """x (n,) and p -> the list of n derivatives, for NumPy and JAX"""
    p: float
    start: tuple[float, ...]
    t: Array
    order: int
    linearize: Callable[[float], Linearize]
    df_dp: Callable[[Array], Array]
    """y (T, V, K) -> ∂f/∂p, (T, Q)"""
    initial_values: Array
    observe: Callable[[Array], Array]
    """y -> (T, m), to compare with the first m of x"""
    scale: tuple[float, ...] = field(default=(1.0,))
    """of the m observed, by which errors are divided"""
    stiff: bool = False
    tolerance: float = 1e-13
    """of the reference"""
    aim: float = 1e-6
    """the error to stay below"""

    def reference(self) -> Array:
        m = self.observe(np.zeros((1, *self._shape))).shape[-1]
        method = "Radau" if self.stiff else "DOP853"
        return solve(self, method, self.tolerance)[:, :m]

    @property
    def _shape(self) -> tuple[int, int]:
        return self.initial_values.shape[-2], self.order + 1


def solve(problem: InitialValueProblem, method: str, tolerance: float) -> Array:
    """x at the times, (T, n), by `scipy.integrate.solve_ivp`."""
    t = problem.t
    run = solve_ivp(
        lambda _, x: problem.field(x, problem.p),
        (t[0], t[-1]),
        problem.start,
        method=method,
        t_eval=t,
        rtol=max(tolerance, 2.3e-14),
        atol=tolerance * 1e-2,
    )
    return run.y.T if run.success else np.full((t.size, len(problem.start)), np.nan)


def matrix(y: Array, Q: int) -> Array:
    """A Jacobian of zeros for y (..., T, V, K)."""
    return np.zeros((*y.shape[:-2], Q, *y.shape[-2:]))


def van_der_pol(mu: float) -> Linearize:
    """y'' - mu (1 - y^2) y' + y = 0."""

    def linearize(t: Array, y: Array) -> tuple[Array, Array]:
        x, v, a = y[..., 0, 0], y[..., 0, 1], y[..., 0, 2]
        J = matrix(y, 1)
        J[..., 0, 0, 0], J[..., 0, 0, 1], J[..., 0, 0, 2] = 2 * mu * x * v + 1, -mu * (1 - x * x), 1
        return (a - mu * (1 - x * x) * v + x)[..., None], J

    return linearize


def relaxation(mu: float) -> Linearize:
    """The same in the time t / mu, divided by mu^2: y'' / mu^2 - (1 - y^2) y' + y = 0."""

    def linearize(t: Array, y: Array) -> tuple[Array, Array]:
        x, v, a = y[..., 0, 0], y[..., 0, 1], y[..., 0, 2]
        J = matrix(y, 1)
        J[..., 0, 0, 0], J[..., 0, 0, 1], J[..., 0, 0, 2] = 2 * x * v + 1, -(1 - x * x), mu**-2
        return (a * mu**-2 - (1 - x * x) * v + x)[..., None], J

    return linearize


def lorenz(rho: float) -> Linearize:
    def linearize(t: Array, y: Array) -> tuple[Array, Array]:
        (a, b, c), d = np.moveaxis(y[..., 0], -1, 0), y[..., 1]
        f = np.stack([d[..., 0] - 10 * (b - a), d[..., 1] - a * (rho - c) + b, d[..., 2] - a * b + 8 / 3 * c], -1)
        J = matrix(y, 3)
        J[..., 0, 0, 1] = J[..., 1, 1, 1] = J[..., 2, 2, 1] = J[..., 1, 1, 0] = 1
        J[..., 0, 0, 0], J[..., 0, 1, 0] = 10, -10
        J[..., 1, 0, 0], J[..., 1, 2, 0] = c - rho, a
        J[..., 2, 0, 0], J[..., 2, 1, 0], J[..., 2, 2, 0] = -b, -a, 8 / 3
        return f, J

    return linearize


def henon_heiles(coupling: float) -> Linearize:
    """x'' = -x - 2 k x z, z'' = -z - k (x^2 - z^2)."""

    def linearize(t: Array, y: Array) -> tuple[Array, Array]:
        x, z, k = y[..., 0, 0], y[..., 1, 0], coupling
        f = np.stack([y[..., 0, 2] + x + 2 * k * x * z, y[..., 1, 2] + z + k * (x * x - z * z)], -1)
        J = matrix(y, 2)
        J[..., 0, 0, 2] = J[..., 1, 1, 2] = 1
        J[..., 0, 0, 0], J[..., 1, 1, 0] = 1 + 2 * k * z, 1 - 2 * k * z
        J[..., 0, 1, 0] = J[..., 1, 0, 0] = 2 * k * x
        return f, J

    return linearize


def energy(y: Array) -> Array:
    """The energy of Hénon and Heiles, (T,)."""
    (x, z), (u, v) = np.moveaxis(y[..., 0], -1, 0), np.moveaxis(y[..., 1], -1, 0)
    return (u * u + v * v + x * x + z * z) / 2 + x * x * z - z**3 / 3


def fitzhugh_nagumo(c: float) -> Linearize:
    """v' = c (v - v^3/3 + w), w' = -(v - 0.2 + 0.2 w) / c."""

    def linearize(t: Array, y: Array) -> tuple[Array, Array]:
        v, w = y[..., 0, 0], y[..., 1, 0]
        f = np.stack([y[..., 0, 1] - c * (v - v**3 / 3 + w), y[..., 1, 1] + (v - 0.2 + 0.2 * w) / c], -1)
        J = matrix(y, 2)
        J[..., 0, 0, 1] = J[..., 1, 1, 1] = 1
        J[..., 0, 0, 0], J[..., 0, 1, 0] = -c * (1 - v * v), -c
        J[..., 1, 0, 0], J[..., 1, 1, 0] = 1 / c, 0.2 / c
        return f, J

    return linearize


def robertson(k: float) -> Linearize:
    """a' = -k a + 1e4 b c, b' = k a - 1e4 b c - 3e7 b^2, a + b + c = 1; t is log(time), and b in units of 1e-5."""

    def linearize(t: Array, y: Array) -> tuple[Array, Array]:
        (a, b, c), d, time = np.moveaxis(y[..., 0], -1, 0), y[..., 1], np.exp(t)
        loss, swap, burn = k * a, 0.1 * b * c, 3e-3 * b * b
        f = np.stack(
            [
                d[..., 0] / time + loss - swap,
                1e-5 * d[..., 1] / time - loss + swap + burn,
                a + 1e-5 * b + c - 1,
            ],
            -1,
        )
        J = matrix(y, 3)
        J[..., 0, 0, 1], J[..., 1, 1, 1] = 1 / time, 1e-5 / time
        J[..., 0, 0, 0], J[..., 0, 1, 0], J[..., 0, 2, 0] = k, -0.1 * c, -0.1 * b
        J[..., 1, 0, 0], J[..., 1, 1, 0], J[..., 1, 2, 0] = -k, 0.1 * c + 6e-3 * b, 0.1 * b
        J[..., 2, 0, 0], J[..., 2, 1, 0], J[..., 2, 2, 0] = 1, 1e-5, 1
        return f, J

    return linearize


def robertson_field(x: Any, k: Any) -> Any:
    """a, b, c and the logarithm of time, against that logarithm."""
    a, b, c, log_time = x
    time = xp_of(log_time).exp(log_time)
    loss, swap, burn = k * a, 0.1 * b * c, 3e-3 * b * b
    return [time * (swap - loss), 1e5 * time * (loss - swap - burn), time * burn, 1.0 + 0 * a]


def xp_of(x: Any) -> Any:
    """numpy, or jax.numpy where x is traced."""
    if isinstance(x, (float, np.ndarray, np.generic)):
        return np
    import jax.numpy

    return jax.numpy


def values(*variables: int) -> Callable[[Array], Array]:
    """The variables themselves, (T, m)."""
    return lambda y: y[..., list(variables), 0]


def with_slope(y: Array) -> Array:
    """(y, y') of a single variable."""
    return y[..., 0, :2]


def initial_value_problems() -> list[InitialValueProblem]:
    """All of them; the grid of the relaxation oscillation is made here."""
    mu = 1000.0
    pulses, cost = relaxation_grid(mu)
    ten, rho = np.linspace(0, 40, 8193), np.linspace(0, 20, 20001)
    chaos = np.linspace(0, 100, 8193)
    logarithm = np.linspace(np.log(1e-6), np.log(1e7), 2001)

    def oscillator(x: Any, p: Any) -> Any:
        return [x[1], p * (1 - x[0] ** 2) * x[1] - x[0]]

    def slow_oscillator(x: Any, p: Any) -> Any:
        return [x[1], p * p * ((1 - x[0] ** 2) * x[1] - x[0])]

    def chaotic(x: Any, p: Any) -> Any:
        return [10 * (x[1] - x[0]), x[0] * (p - x[2]) - x[1], x[0] * x[1] - 8 / 3 * x[2]]

    def galaxy(x: Any, p: Any) -> Any:
        return [x[2], x[3], -x[0] - 2 * p * x[0] * x[1], -x[1] - p * (x[0] ** 2 - x[1] ** 2)]

    def neuron(x: Any, p: Any) -> Any:
        return [p * (x[0] - x[0] ** 3 / 3 + x[1]), -(x[0] - 0.2 + 0.2 * x[1]) / p]

    at_rest = np.array([[[2.0, 0.0]]])
    early = robertson_start(np.exp(logarithm[0]))
    P = InitialValueProblem
    return [
        P(
            "Van der Pol, μ = 1",
            oscillator,
            1.0,
            (2.0, 0.0),
            np.linspace(0, 20, 2001),
            4,
            van_der_pol,
            lambda y: (-(1 - y[..., 0, 0] ** 2) * y[..., 0, 1])[..., None],
            at_rest,
            with_slope,
        ),
        P(
            "Van der Pol, μ = 10",
            oscillator,
            10.0,
            (2.0, 0.0),
            ten,
            5,
            van_der_pol,
            lambda y: (-(1 - y[..., 0, 0] ** 2) * y[..., 0, 1])[..., None],
            at_rest,
            values(0),
        ),
        P(
            "Van der Pol, μ = 1000, t to 2",
            oscillator,
            mu,
            (2.0, 0.0),
            np.linspace(0, 2, 65537),
            3,
            van_der_pol,
            lambda y: (-(1 - y[..., 0, 0] ** 2) * y[..., 0, 1])[..., None],
            at_rest,
            values(0),
            stiff=True,
            tolerance=1e-12,
            aim=1e-5,
        ),
        P(
            f"Van der Pol, μ = 1000, t to 2000, grid of steps of Radau ({cost:.2f} s)",
            slow_oscillator,
            mu,
            (2.0, 0.0),
            pulses,
            4,
            relaxation,
            lambda y: (-2 * y[..., 0, 2] * mu**-3)[..., None],
            at_rest,
            values(0),
            stiff=True,
            tolerance=1e-12,
            aim=1e-5,
        ),
        P(
            "Lorenz, t to 20",
            chaotic,
            28.0,
            (1.0, 1.0, 1.0),
            rho,
            4,
            lorenz,
            lambda y: np.stack([0 * y[..., 0, 0], -y[..., 0, 0], 0 * y[..., 0, 0]], -1),
            np.ones((1, 3, 1)),
            values(0, 1, 2),
            aim=5e-2,
        ),
        P(
            "Hénon-Heiles, t to 100",
            galaxy,
            1.0,
            (0.0, 0.1, 0.42, 0.0),
            chaos,
            4,
            henon_heiles,
            lambda y: np.stack([2 * y[..., 0, 0] * y[..., 1, 0], y[..., 0, 0] ** 2 - y[..., 1, 0] ** 2], -1),
            np.array([[[0.0, 0.42], [0.1, 0.0]]]),
            values(0, 1),
        ),
        P(
            "FitzHugh-Nagumo, t to 40",
            neuron,
            3.0,
            (-1.0, 1.0),
            np.linspace(0, 40, 4001),
            5,
            fitzhugh_nagumo,
            lambda y: np.stack(
                [
                    -(y[..., 0, 0] - y[..., 0, 0] ** 3 / 3 + y[..., 1, 0]),
                    -(y[..., 0, 0] - 0.2 + 0.2 * y[..., 1, 0]) / 9,
                ],
                -1,
            ),
            np.array([[[-1.0], [1.0]]]),
            values(0, 1),
        ),
        P(
            "Robertson, differential-algebraic, t from 1e-6 to 1e7",
            robertson_field,
            0.04,
            (*early, logarithm[0]),
            logarithm,
            4,
            robertson,
            lambda y: np.stack([y[..., 0, 0], -y[..., 0, 0], 0 * y[..., 0, 0]], -1),
            np.array(early).reshape(1, 3, 1),
            values(0, 1, 2),
            scale=(1.0, 3.65, 1.0),
            stiff=True,
            tolerance=1e-12,
        ),
    ]


def relaxation_grid(mu: float, points: int = 65537) -> tuple[Array, float]:
    """A grid on [0, 2] (time / mu) that follows the jumps, and what making it costs, in seconds.

    The steps that Radau takes at a tolerance of 1e-6, divided; the jumps are 1e-6 wide and need a hundredth of that.
    """
    begin = perf_counter()
    run = solve_ivp(
        lambda _, x: [x[1], mu * mu * ((1 - x[0] ** 2) * x[1] - x[0])],
        (0, 2),
        (2.0, 0.0),
        method="Radau",
        jac=lambda _, x: [[0, 1], [mu * mu * (-2 * x[0] * x[1] - 1), mu * mu * (1 - x[0] ** 2)]],
        rtol=1e-6,
        atol=1e-6,
    )
    cost = perf_counter() - begin
    return np.interp(np.linspace(0, run.t.size - 1, points), np.arange(run.t.size), run.t), cost


def robertson_start(time: float) -> tuple[float, float, float]:
    """a, b (in 1e-5) and c at a short time after (1, 0, 0)."""

    def slow(_: float, x: Array) -> list[float]:
        loss, swap, burn = 0.04 * x[0], 0.1 * x[1] * x[2], 3e-3 * x[1] ** 2
        return [swap - loss, 1e5 * (loss - swap - burn), burn]

    a, b, c = solve_ivp(slow, (0, time), (1.0, 0.0, 0.0), method="Radau", rtol=1e-13, atol=1e-18).y[:, -1]
    return float(a), float(b), float(c)
