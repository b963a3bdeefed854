"""`smnn_jax.solve`: the same solutions as the core's, with first and second derivatives."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import smnn_core as smnn
import smnn_jax

Q = np.array([1.0, 0.7, 1.3])


def logistic(q):
    """y(1) of y' = -k y^2 - a y, y(0) = u, for q = (k, a, u)."""

    def residual(t, y):
        return y[..., 1] + q[0] * y[..., 0] ** 2 + q[1] * y[..., 0]

    return smnn_jax.solve(residual, [0.0, 1.0], q[2].reshape(1, 1), tolerance=1e-10)([1.0])[0, 0, 0]


def exact_logistic(q):
    k, a, u = q
    e = jnp.exp(-a)
    return a * u * e / (a + k * u * (1 - e))


@pytest.mark.slow
def test_first_and_second_derivatives():
    def both(end):
        return jax.jacfwd(lambda q: (jax.grad(end)(q),) * 2, has_aux=True)(Q)

    for found, exact in zip(both(logistic), both(exact_logistic), strict=True):
        assert np.allclose(found, exact, atol=1e-9)


def test_a_boundary_value_problem_with_a_constant():
    """y'' + λ y = 0, y(0) = 0, y(L) = 0, y'(0) = 1: λ = (π / L)^2, and how it changes with L."""

    def eigenvalue(L):
        def residual(t, y, c):
            return y[..., 2] + c[..., 0:1] * L**2 * y[..., 0]

        s = smnn_jax.solve(
            residual,
            [0.0, 1.0],
            {0: jnp.array([[0.0, 1.0]]), 1: jnp.array([[0.0, np.nan]])},
            constants=jnp.array([8.0]),
            guess=lambda t: jnp.sin(jnp.pi * t)[:, None] / 3,
            tolerance=1e-9,
        )
        return s.constants[0]

    assert abs(eigenvalue(1.0) - np.pi**2) < 1e-8
    assert abs(jax.grad(eigenvalue)(1.0) + 2 * np.pi**2) < 1e-6


def test_a_batch_and_conditions_as_a_function():
    eps = jnp.array([[0.1], [0.01]])

    def residual(t, y):
        return (eps * y[..., 0, 2] - y[..., 0, 0])[..., None]

    def conditions(y):
        return jnp.stack([y[..., 0, 0, 0] - 1, y[..., 1, 0, 0]], axis=-1)

    s = smnn_jax.solve(residual, [0, 1], conditions, order=[2])
    a = np.asarray(eps) ** -0.5
    t = np.linspace(0, 1, 40)
    exact = np.sinh(a * (1 - t)) / np.sinh(a)
    assert s.converged.all()
    assert np.abs(s(t)[..., 0, 0] - exact).max() < 1e-6


MESH = np.linspace(0, 1, 6)


def on_mesh(q):
    """y(1) of y' = -k y^2 - a y, y(0) = u, for q = (k, a, u), on a mesh; and whether it was solved."""

    def residual(t, y):
        return y[..., 1] + q[0] * y[..., 0] ** 2 + q[1] * y[..., 0]

    s = smnn_jax.solve(residual, [0.0, 1.0], q[2].reshape(1, 1), mesh=MESH)
    return s(1.0)[0, 0], (s.converged, s.largest_error[0])


def test_a_mesh_under_jit_vmap_and_grad_is_that_of_the_core():
    """The last member ends before t = 1."""
    members = np.stack([Q, 1.2 * Q, [-40.0, 0.7, 1.3]])
    transform = jax.jit(jax.vmap(jax.value_and_grad(on_mesh, has_aux=True)))
    (y, (converged, error)), slopes = transform(members)
    np.testing.assert_array_equal(converged, [True, True, False])
    assert np.isnan(y[2])
    np.testing.assert_array_equal(slopes[2], 0)
    np.testing.assert_allclose(slopes[:2], jax.vmap(jax.grad(exact_logistic))(members[:2]), rtol=1e-8)
    for i in range(2):
        k, a, u = members[i]

        def residual(t, y, k=k, a=a):
            J = np.stack([2 * k * y[..., 0, 0] + a, np.ones(y.shape[:-2])], axis=-1)[..., None, None, :]
            return y[..., 1] + k * y[..., 0] ** 2 + a * y[..., 0], J

        s = smnn.solve(residual, [0, 1], [[u]], mesh=MESH)
        np.testing.assert_allclose(y[i], s(1.0)[0, 0], rtol=1e-13)
        np.testing.assert_allclose(error[i], s.largest_error[0], rtol=1e-6)


def test_second_derivatives_of_boundary_values_under_jit():
    """eps y'' = y; numbers that are traced stand beside those that are not."""

    def inside(p):
        s = smnn_jax.solve(
            lambda t, y: p[0] * y[..., 2] - y[..., 0],
            [0, 1],
            {0: [[p[1], np.nan]], 1: [[p[2], np.nan]]},
            mesh=np.linspace(0, 1, 13),
        )
        return s(0.4 * p[1])[0, 0]  # at a time that is traced, too

    def exact(p):
        a, x = p[0] ** -0.5, 0.4 * p[1]
        return (p[1] * jnp.sinh(a * (1 - x)) + p[2] * jnp.sinh(a * x)) / jnp.sinh(a)

    p = jnp.array([0.2, 1.0, 1.5])
    np.testing.assert_allclose(jax.jit(jax.hessian(inside))(p), jax.hessian(exact)(p), rtol=1e-5, atol=1e-7)


