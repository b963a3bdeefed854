"""The problem that the tests of the JAX adapter share."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

import smnn_core as smnn
import smnn_jax


def make_arguments(
    batch: tuple[int, ...] = (8,), T: int = 5, dtype: str = "float64", T_init: int = 2
) -> dict[str, Any]:
    """Two variables up to second order, one equation each; c and b vary with the batch, s and the weights do not."""
    random = np.random.default_rng(0)
    V, K = 2, 3
    return {
        "coefficients": (random.normal(size=(*batch, T, V, V, K)) + np.eye(V)[:, :, None]).astype(dtype),
        "rhs": random.normal(size=(*batch, T, V)).astype(dtype),
        "initial_values": random.normal(size=(T_init, V, 2)).astype(dtype),
        "step_sizes": (0.5 + 0.2 * random.random((T - 1,))).astype(dtype),
        "equation": (0.5 + random.random((T, 1))).astype(dtype),
        "initial": (0.5 + random.random((1, V, 2))).astype(dtype),
        "smoothness": (0.5 + random.random((T - 1,))).astype(dtype),
    }


def solve(coefficients, rhs, initial_values, step_sizes, equation, initial, smoothness, *, core=False, **options):
    """solve_ode, of the core where asked, with the arguments that `make_arguments` names."""
    f = smnn.solve_ode if core else smnn_jax.solve_ode
    weights = smnn.Weights(equation, initial, smoothness)
    return f(coefficients, rhs, initial_values, step_sizes, weights=weights, **options)


def on_jax(arguments: dict[str, Any]) -> dict[str, Any]:
    return {name: jnp.asarray(x) for name, x in arguments.items()}
