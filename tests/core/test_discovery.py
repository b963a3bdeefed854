"""`discover`: true terms with errors that hold, on small problems; what it says where it may be wrong."""

from __future__ import annotations

import warnings

import array_api_strict
import numpy as np
import pytest
from scipy.integrate import solve_ivp
from scipy.linalg import expm

import smnn_core as smnn
from smnn_core.discovery import _search
from smnn_core.discovery._result import number_with_error
from smnn_core.discovery._term_selection import Quadratic

STEP = 0.05
LINEAR = smnn.polynomials(1)


def rotation(T: int, noise: float, seed: int = 0, t: np.ndarray | None = None) -> np.ndarray:
    """x' = 2 y, y' = -2 x with noise, (T, 2)."""
    t = STEP * np.arange(T) if t is None else t
    clean = np.stack([np.sin(2 * t), np.cos(2 * t)], axis=-1)
    return clean + noise * np.random.default_rng(seed).normal(size=clean.shape)


TRUE = np.array([[0.0, 0.0], [0.0, -2.0], [2.0, 0.0]])


def lorenz(T: int = 1200, step: float = 0.01) -> np.ndarray:
    """By Runge and Kutta's method of order 4, (T, 3)."""

    def f(y):
        return np.array([10 * (y[1] - y[0]), y[0] * (28 - y[2]) - y[1], y[0] * y[1] - 8 / 3 * y[2]])

    y = [np.array([-8.0, 7.0, 27.0])]
    for _ in range(2 * (T - 1)):
        h, x = step / 2, y[-1]
        a = f(x)
        b = f(x + h / 2 * a)
        c = f(x + h / 2 * b)
        y.append(x + h / 6 * (a + 2 * b + 2 * c + f(x + h * c)))
    return np.array(y[::2])


@pytest.mark.parametrize("noise", [0.0, 0.02, 0.1])
def test_lorenz_terms_and_errors(noise):
    clean = lorenz()
    data = clean + noise * clean.std(0) * np.random.default_rng(2).normal(size=clean.shape)
    found = smnn.discover(data, 0.01)
    true = {(1, 0): -10, (2, 0): 10, (1, 1): 28, (2, 1): -1, (6, 1): -1, (3, 2): -8 / 3, (5, 2): 1}
    assert found.terms[5:7] == ["x y", "x z"]
    assert {(int(k), int(v)) for k, v in np.argwhere(found.coefficients)} == set(true)
    for place, value in true.items():
        assert abs(found.coefficients[place] - value) < 4 * found.standard_errors[place]
    assert found.converged


def test_what_the_data_leave_open_is_said():
    """From this start and with this noise, y^2 in place of y explains the second equation as well."""
    clean = lorenz()
    data = clean + 0.1 * clean.std(0) * np.random.default_rng(1).normal(size=clean.shape)
    with pytest.warns(smnn.DiscoveryWarning, match="in place of"):
        found = smnn.discover(data, 0.01)
    assert any("y of y'" in text for text in found.ambiguous)


def test_several_terms_in_place_of_one_are_an_alternative():
    """c = a + b up to what 12 of chi squared can tell: a and b are as good, with 16 for the further term."""
    a, b, rest = np.eye(3) * [100.0, 100.0, np.sqrt(12.0)]
    rows = np.stack([-(a + b), a, b, a + b + rest])
    quadratic, groups = Quadratic(rows @ rows.T), [np.arange(3)]
    options = {"significance": 4.0, "inflation": 1.0}
    assert quadratic.best_subsets(groups, **options) == {2}
    (first, *_) = quadratic.alternatives(frozenset({2}), groups, **options, slack=6.0)
    assert first.terms == {0, 1}
    assert not quadratic.alternatives(frozenset({2}), groups, **options, slack=3.0)


def test_terms_that_are_left_out_have_the_errors_of_a_fit_with_them():
    rows = np.random.default_rng(0).normal(size=(5, 20))
    quadratic = Quadratic(rows @ rows.T)
    coefficients, errors = quadratic.others([0, 2])
    theta, covariance, _ = quadratic.fit([0, 2, 3])
    np.testing.assert_allclose([coefficients[3], errors[3]], [theta[2], np.sqrt(covariance[2, 2])], rtol=1e-9)


