"""Finds the interaction of predators and prey, a network inside the Lotka-Volterra equations, and reads it.

What is known: u' = 1.3 u + U(u, v), v' = -1.8 v + V(u, v). U and V are a network 2-32-32-2, trained by
`smnn_torch.fit` on three trajectories of 121 noisy observations of u and v. Then its outputs at the trajectories are
regressed on the ten monomials of u and v up to degree 3, of which the one that explains least is left out again and
again, as long as what is left explains nearly as much: these are the terms that the network stands for (the truth:
U = -0.9 u v, V = 0.8 u v). Ends with the terms and a picture in examples/output/universal_ode/.

    python examples/universal_ode.py [--seed 0] [--quick | --smoke]

Source: Rackauckas et al., Universal Differential Equations for Scientific Machine Learning, arXiv:2001.04385, whose
parameters these are, with the first of the starts. There the trajectory is 3 time units long; here it is 6, and the
noise is 1 % of the mean.
"""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from _experiment import BLACK, BLUE, ORANGE, command_line, print_table, save_metrics, save_picture
from scipy.integrate import solve_ivp
from torch import Tensor, nn

import smnn_torch as st
from smnn_core import Fitted

GROWTH, DEATH, EATEN, EATING = 1.3, 1.8, 0.9, 0.8
STARTS = ((0.44249296, 4.6280594), (1.0, 1.0), (3.0, 2.0))
N_TIMES, STEP, NOISE = 121, 0.05, 0.01
"""Times, their distance, and the noise over the mean of each variable."""
WORSE = 2.0
"""How much more a library without a term may leave than the whole one: root mean squares."""


def trajectories() -> Tensor:
    """u and v, (3, T, 2), without noise."""

    def field(_: float, z: np.ndarray) -> list[float]:
        u, v = z
        return [GROWTH * u - EATEN * u * v, EATING * u * v - DEATH * v]

    t = STEP * np.arange(N_TIMES)
    runs = [solve_ivp(field, (0, t[-1]), z, t_eval=t, method="DOP853", rtol=1e-11, atol=1e-11).y.T for z in STARTS]
    return torch.from_numpy(np.stack(runs))


class Interaction(nn.Module):
    """u' - 1.3 u - U(u, v) = 0 and v' + 1.8 v - V(u, v) = 0."""

    def __init__(self) -> None:
        super().__init__()
        layers = nn.Linear(2, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 2)
        self.network = nn.Sequential(*layers).to(torch.float64)
        self.register_buffer("known", torch.tensor([GROWTH, -DEATH], dtype=torch.float64))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        value, slope = y[..., 0], y[..., 1]
        return slope - self.known * value - self.network(value)


def train(data: Tensor, noise: Tensor, most: int) -> tuple[Fitted, nn.Module, Tensor]:
    """The fit, the network in it, and the trajectories (experiments, T, 2) that it found."""
    model, t = Interaction(), STEP * np.arange(data.shape[1])
    fit = st.fit(model, t, list(data), noise=noise, max_iterations=most, progress=True)
    return fit, model.network, torch.from_numpy(np.stack([fit(t, experiment=i) for i in range(len(data))]))


def monomials(x: Tensor) -> tuple[list[str], Tensor]:
    """Names and values (T, 10) of the monomials of u and v up to degree 3."""
    powers = [(i, d - i) for d in range(4) for i in range(d, -1, -1)]
    names = ["".join(f" {n}^{k}" if k > 1 else f" {n}" for n, k in zip("uv", p, strict=True) if k) for p in powers]
    return [name.strip() or "1" for name in names], torch.stack([x[:, 0] ** i * x[:, 1] ** j for i, j in powers], -1)


