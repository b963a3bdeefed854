"""`python tools/gpu_check.py FOLDER`: everything there is to check on a machine with an NVIDIA GPU, in one go.

Runs the tests on devices, compute-sanitizer on a small problem, and the benchmarks against the published algorithm in
PyTorch under CUDA graphs; writes report.md and results.json to FOLDER. Nothing is installed: Python finds the project
through PYTHONPATH, and what is not there (PyTorch, JAX, compute-sanitizer) is left out and said so.
"""

from __future__ import annotations

import argparse
import importlib
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

from gpu_report import Results, Row, report, write

ROOT = Path(__file__).resolve().parents[1]
LIBRARIES = ("numpy", "cupy", "torch", "jax")
DTYPES = ("float64", "float32")
PUBLISHED_LIMIT = 20_000
"""Points in time up to which the published algorithm is run: it takes several launches for each."""
TESTS = {
    "CuPy": ["tests/core", "-k", "cupy"],
    "CUDA engine": ["tests/cuda"],
    "PyTorch": ["tests/torch"],
    "JAX": ["tests/jax"],
}
AGREEMENT = 1e-9
"""Relative difference of well-conditioned problems in float64: eps times condition numbers up to 10^6."""
ON_DEVICE = {"cupy": "cuda", "torch": "cuda", "jax": "gpu"}
"""Libraries, and what each calls the device."""


class Clock:
    """The time that is left."""

    def __init__(self, minutes: float) -> None:
        self._end = time.monotonic() + 60 * minutes

    @property
    def left(self) -> float:
        return self._end - time.monotonic()


# Tests ----------------------------------------------------------------------------------------------------------------


def environment() -> dict[str, str]:
    """For processes that must find the project, and fail where they find no device."""
    paths = [str(ROOT), str(ROOT / "adapters"), os.environ.get("PYTHONPATH", "")]
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "SMNN_REQUIRE_CUPY": "1"}


def commands() -> dict[str, list[str]]:
    """What is run before the benchmarks."""
    pytest = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-o", "addopts=--import-mode=importlib"]
    result = {f"tests, {name}": [*pytest, *arguments] for name, arguments in TESTS.items()}
    this = [sys.executable, str(ROOT / "tools" / "gpu_check.py")]
    for library in ON_DEVICE:
        result[f"{library} on the device against NumPy"] = [*this, "--compare", library]
    small = [*this, "--small"]
    for tool in ("memcheck", "initcheck", "racecheck"):
        result[f"compute-sanitizer, {tool}"] = ["compute-sanitizer", "--tool", tool, "--error-exitcode", "1", *small]
    return result


def run_command(name: str, command: list[str], seconds: float) -> Row:
    """One row of `Results.tests`: the last line that the command printed."""
    if shutil.which(command[0]) is None:
        return {"name": name, "passed": None, "detail": f"{command[0]} is not installed"}
    try:
        done = subprocess.run(
            command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=max(seconds, 1), check=False
        )
    except subprocess.TimeoutExpired:
        return {"name": name, "passed": False, "detail": f"not done after {seconds:.0f} s"}
    lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    return {"name": name, "passed": done.returncode == 0, "detail": lines[-1] if lines else f"exit {done.returncode}"}


def compare(library: str, device: str) -> float:
    """The largest difference of y and of all gradients from those of NumPy arrays, relative to the largest entry."""
    import numpy as np

    import smnn_core as smnn

    worst = 0.0
    for batch, T, V in (((5,), 40, 1), ((), 20_000, 1), ((2, 3), 300, 2)):
        rng = np.random.default_rng(T)
        c = rng.uniform(-0.3, 0.3, (*batch, T, V, V, 3))
        c[..., range(V), range(V), 0] += 1.5
        shapes = (*batch, T, V), (*batch, 1, V, 2)
        arrays = [c, *(rng.uniform(-1, 1, shape) for shape in shapes), rng.uniform(0.2, 0.5, (*batch, T - 1))]
        y, vjp = smnn.solve_ode_vjp(*arrays)
        g = rng.uniform(-1, 1, y.shape)
        gradients = vjp(g)
        found = solve_with(library, device, arrays, g)
        for actual, expected in zip(found, (y, *gradients[:4]), strict=True):
            worst = max(worst, float(np.abs(actual - expected).max() / np.abs(expected).max()))
    return worst


