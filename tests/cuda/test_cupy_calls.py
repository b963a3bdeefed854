"""Streams, memory and captured graphs of solves on CuPy arrays, with a CuPy that keeps a record (`_fake_cupy`)."""

from __future__ import annotations

import gc
import shutil
from collections.abc import Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import _fake_cupy
import numpy as np
import pytest
from _emulator import COMPILER
from _fake_cupy import live, record, replaced

import smnn_core as smnn
from smnn_core import _cupy
from smnn_core._problem import Problem
from smnn_core.engines.cuda import CudaEngine

pytestmark = pytest.mark.skipif(not shutil.which(COMPILER), reason="no C++ compiler")


@pytest.fixture(params=[13, 14])
def cupy(request: pytest.FixtureRequest) -> Iterator[ModuleType]:
    with replaced(request.param) as module:
        yield module


@pytest.fixture
def arrays(cupy: ModuleType) -> list[Any]:
    return [cupy.asarray(x) for x in problem(0)]


def problem(seed: int, T: int = 31) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    c = rng.uniform(-0.3, 0.3, (3, T, 1, 1, 3))
    c[..., 0] += 1.5
    shapes = (3, T, 1), (3, 1, 1, 2)
    return [c, *(rng.uniform(-1, 1, shape) for shape in shapes), rng.uniform(0.2, 0.5, (3, T - 1))]


WEIGHTS = smnn.Weights(2.0, 3.0, 0.5)


def solve(arrays: list[Any], g: Any) -> list[Any]:
    """The solution and all gradients, with weights that are numbers."""
    y, vjp = smnn.solve_ode_vjp(*arrays, weights=WEIGHTS)
    gradients = vjp(g)
    return [y, *gradients[:4], *vars(gradients.weights).values()]


def test_all_work_goes_to_the_stream_of_the_caller(cupy: ModuleType, arrays: list[Any]) -> None:
    g = cupy.asarray(np.ones((3, 31, 1, 3)))
    stream = cupy.cuda.Stream()
    with stream:
        record.events.clear()
        solve(arrays, g)
    assert record.count("launch") == 10  # divided time
    assert record.streams() == {stream.ptr}


@pytest.mark.parametrize(("T", "solve", "adjoint"), [(5, 2, 4), (31, 3, 7)], ids=["whole", "divided"])
def test_launches(cupy: ModuleType, T: int, solve: int, adjoint: int) -> None:
    """Of kernels of this project, none of CuPy's; an adjoint fills some memory with zeros."""
    c, b, u, s = map(cupy.asarray, problem(0, T))
    weights = smnn.Weights(*(cupy.asarray(np.ones(shape)) for shape in ((3, T, 1), (3, 1, 1, 2), (3, T - 1))))
    given = Problem.build(c, b, u, s, scheme=smnn.TAYLOR, weights=weights)
    engine = CudaEngine()
    y, factor = engine.solve_problem(given)
    record.events.clear()
    engine.solve_problem(given)
    assert (record.count("launch"), record.count("kernel")) == (solve, 0)
    record.events.clear()
    factor.adjoint(given, y, y)
    assert (record.count("launch"), record.count("kernel"), record.count("fill")) == (adjoint, 0, 1)
    record.events.clear()
    factor.normal_solve(y)
    assert record.count("launch") == 2 * solve - 1  # the first one eliminates again, and keeps the factor
    record.events.clear()
    factor.normal_solve(y)
    assert record.count("launch") == solve


def test_later_solves_copy_nothing_from_the_host_and_do_not_wait(cupy: ModuleType, arrays: list[Any]) -> None:
    g = cupy.asarray(np.ones((3, 31, 1, 3)))
    solve(arrays, g)
    record.events.clear()
    solve(arrays, g)
    assert (record.count("copy"), record.count("synchronize"), record.count("read")) == (0, 0, 0)


@pytest.mark.parametrize(("solved_before", "dtype"), [(False, "float64"), (True, "float64"), (True, "float32")])
def test_a_captured_solve_serves_other_inputs(cupy: ModuleType, solved_before: bool, dtype: str) -> None:
    *arrays, g = (cupy.asarray(x.astype(dtype)) for x in (*problem(0), np.ones((3, 31, 1, 3))))
    if solved_before:
        solve(arrays, g)
    stream = cupy.cuda.Stream()
    with stream:
        stream.begin_capture()
        found = solve(arrays, g)
        graph = stream.end_capture()
    other = [cupy.asarray(x.astype(dtype)) for x in problem(1)]
    for to, x in zip(arrays, other, strict=True):
        to[...] = x
    graph.launch(stream)
    for x, expected in zip(found, solve(other, g), strict=True):
        np.testing.assert_array_equal(x.get(), expected.get())


