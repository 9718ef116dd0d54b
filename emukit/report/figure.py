"""What all pictures share: colours that colour-blind readers tell apart, sizes that are read at 100 %, files.

Invariant: a picture is a function of what it is given. It is drawn without pyplot, and what is set for the drawing is
put back after it; a user's own matplotlib settings do not change it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Vermilion, sky blue and orange of Okabe and Ito (2008), beside greys: they differ in lightness too.
PREDICTION = "#D55E00"
REALISATIONS = "#F5C396"
MEMBERS = "#555555"
SCORED = "#CFE8F7"

DOTS_PER_INCH = 100
# Sizes in points; the smallest is legible at 100 dots per inch.
SIZES: dict[Any, Any] = {
    "font.size": 10,
    "axes.titlesize": 10,
    "axes.labelsize": 9,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 9,
    "figure.titlesize": 12,
    "lines.linewidth": 1.2,
}


@contextmanager
def drawing() -> Iterator[None]:
    """Matplotlib's own defaults with emukit's sizes, until the block ends."""
    with style.context(["default", SIZES]):
        yield


def sheet(title: str, width: float, height: float) -> Figure:
    """An empty figure with its title, in inches; what is put on it is laid out without overlaps."""
    figure = Figure(figsize=(width, height), dpi=DOTS_PER_INCH, layout="constrained")
    figure.suptitle(title, x=0.01, ha="left")
    return figure


def legend_below(figure: Figure, axes: Axes) -> None:
    """One legend for all axes of a figure, under them, from what one of them shows."""
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower left", ncols=len(labels), frameon=False)


def write_png(figure: Figure, path: Path, about: Mapping[str, str]) -> None:
    """Write a figure, with words about it inside the file."""
    with drawing():
        # Laid out once; a figure that keeps its layout engine is laid out for a trial drawing, and again when saved.
        figure.draw_without_rendering()
        figure.set_layout_engine("none")
        figure.savefig(path, format="png", metadata=dict(about))
