"""The baselines, and central rows, against each other and against plain least squares."""

from __future__ import annotations

from math import factorial

import numpy as np
import pytest

pytest.importorskip("torch", reason="the baselines have parts for PyTorch, and rows of its adapter")

import torch

import smnn_core as smnn
from benchmarks.baselines import (
    dense_least_squares,
    mnn_conjugate_gradient,
    mnn_dense,
    normal_equations,
    smnn_cholesky,
)
from smnn_torch import _central

SEED = 0
UNIT = smnn.Weights()


def random_problem(T=7, V=2, K=3, Q=2, batch=(3,), T_init=1, R_init=2, seed=SEED):
    """Well-conditioned: steps near one, coefficients of size one."""
    rng = np.random.default_rng(seed)
    return (
        rng.standard_normal((*batch, T, Q, V, K)),
        rng.standard_normal((*batch, T, Q)),
        rng.standard_normal((*batch, T_init, V, R_init)),
        rng.uniform(0.5, 1.5, (*batch, T - 1)),
    )


def condition(A):
    """The condition number of A with unit columns, the largest over the batch."""
    return np.linalg.cond(A / np.linalg.norm(A, axis=-2, keepdims=True)).max()


def assert_close(actual, expected, tolerance):
    assert actual.shape == expected.shape
    assert np.abs(actual - expected).max() <= tolerance * np.abs(expected).max()


def smnn_central(*arrays, weights=UNIT, **options):
    """That of the adapter, of NumPy arrays as of tensors."""
    if torch.is_tensor(arrays[0]):
        return _central.smnn_central(*arrays, weights=weights, **options)
    weights = smnn.Weights(*(torch.tensor(w) if isinstance(w, np.ndarray) else w for w in vars(weights).values()))
    return _central.smnn_central(*map(torch.tensor, arrays), weights=weights, **options).numpy()


WEIGHTS = smnn.Weights(equation=2.0, initial=0.7, smoothness=1.3)


@pytest.mark.parametrize("scheme", [smnn.TAYLOR, smnn.HERMITE], ids=lambda s: s.name)
def test_dense_least_squares_is_lstsq(scheme):
    problem = random_problem()
    A, d = smnn.dense_system(*problem, scheme=scheme, weights=WEIGHTS)
    expected = np.stack([np.linalg.lstsq(A_i, d_i, rcond=None)[0] for A_i, d_i in zip(A, d, strict=True)])
    y = dense_least_squares(*problem, scheme=scheme, weights=WEIGHTS)
    assert_close(y.reshape(expected.shape), expected, 100 * condition(A) * np.finfo(float).eps)


@pytest.mark.parametrize("library", ["numpy", "torch"])
@pytest.mark.parametrize("scheme", [smnn.TAYLOR, smnn.HERMITE], ids=lambda s: s.name)
def test_cholesky_equals_dense(library, scheme):
    problem = random_problem()
    A, _ = smnn.dense_system(*problem, scheme=scheme, weights=WEIGHTS)
    expected = dense_least_squares(*problem, scheme=scheme, weights=WEIGHTS)
    xp = pytest.importorskip(library)
    y = np.asarray(smnn_cholesky(*map(xp.asarray, problem), scheme=scheme, weights=WEIGHTS))
    assert_close(y, expected, 100 * condition(A) ** 2 * np.finfo(float).eps)


def test_normal_equations_are_those_of_the_dense_matrix():
    problem = random_problem(T=4)
    A, d = smnn.dense_system(*problem, scheme=smnn.TAYLOR, weights=WEIGHTS)
    D, B, h = normal_equations(*problem, weights=WEIGHTS)
    n = D.shape[-1]
    M = np.zeros((3, 4, n, 4, n))
    for t in range(4):
        M[:, t, :, t] = D[t]
        if t < 3:
            M[:, t + 1, :, t], M[:, t, :, t + 1] = B[t], B[t].swapaxes(-1, -2)
    tolerance = A.shape[-2] * np.finfo(float).eps
    assert_close(M.reshape(3, 4 * n, 4 * n), A.swapaxes(-1, -2) @ A, tolerance)
    assert_close(h.swapaxes(0, 1).reshape(3, -1), (A.swapaxes(-1, -2) @ d[..., None])[..., 0], tolerance)


@pytest.mark.parametrize(
    "solver", [dense_least_squares, smnn_central, smnn_cholesky, mnn_dense, mnn_conjugate_gradient]
)
def test_broadcast_inputs_equal_repeated_ones(solver):
    c, b, u, s = random_problem(batch=())
    c, s = c[:1], s[:1]
    b, u = np.stack([b, 2 * b, -b]), np.stack([u, u, 0 * u])
    w = np.array([1.0, 0.5, 2.0])[:, None]
    y = solver(c, b, u, s, weights=smnn.Weights(smoothness=w))
    T = b.shape[-2]
    full = (np.broadcast_to(c, (3, T, *c.shape[1:])), b, u, np.broadcast_to(s, (3, T - 1)))
    assert_close(y, solver(*full, weights=smnn.Weights(smoothness=np.broadcast_to(w, (3, T - 1)))), 1e-10)


