"""Errors of `fit`: bands, samples, profiles, evidence, what is identifiable."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.optimize import curve_fit, minimize_scalar

import smnn_core as smnn

T = np.linspace(0, 3, 25)


def decay(t, y, θ):
    """y' + k y = 0."""
    k = θ["k"][..., None]
    value, slope = y[..., 0], y[..., 1]
    J = np.stack([k + 0 * value, np.ones_like(value)], -1)[..., None, :]
    P = np.concatenate([value[..., None], np.zeros((*value.shape, len(θ) - 1))], -1)
    return slope + k * value, J, P


def curve(t, k, a):
    return a * np.exp(-k * t)


@pytest.fixture(scope="module")
def data():
    return curve(T, 1.3, 3.0) + 0.05 * np.random.default_rng(0).standard_normal(25)


def covariance(data):
    best, C = curve_fit(curve, T, data, [1.0, 1.0], np.full(25, 0.05), True)
    return best, C


def slopes(t, k, a):
    """Derivatives of the curve in k and a, (n, 2)."""
    return np.stack([-t * curve(t, k, a), np.exp(-k * t)], -1)


def test_bands_are_those_of_the_curve(data):
    best, C = covariance(data)
    r = smnn.fit(decay, T, data, {"k": 0.5}, noise=0.05)
    t = np.array([0.0, 0.7, 2.9])
    band = r.predict(t)
    error = np.sqrt(np.einsum("ti,ij,tj->t", slopes(t, *best), C, slopes(t, *best)))
    np.testing.assert_allclose(band.error[:, 0], error, rtol=1e-3)
    np.testing.assert_allclose(band.value[:, 0], curve(t, *best), rtol=1e-5)
    np.testing.assert_allclose((band.upper - band.lower)[:, 0], 2 * 1.959964 * error, rtol=1e-3)


def test_bands_of_observables(data):
    def observe(t, y, θ):
        h, k = y[..., :, 0] * θ["k"][..., None], θ["k"]
        return h, np.broadcast_to(k[..., None, None, None], (*h.shape, 1, 1)), y[..., :, 0][..., None]

    best, C = covariance(data)
    r = smnn.fit(decay, T, data, {"k": 0.5}, noise=0.05)
    band = r.predict([1.0], observe)
    d = slopes(np.array([1.0]), *best)[0] * best[0] + [curve(1.0, *best), 0]
    assert band.error[0, 0] == pytest.approx(np.sqrt(d @ C @ d), rel=1e-3)


def test_bands_of_many_data_are_by_random_shifts():
    t = np.linspace(0, 3, 1000)
    x = curve(t, 1.3, 3.0) + 0.05 * np.random.default_rng(0).standard_normal(1000)
    best, C = curve_fit(curve, t, x, [1.0, 1.0], np.full(1000, 0.05), True)
    r = smnn.fit(decay, t, x, {"k": 0.5}, noise=0.05)
    d = slopes(np.array([1.0]), *best)[0]
    assert r.predict([1.0]).error[0, 0] == pytest.approx(np.sqrt(d @ C @ d), rel=0.15)  # 4 / sqrt(2 * 300)


def test_samples_have_the_covariance(data):
    best, C = covariance(data)
    r = smnn.fit(decay, T, data, {"k": 0.5}, noise=0.05)
    draws = r.sample(4000)
    both = np.stack([draws.parameters[:, 0], draws([0.0])[:, 0, 0]], -1)
    np.testing.assert_allclose(both.mean(0), best, atol=5 * np.sqrt(np.diag(C) / 4000).max())
    np.testing.assert_allclose(np.cov(both.T), C, rtol=0.1)


@pytest.mark.parametrize("log", [False, True])
def test_profile_is_the_minimum_over_all_else(data, log):
    r = smnn.fit(decay, T, data, {"k": smnn.Parameter(0.5, log=log)}, noise=0.05)
    p = r.profile("k")

    def cost(k):
        shape = np.exp(-k * T)
        a = shape @ data / (shape @ shape)
        return (((a * shape - data) / 0.05) ** 2).sum()

    best = minimize_scalar(cost, (1.0, 1.5))
    np.testing.assert_allclose(p.cost, [cost(k) - best.fun for k in p.values], atol=2e-3)
    low, high = p.interval()
    assert cost(low) - best.fun == pytest.approx(3.8415, rel=0.02)
    assert cost(high) - best.fun == pytest.approx(3.8415, rel=0.02)
    assert low < r["k"] < high


