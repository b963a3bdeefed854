"""Widths of prose and of the code of the README, which the first page of the site shows; openings of comments,
and shapes in those of kernels."""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROSE, CODE = 120, 78
OPENING = re.compile(r"(What|Where|Whether|Those)\b")
CPP, HASH = ("*.cpp", "*.hpp", "*.cu"), ("*.py", "*.sh", "*.toml", "*.yml", "*.txt", "Makefile")


def files(*patterns: str) -> list[Path]:
    found = subprocess.run(["git", "ls-files", *patterns], cwd=ROOT, capture_output=True, text=True)
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
        for page in files("*.md")
        for kind, line in lines(page)
        if kind == "prose" and len(line) > PROSE and len(max(line.split(), key=len)) < PROSE - 4
    }
    assert not wide


def test_code_of_the_readme_is_at_most_so_wide() -> None:
    assert not [line for kind, line in lines(ROOT / "README.md") if kind == "code" and len(line) > CODE]


def docstrings(path: Path) -> Iterator[str]:
    """Of modules, classes and functions, and those behind attributes."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        match node:
            case ast.Expr(value=ast.Constant(value=str(text))):
                yield text


def comments(path: Path, mark: str) -> Iterator[str]:
    """The first line of each comment: at the end of a line of code, or on lines of their own."""
    inside = False
    for line in path.read_text(encoding="utf-8").splitlines():
        before, found, text = line.partition(mark)
        alone = bool(found) and not before.strip()
        if found and not (inside and alone):
            yield text
        inside = alone


def test_docstrings_and_comments_begin_with_a_noun() -> None:
    texts = [(path, text) for path in files("*.py") for text in docstrings(path)]
    for mark, patterns in (("//", CPP), ("#", HASH)):
        texts += [(path, text) for path in files(*patterns) for text in comments(path, mark)]
    assert len(texts) > 1000
    assert not [f"{path.relative_to(ROOT)}: {text}" for path, text in texts if OPENING.match(text.strip())]


FUNCTION = re.compile(
    r"(?:^[ \t]*//.*\n)*(?:^[ \t]*template.*\n)*^[ \t]*[\w<>:, *&]+?\b\w+\(([^{};]*?)\)[^;{}()]*\{", re.MULTILINE
)
POINTER = re.compile(
    r"\b(?:P|T|double|int|Output|ScalarOf<P>|Index)\s*(?:\* ?const ?)?\*(?:\s*(?:SMNN_|__)(?i:restrict))? ?&?(\w+)"
)


def test_pointers_that_kernels_take_have_shapes_beside_them() -> None:
    """`name (axes)` in the comment above a function, for each array that it takes."""
    missing, seen = [], 0
    for path in files("smnn_core/engines/kernels/*.hpp", "smnn_core/engines/_cpu/*.hpp"):
        for found in FUNCTION.finditer(path.read_text(encoding="utf-8")):
            comment = " ".join(re.findall(r"//(.*)", found[0]))
            for name in POINTER.findall(re.sub(r"//.*", "", found[1])):
                seen += 1
                if "[&]" not in found[1] and not re.search(rf"\b{name}\b`?[^.;]*\(", comment):
                    missing.append(f"{path.relative_to(ROOT)}: {name} of {found[0].splitlines()[-1].strip()}")
    assert seen > 100
    assert not missing
