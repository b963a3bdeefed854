"""A PEtab problem: loaded, evaluated, fitted."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import petab.v1 as petab
import yaml

from ._equations import Equations, equations_of
from ._errors import UnsupportedError
from ._fit import fit
from ._objective import Objective
from ._picture import plot
from ._result import Fit
from ._sbml import Model, read_model
from ._simulation import collocated
from ._tables import Tables, read_tables
from ._torch import torch_residual

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
        """The objective, at trajectories by LSODA or those of the fit."""
        return Objective(self.equations, self.tables)

    def fit(
        self, starts: int = 100, *, seed: int = 0, relax: bool = False, seconds: float = 10.0, progress: bool = False
    ) -> Fit:
        """Finds the parameters from starts drawn within their bounds.

        From each start the objective of the integrated equations is minimised, then again from its end with single
        rates at the other end of their ranges, as long as that finds something lower.

        Args:
            starts: how many; a Latin hypercube on the scales of the parameters.
            seed: of the draws.
            relax: each start is also minimised from where `smnn_core.fit` leads, which lets trajectories follow the
                data under light equations that grow heavy; not where equilibrations come before experiments.
            seconds: of processor time for each start on average: all take at most half of them, then the third with the
                lowest ends 1.5 times as many more.
            progress: show progress bars (tqdm, where it is installed).

        Returns:
            `Fit`: the best parameters, their errors, the table of starts, pictures.

        Raises:
            ArithmeticError: no start could be integrated.

        Warns:
            ConvergenceWarning: if the best start has not converged.
        """
        return fit(self, starts, seed=seed, relax=relax, seconds=seconds, progress=progress)

    def objective(self, parameters: Mapping[str, float] | None = None, *, solver: str = "scipy") -> float:
        """The negative logarithm of the likelihood, plus that of the priors if there are any.

        Args:
            parameters: values on the linear scale; those not given are nominal.
            solver: "scipy", `scipy.integrate.odeint` (LSODA, relative tolerance 1e-10), or "smnn", `smnn_core.solve`
                (tolerance 1e-7): two integrations that have nothing in common.

        Returns:
            The value; infinity where the integration fails or a value is not finite.
        """
        values = {**self.nominal, **(parameters or {})}
        unknown = values.keys() - self.nominal.keys()
        if unknown:
            raise ValueError(f"parameters has {', '.join(sorted(unknown))}; estimated are {', '.join(self.nominal)}.")
        if solver == "smnn":
            return collocated(self.likelihood, np.array([values[p.name] for p in self.tables.parameters]))
        if solver != "scipy":
            raise ValueError(f'solver must be "scipy" or "smnn", got {solver!r}.')
        return self.likelihood.value(self.likelihood.scaled(values))

    def residual(self, experiment: int = 0) -> Callable[..., Any]:
        """The equations in an experiment on PyTorch's tensors, for `smnn_torch.solve` and `smnn_torch.fit`, and to be
        built upon: another term, a network.

        Args:
            experiment: its number in `tables.experiments`.

        Returns:
            (t, y, θ) -> (..., T, V): x' minus the rates, for t (..., T), y (..., T, V, 2) in the order of
            `model.states` and θ, a mapping of the estimated parameters to numbers or tensors (...), on the linear
            scale.
        """
        return torch_residual(self.equations, experiment)

    def plot(self, parameters: Mapping[str, float] | None = None, axes: Any = None) -> Any:
        """A picture of data and observables at parameters, with bands of one standard deviation; returns the axes.

        Args:
            parameters: values on the linear scale; those not given are nominal.
            axes: of Matplotlib, as many as observables; None: new ones.
        """
        return plot(self, {**self.nominal, **(parameters or {})}, axes)
