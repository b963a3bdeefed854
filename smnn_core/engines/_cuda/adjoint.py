"""Gradients: λ = M^-1 g, what refines λ and y, and the contraction of these.

A λ and A y - d have lost digits to cancellation, which A M^-1 (g - A^T W^2 A λ) and A M^-1 A^T W^2 (d - A y) give back:
`smnn_core/_augmented.py` says why. What is refined are these products; each correction is multiplied by A before it is
added, since the sum of λ and a correction would be rounded.

The CPU engine refines where it must, and leaves members whose rows differ so much in size that this is not enough to
the array API engine. Here that would mean to wait for the device. All are refined up to four times instead, while
kernels leave out what is settled, by numbers that they themselves have left; where that does not help, gradients are
NaN. The launches are the same whatever the numbers. y and λ are the two sides of each:

    forward (λ)    refine    [ forward    refine ] x 4    contract                   where time is not divided,
    forward (λ)    chains    [ refine    chains ] x 4    refine    contract          where it is,

since `refine` substitutes back, takes the result into products and changes, finds the next right-hand side, and, in
chunks, goes on with R^T w = g: without chunks it is known by then what is settled, and left out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .layout import FIELDS, N_GRADIENTS, SIDES, SIZES
from .plan import Kind

if TYPE_CHECKING:
    from .host import Call

REFINEMENTS = 4
"""At most."""

Y, TOTAL, REST = (FIELDS.index(name) for name in ("y", "total", "rest"))
OF_LAMBDA = 1
"""Numbers of arrays, and of a side."""


def gradients(call: Call, wanted: tuple[bool, ...]) -> None:
    """Of a call that has the factor, in the order of `FIELDS`; those that are not wanted are not written."""
    planner, system, job = call.planner, call.system, call.job[0]
    # the change of y and λ, and the right-hand sides of what refines them
    shape = SIDES, *call.batch, system.n_steps, system.V, system.K
    total, rest = (planner.take(Kind.SCRATCH, shape, call.dtype) for _ in range(2))
    y = call.arrays[Y]
    assert y is not None
    call.lay_out([total[0], y, rest[0]])
    call.inputs["side"][[TOTAL, REST]] = total.size // SIDES
    call.place({})
    job["total"]["data"] = total.address
    n_rows = system.Q + system.n * (2 if call.module.extra_rows else 1)
    products = -(-call.sizes[0] // call.chunks), n_rows, SIDES * call.lanes
    job["products"] = planner.take(Kind.SCRATCH, products, call.dtype).address
    sizes = planner.take(Kind.ZEROS, (REFINEMENTS + 1, SIDES, SIZES, call.count), call.dtype)
    # (at first λ alone: y as it is given takes the place of a solution)
    call.choose(OF_LAMBDA, 1)
    call.forward()
    for k in range(REFINEMENTS + 1):
        call.choose(0, SIDES, sizes[k - 1] if k else None)
        if k and not call.chunked:
            call.place({"g": REST})
            call.forward()
        call.place({"given": None} if k else {"total": None})
        job["sizes"] = sizes[k].address
        if k == REFINEMENTS:
            job["passed"] = 0
        call.launch("refine", rest)
        if k < REFINEMENTS:
            call.choose(0, SIDES, sizes[k])
            call.solve_chains()
    _take_results(call, wanted)
    call.choose(0, 1)
    call.place({})
    call.launch("contract")


def _take_results(call: Call, wanted: tuple[bool, ...]) -> None:
    """Room for gradients, summed over the points of each lane where an input is constant in time."""
    initial = FIELDS.index("initial_values"), FIELDS.index("weights.initial")
    for f, core in enumerate(call.cores[:N_GRADIENTS]):
        out = call.job[0]["gradient"][f]
        if not wanted[f]:
            out["over_time"] = True  # (nothing is written before the end of a lane, and then nowhere)
            continue
        x, (times, *inner) = call.arrays[f], core
        assert x is not None
        over_time = f not in initial and times > 1 and (x.ndim < len(core) or x.shape[-len(core)] == 1)
        shape = *call.batch, call.chunks if over_time else times, *inner
        out["data"], out["over_time"] = call.planner.take(Kind.RESULT, shape, call.dtype).address, over_time
