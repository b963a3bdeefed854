"""Equations, observables, noise and initial values as callbacks, evaluated for members of a batch.

Letters: M members (each a data set and an experiment), n points, V variables, q order, Q equations, m observables,
p parameters. Everything with derivatives in φ, the parameters as they are moved (`Parameters`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from .._arrays import Array
from .._errors import ArgumentError, ShapeError
from ._observed import TRANSFORMS
from ._parameters import Parameters
from ._travel import for_pickle

__all__ = ["Linear", "Model"]

BELOW = 1e-4
"""Part of the smallest datum below which the logarithm of an observable goes on as a straight line."""


class Linear(NamedTuple):
    """A value with its derivatives."""

    value: Array
    """(M, n, rows)"""
    in_y: Array
    """(M or 1, n or 1, rows, V, orders)"""
    in_φ: Array
    """(M, n, rows, p)"""


@dataclass(frozen=True, eq=False)
class Model:
    """The callbacks of a fit; see `smnn_core.fit` for what they return."""

    residual: Callable[..., Any]
    observe: Callable[..., Any] | None
    noise: Callable[..., Any] | None
    initial: Callable[..., Any] | None
    """a function of the parameters (and inputs)"""
    parameters: Parameters
    inputs: Sequence[Any] | None
    """one for each experiment: numbers (n_in,) or a function of times"""
    transforms: tuple[str | None, ...]
    V: int
    q: int
    steady: bool = False
    """whether derivatives vanish at the first time"""
    steady_inputs: Sequence[Any] | None = None
    """the inputs before the first time, where they are others"""
    jumps: Any = None
    """what is added to y at `jump_times`: numbers (E, n, V), or a function of the parameters (and inputs)"""
    jump_times: Array | None = None
    """(E, n), NaN where there are fewer"""

    def jumped(self, φ: Array, who: Array) -> tuple[Array, Array]:
        """Additions to y at each jump, (M, n, V), and their derivatives in φ, (M, n, V, p)."""
        assert self.jump_times is not None
        (M, p), n = φ.shape, self.jump_times.shape[1]
        if not callable(self.jumps):
            return self.jumps[who], np.zeros((M, n, self.V, p))
        u = self._inputs(np.zeros((M, 1)), who)
        result = self.jumps(*((self.parameters.for_callback(φ),) if p else ()), *(() if u is None else (u,)))
        value, slope = result if isinstance(result, tuple) else (result, np.zeros(()))
        value, slope = np.asarray(value, float), np.asarray(slope, float)
        if value.ndim == 2:  # (M, V): all jumps are alike
            value, slope = value[:, None], slope[:, None] if slope.ndim else slope
        if value.shape[-1:] != (self.V,) or value.shape[-2] not in (1, n):
            raise ShapeError(f"jumps must give {(M, n, self.V)} for {M} members; got shape {value.shape}.")
        value, slope = np.broadcast_to(value, (M, n, self.V)), np.broadcast_to(slope, (M, n, self.V, p))
        return value, slope * self.parameters.slope(φ)[:, None, None, :]

    def __getstate__(self) -> dict[str, Any]:
        named = ("residual", "observe", "noise", "initial", "jumps", "inputs", "steady_inputs")
        return vars(self) | {name: for_pickle(getattr(self, name), name) for name in named}

    def equations(self, t: Array, y: Array, φ: Array, who: Array) -> Linear:
        """f = 0 at t (M, n), y (M, n, V, q+1), φ (M, p), for the experiments who (M,)."""
        f = self._called("residual", self.residual, t, y, φ, who)
        Q, n = f.value.shape[-1], t.shape[-1]
        if Q < self.V:
            raise ShapeError(
                f"residual gives Q = {Q} equations for V = {self.V} variables ({self._counted}), which leave y open: "
                "give an equation for each, or leave columns of what has none out of data; of what is measured beside "
                "the variables, observe= is a function."
            )
        if Q == n > self.V * (self.q + 1):
            raise ShapeError(
                f"residual gives Q = {Q} equations at each of as many times, more than unknowns: shapes (..., n) and "
                "(..., n, Q) were broadcast. Write θ[..., None] beside values of (..., n, Q)."
            )
        return f

    def at_rest(self, t: Array, y: Array, φ: Array, who: Array) -> Linear:
        """f at the first time t (M, 1), y (M, 1, V, q+1), without derivatives; with those in y alone."""
        own = self if self.steady_inputs is None else replace(self, inputs=self.steady_inputs)
        still = np.zeros_like(y)
        still[..., 0] = y[..., 0]
        f = own.equations(t, still, φ, who)
        return Linear(f.value, f.in_y[..., :1], f.in_φ)

    def observables(self, t: Array, y: Array, φ: Array, who: Array, least: Array) -> tuple[Linear, Array]:
        """h, transformed, and where it lies outside of what has a logarithm, (M, n, m).

        Below `BELOW` times the smallest datum (m,) logarithms go on as straight lines.
        """
        m = len(self.transforms)
        if self.observe is None:
            value, H = y[..., 0], np.eye(self.V)[None, None, :, :, None]
            h = Linear(value, H, np.zeros((*value.shape, self.parameters.p)))
        else:
            h = self._called("observe", self.observe, t, y, φ, who)
        if h.value.shape[-1] != m:
            raise ShapeError(
                f"observe gives {h.value.shape[-1]} observables, data has {m} columns: one for each is needed, NaN "
                "where it was not observed."
            )
        outside = np.zeros(h.value.shape, bool)
        if not any(self.transforms):
            return h, outside
        value, in_y, in_φ = h.value.copy(), np.broadcast_to(h.in_y, (*h.value.shape, *h.in_y.shape[-2:])).copy(), h.in_φ
        in_φ = in_φ.copy()
        for j, kind in enumerate(self.transforms):
            if kind is not None:
                function, inverse, factor = TRANSFORMS[kind]
                floor = BELOW * inverse(least[j]) if np.isfinite(least[j]) else BELOW
                above = np.maximum(h.value[..., j], floor)
                slope = factor / above
                value[..., j] = function(above) + slope * (h.value[..., j] - above)
                outside[..., j] = h.value[..., j] < floor
                in_y[..., j, :, :] *= slope[..., None, None]
                in_φ[..., j, :] *= slope[..., None]
        return Linear(value, in_y, in_φ), outside

    def deviations(self, t: Array, y: Array, φ: Array, who: Array) -> Linear:
        """Standard deviations of the data, where a function gives them."""
        return self._called("noise", self.noise, t, y, φ, who)

    def initial_values(self, t: Array, φ: Array, who: Array) -> tuple[Array, Array]:
        """y at the first time, (M, V, q), NaN where it is free, and its derivatives in φ, (M, V, q, p)."""
        M, p = φ.shape
        u = self._inputs(t[:, :1], who)
        given = (self.parameters.for_callback(φ), *(() if u is None else (u,)))
        assert self.initial is not None
        result = self.initial(*given)
        value, slope = result if isinstance(result, tuple) else (result, np.zeros(()))
        value, slope = np.asarray(value, float), np.asarray(slope, float)
        core = (self.V, self.q)
        if value.shape[-2:] == (1, self.V):  # (M, 1, V): with the axis of points
            value, slope = value[..., 0, :], slope[..., 0, :, :] if slope.ndim > 2 else slope
        if value.shape[-1] == self.V and value.shape[-2:] != core:
            value, slope = value[..., None], slope[..., None, :] if slope.ndim else slope
            value = np.concatenate([value, np.full((*value.shape[:-1], self.q - 1), np.nan)], -1)
            if slope.ndim:
                slope = np.concatenate([slope, np.zeros((*slope.shape[:-2], self.q - 1, p))], -2)
        if value.shape[-2:] != core:
            raise ShapeError(f"initial must give {self.V} values (or {core}); got shape {value.shape}.")
        return (
            np.broadcast_to(value, (M, *core)),
            np.broadcast_to(slope, (M, *core, p)) * self.parameters.slope(φ)[:, None, None, :],
        )

    @property
    def _counted(self) -> str:
        """The argument that says how many variables there are."""
        return "as data has columns" if self.observe is None else "as variables=, initial= or scale= say"

    def _inputs(self, t: Array, who: Array) -> Array | None:
        """Inputs at times t (M, n): (M, n, n_in)."""
        if self.inputs is None:
            return None
        rows = []
        for e, times in zip(who, t, strict=True):
            own = self.inputs[int(e)]
            u = np.asarray(own(times) if callable(own) else own, float)
            u = u[:, None] if callable(own) and u.ndim == 1 else u
            rows.append(np.broadcast_to(u, (len(times), u.shape[-1] if u.ndim else 1)))
        return np.stack(rows)

    def _called(
        self, name: str, function: Callable[..., Any] | None, t: Array, y: Array, φ: Array, who: Array
    ) -> Linear:
        p, u = self.parameters.p, self._inputs(t, who)
        arguments = (t, y, *((self.parameters.for_callback(φ),) if p else ()), *(() if u is None else (u,)))
        assert function is not None
        try:
            with np.errstate(all="ignore"):  # of a step that goes too far, which is taken back
                result = function(*arguments)
        except Exception as error:
            error.add_note(
                f"{name} was called with t of shape {t.shape} and y of shape {y.shape}, (..., V, order+1): "
                f"V = {self.V} variables ({self._counted}), order = {self.q}."
            )
            raise
        if not isinstance(result, tuple) or len(result) not in (2, 3) or (p and len(result) == 2):
            raise ArgumentError(f"{name} must return its values and derivatives in y{' and parameters' if p else ''}.")
        value, in_y = (np.asarray(x, float) for x in result[:2])
        if value.shape[:2] != t.shape or value.ndim != 3:
            raise ShapeError(
                f"{name} must return values of shape {(*t.shape, 'rows')}; got {value.shape}."
                + (" A parameter by name is (M, 1) and stands beside (M, n) as it is." if value.ndim > 3 else "")
            )
        if in_y.shape[-3:-1] != (value.shape[-1], self.V) or not 1 <= in_y.shape[-1] <= self.q + 1:
            raise ShapeError(
                f"{name} must return derivatives in y of shape {(*value.shape, self.V, self.q + 1)}; got {in_y.shape}."
            )
        if not p:
            return Linear(value, in_y, np.zeros((*value.shape, 0)))
        in_θ = np.broadcast_to(np.asarray(result[2], float), (*value.shape, p))
        return Linear(value, in_y, in_θ * self.parameters.slope(φ)[:, None, None, :])
