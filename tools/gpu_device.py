"""`python tools/gpu_device.py CHECK`: one check on a device, in a process of its own (see gpu_check.py).

Each prints what it found in its last line, and fails with the exit status.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
AGREEMENT = 1e-9
"""Relative difference of well-conditioned problems in float64: eps times condition numbers up to 10^6."""
ON_DEVICE = {"cupy": "cuda", "torch": "cuda", "jax": "gpu"}
"""Libraries, and what each calls the device."""
SIZES = (
    # batch, T, V, K
    ((5,), 40, 1, 3),
    ((), 20_000, 1, 3),  # divided time
    ((2, 3), 300, 2, 3),  # teams
    ((3,), 600, 3, 3),
)


def problem(batch: tuple[int, ...], T: int, V: int, K: int, dtype: str = "float64", seed: int = 0) -> list[Any]:
    """Coefficients, right-hand side, initial values, steps and a cotangent, well-conditioned, as NumPy arrays."""
    import numpy as np

    rng = np.random.default_rng(seed + T)
    c = rng.uniform(-0.3, 0.3, (*batch, T, V, V, K))
    c[..., range(V), range(V), 0] += 1.5
    shapes = (*batch, T, V), (*batch, 1, V, K - 1)
    arrays = [c, *(rng.uniform(-1, 1, shape) for shape in shapes), rng.uniform(0.2, 0.5, (*batch, T - 1))]
    return [x.astype(dtype) for x in (*arrays, rng.uniform(-1, 1, (*batch, T, V, K)))]


def compare(library: str, device: str) -> float:
    """The largest difference of y and of all gradients from those of NumPy arrays, relative to the largest entry."""
    import numpy as np

    import smnn_core as smnn

    worst = 0.0
    for size in SIZES:
        *arrays, g = problem(*size)
        y, vjp = smnn.solve_ode_vjp(*arrays)
        found = solve_with(library, device, arrays, g)
        for actual, expected in zip(found, (y, *vjp(g)[:4]), strict=True):
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


def moments(arrays: list[Any]) -> list[Any]:
    """Variances, covariances, log det M and the minimum, with the gradients of both."""
    import smnn_core as smnn
    from smnn_core._problem import ALL, Problem, by_field
    from smnn_core.engines import select

    p = smnn.posterior(*arrays)
    problem = Problem.build(*arrays, scheme=smnn.WIENER)
    found = select("auto", problem.system).factorize(problem.system).statistics(problem.rows, ALL)
    gradients = *by_field(found.of_determinant), *by_field(found.of_minimum)
    of_system = p.variance, p.covariance, p.lag_covariance, found.log_determinant, found.minimum
    return [*of_system, *(x for x in gradients if x is not None)]


def posterior() -> str:
    """Moments on the device against those of NumPy arrays."""
    import cupy
    import numpy as np

    worst = 0.0
    for size in SIZES:
        arrays = problem(*size)[:4]
        found = [cupy.asnumpy(x) for x in moments([cupy.asarray(x) for x in arrays])]
        for actual, expected in zip(found, moments(arrays), strict=True):
            worst = max(worst, float(np.abs(actual - expected).max() / np.abs(expected).max()))
    assert worst < AGREEMENT, f"relative difference {worst:.1e}"
    return f"largest relative difference {worst:.1e}"


def on_cupy(arrays: list[Any], g: Any) -> list[Any]:
    """y and all gradients."""
    import smnn_core as smnn

    y, vjp = smnn.solve_ode_vjp(*arrays, engine="cuda")
    gradients = vjp(g)
    return [y, *gradients[:4], *vars(gradients.weights).values()]


def small() -> str:
    """Every kind of kernel once, for compute-sanitizer: with each array in memory of its own, as it sees nothing that
    goes wrong inside of a pool."""
    import cupy

    cupy.cuda.set_allocator(None)
    sizes = [(size, dtype) for size in SIZES for dtype in ("float64", "float32")]
    for size, dtype in sizes:
        *arrays, g = map(cupy.asarray, problem(*size, dtype))
        found = [*on_cupy(arrays, g), *moments(arrays)]
        assert all(bool(cupy.isfinite(x).all()) for x in found), f"{size} in {dtype} is not finite"
    return f"{len(sizes)} problems, each in memory of its own"


def capture() -> str:
    """A captured solve and its gradients, replayed with other inputs, against plain solves: equal to the bit."""
    import cupy

    pool = cupy.cuda.MemoryPool()  # of the graph: nobody else may use again what it works in
    for size in SIZES:
        *arrays, g = map(cupy.asarray, problem(*size))
        on_cupy(arrays, g)
        stream = cupy.cuda.Stream(non_blocking=True)
        cupy.cuda.Device().synchronize()
        with stream, cupy.cuda.using_allocator(pool.malloc):
            stream.begin_capture()
            found = on_cupy(arrays, g)
            graph = stream.end_capture()
        *others, other_g = map(cupy.asarray, problem(*size, seed=1))
        expected = on_cupy(others, other_g)
        for to, x in zip((*arrays, g), (*others, other_g), strict=True):
            to[...] = x
        cupy.cuda.Device().synchronize()
        graph.launch(stream)
        stream.synchronize()
        for x, y in zip(found, expected, strict=True):
            assert bool((x == y).all()), f"the replay for {size} differs"
    return f"{len(SIZES)} graphs, equal to the bit"


def streams() -> str:
    """Solves on two streams by turns, against solves on one: equal to the bit."""
    import cupy

    given = [[cupy.asarray(x) for x in problem(*size)] for size in SIZES]
    expected = [on_cupy(arrays, g) for *arrays, g in given]
    both = [cupy.cuda.Stream(non_blocking=True) for _ in range(2)]
    cupy.cuda.Device().synchronize()
    found: list[list[Any]] = []
    for repeat in range(5):
        for i, (*arrays, g) in enumerate(given):
            with both[(i + repeat) % 2]:
                found.append(on_cupy(arrays, g))
    cupy.cuda.Device().synchronize()
    for i, results in enumerate(found):
        for x, y in zip(results, expected[i % len(given)], strict=True):
            assert bool((x == y).all()), "a solve beside another differs"
    return f"{len(found)} solves on two streams, equal to the bit"


CHECKS: dict[str, Callable[[], str]] = {"posterior": posterior, "small": small, "capture": capture, "streams": streams}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("check", choices=(*ON_DEVICE, *CHECKS))
    given = parser.parse_args(arguments)
    sys.path[:0] = [str(ROOT), str(ROOT / "adapters")]
    if given.check in CHECKS:
        print(CHECKS[given.check]())
        return 0
    difference = compare(given.check, ON_DEVICE[given.check])
    print(f"largest relative difference {difference:.1e}")
    return int(not difference < AGREEMENT)


if __name__ == "__main__":
    sys.exit(main())
