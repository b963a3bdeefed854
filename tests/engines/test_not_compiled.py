"""The compiled CPU engine is missing: the first solve says so, once, and `show_config` says why."""

from __future__ import annotations

import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

import smnn_core as smnn
from smnn_core import engines
from smnn_core.engines import cpu


def solve() -> np.ndarray:
    return smnn.solve_ode(np.ones((1, 1, 1, 2)), np.ones((1, 1)), np.zeros((1, 1, 1)), np.full(3, 0.1))


def test_the_first_solve_warns_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "_kernels", None)
    monkeypatch.setattr(cpu, "_missing", "its kernels were not built.")
    monkeypatch.setattr(engines, "_warned", False)
    with pytest.warns(smnn.EngineWarning, match="its kernels were not built.*SMNN_REQUIRE_COMPILED=1 pip install"):
        solve()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        solve()
    config = smnn.show_config("dicts")
    assert config is not None
    assert config["engines"]["cpu"] == "not available: its kernels were not built."


@pytest.mark.skipif(cpu._kernels is None, reason="the kernels are not compiled here")
def test_nothing_is_said_where_it_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "_warned", False)
    solve()
    assert not engines._warned


@pytest.mark.skipif(cpu._kernels is None, reason="the kernels are not compiled here")
def test_imported_again_the_kernels_are_there() -> None:
    """As after a notebook or a test runner has taken the package out of `sys.modules`."""
    program = (
        "import sys, numpy as np\n"
        "for k in range(2):\n"
        "    import smnn_core\n"
        "    smnn_core.solve_ode(np.ones((5, 1, 1, 2)), np.zeros((5, 1)), np.ones((1, 1, 1)), 0.1, engine='cpu')\n"
        "    for name in [name for name in sys.modules if name.startswith('smnn_core')]:\n"
        "        del sys.modules[name]\n"
        "print('done')"
    )
    root = str(Path(smnn.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, cwd=root, check=False
    )
    assert done.stdout.strip() == "done", done.stderr
