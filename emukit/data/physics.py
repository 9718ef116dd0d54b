"""What Earth's climate must look like, asked of stores whose values no digest knows.

Invariant: refused is only what no climate on Earth, however idealised, can be: seasons of other months or of the other
hemisphere, poles warmer than the tropics. All else is an oddity. Where there is no season, or no contrast, or too few
months or rows to tell, nothing is said. What is looked at are means over longitude: values that are wrong within a
row, or plausible in another place, are not seen.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from emukit.data.card import Card
from emukit.data.decode import Findings
from emukit.data.demo.planet import monthly_insolation
from emukit.data.load import Loaded
from emukit.data.store_layout import Layout

Array = NDArray[np.float64]

NAMES = ("January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
         "December")  # fmt: skip
# Time means over the globe: CESM2 under ssp585 reaches 293 K and 3.4 mm/day, the last ice age had 282 K.
USUAL = {"temperature": (270.0, 310.0, "K"), "rain": (1.0, 6.0, "mm/day")}
# From one year to the next: far more than El Nino and volcanoes do to the global mean.
JUMP = {"temperature": (1.5, "K"), "rain": (0.4, "mm/day")}
# The north is warmest against the south in late July: January is 0.
WARMEST = 6.5


@dataclass(frozen=True)
class MemberSeries:
    """Means over longitude of one member of one scenario, (T, Y) by target; NaN in hidden months."""

    scenario: int
    member: int
    zonal: NDArray[np.float32]

    def text(self, layout: Layout) -> str:
        """For people."""
        return f"{layout.names[self.scenario]}, member {layout.members[self.member]}"


def check_physics(
    card: Card,
    layout: Layout,
    loaded: Loaded,
    present: NDArray[np.bool_],
    hidden: NDArray[np.bool_],
    statics: dict[str, NDArray[np.float32]],
    findings: Findings,
) -> None:
    """Record what cannot be, and note what is odd; arguments as `emukit.data.store.Survey` has them, in card units."""
    for name in layout.forcings:
        if card.forcings[name].physics == "insolation" and name not in loaded.broken and layout.forcings[name]:
            _check_insolation(name, layout, loaded, findings)
    for v, name in enumerate(layout.targets):
        kind = card.targets[name].physics
        if name in loaded.broken or not kind:
            continue
        runs = list(_runs(layout, loaded, present, hidden, v))
        if not runs:
            continue
        _note_repeats(name, v, runs, layout, loaded, hidden, findings)
        _note_usual(name, kind, runs, layout, findings)
        _note_jumps(name, kind, runs, layout, findings)
        if kind == "temperature":
            _check_seasons(name, runs, layout, findings)
            _check_poles(name, runs, layout, findings)
            _note_order(name, card, runs, layout, loaded, findings)
            _note_longitudes(name, v, runs, layout, loaded, hidden, statics, findings)


def _runs(
    layout: Layout, loaded: Loaded, present: NDArray[np.bool_], hidden: NDArray[np.bool_], v: int
) -> Iterator[MemberSeries]:
    columns = layout.grid.shape[1]
    for s, targets in enumerate(loaded.targets):
        for m in np.flatnonzero(present[s]):
            if not hidden[s].all():
                own = targets[m, :, v]
                mean = own @ np.full(own.shape[-1], 1.0 / columns, np.float32)
                zonal = _of_all_rows(mean, layout, loaded).astype(np.float32)
                zonal[hidden[s]] = np.nan
                yield MemberSeries(s, int(m), zonal)


def _of_all_rows(shares: NDArray[np.floating], layout: Layout, loaded: Loaded) -> NDArray[np.floating]:
    """(T, y) what each process's columns add to means over longitude -> (T, Y) those means."""
    if not loaded.share.divided:
        return shares
    rows = np.zeros((len(shares), layout.grid.shape[0]))
    rows[:, loaded.share.rows] = shares
    return loaded.share.sum(rows)


def by_month(values: NDArray[np.floating], layout: Layout) -> Array | None:
    """(12, ...) mean of (T, ...) by calendar month; None where a calendar month is not there."""
    month = layout.months.astype(np.int64) % 12
    seen = np.isfinite(values.reshape(len(values), -1)).all(1)
    if len(np.unique(month[seen])) < 12:
        return None
    return np.stack([values[seen & (month == m)].mean(0, dtype=np.float64) for m in range(12)])


def _band(layout: Layout, low: float, high: float) -> Array | None:
    """(Y,) area weights of the rows between two latitudes, of sum one; None where there is no row."""
    lat = layout.grid.lat
    weights = np.where((lat >= low) & (lat <= high), np.cos(np.deg2rad(lat)), 0.0)
    return weights / weights.sum() if weights.sum() > 0 else None


def season_fit(observed: Array, lat: Array) -> tuple[int, float]:
    """How many months late (0..11) insolation is against Earth's, and the correlation of both then.

    Args:
        observed: (12, Y) by calendar month, W m-2.
        lat: (Y,) degrees north.
    """
    expected = monthly_insolation(lat)
    weights = np.cos(np.deg2rad(lat))
    a, b = observed - observed.mean(0), expected - expected.mean(0)
    scale = np.sqrt((weights * a * a).sum() * (weights * b * b).sum())
    fits = [float((weights * a * np.roll(b, k, 0)).sum() / scale) for k in range(12)]
    return int(np.argmax(fits)), max(fits)


