"""The equations of a problem as `smnn_core.fit` calls them: values with derivatives, for members of a batch.

Letters as in `_equations`: M members (a start in an experiment), n points, V states, p parameters, q inputs. The number
of its experiment is what a member is told as the fit's `inputs`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ._equations import Differentiated, Equations

__all__ = ["Callbacks"]

Array = np.ndarray


class Callbacks:
    """`residual`, `observe`, `noise` and `initial` of `smnn_core.fit`."""

    def __init__(self, equations: Equations) -> None:
        self.equations = equations
        self.rates, self.observables, self.deviations = equations.differentiated
        self.settings = [equations.setting_function(s) for s in equations.settings]

    def _inputs(self, θ: dict[str, Array], u: Array) -> tuple[Array, ...]:
        """q (q, M), ∂q/∂θ (q, p, M), x0 (V, M) and ∂x0/∂θ (V, p, M)."""
        experiment = u[:, 0, 0].astype(int)
        values = np.stack([np.broadcast_to(x[:, 0], len(u)) for x in θ.values()])
        parts = {e: self.settings[e](values[:, experiment == e]) for e in np.unique(experiment)}
        first = next(iter(parts.values()))
        results = tuple(np.empty((*x.shape[:-1], len(u))) for x in first)
        for e, part in parts.items():
            for result, x in zip(results, part, strict=True):
                result[..., experiment == e] = x
        return results

    def _called(self, function: Differentiated, t: Array, y: Array, θ: Any, u: Array) -> tuple[Array, Array, Array]:
        """Values (M, n, rows), derivatives by states (M, n, rows, V) and by θ (M, n, rows, p)."""
        q, dq, *_ = self._inputs(θ, u)
        value, by_x, by_q = function(t, np.moveaxis(y[..., 0], -1, 0), q[:, :, None])
        return value, by_x, by_q @ np.moveaxis(dq, -1, 0)[:, None]

    def residual(self, t: Array, y: Array, θ: Any, u: Array) -> tuple[Array, Array, Array]:
        """x' minus the rates."""
        f, by_x, by_θ = self._called(self.rates, t, y, θ, u)
        J = np.stack([-by_x, np.broadcast_to(np.eye(f.shape[-1]), by_x.shape)], -1)
        return y[..., 1] - f, J, -by_θ

    def observe(self, t: Array, y: Array, θ: Any, u: Array) -> tuple[Array, Array, Array]:
        h, by_x, by_θ = self._called(self.observables, t, y, θ, u)
        return h, by_x[..., None], by_θ

    def noise(self, t: Array, y: Array, θ: Any, u: Array) -> tuple[Array, Array, Array]:
        σ, by_x, by_θ = self._called(self.deviations, t, y, θ, u)
        return σ, by_x[..., None], by_θ

    def initial(self, θ: Any, u: Array) -> tuple[Array, Array]:
        _, _, x0, dx0 = self._inputs(θ, u)
        return np.moveaxis(x0, -1, 0), np.moveaxis(dx0, -1, 0)
