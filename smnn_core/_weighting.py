r"""From the arguments as a user states them to the weights of the rows that an engine sees.

Missing values. An initial value that is NaN was not given: its row is left out, that is, its weight is zero.

Steps. The smoothness rows across step s[t] are weighted by (s_ref / |s[t]|)^p, p of the scheme (see `_schemes`), s_ref
the geometric mean of |s| over the steps of a system:

    w[t] = w_s[t] exp(p (mean_k log|s[k]| - log|s[t]|)).

Where all steps are one, there is nothing to do. All of it is written in differentiable array calls: an adapter's
framework differentiates it to any order. For callers without a framework, with a[t] = w[t] dL/dw[t] and N steps,

    dL/dw_s[t] = dL/dw[t] w[t] / w_s[t],      dL/ds[k] = p / s[k] (mean_t a[t] - a[k])      through w.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import array_api_compat as compat

from ._arrays import Array, Namespace, broadcast_shapes, can_look, device_of, sum_to_shape
from ._problem import UNIT, Gradients, Problem, System, Weights, copy_with

__all__ = ["across_steps", "as_arrays", "pull_back", "without_missing"]


def as_arrays(step_sizes: Any, weights: Any, like: Array) -> tuple[Any, Any]:
    """A step size that is a number as an array of one step, and masks as weights of 0 and 1, in the dtype of `like`.

    What is neither is left as it is, for `Problem.build` to check.
    """
    if isinstance(step_sizes, (int, float)) and not isinstance(step_sizes, bool) and compat.is_array_api_obj(like):
        xp = compat.array_namespace(like)
        step_sizes = xp.asarray([float(step_sizes)], dtype=like.dtype, device=device_of(like))
    if weights is not UNIT and isinstance(weights, Weights):
        changed = {k: _as_weight(w, like) for k, w in vars(weights).items() if _is_mask(w)}
        weights = replace(weights, **changed) if changed else weights
    return step_sizes, weights


def _is_mask(w: Any) -> bool:
    return isinstance(w, bool) or (compat.is_array_api_obj(w) and w.dtype == compat.array_namespace(w).bool)


def _as_weight(w: Any, like: Array) -> Any:
    if isinstance(w, bool):
        return float(w)
    return compat.array_namespace(w).astype(w, like.dtype)


def without_missing(xp: Namespace, u: Array, w: Any) -> tuple[Array, Any]:
    """Initial values and their weights, both zero where a value is NaN."""
    missing, zero = xp.isnan(u), xp.zeros_like(u)
    return xp.where(missing, zero, u), xp.where(missing, zero, w + zero)


def across_steps(xp: Namespace, s: Array, w: Any, p: float) -> Any:
    """The weights w (a number or an array) of smoothness rows across the steps s, (..., T-1), with exponent p."""
    if p == 0 or s.ndim == 0 or s.shape[-1] == 1:
        return w
    size = xp.log(xp.abs(s))
    return w * xp.exp(p * (xp.mean(size, axis=-1, keepdims=True) - size))


def weighted_system(system: System) -> System:
    """A system that was checked, its smoothness weights with their factors for the steps.

    Raises:
        ArgumentError: for a step of zero among steps that differ, where looking costs nothing.
    """
    w, p = system.weights, system.scheme.step_exponent(system.K)
    if p == 0 or system.step_sizes.shape[-1] == 1:
        return system
    system.check_values()
    smoothness = across_steps(system.xp, system.step_sizes, w.smoothness, p)
    return copy_with(system, weights=Weights(w.equation, w.initial, smoothness))


def weighted_problem(problem: Problem) -> Problem:
    """A problem that was checked, its rows with the weights that an engine sees."""
    system, u = weighted_system(problem.system), problem.initial_values
    if not can_look(u) or bool(system.xp.any(system.xp.isnan(u))):
        u, initial = without_missing(system.xp, u, system.weights.initial)
        batch = broadcast_shapes({"left-hand side": system.batch, "initial_values": tuple(u.shape[:-3])})
        system = copy_with(system, weights=replace(system.weights, initial=initial), batch=batch)
    return problem if system is problem.system else copy_with(problem, system=system, initial_values=u)


def pull_back(stated: Problem, weighted: Problem, gradients: Gradients) -> Gradients:
    """The gradients with respect to what was stated, from those with respect to what an engine saw of it."""
    if weighted is stated:
        return gradients
    xp, before, after = stated.system.xp, stated.system.weights, weighted.system.weights
    smoothness, initial, ds = gradients.weights.smoothness, gradients.weights.initial, gradients.step_sizes
    if after.smoothness is not before.smoothness:
        s, p = stated.system.step_sizes, stated.system.scheme.step_exponent(stated.system.K)
        a = sum_to_shape(xp, after.smoothness * smoothness, tuple(s.shape))
        ds = ds + p / s * (xp.mean(a, axis=-1, keepdims=True) - a)
        factor = across_steps(xp, s, xp.ones_like(s), p)
        smoothness = sum_to_shape(xp, factor * smoothness, tuple(before.smoothness.shape))
    if after.initial is not before.initial:
        given = xp.astype(~xp.isnan(stated.initial_values), initial.dtype)
        initial = sum_to_shape(xp, given * initial, tuple(before.initial.shape))
    weights = Weights(gradients.weights.equation, initial, smoothness)
    return gradients._replace(step_sizes=ds, weights=weights)
