"""The Lorenz example trains in stages, each with an optimiser of its own: it resumes in any of them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="needs torch")
pytest.importorskip("matplotlib", reason="needs the extra `examples`")

ROOT = Path(__file__).parents[2]
PROGRAM = """
import os, sys
from functools import partial
import lorenz

how, at, solve, steps = int(sys.argv.pop(1)), int(sys.argv.pop(1)), lorenz.solve, []

def stopping(*arguments):
    steps.append(None)
    if how and len(steps) > at:
        os.kill(os.getpid(), how)
    return solve(*arguments)

lorenz.solve = stopping
lorenz.Training = partial(lorenz.Training, every=0.0)  # a checkpoint after every step
lorenz.main()
print("steps", len(steps))
"""


def run(output: Path, how: int, at: int, *more: str) -> subprocess.CompletedProcess[str]:
    """The example with --smoke: 20 steps of warm-up and 2 rounds of 10. Gets the signal `how` in its step `at`."""
    command = [sys.executable, "-c", PROGRAM, str(how), str(at), "--smoke", "--output", str(output), *more]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "examples"), "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_killed_and_resumed_it_ends_as_if_it_had_run_through(tmp_path: Path) -> None:
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert run(whole, 0, 0).returncode == 0

    # in the first step of the second round: coefficients are cut, the optimiser is new, and nothing of it is saved
    assert run(stopped, signal.SIGKILL, 30).returncode == -signal.SIGKILL
    assert not (stopped / "metrics.json").exists()
    resumed = run(stopped, 0, 0, "--resume")
    assert resumed.returncode == 0, resumed.stderr
    assert "steps 10" in resumed.stdout

    metrics = [json.loads((folder / "metrics.json").read_text()) for folder in (whole, stopped)]
    assert len(metrics[0]["loss"]) == 40
    assert metrics[0]["loss"] == metrics[1]["loss"]
    assert metrics[0]["coefficients"] == metrics[1]["coefficients"]
