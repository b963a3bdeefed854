"""`python -m benchmarks.precision`: float32 as storage, and gradients against 1200 bits.

- float32 against float64 on the same inputs: refusals, and the largest errors of y and of gradients, relative to their
  largest entries, over orders, spare orders, lengths, steps, schemes and random systems.
- Gradients of random problems, with steps and equations of widely different sizes, masks, and inputs that broadcast,
  against exact arithmetic. Errors are divided by eps and by the condition number of that gradient: the largest change
  of its entries by relative changes of all entries of W A, plus its largest entry.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import flint
import numpy as np

import smnn_core as smnn

from . import exact

Array = np.ndarray
BOUND = 1e3
EPS = float(np.finfo(np.float64).eps)
SCHEMES = {"HERMITE": smnn.HERMITE, "TAYLOR": smnn.TAYLOR}
NAMES = ("coefficients", "rhs", "initial_values", "step_sizes", "w_equation", "w_initial", "w_smoothness")


def flat(gradients: smnn.Gradients) -> dict[str, Array]:
    c, b, u, s, w = gradients
    return dict(zip(NAMES, (c, b, u, s, w.equation, w.initial, w.smoothness), strict=True))


# float32 -------------------------------------------------------------------------------------------------------------


def storage_cases() -> Iterator[tuple[str, tuple[Array, ...]]]:
    """Name and float32 arguments."""
    rng = np.random.default_rng(0)
    for V, order, spare, T, s, steps in product(
        (1, 2, 4), (1, 2, 3, 4), (0, 1), (50, 300, 1000), (0.1, 0.03, 0.01, 0.003), ("uniform", "random")
    ):
        if V > 1 and (T == 1000 or (order + 1 + spare) * V > 16):
            continue
        K = order + 1 + spare
        c = rng.uniform(-1, 1, (T, V, V, K))
        c[..., order + 1 :] = 0
        for v in range(V):
            c[:, v, v, order] += 2
        step = np.full(T - 1, s) if steps == "uniform" else s * rng.uniform(0.2, 1.8, T - 1)
        arrays = c, rng.normal(size=(T, V)), rng.normal(size=(1, V, order)), step
        yield (
            f"V = {V}, order {order}, {spare} spare, T = {T}, s = {s}, {steps}",
            tuple(x.astype("float32") for x in arrays),
        )


def storage() -> dict[str, float]:
    """The largest errors, and how often a system was refused."""
    worst = dict.fromkeys(("refused", "y", *NAMES[:4]), 0.0)
    for (_, arguments), scheme in product(storage_cases(), SCHEMES.values()):
        wide = [x.astype("float64") for x in arguments]
        try:
            y, vjp = smnn.solve_ode_vjp(*arguments, scheme=scheme)
            expected_y, expected_vjp = smnn.solve_ode_vjp(*wide, scheme=scheme)
        except smnn.SingularSystemError:
            worst["refused"] += 1
            continue
        g = np.random.default_rng(1).normal(size=y.shape) / (1 + np.abs(expected_y).max(axis=0))
        g = g.astype("float32")
        found, expected = flat(vjp(g)), flat(expected_vjp(g.astype("float64")))
        pairs = {"y": (y, expected_y)} | {name: (found[name], expected[name]) for name in NAMES[:4]}
        for name, (a, b) in pairs.items():
            worst[name] = max(worst[name], float(np.abs(a - b).max() / np.abs(b).max()))
    return worst


# Exact gradients -----------------------------------------------------------------------------------------------------


@dataclass
class Case:
    """One system in full; `constant` names inputs that are handed over with one time point, `is_wild` says that steps
    differ by many orders of magnitude, or equations have units in which they are very large or small."""

    c: Array
    b: Array
    u: Array
    s: Array
    weights: tuple[Array, Array, Array]
    scheme: smnn.Scheme
    g: Array
    constant: frozenset[str]
    is_wild: bool

    def arguments(self) -> tuple[tuple[Array, ...], smnn.Weights]:
        arrays = dict(zip(NAMES, (self.c, self.b, self.u, self.s, *self.weights), strict=True))
        given = [x[:1] if name in self.constant else x for name, x in arrays.items()]
        return tuple(given[:4]), smnn.Weights(*given[4:])


def random_case(rng: np.random.Generator) -> Case:
    V, order, spare, T = rng.integers(1, 3), rng.integers(1, 4), rng.integers(0, 2), int(rng.integers(3, 12))
    K = int(order + 1 + spare)
    c = rng.uniform(-1, 1, (T, V, V, K))
    c[..., order + 1 :] = 0
    for v in range(V):
        c[:, v, v, order] += 2
    b = rng.normal(size=(T, V))
    in_other_units = rng.random() < 0.5
    if in_other_units:
        scale = 10.0 ** rng.uniform(-30, 30, V)
        c, b = c * scale[:, None, None], b * scale
    kind = rng.integers(3)
    s = (
        0.05 * np.ones(T - 1)
        if kind == 0
        else 10 ** (rng.uniform(-6, 6, T - 1) if kind == 1 else rng.uniform(-2, 0, T - 1))
    )
    weights = rng.uniform(0.5, 2, (T, V)), rng.uniform(0.5, 2, (1, V, order)), rng.uniform(0.5, 2, T - 1)
    constant = {
        name for name in ("coefficients", "rhs", "step_sizes", "w_equation", "w_smoothness") if rng.random() < 0.3
    }
    if rng.random() < 0.3:
        weights[0][rng.random((T, V)) < 0.2] = 0  # points without equations
        constant.discard("w_equation")
    for name, x in zip(NAMES, (c, b, None, s, weights[0], None, weights[2]), strict=True):
        if name in constant and x is not None:
            x[:] = x[:1]
    scheme = SCHEMES[str(rng.choice(list(SCHEMES)))]
    u, g = rng.normal(size=(1, V, order)), rng.normal(size=(T, V, K))
    return Case(c, b, u, s, weights, scheme, g, frozenset(constant), bool(in_other_units or kind == 1))


def exact_gradients(case: Case, relative: float = 0.0, seed: int = 0) -> dict[str, Array]:
    """All gradients in 1200 bits, rounded; with relative changes of the entries of W A."""
    arb = flint.arb
    T, Q, V, K = case.c.shape
    R_init, p = case.u.shape[-1], case.scheme.step_exponent(K)
    A = exact.rows(case.c, case.s, *case.weights, case.scheme, relative, seed)
    solver = exact.Solver(A)
    λ = solver.normal_solve([exact.column([arb(float(a)) for a in row.ravel()]) for row in case.g])
    d = exact.weighted(A, case.b, case.u)
    y = solver.normal_solve(solver.transpose(d, [flint.arb_mat(M.nrows(), 1) for M in A.left]))
    (v_own, v_step), (Ay_own, Ay_step) = solver.apply(λ), solver.apply(y)
    inputs = dict(zip(NAMES, (case.c, case.b, case.u, case.s, *case.weights), strict=True))
    result = {name: np.zeros(x.shape) for name, x in inputs.items()}

    def value(x: flint.arb) -> float:
        return float(x.mid())

    for t in range(T):
        for i, w in enumerate(A.weights[t]):
            v, r = v_own[t][i, 0], d[t][i, 0] - Ay_own[t][i, 0]
            by_weight = value(2 * v * r / w) if w != 0 else 0.0
            if i < Q:
                result["rhs"][t, i], result["w_equation"][t, i] = value(w * v), by_weight
                for j in range(V * K):
                    result["coefficients"][t, i].flat[j] = value(w * (r * λ[t][j, 0] - v * y[t][j, 0]))
            else:
                at = (t, *divmod(i - Q, R_init))
                result["initial_values"][at], result["w_initial"][at] = value(w * v), by_weight
    steps = [arb(float(x)) for x in case.s]
    of_weights, of_steps = [], []
    for t, s in enumerate(steps):
        v, r = v_step[t], -Ay_step[t]
        of_weights.append(2 * sum((v[i, 0] * r[i, 0] for i in range(v.nrows())), arb(0)))  # times the weight
        direct = arb(0)
        for M, x in ((A.left[t], t), (A.right[t], t + 1)):
            for i, j in product(range(M.nrows()), range(V * K)):
                direct += (j % K) / s * M[i, j] * (r[i, 0] * λ[x][j, 0] - v[i, 0] * y[x][j, 0])
        of_steps.append(direct)
        result["w_smoothness"][t] = value(of_weights[t] / arb(float(case.weights[2][t])))
    total = sum(of_weights, arb(0))
    for t, s in enumerate(steps):
        result["step_sizes"][t] = value(of_steps[t] + arb(float(p)) / s * (total / len(steps) - of_weights[t]))
    for name in case.constant:
        result[name] = result[name].sum(axis=0, keepdims=True)
    return result


def fuzz(count: int, engine: str) -> dict[bool, dict[str, list[float]]]:
    """The errors of each gradient over eps times its condition number, by `is_wild`; infinite where it was refused."""
    rng = np.random.default_rng(0)
    ratios: dict[bool, dict[str, list[float]]] = {wild: {name: [] for name in NAMES} for wild in (False, True)}
    for _ in range(count):
        case = random_case(rng)
        relative = 1e-9
        try:
            expected = exact_gradients(case)
            changed = [exact_gradients(case, relative, seed) for seed in range(2)]
        except exact.Undecided:
            continue
        arrays, weights = case.arguments()
        options = {"n_steps": len(case.c), "weights": weights, "scheme": case.scheme, "engine": engine}
        try:
            found = flat(smnn.solve_ode_vjp(*arrays, **options)[1](case.g))
        except smnn.SingularSystemError:
            found = {name: np.full_like(expected[name], np.inf) for name in NAMES}
        for name in NAMES:
            change = max(np.abs(other[name] - expected[name]).max() for other in changed) / relative
            scale = EPS * (change + np.abs(expected[name]).max())
            if scale > 0:
                ratios[case.is_wild][name].append(float(np.abs(found[name] - expected[name]).max() / scale))
    return ratios


def main() -> int:
    count = 40 if "--quick" in sys.argv else 300
    print("float32 against float64 on the same inputs")
    for name, x in storage().items():
        print(f"  {name:16} {x:.1e}" if name != "refused" else f"  {name:16} {x:.0f}")
    print(f"gradients of {count} random problems: error over eps times condition")
    print(
        "  median, largest, and how many are below 1e3; wild: steps from 1e-6 to 1e6, equations scaled by 1e-30 to 1e30"
    )
    warnings.simplefilter("ignore", smnn.AccuracyWarning)  # many of them are meant to be ill-conditioned
    for engine in ("array_api", "cpu"):
        for wild, ratios in fuzz(count, engine).items():
            print(f"  {engine}, {'wild' if wild else 'ordinary'}")
            for name, x in ratios.items():
                print(f"    {name:16} {np.median(x):8.1e} {np.max(x):8.1e} {np.mean(np.array(x) < BOUND):7.1%}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
