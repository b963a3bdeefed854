"""Plans: what a call takes and launches, laid out once for each shape of its arrays, and run at their addresses.

To lay out jobs takes Python some 0.2 to 0.6 ms, longer than most kernels run. All of it but addresses depends on
shapes, strides and the division of time alone. So a call is laid out on places that stand for memory; each has an
address of its own, which jobs hold wherever they point to that place. A run takes memory, copies the jobs, writes the
addresses of this run over those of the places, and launches.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from ..._arrays import Array, Shape
from .layout import Layout, Place, pointers_of
from .source import Specialization

if TYPE_CHECKING:
    from .device import CupyDevice

MOST_PLANS = 512
"""Of a device; each has some 4 KB for each launch."""

_BITS = 40
"""Byte b of place i stands at (i + 1 << _BITS) + b; zero stays zero."""

Launch = Callable[[np.ndarray], None]
"""Of a kernel, with a job as words."""


class Kind(IntEnum):
    """Of memory: the caller's, what is returned, what is returned and zero at first, what does not outlive the call."""

    GIVEN = 0
    RESULT = 1
    ZEROS = 2
    SCRATCH = 3


@dataclass(frozen=True, eq=False)
class Plan:
    """Made by `Planner.plan`."""

    results: list[tuple[Shape, np.dtype[Any]]]
    zeros: list[tuple[Shape, np.dtype[Any]]]
    scratch: tuple[int, ...]
    """bytes of each piece"""
    jobs: np.ndarray
    """of all launches, words"""
    at: np.ndarray
    """the words that are addresses: of `which` place, so many bytes after its start"""
    which: np.ndarray
    offset: np.ndarray
    launches: list[tuple[Launch, slice]]
    """with the words of the job of each"""

    def run(self, device: CupyDevice, given: Sequence[int]) -> list[Array]:
        """Launches everything, at the addresses of what is `Kind.GIVEN`. Returns the results, then the zeros."""
        returned = [*device.results(self.results), *(device.zeros(*array) for array in self.zeros)]
        scratch = device.scratch(self.scratch)  # (held until the launches)
        addresses = np.array([*given, *map(device.address, returned), *scratch[1]], np.uint64)
        jobs = self.jobs.copy()
        jobs[self.at] = addresses[self.which] + self.offset
        for launch, words in self.launches:
            launch(jobs[words])
        return returned


class Planner:
    """Lays out one call on places; `plan` is what can be run."""

    def __init__(self, device: CupyDevice) -> None:
        self.grain, self._prepare = device.grain, device.prepare
        self._memory: list[tuple[Kind, Shape, np.dtype[Any]]] = []
        self._launches: list[Launch] = []
        self._jobs: list[np.ndarray] = []
        """of each launch, words"""
        self._pointers: list[np.ndarray] = []
        """which of these are addresses"""

    def given(self, layout: Layout, dtype: str) -> Place:
        """The next array that a run is given."""
        shape, strides = layout
        itemsize = np.dtype(dtype).itemsize
        return Place(self.take(Kind.GIVEN, shape, dtype), shape, tuple(stride // itemsize for stride in strides))

    def take(self, kind: Kind, shape: Shape, dtype: str) -> int:
        """A number in place of the address of memory for an array in C order."""
        self._memory.append((kind, shape, np.dtype(dtype)))
        return len(self._memory) << _BITS

    def launch(self, module: Specialization, kernel: str, lanes: int, job: np.ndarray) -> None:
        """A kernel, with the job as it is now."""
        self._launches.append(self._prepare(module, kernel, lanes, job.nbytes))
        self._jobs.append(job.view(np.uint64).copy())
        self._pointers.append(pointers_of(job.dtype))

    def plan(self) -> Plan:
        """The memory as it was laid out."""
        memory = self._memory
        by_kind = sorted(range(len(memory)), key=lambda number: memory[number][0])
        results, zeros, scratch = ([x[1:] for x in memory if x[0] is kind] for kind in list(Kind)[1:])
        ends = list(accumulate(map(len, self._jobs), initial=0))
        jobs = np.concatenate([np.zeros(0, np.uint64), *self._jobs])
        at = np.concatenate([np.zeros(0, np.intp), *map(np.add, ends, self._pointers)])
        at = at[jobs[at] != 0]
        number, offset = np.divmod(jobs[at], np.uint64(1 << _BITS))
        return Plan(
            results,
            zeros,
            tuple(math.prod(shape) * dtype.itemsize for shape, dtype in scratch),
            jobs,
            at,
            np.argsort(by_kind)[number.astype(np.intp) - 1],
            offset,
            [(launch, slice(*ends)) for launch, ends in zip(self._launches, pairwise(ends), strict=True)],
        )


def plans_of(device: CupyDevice) -> Callable[..., Plan]:
    """`plans(lay_out, *key)`: the plan that lay_out(planner, *key) lays out for a device, made once for each key."""

    def plan(lay_out: Callable[..., None], *key: Any) -> Plan:
        planner = Planner(device)
        lay_out(planner, *key)
        return planner.plan()

    return lru_cache(MOST_PLANS)(plan)


def described(
    device: CupyDevice, arrays: Sequence[Array | None], itemsize: int
) -> tuple[list[Array | None], tuple[Layout | None, ...], list[int]]:
    """Arrays that kernels can read, their layouts as part of a key, and their addresses; None (zeros) has no address.

    The first must be held until the launch. What does not lie at multiples of `itemsize`, as kernels address numbers,
    is copied.
    """

    def as_read(x: Array) -> Array:
        aligned = device.address(x) % itemsize == 0 and _are_multiples(x.strides, itemsize)
        return x if aligned else device.xp.asarray(x, copy=True)

    held = [None if x is None else as_read(x) for x in arrays]
    layouts = tuple(None if x is None else (x.shape, x.strides) for x in held)
    return held, layouts, [device.address(x) for x in held if x is not None]


@lru_cache(1024)
def _are_multiples(strides: tuple[int, ...], itemsize: int) -> bool:
    return not any(stride % itemsize for stride in strides)
