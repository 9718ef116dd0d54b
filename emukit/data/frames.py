"""From forcings to the frames a network reads, and the window of frames that a target step sees.

Invariant: a frame depends on its own step's forcings, its position in the year and in the day and the grid, and on
statistics fitted on training steps alone; so a frame is encoded once, however many windows it stands in. A target step
sees exactly its own `history` steps of one scenario, consecutive, ending with itself or with the one before it; a
scenario's first steps get their missing past by a named rule, never from elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from pydantic import Field, SerializerFunctionWrapHandler, field_validator, model_serializer, model_validator
from torch import Tensor

from emukit.config import Settings, check
from emukit.data.archive import Archive, Scenario
from emukit.data.decode import Findings
from emukit.data.encodings import (
    CYCLES,
    STATIC,
    daily_fields,
    place_fields,
    seasonal_fields,
    seasonal_positions,
)
from emukit.data.grid import Grid
from emukit.data.split import Span
from emukit.data.store_layout import file_statics
from emukit.data.time import TimeAxis
from emukit.errors import ProtocolError, RecipeError
from emukit.parallel.share import ALONE
from emukit.sphere import ALL, Part, part_shape

# The first cell of a grid.
ONE: Part = (slice(1), slice(1))


class Window(Settings):
    """The forcing history of a target step: a month, or what else the time axis counts.

    Attributes:
        history: Number of forcing steps.
        target_month: Whether the target step's own forcing is the last of them (``included``), or the window ends
            with the step before (``excluded``, the convention of the competition's published third place).
        lead_in: What stands before a scenario's first step: its first year again, so that season and time of the day
            are right (``repeat-year``; of less than a year its first day, else its first step), its first step again
            (``repeat-month``), or nothing (``drop``: steps without a full history are not trained on and cannot be
            predicted).
    """

    history: int = Field(12, ge=1, le=1200)
    target_month: Literal["included", "excluded"] = "included"
    lead_in: Literal["repeat-year", "repeat-month", "drop"] = "repeat-year"

    @property
    def offset(self) -> int:
        """Steps from the window's last frame to the target."""
        return 0 if self.target_month == "included" else 1

    @property
    def first_target(self) -> int:
        """The first step of a scenario that can be trained on and predicted."""
        return self.history - 1 + self.offset if self.lead_in == "drop" else 0

    def frames(self, start: int, length: int, steps: int, time: TimeAxis | None = None) -> NDArray[np.int64]:
        """Frame positions for `length` consecutive target steps from `start`.

        Target step ``start + i`` sees positions ``i .. i + history - 1`` of the result.

        Args:
            start: First target step.
            length: Number of target steps.
            steps: Number of steps of the scenario.
            time: Says how many steps are a year and a day; months when None.

        Returns:
            (length + history - 1,) positions in the scenario.

        Raises:
            ProtocolError: The rule is ``drop`` and the history reaches before the scenario, or the scenario is too
                short for a window.
        """
        first = start - self.offset - self.history + 1
        unit, year = (time.unit, time.per_year) if time else ("month", 12)
        if not 0 <= start <= start + length <= steps:
            raise ValueError(f"target {unit}s [{start}, {start + length}) are outside [0, {steps})")
        if self.history > steps:
            raise ProtocolError(
                "the window is longer than the scenario",
                found=f"history of {self.history} {unit}s, scenario of {steps}",
                hint="choose a shorter --set inputs.window.history",
            )
        if start < self.first_target:
            raise ProtocolError(
                f"target {unit} {start} has no full history",
                found=f"{start - self.offset + 1} {unit}s before and including it",
                expected=f"{self.history}, as lead_in = 'drop' invents none",
                hint=f"start at {unit} {self.first_target}, or --set inputs.window.lead_in=repeat-year",
            )
        index = np.arange(first, first + length + self.history - 1)
        before = index < 0
        # The remainder keeps the season: month -1 is the December of the first year.
        period = next((p for p in (year, time.per_day if time else 1) if p <= steps), 1)
        index[before] = index[before] % period if self.lead_in == "repeat-year" else 0
        return index


class InputSettings(Settings):
    """What goes into a frame.

    Attributes:
        forcings: Names of forcings, in channel order; none only where there are states.
        states: Names of outputs of which a frame holds the step before: what the network said of it, or the truth it
            begins from. A prediction is then a trajectory.
        bounded: Whether states are put within the bounds of their variables before they are fed back, in rollouts and
            in trajectories. Otherwise only what is written is.
        conserved: State to how its global mean is held to that of the beginning, in rollouts and in trajectories:
            ``multiply``, by a factor, or ``add``, by the same amount in all cells.
        window: Which steps a target step sees.
        seasonal: Names of seasonal encodings: month, month-latitude, published. They tell the position in the year of
            months, days or hours, and nothing of years. Where steps are shorter than a day, hour (at Greenwich) and
            local-hour (of the sun) tell that in the day; where neither is named, local-hour joins the others.
        statics: ``lat``, ``lon`` (sines and cosines), and fields of the store or of `static_file` such as ``land``.
        static_file: NetCDF file on the same grid that holds static fields the store does not have.
    """

    forcings: tuple[str, ...] = ("CO2", "CH4", "SO2", "BC", "rsdt")
    states: tuple[str, ...] = ()
    bounded: bool = False
    conserved: dict[str, Literal["add", "multiply"]] = Field(default_factory=dict)
    window: Window = Window()
    seasonal: tuple[str, ...] = ("month", "month-latitude")
    statics: tuple[str, ...] = ("lat", "lon")
    static_file: str | None = None

    @field_validator("forcings", "states", "seasonal", "statics")
    @classmethod
    def _once(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(names)) < len(names):
            raise ValueError("a name stands twice")
        return names

    @model_validator(mode="after")
    def _reads_something(self) -> InputSettings:
        if not self.forcings and not self.states:
            raise ValueError("needs a forcing, or a state")
        if self.bounded and not self.states:
            raise ValueError("bounded has no effect without states")
        if unknown := [name for name in self.conserved if name not in self.states]:
            states = f"none of the states, {', '.join(self.states)}" if self.states else "there are no states"
            raise ValueError(f"conserved names {', '.join(unknown)}: {states}")
        return self

    @model_serializer(mode="wrap")
    def _as_before(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # Recipes keep the digests that they had before there were states, and before these had bounds and budgets.
        values: dict[str, Any] = dump(self)
        return {k: v for k, v in values.items() if v or k not in ("states", "bounded", "conserved")}

    @field_validator("seasonal")
    @classmethod
    def _known_encodings(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if name not in CYCLES:
                raise ValueError(f"unknown seasonal encoding {name!r}; known: {', '.join(CYCLES)}")
        return names


@dataclass(frozen=True, eq=False)
class EncodedScenario:
    """One scenario's normalised forcings, resident on a device.

    Attributes:
        fields: (T, G, Y, X) gridded forcings.
        series: (T, K) global forcings.
        position: (T,) position in the year: the calendar month, January 0, or the day of the year.
        season: (12, E, Y, X) seasonal encodings by position; 365 or so of days and hours, 1 of years.
        statics: (P, Y, X) static channels.
        first: Position of the first step.
        of_day: (T,) step of the day; empty where steps are a day or longer.
        day: (Q, D, Y, X) encodings of the time of the day by step.
    """

    fields: Tensor
    series: Tensor
    position: Tensor
    season: Tensor
    statics: Tensor
    first: int
    of_day: Tensor
    day: Tensor

    def __len__(self) -> int:
        return len(self.position)


class FrameEncoder:
    """Normalises forcings and joins them with season and place into frames of C channels.

    Channels stand in the order: gridded forcings, global forcings, encodings of the year, of the day, statics, states.
    Those of states are zero here: a sampler, or a trajectory, fills them.

    Attributes:
        settings: What goes into a frame.
        grid: The grid of every frame.
        time: A time axis of the steps that are encoded.
        channels: Name of every channel.
    """

    def __init__(
        self,
        settings: InputSettings,
        grid: Grid,
        statistics: Mapping[str, tuple[float, float, bool]],
        statics: NDArray[np.float32],
        static_channels: tuple[str, ...],
        time: TimeAxis,
    ) -> None:
        self.settings = settings
        self.grid = grid
        self.time = time
        self._statistics = dict(statistics)
        self._gridded = [n for n in settings.forcings if statistics[n][2]]
        self._global = [n for n in settings.forcings if not statistics[n][2]]
        # One cell tells channels and size; encodings are made for the cells that are asked for.
        seasonal_channels, season = seasonal_fields(settings.seasonal, _cells_of(grid, ONE), time)
        daily_channels, day = daily_fields(settings.seasonal, _cells_of(grid, ONE), time)
        self._cycle_bytes = season.nbytes + day.nbytes
        self._cycles: tuple[Part, NDArray[np.float32], NDArray[np.float32]] | None = None
        self._statics = statics
        self._static_channels = static_channels
        states = [f"state:{name}" for name in settings.states]
        self.channels = (*self._gridded, *self._global, *seasonal_channels, *daily_channels, *static_channels, *states)

    @classmethod
    def fit(cls, archive: Archive, spans: Sequence[Span], settings: InputSettings) -> FrameEncoder:
        """Z-score statistics of every forcing over the training steps (all cells of a field together).

        Raises:
            ProtocolError: A forcing is not in the store.
            RecipeError: A static field is not there, or is on another grid.
        """
        statistics = {}
        for name in settings.forcings:
            parts = [_forcing(archive[s.scenario], name)[s.start : s.stop] for s in spans]
            # A series is whole on every process that shares a globe.
            share = archive.share if parts[0].ndim == 3 else ALONE
            n, total = share.sum([sum(p.size for p in parts), sum(float(p.sum(dtype=np.float64)) for p in parts)])
            mean = float(total / n)
            square = sum(float(np.square(p - mean, dtype=np.float64).sum()) for p in parts)
            variance = float(share.sum(square) / n)
            # A forcing that never changes in training carries nothing to scale by: it becomes zero.
            statistics[name] = (mean, float(np.sqrt(variance)) or 1.0, parts[0].ndim == 3)
        channels, statics = static_fields(settings, archive)
        return cls(settings, archive.grid, statistics, statics, channels, archive.time)

    def encode(self, scenario: Scenario, device: torch.device | str = "cpu", part: Part = ALL) -> EncodedScenario:
        """Normalise one scenario's forcings and put them on a device.

        Args:
            scenario: Whose forcings.
            device: Where they are to be.
            part: Cells of the grid that are kept, where a globe is divided.

        Raises:
            ProtocolError: A forcing is missing, or is a field here and was a series in training, or is on another grid
                or time axis.
        """
        time = scenario.time
        if not time.same_steps(self.time):
            raise ProtocolError(
                f"the steps of {scenario.name} are not those of the training",
                found=time.describe(),
                expected=self.time.describe(),
                hint="predict on the time axis of the training",
            )
        position, (season, day) = seasonal_positions(time), self._encodings(part)
        of_day = time.step_of_day if time.per_day > 1 else np.zeros(0, np.int64)
        fields = np.empty((len(scenario), len(self._gridded), *part_shape(part, self.grid.shape)), np.float32)
        for i, name in enumerate(self._gridded):
            fields[:, i] = self._normalised(scenario, name, part)
        series = np.empty((len(scenario), len(self._global)), np.float32)
        for i, name in enumerate(self._global):
            series[:, i] = self._normalised(scenario, name)
        return EncodedScenario(
            torch.from_numpy(fields).to(device),
            torch.from_numpy(series).to(device),
            torch.from_numpy(position).to(device),
            torch.from_numpy(season).to(device),
            torch.from_numpy(self._statics[..., *part]).to(device),
            int(position[0]),
            torch.from_numpy(of_day).to(device),
            torch.from_numpy(day).to(device),
        )

    def _encodings(self, part: Part) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Those of the year and of the day, (P, E, y, x) and (Q, D, y, x), of the cells of a part."""
        if self._cycles is None or self._cycles[0] != part:
            cells, names = _cells_of(self.grid, part), self.settings.seasonal
            season, day = (make(names, cells, self.time)[1] for make in (seasonal_fields, daily_fields))
            self._cycles = (part, season, day)
        return self._cycles[1:]

    def resident_bytes(self, steps: int) -> int:
        """Size of what `encode` makes of a scenario of that many steps."""
        cells = self.grid.shape[0] * self.grid.shape[1]
        fixed = cells * self._cycle_bytes + self._statics.nbytes
        each: int = 4 * cells * len(self._gridded) + 4 * len(self._global) + 8 * (1 + (self.time.per_day > 1))
        return int(fixed) + steps * each

    def gather(self, encoded: EncodedScenario, index: Tensor, out: Tensor | None = None) -> Tensor:
        """Frames at the given positions of one scenario, (F,) -> (F, C, Y, X), written into `out` where it is given."""
        g, k, e, d = self._counts(encoded)
        if out is None:
            out = encoded.fields.new_empty(len(index), len(self.channels), *encoded.fields.shape[-2:])
        out[:, :g] = encoded.fields[index]
        out[:, g : g + k] = encoded.series[index][..., None, None]
        out[:, g + k : g + k + e] = encoded.season[encoded.position[index]]
        if d:
            out[:, g + k + e : g + k + e + d] = encoded.day[encoded.of_day[index]]
        self._fill_place(encoded, out[:, g + k + e + d :])
        return out

    def gather_run(self, encoded: EncodedScenario, start: int, out: Tensor) -> Tensor:
        """Frames at consecutive positions from `start`, as `gather` gives them, written into `out` (F, C, Y, X).

        Each value is moved once: an index would collect copies first, which takes three times as long on a CPU.
        """
        g, k, e, d = self._counts(encoded)
        run = slice(start, start + len(out))
        out[:, :g] = encoded.fields[run]
        out[:, g : g + k] = encoded.series[run][..., None, None]
        if self.time.is_monthly:
            year = encoded.season.roll(-((encoded.first + start) % 12), 0)
            whole = len(out) // 12 * 12
            if whole:
                out[:whole, g + k : g + k + e].view(whole // 12, 12, *year.shape[1:]).copy_(year)
            out[whole:, g + k : g + k + e] = year[: len(out) - whole]
        elif e:
            out[:, g + k : g + k + e] = encoded.season[encoded.position[run]]
        if d:
            out[:, g + k + e : g + k + e + d] = encoded.day[encoded.of_day[run]]
        self._fill_place(encoded, out[:, g + k + e + d :])
        return out

    def _fill_place(self, encoded: EncodedScenario, out: Tensor) -> None:
        """Statics, and zeros in the place of states."""
        out[:, : len(encoded.statics)] = encoded.statics
        if self.settings.states:
            out[:, len(encoded.statics) :] = 0.0

    def _counts(self, encoded: EncodedScenario) -> tuple[int, int, int, int]:
        """Channels of gridded and global forcings, of the year and of the day."""
        return len(self._gridded), len(self._global), encoded.season.shape[1], encoded.day.shape[1]

    def state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """Plain values and arrays from which `from_state` builds the same encoder."""
        meta = {
            "settings": self.settings.model_dump(mode="json"),
            "statistics": {k: list(v) for k, v in self._statistics.items()},
            "static_channels": list(self._static_channels),
            **({} if self.time.is_monthly else {"time": {"step": self.time.step, "calendar": self.time.calendar}}),
        }
        return meta, {"statics": self._statics}

    @classmethod
    def from_state(cls, meta: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]], grid: Grid) -> FrameEncoder:
        """The inverse of `state`."""
        time = TimeAxis(**{"step": "month", **meta.get("time", {})}, first=0, length=0)
        return cls(
            check(InputSettings, meta["settings"], source="the saved emulator"),
            grid,
            {k: (float(v[0]), float(v[1]), bool(v[2])) for k, v in meta["statistics"].items()},
            np.asarray(arrays["statics"], np.float32),
            tuple(meta["static_channels"]),
            time,
        )

    def _normalised(self, scenario: Scenario, name: str, part: Part = ALL) -> NDArray[np.float32]:
        mean, std, gridded = self._statistics[name]
        values = _forcing(scenario, name)
        expected = (len(scenario), *scenario.share.shape(self.grid.shape)) if gridded else (len(scenario),)
        if values.shape != expected:
            raise ProtocolError(
                f"forcing {name} of {scenario.name} does not have the shape the emulator was trained on",
                found=str(values.shape),
                expected=str(expected),
                hint="predict on the grid and with the kind of forcing used in training",
            )
        kept = scenario.share.cut(values, part) if gridded else values
        return ((kept - mean) / std).astype(np.float32)


def _cells_of(grid: Grid, part: Part) -> Grid:
    rows, columns = part
    return Grid(grid.lat[rows], grid.lon[columns])


def _forcing(scenario: Scenario, name: str) -> NDArray[np.floating]:
    if name not in scenario.forcings:
        raise ProtocolError(
            f"forcing {name} is not in scenario {scenario.name}",
            found=", ".join(scenario.forcings),
            hint="forcings that hold it, or a network without it",
        )
    return scenario.forcings[name]


def static_fields(settings: InputSettings, archive: Archive) -> tuple[tuple[str, ...], NDArray[np.float32]]:
    """Names of the static channels, and (P, Y, X) their fields.

    Raises:
        RecipeError: A static field is not there, not finite, or on another grid.
    """
    file_fields = _static_file(Path(settings.static_file), archive.grid) if settings.static_file else {}
    channels: list[str] = []
    fields: list[NDArray[np.float32]] = []
    for name in settings.statics:
        if name in STATIC:
            names, place = place_fields((name,), archive.grid)
            channels += names
            fields += list(place)
            continue
        source = {**archive.statics, **file_fields}
        if name not in source:
            raise RecipeError(
                f"static field {name!r} is not there",
                found=", ".join((*STATIC, *source)),
                hint="name one of those in inputs.statics, or the file that holds it in inputs.static_file",
            )
        field = np.asarray(source[name], np.float64)
        if not np.isfinite(field).all():
            raise RecipeError(
                f"static field {name!r} is not finite",
                found=f"{int((~np.isfinite(field)).sum())} cells that are NaN or infinite",
                hint="fill them, for example with zero over the ocean",
            )
        mean = archive.grid.mean(field)
        std = np.sqrt(archive.grid.mean((field - mean) ** 2)) or 1.0
        channels.append(name)
        fields.append(((field - mean) / std).astype(np.float32))
    stacked = np.stack(fields) if fields else np.zeros((0, *archive.grid.shape), np.float32)
    return tuple(channels), stacked


def _static_file(path: Path, grid: Grid) -> dict[str, NDArray[np.float32]]:
    findings = Findings()
    try:
        with xr.open_dataset(path) as ds:
            found = file_statics(ds, grid, findings)
    except (OSError, ValueError) as e:
        raise RecipeError(f"cannot read the static file {path}", found=str(e), hint="name a NetCDF file") from e
    if findings.problems or not found:
        raise RecipeError(
            f"the static file {path} is not on the store's grid",
            found="; ".join(p.what for p in findings.problems) or "no field of latitude and longitude alone",
            expected=f"{grid.shape[0]} x {grid.shape[1]} fields with the store's latitudes and longitudes",
            hint="regrid it first",
        )
    return found
