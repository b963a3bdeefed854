"""A progress bar for work that takes long."""

from __future__ import annotations

import warnings
from typing import Any

__all__ = ["ProgressBar"]


class ProgressBar:
    """A bar of tqdm where one is wanted; where tqdm is not installed, a warning and nothing."""

    def __init__(self, wanted: bool, **options: Any) -> None:
        self._bar: Any = None
        if wanted:
            try:
                from tqdm.auto import tqdm
            except ImportError:
                warnings.warn("progress=True shows a bar only where tqdm is installed.", stacklevel=4)
            else:
                self._bar = tqdm(**options)

    def __enter__(self) -> ProgressBar:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    @property
    def shown(self) -> bool:
        """True if there is a bar; what it shows need not be computed otherwise."""
        return self._bar is not None

    def step(self, **state: Any) -> None:
        """One more, and what to show behind the bar."""
        if self._bar is not None:
            self._bar.set_postfix(**state)
            self._bar.update()

    def reach(self, count: int) -> None:
        """As many as that in all."""
        if self._bar is not None:
            self._bar.update(count - self._bar.n)
