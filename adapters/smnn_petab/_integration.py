"""Trajectories and sensitivities of many starts and experiments side by side, each with steps of its own.

Radau IIA of three stages: with A the Runge-Kutta matrix, c its nodes and Z_i = x(t + c_i h) - x(t),

    (A⁻¹ Z)_i / h = f(t + c_i h, x + Z_i),                      by Newton's method with J = ∂f/∂x at t,
    (A⁻¹ dZ)_i / h = J_i (S + dZ_i) + P_i,                      its derivative by θ, with S = ∂x/∂θ, P = ∂f/∂θ,

the derivative of the numbers computed, but for what Newton's method and the choice of steps leave. Between the ends of
a step a solution is the polynomial through x and the stages. Source: Hairer, Wanner, Solving Ordinary Differential
Equations II, Springer 1996, section IV.8, for the method, its error estimate and the choice of steps.

NumPy makes one step of all members in the time that Python needs for a few steps of one. Members come and go: whoever
waits for one goes on while the others are integrated.

Letters: M members, n states, p parameters that move them, i inputs of the rates.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["Job", "Pool"]

Array = np.ndarray
C = np.array([(4 - math.sqrt(6)) / 10, (4 + math.sqrt(6)) / 10, 1.0])
_POWERS = np.arange(3)
A_INVERSE = np.linalg.inv((C[:, None] ** (_POWERS + 1) / (_POWERS + 1)) @ np.linalg.inv(C[:, None] ** _POWERS))
_μ, _T = np.linalg.eig(A_INVERSE)
_CHOSEN = [int(np.argmin(np.abs(_μ.imag))), int(np.argmax(_μ.imag))]
REAL, COMPLEX = float(_μ[_CHOSEN[0]].real), complex(_μ[_CHOSEN[1]])
"""Eigenvalues of A⁻¹; the third is the conjugate of the second."""
TO = np.linalg.inv(_T)[_CHOSEN]
BACK = _T[:, _CHOSEN] * np.array([1.0, 2.0])
"""Z = Re(BACK W), W = TO Z."""
ERROR = np.array([-13 - 7 * math.sqrt(6), -13 + 7 * math.sqrt(6), -1]) / 3
"""Weights of the stages in the estimate of the error."""
STAGES = np.linalg.inv(C[:, None] ** (_POWERS + 1))
"""Coefficients of θ, θ², θ³ of the polynomial through 0 and the stages, from these."""

ITERATIONS = 7
"""Steps of Newton's method, after which a member tries a shorter step."""
SHRINK, GROW = 0.2, 8.0
"""Factors from one step to the next."""
MOST = 500
"""Steps of a member, more at relative tolerances below 1e-5: solutions that end in finite time take steps without
end."""
LAST = 2.0**60
"""The time until which a steady state is expected."""


@dataclass
class Job:
    """One trajectory that is wanted."""

    key: Any
    x: Array
    """(n,)"""
    S: Array
    """(n, p)"""
    q: Array
    """(i,)"""
    dq: Array
    """(i, p)"""
    times: Array
    """(k,), ascending from 0 on; none for the steady state that comes at last"""
    switches: tuple[float, ...] = ()
    rtol: float = 1e-6


@dataclass
class _Wanted:
    """A job under way."""

    job: Job
    ends: list[float]
    """of pieces between switches, those not yet reached"""
    x: Array
    """(k, n)"""
    S: Array
    """(k, n, p)"""
    next: int
    """the first time not yet reached"""


