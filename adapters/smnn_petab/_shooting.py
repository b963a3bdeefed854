"""Minimising the objective of numerical integration, by a trust region on expected second derivatives.

Parameters that no rate and no initial value depends on (scales, offsets, noise) do not move the trajectories: they are
minimised over at each trajectory, for a few evaluations of formulas (variable projection; Schmiester, Schälte,
Fröhlich, Hasenauer, Weindl, Bioinformatics 36 (2020) 594, for these problems).

z are parameters in units of steps: natural logarithms, or a quarter of the width between bounds on a linear scale.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import numpy as np
from scipy.optimize import lsq_linear

from ._objective import LN10, Objective, Terms

__all__ = ["Minimum", "errors", "minimise"]

Array = np.ndarray
FLAT = 100.0
"""By which insensitive parameters may go further than the most sensitive one."""
FIRST, LARGEST, SMALLEST = 1.0, 4.0, 1e-6
"""Radius of the trust region, in e-folds."""
WORTH = 1e-3
"""Decrease that a step of the first radius may promise at a minimum: where the objective bends more than expected
second derivatives say, smaller steps are taken, and the promise is larger than what there is."""
ENOUGH = 1e-5
"""Decrease of the objective that is not worth a step."""
INSENSITIVE = 1e-3
"""Second derivative of the objective by a parameter that does not matter: an error of 30 e-folds."""
WEAK = 0.1
"""The same of one that hardly matters: an error of 3 e-folds."""
GIVEN = 6
"""Evaluations in which a search for something lower has to halve the distance."""


@dataclass(frozen=True)
class Minimum:
    x: Array
    """parameters on their scales"""
    value: float
    evaluations: int
    converged: bool
    flat: bool
    """whether no parameter that moves trajectories matters: a plateau, or where integration fails"""
    open: Array
    """(p,): which of those parameters are at a bound, or hardly matter by themselves"""


@dataclass
class _Point:
    z: Array
    value: float
    gradient: Array
    curvature: Array


class _Problem:
    """The objective as a function of z, with what is minimised over at each trajectory."""

    def __init__(self, objective: Objective, rtol: float) -> None:
        self.objective, self.rtol = objective, rtol
        parameters = objective.tables.parameters
        log = np.array([p.scale != "lin" for p in parameters])
        low, high = (objective.scaled({p.name: getattr(p, side) for p in parameters}) for side in ("lower", "upper"))
        width = np.where(np.isfinite(high - low), (high - low) / 4, 1.0)
        self.unit = np.where(log, [1 / LN10 if p.scale == "log10" else 1.0 for p in parameters], width)  # dx/dz
        self.low, self.high = low / self.unit, high / self.unit
        self.inner = ~objective.equations.moving
        self.evaluations = 0

    def at(self, z: Array) -> _Point:
        """The point reached from z by minimising over the inner parameters.

        Raises:
            ArithmeticError: the integration failed.
        """
        θ, _ = self.objective.unscaled(z * self.unit)
        trajectories = self.objective.trajectories(θ, self.rtol, True)
        self.evaluations += 1
        point = self._point(z, trajectories)
        damping = 1e-3 if self.inner.any() else math.inf
        while damping < 1e8:
            step = self._inner_step(point, damping)
            if np.abs(step).max() < 1e-6:
                break
            new = self._point(np.clip(point.z + step, self.low, self.high), trajectories)
            if new.value < point.value:
                done = point.value - new.value < 1e-9 * (1 + abs(new.value))
                point, damping = new, damping / 10
                if done:
                    break
            else:
                damping *= 10
        return point

    def _point(self, z: Array, trajectories: list[tuple[Array, Array]]) -> _Point:
        θ, slope = self.objective.unscaled(z * self.unit)
        terms: Terms = self.objective.terms(θ, trajectories)
        gradient, curvature = terms.newton()
        unit = slope * self.unit
        return _Point(z, terms.value, gradient * unit, curvature * unit[:, None] * unit)

    def free(self, point: _Point) -> Array:
        """Parameters that no bound holds."""
        return ~((point.z <= self.low) & (point.gradient > 0)) & ~((point.z >= self.high) & (point.gradient < 0))

    def _inner_step(self, point: _Point, damping: float) -> Array:
        """A damped Newton step over the inner parameters, at most 3 e-folds."""
        at = np.flatnonzero(self.inner & self.free(point))
        step = np.zeros_like(point.z)
        if len(at):
            H = point.curvature[np.ix_(at, at)]
            H = H + damping * np.diag(np.maximum(H.diagonal(), 1e-12))
            step[at] = -np.linalg.lstsq(H, point.gradient[at], rcond=None)[0]
        return np.clip(step, -3, 3)


def minimise(
    objective: Objective,
    x: Array,
    *,
    below: float = math.inf,
    enough: float = ENOUGH,
    most: int = 100,
    seconds: float = math.inf,
    rtol: float = 1e-6,
) -> Minimum:
    """The minimum near parameters x, on their scales.

    Args:
        below: what the minimum is wanted for: the search is given up where `GIVEN` evaluations do not halve the
            distance to that value.
        enough: decrease of the objective that is not worth a step.
        most: evaluations with sensitivities.
        seconds: of processor time, after which the best point so far is returned.
        rtol: of the integration.

    Returns:
        `Minimum`; its value is infinite where the integration fails at x.
    """
    problem, until = _Problem(objective, rtol), time.process_time() + seconds
    z, radius, converged = np.clip(np.asarray(x) / problem.unit, problem.low, problem.high), FIRST, False
    try:
        point = problem.at(z)
    except ArithmeticError:
        return Minimum(np.asarray(x), math.inf, problem.evaluations, False, True, ~problem.inner)
    mark = point.value - below
    while problem.evaluations < most and time.process_time() < until and math.isfinite(point.value):
        step, predicted = _step(problem, point, radius)
        if predicted < enough or radius < SMALLEST:
            converged = _step(problem, point, FIRST)[1] < max(enough, WORTH)
            break
        if problem.evaluations % GIVEN == 0:
            if point.value - below > max(0.5 * mark, 0.0):
                break
            mark = point.value - below
        try:
            new = problem.at(np.clip(point.z + step, problem.low, problem.high))
            gain = point.value - new.value
        except ArithmeticError:
            gain = -math.inf
        if gain < 0.25 * predicted:
            radius *= 0.25
        elif gain > 0.75 * predicted:
            radius = min(LARGEST, 2 * radius)
        if gain > 0:
            point = new
    matters = point.curvature.diagonal()
    flat = not math.isfinite(point.value) or matters[~problem.inner].max(initial=0.0) < INSENSITIVE
    held = (point.z <= problem.low) | (point.z >= problem.high)
    open_ = ~problem.inner & (held | (matters < WEAK))
    return Minimum(point.z * problem.unit, point.value, problem.evaluations, converged, flat, open_)


def errors(objective: Objective, x: Array, rtol: float = 1e-8) -> Array:
    """Standard errors of parameters on their scales at a minimum, (p,), by expected second derivatives.

    NaN for those at a bound; infinite where the data say nothing.
    """
    problem = _Problem(objective, rtol)
    point = problem.at(np.clip(x / problem.unit, problem.low, problem.high))
    free = (point.z > problem.low + 1e-6) & (point.z < problem.high - 1e-6)
    result = np.full(len(x), math.nan)
    Λ, V = np.linalg.eigh(point.curvature[np.ix_(free, free)])
    with np.errstate(divide="ignore"):
        result[free] = np.sqrt((V**2 / np.maximum(Λ, 0.0)).sum(-1)) * problem.unit[free]
    return result


def _step(problem: _Problem, point: _Point, radius: float) -> tuple[Array, float]:
    """The step of the trust region within bounds, and the decrease that it promises.

    The most sensitive parameter moves by the radius at most, others further, as in Moré's scaling: valleys are curved
    in sensitive directions, and long in others.
    """
    sensitivity = point.curvature.diagonal()
    flat = np.sqrt(sensitivity.max(initial=1e-300) / np.maximum(sensitivity, 1e-300))
    reach = np.minimum(LARGEST, radius * np.clip(flat, 1.0, FLAT))
    low, high = np.maximum(problem.low - point.z, -reach), np.minimum(problem.high - point.z, reach)
    free = high > low
    g, H = point.gradient[free], point.curvature[np.ix_(free, free)]
    step = np.zeros_like(point.z)
    if free.any():
        Λ, V = np.linalg.eigh(H)
        root = np.sqrt(np.maximum(Λ, 1e-10 * max(Λ[-1], 1e-10)))
        A, b = root[:, None] * V.T, -(V.T @ g) / root
        step[free] = lsq_linear(A, b, (low[free], high[free]), method="bvls", tol=1e-10).x
    return step, -float(point.gradient @ step + 0.5 * step @ point.curvature @ step)
