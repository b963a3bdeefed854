"""Derivatives of first order alone: right, and refused where they are differentiated."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import smnn_core as smnn
import smnn_jax
from smnn_jax._once import once

q = jnp.array([1.0, 0.7, 1.3])
T, h = 5, 0.1


def plain(q):
    return once("plain", jnp.sin(q) * q.sum())[0]


def test_second_derivatives_are_refused():
    seconds = [jax.hessian, lambda f: jax.jacrev(jax.jacrev(f)), lambda f: jax.jacfwd(jax.jacfwd(f))]
    for transform in (*seconds, lambda f: jax.jit(jax.jacrev(jax.jacfwd(f)))):
        with pytest.raises(smnn.ArgumentError, match="plain has first derivatives alone"):
            transform(plain)(q)


def test_a_step_of_a_fit():
    data = jnp.exp(-h * jnp.arange(T))[:, None]
    weights = smnn_jax.Weights(10.0, 1.0, 1000.0)
    options = {"order": 3, "noise": 0.02, "guess": jnp.ones((T, 1, 4)), "max_iterations": 2, "weights": weights}

    def cost(k):
        return smnn_jax.fit_ode(lambda t, y: y[..., 1] + k * y[..., 0], data, h, **options).cost

    assert np.isfinite(jax.grad(cost)(0.8))
    with pytest.raises(smnn.ArgumentError, match="fit_ode has first derivatives alone"):
        jax.grad(jax.grad(cost))(0.8)


def test_first_derivatives_are_those_without():
    for derive in (jax.jacfwd, jax.grad):
        np.testing.assert_allclose(derive(plain)(q), jax.grad(lambda q: (jnp.sin(q) * q.sum())[0])(q), rtol=1e-6)