def test_result_has_zeros_and_infinite_errors_where_terms_are_left_out():
    found = smnn.discover(rotation(300, 0.05), STEP, library=LINEAR)
    left_out = TRUE == 0
    assert not found.coefficients[left_out].any()
    assert np.isinf(found.standard_errors[left_out]).all()
    np.testing.assert_allclose(found.detectable[~left_out], 4 * found.standard_errors[~left_out])
    assert np.isfinite(found.detectable).all()
    np.testing.assert_allclose(np.sqrt(np.diagonal(found.covariance)), found.standard_errors[np.nonzero(~left_out)])
    assert found.exponents.tolist() == [[0, 0], [1, 0], [0, 1]]
    assert found.y.shape == (300, 2, 3)
    assert found.t[-1] == pytest.approx(299 * STEP)


def test_trajectory_has_its_derivatives():
    t = STEP * np.arange(300)
    found = smnn.discover(rotation(300, 0.05), STEP, library=LINEAR)
    np.testing.assert_allclose(found.y[:, 0, 0], np.sin(2 * t), atol=0.03)
    np.testing.assert_allclose(found.y[:, 0, 1], 2 * np.cos(2 * t), atol=0.06)


def test_standard_errors_cover():
    """Of 40 data sets the coefficients are within two standard errors in about 95 %."""
    ratios = []
    for seed in range(40):
        found = smnn.discover(rotation(150, 0.1, seed), STEP, noise=0.1, library=LINEAR)
        there = (found.coefficients != 0) & (TRUE != 0)
        ratios += list(((found.coefficients - TRUE) / found.standard_errors)[there])
    ratios = np.array(ratios)
    assert len(ratios) >= 76
    assert np.mean(np.abs(ratios) < 2) > 0.88
    assert 0.75 < np.sqrt(np.mean(ratios**2)) < 1.3


@pytest.mark.parametrize("noise", [0.01, 0.1, 0.3])
def test_noise_is_estimated(noise):
    found = smnn.discover(rotation(600, noise), STEP, library=LINEAR)
    np.testing.assert_allclose(found.noise, noise, rtol=0.12)


def test_missing_values_and_irregular_times():
    rng = np.random.default_rng(3)
    t = np.sort(rng.uniform(0, 20, size=400))
    data = rotation(400, 0.05, t=t)
    data[rng.random(data.shape) < 0.4] = np.nan
    found = smnn.discover(data, np.diff(t), library=LINEAR)
    assert np.array_equal(found.coefficients != 0, TRUE != 0)
    assert np.all(np.abs(found.coefficients - TRUE)[TRUE != 0] < 4 * found.standard_errors[TRUE != 0])


def test_trajectories_share_coefficients():
    data = np.stack([rotation(80, 0.1, seed) for seed in range(6)])
    together = smnn.discover(data, STEP, noise=0.1, library=LINEAR)
    alone = smnn.discover(data[0], STEP, noise=0.1, library=LINEAR)
    assert together.y.shape == (6, 80, 2, 3)
    assert np.array_equal(together.coefficients != 0, TRUE != 0)
    ratio = alone.standard_errors[1, 1] / together.standard_errors[1, 1]
    assert ratio == pytest.approx(np.sqrt(6), rel=0.25)


@pytest.mark.parametrize("shape", [(1,), (1, 1), (1, 1, 1), (79,), (1, 79), (1, 3, 79), (3, 1), (2, 1, 79)])
def test_steps_broadcast_over_trajectories(shape):
    data = np.stack([[rotation(80, 0.05, seed + 3 * i) for seed in range(3)] for i in range(2)])
    expected = smnn.discover(data, STEP, library=LINEAR)
    found = smnn.discover(data, np.full(shape, STEP), library=LINEAR)
    np.testing.assert_allclose(found.coefficients, expected.coefficients, rtol=1e-6)
    assert found.simulate()(found.t).shape == (2, 3, 80, 2, 2)


