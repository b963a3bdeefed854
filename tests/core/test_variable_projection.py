"""The kernel of fits: a linearised fit against dense least squares."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.linalg import block_diag

import smnn_core as smnn
from smnn_core.discovery import _projection
from smnn_core.discovery._projection import LinearFit
from smnn_core.fitting._estimate import estimate

B, T, V, K, TERMS = 3, 24, 2, 3, 4
PLACES = np.argwhere(np.ones((TERMS, V)))[[0, 1, 3, 6]]
P = len(PLACES)


def linear_fit(seed: int = 0) -> LinearFit:
    rng = np.random.default_rng(seed)
    observed = rng.random((B, T, V, 1)) < 0.6
    return LinearFit(
        coefficients=rng.normal(size=(B, T, V, V, K)),
        rhs=rng.normal(size=(B, T, V)),
        library=rng.normal(size=(B, T, TERMS)),
        scale=np.array([0.5, 2.0]),
        data=rng.normal(size=(B, T, V, 1)),
        step_sizes=rng.uniform(0.1, 0.3, size=(1, T - 1)),
        weights=smnn.Weights(3.0, 5.0 * observed, 30.0),
    )


def dense(fit: LinearFit) -> tuple[np.ndarray, np.ndarray]:
    """The rows W [A -B] of all trajectories, whose unknowns are their y and ξ, and W d."""
    sides, columns, right = [], [], []
    for b in range(B):
        weights = smnn.Weights(fit.weights.equation, fit.weights.initial[b], fit.weights.smoothness)
        A, d = smnn.dense_system(
            fit.coefficients[b], fit.rhs[b], fit.data[b], fit.step_sizes[0], scheme=smnn.HERMITE, weights=weights
        )
        of_terms = np.zeros((len(A), P))
        for j, (k, q) in enumerate(PLACES):
            of_terms[q : T * V : V, j] = -3.0 * fit.scale[q] * fit.library[b, :, k]
        sides, columns, right = [*sides, A], [*columns, of_terms], [*right, d]
    return np.hstack([block_diag(*sides), np.concatenate(columns)]), np.concatenate(right)


@pytest.mark.parametrize("bytes_of_columns", [None, 1 << 11])
def test_step_is_the_minimiser_over_trajectories_and_coefficients(bytes_of_columns, monkeypatch):
    if bytes_of_columns:  # solutions in several calls
        monkeypatch.setattr(_projection, "COLUMN_BYTES", bytes_of_columns)
    fit = linear_fit()
    change = estimate(fit.gram(PLACES)[None]).change[0]
    A, d = dense(fit)
    x = np.linalg.lstsq(A, d)[0]
    np.testing.assert_allclose(change, x[-P:], rtol=1e-9, atol=1e-11)
    ξ = np.zeros((TERMS, V))
    ξ[tuple(PLACES.T)] = change
    y, r = fit.left(ξ)
    np.testing.assert_allclose(y.ravel(), x[:-P], rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(sum((x**2).sum() for x in r), ((A @ x - d) ** 2).sum(), rtol=1e-9)


def test_gram_matrix_gives_the_minimum_and_the_covariance():
    fit = linear_fit()
    gram = fit.gram(PLACES)
    result = estimate(gram[None])
    A, d = dense(fit)
    r = A @ np.linalg.lstsq(A, d)[0] - d
    np.testing.assert_allclose(gram[0, 0] + gram[0, 1:] @ result.change[0], r @ r, rtol=1e-9)
    covariance = np.linalg.inv(A.T @ A)[-P:, -P:]
    np.testing.assert_allclose(result.covariance[0], covariance, rtol=1e-7, atol=1e-9)


def test_an_equation_by_itself_is_that_of_one_variable_with_the_others_held():
    fit = linear_fit()
    y = np.random.default_rng(1).normal(size=(B, T, V, K))
    own = fit.of_equation(1, y)
    others = np.einsum("btk,btk->bt", fit.coefficients[:, :, 1, 0, :], y[:, :, 0, :])
    np.testing.assert_allclose(own.rhs[..., 0], fit.rhs[..., 1] - others, rtol=1e-12)
    np.testing.assert_array_equal(own.coefficients[..., 0, 0, :], fit.coefficients[:, :, 1, 1, :])
    np.testing.assert_array_equal(own.data[..., 0, :], fit.data[:, :, 1, :])


def test_a_singular_trajectory_is_not_passed_over():
    fit = linear_fit()
    fit.coefficients[1] = 0.0
    fit.weights.initial[1] = 0.0
    assert np.isnan(fit.gram(PLACES)).any()


def test_bounds_give_the_constrained_minimum():
    from scipy.optimize import lsq_linear

    rng = np.random.default_rng(1)
    r = rng.normal(size=(20, 30, 1 + P))
    lower, upper = np.full((1, P), -0.05), np.full((1, P), 0.1)
    result = estimate(np.swapaxes(r, -1, -2) @ r, lower, upper)
    for b in range(20):
        expected = lsq_linear(r[b, :, 1:], -r[b, :, 0], (lower[0], upper[0]), method="bvls", tol=1e-14)
        np.testing.assert_allclose(result.change[b], expected.x, atol=1e-9)
        np.testing.assert_array_equal(result.held[b], expected.active_mask != 0)


def test_directions_that_no_row_determines_stay_and_are_reported():
    rng = np.random.default_rng(2)
    r = rng.normal(size=(1, 30, 3))
    r[..., 2] = 2 * r[..., 1]
    result = estimate(np.swapaxes(r, -1, -2) @ r)
    assert not result.determined[0]
    assert np.abs(result.change).max() < 10
    assert (np.diagonal(result.covariance, axis1=1, axis2=2) > 1e10).all()