def mnn_rows(c, b, u, s, w):
    """The rows of the system with slack variable for one system, one by one, from their definition."""
    T, Q, V, K = c.shape
    R = K - 1
    rows, values = [], []

    def add(weight, entries, slack, value=0.0):
        row = np.zeros(1 + T * V * K)
        row[0] = weight * slack
        for (t, v, r), x in entries:
            row[1 + (t * V + v) * K + r] += weight * x
        rows.append(row)
        values.append(weight * value)

    for t in range(T):
        for q in range(Q):
            add(w.equation, [((t, v, r), c[t, q, v, r]) for v in range(V) for r in range(K)], 0, b[t, q])
    for t, v, r in np.ndindex(u.shape):
        add(w.initial, [((t, v, r), 1.0)], 0, u[t, v, r])
    for v in range(V):
        for t in range(T - 1):
            for here, there, h in ((t, t + 1, s[t]), (t + 1, t, -s[t])):
                for r in range(R):
                    series = [((here, v, o), h**o / factorial(o - r)) for o in range(r, K)]
                    add(w.smoothness, [*series, ((there, v, r), -(h**r))], 1)
        for t in range(1, T - 1):
            h = s[t - 1] + s[t]
            ends = [((t - 1, v, R - 1), h ** (R - 2.0)), ((t + 1, v, R - 1), -(h ** (R - 2.0)))]
            add(w.smoothness, [*ends, ((t, v, R), h ** (R - 1))], -1)
    return np.array(rows), np.array(values)


@pytest.mark.parametrize(("T", "K"), [(2, 3), (3, 2), (6, 3), (6, 4)])
@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_mnn_dense_is_least_squares_of_its_rows(library, T, K):
    problem = random_problem(T=T, K=K, V=2, Q=2)
    xp = pytest.importorskip(library)
    y = np.asarray(mnn_dense(*map(xp.asarray, problem), weights=WEIGHTS))
    for i in range(y.shape[0]):
        A, d = mnn_rows(*(x[i] for x in problem), WEIGHTS)
        expected = np.linalg.lstsq(A, d, rcond=None)[0][1:].reshape(y[i].shape)
        assert_close(y[i], expected, 100 * condition(A) ** 2 * np.finfo(float).eps)


@pytest.mark.parametrize(("T", "K"), [(2, 3), (3, 2), (6, 3), (7, 4)])
def test_central_rows_are_those_of_mnn_without_slack(T, K):
    problem = random_problem(T=T, K=K, V=2, Q=2)
    y = smnn_central(*problem, weights=WEIGHTS)
    for i in range(y.shape[0]):
        A, d = mnn_rows(*(x[i] for x in problem), WEIGHTS)
        expected = np.linalg.lstsq(A[:, 1:], d, rcond=None)[0].reshape(y[i].shape)
        assert_close(y[i], expected, 100 * condition(A[:, 1:]) * np.finfo(float).eps)


def test_central_rows_of_undetermined_systems_raise():
    rng = np.random.default_rng(SEED)
    c, b, u, s = random_problem(T=20, K=3)
    c[1, ..., 1, :] = 3 * c[1, ..., 0, :]  # two variables that enter in proportion
    with pytest.raises(smnn.SingularSystemError, match=r"batch member \(1,\)"):
        smnn_central(c, b, u[..., :0], 10 ** rng.uniform(-3, 0, s.shape))


@pytest.mark.parametrize(("K", "s"), [(3, 1e-2), (4, 3e-3), (5, 1e-3)])
def test_central_rows_with_short_steps(K, s):
    """A polynomial of degree R satisfies all rows, and is found where the normal equations have no correct digit."""
    t, R = s * np.arange(100), K - 1
    c = np.eye(K)[R].reshape(1, 1, 1, K)
    y = smnn_central(c, np.ones((1, 1)), np.zeros((1, 1, R)), np.array([s]), n_steps=t.size)
    assert_close(y[:, 0, 0], t**R / factorial(R), 1e-9)


def test_central_gradients_with_short_steps():
    """The solution is linear in the right-hand side, with nothing else that is not zero: it is its own derivative."""
    T, s, K = 100, 3e-3, 4
    c = torch.eye(K, dtype=torch.float64)[-1].reshape(1, 1, 1, K)
    f = torch.ones((T, 1), dtype=torch.float64, requires_grad=True)
    zeros = torch.zeros((1, 1, K - 1), dtype=torch.float64)
    y = smnn_central(c, f, zeros, torch.tensor([s], dtype=torch.float64), n_steps=T)
    (g,) = torch.autograd.grad(y[-1, 0, 0], f)
    assert g.sum().item() == pytest.approx(y[-1, 0, 0].item(), rel=1e-9)


