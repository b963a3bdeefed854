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
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from ..._arrays import Array, Shape, broadcast_shapes, sum_to_shape
from ..._fields import FIELDS as INPUTS
from ..._fields import Sizes
from ..._problem import ALL, Gradients, Problem, Rows, System, by_field, from_fields, inputs_by_field
from ..._schemes import Scheme, triangular_rows
from .._refinement import refined_once
from ..array_api import CompiledFactor
from .device import CupyDevice
from .layout import (
    FIELDS,
    MAX_AXES,
    MULTIPLIERS,
    N_GRADIENTS,
    Layout,
    Place,
    chain_job,
    lay_out,
    point_job,
    too_many_axes,
)
from .plan import Kind, Planner, described
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

    @property
    def scheme_rows(self) -> np.ndarray:
        """The scheme in triangular form, (2K, 2K)."""
        return triangular_rows(self.scheme, self.K)[0]

    def module(self, chunked: bool) -> Specialization:
        """The one that serves it. A scheme has extra rows if it has some on the next point alone, or is not upper
        triangular there."""
        S, K = self.scheme_rows, self.K
        extra_rows = bool(np.tril(S[:K, K:], -1).any() or S[K:].any())
        return Specialization(self.dtype, self.V, K, self.Q, extra_rows, chunked)


def numbers_of_point(module: Specialization) -> tuple[int, int]:
    """How many a point has in the factor (`FactorLayout`), and on the tape (`TapeLayout`)."""
    V, K, extra, chunked = module.V, module.K, module.extra_rows, module.chunked
    n = V * K
    absorbed = module.Q + 2 * n * extra
    factor = n * (n + 1) // 2 + K * K * V * (V + 1) // 2 + n * n * chunked
    tape = n * (n + 1) + n * (not extra) + 2 * n * absorbed * (1 + chunked) + absorbed + chunked
    return factor, tape


def cores(system: Signature) -> tuple[Shape, ...]:
    """The axes of each of `FIELDS` after those of the batch: time, and what a point has."""
    T, V, K = system.n_steps, system.V, system.K
    sizes = Sizes(T, system.Q, V, K, system.n_initial_steps, system.n_initial_orders)
    return *(field.core(sizes) for field in INPUTS.values()), (T - 1, V, 2 * K), (T, V, K), (T, V, K)


