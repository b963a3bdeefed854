"""fit_ode: what it finds, how sure it says it is, and what it refuses."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from _backends import load

import smnn_core as smnn
from benchmarks.fitting_problems import CYCLE, decay, fitzhugh_nagumo, integrate, spikes
from benchmarks.fitting_problems import logarithmic_lotka_volterra_field as lotka_volterra_field
from examples._lynx_hare_data import lotka_volterra
from smnn_core.fitting._iteration import _put

T_DECAY = np.linspace(0, 2, 41)
START = np.array([0.1, 0.01, 0.1, 0.01])


def cycle(t: np.ndarray) -> np.ndarray:
    """Logarithms of hare and lynx, (T, 2)."""
    return integrate(lambda _, z: lotka_volterra_field(z, CYCLE), np.log([33.0, 6.0]), t)


def decays(k: np.ndarray, noise: float = 0.0, seed: int = 0) -> np.ndarray:
    """Data (B, T, 1) of 3 exp(-k t) for k (B,)."""
    x = 3 * np.exp(-k[:, None, None] * T_DECAY[:, None])
    return x + noise * np.random.default_rng(seed).normal(size=x.shape)


def cycles(n: int, noise: float = 0.25, every: int = 8) -> tuple[np.ndarray, np.ndarray]:
    """The grid (T,) and noisy data (n, T, 2) of n cycles of hare and lynx, observed at every eighth point."""
    t = np.linspace(0, 20, 161)
    data = np.full((n, 161, 2), np.nan)
    data[:, ::every] = cycle(t)[::every] + noise * np.random.default_rng(0).normal(size=(n, len(t[::every]), 2))
    return t, data


def test_exact_data_give_exact_parameters():
    t = np.linspace(0, 20, 401)
    r = smnn.fit_ode(lotka_volterra, cycle(t), np.diff(t), START, order=4, noise=1e-6)
    assert r.converged
    np.testing.assert_allclose(r.parameters, CYCLE, rtol=1e-7)
    np.testing.assert_allclose(r.y[..., 0], cycle(t), atol=1e-7)


def test_exact_data_of_unknown_noise_are_fitted_as_exact():
    t = np.linspace(0, 20, 401)
    r = smnn.fit_ode(lotka_volterra, cycle(t), 0.05, START, order=4)
    np.testing.assert_allclose(r.parameters, CYCLE, rtol=1e-6)
    assert (r.noise < 1e-6).all()


def test_noisy_data_give_the_maximum_of_the_likelihood():
    from scipy.optimize import least_squares

    data = decays(np.array([1.3]), 0.1)[0]
    r = smnn.fit_ode(decay, data, 0.05, np.array([0.1]), order=2, noise=0.1)
    exact = least_squares(lambda x: (x[0] * np.exp(-x[1] * T_DECAY) - data[:, 0]) / 0.1, [3.0, 1.3], xtol=1e-14)
    error = np.sqrt(np.linalg.inv(exact.jac.T @ exact.jac)[1, 1])
    assert abs(r.parameters[0] - exact.x[1]) < 0.01 * error
    np.testing.assert_allclose(r.standard_errors[0], error, rtol=0.02)
    np.testing.assert_allclose(r.cost, 2 * exact.cost, rtol=1e-2)


def test_intervals_cover_the_truth_and_the_noise_is_estimated():
    t, data = cycles(200)
    r = smnn.fit_ode(lotka_volterra, data, np.diff(t), START, order=3)
    assert r.converged.all()
    covered = np.abs(r.parameters - CYCLE) < 1.96 * r.standard_errors
    assert (np.abs(covered.mean(axis=0) - 0.95) < 0.06).all()  # four standard deviations of a share of 200
    np.testing.assert_allclose(np.sqrt((r.noise**2).mean(axis=0)), 0.25, rtol=0.05)


def test_bands_cover_the_trajectory():
    """Noise of 0.1, half of the data missing, 300 data sets: the fitted y in units of its errors."""
    data = decays(np.full(300, 1.3), 0.1)
    data[:, np.random.default_rng(1).random(41) < 0.5] = np.nan
    r = smnn.fit_ode(decay, data, 0.05, np.array([1.0]), order=2, noise=0.1, y_errors=True)
    z = (r.y[..., 0] - 3 * np.exp(-1.3 * T_DECAY)[:, None]) / r.y_errors[..., 0]
    assert 0.9 < z.std() < 1.1
    assert 0.92 < np.mean(np.abs(z) < 1.96) < 0.97


def test_bands_of_a_linear_fit_are_those_of_linear_regression():
    """y = a exp(-k t) with a and k known to first order: the covariance of the two, and what it does to y."""
    data = decays(np.array([1.3]), 0.1)[0]
    r = smnn.fit_ode(decay, data, 0.05, np.array([1.0]), order=3, noise=0.1, y_errors=True)
    k = r.parameters[0]
    jacobian = np.stack([np.exp(-k * T_DECAY), -r.y[0, 0, 0] * T_DECAY * np.exp(-k * T_DECAY)], axis=-1)
    covariance = 0.1**2 * np.linalg.inv(jacobian.T @ jacobian)
    expected = np.sqrt(np.einsum("ti,ij,tj->t", jacobian, covariance, jacobian))
    found = r.y_errors[:, 0, 0]
    np.testing.assert_allclose(found[:-2], expected[:-2], rtol=0.01)
    assert np.all(found[-2:] > expected[-2:])  # of the last points the rows of the scheme say less


def test_missing_values_are_left_out():
    k = np.array([1.3])
    data = decays(k, 0.1)
    data[0, 5:35:2] = np.nan
    keep = ~np.isnan(data[0, :, 0])
    r = smnn.fit_ode(decay, data[0], 0.05, np.array([0.1]), order=2, noise=0.1)
    coarse = smnn.fit_ode(decay, data[0, keep], np.diff(T_DECAY[keep]), np.array([0.1]), order=2, noise=0.1)
    np.testing.assert_allclose(r.parameters, coarse.parameters, atol=0.05 * r.standard_errors[0])
    assert np.isnan(r.residuals.initial[..., 0][~keep]).all()
    assert np.isfinite(r.residuals.initial[..., 0][keep]).all()


def test_trajectory_goes_on_where_data_end():
    t, data = cycles(1, noise=0.02)
    data[0, 121:] = np.nan
    r = smnn.fit_ode(lotka_volterra, data[0], np.diff(t), START, order=3, noise=0.02)
    assert r.converged
    np.testing.assert_allclose(r.y[..., 0], cycle(t), atol=0.1)


def test_a_variable_need_not_be_observed():
    problem = spikes("", (1, 1, 1), only_v=True, noise=1e-3)
    r = smnn.fit_ode(fitzhugh_nagumo, problem.data(1)[0], 1 / 16, problem.start, order=3, noise=1e-3)
    assert r.converged
    assert (np.abs(r.parameters - problem.truth) < 4 * r.standard_errors).all()
    np.testing.assert_allclose(r.y[..., 0], problem.exact, atol=0.02)


def test_members_of_a_batch_are_independent():
    k = np.array([0.5, 1.0, 2.0])
    data = decays(k, 0.05)
    start = np.array([[0.3], [np.nan], [0.3]])
    with pytest.warns(smnn.ConvergenceWarning, match="1 of 3 fits failed"):
        r = smnn.fit_ode(decay, data, 0.05, start, order=2, noise=0.05)
    np.testing.assert_array_equal(r.converged, [True, False, True])
    assert np.isnan(r.standard_errors[1]).all()
    for b in (0, 2):
        alone = smnn.fit_ode(decay, data[b], 0.05, np.array([0.3]), order=2, noise=0.05)
        np.testing.assert_allclose(r.parameters[b], alone.parameters, rtol=1e-9)
        np.testing.assert_allclose(r.y[b], alone.y, rtol=1e-9, atol=1e-9)


def test_shared_parameters_are_the_weighted_mean():
    data = decays(np.array([1.3, 1.3]), 0.01)
    data[1] /= 3  # less precise
    own = smnn.fit_ode(decay, data, 0.05, np.array([0.3]), order=2, noise=0.01)
    shared = smnn.fit_ode(decay, data, 0.05, np.array([0.3]), order=2, noise=0.01, shared=True)
    assert shared.parameters.shape == (1,)
    precision = 1 / own.standard_errors**2
    np.testing.assert_allclose(shared.standard_errors, precision.sum(axis=0) ** -0.5, rtol=1e-2)
    mean = (precision * own.parameters).sum(axis=0) / precision.sum(axis=0)
    np.testing.assert_allclose(shared.parameters, mean, atol=0.05 * shared.standard_errors[0])


@pytest.mark.parametrize("start", [-5.0, 0.0, 1e-4, 100.0])
def test_start_may_have_the_wrong_sign_and_size(start):
    r = smnn.fit_ode(decay, decays(np.array([1.3]), 0.05)[0], 0.05, np.array([start]), order=2, noise=0.05)
    assert r.converged
    assert abs(r.parameters[0] - 1.3) < 4 * r.standard_errors[0]


def test_units_do_not_matter():
    data = decays(np.array([1.3]), 0.1)[0]
    r = smnn.fit_ode(decay, data, 0.05, np.array([0.1]), order=2, noise=0.1)
    other = smnn.fit_ode(decay, 1e-6 * data, 50.0, np.array([1e-4]), order=2, noise=1e-7)
    np.testing.assert_allclose(1e3 * other.parameters, r.parameters, rtol=1e-7)
    np.testing.assert_allclose(1e3 * other.standard_errors, r.standard_errors, rtol=1e-6)
    assert other.iterations == r.iterations


def test_guess_may_say_something_of_some_variables():
    """An epidemic of which the infected were counted: no susceptibles, where the fit starts, would be no good start."""

    def epidemic(t, y, θ):
        β, γ = θ[..., 0], θ[..., 1]
        u, v = y[..., 0, 0], y[..., 1, 0]  # susceptible, infected
        f = np.stack([y[..., 0, 1] + β * u * v, y[..., 1, 1] - β * u * v + γ * v], axis=-1)
        J = np.zeros((*f.shape, *y.shape[-2:]))
        J[..., 0, 0, 1] = J[..., 1, 1, 1] = 1
        J[..., 0, 0, 0], J[..., 0, 1, 0] = β * v, β * u
        J[..., 1, 0, 0], J[..., 1, 1, 0] = -β * v, -β * u + γ
        return f, J, np.stack([np.stack([u * v, 0 * u], axis=-1), np.stack([-u * v, v], axis=-1)], axis=-2)

    t = np.linspace(0, 60, 121)
    exact = integrate(lambda _, x: [-0.5 * x[0] * x[1], 0.5 * x[0] * x[1] - 0.1 * x[1]], np.array([0.99, 0.01]), t)
    data = exact + 0.02 * np.random.default_rng(0).normal(size=exact.shape)
    data[:, 0] = np.nan
    guess = np.full((121, 2, 4), np.nan)
    guess[:, 0] = [1.0, 0.0, 0.0, 0.0]
    r = smnn.fit_ode(epidemic, data, 0.5, np.array([1.0, 1.0]), order=3, noise=0.02, guess=guess)
    assert r.converged
    assert (np.abs(r.parameters - [0.5, 0.1]) < 4 * r.standard_errors).all()


def test_bounds_hold():
    r = smnn.fit_ode(decay, decays(np.array([1.3]), 0.05)[0], 0.05, np.array([0.5]), order=2, bounds=(0.0, 1.0))
    assert r.converged
    assert r.parameters[0] == 1.0
    assert np.isnan(r.standard_errors[0])


def test_equations_that_do_not_converge_are_flagged():
    t, data = cycles(1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # asked for few iterations: no warning
        r = smnn.fit_ode(lotka_volterra, data[0], np.diff(t), START, order=3, noise=0.25, max_iterations=3)
    assert not r.converged
    assert r.iterations == 3


def test_parameters_that_nothing_determines_are_reported():
    def twice(t, y, θ):  # only the sum of both parameters acts
        f, J, P = decay(t, y, θ[..., :1] + θ[..., 1:])
        return f, J, np.concatenate([P, P], axis=-1)

    data = decays(np.array([1.3]), 0.05)[0]
    with pytest.warns(smnn.ConvergenceWarning, match="do not determine"):
        r = smnn.fit_ode(twice, data, 0.05, np.array([0.2, 0.3]), order=2, noise=0.05)
    assert (r.standard_errors > 1e3).all()
    assert abs(r.parameters.sum() - 1.3) < 0.2


def test_a_fit_that_leaves_far_more_than_the_noise_warns():
    data = decays(np.array([1.3]), noise=0.1)[0]
    with pytest.warns(smnn.MisfitWarning, match="1 of 1 fits leave up to .* times the noise given"):
        smnn.fit_ode(decay, data, 0.05, np.array([0.3]), order=2, noise=0.02)


def test_linear_problem_equals_dense_least_squares():
    """f linear in y and θ, given weights: one iteration is the minimum."""
    rng = np.random.default_rng(0)
    T, weights = 30, smnn.Weights(equation=2.0, smoothness=50.0)
    forcing, data = rng.normal(size=(T, 2)), rng.normal(size=(T, 1))
    J = np.broadcast_to(np.array([4.0, 0.3, 1.0]), (T, 1, 1, 3))

    def linearize(t, y, θ):
        return np.sum(J * y[..., None, :, :], axis=(-2, -1)) - (θ * forcing).sum(-1)[..., None], J, -forcing[:, None]

    r = smnn.fit_ode(linearize, data, 0.1, np.zeros(2), order=2, noise=0.5, weights=weights)
    zero = np.zeros((T, 1))
    A, d = smnn.dense_system(
        J, zero, data[..., None], np.array([0.1]), scheme=smnn.HERMITE, weights=smnn.Weights(2.0, 2.0, 50.0)
    )
    columns = np.zeros((len(A), 2))
    columns[:T] = -2.0 * forcing
    rows = np.hstack([A, columns])
    x = np.linalg.lstsq(rows, d)[0]
    assert r.converged
    np.testing.assert_allclose(r.parameters, x[-2:], rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(r.y.ravel(), x[:-2], rtol=1e-8, atol=1e-9)
    np.testing.assert_allclose(r.covariance, np.linalg.inv(rows.T @ rows)[-2:, -2:], rtol=1e-8)
    np.testing.assert_allclose(r.cost, np.sum((rows @ x - d) ** 2), rtol=1e-10)


def test_without_parameters_the_trajectory_is_fitted():
    def known(t, y):
        return decay(t, y, np.array([[1.3]]))[:2]

    data = decays(np.array([1.3]), 0.1)[0]
    r = smnn.fit_ode(known, data, 0.05, order=2, noise=0.1)
    basis = np.exp(-1.3 * T_DECAY)
    start = basis @ data[:, 0] / (basis @ basis)
    assert r.converged
    assert r.parameters is None
    np.testing.assert_allclose(r.y[:, 0, 0], start * basis, atol=1e-3)  # a hundredth of the noise


def test_cost_has_the_derivative_that_it_has_at_fixed_y():
    """The envelope theorem, on which training networks in the residual rests."""

    def damped(k):
        def linearize(t, y):
            q, v, a = (y[..., 0, i] for i in range(3))
            J = np.stack([np.cos(q), k + 0 * q, 1 + 0 * q, 0 * q], axis=-1)
            return (a + np.sin(q) + k * v)[..., None], J[..., None, None, :]

        return linearize

    t = np.linspace(0, 6, 121)
    data = (np.exp(-0.1 * t) * np.cos(t))[:, None]
    options = {"order": 3, "noise": 0.05, "weights": smnn.Weights(equation=10.0, smoothness=1000.0)}
    r = smnn.fit_ode(damped(0.3), data, 0.05, **options)
    h = 1e-4
    ahead, back = (smnn.fit_ode(damped(0.3 + d), data, 0.05, guess=r.y, **options).cost for d in (h, -h))
    at_fixed_y = 2 * 10.0**2 * np.sum(r.residuals.equation[:, 0] * r.y[:, 0, 1])
    np.testing.assert_allclose((ahead - back) / (2 * h), at_fixed_y, rtol=1e-5)


def test_derivatives_may_be_observed():
    k, t = 1.3, T_DECAY
    data = np.full((41, 1, 2), np.nan)
    data[:, 0, 1] = -k * 3 * np.exp(-k * t)
    r = smnn.fit_ode(decay, data, 0.05, np.array([0.5]), order=3, noise=1e-4, observed_orders=2)
    np.testing.assert_allclose(r.parameters, k, rtol=1e-4)


def test_result_has_the_dtype_and_batch_axes_of_the_arguments():
    data = decays(np.array([0.5, 1.0, 2.0, 1.5]), 0.05).reshape(2, 2, 41, 1).astype(np.float32)
    r = smnn.fit_ode(decay, data, 0.05, np.float32([0.3]), order=2)
    assert r.y.shape == (2, 2, 41, 1, 3)
    assert r.parameters.shape == r.standard_errors.shape == (2, 2, 1)
    assert r.covariance.shape == (2, 2, 1, 1)
    assert r.noise.shape == (2, 2, 1)
    assert r.cost.shape == r.converged.shape == r.iterations.shape == (2, 2)
    assert {x.dtype for x in (r.y, r.parameters, r.covariance, r.cost, r.noise)} == {np.dtype("float32")}


@pytest.mark.parametrize(
    "more",
    [
        {"t0": np.zeros(3)},
        {"scale": np.ones((3, 1))},
        {"noise": np.full((3, 1, 1), 0.1)},
        {"bounds": (np.zeros((3, 1)), None)},
        {"weights": smnn.Weights(np.ones((3, 1, 1)))},
        {"weights": smnn.Weights(smoothness=np.ones((3, 1)))},
    ],
    ids=lambda x: next(iter(x)),
)
def test_any_argument_may_have_the_batch_axes(more):
    r = smnn.fit_ode(decay, DATA, np.array(0.05), np.array([0.5]), order=2, **{"noise": 0.1} | more)
    assert r.parameters.shape == (3, 1)
    np.testing.assert_allclose(r.parameters, r.parameters[:1].repeat(3, 0), rtol=1e-9)
    with pytest.raises(smnn.ShapeError, match="do not broadcast"):
        smnn.fit_ode(decay, np.stack([DATA] * 2), 0.05, np.array([0.5]), order=2, **{"noise": 0.1} | more)


def test_values_are_read_where_that_waits_for_a_device(monkeypatch):
    monkeypatch.setattr("smnn_core.fitting._problem.can_look", lambda x: False)
    guess = np.full((41, 1, 3), np.nan)
    guess[::2] = 0.0
    r = smnn.fit_ode(decay, DATA, 0.05, np.array([0.5]), order=2, noise=0.1, guess=guess)
    np.testing.assert_allclose(r.parameters, 1.0, rtol=1e-3)
    for wrong in ({"noise": -0.1}, {"scale": 0.0}, {"bounds": (2.0, 3.0)}):
        with pytest.raises(smnn.ArgumentError, match=next(iter(wrong))):
            smnn.fit_ode(decay, DATA, 0.05, np.array([0.5]), order=2, **wrong)


@pytest.mark.parametrize("name", ["data", "parameters", "noise", "weights", "bounds"])
def test_torch_asks_for_no_derivatives(name):
    torch = pytest.importorskip("torch")
    x = {"data": torch.as_tensor(DATA), "parameters": torch.ones(1).double(), "noise": torch.tensor(0.1).double()}
    lower, w = torch.zeros(1).double(), torch.tensor(100.0).double()
    (x | {"weights": w, "bounds": lower})[name].requires_grad_()
    x |= {"weights": smnn.Weights(w), "bounds": (lower, None), "step_sizes": 0.05, "order": 2}
    with pytest.raises(smnn.ArgumentError, match=r"smnn_core\.fit_ode cannot be differentiated .* smnn_torch"):
        smnn.fit_ode(decay, **x)


def test_members_are_replaced_in_arrays_of_any_library(backend):
    x, new = backend.asarray(np.zeros((4, 2))), backend.asarray([[1.0, 2.0], [3.0, 4.0]])
    members = backend.xp.nonzero(backend.asarray([False, True, False, True]))[0]
    found = backend.to_numpy(_put(backend.xp, x, members, new))
    np.testing.assert_array_equal(found, [[0, 0], [1, 2], [0, 0], [3, 4]])


@pytest.mark.parametrize("name", ["array_api_strict", "torch"])
def test_other_array_libraries_give_the_same(name):
    backend = load(name)
    xp = backend.xp

    def linearize(t, y, k):
        value, slope = y[..., 0, 0], y[..., 0, 1]
        k = k[..., 0] + 0 * value
        J = xp.stack([k, 1 + 0 * k, 0 * k], axis=-1)
        return (slope + k * value)[..., None], J[..., None, None, :], value[..., None, None]

    data = decays(np.array([1.3, 1.0]), 0.1)  # finished after 9 and 8 iterations
    data[:, ::3] = np.nan
    options = {"order": 2, "bounds": (0.0, 3.0), "engine": "array_api"}
    expected = smnn.fit_ode(decay, data, 0.05, np.array([0.1]), **options)
    r = smnn.fit_ode(linearize, backend.asarray(data), 0.05, backend.asarray([0.1]), **options)
    np.testing.assert_allclose(backend.to_numpy(r.parameters), expected.parameters, rtol=1e-8)
    np.testing.assert_allclose(backend.to_numpy(r.y), expected.y, rtol=1e-8, atol=1e-8)


def test_shows_parameters_with_their_errors():
    r = smnn.fit_ode(decay, decays(np.array([1.3]), 0.1)[0], 0.05, np.array([0.1]), order=2, noise=0.1)
    value, error = r.parameters[0], r.standard_errors[0]
    assert f"{value:.3f} ± {error:.3f}" in str(r)


DATA = decays(np.array([1.0]))[0]


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"data": DATA[:, 0]}, smnn.ShapeError, "data must have shape"),
        ({"data": np.where(np.arange(41)[:, None] == 3, np.inf, DATA)}, smnn.ArgumentError, "data contains infinite"),
        ({"data": np.zeros((0, 41, 1))}, smnn.ShapeError, "data, .* hold no data set"),
        ({"step_sizes": T_DECAY}, smnn.ShapeError, "Are step_sizes the times?"),
        ({"step_sizes": np.ones(7)}, smnn.ShapeError, "step_sizes must have shape"),
        ({"step_sizes": 0.0}, smnn.ArgumentError, "step_sizes contains a zero"),
        ({"order": 0}, smnn.ArgumentError, "order"),
        ({"noise": -1.0}, smnn.ArgumentError, "noise"),
        ({"noise": np.ones(3)}, smnn.ShapeError, "noise"),
        ({"guess": np.ones((41, 1, 2))}, smnn.ShapeError, "guess must have shape"),
        ({"bounds": (2.0, 3.0)}, smnn.ArgumentError, "bounds"),
        ({"bounds": 1.0}, TypeError, "bounds must be a pair"),
        ({"bounds": (np.zeros((3, 1)), None), "shared": True}, smnn.ShapeError, "the lower bound of shared parameters"),
        ({"parameters": np.ones((2, 1)), "shared": True}, smnn.ShapeError, "parameters"),
        ({"parameters": np.ones((3, 1)), "data": np.ones((2, 41, 1))}, smnn.ShapeError, "parameters"),
        ({"parameters": np.float32([1.0])}, smnn.DTypeError, "parameters has dtype"),
        ({"weights": smnn.Weights(initial=2.0)}, smnn.ArgumentError, "weights.initial"),
        ({"weights": smnn.Weights(equation=np.ones((7, 1)))}, smnn.ShapeError, "weights.equation"),
        ({"scale": 0.0}, smnn.ArgumentError, "scale"),
        ({"max_iterations": 0}, smnn.ArgumentError, "max_iterations"),
        ({"observed_orders": 1}, smnn.ShapeError, "data must have shape"),
    ],
)
def test_errors_name_the_argument(changes, error, message):
    arguments = {"data": DATA, "step_sizes": 0.05, "parameters": np.array([1.0]), "order": 2} | changes
    with pytest.raises(error, match=message):
        smnn.fit_ode(decay, **arguments)


def test_wrong_derivatives_are_refused():
    def wrong(t, y, θ):
        f, J, P = decay(t, y, θ)
        return f, J[..., 0, :], P

    with pytest.raises(smnn.ShapeError, match="J returned by"):
        smnn.fit_ode(wrong, DATA, 0.05, np.array([1.0]), order=2)
