"""Units: whether a store's are the card's, and which conversion to offer where they are not.

Invariant: nothing is converted unless the user names the conversion, and none is offered except from the units that
the store states: values alone do not tell GtC from ppm.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from emukit.data.decode import Findings
from emukit.data.variable import Variable

# (from, to): scale and offset. 86400 seconds a day; 1 kg m-2 of water is 1 mm; 44/12: CO2 per carbon by mass. What is
# per month is divided by the days of each month too.
CONVERSIONS: Mapping[tuple[str, str], tuple[float, float]] = {
    ("degC", "K"): (1.0, 273.15),
    ("kg m-2 s-1", "mm/day"): (86400.0, 0.0),
    ("m s-1", "mm/day"): (86400.0e3, 0.0),
    ("kg m-2 day-1", "mm/day"): (1.0, 0.0),
    ("mm s-1", "mm/day"): (86400.0, 0.0),
    ("mm h-1", "mm/day"): (24.0, 0.0),
    ("kg m-2 h-1", "mm/day"): (24.0, 0.0),
    ("cm day-1", "mm/day"): (10.0, 0.0),
    ("m day-1", "mm/day"): (1000.0, 0.0),
    ("mm/month", "mm/day"): (1.0, 0.0),
    ("cm/month", "mm/day"): (10.0, 0.0),
    ("m/month", "mm/day"): (1000.0, 0.0),
    ("kg m-2 month-1", "mm/day"): (1.0, 0.0),
    ("GtC", "GtCO2"): (44.0 / 12.0, 0.0),
    ("MtC", "GtCO2"): (44.0e-3 / 12.0, 0.0),
    ("MtCO2", "GtCO2"): (1e-3, 0.0),
    ("MtCH4/yr", "GtCH4/yr"): (1e-3, 0.0),
    ("g m-2 s-1", "kg m-2 s-1"): (1e-3, 0.0),
}
ALIASES = {
    "c": "degC", "celsius": "degC", "degreescelsius": "degC", "degreecelsius": "degC", "degreesc": "degC",
    "degc": "degC", "kelvin": "K", "degk": "K", "k": "K", "d": "day", "days": "day", "year": "yr", "a": "yr",
    "y": "yr", "years": "yr", "annum": "yr", "sec": "s", "second": "s", "seconds": "s", "hr": "h", "hour": "h",
    "hours": "h", "mon": "month", "months": "month", "mo": "month", "watt": "W", "watts": "W", "metre": "m",
    "meter": "m", "metres": "m", "meters": "m", "millimetre": "mm", "millimeter": "mm", "millimetres": "mm",
    "millimeters": "mm", "kilogram": "kg", "kilograms": "kg", "gram": "g", "grams": "g",
}  # fmt: skip
_SUPERSCRIPTS = str.maketrans({**dict(zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁻−", "0123456789--", strict=True)), "°": "", "^": ""})
_FACTOR = re.compile(r"(/?)\s*([A-Za-z_%]+[0-9]*[A-Za-z_]+|[A-Za-z_%]+)\s*(-?\d+)?")


def same_units(a: str, b: str) -> bool:
    """Whether two spellings mean the same: ``W/m²`` and ``W m-2``, ``mm/day`` and ``mm d-1``."""
    return a.strip() == b.strip() or _factors(a) == _factors(b)


def _factors(units: str) -> dict[str, int]:
    # "deg C" and "Gt CO2" are one unit each: a number's name and its substance are joined first.
    text = units.translate(_SUPERSCRIPTS).replace("**", "").replace("deg C", "degC").replace("degrees C", "degC")
    text = re.sub(r"\bper\b", "/", re.sub(r"[*·×]", " ", text))
    # All that stands in brackets after a slash is divided by.
    text = re.sub(
        r"/\s*\(([^()]*)\)", lambda m: "".join(f"/{word}" for word in re.split(r"[\s.]+", m[1]) if word), text
    )
    # A petagram is a gigatonne, a teragram a million tonnes.
    text = re.sub(r"\b(Pg|Tg)(?=\s*(?:C|CO2|CH4)\b)", lambda m: {"Pg": "Gt", "Tg": "Mt"}[m[1]], text)
    text = re.sub(r"\b([GMk]?t)\s+(C|CO2|CH4|SO2|BC)\b", r"\1\2", text)
    out: dict[str, int] = {}
    for slash, name, power in _FACTOR.findall(text):
        known = ALIASES.get(name.replace("_", "").lower(), name)
        out[known] = out.get(known, 0) + int(power or 1) * (-1 if slash else 1)
    return {k: v for k, v in out.items() if v}


def fits(quantity: Variable, low: float, high: float) -> bool:
    """Whether values between `low` and `high` can be this quantity in the card's units."""
    inside = quantity.range[0] <= low and high <= quantity.range[1]
    return inside and quantity.largest[0] <= high <= quantity.largest[1]


