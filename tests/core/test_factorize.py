"""The laws of a factorisation."""

from __future__ import annotations

import numpy as np
import pytest
from _assert import assert_close, eps
from _backends import Backend
from _oracle import normal_matrix
from _oracle import solve as dense_solve
from _strategies import ProblemData, problems
from hypothesis import given, settings

import smnn_core as smnn
from smnn_core._arrays import owned


def factorize(data: ProblemData, backend: Backend, engine: str = "auto") -> smnn.Factorization:
    c, _, u, s = data.arguments(backend)
    shape = {"n_initial_steps": u.shape[-3], "n_initial_orders": u.shape[-1]}
    return smnn.factorize(c, s, **shape, **data.options(backend), engine=engine)


def test_solves_what_the_direct_call_solves(backend: Backend) -> None:
    @settings(max_examples=backend.examples(20))
    @given(problems())
    def check(data: ProblemData) -> None:
        oracle = dense_solve(*data.arrays, **data.options(), extended=True)
        _, b, u, _ = data.arguments(backend)
        y = backend.jit(lambda b, u: factorize(data, backend).solve(b, u))(b, u)
        assert_close(y, oracle.y, backend, atol=oracle.tolerance(eps("float64")), label=repr(data))

    check()


def test_normal_solve_inverts_the_normal_matrix(backend: Backend) -> None:
    @settings(max_examples=backend.examples(20))
    @given(problems(max_steps=6))
    def check(data: ProblemData) -> None:
        M = normal_matrix(*data.arrays, **data.options())
        core = data.n_steps, *data.coefficients.shape[-2:]
        x = np.random.default_rng(0).uniform(-1, 1, (*M.shape[:-2], *core))
        g = (M @ x.reshape(*M.shape[:-2], -1, 1)).reshape(x.shape)
        solve = backend.jit(lambda g: factorize(data, backend).normal_solve(g))
        found = backend.to_numpy(solve(backend.asarray(g)))
        condition = np.linalg.cond(M).reshape(*M.shape[:-2], 1, 1, 1)
        assert found.shape == x.shape
        size = np.abs(x).max() * M.shape[-1]
        assert np.all(np.abs(found - x) <= 10 * eps("float64") * condition * size), data

    check()


@settings(max_examples=20)
@given(problems(max_steps=6))
def test_normal_solve_is_symmetric(data: ProblemData) -> None:
    from _backends import load

    f = factorize(data, load("numpy"))
    rng = np.random.default_rng(0)
    shape = (*f.system.batch, data.n_steps, *data.coefficients.shape[-2:])
    a, b = rng.normal(size=shape), rng.normal(size=shape)
    core = (-3, -2, -1)
    left, right = (f.normal_solve(a) * b).sum(core), (a * f.normal_solve(b)).sum(core)
    size = np.abs(f.normal_solve(a) * b).sum(core) + np.abs(a * f.normal_solve(b)).sum(core)
    condition = np.max(np.linalg.cond(normal_matrix(*data.arrays, **data.options())))
    assert np.all(np.abs(left - right) <= 10 * eps("float64") * condition * size)


def test_is_as_accurate_as_the_direct_solve() -> None:
    """No normal equations on the right-hand side: y'' + 4y = 0, T = 200, where they lose five digits."""
    T, s = 200, 0.01
    c, b = np.array([4.0, 0.0, 1.0]).reshape(1, 1, 1, 3), np.zeros((1, 1))
    u, step = np.array([[[1.0, 0.0]]]), np.array([s])
    f = smnn.factorize(c, step, n_initial_steps=1, n_initial_orders=2, n_steps=T)
    y = f.solve(b, u)
    direct = smnn.solve_ode(c, b, u, step, n_steps=T)
    exact = dense_solve(c, b, u, step, n_steps=T, extended=True).y
    error, direct_error = np.abs(y - exact).max(), np.abs(direct - exact).max()
    assert error <= 1e-10 * np.abs(exact).max()
    assert error <= 10 * direct_error


def test_serves_more_right_hand_sides_than_left_hand_sides(backend: Backend) -> None:
    rng = np.random.default_rng(1)
    T = 5
    c, s = rng.normal(size=(2, 1, T, 1, 1, 3)), rng.uniform(0.2, 0.5, T - 1)
    b, u = rng.normal(size=(3, T, 1)), rng.normal(size=(2, 3, 1, 1, 2))

    def solve(c, s, b, u):
        return smnn.factorize(c, s, n_initial_steps=1, n_initial_orders=2).solve(b, u)

    y = backend.to_numpy(backend.jit(solve)(*map(backend.asarray, (c, s, b, u))))
    for i in np.ndindex(2, 3):
        oracle = dense_solve(c[i[0], 0], b[i[1]], u[i], s)
        assert np.all(np.abs(y[i] - oracle.y) <= oracle.tolerance(eps("float64")))


def test_what_happens_to_the_arrays_afterwards_does_not_matter(backend: Backend) -> None:
    if "jax" in backend.name:
        pytest.skip("JAX arrays do not change")
    rng = np.random.default_rng(0)
    c, s, w = (backend.asarray(x) for x in (rng.normal(size=(5, 1, 1, 3)), np.full(4, 0.3), rng.uniform(1, 2, (5, 1))))
    b, u, g = (backend.asarray(rng.normal(size=shape)) for shape in ((5, 1), (1, 1, 2), (5, 1, 3)))
    f = smnn.factorize(c, s, n_initial_steps=1, n_initial_orders=2, weights=smnn.Weights(equation=w))
    before = f.solve(b, u), f.normal_solve(g)
    for x in (c, s, w):
        x *= 2
    for found, expected in zip((f.solve(b, u), f.normal_solve(g)), before, strict=True):
        np.testing.assert_array_equal(backend.to_numpy(found), backend.to_numpy(expected))


def test_copies_take_no_more_memory_where_arrays_repeat_themselves() -> None:
    x = np.broadcast_to(np.arange(3.0)[:, None], (4, 3, 5))
    copy = owned(x)
    np.testing.assert_array_equal(copy, x)
    assert copy.strides == (0, 8, 0)
    assert not np.shares_memory(copy, x)
