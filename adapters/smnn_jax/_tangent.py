r"""The tangent map of the solution, from tangents of the inputs to dy, and its transpose.

With the weighted residual ρ = W (d - A y) the solution is that of a symmetric linear system,

    [ I      W A ] [ρ]   [W d]
    [ A^T W   0  ] [y] = [ 0 ]                                                        (*)

so that with dp for the tangents of all inputs

    [ I      W A ] [dρ]     d  ( [ρ + W A y - W d] )
    [ A^T W   0  ] [dy] = - -- ( [    A^T W ρ    ] ) dp       at fixed ρ and y.
                            dp

`jax.lax.custom_linear_solve` knows how to differentiate and transpose a symmetric linear system, to any order and in
any mode; it asks for the solution with a general right-hand side (f, h) only:

    x = argmin_x |W A x - f|^2 - M^-1 h,    ρ = f - W A x,    M = A^T W^2 A.

Forward tangents are least-squares problems solved by orthogonal elimination like y itself, never by the normal
equations. Source: Björck, Numerical Methods for Least Squares Problems, SIAM 1996, section 1.4.4 (augmented system).

The transpose, dL/dy to the gradients of all inputs, is one operator of the engines, fused. So the map and its transpose
are primitives: each other's transposes, carried out by what is fastest, differentiated again by way of (*).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.interpreters import ad

from smnn_core.extend import (
    Problem,
    Rows,
    System,
    apply,
    apply_transpose,
    residual,
    sum_to_shape,
    weighted,
    without_weights,
)

from ._call import call
from ._operators import CORE_AXES, PROBLEM_AXES, SYSTEM_AXES, Static, batch_shape
from ._primitive import Traced
from ._time import ChunkFactor, drop_halo, with_halo

Array = Any

__all__ = ["Inputs", "augmented_solve", "system_of", "tangent_map"]


class Inputs(NamedTuple):
    """The arrays of a problem, normalised (see `_operators`)."""

    coefficients: Array
    step_sizes: Array
    weight_equation: Array
    weight_initial: Array
    weight_smoothness: Array
    rhs: Array
    initial_values: Array


N = len(Inputs._fields)


def tangent_map(static: Static, inputs: Inputs, y: Array, tangents: dict[str, Array]) -> Array:
    """dy, linear in the tangents of some of the inputs."""
    apply = push if static.time_axis is None else _push
    return apply(*inputs, y, *tangents.values(), static=static, moving=tuple(tangents))[0]


def _push(*operands: Array, static: Static, moving: tuple[str, ...]) -> list[Array]:
    """[dy]; operands the inputs, y, and the tangents of those moving, which may have batch axes that these share."""
    inputs, y, tangents = Inputs(*operands[:N]), operands[N], operands[N + 1 :]
    y = jnp.broadcast_to(y, (*_batch(operands, moving), *y.shape[-3:]))
    y_halo = with_halo(static.time_axis, y)
    ρ = weighted(system_of(static, inputs).weights, residual(_problem(static, inputs), y_halo))

    def optimality(moved: tuple[Array, ...]) -> tuple[Rows, Array]:
        """The rows of (*), zero at the solution."""
        problem = _problem(static, inputs._replace(**dict(zip(moving, moved, strict=True))))
        r = weighted(problem.system.weights, residual(problem, y_halo))
        return Rows(*(a - b for a, b in zip(ρ, r, strict=True))), _apply_transpose(static, problem.system, ρ)

    point = tuple(getattr(inputs, k) for k in moving)
    # (either may have a batch axis along which the other does not vary)
    shapes = [jnp.broadcast_shapes(x.shape, dx.shape) for x, dx in zip(point, tangents, strict=True)]
    point, tangents = (tuple(map(jnp.broadcast_to, xs, shapes)) for xs in (point, tangents))
    _, change = jax.jvp(optimality, (point,), (tangents,))
    return [augmented_solve(static, inputs, jax.tree.map(jnp.negative, change))]


def _batch(operands: Sequence[Array], moving: tuple[str, ...]) -> tuple[int, ...]:
    tangents = (PROBLEM_AXES[Inputs._fields.index(k)] for k in moving)
    return batch_shape([x.shape for x in operands], (*PROBLEM_AXES, 3, *tangents))


def _pull(*operands: Array, static: Static, moving: tuple[str, ...]) -> list[Array]:
    """The gradients of those moving, each with all batch axes in full; operands the inputs, y, and g = dL/dy."""
    wanted = tuple(Inputs._fields.index(k) for k in moving)
    return call("adjoint", replace(static, wanted=wanted), *operands)


def _pull_by_transposition(*operands: Array, static: Static, moving: tuple[str, ...]) -> list[Array]:
    """`_pull`, as something to differentiate."""
    inputs, y, g = Inputs(*operands[:N]), operands[N], operands[N + 1]
    batch = batch_shape([x.shape for x in operands], CORE_AXES["adjoint"])
    full = {k: jnp.broadcast_to(x, (*batch, *x.shape[len(batch) :])) for k, x in inputs._asdict().items()}
    transposed = jax.linear_transpose(
        lambda *dx: _push(*inputs, y, *dx, static=static, moving=moving), *(full[k] for k in moving)
    )
    return list(transposed([jnp.broadcast_to(g, (*batch, *g.shape[len(batch) :]))]))


@dataclass(frozen=True, eq=False)
class _MappedSystem(System):
    """A system whose constants, such as the matrices of the scheme, are computed from numbers.

    custom_linear_solve makes arrays that its functions close over vary over the axes of a shard_map, after it has
    traced them: JAX then finds arrays varying that did not when it traced. Numbers are part of the functions.
    """

    def constant(self, values: Any) -> Array:
        values = np.asarray(values)
        if not values.ndim:
            return jnp.full((), float(values), self.dtype)
        return jnp.reshape(jnp.stack([jnp.full((), float(x), self.dtype) for x in values.flat]), values.shape)

    @staticmethod
    def of(system: System) -> _MappedSystem:
        return _MappedSystem(**vars(system))


def augmented_solve(static: Static, inputs: Inputs, f_h: tuple[Rows, Array]) -> Array:
    """The part x of the solution of (*) for a right-hand side (f, h), linear in it."""
    system = _MappedSystem.of(system_of(static, inputs))
    f, h = f_h
    shapes = [tuple(part.shape[h.ndim - 3 :]) for part in (*f, h)]

    # one vector per batch member: custom_linear_solve transposes only where all of its right-hand side moves
    def pack(f: Sequence[Array], h: Array) -> Array:
        parts = zip((*f, h), shapes, strict=True)
        return jnp.concatenate([jnp.reshape(x, (*h.shape[:-3], math.prod(shape))) for x, shape in parts], axis=-1)

    def unpack(z: Array) -> tuple[Rows, Array]:
        ends = accumulate(math.prod(shape) for shape in shapes)
        parts = jnp.split(z, list(ends)[:-1], axis=-1)
        *f, h = (jnp.reshape(part, (*z.shape[:-1], *shape)) for part, shape in zip(parts, shapes, strict=True))
        return Rows(*f), h

    def matvec(z: Array) -> Array:
        ρ, x = unpack(z)
        WAx = _apply(static, system, x)
        return pack([a + b for a, b in zip(ρ, WAx, strict=True)], _apply_transpose(static, system, ρ))

    def solve_once(f: Rows, h: Array) -> Array:
        d = without_weights(system, f)
        if static.time_axis is None:
            return call("augmented", static, *inputs[: len(SYSTEM_AXES)], *d, h)[0]
        factor = ChunkFactor.of(system, static.time_axis)
        return factor.solve(d) - factor.normal_solve(h)

    def solve(_: Any, b: Array) -> Array:
        f, h = unpack(b)
        x = solve_once(f, h)
        ρ = Rows(*(a - b for a, b in zip(f, _apply(static, system, x), strict=True)))
        # ρ has lost digits where terms of W A x cancel; what is left of the second row of (*) gives them back
        δ = solve_once(Rows(*map(jnp.zeros_like, f)), h - _apply_transpose(static, system, ρ))
        return pack([a - b for a, b in zip(ρ, _apply(static, system, δ), strict=True)], x + δ)

    return unpack(jax.lax.custom_linear_solve(matvec, pack(f, h), solve, symmetric=True))[1]


def _apply(static: Static, system: System, x: Array) -> Rows:
    """W A x."""
    return weighted(system.weights, apply(system, with_halo(static.time_axis, x)))


def _apply_transpose(static: Static, system: System, ρ: Rows) -> Array:
    """A^T W ρ."""
    return drop_halo(static.time_axis, apply_transpose(system, weighted(system.weights, ρ)))


def system_of(static: Static, inputs: Inputs) -> System:
    """W A."""
    return static.system(*inputs[: len(SYSTEM_AXES)])


def _problem(static: Static, inputs: Inputs) -> Problem:
    return Problem(system_of(static, inputs), inputs.rhs, inputs.initial_values, ())


class _Map(Traced):
    """A function of the inputs, y, and more operands in which it is linear, with a transpose of its own."""

    def __init__(self, name: str, function: Callable[..., list[Array]], differentiable: Callable[..., list[Array]]):
        super().__init__(name, function, ("static", "moving"))
        self.differentiable = differentiable

    def _jvp(
        self, primals: Sequence[Array], tangents: Sequence[Array], call: Any, **options: Any
    ) -> tuple[list[Array], list[Array]]:
        del call
        point, linear = primals[: N + 1], tangents[N + 1 :]
        parts = []
        if not all(type(dx) is ad.Zero for dx in linear):
            parts.append(self(*point, *map(ad.instantiate_zeros, linear), **options))
        moving = [i for i in range(N + 1) if type(tangents[i]) is not ad.Zero]
        if moving:

            def at(moved: list[Array]) -> list[Array]:
                operands = list(primals)
                for i, x in zip(moving, moved, strict=True):
                    operands[i] = x
                return self.differentiable(*operands, **options)

            parts.append(jax.jvp(at, ([primals[i] for i in moving],), ([tangents[i] for i in moving],))[1])
        return self(*primals, **options), [sum(x[1:], x[0]) for x in zip(*parts, strict=True)]


push = _Map("smnn_push", _push, _push)
"""dy from the inputs, y, and tangents."""
pull = _Map("smnn_pull", _pull, _pull_by_transposition)
"""Gradients from the inputs, y, and dL/dy."""


def _transpose_push(
    cotangents: Any, *operands: Any, static: Static, moving: tuple[str, ...], call: Any
) -> list[Array | None]:
    del call
    gradients = pull(*operands[: N + 1], *cotangents, static=static, moving=moving)
    return [None] * (N + 1) + [
        sum_to_shape(jnp, gradient, dx.aval.shape) if ad.is_undefined_primal(dx) else None
        for gradient, dx in zip(gradients, operands[N + 1 :], strict=True)
    ]


def _transpose_pull(
    cotangents: Any, *operands: Any, static: Static, moving: tuple[str, ...], call: Any
) -> list[Array | None]:
    del call
    moved = {k: dx for k, dx in zip(moving, cotangents, strict=True) if type(dx) is not ad.Zero}
    (dy,) = push(*operands[: N + 1], *moved.values(), static=static, moving=tuple(moved))
    return [None] * (N + 1) + [sum_to_shape(jnp, dy, operands[-1].aval.shape)]


ad.primitive_transposes[push.primitive] = _transpose_push
ad.primitive_transposes[pull.primitive] = _transpose_pull
