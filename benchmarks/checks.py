"""What is checked before anything is measured, in the process that the user sees.

Invariant: a network, setting, device or store that cannot be measured is an `EmukitError` at once, not the end of a
child process after a minute of preparation.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.networks import Job, channels_of, made_up_archive, network_recipe
from emukit.data.archive import Archive
from emukit.data.opening import open_data
from emukit.data.protocol import make_split
from emukit.data.segments import SegmentAddresses
from emukit.data.source import open_source
from emukit.data.split import Span
from emukit.errors import EmukitError, StoreError
from emukit.models.registry import count_parameters


def check_device(device: str | None) -> str:
    """The device to measure on: the one named, else the accelerator where there is one.

    Raises:
        EmukitError: It is not a device, or not here.
    """
    there = ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",)
    if device is None:
        return there[-1]
    if device not in there:
        raise EmukitError(
            f"--device {device} cannot be had here",
            found=f"{torch.cuda.device_count()} GPUs that PyTorch can use",
            expected=" or ".join(there),
            hint="leave --device out; CUDA_VISIBLE_DEVICES chooses among several GPUs",
        )
    return device


def check_budget(seconds: float) -> float:
    """A time that training may take.

    Raises:
        EmukitError: It is none.
    """
    if not (math.isfinite(seconds) and seconds > 0):
        raise EmukitError(
            "--budget is not a time to train in", found=f"{seconds:g} s", expected="a number of seconds above zero"
        )
    return seconds


def check_networks(jobs: Sequence[Job], archive: Archive | None = None) -> None:
    """Load every recipe and build every network without storage.

    Args:
        jobs: What is to be measured, all on one grid.
        archive: What they train on; the made-up climate when None.

    Raises:
        RecipeError: No such network, or its settings are wrong.
        ProtocolError: An input is not in the archive, or its training months hold no segment.
    """
    recipes = [network_recipe(job) for job in jobs]
    climate = archive or made_up_archive(replace(jobs[0], years=1))
    months = [Span("ssp126", 0, 12, (0,))] if archive is None else make_split(archive).train
    for recipe in recipes:
        count_parameters(
            recipe.emulator,
            in_channels=channels_of(recipe, climate, months),
            variables=len(climate.variables),
            grid=climate.grid.shape,
            history=recipe.inputs.window.history,
            options=recipe.options,
        )
        if archive is not None:
            SegmentAddresses.of(archive, months, recipe.inputs.window, recipe.training.segments)


def check_store(path: str) -> None:
    """See that a store can be opened, without reading its arrays.

    Raises:
        StoreError: There is none, or it cannot be read.
    """
    with open_source(path):
        pass


def check_zarr_v2(path: str) -> None:
    """See that a store is of the kind that the loader's reference reads.

    Raises:
        StoreError: It is another.
    """
    check_store(path)
    if not (Path(path) / ".zgroup").exists():
        raise StoreError(f"{path} is not Zarr v2", expected="the competition's store", hint="name it with --data")


def check_training(path: str, jobs: Sequence[Job]) -> None:
    """See that networks can train on a store.

    Raises:
        EmukitError: What `check_networks` and `open_data` raise.
    """
    for job in jobs:
        network_recipe(job)  # the quick part first
    check_networks(jobs, open_data(path))
