"""How finely time is divided, by a count of the steps that follow each other."""

from __future__ import annotations

from dataclasses import dataclass

from .layout import MAX_LEVELS


@dataclass(frozen=True)
class Grain:
    """How finely time is divided."""

    lanes: int
    """as many as fill the device, where a thread sweeps each"""
    shortest: int = 16
    """points of a chunk, at the least"""
    fewest: int = 2
    """chunks, at the least"""
    radix: int = 4
    """separators of a chunk, where there are not too many"""
    width: int = 32
    """chunks of separators, at most: the threads of a warp, which sweeps those of a system, or as many teams"""
    last: int = 4
    """separators that one lane sweeps at the end, at most"""
    point: float = 2.0
    """steps that a point of a chunk takes, counted in arithmetic, where one of an undivided system takes one"""
    separator: float = 4.0
    """the same, of a separator"""
    gain: float = 0.6
    """Time is divided where that leaves at most this share of the steps one after the other. It also moves up to twice
    as much memory, and takes one launch more; all three numbers are estimates that no device has confirmed."""

    def divide(self, batch: int, T: int, team: int = 1) -> tuple[int, ...]:
        """T, the number of chunks of points, of chunks of separators, ...; T alone where dividing does not pay.

        Args:
            team: threads that sweep a lane.
        """
        chunks = min(T // self.shortest, self.lanes // team // batch) if batch else 0
        if chunks < self.fewest:
            return (T,)
        sizes = [T, chunks]
        while sizes[-1] > self.last and len(sizes) < MAX_LEVELS:
            sizes.append(min(-(-sizes[-1] // self.radix), self.width))
        separators = sum(-(-a // b) for a, b in zip(sizes[1:], [*sizes[2:], 1], strict=True))
        steps = self.point * -(-T // chunks) + self.separator * separators
        return tuple(sizes) if steps <= self.gain * T else (T,)
