"""Sea surface temperature: three records, what a model reads of them, and the forecasts that it is judged by.

| record | source |
| --- | --- |
| `load_nino` | the four Nino regions, monthly 1950-2010; NOAA, inside statsmodels (public domain) |
| `load_ostia` | OSTIA around the equator, monthly 2006-2010; Met Office, inside iris-sample-data (UK OGL) |
| `load_noaa` | NOAA OI SST V2, weekly means on a grid of one degree since 1990: a file of the user (public domain) |

Sources: Reynolds et al., An Improved In Situ and Satellite SST Analysis for Climate, J. Climate 15 (2002); Donlon et
al., The Operational Sea Surface Temperature and Sea Ice Analysis (OSTIA) system, Remote Sens. Environ. 116 (2012).
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

REGIONS = ("Niño 1+2", "Niño 3", "Niño 4", "Niño 3.4")
N_INITIAL = 10
"""observed values that the solution starts from"""
REACH = 5
"""cells of longitude between the two views of a grid"""
NOAA_FILE, NOAA_MASK = "sst.wkmean.1990-present.nc", "lsmask.nc"
KELVIN = 273.15


@dataclass(frozen=True)
class Record:
    """Temperatures of places over time, at equal steps and without gaps."""

    values: np.ndarray
    """(T, N), degrees C"""
    times: np.ndarray
    """(T,), datetime64[D]: the middle of each step"""
    steps_per_year: float
    latitude: np.ndarray
    """(N,), degrees north"""
    longitude: np.ndarray
    """(N,), degrees east"""
    index: np.ndarray | None = None
    """(n_lat, n_lon): which place a cell of the grid is, -1 on land; None where there is no grid"""
    axes: tuple[np.ndarray, np.ndarray] | None = None
    """latitudes and longitudes of the grid"""

    @property
    def unit(self) -> str:
        """The name of a step."""
        return "month" if self.steps_per_year == 12 else "week"

    def season(self) -> np.ndarray:
        """The angle of the season, (T,): a year is 2 pi."""
        if self.unit == "month":
            return 2 * np.pi * ((self.times.astype("datetime64[M]").astype(int) % 12) + 0.5) / 12
        days = (self.times - self.times.astype("datetime64[Y]")).astype(float)
        return 2 * np.pi * days / 365.25

    def on_grid(self, values: np.ndarray) -> np.ndarray:
        """Values (N,) as a map (n_lat, n_lon), NaN on land."""
        return np.where(self.index >= 0, values[self.index], np.nan)


def load_nino() -> Record:
    """The four regions `REGIONS`, 732 months."""
    path = resources.files("statsmodels") / "datasets" / "elnino" / "src" / "elnino.dat"
    table = np.loadtxt(path, skiprows=1)  # year, month, then temperature and anomaly of each region
    months = (12 * (table[:, 0].astype(int) - 1970) + table[:, 1].astype(int) - 1).astype("datetime64[M]")
    latitude, longitude = np.array([-5.0, 0, 0, 0]), np.array([275.0, 240, 185, 215])
    return Record(table[:, 2::2], months.astype("datetime64[D]") + np.timedelta64(14, "D"), 12.0, latitude, longitude)


def load_ostia() -> Record:
    """54 months of 18 x 432 cells between 5 S and 4.4 N; cells with gaps are land."""
    import iris_sample_data
    import xarray

    path = Path(iris_sample_data.__file__).parent / "sample_data" / "ostia_monthly.nc"
    with xarray.open_dataset(path) as data:
        sst = data["surface_temperature"]
        return from_grid(sst.values - KELVIN, sst["time"].values, 12.0, sst["latitude"].values, sst["longitude"].values)


def load_noaa(path: Path | None, mask: Path | None = None) -> Record:
    """NOAA OI SST V2, weekly: `sst` (time, lat, lon) in degrees C, packed as 16-bit integers.

    Args:
        path: of `sst.wkmean.1990-present.nc`.
        mask: of `lsmask.nc`, whose `mask` is 1 on the sea and 0 on land; by default, the file of that name beside
            `path` if there is one. The record itself has values on land too, interpolated.

    Raises:
        SystemExit: where a file is absent, saying where to get it.
    """
    import xarray

    where = "NOAA's Physical Sciences Laboratory (NOAA PSL) offers it, as part of 'NOAA Optimum Interpolation SST V2'"
    if path is None or not path.exists():
        found = "no --file was given" if path is None else f"there is no file {path}"
        raise SystemExit(f"--data noaa reads {NOAA_FILE}, and {found}. {where}: download it and give --file PATH.")
    if mask is None and (path.parent / NOAA_MASK).exists():
        mask = path.parent / NOAA_MASK
    if mask is not None and not mask.exists():
        raise SystemExit(f"there is no land mask {mask}. {where}, as {NOAA_MASK}; without --mask land is not masked.")
    with xarray.open_dataset(path) as data:
        sst = data["sst"].transpose("time", "lat", "lon")
        values, times = sst.values.astype(float), sst["time"].values
        axes = sst["lat"].values, sst["lon"].values
    if mask is not None:
        with xarray.open_dataset(mask) as data:
            sea = data["mask"].squeeze(drop=True).transpose("lat", "lon").values
        if sea.shape != values.shape[1:]:
            raise SystemExit(f"{mask} has {sea.shape} cells, {path} {values.shape[1:]}: they do not belong together.")
        values[:, sea != 1] = np.nan
    return from_grid(values, times, 365.25 / 7, *axes)


def from_grid(
    values: np.ndarray, times: np.ndarray, steps_per_year: float, latitude: np.ndarray, longitude: np.ndarray
) -> Record:
    """The record of the cells of a grid (T, n_lat, n_lon) that have a value at all times."""
    sea = np.isfinite(values).all(axis=0)
    index = np.where(sea, np.cumsum(sea).reshape(sea.shape) - 1, -1)
    i, j = np.nonzero(sea)
    days = times.astype("datetime64[D]")
    places = latitude[i].astype(float), longitude[j].astype(float)
    return Record(values[:, sea].astype(float), days, steps_per_year, *places, index, (latitude, longitude))


def partners(index: np.ndarray, reach: int, random: np.random.Generator) -> np.ndarray:
    """For every place of a grid another at random, on its latitude and at most `reach` cells away, (N,).

    Longitude is periodic. A place with no other within reach is its own partner.
    """
    i, j = np.nonzero(index >= 0)
    offsets = np.array([o for o in range(-reach, reach + 1) if o])
    near = index[i[:, None], (j[:, None] + offsets) % index.shape[1]]
    order = np.where(near >= 0, random.random(near.shape), np.inf)
    chosen = near[np.arange(len(i)), order.argmin(axis=1)]
    return np.where(chosen >= 0, chosen, index[i, j])


def climatology(values: np.ndarray, season: np.ndarray, n_train: int, harmonics: int) -> np.ndarray:
    """The mean seasonal cycle, (T, N): least squares on the first n_train steps of (T, N), by harmonics of the year.

    Six harmonics of monthly values are their twelve monthly means.
    """
    angles = season[:, None] * np.arange(harmonics + 1)
    design = np.concatenate([np.cos(angles), np.sin(angles[:, 1:])], axis=1)
    return design @ np.linalg.lstsq(design[:n_train], values[:n_train], rcond=1e-10)[0]


def at_origins(x: np.ndarray, origins: np.ndarray, first: int, last: int) -> np.ndarray:
    """The steps origin + first <= t < origin + last of x (T, N): (origins, last - first, N)."""
    return x[origins[:, None] + np.arange(first, last)]


def autoregression(anomalies: np.ndarray, n_train: int, origins: np.ndarray, horizon: int, lags: int) -> np.ndarray:
    """Forecasts (origins, horizon, N) of anomalies (T, N), by one AR(lags) per place, fitted to the first n_train.

    By least squares, with a constant: what statsmodels' `AutoReg` estimates, fast enough for many thousands of cells.
    Each forecast starts from all that was observed before its origin.
    """
    fits = []
    for x in anomalies[:n_train].T:
        windows = np.lib.stride_tricks.sliding_window_view(x, lags + 1)  # the last column is what the others foretell
        design = np.concatenate([np.ones((len(windows), 1)), windows[:, -2::-1]], axis=1)
        fits.append(np.linalg.lstsq(design, windows[:, -1])[0])
    constant, φ = np.split(np.array(fits).T, [1])  # φ[0] belongs to the step before
    past = at_origins(anomalies, origins, -lags, 0)
    forecasts = np.empty((len(origins), horizon, anomalies.shape[1]))
    for h in range(horizon):
        forecasts[:, h] = constant[0] + np.einsum("lN,olN->oN", φ[::-1], past)
        past = np.concatenate([past[:, 1:], forecasts[:, h, None]], axis=1)
    return forecasts


@dataclass(frozen=True)
class Setting:
    """An experiment: what is forecast from where, and how the model is trained."""

    window: int
    horizon: int
    span: int
    """steps from the first to the last start date; all before the first is for training"""
    stride: int
    """steps between start dates"""
    harmonics: int
    """of the climatology"""
    lags: int
    """of the autoregression"""
    steps: int
    batch: int = 0
    """pairs of cells; 0: all there is"""
    members: int = 1
    """models from different random starts, whose forecasts are averaged"""
    damped: bool = True
    seasonal: bool = True
    """whether the ODE's damping and stiffness have a seasonal cycle; where years are few, that cannot be learned"""
    width: int = 32
    depth: int = 3
    head_depth: int = 2
    rate: float = 3e-5
    """learning rate of the networks"""
    mechanism_rate: float = 3e-2
    """learning rate of what all ODEs share"""
    decay: float = 1e-2
    alignment: float = 0.1
    """weight of the disagreement of the views"""
    dtype: torch.dtype = torch.float32


