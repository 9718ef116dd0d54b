"""Scoring xarray datasets, for notebooks.

Invariant: what is compared lies on the same months and cells and is in the same units; nothing is aligned, converted or
averaged by silence. Values are checked as those of a CSV are: `emukit.submission.score`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from emukit.competitions.registry import load_competition
from emukit.data.card import load_card
from emukit.data.decode import role
from emukit.data.units import same_units
from emukit.data.variable import Variable
from emukit.errors import EmukitError
from emukit.metrics.competition import Score
from emukit.submission.score import checked_score

CARD = "cse151b-2025"

_ORDER = ("time", "lat", "lon")


def score_datasets(prediction: xr.Dataset, truth: xr.Dataset, card: str = CARD) -> Score:
    """Score a prediction against the truth.

    Args:
        prediction: The variables that the competition scores, in the units of the card (of the default card, `tas` in
            K and `pr` in mm/day), on time, latitude (``y``, ``lat`` or ``latitude``) and longitude, in
            any order, as `Emulator.predict` returns them. Of an ensemble choose a member, or take the mean over all.
        truth: The same variables on the same months and cells, as `emukit.truth` returns them.
        card: The data card, by name or path: it names the competition, and says what the variables are.

    Raises:
        EmukitError: A variable or coordinate is missing, there is another dimension (members, scenarios), a units
            attribute or the values say other units, months or cells differ, a value is not finite (with its address),
            or the truth is hidden.
    """
    quantities = load_card(card).targets
    competition = load_competition(load_card(card).competition, {v: q.units for v, q in quantities.items()})
    scored = {v: quantities[v] for v in competition.variables}
    p, t = _Fields(prediction, "prediction", scored), _Fields(truth, "truth", scored)
    for name in _ORDER:
        a, b = p.axes[name], t.axes[name]
        same = np.array_equal if name == "time" else lambda a, b: np.allclose(a, b, atol=1e-6)
        if len(a) != len(b) or not same(a, b):
            raise EmukitError(
                f"prediction and truth differ along {p.dims[name]}",
                found=f"{len(a)} from {a[0]} to {a[-1]}",
                expected=f"{len(b)} from {b[0]} to {b[-1]}",
                hint="select the same months and cells of both, in the same order",
            )
    lat, lon = t.axes["lat"], t.axes["lon"]

    def address(month: int, v: int, y: int, x: int) -> str:
        return f"{competition.variables[v]}, {t.axes['time'][month]}, lat {lat[y]:.2f}, lon {lon[x]:.2f}"

    weights = np.cos(np.deg2rad(lat))[:, None] * np.ones(len(lon))
    return checked_score(competition, p.values, t.values, weights, competition.variables, address)


class _Fields:
    """The fields of one dataset: `values` (T, V, Y, X), its `axes` and what it calls them (`dims`), by role."""

    def __init__(self, dataset: xr.Dataset, name: str, quantities: Mapping[str, Variable]) -> None:
        if not isinstance(dataset, xr.Dataset):
            raise EmukitError(f"the {name} is not a dataset", found=type(dataset).__name__, expected="xarray.Dataset")
        missing = [v for v in quantities if v not in dataset]
        if missing:
            raise EmukitError(f"the {name} lacks {', '.join(missing)}", expected=", ".join(quantities))
        self.name, self.dims = name, _dims(dataset, name, quantities)
        self.axes = {r: _axis(dataset, d, r, name) for r, d in self.dims.items()}
        order = [self.dims[r] for r in _ORDER]
        fields = []
        for v, quantity in quantities.items():
            values = np.asarray(dataset[v].transpose(*order).values)
            if values.dtype.kind not in "fiu":
                raise EmukitError(f"{v} of the {name} is not numeric", found=str(values.dtype))
            _refuse_units(v, str(dataset[v].attrs.get("units", "")).strip(), values, quantity, name)
            fields.append(values)
        self.values = np.stack(fields, 1)


def _dims(dataset: xr.Dataset, name: str, variables: Iterable[str]) -> dict[str, Any]:
    """Role to dimension, of variables that have the three of a field and no other."""
    by_role: dict[str, Any] = {}
    first = ""
    for v in variables:
        own = {role(d) or str(d): d for d in dataset[v].dims}
        more = [r for r in own if r not in _ORDER]
        if more:
            dim = own[more[0]]
            mean = f", or the mean over them: ds.mean({dim!r}, keep_attrs=True)" if more[0] == "member" else ""
            raise EmukitError(
                f"{v} of the {name} has a dimension that is not scored",
                found=f"{dim}, {dataset.sizes[dim]} long",
                expected="time, latitude, longitude",
                hint=f"choose one: ds.isel({dim}=0){mean}",
            )
        lacking = [r for r in _ORDER if r not in own]
        if lacking:
            raise EmukitError(
                f"{v} of the {name} has no dimension of {', '.join(lacking)}",
                found=f"({', '.join(map(str, dataset[v].dims))})",
                expected="(time, y, x), or lat/lon or latitude/longitude for y/x",
            )
        if by_role and own != by_role:
            raise EmukitError(
                f"the variables of the {name} are on different dimensions",
                found=f"{first} on {tuple(by_role.values())}, {v} on {tuple(own.values())}",
                expected="one grid for all",
            )
        by_role, first = own, first or v
    return by_role


def _axis(dataset: xr.Dataset, dim: Any, what: str, name: str) -> NDArray[Any]:
    if dim not in dataset.coords or not dataset.sizes[dim]:
        raise EmukitError(
            f"the {name} has no coordinate {dim}",
            found=f"{dataset.sizes[dim]} values without coordinate" if dataset.sizes[dim] else f"{dim} is empty",
            expected=f"{dim}({dim}) of at least one value",
        )
    values = np.asarray(dataset[dim].values)
    if what == "time":
        return _months(values)
    if values.dtype.kind not in "fiu" or not np.isfinite(values).all():
        raise EmukitError(f"{dim} of the {name} is not in degrees", found=f"{values.dtype}: {values[:3]}")
    if what == "lat" and np.abs(values).max() > 90:
        raise EmukitError(f"{dim} of the {name} is not a latitude", found=f"{values.min():g} .. {values.max():g}")
    return values


def _months(values: NDArray[Any]) -> NDArray[Any]:
    """Calendar-free months where each is there once; the values themselves elsewhere."""
    if np.issubdtype(values.dtype, np.datetime64):
        months = values.astype("datetime64[M]")
    elif values.dtype == object and hasattr(values[0], "year"):
        months = np.array([(v.year - 1970) * 12 + v.month - 1 for v in values], "int64").astype("datetime64[M]")
    else:
        return values
    return months if len(np.unique(months)) == len(months) else values


def _refuse_units(v: str, stated: str, values: NDArray[Any], quantity: Variable, name: str) -> None:
    """Refuse other units: by the attribute where there is one, and by size where there is none or it is the truth's."""
    known = stated in quantity.spellings or same_units(stated, quantity.units)
    if stated and not known:
        raise EmukitError(
            f"{v} of the {name} is not in {quantity.units}",
            found=f"units attribute {stated!r}",
            expected=quantity.units,
            hint=f"convert it first, and set its attribute units to {quantity.units!r}",
        )
    if known and name == "prediction":
        return  # however bad it is, it has a score
    finite = values[np.isfinite(values)]
    largest = float(finite.max()) if finite.size else 0.0
    low, high = quantity.largest
    # Zeros and NaN are refused for what they are.
    if largest != 0.0 and not low <= largest <= high:
        raise EmukitError(
            f"the values of {v} of the {name} cannot be in {quantity.units}",
            found=f"at most {largest:.4g}, " + (f"units attribute {stated!r}" if stated else "no units attribute"),
            expected=f"a largest value in {low:g} .. {high:g} {quantity.units}",
            hint=f"convert it first, and set its attribute units to {quantity.units!r}",
        )
