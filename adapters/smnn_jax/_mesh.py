"""The mesh of devices of an array, read from its type."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

import jax
from jax.sharding import AxisType, PartitionSpec

Array = Any
Inputs = TypeVar("Inputs", bound=tuple[Any, ...])

__all__ = ["explicit_mesh", "explicit_spec", "in_shard_map", "vary_together", "varying_axes"]


def in_shard_map() -> bool:
    """True if this is traced inside a shard_map, over any mesh axes."""
    return AxisType.Manual in jax.sharding.get_abstract_mesh().axis_types


def varying_axes(x: Array) -> frozenset[str]:
    """The manual mesh axes (inside shard_map) along which x differs between devices."""
    aval = jax.typeof(x)
    if hasattr(aval, "vma"):  # up to JAX 0.9
        return frozenset(aval.vma)
    return frozenset(aval.manual_axis_type.varying)


def vary_together(inputs: Inputs, axes: Iterable[str] = ()) -> Inputs:
    """The inputs, all varying along the same manual mesh axes: what operators that know nothing of meshes need."""
    axes = frozenset(axes).union(*(varying_axes(x) for x in inputs))
    return type(inputs)(*(_vary(x, axes) for x in inputs))


def _vary(x: Array, axes: frozenset[str]) -> Array:
    missing = tuple(sorted(axes - varying_axes(x)))
    return jax.lax.pcast(x, missing, to="varying") if missing else x


def explicit_mesh(inputs: Sequence[Array]) -> Any:
    """The mesh with axes of type Explicit that the inputs live on or, where none does, the current one; or None."""
    meshes = [jax.sharding.get_abstract_mesh(), *(jax.typeof(x).sharding.mesh for x in inputs)]
    return next((m for m in reversed(meshes) if not m.empty and AxisType.Explicit in m.axis_types), None)


def explicit_spec(inputs: Sequence[Array], cores: Sequence[int]) -> PartitionSpec | None:
    """How the batch axes of the result of normalised inputs are sharded, if the mesh has axes of type Explicit.

    Along each batch axis the first input that is sharded there decides; a mesh axis is used once.
    """
    if explicit_mesh(inputs) is None:
        return None
    n_batch = inputs[0].ndim - cores[0]
    spec: list[Any] = [None] * n_batch
    used: set[str] = set()
    for i in range(n_batch):
        for x in inputs:
            name = (*jax.typeof(x).sharding.spec, *(None,) * n_batch)[i]
            names = set(name if isinstance(name, tuple) else (name,)) - {None}
            if spec[i] is None and names and not names & used:
                spec[i] = name
                used |= names
    return PartitionSpec(*spec)
