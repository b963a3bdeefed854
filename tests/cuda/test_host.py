"""The CUDA engine's plans and the kernels themselves, run over a grid on the CPU, against the array API engine."""

from __future__ import annotations

import shutil
from itertools import pairwise

import numpy as np
import pytest
from _emulator import COMPILER, Emulator
from _engine_cases import condition, gradients_by_name, random_problem
from hypothesis import given, settings
from hypothesis import strategies as st

import smnn_core as smnn
from smnn_core import _augmented
from smnn_core._problem import Problem, Rows, by_field
from smnn_core._solve import raise_if_singular
from smnn_core.engines._cuda import host, layout
from smnn_core.engines._cuda.grain import Grain
from smnn_core.engines._cuda.source import Specialization
from smnn_core.engines.array_api import ArrayEngine

pytestmark = pytest.mark.skipif(not shutil.which(COMPILER), reason="no C++ compiler")

FINE = Grain(lanes=1000, shortest=3, fewest=2, radix=2, last=2, gain=np.inf)
"""Divides whatever can be divided, into as many levels as possible."""
COARSE = Grain(lanes=24, shortest=5, fewest=2, radix=4, last=3, gain=np.inf)
WHOLE = Grain(lanes=1)


def check(problem: Problem, grain: Grain, **options) -> host.CudaFactor:
    """Solution, factorisation, normal solve and adjoint against the oracle."""
    system = problem.system
    eps = float(np.finfo(system.dtype).eps)
    cond = condition(problem)
    rng = np.random.default_rng(1)
    g = rng.uniform(-1, 1, (*problem.batch, system.n_steps, system.V, system.K)).astype(system.dtype)
    oracle = ArrayEngine().factorize(system)
    y, x = oracle.solve(problem.rows), oracle.normal_solve(g)
    residual = max(np.abs(r).max(initial=0) for r in _augmented.residual(problem, y))
    size_y, size_x = np.abs(y).max(initial=1), np.abs(x).max(initial=1)
    # backward stable: eps times the condition number, squared where the residual counts or in the normal solve
    tolerance_y, tolerance_x = 20 * eps * (np.sqrt(cond) * size_y + cond * residual), 20 * eps * cond * size_x

    device = Emulator(grain, **options)
    found, factor = host.solve_problem(device, problem)
    assert_near(found, y, tolerance_y, "y")
    assert not factor.undetermined.any()
    assert_near(host.factorize(device, system).solve(problem.rows), y, tolerance_y, "solve")
    assert_near(factor.normal_solve(g), x, tolerance_x, "normal solve")
    expected = gradients_by_name(oracle.adjoint(problem, y, g))
    for name, value in gradients_by_name(factor.adjoint(problem, found, g)).items():
        repeats = g.size / max(value.size, 1)  # terms of the sum over broadcast axes
        size = (1 + size_x) * (1 + size_y) * (1 + np.abs(expected[name]).max(initial=0))
        assert_near(value, expected[name], 20 * eps * cond * repeats * size, name)
    return factor


def assert_near(actual: np.ndarray, expected: np.ndarray, tolerance: float, label: str) -> None:
    assert actual.shape == expected.shape, f"{label}: {actual.shape}, expected {expected.shape}"
    assert actual.dtype == expected.dtype, label
    error = np.abs(actual - expected)
    assert np.all(error <= tolerance), f"{label}: error {error.max()}, tolerance {tolerance}"


@given(
    st.sampled_from([(), (1,), (2,), (7,), (3, 5), (33,)]),
    st.integers(2, 40) | st.sampled_from([97, 200]),
    st.sampled_from(["taylor", "hermite"]),
    st.sampled_from([FINE, COARSE, WHOLE]),
    st.booleans(),
    st.integers(1, 5),
    st.integers(0, 2**32 - 1),
)
def test_any_batch_and_time_in_any_division_and_order_of_threads(
    batch, T, scheme, grain, backwards, T_init, seed
) -> None:
    problem = random_problem(np.random.default_rng(seed), batch, T, 1, 3, 1, scheme=scheme, T_init=min(T_init, T))
    check(problem, grain, backwards=backwards)


