"""One variable of a data card: what it is, what its values may be, and how it is written and drawn.

Invariant: nothing above the data layer knows a variable by its name. What CMIP says of its best-known names is the
default of what a card leaves out; a card that says it is taken at its word.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator


def as_tuple(value: object) -> object:
    """A list as a tuple: TOML has lists only, and a frozen card holds tuples."""
    return tuple(value) if isinstance(value, list) else value


Pair = Annotated[tuple[float, float], BeforeValidator(as_tuple)]

Transform = Literal["none", "log1p", "sqrt", "cbrt", "yeo-johnson"]
# Those for what is never negative.
ROOTS = ("log1p", "sqrt", "cbrt")
Role = Literal["", "temperature", "precipitation"]

# What a mean over time and cells is called in CF.
MEAN = "area: time: mean"
# For variables of which nothing else is said: ColorBrewer's purple and orange.
OTHER_COLOURS = "PuOr_r"

# CMIP6's own names (the CMOR tables Amon and day). Red is warmer, green is wetter: colour-blind readers see which.
_WARM, _WET = {"colours": "RdBu_r"}, {"colours": "BrBG"}
_TEMPERATURE = {"standard_name": "air_temperature", **_WARM}
_NOT_NEGATIVE = {"bounds": {"lower": 0.0}}
KNOWN: Mapping[str, Mapping[str, Any]] = {
    "tas": {**_TEMPERATURE, "long_name": "Near-Surface Air Temperature"},
    "tasmax": {
        **_TEMPERATURE,
        "long_name": "Daily Maximum Near-Surface Air Temperature",
        "cell_methods": "area: mean time: maximum",
    },
    "tasmin": {
        **_TEMPERATURE,
        "long_name": "Daily Minimum Near-Surface Air Temperature",
        "cell_methods": "area: mean time: minimum",
    },
    "pr": {"standard_name": "lwe_precipitation_rate", "long_name": "Precipitation", **_NOT_NEGATIVE, **_WET},
    "huss": {
        "standard_name": "specific_humidity",
        "long_name": "Near-Surface Specific Humidity",
        **_NOT_NEGATIVE,
        **_WET,
    },
    "hurs": {
        "standard_name": "relative_humidity",
        "long_name": "Near-Surface Relative Humidity",
        **_NOT_NEGATIVE,
        **_WET,
    },
    "sfcWind": {"standard_name": "wind_speed", "long_name": "Near-Surface Wind Speed", **_NOT_NEGATIVE},
    "psl": {"standard_name": "air_pressure_at_mean_sea_level", "long_name": "Sea Level Pressure"},
    "rsds": {
        "standard_name": "surface_downwelling_shortwave_flux_in_air",
        "long_name": "Surface Downwelling Shortwave Radiation",
        **_NOT_NEGATIVE,
    },
}
# The CF standard name of precipitation by mass; that of its depth of water is in `KNOWN`.
_PRECIPITATION_FLUX = "precipitation_flux"
_ROLES: Mapping[str, Role] = {
    "air_temperature": "temperature",
    "lwe_precipitation_rate": "precipitation",
    _PRECIPITATION_FLUX: "precipitation",
}
# What decides no number.
DESCRIPTIVE = ("long_name", "colours")
_DIVERGING = "^(PiYG|PRGn|BrBG|PuOr|RdGy|RdBu|RdYlBu|RdYlGn|Spectral|coolwarm|bwr|seismic)(_r)?$"


class CardTable(BaseModel):
    """Base of the tables of a card: frozen, strict, unknown keys forbidden."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")


class Bounds(CardTable):
    """The range that a variable cannot leave, in its units; predictions are clipped to it.

    Attributes:
        lower: The smallest possible value; None if there is no such bound.
        upper: The largest possible value; None if there is no such bound.
    """

    lower: float | None = Field(None, allow_inf_nan=False)
    upper: float | None = Field(None, allow_inf_nan=False)

    @model_validator(mode="after")
    def _ordered(self) -> Bounds:
        if self.lower is not None and self.upper is not None and self.lower >= self.upper:
            raise ValueError(f"lower must be below upper, not {self.lower} and {self.upper}")
        return self


