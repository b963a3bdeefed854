"""`posterior` and `log_evidence` for JAX arrays.

Mean and samples are solutions, with the derivatives of `solve_ode`. The other fields are operators of the system, and
for the sum of squares of the right-hand side too, with derivatives of first order, in reverse mode (see `_moments`).
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero

from smnn_core import WIENER, ArgumentError, Scheme, Weights
from smnn_core import Posterior as CorePosterior
from smnn_core.extend import (
    SECOND_ORDER,
    UNIT,
    Problem,
    Rows,
    check_integer,
    evidence_with,
    is_tracer,
    lhs_of,
    sum_to_shape,
)

from ._call import call
from ._operators import Options
from ._solution import Inputs, augmented, system_of
from ._solve import normalise, raise_if_singular, solved, stated

Array = Any

__all__ = ["Posterior", "log_evidence", "posterior"]


def posterior(
    coefficients: Array,
    rhs: Array,
    initial_values: Array,
    step_sizes: Array,
    *,
    n_steps: int | None = None,
    scheme: Scheme = WIENER,
    weights: Weights = UNIT,
    engine: str = "auto",
    check: bool = False,
) -> Posterior:
    """`smnn_core.posterior` for JAX arrays, differentiable in all of them, under jit and vmap; a pytree.

    Arguments and errors are as for `solve_ode`. Mean and samples have derivatives of any order; the other fields those
    of first order, in reverse mode, and a second one raises ArgumentError. Under jit, what is not used of it is not
    computed.
    """
    static, inputs, system = stated(coefficients, rhs, initial_values, step_sizes, weights, n_steps, scheme, engine)
    return Posterior(solved(static, inputs, system, check), normalise(inputs), static)


def log_evidence(
    coefficients: Array,
    rhs: Array,
    initial_values: Array,
    step_sizes: Array,
    *,
    observed: Array | bool = False,
    observed_equations: Array | bool = False,
    weights: Weights = UNIT,
    **options: Any,
) -> Array:
    """`smnn_core.log_evidence` for JAX arrays, with derivatives of first order: arguments and errors as there."""
    arguments = coefficients, rhs, initial_values, step_sizes
    return evidence_with(_statistics_alone, arguments, (observed, observed_equations), weights, options)


def _statistics_alone(
    arguments: tuple[Array, Array, Array, Array],
    *,
    weights: Weights,
    n_steps: int | None = None,
    scheme: Scheme = WIENER,
    engine: str = "auto",
    check: bool = False,
) -> tuple[Problem, Array, Array]:
    """The problem, log det M and |W (d - A y)|^2, without the solution."""
    static, inputs, system = stated(*arguments, weights, n_steps, scheme, engine)
    inputs = normalise(inputs)
    log_determinant, minimum = _moments("statistics", static, *inputs)
    raise_if_singular(system, inputs[4:], log_determinant, check)
    problem = Problem(system_of(static, inputs), inputs.rhs, inputs.initial_values, tuple(minimum.shape))
    return problem, log_determinant, minimum


@jax.tree_util.register_pytree_node_class
class Posterior(CorePosterior):
    """`smnn_core.Posterior` of JAX arrays; made by `posterior`."""

    def __init__(self, mean: Array, inputs: Inputs, static: Options) -> None:
        self.mean, self._inputs, self._static = mean, inputs, static
        self._known: dict[str, list[Array]] = {}

    def tree_flatten(self) -> tuple[tuple[Array, Inputs], Options]:
        return (self.mean, self._inputs), self._static

    @classmethod
    def tree_unflatten(cls, static: Options, children: tuple[Array, Inputs]) -> Posterior:
        return cls(*children, static)

    @property
    def problem(self) -> Problem:  # type: ignore[override]
        """The rows, with the weights that the engine sees."""
        inputs = self._inputs
        system = system_of(self._static, inputs)
        return Problem(system, inputs.rhs, inputs.initial_values, tuple(self.mean.shape[:-3]))

    def sample(self, size: int, key: Array) -> Array:  # type: ignore[override]
        """Independent samples, (size, ..., T, V, R+1), differentiable for a fixed key."""
        check_integer("size, the number of samples,", size, least=1)
        keys = iter(jax.random.split(key, 3))
        return self._sample(lambda shape: jax.random.normal(next(keys), (size, *shape), self.mean.dtype))

    def _response(self, ξ: Rows) -> Array:
        """(W A)^+ ξ, of which any derivative is known."""
        return _response(self._static, tuple(x[None] for x in lhs_of(self._inputs)), ξ)

    @property
    def _blocks(self) -> tuple[Array, Array]:
        diagonal, lag = self._result("blocks", *lhs_of(self._inputs))
        return diagonal, lag

    @property
    def _diagonal(self) -> Array:
        return jnp.diagonal(self._blocks[0], axis1=-2, axis2=-1)

    @property
    def _statistics(self) -> list[Array]:  # type: ignore[override]
        return self._result("statistics", *self._inputs)

    def _result(self, operator: str, *operands: Array) -> list[Array]:
        """The results of an operator, remembered unless they are traced."""
        if operator not in self._known:
            results = _moments(operator, self._static, *operands)
            if any(map(is_tracer, results)):
                return results
            self._known[operator] = results
        return self._known[operator]


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _moments(operator: str, static: Options, *operands: Array) -> list[Array]:
    """The results of an operator."""
    return _called(operator, static, *operands)


def _forward(operator: str, static: Options, *operands: Any) -> tuple[list[Array], tuple[Any, ...]]:
    """Results of "statistics" come with their gradients, in one sweep, and its backward pass only sums these."""
    values = tuple(x.value for x in operands)
    if operator == "blocks":
        return _moments(operator, static, *values), (values, None)
    moving = tuple(i for i, x in enumerate(operands) if x.perturbed)
    determinant, minimum, *gradients = _first_order(operator, replace(static, wanted=moving), *values)
    found, parts = iter(gradients), []
    for of in (lhs_of(range(len(values))), range(len(values))):
        parts.append([next(found) if i in moving and i in of else None for i in range(len(values))])
    return [determinant, minimum], (values, parts)


def _backward(operator: str, static: Options, kept: tuple[Any, ...], g: list[Any]) -> tuple[Array | None, ...]:
    operands, parts = kept
    if operator == "blocks":
        g = [jnp.zeros(x.shape, x.dtype) if isinstance(x, SymbolicZero) else x for x in g]
        gradients = _first_order("blocks_pullback", static, *operands, *g)
        return tuple(sum_to_shape(jnp, dx, x.shape) for dx, x in zip(gradients, operands, strict=True))

    def pulled_back(i: int, operand: Array) -> Array | None:
        pairs = [(a, part[i]) for a, part in zip(g, parts, strict=True) if not isinstance(a, SymbolicZero)]
        terms = [a[(..., *(None,) * (x.ndim - a.ndim))] * x for a, x in pairs if x is not None]
        return sum_to_shape(jnp, sum(terms), operand.shape) if terms else None

    return tuple(pulled_back(i, x) for i, x in enumerate(operands))


_moments.defvjp(_forward, _backward, symbolic_zeros=True)


@partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _first_order(operator: str, static: Options, *operands: Array) -> list[Array]:
    """Gradients that have no derivatives themselves."""
    return _called(operator, static, *operands)


@_first_order.defjvp
def _second_order(operator: str, static: Options, primals: Any, tangents: Any) -> Any:
    del operator, static, primals, tangents
    raise ArgumentError(SECOND_ORDER)


@partial(jax.jit, static_argnums=0)
def _response(static: Options, lhs: tuple[Array, ...], ξ: Rows) -> Array:
    return augmented(static, lhs, ξ, None, rows=False)[1]


@partial(jax.jit, static_argnums=(0, 1))
def _called(operator: str, static: Options, *operands: Array) -> list[Array]:
    return call(operator, static, *operands)
