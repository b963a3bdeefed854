"""The engine for large blocks: against dense least squares and the array API engine, and its compiled reflections."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from _oracle import normal_matrix
from _oracle import solve as dense_solve
from _strategies import ProblemData, custom_scheme, problems
from hypothesis import given, settings
from hypothesis import strategies as st

import smnn_core as smnn
from benchmarks import adjoint, singular
from smnn_core._problem import Problem, by_field
from smnn_core.engines import ENGINES, cpu, select
from smnn_core.engines._block_sweep import Reflections

pytestmark = pytest.mark.skipif(cpu._kernels is None, reason="the kernels are not compiled here")

EPS = float(np.finfo(np.float64).eps)


def lines(m: int, T: int, K: int = 3) -> tuple[np.ndarray, ...]:
    """The heat equation by lines, m interior points, from sin(pi x); n = m K."""
    dx = 1 / (m + 1)
    c = np.zeros((1, m, m, K))
    c[0, :, :, 0] = (2 * np.eye(m) - np.eye(m, k=1) - np.eye(m, k=-1)) / dx**2
    c[0, :, :, 1] = np.eye(m)
    x = dx * np.arange(1, m + 1)
    return c, np.zeros((1, m)), np.sin(np.pi * x)[None, :, None], np.full(T - 1, 0.1 / (T - 1))


def coupled(seed: int, V: int, K: int, T: int, *batch: int) -> tuple[np.ndarray, ...]:
    """Equations of order K - 1 with full coefficients."""
    rng = np.random.default_rng(seed)
    c = rng.uniform(-0.5, 0.5, (*batch, T, V, V, K)) / V
    c[..., np.arange(V), np.arange(V), K - 1] += 1.5
    b, u = rng.normal(size=(*batch, T, V)), rng.normal(size=(*batch, 1, V, max(K - 1, 1)))
    return c, b, u, rng.uniform(0.1, 0.4, T - 1)


# Reflections


@pytest.mark.parametrize(("M", "n"), [(1, 1), (24, 24), (25, 25), (60, 24), (70, 50), (131, 100)])
def test_reflections_triangularise(M: int, n: int) -> None:
    rng = np.random.default_rng(M)
    A, C = rng.normal(size=(M, n)), rng.normal(size=(M, 31))
    found, QtC = A.copy(), C.copy()
    q = Reflections(found, np.zeros(M), QtC, 2)
    R = np.zeros((M, n))
    R[q.pivots] = q.R
    assert sorted([*q.pivots, *q.rest]) == list(range(M))
    np.testing.assert_allclose(q.rotate(R, back=True), A, atol=20 * M * EPS)
    np.testing.assert_array_equal(q.rotate(C.copy()), QtC)
    np.testing.assert_allclose(q.rotate(QtC.copy(), back=True), C, atol=20 * M * EPS)


def test_rows_that_begin_with_zeros_are_left_out_until_then() -> None:
    n, rng = 60, np.random.default_rng(0)
    A = np.concatenate([np.triu(rng.normal(size=(n, n)))] * 2)
    found = A.copy()
    q = Reflections(found, np.tile(np.arange(n), 2), None, 1)
    R = np.zeros_like(A)
    R[q.pivots] = q.R
    np.testing.assert_allclose(q.rotate(R, back=True), A, atol=20 * n * EPS)
    assert (q.order[0] >= 0).sum() == 2 * cpu._kernels.PANEL


def test_light_rows_keep_their_digits_beside_heavy_ones() -> None:
    """Rows of weights 1 to 1e30 in any order: the error of each is a part of its own size, M n eps times the growth of
    its elements on the way (Cox, Higham, BIT 38 (1998) 34): none as a rule, a few times in rare orders of the rows."""
    errors = []
    for seed in range(11):
        rng = np.random.default_rng(seed)
        weight = 10.0 ** rng.permutation(np.linspace(0, 30, 60))
        A = weight[:, None] * rng.normal(size=(60, 30))
        found = A.copy()
        q = Reflections(found, np.zeros(60), None, 1)
        R = np.zeros_like(A)
        R[q.pivots] = q.R
        size = A.size * EPS * np.abs(A).max(axis=1)
        errors.append((np.abs(q.rotate(R, back=True) - A).max(axis=1) / size).max())
    assert np.median(errors) <= 1
    assert max(errors) <= 10


@pytest.mark.parametrize(
    "call",
    [
        lambda k, x: k.triangularise(np.ones((2, 3)), np.zeros(2, np.int32), None, x(1), x(1, 2), 1),
        lambda k, x: k.triangularise(np.ones((3, 3)), np.full(3, 3, np.int32), None, x(1), x(1, 3), 1),
        lambda k, x: k.rotate(np.ones((3, 3)), x(1), np.full((1, 3), 7, np.int32), np.ones((3, 1)), False, 1),
        lambda k, x: k.rotate(np.ones((3, 3)), x(1), np.zeros((1, 3), np.int32), np.ones((2, 1)), False, 1),
        lambda k, x: k.substitute(np.array([0, 5, 1], np.int32), np.eye(3), None, np.ones((3, 1)), None, False, 1),
        lambda k, x: k.multiply(np.ones((3, 2)), np.ones((3, 2)), np.ones((3, 2)), 1),
    ],
)
def test_kernels_refuse_arrays_that_do_not_fit(call: Any) -> None:
    panel = cpu._kernels.PANEL

    def buffer(*shape: int) -> np.ndarray:
        return np.zeros(shape, np.int32) if len(shape) == 2 else np.zeros((*shape, panel, panel))

    with pytest.raises(ValueError, match=r"expected|range|rows"):
        call(cpu._kernels, buffer)


# Solutions


@settings(max_examples=60)
@given(problems())
def test_equals_the_dense_solve(data: ProblemData) -> None:
    oracle = dense_solve(*data.arrays, **data.options(), extended=True)
    y = smnn.solve_ode(*data.arrays, **data.options(), engine="blocks")
    assert np.all(np.abs(y - oracle.y) <= oracle.tolerance(EPS))


@pytest.mark.parametrize("sizes", [(33, 2, 5), (22, 3, 4), (70, 1, 3), (20, 5, 4), (65, 2, 2)])
@pytest.mark.parametrize("scheme", ["taylor", "hermite", "custom"])
def test_large_blocks_equal_the_dense_solve(sizes: tuple[int, int, int], scheme: str) -> None:
    V, K, T = sizes
    arguments = coupled(0, *sizes)
    rows = {"taylor": smnn.TAYLOR, "hermite": smnn.HERMITE, "custom": custom_scheme(K)}[scheme]
    oracle = dense_solve(*arguments, scheme=rows)
    y = smnn.solve_ode(*arguments, scheme=rows)
    assert y.shape == (T, V, K)
    assert np.all(np.abs(y - oracle.y) <= oracle.tolerance(EPS))


def test_weights_over_many_decades() -> None:
    """Equations of weights 1e-6 to 1e6, steps over three decades: as exact as dense QR in extended precision."""
    c, b, u, _ = coupled(1, 33, 2, 6)
    rng = np.random.default_rng(2)
    w = smnn.Weights(10 ** rng.uniform(-6, 6, b.shape), 10 ** rng.uniform(-3, 3, u.shape), 10 ** rng.uniform(-3, 3, 5))
    s = 10 ** rng.uniform(-3, 0, 5)
    oracle = dense_solve(c, b, u, s, weights=w, extended=True)
    y = smnn.solve_ode(c, b, u, s, weights=w)
    size = np.abs(oracle.y).max(axis=(0, 1))
    assert np.all(np.abs(y - oracle.y) <= 1e-10 * size)


def test_the_heat_equation_by_lines() -> None:
    m, T = 40, 101
    y = smnn.solve_ode(*lines(m, T))
    decay = 2 * (m + 1) ** 2 * (1 - np.cos(np.pi / (m + 1)))  # of the lines themselves
    t, x = np.linspace(0, 0.1, T), np.arange(1, m + 1) / (m + 1)
    np.testing.assert_allclose(y[..., 0], np.exp(-decay * t)[:, None] * np.sin(np.pi * x), atol=1e-5)


def test_float32_is_rounded_once() -> None:
    arguments = [x.astype(np.float32) for x in coupled(3, 33, 2, 4)]
    wide = [x.astype(np.float64) for x in arguments]
    y = smnn.solve_ode(*arguments)
    assert y.dtype == np.float32
    np.testing.assert_array_equal(y, smnn.solve_ode(*wide).astype(np.float32))


@pytest.mark.parametrize("lhs", [(), (3,), (2, 1, 1), (1, 3, 2)])
def test_left_hand_sides_shared_along_some_axes(lhs: tuple[int, ...]) -> None:
    batch = (2, 3, 2)
    c = coupled(4, 2, 3, 5, *lhs)[0]
    _, b, u, s = coupled(5, 2, 3, 5, *batch)
    c = c if lhs != (3,) else c[:, None]
    full = np.broadcast_to(c, (*batch, *c.shape[-4:]))
    y = smnn.solve_ode(c, b, u, s, engine="blocks")
    for i in np.ndindex(batch):
        oracle = dense_solve(full[i], b[i], u[i], s)
        assert np.all(np.abs(y[i] - oracle.y) <= oracle.tolerance(EPS))


def test_an_empty_batch() -> None:
    c, b, u, s = coupled(6, 2, 3, 5, 0)
    y, vjp = smnn.solve_ode_vjp(c, b, u, s, engine="blocks")
    assert y.shape == (0, 5, 2, 3)
    assert vjp(y).coefficients.shape == c.shape


# Derivatives and moments


@pytest.mark.parametrize("name", adjoint.PROBLEMS)
def test_gradients_keep_their_digits(name: str) -> None:
    assert adjoint.errors(adjoint.PROBLEMS[name]())["blocks"] < 1e-11


@pytest.mark.parametrize("scheme", ["hermite", "taylor", "custom"])
def test_gradients_equal_those_of_the_array_api_engine(scheme: str) -> None:
    rows = {"taylor": smnn.TAYLOR, "hermite": smnn.HERMITE, "custom": custom_scheme(3)}[scheme]
    arguments = coupled(7, 22, 3, 4)
    g = np.random.default_rng(8).normal(size=(4, 22, 3))
    found, expected = (
        by_field(smnn.solve_ode_vjp(*arguments, scheme=rows, engine=engine)[1](g)) for engine in ("auto", "array_api")
    )
    tolerance = 100 * EPS * np.linalg.cond(normal_matrix(*arguments, scheme=rows))
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * max(1.0, np.abs(b).max()))


@settings(max_examples=30)
@given(problems(max_steps=5, max_variables=2, max_orders=3, max_batch_axes=1), st.integers(0, 2**31))
def test_moments_and_their_gradients_equal_those_of_the_array_api_engine(data: ProblemData, seed: int) -> None:
    rng = np.random.default_rng(seed)
    system = Problem.build(*data.arrays, **data.options()).system
    T, n, batch = system.n_steps, system.n, system.batch
    g = [rng.normal(size=(*batch, *core)) for core in ((T, n, n), (T - 1, n, n), ())]
    found, expected = (ENGINES[name].factorize(system) for name in ("blocks", "array_api"))
    condition = np.linalg.cond(normal_matrix(*data.arrays, **data.options())).max()
    size = max(1.0, *(np.abs(x).max() for x in expected.covariances()))
    pairs = [
        (found.log_determinant(), expected.log_determinant(), 1.0),
        (found.variances(), expected.variances(), size),
        *((a, b, size) for a, b in zip(found.covariances(), expected.covariances(), strict=True)),
    ]
    for given_ in (g, (None, None, g[2]), (g[0], None, None), (None, g[1], None)):
        gradients = (by_field(x.moments_pullback(*given_)) for x in (found, expected))
        pairs += [(a, b, T * n * size**2) for a, b in zip(*gradients, strict=True) if b is not None]
    for a, b, scale in pairs:
        np.testing.assert_allclose(a, b, rtol=0, atol=100 * EPS * condition * scale)


def test_variances_of_a_large_block_are_those_of_the_dense_inverse() -> None:
    arguments = coupled(9, 22, 3, 4)
    p = smnn.posterior(*arguments)
    M = normal_matrix(*arguments, scheme=smnn.WIENER)
    inverse = np.linalg.inv(M)
    tolerance = 100 * EPS * np.linalg.cond(M) * np.abs(inverse).max()
    np.testing.assert_allclose(p.variance.ravel(), np.diag(inverse), rtol=0, atol=tolerance)
    np.testing.assert_allclose(p.log_determinant, np.linalg.slogdet(M)[1], rtol=1e-12)


# Singular systems


def test_singular_systems_are_not_missed() -> None:
    missed = [str(x) for x in singular.draw_singular(100, 3, largest=40) if not singular.is_refused(x, "blocks")]
    assert not missed


def test_well_posed_systems_are_not_refused() -> None:
    refused = [str(x) for x in singular.draw_well_posed(60, 3, largest=40) if singular.is_refused(x, "blocks")]
    assert not refused


def test_a_singular_member_of_large_blocks_is_named() -> None:
    """Of two of its 40 variables the equations see the sum alone."""
    c, b, u, s = coupled(10, 40, 2, 4, 3)
    c[1, ..., 7, :] = c[1, ..., 5, :]
    u[1, :, 7] = u[1, :, 5]
    w = np.ones(u.shape)
    w[1, :, [5, 7]] = 0.0
    with pytest.raises(smnn.SingularSystemError, match=r"batch member \(1,\)"):
        smnn.solve_ode(c, b, u, s, weights=smnn.Weights(initial=w))


def test_what_is_not_finite_stays_with_its_member() -> None:
    c, b, u, s = coupled(11, 33, 2, 3, 2)
    y = smnn.solve_ode(c, b, u, s)
    b[0, 1, 2] = np.inf
    bad = smnn.solve_ode(c, b, u, s)
    c[0, 0, 0, 0, 0] = np.nan
    worse = smnn.solve_ode(c, b, u, s)
    for found in (bad, worse):
        assert not np.isfinite(found[0]).all()
        np.testing.assert_array_equal(found[1], y[1])


# Choice and memory


def test_it_takes_over_where_the_cpu_engine_ends() -> None:
    n = cpu._kernels.LARGEST
    for V, name in ((n, "cpu"), (n + 1, "blocks")):
        c, b, u, s = coupled(12, V, 1, 2)
        assert select("auto", Problem.build(c, b, u, s).system).name == name


def test_memory_is_linear_in_the_number_of_time_points() -> None:
    def bytes_of(T: int) -> int:
        (sweep,) = ENGINES["blocks"].factorize(Problem.build(*lines(24, T)).system).sweeps.values()
        kept = [x for step in (*sweep.folds, *sweep.couplings) for x in (step.A, step.T, step.order)]
        return sum(x.nbytes for x in (*kept, *sweep.E))

    assert bytes_of(40) - bytes_of(20) == bytes_of(60) - bytes_of(40)
    assert (bytes_of(40) - bytes_of(20)) / 20 < 6 * 8 * 72**2
