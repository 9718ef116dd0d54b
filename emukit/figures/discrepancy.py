"""How scenarios depart from the response that all of them share, over time.

Invariant: a line is solid where its scenario was trained on, and dotted where the departure is foretold; a band that is
not known is not drawn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from emukit.figures.figure import drawing, legend_below, sheet

Array = NDArray[np.float64]

# Okabe and Ito (2008): blue, vermilion, green, purple, orange, sky blue.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")


@dataclass(frozen=True, eq=False)
class Departure:
    """The departure of one scenario.

    Attributes:
        years: (N,) middles of years.
        mean: (N,).
        deviation: (N,) one standard deviation; NaN where it is not known.
        trained: Calendar year, with fractions, in which training ends.
    """

    years: Array
    mean: Array
    deviation: Array
    trained: float


def draw_discrepancies(panels: Sequence[tuple[str, Mapping[str, Departure]]], title: str) -> Figure:
    """A panel a variable, a line a scenario.

    Args:
        panels: Label of an axis, and the departures of scenarios by name.
        title: Of the figure.
    """
    with drawing():
        figure = sheet(title, 10.5, 0.9 + 2.6 * len(panels))
        rows = figure.subplots(len(panels), 1, squeeze=False, sharex=True)[:, 0]
        for axes, (label, departures) in zip(rows, panels, strict=True):
            axes.axhline(0.0, color="black", lw=0.6)
            for i, (name, d) in enumerate(departures.items()):
                colour, known = COLOURS[i % len(COLOURS)], d.years <= d.trained
                # The dotted part begins where the solid one ends.
                foretold = ~known | np.append(~known[1:], False)
                axes.plot(d.years[known], d.mean[known], color=colour, label=name)
                axes.plot(d.years[foretold], d.mean[foretold], color=colour, ls=":")
                if np.isfinite(d.deviation).all():
                    low, high = d.mean - d.deviation, d.mean + d.deviation
                    axes.fill_between(d.years, low, high, color=colour, alpha=0.15, lw=0)
            axes.set(ylabel=label)
            axes.margins(x=0.01)
        rows[-1].set_xlabel("year")
        legend_below(figure, rows[0])
    return figure
