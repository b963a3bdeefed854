"""The public names, and what importing them brings along."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import smnn_core

NAMES = [
    "HERMITE",
    "TAYLOR",
    "WIENER",
    "AccuracyWarning",
    "ArgumentError",
    "ConvergenceWarning",
    "DTypeError",
    "DeviceError",
    "Discovery",
    "DiscoveryWarning",
    "MisfitWarning",
    "EngineError",
    "EngineWarning",
    "Factorization",
    "Fitted",
    "Gradients",
    "Library",
    "NamespaceError",
    "Network",
    "Parameter",
    "Posterior",
    "Residuals",
    "Scheme",
    "SchemeError",
    "ShapeError",
    "SingularSystemError",
    "Solution",
    "SparseJacobian",
    "Weights",
    "conditions",
    "dense_system",
    "discover",
    "error_estimate",
    "factorize",
    "fit",
    "fourier",
    "functions",
    "log_evidence",
    "polynomials",
    "posterior",
    "residuals",
    "show_config",
    "solve",
    "solve_ode",
    "solve_ode_vjp",
    "wiener_weight",
]


def test_names_are_exactly_these():
    assert sorted(smnn_core.__all__) == sorted(NAMES)


def test_no_other_public_name_leaks():
    modules = {
        "discovery",
        "engines",
        "extend",
        "fitting",
        "trajectory",
        "uncertainty",
    }
    public = {name for name in vars(smnn_core) if not name.startswith("_")}
    assert public - modules == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_every_name_has_a_docstring(name):
    value = getattr(smnn_core, name)
    assert isinstance(value, smnn_core.Scheme) or (value.__doc__ or "").strip()


def test_import_brings_no_framework():
    heavy = ("torch", "jax", "cupy", "scipy", "matplotlib")
    program = f"import sys, smnn_core; print([name for name in {heavy} if name in sys.modules])"
    path = str(Path(smnn_core.__file__).parents[1])
    run = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {path!r}); {program}"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.strip() == "[]"


def test_the_package_is_typed():
    assert Path(smnn_core.__file__).with_name("py.typed").exists()
