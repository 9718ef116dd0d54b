"""The demo climate: scenarios, members and the truth behind them, from a handful of settings.

Invariant: every (scenario, member) has its own stream of random numbers, spawned from the seed: what one holds does not
depend on which others are made, and a store of two members is the first two of a store of three.

The same settings give the same numbers, bit for bit, on one machine and version of numpy. Elsewhere the last bits of
exp and tanh may differ; a numpy whose random stream differs is refused.

As a dataset it has the names, order of dimensions, dtypes and coordinates of the UCSD CSE 151B 2025 store, its oddities
included: emissions have other latitudes and longitudes than the targets, and `lat`, `lon` have dims (x, y).
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path

import cftime
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from emukit.data.card import DIGESTS_ATTRIBUTE, Digests, Published
from emukit.data.demo.planet import Planet, refuse_settings
from emukit.data.demo.response import (
    FIRST_YEAR,
    LAST_YEAR,
    MT_PER_YEAR,
    SCENARIOS,
    Climate,
    Emissions,
    emissions,
    make_climate,
    region_patterns,
)
from emukit.data.demo.weather import weather
from emukit.data.grid import Grid
from emukit.data.load import digest_of
from emukit.data.zarr_writer import write_zarr
from emukit.errors import ProtocolError, StoreError
from emukit.files import parse_json
from emukit.outputs import new_output, refuse_taken, zarr_kind
from emukit.progress import Reporter, default_reporter

GENERATOR = 1
"""Version of the formulas, raised with any change of a number: stores of another version are refused, not misjudged."""

_TAS = {"long_name": "Near-Surface Air Temperature", "standard_name": "air_temperature", "units": "K"}
_PR = {"long_name": "Precipitation", "standard_name": "lwe_precipitation_rate", "units": "mm/day"}
_RSDT = {
    "long_name": "TOA Incident Shortwave Radiation",
    "standard_name": "toa_incoming_shortwave_flux",
    "positive": "down",
    "units": "W/m²",
}
_SO2 = {"long_name": "Sulfur dioxide emissions", "units": "kg m-2 s-1"}
_BC = {"long_name": "Black carbon emissions", "units": "kg m-2 s-1"}
_CO2 = {"long_name": "Cumulative fossil CO2 emissions since 1850", "units": "GtCO2"}
_CH4 = {"long_name": "Methane emissions", "units": "GtCH4/yr"}
_Y = {"axis": "Y", "standard_name": "latitude", "units": "degrees_north"}
_X = {"axis": "X", "standard_name": "longitude", "units": "degrees_east"}
# Ten years of one member at a time, as fits training on spans of months.
_CHUNK_MONTHS = 120
KIND = zarr_kind(
    "a store of `emukit data demo`", lambda found: found.get("emukit_card") == CARD and "demo_settings" in found
)


CARD = "demo"
HIDDEN = ("ssp245",)
VARIABLES = ("tas", "pr")

# Upper bounds: CESM2's own grid, the SSPs' years, more members than CESM2's large ensemble has.
_BOUNDS = {
    "lat_cells": (4, 192),
    "lon_cells": (4, 288),
    "years": (1, LAST_YEAR - FIRST_YEAR),
    "members": (1, 100),
    "seed": (0, 2**63 - 1),
}
# Correlation lengths of monthly anomalies in CESM2: north to south, west to east, km.
_TAS_LENGTHS = (950.0, 1250.0)
_PR_LENGTHS = (430.0, 750.0)


@dataclass(frozen=True)
class DemoClimate:
    """A climate of four scenarios, made from a seed.

    tas is its expected value plus Gaussian noise; pr is its expected value times lognormal noise of mean one, so that
    the mean over ever more members tends to `forced_response` for both.

    Attributes:
        lat_cells: Y, 4..192.
        lon_cells: X, 4..288.
        years: Length, 1..85: 12 years + 1 months from 2015-01.
        members: M, 1..100; members differ by internal variability alone.
        seed: Fixes the planet and the weather.

    Raises:
        EmukitError: A setting is not a whole number inside its bounds; all of them are listed.
    """

    lat_cells: int = 24
    lon_cells: int = 36
    years: int = 85
    members: int = 3
    seed: int = 0

    def __post_init__(self) -> None:
        refuse_settings("the demo climate", {name: getattr(self, name) for name in _BOUNDS}, _BOUNDS)

    @property
    def months(self) -> int:
        """T."""
        return 12 * self.years + 1

    @property
    def first_month(self) -> np.datetime64:
        """The month of T = 0."""
        return np.datetime64(f"{FIRST_YEAR}-01", "M")

    @cached_property
    def planet(self) -> Planet:
        """Grid, land and mountains."""
        return Planet(self.lat_cells, self.lon_cells, self.seed)

    @cached_property
    def climate(self) -> Climate:
        """Climatologies, patterns and noise levels."""
        return make_climate(self.planet)

    def emissions(self, scenario: str) -> Emissions:
        """A scenario's global series and regional totals.

        Raises:
            ProtocolError: There is no such scenario.
        """
        _scenario_index(scenario)
        return emissions(scenario, self.years)

    def forced_response(self, scenario: str) -> NDArray[np.float64]:
        """(T, V, Y, X) expected value of tas (K) and pr (mm/day) over infinitely many members: the formulas of
        `emukit.data.demo.response`.

        Raises:
            ProtocolError: There is no such scenario.
        """
        return self.climate.expected(self.emissions(scenario))

    def truth(self, scenario: str) -> NDArray[np.float32]:
        """(M, T, V, Y, X) tas and pr of every member: what the store holds, or would hold were it not hidden.

        Raises:
            ProtocolError: There is no such scenario.
        """
        index = _scenario_index(scenario)
        expected = self.forced_response(scenario).astype(np.float32)
        month = np.arange(self.months) % 12
        tas_scale = self.climate.tas_scale.astype(np.float32)[month]
        pr_scale = self.climate.pr_scale.astype(np.float32)
        out = np.empty((self.members, *expected.shape), np.float32)
        for member in range(self.members):
            rng = np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=(1, index, member)))
            grid = self.planet.grid
            warm = weather(rng, self.months, grid, self.climate.tas_memory, *_TAS_LENGTHS)
            wet = weather(rng, self.months, grid, self.climate.pr_memory, *_PR_LENGTHS)
            out[member, :, 0] = expected[:, 0] + tas_scale * warm
            # The mean of exp(s z) is exp(s^2 / 2): divided out, the noise has mean one.
            out[member, :, 1] = expected[:, 1] * np.exp(pr_scale * wet - pr_scale**2 / 2)
        return out

    def statics(self) -> dict[str, NDArray[np.float32]]:
        """`land` (fraction) and `orography` (metres), each (Y, X). The competition's layout has no place for them."""
        return {"land": self.planet.land.astype(np.float32), "orography": self.planet.orography.astype(np.float32)}

    def dataset(self, hidden: bool = True, advance: Callable[[], None] = lambda: None) -> xr.Dataset:
        """All scenarios in the competition's layout.

        Args:
            hidden: Set the targets of `HIDDEN` to zero, as the competition does.
            advance: Called after each scenario.
        """
        patterns = region_patterns(self.planet)
        sources = [self.emissions(name) for name in SCENARIOS]
        targets = np.zeros((2, len(SCENARIOS), self.months, self.members, *self.planet.grid.shape), np.float32)
        for i, name in enumerate(SCENARIOS):
            if not (hidden and name in HIDDEN):
                targets[:, i] = self.truth(name).transpose(2, 1, 0, 3, 4)
            advance()
        rsdt = self.planet.insolation.astype(np.float32)[np.arange(self.months) % 12]
        values = DemoFields(
            tas=targets[0],
            pr=targets[1],
            rsdt=np.broadcast_to(rsdt[None, :, :, None], (len(SCENARIOS), *rsdt.shape, self.lon_cells)).copy(),
            so2=np.stack([np.einsum("tr,ryx->tyx", s.so2, patterns) for s in sources]) * MT_PER_YEAR,
            bc=np.stack([np.einsum("tr,ryx->tyx", s.bc, patterns) for s in sources]) * MT_PER_YEAR,
            co2=np.stack([s.co2 for s in sources]),
            ch4=np.stack([s.ch4 for s in sources]),
        )
        note = f"targets of {', '.join(HIDDEN)} are zero: a hidden test set" if hidden else "nothing is hidden"
        attrs = {
            "source": "emukit demo climate: made up, not a climate model",
            "precipitation_units": "mm/day",
            "note": note,
            "emukit_card": CARD,
            "demo_settings": json.dumps(self._settings()),
        }
        return competition_dataset(values, SCENARIOS, FIRST_YEAR, self.planet.grid, self.planet.emission_grid, attrs)

    def _settings(self) -> dict[str, int]:
        settings = {f.name: getattr(self, f.name) for f in fields(self)}
        return {"generator": GENERATOR, **settings, "stream": _stream_check()}


