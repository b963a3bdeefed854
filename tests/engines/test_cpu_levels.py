"""The compiled engines in processes of their own: each instruction set of this processor, threads, forks."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from smnn_core.engines import cpu

pytestmark = pytest.mark.skipif(cpu._kernels is None, reason="the kernels are not compiled here")

LEVELS = cpu._kernels.usable_isas().split(", ") if cpu._kernels else []
ROOT = Path(__file__).parents[2]


def run(code: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    env = {**os.environ, "PYTHONPATH": paths, **environment}
    return subprocess.run([sys.executable, *code], env=env, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.slow
@pytest.mark.parametrize("threads", ["1", "2"])
@pytest.mark.parametrize("level", LEVELS)
def test_passes_with(level: str, threads: str) -> None:
    files = [str(Path(__file__).with_name(name)) for name in ("test_cpu.py", "test_blocks.py")]
    arguments = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", *files]
    result = run(arguments, SMNN_SIMD=level, OMP_NUM_THREADS=threads)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-2000:]


@pytest.mark.parametrize("level", LEVELS)
def test_describes_the_level_and_the_threads(level: str) -> None:
    result = run(
        ["-c", "from smnn_core.engines import cpu; print(cpu.CpuEngine().describe())"],
        SMNN_SIMD=level,
        OMP_NUM_THREADS="1",
    )
    assert f"available: {level} instructions" in result.stdout
    assert "1 threads" in result.stdout


def test_an_unknown_level_is_refused_with_those_there_are() -> None:
    code = "import numpy as np, smnn_core as smnn; smnn.show_config(); smnn.solve_ode("
    code += "np.ones((4, 1, 1, 2)), np.ones((4, 1)), np.ones((1, 1, 1)), np.ones(3), engine='cpu')"
    result = run(["-c", code], SMNN_SIMD="avx1024")
    assert result.returncode != 0
    assert "SMNN_SIMD=avx1024 is unknown; usable on this processor are" in result.stderr
    assert "not available" in result.stdout


def test_threads_follow_threadpoolctl() -> None:
    threadpoolctl = pytest.importorskip("threadpoolctl", reason="threadpoolctl is not installed")
    before = cpu._kernels.max_threads()
    with threadpoolctl.threadpool_limits(1):
        assert cpu._kernels.max_threads() == 1
    assert cpu._kernels.max_threads() == before


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_child_solves() -> None:
    """The child of a process that has used its threads has none of them."""
    code = """
import os, numpy as np, smnn_core as smnn
def solve():
    rng = np.random.default_rng(0)
    c = rng.normal(size=(64, 400, 1, 1, 3))
    return smnn.solve_ode(c, np.ones((400, 1)), np.ones((1, 1, 2)), np.full(399, 0.1), engine='cpu')
y = solve()
child = os.fork()
if child == 0:
    os._exit(0 if np.allclose(solve(), y) else 3)
raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    assert run(["-c", code], OMP_NUM_THREADS="2").returncode == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_child_forked_while_other_threads_solve() -> None:
    """One of them may hold the memory pool at that time."""
    code = """
import os, threading, time, numpy as np, smnn_core as smnn
c, b, u, s = np.ones((64, 1, 1, 2)), np.ones((64, 1)), np.ones((1, 1, 1)), np.full(63, 0.1)
solve = lambda: smnn.solve_ode(c, b, u, s, engine='cpu')
def loop():
    while True: solve()
for _ in range(4): threading.Thread(target=loop, daemon=True).start()
end = time.monotonic() + 3
while time.monotonic() < end:
    child = os.fork()
    if child == 0:
        solve()
        os._exit(0)
    late = time.monotonic() + 10
    while not os.waitpid(child, os.WNOHANG)[0]:
        if time.monotonic() > late:
            os.kill(child, 9)
            os._exit(3)
        time.sleep(0.0005)
os._exit(0)
"""
    assert run(["-c", code], OMP_NUM_THREADS="1").returncode == 0


def test_the_interpreter_ends_while_threads_that_nobody_joins_solve() -> None:
    code = """
import threading, numpy as np, smnn_core as smnn
c, b, u, s = np.ones((64, 4000, 1, 1, 2)), np.ones((4000, 1)), np.ones((1, 1, 1)), np.full(3999, 0.1)
started = threading.Barrier(4)
def loop():
    started.wait()
    while True:
        y, vjp = smnn.solve_ode_vjp(c, b, u, s, engine='cpu')
        vjp(y)
for _ in range(3): threading.Thread(target=loop, daemon=True).start()
started.wait()
smnn.solve_ode(c, b, u, s, engine='cpu')
"""
    for _ in range(3):
        result = run(["-c", code])
        assert result.returncode == 0, result.stderr
