"""Differential equations to a tolerance: collocation on meshes of their own."""

from ._solution import Solution
from ._solve import solve

__all__ = ["Solution", "solve"]
