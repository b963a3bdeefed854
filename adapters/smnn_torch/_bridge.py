"""Between tensors and engines: NumPy views of CPU tensors for compiled engines, tensors themselves for array calls.

Everything here works on plain tensors (no functorch wrappers, no tracing) and knows nothing of derivatives.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import array_api_compat.torch as xp
import numpy as np
import torch
from smnn_core import Scheme
from smnn_core._arrays import broadcast_shapes
from smnn_core._problem import Gradients, Problem, Rows, System, Weights
from smnn_core._solve import adjoint as core_adjoint
from smnn_core._solve import raise_if_singular, solve_problem
from smnn_core.engines import array_api, select
from smnn_core.engines._contract import Factor
from torch import Tensor

__all__ = ["Kept", "Statement", "adjoint", "factorize", "least_squares", "normal_solve", "problem_of", "state_and_factorize", "system_of", "tensor"]

FLOATS = (torch.float32, torch.float64)


class Statement(NamedTuple):
    """What a caller says beside the tensors."""

    scheme: Scheme
    n_steps: int | None
    """T, where the caller gave it"""
    n_initial_steps: int
    n_initial_orders: int
    engine: str = "auto"
    check: bool = False
    recompute: bool = False


class Kept(NamedTuple):
    """What a solve leaves for its derivatives: problem and factor, in the arrays of the engine."""

    problem: Problem
    factor: Factor


def least_squares(
    how: Statement, kept: Kept | None, lhs: Sequence[Any], b: Tensor, u: Tensor, σ: Tensor | None
) -> tuple[Tensor, Kept]:
    """argmin_y |W (A y - d)|, d = (b, u, σ), with the factor that is kept, or else a new one."""
    if kept is None:
        problem = _state(how, *lhs, b, u)
        if σ is None:
            with _full_precision(problem.system):
                y, factor = solve_problem(problem, engine=how.engine, check=how.check)
            return tensor(y), Kept(problem, factor)
        kept = factorize(how, problem)
    system = kept.problem.system
    d = Rows(*(None if x is None else _like(system, x) for x in (b, u, σ)))
    with _full_precision(system):
        return tensor(kept.factor.solve(d)), kept


def normal_solve(kept: Kept, h: Tensor) -> Tensor:
    """M^-1 h."""
    system = kept.problem.system
    with _full_precision(system):
        return tensor(kept.factor.normal_solve(_like(system, h)))


def adjoint(kept: Kept, y: Tensor, g: Tensor) -> Gradients:
    """The gradients with respect to all inputs of the solve that left `kept`, from g = dL/dy, in one go."""
    system = kept.problem.system
    with _full_precision(system):
        return core_adjoint(kept.problem, kept.factor, _like(system, y), _like(system, g))


def state_and_factorize(
    how: Statement, lhs: Sequence[Any], b: Tensor | None = None, u: Tensor | None = None, n_steps: int | None = None
) -> Kept:
    """A new factor; where there is no right-hand side, for one of zeros."""
    c = lhs[0]
    if b is None or u is None:
        b = c.new_zeros((1, c.shape[-3]))
        u = c.new_zeros((how.n_initial_steps, c.shape[-2], how.n_initial_orders))
    if how.n_steps is None:
        how = how._replace(n_steps=n_steps)
    return factorize(how, _state(how, *lhs, b, u))


def factorize(how: Statement, problem: Problem) -> Kept:
    engine = select(how.engine, problem.system)
    with _full_precision(problem.system):
        factor = engine.factorize(problem.system)
        raise_if_singular(problem.system, factor, how.check)
    return Kept(problem, factor)


def _state(how: Statement, c: Tensor, s: Tensor, w_e: Any, w_i: Any, w_s: Any, b: Tensor, u: Tensor) -> Problem:
    """The problem, checked, in the arrays of the engine that will serve it.

    CPU tensors are shown to compiled engines as NumPy arrays on the same memory; where none of them serves, the array
    API engine takes the tensors themselves. CUDA tensors always go to the array API engine.
    """
    tensors = [c, b, u, s, *(w for w in (w_e, w_i, w_s) if isinstance(w, Tensor))]
    problem = None
    if all(x.is_cpu and x.dtype == c.dtype for x in tensors) and c.dtype in FLOATS:
        weights = Weights(*(_view(w) if isinstance(w, Tensor) else w for w in (w_e, w_i, w_s)))
        problem = Problem.build(
            _view(c), _view(b), _view(u), _view(s), n_steps=how.n_steps, scheme=how.scheme, weights=weights
        )
        if select(how.engine, problem.system) is not array_api:
            return problem
    weights = Weights(*(w.detach() if isinstance(w, Tensor) else w for w in (w_e, w_i, w_s)))
    c, b, u, s = (x.detach() for x in (c, b, u, s))
    return Problem.build(c, b, u, s, n_steps=how.n_steps, scheme=how.scheme, weights=weights)


def system_of(how: Statement, c: Tensor, s: Tensor, w_e: Any, w_i: Any, w_s: Any, n_steps: int) -> System:
    """The left-hand side in tensors of any kind, not checked: to write derivatives with."""
    weights = Weights(*(torch.as_tensor(w, dtype=c.dtype, device=c.device) for w in (w_e, w_i, w_s)))
    ranks = (c, 4), (s, 1), (weights.equation, 2), (weights.initial, 3), (weights.smoothness, 1)
    return System(
        xp=xp,
        coefficients=c,
        step_sizes=s,
        weights=weights,
        scheme=how.scheme,
        n_steps=n_steps,
        n_initial_steps=how.n_initial_steps,
        n_initial_orders=how.n_initial_orders,
        batch=broadcast_shapes({str(i): tuple(x.shape[: max(x.ndim - rank, 0)]) for i, (x, rank) in enumerate(ranks)}),
        device=c.device,
    )


def problem_of(how: Statement, lhs: Sequence[Any], b: Tensor, u: Tensor, σ: Tensor | None, y: Tensor) -> Problem:
    """The problem that y solves, as `system_of`."""
    return Problem(system_of(how, *lhs, n_steps=y.shape[-3]), b, u, tuple(y.shape[:-3]), σ)


def _view(x: Tensor) -> np.ndarray:
    """The same memory as a NumPy array."""
    return x.detach().resolve_neg().numpy()


def _like(system: System, x: Tensor) -> Any:
    """x as the kind of array that the system is made of."""
    return _view(x) if isinstance(system.coefficients, np.ndarray) else x.detach()


def tensor(x: Any) -> Tensor:
    """The same memory as a tensor."""
    return x if isinstance(x, Tensor) else torch.from_numpy(np.asarray(x))


def _full_precision(system: System) -> torch.autocast:
    """Array calls on tensors must not be autocast to half precision."""
    kind = "cpu" if isinstance(system.coefficients, np.ndarray) else system.coefficients.device.type
    return torch.autocast(kind, enabled=False)
