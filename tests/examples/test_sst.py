"""The records of sea surface temperature, the forecasts, and the model behind them."""

from __future__ import annotations

import argparse
import importlib
import itertools
import json
import signal
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs torch")
pytest.importorskip("matplotlib", reason="needs the extra `examples`")
pytest.importorskip("statsmodels", reason="needs the extra `examples`")
xarray = pytest.importorskip("xarray", reason="needs the extra `examples`")

ROOT = Path(__file__).parents[2]
EXAMPLES = str(ROOT / "examples")


@pytest.fixture
def data(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(EXAMPLES)
    return importlib.import_module("_sst_data")


@pytest.fixture
def identifier(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(EXAMPLES)
    return importlib.import_module("_identifier")


@pytest.fixture
def sst(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(EXAMPLES)
    return importlib.import_module("sst")


@pytest.fixture(scope="module")
def noaa(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file in the layout of NOAA's, and its mask: 60 weeks of 4 x 8 cells, one quarter of them land."""
    folder = tmp_path_factory.mktemp("noaa")
    random = np.random.default_rng(0)
    coordinates = {
        "time": np.datetime64("1989-12-31") + np.arange(0, 420, 7).astype("timedelta64[D]"),
        "lat": np.float32([67.5, 22.5, -22.5, -67.5]),
        "lon": np.float32(22.5 + 45 * np.arange(8)),
    }
    season = np.cos(2 * np.pi * np.arange(60) / 52.18)[:, None, None]
    sst = 15 + 5 * season + random.normal(size=(60, 4, 8)).cumsum(axis=0) * 0.3
    packed = {"dtype": "int16", "scale_factor": 0.01, "add_offset": 0.0, "_FillValue": np.int16(32767)}
    variable = ("time", "lat", "lon"), sst, {"units": "degC", "long_name": "Weekly Mean of Sea Surface Temperature"}
    xarray.Dataset({"sst": variable}, coordinates).to_netcdf(
        folder / "sst.nc", engine="scipy", encoding={"sst": packed, "time": {"units": "days since 1800-01-01 00:00:00"}}
    )
    sea = np.ones((1, 4, 8), np.int16)
    sea[:, :, 2:4] = 0
    axes = {name: coordinates[name] for name in ("lat", "lon")}
    xarray.Dataset({"mask": (("time", "lat", "lon"), sea)}, axes).to_netcdf(folder / "lsmask.nc", engine="scipy")
    np.save(folder / "truth.npy", sst)
    return folder


def test_the_nino_regions_are_complete_and_end_with_december_2010(data: ModuleType) -> None:
    record = data.load_nino()
    assert record.values.shape == (732, 4)
    assert record.times[-1] == np.datetime64("2010-12-15")
    np.testing.assert_array_equal(record.values[-1], [22.07, 24.00, 27.54, 25.29])


def test_a_quarter_of_the_ostia_grid_is_land(data: ModuleType) -> None:
    pytest.importorskip("h5py", reason="needs h5py, to read NetCDF4")
    record = data.load_ostia()
    assert record.values.shape == (54, 5721)
    assert (record.index < 0).mean() == pytest.approx(0.264, abs=1e-3)
    assert 15 < record.values.min() < record.values.max() < 35


def test_noaa_values_are_unpacked_and_land_is_masked(data: ModuleType, noaa: Path) -> None:
    record = data.load_noaa(noaa / "sst.nc")
    truth = np.load(noaa / "truth.npy")
    assert record.values.shape == (60, 24)
    sea = np.delete(truth, [2, 3], axis=2).reshape(60, 24)
    np.testing.assert_allclose(record.values, sea, atol=0.0051)


def test_noaa_maps_show_land_as_missing(data: ModuleType, noaa: Path) -> None:
    record = data.load_noaa(noaa / "sst.nc", noaa / "lsmask.nc")
    missing = np.isnan(record.on_grid(record.values[0]))
    np.testing.assert_array_equal(missing, np.tile([0, 0, 1, 1, 0, 0, 0, 0], (4, 1)))


@pytest.mark.parametrize("arguments", [(None,), (Path("absent.nc"),)])
def test_an_absent_file_is_an_error_that_says_where_to_get_it(data: ModuleType, arguments: tuple) -> None:
    with pytest.raises(SystemExit, match=r"sst\.wkmean\.1990-present\.nc.*NOAA PSL"):
        data.load_noaa(*arguments)


def test_partners_are_sea_on_the_same_latitude_within_reach(data: ModuleType) -> None:
    random = np.random.default_rng(0)
    sea = random.random((6, 40)) < 0.6
    index = np.where(sea, np.cumsum(sea).reshape(sea.shape) - 1, -1)
    other = data.partners(index, 5, random)
    i, j = np.nonzero(sea)
    np.testing.assert_array_equal(i[other], i)
    assert np.min([abs(j[other] - j + turn) for turn in (-40, 0, 40)], axis=0).max() <= 5


def test_a_lone_place_is_its_own_partner(data: ModuleType) -> None:
    index = np.full((1, 40), -1)
    index[0, 0], index[0, 20] = 0, 1
    np.testing.assert_array_equal(data.partners(index, 5, np.random.default_rng(0)), [0, 1])


def test_six_harmonics_of_months_are_the_monthly_means_of_the_training_data(data: ModuleType) -> None:
    values = np.random.default_rng(0).normal(size=(120, 2))
    season = 2 * np.pi * (np.arange(120) % 12 + 0.5) / 12
    found = data.climatology(values, season, 60, 6)
    np.testing.assert_allclose(found, np.tile(values[:60].reshape(5, 12, 2).mean(axis=0), (10, 1)), atol=1e-12)


def test_autoregression_forecasts_as_statsmodels_does(data: ModuleType) -> None:
    from statsmodels.tsa.ar_model import AutoReg

    x = np.random.default_rng(0).normal(size=(80, 2)).cumsum(axis=0)
    ours = data.autoregression(x, 60, np.array([60, 65]), 12, 3)
    theirs = AutoReg(x[:60, 1], lags=3).fit().apply(x[:65, 1]).forecast(12)
    np.testing.assert_allclose(ours[1, :, 1], theirs, rtol=1e-10)


@pytest.mark.parametrize("damped", [True, False])
def test_nothing_of_the_held_out_period_is_seen_in_training(data: ModuleType, damped: bool) -> None:
    setting = data.Setting(24, 14, span=60, stride=12, harmonics=6, lags=3, steps=1, damped=damped)
    record = data.load_nino()
    changed = replace(record, values=record.values.copy())
    samples = data.Samples(record, setting, "cpu")
    changed.values[samples.n_train :] += 5.0
    (seen, truth), (seen_too, truth_too) = (
        s.batch(0, s.training_origins(), 0) for s in (samples, data.Samples(changed, setting, "cpu"))
    )
    for a, b in zip((*seen, truth), (*seen_too, truth_too), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("damped", [True, False])
def test_a_forecast_sees_nothing_after_its_start_date(data: ModuleType, sst: ModuleType, damped: bool) -> None:
    setting = data.Setting(24, 14, span=60, stride=60, harmonics=6, lags=3, steps=1, damped=damped)
    record = data.load_nino()
    changed = replace(record, values=record.values.copy())
    samples = data.Samples(record, setting, "cpu")
    changed.values[samples.origins[0] :] += 5.0
    model = sst.untrained(samples, 0)
    before, after = (sst.forecast([model], s)[0] for s in (samples, data.Samples(changed, setting, "cpu")))
    np.testing.assert_array_equal(before, after)


def test_the_dct_is_orthonormal(identifier: ModuleType) -> None:
    rows = identifier.dct_matrix(48, 12).double()
    torch.testing.assert_close(rows @ rows.T, torch.eye(12).double(), atol=1e-6, rtol=0)


def test_views_share_the_first_half_of_their_latents(identifier: ModuleType) -> None:
    model = identifier.Identifier(identifier.Configuration(24, 22, width=16))
    z, misalignment = model.encode(torch.randn(5, 2, 24), torch.zeros(5, 2, 0))
    assert torch.equal(z[:, 0, :10], z[:, 1, :10])
    assert not torch.equal(z[:, 0, 10:], z[:, 1, 10:])
    assert misalignment > 0


def test_the_damped_form_continues_a_damped_motion_from_its_first_values(identifier: ModuleType) -> None:
    """k = 1, d = 2, as it starts: y = (1 + t) exp(-t); the scheme's error is of order step^2 / 12."""
    form = identifier.DampedForm(identifier.Configuration(24, 58, width=8, damped=True)).double()
    torch.nn.init.zeros_(form.forcing[-1].weight)
    torch.nn.init.zeros_(form.correction[-1].weight)
    t = torch.arange(58, dtype=torch.float64) / 12
    exact = (1 + t) * torch.exp(-t)
    y = form(torch.randn(1, 1, 20).double(), exact[None, None, :10], torch.zeros(1, 58, 2).double())
    torch.testing.assert_close(y[0, 0], exact, atol=1 / 12**2 / 12, rtol=0)


def test_every_parameter_of_the_published_form_is_trained(identifier: ModuleType) -> None:
    model = identifier.Identifier(identifier.Configuration(24, 24, width=8)).double()
    y, misalignment = model(
        torch.randn(3, 2, 24).double(), torch.randn(3, 2, 10).double(), torch.zeros(3, 2, 0).double(), None
    )
    (y.square().mean() + misalignment).backward()
    assert all(p.grad.abs().max() > 0 for p in model.parameters())


def run(sst: ModuleType, monkeypatch: pytest.MonkeyPatch, output: Path, *arguments: str) -> dict:
    """The errors that the program leaves, by record and forecast."""
    monkeypatch.setattr(sys, "argv", ["sst.py", "--smoke", "--output", str(output), *arguments])
    sst.main()
    return json.loads((output / "metrics.json").read_text())["rmse"]


@pytest.mark.slow
def test_a_run_resumes_to_the_same_forecasts(
    sst: ModuleType, data: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sst.SETTINGS, ("nino", "smoke"), replace(sst.SETTINGS["nino", "smoke"], steps=6))
    whole = run(sst, monkeypatch, tmp_path / "whole", "--data", "nino")
    calls = itertools.count()
    batch = data.Samples.batch

    def interrupting(*arguments: object) -> object:
        if next(calls) == 8:  # in the second of two trainings
            signal.raise_signal(signal.SIGTERM)
        return batch(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(data.Samples, "batch", interrupting)
        with pytest.raises(SystemExit):
            run(sst, patch, tmp_path / "stopped", "--data", "nino")
    assert not (tmp_path / "stopped" / "metrics.json").exists()
    assert run(sst, monkeypatch, tmp_path / "stopped", "--data", "nino", "--resume") == whole


@pytest.mark.slow
def test_forecasts_of_the_noaa_file_leave_errors_and_a_map(
    sst: ModuleType, noaa: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    found = run(sst, monkeypatch, tmp_path, "--data", "noaa", "--file", str(noaa / "sst.nc"))
    assert found["noaa"].keys() == {"mechanistic", "ODE without networks", "climatology", "persistence", "AR(2)"}
    assert (tmp_path / "noaa.png").stat().st_size > 10_000


@pytest.fixture
def lengths(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(EXAMPLES)
    return importlib.import_module("sequence_length")


def test_the_slope_is_the_exponent_of_the_long_sequences(lengths: ModuleType) -> None:
    T = np.array(lengths.LENGTHS, dtype=float)
    assert lengths.slope(T, np.maximum(1e4, T**2)) == pytest.approx(2.0)


def test_a_solver_that_met_its_limit_is_not_tried_again_and_resumed_cases_are_kept(
    lengths: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    setting = replace(lengths.SETTINGS["smoke"], lengths=(26, 52, 104))
    monkeypatch.setitem(lengths.SETTINGS, "smoke", setting)
    tried = []

    def run_case(length: int, solver: str, arguments: object) -> dict:
        tried.append((solver, length))
        return {"failed": "too long"} if solver == "mnn_dense" and length == 52 else {"seconds": 1.0}

    monkeypatch.setattr(lengths, "run_case", run_case)
    arguments = argparse.Namespace(size="smoke", output=tmp_path, resume=True, device="cpu", seed=0)
    first = lengths.run_all(arguments)
    assert ("mnn_dense", 104) not in tried
    assert len(tried) == 8
    assert lengths.run_all(arguments) == first
    assert len(tried) == 8


@pytest.mark.slow
def test_all_solvers_train_to_the_same_error(lengths: ModuleType) -> None:
    setting = lengths.SETTINGS["smoke"]
    steps = [lengths.training(26, setting, solver, 0, "cpu")[0] for solver in ("ours", "smnn_cholesky")]
    ours, published = ([step() for _ in range(5)] for step in steps)
    np.testing.assert_allclose(ours, published, rtol=1e-8)
