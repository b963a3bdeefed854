"""A picture of data and fitted observables."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from ._problem import Problem

__all__ = ["plot"]

POINTS = 200
ACROSS = 4


def plot(problem: Problem, parameters: Mapping[str, float], axes: Any = None) -> Any:
    """One picture for each observable, a colour for each experiment; columns of one observable that differ in their
    parameters, as scales of single gels, are lines of their own."""
    names = list(dict.fromkeys(c.name for c in problem.tables.columns))
    if axes is None:
        import matplotlib.pyplot as plt

        rows = math.ceil(len(names) / ACROSS)
        size = (3.2 * min(len(names), ACROSS), 2.5 * rows)
        _, axes = plt.subplots(rows, min(len(names), ACROSS), figsize=size, layout="constrained", squeeze=False)
    flat = np.ravel(np.asarray(axes, dtype=object))
    for name, ax in zip(names, flat, strict=False):
        ax.set_title(name, fontsize="medium")
        ax.set_xlabel("time")
    for ax in flat[len(names) :]:
        ax.set_visible(False)
    objective, equations = problem.likelihood, problem.equations
    θ = np.array([parameters[p.name] for p in problem.tables.parameters])
    for i, experiment in enumerate(problem.tables.experiments):
        grid = np.unique([*np.linspace(0, experiment.times[-1], POINTS), *experiment.times])
        x = objective.simulate(i, θ, 1e-6, grid)
        q, *_ = equations.setting_function(equations.settings[i])(θ)
        inputs = np.broadcast_to(q[:, None], (len(q), len(grid)))
        with np.errstate(all="ignore"):
            h, σ = objective.observed(grid, x.T, inputs)[0], objective.noise(grid, x.T, inputs)[0]
        for j, column in enumerate(problem.tables.columns):
            seen = np.isfinite(experiment.data[:, j])
            if not seen.any():
                continue
            ax, colour = flat[names.index(column.name)], f"C{i % 10}"
            if column.replicate == 0:
                ax.plot(grid, h[:, j], color=colour, linewidth=1, label=experiment.name)
            if column.noise is None:
                ax.errorbar(
                    experiment.times[seen], experiment.data[seen, j], experiment.noise[seen, j], fmt=".", color=colour
                )
                continue
            ax.plot(experiment.times[seen], experiment.data[seen, j], ".", color=colour)
            if column.replicate == 0:
                unit = {"lin": None, "log": 1.0, "log10": math.log(10)}[column.transformation]
                low, high = (
                    h[:, j] + s * σ[:, j] if unit is None else h[:, j] * np.exp(s * unit * σ[:, j]) for s in (-1, 1)
                )
                ax.fill_between(grid, low, high, color=colour, alpha=0.15, linewidth=0)
    if len(problem.tables.experiments) > 1:
        for ax in flat[: len(names)]:
            ax.legend(fontsize="x-small", frameon=False)
    return axes
