"""How often a member of the climate model's ensemble has each rank among realisations.

Invariant: the band is what chance gives to one more realisation in the place of a member; a member outside it can be
told from the realisations.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from emukit.figures.figure import MEMBERS, REALISATIONS, drawing, legend_below, sheet

Array = NDArray[np.float64]

MARKERS = "os^Dv"


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
