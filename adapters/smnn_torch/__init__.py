"""smnn for PyTorch: the solver of `smnn_core` as a differentiable operation on tensors, and as a layer."""

from smnn_core import HERMITE, TAYLOR, WIENER, Scheme, SingularSystemError, Weights, conditions, residuals

from ._layer import ODE, MechanisticODE
from ._published import ode_forward
from ._solve import Factorization, error_estimate, factorize, solve_ode

__all__ = [
    "HERMITE",
    "ODE",
    "TAYLOR",
    "WIENER",
    "Factorization",
    "MechanisticODE",
    "Scheme",
    "SingularSystemError",
    "Weights",
    "conditions",
    "error_estimate",
    "factorize",
    "ode_forward",
    "residuals",
    "solve_ode",
]
