"""How trainings went, and what a study found in them.

Invariant: what an epoch did not measure is a gap in the curve, never a line across it. Zero, the base, is on every axis
of differences; an interval that holds zero is drawn open and grey, and better and worse differ in colour, in shape and
in side. Every axis of numbers begins at the best variant and has a scale of its own, whose ends it tells. A variant
that would press all others together stands at the end of the axis with its number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter
from numpy.typing import NDArray

from emukit.figures.figure import BETTER, MEMBERS, WORSE, drawing, sheet, shorten
from emukit.metrics.competition import Better, Column, Competition

Log = Sequence[Mapping[str, Any]]
Array = NDArray[np.float64]

# Okabe and Ito (2008), without the yellow that is lost on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
STYLES = ("-", "--", ":", "-.")
MOST_LINES = len(COLOURS) * len(STYLES)
# Columns of a log that are not terms of the loss.
OTHERS = ("epoch", "step", "learning_rate", "loss", "gradient_norm", "validation", "validation_average", "seconds")
SIDES: Mapping[Better, str] = {"lower": "left is better", "higher": "right is better", "neither": ""}
# Times the median variant.
FARTHEST = 5.0
# Up to so many times what variants mostly are behind the best one is on an axis.
FARTHEST_BEHIND = 8.0
BASE = "#000000"
OTHER_COLOURS = [c for c in COLOURS if c != BASE]
# More lines than this cannot be told apart.
MOST_VARIANTS = len(OTHER_COLOURS) * len(STYLES)


def draw_learning(logs: Mapping[str, Log], title: str, direction: str) -> Figure:
    """Loss and validation score over epochs, a line for each network.

    Args:
        logs: Name of a network to the lines of its log.
        title: Of the figure.
        direction: Of the score, ``lower is better``.
    """
    with drawing():
        figure = sheet(title, 11.0, 3.8)
        loss, score = figure.subplots(1, 2)
        for i, (name, log) in enumerate(list(logs.items())[:MOST_LINES]):
            look: dict[str, Any] = {"color": COLOURS[i % len(COLOURS)], "ls": STYLES[i // len(COLOURS)]}
            epochs = [line["epoch"] for line in log]
            loss.plot(epochs, _column(log, "loss"), label=shorten(name), **look)
            score.plot(epochs, _scores(log, "validation"), label=shorten(name), **look)
            averaged = _scores(log, "validation_average")
            if np.isfinite(averaged).any():
                label = "of averaged weights" if len(logs) == 1 else ""
                score.plot(epochs, averaged, label=label, color=look["color"], ls="--", lw=0.9)
        loss.set(ylabel="training loss", xlabel="epoch")
        score.set(ylabel=f"validation score ({direction})", xlabel="epoch")
        for axes in (loss, score):
            _scale_axes(axes)
        if len(score.lines) > 1:
            named = sum(str(line.get_label())[:1] not in ("", "_") for line in score.lines)
            legend = score.legend(frameon=False, fontsize=8 if named <= 8 else 6, ncols=1 + (named - 1) // 8)
            # It may be larger than the axes, which must not shrink for it.
            legend.set_in_layout(False)
    return figure


def draw_terms(log: Log, title: str) -> Figure:
    """Every term of the loss over epochs, a panel a variable."""
    names = list(dict.fromkeys(k for line in log for k in line if k not in OTHERS))
    variables = list(dict.fromkeys(n.partition(".")[0] for n in names))
    epochs = [line["epoch"] for line in log]
    with drawing():
        figure = sheet(title, 11.0, 3.8)
        cells = figure.subplots(1, max(len(variables), 1), squeeze=False, sharey=True)[0]
        for axes, variable in zip(cells, variables, strict=False):
            own = [n for n in names if n.partition(".")[0] == variable]
            for i, name in enumerate(own):
                colour, style = COLOURS[i % len(COLOURS)], STYLES[i // len(COLOURS) % len(STYLES)]
                axes.plot(epochs, _column(log, name), label=name.partition(".")[2], color=colour, ls=style)
            axes.set_title(variable, loc="left")
            axes.set_xlabel("epoch")
            _scale_axes(axes)
            axes.legend(frameon=False, fontsize=8)
        cells[0].set_ylabel("term, before its weight")
    return figure


def has_terms(log: Log) -> bool:
    """Whether a log holds terms of a loss."""
    return any(k not in OTHERS for line in log for k in line)


def _column(log: Log, name: str) -> Array:
    return np.array([_number(line.get(name)) for line in log])


def _scores(log: Log, name: str) -> Array:
    values = (line.get(name) for line in log)
    return np.array([_number(v.get("score")) if isinstance(v, Mapping) else np.nan for v in values])


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else np.nan


def _scale_axes(axes: Axes) -> None:
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    values = np.concatenate([np.asarray(line.get_ydata(), np.float64) for line in axes.lines] or [np.ones(1)])
    known = values[np.isfinite(values)]
    # A loss may be zero or below; then a logarithm shows nothing.
    if len(known) and known.min() > 0:
        axes.set_yscale("log")
        _plain_ticks(axes)
    for line in axes.lines:
        if np.isfinite(np.asarray(line.get_ydata(), np.float64)).sum() < 2:
            line.set_marker("o")


def _plain_ticks(axes: Axes) -> None:
    """Numbers as people write them on a logarithmic axis: 2.6, not 2.6 x 10^0; within a power of ten, evenly spaced."""
    low, high = axes.get_ylim()
    axes.yaxis.set_major_locator(MaxNLocator(6) if high < 10 * low else LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


@dataclass(frozen=True)
class VariantInterval:
    """A paired difference from the base.

    Attributes:
        mean: A variant less the base.
        low, high: Ends of the confidence interval.
    """

    mean: float
    low: float
    high: float


def draw_intervals(
    variants: Mapping[str, Mapping[str, VariantInterval]], base: str, title: str, competition: Competition
) -> Figure:
    """A panel a number, a line a variant.

    Args:
        variants: Name to its differences, by ``score`` and the keys of metrics; fewer where they are not known.
        base: Name of the base.
        title: Of the figure.
        competition: Whose numbers they are.
    """
    shown = [c for c in competition.columns if any(c.key in d for d in variants.values())]
    sides = list(dict.fromkeys(SIDES[c.better] for c in shown))
    names = list(variants)
    with drawing():
        figure = sheet(title, 9.0, 1.55 + 0.32 * len(names))
        cells = figure.subplots(1, max(len(shown), 1), squeeze=False, sharey=True)[0]
        for axes, column in zip(cells, shown, strict=False):
            reach = _reach([d[column.key] for d in variants.values() if column.key in d])
            for y, name in enumerate(names):
                difference = variants[name].get(column.key)
                if difference is None:
                    continue
                told_apart = difference.low > 0 or difference.high < 0
                colour, shape = (BETTER, "o") if difference.mean * column.sign < 0 else (WORSE, "s")
                if not (told_apart and column.sign):
                    colour, shape = MEMBERS, "o"
                if min(abs(difference.low), abs(difference.high)) > reach and told_apart:
                    # An arrow at the end, with its number: in its scale all others would be one point.
                    side = 1 if difference.mean > 0 else -1
                    axes.plot(side * reach, y, ">" if side > 0 else "<", color=colour, ms=7)
                    words = f"{difference.mean:+.2f}"
                    axes.text(side * reach * 0.8, y, words, fontsize=7, ha="right" if side > 0 else "left", va="center")
                    continue
                axes.plot([difference.low, difference.high], [y, y], color=colour, lw=1.6)
                axes.plot(difference.mean, y, shape, color=colour, mfc=colour if told_apart else "white", ms=5)
            axes.axvline(0, color="black", lw=0.8, zorder=1)
            # Each panel says its side where they differ.
            side_of = f"\n{SIDES[column.better]}" if len(sides) > 1 else ""
            axes.set_title(f"{column.heading}\n{column.units or 'no unit'}{side_of}", loc="left", fontsize=9)
            axes.tick_params(axis="x", labelrotation=45)
            axes.locator_params(axis="x", nbins=4)
        cells[0].set_yticks(range(len(names)), [shorten(n) for n in names])
        cells[0].set_ylim(len(names) - 0.5, -0.5)
        side_of = f" ({sides[0]})" if len(sides) == 1 and sides[0] else ""
        figure.supxlabel(f"difference from {shorten(base)}{side_of}", fontsize=9)
    return figure


def _reach(differences: Sequence[VariantInterval]) -> float:
    """How far from zero an axis goes: to the farthest end, unless one variant would press all others together."""
    ends = [max(abs(d.low), abs(d.high)) for d in differences]
    return min(max(ends), FARTHEST * median(ends))


def draw_coordinates(
    means: Mapping[str, Mapping[str, float]],
    spreads: Mapping[str, Mapping[str, float]],
    base: str,
    title: str,
    competition: Competition,
) -> Figure:
    """An axis a number, a line a variant, the best at the bottom; of many, the best `MOST_VARIANTS` and the base.

    Args:
        means: Name of a variant to its score and numbers, by ``score`` and the keys of metrics.
        spreads: Likewise the standard deviations over seeds, of variants that have several.
        base: Name of the base, drawn in black.
        title: Of the figure.
        competition: Whose numbers they are.
    """
    ranked = sorted(means.items(), key=lambda item: competition.cost(item[1]["score"]))
    kept = {name for name, _ in [item for item in ranked if item[0] != base][:MOST_VARIANTS]} | {base}
    shown = {name: numbers for name, numbers in ranked if name in kept}
    columns = [c for c in competition.columns if all(c.key in numbers for numbers in shown.values())]
    costs = {name: {c.key: c.cost(numbers[c.key]) for c in columns} for name, numbers in shown.items()}
    scales = {c.key: _scale([own[c.key] for own in costs.values()]) for c in columns}
    places = range(len(columns))
    with drawing():
        figure = sheet(title, 9.5, 4.75)
        axes = figure.subplots()
        others = [name for name in shown if name != base]
        for i, name in enumerate(shown):
            place = others.index(name) if name != base else 0
            black = name == base
            colour = BASE if black else OTHER_COLOURS[place % len(OTHER_COLOURS)]
            style = "-" if black else STYLES[place // len(OTHER_COLOURS) % len(STYLES)]
            heights = [_height(costs[name][c.key], scales[c.key]) for c in columns]
            axes.plot(places, heights, style, color=colour, lw=2.2 if black else 1.4, marker="o", ms=4)
            axes.plot([], [], style, color=colour, lw=2.2 if black else 1.4, label=_label(name, shown[name], black))
            # Next to each other where they are equal.
            aside = 0.018 * (i - len(shown) / 2)
            for x, key in zip(places, scales, strict=True):
                spread = spreads.get(name, {}).get(key)
                height = heights[x]
                if height > 1:
                    axes.plot(x, 1.06, "^", color=colour, ms=6, clip_on=False)
                    axes.annotate(f"{shown[name][key]:.3g}", (x, 1.06), (5, 0), textcoords="offset points", fontsize=7)
                elif spread is not None:
                    low, high = scales[key]
                    half = spread / (high - low)
                    axes.plot([x + aside] * 2, [height - half, min(height + half, 1.05)], color=colour, lw=0.9)
        for x, column in zip(places, columns, strict=True):
            low, high = (_value(column, cost) for cost in scales[column.key])
            axes.axvline(x, color="#bbbbbb", lw=0.8, zorder=0)
            axes.text(x, -0.07, f"{low:.3f}", ha="center", va="top", fontsize=8)
            axes.text(x, 1.12, f"{high:.3f}", ha="center", va="bottom", fontsize=8)
        heads = [f"{c.heading}\n{c.units or 'no unit'}" for c in columns]
        axes.set_xticks(list(places), heads)
        axes.tick_params(axis="x", top=True, labeltop=True, bottom=False, labelbottom=False, length=0, pad=14)
        axes.set(ylim=(-0.18, 1.1), xlim=(-0.3, len(columns) - 0.7), yticks=[])
        axes.set_ylabel("lower is better" if all(c.better == "lower" for c in columns) else "the best is at the bottom")
        for side in ("top", "right", "left", "bottom"):
            axes.spines[side].set_visible(False)
        figure.legend(loc="outside right upper", frameon=False, fontsize=8)
    return figure


def _value(column: Column, cost: float) -> float:
    """The value that an end of an axis stands for."""
    return cost * column.sign if column.sign else cost


def _label(name: str, numbers: Mapping[str, float], base: bool) -> str:
    return f"{numbers['score']:.3f}  {shorten(name)}{' (base)' if base else ''}"


def _scale(values: list[float]) -> tuple[float, float]:
    """The ends of an axis: the best, and the worst that leaves the others apart."""
    low = min(values)
    behind = [v - low for v in values if v > low]
    if not behind:
        return low, low + max(abs(low), 1e-9) * 0.01
    return low, low + max(b for b in behind if b <= FARTHEST_BEHIND * median(behind))


def _height(value: float, scale: tuple[float, float]) -> float:
    """Zero for the best, one at the end of the axis; what is beyond stands above it."""
    low, high = scale
    height = (value - low) / (high - low)
    return height if height <= 1 + 1e-9 else 1.06
