"""`smnn_jax.fit`: the core's, for callbacks that return values alone."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import smnn_core as smnn
import smnn_jax as sj
from benchmarks.fitting_problems import fitzhugh_nagumo, fitzhugh_nagumo_field, spikes


def test_equals_the_core_with_derivatives_by_hand() -> None:
    def residual(t: Any, y: Any, θ: Any) -> Any:
        a, b, c = θ[..., 0], θ[..., 1], θ[..., 2]
        return y[..., 1] - jnp.stack(fitzhugh_nagumo_field((y[..., 0, 0], y[..., 1, 0]), (a, b, c)), -1)

    problem = spikes("", (1, 1, 1))
    t, data = problem.t[::8], problem.data(5)[:, ::8]
    r = sj.fit(residual, t, jnp.asarray(data), jnp.ones((5, 3)), noise=0.2)
    core = smnn.fit(fitzhugh_nagumo, t, data, np.ones((5, 3)), noise=0.2)
    np.testing.assert_allclose(r.parameters, core.parameters, rtol=1e-8)
    np.testing.assert_allclose(r.standard_errors, core.standard_errors, rtol=1e-8)


def test_names_observables_noise_initial_values_and_inputs() -> None:
    def residual(t: Any, y: Any, θ: Any, u: Any) -> Any:
        return y[..., 1] + θ["k"][..., None] * y[..., 0] - u

    def observe(t: Any, y: Any, θ: Any, u: Any) -> Any:
        return θ["a scale"][..., None] * y[..., 0]

    def noise(t: Any, y: Any, θ: Any, u: Any) -> Any:
        return θ["σ"][..., None] + 0 * y[..., 0]

    def initial(θ: Any, u: Any) -> Any:
        return jnp.stack([0 * θ["k"]], -1)

    rng, t = np.random.default_rng(0), np.linspace(0, 4, 50)
    data = [7 * c / 1.3 * (1 - np.exp(-1.3 * t)) + 0.05 * rng.standard_normal(50) for c in (1.0, 2.0)]
    start = {"k": 0.5, "a scale": smnn.Parameter(1.0, log=True), "σ": smnn.Parameter(1.0, log=True)}
    r = sj.fit(residual, t, data, start, observe=observe, noise=noise, initial=initial, inputs=[1.0, 2.0], variables=1)
    assert r.names == ("k", "a scale", "σ")
    assert (np.abs(r.parameters - [1.3, 7.0, 0.05]) < 4 * r.standard_errors).all()
    assert r.predict([1.0], observe, experiment=1).value[0, 0] == pytest.approx(14 / 1.3 * (1 - np.exp(-1.3)), abs=0.1)


def test_it_says_that_it_cannot_be_traced() -> None:
    def decay(t: Any, y: Any, k: Any) -> Any:
        return y[..., 1] + k * y[..., 0]

    t, data = [0.0, 1.0], [1.0, 0.5]
    for traced in (
        lambda x: sj.fit(decay, t, x * jnp.ones(2), [1.0]),
        lambda x: sj.fit(decay, t, data, [1.0], noise=x),
        lambda x: sj.fit(decay, t, data, [1.0], initial=[x]),
        lambda x: sj.fit(decay, t, data, [1.0], initial=lambda k: x + 0 * k),
        lambda x: sj.fit(lambda t, y, k: decay(t, y, x * k), t, data, [1.0]),
        lambda x: sj.fit(lambda t, y, k, u: decay(t, y, k * u), t, data, [1.0], inputs=x),
    ):
        with pytest.raises(smnn.ArgumentError, match=r"cannot be traced.* smnn_jax\.solve has"):
            jax.grad(lambda x, traced=traced: traced(x).parameters[0])(1.0)


def test_a_residual_that_is_no_array_is_refused() -> None:
    with pytest.raises(smnn.ArgumentError, match="residual must return an array"):
        sj.fit(lambda t, y, k: None, [0.0, 1.0], [1.0, 2.0], [1.0])


def test_doses_by_a_function_of_a_parameter() -> None:
    t = np.linspace(0.5, 10, 20)
    at, amounts = np.array([4.2, 7.0]), np.array([100.0, 50.0])
    data = (
        4 * np.exp(-0.4 * t) + (np.where(t[:, None] > at, np.exp(-0.4 * (t[:, None] - at)), 0.0) * amounts).sum(-1) / 25
    )
    r = sj.fit(
        lambda t, y, θ: y[..., 1] + θ["k"][..., None] * y[..., 0],
        t,
        data,
        {"k": 1.0, "volume": 10.0},
        noise=0.01,
        t0=0.0,
        initial=lambda θ: 100 / θ["volume"][..., None],
        jumps=(at, lambda θ: (amounts / θ["volume"][..., None])[..., None]),
        variables=1,
    )
    assert r.converged
    np.testing.assert_allclose(r.parameters, [0.4, 25.0], rtol=1e-4)


def test_a_network_is_a_pytree_of_weights() -> None:
    def apply(weights: Any, x: Any) -> Any:
        for W, b in weights[:-1]:
            x = jnp.tanh(x @ W + b)
        return x @ weights[-1][0] + weights[-1][1]

    def residual(t: Any, y: Any, θ: Any) -> Any:
        return y[..., 1] + θ["rate"][..., None] * y[..., 0] - apply(θ["source"], y[..., 0])

    keys, sizes = jax.random.split(jax.random.key(0), 2), (1, 8, 1)
    weights = [
        (jax.random.normal(k, (m, n)) / m**0.5, jnp.zeros(n)) for k, m, n in zip(keys, sizes, sizes[1:], strict=False)
    ]
    t = np.linspace(0, 4, 81)
    rng, data = np.random.default_rng(0), []
    for start in (0.2, 3.0):  # y' = -y + 2 / (1 + y^2), Euler's method with short steps
        y, path = start, []
        for _ in t:
            path.append(y)
            for _ in range(50):
                y += 0.001 * (-y + 2 / (1 + y * y))
        data.append(np.array(path)[:, None] + 0.01 * rng.standard_normal((81, 1)))
    parameters = {"rate": smnn.Parameter(1.0, prior=(1.0, 1e-3)), "source": weights}
    r = sj.fit(residual, t, data, parameters, noise=0.01)
    assert r.converged
    assert jax.tree_util.tree_structure(r.networks["source"]) == jax.tree_util.tree_structure(weights)
    x = jnp.linspace(0.4, 2.5, 20)[:, None]
    np.testing.assert_allclose(apply(r.networks["source"], x), 2 / (1 + x * x), atol=0.06)
    band = r.predict(t[::10], lambda t, y, θ: apply(θ["source"], y[..., 0]), experiment=1)
    assert band.error.max() < 0.2
