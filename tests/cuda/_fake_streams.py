"""The streams of the CuPy of `_fake_cupy`: a record of what they do, and what is captured of it."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable
from typing import Any


class Record:
    """Events in their order: (what, the address of the stream)."""

    def __init__(self) -> None:
        self.events: list[tuple[str, int]] = []

    def add(self, what: str, again: Callable[[], None] | None = None) -> None:
        """Something that a stream does; `again` does it in replays of a graph that is being captured."""
        self.events.append((what, current().ptr))
        graph = current().graph
        if graph is not None and again is not None:
            graph.work.append(again)

    def host(self, what: str) -> None:
        """Something that the host waits for."""
        self.add(what)
        if any(stream.graph is not None for stream in STREAMS.values()):
            raise RuntimeError(f"cudaErrorStreamCaptureUnsupported: {what}")
        pending.finish()

    def streams(self, *kinds: str) -> set[int]:
        return {stream for what, stream in self.events if not kinds or what.split(" ")[0] in kinds}

    def count(self, kind: str) -> int:
        return sum(what.split(" ")[0] == kind for what, _ in self.events)


record = Record()


class Pending:
    """Kernels that were launched and have not run: a device is behind, and says what went wrong when it is waited for.

    What they are to write holds NaN until then. CuPy's own functions run at once, after all that is pending; so does
    what is pending at the end of a `with stream`, as other libraries read what was done there.
    """

    def __init__(self) -> None:
        self.work: list[Callable[[], None]] = []
        self.memory: list[Any] = []
        """what was there when they were launched, which may be given back before they run: a pool keeps it"""
        self.lock = threading.RLock()

    def add(self, run: Callable[[], None]) -> None:
        with self.lock:
            self.work.append(run)

    def finish(self) -> None:
        """Runs them, in order."""
        with self.lock:
            work, self.work = self.work, []
            memory, self.memory = self.memory, []
            for run in work:
                run()
            del memory


pending = Pending()


class Graph:
    """A captured graph. It keeps the memory that was allocated meanwhile, as PyTorch does."""

    def __init__(self) -> None:
        self.work: list[Callable[[], None]] = []
        self.memory: list[Any] = []

    def launch(self, stream: Stream | None = None) -> None:
        pending.finish()
        for again in self.work:
            again()


class Stream:
    """`cupy.cuda.Stream`."""

    def __init__(self, ptr: int | None = None, *, non_blocking: bool = False) -> None:
        del non_blocking
        self.ptr = 1000 + len(STREAMS) if ptr is None else ptr
        self.graph: Graph | None = None
        STREAMS.setdefault(self.ptr, self)

    def __enter__(self) -> Stream:
        thread.streams.append(STREAMS[self.ptr])
        return self

    def __exit__(self, *error: object) -> None:
        thread.streams.pop()
        pending.finish()

    def is_capturing(self) -> bool:
        return STREAMS[self.ptr].graph is not None

    def synchronize(self) -> None:
        record.host("synchronize")

    def begin_capture(self) -> None:
        STREAMS[self.ptr].graph = Graph()

    def end_capture(self) -> Graph:
        stream = STREAMS[self.ptr]
        graph, stream.graph = stream.graph, None
        assert graph is not None
        return graph


STREAMS: dict[int, Stream] = {}
NULL = Stream(0)


class Thread(threading.local):
    """Of each thread its own: the streams and the allocators that it has entered."""

    def __init__(self) -> None:
        self.streams = [NULL]
        self.allocators: list[Callable[[int], Any]] = []


thread = Thread()


def current() -> Stream:
    return thread.streams[-1]


def from_external(stream: Any) -> Stream:
    version, pointer = stream.__cuda_stream__()
    assert version == 0
    return Stream(pointer)


def external_stream(pointer: int, device: int = -1) -> Stream:
    del device
    warnings.warn("ExternalStream is deprecated. Use Stream.from_external() instead", DeprecationWarning, stacklevel=2)
    return Stream(pointer)