def solve_with(library: str, device: str, arrays: list[Any], g: Any) -> list[Any]:
    """y and the gradients of coefficients, rhs, initial values and steps, as NumPy arrays."""
    if library == "cupy":
        import cupy

        import smnn_core as smnn

        y, vjp = smnn.solve_ode_vjp(*map(cupy.asarray, arrays), engine="cuda")
        return [cupy.asnumpy(x) for x in (y, *vjp(cupy.asarray(g))[:4])]
    if library == "torch":
        import torch

        import smnn_torch

        leaves = [torch.tensor(x, device=device, requires_grad=True) for x in arrays]
        y = smnn_torch.solve_ode(*leaves)
        gradients = torch.autograd.grad(y, leaves, torch.tensor(g, device=device))
        return [x.detach().cpu().numpy() for x in (y, *gradients)]
    import jax
    import numpy as np

    import smnn_jax

    jax.config.update("jax_enable_x64", True)
    place = jax.devices(device)[0]
    y, vjp = jax.vjp(smnn_jax.solve_ode, *(jax.device_put(x, place) for x in arrays))
    return [np.asarray(x) for x in (y, *vjp(jax.device_put(g, place)))]


def small_problem() -> None:
    """Every kernel once, divided and undivided, for compute-sanitizer."""
    import cupy

    import smnn_core as smnn

    for batch, T in (((7,), 40), ((), 20_000)):
        c = cupy.full((*batch, T, 1, 1, 3), 0.3)
        b, u, s = cupy.ones((*batch, T, 1)), cupy.ones((*batch, 1, 1, 2)), cupy.full((*batch, T - 1), 0.1)
        y, vjp = smnn.solve_ode_vjp(c, b, u, s, engine="cuda")
        assert bool(cupy.isfinite(vjp(cupy.ones_like(y)).coefficients).all())


# Benchmarks -----------------------------------------------------------------------------------------------------------


COALESCED = "wide, batch last"
"""The case whose inputs threads read side by side where they lie."""
UNSTAGED = ", unstaged"
"""What the names of cases end with that do without staging through shared memory, to say what it gains."""


def cases() -> tuple[Any, ...]:
    """Those of the CPU, one that fills any device, in two layouts, and one that only its length can."""
    from benchmarks.cases import CASES, Case

    own = [case for case in CASES if not case.shared]
    wide, longest = Case("wide", 10**6, 50, 1, 3, 1, target=20), Case("longest", 1, 10**6, 1, 3, 1, target=20)
    unstaged = [replace(case, name=case.name + UNSTAGED) for case in (wide, longest)]
    return (*own, wide, unstaged[0], replace(wide, name=COALESCED), longest, unstaged[1])


@contextmanager
def unstaged() -> Iterator[None]:
    """The CUDA engine reads and writes every array where it lies."""
    from smnn_core.engines import cuda

    staged = cuda._device
    cuda._device = lambda index: replace(staged(index), stage=False)
    try:
        yield
    finally:
        cuda._device = staged


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


def traffic(inputs: int, y: int, factor: int, z: int) -> int:
    """Bytes that forward + backward move at the least, from those of its arrays.

    Forward reads the inputs, writes the factor and z, reads both and writes y. Backward reads g and the factor and
    writes w; reads both, y and the inputs, and writes a gradient for each input.
    """
    return (inputs + 2 * (factor + z) + y) + (2 * y + 2 * (factor + z) + 2 * inputs)


def batch_last(x: Any) -> Any:
    """The same array with its first axis last in memory, where threads side by side read numbers side by side."""
    return x.transpose(*range(1, x.ndim), 0).copy().transpose(-1, *range(x.ndim - 1))


def measure_ours(case: Any, dtype: str, clock: Clock) -> Row:
    """Forward + backward of the CUDA engine, launch by launch and as a CUDA graph."""
    import cupy

    import smnn_core as smnn

    arrays = [cupy.asarray(x.numpy()) for x in case.inputs(dtype)]
    g = cupy.asarray(case.cotangent(dtype).numpy())
    if case.name == COALESCED:
        *arrays, g = map(batch_last, (*arrays, g))
    # weights that are numbers would be copied to the device by every call
    weights = smnn.Weights(*(cupy.ones((), dtype) for _ in range(3)))
    kept: list[Any] = []

    def run() -> None:
        y, vjp = smnn.solve_ode_vjp(*arrays, weights=weights, engine="cuda")
        kept[:] = [y, vjp, vjp(g)]

    stream = cupy.cuda.Stream(non_blocking=True)
    with stream, unstaged() if case.name.endswith(UNSTAGED) else nullcontext():
        row: Row = {"seconds": seconds_of(run, stream.synchronize, clock), "graph_seconds": None, "note": ""}
        factor = smnn.engines.cuda.factorize(smnn._problem.Problem.build(*arrays).system)
        inputs = sum(x.nbytes for x in arrays)
        row["bytes"] = traffic(inputs, g.nbytes, factor.nbytes, g.nbytes)
        try:
            stream.begin_capture()
            try:
                run()
            finally:
                graph = stream.end_capture()
            row["graph_seconds"] = seconds_of(lambda: graph.launch(stream), stream.synchronize, clock)
        except Exception as error:
            row["note"] = f"no graph: {error}"
    return row


