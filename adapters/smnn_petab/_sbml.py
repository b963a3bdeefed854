"""An SBML model as ordinary differential equations in SymPy: states, rates, initial values, definitions, constants.

In the mathematics of SBML the name of a species stands for its concentration, or for its amount where it "has only
substance units". A reaction changes amounts, so that the rate of a concentration is the sum of stoichiometry times
kinetic law, over the size of the compartment (SBML Level 3 Version 2 Core, section 4.11.7).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import libsbml
import sympy as sp

from ._errors import UnsupportedError
from ._formulas import from_mathml, symbol

__all__ = ["Model", "read_model"]


@dataclass(frozen=True)
class Model:
    """Ordinary differential equations of a model.

    Attributes:
        states: what has a rate: species that reactions change, and targets of rate rules.
        rates: time derivatives of the states.
        initial: values of the states at the start of a simulation.
        definitions: targets of assignment rules, which hold at any time.
        constants: all other names: parameters, compartments and constant species; values may be formulas of names
            (initial assignments).
    """

    states: tuple[sp.Symbol, ...]
    rates: tuple[Any, ...]
    initial: dict[sp.Symbol, Any]
    definitions: dict[sp.Symbol, Any]
    constants: dict[sp.Symbol, Any]


def read_model(document: libsbml.SBMLDocument) -> Model:
    """The equations of a model; functions and local parameters are expanded.

    Raises:
        UnsupportedError: the model has events, algebraic rules, delays, fast reactions, variable compartments or
            stoichiometries, or conversion factors.
    """
    document = document.clone()
    for conversion in ("expandFunctionDefinitions", "promoteLocalParameters"):
        options = libsbml.ConversionProperties()
        options.addOption(conversion, True)
        if document.convert(options) != libsbml.LIBSBML_OPERATION_SUCCESS:
            raise ValueError(f"libsbml could not carry out {conversion} on the model: is it valid SBML?")
    model = document.getModel()
    _refuse(model)
    definitions, rate_rules = _rules(model)
    sizes = {c.getId(): _size(c) for c in model.getListOfCompartments()}
    values: dict[sp.Symbol, Any] = {symbol(name): size for name, size in sizes.items()}
    for parameter in model.getListOfParameters():
        values[symbol(parameter.getId())] = _number(parameter.getValue()) if parameter.isSetValue() else sp.nan
    for species in model.getListOfSpecies():
        values[symbol(species.getId())] = _initial_value(species)
    for assignment in model.getListOfInitialAssignments():
        place = f"the initial assignment of {assignment.getSymbol()}"
        values[symbol(assignment.getSymbol())] = from_mathml(assignment.getMath(), place)
    rates = {**_reactions(model), **rate_rules}
    for name in rates:
        if str(name) in sizes:
            raise UnsupportedError(f"the size of compartment {name} changes, which is not supported.")
    states = tuple(rates)
    return Model(
        states=states,
        rates=tuple(rates.values()),
        initial={s: values[s] for s in states},
        definitions=definitions,
        constants={s: v for s, v in values.items() if s not in rates and s not in definitions},
    )


def _refuse(model: libsbml.Model) -> None:
    if model.getNumEvents():
        names = ", ".join(e.getId() or f"number {i + 1}" for i, e in enumerate(model.getListOfEvents()))
        raise UnsupportedError(
            f"the model has events ({names}), which are not supported. Inputs that switch at known times can be "
            "written as assignment rules with piecewise(value, time < switch, other)."
        )
    if model.isSetConversionFactor() or any(s.isSetConversionFactor() for s in model.getListOfSpecies()):
        raise UnsupportedError("the model has conversion factors, which are not supported.")
    for reaction in model.getListOfReactions():
        if reaction.isSetFast() and reaction.getFast():
            raise UnsupportedError(f"reaction {reaction.getId()} is fast, which is not supported.")
        if not reaction.isSetKineticLaw():
            raise UnsupportedError(f"reaction {reaction.getId()} has no kinetic law.")


def _rules(model: libsbml.Model) -> tuple[dict[sp.Symbol, Any], dict[sp.Symbol, Any]]:
    """Assignment rules and rate rules."""
    definitions: dict[sp.Symbol, Any] = {}
    rates: dict[sp.Symbol, Any] = {}
    for rule in model.getListOfRules():
        if rule.isAlgebraic():
            raise UnsupportedError(
                f"the model has an algebraic rule (0 = {libsbml.formulaToL3String(rule.getMath())}), not supported."
            )
        place = f"the rule of {rule.getVariable()}"
        (definitions if rule.isAssignment() else rates)[symbol(rule.getVariable())] = from_mathml(rule.getMath(), place)
    return definitions, rates


def _reactions(model: libsbml.Model) -> dict[sp.Symbol, Any]:
    """The rate of each species that takes part in reactions."""
    rates: dict[sp.Symbol, Any] = {}
    for species in model.getListOfSpecies():
        ruled = model.getRule(species.getId()) is not None
        if not species.getBoundaryCondition() and not species.getConstant() and not ruled:
            rates[symbol(species.getId())] = sp.Integer(0)
    for reaction in model.getListOfReactions():
        law = from_mathml(reaction.getKineticLaw().getMath(), f"the kinetic law of reaction {reaction.getId()}")
        sides = ((-1, reaction.getListOfReactants()), (1, reaction.getListOfProducts()))
        for sign, references in sides:
            for reference in references:
                name = symbol(reference.getSpecies())
                if name in rates:
                    species = model.getSpecies(reference.getSpecies())
                    in_amounts = species.getHasOnlySubstanceUnits()
                    size = sp.Integer(1) if in_amounts else symbol(species.getCompartment())
                    rates[name] += sign * _stoichiometry(model, reference) * law / size
    return rates


def _stoichiometry(model: libsbml.Model, reference: libsbml.SpeciesReference) -> Any:
    name = reference.getId()
    variable = name and (model.getRule(name) is not None or model.getInitialAssignment(name) is not None)
    if reference.isSetStoichiometryMath() or variable:
        raise UnsupportedError(f"the stoichiometry of {reference.getSpecies()} is a formula, which is not supported.")
    return _number(reference.getStoichiometry()) if reference.isSetStoichiometry() else sp.Integer(1)


def _size(compartment: libsbml.Compartment) -> Any:
    return _number(compartment.getSize()) if compartment.isSetSize() else sp.Integer(1)


def _initial_value(species: libsbml.Species) -> Any:
    """The value of the species' name: a concentration, or an amount where it has only substance units."""
    size, in_amounts = symbol(species.getCompartment()), species.getHasOnlySubstanceUnits()
    if species.isSetInitialAmount():
        amount = _number(species.getInitialAmount())
        return amount if in_amounts else amount / size
    if species.isSetInitialConcentration():
        concentration = _number(species.getInitialConcentration())
        return concentration * size if in_amounts else concentration
    return sp.nan


def _number(value: float) -> Any:
    """Whole numbers as such: x**2 is a product, x**2.0 is not."""
    if value != value:
        return sp.nan
    return sp.Integer(int(value)) if value == int(value) and abs(value) < 1e15 else sp.Float(value)
