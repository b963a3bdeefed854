"""The laws of `engines._interface`, for every engine, and for one that leaves all to the defaults."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from _backends import Backend, load

import smnn_core as smnn
from smnn_core._constraints import apply, apply_transpose, residual, weighted
from smnn_core._problem import ALL, Problem, Rows, System, by_field, from_fields
from smnn_core.engines import ENGINES
from smnn_core.engines._interface import Engine, Factor
from smnn_core.engines._statistics import minimum_pullback, pulled_back
from smnn_core.engines.array_api import MomentsByArrayApi

EPS = float(np.finfo(np.float64).eps)


@dataclass
class PlainFactor(MomentsByArrayApi):
    """The one method that a factor must have, by dense QR."""

    system: System
    undetermined: np.ndarray | None
    Q: np.ndarray
    R: np.ndarray

    def solve_augmented(self, f: Rows | None, g: np.ndarray | None, **wanted: bool) -> tuple[Rows, np.ndarray]:
        s = self.system
        initial = (s.n_initial_steps, s.V, s.n_initial_orders)
        cores = (s.n_steps, s.Q), initial, (s.n_steps - 1, s.V, len(s.smoothness_matrices[0]))
        d = [np.zeros(core) if x is None else x for x, core in zip(f or 3 * (None,), cores, strict=True)]
        d = [np.broadcast_to(x, (*x.shape[: x.ndim - len(core)], *core)) for x, core in zip(d, cores, strict=True)]
        batch = np.broadcast_shapes(s.batch, *(x.shape[: -len(core)] for x, core in zip(d, cores, strict=True)))
        z = np.swapaxes(self.Q, -1, -2) @ flat(Rows(*d), batch)[..., None]
        if g is not None:
            z = z - np.linalg.solve(np.swapaxes(self.R, -1, -2), g.reshape(*g.shape[:-3], -1, 1))
        y = np.linalg.solve(self.R, z)
        fitted = np.split((self.Q @ z)[..., 0], np.cumsum([np.prod(core) for core in cores])[:-1], axis=-1)
        v = Rows(*(a - x.reshape(*x.shape[:-1], *core) for a, x, core in zip(d, fitted, cores, strict=True)))
        return v, y.reshape(*y.shape[:-2], s.n_steps, s.V, s.K)


class Plain(Engine):
    """The three methods that an engine must have."""

    name = "plain"

    def refusal(self, system: System) -> str | None:
        return None

    def describe(self) -> str:
        return "available: dense"

    def factorize(self, system: System) -> Factor:
        A = dense(system)
        finite = np.isfinite(A).all(axis=(-2, -1))[..., None, None]
        Q, R = np.linalg.qr(np.where(finite, A, np.eye(*A.shape[-2:])))
        open_ = np.abs(np.diagonal(R, axis1=-2, axis2=-1)).min(-1) <= 100 * EPS * np.abs(R).max(axis=(-2, -1))
        undetermined = np.broadcast_to(open_[..., None], (*system.batch, system.n_steps))
        return PlainFactor(system, undetermined, Q, np.where(finite & ~open_[..., None, None], R, np.nan * R))


def flat(rows: Rows, batch: tuple[int, ...]) -> np.ndarray:
    """Rows as one vector each, (*batch, number of rows)."""
    parts = [np.broadcast_to(x, (*batch, *x.shape[-n:])) for x, n in zip(rows, (2, 3, 3), strict=True)]
    return np.concatenate([x.reshape(*batch, -1) for x in parts], axis=-1)


def dense(system: System) -> np.ndarray:
    """W A, (*batch, rows, unknowns)."""
    T, V, K, n = system.n_steps, system.V, system.K, system.n_steps * system.n
    unit = np.eye(n).reshape(n, *(1,) * len(system.batch), T, V, K)
    return np.moveaxis(flat(weighted(system.weights, apply(system, unit)), (n, *system.batch)), 0, -1)


@dataclass(frozen=True)
class Subject:
    """An engine, with the arrays that it serves."""

    engine: Engine
    backend: Backend

    def given(self, x: Any) -> Any:
        """A problem, rows or an array, in those arrays."""
        if isinstance(x, Problem):
            s = x.system
            weights = smnn.Weights(*map(self.given, vars(s.weights).values()))
            arrays = map(self.given, (s.coefficients, x.rhs, x.initial_values, s.step_sizes))
            return Problem.build(*arrays, scheme=s.scheme, weights=weights)
        return Rows(*map(self.given, x)) if isinstance(x, Rows) else self.backend.asarray(x)

    def factor(self, p: Problem) -> Factor:
        return self.engine.factorize(self.given(p).system)

    def near(self, found: Any, expected: np.ndarray, p: Problem, scale: float = 0.0, power: int = 2) -> None:
        """Up to rounding of numbers as large as `scale` or the largest result, times a power of the condition."""
        scale = max(scale, float(np.abs(expected).max()))
        tolerance = 100 * EPS * np.linalg.cond(dense(p.system)).max() ** power * scale
        np.testing.assert_allclose(self.backend.to_numpy(found), expected, rtol=0, atol=tolerance)

    def all_near(self, found: smnn.Gradients, expected: smnn.Gradients, p: Problem) -> None:
        """Gradients, sums of products of states and rows, both of which are of size 1."""
        for a, b in zip(by_field(found), by_field(expected), strict=True):
            self.near(a, b if isinstance(b, np.ndarray) else self.backend.to_numpy(b), p, scale=1.0)


@pytest.fixture(params=[*ENGINES, "plain"])
def subject(request: pytest.FixtureRequest) -> Subject:
    """Each engine in turn; one that cannot run here is a skip with its reason."""
    found = Subject(ENGINES.get(request.param, Plain()), load("cupy" if request.param == "cuda" else "numpy"))
    reason = found.engine.refusal(found.given(problem()).system)
    if reason is not None:
        pytest.skip(reason)
    return found


def problem(**changes: np.ndarray) -> Problem:
    """Three members of two variables at nine times, their steps and weights in common."""
    rng, T = np.random.default_rng(0), 9
    given = {
        "coefficients": rng.uniform(-0.4, 0.4, (3, T, 2, 2, 3)) + 1.5 * np.eye(2)[:, :, None] * [0, 0, 1],
        "rhs": rng.uniform(-1, 1, (3, T, 2)),
        "initial_values": rng.uniform(-1, 1, (1, 2, 2)),
        "step_sizes": rng.uniform(0.2, 0.5, T - 1),
    } | changes
    weights = smnn.Weights(rng.uniform(0.5, 2, (T, 2)), np.full((1, 2, 2), 1.5), np.full(T - 1, 0.8))
    return Problem.build(**given, scheme=smnn.HERMITE, weights=weights)


def states(p: Problem, seed: int = 0) -> np.ndarray:
    s = p.system
    return np.random.default_rng(seed).uniform(-1, 1, (*p.batch, s.n_steps, s.V, s.K))


def in_rows(p: Problem, y: np.ndarray) -> Rows:
    """W A y."""
    return weighted(p.system.weights, apply(p.system, y))


def in_states(p: Problem, v: Rows) -> np.ndarray:
    """(W A)^T v."""
    return apply_transpose(p.system, weighted(p.system.weights, v))


def least_squares(p: Problem) -> tuple[np.ndarray, Rows]:
    """y and W (d - A y), by dense QR."""
    Wd = flat(weighted(p.system.weights, residual(p.system, p.rows, 0 * states(p))), p.batch)
    y = np.stack([np.linalg.lstsq(a, b)[0] for a, b in zip(dense(p.system), Wd, strict=True)])
    y = y.reshape(states(p).shape)
    return y, weighted(p.system.weights, residual(p.system, p.rows, y))


def test_solve_is_the_least_squares_solution(subject: Subject) -> None:
    p = problem()
    subject.near(subject.factor(p).solve(subject.given(p).rows), least_squares(p)[0], p)


def test_solve_is_the_normal_solve_of_the_transposed_rows(subject: Subject) -> None:
    p = problem()
    factor, d = subject.factor(p), Rows(p.rhs, p.initial_values, np.full((3, 8, 2, 3), 0.1))
    h = in_states(p, weighted(p.system.weights, d))
    found = subject.backend.to_numpy(factor.solve(subject.given(d)))
    subject.near(factor.normal_solve(subject.given(h)), found, p)


def test_normal_solve_is_symmetric_and_an_inverse(subject: Subject) -> None:
    p = problem()
    factor, g, h = subject.factor(p), states(p, 1), states(p, 2)
    x, z = (subject.backend.to_numpy(factor.normal_solve(subject.given(a))) for a in (g, h))
    size = float(np.abs(x).max())
    tolerance = g.size * EPS * np.linalg.cond(dense(p.system)).max() ** 2 * size
    np.testing.assert_allclose((h * x).sum(), (z * g).sum(), rtol=0, atol=tolerance)
    subject.near(subject.given(in_states(p, in_rows(p, x))), g, p, size)


def test_multipliers_lie_in_the_range_and_have_the_product(subject: Subject) -> None:
    p = problem()
    factor, g = subject.factor(p), states(p, 1)
    v, _ = factor.augmented(None, subject.given(g))
    expected = in_rows(p, subject.backend.to_numpy(factor.normal_solve(subject.given(g))))
    for a, b in zip(v, expected, strict=True):
        subject.near(a, b, p, scale=1.0)
    v = Rows(*map(subject.backend.to_numpy, v))
    subject.near(subject.given(in_states(p, v)), g, p, power=1)


def test_residual_rows_are_what_the_solution_leaves(subject: Subject) -> None:
    p = problem()
    given = subject.given(p)
    v, _ = subject.factor(p).augmented(weighted(given.system.weights, given.rows), None)
    for a, b in zip(v, least_squares(p)[1], strict=True):
        subject.near(a, b, p, scale=1.0)


def test_the_augmented_solve_meets_its_equations_and_is_symmetric(subject: Subject) -> None:
    p = problem()
    factor, (f, g), (h, k) = subject.factor(p), *((in_rows(p, states(p, i)), states(p, i + 1)) for i in (1, 3))
    f, h = (x._replace(smoothness=x.smoothness + 0.1) for x in (f, h))
    found = []
    for rows, x in (f, g), (h, k):
        v, y = factor.augmented(subject.given(rows), subject.given(x))
        v, y = Rows(*map(subject.backend.to_numpy, v)), subject.backend.to_numpy(y)
        for a, b, c in zip(v, in_rows(p, y), rows, strict=True):
            subject.near(subject.given(a + b), c, p, scale=1.0)
        subject.near(subject.given(in_states(p, v)), x, p, power=1)
        _, alone = factor.augmented(subject.given(rows), subject.given(x), rows=False)
        subject.near(alone, y, p)
        found.append((*v, y))
    there, back = (
        sum((a * b).sum() for a, b in zip(z, b, strict=True)) for z, b in zip(found, ((*h, k), (*f, g)), strict=True)
    )
    tolerance = g.size * EPS * np.linalg.cond(dense(p.system)).max() ** 2 * abs(there)
    np.testing.assert_allclose(there, back, rtol=0, atol=tolerance)


def test_the_sum_of_squares_is_that_of_the_residual(subject: Subject) -> None:
    p = problem()
    expected = sum(
        np.sum(x * x, axis=tuple(range(-rank, 0))) for x, rank in zip(least_squares(p)[1], (2, 3, 3), strict=True)
    )
    subject.near(subject.factor(p).statistics(subject.given(p).rows).minimum, expected, p)


def test_covariances_are_blocks_of_the_inverse(subject: Subject) -> None:
    p, (T, n) = problem(), (9, 6)
    found, A = subject.factor(p), dense(p.system)
    M = np.swapaxes(A, -1, -2) @ A
    inverse, i = np.linalg.inv(M).reshape(3, T, n, T, n), np.arange(T)
    subject.near(found.covariances()[0], np.moveaxis(inverse[:, i, :, i], 0, 1), p)
    subject.near(found.covariances()[1], np.moveaxis(inverse[:, i[:-1], :, i[1:]], 0, 1), p)
    subject.near(found.log_determinant(), np.linalg.slogdet(M)[1], p)


def test_statistics_are_those_of_moments_and_the_minimum(subject: Subject) -> None:
    p = problem()
    given, oracle = subject.given(p), ENGINES["array_api"].factorize(p.system)
    for factor in (subject.factor(p), subject.engine.factor_of_moments(given.system)):
        found = factor.statistics(given.rows, ALL)
        g = np.linspace(1.0, 2.0, found.minimum.size).reshape(found.minimum.shape)
        subject.near(found.log_determinant, oracle.log_determinant(), p)
        subject.near(found.minimum, oracle.statistics(p.rows).minimum, p)
        pulled = pulled_back(given, found, subject.given(g), subject.given(0 * g))
        expected = oracle.moments_pullback(None, None, g)._replace(rhs=0 * p.rhs, initial_values=0 * p.initial_values)
        subject.all_near(pulled, expected, p)
        pulled = pulled_back(given, found, subject.given(0 * g), subject.given(g))
        expected = minimum_pullback(p, *reversed(oracle.augmented(weighted(p.system.weights, p.rows), None)), g)
        subject.all_near(pulled, expected, p)


@pytest.mark.parametrize("recompute", [False, True])
def test_solution_and_factor_in_one_sweep(subject: Subject, recompute: bool) -> None:
    p, engine, other = problem(), subject.engine, subject.factor(problem())
    given = subject.given(p)
    y, factor = engine.solve_problem(given, recompute=recompute)
    expected = subject.backend.to_numpy(other.normal_solve(y))
    subject.near(y, least_squares(p)[0], p)
    subject.near(engine.solve_determined(given), least_squares(p)[0], p)
    subject.near(factor.normal_solve(y), expected, p)
    subject.near(engine.normal_solve(given.system, y), expected, p)


def test_the_adjoint_with_a_factor_and_without(subject: Subject) -> None:
    p, g = problem(), subject.given(states(problem()))
    given, oracle = subject.given(p), ENGINES["array_api"].factorize(p.system)
    expected = oracle.adjoint(p, oracle.solve(p.rows), states(p))
    y, factor = subject.engine.solve_problem(given)
    subject.all_near(factor.adjoint(given, y, g), expected, p)
    for recompute in (False, True):
        subject.all_near(subject.engine.adjoint(given, y, g, recompute=recompute), expected, p)


def test_gradients_that_are_not_wanted_change_nothing_in_others(subject: Subject) -> None:
    given = subject.given(problem())
    y, factor = subject.engine.solve_problem(given)
    everything = by_field(factor.adjoint(given, y, y, ALL))
    for i, expected in enumerate(everything):
        wanted = from_fields(j == i for j in range(len(everything)))
        found = by_field(factor.adjoint(given, y, y, wanted))[i]
        np.testing.assert_array_equal(*map(subject.backend.to_numpy, (found, expected)))


def test_a_shared_left_hand_side_may_be_eliminated_before_it_is_broadcast(subject: Subject) -> None:
    c = problem().system.coefficients[:1]
    p = problem(coefficients=np.repeat(c, 3, axis=0))
    full, shared = subject.given(p), subject.given(problem(coefficients=c)).system
    y = subject.engine.solve_problem(full)[0]
    expected = subject.engine.adjoint(full, y, y)
    subject.all_near(subject.engine.adjoint(full, y, y, eliminated=shared), expected, p)


def test_what_is_not_finite_stays_with_its_member(subject: Subject) -> None:
    p, others = problem(), [0, 2]
    c = np.array(p.system.coefficients)
    c[1, 4] = np.nan
    y, factor = subject.engine.solve_problem(subject.given(problem(coefficients=c)))
    x = factor.normal_solve(subject.given(states(p)))
    expected = subject.backend.to_numpy(subject.factor(p).normal_solve(subject.given(states(p))))
    subject.near(y[others], least_squares(p)[0][others], p)
    subject.near(x[others], expected[others], p)
    assert not np.isfinite(subject.backend.to_numpy(y)[1]).all()


def test_an_undetermined_member_is_marked_and_not_a_number(subject: Subject) -> None:
    c = np.array(problem().system.coefficients)
    c[1] = 0
    y, factor = subject.engine.solve_problem(subject.given(problem(coefficients=c)))
    flags, y = map(subject.backend.to_numpy, (factor.undetermined, y))
    np.testing.assert_array_equal(flags.any(-1), [False, True, False])
    np.testing.assert_array_equal(np.isnan(y).any((1, 2, 3)), [False, True, False])


def test_engines_say_what_they_are(subject: Subject) -> None:
    assert subject.engine.describe().startswith("available: ")
    assert ENGINES.get(subject.engine.name, subject.engine) is subject.engine
