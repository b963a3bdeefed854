"""Derivatives of first order alone: those that one more step of an iteration has, whose linearisation is held fixed."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from smnn_core import ArgumentError

__all__ = ["once"]


def once(name: str, x: Tensor) -> Tensor:
    """x, whose derivatives raise where they are differentiated: they would be wrong.

    Args:
        name: the function that x comes from.
    """
    if torch.compiler.is_compiling():
        return x
    result: Tensor = _Once.apply(x, name)
    return result


class _Once(Function):
    """The identity. Its derivative depends on x, too, as far as the graph goes: it cannot be passed by."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, name: str) -> Tensor:
        return x.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, ctx.name = inputs
        ctx.save_for_backward(x)
        ctx.save_for_forward(x)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
        return _Refused.apply(g, ctx.saved_tensors[0], ctx.name), None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, _: None) -> Tensor:
        result: Tensor = _Refused.apply(tangent, ctx.saved_tensors[0], ctx.name)
        return result


class _Refused(Function):
    """A derivative, which has none."""

    generate_vmap_rule = True

    @staticmethod
    def forward(g: Tensor, x: Tensor, name: str) -> Tensor:
        return g.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.name = inputs[2]

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        raise _refusal(ctx.name)

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        raise _refusal(ctx.name)


def _refusal(name: str) -> ArgumentError:
    return ArgumentError(
        f"{name} has first derivatives alone: the second ones would leave out how the linearisation changes. Take "
        "differences of gradients, for example."
    )