def measure_published(case: Any, dtype: str, clock: Clock) -> tuple[float | None, str]:
    """Forward + backward of `smnn_cholesky` on CUDA tensors, as a CUDA graph; seconds, and a note."""
    if case.name == COALESCED or case.name.endswith(UNSTAGED):
        return None, "published algorithm: as above"
    if case.T > PUBLISHED_LIMIT:
        return None, f"published algorithm not run: {case.T} sequential steps"
    import torch

    from smnn_core.baselines import smnn_cholesky

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
    """What the last case took, of both libraries."""
    sys.modules["cupy"].get_default_memory_pool().free_all_blocks()
    if "torch" in sys.modules:
        sys.modules["torch"].cuda.empty_cache()


def benchmark(results: Results, clock: Clock) -> None:
    """All cases in both precisions, while there is time."""
    for dtype in DTYPES:
        results.copy_bandwidth[dtype] = copy_bandwidth(dtype, clock)
    for case in cases():
        for dtype in DTYPES:
            row: Row = {"case": case.name, "dtype": dtype, "published_seconds": None}
            if clock.left < 20:
                row |= {"seconds": None, "graph_seconds": None, "bytes": None, "note": "no time left"}
            else:
                row |= measure_ours(case, dtype, clock)
                free_memory()
                row["published_seconds"], note = measure_published(case, dtype, clock)
                row["note"] = "; ".join(filter(None, [row["note"], note]))
                free_memory()
            results.benchmarks.append(row)


def machine() -> dict[str, str]:
    """Card, driver and versions."""
    result = {"python": platform.python_version(), "platform": platform.platform()}
    query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    if shutil.which(query[0]):
        result["card, driver, memory"] = subprocess.run(
            query, capture_output=True, text=True, check=False
        ).stdout.strip()
    for name in LIBRARIES:
        try:
            result[name] = importlib.import_module(name).__version__
        except ImportError:
            result[name] = "not installed"
    return result


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Checks this project on a GPU; see the top of this file.")
    parser.add_argument("folder", type=Path, nargs="?", help="where report.md and results.json go")
    parser.add_argument("--minutes", type=float, default=8.0, help="time for everything (default: 8)")
    parser.add_argument("--dry-run", action="store_true", help="print what would be run")
    parser.add_argument("--compare", choices=sorted(ON_DEVICE), help="solve with this library and with NumPy")
    parser.add_argument("--small", action="store_true", help="solve a small problem, for compute-sanitizer")
    given = parser.parse_args(arguments)
    sys.path[:0] = [str(ROOT), str(ROOT / "adapters")]
    if given.compare:
        difference = compare(given.compare, ON_DEVICE[given.compare])
        print(f"largest relative difference {difference:.1e}")
        return int(not difference < AGREEMENT)
    if given.small:
        small_problem()
        return 0
    if given.dry_run:
        for name, command in commands().items():
            print(f"{name}: {' '.join(command)}")
        print(f"benchmarks: {', '.join(case.name for case in cases())} in {' and '.join(DTYPES)}")
        return 0
    if given.folder is None:
        parser.error("a folder for the report is needed")
    clock, results = Clock(given.minutes), Results(machine=machine())
    for name, command in commands().items():
        # half of the time belongs to the benchmarks
        results.tests.append(run_command(name, command, clock.left - 30 * given.minutes))
        write(results, given.folder)
    try:
        benchmark(results, clock)
    except Exception as error:  # (what was found until then is worth reporting)
        results.tests.append({"name": "benchmarks", "passed": False, "detail": f"{type(error).__name__}: {error}"})
    write(results, given.folder)
    print(report(results))
    return int(any(row["passed"] is False for row in results.tests))


if __name__ == "__main__":
    sys.exit(main())
