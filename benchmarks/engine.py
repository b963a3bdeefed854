"""`python -m benchmarks.engine`: time of a point against its unknowns, and three ratios that are to stay small.

- Blocks of n = 3 to 300 unknowns per time point, see `blocks`; `--blocks` prints these alone, `--save` saves them.
- Many right-hand sides of one left-hand side against one: they are eliminated together.
- float32 against float64, forward and backward: float32 is a type of storage.
- Beside as many busy programs as there are cores against idle cores: half of each core should take twice as long.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path

import numpy as np

import smnn_core as smnn

from . import blocks, store, tables
from .timing import measure

RESULTS = Path(__file__).parent / "results" / "blocks.json"

MANY = 31
CASES = {
    "lorenz": (1536, 50, 1, 3, 1),
    "system": (64, 1000, 3, 3, 3),
    "long": (1, 10_000, 1, 3, 1),
    "another size": (256, 300, 2, 4, 2),
}
"""batch, T, V, K, Q; as in `benchmarks.cases`"""


def arguments(batch: tuple[int, ...], T: int, V: int, K: int, Q: int, dtype: str = "float64") -> list[np.ndarray]:
    """Equations of order K - 1 with initial values, on nearly uniform times."""
    rng = np.random.default_rng(0)
    c = rng.uniform(-0.3, 0.3, (*batch, T, Q, V, K))
    for v in range(V):
        c[..., v, v, K - 1] = 1
    shapes = (*batch, T, Q), (*batch, 1, V, K - 1)
    arrays = [c, *(rng.normal(size=shape) for shape in shapes), rng.uniform(0.01, 0.02, (*batch, T - 1))]
    return [x.astype(dtype) for x in arrays]


def right_hand_sides(T: int = 10_000, V: int = 3, K: int = 3) -> dict[int, float]:
    """Seconds for 1, 4 and `MANY` right-hand sides."""
    c, b, u, s = arguments((), T, V, K, V)
    noise = np.random.default_rng(1).normal(size=(MANY, 1, 1))
    timings = measure({str(m): lambda m=m: smnn.solve_ode(c, b + noise[:m], u, s) for m in (1, 4, MANY)})
    return {int(m): timing.seconds for m, timing in timings.items()}


def forward_and_backward(sizes: tuple[int, ...], dtype: str) -> float:
    """Seconds."""
    batch, *core = sizes
    inputs = arguments((batch,), *core, dtype=dtype)
    g = np.ones((batch, *core[:3]), dtype)
    return measure({dtype: lambda: smnn.solve_ode_vjp(*inputs)[1](g)})[dtype].seconds


def _spin() -> None:
    while True:
        pass


@contextmanager
def busy_cores() -> Iterator[None]:
    """As many programs that never wait as there are cores."""
    programs = [get_context("spawn").Process(target=_spin, daemon=True) for _ in range(os.cpu_count() or 1)]
    for program in programs:
        program.start()
    try:
        yield
    finally:
        for program in programs:
            program.kill()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", action="store_true", help="time against n alone")
    parser.add_argument("--save", action="store_true", help=f"save time against n in {RESULTS.name}")
    chosen = parser.parse_args()
    with store.measuring(chosen.save):
        of_blocks = blocks.table()
    print(of_blocks.text())
    if chosen.save:
        tables.save(RESULTS, [of_blocks])
    if not chosen.blocks:
        ratios()


def ratios() -> None:
    seconds = right_hand_sides()
    print("right-hand sides of one left-hand side, V = 3, K = 3, T = 10,000")
    for m, t in seconds.items():
        print(f"  {m:3}: {1e3 * t:8.2f} ms   {t / seconds[1]:6.2f} times one")
    print("float32, forward and backward, times float64")
    for name, sizes in CASES.items():
        double, single = (forward_and_backward(sizes, dtype) for dtype in ("float64", "float32"))
        print(f"  {name:14} {1e3 * double:8.2f} ms   {single / double:6.2f}")
    print("beside a busy program for each core, forward and backward, times the same on idle cores")
    idle = {name: forward_and_backward(sizes, "float64") for name, sizes in CASES.items()}
    with busy_cores():
        for name, sizes in CASES.items():
            seconds_beside = forward_and_backward(sizes, "float64")
            print(f"  {name:14} {1e3 * seconds_beside:8.2f} ms   {seconds_beside / idle[name]:6.2f}")


if __name__ == "__main__":
    main()
