"""A network that makes fine fields of coarse ones, block by block.

The network answers with a residual in normalised units. What it is added to, its base, is the coarse-down-up pass in
statistics of its own (as published by IPSL-AID), or the ridge regression of each cell on the coarse cells round it.

Invariant: reconstructing with the true residual gives the truth; a globe stitched of blocks is the answer of the whole
field wherever the network sees no edge of a block.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, SerializerFunctionWrapHandler, field_validator, model_serializer

from emukit.config import Settings, check, options_of
from emukit.data.archive import Archive, Domain
from emukit.data.block_sampler import BlockSettings, check_size
from emukit.data.card import parse_card
from emukit.data.coarsen import Coarsening, CoarseSettings
from emukit.data.encodings import STATIC, place_fields
from emukit.data.frames import InputSettings, static_fields
from emukit.data.grid import Grid
from emukit.data.split import Span
from emukit.data.targets import TargetNormalizer, TargetSettings
from emukit.data.time import TimeAxis
from emukit.emulators.base import FORMAT, read_saved, time_head, time_of, write_saved
from emukit.emulators.downscaler import (
    Arrays,
    Cells,
    CrossFit,
    Downscaler,
    Neighbourhood,
    neighbours,
    stamps,
    training_pairs,
)
from emukit.errors import RecipeError, RunError, shortage
from emukit.models.block_unet import BlockUNet
from emukit.models.precision import matmul_precision
from emukit.objectives.base import AddressedNoise, Objective
from emukit.objectives.registry import OBJECTIVES, REGRESSION

Array = NDArray[np.float64]

# What emukit fills in of the network's constructor.
CONTEXT = ("in_channels", "variables", "uniform", "levels")
# Of the level, by which what is left may grow.
EXPONENTS = np.linspace(0, 1.5, 16)
# Steps of a block that are computed together.
_STEPS = 8


class ConditionSettings(Settings):
    """What the network is told next to the coarse fields, and what its answer is added to.

    Attributes:
        base: ``regression``: the ridge regression of each cell on the coarse cells round it; ``pass``: the pass alone.
        width: Coarse cells of a side of the square that the regression sees, an odd number.
        penalty: Of the regression's squared weights.
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
    penalty: float = Field(0.01, gt=0)
    residual: Literal["in-sample", "out-of-fold"] = "in-sample"
    conserve: bool = False
    statics: tuple[str, ...] | None = None
    static_file: str | None = None

    @field_validator("width")
    @classmethod
    def _odd(cls, width: int) -> int:
        if width % 2 == 0:
            raise ValueError("a square round a coarse cell has an odd number of cells a side")
        return width

    @model_serializer(mode="wrap")
    def _as_before(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # Recipes from before there was a choice keep their digests.
        values: dict[str, Any] = dump(self)
        return {k: v for k, v in values.items() if (k, v) not in (("residual", "in-sample"), ("conserve", False))}


class ResidualFrames:
    """What the network is shown of a block, and what its answer is added to.

    Channels: the time of the year, and of the day where steps are hours (uniform); the pass, normalised by statistics
    of its own; the base, where it is another; static fields.

    Attributes:
        channels: Names.
        uniform: How many of them, the first, have one value in all cells.
        size: (G, V, Y, X) what the answer is multiplied with, by `TimeAxis.season`; None: nothing.
        growth: (V,) exponents with which that grows where the base is larger than usual, as rain has more that is left
            where it rains more.
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
    ) -> None:
        self.coarsening, self.fine, self.passed, self.base = coarsening, fine, passed, base
        self.size, self.growth = size, np.zeros(len(fine.settings)) if growth is None else growth
        self.statics, self.static_channels = statics, tuple(static_channels)
        uniform = [] if time.step == "year" else ["sin_year", "cos_year"]
        uniform += ["sin_day", "cos_day"] if time.per_day > 1 else []
        self.uniform = len(uniform)
        names = list(fine.settings)
        own = [f"coarse {v}" for v in names] + ([f"base {v}" for v in names] if base else [])
        self.channels: tuple[str, ...] = (*uniform, *own, *self.static_channels)

    def block(
        self, coarse: NDArray[np.floating], time: TimeAxis, rows: Cells, columns: Cells
    ) -> tuple[NDArray[np.float32], Array]:
        """(T, C, y, x) frames of some steps of a block, and (T, V, y, x) what the answer is added to, normalised."""
        up = self.coarsening.up(coarse, rows, columns)
        passed = self.passed.window(rows, columns).forward_exactly(up, time.season)
        base = passed
        if self.base is not None:
            base = self.normalised(self.base.fields(coarse, time, rows, columns), time, rows, columns)
        shape = (len(rows), len(columns))
        phases = [time.phase / time.per_year] if time.step != "year" else []
        phases += [time.step_of_day / time.per_day] if time.per_day > 1 else []
        waves = [wave(2 * np.pi * phase) for phase in phases for wave in (np.sin, np.cos)]
        parts: list[Array] = [np.broadcast_to(w[:, None, None, None], (len(time), 1, *shape)) for w in waves]
        parts += [passed, *([base] if self.base is not None else [])]
        statics = self.statics[:, rows][..., columns].astype(np.float64)
        parts.append(np.broadcast_to(statics, (len(time), *statics.shape)))
        return np.concatenate(parts, 1, dtype=np.float32), base

    def normalised(self, fine: NDArray[np.floating], time: TimeAxis, rows: Cells, columns: Cells) -> Array:
        """(T, V, y, x) fine fields in normalised units, those of the base."""
        return self.fine.window(rows, columns).forward_exactly(fine, time.season)

    def residual(
        self, fine: NDArray[np.floating], base: NDArray[np.floating], time: TimeAxis, rows: Cells, columns: Cells
    ) -> Array:
        """(T, V, y, x) the answer that gives fine fields: the inverse of `reconstructed`."""
        left = self.normalised(fine, time, rows, columns) - base
        return left if self.size is None else left / self._size(base, time, rows, columns)

    def varied(self, **changes: Any) -> ResidualFrames:
        """The same with another `base`, `size` or `growth`."""
        one = copy(self)
        one.__dict__.update(changes)
        return one

    def _size(self, base: NDArray[np.floating], time: TimeAxis, rows: Cells, columns: Cells) -> Array:
        assert self.size is not None
        size: Array = self.size[time.season][..., rows, :][..., columns]
        if self.growth.any():
            size = size * self.fine.window(rows, columns).level(base, time.season) ** self.growth[:, None, None]
        return size

    def reconstructed(
        self, residual: NDArray[np.floating], base: NDArray[np.floating], time: TimeAxis, rows: Cells, columns: Cells
    ) -> Array:
        """Physical units of base and answer."""
        answer = residual if self.size is None else residual * self._size(base, time, rows, columns)
        whole = np.asarray(base, np.float64) + answer
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
        width, penalty = conditions.width, conditions.penalty
        if width % 2 == 0:
            raise RecipeError("conditions.width is even", found=str(width), expected="an odd number of coarse cells")
        base = Neighbourhood.fit(archive, spans, coarsening, transforms, width=width, penalty=penalty)
    names = conditions.statics
    if names is None:
        names = ("lat", "lon", *(n for n in ("land", "orography") if n in archive.statics))
    known, others = [n for n in names if n in STATIC], [n for n in names if n not in STATIC]
    channels, fields = place_fields(tuple(known), archive.grid)
    if others or conditions.static_file:
        settings = InputSettings(statics=tuple(others), static_file=conditions.static_file)
        more, own = static_fields(settings, archive)
        channels, fields = (*channels, *more), np.concatenate([fields, own])
    return ResidualFrames(coarsening, fine, passed, base, fields, channels, archive.time)


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
    archive: Archive, spans: Sequence[Span], frames: ResidualFrames, crossed: CrossFit | None
) -> CrossFrames:
    """Frames out of fold, whose answers are in units of what is left there.

    Args:
        archive: The data.
        spans: Training spans.
        frames: As fitted on all of them.
        crossed: Their regression out of fold; None where their base is the pass.
    """
    parts: tuple[Span, ...] = tuple(spans)
    apart = (frames,) * len(parts)
    if crossed is not None:
        parts, apart = crossed.spans, tuple(frames.varied(base=base) for base in crossed.apart)
    growth = _residual_growth(archive, parts, apart)
    ones = np.ones((archive.time.seasons, len(archive.variables), *archive.grid.shape))
    apart = tuple(one.varied(size=ones, growth=growth) for one in apart)
    size = _residual_size(archive, parts, apart)
    whole = frames.varied(size=size, growth=growth)
    return CrossFrames(whole, parts, tuple(one.varied(size=size) for one in apart))


def _left(
    archive: Archive, parts: Sequence[Span], apart: Sequence[ResidualFrames], every: int = 1
) -> Iterator[tuple[Array, Array, TimeAxis]]:
    """(T, V, Y, X) bases and the answers to them, of every so manieth step of the training, with their time axis."""
    rows, columns = (np.arange(k) for k in archive.grid.shape)
    for part, own in zip(parts, apart, strict=True):
        for number, (fine, coarse, time) in enumerate(training_pairs(archive, (part,), own.coarsening)):
            if number % every == 0:
                _, base = own.block(coarse, time, rows, columns)
                yield base, own.residual(fine, base, time, rows, columns), time


def _residual_growth(archive: Archive, parts: Sequence[Span], apart: Sequence[ResidualFrames]) -> Array:
    """(V,) exponents of what is left against the level of the base, for variables that a root or logarithm is taken of.

    The most likely of some, if what is left is normal, with a size of its own in each cell times the level to a power.
    """
    roots = np.array([s.transform in ("sqrt", "log1p") for s in apart[0].fine.settings.values()])
    if not roots.any():
        return np.zeros(len(roots))
    squares = np.zeros((len(EXPONENTS), len(roots), *archive.grid.shape))
    logarithms, n = np.zeros(squares.shape[1:]), 0
    # Sixteen powers of every cell: a part of the steps is enough for one number.
    for base, left, time in _left(archive, parts, apart, every=4):
        level = np.log(apart[0].fine.level(base, time.season))
        logarithms, n = logarithms + level.sum(0), n + len(left)
        for i, exponent in enumerate(EXPONENTS):
            squares[i] += (left**2 * np.exp(-2 * exponent * level)).sum(0)
    # Of each cell the most likely size is the root mean square, which leaves its logarithm and that of the levels.
    sizes = np.log(np.maximum(squares / n, 1e-30)) + 2 * EXPONENTS[:, None, None, None] * logarithms / n
    best = EXPONENTS[np.argmin((archive.grid.weights * sizes).sum((-2, -1)), 0)]
    return np.where(roots, best, 0.0)


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
            scenario, apart = archive[crossed.spans[part].scenario], crossed.apart[part]
            fine, time = scenario.truth(member, step, step + 1), scenario.time[step : step + 1]
            _, base = apart.block(apart.coarsening.down(fine), time, rows, columns)
            own.append(apart.residual(fine, base, time, rows, columns)[0].astype(np.float32))
        season = np.repeat([*kept], [len(own) for own in kept.values()])
        return cls(archive.domain, crossed.whole, season, np.stack([a for own in kept.values() for a in own]))

    def _fields(self, coarse: NDArray[np.floating], time: TimeAxis, rows: Cells, columns: Cells, member: int) -> Array:
        _, base = self.frames.block(coarse, time, rows, columns)
        answers = np.empty_like(base)
        for i, stamp in enumerate(stamps(time)):
            own = np.flatnonzero(self.season == time.season[i])
            # A season that no training step has takes any.
            own = own if len(own) else np.arange(len(self.season))
            chosen = own[np.random.default_rng([member, stamp]).integers(len(own))]
            answers[i] = self.answers[chosen][:, rows][..., columns]
        return self.frames.reconstructed(answers, base, time, rows, columns)


class SharedNoise:
    """Noise of some steps of the globe, of which blocks take their part: where two overlap it is the same.

    Args:
        whole: Of the globe, a function of seed, realisation and stamp.
    """

    def __init__(self, whole: AddressedNoise) -> None:
        self._whole = whole
        self._made: dict[tuple[str, int], torch.Tensor] = {}
        self._at: tuple[torch.Tensor, torch.Tensor] | None = None

    def of(self, rows: Cells, columns: Cells) -> SharedNoise:
        """The same for a block."""
        one = copy(self)
        one._at = torch.from_numpy(rows), torch.from_numpy(columns)
        return one

    def __call__(self, channels: int) -> torch.Tensor:
        """(T, 1, channels, y, x)."""
        return self._cut(("frame", channels), lambda: self._whole(channels))

    def answer(self, draw: int) -> torch.Tensor:
        """(T, 1, V, y, x)."""
        return self._cut(("answer", draw), lambda: self._whole.answer(draw))

    def _cut(self, key: tuple[str, int], make: Callable[[], torch.Tensor]) -> torch.Tensor:
        if key not in self._made:
            self._made[key] = make()
        whole = self._made[key]
        return whole if self._at is None else whole[..., self._at[0], :][..., self._at[1]]


class NeuralDownscaler(Downscaler):
    """Network, frames and objective as one."""

    kind, label = "neural-downscaler", "network"

    def __init__(
        self,
        domain: Domain,
        coarsening: Coarsening,
        frames: ResidualFrames,
        network: BlockUNet,
        options: Mapping[str, Any],
        blocks: BlockSettings,
        overlap: int,
        *,
        objective: str = REGRESSION,
        objective_options: Mapping[str, Any] | None = None,
        seed: int = 0,
        trained_on: Mapping[str, str] | None = None,
        conserves: bool = False,
    ) -> None:
        """Put the parts together.

        Args:
            domain: What is predicted, and where.
            coarsening: What is coarse.
            frames: Makes what the network is shown.
            network: Itself.
            options: The network's own.
            blocks: How it was trained; blocks of this size are stitched.
            overlap: Cells by which stitched blocks overlap at least.
            objective: What it was trained for, which says how it is asked.
            objective_options: The objective's own.
            seed: Of realisations.
            trained_on: Protocol and digest of the data, by which others see what it may know.
            conserves: Whether it keeps the means of coarse cells.
        """
        super().__init__(domain, coarsening)
        self.conserves = conserves
        self.trained_on = dict(trained_on or {})
        self.frames, self.network, self.options = frames, network, dict(options)
        self.blocks, self.overlap, self.seed = blocks, overlap, seed
        self.objective_name, self.objective_options = objective, dict(objective_options or {})
        self._objective: Objective = OBJECTIVES.load(objective)(None, **self.objective_options)

    @property
    def draws(self) -> bool:
        """Whether its objective does."""
        return self._objective.draws

    def _fields(self, coarse: NDArray[np.floating], time: TimeAxis, rows: Cells, columns: Cells, member: int) -> Array:
        out = np.zeros((len(coarse), len(self.domain.variables), len(rows), len(columns)))
        tiling = Tiling(self.domain.grid.shape, self.blocks.size, self.overlap, self.network.multiple)
        training = self.network.training
        self.network.eval()
        try:
            with torch.inference_mode(), matmul_precision("fp32"):
                for first in range(0, len(coarse), _STEPS):
                    part = slice(first, first + _STEPS)
                    out[part] = self._stitched(coarse[part], time[part], rows, columns, member, tiling)
        finally:
            self.network.train(training)
        return out

    def _stitched(
        self,
        coarse: NDArray[np.floating],
        time: TimeAxis,
        rows: Cells,
        columns: Cells,
        member: int,
        tiling: Tiling,
    ) -> Array:
        """Blend the residuals of the blocks, in normalised units, and add them to the base of the whole."""
        sums = np.zeros((len(coarse), len(self.domain.variables), len(rows), len(columns)))
        total = np.zeros((len(rows), len(columns)))
        noise = self._noise(time, member)
        for tile in tiling.tiles(rows, columns):
            shown, _ = self.frames.block(coarse, time, tile.rows, tile.columns)
            frames = torch.from_numpy(shown).to(self._device)[:, None]
            own = noise.of(tile.rows, tile.columns)
            found = self._objective.predict(self.network, frames, own)[:, 0].double().cpu().numpy()
            inner = found[:, :, tile.from_rows][..., tile.from_columns]
            weights = tile.weights[tile.from_rows][:, tile.from_columns]
            at = np.ix_(tile.to_rows, tile.to_columns)
            sums[:, :, at[0], at[1]] += weights * inner
            total[at] += weights
        _, base = self.frames.block(coarse, time, rows, columns)
        return self.frames.reconstructed(sums / total, base, time, rows, columns)

    @property
    def _device(self) -> torch.device:
        return next(self.network.parameters()).device

    def _noise(self, time: TimeAxis, member: int) -> SharedNoise:
        steps = [[stamp] for stamp in stamps(time)]
        fields = (1, len(self.domain.variables), *self.domain.grid.shape)
        return SharedNoise(AddressedNoise(self.seed, [member] * len(time), steps, fields))

    def state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """Names and options; weights, statistics and the base."""
        frames, arrays = self.frames, {}
        fine, fine_arrays = frames.fine.state()
        passed, passed_arrays = frames.passed.state()
        meta: dict[str, Any] = {
            "options": self.options,
            "blocks": self.blocks.model_dump(mode="json"),
            "overlap": self.overlap,
            "trained_on": self.trained_on,
            "objective": {"name": self.objective_name, "options": self.objective_options, "seed": self.seed},
            "fine": fine,
            "passed": passed,
            "static_channels": list(frames.static_channels),
            "time": {"step": self.domain.time.step, "calendar": self.domain.time.calendar},
        }
        arrays = {f"fine.{k}": v for k, v in fine_arrays.items()} | {f"passed.{k}": v for k, v in passed_arrays.items()}
        arrays["statics"] = frames.statics
        if frames.size is not None:
            arrays |= {"size": frames.size, "growth": frames.growth}
        if self.conserves:
            meta["conserves"] = True
        if frames.base is not None:
            meta["base"], own = frames.base.state()
            arrays |= {f"base.{k}": v for k, v in own.items()}
        arrays |= {f"network.{k}": v.detach().cpu().numpy() for k, v in self.network.state_dict().items()}
        return meta, arrays

    @classmethod
    def from_state(cls, domain: Domain, coarsening: Coarsening, meta: Mapping[str, Any], arrays: Arrays) -> Self:
        """The inverse of `state`.

        Raises:
            RecipeError: The objective is unknown, or an option is.
        """

        def part(name: str) -> dict[str, NDArray[Any]]:
            return {k.removeprefix(f"{name}."): v for k, v in arrays.items() if k.startswith(f"{name}.")}

        base = Neighbourhood.from_state(domain, coarsening, meta["base"], part("base")) if "base" in meta else None
        _check_arrays(domain, coarsening, meta, arrays)
        fine = TargetNormalizer.from_state(meta["fine"], part("fine"))
        passed = TargetNormalizer.from_state(meta["passed"], part("passed"))
        time = TimeAxis(**meta["time"], first=0, length=0)
        if (time.step, time.calendar) != (domain.time.step, domain.time.calendar):
            raise ValueError(f"its time of {time.step} is not that of its fields, {domain.time.step}")
        statics = np.asarray(arrays["statics"], np.float32)
        grown = arrays.get("size"), arrays.get("growth")
        frames = ResidualFrames(coarsening, fine, passed, base, statics, meta["static_channels"], time, *grown)
        asked = meta["objective"]
        chosen = OBJECTIVES.load(asked["name"])
        own = check(options_of(chosen), asked["options"], source="the saved downscaler").model_dump()
        options = check(options_of(BlockUNet, CONTEXT), meta["options"], source="the saved downscaler").model_dump()
        weights = {k: torch.from_numpy(np.array(v)) for k, v in part("network").items()}
        with torch.device("meta"):
            # Without memory: a width that is made up is seen before anything is allocated for it.
            sizes = build_block_network(frames, len(domain.variables), options, chosen(None, **own)).state_dict()
        if {k: v.shape for k, v in sizes.items()} != {k: v.shape for k, v in weights.items()}:
            raise ValueError("the weights are not those of a network with its options")
        network = build_block_network(frames, len(domain.variables), options, chosen(None, **own))
        network.load_state_dict(weights)
        network.eval()
        blocks = check(BlockSettings, meta["blocks"], source="the saved downscaler")
        check_size(blocks.size, domain.grid)
        return cls(
            domain,
            coarsening,
            frames,
            network,
            options,
            blocks,
            int(meta["overlap"]),
            objective=asked["name"],
            objective_options=own,
            seed=int(asked["seed"]),
            trained_on=meta["trained_on"],
            conserves=bool(meta.get("conserves")),
        )


def _check_arrays(domain: Domain, coarsening: Coarsening, meta: Mapping[str, Any], arrays: Arrays) -> None:
    """Refuse statistics of other shapes than the grids say, and numbers that are none; the network checks its own.

    Raises:
        ValueError: There are such.
    """
    fields = (domain.time.seasons, len(domain.variables))
    expected: dict[str, tuple[int, ...]] = {"statics": (len(meta["static_channels"]), *domain.grid.shape)}
    for name in ("fine", "passed"):
        if list(meta[name]["settings"]) != list(domain.variables):
            raise ValueError(f"{name} is of other variables")
        expected |= {f"{name}.center": (*fields, *domain.grid.shape), f"{name}.scale": (*fields, *domain.grid.shape)}
    if "size" in arrays:
        expected |= {"size": (*fields, *domain.grid.shape), "growth": fields[1:]}
    if "base" in meta:
        width, transforms = meta["base"]["width"], meta["base"]["transforms"]
        if type(width) is not int or width % 2 == 0 or not 1 <= width <= 15 or len(transforms) != fields[1]:
            raise ValueError(f"base.width {width!r} or base.transforms {transforms!r}")
        expected |= {
            "base.weights": (*fields, *domain.grid.shape, fields[1] * width**2),
            "base.fine_mean": (*fields, *domain.grid.shape),
            "base.coarse_mean": (*fields, *coarsening.shape),
        }
    if type(meta["overlap"]) is not int or meta["overlap"] < 0:
        raise ValueError(f"overlap {meta['overlap']!r}")
    if meta.get("conserves") and not coarsening.whole:
        raise ValueError("it keeps the means of coarse cells that are no means of whole cells")
    for name, shape in expected.items():
        if arrays[name].shape != shape or arrays[name].dtype.kind != "f":
            raise ValueError(f"{name} of shape {arrays[name].shape}, {arrays[name].dtype}, not {shape}")
    for name, array in arrays.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise ValueError(f"{name} is not finite")


def build_block_network(
    frames: ResidualFrames, variables: int, options: Mapping[str, Any], objective: Objective
) -> BlockUNet:
    """The network for some frames, with fresh weights.

    Raises:
        RecipeError: An option cannot be built.
    """
    channels = len(frames.channels) + objective.noise_channels
    try:
        return BlockUNet(
            in_channels=channels, variables=variables, uniform=frames.uniform, levels=objective.levels, **options
        )
    except ValueError as e:
        raise RecipeError("cannot build the network with these options", found=str(e), hint="fix --set model.*") from e


@dataclass(frozen=True, eq=False)
class Tile:
    """A block of a stitched map.

    Attributes:
        rows, columns: Its fine cells.
        weights: (y, x) how it counts, falling towards edges that are not those of the map.
        from_rows, from_columns: Which of its own cells are wanted.
        to_rows, to_columns: Where they are among what is wanted.
    """

    rows: Cells
    columns: Cells
    weights: Array
    from_rows: Cells
    from_columns: Cells
    to_rows: Cells
    to_columns: Cells


@dataclass(frozen=True)
class Tiling:
    """How a map is covered by overlapping blocks; the same blocks for a region of it.

    Attributes:
        shape: (Y, X) of the map.
        size: (y, x) of a block.
        overlap: Cells that neighbours share at least.
        multiple: Blocks begin at multiples of it, as far as the map goes.
    """

    shape: tuple[int, int]
    size: tuple[int, int]
    overlap: int
    multiple: int = 1

    def starts(self, axis: int) -> list[int]:
        """First cells of the blocks along latitude (0) or longitude (1)."""
        length, block = self.shape[axis], self.size[axis]
        if axis == 0 and block == length:
            return [0]
        stride = max(self.multiple, (block - min(self.overlap, block // 2)) // self.multiple * self.multiple)
        if axis == 1:
            return list(range(0, length, stride))
        # The last one ends with the map.
        return [*range(0, length - block, stride), length - block]

    def profile(self, axis: int, start: int) -> Array:
        """Weights along one axis: a ramp over half the overlap, from zero where a block is cut; level at a pole.

        The outermost quarter of the overlap counts next to nothing: there the network has seen the edge.
        """
        block, length = self.size[axis], self.shape[axis]
        overlap = max(1, min(self.overlap, block // 2))
        distance = np.arange(block) + 0.5
        ramp = np.clip((distance - overlap / 4) / (overlap / 2), 1e-6, 1.0)
        falling, rising = ramp[::-1], ramp
        before = np.ones(block) if axis == 0 and start == 0 else rising
        after = np.ones(block) if axis == 0 and start + block == length else falling
        return np.asarray(np.minimum(before, after))

    def tiles(self, rows: Cells, columns: Cells) -> Iterator[Tile]:
        """The blocks that hold some of the wanted cells."""
        X = self.shape[1]
        place = np.full(X, -1)
        place[columns] = np.arange(len(columns))
        for top in self.starts(0):
            own = top + np.arange(self.size[0])
            inside = np.flatnonzero((own >= rows[0]) & (own <= rows[-1]))
            if not len(inside):
                continue
            for left in self.starts(1):
                across = (left + np.arange(self.size[1])) % X
                there = np.flatnonzero(place[across] >= 0)
                if not len(there):
                    continue
                weights = self.profile(0, top)[:, None] * self.profile(1, left)
                yield Tile(own, across, weights, inside, there, own[inside] - rows[0], place[across[there]])


def saved_values(downscaler: NeuralDownscaler) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Plain values and arrays of a downscaler, its domain left out."""
    meta, arrays = downscaler.state()
    return {"coarse": downscaler.coarsening.settings.model_dump(mode="json"), "meta": meta}, arrays


def downscaler_of(domain: Domain, values: Mapping[str, Any], arrays: Arrays) -> NeuralDownscaler:
    """The inverse of `saved_values`."""
    settings = check(CoarseSettings, values["coarse"], source="the saved downscaler")
    return NeuralDownscaler.from_state(domain, Coarsening(domain.grid, settings), values["meta"], arrays)


def save_downscaler(downscaler: NeuralDownscaler, folder: Path) -> None:
    """Write a downscaler, whole or not at all; nothing in it is unpickled when it is read."""
    values, arrays = saved_values(downscaler)
    domain = downscaler.domain
    head = {
        "format": FORMAT,
        "kind": downscaler.kind,
        "variables": list(domain.variables),
        **time_head(domain.time),
        "card": domain.card.model_dump(mode="json"),
        **values,
    }
    write_saved(folder, head, {**arrays, "grid.lat": domain.grid.lat, "grid.lon": domain.grid.lon})


def load_downscaler(folder: Path) -> NeuralDownscaler:
    """Read what `save_downscaler` wrote.

    Raises:
        RunError: There is none, or it is damaged.
    """
    head, arrays = read_saved(folder)
    if head.get("kind") != NeuralDownscaler.kind:
        raise RunError(
            f"{folder} does not hold a downscaler",
            found=f"an emulator of the kind {head.get('kind')}",
            expected=NeuralDownscaler.kind,
            hint="name a run of `emukit train downscale`",
        )
    try:
        grid = Grid(arrays.pop("grid.lat"), arrays.pop("grid.lon"))
        card, variables = parse_card(head["card"], "the saved downscaler"), tuple(head["variables"])
        if not variables or not set(variables) <= set(card.targets):
            raise ValueError(f"variables {head['variables']!r} are not targets of its card")
        return downscaler_of(Domain(card, grid, variables, time_of(head)), head, arrays)
    except RecipeError as e:
        raise RunError(
            f"the downscaler in {folder} does not fit what is installed here",
            found=f"{e.what}{f': {e.found}' if e.found else ''}",
            expected=e.expected,
            hint="use the version of emukit that wrote it, or train it again",
        ) from e
    except (LookupError, TypeError, AttributeError, ValueError, ArithmeticError, RuntimeError, MemoryError) as e:
        raise shortage(e) or RunError(
            f"the downscaler in {folder} does not fit this version of emukit",
            found=str(e),
            hint="use the version of emukit that wrote it, or train it again",
        ) from e
