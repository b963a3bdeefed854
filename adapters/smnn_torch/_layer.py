"""`MechanisticODE`: from features to the parameters of a linear ODE to its solution."""

from __future__ import annotations

from collections.abc import Collection
from math import isfinite, log, prod
from typing import Any, Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

from smnn_core import HERMITE, ArgumentError, Scheme, ShapeError, Weights
from smnn_core.extend import UNIT, check_integer, check_weights

from ._solve import error_estimate, solve_ode

__all__ = ["ODE", "MechanisticODE", "WeightedModule"]

Source: TypeAlias = Literal["sample", "shared", "given"] | Tensor
SOURCES = ("sample", "shared", "given")
SPREAD = 0.1
"""Standard deviation of what is learned at the start: small beside the 1 of the highest order."""


class ODE(NamedTuple):
    """The parameters of a linear ODE, as arguments of `solve_ode`."""

    coefficients: Tensor
    """(..., T or 1, Q, V, R+1)"""
    rhs: Tensor
    """(..., T or 1, Q)"""
    initial_values: Tensor
    """(..., T_init, V, R_init)"""
    step_sizes: Tensor
    """(..., T-1 or 1)"""


class WeightedModule(nn.Module):
    """A module with weights of rows: numbers stay numbers; tensors become parameters or buffers, which follow the
    module to other devices and dtypes."""

    @property
    def weights(self) -> Weights:
        """The weights of the rows."""
        return Weights(self.weight_equation, self.weight_initial, self.weight_smoothness)

    @weights.setter
    def weights(self, weights: Weights) -> None:
        check_weights(weights)
        for row, w in vars(weights).items():
            name = f"weight_{row}"
            if hasattr(self, name):
                delattr(self, name)
            if isinstance(w, nn.Parameter):
                self.register_parameter(name, w)
            elif isinstance(w, Tensor):
                self.register_buffer(name, w)
            else:
                setattr(self, name, w)


