"""smnn: differentiable solvers for differential equations posed as banded least squares."""

from ._conditions import conditions
from ._config import show_config
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
from ._problem import Gradients, Weights
from ._schemes import HERMITE, TAYLOR, WIENER, Scheme
from ._solve import Factorization, Residuals, dense_system, factorize, residuals, solve_ode, solve_ode_vjp
from .discovery import Discovery, Library, discover, fourier, functions, polynomials
from .fitting import Fitted, Network, Parameter, fit
from .trajectory import Solution, SparseJacobian, solve
from .uncertainty import Posterior, log_evidence, posterior, wiener_weight

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
    "Fitted",
    "Gradients",
    "Library",
    "MisfitWarning",
    "NamespaceError",
    "Network",
    "Parameter",
    "Posterior",
    "Residuals",
    "Scheme",
    "SchemeError",
    "ShapeError",
    "SingularSystemError",
    "Solution",
    "SparseJacobian",
    "Weights",
    "conditions",
    "dense_system",
    "discover",
    "error_estimate",
    "factorize",
    "fit",
    "fourier",
    "functions",
    "log_evidence",
    "polynomials",
    "posterior",
    "residuals",
    "show_config",
    "solve",
    "solve_ode",
    "solve_ode_vjp",
    "wiener_weight",
]
