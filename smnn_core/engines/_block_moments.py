r"""Covariances, and rows times these, from the factor of the engine for large blocks: `_covariances`, point by point.

With R[t] y[t] + E[t] y[t+1] = z[t] of elimination and ζ standard normal, y[t] = J y[t+1] + R^-1 ζ, J = -R^-1 E: what
is e there is y[t] here, and p is y[t+1]. So

    Σ_t = R^-1 R^-T + J Σ_{t+1} J^T = X X^T,   X = [ R^-1   J S ],  S S^T = Σ_{t+1},        Σ_{t,t+1} = J Σ_{t+1},

X^T triangularised from point to point. The rows of point t, those from the points before it and to the next among them,
are Q [R (y[t] - J y[t+1]); S[t+1] y[t+1]] (see `_block_sweep`).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ._block_sweep import Reflections, Sweep
from ._covariances import Form, forms, rows_before

__all__ = ["covariances", "rows_times"]


def covariances(sweep: Sweep) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """t, X and Σ_{t,t+1} from the last point to the first; the latter of the last is empty."""
    n = sweep.n
    S = lag = np.empty((n, 0))
    for t in reversed(range(sweep.T)):
        X = sweep.inverse(t)
        if t < sweep.T - 1:
            JS = sweep.product(sweep.backward(t), S)
            X, lag = np.hstack([X, JS]), sweep.product(JS, S.T)
        yield t, X, lag
        S = Reflections(np.ascontiguousarray(X.T), np.zeros(X.shape[1]), None, sweep.threads).R.T


def rows_times(sweep: Sweep, H: np.ndarray | None, L: np.ndarray | None, g: float) -> tuple[np.ndarray, ...]:
    """B Π, Π = g Σ - Σ H Σ, where B has entries: of equations (T, Q, n), initial values (T_init, V, R_init), and
    couplings (T-1, rows, V, 2K).

    Args:
        H, L: the blocks of the form in and beside the diagonal, (T, n, n) and (T-1, n, n); None is zero.
    """
    n, T, V, K, dot = sweep.n, sweep.T, sweep.V, sweep.K, sweep.product
    Js, passed = [sweep.backward(t) for t in range(T - 1)], []
    H_t = None if H is None else H[0]
    for t, J in enumerate(Js):
        if H is not None and L is not None:
            F, coarse = forms(np, J, H[t + 1], L[t], H_t, dot)
            passed.append((F, H_t))
            H_t = coarse
    equation = np.empty((T, sweep.Q, n))
    initial = np.empty(sweep.entries.initial.shape)
    coupling = np.zeros((T - 1, sweep.entries.smoothness.shape[1], V, 2, K))
    v = np.arange(V)
    Σ, C = np.empty((0, 0)), None
    for t in reversed(range(T)):
        R_inverse = sweep.inverse(t)
        N = dot(R_inverse, R_inverse.T)
        if C is None:
            U = [R_inverse.T] if H_t is None else [R_inverse.T, dot(R_inverse.T, dot(H_t, N))]
            Σ = N
        else:
            J, step = Js[t], sweep.couplings[t]
            form = Form(*passed[t], dot(passed[t][0], Σ)) if passed else None
            rows = np.empty((2 * n, 2 * n * len(C)))
            rows[np.concatenate([step.pivots, step.rest])] = np.hstack(rows_before(np, J, R_inverse, C, form, dot))
            step.rotate(rows, back=True)
            U = [rows[:n, i + n : i + 2 * n] for i in range(0, rows.shape[1], 2 * n)]
            of_pairs = _difference(rows[n:], g, len(C)).reshape(K, V, 2, K, V)[:, :, ::-1]
            coupling[t, :K] = np.moveaxis(of_pairs[:, v, :, :, v], 0, 1)
            Σ = N + dot(J, dot(Σ, J.T)) if passed else Σ
        fold = sweep.folds[t]
        rows = np.zeros((len(fold.A), n * len(U)))
        rows[fold.pivots] = np.hstack(U)
        fold.rotate(rows, back=True)
        C = np.split(rows[:n], len(U), axis=1)
        of_point = _difference(rows[n:], g, len(U))
        if t > 0 and sweep.extra:
            beyond = of_point[: sweep.extra].reshape(-1, V, K, V)
            coupling[t - 1, K:, :, 1] = np.moveaxis(beyond[:, v, :, v], 0, 1)
            of_point = of_point[sweep.extra :]
        equation[t] = of_point[: sweep.Q]
        if t < len(initial):
            given = of_point[sweep.Q :].reshape(V, -1, K, V)
            r = np.arange(given.shape[1])
            initial[t] = given[v[:, None], r, r, v[:, None]]
    return equation, initial, coupling.reshape(*coupling.shape[:3], 2 * K)


def _difference(rows: np.ndarray, g: float, count: int) -> np.ndarray:
    """g B Σ - B P, or g B Σ where that is all."""
    B_Σ, *B_P = np.split(rows, count, axis=1)
    return g * B_Σ - B_P[0] if B_P else g * B_Σ
