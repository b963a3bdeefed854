"""Plans of the CUDA engine: jobs laid out once, run at the addresses of other arrays."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from _emulator import Emulator
from _engine_cases import random_problem

from smnn_core._problem import Problem
from smnn_core.engines._cuda import host, layout
from smnn_core.engines._cuda.device import ends
from smnn_core.engines._cuda.grain import Grain
from smnn_core.engines._cuda.plan import Kind, Planner, described, plans_of
from smnn_core.engines._cuda.source import Specialization

JOB = layout.chain_job("float64")
MODULE = Specialization("float64", 1, 3, 1, extra_rows=False, chunked=True)


class Jobs(Emulator):
    """Keeps the jobs, and runs nothing."""

    def __init__(self) -> None:
        super().__init__(Grain(lanes=1))
        self.jobs: list[np.ndarray] = []
        self.laid_out = 0

    def launch(self, module: Specialization, kernel: str, lanes: int, job: np.ndarray) -> None:
        self.jobs.append(job.copy())

    def prepare(self, *launch: object) -> Callable[[np.ndarray], None]:
        self.laid_out += 1
        return super().prepare(*launch)


def lay_out(planner: Planner) -> None:
    """One launch of a job of which every byte that is no address is 0x7F: what numbers and gaps may hold."""
    x = planner.given(((4,), (8,)), "float64")
    scratch = planner.take(Kind.SCRATCH, (2, 5), "float64")
    zeros, result = planner.take(Kind.ZEROS, (7,), "float32"), planner.take(Kind.RESULT, (3,), "float64")
    job = np.full(JOB.itemsize, 0x7F, np.uint8).view(JOB)
    job.view(np.uint64)[layout.pointers_of(JOB)] = 0
    level = job[0]["level"][1]
    level["z"], level["x"], level["ends"], level["factor"] = x.address, result, scratch + 40, zeros
    planner.launch(MODULE, "smnn_chains_sweep", 1, job)


def test_a_run_writes_addresses_and_nothing_else() -> None:
    device, x = Jobs(), np.zeros(4)
    result, zeros = plans_of(device)(lay_out).run(device, [device.address(x)])
    job = device.jobs[0].view(JOB)[0]
    level = job["level"][1]
    assert [level[name] for name in ("z", "x", "factor")] == [x.ctypes.data, *map(device.address, (result, zeros))]
    assert result.shape == (3,)
    assert not zeros.any()
    assert level["ends"] % 256 == 40  # the second row of what starts at a multiple of 256
    assert job["levels"] == job["sizes"][3] == 0x7F7F7F7F
    addresses = np.isin(np.arange(JOB.itemsize // 8), layout.pointers_of(JOB))
    assert (device.jobs[0].view(np.uint64)[~addresses] == 0x7F7F7F7F7F7F7F7F).all()
    assert np.count_nonzero(device.jobs[0].view(np.uint64)[addresses]) == 4


def test_all_that_is_an_address_is_found() -> None:
    assert layout.pointers_of(layout.point_job("float32", 3)).size == 2 + 10 + 7 + 7 + 7


def test_pieces_lie_apart_and_aligned() -> None:
    assert ends((1, 0, 256, 257)) == (0, 256, 256, 512, 1024)
    assert ends(()) == (0,)


def other(problem: Problem, seed: int) -> Problem:
    """Other numbers in the same shapes."""
    rng, system = np.random.default_rng(seed), problem.system
    arrays = system.coefficients, problem.rhs, problem.initial_values, system.step_sizes
    return Problem.build(*(rng.uniform(0.1, 1, x.shape) for x in arrays))


def test_the_same_shapes_are_laid_out_once_and_others_again() -> None:
    device, problem = Jobs(), random_problem(np.random.default_rng(0), (3,), 9, 1, 3, 1)
    y, factor = host.solve_problem(device, problem)
    factor.adjoint(problem, y, y)
    laid_out = device.laid_out
    again = other(problem, 1)
    y, factor = host.solve_problem(device, again)
    factor.adjoint(again, y, y)
    assert device.laid_out == laid_out
    factor.adjoint(again, y, y[::-1])
    assert device.laid_out > laid_out


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_numbers_that_lie_between_are_copied(dtype: str) -> None:
    """Kernels read them at multiples of their size alone."""
    device, itemsize = Jobs(), np.dtype(dtype).itemsize
    between = np.frombuffer(bytearray(5 * itemsize + 1), np.uint8)[1:].view(dtype)
    fields = np.zeros(5, np.dtype([("a", "u1"), ("x", dtype)]))["x"]
    plain = np.zeros(5, dtype)
    held, layouts, addresses = described(device, [between, fields, plain, None], itemsize)
    assert [x is y for x, y in zip(held, (between, fields, plain, None), strict=True)] == [False, False, True, True]
    assert layouts == (((5,), (itemsize,)),) * 3 + (None,)
    assert addresses[2] == plain.ctypes.data
    assert not any(address % itemsize for address in addresses)
