"""solve_ode against the dense least-squares solve, on every array library."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any

import numpy as np
import pytest
from _assert import assert_close, eps
from _backends import Backend
from _oracle import solve as dense_solve
from _strategies import ProblemData, problems
from hypothesis import given, settings
from hypothesis import strategies as st

import smnn_core as smnn

DTYPES = ("float64", "float32")


def solve(backend: Backend, arguments: Iterable[Any], **options: Any) -> Any:
    """solve_ode on arrays of the backend, compiled as a whole where the library compiles."""
    arrays = [x if not isinstance(x, np.ndarray) else backend.asarray(x) for x in arguments]
    # the function itself, where that is all: JAX then finds what it has compiled for the same shapes
    function = backend.jit(partial(smnn.solve_ode, **options) if options else smnn.solve_ode)
    return function(*arrays)


def check_against_dense(data: ProblemData, backend: Backend, dtype: str, engine: str = "auto") -> None:
    data = data.rounded(dtype)
    oracle = dense_solve(*data.arrays, **data.options(), extended=dtype == "float64")
    arguments = data.arguments(backend, dtype)
    options = data.options(backend, dtype)
    y = solve(backend, arguments, **options, engine=engine)
    assert_close(y, oracle.y, backend, like=arguments[0], atol=oracle.tolerance(eps(dtype)), label=repr(data))


@pytest.mark.parametrize("dtype", DTYPES)
def test_equals_the_dense_solve(backend: Backend, dtype: str) -> None:
    @settings(max_examples=backend.examples(40))
    @given(problems())
    def check(data: ProblemData) -> None:
        check_against_dense(data, backend, dtype)

    check()


@settings(max_examples=15)
@given(problems(max_steps=70, max_variables=2, max_orders=3, max_batch_axes=1))
def test_equals_the_dense_solve_for_longer_sequences(data: ProblemData) -> None:
    from _backends import load

    check_against_dense(data, load("numpy"), "float64", engine="array_api")


def test_large_blocks() -> None:
    """n = 96 unknowns per time point."""
    rng = np.random.default_rng(0)
    V, K, T = 32, 3, 6
    c = rng.uniform(-0.1, 0.1, (1, V, V, K))
    c[0, :, :, 1] += 1.5 * np.eye(V)
    arguments = c, rng.normal(size=(T, V)), rng.normal(size=(1, V, 1)), rng.uniform(0.2, 0.8, T - 1)
    oracle = dense_solve(*arguments)
    y = smnn.solve_ode(*arguments)
    assert np.all(np.abs(y - oracle.y) <= oracle.tolerance(eps("float64")))


def test_time_invariant_inputs_equal_repeated_ones(backend: Backend) -> None:
    rng = np.random.default_rng(1)
    T = 7
    c, b, u, s = rng.normal(size=(1, 1, 1, 3)), rng.normal(size=(1, 1)), rng.normal(size=(1, 1, 2)), np.full(1, 0.3)
    repeated = np.repeat(c, T, 0), np.repeat(b, T, 0), u, np.repeat(s, T - 1, 0)
    once = solve(backend, (c, b, u, s), n_steps=T)
    again = solve(backend, repeated)
    assert_close(once, again, backend, factor=1e3)


def test_shared_left_hand_side_equals_repeated_one(backend: Backend) -> None:
    """Batch axes of the right-hand side in front, behind and between those of the left-hand side."""
    rng = np.random.default_rng(2)
    T, V, K = 6, 2, 3
    c, s = rng.normal(size=(3, 1, T, V, V, K)), rng.uniform(0.2, 0.5, (T - 1,))
    b, u = rng.normal(size=(2, 1, 4, T, V)), rng.normal(size=(2, 3, 1, 2, V, 2))
    y = solve(backend, (c, b, u, s))
    for i in np.ndindex(2, 3, 4):
        own = c[i[1], 0], b[i[0], 0, i[2]], u[i[0], i[1], 0], s
        oracle = dense_solve(*own)
        values = backend.to_numpy(y)[i]
        assert np.all(np.abs(values - oracle.y) <= oracle.tolerance(eps("float64")))


def test_empty_batch(backend: Backend) -> None:
    c, b, u, s = np.ones((0, 5, 1, 1, 3)), np.ones((0, 5, 1)), np.ones((0, 1, 1, 1)), np.ones(1)
    y = solve(backend, (c, b, u, s))
    assert tuple(y.shape) == (0, 5, 1, 3)


@settings(max_examples=20)
@given(st.integers(2, 12), st.integers(0, 2**31))
def test_reversing_time_reverses_the_solution(T: int, seed: int) -> None:
    """Negative steps: y(-t) has derivatives (-1)^r y^(r), and its equations coefficients (-1)^r c."""
    rng = np.random.default_rng(seed)
    c = rng.uniform(-0.5, 0.5, (T, 1, 1, 3)) + np.array([0.0, 1.5, 0.0])
    b, u, s = rng.normal(size=(T, 1)), rng.normal(size=(1, 1, 2)), rng.uniform(0.2, 0.8, T - 1)
    sign = np.array([1.0, -1.0, 1.0])
    y = smnn.solve_ode(c, b, u, s)
    backward = smnn.solve_ode(c * sign, b, u * sign[:2], -s)
    tolerance = dense_solve(c, b, u, s).tolerance(eps("float64"))
    assert np.all(np.abs(backward * sign - y) <= 2 * tolerance)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("argument", range(4), ids=["coefficients", "rhs", "initial_values", "step_sizes"])
def test_non_finite_input_leaves_other_batch_members_alone(backend: Backend, argument: int, bad: float) -> None:
    rng = np.random.default_rng(3)
    arguments = [rng.normal(size=shape) for shape in [(3, 6, 1, 1, 3), (3, 6, 1), (3, 1, 1, 2)]]
    arguments.append(rng.uniform(0.2, 0.5, (3, 5)))
    clean = backend.to_numpy(solve(backend, arguments))
    arguments[argument][1].flat[0] = bad
    with np.errstate(invalid="ignore", over="ignore"):
        y = backend.to_numpy(solve(backend, arguments))
    assert np.array_equal(y[[0, 2]], clean[[0, 2]])
    if argument == 2 and np.isnan(bad):
        assert np.isfinite(y[1]).all()  # an initial value that is not given
    else:
        assert not np.isfinite(y[1]).all()


def test_zero_weights_remove_rows() -> None:
    """Masked observations may hold anything finite; a sequence padded with its mean step solves like the shorter."""
    rng = np.random.default_rng(4)
    T, padding = 6, 3
    c, b = rng.normal(size=(T, 1, 1, 3)), rng.normal(size=(T, 1))
    u, s = rng.normal(size=(1, 1, 2)), rng.uniform(0.2, 0.5, T - 1)
    y = smnn.solve_ode(c, b, u, s)
    longer = (
        np.concatenate([c, np.full((padding, 1, 1, 3), 7.0)]),
        np.concatenate([b, np.full((padding, 1), -9.0)]),
        u,
        np.concatenate([s, np.full(padding, np.exp(np.log(s).mean()))]),
    )
    valid = (np.arange(T + padding) < T).astype(float)[:, None]
    padded = smnn.solve_ode(*longer, weights=smnn.Weights(equation=valid))
    tolerance = dense_solve(*longer, weights=smnn.Weights(equation=valid)).tolerance(eps("float64"))
    assert np.all(np.abs(padded[:T] - y) <= 2 * tolerance[:T])
