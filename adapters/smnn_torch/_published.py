"""`ode_forward`, the interface of the published code."""

from __future__ import annotations

from functools import reduce
from typing import Any

import torch
from torch import Tensor

from smnn_core import TAYLOR, DTypeError, NamespaceError, ShapeError, Weights
from smnn_core.extend import broadcast_shapes

from ._central import smnn_central
from ._solve import Factorization, factorize, refuse_gradients, solve_ode

__all__ = ["ode_forward"]

_frozen: dict[int, tuple[tuple[Any, ...], Factorization]] = {}
"""By number, the left-hand side (coefficients, steps, weights, sizes) and its factor."""

RANKS = {"coefficients": 4, "rhs_equation": 2, "init_vars": 3, "steps": 1}
"""How many axes an argument has beside those of the batch, time included."""
WEIGHED = {"weight_equation": 2, "weight_init_var": 3, "weight_smooth": 1}
"""The same, of the rows that a weight multiplies."""


def ode_forward(
    coefficients: Tensor,
    rhs_equation: Tensor,
    init_vars: Tensor,
    steps: Tensor,
    n_steps: int | None = None,
    n_init_var_steps: int | None = None,
    is_step_dim_first: bool = False,
    weight_equation: float = 1.0,
    weight_init_var: float = 1.0,
    weight_smooth: float = 1.0,
    enable_central_smoothness: bool = False,
    prefer_cuda_graph: bool = True,
    frozen_lhs_cache_version: int = 0,
) -> Tensor:
    """`solve_ode` under the names, defaults and meanings of the published `ode_forward`, with its scheme, `TAYLOR`:
    change the import and go on.

    Args:
        coefficients: (..., T or 1, Q, V, R+1).
        rhs_equation: (..., T or 1, Q).
        init_vars: (..., T_init or 1, V, R_init).
        steps: (..., T-1 or 1).
        n_steps: T, where the axes above are 1.
        n_init_var_steps: T_init, where the axis above is 1.
        is_step_dim_first: the axes of time come first, before the batch, in all arguments and in the result.
        weight_equation: weight of the equation rows, a number or a tensor that broadcasts to (..., T, Q).
        weight_init_var: weight of the initial rows, a number or a tensor that broadcasts to (..., T_init, V, R_init).
        weight_smooth: weight of the smoothness rows, a number or a tensor that broadcasts to (..., T-1).
        enable_central_smoothness: central rows take the places of the last forward and backward rows of `TAYLOR`. These
            rows tie three time points together, and are solved in float64 by array calls: slower than without, and
            differentiable once.
        prefer_cuda_graph: a preference, without effect here.
        frozen_lhs_cache_version: a positive number names a left-hand side, which is eliminated when the number is first
            seen and kept until `ode_forward.clear_frozen()`. Given with other coefficients, steps or weights it names
            these from then on: nothing stale is used. Zero and negative numbers keep nothing, and nothing is kept with
            central rows. `smnn_torch.factorize` does the same without hidden state.

    Returns:
        y, (..., T, V, R+1), or (T, ..., V, R+1), contiguous, in the widest dtype of the arguments.

    Raises:
        ArgumentError: for a frozen left-hand side that requires a gradient, and for central rows of a single order.
        ShapeError, DTypeError, NamespaceError, DeviceError: with the arguments' names here.
        SingularSystemError: as `solve_ode`.

    Source: Chen et al., ICLR 2025, arXiv:2410.06074.
    """
    arguments = dict(zip(RANKS, (coefficients, rhs_equation, init_vars, steps), strict=True))
    weights = dict(zip(WEIGHED, (weight_equation, weight_init_var, weight_smooth), strict=True))
    n_steps, n_init = _check(arguments, weights, n_steps, n_init_var_steps, is_step_dim_first)
    c, b, u, s = _conform(arguments, RANKS, is_step_dim_first)
    w = Weights(*_conform(weights, WEIGHED, is_step_dim_first))
    if u.shape[-3] != n_init:
        u = u.expand(*u.shape[:-3], n_init, *u.shape[-2:])
    if enable_central_smoothness:
        y = _with_central_rows(c, b, u, s, w, n_steps, frozen=frozen_lhs_cache_version > 0)
    elif frozen_lhs_cache_version > 0:
        y = _frozen_factor(frozen_lhs_cache_version, c, s, w, n_steps, tuple(u.shape)).solve(b, u)
    else:
        y = solve_ode(c, b, u, s, n_steps=n_steps, scheme=TAYLOR, weights=w)
    return y.movedim(-3, 0).contiguous() if is_step_dim_first else y


