"""Runs the examples of Markdown files and compares what they print: `python tools/run_examples.py README.md`.

All ```python blocks of a file run in order, in one namespace. A ```text block that follows holds what the block before
it prints; without one it must print nothing.
"""

from __future__ import annotations

import contextlib
import io
import re
import sys
from pathlib import Path

BLOCK = re.compile(r"^```(python|text)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def run(path: Path) -> int:
    """Runs a file's examples; the number of blocks.

    Raises:
        AssertionError: if a block prints something else than the file says; whatever a block raises.
    """
    text = path.read_text(encoding="utf-8")
    blocks = list(BLOCK.finditer(text))
    namespace = {"__name__": "__main__"}
    count = 0
    for i, block in enumerate(blocks):
        if block[1] != "python":
            continue
        line = text[: block.start()].count("\n") + 1
        following = blocks[i + 1] if i + 1 < len(blocks) else None
        expected = following[2] if following and following[1] == "text" else ""
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile("\n" * line + block[2], str(path), "exec"), namespace)
        if printed.getvalue() != expected:
            raise AssertionError(
                f"{path}:{line}: the example prints\n{printed.getvalue()}but the page says\n{expected or '(nothing)'}"
            )
        count += 1
    return count


if __name__ == "__main__":
    for name in sys.argv[1:]:
        print(f"{name}: {run(Path(name))} examples ran and printed what the page says")
