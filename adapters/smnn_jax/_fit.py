"""`fit` for callbacks on JAX arrays: the core's, with derivatives by one vectorised forward pass, compiled."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from smnn_core import ArgumentError, Fitted
from smnn_core import fit as core_fit
from smnn_core.extend import has_parameters

__all__ = ["fit"]

FEWEST = 256
"""Points of a compiled callback, at least: others are padded to powers of two times this, so that few are compiled."""


def fit(
    residual: Callable[..., Any],
    times: Any,
    data: Any,
    parameters: Any = None,
    *,
    order: int = 1,
    observe: Callable[..., Any] | None = None,
    noise: Any = None,
    initial: Any = None,
    jumps: Any = None,
    **options: Any,
) -> Fitted:
    """Fits parameters of f(t, y, y', θ) = 0 to data: `smnn_core.fit` for callbacks on JAX arrays that return values.

    Main arguments:
        residual: (t, y, θ[, u]) -> (..., Q) for t (...), y (..., V, order+1) and θ (..., p), or a dict of names to
            arrays (...): the equations, each point by itself. They are compiled, and differentiated in forward mode.
        times, data, parameters: as for `smnn_core.fit`; arrays of JAX or NumPy, lists of these, or a data frame.
        observe: (t, y, θ[, u]) -> (..., m), what is observed; None: the variables.
        noise: numbers, arrays, None (estimated) or (t, y, θ[, u]) -> (..., m).
        initial: numbers or (θ[, u]) -> (..., V), see `smnn_core.fit`.
        jumps: (times, numbers or (θ[, u]) -> (..., n, V), or (..., V) where all are alike), see `smnn_core.fit`.

    The other arguments are those of `smnn_core.fit`. Callbacks get float64 where JAX has it enabled, else float32,
    whose rounding parameters then feel; all other arithmetic is float64, and the result holds NumPy arrays. The
    iterations are no JAX computation: they cannot be traced.

    Example: decay.

        >>> import jax.numpy as jnp, smnn_jax
        >>> t = jnp.linspace(0, 2, 41)
        >>> r = smnn_jax.fit(lambda t, y, k: y[..., 1] + k * y[..., 0], t, 3 * jnp.exp(-1.3 * t), [1.0], noise=0.01)
        >>> print(f"{r.parameters[0]:.3f}")
        1.300
    """
    if any(isinstance(x, jax.core.Tracer) for x in jax.tree_util.tree_leaves((times, data, parameters))):
        raise ArgumentError("smnn_jax.fit looks at values and cannot be traced: call it outside of jit, grad and vmap.")
    given = has_parameters(parameters)

    def function(f: Callable[..., Any], name: str) -> Callable[..., tuple[np.ndarray, ...]]:
        return _function(f, name, given)

    if isinstance(jumps, tuple) and len(jumps) == 2 and callable(jumps[1]):
        jumps = jumps[0], _initial(jumps[1])
    result = core_fit(
        function(residual, "residual"),
        _plain(times),
        _plain(data),
        _plain(parameters),
        order=order,
        observe=None if observe is None else function(observe, "observe"),
        noise=function(noise, "noise") if callable(noise) else _plain(noise),
        initial=_initial(initial) if callable(initial) else _plain(initial),
        jumps=_plain(jumps),
        **{name: _plain(x) for name, x in options.items()},
    )
    return replace(result, _wrap=function)


def _plain(x: Any) -> Any:
    """JAX arrays as NumPy arrays, in lists, tuples and mappings, too."""
    if isinstance(x, jax.Array):
        return np.asarray(x)
    if type(x) in (list, tuple):
        return type(x)(map(_plain, x))
    return {k: _plain(v) for k, v in x.items()} if type(x) is dict else x


def _function(function: Callable[..., Any], name: str, has_parameters: bool) -> Callable[..., tuple[np.ndarray, ...]]:
    """(t, y[, θ][, u]) on arrays of the core -> values, derivatives in y and in θ.

    All points of all members lie along one axis.
    """

    @jax.jit
    def derivatives(t: Any, y: Any, θ: Any, u: Any) -> Any:
        def values(y: Any, θ: Any) -> Any:
            out = function(t, y, *(() if θ is None else (θ,)), *(() if u is None else (u,)))
            if not isinstance(out, jax.Array):
                raise ArgumentError(f"{name} must return an array of JAX, got {type(out).__name__}.")
            return out

        n, shape = y.shape[-2] * y.shape[-1], y.shape[-2:]
        out = values(y, θ)

        def along_y(v: Any) -> Any:
            return jax.jvp(lambda y: values(y, θ), (y,), (jnp.broadcast_to(v, y.shape),))[1]

        slope = jax.vmap(along_y, out_axes=-1)(jnp.eye(n, dtype=y.dtype).reshape(n, *shape))
        in_y = slope.reshape(*slope.shape[:-1], *shape)
        if θ is None:
            return out, in_y, None
        leaves, tree = jax.tree_util.tree_flatten(θ)
        stacked = jnp.stack(leaves, -1) if isinstance(θ, dict) else θ

        def along_θ(v: Any) -> Any:
            def of(x: Any) -> Any:
                return values(y, tree.unflatten(jnp.unstack(x, axis=-1)) if isinstance(θ, dict) else x)

            return jax.jvp(of, (stacked,), (jnp.broadcast_to(v, stacked.shape),))[1]

        in_θ = jax.vmap(along_θ, out_axes=-1)(jnp.eye(stacked.shape[-1], dtype=y.dtype))
        return out, in_y, in_θ

    def called(t: Any, y: Any, *rest: Any) -> tuple[np.ndarray, ...]:
        M, n = t.shape
        θ, u = (rest[0] if has_parameters else None), (rest[-1] if len(rest) > has_parameters else None)
        points = FEWEST
        while points < M * n:
            points *= 2

        def flat(x: Any) -> Any:
            x = np.broadcast_to(x, (M, n, *x.shape[2:])).reshape(M * n, *x.shape[2:])
            return jnp.asarray(np.concatenate([x, np.repeat(x[:1], points - M * n, axis=0)]))

        given = {k: flat(v) for k, v in θ.items()} if isinstance(θ, Mapping) else None if θ is None else flat(θ)
        results = derivatives(flat(t), flat(y), given, None if u is None else flat(u))
        arrays = [np.asarray(x, np.float64)[: M * n] for x in results if x is not None]
        values, in_y, *in_θ = (x.reshape(M, n, *x.shape[1:]) for x in arrays)
        if isinstance(θ, Mapping):  # jax sorts the keys of a dict
            order = [sorted(θ).index(name) for name in θ]
            in_θ = [x[..., order] for x in in_θ]
        return (values, in_y, *in_θ)

    return called


def _initial(function: Callable[..., Any]) -> Callable[..., tuple[np.ndarray, ...]]:
    """(θ[, u]) -> values (M, V) and their derivatives in θ."""

    def called(θ: Any, *rest: Any) -> tuple[np.ndarray, ...]:
        names = list(θ) if isinstance(θ, Mapping) else None
        flat = np.stack([θ[k][:, 0] for k in names], -1) if names else θ[:, 0]
        others = [jnp.asarray(x[:, 0]) for x in rest]

        def values(x: Any) -> Any:
            return function(dict(zip(names, jnp.unstack(x, axis=-1), strict=True)) if names else x, *others)

        x = jnp.asarray(flat)
        one = jnp.eye(x.shape[-1], dtype=x.dtype)
        slope = jax.vmap(lambda v: jax.jvp(values, (x,), (jnp.broadcast_to(v, x.shape),))[1], out_axes=-1)(one)
        return np.asarray(values(x), np.float64), np.asarray(slope, np.float64)

    return called
