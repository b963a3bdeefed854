r"""Smoothness schemes: what ties a trajectory at one time point to the next.

A scheme is data: for K = R+1 derivative orders, two constant (m, K) matrices F and G whose rows

    F diag(s^o) y[t, :] + G diag(s^o) y[t+1, :],    o = 0..R,

vanish (up to truncation) for a smooth function with derivatives y[t, o] = y^(o)(t) and step s.

Order of the error. A polynomial of degree R satisfies every row of `TAYLOR` exactly; of a general function
the row of order r leaves `s^(R+1) y^(R+1) / (R+1-r)!` (forward rows, and the mirrored residual backward).
The row of order r of `HERMITE` is the (k, k) Padé row of exp, k = R-r, exact for polynomials of degree R+k:
its residual is `s^(2R+1-r) y^(2R+1-r) (-1)^(k+1) (k!)^2 / ((2k)! (2k+1)!)`.

Order of convergence, for an ODE of order q <= R on a fixed interval, in y^(0)..y^(q):

- The row of y^(q-1), the highest derivative the ODE does not give, decides. Divided by its scale s^(q-1), its `TAYLOR`
  residual is O(s^(R+2-q)) a step, O(s^(R+1-q)) over the interval. Forward and backward rows make the problem symmetric
  under reversal of time, so that the error has even powers of s only: `TAYLOR` converges with order R+1-q raised to
  an even number, 2 floor((R+2-q)/2).
- The residual of that row of `HERMITE` would allow 2(R+1-q), and with R = q or R = q+1 it is reached: order 2 and 4.
  With R = q+1 the rows that can be met leave y^(R) free to alternate, δ(t+s) = -δ(t), and nothing else; the light row
  chooses the amplitude, O(s^2).
- With R > q+1 more is left free, and δ = O(s). It enters the row of y^(q-1) as s^(R+1-q) times δ(t) - δ(t+s) = O(s^2)
  where R+1-q is even, times δ(t) + δ(t+s) = O(s) where it is odd, and the symmetry raises the odd order by one:
  order R+2-q.
- y^(k) with k > q converges with order R+1-k, with `HERMITE` and R = q+1 with order 2.

Steps that differ. The rows across step s are weighted by (s_ref / |s|)^p, s_ref the geometric mean of the |s| of a
system and p the exponent of the scheme. Divided by s^r, the row of order r speaks of y^(r) itself; the increment of the
R-times integrated Wiener process in y^(r) over s has the standard deviation s^(R-r+1/2), in the units of that row
s^(R+1/2) for every r. Least squares asks for the inverse of the standard deviation as weight: `WIENER` has
p = R + 1/2. With p = 0 a row across a short step costs nearly nothing when it is violated, and the solution is wrong by
as much as itself where steps differ.

`HERMITE` has another error to distribute. With the equation its R Padé rows can be met at once; the light row cannot,
its size is what y^(R) changes across a step, and what it pulls is taken from the rows of other steps. On a mesh that
follows a solution light rows in short steps, weighted with p = R + 1/2, outweigh all rows in long steps. A lighter row
pulls less, but it is also what keeps apart the solutions that alternate from one long step to the next, where the
equation is stiff. p = R/2 + 1 and a light row of 3e-4 serve both (theory/rows.md has the table; `python -m
benchmarks.grids --light`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import lru_cache
from math import comb, factorial, isfinite
from numbers import Real

import numpy as np

from ._errors import SchemeError

__all__ = ["HERMITE", "TAYLOR", "WIENER", "Scheme"]

Matrix = tuple[tuple[float, ...], ...]
"""Plain numbers, so that nothing here is traced by a compiler that traces NumPy."""
Matrices = tuple[Matrix, Matrix]
MatrixLike = Sequence[Sequence[float]] | np.ndarray


@dataclass(frozen=True)
class Scheme:
    """A smoothness scheme: a rule that gives, for K derivative orders, the pair of matrices (F, G).

    Args:
        name: how the scheme is shown.
        citation: where its rows come from.
        rule: maps K to (F, G), two (m, K) matrices, and always to the same: what follows from them is remembered. It
            must be hashable, as functions and frozen dataclasses are. For one pair of matrices of your own use
            `Scheme.from_matrices`.
        exponent: p, a number or a function of K: rows across step s are weighted by (s_ref / |s|)^p, s_ref the
            geometric mean of the |s| of a system. It has no effect where all steps are equal.

    Two schemes are equal when they have the same name, citation, rule and exponent.

    Raises:
        SchemeError: if the rule is not hashable.
    """

    name: str
    citation: str = field(repr=False)
    rule: Callable[[int], tuple[MatrixLike, MatrixLike]] = field(repr=False)
    exponent: float | Callable[[int], float] = 0.0
    _known: dict[int, Matrices] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        try:
            hash(self.rule)
        except TypeError as error:
            raise SchemeError(
                f"scheme {self.name!r}: the rule must be hashable ({error}): a function, or a frozen dataclass."
            ) from None
        p = self.exponent
        if not callable(p) and (isinstance(p, bool) or not isinstance(p, Real) or not isfinite(p)):
            raise SchemeError(f"scheme {self.name!r}: exponent must be a finite number or a function of K; got {p!r}.")

    @staticmethod
    def from_matrices(
        F: MatrixLike,
        G: MatrixLike,
        *,
        name: str = "custom",
        citation: str = "user-defined",
        exponent: float | Callable[[int], float] = 0.0,
    ) -> Scheme:
        """A scheme from one pair of matrices, for problems with K = F.shape[1] derivative orders.

        Args:
            exponent: see the class; R/2 + 1 is right for rows that mean the same as those of `HERMITE`, R + 1/2 for
                those of `WIENER`.

        Raises:
            SchemeError: if the matrices are malformed or inconsistent (see `matrices`).
        """
        pair = _checked(name, F, G)
        return Scheme(name, citation, _Always(pair), exponent)

    def matrices(self, K: int) -> tuple[np.ndarray, np.ndarray]:
        """The matrices F and G for K derivative orders (R = K-1), each of shape (m, K), float64.

        Raises:
            SchemeError: if they are not two finite (m, K) matrices, or are not exact for constants and, where
                K >= 2, for straight lines.
        """
        F, G = self.rows(K)
        return np.array(F), np.array(G)

    def rows(self, K: int) -> Matrices:
        """`matrices` as nested tuples of numbers; checked once for each K."""
        K = int(K)  # a symbolic size where shapes are traced
        if K not in self._known:
            F, G = _checked(self.name, *self.rule(K))
            if len(F[0]) != K:
                raise SchemeError(
                    f"scheme {self.name!r} has matrices for K = {len(F[0])} derivative orders, the problem has K = {K} "
                    f"(orders 0..{K - 1}): give the coefficients {len(F[0])} orders, or build a scheme for {K}."
                )
            self._known[K] = F, G
        return self._known[K]

    def step_exponent(self, K: int) -> float:
        """The exponent p for K derivative orders."""
        return self.exponent(K) if callable(self.exponent) else self.exponent

    def exactness(self, K: int) -> int:
        """The highest degree d such that all rows vanish for every polynomial of degree <= d.

        It is below 2 K - 1: values of that many derivatives at both ends determine such a polynomial.
        """
        F, G = self.rows(K)
        tolerance = 1e-12 * max(abs(x) for M in (F, G) for row in M for x in row)
        degree = 0
        while degree < 2 * K - 2 and all(abs(d) <= tolerance for d in _defects(F, G, degree + 1)):
            degree += 1
        return degree


@lru_cache(maxsize=64)
def triangular_rows(scheme: Scheme, K: int) -> tuple[np.ndarray, np.ndarray]:
    """The scheme's rows [F G] = Q S: S (2K, 2K), triangular and padded with zeros, and Q (m, 2K)."""
    Q, S = np.linalg.qr(np.hstack([np.asarray(M, dtype=np.float64) for M in scheme.matrices(K)]))
    missing = 2 * K - S.shape[0]
    # rows that all vanish for polynomials of degree K-1 have rank K: what is left of the others is rounding
    S[K:][np.abs(S[K:]).max(axis=1, initial=0.0) <= 1e-13 * np.abs(S).max()] = 0.0
    # rows that vanish for polynomials of degree d have columns up to d of G in the span of as many of F
    for o in range(min(K, scheme.exactness(K) + 1)):
        below = S[o + 1 :, K + o]
        below[np.abs(below) <= 1e-13 * np.abs(S).max()] = 0.0
    rows, columns = np.pad(S, ((0, missing), (0, 0))), np.pad(Q, ((0, 0), (0, missing)))
    return np.ascontiguousarray(rows), columns  # (traced by Dynamo, numpy.linalg.qr gives transposed arrays)


