"""Curves: a prediction among the members of the climate model's ensemble, energy budgets, and windows of forcings.

Invariant: what is not known is a gap, never a zero. Every member is a line of its own; realisations are a fan:
the band between their smallest and their largest, in it the one that holds half of them, and the one that is scored as
the line. Of ranks, the band is what chance gives to one more realisation in the place of a member.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from textwrap import fill

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
from numpy.typing import NDArray

from emukit.figures.figure import HALF, MEMBERS, PREDICTION, REALISATIONS, SCORED, TRUTH, drawing, legend_below, sheet

Array = NDArray[np.float64]

MONTHS = "JFMAMJJASOND"
# A prediction without weather has next to no power; it must not press the members into a line.
LEAST_OF_MEMBERS = 1e-2
# Fewer realisations have no quartiles.
LEAST_OF_A_FAN = 8
# From the top of an axis of power to its bottom, so that it has two powers of ten to read it by.
LEAST_RANGE = 100.0
MARKERS = "os^Dv"
# Of scenarios. Okabe and Ito (2008): blue, vermilion, green, purple, orange, sky blue.
SCENARIOS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
# Steps before the window that are drawn with it: as many again as it holds, and some.
BEFORE = 6


@dataclass(frozen=True, eq=False)
class Curves:
    """What members and predictions have along one axis.

    Attributes:
        x: (N,).
        members: (M, N) runs of the climate model; NaN where not known.
        predictions: (R, N): the prediction, or realisations, of which the first is scored.
        truth: Whether the first of the members is the one that the prediction is scored by.
    """

    x: Array
    members: Array
    predictions: Array
    truth: bool = False


@dataclass(frozen=True, eq=False)
class Years:
    """Annual means.

    Attributes:
        label: Of what, with its unit.
        curves: Over the years, in calendar years.
    """

    label: str
    curves: Curves


@dataclass(frozen=True, eq=False)
class Season:
    """The mean year of one variable somewhere.

    Attributes:
        label: Of what, with its unit.
        place: Which latitudes.
        cycle: Over the twelve months.
        errors: The same less that of the member that is scored, which is not among the members here.
    """

    label: str
    place: str
    cycle: Curves
    errors: Curves


@dataclass(frozen=True, eq=False)
class Power:
    """A spectrum.

    Attributes:
        label: Of what, with its unit.
        what: Of which series.
        curves: Over the frequency in cycles per year.
    """

    label: str
    what: str
    curves: Curves


@dataclass(frozen=True, eq=False)
class Departure:
    """How a series of one scenario departs from what all scenarios share.

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


def draw_years(
    panels: Sequence[Years],
    scored: tuple[float, float],
    hidden: Sequence[tuple[float, float]],
    title: str,
    steps: str = "months",
) -> Figure:
    """Annual means, a variable a row.

    Args:
        panels: The rows.
        scored: First and last calendar year, with fractions, of the steps that are scored.
        hidden: The same of steps whose truth is not in the store.
        title: Of the figure.
        steps: What steps are called.
    """
    with drawing():
        figure = sheet(title, 10.5, 0.9 + 3.0 * len(panels))
        rows = figure.subplots(len(panels), 1, squeeze=False, sharex=True)[:, 0]
        for axes, panel in zip(rows, panels, strict=True):
            axes.axvspan(*scored, color=SCORED, lw=0, zorder=0, label=f"scored {steps}")
            for i, (start, stop) in enumerate(hidden):
                label = "" if i else "truth hidden in this store"
                axes.axvspan(start, stop, fill=False, hatch="///", ec="#BBBBBB", lw=0, zorder=0, label=label)
            draw_curves(axes, panel.curves)
            axes.set(ylabel=panel.label)
            axes.margins(x=0.01)
        rows[-1].set_xlabel("year")
        legend_below(figure, rows[0])
    return figure


