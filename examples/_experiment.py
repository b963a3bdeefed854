"""Common parts of the experiments: their command line, training that survives an interruption, metrics and pictures.

An experiment writes into `examples/output/NAME/`: its pictures, `metrics.json` and, while it runs, checkpoints.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure
from torch import Tensor
from tqdm import tqdm

sys.path.append(str(Path(__file__).resolve().parents[1]))  # for benchmarks/, which is not installed

# Okabe and Ito's palette: told apart with any kind of colour vision.
COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"]
BLUE, ORANGE, GREEN, PURPLE, YELLOW, SKY, BLACK = COLOURS

plt.rcParams.update(
    {
        "axes.grid": True,
        "axes.prop_cycle": mpl.cycler(color=COLOURS),
        "axes.spines.right": False,
        "axes.spines.top": False,
        "figure.constrained_layout.use": True,
        "grid.alpha": 0.3,
        "legend.frameon": False,
        "savefig.dpi": 130,
    }
)


def command_line(name: str, doc: str, *, resumes: bool = True) -> argparse.ArgumentParser:
    """The parser of an experiment, to which it may add: --quick, --smoke, --device, --seed, --resume, --output.

    Args:
        name: of the experiment, and of its folder under `examples/output/`.
        doc: the docstring of the program; its first line is the description.
        resumes: whether there is a `--resume`.
    """
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", dest="size", action="store_const", const="quick", help="minutes on two CPU cores")
    size.add_argument("--smoke", dest="size", action="store_const", const="smoke", help="seconds: does everything run?")
    parser.add_argument("--device", default="cpu", help="where to train: cpu, cuda, ...")
    parser.add_argument("--seed", type=int, default=0, help="of data, networks and batches")
    if resumes:
        parser.add_argument("--resume", action="store_true", help="go on with an interrupted run of the same command")
    default = Path(__file__).parent / "output" / name
    parser.add_argument("--output", type=Path, default=default, help="folder for metrics, pictures and checkpoints")
    parser.set_defaults(size="full")
    return parser


class Training:
    """Optimisation steps with a progress bar and checkpoints.

        training = Training(path, 1000, arguments, model=model, optimizer=optimizer)
        for step in training:
            ...
            training.log(loss=loss.item())
        training.history["loss"]

    Saves `parts`, the history and the state of the random numbers at most `every` seconds apart, after the last step,
    and when the program is interrupted (SIGINT, SIGTERM), always between two steps. With `--resume` it goes on from
    there, and ends as an uninterrupted run does: batches must depend on the step or on torch's random numbers only.

    Args:
        path: of the checkpoint.
        steps: how many in all.
        arguments: of the command line. All but `resume` and `output` must be those of the run that is resumed.
        every: seconds between checkpoints.
        description: of the progress bar.
        parts: whatever has `state_dict` and `load_state_dict`.

    Raises:
        SystemExit: if the checkpoint to resume was left by other arguments, or after an interruption.
    """

    def __init__(
        self,
        path: Path,
        steps: int,
        arguments: argparse.Namespace,
        *,
        every: float = 20.0,
        description: str = "training",
        **parts: Any,
    ) -> None:
        self.path, self.steps, self.every, self.description, self.parts = path, steps, every, description, parts
        self.configuration = {k: str(v) for k, v in vars(arguments).items() if k not in ("resume", "output")}
        self.configuration["steps"] = str(steps)
        self.step = 0
        self.seconds = 0.0
        """spent on the steps so far"""
        self.history: dict[str, list[float]] = {}
        self._latest: dict[str, float] = {}
        path.parent.mkdir(parents=True, exist_ok=True)
        if arguments.resume and path.exists():
            self._load()
        elif path.exists():
            path.replace(path.with_suffix(".old"))  # nothing is lost by forgetting --resume

    def log(self, **values: float) -> None:
        """Appends to the history, and shows the values beside the progress bar."""
        for name, value in values.items():
            self.history.setdefault(name, []).append(value)
        self._latest.update(values)

    def __iter__(self) -> Iterator[int]:
        interrupted: list[int] = []
        handlers = {s: signal.signal(s, lambda s, _: interrupted.append(s)) for s in (signal.SIGINT, signal.SIGTERM)}
        saved = began = time.monotonic()
        before = self.seconds
        try:
            with tqdm(total=self.steps, initial=self.step, desc=self.description, unit="step") as bar:
                while self.step < self.steps:
                    yield self.step
                    self.step += 1
                    bar.update()
                    bar.set_postfix({k: f"{v:.3g}" for k, v in self._latest.items()}, refresh=False)
                    now = time.monotonic()
                    self.seconds = before + now - began
                    if interrupted or now - saved > self.every or self.step == self.steps:
                        self._save()
                        saved = time.monotonic()
                    if interrupted:
                        bar.close()
                        print(f"interrupted after {self.step} steps; --resume goes on from {self.path}")
                        sys.exit(128 + interrupted[0])
        finally:
            for s, handler in handlers.items():
                signal.signal(s, handler)

    def _save(self) -> None:
        state = {
            "configuration": self.configuration,
            "step": self.step,
            "seconds": self.seconds,
            "history": self.history,
            "random": torch.get_rng_state(),
            "parts": {name: part.state_dict() for name, part in self.parts.items()},
        }
        if torch.cuda.is_available():
            state["random_cuda"] = torch.cuda.get_rng_state_all()
        partial = self.path.with_suffix(".partial")
        torch.save(state, partial)
        partial.replace(self.path)  # at once: an interruption leaves the old checkpoint or the new one

    def _load(self) -> None:
        state = torch.load(self.path, map_location="cpu", weights_only=True)  # (runs nothing that lies there)
        other = {k: v for k, v in state["configuration"].items() if self.configuration.get(k) != v}
        if other:
            raise SystemExit(f"{self.path} was left by a run with {other}: give the same arguments, or leave --resume.")
        self.step, self.seconds, self.history = state["step"], state["seconds"], state["history"]
        torch.set_rng_state(state["random"])
        if "random_cuda" in state and torch.cuda.is_available():
            torch.cuda.set_rng_state_all(state["random_cuda"])
        for name, part in self.parts.items():
            part.load_state_dict(state["parts"][name])


def batch_of(step: int, size: int, n_samples: int, seed: int) -> Tensor:
    """The indices (size,) of the samples of a step: epochs without repetition, a function of the step alone.

    The samples that are left at the end of an epoch, fewer than `size`, are left out of it.
    """
    per_epoch = n_samples // size
    if not per_epoch:
        raise ValueError(f"a batch of {size} needs as many samples; there are {n_samples}.")
    epoch, position = divmod(step, per_epoch)
    generator = torch.Generator().manual_seed(1_000_003 * seed + epoch)
    return torch.randperm(n_samples, generator=generator)[position * size : (position + 1) * size]


def save_picture(figure: Figure, path: Path) -> None:
    """Writes a picture and says where."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    plt.close(figure)
    print(f"picture: {_short(path)}")


