"""`fit` for callbacks on tensors: the core's, with the derivatives of one vectorised forward pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, jacrev, jvp, vmap

from smnn_core import ArgumentError, Fitted, Network
from smnn_core import fit as core_fit
from smnn_core.extend import has_parameters

from ._mapped import FORWARD_MODE

__all__ = ["fit"]

SMALL = 1 << 21
"""Numbers in one operation that one thread handles in a millisecond."""


def fit(
    residual: Callable[..., Tensor],
    times: Any,
    data: Any,
    parameters: Any = None,
    *,
    order: int = 1,
    observe: Callable[..., Tensor] | None = None,
    noise: Any = None,
    initial: Any = None,
    jumps: Any = None,
    **options: Any,
) -> Fitted:
    """Fits parameters of f(t, y, y', θ) = 0 to data: `smnn_core.fit` for callbacks on tensors that return values alone.

    Main arguments:
        residual: (t, y, θ[, u]) -> (M, n, Q) for tensors t (M, n), y (M, n, V, order+1) and θ (M, 1, p), or a dict of
            names to tensors (M, 1): the equations, each point by itself, in PyTorch's operations out of place.
        times, data: as for `smnn_core.fit`; tensors, arrays, lists of these, or a data frame.
        parameters: as for `smnn_core.fit`; a network (`nn.Module`), or a dict in which some are networks: callbacks get
            them as they are, to be called. The parameters of `residual` are fitted, too, where it is a module.
        observe: (t, y, θ[, u]) -> (M, n, m), what is observed; None: the variables.
        noise: numbers, tensors, None (estimated) or (t, y, θ[, u]) -> (M, n, m).
        initial: numbers or (θ[, u]) -> (M, V), see `smnn_core.fit`.
        jumps: (times, numbers or (θ[, u]) -> (M, n, V), or (M, V) where all are alike), see `smnn_core.fit`.

    The other arguments are those of `smnn_core.fit`. Results have no gradients by data, noise or initial values:
    tensors that require them are refused. Callbacks get the dtype of `data` where it is a tensor, else float64; all
    other arithmetic is float64, and the result holds NumPy arrays.

    Networks are trained in place by the same Gauss-Newton iterations (`smnn_core.Network`): no optimiser, no rate, no
    schedule. They are in `networks` of the result, too. Those weights that require gradients are fitted, a priori
    normal with deviation 1; what is divided by zero or not smooth at the start, such as weights that are all zero, does
    not learn. Callbacks get float64 then, and weights and buffers are float64 while they run, whatever the module has.
    Points are evaluated each by itself: no batch normalisation, no branches on values, no operations in place. Where
    data sets share a network they are experiments, a list.

    Example: decay.

        >>> import torch, smnn_torch
        >>> t = torch.linspace(0, 2, 41, dtype=torch.float64)
        >>> r = smnn_torch.fit(lambda t, y, k: y[..., 1] + k * y[..., 0], t, 3 * torch.exp(-1.3 * t), [1.0], noise=0.01)
        >>> print(f"{r.parameters[0]:.3f}")
        1.300
    """
    every = {"times": times, "data": data, "parameters": parameters, "noise": noise, "initial": initial, "jumps": jumps}
    _refuse_gradients(every | options)
    first = data[0] if isinstance(data, (list, tuple)) and len(data) else data
    dtype, device = (first.dtype, first.device) if isinstance(first, Tensor) else (torch.float64, torch.device("cpu"))
    takes, given, networks, handed = _split(residual, parameters)
    weights = networks.weights()
    if weights:
        dtype, device = torch.float64, next(networks.parameters()).device
        if np.ndim(first) > 2:
            raise ArgumentError("data: sets that share a network are experiments: give a list of (n, m), not a batch.")
    wrap = _Wrapper(dtype, device, takes, networks, handed)
    if isinstance(jumps, tuple) and len(jumps) == 2 and callable(jumps[1]):
        if weights:
            raise ArgumentError("jumps: a function of the parameters is not possible beside networks: give numbers.")
        jumps = jumps[0], wrap.initial(jumps[1])
    result = core_fit(
        wrap.function(residual, "residual"),
        _plain(times),
        _plain(data),
        (_plain(given) or {}) | weights if weights else _plain(given),
        order=order,
        observe=None if observe is None else wrap.function(observe, "observe"),
        noise=wrap.function(noise, "noise") if callable(noise) else _plain(noise),
        initial=wrap.initial(initial) if callable(initial) else _plain(initial),
        jumps=_plain(jumps),
        **{name: _plain(x) for name, x in options.items()},
    )
    trained = {} if np.isnan(result.cost).any() else networks.load(result.networks)
    return replace(result, networks=trained, _wrap=wrap.function)


def _split(residual: Any, parameters: Any) -> tuple[str, Any, _Networks, tuple[str, ...]]:
    """The form of θ in callbacks, the parameters by themselves, networks by name, and names of those in θ."""
    own = {"residual": residual} if isinstance(residual, nn.Module) and _trained(residual) else {}
    if isinstance(parameters, nn.Module):
        return "network", None, _Networks({"network": parameters} | own), ("network",)
    takes = "parameters" if has_parameters(parameters) else "nothing"
    if not isinstance(parameters, Mapping):
        if own and takes == "parameters":
            raise ArgumentError("parameters: beside a residual that is a module with parameters, give a dict of names.")
        return takes, parameters, _Networks(own), ()
    if own and "residual" in parameters:
        raise ArgumentError('parameters: "residual" is the name of the residual, which is a module: take another one.')
    networks = {k: x for k, x in parameters.items() if isinstance(x, nn.Module)}
    single = {k: x for k, x in parameters.items() if k not in networks}
    return takes, single, _Networks(networks | own), tuple(networks)


def _refuse_gradients(arguments: Mapping[str, Any]) -> None:
    """
    Raises:
        ArgumentError: if a tensor among them, in lists and mappings, too, is part of a graph: a fit would leave it.
    """

    def tensors(x: Any) -> Iterator[Tensor]:
        if isinstance(x, Tensor):
            yield x
        elif type(x) in (list, tuple, dict):
            for part in x.values() if type(x) is dict else x:
                yield from tensors(part)

    for name, x in arguments.items():
        if torch.is_grad_enabled() and any(part.requires_grad for part in tensors(x)):
            raise ArgumentError(
                f"{name} requires gradients, but results of fits have none by what they were fitted to: give "
                f"{name}.detach(), or call fit under torch.no_grad()."
            )


def _plain(x: Any) -> Any:
    """Tensors as NumPy arrays, in lists, tuples and mappings, too."""
    if isinstance(x, Tensor):
        return x.detach().cpu().numpy()
    if type(x) in (list, tuple):
        return type(x)(map(_plain, x))
    return {k: _plain(v) for k, v in x.items()} if type(x) is dict else x


@contextmanager
def _one_thread(size: int) -> Iterator[None]:
    """One thread of PyTorch for arrays that more would not speed up, but slow down where other work is going on."""
    threads = torch.get_num_threads()
    if threads == 1 or size > SMALL:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


class _Networks(nn.Module):
    """Modules whose weights are fitted: all that require gradients, in the order of `parameters()`."""

    def __init__(self, modules: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.names, self.modules_ = tuple(modules), nn.ModuleList(modules.values())
        every = [id(x) for module in self.modules_ for x in module.parameters() if x.requires_grad]
        if len(set(every)) < len(every):
            raise ArgumentError("parameters: networks share weights with each other or with the residual: name one.")

    def weights(self) -> dict[str, Network]:
        """For the core."""
        return {
            name: Network(torch.cat([x.detach().ravel() for x in _trained(module)]).cpu().double().numpy())
            for name, module in zip(self.names, self.modules_, strict=True)
        }

    def load(self, weights: Mapping[str, np.ndarray]) -> dict[str, nn.Module]:
        """Writes weights into the modules."""
        for name, module in zip(self.names, self.modules_, strict=True):
            own, flat = _trained(module), torch.as_tensor(np.array(weights[name]))
            for x, new in zip(own, flat.split([x.numel() for x in own]), strict=True):
                x.data.copy_(new.reshape(x.shape))
        return dict(zip(self.names, self.modules_, strict=True))

    def forward(self, function: Callable[..., Tensor], *arguments: Any) -> Tensor:
        return function(*arguments)

    def called_with(self, weights: Mapping[str, Tensor], function: Callable[..., Tensor], *arguments: Any) -> Tensor:
        """function(*arguments) while the modules have the weights (n,) given; all else in their precision."""
        if not weights:
            return function(*arguments)
        fixed = (*self.named_buffers(), *((k, x) for k, x in self.named_parameters() if not x.requires_grad))
        given = {k: x.to(torch.float64) for k, x in fixed if x.is_floating_point()}
        for i, (name, module) in enumerate(zip(self.names, self.modules_, strict=True)):
            own = {k: x for k, x in module.named_parameters() if x.requires_grad}
            parts = weights[name].split([x.numel() for x in own.values()])
            given |= {f"modules_.{i}.{k}": v.reshape(x.shape) for (k, x), v in zip(own.items(), parts, strict=True)}
        return functional_call(self, given, (function, *arguments))


def _trained(module: nn.Module) -> list[nn.Parameter]:
    return [x for x in module.parameters() if x.requires_grad]


@dataclass(frozen=True, eq=False)
class _Wrapper:
    """Callbacks on tensors as the core calls them."""

    dtype: torch.dtype
    device: torch.device
    takes: str
    """"nothing", "parameters" or "network": what callbacks get as θ; a network is given by itself"""
    networks: _Networks
    handed: tuple[str, ...]
    """names of the networks that callbacks get, all but the residual itself"""

    def function(self, function: Callable[..., Tensor], name: str) -> _Function:
        """(t, y[, θ][, u]) -> values, derivatives in y and in θ."""
        return _Function(self, function, name)

    def initial(self, function: Callable[..., Tensor]) -> _Initial:
        """(θ[, u]) -> values (M, V) and their derivatives in θ."""
        return _Initial(self, function)

    def tensor(self, x: Any) -> Any:
        if isinstance(x, Mapping):
            return {k: self.tensor(v) for k, v in x.items()}
        return torch.as_tensor(np.ascontiguousarray(x), dtype=self.dtype, device=self.device)

    def split(self, rest: tuple[Any, ...], given: bool) -> tuple[Any, dict[str, Tensor], list[Tensor]]:
        """Parameters by themselves, weights of networks, and inputs, from what the core gives behind y."""
        θ, *others = (*map(self.tensor, rest),) if given else (None, *map(self.tensor, rest))
        weights = {k: θ.pop(k) for k in self.networks.names}
        return θ, weights, others

    def of_callback(self, θ: Any) -> tuple[Any, ...]:
        """θ as callbacks take it: none, a tensor, a network, or a dict of tensors and networks."""
        if self.takes == "nothing":
            return ()
        networks = dict(zip(self.networks.names, self.networks.modules_, strict=True))
        if self.takes == "network":
            return (networks["network"],)
        return (θ | {k: networks[k] for k in self.handed} if isinstance(θ, dict) else θ,)


@dataclass(frozen=True, eq=False)
class _Function:
    wrap: _Wrapper
    function: Callable[..., Tensor]
    name: str

    def __call__(self, t: Any, y: Any, *rest: Any) -> tuple[np.ndarray, ...]:
        wrap = self.wrap
        given = wrap.takes != "nothing" or bool(wrap.networks.names)  # (the core gives θ)
        θ, weights, others = wrap.split(rest, given)
        t, y = wrap.tensor(t), wrap.tensor(y)
        names = list(θ) if isinstance(θ, dict) else None
        core, n_y = y.shape[-2:], y.shape[-2:].numel()
        flat = y.reshape(*y.shape[:2], -1)
        single = list(θ.values()) if names else []
        stacked = torch.stack(single, -1) if single else None if names is not None else θ
        if stacked is not None:
            flat = torch.cat([flat, stacked.expand(*y.shape[:2], stacked.shape[-1])], -1)

        def values(t: Tensor, x: Tensor, others: Sequence[Tensor], weights: Mapping[str, Tensor]) -> Tensor:
            arguments = [t, x[..., :n_y].reshape(*x.shape[:-1], *core)]
            parameters = x[..., n_y:]
            own = dict(zip(names, parameters.unbind(-1), strict=True)) if names is not None else parameters
            arguments += [*wrap.of_callback(own), *others]
            out = wrap.networks.called_with(weights, self.function, *arguments)
            if not isinstance(out, Tensor):
                raise ArgumentError(f"{self.name} must return a tensor, got {type(out).__name__}.")
            return out

        flat = flat.movedim(-1, 0).contiguous().movedim(0, -1)  # (what callbacks select lies together in memory)
        with FORWARD_MODE, torch.no_grad(), _one_thread(flat.numel() * flat.shape[-1]):
            if weights:
                out, slope, in_weights = _with_weights(values, t, flat, others, weights)
                slope = torch.cat([slope, *in_weights], -1)
            else:
                out, slope = _forward(lambda x: values(t, x, others, weights), flat)
        result = (out, slope[..., :n_y].reshape(*slope.shape[:-1], *core), slope[..., n_y:])
        result = tuple(x.detach().to("cpu", torch.float64).numpy() for x in result)
        return result if given else result[:2]


def _forward(function: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    """Values (..., m) and derivatives (..., m, k) of a function of each point's x (..., k), in forward mode."""
    basis = torch.eye(x.shape[-1], dtype=x.dtype, device=x.device)
    with FORWARD_MODE:
        slope = vmap(lambda v: jvp(function, (x,), (v.expand(x.shape),))[1])(basis)
    return function(x), slope.movedim(0, -1)  # (out_dims=-1 is another axis for what does not depend on v)


def _with_weights(
    values: Callable[..., Tensor], t: Tensor, x: Tensor, others: Sequence[Tensor], weights: Mapping[str, Tensor]
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Values, derivatives in each point's x by forward mode, and in the weights (M, 1, n) of each by reverse mode."""

    def of_member(t: Tensor, x: Tensor, others: Sequence[Tensor], weights: Mapping[str, Tensor]) -> Any:
        def of_points(x: Tensor) -> Tensor:
            return values(t[None], x[None], [u[None] for u in others], weights)[0]

        def of_point(weights: Mapping[str, Tensor], t: Tensor, x: Tensor, others: Sequence[Tensor]) -> Tensor:
            return values(t[None, None], x[None, None], [u[None, None] for u in others], weights)[0, 0]

        every = vmap(jacrev(of_point), in_dims=(None, 0, 0, 0))(weights, t, x, others)
        return *_forward(of_points, x), every

    own = {k: w[:, 0] for k, w in weights.items()}
    out, slope, every = vmap(of_member, in_dims=(0, 0, 0, 0))(t, x, list(others), own)
    return out, slope, list(every.values())


@dataclass(frozen=True, eq=False)
class _Initial:
    wrap: _Wrapper
    function: Callable[..., Tensor]

    def __call__(self, *rest: Any) -> tuple[np.ndarray, ...]:
        wrap = self.wrap
        θ, weights, others = wrap.split(rest, True)
        names = list(θ) if isinstance(θ, dict) else None
        flat = torch.stack(list(θ.values()), -1) if names else θ
        if flat is θ and names is not None:
            flat = next(iter(weights.values()))[..., :0]

        def values(_: Any, x: Tensor, others: Sequence[Tensor], weights: Mapping[str, Tensor]) -> Tensor:
            own = wrap.of_callback(dict(zip(names, x.unbind(-1), strict=True)) if names is not None else x)
            return wrap.networks.called_with(weights, self.function, *own, *others)

        with torch.no_grad():
            if weights:
                out, slope, in_weights = _with_weights(values, flat[..., :0], flat, others, weights)
                slope = torch.cat([slope, *in_weights], -1)
            else:
                out, slope = _forward(lambda x: values(None, x, others, weights), flat)
        if out.ndim == 3 and out.shape[1] == 1:
            out, slope = out[:, 0], slope[:, 0]
        return tuple(x.detach().to("cpu", torch.float64).numpy() for x in (out, slope))
