"""The compiled engine against the array API engine, entry by entry; this file runs under every instruction set.

`test_cpu_levels` runs it again for each of them, and for 1 and 2 threads.
"""

from __future__ import annotations

import platform
import warnings
from dataclasses import replace

import numpy as np
import pytest
from _strategies import custom_scheme, problems
from hypothesis import given, settings
from hypothesis import strategies as st
from threadpoolctl import threadpool_limits

import smnn_core as smnn
from smnn_core import _augmented, _constraints
from smnn_core._problem import Gradients, Problem, Rows, System, by_field, from_fields
from smnn_core._schemes import triangular_rows
from smnn_core.engines import cpu
from smnn_core.engines.array_api import ArrayEngine

pytestmark = pytest.mark.skipif(cpu._kernels is None, reason="the kernels are not compiled here")

ENGINE = cpu.CpuEngine()
EPS = float(np.finfo(np.float64).eps)
# exponent 0: engines know nothing of the weights that the core gives to steps that differ
SCHEMES = {"taylor": smnn.TAYLOR, "hermite": replace(smnn.HERMITE, exponent=0.0), "custom": None}
COMPILED = [(1, 2, 1), (1, 3, 1), (1, 4, 1), (1, 5, 1), (2, 2, 2)]


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
    weights: smnn.Weights | None = None,
) -> Problem:
    """A well-conditioned problem: equations that fix the highest derivatives, initial values for the lower ones."""
    c = rng.uniform(-0.4, 0.4, (*batch, T, Q, V, K))
    for v in range(min(V, Q)):
        c[..., v, v, K - 1] += 1.5
    return Problem.build(
        c,
        rng.uniform(-1, 1, (*batch, T, Q)),
        rng.uniform(-1, 1, (*batch, T_init, V, K)),
        rng.uniform(0.2, 0.5, (*batch, T - 1)),
        n_steps=T,
        scheme=SCHEMES[scheme] or custom_scheme(K),
        weights=weights or smnn.Weights(),
    )


def condition(problem: Problem) -> float:
    """|M^-1| |M| for M = A^T W^2 A, by power iteration with the array API engine; squared condition of W A."""
    system = problem.system
    factor = ArrayEngine().factorize(system)
    rng = np.random.default_rng(0)
    x = y = rng.normal(size=(*system.batch, system.n_steps, system.V, system.K))
    for _ in range(8):
        x = factor.normal_solve(x / np.linalg.norm(x))
        y = y / np.linalg.norm(y)
        rows = _constraints.weighted(system.weights, _constraints.apply(system, y), 2)
        y = _constraints.apply_transpose(system, rows)
    # power iteration underestimates: by less than this for 8 steps from a random start
    return 10 * float(np.linalg.norm(x) * np.linalg.norm(y))


def assert_near(actual: np.ndarray, expected: np.ndarray, tolerance: float, label: str) -> None:
    assert actual.shape == expected.shape, f"{label}: {actual.shape}, expected {expected.shape}"
    assert actual.dtype == expected.dtype, label
    error = np.abs(actual - expected)
    assert np.all(error <= tolerance), f"{label}: error {error.max()}, tolerance {tolerance}"


def named(gradients: Gradients) -> dict[str, np.ndarray]:
    """All gradients by name."""
    weights = {f"weights.{k}": x for k, x in vars(gradients.weights).items()}
    return {k: x for k, x in gradients._asdict().items() if k != "weights"} | weights


def check_against_oracle(problem: Problem) -> None:
    """Solution, normal solve and adjoint of both engines."""
    system = problem.system
    eps = EPS
    cond = condition(problem)
    rng = np.random.default_rng(1)
    g = rng.uniform(-1, 1, (*problem.batch, system.n_steps, system.V, system.K))

    oracle = ArrayEngine().factorize(system)
    y = oracle.solve(problem.rows)
    x = oracle.normal_solve(g)
    expected = named(oracle.adjoint(problem, y, g))

    found, factor = ENGINE.solve_problem(problem)
    assert factor.undetermined is None
    size_y, size_x = np.abs(y).max(initial=1), np.abs(x).max(initial=1)
    root = np.sqrt(cond)
    residual = max(np.abs(r).max(initial=0) for r in _augmented.residual(problem, y))
    # backward stable: eps times the condition number, squared where the residual counts or in the normal solve
    assert_near(found, y, 20 * eps * (root * size_y + cond * residual), "y")
    assert_near(factor.normal_solve(g), x, 20 * eps * cond * size_x, "normal solve")
    assert_near(ENGINE.normal_solve(system, g), x, 20 * eps * cond * size_x, "normal solve of a system")
    frozen = ENGINE.factorize(system)
    assert_near(frozen.solve(problem.rows), y, 20 * eps * (root * size_y + cond * residual), "solve")
    assert_near(frozen.normal_solve(g), x, 20 * eps * cond * size_x, "normal solve with a factor")
    assert_near(
        ENGINE.solve_problem(problem, recompute=True)[0],
        y,
        20 * eps * (root * size_y + cond * residual),
        "y, recompute",
    )
    gradients = named(factor.adjoint(problem, found, g))
    without_factor = {
        recompute: named(ENGINE.adjoint(problem, found, g, recompute=recompute)) for recompute in (False, True)
    }
    for name, value in gradients.items():
        repeats = g.size / max(value.size, 1)  # terms of the sum over broadcast axes
        tolerance = (
            20 * eps * cond * (1 + size_x) * (1 + size_y) * repeats * (1 + np.abs(expected[name]).max(initial=0))
        )
        assert_near(value, expected[name], tolerance, name)
        for recompute, found_again in without_factor.items():
            assert_near(
                found_again[name], expected[name], tolerance, f"{name} without a factor, recompute: {recompute}"
            )


@given(problems())
def test_agrees_with_the_oracle_on_small_problems(data) -> None:
    check_against_oracle(Problem.build(*data.arguments(), **data.options()))


