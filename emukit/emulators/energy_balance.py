"""Pattern scaling on the warming of an energy balance, which emissions force.

Invariant: the warming of a scenario is that of `emukit.physics` alone, a function of its forcings and of the few
parameters of the energy balance. Training months decide those parameters, or none of them where they are given.

A cell's climate is a straight line in that warming, and in what `features` name, as in the linear emulator; the pattern
of temperature is divided by its global mean, so that the globe warms as the energy balance does. Where parameters are
fitted, they are drawn to those of other climate models by a prior.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from inspect import signature
from typing import Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray

from emukit.data.archive import Archive, Domain, Scenario
from emukit.data.grid import Grid
from emukit.data.split import Split
from emukit.emulators.base import temperature_position
from emukit.emulators.features import feature
from emukit.emulators.forced_balance import AIR, BEGINNING, CORE, GROWTH, KINDS, PARAMETERS, Forced
from emukit.emulators.linear import LinearEmulator, Table, fit_cells, global_temperature, penalties_of
from emukit.errors import ProtocolError, RecipeError
from emukit.physics.calibration import Calibration, Observed, calibrate

Array = NDArray[np.float64]

# Standard deviation, K, of a training year's global mean about the energy balance. From year to year it is about 0.1;
# what the model gets wrong lasts for about ten years, so that a year counts as a tenth of one.
YEAR_ERROR = 0.3
# Of the logarithms of the parameters: the spread of feedback, capacities, exchange, efficacy and forcing of CO2 over
# climate models whose 4xCO2 runs were fitted (docs/physics.md); indirect effects of methane and the forcing of aerosols
# as uncertain as in IPCC AR6.
FEEDBACK, UPPER, DEEP, EXCHANGE, EFFICACY, FACTORS = 0.35, 0.2, 0.4, 0.15, 0.2, (0.1, 0.2, 0.5)


class EnergyBalanceEmulator(LinearEmulator):
    """Cells as straight lines in the warming of an energy balance, and in further series.

    Attributes:
        forced: The energy balance.
    """

    kind = "energy-balance"
    forcing_options: ClassVar[tuple[str, ...]] = ("features", *KINDS)
    steps: ClassVar[tuple[str, ...]] = ("month", "year")
    streams: ClassVar[bool] = False

    def __init__(
        self,
        domain: Domain,
        features: tuple[str, ...],
        center: Array,
        scale: Array,
        intercept: NDArray[np.float32],
        response: NDArray[np.float32],
        forced: Forced,
    ) -> None:
        """Use `fit`; arguments as for `LinearEmulator`."""
        super().__init__(domain, features, center, scale, intercept, response)
        self.forced = forced

    @classmethod
    def fit(  # type: ignore[override]
        cls,
        archive: Archive,
        split: Split,
        *,
        carbon: tuple[str, ...] = ("CO2",),
        methane: tuple[str, ...] = ("CH4",),
        aerosol: tuple[str, ...] = ("SO2",),
        calibration: Literal["training", "given"] = "training",
        feedback: float = PARAMETERS["feedback"],
        capacity: tuple[float, ...] = PARAMETERS["capacity"],
        exchange: tuple[float, ...] = PARAMETERS["exchange"],
        efficacy: float = PARAMETERS["efficacy"],
        co2_factor: float = PARAMETERS["factors"][0],
        methane_factor: float = PARAMETERS["factors"][1],
        aerosol_forcing: float = PARAMETERS["factors"][2],
        co2_start: float = AIR[0],
        ch4_start: float = AIR[1],
        features: tuple[str, ...] = ("step:2045:20", "SO2"),
        harmonics: int = 2,
        ridge: float = 1.0,
        least_warming: float | None = 0.5,
        strength: dict[str, dict[str, float]] | None = None,
        smoothing: float = 0.2,
    ) -> Self:
        """Calibrate the energy balance, and regress cells on its warming.

        Args:
            archive: The data.
            split: Its training spans are used.
            carbon: The forcing that holds cumulative emissions of CO2, GtCO2; none where it is empty.
            methane: The forcing that holds emissions of CH4, GtCH4 a year; none where it is empty.
            aerosol: The forcing whose global mean aerosols are in proportion to; none where it is empty.
            calibration: On the training months (``training``), drawn to the parameters below; or those parameters as
                they are (``given``), such as `emukit.physics.calibration` finds in idealised runs of a climate model.
                A competition that forbids outside data forbids those of its own climate model.
            feedback: Net flux that a kelvin of warming takes away, W m-2 K-1.
            capacity: Heat capacities of the layers from the top down, W yr m-2 K-1.
            exchange: Heat exchange with the next layer below, W m-2 K-1; one less than layers.
            efficacy: How much a watt that the deepest layer takes up cools, in units of what a watt of forcing warms.
            co2_factor: Forcing of CO2, in units of that of Meinshausen et al. (2020).
            methane_factor: Forcing of CH4 with its effect on ozone and water vapour, in units of its own (Myhre et al.
                2013, IPCC AR5 WG1 chapter 8: 1.65).
            aerosol_forcing: Cooling by the aerosol's emissions of the first step, W m-2 (IPCC 2021, AR6 WG1
                chapter 7: 1.1).
            co2_start: Concentration of CO2 at the first step, ppm; the default is that of 2015.
            ch4_start: The same of CH4, ppb.
            features: Further series in which cells are linear, as `emukit.emulators.features` names them.
            harmonics: As `harmonics` of `linear`.
            ridge: As `ridge` of `linear`.
            least_warming: As `least_warming` of `linear`.
            strength: As `strength` of `linear`; ``energy-balance`` is the name of the warming.
            smoothing: As `smoothing` of `linear`.

        Raises:
            RecipeError: A value outside its range, or a calibration that does not converge.
            ProtocolError: A forcing is not in the store, or no training span holds whole years.
        """
        given = {n: v for n, v in locals().items() if n not in ("cls", "archive", "split", "__class__")}
        cls.check(archive, **given)
        kinds = (carbon, methane, aerosol)
        names = (*features, CORE)
        penalties = penalties_of(strength or {}, archive.variables, names)
        factors = (co2_factor, methane_factor, aerosol_forcing)
        shape = {"feedback": feedback, "capacity": capacity, "exchange": exchange, "efficacy": efficacy}
        guess = Calibration.of({**PARAMETERS, **shape, "factors": factors})
        first = archive[split.train[0].scenario]
        acting = tuple(k[0] if k else "" for k in kinds)
        forced = Forced.at(first, archive.grid, (acting[0], acting[1], acting[2]), guess, (co2_start, ch4_start))
        if calibration == "training":
            forced = _calibrated(forced, archive, split)
        table = Table.of(archive, split, names, partial(_series, forced))
        intercept, response = fit_cells(
            archive,
            split,
            table,
            np.eye(len(names)),
            penalties,
            "harmonics",
            harmonics,
            ridge,
            least_warming,
            float(table.scale[-1]),
            smoothing,
        )
        # What the cells do together is what the energy balance says: training months shape the pattern alone.
        position, column = temperature_position(archive, CORE), names.index(CORE)
        own = response[:, column, position]
        own *= table.scale[column] / archive.grid.mean(own).mean()
        return cls(archive.domain, names, table.center, table.scale, intercept, response, forced)

    @classmethod
    def check(cls, archive: Archive, **options: Any) -> None:
        """Refuse values out of their ranges; arguments as for `fit`."""
        defaults = {n: p.default for n, p in signature(cls.fit).parameters.items() if p.kind is p.KEYWORD_ONLY}
        given = {**defaults, **options}
        temperature_position(archive, CORE)
        for kind in KINDS:
            if len(given[kind]) > 1:
                raise RecipeError(f"model.{kind} names several forcings", found=", ".join(given[kind]), expected="one")
        if not any(given[kind] for kind in KINDS):
            raise RecipeError("nothing forces the energy balance", expected="a forcing in model.carbon or another kind")
        year = int(archive.time.year[0])
        if year != BEGINNING and (given["co2_start"], given["ch4_start"]) == AIR:
            raise RecipeError(
                f"what was in the air in {year} is not known to the energy balance",
                found=f"{archive.source}, which begins in {archive.time.text(0)}",
                expected=f"data from {BEGINNING} on, or the concentrations at the first step",
                hint="--set model.co2_start=PPM --set model.ch4_start=PPB",
            )
        capacity, exchange = given["capacity"], given["exchange"]
        if not capacity or len(exchange) != len(capacity) - 1:
            raise RecipeError(
                "model.capacity and model.exchange do not fit together",
                found=f"{len(capacity)} capacities, {len(exchange)} exchanges",
                expected="a capacity for each layer, and one exchange less",
            )
        numbers = {"feedback": given["feedback"], "efficacy": given["efficacy"]}
        numbers |= {n: given[n] for n in ("co2_factor", "methane_factor", "aerosol_forcing", "co2_start", "ch4_start")}
        numbers |= {"capacity": min(capacity), "exchange": min(exchange, default=1.0)}
        for name, value in numbers.items():
            if not (value > 0 and np.isfinite(value)):
                raise RecipeError(f"model.{name} is out of range", found=str(value), expected="more than 0, and finite")
        if CORE in given["features"]:
            raise RecipeError(
                f"model.features names {CORE}, which is always one",
                found=", ".join(given["features"]),
                expected="what cells are linear in besides",
            )
        if len(set(given["features"])) < len(given["features"]):
            raise RecipeError(
                "model.features names a feature twice", found=", ".join(given["features"]), expected="each once"
            )
        if not 0 <= given["harmonics"] <= 6:
            raise RecipeError(
                "model.harmonics is out of range", found=str(given["harmonics"]), expected="0 to 6 waves a year"
            )
        if given["ridge"] < 0:
            raise RecipeError("model.ridge is negative", found=str(given["ridge"]), expected="0 or more")
        if not 0 <= given["smoothing"] <= 1:
            raise RecipeError(
                "model.smoothing is out of range", found=str(given["smoothing"]), expected="a share, 0 to 1"
            )
        if given["least_warming"] is not None and not given["features"]:
            raise RecipeError(
                "model.least_warming bounds nothing",
                found="model.features names none",
                expected="features, which take what the warming may not",
                hint="--set model.least_warming=none",
            )
        penalties_of(given["strength"] or {}, archive.variables, (*given["features"], CORE))

    def series(self, name: str, scenario: Scenario) -> Array:
        """(T,) the warming of the energy balance, or a feature."""
        return _series(self.forced, name, scenario, self.grid)

    def budget(self, scenario: Scenario) -> dict[str, dict[str, NDArray[np.float64]]]:
        """Forcings, what a warmer surface sends back, the net flux, and the temperatures of the layers."""
        forced = self.forced
        terms = forced.forcing(scenario, self.grid) * forced.calibration.factors.numpy()[:, None]
        course = forced.course(scenario, self.grid)
        fluxes = {name: term for name, term in zip(forced.names, terms, strict=True) if name}
        net = course.flux.numpy()
        layers = ("surface", *(f"layer {i}" for i in range(2, course.mean.shape[1] + 1)))
        return {
            "W m-2": {**fluxes, "sent back": net - terms.sum(0), "net": net},
            "K": {name: course.mean[:, i].numpy() for i, name in enumerate(layers)},
        }

    def state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """As `LinearEmulator.state`, with the energy balance."""
        meta, arrays = super().state()
        f = self.forced
        forced = {"names": list(f.names), "aerosol": f.aerosol, "year": f.year, "air": list(f.air)}
        return {**meta, "forced": forced, "calibration": self.forced.calibration.numbers}, arrays

    @classmethod
    def from_state(cls, domain: Domain, meta: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Self:
        """The inverse of `state`."""
        carbon, methane, aerosol = meta["forced"]["names"]
        calibration = Calibration.of(dict(meta["calibration"]))
        co2, ch4 = meta["forced"]["air"]
        aerosol_scale, year = float(meta["forced"]["aerosol"]), int(meta["forced"]["year"])
        forced = Forced((carbon, methane, aerosol), aerosol_scale, calibration, year, (float(co2), float(ch4)))
        center, scale, intercept, response = (arrays[n] for n in ("center", "scale", "intercept", "response"))
        return cls(domain, tuple(meta["features"]), center, scale, intercept, response, forced)


def _series(forced: Forced, name: str, scenario: Scenario, grid: Grid) -> Array:
    if name == CORE:
        return np.asarray(forced.course(scenario, grid).surface.numpy(), np.float64)
    return feature(name, scenario, grid)


def _calibrated(forced: Forced, archive: Archive, split: Split) -> Forced:
    """With parameters that fit the global mean temperature of the training years."""
    per_year = archive.time.per_year
    runs, seen = [], 0
    temperature = global_temperature(archive, split)
    for span in split.train:
        values = temperature[seen : seen + len(span)]
        seen += len(span)
        first, last = -(-span.start // per_year), span.stop // per_year
        if last <= first:
            continue
        terms = forced.forcing(archive[span.scenario], archive.grid)
        years = terms[:, : last * per_year].reshape(3, last, per_year).mean(2)
        surface = np.full(last, np.nan)
        inside = values[first * per_year - span.start : last * per_year - span.start]
        surface[first:] = inside.reshape(-1, per_year).mean(1)
        runs.append(Observed(years, surface, surface_error=YEAR_ERROR, growth=GROWTH, skipped=first))
    if not runs:
        raise ProtocolError(
            "no training span holds a whole year, on which the energy balance could be calibrated",
            found=", ".join(s.text(archive) for s in split.train),
            hint="--set model.calibration=given",
        )
    layers = forced.calibration.balance.layers
    capacity = (UPPER, *(DEEP,) * (layers - 1))
    spread = (FEEDBACK, *capacity, *(EXCHANGE,) * (layers - 1), EFFICACY, *FACTORS)
    return replace(forced, calibration=calibrate(runs, forced.calibration, spread, fit_level=True))
