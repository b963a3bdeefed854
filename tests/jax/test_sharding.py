"""Batch axes over eight devices: the same numbers, each device its own part, no gather in the compiled program."""

from __future__ import annotations

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from _assert import eps
from _jax_case import on_jax, solve
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

SPECS = {"coefficients": P("x"), "rhs": P("x")}
"""The inputs with a batch axis."""
REPLICATED = ("initial_values", "step_sizes", "equation", "initial", "smoothness")
"""Arguments that are the same on every device."""


@pytest.fixture
def arguments(arguments):
    return on_jax(arguments)


def mesh(kind):
    return jax.make_mesh((4, 2), ("x", "y"), axis_types=(kind, kind))


def spread(arguments, mesh):
    return {k: jax.device_put(x, NamedSharding(mesh, SPECS.get(k, P()))) for k, x in arguments.items()}


def loss(arguments, **options):
    return jnp.sum(solve(**arguments, **options) ** 2)


def close(actual, expected):
    for x, y in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(x, y, rtol=0, atol=1e4 * eps("float64") * max(1.0, float(np.abs(y).max())))


def collectives(compiled):
    """The kinds of communication in a compiled program."""
    kinds = "all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter|collective-broadcast"
    return set(re.findall(rf" ({kinds})(?:-start)?\(", compiled.as_text()))


@pytest.mark.parametrize("engine", ["auto", pytest.param("array_api", marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit], ids=lambda kind: kind.name)
def test_each_device_solves_its_own_part(arguments, kind, engine):
    expected = solve(**arguments)
    m = mesh(kind)
    with jax.set_mesh(m):
        sharded = spread(arguments, m)
        compiled = jax.jit(lambda x: solve(**x, engine=engine)).lower(sharded).compile()
        y = compiled(sharded)
    assert collectives(compiled) == set()
    assert y.sharding.is_equivalent_to(NamedSharding(m, P("x")), y.ndim)
    assert {shard.data.shape for shard in y.addressable_shards} == {(2, 5, 2, 3)}
    close(y, expected)


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit], ids=lambda kind: kind.name)
def test_gradients_need_sums_only(arguments, kind):
    """Of what all devices share, over the devices."""
    expected = jax.jit(jax.grad(loss))(arguments)
    m = mesh(kind)
    with jax.set_mesh(m):
        sharded = spread(arguments, m)
        compiled = jax.jit(jax.grad(loss)).lower(sharded).compile()
        gradient = compiled(sharded)
    assert collectives(compiled) == {"all-reduce"}
    for name in SPECS:
        assert gradient[name].sharding.is_equivalent_to(sharded[name].sharding, gradient[name].ndim)
    close(gradient, expected)


def test_without_jit_and_without_a_current_mesh(arguments):
    m = mesh(AxisType.Auto)
    y = solve(**spread(arguments, m))
    assert y.sharding.is_equivalent_to(NamedSharding(m, P("x")), y.ndim)
    close(y, solve(**arguments))


def test_gradients_on_an_explicit_mesh_that_is_not_current(arguments):
    """The arrays say which mesh it is."""
    expected = jax.jit(jax.grad(loss))(arguments)
    close(jax.jit(jax.grad(loss))(spread(arguments, mesh(AxisType.Explicit))), expected)


def test_unsharded_inputs_under_a_mesh(arguments):
    with jax.set_mesh(mesh(AxisType.Auto)):
        y = solve(**arguments)
    close(y, solve(**arguments))


def test_vmap_over_the_sharded_axis(arguments):
    m = mesh(AxisType.Auto)
    axes = {name: 0 if name in SPECS else None for name in arguments}
    mapped = jax.vmap(lambda x: solve(**x), in_axes=(axes,))
    sharded = spread(arguments, m)
    compiled = jax.jit(mapped).lower(sharded).compile()
    assert collectives(compiled) == set()
    close(compiled(sharded), solve(**arguments))


@pytest.mark.parametrize("rows", [slice(3, None), slice(1), slice(6)], ids=str)
def test_a_batch_that_the_devices_cannot_share_evenly(arguments, rows):
    """The padding of their shares by XLA, zeros among it, is not solved."""
    m = mesh(AxisType.Auto)
    arguments["step_sizes"] = jnp.broadcast_to(arguments["step_sizes"], (8, *arguments["step_sizes"].shape))

    def part(x):
        names = ("step_sizes", *SPECS)
        return loss(x | {k: jnp.concatenate([x[k][rows], x[k][:1]]) for k in names})

    sharded = {
        k: jax.device_put(x, NamedSharding(m, P("x") if k == "step_sizes" else SPECS.get(k, P())))
        for k, x in arguments.items()
    }
    close(jax.jit(jax.value_and_grad(part))(sharded), jax.jit(jax.value_and_grad(part))(arguments))


def test_sharded_time_is_gathered_not_split(arguments):
    """Without `time_axis` no device can solve a part of a trajectory: XLA brings it together first."""
    m = jax.make_mesh((5,), ("t",), axis_types=(AxisType.Auto,), devices=jax.devices()[:5])
    b = jax.device_put(arguments["rhs"], NamedSharding(m, P(None, "t")))
    close(jax.jit(lambda b: solve(**arguments | {"rhs": b}))(b), solve(**arguments))


class TestShardMap:
    @pytest.fixture
    def mapped(self):
        """solve inside a shard_map over the axes named, with its checks."""
        specs = ({name: SPECS.get(name, P()) for name in (*SPECS, *REPLICATED)},)

        def mapped(engine, **options):
            inside = lambda x: solve(**x, engine=engine)  # noqa: E731
            return jax.shard_map(inside, mesh=mesh(AxisType.Auto), in_specs=specs, out_specs=P("x"), **options)

        return mapped

    @pytest.mark.parametrize("engine", ["auto", pytest.param("array_api", marks=pytest.mark.slow)])
    def test_solution_and_gradient(self, arguments, mapped, engine):
        f = mapped(engine)
        y, gradient = jax.jit(lambda x: (f(x), jax.grad(lambda x: jnp.sum(f(x) ** 2))(x)))(arguments)
        close(y, solve(**arguments))
        close(gradient, jax.jit(jax.grad(loss))(arguments))

    def test_second_derivatives(self, arguments, mapped):
        def hvp(loss):
            return jax.jit(lambda x: jax.jvp(jax.grad(loss), (x,), (x,))[1])

        f = mapped("auto")
        close(hvp(lambda x: jnp.sum(f(x) ** 2))(arguments), hvp(loss)(arguments))

    @pytest.mark.parametrize("checked", [True, False])
    def test_over_some_of_the_axes(self, arguments, mapped, checked):
        f = jax.jit(mapped("auto", axis_names={"x"}, check_vma=checked))
        close(f(arguments), solve(**arguments))

    def test_communicates_nothing(self, arguments, mapped):
        compiled = jax.jit(mapped("auto")).lower(spread(arguments, mesh(AxisType.Auto))).compile()
        assert collectives(compiled) == set()
