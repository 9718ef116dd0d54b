"""Whole-scenario predictions as files.

Invariant: the file says which run, data and code it came from, and is whole or not there.
"""

from __future__ import annotations

import os
from pathlib import Path

import xarray as xr

from emukit.data.archive import Archive, Scenario
from emukit.data.residency import host_free
from emukit.emulators.base import Emulator
from emukit.emulators.sampled import Sampled
from emukit.errors import RunError
from emukit.experiments import provenance
from emukit.experiments.memory import SAFE
from emukit.experiments.run import Run
from emukit.files import atomic_path
from emukit.terminal import size


def predict_scenario(run: Run, archive: Archive, scenario: str, members: int | None = None) -> xr.Dataset:
    """Predict every month of a scenario that the run's window can reach.

    Args:
        run: A finished run.
        archive: Its forcings are predicted from.
        scenario: A scenario of the archive.
        members: How many realisations, along a dimension ``member``; None: one prediction, without that dimension.

    Raises:
        ProtocolError: The scenario is not there, or lacks a forcing.
        RunError: Realisations were asked of an emulator that has one answer, or more of them than memory holds.
    """
    emulator, wanted = run.emulator(archive), archive[scenario]
    dataset = emulator.predict(wanted) if members is None else _ensemble(run, emulator, members, wanted)
    record, session = run.record, run.record.sessions[-1]
    return dataset.assign_attrs(
        title=f"{run.recipe.emulator} emulation of {scenario}",
        history=f"{provenance.now()} emukit {session.versions['emukit']}: {record.command}",
        training_protocol=record.identity.protocol,
        training_data=record.identity.data,
        forcing_data=archive.digest,
        recipe_digest=record.identity.recipe,
        seed=record.identity.seed,
        git_commit=str(session.git.get("commit", "")) + ("+changes" if session.git.get("changed") else ""),
    )


def _ensemble(run: Run, emulator: Emulator, members: int, scenario: Scenario) -> xr.Dataset:
    if not isinstance(emulator, Sampled):
        raise RunError(
            f"{run.folder} has one answer to a scenario, not an ensemble",
            found=f"an emulator of the kind {emulator.kind}",
            expected="one that draws realisations: sampled",
            hint="leave out --members, or train one: emukit train best-sampled",
        )
    # They are together in memory twice for a moment: one by one, and joined.
    one = 4 * len(scenario) * len(emulator.variables) * emulator.grid.weights.size
    room = int(SAFE * host_free())
    if 2 * members * one > room:
        raise RunError(
            f"{members:,} realisations do not fit into memory",
            found=f"{size(2 * members * one)}, {size(2 * one)} for each",
            expected=f"up to {size(room)}, most of what is free on this machine",
            hint=f"--members {room // (2 * one)}" if room >= 2 * one else "end other programs, or use a larger machine",
        )
    number = xr.Variable("member", range(members), {"standard_name": "realization"})
    realisations = [emulator.member(i).predict(scenario) for i in range(members)]
    return xr.concat(realisations, number, combine_attrs="identical")


def check_place(out: Path) -> None:
    """Refuse a place that `write_prediction` could not write to, before anything is computed for it.

    Raises:
        RunError: The suffix is another than .nc or .zarr, the place is taken, or cannot be written.
    """
    if out.suffix not in (".nc", ".zarr"):
        raise RunError(f"cannot tell the format of {out}", found=out.suffix or "no suffix", expected=".nc or .zarr")
    if out.is_dir() or (out.suffix == ".zarr" and out.exists()):
        raise RunError(f"{out} exists", expected="a new path", hint="remove it or choose another --out")
    place = next(p for p in out.absolute().parents if p.exists())
    if not (place.is_dir() and os.access(place, os.W_OK | os.X_OK)):
        raise RunError(
            f"cannot write {out}",
            found=f"{place} is {'not writable' if place.is_dir() else 'no folder'}",
            expected="a place that can be written",
            hint="choose another --out",
        )


def write_prediction(dataset: xr.Dataset, out: Path) -> None:
    """Write as NetCDF4 (``.nc``) or Zarr (``.zarr``).

    Raises:
        RunError: As `check_place`.
    """
    check_place(out)
    if out.suffix == ".nc":
        with atomic_path(out) as temporary:
            dataset.to_netcdf(temporary, encoding={v: {"zlib": True, "complevel": 1} for v in dataset.data_vars})
    else:
        with atomic_path(out) as temporary:
            dataset.to_zarr(temporary, mode="w", zarr_format=2)
