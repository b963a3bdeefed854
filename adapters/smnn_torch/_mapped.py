"""Values of tensors that transforms of `torch.func` look at.

`vmap` hides the axis that it maps over. Here the axes of all its levels stand in front as those of an ordinary batch,
so that what decides by values takes members of `vmap` for members of a batch; and arrays with these axes become tensors
that `vmap` maps over. PyTorch has no public functions for that; those used here are the ones `vmap` is written with
(`torch/_functorch/vmap.py`, `_add_batch_dim`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from threading import RLock
from typing import Any

import numpy as np
import torch
from torch import Tensor

from smnn_core import ArgumentError, DTypeError

__all__ = ["FORWARD_MODE", "Mapped", "Members", "under_transforms"]

functorch = torch._C._functorch
FORWARD_MODE = RLock()
"""Held while forward mode is on: PyTorch has its level once for all threads (`torch.autograd.forward_ad`)."""


def under_transforms() -> bool:
    """True if a transform of `torch.func` is looking."""
    return functorch.peek_interpreter_stack() is not None


def _plain(x: Tensor) -> tuple[np.ndarray, list[int]]:
    """The values with the axes of the levels of `vmap` in front, and these levels, ascending."""
    levels: list[int] = []
    while functorch.is_functorch_wrapped_tensor(x):
        mapped = functorch.is_batchedtensor(x)
        level, axis = functorch.maybe_get_level(x), functorch.maybe_get_bdim(x) if mapped else 0
        x = functorch.get_unwrapped(x)
        if mapped:  # of the levels, the outermost wrapper is the highest
            x, levels = x.movedim(axis, 0), [level, *levels]
    if x.is_complex():
        raise DTypeError("solve takes real numbers, got complex tensors: make real and imaginary parts variables.")
    with torch._C._DisableFuncTorch():
        return x.detach().to(torch.float64).cpu().numpy(), levels


@dataclass
class Mapped:
    """The levels of `vmap` that members of a problem come from, and how many batch axes of its own it has."""

    sizes: dict[int, int] = field(default_factory=dict)
    """by level"""
    rank: int = 0

    def look(self, x: Any, core: int) -> None:
        """Takes notice of an argument (..., core axes)."""
        if isinstance(x, Tensor):
            values, levels = _plain(x)
            self.sizes = dict(sorted((self.sizes | dict(zip(levels, values.shape, strict=False))).items()))
            self.rank = max(self.rank, x.ndim - core)

    @property
    def front(self) -> tuple[int, ...]:
        return tuple(self.sizes.values())

    def numbers(self, x: Any, core: int) -> Any:
        """The values of a tensor (..., core axes): (members of vmap..., ..., core axes); of numbers an array; others as
        they are."""
        if not isinstance(x, Tensor):
            return np.asarray(x, dtype=np.float64) if isinstance(x, (list, tuple, int, float)) else x
        values, levels = _plain(x)
        if not set(levels) <= set(self.sizes):
            raise ArgumentError(
                "vmap maps over something that was not seen to be mapped at first: let the residual, conditions, "
                "constants or guess depend on it at all times, or give order= and values as conditions."
            )
        if not self.sizes:
            return values
        front = [values.shape[levels.index(level)] if level in levels else 1 for level in self.sizes]
        own = values.shape[len(levels) :]
        return values.reshape(*front, *(1,) * (self.rank - (len(own) - core)), *own)

    def tensor(self, x: np.ndarray, core: int, like: Tensor) -> Tensor:
        """An array as a tensor: mapped over where it has the axes of all members, (members of vmap..., ..., core)."""
        dtype = like.dtype if x.dtype.kind == "f" else None
        with torch._C._DisableFuncTorch():  # else it would be of the innermost level
            tensor = torch.tensor(x, dtype=dtype, device=like.device)
        if self.sizes and x.ndim - core == len(self.sizes) + self.rank:
            for level in self.sizes:
                tensor = functorch._add_batch_dim(tensor, 0, level)
        return tensor


@dataclass(frozen=True)
class Members:
    """The members of a batch as tensors like another, those of `vmap` hidden."""

    mapped: Mapped
    whole: tuple[int, ...]
    """the axes of all members"""
    like: Tensor

    @property
    def batch(self) -> tuple[int, ...]:
        return self.whole[len(self.mapped.sizes) :]

    def of(self, x: np.ndarray) -> Tensor:
        """An array for all members, (members, ...), as a tensor (B, ...)."""
        if not self.mapped.sizes:
            return self.mapped.tensor(np.ascontiguousarray(x), x.ndim - 1, self.like)
        front = self.whole[: len(self.mapped.sizes)]
        x = np.ascontiguousarray(x).reshape(*front, int(np.prod(self.batch)), *x.shape[1:])
        return self.mapped.tensor(x, x.ndim - len(front) - self.mapped.rank, self.like)

    def numbers(self, x: Tensor) -> np.ndarray:
        """The values (members, n) of a tensor (B, n)."""
        values, front = self.mapped.numbers(x, x.ndim - self.mapped.rank), self.whole[: len(self.mapped.sizes)]
        return np.broadcast_to(values, (*front, *x.shape)).reshape(int(np.prod((*front, *x.shape[:-1]))), x.shape[-1])
