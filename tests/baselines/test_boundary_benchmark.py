"""The benchmark of boundary-value problems counts what was measured."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("scipy", reason="the benchmark compares with SciPy")
pytest.importorskip("tqdm", reason="the benchmarks need tqdm")

from benchmarks import boundary
from benchmarks.boundary import Run


def row(table, start):
    return next(r[1:] for r in table.rows if r[0].startswith(start))


def test_the_summary_counts_runs():
    runs = [
        Run("T1", 0.1, 1e-4, True, seconds=1.0, error=1e-5, estimate=2e-5, peer_solved=True, peer_seconds=4.0),
        Run("T2", 0.1, 1e-4, True, seconds=1.0, error=2e-4, estimate=1e-5, peer_solved=True, peer_seconds=1.0),
        Run("T3", 0.1, 1e-4, True, continued=True, seconds=9.0, error=1e-5, estimate=1e-3),
        Run("T4", 0.1, 1e-4, False, seconds=1.0),
        Run("T1", 0.1, 1e-6, True, seconds=3.0, error=1e-16, estimate=1e-14, peer_solved=True, peer_seconds=2.0),
    ]
    table = boundary.summary(runs)
    assert table.header == ("", "1e-04", "1e-06")
    assert row(table, "solved") == ("3 of 4 (75 %)", "1 of 1 (100 %)")
    assert row(table, "of these by continuation") == ("1", "0")
    assert row(table, "error at most") == ("2 of 3 (67 %)", "1 of 1 (100 %)")
    assert row(table, "estimate within") == ("1 of 3 (33 %)", "1 of 1 (100 %)")
    assert row(table, "estimate at least") == ("2 of 3 (67 %)", "1 of 1 (100 %)")
    assert row(table, "median time") == ("0.62 (2)", "1.50 (1)")
    assert "continuation" in boundary.each(runs, 1e-4).text()


def test_errors_are_the_largest_over_time_relative_to_each_variable():
    t = np.linspace(0, 1, 5)
    exact = np.stack([100 * t, 1 + t], -1)
    values = exact + np.array([1.0, 0.1])
    assert boundary.relative_error(t, values, lambda _: exact) == pytest.approx(0.05)
    assert boundary.relative_error(t, values * np.nan, lambda _: exact) == np.inf


def test_points_between_include_the_mesh():
    np.testing.assert_allclose(boundary.between(np.array([0.0, 1.0, 3.0]), 2), [0, 0.5, 1, 2, 3])


def test_digits_of_a_figure():
    assert boundary.digits(1.001, 1.0) == pytest.approx(3)
    assert boundary.digits(2.0, 2.0) == 16


def test_all_special_problems_have_a_figure():
    for problem in boundary.special_problems():
        assert problem.value is not None
        assert problem.figure is not None


def test_continuation_ends_at_the_problem(monkeypatch):
    class Solved:
        converged = True

    calls = []

    def ours(problem, tolerance, guess=None):
        calls.append((problem.eps, guess))
        return Solved()

    monkeypatch.setattr(boundary, "ours", ours)
    assert boundary.continuation(boundary.problems.cash(20, 1e-3), 1e-6).converged
    assert [eps for eps, _ in calls] == pytest.approx([1e-1, 1e-2, 1e-3])
    assert calls[0][1] is None
    assert calls[1][1] is not None
