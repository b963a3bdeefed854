"""Values at any times, and the estimate of the error."""

from __future__ import annotations

import numpy as np
import pytest
from _assert import assert_close
from _backends import load

import smnn_core as smnn


def test_values_stand_where_they_are_given() -> None:
    values = {0: [[1.0, np.nan]], range(2, 4): np.array([[[3.0, 4.0]], [[5.0, np.nan]]]), -1: [7.0, 7.0]}
    u = smnn.conditions(6, values, n_orders=2)
    nan = np.nan
    np.testing.assert_array_equal(u[:, 0], [[1, nan], [nan, nan], [3, 4], [5, nan], [nan, nan], [7, 7]])


def test_entries_of_one_time_add_up() -> None:
    u = smnn.conditions(3, {0: [1.0, np.nan], (0, 2): [np.nan, 2.0]}, n_orders=2)
    np.testing.assert_array_equal(u[:, 0], [[1, 2], [np.nan, np.nan], [np.nan, 2]])


@pytest.mark.parametrize("library", ["numpy", "torch", "array_api_strict"])
def test_boundary_values_of_a_batch(library: str) -> None:
    backend = load(library)
    """y'' = 0 between two values: a straight line."""
    ends = np.array([1.0, -2.0, 0.5]).reshape(3, 1, 1)
    like = backend.asarray(ends)
    u = smnn.conditions(11, {0: 0.0, -1: like}, like=like)
    line, zero, s = (backend.asarray(x) for x in (np.eye(3)[2].reshape(1, 1, 1, 3), np.zeros((1, 1)), np.full(10, 0.1)))
    y = smnn.solve_ode(line, zero, u, s)
    assert_close(y[..., 0, 0], ends[..., 0] * np.linspace(0, 1, 11), backend, factor=1e4)


def test_rows_that_are_not_given_have_no_gradient() -> None:
    u = smnn.conditions(11, {0: 0.0, -1: 1.0})
    y, vjp = smnn.solve_ode_vjp(np.eye(3)[2].reshape(1, 1, 1, 3), np.zeros((1, 1)), u, np.full(10, 0.1))
    gradient = vjp(np.ones_like(y)).initial_values
    np.testing.assert_array_equal(gradient[:, 0, 0] != 0, [True, *[False] * 9, True])


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        ({6: 1.0}, smnn.ArgumentError, r"time index 6 in values is outside of 0\.\.T-1 with T = 6"),
        ([0.0, 1.0], TypeError, "values must map time indices to values"),
        ({0.5: 1.0}, smnn.ArgumentError, r"keys of values are time indices.*searchsorted"),
        ({(1, -5): 1.0}, smnn.ArgumentError, r"names a time twice"),
        ({0: 1.0, -6: 2.0}, smnn.ArgumentError, r"values\[-6\] contradicts"),
        ({0: [1.0, 2.0]}, smnn.ShapeError, r"values\[0\] of shape \(2,\) must broadcast to \(\.\.\., V, R_init\)"),
    ],
)
def test_errors(values: dict[object, object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        smnn.conditions(6, values)


@pytest.mark.parametrize("library", ["numpy", "torch", "jax", "array_api_strict"])
def test_values_that_contradict_each_other_are_found_in_every_library(library: str) -> None:
    like = load(library).asarray(np.zeros(1))
    with pytest.raises(smnn.ArgumentError, match=r"values\[\(0, 1\)\] contradicts"):
        smnn.conditions(3, {0: 1.0, (0, 1): [[[2.0]], [[3.0]]]}, like=like)


def test_values_may_be_mapped_by_transforms_of_torch() -> None:
    torch = pytest.importorskip("torch", reason="needs torch")

    def given(x):
        return smnn.conditions(2, {0: 0.0, -1: x}, like=x)[-1, 0, 0]

    x = torch.arange(3.0)
    torch.testing.assert_close(torch.func.vmap(given)(x), x)
    torch.testing.assert_close(torch.func.vmap(torch.func.grad(given))(x), torch.ones(3))


def test_a_number_is_no_value_of_several_orders() -> None:
    with pytest.raises(
        smnn.ShapeError, match=r"values\[0\] of shape \(\) must hold a value for each of the n_orders = 2"
    ):
        smnn.conditions(6, {0: 0.0, -1: [np.nan, 1.0]}, n_orders=2)


@pytest.mark.parametrize("kind", ["uniform", "jitter", "random"])
@pytest.mark.parametrize(("order", "R"), [(1, 2), (2, 2), (2, 3), (3, 3)])
def test_estimate_is_near_the_error(kind: str, order: int, R: int) -> None:
    """Of (d/dt + 1)^order y = 0 with y = t^(order-1) exp(-t)."""
    rng = np.random.default_rng(order)
    t = np.linspace(0, 6, 121)
    if kind == "jitter":
        t[1:-1] += rng.uniform(-0.015, 0.015, 119)
    if kind == "random":
        t = np.sort(np.r_[0, 6, rng.uniform(0, 6, 119)])
    c, u = np.zeros((1, 1, 1, R + 1)), np.zeros((1, 1, order))
    c[0, 0, 0, : order + 1] = np.poly1d([1, 1]).c if order == 1 else np.polynomial.polynomial.polypow([1, 1], order)
    u[0, 0, -1] = [1, 1, 2][order - 1]
    problem = c, np.zeros((1, 1)), u, np.diff(t)
    error = smnn.solve_ode(*problem)[:, 0, 0] - t ** (order - 1) * np.exp(-t)
    estimate = smnn.error_estimate(*problem)[:, 0, 0]
    assert np.abs(estimate - error).max() <= 0.2 * np.abs(error).max()


@pytest.mark.parametrize("library", ["numpy", "torch", "array_api_strict"])
def test_estimate_has_the_shape_of_the_solution(library: str) -> None:
    backend = load(library)
    shapes = [(2, 1, 1, 1, 3), (3, 1, 6, 1), (1, 1, 2), (5,)]
    arguments = [backend.asarray(np.random.default_rng(0).uniform(0.5, 1, shape)) for shape in shapes]
    assert tuple(smnn.error_estimate(*arguments).shape) == (3, 2, 6, 1, 3)


def test_estimate_says_that_it_is_two_orders_more_that_are_refused() -> None:
    problem = (
        np.array([[[[4.0, 0.0, 1.0]]]]),
        np.zeros((1, 1)),
        np.array([[[1.0, 0.0]]]),
        np.array([0.1, 1e-20, 0.1]),
    )
    assert np.isfinite(smnn.solve_ode(*problem)[:, 0, 0]).all()
    with pytest.raises(smnn.SingularSystemError) as info:
        smnn.error_estimate(*problem)
    assert "two orders more" in info.value.__notes__[0]
