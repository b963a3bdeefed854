"""Calls of `engines.cuda` to CuPy, with a CuPy whose arrays are NumPy's and whose modules run on the CPU."""

from __future__ import annotations

import shutil
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
from _emulator import COMPILER, Emulator
from _engine_cases import gradients_by_name, random_problem

import smnn_core as smnn
from smnn_core._problem import Problem, by_field, from_fields
from smnn_core.engines import cuda, select
from smnn_core.engines._cuda import host
from smnn_core.engines._cuda.device import CupyDevice, compiled
from smnn_core.engines._cuda.grain import Grain
from smnn_core.engines._cuda.source import ADJOINT, BLOCK, NVRTC_OPTIONS, PARTS, SOLVE

GRAIN = Grain(lanes=1000, shortest=3, fewest=2, radix=4, last=3, gain=np.inf)


class DeviceArray(np.ndarray):
    """A NumPy array with the attributes of CuPy's."""

    data = property(lambda self: SimpleNamespace(ptr=self.ctypes.data))
    device = property(lambda self: SimpleNamespace(id=0))


class Cupy:
    """The part of CuPy that the engine uses."""

    def __init__(self) -> None:
        self.emulator = Emulator(GRAIN, block=BLOCK)
        self.compiled: list[int] = []
        self.cuda = SimpleNamespace(Device=lambda index: nullcontext(), alloc=self.alloc)

    def alloc(self, size):
        memory = self.emulator.empty((size,), "uint8")
        return SimpleNamespace(mem=memory, ptr=memory.ctypes.data)

    def empty(self, shape, dtype):
        return self.emulator.empty(shape, dtype).view(DeviceArray)

    def zeros(self, shape, dtype):
        return self.emulator.zeros(shape, dtype).view(DeviceArray)

    def RawModule(self, *, code, options, backend):
        assert (options, backend) == (NVRTC_OPTIONS, "nvrtc")
        module, part = next((m, p) for m in self.modules for p in PARTS if m.source_of(p) == code)
        self.compiled.append(part)

        def function(name):
            def launch(grid, block, arguments):
                (job,) = arguments
                assert job.shape == (1,)
                assert block == (module.block(name),)
                self.emulator.launch(module, name, grid[0] * block[0] // module.team(name), job)

            return launch

        return SimpleNamespace(get_function=function)


@pytest.fixture
def cupy(monkeypatch):
    fake = Cupy()
    device = CupyDevice(fake, 0, Emulator.xp, GRAIN)
    monkeypatch.setattr(cuda, "_device", lambda index: device)
    compiled.cache_clear()
    yield fake
    compiled.cache_clear()


def on_device(problem: Problem) -> Problem:
    system = problem.system
    arrays = (system.coefficients, problem.rhs, problem.initial_values, system.step_sizes)
    weights = smnn.Weights(**{k: w.view(DeviceArray) for k, w in vars(system.weights).items()})
    return Problem.build(*(x.view(DeviceArray) for x in arrays), scheme=system.scheme, weights=weights)


@pytest.mark.skipif(not shutil.which(COMPILER), reason="no C++ compiler")
def test_launches_what_the_host_side_plans(cupy) -> None:
    problem = random_problem(np.random.default_rng(0), (3,), 31, 1, 3, 1)
    y, factor = host.solve_problem(Emulator(GRAIN), problem)
    g = np.ones_like(y)
    given = on_device(problem)
    cupy.modules = [host.Signature.of(problem.system).module(chunked=True)]
    found, found_factor = cuda.CudaEngine().solve_problem(given)
    np.testing.assert_array_equal(found, y)
    assert cupy.compiled == [SOLVE]
    np.testing.assert_array_equal(found_factor.normal_solve(g.view(DeviceArray)), factor.normal_solve(g))
    np.testing.assert_array_equal(cuda.CudaEngine().factorize(given.system).solve(given.rows), y)
    gradients = found_factor.adjoint(given, found, g.view(DeviceArray))
    for name, value in gradients_by_name(factor.adjoint(problem, y, g)).items():
        np.testing.assert_array_equal(gradients_by_name(gradients)[name], value)
    only = found_factor.adjoint(given, found, g.view(DeviceArray), from_fields(i == 3 for i in range(7)))
    assert [x is not None for x in by_field(only)] == [i == 3 for i in range(7)]
    np.testing.assert_array_equal(only.step_sizes, gradients.step_sizes)
    assert [x.nbytes for x in found_factor.kept] == [x.nbytes for x in factor.kept]
    assert cupy.compiled == [SOLVE, ADJOINT]


def test_refuses_arrays_of_others_with_a_reason() -> None:
    system = random_problem(np.random.default_rng(1), (), 12, 1, 3, 1).system
    assert "serves CuPy arrays, and the coefficients are ndarray" in str(cuda.CudaEngine().refusal(system))
    with pytest.raises(smnn.EngineError, match="engine 'cuda' cannot serve this problem: it serves CuPy arrays"):
        select("cuda", system)


@pytest.mark.parametrize(
    ("n", "K", "Q", "batch", "reason"),
    [
        (13, 1, 1, (), "up to 12 unknowns per time point (variables x orders), here are 13"),
        (9, 9, 1, (), "up to 8 derivative orders, here are 9"),
        (3, 3, 17, (), "up to 16 equations per time point, here are 17"),
        (3, 3, 1, (2,) * 7, "up to 6 batch axes, and the batch is"),
        (12, 8, 16, (1, 2, 1, 2, 3, 4, 5, 6), None),
    ],
)
def test_refuses_sizes_that_kernels_do_not_serve(n, K, Q, batch, reason) -> None:
    refusal = cuda.size_refusal(n, K, Q, batch)
    assert (refusal is None) == (reason is None)
    assert (reason or "") in (refusal or "")


def test_describes_itself_without_a_device() -> None:
    assert cuda.CudaEngine().describe().startswith(("available: ", "not available: "))
