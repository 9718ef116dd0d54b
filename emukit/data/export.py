"""Windows for use elsewhere: every frame once, and for every target step the positions of the frames it sees.

Invariant: nothing is materialised twelve-fold. Target step w reads `frames[window_frames[w]]`, and its truth is
`targets[target_frame[w]]`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray

from emukit.data.archive import Archive
from emukit.data.frames import FrameEncoder
from emukit.data.split import Split
from emukit.data.zarr_writer import write_zarr
from emukit.outputs import MARK, marked, new_output, refuse_taken, zarr_kind
from emukit.progress import Reporter

WINDOWS = "windows"
KIND = zarr_kind("windows of `emukit data windows`", marked(WINDOWS))


def windows_dataset(archive: Archive, split: Split, encoder: FrameEncoder) -> xr.Dataset:
    """Frames, windows and targets of a split.

    Returns:
        A dataset with, over all scenarios one after the other,
        `frames` (frame, channel, y, x) float32, normalised on the training months;
        `targets` (frame, member, variable, y, x) float32 in physical units, NaN where hidden or missing;
        `window_frames` (window, history) and `target_frame` (window), positions along `frame`;
        and coordinates naming scenario and month of each frame, scenario and set of each window.
    """
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
