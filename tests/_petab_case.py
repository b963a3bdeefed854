"""Small PEtab problems: models in SBML, and tables, written to files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import libsbml
import numpy as np

import smnn_petab
from smnn_petab._objective import Objective
from smnn_petab._shooting import Search, Trajectories, alone


def trajectories(objective: Objective, θ: np.ndarray, rtol: float) -> Trajectories | None:
    """States and sensitivities of all experiments, as fits integrate them."""

    def asking() -> Search[Trajectories | None]:
        return (yield θ, rtol)

    return alone(objective, asking())


def sbml(
    species: dict[str, float],
    reactions: Sequence[tuple[dict[str, float], dict[str, float], str]] = (),
    parameters: dict[str, float] | None = None,
    *,
    rules: dict[str, str] | None = None,
    rates: dict[str, str] | None = None,
    assignments: dict[str, str] | None = None,
    size: float = 1.0,
    in_amounts: bool = False,
    change: Callable[[Any], None] | None = None,
) -> str:
    """A model in one compartment `c`: reactions are (reactants, products, kinetic law)."""
    document = libsbml.SBMLDocument(3, 2)
    model = document.createModel()
    model.setId("model")
    compartment = model.createCompartment()
    compartment.setId("c"), compartment.setSize(size), compartment.setConstant(True)
    for name, value in species.items():
        s = model.createSpecies()
        s.setId(name), s.setCompartment("c"), s.setInitialConcentration(value), s.setConstant(False)
        s.setBoundaryCondition(False), s.setHasOnlySubstanceUnits(in_amounts)
    for name, value in (parameters or {}).items():
        p = model.createParameter()
        p.setId(name), p.setValue(value), p.setConstant(name not in {**(rules or {}), **(rates or {})})
    for create, formulas in ((model.createAssignmentRule, rules), (model.createRateRule, rates)):
        for name, formula in (formulas or {}).items():
            rule = create()
            rule.setVariable(name), rule.setMath(libsbml.parseL3Formula(formula))
    for name, formula in (assignments or {}).items():
        assignment = model.createInitialAssignment()
        assignment.setSymbol(name), assignment.setMath(libsbml.parseL3Formula(formula))
    for i, (reactants, products, law) in enumerate(reactions):
        reaction = model.createReaction()
        reaction.setId(f"r{i}"), reaction.setReversible(False)
        for create, side in ((reaction.createReactant, reactants), (reaction.createProduct, products)):
            for name, stoichiometry in side.items():
                reference = create()
                reference.setSpecies(name), reference.setStoichiometry(stoichiometry), reference.setConstant(True)
        reaction.createKineticLaw().setMath(libsbml.parseL3Formula(law))
    if change is not None:
        change(model)
    return libsbml.writeSBMLToString(document)


def table(path: Path, header: str, rows: Sequence[str]) -> None:
    """Columns and cells are separated by blanks; a dash is an empty cell."""
    lines = [[("" if cell == "-" else cell) for cell in line.split()] for line in (header, *rows)]
    path.write_text("\n".join("\t".join(line) for line in lines) + "\n")


class Writer:
    """Writes a problem into a folder and loads it. Tables are lists of lines, the first of which names the columns."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(
        self,
        model: str,
        measurements: Sequence[str],
        parameters: Sequence[str],
        observables: Sequence[str],
        conditions: Sequence[str] = ("conditionId", "c0"),
        version: str = "1",
    ) -> smnn_petab.Problem:
        files = {
            "measurement": measurements,
            "parameter": parameters,
            "observable": observables,
            "condition": conditions,
        }
        for name, lines in files.items():
            table(self.folder / f"{name}.tsv", lines[0], lines[1:])
        (self.folder / "model.xml").write_text(model)
        (self.folder / "problem.yaml").write_text(
            f"format_version: {version}\nparameter_file: parameter.tsv\nproblems:\n- condition_files: [condition.tsv]\n"
            "  measurement_files: [measurement.tsv]\n  observable_files: [observable.tsv]\n  sbml_files: [model.xml]\n"
            "  visualization_files: [not_there.tsv]\n"
        )
        return smnn_petab.load(self.folder / "problem.yaml")
