"""The two linear operators as autograd functions, each closed under differentiation (see `smnn_core._gradient`).

    LeastSquares    y = argmin_y |W (A y - d)|     with d = (b, u, σ): equation, initial and smoothness rows
    NormalSolve     x = M^-1 h                     with M = A^T W^2 A

Their rules are written with the formulas of the core on tensors and with the two operators themselves, so that
derivatives of any order, in any mixture of forward and reverse mode, follow. Both share the factor of the first solve
(`kept`): an opaque object that travels as an output of the forward pass. An ordinary backward pass, whose result will
not be differentiated again, takes the shortcut of the engine's fused adjoint instead.

Arguments: `how`, a `Statement`; `kept`, a factor or None; lhs = (c, s, w_e, w_i, w_s): coefficients, step sizes, and
weights, tensors or numbers; then the right-hand side.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from smnn_core import ShapeError, Weights
from smnn_core._arrays import sum_to_shape
from smnn_core._gradient import (
    least_squares_pullback,
    normal_pullback,
    normal_pushforward,
    solve_pushforward,
)
from smnn_core._problem import Gradients
from torch import Tensor
from torch.autograd import Function

from . import _bridge as bridge
from ._bridge import Kept, Statement, problem_of, system_of, xp

__all__ = ["LeastSquares", "NormalSolve"]


class LeastSquares(Function):
    """(how, kept, c, s, w_e, w_i, w_s, b, u, σ) -> y, kept."""

    @staticmethod
    def forward(how: Statement, kept: Kept | None, *tensors: Any) -> tuple[Tensor, Kept | None]:
        *lhs, b, u, σ = tensors
        y, new = bridge.least_squares(how, kept, lhs, b, u, σ)
        return y, None if how.recompute else new

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Kept | None]) -> None:
        y, kept = output
        _save(ctx, inputs[0], kept, inputs[2:], y)

    @staticmethod
    def backward(ctx: Any, g: Tensor | None, _: None) -> tuple[Any, ...]:
        if g is None:
            return (None,) * 10
        how, kept = ctx.how, ctx.kept
        *lhs, b, u, σ, y = _saved(ctx)
        if σ is None and not _differentiable():
            if kept is None:
                kept = bridge.state_and_factorize(how, lhs, b, u)
            gradients, dσ = bridge.adjoint(kept, y, g), None
        else:
            λ = NormalSolve.apply(how, kept, *lhs, g)
            gradients, dσ = least_squares_pullback(problem_of(how, lhs, b, u, σ, y), y, λ)
            dσ = None if σ is None else sum_to_shape(xp, dσ, tuple(σ.shape))
        all_gradients = (*_of_lhs(gradients), gradients.rhs, gradients.initial_values, dσ)
        return None, None, *_needed(ctx, all_gradients)

    @staticmethod
    def jvp(ctx: Any, _how: None, _kept: None, *tangents: Tensor | None) -> tuple[Tensor, None]:
        how, kept = ctx.how, ctx.kept
        *lhs, b, u, σ, y = _saved(ctx)
        dc, ds, *dw, db, du, dσ = tangents
        problem = problem_of(how, lhs, b, u, σ, y)
        δ, γ = solve_pushforward(problem, y, Gradients(dc, db, du, ds, Weights(*dw)), dσ)
        dy, _ = LeastSquares.apply(how, kept, *lhs, *δ)
        if any(dx is not None for dx in (dc, ds, *dw)):
            dy = dy + NormalSolve.apply(how, kept, *lhs, γ)
        return torch.broadcast_to(dy, y.shape), None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], how: Statement, kept: Kept | None, *tensors: Any) -> Any:
        names = ("coefficients", "step_sizes", *_WEIGHTS, "rhs", "initial_values", "smoothness")
        tensors = _with_batch_in_front(names, (4, 1, 2, 3, 1, 2, 3, 3), in_dims[2:], tensors)
        return LeastSquares.apply(how, kept, *tensors), (0, None)


class NormalSolve(Function):
    """(how, kept, c, s, w_e, w_i, w_s, h) -> x."""

    @staticmethod
    def forward(how: Statement, kept: Kept | None, *tensors: Any) -> Tensor:
        *lhs, h = tensors
        return bridge.normal_solve(kept or bridge.state_and_factorize(how, lhs, n_steps=h.shape[-3]), h)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _save(ctx, inputs[0], inputs[1], inputs[2:], output)

    @staticmethod
    def backward(ctx: Any, g: Tensor | None) -> tuple[Any, ...]:
        if g is None:
            return (None,) * 8
        how, kept = ctx.how, ctx.kept
        *lhs, h, x = _saved(ctx)
        λ = NormalSolve.apply(how, kept, *lhs, g)
        gradients = normal_pullback(system_of(how, *lhs, n_steps=x.shape[-3]), x, λ)
        return None, None, *_needed(ctx, (*_of_lhs(gradients), sum_to_shape(xp, λ, tuple(h.shape))))

    @staticmethod
    def jvp(ctx: Any, _how: None, _kept: None, *tangents: Tensor | None) -> Tensor:
        how, kept = ctx.how, ctx.kept
        *lhs, _, x = _saved(ctx)
        dc, ds, *dw, dh = tangents
        dx = torch.zeros_like(x) if dh is None else NormalSolve.apply(how, kept, *lhs, dh)
        if any(t is not None for t in (dc, ds, *dw)):
            system = system_of(how, *lhs, n_steps=x.shape[-3])
            δ, γ = normal_pushforward(system, x, Gradients(dc, None, None, ds, Weights(*dw)))
            dx = dx - LeastSquares.apply(how, kept, *lhs, *δ)[0] - NormalSolve.apply(how, kept, *lhs, γ)
        return torch.broadcast_to(dx, x.shape)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], how: Statement, kept: Kept | None, *tensors: Any) -> Any:
        names = ("coefficients", "step_sizes", *_WEIGHTS, "g")
        tensors = _with_batch_in_front(names, (4, 1, 2, 3, 1, 3), in_dims[2:], tensors)
        return NormalSolve.apply(how, kept, *tensors), 0


_WEIGHTS = ("weights.equation", "weights.initial", "weights.smoothness")


def _differentiable() -> bool:
    """Whether what is computed now may be differentiated or transformed again.

    functorch asks the same question with the same call in `torch.autograd.Function.apply`; there is no public one.
    """
    return torch.is_grad_enabled() or torch._C._are_functorch_transforms_active()


def _save(ctx: Any, how: Statement, kept: Kept | None, inputs: Sequence[Any], result: Tensor) -> None:
    ctx.how, ctx.kept = how, kept
    ctx.set_materialize_grads(False)
    ctx.numbers = tuple(None if isinstance(x, Tensor) else x for x in inputs)
    tensors = (*(x if isinstance(x, Tensor) else None for x in inputs), result)
    ctx.save_for_backward(*tensors)
    ctx.save_for_forward(*tensors)


def _saved(ctx: Any) -> list[Any]:
    """The inputs, numbers included, and the result."""
    *inputs, result = ctx.saved_tensors
    return [*(x if number is None else number for x, number in zip(inputs, ctx.numbers, strict=True)), result]


def _of_lhs(gradients: Gradients) -> tuple[Any, ...]:
    weights = gradients.weights
    return gradients.coefficients, gradients.step_sizes, weights.equation, weights.initial, weights.smoothness


def _needed(ctx: Any, gradients: Sequence[Any]) -> list[Tensor | None]:
    return [bridge.tensor(x) if needed else None for x, needed in zip(gradients, ctx.needs_input_grad[2:], strict=True)]


def _with_batch_in_front(
    names: Sequence[str], ranks: Sequence[int], in_dims: Sequence[int | None], tensors: Sequence[Any]
) -> list[Any]:
    """Moves the mapped axis to the front of all other batch axes; unmapped inputs stay as they are, thus shared.

    Batch axes are aligned from the right, so mapped inputs with fewer of them (or, for weights, with fewer axes than
    their rows) get axes of length 1 behind the mapped one.
    """
    logical = [
        x.ndim - (dim is not None) if isinstance(x, Tensor) else rank
        for x, dim, rank in zip(tensors, in_dims, ranks, strict=True)
    ]
    batch = max(max(have - rank, 0) for have, rank in zip(logical, ranks, strict=True))
    result = []
    for name, x, dim, have, rank in zip(names, tensors, in_dims, logical, ranks, strict=True):
        if dim is not None:
            if have < rank and name not in _WEIGHTS:
                raise ShapeError(f"{name} must have at least {rank} axes inside vmap; got {have}.")
            x = x.movedim(dim, 0)
            x = x.reshape(x.shape[0], *(1,) * (batch + rank - have), *x.shape[1:])
        result.append(x)
    return result
