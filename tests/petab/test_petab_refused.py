"""Features that are not supported are refused by name."""

from __future__ import annotations

import pytest

pytest.importorskip("petab", reason="needs the extra `petab`")

from _petab_case import Writer, sbml

from smnn_petab import UnsupportedError

PARAMETERS = "parameterId parameterScale lowerBound upperBound nominalValue estimate"
OBSERVABLES = "observableId observableFormula noiseFormula"
MEASUREMENTS = "observableId simulationConditionId measurement time"


def attempt(write, text=None, measurements=("a c0 1 1",), parameters=(PARAMETERS, "k lin 0.01 10 0.5 1"), **others):
    text = text or sbml({"A": 1.0}, [({"A": 1}, {}, "k * A")], {"k": 0.5})
    others = {"observables": [OBSERVABLES, "a A 1"], **others}
    return write(text, [MEASUREMENTS, *measurements], list(parameters), **others)


def law(formula: str, **others) -> str:
    return sbml({"A": 1.0}, [({"A": 1}, {}, formula)], {"k": 0.5}, **others)


def test_events(write: Writer) -> None:
    def event(model):
        e = model.createEvent()
        e.setId("dose"), e.setUseValuesFromTriggerTime(True)

    with pytest.raises(UnsupportedError, match=r"events \(dose\)"):
        attempt(write, law("k * A", change=event))


def test_algebraic_rules(write: Writer) -> None:
    def rule(model):
        import libsbml

        model.createAlgebraicRule().setMath(libsbml.parseL3Formula("A - 1"))

    with pytest.raises(UnsupportedError, match=r"algebraic rule \(0 = A - 1\)"):
        attempt(write, law("k * A", change=rule))


def test_delays(write: Writer) -> None:
    with pytest.raises(UnsupportedError, match="kinetic law of reaction r0 uses 'delay'"):
        attempt(write, law("k * delay(A, 1)"))


def test_switches_at_states_and_at_estimated_times(write: Writer) -> None:
    with pytest.raises(UnsupportedError, match="switches at a time that is not known: it depends on A"):
        attempt(write, law("piecewise(k, A > 0.5, 0)"))
    with pytest.raises(UnsupportedError, match="it depends on k"):
        attempt(write, law("piecewise(1, time > k, 0) * A"))


def test_noise_that_is_not_normal(write: Writer) -> None:
    with pytest.raises(UnsupportedError, match="observable a has noise with the distribution 'laplace'"):
        attempt(write, observables=[f"{OBSERVABLES} noiseDistribution", "a A 1 laplace"])


def test_priors_that_are_not_normal(write: Writer) -> None:
    table = (f"{PARAMETERS} objectivePriorType objectivePriorParameters", "k lin 0.01 10 0.5 1 laplace 0;1")
    with pytest.raises(UnsupportedError, match="parameter k has the prior 'laplace'"):
        attempt(write, parameters=table)


def test_measurements_at_steady_state(write: Writer) -> None:
    with pytest.raises(UnsupportedError, match="measured at steady state"):
        attempt(write, measurements=["a c0 1 inf"])


def test_other_versions(write: Writer) -> None:
    with pytest.raises(UnsupportedError, match=r"version 2\.0\.0"):
        attempt(write, version="2.0.0")


def test_compartments_that_change(write: Writer) -> None:
    with pytest.raises(UnsupportedError, match="size of compartment c changes"):
        attempt(write, law("k * A", rates={"c": "1"}))


def test_names_without_value(write: Writer) -> None:
    with pytest.raises(
        ValueError, match="the value of unknown in experiment c0 depends on unknown, which nothing defines"
    ):
        attempt(write, observables=[OBSERVABLES, "a unknown*A 1"])


def test_parameters_that_are_not_estimated_are_named(write: Writer) -> None:
    with pytest.raises(ValueError, match="parameters has other; estimated are k"):
        attempt(write).objective({"other": 1.0})
