"""Boundary-value problems to measure solvers with: the 33 of Cash's collection, and more whose figures are known.

Source of the 33: the test set for BVP solvers of J. R. Cash and F. Mazzia
(archimede.uniba.it/~bvpsolvers/testsetbvpsolvers), whose numbers are kept: T1 to T18 are linear, T19 to T33 nonlinear.
Each comes with its range of eps from 1e-1 downwards; T16 takes 1 / (the odd number next to 1 / eps). The others are
cited where they stand.

A problem is data. It is written twice: as a residual f(t, y) = 0 with ∂f/∂y, as `smnn_core.solve` takes it, and with
the highest derivatives as functions of the lower ones, as `scipy.integrate.solve_bvp` takes it (`by_scipy`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

import numpy as np
from scipy.integrate import solve_bvp
from scipy.optimize import brentq
from scipy.special import airy, airye, erf

__all__ = [
    "BoundaryProblem",
    "bratu",
    "by_scipy",
    "cash",
    "cash_problems",
    "falkner_skan",
    "limit_cycle",
    "lorenz_orbit",
    "mathieu",
    "sturm_liouville",
    "sturm_liouville_eigenvalues",
]

Array = np.ndarray
Function = Callable[[Array], Array]
Residual = Callable[..., tuple[Array, ...]]
Scalar = Callable[[Array, Array, Array], tuple[Any, Any, Any]]
"""t, y, y' -> g, ∂g/∂y, ∂g/∂y', arrays (n,) or numbers"""

PI = np.pi
NAN = np.nan


@dataclass(frozen=True)
class BoundaryProblem:
    """V variables of the orders given, S = sum(order) states: variable by variable, derivatives 0 to order - 1."""

    name: str
    eps: float
    order: tuple[int, ...]
    """of each variable; (n, V, max(order) + 1) is the shape of y"""
    residual: Residual
    """t (n,), y[, constants (p,)] -> f (n, V), ∂f/∂y (n, V, V, max(order) + 1)[, ∂f/∂constants (n, V, p)]"""
    explicit: Residual
    """t (n,), states (S, n)[, constants] -> highest derivatives (V, n), by states (V, S, n)[, constants (V, p, n)]"""
    ends: tuple[float, float]
    given: tuple[tuple[int, int, int, float], ...] = ()
    """conditions of single states: end (0 or 1), variable, derivative, value"""
    coupled: Callable[[Array], tuple[Array, Array]] | None = None
    """in place of `given`: states at the ends (2, V, R) -> residuals (m,) and their derivatives (m, 2, V, R)"""
    constants: tuple[float, ...] = ()
    """a first guess"""
    start: Function | None = None
    """a first guess of the variables, t (n,) -> (n, V), where it is not the straight line through the conditions"""
    exact: Function | None = None
    """t (n,) -> the variables (n, V), or the first of them"""
    figure: Callable[[Array, Array], float] | None = None
    """states at the ends (2, V, R) and constants -> the number the problem is known for"""
    value: float | None = None
    """of this figure"""

    @property
    def linear(self) -> bool:
        return self.name[:1] == "T" and self.name[1:].isdigit() and int(self.name[1:]) <= 18

    @property
    def highest(self) -> int:
        return max(self.order)

    @property
    def state_of(self) -> list[tuple[int, int]]:
        """Variable and derivative of each state."""
        return [(v, r) for v, order in enumerate(self.order) for r in range(order)]

    @property
    def conditions(self) -> Any:
        """As `smnn_core.solve` takes them: {time: (V, R) with NaN for what is not given}, or a function."""
        if self.coupled is not None:
            return self.coupled
        arrays = {end: np.full((len(self.order), self.highest), NAN) for end in self.ends}
        for end, variable, derivative, value in self.given:
            arrays[self.ends[end]][variable, derivative] = value
        return arrays

    def guess(self, t: Array) -> Array:
        """The variables (n, V): straight lines through the values given, constant through one, otherwise zero."""
        if self.start is not None:
            return self.start(t)
        a, b = self.ends
        y = np.zeros((*t.shape, len(self.order)))
        for v in range(len(self.order)):
            left, right = (next((x for e, u, r, x in self.given if (e, u, r) == (end, v, 0)), None) for end in (0, 1))
            left, right = left if left is not None else right, right if right is not None else left
            if left is not None and right is not None:
                y[..., v] = left + (right - left) * (t - a) / (b - a)
        return y

    def guess_states(self, t: Array) -> Array:
        """The guess and its derivatives, (S, n), by differences where it is no straight line."""
        y = self.guess(t)
        slopes = np.gradient(y, t, axis=0)
        zero = np.zeros_like(y)
        return np.stack([(y, slopes, zero)[min(r, 2)][:, v] for v, r in self.state_of])


def by_scipy(
    problem: BoundaryProblem,
    tolerance: float,
    *,
    mesh: Array | None = None,
    states: Array | None = None,
    **options: Any,
) -> Any:
    """By `solve_bvp` with exact derivatives; from the problem's guess at 11 points where no other is given."""
    places = problem.state_of
    S, p, rows = len(places), len(problem.constants), range(len(places))
    tops = [i - 1 for i in accumulate(problem.order)]
    shifted = [i for i in rows if i not in tops]
    given = [(end, places.index((v, r)), value) for end, v, r, value in problem.given]
    count = len(given) if problem.coupled is None else S + p

    def fun(t: Array, z: Array, *constants: Array) -> Array:
        out = np.empty_like(z)
        out[shifted] = z[[i + 1 for i in shifted]]
        out[tops] = problem.explicit(t, z, *constants)[0]
        return out

    def fun_jac(t: Array, z: Array, *constants: Array) -> Any:
        J = np.zeros((S, S, t.size))
        J[shifted, [i + 1 for i in shifted]] = 1
        _, J[tops], *by_constants = problem.explicit(t, z, *constants)
        if not p:
            return J
        P = np.zeros((S, p, t.size))
        P[tops] = by_constants[0]
        return J, P

    def coupled(za: Array, zb: Array) -> tuple[Array, Array]:
        assert problem.coupled is not None
        y = np.zeros((2, len(problem.order), problem.highest))
        for i, (v, r) in enumerate(places):
            y[:, v, r] = za[i], zb[i]
        residuals, J = problem.coupled(y)
        return residuals, np.stack([J[..., v, r] for v, r in places], -1)

    def bc(za: Array, zb: Array, *_: Array) -> Array:
        if problem.coupled is not None:
            return coupled(za, zb)[0]
        return np.array([(za, zb)[end][i] - value for end, i, value in given])

    def bc_jac(za: Array, zb: Array, *_: Array) -> Any:
        J = np.zeros((2, count, S))
        if problem.coupled is not None:
            J[:] = np.moveaxis(coupled(za, zb)[1], 1, 0)
        else:
            for row, (end, i, _) in enumerate(given):
                J[end, row, i] = 1
        return (*J, np.zeros((count, p))) if p else tuple(J)

    mesh = np.linspace(*problem.ends, 11) if mesh is None else mesh
    states = problem.guess_states(mesh) if states is None else states
    constants = np.array(problem.constants) if p else None
    return solve_bvp(fun, bc, mesh, states, constants, fun_jac=fun_jac, bc_jac=bc_jac, tol=tolerance, **options)


