"""Gradients keep their digits where steps are short: float32 against float64, and the engines against each other.

What is bounded is the error for y'' + 4y = 0, relative to the largest entry, with steps between 0.2 and 0.01. Through
λ alone the gradients of coefficients and right-hand sides would lose 8 digits here (see `smnn_core._augmented`), all
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


def random_systems(steps: np.ndarray, T: int = 60, K: int = 4) -> tuple[tuple[np.ndarray, ...], np.ndarray]:
    """Second-order equations with a spare order, one for each of the steps; and dL/dy."""
    rng = np.random.default_rng(3)
    c = rng.uniform(-1, 1, (len(steps), T, 1, 1, K))
    c[..., 3] = 0
    c[..., 2] += 2
    b, u = rng.normal(size=(len(steps), T, 1)), rng.normal(size=(len(steps), 1, 1, 2))
    s = np.broadcast_to(steps[:, None], (len(steps), T - 1)).copy()
    return (c, b, u, s), rng.normal(size=(len(steps), T, 1, K))


def test_weights_of_equations_that_are_almost_met() -> None:
    """dL/dw = 2 w (A λ) r, where r has no digit of d - A y."""
    systems, g = random_systems(np.array([0.05, 0.02]))
    weights = smnn.Weights(equation=np.ones(systems[1].shape))
    ours, oracle = (smnn.solve_ode_vjp(*systems, weights=weights, engine=e)[1](g).weights for e in ENGINES)
    assert error(oracle.equation, ours.equation) < 1e-7


def test_refining_one_system_leaves_the_others_as_they_are() -> None:
    """Steps of 1 need no refinement with TAYLOR, those of 0.003 do; systems side by side share vectors."""

    def of_first(steps: np.ndarray) -> smnn.Gradients:
        systems, g = random_systems(steps)
        return smnn.solve_ode_vjp(*systems, scheme=smnn.TAYLOR, engine="cpu")[1](g)

    steps = np.ones(32)
    alone = of_first(steps)
    steps[5] = 0.003
    for name, x in of_first(steps)._asdict().items():
        if name != "weights":
            np.testing.assert_array_equal(np.delete(x, 5, axis=0), np.delete(getattr(alone, name), 5, axis=0))
