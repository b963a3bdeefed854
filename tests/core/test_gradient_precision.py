"""Gradients keep their digits where steps are short: float32 against float64, and the engines against each other.

What is bounded is the error for y'' + 4y = 0, relative to the largest entry, with steps between 0.2 and 0.01. Through
λ alone the gradients of coefficients and right-hand sides would lose 8 digits here (see `smnn_core._gradient`), all
that float32 has.
"""

from __future__ import annotations

import numpy as np
import pytest

import smnn_core as smnn

SCHEMES = {"taylor": smnn.TAYLOR, "hermite": smnn.HERMITE}

ENGINES = ["array_api", "cpu"]
STEPS = [0.2, 0.05, 0.01]


def gradients(step: float, scheme: str, dtype: str, engine: str, T: int = 100, batch: int = 3) -> dict[str, np.ndarray]:
    c = np.broadcast_to(np.array([4, 0, 1], dtype), (batch, T, 1, 1, 3))
    u = np.array([[[1, 0]]], dtype)
    s = np.full(T - 1, step, "float32").astype(dtype)  # the same numbers in both precisions
    y, vjp = smnn.solve_ode_vjp(c, np.zeros((T, 1), dtype), u, s, scheme=SCHEMES[scheme], engine=engine)
    g = np.zeros_like(y)
    g[..., 0] = 2 * y[..., 0]
    return {k: x for k, x in vjp(g)._asdict().items() if k != "weights"}


def error(x: np.ndarray, reference: np.ndarray) -> float:
    return float(np.abs(x - reference).max() / np.abs(reference).max())


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("scheme", list(SCHEMES))
@pytest.mark.parametrize("step", STEPS)
def test_float32_has_correct_digits(step: float, scheme: str, engine: str) -> None:
    single = gradients(step, scheme, "float32", engine)
    double = gradients(step, scheme, "float64", engine)
    assert error(single["coefficients"], double["coefficients"]) < 3e-3
    assert error(single["rhs"], double["rhs"]) < 3e-3
    assert error(single["initial_values"], double["initial_values"]) < 3e-4
    assert error(single["step_sizes"], double["step_sizes"]) < 5e-2


@pytest.mark.parametrize("scheme", list(SCHEMES))
@pytest.mark.parametrize("step", STEPS)
def test_engines_agree_in_float64(step: float, scheme: str) -> None:
    ours, oracle = (gradients(step, scheme, "float64", engine) for engine in ENGINES)
    assert error(ours["coefficients"], oracle["coefficients"]) < 3e-11
    assert error(ours["rhs"], oracle["rhs"]) < 3e-11
    assert error(ours["step_sizes"], oracle["step_sizes"]) < 1e-9
