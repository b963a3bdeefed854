"""`ode_forward`, the interface of the published code."""

from __future__ import annotations

from torch import Tensor

from smnn_core import TAYLOR, ArgumentError, NamespaceError, ShapeError, Weights

from ._solve import Factorization, factorize, refuse_gradients, solve_ode

__all__ = ["ode_forward"]

_frozen: dict[int, Factorization] = {}


def ode_forward(
    coefficients: Tensor,
    rhs_equation: Tensor,
    init_vars: Tensor,
    steps: Tensor,
    n_steps: int | None = None,
    n_init_var_steps: int | None = None,
    is_step_dim_first: bool = False,
    weight_equation: float = 1.0,
    weight_init_var: float = 1.0,
    weight_smooth: float = 1.0,
    enable_central_smoothness: bool = False,
    prefer_cuda_graph: bool = True,
    frozen_lhs_cache_version: int = 0,
) -> Tensor:
    """`solve_ode` under the names, defaults and meanings of the published `ode_forward`, with its scheme, `TAYLOR`:
    change the import and go on.

    Args:
        coefficients: (..., T or 1, Q, V, R+1).
        rhs_equation: (..., T or 1, Q).
        init_vars: (..., T_init or 1, V, R_init).
        steps: (..., T-1 or 1).
        n_steps: T, where the axes above are 1.
        n_init_var_steps: T_init, where the axis above is 1.
        is_step_dim_first: the axes of time come first, before the batch, in all arguments and in the result.
        weight_equation: weight of the equation rows.
        weight_init_var: weight of the initial rows.
        weight_smooth: weight of the smoothness rows.
        enable_central_smoothness: must be False.
        prefer_cuda_graph: a preference, without effect here.
        frozen_lhs_cache_version: a positive number names a left-hand side: it is eliminated when the number is first
            seen; later calls with this number use it whatever their coefficients, steps and weights are. It is kept
            until `ode_forward.clear_frozen()`. `smnn_torch.factorize` does the same without hidden state.

    Returns:
        y, (..., T, V, R+1), or (T, ..., V, R+1).

    Raises:
        ArgumentError: for central smoothness rows, and for a frozen left-hand side that requires a gradient.
        ShapeError, DTypeError, NamespaceError, DeviceError: as `solve_ode`.
        SingularSystemError: as `solve_ode`.

    Source: Chen et al., ICLR 2025, arXiv:2410.06074.
    """
    if enable_central_smoothness:
        raise ArgumentError(
            "enable_central_smoothness=True is not supported: central rows tie three time points together, and this "
            "library's problems tie two. Leave it out (the published examples do); scheme=smnn_torch.HERMITE of "
            "solve_ode is the more accurate alternative."
        )
    c, b, u, s = coefficients, rhs_equation, init_vars, steps
    for name, x, rank in (("coefficients", c, 4), ("rhs_equation", b, 2), ("init_vars", u, 3), ("steps", s, 1)):
        if not isinstance(x, Tensor):
            raise NamespaceError(f"{name} must be a torch.Tensor, got {type(x).__name__}: use torch.as_tensor.")
        if x.ndim < rank:
            raise ShapeError(f"{name} must have at least {rank} axes; got shape {tuple(x.shape)}.")
    if is_step_dim_first:
        c, b, u, s = (x.movedim(0, -rank) for x, rank in ((c, 4), (b, 2), (u, 3), (s, 1)))
    if n_steps is None and c.shape[-4] == b.shape[-2] == s.shape[-1] == 1:
        n_steps = 2  # one step
    if n_init_var_steps is not None and n_init_var_steps != u.shape[-3]:
        if u.shape[-3] != 1:
            raise ShapeError(
                f"init_vars has {u.shape[-3]} time points, n_init_var_steps says {n_init_var_steps}: they must agree, "
                "or init_vars have 1."
            )
        u = u.expand(*u.shape[:-3], n_init_var_steps, *u.shape[-2:])
    weights = Weights(weight_equation, weight_init_var, weight_smooth)
    if frozen_lhs_cache_version > 0:
        refuse_gradients((c, s, *vars(weights).values()))
        if frozen_lhs_cache_version not in _frozen:
            if n_steps is None and b.shape[-2] != 1:
                n_steps = b.shape[-2]
            _frozen[frozen_lhs_cache_version] = factorize(
                c,
                s,
                n_initial_steps=u.shape[-3],
                n_initial_orders=u.shape[-1],
                n_steps=n_steps,
                scheme=TAYLOR,
                weights=weights,
            )
        y = _frozen[frozen_lhs_cache_version].solve(b, u)
    else:
        y = solve_ode(c, b, u, s, n_steps=n_steps, scheme=TAYLOR, weights=weights)
    return y.movedim(-3, 0) if is_step_dim_first else y


ode_forward.clear_frozen = _frozen.clear  # type: ignore[attr-defined]
