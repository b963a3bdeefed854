"""Compiled collocation (`smnn_core/trajectory/_window.py`): values at the points, stages eliminated, states swept
forward or tied together by conditions, steps added. The kernels are in `_cpu/windows.hpp`; None stands in for them
where the engine could not be compiled."""

from __future__ import annotations

from typing import Any

from .cpu import _kernels

__all__ = ["advance", "at_times", "couple", "eliminate", "improve", "is_compiled", "keep", "predict", "solve", "values"]

is_compiled = _kernels is not None
values: Any = getattr(_kernels, "window_values", None)
eliminate: Any = getattr(_kernels, "window_eliminate", None)
advance: Any = getattr(_kernels, "window_advance", None)
couple: Any = getattr(_kernels, "window_couple", None)
solve: Any = getattr(_kernels, "window_solve", None)
improve: Any = getattr(_kernels, "window_improve", None)
keep: Any = getattr(_kernels, "window_keep", None)
at_times: Any = getattr(_kernels, "window_at_times", None)
predict: Any = getattr(_kernels, "window_predict", None)
