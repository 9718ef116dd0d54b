"""The picture of a study: how far each variant is from the base, with its confidence interval.

Invariant: zero, the base, is on every axis; an interval that holds zero is drawn open.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from matplotlib.figure import Figure

from emukit.report.figure import MEMBERS, PREDICTION, drawing, sheet, shorten
from emukit.report.leaderboard import HEADINGS, NUMBERS

COLUMNS = ("score", *NUMBERS)


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
        figure = sheet(title, 9.0, 1.4 + 0.32 * len(names))
        cells = figure.subplots(1, max(len(shown), 1), squeeze=False, sharey=True)[0]
        for axes, column in zip(cells, shown, strict=False):
            for y, name in enumerate(names):
                difference = variants[name].get(column)
                if difference is None:
                    continue
                told_apart = difference.low > 0 or difference.high < 0
                colour = PREDICTION if told_apart else MEMBERS
                axes.plot([difference.low, difference.high], [y, y], color=colour, lw=1.6)
                axes.plot(difference.mean, y, "o", color=colour, mfc=colour if told_apart else "white", ms=5)
            axes.axvline(0, color="black", lw=0.8, zorder=1)
            axes.set_title(HEADINGS[COLUMNS.index(column)], loc="left", fontsize=9)
            axes.tick_params(axis="x", labelrotation=45)
            axes.locator_params(axis="x", nbins=4)
        cells[0].set_yticks(range(len(names)), [shorten(n) for n in names])
        cells[0].set_ylim(len(names) - 0.5, -0.5)
        figure.supxlabel(f"difference from {shorten(base)} (left is better)", fontsize=9)
    return figure
