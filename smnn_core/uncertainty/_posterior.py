r"""The posterior of a least-squares problem whose weights are inverse standard deviations.

The rows W (A y - d) are then independent and standard normal, the density of y is proportional to
exp(-|W (A y - d)|^2 / 2), and with M = A^T W^2 A

    mean          argmin_y |W (A y - d)|,                          covariance  Σ = M^-1,
    log det M     2 sum log|R_ii|,                                 R of the elimination,
    sample        argmin_y |W (A y - d) - ξ|,  ξ standard normal:  mean + (W A)^+ ξ has the covariance M^-1.

Source of the samples: Papandreou, Yuille, Gaussian Sampling by Local Perturbations, NIPS 2010. Derivations:
docs/theory/posterior.md.
"""

from __future__ import annotations

from functools import cached_property
from math import isfinite
from typing import Any

import array_api_compat as compat
import numpy as np

from .._arrays import Array, common_namespace, owned
from .._constraints import without_weights
from .._errors import ArgumentError, ShapeError
from .._problem import UNIT, Problem, Rows, System, Weights, copy_with
from .._schemes import WIENER, Scheme
from .._solve import owned_system, refuse_autodiff, solve_problem
from .._validate import LARGEST_T, check_integer
from .._weighting import as_arrays, weighted_problem
from ..engines._increments import increment_rows

__all__ = ["Posterior", "posterior", "wiener_weight"]


def posterior(
    coefficients: Array,
    rhs: Array,
    initial_values: Array,
    step_sizes: Array,
    *,
    n_steps: int | None = None,
    scheme: Scheme = WIENER,
    weights: Weights = UNIT,
    engine: str = "auto",
    check: bool = False,
) -> Posterior:
    """The Gaussian distribution of the solution, weights being inverse standard deviations of their rows.

    Its mean is what `solve_ode` gives for the same arguments and scheme. Under `WIENER` the smoothness rows are the
    increments of an R-times integrated Wiener process, in units of time: `wiener_weight` gives their weight.

    The arguments, and what is raised, are as for `solve_ode`; the scheme is `WIENER` where none is given. Variances and
    covariances, computed when they are first asked for, may raise SingularSystemError as well.

    Example: y'' = 0, known to be 0 and 1 at both ends up to 0.1, and how well it is known in the middle.

        >>> import numpy as np
        >>> import smnn_core as smnn
        >>> u = smnn.conditions(3, {0: 0.0, -1: 1.0})
        >>> c, b, s = np.array([[[[0.0, 0.0, 1.0]]]]), np.zeros((1, 1)), np.array([0.5])
        >>> p = smnn.posterior(c, b, u, s, n_steps=3, weights=smnn.Weights(equation=1e6, initial=10.0, smoothness=1e6))
        >>> p.mean[:, 0, 0].round(4).tolist(), p.standard_deviation[:, 0, 0].round(4).tolist()
        ([0.0, 0.5, 1.0], [0.1, 0.0707, 0.1])
    """
    arguments = coefficients, rhs, initial_values, step_sizes
    problem = stated_problem("posterior", arguments, weights, n_steps=n_steps, scheme=scheme)
    system = owned_system(problem.system)
    problem = copy_with(problem, system=system, rhs=owned(problem.rhs), initial_values=owned(problem.initial_values))
    mean, factor = solve_problem(problem, engine=engine, check=check)
    return Posterior(mean, problem, factor)


def stated_problem(
    name: str, arguments: tuple[Array, ...], weights: Weights, *, n_steps: int | None, scheme: Scheme
) -> Problem:
    """The problem that the arguments of a function of that name state, with the weights that the engine sees."""
    coefficients, rhs, initial_values, step_sizes = arguments
    step_sizes, weights = as_arrays(step_sizes, weights, coefficients)
    arrays, weights = refuse_autodiff(name, (coefficients, rhs, initial_values, step_sizes), weights)
    return weighted_problem(Problem.build(*arrays, n_steps=n_steps, scheme=scheme, weights=weights, values=False))


