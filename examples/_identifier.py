"""The Mechanistic Identifier: from several views of one process to its linear ODE, and the solution of that ODE.

A view is the record of one place (a grid cell, an ocean region) over a window of time. Views that belong together share
part of what drives them. A network encodes the window of each view in latents; the first half of them is averaged over
the views. From the latents come, for each view, right-hand side and coefficients of a second-order ODE

    c_0(t) y + c_1(t) y' + c_2(t) y'' = b(t),

which the solver integrates from observed initial values. Nothing but the ODE and those values tells the future.

Source: Yao et al., Marrying Causal Representation Learning with Dynamical Systems for Science, NeurIPS 2024, in the
configuration of Chen et al., Scalable Mechanistic Neural Networks, ICLR 2025: orthonormal DCT-II of the window, lowest
quarter kept, 20 latents, all coefficients and steps free (`FreeForm`). `DampedForm` is ours: few records are enough
for it, and its forecasts end at the climatology instead of anywhere.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from smnn_torch import HERMITE, Weights, solve_ode

STEP_START, STEP_BOUNDS = 0.1, (0.001, 0.999)
"""of the published form, in its own units of time"""


@dataclass(frozen=True)
class Configuration:
    """Sizes of the data and of the networks."""

    window: int
    """points that are encoded"""
    n_steps: int
    """points of the solution, T"""
    n_initial: int = 10
    """of them given as initial values, T_init"""
    n_known: int = 0
    """numbers known beforehand of each view: the season, the place"""
    width: int = 1024
    depth: int = 5
    """layers of the encoder"""
    head_depth: int = 3
    """layers of the networks behind the latents"""
    latents: int = 20
    damped: bool = False
    """DampedForm; else FreeForm"""
    mechanisms: int = 1
    """how many seasonal cycles there are to learn: one for all views, or one each (damped form only)"""
    step: float = 1 / 12
    """years between two points (damped form only)"""


def dct_matrix(n: int, kept: int) -> Tensor:
    """The lowest rows of the orthonormal DCT-II: (kept, n), such that matrix @ matrix.T = 1."""
    k, t = torch.arange(kept).double(), torch.arange(n).double()
    rows = torch.cos(math.pi / n * k[:, None] * (t + 0.5)) * math.sqrt(2 / n)
    rows[0] /= math.sqrt(2)
    return rows.to(torch.get_default_dtype())


def mlp(n_in: int, width: int, n_out: int, depth: int) -> nn.Sequential:
    """`depth` linear layers with GELU between them; the last one starts small."""
    layers: list[nn.Module] = []
    for a, b in itertools.pairwise([n_in, *[width] * (depth - 1), n_out]):
        layers += [nn.Linear(a, b), nn.GELU()]
    last = layers[-2]
    nn.init.normal_(last.weight, std=0.1 / math.sqrt(last.in_features))
    nn.init.zeros_(last.bias)
    return nn.Sequential(*layers[:-1])


class FreeForm(nn.Module):
    """As published: a right-hand side, three coefficients and a step for every point of time, from the latents.

    `solve` may be replaced by another solver, to compare them.
    """

    solve: Callable[..., Tensor] = staticmethod(solve_ode)

    def __init__(self, c: Configuration) -> None:
        super().__init__()
        n = c.latents + c.n_known
        self.rhs = mlp(n, c.width, c.n_steps, c.head_depth)
        self.coefficients = mlp(n, c.width, c.n_steps * 3, c.head_depth)
        self.steps = mlp(n, c.width, c.n_steps - 1, c.head_depth)

    def forward(self, features: Tensor, initial: Tensor, season: Tensor) -> Tensor:
        """See `Identifier.forward`."""
        c = self.coefficients(features).unflatten(-1, (-1, 1, 1, 3))
        s = torch.sigmoid(self.steps(features) + math.log(STEP_START / (1 - STEP_START))).clamp(*STEP_BOUNDS)
        return self.solve(c, self.rhs(features)[..., None], initial[..., None, None], s)[..., 0, 0]


class DampedForm(nn.Module):
    """y'' + d(t) y' + k(t) y = k(t) b(t) with d, k > 0: without forcing, every solution decays.

    k and d are a learned seasonal cycle times a correction from the latents, b comes from the latents; how much each of
    the initial values counts is learned too.
    """

    def __init__(self, c: Configuration) -> None:
        super().__init__()
        n = c.latents + c.n_known
        self.step = c.step
        self.register_buffer("modes", dct_matrix(c.n_steps, max(1, c.n_steps // 4)), persistent=False)
        self.forcing = mlp(n, c.width, len(self.modes), c.head_depth)
        self.correction = mlp(n, c.width, 2, c.head_depth)
        self.cycle = nn.Parameter(torch.zeros(c.mechanisms, 3, 2))
        self.mean_forcing = nn.Parameter(torch.zeros(c.mechanisms, 1))
        self.log_weight = nn.Parameter(torch.zeros(c.mechanisms, c.n_initial))

    def scales(self, features: Tensor, season: Tensor) -> tuple[Tensor, Tensor]:
        """k and d, (..., views, T): time scales 1/sqrt(k) and 2/d from a month to ten years, at first one year."""
        phase = torch.cat([torch.ones_like(season[..., :1]), season], dim=-1)
        logarithm = phase[..., None, :, :] @ self.cycle + self.correction(features)[..., None, :]
        k, d = torch.exp(2.4 * torch.tanh(logarithm)).unbind(-1)
        return k.square(), 2 * d

    def forward(self, features: Tensor, initial: Tensor, season: Tensor) -> Tensor:
        """See `Identifier.forward`."""
        k, d = self.scales(features, season)
        c = torch.stack([k, d, torch.ones_like(k)], dim=-1)[..., None, None, :]
        b = (k * (self.mean_forcing + self.forcing(features) @ self.modes))[..., None]
        weights = Weights(initial=torch.exp(self.log_weight)[..., None, None])
        s = k.new_full((1,), self.step)
        return solve_ode(c, b, initial[..., None, None], s, scheme=HERMITE, weights=weights)[..., 0, 0]


class Identifier(nn.Module):
    """Windows of several views to the solutions of their ODEs."""

    def __init__(self, configuration: Configuration) -> None:
        super().__init__()
        self.configuration = c = configuration
        self.register_buffer("dct", dct_matrix(c.window, max(1, c.window // 4)), persistent=False)
        self.encoder = mlp(len(self.dct) + c.n_known, c.width, c.latents, c.depth)
        self.form = (DampedForm if c.damped else FreeForm)(c)

    def encode(self, windows: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
        """Latents of windows (..., views, window) with known (..., views, n_known).

        Returns:
            latents (..., views, latents), of which the first half is the same for all views; and how far the views were
            from agreeing on them, the mean squared deviation.
        """
        z = self.encoder(torch.cat([windows @ self.dct.T, known], dim=-1))
        shared, own = z.tensor_split([self.configuration.latents // 2], dim=-1)
        mean = shared.mean(-2, keepdim=True)
        return torch.cat([mean.expand_as(shared), own], dim=-1), (shared - mean).square().mean()

    def forward(self, windows: Tensor, initial: Tensor, known: Tensor, season: Tensor) -> tuple[Tensor, Tensor]:
        """The solutions (..., views, T), and the misalignment of `encode`.

        Args:
            windows: (..., views, window), what is encoded.
            initial: (..., views, T_init), the first values of the solution as observed.
            known: (..., views, n_known).
            season: (..., T, 2), cosine and sine of the season at the points of the solution.
        """
        latents, misalignment = self.encode(windows, known)
        return self.form(torch.cat([latents, known], dim=-1), initial, season), misalignment

    def groups(self, rate: float, mechanism_rate: float, decay: float) -> list[dict[str, object]]:
        """For an optimiser: the networks at one learning rate, with weight decay; the numbers of the ODE at another."""
        mechanism = list(self.form.parameters(recurse=False))
        own = {id(p) for p in mechanism}
        networks = [p for p in self.parameters() if id(p) not in own]
        return [
            {"params": networks, "lr": rate, "weight_decay": decay},
            {"params": mechanism, "lr": mechanism_rate, "weight_decay": 0.0},
        ]
