"""The JAX adapter under jit: overhead of a call, and two cases against `smnn_cholesky` written with `lax.scan`.

python -m benchmarks.overhead_jax
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from statistics import median
from time import perf_counter
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

import smnn_jax
from benchmarks.baselines import normal_equations
from smnn_core import _constraints
from smnn_core._augmented import residual, solution_pullback
from smnn_core._problem import Problem

from .timing import measure as time_in_turn

__all__ = ["CASES", "cholesky_scan", "inputs", "measure"]

CASES = {"lorenz": (1536, 50, 1, 3, 1), "long": (1, 10_000, 1, 3, 1)}
"""batch, T, V, K, Q"""
CALLS = 200
"""Calls between two looks at the clock, for the overhead."""


def inputs(batch: int, T: int, V: int, K: int, Q: int) -> tuple[Array, ...]:
    """coefficients, rhs, initial_values, step_sizes, in float64: all vary with batch and time."""
    random = np.random.default_rng(0)
    shapes = (batch, T, Q, V, K), (batch, T, Q), (batch, 1, V, K - 1)
    return (
        *(jnp.asarray(random.normal(size=s)) for s in shapes),
        jnp.asarray(0.5 + 0.5 * random.random((batch, T - 1))),
    )


@jax.custom_vjp
def cholesky_scan(coefficients: Array, rhs: Array, initial_values: Array, step_sizes: Array) -> Array:
    """The published solver (see `baselines.smnn_cholesky`); the pullback uses the factor again."""
    return _forward(coefficients, rhs, initial_values, step_sizes)[0]


def _forward(*arguments: Array) -> tuple[Array, Any]:
    D, B, h = normal_equations(*arguments)

    def factorize(carry: tuple[Array, Array], blocks: tuple[Array, Array]) -> tuple[tuple[Array, Array], Any]:
        L, W = carry
        L = jnp.linalg.cholesky(blocks[0] - W @ jnp.matrix_transpose(W))
        W = jnp.matrix_transpose(
            jax.lax.linalg.triangular_solve(L, jnp.matrix_transpose(blocks[1]), left_side=True, lower=True)
        )
        return (L, W), (L, W)

    none = jnp.zeros_like(D[0])
    _, factor = jax.lax.scan(factorize, (none, none), (D, jnp.concatenate([B, none[None]])))
    y = _substitute(factor, h)
    shape = (*arguments[0].shape[:2], *arguments[0].shape[-2:])
    y = jnp.reshape(jnp.moveaxis(y, 0, 1), shape)
    return y, (arguments, factor, y)


def _backward(kept: Any, g: Array) -> tuple[Array, ...]:
    arguments, factor, y = kept
    h = jnp.moveaxis(jnp.reshape(g, (*g.shape[:2], -1)), 1, 0)
    λ = jnp.reshape(jnp.moveaxis(_substitute(factor, h), 0, 1), y.shape)
    problem = Problem.build(*arguments)
    W = problem.system.weights
    μ, v = (_constraints.weighted(W, x) for x in (_constraints.apply(problem.system, λ), residual(problem, y)))
    return solution_pullback(problem, y, v, μ, -λ)[:4]


cholesky_scan.defvjp(_forward, _backward)


def _substitute(factor: tuple[Array, Array], h: Array) -> Array:
    """M^-1 h by a scan forward and one back; time first."""
    L, W = factor
    solve = partial(jax.lax.linalg.triangular_solve, left_side=True, lower=True)

    def forward(carry: tuple[Array, Array], blocks: Any) -> tuple[tuple[Array, Array], Array]:
        (W, z), (L, W_next, h) = carry, blocks
        z = solve(L, h[..., None] - W @ z)
        return (W_next, z), z

    def back(x: Array, blocks: Any) -> tuple[Array, Array]:
        L, W, z = blocks
        x = solve(L, z - jnp.matrix_transpose(W) @ x, transpose_a=True)
        return x, x

    none = jnp.zeros_like(h[0][..., None])
    _, z = jax.lax.scan(forward, (jnp.zeros_like(W[0]), none), (L, W, h))
    return jax.lax.scan(back, none, (L, W, z), reverse=True)[1][..., 0]


def overhead() -> dict[str, float]:
    """Microseconds of a jitted call for a problem so small that the solver's work is none: T = 2."""
    arguments = inputs(1, 2, 1, 2, 1)
    functions = {
        "an addition": jax.jit(lambda c, b, u, s: c + 1),
        "forward": jax.jit(smnn_jax.solve_ode),
        "forward + backward": _forward_backward(smnn_jax.solve_ode),
    }
    return {name: 1e6 * _seconds_of_a_call(partial(f, *arguments)) for name, f in functions.items()}


def _seconds_of_a_call(f: Callable[[], Any]) -> float:
    jax.block_until_ready(f())
    rounds = []
    for _ in range(15):
        start = perf_counter()
        for _ in range(CALLS):
            jax.block_until_ready(f())
        rounds.append((perf_counter() - start) / CALLS)
    return median(rounds)


def _forward_backward(solve: Callable[..., Array]) -> Callable[..., Any]:
    """y and the gradients of |y|^2 / 2 with respect to all inputs."""

    def run(*arguments: Array) -> Any:
        y, pullback = jax.vjp(solve, *arguments)
        return y, pullback(y)

    return jax.jit(run)


def measure() -> dict[str, Any]:
    """Overheads in microseconds, and per case the seconds of both solvers and their ratio."""
    with jax.enable_x64(True):
        results: dict[str, Any] = {"overhead": overhead(), "cases": {}}
        for name, case in CASES.items():
            arguments = inputs(*case)
            solvers = {"smnn": smnn_jax.solve_ode, "cholesky_scan": cholesky_scan}
            results["cases"][name] = {}
            for what, prepare in (("forward", jax.jit), ("forward + backward", _forward_backward)):
                results["cases"][name][what] = _compare({k: prepare(f) for k, f in solvers.items()}, arguments)
    return results


def _compare(solvers: dict[str, Callable[..., Any]], arguments: tuple[Array, ...]) -> dict[str, float]:
    """Seconds of each, and the ratio."""

    def run(solve: Callable[..., Any]) -> None:
        jax.block_until_ready(solve(*arguments))

    timings = time_in_turn({name: partial(run, solve) for name, solve in solvers.items()})
    seconds = {name: timing.seconds for name, timing in timings.items()}
    return seconds | {"ratio": seconds["cholesky_scan"] / seconds["smnn"]}


def main() -> None:
    results = measure()
    for what, microseconds in results["overhead"].items():
        print(f"one call under jit, {what:20} {microseconds:8.1f} us")
    for name, rows in results["cases"].items():
        for what, row in rows.items():
            print(
                f"{name:8} {what:20} smnn {1e3 * row['smnn']:9.3f} ms   "
                f"cholesky with lax.scan {1e3 * row['cholesky_scan']:9.3f} ms   ratio {row['ratio']:6.1f}"
            )


if __name__ == "__main__":
    main()
