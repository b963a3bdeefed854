"""Formulas: MathML of SBML as SymPy expressions, switching times in them, and functions compiled from them.

Symbols are real, as those of `petab.v1.math.sympify_petab`: a name means the same symbol in a model and in a table.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import libsbml
import sympy as sp

from ._errors import UnsupportedError

__all__ = ["TIME", "compile_function", "from_mathml", "substitute", "symbol", "switching_times"]


def symbol(name: str) -> sp.Symbol:
    return sp.Symbol(name, real=True)


TIME = symbol("time")
"""The time of a simulation, in formulas of models and of tables."""

_CONSTANTS = {
    libsbml.AST_CONSTANT_E: sp.E,
    libsbml.AST_CONSTANT_PI: sp.pi,
    libsbml.AST_CONSTANT_TRUE: sp.true,
    libsbml.AST_CONSTANT_FALSE: sp.false,
    libsbml.AST_NAME_TIME: TIME,
    libsbml.AST_NAME_AVOGADRO: sp.Float(6.02214179e23),
}
_FUNCTIONS: dict[int, Callable[..., Any]] = {
    libsbml.AST_PLUS: sp.Add,
    libsbml.AST_TIMES: sp.Mul,
    libsbml.AST_MINUS: lambda a, *b: a - b[0] if b else -a,
    libsbml.AST_DIVIDE: lambda a, b: a / b,
    libsbml.AST_POWER: sp.Pow,
    libsbml.AST_FUNCTION_POWER: sp.Pow,
    libsbml.AST_FUNCTION_ROOT: lambda degree, x: x ** (1 / degree),
    libsbml.AST_FUNCTION_EXP: sp.exp,
    libsbml.AST_FUNCTION_LN: sp.log,
    libsbml.AST_FUNCTION_LOG: lambda base, x: sp.log(x) / sp.log(base),
    libsbml.AST_FUNCTION_ABS: sp.Abs,
    libsbml.AST_FUNCTION_FLOOR: sp.floor,
    libsbml.AST_FUNCTION_CEILING: sp.ceiling,
    libsbml.AST_FUNCTION_MIN: sp.Min,
    libsbml.AST_FUNCTION_MAX: sp.Max,
    libsbml.AST_FUNCTION_SIN: sp.sin,
    libsbml.AST_FUNCTION_COS: sp.cos,
    libsbml.AST_FUNCTION_TAN: sp.tan,
    libsbml.AST_FUNCTION_ARCSIN: sp.asin,
    libsbml.AST_FUNCTION_ARCCOS: sp.acos,
    libsbml.AST_FUNCTION_ARCTAN: sp.atan,
    libsbml.AST_FUNCTION_SINH: sp.sinh,
    libsbml.AST_FUNCTION_COSH: sp.cosh,
    libsbml.AST_FUNCTION_TANH: sp.tanh,
    libsbml.AST_RELATIONAL_LT: sp.Lt,
    libsbml.AST_RELATIONAL_LEQ: sp.Le,
    libsbml.AST_RELATIONAL_GT: sp.Gt,
    libsbml.AST_RELATIONAL_GEQ: sp.Ge,
    libsbml.AST_RELATIONAL_EQ: sp.Eq,
    libsbml.AST_RELATIONAL_NEQ: sp.Ne,
    libsbml.AST_LOGICAL_AND: sp.And,
    libsbml.AST_LOGICAL_OR: sp.Or,
    libsbml.AST_LOGICAL_NOT: sp.Not,
    libsbml.AST_FUNCTION_PIECEWISE: lambda *pieces: sp.Piecewise(*_pairs(pieces)),
}


def from_mathml(node: libsbml.ASTNode, place: str) -> sp.Basic:
    """The expression of a formula.

    Args:
        node: root of the formula; functions that the model defines are expanded before.
        place: words for messages, such as "the rate of reaction v1".

    Raises:
        UnsupportedError: the formula has an operator that is not supported, such as `delay`.
    """
    kind = node.getType()
    if kind in (libsbml.AST_REAL, libsbml.AST_REAL_E):
        value = node.getReal()
        return sp.Integer(int(value)) if value == int(value) and abs(value) < 1e6 else sp.Float(value)
    if kind == libsbml.AST_INTEGER:
        return sp.Integer(node.getInteger())
    if kind == libsbml.AST_RATIONAL:
        return sp.Rational(node.getNumerator(), node.getDenominator())
    if kind == libsbml.AST_NAME:
        return symbol(node.getName())
    if kind in _CONSTANTS:
        return _CONSTANTS[kind]
    if kind not in _FUNCTIONS:
        name = node.getName() or libsbml.formulaToL3String(node)
        raise UnsupportedError(f"{place} uses {name!r}, which is not supported: {libsbml.formulaToL3String(node)}.")
    return _FUNCTIONS[kind](*(from_mathml(node.getChild(i), place) for i in range(node.getNumChildren())))


def _pairs(pieces: Sequence[Any]) -> Iterator[tuple[Any, Any]]:
    """(value, condition) of the arguments value, condition, value, condition, ..., otherwise."""
    yield from zip(pieces[0::2], pieces[1::2], strict=False)
    if len(pieces) % 2:
        yield pieces[-1], sp.true


def substitute(expression: Any, values: Mapping[sp.Symbol, Any]) -> Any:
    """The expression with symbols replaced at once, and again until no key is left: values may refer to keys."""
    expression = sp.sympify(expression)
    for _ in range(len(values) + 1):
        found = expression.free_symbols & values.keys()
        if not found:
            return expression
        expression = expression.xreplace({s: sp.sympify(values[s]) for s in found})
    raise ValueError(f"the definitions of {', '.join(sorted(map(str, found)))} refer to themselves.")


def switching_times(expressions: Iterable[Any], place: str) -> tuple[float, ...]:
    """The times at which the conditions of `piecewise`, `min`, `max` and the like in expressions change.

    Raises:
        UnsupportedError: a condition compares with something else than a known time: a state or an estimated parameter.
    """
    times: set[float] = set()
    for expression in expressions:
        if expression.has(sp.floor, sp.ceiling):
            raise UnsupportedError(f"{place} uses floor or ceiling of what is not constant: {expression}.")
        for kinks in expression.atoms(sp.Abs, sp.Min, sp.Max):
            times.update(_roots(_kink(kinks), place) if kinks.free_symbols <= {TIME} else ())
        for piecewise in expression.atoms(sp.Piecewise):
            for _, condition in piecewise.args:
                for relation in condition.atoms(sp.core.relational.Relational):
                    times.update(_roots(relation.lhs - relation.rhs, place))
    return tuple(sorted(times))


def _kink(expression: Any) -> Any:
    return expression.args[0] if isinstance(expression, sp.Abs) else expression.args[0] - expression.args[1]


def _roots(difference: Any, place: str) -> list[float]:
    """The times at which a difference is zero."""
    others = difference.free_symbols - {TIME}
    if others:
        names = ", ".join(sorted(map(str, others)))
        raise UnsupportedError(
            f"{place} switches at a time that is not known: it depends on {names}. Switches at states or at estimated "
            "parameters are not supported; a switching time may be a number, or a parameter that is not estimated."
        )
    slope = sp.diff(difference, TIME)
    if slope.free_symbols:
        raise UnsupportedError(f"{place} switches where {difference} = 0; only linear functions of time are supported.")
    return [float(-difference.subs(TIME, 0) / slope)] if slope != 0 else []


def compile_function(
    arguments: Sequence[Sequence[sp.Symbol]], expressions: Sequence[Any], modules: str = "numpy"
) -> Callable[..., list[Any]]:
    """A function of vectors of arguments, which returns a list: one array, or number, for each expression.

    Args:
        arguments: the names in each argument; the function takes sequences of as many arrays.
        modules: "numpy" or "torch", of whose functions the formulas are built.
    """
    # numbers as Python's, not arrays: whoever stacks them knows shape, dtype and device
    plain = [sp.sympify(e).evalf() if not sp.sympify(e).free_symbols else e for e in expressions]
    return sp.lambdify([list(a) for a in arguments], plain, modules=modules, cse=True)
