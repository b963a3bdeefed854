r"""The rows of a fit on collocation meshes, linearised, with the trajectory projected out.

At a trajectory y and parameters φ the rows of a member, each divided by its standard deviation, are

    equations      w ((J y - (J y* - f)) + P δ)          at the Radau points, w^2 with the quadrature weights
    data           ((h + H (y - y*) + Hφ δ) - d) / σ        anywhere in an interval
    noise          √2 (∂σ (y - y*) + ∂φσ δ) / σ - (r^2 - 1) / √2,  r = (d - h) / σ, where σ depends on y or φ
    initial        (y - u - Uφ δ) / σ_0
    priors         (φ + δ - mean) / deviation

with δ the change of φ. The noise rows are Fisher scoring: their gradient is that of log σ^2 + r^2, their square its
expected curvature. y = y_0 + Σ δ_j y_j: 1 + p right-hand sides of one left-hand side, and δ minimises the Gram matrix
of what they leave. Source: Golub, Pereyra, SIAM J. Numer. Anal. 10 (1973) 413.

Trajectories z = y / size are in units in which variables have size 1.

Letters: M members, N intervals, k points, n times of data, at most D of them in an interval, V variables, K unknowns.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple

import numpy as np

from .._arrays import Array
from .._errors import ArgumentError
from .._problem import Problem, Weights
from .._schemes import Scheme
from .._solve import solve_without_raising
from ..trajectory._collocation import Space
from ..trajectory._equations import refuse_coupling
from ._losses import Loss
from ._model import Linear, Model
from ._taylor import continuity, evaluate, radau_rule, taylor

__all__ = ["Discretization", "Evaluated", "Initial", "RowWeights", "Step"]

CONTINUITY = 1e3
"""Weight of the continuity rows, relative to the heaviest others."""


class Initial(NamedTuple):
    """Knowledge of y at the first time."""

    values: Array
    """(M, V, q), 0 where nothing is"""
    weights: Array
    """(M, V, q): inverse standard deviations, 0 where nothing is known"""


@dataclass(frozen=True, eq=False)
class Evaluated:
    """Callbacks at one trajectory and φ, in units of size 1."""

    equations: Linear
    data: Linear
    deviations: Linear | None
    outside: Array
    """(M, n, m), bool: observables that are negative although they are compared by logarithms, which go on as lines"""
    rest: Linear | None
    """equations of a steady state, (M, 1, Q)"""
    initial: Array
    """(M, V, q)"""
    initial_slope: Array
    """(M, V, q, p)"""

    def take(self, members: Array) -> Evaluated:
        """Some members."""
        parts: list[Any] = [_take(getattr(self, f.name), members) for f in fields(self)]
        return Evaluated(*parts)

    def along(self, T: Array) -> Evaluated:
        """With derivatives along the columns of T (M, p, directions) in place of those in φ."""

        def along(x: Linear | None) -> Any:
            return x and x._replace(
                in_φ=(x.in_φ.reshape(len(T), x.value.size // len(T), T.shape[1]) @ T).reshape(
                    *x.value.shape, T.shape[2]
                )
            )

        parts = (along(x) for x in (self.equations, self.data, self.deviations, self.rest))
        equations, data, deviations, rest = parts
        slope = self.initial_slope.reshape(len(T), self.initial.size // len(T), T.shape[1]) @ T
        slope = slope.reshape(*self.initial.shape, T.shape[2])
        return replace(
            self, equations=equations, data=data, deviations=deviations, rest=rest, initial_slope=slope
        )  # fmt: skip

    def put(self, members: Array, new: Evaluated) -> None:
        """Writes new values of some members."""
        for f in fields(self):
            _put(getattr(self, f.name), members, getattr(new, f.name))


def _take(x: Any, members: Array) -> Any:
    if x is None:
        return None
    return Linear(*(a[members] for a in x)) if isinstance(x, Linear) else x[members]


def _put(x: Any, members: Array, new: Any) -> None:
    if isinstance(x, Linear):
        for a, b in zip(x, new, strict=True):
            a[members] = b
    elif x is not None:
        x[members] = new


class Jumps(NamedTuple):
    """Which of n jumps lie behind points, as numbers 0 and 1: z is continuous, and y is z and what jumps have added."""

    of_intervals: Array
    """(M, N k, n): behind collocation points"""
    of_data: Array
    """(M, times, n): behind observations; those at the time of a jump are of before it"""


class RowWeights(NamedTuple):
    """Factors of rows."""

    equations: Array
    """(M, Q): w, without the quadrature weights"""
    noise: Array
    """(M, n, m): standard deviations of the data; of members whose model gives them, ignored"""
    held: Array
    """(M,): weight of rows that hold y where it is, per root of time"""


class Step(NamedTuple):
    """A linearised fit after projection."""

    solutions: Array
    """(M, 1+p, N, V, K): z_0, .., z_p"""
    gram: Array
    """(M, 1+p, 1+p), without priors"""
    left: Array
    """(M, N, R, 1+p): what the rows inside intervals leave"""


@dataclass(frozen=True, eq=False)
class Discretization:
    """Members on their meshes."""

    model: Model
    k: int
    t: Array
    """(M, N+1)"""
    times: Array
    """(M, n)"""
    values: Array
    """(M, n, m), 0 where missing"""
    seen: Array
    """(M, n, m), bool"""
    who: Array
    """(M,): the experiment of each member"""
    size: Array
    """(M, V)"""
    exact: Initial
    """of initial values given as numbers; with a function their weights"""
    loss: Loss
    x: Array
    """(M, N k): collocation points"""
    E: Array
    """(M, N, k, q+1, K): Taylor sums at them"""
    quadrature: Array
    """(M, N k): roots of the quadrature weights"""
    where: Array
    """(M, n): the interval of each observation"""
    slots: Array
    """(M, N, D): which observations lie in each interval, n for none"""
    jumps: Jumps | None = None

    @staticmethod
    def of(
        model: Model,
        k: int,
        t: Array,
        times: Array,
        values: Array,
        seen: Array,
        who: Array,
        size: Array,
        exact: Initial,
        loss: Loss,
    ) -> Discretization:
        (M, N), K = (t.shape[0], t.shape[1] - 1), k + model.q
        s = np.diff(t)
        points, w = radau_rule(k)
        x = (t[:, :-1, None] + s[..., None] * points).reshape(M, N * k)
        E = taylor(s[..., None] * points, K, model.q + 1)
        quadrature = np.sqrt(s[..., None] * w).reshape(M, N * k)
        where = Space.interval(t, times)
        slots = _slots(where, seen.any(-1), N)
        jumps = None
        if model.jump_times is not None:
            at = model.jump_times[who][:, None]
            middle = (t[:, :-1] + t[:, 1:]) / 2
            behind = (np.repeat(middle, k, axis=1)[..., None] > at, times[..., None] > at)
            jumps = Jumps(*(x.astype(float) for x in behind))
        return Discretization(
            model, k, t, times, values, seen, who, size, exact, loss, x, E, quadrature, where, slots, jumps
        )  # fmt: skip

    def take(self, members: Array) -> Discretization:
        """Some members."""
        values = []
        for f in fields(self):
            x = getattr(self, f.name)
            if isinstance(x, np.ndarray):
                x = x[members]
            elif isinstance(x, (Initial, Jumps)):
                x = type(x)(*(a[members] for a in x))
            values.append(x)
        return Discretization(*values)

    @property
    def least(self) -> Array:
        """The smallest datum of each observable, transformed, (m,)."""
        return np.where(self.seen, self.values, np.inf).min((0, 1))

    @property
    def N(self) -> int:
        return self.t.shape[1] - 1

    def evaluate(self, z: Array, φ: Array) -> Evaluated:
        """All callbacks at z (M, N, V, K) and φ (M, p)."""
        model, size = self.model, self.size
        M, q = len(z), model.q
        y = self._at_points(z)
        jumped = model.jumped(φ, self.who) if self.jumps is not None else None
        y, shift = _shifted(y, jumped, None if self.jumps is None else self.jumps.of_intervals)
        f = self._scaled(model.equations(self.x, y, φ, self.who), y.shape[1], shift)
        y = evaluate(self.t, z, self.times, q + 1, self.where) * size[:, None, :, None]
        y, shift = _shifted(y, jumped, None if self.jumps is None else self.jumps.of_data)
        h, outside = model.observables(self.times, y, φ, self.who, self.least)
        h = self._scaled(h, y.shape[1], shift)
        σ = None
        if model.noise is not None:
            σ = self._scaled(model.deviations(self.times, y, φ, self.who), y.shape[1], shift)
        rest = None
        if model.steady:
            first = np.zeros((M, 1, model.V, q + 1))
            first[..., :q] = z[:, :1, :, :q] * size[:, None, :, None]
            rest = self._scaled(model.at_rest(self.t[:, :1], first, φ, self.who), 1)
        u, U = self.exact.values, np.zeros((*self.exact.values.shape, φ.shape[1]))
        if model.initial is not None:
            u, U = model.initial_values(self.t[:, :1], φ, self.who)
            u, U = np.nan_to_num(u) / size[..., None], np.nan_to_num(U) / size[..., None, None]
        return Evaluated(f, h, σ, outside, rest, np.array(u), np.array(U))

    def _at_points(self, z: Array) -> Array:
        """y at the collocation points, (M, N k, V, q+1)."""
        M, N, V, K = z.shape
        at = z @ np.swapaxes(self.E.reshape(M, N, -1, K), -1, -2)
        at = np.moveaxis(at.reshape(M, N, V, self.k, -1), 2, 3)
        return at.reshape(M, N * self.k, V, -1) * self.size[:, None, :, None]

    def refuse_coupling(self, z: Array, φ: Array) -> None:
        """
        Raises:
            ArgumentError: if a callback at one time depends on y at another.
        """
        model, who = self.model, self.who
        y, u = (
            self._at_points(z),
            evaluate(self.t, z, self.times, model.q + 1, self.where) * self.size[:, None, :, None],
        )
        checked = [("residual", y, lambda y: model.equations(self.x, y, φ, who).value)]
        if model.observe is not None:
            checked.append(("observe", u, lambda y: model.observables(self.times, y, φ, who, self.least)[0].value))
        if model.noise is not None:
            checked.append(("noise", u, lambda y: model.deviations(self.times, y, φ, who).value))
        for name, given, function in checked:
            refuse_coupling(name, function, given, function(given))

    def _scaled(self, x: Linear, n: int, shift: Array | None = None) -> Linear:
        """With derivatives in z, of which y = size z and what jumps have added, and all axes of their own.

        Args:
            shift: (M, n, V, p), derivatives in φ of what jumps have added.
        """
        M, rows = len(self.t), x.value.shape[-1]
        if shift is not None:
            x = x._replace(in_φ=x.in_φ + x.in_y[..., 0] @ shift)
        in_y = x.in_y * self.size[:, None, None, :, None]
        in_y = np.array(np.broadcast_to(in_y, (M, n, rows, *in_y.shape[-2:])))
        return Linear(np.array(x.value), in_y, x.in_φ)

    def standard(self, e: Evaluated, w: RowWeights) -> tuple[Array, Array]:
        """Standard deviations and residuals in their units, (M, n, m); residuals are 0 where nothing was observed."""
        σ = w.noise if e.deviations is None else e.deviations.value
        with np.errstate(all="ignore"):
            return σ, np.where(self.seen, (e.data.value - self.values) / σ, 0.0)

    def costs(self, z: Array, e: Evaluated, w: RowWeights) -> tuple[Array, Array, Array]:
        """Of data, equations and initial values, (M,) each; infinite where something is not finite.

        That of the data is -2 log likelihood, but for constants, where the noise is a function.
        """
        σ, r = self.standard(e, w)
        data = self.loss.cost(r).sum((1, 2))
        if e.deviations is not None:
            with np.errstate(all="ignore"):
                data = data + 2 * np.where(self.seen, np.log(σ), 0.0).sum((1, 2))
        with np.errstate(all="ignore"):
            f = e.equations.value * w.equations[:, None] * self.quadrature[..., None]
            equations = (f**2).sum((1, 2))
            if e.rest is not None:
                equations = equations + ((AT_REST * w.equations[:, None] * e.rest.value) ** 2).sum((1, 2))
            initial = (((z[:, 0, :, : self.model.q] - e.initial) * self.exact.weights) ** 2).sum((1, 2))
        data, equations, initial = (np.where(np.isfinite(x), x, np.inf) for x in (data, equations, initial))
        return data, equations, initial

    def rows(self, z: Array, e: Evaluated, w: RowWeights, p: int) -> tuple[Array, Array]:
        """Rows inside intervals, weighted: c (M, N, R, V, K) and b (M, N, R, 1+p), for which c Y + b is left."""
        M, N, V, K = z.shape
        k = self.k
        f = e.equations
        Q = f.value.shape[-1]
        weight = (w.equations[:, None] * self.quadrature[..., None]).reshape(M, N, k, Q)
        J = f.in_y.reshape(M, N, k, Q, V, -1) * weight[..., None, None]
        orders = J.shape[-1]
        c = (J.reshape(M, N, k, Q * V, orders) @ self.E[..., :orders, :]).reshape(M, N, k * Q, V, K)
        left = np.concatenate([f.value[..., None], f.in_φ[..., :p]], -1).reshape(M, N, k, Q, 1 + p) * weight[..., None]
        parts = [(c, left.reshape(M, N, k * Q, 1 + p))]
        if e.rest is not None:
            scale = AT_REST * w.equations[..., None]
            c, b = np.zeros((M, N, Q, V, K)), np.zeros((M, N, Q, 1 + p))
            c[:, 0, :, :, 0] = e.rest.in_y[:, 0, :, :, 0] * scale
            b[:, 0, :, :1], b[:, 0, :, 1:] = e.rest.value[:, 0, :, None] * scale, e.rest.in_φ[:, 0, :, :p] * scale
            parts.append((c, b))
        σ, r = self.standard(e, w)
        root = np.where(self.seen, np.sqrt(self.loss.weight(r)), 0.0)
        scale = np.where(self.seen, root / σ, 0.0)
        parts.append(self._at_data(e.data, root * r, scale, p))
        if e.deviations is not None:
            scale = np.where(self.seen, np.sqrt(2) / σ, 0.0)
            score = np.where(self.seen, -np.clip(r * r - 1, None, SCORE) / np.sqrt(2), 0.0)
            parts.append(self._at_data(e.deviations, score, scale, p))
        c, b = (np.concatenate(x, axis=2) for x in zip(*parts, strict=True))
        b[..., 0] -= (c.reshape(M, N, -1, V * K) @ z.reshape(M, N, V * K, 1))[..., 0]
        return c, b

    def _at_data(self, x: Linear, value: Array, scale: Array, p: int) -> tuple[Array, Array]:
        """Rows of an observable in the intervals of its data: scale times its derivatives, and its value."""
        M, _, m = value.shape
        K = self.k + self.model.q
        member = np.arange(M)[:, None]
        orders = x.in_y.shape[-1]
        T = taylor(self.times - self.t[member, self.where], K, orders)
        c = (x.in_y * scale[..., None, None]) @ T[:, :, None]  # (M, n, m, V, K)
        b = np.concatenate([value[..., None], x.in_φ[..., :p] * scale[..., None]], -1)
        V, D = c.shape[-2], self.slots.shape[-1]

        return self._placed(c).reshape(M, self.N, D * m, V, K), self._placed(b).reshape(M, self.N, D * m, 1 + p)

    def _placed(self, x: Array) -> Array:
        """Something of each observation (M, n, ...) in the intervals, (M, N D, ...), 0 where there is none."""
        M = len(x)
        padded = np.concatenate([x, np.zeros((M, 1, *x.shape[2:]))], axis=1)
        return padded[np.arange(M)[:, None], self.slots.reshape(M, -1)]

    def in_rows(self, rows: Array, x: Array) -> Array:
        """Numbers of each datum (M, n, m or 2 m, X) among the rows inside intervals (M, N, R, ...), 0 for equations.

        2 m: also of the rows for the noise, where that is a function.
        """
        M, _, m, X = x.shape
        D, parts = self.slots.shape[-1], m // self.seen.shape[-1]
        columns = np.zeros((*rows.shape[:3], X))
        own = np.stack(np.split(self._placed(x), parts, axis=2), axis=2)  # data before noise rows
        own = np.moveaxis(own.reshape(M, self.N, D, parts, m // parts, X), 3, 2).reshape(M, self.N, D * m, X)
        all_data = D * self.seen.shape[-1] * (1 if self.model.noise is None else 2)
        first = rows.shape[2] - all_data
        columns[:, :, first : first + D * m] = own
        return columns

    def step(
        self, z: Array, e: Evaluated, w: RowWeights, columns: bool = True, shifts: tuple[Array, Array] | None = None
    ) -> Step:
        """Minimises the linearised rows over z, for δ = 0 and each column of parameters.

        Args:
            columns: False: only for δ = 0.
            shifts: further columns, of data, (M, n, m, X), and initial values, (M, V, q, X), that move by so many
                standard deviations: what they leave and change, δ = 0.
        """
        M, N, V, K = z.shape
        q, p = self.model.q, e.data.in_φ.shape[-1] if columns else 0
        with np.errstate(all="ignore"):  # of members that overflow, which end there
            c, b = self.rows(z, e, w, p)
        if shifts is not None:
            b = np.concatenate([b, -self.in_rows(b, shifts[0])], axis=-1)
        C = b.shape[-1]
        held = np.any(w.held)
        u = np.zeros((M, C, N if held else 1, V, q))
        weight = np.zeros((M, N if held else 1, V, q))
        u[:, 0, 0] = e.initial
        u[:, 1 : 1 + p, 0] = np.moveaxis(e.initial_slope[..., :p], -1, 1)
        weight[:, 0] = self.exact.weights
        if shifts is not None:
            inverse = np.where(self.exact.weights > 0, 1 / np.maximum(self.exact.weights, 1e-300), 0.0)
            u[:, 1 + p :, 0] = np.moveaxis(inverse[..., None] * shifts[1], -1, 1)
        if held:
            own = weight[:, 0] > 0
            keep = w.held[:, None] * np.sqrt(np.diff(self.t))
            free = np.zeros_like(weight, dtype=bool)
            free[..., 0] = True
            free[:, 0] &= ~own
            weight = np.where(free, keep[..., None, None], weight)
            u[:, 0] = np.where(free, z[..., :q], u[:, 0])
        heaviest = np.abs(c).max(initial=1e-300, axis=(1, 2, 3, 4))
        heaviest = np.maximum(heaviest, self.exact.weights.max((1, 2), initial=0.0))
        rhs, steps = -np.swapaxes(np.swapaxes(b, -1, -2), 1, 2), np.diff(self.t)[:, None, :-1]
        smoothness = (CONTINUITY * heaviest)[:, None, None]
        with np.errstate(all="ignore"):
            Y = _solved(continuity(self.k, q), N, c[:, None], rhs, u, steps, weight[:, None], smoothness)
            Y = Y.reshape(M, C, N, V, K)
            left = c.reshape(M, N, -1, V * K) @ np.moveaxis(Y.reshape(M, C, N, V * K), 1, -1) + b
            first = (Y[:, :, : u.shape[2], :, :q] - u) * weight[:, None]
            rows = np.concatenate([left.reshape(M, -1, C), np.moveaxis(first, 1, -1).reshape(M, -1, C)], axis=1)
            return Step(Y, np.swapaxes(rows, 1, 2) @ rows, left)


def _solved(scheme: Scheme, N: int, c: Array, b: Array, u: Array, s: Array, initial: Array, smoothness: Array) -> Array:
    """Solutions, NaN of members whose system is singular, or overflows."""
    weights = Weights(1.0, initial, smoothness)
    problem = Problem.build(c, b, u, s, n_steps=N, scheme=scheme, weights=weights, values=False)
    try:
        return solve_without_raising(problem)[0]
    except ArgumentError:  # of one member that overflows, which is no reason to stop the others
        if len(c) == 1:
            return np.full((*b.shape[:2], N, *c.shape[-2:]), np.nan)
        arrays = c, b, u, s, initial, smoothness
        return np.concatenate([_solved(scheme, N, *(x[i : i + 1] for x in arrays)) for i in range(len(c))])


def _shifted(y: Array, jumped: tuple[Array, Array] | None, behind: Array | None) -> tuple[Array, Array | None]:
    """y (M, n, V, q+1) with the jumps that lie behind its points, and derivatives of these in φ, (M, n, V, p)."""
    if jumped is None or behind is None:
        return y, None
    value, slope = jumped
    y = y.copy()
    y[..., 0] += behind @ value
    return y, np.einsum("mnj,mjvp->mnvp", behind, slope)


AT_REST = 10.0
"""Weight of the equations of a steady state, relative to that of equations over a time scale."""
SCORE = 8.0
"""Residuals count at most as one of three deviations where their noise is estimated along the way."""


def _slots(where: Array, there: Array, N: int) -> Array:
    """Which observations (of those that are there) lie in each interval, (M, N, D), n for none."""
    M, n = where.shape
    order = np.argsort(np.where(there, where, N), axis=1, kind="stable")
    place = np.take_along_axis(np.where(there, where, N), order, 1)
    first = np.stack([np.searchsorted(row, np.arange(N + 1)) for row in place])
    count = np.diff(first, axis=1)
    D = max(int(count.max(initial=0)), 1)
    index = first[:, :-1, None] + np.arange(D)
    padded = np.concatenate([order, np.full((M, 1), n)], axis=1)
    return np.where(np.arange(D) < count[..., None], padded[np.arange(M)[:, None, None], np.minimum(index, n)], n)
