"""The engine for large blocks on NumPy arrays: the sweeps of all batch members (`_block_sweep`).

Members are swept in threads; that of a single system has its columns divided among them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from .._arrays import Array, Shape, broadcast_shapes, power_derivatives, powers
from .._problem import Gradients, Rows, System
from . import cpu
from ._block_moments import covariances, rows_times
from ._block_sweep import Entries, Sweep, scheme_rows
from ._covariances import gradients_of_rows
from ._increments import permuted
from ._interface import Engine, Factor
from ._pivots import LARGEST_CHANGE, RUNS, SMALL
from ._refinement import widened
from ._rounded import RoundedFactor
from .array_api import _is_solved

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

    def solve_augmented(
        self, f: Rows | None, g: Array | None, *, rows: bool = True, states: bool = True
    ) -> tuple[Any, Any]:
        """v and y with v + W A y = f and (W A)^T v = g."""
        system = self.system
        T, V, R_init, n, U = system.n_steps, system.V, system.n_initial_orders, system.n, scheme_rows(system)[1]
        given = ([] if f is None else self._rows(f)) + ([] if g is None else [self._from_states(g)])

        def solve(sweep: Sweep, *x: np.ndarray) -> tuple[np.ndarray, ...]:
            w: Any = 0 if g is None else sweep.substitute_transposed(x[-1])
            z = -w if f is None else sweep.rotate(*x[:2]) - w
            return (*(sweep.rotate_back(z) if rows else ()), *([sweep.substitute(z)] if states else ()))

        cores = [(T, system.Q + V * R_init), (T - 1, V * U.shape[1])] if rows else []
        found = self._for_members(given, cores + ([(T, n)] if states else []), solve)
        v = y = None
        if states:
            y = found.pop()
            y = np.ascontiguousarray(np.swapaxes(y.reshape(*y.shape[:-1], system.K, V), -1, -2))
        if rows:
            own, coupling = found
            initial = own[..., : system.n_initial_steps, system.Q :]
            coupling = np.swapaxes(coupling.reshape(*coupling.shape[:-1], U.shape[1], V), -1, -2) @ U.T
            fitted = own[..., : system.Q], initial.reshape(*initial.shape[:-1], V, R_init), coupling
            v = Rows(*(-x if a is None else a - x for a, x in zip(f or 3 * (None,), fitted, strict=True)))
        return v, y

    @property
    def _determined(self) -> dict[Index, Sweep]:
        """The sweeps of members that are not undetermined."""
        return {index: sweep for index, sweep in self.sweeps.items() if not self.undetermined[index].any()}

    def log_determinant(self) -> np.ndarray:
        result = np.full(self.system.batch, np.nan)
        for index, sweep in self._determined.items():
            result[index] = 2 * np.log(np.abs(sweep.pivots)).sum()
        return result

    def covariances(self) -> tuple[np.ndarray, np.ndarray]:
        T, n, batch = self.system.n_steps, self.system.n, self.system.batch
        diagonal, lag = (np.full((*batch, count, n, n), np.nan) for count in (T, T - 1))
        for index, sweep in self._determined.items():
            for t, X, of_next in covariances(sweep):
                diagonal[index][t] = sweep.product(X, X.T)
                if t < T - 1:
                    lag[index][t] = of_next
        return permuted(self.system, diagonal), permuted(self.system, lag)

    def variances(self) -> np.ndarray:
        system, T = self.system, self.system.n_steps
        result = np.full((*system.batch, T, system.K, system.V), np.nan)
        for index, sweep in self._determined.items():
            for t, X, _ in covariances(sweep):
                result[index][t] = np.sum(X * X, axis=-1).reshape(system.K, system.V)
        return np.swapaxes(result, -1, -2).reshape(*system.batch, T, system.n)

    def moment_gradients(self, dΣ: Array | None, d_lag: Array | None, d_log_determinant: Array | None) -> Gradients:
        system, batch, T, n = self.system, self.system.batch, self.system.n_steps, self.system.n

        H = L = None
        if dΣ is not None or d_lag is not None:
            zero = np.zeros((n, n))
            H, L = (zero if x is None else permuted(system, x, back=True) for x in (dΣ, d_lag))
            H = np.broadcast_to((H + np.swapaxes(H, -1, -2)) / 2, (*batch, T, n, n))
            L = np.broadcast_to(L / 2, (*batch, T - 1, n, n))
        g = np.broadcast_to(0.0 if d_log_determinant is None else d_log_determinant, batch)
        S = scheme_rows(system)[0]
        rows = Rows(
            np.full((*batch, T, system.Q, n), np.nan),
            np.full((*batch, system.n_initial_steps, system.V, system.n_initial_orders), np.nan),
            np.full((*batch, T - 1, len(S), system.V, 2 * system.K), np.nan),
        )
        for index, sweep in self._determined.items():
            of_H, of_L = (None if x is None else x[index] for x in (H, L))
            for to, x in zip(rows, rows_times(sweep, of_H, of_L, float(g[index])), strict=True):
                to[index] = x
        equation = np.swapaxes(rows.equation.reshape(*rows.equation.shape[:-1], system.K, system.V), -1, -2)
        s = system.step_sizes
        steps, of_steps = (S * np.tile(f(np, s, system.K), 2)[..., None, :] for f in (powers, power_derivatives))
        return gradients_of_rows(system, rows._replace(equation=equation), steps, of_steps)

    def _rows(self, f: Rows) -> list[np.ndarray]:
        """Weighted rows as (..., T, own rows) and (..., T-1, coupling rows)."""
        system, (equation, initial, smoothness) = self.system, f
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

    def _for_members(
        self, given: list[np.ndarray], cores: Sequence[Shape], f: Callable[..., tuple[np.ndarray, ...]]
    ) -> list[np.ndarray]:
        """Right-hand sides that share a left-hand side become columns."""
        own = self.system.batch
        batch = broadcast_shapes({"system": own, **{f"given {i}": x.shape[:-2] for i, x in enumerate(given)}})
        own = (1,) * (len(batch) - len(own)) + own
        given = [np.broadcast_to(x, (*batch, *x.shape[-2:])) for x in given]
        results = [np.full((*batch, *core), np.nan) for core in cores]
        bad = np.asarray(self.undetermined.any(axis=-1))

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
        of_cpu = cpu.CpuEngine().describe()
        if not of_cpu.startswith("available"):
            return of_cpu
        return "available: blocked Householder reflections, NumPy arrays, for blocks larger than the cpu engine takes"

    def factorize(self, system: System) -> BlockFactor | RoundedFactor:
        """Eliminates all members."""
        wide = widened(system)
        factor = _factorize(wide)
        return factor if wide is system else RoundedFactor(system, factor.undetermined, factor)


def _factorize(system: System) -> BlockFactor:
    finite = system.is_finite
    members = [index for index in np.ndindex(system.batch) if finite[index]]
    threads = max(1, cpu._kernels.max_threads() // max(1, len(members)))
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
