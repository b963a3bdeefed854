"""The tables of a PEtab problem, version 1: parameters, experiments, and columns of observations."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import petab.v1 as petab
import sympy as sp
from petab.v1.math import sympify_petab

from ._errors import UnsupportedError
from ._formulas import TIME, substitute, symbol
from ._sbml import Model

__all__ = ["Column", "Experiment", "Parameter", "Tables", "Values", "check_value", "read_tables"]

Values = dict[sp.Symbol, Any]


@dataclass(frozen=True)
class Parameter:
    """A parameter to be estimated.

    Attributes:
        scale: "lin", "log" or "log10": on which optimisers search and starts are drawn.
        lower, upper, nominal: on the linear scale.
        prior: mean and standard deviation of a normal prior, or None.
        prior_scale: the scale on which the prior is normal.
        prior_constant: the negative logarithm of the prior's density at its mode.
        start: limits, on the scale of the parameter, between which starts are drawn.
    """

    name: str
    scale: str
    lower: float
    upper: float
    nominal: float
    prior: tuple[float, float] | None
    prior_scale: str
    prior_constant: float
    start: tuple[float, float]


@dataclass(frozen=True)
class Column:
    """Observations with one formula.

    Attributes:
        name: the observable.
        formula: of states, time, and names of the model and of parameters.
        noise: the standard deviation, of the transformed observation; None where numbers are given beside the data.
        transformation: "lin", "log" or "log10".
    """

    name: str
    formula: Any
    noise: Any
    transformation: str
    replicate: int


@dataclass(frozen=True)
class Experiment:
    """A condition, and what was measured under it.

    Attributes:
        constants: values of the model's constants, numbers or formulas of estimated parameters.
        initial: values of the states at time 0; those of None are the steady state of `before`.
        before: constants and initial values of the equilibration before the experiment.
        times: (n,), each once.
        data: (n, number of columns), NaN where nothing was measured.
        noise: as data: standard deviations that are numbers, NaN elsewhere.
    """

    name: str
    constants: Values
    initial: tuple[Any, ...]
    before: tuple[Values, tuple[Any, ...]] | None
    times: np.ndarray
    data: np.ndarray
    noise: np.ndarray


@dataclass(frozen=True)
class Tables:
    parameters: tuple[Parameter, ...]
    fixed: Values
    columns: tuple[Column, ...]
    experiments: tuple[Experiment, ...]


def read_tables(problem: petab.Problem, model: Model) -> Tables:
    """Parameters, columns and experiments of a problem.

    Raises:
        UnsupportedError: noise that is not normal, priors that are not normal or uniform, measurements at steady state,
            mapping tables.
    """
    if problem.mapping_df is not None:
        raise UnsupportedError("the problem has a mapping table, which is not supported.")
    table = problem.parameter_df
    estimated = table[petab.ESTIMATE].astype(int) == 1
    parameters = tuple(_parameter(str(name), row) for name, row in table[estimated].iterrows())
    fixed = {symbol(str(name)): sp.Float(row[petab.NOMINAL_VALUE]) for name, row in table[~estimated].iterrows()}
    known = {symbol(p.name) for p in parameters}
    rows = [_measurement(problem, row, fixed) for _, row in problem.measurement_df.iterrows()]
    if any(noise is not None for (_, _, noise, _), *_ in rows):
        # formulas are columns of functions, beside which numbers have to be columns, too
        rows = [((*key[:2], sp.Float(σ) if key[2] is None else key[2], key[3]), σ, *rest) for key, σ, *rest in rows]
    seen: Counter[tuple[Any, ...]] = Counter()
    columns: dict[tuple[Any, ...], int] = {}
    placed: dict[tuple[str, str], list[tuple[float, int, float, float]]] = {}
    for key, σ, conditions, time, value in rows:
        replicate = seen[key, conditions, time]
        seen[key, conditions, time] += 1
        at = columns.setdefault((*key, replicate), len(columns))
        placed.setdefault(conditions, []).append((time, at, value, σ))
    experiments = tuple(
        _experiment(problem, model, conditions, fixed, known, entries, len(columns))
        for conditions, entries in placed.items()
    )
    return Tables(parameters, fixed, tuple(Column(*c) for c in columns), experiments)


def _parameter(name: str, row: Any) -> Parameter:
    scale = _text(row, petab.PARAMETER_SCALE, petab.LIN)
    lower, upper = float(row[petab.LOWER_BOUND]), float(row[petab.UPPER_BOUND])
    limits = tuple(petab.scale(x, scale) for x in (lower, upper))
    nominal = float(row[petab.NOMINAL_VALUE])
    return Parameter(name, scale, lower, upper, nominal, *_prior(name, scale, row), _start(row, limits))


def _prior(name: str, scale: str, row: Any) -> tuple[tuple[float, float] | None, str, float]:
    kind = _text(row, petab.OBJECTIVE_PRIOR_TYPE, petab.PARAMETER_SCALE_UNIFORM)
    if kind in (petab.UNIFORM, petab.PARAMETER_SCALE_UNIFORM):
        return None, scale, 0.0
    if kind not in (petab.NORMAL, petab.PARAMETER_SCALE_NORMAL, petab.LOG_NORMAL):
        raise UnsupportedError(
            f"parameter {name} has the prior {kind!r}, which is not supported: use normal, logNormal, "
            "parameterScaleNormal, uniform or parameterScaleUniform."
        )
    mean, sd = (float(x) for x in str(row[petab.OBJECTIVE_PRIOR_PARAMETERS]).split(petab.PARAMETER_SEPARATOR))
    constant = math.log(sd) + 0.5 * math.log(2 * math.pi)
    if kind == petab.LOG_NORMAL:
        # a density of θ: with u = log θ, (u - mean)²/2sd² + u = (u - (mean - sd²))²/2sd² + mean - sd²/2
        return (mean - sd**2, sd), petab.LOG, constant + mean - sd**2 / 2
    return (mean, sd), petab.LIN if kind == petab.NORMAL else scale, constant


def _start(row: Any, limits: tuple[float, ...]) -> tuple[float, float]:
    """Limits of starts on the scale of the parameter: of a parameterScaleUniform initialization, or the bounds."""
    given = _text(row, petab.INITIALIZATION_PRIOR_PARAMETERS, "")
    if given and _text(row, petab.INITIALIZATION_PRIOR_TYPE, "") == petab.PARAMETER_SCALE_UNIFORM:
        limits = tuple(float(x) for x in given.split(petab.PARAMETER_SEPARATOR))
    return limits[0], limits[1]


def _text(row: Any, name: str, default: str) -> str:
    value = row.get(name)
    return default if value is None or value == "" or _is_nan(value) else str(value)


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)


def _measurement(problem: petab.Problem, row: Any, fixed: Values) -> tuple[Any, ...]:
    """((observable, formula, noise formula or None, transformation), noise number or NaN, conditions, time, value)."""
    name = str(row[petab.OBSERVABLE_ID])
    observable = problem.observable_df.loc[name]
    kind = _text(observable, petab.NOISE_DISTRIBUTION, petab.NORMAL)
    if kind != petab.NORMAL:
        raise UnsupportedError(
            f"observable {name} has noise with the distribution {kind!r}; only 'normal' is supported."
        )
    values: Values = {}
    for column, prefix in (
        (petab.OBSERVABLE_PARAMETERS, "observableParameter"),
        (petab.NOISE_PARAMETERS, "noiseParameter"),
    ):
        overrides = petab.split_parameter_replacement_list(row.get(column))
        values |= {symbol(f"{prefix}{i + 1}_{name}"): sympify_petab(x) for i, x in enumerate(overrides)}
    formula, σ = (
        substitute(substitute(sympify_petab(observable[column]), values), fixed)
        for column in (petab.OBSERVABLE_FORMULA, petab.NOISE_FORMULA)
    )
    time = float(row[petab.TIME])
    if not math.isfinite(time):
        raise UnsupportedError(f"observable {name} was measured at steady state (time {time}), which is not supported.")
    conditions = (_text(row, petab.PREEQUILIBRATION_CONDITION_ID, ""), str(row[petab.SIMULATION_CONDITION_ID]))
    transformation = _text(observable, petab.OBSERVABLE_TRANSFORMATION, petab.LIN)
    key = (name, formula, None if σ.is_number else σ, transformation)
    return key, float(σ) if σ.is_number else math.nan, conditions, time, float(row[petab.MEASUREMENT])


def _experiment(
    problem: petab.Problem,
    model: Model,
    conditions: tuple[str, str],
    fixed: Values,
    known: set[sp.Symbol],
    entries: list[tuple[float, int, float, float]],
    number: int,
) -> Experiment:
    preequilibration, simulation = conditions
    constants, initial = _condition(problem, model, simulation, fixed, known, bool(preequilibration))
    before = None
    if preequilibration:
        values, start = _condition(problem, model, preequilibration, fixed, known, False)
        before = (values, tuple(start))
    times = np.array(sorted({time for time, *_ in entries}))
    data, noise = np.full((2, len(times), number), math.nan)
    for time, at, value, σ in entries:
        i = np.searchsorted(times, time)
        data[i, at], noise[i, at] = value, σ
    name = f"{preequilibration} + {simulation}" if preequilibration else simulation
    return Experiment(name, constants, tuple(initial), before, times, data, noise)


def _condition(
    problem: petab.Problem, model: Model, name: str, fixed: Values, known: set[sp.Symbol], continues: bool
) -> tuple[Values, list[Any]]:
    """Constants of the model and initial values under a condition, as numbers or formulas of estimated parameters.

    With `continues` initial values are None where the condition does not say them.
    """
    overrides: Values = {}
    for target, value in problem.condition_df.loc[name].items():
        if target != petab.CONDITION_NAME and not _is_nan(value):
            overrides[symbol(str(target))] = sympify_petab(value)
    refused = overrides.keys() & model.definitions.keys()
    if refused:
        raise UnsupportedError(f"condition {name} sets {refused.pop()}, which has an assignment rule.")
    # the order of precedence: condition, parameter table, model; estimated parameters stay symbols
    table = {s: v for s, v in {**model.constants, **fixed, **overrides}.items() if s not in known or s in overrides}
    start = {s: overrides.get(s, v) for s, v in model.initial.items()}
    known_values: Mapping[sp.Symbol, Any] = {**model.definitions, **start, **table, TIME: sp.Integer(0)}
    states = set(model.states)
    constants = {s: substitute(v, known_values) for s, v in table.items() if s not in states}
    initial = [None if continues and s not in overrides else substitute(start[s], known_values) for s in model.states]
    for s, value in zip(model.states, initial, strict=True):
        check_value(f"the initial value of {s} under condition {name}", value, known)
    return constants, initial


def check_value(place: str, value: Any, known: set[sp.Symbol]) -> None:
    """Raises ValueError for a value that is missing, or depends on a name that has none."""
    if value is sp.nan:
        raise ValueError(f"{place} is missing: the model, the condition and the parameter table give none.")
    unknown = set() if value is None else value.free_symbols - known
    if unknown:
        raise ValueError(f"{place} depends on {', '.join(sorted(map(str, unknown)))}, which nothing defines.")
