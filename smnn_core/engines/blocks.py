"""The engine for large blocks on NumPy arrays: the sweeps of all batch members (`_block_sweep`).

Members are swept in threads; that of a single system has its columns divided among them.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from .._arrays import Array, power_derivatives, powers
from .._problem import Gradients, Rows, System
from . import cpu
from ._block_moments import covariances, rows_times
from ._block_sweep import Entries, Sweep, scheme_rows
from ._columns import Columns, ColumnsFactor
from ._covariances import gradients_of_rows
from ._increments import permuted
from ._interface import Engine
from ._pivots import LARGEST_CHANGE, RUNS, SMALL
from ._refinement import is_solved
from ._rounded import RoundedFactor, in_float64

Index = tuple[int, ...]


@dataclass(frozen=True, eq=False)
class BlockFactor(ColumnsFactor):
    """The sweeps of all batch members."""

    system: System
    sweeps: dict[Index, Sweep]
    """by batch index; none of members that are not finite"""
    undetermined: np.ndarray

    @property
    def basis(self) -> np.ndarray:
        return scheme_rows(self.system)[1]

    def solve_columns(
        self, columns: Columns, f: tuple[Array, Array] | None, g: Array | None, rows: bool, states: bool
    ) -> tuple[tuple[Array, Array] | None, Array | None]:
        """Q z and R^-1 z, with z = Q^T f - R^-T g."""
        system = self.system
        T, V, k = system.n_steps, system.V, self.basis.shape[1]

        def swapped(x: np.ndarray, outer: int, inner: int) -> np.ndarray:
            """Couplings (T-1, outer inner, columns) ordered the other way."""
            return np.swapaxes(x.reshape(T - 1, outer, inner, -1), 1, 2).reshape(x.shape)

        def empty(length: int, rows: int) -> np.ndarray:
            return np.full((*columns.lhs, length, rows, columns.count), np.nan)

        own, coupling = empty(T, system.Q + V * system.n_initial_orders), empty(T - 1, V * k)
        x = empty(T, system.n)
        members = dict(zip(np.ndindex(system.batch), np.ndindex(columns.lhs), strict=True))

        def solve(index: Index) -> None:
            sweep, at = self._determined[index], members[index]
            w: Any = 0 if g is None else sweep.substitute_transposed(np.array(g[at], order="C"))
            z = -w if f is None else sweep.rotate(f[0][at], swapped(f[1][at], V, k)) - w
            if rows:
                own[at], of_step = sweep.rotate_back(z)
                coupling[at] = swapped(of_step, k, V)
            if states:
                x[at] = sweep.substitute(z)

        in_threads(solve, list(self._determined) if columns.count else [])
        return (own, coupling) if rows else None, x if states else None

    @cached_property
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
        return in_float64(system, _factorize)


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
        noise &= ~is_solved(BlockFactor(system, sweeps, np.zeros_like(undetermined)))[..., None]
    return BlockFactor(system, sweeps, undetermined | noise)