def _check(
    arguments: dict[str, Tensor], weights: dict[str, Any], n_steps: int | None, n_init: int | None, first: bool
) -> tuple[int, int]:
    """T and T_init; raises for shapes that do not fit, with the caller's names and layout."""
    for name, x in arguments.items():
        if not isinstance(x, Tensor):
            raise NamespaceError(f"{name} must be a torch.Tensor, got {type(x).__name__}: use torch.as_tensor.")
        if not x.is_floating_point():
            raise DTypeError(
                f"{name} has dtype {x.dtype}; expected floating point: convert it, for example by .double()."
            )
        if x.ndim < RANKS[name]:
            raise ShapeError(f"{name} must have at least {RANKS[name]} axes; got shape {tuple(x.shape)}.")
    times = {name: x.shape[0 if first else -RANKS[name]] for name, x in arguments.items()}
    T = times["steps"] + 1 if n_steps is None else n_steps
    if n_steps is None and times["steps"] == 1:
        T = max(times["coefficients"], times["rhs_equation"], 2)
    T_init = times["init_vars"] if n_init is None else n_init
    _, Q, V, _ = _core(arguments["coefficients"], 4, first)
    expected = {
        "coefficients": (T, None, None, None),
        "rhs_equation": (T, Q),
        "init_vars": (T_init, V, None),
        "steps": (T - 1,),
    }
    axes = {"init_vars": "T_init", "steps": "T-1"}
    for name, core in expected.items():
        found = _core(arguments[name], RANKS[name], first)
        if found[0] not in (core[0], 1) or any(n not in (m, None) for m, n in zip(found[1:], core[1:], strict=True)):
            axis, sizes = axes.get(name, "T"), ["any" if n is None else str(n) for n in core[1:]]
            layout = [axis, "...", *sizes] if first else ["...", axis, *sizes]
            raise ShapeError(
                f"{name} has shape {tuple(arguments[name].shape)}; expected ({', '.join(layout)}) with {axis} = "
                f"{core[0]} or 1, as {'n_steps says' if n_steps is not None else 'steps say'} T = {T}"
                + (f" and n_init_var_steps T_init = {n_init}." if name == "init_vars" and n_init is not None else ".")
            )
    batch = broadcast_shapes({name: _batch(x, RANKS[name], first) for name, x in arguments.items()})
    for name, w in weights.items():
        if isinstance(w, Tensor) and w.ndim > len(batch) + WEIGHED[name]:
            raise ShapeError(
                f"{name} of shape {tuple(w.shape)} has more axes than the rows it multiplies, "
                f"{len(batch) + WEIGHED[name]}: it would add batch axes to the solution. Drop the axes of length 1."
            )
    return T, T_init


def _core(x: Tensor, rank: int, first: bool) -> tuple[int, ...]:
    """The sizes of time and of what follows the batch."""
    return (x.shape[0], *x.shape[x.ndim - rank + 1 :]) if first else tuple(x.shape[x.ndim - rank :])


def _batch(x: Tensor, rank: int, first: bool) -> tuple[int, ...]:
    return tuple(x.shape[1 : x.ndim - rank + 1]) if first else tuple(x.shape[: x.ndim - rank])


def _conform(values: dict[str, Any], ranks: dict[str, int], first: bool) -> list[Any]:
    """Time behind the batch, and the widest dtype."""
    tensors = {name: x for name, x in values.items() if isinstance(x, Tensor)}
    dtype = reduce(torch.promote_types, [x.dtype for x in tensors.values()], torch.float32)
    result = []
    for name, x in values.items():
        if name in tensors:
            x = x.movedim(0, -ranks[name]) if first and x.ndim >= ranks[name] else x
            x = x.to(dtype)
        result.append(x)
    return result


def _with_central_rows(c: Tensor, b: Tensor, u: Tensor, s: Tensor, w: Weights, n_steps: int, *, frozen: bool) -> Tensor:
    """With frozen left-hand sides, too, these are eliminated at every call."""
    if frozen:
        refuse_gradients((c, s, *vars(w).values()))
    wide = [x.double() for x in (c, b, u, s)]
    weights = Weights(*(x.double() if isinstance(x, Tensor) else x for x in vars(w).values()))
    return smnn_central(*wide, n_steps=n_steps, weights=weights).to(c.dtype)


def _frozen_factor(
    number: int, c: Tensor, s: Tensor, w: Weights, n_steps: int, initial: tuple[int, ...]
) -> Factorization:
    """The factor under a number, made again where it belongs to another left-hand side."""
    lhs = c, s, *vars(w).values()
    refuse_gradients(lhs)
    sizes = n_steps, initial[-3], initial[-1]
    known = _frozen.get(number)
    if known is None or known[0][0] != sizes or not all(map(_same, known[0][1:], lhs)):
        factor = factorize(
            c, s, n_initial_steps=initial[-3], n_initial_orders=initial[-1], n_steps=n_steps, scheme=TAYLOR, weights=w
        )
        copies = [x.detach().clone() if isinstance(x, Tensor) else x for x in lhs]
        known = _frozen[number] = (sizes, *copies), factor
    return known[1]


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a.shape == b.shape and a.dtype == b.dtype and a.device == b.device and torch.equal(a, b)
    return type(a) is type(b) and bool(a == b)


ode_forward.clear_frozen = _frozen.clear  # type: ignore[attr-defined]
