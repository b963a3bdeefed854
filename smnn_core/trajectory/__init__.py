"""Differential equations to a tolerance: collocation on meshes of their own."""

from ._solution import Solution
from ._solve import solve
from ._sparse import SparseJacobian

__all__ = ["Solution", "SparseJacobian", "solve"]
