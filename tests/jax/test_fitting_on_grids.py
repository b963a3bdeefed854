"""Fits in JAX: under jit, vmap and grad, with closures that are traced."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.test_util import check_grads

import smnn_core as smnn
import smnn_jax as sj

Array = Any


def decay(t: Array, y: Array, k: Array) -> Array:
    return y[..., 1] + k * y[..., 0]


def decays(T: int = 41) -> Array:
    return 3 * jnp.exp(-1.3 * 0.05 * jnp.arange(T))[:, None]


def noisy_decays(members: int) -> Array:
    return decays() + 0.1 * np.random.default_rng(0).normal(size=(members, 41, 1))


def of_the_core(data: Array, **options: Any) -> smnn.Fit:
    def linearize(t: Array, y: Array, k: Array) -> tuple[Array, Array, Array]:
        value = y[..., 0, 0]
        J = np.stack([k[..., 0] + 0 * value, 1 + 0 * value, 0 * value], axis=-1)
        return decay(t, y, k), J[..., None, None, :], value[..., None, None]

    return smnn.fit_ode(linearize, np.array(data), 0.05, np.ones(1), order=2, **options)


def assert_same(found: Array, expected: np.ndarray, rtol: float) -> None:
    np.testing.assert_allclose(found, np.broadcast_to(expected, found.shape), rtol=rtol)


@pytest.mark.parametrize(
    "options",
    [{"noise": 0.1}, {"shared": True}, {"weights": sj.Weights(equation=100.0, smoothness=1e4), "y_errors": True}],
    ids=["noise", "shared", "weights"],
)
def test_fits_of_noisy_data_are_those_of_the_core(options: dict[str, Any]) -> None:
    data = noisy_decays(3)
    r = jax.jit(lambda data: sj.fit_ode(decay, data, 0.05, jnp.ones(1), order=2, **options))(data)
    core = of_the_core(data, **options)
    assert jnp.all(r.converged)
    assert core.converged.all()
    np.testing.assert_allclose(r.parameters, core.parameters, atol=0.01 * core.standard_errors.min())
    assert_same(r.standard_errors, core.standard_errors, 0.01)
    assert_same(r.noise, core.noise, 0.01)
    if core.y_errors is not None:
        assert_same(r.y_errors, core.y_errors, 1e-3)


def test_bounds_and_errors_of_members_fitted_by_vmap_are_those_of_the_core() -> None:
    data, upper = noisy_decays(3), jnp.array([[1.2], [1.5], [1.5]])

    def fit(data: Array, upper: Array) -> sj.Fit:
        return sj.fit_ode(decay, data, 0.05, jnp.ones(1), order=2, bounds=(None, upper), y_errors=True)

    r, core = jax.vmap(fit)(data, upper), of_the_core(data, bounds=(None, np.array(upper)), y_errors=True)
    assert np.isnan(core.standard_errors).sum() == 1  # one is held by its bound
    for name in ("parameters", "standard_errors", "noise"):
        assert_same(getattr(r, name), getattr(core, name), 0.01)
    # at the ends they depend on the weight of the equations
    assert_same(r.y_errors[..., 0], core.y_errors[..., 0], 0.05)


def test_derivatives_of_free_parameters_and_of_those_that_a_bound_holds() -> None:
    """y = a exp(-k t), the noise estimated: those of linear regression."""
    bounds = (0.0, jnp.array([[2.0], [1.1]]))

    def fitted(data: Array) -> tuple[Array, Array]:
        r = sj.fit_ode(decay, data, 0.05, jnp.ones(1), order=2, bounds=bounds, y_errors=True)
        return jnp.sum(r.parameters), (r.parameters, r.y_errors)

    gradient, (k, errors) = jax.jit(jax.grad(fitted, has_aux=True))(jnp.stack([decays()] * 2))
    assert jnp.all(jnp.isfinite(errors))
    t = 0.05 * np.arange(41)
    regression = np.linalg.pinv(np.stack([np.exp(-1.3 * t), -3 * t * np.exp(-1.3 * t)], axis=-1))
    np.testing.assert_allclose(k[:, 0], [1.3, 1.1], rtol=1e-3)
    np.testing.assert_allclose(gradient[0, :, 0], regression[1], atol=0.01 * np.abs(regression[1]).max())
    np.testing.assert_array_equal(gradient[1], 0)


def test_shared_parameters_of_several_data_sets_and_missing_values() -> None:
    data = jnp.stack([decays(), 2 * decays()]).at[1, 5:30].set(jnp.nan)
    r = jax.jit(lambda data: sj.fit_ode(decay, data, 0.05, jnp.ones(1), order=2, noise=0.01, shared=True))(data)
    assert r.parameters.shape == (1,)
    np.testing.assert_allclose(r.parameters, 1.3, rtol=1e-3)
    assert r.y.shape == (2, 41, 1, 3)


def test_derivatives_of_parameters_in_the_data() -> None:
    weights = sj.Weights(equation=100.0, smoothness=1e4)

    @jax.jit
    def fitted(data: Array, noise: Array) -> tuple[Array, Array]:
        r = sj.fit_ode(decay, data, 0.05, jnp.full(1, 1.2), order=2, noise=noise, weights=weights)
        return r.parameters, r.y[..., :1]

    check_grads(fitted, (decays(11), jnp.asarray(0.01)), order=1, modes=("rev",), eps=1e-4, rtol=1e-3, atol=1e-3)


def oscillations() -> Array:
    """Two trajectories of y'' + y + 0.2 y' = 0, (2, 101, 1)."""
    t, w = jnp.arange(101) * 0.1, (1 - 0.01) ** 0.5
    wave = jnp.exp(-0.1 * t) * jnp.stack([jnp.cos(w * t), 2 * jnp.sin(w * t)])
    return wave[..., None] + 0.02 * np.random.default_rng(0).normal(size=(2, 101, 1))


