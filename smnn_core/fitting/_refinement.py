"""Fits on meshes that are refined until parameters stand still."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from .._arrays import Array
from ._collocated import Discretization
from ._gauss_newton import FINAL, GaussNewton, State
from ._setting import POINTS, Setting
from ._shooting import of_one_length, shot
from ._taylor import equidistributed, halved, moved, with_intervals

__all__ = ["Ends", "fitted", "objective"]

REFINEMENTS = 5
BEHIND = 10.0
"""Starts whose -2 log likelihood is that much above the best one's are not tried on finer meshes."""
DEVIATIONS = 5.0
"""By which the cost of an end that is tried once more exceeds its expectation."""
HEAVY = 8
"""The level of the equations for trajectories that obey them from the start."""
SAME = 1e-2
"""Difference of -2 log likelihood of ends that are alike."""
FINER = 0.1
"""How far parameters may move on a mesh twice as fine, in standard errors."""
CHUNK_BYTES = 1 << 30


@dataclass(eq=False)
class Ends:
    """The ends of all sets, on meshes of one number of intervals."""

    t: Array
    """(M, N+1)"""
    state: State
    error: Array
    """(S,): how far parameters moved with the last refinement, in standard errors; NaN where there was none"""
    resolved: Array
    """(S,): whether that was little"""

    def take(self, sets: Array, E: int) -> Ends:
        """Some sets."""
        members = (sets[:, None] * E + np.arange(E)).ravel()
        return Ends(self.t[members], self.state.take(sets, members), self.error[sets], self.resolved[sets])


