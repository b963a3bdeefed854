"""Whatever a public function is given, it returns, or raises an error of the library that names the argument.

The cases come from a table: functions with good arguments, and for each kind of argument a list of wrong values. A
function joins by an entry in `FUNCTIONS`, an argument by its kind in `KIND_OF`.
"""

from __future__ import annotations

import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from _shapes import ERRORS

import smnn_core as smnn

T, V, K, Q = 6, 2, 3, 2
ROOT = Path(smnn.__file__).parents[1]
NAN = float("nan")


class Callee(NamedTuple):
    """A public function and arguments that it takes."""

    function: Callable[..., Any]
    good: dict[str, Any]


def _problem() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    c = 0.3 * rng.uniform(-1, 1, (T, Q, V, K))
    c[:, range(V), range(V), K - 1] += 1.5
    return {
        "coefficients": c,
        "rhs": rng.uniform(-1, 1, (T, Q)),
        "initial_values": np.ones((1, V, K - 1)),
        "step_sizes": np.full(T - 1, 0.1),
        "n_steps": T,
        "scheme": smnn.HERMITE,
        "weights": smnn.Weights(),
    }


PROBLEM = _problem()
SOLVE = PROBLEM | {"engine": "auto", "check": False}
LHS = {k: v for k, v in SOLVE.items() if k not in ("rhs", "initial_values")}


def _vjp(g: Any) -> Any:
    return smnn.solve_ode_vjp(**SOLVE)[1](g)


def _factorization() -> smnn.Factorization:
    return smnn.factorize(**LHS, n_initial_steps=1, n_initial_orders=K - 1)


def _decay(t: Any, y: Any) -> Any:
    """y' = -y."""
    return y[..., 1] + y[..., 0], np.broadcast_to([[[1.0, 1.0]]], (*t.shape, 1, 1, 2))


SERIES = np.stack([np.sin(0.1 * np.arange(60)), np.cos(0.1 * np.arange(60))], -1)
FUNCTIONS = {
    "solve_ode": Callee(smnn.solve_ode, SOLVE),
    "solve_ode_vjp": Callee(smnn.solve_ode_vjp, SOLVE),
    "vjp": Callee(_vjp, {"g": np.ones((T, V, K))}),
    "factorize": Callee(smnn.factorize, LHS | {"n_initial_steps": 1, "n_initial_orders": K - 1}),
    "Factorization.solve": Callee(
        lambda **x: _factorization().solve(**x), {k: PROBLEM[k] for k in ("rhs", "initial_values")}
    ),
    "Factorization.normal_solve": Callee(lambda **x: _factorization().normal_solve(**x), {"g": np.ones((T, V, K))}),
    "posterior": Callee(smnn.posterior, SOLVE | {"scheme": smnn.WIENER}),
    "Posterior.sample": Callee(
        lambda **x: smnn.posterior(**SOLVE).sample(**x), {"size": 2, "rng": np.random.default_rng(0)}
    ),
    "log_evidence": Callee(
        smnn.log_evidence, SOLVE | {"observed": False, "observed_equations": np.arange(T)[:, None] == 3}
    ),
    "error_estimate": Callee(smnn.error_estimate, SOLVE),
    "residuals": Callee(
        smnn.residuals, {"y": np.ones((T, V, K))} | {k: v for k, v in PROBLEM.items() if k != "weights"}
    ),
    "dense_system": Callee(smnn.dense_system, PROBLEM),
    "conditions": Callee(
        smnn.conditions,
        {"n_steps": T, "values": {0: 1.0, -1: 0.0}, "n_variables": 1, "n_orders": 1, "like": np.ones(1)},
    ),
    "solve": Callee(
        smnn.solve,
        {
            "residual": _decay,
            "times": [0, 1],
            "conditions": {0: [[1.0]]},
            "tolerance": 1e-6,
            "absolute": 0.0,
            "order": 1,
            "guess": None,
            "mesh": None,
            "points": None,
            "max_intervals": 100,
            "engine": "auto",
        },
    ),
    "wiener_weight": Callee(smnn.wiener_weight, {"diffusion": 1.0, "step_sizes": 0.1, "order": 2}),
    "Scheme.from_matrices": Callee(
        smnn.Scheme.from_matrices, dict(zip("FG", smnn.HERMITE.matrices(3), strict=True)) | {"exponent": 0.0}
    ),
    "functions": Callee(smnn.functions, {"terms": {"x": (lambda z: z[..., 0], lambda z: 0 * z + 1)}}),
    "discover": Callee(smnn.discover, {"data": SERIES, "step_sizes": 0.1, "noise": 0.01}),
}

