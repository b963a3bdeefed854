r"""Smoothness schemes: what ties a trajectory at one time point to the next.

A scheme is data: for K = R+1 derivative orders, two constant (m, K) matrices F and G whose rows

    F diag(s^o) y[t, :] + G diag(s^o) y[t+1, :],    o = 0..R,

vanish (up to truncation) for a smooth function with derivatives y[t, o] = y^(o)(t) and step s.

Order of the error. A polynomial of degree R satisfies every row of `TAYLOR` exactly; of a general function
the row of order r leaves `s^(R+1) y^(R+1) / (R+1-r)!` (forward rows, and the mirrored residual backward).
The row of order r of `HERMITE` is the (k, k) Padé row of exp, k = R-r, exact for polynomials of degree R+k:
its residual is `s^(2R+1-r) y^(2R+1-r) (-1)^k (k!)^2 / ((2k)! (2k+1)!)`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from math import comb, factorial

import numpy as np

from ._errors import SchemeError

__all__ = ["HERMITE", "TAYLOR", "Scheme"]

Matrix = np.ndarray


@dataclass(frozen=True)
class Scheme:
    """A smoothness scheme: a rule that gives, for K derivative orders, the pair of matrices (F, G).

    Args:
        name: how the scheme is shown.
        citation: where its rows come from.
        rule: maps K to (F, G), two float64 arrays of shape (m, K). For one pair of matrices of your own use
            `Scheme.from_matrices`.

    Two schemes are equal when they have the same name and rule.
    """

    name: str
    citation: str
    rule: Callable[[int], tuple[Matrix, Matrix]] = field(repr=False)

    @staticmethod
    def from_matrices(F: Matrix, G: Matrix, *, name: str = "custom", citation: str = "user-defined") -> Scheme:
        """A scheme from one pair of matrices, for problems with K = F.shape[1] derivative orders.

        Raises:
            SchemeError: if the matrices are malformed or inconsistent (see `matrices`).
        """
        F, G = (np.array(M, dtype=np.float64) for M in (F, G))
        _check(name, F, G)

        def rule(K: int) -> tuple[Matrix, Matrix]:
            return F.copy(), G.copy()

        return Scheme(name, citation, rule)

    def matrices(self, K: int) -> tuple[Matrix, Matrix]:
        """The matrices F and G for K derivative orders (R = K-1), each of shape (m, K), float64.

        Raises:
            SchemeError: if they are not two finite (m, K) matrices, or are not exact for constants and, where
                K >= 2, for straight lines.
        """
        F, G = self.rule(K)
        _check(self.name, F, G)
        if F.shape[1] != K:
            raise SchemeError(
                f"scheme {self.name!r} has matrices for K = {F.shape[1]} derivative orders, the problem has K = {K} "
                f"(orders 0..{K - 1}): give the coefficients {F.shape[1]} orders, or build a scheme for {K}."
            )
        return F, G

    def exactness(self, K: int) -> int:
        """The highest degree d such that all rows vanish for every polynomial of degree <= d."""
        F, G = self.matrices(K)
        degree = 0
        while np.all(np.abs(_defect(F, G, degree + 1)) <= 1e-12):
            degree += 1
        return degree


def _defect(F: Matrix, G: Matrix, degree: int) -> Matrix:
    """The rows applied to p(x) = x^degree between x = 0 and x = 1."""
    orders = range(F.shape[1])
    at_0 = np.array([float(factorial(degree)) if o == degree else 0.0 for o in orders])
    at_1 = np.array([factorial(degree) / factorial(degree - o) if o <= degree else 0.0 for o in orders])
    return F @ at_0 + G @ at_1


def _check(name: str, F: Matrix, G: Matrix) -> None:
    if F.ndim != 2 or F.shape != G.shape or 0 in F.shape:
        raise SchemeError(
            f"scheme {name!r}: F and G must be two matrices of the same shape (m, K); got {F.shape} and {G.shape}."
        )
    if not (np.isfinite(F).all() and np.isfinite(G).all()):
        raise SchemeError(f"scheme {name!r}: F and G must be finite.")
    for degree in range(min(F.shape[1], 2)):
        if np.any(np.abs(_defect(F, G, degree)) > 1e-8 * (1 + np.abs(F).max() + np.abs(G).max())):
            raise SchemeError(
                f"scheme {name!r} is inconsistent: its rows do not vanish for polynomials of degree {degree}. Every row "
                "of F diag(s^o) y[t] + G diag(s^o) y[t+1] must be zero for constants and straight lines."
            )


def _taylor(K: int) -> tuple[Matrix, Matrix]:
    """Forward rows r = 0..R, then backward rows r = 0..R (the last of each are the same up to sign)."""
    orders = np.arange(K)
    forward = np.array([[1 / factorial(o - r) if o >= r else 0.0 for o in orders] for r in orders])
    backward = forward * (-1.0) ** orders
    F = np.vstack([forward, -np.diag((-1.0) ** orders)])
    G = np.vstack([-np.eye(K), backward])
    return F, G


LIGHT = 1e-2
"""Weight of the last row of `HERMITE`, which only keeps the problem regular."""


def _hermite(K: int) -> tuple[Matrix, Matrix]:
    """Padé rows r = 0..R-1 with k = R-r, then the light row of the highest order."""
    R = K - 1
    F, G = np.zeros((K, K)), np.zeros((K, K))
    for r in range(R):
        k = R - r
        for j in range(k + 1):
            a = comb(k, j) * factorial(2 * k - j) / factorial(2 * k)
            F[r, r + j] = a
            G[r, r + j] = -a * (-1.0) ** j
    F[R, R], G[R, R] = LIGHT, -LIGHT
    return F, G


TAYLOR = Scheme(
    name="taylor",
    citation="Pervez, Locatello, Gavves, ICML 2024, arXiv:2402.13077; Chen et al., ICLR 2025, arXiv:2410.06074",
    rule=_taylor,
)
"""Truncated Taylor expansions from each point to the next and back: the published rows, m = 2K."""

HERMITE = Scheme(
    name="hermite",
    citation="two-point Hermite-Obreshkov formulas: Hairer, Norsett, Wanner, Solving Ordinary Differential Equations I, "
    "section II.13; coefficients of the diagonal Pade approximants of exp",
    rule=_hermite,
)
"""Two-point Hermite-Obreshkov rows, m = K: half the rows of `TAYLOR` and far less discretisation error."""