class Variable(CardTable):
    """One variable: what it is, and what its values may be.

    What a card leaves out of the keys from `bounds` on is what `KNOWN` says of the name, if it is there.

    Attributes:
        name: The name of its table; it need not be written.
        units: The units that emukit works in.
        spellings: Other spellings of the same units.
        range: Every visible value lies inside, in `units`.
        largest: The largest visible value lies inside: this tells kg m-2 s-1 from mm/day.
        what: What it really is, in a sentence.
        kind: ``field`` (time, y, x), ``series`` (time), or ``either``.
        physics: What its values must look like on Earth, where the store's values are not known by digest
            (`emukit.data.physics`); empty: nothing is asked.
        bounds: What predictions are clipped to. A variable whose lower bound is zero varies in proportion to its mean.
        standard_name: The CF standard name. ``air_temperature`` marks the variable that measures warming.
        long_name: The CF long name in files; `what` without it.
        cell_methods: The CF cell methods.
        colours: A diverging colour map of matplotlib, for maps of errors and of changes.
        transform: How networks see it where their recipe does not choose: see `emukit.data.targets`.
    """

    # Its key says it, so neither dumps nor digests do.
    name: str = Field("", exclude=True)
    units: str
    spellings: list[str] = []
    range: Pair
    largest: Pair
    what: str
    kind: Literal["field", "series", "either"] = "field"
    # Not a part of what a saved emulator or the digest of a card says: it decides no number.
    physics: Literal["", "insolation", "temperature", "rain", "warming"] = Field("", exclude=True)
    bounds: Bounds = Bounds()
    standard_name: str = ""
    long_name: str = ""
    cell_methods: str = MEAN
    colours: str = Field(OTHER_COLOURS, pattern=_DIVERGING)
    transform: Transform = "none"

    @model_validator(mode="before")
    @classmethod
    def _known(cls, values: object) -> object:
        return {**_known_of(values), **values} if isinstance(values, dict) else values

    @model_validator(mode="after")
    def _consistent(self) -> Variable:
        for name, (low, high) in (("range", self.range), ("largest", self.largest)):
            if low > high:
                raise ValueError(f"{name} must be [low, high], not [{low}, {high}]")
        if self.transform in ROOTS and not self.never_negative:
            raise ValueError(
                f"transform {self.transform} is for what is never negative: say so with bounds = {{ lower = 0.0 }}"
            )
        return self

    @property
    def role(self) -> Role:
        """What science asks of it: warming is measured by the mean near-surface ``temperature``."""
        extreme = any(word in self.cell_methods for word in ("maximum", "minimum"))
        return "" if extreme else _ROLES.get(self.standard_name, "")

    @property
    def relative(self) -> bool:
        """Whether its variations are shares of its mean: zero is its lower bound."""
        return self.bounds.lower == 0.0

    @property
    def never_negative(self) -> bool:
        """Whether no value, visible or predicted, is below zero."""
        return self.range[0] >= 0 or (self.bounds.lower is not None and self.bounds.lower >= 0)

    @property
    def attributes(self) -> dict[str, str]:
        """The CF attributes of its fields in a file, without the empty ones."""
        long_name = self.long_name or self.what
        found = {"standard_name": self.standard_name, "long_name": long_name, "units": self.units}
        return {k: v for k, v in found.items() if v} | {"cell_methods": self.cell_methods}

    def implied(self) -> set[str]:
        """Keys that say what would hold without them, and keys that decide no number."""
        plain = type(self).model_validate({**self.model_dump(exclude={*_TOLD}), "name": self.name})
        return {k for k in _TOLD if k in DESCRIPTIVE or getattr(self, k) == getattr(plain, k)}


_TOLD = ("bounds", "standard_name", "long_name", "cell_methods", "colours", "transform")


def _known_of(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """What CMIP says of a variable by the `name` among its values."""
    known = KNOWN.get(str(values.get("name", "")), {})
    if known.get("standard_name") == "lwe_precipitation_rate" and "kg" in str(values.get("units", "")):
        return {**known, "standard_name": _PRECIPITATION_FLUX}
    return known
