"""Every example runs from end to end with --smoke, and leaves what `make examples` and its README rely on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

NEEDED = ("torch", "jax", "matplotlib", "diffrax", "torchdiffeq", "petab")
MISSING = [name for name in NEEDED if find_spec(name) is None]
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"needs torch, jax, the extras `examples`, `petab`: no {MISSING}")

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("[!_]*.py"))


@pytest.mark.parametrize(
    "example",
    [pytest.param(path, marks=[] if path.stem == "damped_sine" else pytest.mark.slow) for path in EXAMPLES],
    ids=lambda path: path.stem,
)
def test_runs_and_leaves_metrics_and_pictures(example: Path, tmp_path: Path) -> None:
    command = [sys.executable, str(example), "--smoke", "--output", str(tmp_path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr[-3000:]

    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["arguments"]["size"] == "smoke"
    assert metrics["summary"]
    for row in metrics["summary"]:
        assert {"metric", "ours"} <= row.keys() <= {"metric", "ours", "published", "note", "more_is_better"}

    from matplotlib.image import imread

    pictures = list(tmp_path.glob("*.png"))
    assert pictures
    for picture in pictures:
        assert imread(picture)[..., :3].std() > 0.01, f"{picture.name} is blank"


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_is_in_the_readme(example: Path) -> None:
    assert f"{example.name}" in (ROOT / "examples" / "README.md").read_text()
