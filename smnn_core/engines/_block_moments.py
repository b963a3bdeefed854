r"""The blocks of M^-1 in and beside the diagonal, and their derivative, from the factor of the engine for large blocks.

With R[t] y[t] + E[t] y[t+1] = z[t] of elimination and ζ standard normal, y[t] = J y[t+1] + R^-1 ζ, J = -R^-1 E, so that

    Σ_t = R^-1 R^-T + J Σ_{t+1} J^T = X X^T,   X = [ R^-1   J S ],  S S^T = Σ_{t+1},        Σ_{t,t+1} = J Σ_{t+1},

X^T triangularised from point to point: variances are sums of squares.

Derivative. Let H be symmetric, with blocks H_t and L_t beside them. d<H, Σ> = -<P, dM> with P = Σ H Σ, and
d log det M = <Σ, dM>. With B = W A and Π = g Σ - P both are <Π, dM> = 2 <B Π, dB>: the rows B Π are needed where B has
entries. Given y[t+1], the expectation of y^T H y is again such a form; with e = R^-1 ζ and N = R^-1 R^-T

    K_0 = H_0,    F_t = K_t J + L_t,    K_{t+1} = H_{t+1} + J^T F_t + L_t^T J,

and P of y[t+1] = p and e has the blocks P_pp, P_ep = N F Σ_pp and P_ee = N K N. The rows of point t, those from
the points before it and to the next among them, are Q [R e; S[t+1] p] (see `_block_sweep`), so that B Π is Q applied to

    [ R Π_et   R Π_ep ]     R Π_ep = -R^-T F Σ_pp,                     R Π_et = g R^-T - R^-T (F Σ_pp J^T + K N),
    [ S Π_pt   S Π_pp ]     S Π_pt = (S Π_pp) J^T - (S Σ_pp) F^T N,    S Π_pp and S Σ_pp from the point after,

orthogonal matrices and triangles alone: nothing is subtracted that is larger than the result.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

import numpy as np

from .._arrays import Array, sum_to_shape
from .._fields import FIELDS
from .._problem import Gradients, System, Weights
from ._block_sweep import Reflections, Sweep, scheme_rows

__all__ = ["BlockSelectedInverse"]


class BlockSelectedInverse:
    """The blocks of Σ = M^-1 in and beside the diagonal, and log det M, computed when asked for.

    Members of the batch whose system is undetermined, or not finite, are NaN.
    """

    def __init__(self, system: System, sweeps: dict[tuple[int, ...], Sweep], bad: np.ndarray) -> None:
        self.system = system
        self._sweeps = {index: sweep for index, sweep in sweeps.items() if not bad[index]}

    @cached_property
    def log_determinant(self) -> np.ndarray:
        """log det M, (*batch,)."""
        result = np.full(self.system.batch, np.nan)
        for index, sweep in self._sweeps.items():
            result[index] = 2 * np.log(np.abs(sweep.pivots)).sum()
        return result

    @cached_property
    def blocks(self) -> tuple[np.ndarray, np.ndarray]:
        """Σ_t, (*batch, T, n, n), and Σ_{t,t+1}, (*batch, T-1, n, n), unknowns ordered by variable, then derivative."""
        T, n, batch = self.system.n_steps, self.system.n, self.system.batch
        diagonal, lag = (np.full((*batch, count, n, n), np.nan) for count in (T, T - 1))
        for index, sweep in self._sweeps.items():
            for t, X, J, Σ in _covariances(sweep):
                diagonal[index][t] = _public(sweep, sweep.product(X, X.T))
                if t < T - 1:
                    lag[index][t] = _public(sweep, sweep.product(J, Σ))
        return diagonal, lag

    @cached_property
    def variance(self) -> np.ndarray:
        """The diagonal of the first of `blocks`, (*batch, T, n)."""
        result = np.full((*self.system.batch, self.system.n_steps, self.system.n), np.nan)
        for index, sweep in self._sweeps.items():
            for t, X, *_ in _covariances(sweep):
                result[index][t] = np.sum(X * X, axis=-1)[_by_variable(sweep)]
        return result

    def pullback(self, dΣ: Array | None, d_lag: Array | None, d_log_determinant: Array | None) -> Gradients:
        """The gradients with respect to the system, from those of `blocks` and of `log_determinant`; None is zero."""
        system, batch = self.system, self.system.batch
        T, n, inputs = system.n_steps, system.n, system.inputs
        found = [np.full((*batch, *FIELDS[name].core(system.sizes)), np.nan) for name in inputs]

        def member(x: Array | None, index: tuple[int, ...], *core: int) -> np.ndarray:
            return np.zeros(core) if x is None else np.broadcast_to(x, (*batch, *core))[index]

        for index, sweep in self._sweeps.items():
            order = np.argsort(_by_variable(sweep))
            H, L = (member(x, index, t, n, n)[:, order[:, None], order] for x, t in ((dΣ, T), (d_lag, T - 1)))
            of_rows = _rows_times(
                sweep, (H + np.swapaxes(H, -1, -2)) / 2, L / 2, float(member(d_log_determinant, index))
            )
            for to, x in zip(found, _gradients(system, index, *of_rows), strict=True):
                to[index] = 2 * x
        shapes = (x.shape for x in inputs.values())
        c, s, *w = (sum_to_shape(system.xp, x, shape) for x, shape in zip(found, shapes, strict=True))
        return Gradients(c, None, None, s, Weights(*w))


def _by_variable(sweep: Sweep) -> np.ndarray:
    """Indices, among the unknowns of a sweep, of those ordered by variable, then derivative."""
    return np.arange(sweep.n).reshape(sweep.K, sweep.V).T.ravel()


def _public(sweep: Sweep, x: np.ndarray) -> np.ndarray:
    order = _by_variable(sweep)
    return x[order[:, None], order]


def _covariances(sweep: Sweep) -> Iterator[tuple[int, np.ndarray, np.ndarray, np.ndarray]]:
    """t, X, J and Σ_{t+1} from the last point to the first; of the last J and Σ_{t+1} are empty."""
    n = sweep.n
    S = J = Σ = np.empty((n, 0))
    for t in reversed(range(sweep.T)):
        X = sweep.solve(t, np.eye(n), None)
        if t < sweep.T - 1:
            J = sweep.solve(t, np.zeros((n, n)), np.eye(n))
            X = np.hstack([X, sweep.product(J, S)])
        yield t, X, J, Σ
        Σ = sweep.product(X, X.T)
        S = Reflections(np.ascontiguousarray(X.T), np.zeros(X.shape[1]), None, sweep.threads).R.T


def _rows_times(sweep: Sweep, H: np.ndarray, L: np.ndarray, g: float) -> tuple[np.ndarray, ...]:
    """B Π where B has entries: of equations (T, Q, n), initial values (T_init, V, R_init), and couplings (T-1, rows, V,
    2K)."""
    n, T, V, K = sweep.n, sweep.T, sweep.V, sweep.K
    Js, Fs, Ks = [], [], [H[0]]
    for t in range(T - 1):
        J = sweep.solve(t, np.zeros((n, n)), np.eye(n))
        F = sweep.product(Ks[t], J) + L[t]
        Js.append(J)
        Fs.append(F)
        Ks.append(H[t + 1] + sweep.product(J.T, F) + sweep.product(L[t].T, J))
    equation = np.empty((T, sweep.Q, n))
    initial = np.empty(sweep.entries.initial.shape)
    coupling = np.zeros((T - 1, sweep.entries.smoothness.shape[1], V, 2, K))
    v = np.arange(V)
    SΠ = SΣ = np.empty((n, 0))
    for t in reversed(range(T)):
        R_inverse = sweep.solve(t, np.eye(n), None)
        N = sweep.product(R_inverse, R_inverse.T)
        if t == T - 1:
            Σ = N
            UΠ, UΣ = g * R_inverse.T - sweep.product(R_inverse.T, Ks[t], N), R_inverse.T
        else:
            step, J, F = sweep.couplings[t], Js[t], Fs[t]
            FΣ = sweep.product(F, Σ)
            rows = np.empty((2 * n, 3 * n))
            rows[step.pivots, :n] = g * R_inverse.T - sweep.product(
                R_inverse.T, sweep.product(FΣ, J.T) + sweep.product(Ks[t], N)
            )
            rows[step.pivots, n : 2 * n] = -sweep.product(R_inverse.T, FΣ)
            rows[step.pivots, 2 * n :] = R_inverse.T
            rows[step.rest, :n] = sweep.product(SΠ, J.T) - sweep.product(SΣ, F.T, N)
            rows[step.rest, n : 2 * n] = SΠ
            rows[step.rest, 2 * n :] = sweep.product(SΣ, J.T)
            step.rotate(rows, back=True)
            UΠ, UΣ = rows[:n, :n], rows[:n, 2 * n :]
            of_pairs = rows[n:, : 2 * n].reshape(K, V, 2, K, V)
            coupling[t, :K] = np.moveaxis(of_pairs[:, v, :, :, v], 0, 1)
            Σ = N + sweep.product(J, Σ, J.T)
        fold = sweep.folds[t]
        rows = np.zeros((len(fold.A), 2 * n))
        rows[fold.pivots] = np.hstack([UΠ, UΣ])
        fold.rotate(rows, back=True)
        SΠ, SΣ = (np.ascontiguousarray(rows[:n, i : i + n]) for i in (0, n))
        own = n
        if t > 0 and sweep.extra:
            own = n + sweep.extra
            beyond = rows[n:own, :n].reshape(-1, V, K, V)
            coupling[t - 1, K:, :, 1] = np.moveaxis(beyond[:, v, :, v], 0, 1)
        equation[t] = rows[own : own + sweep.Q, :n]
        if t < len(initial):
            given = rows[own + sweep.Q :, :n].reshape(V, -1, K, V)
            r = np.arange(given.shape[1])
            initial[t] = given[v[:, None], r, r, v[:, None]]
    return equation, initial, coupling.reshape(*coupling.shape[:3], 2 * K)


def _gradients(
    system: System, index: tuple[int, ...], equation: np.ndarray, initial: np.ndarray, coupling: np.ndarray
) -> tuple[np.ndarray, ...]:
    """<B Π, dB> for each number of the system, in the order of its inputs."""
    c, s, w, _, v = system.member(index).values()
    T, Q, V, K = c.shape
    s, v = s[:, None], v[:, None]
    equation = np.swapaxes(equation.reshape(T, Q, K, V), -1, -2)
    of_entries = np.einsum("trvo,ro->to", coupling, scheme_rows(system)[0])
    of_powers = of_entries[:, :K] + of_entries[:, K:]
    o = np.arange(K)
    return (
        w[..., None, None] * equation,
        np.sum(v * of_powers[:, 1:] * o[1:] * s ** (o[1:] - 1), axis=-1),
        np.sum(equation * c, axis=(-2, -1)),
        initial,
        np.sum(of_powers * s**o, axis=-1),
    )
