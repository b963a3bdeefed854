"""Tables and galleries of the pages, as Markdown."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from markdown.extensions.toc import slugify

ROOT = Path(__file__).parents[2]


def of_examples(path: str) -> str:
    """Results of the examples beside those published, the better number in bold."""
    lines = ["| experiment | metric | published | ours |", "| --- | --- | ---: | ---: |"]
    for title, summary in json.loads((ROOT / path).read_text(encoding="utf-8")).items():
        for i, entry in enumerate(summary):
            note = f"<br><small>{entry['note']}</small>" if entry.get("note") else ""
            published, ours = _cells(entry)
            lines.append(f"| {'' if i else title.replace('_', ' ')} | {entry['metric']}{note} | {published} | {ours} |")
    return "\n".join(lines)


def _cells(entry: dict[str, Any]) -> tuple[str, str]:
    published, ours = entry.get("published"), entry["ours"]
    cells = "" if published is None else _number(published), _number(ours)
    if not isinstance(published, float) or not isinstance(ours, float) or cells[0] == cells[1]:
        return cells
    is_ours = (ours > published) == entry.get("more_is_better", False)
    return (cells[0], f"**{cells[1]}**") if is_ours else (f"**{cells[0]}**", cells[1])


def _number(x: Any) -> str:
    return f"{x:.3g}" if isinstance(x, float) else str(x)


def gallery(page: str) -> str:
    """Thumbnails of the first picture below each heading of a page, each a link to its heading."""
    text = (ROOT / page).read_text(encoding="utf-8")
    cards = []
    for section in re.split(r"^## ", text, flags=re.MULTILINE)[1:]:
        title = section.splitlines()[0].strip()
        picture = re.search(r"!\[([^\]]*)\]\(([^)]*)\)", section)
        if picture:
            anchor = slugify(title, "-")
            image = f'<img src="{picture[2]}" alt="{picture[1]}" loading="lazy">'
            cards.append(f'<a href="#{anchor}">{image}<span>{title}</span></a>')
    return '<div class="gallery">' + "".join(cards) + "</div>"
