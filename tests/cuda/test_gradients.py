"""Gradients where A λ has lost digits, against exact arithmetic."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from _emulator import COMPILER, Emulator
from _engine_cases import gradients_by_name

import smnn_core as smnn
from benchmarks import adjoint
from smnn_core._problem import Gradients, Problem
from smnn_core._weighting import weighted_problem
from smnn_core.engines._cuda import host
from smnn_core.engines._cuda.grain import Grain

pytestmark = pytest.mark.skipif(not shutil.which(COMPILER), reason="no C++ compiler")

FINE = Grain(lanes=1000, shortest=3, fewest=2, radix=4, last=3, gain=np.inf)
WHOLE = Grain(lanes=1)

CASES = {
    "order 2": (adjoint.problem(2, 3, np.full(79, 0.01)), 1e-12),
    "order 3": (adjoint.problem(3, 4, np.full(59, 0.003)), 1e-11),
    "order 4": (adjoint.problem(4, 5, np.full(59, 0.01)), 1e-9),
    "order 4, refined again": (adjoint.problem(4, 5, np.full(59, 0.001)), 1e-8),
    "an equation 1e6 times larger": (adjoint.scaled(1e6, T=50), 1e-9),
    "an equation 1e8 times larger": (adjoint.scaled(1e8, T=50), 1e-9),
    "an equation twice": (adjoint.repeated(0.01, T=50), 1e-10),
    "a step 1000 times longer": (adjoint.long_step(100.0, T=50), 1e-12),
}
"""Arguments, and the largest error beside the largest entry: what `python -m benchmarks.adjoint` finds for the CPU, and
a factor of ten and more."""


def solve_and_pull_back(arguments: tuple[np.ndarray, ...], grain: Grain, g: np.ndarray) -> Gradients:
    problem = weighted_problem(Problem.build(*arguments, scheme=smnn.HERMITE))
    y, factor = host.solve_problem(Emulator(grain), problem)
    return factor.adjoint(problem, y, g)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name == "order 2" else pytest.mark.slow) for name in CASES]
)
def test_gradients_have_the_digits_of_the_cpu_engine(name: str) -> None:
    arguments, bound = CASES[name]
    g, expected = adjoint.reference(arguments)
    for grain in (WHOLE, FINE):
        assert adjoint.error(solve_and_pull_back(arguments, grain, g).rhs, expected) < bound


def test_gradients_that_refinement_does_not_find_are_nan() -> None:
    """Of one member of a batch, of fourth order with steps of 1e-4; the others stay as they are."""
    c, b, u, s = adjoint.problem(4, 5, np.full(39, 0.1))
    g = np.random.default_rng(0).normal(size=(40, 1, 5))
    alone = gradients_by_name(solve_and_pull_back((c, b, u, s), FINE, g))
    steps = np.array([1, 1e-3, 1])[:, None] * s
    found = gradients_by_name(solve_and_pull_back((c, b, u, steps), FINE, np.broadcast_to(g, (3, *g.shape))))
    assert np.isnan(found["step_sizes"][1]).all()
    for member in (0, 2):
        np.testing.assert_array_equal(found["step_sizes"][member], alone["step_sizes"])


@pytest.mark.parametrize("order", [0, 1])
def test_gradients_that_are_zero_are_not_taken_for_lost(order: int) -> None:
    """As many rows as unknowns: y[0] is what was given, and nothing else counts."""
    c, b, u, s = adjoint.problem(2, 3, np.full(39, 0.01))
    once = np.zeros((40, 1))
    once[20] = 1
    problem = weighted_problem(Problem.build(c, b, u, s, scheme=smnn.HERMITE, weights=smnn.Weights(equation=once)))
    y, factor = host.solve_problem(Emulator(WHOLE), problem)
    g = np.zeros_like(y)
    g[0, 0, order] = 1
    found = factor.adjoint(problem, y, g)
    np.testing.assert_allclose(found.initial_values[0, 0], g[0, 0, :2], atol=1e-14)
    for x in (found.rhs, found.coefficients, found.step_sizes):
        assert np.abs(x).max() < 1e-14


def test_float32_arithmetic_refines_as_well() -> None:
    """Devices whose float64 is slow: a second-order equation, of which A λ has two digits and less."""
    arguments = adjoint.problem(2, 3, np.full(59, 0.02))
    g, expected = adjoint.reference(arguments)
    narrow = solve_and_pull_back(tuple(x.astype(np.float32) for x in arguments), WHOLE, g.astype(np.float32))
    assert adjoint.error(narrow.rhs, expected) < 1e-3