def conversion(
    name: str,
    quantity: Variable,
    stated: str,
    low: float,
    high: float,
    asked: str | None,
    findings: Findings,
    days: NDArray[np.float64],
) -> tuple[NDArray[np.float64], float] | None:
    """The scale of each month, (T,), and the offset to apply to a variable; None where there is nothing to convert.

    Args:
        name: The variable.
        quantity: What the card says of it.
        stated: The store's units attribute, empty where there is none.
        low: Its smallest visible value, in the store's units.
        high: Its largest.
        asked: The units that the user says it is in.
        findings: Where a mismatch is recorded.
        days: (T,) days of the month of each step in the store's calendar.
    """
    known = stated in quantity.spellings or same_units(stated, quantity.units)
    if asked is not None:
        return _asked(name, quantity, stated, known, low, high, asked, findings, days)
    found = f"{low:.4g} .. {high:.4g}" + (f", units attribute {stated!r}" if stated else ", no units attribute")
    if (known or not stated) and fits(quantity, low, high):
        return None
    what = f"{name} is not in {quantity.units}"
    choices = [u for u, to in CONVERSIONS if to == quantity.units]
    offer = next((u for u in choices if same_units(u, stated)), None)
    if known or not stated:
        what = f"the values of {name} cannot be in {quantity.units}"
    if known:
        hint = "correct the values or the units attribute: one of the two is wrong"
    elif not stated:
        hint = f"set its units attribute, or name its units with --convert {name}=UNITS if you know them; " + (
            f"emukit converts to {quantity.units} from {', '.join(choices)}"
            if choices
            else f"emukit has no conversion to {quantity.units}"
        )
    elif offer and fits(quantity, *_converted(offer, quantity, low, high, days)):
        hint = f"convert it: --convert {_option(name, offer)}"
    else:
        hint = f"emukit has no conversion that makes these {quantity.units}; correct the data or its units attribute"
    low_end, high_end = quantity.largest
    findings.refuse(
        what,
        found=found,
        expected=f"{quantity.what} in {quantity.units}, inside {quantity.range[0]:g} .. {quantity.range[1]:g}, "
        f"the largest in {low_end:g} .. {high_end:g}",
        hint=hint,
    )
    return None


def _asked(
    name: str,
    quantity: Variable,
    stated: str,
    known: bool,
    low: float,
    high: float,
    asked: str,
    findings: Findings,
    days: NDArray[np.float64],
) -> tuple[NDArray[np.float64], float] | None:
    to = quantity.units
    choices = [u for u, target in CONVERSIONS if target == to]
    units = next((u for u in choices if same_units(u, asked)), None)
    option = f"--convert {_option(name, asked)}"
    if (known or not stated) and fits(quantity, low, high):
        findings.refuse(
            f"{option} is not needed",
            found=f"{name} is in {to} already: {low:.4g} .. {high:.4g}",
            hint=f"leave out {option}",
        )
    elif units is None:
        findings.refuse(
            f"{option} is not a known conversion to {to}",
            found=asked,
            expected=f"one of {', '.join(choices) or 'none'}",
        )
    elif stated and not same_units(stated, asked):
        findings.refuse(
            f"{option} contradicts the store",
            found=f"units attribute {stated!r}, values {low:.4g} .. {high:.4g}",
            hint=f"leave out {option}, or correct the units attribute if that is what is wrong",
        )
    else:
        converted = _converted(units, quantity, low, high, days)
        if fits(quantity, *converted):
            findings.note(f"{name} was converted from {asked} to {to}, as asked")
            scale, offset = CONVERSIONS[units, to]
            return np.full(len(days), scale) / (days if _per_month(units) else 1.0), offset
        findings.refuse(
            f"{name} is not in {asked} either",
            found=f"{converted[0]:.4g} .. {converted[1]:.4g} {to} after conversion",
            expected=f"inside {quantity.range[0]:g} .. {quantity.range[1]:g}",
        )
    return None


def _per_month(units: str) -> bool:
    return "month" in _factors(units)


def _converted(
    units: str, quantity: Variable, low: float, high: float, days: NDArray[np.float64]
) -> tuple[float, float]:
    """The extremes after conversion. Months differ from their mean length by a tenth at most, ranges by far more."""
    scale, offset = CONVERSIONS[units, quantity.units]
    if _per_month(units):
        scale /= float(days.mean())
    return low * scale + offset, high * scale + offset


def _option(name: str, units: str) -> str:
    return f"{name}={units}" if " " not in units else f"'{name}={units}'"