@pytest.mark.parametrize("missing", ["NaN", "one long step"])
def test_what_lies_between_gaps_is_as_good_as_trajectories(missing):
    data, t = lorenz(900), 0.01 * np.arange(900)
    data = data + 0.05 * data.std(0) * np.random.default_rng(0).normal(size=data.shape)
    noise = 0.05 * data.std(0)
    apart = np.full((2, 400, 3), np.nan)
    apart[0, :300], apart[1, :400] = data[:300], data[500:]
    expected = smnn.discover(apart, 0.01, noise=noise)
    if missing == "NaN":
        data[300:500] = np.nan
        found = smnn.discover(data, 0.01, noise=noise)
        gap = found.y[300:500]
    else:
        kept = np.r_[:300, 500:900]
        found = smnn.discover(data[kept], np.diff(t[kept]), noise=noise)
        gap = np.zeros(0)
    assert found.converged
    assert np.isnan(gap).all()
    np.testing.assert_allclose(found.coefficients, expected.coefficients, rtol=2e-2)
    np.testing.assert_allclose(found.standard_errors, expected.standard_errors, rtol=2e-2)
    np.testing.assert_allclose(found.y[:300, :, 0], expected.y[0, :300, :, 0], rtol=0, atol=1e-2)
    np.testing.assert_array_equal(np.isnan(expected.y[:, :, 0, 0]).sum(-1), [100, 0])


def test_bursts():
    t = np.concatenate([8.0 * k + STEP * np.arange(40) for k in range(20)])
    found = smnn.discover(rotation(800, 0.1, t=t), np.diff(t), library=LINEAR)
    assert np.array_equal(found.coefficients != 0, TRUE != 0)
    assert np.all(np.abs(found.coefficients - TRUE)[TRUE != 0] < 4 * found.standard_errors[TRUE != 0])


def test_values_between_gaps_that_are_too_few_are_not_used_and_that_is_said():
    data = rotation(500, 0.1)
    data[400:480] = data[483:] = np.nan
    with pytest.warns(smnn.DiscoveryWarning, match="6 values were not used: between gaps longer than"):
        found = smnn.discover(data, STEP, noise=0.1, library=LINEAR)
    assert found.misfit == pytest.approx(1, abs=0.2)
    data = rotation(80, 0.01, t=np.concatenate([8.0 * k + STEP * np.arange(4) for k in range(20)]))
    with pytest.raises(smnn.ArgumentError, match="160 others being too few between gaps longer than"):
        smnn.discover(data, np.tile([STEP, STEP, STEP, 8 - 3 * STEP], 20)[:-1], noise=0.01, library=LINEAR)


def test_a_variable_that_is_not_observed_behind_a_gap():
    data = rotation(400, 0.02)
    data[150:300] = data[300:, 1] = np.nan
    with pytest.warns(smnn.DiscoveryWarning, match="100 values were not used"):
        found = smnn.discover(data, STEP, library=LINEAR)
    assert np.array_equal(found.coefficients != 0, TRUE != 0)


@pytest.mark.parametrize("step", [0.4, 2.0, 1e4, np.nan])
def test_steps_where_nothing_is_observed_do_not_count(step):
    data = np.full((2, 300, 2), np.nan)
    data[:, :200] = np.stack([rotation(200, 0.01, seed, t=0.4 * np.arange(200)) for seed in range(2)])
    steps = np.full(299, 0.4)
    steps[199:] = step
    found = smnn.discover(data, steps, library=LINEAR)
    expected = smnn.discover(data[:, :200], 0.4, library=LINEAR)
    np.testing.assert_allclose(found.coefficients, expected.coefficients, rtol=1e-8, atol=1e-12)


def test_steps_that_are_not_known_before_data_are_an_error():
    data, steps = rotation(300, 0.01), np.full(299, STEP)
    data[100:103] = np.nan
    steps[100] = np.nan
    with pytest.raises(smnn.ArgumentError, match="NaN before times at which something was observed"):
        smnn.discover(data, steps, library=LINEAR)


@pytest.mark.parametrize("columns", [[1], [0, 1]])
def test_a_variable_observed_at_every_third_time(columns):
    data = rotation(600, 0.02)
    for v in columns:
        data[np.arange(600) % 3 != 0, v] = np.nan
    found = smnn.discover(data, STEP, library=LINEAR)
    assert np.all(np.abs(found.coefficients - TRUE)[TRUE != 0] < 4 * found.standard_errors[TRUE != 0])


