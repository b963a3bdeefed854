"""Memory of the compiled engine: arrays without elements, stacks of threads; and calls that are interrupted."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable

import numpy as np
import pytest

import smnn_core as smnn
from smnn_core.engines import cpu

# Seconds from the start of a call to the signal: a call asks every 0.05 s.
UNTIL_SIGNAL = 0.1

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
    """As Ctrl-C does: what the handler raises, with most of the work undone; later calls are as any."""
    T, V, K = 3_000, 24, 2
    rng = np.random.default_rng(0)
    c, u = rng.uniform(1, 2, (T, V, V, K)), np.ones((1, V, K - 1))

    def call_for(n_blocks: int) -> Callable[[], object]:
        c_long, b = np.tile(c, (n_blocks, 1, 1, 1)), np.zeros((n_blocks * T, V))
        if what == "variances":
            return lambda: smnn.posterior(c_long, b, u, 0.1).variance
        if what == "solution":
            return lambda: smnn.solve_ode(c_long, b, u, 0.1)
        y, vjp = smnn.solve_ode_vjp(c_long, b, u, 0.1)
        return lambda: vjp(y)

    def handler(*_: object) -> None:
        raise InterruptedError("stop")

    call_for(1)()  # (first calls load modules and start threads)
    n_blocks = 1
    while True:
        call = call_for(n_blocks)
        start, start_cpu = time.monotonic(), time.process_time()
        call()
        whole, whole_cpu = time.monotonic() - start, time.process_time() - start_cpu
        if min(whole, whole_cpu) > 5 * UNTIL_SIGNAL or n_blocks == 32:
            break
        n_blocks *= 2
    before = signal.signal(signal.SIGALRM, handler)
    try:
        start_cpu = time.process_time()
        signal.setitimer(signal.ITIMER_REAL, UNTIL_SIGNAL)
        with pytest.raises(InterruptedError, match="stop"):
            call()
        assert time.process_time() - start_cpu < 0.7 * whole_cpu
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert np.isfinite(smnn.solve_ode(c[:10], np.zeros((10, V)), u, 0.1)).all()
