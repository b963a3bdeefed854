"""Calls of the kernels: memory, jobs and the order of launches, for any device that can launch them.

A solve sweeps the points of every lane (a chunk of a system). Where time is divided, the separators that chunks leave
form a chain, which is divided again until one lane can sweep what is left; substitution goes back down:

    sweep points -> sweep chains, level by level, and substitute in them, last level first -> substitute in points

which are three launches, as the levels of a system are swept by threads of one warp, which wait for each other there. A
normal solve goes the same way with R^T w = g in the place of the sweeps; `adjoint.py` makes gradients of such. Nothing
here waits for the device.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Protocol

import numpy as np

from ..._arrays import Array, Namespace, Shape, broadcast_shapes
from ..._problem import Gradients, Problem, Rows, System
from ..._schemes import Scheme, triangular_rows
from .._interface import ALL, inputs_by_field
from . import adjoint
from .grain import Grain
from .layout import (
    FIELDS,
    MAX_AXES,
    SIDES,
    STATES,
    addressable,
    chain_job,
    lay_out,
    point_job,
)
from .source import Module, Specialization
from .tiles import WARP, far_apart, staged


class Device(Protocol):
    """What launches kernels, and the memory they work on."""

    @property
    def xp(self) -> Namespace: ...
    @property
    def grain(self) -> Grain: ...
    @property
    def stage(self) -> bool: ...  # whether fields whose lanes lie far apart go through shared memory, see `tiles`
    def empty(self, shape: Shape, dtype: str) -> Array: ...
    def zeros(self, shape: Shape, dtype: str) -> Array: ...
    def result(self, shape: Shape, dtype: str) -> Array: ...  # `empty`, of what a call returns
    def address(self, x: Array) -> int: ...
    def launch(self, module: Module, kernel: str, lanes: int, job: np.ndarray) -> None: ...


@dataclass(frozen=True, eq=False)
class Kept:
    """What elimination leaves for later solves, of the systems of one batch."""

    batch: Shape
    sizes: tuple[int, ...]
    factor: Array
    chains: list[Array]
    """the factors of the separators, level by level"""
    bad: Array
    """uint8, (batch)"""
    undetermined: Array
    """bool, (*system.batch, T)"""

    @property
    def nbytes(self) -> int:
        """The memory that the factor keeps."""
        return sum(int(x.nbytes) for x in (self.factor, *self.chains))


@dataclass(frozen=True)
class Constants:
    """A scheme as kernels take it."""

    rows: np.ndarray
    extra_rows: bool
    """whether it has rows on the next point alone, or is not upper triangular there"""
    norm2: np.ndarray


@lru_cache(maxsize=64)
def constants(scheme: Scheme, K: int) -> Constants:
    """The scheme's rows in triangular form, and the squared norms of their columns."""
    S = triangular_rows(scheme, K)[0]
    return Constants(S.ravel(), bool(np.tril(S[:K, K:], -1).any() or S[K:].any()), np.sum(S * S, axis=0))


def cores(system: System) -> tuple[Shape, ...]:
    """The axes of each of `FIELDS` after those of the batch: time, and what a point has."""
    T, V, K, Q = system.n_steps, system.V, system.K, system.Q
    initial = (system.n_initial_steps, V, system.n_initial_orders)
    states = [(T, V, K)] * len(STATES)
    return (T, Q, V, K), (T, Q), initial, (T - 1,), (T, Q), initial, (T - 1,), (T - 1, V, 2 * K), *states


def dtype_name(system: System) -> str:
    return "float32" if system.dtype == system.xp.float32 else "float64"


def specialization(system: System, chunked: bool) -> Specialization:
    """The module that serves a system."""
    extra_rows = constants(system.scheme, system.K).extra_rows
    return Specialization(dtype_name(system), system.V, system.K, system.Q, extra_rows, chunked)


