"""What is staged through shared memory, and how many points at a time: the sizes of the tiles of `tile.hpp`.

Threads side by side serve lanes side by side. Where the numbers of one lane lie in one line, what such threads read
lies far apart, and each of them makes the memory fetch a sector of its own. Such a field is copied by the threads of a
warp together, a run of points of one lane after the other, and read from the copy. Where neighbours read neighbours
(the batch lies last in memory) or one number (it is broadcast), the field is read where it lies.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np

from ..._arrays import Array, Shape
from .layout import FIELDS, N_GRADIENTS

WARP, WARPS = 32, 4
"""Lanes of a tile, and warps of a block."""
SHARED = 48 << 10
"""Bytes of shared memory that a block may take without asking for more."""
PITCH = WARP + 1
"""From one number of a lane to the next in a tile: one more than lanes, so that both lie in different banks."""
TILES = ("coefficients", "rhs", "weights.equation", "step_sizes", "y", "g", "x")
"""What may be staged, in the order of `TileSizes`."""
STAGED = {
    "sweep": ("coefficients", "rhs", "weights.equation", "step_sizes"),
    "forward": ("g",),
    "back": ("x",),
    "contract": ("coefficients", "rhs", "step_sizes", "y", "g"),
}
"""By kernel. In `contract`, gradients take the places of what they are gradients of."""
RUN, LONGEST_RUN = 48, 96
"""Bytes of a run: of several points at most, and of one point. Longer runs save little, as a run of 48 bytes touches
two or three sectors for the one and a half that it needs, and cost the shared memory that more threads could use."""


def points(kernel: str, dtype: str, V: int, K: int, Q: int) -> dict[str, int]:
    """The points of each tile of a kernel, a power of two; what has no tile is not named."""
    return dict(_points(kernel, np.dtype(dtype).itemsize, V, K, Q))


@cache
def _points(kernel: str, itemsize: int, V: int, K: int, Q: int) -> tuple[tuple[str, int], ...]:
    n = V * K
    counts = {"coefficients": Q * n, "rhs": Q, "weights.equation": Q, "step_sizes": 1, "y": n, "g": n, "x": n}
    lines = {name: counts[name] * itemsize for name in STAGED[kernel]}
    sizes = {
        name: 1 << max(RUN // line, 1).bit_length() - 1 if line <= LONGEST_RUN else 0 for name, line in lines.items()
    }
    while WARPS * _bytes([sizes[name] * lines[name] for name in sizes]) > SHARED:
        longest = max(sizes, key=lambda name: sizes[name] * lines[name])
        sizes[longest] //= 2
    return tuple((name, size) for name, size in sizes.items() if size)


def _bytes(runs: Sequence[int]) -> int:
    """`WarpMemory`, at the most: what threads know of each other's lanes, and tiles, with where their lanes lie."""
    return WARP * 16 + sum(-(-run * PITCH // 8) * 8 + WARP * 8 for run in runs if run) + 8


def far_apart(x: Array, core: Shape, batch_strides: Sequence[int], chunked: bool) -> bool:
    """Whether each lane of an array lies in one line, and neighbouring lanes neither side by side nor in one place.

    Args:
        core: time, and what a point has.
        batch_strides: of the merged axes.
        chunked: neighbours are chunks of one system, one after the other in its line.
    """
    rank, line = len(core), x.itemsize
    if tuple(x.shape[-rank:]) != tuple(core):
        return False
    for size, stride in zip(reversed(core), reversed(x.strides), strict=False):
        if size > 1 and stride != line:
            return False
        line *= size
    return chunked or not batch_strides or batch_strides[-1] not in (0, 1)


def staged(job: np.ndarray, sizes: dict[str, int], lines: dict[int, Shape]) -> np.ndarray:
    """The job, with what is staged as it lies in tiles.

    Args:
        sizes: of the tiles of the kernel, see `points`.
        lines: the fields that are `far_apart`, with what they have at a point.
    """
    if not sizes:
        return job
    job = job.copy()
    fields, gradients, x = job["in"][0], job["gradient"][0], job["x"][0]
    for f, inner in lines.items():
        if FIELDS[f] in sizes:
            strides = [PITCH]
            for size in reversed(inner):
                strides.insert(0, strides[0] * size)
            to = fields[f]
            to["staged"], to["time"], to["inner"][3 - len(inner) :] = -1, strides[0], strides[1:]
    for f in range(N_GRADIENTS):
        if FIELDS[f] in sizes and gradients[f]["data"] and not gradients[f]["over_time"]:
            gradients[f]["staged"] = -1
    if "x" in sizes and x["data"]:
        job["x"]["staged"] = -1
    return job
