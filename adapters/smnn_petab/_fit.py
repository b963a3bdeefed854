"""A fit of a PEtab problem from many starts.

From each start the objective of the integrated equations is minimised (`_shooting`). Then rate after rate, those first
that lie farthest from the middle of their limits, is mirrored in it and the objective minimised again, as long as that
finds lower ends: a model has other minima where a step is slow in place of fast, and rates that ended at one of their
bounds often belong at the other. After every second of them some of the rates that are at a bound, or hardly matter,
are drawn again, all at once: a species that plays no part at an end frees all rates of its own. Searches that do not
come down to the end at hand are given up early. All starts run side by side (`_shooting.together`), for half of their
time; the third with the lowest ends takes the other half.

On request, `smnn_core.fit` comes first: trajectories and parameters together, under equations that are light at first
and grow heavy, all starts as one batch. Starts that cannot be integrated come near the data there.
"""

from __future__ import annotations

import math
import time
import warnings
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from smnn_core import ConvergenceWarning, Fitted, MisfitWarning
from smnn_core import Parameter as FitParameter
from smnn_core import fit as fit_core

from ._callbacks import Callbacks
from ._result import SAME, Fit, Starts
from ._shooting import Clock, Minimum, Search, alone, errors, minimise, together
from ._tables import Parameter

if TYPE_CHECKING:
    from ._objective import Objective
    from ._problem import Problem

__all__ = ["fit", "relaxed"]

Array = np.ndarray
T = TypeVar("T")
STEPS = 10
"""Of `smnn_core.fit` at each weight of the equations."""
COARSE = 1e-2
"""Decrease of the objective that is not worth a step of a start; the best end is minimised further."""
ROUGH, FINE, CLOSE = 1e-4, 1e-6, 1e-7
"""Relative tolerances of integrations of starts, of the best end, and of LSODA where ends are compared."""
BEST = 1 / 3
"""Share of the starts, those with the lowest ends, which go on when all have had half of the time."""
POLISH = 10
"""Seconds for the best end, in those of a start."""
DRAWS = 30
"""Starts that are drawn in place of one where no parameter matters, or no integration succeeds."""


def relaxed(problem: Problem, starts: int, seed: int, **options: Any) -> Fitted:
    """`smnn_core.fit` with the arguments of a problem."""
    equations, experiments, columns = problem.equations, problem.tables.experiments, problem.tables.columns
    callbacks = Callbacks(equations)
    by_formula = any(c.noise is not None for c in columns)
    switches = [list(s.switches) for s in equations.settings]
    return fit_core(
        callbacks.residual,
        [e.times for e in experiments],
        [e.data for e in experiments],
        {p.name: _parameter(p) for p in problem.tables.parameters},
        observe=callbacks.observe,
        variables=[str(s) for s in equations.states],
        noise=callbacks.noise if by_formula else [np.where(np.isnan(e.noise), 1.0, e.noise) for e in experiments],
        initial=callbacks.initial,
        inputs=[np.array([float(i)]) for i in range(len(experiments))],
        transform=[None if c.transformation == "lin" else c.transformation for c in columns],
        switches=switches if any(switches) else None,
        t0=0.0,
        starts=starts,
        seed=seed,
        **options,
    )


def _parameter(p: Parameter) -> FitParameter:
    """A parameter as `smnn_core.fit` takes it, with natural logarithms."""
    log, prior, of_log = p.scale != "lin", p.prior, p.prior_scale != "lin"
    if prior is not None and of_log:
        unit = math.log(10) if p.prior_scale == "log10" else 1.0
        prior = math.exp(prior[0] * unit), prior[1] * unit
    low, high = (float(v) if p.scale == "lin" else (10.0**v if p.scale == "log10" else math.exp(v)) for v in p.start)
    return FitParameter(lower=max(low, p.lower), upper=min(high, p.upper), log=log, prior=prior, prior_log=of_log)