def scalar(
    name: str,
    eps: float,
    ends: tuple[float, float],
    values: tuple[float, float],
    g: Scalar,
    exact: Function | None = None,
    lead: Callable[[Array], Any] | None = None,
) -> BoundaryProblem:
    """lead(t) y'' = g(t, y, y') with y given at both ends; lead is eps where it is not given."""

    def residual(t: Array, y: Array) -> tuple[Array, Array]:
        a = eps if lead is None else lead(t)
        f, by_y, by_slope = g(t, y[:, 0, 0], y[:, 0, 1])
        J = np.empty((t.size, 1, 1, 3))
        J[:, 0, 0, 0], J[:, 0, 0, 1], J[:, 0, 0, 2] = -by_y, -by_slope, a
        return (a * y[:, 0, 2] - f)[:, None], J

    def explicit(t: Array, z: Array) -> tuple[Array, Array]:
        a = eps if lead is None else lead(t)
        f, by_y, by_slope = g(t, z[0], z[1])
        J = np.empty((1, 2, t.size))
        J[0, 0], J[0, 1] = by_y / a, by_slope / a
        return (f / a)[None], J

    given = ((0, 0, 0, float(values[0])), (1, 0, 0, float(values[1])))
    column = None if exact is None else lambda t: exact(t)[:, None]
    return BoundaryProblem(name, eps, (2,), residual, explicit, ends, given, exact=column)


# ---------------------------------------------------------------------------------------------------- T1 to T18, linear


