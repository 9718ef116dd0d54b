"""The energy budget of the globe over time: what forces it, what it sends back, and where the heat goes.

Invariant: the lines of a panel are in the panel's unit.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from emukit.figures.figure import drawing, sheet

Array = NDArray[np.float64]


def draw_budget(years: Array, panels: Mapping[str, Mapping[str, Array]], title: str) -> Figure:
    """A panel a unit, each with its own legend.

    Args:
        years: (N,) middles of years.
        panels: Label of an axis to the (N,) lines on it, by name.
        title: Of the figure.
    """
    with drawing():
        figure = sheet(title, 1.0 + 4.6 * len(panels), 4.2)
        line = figure.subplots(1, len(panels), squeeze=False)[0]
        for axes, (label, lines) in zip(line, panels.items(), strict=True):
            axes.axhline(0.0, color="black", lw=0.6)
            for name, values in lines.items():
                axes.plot(years, values, label=name)
            axes.set(xlabel="year", ylabel=label)
            axes.margins(x=0.01)
            axes.legend(loc="upper left", frameon=False)
    return figure
