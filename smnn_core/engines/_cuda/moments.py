"""Moments of the posterior by one sweep for each system (`moments.cu`), in float64."""

from __future__ import annotations

import math

import numpy as np

from ..._arrays import Array, Shape, sum_to_shape
from ..._problem import Rows, System
from .._increments import increment_rows
from .._interface import inputs_by_field
from .._moments import Moments
from .host import Signature
from .layout import lay_out, moments_job
from .plan import Device, Kind, Layout, Planner, described
from .source import MomentsModule

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


FORWARD = Moments._fields.index("log_determinant"), Moments._fields.index("minimum")
"""What elimination leaves, of the moments in order: all others take the way back."""
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
    which = tuple(map(bool, wanted.in_order))
    held, layouts, given = described(device, inputs_by_field(system, b, u), 8)
    plan = device.plans(_lay_out, Signature.of(system), batch, layouts, which)
    bad = device.zeros(batch, np.dtype(bool))  # (a copy of a broadcast array may keep its order)
    bad[...] = xp.any(undetermined, axis=-1)
    results = iter(plan.run(device, [*given, device.address(bad)]).results)
    del held
    # (the kernel has a gradient for each time and entry: what inputs share is summed)
    own = Moments.cores(system, d)
    return Moments.of(
        [
            sum_to_shape(xp, next(results), (*batch, *core)) if take else None
            for take, core in zip(which, own, strict=True)
        ]
    )


def _lay_out(
    planner: Planner, system: Signature, batch: Shape, layouts: tuple[Layout | None, ...], wanted: tuple[bool, ...]
) -> None:
    """The one launch. After the arrays, a bool for each system is given: whether it is undetermined."""
    arrays = [None if x is None else planner.given(x, "float64") for x in layouts]
    bad = planner.take(Kind.GIVEN, batch, "bool")
    T, V, K, Q, n = system.n_steps, system.V, system.K, system.Q, system.n
    initial = system.n_initial_steps, V, system.n_initial_orders
    of_inputs = (T, Q, V, K), (T, Q), initial, (T - 1,), (T, Q), initial, (T - 1,)
    cores = (T, n, n), (T - 1, n, n), (T, n), (), (), *of_inputs, *of_inputs
    found = [
        planner.take(Kind.RESULT, (*batch, *core), "float64") if want else None
        for want, core in zip(wanted, cores, strict=True)
    ]
    if not math.prod(batch):
        return
    job = np.zeros(1, moments_job())
    job[0]["systems"]["bad"] = bad.address
    job["in"] = lay_out(batch, arrays, of_inputs, job[0]["systems"])
    job["results"] = [0 if x is None else x.address for x in found]
    job["V"], job["K"], job["Q"], job["points"] = V, K, Q, T
    job["T_init"], job["R_init"] = system.n_initial_steps if system.n_initial_orders else 0, system.n_initial_orders
    job["increments"][0, : K * K] = increment_rows(system.scheme, K)[1].ravel()
    threads = min(math.prod(batch), planner.grain.lanes)
    segment, room = _segments(T - 1, n, threads)
    job["threads"], job["segment"] = threads, segment
    if any(take for i, take in enumerate(wanted) if i not in FORWARD):  # goes back, by what elimination has kept
        for name, size in zip(("factor", "checkpoints"), room, strict=True):
            job[name] = planner.take(Kind.SCRATCH, (size, threads), "float64").address
    planner.launch(MomentsModule(V, K, Q), "smnn_moments", threads, job)


def _segments(steps: int, n: int, threads: int) -> tuple[int, Shape]:
    """Steps of a segment, and the numbers that a thread keeps: of the steps of one, and of what goes into each."""
    entries, carried = 2 * n * n + 2 * n + 2, n * (n + 1)  # `CovarianceSizes`
    segment = max(steps, 1)
    if 8 * threads * segment * entries > MEMORY:  # the length at which both together are least
        segment = min(max(math.isqrt(steps * carried // entries), 1), segment)
    return segment, (segment * entries, -(-max(steps, 1) // segment) * carried)
