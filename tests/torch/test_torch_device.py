"""Differences on CUDA tensors, on a device where there is one; the same calls on the CPU elsewhere."""

from __future__ import annotations

from typing import Any

import array_api_compat.torch as xp
import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

import smnn_core as smnn
import smnn_torch as st
from smnn_core._arrays import device_of, pad_to

HAS_DEVICE = torch.cuda.is_available()
DEVICE = torch.device("cuda" if HAS_DEVICE else "cpu")
needs_device = pytest.mark.skipif(not HAS_DEVICE, reason="no CUDA device")


@pytest.fixture
def inputs(make: Any) -> list[Tensor]:
    return on_device(make((3,), T=40, V=2))


def on_device(tensors: Any) -> list[Tensor]:
    return [x.detach().to(DEVICE).requires_grad_() for x in tensors]


def value_and_gradients(f: Any, inputs: list[Tensor]) -> list[Tensor]:
    y = f(*inputs)
    return [y.detach(), *torch.autograd.grad(y.square().sum(), inputs)]


def close(found: Any, expected: Any, tolerance: float = 1e-8) -> None:
    expected = [x.to(y.device) for x, y in zip(expected, found, strict=True)]
    torch.testing.assert_close(list(found), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("options", [{}, {"scheme": st.TAYLOR}, {"recompute": True}, {"engine": "array_api"}])
def test_values_and_gradients_are_those_of_the_cpu(inputs: list[Tensor], options: dict[str, Any]) -> None:
    on_cpu = [x.detach().cpu().requires_grad_() for x in inputs]
    found = value_and_gradients(lambda *x: st.solve_ode(*x, **options), inputs)
    assert all(x.device.type == DEVICE.type for x in found)
    close(found, value_and_gradients(lambda *x: st.solve_ode(*x, **options), on_cpu))


def test_float32(make: Any) -> None:
    wide = make((3,), T=40, V=2)
    y = st.solve_ode(*(x.float().to(DEVICE) for x in wide))
    assert y.dtype == torch.float32
    close([y.double()], [st.solve_ode(*(x.float().double() for x in wide))], 1e-4)


def test_weights_that_are_tensors_have_gradients(inputs: list[Tensor]) -> None:
    def gradient(device: torch.device) -> list[Tensor]:
        w = torch.tensor(2.0, dtype=torch.float64, device=device, requires_grad=True)
        y = st.solve_ode(*(x.detach().to(device) for x in inputs), weights=st.Weights(equation=w, smoothness=0.5))
        return list(torch.autograd.grad(y.square().sum(), w))

    close(gradient(DEVICE), gradient(torch.device("cpu")))


def test_second_derivatives_and_transforms(inputs: list[Tensor]) -> None:
    c, b, u, s = (x.detach() for x in inputs)
    many = torch.stack([b, 2 * b])
    mapped = torch.vmap(lambda b: st.solve_ode(c, b, u, s))(many)
    close([mapped], [st.solve_ode(c, many, u, s)])
    _, tangent = torch.func.jvp(lambda b: st.solve_ode(c, b, u, s), (b,), (b,))
    close([tangent], [st.solve_ode(c, b, 0 * u, s)])
    (g,) = torch.autograd.grad(st.solve_ode(*inputs).pow(3).sum(), inputs[1], create_graph=True)
    second = torch.autograd.grad(g.square().sum(), inputs)
    assert all(bool(x.isfinite().all()) for x in second)


def test_singular_systems(inputs: list[Tensor]) -> None:
    """NaN on a device, where looking would wait for it; an error on the CPU, and where it is asked for."""
    c, b, u, s = (x.detach().clone() for x in inputs)
    c[1] = 0
    with pytest.raises(smnn.SingularSystemError, match=r"batch member \(1,\)"):
        st.solve_ode(c, b, u[..., :0, :, :], s, check=True)
    if HAS_DEVICE:
        y = st.solve_ode(c, b, u[..., :0, :, :], s)
        assert bool(y[1].isnan().all())


def test_factorization(inputs: list[Tensor]) -> None:
    c, b, u, s = (x.detach() for x in inputs)
    factor = st.factorize(c, s, n_initial_steps=1, n_initial_orders=2)
    close([factor.solve(torch.stack([b, -b]), u)[0]], [st.solve_ode(c, b, u, s)])


@pytest.mark.parametrize("mode", ["default", "reduce-overhead"])
def test_compiled_models(inputs: list[Tensor], mode: str) -> None:
    """ "reduce-overhead" keeps CUDA graphs, which take only memory that PyTorch allocated."""
    if not HAS_DEVICE and mode != "default":
        pytest.skip("CUDA graphs need a device")

    def f(*x: Tensor) -> Tensor:
        return st.solve_ode(*x).tanh()

    compiled = torch.compile(f, mode=mode, backend="inductor" if HAS_DEVICE else "aot_eager")
    expected = value_and_gradients(f, inputs)
    for _ in range(3):
        close([x.clone() for x in value_and_gradients(compiled, inputs)], expected)


@needs_device
def test_a_captured_step_serves_other_inputs(inputs: list[Tensor], make: Any) -> None:
    def step() -> list[Tensor]:
        return value_and_gradients(lambda *x: st.solve_ode(*x, weights=st.Weights(2.0, 3.0)), inputs)

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = step()
    with torch.no_grad():
        for to, x in zip(inputs, make((3,), T=40, V=2, seed=1), strict=True):
            to.copy_(x)
    graph.replay()
    close(found, step(), 1e-12)


@needs_device
def test_side_streams_and_memory_that_is_used_again(inputs: list[Tensor]) -> None:
    expected = value_and_gradients(st.solve_ode, inputs)
    streams = [torch.cuda.Stream() for _ in range(2)]
    torch.cuda.synchronize()
    found = []
    for i in range(20):
        with torch.cuda.stream(streams[i % 2]):
            found.append(value_and_gradients(lambda *x: st.solve_ode(*x, weights=st.Weights(1.0)), inputs))
            for x in found[-1]:
                x.record_stream(streams[1 - i % 2])
    torch.cuda.synchronize()
    for results in found:
        close(results, expected, 0)


def test_what_meets_a_traced_tensor_lies_on_its_device() -> None:
    with FakeTensorMode():
        x = torch.empty(2, 1, 1, device="cuda")
        assert device_of(x) == pad_to(xp, x, (4, 1, 3)).device == x.device
