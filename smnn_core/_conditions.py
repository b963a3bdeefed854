"""Values at any times: boundary values, observations, and conditions inside the interval."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import array_api_compat as compat
import array_api_compat.numpy as compat_numpy
import numpy as np

from ._arrays import Array, Namespace, Shape, broadcast_shapes, can_look, common_namespace, device_of
from ._errors import ArgumentError, ShapeError
from ._validate import LARGEST_T, check_integer

__all__ = ["conditions"]


def conditions(
    n_steps: int,
    values: Mapping[Any, Any],
    *,
    n_variables: int = 1,
    n_orders: int = 1,
    like: Array | None = None,
) -> Array:
    """Initial values of full length, for values that are given at any times.

    Args:
        n_steps: T.
        values: from a time index (negative from the end), or an array or range of them, or a tuple of them, to values
            that broadcast to (..., V, R_init), for several times (..., number of times, V, R_init); where R_init is
            more than 1, with a value for each order. NaN means "not given". A later entry may add to an earlier one at
            the same time, not change it; that is checked where looking does not wait for a device and is not traced.
        n_variables: V.
        n_orders: R_init: values of the orders 0..R_init-1 can be given.
        like: an array whose library, dtype and device the result has; NumPy's float64 without one.

    Returns:
        initial_values, (..., T, V, R_init), NaN where nothing is given: `solve_ode` and the functions like it
        leave such rows out. Weights of the others are `weights.initial`, as usual.

    Raises:
        ArgumentError: for a time outside of 0..T-1, one that is named twice in a key, and for values that contradict
            each other.
        ShapeError: for values that do not broadcast.

    Example: y'' + y = 0 with y(0) = 0 and y(π/2) = 1.

        >>> import numpy as np
        >>> import smnn_core as smnn
        >>> t = np.linspace(0, np.pi / 2, 101)
        >>> u = smnn.conditions(101, {0: 0.0, -1: 1.0})
        >>> oscillator = np.array([[[[1.0, 0.0, 1.0]]]])
        >>> y = smnn.solve_ode(oscillator, np.zeros((1, 1)), u, np.diff(t))
        >>> bool(abs(y[:, 0, 0] - np.sin(t)).max() < 1e-4)
        True
    """
    if not isinstance(values, Mapping):
        raise TypeError(f"values must map time indices to values, as {{0: 1.0, -1: 0.0}}; got {type(values).__name__}.")
    sizes = {"n_steps": n_steps, "n_variables": n_variables, "n_orders": n_orders}
    n_steps, n_variables, n_orders = (check_integer(k, n, least=1, most=LARGEST_T) for k, n in sizes.items())
    if like is not None:
        common_namespace({"like": like})
    xp = compat_numpy if like is None else compat.array_namespace(like)
    kind = {"dtype": np.float64} if like is None else {"dtype": like.dtype, "device": device_of(like)}
    u = xp.full((n_steps, n_variables, n_orders), float("nan"), **kind)
    batches: dict[str, Shape] = {}
    for key, given in values.items():
        times = _times(key, n_steps)
        try:
            x = given if compat.is_array_api_obj(given) and like is not None else xp.asarray(given, **kind)
        except (TypeError, ValueError) as error:
            raise ArgumentError(f"values[{key!r}] must be numbers, or an array of them; {error}.") from None
        batches[f"values[{key!r}]"] = tuple(x.shape[: max(0, x.ndim - 2 - (np.ndim(key) > 0))])
        broadcast_shapes(batches)
        at_all, known = _at_all_times(xp, x, times, (n_steps, n_variables, n_orders), key)
        agree = ~known | xp.isnan(u) | (at_all == u)
        if can_look(agree) and not bool(xp.all(agree)):
            raise ArgumentError(f"values[{key!r}] contradicts values given for the same time before: give each once.")
        u = xp.where(known, at_all, u)
    return u


def _times(key: Any, n_steps: int) -> np.ndarray:
    """The time indices of a key, from 0 on."""
    times = np.atleast_1d(np.asarray(key))
    if times.ndim != 1 or times.dtype.kind not in "iu":
        raise ArgumentError(
            f"the keys of values are time indices, integers or sequences of them; got {key!r}. For times in units of "
            "time find their indices first, for example with numpy.searchsorted(t, times)."
        )
    outside = times[(times < -n_steps) | (times >= n_steps)]
    if outside.size:
        raise ArgumentError(f"time index {outside[0]} in values is outside of 0..T-1 with T = {n_steps}.")
    times = times % n_steps
    if len(np.unique(times)) < len(times):
        raise ArgumentError(f"the key {key!r} of values names a time twice.")
    return times


def _at_all_times(
    xp: Namespace, x: Array, times: np.ndarray, core: tuple[int, int, int], key: Any
) -> tuple[Array, Array]:
    """Values (..., times, V, R_init) at some times as (..., T, V, R_init), and where they are given."""
    single = np.ndim(key) == 0
    shape = core[1:] if single else (len(times), *core[1:])
    try:
        full = broadcast_shapes({"values": tuple(x.shape), "core": shape})
    except ShapeError:
        full = ()
    if core[2] > 1 and (not x.ndim or x.shape[-1] != core[2]):
        raise ShapeError(
            f"values[{key!r}] of shape {tuple(x.shape)} must hold a value for each of the n_orders = {core[2]} "
            f"orders, NaN where it is not given: [{', '.join(['0.0', *['nan'] * (core[2] - 1)])}] says y = 0 alone."
        )
    if full[len(full) - len(shape) :] != shape:
        names = "V, R_init" if single else "number of times, V, R_init"
        raise ShapeError(
            f"values[{key!r}] of shape {tuple(x.shape)} must broadcast to (..., {names}) = (..., {str(shape)[1:-1]})."
        )
    x = xp.broadcast_to(x, full)
    x = x[..., None, :, :] if single else x
    given = np.zeros(core[0], dtype=bool)
    given[times] = True
    where = np.zeros(core[0], dtype=np.int64)
    where[times] = np.arange(len(times))
    known = xp.asarray(given, device=device_of(x))[:, None, None] & ~_repeated(xp, xp.isnan(x), where)
    return _repeated(xp, xp.where(xp.isnan(x), xp.zeros_like(x), x), where), known


def _repeated(xp: Namespace, x: Array, where: np.ndarray) -> Array:
    return xp.take(x, xp.asarray(where, device=device_of(x)), axis=x.ndim - 3)
