"""Every transform of JAX, to second order, against differences, loops and each other."""

from __future__ import annotations

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from _assert import eps
from _jax_case import make_arguments, on_jax, solve
from jax import export
from jax.test_util import check_grads

import smnn_core
import smnn_jax

NAMES = ("coefficients", "rhs", "initial_values", "step_sizes", "equation", "initial", "smoothness")


@pytest.fixture
def small():
    """One system: V = 2, K = 3, T = 3."""
    return on_jax(make_arguments(batch=(), T=3, T_init=1))


def close(actual, expected, factor=1e4):
    """To rounding: the condition numbers of these problems are below 1e3, and derivatives see them twice."""
    for x, y in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(x, y, rtol=0, atol=factor * eps(x) * max(1.0, float(np.abs(y).max(initial=0))))


def loss(arguments, **options):
    return jnp.sum(jnp.sin(solve(**arguments, **options)))


@pytest.mark.slow
def test_derivatives_to_second_order_in_both_modes(small):
    """With respect to all inputs at once, weights included."""
    check_grads(jax.jit(lambda x: solve(**x)), (small,), order=2, modes=("fwd", "rev"))


@pytest.mark.slow
def test_derivatives_of_the_traced_engine(small):
    """A Hessian-vector product has both modes in it."""

    def derivatives(arguments, engine):
        return jax.jvp(jax.grad(lambda x: loss(x, engine=engine)), (arguments,), (arguments,))

    traced, called = (jax.jit(derivatives, static_argnums=1)(small, engine) for engine in ("array_api", "auto"))
    close(traced, called)


def test_derivatives_in_float32(small):
    single = jax.tree.map(lambda x: x.astype(jnp.float32), small)
    gradient = jax.jit(jax.grad(loss))
    close(gradient(single), gradient(small))
    assert all(g.dtype == jnp.float32 for g in jax.tree.leaves(gradient(single)))


def test_zero_weights_remove_rows_from_derivatives_too(small):
    """A row of weight zero has no influence, whatever it says; its weight has no first-order influence."""
    small["equation"] = small["equation"].at[1].set(0)
    gradient = jax.jit(jax.grad(loss))(small)
    assert not gradient["rhs"][1].any()
    assert not gradient["coefficients"][1].any()
    assert not gradient["equation"][1].any()


def test_forward_tangents_do_not_square_the_condition_number():
    """dy for a change of b is a solution itself: in float32 it is as accurate as y, where M^-1 A^T W^2 db is not."""
    T = 200
    c = jnp.zeros((1, 1, 1, 3)).at[..., 0].set(4.0).at[..., 2].set(1.0)  # y'' + 4 y = b

    def y(b, dtype):
        c_, u, s = (jnp.asarray(x, dtype) for x in (c, [[[1.0, 0.0]]], [0.02]))
        return jax.jit(lambda b: solve(c_, b, u, s, 1.0, 1.0, 1.0))(b.astype(dtype))

    b = jnp.cos(jnp.arange(T) * 0.05)[:, None]
    solution = {dtype: y(b, dtype) for dtype in ("float32", "float64")}
    tangent = {dtype: jax.jvp(lambda b, d=dtype: y(b, d), (0 * b,), (b,))[1] for dtype in solution}
    scale = [float(jnp.abs(x["float64"][..., 0]).max()) for x in (solution, tangent)]
    error = [float(jnp.abs(x["float32"] - x["float64"])[..., 0].max()) for x in (solution, tangent)]
    assert error[1] / scale[1] <= 4 * error[0] / scale[0]


def test_first_derivatives_agree_in_all_modes(small):
    f = jax.jit(lambda s: solve(**small | {"step_sizes": s}))
    s, ds = small["step_sizes"], jnp.array([0.3, -0.2])
    jacobian = jax.jacfwd(f)(s)
    close(jax.jacrev(f)(s), jacobian)
    y, linear = jax.linearize(f, s)
    close(y, f(s), factor=0)
    close(linear(ds), jacobian @ ds)
    close(jax.vjp(f, s)[1](y)[0], jnp.tensordot(y, jacobian, 3))
    there_and_back = jax.linear_transpose(lambda g: jax.vjp(f, s)[1](g)[0], y)
    close(there_and_back(ds)[0], jacobian @ ds)


