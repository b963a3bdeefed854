"""Six linear ODEs with constant coefficients and their closed forms, for the standalone validation.

They are those that Chen et al. (ICLR 2025) name: RC circuit, population growth, language death, harmonic and damped
oscillator, a third-order ODE. Two names are better known for nonlinear models; here they are the linear ones:
population growth is exponential (Malthus), and language death is an exchange between speakers y and non-speakers 1 - y
at constant rates, y' = a (1 - y) - b y.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class LinearODE:
    """sum_r coefficients[r] y^(r) = rhs with y^(r)(0) = initial[r] for r below the order."""

    name: str
    equation: str
    coefficients: tuple[float, ...]
    """of y, y', ... up to the order"""
    rhs: float
    initial: tuple[float, ...]
    modes: tuple[tuple[complex, complex], ...]
    """the closed form: y(t) is the real part of sum a exp(λ t) over the modes (a, λ)"""

    @property
    def order(self) -> int:
        return len(self.initial)

    @property
    def published_R(self) -> int:
        """The highest derivative order among the unknowns, as published: 2, and 3 for the third-order ODE."""
        return max(2, self.order)

    def exact(self, t: np.ndarray, r: int) -> np.ndarray:
        """The r-th derivative at the times t."""
        return np.real(sum(a * λ**r * np.exp(λ * t) for a, λ in self.modes))

    def arguments(self, t: np.ndarray, R: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """coefficients (T, 1, 1, R+1), rhs (T, 1), initial_values (1, 1, order), step_sizes (T-1,)."""
        coefficients = [*self.coefficients, *[0.0] * (R - self.order)]
        return (
            torch.tensor(coefficients, dtype=dtype).expand(len(t), 1, 1, R + 1),
            torch.tensor([self.rhs], dtype=dtype).expand(len(t), 1),
            torch.tensor(self.initial, dtype=dtype).reshape(1, 1, -1),
            torch.tensor(np.diff(t), dtype=dtype),
        )


DAMPED = -0.1 + 1j * np.sqrt(3.99)
"""a root of λ² + 0.2 λ + 4"""

ODES = (
    LinearODE("RC circuit", "y' + y = 1", (1, 1), 1, (0,), ((1, 0), (-1, -1))),
    LinearODE("population growth", "y' = 0.3 y", (-0.3, 1), 0, (1,), ((1, 0.3),)),
    LinearODE("language death", "y' = 0.05 (1-y) - 0.45 y", (0.5, 1), 0.05, (1,), ((0.1, 0), (0.9, -0.5))),
    LinearODE("harmonic oscillator", "y'' + 4 y = 0", (4, 0, 1), 0, (1, 0), ((1, 2j),)),
    LinearODE(
        "damped oscillator", "y'' + 0.2 y' + 4 y = 0", (4, 0.2, 1), 0, (1, 0), ((1 - 0.1j / DAMPED.imag, DAMPED),)
    ),
    LinearODE("third order", "y''' + y'' + y' + y = 0", (1, 1, 1, 1), 0, (1, 0, 0), ((0.5, -1), (0.5 - 0.5j, 1j))),
)
