"""The KdV experiment: its data against exact solutions and conserved quantities, its model, its training."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs torch")
pytest.importorskip("matplotlib", reason="needs the extra `examples`")
pytest.importorskip("scipy", reason="needs the extra `examples`")

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "examples"))

import _kdv_data as data  # noqa: E402

LENGTH, N_SPACE = 64.0, 256
X = LENGTH * (np.arange(N_SPACE) / N_SPACE - 0.5)
TIMES = 0.5 * np.arange(25)
SOLITONS = {"one": ([1.2], [-10.0]), "two, one overtakes the other": ([1.3, 0.8], [-14.0, -4.0])}


@pytest.fixture(scope="module")
def fields() -> data.Fields:
    return data.random_fields(4, seed=0)


@pytest.mark.parametrize(("k", "position"), list(SOLITONS.values()), ids=SOLITONS)
def test_solitons_are_reproduced(k: list[float], position: list[float]) -> None:
    exact = data.solitons(X, TIMES, k, position)
    found = data.simulate(exact[:1], LENGTH, 0.5, len(TIMES), n_substeps=32)[0]
    np.testing.assert_allclose(found, exact, atol=2e-5)


def test_the_integrator_is_of_fourth_order() -> None:
    exact = data.solitons(X, TIMES, *SOLITONS["one"])
    coarse, fine = (
        abs(data.simulate(exact[:1], LENGTH, 0.5, len(TIMES), n_substeps=n)[0, -1] - exact[-1]).max() for n in (16, 32)
    )
    assert 13 < coarse / fine < 32


def test_exact_solitons_solve_the_equation() -> None:
    """At the crossing of two, with derivatives by differences of fourth order: the sign convention, term by term."""
    h = 0.02
    x, t = h * np.arange(-200, 201), h * np.arange(-2, 3)
    u = data.solitons(x, t, [1.3, 0.8], [0.0, 0.0])
    u_t = (u[0] - 8 * u[1] + 8 * u[3] - u[4])[3:-3] / (12 * h)
    v = u[2]
    u_x = (v[1:-5] - 8 * v[2:-4] + 8 * v[4:-2] - v[5:-1]) / (12 * h)
    u_xxx = (v[:-6] - 8 * v[1:-5] + 13 * v[2:-4] - 13 * v[4:-2] + 8 * v[5:-1] - v[6:]) / (8 * h**3)
    assert abs(6 * v[3:-3] * u_x).max() > 0.5
    np.testing.assert_allclose(u_t + u_xxx - 6 * v[3:-3] * u_x, 0, atol=1e-4)


@pytest.mark.parametrize("which", range(3), ids=["mass", "momentum", "energy"])
def test_conserved(fields: data.Fields, which: int) -> None:
    found = data.invariants(fields.u, fields.length[:, None])[..., which]
    scale = fields.length * (abs(fields.u) ** (1, 2, 3)[which]).mean((1, 2))
    assert (np.ptp(found, axis=1) < 5e-5 * scale).all()


def test_fields_are_those_of_the_published_set(fields: data.Fields) -> None:
    assert fields.u.shape == (4, 140, 256)
    assert (abs(fields.length / 128 - 1) <= 0.1).all()
    assert (abs(fields.spacing * 249 / 50 - 1) <= 0.1).all()
    assert not np.array_equal(fields.u, data.random_fields(4, seed=1).u)


def test_a_batch_is_its_members(fields: data.Fields) -> None:
    alone = data.simulate(fields.u[1:2, 0], fields.length[1], fields.spacing[1], 5)
    batch = data.simulate(fields.u[:, 0], fields.length, fields.spacing, 5)
    np.testing.assert_allclose(batch[1], alone[0], atol=1e-14)
