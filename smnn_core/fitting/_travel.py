"""Callbacks of results that are pickled: some cannot be."""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from typing import Any

from .._errors import ArgumentError

__all__ = ["for_pickle"]


@dataclass(frozen=True)
class LeftBehind:
    """Stands in for a callback that could not be pickled: what needs it says so."""

    name: str

    def __call__(self, *_: Any) -> Any:
        raise ArgumentError(
            f"{self.name} did not travel with this result, since it cannot be pickled: a lambda, or a function inside "
            "another one. Values and trajectories are there; for profiles, bands and samples define it in a module."
        )


def for_pickle(x: Any, name: str) -> Any:
    """x, or what stands in for it where it cannot be pickled."""
    if isinstance(x, (list, tuple)):
        return type(x)(for_pickle(each, name) for each in x)
    if not callable(x):
        return x
    try:
        pickle.dumps(x)
    except (pickle.PicklingError, AttributeError, TypeError):
        return LeftBehind(name)
    return x
