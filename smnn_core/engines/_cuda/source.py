"""The kernels as one text that includes nothing, and the macros that make it the module of one problem size.

One text, since a compiler at run time is given no folders to look into, and since caches of compiled modules are keyed
by the text: a change of any header changes it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from .layout import chain_job, point_job

WARP, WARPS = 32, 4
"""Threads of a warp, and warps of a block."""
SHARED = 48 << 10
"""Bytes of shared memory that a block may take without asking for more."""
BLOCK = WARPS * WARP
"""Threads of a block, where each has a lane of its own."""
ALONE = 5
"""Unknowns of a point that a thread can sweep in registers, at most; one less in chunks, whose rows are longer."""
TEAMS = 8, 16, 32
"""Threads that sweep a larger lane together; the more, the less memory the lanes of a warp take."""

PARTS = SOLVE, ADJOINT = 1, 2
"""Modules that are compiled by themselves: the kernels of solves, and those that only derivatives and normal solves
take, which are about a third of the compiler's time."""


def part_of(kernel: str) -> int:
    """The part that a kernel belongs to."""
    return ADJOINT if kernel.endswith(("_record", "_forward", "_unwind", "_contract", "_solve")) else SOLVE


_INCLUDE = re.compile(r'^#include "(.+)"\n', re.MULTILINE)

# NVRTC has the functions of <math.h>, under their own names alone; estimates of reciprocals are instructions of PTX.
_BUILTINS = (
    "".join(
        f"#define __builtin_{name}{f} {name}{f}\n" for name in ("sqrt", "fabs", "copysign", "log") for f in ("", "f")
    )
    + "".join(
        f"__device__ __forceinline__ {T} reciprocal_estimate({T} x) {{\n"
        f'    {T} r;\n    asm("rcp.approx.ftz.{bits} %0, %1;" : "={c}"(r) : "{c}"(x));\n    return r;\n}}\n'
        for T, bits, c in (("double", "f64", "d"), ("float", "f32", "f"))
    )
    + "#define SMNN_RECIPROCAL_ESTIMATE reciprocal_estimate\n"
)


@dataclass(frozen=True)
class Specialization:
    """The sizes and the kind of work that a module is compiled for."""

    dtype: str
    V: int
    K: int
    Q: int
    extra_rows: bool
    """whether the scheme has rows on the next point alone, or is not upper triangular there"""
    chunked: bool

    @property
    def defines(self) -> dict[str, object]:
        """The macros that `kernels.cu` asks for."""
        return {
            "SMNN_LEVEL": "cuda",
            "SMNN_SCALAR": {"float64": "double", "float32": "float"}[self.dtype],
            "SMNN_V": self.V,
            "SMNN_K": self.K,
            "SMNN_Q": self.Q,
            "SMNN_EXTRA": int(self.extra_rows),
            "SMNN_CHUNKED": int(self.chunked),
            "SMNN_BLOCK": BLOCK,
            "SMNN_TEAM": self.team("smnn_sweep"),
            "SMNN_TEAMS": self.block("smnn_sweep") // self.team("smnn_sweep"),
            "SMNN_SHARED": SHARED,
            "SMNN_POINT_JOB_BYTES": point_job(self.dtype, self.K).itemsize,
            "SMNN_CHAIN_JOB_BYTES": chain_job(self.dtype).itemsize,
        }

    def team(self, kernel: str) -> int:
        """How many threads work on a lane: several where it is swept in more than one has registers for."""
        n, alone = self.V * self.K, ALONE - self.chunked
        if not kernel.endswith(("_sweep", "_record")) or n <= alone:
            return 1
        return next((team for team in TEAMS if self._room * (WARP // team) <= SHARED), 1)

    def block(self, kernel: str) -> int:
        """Threads of a block."""
        team = self.team(kernel)
        return BLOCK if team == 1 else WARP * min(WARPS, SHARED // (self._room * (WARP // team)))

    @property
    def _room(self) -> int:
        """Bytes of `Points::ROOM`, where sizes are not unrolled, or `Separators::ROOM`."""
        n, K = self.V * self.K, self.K
        rows = n + n * self.extra_rows + self.Q
        carried = 3 * n * n + 4 * n if self.chunked else n * n + 2 * n
        workspace = K + 2 * n + 2 * n * n + rows * ((2 if self.chunked else 1) * n + 6)
        entries = n * (n + 1) // 2 + K * K * self.V * (self.V + 1) // 2 + (n * n if self.chunked else 0)
        points, separators = carried + workspace + entries + n, (10 * n * n + 11 * n) * self.chunked
        return max(points, separators) * np.dtype(self.dtype).itemsize

    def source_of(self, part: int) -> str:
        """One of `PARTS`, or their sum, as NVRTC compiles it."""
        return f"#define SMNN_PARTS {part}\n{self.source}"

    @property
    def source(self) -> str:
        """All kernels."""
        return _BUILTINS + "".join(f"#define {k} {v}\n" for k, v in self.defines.items()) + kernels()

    def __str__(self) -> str:
        extra, chunked = "+extra" * self.extra_rows, "+chunked" * self.chunked
        return f"{self.dtype}-V{self.V}K{self.K}Q{self.Q}{extra}{chunked}"


NVRTC_OPTIONS = ("-std=c++17",)


@cache
def kernels() -> str:
    """`kernels.cu` and all headers of this project that it includes, each once, in its place."""
    seen: set[Path] = set()

    def read(path: Path) -> str:
        if path in seen:
            return ""
        seen.add(path)
        text = path.read_text(encoding="utf-8").replace("#pragma once\n", "")
        return _INCLUDE.sub(lambda match: read((path.parent / match[1]).resolve()), text)

    # CuPy writes the text to a file in the encoding of the locale, which may have no Greek letters; comments do
    return read(Path(__file__).with_name("kernels.cu").resolve()).encode("ascii", "replace").decode()
