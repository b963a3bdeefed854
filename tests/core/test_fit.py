"""`fit`: parameters from data at any times, with callbacks that return their derivatives."""

from __future__ import annotations

import pickle
import re
import warnings

import numpy as np
import pytest
from scipy.integrate import solve_ivp
from scipy.optimize import curve_fit, least_squares

import smnn_core as smnn
from benchmarks.fitting_problems import fitzhugh_nagumo, fitzhugh_nagumo_field, lotka_volterra, lotka_volterra_field


def decay(t, y, θ):
    """y' + k y = 0."""
    k = θ["k"][..., None] if isinstance(θ, dict) else θ
    value, slope = y[..., 0], y[..., 1]
    J = np.stack([k + 0 * value, np.ones_like(value)], -1)[..., None, :]
    return slope + k * value, J, value[..., None]


def sir(t, y, θ):
    """S' = -β S I / N, I' = β S I / N - γ I, N = 763; x is I."""
    (S, x), β, γ = np.moveaxis(y[..., 0], -1, 0), θ["beta"], θ["gamma"]
    f = np.stack([y[..., 0, 1] + β * S * x / 763, y[..., 1, 1] - β * S * x / 763 + γ * x], -1)
    J, P = np.zeros((*f.shape, 2, 2)), np.zeros((*f.shape, len(θ)))
    J[..., 0, 0, 1] = J[..., 1, 1, 1] = 1
    J[..., 0, 0, 0], J[..., 0, 1, 0] = β * x / 763, β * S / 763
    J[..., 1, 0, 0], J[..., 1, 1, 0] = -β * x / 763, γ - β * S / 763
    P[..., 0, 0], P[..., 1, 0], P[..., 1, 1] = S * x / 763, -S * x / 763, x
    return f, J, P


def chain(t, y, θ):
    """A' = -a A, B' = a A - b B, C' = b B."""
    A, B, (a, b) = y[..., 0, 0], y[..., 1, 0], (θ[..., i] for i in range(2))
    d = y[..., 1]
    f = np.stack([d[..., 0] + a * A, d[..., 1] - a * A + b * B, d[..., 2] - b * B], -1)
    J, P = np.zeros((*f.shape, 3, 2)), np.zeros((*f.shape, 2))
    for v in range(3):
        J[..., v, v, 1] = 1
    J[..., 0, 0, 0], J[..., 1, 0, 0], J[..., 1, 1, 0], J[..., 2, 1, 0] = a, -a, b, -b
    P[..., 0, 0], P[..., 1, 0], P[..., 1, 1], P[..., 2, 1] = A, -A, B, -B
    return f, J, P


def spikes(n, points=41):
    t = np.linspace(0, 20, points)
    truth = [0.2, 0.2, 3.0]
    x = solve_ivp(lambda _, x: fitzhugh_nagumo_field(x, truth), (0, 20), [-1, 1], t_eval=t, rtol=1e-10, atol=1e-10).y.T
    return t, x + 0.2 * np.random.default_rng(0).standard_normal((n, points, 2)), np.array(truth)


BEDS = np.array([3, 8, 26, 76, 225, 298, 258, 233, 189, 128, 68, 29, 14, 4.0])
"""Boys in bed, of 763 of a boarding school, day by day: Brit. Med. J. 1 (1978) 587."""


def test_spikes_are_found_from_a_poor_start_and_intervals_hold():
    t, data, truth = spikes(40)
    r = smnn.fit(fitzhugh_nagumo, t, data, np.ones((40, 3)), noise=0.2)
    assert r.converged.all()
    inside = (r.interval()[..., 0] < truth) & (truth < r.interval()[..., 1])
    assert (np.abs(r.parameters - truth) < 5 * r.standard_errors).all()
    assert inside.mean() > 0.88  # 120 intervals of 95 %: fewer happen once in a thousand times
    assert (r.discretization_error < 0.1).all()


def test_the_end_is_the_maximum_of_the_likelihood():
    rng = np.random.default_rng(3)
    t = np.sort(rng.uniform(0, 5, 60))
    t[0] = 0.0
    data = 3 * np.exp(-1.3 * t) + 0.05 * rng.standard_normal(60)
    best, covariance = curve_fit(
        lambda t, k, a: a * np.exp(-k * t), t, data, [1.0, 1.0], sigma=np.full(60, 0.05), absolute_sigma=True
    )
    r = smnn.fit(decay, t, data, [0.3], noise=0.05)
    error = covariance[0, 0] ** 0.5
    assert abs(r.parameters[0] - best[0]) < 0.01 * error
    assert abs(r.standard_errors[0] / error - 1) < 0.01
    assert abs(r.cost - (((best[1] * np.exp(-best[0] * t) - data) / 0.05) ** 2).sum()) < 1e-3


def test_estimated_noise_gives_intervals_of_students_t():
    rng = np.random.default_rng(0)
    t = np.linspace(0, 3, 6)
    data = 3 * np.exp(-1.3 * t) + 0.02 * rng.standard_normal((300, 6))
    r = smnn.fit(decay, t, data[..., None], np.ones((300, 1)))
    low, high = np.moveaxis(r.interval(), -1, 0)
    assert 0.91 < ((low < 1.3) & (high > 1.3)).mean() < 0.985
    assert (np.abs(r.parameters - 1.3) < 1.96 * r.standard_errors).mean() < 0.925  # what the normal would give


def test_units_do_not_matter():
    t, data, _ = spikes(1)
    a = smnn.fit(fitzhugh_nagumo, t, data[0], np.ones(3), noise=0.2)
    b = smnn.fit(decay, 1e3 * t, 1e-7 * np.exp(-0.2 * t), [1e-4])
    assert a.converged
    assert b.converged
    assert abs(b.parameters[0] - 2e-4) < 1e-9


def test_times_may_come_in_any_order_and_coincide():
    rng = np.random.default_rng(1)
    t = np.concatenate([[0.0, 0.0, 2.0], rng.uniform(0, 2, 30), [1.0, 1.0 + 1e-9]])
    data = np.exp(-t) + 0.01 * rng.standard_normal(len(t))
    r = smnn.fit(decay, t, data, [0.2], noise=0.01)
    s = smnn.fit(decay, np.sort(t), data[np.argsort(t)], [0.2], noise=0.01)
    assert r.converged
    assert abs(r.parameters[0] - 1) < 4 * r.standard_errors[0]
    np.testing.assert_allclose(r.parameters, s.parameters, rtol=1e-4)