def demo_from_attrs(attrs: Mapping[str, object]) -> DemoClimate:
    """The climate that made a store, from the store's attributes, so that its hidden truth can be made again.

    Raises:
        StoreError: The attributes are not the demo's, are incomplete, or belong to a generator whose numbers differ.
        EmukitError: A setting is out of bounds.
    """
    text = attrs.get("demo_settings")
    try:
        settings = parse_json(text) if attrs.get("emukit_card") == CARD and isinstance(text, str) else None
    except json.JSONDecodeError:
        settings = None
    names = {"generator", *_BOUNDS, "stream"}
    # A store of another generator may have other settings, so its version is looked at first.
    if isinstance(settings, dict) and settings.get("generator", GENERATOR) != GENERATOR:
        raise StoreError(
            "this demo store was made by another version of the demo climate, whose numbers differ",
            found=f"generator {settings['generator']}",
            expected=f"generator {GENERATOR}",
            hint="write the demo store again with this emukit, or use the emukit that wrote it",
        )
    if not isinstance(settings, dict) or set(settings) != names:
        raise StoreError(
            "the store does not say how the demo climate was made",
            found=f"emukit_card = {attrs.get('emukit_card')!r}, demo_settings = {text!r}",
            expected=f"emukit_card = {CARD!r}, demo_settings = JSON with {', '.join(sorted(names))}",
            hint="use the attributes of a store that `emukit data demo` wrote, unchanged",
        )
    climate = DemoClimate(**{name: settings[name] for name in _BOUNDS})
    if settings["stream"] != _stream_check():
        raise StoreError(
            "this numpy draws other random numbers than the one that made the demo store",
            found=f"numpy {np.__version__}, stream {_stream_check()}",
            expected=f"stream {settings['stream']}",
            hint="write the demo store again with this numpy",
        )
    return climate


