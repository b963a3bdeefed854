"""`fit` for callbacks on JAX arrays: the core's, with derivatives by one vectorised forward pass, compiled."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from smnn_core import ArgumentError, Fitted, Network, Parameter
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
        times, data: as for `smnn_core.fit`; arrays of JAX or NumPy, lists of these, or a data frame.
        parameters: as for `smnn_core.fit`; in a dict of names also pytrees of arrays: the weights of networks, which
            callbacks get as such pytrees under their name.
        observe: (t, y, θ[, u]) -> (..., m), what is observed; None: the variables.
        noise: numbers, arrays, None (estimated) or (t, y, θ[, u]) -> (..., m).
        initial: numbers or (θ[, u]) -> (..., V), see `smnn_core.fit`; networks are not among these θ.
        jumps: (times, numbers or (θ[, u]) -> (..., n, V), or (..., V) where all are alike), see `smnn_core.fit`; as for
            `initial`.

    The other arguments are those of `smnn_core.fit`. Callbacks get float64 where JAX has it enabled, else float32,
    whose rounding parameters then feel; all other arithmetic is float64, and the result holds NumPy arrays. The
    iterations are no JAX computation: they cannot be traced.

    Networks are fitted by the same Gauss-Newton iterations (`smnn_core.Network`): no optimiser, no rate, no schedule.
    Their weights, as pytrees, are in `networks` of the result. Data sets that share a network are experiments, a list.

    Example: decay.

        >>> import jax.numpy as jnp, smnn_jax
        >>> t = jnp.linspace(0, 2, 41)
        >>> r = smnn_jax.fit(lambda t, y, k: y[..., 1] + k * y[..., 0], t, 3 * jnp.exp(-1.3 * t), [1.0], noise=0.01)
        >>> print(f"{r.parameters[0]:.3f}")
        1.300
    """
    _refuse_tracers((times, data, parameters, noise, initial, jumps, options))
    given = has_parameters(parameters)
    pytrees = {k: x for k, x in parameters.items() if _is_pytree(x)} if isinstance(parameters, Mapping) else {}
    back: dict[str, Callable[..., Any]] = {}
    if pytrees:
        flat = {name: ravel_pytree(x) for name, x in pytrees.items()}
        back = {name: unravel for name, (_, unravel) in flat.items()}
        parameters = parameters | {name: Network(np.asarray(x)) for name, (x, _) in flat.items()}
        if np.ndim(data[0] if isinstance(data, (list, tuple)) else data) > 2:
            raise ArgumentError("data: sets that share a network are experiments: give a list of (n, m), not a batch.")

    def function(f: Callable[..., Any], name: str) -> Callable[..., tuple[np.ndarray, ...]]:
        return _function(f, name, given, back)

    if isinstance(jumps, tuple) and len(jumps) == 2 and callable(jumps[1]):
        jumps = jumps[0], _initial(jumps[1], back)
    result = core_fit(
        function(residual, "residual"),
        _plain(times),
        _plain(data),
        _plain(parameters),
        order=order,
        observe=None if observe is None else function(observe, "observe"),
        noise=function(noise, "noise") if callable(noise) else _plain(noise),
        initial=_initial(initial, back) if callable(initial) else _plain(initial),
        jumps=_plain(jumps),
        **{name: _plain(x) for name, x in options.items()},
    )
    networks = {name: back[name](jnp.asarray(x)) for name, x in result.networks.items()}
    return replace(result, networks=networks, _wrap=function)


def _refuse_tracers(values: Any) -> None:
    """
    Raises:
        ArgumentError: if a value among them is being traced.
    """
    if any(isinstance(x, jax.core.Tracer) for x in jax.tree_util.tree_leaves(values)):
        raise ArgumentError(
            "smnn_jax.fit looks at values and cannot be traced, neither can what its callbacks close over: call it "
            "outside of jit, grad and vmap. Results have no derivatives by data; smnn_jax.solve has."
        )


def _is_pytree(x: Any) -> bool:
    """True if a parameter is a network's weights: arrays with axes, or a container of arrays."""
    return not isinstance(x, (Parameter, Network, int, float)) and (
        isinstance(x, (dict, list, tuple)) or np.ndim(x) > 0
    )


def _plain(x: Any) -> Any:
    """JAX arrays as NumPy arrays, in lists, tuples and mappings, too."""
    if isinstance(x, jax.Array):
        return np.asarray(x)
    if type(x) in (list, tuple):
        return type(x)(map(_plain, x))
    return {k: _plain(v) for k, v in x.items()} if type(x) is dict else x


