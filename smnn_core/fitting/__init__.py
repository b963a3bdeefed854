"""Parameters of nonlinear equations from data, together with the trajectory."""

from ._fit import fit_ode
from ._fit_on_mesh import fit
from ._fitted import Fitted
from ._parameters import Parameter
from ._result import Fit

__all__ = ["Fit", "Fitted", "Parameter", "fit", "fit_ode"]