def test_result_is_a_function_of_time():
    t, data, _ = spikes(2)
    r = smnn.fit(fitzhugh_nagumo, t, data, np.ones((2, 3)), noise=0.2)
    y = r([0.0, 3.3, 20.0], orders=2)
    assert y.shape == (2, 3, 2, 2)
    _, _, c = r.parameters.T[..., None]
    v, w = y[..., 0, 0], y[..., 1, 0]
    np.testing.assert_allclose(y[..., 0, 1], c * (v - v**3 / 3 + w), atol=0.02)
    with pytest.raises(smnn.ArgumentError, match="within"):
        r([21.0])


@pytest.mark.parametrize("noise", [1e-3, 1e-6, 1e-8])
def test_a_value_may_be_far_more_precise_than_others(noise):
    t = np.linspace(0, 4, 81)
    data = np.stack([np.exp(-1.3 * t) + 0.02 * np.random.default_rng(s).normal(size=81) for s in range(20)])
    data[:, 0] = 1.0
    sd = np.full((81, 1), 0.02)
    sd[0] = noise
    r = smnn.fit(decay, t, data[..., None], np.ones((20, 1)), noise=sd)
    assert r.converged.all()
    assert 17 <= (np.abs(r.parameters[:, 0] - 1.3) < 1.96 * r.standard_errors[:, 0]).sum() <= 20
    assert (r.cost < 79 + 4 * (2 * 79) ** 0.5).all()


@pytest.mark.parametrize("initial", ["exact", "numbers with errors", "data"])
def test_known_initial_values_of_what_is_not_observed(initial):
    t, rng = np.linspace(0, 4, 81), np.random.default_rng(0)
    A, B = np.exp(-t), 2 * (np.exp(-0.5 * t) - np.exp(-t))
    exact = np.stack([A, B, 1 - A - B], 1)
    data = np.full((81, 3), np.nan)
    data[:, 2] = exact[:, 2] + 0.02 * rng.normal(size=81)
    noise = np.full(data.shape, 0.02)
    known: dict = {"initial": [1.0, 0.0, 0.0]}
    if initial == "numbers with errors":
        known = {"initial": ([1.0, 0.0, 0.0], 1e-4)}
    if initial == "data":
        data[0], noise[0], known = [1.0, 0.0, 0.0], 1e-8, {}
    r = smnn.fit(chain, t, data, [2.0, 1.0], noise=noise, **known)
    assert r.converged
    assert r.cost < 110
    θ = np.sort(r.parameters)  # C stays the same where a and b are exchanged
    assert (np.abs(θ - [0.5, 1.0]) < 3 * np.sort(r.standard_errors)).all()


@pytest.mark.parametrize("start", [(1.0, 0.3), (1.7, 0.45), (0.5, 1.0)])
def test_boarding_school_with_the_initial_values_a_function_of_a_parameter(start):
    def initial(θ):
        first = θ["I"][:, 0]
        return np.stack([763 - first, first], -1), np.tile([[0.0, 0.0, -1.0], [0.0, 0.0, 1.0]], (len(first), 1, 1))

    data = np.stack([np.full(14, np.nan), BEDS], -1)
    parameters = {"beta": start[0], "gamma": start[1], "I": 3.0}
    r = smnn.fit(sir, np.arange(14.0), data, parameters, initial=initial)
    assert r.converged
    assert abs(r["beta"] - 1.79) < 0.02
    assert abs(r["gamma"] - 0.456) < 0.004
    assert abs(r.standard_errors[0] - 0.11) < 0.01


def test_one_observation_of_a_variable_is_fitted_and_no_reason_for_absurdities():
    data = np.stack([np.full(14, np.nan), BEDS], -1)
    data[0, 0] = 760.0
    for noise in (None, 18.0, [3.0, 18.0]):
        r = smnn.fit(sir, np.arange(14.0), data, {"beta": 1.0, "gamma": 0.3}, noise=noise)
        assert r.converged
        assert r.cost < 30
        assert abs(r["beta"] - 1.79) < 0.02


def test_as_many_data_as_constants_leave_no_standard_error():
    t = 0.05 * np.arange(61)
    data = np.full(61, np.nan)
    data[[5, 40]] = 3 * np.exp(-1.3 * t[[5, 40]])
    with pytest.warns(smnn.ConvergenceWarning, match="noise cannot be estimated"):
        r = smnn.fit(decay, t, data, [1.0])
    assert np.isnan(r.standard_errors).all()
    r = smnn.fit(decay, t[:2], 3 * np.exp(-1.3 * t[:2]), [1.0], noise=0.02)
    assert 0.15 < r.standard_errors[0] < 0.25


@pytest.mark.parametrize("seed", range(3))
def test_random_times_are_as_good_as_any(seed):
    """Estimate and standard error are those of the exact solution by `scipy.optimize.curve_fit`."""
    rng = np.random.default_rng(seed)
    t = np.sort(rng.uniform(0, 3, 40))
    data = 3 * np.exp(-1.3 * t) + 0.02 * rng.standard_normal(40)
    expected, C = curve_fit(
        lambda t, a, k: a * np.exp(-k * t), t, data, [3, 1], sigma=np.full(40, 0.02), absolute_sigma=True
    )
    r = smnn.fit(decay, t, data, [1.0], noise=0.02)
    assert r.converged
    assert abs(r.parameters[0] - expected[1]) < 1e-4 * r.standard_errors[0]
    np.testing.assert_allclose(r.standard_errors[0], C[1, 1] ** 0.5, rtol=1e-3)


def test_results_keep_no_array_of_the_caller():
    t, noise, start = np.linspace(0, 2, 30), np.full((30, 1), 0.01), np.array([0.5])
    data = np.exp(-t) + 0.01 * np.random.default_rng(0).standard_normal(30)
    r, times = smnn.fit(decay, t, data, start, noise=noise), np.linspace(0, 2, 7)
    before = pickle.dumps([r, r(times)])
    for x in (t, data, noise, start):
        x *= 3
    assert pickle.dumps([r, r(times)]) == before


def test_callbacks_may_write_to_the_times_they_get():
    def writes(t, y, θ):
        t *= 3.0
        return decay(t, y, θ)

    t = np.linspace(0, 2, 30)
    data = np.exp(-t) + 0.01 * np.random.default_rng(0).standard_normal(30)
    written, plain = (smnn.fit(f, t, data, [0.5], noise=0.01) for f in (writes, decay))
    np.testing.assert_array_equal(written.parameters, plain.parameters)
    np.testing.assert_array_equal(written(t), plain(t))


