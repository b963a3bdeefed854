"""Models and tables as equations: every construct that is supported, against solutions in closed form."""

from __future__ import annotations

import math

import numpy as np
import pytest

pytest.importorskip("petab", reason="needs the extra `petab`")

from _petab_case import Writer, sbml, trajectories

PARAMETERS = "parameterId parameterScale lowerBound upperBound nominalValue estimate"
OBSERVABLES = "observableId observableFormula noiseFormula"
MEASUREMENTS = "observableId simulationConditionId measurement time"
LOG_2PI = math.log(2 * math.pi)


def likelihood(residuals, sd=1.0) -> float:
    r = np.asarray(residuals) / sd
    return float((0.5 * r**2 + np.log(sd) + 0.5 * LOG_2PI + 0 * r).sum())


def decay(write: Writer, **model):
    """A with A' = -k A from A = 2, measured as 1 at 0, 1 and 2."""
    text = sbml({"A": 2.0}, [({"A": 1}, {}, "c * k * A")], {"k": 0.5}, **model)
    rows = [MEASUREMENTS, *(f"a c0 1 {t}" for t in range(3))]
    return write(text, rows, [PARAMETERS, "k log10 0.01 10 0.5 1"], [OBSERVABLES, "a A 1"])


def test_decay_has_its_closed_form(write: Writer) -> None:
    problem = decay(write)
    x = 2 * np.exp(-0.5 * np.arange(3))
    assert problem.objective() == pytest.approx(likelihood(x - 1), rel=1e-9)
    x = 2 * np.exp(-0.25 * np.arange(3))
    assert problem.objective({"k": 0.25}) == pytest.approx(likelihood(x - 1), rel=1e-9)
    assert repr(problem).endswith("1 states, 1 parameters, 1 experiments, 3 observations")


def test_concentrations_divide_by_the_size_of_the_compartment(write: Writer) -> None:
    # the law is an amount per time: in concentrations the size cancels only because it stands in the law
    assert decay(write, size=3.0).objective() == pytest.approx(decay(write).objective(), rel=1e-9)


def test_species_in_amounts_are_amounts(write: Writer) -> None:
    text = sbml({"A": 2.0}, [({"A": 1}, {}, "k * A")], {"k": 0.5}, size=3.0, in_amounts=True)
    problem = write(text, [MEASUREMENTS, "a c0 1 1"], [PARAMETERS, "k lin 0.01 10 0.5 1"], [OBSERVABLES, "a A 1"])
    assert problem.objective() == pytest.approx(likelihood([6 * math.exp(-0.5) - 1]), rel=1e-9)


def test_stoichiometry_and_reactions_of_several_species(write: Writer) -> None:
    text = sbml({"A": 2.0, "B": 0.0}, [({"A": 1}, {"B": 2}, "k * A")], {"k": 0.5})
    problem = write(text, [MEASUREMENTS, "b c0 1 1"], [PARAMETERS, "k lin 0.01 10 0.5 1"], [OBSERVABLES, "b B 1"])
    assert problem.objective() == pytest.approx(likelihood([4 * (1 - math.exp(-0.5)) - 1]), rel=1e-9)


def test_rules_and_initial_assignments(write: Writer) -> None:
    # A from 2 s, twice = 2 A at any time; r, a parameter with a rate rule, grows as time
    text = sbml(
        {"A": 1.0},
        [({"A": 1}, {}, "k * twice / 2")],
        {"k": 0.5, "s": 3.0, "twice": 0.0, "r": 0.0},
        rules={"twice": "2 * A"},
        rates={"r": "1"},
        assignments={"A": "2 * s"},
    )
    problem = write(
        text,
        [MEASUREMENTS, "o c0 1 1"],
        [PARAMETERS, "k lin 0.01 10 0.5 1", "s lin 0 10 3 1"],
        [OBSERVABLES, "o twice+r 1"],
    )
    assert problem.objective() == pytest.approx(likelihood([12 * math.exp(-0.5) + 1 - 1]), rel=1e-9)
    assert problem.objective({"s": 1.0}) == pytest.approx(likelihood([4 * math.exp(-0.5)]), rel=1e-9)


def test_conditions_set_parameters_initial_values_and_names_of_parameters(write: Writer) -> None:
    text = sbml({"A": 1.0}, [({"A": 1}, {}, "k * A")], {"k": 0.5})
    problem = write(
        text,
        [MEASUREMENTS, "a slow 1 1", "a fast 1 1"],
        [PARAMETERS, "k_fast lin 0.01 10 2 1"],
        [OBSERVABLES, "a A 1"],
        ["conditionId A k", "slow 4 0.25", "fast - k_fast"],
    )
    x = [4 * math.exp(-0.25), math.exp(-2)]
    assert problem.objective() == pytest.approx(likelihood(np.array(x) - 1), rel=1e-9)


def test_parameters_that_are_not_estimated_have_their_nominal_value(write: Writer) -> None:
    text = sbml({"A": 1.0}, [({"A": 1}, {}, "k * A")], {"k": 0.5})
    problem = write(
        text,
        [MEASUREMENTS, "a c0 1 1"],
        [PARAMETERS, "k lin 0.01 10 2 0", "s lin 0 10 3 1"],
        [OBSERVABLES, "a s*A 1"],
    )
    assert list(problem.nominal) == ["s"]
    assert problem.objective() == pytest.approx(likelihood([3 * math.exp(-2) - 1]), rel=1e-9)


