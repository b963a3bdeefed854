"""The two linear operators as autograd functions, each closed under differentiation (see `smnn_core._gradient`).

    LeastSquares    y = argmin_y |W (A y - d)|     with d = (b, u, σ): equation, initial and smoothness rows
    NormalSolve     x = M^-1 h                     with M = A^T W^2 A

Their rules are written with the formulas of the core on tensors and with the two operators themselves, so that
derivatives of any order, in any mixture of forward and reverse mode, follow. An ordinary backward pass, whose result
will not be differentiated again, takes the shortcut of the engine's fused adjoint instead.

Arguments: `how`, a `Statement`; `keep`, where the factor is or will be; lhs = (c, s, w_e, w_i, w_s): coefficients, step
sizes, and weights, tensors or numbers; then the right-hand side.

Tensors that only stand for others (traced, or batched by `is_grads_batched`) go through the custom ops of `_ops`, whose
derivatives are those of this module again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import array_api_compat.torch as xp
import torch
from torch import Tensor
from torch.autograd import Function, forward_ad

from smnn_core import Gradients, ShapeError, Weights
from smnn_core.extend import (
    FIELDS,
    Problem,
    System,
    least_squares_pullback,
    normal_pullback,
    normal_pushforward,
    solve_pushforward,
    sum_to_shape,
)

from . import _bridge as bridge
from . import _ops as ops
from ._bridge import Keep, Statement, full_precision

__all__ = [
    "LHS_RANKS",
    "RHS_RANKS",
    "LeastSquares",
    "NormalSolve",
    "least_squares",
    "normal_solve",
    "system_of",
    "with_batch_in_front",
]


def least_squares(how: Statement, keep: Keep, *tensors: Any) -> Tensor:
    """`LeastSquares.apply`; without the work that only other transforms need where there is none but reverse mode."""
    c, s, *weights, b, u, σ = tensors
    if σ is not None or not _NUMBERS.issuperset(map(type, weights)) or _forward_mode_is_on() or _functorch_is_active():
        return LeastSquares.apply(how, keep, *tensors)
    return _ReverseModeLeastSquares.apply((how, keep, weights), c, s, b, u)


_NUMBERS = frozenset((float, int))


def normal_solve(how: Statement, keep: Keep, *tensors: Any) -> Tensor:
    """`NormalSolve.apply`, or its op: tensors batched by `is_grads_batched` have their graph below the batch."""
    *lhs, h = tensors
    if any(isinstance(x, Tensor) and bridge.is_legacy_batched(x) for x in tensors):
        return ops.call("normal_solve", how._replace(n_steps=h.shape[-3]), lhs, h)
    return NormalSolve.apply(how, keep, *tensors)


class LeastSquares(Function):
    """(how, keep, c, s, w_e, w_i, w_s, b, u, σ) -> y."""

    @staticmethod
    def forward(how: Statement, keep: Keep, *tensors: Any) -> Tensor:
        *lhs, b, u, σ = tensors
        if not bridge.is_plain(tensors):
            return ops.least_squares(how, lhs, b, u, σ)
        return bridge.least_squares(how, keep, lhs, b, u, σ)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _save(ctx, *inputs, output)

    @staticmethod
    def backward(ctx: Any, g: Tensor | None) -> tuple[Any, ...]:
        if g is None:
            return (None,) * 10
        how, keep, *lhs, b, u, σ, y = _saved(ctx)
        wanted = _wanted(*ctx.needs_input_grad[2:9])
        gradients, dσ = _pull_back(how, keep, lhs, b, u, σ, y, g, wanted)
        return None, None, *_needed(ctx, (*bridge.in_order(gradients), dσ))

    @staticmethod
    def jvp(ctx: Any, _how: None, _keep: None, *tangents: Tensor | None) -> Tensor:
        dc, ds, *dw, db, du, dσ = tangents
        with _inside_jvp(ctx) as (how, keep, *lhs, b, u, σ, y):
            problem = _problem_of(how, lhs, b, u, σ, y)
            δ, γ = solve_pushforward(problem, y, Gradients(dc, db, du, ds, Weights(*dw)), dσ)
            dy = LeastSquares.apply(how, keep, *lhs, *δ)
            if any(t is not None for t in (dc, ds, *dw)):
                dy = dy + NormalSolve.apply(how, keep, *lhs, γ)
            return torch.broadcast_to(dy, y.shape)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], how: Statement, keep: Keep, *tensors: Any) -> tuple[Tensor, int]:
        return LeastSquares.apply(how, keep, *with_batch_in_front(_RANKS["least_squares"], in_dims[2:], tensors)), 0


class _ReverseModeLeastSquares(Function):
    """((how, keep, weights), c, s, b, u) -> y, for weights that are numbers, outside of functorch and forward mode.

    Without `setup_context`, for which PyTorch binds arguments, and with as few arguments as possible.
    """

    @staticmethod
    def forward(
        ctx: Any, others: tuple[Statement, Keep, Sequence[float]], c: Tensor, s: Tensor, b: Tensor, u: Tensor
    ) -> Tensor:
        how, keep, weights = others
        y = bridge.least_squares_on_cpu(how, keep, weights, c, s, b, u)
        if y is None:
            y = LeastSquares.forward(how, keep, c, s, *weights, b, u, None)
        ctx.set_materialize_grads(False)
        ctx.statement = how, weights
        ctx.save_for_backward(c, s, b, u, y, _token(keep))
        return y

    @staticmethod
    def backward(ctx: Any, g: Tensor | None) -> tuple[Any, ...]:
        if g is None:
            return (None,) * 5
        how, weights = ctx.statement
        c, s, b, u, y, token = ctx.saved_tensors
        _, of_c, of_s, of_b, of_u = ctx.needs_input_grad
        wanted = _wanted(of_c, of_s, False, False, False, of_b, of_u)
        keep = _kept(token)
        if not _differentiable(g, c, s, b, u, y):
            gradients = bridge.adjoint_on_cpu(keep, g, wanted)
            if gradients is not None:
                return None, *gradients
        (dc, db, du, ds, _), _ = _pull_back(how, keep, (c, s, *weights), b, u, None, y, g, wanted)
        return (
            None,
            bridge.tensor(dc) if of_c else None,
            bridge.tensor(ds) if of_s else None,
            bridge.tensor(db) if of_b else None,
            bridge.tensor(du) if of_u else None,
        )


class NormalSolve(Function):
    """(how, keep, c, s, w_e, w_i, w_s, h) -> x."""

    @staticmethod
    def forward(how: Statement, keep: Keep, *tensors: Any) -> Tensor:
        *lhs, h = tensors
        if not bridge.is_plain(tensors):
            return ops.normal_solve(how, lhs, h)
        return bridge.normal_solve(how, keep, lhs, h)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _save(ctx, *inputs, output)

    @staticmethod
    def backward(ctx: Any, g: Tensor | None) -> tuple[Any, ...]:
        if g is None:
            return (None,) * 8
        how, keep, *lhs, h, x = _saved(ctx)
        with full_precision(x):
            system = system_of(how, lhs, x.shape[-3])
            gradients, λ = normal_pullback(system, x, h, g, lambda g: normal_solve(how, keep, *lhs, g))
        return None, None, *_needed(ctx, (*bridge.in_order(gradients)[:5], sum_to_shape(xp, λ, tuple(h.shape))))

    @staticmethod
    def jvp(ctx: Any, _how: None, _keep: None, *tangents: Tensor | None) -> Tensor:
        dc, ds, *dw, dh = tangents
        with _inside_jvp(ctx) as (how, keep, *lhs, _, x):
            dx = torch.zeros_like(x) if dh is None else NormalSolve.apply(how, keep, *lhs, dh)
            if any(t is not None for t in (dc, ds, *dw)):
                system = system_of(how, lhs, x.shape[-3])
                δ, γ = normal_pushforward(system, x, Gradients(dc, None, None, ds, Weights(*dw)))
                dx = dx - LeastSquares.apply(how, keep, *lhs, *δ) - NormalSolve.apply(how, keep, *lhs, γ)
            return torch.broadcast_to(dx, x.shape)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], how: Statement, keep: Keep, *tensors: Any) -> tuple[Tensor, int]:
        return NormalSolve.apply(how, keep, *with_batch_in_front(_RANKS["normal_solve"], in_dims[2:], tensors)), 0


def _pull_back(
    how: Statement,
    keep: Keep,
    lhs: Sequence[Any],
    b: Tensor,
    u: Tensor,
    σ: Tensor | None,
    y: Tensor,
    g: Tensor,
    wanted: Gradients,
) -> tuple[Gradients, Any]:
    """The gradients, or those wanted, with respect to all inputs of y = least_squares(...), and σ: in tensors where
    they may be differentiated again, else in arrays of the engine."""
    if σ is None and not _differentiable(g, *lhs, b, u, y):
        return _adjoint(how, keep, lhs, b, u, y, g, wanted), None
    return _gradients(how, keep, lhs, b, u, σ, y, g)


def _gradients(
    how: Statement, keep: Keep, lhs: Sequence[Any], b: Tensor, u: Tensor, σ: Tensor | None, y: Tensor, g: Tensor
) -> tuple[Gradients, Tensor | None]:
    """The gradients with respect to all inputs of y = least_squares(...), and σ, themselves differentiable."""
    with full_precision(y):
        problem = _problem_of(how, lhs, b, u, σ, y)
        gradients, dσ = least_squares_pullback(problem, y, g, lambda g: normal_solve(how, keep, *lhs, g))
    return gradients, None if σ is None else sum_to_shape(xp, dσ, tuple(σ.shape))


def _adjoint(
    how: Statement, keep: Keep, lhs: Sequence[Any], b: Tensor, u: Tensor, y: Tensor, g: Tensor, wanted: Gradients
) -> Gradients:
    if not bridge.is_plain((g,) if keep.kept is not None else (*lhs, b, u, y, g)):
        return ops.adjoint(how, lhs, b, u, y, g)
    return bridge.adjoint(how, keep, lhs, b, u, y, g, wanted)


def system_of(how: Statement, lhs: Sequence[Any], n_steps: int) -> System:
    """The left-hand side in tensors of any kind, checked long ago: to write derivatives with."""
    c, s, *w = lhs
    weights = Weights(*(torch.as_tensor(x, dtype=c.dtype, device=c.device) for x in w))
    return System(
        xp=xp,
        coefficients=c,
        step_sizes=s,
        weights=weights,
        scheme=how.scheme,
        n_steps=n_steps,
        n_initial_steps=how.n_initial_steps,
        n_initial_orders=how.n_initial_orders,
        batch=bridge.batch_of_lhs(lhs),
        device=c.device,
    )


def _problem_of(how: Statement, lhs: Sequence[Any], b: Tensor, u: Tensor, σ: Tensor | None, y: Tensor) -> Problem:
    """The problem that y solves, as `system_of`."""
    return Problem(system_of(how, lhs, y.shape[-3]), b, u, tuple(y.shape[:-3]), σ)


def _functorch_is_active() -> bool:
    """Asked with the same call in `torch.autograd.Function.apply`; there is no public one."""
    return torch._C._are_functorch_transforms_active()


def _forward_mode_is_on() -> bool:
    """True if tensors may have tangents."""
    return forward_ad._current_level >= 0


def _differentiable(g: Tensor, *others: Any) -> bool:
    """True if what is computed from these now may be differentiated or transformed again, or has tangents."""
    if torch.is_grad_enabled() or _functorch_is_active() or bridge.is_legacy_batched(g):
        return True
    if not _forward_mode_is_on():
        return False
    return any(isinstance(x, Tensor) and forward_ad.unpack_dual(x).tangent is not None for x in (g, *others))


def _save(ctx: Any, how: Statement, keep: Keep, *tensors: Any) -> None:
    """Saves inputs and result for both modes."""
    ctx.set_materialize_grads(False)
    ctx.how = how
    saved = [*tensors, _token(keep)]
    ctx.numbers = numbers = [(i, w) for i, w in enumerate(tensors[2:5], 2) if not isinstance(w, Tensor)]
    for i, _ in numbers:
        saved[i] = None
    ctx.save_for_backward(*saved)
    ctx.save_for_forward(*saved)


def _saved(ctx: Any) -> list[Any]:
    """how, keep, the inputs (weights that are numbers included) and the result."""
    *tensors, token = ctx.saved_tensors
    for i, w in ctx.numbers:
        tensors[i] = w
    return [ctx.how, _kept(token), *tensors]


def _token(keep: Keep) -> Tensor | None:
    """A tensor that carries the factor, to be saved with the others.

    The factor does not hang on ctx: so it is freed with what is saved after a backward pass, and dropped and made again
    with that by `torch.utils.checkpoint`.
    """
    if keep.kept is None:
        return None
    token = _NOTHING.detach()  # quicker than a new one
    token.keep = keep
    return token


_NOTHING = torch.empty(0, device="cpu")


def _kept(token: Tensor | None) -> Keep:
    """The argument of `_token`; hooks on saved tensors, such as `save_on_cpu`, may have made a copy without it."""
    return getattr(token, "keep", None) or Keep()


@contextmanager
def _inside_jvp(ctx: Any) -> Iterator[list[Any]]:
    """The tensors of `_saved`, without tangents, and with forward mode on for the transforms outside this one.

    PyTorch runs jvp with forward mode off. A jvp of a jvp would then be zero, without a word: with it on, and the
    tangents of this level taken off the saved tensors, it is right.
    """
    with forward_ad._set_fwd_grad_enabled(True):
        how, keep, *tensors = _saved(ctx)
        saved = [forward_ad.unpack_dual(x, level=0).primal if isinstance(x, Tensor) else x for x in tensors]
        with full_precision(saved[-1]):
            yield [how, keep.for_others(), *saved]


@lru_cache(maxsize=128)
def _wanted(c: bool, s: bool, w_e: bool, w_i: bool, w_s: bool, b: bool, u: bool) -> Gradients:
    """Which gradients autograd asks for."""
    return Gradients(c, b, u, s, Weights(w_e, w_i, w_s))


def _needed(ctx: Any, gradients: Sequence[Any]) -> list[Tensor | None]:
    return [bridge.tensor(x) if needed else None for x, needed in zip(gradients, ctx.needs_input_grad[2:], strict=True)]


LHS_RANKS = {name: field.rank for name, field in FIELDS.items() if field.is_of_lhs}
RHS_RANKS = {name: field.rank for name, field in FIELDS.items() if not field.is_of_lhs}
_RANKS = {
    "least_squares": {**LHS_RANKS, **RHS_RANKS, "smoothness": 3},
    "normal_solve": {**LHS_RANKS, "g": 3},
}
"""The arguments of the operators in order, and how many axes their rows have."""


def with_batch_in_front(ranks: Mapping[str, int], in_dims: Sequence[int | None], tensors: Sequence[Any]) -> list[Any]:
    """Moves the mapped axis to the front of all other batch axes; unmapped inputs stay as they are, thus shared.

    Batch axes are aligned from the right, so mapped inputs with fewer of them (or, for weights, with fewer axes than
    their rows) get axes of length 1 behind the mapped one.
    """
    have = {
        name: x.ndim - (dim is not None) if isinstance(x, Tensor) else 0
        for name, x, dim in zip(ranks, tensors, in_dims, strict=True)
    }
    batch = max(have[name] - rank for name, rank in ranks.items())
    result = []
    for (name, rank), x, dim in zip(ranks.items(), tensors, in_dims, strict=True):
        if dim is not None:
            if have[name] < rank and not (name in FIELDS and FIELDS[name].is_weight):
                raise ShapeError(f"{name} must have at least {rank} axes inside vmap; got {have[name]}.")
            x = x.movedim(dim, 0)
            x = x.reshape(x.shape[0], *(1,) * (batch + rank - have[name]), *x.shape[1:])
        result.append(x)
    return result


def _adjoint_op(
    how: Statement, keep: Keep, lhs: Sequence[Any], b: Tensor, u: Tensor, y: Tensor, g: Tensor
) -> list[Any]:
    """The gradients, by the engine's adjoint where nobody differentiates them again, as in a compiled backward pass."""
    if _differentiable(g, *lhs, b, u, y):
        return list(bridge.in_order(_gradients(how, keep, lhs, b, u, None, y, g)[0]))
    return list(bridge.in_order(ops.adjoint(how, lhs, b, u, y, g)))


ops.differentiate("least_squares", lambda how, keep, lhs, *rhs: LeastSquares.apply(how, keep, *lhs, *rhs))
ops.differentiate("normal_solve", lambda how, keep, lhs, h: NormalSolve.apply(how, keep, *lhs, h))
ops.differentiate("adjoint", _adjoint_op)
