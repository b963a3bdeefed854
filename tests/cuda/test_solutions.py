"""Solutions of the CUDA engine, which refines none, beside those of the compiled engine before it does."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from _emulator import COMPILER, Emulator

import smnn_core as smnn
from benchmarks import adjoint, reference
from smnn_core._problem import Problem, Rows
from smnn_core._weighting import weighted_problem
from smnn_core.engines import ENGINES
from smnn_core.engines._cuda import host
from smnn_core.engines._cuda.grain import Grain

pytestmark = pytest.mark.skipif(not shutil.which(COMPILER), reason="no C++ compiler")

WHOLE, CHUNKS = Grain(lanes=1), Grain(lanes=1000, gain=np.inf)


def largest_errors(order: int, span: float, seed: int) -> list[float]:
    """Of both divisions and of one elimination of the compiled engine, of each derivative beside its largest value."""
    c, b, u, s = adjoint.problem(order, order + 1, np.full(159, 0.1))
    s = s * span ** -np.random.default_rng(seed).uniform(0, 1, 159)
    exact, _ = reference.solve(c[None], b[None], u[None], s[None], smnn.HERMITE)
    problem = weighted_problem(Problem.build(c, b, u, s, scheme=smnn.HERMITE))
    found = [host.solve_problem(Emulator(grain), problem)[0] for grain in (WHOLE, CHUNKS)]
    found.append(ENGINES["cpu"].factorize(problem.system)._solve(Rows(problem.rhs, problem.initial_values, None)))
    size = np.abs(exact[0]).max(axis=(0, 1))
    return [float((np.abs(y - exact[0]).max(axis=(0, 1)) / size).max()) for y in found]


@pytest.mark.parametrize("span", [1.0, 100.0])
@pytest.mark.parametrize("order", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_solutions_are_about_as_exact_as_one_elimination_of_the_compiled_engine(order: int, span: float) -> None:
    """Up to a factor of 30 for an elimination of another kind, in another order."""
    if ENGINES["cpu"].refusal(Problem.build(*adjoint.problem(2, 3, np.full(9, 0.1))).system):
        pytest.skip("the kernels are not compiled")
    *found, compiled = np.max([largest_errors(order, span, seed) for seed in range(3)], axis=0)
    assert max(found) < 30 * compiled
