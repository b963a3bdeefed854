"""Moments of the posterior by one sweep for each system (`moments.cu`), in float64."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from ..._arrays import Array, Shape, sum_to_shape
from ..._problem import Rows, System
from .._increments import increment_rows
from .._interface import inputs_by_field
from .._moments import Moments
from .layout import addressable, lay_out, moments_job
from .source import MomentsModule

if TYPE_CHECKING:
    from .host import Device

LARGEST = 9
"""Unknowns of a point. What a thread works on lies in its local memory, which drivers set aside for all threads that a
device can hold: 10 KB each, for nine unknowns, are 3 GB on a device of 132 multiprocessors, 18 KB for twelve 5 GB."""
LONGEST, MANY = 2048, 1024
"""Points and systems: where points are more and systems fewer, the array API engine, which divides time, should be
faster. A thread goes through all points of a system, some 10 us for each, there and back. The array API engine takes
some 2 ms of launches for each halving of time, as long as 200 points, and moves some 20 KB, which takes 10 ns, for each
point of each system: 1,000 systems take as long as the threads that take one each. No device has confirmed this."""
MEMORY = 1 << 28
"""Bytes of what elimination keeps for the way back; where all of it takes more, steps are eliminated again."""


FALLBACK = f"moments of more than {LARGEST} unknowns, or of fewer than {MANY} systems of more than {LONGEST} points"
"""What is left to the array API engine."""


def serves(n: int, T: int, batch: Shape) -> bool:
    """Whether the kernel is to find moments, and not the array API engine."""
    return n <= LARGEST and (T <= LONGEST or math.prod(batch) >= MANY)


def moments(device: Device, system: System, undetermined: Array, wanted: Moments, d: Rows | None = None) -> Moments:
    """Those that are wanted, in float64, NaN for undetermined members; the minimum and its gradients are those of d.

    Args:
        system: in float64.
        undetermined: bool, (*system.batch, T)
    """
    xp = device.xp
    batch = system.batch if d is None else system.batch_with(d)
    b, u = (None, None) if d is None else (d.equation, d.initial)
    arrays = [None if x is None else addressable(xp, x) for x in inputs_by_field(system, b, u)]
    bad = device.zeros(batch, "bool")  # (a copy of a broadcast array may keep its order)
    bad[...] = xp.any(undetermined, axis=-1)
    T, V, K, Q = system.n_steps, system.V, system.K, system.Q
    initial = system.n_initial_steps, V, system.n_initial_orders
    of_inputs = (T, Q, V, K), (T, Q), initial, (T - 1,), (T, Q), initial, (T - 1,)
    cores = *Moments.cores(system)[:5], *of_inputs, *of_inputs
    # (nothing is written to those of an empty batch)
    found = [
        device.result((*batch, *core), "float64") if want else None
        for want, core in zip(wanted.in_order, cores, strict=True)
    ]
    if math.prod(batch):
        job = np.zeros(1, moments_job())
        job[0]["systems"]["bad"] = device.address(bad)
        job["in"] = lay_out(device.address, batch, arrays, of_inputs, job[0]["systems"])
        job["results"] = [0 if x is None else device.address(x) for x in found]
        job["V"], job["K"], job["Q"], job["points"] = V, K, Q, T
        job["T_init"], job["R_init"] = system.n_initial_steps if system.n_initial_orders else 0, system.n_initial_orders
        job["increments"][0, : K * K] = increment_rows(system.scheme, K)[1].ravel()
        threads = min(math.prod(batch), device.grain.lanes)
        segment, room = _segments(T - 1, system.n, threads)
        job["threads"], job["segment"] = threads, segment
        kept = [device.empty((size, threads), "float64") for size in room if _goes_back(wanted)]
        for name, x in zip(("factor", "checkpoints"), kept, strict=False):
            job[name] = device.address(x)
        device.launch(MomentsModule(V, K, Q), "smnn_moments", threads, job)
    # (the kernel has a gradient for each time and entry: what inputs share is summed)
    own = Moments.cores(system, d)
    return Moments.of(
        [x if x is None else sum_to_shape(xp, x, (*batch, *core)) for x, core in zip(found, own, strict=True)]
    )


def _goes_back(wanted: Moments) -> bool:
    """Whether more is wanted than what elimination leaves."""
    return any(wanted._replace(log_determinant=None, minimum=None).in_order)


def _segments(steps: int, n: int, threads: int) -> tuple[int, Shape]:
    """Steps of a segment, and the numbers that a thread keeps: of the steps of one, and of what goes into each."""
    entries, carried = 2 * n * n + 2 * n + 2, n * (n + 1)  # `CovarianceSizes`
    segment = max(steps, 1)
    if 8 * threads * segment * entries > MEMORY:  # the length at which both together are least
        segment = min(max(math.isqrt(steps * carried // entries), 1), segment)
    return segment, (segment * entries, -(-max(steps, 1) // segment) * carried)
