"""Moments by the compiled engine: against those of the array API engine, and what becomes of single batch members."""

from __future__ import annotations

from math import factorial
from typing import Any

import numpy as np
import pytest
from _assert import eps
from _strategies import ProblemData, problems
from hypothesis import given, settings

import smnn_core as smnn
from smnn_core._problem import ALL, OF_LHS, Problem, Rows, System, by_field, from_fields
from smnn_core._weighting import weighted_problem
from smnn_core.engines import cpu
from smnn_core.engines.array_api import ArrayEngine
from smnn_core.engines.blocks import BlockEngine
from smnn_core.engines.cpu import CpuEngine

CPU, BLOCKS, ARRAY_API = CpuEngine(), BlockEngine(), ArrayEngine()
pytestmark = pytest.mark.skipif(cpu._kernels is None, reason="the kernels are not compiled")


def random_problem(
    V: int, K: int, T: int, batch: tuple[int, ...] = (), scheme: smnn.Scheme = smnn.WIENER, seed: int = 0
) -> Problem:
    """Equations, three initial rows at the start, and steps and weights that differ."""
    rng = np.random.default_rng(seed)
    c, b = rng.normal(size=(*batch, T, V, V, K)), rng.normal(size=(*batch, T, V))
    u, s = rng.normal(size=(min(T, 3), V, K)), rng.uniform(0.2, 0.5, (*batch, T - 1))
    weights = smnn.Weights(rng.uniform(1, 10, (T, V)), 2.0, rng.uniform(1, 2, T - 1))
    return weighted_problem(Problem.build(c, b, u, s, n_steps=T, scheme=scheme, weights=weights))


def member(system: System, i: int) -> System:
    """A member of a batch with one axis, of which coefficients and steps have one."""
    c, s, w = system.coefficients, system.step_sizes, system.weights
    weights = smnn.Weights(w.equation, w.initial, w.smoothness[i] if w.smoothness.ndim == 2 else w.smoothness)
    n_initial = {"n_initial_steps": system.n_initial_steps, "n_initial_orders": system.n_initial_orders}
    return System.build(c[i], s[i], n_steps=system.n_steps, scheme=system.scheme, weights=weights, **n_initial)


@settings(max_examples=40)
@given(problems())
def test_moments_are_those_of_the_array_api_engine(data: ProblemData) -> None:
    p, q = (smnn.posterior(*data.arrays, engine=engine, **data.options()) for engine in ("cpu", "array_api"))
    A = smnn.dense_system(*data.arrays, **data.options())[0]
    condition = np.linalg.cond(A / np.linalg.norm(A, axis=-2, keepdims=True))
    relative = 20 * eps("float64") * np.max(condition)
    for name in ("covariance", "lag_covariance", "variance"):
        x, y = getattr(p, name), getattr(q, name)
        np.testing.assert_allclose(x, y, rtol=0, atol=relative * np.abs(q.covariance).max())
    np.testing.assert_allclose(p.log_determinant, q.log_determinant, rtol=0, atol=relative * A.shape[-1])
    d = smnn.dense_system(*data.arrays, **data.options())[1]
    np.testing.assert_allclose(p.sum_of_squares, q.sum_of_squares, rtol=0, atol=relative * np.sum(d * d, -1).max())


@pytest.mark.parametrize("batch", [1, 3, 9, 17])
@pytest.mark.parametrize("scheme", [smnn.WIENER, smnn.HERMITE, smnn.TAYLOR], ids=lambda scheme: scheme.name)
def test_members_are_those_of_their_own_system(batch: int, scheme: smnn.Scheme) -> None:
    """Lanes of packs, the last of which is not full, and single systems."""
    system = random_problem(2, 3, 12, (batch,), scheme).system
    found = CPU.factorize(system)
    for i in (0, batch - 1):
        expected = ARRAY_API.factorize(member(system, i))
        for x, y in zip(found.covariances(), expected.covariances(), strict=True):
            np.testing.assert_allclose(x[i], y, rtol=0, atol=1e-12 * np.abs(y).max())
        np.testing.assert_allclose(found.variances()[i], expected.variances(), rtol=1e-11)
        np.testing.assert_allclose(found.log_determinant()[i], expected.log_determinant(), rtol=1e-13)


def test_segments_that_are_eliminated_again_leave_the_same() -> None:
    """Packs of long systems have several segments, a single system one."""
    system = random_problem(1, 3, 20_000, (8,)).system
    found = CPU.factorize(system).variances()
    expected = CPU.factorize(member(system, 5)).variances()
    np.testing.assert_allclose(found[5], expected, rtol=1e-10)


