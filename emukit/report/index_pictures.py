"""What is shown of a run that is scored by what is derived from whole years of days: indices, scores and days of cells.

Invariant: indices and scores are of the prediction and the truth that are scored. A calendar year of fields is in
memory at a time, so that data on disk are shown too.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from emukit.competitions.registry import competition_of
from emukit.data.archive import Archive
from emukit.data.grid import Grid
from emukit.data.split import Span
from emukit.emulators.base import Emulator
from emukit.figures.maps import (
    CellDays,
    IndexMap,
    draw_cell_days,
    draw_index_errors,
    draw_index_maps,
    draw_score_maps,
)
from emukit.metrics.competition import ScoreMaps
from emukit.report.plot_data import area_means, is_earth
from emukit.runs.evaluate import derived_fields

Array = NDArray[np.float64]

# Years whose days are shown of a cell: weather comes near to its mean, and a scenario need not be read twice.
DAYS_OF_YEARS = 20
# Where cells stand among all of them, by their mean score.
RANKS = {"lowest score": 0.0, "median": 0.5, "highest": 1.0}


@dataclass(frozen=True, eq=False)
class ShownIndices:
    """A span in numbers.

    Attributes:
        archive: The data.
        span: What is scored.
        prediction, truth: (N, W, Y, X) of its years.
        scores: By region and by cell.
        cells: Name to the rows of a picture.
    """

    archive: Archive
    span: Span
    prediction: Array
    truth: Array
    scores: ScoreMaps
    cells: dict[str, list[CellDays]]

    @property
    def earth(self) -> bool:
        """Whether coasts are those of the Earth."""
        return is_earth(self.archive)


def collect_indices(emulator: Emulator, archive: Archive, span: Span) -> ShownIndices | None:
    """Predict and derive a span; None of a competition that shows no such maps."""
    maps = competition_of(archive).maps
    if maps is None:
        return None
    prediction, truth = derived_fields(emulator, archive, span)
    scores = maps(prediction, truth)
    return ShownIndices(archive, span, prediction, truth, scores, _cells(emulator, archive, span, scores))


def index_figures(shown: ShownIndices, title: str, *, whole: bool) -> dict[str, tuple[Figure, str]]:
    """Pictures by name, with what they show in words.

    Args:
        shown: A span.
        title: Of all of them.
        whole: Whether prediction and truth stand beside their difference, for which a page has no room.
    """
    competition, grid = competition_of(shown.archive), shown.archive.grid
    maps = [
        _index_map(f"{name} ({competition.units[name]})", shown.prediction[:, i], shown.truth[:, i], grid)
        for i, name in enumerate(competition.variables)
    ]
    draw = draw_index_maps if whole else draw_index_errors
    named = dict(zip(competition.variables, shown.scores.regions, strict=True))
    with np.errstate(invalid="ignore"):
        known = ~np.isnan(shown.scores.regions)
        sums = np.where(known, shown.scores.regions, 0.0).sum(0)
        overall = np.where(known.any(0), sums / np.maximum(known.sum(0), 1), np.nan)
    measure = f"{competition.metrics[0].measure} of a region"
    out = {
        "indices": (
            draw(maps, grid, f"{title}\nmean over the years, prediction less truth", earth=shown.earth),
            "Maps of the mean of each index, prediction less truth: "
            + "; ".join(f"{m.label}: {m.numbers}" for m in maps),
        ),
        "regions": (
            draw_score_maps(
                {"mean of the indices": overall, **named},
                shown.scores.grid,
                f"{title}\nscores by region",
                measure,
                earth=shown.earth,
            ),
            f"Maps of the {measure}, for each index and for their mean.",
        ),
    }
    if shown.cells:
        years = len(next(iter(shown.cells.values()))[0].truth)
        out["days"] = (
            draw_cell_days(shown.cells, f"{title}\ndays of three cells, last {years} years"),
            f"Days of the year in the cells {'; '.join(shown.cells)}: prediction and truth, mean and range of years.",
        )
    return out


def _index_map(label: str, prediction: Array, truth: Array, grid: Grid) -> IndexMap:
    said, true = prediction.mean(0), truth.mean(0)
    return IndexMap(label, said, true, area_means(said - true, grid, squared=True))


def _cells(emulator: Emulator, archive: Archive, span: Span, scores: ScoreMaps) -> dict[str, list[CellDays]]:
    """Days of three cells that are scored: by the mean score of a cell the lowest, the median and the highest."""
    known = ~np.isnan(scores.cells)
    mean = np.where(known, scores.cells, 0.0).sum(0) / np.maximum(known.sum(0), 1)
    counted = np.flatnonzero(known.any(0))
    if not len(counted):
        return {}
    order = counted[np.argsort(mean.ravel()[counted], kind="stable")]
    columns = archive.grid.shape[1]
    places = {name: divmod(int(order[round(rank * (len(order) - 1))]), columns) for name, rank in RANKS.items()}
    scenario, daily = archive[span.scenario], archive.card.daily
    carried = daily.carried if daily else ()
    variables = [v for v, name in enumerate(archive.variables) if name not in carried]
    time = scenario.time
    first = int(np.searchsorted(time.year[: span.stop], time.year[span.stop - 1] - DAYS_OF_YEARS + 1))
    pieces = list(scenario.pieces(max(first, span.start), span.stop))
    years = np.unique(time.year[pieces[0][0] : span.stop])
    shape = (len(places), len(variables), len(years), time.days_of_year)
    said, true = np.full(shape, np.nan), np.full(shape, np.nan)
    for start, stop in pieces:
        at = np.searchsorted(years, time.year[start:stop]), time.day_of_year[start:stop]
        for out, fields in (
            (said, emulator.predict_fields(scenario, start, stop)),
            (true, scenario.truth(span.members[0], start, stop)),
        ):
            for i, (y, x) in enumerate(places.values()):
                for k, v in enumerate(variables):
                    out[i, k][at] = fields[:, v, y, x]
    found = {}
    for i, (name, (y, x)) in enumerate(places.items()):
        where = f"{_degrees(archive.grid.lat[y], 'NS')} {_degrees(archive.grid.lon[x], 'EW')}"
        rows = [
            CellDays(_label(archive, archive.variables[v]), true[i, k], said[i, k]) for k, v in enumerate(variables)
        ]
        found[f"{name}: {where}, {mean[y, x]:+.2f}"] = rows
    return found


def _label(archive: Archive, variable: str) -> str:
    return f"{variable} ({archive.card.targets[variable].units})"


def _degrees(value: float, sides: str) -> str:
    value = (value + 180) % 360 - 180 if sides == "EW" else value
    return f"{abs(value):.1f}°{sides[int(value < 0)]}"