@pytest.mark.parametrize("grain", [FINE, WHOLE], ids=["divided", "whole"])
@pytest.mark.parametrize(
    ("V", "K", "Q", "scheme", "dtype"),
    [
        pytest.param(2, 2, 2, "custom", "float64", marks=pytest.mark.slow),
        (1, 3, 1, "taylor", "float32"),
        (3, 3, 3, "taylor", "float64"),
        pytest.param(4, 3, 5, "custom", "float64", marks=pytest.mark.slow),
        pytest.param(1, 5, 1, "hermite", "float64", marks=pytest.mark.slow),
    ],
)
def test_sizes_schemes_and_dtypes(V, K, Q, scheme, dtype, grain) -> None:
    """Threads and teams of 8 and 16, unrolled and looped code, rows of the scheme on the next point alone, single
    precision. Members of a team run one after the other between barriers, in both orders: a barrier too few shows."""
    problem = random_problem(np.random.default_rng(2), (3,), 31, V, K, Q, scheme=scheme, T_init=12, dtype=dtype)
    for backwards in (False, True):
        check(problem, grain, backwards=backwards)


@pytest.mark.parametrize("grain", [FINE, COARSE, WHOLE], ids=["fine", "coarse", "whole"])
@pytest.mark.parametrize(
    ("K", "Q", "scheme"),
    [(3, 2, "custom"), (3, 2, "collocation"), pytest.param(4, 4, "collocation", marks=pytest.mark.slow)],
)
def test_teams_without_data_after_the_first_point(K, Q, scheme, grain) -> None:
    """Nothing that initial rows wait for stands between the last barrier of a step and the next one: more rows than K,
    and fewer (m = 2)."""
    problem = random_problem(np.random.default_rng(2), (3,), 31, 2, K, Q, scheme=scheme, T_init=1)
    for backwards in (False, True):
        check(problem, grain, backwards=backwards)


def test_teams() -> None:
    """As large as the memory of a block asks for; a thread alone where a lane has room in its registers, or in none."""
    sizes = [(4, 1, True), (5, 1, False), (5, 1, True), (9, 9, True), (12, 12, True), (12, 12, False), (12, 500, True)]
    modules = [Specialization("float64", n, 1, Q, extra_rows=True, chunked=chunked) for n, Q, chunked in sizes]
    assert [module.team("smnn_sweep") for module in modules] == [1, 1, 8, 8, 16, 8, 1]
    assert Specialization("float64", 9, 1, 9, extra_rows=True, chunked=True).team("smnn_back") == 1


@pytest.mark.parametrize("grain", [FINE, WHOLE], ids=["divided", "whole"])
def test_strides_of_every_kind(grain) -> None:
    """Reversed, every second element, transposed, stride 0: used as they are, with the same results to the bit."""
    rng = np.random.default_rng(3)
    problem = random_problem(rng, (4, 3), 23, 1, 3, 1, T_init=2)
    system = problem.system
    w = smnn.Weights(*(rng.uniform(0.5, 2, s) for s in [(4, 1, 23, 1), (4, 3, 2, 1, 3), (22,)]))

    def strange(x: np.ndarray) -> np.ndarray:
        wide = np.full(tuple(2 * size for size in x.shape)[::-1], np.nan)
        view = wide[tuple(slice(None, None, -2) for _ in x.shape)].T
        view[...] = x
        view.flags.writeable = False
        return view

    def build(f) -> Problem:
        arrays = system.coefficients, problem.rhs, problem.initial_values, system.step_sizes
        return Problem.build(*map(f, arrays), weights=smnn.Weights(f(w.equation), f(w.initial), f(w.smoothness)))

    plain, odd = build(lambda x: x), build(strange)
    check(plain, grain)
    y, factor = host.solve_problem(Emulator(grain), plain)
    again, other = host.solve_problem(Emulator(grain), odd)
    np.testing.assert_array_equal(again, y)
    g = rng.uniform(-1, 1, y.shape)
    expected = gradients_by_name(factor.adjoint(plain, y, g))
    for name, value in gradients_by_name(other.adjoint(odd, strange(y), strange(g))).items():
        np.testing.assert_array_equal(value, expected[name], err_msg=name)


@pytest.mark.parametrize("grain", [FINE, WHOLE], ids=["divided", "whole"])
def test_inputs_that_all_systems_and_points_share(grain) -> None:
    rng = np.random.default_rng(4)
    problem = Problem.build(
        np.array([[[[0.4, -0.2, 1.5]]]]), rng.uniform(-1, 1, (5, 1, 1)), rng.uniform(-1, 1, (2, 5, 1, 1, 2)),
        np.array([0.3]), n_steps=25, weights=smnn.Weights(1.0, rng.uniform(0.5, 2, (5, 1, 1, 1)), 2.0),
    )  # fmt: skip
    factor = check(problem, grain)
    assert factor.undetermined.shape == (5, 25)