@pytest.mark.parametrize("scheme", [smnn.WIENER, smnn.HERMITE], ids=lambda scheme: scheme.name)
@pytest.mark.parametrize(
    ("V", "K", "T", "batch"), [(1, 3, 1000, ()), (2, 3, 333, (3,)), (3, 2, 203, ()), (1, 6, 90, ())]
)
def test_divided_time_leaves_the_same(V: int, K: int, T: int, batch: tuple[int, ...], scheme: smnn.Scheme) -> None:
    """Few long systems are divided into chunks, not all of one length."""
    problem = random_problem(V, K, T, batch, scheme)
    factors = [engine.factorize(problem.system) for engine in (CPU, BLOCKS)]
    found, expected = (factor for factor in factors)
    size = np.sqrt(np.diagonal(expected.covariances()[0], axis1=-2, axis2=-1))
    sizes = size[..., :, None] * size[..., None, :], size[..., :-1, :, None] * size[..., 1:, None, :]
    for x, y, scale in zip(found.covariances(), expected.covariances(), sizes, strict=True):
        assert np.all(np.abs(x - y) <= 1e-11 * scale)
    statistics, reference = (factor.statistics(problem.rows, ALL) for factor in factors)
    for x, y in zip(statistics[:2], reference[:2], strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-11)
    for gradient, other in zip(statistics[2:], reference[2:], strict=True):
        for x, y in zip(by_field(gradient), by_field(other), strict=True):
            if y is not None:
                np.testing.assert_allclose(x, y, rtol=0, atol=1e-10 * np.abs(y).max())


@pytest.mark.parametrize("orders", [5, 7])
def test_divided_time_keeps_the_digits_of_high_orders(orders: int) -> None:
    """s = 0.001: the same system alone, in chunks, and sixty times side by side, undivided."""
    s, T = 0.001, 500
    c = np.zeros((1, 1, 1, orders))
    c[..., 0], c[..., 2] = 4.0, 1.0
    weights = smnn.Weights(1e3, 1e3, float(smnn.wiener_weight(1.0, s, orders - 1)))
    alone, many = (
        smnn.posterior(
            x, np.zeros((1, 1)), np.zeros((1, 1, 2)), np.array([s]), n_steps=T, weights=weights, engine="cpu"
        )
        for x in (c, np.broadcast_to(c, (60, *c.shape)) * np.linspace(1, 2, 60)[:, None, None, None, None])
    )
    np.testing.assert_allclose(alone.variance, many.variance[0], rtol=1e-8)


def test_variances_are_the_diagonal_of_the_covariances() -> None:
    found = CPU.factorize(random_problem(2, 4, 9, (3,)).system)
    diagonal = np.diagonal(found.covariances()[0], axis1=-2, axis2=-1)
    np.testing.assert_allclose(found.variances(), diagonal, rtol=1e-15)


@pytest.mark.parametrize("batch", [3, 9])
def test_members_that_are_not_finite_leave_the_others_as_they_are(batch: int) -> None:
    problem = random_problem(1, 3, 8, (batch,))
    good = CPU.factorize(problem.system)
    expected = *good.covariances(), good.log_determinant()
    minimum = good.statistics(problem.rows).minimum
    problem.system.coefficients[1, 4] = np.nan
    factor = CPU.factorize(problem.system)
    found, others = factor, np.arange(batch) != 1
    for x, y in zip(
        (*found.covariances(), found.log_determinant()),
        expected,
        strict=True,
    ):
        np.testing.assert_array_equal(x[others], y[others])
        assert np.isnan(x[1]).any()
    np.testing.assert_array_equal(factor.statistics(problem.rows).minimum[others], minimum[others])


def test_undetermined_members_are_nan() -> None:
    c = np.zeros((2, 1, 1, 1, 3))
    c[1, ..., 0] = 1.0
    system = System.build(
        c, np.array([0.1]), n_initial_steps=1, n_initial_orders=1, n_steps=5, scheme=smnn.WIENER, weights=smnn.Weights()
    )
    found = CPU.factorize(system)
    for x in (*found.covariances(), found.variances(), found.log_determinant()):
        assert np.isnan(x[0]).all()
        assert np.isfinite(x[1]).all()


