"""Validates the solver by itself: six linear ODEs against their closed forms, and against what one would take instead.

1. The largest errors of y, y' and y'' on t in [0, 10], s = 0.01, relative to the largest value of each: `solve_ode` in
   both dtypes and with both schemes for every R from the order of the ODE to 4; the published solver (`smnn_cholesky`)
   for the same R; the other baselines for the published R (2; 3 for the third-order ODE). --quick leaves those that
   take a dense matrix out in float32.
2. The check: is every error of ours at or under the published solver's for the same R and dtype? "At" means within
   1 %: TAYLOR poses the published least-squares problem, so where discretisation rules, the errors are the same. Beside
   an exception stands the error of the exact minimiser, by elimination in extended precision.
3. diffrax and torchdiffeq on 512 oscillators x 1000 points, time against error (`_alternatives`).

    python examples/standalone.py [--quick | --smoke] [--seed 0]

Source: the choice of ODEs from Chen et al., Scalable Mechanistic Neural Networks, ICLR 2025; see `_linear_odes`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import _alternatives as alternatives
import matplotlib.pyplot as plt
import numpy as np
import torch
from _experiment import COLOURS, command_line, print_table, save_metrics, save_picture
from _linear_odes import ODES, LinearODE
from matplotlib.figure import Figure
from torch import Tensor
from tqdm import tqdm

from benchmarks.baselines import dense_least_squares, mnn_conjugate_gradient, mnn_dense, smnn_cholesky
from smnn_torch import HERMITE, TAYLOR, solve_ode

DTYPES = {"float64": torch.float64, "float32": torch.float32}
OURS: dict[str, partial[Tensor]] = {
    "ours, TAYLOR": partial(solve_ode, scheme=TAYLOR),
    "ours, HERMITE": partial(solve_ode, scheme=HERMITE),
}
PUBLISHED = "smnn_cholesky"
DENSE: dict[str, Callable[..., Tensor]] = {"dense_least_squares": dense_least_squares, "mnn_dense": mnn_dense}
OTHERS: dict[str, Callable[..., Tensor]] = {"mnn_conjugate_gradient": mnn_conjugate_gradient, **DENSE}
TOLERANCES = {
    "full": tuple(10.0**-k for k in range(3, 11)),
    "quick": (1e-3, 1e-5, 1e-8, 1e-10),
    "smoke": (1e-6,),
}
SAME = 1.01
"""errors whose ratio is below this are the same"""


@dataclass(frozen=True)
class Result:
    """The errors of one solver on one ODE; NaN where it broke down."""

    ode: str
    R: int
    dtype: str
    solver: str
    errors: tuple[float, ...]
    """of y, y', y'' (as far as R goes), relative to the largest value of each"""


def errors(ode: LinearODE, solve: Callable[..., Tensor], t: np.ndarray, R: int, dtype: str) -> tuple[float, ...]:
    """See `Result`."""
    try:
        y = solve(*ode.arguments(t, R, DTYPES[dtype])).double().numpy()
    except torch.linalg.LinAlgError:  # the normal equations are not positive definite in this precision
        return (np.nan,) * min(3, R + 1)
    return errors_of(y, ode, t)


def errors_of(y: np.ndarray, ode: LinearODE, t: np.ndarray) -> tuple[float, ...]:
    """See `Result`; y (T, 1, R+1)."""
    exact = [ode.exact(t, r) for r in range(min(3, y.shape[-1]))]
    return tuple(float(np.abs(y[:, 0, r] - x).max() / np.abs(x).max()) for r, x in enumerate(exact))


def validate(t: np.ndarray, dense_dtypes: tuple[str, ...]) -> list[Result]:
    """All solvers on all ODEs."""
    runs = []
    for ode in ODES:
        for dtype in DTYPES:
            same_R = {**OURS, PUBLISHED: smnn_cholesky}
            runs += [(ode, R, dtype, name, f) for R in range(ode.order, 5) for name, f in same_R.items()]
            others = {name: f for name, f in OTHERS.items() if name not in DENSE or dtype in dense_dtypes}
            runs += [(ode, ode.published_R, dtype, name, f) for name, f in others.items()]
    return [
        Result(ode.name, R, dtype, name, errors(ode, solve, t, R, dtype))
        for ode, R, dtype, name, solve in tqdm(runs, desc="six linear ODEs", unit="solve")
    ]