def regress(values: Tensor, library: Tensor) -> Tensor:
    """Coefficients (10,) of values (N,), most of them zero: backward elimination."""

    def least(kept: list[int]) -> tuple[Tensor, float]:
        coefficients = torch.linalg.lstsq(library[:, kept], values[:, None]).solution[:, 0]
        return coefficients, (values - library[:, kept] @ coefficients).square().mean().sqrt().item()

    kept = list(range(library.shape[1]))
    allowed = WORSE * least(kept)[1]
    while len(kept) > 1:
        smaller = [[j for j in kept if j != i] for i in kept]
        best = min(smaller, key=lambda x: least(x)[1])
        if least(best)[1] > allowed:
            break
        kept = best
    result = torch.zeros(library.shape[1], dtype=values.dtype)
    result[kept] = least(kept)[0]
    return result


def picture(network: nn.Module, data: Tensor, found: Tensor, exact: Tensor, path: Path) -> None:
    """The trajectory with its data, and the network's outputs along it."""
    t = STEP * torch.arange(found.shape[1])
    with torch.no_grad():
        outputs = network(found[0])
    product = exact[0].prod(-1)
    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4))
    for i, (name, colour) in enumerate((("prey u", BLUE), ("predators v", ORANGE))):
        left.plot(t, data[0, :, i], ".", ms=4, color="0.6", label="data" if not i else None)
        left.plot(t, found[0, :, i], color=colour, label=name)
    truths = -EATEN * product, EATING * product
    for name, colour, values, truth in zip("UV", (BLUE, ORANGE), outputs.T, truths, strict=True):
        right.plot(t, truth, color=BLACK, lw=3, alpha=0.3, label="truth" if name == "U" else None)
        right.plot(t, values, color=colour, label=f"network, {name}")
    left.set(xlabel="time", ylabel="population", title="One of three trajectories")
    right.set(xlabel="time", ylabel="interaction", title="What the network stands for")
    left.legend()
    right.legend()
    save_picture(figure, path)


def main() -> None:
    parser = command_line("universal_ode", __doc__, resumes=False)
    arguments = parser.parse_args()
    torch.manual_seed(arguments.seed)
    exact = trajectories()
    noise = NOISE * exact.mean((0, 1))
    data = exact + noise * torch.randn(exact.shape, dtype=exact.dtype)
    if arguments.size == "smoke":
        exact, data = exact[:2, :41], data[:2, :41]
    fit, network, found = train(data, noise, 2 if arguments.size == "smoke" else 30)
    print(fit)
    names, library = monomials(found.reshape(-1, 2))
    with torch.no_grad():
        outputs = network(found)
    true = torch.zeros(2, len(names), dtype=exact.dtype)
    true[0, names.index("u v")], true[1, names.index("u v")] = -EATEN, EATING
    coefficients = torch.stack([regress(values, library) for values in outputs.reshape(-1, 2).T])
    shown = [i for i in range(len(names)) if (coefficients[:, i] != 0).any() or (true[:, i] != 0).any()]
    header = ["term", "U", "true", "V", "true"]
    print_table(
        header,
        [[names[i], *(x for k in (0, 1) for x in (coefficients[k, i].item(), true[k, i].item()))] for i in shown],
    )
    interaction = exact.prod(-1)[..., None] * torch.tensor([-EATEN, EATING], dtype=exact.dtype)
    error = 100 * ((outputs - interaction).square().mean() / interaction.square().mean()).sqrt().item()
    wrong = int(((coefficients != 0) != (true != 0)).sum())
    worst = 100 * ((coefficients - true).abs()[true != 0] / true.abs()[true != 0]).max().item()
    print(
        f"interaction: {error:.1f} % off along the trajectories; {wrong} terms wrong, coefficients within {worst:.1f} %"
    )
    picture(network, data, found, exact, arguments.output / "universal_ode.png")
    summary = [
        {"metric": "error of the interaction, %", "ours": error},
        {"metric": "terms that are missing or spurious", "ours": wrong},
        {"metric": "worst error of a true coefficient, %", "ours": worst},
    ]
    save_metrics(arguments.output, arguments, summary)


if __name__ == "__main__":
    main()
