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

import numpy as np

from .._problem import UNIT, Problem, Weights
from .._schemes import Scheme
from .._solve import solve_without_raising
from .._weighting import weighted_problem
from ._collocation import Scale, Space

__all__ = ["INCREMENTS", "ConditionRows", "Linear", "Step", "Structure"]

INCREMENTS = Scheme.from_matrices(
    [[1.0, 1.0]], [[-1.0, 0.0]], name="increments", citation="x[t] + (x[t+1] - x[t]) = x[t+1]"
)
"""What ties points together whose second unknown is the increment to the next."""


ROUNDING = 1e-13
"""What is left of rows of size 1 that depend on others."""


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

    g: np.ndarray
    G: np.ndarray
    """(B, C, n, M)"""
    G_p: np.ndarray
    """(B, C, p)"""


@dataclass(frozen=True)
class Step:
    """A change, or a state, of the unknowns: states x (B, N+1, M), stages z (B, N, V, k), constants p (B, p)."""

    x: np.ndarray
    z: np.ndarray
    p: np.ndarray

    def plus(self, other: Step, factor: np.ndarray | float = 1.0) -> Step:
        """self + factor * other, with one factor or (B,) of them."""
        a = np.asarray(factor)
        return Step(
            self.x + a[..., None, None] * other.x,
            self.z + a[..., None, None, None] * other.z,
            self.p + a[..., None] * other.p,
        )

    def where(self, mask: np.ndarray, other: Step) -> Step:
        """self in the members of the mask (B,), other elsewhere."""
        return Step(
            np.where(mask[:, None, None], self.x, other.x),
            np.where(mask[:, None, None, None], self.z, other.z),
            np.where(mask[:, None], self.p, other.p),
        )


