"""Parameters from data where not everything is seen, or starts are far off: problems that nobody tuned for.

Rates are written for NumPy, PyTorch and JAX alike: `rates(x, θ, lib)` with `lib.exp` and the like. Starts are 2 to 10
times off, every parameter by itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from scipy.integrate import solve_ivp

__all__ = ["HIDDEN", "HiddenProblem"]

Array = np.ndarray


@dataclass(frozen=True)
class HiddenProblem:
    """Data sets of one truth."""

    name: str
    rates: Callable[[Any, Any, Any], list[Any]]
    truth: tuple[float, ...]
    initial: tuple[float, ...]
    t: Array
    noise: float | None
    """None: 5 or 10 % of the deviation, see `relative`"""
    relative: float = 0.0
    seen: Callable[[Array], None] | None = None
    """sets what is not observed of data (n, T, V) to NaN"""
    knows_initial: bool = False
    options: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def exact(self) -> Array:
        """x at the times, (T, V)."""
        return self.integrated(lambda _, x: self.rates(x, np.array(self.truth), np), self.initial, 1e-10, 1e-12)

    def integrated(self, rates: Callable[[float, Array], Any], initial: Any, rtol: float, atol: float) -> Array:
        """x at the times, (T, V), piece by piece between jumps; fewer times where the integration fails."""
        x, pieces, begin = np.array(initial, float), [], self.first
        for end, added in [*zip(*self.options.get("jumps", ((), ())), strict=True), (self.t[-1], 0.0)]:
            inside = self.t[(self.t > begin) & (self.t <= end)] if pieces else self.t[self.t <= end]
            run = solve_ivp(rates, (begin, end), x, "LSODA", np.unique([*inside, end]), rtol=rtol, atol=atol)
            if not run.success:
                return np.concatenate([*pieces, np.empty((0, len(x)))])
            pieces.append(run.y.T[: len(inside)])
            begin, x = end, run.y[:, -1] + added
        return np.concatenate(pieces)

    @property
    def first(self) -> float:
        """The time of the initial values."""
        return float(self.options.get("t0", self.t[0]))

    @property
    def deviations(self) -> Array:
        """(V,)"""
        x = self.exact
        return np.full(x.shape[1], self.noise) if self.noise is not None else self.relative * x.std(0)

    def data(self, n: int, seed: int = 0) -> Array:
        """(n, T, V), NaN where nothing was observed."""
        x = self.exact + self.deviations * np.random.default_rng(seed).standard_normal((n, *self.exact.shape))
        if self.seen is not None:
            self.seen(x)
        return x

    def starts(self, n: int, seed: int = 1) -> Array:
        """(n, p)"""
        rng, p = np.random.default_rng(seed), len(self.truth)
        factor = np.exp(rng.uniform(np.log(2), np.log(10), (n, p)) * rng.choice([-1, 1], (n, p)))
        return np.array(self.truth) * factor


def spikes(x: Any, θ: Any, lib: Any) -> list[Any]:
    (v, r), (a, b, c) = x, θ
    return [c * (v - v**3 / 3 + r), -(v - a + b * r) / c]


def hes1(x: Any, θ: Any, lib: Any) -> list[Any]:
    """Logarithms of protein, messenger and a third factor; Hirata et al., Science 298 (2002) 840."""
    (p, m, h), (a, b, c, d, e, f, g) = x, θ
    return [
        -a * lib.exp(h) + b * lib.exp(m - p) - c,
        -d + e * lib.exp(-m) / (1 + lib.exp(2 * p)),
        -a * lib.exp(p) + f * lib.exp(-h) / (1 + lib.exp(2 * p)) - g,
    ]


def only_p_and_m(data: Array) -> None:
    """At odd times: P and M in turn; H never."""
    data[:, 1::2, 0] = data[:, ::2, 1] = data[..., 2] = np.nan


def transduction(x: Any, θ: Any, lib: Any) -> list[Any]:
    """Vyshemirsky, Girolami, Bioinformatics 24 (2008) 833."""
    (S, _, R, SR, Rpp), (k1, k2, k3, k4, V, K) = x, θ
    back = V * Rpp / (K + Rpp)
    return [
        -k1 * S - k2 * S * R + k3 * SR,
        k1 * S,
        -k2 * S * R + k3 * SR + back,
        k2 * S * R - k3 * SR - k4 * SR,
        k4 * SR - back,
    ]


def enzyme(x: Any, θ: Any, lib: Any) -> list[Any]:
    (E, S, C, _), (k1, k2, k3) = x, θ
    bound = k1 * E * S
    return [-bound + k2 * C + k3 * C, -bound + k2 * C, bound - k2 * C - k3 * C, k3 * C]


def only_product(data: Array) -> None:
    data[..., :3] = np.nan


def lorenz_96(x: Any, θ: Any, lib: Any) -> list[Any]:
    n = len(x)
    return [θ[0] * (x[(i + 1) % n] - x[i - 2]) * x[i - 1] - θ[1] * x[i] + θ[2] for i in range(n)]


def two_hidden(data: Array) -> None:
    data[..., [1, 3]] = np.nan


def lorenz(x: Any, θ: Any, lib: Any) -> list[Any]:
    (a, b, c), (s, r, k) = x, θ
    return [s * (b - a), a * (r - c) - b, a * b - k * c]


def repressilator(x: Any, θ: Any, lib: Any) -> list[Any]:
    """Messengers and proteins, each gene with rates of its own; Elowitz, Leibler, Nature 403 (2000) 335."""
    (m1, m2, m3, p1, p2, p3), (a1, a2, a3, a0, h, b1, b2, b3, d1, d2, *more) = x, θ
    d3 = more[0] if more else 1.0

    def repressed(p: Any) -> Any:
        return 1 / (1 + lib.exp(h * lib.log(abs(p) + 1e-9)))

    return [
        -d1 * m1 + a1 * repressed(p3) + a0,
        -d2 * m2 + a2 * repressed(p1) + a0,
        -d3 * m3 + a3 * repressed(p2) + a0,
        -b1 * (p1 - m1),
        -b2 * (p2 - m2),
        -b3 * (p3 - m3),
    ]


def only_proteins(data: Array) -> None:
    data[..., :3] = np.nan


def absorbed(x: Any, θ: Any, lib: Any) -> list[Any]:
    """One compartment after an oral dose: amount in the gut, concentration.

    The rate of absorption is that of elimination and something: were both free, they could be exchanged (flip-flop
    kinetics), and no data could tell.
    """
    (gut, c), (faster, ke, volume) = x, θ
    ka = ke + faster
    return [-ka * gut, ka * gut / volume - ke * c]


def only_concentration(data: Array) -> None:
    data[..., 0] = np.nan


MINUTES = np.array([0, 1, 2, 4, 5, 7, 10, 15, 20, 30, 40, 50, 60, 80, 100.0])
HES1 = (0.022, 0.3, 0.031, 0.028, 0.5, 20.0, 0.3)
FIRST = tuple(np.log([1.439, 2.037, 17.904]))

HIDDEN = (
    HiddenProblem("FitzHugh-Nagumo, 20 points", spikes, (0.2, 0.2, 3.0), (-1.0, 1.0), np.linspace(0, 20, 20), 0.2),
    HiddenProblem("Hes1, all observed", hes1, HES1, FIRST, np.linspace(0, 240, 33), 0.15),
    HiddenProblem(
        "Hes1, H never observed",
        hes1,
        HES1,
        FIRST,
        np.linspace(0, 240, 33),
        0.15,
        seen=only_p_and_m,
        options={"guess": [np.nan, np.nan, 2.0]},
    ),
    HiddenProblem(
        "Protein transduction, noise 0.001",
        transduction,
        (0.07, 0.6, 0.05, 0.3, 0.017, 0.3),
        (1.0, 0.0, 1.0, 0.0, 0.0),
        MINUTES,
        0.001,
    ),
    HiddenProblem(
        "Protein transduction, noise 0.01",
        transduction,
        (0.07, 0.6, 0.05, 0.3, 0.017, 0.3),
        (1.0, 0.0, 1.0, 0.0, 0.0),
        MINUTES,
        0.01,
    ),
    HiddenProblem(
        "Lorenz-96, all 5 observed", lorenz_96, (1.0, 1.0, 8.0), (8.1, 8, 8, 8, 8), np.linspace(0, 10, 201), None, 0.1
    ),
    HiddenProblem(
        "Lorenz-96, 3 of 5 observed",
        lorenz_96,
        (1.0, 1.0, 8.0),
        (8.1, 8, 8, 8, 8),
        np.linspace(0, 10, 201),
        None,
        0.1,
        seen=two_hidden,
    ),
    HiddenProblem(
        "Lorenz-63, all observed", lorenz, (10.0, 28.0, 8 / 3), (1.0, 1.0, 1.0), np.linspace(0, 5, 51), None, 0.05
    ),
    HiddenProblem(
        "Repressilator, 10 parameters, all observed",
        repressilator,
        (216.0, 180.0, 250.0, 0.5, 2.0, 5.0, 4.0, 6.0, 1.0, 1.1),
        (1.0, 2, 3, 10, 5, 2),
        np.linspace(0, 30, 61),
        None,
        0.05,
    ),
    HiddenProblem(
        "Repressilator, 11 parameters, proteins alone",
        repressilator,
        (216.0, 180.0, 250.0, 0.5, 2.0, 5.0, 4.0, 6.0, 1.0, 1.1, 0.9),
        (1.0, 2, 3, 10, 5, 2),
        np.linspace(0, 30, 61),
        None,
        0.05,
        seen=only_proteins,
    ),
    HiddenProblem(
        "Michaelis-Menten, product alone, rates 1000, 1, 1",
        enzyme,
        (1000.0, 1.0, 1.0),
        (0.1, 1.0, 0.0, 0.0),
        np.linspace(0, 40, 41),
        0.01,
        seen=only_product,
        knows_initial=True,
    ),
    HiddenProblem(
        "Michaelis-Menten, product alone, rates 1, 0.2, 1",
        enzyme,
        (1.0, 0.2, 1.0),
        (0.5, 1.0, 0.0, 0.0),
        np.linspace(0, 20, 41),
        0.01,
        seen=only_product,
        knows_initial=True,
    ),
    HiddenProblem(
        "Pharmacokinetics, a dose of 100 mg, concentration alone",
        absorbed,
        (1.3, 0.2, 30.0),
        (100.0, 0.0),
        np.array([0.25, 0.5, 1, 1.5, 2, 3, 4, 6, 8, 12, 24]),
        0.05,
        seen=only_concentration,
        knows_initial=True,
        options={"t0": 0.0},
    ),
    HiddenProblem(
        "Pharmacokinetics, three doses, concentration alone",
        absorbed,
        (1.3, 0.2, 30.0),
        (100.0, 0.0),
        np.array([0.5, 1, 2, 4, 8, 12, 13, 16, 20, 24, 25, 28, 36, 48]),
        0.05,
        seen=only_concentration,
        knows_initial=True,
        options={"t0": 0.0, "jumps": ((12.0, 24.0), ((100.0, 0.0), (50.0, 0.0)))},
    ),
)
