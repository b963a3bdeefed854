"""Names of the core for adapters, beside its public ones.

An adapter offers the solver to a framework with automatic differentiation: its arrays, its derivatives, its compiler.
`smnn_torch` and `smnn_jax` are written with the names of `smnn_core` and of this module alone. They change more often
than public names do; the changelog says so when they do.

**The problem as data** (`smnn_core._problem` has the shapes)

- `System`, `Problem`: a left-hand side, and one with its right-hand side, checked and not broadcast; made by `build`.
- `Rows`: one value for each row; `NO_ROWS`: zero for each.
- `UNIT`: the weights that are all 1.
- `FIELDS`: the inputs of a problem by name, in order: their axes, and what they belong to; `RANKS`, `LHS_RANKS`: how
  many axes. `lhs_of`, `inputs_of`: of one value for each, those of the left-hand side, and back.
- `check_states`, `check_weights`, `check_integer`: raise for what does not fit.
- `as_arrays`, `across_steps`, `without_missing`: step sizes and weights as callers give them, as those of `Problem`.

**Solving** (`docs/adding-an-engine.md` has the contract of engines)

- `ENGINES`, `Engine`, `ArrayEngine`, `Factor`, `select`: the engines; that for all arrays; that of a name, or the
  first that serves.
- `solve_with`, `eliminate`: solution and factor, or the factor, after the checks that look at values.
  `solve_unjudged`: without these, NaN where a system is singular; `raise_if_singular`: the last of them.
- `error_estimate_with`: `error_estimate` by another `solve_ode`.

**Derivatives** (`docs/theory/derivative.md`)

- `adjoint_without_factor`: all gradients of a solution, or those wanted (`ALL`, `NONE`); a
  factor that was kept has them, too.
- `Factor.augmented`: the one solve; `pushforward`, `pullback`: its derivatives in either mode, in terms of itself.
- `solution_pushforward`, `solution_pullback`: those of a solution, in terms of it.
- `by_field`, `from_fields`: gradients, or which are wanted, in the order of `FIELDS`.
- `apply`, `apply_transpose`, `weighted`, `without_weights`, `rows_left`: A y, A^T r, W r, W^-1 r and f - W A y.

**Posterior and evidence** (`docs/theory/posterior.md`)

- `evidence_with`, `Statistics`, `statistics_of`, `pulled_back`: the parts that `log_evidence` and `Posterior` consist
  of.
- `SECOND_ORDER`: why derivatives end there.

**Solving to a tolerance** (`docs/theory/collocation.md`)

- `ArrayEquations`, `Conditions`: a residual, and what is given, as users write them; adapters derive from them.
  `takes_constants`: whether conditions are a function of constants, too.
- `search`: the solution as found, without derivatives; `refined`: on more intervals; `solution_of`: as a function of
  time. `warn_unless_converged`: what is said.
- `Groups`: equations whose derivatives are found together, since no two depend on one number.
- `differentiable`, `DifferentiableSolution`: the same with derivatives, by steps from what was found.
- `solve_on_mesh`, `differentiable_on_mesh`, `checked_times`: both without looking at values, on a mesh that is given.
  `Arithmetic`, with linear problems of the scheme `INCREMENTS`: what a framework that traces does otherwise; `TREES`:
  the classes that hold its arrays.

**Fits** (`docs/theory/fitting.md`)

- `has_parameters`: whether callbacks of `fit` get parameters.

**Arrays of any library**

- `Shape`, `broadcast_shapes`, `sum_to_shape`: broadcasting, and its adjoint. `add`: a sum in which None is zero.
- `can_look`, `is_tracer`, `device_of`, `owned`: what is known of an array, and a copy of it.
- `on_stream`: CuPy works on a stream of the framework, in memory of its allocator.
- `itemsize_of_results`: of what is allocated now, where that is what a call returns, as a rule; else 0.

**Elimination by hand, for what is divided over devices** (modules, described by themselves)

- `increments`, `odd_even`, `pivots`: the rows by increments, one level of elimination, the judgement of pivots.
- `factor_of_rows`, `Columns`: the factor of rows that are not those of a scheme, and right-hand sides as it takes them.
  `refined_states`: its solutions, refined; `SETTLING`: a last correction above this is that of a singular system.
"""

