"""The operators of the adapter, as plain functions of arrays, and the static part of a problem.

Operands come normalised (see `normalise`): every one has the same number of batch axes, each of full or unit size, and
all of its core axes. That makes the operators polymorphic in the batch, which is what `vmap` and sharding need.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import array_api_compat as compat
import numpy as np

from smnn_core import HERMITE, TAYLOR, WIENER, Gradients, Scheme, Weights
from smnn_core.extend import (
    FIELDS,
    Problem,
    Rows,
    System,
    adjoint_without_factor,
    device_of,
    select,
    solve_unjudged,
)

Array = Any
Shape = tuple[int, ...]

__all__ = ["CORE_AXES", "OPERATORS", "PROBLEM_AXES", "SYSTEM_AXES", "Static", "batch_shape", "result_shapes"]

SYSTEM_AXES = tuple(field.rank for field in FIELDS.values() if field.is_of_lhs)
"""Core axes of coefficients, step sizes and the three weights."""

PROBLEM_AXES = (*SYSTEM_AXES, *(field.rank for field in FIELDS.values() if not field.is_of_lhs))
"""The same, with right-hand side and initial values."""

CORE_AXES = {
    "least_squares": PROBLEM_AXES,
    "augmented": (*SYSTEM_AXES, 2, 3, 3, 3),
    "adjoint": (*PROBLEM_AXES, 3, 3),
    "blocks": SYSTEM_AXES,
    "blocks_pullback": (*SYSTEM_AXES, 3, 3),
    "statistics": PROBLEM_AXES,
}
"""Core axes of the operands of each operator."""


@dataclass(frozen=True)
class Static:
    """The part of a problem that is known when tracing: hashable, so that it keys compilation."""

    n_steps: int
    n_initial_steps: int
    n_initial_orders: int
    scheme: Scheme
    engine: str
    time_axis: str | None = None
    """The mesh axis over which time is split; n_steps is then that of a device's chunk and its halo (see `_time`)."""
    wanted: tuple[int, ...] = ()
    """Of which operands the adjoint gives the gradients, and the statistics."""

    def encode(self, operator: str, K: int) -> str:
        """As text, for a custom call: the same in every process, since compiled programs outlive processes."""
        F, G = self.scheme.matrices(K)
        return json.dumps(
            [
                operator,
                [self.n_steps, self.n_initial_steps, self.n_initial_orders, self.engine, self.wanted],
                [self.scheme.name, self.scheme.citation, F.tolist(), G.tolist()],
            ]
        )

    @staticmethod
    @cache
    def decode(text: bytes) -> tuple[str, Static]:
        """The operator's name and the static part that `encode` wrote."""
        operator, (T, T_init, R_init, engine, wanted), (name, citation, F, G) = json.loads(text)
        F, G = np.asarray(F), np.asarray(G)
        for known in (TAYLOR, HERMITE, WIENER):
            if all(np.array_equal(a, b) for a, b in zip(known.matrices(F.shape[1]), (F, G), strict=True)):
                scheme = known
                break
        else:
            scheme = Scheme.from_matrices(F, G, name=name, citation=citation)
        return operator, Static(T, T_init, R_init, scheme, engine, wanted=tuple(wanted))

    def system(self, c: Array, s: Array, *weights: Array) -> System:
        """W A from its arrays, which were checked before."""
        shapes = [x.shape for x in (c, s, *weights)]
        return System(
            xp=compat.array_namespace(c),
            coefficients=c,
            step_sizes=s,
            weights=Weights(*weights),
            scheme=self.scheme,
            n_steps=self.n_steps,
            n_initial_steps=self.n_initial_steps,
            n_initial_orders=self.n_initial_orders,
            batch=batch_shape(shapes, SYSTEM_AXES),
            device=device_of(c),
        )


def result_shapes(operator: str, static: Static, shapes: Sequence[Shape]) -> list[Shape]:
    """The shapes of the results from those of the operands."""
    cores = CORE_AXES[operator]
    batch = batch_shape(shapes, cores)
    if operator == "adjoint":
        return [(*batch, *shapes[i][len(batch) :]) for i in static.wanted]
    if operator.endswith("_pullback"):
        count = len(CORE_AXES[operator.removesuffix("_pullback")])
        return [(*batch, *shape[len(batch) :]) for shape in shapes[:count]]
    if operator == "blocks":
        T, n = static.n_steps, shapes[0][-2] * shapes[0][-1]
        return [(*batch, T, n, n), (*batch, T - 1, n, n)]
    if operator == "statistics":
        of_determinant = tuple(i for i in static.wanted if i < len(SYSTEM_AXES))
        gradients = [(*batch, *shapes[i][len(batch) :]) for i in of_determinant + static.wanted]
        return [batch, batch, *gradients]
    return [(*batch, static.n_steps, *shapes[0][-2:])]


def batch_shape(shapes: Sequence[Shape], cores: Sequence[int]) -> Shape:
    """The common batch shape of normalised operands, which were checked before; light, as every call asks for it."""
    leads = [shape[: len(shape) - core] for shape, core in zip(shapes, cores, strict=True)]
    return tuple([next((n for n in sizes if n != 1), 1) for sizes in zip(*leads, strict=True)])


