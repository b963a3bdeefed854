"""Warnings of a discovery: reasons why the equations found may be wrong."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from ._data import GIVEN_UP, LEAST_NOISE, LEAST_POINTS, LEAST_VALUES, NEAREST
from ._result import Discovery

if TYPE_CHECKING:
    from ._search import Search

__all__ = ["reasons_for_doubt"]

VIOLATED = 0.04
"""χ² of equations and smoothness rows, per observed value, from which the equations do not describe the trajectory."""


def reasons_for_doubt(search: Search, result: Discovery) -> Iterator[str]:
    """Reasons for doubt that a user should know before relying on the equations."""
    if search.o.unused:
        yield (
            f"{search.o.unused} values were not used: between gaps longer than {search.o.longest_gap:.3g} they are too "
            f"few, less than {LEAST_POINTS} points or {LEAST_VALUES} values of a variable."
        )
    if search.o.moved:
        yield (
            f"{search.o.moved} times are nearer than {NEAREST:g} of the median step to the one before: they were moved "
            "apart to that. Merge what was measured at one time."
        )
    if not result.converged:
        yield "the coefficients were still moving when the fit ended: more data or a smaller library may help."
    if search.unresolved:
        yield (
            f"with all terms and steps divided by {search.parts}, the solver leaves {search.unresolved:.2g} of chi "
            "squared per value: the solution changes too much between the times of the data, or the library cannot "
            "describe it. Sample more often, or try a larger library."
        )
    elif search.discretization > search.significance**2:
        yield (
            f"with steps divided by {search.parts}, the discretisation leaves {search.discretization:.2g} of chi "
            f"squared: coefficients may be off by up to {search.discretization**0.5:.2g} standard errors. Sample more "
            "often."
        )
    elif search.violation > VIOLATED:
        yield (
            f"the trajectory violates the equations, by {search.violation:.2g} of chi squared per value. A term may "
            "be missing from the library, or a variable unobserved."
        )
    if hidden := [name for name, seen in zip(result.variables, search.o.visible, strict=True) if not seen]:
        yield (
            f"nothing but noise is seen of {', '.join(hidden)}: neighbouring values are independent of each other. "
            "Sample more often, with less noise, or leave them out of data."
        )
    estimated = search.o.estimated
    excess = (result.misfit - 1) * np.sqrt(search.dof / 2)
    if not estimated.any() and excess > 5:
        yield (
            f"the residuals are {np.sqrt(result.misfit):.3g} times the noise given, {excess:.0f} deviations "
            "more than chance allows: a term may be missing from the library, a variable unobserved, or the noise "
            "larger. Standard errors have been enlarged accordingly."
        )
    told = result.noise > LEAST_NOISE * search.o.deviation
    if not estimated.any() and excess < -5 and result.misfit < 0.5 and told.all():
        yield (
            f"the residuals are {np.sqrt(result.misfit):.3g} times the noise given: the noise is smaller than "
            "that, so that standard errors are too large and terms may have been left out. Give the noise that the "
            "data have, or none, to have it estimated."
        )
    share = np.where(estimated & search.o.visible, result.noise / search.o.deviation, 0.0)
    if large := bool(share.max() > GIVEN_UP):
        yield (
            f"noise of {share.max():.2g} deviations of variable {result.variables[int(np.argmax(share))]} was "
            "estimated: either the data are that noisy or the library cannot describe them."
        )
    if not large and (grown := np.where(estimated, result.noise / search.o.mean_noise, 0.0).max()) > 2:
        yield (
            f"the fit leaves {grown:.3g} times the noise that neighbouring values suggest: a term may be missing "
            "from the library, or a variable unobserved."
        )
    if search.o.visible.any() and not result.coefficients.any():
        yield "no term is significant: the data may be too few, or the library wrong."
    if search.o.visible.any() and result.ambiguous:
        yield (
            "the data leave some terms open, by their significance or since others explain nearly as much: "
            + "; ".join(result.ambiguous)
            + ". More data, or less noise, would decide."
        )
