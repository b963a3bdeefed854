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
from typing import Any, NamedTuple, Protocol

import numpy as np

from ..._arrays import Array, Namespace, Shape
from .grain import Grain
from .layout import pointers_of
from .source import Specialization

MOST_PLANS = 512
"""Of a device; each has some 4 KB for each launch."""

_BITS = 40
"""Byte b of place i stands at (i + 1 << _BITS) + b; zero stays zero."""
ALIGNMENT = 256
"""Bytes, of memory, as CUDA aligns it."""

Layout = tuple[Shape, tuple[int, ...]]
"""Shape, and strides in bytes."""


class Device(Protocol):
    """A device: it launches kernels, and has the memory that they work on."""

    @property
    def xp(self) -> Namespace: ...
    @property
    def grain(self) -> Grain: ...
    @property
    def plans(self) -> Callable[..., Plan]: ...  # `plans_of`
    def results(self, arrays: Sequence[tuple[Shape, np.dtype[Any]]]) -> list[Array]: ...  # what a call returns, empty
    def zeros(self, shape: Shape, dtype: np.dtype[Any]) -> Array: ...
    def pieces(self, pieces: Pieces) -> tuple[object, list[int]]: ...  # memory, and the addresses of its pieces
    def address(self, x: Array) -> int: ...
    def prepare(
        self, module: Specialization, kernel: str, lanes: int, job_bytes: int
    ) -> Callable[[np.ndarray], None]: ...  # what launches a job, given as words


class Kind(IntEnum):
    """Of memory: the caller's, what is returned, what is zero at first, what outlives the call, what does not."""

    GIVEN = 0
    RESULT = 1
    ZEROS = 2
    KEPT = 3
    SCRATCH = 4


@dataclass(frozen=True)
class Place:
    """Memory that has no address yet: an array, as far as jobs know arrays."""

    number: int
    shape: Shape
    strides: tuple[int, ...]
    itemsize: int
    offset: int = 0

    @property
    def address(self) -> int:
        """The number that stands for the address in jobs."""
        return (self.number + 1 << _BITS) + self.offset

    def part(self, shape: Shape, itemsize: int, offset: int) -> Place:
        """An array in C order, so many bytes after the start of this one."""
        return Place(self.number, shape, c_strides(shape, itemsize), itemsize, self.offset + offset)

    @property
    def ndim(self) -> int:
        return len(self.shape)


def c_strides(shape: Shape, itemsize: int) -> tuple[int, ...]:
    """Of an array in C order, in bytes."""
    return tuple(itemsize * math.prod(shape[axis + 1 :]) for axis in range(len(shape)))


