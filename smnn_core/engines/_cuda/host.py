"""Calls of the kernels: memory, jobs and the order of launches, for any device that can launch them.

A solve sweeps the points of every lane (a chunk of a system). Where time is divided, the separators that chunks leave
form a chain, which is divided again until one lane can sweep what is left; substitution goes back down:

    sweep points -> sweep chains, level by level -> substitute in chains, last level first -> substitute in points

A normal solve goes the same way with R^T w = g in the place of the sweeps; `adjoint.py` makes gradients of
such. Nothing here waits for the device.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import zip_longest
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
    STATES,
    addressable,
    chain_job,
    lay_out,
    point_job,
)
from .source import Module, Specialization
from .tiles import far_apart, staged


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
    norm2: np.ndarray


@lru_cache(maxsize=64)
def constants(scheme: Scheme, K: int) -> Constants:
    """The scheme's rows in triangular form, and the squared norms of their columns."""
    S = triangular_rows(scheme, K)[0]
    return Constants(S.ravel(), bool(S[K:].any()), np.sum(S * S, axis=0))


def cores(system: System) -> tuple[Shape, ...]:
    """The axes of each of `FIELDS` after those of the batch: time, and what a point has; and of more states."""
    T, V, K, Q = system.n_steps, system.V, system.K, system.Q
    initial = (system.n_initial_steps, V, system.n_initial_orders)
    states = [(T, V, K)] * (len(STATES) + 4)
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
        self, device: Device, system: System, batch: Shape, arrays: Sequence[Array | None], kept: Kept | None = None
    ) -> None:
        """
        Args:
            batch: of the results.
            arrays: in the order of `FIELDS`, as many as there are, and up to four more states; None stands for zeros.
            kept: the factor, if there is one for this batch.
        """
        self.device, self.system, self.batch = device, system, batch
        self.count, self.cores = math.prod(batch), cores(system)
        self.sizes = kept.sizes if kept else device.grain.divide(self.count, system.n_steps)
        self.chunks = self.sizes[1] if self.chunked else 1
        self.lanes = self.count * self.chunks
        self.module = specialization(system, self.chunked)
        self.dtype = self.module.dtype
        self.arrays: list[Array] = [x if x is None else addressable(device.xp, x) for x in arrays]
        self.kept = kept or self._room_for_factor()
        self.job = np.zeros(1, point_job(self.dtype))
        self.inputs = np.zeros(len(FIELDS) + 4, self.job["in"].dtype)
        self.lines: dict[int, Shape] = {}  # see `staged`, by array
        self._lay_out()
        self.place({})
        n = system.n
        self.z = self._empty(self.job, "z", (self._points_kept, n, self.lanes))
        self.job["factor"] = device.address(self.kept.factor)
        self.chains = [Chain(self, level) for level in range(1, len(self.sizes))]
        self.x = self._empty(self.job, "separators", (self.lanes, n)) if self.chunked else None
        for chain, above in zip_longest(self.chains, self.chains[1:]):
            chain.connect(self, above)

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

    def _empty(self, job: np.ndarray, name: str, shape: Shape) -> Array:
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

    def place(self, others: Mapping[str, int | None]) -> None:
        """Which array kernels see as each field: its own, unless the number of another is given, or None for zeros."""
        self.source = [others.get(name, f) for f, name in enumerate(FIELDS)]
        none = np.zeros((), self.inputs.dtype)
        for f, source in enumerate(self.source):
            self.job["in"][0, f] = none if source is None else self.inputs[source]

    def leave_out(self, idle: Array | None) -> None:
        """Which systems kernels have nothing to do for, bool, (*batch,)."""
        for job in (self.job, *(chain.job for chain in self.chains)):
            job["systems"]["idle"] = 0 if idle is None else self.device.address(idle)

    def launch(self, kernel: str, x: Array | None = None) -> None:
        """A kernel on points; x is what it fills."""
        self.job["x"]["data"] = 0 if x is None else self.device.address(x)
        if self.count:
            tiles = self.module.tiles(kernel) if self.device.stage else {}
            lines = {f: self.lines[i] for f, i in enumerate(self.source) if i in self.lines}
            self.device.launch(self.module, f"smnn_{kernel}", self.lanes, staged(self.job, tiles, lines))

    def eliminate(self) -> None:
        """The factor, and z with R y = z."""
        ends = self._ends(self.job, "ends", self.lanes)
        self.launch("sweep")
        for chain in self.chains:
            ends = chain.sweep(self, ends)

    def _ends(self, job: np.ndarray, name: str, lanes: int) -> Array:
        """Room for what lanes leave of their chunks."""
        n = self.system.n
        return self._empty(job, name, (3 * n * n + 4 * n, lanes)) if self.chunked else None

    def forward(self) -> None:
        """w with R^T w = g in the place of z."""
        n = self.system.n
        passed = self._empty(self.job, "passed", (self.lanes, 2, n)) if self.chunked else None
        self.launch("forward")
        for chain in self.chains:
            passed = chain.forward(self, passed)

    @property
    def shape(self) -> Shape:
        """That of solutions, (*batch, T, V, K)."""
        return *self.batch, self.system.n_steps, self.system.V, self.system.K

    def solution(self, x: Array | None = None) -> Array:
        """x with R x = z, into the memory given."""
        x = self.device.result(self.shape, self.dtype) if x is None else x
        for chain in reversed(self.chains):
            chain.launch(self, "back")
        self.launch("back", x)
        return x