class Local:
    """The stages of all intervals eliminated.

    Args:
        J: (B, N, k, Q, V, R+1); P: (B, N, k, Q, p); s: (B, N).
    """

    def __init__(self, space: Space, J: np.ndarray, P: np.ndarray, s: np.ndarray | Scale) -> None:
        scale = Scale.of(np, s)
        self.space, self.scale, self.s = space, scale, scale.s
        B, N, k, Q, V, _ = J.shape
        width = max(space.R, 1)
        C = space.rows(J, scale)
        C_z = C[..., width:].reshape(B, N, k * Q, V * k)
        C_x = space.gather_states(np, C[..., :width])
        if space.R > 1:
            C_x = C_x * self._state_powers
        self.C = (np.concatenate([C_x, P], axis=-1) if P.shape[-1] else C_x).reshape(B, N, k * Q, space.M + P.shape[-1])
        self.H, self.rest = _pseudo_inverse(C_z, self.C)
        self.HC = self.H @ self.C
        G = self._ends(-self.HC)
        self.Γ = G
        self.Γ[..., : space.M] += _taylor(space, self.s)

    @cached_property
    def _state_powers(self) -> np.ndarray:
        """s^o of each state: (B, N, 1, 1, M)."""
        return np.stack([self.s**o for o in self.space.states[1]] or [self.s][:0], axis=-1).reshape(
            *self.s.shape, 1, 1, self.space.M
        )

    def _ends(self, stages: np.ndarray) -> np.ndarray:
        """What stages (B, N, V k, columns), in units of y, add to the states at the ends: (B, N, M, columns)."""
        space = self.space
        v, o = space.states
        W = space.at_end[v, max(space.R, 1) :, o]  # (M, k)
        blocks = stages.reshape(*stages.shape[:2], space.V, space.k, stages.shape[-1])
        if space.R == 1 and space.M == space.V:
            return np.matmul(W[0], blocks)
        sums = np.matmul(W[:, None, :], blocks[:, :, v])[..., 0, :]
        return sums / self._state_powers[..., 0, 0, :, None]

    def particular(self, f: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """-H f, (B, N, V k), and what it adds at the ends, (B, N, M); f (B, N, k, Q)."""
        stages = -(self.H @ f.reshape(*f.shape[:2], -1, 1))
        return stages[..., 0], self._ends(stages)[..., 0]

    def forward(self, γ: np.ndarray) -> np.ndarray:
        """Steps of the states (B, N+1, M) that begin with zero, δx_{n+1} = Γ δx_n + γ_n."""
        B, N, M = γ.shape
        x = np.zeros((B, N + 1, M))
        if B == 1:
            Γ, γ, row = self.Γ[0, :, :, :M], γ[0], x[0]
            for n in range(N):
                row[n + 1] = Γ[n] @ row[n] + γ[n]
            return x
        for n in range(N):
            x[:, n + 1] = (self.Γ[:, n, :, :M] @ x[:, n, :, None])[..., 0] + γ[:, n]
        return x

    def stages(self, particular: np.ndarray, x: np.ndarray, p: np.ndarray) -> np.ndarray:
        """δz, (B, N, V, k), for δx at the left ends (B, N, M) and δp (B, p)."""
        space = self.space
        full = x
        if p.shape[-1]:
            full = np.concatenate([x, np.broadcast_to(p[:, None], (*x.shape[:2], p.shape[-1]))], axis=-1)
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


def _pseudo_inverse(C_z: np.ndarray, C: np.ndarray) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray] | None]:
    """H, and where C_z has more rows than columns the rows E δ(x, p) = -T f that it leaves, as (E, T)."""
    size = np.maximum(np.abs(C_z).max(axis=-1), np.abs(C).max(axis=-1, initial=0.0))
    ρ = 1 / np.where(size > 0, size, 1.0)
    scaled = C_z * ρ[..., None]
    if C_z.shape[-2] == C_z.shape[-1]:
        return _inverse(scaled) * ρ[..., None, :], None
    U, R = np.linalg.qr(scaled)
    left = np.swapaxes(U, -1, -2) * ρ[..., None, :]
    E = C * ρ[..., None] - U @ (left @ C)
    Q, upper = np.linalg.qr(E)
    upper[np.abs(upper).max(axis=-1, initial=0.0) < ROUNDING] = 0.0  # of equations that say the same
    T = np.swapaxes(Q, -1, -2) * ρ[..., None, :] - (np.swapaxes(Q, -1, -2) @ U) @ left
    return _inverse(R) @ left, (upper, T)