from ._arrays import Shape, add, broadcast_shapes, can_look, device_of, is_tracer, owned, sum_to_shape
from ._augmented import pullback, pushforward, solution_pullback, solution_pushforward
from ._constraints import apply, apply_transpose, weighted, without_weights
from ._cupy import itemsize_of_results, on_stream
from ._error_estimate import error_estimate_with
from ._fields import FIELDS, LHS_RANKS, RANKS, inputs_of, lhs_of
from ._problem import ALL, NO_ROWS, NONE, UNIT, Problem, Rows, System, by_field, check_weights, from_fields
from ._solve import adjoint_without_factor, check_states, eliminate, raise_if_singular, solve_unjudged, solve_with
from ._validate import check_integer
from ._weighting import across_steps, as_arrays, without_missing
from .engines import ENGINES, select
from .engines import _increments as increments
from .engines import _odd_even as odd_even
from .engines import _pivots as pivots
from .engines._columns import Columns
from .engines._interface import Engine, Factor
from .engines._refinement import SETTLING, refined_states, rows_left
from .engines._statistics import Statistics, pulled_back
from .engines.array_api import ArrayEngine, factor_of_rows
from .fitting._parameters import has_parameters
from .trajectory._arithmetic import INCREMENTS, Arithmetic
from .trajectory._differentiable import DifferentiableSolution, differentiable, differentiable_on_mesh
from .trajectory._equations import ArrayEquations, Conditions, takes_constants
from .trajectory._on_mesh import TREES, solve_on_mesh
from .trajectory._search import checked_times, refined, search
from .trajectory._solution import solution_of
from .trajectory._solve import warn_unless_converged
from .trajectory._sparse import Groups
from .uncertainty._evidence import SECOND_ORDER, evidence_with, statistics_of

__all__ = [
    "ALL",
    "ENGINES",
    "FIELDS",
    "INCREMENTS",
    "LHS_RANKS",
    "NONE",
    "NO_ROWS",
    "RANKS",
    "SECOND_ORDER",
    "SETTLING",
    "TREES",
    "UNIT",
    "Arithmetic",
    "ArrayEngine",
    "ArrayEquations",
    "Columns",
    "Conditions",
    "DifferentiableSolution",
    "Groups",
    "Engine",
    "Factor",
    "Problem",
    "Rows",
    "Shape",
    "Statistics",
    "System",
    "across_steps",
    "add",
    "adjoint_without_factor",
    "apply",
    "apply_transpose",
    "as_arrays",
    "broadcast_shapes",
    "by_field",
    "can_look",
    "check_integer",
    "check_states",
    "check_weights",
    "checked_times",
    "device_of",
    "differentiable",
    "differentiable_on_mesh",
    "eliminate",
    "error_estimate_with",
    "evidence_with",
    "factor_of_rows",
    "from_fields",
    "has_parameters",
    "increments",
    "inputs_of",
    "is_tracer",
    "itemsize_of_results",
    "lhs_of",
    "odd_even",
    "on_stream",
    "owned",
    "pivots",
    "pullback",
    "pulled_back",
    "pushforward",
    "raise_if_singular",
    "refined",
    "refined_states",
    "rows_left",
    "search",
    "select",
    "solution_of",
    "solution_pullback",
    "solution_pushforward",
    "solve_on_mesh",
    "solve_unjudged",
    "solve_with",
    "statistics_of",
    "sum_to_shape",
    "takes_constants",
    "warn_unless_converged",
    "weighted",
    "without_missing",
    "without_weights",
]
