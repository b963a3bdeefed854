"""`solve` with many variables in JAX: Jacobians by groups of equations, derivatives by sweeps."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

import smnn_jax
from smnn_jax import _trajectory

V = 20
START = jnp.sin(jnp.pi * jnp.arange(1, V + 1) / (V + 1))
RATE = 4 * (V + 1) ** 2 * np.sin(np.pi / 2 / (V + 1)) ** 2


LINES = (V + 1) ** 2 * (2 * np.eye(V) - np.eye(V, k=1) - np.eye(V, k=-1))


def residual(k):
    return lambda t, y: y[..., 1] + k * (y[..., 0] @ LINES)


def end(k):
    """Of the heat equation by lines between zeros, at t = 0.1."""
    return smnn_jax.solve(residual(k), [0, 0.1], START[:, None], tolerance=1e-8, order=1)(0.1)[V // 2, 0]


def test_first_and_second_derivatives():
    value = np.exp(-0.07 * RATE) * START[V // 2]
    found = jax.jvp(jax.grad(end), (0.7,), (1.0,))
    assert np.allclose(found, value * np.array([-0.1 * RATE, (0.1 * RATE) ** 2]), rtol=1e-6)


def test_jacobian_by_groups_is_that_by_equations():
    equations = _trajectory._Equations(residual(0.7), 0, jnp.zeros(()).dtype)
    arguments = np.zeros(7), np.random.default_rng(0).uniform(size=(7, V, 2)), np.zeros((1, 0))
    f, J, _ = equations.linearize(*arguments)
    assert equations.groups.count == 3
    again, sparse, _ = equations.linearize(*arguments)
    assert np.array_equal(f, again)
    assert np.allclose(sparse.dense(V, V, 2), J, rtol=1e-14)