class MechanisticODE(WeightedModule):
    """Maps features (..., n_features) to a linear ODE and solves it: y of shape (..., T, V, R+1).

    Each of the four parameters of the ODE has a source:

    - "sample": one linear map of the features, thus another value for each sample;
    - "shared": learned, the same for all samples;
    - "given": an argument of `forward`, by its name;
    - a tensor: a constant.

    At the start the learned ODE of V = Q variables is y^(R) = 0, up to small random coefficients, with small right-hand
    sides and initial values; all steps are `step_size`. The layer holds no hidden layers: put a network before it.

    Args:
        n_features: length of the last axis of the features; 0 where no source is "sample".
        n_steps: T.
        n_variables: V.
        order: R.
        n_equations: Q (default V).
        n_initial_steps: T_init, may be 0.
        n_initial_orders: R_init (default R; one less where one order is spare).
        coefficients: their source.
        rhs: its source.
        initial_values: their source.
        step_sizes: their source.
        time_invariant: which of "coefficients", "rhs", "step_sizes" are learned once for all times, this list in place
            of the default; the others are learned for every time point (step).
        fixed_coefficients: (Q, V, R+1), or anything that broadcasts to it: a number fixes a coefficient, NaN leaves it
            to be learned.
        normalized: fix the coefficients of the highest order, R, to the identity, so that equation q reads
            y[q]^(R) + lower orders = rhs[q]; needs Q = V. Not for layers with a spare order: see `fixed_coefficients`.
        step_size: where learned steps start.
        step_bounds: the open interval that they stay in, through a sigmoid (default: a tenth to ten times the start).
            Where time runs backwards, start and bounds are negative.
        scheme: as for `solve_ode`.
        weights: as for `solve_ode`; tensors become buffers, or parameters if they are.
        engine: as for `solve_ode`.
        recompute: as for `solve_ode`.
        device: of what is learned.
        dtype: of what is learned.

    Raises:
        ArgumentError, ShapeError: for sources, names, sizes and bounds that do not fit together.
    """

    def __init__(
        self,
        n_features: int = 0,
        *,
        n_steps: int,
        n_variables: int = 1,
        order: int = 2,
        n_equations: int | None = None,
        n_initial_steps: int = 1,
        n_initial_orders: int | None = None,
        coefficients: Source = "sample",
        rhs: Source = "sample",
        initial_values: Source = "sample",
        step_sizes: Source = "shared",
        time_invariant: Collection[str] = ("coefficients", "step_sizes"),
        fixed_coefficients: Tensor | None = None,
        normalized: bool = False,
        step_size: float = 0.1,
        step_bounds: tuple[float, float] | None = None,
        scheme: Scheme = HERMITE,
        weights: Weights = UNIT,
        engine: str = "auto",
        recompute: bool = False,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        T, V = check_integer("n_steps", n_steps, least=2), check_integer("n_variables", n_variables, least=1)
        K = check_integer("order", order, least=1) + 1
        Q = V if n_equations is None else check_integer("n_equations", n_equations, least=1)
        R_init = order if n_initial_orders is None else n_initial_orders
        self.n_features, self.n_steps = n_features, T
        self.scheme, self.engine, self.recompute = scheme, engine, recompute
        self.time_invariant = _checked_names(time_invariant)

        def times(name: str, length: int) -> int:
            return 1 if name in self.time_invariant else length

        self.shapes = {
            "coefficients": (times("coefficients", T), Q, V, K),
            "rhs": (times("rhs", T), Q),
            "initial_values": (n_initial_steps, V, R_init),
            "step_sizes": (times("step_sizes", T - 1),),
        }
        self.step_size = step_size
        self.step_bounds = _checked_bounds(step_size, step_bounds)
        factory = {"device": device, "dtype": dtype or torch.get_default_dtype()}
        self._fix_coefficients(fixed_coefficients, normalized, factory)
        self.weights = weights
        self._take_sources(
            {"coefficients": coefficients, "rhs": rhs, "initial_values": initial_values, "step_sizes": step_sizes},
            factory,
        )
        self.reset_parameters()

    def _fix_coefficients(self, fixed: Tensor | None, normalized: bool, factory: dict[str, Any]) -> None:
        """Buffers: fixed numbers, where each coefficient is found in (learned, fixed), and where those learned start.

        Worked out on the CPU, as the layer may be made on the meta device.
        """
        Q, V, K = self.shapes["coefficients"][1:]
        on_cpu = {**factory, "device": "cpu"}
        values = torch.full((Q, V, K), torch.nan, **on_cpu)
        if fixed is not None:
            try:
                values = values.copy_(torch.as_tensor(fixed, **on_cpu))
            except RuntimeError as error:
                raise ShapeError(
                    f"fixed_coefficients must have shape {(Q, V, K)} (NaN where they are learned); got "
                    f"{tuple(torch.as_tensor(fixed).shape)}."
                ) from error
        if bool(values.isinf().any()):
            raise ArgumentError("fixed_coefficients must be finite, or NaN where they are learned.")
        if normalized:
            if Q != V:
                raise ArgumentError(f"normalized needs as many equations as variables; got Q = {Q} and V = {V}.")
            highest, identity = values[:, :, -1], torch.eye(Q, **on_cpu)
            if not bool((highest.isnan() | (highest == identity)).all()):
                raise ArgumentError(
                    f"normalized fixes the coefficients of order {K - 1} to the identity, fixed_coefficients to "
                    f"{highest.tolist()}: where the highest order is a spare one, leave normalized out and fix the "
                    "coefficients of the order of the equation."
                )
            highest.copy_(identity)
        free = values.isnan().flatten()
        self.n_free = int(free.sum())
        start = torch.zeros(Q, V, K, **on_cpu)
        start[range(min(Q, V)), range(min(Q, V)), -1] = 1
        constants = {
            "fixed_coefficients": values.flatten()[~free],
            "_place": torch.cat([free.nonzero(), (~free).nonzero()]).flatten().argsort(),
            "_start": start.flatten()[free],
        }
        self._constants = {name: x.tolist() for name, x in constants.items()}
        for name, x in constants.items():
            # (device None is PyTorch's default device, which may be another one now)
            empty = torch.empty(x.shape, dtype=x.dtype, device=factory["device"])
            self.register_buffer(name, empty, persistent=not name.startswith("_"))
        self.register_load_state_dict_post_hook(_fill_what_is_not_saved)

    def _take_sources(self, sources: dict[str, Source], factory: dict[str, Any]) -> None:
        self.sources = {name: "constant" if isinstance(x, Tensor) else x for name, x in sources.items()}
        for name, source in sources.items():
            if isinstance(source, Tensor):
                shape = self.shapes[name]
                own = tuple(source.shape[-len(shape) :])
                core = {"coefficients": (1, 2, 3), "rhs": (1,), "initial_values": (1,), "step_sizes": ()}[name]
                if len(own) < len(shape) or any(own[i] != shape[i] for i in core):
                    raise ShapeError(f"the constant {name} must have shape (..., {str(shape)[1:-1]}); got {own}.")
                self.register_buffer(f"constant_{name}", source.detach().clone())
                self.shapes[name] = own
            elif source == "shared":
                self.register_parameter(
                    f"shared_{name}", nn.Parameter(torch.empty(self._learned_shape(name), **factory))
                )
            elif source not in SOURCES:
                raise ArgumentError(
                    f"{name} must be one of {', '.join(map(repr, SOURCES))} or a tensor; got {source!r}."
                )
        if self.sources["coefficients"] in ("given", "constant") and len(self.fixed_coefficients):
            raise ArgumentError("fixed_coefficients and normalized are for coefficients that are 'sample' or 'shared'.")
        self.sampled = {n: prod(self._learned_shape(n)) for n, source in self.sources.items() if source == "sample"}
        if self.sampled and self.n_features < 1:
            raise ArgumentError(
                f"{', '.join(self.sampled)} are learned per sample: give n_features, the length of the features."
            )
        self.head = nn.Linear(self.n_features, sum(self.sampled.values()), **factory) if self.sampled else None

    def _learned_shape(self, name: str) -> tuple[int, ...]:
        """The shape of what is learned: of the coefficients, only those that are free, along one axis."""
        shape = self.shapes[name]
        return (shape[0], self.n_free) if name == "coefficients" else shape

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Starts again: see the class."""
        self._fill(*self._constants)
        if self.head is not None:
            self.head.weight.normal_(0, SPREAD / self.n_features**0.5)
            for name, part in zip(self.sampled, self.head.bias.split(list(self.sampled.values())), strict=True):
                part.copy_(self._center(name).flatten())
        for name, source in self.sources.items():
            if source == "shared":
                shared = getattr(self, f"shared_{name}")
                spread = 0.0 if name == "step_sizes" else SPREAD
                shared.copy_(self._center(name) + spread * torch.randn_like(shared))

    @torch.no_grad()
    def _fill(self, *names: str) -> None:
        """Writes constants to their buffers, which have no values yet after `to_empty`."""
        for name in names:
            buffer = self.get_buffer(name)
            buffer.copy_(torch.tensor(self._constants[name], dtype=buffer.dtype, device="cpu"))

    def _center(self, name: str) -> Tensor:
        """Start values of the learned parameters."""
        shape = self._learned_shape(name)
        if name == "coefficients":
            return self._start.expand(shape)
        if name == "step_sizes":
            low, high = self.step_bounds
            return self._start.new_full(shape, log((self.step_size - low) / (high - self.step_size)))
        return self._start.new_zeros(shape)

    def forward(self, features: Tensor | None = None, *, weights: Weights | None = None, **given: Tensor) -> Tensor:
        """The solution y, (..., T, V, R+1), of `self.ode(features, **given)`.

        Args:
            features: (..., n_features), None where no source is "sample".
            weights: those of this call, such as masks of a batch; by default those of the layer.
            given: the parameters whose source is "given", by name, shaped as in `ODE`.
        """
        return solve_ode(*self.ode(features, **given), **self._options(weights), recompute=self.recompute)

    def error_estimate(
        self, features: Tensor | None = None, *, weights: Weights | None = None, **given: Tensor
    ) -> Tensor:
        """The estimated discretisation error of `forward` with the same arguments (see `smnn_core.error_estimate`)."""
        return error_estimate(*self.ode(features, **given), **self._options(weights))

    def _options(self, weights: Weights | None) -> dict[str, Any]:
        return {
            "n_steps": self.n_steps,
            "scheme": self.scheme,
            "weights": self.weights if weights is None else weights,
            "engine": self.engine,
        }

    def ode(self, features: Tensor | None = None, **given: Tensor) -> ODE:
        """The ODE itself, to look at or to regularise.

        Args:
            features: (..., n_features), None where no source is "sample".
            given: the parameters whose source is "given", by name, shaped as in `ODE`.

        Raises:
            ArgumentError: if one is missing, or was not announced.
        """
        expected = {name for name, source in self.sources.items() if source == "given"}
        if set(given) != expected:
            raise ArgumentError(
                f"expected the parameters {sorted(expected)} whose source is 'given'; got {sorted(given)}."
            )
        values = {**given, **self._sample(features)}
        for name, source in self.sources.items():
            if source == "shared":
                values[name] = self._finish(name, getattr(self, f"shared_{name}"))
            elif source == "constant":
                values[name] = self.get_buffer(f"constant_{name}")
        return ODE(**values)

    def _sample(self, features: Tensor | None) -> dict[str, Tensor]:
        if self.head is None:
            if features is not None:
                raise ArgumentError("features were given, but no source is 'sample'.")
            return {}
        if features is None:
            raise ArgumentError(f"{', '.join(self.sampled)} are learned per sample: features are needed.")
        if features.shape[-1] != self.n_features:
            raise ShapeError(f"features must have shape (..., {self.n_features}); got {tuple(features.shape)}.")
        parts = self.head(features).split(list(self.sampled.values()), dim=-1)
        return {
            name: self._finish(name, part.unflatten(-1, self._learned_shape(name)))
            for name, part in zip(self.sampled, parts, strict=True)
        }

    def _finish(self, name: str, learned: Tensor) -> Tensor:
        """From what is learned to the parameter of the ODE."""
        if name == "coefficients":
            fixed = self.fixed_coefficients.expand(*learned.shape[:-1], -1)
            if len(self.fixed_coefficients):  # these keep their digits under autocast
                learned = learned.to(torch.promote_types(learned.dtype, fixed.dtype))
            everything = torch.cat([learned, fixed.to(learned.dtype)], dim=-1)
            return everything.index_select(-1, self._place).unflatten(-1, self.shapes[name][1:])
        if name == "step_sizes":
            low, high = self.step_bounds
            return low + (high - low) * torch.sigmoid(learned)
        return learned

    def extra_repr(self) -> str:
        _, Q, V, K = self.shapes["coefficients"]
        T_init, _, R_init = self.shapes["initial_values"]
        sources = ", ".join(
            f"{name}={source!r}"
            + (" (time-invariant)" if name in self.time_invariant and source in ("sample", "shared") else "")
            for name, source in self.sources.items()
        )
        return (
            f"n_features={self.n_features}, T={self.n_steps}, V={V}, R={K - 1}, Q={Q}, "
            f"T_init={T_init}, R_init={R_init}, {sources}, {len(self.fixed_coefficients)} coefficients fixed, "
            f"scheme={self.scheme.name!r}"
        )


def _fill_what_is_not_saved(layer: MechanisticODE, _: Any) -> None:
    layer._fill("_place", "_start")


def _checked_names(time_invariant: Collection[str]) -> frozenset[str]:
    allowed = ("coefficients", "rhs", "step_sizes")
    if isinstance(time_invariant, str):
        raise ArgumentError(f"time_invariant must be a collection of names, such as [{time_invariant!r}].")
    names = frozenset(time_invariant)
    if not names <= set(allowed):
        raise ArgumentError(f"time_invariant must hold names of {', '.join(map(repr, allowed))}; got {sorted(names)}.")
    return names


def _checked_bounds(start: float, bounds: tuple[float, float] | None) -> tuple[float, float]:
    low, high = bounds or sorted((start / 10, start * 10))
    if not (isfinite(low) and isfinite(high) and low < start < high and low * high >= 0):
        raise ArgumentError(
            f"step_bounds must be two numbers of one sign around step_size = {start}, low < high; got ({low}, {high})."
        )
    return low, high
