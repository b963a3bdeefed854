"""Weights of networks in the equations: a normal prior, and the few directions of them that data can tell apart.

A network has many more weights than data determine numbers, and its weights are not what is asked for: its values are.
With ψ = weights / deviation, a priori normal with variance 1, the linearised rows contain them as A δψ, and A has few
singular values above any noise: values of a smooth function. In the basis T of these directions, found by products
with random vectors, a step has as many unknowns as there are directions, and what is left out has its prior variance.

Source: Halko, Martinsson, Tropp, SIAM Review 53 (2011) 217, for the basis; MacKay, Neural Computation 4 (1992) 448, for
weights with a prior in a least-squares problem.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .._arrays import Array
from .._errors import ArgumentError

__all__ = ["Directions", "Network"]

SMALL = 1e-4
"""Singular values below that part of the largest are left out: data do not see them."""
FIRST = 64
"""Random vectors at first; twice as many as long as the last one still counts."""


@dataclass(frozen=True, eq=False)
class Network:
    """Weights of a network, or of anything that is fitted for its values and has more numbers than data determine.

    Callbacks of `fit` get them as (M, 1, n) under their name. They are normally distributed around 0 a priori.

    Args:
        start: (n,): where iterations begin; different from zero, as networks are initialised.
        deviation: standard deviation of the prior.
    """

    start: Any
    deviation: float = 1.0

    def __post_init__(self) -> None:
        start = np.array(self.start, dtype=float)
        if start.ndim != 1 or not start.size or not np.isfinite(start).all():
            raise ArgumentError(f"Network: start must be finite numbers of shape (n,); got shape {start.shape}.")
        if not 0 < self.deviation < np.inf:
            raise ArgumentError(f"Network: deviation must be positive and finite, got {self.deviation:g}.")
        object.__setattr__(self, "start", start)


@dataclass(frozen=True, eq=False)
class Directions:
    """Directions of a step: each parameter by itself, and what rows see of the weights of networks."""

    T: Array
    """(S, p, c): columns are changes of φ; those of weights orthonormal in units of their deviations"""
    deviation: Array
    """(p,): of weights, behind ones for the parameters by themselves"""
    single: int
    """how many these are"""

    @staticmethod
    def of(rows: Sequence[tuple[Array, Array]], deviation: Array, single: int, S: int) -> Directions:
        """From rows of derivatives in φ, (S, any, p), and what they are multiplied by, (S, any), in parts."""
        p, rng = len(deviation), np.random.default_rng(0)
        bases = [np.zeros((p, 0)) if p == single else
                 _basis([(A[i], w[i]) for A, w in rows], deviation, single, rng) for i in range(S)]  # fmt: skip
        T = np.zeros((S, p, single + max(basis.shape[1] for basis in bases)))
        T[:, :single, :single] = np.eye(single)
        for own, basis in zip(T, bases, strict=True):
            own[:, single : single + basis.shape[1]] = basis
        return Directions(T, deviation, single)

    def of_all(self, covariance: Array) -> Array:
        """The covariance of φ, (S, p, p), from that along the directions: the others have that of the prior."""
        T, n = self.T, self.single
        result = T @ covariance @ np.swapaxes(T, 1, 2)
        B = T[:, n:, n:]
        result[:, n:, n:] += np.diag(self.deviation[n:] ** 2) - B @ np.swapaxes(B, 1, 2)
        return result

    def along(self, covariance: Array, gram: Array, slope: Array) -> Array:
        """The covariance along the directions, (S, c, c): that of φ, (S, p, p), where φ has no weights; else anew from
        the Gram matrix of the rows (S, c, c) and the slopes of priors (S, p), since directions change from step to
        step."""
        if self.single == len(self.deviation):
            return covariance
        priors = slope[..., None] * self.T
        gram = gram + np.swapaxes(priors, 1, 2) @ priors
        gram[:, np.arange(gram.shape[1]), np.arange(gram.shape[1])] += ~self.T.any(1)
        return np.linalg.inv(gram)


def _basis(rows: list[tuple[Array, Array]], deviation: Array, single: int, rng: np.random.Generator) -> Array:
    """Changes of weights that rows see, (p, r), orthonormal in units of their deviations."""
    p = len(deviation)
    size = min(FIRST, p - single)
    while True:
        Q = np.zeros((p, size))
        if size == p - single:
            Q[single:] = np.eye(size)
        else:
            random = ((A, w[:, None] * rng.standard_normal((len(w), size))) for A, w in rows)
            sketch = sum(A.T @ x for A, x in random)[single:] * deviation[single:, None]
            if not np.isfinite(sketch).all():
                return np.zeros((p, 0))
            Q[single:] = np.linalg.qr(sketch)[0]
        Q *= deviation[:, None]
        seen = np.concatenate([w[:, None] * (A @ Q) for A, w in rows])
        if not np.isfinite(seen).all():
            return np.zeros((p, 0))
        squares, vectors = np.linalg.eigh(seen.T @ seen)
        large = squares > SMALL**2 * max(squares[-1], np.finfo(float).tiny)
        if not large.all() or size == p - single:
            return Q @ vectors[:, large]
        size = min(2 * size, p - single)