@st.composite
def shapes(draw: st.DrawFn) -> tuple[tuple[int, ...], int, int, int, int]:
    """Batches that leave lanes of packs empty, times that divide into unequal chunks or none."""
    batch = draw(st.sampled_from([(), (1,), (2,), (7,), (17,), (3, 5), (33,)]))
    V, K, Q = draw(st.sampled_from([*COMPILED, (3, 3, 3), (2, 2, 1), (1, 1, 1), (2, 3, 3), (1, 6, 2)]))
    T = draw(st.integers(2, 40) | st.sampled_from([97, 200, 331]))
    return batch, T, V, K, Q


@given(shapes(), st.sampled_from(list(SCHEMES)), st.integers(1, 5), st.integers(0, 2**32 - 1))
def test_agrees_with_the_oracle_on_any_shape(shape, scheme, T_init, seed) -> None:
    batch, T, V, K, Q = shape
    rng = np.random.default_rng(seed)
    check_against_oracle(random_problem(rng, batch, T, V, K, Q, scheme=scheme, T_init=min(T_init, T)))


@pytest.mark.parametrize("sizes", [*COMPILED, (2, 3, 2), (3, 3, 3), (4, 4, 4), (8, 4, 8)])
@pytest.mark.parametrize("batch", [(), (19,)])
def test_agrees_with_the_oracle_for_every_size(sizes, batch) -> None:
    # the oracle takes its time for large blocks
    T = 70 if sizes[0] * sizes[1] < 16 else 4 if batch else 24
    check_against_oracle(random_problem(np.random.default_rng(2), batch, T, *sizes))


def test_weights_of_every_broadcast_and_zeros() -> None:
    rng = np.random.default_rng(3)
    B, T, V, K, Q = 18, 21, 1, 3, 1
    equation = rng.uniform(0.5, 2, (B, T, 1))
    equation[:, 5] = 0
    smoothness = rng.uniform(0.5, 2, (T - 1,))
    weights = smnn.Weights(equation, rng.uniform(0.5, 2, (B, 1, 1, 1)), smoothness)
    check_against_oracle(random_problem(rng, (B,), T, V, K, Q, weights=weights))


@pytest.mark.parametrize("batch", [(), (5,), (40,)])
def test_right_hand_sides_of_smoothness_rows(batch) -> None:
    rng = np.random.default_rng(4)
    for scheme in SCHEMES:
        problem = random_problem(rng, batch, 50, 2, 3, 2, scheme=scheme)
        system = problem.system
        m = system.scheme.matrices(3)[0].shape[0]
        d = Rows(problem.rhs, problem.initial_values, rng.uniform(-1, 1, (*batch, 49, 2, m)))
        expected = ArrayEngine().factorize(system).solve(d)
        tolerance = 20 * np.finfo(np.float64).eps * condition(problem) * (1 + np.abs(expected).max())
        assert_near(ENGINE.factorize(system).solve(d), expected, tolerance, scheme)


@pytest.mark.parametrize("scheme", list(SCHEMES))
@pytest.mark.parametrize("sizes", [(1, 3, 1), (1, 5, 1), (2, 3, 2)])
def test_left_hand_side_shared_by_many_right_hand_sides(sizes, scheme) -> None:
    """Eliminated with many of them at a time."""
    (V, K, Q), T, T_init = sizes, 30, 3
    rng = np.random.default_rng(5)
    system = random_problem(rng, (), T, V, K, Q, scheme=scheme, T_init=T_init).system
    R_init = system.n_initial_orders
    rhs = rng.uniform(-1, 1, (6, 11, T, Q))
    initial = rng.uniform(-1, 1, (11, T_init, V, R_init))
    check_against_oracle(Problem.of(system, rhs, initial))


@pytest.mark.parametrize("sizes", [(1, 3, 1), (2, 3, 2)])
@pytest.mark.parametrize(
    ("lhs", "steps", "rhs", "initial"),
    [
        ((3, 1), (), (3, 40), (40,)),
        ((3,), (3,), (40, 3), (40, 1)),
        ((2, 1, 3), (2, 1, 1), (2, 37, 3), (1, 37, 1)),
        ((1, 3, 1, 1), (2, 1, 1, 1), (2, 1, 5, 9), (3, 1, 9)),
    ],
)
def test_left_hand_sides_shared_along_some_axes(lhs, steps, rhs, initial, sizes) -> None:
    (V, K, Q), T = sizes, 20
    rng = np.random.default_rng(9)
    weights = smnn.Weights(rng.uniform(1, 2, (*lhs, T, Q)), 1.0, rng.uniform(1, 2, (T - 1,)))
    whole = random_problem(rng, lhs, T, V, K, Q, weights=weights).system
    shapes = (*steps, T - 1), (*rhs, T, Q), (*initial, 1, V, K)
    s, b, u = (rng.uniform(0.2, 0.5, shape) for shape in shapes)
    check_against_oracle(Problem.build(whole.coefficients, b, u, s, weights=weights))


@pytest.mark.parametrize(
    ("lhs", "T", "sizes", "n_rhs"),
    [
        ((), 1000, (3, 3, 3), 5),  # in chunks, the factor kept
        ((), 40_000, (1, 2, 1), 4),  # in chunks, and eliminated again
        ((20,), 50, (2, 3, 2), 4),  # undivided lanes, in one segment
        ((9,), 700, (2, 4, 2), 3),  # and in several
        ((5, 3), 30, (3, 2, 4), 2),
        ((), 2000, (1, 3, 1), 12),
    ],
)
@pytest.mark.parametrize("scheme", ["taylor", "hermite", "custom"])
def test_right_hand_sides_are_solved_side_by_side_as_one_by_one(lhs, T, sizes, n_rhs, scheme) -> None:
    (V, K, Q), rng = sizes, np.random.default_rng(2)
    system = random_problem(rng, lhs, T, V, K, Q, T_init=2, scheme=scheme).system
    b, u = rng.uniform(-1, 1, (n_rhs, *lhs, T, Q)), rng.uniform(-1, 1, (n_rhs, *[1] * len(lhs), 2, V, K))

    def solve(b: np.ndarray, u: np.ndarray) -> np.ndarray:
        return ENGINE.solve_problem(Problem.of(system, b, u))[0]

    together, alone = solve(b, u), np.stack([solve(b[i], u[i]) for i in range(n_rhs)])
    np.testing.assert_allclose(together, alone, rtol=0, atol=1e-11 * np.abs(alone).max())


