"""Between tensors and engines: everything here works on plain tensors and knows nothing of derivatives.

A compiled engine sees CPU tensors as NumPy arrays, and CUDA tensors as CuPy arrays, on the same memory; its results
become tensors on theirs. Where no compiled engine serves, the array API engine takes the tensors themselves, on any
device. `_for_engine` is the one place where arrays are chosen.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from typing import Any, NamedTuple, TypeVar

import array_api_compat as compat
import numpy as np
import torch
from torch import Tensor

from smnn_core import Gradients, Scheme, Weights
from smnn_core.extend import (
    ALL,
    FIELDS,
    UNIT,
    ArrayEngine,
    Engine,
    Factor,
    Problem,
    Rows,
    Shape,
    Statistics,
    System,
    adjoint_without_factor,
    broadcast_shapes,
    eliminate,
    lhs_of,
    select,
    solve_with,
    statistics_of,
)

from . import _cuda

__all__ = [
    "Slot",
    "Eliminated",
    "Options",
    "adjoint",
    "adjoint_anew",
    "adjoint_on_cpu",
    "augmented",
    "batch_of_lhs",
    "calls_on",
    "full_precision",
    "is_legacy_batched",
    "is_plain",
    "like",
    "prepare",
    "solution",
    "solution_on_cpu",
    "statistics",
    "tensor",
]

NOTHING = nullcontext()
T_ = TypeVar("T_", Problem, System)


class Options(NamedTuple):
    """Options of a call, beside the tensors."""

    scheme: Scheme
    n_steps: int | None
    """T, where the caller gave it"""
    n_initial_steps: int
    n_initial_orders: int
    engine: str = "auto"
    check: bool = False
    recompute: bool = False
    """nothing is kept for derivatives, and as little as the engine can do with in the meantime"""


class Eliminated(NamedTuple):
    """An eliminated left-hand side, in the arrays of its engine."""

    system: System
    factor: Factor
    problem: Problem | None = None
    """the problem that was solved with it first, and its solution"""
    y: Any = None


class Slot:
    """The place in which a solve leaves its factor for its derivatives.

    It passes through autograd and functorch as an argument that they do not look into. It stays empty where the factor
    is to be computed again (`Options.recompute`).
    """

    __slots__ = ("held",)

    def __init__(self, held: Eliminated | None = None) -> None:
        self.held = held

    def __reduce__(self) -> tuple[Any, ...]:
        """A copy, pickled or not, eliminates again."""
        return Slot, ()


def solution(how: Options, slot: Slot, inputs: Sequence[Any]) -> Tensor:
    """argmin_y |W (A y - d)|, d = (rhs, initial_values, 0), with the factor that is kept, or else a new one."""
    if slot.held is None:
        engine, problem = _for_engine(how, _build_problem, inputs)
        with calls_on(problem.system):
            return _solved(how, slot, engine, problem)
    _, b, u, *_ = inputs

    def solve(factor: Factor, b: Any, u: Any) -> tuple[Any, ...]:
        return (factor.solve(Rows(b, u, None)),)

    return _with_factor(how, slot, lhs_of(inputs), how.n_steps, [(b, 2), (u, 3)], (3,), solve)[0]


def solution_on_cpu(
    how: Options, slot: Slot, numbers: Sequence[float], c: Tensor, b: Tensor, u: Tensor, s: Tensor
) -> Tensor | None:
    """`solution` with weights that are numbers and a new factor, for plain tensors on the CPU: the shortest way to a
    compiled engine. None where it does not lead there."""
    given = c, b, u, s
    if slot.held is not None or torch._C._len_torch_dispatch_stack() or not PLAIN.issuperset(map(type, given)):
        return None
    if not (c.is_cpu and s.is_cpu and b.is_cpu and u.is_cpu and c.dtype is s.dtype is b.dtype is u.dtype):
        return None
    if c.dtype not in _cuda.FLOATS:
        return None
    try:
        arrays = [x.numpy(force=True) for x in given]
    except RuntimeError:  # asked for in advance, this would take longer than all else here
        if any(map(is_legacy_batched, given)):
            return None
        raise
    weights = _weights(*numbers)
    problem = Problem.build(*arrays, n_steps=how.n_steps, scheme=how.scheme, weights=weights, values=False)
    engine = select(how.engine, problem.system)
    if isinstance(engine, ArrayEngine):
        return None
    return _solved(how, slot, engine, problem)


@lru_cache(maxsize=256)
def _weights(equation: float, initial: float, smoothness: float) -> Weights:
    """Weights that are numbers, which are not made again for every call."""
    weights = Weights(equation, initial, smoothness)
    return UNIT if weights == UNIT else weights


def _solved(how: Options, slot: Slot, engine: Engine, problem: Problem) -> Tensor:
    """The solution; what its derivatives need is kept."""
    y, factor = solve_with(engine, problem, check=how.check, recompute=how.recompute)
    if not how.recompute:
        slot.held = Eliminated(problem.system, factor, problem, y)
    return tensor(y)


def augmented(
    how: Options, slot: Slot, rows: bool, lhs: Sequence[Any], f: Sequence[Tensor | None], g: Tensor | None
) -> tuple[Tensor, ...]:
    """(v, y), or (y,) where rows are not wanted, of the augmented solve; parts of f may be None."""

    def solve(factor: Factor, *given: Any) -> tuple[Any, ...]:
        *f, g = given
        v, y = factor.augmented(None if f[0] is None else Rows(*f), g, rows=rows)
        return (*v, y) if rows else (y,)

    cores = (2, 3, 3, 3) if rows else (3,)
    return _with_factor(how, slot, lhs, how.n_steps, list(zip((*f, g), (2, 3, 3, 3), strict=True)), cores, solve)


def _with_factor(
    how: Options,
    slot: Slot,
    lhs: Sequence[Any],
    n_steps: int | None,
    given: Sequence[tuple[Tensor | None, int]],
    cores: Sequence[int],
    solve: Callable[..., Sequence[Any]],
) -> tuple[Tensor, ...]:
    """The results of solve(factor, ...), by the factor that is kept, of tensors given with the number of axes of their
    rows; `cores` are those of the results.

    The rules for vmap put the mapped axis in front of the batch axes. Several in a row may have put axes of length 1
    between those that the left-hand side had when it was eliminated. What is given may have any length on those axes:
    they are moved to the front, so that it broadcasts with the factor.
    """
    system, factor, *_ = prepare(how, slot, lhs, n_steps)
    now = batch_of_lhs(lhs)
    rank = max(len(now), *(x.ndim - core for x, core in given if x is not None))
    places = _places(system.batch, (1,) * (rank - len(now)) + now)
    if places is None:
        return _with_factor(how, Slot(), lhs, n_steps, given, cores, solve)
    others = tuple(i for i in range(rank) if i not in places)
    moved = others + places != tuple(range(rank))
    order = (*others, *places)
    back = tuple(order.index(i) for i in range(rank))

    def arrange(x: Tensor | None, core: int) -> Any:
        if x is None:
            return None
        if moved:
            x = x.reshape(*(1,) * (rank + core - x.ndim), *x.shape)
            x = x.permute(*order, *range(rank, rank + core))
        return like(system, x)

    with calls_on(system):
        results = [tensor(x) for x in solve(factor, *(arrange(*entry) for entry in given))]
    if not moved:
        return tuple(results)
    return tuple(x.permute(*back, *range(rank, rank + core)) for x, core in zip(results, cores, strict=True))


def _places(kept: Shape, now: Shape) -> tuple[int, ...] | None:
    """Positions of the batch axes `kept` in `now`, which has axes of length 1 between them; None where it has not."""
    places: list[int] = []
    rest = list(kept)
    for i in reversed(range(len(now))):
        if rest and rest[-1] == now[i]:
            places.insert(0, i)
            rest.pop()
        elif now[i] != 1:
            return None
    return None if rest else tuple(places)


def batch_of_lhs(lhs: Sequence[Any]) -> Shape:
    """The batch shape of (c, s, w_e, w_i, w_s)."""
    entries = zip((field for field in FIELDS.values() if field.is_of_lhs), lhs, strict=True)
    return broadcast_shapes(
        {field.name: tuple(x.shape[: max(x.ndim - field.rank, 0)]) for field, x in entries if isinstance(x, Tensor)}
    )


def adjoint(
    how: Options, slot: Slot, inputs: Sequence[Any], y: Tensor, g: Tensor, wanted: Gradients = ALL
) -> Gradients:
    """The gradients with respect to all inputs of a solution, or those wanted, in the arrays of the engine."""
    if slot.held is None and how.recompute:
        return adjoint_anew(how, inputs, y, g, wanted)
    system, factor, problem, solution = prepare(how, slot, lhs_of(inputs), y.shape[-3])
    with calls_on(system):
        if problem is None:
            problem = Problem(system, like(system, inputs[1]), like(system, inputs[2]), tuple(y.shape[:-3]))
            solution = like(system, y)
        return factor.adjoint(problem, solution, like(system, g), wanted)


def adjoint_anew(how: Options, inputs: Sequence[Any], y: Tensor, g: Tensor, wanted: Gradients = ALL) -> Gradients:
    """`adjoint` where nothing was kept, nor will be."""
    _, problem = _for_engine(how._replace(n_steps=y.shape[-3]), _build_problem, inputs)
    with calls_on(problem.system):
        y, g = like(problem.system, y), like(problem.system, g)
        return adjoint_without_factor(problem, y, g, wanted, engine=how.engine, recompute=how.recompute)


def adjoint_on_cpu(slot: Slot, g: Tensor, wanted: Gradients) -> list[Tensor | None] | None:
    """`adjoint` with what `solution_on_cpu` kept, for a g that has values: the gradients of c, b, u and s that are
    wanted. None where nothing was kept there."""
    kept = slot.held
    if kept is None or kept.problem is None or type(kept.y) is not np.ndarray:
        return None
    if torch._C._len_torch_dispatch_stack() or type(g) not in PLAIN or not g.is_cpu:
        return None
    gradients = kept.factor.adjoint(kept.problem, kept.y, g.numpy(force=True), wanted)
    return [None if x is None else torch.from_numpy(x) for x in gradients[:4]]


def prepare(how: Options, slot: Slot, lhs: Sequence[Any], n_steps: int | None) -> Eliminated:
    """The factor that is kept, or else a new one."""
    if slot.held is not None:
        return slot.held
    engine, system = _for_engine(how._replace(n_steps=n_steps), _build_system, lhs)
    with calls_on(system):
        factor = eliminate(engine, system, check=how.check)
    kept = Eliminated(system, factor)
    if not how.recompute:
        slot.held = kept
    return kept


def statistics(how: Options, inputs: Sequence[Any], wanted: Gradients) -> tuple[Problem, Statistics]:
    """The problem in the arrays of the engine, and its statistics, with the gradients that are wanted."""
    engine, problem = _for_engine(how, _build_problem, inputs)
    with calls_on(problem.system):
        return problem, statistics_of(engine, problem, wanted, check=how.check)


def _build_problem(how: Options, c: Any, b: Any, u: Any, s: Any, *w: Any) -> Problem:
    """The problem, checked but for its values, in arrays or tensors of any kind."""
    return Problem.build(c, b, u, s, n_steps=how.n_steps, scheme=how.scheme, weights=Weights(*w), values=False)


def _build_system(how: Options, c: Any, s: Any, *w: Any) -> System:
    return System.build(
        c,
        s,
        n_initial_steps=how.n_initial_steps,
        n_initial_orders=how.n_initial_orders,
        n_steps=how.n_steps,
        scheme=how.scheme,
        weights=Weights(*w),
        values=False,
    )


def _for_engine(how: Options, build: Callable[..., T_], given: Sequence[Any]) -> tuple[Engine, T_]:
    """The engine, and what `build` makes of the arrays that it takes: NumPy or CuPy arrays, or tensors."""
    arrays, result = _on_cpu(given), None
    if arrays is not None:
        result = build(how, *arrays)
    elif how.engine in ("auto", "cuda") and _cuda.serves(given):
        with _cuda.current(_cuda.index_of(given[0])):
            result = build(how, *map(_cuda.view, given))
    if result is not None:
        engine = _engine(how, result)
        if not isinstance(engine, ArrayEngine):
            return engine, result
    result = build(how, *(x.detach() if isinstance(x, Tensor) else x for x in given))
    return _engine(how, result), result


def _engine(how: Options, built: Problem | System) -> Engine:
    return select(how.engine, built.system if isinstance(built, Problem) else built)


def _on_cpu(given: Sequence[Any]) -> list[Any] | None:
    """CPU tensors of one dtype that engines know as NumPy arrays on the same memory, without their graphs (`force`);
    None where there are others."""
    dtype = given[0].dtype
    if dtype not in _cuda.FLOATS:
        return None
    arrays = []
    for x in given:
        if isinstance(x, Tensor):
            if x.dtype is not dtype or not x.is_cpu:
                return None
            x = x.numpy(force=True)
        arrays.append(x)
    return arrays


def like(system: System, x: Tensor) -> Any:
    """x as the kind of array that the system is made of."""
    c = system.coefficients
    if isinstance(c, np.ndarray):
        return x.numpy(force=True)
    return x.detach() if isinstance(c, Tensor) else _cuda.view(x)


def tensor(x: Any) -> Tensor:
    """The same memory as a tensor."""
    if type(x) is np.ndarray:
        return torch.from_numpy(x)
    if isinstance(x, Tensor):
        return x
    return _cuda.tensor(x) if compat.is_cupy_array(x) else torch.from_numpy(np.asarray(x))


def is_plain(values: Sequence[Any]) -> bool:
    """True if engines can take these tensors: they have values, and no dispatch mode wants to see the op."""
    if torch._C._len_torch_dispatch_stack():
        return False
    for x in values:
        if isinstance(x, Tensor) and (type(x) not in PLAIN or x.is_meta or is_legacy_batched(x)):
            return False
    return True


PLAIN = frozenset((Tensor, torch.nn.Parameter))
is_legacy_batched: Callable[[Tensor], bool] = torch._C._functorch.is_legacy_batchedtensor
"""True if a tensor is batched by `torch.autograd.grad(is_grads_batched=True)`, whose vmap is an older one that autograd
functions do not see (https://github.com/pytorch/pytorch/pull/65564)."""


def full_precision(x: Tensor) -> AbstractContextManager[Any]:
    """Array calls on tensors must not be autocast to half precision."""
    return NOTHING if x.is_meta else torch.autocast(x.device.type, enabled=False)


def calls_on(system: System) -> AbstractContextManager[Any]:
    c = system.coefficients
    if isinstance(c, np.ndarray):
        return NOTHING
    return full_precision(c) if isinstance(c, Tensor) else _cuda.current(c.device.id)