ARRAYS = [
    None, "text", object(), [1.0], {}, 1j, np.float64(1.0), np.array("text"), np.array([None, 1.0]), np.ones((0,)),
    np.ones(()), np.ones(3), np.ones((7, 7, 7, 7)), np.ones((5, 0, 0, 0)), np.ones((T, Q, V, K), complex),
    np.ones((T, Q, V, K), int), np.ones((T, Q, V, K), np.float16), np.ones((T, Q, V, K), "float32"),
    np.ones((T, Q, V, K), ">f8"), np.ma.ones((T, Q)), np.ones((T, Q), bool), np.zeros((2**12, 1, 1, 1)),
]  # fmt: skip
INTEGERS = ["6", 2.5, -1, True, [], np.array([6]), np.array(6.0), 10**30, -(10**30), NAN]
MASKS = [None, "text", 1.0, np.ones(3, bool), np.ones((T, Q)), [True], np.ones((9, 9), bool)]
KINDS: dict[str, list[Any]] = {
    "array": ARRAYS,
    "steps": [*ARRAYS, 0.0, 0, True, np.zeros(T - 1), np.arange(float(T))],
    "integer": [None, *INTEGERS],
    "integer or None": INTEGERS,
    "scheme": [None, "hermite", 1, smnn.HERMITE.matrices(3), smnn.Scheme.from_matrices(*smnn.HERMITE.matrices(2))],
    "weights": [
        None, 1.0, {}, "text",
        *(smnn.Weights(**{k: w}) for k in ("equation", "initial", "smoothness")
          for w in (None, "text", 1j, [1.0], np.ones((9, 9)), np.ones(3, int), np.ones(3, "float32"), np.ones(0))),
    ],
    "engine": [None, 3, "gpu", b"cpu"],
    "flag": [],
    "function": [None, 1.0, "text", [], lambda t, y: None, lambda t, y: "text", lambda t, y: y],
    "times": [None, "text", [], [0], [1, 0], [0, 0], [0, NAN], [0, 1j], object(), {}, np.ones((2, 2)), [0,
                 float("inf")]],
    "tolerance": [None, "text", [], 0.0, -1.0, NAN, 1j, np.ones(2), True],
    "at times": [None, 3, [], "text", {"a": 1.0}, {0: "text"}, {7: [[1.0]]}, {0: None}, {0: np.ones((2, 3))}, {0: {}},
                 {0: 1j}, {NAN: 1.0}, {}],
    "guess": ["text", 1j, {}, np.ones(3), np.ones((2, 2, 2)), lambda t: None],
    "mesh": ["text", [], [0], [1, 0], [0, NAN], np.ones((2, 2)), {}, 1j],
    "mask": MASKS,
    "mapping": [None, 3, [], "text", {"a": 1.0}, {0: "text"}, {0.5: 1.0}, {99: 1.0}, {0: None}, {(0, 0): 1.0},
                {0: np.ones((3, 1, 1)), 1: np.ones((2, 1, 1))}, {0: np.ones((2, 2))}, {(0, "a"): 1.0}, {0: {}},
                {0: 1j}],
    "like": [1.0, "text", np.ones(1, int), np.ones(1, complex), [1.0], object()],
    "generator": [3, "text", np.random.RandomState(0)],
    "number": [None, "text", [], 1j, -1.0, 0.0, NAN, float("inf"), 1e300, {}, np.ones(3, int)],
    "matrix": [None, "text", [], [[]], [[1.0]], [["a"]], np.ones((2, 2, 2)), np.full((3, 3), NAN), 1.0, [[1, 2], [3]],
               {}],
    "exponent": [None, "text", [], np.ones(2), np.array(1.5), NAN, 1j],
    "terms": [None, {}, [], {"x": 1}, {"x": (1, 2)}, "text"],
}  # fmt: skip
KIND_OF = {
    "residual": "function", "times": "times", "conditions": "at times", "tolerance": "tolerance",
    "absolute": "tolerance", "guess": "guess", "mesh": "mesh", "points": "integer or None", "max_intervals": "integer",
    "coefficients": "array", "rhs": "array", "initial_values": "array", "step_sizes": "steps", "g": "array",
    "y": "array",
    "data": "array", "n_steps": "integer or None", "n_initial_steps": "integer", "n_initial_orders": "integer",
    "scheme": "scheme", "weights": "weights", "engine": "engine", "check": "flag", "observed": "mask",
    "observed_equations": "mask", "size": "integer", "rng": "generator", "values": "mapping", "n_variables": "integer",
    "n_orders": "integer", "like": "like", "diffusion": "number", "noise": "number", "order": "integer", "F": "matrix",
    "G": "matrix", "exponent": "exponent", "terms": "terms",
}  # fmt: skip


