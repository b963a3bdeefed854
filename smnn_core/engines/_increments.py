"""The rows W A by increments, for the elimination of `_odd_even`, and right-hand sides in their order."""

from __future__ import annotations

from functools import lru_cache
from math import factorial

import numpy as np

from .._arrays import Array, Namespace, Shape, broadcast_shapes, power_derivatives, powers, size
from .._problem import Rows, System
from .._schemes import Scheme
from ._odd_even import Couplings, pad


@lru_cache(maxsize=64)
def increment_rows(scheme: Scheme, K: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The rows of a scheme, F S y[t] + G S y[t+1] with S = diag(s^o), as U (C S (y[t+1] - Phi y[t]) + D S y[t]).

    D = F + G Phi(1), as S Phi(s) = Phi(1) S; its columns up to the degree of exactness are zero. U (m, k) has
    orthonormal columns, as few as C and D allow: K where D = 0.
    """
    F, G = scheme.matrices(K)
    D = F + G @ np.array([[1 / factorial(o - r) if o >= r else 0.0 for o in range(K)] for r in range(K)])
    D[:, : scheme.exactness(K) + 1] = 0
    kept = np.abs(D).max(axis=0) > 0
    U, triangle = np.linalg.qr(np.hstack([G, D[:, kept]]))
    D = np.zeros((len(triangle), K))
    D[:, kept] = triangle[:, K:]
    return U, triangle[:, :K], D


def basis(system: System) -> Array:
    """U, (m, k)."""
    return system.constant(increment_rows(system.scheme, system.K)[0])


def blocks(system: System) -> tuple[Array, Couplings]:
    """W A as own rows (*batch, T, mD, n) and T-1 couplings."""
    xp, T, V, K, n = system.xp, system.n_steps, system.V, system.K, system.n
    w, T_init, R_init = system.weights, system.n_initial_steps, system.n_initial_orders
    unit = xp.reshape(xp.eye(n, dtype=system.dtype, device=system.device), (K, V, n))
    select = xp.reshape(xp.permute_dims(unit[:R_init, :, :], (1, 0, 2)), (V * R_init, n))
    weight = xp.broadcast_to(w.initial, (*_lead(w.initial, 3), T_init, V, R_init))
    initial = xp.reshape(weight, (*weight.shape[:-3], T_init, V * R_init, 1)) * select
    equation = flatten(xp, w.equation[..., None, None] * system.coefficients)
    own = _concat_rows(xp, (*system.batch, T), equation, pad(xp, initial, -3, 0, T))

    same = xp.eye(V, dtype=system.dtype, device=system.device)
    wp = powers(xp, system.step_sizes, K) * w.smoothness[..., None]

    def per_variable(rows: Array, variables: Array) -> Array:
        """rows (..., m, K) as (..., V m, n), for each variable its own."""
        x = rows[..., None, :, :, None] * variables
        x = xp.reshape(x, (*x.shape[:-4], V * rows.shape[-2], n))
        return xp.broadcast_to(x, (*system.batch, T - 1, *x.shape[-2:]))

    _, C, D = increment_rows(system.scheme, K)
    C, D = (per_variable(system.constant(M) * wp[..., None, :], same[:, None, None, :]) for M in (C, D))
    return own, Couplings(C, D, xp.broadcast_to(taylor(system), (*system.batch, T - 1, n, n)))


def stack_rows(system: System, d: Rows, basis: Array) -> tuple[Array, Array]:
    """Right-hand sides in the order of `blocks`: of the own rows, (..., T, mD), and of couplings, (..., T-1, mC), of
    which each variable has as many as the basis (m, k) has columns."""
    xp, T = system.xp, system.n_steps
    initial = xp.reshape(d.initial, (*d.initial.shape[:-2], size(tuple(d.initial.shape[-2:]))))
    initial = pad(xp, initial, -2, 0, T)
    batch = broadcast_shapes({"rhs": tuple(d.equation.shape[:-2]), "initial_values": tuple(initial.shape[:-2])})
    shapes = [(*batch, T, x.shape[-1]) for x in (d.equation, initial)]
    own = xp.concat([xp.broadcast_to(x, s) for x, s in zip((d.equation, initial), shapes, strict=True)], axis=-1)
    mC = system.V * basis.shape[-1]
    if d.smoothness is None:
        return own, xp.zeros((T - 1, mC), dtype=system.dtype, device=system.device)
    return own, xp.reshape(d.smoothness @ basis, (*d.smoothness.shape[:-2], mC))


def unstack_rows(system: System, own: Array, coupling: Array, basis: Array) -> Rows:
    """The transpose of `stack_rows`."""
    xp, V, R_init = system.xp, system.V, system.n_initial_orders
    initial = own[..., : system.n_initial_steps, system.Q :]
    coupling = xp.reshape(coupling, (*coupling.shape[:-1], V, basis.shape[-1])) @ xp.matrix_transpose(basis)
    return Rows(own[..., : system.Q], xp.reshape(initial, (*initial.shape[:-1], V, R_init)), coupling)


def flatten(xp: Namespace, x: Array) -> Array:
    """(..., V, K) as (..., n)."""
    return xp.reshape(xp.matrix_transpose(x), (*x.shape[:-2], x.shape[-2] * x.shape[-1]))


def unflatten(system: System, x: Array) -> Array:
    """The inverse of `flatten`."""
    return system.xp.matrix_transpose(system.xp.reshape(x, (*x.shape[:-1], system.K, system.V)))


def _lead(x: Array, rank: int) -> Shape:
    """The batch axes of an array that broadcasts to one with `rank` last axes."""
    return tuple(x.shape[: max(x.ndim - rank, 0)])


def _concat_rows(xp: Namespace, lead: Shape, *blocks: Array) -> Array:
    """Blocks of rows (..., rows, n), broadcast to the leading shape and stacked."""
    return xp.concat([xp.broadcast_to(x, (*lead, *x.shape[-2:])) for x in blocks], axis=-2)


def taylor(system: System, derivative: bool = False) -> Array:
    """Phi of each step, which predicts y[t+1] from y[t]: for all unknowns; or its derivative in s for one variable.

    (..., T-1 or 1, n, n), or (..., T-1 or 1, K, K).
    """
    xp, V, K, s = system.xp, system.V, system.K, system.step_sizes
    p = (power_derivatives if derivative else powers)(xp, s, K)
    zero = xp.zeros_like(s)
    rows = [[p[..., o - r] / factorial(o - r) if o >= r else zero for o in range(K)] for r in range(K)]
    Phi = xp.stack([xp.stack(row, axis=-1) for row in rows], axis=-2)
    if derivative:
        return Phi
    Phi = Phi[..., :, None, :, None] * xp.eye(V, dtype=system.dtype, device=system.device)[:, None, :]
    return xp.reshape(Phi, (*s.shape, K * V, K * V))


def permuted(system: System, x: Array, *, back: bool = False) -> Array:
    """(..., n, n) with unknowns ordered by derivative, as ordered by variable; or `back`."""
    xp, lead, (outer, inner) = system.xp, tuple(x.shape[:-2]), (system.K, system.V)
    if 1 in (outer, inner):
        return x
    if back:
        outer, inner = inner, outer
    axes = len(lead)
    x = xp.reshape(x, (*lead, outer, inner, outer, inner))
    x = xp.permute_dims(x, (*range(axes), axes + 1, axes, axes + 3, axes + 2))
    return xp.reshape(x, (*lead, system.n, system.n))
