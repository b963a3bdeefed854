"""Nonlinear equations: linear problems in turn, by Newton's method, and the derivatives of their solution."""

from ._solution import NonlinearGradients, NonlinearSolution
from ._solve import solve_nonlinear_ode

__all__ = ["NonlinearGradients", "NonlinearSolution", "solve_nonlinear_ode"]
