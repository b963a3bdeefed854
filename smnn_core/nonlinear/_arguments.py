"""The arguments of `solve_nonlinear_ode`, checked by shapes alone: for adapters, too, which trace them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .._arrays import Array, Namespace, Shape, broadcast_shapes, common_namespace, concat, device_of
from .._errors import ArgumentError, ShapeError
from .._problem import Weights, check_weights
from .._schemes import Scheme
from .._validate import batch_of, check_integer
from ._linearize import Linearization
from ._newton import NonlinearProblem

__all__ = ["checked_stop", "nonlinear_problem", "times"]

METHODS = "auto", "march", "newton"


def nonlinear_problem(
    linearize: Callable[..., Linearization],
    initial_values: Array,
    step_sizes: Array,
    order: int,
    n_steps: int | None,
    t0: Any,
    guess: Array | None,
    method: str,
    weights: Weights,
    scheme: Scheme,
    engine: str,
) -> tuple[NonlinearProblem, Shape]:
    """The problem and the batch shape of the arguments, checked by shapes alone: traceable."""
    if method not in METHODS:
        raise ArgumentError(f"method must be one of {', '.join(map(repr, METHODS))}; got {method!r}.")
    check_weights(weights)
    named = {"initial_values": initial_values, "step_sizes": step_sizes}
    if guess is not None:
        named["guess"] = guess
    named |= {f"weights.{k}": w for k, w in vars(weights).items() if not isinstance(w, (int, float))}
    if not isinstance(t0, (int, float)):
        named["t0"] = t0
    xp = common_namespace(named)
    K = check_integer("order, the highest derivative carried,", order, least=1) + 1
    if initial_values.ndim < 3:
        raise ShapeError(
            f"initial_values must have shape (..., T_init, V, R_init), at least 3 axes; got "
            f"{tuple(initial_values.shape)}."
        )
    core = T_init, V, R_init = tuple(initial_values.shape[-3:])
    if R_init > K or V == 0:
        raise ShapeError(
            f"initial_values of shape {tuple(initial_values.shape)} have V = {V} variables and R_init = {R_init} "
            f"orders; expected at least one variable and at most order + 1 = {K} orders."
        )
    T = number_of_steps(step_sizes, guess, T_init, n_steps)
    if guess is not None and tuple(guess.shape[-3:]) != (T, V, K):
        raise ShapeError(f"guess must have shape (..., T, V, R+1) = (..., {T}, {V}, {K}); got {tuple(guess.shape)}.")
    s = xp.broadcast_to(step_sizes, (*step_sizes.shape[:-1], T - 1))
    w = weights.initial
    w = xp.full(core, float(w), dtype=s.dtype, device=device_of(s)) if isinstance(w, (int, float)) else w
    own = {
        "initial_values": tuple(initial_values.shape[:-3]),
        "weights.initial": batch_of("weights.initial", w, core),
    }
    shapes = own | {
        "step_sizes": tuple(s.shape[:-1]),
        "t0": () if isinstance(t0, (int, float)) else tuple(t0.shape),
        "guess": () if guess is None else tuple(guess.shape[:-3]),
    }
    for name, rank in (("weights.equation", 2), ("weights.smoothness", 1)):
        if name in named:
            shapes[name] = tuple(named[name].shape[: max(named[name].ndim - rank, 0)])
    batch = broadcast_shapes(shapes)
    if 0 in batch:
        raise ShapeError(f"the batch axes of the arguments, {batch}, hold no member: there is nothing to solve.")
    w, u = (xp.broadcast_to(x, (*broadcast_shapes(own), *core)) for x in (w, initial_values))
    missing = xp.isnan(u) | (w == 0)
    u, w = (xp.where(missing, xp.zeros_like(x), x) for x in (u, w))
    weights = Weights(weights.equation, w, weights.smoothness)
    return NonlinearProblem(xp, linearize, times(xp, t0, s), s, u, weights, scheme, engine, V, K), batch


def number_of_steps(step_sizes: Array, guess: Array | None, T_init: int, n_steps: int | None) -> int:
    """T, from the first that says it; whether the others agree shows when the linear problem is built."""
    if step_sizes.ndim < 1:
        raise ShapeError("step_sizes must have shape (..., T-1 or 1), at least one axis; got ().")
    if n_steps is not None:
        n_steps = check_integer("n_steps", n_steps, " or None")
    candidates = {"step_sizes": step_sizes.shape[-1] + 1 if step_sizes.shape[-1] != 1 else None, "n_steps": n_steps}
    if guess is not None and guess.ndim >= 3:
        candidates["guess"] = guess.shape[-3]
    known = {name: T for name, T in candidates.items() if T is not None}
    if not known:
        if T_init < 2:
            raise ArgumentError("the number of time points is not determined: step_sizes is one step. Pass n_steps=T.")
        known = {"initial_values": T_init}
    first = next(iter(known))
    for name, T in known.items():
        if known[first] != T:
            raise ShapeError(f"{name} implies T = {T} time points, {first} implies T = {known[first]}.")
    T = known[first]
    if T < 2 or T_init > T:
        raise ShapeError(
            f"initial_values are given for T_init = {T_init} time points, {first} implies T = {T}; T must be at least "
            "2, and T_init at most T."
        )
    return int(T)


def times(xp: Namespace, t0: Any, s: Array) -> Array:
    """t0 and the sums of the steps: (..., T)."""
    first = xp.asarray(t0, dtype=s.dtype, device=device_of(s)) if isinstance(t0, (int, float)) else t0
    sums = xp.cumulative_sum(s, axis=-1)
    return first[..., None] + concat(xp, [xp.zeros_like(s[..., :1]), sums], axis=-1)


def checked_stop(xp: Namespace, max_iterations: int, tolerance: float | None, dtype: Any) -> tuple[int, float]:
    """When to stop: max_iterations, and the tolerance or what it is by default."""
    max_iterations = check_integer("max_iterations", max_iterations, least=1)
    if tolerance is None:
        return max_iterations, 1e-10 if dtype == xp.float64 else 1e-4
    if not 0 < tolerance < 1:
        raise ArgumentError(f"tolerance must lie between 0 and 1, it is relative to the size of y; got {tolerance!r}.")
    return max_iterations, float(tolerance)