def _scenario_index(scenario: str) -> int:
    if scenario not in SCENARIOS:
        raise ProtocolError(
            f"scenario {scenario} is not in the demo climate",
            found=f"scenarios {', '.join(SCENARIOS)}",
            hint="choose one of those",
        )
    return SCENARIOS.index(scenario)


def _stream_check() -> int:
    """A checksum of some normal numbers: between versions numpy keeps its bit streams, but not its distributions."""
    draws = np.random.default_rng(np.random.SeedSequence(0, spawn_key=(2,))).standard_normal(64, dtype=np.float32)
    return zlib.crc32(np.round(draws * 1000).astype("<i4").tobytes())


@dataclass(frozen=True, eq=False)
class DemoFields:
    """The variables of a store, S scenarios by T months by M members.

    Attributes:
        tas: (S, T, M, Y, X) float32, K.
        pr: (S, T, M, Y, X) float32, mm/day.
        rsdt: (S, T, Y, X) float32, W m-2.
        so2: (S, T, Y, X) float64, kg m-2 s-1.
        bc: (S, T, Y, X) float64, kg m-2 s-1.
        co2: (S, T) float64, GtCO2.
        ch4: (S, T) float64, GtCH4 per year.
    """

    tas: NDArray[np.float32]
    pr: NDArray[np.float32]
    rsdt: NDArray[np.float32]
    so2: NDArray[np.float64]
    bc: NDArray[np.float64]
    co2: NDArray[np.float64]
    ch4: NDArray[np.float64]


