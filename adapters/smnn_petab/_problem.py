"""A PEtab problem: loaded, evaluated, fitted."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

import petab.v1 as petab
import yaml

from ._equations import Equations, equations_of
from ._errors import UnsupportedError
from ._objective import Objective
from ._sbml import Model, read_model
from ._tables import Tables, read_tables

__all__ = ["Problem", "load"]


def load(path: str | Path) -> Problem:
    """A PEtab problem, version 1, from its YAML file: an SBML model, and the tables of conditions, measurements,
    observables and parameters that the file names.

    Raises:
        UnsupportedError: the problem uses what is not supported; the message names it.
        ValueError: the tables contradict each other, or a name has no value.
    """
    path = Path(path)
    config = yaml.safe_load(path.read_text())
    if str(config.get("format_version")) not in ("1", "1.0.0"):
        raise UnsupportedError(
            f"{path.name} has PEtab's format version {config.get('format_version')}; version 1 is read."
        )
    if len(config["problems"]) != 1:
        raise UnsupportedError(f"{path.name} holds {len(config['problems'])} problems; only one is supported.")
    for part in config["problems"]:
        part.pop("visualization_files", None)
    tables = petab.Problem.from_yaml(config, base_path=str(path.parent))
    if not isinstance(tables.model, petab.models.sbml_model.SbmlModel):
        raise UnsupportedError(
            f"the model of {path.name} is written in {tables.model.type_id!r}; only SBML is supported."
        )
    model = read_model(tables.model.sbml_document)
    return Problem(path.parent.name if path.stem == "problem" else path.stem, model, read_tables(tables, model))


class Problem:
    """A model with data and parameters to be estimated, as `load` returns it.

    Attributes:
        name: of the file.
        model: equations of the SBML model.
        tables: parameters, columns of observations, experiments.
        equations: rates, observables and noise of both.
        nominal: values of the estimated parameters in the table, on the linear scale.
    """

    def __init__(self, name: str, model: Model, tables: Tables) -> None:
        self.name, self.model, self.tables = name, model, tables
        self.equations: Equations = equations_of(model, tables)
        self.nominal = {p.name: p.nominal for p in tables.parameters}

    def __repr__(self) -> str:
        values = sum(int((e.data == e.data).sum()) for e in self.tables.experiments)
        return (
            f"{self.name}: {len(self.model.states)} states, {len(self.nominal)} parameters, "
            f"{len(self.tables.experiments)} experiments, {values} observations"
        )

    @cached_property
    def likelihood(self) -> Objective:
        """The objective by numerical integration of the initial-value problems, independent of the fit."""
        return Objective(self.equations, self.tables)

    def objective(self, parameters: Mapping[str, float] | None = None) -> float:
        """The negative logarithm of the likelihood, plus that of the priors if there are any.

        By `scipy.integrate.solve_ivp` (LSODA, relative tolerance 1e-10), independent of the fit.

        Args:
            parameters: values on the linear scale; those not given are nominal.

        Returns:
            The value; infinity where the integration fails or a value is not finite.
        """
        values = {**self.nominal, **(parameters or {})}
        unknown = values.keys() - self.nominal.keys()
        if unknown:
            raise ValueError(f"parameters has {', '.join(sorted(unknown))}; estimated are {', '.join(self.nominal)}.")
        return self.likelihood.value(self.likelihood.scaled(values))