def of_adapter(library: str, value: Any) -> Any:
    """An argument with its arrays, those of weights too, as arrays of a library, where it has such."""
    if isinstance(value, smnn.Weights):
        return smnn.Weights(**{k: of_adapter(library, w) for k, w in vars(value).items()})
    if type(value) is not np.ndarray or value.dtype.kind not in "fcbi" or not value.dtype.isnative:
        return value
    if library == "torch":
        import torch

        return torch.from_numpy(value)
    import jax

    return jax.numpy.asarray(value)


ADAPTED = {
    "torch": ["solve_ode", "error_estimate", "posterior", "log_evidence", "factorize"],
    "jax": ["solve_ode", "posterior"],
}


def cases() -> list[Any]:
    return [
        pytest.param(name, argument, id=f"{name}-{argument}")
        for name, callee in FUNCTIONS.items()
        for argument in callee.good
    ]


def cases_of_adapters() -> list[Any]:
    return [
        pytest.param(library, name, argument, id=f"{library}-{name}-{argument}")
        for library, names in ADAPTED.items()
        for name in names
        for argument in FUNCTIONS[name].good
    ]


def complaint(error: BaseException, argument: str) -> str | None:
    """Faults of an error that a wrong argument has led to."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    if not isinstance(error, (*ERRORS, smnn.EngineError, TypeError)):
        return f"a {type(error).__name__} of no kind of the library"
    if not Path(frame.filename).is_relative_to(ROOT) or "raise" not in (frame.line or ""):
        return f"raised by {frame.filename}:{frame.lineno}, {frame.line}"
    if isinstance(error, smnn.SingularSystemError):
        return None
    words = {argument, argument.removeprefix("n_initial_")}
    return None if any(word in str(error) for word in words) else f"which does not name {argument}"


def complaints(function: Callable[..., Any], good: dict[str, Any], argument: str, values: list[Any]) -> list[str]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        function(**good)
        wrong = []
        for value in values:
            try:
                function(**good | {argument: value})
            except Exception as error:
                if problem := complaint(error, argument):
                    wrong.append(f"{argument}={_short(value)}: {type(error).__name__}: {error}\n    {problem}")
    return wrong


@pytest.mark.parametrize(("name", "argument"), cases())
def test_wrong_arguments_are_named(name: str, argument: str) -> None:
    function, good = FUNCTIONS[name]
    wrong = complaints(function, good, argument, KINDS[KIND_OF[argument]])
    assert not wrong, "\n".join([f"{name}:", *wrong])


@pytest.mark.parametrize(("library", "name", "argument"), cases_of_adapters())
def test_wrong_arguments_of_adapters_are_named(library: str, name: str, argument: str) -> None:
    """Arrays of NumPy are wrong here, and so are those of the library of the wrong dtype or shape."""
    adapter = pytest.importorskip(f"smnn_{library}")
    good = {k: of_adapter(library, v) for k, v in FUNCTIONS[name].good.items()}
    values = KINDS[KIND_OF[argument]]
    converted = [x for v in values if (x := of_adapter(library, v)) is not v]
    wrong = complaints(getattr(adapter, name), good, argument, [*values, *converted])
    assert not wrong, "\n".join([f"{adapter.__name__}.{name}:", *wrong])


def _short(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"array {value.shape} {value.dtype}"
    return repr(value)[:80]
