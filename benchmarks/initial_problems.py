"""Initial-value problems to measure solvers with, and values at their ends.

Source, where no other is named: the test set for IVP solvers of W. Lioen, J. de Swart, F. Mazzia and C. Magherini
(archimede.uniba.it/~testset), and E. Hairer and G. Wanner, Solving Ordinary Differential Equations I and II. Values at
the ends are those published there, closed forms, or computed: Radau and DOP853 (or LSODA) of SciPy at tolerances of
1e-13, as far as they agree (`python -m benchmarks.initial --references`).

A problem is data: formulas for the highest derivatives that take numbers, arrays and traced arrays alike, and their
derivatives. What each solver wants follows from these: `InitialProblem.residual` for `smnn_core.solve`,
`InitialProblem.derivatives` and `jacobian_matrix` for SciPy.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf, pi
from typing import Any

import numpy as np
from scipy.special import ellipj, lambertw

import smnn_core as smnn

__all__ = ["InitialProblem", "batch_field", "initial_problems", "pendulum", "transistor_amplifier"]

Array = np.ndarray
Field = Callable[[Any, Sequence[Any], Any], Sequence[Any]]
"""t, states, module of functions (numpy, math or jax.numpy) -> the highest derivatives"""
Entries = dict[tuple[int, int], Any]
"""row and column -> value, of a matrix most of whose entries are zero"""


@dataclass(frozen=True)
class InitialProblem:
    """V variables of one order, R = 1 or 2; states are the V variables, then their V first derivatives where R = 2."""

    name: str
    start: tuple[float, ...]
    end: float
    field: Field
    """t, states, xp -> V highest derivatives"""
    jacobian: Callable[[Any, Sequence[Any], Any], Entries]
    """t, states, xp -> entries (variable, state) of their derivatives"""
    reference: tuple[float, ...]
    """the states at the end, or the first of them"""
    largest: tuple[float, ...]
    """absolute value of each of these on the way, roughly"""
    order: int = 1
    stiff: bool = True
    checks: tuple[tuple[float, tuple[float, ...]], ...] = ()
    """further times and states there"""
    digits: int = 12
    """to which the reference is known"""
    band: int | None = None
    """half width of the Jacobian"""
    absolute: float = 0.0
    """an error that counts for nothing, where the start says nothing about sizes"""

    @property
    def variables(self) -> int:
        return len(self.start) // self.order

    @property
    def times(self) -> Array:
        """Times at which the solution is known, the last one the end."""
        return np.array([*(t for t, _ in self.checks), self.end])

    def error(self, states: Array) -> float:
        """Of states (number of times, S): relative to the reference, at least to a thousandth of the largest value."""
        known = np.array([*(x for _, x in self.checks), self.reference])
        m = known.shape[1]
        difference = np.abs(states[:, :m] - known) / np.maximum(np.abs(known), 1e-3 * np.array(self.largest[:m]))
        return float(difference.max()) if np.isfinite(difference).all() else np.inf

    # ------------------------------------------------------------------------------------------ for smnn_core.solve

    @property
    def conditions(self) -> Array:
        """(V, R) at time 0."""
        return np.array(self.start).reshape(self.order, -1).T.copy()

    def residual(self, t: Array, y: Array) -> tuple[Array, Any]:
        """t (n,), y (n, V, R + 1) -> f (n, V), ∂f/∂y (n, V, V, R + 1)."""
        V, R = self.variables, self.order
        z = [y[:, v, r] for r in range(R) for v in range(V)]
        f = y[..., R] - np.stack(np.broadcast_arrays(*self.field(t, z, np)), -1)
        if self.band:
            places = np.array(list(entries := self.jacobian(t, z, np)))
            own = np.arange(V)
            values = np.ones((t.size, len(places) + V))
            for i, value in enumerate(entries.values()):
                values[:, i] = -value
            return f, smnn.SparseJacobian(
                np.append(places[:, 0], own), np.append(places[:, 1], own), np.repeat([0, 1], [len(places), V]), values
            )
        J = np.zeros((t.size, V, V, R + 1))
        J[:, range(V), range(V), R] = 1
        for (row, column), value in self.jacobian(t, z, np).items():
            J[:, row, column % V, column // V] -= value
        return f, J

    def states(self, y: Array) -> Array:
        """y (n, V, R + 1) -> (n, S)."""
        return np.concatenate([y[..., r] for r in range(self.order)], -1)

    # ------------------------------------------------------------------------------------------------------ for SciPy

    def derivatives(self, t: float, z: Array) -> list[Any]:
        z = z.tolist()
        return [*z[self.variables :], *self.field(t, z, FLOATS)] if self.order == 2 else list(self.field(t, z, FLOATS))

    def jacobian_matrix(self, t: float, z: Array) -> Array:
        V, S = self.variables, len(self.start)
        J = np.zeros((S, S))
        if self.order == 2:
            J[range(V), range(V, S)] = 1
        for (row, column), value in self.jacobian(t, z.tolist(), FLOATS).items():
            J[row + S - V, column] = value
        return J


class FLOATS:
    """The functions of `math` under the names of NumPy: many times faster on single numbers."""

    from math import exp as _exp
    from math import sin as _sin

    exp = staticmethod(lambda x: FLOATS._exp(x) if x < 709 else inf)
    sin, where = staticmethod(_sin), staticmethod(lambda c, a, b: a if c else b)


# --------------------------------------------------------------------------------------------------- chemical kinetics


def robertson(end: float, reference: tuple[float, ...]) -> InitialProblem:
    """A slow, a fast and a very fast reaction; b settles within 1e-3."""

    def field(t: Any, z: Any, xp: Any) -> Any:
        a, b, c = z
        slow, back, fast = 0.04 * a, 1e4 * b * c, 3e7 * b * b
        return back - slow, slow - back - fast, fast

    def jacobian(t: Any, z: Any, xp: Any) -> Entries:
        _, b, c = z
        return {
            (0, 0): -0.04, (0, 1): 1e4 * c, (0, 2): 1e4 * b,
            (1, 0): 0.04, (1, 1): -1e4 * c - 6e7 * b, (1, 2): -1e4 * b,
            (2, 1): 6e7 * b,
        }  # fmt: skip

    return InitialProblem(
        f"Robertson to {end:.0e}", (1.0, 0.0, 0.0), end, field, jacobian, reference, (1.0, 3.65e-5, 1.0)
    )


def hires() -> InitialProblem:
    """High irradiance responses of photomorphogenesis (Schäfer 1975), 8 substances."""

    def field(t: Any, z: Any, xp: Any) -> Any:
        a, b, c, d, e, f, g, h = z
        dimer, release = 280 * f * h, 1.81 * g
        return (
            -1.71 * a + 0.43 * b + 8.32 * c + 0.0007,
            1.71 * a - 8.75 * b,
            -10.03 * c + 0.43 * d + 0.035 * e,
            8.32 * b + 1.71 * c - 1.12 * d,
            -1.745 * e + 0.43 * f + 0.43 * g,
            -dimer + 0.69 * d + 1.71 * e - 0.43 * f + 0.69 * g,
            dimer - release,
            release - dimer,
        )

    def jacobian(t: Any, z: Any, xp: Any) -> Entries:
        *_, f, _, h = z
        return {
            (0, 0): -1.71, (0, 1): 0.43, (0, 2): 8.32,
            (1, 0): 1.71, (1, 1): -8.75,
            (2, 2): -10.03, (2, 3): 0.43, (2, 4): 0.035,
            (3, 1): 8.32, (3, 2): 1.71, (3, 3): -1.12,
            (4, 4): -1.745, (4, 5): 0.43, (4, 6): 0.43,
            (5, 3): 0.69, (5, 4): 1.71, (5, 5): -280 * h - 0.43, (5, 6): 0.69, (5, 7): -280 * f,
            (6, 5): 280 * h, (6, 6): -1.81, (6, 7): 280 * f,
            (7, 5): -280 * h, (7, 6): 1.81, (7, 7): -280 * f,
        }  # fmt: skip

    return InitialProblem(
        "HIRES",
        (1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0057),
        321.8122,
        field,
        jacobian,
        (
            0.7371312573325668e-3, 0.1442485726316185e-3, 0.5888729740967575e-4, 0.1175651343283149e-2,
            0.2386356198831331e-2, 0.6238968252742796e-2, 0.2849998395185769e-2, 0.2850001604814231e-2,
        ),
        (1.0, 0.16, 0.037, 0.42, 0.32, 0.64, 0.0057, 0.0057),
    )  # fmt: skip


def oregonator() -> InitialProblem:
    """The Belousov-Zhabotinskii reaction (Field, Noyes 1974) to t = 360."""
    s, q, w = 77.27, 8.375e-6, 0.161

    def field(t: Any, z: Any, xp: Any) -> Any:
        a, b, c = z
        return s * (b + a * (1 - q * a - b)), (c - (1 + a) * b) / s, w * (a - c)

    def jacobian(t: Any, z: Any, xp: Any) -> Entries:
        a, b, _ = z
        return {
            (0, 0): s * (1 - 2 * q * a - b), (0, 1): s * (1 - a),
            (1, 0): -b / s, (1, 1): -(1 + a) / s, (1, 2): 1 / s,
            (2, 0): w, (2, 2): -w,
        }  # fmt: skip

    reference = (0.1000814870318523e1, 0.1228178521549917e4, 0.1320554942846706e3)
    return InitialProblem(
        "Oregonator", (1.0, 2.0, 3.0), 360.0, field, jacobian, reference, (1.18e5, 1.8e3, 3.1e4), digits=10
    )


def e5() -> InitialProblem:
    """A pyrolysis to t = 1e13; the first substance is gone by then, and so is the fourth."""
    A, B, C, M = 7.89e-10, 1.1e7, 1.13e3, 1e6

    def field(t: Any, z: Any, xp: Any) -> Any:
        a, b, c, d = z
        split, meet, join, part = A * a, B * a * c, M * C * b * c, C * d
        return -split - meet, split - join, split - meet - join + part, meet - part

    def jacobian(t: Any, z: Any, xp: Any) -> Entries:
        a, b, c, _ = z
        return {
            (0, 0): -A - B * c, (0, 2): -B * a,
            (1, 0): A, (1, 1): -M * C * c, (1, 2): -M * C * b,
            (2, 0): A - B * c, (2, 1): -M * C * c, (2, 2): -B * a - M * C * b, (2, 3): C,
            (3, 0): B * c, (3, 2): B * a, (3, 3): -C,
        }  # fmt: skip

    reference = (0.1152903278711829e-290, 0.8867655517642120e-22, 0.8854814626268838e-22, 0.0)
    return InitialProblem(
        "E5", (1.76e-3, 0.0, 0.0, 0.0), 1e13, field, jacobian, reference, (1.76e-3, 1.4e-10, 8.3e-12, 1.4e-10)
    )


REACTIONS = (
    # rate constant, reactants, substances lost and gained; substances are counted from 1 as in the source
    (0.35, (1,), (-1, 2, 3)),
    (26.6, (2, 4), (-2, -4, 1)),
    (1.23e4, (5, 2), (-5, -2, 6, 1)),
    (8.6e-4, (7,), (-7, 5, 5, 8)),
    (8.2e-4, (7,), (-7, 8)),
    (1.5e4, (7, 6), (-7, -6, 5, 8)),
    (1.3e-4, (9,), (-9, 10, 5, 8)),
    (2.4e4, (9, 6), (-9, -6, 11)),
    (1.65e4, (11, 2), (-11, -2, 10, 12, 1)),
    (9e3, (11, 1), (-11, -1, 13)),
    (0.022, (13,), (-13, 11, 1)),
    (1.2e4, (10, 2), (-10, -2, 14, 1)),
    (1.88, (14,), (-14, 7, 5)),
    (1.63e4, (1, 6), (-1, -6, 15)),
    (4.8e6, (3,), (-3, 4)),
    (3.5e-4, (4,), (-4, 16)),
    (0.0175, (4,), (-4, 3)),
    (1e8, (16,), (-16, 6, 6)),
    (4.44e11, (16,), (-16, 3)),
    (1240.0, (17, 6), (-17, -6, 18, 5)),
    (2.1, (19,), (-19, 2)),
    (5.78, (19,), (-19, 1, 3)),
    (0.0474, (1, 4), (-1, -4, 19)),
    (1780.0, (19, 1), (-19, -1, 20)),
    (3.12, (20,), (-20, 1, 19)),
)  # fmt: skip


def pollution() -> InitialProblem:
    """Air pollution, 25 reactions of 20 substances (Verwer 1994), in 60 minutes."""
    changes = [[(abs(x) - 1, 1 if x > 0 else -1) for x in products] for _, _, products in REACTIONS]

    def field(t: Any, z: Any, xp: Any) -> Any:
        out: list[Any] = [0.0 * z[0]] * 20
        for (k, (i, *more), _), change in zip(REACTIONS, changes, strict=True):
            rate = k * z[i - 1] * z[more[0] - 1] if more else k * z[i - 1]
            for substance, sign in change:
                out[substance] = out[substance] + rate if sign > 0 else out[substance] - rate
        return out

    def jacobian(t: Any, z: Any, xp: Any) -> Entries:
        entries: Entries = {}
        for (k, (i, *more), _), change in zip(REACTIONS, changes, strict=True):
            slopes = {i - 1: k * z[more[0] - 1], more[0] - 1: k * z[i - 1]} if more else {i - 1: k}
            for substance, sign in change:
                for column, slope in slopes.items():
                    entries[substance, column] = entries.get((substance, column), 0.0) + sign * slope
        return entries

    start = np.zeros(20)
    start[[1, 3, 6, 7, 8, 16]] = 0.2, 0.04, 0.1, 0.3, 0.01, 0.007
    reference = (
        0.5646255480022769e-1, 0.1342484130422339, 0.4139734331099427e-8, 0.5523140207484359e-2,
        0.2018977262302196e-6, 0.1464541863493966e-6, 0.7784249118997964e-1, 0.3245075353396018,
        0.7494013383880406e-2, 0.1622293157301561e-7, 0.1135863833257075e-7, 0.2230505975721359e-2,
        0.2087162882798630e-3, 0.1396921016840158e-4, 0.8964884856898295e-2, 0.4352846369330103e-17,
        0.6899219696263405e-2, 0.1007803037365946e-3, 0.1772146513969984e-5, 0.5682943292316392e-4,
    )  # fmt: skip
    return InitialProblem(
        "Pollution", tuple(start.tolist()), 60.0, field, jacobian, reference, tuple(np.abs(reference).tolist())
    )


# -------------------------------------------------------------------------------------------------------- oscillations


def van_der_pol(μ: float, end: float, reference: tuple[float, float], largest: float) -> InitialProblem:
    """y'' = μ (1 - y^2) y' - y."""

    def field(t: Any, z: Any, xp: Any) -> Any:
        y, p = z
        return (μ * (1 - y * y) * p - y,)

    def jacobian(t: Any, z: Any, xp: Any) -> Entries:
        y, p = z
        return {(0, 0): -2 * μ * y * p - 1, (0, 1): μ * (1 - y * y)}

    return InitialProblem(
        f"van der Pol, μ = {μ:.0e}", (2.0, 0.0), end, field, jacobian, reference, (2.0, largest), 2, digits=11
    )


