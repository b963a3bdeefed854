"""The picture of a discovery; needs matplotlib."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from .._arrays import as_numpy
from .._errors import ArgumentError, ConvergenceWarning

if TYPE_CHECKING:
    from ._result import Discovery

SHOWN = 2000
"""Time points that are drawn."""
PICTURED = 1e-3
"""The tolerance of the simulation that is drawn."""
BLUE, ORANGE = "#0072B2", "#D55E00"


def draw(found: Discovery, member: int) -> Any:
    """See `Discovery.plot`.

    Raises:
        ImportError: where matplotlib is not installed.
        ArgumentError: where nothing was observed.
    """
    from matplotlib.figure import Figure

    V, T = len(found.variables), found.y.shape[-3]
    y = as_numpy(found.y).reshape(-1, *found.y.shape[-3:])[member]
    first = int(np.argmax(np.isfinite(y[:, 0, 0])))
    if not np.isfinite(y[first, 0, 0]):
        raise ArgumentError(f"nothing was observed of trajectory {member}.")
    shown = slice(first, first + SHOWN)
    y, data = y[shown], as_numpy(found.data).reshape(-1, T, V)[member, shown]
    t = np.broadcast_to(as_numpy(found.t), found.y.shape[:-2]).reshape(-1, T)[member, shown]
    again = _simulated(found, y, t)
    figure = Figure(figsize=(12, 2.2 * max(V, 2)), layout="constrained")
    grid = figure.add_gridspec(V, 2, width_ratios=(2, 1))
    axes = [figure.add_subplot(grid[v, 0]) for v in range(V)]
    for v, ax in enumerate(axes):
        ax.plot(t, data[:, v], ".", ms=2, color="0.6", label="data")
        ax.plot(t, y[:, v, 0], color=BLUE, lw=1.5, label="fit")
        if again is not None:
            ax.plot(t, again[:, v], color=ORANGE, lw=0.8, label="equations found, from the start of the fit")
        low, high = np.nanmin(y[:, v, 0]), np.nanmax(y[:, v, 0])
        margin = 0.3 * (high - low) + 1e-12
        ax.set(ylabel=found.variables[v], ylim=(low - margin, high + margin))
        if v < V - 1:
            ax.tick_params(labelbottom=False)
    axes[0].legend(loc="upper right", fontsize=8, ncols=3)
    axes[-1].set(xlabel="time")
    _coefficients(found, figure.add_subplot(grid[:, 1]))
    return figure


def _simulated(found: Discovery, y: np.ndarray, t: np.ndarray) -> np.ndarray | None:
    """y from the start of the fit, (T, V); None where it cannot be solved."""
    start = y[0, :, 0] if found.order == 1 else y[0, :, : found.order]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        simulated = found.simulate(start, t[[0, -1]], tolerance=PICTURED)(t)[..., 0]
    return simulated if np.isfinite(simulated).any() else None


def _coefficients(found: Discovery, ax: Any) -> None:
    """Relative standard errors of the terms found, on a logarithmic axis."""
    places = np.argwhere(found.coefficients)
    labels, errors = [], []
    for k, v in sorted(places.tolist(), key=lambda x: (x[1], x[0])):
        left = found.variables[v] + "'" * found.order
        labels.append(
            f"{left}: {found.coefficients[k, v]:.4g}" + ("" if found.terms[k] == "1" else f" {found.terms[k]}")
        )
        errors.append(found.standard_errors[k, v] / abs(found.coefficients[k, v]))
    percent = 100 * np.array(errors)
    ax.plot(percent, range(len(labels)), "o", color=BLUE)
    ax.set(xscale="log", xlim=(0.5 * percent.min(initial=0.1), 2 * percent.max(initial=1.0)))
    ax.xaxis.set_major_formatter(lambda x, _: f"{x:g}")
    ax.xaxis.set_minor_formatter(lambda x, _: "")
    ax.grid(axis="x", which="both", alpha=0.3)
    ax.set_yticks(range(len(labels)), labels, fontsize=8)
    ax.invert_yaxis()
    ax.set(xlabel="standard error of the coefficient, %", title="terms found")