class Posterior:
    """The Gaussian distribution of y; made by `posterior`. n = V (R+1) unknowns per time point, (v, r) in C order."""

    mean: Array
    """(..., T, V, R+1)"""

    def __init__(self, mean: Array, problem: Problem, factor: Any) -> None:
        """`problem` has the weights that the engine sees; `factor` is that of its solution, None in adapters."""
        self.mean, self.problem, self._factor = mean, problem, factor

    def __repr__(self) -> str:
        batch, (T, V, K) = tuple(self.mean.shape[:-3]), self.mean.shape[-3:]
        return f"{type(self).__name__}(batch={batch}, T={T}, V={V}, R={K - 1}, scheme={self._system.scheme.name!r})"

    @property
    def variance(self) -> Array:
        """(..., T, V, R+1), sums of squares: never negative."""
        return self._system.xp.reshape(self._in_batch(self._diagonal, 2), tuple(self.mean.shape))

    @property
    def standard_deviation(self) -> Array:
        """(..., T, V, R+1)"""
        return self._system.xp.sqrt(self.variance)

    @property
    def covariance(self) -> Array:
        """Of the unknowns of each time point, (..., T, n, n)."""
        return self._in_batch(self._blocks[0], 3)

    @property
    def lag_covariance(self) -> Array:
        """Of those of each time point (rows) with those of the next (columns), (..., T-1, n, n)."""
        return self._in_batch(self._blocks[1], 3)

    @property
    def log_determinant(self) -> Array:
        """log det M = -log det Σ of all unknowns, (...,)."""
        return self._in_batch(self._statistics[0], 0)

    @property
    def sum_of_squares(self) -> Array:
        """|W (A y - d)|^2 at the mean, (...,)."""
        return self._in_batch(self._statistics[1], 0)

    @property
    def degrees_of_freedom(self) -> Array:
        """The number of rows that count (of a weight other than zero), less that of unknowns, (...,)."""
        system, xp, batch = self._system, self._system.xp, self.problem.batch
        w, T, V = system.weights, system.n_steps, system.V
        per_step = V * increment_rows(system.scheme, system.K)[0].shape[1]
        counts = (
            (w.equation, (T, system.Q), 1),
            (w.initial, (system.n_initial_steps, V, system.n_initial_orders), 1),
            (w.smoothness, (T - 1,), per_step),
        )
        total = -T * system.n
        for x, core, rows in counts:
            counted = xp.broadcast_to(xp.astype(x != 0, system.dtype), (*batch, *core))
            total = total + rows * xp.sum(counted, axis=tuple(range(-len(core), 0)))
        return total

    @property
    def scale(self) -> Array:
        """sqrt(sum_of_squares / degrees_of_freedom), (...,), about 1 where the weights are right; NaN without degrees.

        Where all weights are known up to a common factor, standard deviations multiplied by this are calibrated.
        """
        xp, degrees = self._system.xp, self.degrees_of_freedom
        some = degrees > 0
        square = self.sum_of_squares / xp.where(some, degrees, xp.ones_like(degrees))
        return xp.where(some, xp.sqrt(square), self._system.constant(xp.nan))

    def sample(self, size: int, rng: np.random.Generator | None = None) -> Array:
        """Independent samples, (size, ..., T, V, R+1): solutions for rows disturbed by standard normal numbers.

        Args:
            rng: where the numbers come from; None for a new generator with a seed of its own.

        Raises:
            ArgumentError: if size is no number of samples, or rng no `numpy.random.Generator`.
        """
        check_integer("size, the number of samples,", size, least=1, most=LARGEST_T)
        if rng is not None and not isinstance(rng, np.random.Generator):
            raise ArgumentError(f"rng must be a numpy.random.Generator, got {type(rng).__name__}: default_rng(seed).")
        draw = np.random.default_rng() if rng is None else rng
        return self._sample(lambda shape: self._system.constant(draw.standard_normal((size, *shape))))

    def _sample(self, draw: Any) -> Array:
        """The mean and the response to standard normal rows, draw(shape) for each kind, shape without the samples."""
        system, batch = self._system, self.problem.batch
        T, V = system.n_steps, system.V
        m = system.smoothness_matrices[0].shape[0]
        shapes = (T, system.Q), (system.n_initial_steps, V, system.n_initial_orders), (T - 1, V, m)
        return self.mean + self._response(Rows(*(draw((*batch, *shape)) for shape in shapes)))

    def _response(self, ξ: Rows) -> Array:
        """(W A)^+ ξ"""
        return self._factor.solve(without_weights(self._system, ξ))

    @property
    def _system(self) -> System:
        return self.problem.system

    @cached_property
    def _blocks(self) -> tuple[Array, Array]:
        blocks: tuple[Array, Array] = self._factor.covariances()
        return blocks

    @cached_property
    def _diagonal(self) -> Array:
        return self._factor.variances()

    @cached_property
    def _statistics(self) -> tuple[Array, Array]:
        """log det M and the minimum."""
        found = self._factor.statistics(self.problem.rows)
        return found.log_determinant, found.minimum

    def _in_batch(self, x: Array, rank: int) -> Array:
        return self._system.xp.broadcast_to(x, (*self.problem.batch, *x.shape[x.ndim - rank :]))