def van_der_pol_scaled() -> InitialProblem:
    """1e-6 y'' = (1 - y^2) y' - y to t = 2."""

    def field(t: Any, z: Any, xp: Any) -> Any:
        y, p = z
        return (1e6 * ((1 - y * y) * p - y),)

    def jacobian(t: Any, z: Any, xp: Any) -> Entries:
        y, p = z
        return {(0, 0): 1e6 * (-2 * y * p - 1), (0, 1): 1e6 * (1 - y * y)}

    reference = (0.1706167732170469e1, -0.8928097010248125e0)
    return InitialProblem("van der Pol, 1e-6", (2.0, 0.0), 2.0, field, jacobian, reference, (2.0, 1.3e6), 2, digits=11)


def batch_field(y: Any, p: Any, μ: Any) -> Any:
    """y'' = μ^2 ((1 - y^2) y' - y): van der Pol's equation in the time t / μ, of the batch with μ = 1 to 1,000."""
    return μ * μ * ((1 - y * y) * p - y)


def lorenz() -> InitialProblem:
    """From (1, 1, 1) to t = 20, along which errors grow 1e8 times."""

    def field(t: Any, z: Any, xp: Any) -> Any:
        a, b, c = z
        return 10 * (b - a), a * (28 - c) - b, a * b - 8 / 3 * c

    def jacobian(t: Any, z: Any, xp: Any) -> Entries:
        a, b, c = z
        return {
            (0, 0): -10.0, (0, 1): 10.0,
            (1, 0): 28 - c, (1, 1): -1.0, (1, 2): -a,
            (2, 0): b, (2, 1): a, (2, 2): -8 / 3,
        }  # fmt: skip

    return InitialProblem(
        "Lorenz to 20", (1.0, 1.0, 1.0), 20.0, field, jacobian, LORENZ, (19.0, 26.0, 47.0), stiff=False, digits=9
    )


