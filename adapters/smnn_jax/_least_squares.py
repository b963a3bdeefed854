r"""The solution as a differentiable function of its inputs.

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
equations; in reverse mode f = 0, and what is left is M^-1 dL/dy. Source: Björck, Numerical Methods for Least Squares
Problems, SIAM 1996, section 1.4.4 (augmented system).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero

from smnn_core import _constraints as rows
from smnn_core._gradient import equation_correction, residual
from smnn_core._problem import Problem, Rows, System

from ._call import call
from ._mesh import vary_like
from ._operators import SYSTEM_AXES, Static
from ._time import ChunkFactor, drop_halo, with_halo

Array = Any

__all__ = ["Inputs", "least_squares"]


class Inputs(NamedTuple):
    """The arrays of a problem, normalised (see `_operators`)."""

    coefficients: Array
    step_sizes: Array
    weight_equation: Array
    weight_initial: Array
    weight_smoothness: Array
    rhs: Array
    initial_values: Array


@dataclass(frozen=True, eq=False)
class _MappedSystem(System):
    """A system whose constants, the matrices of the scheme, vary over the axes of a shard_map like its arrays.

    custom_linear_solve makes all that its functions close over vary, after it has traced them: constants must already.
    """

    matrices: tuple[Array, Array]

    @property
    def smoothness_matrices(self) -> tuple[Array, Array]:
        return self.matrices

    @staticmethod
    def of(system: System) -> _MappedSystem:
        F, G = (vary_like(M, system.coefficients) for M in system.smoothness_matrices)
        return _MappedSystem(**vars(system), matrices=(F, G))


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def least_squares(static: Static, inputs: Inputs) -> Array:
    """y, (..., T, V, K); where time is split over devices, the chunk of this one, from the system of its chunk."""
    if static.time_axis is None:
        return call("least_squares", static, *inputs)
    system = _system(static, inputs)
    m = system.smoothness_matrices[0].shape[0]
    none = jnp.zeros((*system.step_sizes.shape[:-1], system.n_steps - 1, system.V, m), system.dtype)
    return ChunkFactor.of(system, static.time_axis).solve(Rows(inputs.rhs, inputs.initial_values, none))


@partial(least_squares.defjvp, symbolic_zeros=True)
def _jvp(static: Static, primals: tuple[Inputs], tangents: tuple[Inputs]) -> tuple[Array, Array]:
    (inputs,), (tangent,) = primals, tangents
    y = least_squares(static, inputs)
    y_halo = with_halo(static.time_axis, y)
    ρ = rows.weighted(_system(static, inputs).weights, residual(_problem(static, inputs), y_halo))
    moving = {k: dx for k, dx in tangent._asdict().items() if not isinstance(dx, SymbolicZero)}

    def optimality(moved: dict[str, Array]) -> tuple[Rows, Array]:
        """The rows of (*), zero at the solution."""
        problem = _problem(static, inputs._replace(**moved))
        r = rows.weighted(problem.system.weights, residual(problem, y_halo))
        return Rows(*(a - b for a, b in zip(ρ, r, strict=True))), _apply_transpose(static, problem.system, ρ)

    _, change = jax.jvp(optimality, ({k: getattr(inputs, k) for k in moving},), (moving,))
    return y, _augmented_solve(static, inputs, jax.tree.map(jnp.negative, change))


def _augmented_solve(static: Static, inputs: Inputs, f_h: tuple[Rows, Array]) -> Array:
    """The part x of the solution of (*) for a right-hand side (f, h), linear in it."""
    system = _MappedSystem.of(_system(static, inputs))
    f, h = f_h
    shapes = [tuple(part.shape[h.ndim - 3 :]) for part in (*f, h)]

    # one vector per batch member: custom_linear_solve transposes only where all of its right-hand side moves
    def pack(f: Sequence[Array], h: Array) -> Array:
        return jnp.concatenate([jnp.reshape(part, (*h.shape[:-3], -1)) for part in (*f, h)], axis=-1)

    def unpack(z: Array) -> tuple[Rows, Array]:
        ends = accumulate(math.prod(shape) for shape in shapes)
        parts = jnp.split(z, list(ends)[:-1], axis=-1)
        *f, h = (jnp.reshape(part, (*z.shape[:-1], *shape)) for part, shape in zip(parts, shapes, strict=True))
        return Rows(*f), h

    def matvec(z: Array) -> Array:
        ρ, x = unpack(z)
        WAx = _apply(static, system, x)
        return pack([a + b for a, b in zip(ρ, WAx, strict=True)], _apply_transpose(static, system, ρ))

    def solve(_: Any, b: Array) -> Array:
        f, h = unpack(b)
        d = _unweighted(system, f)
        if static.time_axis is None:
            x = call("augmented", static, *inputs[: len(SYSTEM_AXES)], *d, h)
        else:
            factor = ChunkFactor.of(system, static.time_axis)
            x = factor.solve(d) - factor.normal_solve(h)
        WAx = _apply(static, system, x)
        ρ = Rows(*(a - b for a, b in zip(f, WAx, strict=True)))
        # the second row of (*) says what ρ must be, more exactly than x does
        rest = h - _apply_transpose(static, system, ρ)
        if static.time_axis is not None:  # the halo has no equations of its own
            rest = jnp.concatenate([rest, jnp.zeros_like(rest[..., :1, :, :])], axis=-3)
        return pack(ρ._replace(equation=ρ.equation + equation_correction(system, rest)), x)

    return unpack(jax.lax.custom_linear_solve(matvec, pack(f, h), solve, symmetric=True))[1]


def _apply(static: Static, system: System, x: Array) -> Rows:
    """W A x."""
    return rows.weighted(system.weights, rows.apply(system, with_halo(static.time_axis, x)))


def _apply_transpose(static: Static, system: System, ρ: Rows) -> Array:
    """A^T W ρ."""
    return drop_halo(static.time_axis, rows.apply_transpose(system, rows.weighted(system.weights, ρ)))


def _unweighted(system: System, f: Rows) -> Rows:
    """d with W d = f. Where a weight is zero the row of W A is, and f has no part in x."""

    def divide(w: Array, values: Array) -> Array:
        return jnp.where(w == 0, 0, values / jnp.where(w == 0, 1, w))

    w = system.weights
    return Rows(
        divide(w.equation, f.equation),
        divide(w.initial, f.initial),
        divide(w.smoothness[..., None, None], f.smoothness),
    )


def _system(static: Static, inputs: Inputs) -> System:
    return static.system(*inputs[: len(SYSTEM_AXES)])


def _problem(static: Static, inputs: Inputs) -> Problem:
    return Problem(_system(static, inputs), inputs.rhs, inputs.initial_values, ())
