r"""Which terms to keep: sparse regression on the Gram matrix of a linearised fit.

Near the current fit the cost is quadratic in the coefficients θ of all terms,

    χ²(θ) = |r_0 + Σ θ_j r_j|²,    r_0, .., r_p from `_projection`,

so that for any set S of terms the minimum and the covariance of θ_S follow from the (1+p)² inner products. Terms are
chosen to minimise χ² + s² |S|, s the significance asked for: dropping term j of S raises χ² by (θ_j / σ_j)², so that
every term of the minimum has |θ_j| >= s σ_j, and none that is left out would have it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ..fitting._estimate import estimate

__all__ = ["Choice", "Quadratic", "Terms"]

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

    def others(self, terms: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """Coefficient and standard error that each term would have if it were added to these, (p,) each.

        0 and infinite for these, and for terms that they explain.
        """
        p = len(self.gram) - 1
        theta, covariance, _ = self.fit(terms)
        inside = np.array([1 + j for j in terms], dtype=int)
        to_inside = self.gram[1:, inside]
        gradient = self.gram[1:, 0] + to_inside @ theta
        diagonal = np.diagonal(self.gram)[1:]
        left = diagonal - np.sum(to_inside @ covariance * to_inside, axis=1)
        outside = left > DEPENDENT * diagonal
        outside[inside - 1] = False
        coefficients, errors = np.zeros(p), np.full(p, np.inf)
        coefficients[outside] = -gradient[outside] / left[outside]
        errors[outside] = 1 / np.sqrt(left[outside])
        return coefficients, errors

    def significance_of_others(self, terms: Sequence[int]) -> np.ndarray:
        """|θ_j| / σ_j that each term would have if it were added to these, (p,); 0 for these."""
        coefficients, errors = self.others(terms)
        return np.abs(coefficients) / errors

    def eliminate(self, terms: Terms, significance: float, inflation: float, most: int | None = None) -> Choice:
        """Drops the least significant term until all are significant, or `most` have been dropped.

        What is left without a term follows from covariance and coefficients with it (a step of Gauss's elimination);
        where others nearly explain the term, that has too few digits, and all are fitted again.
        """
        kept = sorted(terms)
        enough = 0 if most is None else len(kept) - most
        theta, covariance, cost = self.fit(kept)
        is_updated = False
        while len(kept) > enough:
            variance = np.diagonal(covariance)
            ratio = np.abs(theta) / np.sqrt(inflation * variance)
            least = int(np.argmin(ratio))
            if ratio[least] >= significance:
                break
            is_updated = bool(variance[least] * self.gram[1 + kept[least], 1 + kept[least]] < EXPLAINED)
            del kept[least]
            if is_updated:
                row, θ, rest = covariance[least] / variance[least], theta[least], np.arange(len(theta)) != least
                cost += θ**2 / variance[least]
                theta = (theta - row * θ)[rest]
                covariance = (covariance - np.outer(row, covariance[least]))[np.ix_(rest, rest)]
            else:
                theta, covariance, cost = self.fit(kept)
        if is_updated:
            cost = self.fit(kept)[2]
        return Choice(cost / inflation + significance**2 * len(kept), frozenset(kept))

    def revisions(self, terms: Terms, significance: float, inflation: float) -> list[Choice]:
        """Other sets, best first, whose score is lower by more than 1.

        A term is added and whatever that makes insignificant dropped, or one is put in place of another.
        """
        _, _, cost = self.fit(sorted(terms))
        most = cost / inflation + significance**2 * len(terms) - 1.0
        found = {choice.terms: choice for choice in self._neighbours(terms, significance, inflation)}
        return sorted((c for c in found.values() if c.score < most and c.terms != terms), key=lambda c: c.score)

    def alternatives(
        self, terms: Terms, groups: Sequence[np.ndarray], significance: float, inflation: float, slack: float
    ) -> list[Choice]:
        """Sets with other terms in one group (equation), best first, whose score is below the present one plus `slack`.

        From a beam search: several terms may stand in place of several others.
        """
        found = []
        for group in groups:
            others = np.array(sorted(terms.difference(group.tolist())), dtype=int)
            present = [i for i, j in enumerate(group) if int(j) in terms]
            gram, price = self.given(others, group), significance**2
            most = Quadratic(gram).fit(present)[2] / inflation + price * len(present) + slack
            for score, subset in _beam(gram, significance, inflation):
                if score < most and list(subset) != present:
                    found.append(Choice(score + price * len(others), frozenset([*others, *group[list(subset)]])))
        return sorted(found, key=lambda c: c.score)

    def best_subsets(self, groups: Sequence[np.ndarray], significance: float, inflation: float) -> Terms:
        """Of every group (the terms of one equation) the best subset, twice: first all terms of the others are free."""
        chosen = list(groups)
        for _ in range(2):
            for i, group in enumerate(groups):
                others = np.concatenate([np.zeros(0, dtype=int), *chosen[:i], *chosen[i + 1 :]])
                own = Quadratic(self.given(others, group))
                score, rest = own.eliminate(frozenset(range(len(group))), significance, inflation)
                _, best = min((score, tuple(sorted(rest))), *_beam(own.gram, significance, inflation))
                chosen[i] = group[list(best)]
        return frozenset(int(j) for x in chosen for j in x)

    def given(self, others: np.ndarray, group: np.ndarray) -> np.ndarray:
        """The Gram matrix of r_0 and the terms of a group when other terms are free: their Schur complement."""
        inside, outside = np.array([0, *(1 + group)]), 1 + others
        G, cross = self.gram[np.ix_(inside, inside)], self.gram[np.ix_(outside, inside)]
        if not len(others):
            return G
        scale = np.sqrt(np.diagonal(self.gram)[outside])
        inner = self.gram[np.ix_(outside, outside)] / scale / scale[:, None]
        inner[np.diag_indices(len(others))] += RIDGE * len(others)
        cross = cross / scale[:, None]
        return G - cross.T @ np.linalg.solve(inner, cross)

    def _neighbours(self, terms: Terms, significance: float, inflation: float) -> Iterator[Choice]:
        would_be = self.significance_of_others(sorted(terms)) / np.sqrt(inflation)
        for j in np.argsort(-would_be):
            if would_be[j] < 0.5 * significance:
                break
            yield self.eliminate(terms | {int(j)}, significance, inflation)
        order = sorted(terms)
        theta, covariance, _ = self.fit(order)
        weakest = np.argsort(np.abs(theta) / np.sqrt(np.diagonal(covariance)))[:EXCHANGED]
        for i in (order[k] for k in weakest):
            rest = terms - {i}
            would_be = self.significance_of_others(sorted(rest))
            would_be[i] = 0.0
            yield self.eliminate(rest | {int(np.argmax(would_be))}, significance, inflation)


EXCHANGED = 20
"""The least significant of the terms, for which others are tried."""
EXPLAINED = 1e8
"""The factor by which others enlarge the variance of a term, above which they explain it but for a few digits."""
RIDGE = 1e-15
"""Added to the diagonal of p terms of unit size, times p: directions that rows determine to fewer digits are open."""
WIDTH, MOST = 200, 12
"""Of the beam search: subsets kept of each size, and terms of an equation at most."""
DEPENDENT = 1e-10
"""A term of which others explain all but this share adds nothing but rounding."""


def _beam(gram: np.ndarray, significance: float, inflation: float) -> Iterator[tuple[float, tuple[int, ...]]]:
    """Score and terms of the best subsets of each size, of the terms of gram, (1+k, 1+k): those before and one more."""
    A, b, k = gram[1:, 1:], -gram[1:, 0], len(gram) - 1
    subsets = np.zeros((1, 0), dtype=int)
    yield gram[0, 0] / inflation, ()
    for size in range(1, min(k, MOST) + 1):
        costs = _costs_with_another(A, b, subsets)
        order = np.argsort(costs, axis=None)[: 4 * WIDTH]
        rows, added = np.divmod(order[np.isfinite(costs.ravel()[order])], k)
        if not len(rows):
            break
        scores = (gram[0, 0] + costs[rows, added]) / inflation + significance**2 * size
        subsets = np.sort(np.concatenate([subsets[rows], added[:, None]], axis=1), axis=1)
        _, first = np.unique(subsets, axis=0, return_index=True)
        first = np.sort(first)[:WIDTH]
        subsets = subsets[first]
        yield from zip(scores[first].tolist(), map(tuple, subsets.tolist()), strict=True)


def _costs_with_another(A: np.ndarray, b: np.ndarray, subsets: np.ndarray) -> np.ndarray:
    """How each further term would change the minimum of x A x - 2 b x over 0, (subsets, k), for subsets (.., m)."""
    m = subsets.shape[1]
    rows = A[subsets]
    inner = np.take_along_axis(rows, np.repeat(subsets[:, None, :], m, axis=1), axis=2)
    inner = inner + 1e-13 * np.eye(m) * np.trace(inner, axis1=1, axis2=2)[:, None, None]
    solved = np.linalg.solve(inner, np.concatenate([rows, b[subsets][..., None]], axis=2))
    left = np.diagonal(A) - np.sum(rows * solved[..., :-1], axis=1)
    gradient = b - np.sum(rows * solved[..., -1:], axis=1)
    independent = left > DEPENDENT * np.diagonal(A)
    gain = np.where(independent, gradient**2 / np.where(independent, left, 1.0), -np.inf)
    np.put_along_axis(gain, subsets, -np.inf, axis=1)
    return -np.sum(b[subsets] * solved[..., -1], axis=1)[:, None] - gain
