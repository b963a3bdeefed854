"""Results travel: through pickle, as multiprocessing and joblib send them, and `copy.deepcopy`."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest

import smnn_core as smnn

TRAVEL = {"pickle": lambda x: pickle.loads(pickle.dumps(x)), "deepcopy": copy.deepcopy}
T = 6


@pytest.fixture
def arguments() -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(0)
    return rng.uniform(1, 2, (3, T, 1, 1, 2)), rng.uniform(-1, 1, (T, 1)), np.ones((1, 1, 1)), np.full(T - 1, 0.1)


@pytest.mark.parametrize("travel", TRAVEL.values(), ids=TRAVEL)
@pytest.mark.parametrize("engine", ["auto", "array_api"])
@pytest.mark.parametrize("used", [False, True])
def test_posterior(travel: Any, engine: str, used: bool, arguments: tuple[np.ndarray, ...]) -> None:
    p = smnn.posterior(*arguments, engine=engine)
    if used:
        assert p.variance.shape == p.mean.shape
    q = travel(p)
    for name in ("mean", "variance", "covariance", "lag_covariance", "log_determinant", "sum_of_squares"):
        np.testing.assert_allclose(getattr(q, name), getattr(p, name), rtol=1e-13)
    samples = [x.sample(2, np.random.default_rng(1)) for x in (p, q)]
    np.testing.assert_allclose(*samples, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("travel", TRAVEL.values(), ids=TRAVEL)
@pytest.mark.parametrize("engine", ["auto", "array_api"])
def test_factorization(travel: Any, engine: str, arguments: tuple[np.ndarray, ...]) -> None:
    c, b, u, s = arguments
    f = smnn.factorize(c, s, n_initial_steps=1, n_initial_orders=1, engine=engine)
    g = travel(f)
    y = f.solve(b, u)
    np.testing.assert_array_equal(g.solve(b, u), y)
    np.testing.assert_allclose(g.normal_solve(y), f.normal_solve(y), rtol=1e-12)


@pytest.mark.parametrize("travel", TRAVEL.values(), ids=TRAVEL)
def test_results_that_are_data(travel: Any, arguments: tuple[np.ndarray, ...]) -> None:
    y, vjp = smnn.solve_ode_vjp(*arguments)
    for before in (vjp(y), smnn.Weights(equation=y[..., 0]), smnn.residuals(y, *arguments)):
        after = travel(before)
        assert type(after) is type(before)
        np.testing.assert_array_equal(
            after[0] if isinstance(after, tuple) else after.equation,
            before[0] if isinstance(before, tuple) else before.equation,
        )
    for scheme in (smnn.HERMITE, smnn.TAYLOR, smnn.WIENER, smnn.Scheme.from_matrices(*smnn.HERMITE.matrices(2))):
        assert travel(scheme) == scheme


def test_of_tensors(arguments: tuple[np.ndarray, ...]) -> None:
    torch = pytest.importorskip("torch")
    st = pytest.importorskip("smnn_torch")
    tensors = [torch.from_numpy(x) for x in arguments]
    p = st.posterior(*tensors)
    for travel in TRAVEL.values():
        assert torch.equal(travel(p).variance, p.variance)
