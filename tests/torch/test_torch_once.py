"""Derivatives of first order alone: right, and refused where they are differentiated."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import hessian, jacfwd, jacrev, vmap

import smnn_core as smnn
import smnn_torch as st
from smnn_torch._once import once

q = torch.tensor([1.0, 0.7, 1.3], dtype=torch.float64)
T, h = 5, 0.1


def plain(q: Tensor) -> Tensor:
    return once("plain", torch.sin(q) * q.sum())[0]


def cost(q: Tensor) -> Tensor:
    data = torch.exp(-q[1].detach() * h * torch.arange(T, dtype=torch.float64))[:, None]
    return st.fit_ode(lambda t, y: y[..., 1] + q[0] * y[..., 0], data, h, order=2, noise=0.1).cost


def test_second_derivatives_are_refused() -> None:
    torch.testing.assert_close(vmap(jacrev(plain))(q[None]), jacfwd(plain)(q)[None])
    for transform in (hessian, lambda f: jacrev(jacrev(f)), lambda f: jacfwd(jacfwd(f)), lambda f: jacrev(jacfwd(f))):
        with pytest.raises(smnn.ArgumentError, match="plain has first derivatives alone"):
            transform(plain)(q)


@pytest.mark.parametrize("f", [plain, cost])
@pytest.mark.parametrize("power", [1, 2])
def test_second_derivatives_are_refused_where_graphs_are_kept(f: Any, power: int) -> None:
    x = q.clone().requires_grad_()
    (first,) = torch.autograd.grad(f(x) ** power, x, create_graph=True)
    (alone,) = torch.autograd.grad(f(x) ** power, x)
    torch.testing.assert_close(first, alone)
    with pytest.raises(smnn.ArgumentError, match="has first derivatives alone"):
        torch.autograd.grad(first.sum(), x, allow_unused=True)


def test_first_derivatives_are_those_without() -> None:
    torch.testing.assert_close(jacrev(plain)(q), jacrev(lambda q: (torch.sin(q) * q.sum())[0])(q))