@pytest.mark.parametrize("moving", [{"rhs"}, set(NAMES)], ids=["rhs", "all"])
def test_reverse_mode_is_one_call(small, moving):
    """Besides that of the solution; and of what is not asked for there is no result."""

    def f(moved):
        return loss(small | moved)

    text = jax.jit(jax.grad(f)).lower({k: small[k] for k in moving}).compile().as_text()
    operators = re.findall(r"static = \"\[\W+22(\w+)\W+22,", text)
    assert sorted(operators) == ["adjoint", "solution"]
    (wanted,) = re.findall(r"22adjoint\W+22, \[.*?, \[([\d, ]+)\]", text)
    assert len(wanted.split(",")) == len(moving)
    assert "while" not in text


@pytest.mark.slow
def test_second_derivatives_agree_in_all_modes(small):
    def f(s):
        return loss(small | {"step_sizes": s})

    s = small["step_sizes"]
    hessian = jax.jit(jax.hessian(f))(s)
    close(hessian, hessian.T)
    close(jax.jit(jax.jacrev(jax.jacrev(f)))(s), hessian)
    close(jax.jit(jax.jacrev(jax.jacfwd(f)))(s), hessian)


def test_third_derivative(small):
    def f(t):  # (of TAYLOR, as the differences of HERMITE's converge more slowly)
        return loss(small | {"step_sizes": small["step_sizes"] * t}, scheme=smnn_core.TAYLOR)

    d3 = jax.jit(jax.grad(jax.grad(jax.grad(f))))(1.0)
    h = eps("float64") ** 0.25
    d2 = jax.jit(jax.grad(jax.grad(f)))
    np.testing.assert_allclose(d3, (d2(1 + h) - d2(1 - h)) / (2 * h), rtol=1e-5)


class TestVmap:
    def test_is_a_loop(self, arguments):
        """Over b and s, at places other than the first; the others are shared."""
        arguments = on_jax(arguments)
        b = jnp.stack([arguments["rhs"], 2 * arguments["rhs"]], axis=1)
        s = jnp.stack([arguments["step_sizes"], 1.5 * arguments["step_sizes"]], axis=-1)

        def f(b, s):
            return solve(**arguments | {"rhs": b, "step_sizes": s})

        mapped = jax.vmap(f, in_axes=(1, -1), out_axes=1)(b, s)
        close(mapped, jnp.stack([f(b[:, i], s[..., i]) for i in range(2)], axis=1))

    def test_is_one_call_that_shares_what_is_not_mapped(self, arguments):
        arguments = on_jax(arguments)
        b = jnp.stack([arguments.pop("rhs")] * 3)
        text = jax.jit(jax.vmap(lambda b: solve(rhs=b, **arguments))).lower(b).compile().as_text()
        calls = re.findall(r"custom-call\((.*?)\), custom_call_target=\"smnn_operator\", (.*?api_version)", text)
        assert len(calls) == 1
        assert "while" not in text
        assert "f64[1,8,5,2,2,3]" in calls[0][1]  # coefficients, as given
        assert "f64[3,8,5,2]" in calls[0][1]  # right-hand sides

    @pytest.mark.parametrize("engine", ["auto", pytest.param("array_api", marks=pytest.mark.slow)])
    def test_of_gradients(self, small, engine):
        b = jnp.stack([small["rhs"], 2 * small["rhs"], 3 * small["rhs"]])
        gradient = jax.grad(lambda b: loss(small | {"rhs": b}, engine=engine))
        close(jax.jit(jax.vmap(gradient))(b), jnp.stack([gradient(x) for x in b]))

    def test_nested(self, small):
        b = jnp.stack([small["rhs"], 2 * small["rhs"]])
        u = jnp.stack([small["initial_values"]] * 3) * jnp.arange(3.0)[:, None, None, None]

        def f(b, u):
            return solve(**small | {"rhs": b, "initial_values": u})

        y = jax.vmap(jax.vmap(f, in_axes=(None, 0)), in_axes=(0, None))(b, u)
        close(y[1, 2], f(b[1], u[2]))


