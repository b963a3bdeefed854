"""The array libraries the tests run on: one list, one place that knows how each makes and reads arrays."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import array_api_compat as compat
import numpy as np
import pytest

Array = Any

BACKENDS = ("numpy", "array_api_strict", "torch", "jax", "cupy")
"""Names of the backends, the parameters of the fixture `backend`."""


@dataclass(frozen=True)
class Backend:
    """An array library.

    `asarray` makes an array from numbers or a NumPy array, in the dtype named or that of the NumPy array; `to_numpy`
    reads one back.
    """

    name: str
    xp: Any
    """The namespace that `array_api_compat.array_namespace` gives for its arrays."""
    _from_numpy: Callable[[np.ndarray], Array]
    _to_numpy: Callable[[Array], np.ndarray]

    def asarray(self, x: Any, dtype: str | None = None) -> Array:
        # A copy, so that no test sees another's writes; order="C", since torch refuses negative strides
        # (https://github.com/pytorch/pytorch/issues/92680).
        return self._from_numpy(np.array(x, dtype=dtype, order="C"))

    def to_numpy(self, x: Array) -> np.ndarray:
        return self._to_numpy(x)

    def dtype(self, name: str) -> Any:
        """The dtype object called "float32", "float64", "bool", ..."""
        return getattr(self.xp, name)

    def jit(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function compiled as a whole where the library compiles each operation by itself otherwise (JAX).

        A test on random shapes spends its time on compilation there: several times less this way.
        """
        return importlib.import_module("jax").jit(function) if self.name == "jax" else function

    def examples(self, count: int) -> int:
        """How many random examples a test that asks for `count` should try: fewer where each one is compiled."""
        return max(1, count // 10) if self.name == "jax" else count

    def __repr__(self) -> str:
        return self.name


def load(name: str) -> Backend:
    """The backend of that name; skips the test if there is no device for it.

    A missing CUDA device is a skip, or a failure where SMNN_REQUIRE_CUPY=1 says that this machine has one. Every other
    library is a requirement of the tests.
    """
    if name == "cupy":
        _require_cupy()
    module = importlib.import_module("jax.numpy" if name == "jax" else name)
    to_numpy: Callable[[Array], np.ndarray] = np.asarray
    if name == "torch":

        def to_numpy(x: Array) -> np.ndarray:
            return x.detach().cpu().numpy()
    elif name == "cupy":
        to_numpy = module.asnumpy
    from_numpy = module.from_numpy if name == "torch" else module.asarray
    return Backend(name, compat.array_namespace(from_numpy(np.zeros(1))), from_numpy, to_numpy)


def _require_cupy() -> None:
    stop = pytest.fail if os.environ.get("SMNN_REQUIRE_CUPY") == "1" else pytest.skip
    try:
        cupy = importlib.import_module("cupy")
    except ImportError:
        stop("CuPy is not installed")
    try:
        cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError as error:
        stop(f"no CUDA device: {error}")
