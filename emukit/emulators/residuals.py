"""The weather of training runs: what is left of a climate model's runs without their forced response.

Invariant: only training months enter; over all of them the weather of a cell and calendar month has mean zero, so that
adding it to a forced response changes no expected value. Of a relative variable, whose lower bound is zero, it has mean
one and multiplies, so that nothing becomes negative.

The forced response of a training run is the mean of its members, smoothed over years. Smoothed or not, it holds part of
each member's own weather, which is missing from the difference: residuals are made larger by 1 / sqrt(1 - h), h being
the weight of a member's month in its own forced response; without smoothing, that is sqrt(M / (M - 1)) for M members.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emukit.data.archive import Archive
from emukit.data.split import Span
from emukit.errors import ProtocolError

Array = NDArray[np.float64]

# At half the weight on itself, a residual is more a guess than weather: two members without smoothing, or the end of a
# single run of some five years.
MOST_WEIGHT = 0.5 + 1e-9

# No forced response of a relative variable is taken to be less than this share of the mean of a cell and calendar month
# over its run.
LEAST_SHARE = 0.25


@dataclass(frozen=True, eq=False)
class Residuals:
    """Weather of training runs, run after run.

    Attributes:
        values: (N, V, Y, X) float16, which is exact to 0.05 %: what is added to a forced response, or its factor
            where the variable is relative.
        first: (R,) row at which each run begins; runs follow each other.
        month: (N,) calendar month, January 0.
        global_mean: (N,) global mean of the smoothed temperature of the run over the year round that month, K; zeros
            where no variable is the temperature.
        globe: (N, K) deviation of the global mean of each of the K relative variables, as a share of it; None of
            residuals that were saved before it was kept. The factors of cells do not tell it: what they would give
            depends on the mean that they multiply.
    """

    values: NDArray[np.float16]
    first: NDArray[np.int64]
    month: NDArray[np.int64]
    global_mean: NDArray[np.float32]
    globe: NDArray[np.float32] | None = None

    @property
    def runs(self) -> list[slice]:
        """Rows of each run."""
        ends = [*self.first[1:].tolist(), len(self.values)]
        return [slice(a, b) for a, b in zip(self.first.tolist(), ends, strict=True)]

    def starts(self, month: int, length: int) -> NDArray[np.int64]:
        """Rows of a calendar month from which `length` months of one run follow."""
        rows = [np.arange(r.start, r.stop - length + 1) for r in self.runs]
        every = np.concatenate(rows)
        return np.asarray(every[self.month[every] == month], np.int64)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """What `from_arrays` needs."""
        names = {"values": "values", "first": "first", "month": "month", "warmth": "global_mean", "globe": "globe"}
        return {key: values for key, name in names.items() if (values := getattr(self, name)) is not None}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Residuals:
        """The inverse of `arrays`."""
        values, first, month, warmth = (arrays[k] for k in ("values", "first", "month", "warmth"))
        return cls(values, first, month, warmth, arrays.get("globe"))


def training_residuals(archive: Archive, spans: Sequence[Span], smooth: int) -> Residuals:
    """The weather of every member of training spans.

    Args:
        archive: The data.
        spans: Training months.
        smooth: Years over which the mean of the members is smoothed, by straight lines fitted to each calendar month
            alone; 1: not at all.

    Raises:
        ProtocolError: No span is long enough, or has members enough, to tell weather from forced change.
    """
    usable = usable_spans(archive, spans, smooth)
    rows = [len(s) for s in usable for _ in s.members]
    values = np.empty((sum(rows), len(archive.variables), *archive.grid.shape), np.float16)
    first = np.cumsum([0, *rows[:-1]])
    month = np.concatenate([archive[s.scenario].calendar_month[s.start : s.stop] for s in usable for _ in s.members])
    # One calendar month of all runs at a time: the mean over them is taken before it is rounded.
    for m in range(12):
        of_month = np.flatnonzero(month == m)
        if of_month.size:
            weather = np.concatenate([_weather(archive, s, m, smooth) for s in usable])
            values[of_month] = _centred(weather, archive.domain.relative)
    global_mean = [np.tile(_global_mean(archive, s, smooth), len(s.members)) for s in usable]
    globe = globe_deviations(archive, spans, smooth).astype(np.float32)
    return Residuals(values, first, month, np.concatenate(global_mean).astype(np.float32), globe)


def usable_spans(archive: Archive, spans: Sequence[Span], smooth: int) -> list[Span]:
    """Spans that tell weather from forced change.

    Raises:
        ProtocolError: No span does.
    """
    usable = [s for s in spans if _weight(len(s) // 12, smooth) / len(s.members) <= MOST_WEIGHT]
    if not usable:
        raise ProtocolError(
            "the training months do not tell weather from forced change",
            found=", ".join(s.text(archive) for s in spans),
            expected="spans of several members, or of one over ten years or more",
            hint="train on several --members, or smooth over more years with --set model.smooth=21",
        )
    return usable


def globe_deviations(archive: Archive, spans: Sequence[Span], smooth: int) -> Array:
    """(N, R) of the globe's mean of the R relative variables: deviations of a run as shares of its forced response.

    Rows are those of `training_residuals`, whose factors of cells do not say it: they nearly balance on the mean that
    the run had at the time, and on no other.
    """
    relative = np.flatnonzero(archive.domain.relative).tolist()
    usable = usable_spans(archive, spans, smooth)
    out = np.empty((sum(len(s) * len(s.members) for s in usable), len(relative)))
    month = np.empty(len(out), np.int64)
    first = 0
    for s in usable:
        scenario, rows = archive[s.scenario], slice(first, first + len(s) * len(s.members))
        means = np.stack([archive.grid.mean(scenario.truth(m, s.start, s.stop)[:, relative]) for m in s.members])
        own, calendar = np.empty_like(means), scenario.calendar_month[s.start : s.stop]
        for m in np.unique(calendar):
            at = calendar == m
            matrix = smoother(int(at.sum()), smooth)
            forced = matrix @ means[:, at].mean(0)
            larger = 1.0 / np.sqrt(1.0 - np.diag(matrix) / len(s.members))
            own[:, at] = (means[:, at] - forced) / np.where(forced > 0, forced, 1.0) * larger[:, None]
        out[rows] = own.reshape(rows.stop - rows.start, len(relative))
        month[rows] = np.tile(calendar, len(s.members))
        first = rows.stop
    for m in np.unique(month):
        out[month == m] -= out[month == m].mean(0)
    return out


def climatology_of(archive: Archive, spans: Sequence[Span], v: int) -> NDArray[np.float32]:
    """(12, Y, X) mean of one variable over training months by calendar month; zeros in an untrained month."""
    out = np.zeros((12, *archive.grid.shape), np.float32)
    for m in range(12):
        fields = []
        for s in spans:
            rows = np.flatnonzero(archive[s.scenario].calendar_month[s.start : s.stop] == m)
            fields += [archive[s.scenario].truth(k, s.start, s.stop)[rows, v] for k in s.members]
        every = np.concatenate(fields)
        if len(every):
            out[m] = every.mean(0, dtype=np.float64)
    return out


def smoother(count: int, years: int) -> Array:
    """(count, count) matrix that smooths a yearly series by straight lines through the `years` nearest years.

    At the ends of the series the line of the outermost `years` years continues.
    """
    width = min(years, count)
    out = np.zeros((count, count))
    for i in range(count):
        low = min(max(i - width // 2, 0), count - width)
        x = np.arange(low, low + width) - (low + (width - 1) / 2)
        slope = (i - (low + (width - 1) / 2)) * x / max(float(x @ x), 1.0)
        out[i, low : low + width] = 1.0 / width + slope
    return out


def _weight(count: int, years: int) -> float:
    """The largest weight of a year in its own smoothed value; more than one where there are no years."""
    return float(np.diag(smoother(count, years)).max()) if count else 2.0


def _weather(archive: Archive, span: Span, month: int, smooth: int) -> NDArray[np.float32]:
    """(M * years, V, Y, X): one calendar month of each member of a span, without its forced response."""
    scenario = archive[span.scenario]
    rows = np.flatnonzero(scenario.calendar_month[span.start : span.stop] == month)
    truth = np.stack([scenario.truth(m, span.start, span.stop)[rows] for m in span.members])
    matrix = smoother(len(rows), smooth).astype(np.float32)
    forced = np.tensordot(matrix, truth.mean(0), axes=1)
    larger = 1.0 / np.sqrt(1.0 - np.diag(matrix) / len(span.members))
    larger = larger[:, None, None, None].astype(np.float32)
    out = (truth - forced) * larger
    for v in np.flatnonzero(archive.domain.relative):
        # At the ends of a series in a desert, a line may fall to nothing, or below.
        mean = np.maximum(forced[:, v], LEAST_SHARE * truth[:, :, v].mean((0, 1)))
        share = np.divide(out[:, :, v], mean, out=np.zeros_like(out[:, :, v]), where=mean > 0)
        out[:, :, v] = np.maximum(1.0 + share, 0.0)
    return np.asarray(out.reshape(-1, *out.shape[2:]), np.float32)


def _centred(weather: NDArray[np.float32], relative: Sequence[bool]) -> NDArray[np.float32]:
    mean = weather.mean(0, dtype=np.float64)
    for v, shares in enumerate(relative):
        if shares:
            weather[:, v] /= np.where(mean[v] > 0, mean[v], 1.0)
        else:
            weather[:, v] -= mean[v]
    return weather


def _global_mean(archive: Archive, span: Span, smooth: int) -> Array:
    """(T,) smoothed global mean temperature over the year round each month of a span; zeros without a temperature."""
    scenario, v = archive[span.scenario], archive.domain.temperature
    if v is None:
        return np.zeros(len(span))
    members = [archive.grid.mean(scenario.truth(m, span.start, span.stop)[:, v]) for m in span.members]
    years = len(span) // 12
    by_year = np.mean(members, axis=0)[: 12 * years].reshape(years, 12).mean(1)
    yearly = smoother(years, smooth) @ by_year
    return np.asarray(np.interp(np.arange(len(span)), 12 * np.arange(years) + 5.5, yearly), np.float64)
