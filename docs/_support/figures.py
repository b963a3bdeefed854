"""Pictures made by the examples of the pages, as SVG inside the page."""

from __future__ import annotations

import html
import io
import re

import matplotlib as mpl

mpl.use("agg")

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

COLOURS = ["#00897b", "#e65100", "#3949ab", "#8e24aa", "#6d4c41", "#546e7a"]

plt.rcParams.update(
    {
        "axes.grid": True,
        "axes.prop_cycle": mpl.cycler(color=COLOURS),
        "axes.spines.right": False,
        "axes.spines.top": False,
        "figure.constrained_layout.use": True,
        "figure.figsize": (7.2, 3.4),
        "grid.alpha": 0.3,
        "legend.frameon": False,
        "savefig.transparent": True,
        "svg.fonttype": "path",
        "svg.hashsalt": "smnn",
    }
)


def show(figure: Figure, description: str) -> None:
    """Prints the figure for a block with `html="true"`, with the description for readers who cannot see it.

    Black becomes the colour of the text around it, so that the picture is readable on a light and on a dark page.
    """
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    plt.close(figure)
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"#000000", "currentColor", svg)
    # matplotlib gives no fill where it means black
    svg = svg.replace("<svg ", f'<svg role="img" aria-label="{html.escape(description)}" fill="currentColor" ', 1)
    print(f'<div class="figure">{svg}</div>')
