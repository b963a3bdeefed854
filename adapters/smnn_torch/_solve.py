"""The public functions: `solve_ode` and `factorize` for tensors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import array_api_compat.torch as xp
import numpy as np
import torch
from torch import Tensor

from smnn_core import HERMITE, ArgumentError, NamespaceError, Scheme, ShapeError, Weights
from smnn_core.extend import (
    FIELDS,
    UNIT,
    Problem,
    across_steps,
    check_states,
    check_weights,
    error_estimate_with,
    inputs_of,
    lhs_of,
    owned,
    without_missing,
)

from . import _ops as ops
from ._bridge import Options, Slot, full_precision, is_plain, prepare
from ._operators import augmented, solution, system_of

__all__ = ["Factorization", "error_estimate", "factorize", "solve_ode"]

NAMES = tuple(FIELDS)
LHS = lhs_of(NAMES)
NUMBERS = (float, Tensor, int, np.number, torch.SymFloat, torch.SymInt)
HALVES = (torch.float16, torch.bfloat16)


def solve_ode(
    coefficients: Tensor,
    rhs: Tensor,
    initial_values: Tensor,
    step_sizes: Tensor,
    *,
    n_steps: int | None = None,
    scheme: Scheme = HERMITE,
    weights: Weights = UNIT,
    engine: str = "auto",
    check: bool = False,
    recompute: bool = False,
) -> Tensor:
    """`smnn_core.solve_ode` for tensors, differentiable to any order in all of them, weights included.

    Every transform of PyTorch applies: reverse and forward mode, `torch.func`, `torch.compile`, `torch.export`. Under
    autocast, inputs in half precision are taken in float32.

    Args:
        coefficients: (..., T or 1, Q, V, R+1).
        rhs: (..., T or 1, Q).
        initial_values: (..., T_init, V, R_init), at the first T_init time points (1 for an initial-value problem, may
            be 0); NaN means "not given". For values at any times see `conditions`.
        step_sizes: (..., T-1 or 1), in units of time, or a number; non-zero, may be irregular or negative.
        n_steps: T, needed where every time axis above is 1.
        scheme: the smoothness scheme, `HERMITE`, `WIENER`, `TAYLOR` (as published) or your own. Rows across a step s
            are weighted by (s_ref / |s|)^p, see `Scheme`.
        weights: numbers, or tensors that broadcast against the rows, of bool for masks; zero removes a row.
        engine: "auto", or the name of one of the engines that `smnn_core.show_config` lists.
        check: raise on singular systems also where looking means waiting for a device.
        recompute: keep nothing of the factor and eliminate again where it is wanted: about half of the memory for long
            sequences, at the price of time. Compiled functions never keep it from one pass to the next; with this,
            not within a pass either.

    Returns:
        y, (..., T, V, R+1), in the dtype and on the device of the inputs.

    Raises:
        ShapeError, DTypeError, NamespaceError, DeviceError, ArgumentError, SchemeError, EngineError: before any work.
        SingularSystemError: as `smnn_core.solve_ode`.
    """
    how = Options(scheme, n_steps, 0, 0, engine, check, recompute)
    how, inputs = stated(how, coefficients, rhs, initial_values, step_sizes, weights)
    if torch.compiler.is_compiling():
        return ops.call("solution", how, inputs)
    return solution(how, Slot(), inputs)


def stated(
    how: Options, coefficients: Tensor, rhs: Tensor, initial_values: Tensor, step_sizes: Tensor, weights: Weights
) -> tuple[Options, tuple[Any, ...]]:
    """The arguments of a solution as those of its operator: how, with T_init and R_init, and the inputs."""
    check_weights(weights)
    c, b, u, s, *w = _checked(NAMES[:4], (coefficients, rhs, initial_values, step_sizes), weights)
    shape = u.shape
    T_init, R_init = (shape[-3], shape[-1]) if len(shape) >= 3 else (0, 0)
    u, w[1] = _without_missing(u, w[1])
    w[2] = _across_steps(how.scheme, c, s, w[2])
    return how._replace(n_initial_steps=T_init, n_initial_orders=R_init), (c, b, u, s, *w)


def error_estimate(
    coefficients: Tensor, rhs: Tensor, initial_values: Tensor, step_sizes: Tensor, **options: Any
) -> Tensor:
    """`smnn_core.error_estimate` for tensors, differentiable: arguments and errors as for `solve_ode`."""
    return error_estimate_with(solve_ode, coefficients, rhs, initial_values, step_sizes, **options)


def factorize(
    coefficients: Tensor,
    step_sizes: Tensor,
    *,
    n_initial_steps: int,
    n_initial_orders: int,
    n_steps: int | None = None,
    scheme: Scheme = HERMITE,
    weights: Weights = UNIT,
    engine: str = "auto",
    check: bool = False,
) -> Factorization:
    """`smnn_core.factorize` for tensors: a frozen left-hand side, copied, for any number of right-hand sides.

    There is nothing in it for a graph: call it outside of compiled functions.

    Args:
        coefficients: (..., T or 1, Q, V, R+1), without a gradient.
        step_sizes: (..., T-1 or 1), without a gradient.
        n_initial_steps: T_init of the initial values to come.
        n_initial_orders: R_init of the initial values to come.
        n_steps: as for `solve_ode`.
        scheme: as for `solve_ode`.
        weights: as for `solve_ode`, without a gradient.
        engine: as for `solve_ode`.
        check: as for `solve_ode`.

    Returns:
        a `Factorization`, whose solutions are differentiable in the right-hand side.

    Raises:
        ArgumentError: if the left-hand side requires a gradient, which it would not get: detach it, or use `solve_ode`;
            and if a transform of `torch.func` is looking at it.
        ShapeError, DTypeError, NamespaceError, DeviceError, SchemeError, EngineError: as `solve_ode`.
        SingularSystemError: as `solve_ode`.
    """
    check_weights(weights)
    c, s, *w = _checked(LHS[:2], (coefficients, step_sizes), weights)
    refuse_gradients((c, s, *w))
    lhs = c, s, *w[:2], _across_steps(scheme, c, s, w[2])
    wrapped = torch._C._functorch.is_functorch_wrapped_tensor
    if not torch.compiler.is_compiling() and any(isinstance(x, Tensor) and wrapped(x) for x in lhs):
        raise ArgumentError(
            "factorize cannot be given tensors that a transform of torch.func (vmap, jvp, ...) is looking at: call it "
            "outside of the transform, or solve_ode inside."
        )
    how = Options(scheme, n_steps, n_initial_steps, n_initial_orders, engine, check)
    slot, lhs = Slot(), tuple(map(owned, lhs))
    n_steps = prepare(how, slot, lhs, n_steps).system.n_steps
    return Factorization(how._replace(n_steps=n_steps), slot, lhs, n_steps)


def refuse_gradients(lhs: Sequence[Any]) -> None:
    """
    Raises:
        ArgumentError: if a frozen left-hand side (coefficients, step sizes, weights) requires a gradient.
    """
    for name, x in zip(LHS, lhs, strict=True):
        if isinstance(x, Tensor) and x.requires_grad and torch.is_grad_enabled():
            raise ArgumentError(
                f"{name} requires a gradient, which a frozen left-hand side does not give: pass {name}.detach(), or "
                "solve with solve_ode."
            )


@dataclass(frozen=True, eq=False, repr=False)
class Factorization:
    """A left-hand side after elimination; made by `factorize`. Both methods are differentiable to any order.

    Inside a compiled function they give the same, and eliminate at every call: graphs carry no factors. A copy, or one
    that was pickled, eliminates at its first call.
    """

    _how: Options
    _slot: Slot
    _lhs: tuple[Any, ...]
    _n_steps: int

    def __repr__(self) -> str:
        shapes = ", ".join(f"{k}: {tuple(x.shape)}" for k, x in zip(LHS[:2], self._lhs[:2], strict=True))
        return f"Factorization({shapes}, T={self._n_steps}, scheme={self._how.scheme.name!r})"

    def solve(self, rhs: Tensor, initial_values: Tensor) -> Tensor:
        """The solution y, (..., T, V, R+1), for rhs (..., T or 1, Q) and initial_values (..., T_init, V, R_init).

        Batch axes broadcast with those of the left-hand side.

        Raises:
            ShapeError, DTypeError, NamespaceError, DeviceError: if they do not fit the left-hand side.
        """
        b, u = _checked(("rhs", "initial_values"), (rhs, initial_values))
        inputs = inputs_of(self._lhs, b, u)
        if torch.compiler.is_compiling():
            return ops.call("solution", self._how, inputs)
        Problem.of(system_of(self._how, self._lhs, self._n_steps), b, u)
        prepare(self._how, self._slot, self._lhs, self._n_steps)  # (where this is a copy: without a right-hand side)
        return solution(self._how, self._slot, inputs)

    def normal_solve(self, g: Tensor) -> Tensor:
        """M^-1 g with M = A^T W^2 A, for g of shape (..., T, V, R+1).

        Raises:
            ShapeError, DTypeError, NamespaceError, DeviceError: if g does not fit the left-hand side.
        """
        (g,) = _checked(("g",), (g,))
        if torch.compiler.is_compiling():
            return -ops.call("augmented_states", self._how, (*self._lhs, None, None, None, g))
        check_states(system_of(self._how, self._lhs, self._n_steps), "g", g)
        return -augmented(self._how, self._slot, self._lhs, None, g, rows=False)[1]


def _without_missing(u: Tensor, w: Any) -> tuple[Tensor, Any]:
    """Initial values and their weights, both zero where a value is NaN, not given."""
    if not u.is_floating_point() or not _may_have_missing(u):
        return u, w  # (other dtypes are refused later, by name)
    if isinstance(w, Tensor):
        _check_broadcast("weights.initial", w, u.shape)
    with full_precision(u):
        return without_missing(xp, u, w)


def _may_have_missing(u: Tensor) -> bool:
    """True if an entry is NaN; True where looking would be traced, or would wait for a device."""
    if torch.compiler.is_compiling() or not is_plain((u,)) or not u.is_cpu:
        return True
    u = u.detach()
    while torch._C._functorch.is_functorch_wrapped_tensor(u):
        u = torch._C._functorch.get_unwrapped(u)
    with torch._C._DisableFuncTorch():
        return math.isnan(float(u.sum()))  # (that of infinities of both signs, too)


def _across_steps(scheme: Scheme, c: Tensor, s: Tensor, w: Any) -> Any:
    """The weights of the smoothness rows with their factors for steps that differ."""
    if not isinstance(scheme, Scheme) or not s.is_floating_point() or not c.ndim:
        return w  # (refused later, by name)
    if isinstance(w, Tensor):
        _check_broadcast("weights.smoothness", w, s.shape)
    with full_precision(s):
        return across_steps(xp, s, w, scheme.step_exponent(c.shape[-1]))


def _check_broadcast(name: str, w: Tensor, shape: Sequence[int]) -> None:
    """
    Raises:
        ShapeError: if weights do not broadcast against what they weigh.
    """
    try:
        torch.broadcast_shapes(w.shape, shape)
    except RuntimeError:
        raise ShapeError(
            f"{name} of shape {tuple(w.shape)} does not broadcast against its rows, of shape {tuple(shape)}."
        ) from None


def _checked(names: Sequence[str], tensors: Sequence[Tensor], weights: Weights | None = None) -> Sequence[Any]:
    """The arguments, and the weights, as they are; under autocast, those in half precision in float32.

    A step size that is a number is made a tensor.
    """
    *others, last = tensors
    if names[-1] == "step_sizes" and isinstance(last, (int, float)) and isinstance(tensors[0], Tensor):
        tensors = (*others, tensors[0].new_full((1,), last))
    for x in tensors:
        if not isinstance(x, Tensor):
            name = next(name for name, y in zip(names, tensors, strict=True) if y is x)
            raise NamespaceError(f"{name} must be a torch.Tensor, got {type(x).__name__}: use torch.as_tensor.")
    like = tensors[0]
    values: tuple[Any, ...] = (*tensors, *(() if weights is None else _values(weights, like)))
    kind = like.device.type
    if kind != "meta" and torch.is_autocast_enabled(kind):
        return [x.float() if isinstance(x, Tensor) and x.dtype in HALVES else x for x in values]
    return values


def _values(weights: Weights, like: Tensor) -> Sequence[Any]:
    """The three weights: tensors, or numbers of Python; masks as weights of 0 and 1 in the dtype of `like`."""
    if weights is UNIT:
        return 1.0, 1.0, 1.0
    check_weights(weights)
    values = []
    for name, w in vars(weights).items():
        if not isinstance(w, NUMBERS):
            raise NamespaceError(
                f"weights.{name} must be a number or a torch.Tensor, got {type(w).__name__}: use torch.as_tensor."
            )
        if isinstance(w, Tensor) and w.dtype is torch.bool:
            w = w.to(like.dtype)
        values.append(float(w) if isinstance(w, np.number) else w)
    return values
