"""The analytic gradient against finite differences and against differentiation through the dense solve."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from _assert import assert_close
from _backends import Backend, load
from _oracle import solve as dense_solve
from _strategies import ProblemData, problems
from hypothesis import given, settings

import smnn_core as smnn
from smnn_core.engines.collocation import is_compiled

Flat = dict[str, Any]
WEIGHTS = ("equation", "initial", "smoothness")


def flat(gradients: smnn.Gradients) -> Flat:
    """All gradients by name."""
    return {**gradients._asdict(), **vars(gradients.weights)} | {"weights": None}


def with_array_weights(data: ProblemData) -> Flat:
    """All inputs by name, number weights as 0-d arrays, so that they have gradients too."""
    inputs = {**dict(zip(("coefficients", "rhs", "initial_values", "step_sizes"), data.arrays, strict=True))}
    return inputs | {k: np.asarray(data.weights.get(k, 1.0)) for k in WEIGHTS}


def vjp(inputs: Flat, data: ProblemData, backend: Backend, g: np.ndarray) -> Flat:
    arrays = {k: backend.asarray(x) for k, x in inputs.items()}
    weights = smnn.Weights(**{k: arrays[k] for k in WEIGHTS})

    def gradients(c: Any, b: Any, u: Any, s: Any, g: Any) -> Flat:
        _, pullback = smnn.solve_ode_vjp(c, b, u, s, n_steps=data.n_steps, scheme=data.scheme, weights=weights)
        return {k: x for k, x in flat(pullback(g)).items() if x is not None}

    arguments = [arrays[k] for k in ("coefficients", "rhs", "initial_values", "step_sizes")]
    return backend.jit(gradients)(*arguments, backend.asarray(g))


def dense_gradient(inputs: Flat, data: ProblemData, g: np.ndarray) -> tuple[Flat, float]:
    """By torch's autograd through the dense system (A, d), whose own gradients are those of its least-squares solution,
    r λ^T - z y^T and z with λ = (A^T A)^-1 g and z = A λ, in long double: r is nothing in rows that λ multiplies by
    1e8, where light rows alone hold an unknown. The largest |λ|, too."""
    leaves = {k: torch.tensor(x, requires_grad=True) for k, x in inputs.items()}
    weights = smnn.Weights(**{k: leaves[k] for k in WEIGHTS})
    A, d = smnn.dense_system(
        *(leaves[k] for k in ("coefficients", "rhs", "initial_values", "step_sizes")),
        n_steps=data.n_steps,
        scheme=data.scheme,
        weights=weights,
    )
    of_A, of_d, largest = np.zeros(A.shape), np.zeros(d.shape), 0.0
    A_all, d_all = (x.detach().numpy().astype(np.longdouble) for x in (A, d))
    A_all = np.broadcast_to(A_all, (*d.shape[:-1], *A.shape[-2:]))
    for i in np.ndindex(d.shape[:-1]):
        Q, R = orthogonal(A_all[i])
        z = Q @ substituted(R.T, g[i].ravel())
        y, λ = (substituted(R[::-1, ::-1], (Q.T @ x)[::-1])[::-1] for x in (d_all[i], z))
        own = np.outer(d_all[i] - A_all[i] @ y, λ) - np.outer(z, y)
        of_A[tuple(0 if n == 1 else k for k, n in zip(i, A.shape[:-2], strict=True))] += own.astype(np.float64)
        of_d[i], largest = z, max(largest, float(np.abs(λ).max()))
    torch.autograd.backward([A, d], [torch.tensor(of_A), torch.tensor(of_d)])
    found = {k: np.zeros_like(inputs[k]) if x.grad is None else x.grad.numpy() for k, x in leaves.items()}
    return found, largest


def orthogonal(A: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A = Q R by Gram and Schmidt, twice, in the precision of A."""
    Q, R = A.copy(), np.zeros((A.shape[1],) * 2, A.dtype)
    for j in range(A.shape[1]):
        for _ in range(2):
            share = Q[:, :j].T @ Q[:, j]
            R[:j, j] += share
            Q[:, j] -= Q[:, :j] @ share
        R[j, j] = np.sqrt((Q[:, j] ** 2).sum())
        Q[:, j] /= R[j, j]
    return Q, R