def _inverse(A: np.ndarray) -> np.ndarray:
    """The inverses, NaN where a matrix is singular or not finite."""
    try:
        return np.linalg.inv(A)
    except np.linalg.LinAlgError:
        inverse = np.full_like(A, np.nan)
        for i in np.ndindex(A.shape[:-2]):
            try:
                inverse[i] = np.linalg.inv(A[i])
            except np.linalg.LinAlgError:
                continue
        return inverse


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
        size: np.ndarray,
        engine: str = "auto",
    ) -> None:
        self.local, self.structure, self.index, self.engine = local, structure, index, engine
        Γ = local.Γ
        B, N, M, inner = Γ.shape
        self.M, self.p = M, inner - M
        carried = structure.carried
        m = self.m = inner + M * len(carried)
        self.size = np.concatenate([size, *[size[:, :M]] * len(carried)], axis=-1)
        D = self.size
        own, first, extra = structure.slots(M)
        self.own, self.first = own, first
        beside = m + (inner if local.rest is not None else 0)
        self.beside = beside
        c = np.zeros((B, N + 1, beside + extra, m, 2))
        j = np.arange(m)
        c[:, :, j, j, 1] = 1.0
        A = Γ * (D[:, None, None, :inner] / D[:, None, :M, None])
        c[:, :N, :M, :inner, 0] = -A
        i = np.arange(M)
        c[:, :N, i, i, 0] += 1.0
        if local.rest is not None:
            c[:, :N, m : m + inner, :inner, 0] = local.rest[0] * D[:, None, None, :inner]
        member = np.arange(B)
        for a, (time, slot) in enumerate(zip(carried, first, strict=True)):  # x(time) - carried = 0
            at = index[:, time]
            for k in range(M):
                row = beside + slot + k
                c[member, at, row, k, 0] = 1.0
                c[member, at, row, inner + a * M + k, 0] = -1.0
        for row, (time, slot) in enumerate(zip(structure.home, own, strict=True)):
            at = index[:, time]
            c[member, at, beside + slot, :M, 0] = conditions.G[:, row, time] * D[:, :M]
            c[member, at, beside + slot, M:inner, 0] = conditions.G_p[:, row] * D[:, M:inner]
            for a, other in enumerate(carried):
                if other != time and structure.touches[row, other]:
                    part = slice(inner + a * M, inner + (a + 1) * M)
                    c[member, at, beside + slot, part, 0] = conditions.G[:, row, other] * D[:, :M]
        size_of_row = np.abs(c).max(axis=(-1, -2))
        self.scale = 1 / np.where(size_of_row > 0, size_of_row, 1.0)
        self.coefficients = c * self.scale[..., None, None]

    def right_hand_side(self, f: np.ndarray, d: np.ndarray, g: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What the rows that couple in time leave, (B, N+1, rows), and -H f, (B, N, V k)."""
        local, M, m = self.local, self.M, self.m
        B, N = f.shape[:2]
        particular, γ = local.particular(f)
        b = np.zeros(self.coefficients.shape[:3])
        b[:, :N, :M] = (γ - d) / self.size[:, None, :M]
        if local.rest is not None:
            b[:, :N, m : m + M + self.p] = -(local.rest[1] @ f.reshape(B, N, -1, 1))[..., 0]
        member = np.arange(B)
        for row, (time, slot) in enumerate(zip(self.structure.home, self.own, strict=True)):
            b[member, self.index[:, time], self.beside + slot] = -g[:, row]
        return b * self.scale, particular

    def merit(self, f: np.ndarray, d: np.ndarray, g: np.ndarray) -> np.ndarray:
        """The size of residuals in terms of what they would move: states, in units of their sizes, and stages; (B,)."""
        b, particular = self.right_hand_side(f, d, g)
        space = self.local.space
        largest = np.ones((len(f), space.V))
        first = space.states[1] == 0
        largest[:, space.states[0][first]] = self.size[:, : self.M][:, first]
        stages = particular.reshape(*particular.shape[:2], space.V, space.k) / largest[:, None, :, None]
        return np.sqrt((b**2).sum(axis=(1, 2)) + (stages**2).sum(axis=(1, 2, 3)) / space.k)

    def solve(self, f: np.ndarray, d: np.ndarray, g: np.ndarray, damping: np.ndarray | None = None) -> Step:
        """The step for equations f (B, N, k, Q), continuity d (B, N, M) and conditions g (B, C); NaN where none.

        Args:
            damping: (B,): weights with which the states, in units of their sizes, are kept where they are.
        """
        M, m = self.M, self.m
        b, particular = self.right_hand_side(f, d, g)
        N = f.shape[1]
        u, weights = _NOTHING(m), UNIT
        if damping is not None:
            u = np.zeros((N + 1, m, 1))
            weights = Weights(initial=np.broadcast_to(damping[:, None, None, None], (len(f), N + 1, m, 1)))
        problem = Problem.build(
            self.coefficients, b, u, _UNIT_STEP, n_steps=N + 1, scheme=INCREMENTS, weights=weights, values=False
        )
        y = solve_without_raising(weighted_problem(problem), engine=self.engine)[0][..., 0]
        y = y * self.size[:, None]
        x, p = y[..., :M], y[:, 0, M : M + self.p]
        return Step(x, self.local.stages(particular, x[:, :N], p), p)


_UNIT_STEP = np.ones(1)


def _NOTHING(m: int) -> np.ndarray:
    """No initial values."""
    return np.zeros((0, m, 1))
