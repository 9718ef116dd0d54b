"""Pictures of what one prediction has wrong, for pages on which many predictions stand side by side.

Invariant: whoever draws says the scale, so that equal colours and equal heights are equal errors on every page.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from numpy.typing import NDArray

from emukit.data.grid import Grid
from emukit.figures.curves import Curves, draw_curves
from emukit.figures.figure import MEMBERS, PREDICTION, drawing, legend_below, sheet
from emukit.figures.maps import draw_coast, draw_map

Array = NDArray[np.float64]

# Colours of a scale: few enough to tell apart and to name a value by. Ten on each side of zero, which has no tint.
LEVELS = 21
# Between a letter and its ground.
GREYS = 6


@dataclass(frozen=True, eq=False)
class Field:
    """An error on the map.

    Attributes:
        colours: A diverging colour map of matplotlib, which the data card says of its variable.
        label: What it is an error of, with its unit.
        numbers: Its area means, in words.
        error: (Y, X).
        members: (M, Y) zonal means of the same error of other members of the climate model.
    """

    colours: str
    label: str
    numbers: str
    error: Array
    members: Array


def map_colours(names: Iterable[str]) -> list[str]:
    """All colours of maps: those of colour maps by their names, and greys for lines and letters."""
    return [c for name in names for c in scale_colours(name)] + [to_hex((g, g, g)) for g in np.linspace(0, 1, GREYS)]


def scale_colours(name: str) -> list[str]:
    """The colours of a scale, from its lower end."""
    levels = colormaps[name].resampled(LEVELS)
    return [to_hex(levels(i)) for i in range(LEVELS)]


def draw_error_maps(
    fields: Mapping[str, Field], grid: Grid, scales: Mapping[str, float], title: str, *, earth: bool
) -> Figure:
    """Maps, two a row, each with its own colour bar.

    Args:
        fields: By the name of the quantity, (Y, X) errors in the units that the name says.
        grid: Of the errors.
        scales: Quantity to the limit of its scale.
        title: Of the figure.
        earth: Whether it is the Earth, so that its coasts are drawn.
    """
    rows = (len(fields) + 1) // 2
    with drawing():
        figure = sheet(title, 9.0, 0.5 + 2.3 * rows)
        cells = figure.subplots(rows, 2, squeeze=False).ravel()
        for axes, (name, field) in zip(cells, fields.items(), strict=False):
            colours = colormaps[field.colours].resampled(LEVELS)
            mesh = draw_map(axes, grid, field.error, scales[name], colours)
            if earth:
                draw_coast(axes)
            axes.set_title(f"{field.label}\n{field.numbers}", loc="left", fontsize=9)
            figure.colorbar(mesh, ax=axes, extend="both", aspect=16, pad=0.02)
        for axes in cells[len(fields) :]:
            axes.remove()
    return figure


def draw_zonal(fields: Mapping[str, Field], grid: Grid, scales: Mapping[str, float], title: str) -> Figure:
    """Zonal means of errors over latitude, with those of other members; arguments as for `draw_error_maps`."""
    with drawing():
        figure = sheet(title, 11.0, 3.6)
        line = figure.subplots(1, len(fields), squeeze=False, sharey=True)[0]
        # As wide as the area of a band of latitude: the tropics are half the globe.
        height = np.sin(np.deg2rad(grid.lat))
        for axes, (name, field) in zip(line, fields.items(), strict=True):
            for i, member in enumerate(field.members):
                label = "" if i else f"other members of the climate model ({len(field.members)})"
                axes.plot(member, height, color=MEMBERS, lw=1.0, alpha=0.8, label=label)
            axes.plot(field.error.mean(1), height, color=PREDICTION, lw=1.8, label="prediction")
            axes.axvline(0, color="black", lw=0.8, zorder=1)
            axes.set_xlim(-scales[name], scales[name])
            # A line of its own for each part: side by side, panels are narrower than the words.
            axes.set_title(field.label.replace(", ", "\n", 1).replace(" over ", "\nover "), loc="left", fontsize=9)
        ticks = np.array([-60, -30, 0, 30, 60])
        line[0].set_yticks(np.sin(np.deg2rad(ticks)), ["60°S", "30°S", "0°", "30°N", "60°N"])
        line[0].set_ylim(-1, 1)
        legend_below(figure, line[0])
    return figure


def draw_distribution(curves: Curves, label: str, title: str) -> Figure:
    """How often cells have which amount in a month, on logarithmic axes; curves over the amount."""
    with drawing():
        figure = sheet(title, 8.0, 3.8)
        axes = figure.subplots()
        # A logarithm has no place for nothing.
        members, predictions = (np.where(p > 0, p, np.nan) for p in (curves.members, curves.predictions))
        draw_curves(axes, replace(curves, members=members, predictions=predictions))
        # In units that nobody foresaw there may be no amount of these sizes, and a logarithm needs one.
        any_at_all = bool(np.isfinite(members).any() or np.isfinite(predictions).any())
        axes.set(xscale="log", xlabel=label, ylabel="share of area and months\nper factor e")
        if any_at_all:
            axes.set_yscale("log")
            axes.set_ylim(bottom=1e-5)
        legend_below(figure, axes)
    return figure
