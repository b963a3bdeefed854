"""Time of the PyTorch adapter beside the solve: `python -m benchmarks.overhead_torch`.

Forward + backward on a tiny problem, gradients with respect to all four inputs. Best of many short runs: the least that
the machine takes, whatever else it is doing. The overhead is what remains when the engine's two calls, solve and
adjoint, are taken off. Yardsticks: the core's own functions with their checks, and an autograd function of as many
inputs that does nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from math import inf
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

import smnn_core as smnn
from smnn_core._problem import Problem
from smnn_core._solve import solve_problem
from smnn_torch import solve_ode

__all__ = ["measure"]

T = 10
TARGET = 100e-6


class Nothing(torch.autograd.Function):
    """Four inputs, one result, saved tensors, and no work."""

    @staticmethod
    def forward(ctx: Any, *inputs: Tensor) -> Tensor:
        ctx.save_for_backward(*inputs)
        return inputs[1].new_empty(T, 1, 3)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, ...]:
        return tuple(x.detach() for x in ctx.saved_tensors)


def problem() -> tuple[tuple[Tensor, ...], Tensor]:
    """Inputs that require gradients, and the gradient of a loss with respect to the solution."""
    g = torch.Generator().manual_seed(0)
    shapes = (1, 1, 1, 3), (T, 1), (1, 1, 2), (1,)
    inputs = [torch.rand(shape, generator=g, dtype=torch.float64) + 0.1 for shape in shapes]
    return tuple(x.requires_grad_() for x in inputs), torch.rand(T, 1, 3, generator=g, dtype=torch.float64)


def forward_backward(function: Callable[..., Tensor], inputs: tuple[Tensor, ...], g: Tensor) -> None:
    torch.autograd.backward(function(*inputs), g)
    for x in inputs:
        x.grad = None


def core(inputs: tuple[Any, ...], g: Any) -> None:
    _, vjp = smnn.solve_ode_vjp(*inputs)
    vjp(g)


def engine(inputs: tuple[Any, ...], g: Any) -> Callable[[], Any]:
    """Solve and adjoint of a problem that is checked already."""
    problem = Problem.build(*inputs)

    def call() -> None:
        y, factor = solve_problem(problem)
        factor.adjoint(problem, y, g)

    return call


CALLS, ROUNDS = 5, 3000


def best(functions: Mapping[str, Callable[[], Any]]) -> dict[str, float]:
    """Seconds of one call, in the best of many runs of a few calls; in turn, so that all meet the machine alike."""
    least = dict.fromkeys(functions, inf)
    for _ in range(ROUNDS):
        for name, function in functions.items():
            start = perf_counter()
            for _ in range(CALLS):
                function()
            least[name] = min(least[name], (perf_counter() - start) / CALLS)
    return least


def measure() -> dict[str, float]:
    """Seconds by name: the adapter, the engine, the core with its checks, an autograd function that does nothing."""
    inputs, g = problem()
    arrays = tuple(x.detach().numpy() for x in inputs), g.numpy()
    return best(
        {
            "smnn_torch": partial(forward_backward, solve_ode, inputs, g),
            "engine": engine(*arrays),
            "smnn_core": partial(core, *arrays),
            "nothing": partial(forward_backward, Nothing.apply, inputs, g),
        }
    )


def main() -> None:
    us = {name: 1e6 * seconds for name, seconds in measure().items()}
    overhead = us["smnn_torch"] - us["engine"]
    print(f"forward + backward, T = {T}, V = 1, R = 2, float64, best of {ROUNDS} runs of {CALLS}")
    print(f"  smnn_torch.solve_ode                      {us['smnn_torch']:6.1f} us")
    print(f"  the engine's share, solve and adjoint     {us['engine']:6.1f} us")
    print(f"  overhead                                  {overhead:6.1f} us (target: below {1e6 * TARGET:.0f})")
    print(f"  smnn_core.solve_ode_vjp (NumPy)           {us['smnn_core']:6.1f} us")
    print(f"  an autograd.Function that does nothing    {us['nothing']:6.1f} us")


if __name__ == "__main__":
    main()
