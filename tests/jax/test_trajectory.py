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


@pytest.mark.parametrize("transform", [jax.grad, jax.hessian])
def test_derivatives(transform):
    assert np.allclose(transform(logistic)(Q), transform(exact_logistic)(Q), atol=1e-9)


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


@pytest.mark.parametrize("transform", [jax.jit, jax.vmap])
def test_jit_and_vmap_are_refused_by_name(transform):
    with pytest.raises(smnn.ArgumentError, match="jit and vmap"):
        transform(logistic)(Q[:, None])
