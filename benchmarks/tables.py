"""A table of results: as text for a terminal, as Markdown for the pages, as JSON in between."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

__all__ = ["Table", "load", "save", "section"]


@dataclass(frozen=True)
class Table:
    """Cells as text, the first column left-aligned."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()
    """lines below"""

    def text(self) -> str:
        """Aligned columns."""
        lines = [self.header, *self.rows] if self.rows else []
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        aligned = (
            "  ".join(x.rjust(w) if i else x.ljust(w) for i, (x, w) in enumerate(zip(line, widths, strict=True)))
            for line in lines
        )
        return "\n".join([self.title, *(line.rstrip() for line in aligned), *self.notes])

    def markdown(self) -> str:
        """A table of Markdown, its notes as paragraphs; the title is left to the page."""
        lines = [self.header, *self.rows] if self.rows else []
        cells = ["| " + " | ".join(x.replace("|", "\\|") for x in line) + " |" for line in lines]
        rule = ["| --- " + "| ---: " * (len(self.header) - 1) + "|"] if cells else []
        return "\n".join([*cells[:1], *rule, *cells[1:], *(f"\n{note}" for note in self.notes)])


def save(path: Path, tables: Iterable[Table]) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps([asdict(table) for table in tables], indent=1) + "\n", encoding="utf-8")


def load(path: Path) -> list[Table]:
    return [
        Table(t["title"], tuple(t["header"]), tuple(map(tuple, t["rows"])), tuple(t["notes"]))
        for t in json.loads(path.read_text(encoding="utf-8"))
    ]


def section(path: Path, title: str) -> str:
    """The text below a heading of a page of results, up to the next.

    Raises:
        ValueError: if the page has no such heading.
    """
    text = path.read_text(encoding="utf-8")
    for part in text.split("\n## ")[1:]:
        heading, _, body = part.partition("\n")
        if heading == title:
            return body.strip()
    raise ValueError(f"{path} has no section {title!r}.")
