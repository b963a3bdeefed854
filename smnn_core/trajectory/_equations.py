"""The caller's residual, constants and conditions, checked and differentiated; adapters derive from `Equations`.

Letters: n time points, V variables, R+1 derivative orders, Q equations, p constants; (...) batch axes.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .._errors import ArgumentError, DTypeError, NamespaceError, ShapeError
from ._sparse import SparseJacobian

__all__ = ["ArrayEquations", "Conditions", "Equations", "as_floats", "refuse_coupling"]


def as_floats(name: str, x: Any) -> np.ndarray:
    """An argument as a float64 array.

    Raises:
        DTypeError: if it has no real numbers.
    """
    try:
        array = np.asarray(x)
    except Exception as error:
        raise NamespaceError(f"{name} must be numbers or an array of them; got {type(x).__name__}: {error}.") from None
    if array.dtype.kind not in "fiu":
        raise DTypeError(f"{name} must be real numbers; got {type(x).__name__} of dtype {array.dtype}.")
    return array.astype(np.float64)


class Equations:
    """residual(t, y[, constants]) -> (f, J[, P]) for t (..., n), y (..., n, V, R+1), constants (..., 1, p).

    Args:
        function: the callback; f (..., n, Q), J (..., n or 1, Q, V, R+1), P (..., n or 1, Q, p).
        p: the number of constants, 0 where there are none.
    """

    gives_derivatives = True
    """whether f and its derivatives are computed together"""
    eps: float = float(np.finfo(np.float64).eps)
    """the rounding of f"""

    def __init__(self, function: Callable[..., Any], p: int = 0) -> None:
        if not callable(function):
            raise TypeError(f"residual must be a function, got {type(function).__name__}.")
        self.function, self.p = function, p
        self.signature = "residual(t, y, constants) -> (f, J, P)" if p else "residual(t, y) -> (f, J)"
        self.Q: int | None = None
        self.calls = 0
        self.entries: int | None = None
        """of J at a point, where it is sparse"""
        self._places: Any = None
        """where the last were found to be right"""

    def arguments(self, t: np.ndarray, y: np.ndarray, constants: np.ndarray) -> tuple[np.ndarray, ...]:
        """Copies, which the callback may write to."""
        return (t.copy(), y.copy(), constants.copy()) if self.p else (t.copy(), y.copy())

    def value(self, t: np.ndarray, y: np.ndarray, constants: np.ndarray) -> np.ndarray:
        """f, (*batch, n, Q)."""
        return self.linearize(t, y, constants)[0]

    def linearize(
        self, t: np.ndarray, y: np.ndarray, constants: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray | SparseJacobian, np.ndarray]:
        """f (*batch, n, Q), J (*batch, n, Q, V, R+1), P (*batch, n, Q, p); the batch may be more than that of y."""
        self.calls += 1
        with np.errstate(all="ignore"):
            result = self.called(self.arguments(t, y, constants))
        count = 3 if self.p else 2
        if not isinstance(result, tuple) or len(result) != count:
            found = f"{len(result)} values" if isinstance(result, tuple) else type(result).__name__
            raise TypeError(f"{self.signature} must return a tuple of {count} arrays, got {found}.")
        sparse = result[1] if isinstance(result[1], SparseJacobian) else None
        if sparse is not None:
            result = (result[0], sparse.values, *result[2:])
        f, J, *rest = (self._array(name, x) for name, x in zip("fJP", result, strict=False))
        n, V, orders = y.shape[-3:]
        self.check_f(f, y)
        Q = f.shape[-1]
        if sparse is None:
            J, core = self._fit("J", _padded(J, orders), (n, Q, V, orders)), 4
        else:
            J, core = self._fit("J.values", J, (n, J.shape[-1])), 2
            self._check_places(sparse, (Q, V, orders))
        P = self._fit("P", rest[0], (n, Q, self.p)) if rest else np.zeros((*y.shape[:-3], n, Q, 0))
        batch = np.broadcast_shapes(f.shape[:-2], y.shape[:-3], J.shape[:-core], P.shape[:-3])
        f, J, P = (np.broadcast_to(x, (*batch, *x.shape[-m:])) for x, m in ((f, 2), (J, core), (P, 3)))
        return f, J if sparse is None else sparse.with_values(J), P

    def _check_places(self, J: SparseJacobian, sizes: tuple[int, int, int]) -> None:
        """
        Raises:
            ShapeError: if entries are at places that there are not, or two at one.
        """
        places = np.stack([J.equations, J.variables, J.derivatives])
        if (seen := (sizes, places.tobytes())) == self._places:
            return
        if (places < 0).any() or (places >= np.array(sizes)[:, None]).any():
            raise ShapeError(
                f"{self.signature}: J has entries outside of (Q, V, R+1) = {sizes}: the largest equation, variable and "
                f"derivative are {places.max(axis=1).tolist()}, the least {places.min(axis=1).tolist()}."
            )
        if len(np.unique(np.ravel_multi_index(tuple(places), sizes))) < len(J.equations):
            raise ShapeError(f"{self.signature}: J has two entries of one equation, variable and derivative: add them.")
        self.entries, self._places = len(J.equations), seen

    def called(self, arguments: tuple[Any, ...]) -> Any:
        """The arrays that the callback returns; an error in it says with which shapes it was called."""
        try:
            return self.function(*arguments)
        except Exception as error:
            shapes = ", ".join(
                f"{name} of shape {tuple(x.shape)}" for name, x in zip(("t", "y", "constants"), arguments, strict=False)
            )
            error.add_note(f"raised by the residual, called with {shapes}.")
            raise

    def check_f(self, f: Any, y: Any) -> None:
        """
        Raises:
            ShapeError: unless f is (..., n, Q) with as many equations as before.
        """
        n, V, orders = y.shape[-3:]
        if f.ndim < 2 or f.shape[-2] != n or f.shape[-1] == 0 or self.Q not in (None, f.shape[-1]):
            Q = "Q" if self.Q is None else f"Q = {self.Q}, as before"
            raise ShapeError(
                f"residual must return f of shape (..., n, Q) = (..., {n}, {Q}), the Q equations at each of the n "
                f"times of t; got {tuple(f.shape)} for y of shape {tuple(y.shape)}."
                + (" A single equation of shape (..., n) is returned as f[..., None]." if f.shape[-1:] == (n,) else "")
            )
        if f.shape[-1] == f.shape[-2] > V * orders:
            raise ShapeError(
                f"f has Q = {f.shape[-1]} equations at each of as many times, more than unknowns: shapes (..., n) and "
                "(..., n, Q) were broadcast. Write t[..., None] beside values of (..., n, Q)."
            )

    def _array(self, name: str, x: Any) -> np.ndarray:
        if not isinstance(x, np.ndarray):
            raise NamespaceError(f"{self.signature}: {name} must be a NumPy array, got {type(x).__name__}.")
        if x.dtype.kind not in "fiu":
            raise DTypeError(f"{self.signature}: {name} must have real numbers, got dtype {x.dtype}.")
        return x.astype(np.float64, copy=False)

    def _fit(self, name: str, x: np.ndarray, core: tuple[int, ...]) -> np.ndarray:
        if x.ndim < len(core) or x.shape[1 - len(core) :] != core[1:] or x.shape[-len(core)] not in (1, core[0]):
            expected = f"(..., {core[0]} or 1, {', '.join(map(str, core[1:]))})"
            raise ShapeError(f"{self.signature}: {name} must have shape {expected}; got {x.shape}.")
        return x if x.shape[-len(core)] == core[0] else np.broadcast_to(x, (*x.shape[: -len(core)], *core))


class ArrayEquations(Equations):
    """A residual on arrays of a framework, which returns f alone. Adapters say how arrays become those of NumPy and
    back, and how functions of them are differentiated.

    Args:
        array: the type of the framework's arrays, and how it is called.
        eps: the rounding of f.
    """

    gives_derivatives = False

    def __init__(self, function: Callable[..., Any], p: int, array: tuple[type, str], eps: float) -> None:
        super().__init__(function, p)
        self.signature = "residual(t, y, constants)" if p else "residual(t, y)"
        self.array, self.eps = array, eps

    def arrays(self, *numbers: np.ndarray, cores: Sequence[int] = (1, 3, 2)) -> list[Any]:
        """NumPy arrays (..., core axes) as arrays of the framework."""
        raise NotImplementedError

    def numbers(self, name: str, x: Any, core: int) -> Any:
        """The values of an argument or result (..., core axes) as a NumPy array; others as they are."""
        raise NotImplementedError

    def columns(self, function: Callable[[Any], Any], x: Any, core: int) -> Any:
        """The derivatives of a function of an array (..., core axes) in all of these, which its result gets behind."""
        raise NotImplementedError

    def given(self, t: Any, y: Any, constants: Any) -> list[Any]:
        """The arguments of the residual, as arrays of the framework."""
        return self.arrays(*(t, y, constants)[: 3 if self.p else 2])

    def value(self, t: np.ndarray, y: np.ndarray, constants: np.ndarray) -> np.ndarray:
        self.calls += 1
        f = self.numbers("residual", self.checked(self.given(t, y, constants)), 2)
        return np.broadcast_to(f, (*np.broadcast_shapes(f.shape[:-2], y.shape[:-3]), *f.shape[-2:]))

    def checked(self, arguments: Sequence[Any]) -> Any:
        """f, an array of the framework of the right shape."""
        f = self._of_framework("residual", self.called(tuple(arguments)), "(..., n, Q)")
        if "complex" in str(f.dtype):
            raise DTypeError(
                f"residual must return real numbers, got dtype {f.dtype}: real and imaginary parts of a complex "
                "variable are two variables, with two equations."
            )
        self.check_f(f, arguments[1])
        return f

    def conditions(self, conditions: Any) -> Any:
        """Conditions as callers give them, for the core: values as NumPy arrays, functions with their derivatives."""
        if isinstance(conditions, Mapping):
            return {float(time): self.numbers("conditions", x, 2) for time, x in conditions.items()}
        if not callable(conditions):
            return self.numbers("conditions", conditions, 2)

        def of_numbers(y: np.ndarray, *constants: np.ndarray) -> Any:
            Y, *c = self.arrays(y, *constants, cores=(3, 1))
            g = self._of_framework("conditions", conditions(Y, *c), "(..., C)")
            G = self.columns(lambda y: conditions(y, *c), Y, 3)
            return self.numbers("conditions", g, 1), self.numbers("conditions", G, 4)

        if self.p and takes_constants(conditions):
            return lambda y, constants: of_numbers(y, constants)
        return lambda y: of_numbers(y)

    def _of_framework(self, name: str, x: Any, shape: str) -> Any:
        kind, called = self.array
        if not isinstance(x, kind):
            raise NamespaceError(f"{name} must return a {called}, {shape}, got {type(x).__name__}.")
        return x


@dataclass(frozen=True)
class Conditions:
    """Conditions as a function of the states at the n times: values, or residuals of the caller's.

    Attributes:
        values: (..., n, V, R), NaN where nothing is given, or None.
        function: function(y[, constants]) for y (..., n, V, R) -> (..., C), or (residuals, (..., C, n, V, R)); or None.
    """

    values: Any
    function: Callable[..., Any] | None
    takes_constants: bool = False
    pattern: np.ndarray | None = None
    """(n, V, R), bool: which values are given, where the values do not say it"""

    @property
    def stated(self) -> np.ndarray:
        """Which values are given, (n, V, R), the same in all members."""
        if self.pattern is not None:
            return self.pattern
        return np.isfinite(self.values.reshape(-1, *self.values.shape[-3:])[0])

    @staticmethod
    def of(conditions: Any, times: np.ndarray, has_constants: bool) -> Conditions:
        """Conditions as callers give them.

        Raises:
            ArgumentError: for conditions at times that are not among `times`.
            ShapeError: for arrays that do not fit each other.
        """
        if callable(conditions):
            return Conditions(None, conditions, has_constants and takes_constants(conditions))
        if not isinstance(conditions, Mapping):
            conditions = {float(times[0]): conditions}
        arrays: dict[int, np.ndarray] = {}
        span = abs(times[-1] - times[0])
        for time, given in conditions.items():
            try:
                distance = np.abs(times - float(time))
            except (TypeError, ValueError):
                raise ArgumentError(f"conditions: {time!r} is not a time.") from None
            i = int(np.argmin(distance))
            if not distance[i] <= 1e-12 * span:
                raise ArgumentError(
                    f"conditions stand at time {time!r}, which is none of times = {times.tolist()}: add it to times."
                )
            value = as_floats(f"conditions at {time!r}", given)
            if value.ndim < 2:
                raise ShapeError(
                    f"conditions at {time!r} must have shape (..., V, order), NaN where nothing is given; got "
                    f"{value.shape}. Values x of V variables of order 1 are x[:, None] ([[1.0], [2.0]]), those of one "
                    "variable and its derivatives x[None] ([[1.0, 0.0]])."
                )
            if np.isinf(value).any():
                raise ArgumentError(f"conditions at {time!r} are infinite; NaN says that nothing is given.")
            arrays[i] = value
        if not arrays:
            raise ArgumentError("conditions hold none: give at least one time.")
        cores = {i: x.shape[-2:] for i, x in arrays.items()}
        if len(set(cores.values())) > 1:
            raise ShapeError(
                f"conditions must have one shape (..., V, order) at all times; got {list(cores.values())}."
            )
        try:
            batch = np.broadcast_shapes(*(x.shape[:-2] for x in arrays.values()))
        except ValueError:
            raise ShapeError("the batch axes of the conditions do not broadcast with each other.") from None
        values = np.full((*batch, len(times), *next(iter(cores.values()))), np.nan)
        for i, x in arrays.items():
            values[..., i, :, :] = x
        return Conditions(values, None)

    def evaluate(self, y: np.ndarray, constants: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Residuals (B..., C), their derivatives by y (B..., C, n, V, R) and by constants (B..., C, p); by differences
        where the function gives residuals only."""
        assert self.function is not None
        g, G = self._call(y, constants)
        C, p = g.shape[-1], constants.shape[-1]
        if G is None:
            G = _differences(lambda v: self._call(v, constants)[0], y, 3).reshape(
                *np.broadcast_shapes(g.shape[:-1], y.shape[:-3]), C, *y.shape[-3:]
            )
        G_p = np.zeros((*g.shape, p))
        if self.takes_constants and p:
            G_p = _differences(lambda v: self._call(y, v)[0], constants, 1)
        return g, G, G_p

    def _call(self, y: np.ndarray, constants: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        assert self.function is not None
        result = self.function(y.copy(), constants.copy()) if self.takes_constants else self.function(y.copy())
        g, G = result if isinstance(result, tuple) else (result, None)
        g = as_floats("the result of conditions", g)
        if g.ndim < 1:
            raise ShapeError("conditions must return residuals of shape (..., number of conditions); got a number.")
        if G is not None:
            G = as_floats("the derivatives returned by conditions", G)
            if G.shape[-4:] != (g.shape[-1], *y.shape[-3:]):
                raise ShapeError(
                    f"conditions must return derivatives of shape (..., {g.shape[-1]}, "
                    f"{', '.join(map(str, y.shape[-3:]))}); got {G.shape}."
                )
        return g, G


def refuse_coupling(name: str, function: Callable[[np.ndarray], np.ndarray], y: np.ndarray, f: np.ndarray) -> None:
    """
    Args:
        function: y (..., n, V, orders) -> values (..., n, rows), f for the y given.

    Raises:
        ArgumentError: if its values at one time depend on y at another.
    """
    other, size = y.copy(), np.abs(y).max(-3, keepdims=True)
    other[..., ::2, :, :] = np.where(y == 0, 0.1 * np.where(size > 0, size, 1.0), 1.1 * y)[..., ::2, :, :]
    with np.errstate(all="ignore"):
        noise = 1e3 * np.finfo(float).eps * np.abs(f[np.isfinite(f)]).max(initial=0.0)
        changed = np.abs(function(other) - f)[..., 1::2, :] > noise
    if changed.any():
        raise ArgumentError(
            f"{name} at one time depends on y at another time: changing y at some times changed its values at others. "
            "It must be evaluated at each time by itself. Differences in time are not needed, since y holds the "
            "derivatives; an integral or a mean becomes another variable with an equation of its own; statistics over "
            "time (as in batch normalisation) must be constants."
        )


def _padded(J: np.ndarray, orders: int) -> np.ndarray:
    """J with zeros for the derivatives that it leaves out."""
    missing = orders - J.shape[-1] if J.ndim else 0
    return J if missing <= 0 else np.concatenate([J, np.zeros((*J.shape[:-1], missing))], axis=-1)


def _differences(function: Callable[[np.ndarray], np.ndarray], x: np.ndarray, rank: int) -> np.ndarray:
    """Central differences of (..., C) in the entries of the last `rank` axes of x: (..., C, entries)."""
    core = x.shape[-rank:]
    columns = []
    for i in np.ndindex(core):
        h = 6e-6 * np.maximum(np.abs(x[(..., *i)]), 1e-2)
        up, down = x.copy(), x.copy()
        up[(..., *i)] += h
        down[(..., *i)] -= h
        with np.errstate(all="ignore"):
            columns.append((function(up) - function(down)) / (2 * h)[..., None])
    return np.stack(columns, axis=-1)


def takes_constants(conditions: Callable[..., Any]) -> bool:
    """Conditions as a function of the states and of the constants, not of the states alone."""
    try:
        parameters = inspect.signature(conditions).parameters.values()
    except (TypeError, ValueError):
        return False
    kinds = inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD
    return sum(x.kind in kinds and x.default is inspect.Parameter.empty for x in parameters) >= 2
