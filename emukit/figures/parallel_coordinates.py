"""The variants of a study as lines across the numbers they are scored by: who buys what with what.

Invariant: every axis begins at the best variant of its number and has a scale of its own, whose ends it tells. A
variant that would press all others together stands at the end of the axis with its number.
"""

from __future__ import annotations

from collections.abc import Mapping
from statistics import median

from matplotlib.figure import Figure

from emukit.figures.figure import drawing, sheet, shorten
from emukit.figures.learning import COLOURS, STYLES
from emukit.metrics.competition import Column, Competition

# Up to so many times what variants mostly are behind the best one is on an axis.
FARTHEST = 8.0
BASE = "#000000"
OTHERS = [c for c in COLOURS if c != BASE]
# More lines than this are told apart by nobody.
MOST_VARIANTS = len(OTHERS) * len(STYLES)


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
            colour = BASE if black else OTHERS[place % len(OTHERS)]
            style = "-" if black else STYLES[place // len(OTHERS) % len(STYLES)]
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
    return low, low + max(b for b in behind if b <= FARTHEST * median(behind))


def _height(value: float, scale: tuple[float, float]) -> float:
    """Zero for the best, one at the end of the axis; what is beyond stands above it."""
    low, high = scale
    height = (value - low) / (high - low)
    return height if height <= 1 + 1e-9 else 1.06
