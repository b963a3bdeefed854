"""Moments by compiled kernels (`kernels/covariance.hpp`), of the points that have to be eliminated for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from .._arrays import Shape
from .._fields import FIELDS, RANKS, Field
from .._problem import NONE, Gradients, Rows, System, by_field, from_fields, inputs_by_field
from .._schemes import triangular_rows
from ._statistics import core


class Moments(NamedTuple):
    """The results of the kernels for M^-1, or which of them are wanted, in their order."""

    covariance: Any = None
    """(*batch, T, n, n)"""
    lag_covariance: Any = None
    """(*batch, T-1, n, n)"""
    variance: Any = None
    """(*batch, T, n)"""
    log_determinant: Any = None
    """log det M, (*batch,)"""
    minimum: Any = None
    """|W (A y - d)|^2 at the minimum, (*batch,)"""
    of_determinant: Gradients = NONE
    """the gradients of log det M, (*batch, *core): see `Statistics`. Of right-hand sides that share a left-hand side
    the first alone has it."""
    of_minimum: Gradients = NONE
    """those of the minimum"""

    @property
    def in_order(self) -> tuple[Any, ...]:
        """All of them, one after another."""
        return *self[:5], *by_field(self.of_determinant), *by_field(self.of_minimum)

    @staticmethod
    def of(values: Sequence[Any]) -> Moments:
        """The inverse of `in_order`."""
        covariance, lag, variance, log_determinant, minimum, *gradients = values
        of_fields = from_fields(gradients[:7]), from_fields(gradients[7:])
        return Moments(covariance, lag, variance, log_determinant, minimum, *of_fields)

    @staticmethod
    def cores(system: System, d: Rows | None = None) -> tuple[Shape, ...]:
        """The axes of each behind those of the batch, `in_order`: of gradients those of the inputs."""
        T, n = system.n_steps, system.n
        b, u = (None, None) if d is None else (d.equation, d.initial)
        given = zip(inputs_by_field(system, b, u), RANKS, strict=True)
        of_inputs = [() if x is None else core(x, rank) for x, rank in given]
        return (T, n, n), (T - 1, n, n), (T, n), (), (), *of_inputs, *of_inputs


class OwnRows(NamedTuple):
    """The points of a system from the first one to the last one that has a row of its own, of a weight other than zero.

    There is no more to eliminate for log det M and the minimum. Before and behind them there are as many rows as
    unknowns, those of the steps, S11 or S12 of the scheme with w s^o in their columns: to log det M they add the
    logarithms of their determinants.
    """

    system: System
    first: int
    last: int

    @staticmethod
    def of(system: System) -> OwnRows:
        """All points, where leaving out some is not possible, or saves little."""
        T, w = system.n_steps, system.weights
        whole = OwnRows(system, 0, T - 1)
        has_rows = np.zeros(T, dtype=bool)
        for x, rank, end in ((w.equation, 2, T), (w.initial, 3, system.n_initial_steps)):
            own = np.broadcast_to(x, np.broadcast_shapes(x.shape, (1,) * rank)) != 0
            has_rows[:end] |= own.any(axis=tuple(i for i in range(own.ndim) if i != own.ndim - rank))
        if (has_rows[0] and has_rows[-1]) or not has_rows.any():
            return whole
        at = np.flatnonzero(has_rows)
        first = min(int(at[0]), T - 2)
        own = OwnRows(system, first, max(int(at[-1]), first + 1))
        s, v = own.outside()
        return own if s.all() and v.all() else whole

    @property
    def are_all(self) -> bool:
        return self.last - self.first + 1 == self.system.n_steps

    def outside(self) -> tuple[np.ndarray, np.ndarray]:
        """Sizes and weights of the steps before and behind them, (*batch, steps)."""
        system = self.system
        shape, inside = (*system.batch, system.n_steps - 1), slice(self.first, self.last)
        s, w = (np.broadcast_to(x, shape) for x in (system.step_sizes, system.weights.smoothness))
        return np.delete(s, inside, axis=-1), np.delete(w, inside, axis=-1)

    def cut(self, x: Any, field: Field) -> Any:
        """An array of the field, of these points alone."""
        if x is None or x.ndim < field.rank or x.shape[-field.rank] == 1:
            return x
        end = self.last + (field.axes[0] != "T-1")
        return x[(..., slice(self.first, end), *(slice(None),) * (field.rank - 1))]

    def cut_system(self) -> System:
        """The system of these points."""
        if self.are_all:
            return self.system
        values = (self.cut(x, field) for x, field in zip(inputs_by_field(self.system), FIELDS.values(), strict=True))
        c, _, _, s, w = from_fields(values)
        T_init = max(0, min(self.system.n_initial_steps, self.last + 1) - self.first)
        return replace(
            self.system,
            coefficients=c,
            step_sizes=s,
            weights=w,
            n_steps=self.last - self.first + 1,
            n_initial_steps=T_init,
        )

    def cut_rows(self, d: Rows | None) -> Rows | None:
        """Right-hand sides of these points."""
        if d is None or self.are_all:
            return d
        return Rows(self.cut(d.equation, FIELDS["rhs"]), self.cut(d.initial, FIELDS["initial_values"]), None)

    def extended(self, found: Moments, batch: Shape, d: Rows | None) -> Moments:
        """The moments of the whole system from those of these points."""
        if self.are_all:
            return found
        system, (s, v) = self.system, self.outside()
        n, K = system.n, system.K
        rows = triangular_rows(system.scheme, K)[0]
        if found.log_determinant is not None:
            diagonals = [np.log(np.abs(np.diagonal(x))).sum() for x in (rows[:K, :K], rows[:K, K:])]
            before, behind = self.first, system.n_steps - 1 - self.last
            constant = 2 * system.V * (before * diagonals[0] + behind * diagonals[1])
            logs = np.sum(2 * n * np.log(np.abs(v)) + n * (K - 1) * np.log(np.abs(s)), axis=-1)
            found = found._replace(log_determinant=np.asarray(found.log_determinant + constant + logs))
        outside = {"step_sizes": n * (K - 1) / s, "weights.smoothness": 2 * n / v}
        cores = Moments.cores(system, d)[5 : 5 + len(FIELDS)]

        def whole(gradients: Gradients, outside: dict[str, np.ndarray]) -> Gradients:
            given = zip(by_field(gradients), FIELDS.values(), cores, strict=True)
            return from_fields(
                None if x is None else self._whole(x, (*batch, *core), field, outside.get(field.name))
                for x, field, core in given
            )

        return found._replace(
            of_determinant=whole(found.of_determinant, outside), of_minimum=whole(found.of_minimum, {})
        )

    def _whole(self, x: np.ndarray, shape: Shape, field: Field, outside: np.ndarray | None) -> np.ndarray:
        """A gradient of all points; `outside`: of the steps before and behind these, else zero."""
        if shape[-field.rank] == 1 and field.axes[0] != "T_init":
            return x if outside is None else x + outside.sum(axis=-1, keepdims=True)
        whole = np.zeros(shape)
        self.cut(whole, field)[...] = x
        if outside is not None:
            whole[..., : self.first] = outside[..., : self.first]
            whole[..., self.last :] = outside[..., self.first :]
        return whole


def are_compiled(system: System) -> bool:
    """True if the kernels know the rows of the scheme: as many as unknowns of a variable, in upper triangular form."""
    K = system.K
    rows = triangular_rows(system.scheme, K)[0]
    return not rows[K:].any() and not np.tril(rows[:, K:], -1).any() and bool(np.diagonal(rows[:, K:]).all())
