"""`smnn_torch.solve_ode` and `factorize`: values, memory, errors."""

from __future__ import annotations

import copy
import gc
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from _strategies import ProblemData, problems
from hypothesis import given
from torch.utils.checkpoint import checkpoint

import smnn_core as smnn
import smnn_torch as st


def gradients(y: torch.Tensor, inputs: Any) -> tuple[torch.Tensor, ...]:
    return torch.autograd.grad(y, inputs, torch.cos(torch.arange(y.numel(), dtype=y.dtype)).reshape(y.shape))


@given(problems())
def test_solution_and_gradients_are_those_of_the_core(data: ProblemData) -> None:
    """Bit for bit: on a CPU both come from the same engine. (Weights across steps come from PyTorch's functions.)"""
    options = data.options() | {"scheme": replace(data.scheme, exponent=0.0)}
    y, vjp = smnn.solve_ode_vjp(*data.arguments(), **options)
    g = np.cos(np.arange(y.size)).reshape(y.shape)
    expected = vjp(g)
    tensors = [torch.as_tensor(x).requires_grad_() for x in data.arguments()]
    weights = {
        k: w if isinstance(w, float) else torch.as_tensor(w).requires_grad_()
        for k, w in vars(options["weights"]).items()
    }
    options["weights"] = st.Weights(**weights)
    result = st.solve_ode(*tensors, **options)
    np.testing.assert_array_equal(result.detach().numpy(), y)
    result.backward(torch.as_tensor(g))
    for x, gradient in zip(tensors, expected[:4], strict=True):
        np.testing.assert_array_equal(x.grad.numpy(), gradient)
    for k, w in weights.items():
        if not isinstance(w, float):
            np.testing.assert_array_equal(w.grad.numpy(), getattr(expected.weights, k))


@pytest.mark.parametrize("scheme", [st.HERMITE, st.WIENER], ids=lambda scheme: scheme.name)
def test_gradients_of_steps_that_differ_are_those_of_the_core(make: Any, scheme: st.Scheme) -> None:
    inputs = make((2,), T=7, V=2, grad=True)
    y, vjp = smnn.solve_ode_vjp(*(x.detach().numpy() for x in inputs), scheme=scheme)
    g = np.cos(np.arange(y.size)).reshape(y.shape)
    result = st.solve_ode(*inputs, scheme=scheme)
    for x, expected in zip(torch.autograd.grad(result, inputs, torch.as_tensor(g)), vjp(g)[:4], strict=True):
        torch.testing.assert_close(x, torch.as_tensor(expected), rtol=1e-9, atol=1e-9)


def test_array_api_engine_on_tensors_agrees(make: Any, scheme: st.Scheme) -> None:
    inputs = make((2,), T=7, V=2, grad=True)
    a, b = (st.solve_ode(*inputs, scheme=scheme, engine=engine) for engine in ("auto", "array_api"))
    torch.testing.assert_close(a, b)
    torch.testing.assert_close(gradients(a, inputs), gradients(b, inputs))


def test_no_copies_on_a_cpu(make: Any, engines: list[Any]) -> None:
    c, b, u, s = make((3,), T=7, V=2)
    y = st.solve_ode(c, b, u, s)
    ((problem, array, _),) = engines
    seen = problem.system.coefficients, problem.rhs, problem.initial_values, problem.system.step_sizes
    for tensor, view in zip((c, b, u, s, y), (*seen, array), strict=True):
        assert isinstance(view, np.ndarray)
        assert view.__array_interface__["data"][0] == tensor.data_ptr()


@pytest.mark.parametrize("layout", [lambda x: x.transpose(0, 1), lambda x: x.expand(2, -1, -1), lambda x: -x.conj()])
def test_rhs_in_any_layout(make: Any, layout: Any) -> None:
    c, b, u, s = make(T=2, V=2, grad=True)
    b = layout(b)
    y = st.solve_ode(c, b, u, s)
    torch.testing.assert_close(y, st.solve_ode(c, b.contiguous().clone(), u, s))
    torch.testing.assert_close(gradients(y, b), gradients(st.solve_ode(c, b.contiguous(), u, s), b))


def test_shared_left_hand_side_is_eliminated_once(make: Any, engines: list[Any]) -> None:
    c, b, u, s = make(T=5)
    many = torch.randn(6, *b.shape, dtype=b.dtype)
    plain = st.solve_ode(c, many, u, s)
    mapped = torch.vmap(lambda b: st.solve_ode(c, b, u, s))(many)
    torch.testing.assert_close(mapped, plain, rtol=0, atol=0)
    for problem, _, _ in engines:
        assert problem.system.batch == ()
        assert problem.batch == (6,)


def test_recompute_gives_the_same_and_keeps_no_factor(make: Any, engines: list[Any]) -> None:
    inputs = make((3,), T=6, V=2, grad=True)
    kept, again = (st.solve_ode(*inputs, recompute=recompute) for recompute in (False, True))
    references = [weakref.ref(factor) for _, _, factor in engines]
    engines.clear()
    gc.collect()
    assert [reference() is not None for reference in references] == [True, False]
    torch.testing.assert_close(gradients(kept, inputs), gradients(again, inputs))


