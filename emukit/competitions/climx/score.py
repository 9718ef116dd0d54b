"""How ClimX scores: a normalised Nash-Sutcliffe efficiency for each of fifteen indices of the years, over land regions.

Indices are computed from daily fields, prediction and truth alike. Percentiles are of the base period of the historical
run alone, which trains under every protocol; no year that is scored moves a threshold.

Invariant: the years that are scored are the years that are given. Mean and variance are of those years alone, so the
score of a part (a public or private split) is not the score of the whole restricted to it.

Sources: the competition's scorer (higher is better, 0 is the time mean, the limit is -1). Regions: IPCC AR6 reference
regions, land and land-ocean, on the 192 x 288 grid (Iturbide et al., Earth System Science Data, 2020, CC BY 4.0).
Nothing has been published that says how the uncertainty track is scored: `crps_efficiency` is emukit's reading.

Dimension letters: K years, E ensemble members, Y, X cells.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emukit.data.archive import Archive
from emukit.data.grid import Grid
from emukit.data.protocol import HISTORICAL
from emukit.errors import ProtocolError
from emukit.files import shipped
from emukit.metrics import Competition, Metric, Moments
from emukit.metrics.competition import Detail, ScoreMaps, StoreFormat
from emukit.metrics.ensemble import crps
from emukit.metrics.extremes import INDICES, UNITS, VARIABLES, Fields, Thresholds, indices_of_year, quantile_of_days

SHAPE = (192, 288)
LAT = np.asarray(np.linspace(-90.0, 90.0, SHAPE[0]), np.float64)
LON = np.arange(SHAPE[1]) * 1.25
# A cell counts where the truth varies by more than this, in the units of the index squared.
LEAST_VARIANCE = 1e-6
# What the organisers' four baselines reach on the hidden ssp245, R95p in mm. Source: their evaluation files.
PUBLISHED = {"climatology": -0.5653, "lps": -0.4487, "nn": -0.4664, "gnn": -0.4826}

Field = NDArray[np.float64]
# The base period of the percentiles if the card does not name one.
BASE_PERIOD = (1961, 1990)
DAYS = 365


@dataclass(frozen=True, eq=False)
class LandRegions:
    """Which land region each cell of the competition's grid lies in.

    Attributes:
        names: Abbreviations of the regions.
        cells: (Y, X) index into `names`, -1 where a cell lies in none.
    """

    names: tuple[str, ...]
    cells: NDArray[np.int64]

    @cached_property
    def weights(self) -> Field:
        """(R, Y X) cosine of latitude where a cell lies in a region, else 0."""
        area = np.broadcast_to(np.cos(np.deg2rad(LAT))[:, None], SHAPE)
        inside = self.cells[None] == np.arange(len(self.names))[:, None, None]
        return np.asarray((inside * area).reshape(len(self.names), -1), np.float64)


@lru_cache(maxsize=1)
def regions() -> LandRegions:
    """The regions of the competition's scorer: 27,871 of the 55,296 cells, seas inside the polygons included."""
    kept = json.loads(shipped("data_cards", "climx-regions.json").read_text(encoding="utf-8"))
    values, lengths = np.array(kept["runs"]).T
    return LandRegions(tuple(kept["names"]), np.repeat(values, lengths).reshape(SHAPE))