def noleap_months(first_year: int, months: int) -> list[cftime.DatetimeNoLeap]:
    """The 15th of every month from January of `first_year`, (T,)."""
    return [cftime.DatetimeNoLeap(first_year + i // 12, i % 12 + 1, 15, has_year_zero=True) for i in range(months)]


def competition_dataset(
    fields: DemoFields,
    scenarios: tuple[str, ...],
    first_year: int,
    grid: Grid,
    emission_grid: Grid,
    attrs: Mapping[str, str],
) -> xr.Dataset:
    """Put the fields into the competition's layout.

    Args:
        fields: The values.
        scenarios: Names of the S axis.
        first_year: The first month is its January.
        grid: Target cells, `y` and `x`.
        emission_grid: Emission cells, `latitude` and `longitude`.
        attrs: Attributes of the dataset.
    """
    target, emission = ("ssp", "time", "member_id", "y", "x"), ("ssp", "time", "latitude", "longitude")
    months, members = fields.tas.shape[1:3]
    return xr.Dataset(
        {
            "BC": (emission, fields.bc, _BC),
            "CH4": (("ssp", "time"), fields.ch4, _CH4),
            "CO2": (("ssp", "time"), fields.co2, _CO2),
            "SO2": (emission, fields.so2, _SO2),
            "pr": (target, fields.pr, _PR),
            "rsdt": (("ssp", "time", "y", "x"), fields.rsdt, _RSDT),
            "tas": (target, fields.tas, _TAS),
        },
        coords={
            "ssp": np.array(scenarios, "<U6"),
            "time": noleap_months(first_year, months),
            "member_id": np.arange(members, dtype=np.int64),
            "y": ("y", grid.lat, _Y),
            "x": ("x", grid.lon, _X),
            "lat": (("x", "y"), np.tile(grid.lat, (len(grid.lon), 1))),
            "lon": (("x", "y"), np.tile(grid.lon[:, None], (1, len(grid.lat)))),
            "latitude": ("latitude", emission_grid.lat, {"units": "degrees"}),
            "longitude": ("longitude", emission_grid.lon),
        },
        attrs=dict(attrs),
    )


def write_demo(
    climate: DemoClimate,
    out: Path | str,
    hidden: bool = True,
    reporter: Reporter | None = None,
    *,
    overwrite: bool = False,
) -> Path:
    """Write a Zarr v2 store with consolidated metadata, and with the digests of its values: what changes is noticed.

    Args:
        climate: What to write.
        out: The folder to make.
        hidden: Set the targets of the hidden scenario to zero.
        reporter: Where progress goes; standard error by default.
        overwrite: Whether a demo climate at `out` may be replaced.

    Returns:
        The path written.

    Raises:
        EmukitError: `out` is there already, or cannot be written.
    """
    out = Path(out)
    refuse_taken(out, KIND, overwrite)
    months, cells = min(_CHUNK_MONTHS, climate.months), (climate.lat_cells, climate.lon_cells)
    chunks = {
        **dict.fromkeys(("tas", "pr"), (1, months, 1, *cells)),
        **dict.fromkeys(("SO2", "BC", "rsdt"), (1, months, *cells)),
        **dict.fromkeys(("CO2", "CH4"), (len(SCENARIOS), climate.months)),
    }
    steps = len(SCENARIOS) + 1
    with (
        (reporter or default_reporter()).step("demo climate", steps) as step,
        new_output(out, KIND, overwrite) as temporary,
    ):
        dataset = climate.dataset(hidden, advance=step.advance)
        dataset.attrs[DIGESTS_ATTRIBUTE] = _published(climate, dataset).model_dump_json()
        write_zarr(
            dataset,
            temporary,
            consolidated=True,
            encoding={
                **{name: {"chunks": chunk} for name, chunk in chunks.items()},
                "time": {"units": "days since 2015-01-15", "calendar": "noleap", "dtype": "int64"},
            },
        )
        step.advance(note="written")
    return out


def _published(climate: DemoClimate, dataset: xr.Dataset) -> Published:
    grid = climate.planet.grid
    return Published(
        first_month=str(climate.first_month),
        months=climate.months,
        members=list(range(climate.members)),
        latitudes=(float(grid.lat[0]), float(grid.lat[-1])),
        longitudes=(float(grid.lon[0]), float(grid.lon[-1])),
        cells=grid.shape,
        digests={
            str(v): Digests(
                dtype="<f4" if field.dtype.itemsize == 4 else "<f8",
                scenarios={s: digest_of(field.values[i]) for i, s in enumerate(SCENARIOS)},
            )
            for v, field in dataset.data_vars.items()
        },
    )
