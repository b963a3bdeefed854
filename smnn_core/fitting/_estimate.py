"""Parameters of a linearised fit from the Gram matrix of its residual rows, the trajectory having been projected out.

With r_0 what is left at δ = 0 and r_j the change with δ_j, G = (r_i · r_j) and g = (r_i · r_0), i, j >= 1:

    δ = -G^-1 g,    covariance of θ = G^-1    (weights being inverse standard deviations).
"""

from __future__ import annotations

from typing import NamedTuple

from .. import _arrays
from .._arrays import Array, Namespace

__all__ = ["Estimate", "estimate"]


class Estimate(NamedTuple):
    """The parameters of a linearised fit."""

    change: Array
    """δ, (B, p); 0 in directions that the rows do not determine"""
    covariance: Array
    """(B, p, p): the inverse of G, huge where that is singular; rows and columns of held parameters are 0"""
    determined: Array
    """bool, (B,): whether G is regular"""
    held: Array
    """bool, (B, p): which parameters a bound holds"""


def estimate(
    gram: Array, lower: Array | None = None, upper: Array | None = None, *, reach: Array | None = None
) -> Estimate:
    """Minimises |r_0 + Σ δ_j r_j|^2, with lower <= δ <= upper where given, from finite Gram matrices (B, 1+p, 1+p).

    Bounds are found one by one: the parameter that goes furthest beyond its own, in standard deviations, is put there
    and the others are estimated again. Bounds that would be left again stay: the next Gauss-Newton step asks anew.

    Args:
        lower, upper: (B or 1, p), lower <= 0 <= upper: from the parameters to their bounds.
        reach: (B, p), positive: steps longer than that, |δ / reach| > 1, are shortened, those directions most that the
            rows determine least. The covariance is that of the rows alone.
    """
    xp = _arrays.common_namespace({"gram": gram})
    G, g = gram[:, 1:, 1:], gram[:, 1:, 0]
    p = g.shape[-1]
    held = xp.zeros(g.shape, dtype=xp.bool, device=_arrays.device_of(g))
    at = xp.zeros_like(g)
    bounded = lower is not None and upper is not None
    one = xp.eye(p, dtype=g.dtype, device=_arrays.device_of(g))
    damped = G if reach is None else G + one * _damping(xp, G, g, reach)[..., None]
    for remaining in range(p if bounded else 0, -1, -1):
        inverse, covariance, determined = _inverse(xp, G, held)
        if reach is not None:
            inverse = _inverse(xp, damped, held)[0]
        change = at - xp.where(held, xp.zeros_like(g), _times(inverse, g + _times(damped, at)))
        if not remaining:
            break
        deviation = xp.sqrt(xp.linalg.diagonal(covariance)) + xp.finfo(g.dtype).smallest_normal
        beyond = xp.maximum(lower - change, change - upper) / deviation
        beyond = xp.where(held, -xp.ones_like(beyond), beyond)
        worst = xp.max(beyond, axis=-1, keepdims=True)
        new = (beyond == worst) & (worst > 0)
        if not _arrays.is_tracer(new) and not bool(xp.any(new)):
            break
        held = held | new
        at = xp.where(new, xp.clip(change, lower, upper), at)
    return Estimate(change, covariance, determined, held)


def _times(M: Array, x: Array) -> Array:
    return (M @ x[..., None])[..., 0]


def _damping(xp: Namespace, G: Array, g: Array, reach: Array) -> Array:
    """λ / reach^2, (B, p), λ >= 0 the smallest for which δ = -(G + λ / reach^2)^-1 g is no longer than the reach.

    In the eigenvectors of G, in units of the reach, δ_i = -c_i / (μ_i + λ): λ by bisection. Source: Moré, The
    Levenberg-Marquardt Algorithm, Lecture Notes in Mathematics 630 (1978) 105.
    """
    μ, U = xp.linalg.eigh(G * reach[..., :, None] * reach[..., None, :])
    c = _times(xp.matrix_transpose(U), reach * g) ** 2
    μ = xp.clip(μ, 0.0, None)
    tiny = float(xp.finfo(g.dtype).smallest_normal)

    def too_long(λ: Array) -> Array:
        return xp.sum(c / ((μ + λ) ** 2 + tiny), axis=-1, keepdims=True) > 1

    high = xp.sqrt(xp.sum(c, axis=-1, keepdims=True))  # there the length is at most 1
    low = 1e-15 * high
    for _ in range(24):
        middle = xp.sqrt(low * high)
        long = too_long(middle)
        low, high = xp.where(long, middle, low), xp.where(long, high, middle)
    return xp.where(too_long(xp.zeros_like(high)), high, xp.zeros_like(high)) / reach**2


def _inverse(xp: Namespace, G: Array, held: Array) -> tuple[Array, Array, Array]:
    """The pseudo-inverse of G without what is held, 0 there; the inverse but for rounding; whether G is regular.

    Scaled to a unit diagonal, which is within a factor of p of the best scaling (van der Sluis 1969), by eigenvalues.
    Those below rounding belong to directions that the rows do not determine: 0 in the pseudo-inverse, raised to it in
    the other, whose variances are large there.
    """
    p = G.shape[-1]
    diagonal = xp.linalg.diagonal(G)
    zero = xp.zeros_like(diagonal)
    scale = xp.where(held, zero, 1 / xp.sqrt(xp.where(diagonal > 0, diagonal, xp.ones_like(diagonal))))
    one = xp.eye(p, dtype=G.dtype, device=_arrays.device_of(G))
    G = G * scale[..., :, None] * scale[..., None, :] + one * xp.astype(held, G.dtype)[..., None]
    values, vectors = xp.linalg.eigh(G)
    least = 8 * p * float(xp.finfo(G.dtype).eps)
    vectors = vectors * scale[..., None]
    clipped = xp.clip(values, least, None)
    transposed = xp.matrix_transpose(vectors)
    pseudo = xp.where(values > least, 1 / clipped, xp.zeros_like(values))
    return (
        (vectors * pseudo[..., None, :]) @ transposed,
        (vectors / clipped[..., None, :]) @ transposed,
        xp.all(values > least, axis=-1),
    )
