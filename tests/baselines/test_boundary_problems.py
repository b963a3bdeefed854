"""The boundary-value problems of the benchmark are what they say."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("scipy", reason="closed forms and peers of the problems come from SciPy")

from benchmarks.boundary_problems import (
    bratu,
    by_scipy,
    cash,
    cash_problems,
    falkner_skan,
    limit_cycle,
    lorenz_orbit,
    mathieu,
    sturm_liouville,
    swirling_flow,
)

SPECIAL = [
    bratu(),
    bratu(upper=True),
    falkner_skan(0.5, 0.9276800398),
    falkner_skan(1.0, 1.232587656820),
    mathieu(0, -6.0),
    mathieu(1, 2.0),
    sturm_liouville(4, 32.0),
    limit_cycle(),
    lorenz_orbit(),
]
ONE_OF_EACH = [cash(number, 0.1) for number in range(1, 34)] + SPECIAL
EPS_WIDE = {"T2", "T4", "T8", "T16", "T18", "T20"}
"""whose layers or waves are eps wide, those of the others sqrt(eps)"""
CLOSED = [problem for problem in cash_problems() if problem.exact is not None]


def name(problem):
    return f"{problem.name}-{problem.eps:.0e}"


def states_of(problem, y):
    return np.stack([y[:, v, r] for v, r in problem.state_of])


@pytest.mark.parametrize("problem", ONE_OF_EACH, ids=name)
def test_derivatives_are_those_of_the_residual(problem):
    rng = np.random.default_rng(0)
    t = rng.uniform(*problem.ends, 5)
    y = rng.uniform(0.5, 1, (5, len(problem.order), problem.highest + 1))
    θ = np.array(problem.constants)
    dy, dθ = rng.normal(size=y.shape), rng.normal(size=θ.shape)

    def f(s):
        return problem.residual(t, y + s * dy, *([θ + s * dθ] if θ.size else []))

    _, J, *P = f(0)
    along = np.einsum("tqvr,tvr->tq", J, dy) + (P[0] @ dθ if P else 0)
    difference = (f(1e-6)[0] - f(-1e-6)[0]) / 2e-6
    np.testing.assert_allclose(difference, along, rtol=1e-6, atol=1e-6 * np.abs(along).max())


@pytest.mark.parametrize("problem", ONE_OF_EACH, ids=name)
def test_the_explicit_form_is_the_same_equation(problem):
    rng = np.random.default_rng(1)
    t = rng.uniform(*problem.ends, 5)
    y = rng.uniform(0.5, 1, (5, len(problem.order), problem.highest + 1))
    θ = [np.array(problem.constants)] if problem.constants else []
    z, dz = states_of(problem, y), rng.normal(size=(sum(problem.order), 5))
    tops, J, *P = problem.explicit(t, z, *θ)
    for v, order in enumerate(problem.order):
        y[:, v, order] = tops[v]
    f, by_y, *_ = problem.residual(t, y, *θ)
    np.testing.assert_allclose(f, 0, atol=1e-12 * np.abs(by_y).max() * np.abs(y).max())
    ahead, back = (problem.explicit(t, z + s * dz, *θ)[0] for s in (1e-6, -1e-6))
    along = np.einsum("vst,st->vt", J, dz)
    np.testing.assert_allclose((ahead - back) / 2e-6, along, rtol=1e-6, atol=1e-6 * np.abs(along).max())
    if θ:
        dθ = rng.normal(size=θ[0].shape)
        ahead, back = (problem.explicit(t, z, θ[0] + s * dθ)[0] for s in (1e-6, -1e-6))
        np.testing.assert_allclose((ahead - back) / 2e-6, np.einsum("vpt,p->vt", P[0], dθ), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("problem", CLOSED, ids=name)
def test_closed_forms_satisfy_equation_and_conditions(problem):
    """Derivatives by interpolation at Chebyshev points of windows a quarter as wide as the layers."""
    a, b = problem.ends
    width = min(b - a, problem.eps if problem.name in EPS_WIDE else problem.eps**0.5) / 4
    near_ends = a + width * np.arange(6), b - width * np.arange(1, 7)
    starts = np.r_[*near_ends, np.linspace(a, b - width, 50), width, 0.745 - width]  # layers at 0 and at 0.745
    x = np.cos(np.pi * (np.arange(12) + 0.5) / 12)
    powers = np.linalg.inv(np.polynomial.chebyshev.chebvander(x, 11))
    starts = starts[(starts >= a) & (starts <= b - width)]
    t = starts[:, None] + width * (x + 1) / 2
    values = problem.exact(t.ravel())[:, 0].reshape(t.shape)
    middle = np.zeros((len(starts), 1, 3))
    for r in range(3):
        derivative = np.polynomial.chebyshev.chebder(powers, r, axis=0)
        middle[:, 0, r] = values @ np.polynomial.chebyshev.chebval(0.0, derivative) * (2 / width) ** r
    f, J = problem.residual(starts + width / 2, middle)
    terms = np.abs(J * middle[:, None]).sum((-1, -2))
    # of the values, and of the times
    rounding = 1e-12 * np.abs(values).max() + 1e-15 * np.abs(middle[..., 1]).max()
    rounding = rounding * (np.abs(J[..., 0, :]) / width ** np.arange(3)).sum(-1)
    assert np.all(np.abs(f[:, 0]) <= (1e-8 * terms + rounding)[:, 0])
    assert np.all(terms.max(0) > 100 * rounding.max(0))  # the terms are seen, not their rounding
    for end, _, _, value in problem.given:
        np.testing.assert_allclose(problem.exact(np.array([problem.ends[end]]))[0, 0], value, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("number", [*range(1, 31), 32, 33])
def test_solve_bvp_finds_the_solution(number):
    problem = cash(number, 0.2 if number == 23 else 0.1)
    solution = by_scipy(problem, 1e-6)
    assert solution.status == 0
    if problem.exact is not None:
        t = np.linspace(*problem.ends, 100)
        np.testing.assert_allclose(solution.sol(t)[0], problem.exact(t)[:, 0], atol=1e-5 * np.abs(solution.y[0]).max())


@pytest.mark.parametrize("problem", SPECIAL, ids=name)
def test_solve_bvp_finds_the_figure(problem):
    if problem.name.startswith("Mathieu, a0"):  # from cos 0t solve_bvp finds a2
        problem = replace(problem, start=lambda t: 1 - 0.9 * np.cos(2 * t)[:, None])
    solution = by_scipy(problem, 1e-6, max_nodes=20_000)
    y = np.zeros((2, len(problem.order), problem.highest))
    for (v, r), state in zip(problem.state_of, solution.y, strict=True):
        y[:, v, r] = state[[0, -1]]
    np.testing.assert_allclose(problem.figure(y, solution.p), problem.value, rtol=1e-6)


def test_homogeneous_solution_of_number_17_at_a_hundredth():
    """Why it is left out there: the function vanishes at both ends and solves the equation."""
    problem = cash(17, 1e-2)
    null = replace(
        problem,
        exact=lambda t: ((1e-2 - t * t) / np.sqrt(1e-2 + t * t))[:, None],
        given=((0, 0, 0, 0.0), (1, 0, 0, 0.0)),
    )
    test_closed_forms_satisfy_equation_and_conditions(null)
    assert all((p.name, p.eps) != ("T17", 1e-2) for p in cash_problems())


def test_ranges_of_eps():
    problems = list(cash_problems())
    assert {p.name for p in problems} == {f"T{n}" for n in range(1, 34)}
    assert len(problems) == len({(p.name, p.eps) for p in problems})
    assert min(p.eps for p in problems if p.name == "T33") == pytest.approx(1e-5)
    assert swirling_flow(1e-5).order == (4, 2)
