"""`solve` with many variables: sparse Jacobians, banded systems."""

from __future__ import annotations

import numpy as np
import pytest

import smnn_core as smnn
from smnn_core.trajectory import _sparse
from smnn_core.trajectory._sparse import Pattern


def heat(V, order=None, sparse=True):
    """u_t = u_xx by lines between zeros, the points in some order: residual, the eigenvalue of the first sine wave, and
    this wave."""
    order = np.arange(V) if order is None else order
    place, h = np.argsort(order), 1 / (V + 1)
    i = np.arange(V)
    rows, columns = np.concatenate([i, i[1:], i[:-1]]), np.concatenate([i, i[:-1], i[1:]])
    A = np.zeros((V, V))
    A[place[rows], place[columns]] = np.repeat([2.0, -1.0, -1.0], [V, V - 1, V - 1]) / h**2
    rows, columns = np.nonzero(A)
    J = smnn.SparseJacobian(
        np.append(rows, i),
        np.append(columns, i),
        np.repeat([0, 1], [len(rows), V]),
        np.append(A[rows, columns], np.ones(V))[None],
    )

    def residual(t, y):
        return y[..., 1] + y[..., 0] @ A.T, J if sparse else J.dense(V, V, 2)

    return residual, 4 / h**2 * np.sin(np.pi * h / 2) ** 2, np.sin(np.pi * h * (order + 1))


@pytest.mark.parametrize("sparse", [True, False])
def test_heat_by_lines_in_any_order(sparse):
    order = np.random.default_rng(0).permutation(60)
    residual, λ, wave = heat(60, order, sparse)
    s = smnn.solve(residual, [0, 0.1], wave[:, None], tolerance=1e-8)
    assert s.converged
    assert np.abs(s([0.1])[0, :, 0] - np.exp(-0.1 * λ) * wave).max() < 1e-8


def test_costs_are_proportional_to_variables():
    """3,000 of them: a dense J of one window would take 4 GB."""
    residual, λ, wave = heat(3000)
    s = smnn.solve(residual, [0, 0.01], wave[:, None], tolerance=1e-4)
    assert np.abs(s([0.01])[0, :, 0] / wave / np.exp(-0.01 * λ) - 1).max() < 1e-4


@pytest.mark.parametrize("dtype", [float, complex])
@pytest.mark.parametrize("scipy", [True, False])
@pytest.mark.parametrize("half", [2, 30])
def test_factors_solve_systems_in_any_order(half, scipy, dtype, monkeypatch):
    monkeypatch.setattr(_sparse, "_has_scipy", lambda: scipy)
    V, count, rng = 50, 3, np.random.default_rng(0)
    order, i = rng.permutation(V), np.arange(V)
    rows, columns = np.nonzero(np.abs(i[:, None] - i) <= half)
    rows, columns = np.append(order[rows], i), np.append(order[columns], i)  # the diagonal twice
    entries = rng.standard_normal((count, len(rows))).astype(dtype)
    if dtype is complex:
        entries += 1j * rng.standard_normal(entries.shape)
    A = np.zeros((count, V, V), dtype)
    np.add.at(A, (slice(None), rows, columns), entries)
    pattern = Pattern(V, rows, columns)
    assert pattern.is_banded == (scipy and half == 2)
    b = rng.standard_normal((count, V)).astype(dtype)
    x = np.stack([pattern.solve(factor, b[i]) for i, factor in enumerate(pattern.factor(entries))])
    assert np.allclose(x, np.linalg.solve(A, b[..., None])[..., 0], rtol=1e-7)


def test_singular_systems_are_not_finite():
    i = np.arange(20)
    pattern = Pattern(20, i, i)
    assert not np.isfinite(pattern.solve(pattern.factor(np.zeros((1, 20)))[0], np.ones(20))).any()


@pytest.mark.parametrize("V", [3, 14])
@pytest.mark.parametrize("sparse", [True, False])
def test_jacobians_without_entries_are_singular(V, sparse):
    def residual(t, y):
        J = np.zeros((*t.shape, V, V, 2))
        return np.ones((*t.shape, V)), smnn.SparseJacobian.of(J) if sparse else J

    with pytest.warns(smnn.ConvergenceWarning, match="no step from t = 0"):
        smnn.solve(residual, [0, 1], np.ones((V, 1)), order=1)
    with pytest.raises(smnn.ArgumentError, match="does not depend on variable 0"):
        smnn.solve(residual, [0, 1], np.ones((V, 1)))


def test_sparse_jacobians_of_boundary_values():
    residual, _, _ = heat(3)
    ends = {0: [[1.0], [np.nan], [1.0]], 0.1: [[np.nan], [0.5], [np.nan]]}
    one, other = (smnn.solve(r, [0, 0.1], ends) for r in (residual, heat(3, sparse=False)[0]))
    assert np.allclose(one([0.05]), other([0.05]), rtol=1e-9)


@pytest.mark.parametrize(
    ("J", "message"),
    [
        (lambda: smnn.SparseJacobian([0, 1], [0, 2], [0, 0], np.ones((1, 2))), "outside"),
        (lambda: smnn.SparseJacobian([0, 0], [0, 0], [1, 1], np.ones((1, 2))), "two entries"),
        (lambda: smnn.SparseJacobian([0, 1], [0, 1], [0, 1], np.ones((1, 3))), "integers of shape"),
        (lambda: smnn.SparseJacobian([0.0, 1], [0, 1], [0, 1], np.ones((1, 2))), "integers of shape"),
        (lambda: smnn.SparseJacobian([0, 1], [0, 1], [0, 1], np.ones((11, 2))), "J.values"),
    ],
)
def test_wrong_entries_are_refused(J, message):
    with pytest.raises(smnn.ShapeError, match=message):
        smnn.solve(lambda t, y: (y[..., 1], J()), [0, 1], np.ones((2, 1)))