@pytest.mark.parametrize(("batch", "T"), [((), 2), ((3, 11), 20), ((2,), 1003)])
@pytest.mark.parametrize(("V", "K", "Q"), [(1, 3, 1), (2, 3, 2)])
def test_sweeps_find_the_shortest_step_and_the_heaviest_equation(
    batch: tuple[int, ...], T: int, V: int, K: int, Q: int
) -> None:
    rng = np.random.default_rng(12)
    weights = smnn.Weights(equation=rng.uniform(-2, 2, (*batch, T, Q)))
    problem = random_problem(rng, batch, T, V, K, Q, weights=weights)
    system = problem.system
    shortest, heaviest = ENGINE.solve_problem(problem)[1].extremes
    norms = np.abs(system.weights.equation) * np.sqrt((system.coefficients**2).sum(axis=(-2, -1)))
    assert shortest == np.abs(system.step_sizes).min(initial=1.0)
    np.testing.assert_allclose(heaviest, norms.max(), rtol=10 * EPS)


@pytest.mark.parametrize("T", [20, 1003])
def test_an_adjoint_says_whether_a_member_of_the_batch_is_nan(T: int) -> None:
    problem = random_problem(np.random.default_rng(13), (11,), T, 1, 3, 1)
    y, _ = ENGINE.solve_problem(problem)
    for member in (None, 10):
        g = np.ones_like(y)
        if member is not None:
            g[member] = np.nan
        gradients = (np.empty_like(problem.system.coefficients), *[None] * 6)
        _, any_nan = cpu._kernels.adjoint(cpu._spec_of(problem), None, y, g, gradients)
        assert any_nan == np.isnan(gradients[0]).any() == (member is not None)


def test_one_of_several_shared_left_hand_sides_is_singular_or_has_a_zero_step() -> None:
    rng = np.random.default_rng(10)
    regular = random_problem(rng, (3, 1), 20, 1, 3, 1).system
    b, u = rng.uniform(-1, 1, (3, 50, 20, 1)), rng.uniform(-1, 1, (50, 1, 1, 1))
    expected, _ = ENGINE.solve_problem(Problem.build(regular.coefficients, b, u, regular.step_sizes))
    c, s = regular.coefficients.copy(), regular.step_sizes.copy()
    c[1] = 0.0
    problem = Problem.build(c, b, u, s)
    y, factor = ENGINE.solve_problem(problem)
    assert factor.undetermined.any(axis=-1).tolist() == [[False], [True], [False]]
    assert np.isnan(y[1]).all()
    np.testing.assert_array_equal(y[[0, 2]], expected[[0, 2]])
    gradients = factor.adjoint(problem, y, np.ones_like(y))
    assert np.isnan(gradients.coefficients).any(axis=(1, 2, 3, 4, 5)).tolist() == [False, True, False]
    s[2, 0, 5] = 0.0
    with pytest.raises(smnn.ArgumentError, match="step_sizes contains a zero"):
        smnn.solve_ode(regular.coefficients, b, u, s, engine="cpu")


def test_smoothness_right_hand_sides_of_a_shared_left_hand_side() -> None:
    rng = np.random.default_rng(7)
    system = random_problem(rng, (), 40, 2, 3, 2).system
    m = system.scheme.matrices(3)[0].shape[0]
    shapes = (50, 40, 2), (50, 1, 2, system.n_initial_orders), (50, 39, 2, m)
    d = Rows(*(rng.uniform(-1, 1, shape) for shape in shapes))
    together = ENGINE.factorize(system).solve(d)
    alone = np.stack([ENGINE.factorize(system).solve(Rows(*each)) for each in zip(*d, strict=True)])
    np.testing.assert_allclose(together, alone, rtol=0, atol=1e-9 * np.abs(alone).max())


def test_a_shared_left_hand_side_that_is_singular() -> None:
    c = np.zeros((20, 1, 1, 3))
    b, u, s = np.zeros((64, 20, 1)), np.zeros((64, 0, 1, 0)), np.full(19, 0.1)
    with pytest.raises(smnn.SingularSystemError):
        smnn.solve_ode(c, b, u, s, engine="cpu")
    system = Problem.build(c, b, u, s).system
    assert np.isnan(ENGINE.normal_solve(system, np.ones((64, 20, 1, 3)))).all()


def test_arrays_of_any_strides_are_used_as_they_are() -> None:
    rng = np.random.default_rng(6)
    weights = smnn.Weights(rng.uniform(1, 2, (9, 26, 1)), rng.uniform(1, 2, (1, 1, 3)), rng.uniform(1, 2, (25,)))
    problem = random_problem(rng, (9,), 26, 1, 3, 1, weights=weights)
    system = problem.system

    def strange(x: np.ndarray) -> np.ndarray:
        """The same values, backwards in every second element of a larger array."""
        wide = np.zeros(tuple(2 * size for size in x.shape), x.dtype)
        view = wide[tuple(slice(None, None, -2) for _ in x.shape)]
        view[...] = x
        view.flags.writeable = False
        return view

    w = system.weights
    same = Problem.build(
        strange(system.coefficients), strange(problem.rhs), strange(problem.initial_values), strange(system.step_sizes),
        weights=smnn.Weights(strange(w.equation), strange(w.initial), strange(w.smoothness)),
    )  # fmt: skip
    y, factor = ENGINE.solve_problem(problem)
    again, other = ENGINE.solve_problem(same)
    np.testing.assert_array_equal(again, y)
    g = rng.uniform(-1, 1, y.shape)
    expected = named(factor.adjoint(problem, y, g))
    for name, value in named(other.adjoint(same, strange(y), strange(g))).items():
        np.testing.assert_array_equal(value, expected[name], err_msg=name)


def test_a_gradient_of_one_number_is_spread() -> None:
    problem = random_problem(np.random.default_rng(7), (3,), 200, 1, 3, 1)
    y, factor = ENGINE.solve_problem(problem)
    ones = named(factor.adjoint(problem, y, np.ones_like(y)))
    for name, value in named(factor.adjoint(problem, y, np.broadcast_to(np.float64(1), y.shape))).items():
        np.testing.assert_array_equal(value, ones[name], err_msg=name)


