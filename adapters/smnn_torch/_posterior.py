"""`posterior` and `log_evidence` for tensors.

Mean and samples are solutions, with the derivatives of `solve_ode`. All else comes from two functions of the system
(c, s, weights), and for the second of the right-hand side too, with derivatives of first order:

    blocks        the blocks of M^-1 in and beside the diagonal
    statistics    log det M and |W (d - A y)|^2, and on the way their gradients, where one will be asked for
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from smnn_core import WIENER, ArgumentError, Gradients, Scheme, Weights
from smnn_core import Posterior as CorePosterior
from smnn_core.extend import (
    NONE,
    SECOND_ORDER,
    UNIT,
    Problem,
    Rows,
    Statistics,
    System,
    by_field,
    check_integer,
    evidence_with,
    from_fields,
    lhs_of,
    owned,
    pulled_back,
)

from . import _bridge as bridge
from ._bridge import Options, Slot
from ._operators import LHS_RANKS, RANKS, augmented, problem_of, solution, with_batch_in_front
from ._solve import stated

__all__ = ["Posterior", "log_evidence", "posterior"]


@torch.compiler.disable
def posterior(
    coefficients: Tensor,
    rhs: Tensor,
    initial_values: Tensor,
    step_sizes: Tensor,
    *,
    n_steps: int | None = None,
    scheme: Scheme = WIENER,
    weights: Weights = UNIT,
    engine: str = "auto",
    check: bool = False,
) -> Posterior:
    """`smnn_core.posterior` for tensors, differentiable in all of them.

    Arguments and errors are as for `solve_ode`. Mean and samples have derivatives of any order; the other fields those
    of first order, in reverse mode (`backward`, `torch.func.grad`, also under `torch.func.vmap`), and a second one
    raises ArgumentError. Compiled functions run it outside of their graphs.
    """
    how = Options(scheme, n_steps, 0, 0, engine, check)
    how, inputs = stated(how, coefficients, rhs, initial_values, step_sizes, weights)
    inputs = tuple(map(owned, inputs))  # later changes in place are not its own
    slot = Slot()
    y = solution(how, slot, inputs)
    how = how._replace(n_steps=y.shape[-3])
    return Posterior(y, problem_of(how, inputs, tuple(y.shape[:-3]), y.shape[-3]), how, slot, inputs)


@torch.compiler.disable
def log_evidence(
    coefficients: Tensor,
    rhs: Tensor,
    initial_values: Tensor,
    step_sizes: Tensor,
    *,
    observed: Tensor | bool = False,
    observed_equations: Tensor | bool = False,
    weights: Weights = UNIT,
    **options: Any,
) -> Tensor:
    """`smnn_core.log_evidence` for tensors, with derivatives of first order: arguments and errors as there."""
    arguments = coefficients, rhs, initial_values, step_sizes
    return evidence_with(_statistics_alone, arguments, (observed, observed_equations), weights, options)


def _statistics_alone(
    arguments: tuple[Tensor, Tensor, Tensor, Tensor],
    *,
    weights: Weights,
    n_steps: int | None = None,
    scheme: Scheme = WIENER,
    engine: str = "auto",
    check: bool = False,
) -> tuple[Problem, Tensor, Tensor]:
    """The problem, log det M and |W (d - A y)|^2, without the solution."""
    how = Options(scheme, n_steps, 0, 0, engine, check)
    how, inputs = stated(how, *arguments, weights)
    call = _Call(how, Slot())
    log_determinant, minimum = _moments("statistics", call, *inputs)
    assert call.statistics is not None
    n_steps = call.statistics[1].system.n_steps
    return problem_of(how, inputs, tuple(minimum.shape), n_steps), log_determinant, minimum


class Posterior(CorePosterior):
    """`smnn_core.Posterior` of tensors; made by `posterior`."""

    mean: Tensor

    def __init__(self, mean: Tensor, problem: Problem, how: Options, slot: Slot, inputs: Sequence[Any]) -> None:
        super().__init__(mean, problem, None)
        self._how, self._slot, self._inputs, self._call = how, slot, inputs, _Call(how, slot)
        self._known: dict[tuple[str, bool], tuple[Tensor, ...]] = {}

    def sample(self, size: int, generator: torch.Generator | None = None) -> Tensor:
        """Independent samples, (size, ..., T, V, R+1), differentiable for fixed random numbers.

        Args:
            generator: where the numbers come from; None for PyTorch's own.
        """
        check_integer("size, the number of samples,", size, least=1)
        kind = {"dtype": self.mean.dtype, "device": self.mean.device}
        return self._sample(lambda shape: torch.randn((size, *shape), generator=generator, **kind))

    @torch.compiler.disable
    def _response(self, ξ: Rows) -> Tensor:
        return augmented(self._how, self._slot, lhs_of(self._inputs), ξ, None, rows=False)[1]

    @property
    def _blocks(self) -> tuple[Tensor, Tensor]:
        diagonal, lag = self._remembered("blocks", *lhs_of(self._inputs))
        return diagonal, lag

    @property
    def _diagonal(self) -> Tensor:
        return torch.diagonal(self._blocks[0], dim1=-2, dim2=-1)

    @property
    def _statistics(self) -> tuple[Tensor, ...]:
        return self._remembered("statistics", *self._inputs)

    def _remembered(self, name: str, *tensors: Any) -> tuple[Tensor, ...]:
        """The field `name`, remembered for each grad mode: what is found under `no_grad` has no derivatives."""
        key = name, torch.is_grad_enabled()
        if key not in self._known:
            self._known[key] = _moments(name, self._call, *tensors)
        return self._known[key]


class _Call:
    """The state of one posterior: the factor that gives its moments, once there is one, and statistics
    with those gradients that were `moving` when they were asked for."""

    def __init__(self, how: Options, slot: Slot) -> None:
        self.how, self.slot = how, slot
        self.factor: Any = None
        self.statistics: tuple[Sequence[Any], Problem, Statistics] | None = None
        self.moving = NONE

    def prepare(self, lhs: Sequence[Any]) -> Any:
        """The factor of (c, s, weights): the one that is kept, if theirs; under vmap they may have other batch axes."""
        if self.factor is None or not _fits(self.factor.system, lhs):
            kept = self.slot.held
            if kept is None or not _fits(kept.system, lhs):
                kept = bridge.prepare(self.how, Slot(), lhs, self.how.n_steps)
            self.factor = kept.factor
        return self.factor


def _fits(system: System, lhs: Sequence[Any]) -> bool:
    own = system.coefficients, system.step_sizes, *vars(system.weights).values()
    return all(tuple(x.shape) == tuple(getattr(y, "shape", ())) for x, y in zip(own, lhs, strict=True))


@torch.compiler.disable
def _moments(name: str, call: _Call, *tensors: Any) -> tuple[Tensor, ...]:
    moves = [isinstance(x, Tensor) and x.requires_grad and torch.is_grad_enabled() for x in tensors]
    if name == "statistics":
        call.moving = from_fields(moves)
    return _Moments.apply(name, call, *tensors)


def _statistics(call: _Call, inputs: Sequence[Any], wanted: Gradients) -> tuple[Problem, Statistics]:
    """The statistics of inputs that have values."""
    if call.factor is None and call.slot.held is None:
        return bridge.statistics(call.how, inputs, wanted)
    factor = call.prepare(lhs_of(inputs))
    b, u = (bridge.like(factor.system, x) for x in inputs[1:3])
    with bridge.calls_on(factor.system):
        found = factor.statistics(Rows(b, u, None), wanted)
    return Problem(factor.system, b, u, tuple(found.minimum.shape)), found


class _Moments(Function):
    """(name, call, inputs, or those of the left-hand side) -> the moments of that name, see the module."""

    @staticmethod
    def forward(name: str, call: _Call, *tensors: Any) -> tuple[Tensor, ...]:
        if name == "blocks":
            factor = call.prepare(tensors)
            with bridge.calls_on(factor.system):
                return tuple(map(bridge.tensor, factor.covariances()))
        problem, found = _statistics(call, tensors, call.moving)
        call.statistics = tensors, problem, found
        return bridge.tensor(found.log_determinant), bridge.tensor(found.minimum)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        del output
        ctx.name, ctx.call, *tensors = inputs
        ctx.others = [None if isinstance(x, Tensor) else x for x in tensors]
        ctx.save_for_backward(*(x if isinstance(x, Tensor) else None for x in tensors))

    @staticmethod
    def backward(ctx: Any, *g: Tensor) -> tuple[Any, ...]:
        tensors = [other if x is None else x for x, other in zip(ctx.saved_tensors, ctx.others, strict=True)]
        needed = tuple(ctx.needs_input_grad[2:])
        if torch.is_grad_enabled() or not bridge.is_plain((*g, *tensors)):
            gradients = _Pullback.apply(ctx.name, ctx.call, len(g), needed, *g, *tensors)
        else:  # (nobody differentiates it again, or looks on)
            gradients = _pulled_back(ctx.name, ctx.call, needed, g, tensors)
        return None, None, *(x if wanted else None for x, wanted in zip(gradients, needed, strict=True))

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], name: str, call: _Call, *tensors: Any) -> tuple[Any, ...]:
        del info
        results = _Moments.apply(name, call, *with_batch_in_front(_ranks(name), in_dims[2:], tensors))
        return results, (0,) * len(results)


def _pulled_back(
    name: str, call: _Call, needed: Sequence[bool], of_results: Sequence[Tensor], tensors: Sequence[Any]
) -> list[Tensor | None]:
    """The gradients of the tensors that have values and need them."""
    if name == "blocks":
        factor = call.prepare(tensors)
        with bridge.calls_on(factor.system):
            g = [bridge.like(factor.system, x) for x in of_results]
            gradients = factor.moments_pullback(*g, None)
        return list(map(bridge.tensor, lhs_of(by_field(gradients))))
    known = call.statistics
    if (
        known is None
        or not _are_same(known[0], tensors)
        or any(need and x is None for need, x in zip(needed, by_field(known[2].of_minimum), strict=True))
    ):
        known = (tensors, *_statistics(call, tensors, from_fields(needed)))
    _, problem, found = known
    with bridge.calls_on(problem.system):
        g = [bridge.like(problem.system, x) for x in of_results]
        gradients = by_field(pulled_back(problem, found, *g))
    return [x if x is None else bridge.tensor(x) for x in gradients]


class _Pullback(Function):
    """(name, call, number of results, which gradients are needed, those of the results, the tensors of `_Moments`) ->
    the gradients of these."""

    @staticmethod
    def forward(name: str, call: _Call, count: int, needed: Sequence[bool], *tensors: Any) -> tuple[Tensor, ...]:
        of_results, tensors = tensors[:count], tensors[count:]
        gradients = _pulled_back(name, call, needed, of_results, tensors)
        zero = torch.zeros((), dtype=of_results[0].dtype, device=of_results[0].device)
        return tuple(
            zero.expand(getattr(like, "shape", ())) if x is None else x
            for x, like in zip(gradients, tensors, strict=True)
        )

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        """Nothing is kept: there is no second derivative."""

    @staticmethod
    def backward(ctx: Any, *g: Tensor) -> tuple[Any, ...]:
        raise ArgumentError(SECOND_ORDER)

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[Any, ...], name: str, call: _Call, count: int, needed: Sequence[bool], *rest: Any
    ) -> tuple[Any, ...]:
        B = info.batch_size
        tensors = [  # each member has its own gradient
            x if not isinstance(x, Tensor) else x.expand(B, *x.shape) if dim is None else x.movedim(dim, 0)
            for x, dim in zip(rest, in_dims[4:], strict=True)
        ]
        dims = [0 if isinstance(x, Tensor) else None for x in tensors]
        ranks = {f"gradient {i}": rank for i, rank in enumerate((3, 3) if name == "blocks" else (0, 0))} | _ranks(name)
        results = _Pullback.apply(name, call, count, needed, *with_batch_in_front(ranks, dims, tensors))
        shapes = [tuple(x.shape) if isinstance(x, Tensor) else () for x in tensors[count:]]
        results = tuple(x.reshape(shape) if shape else x for x, shape in zip(results, shapes, strict=True))
        return results, tuple(0 if shape else None for shape in shapes)


def _ranks(name: str) -> dict[str, int]:
    """The tensors of `_Moments` and how many axes their rows have."""
    return RANKS if name == "statistics" else LHS_RANKS


def _are_same(given: Sequence[Any], tensors: Sequence[Any]) -> bool:
    """True if these are the same tensors, or look at the same memory in the same way."""

    def place(x: Any) -> Any:
        return (x.data_ptr(), x.shape, x.stride()) if isinstance(x, Tensor) else x

    return len(given) == len(tensors) and all(place(x) == place(y) for x, y in zip(given, tensors, strict=True))
