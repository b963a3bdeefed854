"""The result of `solve_nonlinear_ode`, its residuals and its derivatives.

Derivatives. At the solution f(t, y, θ) = 0, and linearised there, a change of f by df changes y by the solution of the
linear problem with the coefficients J = ∂f/∂y and the right-hand side -df: J is held fixed, which is exact where the
rows are met. For a loss L with g = dL/dy the adjoint of that linear problem gives dL/df.

A march is a chain of such problems: the state at the first point of a window is the solution of the window before, and
the initial rows of its own. The adjoint goes through the windows backwards; what it finds for the initial rows of one
joins g at the last point of the one before.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from .._arrays import Array, Shape, common_namespace, concat, device_of, sum_to_shape
from .._errors import ShapeError
from .._problem import Gradients, Weights
from .._solve import Residuals, adjoint_without_factor, residuals
from ._march import OVERLAP, carried_weights
from ._newton import NonlinearProblem

__all__ = ["NonlinearGradients", "NonlinearSolution"]

WANTED = Gradients(False, True, True, False, Weights(False, False, False))


class NonlinearGradients(NamedTuple):
    """What `NonlinearSolution.vjp` gives."""

    f: Array
    """(..., T, Q): dL/df. With ∂f/∂θ of f's shape, dL/dθ is the sum of their product over all axes."""
    initial_values: Array
    """In the shape of initial_values; zero where no value was given."""


@dataclass(frozen=True, eq=False)
class NonlinearSolution:
    """What `solve_nonlinear_ode` found."""

    y: Array
    """(..., T, V, R+1). Where `converged` is False: the last iterate of Newton's method; of a march, NaN from where it
    was given up."""
    t: Array
    """(..., T): the times, t0 and the sums of the steps."""
    converged: Array
    """bool, (...,): batch members whose y solves the problem."""
    iterations: Array
    """(...,): linear problems solved, of windows or of the whole."""
    method: str
    """"march" or "newton"."""
    message: str
    """What happened, in a sentence."""
    _problem: NonlinearProblem = field(repr=False)
    _windows: tuple[tuple[int, int], ...] = field(repr=False)
    """The first and the last time point that each window of a march has solved; otherwise those of the whole."""
    _stated: Shape = field(repr=False)
    """The shape of initial_values, to which the problem has added the batch axes of their weights."""

    @property
    def residuals(self) -> Residuals:
        """How far y is from satisfying each row, without weights, by kind: equation (..., T, Q) is f(t, y)."""
        problem = self._problem
        lin = problem.linearize(self.t, self.y)
        rhs = lin.rhs(problem.xp, self.y)
        u, s = problem.initial_values, problem.step_sizes
        return residuals(self.y, lin.J, rhs, u, s, n_steps=problem.n_steps, scheme=problem.scheme)

    def vjp(self, g: Array) -> NonlinearGradients:
        """The gradients of a loss L from g = dL/dy, of y's shape: about as much work as one iteration.

        On grids whose steps differ by many orders of magnitude (1e6 in the relaxation oscillation of
        `benchmarks.nonlinear`) the adjoint of the compiled engine is not accurate: solve with engine="array_api" there.

        Raises:
            ShapeError: if g does not have the shape of y.
        """
        problem, xp = self._problem, self._problem.xp
        common_namespace({"y": self.y, "g": g})
        if tuple(g.shape) != tuple(self.y.shape):
            raise ShapeError(f"g must have the shape of y, {tuple(self.y.shape)}; got {tuple(g.shape)}.")
        carried = xp.zeros_like(self.y[..., :1, :, :])
        pieces: list[Array] = []
        ahead = None  # dL/df that the window behind has found, from its first point on
        for i, last in reversed(self._windows):
            stop = min(last + OVERLAP, problem.n_steps - 1)
            y, window = self.y[..., i : stop + 1, :, :], self._window(i, stop)
            seen = concat(xp, [g[..., i + (i > 0) : last, :, :], g[..., last : last + 1, :, :] + carried], axis=-3)
            before, behind = xp.zeros_like(y[..., : int(i > 0), :, :]), xp.zeros_like(y[..., last - i + 1 :, :, :])
            linear = window.linear_problem(y, window.linearize(window.t, y))
            g_window = concat(xp, [before, seen, behind], axis=-3)
            found = adjoint_without_factor(linear, y, g_window, WANTED, engine=problem.engine)
            df, carried = -found.rhs, found.initial_values
            if ahead is not None:
                shared = stop + 1 - last
                df = concat(xp, [df[..., :-shared, :], df[..., -shared:, :] + ahead[..., :shared, :]], axis=-2)
                pieces.append(ahead[..., shared:, :])
            ahead = df
        initial_values = sum_to_shape(xp, self._in_full(carried), self._stated)
        return NonlinearGradients(concat(xp, [ahead, *pieces[::-1]], axis=-2), initial_values)

    def _window(self, i: int, stop: int) -> NonlinearProblem:
        """The problem of the time points i..stop, with the initial rows that the march gave it."""
        problem, w = self._problem, self._problem.weights.initial
        if i == 0 and stop == problem.n_steps - 1:
            return problem
        window, u = problem.window(i, stop), problem.initial_values
        if i == 0:
            return window.starting_at(u[..., :1, :, :], w[..., :1, :, :])
        return window.carrying_on(self.y[..., i, :, :], carried_weights(window, w[..., :1, :, :]))

    def _in_full(self, initial: Array) -> Array:
        """The gradient with respect to the first initial values, and zeros for those at later times."""
        xp, missing = self._problem.xp, self._problem.initial_values.shape[-3] - initial.shape[-3]
        shape = (*initial.shape[:-3], missing, *initial.shape[-2:])
        return concat(xp, [initial, xp.zeros(shape, dtype=initial.dtype, device=device_of(initial))], axis=-3)
