"""What a fit gives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from .._arrays import Array, Namespace, Shape, as_numpy, device_of
from .._problem import Weights
from .._solve import Residuals

__all__ = ["Fit", "as_fields"]

SHOWN = 8
"""Batch members that are printed."""


@dataclass(frozen=True, eq=False)
class Fit:
    """A trajectory and parameters fitted to data, made by `fit_ode`; `print` shows the parameters with their errors.

    Without parameters, `parameters`, `covariance` and `standard_errors` are None.
    """

    y: Array
    """(..., T, V, R+1): the trajectory with its derivatives"""
    parameters: Array | None
    """(..., p), or (p,) where data sets share them"""
    covariance: Array | None
    """(..., p, p): of the parameters; NaN where the fit failed, 0 for parameters that a bound holds"""
    standard_errors: Array | None
    """(..., p): the roots of the diagonal of `covariance`; NaN where the fit failed or a bound holds a parameter"""
    residuals: Residuals
    """f, y - data (as `initial`, NaN where missing) and what the smoothness rows leave, without weights"""
    cost: Array
    """(...): |w_data (y - data)|^2 + |w_equation f|^2 + |w_smoothness rows|^2 at y and the parameters"""
    noise: Array
    """the standard deviation of the data, as given, or estimated: (..., V) or (..., V, observed_orders); (..., T, V) or
    (..., T, V, observed_orders) where it was given for each time"""
    weights: Weights
    """of the last iteration: of the equations, (..., T or 1, Q or 1), of the smoothness rows, (..., T-1 or 1), and of
    the data, `initial`, (..., T, V, observed_orders or 1): 1 / noise, and 0 where nothing was observed"""
    scale: Array
    """(..., V): the size of each variable, in whose unit smoothness was measured"""
    iterations: Array
    """(...), integers: Gauss-Newton iterations"""
    converged: Array
    """(...), bool: whether y and the parameters had stopped moving"""
    y_errors: Array | None = None
    """(..., T, V, R+1): standard deviations of y, where they were asked for: given the equations, which it fits as
    closely as `weights` say, and with the errors of the parameters; NaN where the fit failed"""

    def __str__(self) -> str:
        converged = np.atleast_1d(as_numpy(self.converged))
        iterations = np.atleast_1d(as_numpy(self.iterations))
        state = f"{int(converged.sum())} of {converged.size} converged"
        if not as_numpy(self.converged).ndim:
            state = "converged" if converged[0] else "not converged"
        lines = [f"Fit: {state}, {int(iterations.max(initial=0))} iterations, cost {_range(as_numpy(self.cost))}"]
        if self.parameters is not None:
            lines += _parameter_lines(as_numpy(self.parameters), as_numpy(self.standard_errors))
        return "\n".join(lines)


def as_fields(
    xp: Namespace,
    batch: Shape,
    data: Array,
    noise: Any,
    equation: Any,
    smoothness: Any,
    scale: Array,
    *,
    has_order_axis: bool,
) -> dict[str, Any]:
    """Noise, weights and scale as a `Fit` has them, with all batch axes.

    Args:
        data: (..., T, V, R_obs), NaN where missing.
        noise: a number, or an array that broadcasts against data.
        equation, smoothness: the weights, numbers or (..., T or 1, Q or 1) and (..., T-1 or 1).
        scale: (..., V).
    """

    def full(x: Any, rank: int) -> Array:
        x = xp.asarray(x, dtype=data.dtype, device=device_of(data)) if isinstance(x, (int, float)) else x
        core = (*(1,) * (rank - x.ndim), *x.shape[max(x.ndim - rank, 0) :])
        return xp.broadcast_to(x, (*batch, *core))

    noise = full(noise, 3)
    noise = xp.broadcast_to(noise, (*noise.shape[:-2], *data.shape[-2:]))
    missing = xp.isnan(full(data, 3))
    initial = xp.where(missing, xp.zeros_like(noise), 1 / noise)
    noise = noise if has_order_axis else noise[..., 0]
    times = len(batch)
    noise = xp.reshape(noise, (*batch, *noise.shape[times + 1 :])) if noise.shape[times] == 1 else noise
    weights = Weights(full(equation, 2), initial, full(smoothness, 1))
    return {"noise": noise, "weights": weights, "scale": full(scale, 1)}


def _range(x: np.ndarray) -> str:
    x = x[np.isfinite(x)]
    if not x.size:
        return "nan"
    return f"{x.min():.4g}" if x.size == 1 else f"{x.min():.4g} to {x.max():.4g}"


def _parameter_lines(values: np.ndarray, errors: np.ndarray) -> list[str]:
    """One line for each parameter of one member, or one for each of the first members."""
    p = values.shape[-1]
    if values.ndim == 1:
        return [f"  parameter {j}: {_with_error(values[j], errors[j])}" for j in range(p)]
    values, errors = values.reshape(-1, p), errors.reshape(-1, p)
    shown = [
        f"  member {i}: " + ", ".join(_with_error(v, e) for v, e in zip(values[i], errors[i], strict=True))
        for i in range(min(len(values), SHOWN))
    ]
    rest = len(values) - len(shown)
    return [*shown, f"  .. and {rest} more"] if rest else shown


def _with_error(value: float, error: float) -> str:
    """The error with two digits, the value with as many decimals."""
    if not np.isfinite(error) or error <= 0:
        return f"{value:.6g} (no standard error)"
    decimals = max(0, 1 - int(np.floor(np.log10(error))))
    if decimals > 12 or error > 1e5:
        return f"{value:.6g} ± {error:.2g}"
    return f"{value:.{decimals}f} ± {error:.{decimals}f}"
