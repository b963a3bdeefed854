"""The least-squares problem in extended precision, by plain Householder elimination over time.

Independent of the library but for the matrices F and G and the exponent of the scheme.
numpy.longdouble has 64 bits of mantissa on x86
(113, in software, on aarch64), eleven more than float64; where it is float64 under another name `solve` refuses.
"""

from __future__ import annotations

import numpy as np

from smnn_core import TAYLOR, Scheme

Array = np.ndarray
EXTENDED = np.longdouble


def solve(c: Array, b: Array, u: Array, s: Array, scheme: Scheme = TAYLOR) -> tuple[Array, float]:
    """y = argmin |A y - d| for c (lanes, T, Q, V, K), b (lanes, T, Q), u (lanes, T_init, V, R_init), s (lanes, T-1).

    Elimination, then one step of iterative refinement.

    Returns:
        y, (lanes, T, V, K) in extended precision, and its own error relative to max |y|: the difference to a second
        solution, eliminated from the last time point to the first.
    """
    if np.finfo(EXTENDED).eps > 1e-18:
        raise RuntimeError("numpy.longdouble is no wider than float64 on this platform: no reference to compare with.")
    lanes, T, _, V, K = c.shape
    n = V * K
    c, b, u, s = (np.asarray(x, EXTENDED) for x in (c, b, u, s))
    own, left, right = _rows(c, b, u, s, scheme)
    # the same problem from back to front, in further lanes
    own = np.concatenate([own, own[:, ::-1]])
    left, right = np.concatenate([left, right[:, ::-1]]), np.concatenate([right, left[:, ::-1]])
    own, d, coupling = own[..., :n], own[..., n], np.zeros(left.shape[:-1], EXTENDED)
    y = _substitute(*_eliminate(own, left, right, d, coupling))
    d = d - (own @ y[..., None])[..., 0]
    coupling = -((left @ y[:, :-1, :, None]) + (right @ y[:, 1:, :, None]))[..., 0]
    y += _substitute(*_eliminate(own, left, right, d, coupling))
    forward, backward = y[:lanes], y[lanes:, ::-1]
    error = np.abs(forward - backward).max() / np.abs(forward).max()
    return forward.reshape(lanes, T, V, K), float(error)


def _rows(c: Array, b: Array, u: Array, s: Array, scheme: Scheme) -> tuple[Array, Array, Array]:
    """Rows of one point, with right-hand side, (lanes, T, rows, n+1), and couplings (lanes, T-1, rows, n)."""
    lanes, T, Q, V, K = c.shape
    n, (_, T_init, _, R_init) = V * K, u.shape
    own = np.zeros((lanes, T, Q + V * R_init, n + 1), EXTENDED)
    own[:, :, :Q, :n] = c.reshape(lanes, T, Q, n)
    own[:, :, :Q, n] = b
    for v, r in np.ndindex(V, R_init):
        own[:, :T_init, Q + v * R_init + r, v * K + r] = 1
        own[:, :T_init, Q + v * R_init + r, n] = u[:, :, v, r]
    size = np.log(np.abs(s))
    weight = np.exp(scheme.step_exponent(K) * (size.mean(axis=-1, keepdims=True) - size))
    powers = weight[:, :, None] * s[:, :, None] ** np.arange(K)
    left, right = (
        np.einsum("vw,mk,btk->btvmwk", np.eye(V, dtype=EXTENDED), M.astype(EXTENDED), powers).reshape(
            lanes, T - 1, -1, n
        )
        for M in scheme.matrices(K)
    )
    return own, left, right


def _eliminate(own: Array, left: Array, right: Array, d: Array, coupling: Array) -> tuple[Array, Array]:
    """Upper triangles with right-hand side, (lanes, T, n, n+1), and their coupling to the next point, (..., n, n)."""
    lanes, T, k, n = own.shape
    m = left.shape[2]
    R, E = np.zeros((lanes, T, n, n + 1), EXTENDED), np.zeros((lanes, T, n, n), EXTENDED)
    carried = np.zeros((lanes, n, n + 1), EXTENDED)
    for t in range(T):
        rows = np.zeros((lanes, n + k + m, 2 * n + 1), EXTENDED)  # columns y[t], y[t+1], right-hand side
        rows[:, :n, :n], rows[:, :n, -1] = carried[:, :, :n], carried[:, :, n]
        rows[:, n : n + k, :n], rows[:, n : n + k, -1] = own[:, t], d[:, t]
        if t < T - 1:
            rows[:, n + k :, :n], rows[:, n + k :, n:-1], rows[:, n + k :, -1] = left[:, t], right[:, t], coupling[:, t]
        _householder(rows, 2 * n)
        R[:, t, :, :n], R[:, t, :, n], E[:, t] = rows[:, :n, :n], rows[:, :n, -1], rows[:, :n, n : 2 * n]
        carried = rows[:, n : 2 * n, n:]
    return R, E


def _householder(A: Array, columns: int) -> None:
    """Makes the first columns of A, (lanes, rows, columns), upper triangular in place."""
    for j in range(min(columns, A.shape[1] - 1)):
        v = A[:, j:, j].copy()
        v[:, 0] += np.copysign(np.sqrt((v * v).sum(-1)), v[:, 0])
        vv = (v * v).sum(-1)
        factor = np.where(vv == 0, 0, 2 / np.where(vv == 0, 1, vv))
        A[:, j:, j:] -= (factor[:, None] * v)[:, :, None] * (v[:, None, :] @ A[:, j:, j:])


def _substitute(R: Array, E: Array) -> Array:
    """y, (lanes, T, n), from the last point to the first."""
    lanes, T, n = E.shape[:3]
    y = np.zeros((lanes, T + 1, n), EXTENDED)
    for t in reversed(range(T)):
        z = R[:, t, :, n] - (E[:, t] @ y[:, t + 1, :, None])[..., 0]
        for i in reversed(range(n)):
            y[:, t, i] = (z[:, i] - (R[:, t, i, i + 1 : n] * y[:, t, i + 1 :]).sum(-1)) / R[:, t, i, i]
    return y[:, :T]