LARGEST_ORDER = 1000
"""Beyond, powers of steps are 0, 1 or infinite."""


def _check_number_or_array(name: str, x: Any) -> None:
    """
    Raises:
        TypeError: where it is neither.
        DTypeError: for an array of other dtypes than float32 and float64.
    """
    if isinstance(x, bool) or not (isinstance(x, (int, float)) or compat.is_array_api_obj(x)):
        raise TypeError(f"{name} must be a number or an array, got {type(x).__name__}.")
    if not isinstance(x, (int, float)):
        common_namespace({name: x})


def wiener_weight(diffusion: Any, step_sizes: Any, order: int) -> Any:
    """weights.smoothness for a process whose derivative of order R is a Wiener process of known diffusion.

    The increments of y^(R) over s have the standard deviation σ sqrt(|s|), and the rows of `WIENER` across s
    σ |s|^(R+1/2): the result, 1 / (σ s_ref^(R+1/2)), makes them standard normal with the weights (s_ref / |s|)^(R+1/2)
    of the scheme, however finely time is divided.

    Args:
        diffusion: σ, in units of y^(R) / sqrt(time): a number, or an array that broadcasts to (..., T-1).
        step_sizes: as for `solve_ode`.
        order: R.

    Returns:
        a number, where both are numbers, else an array that broadcasts to (..., T-1), in which derivatives are those of
        the framework.

    Raises:
        ArgumentError: for an order that is no integer from 0 on, and for numbers of which there is no weight.

    Source: Särkkä, Solin, Applied Stochastic Differential Equations, Cambridge 2019, section 6.2.
    """
    check_integer("order, R,", order, least=0)
    for name, x in {"diffusion": diffusion, "step_sizes": step_sizes}.items():
        _check_number_or_array(name, x)
    if isinstance(diffusion, (int, float)) and not diffusion > 0:
        raise ArgumentError(f"diffusion must be positive, got {diffusion}.")
    p = min(order, LARGEST_ORDER) + 0.5
    if isinstance(step_sizes, (int, float)):
        spread = abs(step_sizes) ** p
        if spread == 0 or not isfinite(spread):
            raise ArgumentError(f"step_sizes to the power of order + 1/2 must be a number, not zero; got {step_sizes}.")
        return 1 / (diffusion * spread)
    if step_sizes.ndim == 0:
        raise ShapeError("step_sizes must have shape (..., T-1 or 1), or be a number; got an array without axes.")
    xp = compat.array_namespace(step_sizes)
    size = xp.log(xp.abs(step_sizes))
    return xp.exp(-p * xp.mean(size, axis=-1, keepdims=True)) / diffusion
