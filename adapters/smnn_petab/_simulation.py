"""The objective by `smnn_core.solve`, which shares nothing with SciPy's integration but the formulas."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np

from smnn_core import ConvergenceWarning, solve

from ._errors import UnsupportedError
from ._objective import Objective

__all__ = ["collocated"]

Array = np.ndarray


def collocated(objective: Objective, θ: Array, tolerance: float = 1e-7) -> float:
    """The objective at parameters θ on the linear scale; infinite where the solver says that it has not converged.

    Raises:
        UnsupportedError: for equilibrations before an experiment, which have no end in time.
    """
    equations = objective.equations
    if any(b is not None for b in equations.before):
        raise UnsupportedError('solver="smnn" has no equilibration before an experiment; use solver="scipy".')
    trajectories = []
    for experiment, setting in zip(objective.tables.experiments, equations.settings, strict=True):
        q, _, x0, _ = equations.setting_function(setting)(θ)
        end = float(experiment.times[-1])
        x = np.tile(x0, (len(experiment.times), 1))
        if end > 0:
            marks = [0.0, *(s for s in setting.switches if 0 < s < end), end]
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)
                solution = solve(_residual(objective, q), marks, x0[:, None], tolerance=tolerance, order=1)
            if not np.all(solution.converged):
                return math.inf
            x = solution(experiment.times)[..., 0]
        trajectories.append((x, np.zeros((*x.shape, 0))))
    return objective.terms(θ, trajectories).value


def _residual(objective: Objective, q: Array) -> Any:
    """x' minus the rates, with derivatives, for given inputs q."""

    def residual(t: Array, y: Array) -> tuple[Array, Array]:
        inputs = np.broadcast_to(q.reshape(-1, *[1] * t.ndim), (len(q), *t.shape))
        f, J, _ = objective.rates(t, np.moveaxis(y[..., 0], -1, 0), inputs)
        return y[..., 1] - f, np.stack([-J, np.broadcast_to(np.eye(f.shape[-1]), J.shape)], -1)

    return residual
