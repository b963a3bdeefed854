"""Derivatives of any order in any mode, and no transform that returns silent zeros."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.func import grad, hessian, jacfwd, jacrev, jvp, vjp, vmap

import smnn_core as smnn
import smnn_torch as st

ALL = (0, 1, 2, 3)


def loss(*inputs: Tensor) -> Tensor:
    """Not linear in y, so that its second derivatives see those of the solution."""
    return st.solve_ode(*inputs).tanh().sum()


def with_weights(*inputs: Tensor, **options: Any) -> Tensor:
    return st.solve_ode(*inputs[:4], weights=st.Weights(*inputs[4:]), **options)


def flat(tree: Any) -> Tensor:
    return torch.cat([x.reshape(-1) for x in torch.utils._pytree.tree_leaves(tree)])


@pytest.mark.parametrize("fast", [True, False], ids=["fast", "slow"])
def test_gradcheck(make: Any, weights: Any, scheme: st.Scheme, fast: bool) -> None:
    inputs = (*make(grad=True), *(w.requires_grad_() for w in weights))
    assert torch.autograd.gradcheck(
        lambda *x: with_weights(*x, scheme=scheme),
        inputs,
        fast_mode=fast,
        check_forward_ad=True,
        check_batched_grad=True,
    )


@pytest.mark.parametrize("recompute", [False, True])
def test_gradgradcheck_fast(make: Any, weights: Any, scheme: st.Scheme, recompute: bool) -> None:
    inputs = (*make((2,), V=2, grad=True), *(w.requires_grad_() for w in weights))
    assert torch.autograd.gradgradcheck(
        lambda *x: with_weights(*x, scheme=scheme, recompute=recompute), inputs, fast_mode=True, check_fwd_over_rev=True
    )


def test_gradgradcheck_slow(make: Any, weights: Any) -> None:
    inputs = (*make(T=3, R=1, grad=True), *(w.requires_grad_() for w in (*weights[:2], weights[2][:2])))
    assert torch.autograd.gradgradcheck(
        with_weights, inputs, check_fwd_over_rev=True, check_rev_over_rev=True, check_batched_grad=True
    )


def test_inputs_that_broadcast_get_the_summed_gradient(make: Any) -> None:
    c, b, u, s = make((3,), T=5, V=2)
    inputs = c[0, :1].clone(), b[:, None], u, s[:1, :1].clone()
    assert torch.autograd.gradcheck(
        st.solve_ode, tuple(x.requires_grad_() for x in inputs), fast_mode=True, check_forward_ad=True
    )


def test_forward_and_reverse_jacobians_agree(make: Any, weights: Any) -> None:
    inputs = (*make((2,), V=2), *weights)
    numbers = tuple(range(7))
    for reverse, forward in zip(
        jacrev(with_weights, numbers)(*inputs), jacfwd(with_weights, numbers)(*inputs), strict=True
    ):
        torch.testing.assert_close(reverse, forward)


@pytest.mark.parametrize("i", ALL, ids=["coefficients", "rhs", "initial_values", "step_sizes"])
def test_tangent_of_one_input(make: Any, i: int) -> None:
    inputs = make((2,))
    tangent = torch.randn_like(inputs[i])

    def f(x: Tensor) -> Tensor:
        return st.solve_ode(*inputs[:i], x, *inputs[i + 1 :])

    h = 1e-6
    expected = (f(inputs[i] + h * tangent) - f(inputs[i] - h * tangent)) / (2 * h)
    _, actual = jvp(f, (inputs[i],), (tangent,))
    torch.testing.assert_close(actual, expected, rtol=1e-6, atol=1e-8)
    with forward_ad.dual_level():
        dual = f(forward_ad.make_dual(inputs[i], tangent))
        torch.testing.assert_close(forward_ad.unpack_dual(dual).tangent, actual)


@pytest.mark.parametrize("transforms", list(itertools.product((jacrev, jacfwd), repeat=2)))
def test_hessians(make: Any, transforms: tuple[Callable[..., Any], ...]) -> None:
    """Every mixture of two transforms against finite differences of the gradient."""
    inputs = make()
    function: Callable[..., Any] = loss
    for transform in transforms:
        function = transform(function, ALL)
    actual = torch.cat(
        [
            torch.cat([block.reshape(x.numel(), -1) for block in row], 1)
            for x, row in zip(inputs, function(*inputs), strict=True)
        ]
    )
    sizes, shapes = [x.numel() for x in inputs], [x.shape for x in inputs]

    def gradient(x: Tensor) -> Tensor:
        return flat(grad(loss, ALL)(*(p.reshape(s) for p, s in zip(x.split(sizes), shapes, strict=True))))

    x, h = flat(inputs), 1e-5
    steps = h * torch.eye(len(x), dtype=x.dtype)
    expected = torch.stack([(gradient(x + d) - gradient(x - d)) / (2 * h) for d in steps])
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-6 * float(expected.abs().max()))


@pytest.mark.parametrize("transforms", list(itertools.product((jacrev, jacfwd), repeat=3)))
def test_third_derivatives_agree(make: Any, transforms: tuple[Callable[..., Any], ...]) -> None:
    c, b, u, s = make(T=3, R=1)

    def function(x: Tensor) -> Tensor:
        return loss(x[0] * c, x[1] * b, u, x[2] * s)

    def derivative(transforms: Any) -> Tensor:
        f: Callable[..., Any] = function
        for transform in transforms:
            f = transform(f)
        return f(torch.ones(3, dtype=torch.float64))

    reference = derivative((jacrev, jacrev, jacrev))
    assert reference.abs().min() > 0
    torch.testing.assert_close(derivative(transforms), reference)


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("dual_numbers", [False, True])
@pytest.mark.parametrize("i", ALL)
def test_tangents_are_differentiated_in_reverse_outside_the_transform(
    make: Any, i: int, dual_numbers: bool, recompute: bool
) -> None:
    inputs = make((2,), grad=True)
    direction = torch.randn_like(inputs[i])

    def tangent(*x: Tensor) -> Tensor:
        def function(xi: Tensor) -> Tensor:
            return st.solve_ode(*x[:i], xi, *x[i + 1 :], recompute=recompute)

        if not dual_numbers:
            return jvp(function, (x[i],), (direction,))[1]
        with forward_ad.dual_level():
            return forward_ad.unpack_dual(function(forward_ad.make_dual(x[i], direction))).tangent

    found = torch.autograd.grad(tangent(*inputs).tanh().sum(), inputs, allow_unused=True)
    step = 1e-5

    def change(*x: Tensor) -> Tensor:
        forth, back = (
            st.solve_ode(*x[:i], x[i] + sign * step * direction, *x[i + 1 :], recompute=recompute) for sign in (1, -1)
        )
        return ((forth - back) / (2 * step)).tanh().sum()

    expected = torch.autograd.grad(change(*inputs), inputs)
    for x, y in zip(found, expected, strict=True):
        torch.testing.assert_close(torch.zeros_like(y) if x is None else x, y, rtol=1e-4, atol=1e-5)


def test_vmapped_hessians_are_those_of_a_loop(make: Any) -> None:
    inputs = make((3,))
    mapped = vmap(hessian(loss, ALL))(*inputs)
    for i in range(3):
        torch.testing.assert_close(
            flat([x[i] for x in torch.utils._pytree.tree_leaves(mapped)]),
            flat(hessian(loss, ALL)(*(x[i] for x in inputs))),
        )


@pytest.mark.parametrize("k", range(4), ids=["coefficients", "rhs", "initial_values", "step_sizes"])
def test_vmapped_hessians_where_the_other_inputs_are_batched(make: Any, k: int) -> None:
    inputs = list(make((3,), T=3, R=1))
    shared, many = inputs[k][0], [x for i, x in enumerate(inputs) if i != k]

    def function(x: Tensor, *others: Tensor) -> Tensor:
        return loss(*others[:k], x, *others[k:])

    mapped = vmap(hessian(function), (None, 0, 0, 0))(shared, *many)
    looped = [hessian(function)(shared, *(x[i] for x in many)) for i in range(3)]
    torch.testing.assert_close(mapped, torch.stack(looped))


@pytest.mark.parametrize("i", range(4), ids=["coefficients", "rhs", "initial_values", "step_sizes"])
def test_vmapped_hessians_where_one_input_is_batched(make: Any, i: int) -> None:
    inputs, k = list(make(T=3, R=1)), (i + 1) % 4
    many = torch.stack([make(T=3, R=1, seed=seed)[i] for seed in range(5)])

    def function(x: Tensor, z: Tensor) -> Tensor:
        return loss(*(x if j == k else z if j == i else inputs[j] for j in range(4)))

    mapped = vmap(hessian(function), (None, 0))(inputs[k], many)
    torch.testing.assert_close(mapped, torch.stack([hessian(function)(inputs[k], z) for z in many]))


@pytest.mark.parametrize(
    "in_dims", [(0, 0, 0, 0), (None, 0, None, None), (0, None, None, 0), (None, 1, 0, None), (-1, 0, 0, 0)]
)
def test_vmap_is_a_loop(make: Any, in_dims: tuple[int | None, ...]) -> None:
    """Values and gradients, for mapped axes anywhere, beside batch axes and beside inputs that are shared."""
    inputs = [
        x if dim is None else torch.stack([make((2,), T=5, seed=seed)[k] for seed in range(3)], dim)
        for k, (x, dim) in enumerate(zip(make((2,), T=5), in_dims, strict=True))
    ]

    def member(i: int) -> list[Tensor]:
        return [x if dim is None else x.select(dim, i) for x, dim in zip(inputs, in_dims, strict=True)]

    torch.testing.assert_close(
        vmap(st.solve_ode, in_dims)(*inputs), torch.stack([st.solve_ode(*member(i)) for i in range(3)])
    )
    mapped = vmap(grad(loss, ALL), in_dims)(*inputs)
    looped = [grad(loss, ALL)(*member(i)) for i in range(3)]
    for k in ALL:
        torch.testing.assert_close(mapped[k], torch.stack([g[k] for g in looped]))


def test_vmap_over_two_axes(make: Any) -> None:
    inputs = make((2, 3), T=5)
    mapped = vmap(vmap(jacfwd(loss, 1), (0, 0, 0, 0)), (1, 1, 1, 1), out_dims=1)(*inputs)
    torch.testing.assert_close(mapped, grad(loss, 1)(*inputs))


def test_vmap_over_weights_with_few_axes(make: Any) -> None:
    inputs = make(T=4)
    w = 0.5 + torch.rand(5, 1, dtype=torch.float64)  # one for each equation
    mapped = vmap(lambda w: st.solve_ode(*inputs, weights=st.Weights(equation=w)))(w)
    torch.testing.assert_close(mapped, torch.stack([st.solve_ode(*inputs, weights=st.Weights(equation=x)) for x in w]))


def test_long_sequences_with_a_shared_left_hand_side(make: Any) -> None:
    """Long enough for engines that divide time and keep their factors."""
    c, b, u, s = make(T=2000)
    many = torch.randn(4, *b.shape, generator=torch.Generator().manual_seed(2), dtype=b.dtype)

    def f(rhs: Tensor) -> Tensor:
        return jvp(lambda c: grad(loss, 1)(c, rhs, u, s), (c,), (c,))[1]

    torch.testing.assert_close(vmap(f)(many), torch.stack([f(x) for x in many]))


def test_vjp_outside_its_transform(make: Any) -> None:
    """The pullback is called when the level of functorch that made it is gone."""
    inputs = make((2,))
    y, pullback = vjp(st.solve_ode, *inputs)
    leaves = [x.clone().requires_grad_() for x in inputs]
    expected = torch.autograd.grad(st.solve_ode(*leaves), leaves, torch.ones_like(y))
    torch.testing.assert_close(pullback(torch.ones_like(y)), expected)


@pytest.mark.parametrize("vectorize", [False, True])
def test_jacobian_of_torch_autograd(make: Any, vectorize: bool) -> None:
    inputs = make((2,), R=1)
    jacobian = torch.autograd.functional.jacobian(st.solve_ode, inputs, vectorize=vectorize)
    for actual, expected in zip(jacobian, jacrev(st.solve_ode, ALL)(*inputs), strict=True):
        torch.testing.assert_close(actual, expected)


def test_gradients_of_a_batch_of_directions(make: Any) -> None:
    inputs = make((2,), grad=True)
    y = st.solve_ode(*inputs)
    directions = torch.randn(4, *y.shape, dtype=y.dtype)
    batched = torch.autograd.grad(y, inputs, directions, is_grads_batched=True, retain_graph=True)
    for i, direction in enumerate(directions):
        one = torch.autograd.grad(y, inputs, direction, retain_graph=True)
        torch.testing.assert_close([g[i] for g in batched], list(one))


@pytest.mark.parametrize("how", ["weight", "coefficients"])
@pytest.mark.parametrize("engine", ["auto", "array_api"])
def test_second_derivatives_where_an_equation_is_missing(make: Any, how: str, engine: str) -> None:
    """A row of zeros has a norm without a derivative.

    A rounding error of the rows changes y by their condition number, and each derivative by that once more.
    """
    c, b, u, s = make(T=5)
    mask = torch.ones(5, 1, dtype=torch.float64)
    if how == "weight":
        mask[2] = 0
    else:
        c[2] = 0

    def f(*inputs: Tensor) -> Tensor:
        y = st.solve_ode(*inputs, weights=st.Weights(mask), engine=engine)
        return y.tanh().sum()

    A, _ = smnn.dense_system(*(x.numpy() for x in (c, b, u, s)), weights=smnn.Weights(mask.numpy()))
    tolerance = 10 * np.finfo(np.float64).eps * np.linalg.cond(A / np.linalg.norm(A, axis=0)) ** 2
    inputs = tuple(x.requires_grad_() for x in (c, b, u, s))
    first = torch.autograd.grad(f(*inputs), inputs, create_graph=True)
    size = sum(g.square().sum() for g in first)
    found = torch.autograd.grad(size, inputs)
    # forward over reverse does not meet the derivative of the norm
    _, expected = jvp(grad(f, ALL), inputs, tuple(2 * g.detach() for g in first))
    for x, exact in zip(found, expected, strict=True):
        torch.testing.assert_close(x, exact, rtol=0, atol=tolerance * float(exact.detach().abs().max()))


@pytest.mark.parametrize("engine", ["auto", "array_api"])
@pytest.mark.parametrize("i", ALL)
def test_tangents_pass_through_a_backward_pass(make: Any, i: int, engine: str) -> None:
    """Forward over reverse with dual numbers and `torch.autograd.grad`, which does not ask for a graph."""
    inputs = list(make())
    v = torch.randn(inputs[i].shape, dtype=torch.float64, generator=torch.Generator().manual_seed(3))

    def f(x: Tensor) -> Tensor:
        return st.solve_ode(*inputs[:i], x, *inputs[i + 1 :], engine=engine).tanh().sum()

    with forward_ad.dual_level():
        x = forward_ad.make_dual(inputs[i].clone().requires_grad_(), v)
        (g,) = torch.autograd.grad(f(x), x)
        found = forward_ad.unpack_dual(g).tangent
    torch.testing.assert_close(found, jvp(grad(f), (inputs[i],), (v,))[1])


def test_tangents_of_the_loss_alone(make: Any) -> None:
    """The solution has none: they come with dL/dy."""
    inputs = make(grad=True)
    target, v = torch.ones(4, 1, 3, dtype=torch.float64), torch.full((4, 1, 3), 0.5, dtype=torch.float64)
    with forward_ad.dual_level():
        y = st.solve_ode(*inputs)
        g = torch.autograd.grad((y * forward_ad.make_dual(target, v)).sum(), inputs)
        found = [forward_ad.unpack_dual(x).tangent for x in g]
    torch.testing.assert_close(found, list(torch.autograd.grad((st.solve_ode(*inputs) * v).sum(), inputs)))


@pytest.mark.parametrize("i", [0, 2, 3])
def test_derivatives_of_a_vectorised_jacobian(make: Any, i: int) -> None:
    inputs = list(make())

    def f(x: Tensor) -> Tensor:
        return st.solve_ode(*inputs[:i], x, *inputs[i + 1 :]).tanh()

    x = inputs[i].clone().requires_grad_()
    found, expected = (
        torch.autograd.grad(
            torch.autograd.functional.jacobian(f, x, create_graph=True, vectorize=vectorize).square().sum(), x
        )
        for vectorize in (True, False)
    )
    torch.testing.assert_close(found, expected)