def test_variables_observed_one_after_the_other_are_not_told_apart_silently():
    data = rotation(600, 0.02)
    data[300:, 0] = data[:300, 1] = np.nan
    message = said(data, STEP)
    # (which of the two depends on rounding: nothing in these data decides)
    assert "still moving" in message or "was estimated: either the data are that noisy or" in message


def test_terms_are_checked_where_data_are_only():
    logarithm = (lambda z: np.log(z[..., 0]), lambda z: np.stack([1 / z[..., 0], 0 * z[..., 1]], axis=-1))
    data = rotation(300, 0.02) + 3
    data[100:200] = np.nan
    found = smnn.discover(data, STEP, library=smnn.functions({"log x": logarithm}) + LINEAR)
    assert found.converged


def test_picture_of_a_member_and_from_other_libraries():
    pytest.importorskip("matplotlib")
    data = np.stack([rotation(200, 0.02)] * 3)
    data[1] = np.nan
    found = smnn.discover(data, STEP, library=LINEAR)
    assert found.plot(2).axes
    with pytest.raises(smnn.ArgumentError, match="nothing was observed of trajectory 1"):
        found.plot(1)
    assert smnn.discover(array_api_strict.asarray(data[0]), STEP, library=LINEAR).plot().axes


def test_a_start_that_nobody_observed():
    data = rotation(400, 0.05)
    data[:150] = np.nan
    found = smnn.discover(data, STEP, library=LINEAR)
    with pytest.raises(smnn.ArgumentError, match="give initial_values"):
        found.simulate()
    pytest.importorskip("matplotlib")
    assert found.plot().axes


def test_windows_of_a_long_trajectory_give_nearly_the_same(monkeypatch):
    data = rotation(1000, 0.1)
    whole = smnn.discover(data, STEP, noise=0.1, library=LINEAR)
    monkeypatch.setattr("smnn_core.discovery._data.MOST_POINTS", 260)
    cut = smnn.discover(data, STEP, noise=0.1, library=LINEAR)
    assert np.array_equal(cut.coefficients != 0, TRUE != 0)
    difference = (cut.coefficients - whole.coefficients)[TRUE != 0]
    assert np.all(np.abs(difference) < 10 * whole.standard_errors[TRUE != 0])
    assert np.all(cut.standard_errors[TRUE != 0] >= whole.standard_errors[TRUE != 0])


def test_second_order():
    t = 0.05 * np.arange(500)
    clean = np.exp(-0.1 * t) * np.cos(2 * t)
    data = (clean + 0.01 * np.random.default_rng(0).normal(size=500))[:, None]
    found = smnn.discover(data, 0.05, order=2, library=smnn.polynomials(1))
    assert found.terms == ["1", "x", "x'"]
    true = np.array([0.0, -4.01, -0.2])
    assert found.coefficients[0, 0] == 0
    assert np.all(np.abs(found.coefficients[1:, 0] - true[1:]) < 4 * found.standard_errors[1:, 0])
    assert found.equations[0].startswith("x'' = -")


def test_fourier_library_finds_the_pendulum():
    y = [np.array([2.0, 0.0])]
    for _ in range(4 * 500):  # symplectic Euler with short steps, then every fourth point
        v = y[-1][1] - 0.0125 * np.sin(y[-1][0])
        y.append(np.array([y[-1][0] + 0.0125 * v, v]))
    data = np.array(y[::4]) + 0.02 * np.random.default_rng(0).normal(size=(501, 2))
    found = smnn.discover(data, 0.05, library=smnn.polynomials(1) + smnn.fourier(1), names=["angle", "speed"])
    kept = {(found.terms[k], int(v)) for k, v in np.argwhere(found.coefficients)}
    assert kept == {("speed", 0), ("sin(angle)", 1)}
    assert abs(found.coefficients[found.terms.index("sin(angle)"), 1] + 1) < 0.02


