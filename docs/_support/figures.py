"""Pictures made by the examples of the pages, as SVG inside the page."""

from __future__ import annotations

import html
import io
import re

import matplotlib as mpl

mpl.use("agg")

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

# Okabe and Ito's palette: told apart with any kind of colour vision, and legible on light and dark pages.
COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"]

plt.rcParams.update(
    {
        "axes.grid": True,
        "axes.prop_cycle": mpl.cycler(color=COLOURS),
        "axes.labelsize": 11,
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


MANY = 300
"""Markers of one line from which on they are one picture: as many elements take a browser seconds."""


def svg(figure: Figure, description: str) -> str:
    """The figure, to be printed by a block with `html="true"`; the description is for readers who cannot see it.

    Black becomes the colour of the text around it, so that the picture is readable on a light and on a dark page.
    """
    text = io.StringIO()
    for line in (line for axes in figure.axes for line in axes.lines):
        if len(line.get_xdata()) > MANY and line.get_marker() not in ("", "None", None):
            line.set_rasterized(True)
    figure.savefig(text, format="svg", dpi=200, metadata={"Date": None, "Creator": None})
    plt.close(figure)
    image = text.getvalue()
    image = image[image.index("<svg") :].replace("#000000", "currentColor")
    image = re.sub(r"\s*<metadata>.*?</metadata>", "", image, flags=re.DOTALL)
    # matplotlib gives no fill where it means black
    image = image.replace("<svg ", f'<svg role="img" aria-label="{html.escape(description)}" fill="currentColor" ', 1)
    return f'<div class="figure">{image}</div>'
