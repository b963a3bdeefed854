"""PEtab problems: models in SBML with tables of data, fitted by `smnn_torch.fit`.

problem = smnn_petab.load("problem.yaml")
problem.objective()      # at the nominal parameters
"""

from __future__ import annotations

from ._errors import UnsupportedError
from ._problem import Problem, load
from ._result import Fit, Starts

__all__ = ["Fit", "Problem", "Starts", "UnsupportedError", "load"]
