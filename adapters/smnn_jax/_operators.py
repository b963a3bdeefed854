"""The operators of the adapter, as plain functions of arrays, and the static part of a problem.

Operands come normalised (see `normalise`): every one has the same number of batch axes, each of full or unit size, and
all of its core axes. That makes the operators polymorphic in the batch, which is what `vmap` and sharding need.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import array_api_compat as compat
import numpy as np

from smnn_core import HERMITE, TAYLOR, WIENER, Scheme, Weights
from smnn_core.extend import (
    FIELDS,
    LHS_RANKS,
    RANKS,
    Problem,
    Rows,
    System,
    adjoint_without_factor,
    by_field,
    device_of,
    from_fields,
    lhs_of,
    select,
    solve_unjudged,
)

Array = Any
Shape = tuple[int, ...]

__all__ = ["CORE_AXES", "N_LHS", "OPERATORS", "STEP_SIZES", "N", "Options", "batch_shape", "result_shapes"]

CORE_AXES = {
    "solution": RANKS,
    "adjoint": (*RANKS, 3, 3),
    "states": (*LHS_RANKS, 2, 3, 3, 3),
    "states_f": (*LHS_RANKS, 2, 3, 3),
    "states_g": (*LHS_RANKS, 3),
    "blocks": LHS_RANKS,
    "blocks_pullback": (*LHS_RANKS, 3, 3),
    "statistics": RANKS,
}
"""Core axes of the operands of each operator."""
N, N_LHS = len(RANKS), len(LHS_RANKS)
STEP_SIZES = {
    name: (tuple(FIELDS) if cores[:N] == RANKS else lhs_of(tuple(FIELDS))).index("step_sizes")
    for name, cores in CORE_AXES.items()
}
"""The place of the step sizes among the operands of each operator."""


@dataclass(frozen=True)
class Options:
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
    def decode(text: bytes) -> tuple[str, Options]:
        """The operator's name and the static part that `encode` wrote."""
        operator, (T, T_init, R_init, engine, wanted), (name, citation, F, G) = json.loads(text)
        F, G = np.asarray(F), np.asarray(G)
        for known in (TAYLOR, HERMITE, WIENER):
            if all(np.array_equal(a, b) for a, b in zip(known.matrices(F.shape[1]), (F, G), strict=True)):
                scheme = known
                break
        else:
            scheme = Scheme.from_matrices(F, G, name=name, citation=citation)
        return operator, Options(T, T_init, R_init, scheme, engine, wanted=tuple(wanted))

    def row_cores(self, coefficients: Shape) -> tuple[Shape, ...]:
        """The axes of rows behind those of the batch, from the shape of the coefficients."""
        Q, V, K = coefficients[-3:]
        T, m = self.n_steps, len(self.scheme.rows(K)[0])
        return (T, Q), (self.n_initial_steps, V, self.n_initial_orders), (T - 1, V, m)

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
            batch=batch_shape(shapes, LHS_RANKS),
            device=device_of(c),
        )


def result_shapes(operator: str, static: Options, shapes: Sequence[Shape]) -> list[Shape]:
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
        gradients = [(*batch, *shapes[i][len(batch) :]) for i in _of_determinant(static) + static.wanted]
        return [batch, batch, *gradients]
    return [(*batch, static.n_steps, *shapes[0][-2:])]


def batch_shape(shapes: Sequence[Shape], cores: Sequence[int]) -> Shape:
    """The common batch shape of normalised operands, which were checked before; light, as every call asks for it."""
    leads = [shape[: len(shape) - core] for shape, core in zip(shapes, cores, strict=True)]
    return tuple([next((n for n in sizes if n != 1), 1) for sizes in zip(*leads, strict=True)])


def solution(static: Options, operands: Sequence[Array]) -> list[Array]:
    """[argmin_y |W (A y - d)|^2] for d = (rhs, initial_values, 0); operands the inputs. NaN where it is not unique."""
    problem = _problem(static, operands, batch_shape([x.shape for x in operands], RANKS))
    return [solve_unjudged(select(static.engine, problem.system), problem)[0]]


