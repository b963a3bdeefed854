"""The augmented solve as an autograd function, with the derivative of `smnn_core._augmented`, and the solution.

    Augmented    (v, y) with v + W A y = f and (W A)^T v = g
    SolveOde     y of these for f = W d and g = 0, d = (rhs, initial_values, 0)

The derivative of the first is itself again, so that derivatives of any order, in any mixture of forward and reverse
mode, follow. An ordinary backward pass of a solution, whose result will not be differentiated again, takes the shortcut
of the engine's fused adjoint instead.

Arguments: `how`, a `Options`; `slot`, where the factor is or will be; inputs in the order of `FIELDS`, or those of
the left-hand side, lhs; weights are tensors or numbers.

Tensors that only stand for others (traced, or batched by `is_grads_batched`) go through the custom ops of `_ops`, whose
derivatives are those of this module again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache, partial
from typing import Any

import array_api_compat.torch as xp
import torch
from torch import Tensor
from torch.autograd import Function, forward_ad

from smnn_core import Gradients, ShapeError, Weights
from smnn_core.extend import (
    FIELDS,
    NO_ROWS,
    NONE,
    Problem,
    Rows,
    Shape,
    System,
    add,
    by_field,
    from_fields,
    lhs_of,
    pullback,
    pushforward,
    rows_left,
    solution_pullback,
    solution_pushforward,
    sum_to_shape,
    weighted,
)

from . import _bridge as bridge
from . import _ops as ops
from ._bridge import Options, Slot, full_precision

__all__ = ["LHS_RANKS", "RANKS", "augmented", "problem_of", "solution", "system_of", "with_batch_in_front"]

RANKS = {name: field.rank for name, field in FIELDS.items()}
LHS_RANKS = {name: field.rank for name, field in FIELDS.items() if field.is_of_lhs}
AUGMENTED_RANKS = {**LHS_RANKS, "f.equation": 2, "f.initial": 3, "f.smoothness": 3, "g": 3}
"""The arguments of the operators in order, and how many axes their rows have."""
N_LHS = len(LHS_RANKS)


def solution(how: Options, slot: Slot, inputs: Sequence[Any]) -> Tensor:
    """`SolveOde.apply`; without the work that only other transforms need where there is none but reverse mode."""
    c, b, u, s, *weights = inputs
    if not _NUMBERS.issuperset(map(type, weights)) or _forward_mode_is_on() or _functorch_is_active():
        return SolveOde.apply(how, slot, *inputs)
    return _ReverseModeSolution.apply((how, slot, weights), c, b, u, s)


_NUMBERS = frozenset((float, int))


def augmented(
    how: Options, slot: Slot, lhs: Sequence[Any], f: Sequence[Any] | None, g: Tensor | None, *, rows: bool = True
) -> tuple[Any, Tensor]:
    """v (None unless rows are wanted) and y; all of f and g that is None is zero.

    Tensors batched by `is_grads_batched` have their graph below the batch: they go to the op.
    """
    f = NO_ROWS if f is None else f
    if any(isinstance(x, Tensor) and bridge.is_legacy_batched(x) for x in (*lhs, *f, g)):
        result = ops.call(OPS[rows], how, (*lhs, *f, g))
    else:
        result = Augmented.apply(how, slot, rows, *lhs, *f, g)
    return (Rows(*result[:3]), result[3]) if rows else (None, result)


OPS = {True: "augmented", False: "augmented_states"}


class Augmented(Function):
    """(how, slot, rows, lhs, f, g) -> (v, y), or y where rows are not wanted."""

    @staticmethod
    def forward(how: Options, slot: Slot, rows: bool, *tensors: Any) -> Any:
        if not bridge.is_plain(tensors):
            return ops.below_autograd(OPS[rows], how, tensors)
        results = bridge.augmented(how, slot, rows, tensors[:N_LHS], tensors[N_LHS:-1], tensors[-1])
        return results if rows else results[0]

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        how, slot, ctx.rows, *tensors = inputs
        _save(ctx, how, slot, *tensors, *(output if ctx.rows else (output,)))

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Any, ...]:
        needed = ctx.needs_input_grad[3:]
        if all(x is None for x in cotangents):
            return None, None, None, *(None for _ in needed)
        how, slot, lhs, f, g, v, y = _parts(ctx.rows, _saved(ctx))
        *of_rows, of_y = cotangents if ctx.rows else (None, None, None, *cotangents)
        with full_precision(y):
            system = system_of(how, lhs, y.shape[-3])
            if v is None and any(needed[:N_LHS]):
                v, y = augmented(how, slot, lhs, f, g)
            μ, λ = augmented(how, slot, lhs, _in_all_rows(system, of_rows), of_y)
            gradients = by_field(pullback(system, v, y, μ, λ) if any(needed[:N_LHS]) else NONE)
            pairs = zip((*μ, λ), (*f, g), strict=True)
            of_b = [None if x is None else sum_to_shape(xp, a, tuple(x.shape)) for a, x in pairs]
        return None, None, None, *_needed((*lhs_of(gradients), *of_b), needed)

    @staticmethod
    def jvp(ctx: Any, _how: None, _slot: None, _rows: None, *tangents: Tensor | None) -> Any:
        dc, ds, *dw = tangents[:N_LHS]
        with _inside_jvp(ctx) as saved:
            how, slot, lhs, f, _, v, y = _parts(ctx.rows, saved)
            system = system_of(how, lhs, y.shape[-3])
            if v is None:
                v = rows_left(system, f, y)
            δ, γ = pushforward(system, Gradients(dc, None, None, ds, Weights(*dw)), v, y)
            parts = zip(δ or NO_ROWS, tangents[N_LHS:-1], strict=True)
            df = _in_all_rows(system, [add(a, b) for a, b in parts])
            dv, dy = augmented(how, slot, lhs, df, add(γ, tangents[-1]), rows=ctx.rows)
            dy = torch.broadcast_to(dy, y.shape)
            return (*map(torch.broadcast_to, dv, (x.shape for x in v)), dy) if ctx.rows else dy

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], how: Options, slot: Slot, rows: bool, *tensors: Any) -> Any:
        moved = with_batch_in_front(AUGMENTED_RANKS, in_dims[3:], tensors)
        return Augmented.apply(how, slot, rows, *moved), (0, 0, 0, 0) if rows else 0


class SolveOde(Function):
    """(how, slot, inputs) -> y."""

    @staticmethod
    def forward(how: Options, slot: Slot, *inputs: Any) -> Tensor:
        if not bridge.is_plain(inputs):
            return ops.below_autograd("solution", how, inputs)
        return bridge.solution(how, slot, inputs)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _save(ctx, *inputs, output)

    @staticmethod
    def backward(ctx: Any, g: Tensor | None) -> tuple[Any, ...]:
        needed = ctx.needs_input_grad[2:]
        if g is None:
            return None, None, *(None for _ in needed)
        how, slot, *inputs, y = _saved(ctx)
        gradients = _pulled_back(how, slot, inputs, y, g, from_fields(needed))
        return None, None, *_needed(by_field(gradients), needed)

    @staticmethod
    def jvp(ctx: Any, _how: None, _slot: None, *tangents: Tensor | None) -> Tensor:
        with _inside_jvp(ctx) as (how, slot, *inputs, y):
            how, problem = _solved(how, inputs, y)
            f, g = solution_pushforward(problem, y, from_fields(tangents))
            _, dy = augmented(how, slot, lhs_of(inputs), f, g, rows=False)
            return torch.broadcast_to(dy, y.shape)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], how: Options, slot: Slot, *inputs: Any) -> tuple[Tensor, int]:
        return SolveOde.apply(how, slot, *with_batch_in_front(RANKS, in_dims[2:], inputs)), 0


class _ReverseModeSolution(Function):
    """((how, slot, weights), c, b, u, s) -> y, for weights that are numbers, outside of functorch and forward mode.

    Without `setup_context`, for which PyTorch binds arguments, and with as few arguments as possible.
    """

    @staticmethod
    def forward(
        ctx: Any, others: tuple[Options, Slot, Sequence[float]], c: Tensor, b: Tensor, u: Tensor, s: Tensor
    ) -> Tensor:
        how, slot, weights = others
        y = bridge.solution_on_cpu(how, slot, weights, c, b, u, s)
        if y is None:
            y = SolveOde.forward(how, slot, c, b, u, s, *weights)
        ctx.set_materialize_grads(False)
        ctx.statement = how, weights
        ctx.save_for_backward(c, b, u, s, y, _token(slot))
        return y

    @staticmethod
    def backward(ctx: Any, g: Tensor | None) -> tuple[Any, ...]:
        if g is None:
            return (None,) * 5
        how, weights = ctx.statement
        *inputs, y, token = ctx.saved_tensors
        needed = ctx.needs_input_grad[1:]
        wanted, slot = _wanted(needed), _kept(token)
        if not _differentiable(g, *inputs, y):
            gradients = bridge.adjoint_on_cpu(slot, g, wanted)
            if gradients is not None:
                return None, *gradients
        of_inputs = _pulled_back(how, slot, (*inputs, *weights), y, g, wanted)[:4]
        return None, *_needed(of_inputs, needed)


@lru_cache(maxsize=16)
def _wanted(needed: tuple[bool, ...]) -> Gradients:
    """The gradients that autograd asks for, of inputs without weights."""
    return from_fields((*needed, False, False, False))


def _pulled_back(how: Options, slot: Slot, inputs: Sequence[Any], y: Tensor, g: Tensor, wanted: Gradients) -> Gradients:
    """The gradients, or those wanted, with respect to all inputs of a solution: in tensors where they may be
    differentiated again, else in arrays of the engine."""
    if _differentiable(g, *inputs, y):
        return _gradients(how, slot, inputs, y, g)
    if not bridge.is_plain((g,) if slot.held is not None else (*inputs, y, g)):
        return from_fields(ops.below_autograd("adjoint", how, (*inputs, y, g)))
    return bridge.adjoint(how, slot, inputs, y, g, wanted)


def _gradients(how: Options, slot: Slot, inputs: Sequence[Any], y: Tensor, g: Tensor) -> Gradients:
    """The gradients with respect to all inputs of a solution, themselves differentiable."""
    lhs = lhs_of(inputs)
    with full_precision(y):
        how, problem = _solved(how, inputs, y)
        v, y = augmented(how, slot, lhs, weighted(problem.system.weights, problem.rows), None)
        μ, λ = augmented(how, slot, lhs, None, g)
        return solution_pullback(problem, y, v, μ, λ)


def system_of(how: Options, lhs: Sequence[Any], n_steps: int) -> System:
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


def problem_of(how: Options, inputs: Sequence[Any], batch: Shape, n_steps: int) -> Problem:
    """The problem of a solution, as `system_of`."""
    _, b, u, *_ = inputs
    return Problem(system_of(how, lhs_of(inputs), n_steps), b, u, batch)


def _solved(how: Options, inputs: Sequence[Any], y: Tensor) -> tuple[Options, Problem]:
    """How, with T, and the problem that y solves."""
    *batch, T, _, _ = y.shape
    return how._replace(n_steps=T), problem_of(how, inputs, tuple(batch), T)


def _in_all_rows(system: System, f: Sequence[Tensor | None]) -> Rows | None:
    """Rows of which some may be None, zero; None where all are."""
    if all(x is None for x in f):
        return None
    zero = system.coefficients.new_zeros
    equation, initial, smoothness = f
    return Rows(
        zero(system.n_steps, system.Q) if equation is None else equation,
        zero(system.n_initial_steps, system.V, system.n_initial_orders) if initial is None else initial,
        smoothness,
    )


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


def _save(ctx: Any, how: Options, slot: Slot, *tensors: Any) -> None:
    """Saves inputs and results for both modes."""
    ctx.set_materialize_grads(False)
    ctx.how = how
    ctx.numbers = {i: x for i, x in enumerate(tensors) if not isinstance(x, Tensor)}
    saved = [x if isinstance(x, Tensor) else None for x in (*tensors, _token(slot))]
    ctx.save_for_backward(*saved)
    ctx.save_for_forward(*saved)


def _saved(ctx: Any) -> list[Any]:
    """how, slot, the inputs (weights that are numbers included) and the results."""
    *tensors, token = ctx.saved_tensors
    return [ctx.how, _kept(token), *(ctx.numbers.get(i, x) for i, x in enumerate(tensors))]


def _parts(rows: bool, saved: Sequence[Any]) -> tuple[Any, ...]:
    """how, slot, lhs, f, g, v and y of `Augmented`, v None where rows are not wanted."""
    how, slot, *tensors = saved
    lhs, f, results = tensors[:N_LHS], tensors[N_LHS : N_LHS + 3], tensors[N_LHS + 4 :]
    return how, slot, lhs, f, tensors[N_LHS + 3], Rows(*results[:3]) if rows else None, results[-1]


def _token(slot: Slot) -> Tensor | None:
    """A tensor that carries the factor, to be saved with the others.

    The factor does not hang on ctx: so it is freed with what is saved after a backward pass, and dropped and made again
    with that by `torch.utils.checkpoint`.
    """
    if slot.held is None:
        return None
    token = _NOTHING.detach()  # quicker than a new one
    token.slot = slot
    return token


_NOTHING = torch.empty(0, device="cpu")


def _kept(token: Tensor | None) -> Slot:
    """The argument of `_token`; hooks on saved tensors, such as `save_on_cpu`, may have made a copy without it."""
    return getattr(token, "slot", None) or Slot()


@contextmanager
def _inside_jvp(ctx: Any) -> Iterator[list[Any]]:
    """The tensors of `_saved`, without tangents, and with forward mode on for the transforms outside this one.

    PyTorch runs jvp with forward mode off. A jvp of a jvp would then be zero, without a word: with it on, and the
    tangents of this level taken off the saved tensors, it is right.
    """
    with forward_ad._set_fwd_grad_enabled(True):
        saved = [forward_ad.unpack_dual(x, level=0).primal if isinstance(x, Tensor) else x for x in _saved(ctx)]
        with full_precision(saved[-1]):
            yield saved


def _needed(gradients: Sequence[Any], needed: Sequence[bool]) -> list[Tensor | None]:
    pairs = zip(gradients, needed, strict=True)
    return [bridge.tensor(x) if need and x is not None else None for x, need in pairs]


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


def _adjoint(how: Options, slot: Slot, *tensors: Any) -> list[Any]:
    """The gradients, by the engine's adjoint where nobody differentiates them again, as in a compiled backward pass."""
    *inputs, y, g = tensors
    if _differentiable(g, *inputs, y):
        return list(by_field(_gradients(how, slot, inputs, y, g)))
    return list(ops.below_autograd("adjoint", how, tensors))


ops.differentiate("solution", SolveOde.apply)
for _rows, _name in OPS.items():
    ops.differentiate(_name, partial(lambda rows, how, slot, *rest: Augmented.apply(how, slot, rows, *rest), _rows))
ops.differentiate("adjoint", _adjoint)