def is_published_setting(result: Result) -> bool:
    return any(ode.name == result.ode and ode.published_R == result.R for ode in ODES)


@dataclass(frozen=True)
class Comparison:
    """One error of ours beside the published solver's for the same R and dtype."""

    ode: str
    R: int
    dtype: str
    solver: str
    derivative: str
    ours: float
    published: float

    @property
    def holds(self) -> bool:
        """At or under. A published solver that breaks down (NaN) is worse than any number."""
        return bool(np.isfinite(self.ours) and not self.ours > SAME * self.published)


def compare(results: list[Result]) -> list[Comparison]:
    """Every error of ours with the published solver's."""
    published = {(x.ode, x.R, x.dtype): x.errors for x in results if x.solver == PUBLISHED}
    return [
        Comparison(x.ode, x.R, x.dtype, x.solver, "y" + "'" * r, ours, theirs)
        for x in results
        if x.solver in OURS
        for r, (ours, theirs) in enumerate(zip(x.errors, published[x.ode, x.R, x.dtype], strict=True))
    ]


def show(results: list[Result]) -> None:
    """The errors, a table for every dtype."""
    for dtype in DTYPES:
        print(f"\nlargest error in {dtype} of y, y', y'', relative to the largest value (nan: broke down)\n")
        rows, before = [], ""
        for x in (x for x in results if x.dtype == dtype):
            name = x.ode if x.ode != before else ""
            before = x.ode
            cells = [f"{e:.1e}" for e in x.errors] + ["-"] * (3 - len(x.errors))
            rows.append([name, x.R, x.solver, *cells])
        print_table(["ODE", "R", "solver", "y", "y'", "y''"], rows)


def error_of_minimiser(c: Comparison, t: np.ndarray) -> float:
    """The error that no solver of the same least-squares problem is under but by its own rounding."""
    from benchmarks import reference

    ode = next(ode for ode in ODES if ode.name == c.ode)
    arguments = [x.numpy()[None] for x in ode.arguments(t, c.R, DTYPES[c.dtype])]
    y, _ = reference.solve(*arguments, scheme=OURS[c.solver].keywords["scheme"])
    return errors_of(y[0], ode, t)[len(c.derivative) - 1]


def show_check(comparisons: list[Comparison], t: np.ndarray) -> tuple[int, int]:
    """The check and its exceptions; how many hold, and how many hold for the published R."""
    held = [c for c in comparisons if c.holds]
    standard = [c for c in held if is_published_setting(c)]
    of = sum(is_published_setting(c) for c in comparisons)
    print(f"\nerrors at or under the published solver's, same R and dtype: {len(held)} of {len(comparisons)},")
    print(f"of those with the published R: {len(standard)} of {of}")
    if len(held) < len(comparisons):
        print("the exceptions:\n")
        print_table(
            ["ODE", "R", "dtype", "solver", "of", "ours", "published", "exact minimiser"],
            [
                [c.ode, c.R, c.dtype, c.solver, c.derivative]
                + [f"{x:.2e}" for x in (c.ours, c.published, error_of_minimiser(c, t))]
                for c in comparisons
                if not c.holds
            ],
        )
    return len(held), len(standard)


def picture(results: list[Result], step: float) -> Figure:
    """The errors of y, y' and y'' for the published R."""
    figure, axes = plt.subplots(2, 3, figsize=(13, 8), sharex=True, sharey=True)
    solvers = [*OURS, PUBLISHED, *OTHERS]
    names = [f"{ode.name}\n{ode.equation}, R = {ode.published_R}" for ode in ODES]
    for row, dtype in zip(axes, DTYPES, strict=True):
        for r, ax in enumerate(row):
            for k, (solver, marker) in enumerate(zip(solvers, "oDsv^X", strict=True)):
                found = {
                    x.ode: x.errors
                    for x in results
                    if (x.dtype, x.solver) == (dtype, solver) and is_published_setting(x)
                }
                values = np.array([found[ode.name][r] if ode.name in found else np.nan for ode in ODES])
                place = np.arange(len(ODES)) + 0.11 * (k - 2.5)
                failed = np.array([ode.name in found for ode in ODES]) & ~np.isfinite(values)
                style = {"color": COLOURS[k], "marker": marker, "ls": "", "ms": 6}
                ax.plot(np.where(failed, 30.0, values), place, **style, label=solver)
            ax.axvspan(10, 1e2, color="0.92", zorder=0)
            ax.set(xscale="log", xlim=(1e-11, 1e2), title=f"{'y' + chr(39) * r}, {dtype}")
            ax.set_yticks(range(len(ODES)), names, fontsize=8)
    axes[0, 0].invert_yaxis()
    for ax in axes[-1]:
        ax.set_xlabel("largest error / largest value (grey: breaks down)")
    figure.suptitle(f"six linear ODEs on [0, 10], s = {step:g}, against their closed forms")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=6)
    return figure