def test_schemes_that_are_not_exact_for_their_degree_take_the_array_api_engine() -> None:
    """Rows that are fewer than the derivative orders."""
    scheme = smnn.Scheme.from_matrices([[1.0, 1.0, 0.0], [0.0, 1.0, 0.3]], [[-1.0, 0.0, 0.0], [0.0, -1.0, 0.3]])
    problem = random_problem(1, 3, 6, (), scheme)
    found, expected = (engine.factorize(problem.system) for engine in (CPU, ARRAY_API))
    np.testing.assert_allclose(found.covariances()[0], expected.covariances()[0], rtol=1e-12)


def test_results_are_rounded_once() -> None:
    c, u = np.ones((1, 1, 1, 3), np.float32), np.ones((1, 1, 2), np.float32)
    s, weights = np.full(9, 0.1, np.float32), smnn.Weights()
    wide = smnn.posterior(c.astype(float), np.zeros((1, 1)), u.astype(float), s.astype(float), weights=weights)
    narrow = smnn.posterior(c, np.zeros((1, 1), np.float32), u, s, weights=weights)
    assert narrow.variance.dtype == narrow.sum_of_squares.dtype == np.float32
    np.testing.assert_allclose(narrow.variance, wide.variance, rtol=1e-6)
    np.testing.assert_allclose(narrow.sum_of_squares, wide.sum_of_squares, rtol=1e-5)


@pytest.mark.parametrize(("lhs", "batch"), [((), (5,)), ((2, 1), (2, 70)), ((), (3, 4))])
def test_many_right_hand_sides_of_one_left_hand_side(lhs: tuple[int, ...], batch: tuple[int, ...]) -> None:
    """They are columns of one elimination, at most 64 of them."""
    problem, rng = random_problem(2, 3, 7, lhs), np.random.default_rng(1)
    d = Rows(rng.normal(size=(*batch, 7, 2)), rng.normal(size=(*batch, 3, 2, 3)), None)
    factors = [engine.factorize(problem.system) for engine in (CPU, ARRAY_API)]
    found, expected = (factor.statistics(d).minimum for factor in factors)
    np.testing.assert_allclose(found, expected, rtol=1e-10)


@pytest.mark.parametrize("batch", [(), (9,)])
@pytest.mark.parametrize(("V", "K"), [(1, 3), (2, 4), (3, 1)])
def test_gradients_of_log_det_are_those_of_the_array_api_engine(V: int, K: int, batch: tuple[int, ...]) -> None:
    system = random_problem(V, K, 10, batch).system
    g = np.random.default_rng(1).normal(size=batch)
    found, expected = (
        by_field(engine.factorize(system).moments_pullback(None, None, g)) for engine in (CPU, ARRAY_API)
    )
    for x, y in zip(found, expected, strict=True):
        if y is not None:
            np.testing.assert_allclose(x, y, rtol=0, atol=1e-8 * np.abs(y).max())


def with_constant_inputs(problem: Problem) -> Problem:
    """The same sizes, and numbers that all times, equations and unknowns share."""
    system, weights = problem.system, smnn.Weights(3.0, 2.0, np.array([1.5]))
    c, s = system.coefficients[..., :1, :, :, :], system.step_sizes[..., :1]
    u, T = problem.initial_values, system.n_steps
    return weighted_problem(Problem.build(c, problem.rhs, u, s, n_steps=T, scheme=system.scheme, weights=weights))


@pytest.mark.parametrize("constant", [False, True], ids=["", "constant"])
@pytest.mark.parametrize(("lhs", "batch"), [((), ()), ((9,), (9,)), ((), (3,)), ((2, 1), (2, 70))])
@pytest.mark.parametrize(("V", "K"), [(1, 3), (2, 3), (4, 5), (1, 1)])
def test_statistics_are_those_of_the_array_api_engine(
    V: int, K: int, lhs: tuple[int, ...], batch: tuple[int, ...], constant: bool
) -> None:
    """Sizes that are compiled and others; packs, single systems, and many right-hand sides of one elimination."""
    problem, rng = random_problem(V, K, 7, lhs), np.random.default_rng(1)
    if constant:
        problem = with_constant_inputs(problem)
    d = Rows(rng.normal(size=(*batch, 7, V)), rng.normal(size=(*batch, 3, V, K)), None)
    found, expected = (engine.factorize(problem.system).statistics(d, ALL) for engine in (CPU, ARRAY_API))
    for x, y in zip(found[:2], expected[:2], strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-10, atol=1e-10)
    for gradient, reference in zip(found[2:], expected[2:], strict=True):
        for x, y in zip(by_field(gradient), by_field(reference), strict=True):
            assert (x is None) == (y is None)
            if y is not None:
                np.testing.assert_allclose(x, y, rtol=0, atol=1e-8 * np.abs(y).max())