def test_simulation_solves_the_equations_found():
    found = smnn.discover(rotation(300, 0.02), STEP, library=LINEAR)
    with pytest.raises(smnn.NamespaceError, match="initial_values must be an array"):
        found.simulate([0.0, 2.0])
    again = found.simulate()(found.t)
    assert again.shape == (300, 2, 2)
    np.testing.assert_allclose(again[..., 0], rotation(300, 0.0), atol=0.1)
    other = found.simulate(np.array([0.0, 2.0]), [0.0, 1.0], tolerance=1e-9)
    np.testing.assert_allclose(other(1.0)[:, 0], [2 * np.sin(2.0), 2 * np.cos(2.0)], atol=0.05)
    rate = np.einsum("kv,tk->tv", found.coefficients, np.pad(other.y[..., 0], ((0, 0), (1, 0)), constant_values=1))
    np.testing.assert_allclose(other.y[..., 1], rate, atol=1e-8)
    with pytest.raises(smnn.ShapeError, match=r"initial_values must have shape \(\.\.\., 2\)"):
        found.simulate(np.zeros((2, 3)))


def test_simulations_of_trajectories_with_other_ends_need_times():
    data = np.stack([rotation(80, 0.05, t=step * np.arange(80)) for step in (STEP, 2 * STEP)])
    found = smnn.discover(data, np.array([[STEP], [2 * STEP]]), noise=0.05, library=LINEAR)
    with pytest.raises(smnn.ArgumentError, match="different times"):
        found.simulate()
    assert found.simulate(times=[0.0, 3.0])(3.0).shape == (2, 2, 2)


def test_simulation_goes_over_the_times_of_the_data_however_late_they_are():
    data = rotation(300, 0.02)
    early, late = (smnn.discover(data, STEP, library=LINEAR, t0=t0) for t0 in (0.0, 1e6))
    np.testing.assert_allclose(late.simulate()(late.t), early.simulate()(early.t), atol=1e-5)


def test_printing():
    found = smnn.discover(rotation(300, 0.05), STEP, library=LINEAR)
    first, second, *_ = str(found).splitlines()
    assert first == f"x' = {number_with_error(found.coefficients[2, 0], found.standard_errors[2, 0])} y"
    assert second.startswith("y' = -")
    assert second.endswith(" x")


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (10.0031, 0.0052, "10.003(5)"),
        (0.31415, 0.0123, "0.314(12)"),
        (1.2e-7, 3e-9, "1.20(3)e-07"),
        (1234.0, 56.0, "1230(60)"),
        (1.0, 0.0961, "1.00(10)"),
        (1.0, 0.0151, "1.000(15)"),
        (1.0, 0.0199, "1.00(2)"),
        (2.5, np.inf, "2.5"),
    ],
)
def test_numbers_with_errors(value, error, text):
    assert number_with_error(value, error) == text


def test_picture():
    pytest.importorskip("matplotlib")
    found = smnn.discover(rotation(100, 0.05), STEP, library=LINEAR)
    figure = found.plot()
    assert len(figure.axes) == 3


def test_other_array_libraries():
    data = rotation(150, 0.05)
    here = smnn.discover(data, STEP, library=LINEAR)
    there = smnn.discover(array_api_strict.asarray(data), STEP, library=LINEAR)
    np.testing.assert_allclose(there.coefficients, here.coefficients, rtol=1e-6)
    assert type(there.y) is type(array_api_strict.asarray(data))


def test_arrays_that_cannot_be_written_into_or_are_differentiated_are_refused():
    jax, torch = pytest.importorskip("jax.numpy"), pytest.importorskip("torch")
    with pytest.raises(smnn.NamespaceError, match="numpy"):
        smnn.discover(jax.asarray(rotation(20, 0.1), dtype=np.float32), STEP)
    with pytest.raises(smnn.ArgumentError, match="cannot be differentiated"):
        smnn.discover(torch.tensor(rotation(20, 0.1), requires_grad=True), STEP)


def test_float32_data_are_fitted_in_float64():
    data = rotation(300, 0.05)
    narrow = smnn.discover(data.astype("float32"), STEP, library=LINEAR)
    wide = smnn.discover(data, STEP, library=LINEAR)
    assert narrow.y.dtype == np.float32
    np.testing.assert_allclose(narrow.coefficients, wide.coefficients, rtol=1e-4)


def said(data: np.ndarray, step: float, **options) -> str:
    """The warnings of a discovery with straight lines."""
    with warnings.catch_warnings(record=True) as messages:
        warnings.simplefilter("always")
        smnn.discover(data, step, **{"library": LINEAR, **options})
    assert all(x.category is smnn.DiscoveryWarning for x in messages)
    return " ".join(str(x.message) for x in messages)