def test_backward_frees_the_factor(make: Any, engines: list[Any]) -> None:
    inputs = make(T=6, grad=True)
    y = st.solve_ode(*inputs)
    factor = weakref.ref(engines.pop()[2])
    assert factor() is not None
    gradients(y, inputs)
    gc.collect()
    assert factor() is None


def test_checkpoint_drops_the_factor_and_makes_it_again(make: Any, engines: list[Any]) -> None:
    inputs = make((2,), T=6, grad=True)
    y = checkpoint(lambda *x: st.solve_ode(*x).tanh(), *inputs, use_reentrant=False)
    factor = weakref.ref(engines.pop()[2])
    gc.collect()
    assert factor() is None
    torch.testing.assert_close(gradients(y, inputs), gradients(st.solve_ode(*inputs).tanh(), inputs))


def test_hooks_that_copy_saved_tensors(make: Any) -> None:
    inputs = make((2,), T=6, grad=True)
    with torch.autograd.graph.save_on_cpu():
        y = st.solve_ode(*inputs)
    torch.testing.assert_close(gradients(y, inputs), gradients(st.solve_ode(*inputs), inputs))


def test_changing_an_input_before_backward_raises(make: Any) -> None:
    c, b, u, s = make(T=5, grad=True)
    scaled = 1 * c
    y = st.solve_ode(scaled, b, u, s)
    with torch.no_grad():
        scaled.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
def test_autocast_takes_half_precision_in_float32(make: Any, half: torch.dtype) -> None:
    inputs = make((2,), T=5, V=2, dtype=half, grad=True)
    full = [x.detach().float().requires_grad_() for x in inputs]
    expected = st.solve_ode(*full)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = st.solve_ode(*inputs)
        inside = torch.autograd.grad(y.square().sum(), inputs, create_graph=True)
    assert y.dtype == torch.float32
    torch.testing.assert_close(y, expected, rtol=0, atol=0)
    for g, e in zip(inside, torch.autograd.grad(expected.square().sum(), full), strict=True):
        assert g.dtype == half
        torch.testing.assert_close(
            g, e.to(half), rtol=4 * torch.finfo(half).eps, atol=torch.finfo(half).eps * e.abs().max()
        )


def test_factorize_solves_and_is_differentiable_in_the_rhs(make: Any) -> None:
    c, b, u, s = make((2,), T=5, V=2)
    f = st.factorize(c, s, n_initial_steps=1, n_initial_orders=2)
    many = torch.randn(3, *b.shape, dtype=b.dtype).requires_grad_()
    u.requires_grad_()
    expected = st.solve_ode(c, many, u, s)
    y = f.solve(many, u)
    torch.testing.assert_close(y, expected)
    torch.testing.assert_close(gradients(y, (many, u)), gradients(expected, (many, u)))
    assert torch.autograd.gradgradcheck(f.solve, (many, u), fast_mode=True, check_fwd_over_rev=True)
    g = torch.randn_like(y)
    x = f.normal_solve(g)
    torch.testing.assert_close((x * y).sum(), (g * f.normal_solve(y)).sum())  # symmetric
    assert torch.autograd.gradcheck(f.normal_solve, g.requires_grad_(), fast_mode=True, check_forward_ad=True)


def test_factorization_with_weights_that_are_numbers_of_numpy(make: Any) -> None:
    c, b, u, s = make(T=5)
    shape = {"n_initial_steps": 1, "n_initial_orders": 2}
    found, expected = (st.factorize(c, s, **shape, weights=st.Weights(equation=w)) for w in (np.float64(2), 2.0))
    torch.testing.assert_close(found.solve(b, u), expected.solve(b, u))


def test_factorize_refuses_a_left_hand_side_that_wants_a_gradient(make: Any) -> None:
    c, _, _, s = make(T=5, grad=True)
    with pytest.raises(smnn.ArgumentError, match=r"coefficients requires a gradient.*coefficients\.detach"):
        st.factorize(c, s, n_initial_steps=1, n_initial_orders=2)


def test_factorization_is_copied_and_pickled_by_eliminating_again(make: Any, tmp_path: Path) -> None:
    c, b, u, s = make(T=5)
    scheme = smnn.Scheme.from_matrices(*smnn.TAYLOR.matrices(c.shape[-1]))
    f = st.factorize(c, s, n_initial_steps=1, n_initial_orders=2, scheme=scheme)
    torch.save(f, tmp_path / "factorization.pt")
    for other in (copy.deepcopy(f), torch.load(tmp_path / "factorization.pt", weights_only=False)):
        torch.testing.assert_close(other.solve(b, u), f.solve(b, u))
        many = torch.randn((3, *b.shape), dtype=b.dtype, requires_grad=True)  # another batch than at the first call
        found, expected = (torch.autograd.grad(x.solve(many, u).tanh().sum(), many) for x in (other, f))
        torch.testing.assert_close(found, expected)
    assert repr(f).startswith("Factorization(coefficients: (5, 1, 1, 3), step_sizes: (4,), T=5")