class Call:
    """One pass over a system as a plan: the jobs of its launches, and the memory that they share.

    `factorize`, `solve`, `normal_solve` and `adjoint` lay out all of it.
    """

    def __init__(
        self, planner: Planner, system: Signature, batch: Shape, layouts: Sequence[Layout | None], factor: Kind
    ) -> None:
        """
        Args:
            batch: of the results.
            layouts: of the arrays that are given, in the order of `FIELDS`, as many as there are; None is zeros.
            factor: whose memory it lies in. That of one that is given, for this batch, comes after the arrays.
        """
        self.planner, self.system, self.batch = planner, system, batch
        self.count, self.cores, self.dtype = math.prod(batch), cores(system), system.dtype
        team = system.module(chunked=True).team("smnn_sweep")
        self.sizes = planner.grain.divide(self.count, system.n_steps, team)
        self.chunked = len(self.sizes) > 1
        self.chunks = self.sizes[1] if self.chunked else 1
        self.lanes = self.count * self.chunks
        self.longest = -(-self.sizes[0] // self.chunks)
        """points of a lane"""
        self.module = system.module(self.chunked)
        self.arrays = [None if x is None else planner.given(x, self.dtype) for x in layouts]
        self.jobs = np.zeros(1, point_job(self.dtype, system.K))
        self.chain_jobs = np.zeros(1, chain_job(self.dtype))
        self.job, self.chains = self.jobs[0], self.chain_jobs[0]
        self.levels = list(zip(self.chains["level"][1:], self.sizes[1:], strict=False))
        """of chains, with the items of each system"""
        self._lay_out(self._place_factor(factor))

    def _place_factor(self, kind: Kind) -> Place:
        """Memory of the factor of points, of those of the chains, level by level, and of the flags: those of
        undetermined points, (*system.batch, T), which are returned, and, after them, of systems that have some."""
        n, itemsize = self.system.n, self.system.itemsize

        def place(*shape: int) -> int:
            # (bytes, since numbers that a call makes are taken for what it returns: `_cupy.results`)
            return self.planner.take(kind, (math.prod(shape) * itemsize,), "uint8")

        self.job["factor"] = place(self.longest - self.chunked, numbers_of_point(self.module)[0], self.lanes)
        for level, items in self.levels:
            level["factor"] = place(2 if items == self.sizes[-1] else 3, n, n, self.count, items)
        shape = *self.system.batch, self.system.n_steps
        size = math.prod(shape)
        flags = self.planner.take(kind if kind is Kind.GIVEN else Kind.ZEROS, (size + self.count,), "bool")
        self.job["systems"]["undetermined"], self.job["systems"]["bad"] = flags, flags + size
        return Place(flags, shape, tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape))))

    def _lay_out(self, flags: Place) -> None:
        """The jobs but for what is particular to a kind of call."""
        system, job, chains, n = self.system, self.job, self.chains, self.system.n
        systems, cores = job["systems"], [*self.cores[: len(self.arrays)], flags.shape[-1:]]
        inputs = lay_out(self.batch, [*self.arrays, flags], cores, systems)
        job["in"][: len(self.arrays)] = inputs[:-1]
        systems["flag_strides"][:MAX_AXES], systems["flag_strides"][MAX_AXES] = inputs[-1]["batch"], 1
        # without orders there are no initial rows
        job["T_init"] = system.n_initial_steps if system.n_initial_orders else 0
        job["R_init"], job["points"], job["chunks"] = system.n_initial_orders, system.n_steps, self.chunks
        for one in (job, chains):
            one["V"], one["Q"], one["tolerance2"] = system.V, system.Q, (8 * n * float(np.finfo(self.dtype).eps)) ** 2
        S = system.scheme_rows
        job["scheme_norm2"], job["scheme_rows"] = np.sum(S * S, axis=0), S.ravel()
        chains["systems"] = systems
        chains["sizes"][: len(self.sizes)], chains["levels"] = self.sizes, len(self.sizes)
        self._of_lanes("z", self.longest * n)
        for name in ("z", "x"):
            self._of_items(name, n)

    def _scratch(self, count: int) -> int:
        """Memory for so many numbers, as long as the call lasts. `job.hpp` has their shapes."""
        return self.planner.take(Kind.SCRATCH, (count,), self.dtype)

    def _of_lanes(self, name: str, numbers: int) -> None:
        """So many of each lane."""
        self.job[name] = self._scratch(numbers * self.lanes)

    def _of_items(self, name: str, numbers: int) -> None:
        """So many of each item of every level of chains."""
        for level, items in self.levels:
            level[name] = self._scratch(numbers * self.count * items)

    def launch(self, kernel: str) -> None:
        """A kernel on points."""
        self.job["above"] = self.chains["level"][1]
        if self.count:
            self.planner.launch(self.module, f"smnn_{kernel}", self.lanes, self.jobs)

    def _launch_chains(self, kernel: str) -> None:
        """A kernel on all levels, if there are any. A system has as many threads, or teams, of a warp as its widest
        level lanes; where a warp has too few teams for the first levels, these have launches of their own."""
        if not self.chunked or not self.count:
            return
        name, levels = f"smnn_chains_{kernel}", len(self.sizes)
        together = WARP // self.module.team(name)
        chunks = [*self.sizes[2:], 1]  # of level 1, 2, ..
        alone = sum(width > together for width in chunks) if together < WARP else 0
        group = 1 << (min(max(chunks), together) - 1).bit_length()
        launches = [(level, level + 1, chunks[level - 1]) for level in range(1, alone + 1)]
        for first, end, width in (*launches, (alone + 1, levels, group)):
            self.chains["first_level"], self.chains["end_level"], self.chains["group"] = first, end, width
            self.planner.launch(self.module, name, self.count * width, self.chain_jobs)

    def _eliminate(self, kernel: str, back: bool) -> None:
        """The factor, and z with R y = z; by `record` the tape as well. x of separators where `back` is set."""
        n = self.system.n
        self._of_items("ends", 3 * n * n + 4 * n)
        self.chains["back"] = back
        self.launch(kernel)
        self._launch_chains(kernel)

    def _forward(self) -> None:
        """w with R^T w = g in the place of z, and x of separators."""
        self._of_items("passed", 2 * self.system.n)
        self.launch("forward")
        self._launch_chains("solve")

    def _substitute(self) -> None:
        """The solution, from z."""
        shape = *self.batch, self.system.n_steps, self.system.V, self.system.K
        self.job["x"] = self.planner.take(Kind.RESULT, shape, self.dtype)
        self.launch("back")

    def factorize(self) -> None:
        """The factor."""
        self._eliminate("sweep", back=False)

    def solve(self) -> None:
        """The solution."""
        self._eliminate("sweep", back=True)
        self._substitute()

    def normal_solve(self) -> None:
        """x with M x = g, from a factor that is given."""
        self._forward()
        self._substitute()

    def adjoint(self, wanted: tuple[bool, ...]) -> None:
        """Gradients; the arrays are those of the problem, nothing for smoothness rows, y and g."""
        self._make_room_for_adjoint()
        self._eliminate("record", back=False)
        self._forward()
        self.launch("unwind")
        self._launch_chains("solve")  # (of what chunks have passed on; multipliers of what they have left)
        self._take_gradients(wanted)
        self.launch("contract")

    def _make_room_for_adjoint(self) -> None:
        """The tape (`TapeLayout`, `chain_tape_entries`), and what one pass leaves for the next."""
        system, n, chunked = self.system, self.system.n, self.chunked
        initial = system.V * system.n_initial_orders
        of_initial = min(system.n_initial_steps, self.longest) * initial * (2 * n * (1 + chunked) + 1)
        self._of_lanes("tape", self.longest * numbers_of_point(self.module)[1] + of_initial)
        self._of_lanes("lambda", self.longest * n)
        self._of_lanes("products", self.longest * (system.Q + n * (1 + self.module.extra_rows)))
        self.job["initial"] = self._scratch(self.count * system.n_initial_steps * initial)
        self._of_items("tape", 5 * (3 * n * n - n) + 2 * n)
        self._of_items("multipliers", 2 * n * MULTIPLIERS)

    def _take_gradients(self, wanted: tuple[bool, ...]) -> None:
        """Room for gradients, summed over the points of each lane where an input is constant in time."""
        initial = FIELDS.index("initial_values"), FIELDS.index("weights.initial")
        for f, core in enumerate(self.cores[:N_GRADIENTS]):
            out = self.job["gradient"][f]
            if not wanted[f]:
                out["over_time"] = True  # (nothing is written before the end of a lane, and then nowhere)
                continue
            x, (times, *inner) = self.arrays[f], core
            assert x is not None
            over_time = f not in initial and times > 1 and (len(x.shape) < len(core) or x.shape[-len(core)] == 1)
            shape = *self.batch, self.chunks if over_time else times, *inner
            out["data"], out["over_time"] = self.planner.take(Kind.RESULT, shape, self.dtype), over_time


