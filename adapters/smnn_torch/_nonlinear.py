"""`solve_nonlinear_ode` for a residual on tensors. Its derivatives are derived in `smnn_core.nonlinear._implicit`.

The core iterates, without a graph; one more step, a `solve_ode`, has the derivatives. Its backward pass is one adjoint
solve.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import array_api_compat.torch as xp
import torch
from torch import Tensor

from smnn_core import ArgumentError, Residuals, Scheme, Weights
from smnn_core import residuals as residuals_of
from smnn_core import solve_nonlinear_ode as core_solve
from smnn_core.extend import (
    MARCHING,
    UNIT,
    Linearization,
    attached_step,
    check_weights,
    checked_stop,
    constant_guess,
    nonlinear_problem,
    product,
    relative_change,
    rounding_level,
    solves,
    stand_in,
    times,
)

from ._bridge import tensor
from ._once import once
from ._residual import Residual, check_tensor, for_core, is_traced
from ._solve import solve_ode

__all__ = ["NonlinearSolution", "solve_nonlinear_ode"]


@dataclass(frozen=True, eq=False)
class NonlinearSolution:
    """What `solve_nonlinear_ode` found."""

    y: Tensor
    """(..., T, V, R+1), differentiable where it has converged."""
    t: Tensor
    """(..., T): the times."""
    converged: Tensor
    """bool, (...,): batch members whose y solves the problem."""
    iterations: Tensor
    """(...,): linear problems solved, of windows or of the whole."""
    method: str
    """"march" or "newton"."""
    message: str
    """What happened, in a sentence."""
    _rows: tuple[Any, ...] = field(repr=False)

    @property
    def residuals(self) -> Residuals:
        """How far y is from satisfying each row, without weights, by kind: equation (..., T, Q) is f(t, y)."""
        residual, u, s, scheme = self._rows
        lin = residual.linearize(self.t, self.y)
        return residuals_of(self.y, lin.J, lin.rhs(xp, self.y), u, s, n_steps=self.y.shape[-3], scheme=scheme)


def solve_nonlinear_ode(
    residual: Callable[[Tensor, Tensor], Tensor],
    initial_values: Tensor,
    step_sizes: Tensor | float,
    *,
    order: int,
    n_steps: int | None = None,
    t0: Tensor | float = 0.0,
    guess: Tensor | None = None,
    method: str = "auto",
    weights: Weights = UNIT,
    scheme: Scheme = MARCHING,
    max_iterations: int = 50,
    tolerance: float | None = None,
    engine: str = "auto",
    progress: bool = False,
) -> NonlinearSolution:
    """`smnn_core.solve_nonlinear_ode` for a residual on tensors: solves f(t, y) = 0.

    y is differentiable in everything that the residual holds (networks, parameters, other tensors), in initial_values,
    step_sizes, t0 and weights, by one adjoint solve, whatever the number of iterations: the derivatives of the implicit
    function theorem, exact where the residuals vanish. y that has not converged carries no derivatives.

    Args:
        residual: residual(t, y) -> (..., T, Q) for t (..., T) and y (..., T, V, R+1): the Q equations at all time
            points, each from y at that time alone. It is called with parts of the time grid, too.
        initial_values: (..., T_init, V, R_init); NaN says that a value is not given.
        step_sizes: (..., T-1 or 1), in units of time, or a number.
        max_iterations: of Newton's method on the whole.

    The other arguments, and what is raised, are as for `smnn_core.solve_nonlinear_ode`.

    In functions that PyTorch traces (`torch.compile`, `torch.func`) no values can be looked at: there Newton's method
    takes max_iterations steps on the whole time grid, whatever they give; see `converged`. Initial-value problems that
    need marching want a guess there.

    Returns:
        NonlinearSolution.

    Example: y' = -k y^2, y(0) = 1, solved by 1 / (1 + k t).

        k = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
        start = torch.ones(1, 1, 1, dtype=torch.float64)
        solution = solve_nonlinear_ode(lambda t, y: y[..., 1] + k * y[..., 0] ** 2, start, 0.01, n_steps=101, order=3)
        solution.y[-1, 0, 0].backward()  # k.grad is -1 / 4
    """
    equations = Residual(residual)
    for name, x in {"initial_values": initial_values, "step_sizes": step_sizes, "guess": guess}.items():
        check_tensor(name, x, optional=name == "guess", number=name == "step_sizes")
    check_weights(weights)
    step_sizes = as_steps(step_sizes, initial_values)
    weights = masks_as_numbers(weights, initial_values)
    options: dict[str, Any] = {"order": order, "n_steps": n_steps, "scheme": scheme, "engine": engine, "method": method}
    if is_traced(initial_values, step_sizes):
        return _traced(equations, initial_values, step_sizes, t0, guess, weights, max_iterations, tolerance, options)
    arguments = (initial_values, step_sizes)
    with torch.no_grad():
        found = core_solve(
            equations.as_linearize(),
            *map(for_core, arguments),
            t0=for_core(t0),
            guess=for_core(guess),
            weights=Weights(*map(for_core, vars(weights).values())),
            max_iterations=max_iterations,
            tolerance=tolerance,
            progress=progress,
            **options,
        )
    y, converged = tensor(found.y), tensor(found.converged)
    s = step_sizes.expand(*step_sizes.shape[:-1], y.shape[-3] - 1)
    t = times(xp, t0, s)
    if torch.is_grad_enabled() and bool(converged.any()):
        y = _with_derivatives(equations, t, y, converged, initial_values, s, weights, scheme, engine)
    rows = equations, initial_values, s, scheme
    return NonlinearSolution(y, t, converged, tensor(found.iterations), found.method, found.message, rows)


def _with_derivatives(
    equations: Residual,
    t: Tensor,
    y: Tensor,
    converged: Tensor,
    u: Tensor,
    s: Tensor,
    weights: Weights,
    scheme: Scheme,
    engine: str,
) -> Tensor:
    """y, with its derivatives in the members that have converged."""
    partly = not bool(converged.all())
    at = stand_in(xp, converged, y, 3) if partly else y
    lin = equations.linearize(t, at, graph=True)
    if partly:
        lin = lin._replace(J=stand_in(xp, converged, lin.J, 4))
    new = once("solve_nonlinear_ode", _step(lin, at, u, s, weights, scheme, engine))
    return attached_step(xp, Tensor.detach, y, new, converged)


def _step(lin: Linearization, y: Tensor, u: Tensor, s: Tensor, weights: Weights, scheme: Scheme, engine: str) -> Tensor:
    """The next iterate of Newton's method."""
    rhs = product(xp, lin.J, y) - lin.f
    return solve_ode(lin.J, rhs, u, s, n_steps=y.shape[-3], weights=weights, scheme=scheme, engine=engine)


