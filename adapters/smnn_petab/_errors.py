"""The exception of this package."""

from __future__ import annotations

__all__ = ["UnsupportedError"]


class UnsupportedError(ValueError):
    """A model or a table uses a construct that this package does not support. The message names it and its place."""
