"""The exceptions. Each message says what was found, what was expected and what to change."""

from __future__ import annotations

import numpy as np

__all__ = [
    "ArgumentError",
    "ConvergenceWarning",
    "DTypeError",
    "DeviceError",
    "DiscoveryWarning",
    "EngineError",
    "NamespaceError",
    "SchemeError",
    "ShapeError",
    "SingularSystemError",
]


class ShapeError(ValueError):
    """An argument has the wrong rank, or a shape that does not broadcast with the others."""


class DTypeError(TypeError):
    """An argument is not float32 or float64, or the dtypes of the arguments differ."""


class NamespaceError(TypeError):
    """An argument is no array, or the arguments come from different array libraries."""


class DeviceError(ValueError):
    """The arguments live on different devices."""


class ArgumentError(ValueError):
    """An argument has the right shape and dtype and a value that makes no sense."""


class SchemeError(ValueError):
    """The matrices of a smoothness scheme are malformed or inconsistent."""


class EngineError(ValueError):
    """The engine asked for does not exist, or cannot serve these arrays."""


class ConvergenceWarning(UserWarning):
    """An iteration stopped before it converged; the result says for which batch members."""


class DiscoveryWarning(UserWarning):
    """The equations that `discover` found may be wrong: the message says why, and what to try."""


class SingularSystemError(np.linalg.LinAlgError):
    """The least-squares problem has no unique minimiser.

    Found where a diagonal entry of the triangular factor is below 8 n eps times the norm of its column. Rounding can
    hide it: where solutions of the homogeneous problem grow over the sequence, as t does and more so t^2, the errors in
    that entry grow as well, and the solution comes back large instead. In float32, systems look singular whose numbers
    have squares beyond its range, as the powers of very short or long steps may: take another unit of time.

    Attributes:
        batch_index: the first batch member concerned, a tuple of ints (empty without batch axes).
        time: a time point whose unknowns the rows leave undetermined.
    """

    def __init__(self, batch_index: tuple[int, ...], time: int) -> None:
        self.batch_index = batch_index
        self.time = time
        where = f"batch member {batch_index}, " if batch_index else ""
        super().__init__(
            f"the system has no unique solution: {where}time point {time} is left undetermined by the rows; those "
            "that are missing may belong to any other time point. Give more initial values (the axes T_init and R_init "
            "of initial_values), a non-zero weight to the rows that were masked, or an equation that fixes the missing "
            "constants."
        )
