"""Fits from many starts, and what belongs to them."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("petab", reason="needs the extra `petab`")

from _petab_case import Writer, sbml

import smnn_core as smnn
import smnn_petab

PARAMETERS = "parameterId parameterScale lowerBound upperBound nominalValue estimate"
OBSERVABLES = "observableId observableFormula noiseFormula observableTransformation"
MEASUREMENTS = "observableId simulationConditionId measurement time noiseParameters"
TRUTH = {"k": 0.7, "a": 3.0, "sd": 0.05}


@pytest.fixture
def chain(write: Writer) -> smnn_petab.Problem:
    """A -> B from A = a, B seen, under two conditions: one has twice the rate, and an input that ends at time 1."""
    text = sbml(
        {"A": 1.0, "B": 0.0},
        [({"A": 1}, {"B": 1}, "k * factor * A"), ({}, {"B": 1}, "piecewise(input, time < 1, 0)")],
        {"k": 1.0, "factor": 1.0, "a": 1.0, "input": 0.0},
        assignments={"A": "a"},
    )
    rng, rows = np.random.default_rng(0), [MEASUREMENTS]
    for condition, rate, input_ in (("one", 0.7, 0.0), ("two", 1.4, 0.5)):
        for t in np.linspace(0.2, 4, 12):
            b = 3 * (1 - np.exp(-rate * t)) + input_ * min(t, 1)
            rows.append(f"b {condition} {b + 0.05 * rng.standard_normal()} {t} sd")
    parameters = [PARAMETERS, *(f"{name} log10 0.001 1000 {value} 1" for name, value in TRUTH.items())]
    conditions = ["conditionId factor input", "one 1 0", "two 2 0.5"]
    return write(text, rows, parameters, [OBSERVABLES, "b B noiseParameter1_b lin"], conditions)


@pytest.mark.parametrize("relax", [True, False])
def test_parameters_are_found_within_their_errors(chain: smnn_petab.Problem, relax: bool) -> None:
    fit = chain.fit(starts=6, relax=relax)
    assert fit.converged
    assert fit.objective < chain.objective()
    assert fit.objective == pytest.approx(chain.objective(fit.parameters), abs=1e-6)
    for name, value in TRUTH.items():
        assert abs(np.log10(fit.parameters[name] / value)) < 4 * fit.standard_errors[name] < 0.5
    assert fit.share() >= 0.5
    assert "% of 6 starts end within 0.1 of it" in str(fit)


def test_two_integrations_agree(chain: smnn_petab.Problem) -> None:
    assert chain.objective(solver="smnn") == pytest.approx(chain.objective(), abs=1e-5)
    with pytest.raises(ValueError, match="solver must be"):
        chain.objective(solver="euler")


@pytest.mark.parametrize("name", ["Bertozzi_PNAS2020", "Boehm_JProteomeRes2014", "Bruno_JExpBot2016"])
def test_two_integrations_agree_on_published_models(name: str) -> None:
    folder = Path(__file__).parents[2] / "benchmarks" / "petab" / name
    problem = smnn_petab.load(next(folder.glob("*.yaml")))
    assert problem.objective(solver="smnn") == pytest.approx(problem.objective(), abs=1e-4)


def test_rates_that_play_no_part_at_a_start_are_found(write: Writer) -> None:
    """Most starts lie on a plateau, where B never appears or decays at once."""
    text = sbml(
        {"A": 1.0, "B": 0.0},
        [({"A": 1}, {"B": 1}, "a * A"), ({"B": 1}, {}, "b * B")],
        {"a": 1.0, "b": 1.0},
    )
    t = np.arange(1, 9)
    exact = 0.3 / 0.2 * (np.exp(-0.3 * t) - np.exp(-0.5 * t))
    rows = [MEASUREMENTS, *(f"x c0 {v} {s} 0.01" for s, v in zip(t, exact, strict=True))]
    parameters = [PARAMETERS, "a log10 1e-5 1e5 0.3 1", "b log10 1e-5 1e5 0.5 1"]
    fit = write(text, rows, parameters, [OBSERVABLES, "x B noiseParameter1_x lin"]).fit(starts=6)
    assert fit.share() >= 0.8
    np.testing.assert_allclose([fit.parameters[k] for k in "ab"], [0.3, 0.5], rtol=1e-3)


def test_a_minimum_of_relaxed_equations_is_one_of_the_integrated(chain: smnn_petab.Problem) -> None:
    starts = chain.fit(starts=4, relax=True).starts
    near = np.isfinite(starts.relaxed) & (starts.relaxed < starts.objective.min() + 0.1)
    assert near.any()
    np.testing.assert_allclose(starts.objective[near], starts.objective.min(), atol=1e-3)


def test_parameters_at_bounds_have_no_error(write: Writer) -> None:
    # the data want k = 0.5, the bounds say 1 at least
    text = sbml({"A": 2.0}, [({"A": 1}, {}, "k * A")], {"k": 1.0})
    rows = [MEASUREMENTS, *(f"a c0 {2 * np.exp(-0.5 * t)} {t} 0.1" for t in range(1, 6))]
    problem = write(text, rows, [PARAMETERS, "k lin 1 10 2 1"], [OBSERVABLES, "a A noiseParameter1_a lin"])
    fit = problem.fit(starts=3)
    assert fit.parameters["k"] == 1.0
    assert np.isnan(fit.standard_errors["k"])
    assert "at a bound" in str(fit)


def test_priors_pull(write: Writer) -> None:
    text = sbml({"A": 2.0}, [({"A": 1}, {}, "k * A")], {"k": 1.0})
    rows = [MEASUREMENTS, "a c0 0.7 1 1000000"]
    header = f"{PARAMETERS} objectivePriorType objectivePriorParameters"
    problem = write(
        text,
        rows,
        [header, "k log10 0.001 1000 1 1 parameterScaleNormal -0.5;0.1"],
        [OBSERVABLES, "a A noiseParameter1_a lin"],
    )
    fit = problem.fit(starts=3)
    assert np.log10(fit.parameters["k"]) == pytest.approx(-0.5, abs=1e-3)
    assert fit.standard_errors["k"] == pytest.approx(0.1, rel=1e-3)


@pytest.mark.parametrize("relax", [True, False])
def test_priors_on_another_scale_than_the_parameter(write: Writer, relax: bool) -> None:
    text = sbml({"A": 2.0}, [({"A": 1}, {}, "k * A")], {"k": 1.0})
    header = f"{PARAMETERS} objectivePriorType objectivePriorParameters"
    problem = write(
        text,
        [MEASUREMENTS, "a c0 0.7 1 0.3"],
        [header, "k log10 0.001 1000 1 1 normal 0.5;0.1"],
        [OBSERVABLES, "a A noiseParameter1_a lin"],
    )
    fit = problem.fit(starts=3, relax=relax)
    k = np.linspace(0.3, 1.0, 70_001)
    best = k[(((2 * np.exp(-k) - 0.7) / 0.3) ** 2 + ((k - 0.5) / 0.1) ** 2).argmin()]
    assert fit.parameters["k"] == pytest.approx(best, rel=1e-3)
    if relax:
        np.testing.assert_allclose(fit.starts.relaxed, fit.objective, atol=1e-3)


def test_equilibrations_are_fitted_by_integration_alone(write: Writer) -> None:
    text = sbml({"A": 1.0}, [({}, {"A": 1}, "s"), ({"A": 1}, {}, "k * A")], {"k": 0.5, "s": 0.0})
    header = "observableId preequilibrationConditionId simulationConditionId measurement time noiseParameters"
    rows = [header, *(f"a before after {6 * np.exp(-0.5 * t)} {t} 0.1" for t in range(5))]
    problem = write(
        text,
        rows,
        [PARAMETERS, "k log10 0.01 10 1 1"],
        [OBSERVABLES, "a A noiseParameter1_a lin"],
        ["conditionId s", "before 3", "after 0"],
    )
    fit = problem.fit(starts=3, relax=True)
    assert fit.parameters["k"] == pytest.approx(0.5, rel=1e-3)
    assert np.isnan(fit.starts.relaxed).all()


def test_an_end_that_is_cut_off_is_said(chain: smnn_petab.Problem) -> None:
    with pytest.warns(smnn.ConvergenceWarning, match="the best of 1 starts has not converged"):
        assert not chain.fit(starts=1, relax=False, seconds=0.0).converged


def test_pictures(chain: smnn_petab.Problem) -> None:
    matplotlib = pytest.importorskip("matplotlib", reason="needs matplotlib")
    matplotlib.use("Agg")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", smnn.ConvergenceWarning)
        fit = chain.fit(starts=4, relax=True)
    assert len(fit.waterfall().lines) == 3
    axes = fit.plot()
    assert axes[0, 0].get_title() == "b"
    assert len(axes[0, 0].lines) == 4  # a curve and points, of two experiments


def test_the_residual_on_tensors_is_that_of_the_fit(chain: smnn_petab.Problem) -> None:
    torch = pytest.importorskip("torch", reason="needs torch")
    from smnn_petab._callbacks import Callbacks

    t, y = np.linspace(0, 2, 5), np.random.default_rng(0).standard_normal((1, 5, 2, 2))
    for experiment in range(2):
        θ = {name: np.full((1, 1), value) for name, value in TRUTH.items()}
        u = np.full((1, 5, 1), float(experiment))
        f, J, _ = Callbacks(chain.equations).residual(t[None], y, θ, u)
        x = torch.tensor(y[0], requires_grad=True)
        g = chain.residual(experiment)(torch.tensor(t), x, TRUTH)
        np.testing.assert_allclose(g.detach(), f[0], rtol=1e-12)
        (slope,) = torch.autograd.grad(g[:, 1].sum(), x)
        np.testing.assert_allclose(slope, J[0, :, 1], rtol=1e-12)