@pytest.mark.parametrize("grain", [FINE, WHOLE], ids=["divided", "whole"])
def test_right_hand_sides_of_smoothness_rows(grain) -> None:
    rng = np.random.default_rng(5)
    problem = random_problem(rng, (2,), 30, 2, 2, 2, scheme="custom")
    m = problem.system.scheme.matrices(2)[0].shape[0]
    d = Rows(problem.rhs, problem.initial_values, rng.uniform(-1, 1, (2, 29, 2, m)))
    expected = ArrayEngine().factorize(problem.system).solve(d)
    found = host.factorize(Emulator(grain), problem.system).solve(d)
    tolerance = 20 * np.finfo(np.float64).eps * condition(problem) * (1 + np.abs(expected).max())
    assert_near(found, expected, tolerance, "y")


@pytest.mark.parametrize("grain", [FINE, WHOLE], ids=["divided", "whole"])
def test_factor_of_a_smaller_batch(grain) -> None:
    """Right-hand sides of a larger batch than the system's get a factor of their own."""
    rng = np.random.default_rng(6)
    system = random_problem(rng, (), 30, 1, 3, 1).system
    g = rng.uniform(-1, 1, (4, 30, 1, 3))
    factor = host.factorize(Emulator(grain), system)
    expected = np.stack([factor.normal_solve(one) for one in g])
    np.testing.assert_allclose(factor.normal_solve(g), expected, rtol=1e-9, atol=1e-9 * np.abs(expected).max())


@pytest.mark.parametrize("t", range(24))
def test_undetermined_points_are_found_wherever_they_are_eliminated(t) -> None:
    """A point without any row, in a chunk or a separator of any level: its system is NaN, the others are untouched."""
    rng = np.random.default_rng(7)
    problem = random_problem(rng, (3,), 24, 1, 3, 1, T_init=1)
    system = problem.system
    smoothness, equation = np.ones((3, 23)), np.ones((3, 24, 1))
    equation[1, t] = 0
    smoothness[1, max(t - 1, 0) : t + 1] = 0
    initial = np.ones((3, 1, 1, 3))
    initial[1] = 0
    broken = Problem.build(
        system.coefficients, problem.rhs, problem.initial_values, system.step_sizes,
        weights=smnn.Weights(equation, initial, smoothness),
    )  # fmt: skip
    expected, _ = host.solve_problem(Emulator(FINE), problem)
    y, factor = host.solve_problem(Emulator(FINE), broken)
    assert np.isnan(y[1]).all()
    np.testing.assert_array_equal(y[[0, 2]], expected[[0, 2]])
    assert factor.undetermined[1, t]
    assert not factor.undetermined[[0, 2]].any()
    gradients = factor.adjoint(broken, np.nan_to_num(y), np.ones_like(y))
    of_members = [x for x in by_field(gradients) if x.shape[:1] == (3,)]
    assert len(of_members) >= 6  # (the steps may be shared)
    for x in of_members:
        assert np.isnan(x[1]).all()
        assert np.isfinite(x[[0, 2]]).all()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_input_that_is_not_finite_stays_with_its_system(value) -> None:
    rng = np.random.default_rng(8)
    problem = random_problem(rng, (3,), 24, 1, 3, 1)
    expected, _ = host.solve_problem(Emulator(FINE), problem)
    c = problem.system.coefficients.copy()
    c[1, 11] = value
    broken = Problem.build(c, problem.rhs, problem.initial_values, problem.system.step_sizes)
    y, _ = host.solve_problem(Emulator(FINE), broken)
    np.testing.assert_array_equal(y[[0, 2]], expected[[0, 2]])
    assert not np.isfinite(y[1]).all()


@pytest.mark.parametrize("field", ["coefficients", "step_sizes", "equation", "initial", "smoothness"])
def test_an_infinite_system_is_not_called_singular(field: str) -> None:
    """Its pivots are no larger than those of columns of infinite norm."""
    problem = random_problem(np.random.default_rng(8), (3,), 24, 1, 3, 1)
    system, T_init, R_init = problem.system, *problem.initial_values.shape[-3::2]
    fields = {
        "coefficients": system.coefficients.copy(),
        "step_sizes": np.broadcast_to(system.step_sizes, (3, 23)).copy(),
        "equation": np.ones((3, 24, 1)),
        "initial": np.ones((3, T_init, 1, R_init)),
        "smoothness": np.ones((3, 23)),
    }
    fields[field][1].flat[0] = np.inf
    c, s, *weights = fields.values()
    broken = Problem.build(c, problem.rhs, problem.initial_values, s, weights=smnn.Weights(*weights))
    for grain in (FINE, COARSE, WHOLE):
        y, factor = host.solve_problem(Emulator(grain), broken)
        assert not np.isfinite(y[1]).all()
        raise_if_singular(broken.system, factor.undetermined, check=True)


