"""smnn for PyTorch: the solver of `smnn_core` as a differentiable operation on tensors."""

from smnn_core import HERMITE, TAYLOR, Scheme, SingularSystemError, Weights, residuals

from ._solve import Factorization, factorize, solve_ode

__all__ = [
    "Factorization",
    "HERMITE",
    "TAYLOR",
    "Scheme",
    "SingularSystemError",
    "Weights",
    "factorize",
    "residuals",
    "solve_ode",
]