def arenstorf() -> InitialProblem:
    """A periodic orbit of a body between earth and moon (Hairer, Nørsett, Wanner 1993, II.0), back where it began."""
    μ, period = 0.012277471, 17.0652165601579625588917206249
    start = (0.994, 0.0, 0.0, -2.00158510637908252240537862224)

    def pulls(x: Any, y: Any) -> tuple[Any, Any, Any, Any]:
        moon, earth = (x + μ) ** 2 + y * y, (x - 1 + μ) ** 2 + y * y
        return (1 - μ) * moon**-1.5, μ * earth**-1.5, 3 * (1 - μ) * moon**-2.5, 3 * μ * earth**-2.5

    def field(t: Any, z: Any, xp: Any) -> Any:
        x, y, u, v = z
        a, b, _, _ = pulls(x, y)
        return x + 2 * v - a * (x + μ) - b * (x - 1 + μ), y - 2 * u - (a + b) * y

    def jacobian(t: Any, z: Any, xp: Any) -> Entries:
        x, y, _, _ = z
        a, b, c, d = pulls(x, y)
        p, q = x + μ, x - 1 + μ
        mixed = (c * p + d * q) * y
        return {
            (0, 0): 1 - a - b + c * p * p + d * q * q, (0, 1): mixed, (0, 3): 2.0,
            (1, 0): mixed, (1, 1): 1 - a - b + (c + d) * y * y, (1, 2): -2.0,
        }  # fmt: skip

    return InitialProblem(
        "Arenstorf", start, period, field, jacobian, start, (1.3, 1.1, 1.8, 2.1), 2, stiff=False, digits=10
    )


