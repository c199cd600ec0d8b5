"""Figures in the paper's look: one narrow column, a serif face, thin lines, no frame at the top and right.

Nothing here needs a display or a LaTeX installation: figures are made without pyplot, in fonts that come
with matplotlib.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import matplotlib
from cycler import cycler
from matplotlib.figure import Figure

COLUMN_WIDTH = 3.25  # inches: one of the two columns of an ICML page
PAGE_WIDTH = 6.75  # inches: both of them

COLORS = ("#0b4f8a", "#c0392b", "#2e8b57", "#8e5ea2", "#d98c00", "#444444")

STYLE = {
    "font.family": "serif",
    "font.serif": ["STIXGeneral"],  # comes with matplotlib, so that a figure is the same on every machine
    "mathtext.fontset": "stix",
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "legend.handlelength": 1.6,
    "axes.linewidth": 0.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.prop_cycle": cycler(color=COLORS),
    "lines.linewidth": 0.9,
    "lines.markersize": 3,
    "xtick.major.width": 0.5,
    "ytick.major.width": 0.5,
    "xtick.minor.width": 0.3,
    "ytick.minor.width": 0.3,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "xtick.minor.size": 1.5,
    "ytick.minor.size": 1.5,
    "grid.linewidth": 0.3,
    "image.interpolation": "nearest",
    "savefig.dpi": 300,
    "pdf.fonttype": 42,
}


def paper_style() -> AbstractContextManager[None]:
    """Return a context in which figures are made, and must be saved, to have the paper's look."""
    return matplotlib.rc_context(STYLE)


def new_figure(
    rows: int = 1, columns: int = 1, width: float = COLUMN_WIDTH, height: float = 2.0, **subplots: Any
) -> tuple[Figure, Any]:
    """Return a figure of width x height inches, and its axes: one, or an array of them.

    subplots: passed on to `Figure.subplots`, for example sharey=True or subplot_kw={"projection": "3d"}.
    """
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(rows, columns, **subplots)


def save_figure(figure: Figure, path: Path) -> list[Path]:
    """Save as path.pdf and path.png and return both; the same figure gives the same bytes on any day."""
    files = {path.with_suffix(".pdf"): {"CreationDate": None}, path.with_suffix(".png"): {"Software": None}}
    for file, metadata in files.items():
        figure.savefig(file, metadata=metadata)
    return list(files)
