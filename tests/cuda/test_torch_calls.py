"""The PyTorch adapter's way to CuPy: streams, memory, captured graphs; CPU tensors pass for those of a device."""

from __future__ import annotations

import gc
import shutil
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest
import torch
from _emulator import COMPILER
from _fake_cupy import live, record, replaced
from _torch_on_fake import Streams, pretend

import smnn_torch as st

pytestmark = pytest.mark.skipif(not shutil.which(COMPILER), reason="no C++ compiler")
COTANGENT = torch.linspace(-1, 1, 3 * 31 * 3, dtype=torch.float64).reshape(3, 31, 1, 3)


@pytest.fixture
def cupy(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    with replaced() as module:
        pretend(monkeypatch)
        yield module


def problem(seed: int = 0) -> list[torch.Tensor]:
    g = torch.Generator().manual_seed(seed)

    def uniform(*shape: int) -> torch.Tensor:
        return torch.rand(shape, generator=g, dtype=torch.float64)

    c = 0.3 * uniform(3, 31, 1, 1, 3)
    c[..., 0] += 1.5
    inputs = c, uniform(3, 31, 1), uniform(3, 1, 1, 2), 0.2 + 0.3 * uniform(3, 30)
    return [x.requires_grad_() for x in inputs]


def solve(inputs: list[torch.Tensor], **options: Any) -> list[torch.Tensor]:
    y = st.solve_ode(*inputs, weights=st.Weights(2.0, 3.0, 0.5), **options)
    return [y, *torch.autograd.grad(y, inputs, COTANGENT)]


def test_results_are_those_of_the_array_engine(cupy: ModuleType) -> None:
    inputs = problem()
    found = solve(inputs)
    assert record.count("launch") == 10
    torch.testing.assert_close(found, solve(inputs, engine="array_api"), rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("recompute", [False, True])
def test_all_work_goes_to_the_current_stream(cupy: ModuleType, recompute: bool) -> None:
    Streams.current = 77
    inputs = problem()
    solve(inputs, recompute=recompute)
    assert record.streams() == {77}
    record.events.clear()
    solve(inputs, recompute=recompute)
    assert record.streams() == {77}
    assert (record.count("copy"), record.count("synchronize"), record.count("read")) == (0, 0, 0)


def test_weights_that_are_tensors_and_derivatives_of_derivatives(cupy: ModuleType) -> None:
    Streams.current = 77
    inputs, weight = problem(), torch.tensor(2.0, dtype=torch.float64, requires_grad=True)

    def second(**options: Any) -> list[torch.Tensor]:
        y = st.solve_ode(*inputs, weights=st.Weights(weight), **options)
        (g,) = torch.autograd.grad(y.square().sum(), inputs[1], create_graph=True)
        return list(torch.autograd.grad(g.square().sum(), [*inputs, weight]))

    found = second()
    assert record.streams() == {77}
    torch.testing.assert_close(found, second(engine="array_api"), rtol=1e-5, atol=1e-5)


def test_memory_is_of_pytorch_alone(cupy: ModuleType) -> None:
    """Results are tensors as any other, which autograd lets be changed in place."""
    inputs = problem()
    solve(inputs)
    constants = set(live)
    found = solve(inputs)
    assert set(live) == constants
    for x in found:
        assert x.untyped_storage().data_ptr() != 0
        assert not x._is_view()
    y = st.solve_ode(*inputs, weights=st.Weights(2.0, 3.0, 0.5))
    y.mul_(2)
    torch.testing.assert_close(y, 2 * found[0])


def test_a_factorization_for_right_hand_sides_in_front_of_the_batch(cupy: ModuleType) -> None:
    Streams.current = 77
    c, b, u, s = (x.detach() for x in problem())
    factor = st.factorize(c, s, n_initial_steps=1, n_initial_orders=2)
    many = torch.stack([b, 2 * b])
    y = factor.solve(many, u)
    assert record.streams() == {77}
    torch.testing.assert_close(y, st.solve_ode(c, many, u, s, engine="array_api"), rtol=1e-8, atol=1e-8)


def test_a_captured_solve_serves_other_inputs(cupy: ModuleType) -> None:
    """With a scheme that leaves weights as they are: what PyTorch does itself is not recorded here."""
    inputs = problem()
    solve(inputs, scheme=st.TAYLOR)
    stream = cupy.cuda.Stream()
    Streams.current = stream.ptr
    stream.begin_capture()
    found = solve(inputs, scheme=st.TAYLOR)
    graph = stream.end_capture()
    Streams.current = 0
    other = problem(1)
    with torch.no_grad():
        for to, x in zip(inputs, other, strict=True):
            to.copy_(x)
    graph.launch(stream)
    for x, expected in zip(found, solve(other, scheme=st.TAYLOR), strict=True):
        torch.testing.assert_close(x, expected, rtol=0, atol=0)


def test_nothing_outlives_a_solve_but_what_is_returned(cupy: ModuleType) -> None:
    """Tensors are CuPy's memory here, and freed without the garbage collector of Python, which may come late."""
    inputs = [x.detach() for x in problem()]
    st.solve_ode(*inputs)
    gc.collect()
    gc.disable()
    try:
        before = tensors()
        y = st.solve_ode(*inputs)
        assert tensors() - before <= {id(y)}
    finally:
        gc.enable()


def tensors() -> set[int]:
    return {id(x) for x in gc.get_objects() if type(x) is torch.Tensor}
