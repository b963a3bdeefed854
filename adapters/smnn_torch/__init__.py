"""smnn for PyTorch: the solver of `smnn_core` as a differentiable operation on tensors, and as a layer."""

from smnn_core import (
    HERMITE,
    TAYLOR,
    WIENER,
    Scheme,
    SingularSystemError,
    Weights,
    conditions,
    residuals,
    wiener_weight,
)

from ._fit import fit
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
    "MechanisticODE",
    "Posterior",
    "Scheme",
    "SingularSystemError",
    "Solution",
    "Weights",
    "conditions",
    "error_estimate",
    "factorize",
    "fit",
    "log_evidence",
    "ode_forward",
    "posterior",
    "residuals",
    "solve",
    "solve_ode",
    "wiener_weight",
]
