"""Pictures of what is derived from whole years of days, such as annual extremes, and of the days behind it.

Invariant: maps of one quantity that stand side by side share a scale; scores have the same scale everywhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from numpy.typing import NDArray

from emukit.data.grid import Grid
from emukit.figures.figure import MEMBERS, PREDICTION, REALISATIONS, TRUTH, drawing, legend_below, sheet
from emukit.figures.maps import INSIDE, LEVELS, SEQUENTIAL, draw_coast, draw_map, scale

Array = NDArray[np.float64]

# Of differences and of scores: red is too much, and blue is better.
DIFFERENCES, SCORES = "RdBu_r", "RdBu"
COLUMNS = 3
FIRST_DAYS = (0, 59, 120, 181, 243, 304)
DAY_NAMES = ("Jan", "Mar", "May", "Jul", "Sep", "Nov")


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