def save_metrics(output: Path, arguments: argparse.Namespace, summary: list[dict[str, Any]], **details: Any) -> None:
    """Writes `metrics.json`.

    Args:
        output: the folder.
        arguments: of the command line, written too.
        summary: rows of the table that `make examples` ends with: {"metric", "ours", "published", "note",
            "more_is_better"}, the last three where there is something to say.
        details: whatever else is worth keeping; plain Python values.
    """
    output.mkdir(parents=True, exist_ok=True)
    path = output / "metrics.json"
    shown = {k: str(v) if isinstance(v, Path) else v for k, v in vars(arguments).items()}
    path.write_text(json.dumps({"arguments": shown, "summary": summary, **details}, indent=1) + "\n", encoding="utf-8")
    print(f"metrics: {_short(path)}")


def _short(path: Path) -> Path:
    """Relative to where the program was started, if it is below."""
    path = path.resolve()
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def print_table(header: list[str], rows: list[list[Any]]) -> None:
    """A table in plain text: floats with three digits, the first column left, the others right."""
    cells = [[f"{x:.3g}" if isinstance(x, float) else str(x) for x in row] for row in [header, *rows]]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    for row in cells:
        print(
            "  ".join(
                x.ljust(w) if i == 0 else x.rjust(w) for i, (x, w) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
        )
