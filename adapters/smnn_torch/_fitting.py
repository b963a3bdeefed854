"""`fit_ode` for a residual on tensors, and `ODEFit`, which keeps the trajectories of data sets from step to step.

The core iterates, without a graph; one more Gauss-Newton step has the derivatives. They are derived in
`smnn_core.nonlinear._implicit`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import array_api_compat.torch as xp
import torch
from torch import Tensor

from smnn_core import HERMITE, Fit, Residuals, Scheme, Weights
from smnn_core import fit_ode as core_fit
from smnn_core.extend import (
    LIGHT_HERMITE,
    TOLERANCE,
    FitRows,
    as_fields,
    attached_step,
    can_look,
    check_integer,
    check_shapes,
    check_values,
    pair_of_bounds,
    stand_in,
    times,
)

from ._bridge import tensor
from ._layer import WeightedModule
from ._once import once
from ._residual import Residual, check_tensor, for_core, is_traced
from ._solve import solve_ode

__all__ = ["ODEFit", "fit_ode"]

TRAINING = Weights(equation=10.0, smoothness=1000.0)
"""Weights with which trajectories follow data and equations alike."""


def fit_ode(
    residual: Callable[..., Tensor],
    data: Tensor,
    step_sizes: Tensor | float,
    parameters: Tensor | None = None,
    *,
    order: int,
    noise: Tensor | float | None = None,
    observed_orders: int | None = None,
    guess: Tensor | None = None,
    t0: Tensor | float = 0.0,
    bounds: tuple[Any, Any] | None = None,
    shared: bool = False,
    weights: Weights | None = None,
    scale: Tensor | float | None = None,
    max_iterations: int | None = None,
    scheme: Scheme | None = None,
    engine: str = "auto",
    progress: bool = False,
    y_errors: bool = False,
) -> Fit:
    """`smnn_core.fit_ode` for a residual on tensors: fits y, and parameters, of f(t, y, parameters) = 0 to data.

    `cost` is differentiable in everything that the residual holds (networks, other tensors), in noise, weights, data
    and step_sizes, by the envelope theorem: with the gradient that it has at fixed y and parameters. So a network in
    the residual is trained on noisy data by descending `cost`; see `ODEFit`.

    `y` and `parameters` are differentiable in the same by the implicit function theorem with the curvature of
    Gauss-Newton: exactly for data without noise and for equations that are linear in y and the parameters together. The
    error grows with the noise: for the Lotka-Volterra equations from 21 points of logarithms, within 1 % of the
    derivative at noise 0.001, 10 % at 0.05, 40 % at 0.25. Members that failed have no derivatives, and what the fit
    estimates itself (noise, weights and scale where they are None) is held fixed.

    Args:
        residual: residual(t, y[, parameters]) -> (..., T, Q) for t (..., T), y (..., T, V, R+1) and parameters
            (..., 1, p): the Q equations at all time points, each from y at that time alone. Its derivatives in y and in
            the parameters are taken by forward mode.
        data: (..., T, V), NaN where missing; batch axes are data sets.
        step_sizes: (..., T-1 or 1) or a number.
        parameters: (..., p), where the iteration starts; None fits the trajectory alone.
        guess: (..., T, V, R+1): a trajectory to start from. With noise, weights and max_iterations, and without
            parameters, exactly max_iterations Gauss-Newton steps are taken from it, which costs one linear solve each:
            one is enough where the residual has changed little since the guess was fitted. There, NaN stays NaN.

    The other arguments, and what is raised, are as for `smnn_core.fit_ode`.

    Returns:
        `smnn_core.Fit` of tensors.

    Example: y' + k y = 0.

        >>> import torch, smnn_torch
        >>> data = 3 * torch.exp(-1.3 * torch.linspace(0, 2, 41))[:, None]
        >>> decay = lambda t, y, k: y[..., 1] + k * y[..., 0]
        >>> fit = smnn_torch.fit_ode(decay, data, 0.05, torch.tensor([1.0]), order=2, noise=0.01)
        >>> print(f"{fit.parameters.item():.3f}")
        1.300
    """
    equations = Residual(residual)
    for name, x in {"data": data, "step_sizes": step_sizes, "parameters": parameters, "guess": guess}.items():
        check_tensor(name, x, optional=name != "data", number=name == "step_sizes")
    step_sizes = torch.atleast_1d(as_steps(step_sizes, data))
    noise, scale = (
        x if x is None or isinstance(x, (int, float)) else torch.as_tensor(x, dtype=data.dtype, device=data.device)
        for x in (noise, scale)
    )
    order = check_integer("order, the highest derivative in y,", order, least=1)
    check_shapes(data, step_sizes, parameters, guess, order=order, observed_orders=observed_orders)
    weights = None if weights is None else masks_as_numbers(weights, data)
    check_values(xp, data, step_sizes, noise, scale, weights, max_iterations, looks=_can_look)
    T, K = data.shape[-2 if observed_orders is None else -3], order + 1
    t = times(xp, t0, step_sizes.expand(*step_sizes.shape[:-1], T - 1))
    if scheme is None:
        scheme = LIGHT_HERMITE if weights is None else HERMITE
    given = _Given(data, step_sizes, noise, weights, scale, observed_orders is not None, K, scheme, engine)
    steps = None if parameters is not None or weights is None or noise is None or y_errors else max_iterations
    if guess is not None and steps:
        return _steps(equations, t, given, guess, steps)
    constants: dict[str, Any] = {"noise": noise, "guess": guess, "t0": t0, "scale": scale}
    with torch.no_grad():
        fit = core_fit(
            equations.as_linearize(),
            for_core(data),
            for_core(step_sizes),
            for_core(parameters),
            order=order,
            observed_orders=observed_orders,
            bounds=None if bounds is None else tuple(map(for_core, pair_of_bounds(bounds))),
            shared=shared,
            weights=weights and Weights(*map(for_core, vars(weights).values())),
            max_iterations=max_iterations,
            scheme=scheme,
            engine=engine,
            progress=progress,
            y_errors=y_errors,
            **{name: for_core(x) for name, x in constants.items()},
        )
    fit = _of_tensors(fit)
    return _with_derivatives(equations, t, given.rows(fit), fit, shared) if torch.is_grad_enabled() else fit


def _can_look(x: Tensor) -> bool:
    return not is_traced(x) and can_look(x)


class _Given(NamedTuple):
    """What was given of the linear rows."""

    data: Tensor
    step_sizes: Tensor
    noise: Any
    weights: Weights | None
    scale: Any
    has_order_axis: bool
    K: int
    scheme: Scheme
    engine: str

    def rows(self, fit: Fit | None = None) -> FitRows:
        """The rows, with what a fit has chosen where nothing was given."""
        data, noise, scale, w = self.data, self.noise, self.scale, self.weights
        if not self.has_order_axis:
            data = data[..., None]
            noise = noise[..., None] if isinstance(noise, Tensor) and noise.ndim else noise
        if fit is not None:
            noise = _of_each_time(fit.noise, self) if noise is None else noise
            w = fit.weights if w is None else w
            scale = fit.scale
        elif not isinstance(scale, Tensor) or not scale.ndim:
            scale = data.new_ones(data.shape[-2]) * (1.0 if scale is None else scale)
        assert w is not None

        def solve(*arguments: Any, **options: Any) -> Tensor:
            return solve_ode(*arguments, **options, engine=self.engine)

        given = data, self.step_sizes, noise, w.equation, w.smoothness, scale
        return FitRows(xp, solve, Tensor.detach, *given, self.K, self.scheme)


def _of_each_time(noise: Tensor, given: _Given) -> Tensor:
    """Estimated noise, (..., V) or (..., V, R_obs), to broadcast against data (..., T, V, R_obs)."""
    return noise[..., None, :, :] if given.has_order_axis else noise[..., None, :, None]


def _with_derivatives(equations: Residual, t: Tensor, rows: FitRows, fit: Fit, shared: bool) -> Fit:
    """The fit, with derivatives of cost, y and parameters."""
    ok = torch.isfinite(fit.cost)
    if not bool(ok.any()):
        return fit
    partly = not bool(ok.all())
    y, θ, C = fit.y, fit.parameters, fit.covariance
    if partly:
        y = stand_in(xp, ok, y, 3)
        if θ is not None and C is not None and not shared:
            θ, C = stand_in(xp, ok, θ, 1), stand_in(xp, ok, C, 2)
    arguments = () if θ is None else (θ[None] if shared else θ[..., None, :],)
    lin = equations.linearize(t, y, *arguments, graph=True)
    if partly:
        lin = lin._replace(J=stand_in(xp, ok, lin.J, 4))
    C = None if C is None else torch.nan_to_num(C, nan=0.0)
    result = {}
    for name, new in rows.derivatives(lin, y, C, shared).items():
        members = ok.any() if shared and name == "parameters" else ok
        result[name] = attached_step(xp, Tensor.detach, getattr(fit, name), once("fit_ode", new), members)
    return replace(fit, **result)


def _steps(equations: Residual, t: Tensor, given: _Given, guess: Tensor, steps: int) -> Fit:
    """Gauss-Newton steps from a guess, of which the last has derivatives."""
    rows, y = given.rows(), guess.detach()
    for k in range(steps):
        with torch.set_grad_enabled(torch.is_grad_enabled() and k == steps - 1):
            before, y = y, rows.step(equations.linearize(t, y, graph=True), y)
    end = y.detach()
    left = rows.residuals(equations(t, end), end)
    moved = torch.where(torch.isnan(rows.data), 0.0, (end - before)[..., : rows.data.shape[-1]]) / rows.noise
    count = torch.isfinite(rows.data).sum((-3, -2, -1)).clamp(min=1)
    move = (moved.detach() ** 2).sum((-3, -2, -1)) / count
    fields = as_fields(xp, tuple(move.shape), *rows.constants, has_order_axis=given.has_order_axis)
    return Fit(
        y=once("fit_ode", y),
        parameters=None,
        covariance=None,
        standard_errors=None,
        residuals=Residuals(*(x.detach() for x in left)),
        cost=once("fit_ode", rows.cost(left)),
        iterations=torch.full(move.shape, steps, device=y.device),
        converged=move < TOLERANCE**2,
        **fields,
    )


def _of_tensors(fit: Fit) -> Fit:
    """The arrays of a fit as tensors on their memory."""
    parts: dict[str, Any] = {
        "residuals": Residuals(*map(tensor, fit.residuals)),
        "weights": Weights(*map(tensor, vars(fit.weights).values())),
    }
    arrays = {k: tensor(v) for k, v in vars(fit).items() if v is not None and k not in parts}
    return replace(fit, **parts, **arrays)


class ODEFit(WeightedModule):
    """Trains what a residual holds on noisy and partly observed data, whose trajectories it keeps from step to step.

        fit = smnn_torch.ODEFit(residual, data, 0.05, order=2, noise=0.1)
        optimizer = torch.optim.Adam(fit.parameters(), 1e-2)
        for step in range(600):
            optimizer.zero_grad()
            fit().cost.sum().backward()
            optimizer.step()

    Each call takes Gauss-Newton steps from the trajectories that the call before left, and gives the cost, the minimum
    over y of |(y - data) / noise|^2 + |w_equation f(t, y)|^2 + |w_smoothness (smoothness rows)|^2, with its gradient.
    No initial-value problem is solved, and no solver is unrolled.

    Args:
        residual: residual(t, y) -> (..., T, Q), as for `fit_ode`. An `nn.Module` becomes a submodule, so that its
            parameters are those of this one.
        data: (..., T, V), NaN where missing; batch axes are data sets, and those of `forward`'s `members`.
        weights: of equations and smoothness rows, see `fit_ode`; a call may give others, such as a weight of the
            equations that grows.
        t0: number, or (...) for the data sets.

    The other arguments are as for `fit_ode`. What is given as tensors becomes buffers, weights that are parameters
    become parameters.
    """

    guess: Tensor
    """(..., T, V, R+1): the trajectories as the last calls have left them; NaN for data sets that no call has fitted"""

    def __init__(
        self,
        residual: Callable[[Tensor, Tensor], Tensor],
        data: Tensor,
        step_sizes: Tensor | float,
        *,
        order: int,
        noise: Tensor | float,
        weights: Weights = TRAINING,
        t0: Tensor | float = 0.0,
        scheme: Scheme = HERMITE,
        engine: str = "auto",
    ) -> None:
        super().__init__()
        if not callable(residual):
            raise TypeError(f"residual must be a function or a module, got {type(residual).__name__}.")
        check_tensor("data", data)
        order = check_integer("order, the highest derivative in y,", order, least=1)
        steps = as_steps(step_sizes, data)
        check_shapes(data, torch.as_tensor(steps), None, None, order=order, observed_orders=None)
        self.residual, self.order, self.weights = residual, order, weights
        self.options: dict[str, Any] = {"order": order, "scheme": scheme, "engine": engine}
        if noise is None:
            raise TypeError("noise must be a number or a tensor: training does not estimate it; got None.")
        for name, x in {"data": data, "step_sizes": steps, "noise": noise, "t0": t0}.items():
            # a copy: load_state_dict writes into buffers
            self.register_buffer(name, torch.as_tensor(x, dtype=data.dtype, device=data.device).clone())
        self.register_buffer("guess", data.new_full((*data.shape, order + 1), torch.nan))

    def forward(self, members: Any = None, *, weights: Weights | None = None, iterations: int = 1) -> Fit:
        """Fits the trajectories of all data sets, or of some.

        Args:
            members: what selects data sets: an index, a slice, or an index tensor into the first axis of data.
            weights: in place of those of the module, for the data sets of this call.
            iterations: Gauss-Newton steps; a data set that is fitted for the first time is fitted until it converges.

        Returns:
            `Fit` of the data sets; its cost is differentiable in what the residual and the weights hold.
        """
        index = slice(None) if members is None else members
        guess = self.guess[index]
        if weights is None:
            own = self.weights
            equation, smoothness = self._of(own.equation, 0, index), self._of(own.smoothness, -1, index)
            weights = replace(own, equation=equation, smoothness=smoothness)
        options = {"noise": self._of(self.noise, 0, index), "t0": self._of(self.t0, -2, index), **self.options}
        known = bool(torch.isfinite(guess).all())
        fit = fit_ode(
            self.residual,
            self.data[index],
            self._of(self.step_sizes, -1, index),
            guess=guess if known else None,
            max_iterations=iterations if known else None,
            weights=weights,
            **options,
        )
        self.guess[index] = fit.y.detach()
        return fit

    def _of(self, x: Any, missing: int, index: Any) -> Any:
        """Those of some data sets, where each has its own."""
        if not isinstance(x, Tensor) or self.data.ndim < 3:
            return x
        own = 0 < x.ndim == self.data.ndim + missing and x.shape[0] == self.data.shape[0]
        return x[index] if own else x


def as_steps(step_sizes: Tensor | float, like: Tensor) -> Tensor:
    """A step size that is a number as a tensor of one step."""
    if isinstance(step_sizes, (int, float)) and not isinstance(step_sizes, bool):
        return like.new_full((1,), float(step_sizes))
    return step_sizes


def masks_as_numbers(weights: Weights, like: Tensor) -> Weights:
    """Weights of bool as 0 and 1."""
    if not isinstance(weights, Weights):
        return weights
    values = vars(weights).values()
    return Weights(*(w.to(like.dtype) if isinstance(w, Tensor) and w.dtype is torch.bool else w for w in values))
