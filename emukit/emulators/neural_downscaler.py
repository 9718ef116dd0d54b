"""A network that makes fine fields of coarse ones, block by block.

The network answers with the residual of `downscaling_residuals`.

Invariant: a globe stitched of blocks is the answer of the whole field wherever the network sees no edge of a block.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray

from emukit.config import check, options_of
from emukit.data.archive import Domain
from emukit.data.block_sampler import BlockSettings, check_size
from emukit.data.card import parse_card
from emukit.data.coarsen import Coarsening, CoarseSettings
from emukit.data.grid import Grid
from emukit.data.targets import TargetNormalizer
from emukit.data.time import TimeAxis
from emukit.emulators.base import FORMAT, read_saved, time_head, time_of, write_saved
from emukit.emulators.downscaler import (
    Arrays,
    Cells,
    Downscaler,
    Neighbourhood,
    count_features,
    stamps,
)
from emukit.emulators.downscaling_residuals import MOST_CONTEXT, Climate, ResidualFrames
from emukit.errors import RecipeError, RunError, shortage
from emukit.models.block_unet import BlockUNet
from emukit.models.precision import matmul_precision
from emukit.objectives.base import AddressedNoise, Objective
from emukit.objectives.registry import OBJECTIVES, REGRESSION

Array = NDArray[np.float64]

# What emukit fills in of the network's constructor.
CONTEXT = ("in_channels", "variables", "uniform", "levels")
# Arrays of a `Climate`, in the order of its attributes.
CLIMATE = ("center", "scale", "pattern", "exponent")
# Steps of a block that are computed together.
_STEPS = 8


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
        self.conserves, self.context = conserves, frames.context
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
            arrays |= {"size": frames.size, "growth": frames.growth, "far": frames.far}
        if frames.climate is not None:
            meta["climate"] = self.domain.variables[frames.climate.variable]
            arrays |= {f"climate.{k}": getattr(frames.climate, k) for k in CLIMATE}
        if self.conserves:
            meta["conserves"] = True
        if frames.context:
            meta["context"] = frames.context
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
        grown = [arrays.get(name) for name in ("size", "growth", "far")]
        climate = None
        if "climate" in meta:
            climate = Climate(domain.variables.index(meta["climate"]), *(arrays[f"climate.{k}"] for k in CLIMATE))
        shown = (statics, meta["static_channels"], time, *grown, meta.get("context", 0), climate)
        frames = ResidualFrames(coarsening, fine, passed, base, *shown)
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
        # Downscalers saved before this power was fitted do not hold it.
        expected |= {"far": fields[1:]} if "far" in arrays else {}
    if "climate" in meta:
        if meta["climate"] not in domain.variables or "size" not in arrays:
            raise ValueError(f"climate {meta['climate']!r}")
        own_shapes = {"center": fields[:1], "scale": (1,), "pattern": (*fields[1:], *domain.grid.shape)}
        expected |= {f"climate.{k}": shape for k, shape in {**own_shapes, "exponent": fields[1:]}.items()}
        if not (np.asarray(arrays["climate.scale"]) > 0).all():
            raise ValueError(f"climate.scale {arrays['climate.scale']}")
    context = meta.get("context", 0)
    if type(context) is not int or not 0 <= context <= MOST_CONTEXT:
        raise ValueError(f"context {context!r}")
    if "base" in meta:
        width, transforms = meta["base"]["width"], meta["base"]["transforms"]
        around, own = meta["base"].get("context_width", 1), meta["base"].get("context", 0)
        odd = all(type(w) is int and w % 2 == 1 and 1 <= w <= 15 for w in (width, around))
        if not odd or len(transforms) != fields[1]:
            raise ValueError(f"base.width {width!r}, base.context_width {around!r} or base.transforms {transforms!r}")
        if own != context:
            raise ValueError(f"base.context {own!r}, and context {context!r}")
        expected |= {
            "base.weights": (*fields, *domain.grid.shape, count_features(fields[1], width, own, around)),
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