def pleiades() -> InitialProblem:
    """Seven stars in a plane, of masses 1 to 7, to t = 3; states are x, y, x', y'."""
    n = 7

    def field(t: Any, z: Any, xp: Any) -> Any:
        x, y = z[:n], z[n : 2 * n]
        ax, ay = [0.0 * x[0]] * n, [0.0 * x[0]] * n
        for i in range(n):
            for j in range(i):
                dx, dy = x[j] - x[i], y[j] - y[i]
                pull = (dx * dx + dy * dy) ** -1.5
                px, py = pull * dx, pull * dy
                ax[i], ay[i] = ax[i] + (j + 1) * px, ay[i] + (j + 1) * py
                ax[j], ay[j] = ax[j] - (i + 1) * px, ay[j] - (i + 1) * py
        return [*ax, *ay]

    def jacobian(t: Any, z: Any, xp: Any) -> Entries:
        x, y = z[:n], z[n : 2 * n]
        entries: Entries = {}
        for i in range(n):
            for j in range(i):
                dx, dy = x[j] - x[i], y[j] - y[i]
                square = dx * dx + dy * dy
                pull, steep = square**-1.5, 3 * square**-2.5
                block = (pull - steep * dx * dx, -steep * dx * dy, pull - steep * dy * dy)
                for row, column, mass in ((i, j, j + 1), (j, i, i + 1)):
                    for (p, q), value in zip(((0, 0), (0, 1), (1, 1)), block, strict=True):
                        for r, c in {(p, q), (q, p)}:
                            there, here = (row + n * r, column + n * c), (row + n * r, row + n * c)
                            entries[there] = mass * value
                            entries[here] = entries.get(here, 0.0) - mass * value
        return entries

    start = (
        3, 3, -1, -3, 2, -2, 2,  3, -3, 2, 0, 0, -4, 4,
        0, 0, 0, 0, 0, 1.75, -1.5,  0, 0, 0, -1.25, 1, 0, 0,
    )  # fmt: skip
    reference = (
        0.3706139143970502, 3.237284092057233, -3.222559032418324, 0.6597091455775310, 0.3425581707156584,
        1.562172101400631, -0.7003092922212495, -3.943437585517392, -3.271380973972550, 5.225081843456543,
        -2.590612434977470, 1.198213693392275, -0.2429682344935824, 1.091449240428980, 3.417003806314313,
        1.354584501625501, -2.590065597810775, 2.025053734714242, -1.155815100160448, -0.8072988170223021,
        0.5952396354208710, -3.741244961234010, 0.3773459685750630, 0.9386858869551073, 0.3667922227200571,
        -0.3474046353808490, 2.344915448180937, -1.947020434263292,
    )  # fmt: skip
    return InitialProblem(
        "Pleiades",
        tuple(map(float, start)),
        3.0,
        field,
        jacobian,
        reference,
        tuple(np.maximum(np.abs(reference), np.abs(start)).tolist()),
        2,
        stiff=False,
    )


