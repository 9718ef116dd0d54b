"""What makes fine fields of coarse ones: the contract, and what is fitted in closed form.

A downscaler is no `Emulator`: it reads fields of the variables themselves where an emulator reads forcings, and so
knows the weather that it is scored on. It is scored against others that are told as much, never among emulators;
`emukit.emulators.downscaled` makes an emulator of it by a coarse emulator in front.

Invariant: the answer for a block is the answer for the globe, cropped; physical units in and out, within the bounds of
the variables.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any, ClassVar, Literal, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from emukit.data.archive import Archive, Domain
from emukit.data.coarsen import Coarsening, in_context, offsets
from emukit.data.split import Span
from emukit.data.targets import Pointwise, TargetSettings
from emukit.data.time import TimeAxis

Array = NDArray[np.float64]
Cells = NDArray[np.int64]
Arrays = Mapping[str, NDArray[Any]]

# Steps that are fitted together: float64 copies of them are small next to a record.
_STEPS = 240


class Downscaler(ABC):
    """Answers coarse fields with fine ones.

    Attributes:
        kind: Name by which a saved one finds its class.
        label: What tables call it.
        domain: What it says, and on which grid.
        coarsening: What it takes for coarse.
        conserves: Whether its fields are given the means of the coarse cells that it is shown: what is never negative
            by a factor in each coarse cell, everything else by what is added there.
        context: Steps before and after each one whose coarse fields it reads too.
    """

    kind: ClassVar[str]
    label: ClassVar[str]
    conserves: bool = False
    context: int = 0

    def __init__(self, domain: Domain, coarsening: Coarsening) -> None:
        self.domain, self.coarsening = domain, coarsening

    @property
    def draws(self) -> bool:
        """Whether it draws realisations."""
        return False

    def fields(
        self,
        coarse: NDArray[np.floating],
        time: TimeAxis,
        rows: Cells | None = None,
        columns: Cells | None = None,
        member: int = 0,
    ) -> Array:
        """Fine fields of coarse ones.

        Args:
            coarse: (T, V, y, x) on the whole coarse grid, in physical units; where it reads a `context`,
                (T, (1 + 2 context) V, y, x) as `emukit.data.coarsen.in_context` makes it. More context than it reads
                is left out.
            time: Their T steps.
            rows: Consecutive fine rows that are wanted; all when None.
            columns: Consecutive fine columns, round the globe; all when None.
            member: Which realisation, where it draws any.

        Returns:
            (T, V, Y, X), or the rows and columns asked for, within the bounds of the variables.

        Raises:
            ValueError: The fields lack the context.
        """
        V = len(self.domain.variables)
        read = (1 + 2 * self.context) * V
        if coarse.shape[1] < read:
            raise ValueError(f"{coarse.shape[1]} coarse fields of each step, not {read}: in_context makes them")
        coarse = coarse[:, :read]
        shape = self.domain.grid.shape
        rows = np.arange(shape[0]) if rows is None else rows
        columns = np.arange(shape[1]) if columns is None else columns
        if not self.conserves:
            return self._bounded(self._fields(coarse, time, rows, columns, member))
        whole = self.coarsening.whole_cells(rows, columns)
        out = self._bounded(self._fields(coarse, time, whole.rows, whole.columns, member))
        positive = [v.relative for v in self.domain.described]
        return self.coarsening.with_means(out, coarse[:, :V], whole, positive)[..., whole.inner, :][..., whole.across]

    def _bounded(self, out: Array) -> Array:
        for v, variable in enumerate(self.domain.described):
            field, bounds = out[:, v], variable.bounds
            if bounds.lower is not None:
                np.maximum(field, bounds.lower, out=field)
            if bounds.upper is not None:
                np.minimum(field, bounds.upper, out=field)
        return out

    @abstractmethod
    def _fields(
        self, coarse: NDArray[np.floating], time: TimeAxis, rows: Cells, columns: Cells, member: int
    ) -> Array: ...


def coarse_fields(
    archive: Archive, span: Span, member: int, coarsening: Coarsening, context: int = 0, part: slice = slice(None)
) -> Array:
    """(T, (1 + 2 context) V, y, x) what is shown of some steps of a span, and of no step outside of it."""
    start, stop, _ = part.indices(len(span))
    first, last = max(start - context, 0), min(stop + context, len(span))
    fine = archive[span.scenario].truth(member, span.start + first, span.start + last)
    return np.asarray(in_context(coarsening.down(fine), context)[start - first : stop - first], np.float64)


def training_pairs(
    archive: Archive,
    spans: Sequence[Span],
    coarsening: Coarsening,
    context: int = 0,
    steps: int | None = None,
    every: int = 1,
) -> Iterator[tuple[NDArray[np.float32], Array, TimeAxis]]:
    """Fine and coarse fields (T, V, ...) of training steps, some at a time, with their time axis.

    With `context` coarse fields are those of `in_context`, as far as the span goes. Of parts of so many consecutive
    `steps` only `every` so many-th of a span is given.
    """
    steps = steps or _STEPS
    for span in spans:
        for member in span.members:
            for first in range(0, len(span), steps * every):
                part = slice(first, min(first + steps, len(span)))
                start, stop = span.start + part.start, span.start + part.stop
                fine = archive[span.scenario].truth(member, start, stop)
                coarse = coarse_fields(archive, span, member, coarsening, context, part)
                yield fine, coarse, archive[span.scenario].time[start:stop]


class Interpolation(Downscaler):
    """The way up of the pass alone: what is known without any training."""

    kind, label = "interpolation", "bilinear"

    def _fields(self, coarse: NDArray[np.floating], time: TimeAxis, rows: Cells, columns: Cells, member: int) -> Array:
        return self.coarsening.up(coarse, rows, columns)

    def state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """Nothing."""
        return {}, {}

    @classmethod
    def from_state(cls, domain: Domain, coarsening: Coarsening, meta: Mapping[str, Any], arrays: Arrays) -> Self:
        """From nothing."""
        return cls(domain, coarsening)


class CellLine(Downscaler):
    """A line from the pass to the truth, for every cell and season.

    Attributes:
        slope: (G, V, Y, X) by `TimeAxis.season`.
        intercept: Likewise.
    """

    kind, label = "cell-line", "bilinear + line of each cell and month"
    fixed_slope: ClassVar[bool] = False

    def __init__(
        self, domain: Domain, coarsening: Coarsening, slope: NDArray[np.floating], intercept: NDArray[np.floating]
    ) -> None:
        super().__init__(domain, coarsening)
        self.slope, self.intercept = slope, intercept

    @classmethod
    def fit(cls, archive: Archive, spans: Sequence[Span], coarsening: Coarsening) -> Self:
        """Least squares on the training steps; a season without any takes the line of all steps."""
        shape = (archive.time.seasons, len(archive.variables), *archive.grid.shape)
        n = np.zeros(shape[0])
        x, y, xx, xy = (np.zeros(shape) for _ in range(4))
        for fine, coarse, time in training_pairs(archive, spans, coarsening):
            u, t = coarsening.up(coarse), fine.astype(np.float64)
            for g in np.unique(time.season):
                own = time.season == g
                n[g] += own.sum()
                x[g] += u[own].sum(0)
                y[g] += t[own].sum(0)
                xx[g] += (u[own] ** 2).sum(0)
                xy[g] += (u[own] * t[own]).sum(0)
        absent = n == 0
        for sums in (x, y, xx, xy):
            sums[absent] = sums.sum(0)
        n[absent] = n.sum()
        count = n[:, None, None, None]
        variance = xx / count - (x / count) ** 2
        covariance = xy / count - x * y / count**2
        # Where the pass does not vary, the mean is all that is known.
        floor = 1e-10 * (xx / count + 1e-30)
        slope = np.where(variance > floor, covariance / np.maximum(variance, floor), 0.0)
        if cls.fixed_slope:
            slope = np.ones_like(slope)
        return cls(archive.domain, coarsening, slope, (y - slope * x) / count)

    def _fields(self, coarse: NDArray[np.floating], time: TimeAxis, rows: Cells, columns: Cells, member: int) -> Array:
        up, season = self.coarsening.up(coarse, rows, columns), time.season
        slope, intercept = (a[season][..., rows, :][..., columns] for a in (self.slope, self.intercept))
        return np.asarray(slope * up + intercept, np.float64)

    def state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """The lines."""
        return {}, {"slope": self.slope, "intercept": self.intercept}

    @classmethod
    def from_state(cls, domain: Domain, coarsening: Coarsening, meta: Mapping[str, Any], arrays: Arrays) -> Self:
        """From the lines."""
        return cls(domain, coarsening, arrays["slope"], arrays["intercept"])


class SeasonalResidual(CellLine):
    """The pass, plus the climatology of what it leaves by calendar month (and time of day, where steps are hours)."""

    kind, label = "seasonal-residual", "bilinear + residual's monthly climatology"
    fixed_slope = True


class Neighbourhood(Downscaler):
    """Ridge regression of every fine cell on the coarse cells round it, season by season.

    Anomalies from the climatology of each season, of the variables as `transforms` say them, of all variables in a
    square of coarse cells, explain those of the fine cell. A season learns from the calendar months next to it too.
    With a `context` the steps before and after are seen in a square of their own. Where a series has no such step, its
    anomalies count as zero.

    Attributes:
        transforms: By variable: ``none``, ``sqrt``, ``cbrt`` or ``log1p``.
        width: Coarse cells of a side of the square.
        context: Steps before, and steps after, that are seen.
        context_width: Coarse cells of a side of their square.
        weights: (G, V, Y, X, F) of the F = V width^2 + 2 context V context_width^2 coarse anomalies.
        fine_mean: (G, V, Y, X) climatology, transformed.
        coarse_mean: (G, V, y, x) likewise.
    """

    kind, label = "neighbourhood", "ridge on the coarse cells round about"

    def __init__(
        self,
        domain: Domain,
        coarsening: Coarsening,
        transforms: Sequence[str],
        width: int,
        weights: NDArray[np.floating],
        fine_mean: NDArray[np.floating],
        coarse_mean: NDArray[np.floating],
        context: int = 0,
        context_width: int = 1,
    ) -> None:
        super().__init__(domain, coarsening)
        self.transforms, self.width = tuple(transforms), width
        self.context, self.context_width = context, context_width
        self.weights, self.fine_mean, self.coarse_mean = weights, fine_mean, coarse_mean
        self._points = [Pointwise(t, 1.0) for t in self.transforms]
        (Y, X), (y, x) = domain.grid.shape, coarsening.shape
        self._row = ((np.arange(Y) + 0.5) * y / Y).astype(np.int64)
        self._column = ((np.arange(X) + 0.5) * x / X).astype(np.int64)

    @classmethod
    def fit(
        cls,
        archive: Archive,
        spans: Sequence[Span],
        coarsening: Coarsening,
        transforms: Sequence[str],
        *,
        width: int = 5,
        penalty: float = 0.01,
        context: int = 0,
        context_width: int = 1,
    ) -> Self:
        """Fit on the training steps.

        Args:
            archive: The data.
            spans: Training spans.
            coarsening: What is coarse.
            transforms: By variable.
            width: Odd number of coarse cells of a side.
            penalty: Of the squared weights of standardised anomalies, for each training step.
            context: Steps before, and steps after, that are seen too.
            context_width: Odd number of coarse cells of a side of what is seen of them.
        """
        domain, groups = archive.domain, archive.time.seasons
        V, (Y, X), (y, x) = len(archive.variables), archive.grid.shape, coarsening.shape
        fine_sum, coarse_sum, n = np.zeros((groups, V, Y, X)), np.zeros((groups, V, y, x)), np.zeros(groups)
        points = [Pointwise(t, 1.0) for t in transforms]
        for fine, coarse, time in training_pairs(archive, spans, coarsening):
            t, c = _transformed(points, fine), _transformed(points, coarse)
            for g in np.unique(time.season):
                n[g] += (time.season == g).sum()
                fine_sum[g] += t[time.season == g].sum(0)
                coarse_sum[g] += c[time.season == g].sum(0)
        for sums in (fine_sum, coarse_sum):
            sums[n == 0] = sums.sum(0)
        n[n == 0] = n.sum()
        count = n[:, None, None, None]
        empty = np.zeros((groups, V, Y, X, 0), np.float32)
        means = (fine_sum / count, coarse_sum / count)
        one = cls(domain, coarsening, transforms, width, empty, *means, context, context_width)
        F = one.features
        gram, cross = np.zeros((groups, y, x, F, F)), np.zeros((groups, Y, X, F, V))
        steps = np.zeros(groups)
        for fine, coarse, time in training_pairs(archive, spans, coarsening, context):
            t = _transformed(points, fine) - one.fine_mean[time.season]
            p = one._patches(coarse, time)
            for g in np.unique(time.season):
                own = time.season == g
                q = np.moveaxis(p[own], 0, -1)
                gram[g] += q @ np.swapaxes(q, -1, -2)
                steps[g] += own.sum()
                for row, at in enumerate(one._row):
                    cross[g, row] += q[at][one._column] @ t[own][:, :, row].transpose(2, 0, 1)
        per_day = archive.time.per_day
        near = [neighbours(g, groups, per_day) for g in range(groups)]
        weights = np.zeros((groups, V, Y, X, F), np.float32)
        for g, own in enumerate(near):
            own = own if steps[own].sum() else list(range(groups))
            G, C, N = gram[own].sum(0), cross[own].sum(0), steps[own].sum()
            scale = np.sqrt(np.maximum(np.diagonal(G, axis1=-2, axis2=-1) / N, 1e-12))
            standard = G / (scale[..., :, None] * scale[..., None, :]) + penalty * N * np.eye(F)
            inverse = np.linalg.inv(standard) / (scale[..., :, None] * scale[..., None, :])
            for row, at in enumerate(one._row):
                weights[g, :, row] = (inverse[at][one._column] @ C[row]).transpose(2, 0, 1)
        return cls(domain, coarsening, transforms, width, weights, *means, context, context_width)

    @property
    def features(self) -> int:
        """F, how many coarse anomalies explain a fine cell."""
        return count_features(len(self.domain.variables), self.width, self.context, self.context_width)

    def _patches(self, coarse: NDArray[np.floating], time: TimeAxis) -> Array:
        """(T, y, x, F) anomalies of the coarse cells round each, round in longitude, the last row again at a pole."""
        V, (y, x) = len(self.domain.variables), self.coarsening.shape
        parts = []
        for i, step in enumerate(offsets(self.context)):
            width = self.context_width if step else self.width
            season = time.later(step).season
            anomaly = _transformed(self._points, coarse[:, i * V : (i + 1) * V]) - self.coarse_mean[season]
            if step:
                anomaly = np.nan_to_num(anomaly, nan=0.0)
            half = width // 2
            rows = np.clip(np.arange(-half, y + half), 0, y - 1)
            columns = np.arange(-half, x + half) % x
            wide = anomaly[..., rows, :][..., columns]
            seen = np.lib.stride_tricks.sliding_window_view(wide, (width, width), (-2, -1))
            parts.append(np.moveaxis(seen, 1, 3).reshape(len(coarse), y, x, -1))
        return np.concatenate(parts, -1)

    def _fields(self, coarse: NDArray[np.floating], time: TimeAxis, rows: Cells, columns: Cells, member: int) -> Array:
        return self.inverse(self.transformed_fields(coarse, time, rows, columns))

    def forward(self, fine: NDArray[np.floating]) -> Array:
        """(T, V, Y, X) physical fields as the regression sees them."""
        return _transformed(self._points, fine)

    def inverse(self, transformed: Array) -> Array:
        """The inverse of `forward`, in place."""
        for v, point in enumerate(self._points):
            transformed[:, v] = point.inverse(transformed[:, v])
        return transformed

    def transformed_fields(self, coarse: NDArray[np.floating], time: TimeAxis, rows: Cells, columns: Cells) -> Array:
        """(T, V, y, x) what it says of some rows and columns, before the transform is undone."""
        patches = self._patches(coarse, time)
        out = np.empty((len(coarse), len(self.domain.variables), len(rows), len(columns)))
        for g in np.unique(time.season):
            own = np.flatnonzero(time.season == g)
            mean = self.fine_mean[g][:, rows][..., columns]
            seen = np.ascontiguousarray(patches[own].transpose(1, 2, 3, 0))
            # Row by row: a copy of its cells' surroundings is all that is held.
            for i, row in enumerate(rows):
                weights = self.weights[g, :, row][:, columns].transpose(1, 0, 2)
                found = weights @ seen[self._row[row]][self._column[columns]]
                out[own, :, i] = found.transpose(2, 1, 0) + mean[:, i]
        return out

    def state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """Weights and climatologies."""
        meta: dict[str, Any] = {"transforms": list(self.transforms), "width": self.width}
        if self.context:
            meta |= {"context": self.context, "context_width": self.context_width}
        arrays = {"weights": self.weights, "fine_mean": self.fine_mean, "coarse_mean": self.coarse_mean}
        return meta, arrays

    @classmethod
    def from_state(cls, domain: Domain, coarsening: Coarsening, meta: Mapping[str, Any], arrays: Arrays) -> Self:
        """The inverse of `state`."""
        own = (arrays["weights"], arrays["fine_mean"], arrays["coarse_mean"])
        context, context_width = int(meta.get("context", 0)), int(meta.get("context_width", 1))
        return cls(domain, coarsening, meta["transforms"], int(meta["width"]), *own, context, context_width)


def count_features(variables: int, width: int, context: int, context_width: int) -> int:
    """How many coarse anomalies a `Neighbourhood` of these widths sees."""
    return variables * (width**2 + 2 * context * context_width**2)


def fit_bytes(
    variables: int,
    fine: tuple[int, int],
    coarse: tuple[int, int],
    seasons: int,
    *,
    width: int,
    context: int,
    context_width: int,
) -> int:
    """Bytes that `Neighbourhood.fit` holds at its widest, to know before anything is read.

    Products of the coarse anomalies with each other, in each coarse cell and season, grow with the square of their
    number; those with the fine fields, and what the steps at hand show, with the number.

    Args:
        variables: V.
        fine: (Y, X) of the fine grid.
        coarse: (y, x) of the coarse grid.
        seasons: G, seasons that have a regression each.
        width: As of `fit`, as all below.
        context: Steps.
        context_width: Cells.
    """
    F = count_features(variables, width, context, context_width)
    cells, points = math.prod(coarse), math.prod(fine)
    products = seasons * (cells * F * F + points * F * variables)
    # Of the steps at hand, with the parts that they are joined from; then, next to the last of these, what is solved of
    # one season: the products of it and of its neighbours, their sum, and three matrices of the season before.
    at_hand = max(2 * _STEPS * cells * F, _STEPS * cells * F + 7 * cells * F * F)
    return 8 * (products + at_hand) + 4 * seasons * variables * points * F


def held_apart(spans: Sequence[Span]) -> list[tuple[Span, tuple[Span, ...]]]:
    """Training spans in parts, each with the spans that something may be fitted on which must not know it.

    The others are the other scenarios. Of a single scenario parts are thirds of its steps, and the others the other
    thirds: a step that is held out is held out for all members.
    """
    if len({s.scenario for s in spans}) > 1:
        return [(s, tuple(o for o in spans if o.scenario != s.scenario)) for s in spans]
    cuts = [[s.start + len(s) * i // 3 for i in range(4)] for s in spans]
    parts = [replace(s, start=a, stop=b) for s, own in zip(spans, cuts, strict=True) for a, b in pairwise(own) if a < b]
    return [(p, tuple(o for o in parts if o != p)) for p in parts]


class CrossFit(NamedTuple):
    """Regressions that do not know what they are asked about.

    Attributes:
        spans: The training spans, in parts.
        apart: For each part, the regression that was fitted without its scenario (or third).
    """

    spans: tuple[Span, ...]
    apart: tuple[Neighbourhood, ...]

    @classmethod
    def of(cls, archive: Archive, spans: Sequence[Span], whole: Neighbourhood, penalty: float) -> CrossFit:
        """Fit them with the settings of another.

        Args:
            archive: The data.
            spans: Training spans.
            whole: The regression that knows all of them.
            penalty: Its penalty.
        """
        fitted: dict[tuple[Span, ...], Neighbourhood] = {}
        parts = held_apart(spans)
        options: dict[str, Any] = {
            "width": whole.width,
            "penalty": penalty,
            "context": whole.context,
            "context_width": whole.context_width,
        }
        for _, others in parts:
            if others and others not in fitted:
                fitted[others] = Neighbourhood.fit(archive, others, whole.coarsening, whole.transforms, **options)
        # A single step has no others: nothing can be held apart from it.
        fitted[()] = whole
        return cls(tuple(part for part, _ in parts), tuple(fitted[others] for _, others in parts))


def stamps(time: TimeAxis) -> list[int]:
    """A number for each step, the same wherever in a series it is looked at."""
    return [(time.first + i * (time.minutes or 1)) % 2**32 for i in range(len(time))]


def _transformed(points: Sequence[Pointwise], fields: NDArray[np.floating]) -> Array:
    out = np.asarray(fields, np.float64).copy()
    for v, point in enumerate(points):
        out[:, v] = point.forward(out[:, v])
    return out


def neighbours(group: int, groups: int, per_day: int) -> list[int]:
    """The group, and those of the calendar months before and after it at the same time of the day."""
    if groups < 12:
        return [group]
    month, hour = divmod(group, per_day)
    return sorted({(month + d) % 12 * per_day + hour for d in (-1, 0, 1)})


def known_targets(
    domain: Domain, settings: Callable[[str], TargetSettings], root: Literal["sqrt", "cbrt"] = "sqrt"
) -> dict[str, TargetSettings]:
    """How each variable is normalised: as the settings say; what never falls below zero by a root by default.

    Rain is skewed: its root is nearly as likely above as below its mean.

    Args:
        domain: Of the variables.
        settings: From a name to what is said of it.
        root: Which root.
    """
    out = {}
    for variable in domain.described:
        said = settings(variable.name)
        chosen = said.known(variable)
        free = said.transform == "card" and chosen.transform == "none" and variable.relative
        out[variable.name] = chosen.model_copy(update={"transform": root}) if free else chosen
    return out


def fit_baselines(archive: Archive, spans: Sequence[Span], coarsening: Coarsening) -> tuple[Downscaler, ...]:
    """The three that every downscaler stands next to, fitted on training spans."""
    return (
        Interpolation(archive.domain, coarsening),
        SeasonalResidual.fit(archive, spans, coarsening),
        CellLine.fit(archive, spans, coarsening),
    )
