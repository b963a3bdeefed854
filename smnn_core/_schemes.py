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
- The residual of that row of `HERMITE` would allow 2(R+1-q). But derivatives above the ODE's order follow from the
  rows alone, y^(R) with an error δ = O(s) from its light row; it enters the row of y^(q-1) as s^(R+1-q) times
  δ(t) - δ(t+s) = O(s^2) where R+1-q is even, times δ(t) + δ(t+s) = O(s) where it is odd, and the symmetry raises the
  odd order by one: `HERMITE` converges with order R+2-q.
- In both, y^(k) with k > q converges with order R+1-k.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import comb, factorial, isfinite

import numpy as np

from ._errors import SchemeError

__all__ = ["HERMITE", "TAYLOR", "Scheme"]

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

    Two schemes are equal when they have the same name, citation and rule.

    Raises:
        SchemeError: if the rule is not hashable.
    """

    name: str
    citation: str
    rule: Callable[[int], tuple[MatrixLike, MatrixLike]] = field(repr=False)
    _known: dict[int, Matrices] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        try:
            hash(self.rule)
        except TypeError as error:
            raise SchemeError(
                f"scheme {self.name!r}: the rule must be hashable ({error}): a function, or a frozen dataclass."
            ) from None

    @staticmethod
    def from_matrices(F: MatrixLike, G: MatrixLike, *, name: str = "custom", citation: str = "user-defined") -> Scheme:
        """A scheme from one pair of matrices, for problems with K = F.shape[1] derivative orders.

        Raises:
            SchemeError: if the matrices are malformed or inconsistent (see `matrices`).
        """
        pair = _checked(name, F, G)
        return Scheme(name, citation, _Always(pair))

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

    def exactness(self, K: int) -> int:
        """The highest degree d such that all rows vanish for every polynomial of degree <= d."""
        F, G = self.rows(K)
        degree = 0
        while all(abs(d) <= 1e-12 for d in _defects(F, G, degree + 1)):
            degree += 1
        return degree


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
    shapes = {np.shape(M) for M in (F, G)}
    if len(shapes) != 1 or len(next(iter(shapes))) != 2 or 0 in next(iter(shapes)):
        raise SchemeError(
            f"scheme {name!r}: F and G must be two matrices of the same shape (m, K); got {np.shape(F)} and "
            f"{np.shape(G)}."
        )
    F, G = (tuple(tuple(float(x) for x in row) for row in M) for M in (F, G))
    numbers = [x for M in (F, G) for row in M for x in row]
    if not all(isfinite(x) for x in numbers):
        raise SchemeError(f"scheme {name!r}: F and G must be finite.")
    tolerance = 1e-8 * (1 + max(abs(x) for x in numbers))
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


LIGHT = 1e-2
"""Weight of the last row of `HERMITE`, which only keeps the problem regular."""


def _hermite(K: int) -> tuple[list[list[float]], list[list[float]]]:
    """Padé rows r = 0..R-1 with k = R-r, then the light row of the highest order."""
    R = K - 1
    F, G = ([[0.0] * K for _ in range(K)] for _ in range(2))
    for r in range(R):
        k = R - r
        for j in range(k + 1):
            a = comb(k, j) * factorial(2 * k - j) / factorial(2 * k)
            F[r][r + j] = a
            G[r][r + j] = -a * (-1.0) ** j
    F[R][R], G[R][R] = LIGHT, -LIGHT
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
    rule=_hermite,
)
"""Two-point Hermite-Obreshkov rows, m = K: half the rows of `TAYLOR` and far less discretisation error."""
