"""A residual on tensors, as the equations of a nonlinear problem: its values and its derivatives.

J = ∂f/∂y takes Q products in reverse mode, or n = V K in forward mode: each point stands by itself, so that one product
serves all times. Q is smaller, by K where there are as many equations as variables, and reverse mode shares the
evaluation of f with its graph; forward mode is for what PyTorch traces. P = ∂f/∂θ takes p products in forward mode.

Letters: T time points, V variables, K = R+1 orders, Q equations, p parameters.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.func import jvp, vmap

from smnn_core import ArgumentError, NamespaceError
from smnn_core.extend import Linearization
from smnn_core.extend import Residual as CoreResidual

from ._bridge import tensor

__all__ = ["Residual", "check_tensor", "for_core", "is_traced"]


class Residual(CoreResidual):
    """A residual on tensors."""

    array, name_of_array = Tensor, "torch.Tensor"

    def linearize(
        self, t: Tensor, y: Tensor, parameters: Tensor | None = None, *, graph: bool = False
    ) -> Linearization:
        """f, J and P at constants y and θ; with `graph` f has that of t and of what the residual holds."""
        others = () if parameters is None else (parameters,)
        if is_traced(y):
            f = self(t, y, *others)
            J = _columns(lambda y: self(t, y, *others), y, 2)
        else:
            f, J = self._rows(t, y, others, graph and torch.is_grad_enabled())
        P = None if parameters is None else _columns(lambda θ: self(t, y, θ), parameters, 1).detach()
        return Linearization(f if graph else f.detach(), J.detach(), P)

    def _rows(self, t: Tensor, y: Tensor, others: tuple[Tensor, ...], graph: bool) -> tuple[Tensor, Tensor]:
        """f and J by reverse mode."""
        with torch.enable_grad():
            x = y.detach().requires_grad_()
            f = self(t, x, *others)
            if f.shape[:-1] != x.shape[:-2]:  # of more members than y: each has its own derivatives
                x = y.detach().expand(*f.shape[:-1], *y.shape[-2:]).requires_grad_()
                f = self(t, x, *others)
            if not f.requires_grad:
                raise ArgumentError(
                    "residual(t, y) has no derivative in y: write it with PyTorch's operations on y, without "
                    "detach(), no_grad(), item() or NumPy, and call outside of torch.inference_mode(); no_grad() "
                    "around the call is fine."
                )
            Q = f.shape[-1]
            keep = [graph or q < Q - 1 for q in range(Q)]
            rows = [
                torch.autograd.grad(f[..., q].sum(), x, retain_graph=keep[q], materialize_grads=True)[0]
                for q in range(Q)
            ]
        return f if graph and _holds_more(f, x) else f.detach(), torch.stack(rows, dim=-3)

    def as_linearize(self) -> Callable[..., tuple[Any, ...]]:
        """The callback of the core, on its arrays: NumPy arrays on the memory of CPU tensors, or tensors."""

        def linearize(*arguments: Any) -> tuple[Any, ...]:
            given = [tensor(x if isinstance(x, Tensor) or x.flags.writeable else x.copy()) for x in arguments]
            results = self.linearize(*given)[: len(given)]
            return tuple(x if isinstance(arguments[1], Tensor) else for_core(x) for x in results)

        return linearize


def _holds_more(f: Tensor, x: Tensor) -> bool:
    """Whether something else than x that requires a gradient has led to f."""
    nodes, seen = [f.grad_fn], set()
    while nodes:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        variable = getattr(node, "variable", x)
        if variable is not x:
            return True
        nodes += [following for following, _ in node.next_functions]
    return False


def _columns(function: Callable[[Tensor], Tensor], x: Tensor, core: int) -> Tensor:
    """The derivatives (..., T, Q, *x.shape[-core:]) of values (..., T, Q) in the entries of the last axes of x, by one
    forward-mode product for each."""
    shape = x.shape[-core:]
    basis = torch.eye(shape.numel(), dtype=x.dtype, device=x.device).reshape(-1, *shape)
    with torch.no_grad():
        J = vmap(lambda v: jvp(function, (x,), (v.expand(x.shape),))[1], out_dims=-1)(basis)
    return J.reshape(*J.shape[:-1], *shape)


def check_tensor(name: str, x: Any, *, optional: bool = False, number: bool = False) -> None:
    """Raises NamespaceError, naming the argument, for what is no tensor."""
    if isinstance(x, Tensor) or (optional and x is None) or (number and isinstance(x, (int, float))):
        return
    raise NamespaceError(f"{name} must be a torch.Tensor, got {type(x).__name__}: use torch.as_tensor.")


def for_core(x: Any) -> Any:
    """A tensor as the core takes it, without its graph: a NumPy array on the same memory, where it is on the CPU."""
    if not isinstance(x, Tensor):
        return x
    return x.numpy(force=True) if x.is_cpu else x.detach()


def is_traced(*tensors: Any) -> bool:
    """Whether PyTorch traces or transforms this call, so that values are not at hand."""
    if torch.compiler.is_compiling() or torch._C._functorch.peek_interpreter_stack() is not None:
        return True
    return any(type(x) not in (Tensor, torch.nn.Parameter) for x in tensors if isinstance(x, Tensor))
