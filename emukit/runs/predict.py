"""Predictions of whole scenarios as files, and where a trajectory begins: at a step, or from fields in a file.

Invariant: a file says which run, data and code it came from, and is whole or not there. What a trajectory is begun from
are fields of the steps right before the first that is predicted, on the grid and in the units of the run; an emulator
that does not run from a beginning is given none.
"""

from __future__ import annotations

import hashlib
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from emukit import provenance
from emukit.data.archive import Archive, Scenario
from emukit.data.cf import fields_to_dataset
from emukit.data.decode import Findings, read_time
from emukit.data.grid import Grid
from emukit.data.store import scenario_from_dataset
from emukit.data.units import same_units
from emukit.data.zarr_writer import append_zarr, write_zarr
from emukit.emulators.base import Emulator
from emukit.emulators.neural import share_globe
from emukit.emulators.trajectory import Trajectory
from emukit.errors import EmukitError, ProtocolError, RunError
from emukit.models.registry import NETWORKS
from emukit.outputs import MARK, Kind, marked, netcdf_kind, new_output, refuse_taken, zarr_kind
from emukit.parallel.comm import Comm
from emukit.parallel.domain import check_divisible
from emukit.progress import Reporter
from emukit.recipes.schema import networks_of
from emukit.runs.evaluate import refuse_many
from emukit.runs.run import Run

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
    comm: Comm | None = None,
    reporter: Reporter,
) -> xr.Dataset:
    """Predict every month of a scenario that the run's window can reach; or a trajectory, from where it begins.

    Args:
        run: A finished run.
        archive: Its forcings are predicted from.
        scenario: A scenario of the archive.
        members: How many realisations, along a dimension ``member``; None: one prediction, without that dimension.
        begin: Of a trajectory, as for `begun`.
        initial: Likewise.
        comm: The processes that share a globe, each of which makes this call and gets the whole; None: this one alone.
        reporter: Is told of forcings far outside the training.

    Raises:
        ProtocolError: The scenario is not there, or lacks a forcing.
        RunError: Realisations were asked of an emulator that has one answer, or more of them than memory holds; or no
            network is to be divided.
        TrainingError: A network cannot be divided.
        EmukitError: As `begun`.
    """
    emulator = begun(run, archive, scenario, begin, initial, reporter)
    if comm:
        share_globe(emulator, comm)
    return _predicted(run, emulator, archive[scenario], members, archive.digest, reporter)


def predict_forcings(
    run: Run,
    forcings: xr.Dataset,
    source: str,
    members: int | None = None,
    *,
    comm: Comm | None = None,
    reporter: Reporter,
) -> xr.Dataset:
    """Predict from forcings of one's own, without the store that the run was trained on.

    Args:
        run: A finished run.
        forcings: The forcings that the run's data card names, on (time) or (time, y, x) of the run's grid.
        source: Where they are from, for the attributes.
        members: As for `predict_scenario`.
        comm: Likewise.
        reporter: Likewise.

    Raises:
        StoreError: A forcing is missing, not finite, in other units or on another grid.
        RunError: As for `predict_scenario`.
    """
    emulator = run.emulator()
    name = str(forcings.attrs.get("scenario", "")) or Path(source).stem
    scenario = scenario_from_dataset(forcings, card=emulator.domain.card, grid=emulator.grid, name=name)
    if comm:
        share_globe(emulator, comm)
    return _predicted(run, emulator, scenario, members, f"{source} ({scenario_digest(scenario)})", reporter)


def check_domain(run: Run) -> None:
    """Refuse a run without a network that can be divided, before processes are started for it.

    Raises:
        RunError: It has no network.
        TrainingError: A network cannot be divided.
    """
    networks = networks_of(run.recipe)
    if not networks:
        raise RunError(
            f"--domain would do nothing: {run.recipe.emulator} has no network whose fields could be divided",
            hint="leave it out",
        )
    for network in networks:
        check_divisible(network.emulator, NETWORKS.load(network.emulator))


def scenario_digest(scenario: Scenario) -> str:
    """SHA-256 of a scenario's steps and forcings."""
    sha = hashlib.sha256(f"{scenario.time.text(0)} {len(scenario)}".encode())
    for name in sorted(scenario.forcings):
        sha.update(name.encode())
        sha.update(np.ascontiguousarray(scenario.forcings[name]).tobytes())
    return sha.hexdigest()


