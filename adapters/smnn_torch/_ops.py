"""Custom ops: the operators as single nodes in the graphs of `torch.compile` and `torch.export`.

    smnn::least_squares, smnn::normal_solve, and smnn::adjoint, the backward pass of the first

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
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from smnn_core import HERMITE, TAYLOR, WIENER, Gradients, Scheme, Weights
from smnn_core.extend import Problem, broadcast_shapes

from . import _bridge as bridge
from ._bridge import Keep, Statement

__all__ = ["adjoint", "call", "differentiate", "least_squares", "normal_solve"]

LHS = "Tensor coefficients, Tensor step_sizes, Tensor w_equation, Tensor w_initial, Tensor w_smoothness"
HOW = (
    "SymInt? n_steps, SymInt n_initial_steps, SymInt n_initial_orders, "
    "str scheme, float[] F, float[] G, str engine, bool check, bool recompute"
)
SCHEMAS = {
    "least_squares": f"({LHS}, Tensor rhs, Tensor initial_values, Tensor? smoothness, {HOW}) -> Tensor",
    "normal_solve": f"({LHS}, Tensor g, {HOW}) -> Tensor",
    "adjoint": f"({LHS}, Tensor rhs, Tensor initial_values, Tensor y, Tensor g, {HOW}) -> Tensor[]",
}
N_HOW, N_LHS = 9, 5
BUILT_IN = {scheme.name: scheme for scheme in (TAYLOR, HERMITE, WIENER)}
LIBRARY = torch.library.Library("smnn", "DEF")


def least_squares(how: Statement, lhs: Sequence[Any], b: Tensor, u: Tensor, σ: Tensor | None) -> Tensor:
    """The op below autograd, for the forward pass of `_operators.LeastSquares`."""
    with torch._C._AutoDispatchBelowAutograd():
        return call("least_squares", how, lhs, b, u, σ)


def normal_solve(how: Statement, lhs: Sequence[Any], h: Tensor) -> Tensor:
    """The op below autograd, for the forward pass of `_operators.NormalSolve`."""
    # Fake tensors copy `.grad` (https://github.com/pytorch/pytorch/pull/82593): of others than leaves with a warning.
    h = h if h.is_leaf else h.detach()
    with torch._C._AutoDispatchBelowAutograd():
        return call("normal_solve", how, lhs, h)


def adjoint(how: Statement, lhs: Sequence[Any], b: Tensor, u: Tensor, y: Tensor, g: Tensor) -> Gradients:
    """The op below autograd, for the backward pass of `_operators.LeastSquares` that will not be differentiated."""
    with torch._C._AutoDispatchBelowAutograd():
        c, s, *w, db, du = call("adjoint", how, lhs, b, u, y, g)
    return Gradients(c, db, du, s, Weights(*w))


def call(name: str, how: Statement, lhs: Sequence[Any], *rest: Tensor | None) -> Any:
    """An op, with its arguments as the schema has them."""
    c, s, *w = lhs
    w = [x if isinstance(x, Tensor) else torch.full((), x, dtype=c.dtype, device=c.device) for x in w]
    sizes = how.n_steps, how.n_initial_steps, how.n_initial_orders
    return getattr(torch.ops.smnn, name)(
        c, s, *w, *rest, *sizes, *_encode(how.scheme, c), how.engine, how.check, how.recompute
    )


def differentiate(name: str, function: Callable[..., Any]) -> None:
    """Makes function(how, keep, lhs, *rest) the op's kernel for autograd and for every transform of functorch.

    The second key is where functorch takes over an op: there, an autograd function can still ask for its own rules.
    """

    def kernel(*args: Any) -> Any:
        how, lhs, rest = _split(args)
        return function(how, Keep(), lhs, *rest)

    for key in ("Autograd", "FuncTorchDynamicLayerFrontMode"):
        LIBRARY.impl(name, kernel, key)


def _split(args: Sequence[Any]) -> tuple[Statement, Sequence[Tensor], Sequence[Any]]:
    """The arguments of an op as those of an operator."""
    lhs, rest = args[:N_LHS], args[N_LHS:-N_HOW]
    n_steps, n_initial_steps, n_initial_orders, name, F, G, engine, check, recompute = args[-N_HOW:]
    scheme = BUILT_IN[name] if not F else _scheme(name, int(lhs[0].shape[-1]), tuple(F), tuple(G))
    return Statement(scheme, n_steps, n_initial_steps, n_initial_orders, engine, check, recompute), lhs, rest


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


def _least_squares(*args: Any) -> Tensor:
    how, lhs, (b, u, σ) = _split(args)
    return bridge.least_squares(how, Keep(), lhs, b, u, σ).contiguous()


def _normal_solve(*args: Any) -> Tensor:
    how, lhs, (h,) = _split(args)
    return bridge.normal_solve(how, Keep(), lhs, h).contiguous()


def _adjoint(*args: Any) -> list[Tensor]:
    how, lhs, (b, u, y, g) = _split(args)
    gradients = bridge.adjoint_anew(how, lhs, b, u, y, g)
    return [bridge.tensor(x).contiguous() for x in bridge.in_order(gradients)]


def _fake_least_squares(*args: Any) -> Tensor:
    how, (c, s, *w), (b, u, σ) = _split(args)
    n_steps = how.n_steps if σ is None else σ.shape[-3] + 1
    problem = Problem.build(c, b, u, s, n_steps=n_steps, scheme=how.scheme, weights=Weights(*w))
    batch = problem.batch
    if σ is not None:
        batch = broadcast_shapes({"problem": batch, "smoothness": tuple(σ.shape[:-3])})
    return c.new_empty((*batch, problem.system.n_steps, *c.shape[-2:]))


def _fake_normal_solve(*args: Any) -> Tensor:
    _, lhs, (h,) = _split(args)
    batch = broadcast_shapes({"left-hand side": bridge.batch_of_lhs(lhs), "g": tuple(h.shape[:-3])})
    return h.new_empty((*batch, *h.shape[-3:]))


def _fake_adjoint(*args: Any) -> list[Tensor]:
    _, lhs, (b, u, _, _) = _split(args)
    return [x.new_empty(x.shape) for x in (*lhs, b, u)]


for _name, _real, _fake in (
    ("least_squares", _least_squares, _fake_least_squares),
    ("normal_solve", _normal_solve, _fake_normal_solve),
    ("adjoint", _adjoint, _fake_adjoint),
):
    LIBRARY.define(_name + SCHEMAS[_name], tags=(torch.Tag.pt2_compliant_tag,))
    LIBRARY.impl(_name, _real, "CompositeExplicitAutograd")
    torch.library.register_fake(f"smnn::{_name}", _fake, lib=LIBRARY)
