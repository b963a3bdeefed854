"""`solve` for a residual on JAX arrays. The search looks at values, cut off from derivatives; those of what it finds
are derived in `smnn_core.trajectory._implicit`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from functools import cache, partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.lax import stop_gradient

from smnn_core import ArgumentError, NamespaceError
from smnn_core import Solution as CoreSolution
from smnn_core.extend import (
    DifferentiableSolution,
    Equations,
    Frozen,
    Unknowns,
    differentiable,
    refined,
    search,
    solution_of,
    warn_unless_converged,
)

from ._solve import solve_ode

Array = Any

__all__ = ["Solution", "solve"]


for _class, _static in ((Unknowns, ()), (Frozen, ("xp", "solve_ode", "space"))):
    _names = [f.name for f in fields(_class) if f.name not in _static]
    jax.tree_util.register_dataclass(_class, data_fields=_names, meta_fields=list(_static))


@cache
def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function as one program for each shape, where op by op each operation would be compiled for each."""
    static = [name for name in ("space", "xp") if name in inspect.signature(function).parameters]
    return jax.jit(function, static_argnames=static)


@cache
def _solver(engine: str) -> Callable[..., Array]:
    """One function for each engine, so that programs that hold it are found again."""
    return partial(solve_ode, engine=engine)


@partial(jax.jit, static_argnames="space")
def _inside(x: Array, z: Array, s: Array, θ: Array, *, space: Any) -> Array:
    return space.inside(jnp, x, z, s, θ)


class Solution(DifferentiableSolution):
    """A solution of `solve` in JAX arrays: call it with times (n,) or (..., n) to have y and its derivatives there,
    (..., n, V, R+1), differentiable in all that went in and in the times.

    It has `t` (..., N+1) and `y` (..., N+1, V, R+1) on the mesh, `constants` (..., p), `error` (..., N, V),
    `largest_error` (..., V), `converged`, `reason`, `iterations`, `orders` and `plot()`, as `smnn_core.Solution`, and
    as `values` that one: the same on NumPy arrays, without derivatives.
    """

    xp: ClassVar[Any] = jnp

    def _like(self, times: Any) -> Array:
        return jnp.asarray(times, dtype=self.t.dtype)

    def _numbers(self, x: Array) -> np.ndarray:
        return np.asarray(_values("times", x))

    def _inside(self, space: Any, x: Array, z: Array, s: Array, θ: Array) -> Array:
        return _inside(x, z, s, θ, space=space)


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
    values: under `jit` and `vmap` there are none, and batches are batch axes here.

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
    like = jnp.zeros((), jnp.result_type(float, *_arrays((times, conditions, constants))))
    p = 0 if constants is None else jnp.shape(constants)[-1]
    equations = _Equations(residual, p, like.dtype)
    run = search(
        equations,
        _values("times", times),
        _conditions_of_core(conditions, equations),
        tolerance=tolerance,
        absolute=absolute,
        order=order,
        constants=None if constants is None else _values("constants", constants),
        guess=_guess_of_core(guess, equations),
        mesh=None if mesh is None else _values("mesh", mesh),
        points=points,
        most_intervals=max_intervals,
        engine=engine,
        progress=progress,
    )
    if mesh is None:  # of the few numbers of intervals for which operations are compiled
        run = refined(run, max(16, 1 << (run.found.mesh.N - 1).bit_length()))
    values = solution_of(run, np.dtype(like.dtype))
    warn_unless_converged(values.converged, values.reason)
    return differentiable(
        Solution,
        run,
        values,
        residual,
        jnp.asarray(times, dtype=like.dtype),
        conditions,
        like,
        asarray=partial(jnp.asarray, dtype=like.dtype),
        constant=stop_gradient,
        solve_ode=_solver(engine),
        compiled=_compiled,
    )


