"""Whole-scenario predictions as files.

Invariant: the file says which run, data and code it came from, and is whole or not there.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import xarray as xr

from emukit import provenance
from emukit.data.archive import Archive, Scenario
from emukit.data.decode import Findings, read_time
from emukit.data.grid import Grid
from emukit.data.residency import host_free
from emukit.data.store import scenario_from_dataset
from emukit.data.units import same_units
from emukit.data.zarr_writer import write_zarr
from emukit.emulators.base import Emulator
from emukit.emulators.trajectory import Trajectory
from emukit.errors import EmukitError, ProtocolError, RunError
from emukit.outputs import MARK, Kind, marked, netcdf_kind, new_output, refuse_taken, zarr_kind
from emukit.planning.memory import SAFE
from emukit.progress import Reporter
from emukit.runs.run import Run
from emukit.terminal import size

PREDICTION = "prediction"
NAME = "a prediction of `emukit predict`"


def predict_scenario(
    run: Run,
    archive: Archive,
    scenario: str,
    members: int | None = None,
    *,
    begin: str | None = None,
    initial: xr.Dataset | None = None,
    reporter: Reporter,
) -> xr.Dataset:
    """Predict every month of a scenario that the run's window can reach; or a trajectory, from where it begins.

    Args:
        run: A finished run.
        archive: Its forcings are predicted from.
        scenario: A scenario of the archive.
        members: How many realisations, along a dimension ``member``; None: one prediction, without that dimension.
        begin: The first step of a trajectory. None: the step after `initial`, or else the first test step of the run's
            protocol in this scenario, or the first that has states before it.
        initial: Fields of the steps before, such as an earlier prediction; those of the scenario when None.
        reporter: Is told of forcings far outside the training.

    Raises:
        ProtocolError: The scenario is not there, or lacks a forcing; or a trajectory cannot begin there.
        RunError: Realisations were asked of an emulator that has one answer, or more of them than memory holds.
        EmukitError: A beginning for an emulator that has none.
    """
    emulator, wanted = run.emulator(archive), archive[scenario]
    if isinstance(emulator, Trajectory):
        if initial is not None:
            emulator, begin = _restarted(emulator, wanted, initial, begin)
        tested = [s.start for s in run.split(archive).scored.get("test", ()) if s.scenario == scenario]
        begin = begin or wanted.time.text(tested[0] if tested else emulator.first_month)
        reporter.say(f"note: the trajectory begins at {begin}")
    elif begin is not None or initial is not None:
        raise EmukitError(
            f"a {emulator.kind} emulator does not run from a beginning",
            found="--begin or --initial",
            hint="leave them out: the whole scenario is predicted",
        )
    return _predicted(run, emulator, wanted, members, archive.digest, reporter, begin)


def _restarted(
    emulator: Trajectory, scenario: Scenario, initial: xr.Dataset, begin: str | None
) -> tuple[Trajectory, str]:
    """The emulator with the last fields of a dataset before a step as its beginning, and that step."""
    findings, card = Findings(), emulator.domain.card
    missing = [v for v in emulator.variables if v not in initial]
    if missing:
        raise ProtocolError(
            "the initial fields do not have all variables",
            found=f"no {', '.join(missing)}",
            expected=", ".join(emulator.variables),
        )
    time = read_time(initial, card.time, findings)
    findings.check()
    assert time is not None  # what is wrong with it was refused
    fields = [initial[v].squeeze(drop=True) for v in emulator.variables]
    for field in fields:
        units = str(field.attrs.get("units", ""))
        if set(field.dims) != {"time", "y", "x"} or Grid(field.y.values, field.x.values) != emulator.grid:
            found = f"{field.name} over {', '.join(f'{d} {n}' for d, n in field.sizes.items())}"
            raise ProtocolError(
                "the initial fields are on another grid", found=found, expected="time, y and x of the run"
            )
        if units and not same_units(units, card.targets[str(field.name)].units):
            expected = card.targets[str(field.name)].units
            raise ProtocolError(f"the initial {field.name} has other units", found=units, expected=expected)
    offset = (time.first - scenario.time.first) // (scenario.time.minutes or 1)
    start = scenario.index(begin) if begin else offset + len(time)
    last = start - offset
    if not emulator.begins <= last <= len(time) or start >= len(scenario):
        raise ProtocolError(
            "the initial fields do not reach to the step before the trajectory",
            found=f"{time.text(0)} to {time.text(-1)}",
            expected=f"{emulator.begins} {time.unit}s before {begin or 'a step of the scenario'}, "
            f"which ends at {scenario.time.text(-1)}",
            hint="another --begin",
        )
    values = np.stack([f.transpose("time", "y", "x").values[last - emulator.begins : last] for f in fields], axis=1)
    return emulator.starting_from(values), scenario.time.text(start)


def predict_forcings(
    run: Run, forcings: xr.Dataset, source: str, members: int | None = None, *, reporter: Reporter
) -> xr.Dataset:
    """Predict from forcings of one's own, without the store that the run was trained on.

    Args:
        run: A finished run.
        forcings: The forcings that the run's data card names, on (time) or (time, y, x) of the run's grid.
        source: Where they are from, for the attributes.
        members: As for `predict_scenario`.
        reporter: Likewise.

    Raises:
        StoreError: A forcing is missing, not finite, in other units or on another grid.
        RunError: As for `predict_scenario`.
    """
    emulator = run.emulator()
    name = str(forcings.attrs.get("scenario", "")) or Path(source).stem
    scenario = scenario_from_dataset(forcings, card=emulator.domain.card, grid=emulator.grid, name=name)
    return _predicted(run, emulator, scenario, members, f"{source} ({scenario_digest(scenario)})", reporter)


def scenario_digest(scenario: Scenario) -> str:
    """SHA-256 of a scenario's steps and forcings."""
    sha = hashlib.sha256(f"{scenario.time.text(0)} {len(scenario)}".encode())
    for name in sorted(scenario.forcings):
        sha.update(name.encode())
        sha.update(np.ascontiguousarray(scenario.forcings[name]).tobytes())
    return sha.hexdigest()


