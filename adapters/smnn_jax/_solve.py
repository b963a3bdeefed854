"""The public function."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from smnn_core import HERMITE, ArgumentError, EngineError, Scheme, Weights
from smnn_core.extend import (
    ENGINES,
    RANKS,
    UNIT,
    Problem,
    System,
    across_steps,
    as_arrays,
    can_look,
    eliminate,
    error_estimate_with,
    is_tracer,
    select,
    without_missing,
)

from ._mesh import explicit_mesh, explicit_spec, vary_together
from ._operators import Options
from ._solution import Inputs, solution
from ._split import check_time_axis, split_solution

Array = Any

__all__ = ["error_estimate", "solve_ode"]


def solve_ode(
    coefficients: Array,
    rhs: Array,
    initial_values: Array,
    step_sizes: Array,
    *,
    n_steps: int | None = None,
    scheme: Scheme = HERMITE,
    weights: Weights = UNIT,
    engine: str = "auto",
    check: bool = False,
    time_axis: str | None = None,
) -> Array:
    """Solves a linear ODE system on T time points as a banded least-squares problem, in O(T): `smnn_core.solve_ode`.

    Works under every JAX transform, to any order: jit, vmap (one call for the whole batch), jvp, vjp, hessian,
    checkpoint, scan, and over devices: where the inputs are sharded over batch axes, under jit with meshes of any axis
    type and inside shard_map, each device solves its own part.

    Args:
        coefficients: (..., T or 1, Q, V, R+1).
        rhs: (..., T or 1, Q).
        initial_values: (..., T_init, V, R_init), at the first T_init time points (1 for an initial-value problem, may
            be 0); NaN means "not given". For values at any times see `conditions`.
        step_sizes: (..., T-1 or 1), in units of time, or a number; non-zero, may be irregular or negative.
        n_steps: T, needed where every time axis above is 1.
        scheme: the smoothness scheme, `HERMITE`, `WIENER`, `TAYLOR` (as published) or your own. Rows across a step s
            are weighted by (s_ref / |s|)^p, see `Scheme`.
        weights: numbers, or arrays that broadcast against the rows, of bool for masks; zero removes a row.
        engine: "auto", "array_api" (traced as JAX operations, on any platform), or one that runs on the memory of the
            platform as a custom call; see `smnn_core.show_config`.
        check: raise on singular systems also where looking means waiting for a device.

        time_axis: an axis of the current mesh (`jax.set_mesh`) over whose devices time is split, T a multiple of their
            number: each eliminates its own chunk of the trajectory, traced as JAX operations, and they exchange a few
            numbers per device. For trajectories longer than the memory of one device.

    Returns:
        y, (..., T, V, R+1), in the dtype of the inputs.

    Raises:
        ShapeError, DTypeError, NamespaceError, DeviceError, ArgumentError, SchemeError: before any work.
        EngineError: if there is no engine of that name, before any work; if it refuses the problem (see
            `smnn_core.show_config`), its reason comes in an error of JAX, as the platform is known only then.
        SingularSystemError: if a system has no unique solution, on a CPU or with `check`. Under a transform, and on a
            device, such a batch member comes back as NaN instead, and so does one with a step of zero.
    """
    static, inputs, system = stated(
        coefficients, rhs, initial_values, step_sizes, weights, n_steps, scheme, engine, time_axis
    )
    return solved(static, inputs, system, check)


def stated(
    coefficients: Array,
    rhs: Array,
    initial_values: Array,
    step_sizes: Array,
    weights: Weights,
    n_steps: int | None,
    scheme: Scheme,
    engine: str,
    time_axis: str | None = None,
) -> tuple[Options, Inputs, System]:
    """The arguments of a solution, checked, as those of its operator; and the system as it was stated."""
    step_sizes, weights = as_arrays(step_sizes, weights, coefficients)
    weights = _typed(weights, rhs)
    with jax.ensure_compile_time_eval():  # under jit, too, what is known is looked at
        problem = Problem.build(
            coefficients, rhs, initial_values, step_sizes, n_steps=n_steps, scheme=scheme, weights=weights
        )
        complete = can_look(initial_values) and not bool(jnp.any(jnp.isnan(initial_values)))
    system = problem.system
    if engine not in ("auto", *ENGINES):
        select(engine, system)
    if time_axis is not None:
        check_time_axis(time_axis, system.n_steps)
        if engine not in ("auto", "array_api"):
            raise EngineError(f"engine {engine!r} cannot split time over devices: use engine='auto' with time_axis.")
    static = Options(system.n_steps, system.n_initial_steps, system.n_initial_orders, scheme, engine, time_axis)
    u, w_initial = initial_values, weights.initial
    if not complete:
        u, w_initial = without_missing(jnp, u, w_initial)
    w_smoothness = across_steps(jnp, step_sizes, weights.smoothness, scheme.step_exponent(system.K))
    # numbers become NumPy arrays, which JAX puts wherever the others are
    arrays = weights.equation, w_initial, w_smoothness
    w = [np.asarray(w, rhs.dtype) if isinstance(w, (int, float)) else w for w in arrays]
    return static, Inputs(coefficients, rhs, u, step_sizes, *w), system


def solved(static: Options, inputs: Inputs, system: System, check: bool) -> Array:
    """The solution for arguments that were `stated`."""
    y = _solve(static, inputs)
    raise_if_singular(system, inputs[4:], y, check)
    return y


def error_estimate(coefficients: Array, rhs: Array, initial_values: Array, step_sizes: Array, **options: Any) -> Array:
    """`smnn_core.error_estimate` for JAX arrays, under every transform: arguments and errors as for `solve_ode`."""
    return error_estimate_with(solve_ode, coefficients, rhs, initial_values, step_sizes, **options)


@partial(jax.jit, static_argnums=0)
def _solve(static: Options, inputs: Inputs) -> Array:
    inputs = vary_together(normalise(inputs))
    axis = static.time_axis
    solve = partial(solution, static) if axis is None else partial(split_solution, axis, static)
    spec = explicit_spec(inputs, RANKS)
    if spec is None:
        return solve(inputs)
    # the rules of the solution speak of no shardings: they are left to XLA, and stated for the result
    mesh = explicit_mesh(inputs)
    with jax.sharding.use_abstract_mesh(mesh):
        return jax.sharding.auto_axes(solve, out_sharding=PartitionSpec(*spec, axis))(inputs)


def normalise(inputs: Inputs) -> Inputs:
    """Unit axes in front, so that all inputs have their core axes and the same number of batch axes."""
    n_batch = max(0, *(x.ndim - core for x, core in zip(inputs, RANKS, strict=True)))
    return Inputs(
        *(jnp.reshape(x, (1,) * (n_batch + core - x.ndim) + x.shape) for x, core in zip(inputs, RANKS, strict=True))
    )


def _typed(weights: Weights, like: Array) -> Weights:
    """Number weights that a JAX transform turned into arrays take the dtype of the other arguments, as numbers do."""
    if not isinstance(weights, Weights):
        return weights
    return Weights(
        **{
            k: jnp.asarray(w, like.dtype) if isinstance(w, jax.Array) and getattr(w, "weak_type", False) else w
            for k, w in vars(weights).items()
        }
    )


def raise_if_singular(system: System, weights: Sequence[Array], y: Array, check: bool) -> None:
    """As the core does: by NaN first, and only then by eliminating again to say where."""
    if is_tracer(y):
        if check:
            raise ArgumentError(
                "check=True needs values, and these are traced (jit, grad, vmap): leave check out and test the result "
                "for NaN, which is how singular systems come back."
            )
        return
    if not (check or can_look(y)) or not bool(jnp.any(jnp.isnan(y))):
        return
    c, s, *w = (np.asarray(x) for x in (system.coefficients, system.step_sizes, *weights))
    on_host = System.build(
        c,
        s,
        n_initial_steps=system.n_initial_steps,
        n_initial_orders=system.n_initial_orders,
        n_steps=system.n_steps,
        scheme=system.scheme,
        weights=Weights(*w),
    )
    eliminate(select("auto", on_host), on_host, check=True)
