"""Memory of the compiled engine: arrays without elements, stacks of threads; and calls that are interrupted."""

from __future__ import annotations

import signal
import threading
import time

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


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no timers that send signals")
@pytest.mark.parametrize("what", ["solution", "gradients", "variances"])
def test_signals_interrupt_a_long_call(what: str) -> None:
    """As Ctrl-C does: what the handler raises, well before the call would have ended; later calls are as any."""
    T, V, K = 20_000, 4, 3
    rng = np.random.default_rng(0)
    c, b, u = rng.uniform(1, 2, (2, T, V, V, K)), np.zeros((T, V)), np.ones((1, V, K - 1))
    y, vjp = smnn.solve_ode_vjp(c, b, u, 0.1)
    call = {
        "solution": lambda: smnn.solve_ode(c, b, u, 0.1),
        "gradients": lambda: vjp(y),
        "variances": lambda: smnn.posterior(c, b, u, 0.1).variance,
    }[what]

    def handler(*_: object) -> None:
        raise InterruptedError("stop")

    start = time.monotonic()
    call()
    whole = time.monotonic() - start
    before = signal.signal(signal.SIGALRM, handler)
    try:
        start = time.monotonic()
        signal.setitimer(signal.ITIMER_REAL, 0.2 * whole)
        with pytest.raises(InterruptedError, match="stop"):
            call()
        assert time.monotonic() - start < 0.8 * whole
    finally:
        signal.signal(signal.SIGALRM, before)
    assert np.isfinite(smnn.solve_ode(c[0, :10], b[:10], u, 0.1)).all()