def substituted(L: np.ndarray, b: np.ndarray) -> np.ndarray:
    """L^-1 b for a lower triangle, in its precision."""
    x = np.zeros(len(b), L.dtype)
    for i in range(len(b)):
        x[i] = (b[i] - L[i, :i] @ x[:i]) / L[i, i]
    return x


@pytest.mark.parametrize("name", ["numpy", "torch", "jax", "array_api_strict"])
def test_equals_differentiation_through_the_dense_solve(name: str) -> None:
    backend = load(name)

    @settings(max_examples=max(2, backend.examples(20)))
    @given(problems(max_steps=5, max_variables=2, max_orders=3))
    def check(data: ProblemData) -> None:
        inputs = with_array_weights(data)
        oracle = dense_solve(*data.arrays, **data.options())
        g = np.random.default_rng(0).uniform(-1, 1, oracle.y.shape)
        expected, largest = dense_gradient(inputs, data, g)
        found = vjp(inputs, data, backend, g)
        # λ = M^-1 g and r each carry the condition number, their product its square
        condition = float(np.max(oracle.condition)) ** 2
        # products of λ, of the size of gradients, with y or r are in all of them, and cancel in some
        size = 1 + max(np.abs(x).max(initial=0.0) for x in expected.values())
        size *= 1 + np.abs(oracle.y).max(initial=0.0)
        if not (backend.name == "numpy" and is_compiled):  # by increments every entry of λ is rounded as the largest is
            size += largest
        for key, value in found.items():
            assert_close(value, expected[key], backend, atol=1e2 * 2.3e-16 * condition * size, label=f"{key} of {data}")

    check()


@settings(max_examples=15)
@given(problems(max_steps=6, max_variables=2, max_orders=3, max_batch_axes=1))
def test_equals_finite_differences(data: ProblemData) -> None:
    backend = load("numpy")
    inputs = with_array_weights(data)
    rng = np.random.default_rng(0)

    def solve(values: Flat) -> np.ndarray:
        return smnn.solve_ode(
            *(values[k] for k in ("coefficients", "rhs", "initial_values", "step_sizes")),
            n_steps=data.n_steps,
            scheme=data.scheme,
            weights=smnn.Weights(**{k: values[k] for k in WEIGHTS}),
        )

    y = solve(inputs)
    g = rng.uniform(-1, 1, y.shape)
    found = vjp(inputs, data, backend, g)
    h = 1e-5
    for key, x in inputs.items():
        direction = rng.uniform(-1, 1, x.shape)
        if key in WEIGHTS:  # solutions are even in weights, and change by h beside those of light rows, 1e-4
            np.testing.assert_array_equal(np.where(x == 0, found[key], 0.0), 0.0)
            direction = np.where(x == 0, 0.0, direction)
        # fourth-order central difference: truncation h^4, rounding eps / h
        points = [float(np.sum(g * solve({**inputs, key: x + k * h * direction}))) for k in (-2, -1, 1, 2)]
        expected = (points[0] - 8 * points[1] + 8 * points[2] - points[3]) / (12 * h)
        scale = float(np.sum(np.abs(g) * (1 + np.abs(y)))) + np.abs(expected)
        condition = float(np.max(dense_solve(*data.arrays, **data.options()).condition))
        assert abs(np.sum(found[key] * direction) - expected) <= 1e-9 * condition * scale, key