def test_experiments_share_parameters_and_their_lengths_may_differ():
    rng = np.random.default_rng(0)
    times = [np.linspace(0, 2, 15), np.linspace(1, 4, 40)]
    data = [a * np.exp(-1.3 * t) + 0.02 * rng.standard_normal(len(t)) for a, t in zip((3, 5), times, strict=True)]
    r = smnn.fit(decay, times, data, {"k": smnn.Parameter(0.2, log=True)}, noise=0.02)
    both = np.concatenate(times), np.concatenate(data)
    sizes = np.repeat([[1, 0], [0, 1]], [15, 40], axis=0)
    best, covariance = curve_fit(
        lambda t, k, a, b: sizes @ [a, b] * np.exp(-k * t), *both, [1.0, 1.0, 1.0], np.full(55, 0.02), True
    )
    assert abs(r["k"] - best[0]) < 0.01 * r.standard_errors[0]
    assert abs(r.standard_errors[0] / covariance[0, 0] ** 0.5 - 1) < 0.01
    assert r([1.0], experiment=1).shape == (1, 1)


def test_inputs_of_experiments():
    def driven(t, y, θ, u):
        f, J, P = decay(t, y, θ)
        return f - u, J, P

    rng, t = np.random.default_rng(0), np.linspace(0, 5, 50)
    data = [c / 1.3 * (1 - np.exp(-1.3 * t)) + 0.01 * rng.standard_normal(50) for c in (1.0, 2.0)]
    r = smnn.fit(driven, t, data, {"k": 0.5}, noise=0.01, initial=[0.0], inputs=[1.0, lambda t: np.full_like(t, 2.0)])
    assert abs(r["k"] - 1.3) < 3 * r.standard_errors[0]


def test_steady_state_before_a_step_of_the_input():
    """Production u, decay k: y = u / k until the input jumps; nobody says where it begins."""

    def produced(t, y, θ, u):
        f, J, P = decay(t, y, θ)
        return f - u, J, P

    rng, t = np.random.default_rng(0), np.linspace(0, 4, 30)
    data = 2 / 1.3 - (2 - 1) / 1.3 * np.exp(-1.3 * t) + 0.01 * rng.standard_normal(30)
    free = smnn.fit(produced, t, data, {"k": 0.5}, noise=0.01, inputs=2.0)
    r = smnn.fit(produced, t, data, {"k": 0.5}, noise=0.01, inputs=2.0, steady=1.0)
    assert r.converged
    assert r.degrees == free.degrees + 1
    assert abs(r["k"] - 1.3) < 3 * r.standard_errors[0]
    assert r.standard_errors[0] < 0.9 * free.standard_errors[0]
    assert abs(r([0.0])[0, 0] - 1 / r["k"]) < 1e-5
    still = smnn.fit(produced, t, 1 / 1.3 + 0 * t, {"k": 0.5}, noise=0.01, inputs=1.0, steady=True)
    assert abs(still["k"] - 1.3) < 1e-4


def doses(t, k, volume, times, amounts):
    """Concentration after injections into one compartment; of before the dose at its time."""
    t, at = np.asarray(t)[:, None], np.asarray(times)
    return (np.where((t > at) | ((t == at) & (at == 0)), np.exp(-k * (t - at)), 0.0) * amounts).sum(-1) / volume


def dosed(amounts):
    """The doses behind the first, divided by the volume."""

    def changes(θ):
        volume = θ["volume"][..., None]
        value = np.asarray(amounts)[:, None] / volume
        return value, np.stack([0 * value, -value / volume], -1)

    return changes


def eliminated(t, y, θ):
    f, J, P = decay(t, y, θ)
    return f, J, np.concatenate([P, 0 * P], -1)


def injected(θ):
    value = 100 / θ["volume"]
    return value, np.stack([0 * value, -value / θ["volume"]], -1)


def test_doses_are_jumps_by_a_function_of_parameters():
    rng, times, amounts = np.random.default_rng(0), [6.0, 12.5, 18.0], [100.0, 50.0, 100.0]
    t = np.sort(np.concatenate([rng.uniform(0.2, 24, 17), [12.5]]))

    def curve(t, k, volume):
        return doses(t, k, volume, [0.0, *times], [100.0, *amounts])

    data = curve(t, 0.3, 30.0) + 0.05 * rng.standard_normal(18)
    best, covariance = curve_fit(curve, t, data, [0.3, 30.0], sigma=np.full(18, 0.05), absolute_sigma=True)
    error = np.sqrt(covariance.diagonal())
    start = {"k": smnn.Parameter(1.0, lower=0.0), "volume": smnn.Parameter(10.0, log=True)}
    r = smnn.fit(
        eliminated, t, data, start, noise=0.05, t0=0.0, initial=injected, variables=1, jumps=(times, dosed(amounts))
    )
    assert r.converged
    assert (np.abs(r.parameters - best) < 0.02 * error).all()
    np.testing.assert_allclose(r.standard_errors, error, rtol=0.01)
    x = np.array([0.0, 3.0, 6.0, 6.001, 12.5, 12.51, 24.0])
    np.testing.assert_allclose(r(x[:-1])[:, 0], curve(x[:-1], *r.parameters), atol=2e-4)
    draws = r.sample(2000)
    band, spread = r.predict(x[:-1]).error[:, 0], draws(x[:-1])[..., 0].std(0)
    slopes = np.stack([(curve(x, *(r.parameters + h)) - curve(x, *(r.parameters - h))) for h in np.diag(error)], -1)
    exact = np.sqrt(np.einsum("ni,ij,nj->n", slopes / (2 * error), covariance, slopes / (2 * error)))
    np.testing.assert_allclose(band, exact[:-1], rtol=0.03)
    np.testing.assert_allclose(spread, exact[:-1], rtol=0.15)


def test_jumps_by_numbers_differ_between_experiments():
    t, rng = np.linspace(0, 10, 21), np.random.default_rng(1)
    given = [([2.1], [[1.0]]), ([4.0, 7.3], [[0.5], [2.0]])]
    data = [doses(t, 0.5, 1.0, [0.0, *at], [1.0, *np.ravel(x)]) + 0.01 * rng.standard_normal(21) for at, x in given]
    r = smnn.fit(decay, [t, t], data, [1.0], noise=0.01, jumps=([at for at, _ in given], [x for _, x in given]))
    assert r.converged
    assert abs(r.parameters[0] - 0.5) < 4 * r.standard_errors[0] < 0.02
    assert r(np.array([2.11]), experiment=0)[0, 0] - r(np.array([2.1]), experiment=0)[0, 0] > 0.9
    same = smnn.fit(decay, t, data[0], [1.0], noise=0.01, jumps=([2.1], [1.0]))
    assert abs(same.parameters[0] - 0.5) < 4 * same.standard_errors[0]


