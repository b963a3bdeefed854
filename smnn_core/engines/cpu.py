"""The compiled engine for NumPy arrays: orthogonal elimination in SIMD packs, over batch, chunks of time and threads.

The kernels (`engines/kernels`, one C++ source for all instruction sets and devices) eliminate point by point; where
the batch alone does not fill the lanes, time is divided into chunks that are eliminated side by side, and the points
between them form a small problem of the same form. This module lays out the call and leaves the work to `_kernels`.

All arithmetic is float64. float32 is a type of storage: inputs are widened, results are rounded once, and gradients
start from the solution before it was rounded.

The factor is kept only where that is cheaper than eliminating again: where it stays in caches, or where kernels are
not compiled for the size of the blocks, and take longer than memory. Results are the same from run to run for a given
number of threads and instruction set.

Environment: SMNN_SIMD=avx512, avx2 or baseline forces an instruction set; OMP_NUM_THREADS and threadpoolctl set the
number of threads.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .._arrays import Array, Shape, broadcast_shapes
from .._constraints import weighted
from .._errors import ArgumentError
from .._fields import RANKS
from .._problem import (
    ALL,
    NONE,
    OF_LHS,
    ZERO_STEP,
    Gradients,
    Problem,
    Rows,
    System,
    by_field,
    from_fields,
    inputs_by_field,
)
from .._schemes import triangular_rows
from ._interface import Engine
from ._moments import Moments, OwnRows, are_compiled
from ._refinement import least_squares, members, refined_once, refined_solution, widened
from ._statistics import Statistics
from .array_api import CompiledFactor

_kernels: Any
try:
    from . import _kernels  # type: ignore[no-redef, attr-defined]

    _missing = ""
except ImportError as error:
    _kernels = None
    _missing = (
        f"its kernels could not be loaded ({error})."
        if list(Path(__file__).parent.glob("_kernels*"))
        else "its kernels were not built: the installation found no C++17 compiler, or compiling them failed."
    )


def _spec(
    system: System, batch: Shape, rhs: Array = None, initial_values: Array = None, smoothness: Array = None
) -> Any:
    """A `_kernels.Problem`, which holds the buffers of all inputs, in float64."""
    Q, V, K = system.coefficients.shape[-3:]
    sizes = system.n_steps, V, K, Q, system.n_initial_steps, system.n_initial_orders
    arrays = *inputs_by_field(system, rhs, initial_values), smoothness
    small_pivot = _small_pivot(system.weights.smoothness)
    return _kernels.Problem(sizes, batch, triangular_rows(system.scheme, K)[0], small_pivot, tuple(map(_wide, arrays)))


def _spec_of(problem: Problem) -> Any:
    return _spec(problem.system, problem.batch, problem.rhs, problem.initial_values)


def _small_pivot(w: np.ndarray) -> float:
    """Pivots below this times the norm of their column are looked at, see `_undetermined`.

    The error of a pivot may come from heavier rows than those of its column: the square root of how many times heavier
    keeps most well-posed systems from being looked at.
    """
    if w.size < 2:
        return SMALL_PIVOT
    x = np.abs(w)
    largest = float(x.max())
    spread = largest / float(x.min(where=x > 0, initial=largest)) if 0 < largest < np.inf else 1.0
    return SMALL_PIVOT * 10.0 ** min(int(np.log10(spread) / 2), 5)


def _outweighs(system: System, y: np.ndarray, s: float, heaviest: float) -> np.ndarray | None:
    """Batch members, (*batch,), None if there are none, where terms of equations, w c y, are so heavy that those of
    smoothness rows, w s^r y, are light beside them.

    Rotations take both into one another, and light ones lose as many digits: of a variable, all but nine, of a
    derivative, all but four. s: the shortest step, or 1; heaviest: the largest norm of an equation, |w c|.
    """
    c, w = system.coefficients, system.weights
    tie = np.abs(w.smoothness)
    lightest = float(tie.min(initial=np.inf)) or float(tie.min(where=tie > 0, initial=np.inf))
    if 0 in y.shape or not heaviest >= HEAVY * lightest * s ** (system.K - 1):
        return None
    with np.errstate(all="ignore"):
        values = np.maximum(y.max(axis=-3), -y.min(axis=-3))
        light = values * (HEAVY * lightest) * s ** np.arange(system.K)
        light[..., 1:] *= 1e5
        if not np.any(heaviest * values.max(axis=(-2, -1))[..., None, None] >= light):
            return None
        terms = np.abs(w.equation) * np.abs(c * y[..., None, :, :]).max(axis=(-2, -1))
        found = np.any(terms.max(axis=(-2, -1))[..., None, None] >= light, axis=(-2, -1))
    return found if found.any() else None


def _has_tiny_entries(system: System) -> bool:
    """True where entries of equations are so small beside others that products of a few of their squares underflow."""
    entries = np.abs(system.weights.equation)[..., None, None] * np.abs(system.coefficients)
    return bool(np.any((entries > 0) & (entries < TINY * entries.max(initial=0.0, where=np.isfinite(entries)))))


_DOUBLE = np.dtype(np.float64)


OVERFLOW = (
    "the result is not finite, of finite arguments: squares of rows overflow. coefficients reach {:.1e}, before they "
    "are multiplied by weights.equation: divide equations with their right-hand sides, or all weights, by a factor."
)


SMALL_PIVOT = 1e-9
"""That of systems whose smoothness rows have equal weights."""


HEAVY = 1e7
"""How many times heavier than others terms have to be for solutions to be refined."""


TINY = 1e-30
"""Systems whose rows differ a lot, with entries of equations this small beside others, are left to another engine."""


POOLED_BYTES = 1 << 17
"""Results from this size on lie in memory that the engine keeps and uses again: the operating system takes longer to
provide fresh pages than the kernels to fill them."""


def _empty(shape: Shape, dtype: Any = _DOUBLE) -> np.ndarray:
    """As np.empty; the memory returns to the pool with the last reference to the array."""
    if prod(shape) * dtype.itemsize < POOLED_BYTES:
        return np.empty(shape, dtype)
    result: np.ndarray = _kernels.empty(shape, dtype.itemsize == 8)
    return result


def _states(system: System, batch: Shape) -> np.ndarray:
    """Room for (*batch, T, V, K)."""
    return _empty((*batch, system.n_steps, system.V, system.K))


def _wide(x: Array) -> Array:
    """x in float64, its elements at multiples of their size; itself where it is that already."""
    if x is None or (x.dtype == _DOUBLE and x.flags.aligned):
        return x
    wide = _empty(x.shape)
    np.copyto(wide, x)
    return wide


def _rounded(x: np.ndarray, dtype: Any) -> np.ndarray:
    if dtype == _DOUBLE:
        return x
    narrow = _empty(x.shape, dtype)
    np.copyto(narrow, x, casting="same_kind")
    return narrow


class LastSolve(NamedTuple):
    """A problem, as kernels take it, and its solution before it was rounded, if it was and that was kept."""

    problem: Problem
    spec: Any
    y: np.ndarray | None


@dataclass(eq=False)
class CpuFactor(CompiledFactor):
    """A system, with the part of its factor that kernels kept, if any."""

    system: System
    undetermined: np.ndarray | None = None
    kept: Any = None
    """`_kernels.Factor` of one batch shape, or None"""
    has_small_pivots: bool = False
    has_tiny_entries: bool = False
    """solutions had better come from another engine, see `_has_tiny_entries`"""
    solved: LastSolve | None = None
    """what was solved with it first"""
    is_judged: bool = True
    """whether `undetermined` is known; else the first moments see to it"""
    extremes: tuple[float, float] = (1.0, 0.0)
    """the shortest step, or 1, and the largest norm of an equation, |w c|, as a sweep found them"""

    def __getstate__(self) -> dict[str, Any]:
        """For pickle and copy: what the kernels kept stays behind, and is made again where it is wanted."""
        return vars(self) | {"kept": None, "solved": None}

    @property
    def nbytes(self) -> int:
        """The memory that the factor keeps."""
        return 0 if self.kept is None else int(self.kept.nbytes)

    def solve(self, d: Rows) -> np.ndarray:
        y = self.refined(self._solve(d), d)
        if self.overflows(y, d):
            return self._by_array_api.solve(d)
        return _rounded(y, self.system.dtype)

    def refined(self, y: np.ndarray, d: Rows) -> np.ndarray:
        """The solution y, in float64, corrected where one elimination does not give it nine digits."""
        if self.has_small_pivots:
            y = refined_solution(*self._wide(d), always=False)
        light = _outweighs(self.system, y, *self.extremes)
        if self.has_small_pivots or light is not None:
            self.has_tiny_entries = _has_tiny_entries(self.system)
        return y if light is None else np.where(members(light, y), least_squares(*self._wide(d))[1], y)

    def _wide(self, d: Rows) -> tuple[CpuFactor, Rows]:
        """A factor in float64, whose solutions are those of one elimination, and weighted rows."""
        system = widened(self.system)
        wide = Rows(*(None if x is None else _wide(x) for x in d))
        return _Unrefined(system, self.undetermined), weighted(system.weights, wide)

    def _solve(self, d: Rows) -> np.ndarray:
        """The solution in float64, as it comes from one elimination."""
        system = self.system
        batch = system.batch_with(d)
        smoothness = None if d.smoothness is None else d.smoothness @ triangular_rows(system.scheme, system.K)[1]
        y = _states(system, batch)
        _, _, *extremes = _kernels.solve(_spec(system, batch, d.equation, d.initial, smoothness), y)
        self.extremes = tuple(extremes)
        return self._masked(y)

    def _augmented(self, f: Rows | None, g: Array | None) -> tuple[Rows, Array]:
        """As one more solution and its correction, in float64."""
        f, g = None if f is None else Rows(*map(_wide, f)), _wide(g)
        wide = replace(self, system=widened(self.system), solved=None)
        v, y = refined_once(wide, f, g)
        return Rows(*(_rounded(x, self.system.dtype) for x in v)), _rounded(y, self.system.dtype)

    def normal_solve(self, g: Array) -> np.ndarray:
        return _rounded(self._masked(self._normal_solve(g)[0]), self.system.dtype)

    def _normal_solve(self, g: Array) -> tuple[np.ndarray, bool]:
        """M^-1 g in float64, and whether a pivot is small where the system is eliminated again."""
        batch = broadcast_shapes({"left-hand side": self.system.batch, "g": tuple(g.shape[:-3])})
        x = _states(self.system, batch)
        return x, _kernels.normal_solve(_spec(self.system, batch), self.kept, _wide(g), x)

    def adjoint(self, problem: Problem, y: Array, g: Array, wanted: Gradients = ALL) -> Gradients:
        """The gradients that are wanted, from multipliers of the rows; eliminates again, for the tape of rotations."""
        solved, kept = self.solved, self.kept
        if solved is None or solved.problem is not problem:
            # (checkpoints that are kept with a factor depend on right-hand sides)
            solved, kept = LastSolve(problem, _spec_of(problem), None), None
        if y.dtype != _DOUBLE:
            y = _solution(solved.spec, problem) if solved.y is None else solved.y
        inputs = inputs_by_field(problem.system, problem.rhs, problem.initial_values)
        gradients = [_empty(x.shape) if take else None for x, take in zip(inputs, by_field(wanted), strict=True)]

        small_pivot, any_nan = _kernels.adjoint(solved.spec, kept, _wide(y), _wide(g), tuple(gradients))
        overflows = any_nan and np.isfinite(y).all() and np.isfinite(g).all()
        if overflows or (small_pivot and _has_tiny_entries(problem.system)):
            return self._by_array_api.adjoint(problem, y, g, wanted)
        undetermined = _undetermined(problem.system) if small_pivot or self.undetermined is not None else None
        result = from_fields([x if x is None else _rounded(x, g.dtype) for x in gradients])
        _mask_gradients(problem, result, undetermined)
        return result

    def log_determinant(self) -> Array:
        if not are_compiled(self.system):
            return super().log_determinant()
        return self.moments(Moments(log_determinant=True)).log_determinant

    def covariances(self) -> tuple[Array, Array]:
        if not are_compiled(self.system):
            return super().covariances()
        found = self.moments(Moments(covariance=True, lag_covariance=True))
        return found.covariance, found.lag_covariance

    def variances(self) -> Array:
        if not are_compiled(self.system):
            return super().variances()
        return self.moments(Moments(variance=True)).variance

    def moment_gradients(self, dΣ: Array | None, d_lag: Array | None, d_log_determinant: Array | None) -> Gradients:
        if dΣ is not None or d_lag is not None or d_log_determinant is None or not are_compiled(self.system):
            return super().moment_gradients(dΣ, d_lag, d_log_determinant)
        found = by_field(self.moments(Moments(of_determinant=OF_LHS)).of_determinant)
        return from_fields(
            None if x is None else d_log_determinant[(..., *(None,) * rank)] * x
            for x, rank in zip(found, RANKS, strict=True)
        )

    def statistics(self, d: Rows, wanted: Gradients = NONE) -> Statistics:
        """log det M, the minimum, and their gradients that are wanted, in one sweep and, for these, back."""
        if not are_compiled(self.system) or d.smoothness is not None:
            return super().statistics(d, wanted)
        of_lhs = from_fields(a and b for a, b in zip(by_field(wanted), by_field(OF_LHS), strict=True))
        found = self.moments(Moments(None, None, None, True, True, of_lhs, wanted), d)
        batch, own = found.minimum.shape, self.system.batch
        if 0 not in batch:  # (log det M is the same for all right-hand sides of a left-hand side: that of the first)
            first = *(0,) * (len(batch) - len(own)), *(slice(length) for length in own)
            of_lhs = from_fields(x if x is None else x[first] for x in by_field(found.of_determinant))
            found = found._replace(log_determinant=found.log_determinant[first], of_determinant=of_lhs)
        return Statistics(*found[3:])

    def moments(self, wanted: Moments, d: Rows | None = None) -> Moments:
        """The moments that are wanted; the minimum and its gradients are those of right-hand sides d."""
        of_points = any(wanted.in_order[:3])
        own = OwnRows(self.system, 0, self.system.n_steps - 1) if of_points else OwnRows.of(self.system)
        system, rows = own.cut_system(), own.cut_rows(d)
        batch = system.batch if rows is None else system.batch_with(rows)
        spec = _spec(system, batch) if rows is None else _spec(system, batch, rows.equation, rows.initial)
        cores = Moments.cores(system, rows)
        found = [_empty((*batch, *core)) if want else None for want, core in zip(wanted.in_order, cores, strict=True)]
        y = None
        if wanted.of_minimum.coefficients or wanted.of_minimum.step_sizes:
            y = _states(system, batch)
            _kernels.solve(spec, y)
        small_pivot, shortest = _kernels.moments(spec, tuple(found[:5]), y, tuple(found[5:12]), tuple(found[12:]))
        if not self.is_judged:
            self.is_judged = True
            if 0 in batch:
                self.system.check_values()  # (kernels look at what they solve)
            if shortest == 0:
                raise ArgumentError(ZERO_STEP)
            if small_pivot:
                self.undetermined = _undetermined(self.system)
        of_all = own.extended(Moments.of(found), batch, d)
        cores = Moments.cores(self.system, d)
        for x, core in zip(of_all.in_order[:5], cores, strict=False):
            if x is not None and self._overflows(x[(..., *(0,) * len(core))], d):
                raise ArgumentError(OVERFLOW.format(float(np.abs(self.system.coefficients).max())))
        dtype = self.system.dtype
        return Moments.of(
            [
                x if x is None else self._masked(x, len(core)).astype(dtype, copy=False)
                for x, core in zip(of_all.in_order, cores, strict=True)
            ]
        )

    def overflows(self, y: np.ndarray, d: Rows) -> bool:
        return self.has_tiny_entries or self._overflows(y[..., 0, 0, 0], d)

    def _overflows(self, x: np.ndarray, d: Rows | None) -> bool:
        """Looks at one number of each batch member, (...): squares of rows that overflow make all of them NaN."""
        bad = np.isnan(x)
        if not bad.any():
            return False
        bad &= self.system.is_finite
        for given, rank in () if d is None else ((d.equation, 2), (d.initial, 3)):
            bad &= np.isfinite(given).all(axis=tuple(range(-rank, 0)))
        if self.undetermined is not None:
            bad &= ~self.undetermined.any(axis=-1)
        return bool(bad.any())

    def _masked(self, x: np.ndarray, rank: int = 3) -> np.ndarray:
        """NaN for batch members that have undetermined points."""
        if self.undetermined is not None:
            x[np.broadcast_to(self.undetermined.any(axis=-1), x.shape[: x.ndim - rank])] = np.nan
        return x


@dataclass(eq=False)
class _Unrefined(CpuFactor):
    """One whose solutions are those of one elimination."""

    def solve(self, d: Rows) -> np.ndarray:
        return self._solve(d)


class CpuEngine(Engine):
    """Elimination by compiled kernels."""

    name = "cpu"
    checks_values = True

    def refusal(self, system: System) -> str | None:
        """Why the system is left to another engine: no kernels, other arrays than NumPy's, or very large blocks."""
        if _kernels is None:
            return _missing
        if not isinstance(system.coefficients, np.ndarray):
            return f"it serves NumPy arrays, and the coefficients are {type(system.coefficients).__name__}."
        if system.n > _kernels.LARGEST:
            most = f"{_kernels.LARGEST} unknowns per time point (variables x orders)"
            return f"it serves up to {most}, here are {system.n}."
        return None

    def describe(self) -> str:
        """One line for `show_config`."""
        if _kernels is None:
            return f"not available: {_missing}"
        try:
            isa = _kernels.isa()
        except RuntimeError as error:
            return f"not available: {error}"
        return (
            f"available: {isa} instructions (of {_kernels.usable_isas()}), {_kernels.max_threads()} threads; "
            f"NumPy arrays, up to {_kernels.LARGEST} unknowns per time point"
        )

    def factorize(self, system: System) -> CpuFactor:
        """Eliminates a left-hand side, once for all right-hand sides."""
        return _eliminated(system, _spec(system, system.batch), system.batch, None)

    def factor_of_moments(self, system: System) -> CpuFactor:
        """Nothing is kept, and pivots are judged along with the first moments, where the kernels have these."""
        return CpuFactor(system, is_judged=False) if are_compiled(system) else self.factorize(system)

    def solve_problem(self, problem: Problem, *, recompute: bool = False) -> tuple[np.ndarray, CpuFactor]:
        """The solution and the factor, which is kept or (always with `recompute`) eliminated again, see the module.

        With the adjoint they take at most ten times the memory of inputs that vary with batch and time.
        """
        system, spec = problem.system, _spec_of(problem)
        y = _states(system, problem.batch)
        factor = _eliminated(system, spec, problem.batch, y, recompute)
        y = factor.refined(factor._masked(y), problem.rows)
        factor.solved = LastSolve(problem, spec, None if recompute or system.dtype == _DOUBLE else y)
        return _rounded(y, system.dtype), factor

    def solve_determined(self, problem: Problem) -> np.ndarray:
        """The solution of a system that is known to have one, whose pivots need not be judged."""
        problem.system.check_values()
        return _rounded(_solution(_spec_of(problem), problem), problem.system.dtype)

    def normal_solve(self, system: System, g: Array) -> np.ndarray:
        """M^-1 g of a system that nothing else is asked of, in one sweep and back."""
        factor = CpuFactor(system)
        x, small_pivot = factor._normal_solve(g)
        if small_pivot:
            factor.undetermined = _undetermined(system)
        return _rounded(factor._masked(x), system.dtype)

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
        """The gradients from dL/dy = g, where no factor was kept."""
        del eliminated, recompute
        return CpuFactor(problem.system).adjoint(problem, y, g, wanted)


