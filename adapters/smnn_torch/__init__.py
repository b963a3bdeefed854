"""smnn for PyTorch: the solver of `smnn_core` as a differentiable operation on tensors."""

from smnn_core import HERMITE, TAYLOR, Scheme, SingularSystemError, Weights, residuals

from ._solve import solve_ode

__all__ = [
    "HERMITE",
    "TAYLOR",
    "Scheme",
    "SingularSystemError",
    "Weights",
    "residuals",
    "solve_ode",
]
