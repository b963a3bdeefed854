"""Elimination of one system with large blocks, one time point after the other, by blocked Householder reflections.

With the unknowns of a point ordered by derivative, then by variable, at point t

    [ S[t]   ]                                S[t] (n, n): what the points before t say about y[t]
    [ own[t] ]  =  Q [ U ]                    (the fold) n rows about y[t], U upper triangular

    [ U   0  ]     Q [ R[t]  E[t]   ]         the rows F diag(s^o) y[t] + G diag(s^o) y[t+1] of the scheme, in the
    [ F   G  ]  =    [ 0     S[t+1] ]         triangular form of `_schemes.triangular_rows`, so that F is triangular
                                              too: the column of a panel meets the rows of U and F that begin there

The compiled panels (`_cpu/panels.hpp`) choose in each column the row with its largest entry as pivot, so that rows of
very different weight keep their digits. A point takes about 6 n^3 operations and keeps about 4 n^2 numbers.
"""

from __future__ import annotations

from functools import cached_property
from typing import NamedTuple

import numpy as np

from .._problem import System
from .._schemes import triangular_rows
from . import cpu
from ._pivots import PERTURBATION

__all__ = ["Entries", "Reflections", "Sweep", "scheme_rows"]


class Reflections:
    """A matrix A (M, n) triangularised by reflections of its rows, A = Q R; A is overwritten."""

    def __init__(self, A: np.ndarray, begins: np.ndarray, C: np.ndarray | None, threads: int) -> None:
        """
        Args:
            begins: (M,), the column in which each row begins; n: the row is left out, since it is zero.
            C: (M, columns), becomes Q^T C.
        """
        M, n = A.shape
        panel = cpu._kernels.PANEL
        self.A, self.threads = A, threads
        self.T = np.empty((-(-n // panel), panel, panel))
        self.order = np.empty((len(self.T), M), np.int32)
        cpu._kernels.triangularise(A, begins.astype(np.int32, copy=False), C, self.T, self.order, threads)
        self.pivots = np.ascontiguousarray(self.order[:, :panel].ravel()[:n])
        """the rows of A in which R stands"""
        last = self.order[-1, n - (len(self.T) - 1) * panel :]
        self.rest = last[last >= 0]
        """the rows of A that became zero"""

    @property
    def R(self) -> np.ndarray:
        """(n, n), upper triangular"""
        return np.triu(self.A[self.pivots])

    def rotate(self, d: np.ndarray, *, back: bool = False) -> np.ndarray:
        """Q^T d, or Q d (`back`), in place, for d of shape (M, columns)."""
        cpu._kernels.rotate(self.A, self.T, self.order, d, back, self.threads)
        return d


class Entries(NamedTuple):
    """W A of one system."""

    equation: np.ndarray
    """(T, Q, n)"""
    initial: np.ndarray
    """(T_init, V, R_init)"""
    smoothness: np.ndarray
    """(T-1, rows, 2K, V or 1): in triangular form, K rows and those that touch the next point alone"""

    @staticmethod
    def of(system: System, index: tuple[int, ...]) -> Entries:
        """The entries of one batch member."""
        c, s, w_equation, w_initial, w_smoothness = system.member(index).values()
        T, Q, V, K = c.shape
        c = c * w_equation[..., None, None]
        p = w_smoothness[:, None] * s[:, None] ** np.arange(K)
        smoothness = scheme_rows(system)[0] * np.tile(p, 2)[:, None, :]
        return Entries(np.swapaxes(c, -1, -2).reshape(T, Q, V * K), w_initial, smoothness[..., None])

    def perturbed(self, run: int) -> Entries:
        """Random relative errors in every entry, as in `_pivots`."""
        rng = np.random.default_rng(run)

        def changed(x: np.ndarray) -> np.ndarray:
            return x * (1 + PERTURBATION * np.finfo(np.float64).eps * rng.uniform(-1, 1, x.shape))

        n, K = self.equation.shape[-1], self.smoothness.shape[-2] // 2
        smoothness = np.broadcast_to(self.smoothness, (*self.smoothness.shape[:-1], n // K))
        return Entries(changed(self.equation), changed(self.initial), changed(smoothness))


def scheme_rows(system: System) -> tuple[np.ndarray, np.ndarray]:
    """The triangular rows (rows, 2K) that are not zero behind the first K, and the columns of Q (m, rows) for these."""
    rows, Q = triangular_rows(system.scheme, system.K)
    kept = rows.any(axis=1) | (np.arange(len(rows)) < system.K)
    return rows[kept], Q[:, kept]


class Sweep:
    """One system, eliminated in the order of time.

    Right-hand sides are (T, own rows, columns) and (T-1, coupling rows, columns), own rows: equations, then initial
    values (behind T_init: zeros that are not looked at); coupling rows ordered by the rows of the scheme, then by
    variable.
    """

    def __init__(self, entries: Entries, threads: int) -> None:
        self.entries, self.threads = entries, threads
        self.T, self.Q, self.n = entries.equation.shape
        rows, twice_K = entries.smoothness.shape[1:3]
        self.K = twice_K // 2
        self.V = self.n // self.K
        self.extra = (rows - self.K) * self.V
        """coupling rows that touch the next point alone"""
        self.folds: list[Reflections] = []
        self.couplings: list[Reflections] = []
        self.E: list[np.ndarray] = []
        self.sizes = np.zeros(self.n)
        """the largest entry of each unknown in any row"""
        n, S = self.n, np.zeros((self.n, self.n))
        begins, upper = np.tile(np.arange(n, dtype=np.int32), 2), np.tri(n, dtype=np.bool_).T
        for t in range(self.T):
            A = np.concatenate([S, self._beyond(t), self._own(t)])
            self._see(A)
            fold = Reflections(A, self._begins(A), None, threads)
            self.folds.append(fold)
            if t < self.T - 1:
                A, C = np.zeros((2 * n, n)), np.zeros((2 * n, n))
                np.copyto(A[:n], fold.A[fold.pivots], where=upper)
                self._spread(A[n:], t, slice(None, self.K), slice(None, self.K))
                self._spread(C[n:], t, slice(None, self.K), slice(self.K, None))
                self._see(A[n:])
                coupling = Reflections(A, begins, C, threads)
                self.couplings.append(coupling)
                self.E.append(C[coupling.pivots])
                S = C[coupling.rest]
        self.triangles = [*self.couplings, self.folds[-1]]
        """those in which R of each point stands"""

    def _see(self, rows: np.ndarray) -> None:
        np.maximum(self.sizes, np.maximum(rows.max(axis=0), -rows.min(axis=0)), out=self.sizes)

    def _begins(self, A: np.ndarray) -> np.ndarray:
        """Rows of zeros are left out, as far as there are enough others."""
        empty = ~A.any(axis=1)
        begins = np.where(empty, self.n, 0)
        begins[np.flatnonzero(empty)[: max(self.n - np.count_nonzero(~empty), 0)]] = 0
        return begins

    def _own(self, t: int) -> np.ndarray:
        initial = self.entries.initial[t : t + 1]
        given, V, R_init = initial.shape
        rows = np.zeros((given, V, R_init, self.K, V))
        v, r = np.indices((V, R_init))
        rows[:, v, r, r, v] = initial
        return np.concatenate([self.entries.equation[t], rows.reshape(given * V * R_init, self.n)])

    def _beyond(self, t: int) -> np.ndarray:
        """Coupling rows from t-1 that touch t alone."""
        rows = np.zeros((self.extra if t > 0 else 0, self.n))
        if len(rows):
            self._spread(rows, t - 1, slice(self.K, None), slice(self.K, None))
        return rows

    def _spread(self, to: np.ndarray, t: int, rows: slice, orders: slice) -> None:
        """Entries of the coupling rows of step t into zeros (rows V, n), for each variable its own."""
        values = self.entries.smoothness[t, rows, orders]
        np.einsum("rvov->rov", to.reshape(len(values), self.V, self.K, self.V))[...] = values

    @cached_property
    def pivots(self) -> np.ndarray:
        """(T, n): the diagonal of R"""
        return np.stack([np.diagonal(x.A[x.pivots]) for x in self.triangles])

    def rotate(self, own: np.ndarray, coupling: np.ndarray) -> np.ndarray:
        """The first rows of Q^T d, those of R, (T, n, columns)."""
        n, z = self.n, np.empty((self.T, self.n, own.shape[-1]))
        carried = np.zeros_like(z[0])
        for t, fold in enumerate(self.folds):
            before = coupling[t - 1, n:] if t > 0 else coupling[:0].reshape(0, own.shape[-1])
            x = fold.rotate(np.concatenate([carried, before, own[t]])[: len(fold.A)])[fold.pivots]
            if t < self.T - 1:
                step = self.couplings[t]
                both = step.rotate(np.concatenate([x, coupling[t, :n]]))
                x, carried = both[step.pivots], both[step.rest]
            z[t] = x
        return z

    def rotate_back(self, w: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The transpose: Q (w, 0), right-hand sides."""
        n, columns = self.n, w.shape[-1]
        own = np.zeros((self.T, self.Q + self.V * self.entries.initial.shape[-1], columns))
        coupling = np.empty((self.T - 1, n + self.extra, columns))
        carried = w[-1]
        for t in reversed(range(self.T)):
            x = w[t]
            if t < self.T - 1:
                step, both = self.couplings[t], np.empty((2 * n, columns))
                both[step.pivots], both[step.rest] = x, carried
                x, coupling[t, :n] = np.split(step.rotate(both, back=True), 2)
            fold = self.folds[t]
            rows = np.zeros((len(fold.A), columns))
            rows[fold.pivots] = x
            fold.rotate(rows, back=True)
            first = n + (self.extra if t > 0 else 0)
            carried = rows[:n]
            if t > 0:
                coupling[t - 1, n:] = rows[n:first]
            own[t, : len(rows) - first] = rows[first:]
        return own, coupling

    def substitute(self, z: np.ndarray) -> np.ndarray:
        """R^-1 z, in place, (T, n, columns)."""
        for t in reversed(range(self.T)):
            self.solve(t, z[t], z[t + 1] if t < self.T - 1 else None)
        return z

    def substitute_transposed(self, g: np.ndarray) -> np.ndarray:
        """R^-T g, in place."""
        for t in range(self.T):
            self.solve(t, g[t], g[t + 1] if t < self.T - 1 else None, transposed=True)
        return g

    def solve(self, t: int, x: np.ndarray, beyond: np.ndarray | None, *, transposed: bool = False) -> np.ndarray:
        """x := R[t]^-1 (x - E[t] beyond); or (`transposed`) x := R[t]^-T x, beyond -= E[t]^T x; without E for None."""
        step, E = self.triangles[t], None if beyond is None else self.E[t]
        cpu._kernels.substitute(step.pivots, step.A, E, x, beyond, transposed, self.threads)
        return x

    def inverse(self, t: int) -> np.ndarray:
        """R[t]^-1"""
        return self.solve(t, np.eye(self.n), None)

    def backward(self, t: int) -> np.ndarray:
        """J = -R[t]^-1 E[t]"""
        return self.solve(t, np.zeros((self.n, self.n)), np.eye(self.n))

    def product(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """a b, in as many threads as the sweep has: those of BLAS would wait for one another."""
        out = np.empty((len(a), b.shape[1]))
        cpu._kernels.multiply(a, b, out, self.threads)
        return out
