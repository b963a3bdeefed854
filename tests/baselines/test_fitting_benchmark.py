"""The benchmark of fits on few data sets."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import smnn_core as smnn
from benchmarks import fitting
from benchmarks.fitting_problems import butterfly, cycles, spikes
from benchmarks.hidden_problems import HIDDEN

PROBLEMS = [spikes("spikes", (1, 1, 1)), cycles(2), butterfly(200)]


@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda problem: problem.name)
def test_linearize_has_the_derivatives_of_f_which_vanishes_on_solutions(problem):
    rng = np.random.default_rng(0)
    y = rng.normal(size=(1, len(problem.initial), 3))
    θ = problem.truth[None, :]
    y[0, :, 1] = problem.field(y[0, :, 0], problem.truth)
    f, J, P = problem.linearize(problem.t[:1], y, θ)
    np.testing.assert_allclose(f, 0, atol=1e-12)
    dy, dθ = rng.normal(size=y.shape), rng.normal(size=θ.shape)
    ahead, back = (problem.linearize(problem.t[:1], y + s * dy, θ + s * dθ)[0] for s in (1e-5, -1e-5))
    along = np.einsum("tqvk,tvk->tq", J, dy) + np.einsum("tqp,tp->tq", P, dθ)
    np.testing.assert_allclose((ahead - back) / 2e-5, along, rtol=1e-7, atol=1e-7)


def test_found_and_coverage_are_shares_of_the_data_sets():
    problem = spikes("spikes", (1, 1, 1))
    row, best = fitting.ours(problem, problem.data(4), estimate_noise=False)
    assert row.found == 1.0
    assert row.sets == 4
    assert isinstance(best, smnn.Fitted)
    assert "100.0%" in fitting.line(row)


def test_figures_that_are_missed_are_named():
    row = fitting.Row("FitzHugh-Nagumo", "fit", 1000, 1.0, (0.93, 0.96), 0.1, 1.0, 4.0, 6.0, 20.0)
    pelts = {"parameters": [0.54], "likelihood": [0.54], "likelihood_errors": [0.06]}
    assert fitting.missed([row], pelts) == []
    assert "found" in fitting.missed([replace(row, found=0.99)], pelts)[0]
    assert "cover" in fitting.missed([replace(row, coverage=(0.9, 0.96))], pelts)[0]
    assert "ms" in fitting.missed([replace(row, milliseconds=30.0, cpu=25.0)], pelts)[0]
    assert "lynx" in fitting.missed([row], pelts | {"parameters": [0.55]})[0]


def test_problems_that_nobody_tuned_for():
    problem = next(x for x in HIDDEN if x.name.startswith("Pharmacokinetics"))
    row = fitting.hidden(problem, 4, 2)
    assert row.found == row.from_truth == row.of_twenty == 1.0
    assert row.silent == 0.0
    assert "Pharmacokinetics" in fitting.hidden_table([row]).text()


@pytest.mark.parametrize("problem", HIDDEN, ids=lambda problem: problem.name)
def test_data_of_problems_are_finite_where_something_was_observed(problem):
    x = problem.data(2)
    assert np.isfinite(x).any((1, 2)).all()
    assert problem.starts(3).shape == (3, len(problem.truth))
