"""The kernel of fits: a linearised fit against dense least squares."""

from __future__ import annotations

import numpy as np
import pytest

import smnn_core as smnn
from smnn_core.discovery import _projection as vp
from smnn_core.fitting._estimate import estimate

B, T, Q, V, K, P = 3, 24, 2, 2, 3, 4


def linear_fit(seed: int = 0) -> vp.LinearFit:
    rng = np.random.default_rng(seed)
    observed = rng.random((B, T, V, 1)) < 0.6
    return vp.LinearFit(
        coefficients=rng.normal(size=(B, T, Q, V, K)),
        rhs=rng.normal(size=(B, T, Q)),
        columns=rng.normal(size=(B, T, Q, P)),
        data=rng.normal(size=(B, T, V, 1)),
        step_sizes=rng.uniform(0.1, 0.3, size=(1, T - 1)),
        weights=smnn.Weights(3.0, 5.0 * observed, 30.0),
    )


def dense(fit: vp.LinearFit, b: int) -> tuple[np.ndarray, np.ndarray]:
    """The rows W [A B] of one member, whose unknowns are y and δ, and W d."""
    weights = smnn.Weights(fit.weights.equation, fit.weights.initial[b], fit.weights.smoothness)
    A, d = smnn.dense_system(
        fit.coefficients[b], fit.rhs[b], fit.data[b], fit.step_sizes[0], scheme=smnn.HERMITE, weights=weights
    )
    columns = np.zeros((len(A), P))
    columns[: T * Q] = 3.0 * fit.columns[b].reshape(-1, P)
    return np.hstack([A, columns]), d


@pytest.mark.parametrize("blocks", [None, 1 << 11])
def test_step_is_the_minimiser_over_trajectory_and_parameters(blocks, monkeypatch):
    if blocks:  # solutions in several calls, rows in several pieces
        monkeypatch.setattr(vp, "COLUMN_BYTES", blocks)
        monkeypatch.setattr(vp, "BLOCK_BYTES", blocks)
    fit = linear_fit()
    projection = vp.project(fit, scheme=smnn.HERMITE)
    change = estimate(projection.gram).change
    y = projection.trajectory(change)
    for b in range(B):
        A, d = dense(fit, b)
        x = np.linalg.lstsq(A, d)[0]
        np.testing.assert_allclose(change[b], x[-P:], rtol=1e-9, atol=1e-11)
        np.testing.assert_allclose(y[b].ravel(), x[:-P], rtol=1e-9, atol=1e-9)


def test_gram_matrix_gives_the_minimum_and_the_covariance():
    fit = linear_fit()
    gram = vp.project(fit, scheme=smnn.HERMITE).gram
    result = estimate(gram)
    for b in range(B):
        A, d = dense(fit, b)
        r = A @ np.linalg.lstsq(A, d)[0] - d
        np.testing.assert_allclose(gram[b, 0, 0] + gram[b, 0, 1:] @ result.change[b], r @ r, rtol=1e-9)
        covariance = np.linalg.inv(A.T @ A)[-P:, -P:]
        np.testing.assert_allclose(result.covariance[b], covariance, rtol=1e-7, atol=1e-9)


def test_singular_member_leaves_the_others():
    fit = linear_fit()
    fit.coefficients[1] = 0.0
    fit.weights.initial[1] = 0.0
    gram = vp.project(fit, scheme=smnn.HERMITE).gram
    assert np.isnan(gram[1]).all()
    fit = linear_fit()
    np.testing.assert_allclose(gram[::2], vp.project(fit, scheme=smnn.HERMITE).gram[::2], rtol=1e-12)


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
