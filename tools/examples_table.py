"""The table of what the examples found, from their `metrics.json`: `python tools/examples_table.py [OUTPUT]`.

One row for every entry of `summary`; OUTPUT is examples/output unless given. Exits with status 1 if an example has left
no metrics.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

EXAMPLES = Path(__file__).parents[1] / "examples"
HEADER = ("experiment", "metric", "published", "ours", "note")


def number(x: Any) -> str:
    """Three digits; text as it is."""
    return f"{x:.3g}" if isinstance(x, float) else str(x)


def rows(name: str, metrics: dict[str, Any]) -> list[tuple[str, ...]]:
    """Of one experiment; its name and size only in the first."""
    title = f"{name} ({metrics['arguments']['size']})"
    return [
        (
            "" if i else title,
            entry["metric"],
            number(entry.get("published", "-")),
            number(entry["ours"]),
            entry.get("note", ""),
        )
        for i, entry in enumerate(metrics["summary"])
    ]


def main(output: Path = EXAMPLES / "output") -> int:
    table, missing = [HEADER], []
    for example in sorted(EXAMPLES.glob("[!_]*.py")):
        path = output / example.stem / "metrics.json"
        if path.exists():
            table += rows(example.stem, json.loads(path.read_text(encoding="utf-8")))
        else:
            missing.append(example.stem)
    widths = [max(len(row[i]) for row in table) for i in range(len(HEADER))]
    for row in table:
        cells = [x.rjust(w) if i in (2, 3) else x.ljust(w) for i, (x, w) in enumerate(zip(row, widths, strict=True))]
        print("  ".join(cells).rstrip())
    for name in missing:
        print(f"no metrics of {name} in {output}: run examples/{name}.py", file=sys.stderr)
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main(*map(Path, sys.argv[1:])))
