"""Results on disk: compact, compressed where they are many, and of machines that did nothing else.

`save` writes one line for each row of a table, numbers to four digits. `measuring` stands around all that measures
times which are saved, and ends the program where the machine is busy with something else: a load average sees it too
late, so that it counts the processor time of the whole machine over a second in which this process sleeps.
"""

from __future__ import annotations

import gzip
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

BUSY = 0.1
"""Share of the processors in use by others from which times are not saved."""
STAT = Path("/proc/stat")


def load(path: Path) -> Any:
    """The content that `save` wrote."""
    return json.loads(gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_text("utf-8"))


def save(path: Path, content: Any) -> None:
    """JSON, one line a row; compressed where the name ends in .gz. An interrupted call leaves the old file."""
    text = dumps(content) + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    # mtime: the same content gives the same bytes
    partial.write_bytes(gzip.compress(text.encode(), mtime=0) if path.suffix == ".gz" else text.encode())
    partial.replace(path)


def dumps(content: Any) -> str:
    """Lists of rows over lines, a row on one; dictionaries of sections likewise."""
    if isinstance(content, list) and any(isinstance(row, (list, dict)) for row in content):
        return "[\n" + ",\n".join(json.dumps(_rounded(row), ensure_ascii=False) for row in content) + "\n]"
    if isinstance(content, dict):
        return "{\n" + ",\n".join(f"{json.dumps(key)}: {dumps(value)}" for key, value in content.items()) + "\n}"
    return json.dumps(_rounded(content), ensure_ascii=False)


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, dict):
        return {key: _rounded(x) for key, x in value.items()}
    return [_rounded(x) for x in value] if isinstance(value, (list, tuple)) else value


def share_in_use(seconds: float = 1.0) -> float:
    """Of the processors, while this process sleeps; Linux by /proc/stat, elsewhere by the load of the last minute."""
    if not STAT.exists():
        return os.getloadavg()[0] / (os.cpu_count() or 1) if hasattr(os, "getloadavg") else 0.0
    before = _ticks()
    time.sleep(seconds)
    idle, total = (b - a for a, b in zip(before, _ticks(), strict=True))
    return 1 - idle / max(total, 1)


def _ticks() -> tuple[int, int]:
    """Of all processors since the start: idle or waiting, and all."""
    numbers = [int(x) for x in STAT.read_text().split("\n", 1)[0].split()[1:9]]
    return numbers[3] + numbers[4], sum(numbers)


@contextmanager
def measuring(saved: bool) -> Iterator[None]:
    """Around what measures times that are to be saved: before and after it the machine must be idle."""
    if saved:
        idle()
    yield
    if saved:
        idle("after")


def idle(when: str = "before") -> None:
    """Ends the program where others use the machine `when` it measured: its times would be saved as results.

    Raises:
        SystemExit: with what was found, and what to do.
    """
    if (share := share_in_use()) > BUSY:
        raise SystemExit(
            f"{100 * share:.0f} % of the processors are in use {when} measuring, more than the {100 * BUSY:.0f} % up "
            "to which times mean something: these are not saved. End what runs beside, or measure without --save."
        )
