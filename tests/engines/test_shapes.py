"""Problems of any shape: each call returns or raises an error of the library, and writes nowhere else.

`make sanitize` runs the same with the address sanitizer, for minutes.
"""

from __future__ import annotations

import numpy as np
import pytest
from _shapes import CANARY, check_canaries, core_calls, exercise, guarded, shaped, torch_calls

import smnn_core as smnn
from smnn_core.engines import cpu

pytestmark = pytest.mark.skipif(cpu._kernels is None, reason="the kernels are not compiled here")


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("seed", range(5))
def test_functions_of_the_core(dtype: str, seed: int) -> None:
    for k in range(3):
        problem = shaped(np.random.default_rng([seed, k]), dtype=dtype)
        exercise(problem, core_calls(problem))


@pytest.mark.parametrize("seed", range(5))
def test_first_and_second_derivatives(seed: int) -> None:
    pytest.importorskip("torch")
    for k in range(3):
        problem = shaped(np.random.default_rng([seed, 100 + k]))
        exercise(problem, torch_calls(problem))


@pytest.mark.parametrize(("V", "Q", "T"), [(2, 1, 5), (2, 1, 3), (3, 1, 8), (1, 1, 5)])
@pytest.mark.parametrize("engine", ["cpu", "array_api"])
def test_fewer_rows_than_unknowns(V: int, Q: int, T: int, engine: str) -> None:
    """One row of the scheme for two orders, and too few equations: after some points no rows are left."""
    scheme = smnn.Scheme.from_matrices([[-1.0, -0.5]], [[1.0, -0.5]])
    c = np.random.default_rng(0).standard_normal((T, Q, V, 2))
    with pytest.raises(smnn.SingularSystemError):
        smnn.solve_ode(c, np.zeros((T, Q)), np.zeros((0, V, 0)), 0.1, n_steps=T, scheme=scheme, engine=engine)


def test_canaries_are_seen() -> None:
    x = guarded(np.zeros((2, 3)))
    check_canaries(x)
    x.base[0] = CANARY / 2
    with pytest.raises(AssertionError, match="outside of an array of shape"):
        check_canaries(x)
