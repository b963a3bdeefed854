"""`solve` for a residual on JAX arrays. The search looks at values, cut off from derivatives; those of what it finds
are derived in `smnn_core.trajectory._implicit`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cache, cached_property, partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.lax import stop_gradient

from smnn_core import ArgumentError, SparseJacobian
from smnn_core import Solution as CoreSolution
from smnn_core.extend import (
    INCREMENTS,
    TREES,
    Arithmetic,
    ArrayEquations,
    Conditions,
    DifferentiableSolution,
    Groups,
    checked_times,
    differentiable,
    differentiable_on_mesh,
    is_tracer,
    refined,
    search,
    solution_of,
    solve_on_mesh,
    takes_constants,
    warn_unless_converged,
)

from ._programs import as_program
from ._solve import solve_ode

Array = Any

__all__ = ["Solution", "solve"]


for _class, _static in TREES.items():
    _names = [f.name for f in fields(_class) if f.name not in _static]
    jax.tree_util.register_dataclass(_class, data_fields=_names, meta_fields=list(_static))


def _linear_solution(coefficients: Array, b: Array, engine: str) -> Array:
    none = jnp.zeros((0, coefficients.shape[-2], 1), b.dtype)
    return solve_ode(coefficients, b, none, jnp.ones(1, b.dtype), n_steps=b.shape[-2], scheme=INCREMENTS, engine=engine)


TRACED = Arithmetic(
    xp=jnp,
    inverse=jnp.linalg.inv,
    put=lambda x, index, values: x.at[index].set(values),
    loop=jax.lax.while_loop,
    solve=_linear_solution,
)


@cache
def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function as one program for each shape, where op by op each operation would be compiled for each; arguments
    by name alone are no arrays."""
    static = [name for name, x in inspect.signature(function).parameters.items() if x.kind is x.KEYWORD_ONLY]
    return jax.jit(function, static_argnames=static)


def _linear_map(function: _VectorFunction, transposed: _VectorFunction, x: Array) -> Array:
    """function(x), linear, from vectors to others as long, on NumPy arrays in float64: the solution of a linear problem
    that nothing which is differentiated enters but its right-hand side."""

    def called(function: _VectorFunction) -> Callable[..., Array]:
        def on_numbers(x: Any) -> np.ndarray:
            return function(np.asarray(x, np.float64)).astype(x.dtype)

        return lambda _, x: jax.pure_callback(
            on_numbers, jax.ShapeDtypeStruct(x.shape, x.dtype), x, vmap_method="sequential"
        )

    return jax.lax.custom_linear_solve(lambda x: x, x, called(function), called(transposed))


_VectorFunction = Callable[[np.ndarray], np.ndarray]


@cache
def _solver(engine: str) -> Callable[..., Array]:
    """One function for each engine, so that programs that hold it are found again."""
    return partial(solve_ode, engine=engine)


class Solution(DifferentiableSolution):
    """A solution of `solve` in JAX arrays: call it with times (n,) or (..., n) to have y and its derivatives there,
    (..., n, V, R+1), differentiable in all that went in and in the times.

    It has `t` (..., N+1) and `y` (..., N+1, V, R+1) on the mesh, `constants` (..., p), `error` (..., N, V),
    `largest_error` (..., V), `converged`, `reason`, `iterations`, `orders` and `plot()`, as `smnn_core.Solution`, and
    as `values` that one: the same on NumPy arrays, without derivatives.
    """

    xp: ClassVar[Any] = jnp
    _compiled = staticmethod(_compiled)

    def _like(self, times: Any) -> Array:
        return jnp.asarray(times, dtype=self.t.dtype)