class Chain:
    """The separators of one level of a call, which is handed to it: a reference to it would be a cycle, and keep the
    memory of both until Python looks for such."""

    def __init__(self, call: Call, level: int) -> None:
        self.level = level
        self.is_last = level + 1 == len(call.sizes)
        self.chunks = 1 if self.is_last else call.sizes[level + 1]
        self.lanes = call.count * self.chunks
        self.job = np.zeros(1, chain_job(call.dtype))
        job = self.job[0]
        job["systems"] = call.job[0]["systems"]
        job["sizes"][: len(call.sizes)], job["level"], job["chunks"] = call.sizes, level, self.chunks
        job["n"], job["tolerance2"] = call.system.n, call.job[0]["tolerance2"]
        job["factor"] = call.device.address(call.kept.chains[level - 1])
        n, items = call.system.n, call.count * call.sizes[level]
        self.z = call._empty(self.job, "z", (n, items))

    def connect(self, call: Call, above: Chain | None) -> None:
        """x of this level is what the level below takes for its separators."""
        self.job["x"] = call.job["separators"] if self.level == 1 else call.chains[self.level - 2].job["separators"]
        if above is not None:
            self.x_above = call._empty(self.job, "separators", (self.lanes, call.system.n))

    def sweep(self, call: Call, ends: Array) -> Array:
        """From what chunks left; returns what these chunks leave."""
        self.job["ends"] = call.device.address(ends)
        left = None if self.is_last else call._ends(self.job, "next_ends", self.lanes)
        self.launch(call, "sweep")
        return left

    def forward(self, call: Call, passed: Array) -> Array:
        """R^T w = g, from what chunks passed to their separators."""
        self.job["passed"] = call.device.address(passed)
        left = None if self.is_last else call._empty(self.job, "next_passed", (self.lanes, 2, call.system.n))
        self.launch(call, "forward")
        return left

    def launch(self, call: Call, what: str) -> None:
        """A kernel on this level."""
        if call.count:
            kernel = f"smnn_{'last' if self.is_last else 'chain'}_{what}"
            call.device.launch(call.module, kernel, self.lanes, self.job)


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
        call.eliminate()
        return call.solution()

    def _normal(self, batch: Shape, arrays: Sequence[Array | None]) -> Call:
        """R^T w = g; with a factor of its own where the one kept is of another batch."""
        if batch == self.kept.batch:
            call = Call(self.device, self.system, batch, arrays, self.kept)
        else:
            call = Call(self.device, self.system, batch, arrays)
            call.eliminate()
        call.forward()
        return call

    def normal_solve(self, g: Array) -> Array:
        batch = broadcast_shapes({"left-hand side": self.system.batch, "g": tuple(g.shape[:-3])})
        return self._normal(batch, [*inputs_by_field(self.system), None, None, g]).solution()

    def adjoint(self, problem: Problem, y: Array, g: Array, wanted: Gradients = ALL) -> Gradients:
        """All gradients; those that are not wanted are not summed, and left out."""
        inputs = inputs_by_field(problem.system, problem.rhs, problem.initial_values)
        states = adjoint.States.of(self.device, problem, y, g)
        call = self._normal(problem.batch, [*inputs, None, *states.arrays])
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
    call.eliminate()
    return call.solution(), DeviceFactor(device, system, call.kept)
