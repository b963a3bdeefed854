"""Forecasts sea surface temperature years ahead with the Mechanistic Identifier, and judges them by simple forecasts.

The model reads a window of the past, answers with a linear ODE, and the solver integrates it from the last ten
observed values into the future. Climatology, persistence of the anomaly and an autoregression forecast from the same
start dates. All are fitted to what was before the first of these dates; a forecast also sees what was before its own.
Ends with the errors by horizon and with pictures in examples/output/sst/.

    python examples/sst.py [--quick] [--data nino|ostia|noaa] [--form free] [--cross-validate] [--resume]

Sources: figure 1 of Chen et al., Scalable Mechanistic Neural Networks, ICLR 2025; data in `_sst_data.py`, model in
`_identifier.py`. The full size has the published networks and, on grids, the published form of the ODE, batches and
loss; how many steps were published we do not know. Unlike the published code we mask land. `--quick` trains small
networks, in the damped form, on anomalies.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import matplotlib.dates as mdates
import matplotlib.pyplot as plt
import numpy as np
import torch
from _experiment import (
    BLACK,
    BLUE,
    GREEN,
    ORANGE,
    PURPLE,
    SKY,
    Training,
    command_line,
    print_table,
    save_metrics,
    save_picture,
)
from _identifier import Configuration, Identifier, dct_matrix
from _sst_data import (
    N_INITIAL,
    REGIONS,
    Record,
    Samples,
    Setting,
    at_origins,
    autoregression,
    load_nino,
    load_noaa,
    load_ostia,
)
from matplotlib.axes import Axes
from torch import Tensor, nn

PUBLISHED = {"width": 1024, "depth": 5, "head_depth": 3, "rate": 1e-5, "alignment": 10.0, "dtype": torch.float64}
GRID = {"damped": False, "decay": 0.0, "batch": 6480}
# Rates and steps of the damped form follow --cross-validate, which sees the Niño regions before 1996 only.
NINO = {"window": 48, "horizon": 48, "span": 132, "stride": 1, "harmonics": 6, "lags": 12, "steps": 200}
OSTIA = {"stride": 1, "harmonics": 2, "lags": 3}
NOAA = {"stride": 13, "harmonics": 3, "lags": 8}
SETTINGS = {
    ("nino", "quick"): Setting(**NINO, members=3),
    ("nino", "full"): Setting(**NINO, members=5, **PUBLISHED),
    ("ostia", "quick"): Setting(**OSTIA, window=12, horizon=12, span=6, steps=200, batch=1024, seasonal=False),
    ("ostia", "full"): Setting(**OSTIA, window=24, horizon=14, span=4, steps=20_000, **PUBLISHED, **GRID),
    ("noaa", "quick"): Setting(**NOAA, window=104, horizon=104, span=52, steps=200, batch=512),
    ("noaa", "full"): Setting(**NOAA, window=208, horizon=198, span=104, steps=20_000, **PUBLISHED, **GRID),
}
SMALL = {
    "nino": {"window": 24, "horizon": 12, "stride": 24},
    "ostia": {"stride": 3, "batch": 64},
    "noaa": {"window": 16, "horizon": 16, "span": 4, "stride": 2, "harmonics": 1, "lags": 2, "batch": 16},
}
SETTINGS |= {(data, "smoke"): replace(SETTINGS[data, "quick"], steps=3, members=1, **SMALL[data]) for data in SMALL}


class Loss(nn.Module):
    """Damped form: squared error over the error variance that a first-order autoregression has at that horizon, so
    that the near future, which can be told, is not drowned by the far one. Published form: mean squared error of the
    lowest quarter of the DCT-II.
    """

    def __init__(self, samples: Samples) -> None:
        super().__init__()
        self.alignment = samples.setting.alignment
        x = samples.x[:, : samples.n_train]
        ρ = float((x[:, 1:] * x[:, :-1]).mean() / x.square().mean())
        h = torch.arange(1, samples.setting.horizon + 1)
        initial = torch.full((N_INITIAL,), 0.1)
        weights = torch.cat([initial, 1 / (1 - ρ ** (2 * h))]).sqrt()
        T = samples.n_steps
        self.register_buffer("rows", torch.diag(weights) if samples.setting.damped else dct_matrix(T, T // 4))

    def forward(self, y: Tensor, misalignment: Tensor, truth: Tensor) -> Tensor:
        """Of solutions (..., T) against the truth."""
        return ((y - truth) @ self.rows.T).square().mean() + self.alignment * misalignment


def untrained(samples: Samples, seed: int) -> Identifier:
    """A model for the samples."""
    s = samples.setting
    torch.manual_seed(seed)
    configuration = Configuration(
        window=s.window,
        n_steps=samples.n_steps,
        n_initial=N_INITIAL,
        n_known=samples.n_known,
        width=s.width,
        depth=s.depth,
        head_depth=s.head_depth,
        damped=s.damped,
        mechanisms=len(REGIONS) if samples.record.index is None else 1,
        step=1 / samples.record.steps_per_year,
    )
    return Identifier(configuration).to(samples.x)


def train(samples: Samples, arguments: argparse.Namespace, name: str, seed: int, networks: bool = True) -> Identifier:
    """A trained model; without networks, only what all its ODEs share is trained, and the latents do nothing."""
    s = samples.setting
    model = untrained(samples, seed)
    if not networks:
        nn.init.zeros_(model.form.forcing[-1].weight)
        nn.init.zeros_(model.form.correction[-1].weight)
    loss_of = Loss(samples).to(samples.x)
    optimizer = torch.optim.AdamW(model.groups(s.rate if networks else 0.0, s.mechanism_rate, s.decay))
    path = arguments.output / f"{name}.pt"
    training = Training(path, s.steps, arguments, description=name, model=model, optimizer=optimizer)
    origins = samples.training_origins()
    for step in training:
        inputs, truth = samples.batch(step, origins, seed)
        loss = loss_of(*model(*inputs), truth)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        training.log(loss=loss.item())
    return model


@torch.no_grad()
def forecast(models: Sequence[Identifier], samples: Samples) -> np.ndarray:
    """The mean forecast of the models from all start dates, in degrees C: (origins, horizon, N)."""
    places = samples.places(0)
    result = []
    for origin in samples.origins:
        parts = []
        for chunk in places.split(8192):
            inputs, _ = samples.take(torch.tensor([int(origin)], device=places.device).expand(len(chunk)), chunk)
            y = torch.stack([model(*inputs)[0] for model in models]).mean(dim=0)[..., N_INITIAL:]
            parts.append(y[0] if samples.record.index is None else y[:, 0])
        result.append(torch.cat(parts).T.double().cpu().numpy())
    mean = np.broadcast_to(samples.mean, samples.record.values.shape)
    return np.stack(result) * samples.scale + at_origins(mean, samples.origins, 0, samples.setting.horizon)


def simple_forecasts(samples: Samples) -> dict[str, np.ndarray]:
    """Forecasts by which the model is judged, each (origins, horizon, N) in degrees C."""
    s, origins = samples.setting, samples.origins
    cycle = at_origins(samples.climatology, origins, 0, s.horizon)
    now = samples.anomalies[origins - 1][:, None]
    return {
        "climatology": cycle,
        "persistence": cycle + now,
        f"AR({s.lags})": cycle + autoregression(samples.anomalies, samples.n_train, origins, s.horizon, s.lags),
    }


def errors(forecasts: np.ndarray, samples: Samples) -> np.ndarray:
    """The root mean square error by horizon, (horizon,), over start dates and places, weighted by area on a grid."""
    truth = at_origins(samples.record.values, samples.origins, 0, samples.setting.horizon)
    few = samples.record.index is None
    area = np.ones_like(samples.record.latitude) if few else np.cos(np.deg2rad(samples.record.latitude))
    return np.sqrt(((forecasts - truth) ** 2).mean(axis=0) @ (area / area.sum()))


def shown_horizons(samples: Samples) -> list[int]:
    """For the tables, in steps."""
    months = (1, 3, 6, 12, 24, 48)
    if samples.record.unit == "week":
        months = (1, 4, 13, 26, 52, 104, 198)
    return [h for h in months if h <= samples.setting.horizon]


def print_errors(found: dict[str, np.ndarray], samples: Samples) -> None:
    """In degrees C and in standardised units."""
    horizons, times = shown_horizons(samples), samples.record.times[samples.origins]
    unit = samples.record.unit
    print(f"\n{len(times)} start dates, {times[0]} to {times[-1]}; trained on {samples.n_train} {unit}s before")
    for title, divisor in [("degrees C", 1.0), (f"standardised units of {samples.unit:.3f} degrees C", samples.unit)]:
        print(f"\nroot mean square error in {title}")
        rows = [[name, *(f"{e[h - 1] / divisor:.3f}" for h in horizons)] for name, e in found.items()]
        print_table(["forecast", *(f"{h} {unit}{'s' * (h > 1)}" for h in horizons)], rows)


def plot_errors(axes: Axes, found: dict[str, np.ndarray], samples: Samples) -> None:
    """Relative to climatology, against the horizon: below 1 is skill."""
    styles = {"mechanistic": (ORANGE, "-", 2.6), "ODE without networks": (PURPLE, ":", 2.2)}
    styles |= {"climatology": (BLACK, "--", 1.2), "persistence": (SKY, "-", 1.6)}
    for name, e in found.items():
        colour, style, width = styles.get(name, (GREEN, "-.", 1.6))
        relative = e / found["climatology"]
        axes.plot(np.arange(1, len(e) + 1), relative, style, lw=width, color=colour, label=name)
    axes.set(xlabel=f"horizon ({samples.record.unit}s)", ylabel="RMSE / climatology's")
    axes.set_ylim(top=min(axes.get_ylim()[1], 1.4))  # persistence goes far beyond
    axes.set_title(f"error over {len(samples.origins)} start dates")
    axes.figure.legend(*axes.get_legend_handles_labels(), ncols=len(found), loc="outside lower center")


def picture_regions(ours: np.ndarray, found: dict[str, np.ndarray], samples: Samples, path: Path) -> None:
    """The last forecast with the truth, region by region, and the errors."""
    record, H = samples.record, samples.setting.horizon
    origin = int(samples.origins[-1])
    ahead, around = slice(origin, origin + H), slice(max(0, origin - 24), origin + H)
    truth = at_origins(record.values, samples.origins, 0, H)
    spread = np.sqrt(((ours - truth) ** 2).mean(axis=0))
    figure, axes = plt.subplot_mosaic([[0, 1], [2, 3], ["error", "error"]], figsize=(11, 9))
    for i, name in enumerate(REGIONS):
        a, y, e = axes[i], ours[-1, :, i], spread[:, i]
        a.plot(record.times[around], record.values[around, i], color=BLACK, lw=1.4, label="observed")
        a.plot(record.times[around], samples.climatology[around, i], "--", color=GREEN, lw=1, label="climatology")
        a.plot(record.times[ahead], y, color=ORANGE, lw=2, label="forecast")
        a.fill_between(record.times[ahead], y - e, y + e, color=ORANGE, alpha=0.15, lw=0, label="± its RMSE")
        a.axvline(record.times[origin - 1], color=BLUE, lw=1)
        a.set(title=name, ylabel="temperature (°C)")
        a.xaxis.set_major_locator(mdates.YearLocator())
        a.xaxis.set_major_formatter(mdates.DateFormatter("%Y"))
    figure.legend(*axes[0].get_legend_handles_labels(), ncols=4, loc="outside upper center")
    plot_errors(axes["error"], found, samples)
    save_picture(figure, path)


def picture_map(ours: np.ndarray, found: dict[str, np.ndarray], samples: Samples, path: Path) -> None:
    """Truth, forecast and error on one date, halfway through the first forecast; and the errors by horizon."""
    record, h = samples.record, samples.setting.horizon // 2
    date = int(samples.origins[0]) + h - 1
    truth, predicted = record.values[date], ours[0, h - 1]
    n_lat, n_lon = record.index.shape
    height = float(np.clip(9.5 * n_lat / n_lon, 1.5, 3.0))
    ratios = [height, height, height, 2.5]
    figure, axes = plt.subplots(4, 1, figsize=(11, sum(ratios) + 0.5), height_ratios=ratios)
    low, high = np.percentile(truth, [1, 99])
    worst = float(np.percentile(abs(predicted - truth), 99))
    maps = [
        (f"observed, {record.times[date]}", truth, "viridis", (low, high), "°C"),
        (f"forecast {h} {record.unit}s before", predicted, "viridis", (low, high), "°C"),
        ("forecast - observed", predicted - truth, "RdBu_r", (-worst, worst), "°C"),
    ]
    for a, (title, values, colours, (v0, v1), label) in zip(axes, maps, strict=False):
        a.set_facecolor("0.7")
        image = a.pcolormesh(record.axes[1], record.axes[0], record.on_grid(values), cmap=colours, vmin=v0, vmax=v1)
        a.set(title=title, ylabel="latitude (°)")
        a.grid(False)
        figure.colorbar(image, ax=a, label=label, extend="both", pad=0.01)
    axes[2].set_xlabel("longitude (°E); land is grey")
    plot_errors(axes[3], found, samples)
    save_picture(figure, path)


def cross_validate(record: Record, setting: Setting, arguments: argparse.Namespace, folds: int = 4) -> None:
    """Prints the squared error relative to climatology on held-out parts of the training data, by number of steps.

    Start dates of a part are held out with everything that their forecasts cover; the model is trained on what neither
    starts nor ends there. This is how the settings were chosen: the start dates that are judged play no part in it.
    """
    samples = Samples(record, setting, arguments.device)
    all_ = samples.training_origins()
    edges = np.linspace(all_[0], samples.n_train, folds + 1).astype(int)
    curves = []
    for fold, (low, high) in enumerate(itertools.pairwise(edges)):
        held = torch.tensor(all_[(all_ >= low) & (all_ + setting.horizon <= high)])
        kept = all_[(all_ + setting.horizon <= low) | (all_ - N_INITIAL >= high)]
        model, loss_of = untrained(samples, arguments.seed), Loss(samples).to(samples.x)
        optimizer = torch.optim.AdamW(model.groups(setting.rate, setting.mechanism_rate, setting.decay))
        inputs, truth = samples.take(held, samples.places(0).expand(len(held), -1))
        curve = Training(
            arguments.output / f"fold{fold}.pt", 2 * setting.steps, arguments,
            description=f"fold {fold}", model=model, optimizer=optimizer,
        )  # fmt: skip
        for step in curve:
            batch, target = samples.batch(step, kept, arguments.seed)
            loss = loss_of(*model(*batch), target)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            with torch.no_grad():
                scale = torch.tensor(samples.scale).to(truth).T
                error, none = (((y - truth) * scale)[..., N_INITIAL:] for y in (model(*inputs)[0], 0 * truth))
                curve.log(skill=float(error.square().mean() / none.square().mean()))
        curves.append(curve.history["skill"])
    mean = np.mean(curves, axis=0)
    chosen = np.arange(len(mean) // 20, len(mean) + 1, max(1, len(mean) // 20))
    print_table(["steps", "squared error / climatology's"], [[int(n), float(mean[n - 1])] for n in chosen])


def load(data: str, arguments: argparse.Namespace) -> Record:
    """The record of that name."""
    if data == "noaa":
        return load_noaa(arguments.file, arguments.mask)
    return load_nino() if data == "nino" else load_ostia()


def setting_of(data: str, arguments: argparse.Namespace) -> Setting:
    """As the command line wants it."""
    setting = SETTINGS[data, arguments.size]
    if arguments.form and (arguments.form == "damped") != setting.damped:
        setting = replace(setting, damped=not setting.damped)
        if not setting.damped:  # the solution covers a window, and there is nothing but the networks to train
            setting = replace(setting, window=setting.horizon + N_INITIAL, rate=1e-3, alignment=10.0)
    return setting


def experiment(data: str, arguments: argparse.Namespace) -> dict[str, np.ndarray]:
    """Trains, forecasts, prints and draws; the root mean square error of every forecast by horizon."""
    record = load(data, arguments)
    samples = Samples(record, setting_of(data, arguments), arguments.device)
    setting = samples.setting
    print(f"\n{data}: {len(record.values)} {record.unit}s, {record.values.shape[1]} places, to {record.times[-1]}")
    seeds = range(arguments.seed, arguments.seed + setting.members)
    models = [train(samples, arguments, f"{data}-{seed}", seed) for seed in seeds]
    forecasts = {"mechanistic": forecast(models, samples)}
    if setting.damped:
        alone = train(samples, arguments, f"{data}-alone", arguments.seed, networks=False)
        forecasts["ODE without networks"] = forecast([alone], samples)
    forecasts |= simple_forecasts(samples)
    found = {name: errors(f, samples) for name, f in forecasts.items()}
    print_errors(found, samples)
    print()
    draw = picture_regions if record.index is None else picture_map
    draw(forecasts["mechanistic"], found, samples, arguments.output / f"{data}.png")
    return found


def main() -> None:
    parser = command_line("sst", __doc__)
    records = ("nino", "ostia", "noaa")
    parser.add_argument("--data", choices=records, help="one record; by default both that need no file")
    parser.add_argument("--file", type=Path, help="sst.wkmean.1990-present.nc, for --data noaa")
    parser.add_argument("--mask", type=Path, help="lsmask.nc; by default the one beside --file")
    parser.add_argument("--form", choices=("damped", "free"), help="of the ODE; free: as published")
    parser.add_argument("--cross-validate", action="store_true", help="of the damped form, on the Nino training data")
    arguments = parser.parse_args()
    if arguments.cross_validate:
        cross_validate(load_nino(), SETTINGS["nino", arguments.size], arguments)
        return
    chosen = [arguments.data] if arguments.data else ["nino", "ostia"]
    found = {data: experiment(data, arguments) for data in chosen}
    summary = [
        {
            "metric": f"{data}: RMSE at {h} {'weeks' if data == 'noaa' else 'months'}, degrees C",
            "ours": round(float(e["mechanistic"][h - 1]), 4),
            "note": ", ".join(f"{name} {x[h - 1]:.3f}" for name, x in e.items() if name != "mechanistic"),
        }
        for data, e in found.items()
        for h in (3, 12, 48, 104)
        if h <= len(e["mechanistic"])
    ]
    details = {data: {name: x.tolist() for name, x in e.items()} for data, e in found.items()}
    save_metrics(arguments.output, arguments, summary, rmse=details)


if __name__ == "__main__":
    main()
