"""One assertion for arrays of any library: namespace, dtype, shape, device, and values to a tolerance from eps."""

from __future__ import annotations

from typing import Any

import array_api_compat as compat
import numpy as np
from _backends import Backend

Array = Any


def eps(dtype: Any) -> float:
    """The distance from 1 to the next number of a dtype, given by name, as an object of any library or in an array."""
    name = str(getattr(dtype, "dtype", dtype)).removeprefix("torch.")
    return float(np.finfo(np.float32 if "float32" in name else np.float64).eps)


def assert_close(
    actual: Array,
    expected: Any,
    backend: Backend,
    *,
    like: Array | None = None,
    dtype: str | None = None,
    factor: float = 10.0,
    atol: Any = None,
    label: str = "",
) -> None:
    """Asserts that `actual` is an array of `backend` with the shape and values of `expected`.

    Args:
        expected: an array of any library, or numbers.
        backend: whose namespace `actual` must have.
        like: an array whose dtype and device `actual` must share.
        dtype: the dtype's name, where there is no `like`.
        factor: |actual - expected| <= factor * eps * max|expected|, eps of actual's dtype. The problem's condition
            number belongs in here.
        atol: the tolerance itself instead, a number or an array that broadcasts against `expected`.
    """
    where = f"{label}: " if label else ""
    assert compat.array_namespace(actual) is backend.xp, f"{where}{type(actual)} is not an array of {backend}"
    if like is not None:
        assert actual.dtype == like.dtype, f"{where}dtype {actual.dtype}, expected {like.dtype}"
        assert compat.device(actual) == compat.device(like), f"{where}device {compat.device(actual)}"
    if dtype is not None:
        assert actual.dtype == backend.dtype(dtype), f"{where}dtype {actual.dtype}, expected {dtype}"
    values = backend.to_numpy(actual)
    expected = backend.to_numpy(expected) if _is_array_of(expected, backend) else np.asarray(expected)
    assert values.shape == expected.shape, f"{where}shape {values.shape}, expected {expected.shape}"
    if atol is None:
        finite = np.abs(expected[np.isfinite(expected)])
        atol = factor * eps(values.dtype) * (finite.max() if finite.size else 0.0)
    _assert_values(values.astype(np.longdouble), expected.astype(np.longdouble), atol, where)


def _is_array_of(x: Any, backend: Backend) -> bool:
    return compat.is_array_api_obj(x) and compat.array_namespace(x) is backend.xp


def _assert_values(values: np.ndarray, expected: np.ndarray, atol: Any, where: str) -> None:
    same = (values == expected) | (np.isnan(values) & np.isnan(expected))
    with np.errstate(invalid="ignore"):
        error = np.where(same, 0, np.abs(values - expected))
    atol = np.broadcast_to(np.asarray(atol), error.shape)
    wrong = ~(error <= atol)
    if wrong.any():
        excess = np.where(np.isnan(error), np.inf, error / np.maximum(atol, np.finfo(np.float64).tiny))
        worst = np.unravel_index(int(np.argmax(excess)), excess.shape)
        raise AssertionError(
            f"{where}{int(wrong.sum())} of {wrong.size} entries differ; the worst at {tuple(map(int, worst))}: "
            f"{values[worst]}, expected {expected[worst]}; error {error[worst]:.3g}, tolerance {atol[worst]:.3g}"
        )
