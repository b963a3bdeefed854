"""From what callers give to a solution on a mesh of its own: arguments checked, orders found, the method chosen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from .._arrays import Array, Namespace, concat, is_tracer
from .._errors import ArgumentError, ShapeError
from .._progress import ProgressBar
from .._validate import check_integer
from ._arithmetic import namespace_of
from ._boundary import Found, solve_boundary
from ._collocation import Space, gauss, radau, space_of
from ._discrete import Discrete, Iterate, Mesh
from ._equations import Conditions, Equations, as_floats, refuse_coupling
from ._initial import solve_initial
from ._linear import Linear, Step, Structure
from ._newton import sizes
from ._sparse import SparseJacobian
from ._sweep import Sweep

__all__ = ["FoundSolution", "refined", "search"]

PROBED = 4
"""The highest derivative that is looked for where no order is given."""
MOST_ORDERS = 64
"""Orders of a variable, or points of an interval: polynomials of higher degree have no digits left."""
LEAST_TOLERANCE = 1e-13
NEAR = 1e-3
"""Relative errors of solutions that are looked at for contradictions."""
CONTRADICTION = 1e-3
"""The part of its terms, or ten tolerances, that equations may leave where they are more than variables."""


@dataclass(frozen=True)
class FoundSolution:
    """A solution that was found, and the problem it belongs to."""

    problem: Discrete
    times: np.ndarray
    found: Found
    is_initial: bool
    """whether all conditions stand at the first time, so that it was marched"""

    @cached_property
    def sound(self) -> tuple[Mesh, Step]:
        """Meshes and unknowns; in place of members that failed one that has not, so that they contaminate no derivative
        of what is shared."""
        mesh, u, ok = self.found.mesh, self.found.u, self.found.followed
        if ok.all() or not ok.any():
            return mesh, u
        chosen = np.where(ok, np.arange(len(ok)), int(np.argmax(ok)))
        return Mesh(mesh.t[chosen], mesh.index[chosen]), Step(u.x[chosen], u.z[chosen], u.p[chosen])

    @cached_property
    def sweep(self) -> Sweep | None:
        """The linear problem there, of initial values in many variables of order one."""
        space, (mesh, u) = self.found.space, self.sound
        if not (self.is_initial and Sweep.serves(self.problem, space)):
            return None
        return Sweep(self.problem, space, mesh, u)

    @cached_property
    def linear(self) -> Linear:
        """The linear problem there."""
        space, (mesh, u) = self.found.space, self.sound
        return self.problem.linear(space, mesh, self.problem.at(space, mesh, u), sizes(space, u))


def search(
    equations: Equations,
    times: Any,
    conditions: Any,
    *,
    tolerance: float | None,
    absolute: float,
    order: int | Sequence[int] | None,
    constants: Any,
    guess: Any,
    mesh: Any,
    points: int | None,
    most_intervals: int,
    engine: str,
    progress: bool,
) -> FoundSolution:
    """Solves on NumPy arrays; arguments as for `solve`, the guess a function, an array or something with `at`."""
    times = checked_times(times)
    tolerance, absolute = checked_tolerance(tolerance, absolute, equations.eps)
    check_integer("max_intervals", most_intervals, least=1)
    c = np.zeros((0,)) if constants is None else as_floats("constants", constants)
    if c.ndim < 1 or (constants is not None and c.shape[-1] == 0) or not np.isfinite(c).all():
        raise ArgumentError(f"constants must be finite numbers of shape (..., p), p >= 1; got shape {c.shape}.")
    given = Conditions.of(conditions, times, constants is not None)
    V = number_of_variables(given, order, guess, times)
    orders = _orders(equations, order, V, times, c)
    R = max(orders)
    if R == 0:
        raise ArgumentError(
            "the residual has no derivative of y: there is no differential equation to solve. Use scipy.optimize.root."
        )
    given = _fitted(given, V, R, orders)
    start, guess_batch = first_guess(guess, times, V, R)
    batch = _batch(equations, given, guess_batch, times, c, V, R, mesh)
    B = int(np.prod(batch))
    c = np.broadcast_to(c, (*batch, c.shape[-1])).reshape(B, -1)
    if given.values is not None:
        given = Conditions(np.broadcast_to(given.values, (*batch, *given.values.shape[-3:])).reshape(B, -1, V, R), None)
    problem = Discrete(equations, given, Structure(np.zeros((0, len(times)), bool)), batch, orders, engine)
    is_initial, structure = _structure(problem, orders, times, c)
    problem = Discrete(equations, given, structure, batch, orders, engine)
    k = (
        number_of_points(tolerance, is_initial, V)
        if points is None
        else check_integer("points", points, least=1, most=MOST_ORDERS)
    )
    with ProgressBar(progress, unit=" solves") as bar:

        def report(*, intervals: int, **state: Any) -> None:
            bar.step(intervals=intervals, **{name: f"{value:.3g}" for name, value in state.items()})

        if is_initial and mesh is None and guess is None:
            space = space_of(radau(max(k, 2)), orders)
            found = solve_initial(
                problem,
                space,
                times,
                tolerance=tolerance,
                absolute=absolute,
                most_intervals=most_intervals,
                report=report,
            )
            return FoundSolution(problem, times, without_contradictions(problem, found, tolerance), True)
        space = space_of(radau(max(k, 2)) if is_initial else gauss(k), orders)
        first = first_mesh(mesh, guess, times, B, batch)

        def begin(mesh: Mesh) -> Step:
            return start(problem, space, mesh, c)

        found = solve_boundary(
            problem,
            space,
            first,
            begin,
            tolerance=tolerance,
            absolute=absolute,
            fixed=mesh is not None,
            most_intervals=max(most_intervals, first.N),
            report=report,
        )
    return FoundSolution(problem, times, without_contradictions(problem, found, tolerance), is_initial)


def without_contradictions(problem: Discrete, found: Found, tolerance: float) -> Found:
    """Members whose equations, more than variables, are met by compromise alone have not converged. Nor does the
    estimate of their error: a compromise is another one on each mesh."""
    space, mesh = found.space, found.mesh
    assert problem.equations.Q is not None
    if problem.equations.Q == space.V:
        return found
    with np.errstate(all="ignore"):
        relative = found.error.max(axis=1) / space.largest(found.u.x, found.u.z).max(axis=1)
    solved = found.converged | (relative < NEAR).all(axis=1)
    if not solved.any():
        return found
    left, allowed = left_of_equations(space, mesh, problem.at(space, mesh, found.u), tolerance)
    bad = solved & (left > allowed).any(axis=1)
    reasons = list(found.reasons)
    for b in np.flatnonzero(bad):
        q = int(np.argmax(left[b] - allowed[b]))
        reasons[b] = (
            f"the equations, more than variables, contradict each other: the best compromise leaves {left[b, q]:.1e} "
            f"of equation {q}, of which rounding and tolerance leave {allowed[b, q]:.1e} at most. Leave one of them "
            "out, or check its signs"
        )
    return replace(found, converged=found.converged & ~bad, reasons=reasons)


def left_of_equations(space: Space, mesh: Mesh, at: Iterate, tolerance: float) -> tuple[Array, Array]:
    """The largest residual of each equation, and how large it may be where it can be met: (B, Q). Traceable."""
    xp = namespace_of(at.f)
    assert at.J is not None
    features = space.features(xp, at.u.x[:, :-1], at.u.z, mesh.scale)
    y = space.values(xp, space.at_points, features, mesh.scale)[..., None, :, :]
    with np.errstate(all="ignore"):
        terms = xp.max(xp.sum(xp.abs(at.J * y), axis=(-2, -1)), axis=(1, 2))
        return xp.max(xp.abs(at.f), axis=(1, 2)), max(CONTRADICTION, 10 * tolerance) * terms


def refined(run: FoundSolution, N: int) -> FoundSolution:
    """The same solution on N intervals, of which some are parts of what they were."""
    return replace(run, found=run.found.divided(N))


def checked_times(times: Any) -> np.ndarray:
    t = as_floats("times", times)
    if t.ndim != 1 or len(t) < 2:
        raise ShapeError(f"times must have shape (n,), n >= 2: both ends, and what lies between; got {t.shape}.")
    if not np.isfinite(t).all():
        raise ArgumentError(f"times must be finite; got {t.tolist()}.")
    d = np.diff(t)
    if not ((d > 0).all() or (d < 0).all()):
        i = int(np.argmax(np.sign(d) != np.sign(t[-1] - t[0])))
        raise ArgumentError(
            f"times must ascend, or descend, strictly: {t[i]} is followed by {t[i + 1]}, and the ends are {t[0]} and "
            f"{t[-1]}."
        )
    return t


def checked_tolerance(tolerance: Any, absolute: Any, eps: float) -> tuple[float, float]:
    if tolerance is None:
        tolerance = 1e-6 if eps < 1e-10 else 1e-4
    for name, x in (("tolerance", tolerance), ("absolute", absolute)):
        if isinstance(x, bool) or not isinstance(x, (int, float, np.floating, np.integer)):
            raise TypeError(f"{name} must be a number, got {type(x).__name__}.")
    least = max(LEAST_TOLERANCE, 50 * eps)
    if not least <= tolerance < 1:
        raise ArgumentError(
            f"tolerance must lie between {least:.1g}, which is as much as the arithmetic of the residual gives, and "
            f"1; got "
            f"{tolerance!r}. It is relative to the largest value of each variable."
        )
    if not 0 <= absolute < np.inf:
        raise ArgumentError(f"absolute must be a finite number from 0 on, in units of y; got {absolute!r}.")
    return float(tolerance), float(absolute)


def number_of_variables(given: Conditions, order: Any, guess: Any, times: np.ndarray) -> int:
    if given.values is not None:
        return given.values.shape[-2]
    if isinstance(order, Sequence) and not isinstance(order, str):
        return len(order)
    if hasattr(guess, "variables"):
        return int(guess.variables)
    if callable(guess):
        values = np.asarray(guess(times.copy()))
        if values.ndim < 2:
            raise ShapeError(f"guess(t) must return (..., n, V) or (..., n, V, order); got {values.shape}.")
        return values.shape[-2] if values.ndim > 2 and values.shape[-3] == len(times) else values.shape[-1]
    if guess is not None:
        values = np.asarray(guess)
        if values.ndim >= 2 and values.shape[-2] == len(times):
            return values.shape[-1]
        if values.ndim >= 3 and values.shape[-3] == len(times):
            return values.shape[-2]
    raise ArgumentError(
        "the number of variables is not known where conditions are a function: give order= as a list with one number "
        "for "
        "each variable, or a guess."
    )


def _orders(equations: Equations, order: Any, V: int, times: np.ndarray, c: np.ndarray) -> tuple[int, ...]:
    """The order of each variable: as given, or the highest derivative that f depends on."""
    if order is not None:
        if isinstance(order, Sequence) and not isinstance(order, str):
            orders = tuple(check_integer("order", q, " for each variable", least=0, most=MOST_ORDERS) for q in order)
            if len(orders) != V:
                raise ShapeError(f"order has {len(orders)} numbers, and there are V = {V} variables.")
            return orders
        return (check_integer("order", order, " or one for each variable", least=1, most=MOST_ORDERS),) * V
    rng = np.random.default_rng(0)
    t = times[0] + (times[-1] - times[0]) * np.sort(rng.uniform(0.05, 0.95, 7))
    y = rng.uniform(0.3, 1.2, (*c.shape[:-1], 7, V, PROBED + 1))
    try:
        _, J, _ = equations.linearize(t, y, c[..., None, :])
    except Exception as error:
        error.add_note(
            f"order= was not given, and looking for it called the residual with y of shape {y.shape}, derivatives 0 to "
            f"{PROBED}: give order=, the highest derivative of each variable in the equations."
        )
        raise
    J = J if isinstance(J, SparseJacobian) else SparseJacobian.of(J)
    seen = (J.values != 0).any(axis=tuple(range(J.values.ndim - 1)))
    depends = np.zeros((V, PROBED + 1), bool)
    depends[J.variables[seen], J.derivatives[seen]] = True
    for v in np.flatnonzero(~depends.any(axis=1)):
        raise ArgumentError(f"the residual does not depend on variable {v}: nothing determines it.")
    orders = tuple(int(np.flatnonzero(row)[-1]) for row in depends)
    if max(orders) == PROBED:
        raise ArgumentError(
            f"the residual contains derivatives of order {PROBED} or more: give order=, one number for each variable."
        )
    return orders


def _fitted(given: Conditions, V: int, R: int, orders: tuple[int, ...]) -> Conditions:
    """Values of conditions for R derivatives; those that are no states are refused."""
    if given.values is None:
        return given
    values = given.values
    if values.shape[-1] < R:
        more = np.full((*values.shape[:-1], R - values.shape[-1]), np.nan)
        values = np.concatenate([values, more], axis=-1)
    stated = np.isfinite(values)
    for v in range(V):
        for o in range(values.shape[-1]):
            if o >= orders[v] and stated[..., v, o].any():
                raise ArgumentError(
                    f"conditions give derivative {o} of variable {v}, whose order in the equations is {orders[v]}: "
                    f"only "
                    f"derivatives below the order can be given. Orders: {orders}."
                )
    values = values[..., :R]
    stated = stated[..., :R]
    if 0 in stated.shape[:-3]:
        raise ShapeError(f"conditions have an empty batch, of shape {stated.shape[:-3]}: nothing is to be solved.")
    if not (stated == stated.reshape(-1, *stated.shape[-3:])[0]).all():
        raise ArgumentError(
            "conditions must give the same values (those that are not NaN) in all members of the batch."
        )
    if not stated.any():
        raise ArgumentError("conditions are NaN alone: nothing is given.")
    return Conditions(values, None)


def _structure(problem: Discrete, orders: tuple[int, ...], times: np.ndarray, c: np.ndarray) -> tuple[bool, Structure]:
    """Kind of the problem, True for initial values, and the times at which conditions look; their number is checked."""
    space = Space((0.5,), orders)
    n, B = len(times), len(c)
    mesh = Mesh(np.broadcast_to(times, (B, n)), np.broadcast_to(np.arange(n), (B, n)))
    if problem.conditions.values is not None:
        stated = np.argwhere(problem.conditions.stated)
        touches = stated[:, :1] == np.arange(n)
    else:
        touches = np.zeros((0, n), bool)
        rng = np.random.default_rng(0)
        for _ in range(3):
            x = rng.uniform(0.3, 1.2, (B, n, space.M))
            rows = problem.condition_rows(space, mesh, Step(x, np.zeros((B, n - 1, space.V, 1)), c))
            seen = (rows.G != 0).any(axis=(0, 3))
            touches = seen if not len(touches) else touches | seen
        for row in np.flatnonzero(~touches.any(axis=1)):
            touches[row, -1] = True  # of constants alone
    assert problem.equations.Q is not None
    refuse_wrong_number(len(touches), orders, problem.p, problem.equations.Q)
    at_start = problem.conditions.values is not None and bool(touches[:, 0].all())
    return at_start and len(touches) == space.M and not problem.p, Structure(touches)


def refuse_wrong_number(C: int, orders: tuple[int, ...], p: int, Q: int) -> None:
    """
    Raises:
        ArgumentError: unless there are as many equations as variables, and C conditions are as many as needed.
    """
    needed, V = sum(orders) + p, len(orders)
    if Q < V:
        raise ArgumentError(f"residual returns Q = {Q} equations for V = {V} variables: at least as many are needed.")
    if needed != C and (Q == V or needed < C):
        states = " + ".join(map(str, orders))
        constant = f", and {p} for the constants" if p else ""
        raise ArgumentError(
            f"{C} conditions are given, and {needed} are needed: {states} for the orders of the variables{constant}. "
            f"{'Give more (NaN means: not given).' if needed > C else 'Leave some out (as NaN).'}"
        )


def _batch(
    equations: Equations,
    given: Conditions,
    guess_batch: tuple[int, ...],
    times: np.ndarray,
    c: np.ndarray,
    V: int,
    R: int,
    mesh: Any,
) -> tuple[int, ...]:
    """The batch shape of everything, the residual's own included."""
    batch = broadcast_batch(given, guess_batch, c, mesh)
    rng = np.random.default_rng(1)
    t = np.broadcast_to(times[0] + (times[-1] - times[0]) * rng.uniform(0.05, 0.95, 5), (*batch, 5))
    y = rng.uniform(0.3, 1.2, (*batch, 5, V, R + 1))
    constants = np.broadcast_to(c, (*batch, c.shape[-1]))[..., None, :]
    f = equations.linearize(t, y, constants)[0]
    found = f.shape[:-2]
    if equations.Q is None:
        equations.Q = int(f.shape[-1])
    refuse_coupling("residual", lambda y: equations.value(t, y, constants), y, f)
    return tuple(np.broadcast_shapes(batch, found))