class Pieces(NamedTuple):
    """Memory that is taken at once: where each piece starts in it, and how large each and all of it is, in bytes."""

    offsets: tuple[int, ...]
    sizes: tuple[int, ...]
    total: int

    @staticmethod
    def of(sizes: Sequence[int]) -> Pieces:
        """Each aligned as CUDA aligns memory."""
        ends = [0, *accumulate(-(-size // ALIGNMENT) * ALIGNMENT for size in sizes)]
        return Pieces(tuple(ends[:-1]), tuple(sizes), ends[-1])


class Run(NamedTuple):
    """The results of a run, in the order in which they were laid out."""

    results: list[Array]
    zeros: list[Array]
    kept: tuple[object, list[int]]
    """memory, and the addresses of its pieces"""


@dataclass(frozen=True, eq=False)
class Plan:
    """Made by `Planner.plan`."""

    results: list[tuple[Shape, np.dtype[Any]]]
    zeros: list[tuple[Shape, np.dtype[Any]]]
    kept: Pieces
    scratch: Pieces
    jobs: np.ndarray
    """of all launches, words"""
    at: np.ndarray
    """the words that are addresses: of `which` place, so many bytes after its start"""
    which: np.ndarray
    offset: np.ndarray
    launches: list[tuple[Callable[[np.ndarray], None], slice]]
    """with the words of the job of each"""
    value: Any
    """what the function that laid it out has returned"""

    def run(self, device: Device, given: Sequence[int]) -> Run:
        """Launches everything, at the addresses of what is `Kind.GIVEN`."""
        results = device.results(self.results)
        zeros = [device.zeros(*array) for array in self.zeros]
        kept, scratch = device.pieces(self.kept), device.pieces(self.scratch)
        taken = map(device.address, (*results, *zeros))
        addresses = np.array([*given, *taken, *kept[1], *scratch[1]], np.uint64)
        jobs = self.jobs.copy()
        jobs[self.at] = addresses[self.which] + self.offset
        for launch, words in self.launches:
            launch(jobs[words])
        return Run(results, zeros, kept)


class Planner:
    """Lays out one call on places; `plan` is what can be run."""

    def __init__(self, device: Device) -> None:
        self.grain, self._prepare = device.grain, device.prepare
        self._memory: list[tuple[Kind, Shape, np.dtype[Any]]] = []
        self._launches: list[tuple[Callable[[np.ndarray], None], bytes]] = []
        self._pointers: list[np.ndarray] = []

    def given(self, layout: Layout, dtype: str) -> Place:
        """The next array that a run is given."""
        shape, strides = layout
        return Place(self._number(Kind.GIVEN, shape, dtype), shape, strides, np.dtype(dtype).itemsize)

    def take(self, kind: Kind, shape: Shape, dtype: str) -> Place:
        """Memory for an array in C order."""
        itemsize = np.dtype(dtype).itemsize
        return Place(self._number(kind, shape, dtype), shape, c_strides(shape, itemsize), itemsize)

    def _number(self, kind: Kind, shape: Shape, dtype: str) -> int:
        self._memory.append((kind, shape, np.dtype(dtype)))
        return len(self._memory) - 1

    def launch(self, module: Specialization, kernel: str, lanes: int, job: np.ndarray) -> None:
        """A kernel, with the job as it is now."""
        self._launches.append((self._prepare(module, kernel, lanes, job.nbytes), job.tobytes()))
        self._pointers.append(pointers_of(job.dtype))

    def plan(self, value: Any) -> Plan:
        """The arrays that were laid out."""
        memory = self._memory
        by_kind = sorted(range(len(memory)), key=lambda number: memory[number][0])
        arrays = {kind: [x[1:] for x in memory if x[0] is kind] for kind in Kind}
        pieces = {
            kind: Pieces.of([math.prod(shape) * dtype.itemsize for shape, dtype in arrays[kind]])
            for kind in (Kind.KEPT, Kind.SCRATCH)
        }
        jobs = np.frombuffer(b"".join(job for _, job in self._launches), np.uint64)
        ends = list(accumulate((len(job) // jobs.itemsize for _, job in self._launches), initial=0))
        pointers = [start + of_job for start, of_job in zip(ends, self._pointers, strict=False)]
        at = np.concatenate([np.zeros(0, np.intp), *pointers])
        at = at[jobs[at] != 0]
        number, offset = np.divmod(jobs[at], np.uint64(1 << _BITS))
        return Plan(
            arrays[Kind.RESULT],
            arrays[Kind.ZEROS],
            pieces[Kind.KEPT],
            pieces[Kind.SCRATCH],
            jobs,
            at,
            np.argsort(by_kind)[number.astype(np.intp) - 1],
            offset,
            [(launch, slice(*ends)) for (launch, _), ends in zip(self._launches, pairwise(ends), strict=True)],
            value,
        )


def plans_of(device: Device) -> Callable[..., Plan]:
    """`plans(lay_out, *key)`: the plan that lay_out(planner, *key) lays out for a device, made once for each key."""

    def plan(lay_out: Callable[..., Any], *key: Any) -> Plan:
        planner = Planner(device)
        value = lay_out(planner, *key)
        return planner.plan(value)

    return lru_cache(MOST_PLANS)(plan)


def described(
    device: Device, arrays: Sequence[Array | None], itemsize: int
) -> tuple[list[Array], tuple[Layout | None, ...], list[int]]:
    """Arrays that kernels can read, their layouts as part of a key, and their addresses; None (zeros) has no address.

    The first must be held until the launch. What does not lie at multiples of `itemsize`, as kernels address numbers,
    is copied.
    """
    held: list[Array] = []
    layouts: list[Layout | None] = []
    addresses: list[int] = []
    for x in arrays:
        if x is None:
            layouts.append(None)
            continue
        address = device.address(x)
        if address % itemsize or not _are_multiples(x.strides, itemsize):
            x = device.xp.asarray(x, copy=True)
            address = device.address(x)
        held.append(x)
        layouts.append((x.shape, x.strides))
        addresses.append(address)
    return held, tuple(layouts), addresses


@lru_cache(1024)
def _are_multiples(strides: tuple[int, ...], itemsize: int) -> bool:
    return not any(stride % itemsize for stride in strides)