def linear(number: int, e: float) -> BoundaryProblem:
    """T1 to T18; T15 has its closed form in Airy functions, T6, T7 and T10 theirs in the error function."""
    r, g = np.sqrt(e), np.sqrt(2 * e)
    unit, symmetric = (0.0, 1.0), (-1.0, 1.0)
    bell = np.sqrt(2 * e / PI)

    def cosine(t: Array) -> Array:
        return np.cos(PI * t)

    def wave(t: Array) -> Array:
        return -(1 + e * PI**2) * np.cos(PI * t)

    def turn(t: Array) -> Array:
        return PI * t * np.sin(PI * t)

    def layers(t: Array) -> Array:
        return np.cos(PI * t) + np.exp((t - 1) / r) + np.exp(-(t + 1) / r)

    def right(t: Array) -> Array:
        return np.cos(PI * t) + (np.exp((t - 1) / r) - np.exp(-(t + 3) / r)) / (1 - np.exp(-4 / r))

    def corner(t: Array) -> Array:
        peak = (t * erf(t / g) + bell * np.exp(-((t / g) ** 2))) / (erf(1 / g) + bell * np.exp(-1 / g**2))
        return np.cos(PI * t) + t + peak

    def bump(t: Array) -> Array:
        return 2 + np.cos(PI * t)

    exact: dict[int, Function] = {
        1: lambda t: (np.exp(-t / r) - np.exp((t - 2) / r)) / (1 - np.exp(-2 / r)),
        2: lambda t: (1 - np.exp((t - 1) / e)) / (1 - np.exp(-1 / e)),
        3: cosine,
        4: lambda t: np.exp(t - 1) + np.exp(-(1 + e) * (1 + t) / e),
        5: cosine,
        6: lambda t: np.cos(PI * t) + erf(t / g) / erf(1 / g),
        7: corner,
        8: lambda t: (2 - np.exp(-1 / e) - np.exp(-t / e)) / (1 - np.exp(-1 / e)),
        9: lambda t: 1 / (e + t * t),
        10: lambda t: 1 + erf(t / g) / erf(1 / g),
        11: cosine,
        12: right,
        13: lambda t: np.cos(PI * t) + np.exp(-(t + 1) / r),
        14: layers,
        15: lambda t: turning_point(t, e),
        16: lambda t: np.sin(PI * t / (2 * e)),
        17: lambda t: t / np.sqrt(e + t * t),
        18: lambda t: np.exp(-t / e),
    }
    right_sides: dict[int, Scalar] = {
        1: lambda t, y, p: (y, 1.0, 0.0),
        2: lambda t, y, p: (p, 0.0, 1.0),
        3: lambda t, y, p: (y - bump(t) * (p + PI * np.sin(PI * t)) + wave(t), 1.0, -bump(t)),
        4: lambda t, y, p: ((1 + e) * y - p, 1 + e, -1.0),
        5: lambda t, y, p: (y + t * p + wave(t) + turn(t), 1.0, t),
        6: lambda t, y, p: (-t * p - e * PI**2 * np.cos(PI * t) - turn(t), 0.0, -t),
        7: lambda t, y, p: (y - t * p + wave(t) - turn(t), 1.0, -t),
        8: lambda t, y, p: (-p, 0.0, -1.0),
        9: lambda t, y, p: (-4 * t * p - 2 * y, -2.0, -4 * t),
        10: lambda t, y, p: (-t * p, 0.0, -t),
        15: lambda t, y, p: (t * y, t, 0.0),
        16: lambda t, y, p: (-(PI**2) / 4 * y, -(PI**2) / 4, 0.0),
        17: lambda t, y, p: (-3 * e * y / (e + t * t) ** 2, -3 * e / (e + t * t) ** 2, 0.0),
        18: lambda t, y, p: (-p, 0.0, -1.0),
    } | dict.fromkeys((11, 12, 13, 14), lambda t, y, p: (y + wave(t), 1.0, 0.0))
    leads: dict[int, Callable[[Array], Any]] = {9: lambda t: e + t * t, 16: lambda t: e * e, 17: lambda t: 1.0}
    ends = {1: unit, 2: unit, 8: unit, 16: unit, 17: (-0.1, 0.1), 18: unit}.get(number, symmetric)
    values = exact[number](np.array(ends))
    return scalar(f"T{number}", e, ends, tuple(values), right_sides[number], exact[number], leads.get(number))


