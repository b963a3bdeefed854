"""Trajectories and sensitivities of many members side by side."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("petab", reason="needs the extra `petab`")

from _petab_case import Writer, sbml, trajectories

import smnn_petab
from smnn_petab._integration import Job, Pool

PARAMETERS = "parameterId parameterScale lowerBound upperBound nominalValue estimate"
OBSERVABLES = "observableId observableFormula noiseFormula"
BENCHMARKS = Path(__file__).parents[2] / "benchmarks" / "petab"


def growth(rates: np.ndarray, power: float = 1.0, rtol: float = 1e-8) -> tuple[Pool, dict]:
    """x' = k x^power from 1, for each k to time 1, with what comes of it."""
    pool = Pool(
        lambda t, x, q: [q[0] * x[0] ** power],
        lambda t, x, q: (
            (q[0] * x[0] ** power)[..., None],
            (power * q[0] * x[0] ** (power - 1))[..., None, None],
            (x[0] ** power)[..., None, None],
        ),
        1,
    )
    for i, k in enumerate(rates):
        pool.add(
            Job(i, np.ones(1), np.zeros((1, 1)), np.array([k]), np.ones((1, 1)), np.array([0.0, 0.3, 1.0]), (), rtol)
        )
    found = {}
    while len(pool):
        found |= {job.key: result for job, result in pool.step()}
    return pool, found


def test_members_have_steps_of_their_own() -> None:
    k, t = np.array([-1e6, -3.0, 0.0, 0.5, 8.0]), np.array([0.0, 0.3, 1.0])
    _, found = growth(k)
    for i, own in enumerate(k):
        x, S = found[i]
        np.testing.assert_allclose(x[:, 0], np.exp(own * t), rtol=1e-6, atol=1e-9)
        np.testing.assert_allclose(S[:, 0, 0], t * np.exp(own * t), rtol=1e-6, atol=1e-7)


def test_one_that_ends_in_finite_time_leaves_the_others() -> None:
    _, found = growth(np.array([0.5, 3.0, 0.9]), power=2.0)  # x = 1 / (1 - k t)
    assert found[1] is None
    for i, k in ((0, 0.5), (2, 0.9)):
        np.testing.assert_allclose(found[i][0][-1], 1 / (1 - k), rtol=1e-6)


def test_errors_follow_the_tolerance() -> None:
    errors = [abs(growth(np.array([2.0]), rtol=r)[1][0][0][-1, 0] / np.exp(2) - 1) for r in (1e-3, 1e-5, 1e-7)]
    assert errors[0] < 1e-3
    assert errors[1] < 1e-5
    assert errors[2] < 1e-7


@pytest.mark.parametrize("rtol", [1e-4, 1e-6])
def test_sensitivities_are_as_exact_as_states(write: Writer, rtol: float) -> None:
    text = sbml(
        {"A": 1.0, "B": 0.0},
        [({"A": 1}, {"B": 1}, "k * A"), ({"B": 1}, {}, "s * B / (1 + B)")],
        {"k": 0.5, "s": 1.0},
        assignments={"A": "2 + s^2"},
    )
    rows = ["observableId simulationConditionId measurement time", *(f"b c0 1 {t}" for t in (0, 1, 4))]
    parameters = [PARAMETERS, "k log10 0.01 10 0.5 1", "s lin 0 10 0.7 1"]
    L = write(text, rows, parameters, [OBSERVABLES, "b B 1"]).likelihood
    θ = np.array([0.5, 0.7])
    ((x, S),) = trajectories(L, θ, rtol)
    np.testing.assert_allclose(x, L.simulate(0, θ, 1e-12), atol=10 * rtol)
    for j in range(2):
        h = 1e-5 * np.eye(2)[j]
        above, below = (L.simulate(0, θ + s * h, 1e-12) for s in (1, -1))
        np.testing.assert_allclose(S[..., j], (above - below) / 2e-5, atol=10 * rtol)


@pytest.mark.parametrize("name", ["Bertozzi_PNAS2020", "Boehm_JProteomeRes2014", "Bruno_JExpBot2016"])
def test_trajectories_are_those_of_lsoda(name: str) -> None:
    L = smnn_petab.load(next((BENCHMARKS / name).glob("*.yaml"))).likelihood
    θ = np.array([p.nominal for p in L.tables.parameters])
    for e, (x, _) in enumerate(trajectories(L, θ, 1e-6)):
        exact = L.simulate(e, θ, 1e-10)
        np.testing.assert_allclose(x, exact, rtol=1e-4, atol=1e-5 * np.abs(exact).max())
