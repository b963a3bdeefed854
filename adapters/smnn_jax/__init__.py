"""smnn on JAX arrays: differentiable to any order, under every transform, sharded too."""

from smnn_core import HERMITE, TAYLOR, Scheme, SingularSystemError, Weights

from ._solve import solve_ode

__all__ = ["HERMITE", "TAYLOR", "Scheme", "SingularSystemError", "Weights", "solve_ode"]