def test_observables_with_scale_and_offset():
    def observe(t, y, θ):
        h = θ["scale"][..., None] * y[..., :, 0] + θ["offset"][..., None]
        H = np.broadcast_to(θ["scale"][..., None, None, None], (*h.shape, 1, 1))
        zero = np.zeros(h.shape)
        return h, H, np.stack([zero, y[..., :, 0], zero + 1], -1)

    def equations(t, y, θ):
        f, J, P = decay(t, y, θ)
        return f, J, np.concatenate([P, 0 * P, 0 * P], -1)

    rng, t = np.random.default_rng(0), np.linspace(0, 4, 60)
    data = 7 * np.exp(-1.3 * t) + 2 + 0.05 * rng.standard_normal(60)
    start = {"k": 0.4, "scale": 1.0, "offset": 0.0}
    r = smnn.fit(equations, t, data, start, noise=0.05, observe=observe, initial=[1.0])
    assert (np.abs(r.parameters - [1.3, 7.0, 2.0]) < 3 * r.standard_errors).all()


def test_noise_that_is_a_function_of_a_parameter():
    def noise(t, y, θ):
        σ = np.broadcast_to(θ["σ"][..., None], (*t.shape, 1))
        return σ, np.zeros((*t.shape, 1, 1, 1)), np.broadcast_to([0.0, 1.0], (*t.shape, 1, 2))

    def equations(t, y, θ):
        f, J, P = decay(t, y, θ)
        return f, J, np.concatenate([P, 0 * P], -1)

    rng, t = np.random.default_rng(0), np.linspace(0, 4, 60)
    data = np.exp(-1.3 * t) + 0.05 * rng.standard_normal(60)
    start = {"k": 0.4, "σ": smnn.Parameter(1.0, log=True)}
    r = smnn.fit(equations, t, data, start, noise=noise)
    plain = smnn.fit(decay, t, data, [0.4], noise=1.0)
    assert abs(r["σ"] - np.sqrt(plain.cost / 60)) < 1e-3 * r["σ"]  # the maximum of the likelihood
    assert abs(r.standard_errors[1] / r["σ"] - 1 / np.sqrt(120)) < 2e-3
    assert abs(r["k"] - plain.parameters[0]) < 0.01 * r.standard_errors[0]


def test_multiplicative_noise_by_logarithms():
    rng, t = np.random.default_rng(0), np.linspace(0, 4, 60)
    data = 3 * np.exp(-1.3 * t + 0.1 * rng.standard_normal(60))
    r = smnn.fit(decay, t, data, [0.4], noise=0.1, transform="log")
    slope, _ = np.polyfit(t, np.log(data), 1)
    assert abs(r.parameters[0] + slope) < 1e-5
    s = smnn.fit(decay, t, data, [0.4], noise=0.1 / np.log(10), transform="log10")
    np.testing.assert_allclose(s.parameters, r.parameters, rtol=1e-5)
    np.testing.assert_allclose(s.standard_errors, r.standard_errors, rtol=1e-5)


def test_logarithms_of_what_is_zero_at_first():
    """The trajectory from which a fit starts is that of the parameters there, where observables have no logarithm."""

    def equations(t, y, θ):
        (A, B), (a, b) = np.moveaxis(y[..., 0], -1, 0), (θ[..., i] for i in range(2))
        f = y[..., 1] - np.stack([-a * A, a * A - b * B], -1)
        J, P = np.zeros((*f.shape, 2, 2)), np.zeros((*f.shape, 2))
        J[..., 0, 0, 1] = J[..., 1, 1, 1] = 1
        J[..., 0, 0, 0], J[..., 1, 0, 0], J[..., 1, 1, 0] = a, -a, b
        P[..., 0, 0], P[..., 1, 0], P[..., 1, 1] = A, -A, B
        return f, J, P

    def observe(t, y, θ):
        return y[..., 1:, 0], np.array([[[[[0.0], [1.0]]]]]), np.zeros((*t.shape, 1, 2))

    rng, t = np.random.default_rng(0), np.array([0.1, 0.5, 1, 2, 4, 8])
    data = 1.5 / 1.3 * (np.exp(-0.2 * t) - np.exp(-1.5 * t)) * np.exp(0.1 * rng.standard_normal(6))
    r = smnn.fit(
        equations, t, data, [0.5, 0.1], observe=observe, noise=0.1, transform="log", initial=[1.0, 0.0], t0=0.0
    )
    assert r.converged
    assert (np.abs(r.parameters - [1.5, 0.2]) < 3 * r.standard_errors).all()


def test_priors_are_rows():
    rng, t = np.random.default_rng(0), np.linspace(0, 4, 10)
    data = np.exp(-1.3 * t) + 0.1 * rng.standard_normal(10)
    alone = smnn.fit(decay, t, data, {"k": 1.0}, noise=0.1, initial=[1.0])
    r = smnn.fit(decay, t, data, {"k": smnn.Parameter(prior=(2.0, 0.05))}, noise=0.1, initial=[1.0])
    assert alone["k"] < r["k"] < 2.0
    assert r.standard_errors[0] < 0.05
    assert r.costs["priors"] == pytest.approx(((r["k"] - 2) / 0.05) ** 2)


@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize("of_log", [False, True])
def test_priors_of_values_and_of_logarithms(log, of_log):
    t, data, mean, deviation = np.arange(1.0, 6.0), np.full(5, 0.3), 0.2, 0.1
    prior = smnn.Parameter(1.0, lower=1e-3, log=log, prior=(mean, deviation), prior_log=of_log)
    r = smnn.fit(decay, t, data, {"k": prior}, noise=0.5, initial=[1.0], t0=0.0)
    k = np.linspace(0.05, 1.0, 200_001)
    pull = np.log(k / mean) if of_log else k - mean
    cost = (((np.exp(-k[:, None] * t) - data) / 0.5) ** 2).sum(-1) + (pull / deviation) ** 2
    assert r["k"] == pytest.approx(k[cost.argmin()], abs=1e-4)
    assert r.cost == pytest.approx(cost.min(), abs=1e-5)


def test_bounds_hold():
    t = np.linspace(0, 4, 30)
    r = smnn.fit(decay, t, np.exp(-1.3 * t), {"k": smnn.Parameter(0.5, upper=1.0)}, noise=0.2)
    assert r["k"] == 1.0
    assert np.isnan(r.standard_errors[0])


