"""Weights over eight decades, against arithmetic of 1200 bits: rows keep their digits, however heavy others are."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import smnn_core as smnn
from smnn_core.engines import cpu

exact = pytest.importorskip("benchmarks.exact", reason="needs python-flint")


def problem(seed: int, T_init: int) -> tuple[tuple[np.ndarray, ...], tuple[np.ndarray, ...]]:
    """Coefficients, right-hand sides, initial values and steps; and weights, each of its own size."""
    rng = np.random.default_rng([seed, T_init])
    T, V, K = 20, 1 + seed % 2, 2 + seed % 3
    order = max(1, K - 1 - seed % 2)
    c = rng.uniform(-0.4, 0.4, (T, V, V, K))
    c[..., order + 1 :] *= 0.1
    c[:, range(V), range(V), order] += 1.5
    arrays = c, rng.uniform(-1, 1, (T, V)), rng.uniform(-1, 1, (T_init, V, order)), rng.uniform(0.2, 0.8, T - 1)
    weights = tuple(10 ** rng.uniform(-4, 4, shape) for shape in ((T, V), (T_init, V, order), (T - 1,)))
    return arrays, weights


def error(seed: int, T_init: int, scheme: smnn.Scheme, engine: str) -> float:
    """The largest, beside the largest value of each order."""
    arrays, weights = problem(seed, T_init)
    c, b, u, s = arrays
    expected = exact.Solver(exact.rows(c, s, *weights, scheme)).solve(b, u).reshape(len(b), *c.shape[-2:])
    y = smnn.solve_ode(*arrays, scheme=scheme, weights=smnn.Weights(*weights), engine=engine)
    return float((abs(y - expected) / abs(expected).max(axis=0)).max())


def worst(T_init: int, scheme: Any, engine: str) -> float:
    return max(error(seed, T_init, scheme, engine) for seed in range(12))


@pytest.mark.skipif(cpu._kernels is None, reason="the kernels are not compiled here")
@pytest.mark.parametrize("T_init", [1, 2, 5])
@pytest.mark.parametrize("scheme", [smnn.HERMITE, smnn.WIENER], ids=lambda scheme: scheme.name)
@pytest.mark.parametrize("engine", ["cpu", "blocks", "array_api"])
def test_every_engine(engine: str, T_init: int, scheme: smnn.Scheme) -> None:
    assert worst(T_init, scheme, engine) < 1e-12