def turning_point(t: Array, e: float) -> Array:
    """e y'' = t y, y(-1) = y(1) = 1: a combination of the Airy functions of t / e^(1/3)."""
    z = e ** (-1 / 3)
    (small, large, ζ), (ai, _, bi, _) = scaled_airy(np.array(z)), airy(-z)
    decay = np.exp(-ζ)
    # y = a Ai(z t) + b exp(-ζ) Bi(z t)
    a, b = np.linalg.solve(np.array([[ai, bi * decay], [small * decay, large]]), np.ones(2))
    small, large, exponent = scaled_airy(np.maximum(z * t, 0))
    ai, _, bi, _ = airy(np.minimum(z * t, 0))
    right = a * small * np.exp(-exponent) + b * large * np.exp(exponent - ζ)
    return np.where(t > 0, right, a * ai + b * decay * bi)


def scaled_airy(x: Array) -> tuple[Array, Array, Array]:
    """Ai(x) exp(ζ), Bi(x) exp(-ζ) and ζ = 2/3 x^(3/2), x >= 0: neither overflows."""
    ai, _, bi, _ = airye(x)
    return ai.real, bi.real, 2 / 3 * x**1.5


# ------------------------------------------------------------------------------------------------ T19 to T33, nonlinear


def nonlinear(number: int, e: float) -> BoundaryProblem:
    """T19 to T33. T25 to T30 are one equation with six pairs of values; T23 is Troesch's problem with μ = 1 / eps."""
    if number == 24:
        return nozzle(e)
    if number > 30:
        return {31: beam, 32: injection, 33: swirling_flow}[number](e)
    r, unit = np.sqrt(e), (0.0, 1.0)
    cole = {25: (-1 / 3, 1 / 3), 26: (1, -1 / 3), 27: (1, 1 / 3), 28: (1, 1.5), 29: (0, 1.5), 30: (-7 / 6, 1.5)}
    if number in cole:
        return scalar(f"T{number}", e, unit, cole[number], lambda t, y, p: (y - y * p, 1 - p, -y))

    def hill(t: Array) -> Array:
        # log(cosh x) = |x| + log1p(exp(-2 |x|)) - log 2
        x = np.abs(t - 0.745) / e
        return 1 + e * (x + np.log1p(np.exp(-2 * x)) - np.log(2))

    def exponential(t: Array, y: Array, p: Array) -> tuple[Any, Any, Any]:
        source, growth = PI / 2 * np.sin(PI * t / 2), np.exp(y)
        return source * growth**2 - growth * p, 2 * source * growth**2 - growth * p, -growth

    if number == 19:
        return scalar("T19", e, unit, (0, 0), exponential)
    if number == 20:
        return scalar("T20", e, unit, tuple(hill(np.array(unit))), lambda t, y, p: (1 - p * p, 0.0, -2 * p), hill)
    if number == 21:
        return scalar(
            "T21",
            e,
            unit,
            (1, np.exp(-1 / r)),
            lambda t, y, p: (y + y * y - np.exp(-2 * t / r), 1 + 2 * y, 0.0),
            lambda t: np.exp(-t / r),
        )
    if number == 22:
        return scalar("T22", e, unit, (0, 0.5), lambda t, y, p: (-p - y * y, -2 * y, -1.0))
    return troesch(1 / e)


def troesch(μ: float) -> BoundaryProblem:
    """T23: y'' = μ sinh(μ y), y(0) = 0, y(1) = 1, with time from the other end: the layer of μ = 100 is narrower than
    the distance of two numbers near 1, but not near 0."""
    return scalar(
        "T23",
        1 / μ,
        (0.0, 1.0),
        (1, 0),
        lambda t, y, p: (μ * np.sinh(μ * y), μ**2 * np.cosh(μ * y), 0.0),
        lead=lambda t: 1.0,
    )