# ---------------------------------------------------------------------------------------------------------- and others


def flame(δ: float = 1e-4) -> InitialProblem:
    """y' = y^2 - y^3, y(0) = δ, to 2/δ (Shampine, Gladwell, Thompson 2003).

    y = 1 / (1 + W(a exp(a - t))), a = 1/δ - 1.
    """

    def exact(t: float) -> tuple[float, ...]:
        a = 1 / δ - 1
        # W(exp(x)) of large x: w + log w = x by Newton's method
        x = a + np.log(a) - t
        w = lambertw(np.exp(x)).real if x < 500 else x - np.log(x)
        for _ in range(5):
            w -= (w + np.log(w) - x) / (1 + 1 / w) if w > 0 else 0
        return (float(1 / (1 + w)),)

    return InitialProblem(
        f"Flame, δ = {δ:.0e}",
        (δ,),
        2 / δ,
        lambda t, z, xp: (z[0] ** 2 - z[0] ** 3,),
        lambda t, z, xp: {(0, 0): 2 * z[0] - 3 * z[0] ** 2},
        exact(2 / δ),
        (1.0,),
        checks=((1 / δ, exact(1 / δ)),),
    )


def brusselator(N: int) -> InitialProblem:
    """Two substances that diffuse along a line of N points (Hairer, Wanner 1996, IV.1), to t = 10; u and v in turn."""
    α = 0.02 * (N + 1) ** 2

    def field(t: Any, z: Any, xp: Any) -> Any:
        u, v = [1.0, *z[::2], 1.0], [3.0, *z[1::2], 3.0]
        out = []
        for i in range(1, N + 1):
            grow = u[i] * u[i] * v[i]
            out.append(1 + grow - 4 * u[i] + α * (u[i - 1] - 2 * u[i] + u[i + 1]))
            out.append(3 * u[i] - grow + α * (v[i - 1] - 2 * v[i] + v[i + 1]))
        return out

    def jacobian(t: Any, z: Any, xp: Any) -> Entries:
        entries: Entries = {}
        for i in range(0, 2 * N, 2):
            u, v = z[i], z[i + 1]
            entries[i, i], entries[i, i + 1] = 2 * u * v - 4 - 2 * α, u * u
            entries[i + 1, i], entries[i + 1, i + 1] = 3 - 2 * u * v, -u * u - 2 * α
            for row in (i, i + 1):
                if i > 0:
                    entries[row, row - 2] = α
                if i < 2 * N - 2:
                    entries[row, row + 2] = α
        return entries

    x = np.arange(1, N + 1) / (N + 1)
    start = np.stack([1 + np.sin(2 * pi * x), np.full(N, 3.0)], -1).ravel()
    return InitialProblem(
        f"Brusselator, N = {N}",
        tuple(start.tolist()),
        10.0,
        field,
        jacobian,
        BRUSSELATOR[N],
        (4.0, 4.5) * N,
        band=2,
    )


