"""The equations of a problem, compiled: rates, observables and noise as functions of time, states and inputs.

Letters: t time, x states (n,), θ estimated parameters (p,), q inputs: those names in the formulas that are neither time
nor states nor the same number in all experiments, so parameters, and constants that conditions change. In experiment e
they are q = q_e(θ), and the states start from x0_e(θ), so that one function serves all experiments.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
import sympy as sp

from ._formulas import TIME, compile_function, substitute, switching_times, symbol
from ._sbml import Model
from ._tables import Tables, Values, check_value

__all__ = ["Equations", "Setting", "equations_of"]

Differentiated = Callable[[Any, Any, Any], tuple[np.ndarray, np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class Setting:
    """The equations of an experiment, or of the equilibration before it.

    Attributes:
        inputs: values of q, formulas of θ.
        initial: values of the states, formulas of θ; None where the equilibration before decides.
        switches: times at which a rate jumps.
    """

    inputs: tuple[Any, ...]
    initial: tuple[Any, ...]
    switches: tuple[float, ...]


@dataclass(frozen=True)
class Equations:
    """Rates, observables and noise in the names of `states`, `inputs` and time; `settings` of experiments.

    Attributes:
        before: for each experiment the setting of the equilibration before it, or None.
    """

    states: tuple[sp.Symbol, ...]
    parameters: tuple[sp.Symbol, ...]
    inputs: tuple[sp.Symbol, ...]
    rates: tuple[Any, ...]
    observables: tuple[Any, ...]
    noise: tuple[Any, ...]
    settings: tuple[Setting, ...]
    before: tuple[Setting | None, ...]

    @cached_property
    def in_rates(self) -> np.ndarray:
        """Which inputs rates depend on, (number of inputs,), bool."""
        names = set().union(*(r.free_symbols for r in self.rates))
        return np.array([s in names for s in self.inputs], bool)

    @cached_property
    def moving(self) -> np.ndarray:
        """Which parameters rates or initial values depend on, (p,), bool: others do not move the trajectories."""
        names: set[sp.Symbol] = set()
        in_rates = [s for s, used in zip(self.inputs, self.in_rates, strict=True) if used]
        for setting in (*self.settings, *(b for b in self.before if b is not None)):
            values = dict(zip(self.inputs, setting.inputs, strict=True))
            names |= set().union(*(values[s].free_symbols for s in in_rates))
            names |= set().union(*(v.free_symbols for v in setting.initial if v is not None))
        return np.array([s in names for s in self.parameters])

    def function(self, expressions: Sequence[Any], modules: str = "numpy") -> Callable[[Any, Any, Any], list[Any]]:
        """A function of t, x and q: a list with one array for each expression; x and q are sequences of arrays."""
        f = compile_function([[TIME], self.states, self.inputs], expressions, modules)
        return lambda t, x, q: f([t], x, q)

    def of_parameters(self, expressions: Sequence[Any], modules: str = "numpy") -> Callable[[Any], list[Any]]:
        """A function of θ, a sequence of arrays: a list with one array for each expression."""
        return compile_function([self.parameters], expressions, modules)

    def setting_function(self, setting: Setting) -> Callable[[Any], tuple[np.ndarray, ...]]:
        """θ (p, ...) -> q (number of inputs, ...), ∂q/∂θ (number of inputs, p, ...), x0 (n, ...), ∂x0/∂θ (n, p, ...) on
        NumPy arrays; x0 is NaN where the equilibration before decides."""
        names, number = self.parameters, len(setting.inputs)
        expressions = [*setting.inputs, *(sp.nan if v is None else v for v in setting.initial)]
        size = len(expressions)
        derivatives = {(i, j): sp.diff(e, s) for i, e in enumerate(expressions) for j, s in enumerate(names)}
        derivatives = {at: d for at, d in derivatives.items() if d != 0}
        f = self.of_parameters([*expressions, *derivatives.values()])

        def evaluate(θ: Any) -> tuple[np.ndarray, ...]:
            values, rest = f(θ), np.shape(θ)[1:]
            value, slope = np.empty((size, *rest)), np.zeros((size, len(names), *rest))
            for i, v in enumerate(values[:size]):
                value[i] = v
            for at, v in zip(derivatives, values[size:], strict=True):
                slope[at] = v
            return value[:number], slope[:number], value[number:], slope[number:]

        return evaluate

    def settings_function(self, settings: Sequence[Setting]) -> Callable[[Any], tuple[np.ndarray, ...]]:
        """The same of E settings at once, for one θ, a sequence of numbers: q (E, number of inputs), ∂q/∂θ (E, number
        of inputs, p), x0 (E, n), ∂x0/∂θ (E, n, p); NaN where a formula has no value."""
        E, names, number = len(settings), {s: i for i, s in enumerate(self.parameters)}, len(self.inputs)
        rows = [[*s.inputs, *(sp.nan if v is None else v for v in s.initial)] for s in settings]
        every = [e for row in rows for e in row]
        at, derivatives = [], []
        for i, e in enumerate(every):
            for s in e.free_symbols & names.keys():
                at.append((i, names[s]))
                derivatives.append(sp.diff(e, s))
        f = self.of_parameters([*every, *derivatives], "math")
        index = tuple(np.array(at, int).reshape(-1, 2).T)

        def evaluate(θ: Any) -> tuple[np.ndarray, ...]:
            try:
                values = np.array(f(θ), float)
            except (ArithmeticError, ValueError, TypeError):  # TypeError: a complex number
                values = np.full(len(every) + len(at), math.nan)
            slope = np.zeros((len(every), len(names)))
            slope[index] = values[len(every) :]
            value, slopes = values[: len(every)].reshape(E, -1), slope.reshape(E, -1, len(names))
            return value[:, :number], slopes[:, :number], value[:, number:], slopes[:, number:]

        return evaluate

    @cached_property
    def differentiated(self) -> tuple[Differentiated, Differentiated, Differentiated]:
        """Rates, observables and noise with their derivatives, on NumPy arrays."""
        return self.differentiate(self.rates), self.differentiate(self.observables), self.differentiate(self.noise)

    @cached_property
    def rates_of_numbers(self) -> tuple[Callable[..., list[float]], Callable[..., np.ndarray]]:
        """Rates (n,) and their derivatives by the states (n, n) as functions of numbers t, x (n,) and q; NaN where they
        have no value."""
        n = len(self.states)
        values = self.function(self.rates, "math")
        slopes = self.function([sp.diff(r, s) for r in self.rates for s in self.states], "math")

        def called(function: Callable[..., list[float]], number: int, *arguments: Any) -> list[float]:
            try:
                found = function(*arguments)
                return [math.nan] * number if any(isinstance(v, complex) for v in found) else found
            except (ArithmeticError, ValueError):
                return [math.nan] * number

        return partial(called, values, n), lambda *arguments: np.reshape(called(slopes, n * n, *arguments), (n, n))

    @cached_property
    def rates_of_arrays(self) -> tuple[Callable[..., list[Any]], Differentiated]:
        """Rates, and rates with derivatives, of those inputs alone that are `in_rates`."""
        inputs = tuple(s for s, used in zip(self.inputs, self.in_rates, strict=True) if used)
        f = compile_function([[TIME], self.states, inputs], self.rates)
        return lambda t, x, q: f([t], x, q), self.differentiate(self.rates, inputs)

    def differentiate(self, expressions: Sequence[Any], inputs: Sequence[Any] | None = None) -> Differentiated:
        """A function (t, x, q) -> (values, derivatives by x, derivatives by q) of shapes (..., m), (..., m, n) and
        (..., m, number of inputs), for NumPy arrays t (...), x (n, ...) and q (number of inputs, ...)."""
        inputs = self.inputs if inputs is None else inputs
        m, n, number = len(expressions), len(self.states), len(inputs)
        names = (*self.states, *inputs)
        derivatives = [(i, j, sp.diff(e, s)) for i, e in enumerate(expressions) for j, s in enumerate(names)]
        derivatives = [d for d in derivatives if d[2] != 0]
        at = np.array([i * (n + number) + j for i, j, _ in derivatives], int)
        every = [*expressions, *(d[2] for d in derivatives)]
        f = compile_function([[TIME], self.states, inputs], every)

        def evaluate(t: Any, x: Any, q: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
            shape = np.shape(t)
            values = np.empty((*shape, len(every)))
            for i, v in enumerate(f([t], x, q)):
                values[..., i] = v
            J = np.zeros((*shape, m * (n + number)))
            J[..., at] = values[..., m:]
            J = J.reshape(*shape, m, n + number)
            return values[..., :m], J[..., :n], J[..., n:]

        return evaluate


def equations_of(model: Model, tables: Tables) -> Equations:
    """The equations of a model and tables.

    Raises:
        UnsupportedError: a rate switches at a time that is not known.
        ValueError: a formula has a name without value.
    """
    parameters = tuple(symbol(p.name) for p in tables.parameters)
    known = set(parameters)
    settings = [(e.constants, *((e.before[0],) if e.before else ())) for e in tables.experiments]
    every = [constants for pair in settings for constants in pair]
    shared = {
        s: v for s, v in every[0].items() if v.is_number and v is not sp.nan and all(c.get(s) == v for c in every)
    }
    replace = {**model.definitions, **shared, **tables.fixed}
    rates = [substitute(r, replace) for r in model.rates]
    observables = [substitute(c.formula, replace) for c in tables.columns]
    noise = [substitute(sp.nan if c.noise is None else c.noise, replace) for c in tables.columns]
    names = set().union(*(e.free_symbols for e in (*rates, *observables, *noise))) - {*model.states, TIME}
    inputs = tuple(sorted(names, key=str))

    def setting(name: str, constants: Values, initial: Sequence[Any]) -> Setting:
        values = [sp.sympify(constants.get(s, s)) for s in inputs]
        for s, value in zip(inputs, values, strict=True):
            check_value(f"the value of {s} in experiment {name}", value, known)
        given = dict(zip(inputs, values, strict=True))
        switches = switching_times((r.xreplace(given) for r in rates), "the model")
        return Setting(tuple(values), tuple(initial), switches)

    return Equations(
        model.states,
        parameters,
        inputs,
        tuple(rates),
        tuple(observables),
        tuple(noise),
        tuple(setting(e.name, e.constants, e.initial) for e in tables.experiments),
        tuple(setting(e.name, *e.before) if e.before else None for e in tables.experiments),
    )
