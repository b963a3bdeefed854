"""The selected inverse by compiled kernels (`kernels/covariance.hpp`); see `_selected_inverse.SelectedInverse`."""

from __future__ import annotations

from functools import cached_property
from typing import Any, NamedTuple

from .._arrays import Array, sum_to_shape
from .._problem import Gradients, System, Weights
from ._increments import increment_rows


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
    """What is asked for, of a factor that has `moments(wanted)`."""

    def __init__(self, factor: Any, by_array_api: Any) -> None:
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


def are_compiled(system: System) -> bool:
    """Whether the kernels know the rows of the scheme: increments alone, in upper triangular form."""
    _, C, D = increment_rows(system.scheme, system.K)
    return C.shape == D.shape == (system.K, system.K) and not D.any()
