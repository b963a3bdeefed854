"""`discover`: which terms of a library stand in the equations of noisy, partly missing data, and with what errors."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np

from .._arrays import Array, as_numpy, device_of
from .._errors import ArgumentError, DiscoveryWarning
from .._progress import ProgressBar
from .._validate import check_integer
from ..fitting._losses import loss_of
from ._data import Inputs, Observations, observe
from ._doubt import reasons_for_doubt
from ._libraries import Library, polynomials
from ._result import Discovery, arguments
from ._search import Search

__all__ = ["discover"]

SECOND_NOISE = 0.1
"""Deviations of a variable: noise for a second search where the first went astray."""
WEIGHTS = (0.3, 1.0, 3.0, 10.0, 30.0, 100.0)


def discover(
    data: Array,
    step_sizes: Any,
    *,
    noise: Any = None,
    library: Library | None = None,
    order: int = 1,
    inputs: Inputs | None = None,
    significance: float = 4.0,
    weights: Sequence[float] = WEIGHTS,
    loss: str = "squares",
    names: Sequence[str] | None = None,
    t0: float = 0.0,
    engine: str = "auto",
    progress: bool = False,
) -> Discovery:
    """The equations y^(order) = Θ ξ behind data, term by term, with standard errors; in time and memory linear in T.

    Fits trajectory and coefficients of all terms of the library Θ jointly (Gauss-Newton by variable projection on the
    least-squares problem of `solve_ode`), then leaves out what is not significant: the result minimises, over the
    sets of terms tried, χ² + significance² times the number of terms.

    Args:
        data: (..., T, V), the V variables at T times, NaN where missing; batch axes are trajectories of the same
            equations, each with its own initial values. What follows a long gap in all variables has initial values of
            its own, too; shorter trajectories are filled up with NaN.
        step_sizes: a number, or (..., T-1 or 1), positive, may be irregular; a long one is a gap. NaN where nothing is
            observed any more.
        noise: standard deviation of the noise of the data, a number, one for each variable, (V,), or for each value, in
            the shape of the data; estimated for variables where it is NaN, and if not given. Below 1e-4 of a variable's
            deviation it is taken as that.
        library: the terms, functions of y, or of y and y' where order = 2; `polynomials(2)` if not given.
        order: 1 for y' = Θ(y) ξ, 2 for y'' = Θ(y, y') ξ.
        inputs: known functions of time that terms of the library may contain, such as a force or a temperature: times
            (n,), or (..., n) where trajectories have steps of their own, as NumPy arrays -> (..., n, U), or (..., n)
            for one. They come behind the variables: y' = Θ(y, u) ξ. Of what was measured, an interpolant.
        significance: how many standard errors a coefficient must be away from 0.
        weights: of the equations, ascending: in units of one over the deviation of the derivatives; terms are
            eliminated at the last but one.
        loss: "squares", or "student" and "huber" for data with outliers: their weights are found by iteration, as in
            `fit`.
        names: of the variables, x, y, z, w if not given; and of the inputs behind them, u if not given.
        t0: the time of the first point, for inputs and pictures.
        engine: as for `solve_ode`.
        progress: shows a progress bar, where tqdm is installed.

    Returns:
        See `Discovery`; print it to read the equations.

    Raises:
        ShapeError, DTypeError, NamespaceError, DeviceError, ArgumentError: before any work.

    Warns:
        DiscoveryWarning: if the fit did not converge, if it leaves more than the noise, if the steps are too long for
            the equations, if a term is nearly as significant as asked for, or hardly more, if values between gaps
            are too few to be used, or if times nearly coincide, which are moved apart.

    Source: elimination by significance is classical (Draper, Smith, Applied Regression Analysis, chapter 15); sparse
    regression for equations is Brunton, Proctor, Kutz, PNAS 113 (2016) 3932, who regress on differentiated data.

    >>> t = 0.05 * np.arange(400)
    >>> data = np.stack([np.cos(t), -np.sin(t)], axis=-1) + 0.05 * np.random.default_rng(0).normal(size=(400, 2))
    >>> smnn.discover(data, 0.05, library=smnn.polynomials(1)).equations  # doctest: +SKIP
    ["x' = 1.0002(12) y", "y' = -0.9996(12) x"]
    """
    of_data = loss_of(loss)
    o = observe(data, step_sizes, noise, inputs, float(t0), of_data)
    library = polynomials(2) if library is None else library
    weights = tuple(float(w) for w in weights)
    if check_integer("order", order) not in (1, 2):
        raise ArgumentError(f"order must be 1 or 2; got {order}.")
    if len(weights) < 2 or not all(0 < a < b for a, b in pairwise(weights)):
        raise ArgumentError(f"weights must be at least two positive numbers in ascending order; got {weights}.")
    if isinstance(significance, str) or not significance > 0:
        raise ArgumentError(f"significance must be positive; got {significance}.")
    variables, of_inputs = _names(names, data.shape[-1], o.n_inputs)
    _check_library(library, o, order, arguments(variables, of_inputs, order))
    with ProgressBar(progress, desc="discover", unit="step") as bar:

        def tell(state: str) -> None:
            bar.step(state=state)

        def run(o: Observations, noise: np.ndarray) -> Search | None:
            """From that noise; None where the fit diverges."""
            search = Search(o, library, order, float(significance), weights, of_data, engine, tell, noise)
            try:
                search.run()
            except FloatingPointError:
                return None
            return search

        search = _search(run, o)
    if search is None:
        raise ArgumentError(
            "the fit is not determined, or diverges: data of all variables at about the same times are needed, and "
            "library terms that stay finite near them."
        )
    result = search.result(variables, of_inputs, data)
    for message in reasons_for_doubt(search, result):
        warnings.warn(message, DiscoveryWarning, stacklevel=2)
    return result


def _search(run: Callable[[Observations, np.ndarray], Search | None], o: Observations) -> Search | None:
    """The search; once more where the estimate of the noise went astray: with a tenth of the deviations, then from what
    that leaves. Of two variables that explain one another, one is fitted too well there, and the other given up.
    """
    search = run(o, o.noise)
    if not o.estimated.any() or (search is not None and not search.astray):
        return search
    tenth = np.where(o.estimated, SECOND_NOISE * o.deviation, o.noise)
    fixed = run(replace(o, noise=tenth, estimated=np.zeros_like(o.estimated)), tenth)
    again = None if fixed is None else run(o, np.where(o.estimated, fixed.noise_left, o.noise))
    return search if again is None or (search is not None and again.astray) else again


def _names(names: Sequence[str] | None, V: int, U: int) -> tuple[list[str], list[str]]:
    """Of variables and of inputs."""
    variables = ["x", "y", "z", "w"][:V] if V <= 4 else [f"x{v + 1}" for v in range(V)]
    inputs = ["u"] if U == 1 else [f"u{j + 1}" for j in range(U)]
    if names is not None:
        if len(names) not in (V, V + U) or len(set(names)) != len(names):
            behind = f", or {V + U}, with those of the {U} inputs behind them" if U else ""
            raise ArgumentError(f"names must be {V} different names, one per variable{behind}; got {list(names)}.")
        variables, inputs = list(names[:V]), list(names[V:]) or inputs
    return variables, inputs


def _check_library(library: Library, o: Observations, order: int, names: list[str]) -> None:
    if not isinstance(library, Library):
        raise TypeError(f"library must be a Library, such as smnn.polynomials(2); got {type(library).__name__}.")
    xp = o.xp
    seen = xp.astype(o.observed, xp.float64)
    mean = xp.sum(seen * o.values, axis=(0, 1)) / xp.sum(seen, axis=(0, 1))
    B, T, _ = o.values.shape
    t = np.pad(np.cumsum(as_numpy(o.steps), axis=1), ((0, 0), (1, 0)))
    inputs = o.inputs_at(t)
    inputs = xp.asarray(np.broadcast_to(inputs, (B, T, inputs.shape[-1])), device=device_of(o.values))
    y = xp.where(o.observed, o.values, mean)
    z = xp.concat([*(y / o.time**k for k in range(order)), inputs], axis=-1)
    z = xp.reshape(z, (B * T, z.shape[-1]))
    library.check(z[:: max(1, B * T // 64), :], names)