def _predicted(
    run: Run, emulator: Emulator, wanted: Scenario, members: int | None, data: str, reporter: Reporter
) -> xr.Dataset:
    if members is None:
        dataset = emulator.predict(wanted, reporter=reporter)
    else:
        dataset = predict_ensemble(emulator, wanted, members, reporter=reporter)
    far = emulator.warning_of(wanted, emulator.first_month, len(wanted))
    if far:
        reporter.say(f"note: {far}")
    return dataset.assign_attrs(_attributes(run, emulator, wanted, data))


def _attributes(run: Run, emulator: Emulator, wanted: Scenario, data: str) -> dict[str, Any]:
    record, session = run.record, run.record.sessions[-1]
    return {
        **emulator.distance_attributes(wanted, emulator.first_month, len(wanted)),
        "title": f"{run.recipe.emulator} emulation of {wanted.name}",
        "history": f"{provenance.now()} emukit {session.versions['emukit']}: {record.command}",
        "training_protocol": record.identity.protocol,
        "training_data": record.identity.data,
        "forcing_data": data,
        "recipe_digest": record.identity.recipe,
        "seed": record.identity.seed,
        "git_commit": str(session.git.get("commit", "")) + ("+changes" if session.git.get("changed") else ""),
    }


def write_scenario(
    run: Run,
    archive: Archive,
    scenario: str,
    out: Path,
    overwrite: bool = False,
    *,
    members: int | None = None,
    begin: str | None = None,
    initial: xr.Dataset | None = None,
    comm: Comm | None = None,
    reporter: Reporter,
) -> None:
    """Predict a scenario and write it; of an archive on disk, each calendar year before the next is predicted.

    Args:
        run: A finished run.
        archive: Its forcings are predicted from.
        scenario: A scenario of the archive.
        out: As for `write_prediction`; of an archive on disk a ``.zarr`` folder, with a year in each chunk.
        overwrite: Whether an earlier prediction there may be replaced.
        members: As for `predict_scenario`.
        begin: Likewise.
        initial: Likewise.
        comm: Likewise; the first process writes. An archive on disk is predicted by one process alone.
        reporter: Shows the years, and is told of forcings far outside the training.

    Raises:
        RunError: `out` is not ``.zarr``; or as `predict_scenario`.
        EmukitError: As `check_place`, or it cannot be written.
    """
    if not archive.on_disk:
        comm = comm or Comm()
        predicted = predict_scenario(
            run, archive, scenario, members, begin=begin, initial=initial, comm=comm, reporter=reporter
        )
        comm.main_only(lambda: write_prediction(predicted, out, overwrite))
        return
    if comm and comm.world > 1:
        raise RunError(
            "an archive on disk is predicted by one process, a year at a time",
            found=f"{comm.world} processes",
            hint="leave --domain out",
        )
    if out.suffix != ".zarr":
        raise RunError(
            f"{out.name} would be written whole, and does not fit into memory",
            found=f"{len(archive[scenario]):,} days of {archive.grid.shape[0]} x {archive.grid.shape[1]} cells",
            expected="a name that ends in .zarr, which is written a year at a time",
            hint=f"--out {out.with_suffix('.zarr')}",
        )
    emulator, wanted = begun(run, archive, scenario, begin, initial, reporter), archive[scenario]
    if emulator.from_beginning:
        raise RunError("a trajectory is not written a year at a time", found=f"{archive.source}, read from disk")
    far = emulator.warning_of(wanted, emulator.first_month, len(wanted))
    if far:
        reporter.say(f"note: {far}")
    attributes = {**_attributes(run, emulator, wanted, archive.digest), MARK: PREDICTION}
    years = np.flatnonzero(np.diff(wanted.time.year[emulator.first_month :])) + emulator.first_month + 1
    edges = [emulator.first_month, *years.tolist(), len(wanted)]
    with new_output(out, _kind(out), overwrite) as temporary, reporter.step("predict", len(edges) - 1) as step:
        for first, last in pairwise(edges):
            if members is None:
                fields = emulator.predict_fields(wanted, first, last)
                year = fields_to_dataset(
                    fields, wanted.time[first:last], archive.grid, archive.domain.described, wanted.name
                )
            else:
                span = wanted.time.text(first), wanted.time.text(last - 1)
                year = predict_ensemble(emulator, wanted, members, *span)
            if first == edges[0]:
                chunks = (*([1] if members else []), wanted.time.per_year, *archive.grid.shape)
                encoding = {name: {"chunks": chunks} for name in year.data_vars}
                write_zarr(year.assign_attrs(attributes), temporary, encoding=encoding)
            else:
                append_zarr(year.assign_attrs(attributes), temporary, "time")
            step.advance(note=wanted.time.text(first)[:4])


