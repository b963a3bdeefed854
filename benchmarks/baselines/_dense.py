"""The least-squares problem as one dense matrix, solved by QR."""

from __future__ import annotations

from typing import Any

import array_api_compat as compat

from smnn_core._arrays import Array
from smnn_core._schemes import TAYLOR
from smnn_core._solve import dense_system

__all__ = ["dense_least_squares"]


def dense_least_squares(*arguments: Array, **options: Any) -> Array:
    """The solution of `smnn_core.solve_ode`, by a dense QR: O(T^3) time, O(T^2) memory.

    Arguments, result and errors are those of `smnn_core.solve_ode`, with `scheme=TAYLOR` where none is given, except
    that a singular system raises the LinAlgError of the namespace, or gives non-finite or huge values.
    """
    A, d = dense_system(*arguments, **{"scheme": TAYLOR} | options)
    xp = compat.array_namespace(A)
    batch = tuple(A.shape[:-2])
    d = xp.broadcast_to(d, (*batch, d.shape[-1]))
    if A.shape[-2] < A.shape[-1]:
        zeros = xp.zeros((*batch, A.shape[-1] - A.shape[-2], A.shape[-1]), dtype=A.dtype, device=compat.device(A))
        A, d = xp.concat([A, zeros], axis=-2), xp.concat([d, zeros[..., 0]], axis=-1)
    Q, R = xp.linalg.qr(A, mode="reduced")
    y = xp.linalg.solve(R, xp.matrix_transpose(Q) @ d[..., None])
    V, K = arguments[0].shape[-2:]
    return xp.reshape(y, (*batch, y.shape[-2] // (V * K), V, K))
