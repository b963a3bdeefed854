"""The closed forms that the standalone validation measures against are right."""

from __future__ import annotations

import importlib
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs torch")

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.parametrize("index", range(6))
def test_the_closed_form_satisfies_the_ode_and_its_initial_values(index: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(EXAMPLES)
    ode = importlib.import_module("_linear_odes").ODES[index]
    t = np.linspace(0, 10, 201)
    y = [ode.exact(t, r) for r in range(ode.order + 1)]
    largest = max(abs(c) * np.abs(x).max() for c, x in zip(ode.coefficients, y, strict=True))
    residual = sum(c * x for c, x in zip(ode.coefficients, y, strict=True)) - ode.rhs
    eps = np.finfo(float).eps
    assert np.abs(residual).max() <= 50 * eps * largest
    np.testing.assert_allclose([x[0] for x in y[: ode.order]], ode.initial, rtol=0, atol=50 * eps * largest)