def test_wrong_library_warns():
    """x' = x - x^3 with a library of straight lines: what is left is no noise."""
    t = 0.05 * np.arange(400)
    data = np.tanh(t - 10)[:, None] + 0.01 * np.random.default_rng(0).normal(size=(400, 1))
    assert "times the noise given" in said(data, 0.05, noise=0.01)
    assert "noise" in said(data, 0.05)


def test_noise_far_above_that_of_the_data_warns():
    with pytest.warns(smnn.DiscoveryWarning, match="times the noise given: the noise is smaller"):
        smnn.discover(rotation(300, 0.02), STEP, library=LINEAR, noise=0.2)


def test_pure_noise_warns():
    data = np.random.default_rng(0).normal(size=(300, 2))
    assert "nothing but noise is seen of x, y" in said(data, STEP)


def test_many_terms_are_looked_for_equation_by_equation(monkeypatch):
    """With the same result as when all terms are fitted together."""
    clean = lorenz()
    data = clean + 0.02 * clean.std(0) * np.random.default_rng(2).normal(size=clean.shape)
    together = smnn.discover(data, 0.01)
    monkeypatch.setattr(_search, "MOST_TOGETHER", 20)
    apart = smnn.discover(data, 0.01)
    np.testing.assert_allclose(apart.coefficients, together.coefficients, rtol=1e-4)
    np.testing.assert_allclose(apart.standard_errors, together.standard_errors, rtol=1e-3)
    assert np.isfinite(apart.detectable).all()


def test_more_terms_than_a_beam_search_takes_are_found():
    """A rotation of 14 variables, all of which stand in every equation."""
    V, step = 14, 0.05
    A = np.random.default_rng(0).normal(size=(V, V))
    A = (A - A.T) / 2
    E = expm(step * A)
    y = [np.random.default_rng(1).normal(size=V)]
    for _ in range(199):
        y.append(E @ y[-1])
    data = np.array(y) + 0.001 * np.random.default_rng(2).normal(size=(200, V))
    found = smnn.discover(data, step, library=smnn.polynomials(1, lowest=1))
    np.testing.assert_array_equal(found.coefficients != 0, A.T != 0)
    np.testing.assert_allclose(found.coefficients, A.T, atol=0.02)


@pytest.mark.parametrize("loss", ["student", "huber"])
def test_outliers_cost_no_terms(loss):
    """2 % of values are off by ten deviations of their variable, noise is 1 %."""
    clean, rng = lorenz(), np.random.default_rng(0)
    data = clean + 0.01 * clean.std(0) * rng.normal(size=clean.shape)
    data += np.where(rng.random(data.shape) < 0.02, 10 * clean.std(0) * rng.choice([-1, 1], data.shape), 0.0)
    found = smnn.discover(data, 0.01, loss=loss)
    true = {(1, 0): -10, (2, 0): 10, (1, 1): 28, (2, 1): -1, (6, 1): -1, (3, 2): -8 / 3, (5, 2): 1}
    assert {(int(k), int(v)) for k, v in np.argwhere(found.coefficients)} == set(true)
    for place, value in true.items():
        assert abs(found.coefficients[place] - value) < 4 * found.standard_errors[place]
    np.testing.assert_allclose(found.noise, 0.01 * clean.std(0), rtol=0.35)


def test_exact_data_of_a_short_record_keep_their_terms():
    """Logistic growth with a threshold, 150 values of a decay: x^3 explains a thousandth of the derivative."""
    f = np.array([0.0, -0.14, 0.14 * (1 / 4.4 + 1 / 130), -0.14 / 4.4 / 130])
    t = np.linspace(0, 10, 150)
    y = solve_ivp(lambda _, y: np.polyval(f[::-1], y), (0, 10), [2.1], t_eval=t, rtol=1e-10, atol=1e-12).y.T
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", smnn.DiscoveryWarning)
        found = smnn.discover(y, t[1], library=smnn.polynomials(3))
    np.testing.assert_array_equal(found.coefficients[:, 0] != 0, f != 0)
    np.testing.assert_allclose(found.coefficients[:, 0], f, rtol=0.1, atol=1e-12)