def network(parameters: list[Array], v: Array) -> Array:
    a, b, c = parameters
    return jnp.tanh(v * a + b) @ c


def test_a_network_is_trained_with_the_guess_of_the_step_before() -> None:
    data, optimizer = oscillations(), optax.adam(3e-2)
    keys = jax.random.split(jax.random.key(0), 2)
    parameters = [jax.random.normal(keys[0], (8,)), jnp.zeros(8), 0.1 * jax.random.normal(keys[1], (8,))]

    def loss(parameters: list[Array], guess: Array | None) -> tuple[Array, Array]:
        def residual(t: Array, y: Array) -> Array:
            return y[..., 2] + y[..., 0] + network(parameters, y[..., 1])[..., None]

        options = {"guess": guess, "max_iterations": None if guess is None else 1}
        r = sj.fit_ode(residual, data, 0.1, order=2, noise=0.02, weights=sj.Weights(10.0, 1.0, 1e3), **options)
        return jnp.sum(r.cost), r.y

    @jax.jit
    def step(parameters: list[Array], state: Any, guess: Array) -> tuple[Any, ...]:
        (cost, guess), gradient = jax.value_and_grad(loss, has_aux=True)(parameters, guess)
        updates, state = optimizer.update(gradient, state)
        return optax.apply_updates(parameters, updates), state, guess, cost, gradient

    _, guess = jax.jit(loss)(parameters, None)
    state, before = optimizer.init(parameters), parameters
    for i in range(150):
        before, (parameters, state, guess, _, gradient) = parameters, step(parameters, state, guess)
        if i == 0:  # the gradient is that of the minimum, by differences of the fitted cost
            moved = [[before[0], before[1], before[2] + h] for h in (1e-4, -1e-4)]
            up, down = (jax.jit(loss)(p, None)[0] for p in moved)
            np.testing.assert_allclose(jnp.sum(gradient[2]), (up - down) / 2e-4, rtol=1e-3)
    v = jnp.linspace(-1, 1, 21)[:, None]
    error = jnp.sqrt(jnp.mean((network(parameters, v) - 0.2 * v[:, 0]) ** 2))
    assert error < 0.05  # a quarter of the friction at v = 1


def test_errors_name_what_is_wrong() -> None:
    with pytest.raises(smnn.ArgumentError, match="start values of parameters must lie within"):
        sj.fit_ode(decay, decays(), 0.1, jnp.ones(1), order=2, bounds=(2.0, 3.0))
    with pytest.raises(smnn.ShapeError, match=r"the lower bound must be a number or have shape"):
        sj.fit_ode(decay, decays(), 0.1, jnp.ones(1), order=2, bounds=(jnp.zeros(3), None))
    with pytest.raises(TypeError, match="bounds must be a pair"):
        sj.fit_ode(decay, decays(), 0.1, jnp.ones(1), order=2, bounds=1.0)
    with pytest.raises(smnn.ShapeError, match="data must have shape"):
        sj.fit_ode(decay, decays()[:, 0], 0.1, jnp.ones(1), order=2, noise=0.1)
    with pytest.raises(smnn.ShapeError, match="Are step_sizes the times"):
        sj.fit_ode(decay, jnp.ones((11, 1)), jnp.linspace(0, 1, 11), jnp.ones(1), order=2, noise=0.1)
    with pytest.raises(smnn.NamespaceError, match=r"parameters must be a jax\.Array, got list"):
        sj.fit_ode(decay, decays(), 0.1, [1.0], order=2, noise=0.1)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"data": jnp.full((11, 1), jnp.inf)}, smnn.ArgumentError, "data contains infinite"),
        ({"data": jnp.zeros((0, 11, 1))}, smnn.ShapeError, "hold no data set"),
        ({"step_sizes": 0.0}, smnn.ArgumentError, "step_sizes contains a zero"),
        ({"noise": 0.0}, smnn.ArgumentError, "noise"),
        ({"noise": np.array([-1.0])}, smnn.ArgumentError, "noise"),
        ({"scale": -1.0}, smnn.ArgumentError, "scale"),
        ({"weights": sj.Weights(initial=5.0)}, smnn.ArgumentError, "weights.initial"),
        ({"weights": (1, 1)}, TypeError, "weights must be Weights"),
        ({"max_iterations": 0}, smnn.ArgumentError, "max_iterations"),
        ({"bounds": (jnp.full(1, 2.0), None)}, smnn.ArgumentError, "start values"),
        ({"shared": True, "bounds": (jnp.zeros((3, 1)), None)}, smnn.ShapeError, "lower bound of shared parameters"),
        ({"data": jnp.ones((2, 11, 1)), "scale": jnp.ones((3, 1))}, smnn.ShapeError, "scale, .* do not broadcast"),
    ],
)
def test_values_that_no_fit_can_use(changes: dict[str, Any], error: type, message: str) -> None:
    arguments = {"data": jnp.ones((11, 1)), "step_sizes": 0.1, "parameters": jnp.ones(1), "order": 2} | changes
    with pytest.raises(error, match=message):
        sj.fit_ode(decay, **arguments)
    with pytest.raises(error, match=message):
        jax.jit(lambda: sj.fit_ode(decay, **arguments).cost)()


