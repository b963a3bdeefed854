"""The exceptions. Each message says what was found, what was expected and what to change."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

__all__ = [
    "AccuracyWarning",
    "ArgumentError",
    "ConvergenceWarning",
    "DTypeError",
    "DeviceError",
    "DiscoveryWarning",
    "EngineError",
    "EngineWarning",
    "MisfitWarning",
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


class EngineWarning(UserWarning):
    """Another engine or arithmetic serves than is usual, slower or with fewer digits: the message says why."""


class AccuracyWarning(UserWarning):
    """Part of the solution, or of a gradient, has few correct digits or none: the system is ill-conditioned, or too few
    values are given."""


class ConvergenceWarning(UserWarning):
    """An iteration stopped before it converged; the result says for which batch members."""


class MisfitWarning(UserWarning):
    """A fit leaves far more than the noise given, so that its standard errors are too small."""


class DiscoveryWarning(UserWarning):
    """The equations that `discover` found may be wrong: the message says why, and what to try."""


class SingularSystemError(np.linalg.LinAlgError):
    """The least-squares problem has no unique minimiser.

    Attributes:
        batch_index: the first batch member concerned, a tuple of ints (empty without batch axes).
        time: a time point whose unknowns the rows leave undetermined; the rows that are missing may belong to another.
        causes: what may be the reason, the likeliest first.
    """

    def __init__(self, batch_index: tuple[int, ...], time: int, causes: Sequence[str] = ()) -> None:
        self.batch_index = batch_index
        self.time = time
        self.causes = tuple(causes)
        where = f"batch member {batch_index}, " if batch_index else ""
        reasons = f" What may be the reason: {'; '.join(causes)}." if causes else ""
        super().__init__(
            f"the system has no unique solution: {where}time point {time} is left undetermined by the rows.{reasons} "
            "Give more initial values, a non-zero weight to rows that were masked, or an equation that fixes what is "
            "left open."
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return SingularSystemError, (self.batch_index, self.time, self.causes)