def test_constants_of_a_captured_solve_must_be_there(cupy: ModuleType, arrays: list[Any]) -> None:
    c, b, u, s = arrays
    factor = smnn.factorize(c, s, n_initial_steps=1, n_initial_orders=2)
    rows = smnn._problem.Rows(b, u, cupy.asarray(np.ones((3, 30, 1, 3))))
    stream = cupy.cuda.Stream()
    with stream:
        stream.begin_capture()
        with pytest.raises(smnn.ArgumentError, match="constants of this problem are not on the device yet: solve it"):
            factor.factor.solve(rows)
        stream.end_capture()
        factor.factor.solve(rows)
        stream.begin_capture()
        factor.factor.solve(rows)
        stream.end_capture()


def test_constants_are_kept_by_value_and_captured_ones_for_good(cupy: ModuleType, monkeypatch: Any) -> None:
    import array_api_compat.cupy as xp

    device = cupy.cuda.Device(0)
    one = _cupy.constant(xp, 1.0, np.dtype(float), device)
    assert _cupy.constant(xp, 1.0, np.dtype(float), device) is one
    assert _cupy.constant(xp, 1.0, np.dtype("float32"), device) is not one
    assert _cupy.constant(xp, [1.0], np.dtype(float), device).shape == (1,)
    stream = cupy.cuda.Stream()
    with stream:
        stream.begin_capture()
        assert _cupy.constant(xp, 1.0, np.dtype(float), device) is one
        stream.end_capture()
    monkeypatch.setattr(_cupy, "MOST", 1)
    two = _cupy.constant(xp, 2.0, np.dtype(float), device)
    assert _cupy.constant(xp, 2.0, np.dtype(float), device) is two
    assert _cupy.constant(xp, 1.0, np.dtype(float), device) is one
    _cupy.constant(xp, 3.0, np.dtype(float), device)
    assert _cupy.constant(xp, 2.0, np.dtype(float), device) is not two
    many = np.zeros(_cupy.LARGEST + 1)
    assert _cupy.constant(xp, many, many.dtype, device) is not _cupy.constant(xp, many, many.dtype, device)


@pytest.mark.parametrize(("T", "dtype"), [(12, "float64"), (200, "float64"), (31, "float32")])
def test_nothing_outlives_a_solve_but_what_is_returned(cupy: ModuleType, T: int, dtype: str) -> None:
    """Without the garbage collector of Python, which may come late."""
    *arrays, g = (cupy.asarray(x.astype(dtype)) for x in (*problem(0, T), np.ones((3, T, 1, 3))))
    solve(arrays, g)
    gc.collect()
    gc.disable()
    try:
        before = set(live)
        found = solve(arrays, g)
        cupy.cuda.Device(0).synchronize()
        assert {x.memory for x in found} == set(live) - before
        y, vjp = smnn.solve_ode_vjp(*arrays, weights=WEIGHTS)
        vjp(g)
        del found, vjp
        cupy.cuda.Device(0).synchronize()
        assert {y.memory} == set(live) - before
    finally:
        gc.enable()


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_right_hand_sides_with_more_axes_than_kernels_serve(cupy: ModuleType, dtype: str) -> None:
    """They go to the array API engine."""
    c, b, u, s = (x[0].astype(dtype) for x in problem(0, 9))
    b = b * np.linspace(1, 2, 2**7, dtype=dtype).reshape((2,) * 7 + (1, 1))
    y, vjp = smnn.solve_ode_vjp(c, b, u, s)
    g = np.cos(np.arange(y.size, dtype=dtype)).reshape(y.shape)
    arrays = [cupy.asarray(x) for x in (c, b, u, s)]
    found, found_vjp = smnn.solve_ode_vjp(*arrays)
    factor = smnn.factorize(arrays[0], arrays[3], n_initial_steps=1, n_initial_orders=2)
    normal = smnn.factorize(c, s, n_initial_steps=1, n_initial_orders=2).normal_solve(g)
    pairs = [(found, y), (factor.solve(*arrays[1:3]), y), (factor.normal_solve(cupy.asarray(g)), normal)]
    pairs += zip(found_vjp(cupy.asarray(g))[:4], vjp(g)[:4], strict=True)
    for x, expected in pairs:
        scale = np.abs(expected).max()
        np.testing.assert_allclose(
            x.get(), expected, rtol=0, atol=1e8 * np.finfo(dtype).eps ** 2 * scale + 1e-6 * scale
        )
    config = smnn.show_config("dicts")["engines"]["cuda"]
    assert "6 batch axes; others go to array_api, and so do moments of posteriors" in config