def ring_modulator() -> InitialProblem:
    """An electrical circuit of 15 variables (Horneber 1976; Cs = 2e-12) to t = 1e-3, driven at 1 and at 10 kHz."""
    C, Cs, Cp, R, Rp, Lh = 1.6e-8, 2e-12, 1e-8, 25e3, 50.0, 4.45
    L1, L2, L3, G1, G2, G3, Ri, Rc = 2e-3, 5e-4, 5e-4, 36.3, 17.3, 17.3, 50.0, 600.0
    γ, δ = 40.67286402e-9, 17.7493332
    # voltages across the four diodes: coefficients of y3..y7 and of the input
    diodes = ((1, 0, -1, 0, -1, -1), (0, -1, 0, 1, -1, -1), (0, 1, 1, 0, 1, 1), (-1, 0, 0, -1, 1, 1))
    # their currents in the equations of y3..y7
    into = ((-1, 0, 0, 1), (0, 1, -1, 0), (1, 0, -1, 0), (0, -1, 0, 1), (1, 1, -1, -1))
    capacities = (Cs, Cs, Cs, Cs, Cp)

    def exponentials(t: Any, z: Any, xp: Any) -> list[Any]:
        drive = 2 * xp.sin(2e4 * pi * t)
        return [
            xp.exp(δ * (sum(c * x for c, x in zip(row, z[2:7], strict=False) if c) + row[5] * drive)) for row in diodes
        ]

    def field(t: Any, z: Any, xp: Any) -> Any:
        y1, y2, y3, y4, y5, y6, y7, y8, y9, y10, y11, y12, y13, y14, y15 = z
        currents = [γ * (x - 1) for x in exponentials(t, z, xp)]
        outside = y10, -y11, y12, -y13, -y7 / Rp
        return (
            (y8 - 0.5 * y10 + 0.5 * y11 + y14 - y1 / R) / C,
            (y9 - 0.5 * y12 + 0.5 * y13 + y15 - y2 / R) / C,
            *(
                (o + sum(c * q for c, q in zip(row, currents, strict=True) if c)) / capacity
                for o, row, capacity in zip(outside, into, capacities, strict=True)
            ),
            -y1 / Lh,
            -y2 / Lh,
            (0.5 * y1 - y3 - G2 * y10) / L2,
            (-0.5 * y1 + y4 - G3 * y11) / L3,
            (0.5 * y2 - y5 - G2 * y12) / L2,
            (-0.5 * y2 + y6 - G3 * y13) / L3,
            (-y1 + 0.5 * xp.sin(2e3 * pi * t) - (Ri + G1) * y14) / L1,
            (-y2 - (Rc + G1) * y15) / L1,
        )

    constant: Entries = {
        (0, 0): -1 / (R * C), (0, 7): 1 / C, (0, 9): -0.5 / C, (0, 10): 0.5 / C, (0, 13): 1 / C,
        (1, 1): -1 / (R * C), (1, 8): 1 / C, (1, 11): -0.5 / C, (1, 12): 0.5 / C, (1, 14): 1 / C,
        (2, 9): 1 / Cs, (3, 10): -1 / Cs, (4, 11): 1 / Cs, (5, 12): -1 / Cs, (6, 6): -1 / (Rp * Cp),
        (7, 0): -1 / Lh, (8, 1): -1 / Lh,
        (9, 0): 0.5 / L2, (9, 2): -1 / L2, (9, 9): -G2 / L2,
        (10, 0): -0.5 / L3, (10, 3): 1 / L3, (10, 10): -G3 / L3,
        (11, 1): 0.5 / L2, (11, 4): -1 / L2, (11, 11): -G2 / L2,
        (12, 1): -0.5 / L3, (12, 5): 1 / L3, (12, 12): -G3 / L3,
        (13, 0): -1 / L1, (13, 13): -(Ri + G1) / L1, (14, 1): -1 / L1, (14, 14): -(Rc + G1) / L1,
    }  # fmt: skip

    def jacobian(t: Any, z: Any, xp: Any) -> Entries:
        slopes = [γ * δ * x for x in exponentials(t, z, xp)]
        entries = dict(constant)
        for row, (signs, capacity) in enumerate(zip(into, capacities, strict=True), 2):
            for sign, diode, slope in zip(signs, diodes, slopes, strict=True):
                for column, c in enumerate(diode[:5], 2):
                    if sign * c:
                        entries[row, column] = entries.get((row, column), 0.0) + sign * c * slope / capacity
        return entries

    reference = (
        -0.2339057358486745e-1, -0.7367485485540825e-2, 0.2582956709291169, -0.4064465721283450,
        -0.4039455665149794, 0.2607966765422943, 0.1106761861269975, 0.2939904342435596e-6,
        -0.2840029933642329e-7, 0.7267198267264553e-3, 0.7929487196960840e-3, -0.7255283495698965e-3,
        -0.7941401968526521e-3, 0.7088495416976114e-4, 0.2390059075236570e-4,
    )  # fmt: skip
    largest = (0.5, 0.5, 1.0, 1.0, 1.0, 1.0, 1.0, 1e-5, 1e-5, 1e-2, 1e-2, 1e-2, 1e-2, 5e-3, 5e-4)
    return InitialProblem(
        "Ring modulator", (0.0,) * 15, 1e-3, field, jacobian, reference, largest, digits=9, absolute=1e-12
    )


# -------------------------------------------------------------------------------------- differential-algebraic systems


