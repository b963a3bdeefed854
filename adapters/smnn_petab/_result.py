"""The result of a fit of a PEtab problem: the best parameters, all starts, and pictures of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from ._problem import Problem

__all__ = ["Fit", "Starts"]

Array = np.ndarray
SAME = 0.1
"""Difference of the objective below which ends are one."""


@dataclass(frozen=True, eq=False)
class Starts:
    """The end of each start, in the order of the draws."""

    objective: Array
    """(n,): infinite where the equations could not be integrated anywhere on the way"""
    relaxed: Array
    """(n,): the objective where `smnn_core.fit` ended; NaN without `relax`"""
    parameters: Array
    """(n, p): on the linear scale"""
    converged: Array
    """(n,), bool"""
    evaluations: Array
    """(n,): integrations with sensitivities"""
    seconds: Array
    """(n,): of processor time; that of `smnn_core.fit` is shared out equally"""


@dataclass(frozen=True, eq=False)
class Fit:
    """The best end of all starts; `print` shows it."""

    parameters: dict[str, float]
    """on the linear scale"""
    standard_errors: dict[str, float]
    """on the scale of each parameter (lin, log, log10), from the expected second derivatives; NaN at bounds"""
    objective: float
    """negative log-likelihood, and priors"""
    converged: bool
    starts: Starts
    problem: Problem = field(repr=False)

    def share(self) -> float:
        """Of starts that end within 0.1 of the best objective."""
        return float((self.starts.objective < self.objective + SAME).mean())

    def __str__(self) -> str:
        scales = {p.name: p.scale for p in self.problem.tables.parameters}
        width = max(map(len, self.parameters))
        lines = [f"{self.problem.name}: objective {self.objective:.4f}" + ("" if self.converged else ", not converged")]
        for name, value in self.parameters.items():
            error = self.standard_errors[name]
            text = (
                "at a bound"
                if np.isnan(error)
                else f"± {error:.2g}" + ("" if scales[name] == "lin" else f" ({scales[name]})")
            )
            lines.append(f"  {name:{width}}  {value:<12.6g} {text}")
        n = len(self.starts.objective)
        lines.append(f"  {100 * self.share():.0f} % of {n} starts end within {SAME} of it")
        return "\n".join(lines)

    def waterfall(self, axes: Any = None) -> Any:
        """A picture of the ends of all starts in ascending order, as differences to the best; returns the axes.

        Args:
            axes: of Matplotlib; None: new ones.
        """
        axes = _axes(axes)
        for values, label in (
            (self.starts.relaxed, "relaxed equations"),
            (self.starts.objective, "integrated equations"),
        ):
            above = np.sort(values[np.isfinite(values)]) - self.objective
            if len(above):
                axes.plot(np.arange(1, len(above) + 1), np.maximum(above, 1e-3), "o-", markersize=3, label=label)
        axes.axhline(SAME, color="0.7", linewidth=1)
        axes.set(xlabel="starts, in the order of their ends", ylabel="objective above the best", yscale="log")
        axes.set_title(self.problem.name)
        axes.legend(frameon=False)
        return axes

    def plot(self, axes: Any = None) -> Any:
        """A picture of data and fitted observables, with bands of one standard deviation; returns the axes.

        Args:
            axes: as many as observables; None: new ones.
        """
        return self.problem.plot(self.parameters, axes)


def _axes(axes: Any) -> Any:
    if axes is None:
        import matplotlib.pyplot as plt

        _, axes = plt.subplots(layout="constrained")
    return axes