@pytest.mark.parametrize(
    ("K", "s"), [(3, 0.1), *(pytest.param(*x, marks=pytest.mark.slow) for x in ((4, 0.003), (5, 0.03)))]
)
def test_float32_is_computed_in_float64(cupy: ModuleType, K: int, s: float) -> None:
    """As on a CPU: equal to the results of float64 for the same numbers, rounded once."""
    rng = np.random.default_rng(0)
    c = rng.standard_normal((2, 40, 1, 1, K))
    c[..., -1] += 2
    b, u = rng.standard_normal((2, 40, 1)), rng.standard_normal((2, 1, 1, K - 1))
    given = [x.astype("float32") for x in (c, b, u, s * rng.uniform(0.5, 1.5, (2, 39)))]
    g = np.cos(np.arange(80 * K, dtype="float32")).reshape(2, 40, 1, K)

    def results(dtype: str) -> list[Any]:
        arrays = [cupy.asarray(x.astype(dtype)) for x in (*given, g)]
        y, vjp = smnn.solve_ode_vjp(*arrays[:4], scheme=smnn.TAYLOR)
        factor = smnn.factorize(arrays[0], arrays[3], n_initial_steps=1, n_initial_orders=K - 1, scheme=smnn.TAYLOR)
        again = factor.solve(*arrays[1:3]), factor.normal_solve(arrays[4])
        return [y, *again, *vjp(arrays[4])[:4]]

    for x, wide in zip(results("float32"), results("float64"), strict=True):
        assert x.dtype == np.float32
        np.testing.assert_array_equal(x.get(), wide.get().astype("float32"))


def test_devices_with_slow_float64_compute_in_float32_and_say_so(cupy: ModuleType, monkeypatch: Any) -> None:
    attributes = cupy.cuda.Device.attributes | {"SingleToDoublePrecisionPerfRatio": 64}
    monkeypatch.setattr(cupy.cuda.Device, "attributes", attributes)
    assert "float32 is computed in float32, whose results" in smnn.show_config("dicts")["engines"]["cuda"]
    smnn.engines.cuda._warn_of_few_digits.cache_clear()
    given = [cupy.asarray(x.astype("float32")) for x in problem(0)]
    with pytest.warns(smnn.EngineWarning, match="device 0 has slow float64.*Give float64 arrays"):
        y = smnn.solve_ode(*given)
    smnn.solve_ode(*given)  # once
    np.testing.assert_allclose(y.get(), smnn.solve_ode(*problem(0)), rtol=0, atol=1e-3)


def test_devices_that_kernels_do_not_compile_for_are_left_to_the_array_api_engine(
    cupy: ModuleType, arrays: list[Any], monkeypatch: Any
) -> None:
    monkeypatch.setattr(cupy.cuda.Device, "compute_capability", "61")
    y = smnn.solve_ode(*arrays)
    assert record.count("launch") == 0
    np.testing.assert_allclose(y.get(), smnn.solve_ode(*problem(0)), rtol=0, atol=1e-9)
    with pytest.raises(smnn.EngineError, match=r"of compute capability 7\.0 or more, and device 0 has 6\.1\."):
        smnn.solve_ode(*arrays, engine="cuda")
    assert "sm_61, left to array_api: kernels need sm_70" in smnn.show_config("dicts")["engines"]["cuda"]


def test_results_are_there_when_the_device_is_waited_for(cupy: ModuleType, arrays: list[Any], monkeypatch: Any) -> None:
    """And only then: the fake is as late as a device, and so are its errors."""
    y = smnn.solve_ode(*arrays, scheme=smnn.TAYLOR)
    assert np.isnan(y.host).all()
    cupy.cuda.Device(0).synchronize()
    assert np.isfinite(y.host).all()
    monkeypatch.setattr(_fake_cupy, "library", lambda module: SimpleNamespace(launch=lambda *given: 2))
    smnn.solve_ode(*arrays, scheme=smnn.TAYLOR)
    with pytest.raises(AssertionError, match="smnn_sweep: threads of a warp wait for one that is done"):
        cupy.cuda.Device(0).synchronize()


def test_posteriors_are_those_of_numpy_arrays(cupy: ModuleType, arrays: list[Any]) -> None:
    """By the array API engine."""

    def moments(arrays: list[Any]) -> list[Any]:
        p = smnn.posterior(*arrays)
        return [p.variance, p.covariance, p.lag_covariance, p.sum_of_squares, p.log_determinant]

    for found, expected in zip(moments(arrays), moments(problem(0)), strict=True):
        np.testing.assert_allclose(found.get(), expected, rtol=0, atol=1e-8 * (1 + np.abs(expected).max()))


def test_nothing_outlives_a_posterior(cupy: ModuleType, arrays: list[Any]) -> None:
    """No cycle of references, which would keep it until Python looks for such."""

    def use() -> None:
        p = smnn.posterior(*arrays)
        assert p.variance.shape == p.mean.shape
        assert p.scale.shape == p.log_determinant.shape == p.covariance.shape[:1]

    use()
    gc.collect()
    gc.disable()
    try:
        before = len(live)
        use()
        assert len(live) == before
    finally:
        gc.enable()
