"""Equations from data: which terms of a library of candidates they consist of, and with what coefficients."""

from ._discover import discover
from ._libraries import Library, fourier, functions, polynomials
from ._result import Discovery

__all__ = ["Discovery", "Library", "discover", "fourier", "functions", "polynomials"]