class Pool:
    """Members that are integrated side by side."""

    def __init__(self, values: Callable[..., Any], rates: Callable[..., Any], n: int) -> None:
        """
        Args:
            values: (t (..), x (n, ..), q (i, ..)) -> n arrays: f.
            rates: the same arguments -> f (.., n), ∂f/∂x (.., n, n), ∂f/∂q (.., n, i).
        """
        self.values, self.rates, self.n = values, rates, n
        self.blocks = np.kron(A_INVERSE, np.eye(n))
        self.wanted: list[_Wanted] = []
        self.new: list[Job] = []
        self.arrays: dict[str, Array] = {}

    def add(self, job: Job) -> None:
        self.new.append(job)

    def __len__(self) -> int:
        return len(self.wanted) + len(self.new)

    def step(self) -> Iterator[tuple[Job, tuple[Array, Array] | None]]:
        """One step of every member; yields jobs that are done with x (k, n) and S (k, n, p), (n,) and (n, p) of steady
        states, or None where the integration failed."""
        with np.errstate(all="ignore"):
            yield from self._admit()
            if self.wanted:
                yield from self._step()

    def _admit(self) -> Iterator[tuple[Job, tuple[Array, Array] | None]]:
        """Starts what was added."""
        fresh = []
        for job in self.new:
            steady = not len(job.times)
            end = math.inf if steady else float(job.times[-1])
            w = _Wanted(job, [], np.empty((len(job.times), self.n)), np.empty((len(job.times), *job.S.shape)), 0)
            while w.next < len(job.times) and job.times[w.next] <= 0:
                w.x[w.next], w.S[w.next] = job.x, job.S
                w.next += 1
            w.ends = [*(s for s in job.switches if 0 < s < end), end][::-1]
            if not np.isfinite(job.x).all():
                yield job, None
            elif end == 0:
                yield job, (w.x, w.S)
            else:
                fresh.append(w)
        self.new = []
        if not fresh:
            return
        M, n = len(fresh), self.n
        new = {
            "x": np.stack([w.job.x for w in fresh]),
            "S": np.stack([w.job.S for w in fresh]),
            "q": np.stack([w.job.q for w in fresh], -1).T,
            "dq": np.stack([w.job.dq for w in fresh]),
            "rtol": np.array([w.job.rtol for w in fresh]),
            "t": np.zeros(M),
            "start": np.zeros(M),
            "end": np.array([w.ends[-1] for w in fresh]),
            "h": np.zeros(M),
            "before": np.full(M, np.nan),
            "Z": np.zeros((M, 3, n)),
            "f": np.zeros((M, n)),
            "J": np.zeros((M, n, n)),
            "left": np.array([MOST * max(1e-5 / w.job.rtol, 1.0) ** 0.25 for w in fresh]),
            "next": np.array([w.job.times[w.next] if len(w.job.times) else math.inf for w in fresh]),
        }
        a = self.arrays
        self.arrays = {k: np.concatenate([a[k], v]) for k, v in new.items()} if a else new
        self.wanted += fresh

    def _at(self, function: Callable[..., Any], m: Any, t: Array, x: Array) -> Any:
        """The rates at times t (M, k) and states x (M, k, n) of some members, inside the piece they are in."""
        a = self.arrays
        start, end = a["start"][m, None], a["end"][m, None]
        margin = 1e-12 * np.where(end < math.inf, end - start, 1.0)  # rates jump at the ends
        inside = np.minimum(np.maximum(t, start + margin), end - margin)
        return function(inside, np.ascontiguousarray(x.transpose(2, 0, 1)), a["q"][m].T[:, :, None])

    def _begin(self) -> None:
        """First steps, and derivatives at them, of members at the start of a piece."""
        a = self.arrays
        m = np.flatnonzero(a["h"] == 0)
        if not len(m):
            return
        x = a["x"][m]
        f, J, _ = self._at(self.rates, m, a["t"][m, None], x[:, None])
        a["f"][m], a["J"][m] = f[:, 0], J[:, 0]
        scale = a["rtol"][m, None] * (np.abs(x) + 1e-2)
        size, speed = _norm(x / scale), _norm(f[:, 0] / scale)
        span = a["end"][m] - a["start"][m]
        span = np.where(np.isfinite(span), span, 1.0)
        h = np.where((size > 1e-5) & (speed > 1e-5), 0.01 * size / np.maximum(speed, 1e-300), 1e-2 * span)
        a["h"][m] = np.clip(h, 1e-10 * span, 0.1 * span)
        a["before"][m] = np.nan

    def _step(self) -> Iterator[tuple[Job, tuple[Array, Array] | None]]:
        self._begin()
        a, n = self.arrays, self.n
        M = len(self.wanted)
        left = a["end"] - a["t"]
        h = np.where(a["h"] > 0.99 * left, left, np.minimum(a["h"], np.where(a["h"] > 0.5 * left, 0.5 * left, left)))
        one, J = np.eye(n), a["J"]
        real = _inverse((REAL / h)[:, None, None] * one - J)
        complex_ = _inverse((COMPLEX / h)[:, None, None] * one - J)
        Z, converged, iterations = self._newton(h, real, complex_)
        x, f, rtol = a["x"], a["f"], a["rtol"][:, None]
        X = x + Z[:, 2]
        scale = rtol * (np.maximum(np.abs(x), np.abs(X)) + 1e-2)
        estimate = f + ERROR @ Z / h[:, None]
        error = _norm(_times(real, estimate) / scale)
        converged &= np.isfinite(error)
        taken = np.flatnonzero(converged & (error <= 1))
        safety = 0.9 * (2 * ITERATIONS + 1) / (2 * ITERATIONS + iterations)
        factor = np.clip(safety * np.maximum(error, 1e-10) ** -0.25, SHRINK, GROW)
        a["left"] -= 1
        done: dict[int, tuple[Array, Array] | None] = {}
        if len(taken):
            self._take(taken, h, Z, done)
        a["h"] = h * np.where(converged, factor, 0.25)
        failed = (a["left"] < 0) | (a["h"] < 1e-14 * np.maximum(a["t"], 1e-10)) | ~np.isfinite(J).all((1, 2))
        for i in np.flatnonzero(failed):
            done.setdefault(int(i), None)
        at_end = taken[a["t"][taken] >= a["end"][taken]]
        for i in at_end:
            w = self.wanted[i]
            w.ends.pop()
            if w.ends:
                a["start"][i], a["end"][i], a["h"][i] = a["end"][i], w.ends[-1], 0.0
            else:
                done[int(i)] = w.x, w.S
        if done:
            results = [(self.wanted[i].job, result) for i, result in done.items()]
            keep = np.setdiff1d(np.arange(M), list(done))
            self.wanted = [self.wanted[i] for i in keep]
            self.arrays = {k: v[keep] for k, v in a.items()} if len(keep) else {}
            yield from results

    def _newton(self, h: Array, real: Array, complex_: Array) -> tuple[Array, Array, Array]:
        """Z (M, 3, n), which members have converged, and after how many iterations."""
        a = self.arrays
        M = len(h)
        ratio = h / a["before"]
        Z = _polynomial(a["Z"], 1 + C * ratio[:, None]) - a["Z"][:, 2:]
        Z[~np.isfinite(Z).all((1, 2)) | ~(ratio < GROW)] = 0.0
        enough = np.minimum(0.03, np.sqrt(a["rtol"]))
        converged, iterations, last = np.zeros(M, bool), np.full(M, ITERATIONS), np.full(M, np.nan)
        todo = np.arange(M)
        scale = a["rtol"][:, None, None] * (np.abs(a["x"]) + 1e-2)[:, None]
        for iteration in range(1, ITERATIONS + 1):
            z, s = Z[todo], h[todo, None, None]
            f = self._at(self.values, todo, a["t"][todo, None] + C * s[:, 0], a["x"][todo, None] + z)
            F = np.empty_like(z)
            for i, v in enumerate(f):
                F[..., i] = v
            R = F - A_INVERSE @ z / s
            W = TO @ R
            W[:, 0] = _times(real[todo], W[:, 0].real)
            W[:, 1] = _times(complex_[todo], W[:, 1])
            change = (BACK @ W).real
            Z[todo] = z + change
            size = _norm((change / scale[todo]).reshape(len(todo), -1))
            rate = size / last[todo]
            good = (size < 1e-3 * enough[todo]) | ((rate < 1) & (rate / (1 - rate) * size < enough[todo]))
            bad = ~np.isfinite(size) | (rate >= 2)
            converged[todo[good]], iterations[todo[good]], last[todo] = True, iteration, size
            todo = todo[~good & ~bad]
            if not len(todo):
                break
        return Z, converged, iterations

    def _take(self, m: Array, h: Array, Z: Array, done: dict[int, tuple[Array, Array] | None]) -> None:
        """Ends of steps of members m, with sensitivities, and what was wanted along the way."""
        a, n = self.arrays, self.n
        x, S, t, s, Z = a["x"][m], a["S"][m], a["t"][m], h[m], Z[m]
        f, J, P = self._at(self.rates, m, t[:, None] + C * s[:, None], x[:, None] + Z)
        p = S.shape[-1]
        dZ = np.zeros((len(m), 3, n, p))
        if p:
            matrix = (self.blocks / s[:, None, None]).reshape(-1, 3, n, 3, n)
            for i in range(3):
                matrix[:, i, :, i] -= J[:, i]
            right = J @ S[:, None] + P @ a["dq"][m, None]
            size = 3 * n
            dZ = _each(np.linalg.solve, matrix.reshape(-1, size, size), right.reshape(-1, size, p)).reshape(dZ.shape)
        end = np.where(s >= a["end"][m] - t, a["end"][m], t + s)
        for k in np.flatnonzero(a["next"][m] <= end):
            w = self.wanted[m[k]]
            times = w.job.times
            last = int(np.searchsorted(times, end[k], "right"))
            θ = (times[w.next : last] - t[k]) / s[k]
            w.x[w.next : last] = x[k] + _polynomial(Z[k], θ)
            w.S[w.next : last] = S[k] + _polynomial(dZ[k], θ)
            w.next = last
            a["next"][m[k]] = times[last] if last < len(times) else math.inf
        a["x"][m], a["S"][m], a["t"][m] = x + Z[:, 2], S + dZ[:, 2], end
        a["f"][m], a["J"][m], a["Z"][m], a["before"][m] = f[:, 2], J[:, 2], Z, s
        for k in np.flatnonzero(~np.isfinite(a["end"][m])):
            i, rtol = int(m[k]), a["rtol"][m[k]]
            x_, S_ = a["x"][i], a["S"][i]
            change = J[k, 2] @ S_ + P[k, 2] @ a["dq"][i]
            still = np.abs(f[k, 2]).max() * end[k] <= 10 * rtol * np.abs(x_).max()
            if p:
                still = still and np.abs(change).max() * end[k] <= 1e3 * rtol * max(np.abs(S_).max(), 1e-300)
            if still:
                done[i] = x_, S_
            elif end[k] > LAST:
                done[i] = None


