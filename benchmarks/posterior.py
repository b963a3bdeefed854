"""`python -m benchmarks.posterior [--save] [--quick]`: means, variances and the evidence, beside state-space libraries.

V independent processes whose derivatives of order R are Wiener processes, observed with noise at T equal steps: n =
V (R+1). cuthbert (square-root Kalman filter and smoother, sequential and parallel in time) and dynamax (Kalman filter
and smoother) get the same model, and results that differ end the program; tinygp (Matérn 5/2, n = 3) and celerite2
(Matérn 3/2, n = 2) take Gaussian processes of similar cost. Both of JAX run jitted, batches by vmap. Seconds are
medians.

1. Seconds for means and variances, and beside them those of `solve_ode`.
2. Seconds for the evidence with its gradient by noise and diffusion.
3. Extra memory at the peak, means and variances (Linux).
4. Largest relative error of a variance at short steps, against 1200 bits.

--save writes benchmarks/results/posterior.json, --quick leaves out the long ones.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import platform
from collections.abc import Callable
from math import factorial
from pathlib import Path
from typing import Any

os.environ.setdefault("JAX_ENABLE_X64", "1")
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import flint
import jax
import jax.numpy as jnp
import numpy as np
import torch

import smnn_core as smnn
import smnn_jax
import smnn_torch

from . import exact, memory, store
from .timing import measure

Array = Any
STEP, NOISE, DIFFUSION, STATE = 0.1, 0.3, 1.0, 3.0
"""of the model: the last is the standard deviation of the first state"""
CASES = (
    (1, 2, 1_000, 1),
    (1, 2, 1_000, 64),
    (4, 4, 1_000, 1),
    (4, 4, 1_000, 64),
    (1, 2, 100_000, 1),
    (4, 4, 10_000, 1),
)
"""V, R, T, batch"""
QUICK = 2
LARGE = 200_000
"""From as many states on (n T batch) cuthbert is left out: some take minutes, T = 100,000 does not return at all."""
PATH = Path(__file__).parent / "results" / "posterior.json"


def data(V: int, T: int, batch: int) -> np.ndarray:
    """Random walks with noise, (batch, T, V)."""
    rng = np.random.default_rng(0)
    return np.cumsum(0.1 * rng.normal(size=(batch, T, V)), axis=1) + NOISE * rng.normal(size=(batch, T, V))


def arguments(y: Array, V: int, R: int, xp: Any, noise: Any, diffusion: Any) -> tuple[tuple[Array, ...], Any]:
    """Of `posterior` and `log_evidence`: the observations are equations."""
    like = {"dtype": xp.float64}
    c = np.zeros((1, V, V, R + 1))
    c[0, range(V), range(V), 0] = 1.0
    state = xp.zeros((1, V, R + 1), **like)
    weights = smnn.Weights(1 / noise, 1 / STATE, smnn.wiener_weight(diffusion, STEP, R))
    return (xp.asarray(c), y, state, STEP), weights


OURS = "smnn", "solve_ode"


def ours(y: np.ndarray, V: int, R: int) -> dict[str, Callable[[], Any]]:
    given, weights = arguments(y, V, R, np, NOISE, DIFFUSION)

    def variances() -> Any:
        p = smnn.posterior(*given, weights=weights)
        return p.mean, p.variance

    return {
        "smnn": variances,
        "solve_ode": lambda: smnn.solve_ode(*given, weights=weights, scheme=smnn.WIENER),
    }


def matrices(V: int, R: int, diffusion: Any) -> tuple[Array, Array, Array]:
    """Transition, Cholesky factor of the covariance of a step, and observation, (n, n), (n, n) and (V, n)."""
    F, G = smnn.WIENER.matrices(R + 1)
    S = np.diag(STEP ** np.arange(R + 1.0))
    half = np.linalg.inv(G @ S)  # of S^-1 Q S^-1, up to the weight
    factor = np.linalg.cholesky(half @ half.T)
    one = np.eye(V)
    weight = smnn.wiener_weight(diffusion, STEP, R)
    H = np.kron(one, np.eye(1, R + 1))
    return jnp.asarray(np.kron(one, -np.linalg.solve(G @ S, F @ S))), jnp.kron(one, factor) / weight, jnp.asarray(H)


def cuthbert(y: Array, V: int, R: int, noise: Any, diffusion: Any, parallel: bool) -> tuple[Array, Array, Array]:
    """Means, factors of the covariances, and the evidence."""
    from cuthbert.filtering import filter as run_filter
    from cuthbert.gaussian import kalman
    from cuthbert.smoothing import smoother

    Phi, factor, H = matrices(V, R, diffusion)
    n = len(Phi)
    first = STATE * jnp.eye(n)

    def dynamics(i: Array) -> tuple[Array, Array, Array]:
        start = i == 0  # the first observation is at the time of the first state
        return jnp.where(start, jnp.eye(n), Phi), jnp.zeros(n), jnp.where(start, 0.0, factor)

    def observation(i: Array) -> tuple[Array, Array, Array, Array]:
        return H, jnp.zeros(V), noise * jnp.eye(V), y[i]

    f = kalman.build_filter(jnp.zeros(n), first, dynamics, observation)
    times = jnp.arange(len(y))
    states = run_filter(f, times, f.init_prepare(), parallel=parallel)
    smoothed = smoother(kalman.build_smoother(dynamics), states, times, parallel=parallel)
    return smoothed.mean[1:], smoothed.chol_cov[1:], states.log_normalizing_constant[-1]


def dynamax(y: Array, V: int, R: int, noise: Any, diffusion: Any, smooth: bool) -> tuple[Array, ...]:
    from dynamax.linear_gaussian_ssm import inference

    Phi, factor, H = matrices(V, R, diffusion)
    n = len(Phi)
    parameters = inference.make_lgssm_params(
        jnp.zeros(n), STATE**2 * jnp.eye(n), Phi, factor @ factor.T, H, noise**2 * jnp.eye(V)
    )
    if not smooth:
        return (inference.lgssm_filter(parameters, y).marginal_loglik,)
    p = inference.lgssm_smoother(parameters, y)
    return p.smoothed_means, jnp.diagonal(p.smoothed_covariances, axis1=-2, axis2=-1)


def tinygp(y: Array, noise: Any, diffusion: Any) -> Array:
    from tinygp import GaussianProcess
    from tinygp.kernels import quasisep

    t = STEP * jnp.arange(len(y))
    return GaussianProcess(quasisep.Matern52(scale=diffusion, sigma=1.0), t, diag=noise**2 * jnp.ones(len(y)))


def celerite2(y: Array, noise: Any, diffusion: Any) -> Array:
    import celerite2.jax
    from celerite2.jax import terms

    gp = celerite2.jax.GaussianProcess(terms.Matern32Term(sigma=1.0, rho=diffusion), mean=0.0)
    gp.compute(STEP * jnp.arange(len(y)), yerr=noise * jnp.ones(len(y)), check_sorted=False)
    return gp.log_likelihood(y)


def smoothers(y: np.ndarray, V: int, R: int) -> dict[str, Callable[[], Any]]:
    """Means and variances by the others."""
    data = jnp.asarray(y)

    def by_cuthbert(parallel: bool) -> Callable[[], Any]:
        def one(y: Array) -> tuple[Array, Array]:
            mean, factor, _ = cuthbert(y, V, R, NOISE, DIFFUSION, parallel)
            return mean, jnp.sum(factor**2, axis=-1)

        f = jax.jit(jax.vmap(one))
        return lambda: jax.block_until_ready(f(data))

    def by_dynamax() -> Callable[[], Any]:
        f = jax.jit(jax.vmap(lambda y: dynamax(y, V, R, NOISE, DIFFUSION, smooth=True)))
        return lambda: jax.block_until_ready(f(data))

    def by_tinygp() -> Callable[[], Any]:
        def one(y: Array) -> tuple[Array, Array]:
            _, p = tinygp(y, NOISE, DIFFUSION).condition(y)
            return p.mean, p.variance

        f = jax.jit(jax.vmap(lambda y: one(y[:, 0])))
        return lambda: jax.block_until_ready(f(data))

    found = {}
    if installed("cuthbert") and y.size * (R + 1) < LARGE:
        found["cuthbert"] = by_cuthbert(False)
        if len(y) == 1:  # (a batch fills the processor by itself)
            found["cuthbert, parallel"] = by_cuthbert(True)
    if installed("dynamax"):
        found["dynamax"] = by_dynamax()
    if installed("tinygp") and V == 1:
        found["tinygp"] = by_tinygp()
    return found


def evidences(y: np.ndarray, V: int, R: int) -> dict[str, Callable[[], Any]]:
    """The sum of the evidence over the batch, and its gradient by noise and diffusion."""
    data, point = jnp.asarray(y), (NOISE, DIFFUSION)
    tensor = torch.from_numpy(y)

    def by_torch() -> Any:
        parameters = torch.tensor(point, dtype=torch.float64, requires_grad=True)
        given, weights = arguments(tensor, V, R, torch, *parameters)
        value = smnn_torch.log_evidence(*given, weights=weights, observed_equations=True).sum()
        return value.detach(), torch.autograd.grad(value, parameters)[0]

    def by_jax(of_one: Callable[[Array, Any, Any], Array], vmap: bool = True) -> Callable[[], Any]:
        def total(parameters: Array) -> Array:
            f = jax.vmap(lambda y: of_one(y, *parameters)) if vmap else (lambda y: of_one(y, *parameters))
            return jnp.sum(f(data))

        f = jax.jit(jax.value_and_grad(total))
        return lambda: jax.block_until_ready(f(jnp.asarray(point)))

    def smnn_by_jax(y: Array, noise: Any, diffusion: Any) -> Array:
        given, weights = arguments(y, V, R, jnp, noise, diffusion)
        return smnn_jax.log_evidence(*given, weights=weights, observed_equations=True)

    found = {"smnn_torch": by_torch, "smnn_jax": by_jax(smnn_by_jax, vmap=False)}
    if installed("cuthbert") and y.size * (R + 1) < LARGE:
        found["cuthbert"] = by_jax(lambda y, *x: cuthbert(y, V, R, *x, False)[2])
    if installed("dynamax"):
        found["dynamax"] = by_jax(lambda y, *x: dynamax(y, V, R, *x, smooth=False)[0])
    if installed("tinygp") and V == 1:
        found["tinygp"] = by_jax(lambda y, *x: tinygp(y[:, 0], *x).log_probability(y[:, 0]))
    if installed("celerite2") and V == 1 and len(y) == 1:  # (its primitives know no vmap)
        found["celerite2"] = by_jax(lambda y, *x: celerite2(y[0, :, 0], *x), vmap=False)
    return found


def installed(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


def compare(results: dict[str, Any], reference: str, what: tuple[str, str]) -> None:
    """
    Raises:
        RuntimeError: unless all libraries with the model of the reference have its results.
    """
    same = [k for k in ("smnn_jax", "cuthbert", "cuthbert, parallel", "dynamax") if k in results]
    for name in same:
        for x, y, kind in zip(results[name], results[reference], what, strict=True):
            x, y = np.asarray(x), np.asarray(y)
            error = np.abs(x.reshape(y.shape) - y).max() / np.abs(y).max()
            if not error < 1e-5:
                raise RuntimeError(f"{name}: {kind} differ by {error:.1e}")


def peak(case: tuple[int, int, int, int]) -> dict[str, float]:
    """Extra memory of means and variances at the peak, in MB, each in a process of its own; empty where unknown."""
    V, R, T, batch = case
    if not memory.available():
        return {}
    y = data(V, min(T, 10), min(batch, 2))
    names = (ours(y, V, R) | smoothers(np.broadcast_to(y[:1], (batch, *y.shape[1:])), V, R)).keys()
    found = {}
    for name in names:
        if "cuthbert" in name and T * V * batch * (R + 1) >= LARGE:
            continue
        found[name] = memory.of_child("benchmarks.posterior", "--peak", name, *map(str, case)) / 1e6
    return found


def own_peak(name: str, case: tuple[int, int, int, int]) -> float:
    """That of this process, in bytes, once everything is compiled."""
    V, R, T, batch = case
    y = data(V, T, batch)
    function = (ours(y, V, R) if name in OURS else smoothers(y, V, R))[name]
    for _ in range(2):
        function()
    return memory.extra(function)


def seconds(case: tuple[int, int, int, int]) -> dict[str, Any]:
    V, R, T, batch = case
    y = data(V, T, batch)
    functions = ours(y, V, R) | smoothers(y, V, R)
    for _ in range(2):  # (a second call of a jitted function may compile again)
        results = {name: f() for name, f in functions.items()}
    compare(results, "smnn", ("means", "variances"))
    names = list(functions)
    moments = {k: t.seconds for k, t in measure(functions, repeats=3, fewer_if_slow=names).items()}
    functions = evidences(y, V, R)
    for _ in range(2):
        values = {name: f() for name, f in functions.items()}
    compare(values, "smnn_torch", ("evidences", "gradients"))
    evidence = {k: t.seconds for k, t in measure(functions, repeats=3, fewer_if_slow=list(functions)).items()}
    return {"V": V, "R": R, "n": V * (R + 1), "T": T, "batch": batch, "moments": moments, "evidence": evidence}


def errors(R: int, step: float, T: int = 40) -> dict[str, float]:
    """The largest relative error of a variance, of y'' + 4 y = 0 with a known first state."""
    K = R + 1
    c = np.zeros((T, 1, 1, K))
    c[..., 0], c[..., 2] = 4.0, 1.0
    s, w_initial = np.full(T - 1, step), np.full((1, 1, 2), 1e3)
    weight = float(smnn.wiener_weight(1.0, step, R))
    variance = exact_variances(R, step, T, weight)
    weights = smnn.Weights(1e3, w_initial, weight)
    given = c, np.zeros((T, 1)), np.zeros((1, 1, 2)), s
    found = {}
    for name, engine, dtype in (
        ("smnn", "auto", "float64"),
        ("smnn, float32", "auto", "float32"),
        ("smnn, array_api", "array_api", "float64"),
    ):
        narrow = smnn.Weights(1e3, w_initial.astype(dtype), weight)
        p = smnn.posterior(*(x.astype(dtype) for x in given), weights=narrow, engine=engine)
        found[name] = float(np.abs(p.variance[:, 0] / variance - 1).max())
    A = smnn.dense_system(*given, scheme=smnn.WIENER, weights=weights)[0]
    found["dense inverse of M"] = float(np.abs(np.diag(np.linalg.pinv(A.T @ A, rcond=0)) / variance.ravel() - 1).max())
    if installed("cuthbert"):
        found["cuthbert"] = float(np.abs(_by_cuthbert(R, step, T) / variance - 1).max())
    return found


def exact_variances(R: int, step: float, T: int, weight: float) -> np.ndarray:
    """(T, K), in 1200 bits from the process itself: rows (Phi S y[t] - S y[t+1]) weight, covariance Q."""
    flint.ctx.prec = exact.BITS
    K, s = R + 1, flint.arb(step)
    size = [s**o for o in range(K)]
    Q = flint.arb_mat(K, K)
    A = flint.arb_mat(K, 2 * K)
    for i in range(K):
        A[i, K + i] = -size[i]
        for j in range(K):
            Q[i, j] = 1 / flint.arb((2 * R + 1 - i - j) * factorial(R - i) * factorial(R - j))
            if j >= i:
                A[i, j] = size[j] / factorial(j - i)
    step_block = A.transpose() * Q.inv() * A * flint.arb(weight) ** 2
    M = flint.arb_mat(T * K, T * K)
    for t in range(T):
        at = t * K
        for i, x in ((0, 4), (2, 1)):
            for j, y in ((0, 4), (2, 1)):
                M[at + i, at + j] += 10**6 * x * y  # the equation
        for i in range(2 * K if t < T - 1 else 0):
            for j in range(2 * K):
                M[at + i, at + j] += step_block[i, j]
    for i in range(2):
        M[i, i] += 10**6  # the first state
    inverse = M.inv()
    return np.array([float(inverse[i, i].mid()) for i in range(T * K)]).reshape(T, K)


def _by_cuthbert(R: int, step: float, T: int) -> np.ndarray:
    """Variances; the state that is left open at the first time has a deviation of 1e8."""
    from cuthbert.filtering import filter as run_filter
    from cuthbert.gaussian import kalman
    from cuthbert.smoothing import smoother

    K = R + 1
    F, G = smnn.WIENER.matrices(K)
    S = np.diag(step ** np.arange(K * 1.0))
    weight = float(smnn.wiener_weight(1.0, step, R))
    half = np.linalg.inv(G @ S) / weight
    Phi = -np.linalg.solve(G @ S, F @ S)
    first = np.diag([1e-3, 1e-3, *[1e8] * (K - 2)])
    H = np.zeros((1, K))
    H[0, 0], H[0, 2] = 4.0, 1.0

    def dynamics(i: Array) -> tuple[Array, Array, Array]:
        start = i == 0
        return jnp.where(start, jnp.eye(K), Phi), jnp.zeros(K), jnp.where(start, 0.0, half)

    def observation(i: Array) -> tuple[Array, Array, Array, Array]:
        return jnp.asarray(H), jnp.zeros(1), 1e-3 * jnp.eye(1), jnp.zeros(1)

    f = kalman.build_filter(jnp.zeros(K), jnp.asarray(first), dynamics, observation)
    times = jnp.arange(T)
    states = run_filter(f, times, f.init_prepare())
    smoothed = smoother(kalman.build_smoother(dynamics), states, times)
    return np.asarray(jnp.sum(smoothed.chol_cov[1:] ** 2, axis=-1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/posterior.json")
    parser.add_argument("--quick", action="store_true", help="the short cases alone")
    parser.add_argument("--peak", nargs=5, metavar=("NAME", "V", "R", "T", "BATCH"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peak:
        name, *case = options.peak
        print(own_peak(name, tuple(map(int, case))))
        return
    cases = []
    with store.measuring(options.save):
        for case in CASES[:QUICK] if options.quick else CASES:
            row = seconds(case)
            cases.append(row)
            print(f"n = {row['n']}, T = {row['T']}, batch {row['batch']}: seconds")
            for what in ("moments", "evidence"):
                print(f"  {what}: " + ", ".join(f"{name} {x:.2g}" for name, x in row[what].items()))
            row["peak"] = peak(case)
            print("  MB at the peak: " + ", ".join(f"{name} {x:.3g}" for name, x in row["peak"].items()))
    print("largest relative error of a variance, T = 40")
    accuracy = []
    for R, step in ((2, 0.01), (4, 0.01), (4, 0.001), (5, 0.001), (6, 0.001)):
        try:
            found = errors(R, step)
        except smnn.SingularSystemError as error:
            found = {}
            print(f"  R = {R}, s = {step}: refused, {error}")
        accuracy.append({"R": R, "s": step, "errors": found})
        print(f"  R = {R}, s = {step}: " + ", ".join(f"{name} {x:.0e}" for name, x in found.items()))
    if options.save:
        machine = {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()}
        result = {"machine": machine, "cases": cases, "errors": accuracy}
        store.save(PATH, result)


if __name__ == "__main__":
    main()
