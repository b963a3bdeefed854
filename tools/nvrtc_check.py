"""`python tools/nvrtc_check.py`: the kernels of the CUDA engine, compiled with many versions of NVRTC.

Makes an environment for each major version in a folder of its own, with CuPy and, one after the other, the versions of
NVRTC. Each part of a module is compiled as in a solve, by CuPy with the options and folders that it adds; it would ask
the device for the architecture. Prints a table: the most registers, spilled bytes and shared memory of any kernel, or
those of each with --kernels; the exit status says whether all compiled.
"""

from __future__ import annotations

import argparse
import io
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VERSIONS = ("12.0", "12.2", "12.4", "12.6", "12.8", "12.9", "13.0", "13.2", "13.3", "13.5")
ARCHITECTURES = ("sm_75", "sm_80", "sm_90", "sm_100", "sm_120")


def modules(which: str) -> list:
    """Modules of the tests, or of every size and dtype that the engine serves for as many equations as variables."""
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


def compile_modules(which: str, architectures: Sequence[str], each_kernel: bool) -> int:
    """In an environment that has CuPy: rows of the table."""
    import cupy
    from cupy._core.core import assemble_cupy_compiler_options
    from cupy.cuda import compiler, nvrtc

    found = modules(which)
    from _nvrtc import needs

    from smnn_core.engines._cuda.source import NVRTC_OPTIONS, PARTS

    options = (*assemble_cupy_compiler_options(NVRTC_OPTIONS), "-ftz=true", "--ptxas-options=-v")
    version = ".".join(map(str, compiler._get_nvrtc_version()))
    sources = [(module, module.source_of(part)) for module in found for part in PARTS]
    any_failed = False
    for architecture in architectures:
        head = f"| {cupy.__version__} | {version} | {architecture} |"
        if int(architecture.removeprefix("sm_")) not in nvrtc.getSupportedArchs():
            print(f"{head} | | | | | not known to this version |", flush=True)
            continue
        compiler._get_arch_for_options_for_nvrtc = lambda arch=None, now=architecture: (f"-arch={now}", "cubin")
        failed: list[str] = []
        kernels: dict[str, dict[str, int]] = {}
        start = time.perf_counter()
        for module, source in sources:
            log = io.StringIO()
            try:
                compiler.compile_using_nvrtc(source, options=options, filename="smnn.cu", log_stream=log)
            except compiler.CompileException as error:
                lines = str(error).strip().splitlines()
                failed.append(f"{module}: {next((line for line in lines if 'error' in line), lines[0])}")
            kernels |= {f"{module} {name}": need for name, need in needs(log.getvalue()).items()}
        each = (time.perf_counter() - start) / len(sources)
        most = [max((need[name] for need in kernels.values()), default=0) for name in ("registers", "spills", "shared")]
        done, verdict = f"{len(sources) - len(failed)} of {len(sources)}", "; ".join(failed[:3]) or "all"
        print(f"{head} {done} | {each:.1f} | {' | '.join(map(str, most))} | {verdict} |", flush=True)
        for name, need in kernels.items() if each_kernel else ():
            print(f"| | | {name} | | | {need['registers']} | {need['spills']} | {need['shared']} | |", flush=True)
        any_failed = any_failed or bool(failed)
    return int(any_failed)


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
    parser.add_argument(
        "--architectures", nargs="+", default=ARCHITECTURES, help=f"(default: {' '.join(ARCHITECTURES)})"
    )
    parser.add_argument("--kernels", action="store_true", help="a row for each kernel")
    parser.add_argument("--here", action="store_true", help="with the CuPy and the NVRTC of this environment alone")
    given = parser.parse_args()
    if given.here:
        return compile_modules(given.modules, given.architectures, given.kernels)
    columns = (
        "CuPy",
        "NVRTC",
        "architecture",
        "parts compiled",
        "s each",
        "registers",
        "spills",
        "shared",
        "first errors",
    )
    print(f"| {' | '.join(columns)} |\n{'| --- ' * len(columns)}|", flush=True)
    options = ["--here", "--modules", given.modules, "--architectures", *given.architectures]
    options += ["--kernels"] * given.kernels
    with tempfile.TemporaryDirectory() as folder:
        failed = [
            subprocess.run([str(python), "-W", "error", __file__, *options], check=False).returncode
            for python in environments(list(given.versions), Path(folder))
        ]
    return int(any(failed))


if __name__ == "__main__":
    sys.exit(main())
