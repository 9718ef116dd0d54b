"""How a training went: its loss, the scores that selected, and the terms of the loss.

Invariant: what an epoch did not measure is a gap in the curve, never a line across it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter
from numpy.typing import NDArray

from emukit.figures.figure import drawing, sheet, shorten

Log = Sequence[Mapping[str, Any]]
Array = NDArray[np.float64]

# Okabe and Ito (2008), without the yellow that is lost on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
STYLES = ("-", "--", ":", "-.")
MOST_LINES = len(COLOURS) * len(STYLES)
# Columns of a log that are not terms of the loss.
OTHERS = ("epoch", "step", "learning_rate", "loss", "gradient_norm", "validation", "validation_average", "seconds")


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
