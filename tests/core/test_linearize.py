"""The wrapper of the caller's linearize: what it checks, and what its messages name."""

from __future__ import annotations

import numpy as np
import pytest

from smnn_core import ArgumentError, DTypeError, NamespaceError, ShapeError
from smnn_core._arrays import product
from smnn_core.nonlinear._linearize import Linearizer

T, V, K = 12, 2, 3
t, y = np.linspace(0, 1, T), np.random.default_rng(0).standard_normal((T, V, K))


def decay(t, y):
    """y' + y^2 = 0 for every variable."""
    J = np.zeros((*y.shape[:-2], V, V, K))
    for v in range(V):
        J[..., v, v, 0], J[..., v, v, 1] = 2 * y[..., v, 0], 1
    return y[..., 1] + y[..., 0] ** 2, J


def test_results_pass_through_and_tell_the_number_of_equations():
    linearize = Linearizer(decay)
    f, J, P = linearize(t, y)
    np.testing.assert_array_equal(f, decay(t, y)[0])
    np.testing.assert_array_equal(J, decay(t, y)[1])
    assert P is None
    assert linearize.Q == V


def test_rhs_makes_the_newton_step_of_the_linear_problem():
    result = Linearizer(decay)(t, y)
    expected = np.einsum("tqvo,tvo->tq", result.J, y) - result.f
    np.testing.assert_allclose(result.rhs(np, y), expected, rtol=0, atol=1e-14)


def test_product_takes_a_jacobian_that_is_the_same_at_all_times():
    J = np.ones((1, 4, V, K))
    np.testing.assert_allclose(product(np, J, y), np.repeat(y.sum(axis=(-2, -1))[:, None], 4, axis=1), atol=1e-14)


@pytest.mark.parametrize(
    "couple",
    [
        lambda f, y: f + np.roll(y[..., 0], 1, axis=-2),
        lambda f, y: f + np.roll(y[..., 0], -2, axis=-2),
        lambda f, y: f + np.mean(y[..., 0], axis=-2, keepdims=True),
        lambda f, y: f + np.gradient(y[..., 0], axis=-2),
        lambda f, y: f / np.max(np.abs(y)),
    ],
    ids=["point before", "two points on", "mean", "difference", "normalised"],
)
@pytest.mark.parametrize("n_steps", [3, 12, 100])
def test_residuals_that_couple_time_points_are_refused(couple, n_steps):
    def linearize(t, y):
        f, J = decay(t, y)
        return couple(f, y), J

    y = np.random.default_rng(1).standard_normal((n_steps, V, K))
    with pytest.raises(ArgumentError, match="another time"):
        Linearizer(linearize)(np.arange(n_steps, dtype=float), y)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda J: -J,
        lambda J: np.where(np.arange(K) == 0, 0.0, J),
        lambda J: J.swapaxes(-3, -2),
        lambda J: 1.1 * J,
    ],
    ids=["sign", "missing", "transposed", "factor"],
)
def test_wrong_derivatives_are_refused(spoil):
    def linearize(t, y):
        f, J = decay(t, y)
        J[..., 0, 1, 0], f[..., 0] = 3, f[..., 0] + 3 * y[..., 1, 0]
        return f, spoil(J)

    with pytest.raises(ArgumentError, match=r"derivatives .* are not those of f.* equation [01]"):
        Linearizer(linearize)(t, y)


def test_wrong_derivatives_by_parameters_are_refused():
    def linearize(t, y, p):
        f, J = decay(t, y)
        return f - p[..., :1] ** 2, J, -p[..., :1, None] * np.ones((T, V, 1))  # the factor 2 is missing

    with pytest.raises(ArgumentError, match="J and P"):
        Linearizer(linearize, with_parameters=True)(t, y, np.full((1, 1), 3.0))


def test_right_derivatives_by_parameters_of_batches_pass():
    def linearize(t, y, p):
        f, J = decay(t, y)
        return f - p[..., :1] ** 2, J, -2 * p[..., :1, None] * np.ones((2, T, V, 1))

    result = Linearizer(linearize, with_parameters=True)(t, np.stack([y, 2 * y]), np.array([[[3.0]], [[2.0]]]))
    assert result.f.shape == (2, T, V)


def test_kinks_at_the_guess_are_no_wrong_derivatives():
    def linearize(t, y):
        J = np.zeros((*y.shape[:-2], 1, V, K))
        J[..., 0, 0, 0], J[..., 0, 1, 1] = np.sign(y[..., 0, 0]), 1
        return (np.abs(y[..., 0, 0]) + y[..., 1, 1])[..., None], J

    Linearizer(linearize)(t, np.zeros((T, V, K)))


def test_residuals_undefined_at_changed_points_are_no_coupling():
    def linearize(t, y):
        f, J = decay(t, y)
        root = np.sqrt(2e-3 - y[..., 0])
        J[..., [0, 1], [0, 1], 0] -= 1 / (2 * root)
        return f + root, J

    Linearizer(linearize)(t, np.full((T, V, K), 1e-3))


@pytest.mark.parametrize(
    ("result", "error", "message"),
    [
        (lambda f, J: f, TypeError, "tuple of 2"),
        (lambda f, J: (f, J, J), TypeError, "3 values"),
        (lambda f, J: (f[:-1], J), ShapeError, rf"^f returned by linearize.*\(\.\.\., {T}, Q\).*\({T - 1}, {V}\)"),
        (lambda f, J: (f, J[..., :-1]), ShapeError, "^J returned by linearize"),
        (lambda f, J: (f, J[:3]), ShapeError, "^J returned by linearize"),
        (lambda f, J: (f, J.astype("float32")), DTypeError, "^linearize's J"),
        (lambda f, J: (f.tolist(), J), NamespaceError, "^linearize's f"),
        (lambda f, J: (np.stack([f] * 2), np.stack([J] * 3)), ShapeError, "^the batch axes of linearize's J"),
    ],
)
def test_what_does_not_fit_is_named(result, error, message):
    with pytest.raises(error, match=message):
        Linearizer(lambda t, y: result(*decay(t, y)))(t, y)


def test_parameters_need_their_derivatives():
    def linearize(t, y, p):
        f, J = decay(t, y)
        return f - p[..., :1], J, -np.ones((T, V, 3))

    with pytest.raises(ShapeError, match=r"^P returned by linearize"):
        Linearizer(linearize, with_parameters=True)(t, y, np.ones((1, 1)))


def test_errors_of_the_callback_tell_the_shapes_it_was_called_with():
    def linearize(t, y):
        raise ValueError("mine")

    with pytest.raises(ValueError, match="mine") as error:
        Linearizer(linearize)(t, y)
    assert f"y of shape ({T}, {V}, {K})" in error.value.__notes__[0]


def test_linearize_must_be_callable():
    with pytest.raises(TypeError, match="linearize must be a function"):
        Linearizer(3)


def test_single_precision_and_strong_curvature_are_no_wrong_derivatives():
    def linearize(t, y):
        e = np.exp(60 * y[..., 0, 0])
        J = np.zeros((*y.shape[:-2], 1, V, K), y.dtype)
        J[..., 0, 0, 0], J[..., 0, 1, 0] = 60 * e, 1
        return (e + y[..., 1, 0])[..., None], J

    Linearizer(linearize)(t.astype("float32"), np.ones((T, V, K), "float32"))
