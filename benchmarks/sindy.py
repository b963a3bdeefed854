"""pysindy, tuned, for comparison with `discover`: smoothed differences, the weak form, and ensembles of both.

Every variable is in units of its deviation and time in units in which the period is 2π. For every way to set up the
regression and every threshold there is a model; which counts is decided by cross-validation (`cross_validated`: of the
thresholds within one standard error of the best held-out error the largest) or by the truth, which no user could do.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from .systems import System

__all__ = ["Model", "cross_validated", "models"]

THRESHOLDS = np.geomspace(3e-3, 1.0, 10)
SMOOTHING = (5, 11, 31)
"""Window lengths of the Savitzky-Golay filter (cubic) before central differences; 11 is the default."""
HALF_WIDTHS = (12, 30)
"""Of the weak form's test domains, in steps."""
DOMAINS = 500
FOLDS = 4
NO_CONSTANT = 0.02
"""A constant term below this, in units of deviation and time, is not counted: pysindy returns such numbers for 0."""


@dataclass(frozen=True)
class Model:
    """Coefficients (terms, V) in the units of the system."""

    method: str
    threshold: float
    coefficients: np.ndarray
    held_out: float
    """mean squared error of the derivatives held out"""
    deviation: float
    """its standard error"""


def models(system: System, data: np.ndarray) -> Iterator[Model]:
    """One for each method and threshold."""
    unit = data.std(0)
    time = system.period / (2 * np.pi)
    exponents = system.exponents
    back = unit / np.prod(unit**exponents, axis=1)[:, None] / time
    constant = exponents.sum(1) == 0
    for method, theta, target in _regressions(system, data / unit, system.step / time):
        whole = _compressed(theta, target)
        folds = list(_folds(theta, target))
        for threshold in THRESHOLDS:
            errors = [np.mean((x @ _fit(*rest, threshold) - y) ** 2) for rest, x, y in folds]
            mean, deviation = float(np.mean(errors)), float(np.std(errors) / np.sqrt(FOLDS))
            found = {method: _fit(*whole, threshold)}
            if method.startswith("weak"):
                found[method + ", ensemble"] = _fit(theta, target, threshold, ensemble=True)
            for name, xi in found.items():
                xi[constant[:, None] & (np.abs(xi) < NO_CONSTANT)] = 0.0
                yield Model(name, float(threshold), xi * back, mean, deviation)


def cross_validated(all_models: list[Model]) -> dict[str, Model]:
    """For each method the model with the largest threshold within one standard error of the best."""
    chosen = {}
    for method in dict.fromkeys(m.method for m in all_models):
        mine = [m for m in all_models if m.method == method]
        best = min(mine, key=lambda m: m.held_out)
        chosen[method] = max(
            (m for m in mine if m.held_out <= best.held_out + best.deviation), key=lambda m: m.threshold
        )
    return chosen


def _regressions(system: System, z: np.ndarray, step: float) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Names, values of the terms, what they should sum to."""
    import pysindy as ps

    t = step * np.arange(len(z))
    for window in SMOOTHING:
        differentiate = ps.SmoothedFiniteDifference(smoother_kws={"window_length": window})
        slopes = np.asarray(differentiate(z, t))
        smooth = np.asarray(differentiate.smoothed_x_)
        yield f"differences, window {window}", _monomials(system, smooth), slopes
    for half in HALF_WIDTHS:
        np.random.seed(0)  # noqa: NPY002 (where pysindy puts its domains)
        weak = ps.WeakPDELibrary(
            function_library=ps.PolynomialLibrary(degree=system.degree, include_bias=True),
            spatiotemporal_grid=t,
            K=DOMAINS,
            H_xt=[half * step],
        )
        x = ps.AxesArray(z, {"ax_time": 0, "ax_coord": 1})
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            weak.fit([x])
            values = np.asarray(weak.transform([x])[0])
            target = np.asarray(weak.convert_u_dot_integral(x))
        names = weak.get_feature_names()
        columns = [names.index(name) for name in ps.PolynomialLibrary(system.degree).fit(z).get_feature_names()]
        yield f"weak, half-width {half}", values[:, columns], target


def _monomials(system: System, z: np.ndarray) -> np.ndarray:
    return np.prod(z[:, None, :] ** system.exponents, axis=-1)


def _fit(theta: np.ndarray, target: np.ndarray, threshold: float, ensemble: bool = False) -> np.ndarray:
    """(terms, V)."""
    import pysindy as ps
    import sklearn

    optimizer = ps.STLSQ(threshold=threshold, alpha=0.0)
    if ensemble:
        np.random.seed(0)  # noqa: NPY002 (pysindy draws from it)
        optimizer = ps.EnsembleOptimizer(optimizer, bagging=True, n_models=20)
    unchecked = sklearn.config_context(assume_finite=True, skip_parameter_validation=True)
    with warnings.catch_warnings(), unchecked:
        warnings.simplefilter("ignore")
        return np.array(optimizer.fit(theta, target).coef_).T


def _compressed(theta: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """As few rows as there are terms, with the same least-squares problems: thresholds are tried in no time."""
    Q, R = np.linalg.qr(theta)
    return R, Q.T @ target


def _folds(
    theta: np.ndarray, target: np.ndarray
) -> Iterator[tuple[tuple[np.ndarray, np.ndarray], np.ndarray, np.ndarray]]:
    """Contiguous rows held out: the others, compressed, and these."""
    edges = np.linspace(0, len(theta), FOLDS + 1).astype(int)
    for start, end in pairwise(edges):
        rest = np.r_[0:start, end : len(theta)]
        yield _compressed(theta[rest], target[rest]), theta[start:end], target[start:end]
