"""Programs that are found again by what a function does: never for a function that does something else."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import smnn_jax
from smnn_jax._programs import _program, as_program

X = jnp.arange(3.0)


def powers(k, n=2, limit=10.0):
    """k x^n with a loop around it, which doubles it until it reaches the limit."""
    return lambda x: jax.lax.while_loop(lambda y: jnp.max(y) < limit, lambda y: 2.0 * y, k * x**n + 1.0)


def misses():
    return _program.cache_info().misses


def test_the_same_operations_are_one_program_whatever_arrays_they_hold():
    as_program(powers(jnp.asarray(1.5)), X)
    before = misses()
    for k in (jnp.asarray(2.5), jnp.asarray(-1.5)):
        assert np.array_equal(as_program(powers(k), X)(X), powers(k)(X))
    assert misses() == before


@pytest.mark.parametrize("other", [{"n": 3}, {"limit": 20.0}, {"k": 3.0}])
def test_other_numbers_in_operations_are_other_results(other):
    as_program(powers(1.0), X)(X)
    changed = powers(**{"k": 1.0} | other)
    assert np.array_equal(as_program(changed, X)(X), changed(X))


def test_numbers_are_those_of_the_call():
    as_program(lambda x: 1.25 * x, X)
    before = misses()
    assert np.array_equal(as_program(lambda x: 7.0 * x, X)(X), 7.0 * X)
    assert misses() == before


def test_derivatives_reach_what_is_closed_over():
    assert jax.grad(lambda k: as_program(lambda x: jnp.sum(k**2 * x), X)(X))(3.0) == 18.0


@pytest.mark.slow
def test_derivatives_with_other_numbers_are_not_compiled_again():
    def end(k, rate):
        return smnn_jax.solve(lambda t, y: y[..., 1] + k * rate * y[..., 0], [0, 1], jnp.ones((1, 1)))([1.0])[0, 0, 0]

    jax.grad(end)(1.0, 0.5)
    before = misses()
    assert np.allclose(jax.grad(end)(1.0, 0.7), -0.7 * np.exp(-0.7), atol=1e-5)
    assert misses() == before


@pytest.mark.slow
def test_eager_vmap_on_a_mesh_compiles_once():
    def middle(k):
        s = smnn_jax.solve(
            lambda t, y: y[..., 2] + k * y[..., 0], [0, 1], {0: [[0, np.nan]], 1: [[1, np.nan]]}, mesh=[0, 0.5, 1]
        )
        return s([0.5])[0, 0, 0]

    k = jnp.array([1.0, 2.0])
    jax.vmap(middle)(k)
    before = misses()
    found = jax.vmap(middle)(2 * k)
    assert np.allclose(found, jnp.sin(jnp.sqrt(2 * k) / 2) / jnp.sin(jnp.sqrt(2 * k)), atol=1e-4)
    assert misses() == before