class _Equations(Equations):
    """A residual on JAX arrays of a dtype, for the core."""

    gives_derivatives = False

    def __init__(self, function: Callable[..., Any], p: int, dtype: Any) -> None:
        super().__init__(function, p)
        self.signature = "residual(t, y, constants)" if p else "residual(t, y)"
        self.dtype, self.eps = dtype, float(jnp.finfo(dtype).eps)

    def arrays(self, *given: np.ndarray) -> list[Array]:
        return [jnp.asarray(x, dtype=self.dtype) for x in given]

    def value(self, t: np.ndarray, y: np.ndarray, constants: np.ndarray) -> np.ndarray:
        self.calls += 1
        n = y.shape[-3]
        t, y = _filled(t, y)
        f = _values("residual", self._checked(self.arrays(*(t, y, constants)[: 3 if self.p else 2])))[..., :n, :]
        return np.broadcast_to(f, (*np.broadcast_shapes(f.shape[:-2], y.shape[:-3]), *f.shape[-2:]))

    def linearize(
        self, t: np.ndarray, y: np.ndarray, constants: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        self.calls += 1
        used = y.shape[-3]
        t, y = _filled(t, y)
        n = y.shape[-3]
        τ, Y, *c = self.arrays(*(t, y, constants)[: 3 if self.p else 2])
        probe = jax.eval_shape(lambda *a: self._checked(a), τ, Y, *c)
        batch = np.broadcast_shapes(probe.shape[:-2], y.shape[:-3])
        Y = jnp.broadcast_to(Y, (*batch, *y.shape[-3:]))
        others = [jnp.broadcast_to(x, (*batch, n, self.p)) for x in c]
        f, pull = jax.vjp(lambda *a: jnp.broadcast_to(self._checked((τ, *a)), (*batch, *probe.shape[-2:])), Y, *others)
        Q = f.shape[-1]
        unit = jnp.eye(Q, dtype=f.dtype).reshape(Q, *(1,) * (f.ndim - 1), Q)
        J, *P = jax.vmap(pull, out_axes=len(batch) + 1)(jnp.broadcast_to(unit, (Q, *f.shape)))
        f, J, *P = (_values("residual", x) for x in (f, J, *P))
        return (
            f[..., :used, :],
            J[..., :used, :, :, :],
            P[0][..., :used, :, :] if P else np.zeros((*batch, used, Q, 0)),
        )

    def _checked(self, arguments: Sequence[Array]) -> Array:
        f = self.called(tuple(arguments))
        if not isinstance(f, jax.Array):
            raise NamespaceError(f"residual must return a jax.Array, (..., n, Q), got {type(f).__name__}.")
        self.check_f(f, arguments[1])
        return f


def _filled(t: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The last time repeated until there are a power of two of them: JAX compiles each operation for each shape."""
    missing = max(32, 1 << (y.shape[-3] - 1).bit_length()) - y.shape[-3]
    return (
        np.concatenate([t, np.repeat(t[..., -1:], missing, axis=-1)], axis=-1),
        np.concatenate([y, np.repeat(y[..., -1:, :, :], missing, axis=-3)], axis=-3),
    )


def _values(name: str, x: Any) -> Any:
    """The values of JAX arrays as NumPy arrays, without derivatives; others as they are.

    Raises:
        ArgumentError: under jit and vmap, where there are none.
    """
    if not isinstance(x, jax.Array):
        return np.asarray(x, dtype=np.float64) if isinstance(x, (list, tuple, int, float)) else x
    x = stop_gradient(x)
    if isinstance(x, jax.core.Tracer):
        raise ArgumentError(
            f"solve chooses a mesh by values, which {name} has none of under jit and vmap: call it outside of them; a "
            "batch is given as batch axes."
        )
    return np.asarray(x, dtype=np.float64)


def _arrays(arguments: Sequence[Any]) -> list[Array]:
    """The JAX arrays of floats among the arguments."""
    values = [y for x in arguments for y in (x.values() if isinstance(x, Mapping) else (x,))]
    return [y for y in values if isinstance(y, jax.Array) and jnp.issubdtype(y.dtype, jnp.floating)]


def _conditions_of_core(conditions: Any, equations: _Equations) -> Any:
    """Values as NumPy arrays; a function of JAX arrays as one of NumPy arrays that returns its derivatives as well."""
    if isinstance(conditions, Mapping):
        return {float(time): _values("conditions", x) for time, x in conditions.items()}
    if not callable(conditions):
        return _values("conditions", conditions)

    def of_arrays(y: np.ndarray, *constants: np.ndarray) -> Any:
        Y, *c = equations.arrays(y, *constants)
        g = conditions(Y, *c)
        basis = jnp.eye(int(np.prod(Y.shape[-3:])), dtype=Y.dtype).reshape(-1, *Y.shape[-3:])

        def column(v: Array) -> Array:
            return jax.jvp(lambda y: conditions(y, *c), (Y,), (jnp.broadcast_to(v, Y.shape),))[1]

        G = jax.vmap(column, out_axes=-1)(basis)
        return _values("conditions", g), _values("conditions", G.reshape(*G.shape[:-1], *Y.shape[-3:]))

    required = [a for a in inspect.signature(conditions).parameters.values() if a.default is inspect.Parameter.empty]
    if equations.p and len(required) >= 2:
        return lambda y, constants: of_arrays(y, constants)
    return lambda y: of_arrays(y)


def _guess_of_core(guess: Any, equations: _Equations) -> Any:
    if isinstance(guess, Solution):
        return guess.values
    if callable(guess) and not isinstance(guess, CoreSolution):
        return lambda t: _values("guess", guess(equations.arrays(t)[0]))
    return guess if guess is None or isinstance(guess, CoreSolution) else _values("guess", guess)