def _defects(F: Matrix, G: Matrix, degree: int) -> list[float]:
    """The rows applied to p(x) = x^degree between x = 0 and x = 1."""
    orders = range(len(F[0]))
    at_0 = [float(factorial(degree)) if o == degree else 0.0 for o in orders]
    at_1 = [factorial(degree) / factorial(degree - o) if o <= degree else 0.0 for o in orders]
    return [sum(f[o] * at_0[o] + g[o] * at_1[o] for o in orders) for f, g in zip(F, G, strict=True)]


@dataclass(frozen=True)
class _Always:
    """A rule that can be compared and pickled: the same pair for every K."""

    pair: Matrices

    def __call__(self, K: int) -> Matrices:
        del K
        return self.pair


def _checked(name: str, F: MatrixLike, G: MatrixLike) -> Matrices:
    """F and G as nested tuples; SchemeError unless they are matrices of one shape, finite and consistent."""
    try:
        shapes = {np.asarray(M, dtype=np.float64).shape for M in (F, G)}
    except (TypeError, ValueError) as error:
        raise SchemeError(f"scheme {name!r}: F and G must be matrices of numbers ({error}).") from None
    if len(shapes) != 1 or len(next(iter(shapes))) != 2 or 0 in next(iter(shapes)):
        raise SchemeError(
            f"scheme {name!r}: F and G must be two matrices of the same shape (m, K); got {np.shape(F)} and "
            f"{np.shape(G)}."
        )
    F, G = (tuple(tuple(float(x) for x in row) for row in M) for M in (F, G))
    numbers = [x for M in (F, G) for row in M for x in row]
    if not all(isfinite(x) for x in numbers):
        raise SchemeError(f"scheme {name!r}: F and G must be finite.")
    if not any(numbers):
        raise SchemeError(f"scheme {name!r}: all its rows are zero, so that nothing would connect time points.")
    tolerance = 1e-8 * max(abs(x) for x in numbers)
    for degree in range(min(len(F[0]), 2)):
        if any(abs(d) > tolerance for d in _defects(F, G, degree)):
            raise SchemeError(
                f"scheme {name!r} is inconsistent: its rows do not vanish for polynomials of degree {degree}. Every "
                "row of F diag(s^o) y[t] + G diag(s^o) y[t+1] must be zero for constants and straight lines."
            )
    return F, G


