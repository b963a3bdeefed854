"""Settings of the whole test session, and the fixture that drives the matrix of array libraries."""

from __future__ import annotations

import os

# Before any test imports JAX: without it JAX arrays are float32 only. The library itself never touches this switch.
os.environ.setdefault("JAX_ENABLE_X64", "1")
# JAX would otherwise take most of the memory of a GPU that it shares with PyTorch and CuPy here.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
# Programs are small, and most of the time of their tests goes into compiling them.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")

import pytest
from _backends import BACKENDS, Backend, load
from hypothesis import HealthCheck, settings

settings.register_profile(
    "default",
    deadline=None,
    print_blob=True,
    max_examples=25,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
settings.register_profile("ci", settings.get_profile("default"), derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "default")


@pytest.fixture(scope="session", params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> Backend:
    """Each array library in turn; one that cannot run here is a skip with its reason (see `_backends.load`)."""
    return load(request.param)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skips and expected failures must say why."""
    for item in items:
        for mark in item.iter_markers():
            if mark.name in ("skip", "skipif", "xfail") and not (mark.kwargs.get("reason") or _is_plain(mark)):
                raise pytest.UsageError(f"{item.nodeid}: @pytest.mark.{mark.name} needs reason='...'.")


def _is_plain(mark: pytest.Mark) -> bool:
    """`skip("why")` gives its reason as the only positional argument."""
    return mark.name == "skip" and bool(mark.args)
