"""smnn for PyTorch: the solver of `smnn_core` as a differentiable operation on tensors, and as a layer."""

from smnn_core import HERMITE, TAYLOR, Scheme, SingularSystemError, Weights, residuals

from ._layer import ODE, MechanisticODE
from ._published import ode_forward
from ._solve import Factorization, factorize, solve_ode

__all__ = [
    "HERMITE",
    "ODE",
    "TAYLOR",
    "Factorization",
    "MechanisticODE",
    "Scheme",
    "SingularSystemError",
    "Weights",
    "factorize",
    "ode_forward",
    "residuals",
    "solve_ode",
]