def test_mnn_solutions_approach_the_ode():
    """y'' + y = 0 from (1, 0): the rows are of second order, so halving the step divides the error by four."""

    def error(s):
        t = np.arange(0, 2 + s / 2, s)
        c = np.array([1.0, 0.0, 1.0]).reshape(1, 1, 1, 3)
        y = mnn_dense(c, np.zeros((1, 1)), np.array([[[1.0, 0.0]]]), np.array([s]), n_steps=len(t))
        return np.abs(y[:, 0, 0] - np.cos(t)).max()

    errors = [error(0.04), error(0.02)]
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.05)
    assert errors[1] < 1e-3


def test_conjugate_gradient_equals_dense():
    problem = random_problem(T=4, V=1, Q=1)
    y = mnn_conjugate_gradient(*problem, weights=WEIGHTS, max_iterations=2000, tolerance=1e-14)
    A = np.stack([mnn_rows(*(x[i] for x in problem), WEIGHTS)[0] for i in range(3)])
    assert_close(y, mnn_dense(*problem, weights=WEIGHTS), np.linalg.cond(A).max() ** 2 * 1e-14)


def test_conjugate_gradient_stops_at_its_limit():
    problem = random_problem(T=30)
    assert_close(mnn_conjugate_gradient(*problem, max_iterations=0), np.zeros((3, 30, 2, 3)), 0.0)
    one, two = (mnn_conjugate_gradient(*problem, max_iterations=k) for k in (1, 2))
    assert np.abs(one - two).max() > 0


def test_the_slack_changes_the_solution():
    """Otherwise the tests above could not tell the system with slack variable from the one without."""
    problem = random_problem()
    y, without = mnn_dense(*problem), dense_least_squares(*problem)
    assert np.abs(y - without).max() > 1e-3


def test_mnn_needs_a_derivative():
    with pytest.raises(smnn.ArgumentError, match=r"K = 1 derivative order.*append zeros"):
        mnn_dense(*random_problem(K=1, R_init=1))


@pytest.mark.parametrize("solver", [smnn_central, smnn_cholesky, mnn_conjugate_gradient])
def test_non_finite_members_leave_the_others_untouched(solver):
    problem = [torch.asarray(x) for x in random_problem()]
    expected = solver(*problem)
    problem[0][1, 2] = torch.nan
    y = solver(*problem)
    assert torch.equal(y[[0, 2]], expected[[0, 2]])
    assert torch.isnan(y[1]).any()


SOLVERS = {
    "dense_least_squares": dense_least_squares,
    "smnn_central": smnn_central,
    "smnn_cholesky": smnn_cholesky,
    "mnn_dense": mnn_dense,
    "mnn_conjugate_gradient": lambda *args, **kw: mnn_conjugate_gradient(
        *args, **kw, max_iterations=3000, tolerance=1e-15
    ),
}


@pytest.mark.parametrize("name", SOLVERS)
def test_gradients_with_respect_to_every_input(name):
    c, b, u, s = (torch.asarray(x) for x in random_problem(T=4, V=1, Q=1, batch=(2,)))
    weights = [torch.tensor([[1.3], [0.8]]), torch.full((1, 1, 2), 0.7), torch.tensor([1.0, 0.6, 1.5])]
    arguments = [x.to(torch.float64).requires_grad_() for x in (c[:1], b, u, s[:, :], *weights)]

    def solve(c, b, u, s, *w):
        return SOLVERS[name](c, b, u, s, weights=smnn.Weights(w[0][..., None, :], *w[1:]))

    assert torch.autograd.gradcheck(solve, arguments)


def test_second_derivatives_of_implicit_baselines_are_refused():
    c, b, u, s = (torch.asarray(x).requires_grad_() for x in random_problem(T=3))
    (gradient,) = torch.autograd.grad(smnn_cholesky(c, b, u, s).square().sum(), c, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


def test_cholesky_gradient_equals_the_analytic_gradient():
    problem = random_problem()
    g = np.random.default_rng(SEED).standard_normal((3, 7, 2, 3))
    _, vjp = smnn.solve_ode_vjp(*problem, scheme=smnn.TAYLOR, weights=WEIGHTS)
    tensors = [torch.asarray(x).requires_grad_() for x in problem]
    actual = torch.autograd.grad(smnn_cholesky(*tensors, weights=WEIGHTS), tensors, torch.asarray(g))
    A, _ = smnn.dense_system(*problem, scheme=smnn.TAYLOR, weights=WEIGHTS)
    for mine, theirs in zip(actual, vjp(g)[:4], strict=True):
        assert_close(mine.numpy(), theirs, 1000 * condition(A) ** 2 * np.finfo(float).eps)