@lru_cache(maxsize=4)
def weights_on(shape: tuple[int, ...]) -> tuple[Field, NDArray[np.int64]]:
    """Regions on a grid whose cells are blocks of the competition's, as if each were repeated over its block.

    Args:
        shape: (Y, X) of the grid.

    Returns:
        (R, Y X) the weights of the cells of a block that lie in each region, and (Y X) how many lie in any.

    Raises:
        ValueError: The grid does not divide the competition's.
    """
    y, x = shape
    if y < 1 or x < 1 or SHAPE[0] % y or SHAPE[1] % x:
        raise ValueError(f"a grid of {y} x {x} cells does not divide {SHAPE[0]} x {SHAPE[1]}")
    blocks, where = (y, SHAPE[0] // y, x, SHAPE[1] // x), regions()
    if shape == SHAPE:
        return where.weights, (where.cells >= 0).ravel().astype(np.int64)
    weights = where.weights.reshape(len(where.names), *blocks).sum((2, 4))
    inside = (where.cells >= 0).reshape(blocks).sum((1, 3))
    return weights.reshape(len(where.names), -1), inside.ravel()


@dataclass(frozen=True)
class IndexScore:
    """The score of one index.

    Attributes:
        value: Plain mean over the regions that count; None where no cell counts.
        by_region: Region name to its area-weighted mean; regions without a counted cell are left out.
        cells: How many cells count.
    """

    value: float | None
    by_region: Mapping[str, float]
    cells: int


@dataclass(frozen=True)
class ClimXScore:
    """The scores of all indices and the leaderboard's number."""

    indices: Mapping[str, IndexScore]

    @property
    def value(self) -> float:
        """Plain mean over the indices that have a score; 0 where none has. Higher is better."""
        known = {f"{name}.nnse": score.value for name, score in self.indices.items() if score.value is not None}
        return float(_climx(dict.fromkeys(self.indices, "")).value(known)) if known else 0.0


def competition(units: Mapping[str, str]) -> Competition:
    """The competition for daily stores, whose annual indices are scored, and for stores of these indices by year.

    Files of a submission are told by their layout and scored part by part: `emukit.competitions.climx.parts`.

    Args:
        units: Target variable to its units; the indices among them are scored.
    """
    scored = {name: u for name, u in units.items() if name in UNITS}
    # Without any, what is missing is told by all of them.
    return _climx(scored or UNITS, derived=not scored and set(VARIABLES) <= set(units))


def _climx(scored: Mapping[str, str], derived: bool = False) -> Competition:
    return Competition(
        name="climx",
        title="ClimX",
        units=scored,
        metrics=tuple(map(_metric, scored)),
        weights={f"{name}.nnse": 1 / len(scored) for name in scored},
        higher_is_better=True,
        # An index that varies nowhere has no efficiency.
        skip_missing=True,
        description="mean over the indices of the normalised Nash-Sutcliffe efficiency",
        legend="nNSE: normalised Nash-Sutcliffe efficiency; 1 is exact, 0 the mean of the truth, -1 the limit",
        fits=_misfit,
        derive=derive_indices if derived else None,
        detail=_detail if derived else None,
        ensemble=_ensemble if derived else None,
        maps=_maps if derived else None,
        submission=StoreFormat(packings=("parquet", "csv"), write=_write, note=_note) if derived else None,
    )


def _detail(years: Sequence[int], warming: Field, prediction: Field, truth: Field) -> list[Detail]:
    from emukit.competitions.climx.parts import detail_tables

    return detail_tables(years, warming, prediction, truth)


def _ensemble(members: Field, truth: Field) -> Detail:
    from emukit.competitions.climx.parts import ensemble_table

    return ensemble_table(members, truth)


def _maps(prediction: Field, truth: Field) -> ScoreMaps:
    from emukit.competitions.climx.parts import score_maps

    return score_maps(prediction, truth)


def _write(store: Path, archive: Any, out: Path) -> int:
    # Reads and writes files, which the score of arrays does not need.
    from emukit.competitions.climx.indices import submission_from_store

    return submission_from_store(store, archive, out)


def _note(grid: Grid) -> str:
    if grid.shape == SHAPE:
        return ""
    rows, columns = (n // m for n, m in zip(SHAPE, grid.shape, strict=True))
    return (
        f"each cell stands for {rows} x {columns} cells of the leaderboard, which scores every one of them: the mean "
        "of a block misses its mountains and coasts, and even the true lite fields would score far below 0. "
        "Train on the full files for a place there (docs/climx.md)"
    )


def _metric(index: str) -> Metric:
    return Metric(
        key=f"{index}.nnse",
        heading=index,
        measure="nNSE",
        title=f"{index} nNSE",
        description=f"{index}: normalised Nash-Sutcliffe efficiency, mean over land regions",
        better="higher",
        variable=index,
        function=_efficiency,
    )


def _efficiency(m: Moments, weights: Field) -> Field:
    """(...) of (..., Y, X) sums over years; the regions have weights of their own."""
    variance, error = m.std_truth**2, m.ee / m.n
    with np.errstate(invalid="ignore"):
        ratios, _ = _by_region((variance - error) / (variance + error), variance)
    return _mean_of_known(ratios)


def _misfit(grid: Grid) -> str:
    y, x = grid.shape
    divides = not SHAPE[0] % y and not SHAPE[1] % x
    return "" if divides else f"{y} x {x} cells, which do not divide {SHAPE[0]} x {SHAPE[1]}"


def score_index(truth: NDArray[np.floating], prediction: NDArray[np.floating]) -> IndexScore:
    """Score one index.

    Args:
        truth: (K, Y, X) on the competition's grid, or on one whose cells are blocks of its cells (the lite grid).
        prediction: As the truth.

    Raises:
        ValueError: The shapes differ or do not fit the grid, or a value is not finite.
    """
    _check_shapes(truth, prediction)
    ((score,),) = scores_of(*(m[None] for m in part_moments(truth, prediction, [slice(None)])))
    return score


def part_moments(
    truth: NDArray[Any], prediction: NDArray[Any], parts: Sequence[slice | NDArray[np.int64]]
) -> tuple[Field, Field]:
    """What the score of an index needs of P parts of the years, each for itself, in one pass over the fields.

    Args:
        truth: (K, Y, X).
        prediction: Likewise.
        parts: The years of each part, which may overlap.

    Returns:
        (P, Y, X) population variance of the truth, and mean squared error.

    Raises:
        ValueError: A value is not finite.
    """
    member = np.zeros((len(parts), len(truth)), bool)
    for of, part in zip(member, parts, strict=True):
        of[part] = True
    # Years that lie in the same parts are summed together, and every part adds up what it holds.
    patterns, group = np.unique(member, axis=1, return_inverse=True)
    shape = truth.shape[1:]
    sums, departure = np.zeros((patterns.shape[1], 3, *shape)), np.empty(shape)
    # Departures from one year, in place of its mean: differences of large sums would lose digits.
    first = truth[0].astype(np.float64)
    for year, (total, square, error) in enumerate(sums[g] for g in group.ravel()):
        np.subtract(truth[year], first, out=departure)
        total += departure
        np.multiply(departure, departure, out=departure)
        square += departure
        np.subtract(truth[year], prediction[year], out=departure)
        np.multiply(departure, departure, out=departure)
        error += departure
    each = np.tensordot(patterns.astype(np.float64), sums, 1) / member.sum(1)[:, None, None, None]
    # One value that is not finite shows in the sums of its cell.
    if not np.isfinite(each).all():
        raise ValueError("a value is not finite")
    return each[:, 1] - each[:, 0] ** 2, each[:, 2]


def scores_of(variance: Field, error: Field) -> list[list[IndexScore]]:
    """The scores of N indices, for P parts of the years each.

    Args:
        variance: (N, P, Y, X) of the truth, as `part_moments` gives it.
        error: (N, P, Y, X) mean squared error.
    """
    with np.errstate(invalid="ignore"):
        efficiency = (variance - error) / (variance + error)
    return _index_scores(efficiency, variance)


def crps_efficiency(truth: NDArray[np.floating], members: NDArray[np.floating], *, fair: bool = False) -> IndexScore:
    """Score an ensemble of one index by its continuous ranked probability score.

    This is emukit's reading of the uncertainty track; its organisers have published no formula. The mean score over
    the years takes the place of the squared error, the score of the truth's own years as an ensemble (half the mean
    difference of all pairs of years) that of the variance.

    Args:
        truth: (K, Y, X), as in `score_index`.
        members: (E, K, Y, X) realisations.
        fair: Whether the score is that of an infinite ensemble whose members these are; needs two members.

    Raises:
        ValueError: As in `score_index`.
    """
    _check_shapes(truth, members[0])
    g = np.asarray(truth, np.float64)
    if not (np.isfinite(g).all() and np.isfinite(members).all()):
        raise ValueError("a value is not finite")
    reference = np.abs(g[:, None] - g[None]).mean((0, 1)) / 2
    score = crps(members.astype(np.float64), g, fair=fair).mean(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        skill = 1 - score / reference
        efficiency = skill / (2 - skill)
    ((found,),) = _index_scores(efficiency[None, None], g.var(0)[None, None])
    return found


def expand(field: NDArray[np.floating]) -> NDArray[np.floating]:
    """(..., Y, X) on the competition's grid, from one whose cells are whole blocks of its cells: each is repeated.

    Raises:
        ValueError: The grid does not divide the competition's.
    """
    y, x = field.shape[-2:]
    if y < 1 or x < 1 or SHAPE[0] % y or SHAPE[1] % x:
        raise ValueError(f"a grid of {y} x {x} cells does not divide {SHAPE[0]} x {SHAPE[1]}")
    if (y, x) == SHAPE:
        return field
    return field.repeat(SHAPE[0] // y, -2).repeat(SHAPE[1] // x, -1)


def _check_shapes(truth: NDArray[np.floating], prediction: NDArray[np.floating]) -> None:
    if truth.shape != prediction.shape or truth.ndim != 3:
        raise ValueError(f"truth {truth.shape} and prediction {prediction.shape} must both be (K, Y, X)")


def _by_region(efficiency: Field, variance: Field) -> tuple[Field, NDArray[np.bool_]]:
    """(..., R) area-weighted mean over the cells of a region that count, NaN where none does; (..., Y X) which do."""
    weights, cells = weights_on(variance.shape[-2:])
    lead = variance.shape[:-2]
    counted = (variance > LEAST_VARIANCE).reshape(*lead, -1) & (cells > 0)
    values = np.where(counted, efficiency.reshape(*lead, -1), 0.0)
    area, total = counted.astype(np.float64) @ weights.T, values @ weights.T
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.where(area > 0, total / area, np.nan), np.float64), counted


def _mean_of_known(ratios: Field) -> Field:
    """(...) plain mean over the regions that have a value; NaN where none has."""
    known = ~np.isnan(ratios)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.where(known, ratios, 0.0).sum(-1) / known.sum(-1))


def _index_scores(efficiency: Field, variance: Field) -> list[list[IndexScore]]:
    """Of (N, P, Y, X) efficiencies of cells and variances of the truth."""
    ratios, counted = _by_region(efficiency, variance)
    cells, names, means = weights_on(variance.shape[-2:])[1], regions().names, _mean_of_known(ratios)

    def score(i: int, p: int) -> IndexScore:
        by_region = {n: float(r) for n, r in zip(names, ratios[i, p], strict=True) if not np.isnan(r)}
        return IndexScore(float(means[i, p]) if by_region else None, by_region, int(cells[counted[i, p]].sum()))

    return [[score(i, p) for p in range(variance.shape[1])] for i in range(len(variance))]


def thresholds_of_archive(archive: Archive) -> Thresholds:
    """Percentiles of the base period, on (365, Y X).

    Raises:
        ProtocolError: As `base_percentiles`.
    """
    return base_percentiles(archive)[0]


def base_percentiles(archive: Archive) -> tuple[Thresholds, tuple[int, int], str]:
    """Percentiles of the base period on (365, Y X), its first and last year, and the SHA-256 of its days.

    Raises:
        ProtocolError: There is no historical run, or it does not hold the base period.
    """
    # They take as long as the indices of a scenario.
    return archive.kept("percentiles of the base period", lambda: _percentiles(archive))


def _percentiles(archive: Archive) -> tuple[Thresholds, tuple[int, int], str]:
    first, last = archive.card.daily.base_period if archive.card.daily else BASE_PERIOD
    if HISTORICAL not in archive:
        raise ProtocolError(
            "WSDI, CSDI and R95p need percentiles of a historical run",
            found=f"scenarios {', '.join(archive)}",
            expected=f"a scenario {HISTORICAL} with the years {first} to {last}",
        )
    scenario = archive[HISTORICAL]
    rows = np.flatnonzero((scenario.time.year >= first) & (scenario.time.year <= last))
    if len(rows) != DAYS * (last - first + 1):
        raise ProtocolError(
            "the historical run does not hold the base period",
            found=f"{scenario.time.text(0)} to {scenario.time.text(-1)}",
            expected=f"all days of {first} to {last}",
        )
    begin, member, digest, values = int(rows[0]), scenario.members[0], hashlib.sha256(), {}
    for name, quantile in Thresholds.QUANTILES.items():

        def read(start: int, stop: int, band: slice, place: int = archive.variables.index(name)) -> Fields:
            return scenario.values(place, member, begin + start, begin + stop, band)

        values[name] = quantile_of_days(read, len(rows), archive.grid.shape, archive.bands, quantile, digest.update)
    return Thresholds(**values), (first, last), digest.hexdigest()


def derive_indices(
    archive: Archive, scenario: str, start: int, stop: int
) -> Callable[[NDArray[np.floating]], NDArray[np.floating]]:
    """What turns daily fields of some steps into the indices of their years, all at once or some years at a time.

    Args:
        archive: The data.
        scenario: Whose steps they are.
        start: The first step, a 1 January.
        stop: The step after the last, which ends a year; days may be missing at the end of the scenario's last year.

    Returns:
        From (T, V, Y, X) fields of the archive's variables to (N, 15, Y, X). It takes the steps in order: fields of
        whole years, each call those that follow the call before. After the last year it begins again.

    Raises:
        ProtocolError: The steps are not whole years.
    """
    time, places = archive[scenario].time, [archive.variables.index(v) for v in VARIABLES]
    years, firsts = np.unique(time.year[start:stop], return_index=True)
    edges = [*firsts.tolist(), stop - start]
    lengths = np.diff(edges)
    whole = (lengths[:-1] == DAYS).all() and time.day_of_year[start] == 0
    if not whole or (lengths[-1] != DAYS and stop != len(time)):
        raise ProtocolError(
            "annual indices need whole years",
            found=f"{time.text(start)} to {time.text(stop - 1)}",
            expected="1 January to 31 December",
            hint="a protocol whose spans begin and end with a year",
        )
    thresholds = thresholds_of_archive(archive)

    done = 0
    previous: NDArray[np.float32] | None = None

    def indices(fields: NDArray[np.floating]) -> NDArray[np.floating]:
        nonlocal done, previous
        offset = edges[done]
        if offset + len(fields) not in edges[done + 1 :]:
            raise ValueError(f"{len(fields)} steps from step {offset} on are not whole years")
        stop = edges.index(offset + len(fields))
        out = np.empty((stop - done, len(INDICES), *archive.grid.shape))
        for n, (first, last) in enumerate(itertools.pairwise(edges[done : stop + 1])):
            days = {
                name: np.asarray(fields[first - offset : last - offset, place], np.float32)
                for name, place in zip(VARIABLES, places, strict=True)
            }
            found = indices_of_year(days, thresholds, previous)
            previous = days["pr"][-4:].reshape(4, -1).copy()
            for i, name in enumerate(INDICES):
                out[n, i] = found[name]
        done = stop
        if done == len(years):
            done, previous = 0, None
        return out

    return indices