def nozzle(e: float) -> BoundaryProblem:
    """T24: a shock in a nozzle of cross section A = 1 + t^2, γ = 1.4.

    e A y y'' = ((1 + γ)/2 - e A') y y' - y' / y - (A'/A) (1 - (γ - 1)/2 y^2).
    """
    γ = 1.4

    def right_side(t: Array, y: Array, p: Array) -> tuple[Array, Array, Array]:
        wide, ratio = (1 + γ) / 2 - 2 * e * t, 2 * t / (1 + t * t)
        return (
            wide * y * p - p / y - ratio * (1 - (γ - 1) / 2 * y * y),
            wide * p + p / y**2 + ratio * (γ - 1) * y,
            wide * y - 1 / y,
        )

    def residual(t: Array, y: Array) -> tuple[Array, Array]:
        u, p, a = y[:, 0].T
        lead = e * (1 + t * t)
        f, by_u, by_p = right_side(t, u, p)
        J = np.empty((t.size, 1, 1, 3))
        J[:, 0, 0, 0], J[:, 0, 0, 1], J[:, 0, 0, 2] = lead * a - by_u, -by_p, lead * u
        return (lead * u * a - f)[:, None], J

    def explicit(t: Array, z: Array) -> tuple[Array, Array]:
        lead = e * (1 + t * t) * z[0]
        f, by_u, by_p = right_side(t, *z)
        return (f / lead)[None], np.stack([by_u / lead - f / (lead * z[0]), by_p / lead])[None]

    return BoundaryProblem("T24", e, (2,), residual, explicit, (0.0, 1.0), ((0, 0, 0, 0.9129), (1, 0, 0, 0.375)))


def beam(e: float) -> BoundaryProblem:
    """T31, of the bending of a beam: y' = sin θ, θ' = M, e M' = -Q, e Q' = (y - 1) cos θ - M (sec θ + e Q tan θ)."""

    def last(z: Sequence[Array]) -> tuple[Array, list[Array]]:
        y, θ, M, Q = z
        sin, cos = np.sin(θ), np.cos(θ)
        tan = sin / cos
        by_θ = -(y - 1) * sin - M * (tan + e * Q / cos) / cos
        return (y - 1) * cos - M * (1 / cos + e * Q * tan), [cos, by_θ, -1 / cos - e * Q * tan, -e * M * tan]

    def residual(t: Array, y: Array) -> tuple[Array, Array]:
        z, d = y[..., 0].T, y[..., 1].T
        g, by_z = last(z)
        J = np.zeros((t.size, 4, 4, 2))
        J[:, range(4), range(4), 1] = 1, 1, e, e
        J[:, 0, 1, 0], J[:, 1, 2, 0], J[:, 2, 3, 0] = -np.cos(z[1]), -1, 1
        J[:, 3, :, 0] = -np.stack(by_z, -1)
        return np.stack([d[0] - np.sin(z[1]), d[1] - z[2], e * d[2] + z[3], e * d[3] - g], -1), J

    def explicit(t: Array, z: Array) -> tuple[Array, Array]:
        g, by_z = last(z)
        J = np.zeros((4, 4, t.size))
        J[0, 1], J[1, 2], J[2, 3], J[3] = np.cos(z[1]), 1, -1 / e, np.stack(by_z) / e
        return np.stack([np.sin(z[1]), z[2], -z[3] / e, g / e]), J

    given = tuple((end, v, 0, 0.0) for end in (0, 1) for v in (0, 2))
    return BoundaryProblem("T31", e, (1, 1, 1, 1), residual, explicit, (0.0, 1.0), given)


def injection(e: float) -> BoundaryProblem:
    """T32, of fluid injected into a channel: e y'''' = y' y'' - y y''', y = y' = 0 at 0, y = 1, y' = 0 at 1."""

    def residual(t: Array, y: Array) -> tuple[Array, Array]:
        a, b, c, d, top = y[:, 0].T
        J = np.stack([d, -c, -b, a, np.full_like(a, e)], -1)[:, None, None]
        return (e * top - b * c + a * d)[:, None], J

    def explicit(t: Array, z: Array) -> tuple[Array, Array]:
        a, b, c, d = z
        return ((b * c - a * d) / e)[None], np.stack([-d, c, b, -a])[None] / e

    given = ((0, 0, 0, 0.0), (0, 0, 1, 0.0), (1, 0, 0, 1.0), (1, 0, 1, 0.0))
    return BoundaryProblem("T32", e, (4,), residual, explicit, (0.0, 1.0), given)


