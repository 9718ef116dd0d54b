"""What is shown of a prediction among the members of the climate model's ensemble: numbers for pictures.

Invariant: maps and their area means are of exactly the months and the member that are scored; a month whose truth is
hidden is never taken for one whose truth is zero.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from emukit.data.archive import Archive, Scenario
from emukit.data.grid import Grid
from emukit.data.opening import DEMO
from emukit.data.split import Span
from emukit.data.time import in_words
from emukit.data.units import CONVERSIONS, same_units
from emukit.emulators.base import Emulator, Explanation
from emukit.figures.curves import Curves, Departure, Power, Ranks, Season, Years
from emukit.figures.maps import FigureAxis, MapRow, Panel, Section
from emukit.metrics.variability import Spectrum, anomalies, chance_of_ranks, rank_histogram, spectra

Array = NDArray[np.float64]
Fields = NDArray[np.float32]

REALISATIONS = 10
# Of Hovmoeller pictures of weather: where it moves eastward.
LATITUDES = (30, 60)
BANDS = {"90°S to 30°S": (-90, -30), "30°S to 30°N": (-30, 30), "30°N to 90°N": (30, 90)}
# Of spectra, in words.
SERIES = {
    "months, globe": "monthly, global mean",
    "months, cell": "monthly, area mean of cells",
    "years, globe": "annual means, global mean",
    "years, cell": "annual means, area mean of cells",
}
# Anomalies lose a straight line of each calendar month; of two years nothing would be left.
LEAST_MONTHS = 36
# Why curves are left out of the pictures.
NO_SEASONS = "steps of a year have no seasons"
NO_SPECTRA = "spectra and the comparison of variability are made of months"
# Of monthly precipitation, in mm/day: from deserts to the wettest months of the tropics.
SIZES = (0.01, 60.0)
SIZE_CLASSES = 48
# Of pictures of every step: no page has more pixels, and decades of days would take minutes to draw.
MOST_TIMES = 1000
# Twenty years, in which weather comes near to its mean.
CHANGE_YEARS = 20


@dataclass(frozen=True, eq=False)
class Change:
    """The mean over the last years of a span less that over the first years of its scenario.

    Attributes:
        early: [a, b) first months of the scenario that can be predicted, whole years.
        late: [a, b) last months of the span, whole years.
        truth: (V, Y, X) of the member that is scored.
        prediction: (V, Y, X).
    """

    early: tuple[int, int]
    late: tuple[int, int]
    truth: Array
    prediction: Array


@dataclass(frozen=True, eq=False)
class Shown:
    """A prediction and the members it is shown among, over one scored span.

    Attributes:
        archive: The data.
        span: The months; its first member is the one that is scored.
        members: (T, V, Y, X) of the span, the scored one first.
        predictions: (T, V, Y, X) of the span: the prediction; or the ensemble's realisations, of which the first is the
            prediction, and one more, to see what chance does.
        global_members: (M, N, V) global means of all N months of the scenario, NaN where hidden.
        global_predictions: (R, N, V) of the ensemble, NaN before the first month that can be predicted.
        change: How the climate changes until the end of the span; None where its beginning is not known.
        budget: Unit to the (N,) series of the energy budget by name; empty where the emulator has none.
        explanation: What the forced response is made of, over the span; None of an emulator that does not know.
    """

    archive: Archive
    span: Span
    members: dict[int, Fields]
    predictions: list[Fields]
    global_members: Array
    global_predictions: Array
    change: Change | None
    budget: Mapping[str, Mapping[str, Array]]
    explanation: Explanation | None

    @property
    def earth(self) -> bool:
        """Whether coasts are those of the Earth, and not of the invented planet of the demo."""
        return is_earth(self.archive)

    @property
    def scenario(self) -> Scenario:
        """Whose months they are."""
        return self.archive[self.span.scenario]

    @property
    def calendar_month(self) -> NDArray[np.int64]:
        """(T,) of the span, January 0; 0 throughout of years."""
        return self.scenario.time.month[self.span.start : self.span.stop]

    @property
    def ensemble(self) -> list[Fields]:
        """The prediction, or all realisations that are shown."""
        return self.predictions[:REALISATIONS]

    def label(self, variable: str) -> str:
        """The variable with its unit."""
        return f"{variable} ({self.archive.card.targets[variable].units})"


def is_earth(archive: Archive) -> bool:
    """Whether data are of the Earth, and not of the invented planet of a demo climate."""
    return archive.card.name != DEMO and not archive.made_up


def collect(emulator: Emulator, archive: Archive, span: Span) -> Shown:
    """Predict what is shown of a span.

    Args:
        emulator: Fits the archive. Of one that draws realisations, ten are shown.
        archive: The data.
        span: Visible months.
    """
    scenario, grid = archive[span.scenario], archive.grid
    places = _pictured(archive)
    members = sorted(scenario.members, key=lambda m: m != span.members[0])
    answers = [emulator.member(k) for k in range(REALISATIONS + 1)] if emulator.draws else [emulator]
    predictions, means, wholes = [], [], list[Fields]()
    for answer in answers:
        # A trajectory is what is scored only where it begins as the span does.
        first, last = (span.start, span.stop) if answer.from_beginning else (answer.first_month, len(scenario))
        whole = answer.predict_fields(scenario, first, last)
        if len(places) < len(archive.variables):
            whole = whole[:, places]
        mean = np.full((len(scenario), len(places)), np.nan)
        mean[first:last] = grid.mean(whole)
        means.append(mean)
        wholes = wholes or [whole]
        predictions.append(whole[span.start - first : span.stop - first].copy())
    first = span.start if emulator.from_beginning else answers[0].first_month
    pictured = replace(archive, variables=tuple(archive.variables[v] for v in places))
    return Shown(
        pictured,
        span,
        {m: _truth(scenario, m, span.start, span.stop, places) for m in members},
        predictions,
        np.stack([_global_means(scenario, m, grid)[:, places] for m in members]),
        np.stack(means[:REALISATIONS]),
        _change(scenario, span, wholes[0], first, places),
        emulator.budget(scenario),
        emulator.explain(scenario, span.start, span.stop),
    )


def _pictured(archive: Archive) -> list[int]:
    """Positions of the variables that are shown: those that daily files carry along and nothing scores are not."""
    carried = archive.card.daily.carried if archive.card.daily else ()
    return [v for v, name in enumerate(archive.variables) if name not in carried]


def _truth(scenario: Scenario, member: int, start: int, stop: int, places: list[int]) -> Fields:
    fields = scenario.truth(member, start, stop)
    return fields if len(places) == fields.shape[1] else fields[:, places]


def _change(scenario: Scenario, span: Span, whole: Fields, first: int, places: list[int]) -> Change | None:
    """The change of a prediction of all months from `first` on, and of the truth; None where one is not known."""
    year = scenario.time.per_year
    late = span.stop - min(CHANGE_YEARS * year, len(span) // year * year), span.stop
    early = first, min(first + CHANGE_YEARS * year, first + (late[0] - first) // year * year)
    if late[0] == late[1] or early[1] <= early[0] or scenario.hidden[slice(*early)].any():
        return None
    truth = [time_mean(_truth(scenario, span.members[0], *months, places)) for months in (early, late)]
    said = [time_mean(whole[a - first : b - first]) for a, b in (early, late)]
    return Change(early, late, truth[1] - truth[0], said[1] - said[0])


def change_rows(shown: Shown, change: Change) -> list[MapRow]:
    """Maps of the change: of the prediction, of the truth, and what is between them in a scale of its own."""
    grid, scored = shown.archive.grid, shown.span.members[0]
    rows = []
    for v, variable in enumerate(shown.archive.variables):
        colours = shown.archive.card.targets[variable].colours
        said, true = change.prediction[v], change.truth[v]
        means = [f"mean {float(grid.mean(f)):+.2f}" for f in (said, true)]
        panels = [Panel(f"prediction: {means[0]}", said), Panel(f"member {scored}: {means[1]}", true)]
        apart = Panel(f"prediction less member {scored}: {area_means(said - true, grid, squared=True)}", said - true)
        rows.append(MapRow(colours, f"change of {shown.label(variable)}", panels, apart))
    return rows


def change_words(shown: Shown, change: Change) -> str:
    """Between which steps it is, for people."""
    time = shown.scenario.time
    early, late = (f"{time.text(a)}..{time.text(b - 1)}" for a, b in (change.early, change.late))
    return f"change of the mean from {early} to {late}"


def error_rows(shown: Shown) -> list[MapRow]:
    """Errors of the mean over time and of the standard deviation over time, as the score takes them."""
    archive, members = shown.archive, list(shown.members.items())
    scored, truth = members[0]
    others = [("prediction", shown.predictions[0]), *((f"member {m}", fields) for m, fields in members[1:2])]
    rows = []
    for v, variable in enumerate(archive.variables):
        for what, moment in (("time mean", time_mean), ("standard deviation over time", time_std)):
            errors = {name: moment(fields[:, v]) - moment(truth[:, v]) for name, fields in others}
            panels = [
                Panel(f"{name} less member {scored}: {area_means(e, archive.grid, squared=moment is time_mean)}", e)
                for name, e in errors.items()
            ]
            rows.append(MapRow(archive.card.targets[variable].colours, f"{what},\n{shown.label(variable)}", panels))
    return rows


def area_means(error: Array, grid: Grid, *, squared: bool) -> str:
    """The area means of an error: its size, the root of squares or the mean of absolutes as in the score, and bias."""
    name, size = ("RMSE", np.sqrt(grid.mean(error**2))) if squared else ("MAE", grid.mean(np.abs(error)))
    # Precipitation in kg m-2 s-1 has no digit among the first three decimals.
    form = ".2e" if 0 < size < 0.001 else ".3f"
    return f"{name} {float(size):{form}}, bias {float(grid.mean(error)):+{form}}"


def spread_rows(shown: Shown) -> list[MapRow]:
    """Maps of the spread of realisations and of members, each about their own mean; none without two of both."""
    if len(shown.predictions) <= REALISATIONS or len(shown.members) < 2:
        return []
    grid, rows = shown.archive.grid, []
    own, real = (_spread(fields) for fields in (shown.ensemble, list(shown.members.values())))
    for v, variable in enumerate(shown.archive.variables):
        means = [f"root area mean {np.sqrt(grid.mean(s[v] ** 2)):.3f}" for s in (own, real)]
        panels = [
            Panel(f"{REALISATIONS} realisations: {means[0]}", own[v]),
            Panel(f"{len(shown.members)} members: {means[1]}", real[v]),
        ]
        apart = Panel(
            f"realisations less members: {area_means(own[v] - real[v], grid, squared=False)}", own[v] - real[v]
        )
        colours = shown.archive.card.targets[variable].colours
        rows.append(MapRow(colours, f"spread of {shown.label(variable)}", panels, apart, positive=True))
    return rows


def share_rows(shown: Shown, explanation: Explanation) -> list[MapRow]:
    """Maps of the share of each component in the annual mean response, the largest first."""
    grid, rows = shown.archive.grid, []
    means = {name: grid.mean(share) for name, share in explanation.shares.items()}
    for name in sorted(means, key=lambda n: -float(means[n].mean())):
        share = np.asarray(explanation.shares[name], np.float64)
        panels = [
            Panel(f"{variable}: {100 * float(means[name][v]):.1f} % of the area mean", share[v])
            for v, variable in enumerate(shown.archive.variables)
        ]
        label = name.removeprefix("feature ")
        rows.append(MapRow("", label, panels, positive=True))
    return rows


def uncertainty_rows(shown: Shown, explanation: Explanation) -> list[MapRow]:
    """Maps of the posterior standard deviation of the time mean, next to its error against the mean over members."""
    grid, rows, members = shown.archive.grid, [], list(shown.members.values())
    said = np.mean([time_mean(fields) for fields in shown.ensemble], axis=0)
    error = np.abs(said - np.mean([time_mean(fields) for fields in members], axis=0))
    for v, variable in enumerate(shown.archive.variables):
        maps = {
            "posterior standard deviation": explanation.deviation[v],
            f"error against the mean of {len(members)} members": error[v],
        }
        panels = [Panel(f"{name}\nroot area mean {np.sqrt(grid.mean(f**2)):.3f}", f) for name, f in maps.items()]
        colours = shown.archive.card.targets[variable].colours
        rows.append(MapRow(colours, f"time mean,\n{shown.label(variable)}", panels, positive=True))
    return rows


def discrepancy_panels(explanation: Explanation) -> list[tuple[str, dict[str, Departure]]]:
    """For everything that departs from the common response, the departure of every training scenario."""
    return [
        (label, {n: Departure(d.years, d.mean, d.deviation, d.trained) for n, d in departures.items()})
        for label, departures in explanation.discrepancies.items()
    ]


def _spread(runs: Sequence[Fields]) -> Array:
    """(V, Y, X) root of the mean over time of the variance between runs."""
    mean = sum(run.astype(np.float64) for run in runs) / len(runs)
    square = sum(((run - mean) ** 2).mean(0) for run in runs)
    return np.asarray(np.sqrt(square / (len(runs) - 1)), np.float64)


def _whole_years(scenario: Scenario) -> list[tuple[int, slice]]:
    """Every whole calendar year of a scenario, with its steps."""
    time = scenario.time
    numbers, begin, count = np.unique(time.year, return_index=True, return_counts=True)
    return [(int(y), slice(i, i + n)) for y, i, n in zip(numbers, begin, count, strict=True) if n >= time.per_year]


def annual_budget(shown: Shown) -> tuple[Array, dict[str, dict[str, Array]]]:
    """Middles of whole calendar years, and the annual means of the energy budget; no years where there is none."""
    whole = _whole_years(shown.scenario) if shown.budget else []
    panels = {
        unit: {name: np.array([series[year].mean() for _, year in whole]) for name, series in lines.items()}
        for unit, lines in shown.budget.items()
    }
    return np.array([y + 0.5 for y, _ in whole]), panels


def annual_means(shown: Shown) -> list[Years]:
    """Global means of every whole calendar year of the scenario, a gap where a step of it is not known."""
    whole = _whole_years(shown.scenario)
    # At the middle of each year, on an axis where a year begins at its number.
    x = np.array([y + 0.5 for y, _ in whole])
    shape = (0, len(shown.archive.variables))
    members, predictions = (
        np.stack([g[:, year].mean(1) for _, year in whole], axis=1) if whole else np.empty((len(g), *shape))
        for g in (shown.global_members, shown.global_predictions)
    )
    return [
        Years(f"{shown.label(name)}, global", Curves(x, members[..., v], predictions[..., v], truth=True))
        for v, name in enumerate(shown.archive.variables)
    ]


def sections(shown: Shown) -> tuple[list[Section], FigureAxis, FigureAxis] | None:
    """Anomalies of the scored member and of the prediction over time and one direction; None of less than two times.

    Of steps shorter than a month they are means over the middle latitudes of the north by longitude, in which weather
    moves eastward; of months and years annual means by latitude, in which a drift shows.
    """
    grid, scenario, span = shown.archive.grid, shown.scenario, shown.span
    first, time = shown.span.members[0], shown.scenario.time
    pair = shown.members[first], shown.predictions[0]
    if time.minutes:
        low, high = LATITUDES
        rows = (low <= grid.lat) & (grid.lat < high)
        words = f"mean of {low}° to {high}°N" if rows.any() else "mean of all latitudes"
        rows = rows if rows.any() else np.ones_like(rows)
        weights = grid.weights[rows, 0] / grid.weights[rows, 0].sum()
        fields = [_thinned(np.einsum("tvyx,y->tvx", f[:, :, rows], weights, dtype=np.float64)) for f in pair]
        days = _thinned((np.arange(len(span)) + 0.5) / time.per_day)
        downwards = FigureAxis(f"days from {time.text(span.start)} on{_means_of(len(span), time.unit)}", days)
        ticks = {x: f"{x:.0f}°" for x in (0.0, 90.0, 180.0, 270.0)}
        along = FigureAxis(f"longitude, {words}", np.asarray(grid.lon, np.float64), ticks)
    else:
        year = time.per_year
        whole = len(span) // year
        fields = [f[: whole * year].reshape(whole, year, *f.shape[1:]).mean((1, -1), dtype=np.float64) for f in pair]
        years = year_of(scenario, span.start) + np.arange(whole) + 0.5
        south, north = float(grid.lat.min()), float(grid.lat.max())
        names = {-60.0: "60°S", -30.0: "30°S", 0.0: "0°", 30.0: "30°N", 60.0: "60°N"}
        # Of a region that has fewer than two of them, matplotlib's own.
        inside = {y: name for y, name in names.items() if south <= y <= north}
        downwards = FigureAxis("year", np.asarray(years, np.float64))
        latitude = np.asarray(grid.lat, np.float64)
        along = FigureAxis("latitude, zonal mean", latitude, inside if len(inside) > 1 else None)
    if len(fields[0]) < 2 or len(along.values) < 2:
        return None
    usual = fields[0].mean(0)
    out = []
    for v, variable in enumerate(shown.archive.variables):
        true, said = (f[:, v] - usual[v] for f in fields)
        panels = [(f"member {first}", true), ("prediction", said)]
        colours = shown.archive.card.targets[variable].colours
        out.append(
            Section(f"{shown.label(variable)}, anomaly", colours, panels, ("prediction less member", said - true))
        )
    return out, downwards, along


def course(shown: Shown) -> list[Years]:
    """Global means of every scored step shorter than a month, of members and predictions; none of longer steps."""
    time, span, grid = shown.scenario.time, shown.span, shown.archive.grid
    if not time.minutes:
        return []
    days = _thinned((np.arange(len(span)) + 0.5) / time.per_day)
    members, predictions = (
        [_thinned(grid.mean(f)) for f in fields] for fields in (shown.members.values(), shown.ensemble)
    )
    return [
        Years(
            f"{shown.label(name)}, global{_means_of(len(span), time.unit)}",
            Curves(days, np.stack([m[:, v] for m in members]), np.stack([p[:, v] for p in predictions]), truth=True),
        )
        for v, name in enumerate(shown.archive.variables)
    ]


def _together(steps: int) -> int:
    """How many steps are averaged, so that at most `MOST_TIMES` are drawn."""
    return -(-steps // MOST_TIMES)


def _thinned(values: Array) -> Array:
    """(T', ...) means of as many steps as `_together` says; steps at the end that are too few for one are left out."""
    each = _together(len(values))
    whole = len(values) // each
    return values if each == 1 else values[: whole * each].reshape(whole, each, *values.shape[1:]).mean(1)


def _means_of(steps: int, unit: str) -> str:
    return f", means of {_together(steps)} {unit}s" if _together(steps) > 1 else ""


def year_of(scenario: Scenario, step: int) -> float:
    """Where a step begins, in years with fractions; one after the last is where that ends."""
    years, last = scenario.time.decimal_years(), len(scenario) - 1
    return float(years[min(step, last)]) + max(step - last, 0) / scenario.time.per_year


def hidden_years(scenario: Scenario) -> list[tuple[float, float]]:
    """First and last year, with fractions, of every stretch of months whose truth is hidden."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], scenario.hidden, [False]]).astype(np.int8)))
    return [(year_of(scenario, a), year_of(scenario, b)) for a, b in edges.reshape(-1, 2).tolist()]


def mean_years(shown: Shown) -> list[list[Season]]:
    """The mean year over the span, of the globe and of bands of latitude: a list of places for each variable."""
    grid = shown.archive.grid
    bands = {"globe": np.ones(len(grid.lat), bool)}
    bands |= {name: (low <= grid.lat) & (grid.lat < high) for name, (low, high) in BANDS.items()}
    month = shown.calendar_month
    members, predictions = ([_cycle(f, month) for f in fields] for fields in (shown.members.values(), shown.ensemble))
    out: list[list[Season]] = [[] for _ in shown.archive.variables]
    for place, rows in bands.items():
        if not rows.any():
            continue
        weights = grid.weights * rows[:, None]
        weights /= weights.sum()
        m, p = (np.stack([np.einsum("mvyx,yx->mv", c, weights) for c in cycles]) for cycles in (members, predictions))
        x = np.arange(1.0, 13.0)
        for v, name in enumerate(shown.archive.variables):
            cycle = Curves(x, m[..., v], p[..., v], truth=True)
            errors = Curves(x, m[1:, :, v] - m[0, :, v], p[..., v] - m[0, :, v])
            out[v].append(Season(shown.label(name), place, cycle, errors))
    return out


def why_no_spectra(shown: Shown) -> str:
    """Why there are no spectra and no comparison of variability; empty where there are."""
    if not shown.scenario.time.is_monthly:
        return f"{NO_SPECTRA}, not of {in_words(shown.scenario.time.step)}"
    months = len(shown.span)
    return f"{months} months are too few to tell weather from climate" if months < LEAST_MONTHS else ""


def power(shown: Shown) -> list[list[Power]]:
    """Spectra of months and years, globe and cells: a list of kinds for each variable."""
    members, predictions = (
        [spectra(anomalies(f, shown.calendar_month), shown.archive.grid) for f in fields]
        for fields in (shown.members.values(), shown.ensemble)
    )
    out = []
    for v, name in enumerate(shown.archive.variables):
        unit = shown.archive.card.targets[name].units
        squared = f"{unit}²" if unit.isalpha() else f"({unit})²"
        out.append(
            [
                Power(
                    f"{name} ({squared} year)",
                    what,
                    Curves(
                        members[0][kind].frequency,
                        _powers([s[kind] for s in members], v),
                        _powers([s[kind] for s in predictions], v),
                        truth=True,
                    ),
                )
                for kind, what in SERIES.items()
                if kind in members[0]
            ]
        )
    return out


def ranks(shown: Shown) -> list[Ranks]:
    """Rank histograms of every member among the realisations; none of an emulator with one answer."""
    if len(shown.predictions) <= REALISATIONS:
        return []
    weights = shown.archive.grid.weights
    shares = np.stack([rank_histogram(m, shown.ensemble, weights) for m in shown.members.values()])
    chance = chance_of_ranks(shown.predictions, weights)
    return [
        Ranks(name, list(shown.members), shares[..., v], chance[:, v]) for v, name in enumerate(shown.archive.variables)
    ]


def distribution(shown: Shown, variable: str) -> Curves:
    """How often, over area and months, a variable that is never negative has which size.

    Returns:
        Shares per factor e of the size, over sizes that grow by the same factor.
    """
    v = shown.archive.variables.index(variable)
    edges = np.geomspace(*SIZES, SIZE_CLASSES + 1) / _scale_to_daily(shown.archive.card.targets[variable].units)
    weights, logs = shown.archive.grid.weights / len(shown.span), np.log(edges)

    def shares(fields: Fields) -> Array:
        # Classes of one width in the logarithm need no sorting, which of decades of days takes most of a minute.
        with np.errstate(divide="ignore", invalid="ignore"):
            place = np.floor((np.log(fields[:, v], dtype=np.float64) - logs[0]) / (logs[1] - logs[0]))
        inside = (place >= 0) & (place < SIZE_CLASSES)
        of_step = np.broadcast_to(weights, place.shape)[inside]
        counted = np.bincount(place[inside].astype(np.int64), weights=of_step, minlength=SIZE_CLASSES)
        return np.asarray(counted / np.diff(logs), np.float64)

    members, predictions = (
        np.stack([shares(f) for f in fields]) for fields in (shown.members.values(), shown.ensemble)
    )
    return Curves(np.sqrt(edges[1:] * edges[:-1]), members, predictions, truth=True)


def _scale_to_daily(units: str) -> float:
    """Millimetres a day of one unit of precipitation; one where that is not known."""
    scales = (scale for (a, b), (scale, _) in CONVERSIONS.items() if b == "mm/day" and same_units(a, units))
    return next(scales, 1.0)


def _powers(spectrum: Sequence[Spectrum], v: int) -> Array:
    return np.stack([s.power[:, v] for s in spectrum])


def _global_means(scenario: Scenario, member: int, grid: Grid) -> Array:
    assert scenario.targets is not None
    mean = grid.mean(scenario.targets[scenario.member_index(member)])
    mean[scenario.hidden] = np.nan
    return mean


def _cycle(fields: Fields, month: NDArray[np.int64]) -> Array:
    """(12, V, Y, X) mean by calendar month, NaN of one that is not there."""
    out = np.full((12, *fields.shape[1:]), np.nan)
    for m in np.unique(month):
        out[m] = fields[month == m].mean(0, dtype=np.float64)
    return out


def time_mean(fields: Fields) -> Array:
    """The mean over the first axis."""
    return np.asarray(fields.mean(0, dtype=np.float64), np.float64)


def time_std(fields: Fields) -> Array:
    """The population standard deviation over the first axis."""
    return np.asarray(fields.std(0, dtype=np.float64), np.float64)