def broadcast_batch(given: Conditions, guess_batch: tuple[int, ...], c: Array, mesh: Any) -> tuple[int, ...]:
    """The batch shape of all arguments but the residual."""
    shapes = [guess_batch, tuple(c.shape[:-1])]
    if given.values is not None:
        shapes.append(tuple(given.values.shape[:-3]))
    if mesh is not None:
        shapes.append(np.shape(mesh)[:-1])
    try:
        batch = np.broadcast_shapes(*shapes)
    except ValueError:
        raise ShapeError(
            f"the batch axes of conditions, constants, guess and mesh do not broadcast: {shapes}."
        ) from None
    if 0 in batch:
        raise ShapeError(f"the batch axes {batch} hold no member: there is nothing to solve.")
    return batch


Start = Callable[[Discrete, Space, Mesh, np.ndarray], Step]


def first_guess(guess: Any, times: np.ndarray, V: int, R: int) -> tuple[Start, tuple[int, ...]]:
    """The start of the iteration, as a function of problem, space, mesh and constants, and its batch shape."""
    if hasattr(guess, "at_mesh"):
        return guess.at_mesh, guess.batch
    if callable(guess):
        probe = as_floats("the result of guess", guess(times.copy()))
        of_states = _is_of_states(probe, len(times), V, R, "guess(t)")

        def sample(t: np.ndarray) -> np.ndarray:
            flat = as_floats("the result of guess", guess(t.reshape(-1)))
            core = flat.shape[-2:] if of_states else flat.shape[-1:]
            lead = flat.shape[: flat.ndim - len(core) - 1]
            return flat.reshape(*lead, *t.shape, *core)

        return _from_function(sample, of_states, V, R), probe.shape[: probe.ndim - (3 if of_states else 2)]
    if guess is not None:
        values = guess if is_tracer(guess) else as_floats("guess", guess)
        of_states = _is_of_states(values, len(times), V, R, "guess")
        batch = tuple(values.shape[: values.ndim - (3 if of_states else 2)])
        return _from_nodes(times, values if of_states else values[..., None], V, R), batch
    return _straight(times, V, R), ()


