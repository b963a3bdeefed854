"""Gradients: λ = M^-1 g, what refines λ and y, and the contraction of these.

A λ and A y - d have lost digits to cancellation, which A M^-1 (g - A^T W^2 A λ) and A M^-1 A^T W^2 (d - A y) give back:
`smnn_core/_gradient.py` says why. What is refined are these products; each correction is multiplied by A before it is
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

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..._arrays import Array, sum_to_shape
from ..._problem import Gradients, Problem
from .._interface import by_field, from_fields
from .layout import FIELDS, N_GRADIENTS, SIDES, SIZES

if TYPE_CHECKING:
    from .host import Call, Device

REFINEMENTS = 4
"""At most."""


@dataclass(frozen=True)
class States:
    """Arrays of the shape of the solution, or of both sides, (2, ...)."""

    y: Array
    g: Array
    total: Array
    """the change of y, and λ"""
    rest: Array
    """the right-hand sides of what refines them"""

    @classmethod
    def of(cls, device: Device, problem: Problem, y: Array, g: Array) -> States:
        system = problem.system
        shape = (SIDES, *problem.batch, system.n_steps, system.V, system.K)
        dtype = "float32" if system.dtype == system.xp.float32 else "float64"
        return cls(y, g, device.empty(shape, dtype), device.empty(shape, dtype))

    @property
    def arrays(self) -> tuple[Array, ...]:
        """As `layout.STATES` names them."""
        return self.y, self.g, self.total[0, ...], self.y, self.rest[0, ...]


TOTAL, REST = FIELDS.index("total"), FIELDS.index("rest")
OF_LAMBDA = 1
"""Numbers of arrays, and of a side."""


def gradients(call: Call, states: States, inputs: Sequence[Array], wanted: Gradients) -> Gradients:
    """Of a call that has the factor."""
    device, job, n_rows = call.device, call.job[0], call.system.Q + call.system.n * (2 if call.module.extra_rows else 1)
    size = states.total[0, ...].size if call.count else 0
    call.inputs["side"][[TOTAL, REST]] = size
    job["total"]["data"] = device.address(states.total)
    products = device.empty((-(-call.sizes[0] // call.chunks), n_rows, SIDES * call.lanes), call.dtype)
    sizes = device.zeros((REFINEMENTS + 1, SIDES, SIZES, call.count), call.dtype)
    job["products"] = device.address(products)
    # (at first λ alone: y as it is given takes the place of a solution)
    call.choose(OF_LAMBDA, 1)
    call.place({})
    call.forward()
    for k in range(REFINEMENTS + 1):
        last = sizes[k - 1, ...] if k else None
        call.choose(0, SIDES, last)
        if k and not call.chunked:
            call.place({"g": REST})
            call.forward()
        call.place({"given": None} if k else {"total": None})
        job["sizes"] = device.address(sizes[k, ...])
        if k == REFINEMENTS:
            job["passed"] = 0
        call.launch("refine", states.rest)
        if k < REFINEMENTS:
            call.choose(0, SIDES, sizes[k, ...])
            call.solve_chains()
    buffers = list(_buffers(call))
    call.choose(0, 1)
    call.place({})
    call.launch("contract")
    return from_fields(
        sum_to_shape(call.device.xp, buffer, tuple(x.shape)) if take else None
        for buffer, x, take in zip(buffers, inputs, by_field(wanted), strict=True)
    )


def _buffers(call: Call) -> Iterator[Array]:
    """Room for gradients, summed over the points of each lane where an input is constant in time."""
    initial = FIELDS.index("initial_values"), FIELDS.index("weights.initial")
    for f, core in enumerate(call.cores[:N_GRADIENTS]):
        x = call.arrays[f]
        times, *inner = core
        over_time = f not in initial and times > 1 and (x.ndim < len(core) or x.shape[-len(core)] == 1)
        shape = (*call.batch, call.chunks if over_time else times, *inner)
        # (nothing is written to the gradients of an empty batch)
        buffer = call.device.result(shape, call.dtype) if call.count else call.device.zeros(shape, call.dtype)
        call.job[0]["gradient"][f]["data"] = call.device.address(buffer)
        call.job[0]["gradient"][f]["over_time"] = over_time
        yield buffer