def fit(
    problem: Problem, starts: int, *, seed: int = 0, relax: bool = False, seconds: float = 10.0, progress: bool = False
) -> Fit:
    """See `Problem.fit`."""
    objective, began = problem.likelihood, time.process_time()
    rng = np.random.default_rng(seed)
    first, shared = [_drawn(problem, starts, rng)], 0.0
    hidden = any(b is not None for b in problem.equations.before)  # initial values that only an equilibration knows
    if relax and not hidden:
        with warnings.catch_warnings():  # the integrated equations decide
            warnings.simplefilter("ignore", ConvergenceWarning)
            warnings.simplefilter("ignore", MisfitWarning)
            table = relaxed(problem, max(starts, 2), seed, max_iterations=STEPS, progress=progress).starts
        assert table is not None  # of more than one start
        shared = (time.process_time() - began) / starts
        first.append(_scaled(problem, table.parameters[:starts]))
    own, clocks = rng.spawn(starts), [Clock(shared) for _ in range(starts)]
    # what one start draws does not depend on how long others took
    relaxed_value = np.full(starts, math.nan)
    if len(first) == 2:
        finite = np.isfinite(first[1]).all(1)
        relaxed_value[:] = [
            objective.value(x, 1e-6) if ok else math.inf for x, ok in zip(first[1], finite, strict=True)
        ]
    searches = [
        _Start(problem, [x[i] for x in first if np.isfinite(x[i]).all()], own[i], clocks[i]) for i in range(starts)
    ]
    found: dict[int, Minimum] = {}
    for share in (1.0, BEST):
        every = sorted(range(starts), key=lambda i: searches[i].best.value)[: math.ceil(share * starts)]
        runs = ((searches[i].run(0.5 * seconds / share), clocks[i]) for i in every)
        for k, end in _counted(together(objective, runs), len(every), progress):
            found[every[k]] = end
    ends = [found[i] for i in range(starts)]
    values = np.array([objective.value(m.x, CLOSE) for m in ends])
    if not np.isfinite(values).any():
        raise ArithmeticError(f"the equations of {problem.name} could not be integrated from any of {starts} starts.")
    best, error = alone(objective, _polished(objective, ends[int(values.argmin())].x, POLISH * seconds))
    if not best.converged:
        warnings.warn(
            f"the best of {starts} starts has not converged after {best.evaluations} evaluations: more starts= or "
            "seconds= may find a better end.",
            ConvergenceWarning,
            stacklevel=3,
        )
    names = [p.name for p in problem.tables.parameters]
    return Fit(
        parameters=dict(zip(names, objective.unscaled(best.x)[0].tolist(), strict=True)),
        standard_errors=dict(zip(names, error.tolist(), strict=True)),
        objective=objective.value(best.x),
        converged=best.converged,
        starts=Starts(
            values,
            relaxed_value,
            np.array([objective.unscaled(m.x)[0] for m in ends]),
            np.array([m.converged for m in ends]),
            np.array([m.evaluations for m in ends]),
            np.array([c.used for c in clocks]),
        ),
        problem=problem,
    )


def _polished(objective: Objective, x: Array, seconds: float) -> Search[tuple[Minimum, Array]]:
    """The minimum near x, more exactly, and errors there."""
    clock = Clock()
    best = yield from minimise(objective, x, clock, rtol=FINE, until=seconds)
    error = yield from errors(objective, best.x, FINE)
    return best, error


class _Start:
    """The search from one start for the lowest minimum that mirrors lead to, which can be interrupted."""

    def __init__(self, problem: Problem, first: list[Array], rng: np.random.Generator, clock: Clock) -> None:
        self.objective, self.rng, self.clock = problem.likelihood, rng, clock
        self.low, self.high = np.array([p.start for p in problem.tables.parameters]).T
        self.every = self.objective.equations.moving
        self.best = Minimum(first[0], math.inf, 0, False, True, self.every)
        self.todo, self.tried = deque(first), np.zeros(len(self.low), bool)
        self.evaluations = self.draws = self.again = 0

    def run(self, seconds: float) -> Search[Minimum]:
        """The end after at most so many seconds of processor time, or more of them."""
        until = self.clock.used + seconds
        if self.evaluations and not self.best.converged:
            self.todo.appendleft(self.best.x)
        while self.todo and (not self.evaluations or self.clock.used < until):
            start, below = self.todo.popleft(), self.best.value
            new = yield from minimise(
                self.objective, start, self.clock, below=below, enough=COARSE, until=until, rtol=ROUGH
            )
            self.evaluations += new.evaluations
            if new.value < below - SAME:
                self.tried[:], self.again = False, 0
            if new.value <= below:
                self.best = new
            if not self.todo:
                self._next()
        return replace(self.best, evaluations=self.evaluations)

    def _next(self) -> None:
        """The next place to search from, if there is one."""
        low, high, best = self.low, self.high, self.best
        if best.flat and self.draws < DRAWS:
            self.draws += 1
            self.todo.append(low + self.rng.random(len(low)) * (high - low))
        elif best.open.sum() > 1 and 2 * self.again < self.tried.sum():
            self.again += 1
            chosen = best.open & (self.rng.random(len(low)) < 0.5)
            self.todo.append(np.where(chosen, low + self.rng.random(len(low)) * (high - low), best.x))
        else:
            mirrored = low + high - best.x
            far = np.where(self.every & ~self.tried, np.abs(mirrored - best.x) / (high - low), -1.0)
            j = int(far.argmax())
            if far[j] >= 0:
                self.tried[j] = True
                self.todo.append(np.where(np.arange(len(low)) == j, mirrored, best.x))


def _drawn(problem: Problem, starts: int, rng: np.random.Generator) -> Array:
    """Starts on the scales of the parameters, a Latin hypercube within the limits of starts, (starts, p)."""
    low, high = np.array([p.start for p in problem.tables.parameters]).T
    u = np.stack([(rng.permutation(starts) + rng.random(starts)) / starts for _ in low], -1)
    return low + u * (high - low)


def _scaled(problem: Problem, θ: Array) -> Array:
    """(starts, p) of values on the linear scale; NaN stays NaN."""
    names = [p.name for p in problem.tables.parameters]
    return np.array([problem.likelihood.scaled(dict(zip(names, row, strict=True))) for row in θ])


def _counted(items: Iterator[T], total: int, progress: bool) -> Iterable[T]:
    """Items with a progress bar."""
    if not progress:
        return items
    from tqdm.auto import tqdm

    return tqdm(items, desc="integrated", unit="start", total=total)