class Call:
    """One pass over a system: the jobs of its launches, and the memory that they share."""

    def __init__(
        self,
        device: Device,
        system: System,
        batch: Shape,
        arrays: Sequence[Array | None],
        kept: Kept | None = None,
        sides: int = 1,
    ) -> None:
        """
        Args:
            batch: of the results.
            arrays: in the order of `FIELDS`, as many as there are; None stands for zeros.
            kept: the factor, if there is one for this batch.
            sides: see `Side` of job.hpp.
        """
        self.device, self.system, self.batch = device, system, batch
        self.count, self.cores, self.sides = math.prod(batch), cores(system), sides
        self.sizes = kept.sizes if kept else device.grain.divide(self.count, system.n_steps)
        self.chunks = self.sizes[1] if self.chunked else 1
        self.lanes = self.count * self.chunks
        self.module = specialization(system, self.chunked)
        self.dtype = self.module.dtype
        self.arrays: list[Array] = [x if x is None else addressable(device.xp, x) for x in arrays]
        self.kept = kept or self._room_for_factor()
        self.job = np.zeros(1, point_job(self.dtype))
        self.inputs = np.zeros(len(FIELDS), self.job["in"].dtype)
        self.lines: dict[int, Shape] = {}  # see `staged`, by array
        self._lay_out()
        self.place({})
        self.job["slots"], self.job["factor"] = sides * self.lanes, device.address(self.kept.factor)
        self.z = self._empty(self.job[0], "z", (self._points_kept, system.n, sides * self.lanes))
        self.chains = np.zeros(1, chain_job(self.dtype))
        self.levels = self.chains[0]["level"][1 : len(self.sizes)]
        self.memory = [*self._connect_chains()] if self.chunked else []
        self.choose(0, sides)

    @property
    def chunked(self) -> bool:
        return len(self.sizes) > 1

    @property
    def _points_kept(self) -> int:
        T = self.sizes[0]
        return -(-T // self.chunks) - self.chunked

    def _room_for_factor(self) -> Kept:
        device, system, n, K = self.device, self.system, self.system.n, self.system.K
        entries = n * (n + 1) // 2 + K * K * system.V * (system.V + 1) // 2 + (n * n if self.chunked else 0)
        chain_entries = [3 * n * n for _ in self.sizes[2:]] + [2 * n * n]  # the last one has no left separator
        chains = [
            device.empty((e, self.count * items), self.dtype)
            for items, e in zip(self.sizes[1:], chain_entries, strict=False)
        ]
        factor = device.empty((self._points_kept, entries, self.lanes), self.dtype)
        flags = device.zeros((*system.batch, system.n_steps), "bool")
        return Kept(self.batch, self.sizes, factor, chains, device.zeros((self.count,), "uint8"), flags)

    def _empty(self, job: np.void, name: str, shape: Shape) -> Array:
        """Memory under the name of a job."""
        x = self.device.empty(shape, self.dtype)
        job[name] = self.device.address(x)
        return x

    def _lay_out(self) -> None:
        """The job but for the memory of its results."""
        system, job = self.system, self.job[0]
        flags, systems = self.kept.undetermined, job["systems"]
        systems["bad"], systems["undetermined"] = map(self.device.address, (self.kept.bad, flags))
        cores = [*self.cores[: len(self.arrays)], flags.shape[-1:]]
        inputs = lay_out(self.device.address, self.batch, [*self.arrays, flags], cores, systems)
        systems["flag_strides"][:MAX_AXES], systems["flag_strides"][MAX_AXES] = inputs[-1]["batch"], 1
        self.inputs[: len(self.arrays)] = inputs[:-1]
        for f, (x, core) in enumerate(zip(self.arrays, cores, strict=False)):
            if x is not None and far_apart(x, core, inputs[f]["batch"][: systems["axes"]].tolist(), self.chunked):
                self.lines[f] = core[1:]
        # without orders there are no initial rows
        job["T_init"] = system.n_initial_steps if system.n_initial_orders else 0
        job["R_init"], job["points"], job["chunks"] = system.n_initial_orders, system.n_steps, self.chunks
        job["V"], job["K"], job["Q"] = system.V, system.K, system.Q
        job["tolerance2"] = (8 * system.n * float(np.finfo(self.dtype).eps)) ** 2
        scheme, K = constants(system.scheme, system.K), system.K
        job["scheme_norm2"][: 2 * K], job["scheme_rows"][: 4 * K * K] = scheme.norm2, scheme.rows

    def _connect_chains(self) -> Iterator[Array]:
        """The job of the chains, and the memory that lives as long as the call."""
        chains, n = self.chains[0], self.system.n
        chains["systems"], chains["tolerance2"] = self.job[0]["systems"], self.job[0]["tolerance2"]
        chains["sizes"][: len(self.sizes)], chains["levels"] = self.sizes, len(self.sizes)
        chains["n"], chains["all_sides"] = n, self.sides
        for level, items, factor in zip(self.levels, self.sizes[1:], self.kept.chains, strict=True):
            slots = self.sides * self.count * items
            level["factor"] = self.device.address(factor)
            yield self._empty(level, "z", (n, slots))
            yield self._empty(level, "x", (slots, n))
        self.job["separators"] = self.levels[0]["x"]

    def place(self, others: Mapping[str, int | None]) -> None:
        """Which array kernels see as each field: its own, unless the number of another is given, or None for zeros."""
        self.source = [others.get(name, f) for f, name in enumerate(FIELDS)]
        none = np.zeros((), self.inputs.dtype)
        for f, source in enumerate(self.source):
            self.job["in"][0, f] = none if source is None else self.inputs[source]

    def choose(self, first_side: int, sides: int, sizes: Array | None = None) -> None:
        """The sides that kernels work on; of these, what is small by the sizes given is left as it is."""
        for job in (self.job, self.chains):
            job["first_side"], job["sides"] = first_side, sides
            job["systems"]["sizes"] = 0 if sizes is None else self.device.address(sizes)

    def launch(self, kernel: str, x: Array | None = None) -> None:
        """A kernel on points; x is what it fills."""
        self.job["x"]["data"] = 0 if x is None else self.device.address(x)
        if self.count:
            tiles = self.module.tiles(kernel) if self.device.stage else {}
            lines = {f: self.lines[i] for f, i in enumerate(self.source) if i in self.lines}
            lanes = self.lanes * int(self.job["sides"][0])
            self.device.launch(self.module, f"smnn_{kernel}", lanes, staged(self.job, tiles, lines))

    def _launch_chains(self, kernel: str) -> None:
        """A kernel on all levels. A system has as many threads, or teams, of a warp as its widest level has lanes."""
        if self.count:
            name = f"smnn_chains_{kernel}"
            widest = self.sizes[2] if len(self.sizes) > 2 else 1
            group = min(1 << (widest - 1).bit_length(), WARP // self.module.team(name))
            self.chains["group"] = group
            lanes = self.count * int(self.chains["sides"][0]) * group
            self.device.launch(self.module, name, lanes, self.chains)

    def eliminate(self, x: Array | None = None) -> None:
        """The factor, and z with R y = z; y as well, where there is memory for it."""
        n = self.system.n
        ends = [
            self._empty(level, "ends", (3 * n * n + 4 * n, self.count * items))
            for level, items in zip(self.levels, self.sizes[1:], strict=True)
        ]
        self.job["ends"] = self.levels[0]["ends"] if ends else 0
        self.launch("sweep")
        if self.chunked:
            self.chains["back"] = x is not None
            self._launch_chains("sweep")
        if x is not None:
            self.launch("back", x)

    def forward(self) -> None:
        """w with R^T w = g in the place of z, and x of separators."""
        self.make_room_to_pass()
        self.launch("forward")
        self.solve_chains()

    def make_room_to_pass(self) -> None:
        """The memory by which chunks and chains pass g on."""
        if self.chunked and not self.levels[0]["passed"]:
            for level, items in zip(self.levels, self.sizes[1:], strict=True):
                self.memory.append(self._empty(level, "passed", (self.sides * self.count * items, 2, self.system.n)))
        self.job["passed"] = self.levels[0]["passed"] if self.chunked else 0

    def solve_chains(self) -> None:
        """x of separators, from what chunks passed on."""
        if self.chunked:
            self._launch_chains("solve")

    def solution(self) -> Array:
        """Memory for x."""
        shape = *self.batch, self.system.n_steps, self.system.V, self.system.K
        return self.device.result(shape, self.dtype)


@dataclass(frozen=True, eq=False)
class DeviceFactor:
    """The factor of a system: see `engines._interface.Factor`."""

    device: Device
    system: System
    kept: Kept
    undetermined: Array = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "undetermined", self.kept.undetermined)

    @property
    def nbytes(self) -> int:
        """The memory that the factor keeps."""
        return self.kept.nbytes

    def solve(self, d: Rows) -> Array:
        system = self.system
        batch = system.batch_with(d)
        smoothness = None
        if d.smoothness is not None:
            smoothness = d.smoothness @ system.constant(triangular_rows(system.scheme, system.K)[1])
        call = Call(self.device, system, batch, [*inputs_by_field(system, d.equation, d.initial), smoothness])
        y = call.solution()
        call.eliminate(y)
        return y

    def _call(self, batch: Shape, arrays: Sequence[Array | None], sides: int = 1) -> Call:
        """A call that has a factor: its own where the one kept is of another batch."""
        if batch == self.kept.batch:
            return Call(self.device, self.system, batch, arrays, self.kept, sides)
        eliminated = Call(self.device, self.system, batch, arrays[: len(inputs_by_field(self.system))])
        eliminated.eliminate()
        return Call(self.device, self.system, batch, arrays, eliminated.kept, sides)

    def normal_solve(self, g: Array) -> Array:
        batch = broadcast_shapes({"left-hand side": self.system.batch, "g": tuple(g.shape[:-3])})
        call = self._call(batch, [*inputs_by_field(self.system), None, None, g])
        call.forward()
        x = call.solution()
        call.launch("back", x)
        return x

    def adjoint(self, problem: Problem, y: Array, g: Array, wanted: Gradients = ALL) -> Gradients:
        """All gradients; those that are not wanted are not summed, and left out."""
        inputs = inputs_by_field(problem.system, problem.rhs, problem.initial_values)
        states = adjoint.States.of(self.device, problem, y, g)
        call = self._call(problem.batch, [*inputs, None, *states.arrays], SIDES)
        return adjoint.gradients(call, states, inputs, wanted)


def factorize(device: Device, system: System) -> DeviceFactor:
    """Eliminates a left-hand side, once for all right-hand sides."""
    call = Call(device, system, system.batch, inputs_by_field(system))
    call.eliminate()
    return DeviceFactor(device, system, call.kept)


def solve_problem(device: Device, problem: Problem) -> tuple[Array, DeviceFactor]:
    """The solution and the factor, in one sweep."""
    system = problem.system
    call = Call(device, system, problem.batch, inputs_by_field(system, problem.rhs, problem.initial_values))
    y = call.solution()
    call.eliminate(y)
    return y, DeviceFactor(device, system, call.kept)
