r"""The evidence: how probable observations are, given the weights, coefficients and everything else.

Let M_0, r_0 belong to the problem without N observed rows, of weights w, and M, r to all rows, r = W (d - A y)
at the respective minimum. Integrating the density of all rows over y, and dividing by the same without the observed,

    log p(observed) = (|r_0|^2 - |r|^2) / 2 - (log det M - log det M_0) / 2 + sum log w - N/2 log 2π.

Source: Rasmussen, Williams, Gaussian Processes for Machine Learning, MIT 2006, section 2.3. Derivation:
docs/theory/posterior.md.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import log, pi
from typing import Any

import array_api_compat as compat
import numpy as np

from .. import _constraints as rows
from .._arrays import Array, Shape, broadcast_shapes, common_namespace, sum_to_shape
from .._errors import ArgumentError, ShapeError, SingularSystemError
from .._problem import UNIT, Gradients, Problem, Rows, System, Weights
from .._schemes import WIENER, Scheme
from ..engines._interface import Factor
from ._posterior import Posterior, posterior, without_weights

__all__ = ["log_evidence"]


def log_evidence(
    coefficients: Array,
    rhs: Array,
    initial_values: Array,
    step_sizes: Array,
    *,
    observed: Any = False,
    observed_equations: Any = False,
    n_steps: int | None = None,
    scheme: Scheme = WIENER,
    weights: Weights = UNIT,
    engine: str = "auto",
    check: bool = False,
) -> Array:
    """The logarithm of the probability density of the rows that are observations, given all other rows: (...,).

    Args:
        observed: bool, an array that broadcasts to (..., T_init, V, R_init), or one for all: which initial rows are
            observations. Those of weight zero, or whose value is NaN, do not count. The other rows are the prior, and
            must determine y: give weak initial rows that are not observed, at a time that has no observation.
        observed_equations: the same for equation rows, (..., T, Q): observations of sums of unknowns.

    The other arguments, and what is raised, are as for `posterior`.

    Raises:
        SingularSystemError: also if the rows that are not observed leave y undetermined.

    Example: one observation, of 0.5 with the standard deviation 0.1, of a constant whose prior is that of 0 and 1.

        >>> import numpy as np
        >>> import smnn_core as smnn
        >>> u, w = np.array([0.0, 0.5]).reshape(2, 1, 1), np.array([1.0, 10.0]).reshape(2, 1, 1)
        >>> c, b, s = np.zeros((1, 1, 1, 1)), np.zeros((1, 1)), np.array([1.0])
        >>> weights = smnn.Weights(initial=w, smoothness=1e6)
        >>> second = np.array([False, True]).reshape(2, 1, 1)
        >>> e = smnn.log_evidence(c, b, u, s, n_steps=2, weights=weights, observed=second)
        >>> variance = 1.0 + 0.01
        >>> bool(abs(e - (-(0.5**2) / variance - np.log(2 * np.pi * variance)) / 2) < 1e-9)
        True
    """
    options: dict[str, Any] = {"n_steps": n_steps, "scheme": scheme, "engine": engine, "check": check}
    arguments = coefficients, rhs, initial_values, step_sizes
    return evidence_with(posterior, arguments, (observed, observed_equations), weights, options)


def evidence_with(
    posterior: Callable[..., Posterior],
    arguments: tuple[Array, ...],
    observed: tuple[Any, Any],
    weights: Weights,
    options: dict[str, Any],
) -> Array:
    """`log_evidence` by a function that gives posteriors: that of the core, or of an adapter."""
    p = posterior(*arguments, weights=weights, **options)
    system = p.problem.system
    xp, w = system.xp, system.weights
    masks = observed_rows(system, *observed)
    equation, initial = (
        xp.where(mask, xp.zeros_like(x), x) for mask, x in zip(masks, (w.equation, w.initial), strict=True)
    )
    try:
        prior = posterior(*arguments, weights=replace(weights, equation=equation, initial=initial), **options)
        return evidence(p, prior, masks)
    except SingularSystemError as error:
        cause = "the rows that are not observed, the prior, must determine the solution by themselves"
        raise SingularSystemError(error.batch_index, error.time, (cause, *error.causes)) from error


def evidence(p: Posterior, prior: Posterior, masks: tuple[Array, Array]) -> Array:
    """The log evidence (see the module) from the posterior with and without the observed rows."""
    system, xp = p.problem.system, p.problem.system.xp
    w = system.weights
    result = (prior.sum_of_squares - p.sum_of_squares + prior.log_determinant - p.log_determinant) / 2
    for mask, x, core in zip(masks, (w.equation, w.initial), _cores(system), strict=True):
        counts = mask & (x != 0)
        each = xp.where(counts, xp.log(xp.abs(xp.where(counts, x, xp.ones_like(x)))) - log(2 * pi) / 2, 0 * x)
        each = xp.broadcast_to(each, (*each.shape[: max(each.ndim - len(core), 0)], *core))
        result = result + xp.sum(each, axis=tuple(range(-len(core), 0)))
    return result


SECOND_ORDER = (
    "variances, covariances, log determinants, sums of squares and the evidence have derivatives of first order only, "
    "and a second one was asked for. The mean and samples have them of any order."
)


def observed_rows(system: System, initial: Any, equations: Any) -> tuple[Array, Array]:
    """Which equation rows and which initial rows are observations, checked, as arrays of bool.

    Raises:
        ArgumentError: if they are not bool, or none is.
        ShapeError: if they do not broadcast against their rows.
    """
    if initial is False and equations is False:
        raise ArgumentError(
            "log_evidence needs observations: observed says which initial rows they are, observed_equations which "
            "equation rows."
        )
    of_equations, of_initial = _cores(system)
    return (
        _mask(system, "observed_equations", equations, of_equations, "T, Q"),
        _mask(system, "observed", initial, of_initial, "T_init, V, R_init"),
    )


def _cores(system: System) -> tuple[Shape, Shape]:
    """The shapes of equation rows and of initial rows."""
    return (system.n_steps, system.Q), (system.n_initial_steps, system.V, system.n_initial_orders)


def _mask(system: System, name: str, mask: Any, core: Shape, axes: str) -> Array:
    xp = system.xp
    if isinstance(mask, (bool, np.bool_)):
        mask = xp.asarray(bool(mask), device=system.device)
    if not compat.is_array_api_obj(mask) or mask.dtype != compat.array_namespace(mask).bool:
        kind = getattr(mask, "dtype", type(mask).__name__)
        raise ArgumentError(f"{name} must be bool, or an array of bool, True for rows that are data; got {kind}.")
    same = compat.array_namespace(mask) is xp
    common_namespace({"coefficients": system.coefficients, name: xp.astype(mask, system.dtype) if same else mask})
    lead = tuple(mask.shape[: max(mask.ndim - len(core), 0)])
    try:
        fits = broadcast_shapes({name: tuple(mask.shape), "rows": core}) == (*lead, *core)
    except ShapeError:
        fits = False
    if not fits:
        shape = ", ".join(map(str, core))
        raise ShapeError(f"{name}, {tuple(mask.shape)}, must broadcast to (..., {axes}) = (..., {shape}).")
    return mask


def statistics_pullback(
    problem: Problem, factor: Factor, y: Array, g_determinant: Array, g_minimum: Array
) -> Gradients:
    """The gradients of log det M times g_determinant, (*system.batch,), and of the minimum times g_minimum, (...,)."""
    if _is_zero(g_minimum):
        of_determinant = factor.selected_inverse().pullback(None, None, g_determinant)
        zero = problem.system.xp.zeros_like
        return of_determinant._replace(rhs=zero(problem.rhs), initial_values=zero(problem.initial_values))
    if _is_zero(g_determinant):
        return minimum_pullback(problem, y, factor.residual_rows(problem.rows), g_minimum)
    Wr, of_determinant = factor.statistics_pullback(problem.rows, g_determinant)
    of_minimum = minimum_pullback(problem, y, Wr, g_minimum)
    pairs = zip(vars(of_determinant.weights).values(), vars(of_minimum.weights).values(), strict=True)
    return Gradients(
        coefficients=of_determinant.coefficients + of_minimum.coefficients,
        rhs=of_minimum.rhs,
        initial_values=of_minimum.initial_values,
        step_sizes=of_determinant.step_sizes + of_minimum.step_sizes,
        weights=Weights(*(a + b for a, b in pairs)),
    )


def _is_zero(x: Array) -> bool:
    """Whether that is known at no cost."""
    return isinstance(x, np.ndarray) and not x.any()


def minimum_pullback(problem: Problem, y: Array, Wr: Rows, g: Array) -> Gradients:
    """The gradients of |W (d - A y)|^2 at its minimum times g, (...,): those at fixed y, since y is stationary.

    d |W r|^2 = 2 W r . (W dd - W dA y + dW r)
    """
    system, xp, w = problem.system, problem.system.xp, problem.system.weights
    outer = [2 * g[(..., *(None,) * rank)] for rank in (2, 3, 3)]
    μ = rows.weighted(w, Rows(*(a * x for a, x in zip(outer, Wr, strict=True))))
    dc, ds = rows.gradient_of_product(system, μ, y)
    dw = [a * x * r for a, x, r in zip(outer, Wr, without_weights(system, Wr), strict=True)]
    dw[2] = xp.sum(dw[2], axis=(-2, -1))
    return Gradients(
        coefficients=-dc,
        rhs=sum_to_shape(xp, μ.equation, tuple(problem.rhs.shape)),
        initial_values=sum_to_shape(xp, μ.initial, tuple(problem.initial_values.shape)),
        step_sizes=-ds,
        weights=Weights(*(sum_to_shape(xp, x, tuple(v.shape)) for x, v in zip(dw, vars(w).values(), strict=True))),
    )
