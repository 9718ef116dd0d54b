"""Maps of what a prediction has wrong, next to what another member of the climate model has, and of many predictions.

Invariant: panels of one quantity share one scale, so that equal colours are equal errors: symmetric about zero, or from
zero of what is never negative. On pages where many predictions stand side by side, the caller sets the scale. North is
up; longitudes run eastward from 0, the prime meridian at both ends, and so do the coastlines. These are Natural Earth's
(public domain); the file next to this module says which edition and how simplified.

Of what is derived from whole years of days, such as annual extremes, maps of one quantity that stand side by side
share a scale; scores have the same scale everywhere.

A Hovmoeller picture (1949, doi:10.1111/j.2153-3490.1949.tb01260.x) is a map over time and one direction, in which waves
are slanted lines and drifts are fades. Its panels share the scale of their anomalies from the truth's mean; time runs
downwards.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, QuadMesh
from matplotlib.colors import Colormap, to_hex
from matplotlib.figure import Figure
from numpy.typing import NDArray

from emukit.data.grid import Grid
from emukit.figures.figure import MEMBERS, PREDICTION, REALISATIONS, TRUTH, drawing, legend_below, sheet

Array = NDArray[np.float64]

# So much of the area is inside the scale; one cell of an ice edge would make everything else pale.
INSIDE = 0.98
# Of what is never negative.
SEQUENTIAL = "viridis"
FILE = Path(__file__).with_name("coastline.json")
TENTHS = 10
# Colours of a scale: few enough to tell apart and to name a value by. Ten on each side of zero, which has no tint.
LEVELS = 21
# Between a letter and its ground.
GREYS = 6
# Of differences and of scores: red is too much, and blue is better.
DIFFERENCES, SCORES = "RdBu_r", "RdBu"
COLUMNS = 3
FIRST_DAYS = (0, 59, 120, 181, 243, 304)
DAY_NAMES = ("Jan", "Mar", "May", "Jul", "Sep", "Nov")


@dataclass(frozen=True, eq=False)
class Panel:
    """One map.

    Attributes:
        title: Whose error it is, and its area means.
        error: (Y, X).
    """

    title: str
    error: Array


@dataclass(frozen=True, eq=False)
class MapRow:
    """Maps of one quantity.

    Attributes:
        colours: A diverging colour map of matplotlib, which the data card says of its variable.
        label: What is shown, with its unit.
        panels: Side by side, in one scale.
        apart: Next to them, in a scale of its own.
        positive: Whether the panels are never negative: from zero, in a sequential colour map.
    """

    colours: str
    label: str
    panels: Sequence[Panel]
    apart: Panel | None = None
    positive: bool = False


def draw_maps(rows: Sequence[MapRow], grid: Grid, title: str, *, earth: bool) -> Figure:
    """Rows of maps under each other; every row has as many as the first.

    Args:
        rows: From above.
        grid: Of all fields.
        title: Of the figure.
        earth: Whether it is the Earth, so that its coasts are drawn.
    """
    columns = len(rows[0].panels) + (rows[0].apart is not None)
    with drawing():
        wide = 5.2 if columns < 3 else 4.2
        figure = sheet(title, 1.2 + wide * columns, 0.6 + (0.15 + wide / 2) * len(rows))
        cells = figure.subplots(len(rows), columns, squeeze=False)
        for line, row in zip(cells, rows, strict=True):
            for panels, beside in (
                (row.panels, list(line[: len(row.panels)])),
                ([row.apart] if row.apart else [], list(line[len(row.panels) :])),
            ):
                limit = scale([p.error for p in panels], grid) if panels else 1.0
                for axes, panel in zip(beside, panels, strict=True):
                    low = 0.0 if row.positive and panels is row.panels else None
                    colours = row.colours if low is None else SEQUENTIAL
                    mesh = draw_map(axes, grid, panel.error, limit, colours, low)
                    axes.set_title(panel.title, loc="left")
                    if earth:
                        draw_coast(axes)
                if panels:
                    label = row.label if panels is row.panels else "difference"
                    extend = "max" if row.positive and panels is row.panels else "both"
                    figure.colorbar(mesh, ax=beside, label=label, extend=extend, aspect=14, pad=0.01)
        for axes in cells[:, 1:].flat:
            axes.tick_params(labelleft=False)
        for axes in cells[:-1].flat:
            axes.tick_params(labelbottom=False)
    return figure


def draw_map(
    axes: Axes,
    grid: Grid,
    field: NDArray[np.floating],
    limit: float,
    colours: str | Colormap,
    low: float | None = None,
) -> QuadMesh:
    """One field on its grid, from -limit to limit: the one place where maps are drawn.

    Args:
        axes: Where.
        grid: Of the field; rows may be unevenly spaced.
        field: (Y, X).
        limit: Of the scale.
        colours: A diverging colour map, or its name.
        low: Where the scale begins, if not at -limit.
    """
    lon, lat = edges(grid.lon), np.clip(edges(grid.lat), -90.0, 90.0)
    west, east = lon[0], lon[-1]
    if np.isclose(east - west, 360.0):
        # Round the globe, the cell that lies across the prime meridian is shown on both sides.
        lon = np.concatenate([[lon[-2] - 360.0], lon, [lon[1] + 360.0]])
        field = np.concatenate([field[:, -1:], field, field[:, :1]], axis=1)
        west, east = 0.0, 360.0
    mesh = axes.pcolormesh(lon, lat, field, cmap=colours, vmin=-limit if low is None else low, vmax=limit)
    axes.set_xticks(np.arange(0, 361, 60), [f"{x}°" for x in range(0, 361, 60)])
    axes.set_yticks(np.arange(-60, 61, 30), ["60°S", "30°S", "0°", "30°N", "60°N"])
    axes.set(xlim=(west, east), ylim=(lat[0], lat[-1]))
    return mesh


def draw_coast(axes: Axes) -> None:
    """The Earth's coasts on a map, without a change of its limits."""
    # Thin and dark: read on pale and on strong colours, and no colour of either scale.
    axes.add_collection(LineCollection(list(coastline()), colors="#222222", linewidths=0.6), autolim=False)