def _norm(x: Array) -> Array:
    """Roots of mean squares of the rows."""
    return np.sqrt(np.add.reduce(x * x, -1) / x.shape[-1])


def _times(matrix: Array, x: Array) -> Array:
    return (matrix @ x[..., None])[..., 0]


def _polynomial(Z: Array, θ: Array) -> Array:
    """The polynomials through 0 and the stages Z (.., 3, ..) at θ (.., k): (.., k, ..)."""
    powers = θ[..., None] ** np.array([1, 2, 3])
    weights = powers @ STAGES
    flat = Z.reshape(*weights.shape[:-2], 3, -1)
    return (weights @ flat).reshape(*weights.shape[:-1], *Z.shape[weights.ndim - 1 :])


def _inverse(matrix: Array) -> Array:
    return _each(np.linalg.inv, matrix)


def _each(function: Callable[..., Array], *matrices: Array) -> Array:
    """A function of stacks of matrices, NaN for those that are singular."""
    try:
        return function(*matrices)
    except np.linalg.LinAlgError:
        if len(matrices[0]) == 1:
            return np.full_like(matrices[-1], np.nan)
        half = len(matrices[0]) // 2
        return np.concatenate(
            [_each(function, *(a[part] for a in matrices)) for part in (slice(half), slice(half, None))]
        )
