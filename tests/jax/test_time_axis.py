"""Time over devices: the solution of one device, with only the separators travelling."""

from __future__ import annotations

import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from _assert import eps
from _jax_case import make_arguments, on_jax, solve
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import smnn_core as smnn
from smnn_core._schemes import LIGHT

D = 4
"""Devices along the axis "t"."""


def mesh(kind=AxisType.Auto):
    return jax.make_mesh((2, D), ("x", "t"), axis_types=(kind, kind))


def loss(arguments, **options):
    return jnp.sum(jnp.sin(solve(**arguments, **options)))


def close(actual, expected, factor=1e4):
    for x, y in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(x, y, rtol=0, atol=factor * eps("float64") * max(1.0, float(np.abs(y).max())))


@pytest.mark.parametrize(
    ("T", "T_init", "kind"),
    [
        (4, 1, AxisType.Auto),
        pytest.param(12, 12, AxisType.Explicit, marks=pytest.mark.slow),
        pytest.param(16, 6, AxisType.Auto, marks=pytest.mark.slow),
        pytest.param(1024, 1, AxisType.Auto, marks=pytest.mark.slow),
    ],
)
def test_solution_is_that_of_one_device(T, T_init, kind):
    """Chunks of one, an odd, an even and a large number of points; initial rows at one, at all, over a chunk's end."""
    arguments = on_jax(make_arguments(batch=(2,), T=T, T_init=T_init))
    m = mesh(kind)
    with jax.set_mesh(m):
        y = solve(**arguments, time_axis="t")
    assert y.sharding.is_equivalent_to(NamedSharding(m, P(None, "t")), y.ndim)
    close(y, solve(**arguments))


@pytest.fixture
def arguments():
    return on_jax(make_arguments(batch=(2,), T=8, T_init=1))


@pytest.mark.slow
def test_derivatives_of_both_orders(arguments):
    """A Hessian-vector product has both modes in it; with respect to all inputs at once."""

    def derivatives(arguments, **options):
        return jax.jvp(jax.grad(lambda x: loss(x, **options)), (arguments,), (arguments,))

    with jax.set_mesh(mesh()):
        split = jax.jit(lambda x: derivatives(x, time_axis="t"))(arguments)
    # the highest derivatives are held by the light row: rounding errors of 1 / LIGHT in each order of differentiation
    close(split, jax.jit(derivatives)(arguments), factor=1e4 / LIGHT)


def test_what_is_the_same_at_all_times(arguments):
    arguments |= {"coefficients": arguments["coefficients"][:, :1], "step_sizes": arguments["step_sizes"][:1]}
    arguments |= {"equation": jnp.array(1.0), "smoothness": 2.0}
    with jax.set_mesh(mesh()):
        close(solve(**arguments, time_axis="t"), solve(**arguments))


@pytest.mark.slow
def test_only_separators_are_gathered():
    """Gathered arrays are as large as their D points are, whatever T; nothing else travels but one point per device."""
    sizes = []
    for T in (8, 16):
        arguments = on_jax(make_arguments(batch=(2,), T=T, T_init=1))
        m = mesh()
        spread = {
            name: jax.device_put(x, NamedSharding(m, P(None, "t") if name in ("coefficients", "rhs") else P()))
            for name, x in arguments.items()
        }
        with jax.set_mesh(m):
            text = jax.jit(lambda x: solve(**x, time_axis="t")).lower(spread).compile().as_text()
        sizes.append(received(text))
    n, B = 6, 2
    largest = 2 * B * D * (2 * n) * n  # couplings of the separators, at most 2n rows of n columns, and perturbed
    assert sizes[0] == sizes[1]
    assert set(sizes[0]) == {"all-gather", "all-reduce", "collective-permute"}
    assert max(sizes[0]["all-reduce"]) <= B  # the reference step
    assert max(sizes[0]["all-gather"]) <= largest
    assert max(sizes[0]["collective-permute"]) <= B * n


def received(text):
    """The sizes of the results of all communication in a compiled program, by kind."""
    kinds = "all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter"
    found: dict[str, list[int]] = {}
    for shapes, kind in re.findall(rf"= (.*?) ({kinds})(?:-start)?\(", text):
        for shape in re.findall(r"\[([\d,]*)\]", shapes):
            found.setdefault(kind, []).append(math.prod(int(n) for n in shape.split(",") if n))
    return {kind: sorted(sizes) for kind, sizes in found.items()}


@pytest.mark.slow
def test_inside_a_shard_map_over_the_batch(arguments):
    names = ("coefficients", "rhs")
    specs = {name: P("x") if name in names else P() for name in arguments}
    m = mesh()
    with jax.set_mesh(m):
        f = jax.shard_map(lambda x: solve(**x, time_axis="t"), in_specs=(specs,), out_specs=P("x"), axis_names={"x"})
        close(jax.jit(f)(arguments), solve(**arguments))


@pytest.mark.slow
def test_singular_members_are_nan_on_all_devices(arguments):
    equation = jnp.ones((2, 8, 1)).at[1].set(0)
    arguments |= {"equation": equation, "initial": jnp.array([0.0, 1.0])}
    with jax.set_mesh(mesh()):
        y = jax.jit(lambda x: solve(**x, time_axis="t"))(arguments)
    np.testing.assert_array_equal(jnp.isnan(y).all(axis=(1, 2, 3)), [False, True])
    assert not jnp.isnan(y[0]).any()


class TestErrors:
    def test_no_mesh(self, arguments):
        with pytest.raises(smnn.ArgumentError, match=r"not an axis of the current mesh \(none\)"):
            solve(**arguments, time_axis="t")

    def test_uneven(self):
        with jax.set_mesh(mesh()), pytest.raises(smnn.ShapeError, match=r"T = 6 .* 4 devices"):
            solve(**on_jax(make_arguments(batch=(2,), T=6)), time_axis="t")

    def test_axis_taken_by_a_shard_map(self, arguments):
        f = jax.shard_map(lambda x: solve(**x, time_axis="t"), mesh=mesh(), in_specs=P(), out_specs=P())
        with pytest.raises(smnn.ArgumentError, match="inside a shard_map over it"):
            f(arguments)

    def test_compiled_engine(self, arguments):
        with jax.set_mesh(mesh()), pytest.raises(smnn.EngineError, match="cannot split time"):
            solve(**arguments, time_axis="t", engine="cpu")
