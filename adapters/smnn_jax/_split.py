"""From a problem on T points to one on each device of a mesh axis: see `_time` for what they do with it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, PartitionSpec

from smnn_core import ArgumentError, ShapeError
from smnn_core.extend import RANKS

from ._mesh import vary_together
from ._operators import Options
from ._solution import Inputs, solution

Array = Any

__all__ = ["check_time_axis", "split_solution"]

TIME = Inputs(*(-rank for rank in RANKS))
"""The time axis of each input: the first behind those of the batch."""


def check_time_axis(time_axis: str, n_steps: int) -> None:
    """
    Raises:
        ArgumentError: if there is no such axis in the current mesh, or it is taken by a shard_map.
        ShapeError: if its devices cannot share the time points evenly.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if time_axis not in mesh.axis_names:
        raise ArgumentError(
            f"time_axis={time_axis!r} is not an axis of the current mesh ({', '.join(mesh.axis_names) or 'none'}): "
            "call solve_ode under jax.set_mesh(mesh), with a mesh that has this axis."
        )
    if mesh.axis_types[mesh.axis_names.index(time_axis)] == AxisType.Manual:
        raise ArgumentError(
            f"time_axis={time_axis!r} is manual here, inside a shard_map over it: solve_ode splits time over the axis "
            "itself, so call it on whole trajectories, in a shard_map over the other axes at most."
        )
    D = mesh.shape[time_axis]
    if n_steps % D:
        raise ShapeError(
            f"T = {n_steps} time points cannot be split evenly over the {D} devices of axis {time_axis!r}: choose T "
            f"as a multiple of {D}."
        )


def split_solution(axis: str, static: Options, inputs: Inputs) -> Array:
    """`solution` with time split over a mesh axis."""
    T = static.n_steps
    D = jax.sharding.get_abstract_mesh().shape[axis]
    P = T // D
    inputs = inputs._replace(
        step_sizes=_pad(inputs.step_sizes, -1, T, 1), weight_smoothness=_pad(inputs.weight_smoothness, -1, T, 0)
    )
    few = static.n_initial_steps <= P  # all on the first device, which needs no split
    if not few:
        u, w = inputs.initial_values, inputs.weight_initial
        if static.n_initial_steps < T:
            w = jnp.broadcast_to(w, (*w.shape[:-3], u.shape[-3], *w.shape[-2:]))
        inputs = inputs._replace(initial_values=_pad(u, -3, T, 0), weight_initial=_pad(w, -3, T, 0))
    local = replace(static, n_steps=P + 1, n_initial_steps=static.n_initial_steps if few else P)

    def spec(name: str, x: Array) -> PartitionSpec:
        whole = x.shape[getattr(TIME, name)] != T or (few and name in ("initial_values", "weight_initial"))
        return PartitionSpec() if whole else PartitionSpec(*(None,) * (x.ndim + getattr(TIME, name)), axis)

    def solve(inputs: Inputs) -> Array:
        return solution(local, _with_halo(local, vary_together(inputs, {axis}), few))

    return jax.shard_map(
        solve,
        in_specs=(Inputs(**{name: spec(name, x) for name, x in inputs._asdict().items()}),),
        out_specs=PartitionSpec(*(None,) * (inputs.rhs.ndim - 2), axis),
        axis_names={axis},
    )(inputs)


def _with_halo(local: Options, inputs: Inputs, few: bool) -> Inputs:
    """The inputs of a device's chunk as those of the P+1 points of it and its halo, which has no rows of its own."""
    P = local.n_steps - 1
    device, D = jax.lax.axis_index(local.time_axis), jax.lax.axis_size(local.time_axis)
    w = inputs.weight_equation
    w = jnp.broadcast_to(w, (*w.shape[:-2], P, w.shape[-1]))
    # the last point of all is coupled to nothing
    coupled = (jnp.arange(P) < P - 1) | (device < D - 1)
    return inputs._replace(
        coefficients=_pad(inputs.coefficients, -4, P + 1, 0),
        rhs=_pad(inputs.rhs, -2, P + 1, 0),
        weight_equation=_pad(w, -2, P + 1, 0, always=True),
        weight_initial=inputs.weight_initial * (device == 0) if few else inputs.weight_initial,
        weight_smoothness=jnp.where(coupled, inputs.weight_smoothness, 0),
    )


def _pad(x: Array, axis: int, size: int, value: float, always: bool = False) -> Array:
    """x with one value behind it along an axis up to a size; as it is where it is constant along the axis."""
    if x.shape[axis] == 1 and not always:
        return x
    widths = [(0, 0)] * x.ndim
    widths[axis] = (0, size - x.shape[axis])
    return jnp.pad(x, widths, constant_values=value)
