"""Units: whether a store's are the card's, and which conversion to offer where they are not.

Invariant: nothing is converted unless the user names the conversion; values that do not fit the card's range are
refused with the conversions that would make them fit.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from emukit.data.card import Quantity
from emukit.data.decode import Findings

# (from, to): scale and offset. 86400 seconds a day; 1 kg m-2 of water is 1 mm; 44/12: CO2 per carbon by mass.
CONVERSIONS: Mapping[tuple[str, str], tuple[float, float]] = {
    ("degC", "K"): (1.0, 273.15),
    ("kg m-2 s-1", "mm/day"): (86400.0, 0.0),
    ("m s-1", "mm/day"): (86400.0e3, 0.0),
    ("GtC", "GtCO2"): (44.0 / 12.0, 0.0),
    ("MtCO2", "GtCO2"): (1e-3, 0.0),
    ("MtCH4/yr", "GtCH4/yr"): (1e-3, 0.0),
    ("g m-2 s-1", "kg m-2 s-1"): (1e-3, 0.0),
}
ALIASES = {
    "c": "degC", "celsius": "degC", "degreescelsius": "degC", "degreecelsius": "degC", "degreesc": "degC",
    "degc": "degC", "kelvin": "K", "degk": "K", "k": "K", "d": "day", "days": "day", "year": "yr", "a": "yr",
    "y": "yr", "years": "yr", "sec": "s", "second": "s", "seconds": "s",
}  # fmt: skip
_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻", "0123456789-", "°^*·")
_FACTOR = re.compile(r"(/?)\s*([A-Za-z_%]+[0-9]*[A-Za-z_]+|[A-Za-z_%]+)\s*(-?\d+)?")


def same_units(a: str, b: str) -> bool:
    """Whether two spellings mean the same: ``W/m²`` and ``W m-2``, ``mm/day`` and ``mm d-1``."""
    return a.strip() == b.strip() or _factors(a) == _factors(b)


def _factors(units: str) -> dict[str, int]:
    # "deg C" and "Gt CO2" are one unit each: a number's name and its substance are joined first.
    text = units.translate(_SUPERSCRIPTS).replace("deg C", "degC")
    text = re.sub(r"\b([GMk]?t)\s+(C|CO2|CH4|SO2|BC)\b", r"\1\2", text)
    out: dict[str, int] = {}
    for slash, name, power in _FACTOR.findall(text):
        known = ALIASES.get(name.replace("_", "").lower(), name)
        out[known] = out.get(known, 0) + int(power or 1) * (-1 if slash else 1)
    return {k: v for k, v in out.items() if v}


def fits(quantity: Quantity, low: float, high: float) -> bool:
    """Whether values between `low` and `high` can be this quantity in the card's units."""
    inside = quantity.range[0] <= low and high <= quantity.range[1]
    return inside and quantity.largest[0] <= high <= quantity.largest[1]


def conversion(
    name: str, quantity: Quantity, stated: str, low: float, high: float, asked: str | None, findings: Findings
) -> tuple[float, float] | None:
    """The scale and offset to apply to a variable, or None where there is nothing to convert.

    Args:
        name: The variable.
        quantity: What the card says of it.
        stated: The store's units attribute, empty where there is none.
        low: Its smallest visible value, in the store's units.
        high: Its largest.
        asked: The units that the user says it is in.
        findings: Where a mismatch is recorded.
    """
    known = stated in quantity.spellings or same_units(stated, quantity.units)
    if asked is not None:
        return _asked(name, quantity, stated, known, low, high, asked, findings)
    found = f"{low:.4g} .. {high:.4g}" + (f", units attribute {stated!r}" if stated else ", no units attribute")
    offers = [
        u
        for (u, to), (scale, offset) in CONVERSIONS.items()
        if to == quantity.units and fits(quantity, low * scale + offset, high * scale + offset)
    ]
    if known or not stated:
        if fits(quantity, low, high):
            return None
        what = f"the values of {name} cannot be in {quantity.units}"
    else:
        what = f"{name} is not in {quantity.units}"
        offers = [u for u in offers if same_units(u, stated)]
    hint = (
        f"if that is what they are: --convert {' or --convert '.join(_option(name, u) for u in offers)}"
        if offers
        else f"emukit knows no conversion that makes these {quantity.units}; mend the data or its units attribute"
    )
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
    quantity: Quantity,
    stated: str,
    known: bool,
    low: float,
    high: float,
    asked: str,
    findings: Findings,
) -> tuple[float, float] | None:
    to = quantity.units
    choices = {u: f for (u, target), f in CONVERSIONS.items() if target == to}
    factors = next((f for u, f in choices.items() if same_units(u, asked)), None)
    option = f"--convert {_option(name, asked)}"
    if (known or not stated) and fits(quantity, low, high):
        findings.refuse(
            f"{option} is not needed",
            found=f"{name} is in {to} already: {low:.4g} .. {high:.4g}",
            hint=f"leave out {option}",
        )
    elif factors is None:
        findings.refuse(
            f"{option} is not a known conversion to {to}",
            found=asked,
            expected=f"one of {', '.join(choices) or 'none'}",
        )
    elif stated and not known and not same_units(stated, asked):
        findings.refuse(
            f"{option} contradicts the store", found=f"units attribute {stated!r}", hint="mend one of the two"
        )
    else:
        scale, offset = factors
        if fits(quantity, low * scale + offset, high * scale + offset):
            findings.note(f"{name} was converted from {asked} to {to}, as asked")
            return factors
        findings.refuse(
            f"{name} is not in {asked} either",
            found=f"{low * scale + offset:.4g} .. {high * scale + offset:.4g} {to} after conversion",
            expected=f"inside {quantity.range[0]:g} .. {quantity.range[1]:g}",
        )
    return None


def _option(name: str, units: str) -> str:
    return f"{name}={units}" if " " not in units else f"'{name}={units}'"
