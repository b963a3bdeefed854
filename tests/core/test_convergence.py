"""The error against closed forms shrinks with the order that `smnn_core._schemes` derives."""

from __future__ import annotations

import math

import numpy as np
import pytest

import smnn_core as smnn

LENGTH = 2.0
CASES = [(q, R) for q in (1, 2) for R in range(q, 5)]


def errors(scheme: smnn.Scheme, q: int, R: int, intervals: int) -> np.ndarray:
    """The largest error of y^(0)..y^(R) for y' + y = 0 (q = 1) or y'' + 4y = 0 (q = 2)."""
    s = LENGTH / intervals
    t = s * np.arange(intervals + 1)
    c = np.zeros((1, 1, 1, R + 1))
    c[..., 0], c[..., q] = (1.0, 1.0) if q == 1 else (4.0, 1.0)
    k = np.arange(R + 1)
    exact = (-1.0) ** k * np.exp(-t)[:, None] if q == 1 else 2.0**k * np.cos(2 * t[:, None] + k * math.pi / 2)
    initial = exact[:1, None, :q]
    y = smnn.solve_ode(c, np.zeros((1, 1)), initial, np.array([s]), n_steps=len(t), scheme=scheme)
    return np.abs(y[:, 0] - exact).max(axis=0)


def observed_order(scheme: smnn.Scheme, q: int, R: int, k: int, expected: int) -> float:
    """log2 of the ratio of errors in y^(k), with steps small enough to be asymptotic and above rounding."""
    intervals = 64 if k == R or expected > 4 else 256 if expected < 4 else 128 if q == 2 else 64
    coarse, fine = (errors(scheme, q, R, m)[k] for m in (intervals, 2 * intervals))
    return math.log2(coarse / fine)


@pytest.mark.parametrize(("q", "R"), CASES)
@pytest.mark.parametrize("scheme", [smnn.TAYLOR, smnn.HERMITE], ids=lambda s: s.name)
def test_order_of_the_solution(scheme: smnn.Scheme, q: int, R: int) -> None:
    expected = R + 2 - q
    if scheme is smnn.TAYLOR:
        expected -= expected % 2
    elif R - q == 1:
        expected += 1
    assert observed_order(scheme, q, R, 0, expected) == pytest.approx(expected, abs=0.1)


@pytest.mark.parametrize(("q", "R"), [case for case in CASES if case[0] < case[1]])
@pytest.mark.parametrize("scheme", [smnn.TAYLOR, smnn.HERMITE], ids=lambda s: s.name)
def test_order_of_the_highest_derivative(scheme: smnn.Scheme, q: int, R: int) -> None:
    expected = 2 if scheme is smnn.HERMITE and R - q == 1 else 1
    assert observed_order(scheme, q, R, R, expected) == pytest.approx(expected, abs=0.1)


@pytest.mark.parametrize(("R", "taylor", "hermite"), [(2, 7.3e-2, 1.2e-3), (3, 2.2e-3, 9.6e-8), (4, 3.5e-6, 3.3e-8)])
def test_hermite_is_far_more_accurate_on_an_oscillator(R: int, taylor: float, hermite: float) -> None:
    """y'' + 4y = 0 on [0, 10] with s = 0.02, the first table of the documentation of the schemes."""
    s, T = 0.02, 501
    c = np.zeros((1, 1, 1, R + 1))
    c[..., 0], c[..., 2] = 4.0, 1.0
    exact = np.cos(2 * s * np.arange(T))
    for scheme, bound in ((smnn.TAYLOR, taylor), (smnn.HERMITE, hermite)):
        y = smnn.solve_ode(c, np.zeros((1, 1)), np.array([[[1.0, 0.0]]]), np.array([s]), n_steps=T, scheme=scheme)
        assert np.abs(y[:, 0, 0] - exact).max() <= 1.05 * bound
