r"""The linearised collocation equations: stages eliminated on each interval, then states over time.

At states x, stages z and constants p, with steps δ, the rows are

    equations    J δy + P δp = -f             at the k points of each interval, δy = W δΦ(δx_n, δz_n)
    continuity   δx_{n+1} = (end of δΦ_n) - d,     d = x_{n+1} - (end of Φ_n)
    conditions   G δx(times) + G_p δp = -g

The first contain the stages of one interval only, C_z δz + C_x δx + C_p δp = -f. With H = C_z^-1 (the pseudo-inverse
where there are more equations than variables)

    δz = -H (f + C_x δx + C_p δp),        δx_{n+1} = Γ δx_n + Γ_p δp + γ

where V k unknowns of each interval are gone: M states are all that couples in time. Constants are states that stay what
they are. Where a condition holds at several times, states of the earlier ones enter it as such constants, too. What is
left is a problem of `solve_ode` with the increments δx_{n+1} - δx_n as derivatives.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import factorial
from typing import Any

import numpy as np

from .._arrays import Array, Namespace, concat
from ._arithmetic import NUMPY, Arithmetic, namespace_of
from ._collocation import Scale, Space

__all__ = ["ConditionRows", "Linear", "Local", "Step", "Structure", "is_all", "rows_of_conditions"]

ROUNDING = 500
"""Size, in roundings of rows of size 1, of the rest of rows that depend on others."""


@dataclass(frozen=True)
class Structure:
    """At which of the n times each condition looks: `touches` is (conditions, n), bool."""

    touches: np.ndarray

    @cached_property
    def home(self) -> np.ndarray:
        """The time at which each condition stands, (conditions,): the last that it looks at."""
        n = self.touches.shape[1]
        return n - 1 - np.argmax(self.touches[:, ::-1], axis=1)

    @cached_property
    def carried(self) -> list[int]:
        """Times whose states are carried to a later condition."""
        away = self.touches.copy()
        away[np.arange(len(away)), self.home] = False
        return [int(i) for i in np.flatnonzero(away.any(axis=0))]

    def slots(self, M: int) -> tuple[np.ndarray, np.ndarray, int]:
        """Rows beside the equations at a point: of each condition, the first of each carried time, and how many."""
        used = np.zeros(self.touches.shape[1], int)
        first = []
        for i in self.carried:
            first.append(used[i])
            used[i] += M
        own = np.zeros(len(self.touches), int)
        for c, i in enumerate(self.home):
            own[c] = used[i]
            used[i] += 1
        return own, np.array(first, int), int(used.max(initial=0))


@dataclass(frozen=True)
class ConditionRows:
    """Conditions at one iterate: g, (B, C), and its derivatives by the states at n times and by the constants."""

    g: Array
    G: Array
    """(B, C, n, M)"""
    G_p: Array
    """(B, C, p)"""


def is_all(mask: Array) -> bool:
    """True for a mask that is known to hold all members."""
    return isinstance(mask, np.ndarray) and bool(mask.all())


@dataclass(frozen=True)
class Step:
    """A change, or a state, of the unknowns: states x (B, N+1, M), stages z (B, N, V, k), constants p (B, p)."""

    x: Array
    z: Array
    p: Array

    def plus(self, other: Step, factor: Any = 1.0) -> Step:
        """self + factor * other, with one factor or (B,) of them."""
        a = np.asarray(factor) if isinstance(factor, float) else factor
        return Step(
            self.x + a[..., None, None] * other.x,
            self.z + a[..., None, None, None] * other.z,
            self.p + a[..., None] * other.p,
        )

    def where(self, mask: Array, other: Step) -> Step:
        """self in the members of the mask (B,), other elsewhere."""
        if is_all(mask):
            return self
        xp = namespace_of(mask)
        return Step(
            xp.where(mask[:, None, None], self.x, other.x),
            xp.where(mask[:, None, None, None], self.z, other.z),
            xp.where(mask[:, None], self.p, other.p),
        )


def rows_of_conditions(xp: Namespace, conditions: ConditionRows, structure: Structure) -> Array:
    """The conditions in terms of the states of their points, of constants, and of states that are carried there: (B, C,
    m)."""
    home, touches = structure.home, structure.touches
    parts = [conditions.G[:, np.arange(len(home)), home], conditions.G_p]
    for other in structure.carried:
        seen = touches[:, other] & (home != other)
        parts.append(conditions.G[:, :, other] * seen[:, None])
    return concat(xp, parts, axis=-1)


class Local:
    """The stages of all intervals eliminated.

    Args:
        J: (B, N, k, Q, V, R+1); P: (B, N, k, Q, p); s: (B, N).
    """

    def __init__(self, space: Space, J: Array, P: Array, s: np.ndarray | Scale, arithmetic: Arithmetic = NUMPY) -> None:
        xp, scale = arithmetic.xp, Scale.of(np, s)
        self.space, self.scale, self.s, self.xp = space, scale, scale.s, xp
        B, N, k, Q, V, _ = J.shape
        width = max(space.R, 1)
        C = space.rows(J, scale)
        C_z = C[..., width:].reshape(B, N, k * Q, V * k)
        C_x = space.gather_states(xp, C[..., :width])
        if space.R > 1:
            C_x = C_x * self._state_powers
        C = concat(xp, [C_x, P], axis=-1) if P.shape[-1] else C_x
        self.C = C.reshape(B, N, k * Q, space.M + P.shape[-1])
        self.H, self.rest = _pseudo_inverse(arithmetic, C_z, self.C)
        self.HC = self.H @ self.C
        Γ, taylor = self._ends(-self.HC), _taylor(space, self.s)
        M = space.M
        self.Γ = concat(xp, [Γ[..., :M] + taylor, Γ[..., M:]], axis=-1) if P.shape[-1] else Γ + taylor

    @cached_property
    def _state_powers(self) -> np.ndarray:
        """s^o of each state: (B, N, 1, 1, M)."""
        return np.stack([self.s**o for o in self.space.states[1]] or [self.s][:0], axis=-1).reshape(
            *self.s.shape, 1, 1, self.space.M
        )

    def _ends(self, stages: Array) -> Array:
        """Parts that stages (B, N, V k, columns), in units of y, have in the states at the ends: (B, N, M, columns)."""
        space = self.space
        v, o = space.states
        W = space.at_end[v, max(space.R, 1) :, o]  # (M, k)
        blocks = stages.reshape(*stages.shape[:2], space.V, space.k, stages.shape[-1])
        if space.R == 1 and space.M == space.V:
            return W[0] @ blocks
        sums = (W[:, None, :] @ blocks[:, :, v])[..., 0, :]
        return sums / self._state_powers[..., 0, 0, :, None]

    def particular(self, f: Array) -> tuple[Array, Array]:
        """-H f, (B, N, V k), and what it adds at the ends, (B, N, M); f (B, N, k, Q)."""
        stages = -(self.H @ f.reshape(*f.shape[:2], -1, 1))
        return stages[..., 0], self._ends(stages)[..., 0]

    def forward(self, γ: np.ndarray, start: np.ndarray | None = None) -> np.ndarray:
        """Steps of the states (B, N+1, M) that begin with `start` (B, M) or zero, δx_{n+1} = Γ δx_n + γ_n."""
        B, N, M = γ.shape
        x = np.empty((B, N + 1, M))
        x[:, 0] = 0.0 if start is None else start
        if B == 1:
            Γ, γ, row = self.Γ[0, :, :, :M], γ[0], x[0]
            for n in range(N):
                row[n + 1] = Γ[n] @ row[n] + γ[n]
            return x
        for n in range(N):
            x[:, n + 1] = (self.Γ[:, n, :, :M] @ x[:, n, :, None])[..., 0] + γ[:, n]
        return x

    def stages(self, particular: Array, x: Array, p: Array) -> Array:
        """δz, (B, N, V, k), for δx at the left ends (B, N, M) and δp (B, p)."""
        xp, space = self.xp, self.space
        full = x
        if p.shape[-1]:
            full = concat(xp, [x, xp.broadcast_to(p[:, None], (*x.shape[:2], p.shape[-1]))], axis=-1)
        z = particular - (self.HC @ full[..., None])[..., 0]
        return z.reshape(*x.shape[:2], space.V, space.k) / self.scale.powers(space.orders)[..., None]


def _taylor(space: Space, s: np.ndarray) -> np.ndarray:
    """How states at the ends follow from those at the starts where the stages are zero: (B, N, M, M)."""
    v, o = space.states
    if space.R == 1:
        return np.eye(space.M)
    e = np.where(v[:, None] == v, o - o[:, None], -1)
    factor = np.array([[0.0 if x < 0 else 1 / factorial(x) for x in row] for row in e]).reshape(e.shape)
    return s[..., None, None] ** np.maximum(e, 0) * factor


def _pseudo_inverse(arithmetic: Arithmetic, C_z: Array, C: Array) -> tuple[Array, tuple[Array, Array] | None]:
    """H, and where C_z has more rows than columns the rows E δ(x, p) = -T f that it leaves, as (E, T)."""
    xp = arithmetic.xp

    def transposed(A: Array) -> Array:
        return xp.moveaxis(A, -1, -2)

    size = xp.max(xp.abs(C_z), axis=-1)
    size = xp.maximum(size, xp.max(xp.abs(C), axis=-1)) if C.shape[-1] else size
    ρ = 1 / xp.where(size > 0, size, xp.ones_like(size))
    scaled = C_z * ρ[..., None]
    if C_z.shape[-2] == C_z.shape[-1]:
        return arithmetic.inverse(scaled) * ρ[..., None, :], None
    U, R = xp.linalg.qr(scaled)
    left = transposed(U) * ρ[..., None, :]
    E = C * ρ[..., None] - U @ (left @ C)
    Q, upper = xp.linalg.qr(E)
    T = transposed(Q) * ρ[..., None, :] - (transposed(Q) @ U) @ left
    said_before = xp.max(xp.abs(upper), axis=-1, keepdims=True) < ROUNDING * float(xp.finfo(C.dtype).eps)
    return arithmetic.inverse(R) @ left, (xp.where(said_before, xp.zeros_like(upper), upper), T)


class Linear:
    """The linearised problem at one iterate, for any right-hand sides.

    Args:
        index: (B, n): the mesh points of the times at which conditions look.
        size: (B, M + p): sizes of states and constants, in whose units pivots are judged.
    """

    def __init__(
        self,
        local: Local,
        conditions: ConditionRows,
        structure: Structure,
        index: np.ndarray,
        size: Array,
        engine: str = "auto",
        arithmetic: Arithmetic = NUMPY,
    ) -> None:
        self.local, self.structure, self.index, self.engine = local, structure, index, engine
        self.arithmetic = arithmetic
        xp, Γ = arithmetic.xp, local.Γ
        B, N, M, inner = Γ.shape
        self.M, self.p = M, inner - M
        carried = structure.carried
        m = self.m = inner + M * len(carried)
        D = self.size = concat(xp, [size, *[size[:, :M]] * len(carried)], axis=-1) if carried else size
        self.own, first, extra = structure.slots(M)
        self.beside = m + (inner if local.rest is not None else 0)

        def zeros(*shape: int) -> Array:
            return xp.zeros(shape, dtype=Γ.dtype)

        rows = [np.eye(M, inner) - Γ * (D[:, None, None, :inner] / D[:, None, :M, None]), zeros(B, N, m - M, inner)]
        if local.rest is not None:
            rows.append(local.rest[0] * D[:, None, None, :inner])
        rows.append(zeros(B, N, extra, inner))
        c = concat(xp, rows, axis=-2)
        if m > inner:
            c = concat(xp, [c, zeros(*c.shape[:-1], m - inner)], axis=-1)
        c = concat(xp, [c, zeros(B, 1, *c.shape[2:])], axis=1)
        c = arithmetic.put(c, self._places, rows_of_conditions(xp, conditions, structure) * D[:, None, :])
        for a, time in enumerate(carried):  # x(time) - carried = 0
            k = np.arange(M)
            at, row = index[:, time, None], self.beside + first[a] + k
            for column, value in ((k, 1.0), (inner + a * M + k, -1.0)):
                c = arithmetic.put(c, (np.arange(B)[:, None], at, row, column), value)
        increments = np.eye(self.beside + extra, m)
        size_of_row = xp.maximum(xp.max(xp.abs(c), axis=-1), np.max(increments, axis=-1))
        self.scale = 1 / xp.where(size_of_row > 0, size_of_row, xp.ones_like(size_of_row))
        self.coefficients = xp.stack([c * self.scale[..., None], increments * self.scale[..., None]], axis=-1)

    @cached_property
    def _places(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Member, point and row of each condition, for (B, N+1, rows)."""
        B = len(self.index)
        return np.arange(B)[:, None], self.index[:, self.structure.home], self.beside + self.own

    def right_hand_side(self, f: Array, d: Array, g: Array) -> tuple[Array, Array]:
        """Residuals of the rows that couple in time, (B, N+1, rows), and -H f, (B, N, V k)."""
        local, M, m = self.local, self.M, self.m
        xp, (B, N) = self.arithmetic.xp, f.shape[:2]
        particular, γ = local.particular(f)

        def zeros(*shape: int) -> Array:
            return xp.zeros(shape, dtype=d.dtype)

        parts = [(γ - d) / self.size[:, None, :M], zeros(B, N, m - M)]
        if local.rest is not None:
            parts.append(-(local.rest[1] @ f.reshape(B, N, -1, 1))[..., 0])
        parts.append(zeros(B, N, self.coefficients.shape[2] - self.beside))
        b = concat(xp, [concat(xp, parts, axis=-1), zeros(B, 1, self.coefficients.shape[2])], axis=1)
        return self.arithmetic.put(b, self._places, -g) * self.scale, particular

    def solve(self, f: Array, d: Array, g: Array) -> Step:
        """The step for equations f (B, N, k, Q), continuity d (B, N, M) and conditions g (B, C); NaN where none."""
        M, N = self.M, f.shape[1]
        b, particular = self.right_hand_side(f, d, g)
        y = self.arithmetic.solve(self.coefficients, b, self.engine)[..., 0] * self.size[:, None]
        x, p = y[..., :M], y[:, 0, M : M + self.p]
        return Step(x, self.local.stages(particular, x[:, :N], p), p)
