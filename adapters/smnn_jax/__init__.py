"""smnn on JAX arrays: differentiable to any order, under every transform, sharded too."""

from ._solve import solve_ode

__all__ = ["solve_ode"]