class Samples:
    """A record in standardised units, and what the model reads and answers at a start date.

    The damped form works on anomalies from the climatology, the published one on the temperatures themselves.
    """

    def __init__(self, record: Record, setting: Setting, device: str) -> None:
        self.record, self.setting = record, setting
        T = len(record.values)
        self.n_train = n_train = T - setting.horizon - setting.span
        needed = max(setting.window, N_INITIAL) + (setting.horizon if setting.damped else N_INITIAL)
        if n_train < needed:
            raise SystemExit(f"{T} steps leave {n_train} to train on, of the {needed} that one forecast needs.")
        self.origins = np.arange(n_train, T - setting.horizon + 1, setting.stride)
        season = record.season()
        self.climatology = climatology(record.values, season, n_train, setting.harmonics)
        self.anomalies = record.values - self.climatology
        self.unit = float(record.values[:n_train].std())
        """degrees C of one standardised unit, as published: one deviation for all places"""
        few = record.index is None
        if setting.damped:
            self.mean: Any = self.climatology
            self.scale = self.anomalies[:n_train].std(axis=0 if few else None, keepdims=True)
        else:
            self.mean, self.scale = np.float64(record.values[:n_train].mean()), np.full((1, 1), self.unit)
        n_places = record.values.shape[1]
        angle = np.deg2rad(record.longitude)
        place = np.eye(n_places) if few else np.stack([np.sin(angle), np.cos(angle), record.latitude / 90], axis=1)
        tensor = {"dtype": setting.dtype, "device": device}
        self.x = torch.tensor((record.values - self.mean) / self.scale, **tensor).T.contiguous()
        self.season = torch.tensor(np.stack([np.cos(season), np.sin(season)], axis=1), **tensor)
        self.place = torch.tensor(place, **tensor)
        self.n_known = 2 + place.shape[1] if setting.damped else 0
        self.n_steps = N_INITIAL + setting.horizon

    def training_origins(self) -> np.ndarray:
        """Start dates whose forecasts end before the first of those that are judged."""
        first = self.setting.window if self.setting.damped else N_INITIAL
        return np.arange(max(first, N_INITIAL), self.n_train - self.setting.horizon + 1)

    def take(self, origins: Tensor, places: Tensor, reconstruct: bool = False) -> tuple[tuple[Tensor, ...], Tensor]:
        """Arguments of `Identifier.forward` at start dates (B,) for places (B, views), and the truth (B, views, T).

        The damped form encodes the window before the start. The published form encodes in training the very window that
        the solution covers (`reconstruct`), afterwards the one before it: for windows of whole years the same season.
        """
        setting = self.setting
        begin = origins[:, None, None] - N_INITIAL

        def window(first: Tensor, length: int) -> Tensor:
            return self.x[places[..., None], first + torch.arange(length, device=self.x.device)]

        truth = window(begin, self.n_steps)
        if setting.damped:
            encoded = window(origins[:, None, None] - setting.window, setting.window)
        else:
            encoded = truth if reconstruct else window(begin - setting.window, setting.window)
        now = self.season[origins][:, None].expand(-1, places.shape[1], -1)
        known = torch.cat([now, self.place[places]], dim=-1)[..., : self.n_known]
        season = setting.seasonal * self.season[begin[:, 0] + torch.arange(self.n_steps, device=self.x.device)]
        return (encoded, truth[..., :N_INITIAL], known, season), truth

    def places(self, seed: int) -> Tensor:
        """All places with the views they are seen with: the four regions (1, 4), or pairs of cells (N, 2)."""
        N = len(self.x)
        if self.record.index is None:
            return torch.arange(N, device=self.x.device)[None]
        other = partners(self.record.index, REACH, np.random.default_rng(seed))
        return torch.tensor(np.stack([np.arange(N), other], axis=1), device=self.x.device)

    def batch(self, step: int, origins: np.ndarray, seed: int) -> tuple[tuple[Tensor, ...], Tensor]:
        """Of training: every start date with the four regions, or random start dates with random pairs of cells."""
        o = torch.tensor(origins, device=self.x.device)
        places = self.places(1_000_003 * seed + step)
        size = self.setting.batch
        if not size:
            return self.take(o, places.expand(len(o), -1), reconstruct=not self.setting.damped)
        random = torch.Generator().manual_seed(1_000_003 * seed + step)
        chosen = torch.randint(len(places), (size,), generator=random).to(o)
        when = torch.randint(len(o), (size,), generator=random).to(o)
        return self.take(o[when], places[chosen], reconstruct=not self.setting.damped)
