"""Modules of the CUDA engine compiled to machine code by NVRTC (its own wheels: no device, driver or toolkit needed).

`python tests/cuda/_nvrtc.py` compiles all of `MODULES` and writes what their kernels need, with some room, to
limits.json.
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib.util
import json
import re
from functools import cache
from pathlib import Path

from smnn_core.engines._cuda.source import NVRTC_OPTIONS, PARTS, Specialization

HERE = Path(__file__).parent
BUILD = HERE.parents[1] / "build" / "nvrtc"
LIMITS = HERE / "limits.json"
ARCHITECTURES = ("sm_80", "sm_90")

OPTIONS = (*NVRTC_OPTIONS, "-ftz=true", "--device-as-default-execution-space")
"""Options of NVRTC: CuPy adds all but the first itself, and NVRTC refuses some that are given twice
(https://github.com/cupy/cupy/issues/3292)."""

MODULES = [
    Specialization(dtype, V, K, Q, extra_rows=False, chunked=chunked)
    for dtype, V, K, Q in [("float64", 1, 3, 1), ("float32", 1, 3, 1), ("float64", 1, 5, 1), ("float64", 3, 3, 3)]
    for chunked in (False, True)
] + [
    Specialization("float32", 1, 2, 1, extra_rows=True, chunked=True),
    Specialization("float64", 2, 3, 2, extra_rows=False, chunked=True),
]
"""The sizes of the benchmarks, unrolled and looped code, both precisions, every branch of the sources."""

Report = dict[str, dict[str, int]]

_ENTRY = re.compile(
    r"Compiling entry function '(?P<kernel>\w+)'.*?(?P<stack>\d+) bytes stack frame, "
    r"(?P<stores>\d+) bytes spill stores, (?P<loads>\d+) bytes spill loads.*?Used (?P<registers>\d+) registers"
    r"(?:[^\n]*?, (?P<shared>\d+) bytes smem)?",
    re.DOTALL,
)


PACKAGES = {12: ("cuda_nvrtc", "nvidia-cuda-nvrtc-cu12"), 13: ("cu13", "nvidia-cuda-nvrtc")}
"""By major version of CUDA, the folder and the name of the wheel."""


def path(major: int = 12) -> Path | None:
    """The library in its wheel, None where that is not installed."""
    spec = importlib.util.find_spec("nvidia")
    folders = [Path(p) / PACKAGES[major][0] / "lib" for p in (spec.submodule_search_locations or [])] if spec else []
    return next((p for folder in folders for p in sorted(folder.glob(f"libnvrtc.so.{major}*"))), None)


@cache
def library(major: int = 12) -> ctypes.CDLL:
    return ctypes.CDLL(str(path(major)))


def compile_(source: str, architecture: str, major: int = 12) -> tuple[bytes, str]:
    """The cubin and the compiler's log; RuntimeError with the log where it does not compile."""
    nvrtc, program = library(major), ctypes.c_void_p()
    options = [option.encode() for option in (*OPTIONS, f"-arch={architecture}", "--ptxas-options=-v")]
    nvrtc.nvrtcCreateProgram(ctypes.byref(program), source.encode(), b"kernels.cu", 0, None, None)
    try:
        failed = nvrtc.nvrtcCompileProgram(program, len(options), (ctypes.c_char_p * len(options))(*options))
        log = _bytes(nvrtc.nvrtcGetProgramLogSize, nvrtc.nvrtcGetProgramLog, program).rstrip(b"\0").decode()
        if failed:
            raise RuntimeError(log)
        return _bytes(nvrtc.nvrtcGetCUBINSize, nvrtc.nvrtcGetCUBIN, program), log
    finally:
        nvrtc.nvrtcDestroyProgram(ctypes.byref(program))


def _bytes(get_size, get, program: ctypes.c_void_p) -> bytes:
    size = ctypes.c_size_t()
    assert get_size(program, ctypes.byref(size)) == 0
    buffer = ctypes.create_string_buffer(size.value)
    assert get(program, buffer) == 0
    return buffer.raw


def report(module: Specialization, architecture: str) -> Report:
    """Needs of each kernel: registers, and bytes of spills, of the whole stack frame, and of a block's shared memory.

    Kept in build/.
    """
    major, minor = ctypes.c_int(), ctypes.c_int()
    library().nvrtcVersion(ctypes.byref(major), ctypes.byref(minor))
    result: Report = {}
    for part in PARTS:
        source = module.source_of(part)
        text = "\n".join([source, architecture, f"{major.value}.{minor.value}", *OPTIONS])
        kept = BUILD / f"{module}-{part}-{architecture}-{hashlib.sha256(text.encode()).hexdigest()[:16]}.json"
        if not kept.exists():
            cubin, log = compile_(source, architecture)
            assert cubin[:4] == b"\x7fELF"
            BUILD.mkdir(parents=True, exist_ok=True)
            kept.write_text(json.dumps(needs(log)))
        result |= json.loads(kept.read_text())
    return result


def needs(log: str) -> Report:
    """Words of the assembler about each kernel, given -v."""
    return {
        match["kernel"]: {
            "registers": int(match["registers"]),
            "spills": int(match["stores"]) + int(match["loads"]),
            "stack": int(match["stack"]),
            "shared": int(match["shared"] or 0),
        }
        for match in _ENTRY.finditer(log)
    }


def with_room(need: dict[str, int]) -> dict[str, int]:
    """Limits that the next release of the compiler may need too."""
    return {
        "registers": min(255, -(-need["registers"] * 9 // 8 // 8) * 8),
        **{name: -(-need[name] * 5 // 4 // 64) * 64 for name in ("spills", "stack")},
        "shared": need["shared"],  # (what the sources say)
    }


def main() -> None:
    limits: dict[str, Report] = {}
    for module in MODULES:
        reports = [report(module, architecture) for architecture in ARCHITECTURES]
        limits[str(module)] = {
            kernel: with_room({name: max(r[kernel][name] for r in reports) for name in need})
            for kernel, need in sorted(reports[0].items())
        }
    lines = [
        f'  "{module}": {{\n'
        + ",\n".join(f'    "{kernel}": {json.dumps(limit)}' for kernel, limit in kernels.items())
        + "\n  }"
        for module, kernels in limits.items()
    ]
    LIMITS.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
