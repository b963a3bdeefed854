"""`python -m benchmarks.singular ENGINE [--evidence]`: which singular systems it misses, which others it refuses.

Random systems in float64, T up to 300, V to 3, R to 5, all schemes, uniform to clustered grids, weights over many
orders of magnitude. Each is known to be singular or well-posed without asking the library:

- Singular systems have a null vector by construction. A scheme with (m, K) matrices that are exact for polynomials
  of degree R leaves every polynomial of degree d <= R free; conditions at the first time fix its derivatives below d,
  so that c (t - t_0)^d is left where no equation, or only equations to which it contributes nothing, see it (`KINDS`).
- Well-posed systems are solved twice in 1200 bits (`exact`), the second time with every entry of W A changed by a
  random amount up to `RELATIVE` of itself: kept are those where no y[:, v, r] moves by more than a tenth of its largest
  entry.

--evidence: as `log_evidence` sees them, which judges pivots of its own elimination.

Exits with status 1 if a system was missed or refused.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np

import smnn_core as smnn

Array = np.ndarray
Generator = np.random.Generator
SCHEMES = [getattr(smnn, name) for name in ("TAYLOR", "HERMITE", "WIENER") if hasattr(smnn, name)]
RELATIVE = 1e-13
"""How much the entries of W A are changed to see whether a system is well-posed."""


@dataclass
class Case:
    """A system, and what it was built to be."""

    kind: str
    grid: str
    coefficients: Array
    rhs: Array
    initial_values: Array
    step_sizes: Array
    scheme: smnn.Scheme
    weights: dict[str, Array] = field(default_factory=dict)
    """in full shape"""

    def solve(self, engine: str, evidence: bool = False) -> Array:
        arrays = self.coefficients, self.rhs, self.initial_values, self.step_sizes
        options = {"scheme": self.scheme, "weights": smnn.Weights(**self.weights), "engine": engine}
        return (
            smnn.log_evidence(*arrays, observed=np.array(False), **options)
            if evidence
            else smnn.solve_ode(*arrays, **options)
        )

    def __str__(self) -> str:
        T, Q, V, K = self.coefficients.shape
        s = np.abs(self.step_sizes)
        return (
            f"{self.kind}, {self.grid} grid, {self.scheme.name}, T={T} Q={Q} V={V} K={K}, "
            f"initial {self.initial_values.shape}, steps {s.min(initial=np.inf):.1e} to {s.max(initial=0):.1e}"
        )


GRIDS = ("uniform", "jittered", "random", "clustered", "geometric")


def steps(rng: Generator, grid: str, T: int, total: float) -> Array:
    """T-1 steps that add up to a total time (geometric: from 1e-4 of the longest to the longest)."""
    N = T - 1
    if grid == "uniform":
        s = np.ones(N)
    elif grid == "jittered":
        s = rng.uniform(0.7, 1.3, N)
    elif grid == "random":
        s = np.diff(np.sort(rng.uniform(0, 1, T))) + 1e-9
    elif grid == "clustered":
        s = np.where(rng.uniform(size=N) < 0.5, 10 ** rng.uniform(-4, -2, N), 1)
    else:
        s = np.geomspace(1e-4, 1, N)
    return s * (total / s.sum()) * rng.choice([-1, 1])


def weights(rng: Generator, case: Case, spread: float) -> dict[str, Array]:
    """Weights over `spread` orders of magnitude; those across steps, half of the time, with (s_ref / |s|)^p."""
    T, Q, _, K = case.coefficients.shape
    shapes = {"equation": (T, Q), "initial": case.initial_values.shape, "smoothness": (T - 1,)}
    result = {name: 10 ** rng.uniform(-spread / 2, spread / 2, shape) for name, shape in shapes.items()}
    if rng.integers(2) and T > 1 and not getattr(case.scheme, "step_exponent", lambda K: 0)(K):
        s = np.abs(case.step_sizes)
        result["smoothness"] *= (np.exp(np.log(s).mean()) / s) ** (K - 0.5)
    return result


def sizes(rng: Generator, largest: int) -> tuple[int, int, int]:
    """T, V, K; T down to 2, small ones more often."""
    T = int(np.exp(rng.uniform(np.log(2), np.log(largest + 1))))
    return max(T, 2), int(rng.integers(1, 4)), int(rng.integers(1, 7))


# Singular systems


@dataclass
class Draft:
    """A system with generic equations, T points on a grid; a kind makes it singular by way of variable v, degree d."""

    rng: Generator
    c: Array
    initial: Array
    """(T_init, V, K) bool: which are given"""
    w: dict[str, Array]
    v: int
    d: int

    def free(self, *variables: int) -> None:
        """No condition stops c (t - t_0)^d in these variables: at the first time orders other than d remain."""
        for v in variables:
            self.initial[1:, v] = False
            self.initial[0, v, self.d :] = False


def zero_equations(x: Draft) -> None:
    """No equation sees variable v."""
    x.c[:, :, x.v] = 0
    x.free(x.v)


def masked_equations(x: Draft) -> None:
    """All equations have weight zero."""
    x.w["equation"][:] = 0
    x.free(x.v)


def masked_variable(x: Draft) -> None:
    """The equations that see variable v have weight zero, all others do not."""
    seen = x.v % x.c.shape[1]
    x.c[:, [q for q in range(x.c.shape[1]) if q != seen], x.v] = 0
    x.w["equation"][:, seen] = 0
    x.free(x.v)


def missing_initial_value(x: Draft) -> None:
    """Equations see orders above d only; the conditions give those above d, or nothing."""
    x.c[:, :, x.v, : x.d + 1] = 0
    x.free(x.v)
    x.initial[0, x.v, x.d + 1 :] = bool(x.rng.integers(2))


def proportional_variables(x: Draft) -> None:
    """Equations see the sum of two variables only."""
    other = (x.v + 1) % x.c.shape[2]
    if other == x.v:
        return zero_equations(x)
    x.c[:, :, other] = x.c[:, :, x.v] * 2.0 ** x.rng.integers(-3, 4)
    return x.free(x.v, other)


def repeated_equations(x: Draft) -> None:
    """One equation in place of Q, and V > 1 variables whose combination it is."""
    x.c[:] = x.c[:, :1] * 2.0 ** x.rng.integers(-3, 4, (1, x.c.shape[1], 1, 1))
    return proportional_variables(x)


def masked_points(x: Draft) -> None:
    """From a time on, nothing is given: padding whose equations and smoothness are masked."""
    T = len(x.c)
    start = int(x.rng.integers(1, T))
    x.w["equation"][start:] = 0
    x.w["smoothness"][start - 1 :] = 0
    x.initial[start:] = False


def loose_end(x: Draft) -> None:
    """One step is masked, and what comes after it has no equations (but smoothness, and no conditions)."""
    T = len(x.c)
    start = int(x.rng.integers(1, T))
    x.w["equation"][start:] = 0
    x.w["smoothness"][start - 1] = 0
    x.initial[start:] = False


KINDS: list[Callable[[Draft], None]] = [
    zero_equations,
    masked_equations,
    masked_variable,
    missing_initial_value,
    proportional_variables,
    repeated_equations,
    masked_points,
    loose_end,
]


def singular(rng: Generator, largest: int = 300) -> Case:
    """A system with a null vector."""
    T, V, K = sizes(rng, largest)
    Q = V + int(rng.integers(2))
    grid = str(rng.choice(GRIDS))
    T_init = int(rng.integers(0, min(T, 3) + 1))
    c = rng.uniform(-1, 1, (T if rng.integers(2) else 1, Q, V, K)) * np.ones((T, 1, 1, 1))
    case = Case(
        kind="",
        grid=grid,
        coefficients=c,
        rhs=rng.normal(size=(T, Q)),
        initial_values=rng.normal(size=(T_init, V, K)),
        step_sizes=steps(rng, grid, T, (T - 1) * 10 ** rng.uniform(-2.5, 0)),
        scheme=SCHEMES[rng.integers(len(SCHEMES))],
    )
    case.weights = weights(rng, case, float(rng.choice([0, 1, 4])))
    given = np.ones((T_init, V, K), bool)
    make = KINDS[rng.integers(len(KINDS))]
    make(Draft(rng, c, given, case.weights, int(rng.integers(V)), int(rng.integers(K))) if T_init else _bare(rng, case))
    if T_init:
        case.weights["initial"] *= given
    case.kind = make.__name__.replace("_", " ")
    return case


def _bare(rng: Generator, case: Case) -> Draft:
    """A draft without conditions, where only constants need be free."""
    _, _, V, K = case.coefficients.shape
    return Draft(rng, case.coefficients, np.ones((1, V, K), bool), case.weights, int(rng.integers(V)), 0)


# Well-posed systems


def well_posed(rng: Generator, largest: int = 300) -> Iterator[Case]:
    """Systems that are likely to be well-posed, without end: equations of order q with conditions for each."""
    while True:
        T, V, K = sizes(rng, largest)
        q = int(rng.integers(0, K))
        kind = str(rng.choice(["initial values", "boundary values", "observations", "masks", "short steps", "scales"]))
        Q = V + int(rng.integers(2))
        grid = "uniform" if kind == "short steps" else str(rng.choice(GRIDS))
        c = rng.uniform(-0.5, 0.5, (T, Q, V, K))
        c[..., q + 1 :] = 0
        for v in range(V):
            c[:, v, v, q] = rng.uniform(1, 2, T) * rng.choice([-1, 1])
        total = 10 ** rng.uniform(-1, 0.5)
        if kind == "short steps":
            total = (T - 1) * SHORTEST.get(q, 1e-6) * 10 ** rng.uniform(0, 1)
        T_init = T if kind in ("boundary values", "observations") else 1
        case = Case(
            kind=kind,
            grid=grid,
            coefficients=c,
            rhs=rng.normal(size=(T, Q)),
            initial_values=rng.normal(size=(T_init, V, max(q, 1))),
            step_sizes=steps(rng, grid, T, total),
            scheme=SCHEMES[rng.integers(len(SCHEMES))],
        )
        spread = {"scales": 8.0}.get(kind, float(rng.choice([0, 1])))
        case.weights = w = weights(rng, case, spread)
        if kind == "boundary values":
            w["initial"][:] = 0
            for r in range(q):
                w["initial"][0 if r % 2 == 0 else -1, :, r // 2] = 1
        if kind == "observations":
            w["initial"] *= rng.uniform(size=(T, V, 1)) < 0.5
            w["initial"][0] = 1
        if kind == "masks":
            w["equation"] *= rng.uniform(size=(T, 1)) < 0.8
        if kind == "scales":
            c *= 10 ** rng.uniform(-4, 4, (1, Q, 1, 1))
        yield case


SHORTEST = {1: 1e-7, 2: 1e-7, 3: 3e-7, 4: 2e-5, 5: 3e-4}
"""The shortest step of an equation of each order."""


def is_well_posed(case: Case) -> bool:
    """True if small relative changes of W A change y little, in 1200 bits."""
    from . import exact

    c, s, w, K = case.coefficients, case.step_sizes, case.weights, case.coefficients.shape[-1]
    given = c, s, w["equation"], w["initial"], w["smoothness"], case.scheme
    try:
        y, changed = (
            exact.Solver(exact.rows(*given, relative=relative)).solve(case.rhs, case.initial_values)
            for relative in (0.0, RELATIVE)
        )
    except exact.Undecided:
        return False
    y, changed = (x.reshape(len(c), -1, K) for x in (y, changed))
    return bool(np.all(np.abs(changed - y).max(0) <= 0.1 * np.abs(y).max(0)))


# Counting


def is_refused(case: Case, engine: str, evidence: bool = False) -> bool:
    try:
        case.solve(engine, evidence)
    except smnn.SingularSystemError:
        return True
    return False


def count(cases: Iterator[Case], engine: str, evidence: bool, expected: bool, show: int) -> int:
    """How many are not refused, or are, against expectation; prints how many of which kinds."""
    drawn: Counter[str] = Counter()
    wrong: Counter[str] = Counter()
    examples = []
    for i, case in enumerate(cases):
        drawn[case.kind] += 1
        if is_refused(case, engine, evidence) is not expected:
            wrong[case.kind] += 1
            examples.append(f"  number {i}: {case}")
    total = sum(wrong.values())
    print(
        f"{'singular' if expected else 'well-posed'}: {total} of {drawn.total()} {'missed' if expected else 'refused'}"
    )
    for kind in sorted(drawn):
        print(f"  {kind:24} {wrong[kind]:6} of {drawn[kind]}")
    print(*examples[:show], sep="\n", end="\n" if examples[:show] else "")
    return total


def draw_singular(n: int, seed: int, largest: int = 300) -> Iterator[Case]:
    rng = np.random.default_rng(seed)
    for _ in range(n):
        yield singular(rng, largest)


def draw_well_posed(n: int, seed: int, largest: int = 300) -> Iterator[Case]:
    """n systems that were found to be well-posed."""
    cases = well_posed(np.random.default_rng(seed), largest)
    while n > 0:
        case = next(cases)
        if is_well_posed(case):
            n -= 1
            yield case


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("engine", help="as for solve_ode: array_api, cpu, ...")
    parser.add_argument("--evidence", action="store_true")
    parser.add_argument("-n", type=int, default=10_000, help="how many of each")
    parser.add_argument("--largest", type=int, default=300, help="T at most")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--show", type=int, default=10, help="how many to describe")
    arguments = parser.parse_args()
    n, seed, largest = arguments.n, arguments.seed, arguments.largest
    missed = count(draw_singular(n, seed, largest), arguments.engine, arguments.evidence, True, arguments.show)
    refused = count(draw_well_posed(n, seed, largest), arguments.engine, arguments.evidence, False, arguments.show)
    return 1 if missed or refused else 0


if __name__ == "__main__":
    sys.exit(main())
