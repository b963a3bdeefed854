"""`solve` for a residual on tensors. The search runs in the core, without a graph; the derivatives of what it finds are
derived in `smnn_core.trajectory._implicit`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import array_api_compat.torch as xp
import numpy as np
import torch
from torch import Tensor
from torch.autograd import Function
from torch.func import jvp, vmap

from smnn_core import ArgumentError, ShapeError, SparseJacobian
from smnn_core import Solution as CoreSolution
from smnn_core.extend import (
    ArrayEquations,
    DifferentiableSolution,
    Groups,
    differentiable,
    search,
    solution_of,
    takes_constants,
    warn_unless_converged,
)

from ._bridge import is_legacy_batched
from ._mapped import FORWARD_MODE, Mapped, Members, under_transforms
from ._ops import LIBRARY
from ._solve import solve_ode

__all__ = ["Solution", "solve"]


class Solution(DifferentiableSolution):
    """A solution of `solve` in tensors: call it with times (n,) or (..., n) to have y and its derivatives there, (...,
    n, V, R+1), differentiable in all that went in and in the times.

    It has `t` (..., N+1) and `y` (..., N+1, V, R+1) on the mesh, `constants` (..., p), `error` (..., N, V),
    `largest_error` (..., V), `converged`, `reason`, `iterations`, `orders` and `plot()`, as `smnn_core.Solution`, and
    as `values` that one: the same on NumPy arrays, without derivatives.
    """

    xp: ClassVar[Any] = xp

    @torch.compiler.disable(reason="the intervals in which times lie are found by values")
    def __call__(self, times: Any) -> Tensor:
        return super().__call__(times)

    def _like(self, times: Any) -> Tensor:
        return torch.as_tensor(times, dtype=self.t.dtype, device=self.t.device)


@torch.compiler.disable(reason="solve chooses steps by values")
def solve(
    residual: Callable[..., Tensor],
    times: Tensor | Sequence[float],
    conditions: Any,
    *,
    tolerance: float | None = None,
    absolute: float = 0.0,
    order: int | Sequence[int] | None = None,
    constants: Tensor | Sequence[float] | None = None,
    guess: Any = None,
    mesh: Any = None,
    points: int | None = None,
    max_intervals: int = 20_000,
    engine: str = "auto",
    progress: bool = False,
) -> Solution:
    """`smnn_core.solve` for a residual on tensors, which returns f alone: solves f(t, y, y', ..) = 0 to a tolerance.

    The solution is differentiable, at the mesh that was found, in everything that the residual closes over (networks,
    parameters, other tensors), in conditions and times: first and second derivatives, in reverse and forward mode and
    with `torch.func`. Under `vmap` members are those of a batch, each with a mesh of its own and all with one number of
    intervals; `reason` and `values` are of all members. Functions under `torch.compile` run it outside of their graphs,
    with their derivatives, since it looks at values, with `mesh` too: they decide on the steps of Newton's method.
    With fullgraph=True they are refused, and CUDA graphs do not capture it. The residual may be compiled by itself.

    **Main arguments**

    Args:
        residual: residual(t, y) -> (..., n, Q), with `constants` residual(t, y, constants): t (..., n), y (..., n, V,
            R+1), constants (..., 1, p). It is called with further axes in front, too: operations on whole tensors.
        times: (n,), ends and times between them at which a condition stands or something happens.
        conditions: values (..., V, order) at the first time, NaN where nothing is given; or {time: such values}; or a
            function of the states at all times, (..., n, V, order) -> (..., C), and of the constants, if it has two
            arguments.
        tolerance: of the largest error of each variable, relative to its largest value: 1e-6 where nothing is said,
            1e-4 in float32.
        constants: (..., p), a first guess of constants to be solved for.

    The other arguments, and what is raised and warned of, are as for `smnn_core.solve`; guess may be a solution of this
    function. The dtype is that of the tensors given; the search itself is in float64 but for what the residual does.

    Returns:
        Solution.

    Example: y' = -k y^2, y(0) = 1, solved by 1 / (1 + k t).

        >>> import torch, smnn_torch
        >>> k = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
        >>> s = smnn_torch.solve(lambda t, y: y[..., 1] + k * y[..., 0] ** 2, [0, 1], torch.ones(1, 1).double())
        >>> s([1.0])[0, 0, 0].backward()
        >>> round(float(k.grad), 6)
        -0.25
    """
    tensors = _tensors({"times": times, "conditions": conditions, "constants": constants, "guess": guess})
    like = tensors[0] if tensors else torch.zeros((), dtype=torch.get_default_dtype())
    exact = like.dtype in (torch.float32, torch.float64)
    like = torch.zeros((), dtype=like.dtype if exact else torch.get_default_dtype(), device=like.device)
    p = 0 if constants is None else np.shape(constants)[-1]
    mapped = (
        _mapped(residual, times, conditions, order, constants, guess, mesh, like) if under_transforms() else Mapped()
    )
    fixed = mapped.numbers(times, 1)
    if mapped.sizes and np.ndim(fixed) > 1:
        if np.prod(fixed.shape[:-1]) > 1:
            raise ArgumentError("times must be the same for all members of vmap.")
        fixed = fixed.reshape(-1)
    equations = _Equations(residual, p, like, mapped)
    with torch.no_grad():
        run = search(
            equations,
            fixed,
            equations.conditions(conditions),
            tolerance=tolerance,
            absolute=absolute,
            order=order,
            constants=None if constants is None else mapped.numbers(constants, 1),
            guess=_guess_of_core(guess, equations, len(fixed)),
            mesh=None if mesh is None else mapped.numbers(mesh, 1),
            points=points,
            most_intervals=max_intervals,
            engine=engine,
            progress=progress,
        )
        values = solution_of(run, np.dtype(str(like.dtype).removeprefix("torch.")))
    warn_unless_converged(values.converged, values.reason)
    moving = times if isinstance(times, Tensor) else torch.as_tensor(fixed)
    return differentiable(
        Solution,
        run,
        values,
        residual,
        moving.to(like.device, like.dtype),
        conditions,
        Members(mapped, run.problem.batch, like),
        asarray=partial(torch.as_tensor, dtype=like.dtype, device=like.device),
        constant=Tensor.detach,
        solve_ode=partial(solve_ode, engine=engine),
        follow=torch.is_grad_enabled() or under_transforms(),
        linear_map=None if under_transforms() else _LinearMap.apply,
    )


def _mapped(
    residual: Callable[..., Tensor],
    times: Any,
    conditions: Any,
    order: int | Sequence[int] | None,
    constants: Any,
    guess: Any,
    mesh: Any,
    like: Tensor,
) -> Mapped:
    """The levels of `vmap` among the arguments, and among what functions among them close over."""
    mapped = Mapped()
    states = list(conditions.values()) if isinstance(conditions, Mapping) else [conditions]
    states = [x for x in states if not callable(x)]
    for x in states:
        mapped.look(x, 2)
    for x in (constants, mesh):
        mapped.look(x, 1)
    t = torch.as_tensor(times, dtype=like.dtype, device=like.device)
    guessed = guess(t) if callable(guess) and not isinstance(guess, (Solution, CoreSolution)) else guess
    mapped.look(guessed, _core_of_guess(guessed, len(t)))
    if states:
        V = np.shape(states[0])[-2]
    elif isinstance(order, Sequence):
        V = len(order)
    elif isinstance(guessed, (Solution, CoreSolution)):
        V = len(guessed.orders)
    elif isinstance(guessed, Tensor):
        V = guessed.shape[-1] if _core_of_guess(guessed, len(t)) == 2 else guessed.shape[-2]
    else:
        return mapped  # the number of variables is not known: the search says so
    highest = 4 if order is None else max(order) if isinstance(order, Sequence) else order
    others = [] if constants is None else [torch.as_tensor(constants, dtype=like.dtype, device=like.device)]
    rng = np.random.default_rng(2)

    def some(*shape: int) -> Tensor:
        return torch.tensor(rng.uniform(0.3, 1.2, shape), dtype=like.dtype, device=like.device)

    mapped.look(residual(t, some(len(t), V, highest + 1), *(c[..., None, :] for c in others)), 2)
    if callable(conditions):
        y = some(len(t), V, highest)
        mapped.look(conditions(y, *others) if others and takes_constants(conditions) else conditions(y), 1)
    return mapped


def _core_of_guess(guess: Any, n: int) -> int:
    """Axes of a guess beside those of the batch: (n, V) or (n, V, order)."""
    return 3 if isinstance(guess, Tensor) and guess.ndim >= 3 and guess.shape[-3] == n else 2


class _LinearMap(Function):
    """(function, transposed, x) -> function(x), linear, on vectors of NumPy in float64."""

    @staticmethod
    def forward(function: _VectorFunction, transposed: _VectorFunction, x: Tensor) -> Tensor:
        del transposed
        return torch.as_tensor(function(x.detach().to("cpu", torch.float64).numpy()), dtype=x.dtype, device=x.device)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        del output
        ctx.functions = inputs[:2]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
        function, transposed = ctx.functions
        if is_legacy_batched(gradient):  # PyTorch takes members one by one for an op, not for a function
            _MAPS[id(ctx)] = transposed, function
            try:
                return None, None, torch.ops.smnn.linear(gradient, id(ctx))
            finally:
                del _MAPS[id(ctx)]
        return None, None, _LinearMap.apply(transposed, function, gradient)

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        return _LinearMap.apply(*ctx.functions, tangents[2])

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *inputs: Any) -> tuple[Tensor, int]:
        *functions, x = inputs
        del info
        return torch.stack([_LinearMap.apply(*functions, row) for row in x.movedim(in_dims[2], 0)]), 0


_VectorFunction = Callable[[np.ndarray], np.ndarray]
_MAPS: dict[int, tuple[_VectorFunction, _VectorFunction]] = {}
"""of the op smnn::linear while it runs"""
LIBRARY.define("linear(Tensor x, int key) -> Tensor")
LIBRARY.impl("linear", lambda x, key: _LinearMap.forward(*_MAPS[key], x), "CompositeExplicitAutograd")
LIBRARY.impl("linear", lambda x, key: _LinearMap.apply(*_MAPS[key], x), "Autograd")


class _Equations(ArrayEquations):
    """A residual on tensors, of the dtype and on the device of `like`, for the core."""

    def __init__(self, function: Callable[..., Any], p: int, like: Tensor, mapped: Mapped) -> None:
        super().__init__(function, p, (Tensor, "torch.Tensor"), torch.finfo(like.dtype).eps)
        self.mapped, self.like = mapped, like
        self.groups: Groups | None = None

    def arrays(self, *numbers: np.ndarray, cores: Sequence[int] = (1, 3, 2)) -> list[Tensor]:
        return [self.mapped.tensor(x, core, self.like) for x, core in zip(numbers, cores, strict=False)]

    def numbers(self, name: str, x: Any, core: int) -> Any:
        return self.mapped.numbers(x, core)

    def columns(self, function: Callable[[Tensor], Tensor], x: Tensor, core: int) -> Tensor:
        return _columns(function, x, core)

    def linearize(
        self, t: np.ndarray, y: np.ndarray, constants: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray | SparseJacobian, np.ndarray]:
        self.calls += 1
        given = self.given(t, y, constants)
        if self.groups is not None and not under_transforms():
            f, J = self._by_groups(*given)
            if J is not None:
                return f, J, np.zeros((*f.shape, 0))
            self.groups = None
        results = self._by_columns(*given) if under_transforms() else self._by_copies(*given)
        f, J, P = (self.mapped.numbers(x, core) for x, core in zip(results, (2, 4, 3), strict=True))
        self.groups = None if self.p else Groups.of(J)
        self.entries = None if self.groups is None else len(self.groups.places[0])
        batch = np.broadcast_shapes(f.shape[:-2], y.shape[:-3])
        return tuple(  # type: ignore[return-value]
            np.broadcast_to(x, (*batch, *x.shape[-core:])) for x, core in ((f, 2), (J, 4), (P, 3))
        )

    def _by_copies(self, t: Tensor, y: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """f, J and P."""
        f = self._value(t, y, c)
        J, *P = self._derivatives(torch.eye(f.shape[-1], dtype=y.dtype, device=y.device), f, t, y, c)
        J, *P = (torch.movedim(g, 0, -core) for g, core in zip((J, *P), (3, 2), strict=False))
        return f, J, P[0] if P else y.new_zeros(*J.shape[:-3], f.shape[-1], 0)

    def _by_groups(self, t: Tensor, y: Tensor) -> tuple[np.ndarray, SparseJacobian | None]:
        """f and J, whose entries are where they were; None if they are not."""
        assert self.groups is not None
        f = self._value(t, y, None)
        weights = torch.as_tensor(self.groups.weights, dtype=y.dtype, device=y.device)
        (sums,) = self._derivatives(weights, f, t, y, None)
        f, sums = self.mapped.numbers(f, 2), self.mapped.numbers(sums, 4)
        return np.broadcast_to(f, (*sums.shape[1:-2], f.shape[-1])), self.groups.jacobian(sums, self.eps)

    def _value(self, t: Tensor, y: Tensor, c: Tensor | None) -> Tensor:
        with torch.no_grad():
            return self.checked((t, y) if c is None else (t, y, c))

    def _derivatives(self, weights: Tensor, f: Tensor, t: Tensor, y: Tensor, c: Tensor | None) -> tuple[Tensor, ...]:
        """Of weighted sums of equations, (m, Q), by y and c: (m, ..., n, V, R+1) and (m, ..., n, p), by one pass in
        reverse mode over as many copies of y."""
        n, m, Q, batch = y.shape[-3], len(weights), f.shape[-1], torch.broadcast_shapes(f.shape[:-2], y.shape[:-3])
        with torch.enable_grad():
            Y = y.detach().expand(m, *batch, *y.shape[-3:]).clone().requires_grad_()
            arguments = [t, Y]
            if c is not None:
                arguments.append(c.detach().expand(m, *batch, n, self.p).clone().requires_grad_())
            copies = self.called(tuple(arguments))
            if not copies.requires_grad:
                raise ArgumentError(
                    "residual(t, y) has no derivative in y: write it with PyTorch's operations on y, without detach(), "
                    "no_grad(), item() or NumPy, and call outside of torch.inference_mode(); no_grad() around the call "
                    "is fine."
                )
            if copies.ndim > len(batch) + 3:
                raise ShapeError(
                    f"residual(t, y, constants) gives axes of their own to several members: f of shape "
                    f"{tuple(copies.shape)} for y of shape {tuple(Y.shape)}. Constants have the shape (..., n, p) or "
                    "(..., 1, p): constants[..., 0] stands beside (..., n), constants[..., :1] beside (..., n, Q)."
                )
            if copies.shape[0] != m or copies.ndim != len(batch) + 3:
                copies = copies.expand(m, *batch, n, Q)
            weights = weights.reshape(m, *(1,) * (copies.ndim - 2), Q).expand_as(copies)
            return torch.autograd.grad(copies, arguments[1:], weights, materialize_grads=True)

    def _by_columns(self, t: Tensor, y: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """The same in forward mode, for what a transform of `torch.func` is looking at."""
        others = () if c is None else (c,)
        f = self.checked((t, y, *others))
        J = _columns(lambda y: self.called((t, y, *others)), y, 2)
        if c is None:
            return f, J, torch.zeros(*J.shape[:-2], 0)
        c = c.expand(*y.shape[:-2], self.p)
        return f, J, _columns(lambda c: self.called((t, y, c)), c, 1)


def _columns(function: Callable[[Tensor], Tensor], x: Tensor, core: int) -> Tensor:
    shape = x.shape[-core:]
    basis = torch.eye(shape.numel(), dtype=x.dtype, device=x.device).reshape(-1, *shape)
    with FORWARD_MODE:
        J = vmap(lambda v: jvp(function, (x,), (v.expand(x.shape),))[1], out_dims=-1)(basis)
    return J.reshape(*J.shape[:-1], *shape)


def _tensors(arguments: Mapping[str, Any]) -> list[Tensor]:
    """The tensors among the arguments."""
    found = []
    for x in arguments.values():
        for y in x.values() if isinstance(x, Mapping) else (x,):
            if isinstance(y, Tensor) and y.is_floating_point():
                found.append(y)
    return found


def _guess_of_core(guess: Any, equations: _Equations, n: int) -> Any:
    if isinstance(guess, Solution):
        return guess.values
    if callable(guess) and not isinstance(guess, CoreSolution):

        def of_values(t: np.ndarray) -> Any:
            values = guess(equations.arrays(t)[0])
            return equations.mapped.numbers(values, _core_of_guess(values, len(t)))

        return of_values
    return guess if isinstance(guess, CoreSolution) else equations.mapped.numbers(guess, _core_of_guess(guess, n))
