"""`fit` for callbacks on tensors: the core's, with the derivatives of one vectorised forward pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.func import jvp, vmap

from smnn_core import ArgumentError, Fitted
from smnn_core import fit as core_fit
from smnn_core.extend import has_parameters

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
        times, data, parameters: as for `smnn_core.fit`; tensors, arrays, lists of these, or a data frame.
        observe: (t, y, θ[, u]) -> (M, n, m), what is observed; None: the variables.
        noise: numbers, tensors, None (estimated) or (t, y, θ[, u]) -> (M, n, m).
        initial: numbers or (θ[, u]) -> (M, V), see `smnn_core.fit`.
        jumps: (times, numbers or (θ[, u]) -> (M, n, V), or (M, V) where all are alike), see `smnn_core.fit`.

    The other arguments are those of `smnn_core.fit`. Callbacks get the dtype of `data` where it is a tensor, else
    float64; all other arithmetic is float64, and the result holds NumPy arrays.

    Example: decay.

        >>> import torch, smnn_torch
        >>> t = torch.linspace(0, 2, 41, dtype=torch.float64)
        >>> r = smnn_torch.fit(lambda t, y, k: y[..., 1] + k * y[..., 0], t, 3 * torch.exp(-1.3 * t), [1.0], noise=0.01)
        >>> print(f"{r.parameters[0]:.3f}")
        1.300
    """
    first = data[0] if isinstance(data, (list, tuple)) and len(data) else data
    dtype, device = (first.dtype, first.device) if isinstance(first, Tensor) else (torch.float64, torch.device("cpu"))
    wrap = _Wrapper(dtype, device, has_parameters(parameters))
    if isinstance(jumps, tuple) and len(jumps) == 2 and callable(jumps[1]):
        jumps = jumps[0], wrap.initial(jumps[1])
    result = core_fit(
        wrap.function(residual, "residual"),
        _plain(times),
        _plain(data),
        _plain(parameters),
        order=order,
        observe=None if observe is None else wrap.function(observe, "observe"),
        noise=wrap.function(noise, "noise") if callable(noise) else _plain(noise),
        initial=wrap.initial(initial) if callable(initial) else _plain(initial),
        jumps=_plain(jumps),
        **{name: _plain(x) for name, x in options.items()},
    )
    return replace(result, _wrap=wrap.function)


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


class _Wrapper:
    """Callbacks on tensors as the core calls them."""

    def __init__(self, dtype: torch.dtype, device: torch.device, has_parameters: bool) -> None:
        self.dtype, self.device, self.has_parameters = dtype, device, has_parameters

    def tensor(self, x: Any) -> Any:
        if isinstance(x, Mapping):
            return {k: self.tensor(v) for k, v in x.items()}
        return torch.as_tensor(np.ascontiguousarray(x), dtype=self.dtype, device=self.device)

    def function(self, function: Callable[..., Tensor], name: str) -> Callable[..., tuple[np.ndarray, ...]]:
        """(t, y[, θ][, u]) -> values, derivatives in y and in θ."""

        def called(t: Any, y: Any, *rest: Any) -> tuple[np.ndarray, ...]:
            t, y, *others = (self.tensor(x) for x in (t, y, *rest))
            θ = others.pop(0) if self.has_parameters else None
            names = list(θ) if isinstance(θ, dict) else None
            core = y.shape[-2:]
            flat = y.reshape(*y.shape[:2], -1)
            if θ is not None:
                stacked = torch.stack(list(θ.values()), -1) if names else θ
                stacked = stacked.expand(*y.shape[:2], stacked.shape[-1])
                flat = torch.cat([flat, stacked], -1)
            n_y = core.numel()

            def values(x: Tensor) -> Tensor:
                arguments = [t, x[..., :n_y].reshape(*x.shape[:-1], *core)]
                if θ is not None:
                    given = x[..., n_y:]
                    arguments.append(dict(zip(names, given.unbind(-1), strict=True)) if names else given)
                out = function(*arguments, *others)
                if not isinstance(out, Tensor):
                    raise ArgumentError(f"{name} must return a tensor, got {type(out).__name__}.")
                return out

            flat = flat.movedim(-1, 0).contiguous().movedim(0, -1)  # (what callbacks select lies together in memory)
            basis = torch.eye(flat.shape[-1], dtype=flat.dtype, device=flat.device)
            with torch.no_grad(), _one_thread(flat.numel() * len(basis)):
                out, slope = vmap(lambda v: jvp(values, (flat,), (v.expand(flat.shape),)), out_dims=(None, 0))(basis)
            slope = slope.movedim(0, -1)
            result = (out, slope[..., :n_y].reshape(*slope.shape[:-1], *core), slope[..., n_y:])
            result = tuple(x.detach().to("cpu", torch.float64).numpy() for x in result)
            return result if θ is not None else result[:2]

        return called

    def initial(self, function: Callable[..., Tensor]) -> Callable[..., tuple[np.ndarray, ...]]:
        """(θ[, u]) -> values (M, V) and their derivatives in θ."""

        def called(θ: Any, *rest: Any) -> tuple[np.ndarray, ...]:
            θ, *others = (self.tensor(x) for x in (θ, *rest))
            names = list(θ) if isinstance(θ, dict) else None
            flat = torch.stack(list(θ.values()), -1) if names else θ

            def values(x: Tensor) -> Tensor:
                out = function(dict(zip(names, x.unbind(-1), strict=True)) if names else x, *others)
                return out[:, 0] if out.ndim == 3 and out.shape[1] == 1 else out

            basis = torch.eye(flat.shape[-1], dtype=flat.dtype, device=flat.device)
            with torch.no_grad():
                out, slope = vmap(lambda v: jvp(values, (flat,), (v.expand(flat.shape),)), out_dims=(None, 0))(basis)
            return tuple(x.detach().to("cpu", torch.float64).numpy() for x in (out, slope.movedim(0, -1)))

        return called
