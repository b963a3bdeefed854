"""smnn on JAX arrays: differentiable to any order, under every transform, sharded too."""

import dataclasses as _dataclasses

import jax as _jax

from smnn_core import HERMITE, TAYLOR, WIENER, Fit, Scheme, SingularSystemError, Weights, conditions, wiener_weight

from . import _ffi
from ._fit import fit
from ._fitting import fit_ode
from ._posterior import Posterior, log_evidence, posterior
from ._solve import error_estimate, solve_ode
from ._trajectory import Solution, solve

_ffi.register()
_jax.tree_util.register_dataclass(Weights, data_fields=["equation", "initial", "smoothness"], meta_fields=[])
_jax.tree_util.register_dataclass(Fit, data_fields=[f.name for f in _dataclasses.fields(Fit)], meta_fields=[])

__all__ = [
    "HERMITE",
    "TAYLOR",
    "WIENER",
    "Fit",
    "Posterior",
    "Scheme",
    "SingularSystemError",
    "Solution",
    "Weights",
    "conditions",
    "error_estimate",
    "fit",
    "fit_ode",
    "log_evidence",
    "posterior",
    "solve",
    "solve_ode",
    "wiener_weight",
]