@pytest.mark.slow
def test_vmap_of_forward_mode(small):
    """A mapped primal with a tangent that is not, and the other way round."""
    batch = {k: jnp.stack([x, 1.01 * x]) for k, x in small.items()}

    def forward(x, dx):
        return jax.jvp(lambda x: solve(**x), (x,), (dx,))[1]

    def product(x, dx):
        return jax.jvp(jax.grad(loss), (x,), (dx,))[1]

    members = [{k: x[i] for k, x in batch.items()} for i in range(2)]
    for f, axes in ((forward, (0, None)), (forward, (None, 0)), (product, (0, None))):
        f = jax.jit(f)
        loop = [f(*(member if axis == 0 else small for axis in axes)) for member in members]
        arguments = [batch if axis == 0 else small for axis in axes]
        close(jax.vmap(f, in_axes=axes)(*arguments), jax.tree.map(lambda *x: jnp.stack(x), *loop))
    for name in ("step_sizes", "rhs"):

        @jax.jit
        def jacobian(x, name=name):
            return jax.jacfwd(lambda x: solve(**(small | {name: x})))(x)

        close(jax.vmap(jacobian)(batch[name]), jnp.stack([jacobian(x) for x in batch[name]]))


@pytest.mark.slow
def test_second_derivatives_through_a_scan(small):
    """Whatever the outer mode: a scan that was differentiated in reverse is differentiated again."""

    def roll(scale, scan):
        def step(u, _):
            return jnp.sin(solve(**(small | {"initial_values": u}))[-1:, :, :2]), None

        u = scale * small["initial_values"]
        if scan:
            return jnp.sum(jax.lax.scan(step, u, None, length=2)[0])
        return jnp.sum(step(step(u, None)[0], None)[0])

    expected = jax.hessian(roll)(1.0, False)
    for second in (
        jax.hessian,
        lambda f: jax.grad(jax.grad(f)),
        lambda f: jax.jit(jax.jacrev(jax.jacfwd(f)), static_argnums=1),
    ):
        close(second(roll)(1.0, True), expected)


def test_checkpoint(small):
    gradient = jax.jit(jax.grad(jax.checkpoint(loss)))(small)
    close(gradient, jax.jit(jax.grad(loss))(small))


def test_scan_over_calls(small):
    """Each call starts where the last one ended."""

    def step(u, b):
        y = solve(**small | {"initial_values": u, "rhs": b})
        return y[-1:, :, :2], y

    b = jnp.stack([small["rhs"], -small["rhs"]])

    def final(u):
        return jax.lax.scan(step, u, b)[0]

    def unrolled(u):
        for x in b:
            u = step(u, x)[0]
        return u

    u = small["initial_values"]
    close(jax.jit(jax.jacrev(final))(u), jax.jit(jax.jacrev(unrolled))(u))


def test_linear_transpose_with_respect_to_the_right_hand_side(small):
    rhs, others = small.pop("rhs"), small
    others["initial_values"] = jnp.zeros_like(others["initial_values"])
    y, vjp = jax.vjp(lambda b: solve(rhs=b, **others), rhs)
    (transposed,) = jax.linear_transpose(lambda b: solve(rhs=b, **others), rhs)(y)
    np.testing.assert_allclose(transposed, vjp(y)[0], rtol=1e-12)
    with pytest.raises(NotImplementedError, match="with respect to rhs alone"):
        jax.linear_transpose(lambda c: solve(rhs=rhs, **others | {"coefficients": c}), others["coefficients"])(y)


def test_export_with_a_symbolic_batch():
    """The custom call must be allowed: its form may change from version to version."""
    c, s, u = jnp.array([[[[4.0, 0.0, 1.0]]]]), jnp.full(5, 0.1), jnp.ones((1, 1, 2))

    def function(b):
        return smnn_jax.solve_ode(c, b, u, s)

    (B,) = export.symbolic_shape("B")
    allowed = [export.DisabledSafetyCheck.custom_call("smnn_operator")]
    exported = export.export(jax.jit(function), disabled_checks=allowed)(jax.ShapeDtypeStruct((B, 6, 1), c.dtype))
    b = jnp.arange(18.0).reshape(3, 6, 1)
    np.testing.assert_array_equal(exported.call(b), function(b))
