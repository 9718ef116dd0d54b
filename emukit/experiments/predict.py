"""Whole-scenario predictions as files.

Invariant: the file says which run, data and code it came from, and is whole or not there.
"""

from __future__ import annotations

from pathlib import Path

import xarray as xr

from emukit.data.archive import Archive
from emukit.errors import RunError
from emukit.experiments import provenance
from emukit.experiments.run import Run
from emukit.files import atomic_path


def predict_scenario(run: Run, archive: Archive, scenario: str) -> xr.Dataset:
    """Predict every month of a scenario that the run's window can reach.

    Raises:
        ProtocolError: The scenario is not there, or lacks a forcing.
    """
    dataset = run.emulator(archive).predict(archive[scenario])
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
