"""From daily fields to what ClimX scores: the fifteen annual indices of every year.

Invariant: percentiles are of the base period of the historical run alone, which trains under every protocol; no year
that is scored moves a threshold. Indices are computed from daily fields, prediction and truth alike.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from emukit.data.archive import Archive
from emukit.errors import ProtocolError
from emukit.metrics.extremes import INDICES, VARIABLES, Fields, Thresholds, indices_of_year, quantile_of_days

HISTORICAL = "historical"
# The base period of the percentiles if the card does not name one.
BASE_PERIOD = (1961, 1990)
DAYS = 365


def thresholds_of_archive(archive: Archive) -> Thresholds:
    """Percentiles of the base period, on (365, Y X).

    Raises:
        ProtocolError: As `base_percentiles`.
    """
    return base_percentiles(archive)[0]


def base_percentiles(archive: Archive) -> tuple[Thresholds, tuple[int, int], str]:
    """Percentiles of the base period on (365, Y X), its first and last year, and the SHA-256 of its days.

    Raises:
        ProtocolError: There is no historical run, or it does not hold the base period.
    """
    # They take as long as the indices of a scenario.
    return archive.kept("percentiles of the base period", lambda: _percentiles(archive))


def _percentiles(archive: Archive) -> tuple[Thresholds, tuple[int, int], str]:
    first, last = archive.card.daily.base_period if archive.card.daily else BASE_PERIOD
    if HISTORICAL not in archive:
        raise ProtocolError(
            "WSDI, CSDI and R95p need percentiles of a historical run",
            found=f"scenarios {', '.join(archive)}",
            expected=f"a scenario {HISTORICAL} with the years {first} to {last}",
        )
    scenario = archive[HISTORICAL]
    rows = np.flatnonzero((scenario.time.year >= first) & (scenario.time.year <= last))
    if len(rows) != DAYS * (last - first + 1):
        raise ProtocolError(
            "the historical run does not hold the base period",
            found=f"{scenario.time.text(0)} to {scenario.time.text(-1)}",
            expected=f"all days of {first} to {last}",
        )
    begin, member, digest, values = int(rows[0]), scenario.members[0], hashlib.sha256(), {}
    for name, quantile in Thresholds.QUANTILES.items():

        def read(start: int, stop: int, band: slice, place: int = archive.variables.index(name)) -> Fields:
            return scenario.values(place, member, begin + start, begin + stop, band)

        values[name] = quantile_of_days(read, len(rows), archive.grid.shape, archive.bands, quantile, digest.update)
    return Thresholds(**values), (first, last), digest.hexdigest()


def derive_indices(
    archive: Archive, scenario: str, start: int, stop: int
) -> Callable[[NDArray[np.floating]], NDArray[np.floating]]:
    """What turns daily fields of some steps into the indices of their years, all at once or some years at a time.

    Args:
        archive: The data.
        scenario: Whose steps they are.
        start: The first step, a 1 January.
        stop: The step after the last, which ends a year; days may be missing at the end of the scenario's last year.

    Returns:
        From (T, V, Y, X) fields of the archive's variables to (N, 15, Y, X). It takes the steps in order: fields of
        whole years, each call those that follow the call before. After the last year it begins again.

    Raises:
        ProtocolError: The steps are not whole years.
    """
    time, places = archive[scenario].time, [archive.variables.index(v) for v in VARIABLES]
    years, firsts = np.unique(time.year[start:stop], return_index=True)
    edges = [*firsts.tolist(), stop - start]
    lengths = np.diff(edges)
    whole = (lengths[:-1] == DAYS).all() and time.day_of_year[start] == 0
    if not whole or (lengths[-1] != DAYS and stop != len(time)):
        raise ProtocolError(
            "annual indices need whole years",
            found=f"{time.text(start)} to {time.text(stop - 1)}",
            expected="1 January to 31 December",
            hint="a protocol whose spans begin and end with a year",
        )
    thresholds = thresholds_of_archive(archive)

    done = 0
    previous: NDArray[np.float32] | None = None

    def indices(fields: NDArray[np.floating]) -> NDArray[np.floating]:
        nonlocal done, previous
        offset = edges[done]
        if offset + len(fields) not in edges[done + 1 :]:
            raise ValueError(f"{len(fields)} steps from step {offset} on are not whole years")
        stop = edges.index(offset + len(fields))
        out = np.empty((stop - done, len(INDICES), *archive.grid.shape))
        for n, (first, last) in enumerate(itertools.pairwise(edges[done : stop + 1])):
            days = {
                name: np.asarray(fields[first - offset : last - offset, place], np.float32)
                for name, place in zip(VARIABLES, places, strict=True)
            }
            found = indices_of_year(days, thresholds, previous)
            previous = days["pr"][-4:].reshape(4, -1).copy()
            for i, name in enumerate(INDICES):
                out[n, i] = found[name]
        done = stop
        if done == len(years):
            done, previous = 0, None
        return out

    return indices
