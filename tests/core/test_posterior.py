"""The posterior and the evidence: against dense matrices, and their laws."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from _assert import assert_close, eps
from _backends import Backend
from _strategies import ProblemData, problems
from hypothesis import given, settings
from hypothesis import strategies as st

import smnn_core as smnn

ENGINES = pytest.mark.parametrize("engine", ["array_api", "blocks", "cpu"])
OSCILLATOR = np.array([4.0, 0.2, 1.0])


def dense(*arguments: np.ndarray, **options: Any) -> tuple[np.ndarray, ...]:
    """y and Σ of all unknowns, log det M and the minimum, of the dense problem; and the condition number of W A."""
    A, d = smnn.dense_system(*arguments, **options)
    norms = np.linalg.norm(A, axis=-2, keepdims=True)
    Q, R = np.linalg.qr(A / norms)
    R_inverse = np.linalg.inv(R)
    Σ = R_inverse @ np.swapaxes(R_inverse, -1, -2) / norms / np.swapaxes(norms, -1, -2)
    z = (np.swapaxes(Q, -1, -2) @ d[..., None])[..., 0]
    y = (R_inverse @ z[..., None])[..., 0] / norms[..., 0, :]
    logs = np.log(np.abs(np.diagonal(R, axis1=-2, axis2=-1))) + np.log(norms[..., 0, :])
    r = d - (Q @ z[..., None])[..., 0]
    return y, Σ, 2 * logs.sum(-1), (r * r).sum(-1), np.linalg.cond(A / norms)


def blocks(Σ: np.ndarray, T: int) -> tuple[np.ndarray, np.ndarray]:
    """The blocks in and beside the diagonal."""
    n = Σ.shape[-1] // T
    x = Σ.reshape(*Σ.shape[:-2], T, n, T, n)
    diagonal = np.stack([x[..., t, :, t, :] for t in range(T)], -3)
    return diagonal, np.stack([x[..., t, :, t + 1, :] for t in range(T - 1)], -3)


def oscillator(orders: int, T: int, s: Any, **weights: Any) -> tuple[tuple[np.ndarray, ...], dict[str, Any]]:
    """y'' + 0.2 y' + 4 y = 0, y(0) = 1, y'(0) = 0, with weights as given."""
    c = np.zeros((1, 1, 1, orders))
    c[..., :3] = OSCILLATOR
    s = np.atleast_1d(np.asarray(s, dtype=np.float64))
    arguments = c, np.zeros((1, 1)), np.array([[[1.0, 0.0]]]), s
    return arguments, {"n_steps": T, "weights": smnn.Weights(**weights)}


def test_moments_are_those_of_the_dense_inverse(backend: Backend) -> None:
    @settings(max_examples=backend.examples(19))
    @given(problems(max_steps=3 if backend.name == "jax" else 9))
    def check(data: ProblemData) -> None:
        def moments(*arguments: Any) -> tuple[Any, ...]:
            p = smnn.posterior(*arguments, **data.options(backend))
            return p.covariance, p.lag_covariance, p.variance, p.log_determinant, p.sum_of_squares

        found = backend.jit(moments)(*data.arguments(backend))
        _, Σ, log_det, minimum, condition = dense(*data.arrays, **data.options())
        covariance, lag = blocks(Σ, data.n_steps)
        core = data.n_steps, *data.coefficients.shape[-2:]
        variance = np.diagonal(covariance, axis1=-2, axis2=-1).reshape(*covariance.shape[:-3], *core)
        relative = 20 * eps("float64") * condition
        of_blocks = (relative * np.abs(Σ).max((-2, -1)))[..., None, None, None]
        d = smnn.dense_system(*data.arrays, **data.options())[1]
        expected = covariance, lag, variance, log_det, minimum
        atol = of_blocks, of_blocks, of_blocks, relative * Σ.shape[-1], relative * np.sum(d * d, axis=-1)
        for values in zip(found, expected, atol, strict=True):
            assert_close(*values[:2], backend, atol=values[2], label=repr(data))

    check()


def test_the_mean_is_the_solution() -> None:
    arguments, options = oscillator(4, 30, 0.1, equation=10.0)
    y = smnn.solve_ode(*arguments, scheme=smnn.WIENER, **options)
    np.testing.assert_array_equal(smnn.posterior(*arguments, **options).mean, y)


@ENGINES
@settings(max_examples=25)
@given(problems(max_variables=2), st.integers(0, 2**32 - 1))
def test_the_evidence_is_that_of_the_dense_gaussian(engine: str, data: ProblemData, seed: int) -> None:
    """With prior rows on all unknowns of the first point, and every initial row an observation of the others."""
    T, V, K = data.n_steps, *data.coefficients.shape[-2:]
    rng = np.random.default_rng(seed)
    c, b, _, s = data.arrays
    u = rng.normal(size=(T, V, K))
    w = rng.uniform(0.5, 2, u.shape)
    observed = np.zeros(u.shape, dtype=bool)
    observed[1:, :, 0] = rng.random((T - 1, V)) < 0.7
    w[1:] *= observed[1:]
    weights = {**data.weights, "initial": w}
    options = {**data.options(), "weights": smnn.Weights(**weights)}
    without = {**options, "weights": smnn.Weights(**{**weights, "initial": w * ~observed})}
    found = smnn.log_evidence(c, b, u, s, observed=observed, engine=engine, **options)
    y, Σ, *_, condition = dense(c, b, u, s, **without)
    rows = observed.ravel()
    S = Σ[..., rows, :][..., rows] + np.diag(1 / w.ravel()[rows] ** 2)
    e = u.ravel()[rows] - y[..., rows]
    expected = -(np.sum(e * np.linalg.solve(S, e[..., None])[..., 0], -1) + np.linalg.slogdet(2 * np.pi * S)[1]) / 2
    size = 1 + np.abs(expected) + np.sum(e * e * w.ravel()[rows] ** 2, -1)
    assert np.all(np.abs(found - expected) <= 100 * eps("float64") * condition * size * y.shape[-1])


def test_observed_equations_are_observations_like_others() -> None:
    """The same rows as initial rows, and as equations with one coefficient."""
    rng = np.random.default_rng(0)
    T, s = 6, 0.3
    u, w = np.zeros((T, 1, 3)), np.zeros((T, 1, 3))
    w[0] = 1.0
    data, given = rng.normal(size=T), np.arange(T) > 1
    u[1:, 0, 0], w[1:, 0, 0] = data[1:], np.where(given, 2.0, 0.0)[1:]
    c = np.zeros((1, 1, 1, 3))
    expected = smnn.log_evidence(c, np.zeros((1, 1)), u, s, observed=w == 2.0, weights=smnn.Weights(0.0, w), n_steps=T)
    c[..., 0] = 1.0
    weights = smnn.Weights(equation=np.where(given, 2.0, 0.0)[:, None])
    found = smnn.log_evidence(c, data[:, None], np.zeros((1, 1, 3)), s, observed_equations=True, weights=weights)
    np.testing.assert_allclose(found, expected, rtol=1e-11)


def test_samples_have_the_moments_of_the_posterior() -> None:
    arguments, options = oscillator(3, 7, 0.3, equation=3.0)
    p = smnn.posterior(*arguments, **options)
    size = 20_000
    samples = p.sample(size, np.random.default_rng(0))
    assert samples.shape == (size, 7, 1, 3)
    x = (samples - p.mean).reshape(size, 7, 3)
    z = x.mean(0) / p.standard_deviation.reshape(7, 3) * size**0.5
    assert np.abs(z).max() < 4.5
    deviation = p.standard_deviation.reshape(7, 3)
    scale = np.einsum("ti,tj->tij", deviation, deviation)
    for k, (expected, lag) in enumerate(((p.covariance, 0), (p.lag_covariance, 1))):
        found = np.einsum("sti,stj->tij", x[:, : 7 - lag], x[:, lag:]) / size
        size_of_entries = scale if k == 0 else np.einsum("ti,tj->tij", deviation[:-1], deviation[1:])
        assert np.abs((found - expected) / size_of_entries).max() < 6 / size**0.5


def test_samples_repeat_with_their_generator() -> None:
    arguments, options = oscillator(3, 4, 0.3)
    p = smnn.posterior(*arguments, **options)
    np.testing.assert_array_equal(*(p.sample(2, np.random.default_rng(1)) for _ in range(2)))


@ENGINES
@settings(max_examples=25)
@given(problems(max_steps=7), st.integers(0, 2**32 - 1))
def test_more_data_never_increase_a_variance(engine: str, data: ProblemData, seed: int) -> None:
    arguments, options = data.arrays, {**data.options(), "engine": engine}
    before = smnn.posterior(*arguments, **options).variance
    weights = options["weights"]
    more = np.random.default_rng(seed).uniform(1, 2, (data.n_steps, data.coefficients.shape[-3])) * weights.equation
    after = smnn.posterior(
        *arguments, **{**options, "weights": smnn.Weights(more, weights.initial, weights.smoothness)}
    )
    condition = dense(*arguments, **data.options())[-1]
    assert np.all(after.variance <= before + 20 * eps("float64") * np.max(condition) * before.max())


@ENGINES
@settings(max_examples=25)
@given(st.integers(2, 5), st.integers(2, 6), st.floats(0.1, 0.9), st.integers(0, 2**32 - 1))
def test_a_time_without_data_changes_nothing(engine: str, orders: int, T: int, where: float, seed: int) -> None:
    """Under WIENER with weights from the diffusion: a step that is split, the rest as it was."""
    rng = np.random.default_rng(seed)
    s, j = rng.uniform(0.2, 0.8, T - 1), int(rng.integers(0, T - 1))
    c, u = rng.uniform(-1, 1, (T, 1, 1, orders)), rng.normal(size=(1, 1, orders))
    w_equation = np.ones((T, 1))

    def posterior(c: np.ndarray, s: np.ndarray, w: np.ndarray) -> smnn.Posterior:
        smoothness = smnn.wiener_weight(1.3, s, orders - 1)
        weights = smnn.Weights(equation=w, smoothness=smoothness)
        return smnn.posterior(c, np.ones((1, 1)), u, s, weights=weights, engine=engine)

    whole = posterior(c, s, w_equation)
    fine = np.insert(s, j, where * s[j])
    fine[j + 1] -= fine[j]
    split = posterior(np.insert(c, j + 1, 0, axis=0), fine, np.insert(w_equation, j + 1, 0, axis=0))
    kept = np.delete(np.arange(T + 1), j + 1)
    atol = 1e-9 * np.abs(whole.covariance).max()
    np.testing.assert_allclose(split.covariance[kept], whole.covariance, rtol=0, atol=atol)
    np.testing.assert_allclose(split.mean[kept], whole.mean, rtol=0, atol=1e-9 * np.abs(whole.mean).max())
    np.testing.assert_allclose(split.sum_of_squares, whole.sum_of_squares, atol=1e-9)


def test_independent_variables_have_the_sum_of_their_evidence() -> None:
    """Two uncoupled variables in one system, and the same as a batch of two."""
    rng = np.random.default_rng(0)
    T, K = 6, 3
    c, b, s = rng.uniform(0.5, 1, (2, 1, 1, 1, K)), rng.normal(size=(2, T, 1)), rng.uniform(0.2, 0.5, T - 1)
    u, w = rng.normal(size=(2, T, 1, K)), rng.uniform(1, 2, (2, T, 1, K))
    observed = np.zeros((T, 1, K), dtype=bool)
    observed[1:] = True
    apart = smnn.log_evidence(c, b, u, s, observed=observed, weights=smnn.Weights(initial=w))
    both = np.zeros((1, 2, 2, K))
    both[0, 0, 0], both[0, 1, 1] = c[:, 0, 0, 0]
    joined = [np.concatenate(list(x), axis=1) for x in (b, u, w)]
    together = smnn.log_evidence(
        both, joined[0], joined[1], s, observed=observed, weights=smnn.Weights(initial=joined[2])
    )
    assert apart.shape == (2,)
    np.testing.assert_allclose(together, apart.sum(), rtol=1e-11)


@ENGINES
@pytest.mark.parametrize("orders", [4, 6, 7])
def test_variances_stay_positive_at_high_order_and_short_steps(engine: str, orders: int) -> None:
    s, T = 0.001, 1000
    weight = float(smnn.wiener_weight(1.0, s, orders - 1))
    arguments, options = oscillator(orders, T, s, equation=1e3, initial=1e3, smoothness=weight)
    variance = smnn.posterior(*arguments, engine=engine, **options).variance
    assert variance.min() > 0
    narrow = smnn.posterior(*(x.astype(np.float32) for x in arguments), engine=engine, **options).variance
    assert narrow.dtype == np.float32
    np.testing.assert_allclose(narrow, variance, rtol=1e-3)


def test_high_orders_keep_their_digits() -> None:
    """R = 5, s = 0.001, where the condition number of M is far above 1 / eps: against rational arithmetic."""
    orders, s, T = 6, 2.0**-10, 4
    weight = float(smnn.wiener_weight(1.0, s, orders - 1))
    arguments, options = oscillator(orders, T, s, equation=2.0**10, initial=2.0**10, smoothness=weight)
    A, _ = smnn.dense_system(*arguments, scheme=smnn.WIENER, **options)
    exact = [[Fraction(float(x)) for x in row] for row in A]
    N = T * orders
    M = [[sum(row[i] * row[j] for row in exact) for j in range(N)] for i in range(N)]
    inverse = [[Fraction(i == j) for j in range(N)] for i in range(N)]
    for k in range(N):
        for i in range(N):
            if i != k:
                factor = M[i][k] / M[k][k]
                M[i] = [a - factor * b for a, b in zip(M[i], M[k], strict=True)]
                inverse[i] = [a - factor * b for a, b in zip(inverse[i], inverse[k], strict=True)]
    variance = np.array([float(inverse[i][i] / M[i][i]) for i in range(N)]).reshape(T, 1, orders)
    for engine in ("array_api", "blocks", "cpu"):
        p = smnn.posterior(*arguments, engine=engine, **options)
        np.testing.assert_allclose(p.variance, variance, rtol=1e-10, err_msg=engine)


def test_a_common_factor_of_the_weights_is_found_by_the_scale() -> None:
    arguments, options = oscillator(3, 40, 0.1, initial=5.0)
    c, b, u, s = arguments
    b = np.random.default_rng(0).normal(size=(40, 1))
    p = smnn.posterior(c, b, u, s, **options)
    q = smnn.posterior(c, b, u, s, n_steps=40, weights=smnn.Weights(2.0, 10.0, 2.0))
    np.testing.assert_allclose(q.scale, 2 * p.scale, rtol=1e-10)
    np.testing.assert_allclose(q.scale * q.standard_deviation, p.scale * p.standard_deviation, rtol=1e-10)
    assert p.degrees_of_freedom == 40 + 2 - 3  # equations and initial values, less R+1 that smoothness leaves open


def test_the_scale_without_degrees_of_freedom_is_nan() -> None:
    c, s = np.array([[[[0.0, 0.0, 1.0]]]]), np.array([1.0])
    weights = smnn.Weights(equation=np.array([[0.0], [1.0]]))
    p = smnn.posterior(c, np.zeros((1, 1)), np.zeros((1, 1, 2)), s, n_steps=2, weights=weights)
    assert p.degrees_of_freedom == 0
    assert np.isnan(p.scale)


def test_right_hand_sides_share_the_covariance_of_their_left_hand_side() -> None:
    arguments, options = oscillator(3, 5, 0.2)
    c, b, u, s = arguments
    p = smnn.posterior(c, np.zeros((3, 1, 1, 1)), u * np.ones((2, 1, 1, 1)), s, **options)
    assert p.mean.shape == p.variance.shape == (3, 2, 5, 1, 3)
    assert p.covariance.shape == (3, 2, 5, 3, 3)
    assert p.log_determinant.shape == p.sum_of_squares.shape == p.scale.shape == (3, 2)
    assert p.sample(4, np.random.default_rng(0)).shape == (4, 3, 2, 5, 1, 3)
    np.testing.assert_array_equal(p.variance[2, 1], smnn.posterior(c, b, u, s, **options).variance)


def test_what_happens_to_the_arrays_afterwards_does_not_matter() -> None:
    arguments, options = oscillator(3, 5, 0.2)
    p, expected = smnn.posterior(*arguments, **options), smnn.posterior(*arguments, **options).variance
    for x in arguments:
        x *= 2
    np.testing.assert_array_equal(p.variance, expected)


def test_masks_and_missing_values_leave_rows_out() -> None:
    c, b, _, s = oscillator(3, 5, 0.2)[0]
    u = np.zeros((5, 1, 1))
    u[2] = np.nan
    mask = np.array([True, True, False, True, True]).reshape(5, 1, 1)
    missing, masked = (
        smnn.posterior(c, b, x, s, n_steps=5, weights=smnn.Weights(initial=w))
        for x, w in ((u, 1.0), (np.nan_to_num(u), mask))
    )
    np.testing.assert_array_equal(missing.covariance, masked.covariance)
    assert missing.degrees_of_freedom == masked.degrees_of_freedom == 5 + 4 - 3
    e = [
        smnn.log_evidence(c, b, x, s, n_steps=5, weights=smnn.Weights(initial=w), observed=~first)
        for first in [np.arange(5).reshape(5, 1, 1) < 2]
        for x, w in ((u, 1.0), (np.nan_to_num(u), mask))
    ]
    assert e[0] == e[1]


def test_singular_systems_raise() -> None:
    c, s = np.zeros((1, 1, 1, 3)), np.array([0.1])
    with pytest.raises(smnn.SingularSystemError):
        smnn.posterior(c, np.zeros((1, 1)), np.zeros((1, 1, 1)), s, n_steps=4)


def test_a_prior_that_does_not_determine_the_solution_raises() -> None:
    _, b, _, s = oscillator(3, 5, 0.2)[0]
    with pytest.raises(smnn.SingularSystemError, match="not observed"):
        smnn.log_evidence(np.zeros((1, 1, 1, 1)), b, np.zeros((5, 1, 1)), s, n_steps=5, observed=True)


@pytest.mark.parametrize(
    ("observed", "error", "message"),
    [
        (np.ones((1, 1, 2)), smnn.ArgumentError, "float64"),
        ([True, False], smnn.ArgumentError, "list"),
        (False, smnn.ArgumentError, "needs observations"),
        (np.ones((3, 1, 2), dtype=bool), smnn.ShapeError, r"\(3, 1, 2\)"),
    ],
)
def test_observed_is_a_mask_of_initial_rows(observed: Any, error: type[Exception], message: str) -> None:
    arguments, options = oscillator(3, 5, 0.2)
    with pytest.raises(error, match=message):
        smnn.log_evidence(*arguments, observed=observed, **options)


def test_the_weight_of_a_wiener_process_does_not_depend_on_how_steps_are_given() -> None:
    expected = 1 / (2.0 * 0.1**2.5)
    assert smnn.wiener_weight(2.0, 0.1, 2) == pytest.approx(expected, rel=1e-14)
    for s in ([0.1], [0.1, 0.1, 0.1], [-0.1, 0.1]):
        np.testing.assert_allclose(smnn.wiener_weight(2.0, np.array(s), 2), [expected], rtol=1e-14)


def test_what_is_no_number_of_samples_raises() -> None:
    arguments, options = oscillator(3, 4, 0.2)
    p = smnn.posterior(*arguments, **options)
    for size, error in ((0, smnn.ArgumentError), (2.0, TypeError), (True, TypeError)):
        with pytest.raises(error, match="size"):
            p.sample(size)
    assert p.sample(np.int64(2)).shape[0] == 2
    with pytest.raises(smnn.ArgumentError, match="default_rng"):
        p.sample(2, 0)


@pytest.mark.parametrize("arguments", [(0.0, 0.1, 2), (-1.0, 0.1, 2), (1.0, 0.0, 2), (1.0, 0.1, -1), (1.0, 0.1, 1.5)])
def test_there_is_no_weight_of_what_is_no_wiener_process(arguments: Any) -> None:
    with pytest.raises((smnn.ArgumentError, TypeError)):
        smnn.wiener_weight(*arguments)