@pytest.mark.parametrize("loss", ["student", "huber"])
def test_gross_outliers(loss):
    truth, t = [0.55, 0.028, 0.8, 0.024], np.linspace(0, 20, 60)
    x = solve_ivp(lambda _, x: lotka_volterra_field(x, truth), (0, 20), [30, 4], t_eval=t, rtol=1e-10, atol=1e-10).y.T
    rng = np.random.default_rng(2)
    data = x + 1.0 * rng.standard_normal(x.shape)
    data[rng.random(data.shape) < 0.05] += 60
    start = np.array(truth) * [1.5, 0.7, 0.7, 1.4]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", smnn.MisfitWarning)
        plain = smnn.fit(lotka_volterra, t, data, start, noise=1.0)
    r = smnn.fit(lotka_volterra, t, data, start, noise=1.0, loss=loss)
    assert np.abs(plain.parameters / truth - 1).max() > 0.1
    assert (np.abs(r.parameters - truth) < 3 * r.standard_errors).all()


def test_starts_find_the_minimum_and_say_where_there_are_two():
    t, rng = np.linspace(0, 8, 21), np.random.default_rng(1)
    A, B = np.exp(-t), 2 * (np.exp(-0.5 * t) - np.exp(-t))
    exact = np.stack([A, B, 1 - A - B], 1)
    data = exact + 0.02 * rng.normal(size=exact.shape)
    bounds = ([1e-3, 1e-3], [20.0, 20.0])
    data[:, 0] = np.nan
    options = {"noise": 0.02, "initial": [1.0, 0.0, np.nan], "starts": 20, "bounds": bounds}
    r = smnn.fit(chain, t, data, [0.1, 10.0], **options)
    assert r.cost < 60
    assert r.starts.share() > 0.7
    assert r.starts.parameters.shape == (20, 2)
    data[:, 1] = np.nan
    with pytest.warns(smnn.ConvergenceWarning, match=r"starts end at different θ\[0\], θ\[1\]"):
        smnn.fit(chain, t, data, [0.1, 10.0], **options)


@pytest.mark.parametrize("seen", [[2], [1, 2]])
def test_decay_chain_whose_last_value_is_free_at_first(seen):
    t, rng = np.linspace(0, 8, 13), np.random.default_rng(2)

    def curves(t, a, b, last):
        A, B = np.exp(-a * t), a / (b - a) * (np.exp(-a * t) - np.exp(-b * t))
        return np.stack([A, B, 1 + last - A - B], 1)

    exact = curves(t, 1.0, 0.5, 0.0)
    data = np.full(exact.shape, np.nan)
    data[:, seen] = (exact + 0.02 * rng.normal(size=exact.shape))[:, seen]
    options = {"noise": 0.02, "initial": [1.0, 0.0, np.nan], "starts": 20, "bounds": ([1e-3] * 2, [20.0] * 2)}
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        r = smnn.fit(chain, t, data, [0.1, 10.0], **options)
    assert any("starts end at different" in str(w.message) for w in said) == (seen == [2])  # rates may be exchanged
    best = least_squares(lambda x: ((curves(t, *x) - data) / 0.02)[:, seen].ravel(), [1.0, 0.5, 0.0])
    assert r.converged
    assert r.cost == pytest.approx(2 * best.cost, abs=0.1)
    assert r.starts.share() > 0.8


def test_waterfall():
    pytest.importorskip("matplotlib")
    t = np.linspace(0, 4, 30)
    r = smnn.fit(decay, t, np.exp(-1.3 * t), {"k": smnn.Parameter(lower=0.1, upper=10, log=True)}, noise=0.1, starts=5)
    figure = r.starts.plot()
    assert len(figure.axes[0].lines[0].get_xdata()) == 5


def test_noise_that_is_claimed_too_large_is_stated():
    """0.02 of noise, of which 0.02, 0.06 and 1 is claimed; with times in other units nothing binds the trajectory."""
    t = np.linspace(0, 2, 40)
    data = 3 * np.exp(-1.2 * t) + 0.02 * np.random.default_rng(0).normal(size=40)
    assert not smnn.fit(decay, t, data, [1.0], noise=0.02).reason
    assert not smnn.fit(decay, t, data, [1.0]).reason
    assert not smnn.fit(decay, t[::6], data[::6], [1.0], noise=1.0).reason  # 5 degrees of freedom say nothing
    for claimed in (0.06, 1.0):
        r = smnn.fit(decay, t, data, [1.0], noise=claimed)
        assert not r.messages
        found = float(re.search(r"up to about (\S+) times what the data show", r.reason)[1])
        assert abs(found / (claimed / 0.02) - 1) < 0.3
        assert f"  NOTE: {r.reason}" in str(r)
    r = smnn.fit(decay, 1e15 * t, data, {"k": smnn.Parameter(1.0, lower=0)}, noise=0.02)
    assert r.converged
    assert "trajectories follow the data instead of the equations" in r.reason


def test_noise_in_batches_and_of_priors():
    """One of two sets is claimed too noisy; priors as wide as one likes say nothing of the noise."""
    t = np.linspace(0, 2, 40)
    data = 3 * np.exp(-1.2 * t) + [[0.02], [1.0]] * np.random.default_rng(0).normal(size=(2, 40))
    wide = {"k": smnn.Parameter(1.0, prior=(1.2, 100.0))}
    assert smnn.fit(decay, t, data[..., None], wide, noise=1.0).reason.startswith("1 of 2 fits leave far less")
    assert not smnn.fit(decay, t, data[0], wide, noise=0.02).reason


def test_misfit_in_whatever_row_warns():
    t = np.linspace(0, 4, 81)
    data = np.exp(-1.3 * t) + 0.3 * np.sin(3 * t)
    with pytest.warns(smnn.MisfitWarning, match="times the noise given, most of it in the data"):
        smnn.fit(decay, t, data, [1.0], noise=0.02)
    with pytest.warns(smnn.MisfitWarning, match="most of it in initial values"):
        smnn.fit(decay, t, np.exp(-1.3 * t), [1.0], noise=0.05, initial=([5.0], 0.3))


@pytest.mark.parametrize("loss", ["squares", "student"])
def test_a_prior_that_is_left_behind_warns(loss):
    t = np.linspace(0, 4, 81)
    with pytest.warns(smnn.MisfitWarning, match="k lie more than 5 deviations from their priors"):
        smnn.fit(decay, t, np.exp(-1.3 * t), {"k": smnn.Parameter(prior=(0.5, 0.1))}, noise=0.02, loss=loss)


def test_a_misfit_that_passes_for_noise_warns():
    t, rng = np.linspace(0, 20, 101), np.random.default_rng(0)
    data = np.stack([np.exp(-0.3 * t) + 0.2 * np.sin(t), np.exp(-0.3 * t)])[..., None]
    data += 0.02 * rng.standard_normal(data.shape)
    with pytest.warns(smnn.MisfitWarning, match=r"1 of 2 fits leave up to [\d.]+ times as much of y\[0\]"):
        smnn.fit(decay, t, data, [1.0])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        smnn.fit(decay, t, data[1], [1.0])


