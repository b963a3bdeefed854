"""Initial-value problems window by window: Newton's method on a few time points, from the state at the point before.

Length. The first window has 32 steps and starts from the Taylor expansion of the initial state; each other one from
that of the last solved point. One that took at most `QUICK` iterations is followed by one twice as long. Newton's
method converges from the left: where it did not converge on the whole window, the part that has settled is kept, and
the next window starts behind it. A window ends where steps become much longer or shorter than its own.

State. All R+1 orders of the last solved point become initial rows of the next window, those that the caller did not
give with the weight `CARRY` s^o: orders above that of the equations follow from the points before, and leaving them
open at each start makes errors up to 100 times larger. For the same reason the last points of a window are solved
again with the next: high orders are less accurate at the ends.

Batches. All members march in step. One that fails on the shortest window, R+1 steps (fewer may not determine all
orders), is given up, and the others go on without it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from .._arrays import Array, Namespace, concat, device_of, pad_to
from .._schemes import HERMITE, Hermite, Linear
from ._newton import Iterates, NonlinearProblem, newton, relative_change, rounding_level, start, step_powers

__all__ = ["OVERLAP", "carried_weights", "march"]

MARCHING = replace(HERMITE, rule=Hermite(1e-2), exponent=Linear(1.0, 0.5))
"""`HERMITE` with a light row heavy enough for states that are carried from window to window."""
FIRST_WINDOW = 32
QUICK = 3
"""Iterations up to which the next window is twice as long."""
LONGEST = 6
"""Iterations after which what has settled of a window is kept, and the rest becomes part of the next."""
LAST_TRY = 25
"""The same for a window that cannot be shorter."""
RATIO = 10
"""Of the longest to the shortest step in a window: the weights of its rows differ by the power R + 1/2 of that, and
rounding errors with them."""
OVERLAP = 4
"""Steps at the end of a window that are solved again."""
CARRY = 0.3
"""How much a state that is carried over counts, relative to the smoothness rows, whose row of order o counts s^o."""


def taylor(xp: Namespace, state: Array, time: Array) -> Array:
    """The Taylor polynomials of a state (..., V, K) at times from its own, (..., w): (..., w, V, K)."""
    K = state.shape[-1]
    state, time = state[..., None, :, :], time[..., None]
    orders = []
    for o in range(K):
        value = state[..., K - 1]
        for m in range(K - 2 - o, -1, -1):  # Horner's rule in time / (m + 1)
            value = state[..., o + m] + value * time / (m + 1)
        orders.append(value + xp.zeros_like(time))
    return xp.stack(orders, axis=-1)


def march(
    problem: NonlinearProblem,
    guess: Array | None,
    held: Array,
    *,
    tolerance: float,
    report: Callable[[int], None] = lambda _: None,
) -> tuple[Iterates, tuple[tuple[int, int], ...]]:
    """Solves from the first time point on; y is NaN from where a member was given up.

    Args:
        guess: (*batch, T, V, K) for the first iterate of every window, in place of Taylor expansions.
        report: called with the number of time points solved.

    Returns:
        the solution, and the first and the last time point that each window has solved.
    """
    xp, T, K = problem.xp, problem.n_steps, problem.K
    w = problem.weights.initial[..., :1, :, :]
    u = problem.initial_values[..., :1, :, :]
    state = _first_state(problem, u, held)
    failed, iterations = held, xp.zeros(held.shape, dtype=xp.int64, device=device_of(u))
    pieces: list[Array] = []
    windows: list[tuple[int, int]] = []
    i, width = 0, FIRST_WINDOW
    while i < T - 1:
        j = _end(problem, i, i + width if T - 1 - (i + width) >= K else T - 1)
        window = problem.window(i, j)
        window = window.carrying_on(state, carried_weights(window, w)) if i else window.starting_at(u, w)
        first = taylor(xp, state, window.t - window.t[..., :1]) if guess is None else guess[..., i : j + 1, :, :]
        patience = LONGEST if width > K else LAST_TRY
        run = newton(window, first, failed, max_iterations=patience, tolerance=tolerance)
        iterations = iterations + run.iterations
        kept = _settled(window, run, failed, tolerance)
        if kept < 1 and width > K:
            width = max((j - i) // 4, K)
            continue
        if kept < 1:
            failed = failed | ~run.converged
            kept = j - i
        if kept < j - i:
            width = max(kept, K)
        elif bool(xp.all(run.iterations <= QUICK)):
            width = 2 * width
        if kept == j - i and j < T - 1 and kept > 2 * OVERLAP:
            kept -= OVERLAP
        y = run.y
        if bool(xp.any(failed)):
            y = xp.where(failed[..., None, None, None], xp.full_like(y, xp.nan), y)
        pieces.append(y[..., (i > 0) : kept + 1, :, :])
        state = xp.where(failed[..., None, None], state, run.y[..., kept, :, :])
        windows.append((i, i + kept))
        i += kept
        report(i)
        if bool(xp.all(failed)):
            break
    result = start(xp, _fill(problem, pieces, held), failed)
    result.converged, result.iterations = ~failed, iterations
    return result, tuple(windows)


def _end(problem: NonlinearProblem, i: int, j: int) -> int:
    """Where a window from i to j has to end for its steps not to differ by more than `RATIO`."""
    xp = problem.xp
    while j - i > 2 * problem.K:
        s = xp.abs(problem.step_sizes[..., i:j])
        if bool(xp.all(xp.max(s, axis=-1) <= RATIO * xp.min(s, axis=-1))):
            break
        j = i + (j - i) // 2
    return j


def carried_weights(window: NonlinearProblem, w_given: Array) -> Array:
    """The weights of a state that was carried over: those that the caller gave, and `CARRY` s^o; (..., 1, V, K)."""
    xp, s = window.xp, window.step_sizes[..., :1]
    w_given = pad_to(xp, w_given, (1, window.V, window.K))
    w = window.row_weights.smoothness
    first = w if isinstance(w, (int, float)) or w.ndim == 0 else w[..., :1, None, None]
    return xp.where(w_given != 0, w_given, CARRY * first * step_powers(xp, s, window.K)[..., :1, None, :])


def _settled(window: NonlinearProblem, run: Iterates, failed: Array, tolerance: float) -> int:
    """The number of steps from the start of the window on that all members have solved: all, or a part, or none.

    The error after a change is smaller than the change, quadratically so: hence the power. Sizes are those of the part,
    since what has not converged behind it may be large.
    """
    xp, steps = window.xp, window.n_steps - 1
    done = run.converged | failed
    level = rounding_level(window, tolerance)
    while steps and not bool(xp.all(done)):
        steps //= 2
        part = slice(0, steps + 1)
        if steps and run.previous is not None:
            before, now = run.previous[..., part, :, :], run.y[..., part, :, :]
            change = relative_change(xp, level[..., part, :], before, now)
            done = run.converged | failed | (~run.failed & (change <= tolerance**0.75))
    return steps


def _first_state(problem: NonlinearProblem, u: Array, held: Array) -> Array:
    """The initial values with zeros for the orders that are not given: (*batch, V, K)."""
    xp, (_, V, R_init) = problem.xp, u.shape[-3:]
    given = xp.broadcast_to(u[..., 0, :, :], (*held.shape, V, R_init))
    zeros = xp.zeros((*held.shape, V, problem.K - R_init), dtype=u.dtype, device=device_of(u))
    return concat(xp, [given, zeros], axis=-1)


def _fill(problem: NonlinearProblem, pieces: list[Array], held: Array) -> Array:
    """The pieces one after the other, and NaN up to T where all members were given up."""
    xp, V, K = problem.xp, problem.V, problem.K
    missing = problem.n_steps - sum(piece.shape[-3] for piece in pieces)
    if missing:
        like = problem.initial_values
        rest = xp.full((*held.shape, missing, V, K), xp.nan, dtype=like.dtype, device=device_of(like))
        pieces = [*pieces, rest]
    return concat(xp, pieces, axis=-3)
