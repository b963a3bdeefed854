"""`python -m benchmarks.friction`: the friction of a pendulum as a network, fitted by one call with defaults.

Six swings of 301 noisy positions (noise 0.05, every 0.05), no velocities, a network 1-16-16-1 in PyTorch's float32: for
friction 0.15 v + 0.1 v^3 and 0.1 v + 0.25 |v| v, each with several seeds of noise and network, the error of the
friction (root mean square over the velocities of the swings, relative), seconds on the clock and of the processor.

    python -m benchmarks.friction [--seeds 5]

The first fit loads what is loaded at first use, and is not counted.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from scipy.integrate import solve_ivp
from torch import Tensor, nn

import smnn_torch

N_TIMES, STEP, NOISE = 301, 0.05, 0.05
STARTS = (2.0, -2.3, 2.6, -2.9, 3.1, -1.2)
"""Angles at which pendulums are released."""
FRICTIONS: dict[str, Callable[[Any], Any]] = {
    "0.15 v + 0.1 v^3": lambda v: 0.15 * v + 0.1 * v**3,
    "0.1 v + 0.25 |v| v": lambda v: 0.1 * v + 0.25 * abs(v) * v,
}


def swings(friction: Callable[[Any], Any]) -> np.ndarray:
    """Angles and velocities, (6, 301, 2), to ten digits."""

    def rate(_: float, x: Any) -> list[float]:
        return [x[1], -np.sin(x[0]) - friction(x[1])]

    t = STEP * np.arange(N_TIMES)
    runs = [solve_ivp(rate, (0, t[-1]), (a, 0), t_eval=t, method="DOP853", rtol=1e-10, atol=1e-10) for a in STARTS]
    return np.stack([run.y.T for run in runs])


def pendulum(t: Tensor, y: Tensor, friction: nn.Module) -> Tensor:
    """q'' + sin q + friction(q') = 0."""
    return y[..., 2] + y[..., 0].sin() + friction(y[..., 1])


def fitted(exact: np.ndarray, friction: Callable[[Any], Any], seed: int) -> tuple[float, float, float, bool]:
    """Error of the friction, seconds on the clock and of the processor, and whether the fit says that it converged."""
    data = exact[..., :1] + NOISE * np.random.default_rng(seed).standard_normal((*exact.shape[:-1], 1))
    torch.manual_seed(seed)
    network = nn.Sequential(nn.Linear(1, 16), nn.Tanh(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 1))
    clock, processor = time.perf_counter(), time.process_time()
    fit = smnn_torch.fit(pendulum, STEP * np.arange(N_TIMES), list(data), network, order=2, noise=NOISE)
    seconds = time.perf_counter() - clock, time.process_time() - processor
    v = exact[..., 1:]
    with torch.no_grad():
        found = network(torch.as_tensor(v, dtype=torch.float32)).numpy()
    error = np.sqrt(((found - friction(v)) ** 2).mean() / (friction(v) ** 2).mean())
    return float(error), *seconds, bool(fit.converged)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    seeds = parser.parse_args().seeds
    name = next(iter(FRICTIONS))
    fitted(swings(FRICTIONS[name]), FRICTIONS[name], 0)
    for name, friction in FRICTIONS.items():
        exact = swings(friction)
        rows = [fitted(exact, friction, seed) for seed in range(seeds)]
        errors, clock, processor = (np.array([row[i] for row in rows]) for i in range(3))
        print(
            f"{name:20} {100 * np.median(errors):.1f} % off (at most {100 * errors.max():.1f} %), "
            f"{np.median(clock):.1f} s ({clock.max():.1f} s), {np.median(processor):.1f} s of the processor, "
            f"{sum(row[3] for row in rows)} of {seeds} converged",
            flush=True,
        )


if __name__ == "__main__":
    main()
