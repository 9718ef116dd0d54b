"""Competitions by name.

Invariant: a name is looked up in the table; what a run folder or a card says is never imported as such.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING

from emukit.errors import EmukitError
from emukit.metrics.competition import Competition
from emukit.registry import Entry, Registry

if TYPE_CHECKING:
    from emukit.data.archive import Archive

# Functions from variables with their units to a `Competition`.
COMPETITIONS: Registry[Entry] = Registry(
    "competition",
    "emukit.competitions",
    {
        "cse151b": Entry("emukit.competitions.cse151b:competition"),
        "climx": Entry("emukit.competitions.climx.score:competition"),
        "generic": Entry("emukit.competitions.generic:competition"),
    },
    entry=Entry,
    accepts=callable,
    expected="a function from variables with their units to a Competition",
    error=EmukitError,
)


def load_competition(name: str, units: Mapping[str, str]) -> Competition:
    """A competition on some variables.

    Args:
        name: In the table.
        units: Variable to its units, of a card, a run or a study.

    Raises:
        EmukitError: There is no such competition, or it scores a variable that is not among these, or in other units.
    """
    if name not in COMPETITIONS:
        raise EmukitError(
            f"there is no competition {name}",
            expected=f"one of {', '.join(COMPETITIONS)}",
            hint="name one of these in the data card, or install the package that brings it",
        )
    return _build(name, COMPETITIONS.load(name), tuple(units.items()))


def competition_of(data: Archive) -> Competition:
    """The competition that the card of some data names.

    Raises:
        EmukitError: As `load_competition`.
    """
    targets = data.card.targets
    found = load_competition(data.card.competition, {v: targets[v].units for v in data.variables if v in targets})
    if found.fits and (wrong := found.fits(data.grid)):
        raise EmukitError(
            f"the competition {found.name} cannot score on this grid",
            found=wrong,
            hint="leave `competition` out of the data card to score on any grid",
        )
    return found


@lru_cache(maxsize=64)
def _build(
    name: str, build: Callable[[Mapping[str, str]], Competition], units: tuple[tuple[str, str], ...]
) -> Competition:
    given = dict(units)
    built: Competition = build(given)
    # Derived variables are computed from those that are given.
    missing = [] if built.derive else [v for v in built.units if v not in given]
    other = [f"{v} in {given[v]}" for v, u in built.units.items() if v in given and given[v] != u]
    if missing or other:
        raise EmukitError(
            f"the competition {name} cannot score these variables",
            found="; ".join([*([f"no {', '.join(missing)}"] if missing else []), *other]),
            expected=", ".join(f"{v} in {u}" for v, u in built.units.items()),
            hint="leave `competition` out of the data card to score every variable by its own standard deviation",
        )
    return built
