"""residuals, dense_system and show_config."""

from __future__ import annotations

import shutil
import warnings
from dataclasses import replace

import numpy as np
import pytest
from _assert import eps
from _backends import load
from _strategies import ProblemData, problems
from hypothesis import given, settings

import smnn_core as smnn


@settings(max_examples=20)
@given(problems(max_steps=6))
def test_residuals_are_the_rows_of_the_dense_system(data: ProblemData) -> None:
    options = data.options() | {"weights": smnn.Weights(), "scheme": replace(data.scheme, exponent=0.0)}
    A, d = smnn.dense_system(*data.arrays, **options)
    core = data.n_steps, *data.coefficients.shape[-2:]
    y = np.random.default_rng(0).uniform(-1, 1, (*d.shape[:-1], *core))
    expected = (A @ y.reshape(*d.shape[:-1], -1, 1))[..., 0] - d
    r = smnn.residuals(y, *data.arrays, n_steps=data.n_steps, scheme=data.scheme)
    found = np.concatenate(
        [
            np.broadcast_to(x, (*d.shape[:-1], *x.shape[-k:])).reshape(*d.shape[:-1], -1)
            for x, k in zip(r, (2, 3, 3), strict=True)
        ],
        axis=-1,
    )
    sizes = (np.abs(A) @ np.abs(y.reshape(*d.shape[:-1], -1, 1)))[..., 0] + np.abs(d)  # of the terms that are added
    assert (np.abs(found - expected) <= 1e2 * eps("float64") * sizes).all()


@settings(max_examples=20)
@given(problems(max_steps=6))
def test_the_solution_satisfies_the_normal_equations(data: ProblemData) -> None:
    A, d = smnn.dense_system(*data.arrays, **data.options())
    y = smnn.solve_ode(*data.arrays, **data.options()).reshape(*d.shape[:-1], -1)
    r = d - (A @ y[..., None])[..., 0]
    norm = np.linalg.norm(A, axis=(-2, -1))
    size = norm * (np.linalg.norm(d, axis=-1) + norm * np.linalg.norm(y, axis=-1))
    gradient = np.linalg.norm((np.swapaxes(A, -1, -2) @ r[..., None])[..., 0], axis=-1)
    assert np.all(gradient <= 100 * eps("float64") * size)


def test_dense_system_has_the_rows_in_the_documented_order() -> None:
    c, b = np.array([4.0, 0.0, 1.0]).reshape(1, 1, 1, 3), np.full((1, 1), 7.0)
    u, s = np.array([[[5.0, 6.0]]]), np.array([0.5])
    weights = smnn.Weights(equation=2.0, initial=3.0, smoothness=4.0)
    A, d = smnn.dense_system(c, b, u, s, n_steps=2, scheme=smnn.TAYLOR, weights=weights)
    F, G = smnn.TAYLOR.matrices(3)
    power = 0.5 ** np.arange(3)
    expected = np.zeros((2 + 2 + 6, 6))
    expected[0, :3] = expected[1, 3:] = 2 * c[0, 0, 0]
    expected[2, 0] = expected[3, 1] = 3.0
    expected[4:, :3], expected[4:, 3:] = 4 * F * power, 4 * G * power
    np.testing.assert_allclose(A, expected)
    np.testing.assert_allclose(d, [14, 14, 15, 18, 0, 0, 0, 0, 0, 0])


def test_residuals_check_the_shape_of_y() -> None:
    c, b, u, s = np.ones((4, 1, 1, 2)), np.ones((4, 1)), np.ones((1, 1, 1)), np.ones(3)
    with pytest.raises(smnn.ShapeError, match=r"y must have shape \(\.\.\., 4, 1, 2\); got \(4, 1, 3\)"):
        smnn.residuals(np.ones((4, 1, 3)), c, b, u, s)


def test_show_config(capsys: pytest.CaptureFixture[str]) -> None:
    config = smnn.show_config("dicts")
    assert config is not None
    assert "available" in config["engines"]["array_api"]
    assert config["libraries"]["numpy"] == np.__version__
    assert smnn.show_config() is None
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 78
    printed = " ".join(out.split())
    for section, entries in config.items():
        assert f"{section}:" in printed
        for name, value in entries.items():
            assert f"{name}: {value}" in printed


def test_the_compiled_engine_is_there_where_there_is_a_compiler() -> None:
    """A build that failed falls back to pure Python in silence: here it must not have."""
    if not (shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")):
        pytest.skip("no C++ compiler")
    config = smnn.show_config("dicts")
    assert config is not None
    assert config["engines"]["cpu"].startswith("available")
    c, b, u, s = np.ones((4, 1, 1, 2)), np.ones((4, 1)), np.ones((1, 1, 1)), np.ones(3)
    smnn.solve_ode(c, b, u, s, engine="cpu")


@pytest.mark.slow
def test_whole_solve_is_traceable_by_torch_compile() -> None:
    """The array API engine as one graph without breaks."""
    torch = pytest.importorskip("torch")
    backend = load("torch")
    rng = np.random.default_rng(0)
    arguments = [backend.asarray(rng.normal(size=shape)) for shape in [(2, 5, 1, 1, 3), (2, 5, 1), (2, 1, 1, 2)]]
    arguments.append(backend.asarray(rng.uniform(0.2, 0.5, (2, 4))))
    eager = smnn.solve_ode(*arguments, engine="array_api")
    solve = torch.compile(lambda *a: smnn.solve_ode(*a, engine="array_api"), backend="aot_eager", fullgraph=True)
    with warnings.catch_warnings():
        # array-api-compat caches its look-ups of classes with functools.lru_cache, which Dynamo mentions
        warnings.filterwarnings("ignore", message="Dynamo detected a call to a `functools.lru_cache`")
        torch.testing.assert_close(solve(*arguments), eager)
