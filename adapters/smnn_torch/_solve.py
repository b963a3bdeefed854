"""`solve_ode` for tensors."""

from __future__ import annotations

from smnn_core import TAYLOR, NamespaceError, Scheme, Weights
from torch import Tensor

from ._bridge import Statement
from ._operators import LeastSquares

__all__ = ["solve_ode"]

UNIT = Weights()


def solve_ode(
    coefficients: Tensor,
    rhs: Tensor,
    initial_values: Tensor,
    step_sizes: Tensor,
    *,
    n_steps: int | None = None,
    scheme: Scheme = TAYLOR,
    weights: Weights = UNIT,
    engine: str = "auto",
    check: bool = False,
    recompute: bool = False,
) -> Tensor:
    """`smnn_core.solve_ode` for tensors, differentiable to any order in all of them, weights included.

    Args:
        coefficients: (..., T or 1, Q, V, R+1).
        rhs: (..., T or 1, Q).
        initial_values: (..., T_init, V, R_init); T_init may be 0.
        step_sizes: (..., T-1 or 1), in units of time; non-zero, may be irregular or negative.
        n_steps, scheme, weights, engine, check: as for `smnn_core.solve_ode`; weights may be tensors.
        recompute: free the factor after the forward pass and factor again in the backward pass: less memory, for long
            sequences.

    Returns:
        y, (..., T, V, R+1), in the dtype and on the device of the inputs.

    Raises:
        as `smnn_core.solve_ode`.
    """
    tensors = {"coefficients": coefficients, "rhs": rhs, "initial_values": initial_values, "step_sizes": step_sizes}
    for name, x in tensors.items():
        if not isinstance(x, Tensor):
            raise NamespaceError(f"{name} must be a torch.Tensor, got {type(x).__name__}: use torch.as_tensor.")
    how = Statement(
        scheme, n_steps, initial_values.shape[-3], initial_values.shape[-1], engine, check, recompute
    )
    lhs = coefficients, step_sizes, weights.equation, weights.initial, weights.smoothness
    return LeastSquares.apply(how, None, *lhs, rhs, initial_values, None)[0]
