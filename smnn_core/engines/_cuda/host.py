"""Calls of the kernels: jobs and the order of launches, laid out as plans (`plan.py`).

A solve sweeps the points of every lane (a chunk of a system). Where time is divided, the separators that chunks leave
form a chain, which is divided again until one lane can sweep what is left; substitution goes back down:

    sweep points -> sweep chains, level by level, and substitute in them, last level first -> substitute in points

which are three launches, as the levels of a system are swept by threads of one warp, which wait for each other there.
(Teams of threads sweep larger points, and a warp has few teams: then wide levels have launches of their own.) A normal
solve goes the same way with R^T w = g in the place of the sweeps; `adjoint.py` makes gradients of such. Nothing here
waits for the device.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, NamedTuple

import numpy as np

from ..._arrays import Array, Shape, broadcast_shapes, sum_to_shape
from ..._fields import FIELDS as INPUTS
from ..._fields import Sizes
from ..._problem import ALL, Gradients, Problem, Rows, System, by_field, from_fields, inputs_by_field
from ..._schemes import Scheme, triangular_rows
from . import adjoint
from .layout import FIELDS, MAX_AXES, SIDES, STATES, chain_job, lay_out, point_job
from .plan import Device, Kind, Layout, Place, Planner, described
from .source import WARP, Specialization


class Signature(NamedTuple):
    """A system without its arrays: with their layouts, all that a plan depends on."""

    batch: Shape
    scheme: Scheme
    n_steps: int
    V: int
    K: int
    Q: int
    n_initial_steps: int
    n_initial_orders: int
    dtype: str

    @staticmethod
    def of(system: System) -> Signature:
        """That of a system."""
        Q, V, K = system.coefficients.shape[-3:]
        dtype = "float32" if system.dtype.itemsize == 4 else "float64"
        initial = system.n_initial_steps, system.n_initial_orders
        return Signature(system.batch, system.scheme, system.n_steps, V, K, Q, *initial, dtype)

    @property
    def n(self) -> int:
        """Unknowns per time point."""
        return self.V * self.K

    @property
    def itemsize(self) -> int:
        """Bytes of a number."""
        return 4 if self.dtype == "float32" else 8


@dataclass(frozen=True, eq=False)
class Kept:
    """The factors of the systems of one batch, for later solves."""

    batch: Shape
    sizes: tuple[int, ...]
    """the division of time"""
    memory: object
    flags: Array
    """bool: undetermined points, (*system.batch, T), and systems of the batch that have some"""
    addresses: list[int]
    """of the factor of points and those of the chains, level by level, and of the flags"""
    nbytes: int


@dataclass(frozen=True)
class FactorPlaces:
    """`Kept`, as a plan knows it."""

    points: Place
    chains: list[Place]
    undetermined: Place
    bad: Place


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


def cores(system: Signature) -> tuple[Shape, ...]:
    """The axes of each of `FIELDS` after those of the batch: time, and what a point has."""
    T, V, K = system.n_steps, system.V, system.K
    sizes = Sizes(T, system.Q, V, K, system.n_initial_steps, system.n_initial_orders)
    states = [(T, V, K)] * len(STATES)
    return *(field.core(sizes) for field in INPUTS.values()), (T - 1, V, 2 * K), *states


def specialization(system: Signature, chunked: bool) -> Specialization:
    """The module that serves a system."""
    extra_rows = constants(system.scheme, system.K).extra_rows
    return Specialization(system.dtype, system.V, system.K, system.Q, extra_rows, chunked)


class Call:
    """One pass over a system as a plan: the jobs of its launches, and the memory that they share."""

    def __init__(
        self,
        planner: Planner,
        system: Signature,
        batch: Shape,
        layouts: Sequence[Layout | None],
        sizes: tuple[int, ...] | None = None,
        sides: int = 1,
    ) -> None:
        """
        Args:
            batch: of the results.
            layouts: of the arrays that are given, in the order of `FIELDS`, as many as there are; None is zeros.
            sizes: the division of time, where a factor for this batch is given, after the arrays.
            sides: see `Side` of job.hpp.
        """
        self.planner, self.system, self.batch = planner, system, batch
        self.count, self.cores, self.sides = math.prod(batch), cores(system), sides
        team = specialization(system, True).team("smnn_sweep")
        self.sizes = sizes or planner.grain.divide(self.count, system.n_steps, team)
        self.chunks = self.sizes[1] if self.chunked else 1
        self.lanes = self.count * self.chunks
        self.module = specialization(system, self.chunked)
        self.dtype = system.dtype
        self.arrays = [None if x is None else planner.given(x, self.dtype) for x in layouts]
        self.factor = self._factor(is_given=sizes is not None)
        self.job = np.zeros(1, point_job(self.dtype, system.K))
        self.inputs = np.zeros(len(FIELDS), self.job["in"].dtype)
        self.chains = np.zeros(1, chain_job(self.dtype))
        self.levels = self.chains[0]["level"][1 : len(self.sizes)]

    def lay_out(self, states: Sequence[Place] = ()) -> None:
        """The jobs but for the memory of results; `states` are arrays of the call's own after those that are given."""
        self.arrays += states
        self._lay_out()
        self.place({})
        self.job["slots"], self.job["factor"] = self.sides * self.lanes, self.factor.points.address
        self._empty(self.job[0], "z", (self._points_kept, self.system.n, self.sides * self.lanes))
        if self.chunked:
            self._connect_chains()
        self.choose(0, self.sides)

    @property
    def chunked(self) -> bool:
        return len(self.sizes) > 1

    @property
    def _points_kept(self) -> int:
        T = self.sizes[0]
        return -(-T // self.chunks) - self.chunked

    def _factor(self, is_given: bool) -> FactorPlaces:
        system, n, K, planner = self.system, self.system.n, self.system.K, self.planner
        entries = n * (n + 1) // 2 + K * K * system.V * (system.V + 1) // 2 + (n * n if self.chunked else 0)
        chain_entries = [3 * n * n for _ in self.sizes[2:]] + [2 * n * n]  # the last one has no left separator
        shapes: list[Shape] = [(self._points_kept, entries, self.lanes)]
        shapes += [(e, self.count * items) for items, e in zip(self.sizes[1:], chain_entries, strict=False)]
        kind, flags = (Kind.GIVEN, Kind.GIVEN) if is_given else (Kind.KEPT, Kind.ZEROS)
        points, *chains = (planner.take(kind, shape, self.dtype) for shape in shapes)
        points_flagged = *system.batch, system.n_steps
        both = planner.take(flags, (math.prod(points_flagged) + self.count,), "bool")
        undetermined, bad = both.part(points_flagged, 1, 0), both.part((self.count,), 1, math.prod(points_flagged))
        return FactorPlaces(points, chains, undetermined, bad)

    def _empty(self, job: np.void, name: str, shape: Shape) -> None:
        """Memory under the name of a job, as long as the call lasts."""
        job[name] = self.planner.take(Kind.SCRATCH, shape, self.dtype).address

    def _lay_out(self) -> None:
        """The job but for the memory of its results."""
        system, job = self.system, self.job[0]
        flags, systems = self.factor.undetermined, job["systems"]
        systems["bad"], systems["undetermined"] = self.factor.bad.address, flags.address
        cores = [*self.cores[: len(self.arrays)], flags.shape[-1:]]
        inputs = lay_out(self.batch, [*self.arrays, flags], cores, systems)
        systems["flag_strides"][:MAX_AXES], systems["flag_strides"][MAX_AXES] = inputs[-1]["batch"], 1
        self.inputs[: len(self.arrays)] = inputs[:-1]
        # without orders there are no initial rows
        job["T_init"] = system.n_initial_steps if system.n_initial_orders else 0
        job["R_init"], job["points"], job["chunks"] = system.n_initial_orders, system.n_steps, self.chunks
        job["V"], job["orders"], job["Q"] = system.V, system.K, system.Q
        job["tolerance2"] = (8 * system.n * float(np.finfo(self.dtype).eps)) ** 2
        scheme = constants(system.scheme, system.K)
        job["scheme_norm2"], job["scheme_rows"] = scheme.norm2, scheme.rows

    def _connect_chains(self) -> None:
        """The job of the chains."""
        chains, n = self.chains[0], self.system.n
        chains["systems"], chains["tolerance2"] = self.job[0]["systems"], self.job[0]["tolerance2"]
        chains["sizes"][: len(self.sizes)], chains["levels"] = self.sizes, len(self.sizes)
        chains["n"], chains["all_sides"] = n, self.sides
        for level, items, factor in zip(self.levels, self.sizes[1:], self.factor.chains, strict=True):
            slots = self.sides * self.count * items
            level["factor"] = factor.address
            self._empty(level, "z", (n, slots))
            self._empty(level, "x", (slots, n))
        self.job["separators"] = self.levels[0]["x"]

    def place(self, others: Mapping[str, int | None]) -> None:
        """Which array kernels see as each field: its own, unless the number of another is given, or None for zeros."""
        none = np.zeros((), self.inputs.dtype)
        for f, name in enumerate(FIELDS):
            source = others.get(name, f)
            self.job["in"][0, f] = none if source is None else self.inputs[source]

    def choose(self, first_side: int, sides: int, sizes: Place | None = None) -> None:
        """The sides that kernels work on; of these, what is small by the sizes given is left as it is."""
        for job in (self.job, self.chains):
            job["first_side"], job["sides"] = first_side, sides
            job["systems"]["sizes"] = 0 if sizes is None else sizes.address

    def launch(self, kernel: str, x: Place | None = None) -> None:
        """A kernel on points; x is what it fills."""
        self.job["x"]["data"] = 0 if x is None else x.address
        if self.count:
            lanes = self.lanes * int(self.job["sides"][0])
            self.planner.launch(self.module, f"smnn_{kernel}", lanes, self.job)

    def _launch_chains(self, kernel: str) -> None:
        """A kernel on all levels. A system has as many threads, or teams, of a warp as its widest level lanes; where
        a warp has too few teams for the first levels, these have launches of their own."""
        name, levels = f"smnn_chains_{kernel}", len(self.sizes)
        together = WARP // self.module.team(name)
        chunks = [*self.sizes[2:], 1]  # of level 1, 2, ..
        alone = sum(width > together for width in chunks) if together < WARP else 0
        widest = min(max(chunks), together)
        for level in range(1, alone + 1):
            self._launch_levels(name, level, level + 1, chunks[level - 1])
        self._launch_levels(name, alone + 1, levels, 1 << (widest - 1).bit_length())

    def _launch_levels(self, name: str, first: int, end: int, group: int) -> None:
        if self.count:
            self.chains["first_level"], self.chains["end_level"], self.chains["group"] = first, end, group
            lanes = self.count * int(self.chains["sides"][0]) * group
            self.planner.launch(self.module, name, lanes, self.chains)

    def eliminate(self, x: Place | None = None) -> None:
        """The factor, and z with R y = z; y as well, where there is memory for it."""
        n = self.system.n
        for level, items in zip(self.levels, self.sizes[1:], strict=True):
            self._empty(level, "ends", (3 * n * n + 4 * n, self.count * items))
        self.job["ends"] = self.levels[0]["ends"] if self.chunked else 0
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
                self._empty(level, "passed", (self.sides * self.count * items, 2, self.system.n))
        self.job["passed"] = self.levels[0]["passed"] if self.chunked else 0

    def solve_chains(self) -> None:
        """x of separators, from what chunks passed on."""
        if self.chunked:
            self._launch_chains("solve")

    def solution(self) -> Place:
        """Memory for x."""
        shape = *self.batch, self.system.n_steps, self.system.V, self.system.K
        return self.planner.take(Kind.RESULT, shape, self.dtype)


def lay_out_elimination(
    planner: Planner, system: Signature, batch: Shape, layouts: tuple[Layout | None, ...], with_solution: bool
) -> tuple[int, ...]:
    """The factor, and the solution where that is wanted. Returns the division of time."""
    call = Call(planner, system, batch, layouts)
    call.lay_out()
    call.eliminate(call.solution() if with_solution else None)
    return call.sizes


def lay_out_normal_solve(
    planner: Planner, system: Signature, batch: Shape, layouts: tuple[Layout | None, ...], sizes: tuple[int, ...]
) -> None:
    """x with M x = g, from the factor."""
    call = Call(planner, system, batch, layouts, sizes)
    call.lay_out()
    call.forward()
    call.launch("back", call.solution())


def lay_out_adjoint(
    planner: Planner,
    system: Signature,
    batch: Shape,
    layouts: tuple[Layout | None, ...],
    sizes: tuple[int, ...],
    wanted: tuple[bool, ...],
) -> None:
    """Gradients, from the factor; the arrays are those of the problem, nothing for smoothness rows, y and g."""
    call = Call(planner, system, batch, layouts, sizes, SIDES)
    adjoint.gradients(call, wanted)


def eliminated(
    device: Device, system: System, batch: Shape, arrays: Sequence[Array | None], with_solution: bool
) -> tuple[Kept, list[Array]]:
    """A factor for systems of a batch, and the solution where that is wanted."""
    signature = Signature.of(system)
    held, layouts, given = described(device, arrays, signature.itemsize)
    plan = device.plans(lay_out_elimination, signature, batch, layouts, with_solution)
    results, (flags,), (memory, addresses) = plan.run(device, given)
    del held
    addresses.append(device.address(flags))
    return Kept(batch, plan.value, memory, flags, addresses, sum(plan.kept.sizes)), results


@dataclass(frozen=True, eq=False)
class DeviceFactor:
    """The factor of a system: see `engines._interface.Factor`."""

    device: Device
    system: System
    kept: Kept

    @cached_property
    def undetermined(self) -> Array:
        """bool, (*system.batch, T)"""
        shape = *self.system.batch, self.system.n_steps
        return self.device.xp.reshape(self.kept.flags[: math.prod(shape)], shape)

    @property
    def nbytes(self) -> int:
        """The memory that the factor keeps."""
        return self.kept.nbytes

    def solve(self, d: Rows) -> Array:
        system = self.system
        smoothness = None
        if d.smoothness is not None:
            smoothness = d.smoothness @ system.constant(triangular_rows(system.scheme, system.K)[1])
        arrays = [*inputs_by_field(system, d.equation, d.initial), smoothness]
        return eliminated(self.device, system, system.batch_with(d), arrays, True)[1][0]

    def _run(self, lay_out: Callable[..., Any], batch: Shape, arrays: Sequence[Array | None], *key: Any) -> list[Array]:
        """The results of a plan that takes a factor: its own where the one kept is of another batch."""
        device, kept = self.device, self.kept
        if batch != kept.batch:
            kept, _ = eliminated(device, self.system, batch, inputs_by_field(self.system), False)
        signature = Signature.of(self.system)
        held, layouts, given = described(device, arrays, signature.itemsize)
        plan = device.plans(lay_out, signature, batch, layouts, kept.sizes, *key)
        results = plan.run(device, [*given, *kept.addresses]).results
        del held
        return results

    def normal_solve(self, g: Array) -> Array:
        batch = broadcast_shapes({"left-hand side": self.system.batch, "g": tuple(g.shape[:-3])})
        (x,) = self._run(lay_out_normal_solve, batch, [*inputs_by_field(self.system), None, None, g])
        return x

    def adjoint(self, problem: Problem, y: Array, g: Array, wanted: Gradients = ALL) -> Gradients:
        """All gradients; those that are not wanted are left out."""
        inputs, xp = inputs_by_field(problem.system, problem.rhs, problem.initial_values), self.device.xp
        which = tuple(map(bool, by_field(wanted)))
        found = iter(self._run(lay_out_adjoint, problem.batch, [*inputs, None, y, g], which))
        return from_fields(
            sum_to_shape(xp, next(found), tuple(x.shape)) if take else None
            for x, take in zip(inputs, which, strict=True)
        )


def factorize(device: Device, system: System) -> DeviceFactor:
    """Eliminates a left-hand side, once for all right-hand sides."""
    return DeviceFactor(device, system, eliminated(device, system, system.batch, inputs_by_field(system), False)[0])


def solve_problem(device: Device, problem: Problem) -> tuple[Array, DeviceFactor]:
    """The solution and the factor, in one sweep."""
    system = problem.system
    inputs = inputs_by_field(system, problem.rhs, problem.initial_values)
    kept, (y,) = eliminated(device, system, problem.batch, inputs, True)
    return y, DeviceFactor(device, system, kept)
