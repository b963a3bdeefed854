"""Parameters of published models in the PEtab format, from many starts: the waterfall of their ends, and the fits.

1. Loads a problem of the benchmark collection (benchmarks/petab): an SBML model with tables of data.
2. Fits it from random starts within the bounds, and evaluates the end by two integrations that share nothing.
3. Leaves two pictures: where the starts ended, and data with fitted observables.

    python examples/petab_models.py [Bruno | Boehm | Bertozzi | ...] [--quick | --smoke] [--seed 0]

Source: the collection of Hass et al., Bioinformatics 35 (2019) 3073; models and data as named there.
"""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from _experiment import command_line, print_table, save_metrics, save_picture

import smnn_petab

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks" / "petab"
DEFAULT = {"full": "Bruno", "quick": "Bruno", "smoke": "Bertozzi"}
STARTS = {"full": 100, "quick": 10, "smoke": 3}
PUBLISHED = {"Bruno": 0.69, "Boehm": 0.024, "Fiedler": 0.081, "Crauste": 0.001}
"""Share of 1,000 starts of fmincon over shooting within 0.1 of the optimum."""


def find(beginning: str) -> Path:
    """The file of the problem whose folder begins so."""
    found = sorted(FOLDER.glob(f"{beginning}*/*.yaml"))
    if len(found) != 1:
        names = sorted(path.name for path in FOLDER.iterdir() if path.is_dir() and "_" in path.name.strip("_"))
        sys.exit(f"{beginning!r} names {len(found)} problems of {names}")
    return found[0]


def main() -> None:
    parser = command_line("petab_models", __doc__ or "", resumes=False)
    parser.add_argument("problem", nargs="?", help="beginning of the problem's name")
    arguments = parser.parse_args()
    name = arguments.problem or DEFAULT[arguments.size]
    problem = smnn_petab.load(find(name))
    print(problem)
    fit = problem.fit(starts=STARTS[arguments.size], seed=arguments.seed, progress=True)
    print(fit, "\n")
    nominal, by_smnn = problem.objective(), problem.objective(fit.parameters, solver="smnn")
    seconds = float(np.median(fit.starts.seconds))
    print_table(
        ["objective", "value"],
        [
            ["of the published parameters", nominal],
            ["of the fit, SciPy's LSODA", fit.objective],
            ["of the fit, smnn.solve", by_smnn],
        ],
    )
    save_picture(fit.waterfall().figure, arguments.output / "petab_models.png")
    save_picture(np.ravel(fit.plot())[0].figure, arguments.output / "petab_models_fits.png")
    plt.close("all")
    share = {"metric": f"starts of {name} that find the optimum", "ours": fit.share(), "more_is_better": True}
    if name in PUBLISHED:
        share["published"] = PUBLISHED[name]
    summary = [
        {
            "metric": f"objective of {name}",
            "ours": fit.objective,
            "published": nominal,
            "note": "negative log-likelihood",
        },
        share,
        {"metric": "the same by smnn.solve, difference", "ours": abs(by_smnn - fit.objective)},
        {"metric": "seconds a start", "ours": seconds, "note": "of processor time"},
    ]
    save_metrics(arguments.output, arguments, summary, parameters=fit.parameters)


if __name__ == "__main__":
    main()
