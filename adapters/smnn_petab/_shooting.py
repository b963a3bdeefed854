"""Minimising the objective of numerical integration, by a trust region on expected second derivatives.

Parameters that no rate and no initial value depends on (scales, offsets, noise) do not move the trajectories: they are
minimised over at each trajectory, for a few evaluations of formulas (variable projection; Schmiester, Schälte,
Fröhlich, Hasenauer, Weindl, Bioinformatics 36 (2020) 594, for these problems).

z are parameters in units of steps: natural logarithms, or a quarter of the width between bounds on a linear scale.

A search asks for trajectories at parameters and goes on when it has them; in between others are integrated beside its
own (`together`).
"""

from __future__ import annotations

import math
import time
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from ._integration import Job, Pool
from ._objective import LN10, Objective, Terms

__all__ = ["Clock", "Minimum", "Search", "alone", "errors", "minimise", "together"]

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
PATIENCE = 3
"""Solutions without fewer rows that violate their bounds before these change one by one."""
GIVEN = 6
"""Evaluations in which a search for something lower has to halve the distance."""
WIDTH = 150
"""Trajectories that are integrated side by side."""
ROUNDS = 10
"""Steps of all of them after which the time is read."""

Trajectories = list[tuple[Array, Array]]
T = TypeVar("T")
Search = Generator[tuple[Array, float], "Trajectories | None", T]
"""Asks for the trajectories of all experiments at (θ, rtol), and gets them, or None where an integration failed."""


@dataclass
class Clock:
    """Seconds of processor time that a search has used: all that run together share them by their trajectories."""

    used: float = 0.0


class _Shared:
    """Seconds that have passed for each trajectory under way; systems take their time to tell those of a process."""

    def __init__(self) -> None:
        self.last, self.seconds, self.rounds, self.members = time.process_time(), 0.0, 0, 0

    def round(self, members: int) -> None:
        """A step of that many trajectories has passed."""
        self.rounds += 1
        self.members += members
        if self.rounds == ROUNDS:
            now = time.process_time()
            self.seconds += (now - self.last) * ROUNDS / self.members
            self.last, self.rounds, self.members = now, 0, 0


def together(objective: Objective, searches: Iterable[tuple[Search[T], Clock]]) -> Iterator[tuple[int, T]]:
    """Runs searches side by side; yields the number of each and what it returns as they end."""
    equations, at = objective.equations, objective.moving
    used = np.flatnonzero(equations.in_rates)
    pool = Pool(objective.batch_values, objective.batch_rates, len(equations.states))
    waiting, running = enumerate(searches), dict[int, _Running]()
    shared = _Shared()

    def wanted(key: Any, rtol: float, setting: tuple[Array, ...], times: Array, switches: tuple[float, ...]) -> Job:
        q, dq, x, S = setting
        return Job(key, x, S[:, at], q[used], dq[np.ix_(used, at)], times, switches, rtol)

    def ask(i: int, θ: Array, rtol: float) -> None:
        settings = objective.settings(θ)
        before = objective.equilibrations(θ) if objective.equilibrations else ()
        for e, setting in enumerate(zip(*settings, strict=True)):
            times, switches = objective.tables.experiments[e].times, equations.settings[e].switches
            own = wanted((i, e), rtol, setting, times, switches)
            if equations.before[e] is not None:
                first = tuple(part[objective.before[e]] for part in before)
                own = wanted((i, e, own), rtol, first, np.empty(0), ())
            pool.add(own)
        running[i].asked(len(settings[0]), shared.seconds)

    def resumed(i: int, found: Trajectories | None, first: bool = False) -> Iterator[tuple[int, T]]:
        state = running[i]
        try:
            ask(i, *(next(state.search) if first else state.search.send(found)))
        except StopIteration as end:
            del running[i]
            yield i, end.value

    while True:
        while len(pool) < WIDTH and (new := next(waiting, None)) is not None:
            i, (search, clock) = new
            running[i] = _Running(search, clock)
            yield from resumed(i, None, first=True)
        if not running:
            return
        members = len(pool)
        done = list(pool.step())
        shared.round(members)
        for job, found in done:
            i, e, *rest = job.key
            if rest and found is not None:  # an equilibration
                own: Job = rest[0]
                taken = np.isnan(own.x)
                own.x, own.S = np.where(taken, found[0], own.x), np.where(taken[:, None], found[1], own.S)
                pool.add(own)
            elif running[i].got(e, found, shared.seconds):
                yield from resumed(i, running[i].found())


def alone(objective: Objective, search: Search[T]) -> T:
    """The return value of one search."""
    return next(iter(together(objective, [(search, Clock())])))[1]


