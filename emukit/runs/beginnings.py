"""Where a trajectory begins: at a step of its scenario, or from fields in a file.

Invariant: what is begun from are fields of the steps right before the first that is predicted, on the grid and in the
units of the run; an emulator that does not run from a beginning is given none.
"""

from __future__ import annotations

import numpy as np
import xarray as xr

from emukit.data.archive import Archive, Scenario
from emukit.data.decode import Findings, read_time
from emukit.data.grid import Grid
from emukit.data.units import same_units
from emukit.emulators.base import Emulator
from emukit.emulators.trajectory import Trajectory
from emukit.errors import EmukitError, ProtocolError
from emukit.progress import Reporter
from emukit.runs.run import Run


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
                f"a {emulator.kind} emulator does not run from a beginning",
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
