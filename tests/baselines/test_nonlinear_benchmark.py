"""The benchmark of nonlinear equations: its problems are what they say, and its tables show what was measured."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("scipy", reason="the benchmark compares with SciPy")
pytest.importorskip("tqdm", reason="the benchmarks need tqdm")

from benchmarks import nonlinear
from benchmarks.nonlinear_boundary_problems import linear_problems
from benchmarks.nonlinear_problems import initial_value_problems


@pytest.mark.parametrize("k", [1.0, 0.01])
@pytest.mark.parametrize("number", range(1, 19))
def test_closed_forms_satisfy_their_equations(number, k):
    problem = linear_problems(k)[number - 1]
    assert problem.number == number
    a, b = problem.interval
    t, h = np.linspace(a + 0.05 * (b - a), b - 0.05 * (b - a), 50), 1e-4 * (b - a)
    before, y, after = (problem.exact(t + shift) for shift in (-h, 0, h))
    first, second = (after - before) / (2 * h), (after - 2 * y + before) / h**2
    terms = problem.lead(t) * second, -problem.slope(t) * first, -problem.value(t) * y, -problem.forcing(t)
    scale = sum(np.abs(x) for x in terms).max()
    assert np.abs(sum(terms)).max() < 1e-4 * scale  # h^2 / k^2, the error of the differences


@pytest.mark.parametrize("index", range(8))
def test_derivatives_of_initial_value_problems(index, monkeypatch):
    monkeypatch.setattr("benchmarks.nonlinear_problems.relaxation_grid", lambda mu: (np.linspace(0, 2, 5), 0.0))
    problem = initial_value_problems()[index]
    rng = np.random.default_rng(0)
    V, K = problem.initial_values.shape[-2], problem.order + 1
    t, y, direction = rng.uniform(0, 1, 3), rng.standard_normal((3, V, K)), rng.standard_normal((3, V, K))
    h = 1e-6

    def f(y, p=problem.p):
        return problem.linearize(p)(t, y)[0]

    by_y = np.einsum("tqvo,tvo->tq", problem.linearize(problem.p)(t, y)[1], direction)
    by_differences = (f(y + h * direction) - f(y - h * direction)) / (2 * h)
    np.testing.assert_allclose(by_y, by_differences, rtol=0, atol=1e-7 * np.abs(by_y).max())
    by_p = (f(y, problem.p * (1 + h)) - f(y, problem.p * (1 - h))) / (2 * problem.p * h)
    rounding = 4 * np.finfo(float).eps * np.abs(f(y)).max() / (problem.p * h)
    np.testing.assert_allclose(problem.df_dp(y), by_p, rtol=0, atol=1e-6 * np.abs(by_p).max() + rounding)


def test_tables_of_small_runs():
    rows = [nonlinear.linear_boundary_value(linear_problems(k)[0], k, 101, 4) for k in (1.0, 0.01)]
    bratu = nonlinear.many_bratu(count=3, points=33)
    results = {"cores": 2, "load": 0.5, "initial_value": [], "bratu": bratu, "linear": rows}
    assert results["bratu"]["gradient_error"] < 1e-5
    assert nonlinear.missed(results) == []
    text = "\n".join(nonlinear.tables(results))
    assert "| 3 problems | 33, 5 | 3 |" in text
    assert f"| 1 | {rows[0]['error']:.0e} |" in text
