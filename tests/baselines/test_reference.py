"""The extended-precision solution that `benchmarks.accuracy` measures against."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch", reason="the baselines have parts for PyTorch")

import smnn_core as smnn
from benchmarks import reference
from benchmarks.baselines import dense_least_squares

pytestmark = pytest.mark.skipif(
    np.finfo(np.longdouble).eps > 1e-18, reason="numpy.longdouble is no wider than float64 on this platform"
)


@pytest.mark.parametrize("scheme", [smnn.TAYLOR, smnn.HERMITE], ids=lambda s: s.name)
def test_reference_is_the_least_squares_solution(scheme):
    rng = np.random.default_rng(0)
    c, b = rng.standard_normal((2, 9, 2, 2, 3)), rng.standard_normal((2, 9, 2))
    u, s = rng.standard_normal((2, 2, 2, 2)), rng.uniform(0.5, 1.5, (2, 8))
    y, own_error = reference.solve(c, b, u, s, scheme)
    A, _ = smnn.dense_system(c, b, u, s, scheme=scheme)
    difference = np.abs(y - dense_least_squares(c, b, u, s, scheme=scheme)).max() / np.abs(y).max()
    assert difference <= 100 * np.linalg.cond(A).max() * np.finfo(float).eps
    assert own_error <= 100 * np.linalg.cond(A).max() * np.finfo(np.longdouble).eps


def test_refinement_reaches_far_below_float64_on_an_ill_conditioned_problem():
    """On problems of which float64 may lose five digits, the reference is better than its epsilon."""
    T = 60
    c = np.broadcast_to([1.0, 1.0, 1.0, 1.0], (1, T, 1, 1, 4))
    b, u, s = np.zeros((1, T, 1)), np.array([[[[1.0, 0.0, 0.0]]]]), np.full((1, T - 1), 0.01)
    A, _ = smnn.dense_system(c, b, u, s)
    assert np.linalg.cond(A).max() > 1e5
    _, own_error = reference.solve(c, b, u, s)
    assert own_error < np.finfo(float).eps
