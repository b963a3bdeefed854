"""The engines and libraries of this installation."""

from __future__ import annotations

import platform
import sys
import textwrap
from importlib import metadata
from typing import Any

from .engines import ENGINES

__all__ = ["show_config"]

WIDTH = 78
INDENTED: dict[str, Any] = {"initial_indent": "  ", "subsequent_indent": "    ", "break_on_hyphens": False}
LIBRARIES = ("numpy", "array-api-compat", "scipy", "torch", "jax", "cupy-cuda12x", "cupy-cuda13x")


def show_config(mode: str = "stdout") -> dict[str, dict[str, str]] | None:
    """Prints the engines (with SIMD level, threads and devices), the libraries found and the platform.

    Args:
        mode: "stdout" prints; "dicts" returns the same as nested dictionaries of strings.

    Raises:
        ValueError: for any other mode.
    """
    if mode not in ("stdout", "dicts"):
        raise ValueError(f"mode must be 'stdout' or 'dicts', got {mode!r}.")
    config = {
        "smnn": {
            "version": _version("smnn"),
            "python": platform.python_version(),
            "platform": f"{sys.platform} {platform.machine()}",
        },
        "engines": {name: engine.describe() for name, engine in ENGINES.items()},
        "libraries": {name: _version(name) for name in LIBRARIES},
    }
    if mode == "dicts":
        return config
    for section, entries in config.items():
        print(f"{section}:")
        for name, value in entries.items():
            print(textwrap.fill(f"{name}: {value}", WIDTH, **INDENTED))
    return None


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "not installed"