def least_squares(static: Static, operands: Sequence[Array]) -> list[Array]:
    """[argmin_y |W (A y - d)|^2] for d = (b, u, 0); operands c, s, weights, b, u. NaN where it is not unique."""
    system, (b, u) = static.system(*operands[:5]), operands[5:]
    problem = Problem(system, b, u, batch_shape([x.shape for x in operands], PROBLEM_AXES))
    return [solve_unjudged(select(static.engine, system), problem)[0]]


def augmented(static: Static, operands: Sequence[Array]) -> list[Array]:
    """[argmin_x |W (A x - d)|^2 - M^-1 h]; operands c, s, weights, the three parts of d, and h."""
    system, (*d, h) = static.system(*operands[:5]), operands[5:]
    engine = select(static.engine, system)
    if _all_zero(*d):
        return [-engine.normal_solve(system, h)]
    factor = engine.factorize(system)
    if not _all_zero(h):
        x = factor.normal_solve(h)
        return [-x if _all_zero(*d) else factor.solve(Rows(*d)) - x]
    return [factor.solve(Rows(*d))]


def adjoint(static: Static, operands: Sequence[Array]) -> list[Array]:
    """The gradients that are wanted of those with respect to c, s, weights, b, u; operands these, y, dL/dy.

    All batch axes of a gradient are in full: what an operand shares is still to be summed.
    """
    given = system = static.system(*operands[:5])
    batch = batch_shape([x.shape for x in operands], CORE_AXES["adjoint"])
    n = len(batch)
    if any(x.shape[:n] != batch for x in operands):
        operands = [given.xp.broadcast_to(x, (*batch, *x.shape[n:])) for x in operands]
        system = static.system(*operands[:5])
    b, u, y, g = operands[5:]
    gradients = adjoint_without_factor(Problem(system, b, u, batch), y, g, engine=static.engine, eliminated=given)
    w = gradients.weights
    of_lhs = gradients.coefficients, gradients.step_sizes, w.equation, w.initial, w.smoothness
    everything = *of_lhs, gradients.rhs, gradients.initial_values
    return [everything[i] for i in static.wanted]


def blocks(static: Static, operands: Sequence[Array]) -> list[Array]:
    """The blocks of M^-1 in and beside the diagonal; operands c, s, weights."""
    return list(_moments(static, operands)[1].covariances())


def statistics(static: Static, operands: Sequence[Array]) -> list[Array]:
    """[log det M, |W (d - A y)|^2], and their gradients for each member, of the first with respect to those of c, s,
    weights that are wanted, of the second to those of c, s, weights, b, u; operands these."""
    system, factor = _moments(static, operands)
    batch = batch_shape([x.shape for x in operands], PROBLEM_AXES)
    take = [i in static.wanted for i in range(len(PROBLEM_AXES))]
    c, s, *w, b, u = take
    found = factor.statistics(Rows(operands[5], operands[6], None), Gradients(c, b, u, s, Weights(*w)))
    right = found.of_minimum.rhs, found.of_minimum.initial_values
    parts = _of_lhs(found.of_determinant), (*_of_lhs(found.of_minimum), *right)
    gradients = [part[i] for part in parts for i in static.wanted if i < len(part)]
    n = len(batch)
    results = [(found.log_determinant, 0), (found.minimum, 0), *((x, x.ndim - n) for x in gradients)]
    return [system.xp.broadcast_to(x, (*batch, *x.shape[x.ndim - rank :])) for x, rank in results]


def blocks_pullback(static: Static, operands: Sequence[Array]) -> list[Array]:
    """The gradients of c, s, weights, all batch axes in full; operands these and the gradients of the results."""
    operands = _in_full("blocks_pullback", operands)
    _, factor = _moments(static, operands)
    return list(_of_lhs(factor.moments_pullback(*operands[5:], None)))


def _of_lhs(gradients: Gradients) -> tuple[Array, ...]:
    w = gradients.weights
    return gradients.coefficients, gradients.step_sizes, w.equation, w.initial, w.smoothness


def _moments(static: Static, operands: Sequence[Array]) -> tuple[System, Any]:
    """The system and its factor; the moments of undetermined members are NaN."""
    system = static.system(*operands[:5])
    return system, select(static.engine, system).factor_of_moments(system)


def _in_full(operator: str, operands: Sequence[Array]) -> list[Array]:
    """The operands with all batch axes in full."""
    batch = batch_shape([x.shape for x in operands], CORE_AXES[operator])
    xp = compat.array_namespace(operands[0])
    return [xp.broadcast_to(x, (*batch, *x.shape[len(batch) :])) for x in operands]


def _all_zero(*arrays: Array) -> bool:
    """True if half the work can be left out, as in reverse mode (d = 0), where that is known at no cost."""
    return all(isinstance(x, np.ndarray) and not x.any() for x in arrays)


OPERATORS: dict[str, Callable[[Static, Sequence[Array]], list[Array]]] = {
    "least_squares": least_squares,
    "augmented": augmented,
    "adjoint": adjoint,
    "blocks": blocks,
    "blocks_pullback": blocks_pullback,
    "statistics": statistics,
}
