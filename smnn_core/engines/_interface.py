"""The contract of an engine: two abstract base classes, and laws (`tests/engines/test_laws.py`).

An engine need only refuse, describe itself and factorize, and a factor solve the augmented system once. All else has a
default made of these, which an engine overrides where it does more in one sweep.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from .._arrays import sum_to_shape
from .._augmented import residual, solution_pullback
from .._constraints import apply_transpose, subtract, weighted, without_weights
from .._problem import (
    ALL,
    NONE,
    OF_LHS,
    Gradients,
    Problem,
    Rows,
    System,
    by_field,
    from_fields,
    inputs_by_field,
)
from ._refinement import add_rows, least_squares, refined_multipliers
from ._statistics import Statistics, in_full, minimum_pullback

__all__ = ["Engine", "Factor"]

Array = Any


class Factor(ABC):
    """A system after elimination: R with (W A)^T (W A) = R^T R, and what Q^T takes to be applied again.

    Law of all methods: non-finite input of one batch member leaves the others as they are.
    """

    system: System
    undetermined: Array | None
    """bool, (*system.batch, T): time points whose unknowns the rows leave undetermined (None: none are). The solutions
    of their batch members are NaN."""

    @abstractmethod
    def solve_augmented(
        self, f: Rows | None, g: Array | None, *, rows: bool = True, states: bool = True
    ) -> tuple[Any, Any]:
        """v, weighted rows, and y, (*batch, T, V, K), with v + W A y = f and (W A)^T v = g; None is zero.

        With W A = Q R and z = Q^T f - R^-T g these are y = R^-1 z and v = f - Q z, not refined: all that a factor is
        asked for follows. Rows and g broadcast; not both are None. v may be None unless `rows` are wanted, and y unless
        `states` are.
        """

    def solve(self, d: Rows) -> Array:
        """argmin_y |W (A y - d)|, for rows d that broadcast; (*batch, T, V, K).

        Law: solve(d) = normal_solve(A^T W^2 d) up to rounding.
        """
        return least_squares(self, weighted(self.system.weights, d))[1]

    def normal_solve(self, g: Array) -> Array:
        """M^-1 g with M = A^T W^2 A, for g of shape (..., T, V, K), not refined.

        Laws: it is symmetric, and M normal_solve(g) = g up to rounding.
        """
        return -self.solve_augmented(None, g, rows=False)[1]

    def augmented(self, f: Rows | None, g: Array | None, *, rows: bool = True) -> tuple[Any, Array]:
        """v, None unless `rows` are wanted, and y of `solve_augmented`, refined.

        Laws: v + W A y = f and (W A)^T v = g up to rounding, and it is its own transpose.
        """
        if rows:
            return self._augmented(f, g)
        parts = [] if f is None else [self.solve(without_weights(self.system, f))]
        if g is not None:
            parts.append(-self.normal_solve(g))
        return None, sum(parts[1:], start=parts[0])

    def _augmented(self, f: Rows | None, g: Array | None) -> tuple[Rows, Array]:
        """Both v and y."""
        parts = [] if f is None else [least_squares(self, f)]
        if g is not None:
            parts.append((refined_multipliers(self, g), -self.normal_solve(g)))
        v, y = parts[0]
        for dv, dy in parts[1:]:
            v, y = add_rows(v, dv), y + dy
        return v, y

    def overflows(self, y: Array, d: Rows) -> bool:
        """True where a solution y of `solve_problem` is not finite, though all rows are, or may be wrong, since squares
        of rows overflow or underflow."""
        del y, d
        return False

    def adjoint(self, problem: Problem, y: Array, g: Array, wanted: Gradients = ALL) -> Gradients:
        """The gradients of L with respect to all inputs of y = solve(problem.rows), from g = dL/dy.

        `wanted` has a bool in the place of every gradient: those that are not wanted may be None.
        """
        del wanted
        system, xp = problem.system, problem.system.xp
        v = weighted(system.weights, residual(problem, y))
        left = apply_transpose(system, weighted(system.weights, v))  # of (W A)^T W r = 0: rounding, which is taken off
        both, states = self.augmented(None, xp.stack([*xp.broadcast_arrays(g, left)]))
        μ, excess = (Rows(*(x[i, ...] for x in both)) for i in (0, 1))
        return solution_pullback(problem, y, subtract(v, excess), μ, states[0, ...])

    @abstractmethod
    def log_determinant(self) -> Array:
        """log det M, (*batch,). Here and below, that of undetermined members is NaN."""

    @abstractmethod
    def covariances(self) -> tuple[Array, Array]:
        """The blocks of Σ = M^-1 in and beside the diagonal, (*batch, T, n, n) and (*batch, T-1, n, n), unknowns
        ordered by variable, then derivative."""

    def variances(self) -> Array:
        """The diagonal of the former, (*batch, T, n)."""
        variances: Array = self.system.xp.linalg.diagonal(self.covariances()[0])
        return variances

    @abstractmethod
    def moment_gradients(self, dΣ: Array | None, d_lag: Array | None, d_log_determinant: Array | None) -> Gradients:
        """The gradients of the system for each member, (*batch, *core), see `Statistics`, from those of `covariances`
        and of `log_determinant`; None is zero."""

    def moments_pullback(self, dΣ: Array | None, d_lag: Array | None, d_log_determinant: Array | None) -> Gradients:
        """The same, summed to the shapes of the inputs."""
        gradients = by_field(self.moment_gradients(dΣ, d_lag, d_log_determinant))
        return from_fields(
            None if x is None else sum_to_shape(self.system.xp, x, tuple(like.shape))
            for x, like in zip(gradients, inputs_by_field(self.system), strict=True)
        )

    def statistics(self, d: Rows, wanted: Gradients = NONE) -> Statistics:
        """log det M and |W (d - A y)|^2, with the gradients of both for each member that are wanted.

        Laws: the first two are those of `log_determinant` and of `augmented` up to rounding; the gradients, summed
        over members, those of `moments_pullback` and of the minimum at fixed y.
        """
        system, xp = self.system, self.system.xp
        v, y = self.augmented(weighted(system.weights, d), None)
        squares = (xp.sum(x * x, axis=tuple(range(-rank, 0))) for x, rank in zip(v, (2, 3, 3), strict=True))
        determinant, minimum = self.log_determinant(), sum(squares)
        if not any(by_field(wanted)):
            return Statistics(determinant, minimum)
        ones = [xp.ones(x.shape, dtype=system.dtype, device=system.device) for x in (determinant, minimum)]
        of_determinant = self.moment_gradients(None, None, ones[0])
        batch = tuple(minimum.shape)
        problem = in_full(Problem(system, d.equation, d.initial, batch), batch)
        of_minimum = minimum_pullback(problem, y, v, ones[1])

        def chosen(gradients: Gradients, given: Gradients) -> Gradients:
            pairs = zip(by_field(gradients), by_field(wanted), by_field(given), strict=True)
            return from_fields(x if take and has else None for x, take, has in pairs)

        return Statistics(determinant, minimum, chosen(of_determinant, OF_LHS), chosen(of_minimum, ALL))


class Engine(ABC):
    """A way to eliminate. It knows nothing of gradients of a framework, nor of how arguments are checked."""

    name: str
    """what users give as `engine`"""
    checks_values: bool = False
    """It raises what `System.check_values` does itself; else the core looks before it asks."""

    @abstractmethod
    def refusal(self, system: System) -> str | None:
        """Why this engine cannot serve the system, None where it can."""

    @abstractmethod
    def describe(self) -> str:
        """One line for `show_config`: available or why not, SIMD level, threads, devices."""

    @abstractmethod
    def factorize(self, system: System) -> Factor:
        """Eliminates a left-hand side, once for all right-hand sides."""

    def solve_problem(self, problem: Problem, *, recompute: bool = False) -> tuple[Array, Factor]:
        """The solution and the factor. Law: those of `factorize` up to rounding, here and below.

        Args:
            recompute: as little memory as the engine can do with, at the price of time: what of the factor is wanted
                later is eliminated again. It may be ignored.
        """
        del recompute
        factor = self.factorize(problem.system)
        return factor.solve(problem.rows), factor

    def factor_of_moments(self, system: System) -> Factor:
        """A factor of which moments and statistics alone are asked: an engine that takes a sweep of its own for them
        need not keep anything. What is undetermined is known once some of them are."""
        return self.factorize(system)

    def solve_determined(self, problem: Problem) -> Array:
        """The solution of a system that is known to have one: an engine may leave out to judge the pivots."""
        return self.solve_problem(problem)[0]

    def normal_solve(self, system: System, g: Array) -> Array:
        """M^-1 g of a system that nothing else is asked of."""
        return self.factorize(system).normal_solve(g)

    def adjoint(
        self,
        problem: Problem,
        y: Array,
        g: Array,
        wanted: Gradients = ALL,
        *,
        eliminated: System | None = None,
        recompute: bool = False,
    ) -> Gradients:
        """As that of a factor, where none was kept.

        Args:
            eliminated: the system before it was broadcast to the batch of the problem, if it was.
            recompute: as for `solve_problem`.
        """
        del recompute
        system = problem.system if eliminated is None else eliminated
        return self.factorize(system).adjoint(problem, y, g, wanted)