def swirling_flow(e: float) -> BoundaryProblem:
    """T33, swirling flow III: e f'''' = -f f''' - g g', e g'' = f' g - f g', f = f' = 0 at both ends, g = -1 and 1."""

    def residual(t: Array, y: Array) -> tuple[Array, Array]:
        (f, f1, _, f3, f4), (g, g1, g2, _, _) = np.moveaxis(y, 0, -1)
        J = np.zeros((t.size, 2, 2, 5))
        J[:, 0, 0, 0], J[:, 0, 0, 3], J[:, 0, 0, 4], J[:, 0, 1, 0], J[:, 0, 1, 1] = f3, f, e, g1, g
        J[:, 1, 0, 0], J[:, 1, 0, 1], J[:, 1, 1, 0], J[:, 1, 1, 1], J[:, 1, 1, 2] = g1, -g, -f1, f, e
        return np.stack([e * f4 + f * f3 + g * g1, e * g2 + f * g1 - f1 * g], -1), J

    def explicit(t: Array, z: Array) -> tuple[Array, Array]:
        f, f1, _, f3, g, g1 = z
        zero = np.zeros_like(f)
        J = np.array([[-f3, zero, zero, -f, -g1, -g], [-g1, g, zero, zero, f1, -f]])
        return np.array([-f * f3 - g * g1, f1 * g - f * g1]) / e, J / e

    walls = tuple((end, 0, r, 0.0) for end in (0, 1) for r in (0, 1))
    return BoundaryProblem("T33", e, (4, 2), residual, explicit, (0.0, 1.0), (*walls, (0, 1, 0, -1.0), (1, 1, 0, 1.0)))


# Smallest eps of each, as powers of ten; T23 takes μ = 10, 20, 50, 100.
SMALLEST = dict.fromkeys(range(1, 19), 6) | {
    16: 3,
    19: 5,
    20: 4,
    21: 6,
    22: 5,
    24: 4,
    25: 4,
    26: 4,
    27: 4,
    28: 4,
    29: 4,
    30: 4,
    31: 4,
    32: 5,
    33: 5,
}


def cash(number: int, eps: float) -> BoundaryProblem:
    """Problem number 1 to 33 of the collection."""
    if number == 16:
        eps = 1 / (2 * round(0.5 / eps) + 1)
    return linear(number, eps) if number <= 18 else nonlinear(number, eps)


def cash_problems() -> Iterator[BoundaryProblem]:
    """All of them, each with its range of eps, but T17 without 1e-2.

    There (eps - t^2) / sqrt(eps + t^2) solves the homogeneous equation and vanishes at both ends, -0.1 and 0.1: the
    solution is not unique.
    """
    for number in range(1, 34):
        powers = [10.0**-n for n in range(1, SMALLEST.get(number, 1) + 1) if (number, n) != (17, 2)]
        for eps in (0.1, 0.05, 0.02, 0.01) if number == 23 else powers:
            yield cash(number, eps)


# ------------------------------------------------------------------------- problems with figures known to many digits


def bratu(strength: float = 1.0, *, upper: bool = False) -> BoundaryProblem:
    """y'' + strength exp(y) = 0, y(0) = y(1) = 0: two solutions for strength < 3.5138, here with their y'(0).

    y = -2 log(cosh((t - 1/2) θ/2) / cosh(θ/4)), θ = sqrt(2 strength) cosh(θ/4) (Ascher, Mattheij, Russell 1995). The
    guess for the upper one is a parabola of height 4.
    """
    middle = 4.79871456103
    bracket = (middle, 20.0) if upper else (0.0, middle)
    θ = brentq(lambda x: x - np.sqrt(2 * strength) * np.cosh(x / 4), *bracket, xtol=1e-15, rtol=1e-15)

    def exact(t: Array) -> Array:
        return -2 * np.log(np.cosh((t - 0.5) * θ / 2) / np.cosh(θ / 4))

    problem = scalar(
        "Bratu, upper" if upper else "Bratu, lower",
        strength,
        (0.0, 1.0),
        (0, 0),
        lambda t, y, p: (-strength * np.exp(y), -strength * np.exp(y), 0.0),
        exact,
        lambda t: 1.0,
    )
    start = (lambda t: (16 * t * (1 - t))[:, None]) if upper else None
    return replace(problem, start=start, figure=lambda y, _: float(y[0, 0, 1]), value=float(θ * np.tanh(θ / 4)))


def falkner_skan(β: float, value: float, length: float = 10.0) -> BoundaryProblem:
    """f''' + f f'' + β (1 - f'^2) = 0, f = f' = 0 at 0 and f' = 1 far away, here with f''(0)."""

    def residual(t: Array, y: Array) -> tuple[Array, Array]:
        f, f1, f2, f3 = y[:, 0].T
        J = np.stack([f2, -2 * β * f1, f, np.ones_like(f)], -1)[:, None, None]
        return (f3 + f * f2 + β * (1 - f1 * f1))[:, None], J

    def explicit(t: Array, z: Array) -> tuple[Array, Array]:
        f, f1, f2 = z
        return (-f * f2 - β * (1 - f1 * f1))[None], np.stack([-f2, 2 * β * f1, -f])[None]

    return BoundaryProblem(
        f"Falkner-Skan, β = {β:g}",
        β,
        (3,),
        residual,
        explicit,
        (0.0, length),
        ((0, 0, 0, 0.0), (0, 0, 1, 0.0), (1, 0, 1, 1.0)),
        start=lambda t: (t * t / (2 * length))[:, None],
        figure=lambda y, _: float(y[0, 0, 2]),
        value=value,
    )