def test_two_fits_at_the_same_parameters_have_the_same_cost():
    """Whatever the starts, and the meshes that these led to."""
    t, data, truth = spikes(1)
    starts = np.array([[1.0, 1.0, 1.0], truth, [0.1, 0.4, 5.0]])
    each = [smnn.fit(fitzhugh_nagumo, t, data[0], start, noise=0.2) for start in starts]
    for r in each:
        np.testing.assert_allclose(r.parameters, each[0].parameters, atol=0.01 * each[0].standard_errors.min())
        assert abs(r.cost - each[0].cost) < 0.01  # iterations end where a step gains less than 0.001


@pytest.mark.parametrize("coupled", ["residual", "observe", "noise"])
def test_callbacks_that_couple_times_are_refused(coupled):
    t = np.linspace(0, 3, 31)

    def value(t, y, k):
        return y[..., 0], np.ones((*t.shape, 1, 1, 1)), np.zeros((*t.shape, 1, 1))

    def error(t, y, k):
        return np.full((*t.shape, 1), 0.1), np.zeros((*t.shape, 1, 1, 1)), np.zeros((*t.shape, 1, 1))

    def of_all_times(function):
        def result(t, y, k):
            h, H, P = function(t, y, k)
            return h + 0.1 * y[..., 0].mean(1, keepdims=True), H, P

        return result

    callbacks = {"residual": decay, "observe": value, "noise": error}
    callbacks[coupled] = of_all_times(callbacks[coupled])
    with pytest.raises(smnn.ArgumentError, match=f"^{coupled} at one time depends on y at another time"):
        smnn.fit(callbacks.pop("residual"), t, np.exp(-1.3 * t), [1.0], variables=1, **callbacks)


def test_a_member_that_fails_leaves_others_alone():
    def of_small_values(t, y, k):
        f, J, P = decay(t, y, k)
        return np.where(y[..., 0, :1] > 50, np.nan, f), J, P

    t = np.linspace(0, 3, 61)
    data = np.stack([np.exp(-1.3 * t), np.exp(-1.3 * t), 100 * np.exp(-1.3 * t)])[..., None]
    with pytest.warns(smnn.ConvergenceWarning, match="1 of 3 fits failed"):
        r = smnn.fit(of_small_values, t, data, np.ones((3, 1)), noise=0.02)
    np.testing.assert_allclose(r.parameters[:2, 0], 1.3, atol=1e-4)
    assert np.isnan(r.parameters[2]).all()
    assert not r.converged[2]


def test_undetermined_parameters_are_reported():
    def twice(t, y, θ):
        f, J, P = decay(t, y, θ[..., :1] + θ[..., 1:])
        return f, J, np.concatenate([P, P], -1)

    t = np.linspace(0, 3, 61)
    with pytest.warns(smnn.ConvergenceWarning, match="do not determine all parameters"):
        smnn.fit(twice, t, np.exp(-1.3 * t), [0.2, 0.3], noise=0.05)


def test_data_frames():
    pandas = pytest.importorskip("pandas")
    t = np.linspace(0, 3, 20)
    frame = pandas.DataFrame({"time": np.tile(t, 2), "experiment": np.repeat(["a", "b"], 20)})
    frame["y"] = np.repeat([3.0, 5.0], 20) * np.exp(-1.3 * frame.time)
    r = smnn.fit(decay, "time", frame, {"k": 1.0}, noise={"y": 0.1})
    assert abs(r["k"] - 1.3) < 1e-3
    with pytest.raises(smnn.ArgumentError, match="time column"):
        smnn.fit(decay, "t", frame, {"k": 1.0})
    with pytest.raises(smnn.ArgumentError, match="one data frame, in which a column `experiment`"):
        smnn.fit(decay, "time", [frame, frame], {"k": 1.0})
    with pytest.raises(smnn.ArgumentError, match=r"one of \['time', 'experiment', 'y'\]; got a Series\.$"):
        smnn.fit(decay, frame.time, frame, {"k": 1.0})
    with pytest.raises(smnn.ArgumentError, match="column 'site' of the data frame does not hold numbers"):
        smnn.fit(decay, "time", frame.assign(site="north"), {"k": 1.0})
    with pytest.raises(smnn.ArgumentError, match=r"column 'day' .* does not hold numbers \(datetime64"):
        smnn.fit(decay, "time", frame.assign(day=pandas.Timestamp("2020-01-01")), {"k": 1.0})
    with pytest.raises(smnn.ArgumentError, match=r"give frame\.reset_index\(\)"):
        smnn.fit(decay, frame.index, frame, {"k": 1.0})
    with pytest.raises(smnn.ArgumentError, match=r"different names; found \['y'\]"):
        smnn.fit(decay, "time", frame.rename(columns={"experiment": "y"}), {"k": 1.0})
    numbered = frame[["time", "y"]].set_axis(["time", 0], axis=1)
    assert abs(smnn.fit(decay, "time", numbered[:20], {"k": 1.0}, noise={"0": 0.1})["k"] - 1.3) < 1e-3


@pytest.mark.parametrize("zone", [None, "Europe/Paris"])
@pytest.mark.parametrize("as_frame", [False, True])
def test_dates_are_no_times(as_frame, zone):
    pandas = pytest.importorskip("pandas")
    y = np.exp(-np.linspace(0, 3, 20))
    frame = pandas.DataFrame({"day": pandas.date_range("2020-01-01", periods=20, tz=zone), "y": y})
    with pytest.raises(smnn.ArgumentError, match=r"times must be numbers.* got dates"):
        smnn.fit(decay, *(("day", frame) if as_frame else (frame.day, y)), {"k": 1.0})
    frame["day"] -= frame.day.min()
    with pytest.raises(smnn.ArgumentError, match=r"got durations .* durations / np\.timedelta64"):
        smnn.fit(decay, *(("day", frame) if as_frame else (frame.day, y)), {"k": 1.0})
    frame["day"] = "2020-01-01"
    with pytest.raises(smnn.ArgumentError, match=r"times must be numbers.* got '2020-01-01'"):
        smnn.fit(decay, *(("day", frame) if as_frame else (frame.day, y)), {"k": 1.0})


