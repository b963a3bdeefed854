"""The caller's `linearize`: its results checked, and residuals that couple time points refused.

Letters as everywhere: T time points, V variables, K = R+1 derivative orders, Q equations, p parameters.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from .._arrays import Array, Namespace, broadcast_shapes, common_namespace, device_of, is_tracer, product
from .._errors import ArgumentError, ShapeError

__all__ = ["Linearization", "Linearizer", "Residual"]


class Linearization(NamedTuple):
    """f(t, y, θ) at one y and θ, and its derivatives."""

    f: Array
    """(..., T, Q): the residuals"""
    J: Array
    """(..., T or 1, Q, V, K): ∂f/∂y"""
    P: Array | None = None
    """(..., T or 1, Q, p): ∂f/∂θ, None without parameters"""

    def rhs(self, xp: Namespace, y: Array) -> Array:
        """J y - f, the right-hand side of the linear problem whose solution is the next iterate; (..., T, Q)."""
        return product(xp, self.J, y) - self.f


def _check_number_of_equations(f: Array, y: Array) -> None:
    """Finds times among the equations: t, (..., T), where t[..., None] was meant, makes f (..., T, T).

    Raises:
        ShapeError: if there are as many equations as times, and more than unknowns.
    """
    if f.shape[-1] == f.shape[-2] > y.shape[-2] * y.shape[-1]:
        raise ShapeError(
            f"f has Q = {f.shape[-1]} equations at each of as many times, more than unknowns: shapes (..., T) and "
            "(..., T, Q) were broadcast. Write t[..., None], and y[..., v, r][..., None], beside values of (..., T, Q)."
        )


class Residual:
    """residual(t, y[, parameters]) -> (..., T, Q) for t (..., T), y (..., T, V, K), parameters (..., 1, p).

    Adapters derive from it: they know the arrays of their framework, and differentiate them.
    """

    array: Any
    """the type that the function must return"""
    name_of_array: str

    def __init__(self, function: Callable[..., Array]) -> None:
        if not callable(function):
            raise TypeError(f"residual must be a function, got {type(function).__name__}.")
        self.function = function

    def __call__(self, *arguments: Array) -> Array:
        f, y = self.function(*arguments), arguments[1]
        if not isinstance(f, self.array):
            raise TypeError(f"residual must return a {self.name_of_array}, (..., T, Q), got {type(f).__name__}.")
        if f.ndim < 2 or f.shape[-2] != y.shape[-3]:
            raise ShapeError(
                f"residual must return the residuals at each time point, (..., T, Q) with T = {y.shape[-3]}; got "
                f"{tuple(f.shape)} for y of shape {tuple(y.shape)} = (..., T, V, R+1)."
            )
        _check_number_of_equations(f, y)
        return f


class Linearizer:
    """`linearize(t, y) -> (f, J)`, or `linearize(t, y, θ) -> (f, J, P)`, with its results checked at every call.

    Args:
        function: the callback. t is (..., T), y (..., T, V, K), θ (..., 1, p); the batch axes of what it returns
            broadcast with those of y and may be more, where what it closes over has a batch.
        with_parameters: whether it takes θ and returns P.

    The first call evaluates the callback three times more, at y changed at some of the time points. Where residuals at
    the other points follow, the residual couples time points, and the problem is none that this library solves; where
    they change otherwise than the derivatives foretell, these are wrong.
    """

    def __init__(self, function: Callable[..., Any], *, with_parameters: bool = False) -> None:
        if not callable(function):
            raise TypeError(f"linearize must be a function, got {type(function).__name__}.")
        self.function = function
        self.signature = "linearize(t, y, θ) -> (f, J, P)" if with_parameters else "linearize(t, y) -> (f, J)"
        self.with_parameters = with_parameters
        self.Q: int | None = None
        """The number of equations, known after the first call."""

    def __call__(self, t: Array, y: Array, parameters: Array | None = None) -> Linearization:
        """The linearisation at (t, y) or (t, y, θ).

        Raises:
            TypeError: if the callback does not return a tuple of arrays of the right length.
            ShapeError, DTypeError, NamespaceError, DeviceError: naming which of f, J and P does not fit.
            ArgumentError: on the first call, if the residual at one time depends on y at another, or if the derivatives
                are not those of f.
        """
        result = self._call(t, y, parameters)
        self._check(result, y, parameters)
        if self.Q is None:
            self._look_closer(result.f, t, y, parameters)
            self.Q = int(result.f.shape[-1])
        return result

    def _call(self, t: Array, y: Array, parameters: Array | None) -> Linearization:
        t = t + 0  # a copy, that the function may write to
        arguments = (t, y, parameters) if self.with_parameters else (t, y)
        try:
            result = self.function(*arguments)
        except Exception as error:
            shapes = ", ".join(
                f"{name} of shape {tuple(x.shape)}" for name, x in zip(("t", "y", "θ"), arguments, strict=False)
            )
            error.add_note(f"raised by {self.signature}, called with {shapes}.")
            raise
        count = 3 if self.with_parameters else 2
        if not isinstance(result, tuple) or len(result) != count:
            found = f"{len(result)} values" if isinstance(result, tuple) else type(result).__name__
            raise TypeError(f"{self.signature} must return a tuple of {count} arrays, got {found}.")
        return Linearization(*result)

    def _check(self, result: Linearization, y: Array, parameters: Array | None) -> None:
        T, V, K = y.shape[-3:]
        arrays = {"f": result.f, "J": result.J}
        if self.with_parameters:
            arrays["P"] = result.P
        common_namespace({"y": y, **{f"linearize's {name}": x for name, x in arrays.items()}})
        f = result.f
        if f.ndim < 2 or f.shape[-2] != T or f.shape[-1] == 0 or self.Q not in (None, f.shape[-1]):
            Q = "Q" if self.Q is None else f"Q = {self.Q}, as before"
            raise ShapeError(
                f"f returned by {self.signature} must have shape (..., T, Q) = (..., {T}, {Q}), the residuals at each "
                f"time point of y; got {tuple(f.shape)}. It is called with any part of the grid: what changes "
                "with time must be computed from t."
            )
        Q = f.shape[-1]
        _check_number_of_equations(f, y)
        cores: dict[str, tuple[Any, ...]] = {"J": (Q, V, K)}
        names = {"J": "(..., T or 1, Q, V, R+1)", "P": "(..., T or 1, Q, p)"}
        if parameters is not None:
            cores["P"] = (Q, parameters.shape[-1])
        batches = {"y": tuple(y.shape[:-3]), "linearize's f": tuple(f.shape[:-2])}
        for name, core in cores.items():
            x, rank = arrays[name], len(core) + 1
            if x.ndim < rank or tuple(x.shape[1 - rank :]) != core or x.shape[-rank] not in (1, T):
                expected = ", ".join(map(str, (f"{T} or 1", *core)))
                raise ShapeError(
                    f"{name} returned by {self.signature} must have shape {names[name]} = (..., {expected}), the "
                    f"derivatives of f; got {tuple(x.shape)}."
                )
            batches[f"linearize's {name}"] = tuple(x.shape[:-rank])
        broadcast_shapes(batches)

    def _look_closer(self, f: Array, t: Array, y: Array, parameters: Array | None) -> None:
        """Refuses residuals that couple time points, and derivatives that are not those of f.

        y is changed at about half of the time points, then at the others, and the residuals of the rest are looked at.
        Where y was changed, the derivatives are compared with finite differences, away from values such as zero at
        which functions like |y| have none.
        """
        if is_tracer(f) or is_tracer(y):
            return
        xp, T = common_namespace({"y": y}), y.shape[-3]
        changed = np.random.default_rng(0).random(T) < 0.5
        changed[0], changed[-1] = True, False
        size = _size(xp, y, -3)
        for pattern in (changed, ~changed):
            mask = xp.asarray(pattern, device=device_of(y))
            with np.errstate(all="ignore"):
                at = xp.where(mask[:, None, None], y + 1e-2 * size, y)
                result = self._call(t, at, parameters)
                scale = xp.max(xp.where(xp.isfinite(f), xp.abs(f), xp.zeros_like(f)))
                noise = 1e3 * float(xp.finfo(f.dtype).eps) * scale
                same = (xp.abs(result.f - f) <= noise) | ~xp.isfinite(f)
            if not bool(xp.all(same | mask[:, None])):
                raise ArgumentError(
                    "the residual f at one time depends on y at another time: changing y at some time points changed f "
                    "at others. f(t, y) must be evaluated at each time point by itself. Differences in time "
                    "(y[1:] - y[:-1]) are not needed, since y holds the derivatives y[..., 1], y[..., 2]; an integral, "
                    "a mean or a delayed value becomes another variable with an equation of its own; statistics over "
                    "time (as in batch normalisation) must be constants."
                )
        self._compare_derivatives(xp, result, t, at, parameters)

    def _compare_derivatives(
        self, xp: Namespace, at: Linearization, t: Array, y: Array, parameters: Array | None
    ) -> None:
        """One finite difference in a direction that moves all of y and θ by a small part of their size."""
        eps = float(xp.finfo(y.dtype).eps)
        rng, h = np.random.default_rng(1), min(eps ** (1 / 3), 3e-4)

        def direction(size: Array) -> Array:
            signs = rng.choice([-1.0, 1.0], tuple(size.shape[1 - size.ndim :])) * rng.uniform(0.5, 1)
            return h * size * xp.asarray(signs, dtype=y.dtype, device=device_of(y))

        with np.errstate(all="ignore"):
            dy = direction(_size(xp, y, -3)) + xp.zeros_like(y)
            expected, terms = product(xp, at.J, dy), product(xp, xp.abs(at.J), xp.abs(dy))
            moved = parameters
            if parameters is not None:
                dp = direction(_size(xp, parameters, -2))
                moved = parameters + dp
                expected = expected + (at.P @ dp[..., None])[..., 0]
                terms = terms + (xp.abs(at.P) @ xp.abs(dp[..., None]))[..., 0]
            found = self._call(t, y + dy, moved).f - at.f
            rounding = 1e3 * eps * (xp.abs(at.f) + product(xp, xp.abs(at.J), xp.abs(y)))
            wrong = xp.abs(found - expected) > 1e-2 * (terms + xp.abs(found)) + rounding  # false where it is NaN
        share = xp.mean(xp.astype(wrong, y.dtype), axis=tuple(range(wrong.ndim - 1)))
        if bool(xp.any(share > 0.5)):
            q = int(xp.argmax(share))
            raise ArgumentError(
                f"the derivatives that {self.signature} returns are not those of f: when all values are changed a "
                f"little, equation {q} changes otherwise than J{' and P' if self.with_parameters else ''} foretell, at "
                f"{100 * float(share[q]):.0f} % of the times. Compare J[..., {q}, v, r], the derivative of f[..., {q}] "
                "with respect to y[..., v, r], with finite differences."
            )


def _size(xp: Namespace, x: Array, axis: int) -> Array:
    """The largest finite |x| along an axis, 1 where there is none but zeros."""
    size = xp.max(xp.abs(xp.where(xp.isfinite(x), x, xp.zeros_like(x))), axis=axis, keepdims=True)
    return xp.where(size > 0, size, xp.ones_like(size))
