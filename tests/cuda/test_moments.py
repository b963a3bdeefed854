"""Moments by the CUDA engine's kernel, on the emulated grid, against those of the array API engine."""

from __future__ import annotations

import gc
import shutil
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from _emulator import COMPILER, Emulator
from _engine_cases import random_problem
from _fake_cupy import live, record, replaced

import smnn_core as smnn
from smnn_core._problem import Problem, Rows, System
from smnn_core.engines._cuda import moments
from smnn_core.engines._cuda.grain import Grain
from smnn_core.engines._moments import CompiledSelectedInverse, Moments, MomentsFactor
from smnn_core.engines._statistics import ALL, OF_LHS, by_field
from smnn_core.engines.array_api import ArrayEngine

pytestmark = pytest.mark.skipif(not shutil.which(COMPILER), reason="no C++ compiler")

EVERYTHING = Moments(True, True, True, True, True, OF_LHS, ALL)


class Factor(MomentsFactor):
    """The moments of a system alone."""

    def __init__(self, system: System, lanes: int = 1000, **options: Any) -> None:
        self.system, self.device = system, Emulator(Grain(lanes=lanes), **options)
        self.undetermined = ArrayEngine().factorize(system).undetermined

    def solve_augmented(self, f: Rows | None, g: Any, **wanted: bool) -> Any:
        raise NotImplementedError

    def moments(self, wanted: Moments, d: Rows | None = None) -> Moments:
        return moments.moments(self.device, self.system, self.undetermined, wanted, d)


def near(found: Any, expected: np.ndarray, relative: float = 1e-10) -> None:
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=0, atol=relative * (1 + np.abs(expected).max(initial=0)))


@pytest.mark.parametrize(
    ("V", "K", "Q", "batch", "scheme", "lanes"),
    [(1, 3, 1, (2, 3), "taylor", 4), (2, 3, 2, (3,), "hermite", 1000), (3, 3, 3, (), "hermite", 1)],
    ids=str,
)
@pytest.mark.parametrize("memory", [0, 1 << 30], ids=["segments", "whole"])
def test_everything_is_that_of_the_array_api_engine(monkeypatch, V, K, Q, batch, scheme, lanes, memory) -> None:
    """Threads that take several systems, unrolled and looped code, steps that are eliminated again."""
    monkeypatch.setattr(moments, "MEMORY", memory)
    rng = np.random.default_rng(0)
    problem = random_problem(rng, batch, 14, V, K, Q, scheme=scheme, T_init=3)
    factor, oracle = Factor(problem.system, lanes, backwards=True), ArrayEngine().factorize(problem.system)
    found, expected = factor.selected_inverse(), oracle.selected_inverse()
    assert isinstance(found, CompiledSelectedInverse)
    for x, y in zip((*found.blocks, found.variance), (*expected.blocks, expected.variance), strict=True):
        near(x, y)
    near(found.log_determinant, expected.log_determinant)
    near(factor.sum_of_squares(problem.rows), oracle.sum_of_squares(problem.rows))
    gradients = (subject.statistics(problem.rows, ALL)[2:] for subject in (factor, oracle))
    for found, expected in zip(*gradients, strict=True):
        for a, b in zip(by_field(found), by_field(expected), strict=True):
            if b is not None:
                near(a, b, 1e-9)


def test_nothing_that_is_not_wanted_is_computed() -> None:
    problem = random_problem(np.random.default_rng(1), (5,), 9, 1, 3, 1)
    factor = Factor(problem.system)
    everything = factor.moments(EVERYTHING, problem.rows).in_order
    for i in (0, 2, 3, 5, 8, 13, 18):
        found = factor.moments(Moments.of([True if i == k else None for k in range(19)]), problem.rows).in_order
        assert [k for k, x in enumerate(found) if x is not None] == [i]
        np.testing.assert_array_equal(found[i], everything[i])


def test_right_hand_sides_of_a_larger_batch() -> None:
    rng = np.random.default_rng(2)
    problem = random_problem(rng, (), 12, 1, 3, 1)
    d = Rows(rng.normal(size=(4, 12, 1)), problem.initial_values, None)
    near(Factor(problem.system).sum_of_squares(d), ArrayEngine().factorize(problem.system).sum_of_squares(d))