def eigenvalue_problem(
    name: str,
    potential: Function,
    ends: tuple[float, float],
    boundary: tuple[tuple[int, int, int, float], ...],
    guess: float,
    start: Function,
    value: float,
) -> BoundaryProblem:
    """y'' = (potential(t) - λ) y with three conditions, one of which sets the size of y; λ is an unknown constant."""

    def residual(t: Array, y: Array, constants: Array) -> tuple[Array, Array, Array]:
        q = constants[0] - potential(t)
        J = np.zeros((t.size, 1, 1, 3))
        J[:, 0, 0, 0], J[:, 0, 0, 2] = q, 1
        return (y[:, 0, 2] + q * y[:, 0, 0])[:, None], J, y[:, 0, 0][:, None, None].copy()

    def explicit(t: Array, z: Array, constants: Array) -> tuple[Array, Array, Array]:
        q = potential(t) - constants[0]
        return (q * z[0])[None], np.stack([q, 0 * q])[None], -z[0][None, None]

    return BoundaryProblem(
        name,
        1.0,
        (2,),
        residual,
        explicit,
        ends,
        boundary,
        constants=(guess,),
        start=lambda t: start(t)[:, None],
        figure=lambda _, constants: float(constants[0]),
        value=value,
    )


def mathieu(m: int, guess: float, q: float = 5.0) -> BoundaryProblem:
    """y'' + (a - 2 q cos 2t) y = 0, y'(0) = y'(π) = 0, y(0) = 1: the even periodic solution number m."""
    return eigenvalue_problem(
        f"Mathieu, a{m}({q:g})",
        lambda t: 2 * q * np.cos(2 * t),
        (0.0, PI),
        ((0, 0, 0, 1.0), (0, 0, 1, 0.0), (1, 0, 1, 0.0)),
        guess,
        lambda t: np.cos(m * t),
        mathieu_characteristic(m, q),
    )


