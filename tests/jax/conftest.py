"""Eight CPU devices, and one small problem, for the tests of the JAX adapter."""

from __future__ import annotations

import os

# Read when JAX starts its backend, which no module does while tests are collected.
# XLA's threads on a CPU, as many as cores by default, wait in collectives too: fewer than devices wait for each other.
os.environ.setdefault("NPROC", "32")
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8".strip()

from typing import Any

import pytest
from _jax_case import make_arguments


@pytest.fixture
def arguments() -> dict[str, Any]:
    """NumPy arrays, named as the arguments of `_jax_case.solve`: batch 8, T = 5, float64."""
    return make_arguments()
