"""Hypothesis strategies for whole problems.

Shapes, broadcasts and options are drawn one by one, so that failures shrink to small problems; the numbers come from
one drawn seed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from _backends import Array, Backend
from hypothesis import strategies as st

import smnn_core as smnn

NAMES = ("coefficients", "rhs", "initial_values", "step_sizes")
Shape = tuple[int, ...]


@dataclass(frozen=True, eq=False)
class ProblemData:
    """The arguments of `smnn_core.solve_ode` as float64 NumPy arrays (weights: numbers or arrays)."""

    coefficients: np.ndarray
    rhs: np.ndarray
    initial_values: np.ndarray
    step_sizes: np.ndarray
    n_steps: int
    scheme: smnn.Scheme
    weights: dict[str, Any]

    @property
    def arrays(self) -> tuple[np.ndarray, ...]:
        return tuple(getattr(self, name) for name in NAMES)

    def rounded(self, dtype: str) -> ProblemData:
        """The same problem with its numbers rounded to a dtype, still float64: what the oracle must be given."""

        def round_(x: Any) -> Any:
            rounded = np.asarray(x, dtype=dtype).astype(np.float64)
            return rounded if isinstance(x, np.ndarray) else float(rounded)

        arrays = {name: round_(getattr(self, name)) for name in NAMES}
        return replace(self, **arrays, weights={k: round_(w) for k, w in self.weights.items()})

    def options(self, backend: Backend | None = None, dtype: str = "float64") -> dict[str, Any]:
        """The keyword arguments, weights as arrays of a backend (None: NumPy)."""
        weights = {k: w if isinstance(w, float) else _as(w, backend, dtype) for k, w in self.weights.items()}
        return {"n_steps": self.n_steps, "scheme": self.scheme, "weights": smnn.Weights(**weights)}

    def arguments(self, backend: Backend | None = None, dtype: str = "float64") -> tuple[Array, ...]:
        """The positional arguments as arrays of a backend (None: NumPy)."""
        return tuple(_as(x, backend, dtype) for x in self.arrays)

    def __repr__(self) -> str:
        shapes = ", ".join(f"{name} {x.shape}" for name, x in zip(NAMES, self.arrays, strict=True))
        weights = {k: w if isinstance(w, float) else f"array {w.shape}" for k, w in self.weights.items()}
        return f"ProblemData({shapes}, n_steps={self.n_steps}, scheme={self.scheme.name}, weights={weights})"


def _as(x: np.ndarray, backend: Backend | None, dtype: str) -> Array:
    return x.astype(dtype) if backend is None else backend.asarray(x, dtype)


def custom_scheme(K: int) -> smnn.Scheme:
    """A scheme of a user's own for K orders: the forward rows of TAYLOR, HERMITE, and Euler steps, m = 3K.

    Euler steps are exact for straight lines alone, so that some rows are left that touch the next point alone (K > 2),
    and the others are no upper triangle there (K > 3).
    """
    F, G = (np.array(M) for M in smnn.TAYLOR.matrices(K))
    f, g = (np.array(M) for M in smnn.HERMITE.matrices(K))
    euler = np.eye(K) + np.eye(K, k=1)
    return smnn.Scheme.from_matrices(
        np.vstack([F[:K], f, euler]), np.vstack([G[:K], g, -np.eye(K)]), name="forward-hermite-euler"
    )


def collocation_scheme(K: int, q: int) -> smnn.Scheme:
    """Continuity of the derivatives of orders 0 .. q-1 of a polynomial of degree K-1 in every step: m = q < K."""
    F = [[1 / math.factorial(o - r) if o >= r else 0.0 for o in range(K)] for r in range(q)]
    return smnn.Scheme.from_matrices(F, -np.eye(q, K), name=f"continuity of {q}")


@st.composite
def problems(
    draw: st.DrawFn,
    *,
    max_steps: int = 9,
    max_variables: int = 3,
    max_orders: int = 4,
    max_batch_axes: int = 2,
    weighted: bool = True,
) -> ProblemData:
    """Problems with a unique solution that is determined well enough to compare (see `_coefficients`)."""
    V, K = draw(st.integers(1, max_variables)), draw(st.integers(1, max_orders))
    Q = V + draw(st.integers(0, 1))
    T = draw(st.integers(2, max_steps))
    order = draw(st.integers(0, K - 1))  # of the ODE; the initial rows fix orders below it
    # Smoothness leaves K constants per variable free, for the initial rows and all but one equation to fix.
    R_init = draw(st.integers(max(order, 1, K - T + 1), K))
    T_init = draw(st.integers(1 if K > 1 else 0, min(T, 3)))
    batch = tuple(draw(st.lists(st.integers(1, 3), max_size=max_batch_axes)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))

    def lead() -> Shape:
        """Batch axes that broadcast to `batch`: some left out in front, some of length 1."""
        kept = batch[draw(st.integers(0, len(batch))) :]
        return tuple(1 if draw(st.booleans()) else size for size in kept)

    def time(length: int) -> int:
        return draw(st.sampled_from([length, 1]))

    def entries(*shape: int) -> np.ndarray:
        return rng.uniform(-1, 1, (*lead(), *shape))

    scheme = {"taylor": smnn.TAYLOR, "hermite": smnn.HERMITE, "wiener": smnn.WIENER, "custom": custom_scheme(K)}
    problem = ProblemData(
        coefficients=_coefficients(rng, (*lead(), time(T)), Q, V, K, order),
        rhs=entries(time(T), Q),
        initial_values=entries(T_init, V, R_init),
        step_sizes=_steps(rng, (*lead(), time(T - 1)), draw(st.sampled_from(["forward", "backward", "both"]))),
        n_steps=T,
        scheme=scheme[draw(st.sampled_from(list(scheme)))],
        weights={},
    )
    if not weighted:
        return problem
    cores = {"equation": (T, Q), "initial": (T_init, V, R_init), "smoothness": (T - 1,)}
    return replace(problem, weights={k: _weight(draw, rng, k, lead, core) for k, core in cores.items()})


def _coefficients(rng: np.random.Generator, lead: Shape, Q: int, V: int, K: int, order: int) -> np.ndarray:
    """Equations that fix the derivative of the given order of every variable, the others entering mildly."""
    c = rng.uniform(-0.4, 0.4, (*lead, Q, V, K))
    c[..., order + 1 :] *= 0.1
    for v in range(V):
        c[..., v, v, order] += 1.5
    return c


def _steps(rng: np.random.Generator, shape: Shape, direction: str) -> np.ndarray:
    s = rng.uniform(0.2, 0.8, shape)
    return {"forward": s, "backward": -s, "both": s * rng.choice([-1.0, 1.0], shape)}[direction]


def _weight(draw: st.DrawFn, rng: np.random.Generator, rows: str, lead: Any, core: Shape) -> Any:
    """A number, or an array; zeros remove single equation rows, which the rows of other times make up for."""
    if draw(st.booleans()):
        return float(rng.uniform(0.5, 2))
    w = rng.uniform(0.5, 2, (*lead(), *core))
    if rows == "equation" and core[0] > 2 and draw(st.booleans()):
        w[..., draw(st.integers(0, core[0] - 1)), :] = 0.0
    return w
