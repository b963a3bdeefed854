"""Systems without a unique solution: an error where looking costs nothing, NaN where it would not."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
from _backends import Backend, load

import smnn_core as smnn
from smnn_core.engines import cpu

COMPILED = pytest.mark.skipif(cpu._kernels is None, reason="the kernels are not compiled here")
ENGINES = pytest.mark.parametrize("engine", ["auto", "array_api", pytest.param("blocks", marks=COMPILED)])


def drifting(batch: int, T: int) -> dict[str, np.ndarray]:
    """y' = 0 without initial values: any constant is a solution."""
    c = np.zeros((batch, T, 1, 1, 3))
    c[..., 1] = 1.0
    return {
        "coefficients": c,
        "rhs": np.zeros((batch, T, 1)),
        "initial_values": np.zeros((0, 1, 1)),
        "step_sizes": np.full(T - 1, 0.1),
    }


@pytest.mark.parametrize("T", [3, 5, 33, 1000])
@ENGINES
def test_raises_with_batch_index_and_time(T: int, engine: str) -> None:
    problem = drifting(3, T)
    problem["coefficients"][[0, 2], ..., 0] = 1.0  # y = 0, at three points or more
    problem["coefficients"][[0, 2], ..., 1] = 0.0
    with pytest.raises(
        smnn.SingularSystemError, match=r"no unique solution: batch member \(1,\), time point"
    ) as caught:
        smnn.solve_ode(**problem, engine=engine)
    assert caught.value.batch_index == (1,)
    assert 0 <= caught.value.time < T


def test_is_a_linear_algebra_error() -> None:
    with pytest.raises(np.linalg.LinAlgError, match="time point"):
        smnn.solve_ode(**drifting(1, 4))


@ENGINES
def test_no_rows_at_all_for_a_variable(engine: str) -> None:
    """Two variables, of which the second appears in no row but smoothness."""
    c = np.zeros((5, 1, 2, 2))
    c[:, 0, 0, :] = 1.0
    with pytest.raises(smnn.SingularSystemError, match="left undetermined"):
        smnn.solve_ode(c, np.ones((5, 1)), np.zeros((0, 2, 1)), np.full(4, 0.1), engine=engine)


def test_all_rows_masked() -> None:
    problem = drifting(1, 4)
    problem["coefficients"] = problem["coefficients"][0] + 1.0
    problem["rhs"] = problem["rhs"][0]
    with pytest.raises(smnn.SingularSystemError, match=r"solution: time point \d is left undetermined"):
        smnn.solve_ode(**problem, weights=smnn.Weights(equation=0.0, smoothness=0.0))


def test_factorize_raises_too() -> None:
    problem = drifting(2, 4)
    with pytest.raises(smnn.SingularSystemError, match="time point"):
        smnn.factorize(problem["coefficients"], problem["step_sizes"], n_initial_steps=0, n_initial_orders=1)


def traced(backend: Backend, problem: dict[str, np.ndarray], **options: Any) -> np.ndarray:
    arrays = [backend.asarray(x) for x in problem.values()]
    return backend.to_numpy(backend.jit(lambda *a: smnn.solve_ode(*a, **options))(*arrays))


def test_is_nan_for_the_member_concerned_where_values_cannot_be_seen() -> None:
    """Under jax.jit nothing can raise; the other members are as they are alone."""
    backend = load("jax")
    problem = drifting(3, 5)
    problem["coefficients"][[0, 2], ..., 0] = 1.0
    problem["coefficients"][[0, 2], ..., 1] = 0.0
    problem["rhs"][:] = 1.0
    y = traced(backend, problem)
    assert np.isnan(y[1]).all()
    alone = {k: (x if k in ("initial_values", "step_sizes") else x[[0, 2]]) for k, x in problem.items()}
    np.testing.assert_allclose(y[[0, 2]], traced(backend, alone), rtol=1e-12, atol=1e-12)


def test_check_cannot_look_at_traced_values() -> None:
    with pytest.raises(smnn.ArgumentError, match="check=True needs values, and these are traced"):
        traced(load("jax"), drifting(1, 4), check=True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, r"0 initial values are given, and equations of order 1 in 1 variable leave 1 constants open"),
        (
            {"weights": {"equation": np.zeros((1, 8, 1))}},
            r"8 of 8 equation rows are empty, .* the first at time point 0",
        ),
        ({"weights": {"smoothness": np.r_[1.0, np.zeros(6)]}}, r"6 of 7 steps have smoothness rows of weight zero"),
    ],
    ids=["initial", "masked", "cut"],
)
def test_the_message_names_likely_causes(changes: dict[str, Any], message: str) -> None:
    weights = smnn.Weights(**changes.get("weights", {}))
    with pytest.raises(smnn.SingularSystemError, match=message) as caught:
        smnn.solve_ode(**drifting(1, 8), weights=weights)
    assert caught.value.causes


def test_the_error_can_be_pickled() -> None:
    error = smnn.SingularSystemError((1,), 2, ["a"])
    again = pickle.loads(pickle.dumps(error))
    assert (again.batch_index, again.time, again.causes, str(again)) == ((1,), 2, ("a",), str(error))


@pytest.mark.parametrize("factor", [1e10, 1e15, 1e20, 1e40, 1e75, 1e140, 1e200])
@pytest.mark.parametrize("engine", ["cpu", "array_api"])
def test_equations_times_a_large_number(factor: float, engine: str) -> None:
    """Heavy equations hold exactly, however heavy."""
    rng = np.random.default_rng(0)
    T, V = 41, 2
    c = 0.3 * rng.uniform(-1, 1, (3, T, V, V, 4)) * [1, 1, 0, 0]
    c[..., range(V), range(V), 1] += 1.5
    b, u, s = rng.uniform(-1, 1, (T, V)), rng.uniform(-1, 1, (1, V, 1)), rng.uniform(0.1, 0.3, T - 1)
    expected = smnn.solve_ode(1e8 * c, 1e8 * b, u, s, engine=engine)
    calls = {
        "solve_ode": lambda: smnn.solve_ode(factor * c, factor * b, u, s, engine=engine),
        "factorize": lambda: smnn.factorize(factor * c, s, n_initial_steps=1, n_initial_orders=1, engine=engine).solve(
            factor * b, u
        ),
        "posterior": lambda: smnn.posterior(factor * c, factor * b, u, s, scheme=smnn.HERMITE, engine=engine).mean,
    }
    for call in calls.values():
        np.testing.assert_allclose(
            call()[..., :2], expected[..., :2], rtol=0, atol=1e-9 * np.abs(expected[..., :2]).max()
        )


def test_variances_of_rows_whose_squares_overflow_are_refused() -> None:
    c, b, u, s = np.full((1, 1, 1, 2), 1e150), np.zeros((5, 1)), np.ones((1, 1, 1)), np.full(4, 0.1)
    try:
        p = smnn.posterior(c, b, u, s)
        found = p.variance, p.log_determinant
    except smnn.ArgumentError as error:
        assert "squares of rows overflow" in str(error)  # noqa: PT017
    else:
        assert all(np.isfinite(x).all() for x in found)
