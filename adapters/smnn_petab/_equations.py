"""The equations of a problem, compiled: rates, observables and noise as functions of time, states and inputs.

Letters: t time, x states (n,), θ estimated parameters (p,), q inputs: those names in the formulas that are neither time
nor states nor the same number in all experiments, so parameters, and constants that conditions change. In experiment e
they are q = q_e(θ), and the states start from x0_e(θ), so that one function serves all experiments.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import sympy as sp

from ._formulas import TIME, compile_function, substitute, switching_times, symbol
from ._sbml import Model
from ._tables import Tables, Values, check_value

__all__ = ["Equations", "Setting", "equations_of"]


@dataclass(frozen=True)
class Setting:
    """What an experiment, or the equilibration before it, makes of the equations.

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

    def function(self, expressions: Sequence[Any], modules: str = "numpy") -> Callable[[Any, Any, Any], list[Any]]:
        """A function of t, x and q: a list with one array for each expression; x and q are sequences of arrays."""
        f = compile_function([[TIME], self.states, self.inputs], expressions, modules)
        return lambda t, x, q: f([t], x, q)

    def of_parameters(self, expressions: Sequence[Any], modules: str = "numpy") -> Callable[[Any], list[Any]]:
        """A function of θ, a sequence of arrays: a list with one array for each expression."""
        return compile_function([self.parameters], expressions, modules)

    @cached_property
    def values_and_derivatives(self) -> tuple[Callable[..., Any], Callable[..., Any]]:
        """Functions (t, x, q) -> (value, derivatives by x, derivatives by q) of the rates, and of observables and noise
        one after the other, as NumPy arrays of shape (m,), (m, n) and (m, number of inputs)."""
        return self._differentiated(self.rates), self._differentiated((*self.observables, *self.noise))

    def _differentiated(self, expressions: Sequence[Any]) -> Callable[..., tuple[np.ndarray, np.ndarray, np.ndarray]]:
        m, n, q = len(expressions), len(self.states), len(self.inputs)
        names = (*self.states, *self.inputs)
        derivatives = [(i, j, sp.diff(e, s)) for i, e in enumerate(expressions) for j, s in enumerate(names)]
        derivatives = [d for d in derivatives if d[2] != 0]
        rows, columns = (np.array([d[k] for d in derivatives], int) for k in (0, 1))
        f = self.function([*expressions, *(d[2] for d in derivatives)])

        def evaluate(t: float, x: Any, inputs: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
            values = np.array(f(t, x, inputs), float)
            J = np.zeros((m, n + q))
            J[rows, columns] = values[m:]
            return values[:m], J[:, :n], J[:, n:]

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
