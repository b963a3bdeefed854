"""Moments by compiled kernels (`kernels/covariance.hpp`), and what factors make of them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from functools import cached_property
from typing import Any, NamedTuple

from .._arrays import Array, Shape, sum_to_shape
from .._problem import Gradients, Rows, System
from ._increments import increment_rows
from ._interface import Factor
from ._statistics import NONE, OF_LHS, RANKS, Statistics, by_field, core, from_fields, inputs_by_field


class Moments(NamedTuple):
    """What the kernels compute of M^-1, or which of it is wanted, in their order."""

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


class CompiledSelectedInverse:
    """What is asked for, of a factor that has `moments(wanted)`; see `_selected_inverse.SelectedInverse`."""

    def __init__(self, factor: MomentsFactor, by_array_api: Any) -> None:
        """`by_array_api()` gives the array API engine's."""
        self.factor, self._by_array_api = factor, by_array_api

    @cached_property
    def log_determinant(self) -> Array:
        """(*batch,)"""
        return self._rounded(self.factor.moments(Moments(log_determinant=True)).log_determinant)

    @cached_property
    def blocks(self) -> tuple[Array, Array]:
        """(*batch, T, n, n) and (*batch, T-1, n, n)"""
        found = self.factor.moments(Moments(covariance=True, lag_covariance=True))
        return self._rounded(found.covariance), self._rounded(found.lag_covariance)

    @cached_property
    def variance(self) -> Array:
        """The diagonal of the first of `blocks`, (*batch, T, n)."""
        return self._rounded(self.factor.moments(Moments(variance=True)).variance)

    def pullback(self, dΣ: Array | None, d_lag: Array | None, d_log_determinant: Array | None) -> Gradients:
        """The gradients with respect to the system, from those of `blocks` and of `log_determinant`; None is zero."""
        if dΣ is not None or d_lag is not None or d_log_determinant is None:
            gradients: Gradients = self._by_array_api().pullback(dΣ, d_lag, d_log_determinant)
            return gradients
        system, g = self.factor.system, d_log_determinant
        found = self.factor.moments(Moments(of_determinant=OF_LHS)).of_determinant
        given = zip(by_field(found), inputs_by_field(system), RANKS, strict=True)
        return from_fields(
            None
            if x is None
            else self._rounded(sum_to_shape(system.xp, g[(..., *(None,) * rank)] * x, tuple(like.shape)))
            for x, like, rank in given
        )

    def _rounded(self, x: Array) -> Array:
        return self.factor._in_dtype(x)


class MomentsFactor(Factor):
    """A factor whose engine has kernels for moments."""

    @abstractmethod
    def moments(self, wanted: Moments, d: Rows | None = None) -> Moments:
        """Those that are wanted, in float64; the minimum and its gradients are those of right-hand sides d."""

    def has_moments(self, d: Rows | None = None) -> bool:
        """Whether the kernels serve the system, and right-hand sides d."""
        return are_compiled(self.system) and (d is None or d.smoothness is None)

    def selected_inverse(self) -> Any:
        """The blocks of M^-1 in and beside the diagonal, and log det M."""
        # (a new one each time: kept here, it and the factor would keep each other until Python looks for cycles)
        by_array_api = super().selected_inverse
        return CompiledSelectedInverse(self, by_array_api) if self.has_moments() else by_array_api()

    def statistics(self, d: Rows, wanted: Gradients = NONE) -> Statistics:
        """log det M, the minimum, and their gradients that are wanted, in one sweep and, for these, back."""
        if not self.has_moments(d):
            return super().statistics(d, wanted)
        of_lhs = from_fields(a and b for a, b in zip(by_field(wanted), by_field(OF_LHS), strict=True))
        found = self.moments(Moments(None, None, None, True, True, of_lhs, wanted), d)
        batch, own = found.minimum.shape, self.system.batch
        if 0 not in batch:  # (log det M is the same for all right-hand sides of a left-hand side: that of the first)
            first = *(0,) * (len(batch) - len(own)), *(slice(length) for length in own)
            of_lhs = from_fields(x if x is None else x[first] for x in by_field(found.of_determinant))
            found = found._replace(log_determinant=found.log_determinant[first], of_determinant=of_lhs)
        _, _, _, *statistics = Moments.of([x if x is None else self._in_dtype(x) for x in found.in_order])
        return Statistics(*statistics)

    def sum_of_squares(self, d: Rows) -> Array:
        """|W (d - A y)|^2 at the minimum: what elimination leaves of W d."""
        if not self.has_moments(d):
            return super().sum_of_squares(d)
        return self._in_dtype(self.moments(Moments(minimum=True), d).minimum)

    def _in_dtype(self, x: Array) -> Array:
        return x.astype(self.system.dtype, copy=False)


def are_compiled(system: System) -> bool:
    """Whether the kernels know the rows of the scheme: increments alone, in upper triangular form."""
    _, C, D = increment_rows(system.scheme, system.K)
    return C.shape == D.shape == (system.K, system.K) and not D.any()