@dataclass(frozen=True)
class AlgebraicProblem:
    """f(t, y) = 0 that cannot be solved for the highest derivatives."""

    name: str
    order: tuple[int, ...]
    """of each variable, 0 for algebraic ones"""
    conditions: Array
    """(V, max(order)) at time 0, NaN where nothing is given"""
    end: float
    residual: Callable[[Array, Array], tuple[Array, Array]]
    """t (n,), y (n, V, max(order) + 1) -> f (n, Q), ∂f/∂y (n, Q, V, max(order) + 1)"""
    reference: tuple[float, ...]
    """the variables at the end"""
    largest: tuple[float, ...]
    explicit: InitialProblem | None = None
    """an equivalent explicit problem for solvers that need one; the first of its states are the first variables here"""

    def error(self, values: Array) -> float:
        """Of the variables at the end (V,), relative as in `InitialProblem.error`."""
        known = np.array(self.reference)
        scale = np.maximum(np.abs(known), 1e-3 * np.array(self.largest))
        difference = np.abs(values - known) / scale
        return float(difference.max()) if np.isfinite(difference).all() else np.inf


def pendulum(index: int, end: float = 10.0) -> AlgebraicProblem:
    """x'' = -λ x, y'' = -λ y - g with x^2 + y^2 = 1, from rest at (1, 0): λ is the tension of the rod.

    Index 3 takes the constraint itself and both of its derivatives as further rows; index 2 its first derivative alone,
    index 1 the second.
    """
    g = 9.81

    def residual(t: Array, y: Array) -> tuple[Array, Array]:
        (x, u, a), (z, v, b), (tension, _, _) = np.moveaxis(y, 0, -1)
        one, none = np.ones_like(x), np.zeros_like(x)
        rows = [(a + tension * x, ((tension, none, one), (none,) * 3, (x, none, none)))]
        rows.append((b + tension * z + g, ((none,) * 3, (tension, none, one), (z, none, none))))
        length = (x * x + z * z - 1, ((2 * x, none, none), (2 * z, none, none), (none,) * 3))
        speed = (x * u + z * v, ((u, x, none), (v, z, none), (none,) * 3))
        square = x * x + z * z
        force = (
            u * u + v * v - tension * square - g * z,
            (
                (-2 * tension * x, 2 * u, none),
                (-2 * tension * z - g, 2 * v, none),
                (-square, none, none),
            ),
        )
        rows += {1: [force], 2: [speed], 3: [length, speed, force]}[index]
        return np.stack([f for f, _ in rows], -1), np.moveaxis(np.array([J for _, J in rows]), -1, 0)

    def field(t: Any, s: Any, xp: Any) -> Any:
        x, z, u, v = s
        tension = (u * u + v * v - g * z) / (x * x + z * z)
        return -tension * x, -tension * z - g

    def jacobian(t: Any, s: Any, xp: Any) -> Entries:
        x, z, u, v = s
        square = x * x + z * z
        tension = (u * u + v * v - g * z) / square
        by = (-2 * x * tension / square, (-g - 2 * z * tension) / square, 2 * u / square, 2 * v / square)
        entries = {(row, i): -by[i] * (x, z)[row] for row in (0, 1) for i in range(4)}
        entries[0, 0] -= tension
        entries[1, 1] -= tension
        return entries

    # sin(φ/2) = k cd(ω t), k = sin(π/4), ω^2 = g (Abramowitz, Stegun 1964, chapter 16)
    ω, m = np.sqrt(g), 0.5
    sn, cn, dn, _ = ellipj(ω * end, m)
    half = np.sqrt(m) * cn / dn
    φ = 2 * np.arcsin(half)
    speed = -2 * np.sqrt(m) * ω * (1 - m) * sn / dn**2 / np.cos(φ / 2)
    reference = (np.sin(φ), -np.cos(φ), speed**2 + g * np.cos(φ))
    velocity = (np.cos(φ) * speed, np.sin(φ) * speed)
    explicit = InitialProblem(
        "Pendulum, explicit",
        (1.0, 0.0, 0.0, 0.0),
        end,
        field,
        jacobian,
        tuple(map(float, (*reference[:2], *velocity))),
        (1.0, 1.0, 4.5, 4.5),
        2,
        stiff=False,
    )
    return AlgebraicProblem(
        f"Pendulum, index {index}",
        (2, 2, 0),
        np.array([[1.0, 0.0], [0.0, 0.0], [np.nan, np.nan]]),
        end,
        residual,
        tuple(map(float, reference)),
        (1.0, 1.0, 30.0),
        explicit,
    )


