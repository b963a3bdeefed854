"""Calls of the kernels: jobs and the order of launches, laid out as plans (`plan.py`).

A solve sweeps the points of every lane (a chunk of a system). Where time is divided, the separators that chunks leave
form a chain, which is divided again until one lane can sweep what is left; substitution goes back down:

    sweep points -> sweep chains, level by level, and substitute in them, last level first -> substitute in points

which are three launches, as the levels of a system are swept by threads of one warp, which wait for each other there.
(Teams of threads sweep larger points, and a warp has few teams: then wide levels have launches of their own.) A normal
solve goes the same way with R^T w = g in the place of the sweeps. An adjoint sweeps again and records the rotations,
the tape (`kernels/tape.hpp`), whose way back leads to the multipliers v = Q R^-T g of the rows; what these leave of g
takes the same way once more, whatever it is, since nobody waits for the device to know:

    record -> [chains] -> forward (g) -> [chains] -> unwind, forward (g - (W A)^T v) -> [chains] -> contract

Nothing here waits for the device.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, NamedTuple

import numpy as np

from ..._arrays import Array, Shape, broadcast_shapes, sum_to_shape
from ..._fields import FIELDS as INPUTS
from ..._fields import Sizes
from ..._problem import ALL, Gradients, Problem, Rows, System, by_field, from_fields, inputs_by_field
from ..._schemes import Scheme, triangular_rows
from .layout import FIELDS, MAX_AXES, MULTIPLIERS, N_GRADIENTS, chain_job, lay_out, point_job
from .plan import Device, Kind, Layout, Place, Plan, Planner, Run, described
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


def numbers_of_point(system: Signature, chunked: bool) -> tuple[int, int]:
    """How many a point has in the factor (`FactorLayout`), and on the tape (`TapeLayout`)."""
    n, K, V = system.n, system.K, system.V
    extra = constants(system.scheme, K).extra_rows
    absorbed = system.Q + 2 * n * extra
    factor = n * (n + 1) // 2 + K * K * V * (V + 1) // 2 + n * n * chunked
    tape = n * (n + 1) + n * (not extra) + 2 * n * absorbed * (1 + chunked) + absorbed + chunked
    return factor, tape


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
    return *(field.core(sizes) for field in INPUTS.values()), (T - 1, V, 2 * K), (T, V, K), (T, V, K)


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
        factor: Kind,
        sizes: tuple[int, ...] = (),
    ) -> None:
        """
        Args:
            batch: of the results.
            layouts: of the arrays that are given, in the order of `FIELDS`, as many as there are; None is zeros.
            factor: whose memory it lies in. Where it is given for this batch, it comes after the arrays.
            sizes: the division of time of a factor that is given.
        """
        self.planner, self.system, self.batch = planner, system, batch
        self.count, self.cores = math.prod(batch), cores(system)
        team = specialization(system, True).team("smnn_sweep")
        self.sizes = sizes or planner.grain.divide(self.count, system.n_steps, team)
        self.chunked = len(self.sizes) > 1
        self.chunks = self.sizes[1] if self.chunked else 1
        self.lanes = self.count * self.chunks
        self.longest = -(-self.sizes[0] // self.chunks)
        """points of a lane"""
        self.module = specialization(system, self.chunked)
        self.dtype = system.dtype
        self.arrays = [None if x is None else planner.given(x, self.dtype) for x in layouts]
        self.jobs = np.zeros(1, point_job(self.dtype, system.K))
        self.chain_jobs = np.zeros(1, chain_job(self.dtype))
        self.job, self.chains = self.jobs[0], self.chain_jobs[0]
        self.levels = list(zip(self.chains["level"][1:], self.sizes[1:], strict=False))
        """of chains, with the items of each system"""
        self._lay_out(factor)

    def _lay_out(self, kind: Kind) -> None:
        """The jobs but for what is particular to a kind of call."""
        system, job, n = self.system, self.job, self.system.n
        flags = self._place_factor(kind)
        systems, cores = job["systems"], [*self.cores[: len(self.arrays)], flags.shape[-1:]]
        inputs = lay_out(self.batch, [*self.arrays, flags], cores, systems)
        job["in"][: len(self.arrays)] = inputs[:-1]
        systems["flag_strides"][:MAX_AXES], systems["flag_strides"][MAX_AXES] = inputs[-1]["batch"], 1
        # without orders there are no initial rows
        job["T_init"] = system.n_initial_steps if system.n_initial_orders else 0
        job["R_init"], job["points"], job["chunks"] = system.n_initial_orders, system.n_steps, self.chunks
        job["V"], job["orders"], job["Q"] = system.V, system.K, system.Q
        job["tolerance2"] = (8 * n * float(np.finfo(self.dtype).eps)) ** 2
        scheme = constants(system.scheme, system.K)
        job["scheme_norm2"], job["scheme_rows"] = scheme.norm2, scheme.rows
        self._empty(job, "z", (self.longest, n, self.lanes))
        chains = self.chains
        chains["systems"], chains["tolerance2"], chains["n"] = systems, job["tolerance2"], n
        chains["sizes"][: len(self.sizes)], chains["levels"] = self.sizes, len(self.sizes)
        for level, items in self.levels:
            self._empty(level, "z", (n, self.count * items))
            self._empty(level, "x", (self.count * items, n))
        job["separators"] = chains["level"][1]["x"]

    def _place_factor(self, kind: Kind) -> Place:
        """Memory of the factor of points, of those of the chains, level by level, and of the flags, which are returned:
        those of undetermined points, (*system.batch, T), and, after them, of systems that have some."""
        system, n = self.system, self.system.n
        entries, _ = numbers_of_point(system, self.chunked)
        shapes: list[Shape] = [(self.longest - self.chunked, entries, self.lanes)]
        shapes += [((2 if i == len(self.sizes) - 1 else 3) * n * n, self.count * self.sizes[i]) for i in self.numbers]
        points, *chains = (self.planner.take(kind, shape, self.dtype).address for shape in shapes)
        self.job["factor"] = points
        for (level, _), factor in zip(self.levels, chains, strict=True):
            level["factor"] = factor
        flagged = *system.batch, system.n_steps
        size = math.prod(flagged)
        both = self.planner.take(kind if kind is Kind.GIVEN else Kind.ZEROS, (size + self.count,), "bool")
        undetermined, bad = both.part(flagged, 1, 0), both.part((self.count,), 1, size)
        self.job["systems"]["bad"], self.job["systems"]["undetermined"] = bad.address, undetermined.address
        return undetermined

    @property
    def numbers(self) -> range:
        """Of the levels of chains."""
        return range(1, len(self.sizes))

    def _empty(self, job: np.void, name: str, shape: Shape) -> None:
        """Memory under the name of a job, as long as the call lasts."""
        job[name] = self.planner.take(Kind.SCRATCH, shape, self.dtype).address

    def launch(self, kernel: str) -> None:
        """A kernel on points."""
        if self.count:
            self.planner.launch(self.module, f"smnn_{kernel}", self.lanes, self.jobs)

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
            self.planner.launch(self.module, name, self.count * group, self.chain_jobs)

    def eliminate(self, kernel: str, back: bool) -> None:
        """The factor, and z with R y = z; by `record` the tape as well. x of separators where `back` is set."""
        n = self.system.n
        for level, items in self.levels:
            self._empty(level, "ends", (3 * n * n + 4 * n, self.count * items))
        self.job["ends"] = self.chains["level"][1]["ends"]
        self.launch(kernel)
        if self.chunked:
            self.chains["back"] = back
            self._launch_chains(kernel)

    def forward(self) -> None:
        """w with R^T w = g in the place of z, and x of separators."""
        for level, items in self.levels:
            self._empty(level, "passed", (self.count * items, 2, self.system.n))
        self.job["passed"] = self.chains["level"][1]["passed"]
        self.launch("forward")
        self.solve_chains()

    def solve_chains(self) -> None:
        """x of separators, and multipliers of what chunks have left, from what chunks passed on."""
        if self.chunked:
            self._launch_chains("solve")

    def substitute(self) -> None:
        """The solution, from z."""
        shape = *self.batch, self.system.n_steps, self.system.V, self.system.K
        self.job["x"] = self.planner.take(Kind.RESULT, shape, self.dtype).address
        self.launch("back")

    def make_room_for_adjoint(self) -> None:
        """The tape (`TapeLayout`, `chain_tape_entries`), and what one pass leaves for the next."""
        system, n, extra = self.system, self.system.n, self.module.extra_rows
        _, of_point = numbers_of_point(system, self.chunked)
        initial = system.V * system.n_initial_orders
        of_initial = min(system.n_initial_steps, self.longest) * initial * (2 * n * (1 + self.chunked) + 1)
        self._empty(self.job, "tape", (self.longest * of_point + of_initial, self.lanes))
        self._empty(self.job, "lambda", (self.longest, n, self.lanes))
        self._empty(self.job, "products", (self.longest, system.Q + n * (1 + extra), self.lanes))
        self._empty(self.job, "initial", (self.count, system.n_initial_steps, initial))
        for (level, items), i in zip(self.levels, self.numbers, strict=True):
            of_step = (3 if i == len(self.sizes) - 1 else 5) * (3 * n * n - n) + 2 * n
            self._empty(level, "tape", (of_step, self.count * items))
            self._empty(level, "multipliers", (self.count * items, 2 * n, MULTIPLIERS))
        self.job["multipliers"] = self.chains["level"][1]["multipliers"]

    def take_gradients(self, wanted: tuple[bool, ...]) -> None:
        """Room for gradients, summed over the points of each lane where an input is constant in time."""
        initial = FIELDS.index("initial_values"), FIELDS.index("weights.initial")
        for f, core in enumerate(self.cores[:N_GRADIENTS]):
            out = self.job["gradient"][f]
            if not wanted[f]:
                out["over_time"] = True  # (nothing is written before the end of a lane, and then nowhere)
                continue
            x, (times, *inner) = self.arrays[f], core
            assert x is not None
            over_time = f not in initial and times > 1 and (x.ndim < len(core) or x.shape[-len(core)] == 1)
            shape = *self.batch, self.chunks if over_time else times, *inner
            out["data"], out["over_time"] = self.planner.take(Kind.RESULT, shape, self.dtype).address, over_time


def lay_out_factor(
    planner: Planner, system: Signature, batch: Shape, layouts: tuple[Layout | None, ...]
) -> tuple[int, ...]:
    """The factor, which is kept. Returns the division of time."""
    call = Call(planner, system, batch, layouts, Kind.KEPT)
    call.eliminate("sweep", back=False)
    return call.sizes


def lay_out_solve(planner: Planner, system: Signature, batch: Shape, layouts: tuple[Layout | None, ...]) -> None:
    """The solution."""
    call = Call(planner, system, batch, layouts, Kind.SCRATCH)
    call.eliminate("sweep", back=True)
    call.substitute()


def lay_out_normal_solve(
    planner: Planner, system: Signature, batch: Shape, layouts: tuple[Layout | None, ...], sizes: tuple[int, ...]
) -> None:
    """x with M x = g, from the factor."""
    call = Call(planner, system, batch, layouts, Kind.GIVEN, sizes)
    call.forward()
    call.substitute()


def lay_out_adjoint(
    planner: Planner, system: Signature, batch: Shape, layouts: tuple[Layout | None, ...], wanted: tuple[bool, ...]
) -> None:
    """Gradients; the arrays are those of the problem, nothing for smoothness rows, y and g."""
    call = Call(planner, system, batch, layouts, Kind.SCRATCH)
    call.make_room_for_adjoint()
    call.eliminate("record", back=False)
    call.forward()
    call.launch("unwind")
    call.solve_chains()
    call.take_gradients(wanted)
    call.launch("contract")


def _run(
    device: Device,
    system: System,
    lay_out: Callable[..., Any],
    batch: Shape,
    arrays: Sequence[Array | None],
    *key: Any,
    addresses: Sequence[int] = (),
) -> tuple[Plan, Run]:
    """A plan, and a run of it."""
    signature = Signature.of(system)
    held, layouts, given = described(device, arrays, signature.itemsize)
    plan = device.plans(lay_out, signature, batch, layouts, *key)
    run = plan.run(device, [*given, *addresses])
    del held
    return plan, run


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

    @staticmethod
    def of(device: Device, system: System, batch: Shape) -> Kept:
        """Elimination."""
        plan, run = _run(device, system, lay_out_factor, batch, inputs_by_field(system))
        (flags,), (memory, addresses) = run.zeros, run.kept
        addresses = [*addresses, device.address(flags)]
        return Kept(batch, plan.value, memory, flags, addresses, sum(plan.kept.sizes))


@dataclass(frozen=True, eq=False)
class DeviceFactor:
    """The factor of a system: see `engines._interface.Factor`. It is kept from the first call on that needs it."""

    device: Device
    system: System
    flags: Array | None = None
    """`Kept.flags`, of a solve that kept nothing else"""

    @cached_property
    def kept(self) -> Kept:
        return Kept.of(self.device, self.system, self.system.batch)

    @cached_property
    def undetermined(self) -> Array:
        """bool, (*system.batch, T)"""
        shape = *self.system.batch, self.system.n_steps
        flags = self.kept.flags if self.flags is None else self.flags
        return self.device.xp.reshape(flags[: math.prod(shape)], shape)

    def solve(self, d: Rows) -> Array:
        system = self.system
        smoothness = None
        if d.smoothness is not None:
            smoothness = d.smoothness @ system.constant(triangular_rows(system.scheme, system.K)[1])
        arrays = [*inputs_by_field(system, d.equation, d.initial), smoothness]
        return _run(self.device, system, lay_out_solve, system.batch_with(d), arrays)[1].results[0]

    def normal_solve(self, g: Array) -> Array:
        system, kept = self.system, self.kept
        batch = broadcast_shapes({"left-hand side": system.batch, "g": tuple(g.shape[:-3])})
        if batch != kept.batch:
            kept = Kept.of(self.device, system, batch)
        arrays = [*inputs_by_field(system), None, None, g]
        run = _run(self.device, system, lay_out_normal_solve, batch, arrays, kept.sizes, addresses=kept.addresses)[1]
        return run.results[0]

    def adjoint(self, problem: Problem, y: Array, g: Array, wanted: Gradients = ALL) -> Gradients:
        """All gradients; those that are not wanted are left out. Elimination is done again, and no factor kept."""
        inputs, xp = inputs_by_field(problem.system, problem.rhs, problem.initial_values), self.device.xp
        which = tuple(map(bool, by_field(wanted)))
        arrays = [*inputs, None, y, g]
        found = iter(_run(self.device, problem.system, lay_out_adjoint, problem.batch, arrays, which)[1].results)
        return from_fields(
            sum_to_shape(xp, next(found), tuple(x.shape)) if take else None
            for x, take in zip(inputs, which, strict=True)
        )


def factorize(device: Device, system: System) -> DeviceFactor:
    """Eliminates a left-hand side, once for all right-hand sides."""
    factor = DeviceFactor(device, system)
    assert factor.kept
    return factor


def solve_problem(device: Device, problem: Problem) -> tuple[Array, DeviceFactor]:
    """The solution and the factor, in one sweep."""
    system = problem.system
    inputs = inputs_by_field(system, problem.rhs, problem.initial_values)
    run = _run(device, system, lay_out_solve, problem.batch, inputs)[1]
    return run.results[0], DeviceFactor(device, system, run.zeros[0])
