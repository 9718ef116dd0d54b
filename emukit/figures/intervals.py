"""The picture of a study: how far each variant is from the base, with its confidence interval.

Invariant: zero, the base, is on every axis; an interval that holds zero is drawn open and grey, and better and worse
differ in colour, in shape and in side.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from matplotlib.figure import Figure

from emukit.figures.figure import BETTER, MEMBERS, WORSE, drawing, sheet, shorten
from emukit.metrics.competition import Better, Competition

SIDES: Mapping[Better, str] = {"lower": "left is better", "higher": "right is better", "neither": ""}
# Times the median variant.
FARTHEST = 5.0


@dataclass(frozen=True)
class Difference:
    """A paired difference from the base.

    Attributes:
        mean: A variant less the base.
        low, high: Ends of the confidence interval.
    """

    mean: float
    low: float
    high: float


def draw_intervals(
    variants: Mapping[str, Mapping[str, Difference]], base: str, title: str, competition: Competition
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


def _reach(differences: Sequence[Difference]) -> float:
    """How far from zero an axis goes: to the farthest end, unless one variant would press all others together."""
    ends = [max(abs(d.low), abs(d.high)) for d in differences]
    return min(max(ends), FARTHEST * median(ends))
