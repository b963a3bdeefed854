"""Widths of text: prose of Markdown, and the code of the README, which the first page of the site shows."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROSE, CODE = 120, 78


def pages() -> list[Path]:
    found = subprocess.run(["git", "ls-files", "*.md"], cwd=ROOT, capture_output=True, text=True)
    if found.returncode or not found.stdout:
        pytest.skip("not a checkout: git does not know the files")
    return [ROOT / name for name in found.stdout.split()]


def lines(page: Path) -> Iterator[tuple[str, str]]:
    """Each line, and what it is: "code", "formula", "table" or "prose"."""
    inside = ""
    for line in page.read_text(encoding="utf-8").splitlines():
        text = line.strip()
        if inside:
            yield inside, line
            if text.endswith("```" if inside == "code" else "$$"):
                inside = ""
        elif text.startswith("```"):
            inside = "code"
        elif text.startswith("$$"):
            inside = "" if len(text) > 2 and text.endswith("$$") else "formula"
        else:
            yield "table" if text.startswith(("|", "<")) else "prose", line


def test_prose_is_at_most_so_wide() -> None:
    wide = {
        f"{page.relative_to(ROOT)}: {line}"
        for page in pages()
        for kind, line in lines(page)
        if kind == "prose" and len(line) > PROSE and len(max(line.split(), key=len)) < PROSE - 4
    }
    assert not wide


def test_code_of_the_readme_is_at_most_so_wide() -> None:
    assert not [line for kind, line in lines(ROOT / "README.md") if kind == "code" and len(line) > CODE]
