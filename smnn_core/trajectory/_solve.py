"""`solve`: differential equations to a tolerance."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .._errors import ConvergenceWarning
from ._equations import Equations
from ._search import search
from ._solution import Solution, solution_of

__all__ = ["solve", "warn_unless_converged"]


def solve(
    residual: Callable[..., tuple[np.ndarray, ...]],
    times: Any,
    conditions: Any,
    *,
    tolerance: float | None = None,
    absolute: float = 0.0,
    order: int | Sequence[int] | None = None,
    constants: Any = None,
    guess: Any = None,
    mesh: Any = None,
    points: int | None = None,
    max_intervals: int = 20_000,
    engine: str = "auto",
    progress: bool = False,
) -> Solution:
    """Solves f(t, y, y', ..) = 0 to a tolerance: initial and boundary values, algebraic equations, unknown constants.

    The mesh is its own: intervals on which y is a polynomial that satisfies the equations at collocation points,
    refined until the estimated error is below the tolerance. The result is a function of time.

    **Main arguments**

    Args:
        residual: residual(t, y) -> (f, J), with `constants` residual(t, y, constants) -> (f, J, P), for all points at
            once: t (..., n), y (..., n, V, R+1), the values and derivatives of V variables, constants (..., 1, p). f,
            (..., n, Q), are the Q >= V equations at each time, J = ∂f/∂y, (..., n or 1, Q, V, R+1), and P =
            ∂f/∂constants, (..., n or 1, Q, p), their derivatives; where most entries of J are zero, it may be a
            `SparseJacobian`. Each time by itself. More equations than variables are met in the sense of least squares:
            differentiated constraints of equations of higher index.
        times: (n,), both ends, and every time between them at which a condition stands or something happens (a dose, a
            switch), in ascending or descending order. Solutions may have kinks there.
        conditions: values (..., V, order) at the first time, NaN where nothing is given; or {time: such an array}; or a
            function of the states at all `times`, (..., n, V, order) -> residuals (..., C), and of the constants, if it
            has two arguments. It may return their derivatives (..., C, n, V, order) as well; else these are
            differences.
        tolerance: of the largest error of each variable, relative to its largest value: 1e-6 where nothing is said.
        constants: (..., p), a first guess of constants to be solved for: a period, an eigenvalue, a parameter. Each
            needs one more condition.

    **Other arguments**

    Args:
        absolute: an error in units of y that is allowed beside that.
        order: the highest derivative in the equations, one number or one for each variable; 0: an algebraic variable.
            Found from J where it is not given.
        guess: where the iteration starts: values at `times`, (..., n, V) or (..., n, V, order), linear between; a
            function t (n,) -> (..., n, V) or (..., n, V, order); or the solution of a similar problem. Default:
            straight lines through the values that are given.
        mesh: (..., N+1), from times[0] to times[-1] with all of `times`: solve on this mesh and no other.
        points: collocation points of an interval. Default: by the tolerance.
        max_intervals: a member that needs more is given up.
        engine: "auto", or one of the engines that `show_config` lists.
        progress: show a progress bar (tqdm, where it is installed).

    Returns:
        Solution. Members of a batch have meshes of their own, with one number of intervals; one that was not solved is
        NaN, and `reason` says why.

    Raises:
        ShapeError, DTypeError, NamespaceError, TypeError: for arguments that do not fit, by name.
        ArgumentError: for times that do not ascend, conditions that are too few, too many or at other times, and
            residuals that couple times.

    Warns:
        ConvergenceWarning: if some members have not converged.

    Source: Ascher, Christiansen, Russell, Math. Comp. 33 (1979) 659; Ascher, Spiteri, SIAM J. Sci. Comput. 15 (1994)
    938; Deuflhard, Newton Methods for Nonlinear Problems, Springer 2004; Hairer, Wanner, Solving Ordinary Differential
    Equations II, Springer 1996.

    Example: y'' = -exp(y), y(0) = y(1) = 0 (Bratu's problem).

        >>> import numpy as np
        >>> import smnn_core as smnn
        >>> def residual(t, y):
        ...     J = np.zeros((*t.shape, 1, 1, 3))
        ...     J[..., 0, 0, 0], J[..., 0, 0, 2] = np.exp(y[..., 0, 0]), 1.0
        ...     return y[..., 2] + np.exp(y[..., 0]), J
        >>> s = smnn.solve(residual, [0, 1], {0: [[0, np.nan]], 1: [[0, np.nan]]}, tolerance=1e-8)
        >>> print(s([0.5])[0, 0, 0].round(6), s.converged)
        0.140539 True
    """
    equations = Equations(residual, 0 if constants is None else np.shape(constants)[-1])
    run = search(
        equations,
        times,
        conditions,
        tolerance=tolerance,
        absolute=absolute,
        order=order,
        constants=constants,
        guess=guess,
        mesh=mesh,
        points=points,
        most_intervals=max_intervals,
        engine=engine,
        progress=progress,
    )
    single = [x.dtype for x in (times, conditions) if isinstance(x, np.ndarray)]
    dtype = np.dtype(np.float32) if single and all(d == np.float32 for d in single) else np.dtype(np.float64)
    solution = solution_of(run, dtype)
    warn_unless_converged(solution.converged, solution.reason)
    return solution


def warn_unless_converged(converged: Any, reason: Any, stacklevel: int = 3) -> None:
    """Says how many members have not converged, and why the first has not."""
    failed = np.flatnonzero(~np.atleast_1d(np.asarray(converged)).ravel())
    if len(failed):
        first = reason[failed[0]] if isinstance(reason, list) else reason
        count = (
            f"{len(failed)} of {np.size(converged)} members have not converged, the first: "
            if np.ndim(converged)
            else ""
        )
        warnings.warn(f"{count}{first}.", ConvergenceWarning, stacklevel=stacklevel)
