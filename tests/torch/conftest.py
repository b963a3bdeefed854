"""Well-conditioned problems as tensors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import smnn_torch as st

Problem = tuple[Tensor, ...]

OF_TORCH_ITSELF = (
    "ignore:`torch.jit.script.*` is deprecated:DeprecationWarning",  # forward_ad.enter_dual_level
    "ignore:.*torch.jit.script_method.*:DeprecationWarning",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Warnings are errors here too, but for those that PyTorch gives itself."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            for message in OF_TORCH_ITSELF:
                item.add_marker(pytest.mark.filterwarnings(message))


@pytest.fixture
def make() -> Callable[..., Problem]:
    """(coefficients, rhs, initial_values, step_sizes) of random problems; highest order near the identity."""

    def build(
        batch: tuple[int, ...] = (),
        *,
        T: int = 4,
        V: int = 1,
        R: int = 2,
        dtype: torch.dtype = torch.float64,
        grad: bool = False,
        seed: int = 0,
    ) -> Problem:
        g = torch.Generator().manual_seed(seed)

        def normal(*shape: int) -> Tensor:
            return torch.randn(*batch, *shape, generator=g, dtype=torch.float64)

        c = 0.5 * normal(T, V, V, R + 1)
        c[..., -1] += 2 * torch.eye(V, dtype=torch.float64)
        s = 0.3 + 0.2 * torch.rand(*batch, T - 1, generator=g, dtype=torch.float64)
        return tuple(x.to(dtype).requires_grad_(grad) for x in (c, normal(T, V), normal(1, V, R), s))

    return build


@pytest.fixture
def weights() -> Problem:
    """One weight per kind of row, with axes that broadcast in different ways, for T = 4."""
    g = torch.Generator().manual_seed(1)
    shapes = (), (1, 1, 1), (3,)
    return tuple(0.5 + torch.rand(shape, generator=g, dtype=torch.float64) for shape in shapes)


@pytest.fixture
def engines(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The problem and the result of every solve that goes to an engine: (problem, y, factor), in order."""
    from smnn_torch import _bridge

    calls: list[Any] = []
    solve_with = _bridge.solve_with

    def spy(engine: Any, problem: Any, **options: Any) -> Any:
        y, factor = solve_with(engine, problem, **options)
        calls.append((problem, y, factor))
        return y, factor

    monkeypatch.setattr(_bridge, "solve_with", spy)
    return calls


@pytest.fixture(params=[st.TAYLOR, st.HERMITE], ids=["taylor", "hermite"])
def scheme(request: pytest.FixtureRequest) -> st.Scheme:
    return request.param