def scale(errors: Sequence[Array], grid: Grid) -> float:
    """The limit of a scale for errors on one grid, as `round_limit` finds it."""
    return round_limit(np.concatenate([e.ravel() for e in errors]), np.tile(grid.weights.ravel(), len(errors)))


def round_limit(values: Array, area: Array) -> float:
    """The limit of a scale that holds 98 % of the area, rounded up to 1, 1.5, 2, 3, 4, 5, 6 or 8 tens.

    Args:
        values: (N,) errors.
        area: (N,) what each counts.
    """
    size = np.abs(values)
    order = np.argsort(size)
    summed = np.cumsum(area[order])
    largest = float(size[order[min(int(np.searchsorted(summed, INSIDE * summed[-1])), len(size) - 1)]])
    if not largest > 0:
        return 1.0
    ten = 10.0 ** np.floor(np.log10(largest))
    return float(next(s for s in (1, 1.5, 2, 3, 4, 5, 6, 8, 10) if s * ten >= largest * (1 - 1e-9)) * ten)


def edges(centres: Array) -> Array:
    """(N + 1,) edges halfway between N ascending centres, and as far outside the outermost."""
    middle = (centres[1:] + centres[:-1]) / 2
    return np.concatenate([[2 * centres[0] - middle[0]], middle, [2 * centres[-1] - middle[-1]]])


@cache
def coastline() -> tuple[NDArray[np.float64], ...]:
    """Lines as (N, 2) longitudes and latitudes in degrees."""
    plain = json.loads(FILE.read_text(encoding="utf-8"))
    lines = [np.array(line, np.float64).reshape(-1, 2) / TENTHS for line in plain["lines"]]
    return tuple(part for line in lines for part in _east_of_greenwich(line))


