"""The picture of a study: how far each variant is from the base, with its confidence interval.

Invariant: zero, the base, is on every axis; an interval that holds zero is drawn open and grey, and better and worse
differ in colour, in shape and in side.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from matplotlib.figure import Figure

from emukit.competitions.leaderboard import HEADINGS, NUMBERS, UNITS
from emukit.figures.figure import BETTER, MEMBERS, WORSE, drawing, sheet, shorten

COLUMNS = ("score", *NUMBERS)
# Times the median variant.
FARTHEST = 5.0


@dataclass(frozen=True)
class Difference:
    """A paired difference from the base.

    Attributes:
        mean: Below zero is better.
        low, high: Ends of the confidence interval.
    """

    mean: float
    low: float
    high: float


def draw_intervals(variants: Mapping[str, Mapping[str, Difference]], base: str, title: str) -> Figure:
    """A panel a number, a line a variant.

    Args:
        variants: Name to its differences, by ``score`` and ``variable.part``; fewer where they are not known.
        base: Name of the base.
        title: Of the figure.
    """
    shown = [c for c in COLUMNS if any(c in d for d in variants.values())]
    names = list(variants)
    with drawing():
        figure = sheet(title, 9.0, 1.55 + 0.32 * len(names))
        cells = figure.subplots(1, max(len(shown), 1), squeeze=False, sharey=True)[0]
        for axes, column in zip(cells, shown, strict=False):
            reach = _reach([d[column] for d in variants.values() if column in d])
            for y, name in enumerate(names):
                difference = variants[name].get(column)
                if difference is None:
                    continue
                told_apart = difference.low > 0 or difference.high < 0
                colour, shape = (BETTER, "o") if difference.mean < 0 else (WORSE, "s")
                if not told_apart:
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
            place = COLUMNS.index(column)
            axes.set_title(f"{HEADINGS[place]}\n{UNITS[place] or 'no unit'}", loc="left", fontsize=9)
            axes.tick_params(axis="x", labelrotation=45)
            axes.locator_params(axis="x", nbins=4)
        cells[0].set_yticks(range(len(names)), [shorten(n) for n in names])
        cells[0].set_ylim(len(names) - 0.5, -0.5)
        figure.supxlabel(f"difference from {shorten(base)} (left is better)", fontsize=9)
    return figure


def _reach(differences: Sequence[Difference]) -> float:
    """How far from zero an axis goes: to the farthest end, unless one variant would press all others together."""
    ends = [max(abs(d.low), abs(d.high)) for d in differences]
    return min(max(ends), FARTHEST * median(ends))
