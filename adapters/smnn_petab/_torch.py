"""The equations of a problem as a residual on tensors, for `smnn_torch.solve` and `smnn_torch.fit`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from ._equations import Equations

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["torch_residual"]


def torch_residual(equations: Equations, experiment: int) -> Callable[..., Tensor]:
    """x' minus the rates in an experiment, (t, y, θ) -> (..., T, V), with derivatives in all."""
    import torch

    rates = equations.function(equations.rates, "torch")
    inputs = equations.of_parameters(equations.settings[experiment].inputs, "torch")
    names = [str(s) for s in equations.parameters]

    def residual(t: Tensor, y: Tensor, θ: Mapping[str, Any]) -> Tensor:
        q = inputs([torch.as_tensor(θ[name], dtype=y.dtype) for name in names])
        values = rates(t, [y[..., i, 0] for i in range(y.shape[-2])], q)
        return torch.stack([y[..., i, 1] - value for i, value in enumerate(values)], dim=-1)

    return residual
