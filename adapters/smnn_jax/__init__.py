"""smnn on JAX arrays: differentiable to any order, under every transform, sharded too."""

import jax as _jax

from smnn_core import HERMITE, TAYLOR, WIENER, Scheme, SingularSystemError, Weights, conditions

from . import _ffi
from ._solve import error_estimate, solve_ode

_ffi.register()
_jax.tree_util.register_dataclass(Weights, data_fields=["equation", "initial", "smoothness"], meta_fields=[])

__all__ = [
    "HERMITE",
    "TAYLOR",
    "WIENER",
    "Scheme",
    "SingularSystemError",
    "Weights",
    "conditions",
    "error_estimate",
    "solve_ode",
]