def test_noise_that_grows_with_a_variable_is_no_misfit():
    """5 % of each value: the fit leaves more than the noise of most values, which is no reason to doubt it."""
    t = np.linspace(0, 10, 150)
    prey = solve_ivp(
        lambda _, y: [y[0] * (1.84 - 1.45 * y[1]), y[1] * (1.62 * y[0] - 3)], (0, 10), [8.3, 3.4], t_eval=t, rtol=1e-9
    ).y.T
    data = prey * (1 + 0.05 * np.random.default_rng(0).normal(size=prey.shape))
    assert "times the noise that neighbouring values suggest" not in said(data, t[1], library=smnn.polynomials(2))


def test_noise_of_each_value():
    """Half of the values are ten times as noisy: errors are those of the other half."""
    sd = np.where(np.arange(600) % 2, 0.2, 0.02)[:, None] * np.ones(2)
    data = rotation(600, 0.0) + sd * np.random.default_rng(0).normal(size=sd.shape)
    found = smnn.discover(data, STEP, library=LINEAR, noise=sd)
    precise = smnn.discover(data[::2], 2 * STEP, library=LINEAR, noise=0.02)
    np.testing.assert_array_equal(found.coefficients != 0, TRUE != 0)
    assert abs(found.misfit - 1) < 0.2
    ratio = found.standard_errors[TRUE != 0] / precise.standard_errors[TRUE != 0]
    np.testing.assert_allclose(ratio, 1.0, atol=0.1)


def test_noise_of_one_variable_is_given_that_of_the_other_estimated():
    found = smnn.discover(rotation(600, 0.02), STEP, library=LINEAR, noise=[0.02, np.nan])
    assert found.noise[0] == 0.02
    np.testing.assert_allclose(found.noise[1], 0.02, rtol=0.15)
    assert found.noise[1] != 0.02


@pytest.mark.parametrize("shape", [(3000, 3), (500, 5), (20, 50, 2)])
def test_nothing_is_found_in_noise_and_that_is_said_at_once(shape):
    with pytest.warns(smnn.DiscoveryWarning, match=r"nothing but noise is seen of .*x"):
        found = smnn.discover(np.random.default_rng(0).normal(size=shape), 0.1)
    assert not found.coefficients.any()
    assert found.converged
    np.testing.assert_allclose(found.noise, 1, rtol=0.1)
    assert len(found.path) < 5


def test_a_variable_of_noise_leaves_the_others_alone():
    rng = np.random.default_rng(1)
    data = np.concatenate([rotation(400, 0.05), rng.normal(size=(400, 1))], axis=1)
    with pytest.warns(smnn.DiscoveryWarning, match="nothing but noise is seen of z:"):
        found = smnn.discover(data, STEP, library=LINEAR)
    assert not found.coefficients[:, 2].any()
    np.testing.assert_array_equal(found.coefficients[:3, :2] != 0, TRUE != 0)
    assert len(found.path) < 20  # (one search)


def driven(t: np.ndarray, noise: float) -> np.ndarray:
    """y' = -y + 2 u with u = sin(3 t), y(0) = 1, (..., n, 1)."""
    y = (np.exp(-t) * 1.6) + 0.2 * np.sin(3 * t) - 0.6 * np.cos(3 * t)
    return y[..., None] + noise * np.random.default_rng(0).normal(size=(*t.shape, 1))


@pytest.mark.parametrize("columns", [False, True])
def test_known_inputs_enter_the_library(columns):
    def drive(t):
        return np.sin(3 * t)[..., None] if columns else np.sin(3 * t)

    t = 5.0 + 0.05 * np.arange(300)
    found = smnn.discover(driven(t, 0.01), 0.05, library=smnn.polynomials(2), inputs=drive, t0=5.0, names=["y", "u"])
    assert found.terms == ["1", "y", "u", "y^2", "y u", "u^2"]
    np.testing.assert_array_equal(found.coefficients[:, 0] != 0, [False, True, True, False, False, False])
    assert np.all(abs(found.coefficients[1:3, 0] - [-1, 2]) < 4 * found.standard_errors[1:3, 0])
    simulated = found.simulate(driven(t[:1], 0)[0], tolerance=1e-6)(t)[:, 0, 0]
    np.testing.assert_allclose(simulated, driven(t, 0)[:, 0], atol=0.02)