def predict_ensemble(
    emulator: Emulator,
    forcings: Scenario | xr.Dataset,
    members: int,
    start: str | None = None,
    stop: str | None = None,
    *,
    reporter: Reporter | None = None,
) -> xr.Dataset:
    """Realisations of a scenario, along a dimension ``member``.

    Args:
        emulator: One that draws realisations.
        forcings: As for `Emulator.predict`.
        members: How many.
        start: First month; the first that can be predicted when None.
        stop: Last month, included; the scenario's last when None.
        reporter: As for `Emulator.predict`.

    Raises:
        RunError: The emulator has one answer, or so many realisations do not fit into memory.
    """
    if not emulator.draws:
        emulator.member(0)  # says what is wrong
    # They are together in memory twice for a moment: one by one, and joined.
    if isinstance(forcings, Scenario):
        steps = (forcings.index(stop) + 1 if stop else len(forcings)) - (forcings.index(start) if start else 0)
    else:
        steps = forcings.sizes.get("time", 0)
    refuse_many(members, 2 * 4 * steps * len(emulator.variables) * emulator.grid.weights.size)
    return emulator.predict(forcings, start, stop, members, reporter=reporter)


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


def begun(
    run: Run, archive: Archive, scenario: str, begin: str | None, initial: xr.Dataset | None, reporter: Reporter
) -> Emulator:
    """The emulator of a run, set to begin where it is to.

    Args:
        run: A finished run.
        archive: Whose states are begun from.
        scenario: A scenario of it.
        begin: The first step that is predicted. None: the step after `initial`, or else the first test step of the
            run's protocol in this scenario, or the first that has states before it.
        initial: Fields of the steps before, such as an earlier prediction; those of the scenario when None.
        reporter: Is told where it begins.

    Raises:
        ProtocolError: A trajectory cannot begin there.
        EmukitError: A beginning for an emulator that has none.
    """
    emulator, wanted = run.emulator(archive), archive[scenario]
    if not isinstance(emulator, Trajectory):
        if begin is not None or initial is not None:
            raise EmukitError(
                f"{emulator.kind} does not run from a beginning",
                found="--begin or --initial",
                hint="leave them out: the whole scenario is predicted",
            )
        return emulator
    if initial is not None:
        emulator = _from_fields(emulator, wanted, initial, begin)
    else:
        tested = [s.start for s in run.split(archive).scored.get("test", ()) if s.scenario == scenario]
        default = tested[0] if tested else emulator.first_month
        emulator = emulator.starting_at(wanted.index(begin) if begin else default)
    reporter.say(f"note: the trajectory begins at {wanted.time.text(emulator.first_month)}")
    return emulator


def _from_fields(emulator: Trajectory, scenario: Scenario, initial: xr.Dataset, begin: str | None) -> Trajectory:
    """The emulator with the last fields of a dataset before a step as its beginning."""
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
    for name, field in zip(emulator.variables, fields, strict=True):
        units, expected = str(field.attrs.get("units", "")), card.targets[name].units
        if set(field.dims) != {"time", "y", "x"} or Grid(field.y.values, field.x.values) != emulator.grid:
            found = f"{name} over {', '.join(f'{d} {n}' for d, n in field.sizes.items())}"
            wanted = "time, y and x of the run"
            raise ProtocolError("the initial fields are on another grid", found=found, expected=wanted)
        if units and not same_units(units, expected):
            raise ProtocolError(f"the initial {name} has other units", found=units, expected=expected)
    offset = (time.first - scenario.time.first) // (scenario.time.minutes or 1)
    start = scenario.index(begin) if begin else offset + len(time)
    last = start - offset
    if not time.same_steps(scenario.time) or not emulator.begins <= last <= len(time) or start >= len(scenario):
        raise ProtocolError(
            "the initial fields do not reach to the step before the trajectory",
            found=f"{time.text(0)} to {time.text(-1)}",
            expected=f"the {emulator.begins} {time.unit}(s) before {begin or 'the first step'}, and a first step "
            f"in the scenario, which ends at {scenario.time.text(-1)}",
            hint="name a step with --begin that the fields reach up to",
        )
    values = np.stack([f.transpose("time", "y", "x").values[last - emulator.begins : last] for f in fields], axis=1)
    return emulator.starting_from(values).starting_at(start)