def check_float32(
    inputs: tuple[np.ndarray, ...], weights: smnn.Weights, engine: str | None, names: tuple[str, ...], tolerance: float
) -> None:
    """The gradients in float32 against float64, relative to the largest entry of each."""
    options = {"scheme": smnn.TAYLOR} if engine is None else {"scheme": smnn.TAYLOR, "engine": engine}
    y, single = smnn.solve_ode_vjp(*(x.astype(np.float32) for x in inputs), weights=weights, **options)
    g = np.random.default_rng(0).normal(size=y.shape).astype(np.float32)
    rounded = (x.astype(np.float32).astype(np.float64) for x in inputs)
    exact = flat(smnn.solve_ode_vjp(*rounded, weights=weights, **options)[1](g.astype(np.float64)))
    found = flat(single(g))
    for name in names:
        atol = tolerance * np.abs(exact[name]).max()
        np.testing.assert_allclose(found[name], exact[name], rtol=0, atol=atol, err_msg=name)


SHAPES = [(1, 1), (2, 1), (1, 3), (3, 2)]
"""Q, K"""


@pytest.mark.parametrize("engine", [None, "array_api"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_equations_that_are_almost_zero(engine: str | None, shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(2)
    (Q, K), T = shape, 5
    c = rng.normal(size=(T, Q, 1, K))
    c[2, -1] *= 1e-7
    inputs = c, rng.normal(size=(T, Q)), rng.normal(size=(1, 1, K)), np.full(T - 1, 0.5)
    check_float32(inputs, smnn.Weights(), engine, ("coefficients", "rhs", "initial_values", "step_sizes"), 1e-5)


@pytest.mark.parametrize("engine", [None, "array_api"])
@pytest.mark.parametrize("strong", ["initial", "smoothness"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_equations_that_weigh_little_beside_other_rows(engine: str | None, strong: str, shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(3)
    (Q, K), T = shape, 5
    inputs = rng.normal(size=(T, Q, 1, K)), rng.normal(size=(T, Q)), rng.normal(size=(T, 1, K)), np.full(T - 1, 0.8)
    weights = smnn.Weights(equation=1e-2, **{strong: 30.0})
    check_float32(inputs, weights, engine, ("coefficients", "rhs"), 3e-4)


def test_gradient_of_a_repeated_input_is_the_sum() -> None:
    rng = np.random.default_rng(5)
    T, batch = 6, 4
    c, b = rng.normal(size=(1, 1, 1, 3)), rng.normal(size=(1, 1))
    u, s = rng.normal(size=(batch, 1, 1, 2)), np.full(1, 0.3)
    y, shared = smnn.solve_ode_vjp(c, b, u, s, n_steps=T)
    g = rng.normal(size=y.shape)
    own = np.broadcast_to(c, (batch, T, 1, 1, 3)), np.broadcast_to(b, (batch, T, 1)), u, np.full((batch, T - 1), 0.3)
    _, repeated = smnn.solve_ode_vjp(*own)
    once, many = shared(g), repeated(g)
    np.testing.assert_allclose(once.coefficients[0], many.coefficients.sum((0, 1)), rtol=1e-9)
    np.testing.assert_allclose(once.rhs[0], many.rhs.sum((0, 1)), rtol=1e-9)
    np.testing.assert_allclose(once.initial_values, many.initial_values, rtol=1e-9)
    np.testing.assert_allclose(once.step_sizes[0], many.step_sizes.sum((0, 1)), rtol=1e-9)


def test_vjp_can_be_called_again(backend: Backend) -> None:
    rng = np.random.default_rng(6)
    arguments = [backend.asarray(rng.normal(size=shape)) for shape in [(5, 1, 1, 3), (5, 1), (1, 1, 2)]] + [
        backend.asarray(rng.uniform(0.2, 0.5, 4))
    ]

    def twice(*arguments):
        y, pullback = smnn.solve_ode_vjp(*arguments)
        return y, pullback(y).rhs, pullback(y).rhs

    y, first, second = backend.jit(twice)(*arguments)
    assert_close(first, second, backend, like=y, factor=1.0)
