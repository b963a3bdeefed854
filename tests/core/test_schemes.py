"""Smoothness schemes as data."""

from __future__ import annotations

import pickle
from math import factorial

import numpy as np
import pytest

import smnn_core as smnn

SCHEMES = [smnn.TAYLOR, smnn.HERMITE]


@pytest.mark.parametrize("K", range(1, 7))
def test_taylor_has_the_published_rows(K: int) -> None:
    F, G = smnn.TAYLOR.matrices(K)
    R = K - 1
    assert F.shape == G.shape == (2 * K, K)
    for r in range(K):
        for o in range(K):
            term = 1 / factorial(o - r) if o >= r else 0.0
            assert F[r, o] == term
            assert G[r, o] == -float(o == r)
            assert G[K + r, o] == (-1) ** o * term
            assert F[K + r, o] == -((-1) ** r) * float(o == r)
    np.testing.assert_array_equal(np.abs(F[R]), np.abs(F[K + R]))


@pytest.mark.parametrize("R", range(1, 6))
def test_degree_of_exactness(R: int) -> None:
    assert smnn.TAYLOR.exactness(R + 1) == R
    assert smnn.HERMITE.exactness(R + 1) == R  # its light row; the others do better:


@pytest.mark.parametrize("R", range(1, 6))
def test_row_r_of_hermite_is_exact_for_degree_2R_minus_r(R: int) -> None:
    F, G = smnn.HERMITE.matrices(R + 1)
    for r in range(R):
        for degree in range(2 * R - r + 1):
            at = [np.array([np.polyder(np.poly1d([1] + [0] * degree), o)(x) for o in range(R + 1)]) for x in (0.0, 1.0)]
            assert F[r] @ at[0] + G[r] @ at[1] == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda s: s.name)
def test_has_a_citation(scheme: smnn.Scheme) -> None:
    assert scheme.citation


def test_shows_its_exponent() -> None:
    shown = [repr(scheme) for scheme in (smnn.TAYLOR, smnn.HERMITE, smnn.WIENER)]
    assert shown == [
        "Scheme(name='taylor', exponent=0.0)",
        "Scheme(name='hermite', exponent=1/2 R + 1)",
        "Scheme(name='wiener', exponent=R + 1/2)",
    ]


def test_one_of_your_own() -> None:
    """HERMITE's matrices given by hand give HERMITE's solution."""
    own = smnn.Scheme.from_matrices(*smnn.HERMITE.matrices(3), name="mine", citation="here")
    rng = np.random.default_rng(0)
    arguments = rng.normal(size=(5, 1, 1, 3)), rng.normal(size=(5, 1)), rng.normal(size=(1, 1, 2)), np.full(4, 0.3)
    np.testing.assert_array_equal(
        smnn.solve_ode(*arguments, scheme=own), smnn.solve_ode(*arguments, scheme=smnn.HERMITE)
    )


def test_those_of_the_same_matrices_are_equal() -> None:
    """So that compilers that know one know the other."""
    matrices = smnn.HERMITE.matrices(3)
    own, same = (smnn.Scheme.from_matrices(*matrices, name="mine") for _ in range(2))
    assert own == same == pickle.loads(pickle.dumps(own))
    assert len({own, same}) == 1
    assert own != smnn.HERMITE
    assert own != smnn.Scheme.from_matrices(*smnn.TAYLOR.matrices(3), name="mine")


@pytest.mark.parametrize(
    ("F", "G", "message"),
    [
        (np.zeros(3), np.zeros(3), r"two matrices of the same shape \(m, K\); got \(3,\)"),
        (np.zeros((2, 3)), np.zeros((2, 2)), r"got \(2, 3\) and \(2, 2\)"),
        (np.array([[np.nan, 0.0]]), np.zeros((1, 2)), "must be finite"),
        (np.array([[1.0, 0.0]]), np.array([[0.0, 0.0]]), "do not vanish for polynomials of degree 0"),
        (np.array([[1.0, 0.5]]), np.array([[-1.0, 0.0]]), "do not vanish for polynomials of degree 1"),
    ],
)
def test_malformed_matrices(F: np.ndarray, G: np.ndarray, message: str) -> None:
    with pytest.raises(smnn.SchemeError, match=message):
        smnn.Scheme.from_matrices(F, G)


def test_wrong_number_of_orders() -> None:
    own = smnn.Scheme.from_matrices(*smnn.HERMITE.matrices(3))
    with pytest.raises(smnn.SchemeError, match="has matrices for K = 3 derivative orders, the problem has K = 4"):
        smnn.solve_ode(np.ones((5, 1, 1, 4)), np.ones((5, 1)), np.ones((1, 1, 2)), np.ones(4), scheme=own)


def test_rules_are_hashable() -> None:
    class Rule:
        __hash__ = None

        def __call__(self, K):
            return smnn.TAYLOR.matrices(K)

    with pytest.raises(smnn.SchemeError, match="scheme 'mine': the rule must be hashable"):
        smnn.Scheme("mine", "", Rule())


@pytest.mark.parametrize("K", [1, 2, 3])
def test_rows_of_zeros_are_refused(K: int) -> None:
    with pytest.raises(smnn.SchemeError, match="all its rows are zero"):
        smnn.Scheme.from_matrices(np.zeros((2, K)), np.zeros((2, K)))


@pytest.mark.parametrize("size", [1e-150, 1e-9, 1.0, 1e150])
def test_rows_are_judged_beside_their_largest_entry(size: float) -> None:
    F, G = smnn.HERMITE.matrices(3)
    assert smnn.Scheme.from_matrices(size * F, size * G).exactness(3) == smnn.HERMITE.exactness(3)
    with pytest.raises(smnn.SchemeError, match="inconsistent"):
        smnn.Scheme.from_matrices(size * F, -0.9 * size * F)
