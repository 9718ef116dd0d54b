"""Predictions, and windows of forcings, as datasets that other tools understand.

Invariant: what is written says what it is: units, standard names, calendar, and where it came from. Windows are not
materialised twelve-fold: target step w reads `frames[window_frames[w]]`, and its truth is `targets[target_frame[w]]`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from emukit.data.archive import Archive
from emukit.data.grid import Grid
from emukit.data.time import TimeAxis
from emukit.data.variable import Variable
from emukit.errors import ProtocolError
from emukit.outputs import MARK, marked, new_output, refuse_taken, zarr_kind

if TYPE_CHECKING:
    from emukit.data.frames import FrameEncoder
    from emukit.data.split import Split
    from emukit.progress import Reporter

WINDOWS = "windows"
KIND = zarr_kind("windows of `emukit data windows`", marked(WINDOWS))


def fields_to_dataset(
    fields: NDArray[np.floating],
    time: TimeAxis,
    grid: Grid,
    variables: Sequence[Variable],
    scenario: str,
    provenance: Mapping[str, str] | None = None,
) -> xr.Dataset:
    """A CF dataset of predicted fields.

    Args:
        fields: (T, V, Y, X) in physical units.
        time: Their T steps. Months are written as their 15th and years as 1 July, in the noleap calendar as the
            competition's store has it; days and hours as their stamps, in their own.
        grid: Their grid.
        variables: What is along V.
        scenario: Name of the scenario.
        provenance: More global attributes.
    """
    return xr.Dataset(
        {v.name: (("time", "y", "x"), fields[:, i], v.attributes) for i, v in enumerate(variables)},
        coords={
            "time": ("time", time.cf_time(), {"standard_name": "time", "axis": "T"}),
            "y": ("y", grid.lat, {"standard_name": "latitude", "units": "degrees_north", "axis": "Y"}),
            "x": ("x", grid.lon, {"standard_name": "longitude", "units": "degrees_east", "axis": "X"}),
        },
        attrs={"Conventions": "CF-1.11", "scenario": scenario, "source": "emukit emulator", **(provenance or {})},
    )


def truth_dataset(
    archive: Archive, scenario: str, member: int = 0, start: str | None = None, stop: str | None = None
) -> xr.Dataset:
    """What the climate model said, in the form of a prediction.

    Args:
        archive: An opened store.
        scenario: Name of the scenario.
        member: Ensemble member.
        start: First step, such as ``2060-02``; the scenario's first when None.
        stop: Last step, included; the scenario's last when None.

    Raises:
        ProtocolError: No such scenario, member or step, or the steps are hidden.
    """
    chosen = archive[scenario]
    first = chosen.index(start) if start else 0
    last = chosen.index(stop) + 1 if stop else len(chosen)
    if first >= last:
        unit = chosen.time.unit
        raise ProtocolError(f"no {unit}s from {start} to {stop}", hint=f"name a first {unit} before the last")
    fields = chosen.truth(member, first, last)
    source = {"source": f"{archive.card.name}, member {member}"}
    return fields_to_dataset(fields, chosen.time[first:last], archive.grid, archive.domain.described, scenario, source)


def forcings_dataset(archive: Archive, scenario: str) -> xr.Dataset:
    """The forcings of a scenario, to be changed and handed to a prediction: what if CO2 followed another path?

    Args:
        archive: An opened store.
        scenario: Name of the scenario.

    Returns:
        A dataset with each forcing on time, or on (time, y, x), in the units of the data card.

    Raises:
        ProtocolError: There is no such scenario.
    """
    chosen = archive[scenario]
    empty = np.empty((len(chosen), 0, *archive.grid.shape), np.float32)
    frame = fields_to_dataset(empty, chosen.time, archive.grid, (), scenario)
    fields = {
        name: (("time", "y", "x")[: values.ndim], values, {"units": archive.card.forcings[name].units})
        for name, values in chosen.forcings.items()
    }
    return frame.assign(fields).assign_attrs(source=f"{archive.card.name}, forcings")


def windows_dataset(archive: Archive, split: Split, encoder: FrameEncoder) -> xr.Dataset:
    """Frames, windows and targets of a split.

    Returns:
        A dataset with, over all scenarios one after the other,
        `frames` (frame, channel, y, x) float32, normalised on the training months;
        `targets` (frame, member, variable, y, x) float32 in physical units, NaN where hidden or missing;
        `window_frames` (window, history) and `target_frame` (window), positions along `frame`;
        and coordinates naming scenario and month of each frame, scenario and set of each window.
    """
    import torch

    names = list(archive)
    first = dict(zip(names, np.cumsum([0, *(len(archive[n]) for n in names)]), strict=False))
    members = sorted({m for s in archive.values() for m in s.members})
    frames, targets = [], []
    for name in names:
        encoded = encoder.encode(archive[name])
        frames.append(encoder.gather(encoded, torch.arange(len(encoded))).numpy())
        targets.append(_targets(archive, name, members))
    windows, at, sets = [], [], []
    window = encoder.settings.window
    spans = [("train", s) for s in split.train] + [(k, s) for k, v in split.scored.items() for s in v]
    for label, span in spans:
        start = max(span.start, window.first_target)
        if start >= span.stop:
            continue
        scenario = archive[span.scenario]
        index = window.frames(start, span.stop - start, len(scenario), scenario.time) + first[span.scenario]
        windows.append(np.lib.stride_tricks.sliding_window_view(index, window.history))
        at.append(np.arange(start, span.stop) + first[span.scenario])
        sets += [label] * (span.stop - start)
    steps = np.concatenate([archive[n].time.texts() for n in names])
    return xr.Dataset(
        {
            "frames": (("frame", "channel", "y", "x"), np.concatenate(frames)),
            "targets": (("frame", "member", "variable", "y", "x"), np.concatenate(targets)),
            "window_frames": (("window", "history"), np.concatenate(windows).astype(np.int32)),
            "target_frame": (("window",), np.concatenate(at).astype(np.int32)),
        },
        coords={
            "channel": list(encoder.channels),
            "variable": list(archive.variables),
            "member": members,
            "y": archive.grid.lat,
            "x": archive.grid.lon,
            "scenario": ("frame", np.repeat(names, [len(archive[n]) for n in names])),
            archive.time.unit: ("frame", steps),
            "set": ("window", np.array(sets)),
        },
        attrs={
            MARK: WINDOWS,
            "how": "target month w sees frames[window_frames[w]]; its truth is targets[target_frame[w]]",
            "protocol": split.protocol,
            "window": window.model_dump_json(),
            "source": archive.source,
            "digest": archive.digest,
        },
    )


def check_place(out: Path, overwrite: bool) -> None:
    """Refuse a place that `write_windows` would refuse, before anything is computed.

    Raises:
        EmukitError: The place is taken, or cannot be written.
    """
    refuse_taken(out, KIND, overwrite)


def write_windows(dataset: xr.Dataset, out: Path, reporter: Reporter, overwrite: bool = False) -> None:
    """Write the dataset as Zarr, whole or not at all.

    Raises:
        EmukitError: As `check_place`, or it cannot be written.
    """
    from emukit.data.zarr_writer import write_zarr

    chunks = {v: tuple(min(120, n) if i == 0 else n for i, n in enumerate(dataset[v].shape)) for v in dataset.data_vars}
    with reporter.step(f"writing {out}", 1) as step, new_output(out, KIND, overwrite) as temporary:
        write_zarr(dataset, temporary, encoding={v: {"chunks": c} for v, c in chunks.items()})
        step.advance()


def _targets(archive: Archive, name: str, members: list[int]) -> NDArray[np.float32]:
    scenario = archive[name]
    shape = (len(scenario), len(members), len(archive.variables), *archive.grid.shape)
    out = np.full(shape, np.nan, np.float32)
    if scenario.targets is not None:
        for i, member in enumerate(members):
            if member in scenario.members:
                out[:, i] = scenario.targets[scenario.member_index(member)]
    out[scenario.hidden] = np.nan
    return out
