"""Engines: ways to eliminate the same least-squares problem. They know nothing of gradients or frameworks.

To add one: a class derived from `engines._interface.Engine`, and its place in `ENGINES`, where "auto" takes the first
that does not refuse.
"""

from __future__ import annotations

import warnings

from .._arrays import is_numpy
from .._errors import EngineError, EngineWarning
from .._problem import System
from . import cpu
from ._interface import Engine
from .array_api import ArrayEngine
from .blocks import BlockEngine
from .cuda import CudaEngine

_ALL: tuple[Engine, ...] = (cpu.CpuEngine(), BlockEngine(), CudaEngine(), ArrayEngine())
ENGINES = {engine.name: engine for engine in _ALL}


def select(engine: str, system: System) -> Engine:
    """The engine of that name, or for "auto" the first that serves the system.

    Raises:
        EngineError: if there is no such engine, or it refuses the system (with its reason).
    """
    if not isinstance(engine, str):
        raise EngineError(f"engine must be a string, 'auto' or a name, got {type(engine).__name__}.")
    if engine == "auto":
        _warn_if_not_compiled(system)
        return next(e for e in ENGINES.values() if e.refusal(system) is None)
    if engine not in ENGINES:
        raise EngineError(f"unknown engine {engine!r}; expected 'auto' or one of {', '.join(map(repr, ENGINES))}.")
    reason = ENGINES[engine].refusal(system)
    if reason is not None:
        raise EngineError(f"engine {engine!r} cannot serve this problem: {reason} Use engine='auto'.")
    return ENGINES[engine]


_warned = False


def _warn_if_not_compiled(system: System) -> None:
    """Once: that arrays which the compiled engine would serve go to another."""
    global _warned
    if cpu._kernels is not None or _warned or not is_numpy(system.coefficients):
        return
    _warned = True
    warnings.warn(
        f"smnn solves without its compiled CPU engine: {cpu._missing} Results are the same, and take 50 to 230 times "
        "as long. With a C++17 compiler, `SMNN_REQUIRE_COMPILED=1 pip install -v --force-reinstall --no-deps .` in a "
        "checkout builds it or says why it cannot.",
        EngineWarning,
        stacklevel=2,
    )
