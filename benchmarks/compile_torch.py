"""`torch.compile` of a model with the layer, against eager: `python -m benchmarks.compile_torch [--save]`.

The model is one as on the page "Models in PyTorch": an encoder, the layer, a mean squared error. One step is forward,
backward and Adam. Eager and compiled steps are timed in turn; best of many, the least that the machine takes, whatever
else it is doing. The compiler starts with an empty cache.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn

from smnn_torch import MechanisticODE

from . import store

__all__ = ["CASES", "measure", "step", "table"]

RESULTS = Path(__file__).parent / "results" / "compile_torch.json"
CASES = (16, 40), (256, 40), (256, 400)
"""Batch and time points. The compiler makes one program for the first batch size and one for all others."""
ROUNDS = 60


def model(T: int) -> nn.Module:
    """Features (..., T) to trajectories of y'' + a y' + k y = 0."""
    nan = torch.nan
    layer = MechanisticODE(
        64,
        n_steps=T,
        order=3,
        n_initial_orders=2,
        fixed_coefficients=torch.tensor([nan, nan, 1.0, 0.0]),
        rhs=torch.zeros(1, 1),
        step_sizes=torch.tensor([4.0 / T]),
    )
    return nn.Sequential(nn.Linear(T, 64), nn.Tanh(), layer)


def step(function: Any, optimizer: torch.optim.Optimizer, data: Tensor) -> float:
    """One step of training: its loss."""
    optimizer.zero_grad()
    loss = (function(data)[..., 0, 0] - data).square().mean()
    loss.backward()
    optimizer.step()
    return loss.item()


def _seconds(function: Any, optimizer: torch.optim.Optimizer, data: Tensor) -> float:
    start = perf_counter()
    step(function, optimizer, data)
    return perf_counter() - start


def measure(cases: tuple[tuple[int, int], ...] = CASES, rounds: int = ROUNDS, **options: Any) -> list[dict[str, Any]]:
    """For each case the seconds of the first compiled step, and of a step, eager and compiled, later on."""
    rows = []
    for batch, T in cases:
        torch.manual_seed(0)
        torch.compiler.reset()
        plain = model(T)
        compiled = torch.compile(plain, fullgraph=True, **options)
        optimizer = torch.optim.Adam(plain.parameters(), 1e-3)
        data = torch.randn(batch, T)
        step(plain, optimizer, data)
        first = _seconds(compiled, optimizer, data)
        other = _seconds(compiled, optimizer, torch.randn(batch + 1, T))  # made again, for any batch
        times: dict[str, list[float]] = {"eager": [], "compiled": []}
        for _ in range(rounds):
            for name, function in (("eager", plain), ("compiled", compiled)):
                times[name].append(_seconds(function, optimizer, data))
        row = {"batch": batch, "T": T, "first": first, "other batch": other}
        rows.append(row | {name: min(x) for name, x in times.items()})
    return rows


def table(rows: list[dict[str, Any]]) -> list[str]:
    """The figures as Markdown."""
    lines = [
        "| batch | T | first step | first step with another batch size | step, compiled | step, eager |",
        "| --- " * 6 + "|",
    ]
    for row in rows:
        faster = min(row["eager"], row["compiled"])
        eager, compiled = (
            f"**{1e3 * x:.2f} ms**" if x == faster else f"{1e3 * x:.2f} ms" for x in (row["eager"], row["compiled"])
        )
        cells = row["batch"], row["T"], f"{row['first']:.0f} s", f"{row['other batch']:.0f} s", compiled, eager
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--save", action="store_true", help=f"write {RESULTS.name}, which the documentation shows")
    save = parser.parse_args().save
    with store.measuring(save), tempfile.TemporaryDirectory() as empty:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = empty
        rows = measure()
    print("\n".join(table(rows)))
    if save:
        found = {"torch": torch.__version__, "threads": torch.get_num_threads(), "rows": rows}
        store.save(RESULTS, found)


if __name__ == "__main__":
    main()
