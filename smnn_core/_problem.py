"""The problem as data: checked before any work, and not broadcast.

Letters as everywhere in this library: T time points, V variables, K = R+1 derivative orders, Q equations,
n = V*K unknowns per time point.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any, NamedTuple, TypeVar

import array_api_compat as compat
import numpy as np

from . import _cupy
from ._arrays import (
    Array,
    Namespace,
    Shape,
    as_numpy,
    broadcast_shapes,
    can_look,
    common_namespace,
    device_of,
    has_zero,
    is_numpy,
    number,
)
from ._errors import ArgumentError, ShapeError
from ._fields import FIELDS, Sizes, number_of_steps
from ._schemes import TAYLOR, Scheme
from ._validate import check_initial, check_integer, show

__all__ = [
    "ALL",
    "NONE",
    "OF_LHS",
    "UNIT",
    "Gradients",
    "Problem",
    "Rows",
    "System",
    "Weights",
    "by_field",
    "copy_with",
    "from_fields",
    "inputs_by_field",
]

ArrayOrNumber = Any
_T = TypeVar("_T", "Problem", "System")

ZERO_STEP = (
    "step_sizes contains a zero: two time points cannot coincide. Merge them, or, for padding, keep any non-zero step "
    "and set weights.equation to zero there. (step_sizes are the differences of the times, such as numpy.diff(t), not "
    "the times.)"
)


@dataclass(frozen=True)
class Weights:
    """The weights that multiply the rows: numbers, or arrays that broadcast against their rows. Zero removes a row.

    An array is of the dtype of the other arguments, or of bool: a mask of the rows that count.

    Args:
        equation: (..., T, Q) or anything that broadcasts to it.
        initial: (..., T_init, V, R_init) or anything that broadcasts to it.
        smoothness: (..., T-1) or anything that broadcasts to it.
    """

    equation: ArrayOrNumber = 1.0
    initial: ArrayOrNumber = 1.0
    smoothness: ArrayOrNumber = 1.0


UNIT = Weights()
"""All rows count the same."""


class Rows(NamedTuple):
    """One value per row of the least-squares problem, with leading batch axes; None means zeros."""

    equation: Array
    """(..., T, Q)"""
    initial: Array
    """(..., T_init, V, R_init)"""
    smoothness: Array
    """(..., T-1, V, m), or None"""


NO_ROWS = Rows(None, None, None)
"""All of them are zero."""


class Gradients(NamedTuple):
    """One array per input of the solver, each in the shape of its input: gradients, or (None: zero) tangents."""

    coefficients: Array
    rhs: Array
    initial_values: Array
    step_sizes: Array
    weights: Weights


def by_field(gradients: Gradients) -> tuple[Any, ...]:
    """Gradients, or which of them are wanted, one after another in the order of `FIELDS`, which is that of the kernels,
    too (`engines/_cpu/job.hpp`)."""
    *fields, w = gradients
    return *fields, w.equation, w.initial, w.smoothness


def from_fields(values: Iterable[Any]) -> Gradients:
    """The inverse of `by_field`."""
    c, b, u, s, *weights = values
    return Gradients(c, b, u, s, Weights(*weights))


def inputs_by_field(system: System, rhs: Array = None, initial_values: Array = None) -> tuple[Array, ...]:
    """The inputs of a problem in the order of their gradients, `by_field`."""
    return by_field(Gradients(system.coefficients, rhs, initial_values, system.step_sizes, system.weights))


ALL = from_fields([True] * len(FIELDS))
"""Every gradient is wanted."""

NONE = from_fields([None] * len(FIELDS))
"""And none."""

OF_LHS = from_fields(field.is_of_lhs for field in FIELDS.values())
"""Gradients of the left-hand side, which log det M has."""


@dataclass(frozen=True, eq=False)
class System:
    """The left-hand side W A of the least-squares problem: checked, not broadcast. Build with `System.build`."""

    xp: Namespace
    coefficients: Array
    """(..., T or 1, Q, V, K)"""
    step_sizes: Array
    """(..., T-1 or 1)"""
    weights: Weights
    """Arrays of the same namespace, not broadcast; (number weights became 0-d arrays)."""
    scheme: Scheme
    n_steps: int
    """T"""
    n_initial_steps: int
    """T_init"""
    n_initial_orders: int
    """R_init"""
    batch: Shape
    """The common batch shape of coefficients, step sizes and weights."""
    device: Any
    """The device of the arrays, None while they are traced, or lie on several devices."""

    def __getstate__(self) -> dict[str, Any]:
        """For pickle and copy, which take no modules: the namespace by its name."""
        return vars(self) | {"xp": self.xp.__name__}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, xp=import_module(state["xp"]))

    @property
    def dtype(self) -> Any:
        return self.coefficients.dtype

    @property
    def Q(self) -> int:
        return self.coefficients.shape[-3]

    @property
    def V(self) -> int:
        return self.coefficients.shape[-2]

    @property
    def K(self) -> int:
        return self.coefficients.shape[-1]

    @property
    def n(self) -> int:
        """Unknowns per time point."""
        return self.V * self.K

    @property
    def sizes(self) -> Sizes:
        """The lengths of all axes behind those of the batch."""
        return Sizes(self.n_steps, self.Q, self.V, self.K, self.n_initial_steps, self.n_initial_orders)

    @property
    def inputs(self) -> dict[str, Array]:
        """The arrays by name, in the order of `FIELDS`."""
        weights = {f"weights.{k}": x for k, x in vars(self.weights).items()}
        return {"coefficients": self.coefficients, "step_sizes": self.step_sizes, **weights}

    def member(self, index: tuple[int, ...]) -> dict[str, np.ndarray]:
        """The inputs of one member of the batch, as NumPy arrays of full size."""

        def full(name: str, x: Array) -> np.ndarray:
            return np.broadcast_to(as_numpy(x), (*self.batch, *FIELDS[name].core(self.sizes)))

        return {name: full(name, x)[index] for name, x in self.inputs.items()}

    @property
    def smoothness_matrices(self) -> tuple[Array, Array]:
        """F and G of the scheme, (m, K), as arrays of the namespace, dtype and device of the problem."""
        F, G = (self.constant(M) for M in self.scheme.rows(self.K))
        return F, G

    def batch_with(self, d: Rows) -> Shape:
        """The common batch shape with right-hand sides."""
        return broadcast_shapes(
            {
                "left-hand side": self.batch,
                "rhs": tuple(d.equation.shape[:-2]),
                "initial_values": tuple(d.initial.shape[:-3]),
                "smoothness": () if d.smoothness is None else tuple(d.smoothness.shape[:-3]),
            }
        )

    def constant(self, values: Any) -> Array:
        """Numbers as an array of the namespace, dtype and device of the problem."""
        if compat.is_cupy_namespace(self.xp):
            return _cupy.constant(self.xp, values, self.dtype, self.device)
        return self.xp.asarray(values, dtype=self.dtype, device=self.device)

    @property
    def can_look(self) -> bool:
        """True if values can be read at no cost: concrete arrays on a CPU."""
        return all(can_look(x) for x in self.inputs.values())

    @property
    def is_finite(self) -> Array:
        """Which batch members have no infinite or undefined entry, bool, (*batch,)."""
        xp = self.xp
        finite = xp.ones(self.batch, dtype=xp.bool, device=self.device)
        for name, x in self.inputs.items():
            axes = tuple(range(max(x.ndim - FIELDS[name].rank, 0), x.ndim))
            finite = finite & xp.all(xp.isfinite(x), axis=axes)
        return finite

    @staticmethod
    def build(
        coefficients: Array,
        step_sizes: Array,
        *,
        n_initial_steps: int,
        n_initial_orders: int,
        n_steps: int | None,
        scheme: Scheme,
        weights: Weights,
        right_hand_side: Mapping[str, Array] | None = None,
        values: bool = True,
    ) -> System:
        """Checks the arguments that make up A and W, together with those of the right-hand side where there is one.

        Without `values` it looks at shapes alone, for callers who leave the system to an engine, which looks itself.
        """
        if not isinstance(scheme, Scheme):
            raise TypeError(
                "scheme must be a Scheme (HERMITE, WIENER, TAYLOR or Scheme.from_matrices(F, G)), got "
                f"{type(scheme).__name__}."
            )
        check_weights(weights)
        right_hand_side = dict(right_hand_side or {})
        arrays = {"coefficients": coefficients, **right_hand_side, "step_sizes": step_sizes}
        given = {f"weights.{k}": w for k, w in vars(weights).items() if not isinstance(w, (int, float))}
        xp = common_namespace({**arrays, **given})

        for name, x in arrays.items():
            FIELDS[name].check_rank(x)
        if 0 in coefficients.shape[-3:]:
            raise ShapeError(f"coefficients {show(coefficients)} must have at least one equation, variable and order.")
        T = number_of_steps({**arrays, **given}, n_steps)
        K = coefficients.shape[-1]
        scheme.rows(K)
        T_init, R_init = n_initial_steps, n_initial_orders
        check_integer("n_initial_steps", T_init)
        check_integer("n_initial_orders", R_init)
        given_in = "initial_values" if "initial_values" in right_hand_side else None
        names = given_in or "n_initial_steps", given_in or "n_initial_orders"
        check_initial(T_init, R_init, T, K, names=names)

        device = device_of(coefficients)
        as_arrays = Weights(
            **{
                k: number(xp, w, coefficients.dtype, device) if isinstance(w, (int, float)) else w
                for k, w in vars(weights).items()
            }
        )
        system = System(
            xp=xp,
            coefficients=coefficients,
            step_sizes=step_sizes,
            weights=as_arrays,
            scheme=scheme,
            n_steps=T,
            n_initial_steps=T_init,
            n_initial_orders=R_init,
            batch=(),
            device=device,
        )
        sizes = system.sizes
        batch = broadcast_shapes({name: FIELDS[name].batch(x, sizes) for name, x in system.inputs.items()})
        system = copy_with(system, batch=batch)
        if values:
            system.check_values()
        return system

    def check_values(self) -> None:
        """
        Raises:
            ArgumentError: if a step size is zero, where looking costs nothing.
        """
        check_steps(self.xp, self.step_sizes)


def check_steps(xp: Namespace, step_sizes: Array, looks: Callable[[Array], bool] = can_look) -> None:
    """
    Raises:
        ArgumentError: if a step size is zero, where `looks` lets it be read.
    """
    if looks(step_sizes) and has_zero(xp, step_sizes):
        raise ArgumentError(ZERO_STEP)


@dataclass(frozen=True, eq=False)
class Problem:
    """min_y |W (A y - d)|^2 with d = (rhs, initial_values, smoothness): a system and its right-hand side, checked."""

    system: System
    rhs: Array
    """(..., T or 1, Q)"""
    initial_values: Array
    """(..., T_init, V, R_init)"""
    batch: Shape
    """The batch shape of the solution."""
    smoothness: Array | None = None
    """(..., T-1, V, m): right-hand side of the smoothness rows. None, zero, in every problem that a user states; the
    derivatives of solutions are solutions of problems where it is not."""

    @property
    def rows(self) -> Rows:
        """The right-hand side d, not broadcast."""
        return Rows(self.rhs, self.initial_values, self.smoothness)

    @staticmethod
    def build(
        coefficients: Array,
        rhs: Array,
        initial_values: Array,
        step_sizes: Array,
        *,
        n_steps: int | None = None,
        scheme: Scheme = TAYLOR,
        weights: Weights = UNIT,
        values: bool = True,
    ) -> Problem:
        """Checks all arguments of `smnn_core.solve_ode`; see there for shapes and errors, and `System.build`.

        Most problems look like one before them, and checking takes longer than solving a small one: what it finds out
        depends on shapes and numbers alone, and is remembered for NumPy arrays.
        """
        arrays = coefficients, rhs, initial_values, step_sizes
        key = _appearance(*arrays, n_steps, scheme, weights)
        known = None if key is None else _known.get(key)
        if known is not None:
            problem = known._with_arrays(*arrays, weights)
        else:
            problem = Problem._checked(*arrays, n_steps, scheme, weights)
            if key is not None:
                if len(_known) >= MOST_KNOWN:
                    _known.clear()
                none = Weights(*(None if is_numpy(w) else w for w in vars(weights).values()))
                _known[key] = problem._with_arrays(None, None, None, None, none)
        if values:
            problem.system.check_values()
        return problem

    @staticmethod
    def _checked(
        coefficients: Array,
        rhs: Array,
        initial_values: Array,
        step_sizes: Array,
        n_steps: int | None,
        scheme: Scheme,
        weights: Weights,
    ) -> Problem:
        common_namespace({"coefficients": coefficients, "initial_values": initial_values})
        FIELDS["initial_values"].check_rank(initial_values)
        system = System.build(
            coefficients,
            step_sizes,
            n_initial_steps=initial_values.shape[-3],
            n_initial_orders=initial_values.shape[-1],
            n_steps=n_steps,
            scheme=scheme,
            weights=weights,
            right_hand_side={"rhs": rhs, "initial_values": initial_values},
            values=False,
        )
        return Problem._of(system, rhs, initial_values)

    @staticmethod
    def of(system: System, rhs: Array, initial_values: Array) -> Problem:
        """A right-hand side for a system that is checked already."""
        common_namespace({"coefficients": system.coefficients, "rhs": rhs, "initial_values": initial_values})
        FIELDS["rhs"].check_rank(rhs)
        FIELDS["initial_values"].check_rank(initial_values)
        return Problem._of(system, rhs, initial_values)

    @staticmethod
    def _of(system: System, rhs: Array, initial_values: Array) -> Problem:
        """Checks what is left: whether the shapes fit."""
        given = {"rhs": rhs, "initial_values": initial_values}
        shapes = {name: FIELDS[name].batch(x, system.sizes) for name, x in given.items()}
        batch = broadcast_shapes({"left-hand side": system.batch, **shapes})
        return Problem(system, rhs, initial_values, batch)

    def _with_arrays(
        self, coefficients: Array, rhs: Array, initial_values: Array, step_sizes: Array, weights: Weights
    ) -> Problem:
        """The same problem for other arrays of the same shapes; weights that are numbers are those that it has."""
        own = self.system.weights
        if weights is not UNIT:
            pairs = zip(vars(weights).values(), vars(own).values(), strict=True)
            own = Weights(*[number if isinstance(w, (int, float)) else w for w, number in pairs])
        system = copy_with(self.system, coefficients=coefficients, step_sizes=step_sizes, weights=own)
        return copy_with(self, system=system, rhs=rhs, initial_values=initial_values)


_known: dict[Any, Problem] = {}
"""Problems that were checked before, without their arrays, by `_appearance`."""
MOST_KNOWN = 1024


def _appearance(
    c: Array, b: Array, u: Array, s: Array, n_steps: int | None, scheme: Scheme, weights: Weights
) -> tuple[Any, ...] | None:
    """The properties that are checked, if all arrays are of NumPy and of one dtype; None where it must look closer."""
    if not (type(c) is type(b) is type(u) is type(s) is np.ndarray) or type(scheme) is not Scheme:
        return None
    dtype = c.dtype
    if not (dtype is b.dtype is u.dtype is s.dtype) or not (n_steps is None or type(n_steps) is int):
        return None
    of_weights: list[Any] | None = None
    if weights is not UNIT:
        if not isinstance(weights, Weights):
            return None
        of_weights = []
        for x in vars(weights).values():
            if is_numpy(x) and x.dtype is dtype:
                of_weights.append(x.shape)
            elif isinstance(x, (int, float)):
                of_weights.append(x)
            else:
                return None
    return scheme, n_steps, dtype, of_weights and tuple(of_weights), c.shape, b.shape, u.shape, s.shape


def copy_with(x: _T, **changes: Any) -> _T:
    """A copy of a frozen dataclass with other fields, as `dataclasses.replace` in a tenth of its time."""
    copy = object.__new__(type(x))
    copy.__dict__.update(x.__dict__, **changes)
    return copy


def check_weights(weights: Any) -> None:
    """
    Raises:
        TypeError: if they are something else.
    """
    if not isinstance(weights, Weights):
        raise TypeError(
            f"weights must be Weights(equation=..., initial=..., smoothness=...), got {type(weights).__name__}."
        )