def _predicted(
    run: Run,
    emulator: Emulator,
    wanted: Scenario,
    members: int | None,
    data: str,
    reporter: Reporter,
    start: str | None = None,
) -> xr.Dataset:
    dataset = emulator.predict(wanted, start) if members is None else predict_ensemble(emulator, wanted, members, start)
    far = emulator.warning_of(wanted, emulator.first_month, len(wanted))
    if far:
        reporter.say(f"note: {far}")
    record, session = run.record, run.record.sessions[-1]
    return dataset.assign_attrs(
        **emulator.distance_attributes(wanted, emulator.first_month, len(wanted)),
        title=f"{run.recipe.emulator} emulation of {wanted.name}",
        history=f"{provenance.now()} emukit {session.versions['emukit']}: {record.command}",
        training_protocol=record.identity.protocol,
        training_data=record.identity.data,
        forcing_data=data,
        recipe_digest=record.identity.recipe,
        seed=record.identity.seed,
        git_commit=str(session.git.get("commit", "")) + ("+changes" if session.git.get("changed") else ""),
    )


def predict_ensemble(
    emulator: Emulator,
    forcings: Scenario | xr.Dataset,
    members: int,
    start: str | None = None,
    stop: str | None = None,
) -> xr.Dataset:
    """Realisations of a scenario, along a dimension ``member``.

    Args:
        emulator: One that draws realisations.
        forcings: As for `Emulator.predict`.
        members: How many.
        start: First month; the first that can be predicted when None.
        stop: Last month, included; the scenario's last when None.

    Raises:
        RunError: The emulator has one answer, or so many realisations do not fit into memory.
    """
    if not emulator.draws:
        emulator.member(0)  # says what is wrong
    # They are together in memory twice for a moment: one by one, and joined.
    steps = len(forcings) if isinstance(forcings, Scenario) else forcings.sizes.get("time", 0)
    one = 4 * steps * len(emulator.variables) * emulator.grid.weights.size
    room = int(SAFE * host_free())
    if 2 * members * one > room:
        raise RunError(
            f"{members:,} realisations do not fit into memory",
            found=f"{size(2 * members * one)}, {size(2 * one)} for each",
            expected=f"up to {size(room)}, most of what is free on this machine",
            hint=f"--members {room // (2 * one)}" if room >= 2 * one else "end other programs, or use a larger machine",
        )
    number = xr.Variable("member", range(members), {"standard_name": "realization"})
    realisations = [emulator.member(i).predict(forcings, start, stop) for i in range(members)]
    return xr.concat(realisations, number, combine_attrs="identical")


def check_place(out: Path, overwrite: bool = False) -> None:
    """Refuse a place that `write_prediction` could not write to, before anything is computed for it.

    Raises:
        RunError: The suffix is another than .nc or .zarr.
        EmukitError: The place is taken, or cannot be written.
    """
    refuse_taken(out, _kind(out), overwrite)


def _kind(out: Path) -> Kind:
    if out.suffix not in (".nc", ".zarr"):
        raise RunError(f"cannot tell the format of {out}", found=out.suffix or "no suffix", expected=".nc or .zarr")
    if out.suffix == ".zarr":
        return zarr_kind(NAME, marked(PREDICTION))
    return netcdf_kind(NAME, marked(PREDICTION))


def write_prediction(dataset: xr.Dataset, out: Path, overwrite: bool = False) -> None:
    """Write as NetCDF4 (``.nc``) or Zarr (``.zarr``).

    Raises:
        EmukitError: As `check_place`, or it cannot be written.
    """
    dataset = dataset.assign_attrs({MARK: PREDICTION})
    with new_output(out, _kind(out), overwrite) as temporary:
        if out.suffix == ".nc":
            dataset.to_netcdf(temporary, encoding={v: {"zlib": True, "complevel": 1} for v in dataset.data_vars})
        else:
            write_zarr(dataset, temporary, encoding={})
