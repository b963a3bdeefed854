r"""Piecewise polynomials that satisfy a differential equation at collocation points.

Variable v has the order q_v: its highest derivative in the equations; 0 for an algebraic variable. On the interval from
t to t + s, with θ = (time - t) / s from 0 to 1, it is the polynomial of degree k + q_v - 1

    y_v^(r)(θ) = sum_{o=r}^{q_v - 1} x_{v,o} (θ s)^(o-r) / (o-r)!  +  s^(q_v - r) sum_l I_{q_v-r}[l](θ) z_{v,l}

with the *states* x_{v,o}, its derivatives 0..q_v-1 at t, and the *stages* z_{v,l}, its derivative q_v at the k points
c_l. I_m[l] is the m-fold integral from 0 of the l-th Lagrange polynomial of these points. In units of y,

    Φ_v = (x_{v,o} s^o, z_{v,l} s^q_v),    y_v^(r)(θ) = s^-r  Φ_v · W_v[:, θ, r],

with constant tables W_v: everything below is a product with such a table.

Source: Ascher, Mattheij, Russell, Numerical Solution of Boundary Value Problems, SIAM 1995, chapter 5; Ascher, Spiteri,
SIAM J. Sci. Comput. 15 (1994) 938, for variables of order 0.

Letters: N intervals, V variables, R = max q_v, k points, M = sum q_v states, Q equations, p constants.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from math import factorial

import numpy as np
from numpy.polynomial import legendre

from .._arrays import Array, Namespace, concat, device_of
from ..engines import collocation as compiled

__all__ = ["Scale", "Space", "constant", "gauss", "radau", "space_of"]


@lru_cache(maxsize=32)
def gauss(k: int) -> tuple[float, ...]:
    """The k Gauss points on [0, 1]: errors of order 2k at mesh points."""
    return tuple((legendre.leggauss(k)[0] + 1) / 2)


@lru_cache(maxsize=32)
def radau(k: int) -> tuple[float, ...]:
    """The k right Radau points on [0, 1], the last of which is 1: order 2k - 1, and stiff components are damped."""
    series = np.zeros(k + 1)
    series[k - 1 :] = -1, 1
    x = np.sort(legendre.legroots(series).real)
    for _ in range(3):
        x = x - legendre.legval(x, series) / legendre.legval(x, legendre.legder(series))
    x[-1] = 1.0
    return tuple((x + 1) / 2)


class Scale:
    """The powers of steps s (...), each made once."""

    def __init__(self, xp: Namespace, s: Array) -> None:
        self.xp, self.s = xp, s
        self._power: dict[int, Array] = {0: xp.ones_like(s), 1: s}
        self._stacks: dict[tuple[int, ...], Array] = {}

    @staticmethod
    def of(xp: Namespace, s: Array | Scale) -> Scale:
        return s if isinstance(s, Scale) else Scale(xp, s)

    def powers(self, exponents: tuple[int, ...]) -> Array:
        """s^e for each exponent: (*s.shape, number of exponents)."""
        if exponents not in self._stacks:
            self._stacks[exponents] = self.xp.stack([self._of(e) for e in exponents], axis=-1)
        return self._stacks[exponents]

    def _of(self, e: int) -> Array:
        if e not in self._power:
            self._power[e] = self._of(e - 1) * self.s if e > 0 else self._of(e + 1) / self.s
        return self._power[e]


@dataclass(frozen=True)
class Space:
    """The piecewise polynomials with given collocation points for variables of given orders."""

    points: tuple[float, ...]
    orders: tuple[int, ...]

    @cached_property
    def k(self) -> int:
        return len(self.points)

    @cached_property
    def offsets(self) -> np.ndarray:
        """The points as an array."""
        return np.array(self.points)

    @cached_property
    def V(self) -> int:
        return len(self.orders)

    @cached_property
    def R(self) -> int:
        return max(self.orders)

    @cached_property
    def M(self) -> int:
        return sum(self.orders)

    @cached_property
    def states(self) -> tuple[np.ndarray, np.ndarray]:
        """Variable and derivative of each state; (M,) each."""
        pairs = [(v, o) for v, q in enumerate(self.orders) for o in range(q)]
        return np.array([v for v, _ in pairs], int), np.array([o for _, o in pairs], int)

    @cached_property
    def _columns(self) -> np.ndarray:
        """Of (V, max(R, 1)) places the state that belongs there, M where there is none."""
        columns = np.full((self.V, max(self.R, 1)), self.M)
        columns[self.states] = np.arange(self.M)
        return columns

    @cached_property
    def _integrals(self) -> list[np.ndarray]:
        """Legendre series on [0, 1] of I_m[l], m = 0..R: (k + m, k) each."""
        u = 2 * self.offsets - 1
        series: list[np.ndarray] = [np.linalg.inv(legendre.legvander(u, self.k - 1))]
        for _ in range(self.R):
            series.append(legendre.legint(series[-1], lbnd=-1, scl=0.5))
        return series

    def table(self, at: Sequence[float] | np.ndarray) -> np.ndarray:
        """W for θ in `at`, (n,): (V, max(R, 1) + k, n, R+1)."""
        return _table(self, tuple(map(float, at)))

    @cached_property
    def at_points(self) -> np.ndarray:
        """W at the collocation points."""
        return self.table(self.points)

    @cached_property
    def at_end(self) -> np.ndarray:
        """W at the end of an interval, θ = 1: (V, max(R, 1) + k, R+1)."""
        return self.table((1.0,))[:, :, 0]

    @cached_property
    def leading(self) -> np.ndarray:
        """Weights (k,) with which stages give s^(k-1) times the derivative k - 1 of what they interpolate."""
        c = self.offsets
        apart = c[:, None] - c
        np.fill_diagonal(apart, 1.0)
        return factorial(self.k - 1) / apart.prod(axis=1)

    def spread_states(self, xp: Namespace, x: Array) -> Array:
        """States (..., M) by variable and derivative, zero where a variable has none: (..., V, max(R, 1))."""
        if self.M == self.V * self.R and self.M:
            return xp.reshape(x, (*x.shape[:-1], self.V, self.R))
        padded = concat(xp, [x, xp.zeros((*x.shape[:-1], 1), dtype=x.dtype, device=device_of(x))], axis=-1)
        index = xp.asarray(self._columns.ravel(), device=device_of(x))
        return xp.reshape(xp.take(padded, index, axis=-1), (*x.shape[:-1], *self._columns.shape))

    def gather_states(self, xp: Namespace, y: Array) -> Array:
        """The states (..., M) among derivatives by variable and order, (..., V, R or more)."""
        if self.R == 1 and self._is_uniform:
            return y[..., 0]
        width = y.shape[-1]
        index = xp.asarray(self.states[0] * width + self.states[1], device=device_of(y))
        return xp.take(xp.reshape(y, (*y.shape[:-2], self.V * width)), index, axis=-1)

    @cached_property
    def _derivatives(self) -> tuple[int, ...]:
        """Exponents of s with which derivatives 0..R follow from what is in units of y."""
        return tuple(range(0, -self.R - 1, -1))

    def between(self, xp: Namespace, features: Array, n: int) -> Array:
        """y at n equidistant times of each interval, its ends included: (..., N, V, n)."""
        table = constant(xp, _values(self, n), features)
        return (features[..., None, :] @ table)[..., 0, :]

    def features(self, xp: Namespace, x: Array, z: Array, s: Array | Scale) -> Array:
        """Φ, (..., N, V, max(R, 1) + k), of states (..., N, M) and stages (..., N, V, k); s (..., N)."""
        scale, states = Scale.of(xp, s), self.spread_states(xp, x)
        if self.R > 1:
            states = states * scale.powers(tuple(range(self.R)))[..., None, :]
        return concat(xp, [states, z * scale.powers(self.orders)[..., None]], axis=-1)

    def values(self, xp: Namespace, table: np.ndarray, features: Array, s: Array | Scale) -> Array:
        """y and its derivatives at the n offsets of a table: (..., N, n, V, R+1)."""
        V, a, n, orders = table.shape
        scale = Scale.of(xp, s)
        W = constant(xp, table.reshape(V, a, n * orders), features)
        lead = features.shape[:-2]
        if V > 1 and not self._is_uniform:
            flat = _permuted(xp, xp.reshape(features, (-1, V, a)), (1, 0, 2))  # one product for each variable
            y = _permuted(xp, xp.matmul(flat, W), (1, 0, 2))
        else:
            y = xp.matmul(xp.reshape(features, (-1, a)), W[0])
        y = xp.reshape(y, (*lead, V, n, orders)) * scale.powers(self._derivatives)[..., None, None, :]
        return _permuted(xp, y, (*range(y.ndim - 3), y.ndim - 2, y.ndim - 3, y.ndim - 1))

    def largest(self, x: np.ndarray, z: np.ndarray) -> np.ndarray:
        """The largest |y| at the ends of each interval, or at its points where y is no state: (B, N, V).

        Args:
            x: (B, N+1, M); z: (B, N, V, k).
        """
        v, o = self.states
        y = np.abs(z).max(axis=3)
        states = np.abs(x[..., o == 0])
        y[:, :, v[o == 0]] = np.maximum(states[:, 1:], states[:, :-1])
        return y

    @cached_property
    def of_series(self) -> np.ndarray:
        """W as Legendre series in 2θ - 1: (V, max(R, 1) + k, (R+1) degrees)."""
        u = np.asarray(gauss(self.k + self.R))
        W = self.weights(np, u).reshape(len(u), -1)
        of_degrees = np.linalg.solve(legendre.legvander(2 * u - 1, len(u) - 1), W)
        of_degrees = of_degrees.reshape(len(u), self.V, self.R + 1, -1).transpose(1, 3, 2, 0)
        return np.ascontiguousarray(of_degrees).reshape(self.V, -1, (self.R + 1) * len(u))

    def series(self, x: np.ndarray, z: np.ndarray, s: np.ndarray) -> np.ndarray:
        """y and its derivatives on N intervals as Legendre series, (degrees, N, V, R+1); x (N, M), z (N, V, k)."""
        scale = Scale(np, s)
        C = self.features(np, x, z, scale).swapaxes(0, 1) @ self.of_series  # (V, N, (R+1) degrees)
        C = C.reshape(self.V, len(s), self.R + 1, -1) * scale.powers(self._derivatives)[..., None]
        return np.ascontiguousarray(C.transpose(3, 1, 0, 2))

    @cached_property
    def _is_uniform(self) -> bool:
        """True if all variables have one order."""
        return len(set(self.orders)) == 1

    def ends(self, xp: Namespace, features: Array, s: Array | Scale) -> Array:
        """The states that the polynomials have at the ends of their intervals: (..., N, M)."""
        y = self.values(xp, self.at_end[:, :, None], features, s)[..., 0, :, :]
        return self.gather_states(xp, y)

    def rows(self, J: Array, s: np.ndarray | Scale) -> Array:
        """How f at the points changes with Φ: (..., N, k, Q, V, max(R, 1) + k), for J (..., N, k, Q, V, R+1)."""
        W = self.rows_at_points
        scaled = J * Scale.of(np, s).powers(self._derivatives)[..., None, None, None, :]
        if not self._is_uniform:
            return (scaled.swapaxes(-3, -2) @ W.swapaxes(0, 1)).swapaxes(-3, -2)
        lead = scaled.shape[:-4]
        k, Q, V, r = scaled.shape[-4:]
        return (scaled.reshape(*lead, k, Q * V, r) @ W[0]).reshape(*lead, k, Q, V, W.shape[-1])

    @cached_property
    def rows_at_points(self) -> np.ndarray:
        """W at the collocation points as (V, k, R+1, a)."""
        return np.ascontiguousarray(np.moveaxis(self.at_points, 1, -1))

    @cached_property
    def compiled(self) -> tuple[np.ndarray, ...]:
        """Orders, the first state of each variable, W at the points and at the end, as the compiled code takes them."""
        q = np.array(self.orders, np.intc)
        first = np.concatenate([[0], np.cumsum(q)[:-1]]).astype(np.intc)
        return q, first, self.rows_at_points, np.ascontiguousarray(self.at_end)

    def moved(
        self, new: Space, x: np.ndarray, z: np.ndarray, t: np.ndarray, mesh: np.ndarray
    ) -> tuple[np.ndarray, ...]:
        """The same functions as states and stages of another space on another mesh (B, N'+1), interpolated."""
        s = np.diff(mesh)
        at = (mesh[:, :-1, None] + s[..., None] * new.offsets).reshape(len(mesh), -1)
        y = self.at_times(x, z, t, np.concatenate([mesh, at], axis=1))
        n = mesh.shape[1]
        states, stages = self.gather_states(np, y[:, :n]), y[:, n:, np.arange(self.V), list(self.orders)]
        return states, np.swapaxes(stages.reshape(*s.shape, new.k, self.V), -1, -2)

    def at_times(
        self, x: np.ndarray, z: np.ndarray, t: np.ndarray, times: np.ndarray, last: np.ndarray | None = None
    ) -> np.ndarray:
        """y and its derivatives at times (B, n): (B, n, V, R+1); x (B, N+1, M), z (B, N, V, k), t (B, N+1). Behind the
        interval `last`, (B,), it is that one which is continued."""
        B, N = z.shape[:2]
        s, last = np.diff(t), np.full(B, N - 1, np.intc) if last is None else last
        if compiled.is_compiled:
            q, first, W, E = self.compiled
            y = np.empty((*times.shape, self.V, self.R + 1))
            numbers = (np.ascontiguousarray(a, np.float64) for a in (t, x, z, times))
            compiled.at_times(q, first, s, W, E, self.of_series, *numbers, np.ascontiguousarray(last, np.intc), y)
            return y
        i, member = np.minimum(self.interval(t, times), last[:, None]), np.arange(B)[:, None]
        series = self.series(x[:, :-1].reshape(-1, self.M), z.reshape(-1, self.V, self.k), s.ravel())
        with np.errstate(all="ignore"):
            θ = (times - t[member, i]) / s[member, i]
            y = _summed(series, (i + member * N).ravel(), θ.ravel())
        return y.reshape(*times.shape, self.V, self.R + 1)

    def inside(self, xp: Namespace, x: Array, z: Array, s: Array, θ: Array) -> Array:
        """y and its derivatives (..., V, R+1) at θ (...) in intervals of lengths s (...), each with its own states x
        (..., M) and stages z (..., V, k)."""
        features = self.features(xp, x, z, s)
        W = self.weights(xp, θ)
        y = xp.matmul(W, features[..., None])[..., 0]
        return y * Scale.of(xp, s).powers(self._derivatives)[..., None, :]

    def weights(self, xp: Namespace, θ: Array) -> Array:
        """W at each θ: (*θ.shape, V, R+1, max(R, 1) + k)."""
        R, width = self.R, max(self.R, 1)
        P = _legendre(xp, 2 * θ - 1, self.k + R)
        zero, one = xp.zeros_like(θ), xp.ones_like(θ)
        powers = [one]
        for e in range(1, width):
            powers.append(powers[-1] * θ / e)
        of_order = {}
        for q in set(self.orders):
            rows = []
            for r in range(R + 1):
                if r > q:
                    rows.append(xp.zeros((*θ.shape, width + self.k), dtype=θ.dtype, device=device_of(θ)))
                    continue
                taylor = xp.stack([powers[o - r] if r <= o < q else zero for o in range(width)], axis=-1)
                series = constant(xp, self._integrals[q - r], θ)
                rows.append(concat(xp, [taylor, P[..., : series.shape[0]] @ series], axis=-1))
            of_order[q] = xp.stack(rows, axis=-2)
        return xp.stack([of_order[q] for q in self.orders], axis=-3)

    @staticmethod
    def interval(t: np.ndarray, times: np.ndarray) -> np.ndarray:
        """The interval, 0..N-1, in which each time lies: (B, n); t may descend."""
        sign = 1.0 if t[0, -1] >= t[0, 0] else -1.0
        found = np.stack([np.searchsorted(sign * a, sign * b, side="right") - 1 for a, b in zip(t, times, strict=True)])
        return np.clip(found, 0, t.shape[1] - 2)


@lru_cache(maxsize=64)
def space_of(points: tuple[float, ...], orders: tuple[int, ...]) -> Space:
    """A space whose tables are made once."""
    return Space(points, orders)


@lru_cache(maxsize=256)
def _table(space: Space, at: tuple[float, ...]) -> np.ndarray:
    W = np.ascontiguousarray(space.weights(np, np.array(at)).transpose(1, 3, 0, 2))
    W.flags.writeable = False
    return W


@lru_cache(maxsize=256)
def _values(space: Space, n: int) -> np.ndarray:
    W = np.ascontiguousarray(space.table(np.linspace(0, 1, n))[..., 0])
    W.flags.writeable = False
    return W


def _summed(series: np.ndarray, interval: np.ndarray, θ: np.ndarray) -> np.ndarray:
    """Legendre series (degrees, N, V, R+1) at θ in intervals, (n,) both: (n, V, R+1)."""
    u = (2 * θ - 1)[:, None, None]
    before, P = np.ones_like(u), u
    y = series[0].take(interval, axis=0) + u * series[1].take(interval, axis=0)
    for j, C in enumerate(series[2:], start=1):
        before, P = P, ((2 * j + 1) * u * P - j * before) / (j + 1)
        y += P * C.take(interval, axis=0)
    return y


def constant(xp: Namespace, table: np.ndarray, like: Array) -> Array:
    """A table as an array like another; other libraries get a copy, since they may not take what is read-only."""
    return table if xp is np else xp.asarray(table.copy(), dtype=like.dtype, device=device_of(like))


def _permuted(xp: Namespace, x: Array, axes: tuple[int, ...]) -> Array:
    """`permute_dims`, which NumPy has from 2.0 on."""
    return x.transpose(axes) if xp is np else xp.permute_dims(x, axes)


def _legendre(xp: Namespace, u: Array, count: int) -> Array:
    """Legendre polynomials of degrees 0..count-1 at u in [-1, 1]: (*u.shape, count), by their recurrence."""
    P = [xp.ones_like(u), u]
    for j in range(1, count - 1):
        P.append(((2 * j + 1) * u * P[j] - j * P[j - 1]) / (j + 1))
    return xp.stack(P[:count], axis=-1)