def solve(
    residual: Callable[..., Array],
    times: Any,
    conditions: Any,
    *,
    tolerance: float | None = None,
    absolute: float = 0.0,
    order: int | Sequence[int] | None = None,
    constants: Any = None,
    guess: Any = None,
    mesh: Any = None,
    points: int | None = None,
    max_intervals: int = 20_000,
    engine: str = "auto",
    progress: bool = False,
) -> Solution:
    """`smnn_core.solve` for a residual on JAX arrays, which returns f alone: solves f(t, y, y', ..) = 0 to a tolerance.

    The solution is differentiable, at the mesh that was found, in everything that the residual closes over (arrays,
    parameters of networks), in conditions and times: by `jax.grad`, `jax.jvp`, `jax.hessian`. A mesh is chosen by
    values, of which there are none under `jit` and `vmap`: there give `mesh`, and it and `times` by numbers. Newton's
    method is a loop of the program then. `s.converged` says whether it ended with an estimate of the error below the
    tolerance; nothing is warned of, members for which Newton's method failed are NaN and have no derivatives. All
    entries of conditions that are traced arrays count as given (in lists `nan` may stand beside traced numbers), and
    `order` is that of the conditions where it is not given. All of it is one program, which the first call compiles in
    some seconds; residuals of the same operations find it again, whatever arrays and numbers they close over.

    **Main arguments**

    Args:
        residual: residual(t, y) -> (..., n, Q), with `constants` residual(t, y, constants): t (..., n), y (..., n, V,
            R+1), constants (..., 1, p).
        times: (n,), ends and times between them at which a condition stands or something happens.
        conditions: values (..., V, order) at the first time, NaN where nothing is given; or {time: such values}; or a
            function of the states at all times, (..., n, V, order) -> (..., C), and of the constants, if it has two
            arguments.
        tolerance: of the largest error of each variable, relative to its largest value: 1e-6 where nothing is said,
            1e-4 in float32.
        constants: (..., p), a first guess of constants to be solved for.

    The other arguments, and what is raised and warned of, are as for `smnn_core.solve`; guess may be a solution of this
    function.

    Returns:
        Solution.

    Example: y' = -k y^2, y(0) = 1, solved by 1 / (1 + k t).

        >>> import jax, jax.numpy as jnp, smnn_jax
        >>> def end(k):
        ...     f = lambda t, y: y[..., 1] + k * y[..., 0] ** 2
        ...     return smnn_jax.solve(f, [0, 1], jnp.ones((1, 1)), tolerance=1e-4)([1.0])[0, 0, 0]
        >>> print(jax.grad(end)(1.0).round(3))
        -0.25
    """
    given = times, conditions, constants
    like = jnp.zeros((), jnp.result_type(float, *_arrays(given)))
    options = {"tolerance": tolerance, "absolute": absolute, "order": order, "points": points, "engine": engine}
    try:
        return _searched(
            residual, *given, like, guess=guess, mesh=mesh, most_intervals=max_intervals, progress=progress, **options
        )
    except _TracedError as error:
        if mesh is None:
            raise ArgumentError(str(error)) from None
    try:
        return _on_mesh(residual, *given, like, guess=guess, mesh=mesh, **options)
    except _TracedError as error:  # of times or of the mesh
        raise ArgumentError(str(error)) from None


@dataclass(frozen=True)
class _Members:
    """The members of a batch as JAX arrays of a dtype."""

    batch: tuple[int, ...]
    dtype: Any

    def of(self, x: np.ndarray) -> Array:
        return jnp.asarray(x, self.dtype if x.dtype.kind == "f" else None)

    def numbers(self, x: Array) -> np.ndarray | None:
        x = _constant(x)
        return None if is_tracer(x) else np.asarray(x, np.float64)


