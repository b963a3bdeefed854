"""Training that is interrupted, or killed, and resumed ends as one that was not."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="needs torch")
pytest.importorskip("matplotlib", reason="needs the extra `examples`")

ROOT = Path(__file__).parents[2]
PROGRAM = """
import sys, time, json
from pathlib import Path
import torch
from _experiment import Training, batch_of, command_line

arguments = command_line("test", "A test.").parse_args()
torch.manual_seed(arguments.seed)
data = torch.randn(50, 3, dtype=torch.float64)
model = torch.nn.Linear(3, 1, dtype=torch.float64)
optimizer = torch.optim.Adam(model.parameters())
training = Training(arguments.output / "checkpoint.pt", 40, arguments, every=0.0, model=model, optimizer=optimizer)
first = training.step
for step in training:
    x = data[batch_of(step, 8, len(data), arguments.seed)]
    loss = (model(x + 0.1 * torch.randn_like(x)) - x.sum(-1, keepdim=True)).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    training.log(loss=loss.item())
    (arguments.output / "reached").write_text(str(step))
    time.sleep(0.02)
(arguments.output / "result.json").write_text(json.dumps([first, training.history["loss"], model.weight.tolist()]))
"""


def start(output: Path, *more: str) -> subprocess.Popen[bytes]:
    """Starts the program; what it says goes to `output/said`."""
    output.mkdir(exist_ok=True)
    with (output / "said").open("w") as said:
        return subprocess.Popen(
            [sys.executable, "-c", PROGRAM, "--output", str(output), *more],
            env={**os.environ, "PYTHONPATH": str(ROOT / "examples")},
            stdout=said,
            stderr=subprocess.STDOUT,
        )


def result(output: Path) -> list:
    return json.loads((output / "result.json").read_text())


@pytest.mark.parametrize(
    "how", [signal.SIGTERM, *(pytest.param(how, marks=pytest.mark.slow) for how in (signal.SIGINT, signal.SIGKILL))]
)
def test_a_stopped_run_resumes_to_the_same_result(tmp_path: Path, how: signal.Signals) -> None:
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert start(whole).wait(60) == 0
    program = start(stopped)
    reached = stopped / "reached"
    while not (reached.exists() and reached.read_text() not in ("", "0", "1", "2")):
        assert program.poll() is None, (stopped / "said").read_text()
        time.sleep(0.01)
    program.send_signal(how)
    assert program.wait(60) != 0
    assert not (stopped / "result.json").exists()
    assert start(stopped, "--resume").wait(60) == 0, (stopped / "said").read_text()
    assert result(stopped)[0] > 0
    assert result(stopped)[1:] == result(whole)[1:]


def test_a_checkpoint_of_other_arguments_is_refused(tmp_path: Path) -> None:
    assert start(tmp_path).wait(60) == 0
    assert start(tmp_path, "--resume", "--seed", "1").wait(60) != 0
    assert "'seed': '0'" in (tmp_path / "said").read_text()


@pytest.mark.slow
def test_a_run_without_resume_keeps_the_old_checkpoint(tmp_path: Path) -> None:
    assert start(tmp_path).wait(60) == 0
    assert start(tmp_path).wait(60) == 0
    assert (tmp_path / "checkpoint.old").exists()


class Planted:
    """Writes a file where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.write_text, (self.path, "ran")


def test_what_lies_in_the_place_of_a_checkpoint_is_not_run(tmp_path: Path) -> None:
    torch.save({"configuration": Planted(tmp_path / "ran")}, tmp_path / "checkpoint.pt")
    assert start(tmp_path, "--resume").wait(60) != 0
    assert "weights_only" in (tmp_path / "said").read_text()
    assert not (tmp_path / "ran").exists()