def fitted(setting: Setting, φ: Array, most: int, report: Callable[[float, int], None], group: Array) -> Ends:
    """Fits all sets, in parts that fit into memory; those of one group (S,) compete with each other."""
    S, E, V, p = setting.S, setting.E, setting.model.V, φ.shape[1]
    n = setting.observed.values.shape[2]
    per_set = 8 * E * (1 + p) * 2 * min(n + 16, 4000) * V * (POINTS + setting.model.q) * 4
    chunk = max(1, CHUNK_BYTES // per_set)
    parts = []
    for a in range(0, S, chunk):
        own = np.arange(a, min(a + chunk, S))
        parts.append(_fitted(setting.take(own), φ[own], most, report, group[own]))
    return parts[0] if len(parts) == 1 else _joined(parts)


def _fitted(setting: Setting, φ: Array, most: int, report: Callable[[float, int], None], group: Array) -> Ends:
    """Fits sets on a first mesh, then on finer ones until parameters do not move any more."""
    S, E = setting.S, setting.E
    d, state = setting.start(φ)
    options = {"E": E, "estimated": setting.observed.estimated, "report": report}
    first = state.take(np.arange(S), np.arange(S * E))
    iteration = GaussNewton(d, state, free=setting.free, **options)
    if setting.has_hidden:
        iteration.simulate(iteration.outside())
        iteration.follow()
    iteration.run(most)
    if setting.has_hidden:
        _from_solutions(setting, d, first, state, most, options)
    ends = Ends(d.t, state, np.full(S, np.nan), np.zeros(S, bool))
    _refine(setting, ends, most, options, group)
    _shoot(setting, ends, first, most, options, group)
    return ends


def _refine(setting: Setting, ends: Ends, most: int, options: dict[str, Any], group: Array) -> None:
    """Goes on with sets on finer meshes until parameters do not move any more."""
    S, E = setting.S, setting.E
    for refinement in range(REFINEMENTS):
        behind = objective(setting, ends.state)
        best = np.full(group.max() + 1, np.inf)
        np.minimum.at(best, group, np.where(ends.state.failed, np.inf, behind))
        behind = behind > best[group] + BEHIND + 0.05 * np.abs(best[group])
        hopeless = ~ends.state.converged if refinement else np.zeros(S, bool)
        todo = np.flatnonzero(~ends.resolved & ~ends.state.failed & ~behind & ~hopeless)
        if not len(todo):
            break
        members = (todo[:, None] * E + np.arange(E)).ravel()
        part, own, t = setting.take(todo), ends.state.take(todo, members), ends.t[members]
        finer = halved(t) if not refinement else equidistributed(t, own.z, 2 * (t.shape[1] - 1), part.fixed())
        before = ends.state.take(todo, members)
        own.z = moved(t, own.z, finer)
        own.level = np.maximum(own.level, FINAL)
        own.converged = np.zeros(len(todo), bool)
        d = part.discretization(finer)
        GaussNewton(d, own, free=part.free, refining=True, **options).run(most)
        _put_back(ends, todo, members, finer, own, before, setting.tolerance, setting.model.parameters.single)


def _shoot(setting: Setting, ends: Ends, first: State, most: int, options: dict[str, Any], group: Array) -> None:
    """Shoots from the start of each group of which no end is sound; keeps what is better than its best end.

    Left out: steady states, whose first values follow from equations, networks, and numbers of equations other than
    that of variables. Estimated noise says nothing of misfit: there it is for what has not converged.
    """
    s, E, model = ends.state, setting.E, setting.model
    sound = s.converged & ends.resolved & ~_misfit(setting, s)
    leader = np.unique(group, return_index=True)[1]
    best = np.full(group.max() + 1, np.inf)
    ended = s.converged & ends.resolved & ~s.failed
    np.minimum.at(best, group, np.where(ended, objective(setting, s), np.inf))
    good = np.zeros(group.max() + 1, bool)
    np.logical_or.at(good, group, sound)
    poor = np.array([i for i in leader if not good[group[i]] and setting.observed.seen[i].any()], int)
    if not len(poor) or model.steady or model.parameters.networks or s.equation_size.shape[1] != model.V:
        return
    i = (poor[:, None] * E + np.arange(E)).ravel()
    part, again = setting.take(poor), first.take(poor, i)
    again.equation_size = s.equation_size[i].copy()
    t, again = shot(part, again, options["report"])
    again.level[:] = HEAVY
    again.costs[:, 1] = 0.0  # (solutions, but for meshes that are brought to one number of intervals)
    value = np.where(again.failed | ~again.converged | _misfit(part, again), np.inf, objective(part, again))
    again.failed |= ~(value < best[group[poor]] - SAME)
    if again.failed.all():
        return
    shooting = Ends(t, again, np.full(len(poor), np.nan), np.zeros(len(poor), bool))
    _refine(part, shooting, most, options, np.arange(len(poor)))
    again = shooting.state
    value = np.where(again.failed | ~(again.converged & shooting.resolved), np.inf, objective(part, again))
    better = np.flatnonzero(value < best[group[poor]] - SAME)
    if not len(better):
        return
    of_one_length(ends, shooting)
    own = (better[:, None] * E + np.arange(E)).ravel()
    ends.t[i[own]] = shooting.t[own]
    for name, x in vars(shooting.state).items():
        at, of = (i[own], own) if name in State.OF_MEMBERS else (poor[better], better)
        getattr(ends.state, name)[at] = x[of]
    ends.error[poor[better]], ends.resolved[poor[better]] = shooting.error[better], shooting.resolved[better]


def _misfit(setting: Setting, state: State) -> Array:
    """Sets whose cost exceeds by five deviations what the observations allow, where their noise is known, (S,)."""
    number = setting.observed.seen.sum((1, 2, 3))
    known = setting.model.noise is None and not setting.observed.estimated.any()
    return (state.costs.sum(-1) - number > DEVIATIONS * np.sqrt(2 * number)) & known


def _from_solutions(
    setting: Setting, d: Discretization, first: State, state: State, most: int, options: dict[str, Any]
) -> None:
    """Fits sets that have ended badly once more, from solutions of the equations at the parameters of the start, where
    all initial values are known: trajectories of variables that nobody observed have nothing else to follow, and may
    lead parameters astray. The better end is kept.
    """
    number = setting.observed.seen.sum((1, 2, 3))
    misfit = state.costs.sum(-1) - number > DEVIATIONS * np.sqrt(2 * number)
    poor = np.flatnonzero(~state.converged | (misfit & (setting.model.noise is None)))
    i = (poor[:, None] * setting.E + np.arange(setting.E)).ravel()
    part, again = setting.take(poor), first.take(poor, i)
    if not len(poor):
        return
    iteration = GaussNewton(d.take(i), again, free=part.free, refining=True, **options)
    solved = iteration.simulate(np.ones(len(poor), bool))
    again.failed |= ~solved
    if not solved.any():
        return
    again.level[:] = HEAVY
    iteration.run(most)
    before = state.take(poor, i)
    values = [np.where(s.failed, np.inf, np.nan_to_num(objective(part, s), nan=np.inf)) for s in (before, again)]
    better = (values[1] < values[0] - SAME) | ((values[1] < values[0] + SAME) & again.converged & ~before.converged)
    better = np.flatnonzero(better & ~again.failed)
    own = (better[:, None] * setting.E + np.arange(setting.E)).ravel()
    for name, x in vars(again).items():
        at, of = (i[own], own) if name in State.OF_MEMBERS else (poor[better], better)
        getattr(state, name)[at] = x[of]


def _put_back(
    ends: Ends, todo: Array, members: Array, finer: Array, own: State, before: State, tolerance: float, single: int
) -> None:
    """Ends with some sets on finer meshes; the others keep their functions on finer meshes, too."""
    error = np.sqrt(np.maximum(np.diagonal(own.covariance, axis1=1, axis2=2), 1e-300))
    change = np.abs(own.φ - before.φ)
    shift = np.where(own.held | (change < 0.01 * tolerance * np.abs(own.φ)), 0.0, change / error)
    shift = shift[:, :single].max(-1, initial=0.0)
    a, b = before.costs.sum(-1), own.costs.sum(-1)
    shift = np.maximum(shift, np.abs(a - b) / (10 + 0.1 * np.abs(b)))
    N = finer.shape[1] - 1
    if len(todo) == len(ends.resolved):
        ends.t, z = finer, own.z
    else:
        t = ends.t
        while t.shape[1] - 1 < N:
            t = halved(t)
        if t.shape[1] - 1 != N:
            t = with_intervals(ends.t, N)
        z = moved(ends.t, ends.state.z, t)
        t[members], z[members] = finer, own.z
        ends.t = t
    for name, x in vars(own).items():
        if name == "z":
            continue
        getattr(ends.state, name)[members if name in State.OF_MEMBERS else todo] = x
    ends.state.z = z
    ends.error[todo] = shift
    ends.resolved[todo] = (shift < FINER) & own.converged


def objective(setting: Setting, state: State) -> Array:
    """-2 log likelihood of data, initial values and priors, but for constants, (S,): with the terms of noise that is
    estimated, and without priors of weights of networks, most of which are what starts have drawn."""
    o = setting.observed
    seen = o.seen.reshape(state.noise.shape) & o.estimated
    terms = 2 * np.where(seen, np.log(state.noise), 0.0).sum((1, 2)).reshape(setting.S, -1).sum(1)
    parameters = setting.model.parameters
    weights = (state.φ / parameters.deviations)[:, parameters.single :]
    return state.costs.sum(-1) + terms - (weights**2).sum(-1)


def _joined(parts: list[Ends]) -> Ends:
    """Parts of a batch as one, on meshes of one number of intervals."""
    of_one_length(*parts)
    joined = {k: np.concatenate([vars(x.state)[k] for x in parts]) for k in vars(parts[0].state)}
    return Ends(np.concatenate([x.t for x in parts]), State(**joined), np.concatenate([x.error for x in parts]),
                np.concatenate([x.resolved for x in parts]))  # fmt: skip