def _searched(
    residual: Callable[..., Array], times: Any, conditions: Any, constants: Any, like: Array, **options: Any
) -> Solution:
    """By values."""
    p = 0 if constants is None else np.shape(constants)[-1]
    equations = _Equations(residual, p, like.dtype)
    mesh = options["mesh"]
    run = search(
        equations,
        _values("times", times),
        equations.conditions(conditions),
        **options
        | {
            "constants": None if constants is None else _values("constants", constants),
            "guess": _guess_of_core(options["guess"], equations.dtype),
            "mesh": None if mesh is None else _values("mesh", mesh),
        },
    )
    if mesh is None:  # of the few numbers of intervals for which operations are compiled
        run = refined(run, max(16, 1 << (run.found.mesh.N - 1).bit_length()))
    values = solution_of(run, np.dtype(like.dtype))
    warn_unless_converged(values.converged, values.reason, stacklevel=4)
    stated = [list(x.values()) if isinstance(x, Mapping) else x for x in (times, conditions)]
    follow = equations.is_traced or callable(conditions) or any(map(is_tracer, jax.tree.leaves(stated)))

    def derived() -> Solution:
        return differentiable(
            Solution,
            run,
            values,
            residual,
            jnp.asarray(times, dtype=like.dtype),
            conditions,
            _Members(run.problem.batch, like.dtype),
            asarray=partial(jnp.asarray, dtype=like.dtype),
            constant=stop_gradient,
            solve_ode=_solver(options["engine"]),
            follow=follow,
            linear_map=_linear_map,
        )

    if not follow or not run.found.followed.any():
        return derived()
    _ = run.sweep or run.linear  # by values, which a traced function has none of
    return _solution_as_program(derived)


def _on_mesh(
    residual: Callable[..., Array], times: Any, conditions: Any, constants: Any, like: Array, **options: Any
) -> Solution:
    """By a loop of the program."""
    wide = jnp.result_type(float)  # the dtype of the algebra
    fixed = checked_times(_values("times", times))
    c = jnp.zeros(0, wide) if constants is None else jnp.asarray(constants, wide)
    p = c.shape[-1]
    equations = _TracedEquations(residual, p, like.dtype)
    guess = options["guess"]
    options["mesh"] = _values("mesh", options["mesh"])

    def shape_of_f(shape: tuple[int, ...]) -> tuple[int, ...]:
        given = [jax.ShapeDtypeStruct(x, like.dtype) for x in (shape[:-2], shape, (*shape[:-3], 1, p))]
        return tuple(jax.eval_shape(equations.whole, *given[: 3 if p else 2]).shape)

    def traced() -> Solution:
        run = solve_on_mesh(
            equations,
            fixed,
            _TracedConditions(None, conditions, p > 0 and takes_constants(conditions))
            if callable(conditions)
            else _stated(conditions, fixed),
            shape_of_f,
            TRACED,
            _solver(options["engine"]),
            **options
            | {
                "constants": stop_gradient(c),
                "guess": stop_gradient(guess) if is_tracer(guess) else _guess_of_core(guess, like.dtype),
            },
        )
        return differentiable_on_mesh(
            Solution,
            run,
            fixed,
            residual,
            conditions,
            _Members(run.problem.batch, wide),
            asarray=partial(jnp.asarray, dtype=like.dtype),
            constant=stop_gradient,
        )

    return _solution_as_program(traced)


def _solution_as_program(traced: Callable[[], Solution]) -> Solution:
    """The solution whose arrays one program makes; op by op each operation of it would be compiled by itself."""
    names = "t", "constants", "error", "converged", "iterations", "_states", "_stages"
    solutions: list[Solution] = []

    def arrays() -> dict[str, Array]:
        solutions.append(traced())
        found = {name: getattr(solutions[-1], name) for name in names}
        return {name: x for name, x in found.items() if isinstance(x, jax.Array)}

    found = as_program(arrays)()
    return replace(solutions[-1], **found)


class _TracedError(ArgumentError):
    """There are no values to look at."""