def draw_course(panels: Sequence[Years], begin: str, title: str) -> Figure:
    """Global means of every step, two variables a row.

    Args:
        panels: Over days, a variable each.
        begin: The first step, in words.
        title: Of the figure.
    """
    with drawing():
        rows = -(-len(panels) // 2)
        figure = sheet(title, 12.0, 0.9 + 2.0 * rows)
        cells = figure.subplots(rows, 2, squeeze=False, sharex=True)
        for axes, panel in zip(cells.ravel(), panels, strict=False):
            draw_curves(axes, panel.curves)
            axes.set(ylabel=panel.label.replace(", ", ",\n"))
            axes.margins(x=0.01)
        for axes in cells.ravel()[len(panels) :]:
            axes.set_visible(False)
        # Of an odd number the last of the right column is a row higher.
        for axes in cells.ravel()[max(len(panels) - 2, 0) : len(panels)]:
            axes.set_xlabel(f"days from {begin} on")
            axes.tick_params(labelbottom=True)
        legend_below(figure, cells[0, 0])
    return figure


def draw_seasons(panels: Sequence[Sequence[Season]], title: str) -> Figure:
    """Mean years, a variable a row of panels, a place a column; the errors under each, as they are too small to see."""
    with drawing():
        figure = sheet(title, 1.0 + 3.0 * len(panels[0]), 0.9 + 4.2 * len(panels))
        rows = figure.subplots(
            2 * len(panels), len(panels[0]), squeeze=False, sharex=True, height_ratios=[1, 1] * len(panels)
        )
        for i, line in enumerate(panels):
            for upper, lower, season in zip(rows[2 * i], rows[2 * i + 1], line, strict=True):
                draw_curves(upper, season.cycle)
                draw_curves(lower, season.errors)
                lower.axhline(0, color="black", lw=0.8, zorder=1)
                upper.set_title(season.place, loc="left")
                lower.set_xticks(range(1, 13), list(MONTHS))
            _same_height(rows[2 * i + 1])
            rows[2 * i, 0].set_ylabel(line[0].label)
            rows[2 * i + 1, 0].set_ylabel(f"error of\n{line[0].label}")
        legend_below(figure, rows[0, 0])
    return figure


def draw_spectra(panels: Sequence[Sequence[Power]], title: str) -> Figure:
    """Spectra, a variable a row, a kind of series a column; the same kind has the same frequencies."""
    with drawing():
        figure = sheet(title, 1.0 + 3.2 * len(panels[0]), 0.9 + 3.2 * len(panels))
        rows = figure.subplots(len(panels), len(panels[0]), squeeze=False)
        for line, powers in zip(rows, panels, strict=True):
            for i, (axes, power) in enumerate(zip(line, powers, strict=True)):
                _draw_power(axes, power)
                if i == 0 or power.label != powers[i - 1].label:
                    axes.set_ylabel(power.label)
        for axes in rows[-1]:
            axes.set_xlabel("cycles per year")
        legend_below(figure, rows[0, 0])
    return figure


def draw_curves(axes: Axes, curves: Curves) -> None:
    """Members as thin lines, the truth among them in black, realisations as a band, the prediction over all."""
    if curves.truth:
        axes.plot(
            curves.x, curves.members[0], color=TRUTH, lw=1.6, zorder=3.5, label="truth: the member it is scored by"
        )
    others = curves.members[1:] if curves.truth else curves.members
    kind = "other members" if curves.truth else "members"
    for i, member in enumerate(others):
        label = "" if i else f"{kind} of the climate model ({len(others)})"
        axes.plot(curves.x, member, color=MEMBERS, lw=1.0, alpha=0.8, zorder=3, label=label)
    if len(curves.predictions) > 1:
        low, high = curves.predictions.min(0), curves.predictions.max(0)
        label = f"all {len(curves.predictions)} realisations"
        axes.fill_between(curves.x, low, high, color=REALISATIONS, lw=0, zorder=2, label=label)
    if len(curves.predictions) >= LEAST_OF_A_FAN:
        low, high = np.quantile(curves.predictions, (0.25, 0.75), axis=0)
        axes.fill_between(curves.x, low, high, color=HALF, lw=0, zorder=2.5, label="half of them")
    label = "prediction" if len(curves.predictions) == 1 else "prediction: the first of them"
    axes.plot(curves.x, curves.predictions[0], color=PREDICTION, lw=1.8, zorder=4, label=label)


def _draw_power(axes: Axes, power: Power) -> None:
    curves = power.curves
    draw_curves(axes, _without_zeros(curves))
    axes.set(xscale="log", yscale="log")
    axes.set_title(power.what, loc="left")
    least, most = max(float(curves.members.min()), np.finfo(np.float64).tiny), float(curves.predictions[0].max())
    high = 1.5 * max(float(curves.members.max()), float(curves.predictions.max()), least)
    low = min(least / 1.5, max(float(curves.predictions.min()) / 1.5, LEAST_OF_MEMBERS * least), high / LEAST_RANGE)
    axes.set_ylim(low, high)
    if most < low:
        words = f"prediction below: at most {most:.0e}" if most > 0 else "prediction: none"
        axes.text(0.5, 0.03, words, color=PREDICTION, ha="center", transform=axes.transAxes)
    ticks = [f for f in (0.05, 0.1, 0.2, 0.5, 1, 2, 6) if curves.x[0] * 0.9 <= f <= curves.x[-1] * 1.1]
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    axes.xaxis.set_minor_locator(NullLocator())


def _same_height(line: Sequence[Axes]) -> None:
    """One scale for the panels of a row, which are to be compared."""
    reach = max(abs(y) for axes in line for y in axes.get_ylim())
    for axes in line:
        axes.set_ylim(-reach, reach)


@dataclass(frozen=True, eq=False)
class Ranks:
    """Rank histograms of one variable.

    Attributes:
        variable: Its name.
        members: Which runs of the climate model.
        shares: (M, K) of each member, over K ranks, one more than there are realisations.
        chance: (K,) standard deviation about 1 / K of one more realisation.
    """

    variable: str
    members: Sequence[int]
    shares: Array
    chance: Array


def draw_ranks(panels: Sequence[Ranks], title: str) -> Figure:
    """A panel a variable, with one scale."""
    with drawing():
        figure = sheet(title, 1.0 + 4.6 * len(panels), 4.4)
        line = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
        for axes, ranks in zip(line, panels, strict=True):
            count = len(ranks.chance)
            flat, steps = 1 / count, np.arange(count + 1) - 0.5
            low, high = flat - 2 * ranks.chance, flat + 2 * ranks.chance
            axes.stairs(
                100 * high,
                steps,
                baseline=100 * np.maximum(low, 0),
                fill=True,
                color=REALISATIONS,
                label="one more realisation in the place of a member: two standard deviations of chance",
            )
            axes.axhline(100 * flat, color="black", lw=0.8, ls="--")
            for i, (member, shares) in enumerate(zip(ranks.members, ranks.shares, strict=True)):
                axes.plot(
                    100 * shares,
                    color=MEMBERS,
                    lw=0.8,
                    marker=MARKERS[i % len(MARKERS)],
                    ms=5,
                    mfc="white" if i % 2 else MEMBERS,
                    label=f"member {member}",
                )
            axes.set_title(ranks.variable, loc="left")
            axes.set_xticks(range(count))
            axes.set_xlabel(f"how many of {count - 1} realisations are below")
        line[0].set_ylabel("% of area and months")
        line[0].set_ylim(bottom=0)
        legend_below(figure, line[0])
    return figure


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


def draw_discrepancies(panels: Sequence[tuple[str, Mapping[str, Departure]]], title: str) -> Figure:
    """A panel for everything that departs, a line a scenario: solid where it was trained on, dotted where foretold.

    A band that is not known is not drawn.

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
                colour, known = SCENARIOS[i % len(SCENARIOS)], d.years <= d.trained
                # The dotted part begins where the solid one ends.
                foretold = ~known | np.append(~known[1:], False)
                axes.plot(d.years[known], d.mean[known], color=colour, label=name)
                axes.plot(d.years[foretold], d.mean[foretold], color=colour, ls=":")
                if np.isfinite(d.deviation).all():
                    low, high = d.mean - d.deviation, d.mean + d.deviation
                    axes.fill_between(d.years, low, high, color=colour, alpha=0.15, lw=0)
            # A panel is too low for a long label on one line.
            axes.set(ylabel=fill(label, 18))
            axes.margins(x=0.01)
        rows[-1].set_xlabel("year")
        legend_below(figure, rows[0])
    return figure


def draw_window(
    title: str,
    steps: Sequence[str],
    window: NDArray[np.int64],
    target: int,
    series: dict[str, Array],
    encodings: dict[str, tuple[Array, Array]],
) -> Figure:
    """One window on its scenario.

    Args:
        title: Of the picture.
        steps: (T,) what each step of the scenario is called.
        window: (H,) positions of the frames of the window, which may repeat where a past is made up.
        target: Position of the target step.
        series: Name of each forcing to its (T,) global mean.
        encodings: Name of each seasonal channel to its (T,) values at 45 degrees south and north.
    """
    first = max(0, min(int(window.min()), target) - BEFORE)
    last = min(len(steps), target + 1 + BEFORE)
    shown = np.arange(first, last)
    rows = [*series, *encodings]
    with drawing():
        figure = sheet(title, 8.0, 0.6 + 0.85 * len(rows))
        axes = figure.subplots(len(rows), 1, sharex=True, squeeze=False)[:, 0]
        for axis, name in zip(axes, rows, strict=True):
            for frame in sorted(set(window.tolist())):
                axis.axvspan(frame - 0.5, frame + 0.5, color=SCORED, lw=0)
            axis.axvline(target, color=PREDICTION, lw=1.0)
            if name in series:
                axis.plot(shown, series[name][first:last], color=TRUTH, marker=".", ms=4, label="global mean")
            else:
                south, north = encodings[name]
                axis.plot(shown, north[first:last], color=TRUTH, marker=".", ms=4, label="45 N")
                axis.plot(shown, south[first:last], color=MEMBERS, marker=".", ms=4, ls="--", label="45 S")
            axis.set_ylabel(name, rotation=0, ha="right", va="center")
            axis.margins(x=0.01)
            axis.tick_params(labelsize=7)
        if encodings:
            axes[-1].legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
        every = max(1, len(shown) // 12)
        axes[-1].set_xticks(shown[::every], [steps[i] for i in shown[::every]], rotation=45, ha="right")
        axes[-1].set_xlabel("shaded: the steps that the network reads; line: the step that it predicts")
    return figure


def draw_distribution(curves: Curves, label: str, title: str) -> Figure:
    """How often cells have which amount in a step, on logarithmic axes; curves over the amount."""
    with drawing():
        figure = sheet(title, 8.0, 3.8)
        axes = figure.subplots()
        draw_curves(axes, _without_zeros(curves))
        axes.set(xscale="log", xlabel=label, ylabel="share of area and time\nper factor e")
        # In unexpected units there may be no amount of these sizes, and a logarithm needs one.
        if (curves.members > 0).any() or (curves.predictions > 0).any():
            axes.set_yscale("log")
            axes.set_ylim(bottom=1e-5)
        legend_below(figure, axes)
    return figure


def _without_zeros(curves: Curves) -> Curves:
    """The curves with gaps where a logarithm has no place for them."""
    members, predictions = (np.where(p > 0, p, np.nan) for p in (curves.members, curves.predictions))
    return replace(curves, members=members, predictions=predictions)