@pytest.mark.parametrize("weights", [None, sj.Weights(equation=100.0, smoothness=1e4)])
def test_missing_values_of_a_guess_start_from_a_smooth_curve(weights: sj.Weights | None) -> None:
    data, guess = noisy_decays(2), jnp.full((2, 41, 1, 3), jnp.nan).at[:, ::2].set(0.0)
    options = {"noise": 0.1, "guess": guess, "weights": weights}
    found = sj.fit_ode(decay, data, jnp.asarray(0.05), jnp.ones(1), order=2, **options)
    core = of_the_core(data, **options | {"guess": np.array(guess)})
    np.testing.assert_allclose(found.parameters, core.parameters, atol=0.01 * core.standard_errors.min())
    shapes = [[x.shape for x in (r.noise, r.scale, *vars(r.weights).values())] for r in (found, core)]
    assert shapes[0] == shapes[1]


def test_iterations_are_limited_and_other_warnings_stay() -> None:
    data = decays() + 0.1 * jnp.cos(9.0 * jnp.arange(41))[:, None]

    def fit(most: int) -> smnn.Fit:
        return sj.fit_ode(decay, data, 0.05, jnp.ones(1), order=2, noise=0.01, max_iterations=most)

    few = fit(3)
    assert few.iterations == 3
    assert not few.converged
    with pytest.warns(smnn.MisfitWarning, match="1 of 1 fits"):
        assert 3 < fit(50).iterations < 50


@pytest.mark.parametrize("name", ["t0", "weights", "scale"])
def test_any_argument_may_have_the_batch_axes(name: str) -> None:
    x = {"t0": jnp.zeros(3), "scale": jnp.ones((3, 1)), "weights": sj.Weights(jnp.full((3, 1, 1), 10.0))}[name]
    r = sj.fit_ode(decay, decays(), 0.05, jnp.ones(1), order=2, noise=0.1, **{name: x})
    assert r.parameters.shape == (3, 1)
    np.testing.assert_allclose(r.parameters, r.parameters[:1].repeat(3, 0), rtol=1e-9)


def test_a_fit_that_explains_too_little_is_a_warning_outside_of_jit() -> None:
    data = decays() + 0.1 * jnp.cos(9.0 * jnp.arange(41))[:, None]
    with pytest.warns(smnn.MisfitWarning, match="1 of 1 fits"):
        sj.fit_ode(decay, data, 0.05, jnp.ones(1), order=2, noise=0.01)


def test_parameters_that_the_data_do_not_determine_are_a_warning_outside_of_jit() -> None:
    """y' + (k + l) y = 0 determines the sum alone."""
    with pytest.warns(smnn.ConvergenceWarning, match="do not determine all parameters of 1 of 1"):
        sj.fit_ode(
            lambda t, y, k: decay(t, y, k[..., :1] + k[..., 1:]), decays(), 0.05, jnp.ones(2), order=2, noise=0.1
        )


def test_a_fit_in_float32_where_float64_is_off() -> None:
    noisy = noisy_decays(1)[0]
    core = of_the_core(noisy)
    with jax.enable_x64(False):
        data = noisy.astype(jnp.float32)
        r = sj.fit_ode(decay, data, 0.05, jnp.ones(1, jnp.float32), order=2)
    assert r.parameters.dtype == jnp.float32
    assert r.converged
    np.testing.assert_allclose(r.parameters, core.parameters, atol=0.05 * core.standard_errors[0])
