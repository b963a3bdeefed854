"""The published rows with central smoothness, eliminated by pairs of time points.

`enable_central_smoothness=True` of the published `ode_forward` replaces the last forward and the last backward row of
`TAYLOR` by central rows. With s = s[t] and R = K-1 >= 1 the rows are

    equation, initial   as in `smnn_core.solve_ode`
    forward             sum_{o>=r} s^o/(o-r)! y[t,o] - s^r y[t+1,r]                           r < R
    backward            sum_{o>=r} (-s)^o/(o-r)! y[t+1,o] - (-s)^r y[t,r]                     r < R
    central             (y[t-1,R-1] - y[t+1,R-1]) h^(R-2) + y[t,R] h^(R-1),  h = s[t-1] + s[t],  0 < t < T-1

A central row has the smaller weight of its two steps, so that masking a step masks it too. Central rows tie three
time points together, and two points taken as one no more than neighbours: D x[j] + C x[j+1], x[j] = (y[2j], y[2j+1]),
rows as those that the array API engine eliminates.

Source of the rows: Chen et al., ICLR 2025, arXiv:2410.06074, and their code.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import array_api_compat.torch as xp
import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn.functional import pad

from smnn_core import TAYLOR, ArgumentError, Weights
from smnn_core.extend import (
    SETTLING,
    UNIT,
    Columns,
    Problem,
    System,
    apply,
    factor_of_rows,
    odd_even,
    raise_if_singular,
    refined_states,
    weighted,
)

from ._bridge import Options
from ._solve import stated

__all__ = ["central_rows", "central_steps", "central_weight", "check_orders", "smnn_central"]

REFINEMENTS = 20
"""At most. Elimination in y, not in increments, leaves digits of high derivatives across short steps to them."""


def smnn_central(
    coefficients: Tensor,
    rhs: Tensor,
    initial_values: Tensor,
    step_sizes: Tensor,
    *,
    n_steps: int | None = None,
    weights: Weights = UNIT,
) -> Tensor:
    """The published system with central smoothness rows, differentiable once.

    Arguments, result and errors are those of `solve_ode`; R must be at least 1, and for R = 1 neighbouring steps may
    not cancel. Singular systems raise, or come back as NaN, as there.
    """
    how = Options(TAYLOR, n_steps, 0, 0)
    _, inputs = stated(how, coefficients, rhs, initial_values, step_sizes, weights)
    return _Solution.apply(n_steps, *inputs)


def check_orders(coefficients: Any) -> None:
    """
    Raises:
        ArgumentError: for coefficients of a single order.
    """
    if coefficients.shape[-1] < 2:
        raise ArgumentError(
            f"coefficients {tuple(coefficients.shape)} have K = 1 derivative order; the rows of this system need at "
            "least 2 (R >= 1): append zeros along the last axis."
        )


def central_rows(system: System, y: Any) -> tuple[Any, ...]:
    """W A y for y of shape (..., T, V, K), arrays of any library: equation, initial, forward, backward and central rows
    by the first of their time points."""
    K, R = system.K, system.K - 1
    equation, initial, smoothness = weighted(system.weights, apply(system, y))
    h, w = central_steps(system), central_weight(system)
    central = (y[..., :-2, :, R - 1] - y[..., 2:, :, R - 1]) * h ** (R - 2) + y[..., 1:-1, :, R] * h ** (R - 1)
    return equation, initial, smoothness[..., :R], smoothness[..., K : K + R], w * central


def central_weight(system: System) -> Any:
    """The weight of the central rows, (..., T-2, 1)."""
    w = _per_step(system, system.weights.smoothness)
    return system.xp.minimum(w[..., :-1], w[..., 1:])[..., None]


def central_steps(system: System) -> Any:
    """h = s[t-1] + s[t], (..., T-2, 1)."""
    s = _per_step(system, system.step_sizes)
    return (s[..., :-1] + s[..., 1:])[..., None]


def _per_step(system: System, x: Any) -> Any:
    return system.xp.broadcast_to(x, (*tuple(x.shape[:-1]), system.n_steps - 1))


class _Solution(Function):
    """(n_steps, inputs) -> y = argmin |W (A y - d)|.

    With (W A)^T v = g = dL/dy, v in the range of W A, λ = M^-1 g and r = W (d - A y) the differential of L is that of
    φ = v . W (d - A y) + (W A λ) . r with y, λ, v and r held fixed: torch differentiates the products.
    """

    @staticmethod
    def forward(ctx: Any, n_steps: int | None, *inputs: Any) -> Tensor:
        problem = _problem(n_steps, inputs)
        pairs = _Pairs(problem)
        y = pairs.solve(_right_hand_side(problem))
        ctx.n_steps, ctx.pairs = n_steps, pairs
        ctx.numbers = [None if isinstance(x, Tensor) else x for x in inputs]
        ctx.save_for_backward(y, *(x if isinstance(x, Tensor) else None for x in inputs))
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        y, *tensors = ctx.saved_tensors
        v, λ = ctx.pairs.adjoint(g)
        needed = ctx.needs_input_grad[1:]
        leaves = [
            number if x is None else x.detach().requires_grad_(need)
            for x, number, need in zip(tensors, ctx.numbers, needed, strict=True)
        ]
        with torch.enable_grad():
            problem = _problem(ctx.n_steps, leaves)
            r = _right_hand_side(problem) - _product(problem.system, problem.batch, y)
            φ = torch.sum(v * r + _product(problem.system, problem.batch, λ) * r.detach())
        moving = [x for x, need in zip(leaves, needed, strict=True) if need]
        gradients = iter(torch.autograd.grad(φ, moving, allow_unused=True))
        return None, *(next(gradients) if need else None for need in needed)


def _problem(n_steps: int | None, inputs: Any) -> Problem:
    *arrays, equation, initial, smoothness = inputs
    check_orders(arrays[0])
    weights = Weights(equation, initial, smoothness)
    return Problem.build(*arrays, n_steps=n_steps, scheme=TAYLOR, weights=weights)


def _product(system: System, batch: tuple[int, ...], y: Tensor) -> Tensor:
    """W A y, (*batch, T, M): rows by their first time point, zeros where a kind has none."""
    rows = []
    for x, rank in zip(central_rows(system, y), (2, 3, 3, 3, 2), strict=True):
        x = torch.broadcast_to(x, (*batch, *x.shape[x.ndim - rank :])).flatten(len(batch) + 1)
        rows.append(pad(x, (0, 0, 0, system.n_steps - x.shape[-2])))
    return torch.cat(rows, dim=-1)


def _right_hand_side(problem: Problem) -> Tensor:
    """W d, in the rows of `_product`."""
    system, batch, T = problem.system, problem.batch, problem.system.n_steps
    d = weighted(system.weights, problem.rows)
    equation = torch.broadcast_to(d.equation, (*batch, T, system.Q))
    initial = torch.broadcast_to(d.initial, (*batch, *d.initial.shape[-3:])).flatten(-2)
    own = torch.cat([equation, pad(initial, (0, 0, 0, T - initial.shape[-2]))], dim=-1)
    return pad(own, (0, system.V * (2 * system.K - 1)))


def _matrix(system: System) -> Tensor:
    """W A as rows over the three points from their first one, (*batch, T, M, 3, n).

    A row touches three consecutive points at most. So the rows of the sum of the unit vectors of every third point show
    all entries of A in their columns, and 3n products show A.
    Source: Curtis, Powell, Reid, On the estimation of sparse Jacobian matrices, J. Inst. Math. Appl. 13 (1974) 117.
    """
    batch, T, n, like = system.batch, system.n_steps, system.n, system.coefficients
    time, point = torch.arange(T, device=like.device), torch.arange(3, device=like.device)
    colour = (time % 3 == point[:, None]).to(like.dtype)
    unit = torch.eye(n, dtype=like.dtype, device=like.device)
    combs = (colour[:, None, :, None] * unit[:, None]).reshape(3, n, *(1,) * len(batch), T, system.V, system.K)
    products = _product(system, (3, n, *batch), combs)
    entries = products[(time[:, None] + point) % 3, ..., time[:, None], :]  # (T, 3, n, *batch, M)
    axes = range(3, 3 + len(batch))
    return entries.permute(*axes, 0, 3 + len(batch), 1, 2)


class _Pairs:
    """The factor of W A, points taken as pairs; where T is odd, with a point that is zero behind the last."""

    def __init__(self, problem: Problem) -> None:
        system = problem.system
        self.system, self.columns = system, Columns(xp, system.batch, system.batch)
        batch, T, n, P = system.batch, system.n_steps, system.n, -(-system.n_steps // 2)
        rows = pad(_matrix(system), (0, 0, 0, 0, 0, 0, 0, T % 2))
        if T % 2:
            rows[..., T, :n, 0, :] = torch.eye(n, dtype=rows.dtype, device=rows.device)
        (a, b, c), (d, e, f) = (rows[..., i::2, :, :, :].unbind(-2) for i in (0, 1))
        zero = torch.zeros_like(a)
        self.D = torch.cat([torch.cat([a, b], dim=-1), torch.cat([zero, d], dim=-1)], dim=-2)
        self.C = torch.cat([torch.cat([c, zero], dim=-1), torch.cat([e, f], dim=-1)], dim=-2)
        # a system of the size of the pairs, whose rows are all couplings, those of the last pair too
        coefficients = rows.new_zeros(*batch, 1, 0, 2 * system.V, system.K)
        pairs = replace(system, coefficients=coefficients, n_steps=P + 1, n_initial_steps=0, n_initial_orders=0)
        none, Phi = rows.new_zeros(*batch, P, 0, 2 * n), rows.new_zeros(*batch, P, 2 * n, 2 * n)
        self.factor, noise = factor_of_rows(pairs, none, odd_even.Couplings(self.C, self.D, Phi))
        if system.can_look and noise.any():
            f = torch.arange(self.D.shape[-3:-1].numel(), dtype=self.D.dtype).cos().expand(*batch, -1)
            _, sizes = self._refined(f.reshape(self.D.shape[:-1]))
            noise &= ~(sizes <= SETTLING)[..., None]
        self.columns, self.undetermined = Columns(xp, system.batch, problem.batch), self.factor.undetermined | noise
        raise_if_singular(system, self.undetermined.repeat_interleave(2, dim=-1)[..., :T], False)

    def solve(self, d: Tensor) -> Tensor:
        """argmin |W A y - d| for d of shape (*batch, T, M): (*batch, T, V, K)."""
        y, _ = self._refined(self._in_pairs(d))
        bad = torch.broadcast_to(self.undetermined.any(dim=-1), self.columns.batch)
        return torch.where(bad[..., None, None, None], torch.nan, y)

    def _refined(self, f: Tensor) -> tuple[Tensor, Any]:
        """y for f in pairs, and the size of its last correction."""

        def states(y: Tensor | None) -> Tensor:
            left = f if y is None else f - self._product(self._in_pairs(y.flatten(-2)))
            return self._states(self._solve(left, None)[1])

        return refined_states(self.system, states, most=REFINEMENTS)

    def adjoint(self, g: Tensor) -> tuple[Tensor, Tensor]:
        """v = (W A)^+^T g, refined once, (*batch, T, M), and λ = M^-1 g."""
        g = self._in_pairs(g.flatten(-2))
        v, x = self._solve(None, g)
        v = v + self._solve(None, g - self._transposed_product(v))[0]
        T = self.system.n_steps
        return v.reshape(*v.shape[:-2], -1, v.shape[-1] // 2)[..., :T, :], self._states(-x)

    def _solve(self, f: Tensor | None, g: Tensor | None) -> tuple[Tensor, Tensor]:
        """-Q z and R^-1 z, with z = Q^T f - R^-T g."""
        gather, scatter = self.columns.gather, self.columns.scatter
        given = None if f is None else (gather(f[..., :0]), gather(f))
        fitted: Any
        fitted, x = self.factor.solve_columns(self.columns, given, None if g is None else gather(g), True, True)
        return -scatter(fitted[1]), scatter(x)

    def _product(self, x: Tensor) -> Tensor:
        following = pad(x[..., 1:, :], (0, 0, 0, 1))
        return (self.D @ x[..., None] + self.C @ following[..., None])[..., 0]

    def _transposed_product(self, v: Tensor) -> Tensor:
        here, following = ((M.mT @ v[..., None])[..., 0] for M in (self.D, self.C))
        return here + pad(following[..., :-1, :], (0, 0, 1, 0))

    def _in_pairs(self, x: Tensor) -> Tensor:
        """(..., T, numbers) as (..., P, 2 numbers)."""
        x = pad(x, (0, 0, 0, self.system.n_steps % 2))
        return x.reshape(*x.shape[:-2], -1, 2 * x.shape[-1])

    def _states(self, x: Tensor) -> Tensor:
        """(..., P, 2n) as (..., T, V, K)."""
        system = self.system
        return x.reshape(*x.shape[:-2], -1, system.V, system.K)[..., : system.n_steps, :, :]
