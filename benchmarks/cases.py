"""One case of a campaign of faults: its folder, how it ended, and the rows in which cases are counted.

Invariant: every case begins from the same whole files, and ends in one column of one row. A case is good where emukit
refused, said what it left out, or gave what it gives without the fault.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from benchmarks.damage import linked_copy
from benchmarks.forked import Ended
from emukit.errors import EmukitError

STORE = "store.zarr"
# How a case may end. Only where nothing in the data could tell is "silent" not bad, and "refused" where one may refuse.
COLUMNS = ("refused", "said", "same", "silent", "broken", "hung", "over 4 GB")
ALWAYS_BAD = ("broken", "hung", "over 4 GB")


@dataclass(frozen=True)
class Tally:
    """One line of ``python -m benchmarks faults``: all cases of one kind of fault.

    Attributes:
        campaign: What was damaged or killed.
        kind: How.
        counts: Column of `COLUMNS` to the number of cases that ended there.
        bad: Columns in which none may end.
        examples: What the first cases that ended badly did.
    """

    headings: ClassVar[tuple[str, ...]] = ("campaign", "fault", "cases", *COLUMNS, "holds")

    campaign: str
    kind: str
    counts: Mapping[str, int]
    bad: tuple[str, ...]
    examples: tuple[str, ...] = ()

    @property
    def within(self) -> bool:
        """Whether none ended in a bad column."""
        return not any(self.counts.get(column, 0) for column in self.bad)

    def cells(self) -> tuple[str, ...]:
        """What stands under the headings."""
        numbers = (str(self.counts.get(column, 0)) for column in COLUMNS)
        return self.campaign, self.kind, str(sum(self.counts.values())), *numbers, "yes" if self.within else "NO"


@contextmanager
def case_folder(whole: Path, place: Path) -> Iterator[None]:
    """A folder of a case: stores linked, because they are only read, the rest copied."""
    place.mkdir()
    try:
        for entry in whole.iterdir():
            if entry.suffix == ".zarr":
                linked_copy(entry, place / entry.name)
            elif entry.is_dir():
                shutil.copytree(entry, place / entry.name)
        yield
    finally:
        shutil.rmtree(place, ignore_errors=True)


def must(act: Callable[[], None]) -> None:
    """Do it; end here where it refuses."""
    try:
        act()
    except SystemExit as e:
        if e.code:
            raise


def expect_well(ended: Ended, what: str = "a command") -> None:
    """Refuse to count faults where it does not work without."""
    if ended.code:
        raise EmukitError(
            f"{what} fails without any fault",
            found=f"exit code {ended.code} after {ended.seconds:.0f} s: {ended.err}{ended.out}"[-2000:],
        )


def column_of(ended: Ended, untouched: Ended, same: bool, findings: bool = False) -> str:
    """How a case ended.

    Args:
        ended: The case.
        untouched: The same without a fault.
        same: Whether it gave the same.
        findings: Whether what it found wrong stands in its result, as in that of `data check`; else it is told next to
            it, on standard error.
    """
    if ended.hung:
        return "hung"
    if ended.broken:
        return "broken"
    if ended.greedy:
        return "over 4 GB"
    if ended.code:
        return "refused"
    notes, usual = ({*e.err.splitlines(), *(e.out.splitlines() if findings else ())} for e in (ended, untouched))
    if notes - usual:
        return "said"
    return "same" if same else "silent"


def last_words(ended: Ended) -> str:
    """The end of what a case said."""
    return " | ".join(line for line in ended.err.splitlines()[-6:] if line.strip())[-600:]
