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

from .._arrays import Array, Shape, broadcast_shapes, common_namespace
from .._errors import ArgumentError, ShapeError, SingularSystemError
from .._problem import NONE, UNIT, Gradients, Problem, System, Weights
from .._schemes import WIENER, Scheme
from .._solve import raise_if_singular
from ..engines import select
from ..engines._interface import Engine
from ..engines._statistics import Statistics
from ._posterior import stated_problem

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
    return evidence_with(_statistics, arguments, (observed, observed_equations), weights, options)


def evidence_with(
    statistics: Callable[..., tuple[Problem, Array, Array]],
    arguments: tuple[Array, ...],
    observed: tuple[Any, Any],
    weights: Weights,
    options: dict[str, Any],
) -> Array:
    """`log_evidence` by a function of its arguments, that of the core or of an adapter: the problem, with the weights
    that the engine sees, log det M, and the minimum |W (d - A y)|^2."""
    problem, *whole = statistics(arguments, weights=weights, **options)
    system = problem.system
    xp, w = system.xp, system.weights
    masks = observed_rows(system, *observed)
    equation, initial = (
        xp.where(mask, xp.zeros_like(x), x) for mask, x in zip(masks, (w.equation, w.initial), strict=True)
    )
    prior = replace(weights, equation=equation, initial=initial)
    try:
        _, *without = statistics(arguments, weights=prior, **options)
    except SingularSystemError as error:
        cause = "the rows that are not observed, the prior, must determine the solution by themselves"
        raise SingularSystemError(error.batch_index, error.time, (cause, *error.causes)) from error
    result = (sum(without) - sum(whole)) / 2
    for mask, x, core in zip(masks, (w.equation, w.initial), _cores(system), strict=True):
        counts = mask & (x != 0)
        each = xp.where(counts, xp.log(xp.abs(xp.where(counts, x, xp.ones_like(x)))) - log(2 * pi) / 2, 0 * x)
        each = xp.broadcast_to(each, (*each.shape[: max(each.ndim - len(core), 0)], *core))
        result = result + xp.sum(each, axis=tuple(range(-len(core), 0)))
    return result


def _statistics(
    arguments: tuple[Array, ...],
    *,
    weights: Weights,
    n_steps: int | None,
    scheme: Scheme,
    engine: str,
    check: bool,
) -> tuple[Problem, Array, Array]:
    problem = stated_problem("log_evidence", arguments, weights, n_steps=n_steps, scheme=scheme)
    found = statistics_of(select(engine, problem.system), problem, check=check)
    return problem, found.log_determinant, found.minimum


def statistics_of(engine: Engine, problem: Problem, wanted: Gradients = NONE, *, check: bool) -> Statistics:
    """log det M, the minimum, and their gradients that are wanted, of a problem of which nothing else is asked.

    Raises:
        SingularSystemError: if it is undetermined, where looking costs nothing or was asked for.
    """
    system = problem.system
    if not engine.checks_values:
        system.check_values()
    factor = engine.factor_of_moments(system)
    found = factor.statistics(problem.rows, wanted)
    raise_if_singular(system, factor.undetermined, check)
    return found


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