def test_constants_and_conditions_as_a_function_under_jit():
    """y'' + λ L^2 y = 0, y(0) = y(1) = 0, y'(0) = 1: λ = (π / L)^2."""

    def eigenvalue(L):
        s = smnn_jax.solve(
            lambda t, y, c: y[..., 2] + c[..., 0:1] * L**2 * y[..., 0],
            [0.0, 1.0],
            lambda y, c: jnp.stack([y[..., 0, 0, 0], y[..., 1, 0, 0], y[..., 0, 0, 1] - 1 + 0 * c[..., 0]], axis=-1),
            order=[2],
            constants=[8.0],
            guess=lambda t: jnp.sin(jnp.pi * t)[:, None] / 3,
            mesh=np.linspace(0, 1, 9),
        )
        return s.constants[0]

    value, slope = jax.jit(jax.value_and_grad(eigenvalue))(1.0)
    assert abs(value - np.pi**2) < 1e-8
    assert abs(slope + 2 * np.pi**2) < 1e-6


def test_traced_equations_that_contradict_each_other_are_not_reported_as_solved():
    """y' = -y and y' = -a y, two equations for one variable: no contradiction in the first member."""

    @jax.jit
    def solved(a):
        def residual(t, y):
            x, v = y[..., 0, 0], y[..., 0, 1]
            return jnp.stack([v + x + 0 * a, v + a * x], axis=-1)

        s = smnn_jax.solve(residual, [0.0, 1.0], [[1.0]], mesh=[0.0, 0.5, 1.0], points=3, tolerance=1e-3)
        return s.converged, s(1.0)[:, 0, 0], s(0.5 + a[0])[0, 0, 0]

    converged, y, beyond = solved(jnp.array([[1.0], [2.0]]))
    assert np.isnan(beyond).all()
    np.testing.assert_array_equal(converged, [True, False])
    assert abs(y[0] - np.exp(-1)) < 1e-3


@pytest.mark.parametrize("transform", [jax.jit, jax.vmap])
def test_jit_and_vmap_without_a_mesh_are_refused_by_name(transform):
    with pytest.raises(smnn.ArgumentError, match=r"under jit and vmap: give mesh="):
        transform(logistic)(Q[:, None])


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"mesh": None}, smnn.ArgumentError, "give mesh="),
        ({"times": "traced"}, smnn.ArgumentError, "times has none of"),
        (
            {"conditions": lambda y: y[..., 0, 0, :], "guess": [[1.0], [1.0]]},
            smnn.ArgumentError,
            "order= must be given",
        ),
        ({"order": [1, 1]}, smnn.ShapeError, "order has 2 numbers"),
        ({"conditions": {0: [[1.0]], 1: [[1.0]]}}, smnn.ArgumentError, "2 conditions are given, and 1 are needed"),
        ({"conditions": {0.5: [[1.0]]}}, smnn.ArgumentError, "none of times"),
        ({"mesh": [0.0, 0.5]}, smnn.ArgumentError, "mesh must begin and end"),
        ({"tolerance": 1e-16}, smnn.ArgumentError, "tolerance"),
    ],
)
def test_what_cannot_be_traced_is_said(change, error, match):
    def value(k):
        arguments = {"times": [0.0, 1.0], "conditions": [[1.0]], "mesh": MESH} | change
        if arguments["times"] == "traced":
            arguments["times"] = jnp.stack([0 * k, k])
        return smnn_jax.solve(lambda t, y: y[..., 1] + k * y[..., 0], **arguments).y

    with pytest.raises(error, match=match):
        jax.eval_shape(value, 1.0)


def test_a_traced_solution_has_no_values():
    def value(k):
        s = smnn_jax.solve(lambda t, y: y[..., 1] + k * y[..., 0], [0.0, 1.0], [[1.0]], mesh=MESH)
        assert s.orders == (1,)
        assert "5 intervals, traced" in repr(s)
        with pytest.raises(smnn.ArgumentError, match="no values of its own"):
            s.plot()
        return s.y

    assert jax.eval_shape(value, 1.0).shape == (6, 1, 2)


def test_arrays_that_jit_does_not_trace_have_values_there():
    nan, mesh = jnp.nan, jnp.linspace(0.0, 1.0, 6)
    conditions = {0: jnp.array([[1.0, nan]]), 1: jnp.array([[nan, -1.0]])}  # y(0) and y'(1)

    @jax.jit
    def end(k):
        s = smnn_jax.solve(lambda t, y: y[..., 2] - k**2 * y[..., 0], [0, 1], conditions, mesh=mesh)
        return s([1.0])[0, 0, 0]

    b = (-1 - np.sinh(1.0)) / np.cosh(1.0)  # of y = cosh t + b sinh t
    assert abs(end(1.0) - (np.cosh(1.0) + b * np.sinh(1.0))) < 1e-8
