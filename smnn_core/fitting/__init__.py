"""Parameters of nonlinear equations from data, together with the trajectory."""

from ._fit import fit_ode
from ._result import Fit

__all__ = ["Fit", "fit_ode"]
