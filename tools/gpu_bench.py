"""The benchmarks of gpu_check.py: forward + backward against the published algorithm and against copying."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from statistics import median
from typing import Any

from gpu_report import Results, Row

DTYPES = ("float64", "float32")
PUBLISHED_LIMIT = 20_000
"""Points in time up to which the published algorithm is run: it takes several launches for each."""
COALESCED = "wide, batch last"
"""The case whose inputs threads read side by side where they lie."""


POSTERIORS = (10_000, 1000, 1, 3), (1000, 1000, 3, 3), (1, 2000, 1, 3), (1, 100_000, 1, 3)
"""Systems, points, variables and orders of those whose variances are timed."""


FIRST_LAUNCH = 60
"""Seconds that the first launch of a size may take: 20 to 50 s of NVRTC, and the driver sets aside local memory for
every thread that the device can hold, gigabytes for nine unknowns."""


CHUNKS = 8, 16, 32
"""Points of a chunk, at least, for one system of 10,000: which is best is an estimate so far."""


class Clock:
    """The time that is left."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    @property
    def left(self) -> float:
        return self._end - time.monotonic()


def cases() -> tuple[Any, ...]:
    """Cases of the CPU, one that fills any device, in two layouts, and one that only its length can."""
    from benchmarks.cases import CASES, Case

    own = [case for case in CASES if not case.shared]
    wide, longest = Case("wide", 10**6, 50, 1, 3, 1), Case("longest", 1, 10**6, 1, 3, 1)
    return (*own, wide, replace(wide, name=COALESCED), longest)


@contextmanager
def changed(**changes: Any) -> Iterator[None]:
    """The CUDA engine with other fields of its device."""
    from smnn_core.engines import cuda

    before = cuda._device
    cuda._device = cache(lambda index: replace(before(index), **changes))
    try:
        yield
    finally:
        cuda._device = before


def seconds_of(run: Callable[[], Any], synchronize: Callable[[], Any], clock: Clock) -> float:
    """Median over runs that take half a second in all, at least three."""
    run()
    synchronize()
    times: list[float] = []
    while len(times) < 3 or (sum(times) < 0.5 and len(times) < 200):
        start = time.perf_counter()
        run()
        synchronize()
        times.append(time.perf_counter() - start)
        if clock.left < 0:
            break
    return median(times)


def traffic(inputs: int, states: int, factor: int, tape: int, products: int) -> int:
    """Bytes that kernels of forward + backward move at the least, from those of its arrays.

    A solve reads the inputs, writes the factor and z, reads both and writes y. Its adjoint reads the inputs and writes
    factor, z and tape; reads g and the factor, writes w in the place of z. On the way back it reads inputs, g, factor,
    w and tape, writes λ, multipliers and what they leave of g, reads this and the factor, writes w; then it reads
    factor, w and tape again, y, λ and multipliers, and writes a gradient for each input.

    Args:
        states: y, as g, z, w and λ are.
        products: multipliers of the rows, one set.
    """
    solve = inputs + 2 * (factor + states) + states
    first = (inputs + factor + states + tape) + (states + factor + states)
    unwind = (inputs + states + factor + states + tape) + (2 * states + products) + (states + factor + states)
    return solve + first + unwind + (factor + states + tape + 2 * states + products + inputs)


def batch_last(x: Any) -> Any:
    """The same array with its first axis last in memory, where threads side by side read numbers side by side."""
    return x.transpose(*range(1, x.ndim), 0).copy().transpose(-1, *range(x.ndim - 1))


def measure_ours(case: Any, dtype: str, clock: Clock) -> Row:
    """Forward + backward of the CUDA engine, launch by launch and as a CUDA graph."""
    import cupy

    import smnn_core as smnn
    from smnn_core.engines._cuda import host

    arrays = [cupy.asarray(x.numpy()) for x in case.inputs(dtype)]
    g = cupy.asarray(case.cotangent(dtype).numpy())
    if case.name == COALESCED:
        *arrays, g = map(batch_last, (*arrays, g))
    kept: list[Any] = []

    def run() -> None:
        y, vjp = smnn.solve_ode_vjp(*arrays, engine="cuda")
        kept[:] = [y, vjp, vjp(g)]

    stream = cupy.cuda.Stream(non_blocking=True)
    with stream:
        row: Row = {"seconds": seconds_of(run, stream.synchronize, clock), "graph_seconds": None, "note": ""}
        factor = smnn.engines.cuda.CudaEngine().factorize(smnn._problem.Problem.build(*arrays).system)
        inputs = sum(x.nbytes for x in arrays)
        Q, V, K = arrays[0].shape[-3:]
        module = host.Signature.of(factor.system).module(chunked=False)
        of_factor, of_tape = host.numbers_of_point(module)  # (in chunks both have some more)
        memory = sum(x.nbytes for x in factor.kept[:-1])
        tape, products = memory * of_tape // of_factor, g.nbytes * (Q + V * K) // (V * K)
        row["bytes"] = traffic(inputs, g.nbytes, memory, tape, products)
        row["io_bytes"] = 2 * (inputs + g.nbytes)  # read and written once: inputs and gradients, g and y
        pool = cupy.cuda.MemoryPool()  # of the graph: nobody else may use again what it works in
        try:
            with cupy.cuda.using_allocator(pool.malloc):
                stream.begin_capture()
                try:
                    run()
                finally:
                    graph = stream.end_capture()
            row["graph_seconds"] = seconds_of(lambda: graph.launch(stream), stream.synchronize, clock)
        except Exception as error:
            row["note"] = f"no graph: {error}"
    return row


