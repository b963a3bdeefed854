"""The KdV experiment: its data against exact solutions and conserved quantities, its model, its training."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs torch")
pytest.importorskip("matplotlib", reason="needs the extra `examples`")
pytest.importorskip("scipy", reason="needs the extra `examples`")

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "examples"))

import _kdv_data as data  # noqa: E402
import _kdv_model as models  # noqa: E402
import kdv  # noqa: E402

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


NETWORK = {"width": 6, "kernel": 5}


@pytest.fixture
def window() -> torch.Tensor:
    """(2, 10, 32)"""
    return torch.randn(2, models.WINDOW, 32, generator=torch.Generator().manual_seed(0))


def small(name: str, n_networks: int = 2, n_blocks: tuple[int, ...] = (1,), again: int = 0) -> torch.nn.Module:
    torch.manual_seed(1)
    if name == "mechanistic":
        return models.Mechanistic(0.5, n_networks, n_blocks=n_blocks, again=again, step_size=0.05, **NETWORK)
    return models.Convolutional(0.5, n_networks, n_blocks=sum(n_blocks), **NETWORK)


def silence(model: torch.nn.Module) -> None:
    for network in model.modules():
        if isinstance(network, models.ResNet):
            torch.nn.init.zeros_(network.last.weight)


@pytest.mark.parametrize("n_blocks", [(1,), (1, 1)])
@pytest.mark.parametrize("n_networks", [1, 2])
@pytest.mark.parametrize("name", ["mechanistic", "convolutional"])
def test_networks_that_say_nothing_give_persistence(
    name: str, n_networks: int, n_blocks: tuple[int, ...], window: torch.Tensor
) -> None:
    model = small(name, n_networks, n_blocks)
    silence(model)
    torch.testing.assert_close(model(window), models.Persistence()(window), rtol=0, atol=1e-5)


def test_increments_of_the_mechanistic_model_are_per_window(window: torch.Tensor) -> None:
    """A first derivative and a right-hand side of 1, all else 0: a straight line that rises by the scale."""
    model = small("mechanistic")
    silence(model)
    torch.nn.init.ones_(model.looks[0][1].last.bias[: models.WINDOW + 1])
    line = 0.5 * torch.linspace(0, 1, models.WINDOW)[:, None]
    torch.testing.assert_close(model(window), window[:, -1:] + line, rtol=0, atol=1e-5)


def test_a_second_look_adds_to_the_first(window: torch.Tensor) -> None:
    once, twice = small("mechanistic"), small("mechanistic", n_blocks=(1, 1))
    twice.looks[0].load_state_dict(once.looks[0].state_dict())
    for network in twice.looks[1]:
        torch.nn.init.zeros_(network.last.weight)
    torch.testing.assert_close(twice(window), once(window))


def test_networks_that_look_again_are_copies_of_themselves(window: torch.Tensor) -> None:
    again, copied = small("mechanistic", n_blocks=(1, 1), again=1), small("mechanistic", n_blocks=(1, 1, 1))
    for look, networks in enumerate(copied.looks):
        networks.load_state_dict(again.looks[min(look, 1)].state_dict())
    torch.testing.assert_close(again(window), copied(window))
    with pytest.raises(ValueError, match="again"):
        small("mechanistic", again=1)


@pytest.mark.parametrize("name", ["mechanistic", "convolutional"])
def test_predictors_commute_with_translations(name: str, window: torch.Tensor) -> None:
    model = small(name, n_blocks=(1, 1))
    torch.testing.assert_close(model(window.roll(5, -1)), model(window).roll(5, -1), rtol=0, atol=1e-5)


def test_every_parameter_of_the_mechanistic_model_learns(window: torch.Tensor) -> None:
    model = small("mechanistic", n_blocks=(1, 1))
    model(window).square().sum().backward()
    assert all(p.grad.abs().max() > 0 for p in model.parameters())


def test_roll_outs_feed_predictions_back(window: torch.Tensor) -> None:
    model = small("convolutional")
    found = models.roll_out(model, window, 2)
    first = model(window)
    torch.testing.assert_close(found, torch.cat([first[:, 1:], model(first)[:, 1:]], 1))


def test_relative_error_is_relative_to_the_prediction() -> None:
    found = models.relative_error(torch.tensor([[2.0, 2.0]]), torch.tensor([[2.0, 1.0]]))
    torch.testing.assert_close(found, torch.tensor([1 / 8]))


def test_samples_are_consecutive_points_of_one_trajectory() -> None:
    u = torch.arange(3.0 * data.N_TIMES).view(3, data.N_TIMES, 1)
    given, following = kdv.samples(u, torch.arange(3 * kdv.STARTS))
    both = torch.cat([given, following[:, 1:]], 1)[..., 0]
    assert given.shape[1] == following.shape[1] == models.WINDOW
    assert (both.diff(dim=1) == 1).all()
    assert (both[:, 0] // data.N_TIMES == both[:, -1] // data.N_TIMES).all()
    assert set(both.unique().tolist()) == set(u.unique().tolist())


@pytest.mark.slow
@pytest.mark.parametrize("plateaus", [False, True])
def test_stopped_training_resumes_to_the_same_result(
    fields: data.Fields, tmp_path: Path, plateaus: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kdv, "PLATEAU", 2)
    size = replace(kdv.SIZES["smoke"], steps=9, batch=4, learning_rate=1e-2, plateaus=plateaus)
    u = torch.tensor(fields.u[:, :, ::8], dtype=torch.float32)

    def run(folder: str, resume: bool, stop: bool = False) -> tuple[list[float], list[torch.Tensor]]:
        arguments = argparse.Namespace(output=tmp_path / folder, resume=resume, seed=3)
        model = small("mechanistic")
        if stop:
            calls = iter(range(size.steps))

            def interrupt(*_: object) -> None:
                if next(calls) == 4:
                    os.kill(os.getpid(), signal.SIGTERM)

            model.register_forward_hook(interrupt)
        training = kdv.train("mechanistic", model, u, size, arguments)
        return training.history["loss"], [p.tolist() for p in model.parameters()]

    with pytest.raises(SystemExit):
        run("stopped", resume=False, stop=True)
    assert run("stopped", resume=True) == run("whole", resume=False)


@pytest.mark.slow
def test_the_program_writes_metrics_and_a_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["kdv.py", "--smoke", "--output", str(tmp_path)])
    kdv.main()
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["summary"][0]["published"] == kdv.PUBLISHED
    assert 0 < metrics["results"]["mechanistic"]["first_40"] < 1
    assert (tmp_path / "kdv.png").stat().st_size > 10_000
