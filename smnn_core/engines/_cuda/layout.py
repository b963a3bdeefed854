"""The jobs of `job.hpp` as NumPy dtypes (the same memory, passed to kernels by value), and arrays as jobs name them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from ..._arrays import Shape
from ..._fields import FIELDS as INPUTS

Layout = tuple[Shape, tuple[int, ...]]
"""Shape, and strides in bytes."""

MAX_AXES, MAX_K, MAX_LEVELS = 6, 8, 8

FIELDS = (*INPUTS, "smoothness", "y", "g")
"""The arrays of a problem and of its adjoint, in the order of `Field`."""
MULTIPLIERS = 2
"""Sets of multipliers of the rows."""
N_GRADIENTS = len(INPUTS)
"""The first of them have gradients."""

_pointer, _index, _int = np.uint64, np.int64, np.int32

_input = np.dtype(
    [
        ("data", _pointer),
        ("time", _index),
        ("inner", _index, (3,)),
        ("batch", _index, (MAX_AXES,)),
    ],
    align=True,
)
_output = np.dtype([("data", _pointer), ("over_time", _index)], align=True)
_systems = np.dtype(
    [
        ("bad", _pointer),
        ("undetermined", _pointer),
        ("flag_strides", _index, (MAX_AXES + 1,)),
        ("shape", _index, (MAX_AXES,)),
        ("axes", _index),
        ("count", _index),
    ],
    align=True,
)
_chain_level = np.dtype(
    [(name, _pointer) for name in ("ends", "passed", "factor", "z", "x", "tape", "multipliers")], align=True
)


@cache
def point_job(dtype: str, K: int) -> np.dtype[np.void]:
    """`PointJob` for K orders."""
    return np.dtype(
        [
            ("systems", _systems),
            ("in", _input, (len(FIELDS),)),
            ("gradient", _output, (N_GRADIENTS,)),
            *((name, _pointer) for name in ("x", "factor", "z", "tape", "lambda", "products", "initial")),
            ("above", _chain_level),
            *((name, _int) for name in ("V", "Q", "points", "T_init", "R_init", "chunks")),
            ("tolerance2", dtype),
            ("scheme_norm2", dtype, (2 * K,)),
            ("scheme_rows", dtype, (4 * K * K,)),
        ],
        align=True,
    )


@cache
def chain_job(dtype: str) -> np.dtype[np.void]:
    """`ChainJob`."""
    numbers = ("levels", "first_level", "end_level", "group", "back", "V", "Q")
    return np.dtype(
        [
            ("systems", _systems),
            ("level", _chain_level, (MAX_LEVELS,)),
            ("sizes", _int, (MAX_LEVELS,)),
            *((name, _int) for name in numbers),
            ("tolerance2", dtype),
        ],
        align=True,
    )


@cache
def pointers_of(job: np.dtype[Any]) -> np.ndarray:
    """The words of a job, of eight bytes, that are addresses."""
    if job.subdtype is not None:
        each, shape = job.subdtype
        return np.add.outer(np.arange(math.prod(shape)) * (each.itemsize // 8), pointers_of(each)).ravel()
    if job.fields is None:
        return np.zeros(int(job == _pointer), np.intp)
    return np.concatenate([pointers_of(field[0]) + field[1] // 8 for field in job.fields.values()])


class Place(NamedTuple):
    """An array as jobs know it: an address, or what stands for one (`plan.py`), shape, and strides in elements."""

    address: int
    shape: Shape
    strides: tuple[int, ...]

    def broadcast(self, rank: int) -> list[int]:
        """Strides for `rank` axes, 0 where the array is broadcast."""
        own = [0 if size == 1 else stride for size, stride in zip(self.shape, self.strides, strict=True)]
        return [0] * (rank - len(own)) + own


def merge_axes(shape: Shape, strides: Sequence[Sequence[int]]) -> tuple[Shape, list[list[int]]]:
    """Fewer axes with the same elements in the same order: axes of length 1 go, axes that lie in one line are one."""
    sizes: list[int] = []
    kept: list[list[int]] = [[] for _ in strides]
    for axis, size in enumerate(shape):
        if size == 1:
            continue
        if sizes and all(k[-1] == size * s[axis] for k, s in zip(kept, strides, strict=True)):
            sizes[-1] *= size
            for k, s in zip(kept, strides, strict=True):
                k[-1] = s[axis]
            continue
        sizes.append(size)
        for k, s in zip(kept, strides, strict=True):
            k.append(s[axis])
    return tuple(sizes), kept


def lay_out(batch: Shape, arrays: Sequence[Place | None], cores: Sequence[Shape], systems: np.void) -> np.ndarray:
    """An `Input` for each array of shape (*batch, *core), or that broadcasts to it; None stands for zeros.

    `systems` gets the shape of the batch, of which axes are merged.
    """
    inputs = np.zeros(len(arrays), _input)
    given = [(to, x, core) for to, x, core in zip(inputs, arrays, cores, strict=True) if x is not None]
    strides = [x.broadcast(len(batch) + len(core)) for _, x, core in given]
    shape, merged = merge_axes(batch, [s[: len(batch)] for s in strides])
    systems["shape"][: len(shape)], systems["axes"], systems["count"] = shape, len(shape), math.prod(batch)
    for (to, x, _), of_axes, of_batch in zip(given, strides, merged, strict=True):
        to["data"], (to["time"], *inner) = x.address, of_axes[len(batch) :]
        to["inner"][: len(inner)], to["batch"][: len(shape)] = inner, of_batch
    return inputs


def too_many_axes(batch: Shape) -> bool:
    """True if a batch may keep more axes than kernels have room for."""
    return sum(size != 1 for size in batch) > MAX_AXES