def test_profile_with_other_parameters_and_estimated_noise():
    """Saturating growth, two parameters: the interval of the likelihood that scipy gives, by Student's t."""

    def growth(t, y, θ):
        value, slope, a, k = y[..., 0], y[..., 1], θ["a"][..., None], θ["k"][..., None]
        J = np.stack([k + 0 * value, np.ones_like(value)], -1)[..., None, :]
        return slope - a + k * value, J, np.stack([-np.ones_like(value), value], -1)

    def shape(t, k, a):
        return a / k * (1 - np.exp(-k * t))

    x = shape(T, 1.3, 2.0) + 0.05 * np.random.default_rng(0).standard_normal(25)
    r = smnn.fit(growth, T, x, {"a": 1.0, "k": 1.0}, initial=[0.0])
    p = r.profile("k")

    def squares(k):
        one = shape(T, k, 1.0)
        return ((one @ x / (one @ one) * one - x) ** 2).sum()

    best = minimize_scalar(squares, (1.0, 1.5))
    expected = [(squares(k) - best.fun) / (best.fun / 23) for k in p.values]
    np.testing.assert_allclose(p.cost, expected, rtol=0.01, atol=1e-2)
    low, high = p.interval()
    assert (squares(high) - best.fun) / (best.fun / 23) == pytest.approx(2.0687**2, rel=0.03)
    assert (squares(low) - best.fun) / (best.fun / 23) == pytest.approx(2.0687**2, rel=0.03)


def test_profile_of_what_data_do_not_bound_is_open():
    """Saturation: the data say that the rate is fast, and nothing of how fast."""
    t = np.linspace(1, 3, 20)
    x = 0.02 * np.random.default_rng(0).standard_normal(20)
    parameters = {"k": smnn.Parameter(5.0, 0.1, 1000.0, log=True)}
    r = smnn.fit(decay, t, x, parameters, noise=0.02, initial=[1.0], t0=0.0)
    low, high = r.profile("k").interval()
    assert 2 < low < 8
    assert high == np.inf


def test_evidence_is_the_integral():
    t = np.array([0.5, 1.0, 2.0])
    x = np.array([0.52, 0.275, 0.072])
    for log, of_log in product((False, True), repeat=2):
        prior = smnn.Parameter(prior=(1.0, 0.3), lower=1e-3, log=log, prior_log=of_log)
        r = smnn.fit(decay, t, x, {"k": prior}, noise=0.005, initial=[1.0], t0=0.0)

        def density(g, of_log=of_log):
            k = np.exp(g) if of_log else g
            prior = np.exp(-(((g - (0.0 if of_log else 1.0)) / 0.3) ** 2) / 2) / (0.3 * np.sqrt(2 * np.pi))
            return prior * np.prod(np.exp(-(((x - np.exp(-k * t)) / 0.005) ** 2) / 2) / (0.005 * np.sqrt(2 * np.pi)))

        middle = np.log(r["k"]) if of_log else r["k"]
        total, _ = quad(density, middle - 0.5, middle + 0.5, points=[middle])
        assert r.log_evidence == pytest.approx(np.log(total), abs=0.01)


def test_evidence_needs_priors(data):
    r = smnn.fit(decay, T, data, {"k": 0.5}, noise=0.05)
    with pytest.raises(smnn.ArgumentError, match="prior for every parameter"):
        _ = r.log_evidence


def test_combinations_that_are_open_are_named(data):
    def sum_of_two(t, y, θ):
        f, J, P = decay(t, y, {"k": θ["a"] * θ["b"]})
        return f, J, np.concatenate([P * θ["b"][..., None, None], P * θ["a"][..., None, None]], -1)

    start = {"a": smnn.Parameter(0.5, log=True, prior=(1.0, 2.0)), "b": smnn.Parameter(2.0, log=True)}
    r = smnn.fit(sum_of_two, T, data, start, noise=0.05)
    assert not r.identifiable
    assert r.identifiable.open in (("a · b^-1",), ("b · a^-1",))
    assert smnn.fit(decay, T, data, {"k": 0.5}, noise=0.05).identifiable


def test_robust_errors_hold_with_outliers():
    """The sandwich: 95 % intervals of 300 data sets with 10 % of outliers hold in 90 to 98 % of them."""
    rng = np.random.default_rng(1)
    x = curve(T, 1.3, 3.0) + 0.05 * rng.standard_normal((300, 25))
    x = np.where(rng.random(x.shape) < 0.1, x + rng.standard_normal(x.shape), x)
    start = {"k": 1.0}
    for loss in ("student", "huber"):
        r = smnn.fit(decay, T, x[..., None], start, noise=0.05, loss=loss)
        share = (np.abs(r["k"] - 1.3) < 1.96 * r.standard_errors[:, 0]).mean()
        assert 0.89 < share < 0.985, loss


def test_pictures(data):
    pytest.importorskip("matplotlib")
    r = smnn.fit(decay, T, data, {"k": 0.5}, noise=0.05, variables=["concentration"])
    assert r.plot().axes[0].texts[0].get_text() == "concentration"
    assert r.profile("k").plot().axes[0].get_xlabel() == "k"
