"""Parameters, and networks, of differential equations from data, together with trajectories."""

from ._fit import fit
from ._fitted import Fitted
from ._networks import Network
from ._parameters import Parameter

__all__ = ["Fitted", "Network", "Parameter", "fit"]