def measure_posterior(batch: int, T: int, V: int, K: int, clock: Clock) -> Row:
    """Solution and variances, in float64, and how many times longer they take than the solution alone."""
    import cupy
    from gpu_device import problem

    import smnn_core as smnn

    arrays = [cupy.asarray(x) for x in problem((batch,), T, V, K)[:4]]
    wait = cupy.cuda.Stream.null.synchronize
    alone = seconds_of(lambda: smnn.solve_ode(*arrays, scheme=smnn.WIENER), wait, clock)
    start = time.perf_counter()
    kept = smnn.posterior(*arrays).variance
    wait()
    first = time.perf_counter() - start
    del kept
    both = seconds_of(lambda: smnn.posterior(*arrays).variance, wait, clock)
    case = f"{batch:,} x {T:,}, n = {V * K}"
    return {"case": case, "seconds": both, "solve_seconds": alone, "first_seconds": first}


def measure_chunk(shortest: int, clock: Clock, T: int = 10_000) -> Row:
    """Solution and gradients of one system of T points, in chunks of at least so many."""
    from benchmarks.cases import Case
    from smnn_core.engines import cuda

    grain = replace(cuda._device(0).grain, shortest=shortest)
    with changed(grain=grain):
        row = measure_ours(Case("divided", 1, T, 1, 3, 1), "float64", clock)
    return {"points": shortest, "seconds": row["seconds"], "graph_seconds": row["graph_seconds"]}


def measure_published(case: Any, dtype: str, clock: Clock) -> tuple[float | None, str]:
    """Forward + backward of `smnn_cholesky` on CUDA tensors, as a CUDA graph; seconds, and a note."""
    if case.name == COALESCED:
        return None, "published algorithm: as above"
    if case.T > PUBLISHED_LIMIT:
        return None, f"published algorithm not run: {case.T} sequential steps"
    import torch

    from benchmarks.baselines import smnn_cholesky

    leaves = [x.cuda().requires_grad_() for x in case.inputs(dtype)]
    g = case.cotangent(dtype).cuda()

    def run() -> Any:
        return torch.autograd.grad(smnn_cholesky(*leaves), leaves, g)

    try:
        side = torch.cuda.Stream()
        with torch.cuda.stream(side):
            run()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            kept = run()
        seconds = seconds_of(graph.replay, torch.cuda.synchronize, clock)
        del kept
        return seconds, ""
    except (RuntimeError, NotImplementedError) as error:
        first = str(error).splitlines()[0]
        torch.cuda.empty_cache()
        try:
            return seconds_of(run, torch.cuda.synchronize, clock), f"published algorithm without a graph: {first}"
        except RuntimeError as again:
            return None, f"published algorithm failed: {str(again).splitlines()[0]}"


def copy_bandwidth(dtype: str, clock: Clock) -> float:
    """Bytes per second, read and written, of copying a gigabyte."""
    import cupy

    x = cupy.zeros(10**9 // cupy.dtype(dtype).itemsize, dtype)
    y = cupy.empty_like(x)
    return 2 * x.nbytes / seconds_of(lambda: cupy.copyto(y, x), cupy.cuda.Stream.null.synchronize, clock)


def free_memory() -> None:
    """Peak memory of the last case, of both libraries."""
    sys.modules["cupy"].get_default_memory_pool().free_all_blocks()
    if "torch" in sys.modules:
        sys.modules["torch"].cuda.empty_cache()


def benchmark(results: Results, clock: Clock, save: Callable[[], None]) -> None:
    """All cases in both precisions, while there is time."""
    for dtype in DTYPES:
        results.copy_bandwidth[dtype] = copy_bandwidth(dtype, clock)
    for case in cases():
        for dtype in DTYPES:
            row: Row = {"case": case.name, "dtype": dtype, "published_seconds": None}
            if clock.left < 20 + FIRST_LAUNCH:
                row |= {"seconds": None, "graph_seconds": None, "bytes": None, "io_bytes": None, "note": "no time left"}
            else:
                row |= measure_ours(case, dtype, clock)
                free_memory()
                row["published_seconds"], note = measure_published(case, dtype, clock)
                row["note"] = "; ".join(filter(None, [row["note"], note]))
                free_memory()
            results.benchmarks.append(row)
            save()
    for sizes in POSTERIORS:
        if clock.left > FIRST_LAUNCH / 2:
            results.posteriors.append(measure_posterior(*sizes, clock))
            free_memory()
            save()
    for shortest in CHUNKS:
        if clock.left > 5:
            results.chunks.append(measure_chunk(shortest, clock))
            save()
