"""`torch.compile`, `torch.export` and the custom ops behind them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from _strategies import custom_scheme
from functorch.compile import make_boxed_func
from torch import Tensor
from torch._dynamo.backends.common import aot_autograd
from torch.func import grad, hessian, jacfwd, jvp, vmap

import smnn_core as smnn
import smnn_torch as st
from smnn_torch import _operators


@pytest.fixture(autouse=True)
def fresh_dynamo() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def model(c: Tensor, b: Tensor, u: Tensor, s: Tensor) -> Tensor:
    return st.solve_ode(2 * c, b.sin(), u, s).tanh()


def value_and_gradients(function: Callable[..., Tensor], inputs: Any) -> tuple[Tensor, ...]:
    y = function(*inputs)
    return (y, *torch.autograd.grad(y, inputs, torch.cos(torch.arange(y.numel(), dtype=y.dtype)).reshape(y.shape)))


class AotEagerGraphs:
    """A backend that runs forward and backward graphs as they are, and collects them."""

    def __init__(self) -> None:
        self.graphs: list[torch.fx.GraphModule] = []

    def __call__(self, graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
        def collect(graph: torch.fx.GraphModule, _: Any) -> Callable[..., Any]:
            self.graphs.append(graph)
            return make_boxed_func(graph.forward)

        return aot_autograd(fw_compiler=collect)(graph, inputs)


def test_dynamic_batch_and_time(make: Any) -> None:
    """One graph for all sizes, each way; the solve and its backward pass are one node each."""
    counter = AotEagerGraphs()
    compiled = torch.compile(model, backend=counter, fullgraph=True, dynamic=True)
    for batch, T in ((5,), 7), ((6,), 9), ((9,), 20):
        inputs = make(batch, T=T, V=2, grad=True)
        torch.testing.assert_close(value_and_gradients(compiled, inputs), value_and_gradients(model, inputs))
    solves = [
        node.target
        for graph in counter.graphs
        for node in graph.graph.nodes
        if node.op == "call_function" and "smnn" in str(node.target)
    ]
    assert solves == [torch.ops.smnn.solution.default, torch.ops.smnn.adjoint.default]


def test_a_compiled_backward_pass_is_the_adjoint_of_the_engine(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its formula in tensors, for those who differentiate again, takes several times as long."""
    compiled = torch.compile(model, backend=AotEagerGraphs(), fullgraph=True)
    inputs = make((3,), T=6, V=2, grad=True)
    monkeypatch.setattr(_operators, "_gradients", None)
    torch.testing.assert_close(value_and_gradients(compiled, inputs), value_and_gradients(model, inputs))


@pytest.mark.slow
def test_inductor(make: Any) -> None:
    compiled = torch.compile(model, fullgraph=True)
    inputs = make((3,), T=6, V=2, grad=True)
    torch.testing.assert_close(value_and_gradients(compiled, inputs), value_and_gradients(model, inputs))


def test_schemes_are_known_by_their_matrices_not_their_names(make: Any) -> None:
    c, b, u, s = make(T=6)
    mine = smnn.Scheme.from_matrices(*smnn.TAYLOR.matrices(c.shape[-1]), name="hermite")
    compiled = torch.compile(lambda c: st.solve_ode(c, b, u, s, scheme=mine), backend="eager")
    torch.testing.assert_close(compiled(c), st.solve_ode(c, b, u, s, scheme=smnn.TAYLOR))