def states(static: Options, operands: Sequence[Array], *, f: bool = True, g: bool = True) -> list[Array]:
    """[y] of the augmented solve; operands those of the left-hand side, then f and g where they are not zero."""
    system, rest = static.system(*operands[:N_LHS]), operands[N_LHS:]
    engine = select(static.engine, system)
    if not f:
        return [-engine.normal_solve(system, rest[-1])]
    return [engine.factorize(system).augmented(Rows(*rest[:3]), rest[-1] if g else None, rows=False)[1]]


def adjoint(static: Options, operands: Sequence[Array]) -> list[Array]:
    """The gradients that are wanted with respect to the inputs of a solution; operands these, y, dL/dy.

    All batch axes of a gradient are in full: what an operand shares is still to be summed.
    """
    *inputs, y, g = _in_full("adjoint", operands)
    problem = _problem(static, inputs, tuple(y.shape[:-3]))
    lhs, full = lhs_of(operands[:N]), lhs_of(inputs)
    shared = None if all(a is b for a, b in zip(lhs, full, strict=True)) else static.system(*lhs)
    gradients = by_field(adjoint_without_factor(problem, y, g, engine=static.engine, eliminated=shared))
    return [gradients[i] for i in static.wanted]


def _problem(static: Options, inputs: Sequence[Array], batch: Shape) -> Problem:
    _, b, u, *_ = inputs
    return Problem(static.system(*lhs_of(inputs)), b, u, batch)


def blocks(static: Options, operands: Sequence[Array]) -> list[Array]:
    """The blocks of M^-1 in and beside the diagonal; operands those of the left-hand side."""
    return list(_moments(static, operands)[1].covariances())


def statistics(static: Options, operands: Sequence[Array]) -> list[Array]:
    """[log det M, |W (d - A y)|^2], and their gradients for each member, those that are wanted; operands the inputs."""
    system, factor = _moments(static, lhs_of(operands))
    batch = batch_shape([x.shape for x in operands], RANKS)
    wanted = from_fields(i in static.wanted for i in range(N))
    found = factor.statistics(Rows(operands[1], operands[2], None), wanted)
    determinant, minimum = by_field(found.of_determinant), by_field(found.of_minimum)
    gradients = [determinant[i] for i in _of_determinant(static)] + [minimum[i] for i in static.wanted]
    n = len(batch)
    results = [(found.log_determinant, 0), (found.minimum, 0), *((x, x.ndim - n) for x in gradients)]
    return [system.xp.broadcast_to(x, (*batch, *x.shape[x.ndim - rank :])) for x, rank in results]


def _of_determinant(static: Options) -> tuple[int, ...]:
    """The gradients of log det M that are wanted."""
    return tuple(i for i in static.wanted if i in lhs_of(range(N)))


def blocks_pullback(static: Options, operands: Sequence[Array]) -> list[Array]:
    """The gradients of the left-hand side, all batch axes in full; operands its inputs and the gradients of the
    results."""
    operands = _in_full("blocks_pullback", operands)
    _, factor = _moments(static, operands[:N_LHS])
    return list(lhs_of(by_field(factor.moments_pullback(*operands[N_LHS:], None))))


def _moments(static: Options, lhs: Sequence[Array]) -> tuple[System, Any]:
    """The system and its factor; the moments of undetermined members are NaN."""
    system = static.system(*lhs)
    return system, select(static.engine, system).factor_of_moments(system)


def _in_full(operator: str, operands: Sequence[Array]) -> list[Array]:
    """The operands with all batch axes in full."""
    batch = batch_shape([x.shape for x in operands], CORE_AXES[operator])
    n, xp = len(batch), compat.array_namespace(operands[0])
    return [x if x.shape[:n] == batch else xp.broadcast_to(x, (*batch, *x.shape[n:])) for x in operands]


OPERATORS: dict[str, Callable[[Options, Sequence[Array]], list[Array]]] = {
    "solution": solution,
    "adjoint": adjoint,
    "states": states,
    "states_f": partial(states, g=False),
    "states_g": partial(states, f=False),
    "blocks": blocks,
    "blocks_pullback": blocks_pullback,
    "statistics": statistics,
}
