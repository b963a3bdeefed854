r"""The augmented solve and the solution as primitives, with the derivative of `smnn_core._augmented`.

    augmented    (v, y) with v + W A y = f and (W A)^T v = g, linear in f and g, and its own transpose
    solution     y of these for f = W d and g = 0, d = (rhs, initial_values, 0)
    push         the tangent of a solution, linear in the tangents of inputs
    pull         its transpose, from dL/dy to the gradients of inputs: one operator of the engines, fused

Each of the last two is the transpose of the other, carried out by what is fastest, and differentiated by way of the
first, whose derivative is itself again. So derivatives of any order, in any mode, follow.

Where time is split over devices (see `_time`), systems and rows are those of a device's chunk and its halo, states
those of the chunk.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.interpreters import ad

from smnn_core import Gradients, Weights
from smnn_core.extend import (
    LHS_RANKS,
    NO_ROWS,
    RANKS,
    Problem,
    Rows,
    System,
    add,
    apply_transpose,
    by_field,
    from_fields,
    lhs_of,
    pushforward,
    rows_left,
    solution_pullback,
    solution_pushforward,
    sum_to_shape,
    weighted,
)

from ._call import call as call_operator
from ._operators import CORE_AXES, N_LHS, N, Options, batch_shape
from ._primitive import Traced
from ._time import ChunkFactor, drop_halo, with_halo

Array = Any

__all__ = ["Inputs", "augmented", "solution", "system_of"]


class Inputs(NamedTuple):
    """The arrays of a problem, normalised (see `_operators`)."""

    coefficients: Array
    rhs: Array
    initial_values: Array
    step_sizes: Array
    weight_equation: Array
    weight_initial: Array
    weight_smoothness: Array


def solution(static: Options, inputs: Inputs) -> Array:
    """y, (..., T, V, K); where time is split over devices, the chunk of this one, from the system of its chunk."""
    return _solution(*inputs, static=static)[0]


def augmented(
    static: Options, lhs: Sequence[Array], f: Rows | None, g: Array | None, *, rows: bool = True
) -> tuple[Any, Array]:
    """v, None unless rows are wanted, and y; not both f and g are None, zero. f.smoothness may be None."""
    # every operand has all of its core axes, and as many batch axes as the others
    n = lhs[0].ndim - LHS_RANKS[0]

    def normalised(x: Array, core: tuple[int, ...]) -> Array:
        batch = x.shape[: max(x.ndim - len(core), 0)]
        return jnp.broadcast_to(x, (*(1,) * (n - len(batch)), *batch, *core))

    given = []
    if f is not None:
        parts = (*f[:2], jnp.zeros((), lhs[0].dtype) if f.smoothness is None else f.smoothness)
        given = [normalised(x, core) for x, core in zip(parts, static.row_cores(lhs[0].shape), strict=True)]
    given += [] if g is None else [g]
    results = _augmented(*lhs, *given, static=static, has_f=f is not None, rows=rows)
    return Rows(*results[:3]) if rows else None, results[-1]


def system_of(static: Options, inputs: Sequence[Array]) -> System:
    """W A."""
    return static.system(*lhs_of(inputs))


def _problem(static: Options, inputs: Inputs) -> Problem:
    return Problem(system_of(static, inputs), inputs.rhs, inputs.initial_values, ())


def _solve(*operands: Array, static: Options) -> list[Array]:
    if static.time_axis is None:
        return call_operator("solution", static, *operands)
    inputs = Inputs(*operands)
    system = system_of(static, inputs)
    m = system.smoothness_matrices[0].shape[0]
    none = jnp.zeros((*system.step_sizes.shape[:-1], system.n_steps - 1, system.V, m), system.dtype)
    return [ChunkFactor.of(system, static.time_axis).solve(Rows(inputs.rhs, inputs.initial_values, none))]


def _solve_augmented(*operands: Array, static: Options, has_f: bool, rows: bool) -> list[Array]:
    """[v, y], or [y]: y of an engine, v as what it leaves of f, both corrected once by what v leaves of g."""
    lhs, (f, g) = operands[:N_LHS], _split(operands[N_LHS:], has_f)
    system, axis = static.system(*lhs), static.time_axis
    factor = None if axis is None else ChunkFactor.of(system, axis)

    def solved(f: Rows | None, g: Array | None) -> Array:
        if factor is not None:
            return factor.states(f, g)
        name = "states" if f is not None and g is not None else "states_g" if f is None else "states_f"
        return call_operator(name, static, *lhs, *(f or ()), *(() if g is None else (g,)))[0]

    y = solved(f, g)
    if not rows:
        return [y]
    v = rows_left(system, f or NO_ROWS, with_halo(axis, y))
    left = drop_halo(axis, apply_transpose(system, weighted(system.weights, v)))
    dy = solved(None, -left if g is None else g - left)
    return [*rows_left(system, v, with_halo(axis, dy)), y + dy]


def _push(*operands: Array, static: Options, moving: tuple[str, ...]) -> list[Array]:
    """[dy]; operands the inputs, y, and the tangents of those moving, which may have batch axes that these share."""
    inputs, y, tangents = Inputs(*operands[:N]), operands[N], operands[N + 1 :]
    cores = (*RANKS, 3, *(RANKS[Inputs._fields.index(k)] for k in moving))
    y = jnp.broadcast_to(y, (*batch_shape([x.shape for x in operands], cores), *y.shape[-3:]))
    given = dict(zip(moving, tangents, strict=True))
    tangent = from_fields(given.get(k) for k in Inputs._fields)
    f, g = solution_pushforward(_problem(static, inputs), with_halo(static.time_axis, y), tangent)
    g = None if g is None else drop_halo(static.time_axis, g)
    return [jnp.broadcast_to(augmented(static, lhs_of(inputs), f, g, rows=False)[1], y.shape)]


def _pull(*operands: Array, static: Options, moving: tuple[str, ...]) -> list[Array]:
    """The gradients of those moving, each with all batch axes in full; operands the inputs, y, and g = dL/dy."""
    wanted = tuple(Inputs._fields.index(k) for k in moving)
    return call_operator("adjoint", replace(static, wanted=wanted), *operands)


def _pull_by_parts(*operands: Array, static: Options, moving: tuple[str, ...]) -> list[Array]:
    """`_pull`, as something to differentiate."""
    inputs = Inputs(*operands[:N])
    batch = batch_shape([x.shape for x in operands], CORE_AXES["adjoint"])
    full = Inputs(*(jnp.broadcast_to(x, (*batch, *x.shape[len(batch) :])) for x in inputs))
    problem = _problem(static, full)
    y, g = (jnp.broadcast_to(x, (*batch, *x.shape[-3:])) for x in operands[N:])
    v = rows_left(problem.system, weighted(problem.system.weights, problem.rows), y)
    μ, λ = augmented(static, lhs_of(inputs), None, g)
    gradients = dict(zip(Inputs._fields, by_field(solution_pullback(problem, y, v, μ, λ)), strict=True))
    return [gradients[k] for k in moving]


class _Solution(Traced):
    def _jvp(
        self, primals: Sequence[Array], tangents: Sequence[Array], call: Any, **options: Any
    ) -> tuple[list[Array], list[Array]]:
        del call
        static = options["static"]
        (y,) = self(*primals, static=static)
        moving = {k: dx for k, dx in zip(Inputs._fields, tangents, strict=True) if type(dx) is not ad.Zero}
        apply = push if static.time_axis is None else _push
        return [y], apply(*primals, y, *moving.values(), static=static, moving=tuple(moving))


class _Augmented(Traced):
    """Operands those of the left-hand side, the parts of f, unless it is zero, and g, unless it is zero."""

    def _jvp(
        self, primals: Sequence[Array], tangents: Sequence[Array], call: Any, **options: Any
    ) -> tuple[list[Array], list[Array]]:
        del call
        static, has_f, rows = options["static"], options["has_f"], options["rows"]
        lhs, axis = primals[:N_LHS], static.time_axis
        system, results = static.system(*lhs), self(*primals, **options)
        y = with_halo(axis, results[-1])
        v = Rows(*results[:3]) if rows else rows_left(system, _split(primals[N_LHS:], has_f)[0] or NO_ROWS, y)
        dc, ds, *dw, f, g = (*_nonzero(tangents[:N_LHS]), *_split(_nonzero(tangents[N_LHS:]), has_f))
        δ, γ = pushforward(system, Gradients(dc, None, None, ds, Weights(*dw)), v, y)
        parts = [add(*pair) for pair in zip(δ or NO_ROWS, f or NO_ROWS, strict=True)]
        g = add(None if γ is None else drop_halo(axis, γ), g)
        f = Rows(*(jnp.zeros_like(x) if a is None else a for a, x in zip(parts, v, strict=True)))
        f = None if all(x is None for x in parts) else f
        dv, dy = augmented(static, lhs, f, g, rows=rows)
        return results, [jnp.broadcast_to(a, x.shape) for a, x in zip((*(dv or ()), dy), results, strict=True)]


def _split(given: Sequence[Any], has_f: bool) -> tuple[Any, Any]:
    """f and g, None where they are not given."""
    return Rows(*given[:3]) if has_f else None, given[-1] if len(given) != 3 else None


def _nonzero(tangents: Sequence[Any]) -> list[Any]:
    """None for what is zero."""
    return [None if type(x) is ad.Zero else x for x in tangents]


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


_solution = _Solution("smnn_solution", _solve, ("static",))
_augmented = _Augmented("smnn_augmented", _solve_augmented, ("static", "has_f", "rows"))
push = _Map("smnn_push", _push, _push)
"""dy from the inputs, y, and tangents."""
pull = _Map("smnn_pull", _pull, _pull_by_parts)
"""Gradients from the inputs, y, and dL/dy."""


def _transpose_augmented(
    cotangents: Sequence[Any], *operands: Any, static: Options, has_f: bool, rows: bool, call: Any
) -> list[Array | None]:
    del call
    lhs, given = operands[:N_LHS], operands[N_LHS:]
    of_rows, of_y = cotangents[:-1], cotangents[-1]
    f = None if all(type(x) is ad.Zero for x in of_rows) else Rows(*map(ad.instantiate_zeros, of_rows))
    μ, λ = augmented(static, lhs, f, None if type(of_y) is ad.Zero else of_y, rows=has_f)
    results = (*(μ if has_f else ()), *((λ,) if len(given) != 3 else ()))
    return [None] * N_LHS + [
        sum_to_shape(jnp, a, x.aval.shape) if ad.is_undefined_primal(x) else None
        for a, x in zip(results, given, strict=True)
    ]


def _transpose_push(
    cotangents: Any, *operands: Any, static: Options, moving: tuple[str, ...], call: Any
) -> list[Array | None]:
    del call
    gradients = pull(*operands[: N + 1], *cotangents, static=static, moving=moving)
    return [None] * (N + 1) + [
        sum_to_shape(jnp, gradient, dx.aval.shape) if ad.is_undefined_primal(dx) else None
        for gradient, dx in zip(gradients, operands[N + 1 :], strict=True)
    ]


def _transpose_pull(
    cotangents: Any, *operands: Any, static: Options, moving: tuple[str, ...], call: Any
) -> list[Array | None]:
    del call
    moved = {k: dx for k, dx in zip(moving, cotangents, strict=True) if type(dx) is not ad.Zero}
    (dy,) = push(*operands[: N + 1], *moved.values(), static=static, moving=tuple(moved))
    return [None] * (N + 1) + [sum_to_shape(jnp, dy, operands[-1].aval.shape)]


def _transpose_solution(cotangents: Sequence[Array], *operands: Any, static: Options, call: Any) -> list[Array | None]:
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


ad.primitive_transposes[_solution.primitive] = _transpose_solution
ad.primitive_transposes[_augmented.primitive] = _transpose_augmented
ad.primitive_transposes[push.primitive] = _transpose_push
ad.primitive_transposes[pull.primitive] = _transpose_pull