def _is_of_states(values: np.ndarray, n: int, V: int, R: int, name: str) -> bool:
    if not is_tracer(values) and not np.isfinite(values).all():
        raise ArgumentError(f"{name} must be finite; it holds NaN or infinite values.")
    if values.ndim >= 3 and values.shape[-3:] == (n, V, R):
        return True
    if values.ndim >= 2 and values.shape[-2:] == (n, V):
        return False
    raise ShapeError(
        f"{name} must have shape (..., n, V) = (..., {n}, {V}) or (..., n, V, order) = (..., {n}, {V}, {R}); got "
        f"{values.shape}."
    )


def _from_function(sample: Callable[[np.ndarray], np.ndarray], of_states: bool, V: int, R: int) -> Start:
    def start(problem: Discrete, space: Space, mesh: Mesh, c: np.ndarray) -> Step:
        def states(t: np.ndarray) -> np.ndarray:  # (B, n) -> (B, n, V, R)
            if problem.batch:
                parts = [sample(row) for row in t]
                first = parts[0].ndim - (3 if of_states else 2)
                y = np.stack(
                    [
                        np.broadcast_to(part, (*problem.batch, *part.shape[first:])).reshape(
                            len(t), *part.shape[first:]
                        )[b]
                        for b, part in enumerate(parts)
                    ]
                )
            else:
                y = sample(t[0])[None]
            if of_states:
                return y
            h = 1e-6 * abs(mesh.t[0, -1] - mesh.t[0, 0])
            full = np.zeros((*y.shape, R))
            full[..., 0] = y
            if R > 1:
                sign = np.where(t + h > max(mesh.t[0, 0], mesh.t[0, -1]), -1.0, 1.0)
                moved = states_of_values(t + sign * h)
                full[..., 1] = (moved - y) / (sign * h)[..., None]
            return full

        def states_of_values(t: np.ndarray) -> np.ndarray:
            if problem.batch:
                return np.stack(
                    [
                        np.broadcast_to(sample(row), (*problem.batch, *sample(row).shape[-2:])).reshape(
                            len(t), *sample(row).shape[-2:]
                        )[b]
                        for b, row in enumerate(t)
                    ]
                )
            return sample(t[0])[None]

        return _of_states(np, space, mesh, states, c)

    return start


