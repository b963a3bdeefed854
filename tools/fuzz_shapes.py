"""Problems of random shapes through the public functions, for a time: `python tools/fuzz_shapes.py --seconds 300`.

`make sanitize` runs it with kernels that the address sanitizer watches, which ends the process at the first access
outside of an array. Every problem has a number, which with the seed makes it again.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "adapters"), str(ROOT / "tests")]
KERNELS = "smnn_core.engines._kernels"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="the number of the first problem")
    parser.add_argument("--kernels", help="the file of the kernels, in place of those in smnn_core")
    parser.add_argument("--torch", action="store_true", help="derivatives by PyTorch, too")
    options = parser.parse_args()
    if options.kernels:
        spec = importlib.util.spec_from_file_location(KERNELS, options.kernels)
        assert spec is not None
        assert spec.loader is not None
        sys.modules[KERNELS] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[KERNELS])

    from _shapes import core_calls, exercise, shaped, torch_calls

    from smnn_core.engines import cpu

    if cpu._kernels is None or (options.kernels and cpu._kernels is not sys.modules[KERNELS]):
        print("the kernels are not there")
        return 1
    end, k, found = time.monotonic() + options.seconds, options.first, Counter[str]()
    while time.monotonic() < end:
        problem = shaped(np.random.default_rng([options.seed, k]), dtype=["float64", "float32"][k % 2])
        print(f"\r{k}: {problem}"[:150].ljust(150), end="", file=sys.stderr, flush=True)
        calls = core_calls(problem)
        if options.torch and k % 4 == 0:
            calls |= torch_calls(problem)
        found.update(error.partition(":")[0] for error in exercise(problem, calls).values())
        k += 1
    refused = ", ".join(f"{n} {name}" for name, n in found.most_common()) or "none"
    print(f"\n{k - options.first} problems through {len(calls)} functions and more; errors of the library: {refused}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
