"""Memory of the compiled engine: arrays without elements, stacks of threads."""

from __future__ import annotations

import threading

import numpy as np
import pytest

import smnn_core as smnn
from smnn_core.engines import cpu

pytestmark = pytest.mark.skipif(cpu._kernels is None, reason="the kernels are not compiled here")


@pytest.mark.parametrize("V", [1, 4, 32])
def test_initial_values_without_orders(V: int) -> None:
    """A time point of (V, 0) initial values has no entries to lay out."""
    c = np.zeros((1, V, V, 2))
    c[0, range(V), range(V), 0] = 1
    for _ in range(100):
        y = smnn.solve_ode(c, np.ones((1, V)), np.zeros((1, V, 0)), 0.1, n_steps=5)
    np.testing.assert_allclose(y[..., 0], 1)


@pytest.mark.parametrize("sizes", [(40, 2, 3), (300, 3, 3), (200, 32, 2)])
def test_a_thread_with_a_small_stack(sizes: tuple[int, int, int]) -> None:
    """Scratch memory of kernels comes from the heap: 128 KiB of stack serve Python, NumPy and them."""
    T, V, K = sizes
    rng = np.random.default_rng(0)
    c, b, u = rng.uniform(1, 2, (4, T, V, V, K)), np.zeros((T, V)), np.ones((1, V, K - 1))
    shapes = []

    def work() -> None:
        y, vjp = smnn.solve_ode_vjp(c, b, u, 0.1)
        shapes.append(y.shape)
        shapes.append(vjp(y).coefficients.shape)

    before = threading.stack_size(128 * 1024)
    try:
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    finally:
        threading.stack_size(before)
    assert shapes == [(4, T, V, K), c.shape]