def test_factorization_checks_shapes(make: Any) -> None:
    c, b, u, s = make(T=5)
    f = st.factorize(c, s, n_initial_steps=1, n_initial_orders=2)
    with pytest.raises(smnn.ShapeError, match="rhs must have shape"):
        f.solve(b[:-1], u)
    with pytest.raises(smnn.ShapeError, match="g must have shape"):
        f.normal_solve(b)


class TestErrors:
    def test_not_a_tensor(self, make: Any) -> None:
        c, b, u, s = make()
        with pytest.raises(smnn.NamespaceError, match=r"rhs must be a torch\.Tensor, got ndarray"):
            st.solve_ode(c, b.numpy(), u, s)

    def test_weights_of_another_type(self, make: Any) -> None:
        with pytest.raises(TypeError, match="weights must be Weights"):
            st.solve_ode(*make(), weights=2.0)
        for w in (np.ones((5, 1)), [1.0]):
            with pytest.raises(smnn.NamespaceError, match=r"weights\.equation must be a number or a torch\.Tensor"):
                st.solve_ode(*make(T=5), weights=st.Weights(equation=w))

    def test_mixed_dtypes(self, make: Any) -> None:
        c, b, u, s = make()
        with pytest.raises(smnn.DTypeError, match=r"rhs has dtype torch\.float32, coefficients has torch\.float64"):
            st.solve_ode(c, b.float(), u, s)

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.int64, torch.complex128])
    def test_dtypes_outside_the_two(self, make: Any, dtype: torch.dtype) -> None:
        with pytest.raises(smnn.DTypeError, match="expected float32 or float64"):
            st.solve_ode(*(x.to(dtype) for x in make()))

    def test_shapes(self, make: Any) -> None:
        c, b, u, s = make(T=5)
        with pytest.raises(smnn.ShapeError, match="rhs implies T = 4"):
            st.solve_ode(c, b[:-1], u, s)
        with pytest.raises(smnn.ShapeError, match="initial_values must have shape"):
            st.solve_ode(c, b, u[0, 0], s)

    def test_rank_inside_vmap(self, make: Any) -> None:
        c, b, u, s = make((3,), T=5)
        with pytest.raises(smnn.ShapeError, match="coefficients must have at least 4 axes inside vmap; got 3"):
            torch.vmap(st.solve_ode)(c[..., 0], b, u, s)

    def test_zero_step_in_a_shape_seen_before(self, make: Any) -> None:
        c, b, u, s = make(T=5)
        st.solve_ode(c, b, u, s)
        s[2] = 0
        with pytest.raises(smnn.ArgumentError, match="step_sizes contains a zero"):
            st.solve_ode(c, b, u, s)

    def test_singular(self, make: Any) -> None:
        c, b, u, s = make((2,), T=5)
        c[1] = 0
        with pytest.raises(smnn.SingularSystemError, match=r"batch member \(1,\)"):
            st.solve_ode(c, 0 * b, u[..., :0, :, :], s)

    def test_unknown_engine(self, make: Any) -> None:
        with pytest.raises(smnn.EngineError, match="unknown engine 'fast'"):
            st.solve_ode(*make(), engine="fast")


def test_nan_in_one_member_leaves_the_others(make: Any) -> None:
    c, b, u, s = make((3,), T=5, grad=True)
    spoiled = b.detach().clone()
    spoiled[1] = torch.nan
    spoiled.requires_grad_()
    y, clean = st.solve_ode(c, spoiled, u, s), st.solve_ode(c, b, u, s)
    torch.testing.assert_close(y[[0, 2]], clean[[0, 2]], rtol=0, atol=0)
    for g, e in zip(gradients(y, (c, u, s)), gradients(clean, (c, u, s)), strict=True):
        torch.testing.assert_close(g[[0, 2]], e[[0, 2]])


@pytest.mark.parametrize("engine", ["auto", "array_api"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_weights_that_are_numpy_numbers(make: Any, dtype: torch.dtype, engine: str) -> None:
    inputs = make(dtype=dtype)
    weights = st.Weights(np.float32(2), np.int64(3), np.float64(0.5))
    found = st.solve_ode(*inputs, weights=weights, engine=engine)
    assert found.dtype == dtype
    torch.testing.assert_close(found, st.solve_ode(*inputs, weights=st.Weights(2.0, 3.0, 0.5), engine=engine))


def test_a_parameter_factorized_without_gradients(make: Any) -> None:
    c, b, u, s = make()
    with torch.no_grad():
        factorization = st.factorize(torch.nn.Parameter(c), s, n_initial_steps=1, n_initial_orders=2)
    assert not factorization.solve(b, u).requires_grad


def test_factorize_inside_a_transform(make: Any) -> None:
    c, b, u, s = make((3,))
    with pytest.raises(smnn.ArgumentError, match=r"factorize cannot be given tensors that a transform of torch\.func"):
        torch.func.vmap(lambda c: st.factorize(c, s[0], n_initial_steps=1, n_initial_orders=2).solve(b[0], u[0]))(c)
