"""Chaotic systems with polynomial right-hand sides, from the package dysts (Gilpin, NeurIPS 2021), and trajectories."""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from scipy.integrate import solve_ivp

from smnn_core import polynomials

__all__ = ["POINTS_PER_PERIOD", "System", "polynomial_systems", "trajectory"]

POINTS_PER_PERIOD = 100
"""The sampling of the package: a hundredth of the dominant period."""
CACHE = Path(__file__).parent / "output" / "trajectories"


@dataclass(frozen=True, eq=False)
class System:
    """y' = Θ(y) ξ with the monomials of `polynomials(degree)`."""

    name: str
    degree: int
    coefficients: np.ndarray
    """(terms, V)"""
    start: np.ndarray
    """(V,), on the attractor, as the package has it"""
    period: float

    @property
    def V(self) -> int:
        return len(self.start)

    @property
    def step(self) -> float:
        return self.period / POINTS_PER_PERIOD

    @property
    def exponents(self) -> np.ndarray:
        """(terms, V)."""
        exponents = polynomials(self.degree).exponents(self.V)
        assert exponents is not None
        return exponents

    def right_hand_side(self, y: np.ndarray) -> np.ndarray:
        """y' for y (V,)."""
        return np.prod(y**self.exponents, axis=-1) @ self.coefficients


@cache
def polynomial_systems(most_variables: int = 4, most_degree: int = 3) -> dict[str, System]:
    """All autonomous systems of dysts with so many variables and a right-hand side of such a degree.

    The coefficients come from the values of the package's right-hand side at random points, which a polynomial must
    reproduce there and at others, spread over the attractor, to rounding.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import dysts.flows
    data = json.loads((Path(dysts.flows.__file__).parent / "data" / "chaotic_attractors.json").read_text("utf-8"))
    found = {}
    for name in sorted(data):
        description = data[name]
        if description.get("delay") or description.get("nonautonomous") or not hasattr(dysts.flows, name):
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            flow = getattr(dysts.flows, name)()
        start = np.atleast_1d(np.asarray(flow.ic, dtype=float))
        if start.ndim != 1 or not 2 <= len(start) <= most_variables:
            continue
        spread = np.asarray(description["mean"]), 2 * np.asarray(description["std"])
        coefficients = _as_polynomial(flow.rhs, len(start), most_degree, spread)
        if coefficients is not None:
            exponents = polynomials(most_degree).exponents(len(start))
            degree = max(1, int(exponents.sum(1)[coefficients.any(1)].max()))
            kept = exponents.sum(1) <= degree
            found[name] = System(name, degree, coefficients[kept], start, float(flow.period))
    return found


def _as_polynomial(rhs, V: int, degree: int, spread: tuple[np.ndarray, np.ndarray]) -> np.ndarray | None:
    """(terms, V), None where the right-hand side is no polynomial or depends on time."""
    rng = np.random.default_rng(0)
    near, wide = rng.normal(size=(200, V)), spread[0] + spread[1] * rng.normal(size=(50, V))
    try:
        values = np.array([[float(x) for x in rhs(y, 0.0)] for y in near])
        later = np.array([[float(x) for x in rhs(y, 1.234)] for y in near[:5]])
        far = np.array([[float(x) for x in rhs(y, 0.0)] for y in wide])
    except (TypeError, ValueError, ZeroDivisionError, OverflowError):
        return None
    exponents = polynomials(degree).exponents(V)
    if values.shape != (200, V) or not np.isfinite(values).all() or not np.allclose(values[:5], later):
        return None

    def monomials(y: np.ndarray) -> np.ndarray:
        return np.prod(y[:, None, :] ** exponents, axis=-1)

    coefficients = np.linalg.lstsq(monomials(near), values, rcond=None)[0]
    coefficients[np.abs(coefficients) < 1e-9 * np.abs(coefficients).max(0)] = 0.0
    for y, f in ((near, values), (wide, far)):
        if not np.abs(monomials(y) @ coefficients - f).max() < 1e-6 * np.abs(f).max():
            return None
    return coefficients


def trajectory(system: System, n_points: int) -> np.ndarray:
    """(n_points, V), at the package's sampling from its own start, to a relative tolerance of 1e-10; kept in a file."""
    path = CACHE / f"{system.name}-{n_points}.npy"
    if path.exists():
        return np.load(path)
    t = system.step * np.arange(n_points)
    solution = solve_ivp(
        lambda _, y: system.right_hand_side(y), (0, t[-1]), system.start, "DOP853", t, rtol=1e-10, atol=1e-11
    )
    if len(solution.t) < n_points:
        raise RuntimeError(f"{system.name}: {solution.message}")
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, solution.y.T)
    return solution.y.T