def test_right_hand_sides_of_a_larger_batch_with_a_singular_member() -> None:
    """Three for each of four systems: those of the singular one are NaN, all others as they are alone."""
    problem = random_problem(np.random.default_rng(2), (4,), 12, 1, 3, 1)
    system = problem.system
    sound = np.arange(4) != 1
    weights = smnn.Weights(
        sound.reshape(4, 1, 1) * np.ones((4, 12, 1)), sound.reshape(4, 1, 1, 1) * np.ones((4, 1, 1, 3))
    )
    given = Problem.build(system.coefficients, problem.rhs, problem.initial_values, system.step_sizes, weights=weights)
    d = Rows(np.random.default_rng(3).normal(size=(3, 4, 12, 1)), problem.initial_values, None)
    found = Factor(given.system).sum_of_squares(d)
    assert np.isnan(found[:, 1]).all()
    near(found[:, sound], ArrayEngine().factorize(problem.system).sum_of_squares(d)[:, sound])


def test_members_that_are_undetermined_or_not_finite_leave_the_others_as_they_are() -> None:
    rng = np.random.default_rng(3)
    problem = random_problem(rng, (4,), 10, 1, 3, 1)
    system = problem.system
    c, w, initial = system.coefficients.copy(), np.ones((4, 10, 1)), np.ones((4, 1, 1, 3))

    def everything() -> Moments:
        given = Problem.build(
            c, problem.rhs, problem.initial_values, system.step_sizes, weights=smnn.Weights(w, initial)
        )
        return Factor(given.system).moments(EVERYTHING, given.rows)

    expected = everything()
    c[1, 4] = np.nan
    w[2], c[2], initial[2] = 0, 0, 0
    found = everything()
    for x, y in zip(found.in_order, expected.in_order, strict=True):
        if y is None:
            continue
        np.testing.assert_array_equal(x[[0, 3]], y[[0, 3]])
        assert np.isnan(x[2]).all()
        assert np.isnan(x[1]).any()


def test_one_point_and_no_systems() -> None:
    problem = random_problem(np.random.default_rng(4), (3,), 2, 1, 3, 1)
    near(
        Factor(problem.system).selected_inverse().variance,
        ArrayEngine().factorize(problem.system).selected_inverse().variance,
    )
    empty = random_problem(np.random.default_rng(4), (0,), 5, 1, 3, 1)
    factor = Factor(empty.system)
    assert factor.selected_inverse().variance.shape == (0, 5, 3)
    assert factor.device.launched == []


def test_few_long_systems_and_large_points_are_left_to_the_array_api_engine() -> None:
    assert moments.serves(9, 2048, ())
    assert not moments.serves(10, 2048, ())
    assert not moments.serves(3, 2049, (1023,))
    assert moments.serves(3, 10**6, (32, 32))


@pytest.fixture
def cupy() -> Iterator[ModuleType]:
    with replaced() as module:
        yield module


def test_posteriors_of_cupy_arrays_take_the_kernel(cupy: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(5)
    c, b, u = rng.normal(size=(3, 8, 1, 1, 3)), rng.normal(size=(3, 8, 1)), rng.normal(size=(3, 1, 1, 2))
    s = np.full(7, 0.3)
    arrays = [c, b, u, s]
    expected = smnn.posterior(*arrays)
    found = smnn.posterior(*map(cupy.asarray, arrays))
    record.events.clear()
    for name in ("variance", "covariance", "lag_covariance", "sum_of_squares", "log_determinant"):
        near(getattr(found, name).get(), getattr(expected, name))
    assert sum(what == "launch smnn_moments" for what, _ in record.events) == 3
    monkeypatch.setattr(moments, "LONGEST", 7)
    record.events.clear()
    near(smnn.posterior(*map(cupy.asarray, arrays)).variance.get(), expected.variance)
    assert not any(what == "launch smnn_moments" for what, _ in record.events)


def test_nothing_outlives_a_posterior(cupy: ModuleType) -> None:
    """No cycle of references, which would keep it until Python looks for such."""
    rng = np.random.default_rng(6)
    c, b, u = rng.normal(size=(3, 8, 1, 1, 3)), rng.normal(size=(3, 8, 1)), rng.normal(size=(3, 1, 1, 2))
    arrays = [cupy.asarray(x) for x in (c, b, u, np.full(7, 0.3))]

    def use() -> None:
        p = smnn.posterior(*arrays)
        assert p.variance.shape == p.mean.shape
        assert p.covariance.shape == (3, 8, 3, 3)
        assert p.scale.shape == p.log_determinant.shape

    use()
    gc.collect()
    gc.disable()
    try:
        before = len(live)
        use()
        assert len(live) == before
    finally:
        gc.enable()
