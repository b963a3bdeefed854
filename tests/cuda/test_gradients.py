"""Gradients where W A λ has lost digits, against exact arithmetic."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from _emulator import COMPILER, Emulator
from _engine_cases import gradients_by_name
from _strategies import custom_scheme

import smnn_core as smnn
from benchmarks import adjoint, exact
from smnn_core._problem import Gradients, Problem
from smnn_core._weighting import weighted_problem
from smnn_core.engines._cuda import host
from smnn_core.engines._cuda.grain import Grain

pytestmark = pytest.mark.skipif(not shutil.which(COMPILER), reason="no C++ compiler")

FINE = Grain(lanes=1000, shortest=3, fewest=2, radix=4, last=3, gain=np.inf)
WHOLE = Grain(lanes=1)

CASES = {
    "order 2": (adjoint.problem(2, 3, np.full(79, 0.01)), 1e-13),
    "order 3": (adjoint.problem(3, 4, np.full(59, 0.003)), 1e-13),
    "order 4": (adjoint.problem(4, 5, np.full(59, 0.01)), 1e-13),
    "order 4, steps of 0.001": (adjoint.problem(4, 5, np.full(59, 0.001)), 1e-12),
    "an equation 1e6 times larger": (adjoint.scaled(1e6, T=50), 1e-12),
    "an equation 1e8 times larger": (adjoint.scaled(1e8, T=50), 1e-12),
    "an equation twice": (adjoint.repeated(0.01, T=50), 1e-10),
    "a step 1000 times longer": (adjoint.long_step(100.0, T=50), 1e-12),
}
"""Arguments, and the largest error beside the largest entry: what `python -m benchmarks.adjoint --cuda`
finds, and a factor of ten and more."""


def column(row: np.ndarray) -> exact.flint.arb_mat:
    return exact.column([exact.flint.arb(float(x)) for x in row.ravel()])


def solve_and_pull_back(
    arguments: tuple[np.ndarray, ...],
    grain: Grain,
    g: np.ndarray,
    scheme: smnn.Scheme = smnn.HERMITE,
    backwards: bool = False,
) -> Gradients:
    problem = weighted_problem(Problem.build(*arguments, scheme=scheme))
    y, factor = host.solve_problem(Emulator(grain, backwards=backwards), problem)
    return factor.adjoint(problem, y, g)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name == "order 2" else pytest.mark.slow) for name in CASES]
)
def test_gradients_have_the_digits_of_the_cpu_engine(name: str) -> None:
    arguments, bound = CASES[name]
    g, expected = adjoint.reference(arguments)
    for grain in (WHOLE, FINE):
        assert adjoint.error(solve_and_pull_back(arguments, grain, g).rhs, expected) < bound


def test_a_member_of_short_steps_is_as_exact_as_alone() -> None:
    """Of fourth order with steps of 1e-4, between two others, which stay as they are. (The compiled engine: 6e-9.)"""
    c, b, u, s = adjoint.problem(4, 5, np.full(39, 0.1))
    short = c, b, u, 1e-3 * s
    g, expected = adjoint.reference(short)
    steps, given = np.array([1, 1e-3, 1])[:, None] * s, np.broadcast_to(b, (3, *b.shape))
    for grain in (WHOLE, FINE):
        alone = gradients_by_name(solve_and_pull_back((c, b, u, s), grain, g))
        found = gradients_by_name(solve_and_pull_back((c, given, u, steps), grain, np.tile(g, (3, 1, 1, 1))))
        for member in (0, 2):
            np.testing.assert_array_equal(found["step_sizes"][member], alone["step_sizes"])
        assert adjoint.error(found["rhs"][1], expected) < 1e-7


@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("grain", [WHOLE, FINE], ids=["whole", "divided"])
@pytest.mark.parametrize("scheme", ["hermite", pytest.param("custom", marks=pytest.mark.slow)])
def test_teams_and_rows_of_initial_values(scheme: str, grain: Grain, backwards: bool) -> None:
    """Of two coupled equations of second order with data at the first three points, by teams; rows of the scheme on the
    next point alone."""
    c, b, _, s = adjoint.problem(2, 3, np.full(23, 0.01), Q=2)
    rng = np.random.default_rng(2)
    u, g = rng.normal(size=(3, 2, 2)), rng.normal(size=(24, 2, 3))
    chosen = {"hermite": smnn.HERMITE, "custom": custom_scheme(3)}[scheme]
    solver = exact.Solver(exact.rows(c, s, np.ones(b.shape), np.ones(u.shape), np.ones(23), chosen))
    own = exact.to_float(solver.apply(solver.normal_solve([column(row) for row in g]))[0][:3])
    found = solve_and_pull_back((c, b, u, s), grain, g, scheme=chosen, backwards=backwards)
    assert adjoint.error(found.initial_values, own[:, 2:].reshape(u.shape)) < 1e-12
    assert adjoint.error(found.rhs[:3], own[:, :2]) < 1e-12


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
