"""An operator in a JAX program: batched by `vmap`, partitioned over devices, a custom call or traced."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap
from jax.experimental.custom_partitioning import custom_partitioning
from jax.sharding import NamedSharding, PartitionSpec

from . import _ffi
from ._mesh import in_shard_map
from ._operators import CORE_AXES, OPERATORS, Options, result_shapes

Array = Any

__all__ = ["call"]


def call(operator: str, static: Options, *operands: Array) -> list[Array]:
    """The results of an operator on normalised operands (see `_operators`); it has no derivative of its own."""
    return _vectorised(operator, static)(*operands)


@cache
def _vectorised(operator: str, static: Options) -> Callable[..., list[Array]]:
    """Under vmap one call serves the whole batch; what is not mapped stays as it is, a batch axis of size 1."""

    @custom_vmap
    def function(*operands: Array) -> list[Array]:
        if in_shard_map():  # where the caller has divided the work
            return _executed(operator, static)(*operands)
        return _partitioned(operator, static)(*operands)

    @function.def_vmap
    def rule(axis_size: int, mapped: tuple[bool, ...], *operands: Array) -> tuple[list[Array], list[bool]]:
        del axis_size
        expanded = (x if m else x[None] for x, m in zip(operands, mapped, strict=True))
        results = function(*expanded)
        return results, [True] * len(results)

    return function


@cache
def _partitioned(operator: str, static: Options) -> Callable[..., list[Array]]:
    """Over devices every one solves its own part of the batch, if it is sharded; core axes are never split."""
    core = CORE_AXES[operator][0]
    execute = _executed(operator, static)

    def alone(*operands: Array) -> list[Array]:
        with jax.sharding.use_abstract_mesh(jax.sharding.AbstractMesh((), ())):
            return execute(*operands)

    def partition(mesh: Any, operands: Any, results: Any) -> tuple[Any, ...]:
        if not all(isinstance(x.sharding, NamedSharding) for x in (*operands, *results)):
            return mesh, alone, *_without_mesh(operands, results)
        batch = results[0].shape[: len(operands[0].shape) - core]
        # a device's share must be whole: what XLA pads it with is no problem to solve
        spec = [
            name if n % _devices(mesh, name) == 0 else None
            for name, n in zip(_first_axes(results[0], len(batch)), batch, strict=True)
        ]
        own = [[name if n == full else None for name, n, full in zip(spec, x.shape, batch)] for x in operands]  # noqa: B905
        return (
            mesh,
            alone,
            [NamedSharding(mesh, PartitionSpec(*spec)) for _ in results],
            tuple(NamedSharding(mesh, PartitionSpec(*names)) for names in own),
        )

    def infer(mesh: Any, operands: Any, results: Any) -> list[NamedSharding]:
        batch = results[0].shape[: len(operands[0].shape) - core]
        spec: list[Any] = [None] * len(batch)
        for x in operands:
            for i, name in enumerate(_first_axes(x, len(batch))):
                if spec[i] is None and x.shape[i] == batch[i]:
                    spec[i] = name
        return [NamedSharding(mesh, PartitionSpec(*spec)) for _ in results]

    def rule(mesh: Any, operands: Any, results: Any) -> tuple[str, dict[str, Any]]:
        del mesh
        return _sharding_rule(len(operands[0].shape) - core, [x.shape for x in operands], [x.shape for x in results])

    function = custom_partitioning(execute)
    function.def_partition(partition=partition, infer_sharding_from_operands=infer, sharding_rule=rule)
    return function


def _devices(mesh: Any, names: Any) -> int:
    """Over how many an array axis is sharded."""
    return math.prod(mesh.shape[name] for name in (names if isinstance(names, tuple) else (names,)) if name)


def _first_axes(x: Any, count: int) -> tuple[Any, ...]:
    """How the first axes of an array are sharded."""
    return (*x.sharding.spec, *(None,) * count)[:count]


def _sharding_rule(n_batch: int, operands: Any, results: Any) -> tuple[str, dict[str, Any]]:
    """For Shardy: batch axes share a factor with the results', all other axes stand alone and are replicated."""
    alone: list[str] = []

    def factors(shape: Any) -> str:
        names = []
        for i, size in enumerate(shape):
            if i < n_batch and size == results[0][i]:
                names.append(f"b{i}")
            else:
                alone.append(f"a{len(alone)}")
                names.append(alone[-1])
        return " ".join(names)

    text = " -> ".join(", ".join(factors(shape) for shape in shapes) for shapes in (operands, results))
    return text, {"need_replication_factors": tuple(alone)}


def _without_mesh(operands: Any, results: Any) -> tuple[list[Any], tuple[Any, ...]]:
    """Shardings of a program over devices of no one mesh: every device has all."""
    whole = [x.sharding for x in (*operands, *results) if x.sharding.is_fully_replicated]
    if not whole:
        raise ValueError("the inputs of solve_ode are sharded over different meshes: reshard them to one.")
    return [whole[0] for _ in results], tuple(whole[0] for _ in operands)


@cache
def _executed(operator: str, static: Options) -> Callable[..., list[Array]]:
    """The operator on one device.

    Its own jit holds the constants of the traced engine, which custom_partitioning does not take
    (https://github.com/jax-ml/jax/issues/24390).
    """
    return jax.jit(partial(_execute, operator, static))


def _execute(operator: str, static: Options, *operands: Array) -> list[Array]:
    """A custom call where an engine runs on the memory of the device, else traced."""
    if static.engine == "array_api" or not _ffi.available(jax.default_backend()):
        return OPERATORS[operator](static, operands)
    # Any computation that all operands enter has the type of the results, with the axes of a shard_map along which they
    # vary; it is never carried out.
    value = sum(jnp.sum(x) for x in operands)
    results = [jnp.broadcast_to(value, s) for s in result_shapes(operator, static, [x.shape for x in operands])]
    text = static.encode(operator, operands[0].shape[-1])
    return list(jax.ffi.ffi_call(_ffi.TARGET, results)(*operands, static=text))