@pytest.mark.parametrize("shared_steps", [False, True])
def test_gradients_of_singular_members_are_nan(shared_steps: bool) -> None:
    """And what they are summed into; all others are what they are."""
    rng = np.random.default_rng(0)
    regular = random_problem(rng, (3,), 6, 1, 3, 1)
    c, s = regular.system.coefficients.copy(), np.full((5,) if shared_steps else (3, 5), 0.3)
    c[1] = 0.0
    problem = Problem.build(c, regular.rhs, regular.initial_values[..., :1], s)
    g = rng.normal(size=(3, 6, 1, 3))
    oracle = ArrayEngine().factorize(problem.system)
    expected = oracle.adjoint(problem, oracle.solve(problem.rows), g)
    y, factor = ENGINE.solve_problem(problem)
    for found in (factor.adjoint(problem, y, g), ENGINE.adjoint(problem, y, g)):
        for x, other in zip(by_field(found), by_field(expected), strict=True):
            np.testing.assert_array_equal(np.isnan(x), np.isnan(other))
        assert np.isnan(found.coefficients).any(axis=(1, 2, 3, 4)).tolist() == [False, True, False]


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize(("batch", "T"), [((), 500), ((3,), 31), ((50,), 20), ((0,), 5)])
def test_only_gradients_that_are_wanted(batch, T, shared) -> None:
    """Each of them alone is what it is among all."""
    problem = random_problem(np.random.default_rng(14), batch, T, 1, 3, 1)
    if shared and 0 not in batch:
        system = problem.system
        first = (0,) * len(batch)
        problem = Problem.build(
            system.coefficients[first][:1], problem.rhs, problem.initial_values, system.step_sizes[first][:1]
        )
    y, factor = ENGINE.solve_problem(problem)
    expected = by_field(factor.adjoint(problem, y, y))
    for i in range(len(expected)):
        wanted = from_fields(k == i for k in range(len(expected)))
        for found in (factor.adjoint(problem, y, y, wanted), ENGINE.adjoint(problem, y, y, wanted, recompute=True)):
            np.testing.assert_allclose(by_field(found)[i], expected[i], rtol=1e-9, atol=1e-12, err_msg=str(i))
            assert [k for k, x in enumerate(by_field(found)) if x is not None] == [i]
        np.testing.assert_array_equal(by_field(factor.adjoint(problem, y, y, wanted))[i], expected[i])