def _from_nodes(times: np.ndarray, values: Array, V: int, R: int) -> Start:
    """Linear between values (..., n, V, 1 or R) at the times."""

    def start(problem: Discrete, space: Space, mesh: Mesh, c: Array) -> Step:
        xp, core = problem.arithmetic.xp, tuple(values.shape[-3:])
        nodes = xp.reshape(xp.broadcast_to(values, (*problem.batch, *core)), (len(mesh.t), *core))

        def states(t: np.ndarray) -> Array:
            y, slope = _linear_between(times, nodes, t)
            if core[-1] > 1 or R == 1:
                return _widened(xp, y, R)
            return _widened(xp, concat(xp, [y, slope], axis=-1), R)

        return _of_states(xp, space, mesh, states, c)

    return start


def _straight(times: np.ndarray, V: int, R: int) -> Start:
    """Straight lines through the values that conditions give, constants through one, zero where there is none."""

    def start(problem: Discrete, space: Space, mesh: Mesh, c: Array) -> Step:
        xp, values = problem.arithmetic.xp, problem.conditions.values

        def states(t: np.ndarray) -> Array:
            if values is None:
                return xp.zeros((*t.shape, V, R))
            variables = []
            for v in range(V):
                at = np.flatnonzero(problem.conditions.stated[:, v, 0])
                if len(at) > 1:
                    parts = _linear_between(times[at], values[:, at, v, 0][..., None], t)
                    y = concat(xp, [*parts], axis=-1) if R > 1 else parts[0]
                else:
                    y = values[:, at, v, 0][:, None] + xp.zeros((*t.shape, 1)) if len(at) else xp.zeros((*t.shape, 1))
                variables.append(_widened(xp, y, R))
            return xp.stack(variables, axis=-2)

        return _of_states(xp, space, mesh, states, c)

    return start


