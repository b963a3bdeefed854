"""A residual on JAX arrays, as the equations of a nonlinear problem: its values and its derivatives.

J = ∂f/∂y takes Q products in reverse mode: each point stands by itself, so that one product serves all times. For
P = ∂f/∂θ it takes p in forward mode. Iterations see the residual with all that it closes over cut off from derivatives
(`Residual.frozen`): loops that stop by values have no reverse mode; one step behind them has (`nonlinear._implicit`).

Letters: T time points, V variables, K = R+1 orders, Q equations, p parameters.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from smnn_core import DTypeError, NamespaceError
from smnn_core.extend import Linearization
from smnn_core.extend import Residual as CoreResidual

Array = Any

__all__ = ["Residual", "check_array"]


def check_array(name: str, x: Any, *, number: bool = False) -> None:
    """Raises NamespaceError or DTypeError, naming the argument, for what is no array of floats; None is left out."""
    if x is None or (number and isinstance(x, (int, float))):
        return
    if not isinstance(x, (jax.Array, np.ndarray)) or isinstance(x, np.ma.MaskedArray):
        raise NamespaceError(f"{name} must be a jax.Array, got {type(x).__name__}: use jax.numpy.asarray.")
    if x.dtype not in (jnp.float32, jnp.float64):
        raise DTypeError(f"{name} has dtype {x.dtype}; expected float32 or float64: use {name}.astype(float).")


class Residual(CoreResidual):
    """A residual on JAX arrays."""

    array, name_of_array = jax.Array, "jax.Array"

    def frozen(self, *arguments: Array) -> Residual:
        """The same for arguments of these shapes, without derivatives in what it closes over."""
        arguments = tuple(jax.lax.stop_gradient(x) for x in arguments)
        function, held = jax.closure_convert(self.__call__, *arguments)
        held = jax.lax.stop_gradient(held)
        return Residual(lambda *x: function(*x, *held))

    def linearize(self, t: Array, y: Array, parameters: Array | None = None) -> Linearization:
        """f, J and P at y, which must have all batch axes of f."""
        others = () if parameters is None else (parameters,)
        f, pull = jax.vjp(lambda y: self(t, y, *others), y)
        unit = jnp.eye(f.shape[-1], dtype=f.dtype)
        (J,) = jax.vmap(pull, out_axes=-3)(
            jnp.broadcast_to(unit[(slice(None), *(None,) * (f.ndim - 1))], (f.shape[-1], *f.shape))
        )
        P = None if parameters is None else _columns(lambda θ: self(t, y, θ), parameters)
        return Linearization(f, J, P)


def _columns(function: Callable[[Array], Array], x: Array) -> Array:
    """The derivatives (..., T, Q, p) in the entries of the last axis of x, the same at all others."""
    basis = jnp.eye(x.shape[-1], dtype=x.dtype)
    return jax.vmap(lambda v: jax.jvp(function, (x,), (jnp.broadcast_to(v, x.shape),))[1], out_axes=-1)(basis)
