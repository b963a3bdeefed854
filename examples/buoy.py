"""Gaps in the record of a buoy: temperatures with error bands, by a model whose parameters maximise the evidence.

Hourly temperatures of the sea, with gaps of 6 to 48 hours withheld. Two models, and Gaussian processes like them:

| model | equations | learned | Gaussian process |
| --- | --- | --- | --- |
| smooth | none: x' is a Wiener process | noise, diffusion | Matérn 3/2 |
| daily cycle | d' = ω e, e' = -ω d, ω of a day, up to an error; x + κ d is observed | κ, that error | + oscillator |

1. Parameters by maximum likelihood: `smnn_torch.log_evidence` and L-BFGS; those of the Gaussian processes by tinygp,
   whose quasiseparable kernels are linear in time as well, and L-BFGS-B.
2. The hours withheld: error, share inside the 95 % band, width of the band, logarithmic score.

    python examples/buoy.py [--quick | --smoke] [--seed 0]

Data: `_buoy_data`.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from _buoy_data import load, withheld
from _experiment import BLACK, BLUE, ORANGE, command_line, print_table, save_metrics, save_picture
from torch import Tensor

import smnn_torch as smnn

Array = np.ndarray
STEP = 1 / 24
"""days"""
DAY = 2 * np.pi
"""the angular frequency of a day"""
DAYS = {"full": None, "quick": 60, "smoke": 6}
START = {"smooth": (0.1, 5.0), "daily cycle": (0.1, 1.0, 10.0, 1.0)}
"""noise in degrees, diffusion in degrees / day^1.5, κ, one over the error of the oscillator's equations"""


@dataclass(frozen=True)
class Prediction:
    """Of the next measurement at each hour."""

    mean: Array
    deviation: Array
    evidence: float
    parameters: Array
    seconds: float
    """spent on the parameters"""


@dataclass(frozen=True)
class Problem:
    """The arguments of `posterior` and `log_evidence`."""

    coefficients: Tensor
    rhs: Tensor
    initial_values: Tensor
    weights: smnn.Weights
    observed_equations: Tensor
    observation: Tensor
    """(n,): what is observed of the unknowns of a time"""

    def evidence(self) -> Tensor:
        return smnn.log_evidence(*self._arguments, weights=self.weights, observed_equations=self.observed_equations)

    def posterior(self) -> smnn.Posterior:
        return smnn.posterior(*self._arguments, weights=self.weights)

    @property
    def _arguments(self) -> tuple[Tensor, ...]:
        return self.coefficients, self.rhs, self.initial_values, torch.tensor([STEP], dtype=torch.float64)


def problem(parameters: Tensor, data: Tensor, seen: Tensor) -> Problem:
    """The model with two parameters or with four; data are 0 where they are not seen."""
    noise, diffusion, *cycle = parameters
    one, zero = torch.ones_like(noise), torch.zeros_like(noise)
    V = 3 if cycle else 1
    observation = torch.stack([one, zero, cycle[0], zero, zero, zero] if cycle else [one, zero])
    equations = [observation.reshape(V, 2)]
    weights = [seen / noise]
    if cycle:
        turn = torch.zeros(2, 3, 2, dtype=torch.float64)
        turn[0, 1, 1], turn[0, 2, 0] = 1.0, -DAY
        turn[1, 2, 1], turn[1, 1, 0] = 1.0, DAY
        equations += list(turn)
        weights += 2 * [cycle[1].expand(len(data))]
    rhs = torch.zeros(len(data), len(equations), dtype=torch.float64)
    rhs[:, 0] = data
    observed = torch.zeros(len(data), len(equations), dtype=torch.bool)
    observed[:, 0] = True
    weights = smnn.Weights(
        equation=torch.stack(weights, dim=-1),
        initial=0.1,  # the state at the first hour: 0 up to 10
        smoothness=smnn.wiener_weight(diffusion, torch.tensor([STEP], dtype=torch.float64), order=1),
    )
    state = torch.zeros(1, V, 2, dtype=torch.float64)
    return Problem(torch.stack(equations)[None], rhs, state, weights, observed, observation)