def _east_of_greenwich(line: NDArray[np.float64]) -> list[NDArray[np.float64]]:
    """A line from -180 to 180 degrees as lines from 0 to 360, cut where it crosses the prime meridian."""
    lon, lat = line[:, 0] % 360.0, line[:, 1]
    parts: list[list[tuple[float, float]]] = [[(float(lon[0]), float(lat[0]))]]
    for i in range(1, len(line)):
        step = lon[i] - lon[i - 1]
        if abs(step) > 180.0:
            eastward = step < 0
            here, there = (360.0, 0.0) if eastward else (0.0, 360.0)
            # The way round the back of the globe is never the shorter one.
            share = (here - lon[i - 1]) / (step + (360.0 if eastward else -360.0))
            crossing = float(lat[i - 1] + share * (lat[i] - lat[i - 1]))
            parts[-1].append((here, crossing))
            parts.append([(there, crossing)])
        parts[-1].append((float(lon[i]), float(lat[i])))
    return [np.array(part) for part in parts if len(part) > 1]


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
        # Four panels a row: more of them side by side are narrower than their words.
        columns = min(len(fields), 4)
        rows = -(-len(fields) // columns)
        figure = sheet(title, 11.0, 0.6 + 3.0 * rows)
        line = figure.subplots(rows, columns, squeeze=False, sharey=True).ravel()
        # As wide as the area of a band of latitude: the tropics are half the globe.
        height = np.sin(np.deg2rad(grid.lat))
        for axes, (name, field) in zip(line, fields.items(), strict=False):
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
        for axes in line[len(fields) :]:
            axes.remove()
        legend_below(figure, line[0])
    return figure


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


@dataclass(frozen=True, eq=False)
class IndexMap:
    """The mean over years of one index.

    Attributes:
        label: With its unit.
        prediction, truth: (Y, X).
        numbers: Area means of the difference, in words.
    """

    label: str
    prediction: Array
    truth: Array
    numbers: str


@dataclass(frozen=True, eq=False)
class CellDays:
    """A variable through the year in one cell.

    Attributes:
        label: With its unit.
        truth, prediction: (K, D) years by days; NaN of days that are missing.
    """

    label: str
    truth: Array
    prediction: Array


def draw_index_errors(maps: Sequence[IndexMap], grid: Grid, title: str, *, earth: bool) -> Figure:
    """Prediction less truth of every index, each in a scale of its own."""
    rows = -(-len(maps) // COLUMNS)
    with drawing():
        figure = sheet(title, 12.9, 0.6 + 2.2 * rows)
        cells = figure.subplots(rows, COLUMNS, squeeze=False).ravel()
        for axes, one in zip(cells, maps, strict=False):
            error = one.prediction - one.truth
            colours = colormaps[DIFFERENCES].resampled(LEVELS)
            mesh = draw_map(axes, grid, error, scale([error], grid), colours)
            if earth:
                draw_coast(axes)
            axes.set_title(f"{one.label}: {one.numbers}", loc="left", fontsize=8)
            figure.colorbar(mesh, ax=axes, extend="both", aspect=14, pad=0.02)
        _finish(cells, len(maps))
    return figure


def draw_index_maps(maps: Sequence[IndexMap], grid: Grid, title: str, *, earth: bool) -> Figure:
    """Prediction, truth and their difference of every index, an index a row."""
    with drawing():
        figure = sheet(title, 13.8, 0.6 + 2.25 * len(maps))
        cells = figure.subplots(len(maps), 3, squeeze=False)
        for line, one in zip(cells, maps, strict=True):
            both = np.concatenate([one.prediction.ravel(), one.truth.ravel()])
            low, high = np.quantile(both, [(1 - INSIDE) / 2, (1 + INSIDE) / 2])
            high = high if high > low else low + 1.0
            for axes, field, name in zip(line, (one.prediction, one.truth), ("prediction", "truth"), strict=False):
                mesh = draw_map(axes, grid, field, float(high), SEQUENTIAL, float(low))
                axes.set_title(f"{one.label}, {name}", loc="left", fontsize=9)
            figure.colorbar(mesh, ax=list(line[:2]), extend="both", aspect=14, pad=0.01)
            error = one.prediction - one.truth
            mesh = draw_map(line[2], grid, error, scale([error], grid), DIFFERENCES)
            line[2].set_title(one.numbers, loc="left", fontsize=9)
            figure.colorbar(mesh, ax=line[2], extend="both", aspect=14, pad=0.02)
            for axes in line if earth else ():
                draw_coast(axes)
        for axes in cells[:, 1:].flat:
            axes.tick_params(labelleft=False)
        for axes in cells[:-1].flat:
            axes.tick_params(labelbottom=False)
    return figure


def draw_score_maps(scores: Mapping[str, Array], grid: Grid, title: str, measure: str, *, earth: bool) -> Figure:
    """Scores of regions on the map, from -1 to 1; cells that are in no score are left white.

    Args:
        scores: By name, (Y, X); NaN where nothing is scored.
        grid: Of the maps.
        title: Of the figure.
        measure: What the scores are.
        earth: Whether it is the Earth, so that its coasts are drawn.
    """
    rows = -(-len(scores) // COLUMNS)
    with drawing():
        figure = sheet(title, 12.9, 1.0 + 2.1 * rows)
        cells = figure.subplots(rows, COLUMNS, squeeze=False).ravel()
        for axes, (name, field) in zip(cells, scores.items(), strict=False):
            mesh = draw_map(axes, grid, field, 1.0, colormaps[SCORES].resampled(LEVELS))
            if earth:
                draw_coast(axes)
            axes.set_title(name, loc="left", fontsize=9)
        figure.colorbar(mesh, ax=list(cells), orientation="horizontal", aspect=50, pad=0.01, label=measure)
        _finish(cells, len(scores))
    return figure


def draw_cell_days(cells: Mapping[str, Sequence[CellDays]], title: str) -> Figure:
    """The year of some cells, day by day: a cell a column, a variable a row."""
    number = len(next(iter(cells.values())))
    with drawing():
        figure = sheet(title, 12.9, 0.9 + 2.2 * number)
        axes_of = figure.subplots(number, len(cells), squeeze=False, sharex=True)
        for column, (name, rows) in zip(axes_of.T, cells.items(), strict=True):
            column[0].set_title(name, loc="left", fontsize=9)
            for axes, row in zip(column, rows, strict=True):
                day = np.arange(row.truth.shape[1])
                for years, line, band, who in (
                    (row.truth, TRUTH, MEMBERS, "truth"),
                    (row.prediction, PREDICTION, REALISATIONS, "prediction"),
                ):
                    low, high = np.nanquantile(years, [0.1, 0.9], axis=0)
                    axes.fill_between(day, low, high, color=band, alpha=0.45, lw=0, label=f"{who}, 8 of 10 years")
                    axes.plot(day, np.nanmean(years, 0), color=line, lw=1.0, label=f"{who}, mean")
                axes.set_xticks(FIRST_DAYS, DAY_NAMES)
                axes.margins(x=0.01)
        for axes, row in zip(axes_of[:, 0], next(iter(cells.values())), strict=True):
            axes.set_ylabel(row.label)
        legend_below(figure, axes_of[0, 0])
    return figure


def _finish(cells: NDArray[np.object_], used: int) -> None:
    """Without the axes that show nothing, and with letters at the outer ones alone."""
    for i, axes in enumerate(cells):
        if i >= used:
            axes.remove()
            continue
        axes.tick_params(labelleft=i % COLUMNS == 0, labelbottom=i + COLUMNS >= used)
