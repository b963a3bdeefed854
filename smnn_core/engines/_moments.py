"""Moments by compiled kernels (`kernels/covariance.hpp`), and what factors make of them."""

from __future__ import annotations

from abc import abstractmethod
from functools import cached_property
from math import prod
from typing import Any, NamedTuple

import numpy as np

from .._arrays import Array, Shape, sum_to_shape
from .._problem import Gradients, Rows, System, Weights
from ._increments import increment_rows
from ._interface import Factor


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
    equation: Any = None
    """W (d - A y) at the minimum, (*batch, T, Q); this and the following two all or none"""
    initial: Any = None
    """(*batch, T_init, V, R_init)"""
    smoothness: Any = None
    """(*batch, T-1, V, K): of the rows C of `increment_rows`"""
    dc: Any = None
    """half the derivative of log det M, (*batch, T, Q, V, K); this and the following four all or none"""
    dw_equation: Any = None
    """(*batch, T, Q)"""
    dw_initial: Any = None
    """(*batch, T_init, V, R_init)"""
    ds: Any = None
    """(*batch, T-1)"""
    dw_smoothness: Any = None
    """(*batch, T-1)"""

    @staticmethod
    def cores(system: System) -> Moments:
        """The axes of each behind those of the batch."""
        T, Q, V, K, n = system.n_steps, system.Q, system.V, system.K, system.n
        initial = system.n_initial_steps, V, system.n_initial_orders
        rows = (T, Q), initial, (T - 1, V, K)
        return Moments(
            (T, n, n), (T - 1, n, n), (T, n), (), (), *rows, (T, Q, V, K), (T, Q), initial, (T - 1,), (T - 1,)
        )


GRADIENT = Moments(dc=True, dw_equation=True, dw_initial=True, ds=True, dw_smoothness=True)
RESIDUAL = Moments(equation=True, initial=True, smoothness=True)
BOTH = GRADIENT._replace(equation=True, initial=True, smoothness=True)


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
        return self.gradients(self.factor.moments(GRADIENT), d_log_determinant)

    def gradients(self, half: Moments, d_log_determinant: Array) -> Gradients:
        """Those of log det M times d_log_determinant, from halves for each batch member, in float64."""
        system = self.factor.system

        def gradient(x: Array, like: Array, rank: int) -> Array:
            g = 2 * d_log_determinant[(..., *(None,) * rank)]
            return self._rounded(sum_to_shape(system.xp, g * x, tuple(like.shape)))

        w = system.weights
        return Gradients(
            gradient(half.dc, system.coefficients, 4),
            None,
            None,
            gradient(half.ds, system.step_sizes, 1),
            Weights(
                gradient(half.dw_equation, w.equation, 2),
                gradient(half.dw_initial, w.initial, 3),
                gradient(half.dw_smoothness, w.smoothness, 1),
            ),
        )

    def _rounded(self, x: Array) -> Array:
        return x.astype(self.factor.system.dtype, copy=False)


class MomentsFactor(Factor):
    """A factor whose engine has kernels for moments."""

    @abstractmethod
    def moments(self, wanted: Moments, d: Rows | None = None) -> Moments:
        """Those that are wanted, in float64; the minimum and residuals are those of right-hand sides d."""

    def has_moments(self, d: Rows | None = None) -> bool:
        """Whether the kernels serve the system, and right-hand sides d."""
        return are_compiled(self.system) and (d is None or d.smoothness is None)

    def selected_inverse(self) -> Any:
        """The blocks of M^-1 in and beside the diagonal, and log det M."""
        return self._selected_inverse if self.has_moments() else super().selected_inverse()

    @cached_property
    def _selected_inverse(self) -> CompiledSelectedInverse:
        return CompiledSelectedInverse(self, super().selected_inverse)

    def residual_rows(self, d: Rows) -> Rows:
        """W (d - A y) at the minimum, without the rounding of y."""
        return self._residual(self.moments(RESIDUAL, d)) if self.has_moments(d) else super().residual_rows(d)

    def statistics_pullback(self, d: Rows, g: Array) -> tuple[Rows, Gradients]:
        """Residual and gradients in one sweep, where each left-hand side has one right-hand side."""
        batch = self.system.batch_with(d)
        if not self.has_moments(d) or prod(batch) != prod(self.system.batch):
            return super().statistics_pullback(d, g)
        found = self.moments(BOTH, d)
        one = self._one_rhs(batch)
        half = Moments(*(x if x is None or not wanted else x[one] for x, wanted in zip(found, GRADIENT, strict=True)))
        return self._residual(found), self._selected_inverse.gradients(half, g)

    def sum_of_squares(self, d: Rows) -> Array:
        """|W (d - A y)|^2 at the minimum: what elimination leaves of W d."""
        if not self.has_moments(d):
            return super().sum_of_squares(d)
        found = self.moments(Moments(log_determinant=True, minimum=True), d)
        if 0 not in found.minimum.shape:  # log det M is the same for all right-hand sides of a left-hand side
            log_determinant = found.log_determinant[self._one_rhs(found.minimum.shape)]
            self._selected_inverse.log_determinant = self._selected_inverse._rounded(log_determinant)
        return self._selected_inverse._rounded(found.minimum)

    def _residual(self, found: Moments) -> Rows:
        U = self._constant(increment_rows(self.system.scheme, self.system.K)[0].T)
        rows = found.equation, found.initial, found.smoothness @ U
        return Rows(*map(self._selected_inverse._rounded, rows))

    def _constant(self, values: np.ndarray) -> Array:
        """In float64."""
        return values

    def _one_rhs(self, batch: Shape) -> tuple[Any, ...]:
        """The index of one right-hand side for each left-hand side, in arrays of a batch of right-hand sides."""
        own = self.system.batch
        return *(0,) * (len(batch) - len(own)), *(slice(length) for length in own)


def are_compiled(system: System) -> bool:
    """Whether the kernels know the rows of the scheme: increments alone, in upper triangular form."""
    _, C, D = increment_rows(system.scheme, system.K)
    return C.shape == D.shape == (system.K, system.K) and not D.any()
