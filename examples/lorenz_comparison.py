"""Compares the solvers on the Lorenz experiment: loss, time and memory, and what scheme and noise do to the result.

1. The loss over the first 1,000 optimisation steps of the published configuration, with our solver, the published one
   (`smnn_cholesky`) and its predecessor (`mnn_dense`, `mnn_conjugate_gradient`), from the same weights on the same
   batches; TAYLOR throughout. Are the curves the same within noise?
2. Time and memory of one solver step, forward and backward, at the full shape: 512 windows x 3 variables, 50 points,
   each in a process of its own. The training passes our solver one left-hand side for all systems, as the experiment
   allows; it is timed with one per system as well, which is what the others compute in any case.
3. The coefficients found with TAYLOR and with HERMITE from data with 0, 1 and 5 % noise.

    python examples/lorenz_comparison.py [--quick | --smoke] [--seed 0] [--device cuda] [--resume]

--quick trains on smaller batches, the slow solvers for fewer steps, and less long for the last table. Without it,
conjugate gradients alone take hours on a CPU.

Source: Figure 3 of Chen et al., Scalable Mechanistic Neural Networks, ICLR 2025; see `lorenz`.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import lorenz
import matplotlib.pyplot as plt
import numpy as np
import torch
from _experiment import COLOURS, Training, command_line, print_table, save_metrics, save_picture
from matplotlib.figure import Figure

from benchmarks.baselines import mnn_conjugate_gradient, mnn_dense, smnn_cholesky
from smnn_torch import HERMITE, TAYLOR, solve_ode

OURS, DENSE = "smnn", "mnn_dense"
PER_SYSTEM = "smnn, own left-hand sides"
SOLVERS: dict[str, lorenz.Solver] = {
    OURS: partial(solve_ode, scheme=TAYLOR),
    "smnn_cholesky": smnn_cholesky,
    DENSE: mnn_dense,
    "mnn_conjugate_gradient": mnn_conjugate_gradient,
}
NOISE = (0.0, 0.01, 0.05)
TARGET = 20.0
"""at least this many times quicker than `mnn_dense`"""
PUBLISHED_SPEED = 36.4 / 7.4
"""times that the published solver is quicker than the dense one, per step, as published (on a GPU)"""


@dataclass(frozen=True)
class Size:
    """How much of it to run."""

    batch: int
    """windows, for the loss curves"""
    steps: dict[str, int]
    """optimisation steps of every solver"""
    timed: int
    """windows, for time and memory"""
    seconds: float
    """that the timing of a solver may take after its first step"""
    discovery: dict[str, int]
    """what the configurations of the last table change in lorenz.OURS"""
    one_process: bool = False
    """for all timings, which is quick and says nothing of memory"""


SIZES = {
    "full": Size(512, dict.fromkeys(SOLVERS, 1000), 512, 20.0, {}),
    "quick": Size(
        16,
        dict(zip(SOLVERS, (1000, 1000, 150, 20), strict=True)),
        512,
        5.0,
        {"batch": 64, "warm_up": 400, "rounds": 6, "steps_per_round": 30},
    ),
    "smoke": Size(
        2,
        dict(zip(SOLVERS, (4, 4, 2, 1), strict=True)),
        2,
        0.0,
        {"batch": 8, "warm_up": 2, "rounds": 1, "steps_per_round": 1, "width": 16},
        one_process=True,
    ),
}


@dataclass(frozen=True)
class Cost:
    """Of one solver step, forward and backward."""

    seconds: float
    """median"""
    runs: int
    memory: int | None
    """bytes at the peak, on top of what there was before; None where the system does not tell"""


def solver_step(name: str, windows: int, device: str) -> tuple[torch.Tensor, ...]:
    """Solves, and pulls a gradient back to right-hand sides and initial values: what a training step needs."""
    random = torch.Generator().manual_seed(0)
    shape = (windows, 3, lorenz.PAPER.window)
    rhs = torch.randn(*shape, 1, generator=random, dtype=torch.float64).to(device).requires_grad_()
    start = torch.randn(windows, 3, 1, 1, 1, generator=random, dtype=torch.float64).to(device).requires_grad_()
    c = rhs.new_tensor([0.0, 1.0, 0.0]).view(1, 1, 1, 3)
    s = rhs.new_full((1,), lorenz.PAPER.step)
    if name == PER_SYSTEM:
        c, s = c.repeat(*shape, 1, 1, 1), s.repeat(windows, 3, lorenz.PAPER.window - 1)
    y = SOLVERS.get(name, SOLVERS[OURS])(c, rhs, start, s)
    return torch.autograd.grad(y[..., 0, 0].square().mean(), (rhs, start))


def memory(device: str, what: str) -> int | None:
    """Bytes in use ("VmRSS") or at the peak so far ("VmHWM"); of the device, or of this process where Linux tells."""
    if device != "cpu":
        return torch.cuda.memory_allocated() if what == "VmRSS" else torch.cuda.max_memory_allocated()
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    line = next(line for line in status.read_text().splitlines() if line.startswith(what))
    return 1024 * int(line.split()[1])


def measure(name: str, windows: int, device: str, seconds: float) -> Cost:
    """To be run in a new process: the peak of its memory is then that of the solver."""

    def timed_step() -> float:
        start = time.perf_counter()
        solver_step(name, windows, device)
        if device != "cpu":
            torch.cuda.synchronize()
        return time.perf_counter() - start

    solver_step(name, 1, device)  # libraries and threads are there
    before = memory(device, "VmRSS")
    first = timed_step()
    peak = memory(device, "VmHWM")
    times: list[float] = []
    while sum(times) + first < seconds and len(times) < 100:
        times.append(timed_step())
    extra = None if before is None or peak is None else peak - before
    return Cost(statistics.median(times or [first]), len(times or [first]), extra)


def costs(size: Size, device: str) -> dict[str, Cost]:
    """Of every solver."""
    found = {}
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn, max_tasks_per_child=None if size.one_process else 1) as processes:
        for name in (OURS, PER_SYSTEM, *list(SOLVERS)[1:]):
            found[name] = processes.submit(measure, name, size.timed, device, size.seconds).result()
            print(f"timed {name}: {1e3 * found[name].seconds:.1f} ms", flush=True)
    return found


def curves(size: Size, arguments: argparse.Namespace) -> dict[str, Training]:
    """The training of every solver, from the same weights on the same batches."""
    data = torch.tensor(lorenz.observations(lorenz.PAPER, 0.0, arguments.seed), device=arguments.device)
    found = {}
    for name, solver in SOLVERS.items():
        configuration = replace(lorenz.PAPER, batch=size.batch, warm_up=size.steps[name], rounds=0)
        found[name] = lorenz.train(data, configuration, arguments, solver, name)[1]
    return found


def deviation(ours: list[float], theirs: list[float]) -> tuple[float, float]:
    """Of two losses on the same batches: difference of the means over the last fifth of the common steps, and noise.

    The noise is the standard deviation of our loss from batch to batch there, the trend taken out. Both are relative
    to the mean of our loss.
    """
    common = min(len(ours), len(theirs))
    a, b = (np.array(x[:common])[-max(3, common // 5) :] for x in (ours, theirs))
    trend = np.polyval(np.polyfit(np.arange(len(a)), a, 1), np.arange(len(a))) if len(a) > 2 else a.mean()
    return abs(b.mean() - a.mean()) / a.mean(), float((a - trend).std() / a.mean())


def show_curves(found: dict[str, Training]) -> dict[str, tuple[float, float]]:
    """Losses and deviations, relative to our loss and in percent."""
    ours = found[OURS].history["loss"]
    deviations = {name: deviation(ours, x.history["loss"]) for name, x in found.items() if name != OURS}
    print("\nloss on the same batches; difference of its mean from ours, and noise from batch to batch\n")
    rows = []
    for name, training in found.items():
        losses = training.history["loss"]
        difference, noise = deviations.get(name, (0.0, 0.0))
        cells = [f"{100 * difference:.2g} %", f"{100 * noise:.2g} %"] if name != OURS else ["", ""]
        rows.append([name, len(losses), losses[0], losses[-1], ours[len(losses) - 1], *cells])
    print_table(["solver", "steps", "first loss", "last loss", "ours there", "difference", "noise"], rows)
    return deviations


def show_costs(found: dict[str, Cost], size: Size) -> None:
    print(f"\none solver step, forward and backward, {size.timed} windows x 3 variables x 50 points, float64\n")
    rows = []
    for name, cost in found.items():
        extra = "?" if cost.memory is None else f"{cost.memory / 2**20:.0f}"
        ratio = found[DENSE].seconds / cost.seconds
        rows.append([name, f"{1e3 * cost.seconds:.1f}", cost.runs, f"{ratio:.3g}", extra])
    print_table(["solver", "ms", "runs", "mnn_dense / this", "memory, MiB"], rows)


def discoveries(size: Size, arguments: argparse.Namespace) -> dict[tuple[str, float], np.ndarray]:
    """(scheme, noise) -> the coefficients found."""
    found = {}
    for scheme in (TAYLOR, HERMITE):
        for noise in NOISE:
            configuration = replace(lorenz.OURS, scheme=scheme, **size.discovery)
            data = torch.tensor(lorenz.observations(configuration, noise, arguments.seed), device=arguments.device)
            name = f"{scheme.name}, noise {100 * noise:g} %".replace(" ", "-").replace(",", "").replace("%", "percent")
            found[scheme.name, noise] = lorenz.train(data, configuration, arguments, name=name)[0]
    return found


def judge(found: np.ndarray) -> tuple[float, int]:
    """The worst relative error of a true coefficient in percent (infinite where missing), and how many are spurious."""
    true = lorenz.true_coefficients()
    return float(lorenz.errors(found)[true != 0].max()), int(((true == 0) & (found != 0)).sum())


def show_discoveries(found: dict[tuple[str, float], np.ndarray]) -> None:
    true = lorenz.true_coefficients()
    print("\ncoefficients found\n")
    rows: list[list[Any]] = [
        [f"{variable}': {term}", f"{true[i, j]:.4f}", *(f"{x[i, j]:.4f}" for x in found.values())]
        for j, variable in enumerate(lorenz.VARIABLES)
        for i, term in enumerate(lorenz.TERMS)
        if true[i, j]
    ]
    verdicts = [judge(x) for x in found.values()]
    rows.append(["worst relative error, %", "", *(f"{worst:.3f}" for worst, _ in verdicts)])
    rows.append(["terms too many", "", *(str(spurious) for _, spurious in verdicts)])
    print_table(["term", "true", *(f"{scheme} {100 * noise:g} %" for scheme, noise in found)], rows)


def picture(training: dict[str, Training], cost: dict[str, Cost], size: Size) -> Figure:
    """Loss curves; time and memory of a step."""
    figure, axes = plt.subplots(1, 3, figsize=(14, 4.2), width_ratios=(2, 1, 1))
    for k, (name, x) in enumerate(training.items()):
        losses = x.history["loss"]
        # the first curve lies below the others, broad, so that all can be seen
        style = {"lw": 5, "alpha": 0.35} if k == 0 else {"lw": 1.3, "ls": ("-", "--", "-.")[k - 1]}
        label = f"{name} ({len(losses)} steps)"
        axes[0].loglog(np.arange(1, len(losses) + 1), losses, color=COLOURS[k], label=label, **style)
    axes[0].set(
        xlabel="optimisation step", ylabel="loss", title=f"training on the same batches of {size.batch} windows"
    )
    axes[0].legend(loc="lower left")
    names = list(cost)
    labels = [name.replace(", ", ",\n").replace("mnn_conjugate_", "mnn_conjugate_\n") for name in names]
    colours = [COLOURS[list(SOLVERS).index(name)] if name in SOLVERS else COLOURS[5] for name in names]
    values = [[1e3 * x.seconds for x in cost.values()], [(x.memory or 0) / 2**20 for x in cost.values()]]
    for ax, value, unit, title in zip(axes[1:], values, ("ms", "MiB"), ("time", "memory"), strict=True):
        bars = ax.barh(labels, value, color=colours)
        ax.bar_label(bars, labels=[f"{v:,.0f}" for v in value], padding=3)
        ax.set(xscale="log", xlabel=f"{unit} ({size.timed} windows)", title=f"{title} of a solver step")
        ax.set_xlim(1, 10 * max(*value, 1.0))
        ax.grid(axis="y", visible=False)
        ax.invert_yaxis()
    axes[2].set_yticklabels([])
    return figure


def summarise(
    deviations: dict[str, tuple[float, float]], cost: dict[str, Cost], found: dict[tuple[str, float], np.ndarray]
) -> list[dict[str, Any]]:
    """Rows for `metrics.json`."""
    speed = cost[DENSE].seconds / cost[OURS].seconds
    verdict = f"target {TARGET:g}: {'met' if speed >= TARGET else 'missed'}"
    rows: list[dict[str, Any]] = [
        {"metric": "solver steps in the time of one of mnn_dense", "ours": speed, "published": PUBLISHED_SPEED}
        | {"note": verdict, "more_is_better": True},
        {"metric": "the same, own left-hand sides", "ours": cost[DENSE].seconds / cost[PER_SYSTEM].seconds},
    ]
    if cost[OURS].memory and cost[DENSE].memory:
        share = cost[PER_SYSTEM].memory / cost[DENSE].memory
        rows.append({"metric": "memory over that of mnn_dense, own left-hand sides", "ours": share, "published": 0.5})
    for name, (difference, noise) in deviations.items():
        note = f"noise {100 * noise:.2g} %: {'same' if difference <= noise else 'not the same'} within it"
        rows.append({"metric": f"difference of the loss with {name}, %", "ours": 100 * difference, "note": note})
    for (scheme, noise), x in found.items():
        worst, spurious = judge(x)
        metric = f"worst error of a coefficient, %, {scheme}, noise {100 * noise:g} %"
        published = {"published": lorenz.PUBLISHED_ERROR} if (scheme, noise) == (TAYLOR.name, 0.0) else {}
        rows.append({"metric": metric, "ours": worst, "note": f"terms too many: {spurious}", **published})
    return rows


def main() -> None:
    arguments = command_line("lorenz_comparison", __doc__).parse_args()
    size = SIZES[arguments.size]
    cost = costs(size, arguments.device)
    training = curves(size, arguments)
    found = discoveries(size, arguments)
    deviations = show_curves(training)
    show_costs(cost, size)
    show_discoveries(found)
    save_picture(picture(training, cost, size), arguments.output / "lorenz_comparison.png")
    save_metrics(
        arguments.output,
        arguments,
        summarise(deviations, cost, found),
        costs={name: asdict(x) for name, x in cost.items()},
        loss={name: x.history["loss"] for name, x in training.items()},
        coefficients={f"{scheme} {noise}": x.tolist() for (scheme, noise), x in found.items()},
    )


if __name__ == "__main__":
    main()