def show_alternatives(points: list[alternatives.Point]) -> list[dict[str, Any]]:
    """Time against error, and what reaches our errors; rows for the summary."""
    print("\nthe same batch of oscillators with solvers that choose their steps (ms; float64)\n")
    rows = [[p.method, p.setting, f"{p.error:.1e}", 1e3 * p.solve, 1e3 * p.gradient] for p in points]
    print_table(["method", "setting", "error", "solve", "with gradient"], rows)
    print("\ntheir time over ours at the same error, interpolated between tolerances\n")
    rows, summary = [], []
    for ours in (p for p in points if p.method == alternatives.OURS):
        for method, (solve, gradient) in alternatives.at_the_same_error(points, ours.error).items():
            solve, gradient = solve / ours.solve, gradient / ours.gradient
            rows.append([f"{ours.setting} ({ours.error:.0e})", method, f"{solve:.2g}", f"{gradient:.2g}"])
            if ours.setting == "R = 3":
                metric = f"gradient: time of {method} over ours"
                summary.append({"metric": metric, "ours": gradient, "note": f"at an error of {ours.error:.0e}"})
    print_table(["ours", "instead", "solve", "with gradient"], rows)
    return summary


def summarise(results: list[Result], comparisons: list[Comparison], held: tuple[int, int]) -> list[dict[str, Any]]:
    """Rows for `metrics.json`."""
    of = len(comparisons), sum(is_published_setting(c) for c in comparisons)
    rows: list[dict[str, Any]] = [
        {"metric": "errors at or under the published solver's, same R", "ours": f"{held[0]} of {of[0]}"},
        {"metric": "the same, published R only", "ours": f"{held[1]} of {of[1]}"},
    ]
    worst = {
        (solver, dtype): max(
            x.errors[0] if np.isfinite(x.errors[0]) else np.inf
            for x in results
            if x.solver == solver and x.dtype == dtype and is_published_setting(x)
        )
        for solver in (*OURS, PUBLISHED)
        for dtype in DTYPES
    }
    rows += [
        {
            "metric": f"worst error of y, published R, {solver.split()[-1]}, {dtype}",
            "ours": worst[solver, dtype],
            "published": worst[PUBLISHED, dtype] if np.isfinite(worst[PUBLISHED, dtype]) else "breaks down",
            "note": "published: its algorithm, run here",
        }
        for solver in OURS
        for dtype in DTYPES
    ]
    return rows


def main() -> None:
    arguments = command_line("standalone", __doc__, resumes=False).parse_args()
    smoke = arguments.size == "smoke"
    n_steps = 20 if smoke else 1000
    t = np.linspace(0, 10, n_steps + 1)
    results = validate(t, tuple(DTYPES) if arguments.size != "quick" else ("float64",))
    show(results)
    comparisons = compare(results)
    held = show_check(comparisons, t)

    task = alternatives.Task.random(*((4, 50) if smoke else (512, 1000)), 0.01, arguments.seed)
    points = alternatives.compare(task, TOLERANCES[arguments.size], not smoke, 1 if smoke else 5)
    summary = [*summarise(results, comparisons, held), *show_alternatives(points)]

    save_picture(picture(results, 10 / n_steps), arguments.output / "standalone.png")
    save_picture(alternatives.picture(points, task), arguments.output / "alternatives.png")
    details = {"results": [asdict(x) for x in results], "alternatives": [asdict(p) for p in points]}
    save_metrics(
        arguments.output, arguments, summary, exceptions=[asdict(c) for c in comparisons if not c.holds], **details
    )


if __name__ == "__main__":
    main()
