"""Shooting: trajectories are solutions of the equations from their initial values, at every step.

Fits that let trajectories follow data first may lose their way where the data say little, of variables that nobody
observed or equations far faster than the data. Shooting has trajectories integrated, each on a mesh of its own, by the
march of `solve`; the rows of a fit are linearised there as everywhere, and free initial values are projected out with
the trajectory. A step that does not lower the cost is tried again, shorter.

Letters: S sets, M members, V variables, q order, k points.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import factorial
from types import SimpleNamespace
from typing import Any

import numpy as np

from .._arrays import Array
from ..trajectory._collocation import radau, space_of
from ..trajectory._discrete import Discrete
from ..trajectory._march import march
from ._gauss_newton import GaussNewton, State
from ._setting import POINTS, Setting
from ._taylor import moved, with_intervals

__all__ = ["of_one_length", "shot"]

LOCAL = 1e-6
"""Most that an interval may add to the error, relative to the size of each variable."""
FAINT = 1e-3
"""Part of the size of a variable below which errors are relative to that."""
MOST_INTERVALS = 2000
LEVEL = 8
"""The weight of the equations, whose linearisation is all that they enter with."""
STEPS = 60
LONGER, SHORTER, SHORTEST = 3.0, 0.25, 1e-4
"""Factors of the length of steps that lower the cost, and that do not; the length at which it ends."""
PATIENCE = 6
"""Steps that have to halve what the cost exceeds the number of data by."""
GAIN = 1e-3
"""Decrease of the cost that is not worth a step."""


class _Flow:
    """The equations of members, at times that go from 0 to 1, for `march`."""

    def __init__(self, setting: Setting, φ: Array, who: Array, span: Array, size: Array, marks: Array) -> None:
        """
        Args:
            φ: (M, p).
            span: (M, 2).
            size: (M, V).
            marks: (n,): times of jumps from 0 to 1, as the march has them, NaN where there are none.
        """
        self.model, self.φ, self.who, self.begin, self.length = setting.model, φ, who, span[:, :1], np.ptp(span, axis=1)
        self.Q = setting.model.V
        self.marks = marks
        self.powers = self.length[:, None] ** -np.arange(setting.model.q + 1.0)
        self.added = None if setting.model.jump_times is None else setting.model.jumped(φ, who)[0]
        self.size = size

    def linearize(self, τ: Array, z: Array, _: Array) -> tuple[Array, Array, Array]:
        y = z * self.size[:, None, :, None] * self.powers[:, None, None, :]
        if self.added is not None:
            y[..., 0] += (τ[..., None] > self.marks).astype(float) @ self.added
        f = self.model.equations(self.begin + self.length[:, None] * τ, y, self.φ, self.who)
        orders = f.in_y.shape[-1]
        J = np.zeros((*f.value.shape, *z.shape[-2:]))
        J[..., :orders] = f.in_y * self.size[:, None, None, :, None] * self.powers[:, None, None, None, :orders]
        return f.value, J, np.zeros((*f.value.shape, 0))

    def value(self, τ: Array, z: Array, constants: Array) -> Array:
        return self.linearize(τ, z, constants)[0]


def integrated(setting: Setting, φ: Array, first: Array) -> tuple[Array, Array, Array]:
    """Solutions of the equations at parameters φ (S, p) from states (M, V, q) in units of the size of variables, of
    which those that are known exactly are replaced.

    Returns:
        Meshes (M, N+1), trajectories (M, N, V, K), and which sets were integrated, (S,).
    """
    S, E, (V, q) = setting.S, setting.E, first.shape[1:]
    M, who = S * E, np.tile(np.arange(E), S)
    size, span = np.repeat(setting.size, E, axis=0), setting.span.reshape(M, 2)
    φ = np.repeat(φ, E, axis=0)
    known = setting.known.values.reshape(M, V, q)
    if setting.model.initial is not None:
        known = np.nan_to_num(setting.model.initial_values(span[:, :1], φ, who)[0])
    first = np.where(np.isinf(setting.known.weights.reshape(M, V, q)), known / size[..., None], first)
    marks = np.full((M, 0), np.nan) if setting.switches is None else np.tile(setting.switches, (S, 1))
    marks = (marks - span[:, :1]) / np.ptp(span, axis=1)[:, None]
    alike = marks.round(12) if marks.shape[1] else np.zeros((M, 1))
    meshes, solved = [np.zeros(0)] * M, np.zeros(M, bool)
    trajectories = [np.zeros(0)] * M
    groups = np.unique(alike, axis=0, return_inverse=True, equal_nan=True)[1].reshape(-1)
    for group in range(int(groups.max()) + 1):
        i = np.flatnonzero(groups == group)
        t, z, solved[i] = _marched(setting, φ[i], who[i], span[i], size[i], marks[i[0]], first[i])
        for k, own in enumerate(i):
            meshes[own], trajectories[own] = t[k], z[k]
    N = max(len(t) for t in meshes) - 1
    new = np.concatenate([with_intervals(t[None], N) for t in meshes])
    z = np.concatenate([moved(t[None], x[None], n[None]) for t, x, n in zip(meshes, trajectories, new, strict=True)])
    return new, z, solved.reshape(S, E).all(1)


def _marched(
    setting: Setting, φ: Array, who: Array, span: Array, size: Array, marks: Array, first: Array
) -> tuple[Array, Array, Array]:
    """The same for members whose switches stand at the same parts, `marks`, of their spans."""
    M, V, q = first.shape
    space = space_of(radau(POINTS), (q,) * V)
    jumps = 0 if setting.model.jump_times is None else setting.model.jump_times.shape[1]
    flow = _Flow(setting, φ, who, span, size, marks[len(marks) - jumps :])
    problem: Any = Discrete(flow, None, None, (M,), (q,) * V)  # type: ignore[arg-type]
    times = np.unique(np.concatenate([[0.0, 1.0], marks[(marks > 0) & (marks < 1)]]))
    length = np.ptp(span, axis=1)
    x = (first * length[:, None, None] ** np.arange(q)).reshape(M, V * q)
    held = ~np.isfinite(x).all(1)
    with np.errstate(all="ignore"):
        run = march(
            problem,
            space,
            times,
            np.where(held[:, None], 0.0, x),
            tolerance=np.full(M, LOCAL),
            absolute=FAINT * LOCAL,
            most_intervals=MOST_INTERVALS,
            report=lambda **_: None,
        )
        τ, ok = run.mesh.t, run.finished & ~held
        s = np.diff(τ)
        states = run.u.x[:, :-1].reshape(M, -1, V, q)
        inverse = np.linalg.inv(np.array(space.points)[:, None] ** np.arange(POINTS))
        factors = np.array([float(factorial(j)) for j in range(POINTS)])
        stages = (run.u.z @ inverse.T) * factors / s[..., None, None] ** np.arange(POINTS)
        z = np.concatenate([states, stages], axis=-1) / length[:, None, None, None] ** np.arange(POINTS + q)
    t = span[:, :1] + length[:, None] * τ
    t[:, -1] = span[:, 1]
    ok = ok & np.isfinite(z).all((1, 2, 3))
    z[~ok], t[~ok] = 0.0, np.linspace(span[~ok, 0], span[~ok, 1], t.shape[1], axis=-1)
    return t, z, ok


def shot(setting: Setting, start: State, report: Callable[[float, int], None]) -> tuple[Array, State]:
    """Fits sets by shooting from the parameters and first states of a state; meshes (M, N+1) and where they end.

    `failed` are sets that could not be integrated from there.
    """
    S, E = setting.S, setting.E
    q = setting.model.q
    options: dict[str, Any] = {"E": E, "estimated": setting.observed.estimated, "refining": True}
    t, z, solved = integrated(setting, start.φ, start.z[:, 0, :, :q])
    s = replace(start, z=z)
    s.failed, s.converged, s.level = ~solved, np.zeros(S, bool), np.full(S, LEVEL)
    length, active = np.ones(S), solved.copy()
    mark, known = np.full(S, np.inf), not setting.observed.estimated.any() and setting.model.noise is None
    for step_number in range(STEPS):
        sets = np.flatnonzero(active)
        if not len(sets):
            break
        report(1.0, len(sets))
        members = (sets[:, None] * E + np.arange(E)).ravel()
        part, own = setting.take(sets), s.take(sets, members)
        iteration = GaussNewton(part.discretization(t[members]), own, free=part.free, **options)
        everyone = np.arange(len(sets))
        if iteration.estimated.any():
            iteration.estimate_noise(everyone)
        step = iteration.proposal(everyone, length[sets])
        own.costs = step.cost
        ω = np.minimum(length[sets], 1.0)
        δ = (step.T @ step.δ[..., None])[..., 0]
        new = replace(own.take(everyone, np.arange(len(members))), φ=np.clip(own.φ + δ, own.lower, own.upper))
        first = own.z[:, 0, :, :q] + np.repeat(ω, E)[:, None, None] * step.Δ[:, 0, :, :q]
        t_new, new.z, solved = integrated(part, new.φ, first)
        trial = GaussNewton(part.discretization(t_new), new, free=part.free, **options)
        new.costs = trial.costs(everyone, new.z, new.φ, trial.e, trial.weights(everyone), trial.d)
        before, after = (np.delete(x.costs, 1, axis=1).sum(-1) for x in (own, new))
        with np.errstate(invalid="ignore"):
            gained = np.where(solved & step.sound & np.isfinite(after), before - after, -np.inf)
        good = gained > 0
        length[sets] = np.where(good, np.minimum(1.0, LONGER * length[sets]), SHORTER * length[sets])
        ended = np.where(good, (gained < GAIN) & (ω == 1), ~step.sound | (length[sets] < SHORTEST))
        kept = ~np.repeat(good, E)
        a, b = SimpleNamespace(t=t, state=s), SimpleNamespace(t=t_new, state=new)
        of_one_length(a, b)
        t, t_new = a.t, b.t
        s.z[members] = np.where(kept[:, None, None, None], s.z[members], new.z)
        t[members] = np.where(kept[:, None], t[members], t_new)
        s.φ[sets] = np.where(good[:, None], new.φ, own.φ)
        s.costs[sets] = np.where(good[:, None], new.costs, own.costs)
        s.noise[members], s.covariance[sets] = own.noise, own.covariance
        s.held[sets], s.determined[sets] = own.held, own.determined
        s.steps[sets] += 1
        s.converged[sets] |= ended
        active[sets] = ~ended
        if step_number % PATIENCE == PATIENCE - 1:  # what does not come nearer to what data allow is given up
            number = setting.observed.seen.sum((1, 2, 3))
            excess = np.delete(s.costs, 1, axis=1).sum(-1) - number
            if known:
                active &= excess < np.maximum(0.5 * mark, 5 * np.sqrt(2 * number))
            mark = excess
    return t, s


def of_one_length(*ends: Any) -> None:
    """Brings trajectories onto meshes of one number of intervals.

    Args:
        ends: each with its meshes `t` and a `state`.
    """
    N = max(x.t.shape[1] for x in ends) - 1
    for x in ends:
        t = with_intervals(x.t, N)
        x.t, x.state.z = t, moved(x.t, x.state.z, t)
