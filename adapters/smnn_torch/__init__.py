"""smnn for PyTorch: the solver of `smnn_core` as a differentiable operation on tensors, and as a layer."""

from smnn_core import (
    HERMITE,
    TAYLOR,
    WIENER,
    Fit,
    Scheme,
    SingularSystemError,
    Weights,
    conditions,
    residuals,
    wiener_weight,
)

from ._fit import fit
from ._fitting import ODEFit, fit_ode
from ._layer import ODE, MechanisticODE
from ._posterior import Posterior, log_evidence, posterior
from ._published import ode_forward
from ._solve import Factorization, error_estimate, factorize, solve_ode
from ._trajectory import Solution, solve

__all__ = [
    "HERMITE",
    "ODE",
    "TAYLOR",
    "WIENER",
    "Factorization",
    "Fit",
    "MechanisticODE",
    "ODEFit",
    "Posterior",
    "Scheme",
    "SingularSystemError",
    "Solution",
    "Weights",
    "conditions",
    "error_estimate",
    "factorize",
    "fit",
    "fit_ode",
    "log_evidence",
    "ode_forward",
    "posterior",
    "residuals",
    "solve",
    "solve_ode",
    "wiener_weight",
]
