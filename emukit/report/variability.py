"""How like the climate model's own the variability of a prediction is, in numbers.

Invariant: every difference of the prediction from a member is taken as that of a member from another is, which stands
next to it, without which it says nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import permutations
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.table import Table
from rich.text import Text

from emukit.data.grid import Grid
from emukit.metrics.variability import VariabilityStatistics
from emukit.report.plot_data import Shown
from emukit.terminal import terminal_table

Array = NDArray[np.float64]

# Of `VariabilityStatistics.differences`: in words, and whether it is a share of what the member has.
DIFFERENCES = {
    "total_std": ("std", True),
    "std": ("std, cell by cell", True),
    "seasonal_std": ("std, worst month", True),
    "memory": ("memory", False),
    "length": ("length", True),
    "together": ("correlation", False),
}
# Of these the sign is known; of the others, the mean size over cells, or the largest of any month.
SIGNED = ("total_std", "length")
CAPTION = (
    "of anomalies from a straight line of each calendar month: std their standard deviation, memory the correlation "
    "with the month before, length where the correlation with the surroundings falls to 1/e"
)


@dataclass(frozen=True, eq=False)
class VariabilityComparison:
    """The variability of a prediction, of members, and how far apart they are.

    Attributes:
        variables: Names along the V axis.
        units: Of the variables.
        measured_km: How far correlations are looked at: a length that is infinite is more than that.
        prediction: Numbers by name, (V,), or (V - 1,) of what is between the first variable and another.
        members: The same of each member.
        difference: Of the prediction from a member, by the names of `VariabilityStatistics.differences`; the mean over
            members.
        between_members: Of a member from another, the mean size over pairs; None of a single one.
    """

    variables: tuple[str, ...]
    units: tuple[str, ...]
    measured_km: float
    prediction: dict[str, Array]
    members: dict[int, dict[str, Array]]
    difference: dict[str, Array]
    between_members: dict[str, Array] | None

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON, by variable where a number has one; a length beyond what is measured as text."""
        return {
            "prediction": self._plain(self.prediction),
            "members": {str(m): self._plain(numbers) for m, numbers in self.members.items()},
            "difference from a member": self._plain(self.difference),
            "difference between two members": None
            if self.between_members is None
            else self._plain(self.between_members),
        }

    def rows(self) -> Iterator[tuple[str, str, str, str, str, str]]:
        """Cells of `variability_table`, a variable after the other.

        Where only a difference is known, there is nothing of the members and the prediction; a difference that was not
        measured is a question mark.
        """
        for v, (variable, unit) in enumerate(zip(self.variables, self.units, strict=True)):
            units = {"total_std": unit, "length": "km"}
            for key in DIFFERENCES:
                if key != "together":
                    yield self._row(variable, key, v, units.get(key, ""))
        for v, pair in enumerate(self.pairs):
            yield self._row(pair, "together", v, "")

    @property
    def pairs(self) -> tuple[str, ...]:
        """The first variable with each of the others, in words."""
        return tuple(f"{self.variables[0]} with {other}" for other in self.variables[1:])

    def _row(self, of: str, key: str, v: int, unit: str) -> tuple[str, str, str, str, str, str]:
        name, relative = DIFFERENCES[key]
        members = prediction = between = ""
        if key in self.prediction:
            values = [float(numbers[key][v]) for numbers in self.members.values()]
            members = "..".join(dict.fromkeys(self._text(n) for n in (min(values), max(values))))
            prediction = self._text(float(self.prediction[key][v]))
        if self.between_members is not None:
            between = _difference(float(self.between_members[key][v]), relative, False)
        difference = _difference(float(self.difference[key][v]), relative, key in SIGNED)
        return f"{of} {name}", unit, members, prediction, difference, between

    def _text(self, value: float) -> str:
        if math.isinf(value):
            return beyond(self.measured_km)
        return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3f}"

    def _plain(self, numbers: dict[str, Array]) -> dict[str, Any]:
        out: dict[str, Any] = {}
        for key, value in numbers.items():
            names, plain = self.pairs if key == "together" else self.variables, [self._value(x) for x in value]
            # Of two variables there is one pair, and its number needs no name.
            out[key] = plain[0] if key == "together" and len(plain) == 1 else dict(zip(names, plain, strict=True))
        return out

    def _value(self, number: float) -> float | str | None:
        if np.isnan(number):
            return None
        return float(number) if np.isfinite(number) else beyond(self.measured_km)


def compare_variability(shown: Shown) -> VariabilityComparison:
    """Compare the prediction (of an ensemble, its first realisation) with every member, and them with each other."""
    grid, month = shown.archive.grid, shown.calendar_month
    prediction = VariabilityStatistics.of(shown.predictions[0], month, grid)
    members = {m: VariabilityStatistics.of(fields, month, grid) for m, fields in shown.members.items()}
    pairs = [a.differences(b, grid) for a, b in permutations(members.values(), 2)]
    return VariabilityComparison(
        shown.archive.variables,
        tuple(shown.archive.card.targets[v].units for v in shown.archive.variables),
        prediction.measured_km,
        _numbers(prediction, grid),
        {m: _numbers(w, grid) for m, w in members.items()},
        _mean([w.differences(prediction, grid) for w in members.values()]),
        _mean([{k: np.abs(d) for k, d in pair.items()} for pair in pairs]) if pairs else None,
    )


def _numbers(found: VariabilityStatistics, grid: Grid) -> dict[str, Array]:
    """Area means, under the name of the difference that goes with each."""
    return {
        "total_std": grid.mean(found.std),
        "memory": grid.mean(found.memory),
        "length": found.length_km,
        "together": grid.mean(found.together),
    }


def _mean(differences: list[dict[str, Array]]) -> dict[str, Array]:
    return {k: np.mean([d[k] for d in differences], axis=0) for k in differences[0]}


def variability_table(found: VariabilityComparison, title: str) -> Table:
    """All numbers for people, a line each."""
    table = terminal_table(title)
    table.caption, table.caption_justify = CAPTION, "left"
    table.add_column("statistic", overflow="fold")
    for heading in ("unit", "members", "prediction", "difference\nfrom member", "between\nmembers"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, *cells in found.rows():
        table.add_row(Text(name), *cells)
    return table


def beyond(measured: float) -> str:
    """More than was measured, in whole hundreds that certainly were."""
    return f"> {measured // 100 * 100:.0f}"


def _difference(value: float, relative: bool, signed: bool) -> str:
    if math.isnan(value):
        return "?"
    sign = "+" if signed else ""
    return f"{100 * value:{sign}.1f} %" if relative else f"{value:{sign}.3f}"