class _Equations(ArrayEquations):
    """A residual on JAX arrays of a dtype, for the core."""

    def __init__(self, function: Callable[..., Any], p: int, dtype: Any) -> None:
        super().__init__(function, p, (jax.Array, "jax.Array"), float(jnp.finfo(dtype).eps))
        self.dtype = dtype
        self.programs: dict[Any, Callable[..., Any]] = {}
        self.is_traced = False  # whether the residual closes over arrays that derivatives may be wanted of
        self.groups: Groups | None = None

    def arrays(self, *numbers: Any, cores: Sequence[int] = ()) -> list[Array]:
        return [jnp.asarray(x, dtype=self.dtype) for x in numbers]

    def numbers(self, name: str, x: Any, core: int) -> Any:
        return _values(name, x)

    def columns(self, function: Callable[[Array], Array], x: Array, core: int) -> Array:
        return _columns(function, x, core)

    def value(self, t: np.ndarray, y: np.ndarray, constants: np.ndarray) -> np.ndarray:
        self.calls += 1
        f = _values("residual", self._evaluated(self.f, self.given(*_filled(t, y), constants)))[..., : y.shape[-3], :]
        return np.broadcast_to(f, (*np.broadcast_shapes(f.shape[:-2], y.shape[:-3]), *f.shape[-2:]))

    def f(self, *arguments: Array) -> Array:
        return self.checked(arguments)

    def _held(self, x: Any) -> Any:
        """The values of an array that the residual closes over."""
        self.is_traced = self.is_traced or is_tracer(x)
        return _looked_at("residual", x)

    def _evaluated(self, function: Callable[..., Any], arguments: list[Array]) -> Any:
        """The result of a function of the residual, as a program that is traced once for each shape.

        Raises:
            _TracedError: where the residual holds traced arrays, before anything is compiled.
        """
        key = function.__name__, tuple(x.shape for x in arguments)
        if key not in self.programs:
            self.programs[key] = as_program(function, *arguments, held=self._held)
        return self.programs[key](*arguments)

    def linearize(
        self, t: np.ndarray, y: np.ndarray, constants: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray | SparseJacobian, np.ndarray]:
        self.calls += 1
        used = y.shape[-3]
        t, y = _filled(t, y)

        def whole(τ: Array, Y: Array, *c: Array) -> tuple[Any, ...]:
            """The residual for all members as a function of arguments in the shape of all, and these."""
            probe = jax.eval_shape(lambda *a: self.checked(a), τ, Y, *c)
            batch = np.broadcast_shapes(probe.shape[:-2], Y.shape[:-3])
            arguments = [jnp.broadcast_to(Y, (*batch, *Y.shape[-3:]))]
            arguments += [jnp.broadcast_to(x, (*batch, Y.shape[-3], self.p)) for x in c]
            return lambda *a: jnp.broadcast_to(self.checked((τ, *a)), (*batch, *probe.shape[-2:])), *arguments

        def with_derivatives(*given: Array) -> tuple[Array, ...]:
            return _with_derivatives(*whole(*given))

        def of_sums(weights: Array, *given: Array) -> tuple[Array, Array]:
            function, Y = whole(*given)
            return _of_sums(function, weights, Y)

        given = self.given(t, y, constants)
        if self.groups is not None:
            result = self._evaluated(of_sums, [jnp.asarray(self.groups.weights, self.dtype), *given])
            f, sums = (_values("residual", x) for x in result)
            sparse = self.groups.jacobian(sums[..., :used, :, :], self.eps)
            if sparse is not None:
                return f[..., :used, :], sparse, np.zeros((*f.shape[:-2], used, 0))
        f, J, *P = (_values("residual", x) for x in self._evaluated(with_derivatives, given))
        self.groups = None if self.p else Groups.of(J)
        self.entries = None if self.groups is None else len(self.groups.places[0])
        return (
            f[..., :used, :],
            J[..., :used, :, :, :],
            P[0][..., :used, :, :] if P else np.zeros((*f.shape[:-2], used, f.shape[-1], 0)),
        )


def _with_derivatives(function: Callable[..., Array], *arguments: Array) -> tuple[Array, ...]:
    """f, (..., n, Q), and its derivatives by each argument (..., n, core axes), (..., n, Q, core axes)."""
    f, pull = jax.vjp(function, *arguments)
    Q = f.shape[-1]
    unit = jnp.eye(Q, dtype=f.dtype).reshape(Q, *(1,) * (f.ndim - 1), Q)
    return f, *jax.vmap(pull, out_axes=f.ndim - 1)(jnp.broadcast_to(unit, (Q, *f.shape)))