def _traced(
    equations: Any,
    u: Tensor,
    step_sizes: Tensor,
    t0: Any,
    guess: Tensor | None,
    weights: Weights,
    max_iterations: int,
    tolerance: float | None,
    options: dict[str, Any],
) -> NonlinearSolution:
    """A fixed number of steps of Newton's method, of which the last one has derivatives."""
    scheme, engine = options["scheme"], options["engine"]
    if options["method"] == "march":
        raise ArgumentError("method='march' looks at values and cannot be traced: use 'newton' there, with a guess.")
    fixed_u, fixed_s, fixed_t0, guess = map(_constant, (u, step_sizes, t0, guess))
    fixed_weights = Weights(*map(_constant, vars(weights).values()))
    problem, batch = nonlinear_problem(
        equations.linearize,
        fixed_u,
        fixed_s,
        t0=fixed_t0,
        guess=guess,
        weights=fixed_weights,
        **options,
    )
    max_iterations, tolerance = checked_stop(xp, max_iterations, tolerance, u.dtype)
    s = step_sizes.expand(problem.step_sizes.shape)
    t = times(xp, t0, s)
    y = constant_guess(problem) if guess is None else guess
    y = y.expand(*batch, problem.n_steps, problem.V, problem.K)
    for _ in range(max_iterations - 1):
        lin = equations.linearize(problem.t, y)
        y = _step(lin, y, fixed_u, fixed_s, fixed_weights, scheme, engine).detach()
    new = once("solve_nonlinear_ode", _step(equations.linearize(t, y, graph=True), y, u, s, weights, scheme, engine))
    # the error after a step of Newton's method is about the square of its relative change
    end = new.detach()
    small = relative_change(xp, rounding_level(problem, tolerance), y, end) <= tolerance**0.5
    converged = small & solves(problem, end, equations.linearize(problem.t, end))
    iterations = torch.full(converged.shape, max_iterations, device=y.device)
    message = f"{max_iterations} iterations, traced"
    return NonlinearSolution(new, t, converged, iterations, "newton", message, (equations, u, s, scheme))


def _constant(x: Any) -> Any:
    """An argument without its graph."""
    return x.detach() if isinstance(x, Tensor) else x


def as_steps(step_sizes: Tensor | float, like: Tensor) -> Tensor:
    """A step size that is a number as a tensor of one step."""
    if isinstance(step_sizes, (int, float)) and not isinstance(step_sizes, bool):
        return like.new_full((1,), float(step_sizes))
    return step_sizes


def masks_as_numbers(weights: Weights, like: Tensor) -> Weights:
    """Weights of bool as 0 and 1."""
    if not isinstance(weights, Weights):
        return weights
    values = vars(weights).values()
    return Weights(*(w.to(like.dtype) if isinstance(w, Tensor) and w.dtype is torch.bool else w for w in values))