def _check_insolation(name: str, layout: Layout, loaded: Loaded, findings: Findings) -> None:
    arrays = {id(a): (s, a) for s, a in reversed(list(enumerate(loaded.forcings[name])))}
    for s, array in reversed(arrays.values()):
        zonal = _of_all_rows(array.sum(-1, dtype=np.float64) / layout.grid.shape[1], layout, loaded)
        year = by_month(zonal, layout)
        if year is None or np.ptp(year, axis=0).max() < 20.0:
            continue
        late, fit = season_fit(year, layout.grid.lat)
        where = f"{name} of {layout.names[s]}"
        if fit < 0.8:
            findings.note(f"{where} does not have the seasons of the Earth (correlation {fit:.2f} at best)")
        elif late in (1, 11):
            findings.note(f"{where} has the seasons of a month {'earlier' if late == 1 else 'later'}: is time right?")
        elif late:
            findings.refuse(
                f"{where} has the seasons of other months, or of the other hemisphere",
                found=f"what the sun gives in {NAMES[-late % 12]} stands in January",
                expected="insolation that is largest in June in the north, in December in the south",
                hint="correct time, or the direction of latitude",
            )
        else:
            month = layout.months.astype(np.int64) % 12
            off = np.abs(zonal - year[month]).max(1)
            if (odd := np.flatnonzero(off > 20.0)).size:
                findings.note(
                    f"{where} differs from other years in {len(odd)} months, the first {layout.months[odd[0]]}, by up "
                    f"to {off.max():.0f} W m-2 in a row of cells: the sun does not"
                )


def warmest_month(contrast: Array) -> tuple[float, float]:
    """Month (0..12, January 0) at which a yearly wave through (12,) values is largest, and its amplitude."""
    wave = np.exp(-2j * np.pi * np.arange(12) / 12) @ contrast
    return float(-np.angle(wave) * 12 / (2 * np.pi) % 12), float(np.abs(wave) / 6)


def _check_seasons(name: str, runs: Sequence[MemberSeries], layout: Layout, findings: Findings) -> None:
    north, south = _band(layout, 30, 90), _band(layout, -90, -30)
    if north is None or south is None:
        return
    for run in runs:
        year = by_month(run.zonal @ (north - south), layout)
        if year is None:
            continue
        month, amplitude = warmest_month(year)
        off = abs((month - WARMEST + 6) % 12 - 6)
        found = f"the north is warmest against the south in {NAMES[round(month) % 12]}"
        if amplitude < 1.0 or off < 1.75:
            continue
        if off < 3:
            findings.note(f"{name} of {run.text(layout)}: {found}, not in July or August: is time right?")
            continue
        findings.refuse(
            f"{name} of {run.text(layout)} has the seasons of other months, or of the other hemisphere",
            found=f"{found}, by {amplitude:.1f} K",
            expected="July or August",
            hint="correct time, or the direction of latitude",
        )
        return


def _check_poles(name: str, runs: Sequence[MemberSeries], layout: Layout, findings: Findings) -> None:
    tropics, *poles = _band(layout, -30, 30), _band(layout, 60, 90), _band(layout, -90, -60)
    for run in runs:
        mean = np.nanmean(run.zonal, 0, dtype=np.float64)
        for pole, side in zip(poles, ("north", "south"), strict=True):
            if tropics is None or pole is None or mean @ pole < mean @ tropics + 5.0:
                continue
            findings.refuse(
                f"{name} of {run.text(layout)} is warmer at the {side} pole than in the tropics",
                found=f"{mean @ pole:.1f} K poleward of 60 degrees, {mean @ tropics:.1f} K within 30 degrees",
                expected="colder poles",
                hint="correct the order of latitude",
            )
            return


def _note_usual(name: str, kind: str, runs: Sequence[MemberSeries], layout: Layout, findings: Findings) -> None:
    globe = _band(layout, -90, 90)
    if kind not in USUAL or globe is None:
        return
    low, high, units = USUAL[kind]
    means = [float(np.nanmean(run.zonal @ globe)) for run in runs]
    odd = [i for i, mean in enumerate(means) if not low <= mean <= high]
    if odd:
        findings.note(
            f"the global mean of {name} is {means[odd[0]]:.4g} {units} in {runs[odd[0]].text(layout)}"
            f"{f' and {len(odd) - 1} more runs' if len(odd) > 1 else ''}: {low:g} .. {high:g} is usual on Earth"
        )