def test_trajectories_with_steps_of_their_own_have_inputs_at_their_times():
    rng = np.random.default_rng(0)
    steps = rng.uniform(0.02, 0.08, (2, 199))
    t = np.pad(np.cumsum(steps, axis=1), ((0, 0), (1, 0)))
    shapes = []

    def drive(t):
        shapes.append(np.shape(t))
        return np.sin(3 * t)[..., None]

    found = smnn.discover(driven(t, 0.01), steps, library=LINEAR, inputs=drive)
    assert (2, 200) in shapes
    np.testing.assert_allclose(found.coefficients[:, 0], [0, -1, 2], atol=0.03)


@pytest.mark.parametrize(
    ("inputs", "error", "message"),
    [
        (np.zeros((20, 1)), TypeError, r"inputs must be a function of time.* of u \(n, U\)"),
        (lambda t: np.zeros((2, 3)), smnn.ShapeError, r"inputs must return one number or one row of U numbers"),
        (lambda t: np.full((*t.shape, 1), np.nan), smnn.ArgumentError, "'u' is not finite"),
        (lambda t: np.ones((*t.shape, 1)), smnn.ArgumentError, "'1' and 'u' have the same values"),
    ],
)
def test_inputs_are_checked(inputs, error, message):
    with pytest.raises(error, match=message):
        smnn.discover(rotation(20, 0.1), STEP, library=LINEAR, inputs=inputs)


def test_times_that_nearly_coincide_are_moved_apart_and_that_is_said():
    rng = np.random.default_rng(0)
    t = np.sort(rng.uniform(0, 20, 400))
    t[[50, 120, 121, 300]] = t[[49, 119, 120, 299]] + 1e-7
    with pytest.warns(smnn.DiscoveryWarning, match="times are nearer than 0.0001 of the median step"):
        found = smnn.discover(rotation(400, 0.05, t=t), np.diff(t), library=LINEAR)
    np.testing.assert_array_equal(found.coefficients != 0, TRUE != 0)
    np.testing.assert_allclose(found.coefficients, TRUE, atol=0.03)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"order": 3}, smnn.ArgumentError, "order must be 1 or 2"),
        ({"order": True}, TypeError, "order must be an integer"),
        ({"step_sizes": -0.1}, smnn.ArgumentError, "positive"),
        ({"step_sizes": np.full(7, 0.1)}, smnn.ShapeError, "step_sizes must be"),
        ({"step_sizes": np.full((3, 19), 0.1)}, smnn.ShapeError, "step_sizes"),
        ({"noise": -1.0}, smnn.ArgumentError, "noise must be"),
        ({"noise": [0.1, 0.1, 0.1]}, smnn.ShapeError, "noise must be a number or"),
        ({"noise": np.where(np.eye(20, 2), np.nan, 0.1)}, smnn.ArgumentError, "noise is NaN for some values"),
        ({"loss": "cauchy"}, smnn.ArgumentError, "loss must be one of"),
        ({"weights": (3.0, 1.0)}, smnn.ArgumentError, "ascending"),
        ({"significance": 0.0}, smnn.ArgumentError, "significance"),
        ({"names": ["x"]}, smnn.ArgumentError, "2 different names"),
        ({"library": 2}, TypeError, "polynomials"),
        ({"data": np.zeros((20, 2))}, smnn.ArgumentError, "constant"),
        ({"data": np.full((20, 2), 0.1)}, smnn.ArgumentError, "constant"),
        ({"data": np.full((20, 2), np.nan)}, smnn.ArgumentError, "observed"),
        ({"data": np.zeros((3, 2))}, smnn.ShapeError, "T >= 5"),
    ],
)
def test_arguments_are_checked(change, error, message):
    arguments = {"data": rotation(20, 0.1), "step_sizes": STEP, **change}
    with pytest.raises(error, match=message):
        smnn.discover(**arguments)


def test_progress_needs_nothing():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        smnn.discover(rotation(100, 0.05), STEP, library=LINEAR, progress=True)


def test_one_axis_of_data_and_times_for_steps_are_told_what_to_write() -> None:
    t = np.linspace(0, 1, 50)
    with pytest.raises(smnn.ShapeError, match=r"data\[:, None\]"):
        smnn.discover(t, 0.02)
    with pytest.raises(smnn.ShapeError, match=r"numpy.diff\(t\)"):
        smnn.discover(t[:, None], t)