def test_lists_of_numbers_are_not_experiments():
    t, rng = np.linspace(0, 3, 20), np.random.default_rng(0)
    data = np.exp(-1.3 * t) + 0.01 * rng.normal(size=20)
    expected = smnn.fit(decay, t, data, {"k": 1.0})["k"]
    assert smnn.fit(decay, t.tolist(), data.tolist(), {"k": 1.0})["k"] == expected
    r = smnn.fit(decay, t.tolist(), [data, data], {"k": 1.0})  # two experiments at the same times
    assert r.t.shape[0] == 2
    with pytest.raises(smnn.ShapeError, match="A list is one of experiments"):
        smnn.fit(decay, t.tolist(), data[:, None].tolist(), {"k": 1.0})


def test_noise_of_each_value_has_the_shape_of_data():
    t, rng = np.linspace(0, 3, 20), np.random.default_rng(0)
    noise = np.linspace(0.01, 0.1, 20)
    data = np.exp(-1.3 * t) + noise * rng.normal(size=20)
    expected = smnn.fit(decay, t, data[:, None], {"k": 1.0}, noise=noise[:, None])
    assert smnn.fit(decay, t, data, {"k": 1.0}, noise=noise)["k"] == expected["k"]
    several = smnn.fit(decay, [t, t[:9]], [data, data[:9]], {"k": 1.0}, noise=[noise, noise[:9]])
    assert abs(several["k"] - 1.3) < 0.1


def test_equations_broadcast_over_all_pairs_of_times_are_refused():
    def pairs(t, y, θ):
        f, J, P = decay(t, y, θ)
        n = t.shape[-1]
        return tuple(np.broadcast_to(x, (*x.shape[:2], n, *x.shape[3:])) for x in (f, J, P))

    t = np.linspace(0, 3, 20)
    with pytest.raises(smnn.ShapeError, match=r"residual gives Q = \d+ equations at each of as many times"):
        smnn.fit(pairs, t, np.exp(-t), {"k": 1.0})


def pair_of_decays(t, y, θ):
    """y' + k y = 0 of two variables."""
    k, value = θ["k"][..., None], y[..., 0]
    J = np.zeros((*value.shape, 2, 2))
    J[..., [0, 1], [0, 1], 0], J[..., [0, 1], [0, 1], 1] = k, 1.0
    return y[..., 1] + k * value, J, value[..., None]


def first_of_two(t, y, θ):
    """The first of these equations alone."""
    f, J, P = pair_of_decays(t, y, {"k": θ[..., 0]})
    return f[..., :1], J[..., :1, :, :], P[..., :1, :]


def test_prints_names_errors_and_what_was_warned_of():
    t = np.linspace(0, 4, 81)
    data = np.exp(-1.3 * t) + 0.02 * np.random.default_rng(0).normal(size=81)
    text = str(smnn.fit(decay, t, data, {"k": 1.0}))
    assert "converged" in text
    assert "  k  1.296 ± 0.018" in text
    assert "noise (estimated)" in text
    beside = np.stack([data, np.full(81, np.nan)], -1)
    text = str(smnn.fit(pair_of_decays, t, beside, {"k": 1.0}, initial=[np.nan, 1.0]))
    assert "y[0]" in text
    assert "y[1]" not in text  # (nothing of it was observed)
    with pytest.warns(smnn.MisfitWarning):
        assert "WARNING" in str(smnn.fit(decay, t, data, {"k": 1.0}, noise=1e-3))


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"times": np.zeros(3)}, smnn.ShapeError, r"times \(\.\.\., n\)"),
        ({"data": np.full(11, np.nan)}, smnn.ArgumentError, "nothing was observed"),
        ({"data": np.r_[np.ones(10), np.inf]}, smnn.ArgumentError, "data contains infinite values"),
        ({"data": np.ones(11) + 0j}, smnn.DTypeError, "data must be real; got complex128"),
        ({"noise": -1.0}, smnn.ArgumentError, "noise must be positive"),
        ({"noise": np.ones(3)}, smnn.ShapeError, "noise must broadcast"),
        ({"noise": {"z": 1.0}}, smnn.ArgumentError, "no observables"),
        ({"parameters": 1.0}, smnn.ShapeError, "parameters must have shape"),
        ({"parameters": [np.nan]}, smnn.ArgumentError, "must be finite"),
        ({"initial": [1.0, 2.0]}, smnn.ShapeError, "initial must have shape"),
        ({"initial": ([1.0], -1.0)}, smnn.ArgumentError, "must not be negative"),
        ({"noise": "small"}, smnn.ArgumentError, "noise must be numbers, None or a function; got 'small'"),
        ({"data": 1e200 * np.ones(11)}, smnn.ArgumentError, r"as large as 1e\+200.* choose other units"),
        ({"data": 1e-200 * np.ones(11)}, smnn.ArgumentError, "choose other units"),
        ({"tolerance": 0.0}, smnn.ArgumentError, "tolerance must lie between 0 and 1"),
        ({"tolerance": np.nan}, smnn.ArgumentError, "tolerance must lie between 0 and 1.* got nan"),
        ({"tolerance": "1e-4"}, TypeError, "tolerance must be a number, got str"),
        ({"max_iterations": 0}, smnn.ArgumentError, "max_iterations must be an integer from 1 on"),
        ({"scale": [0.0]}, smnn.ArgumentError, "scale must be 1 positive sizes"),
        ({"guess": [1.0, 2.0]}, smnn.ShapeError, "guess must be .* got shape"),
        ({"t0": np.nan}, smnn.ArgumentError, "t0 must be finite; got nan"),
        ({"initial": "steady"}, smnn.ArgumentError, "got 'steady'. A steady state .* is steady=True"),
        ({"steady": 1.0}, smnn.ArgumentError, r"steady must be True, or inputs .* got 1\.0"),
        ({"inputs": [1.0], "steady": [1.0, 2.0], "data": [np.ones(11)]}, smnn.ShapeError, "steady has inputs of 2"),
        ({"data": np.ones((11, 2)), "residual": first_of_two}, smnn.ShapeError, "Q = 1 equations for V = 2 variables"),
        ({"data": np.ones((11, 2)), "observe": decay, "variables": 1}, smnn.ShapeError, "observe gives 1 .* 2 columns"),
        ({"transform": "exp"}, smnn.ArgumentError, "transform"),
        ({"transform": "log", "data": -np.ones(11)}, smnn.ArgumentError, "must be positive"),
        ({"loss": "cubes"}, smnn.ArgumentError, "loss must be one of"),
        ({"t0": 0.5}, smnn.ArgumentError, "t0"),
        ({"starts": 0}, smnn.ArgumentError, "starts"),
        ({"observe": lambda *x: x}, smnn.ArgumentError, "variables"),
        ({"jumps": [0.5]}, smnn.ArgumentError, r"jumps must be \(times, changes\)"),
        ({"jumps": ([0.0], [1.0])}, smnn.ArgumentError, "jumps must lie behind the first time"),
        ({"jumps": ([0.5], [[1.0, 2.0]])}, smnn.ShapeError, r"jumps must add \(1, 1\)"),
        ({"jumps": ([0.5], lambda θ: np.ones((1, 1, 2)))}, smnn.ShapeError, r"jumps must give \(1, 1, 1\)"),
    ],
)
def test_errors_name_the_argument(changes, error, message):
    given = {"residual": decay, "times": np.linspace(0, 1, 11), "data": np.ones(11), "parameters": [1.0]}
    with pytest.raises(error, match=message):
        smnn.fit(**given | changes)