def test_an_empty_batch_launches_nothing() -> None:
    problem = random_problem(np.random.default_rng(9), (0,), 12, 1, 3, 1)
    device = Emulator(FINE)
    y, factor = host.solve_problem(device, problem)
    assert y.shape == (0, 12, 1, 3)
    shared = Problem.build(
        np.array([[[[0.4, -0.2, 1.5]]]]), problem.rhs, problem.initial_values, np.array([0.3]), n_steps=12
    )
    y, factor = host.solve_problem(device, shared)
    assert not factor.adjoint(shared, y, y).coefficients.any()
    assert device.launched == []


@given(st.integers(0, 10**7), st.integers(2, 10**7))
def test_divisions_are_whole_and_fill_the_device(batch, T) -> None:
    grain = Grain(lanes=33792)
    sizes = grain.divide(batch, T)
    assert sizes[0] == T
    assert len(sizes) <= layout.MAX_LEVELS
    assert all(1 <= b < a for a, b in pairwise(sizes))
    if len(sizes) > 1:
        assert sizes[-1] <= grain.last
        assert sizes[1] >= grain.fewest
        assert batch * sizes[1] <= grain.lanes
        assert sizes[0] // sizes[1] >= grain.shortest


@pytest.mark.parametrize(
    ("batch", "T", "chunks"),
    [
        (1, 10_000, 625),
        (1536, 50, None),  # 3 chunks of 17 points, and 3 separators: 46 steps for 50
        (1536, 128, 8),
        (6000, 1000, 5),
        (10_000, 1000, None),  # 3 chunks: 680 steps
        (20_000, 1000, None),
    ],
)
def test_time_is_divided_where_that_leaves_fewer_steps(batch, T, chunks) -> None:
    sizes = Grain(lanes=33792).divide(batch, T)
    assert (sizes[1] if len(sizes) > 1 else None) == chunks


class Jobs(Emulator):
    """Keeps the jobs of chains, and runs nothing."""

    def __init__(self, grain: Grain) -> None:
        super().__init__(grain)
        self.chains: list[np.void] = []

    def launch(self, module: Specialization, kernel: str, lanes: int, job: np.ndarray) -> None:
        if kernel == "smnn_chains_sweep":
            self.chains.append(job.view(layout.chain_job(module.dtype))[0].copy())


@pytest.mark.parametrize(
    ("batch", "T", "V", "separators", "launches"),
    [
        (1, 10_000, 1, 30, 1),  # 20, 4, 4 and 2
        (64, 1000, 3, 12, 2),  # 4, 4 and 4
        (1, 10_000, 3, 30, 3),
        (1, 10_000, 4, 30, 3),
    ],
)
def test_separators_that_follow_each_other(batch, T, V, separators, launches) -> None:
    """Also where teams sweep them, of which a warp has four or two: no team takes two lanes of a level."""
    device = Jobs(Grain(lanes=33792))
    host.factorize(device, random_problem(np.random.default_rng(0), (batch,), T, V, 3, V).system)
    count = 0
    for job in device.chains:
        for level in range(job["first_level"], job["end_level"]):
            items, chunks = job["sizes"][level], max(job["sizes"][level + 1], 1)
            count += -(-chunks // job["group"]) * -(-items // chunks)
    assert (count, len(device.chains)) == (separators, launches)
    assert [job["first_level"] for job in device.chains[1:]] == [job["end_level"] for job in device.chains[:-1]]


@settings(max_examples=100)
@given(st.lists(st.integers(1, 4), max_size=4), st.integers(0, 2**32 - 1))
def test_merged_axes_hold_the_same_elements(shape, seed) -> None:
    rng = np.random.default_rng(seed)
    views = []
    for _ in range(2):
        order = rng.permutation(len(shape))
        x = rng.normal(size=[shape[i] for i in order]).transpose(np.argsort(order))
        kept = tuple(slice(0, 1) if rng.random() < 0.3 else slice(None) for _ in shape)
        views.append(np.broadcast_to(x[kept], shape))
    strides = [[stride // 8 for stride in x.strides] for x in views]
    sizes, merged = layout.merge_axes(tuple(shape), strides)
    assert len(sizes) <= len(shape)
    for x, s in zip(views, merged, strict=True):
        flat = np.lib.stride_tricks.as_strided(x, sizes, [8 * stride for stride in s])
        np.testing.assert_array_equal(flat.ravel(), x.ravel())
