"""The solution as a differentiable function of its inputs."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero

from smnn_core._problem import Rows

from ._call import call
from ._operators import Static
from ._tangent import Inputs, system_of, tangent_map
from ._time import ChunkFactor

Array = Any

__all__ = ["Inputs", "least_squares"]


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def least_squares(static: Static, inputs: Inputs) -> Array:
    """y, (..., T, V, K); where time is split over devices, the chunk of this one, from the system of its chunk."""
    if static.time_axis is None:
        return call("least_squares", static, *inputs)[0]
    system = system_of(static, inputs)
    m = system.smoothness_matrices[0].shape[0]
    none = jnp.zeros((*system.step_sizes.shape[:-1], system.n_steps - 1, system.V, m), system.dtype)
    return ChunkFactor.of(system, static.time_axis).solve(Rows(inputs.rhs, inputs.initial_values, none))


@partial(least_squares.defjvp, symbolic_zeros=True)
def _jvp(static: Static, primals: tuple[Inputs], tangents: tuple[Inputs]) -> tuple[Array, Array]:
    (inputs,), (tangent,) = primals, tangents
    y = least_squares(static, inputs)
    moving = {k: dx for k, dx in tangent._asdict().items() if not isinstance(dx, SymbolicZero)}
    return y, tangent_map(static, inputs, y, moving)
