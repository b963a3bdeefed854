"""smnn for PyTorch: the solver of `smnn_core` as a differentiable operation on tensors, and as a layer."""

from smnn_core import HERMITE, TAYLOR, WIENER, Fit, Scheme, SingularSystemError, Weights, conditions, residuals

from ._fitting import ODEFit, fit_ode
from ._layer import ODE, MechanisticODE
from ._nonlinear import NonlinearSolution, solve_nonlinear_ode
from ._published import ode_forward
from ._solve import Factorization, error_estimate, factorize, solve_ode

__all__ = [
    "HERMITE",
    "ODE",
    "TAYLOR",
    "WIENER",
    "Factorization",
    "Fit",
    "MechanisticODE",
    "NonlinearSolution",
    "ODEFit",
    "Scheme",
    "SingularSystemError",
    "Weights",
    "conditions",
    "error_estimate",
    "factorize",
    "fit_ode",
    "ode_forward",
    "residuals",
    "solve_nonlinear_ode",
    "solve_ode",
]
