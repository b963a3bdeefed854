"""The solution as a differentiable function of its inputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jax.interpreters import ad

from smnn_core.extend import Rows, sum_to_shape

from ._call import call as call_operator
from ._operators import Static
from ._primitive import Traced
from ._tangent import Inputs, pull, system_of, tangent_map
from ._time import ChunkFactor

Array = Any

__all__ = ["Inputs", "least_squares"]


def least_squares(static: Static, inputs: Inputs) -> Array:
    """y, (..., T, V, K); where time is split over devices, the chunk of this one, from the system of its chunk."""
    return _solution(*inputs, static=static)[0]


def _solve(*operands: Array, static: Static) -> list[Array]:
    if static.time_axis is None:
        return call_operator("least_squares", static, *operands)
    inputs = Inputs(*operands)
    system = system_of(static, inputs)
    m = system.smoothness_matrices[0].shape[0]
    none = jnp.zeros((*system.step_sizes.shape[:-1], system.n_steps - 1, system.V, m), system.dtype)
    return [ChunkFactor.of(system, static.time_axis).solve(Rows(inputs.rhs, inputs.initial_values, none))]


class _Solution(Traced):
    def _jvp(
        self, primals: Sequence[Array], tangents: Sequence[Array], call: Any, **options: Any
    ) -> tuple[list[Array], list[Array]]:
        del call
        (y,) = self(*primals, **options)
        moving = {k: dx for k, dx in zip(Inputs._fields, tangents, strict=True) if type(dx) is not ad.Zero}
        return [y], [tangent_map(options["static"], Inputs(*primals), y, moving)]


_solution = _Solution("smnn_least_squares", _solve, ("static",))


def _transpose(cotangents: Sequence[Array], *operands: Any, static: Static, call: Any) -> list[Array | None]:
    """For `jax.linear_transpose`: the solution is linear in the right-hand side where initial values are zero."""
    del call
    moving = tuple(k for k, x in zip(Inputs._fields, operands, strict=True) if ad.is_undefined_primal(x))
    if static.time_axis is not None or moving != ("rhs",):
        raise NotImplementedError(
            f"jax.linear_transpose works with respect to rhs alone, without time_axis; asked for {', '.join(moving)}. "
            "jax.vjp gives the derivatives with respect to all arguments."
        )
    point = [jnp.zeros(x.aval.shape, x.aval.dtype) if ad.is_undefined_primal(x) else x for x in operands]
    (g,) = cotangents
    gradients = iter(pull(*point, jnp.zeros_like(g), g, static=static, moving=moving))
    return [sum_to_shape(jnp, next(gradients), x.aval.shape) if ad.is_undefined_primal(x) else None for x in operands]


ad.primitive_transposes[_solution.primitive] = _transpose
