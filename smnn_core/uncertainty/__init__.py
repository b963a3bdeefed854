"""The rows as a Gauss-Markov model: the posterior of the solution and the evidence of the data."""

from ._evidence import log_evidence
from ._posterior import Posterior, posterior, wiener_weight

__all__ = ["Posterior", "log_evidence", "posterior", "wiener_weight"]
