"""The least-squares problem in arithmetic of hundreds of bits: a reference where float64 has no digit left.

Block elimination of M = (W A)^T W A in 1200 bits (FLINT). M squares the condition number, which costs nothing here;
`Undecided` is raised where half of the bits are gone. Independent of the library but for the matrices and the exponent
of the scheme. One system, no batch axes.
"""

from __future__ import annotations

from dataclasses import dataclass

import flint
import numpy as np

from smnn_core import Scheme

Array = np.ndarray
BITS = 1200


class Undecided(ArithmeticError):
    """M is singular, or as good as singular in `BITS` bits."""


@dataclass(frozen=True)
class Rows:
    """W A of one system as matrices of intervals; `relative` perturbs every entry by up to that much of itself."""

    own: list[flint.arb_mat]
    """T matrices (Q + V R_init, n): the equations, and the initial rows where there are any"""
    left: list[flint.arb_mat]
    """T-1 matrices (V m, n)"""
    right: list[flint.arb_mat]
    weights: list[list[flint.arb]]
    """of the own rows of each time"""
    smoothness: list[flint.arb]
    """the weight of each step, the scheme's factor included"""


def rows(
    c: Array,
    s: Array,
    w_equation: Array,
    w_initial: Array,
    w_smoothness: Array,
    scheme: Scheme,
    relative: float = 0.0,
    seed: int = 0,
) -> Rows:
    """c (T, Q, V, K), s (T-1,), weights (T, Q), (T_init, V, R_init), (T-1,), all in full."""
    flint.ctx.prec = BITS
    rng = np.random.default_rng(seed)
    T, Q, V, K = c.shape
    n, (T_init, _, R_init) = V * K, w_initial.shape

    def entry(x: flint.arb) -> flint.arb:
        return x if relative == 0 or x == 0 else x * (1 + flint.arb(relative * rng.uniform(-1, 1)))

    def matrix(height: int, entries: dict[tuple[int, int], flint.arb]) -> flint.arb_mat:
        M = flint.arb_mat(height, n)
        for at, x in entries.items():
            M[at] = entry(x)
        return M

    own, own_weights = [], []
    for t in range(T):
        w = [flint.arb(float(x)) for x in w_equation[t]]
        entries = {
            (q, v * K + r): w[q] * flint.arb(float(c[t, q, v, r])) for q, v, r in np.ndindex(Q, V, K) if c[t, q, v, r]
        }
        if t < T_init:
            w += [flint.arb(float(x)) for x in w_initial[t].ravel()]
            entries |= {(Q + v * R_init + r, v * K + r): w[Q + v * R_init + r] for v, r in np.ndindex(V, R_init)}
        own.append(matrix(len(w), entries))
        own_weights.append(w)

    F, G = scheme.matrices(K)
    m, p = len(F), scheme.step_exponent(K) if hasattr(scheme, "step_exponent") else 0
    steps = [flint.arb(float(x)) for x in s]
    s_ref = (sum((abs(x).log() for x in steps), flint.arb(0)) / len(steps)).exp() if steps else flint.arb(1)
    exponent = flint.arb(float(p))
    weight = [
        flint.arb(float(w)) * ((s_ref / abs(x)) ** exponent if p else 1)
        for w, x in zip(w_smoothness, steps, strict=True)
    ]
    left, right = (
        [
            matrix(
                V * m,
                {
                    (v * m + i, v * K + o): w * flint.arb(float(M[i, o])) * x**o
                    for v, i, o in np.ndindex(V, m, K)
                    if M[i, o]
                },
            )
            for w, x in zip(weight, steps, strict=True)
        ]
        for M in (F, G)
    )
    return Rows(own, left, right, own_weights, weight)


class Solver:
    """M = (W A)^T W A after block Cholesky."""

    def __init__(self, A: Rows) -> None:
        self.A = A
        T = len(A.own)
        own, left, right = A.own, A.left, A.right
        self.beside = [left[t].transpose() * right[t] for t in range(T - 1)]
        self.inverses: list[flint.arb_mat] = []
        self.carry: list[flint.arb_mat] = []
        for t in range(T):
            D = own[t].transpose() * own[t]
            if t < T - 1:
                D = D + left[t].transpose() * left[t]
            if t > 0:
                D = D + right[t - 1].transpose() * right[t - 1] - self.beside[t - 1].transpose() * self.carry[t - 1]
            self.inverses.append(_inverse(D.mid()))
            if t < T - 1:
                self.carry.append((self.inverses[t] * self.beside[t]).mid())

    def normal_solve(self, g: list[flint.arb_mat]) -> list[flint.arb_mat]:
        """M x = g, columns (n, 1) for each time."""
        T = len(self.inverses)
        z = [g[0]]
        for t in range(1, T):
            z.append((g[t] - self.carry[t - 1].transpose() * z[t - 1]).mid())
        x = [self.inverses[-1] * z[-1]]
        for t in reversed(range(T - 1)):
            x.append((self.inverses[t] * z[t] - self.carry[t] * x[-1]).mid())
        return x[::-1]

    def transpose(self, own: list[flint.arb_mat], coupling: list[flint.arb_mat]) -> list[flint.arb_mat]:
        """(W A)^T of columns for the own rows of each time and the couplings of each step."""
        A, T = self.A, len(own)
        result = []
        for t in range(T):
            x = A.own[t].transpose() * own[t]
            if t < T - 1:
                x = x + A.left[t].transpose() * coupling[t]
            if t > 0:
                x = x + A.right[t - 1].transpose() * coupling[t - 1]
            result.append(x)
        return result

    def apply(self, x: list[flint.arb_mat]) -> tuple[list[flint.arb_mat], list[flint.arb_mat]]:
        """W A x: own rows and couplings."""
        A, T = self.A, len(x)
        own = [A.own[t] * x[t] for t in range(T)]
        return own, [A.left[t] * x[t] + A.right[t] * x[t + 1] for t in range(T - 1)]

    def solve(self, b: Array, u: Array) -> Array:
        """y, (T, n), for b (T, Q) and u (T_init, V, R_init), rounded to float64."""
        d = weighted(self.A, b, u)
        none = [flint.arb_mat(M.nrows(), 1) for M in self.A.left]
        return to_float(self.normal_solve(self.transpose(d, none)))


def weighted(A: Rows, b: Array, u: Array) -> list[flint.arb_mat]:
    """W d of the own rows."""
    result = []
    for t, w in enumerate(A.weights):
        values = [*b[t], *(u[t].ravel() if t < len(u) else ())]
        result.append(column([x * flint.arb(float(d)) for x, d in zip(w, values, strict=True)]))
    return result


def column(values: list[flint.arb]) -> flint.arb_mat:
    return flint.arb_mat(len(values), 1, values)


def to_float(x: list[flint.arb_mat]) -> Array:
    """Columns as (T, n), rounded."""
    return np.array([[float(a.mid()) for a in column.entries()] for column in x])


def _inverse(D: flint.arb_mat) -> flint.arb_mat:
    n = D.nrows()
    try:
        inverse = D.inv().mid()
    except ZeroDivisionError:
        raise Undecided("a pivot of M may be zero") from None
    if any(abs(D[i, i] * inverse[i, i]) > flint.arb(2) ** (BITS // 2) for i in range(n)):
        raise Undecided("a pivot of M is as good as zero")
    return inverse
