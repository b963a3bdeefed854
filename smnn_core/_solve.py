"""The public functions: each checks its arguments, picks an engine and leaves the work to it."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

from . import _constraints
from ._arrays import Array, broadcast_shapes, common_namespace, is_numpy, is_tracer, owned, size, without_derivatives
from ._augmented import residual
from ._diagnosis import likely_causes
from ._errors import AccuracyWarning, ArgumentError, ShapeError, SingularSystemError
from ._problem import ALL, UNIT, Gradients, Problem, System, Weights
from ._schemes import HERMITE, Scheme
from ._weighting import as_arrays, pull_back, weighted_problem, weighted_system
from .engines import select
from .engines._interface import Engine, Factor

__all__ = ["Factorization", "Residuals", "dense_system", "factorize", "residuals", "solve_ode", "solve_ode_vjp"]


def solve_ode(
    coefficients: Array,
    rhs: Array,
    initial_values: Array,
    step_sizes: Array,
    *,
    n_steps: int | None = None,
    scheme: Scheme = HERMITE,
    weights: Weights = UNIT,
    engine: str = "auto",
    check: bool = False,
) -> Array:
    """Solves a linear ODE system on T time points as a banded least-squares problem, in O(T).

    The unknowns y[t, v, r] are all derivatives r = 0..R of V variables at T time points. They minimise the sum of
    squares of, each row multiplied by its weight,

    - equation rows `sum_{v,r} coefficients[t,q,v,r] y[t,v,r] - rhs[t,q]`,
    - initial rows `y[t,v,r] - initial_values[t,v,r]` for t < T_init, r < R_init,
    - smoothness rows of the scheme, which tie y[t] to y[t+1] across `step_sizes[t]`.

    Args:
        coefficients: (..., T or 1, Q, V, R+1).
        rhs: (..., T or 1, Q).
        initial_values: (..., T_init, V, R_init), at the first T_init time points: T_init = 1 is what an initial-value
            problem has, T_init = 2 gives values at the first two times, T_init = 0 none. NaN means "not given": that
            row is left out. For values at any other times see `conditions`.
        step_sizes: (..., T-1 or 1), in units of time, or a number; non-zero, may be irregular or negative: the
            differences of the time points (`numpy.diff(t)`), not the time points.
        n_steps: T, needed where every time axis above is 1.
        scheme: the smoothness scheme, `HERMITE`, `WIENER`, `TAYLOR` (as published) or your own. Rows across a step s
            are weighted by (s_ref / |s|)^p, see `Scheme`.
        weights: numbers, or arrays that broadcast against the rows, of bool for masks; zero removes a row.
        engine: "auto", or the name of one of the engines that `show_config` lists.
        check: raise on singular systems also where looking means waiting for a device.

    Returns:
        y, (..., T, V, R+1), in the namespace, dtype and device of the inputs.

    Raises:
        ShapeError, DTypeError, NamespaceError, DeviceError, ArgumentError, SchemeError, EngineError: before any work.
        SingularSystemError: if a system has no unique solution; on a device, and traced by JAX, such a batch member
            comes back as NaN instead, unless `check` is set.
        ArgumentError: where PyTorch or JAX asks for derivatives; `smnn_torch.solve_ode` and `smnn_jax.solve_ode` have
            them, and `solve_ode_vjp` is for use without automatic differentiation.

    Source: Pervez et al., arXiv:2402.13077, and Chen et al., arXiv:2410.06074, for the least-squares problem; solved
    here by orthogonal elimination over time (Gargir, Toledo, IPDPS 2025) instead of the normal equations.
    """
    step_sizes, weights = as_arrays(step_sizes, weights, coefficients)
    arrays, weights = refuse_autodiff("solve_ode", (coefficients, rhs, initial_values, step_sizes), weights)
    problem = Problem.build(*arrays, n_steps=n_steps, scheme=scheme, weights=weights, values=False)
    return solve_problem(weighted_problem(problem), engine=engine, check=check)[0]


def solve_ode_vjp(
    coefficients: Array,
    rhs: Array,
    initial_values: Array,
    step_sizes: Array,
    *,
    n_steps: int | None = None,
    scheme: Scheme = HERMITE,
    weights: Weights = UNIT,
    engine: str = "auto",
    check: bool = False,
) -> tuple[Array, Callable[[Array], Gradients]]:
    """`solve_ode` and its pullback, for use without an automatic differentiation framework.

    Returns:
        y as from `solve_ode`, and vjp(g) for g = dL/dy of y's shape, which gives dL with respect to every input as
        `Gradients`, each in the shape of its input (summed over axes along which the input was broadcast). The factor
        of the solve is kept for the calls of vjp, where that is faster than eliminating again. vjp looks at the inputs
        and at y: neither may be changed in place before it is called (write `y - target`, not `y -= target`).

    Raises as `solve_ode` does; vjp raises ShapeError if g does not have the shape of y.
    """
    step_sizes, weights = as_arrays(step_sizes, weights, coefficients)
    arrays, weights = refuse_autodiff("solve_ode_vjp", (coefficients, rhs, initial_values, step_sizes), weights)
    stated = Problem.build(*arrays, n_steps=n_steps, scheme=scheme, weights=weights, values=False)
    problem = weighted_problem(stated)
    y, factor = solve_problem(problem, engine=engine, check=check)

    def vjp(g: Array) -> Gradients:
        common_namespace({"y": y, "g": g})
        if tuple(g.shape) != tuple(y.shape):
            raise ShapeError(f"g must have the shape of y, {tuple(y.shape)}; got {tuple(g.shape)}.")
        return pull_back(stated, problem, factor.adjoint(problem, y, g))

    return y, vjp


def factorize(
    coefficients: Array,
    step_sizes: Array,
    *,
    n_initial_steps: int,
    n_initial_orders: int,
    n_steps: int | None = None,
    scheme: Scheme = HERMITE,
    weights: Weights = UNIT,
    engine: str = "auto",
    check: bool = False,
) -> Factorization:
    """A left-hand side for any number of right-hand sides, which are not known yet: checked and eliminated.

    The arrays are copied: what happens to them afterwards does not matter. The factor that is kept is the triangular
    one, which `Factorization.normal_solve` needs; `Factorization.solve` takes the reflections as well. The array API
    engine keeps them, too; the compiled ones eliminate again at every call of it. Give many right-hand sides in one
    call: a left-hand side that all share is eliminated once for all of them.

    Args:
        n_initial_steps: T_init of the initial values to come.
        n_initial_orders: R_init of the initial values to come.

    The other arguments, and what is raised, are as for `solve_ode`.
    """
    step_sizes, weights = as_arrays(step_sizes, weights, coefficients)
    arrays, weights = refuse_autodiff("factorize", (coefficients, step_sizes), weights)
    system = System.build(
        *arrays,
        n_initial_steps=n_initial_steps,
        n_initial_orders=n_initial_orders,
        n_steps=n_steps,
        scheme=scheme,
        weights=weights,
        values=False,
    )
    system = owned_system(weighted_system(system))
    return Factorization(system, eliminate(select(engine, system), system, check=check))


@dataclass(frozen=True, eq=False)
class Factorization:
    """A left-hand side after elimination; made by `factorize`. Solving is as accurate as `solve_ode`."""

    system: System
    factor: Factor

    def solve(self, rhs: Array, initial_values: Array) -> Array:
        """The solution y, (..., T, V, R+1), for rhs (..., T or 1, Q) and initial_values (..., T_init, V, R_init).

        Batch axes broadcast with those of the left-hand side.

        Raises:
            ShapeError, DTypeError, NamespaceError, DeviceError: if they do not fit the left-hand side.
        """
        return self.factor.solve(Problem.of(self.system, rhs, initial_values).rows)

    def normal_solve(self, g: Array) -> Array:
        """M^-1 g with M = A^T W^2 A, for g of shape (..., T, V, R+1).

        Raises:
            ShapeError, DTypeError, NamespaceError, DeviceError: if g does not fit the left-hand side.
        """
        check_states(self.system, "g", g)
        return self.factor.normal_solve(g)


def refuse_autodiff(function: str, arrays: tuple[Array, ...], weights: Weights) -> tuple[tuple[Array, ...], Weights]:
    """The arguments of a function whose derivatives are those of the adapters."""
    if is_numpy(arrays[0]):
        return arrays, weights
    arrays = without_derivatives(function, arrays)
    if isinstance(weights, Weights):
        weights = Weights(*without_derivatives(function, tuple(vars(weights).values())))
    return arrays, weights


def owned_system(system: System) -> System:
    """A system whose arrays nobody else writes to."""
    weights = Weights(*map(owned, vars(system.weights).values()))
    coefficients, step_sizes = owned(system.coefficients), owned(system.step_sizes)
    return replace(system, coefficients=coefficients, step_sizes=step_sizes, weights=weights)


def check_states(system: System, name: str, x: Array) -> None:
    """Raises unless x, of shape (..., T, V, R+1), fits the system."""
    common_namespace({"coefficients": system.coefficients, name: x})
    core = (system.n_steps, system.V, system.K)
    if tuple(x.shape[-3:]) != core:
        raise ShapeError(f"{name} must have shape (..., {', '.join(map(str, core))}); got {tuple(x.shape)}.")
    broadcast_shapes({"left-hand side": system.batch, name: tuple(x.shape[:-3])})


class Residuals(NamedTuple):
    """The residuals of the rows, A y - d, without weights."""

    equation: Array
    """(..., T, Q)"""
    initial: Array
    """(..., T_init, V, R_init)"""
    smoothness: Array
    """(..., T-1, V, m): in units of y, m rows of the scheme"""


def residuals(
    y: Array,
    coefficients: Array,
    rhs: Array,
    initial_values: Array,
    step_sizes: Array,
    *,
    n_steps: int | None = None,
    scheme: Scheme = HERMITE,
) -> Residuals:
    """How far any y, (..., T, V, R+1), is from satisfying each row; arguments and errors as for `solve_ode`.

    The residual of an initial value that is NaN, not given, is NaN.
    """
    common_namespace({"coefficients": coefficients, "y": y})
    step_sizes, _ = as_arrays(step_sizes, UNIT, coefficients)
    problem = Problem.build(coefficients, rhs, initial_values, step_sizes, n_steps=n_steps, scheme=scheme)
    system = problem.system
    core = (system.n_steps, system.V, system.K)
    if tuple(y.shape[-3:]) != core:
        raise ShapeError(f"y must have shape (..., {', '.join(map(str, core))}); got {tuple(y.shape)}.")
    broadcast_shapes({"y": tuple(y.shape[:-3]), "the other arguments": problem.batch})
    r = residual(problem, y)
    return Residuals(-r.equation, -r.initial, -r.smoothness)


def dense_system(
    coefficients: Array,
    rhs: Array,
    initial_values: Array,
    step_sizes: Array,
    *,
    n_steps: int | None = None,
    scheme: Scheme = HERMITE,
    weights: Weights = UNIT,
) -> tuple[Array, Array]:
    """The least-squares problem as plain arrays, for teaching and tests; arguments and errors as for `solve_ode`.

    Returns:
        A, (..., rows, T*V*(R+1)), and d, (..., rows), both multiplied by the weights, so that y is the minimiser of
        |A vec(y) - d|. Rows: equation (time, equation), initial (time, variable, order), smoothness (time, variable,
        row of the scheme). Memory grows with T^2.
    """
    step_sizes, weights = as_arrays(step_sizes, weights, coefficients)
    problem = weighted_problem(
        Problem.build(coefficients, rhs, initial_values, step_sizes, n_steps=n_steps, scheme=scheme, weights=weights)
    )
    system, xp = problem.system, problem.system.xp
    T, V, K, N = system.n_steps, system.V, system.K, system.n_steps * system.n
    unit = xp.reshape(xp.eye(N, dtype=system.dtype, device=system.device), (N, *(1,) * len(problem.batch), T, V, K))
    columns = _constraints.weighted(system.weights, _constraints.apply(system, unit))
    d = _constraints.weighted(system.weights, problem.rows)
    cores = [(T, system.Q), (system.n_initial_steps, V, system.n_initial_orders), tuple(columns.smoothness.shape[-3:])]

    def flat(x: Array, lead: tuple[int, ...], core: tuple[int, ...]) -> Array:
        return xp.reshape(xp.broadcast_to(x, (*lead, *core)), (*lead, size(core)))

    A = xp.concat([flat(x, (N, *problem.batch), core) for x, core in zip(columns, cores, strict=True)], axis=-1)
    zero = system.constant(0.0)
    values = [zero if x is None else x for x in d]
    d = xp.concat([flat(x, problem.batch, core) for x, core in zip(values, cores, strict=True)], axis=-1)
    return xp.permute_dims(A, (*range(1, A.ndim), 0)), d


def solve_problem(
    problem: Problem, *, engine: str = "auto", check: bool = False, recompute: bool = False
) -> tuple[Array, Factor]:
    """The solution of a checked problem and the factor that its adjoint needs; `recompute` as for engines."""
    return solve_with(select(engine, problem.system), problem, check=check, recompute=recompute)


def solve_with(engine: Engine, problem: Problem, *, check: bool, recompute: bool) -> tuple[Array, Factor]:
    """`solve_problem` with an engine that was selected; looks at the values that were not checked."""
    if not engine.checks_values:
        problem.system.check_values()
    y, factor = solve_unjudged(engine, problem, recompute=recompute)
    raise_if_singular(problem.system, factor.undetermined, check)
    return y, factor


def solve_unjudged(engine: Engine, problem: Problem, *, recompute: bool = False) -> tuple[Array, Factor]:
    """The same, and members whose system is singular are NaN; by the array API engine where squares of rows overflow in
    that given."""
    y, factor = engine.solve_problem(problem, recompute=recompute)
    if factor.overflows(y, problem.rows):
        return select("array_api", problem.system).solve_problem(problem)
    return y, factor


def solve_without_raising(
    problem: Problem, *, engine: str = "auto", determined: bool = False
) -> tuple[Array, Factor | None]:
    """`solve_problem` for iterations: members whose system is singular come back as NaN on every device, and nothing is
    said of the accuracy of an iterate, since iterations look at what they end with.

    Args:
        determined: the rows are known to determine all unknowns: an engine may leave out to judge the pivots, which
            takes many times longer than the solution where weights differ by many orders of magnitude. There is no
            factor then.
    """
    chosen = select(engine, problem.system)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AccuracyWarning)
        return (chosen.solve_determined(problem), None) if determined else chosen.solve_problem(problem)


def eliminate(engine: Engine, system: System, *, check: bool) -> Factor:
    """The factor; looks at the values that were not checked."""
    if not engine.checks_values:
        system.check_values()
    factor = engine.factorize(system)
    raise_if_singular(system, factor.undetermined, check)
    return factor


def adjoint_without_factor(
    problem: Problem,
    y: Array,
    g: Array,
    wanted: Gradients = ALL,
    *,
    engine: str = "auto",
    eliminated: System | None = None,
    recompute: bool = False,
) -> Gradients:
    """The gradients of L with respect to all inputs, or those wanted, from g = dL/dy, as `Engine.adjoint`."""
    chosen = select(engine, problem.system if eliminated is None else eliminated)
    return chosen.adjoint(problem, y, g, wanted, eliminated=eliminated, recompute=recompute)


def raise_if_singular(system: System, flags: Array | None, check: bool) -> None:
    """Raises for undetermined time points, where looking costs nothing or was asked for."""
    if flags is None:
        return
    if check and is_tracer(flags):
        raise ArgumentError(
            "check=True needs values, and these are traced (jit, compile): leave check out and test the result for "
            "NaN, which is how singular systems come back."
        )
    if not (check or system.can_look):
        return
    xp = system.xp
    if bool(xp.any(flags)):
        flags = flags & system.is_finite[..., None]  # the pivots of an infinite system say nothing
    if bool(xp.any(flags)):
        *batch, time = (int(axis[0]) for axis in xp.nonzero(flags))
        raise SingularSystemError(tuple(batch), time, likely_causes(system, tuple(batch)))
