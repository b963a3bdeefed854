"""Systems are called singular only if they are: pivots are measured against the rounding errors that entered them."""

from __future__ import annotations

import numpy as np
import pytest

import smnn_core as smnn
from benchmarks import singular
from smnn_core.engines import cpu

pytestmark = pytest.mark.skipif(cpu._kernels is None, reason="the kernels are not compiled here")


@pytest.mark.parametrize("evidence", [False, True], ids=["", "evidence"])
def test_singular_systems_are_refused(evidence: bool) -> None:
    cases = singular.draw_singular(100, seed=1, largest=100)
    assert [str(case) for case in cases if not singular.is_refused(case, "cpu", evidence)] == []


@pytest.mark.parametrize(("order", "shortest"), [(3, 1e-9), (4, 1e-7), (5, 1e-5)])
@pytest.mark.parametrize("scheme", [smnn.TAYLOR, smnn.HERMITE], ids=lambda s: s.name)
def test_short_steps_are_solved(order: int, shortest: float, scheme: smnn.Scheme) -> None:
    """y^(order) = 1 from zero: y = t^order / order!, which every scheme represents."""
    c = np.zeros((1, 1, 1, order + 1))
    c[..., order] = 1.0
    s = np.full(7, shortest)
    y = smnn.solve_ode(c, np.ones((1, 1)), np.zeros((1, 1, order)), s, scheme=scheme, engine="cpu")
    t = np.concatenate([[0.0], np.cumsum(s)])
    np.testing.assert_allclose(y[:, 0, -2], t, rtol=1e-6, atol=1e-7 * shortest)
    np.testing.assert_allclose(y[:, 0, -1], 1.0, rtol=1e-6)


def test_weights_over_many_orders_of_magnitude_are_solved() -> None:
    """Smoothness rows across steps from 1e-4 to 1, which the scheme weights with s^-(R + 1/2): y''' = 6, y = t^3."""
    R, s = 4, np.geomspace(1e-4, 1.0, 40)
    c = np.zeros((1, 1, 1, R + 1))
    c[..., 3] = 1.0
    y = smnn.solve_ode(c, np.full((1, 1), 6.0), np.zeros((1, 1, 3)), s, scheme=smnn.HERMITE, engine="cpu")
    t = np.concatenate([[0.0], np.cumsum(s)])
    np.testing.assert_allclose(y[:, 0, 0], t**3, rtol=1e-6, atol=1e-6 * t[-1] ** 3)
    np.testing.assert_allclose(y[:, 0, 3], 6.0, rtol=1e-6)


def test_a_large_batch_with_small_pivots_names_the_singular_member() -> None:
    """Short steps, so that every member has small pivots; one of them has no equations."""
    c = np.zeros((40, 1, 1, 1, 4))
    c[..., 3] = 1.0
    c[17] = 0.0
    with pytest.raises(smnn.SingularSystemError) as caught:
        smnn.solve_ode(c, np.ones((5, 1)), np.zeros((1, 1, 3)), np.full(4, 1e-8), engine="cpu")
    assert caught.value.batch_index == (17,)
