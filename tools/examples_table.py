"""The table of what the examples found, from their `metrics.json`: `python tools/examples_table.py [OUTPUT] [--save]`.

One row for every entry of `summary`; OUTPUT is examples/output unless given. --save writes docs/assets/examples.json,
which the documentation shows; what it holds of examples without metrics stays. Exits with status 1 if an example has
left no metrics.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

EXAMPLES = Path(__file__).parents[1] / "examples"
SAVED = EXAMPLES.parent / "docs" / "assets" / "examples.json"
HEADER = ("experiment", "metric", "published", "ours", "note")


def number(x: Any) -> str:
    """Three digits; text as it is."""
    return f"{x:.3g}" if isinstance(x, float) else str(x)


def rows(title: str, summary: list[dict[str, Any]]) -> list[tuple[str, ...]]:
    """Of one experiment; its name and size only in the first."""
    return [
        (
            "" if i else title,
            entry["metric"],
            number(entry.get("published", "-")),
            number(entry["ours"]),
            entry.get("note", ""),
        )
        for i, entry in enumerate(summary)
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", nargs="?", type=Path, default=EXAMPLES / "output")
    parser.add_argument("--save", action="store_true", help="write docs/assets/examples.json")
    arguments = parser.parse_args()
    output, table, missing = arguments.output, [HEADER], []
    found: dict[str, list[dict[str, Any]]] = {}
    for example in sorted(EXAMPLES.glob("[!_]*.py")):
        path = output / example.stem / "metrics.json"
        if path.exists():
            metrics = json.loads(path.read_text(encoding="utf-8"))
            found[f"{example.stem} ({metrics['arguments']['size']})"] = metrics["summary"]
        else:
            missing.append(example.stem)
    for title, summary in found.items():
        table += rows(title, summary)
    if arguments.save:
        for entry in (entry for summary in found.values() for entry in summary):
            entry |= {k: float(number(x)) for k, x in entry.items() if isinstance(x, float)}
        merged = (json.loads(SAVED.read_text(encoding="utf-8")) if SAVED.exists() else {}) | found
        SAVED.write_text(json.dumps(dict(sorted(merged.items())), indent=1) + "\n", encoding="utf-8")
    widths = [max(len(row[i]) for row in table) for i in range(len(HEADER))]
    for row in table:
        cells = [x.rjust(w) if i in (2, 3) else x.ljust(w) for i, (x, w) in enumerate(zip(row, widths, strict=True))]
        print("  ".join(cells).rstrip())
    for name in missing:
        print(f"no metrics of {name} in {output}: run examples/{name}.py", file=sys.stderr)
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
