"""The parts of the baselines that need torch; imported only when a baseline is given torch tensors.

The core never imports torch by itself. The baselines are reference code, and the comparison with them is fair only if
they are as fast as PyTorch allows: hence in-place sweeps, and a backward pass that reuses the factor.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.autograd.function import once_differentiable

from smnn_core._problem import Problem

from ._implicit import Method, replace_inputs

__all__ = ["block_cholesky", "cholesky_solve", "implicit_solve", "substitute"]


def implicit_solve(method: Method, problem: Problem, tensors: tuple[torch.Tensor, ...]) -> torch.Tensor:
    """method.solve(problem) as a node of the autograd graph."""
    return _ImplicitSolve.apply(method, problem, *tensors)


class _ImplicitSolve(torch.autograd.Function):
    """x = argmin |A x - d| with the derivative of the minimiser, not of the algorithm.

    A^T (d - A x) = 0 gives, with A^T A λ = g, v = A λ, r = d - A x and g = dL/dx,

        dL = v . (dd - dA x) + (dA λ) . r,

    which is the differential of φ = v . (d - A x) + (A λ) . r with x, λ, v and r held fixed: torch differentiates the
    products.
    """

    @staticmethod
    def forward(ctx: Any, method: Method, problem: Problem, *tensors: torch.Tensor) -> torch.Tensor:
        problem = replace_inputs(problem, tensors)
        solved = method.solve(problem)
        x, ctx.solved = solved.x, solved._replace(x=None)
        ctx.method, ctx.problem = method, replace_inputs(problem, tuple(t.detach() for t in tensors))
        ctx.save_for_backward(x, *tensors)
        return x

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, *tensors = ctx.saved_tensors
        λ = ctx.solved.normal_solve(g)
        needed = ctx.needs_input_grad[2:]
        leaves = tuple(t.detach().requires_grad_(n) for t, n in zip(tensors, needed, strict=True))
        with torch.enable_grad():
            problem = replace_inputs(ctx.problem, leaves)
            Aλ = ctx.method.product(problem, λ)
            right = zip(ctx.method.right_hand_side(problem), ctx.method.product(problem, x), strict=True)
            r = [d - Ax for d, Ax in right]
            φ = sum(torch.sum(a.detach() * b + a * b.detach()) for a, b in zip(Aλ, r, strict=True))
        gradients = iter(torch.autograd.grad(φ, [t for t in leaves if t.requires_grad], allow_unused=True))
        return None, None, *(next(gradients) if n else None for n in needed)


def block_cholesky(D: torch.Tensor, B: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Factors the block tridiagonal matrix with diagonal D[t] and blocks B[t] below it; may overwrite both.

    Args:
        D: (T, batch, n, n).
        B: (T-1, batch, n, n).

    Returns:
        L and W, in the shapes of D and B (see `_cholesky`), and failed, (batch,) bool: no waiting on a device here.
    """
    D, B = D.contiguous(), B.contiguous()
    failed = torch.empty(D.shape[:-2], dtype=torch.int32, device=D.device)
    L, W, info = D.unbind(0), B.unbind(0), failed.unbind(0)
    torch.linalg.cholesky_ex(L[0], out=(L[0], info[0]))
    for t in range(len(W)):
        torch.linalg.solve_triangular(L[t].mT, W[t], upper=True, left=False, out=W[t])
        L[t + 1].baddbmm_(W[t], W[t].mT, alpha=-1)
        torch.linalg.cholesky_ex(L[t + 1], out=(L[t + 1], info[t + 1]))
    return D, B, torch.any(failed != 0, dim=0)


def substitute(L: torch.Tensor, W: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
    """M x = h with the factor of `block_cholesky`; h and x have shape (T, batch, n, 1)."""
    h = h.clone(memory_format=torch.contiguous_format)
    Ls, Ws, x = L.unbind(0), W.unbind(0), h.unbind(0)
    triangular = torch.linalg.solve_triangular
    triangular(Ls[0], x[0], upper=False, out=x[0])
    for t in range(len(Ws)):
        x[t + 1].baddbmm_(Ws[t], x[t], alpha=-1)
        triangular(Ls[t + 1], x[t + 1], upper=False, out=x[t + 1])
    triangular(Ls[-1].mT, x[-1], upper=True, out=x[-1])
    for t in reversed(range(len(Ws))):
        x[t].baddbmm_(Ws[t].mT, x[t + 1], alpha=-1)
        triangular(Ls[t].mT, x[t], upper=True, out=x[t])
    return h


def cholesky_solve(L: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """L L^T x = b for vectors b, (..., n)."""
    return torch.cholesky_solve(b[..., None], L)[..., 0]
