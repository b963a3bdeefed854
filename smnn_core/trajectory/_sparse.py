"""Jacobians of which most entries are zero, and linear systems with them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

import numpy as np

from .._errors import ShapeError
from ._arithmetic import NUMPY

__all__ = ["MANY", "Groups", "Pattern", "SparseJacobian"]


MANY = 12
"""Variables from which on stages are decoupled, and Jacobians may be sparse."""


@dataclass(frozen=True)
class SparseJacobian:
    """The entries of J = ∂f/∂y, (..., n, Q, V, R+1), that are not zero everywhere.

    Attributes:
        equations: (E,), integers: of each entry the equation, 0..Q-1, that is differentiated;
        variables: (E,): by which variable, 0..V-1;
        derivatives: (E,): by its value, 0, or by which of its derivatives, 1..R. No entry may stand twice.
        values: (..., n or 1, E).

    Example: y' = -y of 1,000 variables.

        >>> import numpy as np
        >>> import smnn_core as smnn
        >>> v = np.arange(1000)
        >>> places = np.tile(v, 2), np.tile(v, 2), np.repeat([0, 1], 1000)
        >>> def residual(t, y):
        ...     return y[..., 1] + y[..., 0], smnn.SparseJacobian(*places, np.ones((1, 2000)))
        >>> s = smnn.solve(residual, [0, 1], np.ones((1000, 1)))
        >>> print(s([1.0])[0, -1, 0].round(6))
        0.367879
    """

    equations: np.ndarray
    variables: np.ndarray
    derivatives: np.ndarray
    values: np.ndarray

    def __post_init__(self) -> None:
        for name in ("equations", "variables", "derivatives"):
            object.__setattr__(self, name, np.asarray(getattr(self, name)))
        places = self.equations, self.variables, self.derivatives
        E = np.shape(self.values)[-1:]
        if any(x.dtype.kind not in "iu" or x.shape != E for x in places):
            raise ShapeError(
                "SparseJacobian: equations, variables and derivatives must be integers of shape (E,), values (..., E); "
                f"got {[f'{x.dtype} {x.shape}' for x in places]} and values of shape {np.shape(self.values)}."
            )

    @staticmethod
    def of(J: np.ndarray) -> SparseJacobian:
        """The entries of J, (..., n, Q, V, R+1), that are not zero at some point."""
        equations, variables, derivatives = np.nonzero((J != 0).reshape(-1, *J.shape[-3:]).any(axis=0))
        return SparseJacobian(equations, variables, derivatives, J[..., equations, variables, derivatives])

    def with_values(self, values: np.ndarray) -> SparseJacobian:
        return SparseJacobian(self.equations, self.variables, self.derivatives, values)

    def dense(self, Q: int, V: int, orders: int) -> np.ndarray:
        """J."""
        J = np.zeros((*self.values.shape[:-1], Q, V, orders))
        J[..., self.equations, self.variables, self.derivatives] = self.values
        return J


class Groups:
    """Equations in groups within which no two depend on one number: a Jacobian follows from the derivatives of the sums
    of each, and that there are no other entries from those of a sum of all.

    Source: Curtis, Powell, Reid, J. Inst. Math. Appl. 13 (1974) 117.

    Args:
        J: (..., Q, V, R+1).
    """

    def __init__(self, J: np.ndarray) -> None:
        found = SparseJacobian.of(J)
        self.places = found.equations, found.variables, found.derivatives
        Q, V, orders = J.shape[-3:]
        columns = found.variables * orders + found.derivatives
        at = np.searchsorted(found.equations, np.arange(Q + 1))
        taken: list[set[int]] = [set() for _ in range(V * orders)]
        self.of_equation = np.zeros(Q, int)
        for q in range(Q):
            own = columns[at[q] : at[q + 1]].tolist()
            others = set().union(*(taken[i] for i in own))
            group = next(i for i in range(Q) if i not in others)
            for i in own:
                taken[i].add(group)
            self.of_equation[q] = group
        self.count = int(self.of_equation.max()) + 1
        self.weights = np.zeros((self.count + 1, Q))
        """of each equation in the sum of each group, and in that of all"""
        self.weights[self.of_equation, np.arange(Q)] = 1.0
        self.weights[-1] = np.random.default_rng(0).uniform(1.0, 2.0, Q)

    @staticmethod
    def of(J: np.ndarray) -> Groups | None:
        """None where they would not be few, or equations are not many."""
        if J.shape[-3] <= MANY:
            return None
        groups = Groups(J)
        return groups if 4 * groups.count < J.shape[-3] else None

    def jacobian(self, sums: np.ndarray, eps: float) -> SparseJacobian | None:
        """From the derivatives of the sums, (count + 1, ..., n, V, R+1), in arithmetic that rounds to eps; None if
        there are other entries."""
        q, v, r = self.places
        values = np.moveaxis(sums[self.of_equation[q], ..., v, r], 0, -1)
        last, weighted = sums[-1], values * self.weights[-1, q]
        index = v * last.shape[-1] + r
        order = np.argsort(index, kind="stable")
        present, first = np.unique(index[order], return_index=True)
        left = last.reshape(*last.shape[:-2], -1).copy()
        size = np.zeros_like(left)
        left[..., present] -= np.add.reduceat(weighted[..., order], first, axis=-1)
        size[..., present] = np.add.reduceat(np.abs(weighted)[..., order], first, axis=-1)
        if (np.abs(left) > 1e3 * eps * size.max(axis=-1, keepdims=True)).any():
            return None
        return SparseJacobian(q, v, r, values)


@cache
def _has_scipy() -> bool:
    try:
        import scipy.linalg
        import scipy.sparse.csgraph  # noqa: F401
    except ImportError:
        return False
    return True


class Pattern:
    """Matrices (V, V) that have entries at the same places, factored by LAPACK: as banded ones, where the reverse order
    of Cuthill and McKee makes them so. Without SciPy they are inverted.

    Args:
        rows, columns: (E,), where the entries are; those of one place add up.
    """

    def __init__(self, V: int, rows: np.ndarray, columns: np.ndarray) -> None:
        self.shape, self.order, self.place, self.is_banded = (V, V), np.arange(V), np.arange(V), False
        self._put(columns * V + rows)
        if not _has_scipy():
            return
        from scipy.sparse import coo_matrix
        from scipy.sparse.csgraph import reverse_cuthill_mckee

        order = np.asarray(reverse_cuthill_mckee(coo_matrix((np.ones(len(rows)), (rows, columns)), (V, V)).tocsr()))
        place = np.argsort(order)
        below = place[rows] - place[columns]
        lower, upper = int(below.max(initial=0)), int(-below.min(initial=0))
        height = 2 * lower + upper + 1  # of LAPACK's storage, with room for what pivots bring
        if 2 * height < V:
            self.shape, self.order, self.place, self.is_banded = (V, height), order, place, True
            self._band = lower, upper
            self._put(place[columns] * height + lower + upper + below)

    @staticmethod
    def of(V: int, rows: np.ndarray, columns: np.ndarray) -> Pattern:
        """One made before, where there is such."""
        return _known(V, *(np.ascontiguousarray(x, np.intp).tobytes() for x in (rows, columns)))

    def _put(self, index: np.ndarray) -> None:
        """Takes where each entry is stored; several may be at one place."""
        self._sorted = np.argsort(index, kind="stable")
        self._index, self._first = np.unique(index[self._sorted], return_index=True)

    def factor(self, entries: np.ndarray) -> list[Any]:
        """Of matrices with entries (count, E)."""
        A = np.zeros((len(entries), self.shape[0] * self.shape[1]), entries.dtype)
        A[:, self._index] = np.add.reduceat(entries[:, self._sorted], self._first, axis=1)
        A = A.reshape(-1, *self.shape).swapaxes(1, 2)
        if not _has_scipy():
            return list(NUMPY.inverse(A))
        from scipy.linalg import get_lapack_funcs

        if self.is_banded:
            factor, solve = get_lapack_funcs(("gbtrf", "gbtrs"), (A,))
            return [(*factor(a, *self._band, overwrite_ab=True)[:2], solve) for a in A]
        factor, solve = get_lapack_funcs(("getrf", "getrs"), (A,))
        return [(*factor(a, overwrite_a=True)[:2], solve) for a in A]

    def solve(self, factor: Any, b: np.ndarray, *, transposed: bool = False) -> np.ndarray:
        """The solution for b (V,) with one of these factors, or its transpose."""
        if isinstance(factor, np.ndarray):
            return (factor.T if transposed else factor) @ b
        lu, pivots, solve = factor
        if self.is_banded:
            return solve(lu, *self._band, b[self.order], pivots, trans=int(transposed))[0][self.place]
        return solve(lu, pivots, b, trans=int(transposed))[0]


@lru_cache(maxsize=16)
def _known(V: int, rows: bytes, columns: bytes) -> Pattern:
    return Pattern(V, np.frombuffer(rows, np.intp), np.frombuffer(columns, np.intp))