def fit(model: str, temperatures: Array, seen: Array) -> Prediction:
    """Parameters by maximum likelihood, and the posterior."""
    centre = temperatures[seen].mean()
    data = torch.from_numpy(np.where(seen, temperatures - centre, 0.0))
    mask = torch.from_numpy(seen)
    logarithms = torch.tensor(START[model], dtype=torch.float64).log().requires_grad_()
    optimizer = torch.optim.LBFGS([logarithms], max_iter=40, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = -problem(logarithms.exp(), data, mask).evidence()
        value.backward()
        return value

    start = time.perf_counter()
    optimizer.step(loss)
    seconds = time.perf_counter() - start
    with torch.no_grad():
        best = problem(logarithms.exp(), data, mask)
        p = best.posterior()
        variance = torch.einsum("i,tij,j->t", best.observation, p.covariance, best.observation)
        mean = p.mean.flatten(-2) @ best.observation + centre
        deviation = (variance + logarithms[0].exp() ** 2).sqrt()
        evidence = best.evidence().item()
    return Prediction(mean.numpy(), deviation.numpy(), evidence, logarithms.exp().detach().numpy(), seconds)


def gaussian_process(model: str, temperatures: Array, seen: Array) -> Prediction:
    """The same by tinygp."""
    import jax
    import jax.numpy as jnp
    from scipy.optimize import minimize
    from tinygp import GaussianProcess
    from tinygp.kernels import quasisep

    with jax.enable_x64(True):
        t = jnp.arange(len(temperatures)) * STEP
        centre = temperatures[seen].mean()
        data = jnp.asarray(temperatures[seen] - centre)

        def process(logarithms: Any) -> GaussianProcess:
            size, length, noise, *cycle = jnp.exp(logarithms)
            kernel = quasisep.Matern32(scale=length, sigma=size)
            if cycle:
                kernel = kernel + quasisep.SHO(omega=DAY, quality=cycle[1], sigma=cycle[0])
            return GaussianProcess(kernel, t[seen], diag=noise**2 * jnp.ones(len(data)))

        loss = jax.jit(jax.value_and_grad(lambda x: -process(x).log_probability(data)))

        def maximised(first: Array) -> Any:
            value_and_gradient = lambda x: tuple(map(np.asarray, loss(x)))  # noqa: E731
            bounds = [(x - 7, x + 7) for x in first]
            return minimize(value_and_gradient, first, jac=True, method="L-BFGS-B", bounds=bounds)

        start = time.perf_counter()
        best = maximised(np.log([2.0, 2.0, 0.1]))
        if model == "daily cycle":  # from where the simpler one ends, and the best of two starts
            starts = ([*best.x, *np.log([0.3, quality])] for quality in (10.0, 100.0))
            best = min((maximised(np.array(x)) for x in starts), key=lambda result: result.fun)
        seconds = time.perf_counter() - start
        _, conditioned = process(best.x).condition(data, t)
        deviation = np.sqrt(np.asarray(conditioned.variance) + np.exp(best.x[2]) ** 2)
        mean = np.asarray(conditioned.mean) + centre
    return Prediction(mean, deviation, -best.fun, np.exp(best.x), seconds)


def scores(prediction: Prediction, truth: Array, where: Array) -> dict[str, float]:
    """At the hours withheld."""
    deviation = prediction.deviation[where]
    z = (truth[where] - prediction.mean[where]) / deviation
    return {
        "error, °C": float(np.sqrt(np.mean((z * deviation) ** 2))),
        "in the 95 % band, %": float(100 * np.mean(np.abs(z) < 1.96)),
        "width of the band, °C": float(np.mean(3.92 * deviation)),
        "log score": float(np.mean(-(z**2) / 2 - np.log(deviation) - np.log(2 * np.pi) / 2)),
        "log evidence": prediction.evidence,
        "seconds": prediction.seconds,
    }


def picture(times: Array, truth: Array, seen: Array, found: dict[str, Prediction], path: Path) -> None:
    """Ten days of both models with their bands."""
    part = slice(len(times) // 2, len(times) // 2 + 240)
    figure, axes = plt.subplots(len(found), 1, figsize=(11, 3.2 * len(found)), sharex=True, sharey=True, squeeze=False)
    hidden = np.where(seen, np.nan, truth)
    for axis, (name, p), colour in zip(axes[:, 0], found.items(), (ORANGE, BLUE), strict=False):
        band = p.mean - 1.96 * p.deviation, p.mean + 1.96 * p.deviation
        axis.fill_between(times[part], *(x[part] for x in band), color=colour, alpha=0.25, lw=0, label="95 % band")
        axis.plot(times[part], p.mean[part], color=colour, lw=1, label="mean")
        axis.plot(times[part], np.where(seen, truth, np.nan)[part], ".", ms=3, color=BLACK, label="seen")
        axis.plot(times[part], hidden[part], "x", ms=4, color="0.4", label="withheld")
        axis.set(ylabel="temperature, °C", title=name)
        axis.set_ylim(np.nanmin(truth[part]) - 2, np.nanmax(truth[part]) + 2)
    axes[0, 0].legend(ncols=4)
    save_picture(figure, path)


def main() -> None:
    arguments = command_line("buoy", __doc__, resumes=False).parse_args()
    torch.manual_seed(arguments.seed)
    times, temperatures = load(DAYS[arguments.size])
    gaps, known = withheld(len(times), arguments.seed), ~np.isnan(temperatures)
    seen, where = known & ~gaps, known & gaps
    found = {name: fit(name, temperatures, seen) for name in START}
    others = {f"{name}, Gaussian process": gaussian_process(name, temperatures, seen) for name in START}
    table = {name: scores(p, temperatures, where) for name, p in (found | others).items()}
    columns = list(next(iter(table.values())))
    print(f"{len(times)} hours, {where.sum()} of them withheld")
    print_table(["model", *columns], [[name, *row.values()] for name, row in table.items()])
    for name, p in found.items():
        print(f"{name}: " + ", ".join(f"{x:.3g}" for x in p.parameters))
    picture(times, temperatures, seen, found, arguments.output / "buoy.png")
    summary = [
        {"metric": f"{metric}: {name}", "ours": table[name][metric], "note": f"tinygp: {table[other][metric]:.3g}"}
        for name, other in zip(found, others, strict=True)
        for metric in ("error, °C", "in the 95 % band, %", "log score")
    ]
    save_metrics(arguments.output, arguments, summary, table=table)


if __name__ == "__main__":
    main()
