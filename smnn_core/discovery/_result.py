"""The result of `discover`: equations with errors, to print, to simulate and to look at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import floor, isfinite, log10
from typing import Any, NamedTuple

import numpy as np

from .._arrays import Array, as_numpy, common_namespace, device_of
from .._errors import ArgumentError, ShapeError
from ..trajectory import Solution, solve
from ._data import Inputs, values_of
from ._libraries import Library

__all__ = ["Discovery", "Stage", "number_with_error"]


class Stage(NamedTuple):
    """One fit on the way to the result."""

    terms: int
    """how many coefficients were free"""
    weight: float
    """of the equations"""
    cost: float
    """χ², with the noise as it was known then"""
    score: float
    """χ² + significance² terms: at the last weight, what the terms are chosen to minimise"""


@dataclass(frozen=True, eq=False)
class Discovery:
    """Equations found in data, made by `discover`; `print` shows them, standard errors in units of the last digit."""

    coefficients: np.ndarray
    """(terms, V): ξ in y^(order) = Θ ξ; 0 where a term is left out"""
    standard_errors: np.ndarray
    """(terms, V), infinite where a term is left out; enlarged where the fit leaves more than the noise"""
    detectable: np.ndarray
    """(terms, V): `significance` standard errors, of terms that are left out those they would have if they were added
    to the others: true coefficients below that are missed more often than found"""
    covariance: np.ndarray
    """(p, p): of the coefficients that are left, in the order of `np.argwhere(coefficients)`"""
    terms: list[str]
    """what the terms are called"""
    exponents: np.ndarray | None
    """(terms, V), integers, where all terms are monomials; (terms, 2 V) for order = 2; and U columns more for inputs"""
    y: Array
    """(..., T, V, R+1): the trajectory with its derivatives, R = order + 1, at the times of the data; NaN in gaps"""
    t: Array
    """(..., T): the times"""
    noise: np.ndarray
    """(V,): standard deviations of the data, as given or estimated, at least 1e-4 of a variable's deviation"""
    misfit: float
    """χ² over its expectation: about 1 where equations and noise explain the data, less where noise was below 1e-4"""
    converged: bool
    """whether coefficients had stopped moving"""
    ambiguous: list[str]
    """what the data leave open: terms hardly more or nearly as significant as asked for, others that do as well"""
    path: list[Stage]
    """the fits on the way"""
    variables: list[str]
    order: int
    library: Library = field(repr=False)
    inputs: Inputs | None = field(repr=False)
    """as given"""
    data: Array = field(repr=False)
    """as given"""

    @property
    def equations(self) -> list[str]:
        """One line per variable: `x' = -9.998(4) x + 10.003(5) y`."""
        lines = []
        for v, name in enumerate(self.variables):
            parts = [
                (c, number_with_error(abs(c), e) + ("" if term == "1" else f" {term}"))
                for c, e, term in zip(self.coefficients[:, v], self.standard_errors[:, v], self.terms, strict=True)
                if c != 0
            ]
            right = " ".join(("- " if c < 0 else "+ ") + text for c, text in parts) or "0"
            right = right[2:] if right.startswith("+ ") else "-" + right[2:] if right.startswith("- ") else right
            lines.append(f"{name}{chr(39) * self.order} = {right}")
        return lines

    def __str__(self) -> str:
        lines = list(self.equations)
        noise = ", ".join(f"{x:.3g}" for x in self.noise)
        lines.append(f"(noise {noise}; chi squared {self.misfit:.3g} of what is expected)")
        if not self.converged:
            lines.append("(not converged)")
        if self.ambiguous:
            lines.append("(left open: " + "; ".join(self.ambiguous) + ")")
        return "\n".join(lines)

    def linearize(self, t: Array, y: Array) -> tuple[Array, Array]:
        """f = y^(order) - Θ ξ and its derivatives, as `solve` takes them."""
        xp = common_namespace({"y": y})
        V, r = y.shape[-2], self.order
        xi = xp.asarray(self.coefficients, dtype=y.dtype, device=device_of(y))
        z = [y[..., k] for k in range(r)]
        if self.inputs is not None:
            u = xp.asarray(values_of(self.inputs, as_numpy(t)), dtype=y.dtype, device=device_of(y))
            z.append(xp.broadcast_to(u, (*y.shape[:-2], u.shape[-1])))
        theta, slopes = self.library.evaluate(xp.concat(z, axis=-1))
        right = xp.matrix_transpose(xp.matrix_transpose(slopes) @ xi)
        parts = [-right[..., k * V : (k + 1) * V] for k in range(r)]
        one = xp.broadcast_to(xp.eye(V, dtype=y.dtype, device=device_of(y)), parts[0].shape)
        rest = [xp.zeros_like(one)] * (y.shape[-1] - r - 1)
        return y[..., r] - theta @ xi, xp.stack([*parts, one, *rest], axis=-1)

    def simulate(self, initial_values: Array | None = None, times: Any = None, **options: Any) -> Solution:
        """Solves the equations found, by `solve`, which takes the options: a function of time, on NumPy arrays.

        Where the equations amplify errors, as chaotic ones do, a tolerance of 1e-3 is as much as coefficients deserve.

        Args:
            initial_values: (..., V), or (..., V, 2) for order = 2: y and y' at the first time; where the fit starts, if
                not given.
            times: (n,), the ends, in units of time; from the first time of the data to the last, if not given.

        Raises:
            ShapeError: for initial values of another shape.
            ArgumentError: where the trajectories begin or end at different times, and none are given; where nothing was
                observed near the first time, and no initial values are given. And those of `solve`.
        """
        V, r = self.y.shape[-2], self.order
        if initial_values is None:
            u = as_numpy(self.y)[..., 0, :, :r].astype(np.float64)
            if np.isnan(u).any():
                raise ArgumentError("nothing was observed near the first time: give initial_values.")
        else:
            common_namespace({"initial_values": initial_values})
            u, core = as_numpy(initial_values).astype(np.float64), (V,) if r == 1 else (V, r)
            if u.shape[-len(core) :] != core:
                expected = ", ".join(map(str, core))
                raise ShapeError(f"initial_values must have shape (..., {expected}); got {u.shape}.")
            u = u[..., None] if r == 1 else u
        if times is None:
            ends = np.unique(as_numpy(self.t)[..., [0, -1]].reshape(-1, 2).astype(np.float64), axis=0)
            if len(ends) > 1:
                raise ArgumentError("the trajectories begin or end at different times: give times, the ends.")
            times = ends[0]
        return solve(self.linearize, times, u, **{"order": r, **options})

    def plot(self, member: int = 0) -> Any:
        """Data, trajectory and a simulation from its start; the coefficients with their errors. A matplotlib figure.

        Args:
            member: which trajectory of a batch.
        """
        from ._picture import draw

        return draw(self, member)


