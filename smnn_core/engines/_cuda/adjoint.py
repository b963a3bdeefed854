"""Gradients: λ = M^-1 g, what refines λ and y, and the contraction of these.

A λ and A y - d have lost digits to cancellation, which A M^-1 (g - A^T W^2 A λ) and A M^-1 A^T W^2 (d - A y) give back:
`smnn_core/_gradient.py` says why. What is refined are these products; each correction is multiplied by A before it is
added, since the sum of λ and a correction would be rounded.

The CPU engine refines once, and leaves members whose rows differ so much in size that this is not enough to the array
API engine. Here that would mean to wait for the device. Such members are refined again instead, while kernels leave out
the others, and where that does not help, their gradients are NaN.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..._arrays import Array, sum_to_shape
from ..._problem import Gradients, Problem
from .._interface import by_field, from_fields
from .layout import FIELDS, N_GRADIENTS

if TYPE_CHECKING:
    from .host import Call, Device

REFINEMENTS = 4
"""At most."""
UNSETTLED = 1e-2
"""Where the last change of the products is above this, beside the largest of their kind, gradients are NaN."""
KINDS, LARGEST = 3, 5
"""Numbers of a lane in `largest`: of equations, steps and initial values, and of what was added to the first two."""


@dataclass(frozen=True)
class States:
    """Arrays of the shape of the solution."""

    y: Array
    g: Array
    total: Array
    """the change of y, and λ, (2, ...)"""
    change: Array
    """the last one of both, (2, ...)"""
    rest: Array
    """the right-hand sides of changes, (2, ...)"""

    @classmethod
    def of(cls, device: Device, problem: Problem, y: Array, g: Array) -> States:
        system = problem.system
        shape = (2, *problem.batch, system.n_steps, system.V, system.K)
        dtype = "float32" if system.dtype == system.xp.float32 else "float64"
        return cls(y, g, device.zeros(shape, dtype), device.empty(shape, dtype), device.empty(shape, dtype))

    @property
    def arrays(self) -> tuple[Array | None, ...]:
        """As `layout.STATES` names them, and four that take the place of others."""
        (change_of_y, λ), last, rest = ((x[0, ...], x[1, ...]) for x in (self.total, self.change, self.rest))
        return self.y, self.g, change_of_y, λ, None, *last, *rest


Y, LAMBDA = FIELDS.index("y"), FIELDS.index("lambda")
LAST, REST = len(FIELDS), len(FIELDS) + 2
"""Numbers of arrays."""
OF_Y: dict[str, int | None] = {"g": None}
OF_LAMBDA: dict[str, int | None] = {"rhs": None, "initial_values": None, "y": None, "change of y": LAMBDA}
"""What `residual` is to see."""


def gradients(call: Call, states: States, inputs: Sequence[Array], wanted: Gradients) -> Gradients:
    """From a call that has solved R^T w = g."""
    call.solution(states.total[1, ...])
    n_rows = call.system.Q + call.system.n * (2 if call.module.extra_rows else 1)
    products = call.device.zeros((2, -(-call.sizes[0] // call.chunks) + 1, n_rows, call.lanes), call.dtype)
    lost = _refine(call, states, products)
    buffers = list(_buffers(call))
    call.place({})
    call.job["products"] = [call.device.address(products[i, ...]) for i in (0, 1)]
    call.job["systems"]["bad"] = call.device.address(lost)
    call.launch("contract")
    return from_fields(
        sum_to_shape(call.device.xp, buffer, tuple(x.shape)) if take else None
        for buffer, x, take in zip(buffers, inputs, by_field(wanted), strict=True)
    )


def _refine(call: Call, states: States, products: Array) -> Array:
    """Fills products, A y - d and A λ, and adds to `states.total`; whose gradients are lost, bool (*batch,)."""
    xp, device = call.device.xp, call.device
    eps = float(np.finfo(call.dtype).eps)
    largest = device.zeros((2, LARGEST, call.lanes), call.dtype)
    idle = device.zeros((2, *call.batch), "bool")
    size_of_y, size_of_λ = (xp.max(xp.abs(x), axis=(-3, -2, -1)) for x in (states.y, states.total[1, ...]))
    # what an error of d - A y is to be compared with, where that is all rounding: that of A λ has the weight of y
    ratio = size_of_y / xp.where(size_of_λ == 0, 1.0, size_of_λ)
    for k in range(REFINEMENTS + 1):
        for i, others in enumerate((OF_Y, OF_LAMBDA)):
            factor: dict[str, int | None] = {"factor": LAST + i, "rhs": None} if k else {"factor": (Y, LAMBDA)[i]}
            call.leave_out(idle[i, ...])
            call.place(others | factor)
            call.job["products"][0, 0] = device.address(products[i, ...])
            call.job["largest"] = device.address(largest[i, ...])
            call.launch("residual", states.rest[i, ...])
        sizes = xp.max(xp.reshape(largest, (2, LARGEST, *call.batch, call.chunks)), axis=-1)
        of_λ = sizes[1, :KINDS, ...]
        total, added = xp.stack([sizes[0, :KINDS, ...] + ratio * of_λ, of_λ]), sizes[:, KINDS:, ...]
        # (products that are zero but for rounding shrink with each refinement, and never settle)
        zero, total = eps**2 * xp.max(total, axis=1, keepdims=True), total[:, : LARGEST - KINDS, ...]
        if k == REFINEMENTS:
            break
        if k:
            idle = idle | ~xp.any(added > eps**0.5 * total + zero, axis=1)
        for i in (0, 1):
            call.leave_out(idle[i, ...])
            call.place({"g": REST + i})
            call.forward()
            call.solution(states.change[i, ...])
        states.total[...] += xp.where(idle[..., None, None, None], 0.0, states.change)
    call.leave_out(None)
    lost = device.zeros(call.batch, "bool")
    lost[...] = xp.any(added > UNSETTLED * total + zero, axis=(0, 1))
    return lost


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
