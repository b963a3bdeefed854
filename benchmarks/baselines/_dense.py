"""The least-squares problem as one dense matrix, solved by QR."""

from __future__ import annotations

import array_api_compat as compat

from smnn_core._arrays import Array
from smnn_core._problem import Weights
from smnn_core._schemes import TAYLOR, Scheme
from smnn_core._solve import dense_system

__all__ = ["dense_least_squares"]


def dense_least_squares(
    coefficients: Array,
    rhs: Array,
    initial_values: Array,
    step_sizes: Array,
    *,
    n_steps: int | None = None,
    scheme: Scheme = TAYLOR,
    weights: Weights = Weights(),  # noqa: B008  (frozen)
) -> Array:
    """The solution of `smnn_core.solve_ode`, by a dense QR: O(T^3) time, O(T^2) memory.

    Arguments, result and errors are those of `smnn_core.solve_ode`, except that a singular system raises the
    LinAlgError of the namespace, or gives non-finite or huge values.
    """
    A, d = dense_system(coefficients, rhs, initial_values, step_sizes, n_steps=n_steps, scheme=scheme, weights=weights)
    xp = compat.array_namespace(A)
    batch = tuple(A.shape[:-2])
    d = xp.broadcast_to(d, (*batch, d.shape[-1]))
    if A.shape[-2] < A.shape[-1]:
        zeros = xp.zeros((*batch, A.shape[-1] - A.shape[-2], A.shape[-1]), dtype=A.dtype, device=compat.device(A))
        A, d = xp.concat([A, zeros], axis=-2), xp.concat([d, zeros[..., 0]], axis=-1)
    Q, R = xp.linalg.qr(A, mode="reduced")
    y = xp.linalg.solve(R, xp.matrix_transpose(Q) @ d[..., None])
    V, K = coefficients.shape[-2:]
    return xp.reshape(y, (*batch, y.shape[-2] // (V * K), V, K))
