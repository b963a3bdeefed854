"""The raw banded solve: `scipy.linalg.solveh_banded` on the normal equations of one long system."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.linalg import solveh_banded

from benchmarks.baselines import normal_equations

from .cases import Case

__all__ = ["banded_solve"]


def banded_solve(case: Case, dtype: str) -> Callable[[], np.ndarray]:
    """A function that factors and solves M y = A^T d in banded storage; assembling M is left out of the time."""
    arrays = [x[0].numpy() for x in case.inputs(dtype)]
    D, B, h = (x[:, 0] for x in normal_equations(*arrays))
    T, n = case.T, case.n
    band = np.zeros((2 * n, T, n), D.dtype)  # band[i - j, column j] = M[i, j]
    for j in range(n):
        for i in range(j, n):
            band[i - j, :, j] = D[:, i, j]
        for i in range(n):
            band[n + i - j, :-1, j] = B[:, i, j]
    band, h = band.reshape(2 * n, T * n), h.reshape(T * n)
    return lambda: solveh_banded(band, h, lower=True, check_finite=False)
