"""Problems of any shape through the public functions: `make sanitize` runs them for minutes, `make test` for seconds.

Shapes at the edge are common here: axes of length 0, T = 2, no initial values or no orders of them, up to 16 variables,
fewer and more equations than variables, arrays of any strides, and axes that broadcast. Many of the problems have no
unique solution: each call returns, or raises an error of the library.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from _strategies import collocation_scheme, custom_scheme

import smnn_core as smnn
from smnn_core.engines import cpu

ERRORS = (
    smnn.ShapeError,
    smnn.DTypeError,
    smnn.NamespaceError,
    smnn.ArgumentError,
    smnn.SchemeError,
    smnn.SingularSystemError,
)
CANARIES = 32
CANARY = 7.25e37


@dataclass(frozen=True)
class Shaped:
    """The arguments of `smnn_core.solve_ode`."""

    arrays: tuple[np.ndarray, ...]
    options: dict[str, Any]
    of_others: np.random.Generator
    """what the calls draw from"""

    def __repr__(self) -> str:
        shapes = ", ".join(f"{x.shape}" for x in self.arrays)
        weights = {k: np.shape(w) for k, w in vars(self.options["weights"]).items()}
        return f"{shapes} {self.arrays[0].dtype} {self.options['n_steps']} {self.options['scheme'].name} {weights}"


def guarded(x: np.ndarray) -> np.ndarray:
    """A copy in the middle of a larger array of canaries."""
    around = np.full(x.size + 2 * CANARIES, CANARY, x.dtype)
    inside = around[CANARIES : CANARIES + x.size].reshape(x.shape)
    inside[...] = x
    return inside


def check_canaries(x: np.ndarray) -> None:
    """Raises where something was written around an array that `guarded` made."""
    around = x
    while around.base is not None:
        around = around.base
    canary = np.asarray(CANARY, x.dtype)
    if not (np.all(around[:CANARIES] == canary) and np.all(around[-CANARIES:] == canary)):
        raise AssertionError(f"something was written outside of an array of shape {x.shape}")


@contextmanager
def guarded_results() -> Iterator[None]:
    """Results of the compiled engine lie between canaries, which are looked at in the end."""
    made: list[np.ndarray] = []
    plain = cpu._empty

    def empty(shape: tuple[int, ...], dtype: Any = np.float64) -> np.ndarray:
        made.append(guarded(np.zeros(shape, dtype)))
        return made[-1]

    cpu._empty = empty
    try:
        yield
    finally:
        cpu._empty = plain
    for x in made:
        check_canaries(x)


def shaped(rng: np.random.Generator, *, dtype: str = "float64") -> Shaped:
    """A problem of random shape."""
    V = int(rng.choice([1, 1, 1, 2, 2, 3, 4, 5, 8, 16]))
    K = int(rng.choice([1, 2, 2, 3, 3, 3, 4, 5]))
    if V * K > 40 and rng.random() < 0.8:
        K = 2
    Q = max(1, V + int(rng.choice([0, 0, 0, 0, -1, 1, 3])))
    T = int(rng.choice([2, 2, 3, 5, 9, 17, 40, 130])) if V * K < 20 else int(rng.choice([2, 3, 7]))
    T_init = min(T, int(rng.choice([0, 1, 1, 1, 2, 5, T])))
    R_init = min(K, int(rng.choice([0, 1, 1, 2, K, K])))
    batch = tuple(int(n) for n in rng.choice([0, 1, 1, 2, 3, 3, 9, 17], rng.integers(0, 3), replace=True))
    if np.prod(batch) * T * Q * V * K > 1e5:
        batch = batch[:1] if np.prod(batch[:1]) * T * Q * V * K < 1e5 else ()

    def lead() -> tuple[int, ...]:
        kept = batch[rng.integers(0, len(batch) + 1) :] if rng.random() < 0.6 else batch
        return tuple(1 if rng.random() < 0.3 else n for n in kept)

    def time(length: int) -> int:
        return length if rng.random() < 0.7 else 1

    def laid_out(x: np.ndarray) -> np.ndarray:
        """The same numbers with other strides; contiguous ones lie between canaries."""
        x = x.astype(dtype)
        how = rng.integers(0, 6)
        if how == 0 and x.ndim > 1:
            return np.moveaxis(np.ascontiguousarray(np.moveaxis(x, -1, 0)), 0, -1)
        if how == 1 and x.ndim:
            return np.flip(np.ascontiguousarray(np.flip(x, -1)), -1)
        if how == 2 and x.ndim:
            return np.repeat(x, 2, axis=0)[::2]
        return guarded(x)

    c = rng.uniform(-0.4, 0.4, (*lead(), time(T), Q, V, K))
    for v in range(min(V, Q)):
        c[..., v, v, K - 1] += 1.5
    s = rng.uniform(0.2, 0.5, (*lead(), time(T - 1))) * rng.choice([1, 1, 1, -1])
    u = rng.uniform(-1, 1, (*lead(), T_init, V, R_init))
    if rng.random() < 0.2:
        u[rng.random(u.shape) < 0.3] = np.nan
    scheme = [smnn.HERMITE, smnn.WIENER, smnn.TAYLOR, custom_scheme(K), collocation_scheme(K, max(1, K - 1))]
    cores = {"equation": (T, Q), "initial": (T_init, V, R_init), "smoothness": (T - 1,)}
    weights: dict[str, Any] = {}
    for name, core in cores.items():
        how = rng.integers(0, 5)
        if how == 0:
            weights[name] = float(rng.uniform(0.5, 2))
        elif how == 1:
            inner = tuple(1 if rng.random() < 0.4 else n for n in core[rng.integers(0, len(core) + 1) :])
            weights[name] = laid_out(rng.uniform(0.5, 2, inner))
        elif how == 2:
            w = rng.uniform(0.5, 2, (*lead(), *core))
            weights[name] = laid_out(np.where(rng.random(w.shape) < 0.1, 0.0, w))
    arrays = tuple(map(laid_out, (c, rng.uniform(-1, 1, (*lead(), time(T), Q)), u, s)))
    options = {
        "n_steps": T if rng.random() < 0.9 else None,
        "scheme": scheme[rng.choice(5, p=[0.35, 0.25, 0.15, 0.15, 0.1])],
        "weights": smnn.Weights(**weights),
    }
    return Shaped(arrays, options, np.random.default_rng(rng.integers(2**32)))


def core_calls(problem: Shaped) -> dict[str, Callable[[], Any]]:
    """The functions of the core, by name."""
    arrays, options, rng = problem.arrays, problem.options, problem.of_others
    c, b, u, s = arrays
    dtype = c.dtype

    def vjp() -> Any:
        y, pull = smnn.solve_ode_vjp(*arrays, **options)
        return pull(guarded(rng.uniform(-1, 1, y.shape).astype(dtype)))

    def factorize() -> Any:
        f = smnn.factorize(c, s, n_initial_steps=u.shape[-3], n_initial_orders=u.shape[-1], **options)
        y = f.solve(b, u)
        several = np.stack([b.reshape((1,) * (y.ndim - 1 - b.ndim) + b.shape)] * 3)
        return f.normal_solve(y), f.solve(several, u)

    def posterior() -> Any:
        p = smnn.posterior(*arrays, **options)
        return (
            p.variance,
            p.covariance,
            p.lag_covariance,
            p.log_determinant,
            p.sum_of_squares,
            p.sample(2, rng),
            p.scale,
        )

    def evidence() -> Any:
        masks = rng.random(u.shape[-3:]) < 0.3, rng.random(b.shape[-2:]) < 0.1
        return smnn.log_evidence(*arrays, observed=masks[0], observed_equations=masks[1], **options)

    def residuals() -> Any:
        y = smnn.solve_ode(*arrays, **options)
        return smnn.residuals(y, *arrays, n_steps=options["n_steps"], scheme=options["scheme"])

    return {
        "solve_ode": lambda: smnn.solve_ode(*arrays, **options),
        "solve_ode_vjp": vjp,
        "factorize": factorize,
        "posterior": posterior,
        "log_evidence": evidence,
        "error_estimate": lambda: smnn.error_estimate(*arrays, **options),
        "residuals": residuals,
        "dense_system": lambda: smnn.dense_system(*arrays, **options) if c.size < 1000 else None,
    }


def torch_calls(problem: Shaped) -> dict[str, Callable[[], Any]]:
    """Derivatives, first and second, by the adapter for PyTorch."""
    import torch

    import smnn_torch as st

    def leaf(x: Any) -> Any:
        if not isinstance(x, np.ndarray):
            return x
        return torch.from_numpy(np.array(x, order="C")).requires_grad_()

    weights = {k: leaf(w) for k, w in vars(problem.options["weights"]).items()}
    arrays = [leaf(x) for x in problem.arrays]
    leaves = arrays + [w for w in weights.values() if isinstance(w, torch.Tensor)]
    options = problem.options | {"weights": smnn.Weights(**weights)}
    u = problem.arrays[2]
    rng = problem.of_others

    def second() -> Any:
        y = st.solve_ode(*arrays, **options)
        first = torch.autograd.grad((y**2).sum(), leaves, create_graph=True)
        return torch.autograd.grad(sum((g**2).sum() for g in first), leaves, allow_unused=True)

    def evidence() -> Any:
        masks = (
            torch.from_numpy(rng.random(u.shape[-3:]) < 0.3),
            torch.from_numpy(rng.random(problem.arrays[1].shape[-2:]) < 0.1),
        )
        e = st.log_evidence(*arrays, observed=masks[0], observed_equations=masks[1], **options)
        return torch.autograd.grad(e.sum(), leaves, allow_unused=True)

    def moments() -> Any:
        p = st.posterior(*arrays, **options)
        total = p.variance.sum() + p.log_determinant.sum() + p.sum_of_squares.sum()
        return torch.autograd.grad(total, leaves, allow_unused=True)

    return {"second derivatives": second, "log_evidence": evidence, "moments": moments}


def exercise(problem: Shaped, calls: dict[str, Callable[[], Any]]) -> dict[str, str]:
    """Makes all calls; by name, the error that each raised, if any. Anything but an error of the library is raised."""
    found = {}
    before = [x.copy() for x in problem.arrays]
    for name, call in calls.items():
        with guarded_results(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                call()
            except ERRORS as error:
                found[name] = f"{type(error).__name__}: {error}"
    for x, old in zip(problem.arrays, before, strict=True):
        np.testing.assert_array_equal(x, old, "an argument was written to")
    return found
