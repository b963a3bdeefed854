"""Gauss-Newton iterations over trajectories and parameters together, for all data sets of a batch side by side.

The weight of the equations grows in levels from one where trajectories follow the data, and the parameters solve a
problem that is nearly linear, to one where neither cost nor parameters depend on it any more. At each level the sum of
squares decreases from step to step: where it does not, the trajectory alone is corrected for the new parameters, up to
three times (the equations bend, and heavy ones do not forgive it), then the step is shortened.

Letters: S data sets, E experiments of each, M = S E members, p parameters.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from .._arrays import Array
from ._collocated import Discretization, Evaluated, RowWeights
from ._estimate import Estimate, estimate
from ._model import Linear
from ._networks import Directions
from ._start import median

__all__ = ["LEVELS", "GaussNewton", "State"]

LEVELS = (0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 1e3, 1e4, 1e5, 1e6, 1e7)
"""Weights of equations of unit size, per root of the time scale, relative to data of the precision of most."""
FINAL = 6
"""The level from which fits may end."""
NOISE_FROM = 2
"""The level from which noise is estimated from what fits leave."""
PATIENCE, PATIENCE_OF_NETWORKS = 4, 12
"""Steps at a level before the final ones."""
ENOUGH, SETTLED, SAME = 0.3, 3e-3, 0.03
"""Movement in standard errors: below which a level is left, a fit stands still, two fits agree."""
BEFORE = 0.3
"""Movement from a level to the one ten times as heavy: a hundredth of it is left to go, since the effect of a finite
weight goes down with its square."""
GAIN_OF_NETWORKS = 0.3
"""The same where weights of networks are fitted, which never stand still."""
GAIN, LIGHT = 1e-3, 0.01
"""By which the cost may still decrease where a fit stands still; what equations may cost at the end."""
HELD = 0.7
"""Weight, per root of the time scale, of rows that hold trajectories where they are while equations say little."""
REACH = 1.0
"""How far parameters go in one step: of the largest value that they have had, or for logarithms e-fold."""
NEWTON, FAR = 15, 1e4
"""Steps of `simulate`; the largest value that is believed, in the size of the variable."""
REACH_OF_NETWORKS = 0.3
"""How far weights of networks go in one step, in deviations of their prior, all directions together."""
RIDGE, RIDGE_LOG = 3.0, 2.5
"""Deviation of the pull to where parameters started, in their size there or in logarithms."""
FOLLOWED = (0, 2)
"""Levels at which trajectories follow data before parameters move, where variables are not observed."""
SHORTEST = 0.25
"""Part of a step that is taken at least where steps go back and forth."""
SHORTER = (0.25, 0.05)
"""Parts of a step of trajectories alone that are tried where the whole of it does not decrease the cost."""
TRIALS = ((1.0, 3), (0.4, 2), (0.15, 1), (0.05, 0))
"""Parts of a step that are tried, one after the other, and how many times the trajectory is then corrected."""
LEAST_NOISE = 1e-6
"""Estimated noise relative to the size of data, at least."""


@dataclass(eq=False)
class State:
    """An iterate and its cost."""

    z: Array
    """(M, N, V, K)"""
    φ: Array
    """(S, p)"""
    noise: Array
    """(M, n, m)"""
    level: Array
    """(S,): index into `LEVELS`"""
    covariance: Array
    """(S, p, p)"""
    held: Array
    """(S, p): which parameters a bound holds"""
    determined: Array
    """(S,)"""
    converged: Array
    """(S,)"""
    failed: Array
    """(S,)"""
    steps: Array
    """(S,): taken in all"""
    costs: Array
    """(S, 4): of data, equations, initial values and priors"""
    first: Array
    """(S, p): φ at the start"""
    largest: Array
    """(S, p): the largest |φ| so far"""
    equation_size: Array
    """(M, Q), or (M, 0) until it is known"""
    τ: Array
    """(M,): time scales"""
    lower: Array
    """(S, p): bounds of φ"""
    upper: Array
    """(S, p)"""

    OF_MEMBERS = "z", "noise", "equation_size", "τ"

    def take(self, sets: Array, members: Array) -> State:
        """Some sets."""
        return State(**{k: v[members if k in self.OF_MEMBERS else sets].copy() for k, v in vars(self).items()})


class Proposal(NamedTuple):
    """A step before it is tried."""

    d: Discretization
    w: RowWeights
    cost: Array
    """(S, 4): where it starts"""
    Δ: Array
    """(M, N, V, K): of trajectories"""
    δ: Array
    """(S, c): along directions"""
    T: Array
    """(S, p, c): the directions, in φ"""
    error: Array
    """(S, c): standard errors along them"""
    found: Estimate
    sound: Array
    """(S,): whether there is one"""


class GaussNewton:
    """Iterates a `State` on one discretisation."""

    def __init__(
        self,
        d: Discretization,
        state: State,
        *,
        E: int,
        estimated: Array,
        free: Array,
        refining: bool = False,
        report: Callable[[float, int], None] | None = None,
    ) -> None:
        """
        Args:
            estimated: (m,): observables whose noise is estimated.
            free: (S,): free initial values.
            refining: the state has converged on another mesh; one level is enough.
        """
        self.d, self.s, self.E, self.estimated, self.free, self.report = d, state, E, estimated, free, report
        self.S = len(state.φ)
        self.refining = refining
        self.e = d.evaluate(state.z, np.repeat(state.φ, E, axis=0))
        if not state.equation_size.size:
            state.equation_size = self._equation_size(self.e)
        self.log = d.model.parameters.log
        self.n, self.networks = d.model.parameters.single, bool(d.model.parameters.networks)
        self.last, self.ω = np.zeros((self.S, self.n)), np.ones(self.S)

    def members(self, sets: Array) -> Array:
        return (sets[:, None] * self.E + np.arange(self.E)).ravel()

    def _equation_size(self, e: Evaluated) -> Array:
        """Root of the mean over time of the linearisation's sum of squares, for changes of y by its size, (M, Q)."""
        J = e.equations.in_y
        units = self.s.τ[:, None] ** -np.arange(J.shape[-1], dtype=float)
        J = np.where(np.isfinite(J), J, 0.0) * units[:, None, None, None, :]
        size = np.sqrt(
            ((J**2).sum((-2, -1)) * self.d.quadrature[..., None] ** 2).sum(1) / np.ptp(self.d.t, axis=1)[:, None]
        )
        return np.where(size > 0, size, 1.0)

    def weights(self, sets: Array) -> RowWeights:
        """Of members at their levels."""
        i, s = self.members(sets), self.s
        level = s.level[sets]
        w = np.asarray(LEVELS)[level]
        held = np.where(level < FINAL, HELD, 0.0)
        precision = self._precision(i)
        w, held = (np.repeat(x, self.E) / np.sqrt(self.s.τ[i]) for x in (w, held))
        return RowWeights((w * precision)[:, None] / s.equation_size[i], s.noise[i], held)

    def _precision(self, i: Array) -> Array:
        """Of most data, size / noise, (len(i),)."""
        d = self.d
        σ = self.s.noise[i]
        if self.e.deviations is not None:
            σ = np.broadcast_to(self.e.deviations.value[i], d.seen[i].shape)
        spread = self.data_size[i]
        ratio = np.where(d.seen[i] & (σ > 0) & np.isfinite(σ), spread / np.where(σ > 0, σ, 1.0), np.nan)
        return np.clip(np.nan_to_num(median(ratio.reshape(len(i), -1)), nan=1.0), 1.0, 1e6)

    @property
    def data_size(self) -> Array:
        """Deviation of the data of each observable of each member, (M, 1, m)."""
        d = self.d
        count = np.maximum(d.seen.sum(1, keepdims=True), 1)
        mean = (d.values * d.seen).sum(1, keepdims=True) / count
        deviation = np.sqrt(((d.values - mean) ** 2 * d.seen).sum(1, keepdims=True) / count)
        size = np.where(deviation > 0, deviation, np.abs(mean))
        return np.where(size > 0, size, 1.0)

    def costs(self, sets: Array, z: Array, φ: Array, e: Evaluated, w: RowWeights, d: Discretization) -> Array:
        """(len(sets), 4): of data, equations, initial values, priors."""
        parts = [x.reshape(-1, self.E).sum(1) for x in d.costs(z, e, w)]
        priors = sum((row**2).sum(-1) for row, _ in self._priors(sets, φ))
        return np.stack([*parts, priors], axis=-1)

    def _priors(self, sets: Array, φ: Array) -> tuple[tuple[Array, Array], ...]:
        """Rows and their slopes in φ, (len(sets), p) each: of priors, and of a weak pull to where parameters started,
        while equations say little."""
        first = self.s.first[sets]
        size = np.where(self.log, RIDGE_LOG, RIDGE * np.where(first == 0, 1.0, np.abs(first)))
        early = self.s.level[sets] < FINAL
        unknown = (first == 0) & ~self.log
        of_network = np.arange(len(self.log)) >= self.n
        pull = np.where(early[:, None] & ~unknown & ~of_network, 1 / size, 0.0)
        return self.d.model.parameters.prior(φ), ((φ - first) * pull, pull)

    def run(self, most: int) -> None:
        """Iterates until every set has converged, failed, or taken `most` steps at the final levels."""
        s = self.s
        in_level = np.zeros(self.S, int)
        move = np.full(self.S, np.inf)
        patience = PATIENCE_OF_NETWORKS if self.networks else PATIENCE
        damping = np.full(self.S, SHORTER[1] if self.networks and self.refining else 1.0)
        stuck = np.zeros(self.S, bool)
        before_φ, before_error = s.φ[:, : self.n].copy(), np.full((self.S, self.n), np.inf)
        started = s.steps.copy()
        active = ~(s.converged | s.failed)
        while active.any():
            sets = np.flatnonzero(active)
            if self.report is not None:
                self.report(float(np.asarray(LEVELS)[s.level[sets]].min()), len(sets))
            moved, part = self._step(sets, damping)
            ok = part > 0
            s.steps[sets] += 1
            in_level[sets] += 1
            move[sets] = moved
            stuck[sets] = ~ok
            longer = np.minimum(1.0, 3 * damping[sets])
            if self.networks:  # whose steps are as long as they have turned out well
                longer = np.where(part < 1, part, 3.0) * damping[sets]
            damping[sets] = np.where(ok, longer, damping[sets] / 16)
            final = s.level >= FINAL
            left = active & np.where(final, (move < SETTLED) | (stuck & (damping < 1e-3)), move < ENOUGH)
            left |= active & (in_level >= np.where(final, most, patience))
            left |= active & stuck & ~final & (damping < (1e-3 if self.networks else np.inf))
            left &= ~s.failed
            done = np.flatnonzero(left)
            if len(done):
                self._leave_level(done, move, before_φ, before_error, stuck)
                in_level[done], move[done] = 0, np.inf
                damping[done] = np.maximum(damping[done], SHORTER[1]) if self.networks else 1.0
                stuck[done] = False
                self.last[done] = 0.0
            active = ~(s.converged | s.failed) & (s.steps - started < most + patience * FINAL)
            active &= s.level < len(LEVELS)
        s.level = np.minimum(s.level, len(LEVELS) - 1)

    def outside(self) -> Array:
        """Sets with observables that are not finite where trajectories start, such as logarithms of what is 0."""
        s, d = self.s, self.d
        σ, _ = d.standard(self.e, RowWeights(np.ones((len(s.z), 1)), s.noise, np.zeros(len(s.z))))
        poor = ~np.isfinite(np.where(d.seen, self.e.data.value / σ, 0.0)).all((1, 2))
        poor |= (d.seen & self.e.outside).any((1, 2))
        return poor.reshape(-1, self.E).any(1)

    def simulate(self, wanted: Array) -> Array:
        """Moves trajectories to solutions of the equations at the parameters of the start.

        Newton's method for all times at once, with shortened steps; all initial values have to be known.

        Args:
            wanted: (S,), bool.

        Returns:
            (S,), bool: where that succeeded.
        """
        s, d = self.s, self.d
        known = (d.exact.weights > 0).all((1, 2)).reshape(-1, self.E).all(1)
        sets = np.flatnonzero(known & wanted)
        everywhere = np.zeros(self.S, bool)
        if not len(sets):
            return everywhere
        i = self.members(sets)
        alone = replace(d.take(i), seen=np.zeros_like(d.seen[i]))
        s.level[sets] = FINAL
        w, s.level[sets] = self.weights(sets), 0
        φ, z = np.repeat(s.φ[sets], self.E, axis=0), s.z[i]
        e = alone.evaluate(z, φ)
        cost = np.add.reduce(alone.costs(z, e, w))
        for _ in range(NEWTON):
            step = alone.step(z, _tamed(e), w, columns=False).solutions[:, 0] - z
            for ω in (1.0, *SHORTER):
                trial = z + ω * np.nan_to_num(step)
                new = alone.evaluate(trial, φ)
                less = np.add.reduce(alone.costs(trial, new, w))
                good = np.flatnonzero(less < cost)
                z[good], cost[good] = trial[good], less[good]
                e.put(good, new.take(good))
                if len(good) == len(z):
                    break
        solved = (cost < 1.0) & (np.abs(z[..., 0]).max((1, 2)) < FAR)
        own = np.flatnonzero(solved)
        s.z[i[own]] = z[own]
        self.e = d.evaluate(s.z, np.repeat(s.φ, self.E, axis=0))
        everywhere[sets] = solved.reshape(-1, self.E).all(1)
        return everywhere

    def follow(self) -> None:
        """Moves trajectories alone, at the parameters of the start: for variables that nobody observed."""
        s = self.s
        sets = np.arange(self.S)
        for level in FOLLOWED:
            s.level[:] = level
            for _ in range(PATIENCE):
                w = self.weights(sets)
                before = self.costs(sets, s.z, s.φ, self.e, w, self.d).sum(-1)
                z = self.d.step(s.z, self.e, w, columns=False).solutions[:, 0]
                for ω in (1.0, *SHORTER):
                    new = s.z + ω * (z - s.z)
                    e = self.d.evaluate(new, np.repeat(s.φ, self.E, axis=0))
                    good = self.costs(sets, new, s.φ, e, w, self.d).sum(-1) < before
                    good &= _finite(e).reshape(-1, self.E).all(1)
                    i = self.members(np.flatnonzero(good))
                    s.z[i] = new[i]
                    self.e.put(i, e.take(i))
                    before = np.where(good, -np.inf, before)
                    if good.all():
                        break
        s.level[:] = 0

    def _leave_level(self, sets: Array, move: Array, before_φ: Array, before_error: Array, stuck: Array) -> None:
        """Ends fits that two levels agree on; raises the weight of the others."""
        s = self.s
        change = np.zeros(len(sets))
        estimated = self.estimated.any()
        if estimated:
            later = s.level[sets] >= NOISE_FROM
            change[later] = self.estimate_noise(sets[later])
        error = np.sqrt(np.maximum(np.diagonal(s.covariance[sets, : self.n, : self.n], axis1=1, axis2=2), 0.0))
        φ, held = s.φ[sets, : self.n], s.held[sets, : self.n]
        change_of_φ = np.abs(φ - before_φ[sets])
        shift = np.where(held | (change_of_φ <= 1e-10 * np.abs(φ)), 0.0, change_of_φ / np.maximum(error, 1e-300))
        same = (shift < BEFORE).all(-1) & (change < SAME)
        same &= (np.abs(before_error[sets] - error) <= 2 * BEFORE * error).all(-1)
        same |= self.refining & (change < SAME)
        total = np.abs(s.costs[sets]).sum(-1)
        light = s.costs[sets, 1] < LIGHT + 1e-5 * total
        settled = (move[sets] < SETTLED) | (stuck[sets] & (move[sets] < SAME))
        end = same & light & settled & (s.level[sets] >= FINAL)
        s.converged[sets[end]] = True
        before_φ[sets], before_error[sets] = φ, error
        rest = sets[~end]
        last = s.level[rest] == len(LEVELS) - 1
        again = last & (change[~end] >= SAME) & (s.steps[rest] < 200)
        s.level[rest[~again]] += 1

    def proposal(self, sets: Array, damping: Array) -> Proposal:
        """The step that the linearised rows of some sets propose, of parameters at most `damping` times their reach."""
        s, E = self.s, self.E
        i = self.members(sets)
        d, e, w = self.d.take(i), self.e.take(i), self.weights(sets)
        z, φ = s.z[i], s.φ[sets]
        cost = self.costs(sets, z, φ, e, w, d)
        directions, n = self.directions(sets, d, e, w), self.n
        T = directions.T
        step = d.step(z, e.along(np.repeat(T, E, axis=0)) if self.networks else e, w)
        c = T.shape[2]
        gram = step.gram.reshape(len(sets), E, 1 + c, 1 + c).sum(1)
        sound = np.isfinite(gram).all((1, 2)) & np.isfinite(step.solutions).all((1, 2, 3, 4)).reshape(-1, E).all(1)
        s.failed[sets[~sound]] = True
        gram = np.where(sound[:, None, None], gram, np.eye(1 + c))
        for row, slope in self._priors(sets, φ):
            pull = np.concatenate([row[..., None], slope[..., None] * T], axis=-1)
            pull = np.swapaxes(pull, 1, 2) @ pull
            pull[:, 0, 0] = 0.0
            gram += pull
        gram[:, np.arange(1, 1 + c), np.arange(1, 1 + c)] += ~T.any(1)  # (columns of sets with fewer directions)
        found = self._estimate(gram, φ, sets, damping)
        s.held[sets, :n], s.determined[sets] = found.held[:, :n], found.determined
        s.covariance[sets] = directions.of_all(found.covariance)
        δ = np.where(sound[:, None], found.change, 0.0)
        Y = step.solutions
        Δ = Y[:, 0] + np.einsum("mp,mptvr->mtvr", np.repeat(δ, E, axis=0), Y[:, 1:]) - z
        Δ[~np.repeat(sound, E)] = 0.0
        error = np.sqrt(np.maximum(np.diagonal(found.covariance, axis1=1, axis2=2), 1e-300))
        return Proposal(d, w, cost, Δ, δ, T, error, found, sound)

    def _step(self, sets: Array, damping: Array) -> tuple[Array, Array]:
        """One step of some sets: how far they moved, in standard errors, and which part of the step decreased the cost,
        0 for none."""
        s, E, n = self.s, self.E, self.n
        i = self.members(sets)
        z, φ = s.z[i], s.φ[sets]
        d, w, cost, Δ, δ, T, error, found, sound = self.proposal(sets, damping[sets])
        total, p = cost.sum(-1), T.shape[1]
        ω = self._relaxation(sets, np.where(found.held, 0.0, δ / error)[:, :n])
        Δ *= np.repeat(ω, E)[:, None, None, None]
        δ *= ω[:, None]
        ok, part = self._accept(sets, d, w, z, φ, Δ, (T @ δ[..., None])[..., 0], cost)
        ok &= sound
        δ, error, φ = δ[:, :n], error[:, :n], φ[:, :n]
        moved = np.where(found.held[:, :n], 0.0, np.abs(part[:, None] * δ) / error)
        moved = np.where(np.abs(δ) <= 1e-10 * np.abs(φ), 0.0, moved).max(-1, initial=0.0)
        with np.errstate(invalid="ignore"):
            gained = np.nan_to_num(total - s.costs[sets].sum(-1), nan=0.0)  # of infinite costs
        gain = GAIN_OF_NETWORKS if self.networks else GAIN
        moved = np.maximum(moved, np.where(s.level[sets] >= FINAL, np.maximum(gained, 0.0), 0.0) * (SETTLED / gain))
        root = np.sqrt(np.maximum(gained, 0.0))
        if self.networks:
            early = np.where(s.level[sets] < FINAL, root, 0.0)
            return np.where(ok, np.maximum(moved, early), np.inf), np.where(ok, part, 0.0)
        if not p:
            moved = root
        moved = np.where(found.determined, moved, root)
        return np.where(ok | (np.abs(δ).max(-1, initial=0) > 0), moved, 0.0), np.where(ok, part, 0.0)

    def directions(self, sets: Array, d: Discretization, e: Evaluated, w: RowWeights) -> Directions:
        """Changes of φ that a step of some sets may make."""
        p, n = self.s.φ.shape[1], self.n
        deviation = d.model.parameters.deviations
        parts = [(e.equations, w.equations[:, None] * d.quadrature[..., None])]
        if d.model.observe is not None:
            parts.append((e.data, np.where(d.seen, 1 / d.standard(e, w)[0], 0.0)))
        S = len(sets)
        rows = [
            (x.in_φ.reshape(S, x.value.size // S, p), np.broadcast_to(w, x.value.shape).reshape(S, -1))
            for x, w in parts
        ]
        return Directions.of(rows, deviation, n, S)

    def _relaxation(self, sets: Array, step: Array) -> Array:
        """The part of a step that is taken, (len(sets),): less than 1 where steps go back and forth.

        Gauss-Newton iterations multiply the error in a direction by some λ, near -1 where the equations are strongly
        curved; steps of length 1 / (1 - λ) stop that, with λ from the last two steps, in units of standard errors.
        Source: Irons, Tuck, Int. J. Numer. Meth. Engng. 1 (1969) 275 (Aitken's method for vectors).
        """
        last, ω = self.last[sets], self.ω[sets]
        norm = (last * last).sum(-1)
        ratio = (step * last).sum(-1) / np.where(norm > 0, norm, 1.0)
        back = (norm > 0) & (ratio < 0)
        ω = np.where(back, np.clip(ω / (1 - np.minimum(ratio, 0.0)), SHORTEST, 1.0), 1.0)
        self.last[sets], self.ω[sets] = step, ω
        return ω

    def _estimate(self, gram: Array, φ: Array, sets: Array, damping: Array) -> Estimate:
        s = self.s
        s.largest[sets] = np.maximum(s.largest[sets], np.abs(φ))
        n, more = self.n, ((0, 0), (0, gram.shape[1] - 1 - self.n))
        diagonal = np.diagonal(gram, axis1=1, axis2=2)[:, 1 : 1 + n]
        unknown = 1 / np.sqrt(np.where(diagonal > 0, diagonal, 1.0))
        size = s.largest[sets, :n]
        reach = np.where(self.log[:n], REACH, np.where(size > 0, REACH * size, unknown))
        reach = np.pad(reach * np.minimum(damping, 1.0)[:, None], more)
        reach[:, n:] = REACH_OF_NETWORKS * damping[:, None]
        lower, upper = s.lower[sets] - φ, s.upper[sets] - φ
        bounded = np.isfinite(lower).any() or np.isfinite(upper).any()
        bounds = [np.pad(x[:, :n], more, constant_values=end) for x, end in ((lower, -np.inf), (upper, np.inf))]
        return estimate(gram, *(bounds if bounded else ()), reach=reach)

    def _accept(
        self, sets: Array, d: Discretization, w: RowWeights, z: Array, φ: Array, Δ: Array, δ: Array, cost: Array
    ) -> tuple[Array, Array]:
        """Takes the first trial that decreases the cost: whether there was one, and which part of δ it is."""
        s, E, total = self.s, self.E, cost.sum(-1)
        ok, part = np.zeros(len(sets), bool), np.ones(len(sets))
        s.costs[sets] = cost
        todo = np.arange(len(sets))
        last: tuple[Array, Array, Evaluated] | None = None
        for trial, (ω, corrected) in enumerate((ω, i > 0) for ω, more in TRIALS for i in range(1 + more)):
            m = (todo[:, None] * E + np.arange(E)).ravel()
            d_own, w_own = (d.take(m), RowWeights(*(x[m] for x in w))) if trial else (d, w)
            if corrected and last is not None:
                z_new, φ_new, e = last
                z_new = d_own.step(z_new, e, w_own, columns=False).solutions[:, 0]
            else:
                z_new, φ_new = z[m] + ω * Δ[m], φ[todo] + ω * δ[todo]
            e = d_own.evaluate(z_new, np.repeat(φ_new, E, axis=0))
            new = self.costs(sets[todo], z_new, φ_new, e, w_own, d_own)
            good = new.sum(-1) <= total[todo] + 1e-9 * np.abs(total[todo]) + 1e-9
            good &= _finite(e).reshape(-1, E).all(1)
            g, bad = np.flatnonzero(good), np.flatnonzero(~good)
            if len(g):
                gm, own = (g[:, None] * E + np.arange(E)).ravel(), self.members(sets[todo[g]])
                s.z[own], s.φ[sets[todo[g]]], s.costs[sets[todo[g]]] = z_new[gm], φ_new[g], new[g]
                self.e.put(own, e.take(gm) if len(bad) else e)
                ok[todo[g]], part[todo[g]] = True, ω
            if not len(bad):
                break
            bm = (bad[:, None] * E + np.arange(E)).ravel()
            last = z_new[bm], φ_new[bad], e.take(bm)
            todo = todo[bad]
        return ok, part

    def _determined_numbers(self, sets: Array) -> Array:
        """How many numbers the data determine in φ, (len(sets),): of weights of networks what their prior does not."""
        n = self.n
        variance = np.diagonal(self.s.covariance[sets, n:, n:], axis1=1, axis2=2)
        return n + (1 - variance / self.d.model.parameters.deviations[n:] ** 2).sum(-1)

    def estimate_noise(self, sets: Array) -> Array:
        """From what fits leave and the degrees of freedom left; by how much it changes, relatively, (len(sets),)."""
        if not len(sets):
            return np.zeros(0)
        s, d, E = self.s, self.d, self.E
        i = self.members(sets)
        n, m = d.seen.shape[1:]
        seen = d.seen[i].reshape(len(sets), E * n, m)
        r = (self.e.data.value[i] - d.values[i]).reshape(len(sets), E * n, m)
        σ = s.noise[i].reshape(len(sets), E * n, m)
        square = σ * σ * d.loss.square(np.where(seen, r / σ, 0.0))
        count = seen.sum(1)
        total = count.sum(1)
        fitted = self.free[sets] + self._determined_numbers(sets)
        share = np.clip(1 - fitted / np.maximum(total, 1), 1 / np.maximum(total, 1), None)
        variance = np.where(seen, square, 0.0).sum(1) / np.maximum(count, 1) / share[:, None]
        size = np.max(self.data_size[i].reshape(len(sets), E, m), axis=1)
        new = np.maximum(np.sqrt(variance), LEAST_NOISE * size)
        old = np.where(seen, σ, 0.0).max(1)
        change = np.where(self.estimated & (count > 0), np.abs(new / np.where(old > 0, old, 1.0) - 1), 0.0)
        floor = new <= 2 * LEAST_NOISE * size
        change = np.where(floor & (old <= 4 * LEAST_NOISE * size), 0.0, change)
        new = np.repeat(np.repeat(new[:, None], E, axis=0).reshape(len(i), 1, m), n, axis=1)
        s.noise[i] = np.where(self.estimated, new, s.noise[i])
        return change.max(1)


def _tamed(e: Evaluated) -> Evaluated:
    """With zeros for observables that are not finite, whose rows have no weight."""
    value, in_y, in_φ = (np.nan_to_num(x, nan=0.0, posinf=0.0, neginf=0.0) for x in e.data)
    return replace(e, data=Linear(value, in_y, in_φ))


def _finite(e: Evaluated) -> Array:
    """True if all values and derivatives of a member are finite, (M,)."""
    ok = np.ones(len(e.initial), bool)
    for x in (e.equations, e.data, e.deviations, e.rest):
        if x is not None:
            for a in x:
                ok &= np.isfinite(a).all(tuple(range(1, a.ndim)))
    return ok