def _note_jumps(name: str, kind: str, runs: Sequence[MemberSeries], layout: Layout, findings: Findings) -> None:
    """Months in which the globe, or the north against the south, is unlike a year before."""
    globe, north, south = _band(layout, -90, 90), _band(layout, 0, 90), _band(layout, -90, 0)
    if kind not in JUMP or globe is None or north is None or south is None or len(layout.months) < 48:
        return
    least, units = JUMP[kind]
    jumps = []
    for run in runs:
        for band, what in ((globe, "its global mean"), (north - south, "the north against the south")):
            series = run.zonal @ band
            change = series[12:] - series[:-12]
            seen = np.isfinite(change)
            if seen.sum() < 36:
                continue
            off = np.abs(change - np.median(change[seen]))
            usual = 1.4826 * float(np.median(off[seen]))
            for t in np.flatnonzero(seen & (off > max(least, 10 * usual)))[:1]:
                jumps.append(f"{what} by {off[t]:.2g} {units} in {layout.months[t + 12]} of {run.text(layout)}")
    if jumps:
        more = f" ({len(jumps) - 1} more such)" if len(jumps) > 1 else ""
        findings.note(f"{name} jumps from one year to the next, {jumps[0]}{more}: months may stand in the wrong place")


def _note_repeats(
    name: str,
    v: int,
    runs: Sequence[MemberSeries],
    layout: Layout,
    loaded: Loaded,
    hidden: NDArray[np.bool_],
    findings: Findings,
) -> None:
    """Months that hold what another month holds."""
    # Two fields hardly share a row, so that few have to be compared: of several processes, a row of each.
    seen: dict[bytes, list[tuple[MemberSeries, int]]] = {}
    share, repeats = loaded.share, []
    for run in runs:
        visible = np.flatnonzero(~hidden[run.scenario])
        middle = loaded.targets[run.scenario].shape[-2] // 2
        rows = loaded.targets[run.scenario][run.member, visible, v, middle]
        for t, key in zip(visible.tolist(), share.keys([row.tobytes() for row in rows]), strict=True):
            field = loaded.targets[run.scenario][run.member, t, v]
            like = seen.setdefault(key, [])
            for other, at in like:
                if at != t and share.every(np.array_equal(field, loaded.targets[other.scenario][other.member, at, v])):
                    repeats.append((run, t, other, at))
                    break
            else:
                like.append((run, t))
    if repeats:
        run, t, other, at = repeats[0]
        findings.note(
            f"{name} repeats itself in {len(repeats)} months: {layout.months[t]} of {run.text(layout)} is "
            f"{layout.months[at]} of {other.text(layout)}"
        )


def _note_order(
    name: str, card: Card, runs: Sequence[MemberSeries], layout: Layout, loaded: Loaded, findings: Findings
) -> None:
    """Scenarios that end warmer than others with more of what warms."""
    globe = _band(layout, -90, 90)
    drivers = [f for f in layout.forcings if card.forcings[f].physics == "warming" and f not in loaded.broken]
    last: dict[int, list[float]] = {}
    if globe is None or not drivers or len(layout.months) < 480:
        return
    for run in runs:
        end = (run.zonal @ globe)[-240:]
        if np.isfinite(end).all():
            last.setdefault(run.scenario, []).append(float(end.mean()))
    warming = {s: float(np.mean(means)) for s, means in last.items()}
    for driver in drivers:
        if layout.forcings[driver] is not None:
            continue
        amount = {s: float(loaded.forcings[driver][s][-1]) for s in warming}
        for a in warming:
            for b in warming:
                if amount[a] > 1.1 * amount[b] and warming[a] < warming[b] - 0.3:
                    findings.note(
                        f"{name} of {layout.names[b]} ends {warming[b] - warming[a]:.1f} K warmer than that of "
                        f"{layout.names[a]}, which has more {driver}: are scenarios exchanged?"
                    )


def _note_longitudes(
    name: str,
    v: int,
    runs: Sequence[MemberSeries],
    layout: Layout,
    loaded: Loaded,
    hidden: NDArray[np.bool_],
    statics: dict[str, NDArray[np.float32]],
    findings: Findings,
) -> None:
    """Seasons that do not lie on the land: they are larger there."""
    land = next((statics[n] for n in ("land", "sftlf", "landfrac") if n in statics), None)
    run = runs[0]
    fields = loaded.targets[run.scenario][run.member, :, v]
    visible = np.where(hidden[run.scenario])[0]
    year = by_month(fields, layout) if not visible.size else None
    if land is None or year is None:
        return
    season = loaded.share.whole(np.ptp(year, axis=0))
    rows = np.abs(layout.grid.lat) < 70
    a = season[rows] - season[rows].mean(1, keepdims=True)
    b = land[rows] - land[rows].mean(1, keepdims=True)
    scale = np.sqrt((a * a).sum() * (b * b).sum())
    if season.max() < 1.0 or not scale > 0:
        return
    fits = np.array([(np.roll(a, k, -1) * b).sum() / scale for k in range(a.shape[1])])
    best = int(fits.argmax())
    degrees = (best * 360.0 / len(fits) + 180.0) % 360.0 - 180.0
    if fits[best] > 0.4 and fits[best] > fits[0] + 0.15 and abs(degrees) > 10:
        findings.note(
            f"the seasons of {name} lie on the store's land only when moved by {degrees:.0f} degrees of longitude "
            f"(correlation {fits[best]:.2f}, {fits[0]:.2f} as they stand): is longitude right?"
        )
