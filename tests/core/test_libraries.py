"""Libraries of terms: names, exponents, derivatives, sums and products."""

from __future__ import annotations

import numpy as np
import pytest

import smnn_core as smnn

Z = np.random.default_rng(0).normal(size=(40, 2))

SATURATION = smnn.functions(
    {
        "x/(1 + x^2)": (
            lambda z: z[..., 0] / (1 + z[..., 0] ** 2),
            lambda z: np.stack([(1 - z[..., 0] ** 2) / (1 + z[..., 0] ** 2) ** 2, 0 * z[..., 1]], axis=-1),
        )
    }
)
LIBRARIES = [
    smnn.polynomials(0),
    smnn.polynomials(3),
    smnn.polynomials(3, lowest=2),
    smnn.fourier(2, frequency=0.7),
    SATURATION,
    smnn.polynomials(2) + smnn.fourier(1) + SATURATION,
    smnn.polynomials(1) * smnn.fourier(1),
    smnn.polynomials(1) * smnn.polynomials(2),
    (smnn.polynomials(1) + SATURATION) * smnn.polynomials(1),
]


@pytest.mark.parametrize("library", LIBRARIES, ids=lambda x: type(x).__name__)
def test_derivatives_are_those_of_the_values(library):
    names = library.names(["x", "y"])
    _, derivatives = library.evaluate(Z)
    assert derivatives.shape == (40, len(names), 2)
    for i, h in enumerate(1e-5 * np.eye(2)):
        difference = (library.evaluate(Z + h)[0] - library.evaluate(Z - h)[0]) / 2e-5
        np.testing.assert_allclose(derivatives[..., i], difference, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("library", [smnn.polynomials(3), smnn.polynomials(1) * smnn.polynomials(2)])
def test_exponents_are_those_of_the_terms(library):
    values, _ = library.evaluate(Z)
    exponents = library.exponents(2)
    np.testing.assert_allclose(values, np.prod(Z[:, None, :] ** exponents, axis=-1), rtol=1e-12)


def test_names():
    assert smnn.polynomials(2).names(["x", "y"]) == ["1", "x", "y", "x^2", "x y", "y^2"]
    assert smnn.fourier(2).names(["x"]) == ["sin(x)", "cos(x)", "sin(2 x)", "cos(2 x)"]
    assert (smnn.polynomials(1) * smnn.fourier(1)).names(["x"]) == ["sin(x)", "cos(x)", "x sin(x)", "x cos(x)"]


def test_a_term_that_two_parts_have_is_taken_once():
    assert (smnn.polynomials(1) + smnn.polynomials(2)).names(["x", "y"]) == smnn.polynomials(2).names(["x", "y"])
    product = smnn.polynomials(1) * smnn.polynomials(1)
    assert sorted(product.names(["x", "y"])) == sorted(smnn.polynomials(2).names(["x", "y"]))
    assert product.evaluate(Z)[0].shape == (40, 6)


def test_a_library_that_is_not_polynomial_has_no_exponents():
    assert smnn.fourier(1).exponents(2) is None
    assert (smnn.polynomials(1) + smnn.fourier(1)).exponents(2) is None
    assert (smnn.polynomials(1) * smnn.fourier(1)).exponents(2) is None


def test_a_wrong_derivative_is_found():
    wrong = smnn.functions({"exp(x)": (lambda z: np.exp(z[..., 0]), lambda z: 0 * z)})
    with pytest.raises(smnn.ArgumentError, match="derivative of term 'exp\\(x\\)'"):
        wrong.check(Z)


def test_a_wrong_shape_names_the_term():
    wrong = smnn.functions({"x": (lambda z: z, lambda z: z)})
    with pytest.raises(smnn.ShapeError, match="function of term 'x'"):
        wrong.evaluate(Z)


def test_values_that_are_not_finite_name_the_term():
    logarithm = smnn.functions(
        {"log(x)": (lambda z: np.log(z[..., 0]), lambda z: np.stack([1 / z[..., 0], 0 * z[..., 1]], axis=-1))}
    )
    with np.errstate(all="ignore"), pytest.raises(smnn.ArgumentError, match="'log\\(x\\)' is not finite"):
        logarithm.check(Z)


@pytest.mark.parametrize("arguments", [(-1,), (2, 3), (1.5,)])
def test_degrees_must_make_sense(arguments):
    with pytest.raises(smnn.ArgumentError, match="0 <= lowest <= degree"):
        smnn.polynomials(*arguments)


def test_a_term_needs_its_derivative():
    with pytest.raises(TypeError, match=r"'exp\(x\)' must be a pair"):
        smnn.functions({"exp(x)": np.exp})


def test_products_of_the_same_factors_are_taken_once():
    waves = smnn.fourier(1)
    assert (waves * waves).names(["x"]) == ["sin(x)^2", "sin(x) cos(x)", "cos(x)^2"]
    assert (waves * waves).evaluate(Z)[0].shape == (40, 10)


def test_terms_of_the_same_values_are_named():
    with pytest.raises(smnn.ArgumentError, match=r"'x' and 'z0' have the same values"):
        (
            smnn.functions({"x": (lambda z: z[..., 0], lambda z: np.stack([z[..., 0] ** 0, 0 * z[..., 1]], axis=-1))})
            + smnn.polynomials(1)
        ).check(Z)


@pytest.mark.parametrize("unit", [1e-12, 1e-8, 1.0, 1e9])
def test_derivatives_are_checked_in_any_unit(unit):
    smnn.polynomials(3).check(unit * Z)
