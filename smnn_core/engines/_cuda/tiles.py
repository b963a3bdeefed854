"""The sizes of the tiles of `tile.hpp`: the arrays staged through shared memory, and the number of points at a time.

Threads side by side serve lanes side by side. Where the numbers of one lane lie in one line, what such threads read
lies far apart, and each of them makes the memory fetch a sector of its own. Such a field is copied by the threads of a
warp together, a run of points of one lane after the other, and read from the copy. Where neighbours read neighbours
(the batch lies last in memory) or one number (it is broadcast), the field is read where it lies.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ..._arrays import Shape
from .layout import FIELDS, N_GRADIENTS, STATES

if TYPE_CHECKING:
    from .plan import Place

WARP, WARPS = 32, 4
"""Lanes of a tile, and warps of a block."""
SHARED = 48 << 10
"""Bytes of shared memory that a block may take without asking for more."""
BANKS = 128
"""Bytes that shared memory moves at a time: a number for each thread of a warp, or of half a warp in float64."""
TILES = ("coefficients", "rhs", "weights.equation", "step_sizes", "y", "g", "total", "totals", "given", "x")
"""The arrays that may be staged, in the order of `TileSizes`. `totals` are two tiles, of both sides."""
OTHERS = {"total": "totals", "rest": "g"}
"""The tiles of fields that have none of their own name in a kernel."""
STAGED = {
    "sweep": ("coefficients", "rhs", "weights.equation", "step_sizes"),
    "forward": ("g",),
    "back": ("x",),
    "refine": ("coefficients", "rhs", "weights.equation", "step_sizes", "given", "g", "total", "x"),
    "contract": ("coefficients", "rhs", "step_sizes", "y", "totals"),
}
"""By kernel. In `contract`, gradients take the places of what they are gradients of."""
RUN, LONGEST_RUN = 48, 96
"""Bytes of a run: of several points at most, and of one point. Longer runs save little, as a run of 48 bytes touches
two or three sectors for the one and a half that it needs, and cost the shared memory that more threads could use."""
LARGEST = 8
"""Unknowns of a point, at most: with more, kernels have no registers to spare for copies."""


class Tile(NamedTuple):
    """One field's, as `TileSize`."""

    points: int
    """a power of two"""
    pitch: int
    """from one number of a lane to the next: its lanes, padded"""


def tiles_of(kernel: str, dtype: str, V: int, K: int, Q: int) -> dict[str, Tile]:
    """The tiles of a kernel; what has none is not named."""
    return dict(_tiles_of(kernel, np.dtype(dtype).itemsize, V, K, Q))


@cache
def _tiles_of(kernel: str, itemsize: int, V: int, K: int, Q: int) -> tuple[tuple[str, Tile], ...]:
    n = V * K
    counts = {"coefficients": Q * n, "rhs": Q, "weights.equation": Q, "step_sizes": 1}
    counts |= dict.fromkeys((*STATES, "totals", "x"), n)
    lines = {name: counts[name] * itemsize for name in STAGED[kernel]}
    if n > LARGEST or lines.get("coefficients", 0) > LONGEST_RUN:
        return ()  # (without its coefficients, most of what a kernel reads would not be staged)
    points = {
        name: 1 << max(RUN // line, 1).bit_length() - 1 if line <= LONGEST_RUN else 0 for name, line in lines.items()
    }
    while True:
        runs = {name: points[name] * lines[name] for name in points if points[name]}
        tiles = {name: Tile(points[name], _pitch(run // itemsize, itemsize)) for name, run in runs.items()}
        # (`WarpMemory`: what threads know of each other's lanes, and tiles, with where their lanes lie)
        sizes = [(runs[name] * tiles[name].pitch + WARP * 8 + 8) * (1 + (name == "totals")) for name in runs]
        if WARPS * (WARP * 16 + 16 + sum(sizes)) <= SHARED:
            return tuple(tiles.items())
        points[max(runs, key=lambda name: runs[name])] //= 2


def _pitch(count: int, itemsize: int) -> int:
    """Such that threads that copy `count` numbers of each of a few lanes seldom meet in a bank.

    Number e of lane l lies in bank e pitch + l, and pitch - WARP lanes are moved at a time.
    """
    return WARP + max(BANKS // itemsize // count, 1)


def far_apart(x: Place, core: Shape, batch_strides: Sequence[int], chunked: bool) -> bool:
    """True if each lane of an array lies in one line, and neighbouring lanes neither side by side nor in one place.

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


def staged(job: np.ndarray, tiles: dict[str, Tile], lines: dict[int, Shape]) -> np.ndarray:
    """The job, with what is staged as it lies in tiles.

    Args:
        tiles: of the kernel.
        lines: the fields that are `far_apart`, with what they have at a point.
    """
    if not tiles:
        return job
    job = job.copy()
    fields, gradients = job["in"][0], job["gradient"][0]
    for f, inner in lines.items():
        tile = tiles.get(FIELDS[f], tiles.get(OTHERS.get(FIELDS[f], "")))
        if tile is not None:
            strides = [tile.pitch]
            for size in reversed(inner):
                strides.insert(0, strides[0] * size)
            to = fields[f]
            to["staged"], to["time"], to["inner"][3 - len(inner) :] = -1, strides[0], strides[1:]
    for f in range(N_GRADIENTS):
        if FIELDS[f] in tiles and gradients[f]["data"] and not gradients[f]["over_time"]:
            gradients[f]["staged"] = -1
    for name in ("x", "total"):
        if name in tiles and job[name]["data"]:
            job[name]["staged"] = -1
    return job
