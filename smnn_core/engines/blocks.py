"""The engine for large blocks on NumPy arrays: one time point after the other, by blocked Householder reflections.

Elimination in the order of time, with the unknowns of a point ordered by derivative, then by variable. At point t

    [ S[t]   ]                                S[t] (n, n): what the points before t say about y[t]
    [ own[t] ]  =  Q [ U ]                    (the fold) n rows about y[t], U upper triangular

    [ U   0  ]     Q [ R[t]  E[t]   ]         the rows F diag(s^o) y[t] + G diag(s^o) y[t+1] of the scheme, in the
    [ F   G  ]  =    [ 0     S[t+1] ]         triangular form of `_schemes.triangular_rows`, so that F is triangular
                                              too: the column of a panel meets the rows of U and F that begin there

The compiled panels (`_cpu/panels.hpp`) choose in each column the row with its largest entry as pivot, so that rows of
very different weight keep their digits. A point takes about 6 n^3 operations and keeps 4 n^2 numbers; the sweeps of
batch members run in threads, that of a single system has its columns divided among them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from .._arrays import Array, Shape, broadcast_shapes
from .._constraints import residual, weighted
from .._problem import Rows, System
from .._schemes import triangular_rows
from . import cpu
from ._block_moments import BlockSelectedInverse
from ._interface import Engine, Factor
from ._pivots import LARGEST_CHANGE, PERTURBATION, RUNS, SMALL
from ._refinement import change_of_solution, refined, widened
from ._rounded import RoundedFactor
from .array_api import _is_solved


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
        cpu._kernels.triangularise(A, begins.astype(np.int32), C, self.T, self.order, threads)
        self.pivots = np.ascontiguousarray(self.order[:, :panel].ravel()[:n])
        """the rows of A in which R stands"""
        last = self.order[-1, n - (len(self.T) - 1) * panel :]
        self.rest = last[last >= 0]
        """the rows of A that became zero"""

    @property
    def R(self) -> np.ndarray:
        """(n, n), upper triangular"""
        return np.triu(self.A[self.pivots])

    @property
    def nbytes(self) -> int:
        return self.A.nbytes + self.T.nbytes + self.order.nbytes

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
        """Those of a batch member."""
        T, Q, V, K, w = system.n_steps, system.Q, system.V, system.K, system.weights

        def member(x: np.ndarray, *core: int) -> np.ndarray:
            return np.broadcast_to(x, (*system.batch, *core))[index]

        c = member(system.coefficients, T, Q, V, K) * member(w.equation, T, Q)[..., None, None]
        p = member(w.smoothness, T - 1)[:, None] * member(system.step_sizes, T - 1)[:, None] ** np.arange(K)
        smoothness = scheme_rows(system)[0] * np.tile(p, 2)[:, None, :]
        initial = member(w.initial, system.n_initial_steps, V, system.n_initial_orders)
        return Entries(np.swapaxes(c, -1, -2).reshape(T, Q, V * K), initial, smoothness[..., None])

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
        for t in range(self.T):
            A = np.concatenate([S, self._beyond(t), self._own(t)])
            self._see(A)
            fold = Reflections(A, self._begins(A), None, threads)
            self.folds.append(fold)
            if t < self.T - 1:
                A, C = np.zeros((2 * n, n)), np.zeros((2 * n, n))
                A[:n] = fold.R
                self._spread(A[n:], t, slice(None, self.K), slice(None, self.K))
                self._spread(C[n:], t, slice(None, self.K), slice(self.K, None))
                self._see(A[n:])
                coupling = Reflections(A, np.tile(np.arange(n), 2), C, threads)
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
        v = np.arange(self.V)
        to.reshape(len(values), self.V, self.K, self.V)[:, v, :, v] = np.moveaxis(
            np.broadcast_to(values, (*values.shape[:2], self.V)), -1, 0
        )

    @property
    def nbytes(self) -> int:
        return sum(x.nbytes for x in (*self.folds, *self.couplings, *self.E))

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


Index = tuple[int, ...]


@dataclass(frozen=True, eq=False)
class BlockFactor(Factor):
    """The sweeps of all batch members."""

    system: System
    sweeps: dict[Index, Sweep]
    """by batch index; none of members that are not finite"""
    undetermined: np.ndarray

    @property
    def nbytes(self) -> int:
        """The memory that the factor keeps."""
        return sum(sweep.nbytes for sweep in self.sweeps.values())

    def solve(self, d: Rows) -> Array:
        """argmin_y |W (A y - d)|, with iterative refinement: the residual is computed row by row, without mixing."""

        def change(y: tuple[Array, ...], dy: tuple[Array, ...]) -> Array:
            return change_of_solution(self.system, y[0], dy[0])

        return refined(self.system, lambda y: (self.correct(d, None if y is None else y[0]),), change)[0]

    def correct(self, d: Rows, y: Array | None) -> Array:
        """argmin_x |W (A x - (d - A y))|: what is missing in y, None for zero."""
        d = d if y is None else residual(self.system, d, y)
        return self._states(self._rows(d), lambda sweep, own, coupling: sweep.substitute(sweep.rotate(own, coupling)))

    def normal_solve(self, g: Array) -> Array:
        return self._states([self._from_states(g)], lambda sweep, g: sweep.substitute(sweep.substitute_transposed(g)))

    def _adjoint_rows(self, g: Array) -> Rows:
        """Q R^-T g."""
        return self._in_rows([self._from_states(g)], lambda sweep, g: sweep.rotate_back(sweep.substitute_transposed(g)))

    def residual_rows(self, d: Rows) -> Rows:
        """W (d - A y) at the minimum: W d less its part in the range of W A, from Q, without the rounding of y."""
        fitted = self._in_rows(self._rows(d), lambda sweep, *rows: sweep.rotate_back(sweep.rotate(*rows)))
        d = weighted(self.system.weights, d)
        return Rows(*(-x if y is None else y - x for x, y in zip(fitted, d, strict=True)))

    def selected_inverse(self) -> BlockSelectedInverse:
        """The blocks of M^-1 in and beside the diagonal, and log det M."""
        return BlockSelectedInverse(self.system, self.sweeps, self.undetermined.any(axis=-1))

    @staticmethod
    def _factorized(system: System) -> Factor:
        return BlockEngine().factorize(system)

    def _rows(self, d: Rows) -> list[np.ndarray]:
        """W d as (..., T, own rows) and (..., T-1, coupling rows)."""
        system, (equation, initial, smoothness) = self.system, weighted(self.system.weights, d)
        T, T_init, V = system.n_steps, system.n_initial_steps, system.V
        n_initial = V * system.n_initial_orders
        batch = np.broadcast_shapes(equation.shape[:-2], initial.shape[:-3])
        own = np.zeros((*batch, T, system.Q + n_initial))
        own[..., : system.Q] = equation
        own[..., :T_init, system.Q :] = initial.reshape(*initial.shape[:-2], n_initial)
        U = scheme_rows(system)[1]
        if smoothness is None:
            return [own, np.zeros((T - 1, V * U.shape[1]))]
        coupling = np.swapaxes(smoothness @ U, -1, -2)
        return [own, coupling.reshape(*coupling.shape[:-2], V * U.shape[1])]

    def _from_states(self, x: Array) -> np.ndarray:
        """(..., T, V, K) as (..., T, n) ordered by derivative."""
        return np.swapaxes(x, -1, -2).reshape(*x.shape[:-2], self.system.n)

    def _states(self, given: list[np.ndarray], f: Callable[..., np.ndarray]) -> np.ndarray:
        """f of each sweep and of what is given for it, (..., T, entries), as columns; (*batch, T, V, K)."""
        system = self.system
        (x,) = self._for_members(given, [(system.n_steps, system.n)], lambda *a: (f(*a),))
        return np.ascontiguousarray(np.swapaxes(x.reshape(*x.shape[:-1], system.K, system.V), -1, -2))

    def _in_rows(self, given: list[np.ndarray], f: Callable[..., tuple[np.ndarray, np.ndarray]]) -> Rows:
        """The same for f that gives own rows and coupling rows."""
        system, U = self.system, scheme_rows(self.system)[1]
        T, V, R_init = system.n_steps, system.V, system.n_initial_orders
        cores = [(T, system.Q + V * R_init), (T - 1, V * U.shape[1])]
        own, coupling = self._for_members(given, cores, f)
        initial = own[..., : system.n_initial_steps, system.Q :]
        coupling = np.swapaxes(coupling.reshape(*coupling.shape[:-1], U.shape[1], V), -1, -2) @ U.T
        return Rows(own[..., : system.Q], initial.reshape(*initial.shape[:-1], V, R_init), coupling)

    def _for_members(
        self, given: list[np.ndarray], cores: list[Shape], f: Callable[..., tuple[np.ndarray, ...]]
    ) -> list[np.ndarray]:
        """Right-hand sides that share a left-hand side become columns."""
        own = self.system.batch
        batch = broadcast_shapes({"system": own, **{f"given {i}": x.shape[:-2] for i, x in enumerate(given)}})
        own = (1,) * (len(batch) - len(own)) + own
        given = [np.broadcast_to(x, (*batch, *x.shape[-2:])) for x in given]
        results = [np.full((*batch, *core), np.nan) for core in cores]
        bad = self.undetermined.any(axis=-1)

        def solve(index: Index) -> None:
            repeated = (slice(None) if length == 1 else slice(i, i + 1) for i, length in self._places(index, own))
            where = tuple(repeated)
            columns = [np.array(np.moveaxis(x[where].reshape(-1, *x.shape[-2:]), 0, -1), order="C") for x in given]
            if not bad[index] and columns[0].size:
                for to, x in zip(results, f(self.sweeps[index], *columns), strict=True):
                    to[where] = np.moveaxis(x, -1, 0).reshape(to[where].shape)

        in_threads(solve, list(self.sweeps))
        return results

    @staticmethod
    def _places(index: Index, own: Shape) -> Iterator[tuple[int, int]]:
        """The place of a member along each axis of a batch, and the length of that axis in the system."""
        return zip((0,) * (len(own) - len(index)) + index, own, strict=True)


def in_threads(f: Callable[[Index], Any], members: list[Index]) -> list[Any]:
    """f of each member; several at a time where there are several."""
    threads = min(cpu._kernels.max_threads(), len(members))
    if threads <= 1:
        return [f(index) for index in members]
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(f, members))


class BlockEngine(Engine):
    """Sequential elimination by blocked Householder reflections, for any number of unknowns per time point."""

    name = "blocks"

    def refusal(self, system: System) -> str | None:
        """Why the system is left to another engine: no kernels, or other arrays than NumPy's."""
        if cpu._kernels is None:
            return cpu._missing
        if not isinstance(system.coefficients, np.ndarray):
            return f"it serves NumPy arrays, and the coefficients are {type(system.coefficients).__name__}."
        return None

    def describe(self) -> str:
        """One line for `show_config`."""
        if cpu._kernels is None:
            return f"not available: {cpu._missing}"
        return "available: blocked Householder reflections, NumPy arrays, made for more unknowns than the cpu engine takes"

    def factorize(self, system: System) -> BlockFactor | RoundedFactor:
        """Eliminates all members."""
        wide = widened(system)
        factor = _factorize(wide)
        return factor if wide is system else RoundedFactor(system, factor.undetermined, factor)


def _factorize(system: System) -> BlockFactor:
    members = [index for index in np.ndindex(system.batch) if system.is_finite[index]]
    threads = cpu._kernels.max_threads() if len(members) == 1 else 1
    undetermined = np.zeros((*system.batch, system.n_steps), np.bool_)
    noise = np.zeros_like(undetermined)

    def eliminate(index: Index) -> Sweep:
        entries = Entries.of(system, index)
        sweep = Sweep(entries, threads)
        pivots = np.abs(sweep.pivots)
        undetermined[index] = np.any(pivots == 0, axis=-1)
        if np.any(pivots <= SMALL * sweep.sizes):
            for run in range(RUNS):
                change = np.abs(np.abs(Sweep(entries.perturbed(run), threads).pivots) - pivots)
                noise[index] |= np.any(change > LARGEST_CHANGE * pivots, axis=-1)
        return sweep

    sweeps = dict(zip(members, in_threads(eliminate, members), strict=True))
    if noise.any():
        noise &= ~_is_solved(BlockFactor(system, sweeps, np.zeros_like(undetermined)))[..., None]
    return BlockFactor(system, sweeps, undetermined | noise)