@dataclass
class _Running:
    """A search and the trajectories that it has asked for."""

    search: Any
    clock: Clock
    parts: list[tuple[Array, Array] | None] | None = None
    left: int = 0
    since: float = 0.0

    def asked(self, number: int, shared: float) -> None:
        self.parts, self.left, self.since = [None] * number, number, shared

    def got(self, e: int, found: tuple[Array, Array] | None, shared: float) -> bool:
        """Takes the result of an experiment; True where that was the last one."""
        assert self.parts is not None
        self.parts[e] = found
        self.left -= 1
        self.clock.used += shared - self.since
        return not self.left

    def found(self) -> Trajectories | None:
        assert self.parts is not None
        return None if any(x is None for x in self.parts) else list(self.parts)  # type: ignore[arg-type]


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

    def at(self, z: Array) -> Search[_Point | None]:
        """The point reached from z by minimising over the inner parameters; None where the integration failed."""
        θ, _ = self.objective.unscaled(z * self.unit)
        trajectories = yield θ, self.rtol
        self.evaluations += 1
        if trajectories is None:
            return None
        point = self._point(z, trajectories)
        damping = 1e-3 if self.inner.any() else math.inf
        while damping < 1e8:
            step = self._inner_step(point, damping)
            if np.abs(step).max() < 1e-6:
                break
            new = self._point(np.clip(point.z + step, self.low, self.high), trajectories)
            if new.value < point.value:
                done = point.value - new.value < 1e-6 * (1 + abs(new.value))
                point, damping = new, damping / 10
                if done:
                    break
            else:
                damping *= 10
        return point

    def _point(self, z: Array, trajectories: Trajectories) -> _Point:
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
            step[at] = -np.linalg.solve(H, point.gradient[at])
        return np.clip(step, -3, 3)


def minimise(
    objective: Objective,
    x: Array,
    clock: Clock,
    *,
    below: float = math.inf,
    enough: float = ENOUGH,
    most: int = 100,
    until: float = math.inf,
    rtol: float = 1e-6,
) -> Search[Minimum]:
    """The minimum near parameters x, on their scales.

    Args:
        below: what the minimum is wanted for: the search is given up where `GIVEN` evaluations do not halve the
            distance to that value.
        enough: decrease of the objective that is not worth a step.
        most: evaluations with sensitivities.
        until: what the clock may show, after which the best point so far is returned.
        rtol: of the integration.

    Returns:
        `Minimum`; its value is infinite where the integration fails at x.
    """
    problem = _Problem(objective, rtol)
    z, radius, converged = np.clip(np.asarray(x) / problem.unit, problem.low, problem.high), FIRST, False
    point = yield from problem.at(z)
    if point is None:
        return Minimum(np.asarray(x), math.inf, problem.evaluations, False, True, ~problem.inner)
    mark = point.value - below
    while problem.evaluations < most and clock.used < until and math.isfinite(point.value):
        step, predicted = _step(problem, point, radius)
        if predicted < enough or radius < SMALLEST:
            converged = _step(problem, point, FIRST)[1] < max(enough, WORTH)
            break
        if problem.evaluations % GIVEN == 0:
            if point.value - below > max(0.5 * mark, 0.0):
                break
            mark = point.value - below
        new = yield from problem.at(np.clip(point.z + step, problem.low, problem.high))
        gain = -math.inf if new is None else point.value - new.value
        if gain < 0.25 * predicted:
            radius *= 0.25
        elif gain > 0.75 * predicted:
            radius = min(LARGEST, 2 * radius)
        if new is not None and gain > 0:
            point = new
    matters = point.curvature.diagonal()
    flat = not math.isfinite(point.value) or matters[~problem.inner].max(initial=0.0) < INSENSITIVE
    held = (point.z <= problem.low) | (point.z >= problem.high)
    open_ = ~problem.inner & (held | (matters < WEAK))
    return Minimum(point.z * problem.unit, point.value, problem.evaluations, converged, flat, open_)


def errors(objective: Objective, x: Array, rtol: float = 1e-6) -> Search[Array]:
    """Standard errors of parameters on their scales at a minimum, (p,), by expected second derivatives.

    NaN for those at a bound; infinite where the data say nothing.
    """
    problem = _Problem(objective, rtol)
    point = yield from problem.at(np.clip(x / problem.unit, problem.low, problem.high))
    if point is None:
        return np.full(len(x), math.nan)
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
        H = V * np.maximum(Λ, 1e-10 * max(Λ[-1], 1e-10)) @ V.T
        step[free] = _within(H, g, low[free], high[free])
    return step, -float(point.gradient @ step + 0.5 * step @ point.curvature @ step)


def _within(H: Array, g: Array, low: Array, high: Array) -> Array:
    """The minimum s of g's + s'Hs / 2 with low <= s <= high.

    All rows that lie outside are held at bounds, all that slope inwards are let go, at once as long as they become
    fewer, otherwise only the last of them, which comes to an end (block principal pivoting with Murty's rule: Portugal,
    Júdice, Vicente, Math. Comp. 63 (1994) 625).
    """
    below, above = np.zeros((2, len(g)), bool)
    fewest, patience = len(g) + 1, PATIENCE
    for _ in range(20 * len(g)):
        s = np.where(below, low, np.where(above, high, 0.0))
        at = np.flatnonzero(~below & ~above)
        s[at] = -np.linalg.solve(H[np.ix_(at, at)], (g + H @ s)[at])
        slope = g + H @ s
        to_below, to_above = np.where(below, slope > 0, s < low), np.where(above, slope < 0, s > high)
        change = (to_below != below) | (to_above != above)
        number = int(np.count_nonzero(change))
        if not number:
            break
        if number < fewest:
            fewest, patience = number, PATIENCE
        else:
            patience -= 1
        if patience < 0:
            change[: np.flatnonzero(change)[-1]] = False
        below, above = np.where(change, to_below, below), np.where(change, to_above, above)
    return np.clip(s, low, high)
