"""The posterior of JAX arrays against the core, and its derivatives, under transforms."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from _jax_case import make_arguments, on_jax

import smnn_core as smnn
import smnn_jax

FIELDS = ("mean", "variance", "covariance", "lag_covariance", "log_determinant", "sum_of_squares", "scale")


def posterior(
    coefficients, rhs, initial_values, step_sizes, equation, initial, smoothness, *, core=False, **options
) -> smnn.Posterior:
    f = smnn.posterior if core else smnn_jax.posterior
    weights = smnn.Weights(equation, initial, smoothness)
    return f(coefficients, rhs, initial_values, step_sizes, weights=weights, **options)


def evidence(coefficients, rhs, initial_values, step_sizes, equation, initial, smoothness) -> Any:
    weights = smnn.Weights(equation, initial, smoothness)
    observed = jnp.arange(2)[:, None, None] > 0
    return smnn_jax.log_evidence(coefficients, rhs, initial_values, step_sizes, observed=observed, weights=weights)


def test_fields_are_those_of_the_core() -> None:
    arguments = make_arguments((2,))
    p, core = jax.jit(posterior)(**on_jax(arguments)), posterior(**arguments, core=True)
    for name in FIELDS:
        np.testing.assert_allclose(getattr(p, name), getattr(core, name), rtol=1e-9, atol=1e-12, err_msg=name)


@pytest.mark.parametrize("name", ["covariance", "lag_covariance", "evidence", "sample"])
def test_gradients_are_those_of_finite_differences(name: str) -> None:
    arguments = on_jax(make_arguments((2,)))
    key = jax.random.key(0)

    def value(arguments: dict[str, Any]) -> Any:
        if name == "evidence":
            return evidence(**arguments)
        p = posterior(**arguments)
        return p.sample(1, key) if name == "sample" else getattr(p, name)

    weights = np.random.default_rng(0).normal(size=jax.eval_shape(value, arguments).shape)
    loss = jax.jit(lambda arguments: jnp.sum(value(arguments) * weights))
    rng = np.random.default_rng(1)
    direction = {k: jnp.asarray(rng.normal(size=x.shape)) for k, x in arguments.items()}
    h = 1e-5
    ahead, behind = ({k: x + sign * h * direction[k] for k, x in arguments.items()} for sign in (1, -1))
    gradient = jax.jit(jax.grad(loss))(arguments)
    parts = [jnp.sum(gradient[k] * direction[k]) for k in arguments]
    tolerance = 1e-6 * sum(map(abs, parts))
    assert abs((loss(ahead) - loss(behind)) / (2 * h) - sum(parts)) < tolerance


def test_vmap_over_one_input_gives_every_member_its_gradient() -> None:
    arguments = on_jax(make_arguments(()))
    c, w = arguments.pop("coefficients"), arguments.pop("equation")

    def gradients(c: Any, w: Any) -> Any:
        def loss(c: Any, w: Any) -> Any:
            p = posterior(coefficients=c, equation=w, **arguments)
            return jnp.sum(p.lag_covariance**2) + p.log_determinant + p.sum_of_squares

        return jax.grad(loss, (0, 1))(c, w)

    many, weights = jnp.stack([c, 1.1 * c]), jnp.stack([w, 2 * w, 3 * w])
    found = jax.vmap(jax.vmap(gradients, (None, 0)), (0, None))(many, weights)
    for x, y in zip(found, gradients(many[1], weights[2]), strict=True):
        np.testing.assert_allclose(x[1, 2], y, rtol=1e-8, atol=1e-10)


def test_a_second_derivative_raises() -> None:
    arguments = on_jax(make_arguments(()))
    c = arguments.pop("coefficients")
    first = jax.grad(lambda c: jnp.sum(posterior(coefficients=c, **arguments).variance))
    with pytest.raises(smnn.ArgumentError, match="first order only"):
        jax.grad(lambda c: jnp.sum(first(c)))(c)


def test_what_is_read_inside_of_a_transform_stays_there() -> None:
    p = posterior(**on_jax(make_arguments(())))
    inside = jax.jit(lambda x: x * p.variance)(2.0)
    np.testing.assert_allclose(inside, 2 * p.variance)


def test_singular_systems_raise_and_come_back_as_nan_where_they_are_traced() -> None:
    arguments = jnp.zeros((1, 1, 1, 3)), jnp.zeros((1, 1)), jnp.zeros((1, 1, 1)), jnp.full((3,), 0.1)
    with pytest.raises(smnn.SingularSystemError):
        smnn_jax.posterior(*arguments)
    assert bool(jnp.all(jnp.isnan(jax.jit(lambda *x: smnn_jax.posterior(*x).variance)(*arguments))))
