"""Shapes that were checked before are not checked again: the results are those of the first call."""

from __future__ import annotations

import sys
import threading

import numpy as np
import pytest

import smnn_core as smnn
from smnn_core import _problem

T = 6


@pytest.fixture(autouse=True)
def forget() -> None:
    _problem._known.clear()


def arrays(dtype: str = "float64") -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(0)
    c = rng.normal(size=(T, 1, 1, 3)) + np.array([0, 0, 2.0])
    return tuple(x.astype(dtype) for x in (c, rng.normal(size=(T, 1)), rng.normal(size=(1, 1, 2)), np.full(T - 1, 0.1)))


def test_what_looks_different_is_not_confused() -> None:
    """Numbers and arrays of the same values in different places, dtypes and schemes, each twice and in any order."""
    w = np.array(2.0)
    cases = [
        (dtype, scheme, weights)
        for dtype in ("float64", "float32")
        for scheme in (smnn.TAYLOR, smnn.HERMITE)
        for weights in [
            (1.0, 1.0, 1.0),
            (2.0, 1.0, 1.0),
            (w, 1.0, 1.0),
            (1.0, w, 1.0),
            (1.0, 2.0, 1.0),
            (1.0, 1.0, w),
            (w, w, 1.0),
        ]
    ]

    def solve(case: tuple) -> np.ndarray:
        dtype, scheme, weights = case
        given = (x.astype(dtype) if isinstance(x, np.ndarray) else x for x in weights)
        return smnn.solve_ode(*arrays(dtype), scheme=scheme, weights=smnn.Weights(*given))

    expected = []
    for case in cases:
        _problem._known.clear()
        expected.append(solve(case))
    for order in (range(len(cases)), reversed(range(len(cases)))):
        for i in order:
            np.testing.assert_array_equal(solve(cases[i]), expected[i])
    assert len(_problem._known) == len(cases)


def test_bad_input_that_looks_like_good_input() -> None:
    c, b, u, s = arrays()
    smnn.solve_ode(c, b, u, s, n_steps=T)
    with pytest.raises(TypeError, match="n_steps must be an integer"):
        smnn.solve_ode(c, b, u, s, n_steps=float(T))
    with pytest.raises(smnn.DTypeError, match="native byte order"):
        smnn.solve_ode(*(x.astype(">f8") for x in (c, b, u, s)))
    with pytest.raises(smnn.DTypeError, match="rhs has dtype float32"):
        smnn.solve_ode(c, b.astype("float32"), u, s)
    with pytest.raises(smnn.NamespaceError, match="rhs must be an array, got list"):
        smnn.solve_ode(c, b.tolist(), u, s)


def test_arrays_are_not_kept() -> None:
    smnn.solve_ode(*arrays(), weights=smnn.Weights(np.ones((T, 1))))
    (known,) = _problem._known.values()
    system = known.system
    assert known.rhs is known.initial_values is system.coefficients is system.step_sizes is None
    assert system.weights.equation is None


def test_threads_with_more_problems_than_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_problem, "MOST_KNOWN", 2)
    inputs, errors, stop = arrays(), [], threading.Event()
    expected = smnn.solve_ode(*inputs)

    def run(vary: bool) -> None:
        i = 0
        try:
            while not stop.is_set():
                i += 1
                weights = smnn.Weights(1.0 + i * vary * 1e-9)
                y = smnn.solve_ode(*inputs, weights=weights)
                assert vary or (y == expected).all()
        except Exception as error:
            errors.append(error)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=run, args=(vary,)) for vary in (True, True, False, False)]
        for thread in threads:
            thread.start()
        stop.wait(1.0)
        stop.set()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert not errors, errors
