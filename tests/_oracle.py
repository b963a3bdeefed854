"""Dense least squares as the oracle: the solution, how well it is determined, and a reference beyond float64."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

import smnn_core as smnn


@dataclass(frozen=True, eq=False)
class Oracle:
    """The minimiser of |W (A y - d)| by dense QR; batch axes lead everywhere."""

    y: np.ndarray
    """(..., T, V, K), float64"""
    condition: np.ndarray
    """(...): of W A with columns scaled to unit norm, infinite where it is rank-deficient"""
    sensitivity: np.ndarray
    """(..., T, V, K): first-order bound on |dy| for relative perturbations of size 1 of W A and W d"""

    def tolerance(self, eps: float, factor: float = 10.0) -> np.ndarray:
        """The error that a backward stable solver may have in arithmetic of precision eps, per entry of y."""
        return factor * eps * self.sensitivity


def solve(*arguments: np.ndarray, extended: bool = False, **options: Any) -> Oracle:
    """The oracle for the arguments of `smnn_core.solve_ode`, given as float64 NumPy arrays.

    Args:
        extended: refine y with residuals in extended precision, so that its error is that of the data, not that of
            float64 arithmetic (Bjorck, BIT 7 (1967) 257). Where long double is no wider than double it gains little.
    """
    A, d = smnn.dense_system(*arguments, **options)
    assert A.dtype == np.float64
    coefficients = arguments[0]
    T = _number_of_points(A, coefficients)
    flat_A, flat_d = A.reshape(-1, *A.shape[-2:]), d.reshape(-1, d.shape[-1])
    members = [_solve_one(a, b, extended) for a, b in zip(flat_A, flat_d, strict=True)]
    core = (T, *coefficients.shape[-2:])
    y, condition, sensitivity = (np.array(x) for x in zip(*members, strict=True))
    batch = d.shape[:-1]
    return Oracle(
        y.reshape(*batch, *core), condition.reshape(batch).astype(np.float64), sensitivity.reshape(*batch, *core)
    )


def normal_matrix(*arguments: np.ndarray, **options: Any) -> np.ndarray:
    """M = A^T W^2 A, (..., N, N) with N = T*V*K, in float64."""
    A, _ = smnn.dense_system(*arguments, **options)
    return np.swapaxes(A, -1, -2) @ A


def _number_of_points(A: np.ndarray, coefficients: np.ndarray) -> int:
    return A.shape[-1] // (coefficients.shape[-2] * coefficients.shape[-1])


def _solve_one(A: np.ndarray, d: np.ndarray, extended: bool) -> tuple[np.ndarray, float, np.ndarray]:
    norms = np.linalg.norm(A, axis=0)
    norms[norms == 0] = 1.0
    A = A / norms
    singular_values = np.linalg.svd(A, compute_uv=False)
    if A.shape[0] < A.shape[1] or singular_values[-1] <= singular_values[0] * A.shape[1] * np.finfo(np.float64).eps:
        return np.full(A.shape[1], np.nan), np.inf, np.full(A.shape[1], np.inf)
    Q, R = np.linalg.qr(A)
    x = np.linalg.solve(R, Q.T @ d)
    if extended:
        x = _refine(A, d, Q, R, x)
    largest, condition = singular_values[0], singular_values[0] / singular_values[-1]
    r = np.linalg.norm(d - A @ x)
    # Higham, Accuracy and Stability of Numerical Algorithms, theorem 20.1, as an absolute bound.
    bound = condition * (2 * np.linalg.norm(x) + (condition + 1) * r / largest)
    return x / norms, condition, np.asarray(bound / norms, dtype=np.float64)


def _refine(A: np.ndarray, d: np.ndarray, Q: np.ndarray, R: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Iterative refinement of [I A; A^T 0] [r; x] = [d; 0], residuals in long double, corrections in double."""
    A, d, x = (z.astype(np.longdouble) for z in (A, d, x))
    r = d - A @ x
    for _ in range(4):
        f = (d - r - A @ x).astype(np.float64)
        g = (-(A.T @ r)).astype(np.float64)
        h = np.linalg.solve(R.T, g)
        Qf = Q.T @ f
        r = r + (f - Q @ Qf + Q @ h)
        x = x + np.linalg.solve(R, Qf - h)
    return x
