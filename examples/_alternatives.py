"""Alternatives to this library for a batch of linear ODEs: diffrax and torchdiffeq, timed beside it.

The task: y'' + d y' + k y = 0 with its own d and k per member of the batch, y at all time points, and the gradient of a
loss on y with respect to d, k and the initial values. The alternatives choose their steps by a tolerance, ours by R: so
the comparison is of time against error. diffrax is run in both ways that it offers, as a vmap (every member its own
steps) and with the batch as one system (steps for all), which is what torchdiffeq does.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import _experiment  # noqa: F401  (finds benchmarks/)
import diffrax
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import torch
import torchdiffeq
from matplotlib.figure import Figure
from torch import Tensor
from tqdm import tqdm, trange

from benchmarks.baselines import smnn_cholesky
from smnn_torch import HERMITE, TAYLOR, solve_ode

OURS = "smnn, HERMITE"


@dataclass(frozen=True)
class Point:
    """One way to solve the task."""

    method: str
    setting: str
    error: float
    """largest over batch and time; y starts at 1"""
    solve: float
    """seconds"""
    gradient: float
    """seconds, the solve included"""


@dataclass
class Candidate:
    """The same before it is timed. Both functions have run once, which may have compiled them."""

    method: str
    setting: str
    error: float
    solve: Callable[[], object]
    gradient: Callable[[], object]


@dataclass(frozen=True)
class Task:
    """A batch of damped oscillators."""

    damping: np.ndarray
    stiffness: np.ndarray
    initial: np.ndarray
    """(batch, 2)"""
    t: np.ndarray

    @staticmethod
    def random(batch: int, n_points: int, step: float, seed: int) -> Task:
        random = np.random.default_rng(seed)
        initial = np.stack([np.ones(batch), np.zeros(batch)], axis=-1)
        return Task(random.uniform(0.1, 0.5, batch), random.uniform(1, 9, batch), initial, step * np.arange(n_points))

    @property
    def inputs(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return self.damping, self.stiffness, self.initial

    def error(self, y: np.ndarray) -> float:
        """Of y (T, batch) against the closed form."""
        decay, t = self.damping / 2, self.t[:, None]
        frequency = np.sqrt(self.stiffness - decay**2)
        exact = np.exp(-decay * t) * (np.cos(frequency * t) + decay / frequency * np.sin(frequency * t))
        return float(np.abs(y - exact).max())


def on_torch(task: Task, method: str, setting: str, solve: Callable[..., Tensor]) -> Candidate:
    """For solve(d, k, initial) -> y (T, batch), on torch."""
    inputs = [torch.tensor(x, requires_grad=True) for x in task.inputs]

    @torch.no_grad()
    def forward() -> Tensor:
        return solve(*inputs)

    def gradient() -> tuple[Tensor, ...]:
        return torch.autograd.grad(solve(*inputs).square().sum(), inputs)

    gradient()
    return Candidate(method, setting, task.error(forward().numpy()), forward, gradient)


def with_banded_solver(task: Task, solver: Callable[..., Tensor], R: int) -> Callable[..., Tensor]:
    """The task for `solve_ode` and the solvers that take its arguments."""
    step, rhs = torch.full((1,), task.t[1], dtype=torch.float64), torch.zeros(1, 1, dtype=torch.float64)

    def solve(d: Tensor, k: Tensor, initial: Tensor) -> Tensor:
        zero = torch.zeros_like(k)
        coefficients = torch.stack([k, d, zero + 1, *[zero] * (R - 2)], dim=-1)[:, None, None, None]
        y = solver(coefficients, rhs, initial[:, None, None], step, n_steps=len(task.t))
        return y[..., 0, 0].T

    return solve


def with_torchdiffeq(task: Task, tolerance: float) -> Callable[..., Tensor]:
    t = torch.tensor(task.t)

    def solve(d: Tensor, k: Tensor, initial: Tensor) -> Tensor:
        def field(t: Tensor, y: Tensor) -> Tensor:
            return torch.stack([y[:, 1], -k * y[:, 0] - d * y[:, 1]], dim=-1)

        return torchdiffeq.odeint(field, initial, t, rtol=tolerance, atol=tolerance, method="dopri5")[..., 0]

    return solve


def with_diffrax(task: Task, tolerance: float, vmap: bool) -> Candidate:
    """Tsit5, PID control of the step, gradients by recursive checkpoints: what diffrax does by default."""

    def field(t: jax.Array, y: jax.Array, args: tuple[jax.Array, jax.Array]) -> jax.Array:
        d, k = args
        return jnp.stack([y[..., 1], -k * y[..., 0] - d * y[..., 1]], axis=-1)

    def integrate(d: jax.Array, k: jax.Array, initial: jax.Array) -> jax.Array:
        return diffrax.diffeqsolve(
            diffrax.ODETerm(field),
            diffrax.Tsit5(),
            t0=task.t[0],
            t1=task.t[-1],
            dt0=None,
            y0=initial,
            args=(d, k),
            saveat=diffrax.SaveAt(ts=jnp.asarray(task.t)),
            stepsize_controller=diffrax.PIDController(rtol=tolerance, atol=tolerance),
            max_steps=16**4,
        ).ys[..., 0]

    def loss(*inputs: jax.Array) -> jax.Array:
        return jnp.sum(solve(*inputs) ** 2)

    solve = jax.vmap(integrate, out_axes=1) if vmap else integrate
    forward, gradient = jax.jit(solve), jax.jit(jax.grad(loss, argnums=(0, 1, 2)))
    inputs = [jnp.asarray(x) for x in task.inputs]
    jax.block_until_ready(gradient(*inputs))
    return Candidate(
        "diffrax Tsit5, vmap" if vmap else "diffrax Tsit5, one system",
        f"{tolerance:.0e}",
        task.error(np.asarray(forward(*inputs))),
        lambda: jax.block_until_ready(forward(*inputs)),
        lambda: jax.block_until_ready(gradient(*inputs)),
    )


def candidates(task: Task, tolerances: tuple[float, ...], vmap: bool) -> Iterator[Candidate]:
    """Every method at every setting, in float64; diffrax under vmap too if so wished."""
    jax.config.update("jax_enable_x64", True)
    banded = [
        (OURS, (2, 3, 4), partial(solve_ode, scheme=HERMITE)),
        ("smnn, TAYLOR", (2, 3, 4), partial(solve_ode, scheme=TAYLOR)),
        ("smnn_cholesky (published)", (2, 3), smnn_cholesky),
    ]
    for name, orders, solver in banded:
        for R in orders:
            yield on_torch(task, name, f"R = {R}", with_banded_solver(task, solver, R))
    for tolerance in tolerances:
        yield with_diffrax(task, tolerance, False)
        if vmap:
            yield with_diffrax(task, tolerance, True)
        yield on_torch(task, "torchdiffeq dopri5", f"{tolerance:.0e}", with_torchdiffeq(task, tolerance))


def compare(task: Task, tolerances: tuple[float, ...], vmap: bool, rounds: int) -> list[Point]:
    """Times all candidates in turn, round by round, so that a disturbance of the machine meets all alike.

    The quickest of the rounds counts; what takes above a second has two rounds at most.
    """
    found = list(tqdm(candidates(task, tolerances, vmap), desc="compiling", unit="setting"))
    best = [[math.inf, math.inf] for _ in found]
    for round_ in trange(rounds, desc="timing", unit="round"):
        for times, candidate in zip(best, found, strict=True):
            if round_ < 2 or times[1] < 1:
                for part, f in enumerate((candidate.solve, candidate.gradient)):
                    start = time.perf_counter()
                    f()
                    times[part] = min(times[part], time.perf_counter() - start)
    return [Point(c.method, c.setting, c.error, *times) for c, times in zip(found, best, strict=True)]


def at_the_same_error(points: list[Point], error: float) -> dict[str, tuple[float, float]]:
    """Seconds of solve and gradient that each adaptive method takes to an error: method -> both.

    Interpolated between its tolerances, on logarithmic axes; without the methods whose tolerances do not enclose it.
    """
    found = {}
    for method in dict.fromkeys(p.method for p in points if "smnn" not in p.method):
        mine = sorted((p for p in points if p.method == method), key=lambda p: p.error)
        if mine[0].error <= error <= mine[-1].error:
            times = np.log([(p.solve, p.gradient) for p in mine]).T
            at = np.log([p.error for p in mine])
            solve, gradient = (float(np.exp(np.interp(np.log(error), at, x))) for x in times)
            found[method] = solve, gradient
    return found


def picture(points: list[Point], task: Task) -> Figure:
    """Time against error, of the solve and of the solve with its gradient."""
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.4), sharey=True)
    methods = list(dict.fromkeys(p.method for p in points))
    for ax, part, title in zip(axes, ("solve", "gradient"), ("solve", "solve and gradient"), strict=True):
        for method, marker in zip(methods, "os^Dv<", strict=False):
            mine = sorted((p for p in points if p.method == method), key=lambda p: p.error)
            ax.loglog([1e3 * getattr(p, part) for p in mine], [p.error for p in mine], marker=marker, label=method)
        ax.set(title=title, xlabel="time, ms")
    axes[0].set_ylabel("largest error of y (y starts at 1)")
    figure.suptitle(f"y'' + d y' + k y = 0, {len(task.damping)} systems x {len(task.t)} points, float64", fontsize=11)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure
