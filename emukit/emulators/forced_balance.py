"""An energy balance forced by the emissions of a store.

Invariant: its temperatures are a function of a scenario's forcings up to each step and in the first year, and of plain
numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emukit.data.archive import Scenario
from emukit.data.grid import Grid
from emukit.errors import ProtocolError
from emukit.physics.calibration import Calibration
from emukit.physics.energy_balance import (
    CH4_2015,
    CO2_2015,
    Course,
    ch4_concentration,
    ch4_forcing,
    co2_concentration,
    co2_forcing,
)

Array = NDArray[np.float64]

CORE = "energy-balance"
KINDS = ("carbon", "methane", "aerosol")
# The forcings of those kinds in the stores of the competition.
FORCINGS = ("CO2", "CH4", "SO2")

# Where the scenarios of CMIP6 begin, and what is in the air then: CO2 in ppm, CH4 in ppb.
BEGINNING, AIR = 2015, (CO2_2015, CH4_2015)

# Medians over thirty climate models of CMIP6, without CESM2 and its relatives, fitted on their 4xCO2 runs
# (docs/physics.md): feedback, capacities, exchange, efficacy, and the forcing of CO2. Methane with its effect on ozone
# and water vapour, in units of its own forcing: Myhre et al. (2013, IPCC AR5 WG1 chapter 8). Aerosols, W m-2: IPCC
# (2021, AR6 WG1 chapter 7).
PARAMETERS: dict[str, Any] = {
    "feedback": 1.07,
    "capacity": (6.6, 77.0),
    "exchange": (0.7,),
    "efficacy": 1.05,
    "factors": (0.88, 1.65, 1.1),
    "level": 0.0,
    "rms": 0.0,
}
# Rate at which the forcing grew before 2015, 1 per year: that of CO2 grew 2.2 times from 1975 to 2015.
GROWTH = 1.0 / 50.0


@dataclass(frozen=True, eq=False)
class Forced:
    """An energy balance with the forcings of a store.

    Attributes:
        names: The forcing of each kind, in the order of `KINDS`; none where the kind does not act.
        aerosol: Global mean of the aerosol's emission that has the forcing of its factor, in its unit.
        calibration: Parameters.
        year: In which scenarios begin.
        air: Concentrations of CO2 and CH4 at their first step, ppm and ppb.
    """

    names: tuple[str, str, str]
    aerosol: float
    calibration: Calibration
    year: int = BEGINNING
    air: tuple[float, float] = AIR

    @classmethod
    def at(
        cls,
        scenario: Scenario,
        grid: Grid,
        names: tuple[str, str, str],
        calibration: Calibration,
        air: tuple[float, float] = AIR,
    ) -> Forced:
        """With a scenario's beginning, and the aerosol emission of its first step, as the reference."""
        reference = float(_global(names[2], scenario, grid)[0]) if names[2] else 1.0
        if not reference > 0:
            raise ProtocolError(
                f"the forcing {names[2]} does not begin above zero, so its aerosol forcing has no scale",
                found=f"{reference:.4g} at the first step of {scenario.name}",
                hint="name another in model.aerosol, or none",
            )
        return cls(names, reference, calibration, int(scenario.time.year[0]), air)

    def forcing(self, scenario: Scenario, grid: Grid) -> Array:
        """(3, T) forcing of all steps by kind, W m-2 before the factors.

        It is a function of the first year and of the steps up to each.

        Raises:
            ProtocolError: The scenario begins in another year, whose air is not known.
        """
        _check_beginning(scenario, self.year)
        carbon, methane, aerosol = self.names
        per_year, terms = scenario.time.per_year, np.zeros((3, len(scenario)))
        if carbon:
            terms[0] = co2_forcing(co2_concentration(_global(carbon, scenario, grid), per_year, self.air[0]))
        if methane:
            terms[1] = ch4_forcing(ch4_concentration(_global(methane, scenario, grid), per_year, self.air[1]))
        if aerosol:
            terms[2] = -_global(aerosol, scenario, grid) / self.aerosol
        return terms

    def course(self, scenario: Scenario, grid: Grid) -> Course:
        """The energy balance through all T steps of a scenario."""
        return self.calibration.run(self.forcing(scenario, grid), 1.0 / scenario.time.per_year, GROWTH)


def check_default_warming(scenario: Scenario) -> None:
    """Refuse a scenario that `default_warming` cannot read, without running anything.

    Raises:
        ProtocolError: A forcing is not there, or the scenario does not begin in 2015.
    """
    for name in FORCINGS:
        if name not in scenario.forcings:
            raise ProtocolError(
                f"forcing {name} of the feature {CORE!r} is not in scenario {scenario.name}",
                found=", ".join(scenario.forcings),
                hint="the emulator energy-balance, whose options name its forcings",
            )
    _check_beginning(scenario, BEGINNING)


def default_warming(scenario: Scenario, grid: Grid) -> Array:
    """(T,) warming by the forcings and parameters that are the defaults, K.

    Raises:
        ProtocolError: As `check_default_warming`, or a forcing is no emission.
    """
    check_default_warming(scenario)
    carbon, methane, aerosol = FORCINGS
    forced = Forced.at(scenario, grid, (carbon, methane, aerosol), Calibration.of(PARAMETERS))
    return np.asarray(forced.course(scenario, grid).surface.numpy(), np.float64)


def _check_beginning(scenario: Scenario, year: int) -> None:
    if int(scenario.time.year[0]) != year:
        raise ProtocolError(
            f"what was in the air when {scenario.name} begins is not known",
            found=f"a scenario from {scenario.time.text(0)} on",
            expected=f"one that begins in {year}",
            hint="hand over forcings that begin where those of the training do",
        )


def _global(name: str, scenario: Scenario, grid: Grid) -> Array:
    values = scenario.forcings[name]
    return np.asarray(grid.mean(values) if values.ndim == 3 else values, np.float64)