@pytest.mark.parametrize(("batch", "T"), [((), 500), ((3,), 31), ((50,), 20)])
def test_steps_of_zero_are_found_wherever_they_are(batch, T) -> None:
    problem = random_problem(np.random.default_rng(15), batch, T, 1, 3, 1)
    ENGINE.solve_problem(problem)
    s = problem.system.step_sizes
    flat = s.reshape(-1, T - 1)
    for member in {0, len(flat) // 2, len(flat) - 1}:
        for t in {*range(min(T - 1, 40)), T // 2, T - 2}:
            kept = flat[member, t]
            flat[member, t] = -0.0 if t % 2 else 0.0
            with pytest.raises(smnn.ArgumentError, match="step_sizes contains a zero"):
                ENGINE.solve_problem(problem)
            flat[member, t] = kept
    ENGINE.solve_problem(problem)


def test_a_shared_step_of_zero_is_found() -> None:
    problem = random_problem(np.random.default_rng(16), (50,), 20, 1, 3, 1)
    steps = problem.system.step_sizes[0]
    same = Problem.build(problem.system.coefficients[0], problem.rhs, problem.initial_values, steps)
    ENGINE.solve_problem(same)
    steps[7] = 0
    with pytest.raises(smnn.ArgumentError, match="step_sizes contains a zero"):
        ENGINE.solve_problem(same)


@pytest.mark.parametrize("batch", [(), (3,), (50,)])
def test_the_same_from_run_to_run(batch) -> None:
    problem = random_problem(np.random.default_rng(8), batch, 500, 1, 3, 1)
    first, factor = ENGINE.solve_problem(problem)
    gradients = named(factor.adjoint(problem, first, first))
    for _ in range(5):
        y, factor = ENGINE.solve_problem(problem)
        np.testing.assert_array_equal(y, first)
        for name, value in named(factor.adjoint(problem, y, y)).items():
            np.testing.assert_array_equal(value, gradients[name], err_msg=name)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_non_finite_input_stays_in_its_batch_member(bad) -> None:
    problem = random_problem(np.random.default_rng(9), (21,), 30, 1, 3, 1)
    c, b = problem.system.coefficients.copy(), problem.rhs.copy()
    expected, factor = ENGINE.solve_problem(problem)
    normal = factor.normal_solve(expected)
    c[4, 7, 0, 0, 1] = bad
    b[13, 2, 0] = bad
    spoiled = Problem.build(c, b, problem.initial_values, problem.system.step_sizes)
    y, factor = ENGINE.solve_problem(spoiled)
    others = np.delete(np.arange(21), [4, 13])
    np.testing.assert_array_equal(y[others], expected[others])
    assert not np.isfinite(y[4]).all()
    assert not np.isfinite(y[13]).all()
    others = np.delete(np.arange(21), [4])
    np.testing.assert_array_equal(factor.normal_solve(expected)[others], normal[others])


@pytest.mark.parametrize(("batch", "T"), [((), 6), ((), 400), ((20,), 6), ((3,), 300)])
def test_undetermined_systems_are_found(batch, T) -> None:
    """y'' = 0 without initial values: two constants are free."""
    c = np.zeros((T, 1, 1, 3))
    c[..., 2] = 1
    system = System.build(
        c, np.full((*batch, T - 1), 0.1), n_initial_steps=0, n_initial_orders=0, n_steps=T, scheme=smnn.TAYLOR,
        weights=smnn.Weights(),
    )  # fmt: skip
    factor = ENGINE.factorize(system)
    assert factor.undetermined is not None
    assert factor.undetermined.shape == (*batch, T)
    assert factor.undetermined.any(axis=-1).all()
    y = factor.solve(Rows(np.ones((*batch, T, 1)), np.zeros((0, 1, 0)), None))
    assert np.isnan(y).all()
    with pytest.raises(smnn.SingularSystemError, match="no unique solution"):
        smnn.solve_ode(c, np.ones((T, 1)), np.zeros((0, 1, 0)), system.step_sizes)


def test_one_undetermined_member_leaves_the_others() -> None:
    problem = random_problem(np.random.default_rng(10), (9,), 12, 1, 3, 1)
    expected, _ = ENGINE.solve_problem(problem)
    initial = np.ones((9, 1, 1, 3))
    initial[2] = 0
    c = problem.system.coefficients.copy()
    c[2] = [0, 0, 1]
    system = System.build(
        c, problem.system.step_sizes, n_initial_steps=1, n_initial_orders=3, n_steps=12, scheme=smnn.TAYLOR,
        weights=smnn.Weights(initial=initial),
    )  # fmt: skip
    y, factor = ENGINE.solve_problem(Problem.of(system, problem.rhs, problem.initial_values))
    assert factor.undetermined is not None
    np.testing.assert_array_equal(factor.undetermined.any(axis=-1), np.arange(9) == 2)
    np.testing.assert_array_equal(y[np.arange(9) != 2], expected[np.arange(9) != 2])
    assert np.isnan(y[2]).all()


@pytest.mark.parametrize("sizes", COMPILED)
@pytest.mark.parametrize("batch", [20, 1])
def test_rows_that_start_with_zero_leave_other_members_alone(sizes, batch) -> None:
    """One series begins anew at point 30: it is solved as two, and the others as without it."""
    V, K, Q = sizes
    T, new = 64, 30
    rng = np.random.default_rng(12)
    whole = random_problem(rng, (batch,), T, *sizes)
    values = rng.uniform(-1, 1, (batch, T, V, K - 1))
    equation, initial = np.ones((batch, T, Q)), np.zeros_like(values)
    smoothness = np.ones((batch, T - 1))
    initial[:, 0] = 1

    def problem(start: int = 0, end: int = T) -> Problem:
        points, steps = np.s_[:, start:end], np.s_[:, start : end - 1]
        return Problem.build(
            whole.system.coefficients[points],
            whole.rhs[points],
            values[points],
            whole.system.step_sizes[steps],
            weights=smnn.Weights(equation[points], initial[points], smoothness[steps]),
        )

    def solution_and_gradients() -> tuple[np.ndarray, ...]:
        y, factor = ENGINE.solve_problem(problem())
        return y, *by_field(factor.adjoint(problem(), y, g))

    g = rng.uniform(-1, 1, (batch, T, V, K))
    before = solution_and_gradients()
    member = batch // 2
    smoothness[member, new - 1], initial[member, new] = 0, 1
    now = solution_and_gradients()
    others = np.arange(batch) != member
    for x, y in zip(now, before, strict=True):
        np.testing.assert_array_equal(x[others], y[others])
    for start, end in ((0, new), (new, T)):
        expected, _ = ENGINE.solve_problem(problem(start, end))
        tolerance = 100 * EPS * np.abs(expected).max()
        np.testing.assert_allclose(now[0][member, start:end], expected[member], rtol=0, atol=tolerance)


def test_results_are_ordinary_arrays_wherever_their_memory_comes_from() -> None:
    """Large results lie in memory that is used again: not while anything refers to it."""
    rng = np.random.default_rng(8)
    problem = random_problem(rng, (1000,), 20, 1, 3, 1)
    y, factor = ENGINE.solve_problem(problem)
    assert type(y) is np.ndarray
    assert y.flags.writeable
    assert y.nbytes >= cpu.POOLED_BYTES
    kept, part = y.copy(), y[5:, :, 0]
    del y
    for _ in range(5):
        ENGINE.solve_problem(random_problem(rng, (1000,), 20, 1, 3, 1))
        factor.normal_solve(rng.uniform(-1, 1, kept.shape))
    np.testing.assert_array_equal(part, kept[5:, :, 0])


@given(
    st.integers(1, 2),
    st.integers(2, 9),
    st.integers(2, 5),
    st.booleans(),
    st.integers(0, 2**32 - 1),
)
def test_rows_that_start_with_zeros(V, T, K, all_orders, seed) -> None:
    """Equations with zeros among coefficients and weights, against the dense problem of each member."""
    rng = np.random.default_rng(seed)
    B, R_init = 20, K - 1 + all_orders

    def some_zero(*shape: int) -> np.ndarray:
        return rng.normal(size=shape) * rng.integers(0, 2, shape)

    arguments = some_zero(B, T, V, V, K), some_zero(B, T, V), some_zero(B, 2, V, R_init), np.ones((B, T - 1))
    zero_or_one = [rng.integers(0, 4, shape) > 0 for shape in [(B, T, V), (B, 2, V, R_init), (B, T - 1)]]
    weights = smnn.Weights(*(w.astype(float) for w in zero_or_one))
    A, d = smnn.dense_system(*arguments, scheme=smnn.TAYLOR, weights=weights)
    values = np.linalg.svd(A, compute_uv=False)
    determined, singular = values[:, -1] > 1e-3 * values[:, 0], values[:, -1] < 1e-12 * values[:, 0]
    y, factor = ENGINE.solve_problem(Problem.build(*arguments, weights=weights))
    flags = np.zeros(B, bool) if factor.undetermined is None else factor.undetermined.any(-1)
    assert not flags[determined].any()
    assert flags[singular].all()
    for i in np.nonzero(determined)[0]:
        expected = np.linalg.lstsq(A[i], d[i])[0]
        residual = np.abs(A[i] @ expected - d[i]).max()
        cond = values[i, 0] / values[i, -1]
        tolerance = 100 * EPS * (cond * np.abs(expected).max() + cond**2 * residual)
        assert_near(y[i].ravel(), expected, tolerance, f"member {i}")


@given(
    st.integers(20, 90),
    st.sampled_from([2, 3, 5]),
    st.sampled_from(["taylor", "hermite"]),
    st.integers(0, 2**32 - 1),
)
def test_zeros_and_weights_in_chunks(T, K, scheme, seed) -> None:
    """The row that reaches the left separator of a chunk may be zero, or a rounding error, in some of its columns."""
    rng = np.random.default_rng(seed)
    T_init = int(rng.choice([1, T]))

    def spread(decades: float, *shape: int) -> np.ndarray:
        return 10 ** rng.uniform(-decades, decades, shape)

    def some_zero(x: np.ndarray) -> np.ndarray:
        return x * (rng.uniform(size=x.shape) < rng.choice([0.2, 0.6, 1]))

    coefficients = some_zero(rng.normal(size=(T, 1, 1, K))) * spread(rng.choice([0, 1, 3]), T, 1, 1, K)
    values = rng.normal(size=(T, 1)), rng.normal(size=(T_init, 1, K))
    arguments = coefficients, *values, spread(0.5, T - 1) * rng.choice([0.2, 0.01])
    weights = some_zero(spread(1, T, 1)), some_zero(spread(1, T_init, 1, K)), spread(1, T - 1)
    used = smnn.Weights(*weights)
    A, d = smnn.dense_system(*arguments, scheme=SCHEMES[scheme], weights=used)
    columns = np.linalg.norm(A, axis=0)
    singular_values = np.linalg.svd(A / np.where(columns == 0, 1, columns), compute_uv=False)
    cond = singular_values[0] / max(singular_values[-1], 1e-300)
    if cond > 1e3:
        return
    y, factor = ENGINE.solve_problem(Problem.build(*arguments, scheme=SCHEMES[scheme], weights=used))
    assert factor.undetermined is None
    expected, *_ = np.linalg.lstsq(A / columns, d)
    residual = np.abs(A / columns @ expected - d).max()
    tolerance = 10 * EPS * (cond * np.abs(expected).max() + cond**2 * residual)
    np.testing.assert_allclose(y.ravel() * columns, expected, rtol=0, atol=tolerance)


@settings(max_examples=6)
@given(
    st.sampled_from([(), (3,), (40,)]),
    st.integers(200, 700),
    st.sampled_from([(1, 2, 1), (1, 3, 1), (1, 5, 1), (2, 2, 2)]),
    st.integers(0, 2**32 - 1),
)
def test_long_lanes_in_segments(batch, T, sizes, seed) -> None:
    """Observations at all times keep them well-conditioned."""
    check_against_oracle(random_problem(np.random.default_rng(seed), batch, T, *sizes, T_init=T))


def test_a_factor_that_stays_in_caches_is_kept_unless_that_is_not_wanted() -> None:
    problem = random_problem(np.random.default_rng(6), (), 6007, 1, 3, 1, T_init=6007)
    assert ENGINE.solve_problem(problem)[1].nbytes >= ENGINE.factorize(problem.system).nbytes > 0
    assert ENGINE.solve_problem(problem, recompute=True)[1].nbytes == 0
    check_against_oracle(problem)


def test_the_memory_of_a_solve_and_its_adjoint_is_at_most_ten_times_that_of_inputs() -> None:
    problem = random_problem(np.random.default_rng(6), (), 12_000, 1, 3, 1)
    inputs = problem.rhs.nbytes * 5  # coefficients, rhs, step sizes
    gradients_y_and_columns = problem.rhs.nbytes * 22  # of the adjoint: λ, what refines it, and multipliers of the rows
    kept = ENGINE.solve_problem(problem)[1].nbytes
    assert 0 < kept + gradients_y_and_columns < 10 * inputs


@pytest.mark.parametrize(
    ("batch", "T", "sizes", "kept"),
    [
        ((40,), 1000, (1, 3, 1), True),
        ((40,), 4000, (1, 3, 1), False),
        ((40,), 4000, (2, 3, 2), True),
        ((), 60_000, (1, 3, 1), False),
    ],
)
def test_a_factor_that_is_far_is_eliminated_again_where_kernels_are_fast(batch, T, sizes, kept) -> None:
    problem = random_problem(np.random.default_rng(7), batch, T, *sizes)
    y, factor = ENGINE.solve_problem(problem)
    assert (factor.nbytes > 0) == kept
    whole = ENGINE.factorize(problem.system)
    size = np.abs(y).max()
    np.testing.assert_allclose(y, whole.solve(problem.rows), rtol=0, atol=1e-11 * size)
    g = np.random.default_rng(8).normal(size=y.shape)
    x = whole.normal_solve(g)
    np.testing.assert_allclose(factor.normal_solve(g), x, rtol=0, atol=1e-9 * np.abs(x).max())
    gradients = (by_field(x.adjoint(problem, y, g)) for x in (factor, whole))
    for first, second in zip(*gradients, strict=True):
        if second is not None:
            np.testing.assert_allclose(first, second, rtol=0, atol=1e-9 * np.abs(second).max(initial=0))


@pytest.mark.parametrize("B", [128, 4000])
def test_factors_of_short_lanes_are_not_kept(B) -> None:
    """An adjoint eliminates them anyway; where a factor is itself wanted, it is there."""
    problem = random_problem(np.random.default_rng(8), (B,), 50, 1, 3, 1)
    y, factor = ENGINE.solve_problem(problem)
    whole = ENGINE.factorize(problem.system)
    assert whole.nbytes >= 15 * problem.rhs.nbytes
    assert factor.nbytes == 0
    g = np.random.default_rng(9).normal(size=y.shape)
    for first, second in zip(factor.adjoint(problem, y, g)[:4], whole.adjoint(problem, y, g)[:4], strict=True):
        np.testing.assert_allclose(first, second, rtol=1e-9, atol=1e-12)


@pytest.mark.slow
def test_many_segments_in_chunks() -> None:
    """So many points that arrays and factor are read from memory (CACHES in _cpu/engine.cpp)."""
    T = 300_001
    problem = random_problem(np.random.default_rng(6), (), T, 1, 3, 1, T_init=T)
    y, _ = ENGINE.solve_problem(problem)
    expected = ArrayEngine().factorize(problem.system).solve(problem.rows)
    np.testing.assert_allclose(y, expected, rtol=0, atol=1e-12 * np.abs(expected).max())


@pytest.mark.parametrize("recompute", [False, True])
def test_what_lies_in_memory_gives_the_same_as_what_lies_in_caches(recompute) -> None:
    """A batch whose factor is too large to be kept, and its quarters."""
    rng, T = np.random.default_rng(4), 3800
    problem = short_steps(rng, 64, T, 1, 3, scheme="taylor")
    g = rng.standard_normal((64, T, 1, 3))
    c, b, u, s = problem.system.coefficients, problem.rhs, problem.initial_values, problem.system.step_sizes
    assert c.nbytes + g.nbytes > 8 << 20

    def solve(part: slice) -> list[np.ndarray]:
        problem = Problem.build(c[part], b[part], u[part], s[part])
        y, factor = ENGINE.solve_problem(problem, recompute=recompute)
        return [y, *(x for x in by_field(factor.adjoint(problem, y, g[part])) if x.ndim > 1)]

    with threadpool_limits(1):  # (for more threads time would be divided, that of the quarters further)
        results, *quarters = map(solve, [slice(None), *(slice(i, i + 16) for i in range(0, 64, 16))])
    for i, (whole, *parts) in enumerate(zip(results, *quarters, strict=True)):
        # (the quarters keep their factor unless recompute, the whole does not: gradients may be rounded otherwise)
        tolerance = 0 if recompute or i == 0 else 1000 * EPS * np.abs(whole).max()
        np.testing.assert_allclose(whole, np.concatenate(parts), rtol=0, atol=tolerance)


@pytest.mark.skipif(platform.machine() != "x86_64", reason="elsewhere the processor is left as it is")
@pytest.mark.parametrize("batch", [(), (40,)])
def test_results_below_the_smallest_normal_number_are_zero(batch) -> None:
    dtype, T = np.float64, 300
    tiny = np.finfo(dtype).tiny
    coefficients = np.broadcast_to(np.array([0.5, 1.0], dtype), (*batch, T, 1, 1, 2))  # y' = -y/2
    zeros, steps = np.zeros((*batch, T, 1), dtype), np.full((*batch, T - 1), 0.3, dtype)
    start = np.full((*batch, 1, 1, 1), 1e3 * tiny, dtype)
    problem = Problem.build(coefficients, zeros, start, steps, n_steps=T, scheme=smnn.TAYLOR, weights=smnn.Weights())
    y, _ = ENGINE.solve_problem(problem)
    assert (y == 0).any()
    assert ((y == 0) | (abs(y) >= tiny)).all()
    half = np.full(100, tiny, dtype) / 2  # the caller's arithmetic is not changed
    assert (half > 0).all()


def short_steps(
    rng: np.random.Generator, batch: int, T: int, V: int, K: int, *, lhs: int | None = None, scheme: str = "hermite"
) -> Problem:
    """Second-order equations; the numbers are those of float32, the type float64."""
    lhs = batch if lhs is None else lhs
    c = np.zeros((lhs, T, V, V, K))
    c[..., :2] = rng.uniform(-0.4, 0.4, (lhs, T, V, V, 2))
    for v in range(V):
        c[..., v, v, :3] = rng.uniform(0.5, 2, (lhs, T, 3))
    arrays = (
        c,
        rng.uniform(-1, 1, (batch, 1, V)) * np.cos(0.02 * np.arange(T)[:, None]),
        rng.uniform(-1, 1, (batch, 1, V, 2)),
        rng.uniform(0.01, 0.02, (lhs, T - 1)),
    )
    arrays = tuple(x.astype("float32").astype("float64") for x in arrays)
    return Problem.build(*arrays, scheme=SCHEMES[scheme] or custom_scheme(K))


@pytest.mark.parametrize("scheme", ["taylor", "hermite", "custom"])
@pytest.mark.parametrize(("V", "K"), [(1, 3), (1, 4), (1, 5), (1, 6), (2, 3)])
def test_short_steps_keep_their_digits(V: int, K: int, scheme: str) -> None:
    """Their powers differ by many orders of magnitude: what goes through products of rows (normal equations, or
    couplings computed from the triangle) loses the digits that rows keep. Undivided lanes, and chunks."""
    problem = short_steps(np.random.default_rng(5), 9, 80, V, K, scheme=scheme)
    system = problem.system
    arrays = (system.coefficients, problem.rhs, problem.initial_values, system.step_sizes / 10)
    for part in (slice(None), slice(1)):
        members = Problem.build(*(x[part] for x in arrays), scheme=system.scheme)
        y, _ = ENGINE.solve_problem(members)
        assert worst_order(y, ArrayEngine().factorize(members.system).solve(members.rows)) < 10.0 ** (K - 13)


@pytest.mark.parametrize("scheme", ["taylor", "hermite"])
@pytest.mark.parametrize("K", range(1, 9))
def test_schemes_are_upper_triangular_at_both_points(K: int, scheme: str) -> None:
    """Exactly, as rotations presume: rounding errors there would outweigh the powers of small steps beside them."""
    rows, columns = triangular_rows(SCHEMES[scheme], K)
    assert not np.tril(rows[:K, K:], -1).any()
    assert not rows[K:].any()
    np.testing.assert_allclose(columns @ rows, np.hstack(SCHEMES[scheme].matrices(K)), rtol=0, atol=1e-14)


def worst_order(found: np.ndarray, expected: np.ndarray) -> float:
    """The largest error over the largest value of a member and order, where that is largest."""
    error, size = (np.abs(x).max(axis=(1, 2)) for x in (found - expected, expected))
    return float((error / size).max())


@pytest.mark.parametrize(
    ("batch", "T", "V", "K", "lhs"),
    [(1, 900, 1, 4, None), (37, 100, 1, 5, None), (67, 100, 1, 3, 1), (40, 60, 2, 4, None), (1, 300, 3, 3, None)],
)
def test_float32_is_rounded_once(batch: int, T: int, V: int, K: int, lhs: int | None) -> None:
    """Results for inputs in float32 are those for the same numbers in float64, rounded: solutions and gradients."""
    problem = short_steps(np.random.default_rng(0), batch, T, V, K, lhs=lhs)
    system = problem.system
    arrays = system.coefficients, problem.rhs, problem.initial_values, system.step_sizes
    g = np.random.default_rng(1).normal(size=(*problem.batch, T, V, K)).astype("float32")

    def results(dtype: str) -> list[np.ndarray]:
        p = Problem.build(*(x.astype(dtype) for x in arrays), scheme=system.scheme)
        y, factor = ENGINE.solve_problem(p)
        x = g.astype(dtype)
        results = y, factor.solve(p.rows), factor.normal_solve(x), ENGINE.normal_solve(p.system, x)
        return [*results, *by_field(factor.adjoint(p, y, x))]

    for single, double in zip(results("float32"), results("float64"), strict=True):
        assert single.dtype == np.float32
        np.testing.assert_array_equal(single, double.astype("float32"))


def test_gradients_in_float32_start_from_the_solution_before_it_was_rounded() -> None:
    """Also where no factor was kept, and y is all there is."""
    problem = short_steps(np.random.default_rng(0), 5, 100, 1, 5)
    arrays = problem.system.coefficients, problem.rhs, problem.initial_values, problem.system.step_sizes
    g = np.random.default_rng(1).normal(size=(5, 100, 1, 5)).astype("float32")
    double, single = (
        Problem.build(*(x.astype(dtype) for x in arrays), scheme=SCHEMES["hermite"]) for dtype in ("float64", "float32")
    )
    exact = ENGINE.adjoint(double, ENGINE.solve_problem(double)[0], g.astype("float64"))
    found = ENGINE.adjoint(single, ENGINE.solve_problem(single)[0], g)
    for x, y in zip(found[:4], exact[:4], strict=True):
        np.testing.assert_allclose(x, y, rtol=0, atol=2 * np.finfo("float32").eps * np.abs(y).max())


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("batch", [(), (20,)])
def test_gradients_of_equations_in_units_of_another_size(batch, dtype) -> None:
    """W A λ has no correct digit there."""
    rng = np.random.default_rng(11)
    T, V, K = 60, 1, 4
    c = rng.uniform(-1, 1, (*batch, T, V, V, K))
    c[..., -1] += 3
    b, u = rng.normal(size=(*batch, T, V)), rng.normal(size=(*batch, 1, V, K - 1))
    scale = 1e13
    arguments = [x.astype(dtype) for x in (scale * c, scale * b, u, np.full(T - 1, 0.05))]
    g = rng.normal(size=(*batch, T, V, K)).astype(dtype)
    with warnings.catch_warnings():  # of the array API engine, for gradients that are not looked at
        warnings.simplefilter("ignore", smnn.AccuracyWarning)
        expected = smnn.solve_ode_vjp(*arguments, engine="array_api")[1](g)
    found = smnn.solve_ode_vjp(*arguments, engine="cpu")[1](g)
    for name in ("rhs", "initial_values"):
        a, b_ = getattr(found, name), getattr(expected, name)
        assert a.dtype == g.dtype
        np.testing.assert_allclose(a, b_, rtol=0, atol=1e-6 * np.abs(b_).max(), err_msg=name)


def test_members_in_units_of_another_size_leave_the_others_as_they_are() -> None:
    rng = np.random.default_rng(12)
    B, T, K = 4, 40, 3  # (a size that every build compiles)
    c = rng.uniform(-1, 1, (B, 1, T, 1, 1, K))
    c[..., -1] += 3
    c[1] *= 1e13
    b, u, s = rng.normal(size=(B, 3, T, 1)), rng.normal(size=(1, 1, K - 1)), np.full((B, 1, T - 1), 0.05)
    b[1] *= 1e13
    g = rng.normal(size=(B, 3, T, 1, K))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", smnn.AccuracyWarning)
        found, expected = (smnn.solve_ode_vjp(c, b, u, s, engine=engine)[1](g) for engine in ("cpu", "array_api"))
    others = smnn.solve_ode_vjp(c[2:], b[2:], u, s[2:], engine="cpu")[1](g[2:])
    np.testing.assert_array_equal(found.coefficients[2:], others.coefficients)
    np.testing.assert_array_equal(found.rhs[2:], others.rhs)
    np.testing.assert_allclose(found.rhs[1], expected.rhs[1], rtol=0, atol=1e-9 * np.abs(expected.rhs[1]).max())
    size = np.abs(expected.initial_values).max()
    np.testing.assert_allclose(found.initial_values, expected.initial_values, rtol=0, atol=1e-9 * size)


def test_fourth_derivatives_at_short_steps_need_no_other_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refinement of the residual changes y by more than y is wrong by; gradients use y as it was."""
    T, K = 300, 5
    c = np.zeros((1, 1, 1, K))
    c[..., 0], c[..., 2] = 1.5, 1
    arguments = c, np.zeros((T, 1)), np.array([[[1.0, 0.5]]]), np.full(T - 1, 0.01)
    g = np.random.default_rng(0).normal(size=(T, 1, K))
    expected = smnn.solve_ode_vjp(*arguments, engine="array_api")[1](g)
    monkeypatch.setattr(ArrayEngine, "factorize", None)
    found = smnn.solve_ode_vjp(*arguments, engine="cpu")[1](g)
    for name in ("rhs", "initial_values"):
        a, b = getattr(found, name), getattr(expected, name)
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-10 * np.abs(b).max(), err_msg=name)


def test_one_refinement_is_enough_where_products_with_λ_are_nothing_but_rounding() -> None:
    """Fourth order, s = 0.002: W A λ is 7000 times as large as it should be."""
    rng = np.random.default_rng(0)
    T, K = 60, 5
    c = rng.uniform(-1, 1, (T, 1, 1, K))
    c[..., 4] = rng.uniform(1, 2, (T, 1, 1))
    arguments = c, np.ones((T, 1)), rng.normal(size=(1, 1, 4)), np.full(T - 1, 0.002)
    g = rng.normal(size=(T, 1, K))
    expected = smnn.solve_ode_vjp(*arguments, engine="array_api")[1](g).rhs
    found = smnn.solve_ode_vjp(*arguments, engine="cpu")[1](g).rhs
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-13 * np.abs(expected).max())
