"""Results of `fit` travel, and say where there is nothing to say."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest

import smnn_core as smnn
from benchmarks.fitting_problems import decay

TRAVEL = {"pickle": lambda x: pickle.loads(pickle.dumps(x)), "deepcopy": copy.deepcopy}
T = np.linspace(0, 3, 61)
DATA = 3 * np.exp(-1.3 * T)[:, None] + 0.02 * np.random.default_rng(0).standard_normal((61, 1))


@pytest.mark.parametrize("travel", TRAVEL.values(), ids=TRAVEL)
@pytest.mark.parametrize("loss", ["squares", "student"])
def test_results_travel_whole(travel, loss):
    r = smnn.fit(decay, T, DATA, [1.0], noise=0.02, loss=loss)
    q = travel(r)
    np.testing.assert_array_equal(q.parameters, r.parameters)
    np.testing.assert_array_equal(q(T), r(T))
    np.testing.assert_array_equal(q.predict(T).error, r.predict(T).error)
    assert str(q) == str(r)
    one, other = (x.sample(3) for x in (r, q))
    np.testing.assert_array_equal(travel(one)(T), other(T))


@pytest.mark.parametrize("travel", TRAVEL.values(), ids=TRAVEL)
@pytest.mark.parametrize("noise", [0.02, None])
def test_profiles_travel(travel, noise):
    p = smnn.fit(decay, T, DATA, [1.0], noise=noise).profile("θ[0]")
    assert travel(p).interval() == p.interval()


def test_a_lambda_stays_at_home_in_pickles_and_says_so():
    r = smnn.fit(lambda t, y, k: decay(t, y, k), T, DATA, [1.0], noise=0.02)
    q = pickle.loads(pickle.dumps(r))
    np.testing.assert_array_equal(q(T), r(T))
    with pytest.raises(smnn.ArgumentError, match="residual did not travel"):
        q.predict(T)
    np.testing.assert_array_equal(copy.deepcopy(r).predict(T).error, r.predict(T).error)


def test_a_data_set_that_fails_leaves_the_others_and_says_why():
    data = np.stack([DATA, 1.1 * DATA, np.nan * DATA])
    with pytest.warns(smnn.ConvergenceWarning, match="1 of 3 data sets have no finite value"):
        r = smnn.fit(decay, T, data, [1.0], noise=0.02)
    np.testing.assert_array_equal(r.converged, [True, True, False])
    np.testing.assert_array_equal(np.isnan(r.parameters[:, 0]), [False, False, True])
    assert np.isnan(r.cost[2])
    alone = smnn.fit(decay, T, DATA, [1.0], noise=0.02)
    np.testing.assert_allclose(r.parameters[0], alone.parameters, rtol=1e-6)


def test_nothing_but_missing_values_is_refused():
    with pytest.raises(smnn.ArgumentError, match="no finite value"):
        smnn.fit(decay, T, np.nan * DATA, [1.0], noise=0.02)


def test_no_degrees_of_freedom_are_said():
    with pytest.warns(smnn.ConvergenceWarning, match="no more observations than free constants"):
        r = smnn.fit(decay, T[[5, 40]], DATA[[5, 40]], [1.0])
    assert np.isnan(r.standard_errors).all()
    assert r.degrees == 0


def test_noise_of_experiments_is_pooled():
    rng = np.random.default_rng(1)
    data = [3 * np.exp(-1.3 * T)[:, None] + σ * rng.standard_normal((61, 1)) for σ in (0.02, 0.2)]
    r = smnn.fit(decay, [T, T], data, [1.0])
    np.testing.assert_allclose(r.noise, np.sqrt((0.02**2 + 0.2**2) / 2), rtol=0.2)
    assert "of all experiments together" in str(r)


def test_trajectories_go_on_where_nothing_was_observed():
    data = DATA.copy()
    data[40:] = np.nan
    r = smnn.fit(decay, T, data, [1.0], noise=0.02)
    np.testing.assert_allclose(r(T[40:])[:, 0], 3 * np.exp(-1.3 * T[40:]), atol=0.02)
