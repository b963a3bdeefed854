"""`python tools/sass.py [MODULE ...]`: what the compiler makes of the CUDA kernels, by counts of machine instructions.

Of the modules of tests/cuda (names as in limits.json; all of them without an argument), for sm_90: registers, bytes of
spills and of shared memory, all instructions, and those of the loop over points by kind: the last of the loops that do
at least half as much as any, since the first points have a loop of their own. Needs NVRTC and nvdisasm (the wheels
nvidia-cuda-nvrtc-cu12 and nvidia-cuda-nvdisasm); no device.
"""

from __future__ import annotations

import argparse
import importlib.util
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
KINDS = {
    "float64": ("DFMA", "DADD", "DMUL", "DSETP"),
    "float32": ("FFMA", "FADD", "FMUL", "FSETP"),
    "global": ("LDG", "STG", "RED", "ATOMG"),
    "local": ("LDL", "STL"),
    "generic": ("LD", "ST"),
    "shared": ("LDS", "STS"),
}
"""Columns of the table, by the first word of an instruction."""
WORK = frozenset(word for words in KINDS.values() for word in words)
_FUNCTION = re.compile(r"^\.text\.(\w+):\n", re.MULTILINE)
_LINE = re.compile(
    r"^(?:\s*(?P<label>\.L\w+):|\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+ )?(?P<word>\w+)(?P<rest>[^;]*);)", re.MULTILINE
)


def disassembler() -> str:
    """The path of nvdisasm: that of the system, or of the wheel."""
    spec = importlib.util.find_spec("nvidia")
    folders = [Path(p) for p in (spec.submodule_search_locations or [])] if spec else []
    found = [str(path) for folder in folders for path in folder.glob("*/bin/nvdisasm")]
    path = shutil.which("nvdisasm") or next(iter(found), None)
    if path is None:
        sys.exit("nvdisasm is not installed: pip install nvidia-cuda-nvdisasm")
    return path


def disassembled(cubin: bytes) -> str:
    """The output of nvdisasm."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "module.cubin"
        file.write_bytes(cubin)
        return subprocess.run([disassembler(), "-c", file], capture_output=True, text=True, check=True).stdout


def kernels(text: str) -> dict[str, tuple[list[str], list[str]]]:
    """The first words of all instructions of each kernel, and of those of the loop over points: see `KINDS`."""
    _, *parts = _FUNCTION.split(text)
    return {name: _words(body) for name, body in zip(parts[::2], parts[1::2], strict=True)}


def _words(body: str) -> tuple[list[str], list[str]]:
    words: list[str] = []
    labels: dict[str, int] = {}
    loops: list[tuple[int, range]] = []
    for line in _LINE.finditer(body):
        if line["label"]:
            labels[line["label"]] = len(words)
            continue
        words.append(line["word"])
        if line["word"] == "BRA":
            target = re.search(r"\.L\w+", line["rest"])
            start = labels.get(target[0], len(words)) if target else len(words)
            work = sum(word in WORK for word in words[start:])
            loops.append((work, range(start, len(words))))
    most = max((work for work, _ in loops), default=0)
    loop = next((loop for work, loop in reversed(loops) if loop and 2 * work >= most), range(0))
    return words, [words[i] for i in loop]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("modules", nargs="*")
    parser.add_argument("--architecture", default="sm_90")
    given = parser.parse_args()
    sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "cuda")]
    from _nvrtc import MODULES, compile_, report

    for module in MODULES:
        if given.modules and str(module) not in given.modules:
            continue
        found = kernels(disassembled(compile_(module.source, given.architecture)[0]))
        header = "kernel", "registers", "spills", "stack", "shared", "instructions", "in the loop", *KINDS
        print(f"\n{module}\n\n| {' | '.join(header)} |\n{'| --- ' * len(header)}|")
        for kernel, need in sorted(report(module, given.architecture).items()):
            everything, loop = found[kernel]
            kinds = [sum(word in words for word in loop) for words in KINDS.values()]
            cells = *need.values(), len(everything), len(loop), *kinds
            print(f"| {kernel} | {' | '.join(map(str, cells))} |", flush=True)


if __name__ == "__main__":
    main()