def test_gradients_that_are_not_wanted_are_not_computed() -> None:
    problem = random_problem(2, 3, 7)
    factor, wanted = CPU.factorize(problem.system), from_fields([i in (3, 4) for i in range(7)])
    found, whole = (factor.statistics(problem.rows, which) for which in (wanted, ALL))
    for gradient, reference in zip(found[2:], whole[2:], strict=True):
        for i, (x, y) in enumerate(zip(by_field(gradient), by_field(reference), strict=True)):
            if i in (3, 4):
                np.testing.assert_array_equal(x, y)
            else:
                assert x is None


@pytest.mark.parametrize("batch", [(), (9,)])
@pytest.mark.parametrize(("V", "K"), [(1, 3), (2, 4)])
def test_steps_before_the_first_row_and_behind_the_last_count_as_others(V: int, K: int, batch: tuple[int, ...]) -> None:
    problem, T, w = random_problem(V, K, 12, batch), 12, np.zeros((*batch, 12, V))
    w[..., 3:9, :] = 2.0
    weights = smnn.Weights(w, np.zeros((*batch, 3, V, K)), problem.system.weights.smoothness)
    c, b, u, s = problem.system.coefficients, problem.rhs, problem.initial_values, problem.system.step_sizes
    problem = Problem.build(c, b, u, s, n_steps=T, scheme=smnn.WIENER, weights=weights)
    found, expected = (engine.factorize(problem.system).statistics(problem.rows, ALL) for engine in (CPU, ARRAY_API))
    for x, y in zip(found[:2], expected[:2], strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-8)
    for gradient, reference in zip(found[2:], expected[2:], strict=True):
        for x, y in zip(by_field(gradient), by_field(reference), strict=True):
            if y is not None:
                np.testing.assert_allclose(x, y, rtol=0, atol=1e-6 * max(np.abs(y).max(), 1e-3))


def exact_gradients(K: int, s: float, T: int, w: smnn.Weights) -> tuple[np.ndarray, ...]:
    """Of log det M of 4 y + y'' = 0, with respect to steps and weights of equations and smoothness, in 1200 bits.

    From the rows (Phi S y[t] - S y[t+1]) w of the covariance Q, not from those of the scheme.
    """
    exact = pytest.importorskip("benchmarks.exact", reason="needs python-flint")
    flint = exact.flint
    flint.ctx.prec = exact.BITS
    number, size = flint.arb, [flint.arb(s) ** o for o in range(K)]
    slope = [o * number(s) ** (o - 1) if o else number(0) for o in range(K)]
    Q, F, dF = flint.arb_mat(K, K), flint.arb_mat(K, 2 * K), flint.arb_mat(K, 2 * K)
    for i in range(K):
        F[i, K + i], dF[i, K + i] = -size[i], -slope[i]
        for j in range(K):
            Q[i, j] = 1 / number((2 * K - 1 - i - j) * factorial(K - 1 - i) * factorial(K - 1 - j))
            if j >= i:
                F[i, j], dF[i, j] = size[j] / factorial(j - i), slope[j] / factorial(j - i)
    square = number(float(w.smoothness)) ** 2
    block, half = (x.transpose() * Q.inv() * F * square for x in (F, dF))
    M = flint.arb_mat(T * K, T * K)
    row = {0: 4, 2: 1}
    for t in range(T):
        for i, x in row.items():
            for j, y in row.items():
                M[t * K + i, t * K + j] += number(float(w.equation)) ** 2 * x * y
        for i in range(2 * K if t < T - 1 else 0):
            for j in range(2 * K):
                M[t * K + i, t * K + j] += block[i, j]
    for i in range(K):
        M[i, i] += number(float(w.initial)) ** 2
    Σ = M.inv()

    def along(of: Any, t: int) -> Any:
        return sum((of[i, j] * Σ[t * K + i, t * K + j] for i in range(2 * K) for j in range(2 * K)), number(0))

    ds = [2 * along(half, t) for t in range(T - 1)]
    of_steps = [2 * along(block, t) / number(float(w.smoothness)) for t in range(T - 1)]
    of_equations = [
        2
        * number(float(w.equation))
        * sum(x * y * Σ[t * K + i, t * K + j] for i, x in row.items() for j, y in row.items())
        for t in range(T)
    ]
    return tuple(np.array([float(x.mid()) for x in values]) for values in (ds, of_equations, of_steps))