def test_errors_of_callbacks_say_what_they_were_given():
    with pytest.raises(IndexError) as caught:
        smnn.fit(pair_of_decays, np.linspace(0, 1, 11), np.ones(11), {"k": 1.0})
    assert "residual was called with" in caught.value.__notes__[0]
    assert "V = 1 variables (as data has columns), order = 1" in caught.value.__notes__[0]


@pytest.mark.parametrize("noise", [0.01, None])
def test_equations_without_a_steady_state_say_so(noise):
    def growth(t, y, θ):  # y' = 1 + k²
        slope, k = y[..., 1], θ["k"][..., None] + 0 * y[..., 0]
        J = np.broadcast_to([0.0, 1.0], (*slope.shape, 1, 2))
        return slope - 1 - k**2, J, -2 * k[..., None]

    t = np.linspace(0, 1, 11)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        smnn.fit(growth, t, 2 * t, {"k": 1.0}, noise=noise, steady=True)
    messages = [str(w.message) for w in caught if w.category is smnn.MisfitWarning]
    assert any("steady= asks for a state at rest" in text for text in messages)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"start": 1.0, "lower": 2.0}, "not within"),
        ({"start": 1.0, "lower": 2.0, "upper": 1.0}, "must be below"),
        ({"lower": 0.0}, "two finite bounds"),
        ({"start": -1.0, "log": True}, "positive start"),
        ({"start": 1.0, "prior": (1.0, 0.0)}, "prior must be"),
        ({"start": 1.0, "log": True, "prior": (-1.0, 1.0)}, "prior_log=False"),
        ({"start": 1.0, "prior": (1.0, 1.0), "prior_log": True}, "positive lower bound"),
    ],
)
def test_parameters_that_contradict_themselves(given, message):
    with pytest.raises(smnn.ArgumentError, match=message):
        smnn.Parameter(**given)


def features(t, y, θ):
    """y' = -Σ w_j tanh(c_j y + 1 / c_j), more weights than data determine."""
    c = np.linspace(0.5, 3, 30)
    value, w = y[..., 0], θ["w"]
    φ = np.tanh(c * value + 1 / c)
    f = y[..., 1] + (w * φ).sum(-1, keepdims=True)
    J = np.zeros((*f.shape, *y.shape[-2:]))
    J[..., 0, 0, 0], J[..., 0, 0, 1] = (w * c * (1 - φ**2)).sum(-1), 1.0
    return f, J, φ[..., None, :]


def test_weights_of_a_network_are_linear_bayesian_regression_where_equations_are_linear_in_them():
    rng, t = np.random.default_rng(0), np.linspace(0, 3, 61)
    data = 2 * np.exp(-0.8 * t)[:, None] + 0.02 * rng.standard_normal((61, 1))
    r = smnn.fit(features, t, data, {"w": smnn.Network(0.1 * rng.standard_normal(30), deviation=10.0)}, noise=0.02)
    assert r.converged
    every = {f"w{j}": smnn.Parameter(float(x), prior=(0.0, 10.0)) for j, x in enumerate(r.networks["w"])}

    def by_names(t, y, θ):
        return features(t, y, {"w": np.stack(list(θ.values()), -1)})

    other = smnn.fit(by_names, t, data, every, noise=0.02)
    np.testing.assert_allclose(r(t), other(t), atol=2e-3)
    np.testing.assert_allclose(r.predict(t).error, other.predict(t).error, rtol=0.1)
    assert r.parameters.shape == (0,)
    assert "30 weights" in str(r)


def test_a_network_from_several_starts():
    rng, t = np.random.default_rng(0), np.linspace(0, 3, 61)
    data = 2 * np.exp(-0.8 * t)[:, None] + 0.02 * rng.standard_normal((61, 1))
    r = smnn.fit(features, t, data, {"w": smnn.Network(np.full(30, 0.1), deviation=10.0)}, noise=0.02, starts=3)
    assert r.starts.parameters.shape == (3, 0)
    assert r.networks["w"].shape == (30,)
    assert np.ptp(r.starts.objective) < 1


def test_sets_of_networks_with_more_and_fewer_directions_are_determined():
    """One set is observed at two times, and sees two directions of weights that make values from time."""

    def source(t, y, θ):
        φ = np.maximum(0.0, 1 - np.abs(t[..., None] - np.arange(6.0)))  # (M, n, 6), hats
        f = y[..., 1] + (θ["w"] * φ).sum(-1, keepdims=True)
        return f, np.array([[[[[0.0, 1.0]]]]]), φ[..., None, :]

    t = np.stack([np.linspace(0, 1, 41), np.linspace(0, 5, 41)])
    data = np.stack([1 - 0.5 * t[0], 1 - 0.5 * t[1]])[..., None]
    r = smnn.fit(source, t, data, {"w": smnn.Network(np.full(6, 0.1), deviation=10.0)}, noise=0.01)
    assert r.converged.all()
    assert not r.messages
    np.testing.assert_allclose(r.networks["w"][1], 0.5, atol=0.1)
    np.testing.assert_allclose(r.networks["w"][0], [0.5, 0.5, 0.1, 0.1, 0.1, 0.1], atol=0.1)


@pytest.mark.parametrize("wrong", [np.zeros((2, 2)), np.array([np.nan]), np.zeros(0)])
def test_weights_that_are_none_are_refused(wrong):
    with pytest.raises(smnn.ArgumentError, match="start must be finite numbers of shape"):
        smnn.Network(wrong)


def test_without_parameters_a_fit_smooths():
    def known(t, y):
        f, J, _ = decay(t, y, np.full((1, 1, 1), 1.3))
        return f, J

    t = np.linspace(0, 3, 20)
    data = np.exp(-1.3 * t) + 0.05 * np.random.default_rng(0).normal(size=20)
    for parameters in (None, {}):
        r = smnn.fit(known, t, data, parameters, noise=0.05)
        assert r.converged
        np.testing.assert_allclose(r.predict(t).value[:, 0], np.exp(-1.3 * t), atol=0.06)
        assert r.predict([]).value.shape == (0, 1)
