"""smnn on JAX arrays: differentiable to any order, under every transform, sharded too."""

import jax as _jax

from smnn_core import HERMITE, TAYLOR, WIENER, Scheme, SingularSystemError, Weights, conditions, wiener_weight

from . import _ffi
from ._fit import fit
from ._posterior import Posterior, log_evidence, posterior
from ._solve import error_estimate, solve_ode
from ._trajectory import Solution, solve

_ffi.register()
_jax.tree_util.register_dataclass(Weights, data_fields=["equation", "initial", "smoothness"], meta_fields=[])

__all__ = [
    "HERMITE",
    "TAYLOR",
    "WIENER",
    "Posterior",
    "Scheme",
    "SingularSystemError",
    "Solution",
    "Weights",
    "conditions",
    "error_estimate",
    "fit",
    "log_evidence",
    "posterior",
    "solve",
    "solve_ode",
    "wiener_weight",
]