def transistor_amplifier() -> AlgebraicProblem:
    """Two transistors, five capacities, 8 voltages, index 1, to t = 0.2: C y' = g(t, y) with singular C."""
    supply, thermal, α, β = 6.0, 0.026, 0.99, 1e-6
    r0, r = 1000.0, 9000.0
    C = np.zeros((8, 8))
    for (a, b), c in {(0, 1): 1e-6, (3, 4): 3e-6, (6, 7): 5e-6}.items():
        C[a, a] = C[b, b] = -c
        C[a, b] = C[b, a] = c
    C[2, 2], C[5, 5] = -2e-6, -4e-6

    def residual(t: Array, y: Array) -> tuple[Array, Array]:
        z, n = y[..., 0].T, t.size
        first, second = (np.exp((z[i] - z[i + 1]) / thermal) for i in (1, 4))
        g1, g2 = β * (first - 1), β * (second - 1)
        s1, s2 = β * first / thermal, β * second / thermal
        drive = 0.1 * np.sin(200 * pi * t)
        g = [
            (z[0] - drive) / r0,
            z[1] / r + (z[1] - supply) / r + (1 - α) * g1,
            z[2] / r - g1,
            (z[3] - supply) / r + α * g1,
            z[4] / r + (z[4] - supply) / r + (1 - α) * g2,
            z[5] / r - g2,
            (z[6] - supply) / r + α * g2,
            z[7] / r,
        ]
        J = np.zeros((n, 8, 8, 2))
        J[..., 1] = C
        J[:, range(8), range(8), 0] = -np.array([1 / r0, 2 / r, 1 / r, 1 / r, 2 / r, 1 / r, 1 / r, 1 / r])
        for row, base, slope in ((1, 1, (1 - α) * s1), (2, 1, -s1), (3, 1, α * s1)):
            J[:, row, base, 0] -= slope
            J[:, row, base + 1, 0] += slope
        for row, base, slope in ((4, 4, (1 - α) * s2), (5, 4, -s2), (6, 4, α * s2)):
            J[:, row, base, 0] -= slope
            J[:, row, base + 1, 0] += slope
        return y[..., 1] @ C.T - np.stack(g, -1), J

    start = np.array([0, supply / 2, supply / 2, supply, supply / 2, supply / 2, supply, 0.0])
    reference = (
        -0.5562145012262709e-2, 3.006522471903042, 2.849958788608128, 2.926422536206241,
        2.704617865010554, 2.761837778393145, 4.770927631616772, 1.236995868091548,
    )  # fmt: skip
    return AlgebraicProblem(
        "Transistor amplifier",
        (1,) * 8,
        start[:, None],
        0.2,
        residual,
        reference,
        (0.1, 3.2, 3.0, 6.0, 3.0, 3.0, 6.0, 2.0),
    )


# ------------------------------------------------------------------------------------------------------ the whole list


def initial_problems(largest: int = 200) -> list[InitialProblem]:
    """Of up to 2 `largest` variables."""
    return [
        robertson(1e4, ROBERTSON[1e4]),
        robertson(1e8, ROBERTSON[1e8]),
        hires(),
        oregonator(),
        van_der_pol(1000.0, 2000.0, (0.1706167732170469e1, -0.8928097010248125e-3), 1.3e3),
        van_der_pol_scaled(),
        e5(),
        pollution(),
        pleiades(),
        arenstorf(),
        lorenz(),
        *(brusselator(N) for N in (20, 50, 100, 200) if largest >= N),
        ring_modulator(),
        flame(),
    ]


ROBERTSON: dict[float, tuple[float, ...]] = {
    1e4: (0.1073004285378, 4.800166972572e-07, 0.8926990914455),
    1e8: (2.08241751212e-05, 8.3298414296e-11, 0.9999791757416),
}
"""agree to 4e-12 and 4e-11 between Radau at 1e-12 and collocation of order 14"""
LORENZ = (13.793199595128619, 12.951803936189899, 34.901608681135143)
"""by Taylor series of order 36, steps of 1/32 and 50 digits; order 30 differs by 6e-14"""
BRUSSELATOR: dict[int, tuple[float, ...]] = {
    20: (
        0.8776530097284, 3.154703909061, 0.7658928273839, 3.295548820091, 0.6712478470949,
        3.413643265487, 0.5958550017515, 3.505830090093, 0.5386469677143, 3.573451166363,
        0.4969386018733, 3.620405791384, 0.467672087673, 3.651446867542, 0.4481320348203,
        3.671045423091, 0.4362471260016, 3.682770846863, 0.430660675748, 3.689013042769,
    ),
    50: (
        0.9492411334287, 3.064032036333, 0.8992814074561, 3.127030330353, 0.8508359527492,
        3.188057137509, 0.8045088209363, 3.246308082133, 0.7607769721178, 3.301136249952,
        0.7199852252898, 3.352062816676, 0.6823508213126, 3.398775526393, 0.6479754071082,
        3.441117377432, 0.6168618957655, 3.479068375661, 0.5889337367133, 3.51272322471,
    ),
    100: (
        0.9743403971252, 3.032357824291, 0.9487857341751, 3.064580385551, 0.9234365864524,
        3.096537189325, 0.8983880270383, 3.128104029181, 0.8737286520648, 3.159164315128,
        0.8495397834547, 3.189610191398, 0.8258948573697, 3.219343431429, 0.8028590002295,
        3.248276105343, 0.7804887881097, 3.276331022363, 0.7588321799078, 3.303441957063,
    ),
    200: (
        0.9871026625099, 3.016262582727, 0.9742187544479, 3.032507884959, 0.9613614663026,
        3.048718878227, 0.9485437096516, 3.064878838841, 0.9357780794881, 3.080971397998,
        0.9230768190269, 3.096980588989, 0.9104517871415, 3.112890891328, 0.8979144285651,
        3.128687271624, 0.8854757469602, 3.14435522104, 0.8731462809349, 3.15988078924,
    ),
}  # fmt: skip
"""the first 20 states; Radau at 1e-12 and LSODA at 3e-14 agree to 2e-12"""