def _taylor(K: int) -> tuple[list[list[float]], list[list[float]]]:
    """Forward rows r = 0..R, then backward rows r = 0..R (the last of each are the same up to sign)."""
    orders = range(K)
    forward = [[1 / factorial(o - r) if o >= r else 0.0 for o in orders] for r in orders]
    backward = [[(-1.0) ** o * x for o, x in enumerate(row)] for row in forward]
    unit = [[float(o == r) for o in orders] for r in orders]
    F = forward + [[-((-1.0) ** o) * x for o, x in enumerate(row)] for row in unit]
    G = [[-x for x in row] for row in unit] + backward
    return F, G


@dataclass(frozen=True)
class LinearExponent:
    """An exponent that is linear in R = K-1."""

    slope: float
    constant: float = 0.0

    def __call__(self, K: int) -> float:
        return self.slope * (K - 1) + self.constant

    def __repr__(self) -> str:
        slope, constant = (Fraction(x).limit_denominator(100) for x in (self.slope, self.constant))
        return ("R" if slope == 1 else f"{slope} R") + (f" + {constant}" if constant else "")


LIGHT = 3e-4
"""Weight of the last row of `HERMITE`, which keeps the problem regular and chooses among solutions that alternate."""


@dataclass(frozen=True)
class Hermite:
    """Padé rows r = 0..R-1 with k = R-r, then the light row of the highest order."""

    light: float = LIGHT

    def __call__(self, K: int) -> tuple[list[list[float]], list[list[float]]]:
        R = K - 1
        F, G = ([[0.0] * K for _ in range(K)] for _ in range(2))
        for r in range(R):
            k = R - r
            for j in range(k + 1):
                a = comb(k, j) * factorial(2 * k - j) / factorial(2 * k)
                F[r][r + j] = a
                G[r][r + j] = -a * (-1.0) ** j
        F[R][R], G[R][R] = self.light, -self.light
        return F, G


