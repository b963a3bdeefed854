"""Derivatives of first order alone: those that one more step of an iteration has, whose linearisation is held fixed."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from smnn_core import ArgumentError

__all__ = ["once"]


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def once(name: str, x: Array) -> Array:
    """x, whose derivatives raise where they are differentiated: they would be wrong.

    Args:
        name: the function that x comes from.
    """
    del name
    return x


@once.defjvp
def _once_jvp(name: str, primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    (x,), (tangent,) = primals, tangents
    return once(name, x), tangent * _one(name, x)


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _one(name: str, x: Array) -> Array:
    """1, without a derivative."""
    del name
    return jnp.ones_like(x)


@_one.defjvp
def _one_jvp(name: str, primals: Any, tangents: Any) -> Any:
    raise ArgumentError(
        f"{name} has first derivatives alone: the second ones would leave out how the linearisation changes. Take "
        "differences of gradients, for example."
    )