def test_overrides_of_single_measurements(write: Writer) -> None:
    text = sbml({"A": 1.0}, [({"A": 1}, {}, "k * A")], {"k": 0.5})
    problem = write(
        text,
        [
            f"{MEASUREMENTS} observableParameters noiseParameters",
            "a c0 1 1 s;2 0.5",
            "a c0 1 2 3;0 sd",
            "a c0 1.5 2 3;0 sd",
        ],
        [PARAMETERS, "s lin 0 10 4 1", "sd log10 0.01 10 0.3 1"],
        [OBSERVABLES, "a observableParameter1_a*A+observableParameter2_a noiseParameter1_a*2"],
    )
    h = np.array([4 * math.exp(-0.5) + 2, 3 * math.exp(-1), 3 * math.exp(-1)])
    sd = np.array([1.0, 0.6, 0.6])
    assert problem.objective() == pytest.approx(likelihood(h - [1, 1, 1.5], sd), rel=1e-9)


@pytest.mark.parametrize(("kind", "factor"), [("log", 1.0), ("log10", math.log(10))])
def test_logarithms_of_observables(write: Writer, kind: str, factor: float) -> None:
    text = sbml({"A": 1.0}, [({"A": 1}, {}, "k * A")], {"k": 0.5})
    problem = write(
        text,
        [MEASUREMENTS, "a c0 2 1"],
        [PARAMETERS, "k lin 0.01 10 0.5 1"],
        [f"{OBSERVABLES} observableTransformation", f"a A 0.3 {kind}"],
    )
    density = likelihood([(math.log(2) + 0.5) / factor], 0.3) + math.log(2 * factor)
    assert problem.objective() == pytest.approx(density, rel=1e-9)


def test_priors_are_densities(write: Writer) -> None:
    text = sbml({"A": 1.0}, [({"A": 1}, {}, "(k + l + m) * A")], {"k": 0.5, "l": 0.0, "m": 0.0})
    problem = write(
        text,
        [MEASUREMENTS, "a c0 1 1"],
        [
            f"{PARAMETERS} objectivePriorType objectivePriorParameters",
            "k log10 0.01 10 0.5 1 parameterScaleNormal 0;2",
            "l lin 0 10 0.3 1 normal 1;3",
            "m log 0.01 10 0.2 1 logNormal -1;0.5",
        ],
        [OBSERVABLES, "a A 1"],
    )
    expected = likelihood([math.exp(-1) - 1]) + likelihood([math.log10(0.5)], 2) + likelihood([0.3 - 1], 3)
    expected += likelihood([math.log(0.2) + 1], 0.5) + math.log(0.2)
    assert problem.objective() == pytest.approx(expected, rel=1e-9)


def test_a_switch_in_time_is_found_and_integrated_over(write: Writer) -> None:
    # A' = -k A up to time 1.3, then 0
    law = "piecewise(k, time < switch, 0) * A"
    text = sbml({"A": 1.0}, [({"A": 1}, {}, law)], {"k": 0.5, "switch": 1.0})
    problem = write(
        text,
        [MEASUREMENTS, "a c0 1 1", "a c0 1 3"],
        [PARAMETERS, "k lin 0.01 10 0.5 1"],
        [OBSERVABLES, "a A 1"],
        ["conditionId switch", "c0 1.3"],
    )
    assert problem.equations.settings[0].switches == (1.3,)
    x = np.array([math.exp(-0.5), math.exp(-0.65)])
    assert problem.objective() == pytest.approx(likelihood(x - 1), rel=1e-8)


def test_equilibration_before_an_experiment(write: Writer) -> None:
    # A' = s - k A is at s / k under `before`, then decays with k alone; B is set anew by the condition
    text = sbml(
        {"A": 1.0, "B": 0.0},
        [({}, {"A": 1}, "s"), ({"A": 1}, {}, "k * A"), ({"B": 1}, {}, "k * B")],
        {"k": 0.5, "s": 0.0},
    )
    problem = write(
        text,
        [
            "observableId preequilibrationConditionId simulationConditionId measurement time",
            "o before after 1 0",
            "o before after 1 2",
        ],
        [PARAMETERS, "k lin 0.01 10 0.5 1"],
        [OBSERVABLES, "o A+B 1"],
        ["conditionId s B", "before 3 -", "after 0 7"],
    )
    x = np.array([13.0, 13.0 * math.exp(-1)])
    assert problem.objective() == pytest.approx(likelihood(x - 1), rel=1e-7)


def test_the_gradient_is_that_of_the_objective(write: Writer) -> None:
    text = sbml(
        {"A": 1.0, "B": 0.0},
        [({"A": 1}, {"B": 1}, "k * A"), ({"B": 1}, {}, "B * k^2 / (1 + B)")],
        {"k": 0.5, "s": 0.0},
        assignments={"A": "2 + s^2"},
    )
    problem = write(
        text,
        [f"{MEASUREMENTS} noiseParameters", "o c0 1 1 sd", "o c0 0.5 2 sd", "p c0 2 2 0.1"],
        [
            f"{PARAMETERS} objectivePriorType objectivePriorParameters",
            "k log10 0.01 10 0.5 1 - -",
            "s lin 0 10 0.7 1 normal 1;3",
            "sd log10 0.01 10 0.3 1 - -",
        ],
        [f"{OBSERVABLES} observableTransformation", "o B noiseParameter1_o*(1+A) lin", "p A+B noiseParameter1_p log10"],
    )
    L = problem.likelihood
    x = L.scaled(problem.nominal)
    θ, slope = L.unscaled(x)
    gradient, _ = L.terms(θ, trajectories(L, θ, 1e-10)).newton()
    h = 1e-5 * np.eye(3)
    differences = [(L.value(x + e) - L.value(x - e)) / 2e-5 for e in h]
    np.testing.assert_allclose(gradient * slope, differences, rtol=1e-5, atol=1e-6)