@pytest.mark.parametrize("w_equation", [1e3, 1e-3])
@pytest.mark.parametrize("orders", [3, 6, 7])
@pytest.mark.parametrize(
    ("engine", "of_steps", "of_weights"), [(CPU, 1e-12, 1e-12), (BLOCKS, 1e-12, 1e-12), (ARRAY_API, 1e-6, 1e-11)]
)
def test_gradients_of_log_det_over_short_steps_keep_their_digits(
    engine: Any, of_steps: float, of_weights: float, orders: int, w_equation: float
) -> None:
    """s = 0.001, also where observations say next to nothing."""
    s, T = 0.001, 12
    c = np.zeros((T, 1, 1, orders))
    c[..., 0], c[..., 2] = 4.0, 1.0
    weight = float(smnn.wiener_weight(1.0, s, orders - 1))
    weights = smnn.Weights(np.full((T, 1), w_equation), 1e2, np.full(T - 1, weight))
    b, u = np.zeros((T, 1)), np.zeros((1, 1, orders))
    problem = weighted_problem(Problem.build(c, b, u, np.full(T - 1, s), scheme=smnn.WIENER, weights=weights))
    found = engine.factorize(problem.system).statistics(problem.rows, OF_LHS).of_determinant
    expected = exact_gradients(orders, s, T, smnn.Weights(w_equation, 1e2, weight))
    np.testing.assert_allclose(found.step_sizes, expected[0], rtol=of_steps)
    np.testing.assert_allclose(found.weights.equation[:, 0], expected[1], rtol=of_weights)
    np.testing.assert_allclose(found.weights.smoothness, expected[2], rtol=of_weights)


def test_gradients_of_covariances_over_short_steps_are_the_same_by_two_eliminations() -> None:
    """s = 0.001, R = 3: the array API engine and that for large blocks, of covariances in units of deviations."""
    s, T, K, rng = 0.001, 12, 4, np.random.default_rng(0)
    c = np.zeros((T, 1, 1, K))
    c[..., 0], c[..., 2] = 4.0, 1.0
    weights = smnn.Weights(np.full((T, 1), 1e3), 1e2, np.full(T - 1, float(smnn.wiener_weight(1.0, s, K - 1))))
    b, u = np.zeros((T, 1)), np.zeros((1, 1, K))
    problem = weighted_problem(Problem.build(c, b, u, np.full(T - 1, s), scheme=smnn.WIENER, weights=weights))
    array_api, blocks = (engine.factorize(problem.system) for engine in (ARRAY_API, BLOCKS))
    size = 1 / np.sqrt(blocks.variances())
    g = rng.normal(size=(T, K, K)) * size[:, :, None] * size[:, None, :]
    g_lag = rng.normal(size=(T - 1, K, K)) * size[:-1, :, None] * size[1:, None, :]
    found, expected = (factor.moments_pullback(g, g_lag, None) for factor in (array_api, blocks))
    for i, (x, y) in enumerate(zip(by_field(found), by_field(expected), strict=True)):
        if y is not None:
            tolerance = 1e-7 if i == 3 else 1e-10  # (step sizes)
            np.testing.assert_allclose(x, y, rtol=0, atol=tolerance * np.abs(y).max())


@pytest.mark.parametrize("orders", [4, 6])
def test_the_minimum_over_short_steps_and_its_gradient_keep_their_digits(orders: int) -> None:
    """s = 0.001: rows of smoothness, of large weight, are of increments and not of y, whose rounding they exceed.

    The minimum is of second degree in all weights: twice its value is the sum of these times its derivatives.
    """
    s, T = 0.001, 60
    c, b = np.zeros((1, 1, 1, orders)), np.random.default_rng(0).normal(size=(T, 1))
    c[..., 0] = c[..., 2] = 1.0
    weights = smnn.Weights(10.0, 10.0, float(smnn.wiener_weight(1.0, s, orders - 1)))
    u = np.ones((1, 1, orders))
    problem = weighted_problem(Problem.build(c, b, u, np.array([s]), n_steps=T, scheme=smnn.WIENER, weights=weights))
    found = CPU.factorize(problem.system).statistics(problem.rows, ALL)
    w, dw = (vars(x).values() for x in (problem.system.weights, found.of_minimum.weights))
    total = sum(np.sum(x * dx) for x, dx in zip(w, dw, strict=True))
    np.testing.assert_allclose(total, 2 * found.minimum, rtol=1e-9)
    expected = ARRAY_API.factorize(problem.system).statistics(problem.rows).minimum
    np.testing.assert_allclose(found.minimum, expected, rtol=1e-9)
