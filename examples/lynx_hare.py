"""Lynx and hare: the Lotka-Volterra equations fitted to 21 years of fur trade, and a forecast of years withheld.

    u' = (α - β v) u,    v' = (-γ + δ u) v,    u hares, v lynxes; multiplicative errors

1. Parameters with standard errors from a start that knows nothing, beside the published Bayesian fit. For logarithms
   the equations are y_0' = α - β exp(y_1), y_1' = -γ + δ exp(y_0), and the errors are additive; how large they are is
   estimated.
2. The trajectory with its 95 % band, and a check of the standard errors: data simulated from the fit are fitted again,
   all of them as one batch (a parametric bootstrap).
3. The forecast: the last years are NaN, and the trajectory goes on through them. Beside it the value of the last year
   that was seen, and the mean of all years seen.

    python examples/lynx_hare.py [--quick | --smoke] [--seed 0]

Data and equations: `_lynx_hare_data`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from _experiment import BLACK, BLUE, ORANGE, command_line, print_table, save_metrics, save_picture
from _lynx_hare_data import PELTS, PUBLISHED, YEARS, lotka_volterra
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import smnn_core as smnn

Array = np.ndarray
GRID = np.linspace(YEARS[0], YEARS[-1], 161)
"""times of pictures"""
START = np.array([0.1, 0.01, 0.1, 0.01])
"""of the parameters: nothing but their orders of magnitude"""
WITHHELD = 5
"""years"""
REPEATS = {"full": 2000, "quick": 500, "smoke": 20}
NAMES = "hare", "lynx"


def fit(logarithms: Array, start: Array, noise: Array | None = None) -> smnn.Fitted:
    return smnn.fit(lotka_volterra, YEARS, logarithms, start, noise=noise)


@dataclass(frozen=True)
class Bootstrap:
    """A fit, and fits of data simulated from it."""

    fit: smnn.Fitted
    parameters: Array
    """(repeats, 4)"""
    trajectories: Array
    """(repeats, times of `GRID`, 2)"""
    lost: int
    """how many did not converge, which are left out"""

    def band(self, noise: float | Array = 0.0, seed: int = 0, times: Array = GRID) -> tuple[Array, Array]:
        """The middle 95 % of trajectories, of data where their noise is given, (n, 2) each; in thousands of pelts."""
        extra = noise * np.random.default_rng(seed).normal(size=(len(self.trajectories), 1, 2))
        own = self.trajectories[:, np.searchsorted(GRID, times)]
        lower, upper = np.quantile(own + extra, [0.025, 0.975], axis=0)
        return np.exp(lower), np.exp(upper)


def bootstrap(logarithms: Array, repeats: int, seed: int) -> Bootstrap:
    """Fits the data, NaN where withheld, then `repeats` simulations of them."""
    best = fit(logarithms, START)
    rng = np.random.default_rng(seed)
    exact = best(YEARS)
    simulated = exact + best.noise * rng.normal(size=(repeats, *exact.shape))
    simulated[:, np.isnan(logarithms[:, 0])] = np.nan
    again = fit(simulated, best.parameters, best.noise)
    good = again.converged
    return Bootstrap(best, again.parameters[good], again(GRID)[good], int((~good).sum()))


def forecast_errors(forecast: Array, seen: Array, truth: Array) -> dict[str, float]:
    """Root mean squares of errors of the logarithm: 0.25 is 25 %."""
    others = {
        "forecast": forecast,
        "the last year seen": np.broadcast_to(seen[-1], truth.shape),
        "mean of the years seen": np.broadcast_to(seen.mean(axis=0), truth.shape),
    }
    return {name: float(np.sqrt(np.mean((x - truth) ** 2))) for name, x in others.items()}


def draw(axes: Axes, result: Bootstrap, withheld: int, seed: int) -> None:
    """Trajectories with bands; where data were withheld the wider band of the data to come."""
    band, wide = result.band(), result.band(result.fit.noise, seed)
    later = YEARS[-1] - withheld <= GRID
    for i, (name, colour) in enumerate(zip(NAMES, (BLUE, ORANGE), strict=True)):
        axes.plot(GRID, np.exp(result.fit(GRID)[:, i]), color=colour, label=name)
        axes.fill_between(GRID, band[0][:, i], band[1][:, i], color=colour, alpha=0.25, lw=0)
        if withheld:
            axes.fill_between(GRID[later], wide[0][later, i], wide[1][later, i], color=colour, alpha=0.12, lw=0)
        seen = len(YEARS) - withheld
        axes.plot(YEARS[:seen], PELTS[:seen, i], "o", color=colour, ms=4)
        axes.plot(YEARS[seen:], PELTS[seen:, i], "o", color=colour, ms=4, mfc="none")
    axes.set(ylabel="thousands of pelts", ylim=(0, 100))


def picture(everything: Bootstrap, early: Bootstrap, seed: int) -> Figure:
    figure, axes = plt.subplots(2, 1, figsize=(7.5, 6), sharex=True)
    draw(axes[0], everything, 0, seed)
    draw(axes[1], early, WITHHELD, seed)
    axes[1].axvline(YEARS[-1] - WITHHELD, color=BLACK, lw=0.8, ls="--")
    axes[0].set_title("fit of all years, with the 95 % band of the trajectory", loc="left", fontsize="medium")
    axes[1].set_title(
        "forecast from 1915, with the 95 % band of the data (open: withheld)", loc="left", fontsize="medium"
    )
    axes[0].legend(ncols=2, loc="upper right")
    axes[1].set_xticks(YEARS[::2])
    return figure


def parameter_table(result: Bootstrap) -> list[dict[str, Any]]:
    """Printed, and as rows of the summary."""
    best, spread = result.fit, result.parameters.std(axis=0)
    rows, summary = [], []
    for i, (name, published) in enumerate(PUBLISHED.items()):
        value, error = float(best.parameters[i]), float(best.standard_errors[i])
        rows.append([name, f"{value:.4f}", f"{error:.4f}", f"{spread[i]:.4f}", f"{published:g}"])
        note = f"± {error:.2g}; published: posterior mean of Stan's case study"
        beside = {"published": f"{published:g}", "note": note}  # as text: neither is the better one
        summary.append({"metric": f"{name} of lynx and hare", "ours": value, **beside})
    print_table(["parameter", "fit", "standard error", "bootstrap", "published"], rows)
    noise = ", ".join(f"{name} {x:.2f}" for name, x in zip(NAMES, best.noise, strict=True))
    print(f"noise of the logarithms: {noise}; {result.lost} of the simulated data sets were not fitted\n")
    return summary


def main() -> None:
    arguments = command_line("lynx_hare", __doc__ or "", resumes=False).parse_args()
    repeats = REPEATS[arguments.size]
    logarithms = np.log(PELTS)
    everything = bootstrap(logarithms, repeats, arguments.seed)
    print(everything.fit, "\n")
    summary = parameter_table(everything)

    seen = logarithms.copy()
    seen[-WITHHELD:] = np.nan
    early = bootstrap(seen, repeats, arguments.seed)
    truth, forecast = logarithms[-WITHHELD:], early.fit(YEARS[-WITHHELD:])
    errors = forecast_errors(forecast, logarithms[:-WITHHELD], truth)
    print_table([f"{YEARS[-WITHHELD]} to {YEARS[-1]}", "error of the logarithm"], [[k, v] for k, v in errors.items()])
    lower, upper = (np.log(x) for x in early.band(early.fit.noise, arguments.seed, YEARS[-WITHHELD:]))
    inside = int(((lower <= truth) & (truth <= upper)).sum())
    print(f"95 % band of the forecast: {inside} of {truth.size} values are inside")
    summary += [
        {
            "metric": "forecast error, five years of lynx and hare",
            "ours": errors["forecast"],
            "note": "of the logarithm",
        },
        {"metric": "the same, last year seen", "ours": errors["the last year seen"]},
        {"metric": "withheld values inside the 95 % band", "ours": inside, "note": f"of {truth.size}"},
    ]
    save_picture(picture(everything, early, arguments.seed), arguments.output / "lynx_hare.png")
    best = everything.fit
    save_metrics(
        arguments.output,
        arguments,
        summary,
        parameters=best.parameters.tolist(),
        standard_errors=best.standard_errors.tolist(),
        bootstrap=everything.parameters.std(axis=0).tolist(),
        noise=best.noise.tolist(),
        forecast_errors=errors,
    )


if __name__ == "__main__":
    main()
