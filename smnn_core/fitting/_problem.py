"""The arguments of a fit: checked, as float64, with the axes of the batch as one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from .._arrays import (
    Array,
    Namespace,
    Shape,
    broadcast_shapes,
    can_look,
    common_namespace,
    device_of,
    is_tracer,
    without_derivatives,
)
from .._arrays import size as size_of
from .._errors import ArgumentError, ShapeError
from .._problem import Weights, check_steps, check_weights
from .._validate import check_integer
from ..nonlinear._linearize import Linearizer
from ._start import Observations, spread

__all__ = ["FitProblem", "check_shapes", "check_values", "checked_bounds", "common_batch", "pair_of_bounds"]


@dataclass(frozen=True, eq=False)
class FitProblem:
    """What is fitted to what. B members of a batch, T time points, V variables, K orders, p parameters (0 for none)."""

    xp: Namespace
    linearize: Linearizer
    dtype: Any
    """of the arguments, and of the result"""
    batch: Shape
    data: Observations
    """in the units of the data"""
    has_order_axis: bool
    K: int
    p: int
    shared: bool
    t: Array
    """(..., T), with the batch axes of the steps"""
    size: Array
    """(B, V): the size of each variable"""
    noise: Array | None
    """(B or 1, T or 1, V, R_obs), None where it is to be estimated"""
    start: Array
    """(B, p), or (1, p) where parameters are shared"""
    guess: Array | None
    """(B, T, V, K), NaN where nothing was given"""
    bounds: tuple[Array, Array] | None
    """(B or 1, p) each"""
    weights: Weights | None
    """equation (B or 1, T or 1, Q or 1), smoothness (B or 1, T-1 or 1)"""

    @property
    def B(self) -> int:
        return size_of(self.batch)

    @property
    def needs_start(self) -> bool:
        """Whether the guess leaves something open."""
        return self.guess is None or bool(self.xp.any(self.xp.isnan(self.guess)))

    @property
    def device(self) -> Any:
        return device_of(self.data.values)

    def at(self, y: Array, θ: Array) -> tuple[Array, Array, Array]:
        """f (B, T, Q), J (B or 1, T or 1, Q, V, K) and P (B or 1, T or 1, Q, p) at y (B, T, V, K) and θ (B or 1, p)."""
        xp, p, batch = self.xp, self.p, self.batch
        y = xp.reshape(y, (*batch, *y.shape[1:]))
        if self.linearize.with_parameters:
            θ = xp.reshape(θ, (1, p) if self.shared else (*batch, 1, p))
        with np.errstate(all="ignore"):  # of a step that goes too far, which is taken back
            f, J, P = self.linearize(self.t, y, θ if self.linearize.with_parameters else None)
        if P is None:
            P = xp.zeros((1, f.shape[-1], 0), dtype=y.dtype, device=self.device)
        if broadcast_shapes({"data": batch, "f": tuple(f.shape[:-2])}) != batch:
            raise ShapeError(
                f"f returned by linearize has the batch axes {tuple(f.shape[:-2])}, the arguments of the fit {batch}: "
                "give data (or step_sizes, guess, parameters) all batch axes that the equations have."
            )
        f = xp.broadcast_to(f, (*batch, *f.shape[-2:]))
        f = xp.reshape(f, (self.B, *f.shape[-2:]))
        return f, flat(xp, J, 4, batch), flat(xp, P, 3, batch)

    def shaped(self, x: Array) -> Array:
        """(B, ...) -> (*batch, ...), with the dtype of the arguments."""
        return self.xp.astype(self.xp.reshape(x, (*self.batch, *x.shape[1:])), self.dtype)

    @staticmethod
    def build(
        linearize: Callable[..., Any],
        arrays: dict[str, Any],
        *,
        order: int,
        observed_orders: int | None,
        bounds: tuple[Any, Any] | None,
        shared: bool,
        weights: Weights | None,
        max_iterations: int | None,
    ) -> FitProblem:
        """Checks everything; see `smnn_core.fit_ode` for shapes and errors.

        Args:
            arrays: data, step_sizes, parameters, noise, guess, t0 and scale: arrays, numbers or None.
        """
        order = check_integer("order, the highest derivative in y,", order, least=1)
        xp, dtype, x = _as_float64(arrays, bounds, weights)
        θ, guess = x.get("parameters"), x.get("guess")
        check_shapes(x["data"], x["step_sizes"], θ, guess, order=order, observed_orders=observed_orders)
        check_values(
            xp,
            x["data"],
            x["step_sizes"],
            x.get("noise"),
            x.get("scale"),
            weights,
            max_iterations,
            looks=lambda _: True,
        )
        data = x["data"] if observed_orders is not None else x["data"][..., None]
        T, V, R_obs = data.shape[-3:]
        s = _steps(xp, x["step_sizes"], T)
        if shared and (θ is None or size_of(tuple(θ.shape[:-1])) != 1):
            found = "none" if θ is None else f"shape {tuple(θ.shape)}"
            raise ShapeError(f"parameters that data sets share must have shape (p,); got {found}.")
        batch = common_batch(x, has_order_axis=observed_orders is not None, shared=shared)
        p, B = 0 if θ is None else int(θ.shape[-1]), size_of(batch)
        observed = ~xp.isnan(data)
        t = _times(xp, s, x["t0"], T)
        one = xp.ones((), dtype=xp.float64, device=device_of(data))
        observations = Observations(
            xp,
            expanded(xp, xp.where(observed, data, 0 * one), 3, batch),
            expanded(xp, xp.astype(observed, xp.float64), 3, batch),
            flat(xp, t, 1, batch),
            flat(xp, s, 1, batch),
        )
        start = xp.zeros((B, 0), dtype=xp.float64, device=device_of(data)) if θ is None else θ
        start = xp.reshape(start, (1, p)) if shared else expanded(xp, start, 1, batch)
        return FitProblem(
            xp=xp,
            linearize=Linearizer(linearize, with_parameters=θ is not None),
            dtype=dtype,
            batch=batch,
            data=observations,
            has_order_axis=observed_orders is not None,
            K=order + 1,
            p=p,
            shared=shared,
            t=t,
            size=_size(xp, x.get("scale"), observations, batch, weights),
            noise=_noise(xp, x.get("noise"), (T, V, R_obs), observed_orders is not None, batch),
            start=start,
            guess=None if guess is None else expanded(xp, guess, 3, batch),
            bounds=_bounds(xp, x, batch, shared),
            weights=None if weights is None else _weights(xp, x, batch, T),
        )


def flat(xp: Namespace, x: Array, rank: int, batch: Shape) -> Array:
    """(..., core) with `rank` core axes -> (B, core); (1, core) where x has no batch axes but of length 1."""
    lead, core = tuple(x.shape[: x.ndim - rank]), tuple(x.shape[x.ndim - rank :])
    if size_of(lead) == 1:
        return xp.reshape(x, (1, *core))
    return xp.reshape(xp.broadcast_to(x, (*batch, *core)), (size_of(batch), *core))


def expanded(xp: Namespace, x: Array, rank: int, batch: Shape) -> Array:
    """As `flat`, always (B, core)."""
    x = flat(xp, x, rank, batch)
    return xp.asarray(xp.broadcast_to(x, (size_of(batch), *x.shape[1:])), copy=True)


def _as_float64(
    given: dict[str, Any], bounds: tuple[Any, Any] | None, weights: Weights | None
) -> tuple[Namespace, Any, dict[str, Array]]:
    """The namespace and dtype that all arrays share, and everything that was given in float64."""
    given = {name: x for name, x in given.items() if x is not None}
    if bounds is not None:
        given |= {name: x for name, x in zip(BOUNDS, pair_of_bounds(bounds), strict=True) if x is not None}
    if weights is not None:
        check_weights(weights)
        given |= {"weights.equation": weights.equation, "weights.smoothness": weights.smoothness}
    given = dict(zip(given, without_derivatives("fit_ode", tuple(given.values())), strict=True))
    arrays = {name: x for name, x in given.items() if not isinstance(x, (int, float))}
    xp = common_namespace({"data": given["data"], **arrays})
    data = given["data"]
    as_float64 = {name: xp.asarray(x, dtype=xp.float64, device=device_of(data)) for name, x in given.items()}
    return xp, data.dtype, as_float64


def check_shapes(
    data: Array, s: Array, parameters: Array | None, guess: Array | None, *, order: int, observed_orders: int | None
) -> None:
    """Raises ShapeError, naming the argument, where shapes do not fit; looks at no values. `s` may be without axes."""
    core, have = ("T, V" if observed_orders is None else "T, V, observed_orders"), tuple(data.shape)
    rank = 2 if observed_orders is None else 3
    R_obs = 1 if observed_orders is None else have[-1] if have else 0
    if len(have) < rank or 0 in have[-rank:] or have[-rank] < 2:
        raise ShapeError(f"data must have shape (..., {core}) with at least two time points; got {have}.")
    if observed_orders is not None and R_obs != observed_orders:
        raise ShapeError(f"data must have shape (..., {core}), {observed_orders} last; got {have}.")
    if R_obs > order + 1:
        raise ShapeError(f"data hold {R_obs} orders, y has order + 1 = {order + 1}: raise order.")
    T, V = have[-rank], have[1 - rank]
    if s.ndim and s.shape[-1] not in (1, T - 1):
        hint = " Are step_sizes the times? They must be their differences." if s.shape[-1] == T else ""
        raise ShapeError(
            f"step_sizes must have shape (..., T-1 or 1) = (..., {T - 1} or 1); got {tuple(s.shape)}.{hint}"
        )
    _check_core("guess", guess, (T, V, order + 1), "T, V, R+1")
    _check_core("parameters", parameters, None, "p")


def check_values(
    xp: Namespace,
    data: Array,
    s: Array,
    noise: Any,
    scale: Any,
    weights: Weights | None,
    max_iterations: int | None,
    *,
    looks: Callable[[Array], bool] = can_look,
) -> None:
    """Refuses values that no fit can use: all numbers, and those of arrays that `looks` lets be read.

    Raises:
        ArgumentError: naming the argument.
        TypeError: if `max_iterations` is no integer, or weights are none.
    """
    if max_iterations is not None:
        check_integer("max_iterations", max_iterations, " or None", least=1)
    if weights is not None:
        check_weights(weights)
        w = weights.initial
        if w != 1 if isinstance(w, (int, float)) else not is_tracer(w):
            raise ArgumentError("weights.initial must be left out: data are weighted with 1 / noise, see noise.")
    if looks(data) and bool(xp.any(xp.isinf(data))):
        raise ArgumentError("data contains infinite values; missing ones are NaN.")
    check_steps(xp, s, looks)

    def positive(x: Any) -> bool:
        return x > 0 if isinstance(x, (int, float)) else not looks(x) or bool(xp.all(x > 0))

    if noise is not None and not positive(noise):
        raise ArgumentError("noise, the standard deviation of the data, must be positive; None to estimate it.")
    if scale is not None and not positive(scale):
        raise ArgumentError("scale, the size of each variable, must be positive.")


def common_batch(given: Mapping[str, Any], *, has_order_axis: bool, shared: bool) -> Shape:
    """The batch axes of all arguments of a fit, by name; numbers, and what is None or left out, have none.

    Raises:
        ShapeError: naming the argument that does not broadcast, or if there is no data set.
    """
    rank = 3 if has_order_axis else 2
    ranks = {"data": rank, "step_sizes": 1, "guess": 3, "t0": 0, "noise": rank, "scale": 1}
    ranks |= {"weights.equation": 2, "weights.smoothness": 1}
    ranks |= {} if shared else dict.fromkeys(("parameters", *BOUNDS), 1)
    shapes = {name: tuple(np.shape(given.get(name, 0.0))) for name in ranks}
    batch = broadcast_shapes({name: shape[: max(len(shape) - ranks[name], 0)] for name, shape in shapes.items()})
    if 0 in batch:
        raise ShapeError(f"the batch axes of data, {batch}, hold no data set: there is nothing to fit.")
    return batch


def _check_core(name: str, x: Array | None, core: Shape | None, letters: str) -> None:
    if x is None:
        return
    rank = 1 if core is None else len(core)
    if x.ndim < rank or x.shape[-1] == 0 or (core is not None and tuple(x.shape[-rank:]) != core):
        expected = f"(..., {letters})" + ("" if core is None else f" = (..., {', '.join(map(str, core))})")
        raise ShapeError(f"{name} must have shape {expected}; got {tuple(x.shape)}.")


def _steps(xp: Namespace, s: Array, T: int) -> Array:
    """(..., T-1 or 1)"""
    s = s[None] if s.ndim == 0 else s
    if s.shape[-1] > 1:
        mean = xp.mean(s, axis=-1, keepdims=True)
        rounding = 4 * float(xp.finfo(s.dtype).eps) * T * xp.abs(mean)  # of differences of times
        if bool(xp.all(xp.abs(s - mean) <= rounding)):
            return mean  # one step takes less time than many
    return s


def _times(xp: Namespace, s: Array, t0: Array, T: int) -> Array:
    """(..., T)"""
    t0 = t0[..., None]
    start = xp.broadcast_to(t0, (*broadcast_shapes({"t0": tuple(t0.shape[:-1]), "s": tuple(s.shape[:-1])}), 1))
    s = xp.broadcast_to(s, (*start.shape[:-1], T - 1))
    return xp.concat([start, start + xp.cumulative_sum(s, axis=-1)], axis=-1)


def _size(xp: Namespace, scale: Array | None, data: Observations, batch: Shape, weights: Weights | None) -> Array:
    """(B, V): the size of each variable, that of the data where nothing else is said."""
    if scale is None:
        return spread(data) if weights is None else xp.ones_like(data.values[:, 0, :, 0])
    V = data.values.shape[2]
    if scale.ndim and scale.shape[-1] != V:
        raise ShapeError(f"scale must be a number or have shape (..., V) = (..., {V}); got {tuple(scale.shape)}.")
    return expanded(xp, xp.broadcast_to(scale, (*scale.shape[:-1], V)), 1, batch)


def _noise(xp: Namespace, noise: Array | None, core: Shape, has_order_axis: bool, batch: Shape) -> Array | None:
    """(B or 1, T or 1, V, R_obs)"""
    if noise is None:
        return None
    T, V, R_obs = core
    x = noise if has_order_axis else noise[..., None]
    x = xp.reshape(x, (*(1,) * (3 - x.ndim), *x.shape))
    if any(have not in (1, want) for have, want in zip(x.shape[-3:], core, strict=True)):
        shape = f"(..., {T}, {V}, {R_obs})" if has_order_axis else f"(..., {T}, {V})"
        raise ShapeError(
            f"noise must be a number, have one entry for each variable, (V,), or broadcast against data {shape}; got "
            f"{tuple(noise.shape)}."
        )
    return flat(xp, xp.broadcast_to(x, (*x.shape[:-2], V, R_obs)), 3, batch)


BOUNDS = "lower bound", "upper bound"


def _bounds(xp: Namespace, x: dict[str, Array], batch: Shape, shared: bool) -> tuple[Array, Array] | None:
    """(B or 1, p) each"""
    if "parameters" not in x or x.keys().isdisjoint(BOUNDS):
        return None
    lower, upper = map(x.get, BOUNDS)
    full = checked_bounds(xp, lower, upper, x["parameters"], shared)
    lower, upper = (xp.reshape(b, (1, b.shape[-1])) if shared else flat(xp, b, 1, batch) for b in full)
    return lower, upper


def pair_of_bounds(bounds: Any) -> tuple[Any, Any]:
    """
    Raises:
        TypeError: unless bounds are a pair.
    """
    if not isinstance(bounds, (tuple, list)) or len(bounds) != 2:
        raise TypeError("bounds must be a pair (lower, upper) of numbers or arrays, None for no bound.")
    return bounds[0], bounds[1]


def checked_bounds(
    xp: Namespace, lower: Array | None, upper: Array | None, start: Array, shared: bool
) -> tuple[Array, Array]:
    """Bounds, (..., p) each, of parameters whose start values are (..., p); infinite where there are none.

    Raises:
        ShapeError: if one has not an entry for each parameter, nor one for all; or more than one for each where data
            sets share them.
        ArgumentError: if start values are outside, where they can be looked at.
    """
    p, result = start.shape[-1], []
    for name, bound, none in zip(BOUNDS, (lower, upper), (-float("inf"), float("inf")), strict=True):
        x = xp.asarray(none, dtype=start.dtype, device=device_of(start)) if bound is None else bound
        if x.ndim and x.shape[-1] not in (1, p):
            raise ShapeError(f"the {name} must be a number or have shape (..., p) = (..., {p}); got {tuple(x.shape)}.")
        if shared and size_of(tuple(x.shape[:-1])) != 1:
            raise ShapeError(f"the {name} of shared parameters must be a number or (p,); got {tuple(x.shape)}.")
        result.append(xp.broadcast_to(x, (*x.shape[:-1], p)))
    lower, upper = result
    if not any(map(is_tracer, (lower, start, upper))) and not bool(xp.all((lower <= start) & (start <= upper))):
        raise ArgumentError("bounds: the start values of parameters must lie within lower and upper bound.")
    return lower, upper


def _weights(xp: Namespace, x: dict[str, Array], batch: Shape, T: int) -> Weights:
    equation, smoothness = x["weights.equation"], x["weights.smoothness"]
    equation = xp.reshape(equation, (*(1,) * (2 - equation.ndim), *equation.shape))
    smoothness = xp.reshape(smoothness, (*(1,) * (1 - smoothness.ndim), *smoothness.shape))
    if equation.shape[-2] not in (1, T):
        raise ShapeError(f"weights.equation must broadcast to (..., T, Q), T = {T}; got {tuple(equation.shape)}.")
    if smoothness.shape[-1] not in (1, T - 1):
        raise ShapeError(f"weights.smoothness must broadcast to (..., T-1) = {T - 1}; got {tuple(smoothness.shape)}.")
    return Weights(flat(xp, equation, 2, batch), 1.0, flat(xp, smoothness, 1, batch))
