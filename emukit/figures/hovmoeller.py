"""Hovmoeller pictures: a field over time and one direction, in which waves are slanted lines and drifts are fades.

Invariant: panels of one variable share one scale, that of their anomalies from the truth's mean; time runs downwards.

After Hovmoeller (1949, doi:10.1111/j.2153-3490.1949.tb01260.x).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from emukit.figures.figure import drawing, sheet
from emukit.figures.maps import edges, round_limit

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Section:
    """One variable.

    Attributes:
        label: With its unit.
        colours: A diverging colour map.
        panels: Title to the (T, X) anomalies.
        apart: Title and (T, X) of their difference, in a scale of its own.
    """

    label: str
    colours: str
    panels: Sequence[tuple[str, Array]]
    apart: tuple[str, Array]


@dataclass(frozen=True, eq=False)
class FigureAxis:
    """What an axis of all panels is.

    Attributes:
        label: In words.
        values: (N,) middles, ascending.
        ticks: Value to its label; matplotlib's own when None.
    """

    label: str
    values: Array
    ticks: dict[float, str] | None = None


def draw_hovmoeller(sections: Sequence[Section], time: FigureAxis, along: FigureAxis, title: str) -> Figure:
    """A row for each variable: the panels side by side, and their difference.

    Args:
        sections: From above.
        time: T, downwards.
        along: X, to the right.
        title: Of the figure.
    """
    columns = len(sections[0].panels) + 1
    with drawing():
        figure = sheet(title, 1.2 + 3.4 * columns, 0.9 + 3.2 * len(sections))
        cells = figure.subplots(len(sections), columns, squeeze=False, sharex=True, sharey=True)
        for line, section in zip(cells, sections, strict=True):
            groups = ((section.panels, line[:-1], section.label), ([section.apart], line[-1:], "difference"))
            for panels, beside, label in groups:
                values = np.concatenate([field.ravel() for _, field in panels])
                limit = round_limit(values[np.isfinite(values)], np.ones(int(np.isfinite(values).sum())))
                for axes, (name, field) in zip(beside, panels, strict=True):
                    mesh = axes.pcolormesh(
                        edges(along.values), edges(time.values), field, cmap=section.colours, vmin=-limit, vmax=limit
                    )
                    axes.set_title(name, loc="left")
                figure.colorbar(mesh, ax=list(beside), label=label, extend="both", aspect=18, pad=0.01)
        first = cells[0, 0]
        first.invert_yaxis()
        if along.ticks is not None:
            first.set_xticks(list(along.ticks), list(along.ticks.values()))
        for axes in cells[-1]:
            axes.set_xlabel(along.label)
        for axes in cells[:, 0]:
            axes.set_ylabel(time.label)
    return figure
