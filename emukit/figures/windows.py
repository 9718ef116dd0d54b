"""What a network is shown of a target step: the forcing steps before it, and what it is told of the season."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from emukit.figures.figure import MEMBERS, PREDICTION, SCORED, TRUTH, drawing, sheet

Array = NDArray[np.float64]
# Steps before the window that are drawn with it: as many again as it holds, and some.
BEFORE = 6


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
