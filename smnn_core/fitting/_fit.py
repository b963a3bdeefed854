"""Parameters of differential equations from data at any times: `fit`."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .._errors import ConvergenceWarning, MisfitWarning
from .._progress import ProgressBar
from .._validate import check_integer
from ._fitted import Fitted
from ._observed import Observed
from ._parameters import Parameters
from ._refinement import fitted
from ._setting import Setting
from ._starts import Starts

__all__ = ["fit"]

MOST = 30
"""Steps at a weight of the equations from which fits may end."""


def fit(
    residual: Callable[..., Any],
    times: Any,
    data: Any,
    parameters: Any = None,
    *,
    order: int = 1,
    observe: Callable[..., Any] | None = None,
    variables: int | Sequence[str] | None = None,
    noise: Any = None,
    initial: Any = None,
    inputs: Any = None,
    steady: Any = None,
    bounds: tuple[Any, Any] | None = None,
    transform: Any = None,
    loss: str = "squares",
    switches: Any = None,
    jumps: Any = None,
    t0: Any = None,
    guess: Any = None,
    scale: Any = None,
    starts: int = 1,
    seed: int = 0,
    tolerance: float = 1e-4,
    max_iterations: int = MOST,
    progress: bool = False,
) -> Fitted:
    """Fits parameters θ, and trajectories y, of differential equations f(t, y, y', .., θ) = 0 to noisy data.

    Minimises the sum of squares of everything that is known, in standard deviations: data, initial values and priors,
    under the equations, by Gauss-Newton iterations over trajectories and parameters together (collocation with variable
    projection). Trajectories first follow the data and are then made to obey the equations, so that neither initial
    values nor good starts are needed. Meshes are the library's: refined until parameters stand still. Data sets none of
    whose ends is sound (converged, without a misfit) are tried once more by shooting from the start given, unless in a
    steady state at first or with networks; the better end is kept.

    Main arguments:
        residual: (t, y, θ[, u]) -> (f, J, P) for t (M, n), y (M, n, V, order+1) and θ, (M, 1, p) or a dict of names to
            arrays (M, 1): equations f (M, n, Q), J = ∂f/∂y (M or 1, n or 1, Q, V, order+1), P = ∂f/∂θ (M, n, Q, p),
            each point by itself. Without parameters (t, y) -> (f, J). M counts data sets and experiments.
        times: (n,) or (..., n), in any order, in units of time; the name of the column of a data frame. Trajectories go
            from the first to the last, whether or not something was observed there: a forecast, where data are NaN.
        data: (..., n, m) or (n,), NaN where missing; batch axes are data sets that are fitted each for itself. A list:
            experiments with common parameters, each with times and a length of its own. A data frame: its columns are
            observables, a column `experiment` tells experiments apart.
        parameters: (..., p), where iterations start, or a dict of names to `Parameter`, numbers or `Network`.
        order: the highest derivative in the equations.
        observe: (t, y, θ[, u]) -> (h, H, Hθ): what is observed, h (M, n, m), with its derivatives as for `residual`;
            None: the variables themselves.
        noise: standard deviations of the data: a number, an array that broadcasts against data, a list of these for
            experiments, a dict of observables; None and NaN: estimated for each observable, for all experiments
            together, from what the fit leaves. A function (t, y, θ[, u]) -> (σ, ∂σ/∂y, ∂σ/∂θ): the likelihood then has
            the term log σ.
        initial: what is known of y at the first time: (V,), or (V, order) with derivatives, NaN where nothing is, held
            exactly; a pair of values and their standard deviations; or a function of the parameters, (θ[, u]) ->
            (values (M, V), ∂values/∂θ (M, V, p)).

    Other arguments:
        variables: how many variables, or their names; needed where `observe` is given and `initial` is not an array.
        inputs: what differs between experiments and is known: numbers (n_in,), or a function of times (n,) that gives
            (n, n_in), for each experiment. Callbacks then get them as u, (M, n, n_in).
        steady: True: a steady state at the first time, derivatives vanish there (what is conserved is up to `initial`);
            or the inputs, as for `inputs`, with which it was one before they changed.
        bounds: (lower, upper) of parameters given as an array.
        transform: "log" or "log10": logarithms of data and observables are compared, for noise that is multiplicative;
            one for all observables, or one for each.
        loss: "squares", "student" (t distribution of 4 degrees of freedom) or "huber", for data with outliers.
        switches: times at which something jumps in the equations, one list or one for each experiment: mesh points.
        jumps: (times, changes): what is added to y at times behind the first, such as doses: numbers (n, V) or (V,), or
            a function (θ[, u]) -> (values (M, n, V), ∂values/∂θ (M, n, V, p)), both without n where all are alike;
            experiments may have lists of their own of times and of numbers. Observations at the time of a jump are of
            before it.
        t0: the first time, where y starts; None: of the first observation.
        guess: (V,), or a function of times (n,) that gives (n, V): trajectories to start from; NaN for none.
        scale: (V,): the size of each variable, where neither data nor initial values say it.
        starts: how many starts, of which the first is the one given and the others are drawn from priors, within bounds
            or within a factor of ten of the start. They run as one batch; the best end is the result, all ends are in
            `Fitted.starts`.
        seed: of these draws.
        tolerance: relative change of parameters below which a finer mesh need not be tried; one that moves them by less
            than a tenth of a standard error is fine enough.
        max_iterations: at each weight of the equations.
        progress: a progress bar, where tqdm is installed.

    Returns:
        `Fitted`, with NumPy arrays. Its print, and `reason`, state where the data leave far less than the noise given.

    Raises:
        ShapeError, ArgumentError: naming the argument; for callbacks that couple times, too.
        ConvergenceWarning: is issued where fits did not converge, or parameters are not determined.
        MisfitWarning: is issued where the cost exceeds what the observations allow by five deviations, in whatever
            rows.

    Source: Ramsay, Hooker, Campbell, Cao, J. R. Stat. Soc. B 69 (2007) 741, for the idea; Ascher, Mattheij, Russell,
    Numerical Solution of Boundary Value Problems, SIAM 1995, for collocation.

    Example: decay, at five times.

        >>> import numpy as np, smnn_core as smnn
        >>> def decay(t, y, θ):  # y' + k y
        ...     value, slope = y[..., 0], y[..., 1]
        ...     J = np.stack([θ["k"][..., None] + 0 * value, np.ones_like(value)], -1)[..., None, :]
        ...     return slope + θ["k"][..., None] * value, J, value[..., None]
        >>> t, data = [0.0, 0.1, 0.3, 0.5, 1.0], [3.05, 2.66, 2.04, 1.63, 0.85]
        >>> print(smnn.fit(decay, t, data, {"k": smnn.Parameter(1.0, lower=0)}, noise=0.05))
    """
    parameters = Parameters.of(parameters, bounds)
    names = tuple(variables) if isinstance(variables, Sequence) and not isinstance(variables, str) else None
    observed = Observed.of(times, data, noise, transform, names if observe is None else None)
    setting = Setting.of(
        residual,
        observed,
        parameters,
        order=order,
        observe=observe,
        variables=variables,
        noise=noise,
        initial=initial,
        inputs=inputs,
        steady=steady,
        loss=loss,
        switches=switches,
        jumps=jumps,
        t0=t0,
        guess=guess,
        scale=scale,
        tolerance=tolerance,
    )
    S = setting.S
    given = np.broadcast_to(parameters.inner(parameters.start), (*observed.batch, parameters.p))
    φ = np.clip(given.reshape(S, -1), *parameters.bounds())
    starts = check_integer("starts", starts, least=1)
    check_integer("max_iterations", max_iterations, least=1)
    own = np.repeat(np.arange(S), starts)
    φ = φ[own]
    if starts > 1:
        rng = np.random.default_rng(seed)
        drawn = np.stack([parameters.drawn(starts, rng) for _ in range(S)]).reshape(S, starts, -1)
        drawn[:, 0] = φ[::starts]
        φ = drawn.reshape(S * starts, -1)
    setting.take(own[:1]).refuse_coupling(np.array(φ[:1]))
    with ProgressBar(progress, desc="fit", unit="step") as bar:

        def report(level: float, left: int) -> None:
            bar.step(weight=f"{level:.3g}", left=left)

        ends = fitted(setting.take(own), np.array(φ), max_iterations, report, own)
    table = Starts.of(setting.take(own), ends, starts) if starts > 1 else None
    if table is not None:
        ends = ends.take(table.best + np.arange(S) * starts, setting.E)
    result = Fitted.of(setting, ends, names, table)
    for kind, text in result.messages:
        warnings.warn(text, {"misfit": MisfitWarning, "convergence": ConvergenceWarning}[kind], stacklevel=2)
    return result
