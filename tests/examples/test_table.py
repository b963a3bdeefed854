"""The table at the end of `make examples`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
NAMES = sorted(path.stem for path in (ROOT / "examples").glob("[!_]*.py"))


def table(output: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "tools" / "examples_table.py"), str(output)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def leave(output: Path, name: str) -> None:
    (output / name).mkdir()
    summary = [{"metric": f"error of {name}", "ours": 0.123456, "published": 2.5}, {"metric": "count", "ours": 3}]
    (output / name / "metrics.json").write_text(json.dumps({"arguments": {"size": "quick"}, "summary": summary}))


def test_shows_every_metric_beside_the_published_value(tmp_path: Path) -> None:
    for name in NAMES:
        leave(tmp_path, name)
    result = table(tmp_path)
    assert result.returncode == 0
    lines = [line.split() for line in result.stdout.splitlines()]
    assert len(lines) == 1 + 2 * len(NAMES)
    for i, name in enumerate(NAMES):
        assert lines[1 + 2 * i] == [name, "(quick)", "error", "of", name, "2.5", "0.123"]
        assert lines[2 + 2 * i] == ["count", "-", "3"]


def test_fails_where_an_example_left_nothing(tmp_path: Path) -> None:
    for name in NAMES[1:]:
        leave(tmp_path, name)
    result = table(tmp_path)
    assert result.returncode == 1
    assert NAMES[0] in result.stderr