def _function(
    function: Callable[..., Any], name: str, has_parameters: bool, back: Mapping[str, Callable[..., Any]]
) -> Callable[..., tuple[np.ndarray, ...]]:
    """(t, y[, θ][, u]) on arrays of the core -> values, derivatives in y and in θ.

    All points of all members lie along one axis.

    Args:
        back: names of networks to functions that make pytrees of their weights (n,).
    """

    @jax.jit
    def derivatives(t: Any, y: Any, θ: Any, u: Any, weights: Any) -> Any:
        def values(t: Any, y: Any, θ: Any, u: Any, weights: Any) -> Any:
            own = θ | {k: back[k](w) for k, w in weights.items()} if weights else θ
            out = function(t, y, *(() if own is None else (own,)), *(() if u is None else (u,)))
            if not isinstance(out, jax.Array):
                raise ArgumentError(f"{name} must return an array of JAX, got {type(out).__name__}.")
            return out

        def along(v: Any, x: Any, of: Callable[..., Any]) -> Any:
            return jax.jvp(of, (x,), (jnp.broadcast_to(v, x.shape),))[1]

        n, shape = y.shape[-2] * y.shape[-1], y.shape[-2:]
        out = values(t, y, θ, u, weights)
        basis = jnp.eye(n, dtype=y.dtype).reshape(n, *shape)
        slope = jax.vmap(lambda v: along(v, y, lambda y: values(t, y, θ, u, weights)), out_axes=-1)(basis)
        in_y = slope.reshape(*slope.shape[:-1], *shape)
        if θ is None:
            return out, in_y, None
        leaves, tree = jax.tree_util.tree_flatten(θ)
        parts = []
        if leaves:
            stacked = jnp.stack(leaves, -1) if isinstance(θ, dict) else θ

            def of_stacked(x: Any) -> Any:
                own = tree.unflatten(jnp.unstack(x, axis=-1)) if isinstance(θ, dict) else x
                return values(t, y, own, u, weights)

            one = jnp.eye(stacked.shape[-1], dtype=y.dtype)
            parts.append(jax.vmap(lambda v: along(v, stacked, of_stacked), out_axes=-1)(one))
        if weights:

            def of_point(weights: Any, point: Any) -> Any:
                t, y, θ, u = jax.tree_util.tree_map(lambda x: x[None], point)
                return values(t, y, θ, u, weights)[0]

            every = jax.vmap(jax.jacrev(of_point), in_axes=(None, 0))(weights, (t, y, θ, u))
            parts += [every[k] for k in back]
        return out, in_y, jnp.concatenate(parts, -1)

    def called(t: Any, y: Any, *rest: Any) -> tuple[np.ndarray, ...]:
        θ, u = (rest[0] if has_parameters else None), (rest[-1] if len(rest) > has_parameters else None)
        if θ is None or not back:
            return of_members(t, y, θ, u, None)
        weights = {k: θ[k][:, 0] for k in back}
        single = {k: v for k, v in θ.items() if k not in back}
        _, first, group = np.unique(
            np.concatenate(list(weights.values()), -1), axis=0, return_index=True, return_inverse=True
        )
        results: list[Any] = [None] * len(t)
        for g, i in enumerate(first):  # members with the same weights
            m = np.flatnonzero(group.ravel() == g)
            own = {k: jnp.asarray(w[i]) for k, w in weights.items()}
            parts = of_members(t[m], y[m], {k: v[m] for k, v in single.items()}, None if u is None else u[m], own)
            for j, member in enumerate(m):
                results[member] = [x[j] for x in parts]
        return tuple(np.stack(x) for x in zip(*results, strict=True))

    def of_members(t: Any, y: Any, θ: Any, u: Any, weights: Any) -> tuple[np.ndarray, ...]:
        M, n = t.shape
        points = FEWEST
        while points < M * n:
            points *= 2

        def flat(x: Any) -> Any:
            x = np.broadcast_to(x, (M, n, *x.shape[2:])).reshape(M * n, *x.shape[2:])
            return jnp.asarray(np.concatenate([x, np.repeat(x[:1], points - M * n, axis=0)]))

        given = {k: flat(v) for k, v in θ.items()} if isinstance(θ, Mapping) else None if θ is None else flat(θ)
        results = derivatives(flat(t), flat(y), given, None if u is None else flat(u), weights)
        _refuse_tracers(results)
        arrays = [np.asarray(x, np.float64)[: M * n] for x in results if x is not None]
        values, in_y, *in_θ = (x.reshape(M, n, *x.shape[1:]) for x in arrays)
        if isinstance(θ, Mapping):  # jax sorts the keys of a dict
            order = [sorted(θ).index(name) for name in θ]
            in_θ = [np.concatenate([x[..., order], x[..., len(order) :]], -1) for x in in_θ]
        return (values, in_y, *in_θ)

    return called


def _initial(
    function: Callable[..., Any], back: Mapping[str, Callable[..., Any]]
) -> Callable[..., tuple[np.ndarray, ...]]:
    """(θ[, u]) -> values (M, V) and their derivatives in θ."""

    def called(θ: Any, *rest: Any) -> tuple[np.ndarray, ...]:
        names = [k for k in θ if k not in back] if isinstance(θ, Mapping) else None
        flat = np.stack([θ[k][:, 0] for k in names], -1) if names else θ[:, 0]
        others = [jnp.asarray(x[:, 0]) for x in rest]

        def values(x: Any) -> Any:
            return function(dict(zip(names, jnp.unstack(x, axis=-1), strict=True)) if names else x, *others)

        x = jnp.asarray(flat)
        one = jnp.eye(x.shape[-1], dtype=x.dtype)
        slope = jax.vmap(lambda v: jax.jvp(values, (x,), (jnp.broadcast_to(v, x.shape),))[1], out_axes=-1)(one)
        of_networks = np.zeros((*slope.shape[:-1], sum(θ[k].shape[-1] for k in back)))
        _refuse_tracers((values(x), slope))
        return np.asarray(values(x), np.float64), np.concatenate([np.asarray(slope, np.float64), of_networks], -1)

    return called
