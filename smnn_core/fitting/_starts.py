"""Ends of a fit from many starts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from .._arrays import Array

if TYPE_CHECKING:
    from ._refinement import Ends
    from ._setting import Setting

__all__ = ["Starts"]

SAME = 0.1
"""Difference of the objective below which ends are one."""
NEAR = 2.0
"""Difference of the objective below which another end explains the data nearly as well."""
APART = 3.0
"""Standard errors between ends that are different."""


@dataclass(frozen=True, eq=False)
class Starts:
    """The end of each start; the first is the one given. Batch axes come first."""

    names: tuple[str, ...]
    start: Array
    """(..., starts, p): parameters"""
    parameters: Array
    """(..., starts, p): where it ended; NaN where the fit failed"""
    objective: Array
    """(..., starts): -2 log likelihood but for constants; infinite where the fit failed"""
    converged: Array
    """(..., starts), bool: on the mesh on which it ended; ends far above the best are not tried on finer ones"""
    best: Array = field(repr=False)
    """(S,): which start is the result"""

    @staticmethod
    def of(setting: Setting, ends: Ends, n: int) -> Starts:
        from ._refinement import objective

        s, parameters = ends.state, setting.model.parameters
        p = parameters.single
        value = np.where(s.failed, np.inf, objective(setting, s)).reshape(-1, n)
        value = np.where(np.isfinite(value), value, np.inf)
        converged = s.converged.reshape(-1, n)
        sure = np.where(converged, value, np.inf)
        best = np.where(np.isfinite(sure).any(1), sure.argmin(1), value.argmin(1))
        θ = np.where(s.failed[:, None], np.nan, parameters.outer(s.φ))[:, :p].reshape(len(value), n, p)
        start = parameters.outer(s.first)[:, :p].reshape(len(value), n, p)
        batch = setting.observed.batch
        start, θ, value, converged = (x.reshape((*batch, *x.shape[1:])) for x in (start, θ, value, converged))
        return Starts(parameters.names[:p], start, θ, value, converged, best)

    def share(self) -> Array:
        """Of starts that end within 0.1 of the best objective, (...)."""
        return (self.objective < self.objective.min(-1, keepdims=True) + SAME).mean(-1)

    def __str__(self) -> str:
        n = self.objective.shape[-1]
        share = np.atleast_1d(self.share())
        text = f"{100 * share.min():.0f}" + ("" if share.size == 1 else f" to {100 * share.max():.0f}")
        return f"{text} % of {n} starts end at the best cost"

    def messages(self, errors: Array) -> Iterator[tuple[str, str]]:
        """Warnings about ends that differ although they explain the data equally well; errors (S, p)."""
        n, p = self.parameters.shape[-2:]
        value = self.objective.reshape(-1, n)
        θ = self.parameters.reshape(len(value), n, p)
        ok = self.converged.reshape(-1, n)
        chosen = np.take_along_axis(θ, self.best[:, None, None], 1)
        lowest = np.take_along_axis(value, self.best[:, None], 1)
        near = ok & (value < lowest + NEAR)
        with np.errstate(all="ignore"):
            apart = np.abs(θ - chosen) > APART * errors[:, None]
        other = near[..., None] & apart
        if other.any():
            names = [name for name, x in zip(self.names, other.any((0, 1)), strict=True) if x]
            yield (
                "convergence",
                f"starts end at different {', '.join(names)} although they explain the data equally well (within "
                f"{NEAR:g} of -2 log likelihood): see `starts`. The data leave more than one answer; standard errors "
                "are of one.",
            )
        unfinished = ~ok & (value < lowest - NEAR)
        if unfinished.any():
            yield (
                "convergence",
                f"{int(unfinished.sum())} starts lead below the end that is given but have not converged: more "
                "max_iterations help.",
            )

    def plot(self, *, member: int = 0) -> Any:
        """The waterfall: objectives in ascending order, above the best; needs matplotlib.

        Returns:
            matplotlib.figure.Figure.
        """
        from matplotlib.figure import Figure

        value = np.sort(self.objective.reshape(-1, self.objective.shape[-1])[member])
        value = value[np.isfinite(value)]
        figure = Figure(figsize=(5, 3.2), layout="constrained")
        axes = figure.add_subplot()
        axes.set_yscale("log")
        axes.set_ylim(5e-3, max(10.0, 2 * (value[-1] - value[0])))
        axes.plot(np.arange(1, len(value) + 1), value - value[0] + 1e-2, "o-", color="#0072B2", markersize=4)
        axes.axhline(SAME + 1e-2, color="#D55E00", linewidth=1)
        axes.annotate("the same minimum below", (len(value), SAME + 1e-2), (0, 3), ha="right", color="#D55E00",
                      textcoords="offset points")  # fmt: skip
        axes.set_xlabel("starts, in the order of their ends")
        axes.set_ylabel("-2 log likelihood above the best + 0.01")
        return figure
