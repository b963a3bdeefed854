"""Problems and norms for tests of engines."""

from __future__ import annotations

import numpy as np
from _strategies import collocation_scheme, custom_scheme

import smnn_core as smnn
from smnn_core import _constraints
from smnn_core._problem import Gradients, Problem
from smnn_core.engines.array_api import ArrayEngine


def random_problem(
    rng: np.random.Generator,
    batch: tuple[int, ...],
    T: int,
    V: int,
    K: int,
    Q: int,
    *,
    scheme: str = "taylor",
    T_init: int = 1,
    dtype: str = "float64",
) -> Problem:
    """A well-conditioned problem: equations that fix the highest derivatives, initial values for the lower ones."""
    schemes = {"taylor": smnn.TAYLOR, "hermite": smnn.HERMITE, "custom": custom_scheme(K)}
    if scheme == "collocation":
        schemes[scheme] = collocation_scheme(K, K - Q // V)
    c = rng.uniform(-0.4, 0.4, (*batch, T, Q, V, K))
    for q in range(min(V * K, Q)):
        c[..., q, q % V, K - 1 - q // V] += 1.5
    return Problem.build(
        c.astype(dtype),
        rng.uniform(-1, 1, (*batch, T, Q)).astype(dtype),
        rng.uniform(-1, 1, (*batch, T_init, V, K)).astype(dtype),
        rng.uniform(0.2, 0.5, (*batch, T - 1)).astype(dtype),
        n_steps=T,
        scheme=schemes[scheme],
    )


def condition(problem: Problem) -> float:
    """|M^-1| |M| for M = A^T W^2 A, by power iteration with the array API engine; squared condition of W A."""
    system = problem.system
    factor = ArrayEngine().factorize(system)
    rng = np.random.default_rng(0)
    x = y = rng.normal(size=(*system.batch, system.n_steps, system.V, system.K)).astype(system.dtype)
    for _ in range(8):
        x = factor.normal_solve(x / np.linalg.norm(x))
        y = y / np.linalg.norm(y)
        y = _constraints.apply_transpose(
            system, _constraints.weighted(system.weights, _constraints.apply(system, y), 2)
        )
    # power iteration underestimates: by less than this for 8 steps from a random start
    return 10 * float(np.linalg.norm(x) * np.linalg.norm(y))


def gradients_by_name(gradients: Gradients) -> dict[str, np.ndarray]:
    """All gradients by name."""
    weights = {f"weights.{k}": x for k, x in vars(gradients.weights).items()}
    return {k: x for k, x in gradients._asdict().items() if k != "weights"} | weights