def arguments(variables: Sequence[str], inputs: Sequence[str], order: int) -> list[str]:
    """The names of what a library is a function of: variables, for order = 2 their derivatives, inputs."""
    return [*variables, *(f"{name}'" for name in variables if order == 2), *inputs]


def number_with_error(value: float, error: float) -> str:
    """10.003(5): the digits in brackets are the standard error in units of the last one; two of them from 10 to 19.

    >>> number_with_error(10.0031, 0.0052), number_with_error(0.31415, 0.0123), number_with_error(1.2e-7, 3e-9)
    ('10.003(5)', '0.314(12)', '1.20(3)e-07')
    """
    if not (isfinite(error) and isfinite(value)) or error <= 0:
        return f"{value:.6g}"
    if value != 0 and (abs(value) < 1e-4 or abs(value) >= 1e7):
        exponent = floor(log10(abs(value)))
        return f"{number_with_error(value / 10.0**exponent, error / 10.0**exponent)}e{exponent:+03d}"
    digits = 1 - floor(log10(error))
    units = round(error * 10.0**digits)
    if units >= 20:
        digits, units = digits - 1, round(error * 10.0 ** (digits - 1))
    if digits < 0:
        return f"{round(value, digits):.0f}({units * 10**-digits})"
    return f"{value:.{digits}f}({units})"
