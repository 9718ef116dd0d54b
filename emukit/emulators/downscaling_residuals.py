"""What a downscaling network is shown and learns: frames of a block, and what the base leaves of the fine fields.

The residual is in normalised units. What it is added to, its base, is the coarse-down-up pass in statistics of its own
(as published by IPSL-AID), or the ridge regression of each cell on the coarse cells round it.

Invariant: reconstructing with the true residual gives the truth.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, SerializerFunctionWrapHandler, field_validator, model_serializer, model_validator

from emukit.config import Settings
from emukit.data.archive import Archive, Domain
from emukit.data.coarsen import Coarsening, offsets
from emukit.data.encodings import STATIC, place_fields
from emukit.data.frames import InputSettings, static_fields
from emukit.data.split import Span
from emukit.data.targets import TargetNormalizer, TargetSettings
from emukit.data.time import TimeAxis
from emukit.data.variable import ROOTS
from emukit.emulators.downscaler import (
    Cells,
    CrossFit,
    Downscaler,
    Neighbourhood,
    coarse_fields,
    neighbours,
    stamps,
    training_pairs,
)

Array = NDArray[np.float64]

# Steps on either side that may be seen: weights and channels grow with them.
MOST_CONTEXT = 6
# With which what is left may grow with the level of the base, and with how far the pass is from its climatology.
EXPONENTS = np.linspace(0, 1.5, 16)
FAR_EXPONENTS = np.linspace(0, 0.5, 11)
# By which its logarithm may change with each standard deviation of the climate.
CLIMATE_EXPONENTS = np.linspace(-0.1, 0.2, 61)
# Factor that no climate goes beyond.
MOST_GROWTH = 3.0
# Standard deviations beyond which passes are not told apart.
FARTHEST = 6.0
# Exponents are fitted on parts of so many steps, of which every fourth is taken: years from all of a scenario.
_PART_STEPS, _EVERY = 48, 4


class ConditionSettings(Settings):
    """What the network is told next to the coarse fields, and what its answer is added to.

    Attributes:
        base: ``regression``: the ridge regression of each cell on the coarse cells round it; ``pass``: the pass alone.
        width: Coarse cells of a side of the square that the regression sees, an odd number.
        context: Steps before, and as many after, whose coarse fields the regression and the network see too.
        context_width: Coarse cells of a side of the square that the regression sees of these.
        penalty: Of the regression's squared weights.
        root: By which variables that never fall below zero are seen, ``sqrt`` or ``cbrt``, where neither
            `targets.NAME.transform` nor the data card says anything.
        calibrate: Whether what is left ``out-of-fold`` may grow where the pass is far from its climatology, by a power
            that is fitted; and whether realisations are spread, after training, by the factor of each variable that
            gives them the spread of their error on training steps that their base did not know.
        climate: Whether what is left may also grow with the climate, by an exponent that is fitted, and the distance of
            the pass is that from the mean in its climate. On where the objective draws, unless it is said.
        residual: What the network learns. ``out-of-fold``: what is left by regressions that were fitted without the
            scenario at hand (of a single one, without a third of its steps), each cell and season in units of its own
            size, which for rain grows where it rains more. ``in-sample``: what is left by the regression that knows the
            step, in units of the field.
        conserve: Whether answers are given the means of the coarse cells that are shown. Only where coarse fields are
            such means, and coarse cells hold whole fine cells.
        statics: ``lat``, ``lon`` (sines and cosines), and fields of the store or of `static_file`; None: those two,
            and `land` and `orography` where the store has them.
        static_file: NetCDF file on the same grid that holds static fields the store does not have.
    """

    base: Literal["regression", "pass"] = "regression"
    width: int = Field(5, ge=1, le=15)
    context: int = Field(0, ge=0, le=MOST_CONTEXT)
    context_width: int = Field(1, ge=1, le=15)
    penalty: float = Field(0.01, gt=0)
    root: Literal["sqrt", "cbrt"] = "sqrt"
    calibrate: bool = False
    climate: bool = False
    residual: Literal["in-sample", "out-of-fold"] = "in-sample"
    conserve: bool = False
    statics: tuple[str, ...] | None = None
    static_file: str | None = None

    @field_validator("width", "context_width")
    @classmethod
    def _odd(cls, width: int) -> int:
        if width % 2 == 0:
            raise ValueError("a square round a coarse cell has an odd number of cells a side")
        return width

    @model_validator(mode="after")
    def _what_acts(self) -> ConditionSettings:
        if "context_width" in self.model_fields_set and not (self.context and self.base == "regression"):
            raise ValueError("context_width is of a regression with a context: set context=1, base=regression")
        if self.calibrate and self.residual == "in-sample":
            raise ValueError("calibrate is of what is left out of fold: set residual=out-of-fold, or calibrate=false")
        if self.climate and not self.calibrate:
            raise ValueError("climate is of what is calibrated: set calibrate=true, or climate=false")
        return self

    @model_serializer(mode="wrap")
    def _as_before(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # Recipes from before there was a choice keep their digests.
        values: dict[str, Any] = dump(self)
        before = {
            "residual": "in-sample",
            "conserve": False,
            "context": 0,
            "context_width": 1,
            "root": "sqrt",
            "calibrate": False,
            "climate": False,
        }
        return {k: v for k, v in values.items() if k not in before or v != before[k]}


@dataclass(frozen=True, eq=False)
class Climate:
    """The climate of a step, as one variable's area mean tells it, and what of the passes goes with it.

    An anomaly is weather or climate. Weather is more or less usual, whatever the climate; what a regression leaves of
    a warmer climate than it knows is another matter.

    Attributes:
        variable: Place of the variable among all.
        center: (G,) its area mean by `TimeAxis.season`, in its units.
        scale: (1,) standard deviation of its area mean, less that of the season.
        pattern: (V, Y, X) by how much the normalised passes change with a standard deviation of it.
        exponent: (V,) by how much the logarithm of the size of what is left does.
    """

    variable: int
    center: Array
    scale: Array
    pattern: Array
    exponent: Array

    @classmethod
    def fit(cls, archive: Archive, spans: Sequence[Span], coarsening: Coarsening, passed: TargetNormalizer) -> Climate:
        """Of the variable whose area mean explains the largest share of the variance of all passes.

        Args:
            archive: The data.
            spans: Training spans.
            coarsening: What is coarse.
            passed: Statistics of the pass.

        Returns:
            Without any exponent.
        """
        V, groups = len(archive.variables), archive.time.seasons
        sums, n = np.zeros((groups, V)), np.zeros(groups)
        for _, coarse, time in training_pairs(archive, spans, coarsening):
            means = _area_means(coarse, coarsening)
            for g in np.unique(time.season):
                own = means[time.season == g]
                n[g] += len(own)
                sums[g] += own.sum(0)
        sums[n == 0], n[n == 0] = sums.sum(0), n.sum()
        center = sums / n[:, None]
        products, passes = np.zeros((V, V, *archive.grid.shape)), np.zeros((V, *archive.grid.shape))
        squares, steps = np.zeros(V), 0
        for _, coarse, time in training_pairs(archive, spans, coarsening):
            index = _area_means(coarse, coarsening) - center[time.season]
            anomaly = passed.forward_exactly(coarsening.up(coarse), time.season)
            products += np.tensordot(index, anomaly, (0, 0))
            passes += (anomaly**2).sum(0)
            squares, steps = squares + (index**2).sum(0), steps + len(index)
        # What never changes explains nothing.
        safe = np.where(squares > 0, squares, 1.0)[:, None, None, None]
        explained = products**2 / safe / np.where(passes > 0, passes, 1.0)
        v = int(np.argmax((explained * archive.grid.weights).sum((-2, -1)).sum(1)))
        scale = float(np.sqrt(squares[v] / steps)) or 1.0
        return cls(v, center[:, v], np.array([scale]), products[v] / safe[v] * scale, np.zeros(V))

    def anomalies(self, coarse: NDArray[np.floating], coarsening: Coarsening, time: TimeAxis) -> Array:
        """(T,) standard deviations of the climate of coarse fields (T, V, y, x) from that of the training."""
        means = _area_means(coarse[:, self.variable], coarsening)
        return np.asarray((means - self.center[time.season]) / self.scale)

    def factor(self, anomalies: Array) -> Array:
        """(T, V) what the size of what is left is multiplied with in climates of these (T,) anomalies."""
        most = np.log(MOST_GROWTH)
        return np.asarray(np.exp(np.clip(np.multiply.outer(anomalies, self.exponent), -most, most)))


def _area_means(coarse: NDArray[np.floating], coarsening: Coarsening) -> Array:
    """(..., y, x) -> (...), float64."""
    return np.asarray((coarse * coarsening.cell_weights).sum((-2, -1), dtype=np.float64))


class Base(NamedTuple):
    """What an answer is added to.

    Attributes:
        fields: (T, V, y, x) normalised.
        anomaly: (T, V, y, x) the pass, normalised by statistics of its own, less its mean in the climate of the step.
        unit: (T, V, y, x) what the answer is multiplied with first; None: nothing.
        climate: (T,) as `Climate` counts it; None where it does not count.
    """

    fields: Array
    anomaly: Array
    unit: Array | None
    climate: Array | None = None

    @property
    def farness(self) -> Array:
        """(T, V, y, x) how far the pass is from its mean: 1 where it is that, never below."""
        return np.asarray(1 + np.minimum(self.anomaly**2, FARTHEST**2))


class ResidualFrames:
    """What the network is shown of a block, and what its answer is added to.

    Channels: the time of the year, and of the day where steps are hours (uniform); the pass, normalised by statistics
    of its own; the passes of the steps before and after, of which zero is their climatology; the base, where it is
    another than the pass; static fields.

    Attributes:
        channels: Names.
        uniform: How many of them, the first, have one value in all cells.
        size: (G, V, Y, X) what the answer is multiplied with, by `TimeAxis.season`; None: nothing.
        growth: (V,) exponents with which that grows where the base is larger than usual, as rain has more that is left
            where it rains more.
        far: (V,) exponents with which it grows where the pass is far from its climatology, as in a climate that the
            training does not hold.
        context: How many steps before and after are shown.
        climate: With what else it grows, and from what the pass is far; None: nothing, and its climatology.
    """

    def __init__(
        self,
        coarsening: Coarsening,
        fine: TargetNormalizer,
        passed: TargetNormalizer,
        base: Neighbourhood | None,
        statics: NDArray[np.float32],
        static_channels: Sequence[str],
        time: TimeAxis,
        size: Array | None = None,
        growth: Array | None = None,
        far: Array | None = None,
        context: int = 0,
        climate: Climate | None = None,
    ) -> None:
        self.coarsening, self.fine, self.passed, self.base = coarsening, fine, passed, base
        self.context, self.climate, none = context, climate, np.zeros(len(fine.settings))
        self.size, self.growth, self.far = size, none if growth is None else growth, none if far is None else far
        self.statics, self.static_channels = statics, tuple(static_channels)
        uniform = [] if time.step == "year" else ["sin_year", "cos_year"]
        uniform += ["sin_day", "cos_day"] if time.per_day > 1 else []
        self.uniform = len(uniform)
        names = list(fine.settings)
        own = [f"coarse {v}" + (f" {step:+d}" if step else "") for step in offsets(context) for v in names]
        own += [f"base {v}" for v in names] if base else []
        self.channels: tuple[str, ...] = (*uniform, *own, *self.static_channels)

    def block(
        self, coarse: NDArray[np.floating], time: TimeAxis, rows: Cells, columns: Cells
    ) -> tuple[NDArray[np.float32], Base]:
        """(T, C, y, x) frames of some steps of a block, and what the answer is added to."""
        passes = self._passes(coarse, time, rows, columns)
        base = passes[0]
        if self.base is not None:
            base = self.normalised(self.base.fields(coarse, time, rows, columns), time, rows, columns)
        shape = (len(rows), len(columns))
        phases = [time.phase / time.per_year] if time.step != "year" else []
        phases += [time.step_of_day / time.per_day] if time.per_day > 1 else []
        waves = [wave(2 * np.pi * phase) for phase in phases for wave in (np.sin, np.cos)]
        parts: list[Array] = [np.broadcast_to(w[:, None, None, None], (len(time), 1, *shape)) for w in waves]
        parts += [*passes, *([base] if self.base is not None else [])]
        statics = self.statics[:, rows][..., columns].astype(np.float64)
        parts.append(np.broadcast_to(statics, (len(time), *statics.shape)))
        said = Base(base, passes[0], None)
        if self.climate is not None:
            climate = self.climate.anomalies(coarse, self.coarsening, time)
            usual = climate[:, None, None, None] * self.climate.pattern[:, rows][..., columns]
            said = Base(base, passes[0] - usual, None, climate)
        return np.concatenate(parts, 1, dtype=np.float32), self._unit(said, time, rows, columns)

    def _passes(self, coarse: NDArray[np.floating], time: TimeAxis, rows: Cells, columns: Cells) -> list[Array]:
        """(T, V, y, x) normalised passes of the steps themselves, and of those of their context."""
        own, V = self.passed.window(rows, columns), len(self.fine.settings)
        out = []
        for i, step in enumerate(offsets(self.context)):
            seen = coarse[:, i * V : (i + 1) * V]
            known = np.isfinite(seen).all((1, 2, 3)) if step else np.ones(len(seen), bool)
            passed = np.zeros((len(seen), V, len(rows), len(columns)))
            if known.any():
                up = self.coarsening.up(seen[known], rows, columns)
                passed[known] = own.forward_exactly(up, time.later(step).season[known])
            out.append(passed)
        return out

    def normalised(self, fine: NDArray[np.floating], time: TimeAxis, rows: Cells, columns: Cells) -> Array:
        """(T, V, y, x) fine fields in normalised units, those of the base."""
        return self.fine.window(rows, columns).forward_exactly(fine, time.season)

    def residual(self, fine: NDArray[np.floating], base: Base, time: TimeAxis, rows: Cells, columns: Cells) -> Array:
        """(T, V, y, x) the answer that gives fine fields: the inverse of `reconstructed`."""
        left = self.normalised(fine, time, rows, columns) - base.fields
        return left if base.unit is None else left / base.unit

    def varied(self, **changes: Any) -> ResidualFrames:
        """The same with another `base`, `size`, `growth`, `far` or `climate`."""
        one = copy(self)
        one.__dict__.update(changes)
        return one

    def _unit(self, base: Base, time: TimeAxis, rows: Cells, columns: Cells) -> Base:
        """The same base with the unit of its answer."""
        if self.size is None:
            return base
        unit: Array = self.size[time.season][..., rows, :][..., columns]
        if self.growth.any():
            unit = unit * self.fine.window(rows, columns).level(base.fields, time.season) ** self.growth[:, None, None]
        if self.far.any():
            unit = unit * base.farness ** self.far[:, None, None]
        if self.climate is not None and base.climate is not None:
            unit = unit * self.climate.factor(base.climate)[..., None, None]
        return base._replace(unit=unit)

    def reconstructed(
        self, residual: NDArray[np.floating], base: Base, time: TimeAxis, rows: Cells, columns: Cells
    ) -> Array:
        """Physical units of base and answer."""
        answer = residual if base.unit is None else residual * base.unit
        whole = np.asarray(base.fields + answer, np.float64)
        return self.fine.window(rows, columns).inverse(whole, time.season)


def fit_frames(
    archive: Archive,
    spans: Sequence[Span],
    coarsening: Coarsening,
    targets: Mapping[str, TargetSettings],
    conditions: ConditionSettings,
) -> ResidualFrames:
    """Statistics of the fine fields and of the pass, each of its own, and the base; on training spans alone.

    Raises:
        RecipeError: A static field is not there.
    """
    fine = TargetNormalizer.fit(archive, spans, targets)
    passed = TargetNormalizer.fit(archive, spans, targets, through=coarsening.down_up)
    base = None
    if conditions.base == "regression":
        # A regression has no use for a fitted exponent.
        transforms = ["none" if t.transform == "yeo-johnson" else t.transform for t in targets.values()]
        base = Neighbourhood.fit(
            archive,
            spans,
            coarsening,
            transforms,
            width=conditions.width,
            penalty=conditions.penalty,
            context=conditions.context,
            context_width=conditions.context_width,
        )
    names = conditions.statics
    if names is None:
        names = ("lat", "lon", *(n for n in ("land", "orography") if n in archive.statics))
    known, others = [n for n in names if n in STATIC], [n for n in names if n not in STATIC]
    channels, fields = place_fields(tuple(known), archive.grid)
    if others or conditions.static_file:
        settings = InputSettings(statics=tuple(others), static_file=conditions.static_file)
        more, own = static_fields(settings, archive)
        channels, fields = (*channels, *more), np.concatenate([fields, own])
    return ResidualFrames(coarsening, fine, passed, base, fields, channels, archive.time, context=conditions.context)


class CrossFrames(NamedTuple):
    """Frames whose network learns what a base leaves that did not know the step.

    Attributes:
        whole: What the network is asked with.
        spans: The training spans, in parts.
        apart: What it is trained with: the frames of each part.
    """

    whole: ResidualFrames
    spans: tuple[Span, ...]
    apart: tuple[ResidualFrames, ...]


def cross_frames(
    archive: Archive,
    spans: Sequence[Span],
    frames: ResidualFrames,
    crossed: CrossFit | None,
    *,
    calibrate: bool,
    climate: bool,
) -> CrossFrames:
    """Frames out of fold, whose answers are in units of what is left there.

    Args:
        archive: The data.
        spans: Training spans.
        frames: As fitted on all of them.
        crossed: Their regression out of fold; None where their base is the pass.
        calibrate: Whether what is left may grow where the pass is far from its climatology.
        climate: Whether it may grow with the climate too.
    """
    parts: tuple[Span, ...] = tuple(spans)
    apart = (frames,) * len(parts)
    if crossed is not None:
        parts, apart = crossed.spans, tuple(frames.varied(base=base) for base in crossed.apart)
    told = Climate.fit(archive, spans, frames.coarsening, frames.passed) if climate else None
    apart = tuple(one.varied(climate=told) for one in apart)
    growth = _residual_growth(archive, parts, apart)
    far = _residual_far(archive, parts, apart, growth) if calibrate else np.zeros_like(growth)
    if told is not None:
        told = replace(told, exponent=_residual_climate(archive, parts, apart, growth, far))
    ones = np.ones((archive.time.seasons, len(archive.variables), *archive.grid.shape))
    grown = {"growth": growth, "far": far, "climate": told}
    apart = tuple(one.varied(size=ones, **grown) for one in apart)
    size = _residual_size(archive, parts, apart)
    whole = frames.varied(size=size, **grown)
    return CrossFrames(whole, parts, tuple(one.varied(size=size) for one in apart))


def _left(
    archive: Archive, parts: Sequence[Span], apart: Sequence[ResidualFrames], *which: int
) -> Iterator[tuple[Base, Array, TimeAxis]]:
    """Bases and the answers to them (T, V, Y, X), with their time axis; `which` steps, as `training_pairs` says."""
    rows, columns = (np.arange(k) for k in archive.grid.shape)
    for part, own in zip(parts, apart, strict=True):
        for fine, coarse, time in training_pairs(archive, (part,), own.coarsening, own.context, *which):
            _, base = own.block(coarse, time, rows, columns)
            yield base, own.residual(fine, base, time, rows, columns), time


def _likeliest(exponents: Array, steps: Iterable[tuple[Array, Array]], weights: NDArray[np.floating]) -> Array:
    """(V,) the most likely of some exponents, if what is left is normal and grows with something to that power.

    Each cell has a size of its own.

    Args:
        exponents: Among which.
        steps: What is left (T, V, Y, X), and the logarithm of what the power is of, of that shape or broadcast to it.
        weights: (Y, X) of area.
    """
    squares: Array | float = 0.0
    logarithms: Array | float = 0.0
    n, powers = 0, exponents[:, None, None, None, None]
    for left, logarithm in steps:
        squares = squares + np.stack([(left**2 * np.exp(-2 * p * logarithm)).sum(0) for p in exponents])
        logarithms, n = logarithms + logarithm.sum(0), n + len(left)
    # Of each cell the most likely size is the root mean square, which leaves its logarithm and that of the powers.
    sizes = np.log(np.maximum(np.asarray(squares) / n, 1e-30)) + 2 * powers[:, 0] * np.asarray(logarithms) / n
    return np.asarray(exponents[np.argmin((weights * sizes).sum((-2, -1)), 0)])


def _residual_growth(archive: Archive, parts: Sequence[Span], apart: Sequence[ResidualFrames]) -> Array:
    """(V,) exponents of what is left against the level of the base, for variables seen by a root or logarithm."""
    fine = apart[0].fine
    roots = np.array([s.transform in ROOTS for s in fine.settings.values()])
    if not roots.any():
        return np.zeros(len(roots))
    found = _left(archive, parts, apart, _PART_STEPS, _EVERY)
    steps = ((left, np.log(fine.level(base.fields, time.season))) for base, left, time in found)
    return np.where(roots, _likeliest(EXPONENTS, steps, archive.grid.weights), 0.0)


def _residual_far(archive: Archive, parts: Sequence[Span], apart: Sequence[ResidualFrames], growth: Array) -> Array:
    """(V,) exponents of what is left, after its `growth`, against how far the pass is from its climatology."""
    fine = apart[0].fine
    found = _left(archive, parts, apart, _PART_STEPS, _EVERY)
    steps = (
        (left * fine.level(base.fields, time.season) ** -growth[:, None, None], np.log(base.farness))
        for base, left, time in found
    )
    return _likeliest(FAR_EXPONENTS, steps, archive.grid.weights)


def _residual_climate(
    archive: Archive, parts: Sequence[Span], apart: Sequence[ResidualFrames], growth: Array, far: Array
) -> Array:
    """(V,) exponents of what is left, after its `growth` and where the pass is `far`, against the climate."""
    fine = apart[0].fine
    steps = (
        (
            left * fine.level(base.fields, time.season) ** -growth[:, None, None] * base.farness ** -far[:, None, None],
            base.climate[:, None, None, None],
        )
        for base, left, time in _left(archive, parts, apart, _PART_STEPS, _EVERY)
        if base.climate is not None
    )
    return _likeliest(CLIMATE_EXPONENTS, steps, archive.grid.weights)


def _residual_size(archive: Archive, parts: Sequence[Span], apart: Sequence[ResidualFrames]) -> Array:
    """(G, V, Y, X) root mean square of what is left; a season is seen with the months next to it, as the base is."""
    groups, per_day = archive.time.seasons, archive.time.per_day
    squares, n = np.zeros((groups, len(archive.variables), *archive.grid.shape)), np.zeros(groups)
    for _, left, time in _left(archive, parts, apart):
        for g in np.unique(time.season):
            squares[g] += (left[time.season == g] ** 2).sum(0)
            n[g] += (time.season == g).sum()
    near = [neighbours(g, groups, per_day) for g in range(groups)]
    near = [own if n[own].sum() else list(range(groups)) for own in near]
    size = np.sqrt(np.stack([squares[own].sum(0) / n[own].sum() for own in near]))
    # Where next to nothing is left, as in a desert month, what is left is not magnified a thousandfold.
    typical = np.median(size, (0, 2, 3), keepdims=True)
    return np.asarray(np.maximum(size, np.where(typical > 0, 1e-2 * typical, 1.0)), np.float64)


class ResidualDraws(Downscaler):
    """The base, with an answer of a training month of the same season: noise without a network.

    Answers are out of fold and in units of their size, so that they are as large as what is left here. The reference of
    everything that draws.

    Attributes:
        frames: With the base.
        season: (K,) `TimeAxis.season` of each kept answer.
        answers: (K, V, Y, X) float32.
    """

    kind, label = "residual-draws", "ridge + what it left in a training month"

    def __init__(
        self, domain: Domain, frames: ResidualFrames, season: NDArray[np.int64], answers: NDArray[np.float32]
    ) -> None:
        super().__init__(domain, frames.coarsening)
        self.frames, self.season, self.answers = frames, season, answers
        self.context = frames.context

    @property
    def draws(self) -> bool:
        """It does."""
        return True

    @classmethod
    def fit(cls, archive: Archive, crossed: CrossFrames, *, number: int = 40, seed: int = 0) -> Self:
        """Keep some answers of every season, drawn from all training steps of all members.

        Args:
            archive: The data.
            crossed: Frames out of fold.
            number: How many of each season, at most.
            seed: Of which.
        """
        steps = [
            (part, member, step, int(archive[span.scenario].time.season[step]))
            for part, span in enumerate(crossed.spans)
            for member in span.members
            for step in range(span.start, span.stop)
        ]
        kept: dict[int, list[NDArray[np.float32]]] = {}
        rows, columns = (np.arange(n) for n in archive.grid.shape)
        for i in np.random.default_rng([seed, 0xD4A3]).permutation(len(steps)):
            part, member, step, season = steps[i]
            own = kept.setdefault(season, [])
            if len(own) >= number:
                continue
            span, apart = crossed.spans[part], crossed.apart[part]
            scenario = archive[span.scenario]
            fine, time = scenario.truth(member, step, step + 1), scenario.time[step : step + 1]
            at = slice(step - span.start, step - span.start + 1)
            coarse = coarse_fields(archive, span, member, apart.coarsening, apart.context, at)
            _, base = apart.block(coarse, time, rows, columns)
            own.append(apart.residual(fine, base, time, rows, columns)[0].astype(np.float32))
        season = np.repeat([*kept], [len(own) for own in kept.values()])
        return cls(archive.domain, crossed.whole, season, np.stack([a for own in kept.values() for a in own]))

    def _fields(self, coarse: NDArray[np.floating], time: TimeAxis, rows: Cells, columns: Cells, member: int) -> Array:
        _, base = self.frames.block(coarse, time, rows, columns)
        answers = np.empty_like(base.fields)
        for i, stamp in enumerate(stamps(time)):
            own = np.flatnonzero(self.season == time.season[i])
            # A season that no training step has takes any.
            own = own if len(own) else np.arange(len(self.season))
            chosen = own[np.random.default_rng([member, stamp]).integers(len(own))]
            answers[i] = self.answers[chosen][:, rows][..., columns]
        return self.frames.reconstructed(answers, base, time, rows, columns)
