"""How far a solution is from that of the differential equation: the difference to a solution with two orders more.

One order more is the usual estimate, and may be too small on equal steps, where the errors of `HERMITE` with R and with
R+1 orders may be of one size and sign. With two orders more the worst estimate is 0.85 to 1.93 times the worst error,
over orders 1 to 3, R to 4 (3 on clustered times, where systems with two orders more are refused as singular) and five
kinds of grids (`python -m benchmarks.grids`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import array_api_compat as compat

from ._arrays import Array, concat
from ._errors import SingularSystemError
from ._problem import UNIT, Weights
from ._schemes import HERMITE, Scheme
from ._solve import solve_ode

__all__ = ["error_estimate", "error_estimate_with"]


def error_estimate(
    coefficients: Array,
    rhs: Array,
    initial_values: Array,
    step_sizes: Array,
    *,
    n_steps: int | None = None,
    scheme: Scheme = HERMITE,
    weights: Weights = UNIT,
    engine: str = "auto",
    check: bool = False,
) -> Array:
    """Estimates the discretisation error of `solve_ode`, at the cost of about three solves.

    Args: as for `solve_ode`.

    Returns:
        e = y - y', (..., T, V, R+1), where y is the solution and y' that with R+2 instead of R orders, whose error is
        much smaller: so e is about the error of y, with its sign. It says little where y' is no better: where
        derivatives of order R+2 do not exist (jumps in the right-hand side), and it is too large where rounding errors
        of y' rule (s so small that eps / s^R counts).

    Raises:
        ShapeError, DTypeError, NamespaceError, DeviceError, ArgumentError, EngineError: as `solve_ode`.
        SingularSystemError: as `solve_ode`, and where only y' is undetermined, as on times that lie very close together
            for so many orders.
        SchemeError: for a scheme that was made for one number of orders (`Scheme.from_matrices`).

    Example:
        >>> import numpy as np
        >>> import smnn_core as smnn
        >>> t = np.linspace(0, 5, 51)
        >>> problem = np.array([[[[1.0, 1.0, 0.0]]]]), np.zeros((1, 1)), np.ones((1, 1, 1)), np.diff(t)  # y' + y = 0
        >>> error = smnn.solve_ode(*problem)[:, 0, 0] - np.exp(-t)
        >>> estimate = smnn.error_estimate(*problem)[:, 0, 0]
        >>> bool(abs(estimate - error).max() < 0.02 * abs(error).max())
        True
    """
    options = {"n_steps": n_steps, "scheme": scheme, "weights": weights, "engine": engine, "check": check}
    return error_estimate_with(solve_ode, coefficients, rhs, initial_values, step_sizes, **options)


def error_estimate_with(solve: Callable[..., Array], coefficients: Array, *arguments: Array, **options: Any) -> Array:
    """`error_estimate` with an adapter's `solve_ode`, and so with its derivatives."""
    y = solve(coefficients, *arguments, **options)
    xp = compat.array_namespace(coefficients)
    spare = xp.zeros_like(coefficients[..., :1])
    try:
        more = solve(concat(xp, [coefficients, spare, spare], axis=-1), *arguments, **options)
    except SingularSystemError as error:
        error.add_note("So it is with two orders more, which the estimate needs; with those given there is a solution.")
        raise
    return y - more[..., :-2]
