"""`python tools/nvrtc_check.py`: the kernels of the CUDA engine, compiled with many versions of NVRTC.

Makes an environment for each major version in a folder of its own, with CuPy and, one after the other, the versions of
NVRTC; the compiler runs as in a solve (`cupy.cuda.compiler.compile_using_nvrtc`), but for the architecture, which CuPy
would ask the device for. Prints a table; the exit status says whether all compiled.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VERSIONS = ("12.0", "12.2", "12.4", "12.6", "12.8", "12.9", "13.0", "13.2", "13.3", "13.5")


def modules(which: str) -> list:
    """Those of the tests, or of every size and dtype that the engine serves for as many equations as variables."""
    sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "cuda")]
    from _nvrtc import MODULES

    from smnn_core.engines import cuda
    from smnn_core.engines._cuda.layout import MAX_K
    from smnn_core.engines._cuda.source import Specialization

    if which != "all":
        return MODULES if which == "tests" else MODULES[:1]
    sizes = [(V, K) for K in range(1, MAX_K + 1) for V in range(1, cuda.LARGEST // K + 1)]
    return [
        Specialization(dtype, V, K, V, extra_rows=extra, chunked=chunked)
        for V, K in sizes
        for dtype in ("float64", "float32")
        for chunked in (False, True)
        for extra in (False, True)
    ]


def compile_modules(which: str, architecture: str) -> int:
    """In an environment that has CuPy."""
    import cupy
    from cupy.cuda import compiler

    found = modules(which)
    from smnn_core.engines._cuda.source import NVRTC_OPTIONS

    compiler._get_arch_for_options_for_nvrtc = lambda arch=None: (f"-arch={architecture}", "cubin")
    failed: list[str] = []
    start = time.perf_counter()
    for module in found:
        try:
            compiler.compile_using_nvrtc(module.source, options=NVRTC_OPTIONS, filename="smnn.cu")
        except compiler.CompileException as error:
            failed.append(f"{module}: {str(error).strip().splitlines()[0]}")
    major, minor = compiler._get_nvrtc_version()
    each = (time.perf_counter() - start) / len(found)
    verdict = "; ".join(failed[:3]) or "all"
    done = f"{len(found) - len(failed)} of {len(found)}"
    print(f"| {cupy.__version__} | {major}.{minor} | {done} | {each:.1f} | {verdict} |", flush=True)
    return int(bool(failed))


def environments(versions: list[str], folder: Path) -> Iterator[Path]:
    """The Python of an environment that has CuPy, with each version of NVRTC in turn."""
    made: dict[str, Path] = {}
    for version in versions:
        major = version.split(".")[0]
        if major not in made:
            venv.create(folder / major, with_pip=True)
            made[major] = folder / major / "bin" / "python"
            install(made[major], f"cupy-cuda{major}x", "array-api-compat")
        install(made[major], f"nvidia-cuda-nvrtc{'-cu12' if major == '12' else ''}=={version}.*")
        yield made[major]


def install(python: Path, *packages: str) -> None:
    command = [str(python), "-m", "pip", "--disable-pip-version-check", "install", "--quiet", *packages]
    subprocess.run(command, check=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("versions", nargs="*", default=VERSIONS, help=f"of NVRTC (default: {' '.join(VERSIONS)})")
    parser.add_argument("--modules", choices=("one", "tests", "all"), default="tests")
    parser.add_argument("--architecture", default="sm_90")
    parser.add_argument("--here", action="store_true", help="with the CuPy and the NVRTC of this environment alone")
    given = parser.parse_args()
    if given.here:
        return compile_modules(given.modules, given.architecture)
    print("| CuPy | NVRTC | compiled | s a module | first errors |\n| --- | --- | --- | --- | --- |", flush=True)
    options = ["--here", "--modules", given.modules, "--architecture", given.architecture]
    with tempfile.TemporaryDirectory() as folder:
        failed = [
            subprocess.run([str(python), "-W", "error", __file__, *options], check=False).returncode
            for python in environments(list(given.versions), Path(folder))
        ]
    return int(any(failed))


if __name__ == "__main__":
    sys.exit(main())
