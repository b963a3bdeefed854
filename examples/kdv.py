"""Predicts the Korteweg-de Vries equation with one linear ODE per point of the grid, trained through the solver.

    u_t + u_xxx - 6 u u_x = 0      periodic, 256 points

Ten points in time of the field go in, the next ten come out, of which the first is the last one given; predictions are
fed back 16 times (144 points). Convolutional networks give an ODE of order 4 at every point of the grid, and the
library solves them all at once: a batch of 16 windows is 4096 systems. The loss is the mean over windows of the summed
absolute error. Compared with a network of as many parameters that predicts the increments directly, trained for as many
steps on the same batches, and with persistence. Ends with a table, a picture and metrics.json in examples/output/kdv/.

    python examples/kdv.py [--quick | --smoke] [--seed 0] [--device cuda] [--resume]

Source: experiment and configuration (no option: two ResNets of 10 blocks, 64 filters, kernel 9; 512 trajectories, 10
epochs; Adam at 1e-4, halved on plateaus; a GPU is advisable) from Chen et al., Scalable Mechanistic Neural Networks,
ICLR 2025. `--quick` has smaller networks that look three times, one epoch, and a learning rate that rises and falls
once. The trajectories, and the sign convention, are those of `_kdv_data.py`; the models are in `_kdv_model.py`.

Error: Σ_x (predicted - true)² / Σ_x predicted², averaged over test trajectories and the first 40 predicted points, as
published, or over all 144.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict, dataclass, replace
from math import cos, pi
from typing import Any

import numpy as np
import torch
from _experiment import (
    BLACK,
    BLUE,
    ORANGE,
    Training,
    batch_of,
    command_line,
    plt,
    print_table,
    save_metrics,
    save_picture,
)
from _kdv_data import N_TIMES, Fields, random_fields
from _kdv_model import (
    WINDOW,
    Convolutional,
    Mechanistic,
    Persistence,
    relative_error,
    roll_out,
    seconds_per_step,
)
from matplotlib.figure import Figure
from torch import Tensor, nn

N_SCORED = 40
"""Predicted points of the published error."""
PUBLISHED = 1.1e-3
"""After 10 epochs of 512 trajectories, in the published notebook."""
SPAN = 2 * WINDOW - 1
"""Points in time of a sample: a window and the next, which share one."""
STARTS = N_TIMES - SPAN + 1
"""Samples in a trajectory."""


@dataclass(frozen=True)
class Configuration:
    """Settings of a run, by its size."""

    n_train: int
    """trajectories"""
    n_test: int
    n_windows: int
    """of the roll-out"""
    steps: int
    batch: int
    n_networks: int
    n_blocks: tuple[int, ...]
    """of the networks of each look"""
    again: int
    """how many more times the last networks look"""
    width: int
    kernel: int
    convolutional_width: int
    """for as many parameters"""
    learning_rate: float
    step_size: float
    """of the ODEs, where learning starts"""
    plateaus: bool
    """halve the learning rate where the loss no longer falls; else let it rise for a tenth of the steps, then fall"""

    def mechanistic(self, scale: float) -> Mechanistic:
        """The model, untrained."""
        network = {"width": self.width, "kernel": self.kernel}
        looks = {"n_blocks": self.n_blocks, "again": self.again}
        return Mechanistic(scale, self.n_networks, **looks, step_size=self.step_size, **network)

    def convolutional(self, scale: float) -> Convolutional:
        """The untrained network that it is compared with."""
        network = {"width": self.convolutional_width, "kernel": self.kernel}
        return Convolutional(scale, self.n_networks, n_blocks=sum(self.n_blocks), **network)


PUBLISHED_RUN = Configuration(
    n_train=512,
    n_test=128,
    n_windows=16,
    steps=10 * 512 * STARTS // 16,
    batch=16,
    n_networks=2,
    n_blocks=(10,),
    again=0,
    width=64,
    kernel=9,
    convolutional_width=64,
    learning_rate=1e-4,
    step_size=0.05,
    plateaus=True,
)
QUICK_RUN = Configuration(
    n_train=512,
    n_test=256,
    n_windows=16,
    steps=4000,
    batch=16,
    n_networks=1,
    n_blocks=(1, 2),
    again=1,
    width=32,
    kernel=9,
    convolutional_width=34,
    learning_rate=3e-3,
    step_size=1 / (WINDOW - 1),
    plateaus=False,
)
SIZES = {
    "full": PUBLISHED_RUN,
    "quick": QUICK_RUN,
    "smoke": replace(QUICK_RUN, n_train=4, n_test=2, n_windows=2, steps=4, batch=4, width=8, convolutional_width=8),
}
PLATEAU = 1000
"""Steps over which the loss is averaged to see whether it falls."""


@dataclass(frozen=True)
class Result:
    """A predictor on the test trajectories."""

    name: str
    n_parameters: int
    seconds: float
    """of training"""
    predicted: Tensor
    """(B, 144, X)"""
    error: Tensor
    """(B, 144)"""

    @property
    def scored(self) -> float:
        """The published error."""
        return self.error[:, :N_SCORED].mean().item()

    @property
    def typical(self) -> float:
        """The median over trajectories of what `scored` averages: a few with fast solitons dominate the average."""
        return self.error[:, :N_SCORED].mean(1).quantile(0.5).item()

    @property
    def whole(self) -> float:
        """Over the whole roll-out."""
        return self.error.mean().item()


def samples(u: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor]:
    """Windows (B, T, X) and the next ones, of which the first point is the last of the window.

    Args:
        u: (N, 140, X).
        chosen: (B,), of all N x 122 samples.
    """
    times = (chosen % STARTS)[:, None] + torch.arange(SPAN)
    sample = u[(chosen // STARTS)[:, None].to(u.device), times.to(u.device)]
    return sample[:, :WINDOW], sample[:, WINDOW - 1 :]


def rise_and_fall(step: int, steps: int) -> float:
    """The factor of the learning rate: a tenth of the steps up, then half a cosine down."""
    rise = max(1, steps // 10)
    return (step + 1) / rise if step < rise else (1 + cos(pi * (step - rise) / (steps - rise))) / 2


def train(name: str, model: nn.Module, u: Tensor, size: Configuration, arguments: argparse.Namespace) -> Training:
    """Trains a predictor on fields (N, 140, X), in place."""
    optimizer = torch.optim.Adam(model.parameters(), lr=size.learning_rate)
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=2)
    scale = u.std()
    training = Training(
        arguments.output / f"{name}.pt",
        size.steps,
        arguments,
        description=name,
        model=model,
        optimizer=optimizer,
        plateau=plateau,
    )
    for step in training:
        window, following = samples(u, batch_of(step, size.batch, len(u) * STARTS, arguments.seed))
        if not size.plateaus:
            for group in optimizer.param_groups:
                group["lr"] = size.learning_rate * rise_and_fall(step, size.steps)
        loss = (model(window) - following).abs().sum((1, 2)).mean() / scale
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        training.log(loss=loss.item())
        if size.plateaus and (step + 1) % PLATEAU == 0:
            plateau.step(sum(training.history["loss"][-PLATEAU:]) / PLATEAU)
    return training


def evaluate(name: str, model: nn.Module, u: Tensor, n_windows: int, seconds: float = 0.0) -> Result:
    """Rolls out from the first window of fields (B, WINDOW + 9 n_windows, X)."""
    predicted = roll_out(model, u[:, :WINDOW], n_windows)
    n_parameters = sum(p.numel() for p in model.parameters())
    return Result(name, n_parameters, seconds, predicted.cpu(), relative_error(predicted, u[:, WINDOW:]).cpu())


def show(results: list[Result], size: Configuration, share: tuple[float, float]) -> None:
    """The table."""
    print(f"\nerrors of {size.n_test} test trajectories over predicted points, {size.n_windows} windows fed back")
    header = ["predictor", "parameters", "training", f"first {WINDOW - 1}", f"first {N_SCORED}", "(median)", "all"]
    rows = [
        [
            r.name,
            r.n_parameters or "",
            f"{r.seconds:.0f} s" if r.n_parameters else "",
            r.error[:, : WINDOW - 1].mean().item(),
            r.scored,
            r.typical,
            r.whole,
        ]
        for r in results
    ]
    print_table(header, rows)
    print(
        f"\na training step of {size.batch} windows: {1e3 * share[0]:.1f} ms, of which solver {1e3 * share[1]:.1f} ms"
    )
    print(f"published notebook, 10 epochs of 512 trajectories, first {N_SCORED} points: {PUBLISHED:.1e}")


def picture(results: list[Result], true: Tensor, fields: Fields) -> Figure:
    """The trajectory of median error in space and time, a section through it, and the error against time."""
    ours, network, _ = results
    order = ours.error[:, :N_SCORED].mean(1).argsort()
    b = int(order[len(order) // 2])
    dt, length = fields.spacing[b], fields.length[b]
    n = ours.predicted.shape[1]
    at = min(N_SCORED, n) - 1
    t = dt * np.arange(1, n + 1)
    x = length * np.arange(true.shape[-1]) / true.shape[-1]
    truth, predicted, other = (u[b].cpu().numpy() for u in (true[:, WINDOW:], ours.predicted, network.predicted))
    figure = plt.figure(figsize=(12, 8))
    top, bottom = figure.subfigures(2, 1, height_ratios=[1.15, 1])
    axes = top.subplots(1, 3, sharey=True)
    limits = {"vmin": truth.min(), "vmax": truth.max()}
    worst = abs(predicted - truth).max()
    for ax, title, u, how in [
        (axes[0], "true", truth, {"cmap": "viridis", **limits}),
        (axes[1], "predicted with ODEs", predicted, {"cmap": "viridis", **limits}),
        (axes[2], "predicted - true", predicted - truth, {"cmap": "RdBu_r", "vmin": -worst, "vmax": worst}),
    ]:
        mesh = ax.pcolormesh(x, t, u, shading="nearest", rasterized=True, **how)
        ax.axhline(t[at], color=BLACK if "RdBu_r" in how.values() else "white", lw=0.8, ls="--")
        ax.set(title=title, xlabel="x")
        ax.grid(False)
        top.colorbar(mesh, ax=ax, label="u" if ax is not axes[2] else "error of u")
    axes[0].set_ylabel("time after the last point given")

    section, errors = bottom.subplots(1, 2)
    section.plot(x, truth[at], color=BLACK, lw=2.5, alpha=0.4, label="true")
    section.plot(x, predicted[at], color=BLUE, lw=1.3, label="ODEs")
    section.plot(x, other[at], color=ORANGE, lw=1.3, ls="--", label="convolutional network")
    section.set(title=f"the field after {at + 1} points (dashed above)", xlabel="x", ylabel="u")
    section.legend(loc="lower left", ncols=3, fontsize="small")
    low, high = section.get_ylim()
    section.set_ylim(low - 0.2 * (high - low), high)
    labels = ["ODEs", "convolutional network", "persistence"]
    for result, label, colour, style in zip(results, labels, [BLUE, ORANGE, BLACK], ["-", "--", ":"], strict=True):
        errors.semilogy(range(1, n + 1), result.error.mean(0).numpy(), color=colour, ls=style, label=label)
    errors.axvspan(1, min(N_SCORED, n), color=BLACK, alpha=0.06, lw=0)
    errors.set(title=f"error, mean of {len(true)} trajectories", xlabel="predicted point (a step is about 0.2)")
    errors.set_ylabel("Σ (predicted - true)² / Σ predicted²")
    errors.legend(loc="lower right")
    return figure


def main() -> None:
    arguments = command_line("kdv", __doc__).parse_args()
    size = SIZES[arguments.size]
    seeds = 2 * arguments.seed, 2 * arguments.seed + 1
    train_fields = random_fields(size.n_train, seeds[0], progress=True)
    n_times = WINDOW + (WINDOW - 1) * size.n_windows
    test_fields = random_fields(size.n_test, seeds[1], n_times=n_times, progress=True)
    u, true = (torch.tensor(f.u, dtype=torch.float32, device=arguments.device) for f in (train_fields, test_fields))
    scale = u.std().item()
    print(f"{len(u)} trajectories of {N_TIMES} points in time x {u.shape[-1]} in space; {size.batch} windows a batch")

    models: dict[str, Any] = {}
    results = []
    for name in ("mechanistic", "convolutional"):
        torch.manual_seed(arguments.seed)
        model = size.mechanistic(scale) if name == "mechanistic" else size.convolutional(scale)
        models[name] = model.to(u.device)
        training = train(name, models[name], u, size, arguments)
        results.append(evaluate(name, models[name], true, size.n_windows, training.seconds))
    results.append(evaluate("persistence", Persistence(), true, size.n_windows))
    window, _ = samples(u, batch_of(0, size.batch, len(u) * STARTS, arguments.seed))
    share = seconds_per_step(models["mechanistic"], window)

    show(results, size, share)
    save_picture(picture(results, true, test_fields), arguments.output / "kdv.png")
    save_metrics(
        arguments.output,
        arguments,
        summary(results, size),
        configuration=asdict(size),
        results={r.name: described(r) for r in results},
        milliseconds={"step": 1e3 * share[0], "solver": 1e3 * share[1]},
    )


def summary(results: list[Result], size: Configuration) -> list[dict[str, Any]]:
    """Rows for `metrics.json`."""
    rows = []
    for r in results:
        note = f"{size.steps} steps" if r.n_parameters else "the last field given"
        row = {"metric": f"KdV, first {N_SCORED} points: {r.name}", "ours": r.scored, "note": note}
        if r is results[0]:
            row |= {"published": PUBLISHED, "note": f"{note}; published: 10 epochs of 512 trajectories"}
        rows.append(row)
    return rows + [{"metric": f"KdV, whole roll-out: {r.name}", "ours": r.whole} for r in results]


def described(r: Result) -> dict[str, Any]:
    """Plain values for `metrics.json`."""
    return {
        "parameters": r.n_parameters,
        "training_seconds": r.seconds,
        "first_40": r.scored,
        "first_40_median": r.typical,
        "all": r.whole,
        "error_by_point": r.error.mean(0).tolist(),
    }


if __name__ == "__main__":
    main()
