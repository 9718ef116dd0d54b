"""Whole-scenario predictions as files.

Invariant: the file says which run, data and code it came from, and is whole or not there.
"""

from __future__ import annotations

from pathlib import Path

import xarray as xr

from emukit.data.archive import Archive, Scenario
from emukit.emulators.base import Emulator
from emukit.emulators.sampled import Sampled
from emukit.errors import RunError
from emukit.experiments import provenance
from emukit.experiments.run import Run
from emukit.files import atomic_path


def predict_scenario(run: Run, archive: Archive, scenario: str, members: int | None = None) -> xr.Dataset:
    """Predict every month of a scenario that the run's window can reach.

    Args:
        run: A finished run.
        archive: Its forcings are predicted from.
        scenario: A scenario of the archive.
        members: How many realisations, along a dimension ``member``; None: one prediction, without that dimension.

    Raises:
        ProtocolError: The scenario is not there, or lacks a forcing.
        RunError: Realisations were asked of an emulator that has one answer.
    """
    emulator = run.emulator(archive)
    if members is None:
        dataset = emulator.predict(archive[scenario])
    else:
        dataset = _ensemble(run, emulator, members, archive[scenario])
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
    number = xr.Variable("member", range(members), {"standard_name": "realization"})
    realisations = [emulator.member(i).predict(scenario) for i in range(members)]
    return xr.concat(realisations, number, combine_attrs="identical")


def write_prediction(dataset: xr.Dataset, out: Path) -> None:
    """Write as NetCDF4 (``.nc``) or Zarr (``.zarr``).

    Raises:
        RunError: The suffix is another, or the Zarr folder exists.
    """
    if out.suffix == ".nc":
        with atomic_path(out) as temporary:
            dataset.to_netcdf(temporary, encoding={v: {"zlib": True, "complevel": 1} for v in dataset.data_vars})
    elif out.suffix == ".zarr":
        if out.exists():
            raise RunError(f"{out} exists", expected="a new path", hint="remove it or choose another --out")
        with atomic_path(out) as temporary:
            dataset.to_zarr(temporary, mode="w", zarr_format=2)
    else:
        raise RunError(f"cannot tell the format of {out}", found=out.suffix or "no suffix", expected=".nc or .zarr")