def _of_sums(function: Callable[..., Array], weights: Array, x: Array) -> tuple[Array, Array]:
    """f, (..., n, Q), and derivatives of weighted sums of equations, (m, Q): (m, ..., n, core axes)."""
    f, pull = jax.vjp(function, x)
    weights = weights.astype(f.dtype).reshape(len(weights), *(1,) * (f.ndim - 1), f.shape[-1])
    return f, jax.vmap(pull)(jnp.broadcast_to(weights, (len(weights), *f.shape)))[0]


class _Frozen:
    """A function of arrays, without derivatives in what it closes over: loops that stop by values have no reverse
    mode."""

    def __init__(self, function: Callable[..., Array]) -> None:
        self.function = function
        self.converted: dict[Any, Callable[..., Array]] = {}

    def __call__(self, *arguments: Array) -> Array:
        shapes = tuple((x.shape, x.dtype) for x in arguments)
        if shapes not in self.converted:
            example = [jax.ShapeDtypeStruct(*x) for x in shapes]
            function, held = jax.closure_convert(self.function, *example)
            held = stop_gradient(held)
            self.converted[shapes] = lambda *a: function(*a, *held)
        return self.converted[shapes](*arguments)


class _TracedEquations(_Equations):
    """A residual on JAX arrays, for loops of the program; the algebra may have more digits than the residual."""

    def __init__(self, function: Callable[..., Any], p: int, dtype: Any) -> None:
        super().__init__(function, p, dtype)
        self.frozen = _Frozen(self.whole)

    def whole(self, *arguments: Array) -> Array:
        """f for all members of a batch."""
        f = self.checked(arguments)
        return jnp.broadcast_to(f, (*np.broadcast_shapes(f.shape[:-2], arguments[1].shape[:-3]), *f.shape[-2:]))

    def given(self, t: Array, y: Array, constants: Array) -> list[Array]:
        return super().given(t, y, jnp.broadcast_to(constants, (*y.shape[:-2], self.p)))

    def value(self, t: Array, y: Array, constants: Array) -> Array:
        return self.frozen(*self.given(t, y, constants)).astype(y.dtype)

    def linearize(self, t: Array, y: Array, constants: Array) -> tuple[Array, Array, Array]:
        t, Y, *others = self.given(t, y, constants)
        f, J, *P = _with_derivatives(lambda *a: self.frozen(t, *a), Y, *others)
        f, J, *P = (x.astype(y.dtype) for x in (f, J, *P))
        return f, J, P[0] if P else jnp.zeros((*f.shape, 0), y.dtype)


class _TracedConditions(Conditions):
    """A function of JAX arrays, for loops of the program."""

    @cached_property
    def frozen(self) -> _Frozen:
        assert self.function is not None
        return _Frozen(self.function)

    def evaluate(self, y: Array, constants: Array) -> tuple[Array, Array, Array]:
        both = (y, constants) if self.takes_constants else (y,)
        g = self.frozen(*both)

        G = _columns(lambda y: self.frozen(y, *both[1:]), y, 3)
        if not self.takes_constants:
            return g, G, jnp.zeros((*g.shape, constants.shape[-1]), g.dtype)
        return g, G, _columns(lambda c: self.frozen(y, c), constants, 1)


def _columns(function: Callable[[Array], Array], x: Array, core: int) -> Array:
    """The derivatives of a function of an array (..., core axes), in forward mode: (..., core axes)."""
    shape = x.shape[x.ndim - core :]
    basis = jnp.eye(int(np.prod(shape)), dtype=x.dtype).reshape(-1, *shape)
    G = jax.vmap(lambda v: jax.jvp(function, (x,), (jnp.broadcast_to(v, x.shape),))[1], out_axes=-1)(basis)
    return G.reshape(*G.shape[:-1], *shape)