def _lay_out(planner: Planner, work: Callable[..., None], call: tuple[Any, ...], *options: Any) -> None:
    """A method of `Call`, as a plan."""
    work(Call(planner, *call), *options)


@dataclass(frozen=True, eq=False)
class CudaFactor(CompiledFactor):
    """A factor on a device. Its calls run there. It is kept from the first call on that needs it."""

    device: CupyDevice
    system: System
    flags: Array | None = None
    """of a solve that kept nothing else; see `Call`"""

    @cached_property
    def kept(self) -> list[Array]:
        """The factor of points and those of the chains, level by level, and the flags."""
        return self._kept_of(self.system.batch)

    def _kept_of(self, batch: Shape) -> list[Array]:
        """The same for each system of a batch."""
        return self._run(Call.factorize, Kind.RESULT, batch, inputs_by_field(self.system))

    def _run(
        self,
        work: Callable[..., None],
        factor: Kind,
        batch: Shape,
        arrays: Sequence[Array | None],
        *options: Any,
        given: Sequence[Array] = (),
    ) -> list[Array]:
        """The results of a method of `Call`, and the flags where the factor is not given."""
        device, signature = self.device, Signature.of(self.system)
        with device.current():
            held, layouts, addresses = described(device, arrays, signature.itemsize)
            plan = device.plans(_lay_out, work, (signature, batch, layouts, factor), *options)
            found = plan.run(device, [*addresses, *map(device.address, given)])
        del held
        return found

    @cached_property
    def undetermined(self) -> Array:  # type: ignore[override]
        """bool, (*system.batch, T)"""
        shape = *self.system.batch, self.system.n_steps
        flags = self.kept[-1] if self.flags is None else self.flags
        return self.device.xp.reshape(flags[: math.prod(shape)], shape)

    def solve(self, d: Rows) -> Array:
        system, batch = self.system, self.system.batch_with(d)
        if too_many_axes(batch):
            return self._by_array_api.solve(d)
        smoothness = None
        if d.smoothness is not None:
            with self.device.current():
                smoothness = d.smoothness @ system.constant(triangular_rows(system.scheme, system.K)[1])
        arrays = [*inputs_by_field(system, d.equation, d.initial), smoothness]
        return self._run(Call.solve, Kind.SCRATCH, batch, arrays)[0]

    def normal_solve(self, g: Array) -> Array:
        batch = broadcast_shapes({"left-hand side": self.system.batch, "g": tuple(g.shape[:-3])})
        if too_many_axes(batch):
            return self._by_array_api.normal_solve(g)
        kept = self.kept if batch == self.system.batch else self._kept_of(batch)
        arrays = [*inputs_by_field(self.system), None, None, g]
        return self._run(Call.normal_solve, Kind.GIVEN, batch, arrays, given=kept)[0]

    def _augmented(self, f: Rows | None, g: Array | None) -> tuple[Rows, Array]:
        """As one more solution and its correction."""
        return refined_once(self, f, g)

    def adjoint(self, problem: Problem, y: Array, g: Array, wanted: Gradients = ALL) -> Gradients:
        """All gradients; those that are not wanted are left out. Elimination is done again, and no factor kept."""
        if too_many_axes(problem.batch):
            return self._by_array_api.adjoint(problem, y, g, wanted)
        inputs = inputs_by_field(problem.system, problem.rhs, problem.initial_values)
        which = tuple(map(bool, by_field(wanted)))
        found = iter(self._run(Call.adjoint, Kind.SCRATCH, problem.batch, [*inputs, None, y, g], which))
        with self.device.current():
            return from_fields(
                sum_to_shape(self.device.xp, next(found), tuple(x.shape)) if take else None
                for x, take in zip(inputs, which, strict=True)
            )


def factorize(device: CupyDevice, system: System) -> CudaFactor:
    """Eliminates a left-hand side, once for all right-hand sides."""
    factor = CudaFactor(device, system)
    assert factor.kept
    return factor


def solve_problem(device: CupyDevice, problem: Problem) -> tuple[Array, CudaFactor]:
    """The solution and the factor, in one sweep."""
    inputs = inputs_by_field(problem.system, problem.rhs, problem.initial_values)
    y, flags = CudaFactor(device, problem.system)._run(Call.solve, Kind.SCRATCH, problem.batch, inputs)
    return y, CudaFactor(device, problem.system, flags)
