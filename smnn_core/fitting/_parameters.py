"""Parameters by name, with bounds, logarithms and priors, and as the numbers that the iterations move."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from .._arrays import Array
from .._errors import ArgumentError, ShapeError
from ._networks import Network

__all__ = ["Parameter", "Parameters", "has_parameters"]

WIDE = 10.0
"""Factor on either side of the start within which others are drawn, where neither bounds nor a prior say more."""


@dataclass(frozen=True)
class Parameter:
    """A parameter of `fit`.

    Args:
        start: where iterations begin; None: the mean of the prior, or else the middle of the bounds.
        lower: the lower bound, may be infinite.
        upper: the upper bound, likewise.
        log: its logarithm is what iterations move and what is normally distributed: for what is positive.
        prior: (mean, deviation) of a normal prior; with `log` of the logarithm, where the mean is given as the value
            itself (the median) and the deviation as that of the natural logarithm.
        prior_log: whether the prior is of the logarithm; None: as `log` says.

    Raises:
        ArgumentError: for values that contradict each other.
    """

    start: float | None = None
    lower: float = -np.inf
    upper: float = np.inf
    log: bool = False
    prior: tuple[float, float] | None = None
    prior_log: bool | None = None

    def __post_init__(self) -> None:
        if not self.lower < self.upper:
            raise ArgumentError(f"Parameter: lower = {self.lower:g} must be below upper = {self.upper:g}.")
        if self.log and self.upper <= 0:
            raise ArgumentError(f"Parameter: log=True needs positive values, got upper = {self.upper:g}.")
        if self.prior is not None and not (len(self.prior) == 2 and self.prior[1] > 0):
            raise ArgumentError(f"Parameter: prior must be (mean, deviation > 0), got {self.prior}.")
        if self.of_log and self.prior is not None and self.prior[0] <= 0:
            raise ArgumentError(
                f"Parameter: a prior of the logarithm needs a positive mean, got {self.prior[0]:g}; prior_log=False "
                "is a prior of the value itself."
            )
        if self.of_log and not self.log and self.prior is not None and self.lower <= 0:
            raise ArgumentError(f"Parameter: prior_log=True needs a positive lower bound, got {self.lower:g}.")
        start = self.first
        if not self.lower <= start <= self.upper:
            raise ArgumentError(f"Parameter: start = {start:g} is not within [{self.lower:g}, {self.upper:g}].")
        if self.log and start <= 0:
            raise ArgumentError(f"Parameter: log=True needs a positive start, got {start:g}.")

    @property
    def of_log(self) -> bool:
        """True if the prior is of the logarithm."""
        return self.log if self.prior_log is None else self.prior_log

    @property
    def first(self) -> float:
        """The value with which iterations begin."""
        if self.start is not None:
            return float(self.start)
        if self.prior is not None:
            return float(np.clip(self.prior[0], self.lower, self.upper))
        low, high = self.lower, self.upper
        if not np.isfinite(high) or not np.isfinite(low):
            raise ArgumentError("Parameter: without a start give a prior, or two finite bounds.")
        if self.log:
            if low <= 0:
                raise ArgumentError("Parameter: log=True without a start needs a positive lower bound.")
            return float(np.sqrt(low * high))
        return float((low + high) / 2)


def has_parameters(parameters: Any) -> bool:
    """True if callbacks get parameters."""
    if parameters is None:
        return False
    return len(parameters) > 0 if isinstance(parameters, Mapping) else np.shape(parameters)[-1:] != (0,)


@dataclass(frozen=True, eq=False)
class Parameters:
    """All parameters of a fit. φ are the values that iterations move: logarithms where `log` is set."""

    names: tuple[str, ...]
    given: tuple[Parameter, ...]
    by_name: bool
    """whether callbacks get a dict of names"""
    start: Array
    """(..., p), values"""
    networks: tuple[tuple[str, int], ...] = ()
    """names of networks, and how many weights each has: the last entries of φ"""

    @staticmethod
    def of(parameters: Any, bounds: tuple[Any, Any] | None = None) -> Parameters:
        """From None, an array (..., p), or a mapping of names to `Parameter` or numbers."""
        if parameters is None:
            parameters = np.zeros(0)
        if isinstance(parameters, Mapping):
            if bounds is not None:
                raise ArgumentError("bounds go into the Parameters where these are a dict.")
            networks = {str(k): x for k, x in parameters.items() if isinstance(x, Network)}
            single = {str(k): x for k, x in parameters.items() if not isinstance(x, Network)}
            given = tuple(x if isinstance(x, Parameter) else Parameter(float(x)) for x in single.values())
            names = list(single)
            for name, net in networks.items():
                given += tuple(Parameter(float(x), prior=(0.0, net.deviation)) for x in net.start)
                names += [f"{name}[{i}]" for i in range(len(net.start))]
            start = np.array([x.first for x in given], dtype=float)
            sizes = tuple((name, len(net.start)) for name, net in networks.items())
            return Parameters(tuple(names), given, True, start, sizes)
        start = np.asarray(parameters, dtype=float)
        if start.ndim == 0:
            raise ShapeError("parameters must have shape (..., p) or be a dict of smnn.Parameter; got a number.")
        p = start.shape[-1]
        if not np.isfinite(start).all():
            raise ArgumentError("parameters must be finite: that is where the iterations start.")
        low, high = (-np.inf, np.inf) if bounds is None else bounds
        low, high = (np.broadcast_to(np.asarray(sign * np.inf if x is None else x, float), (p,))
                     for sign, x in ((-1, low), (1, high)))  # fmt: skip
        start = np.clip(start, low, high)
        first = start.reshape(-1, p)[0] if start.size else np.zeros(p)
        given = tuple(Parameter(float(x), float(a), float(b)) for x, a, b in zip(first, low, high, strict=True))
        return Parameters(tuple(f"θ[{j}]" for j in range(p)), given, False, start)

    @property
    def p(self) -> int:
        return len(self.names)

    @property
    def single(self) -> int:
        """How many are parameters by themselves, the first ones; the others are weights of networks."""
        return self.p - sum(n for _, n in self.networks)

    def weights(self, θ: Array) -> dict[str, Array]:
        """The weights of each network in θ (..., p): (..., n) each."""
        ends = np.cumsum([self.single, *(n for _, n in self.networks)])
        return {name: θ[..., a : a + n] for (name, n), a in zip(self.networks, ends, strict=False)}

    @property
    def log(self) -> Array:
        return np.array([x.log for x in self.given], dtype=bool)

    def inner(self, θ: Array) -> Array:
        """φ of values θ."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(self.log, np.log(np.maximum(θ, 0.0)), θ)

    def outer(self, φ: Array) -> Array:
        """The values of φ."""
        return np.where(self.log, np.exp(np.where(self.log, φ, 0.0)), φ)

    def slope(self, φ: Array) -> Array:
        """dθ/dφ."""
        return np.where(self.log, np.exp(np.where(self.log, φ, 0.0)), 1.0)

    def bounds(self) -> tuple[Array, Array]:
        """Of φ, (p,) each."""
        lower, upper = (np.array([getattr(x, side) for x in self.given], float) for side in ("lower", "upper"))
        return self.inner(lower), self.inner(upper)

    @property
    def has_prior(self) -> Array:
        """(p,), bool."""
        return np.array([x.prior is not None for x in self.given], bool)

    def prior(self, φ: Array) -> tuple[Array, Array]:
        """Rows of priors at φ (..., p), (g(φ) - g(mean)) / deviation, and their derivatives; 0 where there is none.

        g is θ or log θ, what the prior is normal in: the identity in φ, or exp or log of it.
        """
        of_log = np.array([x.of_log for x in self.given], bool)
        mean, deviation = (np.array([x.prior[i] if x.prior else 1.0 for x in self.given], float) for i in (0, 1))
        to_value, to_log, has = self.log & ~of_log, of_log & ~self.log, self.has_prior
        value = np.exp(np.where(to_value, φ, 0.0))
        safe = np.where(to_log, φ, 1.0)
        g = np.where(to_value, value, np.where(to_log, np.log(safe), φ))
        slope = np.where(to_value, value, 1 / safe)
        with np.errstate(invalid="ignore"):
            rows = (g - np.where(of_log, np.log(np.where(of_log, mean, 1.0)), mean)) / deviation
        return np.where(has, rows, 0.0), np.where(has, slope / deviation, 0.0)

    @property
    def deviations(self) -> Array:
        """(p,): of weights of networks a priori, 1 for the others."""
        return np.array([1.0] * self.single + [x.prior[1] for x in self.given[self.single :] if x.prior], float)

    def for_callback(self, φ: Array) -> Any:
        """The values as callbacks get them for φ (M, p): (M, 1, p), or a dict of (M, 1), of networks (M, 1, n)."""
        θ = self.outer(φ)
        if not self.by_name:
            return θ[:, None, :]
        single = {name: θ[:, j, None] for j, name in enumerate(self.names[: self.single])}
        return single | self.weights(θ[:, None, :])

    def drawn(self, n: int, rng: np.random.Generator) -> Array:
        """φ of n starts, (n, p): from priors, else within bounds, else within a factor of ten of the start.

        Within bounds a Latin hypercube: each of n slices of each parameter is met once.
        """
        low, high = self.bounds()
        φ = np.empty((n, self.p))
        middle = self.inner(np.array([x.first for x in self.given], float))
        for j, x in enumerate(self.given):
            u = (rng.permutation(n) + rng.random(n)) / n
            if x.prior is not None:
                mean, deviation = x.prior
                g = (np.log(mean) if x.of_log else mean) + deviation * rng.standard_normal(n)
                if x.of_log != x.log:
                    g = np.exp(g) if x.of_log else np.log(np.maximum(g, 1e-3 * deviation))
                φ[:, j] = np.clip(g, low[j], high[j])
            elif np.isfinite(low[j]) and np.isfinite(high[j]):
                φ[:, j] = low[j] + u * (high[j] - low[j])
            elif x.log:
                φ[:, j] = np.clip(middle[j] + np.log(WIDE) * (2 * u - 1), low[j], high[j])
            else:
                φ[:, j] = np.clip(middle[j] * WIDE ** (2 * u - 1) if middle[j] else 2 * u - 1, low[j], high[j])
        return φ
