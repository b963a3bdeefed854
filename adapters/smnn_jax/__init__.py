"""smnn on JAX arrays: differentiable to any order, under every transform, sharded too."""

import jax as _jax

from smnn_core import HERMITE, TAYLOR, Scheme, SingularSystemError, Weights

from . import _ffi
from ._solve import solve_ode

_ffi.register()
_jax.tree_util.register_dataclass(Weights, data_fields=["equation", "initial", "smoothness"], meta_fields=[])

__all__ = ["HERMITE", "TAYLOR", "Scheme", "SingularSystemError", "Weights", "solve_ode"]