def _wiener(K: int) -> tuple[list[list[float]], list[list[float]]]:
    """Q^(-1/2) (Phi y[t] - y[t+1]) with the transition Phi and the covariance Q of an integrated Wiener process.

    Q = U D U^T with unit upper triangular U, exactly, so that Q^(-1/2) = D^(-1/2) U^(-1): upper triangular, as the rows
    of `HERMITE` are, so that the row of order r has the size s^r and rounding errors do not exceed it.
    """
    R, orders = K - 1, range(K)
    Phi = [[Fraction(1, factorial(o - r)) if o >= r else Fraction(0) for o in orders] for r in orders]
    Q = [[Fraction(1, (2 * R + 1 - i - j) * factorial(R - i) * factorial(R - j)) for j in orders] for i in orders]
    inverse = [[Fraction(i == j) for j in orders] for i in orders]
    for k in reversed(orders):  # Gaussian elimination of [Q | 1] from the last row leaves [D U^T | U^(-1)]
        for i in range(k):
            factor = Q[i][k] / Q[k][k]
            Q[i] = [a - factor * b for a, b in zip(Q[i], Q[k], strict=True)]
            inverse[i] = [a - factor * b for a, b in zip(inverse[i], inverse[k], strict=True)]
    rows = range(K)
    product = [[sum((inverse[i][r] * Phi[r][o] for r in rows), Fraction(0)) for o in orders] for i in rows]
    F = [[float(x) / float(Q[i][i]) ** 0.5 for x in product[i]] for i in rows]
    G = [[-float(x) / float(Q[i][i]) ** 0.5 for x in inverse[i]] for i in rows]
    return F, G


TAYLOR = Scheme(
    name="taylor",
    citation="Pervez, Locatello, Gavves, ICML 2024, arXiv:2402.13077; Chen et al., ICLR 2025, arXiv:2410.06074",
    rule=_taylor,
)
"""Truncated Taylor expansions from each point to the next and back: the published rows, m = 2K."""

HERMITE = Scheme(
    name="hermite",
    citation="two-point Hermite-Obreshkov formulas: Hairer, Norsett, Wanner, Solving Ordinary Differential Equations "
    "I, section II.13; coefficients of the diagonal Pade approximants of exp",
    rule=Hermite(),
    exponent=LinearExponent(0.5, 1.0),
)
"""Two-point Hermite-Obreshkov rows, m = K: half the rows of `TAYLOR` and far less discretisation error. The default."""

WIENER = Scheme(
    name="wiener",
    citation="R-times integrated Wiener process: Schober, Sarkka, Hennig, Statistics and Computing 29 (2019) 99; "
    "Sarkka, Solin, Applied Stochastic Differential Equations, Cambridge 2019",
    rule=_wiener,
    exponent=LinearExponent(1.0, 0.5),
)
"""The increments of an R-times integrated Wiener process, independent and of unit variance, m = K: the prior of
Gaussian ODE filters and smoothers. Errors on smooth problems are about ten times those of `HERMITE`, on
random times smaller; on meshes that follow a solution (short steps in a layer) of order one: use `HERMITE` there."""
