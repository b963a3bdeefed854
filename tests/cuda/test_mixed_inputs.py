"""Inputs of which some are shared by systems, or points, or both, in every division of time."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from _emulator import COMPILER, Emulator
from _engine_cases import gradients_by_name, random_problem
from hypothesis import given, settings
from hypothesis import strategies as st

import smnn_core as smnn
from smnn_core._problem import Problem, Rows, inputs_by_field
from smnn_core.engines._cuda import host
from smnn_core.engines._cuda.grain import Grain

pytestmark = pytest.mark.skipif(not shutil.which(COMPILER), reason="no C++ compiler")

FINE = Grain(lanes=1000, shortest=3, fewest=2, radix=2, last=2, gain=np.inf)
RAGGED = Grain(lanes=40, shortest=5, fewest=2, radix=4, last=3, gain=np.inf)
WHOLE = Grain(lanes=1)
SIZES = [(1, 3, 1, "taylor", "float64"), (1, 3, 1, "hermite", "float32"), (2, 2, 2, "custom", "float64")]


def results(device: Emulator, problem: Problem, seed: int = 1) -> dict[str, np.ndarray]:
    """All that an engine computes."""
    rng = np.random.default_rng(seed)
    y, factor = host.solve_problem(device, problem)
    g = rng.uniform(-1, 1, y.shape).astype(y.dtype)
    system = problem.system
    rows = system.scheme.matrices(system.K)[0].shape[0]
    smoothness = rng.uniform(-1, 1, (*problem.batch, system.n_steps - 1, system.V, rows)).astype(y.dtype)
    found = {
        "y": y,
        "solve": factor.solve(Rows(problem.rhs, problem.initial_values, smoothness)),
        "normal solve": factor.normal_solve(g),
        "undetermined": factor.undetermined,
    }
    return found | gradients_by_name(factor.adjoint(problem, y, g))


def mixed_problem(
    rng: np.random.Generator, batch: tuple[int, ...], T: int, size: tuple[int, int, int, str, str], T_init: int
) -> Problem:
    """Some axes of the batch, and of time, have one element; weights are arrays or not."""
    V, K, Q, scheme, dtype = size
    problem = random_problem(rng, batch, T, V, K, Q, scheme=scheme, T_init=min(T_init, T), dtype=dtype)
    system = problem.system

    def shared(x: np.ndarray, inner: int) -> np.ndarray:
        cut = [slice(0, 1) if rng.random() < 0.3 else slice(None) for _ in range(x.ndim - inner)]
        return x[tuple(cut)]

    def weight(*inner: int) -> np.ndarray:
        if rng.random() < 0.3:
            return np.ones((), dtype)
        return shared(rng.uniform(0.5, 2, (*batch, *inner)).astype(dtype), len(inner) - 1)

    return Problem.build(
        shared(system.coefficients, 3),
        shared(problem.rhs, 1),
        problem.initial_values,
        shared(system.step_sizes, 0),
        n_steps=T,
        scheme=system.scheme,
        weights=smnn.Weights(weight(T, Q), weight(min(T_init, T), V, K), weight(T - 1)),
    )


def written_out(problem: Problem) -> Problem:
    """The same numbers, for each system and point by itself."""
    inputs = inputs_by_field(problem.system, problem.rhs, problem.initial_values)
    cores = host.cores(host.Signature.of(problem.system))
    full = [np.broadcast_to(x, (*problem.batch, *core)).copy() for x, core in zip(inputs, cores, strict=False)]
    return Problem.build(*full[:4], scheme=problem.system.scheme, weights=smnn.Weights(*full[4:]))


def sum_to(x: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    axes = tuple(range(x.ndim - len(shape)))
    x = x.sum(axes) if axes else x
    return x.sum(tuple(i for i, size in enumerate(shape) if size == 1 != x.shape[i]), keepdims=True)


@settings(max_examples=40)
@given(
    st.sampled_from([(), (1,), (2,), (31,), (32,), (33,), (3, 5), (2, 1, 20)]),
    st.integers(2, 40),
    st.sampled_from(SIZES),
    st.sampled_from([FINE, RAGGED, WHOLE]),
    st.integers(1, 5),
    st.booleans(),
    st.integers(0, 2**32 - 1),
)
def test_results_are_those_of_inputs_that_are_written_out(batch, T, size, grain, T_init, backwards, seed) -> None:
    """To the bit, whatever the order of blocks, but for gradients that are sums."""
    problem = mixed_problem(np.random.default_rng(seed), batch, T, size, T_init)
    expected = results(Emulator(grain, block=128, backwards=backwards), written_out(problem))
    for name, value in results(Emulator(grain), problem).items():
        full = expected[name]
        if name == "undetermined":
            np.testing.assert_array_equal(np.broadcast_to(value, full.shape), full)
        elif value.shape == full.shape:
            np.testing.assert_array_equal(value, full, err_msg=name)
        else:
            summed = sum_to(full.astype(np.float64), value.shape)
            tolerance = 20 * np.finfo(value.dtype).eps * np.abs(full).max() * max(full.size // max(value.size, 1), 1)
            np.testing.assert_allclose(value, summed, rtol=0, atol=tolerance, err_msg=name)


@pytest.mark.parametrize("size", [(2, 3, 2, "taylor", "float64"), (1, 2, 1, "hermite", "float32")])
@pytest.mark.parametrize("grain", [RAGGED, WHOLE], ids=["divided", "whole"])
def test_looped_code_and_large_blocks(size, grain) -> None:
    problem = mixed_problem(np.random.default_rng(2), (35,), 17, size, 2)
    expected = results(Emulator(grain, backwards=True), problem)
    for name, value in results(Emulator(grain, block=128), problem).items():
        np.testing.assert_array_equal(value, expected[name], err_msg=name)