def mathieu_characteristic(m: int, q: float, terms: int = 60) -> float:
    """a_m(q), the eigenvalue of the recurrence of Fourier coefficients (McLachlan 1947, chapter 3)."""
    harmonics = np.arange(m % 2, 2 * terms, 2)
    matrix = np.diag(harmonics.astype(float) ** 2) + q * (np.eye(terms, k=1) + np.eye(terms, k=-1))
    if m % 2:
        matrix[0, 0] += q
    else:
        matrix[0, 1] = matrix[1, 0] = np.sqrt(2) * q
    return float(np.linalg.eigvalsh(matrix)[m // 2])


def sturm_liouville(index: int, guess: float) -> BoundaryProblem:
    """-y'' + exp(t) y = λ y, y(0) = y(π) = 0, y'(0) = 1 (Paine, de Hoog, Anderssen 1981)."""
    return eigenvalue_problem(
        f"Sturm-Liouville, λ{index}",
        np.exp,
        (0.0, PI),
        ((0, 0, 0, 0.0), (0, 0, 1, 1.0), (1, 0, 0, 0.0)),
        guess,
        lambda t: np.sin((index + 1) * t) / (index + 1),
        float(sturm_liouville_eigenvalues(np.exp, (0.0, PI))[index]),
    )


def sturm_liouville_eigenvalues(potential: Function, ends: tuple[float, float], points: int = 80) -> Array:
    """Of -y'' + potential y = λ y with y = 0 at the ends, by Chebyshev collocation (Trefethen 2000, chapter 9)."""
    x = np.cos(PI * np.arange(points + 1) / points)
    c = np.r_[2, np.ones(points - 1), 2] * (-1) ** np.arange(points + 1)
    D = np.outer(c, 1 / c) / (x[:, None] - x + np.eye(points + 1))
    D -= np.diag(D.sum(1))
    width = (ends[1] - ends[0]) / 2
    t = ends[0] + width * (x + 1)
    operator = -(D @ D / width**2) + np.diag(potential(t))
    return np.sort(np.linalg.eigvals(operator[1:-1, 1:-1]).real)


def periodic(fixed: tuple[int, int, float], V: int, R: int) -> Callable[[Array], tuple[Array, Array]]:
    """All states equal at both ends, and one of them at the left end: variable, derivative, value."""
    places = [(v, r) for v in range(V) for r in range(R)]

    def conditions(y: Array) -> tuple[Array, Array]:
        v, r, value = fixed
        residuals = np.r_[[y[1, u, s] - y[0, u, s] for u, s in places], y[0, v, r] - value]
        J = np.zeros((len(places) + 1, 2, V, R))
        for row, place in enumerate(places):
            J[row, 1, *place], J[row, 0, *place] = 1, -1
        J[-1, 0, v, r] = 1
        return residuals, J

    return conditions


def limit_cycle(μ: float = 2.0) -> BoundaryProblem:
    """Van der Pol's periodic solution in the time τ = t / T: y'' = T μ (1 - y^2) y' - T^2 y, y'(0) = 0.

    From 2 cos 2πτ, T = 6. With μ = 2, T = 7.62987447967481 by DOP853 at 3e-14, 26 turns.
    """

    def parts(y: Array, p: Array, T: float) -> tuple[Array, Array, Array, Array]:
        return (
            T * μ * (1 - y * y) * p - T * T * y,
            -2 * T * μ * y * p - T * T,
            T * μ * (1 - y * y),
            μ * (1 - y * y) * p - 2 * T * y,
        )

    def residual(t: Array, y: Array, constants: Array) -> tuple[Array, Array, Array]:
        g, by_y, by_p, by_T = parts(y[:, 0, 0], y[:, 0, 1], constants[0])
        J = np.stack([-by_y, -by_p, np.ones_like(g)], -1)[:, None, None]
        return (y[:, 0, 2] - g)[:, None], J, -by_T[:, None, None]

    def explicit(t: Array, z: Array, constants: Array) -> tuple[Array, Array, Array]:
        g, by_y, by_p, by_T = parts(*z, constants[0])
        return g[None], np.stack([by_y, by_p])[None], by_T[None, None]

    return BoundaryProblem(
        f"van der Pol, μ = {μ:g}",
        μ,
        (2,),
        residual,
        explicit,
        (0.0, 1.0),
        coupled=periodic((0, 1, 0.0), 1, 2),
        constants=(6.0,),
        start=lambda t: 2 * np.cos(2 * PI * t)[:, None],
        figure=lambda _, constants: float(constants[0]),
        value=7.62987447967481,
    )


def lorenz_orbit() -> BoundaryProblem:
    """The shortest periodic orbit of the Lorenz attractor, once around each wing, in the time τ = t / T; z(0) = 27.

    T = 1.55865221071617 (Viswanath 2003, orbit AB). From a figure of eight in x and y.
    """
    σ, ρ, β = 10.0, 28.0, 8 / 3

    def field(x: Array, y: Array, z: Array) -> Array:
        return np.stack([σ * (y - x), x * (ρ - z) - y, x * y - β * z])

    def by_state(x: Array, y: Array, z: Array) -> Array:
        J = np.zeros((3, 3, *x.shape))
        J[0, 0], J[0, 1] = -σ, σ
        J[1, 0], J[1, 1], J[1, 2] = ρ - z, -1, -x
        J[2, 0], J[2, 1], J[2, 2] = y, x, -β
        return J

    def residual(t: Array, y: Array, constants: Array) -> tuple[Array, Array, Array]:
        state, T = y[..., 0].T, constants[0]
        F, J = field(*state), np.zeros((t.size, 3, 3, 2))
        J[..., 0], J[:, range(3), range(3), 1] = -T * np.moveaxis(by_state(*state), -1, 0), 1
        return y[..., 1] - T * F.T, J, -F.T[..., None]

    def explicit(t: Array, z: Array, constants: Array) -> tuple[Array, Array, Array]:
        F = field(*z)
        return constants[0] * F, constants[0] * by_state(*z), F[:, None]

    def eight(t: Array) -> Array:
        a = 2 * PI * t
        return np.stack([-13 * np.cos(a), -14 * np.cos(a) + 5 * np.sin(a), 27 - 12 * np.sin(2 * a)], -1)

    return BoundaryProblem(
        "Lorenz, periodic",
        1.0,
        (1, 1, 1),
        residual,
        explicit,
        (0.0, 1.0),
        coupled=periodic((2, 0, 27.0), 3, 1),
        constants=(1.5,),
        start=eight,
        figure=lambda _, constants: float(constants[0]),
        value=1.5586522107161747,
    )