def _eliminated(system: System, spec: Any, batch: Shape, y: np.ndarray | None, recompute: bool = False) -> CpuFactor:
    """The factor; the solution goes into y."""
    if 0 in batch:
        system.check_values()  # (kernels look at what they solve)
    kept, small_pivot, *extremes = _kernels.solve(spec, y, recompute)
    if extremes[0] == 0:
        raise ArgumentError(ZERO_STEP)
    undetermined = _undetermined(system) if small_pivot else None
    return CpuFactor(system, undetermined, kept, small_pivot, extremes=tuple(extremes))


def _solution(spec: Any, problem: Problem) -> np.ndarray:
    y = _states(problem.system, problem.batch)
    _kernels.solve(spec, y, True)
    return y


def _mask_gradients(problem: Problem, gradients: Gradients, undetermined: np.ndarray | None) -> None:
    """NaN for what batch members that have undetermined points contribute to."""
    if undetermined is None:
        return
    bad = np.broadcast_to(undetermined.any(axis=-1), problem.batch)
    for x, rank in zip(by_field(gradients), RANKS, strict=True):
        if x is not None:
            batch = x.shape[: max(x.ndim - rank, 0)]
            lead = tuple(range(bad.ndim - len(batch)))
            summed = tuple(i + len(lead) for i, length in enumerate(batch) if length == 1)
            x[np.squeeze(bad.any(axis=lead + summed, keepdims=True), axis=lead)] = np.nan


def _undetermined(system: System) -> np.ndarray | None:
    """Which points are undetermined, (*system.batch, T), None if none are: by Monte Carlo arithmetic.

    Asked where some pivot is small beside its column, as those of singular systems are, and those of systems whose rows
    are of very different size (kernels/pivots.hpp).
    """
    flags = np.zeros((*system.batch, system.n_steps), dtype=np.bool_)
    if not _kernels.find_undetermined(_spec(system, system.batch), flags):
        return None
    flags &= system.is_finite[..., None]  # a pivot of an infinite system is not finite, which says nothing
    return flags
