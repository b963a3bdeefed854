"""smnn: a differentiable solver for linear ODE systems, posed as banded least squares."""

from ._conditions import conditions
from ._config import show_config
from ._discovered import Discovery
from ._discovery import discover
from ._error_estimate import error_estimate
from ._errors import (
    AccuracyWarning,
    ArgumentError,
    ConvergenceWarning,
    DeviceError,
    DiscoveryWarning,
    DTypeError,
    EngineError,
    EngineWarning,
    MisfitWarning,
    NamespaceError,
    SchemeError,
    ShapeError,
    SingularSystemError,
)
from ._evidence import log_evidence
from ._fit_result import Fit
from ._fitting import fit_ode
from ._libraries import Library, fourier, functions, polynomials
from ._nonlinear import solve_nonlinear_ode
from ._nonlinear_solution import NonlinearGradients, NonlinearSolution
from ._posterior import Posterior, posterior, wiener_weight
from ._problem import Gradients, Weights
from ._schemes import HERMITE, TAYLOR, WIENER, Scheme
from ._solve import Factorization, Residuals, dense_system, factorize, residuals, solve_ode, solve_ode_vjp

__all__ = [
    "HERMITE",
    "TAYLOR",
    "WIENER",
    "AccuracyWarning",
    "ArgumentError",
    "ConvergenceWarning",
    "DTypeError",
    "DeviceError",
    "Discovery",
    "DiscoveryWarning",
    "EngineError",
    "EngineWarning",
    "Factorization",
    "Fit",
    "Gradients",
    "Library",
    "MisfitWarning",
    "NamespaceError",
    "NonlinearGradients",
    "NonlinearSolution",
    "Posterior",
    "Residuals",
    "Scheme",
    "SchemeError",
    "ShapeError",
    "SingularSystemError",
    "Weights",
    "conditions",
    "dense_system",
    "discover",
    "error_estimate",
    "factorize",
    "fit_ode",
    "fourier",
    "functions",
    "log_evidence",
    "polynomials",
    "posterior",
    "residuals",
    "show_config",
    "solve_nonlinear_ode",
    "solve_ode",
    "solve_ode_vjp",
    "wiener_weight",
]
