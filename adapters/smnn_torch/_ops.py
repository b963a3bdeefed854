"""Custom ops: the operators as single nodes in the graphs of `torch.compile` and `torch.export`.

    smnn::solution, smnn::adjoint, its backward pass, smnn::augmented, and smnn::augmented_states, y of it alone

Dynamo does not trace an `autograd.Function` with a `jvp` (https://github.com/pytorch/pytorch/issues/118397) or
leaves the `jvp` out (https://github.com/pytorch/pytorch/issues/192985), and ops made by
`torch.library.custom_op` know no forward mode (https://github.com/pytorch/pytorch/pull/131116). So these are plain
dispatcher entries, whose kernels for autograd and functorch are the autograd functions of `_operators`: every transform
works on them, inside a compiled function and outside.

In graphs they carry no factor: a graph can only carry tensors of sizes known to it, and the size of a factor is the
engine's own business. The backward pass of a compiled function therefore eliminates again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Any

import torch
from torch import Tensor

from smnn_core import HERMITE, TAYLOR, WIENER, Scheme, Weights
from smnn_core.extend import FIELDS, Problem, broadcast_shapes, by_field

from . import _bridge as bridge
from ._bridge import Options, Slot

__all__ = ["below_autograd", "call", "differentiate"]

INPUTS = ", ".join(f"Tensor {name.replace('.', '_')}" for name in FIELDS)
LHS = ", ".join(f"Tensor {name.replace('.', '_')}" for name, field in FIELDS.items() if field.is_of_lhs)
HOW = (
    "SymInt? n_steps, SymInt n_initial_steps, SymInt n_initial_orders, "
    "str scheme, float[] F, float[] G, str engine, bool check, bool recompute"
)
N_HOW = 9
BUILT_IN = {scheme.name: scheme for scheme in (TAYLOR, HERMITE, WIENER)}
LIBRARY = torch.library.Library("smnn", "DEF")


def below_autograd(name: str, how: Options, tensors: Sequence[Any]) -> Any:
    """`call` for the forward pass of an autograd function."""
    # Fake tensors copy `.grad` (https://github.com/pytorch/pytorch/pull/82593): of others than leaves with a warning.
    tensors = [x.detach() if isinstance(x, Tensor) and not x.is_leaf else x for x in tensors]
    with torch._C._AutoDispatchBelowAutograd():
        return call(name, how, tensors)


def call(name: str, how: Options, tensors: Sequence[Any]) -> Any:
    """An op, with its arguments as the schema has them: tensors, and weights that may be numbers, in order."""
    c = tensors[0]
    tensors = [x if x is None or isinstance(x, Tensor) else c.new_full((), x) for x in tensors]
    sizes = how.n_steps, how.n_initial_steps, how.n_initial_orders
    scheme = _encode(how.scheme, c)
    return getattr(torch.ops.smnn, name)(*tensors, *sizes, *scheme, how.engine, how.check, how.recompute)


def differentiate(name: str, function: Callable[..., Any]) -> None:
    """Makes function(how, slot, *arguments) the op's kernel for autograd and for every transform of functorch.

    The second key is where functorch takes over an op: there, an autograd function can still ask for its own rules.
    """

    def kernel(*args: Any) -> Any:
        how, arguments = _split(args)
        return function(how, Slot(), *arguments)

    for key in ("Autograd", "FuncTorchDynamicLayerFrontMode"):
        LIBRARY.impl(name, kernel, key)


def _split(args: Sequence[Any]) -> tuple[Options, Sequence[Any]]:
    """The arguments of an op as those of an operator."""
    n_steps, n_initial_steps, n_initial_orders, name, F, G, engine, check, recompute = args[-N_HOW:]
    scheme = BUILT_IN[name] if not F else _scheme(name, int(args[0].shape[-1]), tuple(F), tuple(G))
    return Options(scheme, n_steps, n_initial_steps, n_initial_orders, engine, check, recompute), args[:-N_HOW]


def _encode(scheme: Scheme, c: Tensor) -> tuple[str, list[float], list[float]]:
    """A scheme as arguments of an op: the name of a built-in one, or name and matrices, row by row.

    Asks the rule, not `Scheme.rows`: Dynamo, which traces this, can not guard what that remembers.
    """
    for known in BUILT_IN.values():
        if scheme is known:
            return known.name, [], []
    F, G = scheme.rule(c.shape[-1])
    return scheme.name, [float(x) for row in F for x in row], [float(x) for row in G for x in row]


@lru_cache(maxsize=256)
def _scheme(name: str, K: int, F: tuple[float, ...], G: tuple[float, ...]) -> Scheme:
    return Scheme.from_matrices(*([M[i : i + K] for i in range(0, len(M), K)] for M in (F, G)), name=name)


def _solution(how: Options, *inputs: Any) -> Tensor:
    return bridge.solution(how, Slot(), inputs).contiguous()


def _fake_solution(how: Options, c: Tensor, b: Tensor, u: Tensor, s: Tensor, *w: Tensor) -> Tensor:
    problem = Problem.build(c, b, u, s, n_steps=how.n_steps, scheme=how.scheme, weights=Weights(*w))
    return c.new_empty((*problem.batch, problem.system.n_steps, *c.shape[-2:]))


def _adjoint(how: Options, *tensors: Any) -> list[Tensor]:
    *inputs, y, g = tensors
    return [bridge.tensor(x).contiguous() for x in by_field(bridge.adjoint_anew(how, inputs, y, g))]


def _fake_adjoint(how: Options, *tensors: Any) -> list[Tensor]:
    return [x.new_empty(x.shape) for x in tensors[:-2]]


def _augmented(how: Options, *tensors: Any, rows: bool) -> tuple[Tensor, ...]:
    *lhs, e, i, s, g = tensors
    return tuple([x.contiguous() for x in bridge.augmented(how, Slot(), rows, lhs, (e, i, s), g)])


def _fake_augmented(how: Options, *tensors: Any, rows: bool) -> tuple[Tensor, ...]:
    *lhs, e, i, s, g = tensors
    c, given = lhs[0], {"f.equation": (e, 2), "f.initial": (i, 3), "f.smoothness": (s, 3), "g": (g, 3)}
    batches = {name: tuple(x.shape[: x.ndim - rank]) for name, (x, rank) in given.items() if x is not None}
    batch = broadcast_shapes({"left-hand side": bridge.batch_of_lhs(lhs), **batches})
    Q, V, K = c.shape[-3:]
    T: Any = how.n_steps
    T_init, R_init = how.n_initial_steps, how.n_initial_orders
    cores = (T, Q), (T_init, V, R_init), (T - 1, V, len(how.scheme.rule(K)[0])), (T, V, K)
    return tuple([c.new_empty((*batch, *core)) for core in (cores if rows else cores[-1:])])


def _states(how: Options, *tensors: Any) -> Tensor:
    return _augmented(how, *tensors, rows=False)[0]


def _fake_states(how: Options, *tensors: Any) -> Tensor:
    return _fake_augmented(how, *tensors, rows=False)[0]


def _define(name: str, schema: str, real: Callable[..., Any], fake: Callable[..., Any]) -> None:
    def split(function: Callable[..., Any]) -> Callable[..., Any]:
        def kernel(*args: Any) -> Any:
            how, arguments = _split(args)
            return function(how, *arguments)

        return kernel

    LIBRARY.define(name + schema, tags=(torch.Tag.pt2_compliant_tag,))
    LIBRARY.impl(name, split(real), "CompositeExplicitAutograd")
    torch.library.register_fake(f"smnn::{name}", split(fake), lib=LIBRARY)


B = "Tensor? f_equation, Tensor? f_initial, Tensor? f_smoothness, Tensor? g"
_define("solution", f"({INPUTS}, {HOW}) -> Tensor", _solution, _fake_solution)
_define("adjoint", f"({INPUTS}, Tensor y, Tensor g, {HOW}) -> Tensor[]", _adjoint, _fake_adjoint)
_define(
    "augmented",
    f"({LHS}, {B}, {HOW}) -> (Tensor, Tensor, Tensor, Tensor)",
    partial(_augmented, rows=True),
    partial(_fake_augmented, rows=True),
)
_define("augmented_states", f"({LHS}, {B}, {HOW}) -> Tensor", _states, _fake_states)