def _linear_between(times: np.ndarray, nodes: Array, t: np.ndarray) -> tuple[Array, Array]:
    """Values and slopes at t (B, n) of what is linear between nodes (B, number of times, ...), constant beyond."""
    sign, b = np.sign(times[-1] - times[0]), np.arange(len(t))[:, None]
    i = np.clip(np.searchsorted(sign * times, sign * t, side="right") - 1, 0, len(times) - 2)
    step = times[i + 1] - times[i]
    core = (1,) * (nodes.ndim - 2)
    θ, step = (x.reshape(*t.shape, *core) for x in (np.clip((t - times[i]) / step, 0, 1), step))
    return nodes[b, i] * (1 - θ) + nodes[b, i + 1] * θ, (nodes[b, i + 1] - nodes[b, i]) / step


def _widened(xp: Namespace, y: Array, R: int) -> Array:
    """The first R entries of the last axis, zeros for those that are missing."""
    missing = R - y.shape[-1]
    return concat(xp, [y, xp.zeros((*y.shape[:-1], missing))], axis=-1) if missing > 0 else y[..., :R]


def _of_states(xp: Namespace, space: Space, mesh: Mesh, states: Callable[[np.ndarray], Array], c: Array) -> Step:
    """States and stages of a guess: the stages are slopes of the highest states, for algebraic variables values."""
    B, N = mesh.s.shape
    points = mesh.t[:, :-1, None] + mesh.s[..., None] * np.asarray(space.points)
    y = states(mesh.t)
    inside = states(points.reshape(B, -1)).reshape(B, N, space.k, space.V, -1)
    z = []
    for v, q in enumerate(space.orders):
        if q == 0:
            z.append(inside[..., v, 0])
        else:
            slope = (y[:, 1:, v, q - 1] - y[:, :-1, v, q - 1]) / mesh.s
            z.append(xp.broadcast_to(slope[..., None], (B, N, space.k)))
    return Step(space.gather_states(xp, y), xp.stack(z, axis=2), c + 0)


