"""A pendulum whose friction is unknown: noisy positions, and how far a network is from the truth."""

from __future__ import annotations

import numpy as np
import torch
from scipy.integrate import solve_ivp
from torch import Tensor, nn

N_STEPS, STEP, NOISE = 401, 0.05, 0.05
STARTS = ((2.0, 0.0), (-2.3, 0.0), (2.6, 0.0), (-2.9, 0.0), (3.1, 0.0))
"""Angle in radians and angular velocity of each trajectory."""


def friction(v: Tensor) -> Tensor:
    """The truth, to be found: linear and quadratic in the velocity."""
    return 0.1 * v + 0.25 * v.abs() * v


def trajectories() -> Tensor:
    """Angles and angular velocities of q'' + sin(q) + friction(q') = 0, (5, T, 2)."""
    t = np.arange(N_STEPS) * STEP

    def field(_: float, z: np.ndarray) -> list[float]:
        return [z[1], -np.sin(z[0]) - 0.1 * z[1] - 0.25 * abs(z[1]) * z[1]]

    runs = [solve_ivp(field, (0, t[-1]), z, t_eval=t, method="DOP853", rtol=1e-10, atol=1e-10).y.T for z in STARTS]
    return torch.from_numpy(np.stack(runs))


def positions(exact: Tensor, seed: int) -> Tensor:
    """Noisy angles, (5, T, 1): all that is measured."""
    g = torch.Generator().manual_seed(seed)
    return exact[..., :1] + NOISE * torch.randn(exact[..., :1].shape, generator=g, dtype=exact.dtype)


def network() -> nn.Module:
    """1-32-32-1, in float64."""
    layers = nn.Linear(1, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 1)
    return nn.Sequential(*layers).to(torch.float64)


def friction_error(net: nn.Module, exact: Tensor) -> float:
    """Root mean square over all velocities of the trajectories, relative to that of the friction."""
    v = exact[..., 1:]
    with torch.no_grad():
        return ((net(v) - friction(v)).square().mean() / friction(v).square().mean()).sqrt().item()