@pytest.mark.parametrize(
    "options", [{"scheme": st.HERMITE}, {"scheme": custom_scheme(3)}, {"n_steps": 8}, {"check": True}]
)
def test_options_inside_a_compiled_function(make: Any, options: dict[str, Any]) -> None:
    c, b, u, s = make((2,), T=8)
    if "n_steps" in options:
        c, b, s = c[:, :1], b[:, :1], s[:, :1]
    inputs = [x.detach().requires_grad_() for x in (c, b, u, s)]

    def f(*x: Tensor) -> Tensor:
        return st.solve_ode(*x, weights=st.Weights(equation=2.0, smoothness=x[3]), **options)

    compiled = torch.compile(f, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(value_and_gradients(compiled, inputs), value_and_gradients(f, inputs))


def test_autocast_inside_a_compiled_function(make: Any) -> None:
    inputs = make((2,), T=6, dtype=torch.bfloat16, grad=True)

    def f(*x: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return st.solve_ode(*x)

    compiled = value_and_gradients(torch.compile(f, backend="aot_eager", fullgraph=True), inputs)
    assert compiled[0].dtype == torch.float32
    torch.testing.assert_close(compiled, value_and_gradients(f, inputs))


TRANSFORMS = {
    "grad": grad,
    "jvp": lambda f: lambda x: jvp(f, (x,), (torch.ones_like(x),))[1],
    "vmap of grad": lambda f: lambda x: vmap(grad(f))(torch.stack([x, 2 * x])),
    "jacfwd": jacfwd,
    "hessian": hessian,
}


@pytest.mark.slow
@pytest.mark.parametrize("transform", TRANSFORMS.values(), ids=TRANSFORMS)
def test_transforms_inside_a_compiled_function(make: Any, transform: Any) -> None:
    c, b, u, s = make(T=3, R=1)
    f = transform(lambda x: model(x, b, u, s).sum())
    expected = f(c)
    assert expected.abs().max() > 0
    torch.testing.assert_close(torch.compile(f, backend="aot_eager", fullgraph=True)(c), expected)


def test_frozen_left_hand_side_inside_a_compiled_function(make: Any) -> None:
    c, b, u, s = make(T=5)
    frozen = st.factorize(c, s, n_initial_steps=1, n_initial_orders=2)
    compiled = torch.compile(
        lambda b, u: frozen.solve(b, u) + frozen.normal_solve(frozen.solve(b, u)), backend="aot_eager", fullgraph=True
    )
    y = frozen.solve(b, u)
    torch.testing.assert_close(compiled(b, u), y + frozen.normal_solve(y))


def test_errors_are_raised_while_tracing(make: Any) -> None:
    c, b, u, s = make(T=6)
    with pytest.raises(Exception, match="rhs implies T = 5 time points"):
        torch.compile(model, backend="eager", fullgraph=True)(c, b[1:], u, s)


def test_singular_systems_raise_in_compiled_functions(make: Any) -> None:
    c, b, u, s = make(T=5)
    with pytest.raises(smnn.SingularSystemError):
        torch.compile(model, backend="eager", fullgraph=True)(0 * c, b, u[:0], s)


class Layer(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones((), dtype=torch.float64))

    def forward(self, c: Tensor, b: Tensor, u: Tensor, s: Tensor) -> Tensor:
        return model(self.scale * c, b, u, s)


@pytest.mark.parametrize("strict", [True, False])
def test_export_with_dynamic_shapes_can_be_trained(make: Any, strict: bool) -> None:
    layer, inputs = Layer(), make((2,), T=6)
    batch, time = torch.export.Dim("batch", max=100), torch.export.Dim("time", min=3, max=1000)
    shapes = {"c": {0: batch, 1: time}, "b": {0: batch, 1: time}, "u": {0: batch}, "s": {0: batch, 1: time - 1}}
    exported = torch.export.export(layer, inputs, dynamic_shapes=shapes, strict=strict)
    assert any(node.target is torch.ops.smnn.solution.default for node in exported.graph.nodes)
    module, other = exported.module(), make((5,), T=11)
    torch.testing.assert_close(module(*other), layer(*other))
    (actual,) = torch.autograd.grad(module(*other).sum(), list(module.parameters()))
    (expected,) = torch.autograd.grad(layer(*other).sum(), list(layer.parameters()))
    torch.testing.assert_close(actual, expected)


# of opcheck itself, in PyTorch 2.15
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.parametrize("batch", [(), (2,)])
@pytest.mark.parametrize("name", ["solution", "adjoint", "augmented", "augmented_states"])
def test_opcheck(make: Any, name: str, batch: tuple[int, ...]) -> None:
    c, b, u, s = make(batch, T=4, V=2, grad=True)
    weights = [torch.tensor(w, dtype=torch.float64).requires_grad_() for w in (1.0, 2.0, 0.5)]
    y = st.solve_ode(c, b, u, s).detach().requires_grad_()
    g = torch.randn_like(y).requires_grad_()
    inputs = c, b, u, s, *weights
    given = (c, s, *weights, torch.randn_like(b).requires_grad_(), torch.randn_like(u), None, g)
    tensors = {"solution": inputs, "adjoint": (*inputs, y, g)}.get(name, given)
    how = 4, 1, 2, "taylor", [], [], "auto", False, False
    torch.library.opcheck(getattr(torch.ops.smnn, name).default, (*tensors, *how))


def test_ops_have_every_derivative(make: Any) -> None:
    """Called as such in eager mode, as exported programs do."""
    c, b, u, s = make(T=3, R=1)
    one = torch.ones((), dtype=torch.float64)

    def op(c: Tensor) -> Tensor:
        how = None, 1, 1, "taylor", [], [], "auto", False, False  # (operators know nothing of exponents)
        y = torch.ops.smnn.solution(c, b, u, s, one, one, one, *how)
        return y.tanh().sum()

    def ours(c: Tensor) -> Tensor:
        return st.solve_ode(c, b, u, s, scheme=st.TAYLOR).tanh().sum()

    for transform in grad, hessian, lambda f: jacfwd(jacfwd(f)), lambda f: jacfwd(hessian(f)):
        torch.testing.assert_close(transform(op)(c), transform(ours)(c))


def test_fake_tensors_follow_real_ones(make: Any) -> None:
    inputs = make((2,), T=6, V=2)
    with torch._subclasses.FakeTensorMode() as mode:
        y = st.solve_ode(*(mode.from_tensor(x) for x in inputs))
    assert y.shape == (2, 6, 2, 3)
    assert y.dtype == torch.float64


def test_meta_tensors_follow_real_ones(make: Any) -> None:
    inputs = [x.to("meta").requires_grad_() for x in make((2,), T=6, V=2)]
    y = st.solve_ode(*inputs)
    assert y.is_meta
    assert y.shape == (2, 6, 2, 3)
    for x, gradient in zip(inputs, torch.autograd.grad(y.sum(), inputs, create_graph=True), strict=True):
        assert gradient.shape == x.shape


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Dynamo detected a call to a `functools.lru_cache`")
def test_what_dynamo_traces_is_not_remembered_wrongly(make: Any) -> None:
    """A compiled function that factorizes comes first, and leaves its constants to all that follow."""
    from smnn_core._schemes import triangular_rows

    triangular_rows.cache_clear()
    c, b, u, s = make()

    def frozen(c: Tensor, b: Tensor) -> Tensor:
        return st.factorize(c, s, n_initial_steps=1, n_initial_orders=2).solve(b, u)

    torch.testing.assert_close(torch.compile(frozen, backend="eager")(c, b), frozen(c, b))
    torch.testing.assert_close(st.solve_ode(c, b, u, s), frozen(c, b))