def first_mesh(mesh: Any, guess: Any, times: np.ndarray, B: int, batch: tuple[int, ...]) -> Mesh:
    if mesh is not None:
        t = as_floats("mesh", mesh)
        if t.ndim < 1 or t.shape[-1] < 2 or not np.isfinite(t).all():
            raise ShapeError(f"mesh must have finite times of shape (..., N+1), N >= 1; got shape {t.shape}.")
        t = np.broadcast_to(t, (*batch, t.shape[-1])).reshape(B, -1)
        sign = np.sign(times[-1] - times[0])
        if not (sign * np.diff(t) > 0).all():
            raise ArgumentError("mesh must ascend, or descend, strictly, as times do.")
        near = np.abs(t[:, :, None] - times)
        index = near.argmin(axis=1)
        if (
            (near.min(axis=1) > 1e-12 * abs(times[-1] - times[0])).any()
            or (index[:, 0] != 0).any()
            or (index[:, -1] != t.shape[1] - 1).any()
        ):
            raise ArgumentError(
                f"mesh must begin and end with times[0] = {times[0]} and times[-1] = {times[-1]} and contain every "
                f"one of "
                "times."
            )
        return Mesh(t, index)
    if hasattr(guess, "first_mesh"):
        return guess.first_mesh(times, B)
    n = len(times) - 1
    counts = np.maximum(1, np.round(8 * np.abs(np.diff(times)) / abs(times[-1] - times[0]))).astype(int)
    t = np.concatenate([np.linspace(times[i], times[i + 1], counts[i] + 1)[:-1] for i in range(n)] + [times[-1:]])
    index = np.concatenate([[0], np.cumsum(counts)])
    return Mesh(np.tile(t, (B, 1)), np.tile(index, (B, 1)))


def number_of_points(tolerance: float, is_initial: bool, V: int) -> int:
    """More points for smaller tolerances: fewer, longer intervals. A march, whose windows cost much beside their
    algebra and whose own errors are small whatever the tolerance, takes more."""
    if is_initial:
        return 6 if tolerance >= 1e-8 and V > 3 else 8
    limits = (1e-3, 1e-6, 1e-8, 1e-10)
    return 3 + sum(tolerance < limit for limit in limits)