def _stated(conditions: Any, times: np.ndarray) -> Conditions:
    """Values of conditions, which may be traced, and which of them are given."""
    by_time = conditions if isinstance(conditions, Mapping) else {float(times[0]): conditions}
    pattern = {time: np.where(_is_given(x), 0.0, np.nan) for time, x in by_time.items()}
    cores = {time: x.reshape(-1, *x.shape[-2:])[0] if x.ndim > 2 else x for time, x in pattern.items()}
    stated = np.isfinite(Conditions.of(cores, times, False).values)
    arrays = {int(np.argmin(np.abs(times - float(time)))): jnp.asarray(x) for time, x in by_time.items()}
    batch = np.broadcast_shapes(*(x.shape[:-2] for x in arrays.values()))
    shape = (*batch, *stated.shape[1:])
    none = jnp.zeros(shape, jnp.result_type(float))
    values = jnp.stack([jnp.broadcast_to(arrays[i], shape) if i in arrays else none for i in range(len(times))], -3)
    return Conditions(jnp.where(stated, stop_gradient(values).astype(none.dtype), 0.0), None, pattern=stated)


def _is_given(x: Any) -> np.ndarray:
    """Which numbers are not NaN; those that are traced are taken as given."""
    if isinstance(x, (list, tuple)):
        return np.array([_is_given(entry) for entry in x])
    x = _constant(x)
    return np.ones(x.shape, bool) if is_tracer(x) else ~np.isnan(np.asarray(x, np.float64))


def _filled(t: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The last time repeated until there are a power of two of them: JAX compiles each operation for each shape."""
    missing = max(128, 1 << (y.shape[-3] - 1).bit_length()) - y.shape[-3]
    return (
        np.concatenate([t, np.repeat(t[..., -1:], missing, axis=-1)], axis=-1),
        np.concatenate([y, np.repeat(y[..., -1:, :, :], missing, axis=-3)], axis=-3),
    )


def _values(name: str, x: Any) -> Any:
    """The values of JAX arrays as NumPy arrays, without derivatives; others as they are.

    Raises:
        ArgumentError: under jit and vmap, where there are none.
    """
    if isinstance(x, (list, tuple, int, float)):
        try:
            return np.asarray(x, dtype=np.float64)
        except jax.errors.TracerArrayConversionError:  # numbers among which some are traced
            x = jnp.asarray(x)
    return np.asarray(_looked_at(name, x), dtype=np.float64) if isinstance(x, jax.Array) else x


def _looked_at(name: str, x: Any) -> Any:
    """An array without derivatives that has values.

    Raises:
        _TracedError: of others.
    """
    x = _constant(x)
    if is_tracer(x):
        raise _TracedError(
            f"solve chooses a mesh by values, which {name} has none of under jit and vmap: give mesh= and times by "
            "numbers (np.linspace, or jnp.linspace outside of jit), or call it outside of them; a batch is given as "
            "batch axes."
        )
    return x


def _constant(x: Any) -> Any:
    """Without derivatives. Arrays that are not traced stay so: under jit, what operations make of them is."""
    return stop_gradient(x) if is_tracer(x) else x


def _arrays(arguments: Sequence[Any]) -> list[Array]:
    """The JAX arrays of floats among the arguments."""
    values = [y for x in arguments for y in (x.values() if isinstance(x, Mapping) else (x,))]
    return [y for y in values if isinstance(y, jax.Array) and jnp.issubdtype(y.dtype, jnp.floating)]


def _guess_of_core(guess: Any, dtype: Any) -> Any:
    if isinstance(guess, Solution):
        return guess.values
    if callable(guess) and not isinstance(guess, CoreSolution):

        def of_values(t: np.ndarray) -> np.ndarray:
            with jax.ensure_compile_time_eval():
                return np.asarray(_values("guess", guess(jnp.asarray(t, dtype))))

        return of_values
    return guess if guess is None or isinstance(guess, CoreSolution) else _values("guess", guess)
