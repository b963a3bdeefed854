r"""Which terms to keep: sparse regression on the Gram matrix of a linearised fit.

Near the current fit the cost is quadratic in the coefficients θ of all terms,

    χ²(θ) = |r_0 + Σ θ_j r_j|²,    r_0, .., r_p from `_variable_projection`,

so that for any set S of terms the minimum and the covariance of θ_S follow from the (1+p)² inner products. Terms are
chosen to minimise χ² + s² |S|, s the significance asked for: dropping term j of S raises χ² by (θ_j / σ_j)², so that
every term of the minimum has |θ_j| >= s σ_j, and none that is left out would have it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ._variable_projection import estimate

__all__ = ["Choice", "Quadratic"]

Terms = frozenset[int]


class Choice(NamedTuple):
    """A set of terms and what it comes to, in the quadratic approximation."""

    score: float
    """χ² / φ + s² |S|"""
    terms: Terms


@dataclass(frozen=True)
class Quadratic:
    """χ² as a function of the coefficients of p terms."""

    gram: np.ndarray
    """(1+p, 1+p), of r_0, .., r_p"""

    def fit(self, terms: Sequence[int]) -> tuple[np.ndarray, np.ndarray, float]:
        """Coefficients and covariance of these terms alone, all others being 0, and χ²."""
        index = np.array([0, *(1 + j for j in terms)])
        G = self.gram[np.ix_(index, index)]
        if not len(terms):
            return np.zeros(0), np.zeros((0, 0)), float(G[0, 0])
        found = estimate(G[None])
        theta = found.change[0]
        cost = G[0, 0] + 2 * G[0, 1:] @ theta + theta @ G[1:, 1:] @ theta
        return theta, found.covariance[0], float(cost)

    def significance_of_others(self, terms: Sequence[int]) -> np.ndarray:
        """|θ_j| / σ_j that each term would have if it were added to these, (p,); 0 for these."""
        p = len(self.gram) - 1
        theta, covariance, _ = self.fit(terms)
        inside = np.array([1 + j for j in terms], dtype=int)
        to_inside = self.gram[1:, inside]
        gradient = self.gram[1:, 0] + to_inside @ theta
        diagonal = np.diagonal(self.gram)[1:]
        left = diagonal - np.einsum("ji,ik,jk->j", to_inside, covariance, to_inside)
        result = np.zeros(p)
        outside = left > 1e-10 * diagonal  # what these terms explain up to rounding would add nothing
        outside[inside - 1] = False
        result[outside] = np.abs(gradient[outside]) / np.sqrt(left[outside])
        return result

    def eliminate(self, terms: Terms, significance: float, inflation: float, most: int | None = None) -> Choice:
        """Drops the least significant term until all are significant, or `most` have been dropped."""
        kept = sorted(terms)
        enough = 0 if most is None else len(kept) - most
        while True:
            theta, covariance, cost = self.fit(kept)
            if len(kept) <= enough:
                break
            ratio = np.abs(theta) / np.sqrt(inflation * np.diagonal(covariance))
            least = int(np.argmin(ratio))
            if ratio[least] >= significance:
                break
            del kept[least]
        return Choice(cost / inflation + significance**2 * len(kept), frozenset(kept))

    def revisions(self, terms: Terms, significance: float, inflation: float) -> list[Choice]:
        """Other sets with a better score, best first: a term is added, and whatever it makes insignificant dropped."""
        _, _, cost = self.fit(sorted(terms))
        present = cost / inflation + significance**2 * len(terms)
        found = {choice.terms: choice for choice in self._neighbours(terms, significance, inflation)}
        better = [c for c in found.values() if c.score < present - 1.0 and c.terms != terms]
        return sorted(better)

    def _neighbours(self, terms: Terms, significance: float, inflation: float) -> Iterator[Choice]:
        would_be = self.significance_of_others(sorted(terms)) / np.sqrt(inflation)
        for j in np.argsort(-would_be):
            if would_be[j] < 0.5 * significance:
                break
            yield self.eliminate(terms | {int(j)}, significance, inflation)
